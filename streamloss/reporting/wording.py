"""What a report says in words, whoever shows it: facts, sentences and names, from the dictionary of SPEC §8.

Pure functions that compute no statistics. A list of facts is joined by whoever shows it, so that text of the user's
(`units.Given`) stays apart from ours and can be marked up, or kept from being markup, by itself. Tables are in `columns`.
"""

from __future__ import annotations

import json
import re
from typing import Any

from streamloss.errors import RULE_KEYS
from streamloss.reporting import units

Report = dict[str, Any]
Metrics = dict[str, dict[str, Any]]

MOST_INPUTS = 4  # so many files of an input are named, and so many values of an option
# What a slice's value must not hold if it is to stand without quotes, and the texts that would read as another value.
_QUOTED = re.compile(r"""[,="'\[\]]|^\s|\s$|^$|^(null|true|false|\(other\))$""")


def facts(report: Report) -> list[str]:
    """How much there was: rows, classes, and the weight where it is not the number of rows."""
    rows = report["rows"]
    found = [units.counted(rows["used"], "row")]
    if report.get("classes"):
        found.append(units.counted(report["classes"], "class", "classes"))
    if has_weight(report):
        found.append(f"weight {units.number(report['weight'])}")
    return found


def has_weight(part: dict[str, Any]) -> bool:
    """Whether the weight of a report or a slice says more than its rows do."""
    weight, used = part.get("weight"), part["rows"]["used"]
    return weight is not None and abs(float(weight) - used) > 1e-6 * used


def equation(report: Report) -> list[tuple[str, str]]:
    """Cross-entropy = target entropy + KL divergence: names with their values and the signs between, the unit last."""
    metrics = report["metrics"]
    total, floor, divergence = (known(metrics, key) for key in ("cross_entropy", "target_entropy", "kl_divergence"))
    if total is None:
        return []
    cells = [(total["title"], _headline_value(total))]
    if floor is not None and divergence is not None:
        cells += [("=", "="), (floor["title"], _headline_value(floor))]
        cells += [("+", "+"), (divergence["title"], _headline_value(divergence))]
    return [*cells, ("", total.get("unit", ""))]


def highlights(report: Report) -> list[tuple[str, str]]:
    """The numbers one looks for after the loss: names and values."""
    if known(report["metrics"], "cross_entropy") is None:
        return []
    words = {"perplexity": "perplexity", "accuracy": "accuracy", "ece": "calibration error (ECE)"}
    found = [(word, key, known(report["metrics"], key)) for key, word in words.items()]
    return [(word, _headline_value(metric, key)) for word, key, metric in found if metric is not None]


def _headline_value(metric: dict[str, Any], key: str = "") -> str:
    if metric["mean"] == 0:
        return "0"
    return units.measured(metric["mean"], metric.get("stderr"), percent=units.is_percent(key))


def infinities(metrics: Metrics, used: int) -> list[str]:
    """How many of the `used` rows cost infinity, and the means over the others."""
    infinite: dict[int, list[dict[str, Any]]] = {}
    for metric in metrics.values():
        if metric.get("infinite") and metric.get("finite_mean") is not None:
            infinite.setdefault(metric["infinite"], []).append(metric)
    lines = []
    for rows, found in infinite.items():
        means = [
            f"{metric['title']} {units.measured(metric['finite_mean'], metric.get('finite_stderr'))} {metric.get('unit', '')}"
            for metric in found
        ]
        lines.append(
            f"{units.count(rows)} of {units.counted(used, 'row')} {'has' if rows == 1 else 'have'} an infinite loss. "
            f"Over the other {units.count(used - rows)}: {', '.join(mean.rstrip() for mean in means)}."
        )
    if infinite:
        lines.append("A class that happened had probability 0; --zero clip:EPS gives it a finite cost.")
    return lines + edge(metrics.get("cross_entropy") or {})


def edge(metric: dict[str, Any]) -> list[str]:
    """What share of the weight the infinite rows have, and what the mean would be under somebody's eps."""
    if not (found := metric.get("edge")):
        return []
    share = units.number(found["weight_share"], percent=True, digits=3)
    theirs = f"{'This row has' if found['rows'] == 1 else 'These rows have'} {share} of the weight."
    if not found.get("at"):
        return [f"{theirs} What the mean would be at some EPS: {units.printable(found.get('reason') or 'not known')}."]
    unit = metric.get("unit", "")
    means = [f"{units.number(mean)} at {name}" for name, mean in found["at"].items()]
    return [f"{theirs} With EPS in the place of 0 the mean, in {unit}, would be {', '.join(means)}."]


def why(value: dict[str, Any]) -> str:
    """Which of a tool's losses a number is of, and what that does otherwise; or why there is no number."""
    told = [text for text in (value.get("loss"), value.get("cause") or value.get("reason")) if text]
    return str(units.printable(": ".join(told)))


def causes(report: Report) -> list[str]:
    """The same of every tool, once for all of its numbers that it holds for."""
    lines = []
    for tool, values in (report.get("conventions") or {}).items():
        named: dict[str, list[str]] = {}
        for key, value in values.items():
            title = (report["metrics"].get(key) or value).get("title") or key
            named.setdefault(why(value), []).append(title)
        for text, titles in named.items():
            about = units.printable(tool) if len(named) == 1 else f"{units.printable(tool)}, {', '.join(titles)}"
            lines += [f"{about}  —  {text}"] if text else []
    return lines


def failures(metrics: Metrics) -> list[str]:
    """The quantities that could not be computed, with their reasons."""
    failed = [(key, metric) for key, metric in metrics.items() if metric.get("mean") is None]
    return [f"{metric.get('title', key)}  —  {units.printable(metric.get('reason', 'not known'))}" for key, metric in failed]


def ledger(report: Report) -> list[str]:
    """What became of rows that were not simply used; nothing when all were."""
    rows, counts = report["rows"], report["ledger"]
    lines = []
    if rows["read"] != rows["used"]:
        parts = [f"{units.count(rows[name])} {name}" for name in ("used", "ignored", "invalid")]
        lines.append(f"{units.counted(rows['read'], 'row')} read: {', '.join(parts)}.")
    broken = [f"{key.replace('_', ' ')} {units.count(counts[key])}" for key in RULE_KEYS if counts.get(key)]
    if broken:
        lines.append(f"Left out: {', '.join(broken)}.")
    if counts.get("normalized"):
        lines.append(f"Renormalized to a sum of 1: {units.counted(counts['normalized'], 'row')}.")
    if counts.get("clipped"):
        lines.append(f"Clipped by --zero: {units.counted(counts['clipped'], 'row')}.")
    return lines


def provenance(report: Report) -> list[tuple[str, list[str]]]:
    """Where the report came from, names with their facts: inputs, options, the run, and the digest in full."""
    inputs, run = report.get("inputs") or [], report.get("run") or {}
    lines: list[tuple[str, list[str]]] = []
    for i, entry in enumerate(inputs[:MOST_INPUTS]):
        found: list[str] = [units.printable(entry["path"])]
        if entry.get("rows") is not None:
            found.append(units.counted(entry["rows"], "row"))
        if entry.get("bytes") is not None:
            found.append(units.size(entry["bytes"]))
        lines.append(("" if i else "input" if len(inputs) == 1 else "inputs", found))
    if len(inputs) > MOST_INPUTS:
        rest = inputs[MOST_INPUTS:]
        total = sum(entry.get("bytes") or 0 for entry in rest)
        lines.append(("", [f"and {units.counted(len(rest), 'more file', 'more files')}", units.size(total)]))
    if options := report.get("options"):
        given = [(name, one) for name, value in options.items() for one in (value if name == "by" else [value])]
        lines.append(("options", [units.printable(f"{name}={_option(value)}") for name, value in given]))
    if run.get("seconds") is not None:
        found = [units.duration(run["seconds"])]
        if run.get("rows_per_second"):
            found.append(units.rate(run["rows_per_second"]))
        if run.get("bytes_per_second"):
            found.append(units.throughput(run["bytes_per_second"]))
        found += [str(units.printable(run[key])) for key in ("device", "engine") if run.get(key)]
        if run.get("threads"):
            found.append(units.counted(run["threads"], "thread"))
        if run.get("compile_seconds", 0) > 0.05:
            found.append(f"{units.duration(run['compile_seconds'])} of compiling before")
        lines.append(("run", found))
    if digest := report.get("digest"):
        lines.append(("digest", [units.printable(digest)]))
    return lines


def _option(value: object) -> str:
    if isinstance(value, list):
        shown = ",".join(str(v) for v in value[:MOST_INPUTS])
        return shown + (",…" if len(value) > MOST_INPUTS else "")
    return str(value)


def slice_value(value: object) -> str:
    """A slice's value as text: JSON's words for null, true and false; quotes where it could be read as something else."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) and _QUOTED.search(text) else text


def slice_name(part: dict[str, Any]) -> str:
    """`group=a, b=1`: the name of a slice, as the user's data spell it."""
    other = part.get("other")
    return ", ".join(f"{name}={value if other else slice_value(value)}" for name, value in part["by"].items())


def slicing(found: dict[str, Any]) -> list[str]:
    """How many slices there were, and what of them is not shown."""
    small, beyond = found.get("small") or {}, found.get("other") or {}
    facts = [units.counted(found["slices"], "slice")]
    if found.get("shown", found["slices"]) != found["slices"]:
        facts.append(f"{units.count(found['shown'])} reported")
    if small.get("slices"):
        facts.append(f"{units.counted(small['slices'], 'small slice')} of {units.counted(small['rows'], 'row')}")
    if beyond.get("rows"):
        facts.append(f"{units.counted(beyond['rows'], 'row')} beyond the limit on slices, as (other)")
    return facts


def known(metrics: Metrics, key: str) -> dict[str, Any] | None:
    """A metric that is there and could be computed."""
    metric = metrics.get(key)
    return metric if metric is not None and metric.get("mean") is not None else None
