"""What the commands share: options in sections, the column and loss options, and where a report goes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args

import click

from streamloss.cli import candidates, endings
from streamloss.errors import StreamlossError, UsageError
from streamloss.options import EXACT, TOOLS, DType, Unit

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from rich.console import Console

    from streamloss.reporting.report import Report
    from streamloss.running.local import Watcher

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]


class Format(NamedTuple):
    """How a report can be written: the endings of -o that choose it, and the module of `reporting` whose `encode` does it."""

    endings: tuple[str, ...]
    module: str | None


TERMINAL = "terminal"  # the format of every other ending; what it draws differs from command to command
FORMATS = {
    TERMINAL: Format((), None),
    "json": Format((".json",), "jsonfile"),
    "markdown": Format((".md", ".markdown"), "markdown"),
    "csv": Format((".csv",), "csvfile"),
    "html": Format((".html", ".htm"), "webpage"),
}
RUN = ("threads", "batch_rows", "max_memory", "reader")  # options of a run that change no number
WRITTEN = ("form", "output", "plots", "junit")  # where a report goes
PLOTS = "--plots"  # the one option that writes into a folder
PLAIN = (TERMINAL, "json")  # the formats of what is no report: an inspection, a calculation


class Option(click.Option):
    """An option that says in which section of the help it stands."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[Any]]:
        found = candidates.values(self, ctx, incomplete)
        return super().shell_complete(ctx, incomplete) if found is None else found


class Command(click.Command):
    """A command whose help lists its options by section, in the order of their declaration, and its exit codes.

    gated: whether it can end as a gate does; by default a command with --fail-if can.
    """

    def __init__(self, *args: Any, gated: bool | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gated = any(param.name == "fail_if" for param in self.params) if gated is None else gated

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        return _said(super().get_help_option(ctx))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        section = "Options"
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                # --help has no section of its own and comes last.
                section = getattr(param, "section", section)
                sections.setdefault(section, []).append(record)
        for section, records in sections.items():
            listed(formatter, section, records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        codes = [(str(code), what) for code, what in endings.CODES.items() if self.gated or code not in endings.OF_GATES]
        listed(formatter, "Exit codes", codes)


def listed(formatter: click.HelpFormatter, title: str, records: Sequence[tuple[str, str]]) -> None:
    """Write a section of names and what they are; a narrow terminal has less room for the names."""
    with formatter.section(title):
        formatter.write_dl(records, col_max=30 if formatter.width > 70 else 20)


class Group(click.Group):
    """A group that lists its commands in the order in which they were added."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        return _said(super().get_help_option(ctx))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def say(data: str | bytes) -> None:
    """Write to standard output. Raises `StreamlossError` where that takes nothing, and BrokenPipeError when nobody reads it."""
    try:
        click.echo(data, nl=False)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StreamlossError(f"cannot write to standard output: {error.strerror}") from error


def note(text: str) -> None:
    """Say something on standard error, on one line whatever names are in it."""
    from streamloss.reporting.units import printable

    click.echo(f"streamloss: {printable(text)}", err=True)


def _said(option: click.Option | None) -> click.Option | None:
    """The option --help, whose text may find that standard output takes nothing."""
    if option is not None:
        option.callback = _show_help
    return option


def _show_help(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        say(ctx.get_help() + "\n")
        ctx.exit()


def options(section: str, *given: tuple[tuple[str, ...], dict[str, Any]]) -> Decorator[Any]:
    """One decorator for a section of options, declared in the order in which the help shows them."""

    def decorate(command: F) -> F:
        for names, settings in reversed(given):
            command = click.option(*names, cls=Option, section=section, **settings)(command)
        return command

    return decorate


def option(*names: str, **settings: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """An option for `options`."""
    return names, settings


def taken(given: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The options of these names, taken out of those that were given."""
    return {name: given.pop(name) for name in names}


paths = click.argument("paths", nargs=-1, required=True, metavar="PATH...", shell_complete=candidates.files)

columns = options(
    "Columns (when not given, those of these very names; '' for none)",
    option("--label", metavar="COL", help="True class: integer, bool, or a name among --classes; binary may be soft."),
    option("--logits", metavar="COL", help="Prediction: K logits a row, in a list column or a pattern such as 'z_*'."),
    option("--probs", metavar="COL", help="Prediction: K probabilities a row."),
    option("--logprobs", metavar="COL", help="Prediction: K log-probabilities a row."),
    option("--logit", metavar="COL", help="Binary prediction: the logit of the positive class."),
    option("--prob", metavar="COL", help="Binary prediction: the probability of the positive class."),
    option("--logprob", metavar="COL", help="Only the log-probability given to what happened."),
    option("--target-logits", metavar="COL", help="Soft label or teacher: K logits a row."),
    option("--target-probs", metavar="COL", help="Soft label or teacher: K probabilities a row."),
    option("--target-logprobs", metavar="COL", help="Soft label or teacher: K log-probabilities a row."),
    option("--weight", metavar="COL", help="Weight of the row, 0 or more."),
    option("--mask", metavar="COL", help="Bool: rows that are false are ignored."),
    option("--bytes", metavar="COL", help="Bytes that the row stands for, for bits per byte."),
    option(
        "--dtype",
        type=click.Choice(get_args(DType)),
        help="Number type of fixed-size binary and uint16 columns that do not say it.",
    ),
    option("--classes", metavar="NAMES|FILE", help="Names of the classes in order: a,b,c or a file with one a line."),
)

loss = options(
    "Loss",
    option("--temperature", metavar="T|FILE", help="p = softmax(z / T); T may be a report of calibrate.  [default: 1]"),
    option("--target-temperature", type=float, metavar="T", help="The same for target logits.  [default: 1]"),
    option("--ignore-index", type=int, metavar="N", help="Rows with this label are ignored."),
    option("--label-smoothing", type=float, metavar="E", help="q' = (1 - E) q + E / K.  [default: 0]"),
    option("--class-weights", metavar="LIST|FILE", help="Weight of each class: 1,1,5 or a file with one a line."),
    option("--pos-weight", type=float, metavar="W", help="Weight of the positive class, binary.  [default: 1]"),
    option("--focal-gamma", type=float, metavar="G", help="Adds the focal loss with this exponent."),
    option("--focal-alpha", type=float, metavar="A", help="Factor of the focal loss: A for y = 1, 1 - A for y = 0."),
    option("--zero", metavar="inf|clip:EPS", help="What a true class of probability 0 costs.  [default: inf]"),
    option("--top-k", type=int, multiple=True, metavar="K", help="Top-K accuracy; repeatable.  [default: 5]"),
    option("--metrics", metavar="LIST", help="Only these, by their keys in the JSON report, comma-separated."),
)

# What only all rows together have, and what only one model has: not every command that has losses has these.
bins = options("Loss", option("--bins", type=int, metavar="N", help="Bins of the calibration errors.  [default: 15]"))

conventions = options(
    "Loss",
    option(
        "--convention",
        multiple=True,
        type=click.Choice((EXACT, *TOOLS)),
        help="Also what this tool would print of the same rows; repeatable.  [default: exact]",
    ),
)

_grid = option("--temperatures", metavar="LIST", help="The curve at these T.  [default: 0.25 to 4, four an octave]")
grid = options("Loss", _grid)
sweep = options(
    "Loss",
    option("--temperature-sweep", is_flag=True, help="Also loss and calibration error by T, and the T of least loss."),
    _grid,
)

checks = options(
    "Checks",
    option("--normalize", is_flag=True, help="Divide rows of probabilities by their sum, and count them."),
    option("--sum-tolerance", type=float, metavar="E", help="How far a row of probabilities may miss 1."),
    option("--on-invalid", type=click.Choice(("error", "skip")), help="Stop at bad rows or skip them.  [default: error]"),
)

slices = options(
    "Slices",
    option("--by", metavar="COL[,COL]", multiple=True, help="Also every slice with the same values there; repeatable."),
    option("--cluster", metavar="COL", help="Rows with the same value there go together: errors that know it."),
    option("--max-slices", type=int, metavar="N", help="The first N slices of each --by, the rest together.  [default: 10000]"),
)

display = options(
    "Display",
    option("--unit", type=click.Choice(get_args(Unit)), help="Unit of information.  [default: nat]"),
    option("--quantiles", metavar="LIST", help="Quantiles of the rows, such as 0.01,0.5,0.99."),
    option("--confidence", type=float, metavar="C", help="Level of the confidence intervals.  [default: 0.95]"),
    option("--min-slice-rows", type=int, metavar="N", help="Leave smaller slices out of the report.  [default: 1]"),
)

running = options(
    "Running",
    option("--threads", type=click.IntRange(min=1), metavar="N", help="[default: all cores]"),
    option("--batch-rows", type=click.IntRange(min=1), metavar="N", help="Rows held at a time and thread."),
    option("--max-memory", metavar="SIZE", help="Memory to hold at most, all in all: 800MB, 2GiB.  [default: no limit]"),
    option(
        "--reader",
        type=click.Choice(("auto", "pages", "arrow")),
        default="auto",
        help="Who decodes Parquet: our page reader, pyarrow, or the first that can.  [default: auto]",
    ),
    option("--progress/--no-progress", default=None, help="Show the progress.  [default: in a terminal]"),
)

gates = options(
    "Gates",
    option(
        "--fail-if",
        multiple=True,
        metavar="RULE",
        help="As 'cross_entropy > 0.35': end with 1 when it holds, with 4 when its number is missing; repeatable.",
    ),
    option("--junit", metavar="FILE", help="Write the outcome of each RULE there, as JUnit XML."),
)


def output_as(formats: Sequence[str], *, several: bool = False) -> Decorator[Any]:
    """The options for where the output goes, and in which of the formats; `several` files may be given at once."""
    again = "; repeatable." if several else "."
    chosen = " ".join(ending for name in formats for ending in FORMATS[name].endings)
    return options(
        "Output",
        option("--format", "form", type=click.Choice(formats), help=f"[default: as -o ends ({chosen}), else terminal]"),
        option("--output", "-o", multiple=several, metavar="FILE", help=f"Write the report there, whole or not at all{again}"),
    )


output = output_as(tuple(FORMATS), several=True)

plots = options(
    "Output", option(PLOTS, metavar="DIR", help="Write the figures of the html report there, as SVG and PNG files.")
)


@contextmanager
def watching(progress: bool | None, unit: Unit) -> Iterator[Watcher | None]:
    """Whoever is told about a run, if anybody; and one line when kernels have to be compiled."""
    from streamloss import jit
    from streamloss.cli.progress import Meter

    jit.on_compile(lambda: click.echo("streamloss: compiling kernels for this machine, once…", err=True))
    with Meter(progress, unit) as meter:
        yield meter.show if meter.wanted else None
    if reason := jit.not_kept():
        click.echo(f"streamloss: compiled kernels could not be kept: {reason}: STREAMLOSS_CACHE_DIR chooses a folder", err=True)


class Destination:
    """Where a report goes and in which format; what makes it impossible is found before the work begins."""

    def __init__(
        self, form: str | None, file: str | None, inputs: Iterable[str] = (), formats: Iterable[str] = tuple(FORMATS)
    ) -> None:
        self.file = None if file == "-" else file
        name = (self.file or "").lower()
        self.form = form or next((form for form in formats if name.endswith(FORMATS[form].endings)), TERMINAL)
        if self.file is not None:
            _check(self.file, inputs)
        # A library that is not installed is found here, before the work begins.
        module = FORMATS[self.form].module
        self._encode = import_module(f"streamloss.reporting.{module}").encode if module else None

    def write(self, record: dict[str, Any], draw: Callable[[dict[str, Any], Console], None]) -> None:
        """Print the record, in its format or as `draw` does, or put it into the file and say so on standard error."""
        if self._encode is not None:
            data = self._encode(record)
        elif self.file is not None or not sys.stdout.isatty():
            from streamloss.reporting.tables import to_text

            data = to_text(lambda console: draw(record, console)).encode("utf-8", errors="backslashreplace")
        else:
            from rich.console import Console

            draw(record, Console())
            return
        if self.file is None:
            say(data)
        else:
            _write(self.file, data)


def check_apart(files: Iterable[tuple[str, str]]) -> None:
    """Raise `UsageError` when two of the files, each after the option that names it, are the same."""
    from streamloss.files import resolved

    seen: dict[Path, str] = {}
    for flag, file in files:
        place = resolved(file)
        if place in seen:
            raise UsageError(f"{flag} and {seen[place]} are the same file, {file}")
        seen[place] = flag


def check_gates(fail_if: Iterable[str], junit: str | None) -> None:
    """Raise `UsageError` for a rule that makes no sense, and for a JUnit file without rules, which would look like a pass."""
    from streamloss.reporting.gates import parse_all

    if not parse_all(fail_if) and junit is not None:
        raise UsageError("--junit writes the outcomes of --fail-if: give a rule too")


def _write(file: str, data: bytes) -> None:
    from streamloss.files import write_atomically

    write_atomically(file, data)
    note(f"wrote {file}")


class Plots:
    """Where the figures go, if anywhere; what makes it impossible is found before the work begins."""

    def __init__(self, folder: str | None) -> None:
        self.folder = folder
        if folder is not None:
            from streamloss.files import check_folder
            from streamloss.reporting import plots

            check_folder(folder)
            self.write = plots.write


@dataclass(frozen=True)
class Job:
    """A run whose options are in order: what its report is made of, what it reads and where it writes.

    `writes` are the files and folders, each after the option that names it.
    """

    inputs: tuple[str, ...]
    writes: tuple[tuple[str, str], ...]
    make: Callable[[], Report]
    destinations: tuple[Destination, ...]
    plots: Plots
    junit: str | None

    def run(self, command_line: str) -> Report:
        """Make the report and write it, its figures and the outcomes of its gates; say which gates did not pass."""
        from streamloss.reporting.terminal import render

        report = self.make()
        plain = report.to_dict() | {"run": report.run | {"command_line": command_line}}
        drawn = plain | {"histograms": report.histograms}
        for destination in self.destinations:
            destination.write(drawn if destination.form == "html" else plain, render)
        if self.plots.folder is not None:
            written = self.plots.write(drawn, self.plots.folder)
            what = f"wrote {len(written)} files into {self.plots.folder}" if written else "there is nothing to draw"
            note(what)
        _conclude(plain, self.junit)
        return report

    def finish(self) -> None:
        """Run as what the command line asked for, and end with the exit code that the gates ask for."""
        from streamloss.reporting.gates import exit_code

        if code := exit_code(self.run(shlex.join(("streamloss", *sys.argv[1:]))).gates):
            click.get_current_context().exit(code)


def job(
    inputs: tuple[str, ...],
    make: Callable[[], Report],
    *,
    form: str | None,
    output: Sequence[str],
    plots: str | None,
    fail_if: Sequence[str],
    junit: str | None,
    files: Sequence[tuple[str, str | None]] = (),
) -> Job:
    """The job of a command; what makes it impossible is found here, before the work begins.

    files: what else it writes, each after the option that names it.
    """
    if form is not None and len(output) > 1:
        raise UsageError("--format is one format: without it, each --output is written as it ends")
    destinations = tuple(Destination(form, file, inputs) for file in output or (None,))
    outputs = [("--output", destination.file) for destination in destinations]
    whole = [*outputs, *files, ("--junit", junit)]
    writes = [(flag, file) for flag, file in (*whole, (PLOTS, plots)) if file is not None]
    check_apart(writes)
    for _, file in whole:
        if file is not None:
            _check(file, inputs)
    check_gates(fail_if, junit)
    return Job(inputs, tuple(writes), make, destinations, Plots(plots), junit)


def _conclude(record: dict[str, Any], junit: str | None) -> None:
    """After the report: write the JUnit file and say which gates did not pass."""
    from streamloss.reporting.gates import told
    from streamloss.reporting.units import printable

    if junit is not None:
        from streamloss.reporting.junit import encode

        _write(junit, encode(record))
    words = {"fail": "failed", "undecided": "undecided"}
    for gate in record["gates"]:
        if gate["outcome"] in words:
            click.echo(f"streamloss: gate {words[gate['outcome']]}: {printable(told(gate))}", err=True)


def _check(file: str, inputs: Iterable[str]) -> None:
    from streamloss.files import check_target

    check_target(file, inputs)
