"""`streamloss batch`: several runs from one TOML file, one after another in one process, with one summary.

A run is a command line: its table and the defaults above it become words, which the command itself parses. So a run takes
every option of its command, and does what that command line would have done.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from streamloss import __version__
from streamloss.cli import candidates, compare, config, endings, evaluate, jobs, shared
from streamloss.errors import UsageError

SCHEMA = "streamloss.batch/1"
_COMMANDS: dict[str, tuple[click.Command, Callable[..., jobs.Job]]] = dict(
    zip(config.RUNS, ((evaluate.evaluate, evaluate.prepare), (compare.compare, compare.prepare)), strict=True)
)
# Exit codes, worst last: what was not computed outweighs what was computed and is not good enough.
_SEVERITY = (0, 1, 4, 2, 3, endings.INTERRUPTED)
_OF_THE_REPORT = ("unit", "digest", "rows", "weight", "metrics", "comparison", "gates")


@dataclass(frozen=True)
class Run:
    """A table of the file, checked: its name, the command line that says the same, and what that would do."""

    name: str
    command: str
    command_line: str
    job: jobs.Job


@click.command(cls=shared.Command, gated=True, short_help="Run several evaluations and comparisons from a file.")
@click.argument("file", metavar="FILE", shell_complete=candidates.files)
@shared.options(
    "Options",
    shared.option("--only", multiple=True, metavar="NAME", help="Only the run of this name; repeatable."),
    shared.option("--stop", is_flag=True, help="Stop at the first run that does not end with 0."),
    shared.option("--dry-run", is_flag=True, help="Check all, and print the command lines instead of running them."),
    shared.option("--output", "-o", metavar="FILE", help="Write the summary there too, as JSON; - to print it so."),
)
def batch(file: str, only: tuple[str, ...], stop: bool, dry_run: bool, output: str | None) -> None:
    """Run the [[evaluate]] and then the [[compare]] tables of a TOML file, one after another, and sum them up.

    A table has the options of its command by their long names, its `paths`, and a `name`; those at the top of the file
    and in [options] are for all runs, where the command has them. Paths are relative to the file. A run without `output`
    has only its line of the summary.

    All of the file is checked before anything runs. A run that fails does not stop the others; the exit code is the worst:
    130 (interrupted, which does stop them), then 3, 2, 4, 1 and 0.

    \b
    Examples:
      streamloss batch data/batch.toml
      streamloss batch data/batch.toml --only mlp \\
          --only mlp-or-logistic -o batch.json
      streamloss batch data/batch.toml --dry-run
    """
    runs = _plan(file)
    summary = _summary(file, runs, output)
    chosen = _chosen(runs, only)
    if dry_run:
        from streamloss.reporting.units import printable

        for run in chosen:
            shared.say(f"{printable(run.command_line)}\n")
        return
    started = time.perf_counter()
    found = list(_carried_out(chosen, stop))
    codes = [each["exit_code"] for each in found if each["exit_code"] is not None]
    code = endings.INTERRUPTED if endings.interrupts.seen else max(codes, key=_SEVERITY.index)
    seconds = time.perf_counter() - started
    record = {"schema": SCHEMA, "version": __version__, "file": file, "exit_code": code, "seconds": seconds, "runs": found}

    from streamloss.reporting.batch import render_batch

    if output != "-":
        jobs.Destination(None, None).write(record, render_batch)
    if summary is not None:
        summary.write(record, render_batch)
    click.get_current_context().exit(code)


def _plan(file: str) -> list[Run]:
    """The runs of a file. Raises `UsageError` for anything wrong in it that shows before the data is read."""
    document = config.load(file)
    folder = Path(file).parent
    shared_by_all = config.settings(document, file)
    config.check_names(shared_by_all, {name for command, _ in _COMMANDS.values() for name in config.parameters(command)}, file)
    runs: list[Run] = []
    for kind, (command, _) in _COMMANDS.items():
        known = config.parameters(command)
        below = {name: value for name, value in shared_by_all.items() if name in known}
        config.values(command, below, folder, file)
        for name, table in _tables(document, kind, file):
            where = f"{file}, {name}"
            config.check_names(table, known, where)
            words = config.words(command, config.values(command, config.layered(below, table), folder, where))
            runs.append(Run(name, kind, shlex.join(("streamloss", kind, *words)), _job(kind, words, where)))
    if not runs:
        raise UsageError(f"{file} has no [[evaluate]] and no [[compare]] table")
    names = [run.name for run in runs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{file}: two runs are called {twice[0]!r}")
    return runs


def _tables(document: config.Table, kind: str, file: str) -> Iterator[tuple[str, config.Table]]:
    """The tables of a kind, each after its name."""
    tables = document.get(kind, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{file}: every run has a table of its own, [[{kind}]]")
    for i, given in enumerate(tables, 1):
        table = config.spelt(given, f"{file}, [[{kind}]] {i}")
        name = table.pop("name", f"{kind}-{i}")
        if not isinstance(name, str) or not name:
            raise UsageError(f"{file}, [[{kind}]] {i}: a name is text, not {name!r}")
        yield name, table


def _job(kind: str, words: Sequence[str], where: str) -> jobs.Job:
    """What a command line would do, but that a report without an output is not printed."""
    command, prepare = _COMMANDS[kind]
    try:
        params = command.make_context(kind, list(words)).params
        job = prepare(**params)
    except click.UsageError as error:
        raise UsageError(f"{where}: {error.format_message()}") from error
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    # Several reports in one terminal would hide the summary: they are printed only when asked for, with "-".
    return job if params["output"] else replace(job, destinations=())


def _summary(file: str, runs: Sequence[Run], output: str | None) -> jobs.Destination | None:
    """Where the summary goes. Raises `UsageError` when files stand in one another's way, of two runs or of all."""
    from streamloss.files import check_target

    inputs = [file, *(path for run in runs for path in run.job.inputs)]
    if inputs.count("-") > 1:
        raise UsageError(f"{file}: standard input can be read once, not by {inputs.count('-')} runs")
    summary = None if output is None else jobs.Destination("json", output, inputs, shared.PLAIN)
    writes = [(f"{flag} of {run.name!r}", path) for run in runs for flag, path in run.job.writes]
    if summary is not None and summary.file is not None:
        writes.append(("--output of the batch", summary.file))
    jobs.check_apart(writes)
    for run in runs:
        for flag, path in run.job.writes:
            if flag != shared.PLOTS:  # a folder, which need not be there
                check_target(path, inputs)
    return summary


def _chosen(runs: list[Run], only: Iterable[str]) -> list[Run]:
    from streamloss.reporting.rules import nearest

    names = [run.name for run in runs]
    for name in only:
        if name not in names:
            raise UsageError(f"--only: there is no run {name!r}{nearest(name, names) or '; there are ' + ', '.join(names)}")
    wanted = set(only)
    return [run for run in runs if not wanted or run.name in wanted]


def _carried_out(runs: Sequence[Run], stop: bool) -> Iterator[dict[str, Any]]:
    """What became of each run, in the JSON summary's words; `exit_code` is None of those that were not begun."""
    stopped = False
    for i, run in enumerate(runs, 1):
        record: dict[str, Any] = {"name": run.name, "command": run.command, "command_line": run.command_line}
        if stopped:
            yield record | {"exit_code": None, "outputs": []}
            continue
        record |= _carried_out_one(run, f"run {i} of {len(runs)}")
        ended = record["exit_code"]
        stopped = ended == endings.INTERRUPTED or endings.interrupts.seen or (stop and ended != 0)
        yield record


def _carried_out_one(run: Run, which: str) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        from streamloss.reporting.gates import exit_code

        shared.note(f"{which}: {run.name}")
        report = run.job.run(run.command_line)
        code = exit_code(report.gates)
    except endings.EXPECTED as error:
        code, line = endings.told(error)
        return {"exit_code": code, "seconds": time.perf_counter() - started, "error": line, "outputs": []}
    seconds = time.perf_counter() - started
    shape = report.to_dict()
    found = {key: shape[key] for key in _OF_THE_REPORT if key in shape}
    outputs = [path for _, path in run.job.writes]
    return {"exit_code": code, "seconds": seconds, "outputs": outputs} | found
