"""The tables of a report as columns of text, whoever draws them, from the dictionary of SPEC §8.

Pure functions that compute no statistics: what is shown, in which order, with which digits. Cells of the user's text are
`units.Given`. Behind a cell stand its numbers as the JSON has them, for those who keep them whole. Empty columns are left
out here; those of a high rank are for the drawer to leave out where room is scarce.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from streamloss.reporting import contents, units, wording
from streamloss.reporting.contents import Metric, Metrics, Report, Slicing
from streamloss.reporting.names import OTHER, slice_value

Show = Callable[[str, Metric], str]

MOST_BINS = 20
# What the table of slices shows of the metrics there are, after the one that it is sorted by.
_OF_A_SLICE = (
    *("cross_entropy", "kl_divergence", "best_temperature", "temperature_gain"),
    *("accuracy", "same_top", "entropy", "brier", "ece"),
)
_MOST_OF_A_SLICE = 6  # metrics, when none of these is there
# What there is between two models in every row: how a narrow column calls it, and which of them go first where room is scarce.
_BETWEEN = {
    "kl_divergence": ("KL, old ‖ new", 0),
    "reverse_kl_divergence": ("KL, new ‖ old", 2),
    "js_divergence": ("JS", 3),
    "delta_p": ("Δp of the label", 1),
}


@dataclass(frozen=True)
class Column:
    """A column of a table; those of the lowest `rank` stay longest when the width runs out.

    `kind` says what its cells hold: numbers, names that are best kept in one line, or words that may be broken. `numbers` are
    those behind each cell, by their names in the JSON.
    """

    head: str
    cells: Sequence[str]
    rank: int
    kind: Literal["number", "name", "words"] = "number"
    numbers: Sequence[dict[str, Any]] = ()

    @property
    def right(self) -> bool:
        """Whether it is aligned to the right."""
        return self.kind == "number"


@dataclass(frozen=True)
class Table:
    """Columns with a title, which the user's `names` end; `keys` are those of the quantities that the rows are about."""

    title: str
    columns: list[Column]
    keys: Sequence[str] = ()
    names: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.columns)

    @property
    def rows(self) -> Iterator[tuple[str, ...]]:
        """The cells of each row."""
        return zip(*(column.cells for column in self.columns), strict=True)


@dataclass(frozen=True)
class Slices:
    """The slices of one --by: facts, their table, which may be empty though its title is not, and the means over them.

    `said` are the means of what the table has, in words.
    """

    facts: list[str]
    table: Table
    macro: Table
    said: str


def table_of(title: str, columns: Iterable[Column], keys: Sequence[str] = (), names: Sequence[str] = ()) -> Table:
    """A table of the columns that are not empty."""
    return Table(title, [column for column in columns if any(column.cells)], keys, names)


def _column(head: str, rank: int, rows: Iterable[tuple[str, Metric]], show: Show, *fields: str) -> Column:
    """A column of what is shown of each quantity, by its key, with the numbers of the fields behind it."""
    found = [(show(key, entry), entry) for key, entry in rows]
    numbers = [{f: e[f] for f in fields if e.get(f) is not None} if text else {} for text, e in found]
    return Column(head, [text for text, _ in found], rank, numbers=numbers)


def _field(head: str, rank: int, rows: Iterable[tuple[str, Metric]], field: str) -> Column:
    """The same of one field to three digits."""
    return _column(head, rank, rows, lambda key, entry: wording.value(key, entry, field), field)


def counts(head: str, rank: int, rows: Iterable[dict[str, Any]], field: str = "rows") -> Column:
    """A column of whole numbers."""
    found = [("", entry) for entry in rows]
    return _column(head, rank, found, lambda _, e: "" if e.get(field) is None else units.count(e[field]), field)


def _names(head: str, texts: Iterable[object], rank: int = 0) -> Column:
    return Column(head, [units.printable(text) for text in texts], rank, "name")


def quantities(report: Report, metrics: Metrics) -> Iterator[Table]:
    """Means, errors, intervals, extremes and quantiles: of what has the report's unit, then of pure numbers."""
    title = "" if not contents.compared(report) else "the new model" if metrics is report["metrics"] else "the old model"
    for i, keys in enumerate(contents.sections(metrics)):
        head = f"in {report['unit']}" if metrics[keys[0]].get("unit") else ""
        yield _quantities(report, "" if i else title, head, [(key, metrics[key]) for key in keys])


def _quantities(report: Report, title: str, head: str, rows: Sequence[tuple[str, Metric]]) -> Table:
    # The extremes of what is 0 or 1 in every row say nothing; such quantities have no quantiles either.
    spread = [(key, metric if metric.get("quantiles") else {}) for key, metric in rows]
    quantiles = [(key, metric.get("quantiles") or {}) for key, metric in rows]
    others = [(key, metric if metric.get("infinite") else {}) for key, metric in rows]
    levels = contents.levels(metric for _, metric in rows)
    columns = (
        Column(head, [metric.get("title", key) for key, metric in rows], 0, "name"),
        _column("mean ± error", 1, rows, wording.measured, "mean", "stderr"),
        _column(wording.interval_head(report), 2, rows, wording.interval, "low", "high"),
        counts("infinite rows", 30, (metric for _, metric in others), "infinite"),
        _field("mean of the others", 31, others, "finite_mean"),
        _field("min", 5, spread, "min"),
        *(_field(units.quantile(q), _quantile_rank(i, levels), quantiles, q) for i, q in enumerate(levels)),
        _field("max", 4, spread, "max"),
    )
    return table_of(title, columns, [key for key, _ in rows])


def _quantile_rank(i: int, levels: Sequence[str]) -> int:
    """The median first, then from the tails inwards."""
    return 3 if float(levels[i]) == 0.5 else 6 + min(i, len(levels) - 1 - i)


def comparison(report: Report) -> Table:
    """The new model beside the old one: means, the paired difference and the ratio with their errors, the correlation."""
    pairs = contents.compared(report)
    rows = list(pairs.items())

    def side(name: str, metrics: Metrics) -> Column:
        errors = {key: (metrics.get(key) or {}).get("stderr") for key in pairs}
        return _column(name, 1, rows, lambda key, p: wording.value(key, p | {"error": errors[key]}, name, "error", 4), name)

    return table_of(
        "new and old",
        [
            Column("", [wording.titled(pair, key) for key, pair in rows], 0, "name"),
            side("new", report["metrics"]),
            side("old", contents.baseline(report)),
            _column("difference ± error", 0, rows, wording.difference, "difference", "stderr"),
            _column(wording.interval_head(report), 2, rows, wording.difference_interval, "low", "high"),
            _verdicts(rows),
            # A ratio of shares is no share.
            _column("ratio ± error", 4, rows, lambda _, p: wording.measured("", p, "ratio", "ratio_stderr"), "ratio"),
            _column("its interval", 6, rows, lambda _, p: wording.interval("", p, "ratio_"), "ratio_low", "ratio_high"),
            _column("correlation", 5, rows, lambda _, p: wording.value("", p, "correlation"), "correlation"),
        ],
        list(pairs),
    )


def between(report: Report) -> Table:
    """Quantiles, the highest on top, of the divergences of the two models and of what the label's probability gains."""
    metrics = report["metrics"] if contents.compared(report) else {}
    found = [(key, metric) for key in _BETWEEN if (metric := contents.known(metrics, key)) and metric.get("quantiles")]
    levels = contents.levels(metric for _, metric in found)[::-1]

    def column(key: str, metric: Metric) -> Column:
        head, rank = _BETWEEN[key]
        shown = (("max", metric), *((level, metric["quantiles"]) for level in levels), ("min", metric))
        cells = [wording.value(key, entry, field) for field, entry in shown]
        return Column(wording.titled({"title": head, "unit": metric.get("unit")}, key), cells, rank)

    names = ["max", *map(units.quantile, levels), "min"] if found else []
    return table_of("between the models, row by row", [Column("", names, 0, "name"), *(column(*each) for each in found)])


def _verdicts(rows: Iterable[tuple[str, Metric]]) -> Column:
    return Column("new is", [wording.verdict(key, pair) for key, pair in rows], 3, "words")


def slices(report: Report, most: int) -> Iterator[Slices]:
    """The slices of every --by, the costliest first, at most so many; what is beyond the limit on slices stands last."""
    for slicing in contents.slicings(report):
        total, shown = sum(not part.get("other") for part in slicing.slices), slicing.slices[:most]
        ranked = ("costliest", "slices, costliest first, by") if slicing.key else ("first", "slices by")
        title = f"the {units.count(most)} {ranked[0]} of {units.count(total)} slices by" if total > most else ranked[1]
        names = [units.printable(name) for name in slicing.by]
        table = table_of(title, _slices(report, slicing, shown), names=names)
        means = slicing.facts.get("macro") or {}
        said = wording.macro(means, [column.head for column in table.columns])
        yield Slices(wording.slicing(slicing.facts, total), table, _macro(means), said)


def _slices(report: Report, slicing: Slicing, parts: Sequence[dict[str, Any]]) -> Iterator[Column]:
    """Names, counts, the loss with its interval and infinite rows, what it was with the old model, then other means."""
    named: Metrics = {}
    for part in parts:
        for key, metric in part["metrics"].items():
            named.setdefault(key, metric)
    floor = any((part["metrics"].get("target_entropy") or {}).get("mean") for part in parts)
    wanted = [key for key in _OF_A_SLICE if key in named and (floor or key != "kl_divergence")]
    others = [key for key in wanted if key != slicing.key] or ([] if slicing.key else list(named)[:_MOST_OF_A_SLICE])
    weighted = any(map(contents.has_weight, parts))

    def of(metrics: Callable[[dict[str, Any]], Metrics], key: str) -> list[tuple[str, Metric]]:
        return [(key, metrics(part).get(key) or {}) for part in parts]

    def means(head: str, rank: int, rows: Iterable[tuple[str, Metric]]) -> Column:
        return _column(head, rank, rows, lambda key, m: wording.measured(key, m, digits=3), "mean", "stderr")

    for name in slicing.by:
        yield _names(units.printable(name), (OTHER if part.get("other") else slice_value(part["by"][name]) for part in parts))
    yield counts("rows", 0, (part["rows"] for part in parts), "used")
    for name in ("ignored", "invalid"):
        if any(part["rows"].get(name) for part in parts):
            yield counts(name, 9, (part["rows"] for part in parts), name)
    if weighted:
        yield _column(
            "weight", 2, [("", part) for part in parts], lambda _, p: wording.value("", p, "weight", digits=4), "weight"
        )
    if (key := slicing.key) is not None:
        loss, pairs = of(_metrics_of, key), of(contents.compared, key)
        yield means(wording.titled(named[key], key), 0, loss)
        yield _column(wording.interval_head(report), 10, loss, wording.interval, "low", "high")
        if any(metric.get("infinite") for _, metric in loss):
            yield counts("infinite rows", 2, (metric for _, metric in loss), "infinite")
        old = of(contents.baseline, key)
        yield _column("old", 1, old, lambda key, m: wording.value(key, m, error="stderr"), "mean")
        yield _column("difference ± error", 0, pairs, wording.difference, "difference", "stderr")
        yield _column("its interval", 4, pairs, wording.difference_interval, "low", "high")
        yield _verdicts(pairs)
    for i, key in enumerate(others):
        yield means(wording.titled(named[key], key), 5 + i, of(_metrics_of, key))


def _metrics_of(part: dict[str, Any]) -> Metrics:
    metrics: Metrics = part["metrics"]
    return metrics


def _macro(means: Metrics) -> Table:
    rows = [(key, metric) for key, metric in means.items() if contents.known(means, key)]
    columns = (
        Column("", [wording.titled(metric, key) for key, metric in rows], 0, "name"),
        _column("mean over slices", 0, rows, lambda key, m: wording.value(key, m, digits=4), "mean"),
        counts("slices", 1, (metric for _, metric in rows), "slices"),
    )
    return table_of("means over the slices, each counting alike", columns, [key for key, _ in rows])


def conventions(report: Report) -> Table:
    """What other tools would say of the same rows, beside the exact value."""
    metrics, found = report["metrics"], contents.conventions(report)
    rows = [(key, entry) for _, key, entry in found]
    exact = [(key, metrics.get(key.removesuffix("_metric")) or {}) for key, _ in rows]
    columns = (
        _names("convention", (tool for tool, _, _ in found)),
        Column("quantity", [wording.titled(metrics.get(key) or entry, key) for key, entry in rows], 0, "name"),
        _column("value", 0, rows, lambda key, e: wording.value(key, e, "value", digits=6), "value"),
        _column("exact", 1, exact, lambda key, m: wording.value(key, m, digits=6), "mean"),
        _column("difference", 0, rows, wording.difference, "difference"),
        Column("why", [wording.why(e) for _, e in rows], 0, "words"),
    )
    return table_of("what other tools would say", columns, [key for key, _ in rows])


def temperatures(report: Report) -> Table:
    """Loss and calibration error by temperature."""
    curve = (report.get("temperature") or {}).get("curve") or []
    rows, unit = [("", point) for point in curve], report["unit"]
    columns = (
        _column("T", 0, rows, lambda _, p: units.given(p["temperature"]), "temperature"),
        _column(f"cross-entropy, {unit}", 0, rows, lambda _, p: wording.measured("", p, "cross_entropy"), "cross_entropy"),
        _field("of the finite rows", 0, rows, "finite_mean"),
        _column("ECE", 1, rows, lambda _, p: wording.value("ece", p, "ece"), "ece"),
        _field(f"cross-entropy − entropy, {unit}", 2, rows, "entropy_gap"),
    )
    return table_of("the logits divided by T", columns)


def reliability(report: Report, most: int | None = None) -> tuple[Table, list[dict[str, Any]]]:
    """What was predicted and how often it was so: the bins, the fullest `most` of them, and what they are."""
    bins = contents.bins(report)
    shown = contents.fullest(bins, most or len(bins))
    title = "reliability: what was predicted, and how often it was so"
    if len(shown) < len(bins):
        title += f" (the {len(shown)} fullest of {len(bins)} bins)"
    places = 2 if all(b["high"] - b["low"] > 0.015 for b in shown) else 4
    ends = [f"{b['low']:.{places}f}-{b['high']:.{places}f}" for b in shown]
    rows = [("", b) for b in shown]
    columns = (
        Column("predicted", ends, 0, "name", [{"low": b["low"], "high": b["high"]} for b in shown]),
        counts("rows", 0, shown),
        _column("mean", 0, rows, lambda _, b: units.share(b["confidence"]), "confidence"),
        _column("observed", 0, rows, lambda _, b: units.share(b["accuracy"]), "accuracy"),
        Column("gap, pp", [units.gap(b["accuracy"] - b["confidence"]) for b in shown], 0),
    )
    return table_of(title, columns), shown


def classes(report: Report, every: int | None = None, costliest: int = 0) -> Table:
    """The classes with a loss, costliest first: all, or up to `every` of them and of more the `costliest`."""
    ranked = contents.classes(report)
    shown = ranked if every is None or len(ranked) <= every else ranked[:costliest]
    few = len(shown) < len(ranked)
    unit = report["unit"]

    def means(head: str, rank: int, field: str) -> Column:
        return _field(head, rank, [(field, entry) for entry in shown], field)

    columns = (
        _names("class", (entry["class"] for entry in shown)),
        counts("rows", 0, shown),
        means(f"cross-entropy, {unit}", 0, "cross_entropy"),
        means("accuracy", 1, "accuracy"),
        means(f"entropy, {unit}", 2, "entropy"),
        means("Brier score", 3, "brier"),
    )
    title = f"the {len(shown)} costliest of {units.count(len(ranked))} classes" if few else "classes, costliest first"
    return table_of(title, columns)
