#!/usr/bin/env python3
"""Writes data/golden: the reports of the sample data that tests/test_golden.py and tests/test_formats.py hold the product to.

    python scripts/make_golden.py        after a change that is meant to change a report; read the diff before committing it

What differs between two runs over the same rows (`run`) and between releases (`version`) is left out. The other formats are
made from the JSON file beside them, whose last digits may be another machine's.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import streamloss
from streamloss.cli.shared import FORMATS

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "data" / "golden"

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": ("digits.parquet", {}),
    "digits_names": ("digits.parquet", {"label": "label_name", "classes": str(ROOT / "data" / "digits_classes.txt")}),
    "digits_mlp_bits": ("digits.parquet", {"probs": "mlp_probs", "unit": "bit", "top_k": (1, 3), "bins": 10}),
    "digits_smoothed_focal": ("digits.parquet", {"label_smoothing": 0.1, "focal_gamma": 2.0, "temperature": 1.5}),
    "cancer": ("cancer.parquet", {}),
    "cancer_logit_unweighted": ("cancer.parquet", {"logit": "score_logit", "weight": ""}),
    "distill": ("distill.parquet", {}),
    "digits_by_group": ("digits.parquet", {"by": "group", "metrics": "cross_entropy,accuracy,ece"}),
    "digits_by_label_and_group": (
        "digits.parquet",
        {"by": "label_name,group", "metrics": "cross_entropy", "quantiles": (0.5,), "max_slices": 8, "min_slice_rows": 3},
    ),
}

RENDERED = ("markdown", "csv")


def report(name: str) -> dict[str, Any]:
    """A case's report without what may differ."""
    file, options = CASES[name]
    found = streamloss.evaluate(ROOT / "data" / file, **options).to_dict()
    for key in ("run", "version"):
        del found[key]
    for entry in found["inputs"]:
        entry["path"] = Path(entry["path"]).name
    return found


def render(found: dict[str, Any], form: str) -> bytes:
    """A report in a format of the command line's."""
    data: bytes = import_module(f"streamloss.reporting.{FORMATS[form].module}").encode(found)
    return data


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in CASES:
        found = report(name)
        text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        files = {"json": text.encode()}
        files |= {form: render(found, form) for form in RENDERED}
        for form, data in files.items():
            file = GOLDEN / f"{name}{FORMATS[form].endings[0]}"
            file.write_bytes(data)
            print(f"data/golden/{file.name}: {len(data)} bytes")
