"""The report as a person reads it in a terminal: the loss and what it is made of first, where it came from last.

Takes the dictionary of the JSON report and a rich console, and adapts to the console's width: columns that do not fit
are left out, least needed first. Bold and dim carry no meaning, and text of the user's is never markup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from streamloss.errors import RULE_KEYS
from streamloss.reporting import units, views
from streamloss.reporting.tables import INDENT, MOST_INPUTS, Column, pairs, print_table, ruled, shortened, titled, wrapped
from streamloss.terms import Working

Report = dict[str, Any]

_EVERY_CLASS = 10  # up to so many classes are all shown; of more, only the costliest
_COSTLIEST = 5
_MOST_BINS = 20
_DIGEST_DIGITS = 16
_GIVEN = ("q", "p", "m", "z")  # the columns of a calculation that were typed, not calculated
_EIGHTHS = " ▏▎▍▌▋▊▉"


def render(report: Report, console: Console) -> None:
    """Print a report (the dictionary of SPEC §8)."""
    _heading(report, console)
    _headline(report, console)
    _infinities(report, console)
    for title, keys in _sections(report):
        _quantities(report, title, keys, console)
    _failures(report, console)
    _reliability(report, console)
    _per_class(report, console)
    _ledger(report, console)
    _provenance(report, console)


def _heading(report: Report, console: Console) -> None:
    console.print()
    console.print(
        Text.assemble(" " * INDENT, ("streamloss", "bold"), f" {report['command']}   ", " · ".join(views.facts(report)))
    )
    console.print()


def _headline(report: Report, console: Console) -> None:
    """Cross-entropy = target entropy + KL divergence as an equation, then the numbers one looks for next."""
    metrics = report["metrics"]
    sides = [views.known(metrics, key) for key in ("cross_entropy", "target_entropy", "kl_divergence")]
    total, floor, divergence = sides
    if total is None:
        return
    cells = [(total["title"], _headline_value(total))]
    if floor is not None and divergence is not None:
        cells += [("=", "="), (floor["title"], _headline_value(floor))]
        cells += [("+", "+"), (divergence["title"], _headline_value(divergence))]
    _stacked([*cells, ("", total.get("unit", ""))], console)
    words = {"perplexity": "perplexity", "accuracy": "accuracy", "ece": "calibration error (ECE)"}
    found = [(word, key, views.known(metrics, key)) for key, word in words.items()]
    _stacked([(word, _headline_value(metric, key)) for word, key, metric in found if metric is not None], console)


def _stacked(cells: Sequence[tuple[str, str]], console: Console) -> None:
    """Values in a row, each above its name."""
    if not cells:
        return
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in cells:
        grid.add_column(no_wrap=True)
    grid.add_row(*(Text(value, style="bold") for _, value in cells))
    grid.add_row(*(Text(name) for name, _ in cells))
    console.print(Padding(grid, (0, 0, 1, INDENT)))


def _headline_value(metric: dict[str, Any], key: str = "") -> str:
    if metric["mean"] == 0:
        return "0"
    return units.measured(metric["mean"], metric.get("stderr"), percent=units.is_percent(key))


def _sections(report: Report) -> list[tuple[str, list[str]]]:
    """The quantities in two tables: those that have the report's unit, and pure numbers."""
    informative, pure = views.parts(report["metrics"])
    return [(f"in {report['unit']}", informative), ("", pure)]


def _quantities(report: Report, title: str, keys: Sequence[str], console: Console) -> None:
    if not keys:
        return
    rows = [(key, report["metrics"][key]) for key in keys]
    percent = [units.is_percent(key) for key in keys]

    def column(cell: Callable[[dict[str, Any], bool], str]) -> list[str]:
        return [cell(metric, p) for (_, metric), p in zip(rows, percent, strict=True)]

    def plain(field: str) -> Callable[[dict[str, Any], bool], str]:
        # The extremes of what is 0 or 1 in every row say nothing; such quantities have no quantiles either.
        return lambda m, p: units.number(m[field], percent=p, digits=3) if m.get("quantiles") else ""

    def quantile(q: str) -> Callable[[dict[str, Any], bool], str]:
        return lambda m, p: units.number(m["quantiles"][q], percent=p, digits=3) if _has_quantile(m, q) else ""

    levels = sorted({q for _, m in rows for q in m.get("quantiles") or {}}, key=float)
    columns = [
        Column(title, [m.get("title", key) for key, m in rows], 0, right=False),
        Column("mean ± error", column(lambda m, p: units.measured(m["mean"], m.get("stderr"), percent=p)), 1),
        Column(f"{100 * views.confidence(report):g} % interval", column(views.interval), 2),
        Column("min", column(plain("min")), 5),
        *(Column(views.level(q), column(quantile(q)), _quantile_rank(q, levels)) for q in levels),
        Column("max", column(plain("max")), 4),
    ]
    print_table(columns, console)


def _quantile_rank(level: str, levels: Sequence[str]) -> int:
    """The median first, then from the tails inwards."""
    i = levels.index(level)
    return 3 if level == "0.5" else 6 + min(i, len(levels) - 1 - i)


def _has_quantile(metric: dict[str, Any], level: str) -> bool:
    return (metric.get("quantiles") or {}).get(level) is not None


def _infinities(report: Report, console: Console) -> None:
    """How many rows cost infinity, and the means over the others, in words."""
    infinite: dict[int, list[dict[str, Any]]] = {}
    for metric in report["metrics"].values():
        if metric.get("infinite") and metric.get("finite_mean") is not None:
            infinite.setdefault(metric["infinite"], []).append(metric)
    used = report["rows"]["used"]
    for rows, metrics in infinite.items():
        means = [
            f"{metric['title']} {units.measured(metric['finite_mean'], metric.get('finite_stderr'))} {metric.get('unit', '')}"
            for metric in metrics
        ]
        wrapped(
            f"{units.count(rows)} of {units.counted(used, 'row')} {'has' if rows == 1 else 'have'} an infinite loss. "
            f"Over the other {units.count(used - rows)}: {', '.join(mean.rstrip() for mean in means)}.",
            console,
        )
    if infinite:
        wrapped("A class that happened had probability 0; --zero clip:EPS gives it a finite cost.", console)
        console.print()


def _failures(report: Report, console: Console) -> None:
    """The quantities that could not be computed, with their reasons."""
    failed = [(key, metric) for key, metric in report["metrics"].items() if metric.get("mean") is None]
    for key, metric in failed:
        wrapped(f"{metric.get('title', key)}  —  {units.printable(metric.get('reason', 'not known'))}", console)
    if failed:
        console.print()


def _reliability(report: Report, console: Console) -> None:
    bins = [b for b in report.get("reliability") or [] if b["rows"] and b["confidence"] is not None]
    if not bins:
        return
    many = len(bins) > _MOST_BINS
    if many:
        least = sorted(bins, key=lambda b: -b["rows"])[_MOST_BINS - 1]["rows"]
        shown = [b for b in bins if b["rows"] >= least][:_MOST_BINS]
    else:
        shown = bins
    places = 2 if all(b["high"] - b["low"] > 0.015 for b in shown) else 4
    heads = ("predicted", "rows", "mean", "observed", "gap")
    cells = [
        (
            f"{b['low']:.{places}f}-{b['high']:.{places}f}",
            units.count(b["rows"]),
            units.share(b["confidence"]),
            units.share(b["accuracy"]),
            units.gap(b["accuracy"] - b["confidence"]),
        )
        for b in shown
    ]
    taken = sum(max(len(head), *(len(row[i]) for row in cells)) + 2 for i, head in enumerate(heads))
    bar = max(10, min(40, console.width - taken - INDENT - 2))
    table = ruled()
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i == 0 else "right", no_wrap=True)
    table.add_column("observed █   predicted │" if bar >= 24 else "█ obs │ pred"[:bar], no_wrap=True)
    for b, row in zip(shown, cells, strict=True):
        table.add_row(*row, _bar(b["accuracy"], b["confidence"], bar))
    title = "reliability: what was predicted, and how often it was so"
    if many:
        title += f" (the {len(shown)} fullest of {len(bins)} bins)"
    titled(title, table, console)


def _bar(filled: float, mark: float, width: int) -> Text:
    """A bar of eighths of a cell for a share between 0 and 1, with a mark across it at another share."""
    eighths = round(min(max(filled, 0.0), 1.0) * width * 8)
    full, part = divmod(eighths, 8)
    cells = list(("█" * full + (_EIGHTHS[part] if part else "")).ljust(width))
    at = min(int(min(max(mark, 0.0), 1.0) * width), width - 1)
    cells[at] = "┃" if at < full else "│"
    text = Text("".join(cells))
    # Inside the bar the mark is drawn reversed, or it would be a thin line on nothing between two full blocks.
    if at < full:
        text.stylize("reverse", at, at + 1)
    return text


def _per_class(report: Report, console: Console) -> None:
    classes = [c for c in report.get("per_class") or [] if c["rows"] and c.get("cross_entropy") is not None]
    if not classes:
        return
    ranked = sorted(classes, key=lambda c: -float(c["cross_entropy"]))
    shown = ranked if len(ranked) <= _EVERY_CLASS else ranked[:_COSTLIEST]
    unit = report["unit"]

    def cells(field: str) -> list[str]:
        percent = units.is_percent(field)
        return ["" if c.get(field) is None else units.number(c[field], percent=percent, digits=3) for c in shown]

    columns = [
        Column("class", [shortened(units.printable(c["class"]), 30) for c in shown], 0, right=False),
        Column("rows", [units.count(c["rows"]) for c in shown], 0),
        Column(f"cross-entropy, {unit}", cells("cross_entropy"), 0),
        Column("accuracy", cells("accuracy"), 1),
        Column(f"entropy, {unit}", cells("entropy"), 2),
        Column("Brier score", cells("brier"), 3),
    ]
    few = len(shown) < len(ranked)
    title = f"the {len(shown)} costliest of {units.count(len(ranked))} classes" if few else "classes, costliest first"
    print_table([c for c in columns if any(c.cells)], console, title)


def _ledger(report: Report, console: Console) -> None:
    rows, ledger = report["rows"], report["ledger"]
    lines = []
    if rows["read"] != rows["used"]:
        parts = [f"{units.count(rows[name])} {name}" for name in ("used", "ignored", "invalid")]
        lines.append(f"{units.counted(rows['read'], 'row')} read: {', '.join(parts)}.")
    broken = [f"{key.replace('_', ' ')} {units.count(ledger[key])}" for key in RULE_KEYS if ledger.get(key)]
    if broken:
        lines.append(f"Left out: {', '.join(broken)}.")
    if ledger.get("normalized"):
        lines.append(f"Renormalized to a sum of 1: {units.counted(ledger['normalized'], 'row')}.")
    if ledger.get("clipped"):
        lines.append(f"Clipped by --zero: {units.counted(ledger['clipped'], 'row')}.")
    for line in lines:
        wrapped(line, console)
    if lines:
        console.print()


def _provenance(report: Report, console: Console) -> None:
    inputs, run = report.get("inputs") or [], report.get("run") or {}
    lines: list[tuple[str, str]] = []
    for i, entry in enumerate(inputs[:MOST_INPUTS]):
        facts = [units.printable(entry["path"])]
        if entry.get("rows") is not None:
            facts.append(units.counted(entry["rows"], "row"))
        if entry.get("bytes") is not None:
            facts.append(units.size(entry["bytes"]))
        lines.append(("" if i else "input" if len(inputs) == 1 else "inputs", " · ".join(facts)))
    if len(inputs) > MOST_INPUTS:
        rest = inputs[MOST_INPUTS:]
        total = sum(entry.get("bytes") or 0 for entry in rest)
        lines.append(("", f"and {units.counted(len(rest), 'more file', 'more files')} · {units.size(total)}"))
    if options := report.get("options"):
        lines.append(("options", " · ".join(f"{name}={_option(value)}" for name, value in options.items())))
    if facts := views.run_facts(run):
        lines.append(("run", " · ".join(facts)))
    if digest := report.get("digest"):
        lines.append(("digest", units.printable(digest)[:_DIGEST_DIGITS]))
    pairs(lines, console)


def _option(value: object) -> str:
    if isinstance(value, list):
        shown = ",".join(units.printable(v) for v in value[:MOST_INPUTS])
        return shown + (",…" if len(value) > MOST_INPUTS else "")
    return units.printable(value)


def render_working(working: Working, console: Console) -> None:
    """Print a calculation term by term, with the sum under the terms."""
    console.print()
    console.print(Text.assemble(" " * INDENT, (working.title, "bold"), "   ", working.formula))
    console.print()
    table = ruled()
    table.show_footer = working.total is not None
    for key, head in working.columns.items():
        if key == working.total:
            footer = units.exact(working.value) + f" {working.unit}" if isinstance(working.value, float) else ""
        elif key in ("q", "p"):
            footer = units.given(sum(term[key] for term in working.terms))
        else:
            footer = ""
        table.add_column(head, footer=Text(footer, style="bold"), no_wrap=True)
    for term in working.terms:
        shown = {key: units.given if key in _GIVEN else units.exact for key in working.columns}
        table.add_row(*(show(term[key]) for key, show in shown.items()))
    console.print(Padding(table, (0, 0, 1, INDENT)))
    if working.parts:
        names = " + ".join(name for name, _ in working.parts)
        values = " + ".join(units.exact(value) for _, value in working.parts)
        wrapped(f"= {names} = {values}", console)
    if working.remark:
        wrapped(working.remark, console)
