"""From State to Report: the figures of all rows, of every class and of every slice, as the records that renderers are fed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from streamloss.digits import (
    CLASS_INFINITE,
    CLASS_SUMS,
    CLASS_WEIGHT,
    FIXED_DIGITS,
    FIXED_UNIT,
    LEDGER_CLIPPED,
    LEDGER_NORMALIZED,
    fixed_units,
)
from streamloss.errors import IGNORED, RULES, USED
from streamloss.options import Options
from streamloss.reporting.clusters import clusters_of, no_clusters
from streamloss.reporting.conventions import conventions, edge
from streamloss.reporting.figures import Slice, Whole
from streamloss.reporting.histograms import histograms
from streamloss.reporting.metrics import Measures
from streamloss.reporting.names import OTHER
from streamloss.reporting.report import Metric, Report, SliceReport, plain
from streamloss.reporting.temperature import Temperatures
from streamloss.slices import CLUSTER, Settled, Value
from streamloss.state import State, rows_done


def summarize(
    state: State,
    options: Options | None = None,
    command: str = "evaluate",
    temperatures: Temperatures | None = None,
    **run: Any,
) -> Report:
    """The report of a state; `options` may differ from the state's in how it is shown (unit, quantiles, confidence).

    `temperatures` are what is known of its rows at others than those of the sweep.
    """
    shown = options or state.options
    if state.options.sweep and temperatures is None:
        temperatures = Temperatures(state, shown)
    by_columns = state.beside
    clusters = clusters_of(by_columns.get((CLUSTER,)))
    measures = Measures(Whole(state), shown, clusters=clusters.get(()))
    rows, metrics = rows_of(measures.ledger), metrics_of(measures)
    sliced = [by_columns[by] for by in state.options.groupings]
    slices = [slices_of(settled, shown, by_columns.get((*settled.by, CLUSTER)), temperatures) for settled in sliced]
    body = {
        "unit": shown.unit,
        "classes": state.task.classes or None,
        "weight": plain(measures.weight),
        "ledger": ledger_of(measures.ledger),
        "conventions": conventions(state, measures, metrics),
        "reliability": plain(measures.reliability()),
        "per_class": per_class(state, measures),
        "histograms": histograms(measures.figures, measures.scale),
        "slicing": [slicing_of(settled, found, shown) for settled, found in zip(sliced, slices, strict=True)],
        "inputs": [_input(entry) for entry in state.inputs],
        "options": {**shown.to_dict(), **state.columns},
    }
    if temperatures is not None:
        more, body["temperature"] = temperatures.found((), ())
        metrics |= more
    listed = [each for found in slices for each in found if each.rows["used"] >= shown.min_slice_rows]
    return Report(metrics, state.digest, rows, state, command, dict(run), body, listed)


def _input(entry: dict[str, Any]) -> dict[str, Any]:
    """What the report says of an input; "done" are the rows of it that a checkpoint has, where these are not all."""
    shape = {name: entry.get(name) for name in ("path", "bytes", "rows")}
    return shape | {"done": rows_done(entry).rows} if "done" in entry else shape


def ledger_of(ledger: list[int]) -> dict[str, int]:
    """Rows by rule and by what was done to them."""
    found = {key: ledger[code] for code, (key, _) in RULES.items()}
    return found | {"normalized": ledger[LEDGER_NORMALIZED], "clipped": ledger[LEDGER_CLIPPED]}


def rows_of(ledger: list[int]) -> dict[str, int]:
    """Rows read, used, ignored and invalid."""
    invalid = sum(ledger[code] for code in RULES)
    read = ledger[USED] + ledger[IGNORED] + invalid
    return {"read": read, "used": ledger[USED], "ignored": ledger[IGNORED], "invalid": invalid}


def metrics_of(measures: Measures) -> dict[str, Metric]:
    """Every quantity of the table."""
    metrics = {key: measures.metric(quantity) for key, quantity in measures.plan.table.items()}
    if metrics.get("cross_entropy") and metrics["cross_entropy"].infinite:
        metrics["cross_entropy"] = replace(metrics["cross_entropy"], edge=edge(measures))
    if measures.used == 0:
        reason = _why_none(rows_of(measures.ledger))
        metrics = {key: replace(metric, reason=reason) for key, metric in metrics.items()}
    return metrics


def slices_of(
    settled: Settled, shown: Options, clustered: Settled | None = None, temperatures: Temperatures | None = None
) -> list[SliceReport]:
    """Every slice, in the order of its values; what is beyond the cap comes first where there is such a thing."""
    found: list[SliceReport] = []
    clusters = clusters_of(clustered)
    measures: Measures | None = None
    for group, key in enumerate(settled.keys):
        own = None if clustered is None else clusters.get(key) or no_clusters(clustered)
        measures = Measures(Slice(settled, group), shown, measures, own)
        other = settled.has_other and group == 0
        by: dict[str, Value] = dict(zip(settled.by, (OTHER,) * len(settled.by) if other else key, strict=True))
        metrics, more = metrics_of(measures), dict[str, Any]()
        if temperatures is not None:
            best, more["temperature"] = temperatures.found(settled.by, key)
            metrics |= best
        found.append(SliceReport(by, rows_of(measures.ledger), measures.weight, metrics, other, more))
    return found


def slicing_of(settled: Settled, found: Sequence[SliceReport], shown: Options) -> dict[str, Any]:
    """How many slices one --by makes, and the macro means: every slice counts the same, however many rows it has."""
    others, own = ([each for each in found if each.other is beyond] for beyond in (True, False))
    listed = [each for each in own if each.rows["used"] >= shown.min_slice_rows]
    small = [each for each in own if each.rows["used"] < shown.min_slice_rows]
    macro: dict[str, Any] = {}
    for key, metric in (found[0].metrics if found else {}).items():
        means = [mean for each in listed if (mean := each.metrics[key].mean) is not None]
        if means:
            shape = {"mean": plain(math.fsum(means) / len(means)), "slices": len(means)}
            macro[key] = shape | {"title": metric.title, "unit": metric.unit}
    return {
        "by": list(settled.by),
        "slices": len(own),
        "shown": len(listed),
        "small": {"slices": len(small), "rows": sum(each.rows["used"] for each in small)},
        "other": {"rows": sum(each.rows["read"] for each in others)},
        "macro": macro,
    }


def per_class(state: State, measures: Measures) -> list[dict[str, Any]]:
    """Rows and means of every class, JSON's own values."""
    found: list[dict[str, Any]] = []
    if not measures.plan.per_class or measures.beyond:
        return found
    records = state.arrays["classes"]
    rows, infinite = records[:, 0].tolist(), records[:, CLASS_INFINITE].tolist()
    weights = fixed_units(records[:, CLASS_WEIGHT:CLASS_SUMS]) if state.task.weighted else [n << FIXED_UNIT for n in rows]
    for k, n in enumerate(rows):
        found.append({"class": state.options.classes[k] if state.options.classes else k, "rows": n})
    for i, key in enumerate(measures.plan.per_class):
        at = CLASS_SUMS + FIXED_DIGITS * i
        scale = measures.scale if measures.plan.moments[measures.plan.index(key)].unit == "nat" else 1.0
        sums = fixed_units(records[:, at : at + FIXED_DIGITS])
        for line, total, weight, lost in zip(found, sums, weights, infinite, strict=True):
            value = total / weight * scale if weight else None  # of whole numbers, rounded once
            line[key] = "inf" if lost and key == "cross_entropy" else value
    return found


def _why_none(rows: dict[str, int]) -> str:
    if rows["read"] == 0:
        return "there were no rows"
    if rows["invalid"] == rows["read"]:
        return "every row was invalid"
    if rows["ignored"] == rows["read"]:
        return "the total weight is 0: every row was ignored (mask, ignore index or weight 0)"
    return "every row was ignored or invalid"
