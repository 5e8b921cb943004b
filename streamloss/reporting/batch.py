"""The summary of a batch in a terminal: a line for every run, what went wrong below, and how it all ended.

Takes the JSON summary of `streamloss batch` and a rich console. A run that has no report has no numbers either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from streamloss.reporting import units, wording
from streamloss.reporting.columns import Column, table_of
from streamloss.reporting.tables import INDENT, pairs, print_table, wrapped

Run = dict[str, Any]

_KEY = "cross_entropy"
# What an exit code says of a run; None is that of a run which was not begun.
_ENDS: dict[int | None, str] = {
    0: "done",
    1: "failed a gate",
    4: "with an undecided gate",
    2: "with wrong options",
    3: "with bad data or input",
    130: "interrupted",
    None: "not run",
}
_OUTCOMES = {"fail": "failed", "undecided": "undecided", "pass": "passed"}


def render_batch(summary: dict[str, Any], console: Console) -> None:
    """Print the summary of a batch."""
    runs: list[Run] = summary["runs"]
    ended = Counter(run["exit_code"] for run in runs)
    facts = [units.counted(len(runs), "run"), *(f"{ended[code]} {words}" for code, words in _ENDS.items() if ended[code])]
    console.print()
    console.print(Text.assemble(" " * INDENT, ("streamloss", "bold"), " batch   ", " · ".join(facts)))
    console.print()

    def cells(show: Callable[[Run], str]) -> list[str]:
        return [show(run) for run in runs]

    table = table_of(
        "",
        (
            Column("run", cells(lambda run: units.printable(run["name"])), 0, "name"),
            Column("rows", cells(lambda run: units.count(run["rows"]["used"]) if "rows" in run else ""), 4),
            Column("cross-entropy", cells(_loss), 2),
            Column("new − old", cells(lambda run: wording.difference(_KEY, (run.get("comparison") or {}).get(_KEY, {}))), 5),
            Column("gates", cells(_gates), 3, "name"),
            Column("exit", cells(lambda run: "–" if run["exit_code"] is None else str(run["exit_code"])), 1),
            Column("time", cells(lambda run: units.duration(run["seconds"]) if "seconds" in run else ""), 6),
            Column("output", cells(lambda run: _outputs(run, Path(summary["file"]).parent)), 7, "name"),
        ),
    )
    print_table(table.columns, console)
    failed = [run for run in runs if run.get("error")]
    for run in failed:
        wrapped(f"{units.printable(run['name'])}: {units.printable(run['error'])}", console)
    if failed:
        console.print()
    ending = [("file", units.printable(summary["file"])), ("time", units.duration(summary["seconds"]))]
    pairs([*ending, ("exit code", str(summary["exit_code"]))], console)


def _loss(run: Run) -> str:
    """The cross-entropy with its error and unit; nothing where there is none."""
    entry = (run.get("metrics") or {}).get(_KEY, {})
    return f"{text} {run['unit']}" if (text := wording.measured(_KEY, entry)) else ""


def _outputs(run: Run, folder: Path) -> str:
    """What the run wrote, as seen from the file's folder, where it is below."""
    paths = map(Path, run["outputs"])
    return units.printable(", ".join(str(path.relative_to(folder) if path.is_relative_to(folder) else path) for path in paths))


def _gates(run: Run) -> str:
    """How many gates ended in which way, the worst first."""
    found = Counter(gate["outcome"] for gate in run.get("gates") or ())
    return ", ".join(f"{found[outcome]} {word}" for outcome, word in _OUTCOMES.items() if found[outcome])
