"""What scripts/gpu_check found on a device, as the README has it."""

from __future__ import annotations

from typing import Any

_NAMES = {
    "logit": "binary logits", "prob": "binary probabilities", "logits": "logits", "probs": "probabilities",
    "pair": "teacher and student logits",
}  # fmt: skip


def gpu_table(result: dict[str, Any]) -> str:
    """A line and a Markdown table of the contents of data/benchmarks/gpu-NAME.json."""
    equal = sum(case["equal"] for case in result["parity"])
    copied = result["copy_bytes_per_second"]
    compared = len(result["parity"])
    lines = [
        f"{result['device']}: digests equal the CPU's in {equal} of {compared} cases; a copy of its own memory reads and "
        f"writes {copied / 1e9:,.0f} GB/s.",
        "",
        "| rows on the device | GB/s | of a copy | torch's one loss, GB/s |",
        "|---|---:|---:|---:|",
    ]
    for case in result["speed"]:
        classes = f", K = {case['classes']:,}" if case["classes"] else ""
        theirs = "–" if case["torch_seconds"] is None else f"{case['bytes'] / case['torch_seconds'] / 1e9:,.0f}"
        speed = f"{case['bytes_per_second'] / 1e9:,.0f} | {case['bytes_per_second'] / copied:.0%}"
        lines.append(f"| {_NAMES[case['kind']]}{classes}, {case['dtype']} | {speed} | {theirs} |")
    return "\n".join(lines) + "\n"
