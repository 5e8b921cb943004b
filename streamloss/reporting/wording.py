"""What a report says in words, whoever shows it: facts, sentences and names, from the dictionary of SPEC §8.

Pure functions that compute no statistics. A list of facts is joined by whoever shows it, so that text of the user's
(`units.Given`) stays apart from ours and can be marked up, or kept from being markup, by itself. Tables are in `columns`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from streamloss.errors import RULE_KEYS
from streamloss.reporting import units
from streamloss.reporting.contents import Metric, Metrics, Report, adds_up, confidence, has_weight, known, number

MOST_INPUTS = 4  # so many files of an input are named, and so many values of an option
_HIGHER_IS_BETTER = ("d2", "same_top")  # and the accuracies
_LOWER_IS_BETTER = (
    *("cross_entropy", "kl_divergence", "reverse_kl_divergence", "js_divergence", "perplexity", "bits_per_byte", "brier"),
    *("focal", "normalized_cross_entropy", "ece", "mce", "rmsce", "adaptive_ece"),
)


def facts(report: Report) -> list[str]:
    """How much there was: rows, classes, the weight where it is not the number of rows, and whether that is not all yet."""
    rows = report["rows"]
    found = [units.counted(rows["used"], "row")]
    if report.get("classes"):
        found.append(units.counted(report["classes"], "class", "classes"))
    if has_weight(report):
        found.append(f"weight {units.number(report['weight'])}")
    return [*found, "unfinished"] if unfinished(report) else found


def equation(report: Report) -> list[tuple[str, str]]:
    """Cross-entropy = target entropy + KL divergence: names with their values and the signs between, the unit last."""
    metrics = report["metrics"]
    total = known(metrics, "cross_entropy")
    if total is None:
        return []
    cells = [(total["title"], _headline_value(total))]
    if adds_up(metrics):
        for sign, key in (("=", "target_entropy"), ("+", "kl_divergence")):
            cells += [(sign, sign), (metrics[key]["title"], _headline_value(metrics[key]))]
    return [*cells, ("", total.get("unit", ""))]


def highlights(report: Report) -> list[tuple[str, str]]:
    """The numbers one looks for after the loss: names and values."""
    if known(report["metrics"], "cross_entropy") is None:
        return []
    words = {"perplexity": "perplexity", "accuracy": "accuracy", "ece": "calibration error (ECE)"}
    found = [(word, key, known(report["metrics"], key)) for key, word in words.items()]
    return [(word, _headline_value(metric, key)) for word, key, metric in found if metric is not None]


def _headline_value(metric: Metric, key: str = "") -> str:
    return "0" if metric["mean"] == 0 else measured(key, metric)


def infinities(metrics: Metrics, used: int) -> list[str]:
    """How many of the `used` rows cost infinity, and the means over the others."""
    infinite: dict[int, list[Metric]] = {}
    for metric in metrics.values():
        if metric.get("infinite"):
            infinite.setdefault(metric["infinite"], []).append(metric)
    lines = []
    for rows, found in infinite.items():
        line = f"{units.count(rows)} of {units.counted(used, 'row')} {'has' if rows == 1 else 'have'} an infinite loss."
        means = [
            f"{metric['title']} {measured('', metric, 'finite_mean', 'finite_stderr')} {metric.get('unit', '')}".rstrip()
            for metric in found
            if metric.get("finite_mean") is not None
        ]
        lines.append(f"{line} Over the other {units.count(used - rows)}: {', '.join(means)}." if means else line)
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


def temperature(report: Report) -> list[str]:
    """At which temperature the loss is least, and what that would save."""
    if not (found := report.get("temperature")):
        return []
    best = found["best"]
    if best["temperature"] is None:
        return [f"No temperature is the best one: {units.printable(best['reason'])}."]
    own, ece = (report.get("options") or {}).get("temperature", 1), report["metrics"].get("ece") or {}
    unit = report["unit"]
    at_t = f"At T = {units.measured(best['temperature'], best['stderr'])} the loss is least"
    saved = f"{units.number(best['removed'], digits=3)} {unit} ({units.share(best['share'])}) less"
    said = f"{at_t}: {units.number(best['cross_entropy'])} {unit}, {saved} than at T = {units.given(own)}."
    if best.get("ece") is not None and ece.get("mean") is not None:
        before, after = (units.number(value, percent=True, digits=3) for value in (ece["mean"], best["ece"]))
        said += f" The calibration error (ECE) goes from {before} to {after}."
    return [said if best["exact"] else f"{said} Read off the curve; streamloss calibrate makes it exact."]


def why(value: dict[str, Any]) -> str:
    """Which of a tool's losses a number is of, and what that does otherwise; or why there is no number."""
    told = [text for text in (value.get("loss"), value.get("cause") or value.get("reason")) if text]
    return str(units.printable(": ".join(told)))


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
    inputs = report.get("inputs") or []
    lines: list[tuple[str, list[str]]] = []
    for i, entry in enumerate(inputs[:MOST_INPUTS]):
        found: list[str] = [units.printable(entry["path"])]
        if entry.get("rows") is not None:
            part = f"{units.count(entry['done'])} of " if "done" in entry else ""
            found.append(part + units.counted(entry["rows"], "row"))
        if entry.get("bytes") is not None:
            found.append(units.size(entry["bytes"]))
        lines.append(("" if i else "input" if len(inputs) == 1 else "inputs", found))
    if len(inputs) > MOST_INPUTS:
        rest = inputs[MOST_INPUTS:]
        total = sum(entry.get("bytes") or 0 for entry in rest)
        lines.append(("", [f"and {units.counted(len(rest), 'more file', 'more files')}", units.size(total)]))
    if words := unfinished(report):
        lines.append(("unfinished", [words]))
    if given := options(report):
        lines.append(("options", [units.printable(f"{name}={value}") for name, value in given]))
    if found := run_facts(report):
        lines.append(("run", found))
    if digest := report.get("digest"):
        lines.append(("digest", [units.printable(digest)]))
    return lines


def unfinished(report: Report) -> str:
    """How much of the inputs a report of a checkpoint is of; nothing of any other."""
    inputs = report.get("inputs") or []
    if not any("done" in entry for entry in inputs):
        return ""
    done, rows = (sum(entry.get(name, entry["rows"]) for entry in inputs) for name in ("done", "rows"))
    return f"a checkpoint: {units.count(done)} of {units.counted(rows, 'row')} are in this report"


def options(report: Report, most: int = MOST_INPUTS) -> list[tuple[str, str]]:
    """The options with at most so many of their values; every --by by itself."""
    found = (report.get("options") or {}).items()
    return [(name, _option(one, most)) for name, value in found for one in (value if name == "by" else [value])]


def _option(value: object, most: int) -> str:
    if isinstance(value, list):
        shown = ",".join(str(v) for v in value[:most])
        return shown + (f",… ({units.count(len(value))} in all)" if len(value) > most else "")
    return str(value)


def run_facts(report: Report) -> list[str]:
    """How long it took, how fast that was, and where."""
    run = report.get("run") or {}
    found = []
    if run.get("seconds") is not None:
        found.append(units.duration(run["seconds"]))
    if run.get("rows_per_second"):
        found.append(units.rate(run["rows_per_second"]))
    if run.get("bytes_per_second"):
        found.append(units.throughput(run["bytes_per_second"]))
    if run.get("known_rows"):
        found.append(f"{units.counted(run['known_rows'], 'row')} known before")
    found += [str(units.printable(run[key])) for key in ("device", "engine") if run.get(key)]
    if run.get("threads"):
        found.append(units.counted(run["threads"], "thread"))
    if run.get("compile_seconds", 0) > 0.05:
        found.append(f"{units.duration(run['compile_seconds'])} of compiling before")
    return found


def slicing(found: dict[str, Any], listed: int) -> list[str]:
    """How many slices there were, and what of them is not shown; `listed` are in the report."""
    small, beyond = found.get("small") or {}, found.get("other") or {}
    total = found.get("slices", listed)
    said = [units.counted(total, "slice")]
    if (shown := found.get("shown", total)) != total:
        said.append(f"{units.count(shown)} reported")
    if small.get("slices"):
        said.append(f"{units.counted(small['slices'], 'small slice')} of {units.counted(small['rows'], 'row')}")
    if beyond.get("rows"):
        said.append(f"{units.counted(beyond['rows'], 'row')} beyond the limit on slices, as (other)")
    return said


def macro(means: Metrics, heads: Sequence[str]) -> str:
    """The means over slices, of the quantities that have a column under one of the heads."""
    found = [
        f"{metric.get('title') or key} {value(key, metric, digits=4)} {metric.get('unit') or ''}".rstrip()
        for key, metric in means.items()
        if known(means, key) and titled(metric, key) in heads
    ]
    return f"Mean over the slices, each counting alike: {', '.join(found)}." if found else ""


def verdict(key: str, pair: Metric) -> str:
    """Whether the new model is 'better' or 'worse', 'undecided' where the interval holds 0, '' where neither is meant."""
    low, high = number(pair.get("low")), number(pair.get("high"))
    higher = key in _HIGHER_IS_BETTER or units.is_accuracy(key)
    if low is None or high is None or not (higher or key in _LOWER_IS_BETTER):
        return ""
    if low <= 0 <= high:
        return "undecided"
    return "better" if (low > 0) == higher else "worse"


def titled(metric: Metric, key: str) -> str:
    """A quantity's title and its unit."""
    title, unit = metric.get("title") or key, metric.get("unit")
    return f"{title}, {unit}" if unit else title


def value(key: str, entry: Metric, field: str = "mean", error: str = "", digits: int = 3) -> str:
    """A number of a quantity, with the decimals that its error allows; nothing where it is not known."""
    found = entry.get(field)
    return "" if found is None else units.number(found, entry.get(error), percent=units.is_percent(key), digits=digits)


def measured(key: str, entry: Metric, field: str = "mean", error: str = "stderr", digits: int = 4) -> str:
    """A number of a quantity with its error."""
    found = entry.get(field)
    return "" if found is None else units.measured(found, entry.get(error), percent=units.is_percent(key), digits=digits)


def difference(key: str, pair: Metric) -> str:
    """New minus old with its sign and its error."""
    found = pair.get("difference")
    return "" if found is None else units.difference(found, pair.get("stderr"), percent=units.is_percent(key))


def interval(key: str, entry: Metric, prefix: str = "") -> str:
    """The interval of a quantity; none of an infinite mean, nor of an error of 0, which leaves one of no width."""
    low, high, error = (entry.get(prefix + name) for name in ("low", "high", "stderr"))
    if low is None or high is None or not error or math.isinf(number(entry.get("mean")) or 0.0):
        return ""
    return units.interval(low, high, error, percent=units.is_percent(key))


def difference_interval(key: str, pair: Metric) -> str:
    """The interval of new minus old; of shares in percentage points."""
    return interval(key, pair).replace(" %", " pp")


def interval_head(report: Report) -> str:
    """`95 % interval`."""
    return f"{units.level(confidence(report))} interval"
