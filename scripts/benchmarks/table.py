"""The measured times as ratios and bars, and these as the README's table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.cases import Bar, Case
from benchmarks.measuring import Timed
from benchmarks.peers import PEERS

NO = "–"


def lines_of(case: Case, timed: list[Timed], memory: float) -> list[dict[str, Any]]:
    """A line of the table for each of the case's runs: rates, ratios and bars."""
    best: dict[str, float] = {}
    for each in timed:
        best[each.peer] = min(each.best, best.get(each.peer, each.best))
    ours = [each for each in timed if each.peer == "streamloss"]
    lines = []
    for run, mine in zip(case.runs, ours, strict=True):
        rate = case.decoded / mine.best / 1e9
        ratios = {peer: best[peer] / mine.best for peer in PEERS if peer in best}
        lines.append(
            {
                "title": case.title + (f", {run.title}" if run.title else ""),
                "rows": case.data.rows,
                "seconds": mine.best,
                "rows_per_second": case.data.rows / mine.best,
                "gb_per_second": rate,
                "of_memory": rate / memory,
                "ratios": ratios,
                "bars": [judged(bar, ratios | {"GB/s": rate}) for bar in run.bars],
            }
        )
    return lines


def judged(bar: Bar, measured: dict[str, float]) -> dict[str, Any]:
    """The bar with what was measured, None where nothing was."""
    value = measured.get(bar.measure)
    return {"measure": bar.measure, "least": bar.least, "measured": value, "met": None if value is None else value >= bar.least}


def title(measure: str) -> str:
    return PEERS[measure][0] if measure in PEERS else measure


def short(number: float) -> str:
    """Three digits, with a unit in place of an exponent."""
    unit, letter = next(((u, name) for u, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")) if number >= 0.9995 * u), (1.0, ""))
    return f"{number / unit:.3g}{letter}"


def verdict(bars: list[dict[str, Any]]) -> str:
    """Which bars are met, missed, or not measured."""
    parts = []
    for met, word in ((True, "met"), (False, "**missed**"), (None, "not measured")):
        those = [f"{title(bar['measure'])} {bar['least']:.3g}" for bar in bars if bar["met"] is met]
        if those:
            parts.append(f"{word}: {', '.join(those)}")
    return "; ".join(parts)


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    """The Markdown table, with notes on what is missing."""
    notes: list[str] = []

    def cell(result: dict[str, Any], line: dict[str, Any], peer: str) -> str:
        if peer in line["ratios"]:
            return f"{line['ratios'][peer]:.2f}"
        note = f"{title(peer)} {result['reasons'][peer]}."
        if note not in notes:
            notes.append(note)
        return f"{NO} ({notes.index(note) + 1})"

    heads = [f"× {name}" for name, _ in PEERS.values()]
    yield "| | rows | s | rows/s | GB/s | of memory | " + " | ".join(heads) + " | bars |"
    yield "|---|" + "---:|" * (5 + len(heads)) + "---|"
    for result in results:
        for line in result["lines"]:
            cells = [
                line["title"],
                short(line["rows"]),
                f"{line['seconds']:.3f}",
                short(line["rows_per_second"]),
                f"{line['gb_per_second']:.2f}",
                f"{100 * line['of_memory']:.0f} %",
                *(cell(result, line, peer) for peer in PEERS),
                verdict(line["bars"]),
            ]
            yield "| " + " | ".join(cells) + " |"
    yield ""
    bars = [bar for result in results for line in result["lines"] for bar in line["bars"]]
    counts = {met: sum(bar["met"] is met for bar in bars) for met in (True, False, None)}
    yield f"{counts[True]} of {len(bars)} bars met, {counts[False]} missed, {counts[None]} not measured."
    for number, note in enumerate(notes, 1):
        yield f"({number}) {note}"
