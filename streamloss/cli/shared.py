"""What the commands share: options in sections, the column and loss options, and where a report goes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from streamloss.errors import StreamlossError, UsageError
from streamloss.options import DType, Unit

if TYPE_CHECKING:
    from rich.console import Console

    from streamloss.reporting.report import Report

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

FORMATS = ("terminal", "json")
REPORT_FORMATS = (*FORMATS, "html")
_ENDINGS = {".json": "json", ".html": "html"}


class Option(click.Option):
    """An option that says in which section of the help it stands."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class Command(click.Command):
    """A command whose help lists its options by section, in the order of their declaration."""

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
            with formatter.section(section):
                formatter.write_dl(records)


class Group(click.Group):
    """A group that lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


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


paths = click.argument("paths", nargs=-1, required=True, metavar="PATH...")

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
    option("--classes", metavar="NAMES", help="Names of the classes in order: a,b,c or a file with one a line."),
)

loss = options(
    "Loss",
    option("--temperature", type=float, metavar="T", help="p = softmax(z / T).  [default: 1]"),
    option("--target-temperature", type=float, metavar="T", help="The same for target logits.  [default: 1]"),
    option("--ignore-index", type=int, metavar="N", help="Rows with this label are ignored."),
    option("--label-smoothing", type=float, metavar="E", help="q' = (1 - E) q + E / K.  [default: 0]"),
    option("--class-weights", metavar="LIST|FILE", help="Weight of each class: 1,1,5 or a file with one a line."),
    option("--pos-weight", type=float, metavar="W", help="Weight of the positive class, binary.  [default: 1]"),
    option("--focal-gamma", type=float, metavar="G", help="Adds the focal loss with this exponent."),
    option("--focal-alpha", type=float, metavar="A", help="Factor of the focal loss: A for y = 1, 1 - A for y = 0."),
    option("--zero", metavar="inf|clip:EPS", help="What a true class of probability 0 costs.  [default: inf]"),
    option("--top-k", type=int, multiple=True, metavar="K", help="Top-K accuracy; repeatable.  [default: 5]"),
    option("--bins", type=int, metavar="N", help="Bins of the calibration errors.  [default: 15]"),
    option("--metrics", metavar="LIST", help="Only these, by their keys in the JSON report, comma-separated."),
)

checks = options(
    "Checks",
    option("--normalize", is_flag=True, help="Divide rows of probabilities by their sum, and count them."),
    option("--sum-tolerance", type=float, metavar="E", help="How far a row of probabilities may miss 1."),
    option("--on-invalid", type=click.Choice(("error", "skip")), help="Stop at bad rows or skip them.  [default: error]"),
)

display = options(
    "Display",
    option("--unit", type=click.Choice(get_args(Unit)), help="Unit of information.  [default: nat]"),
    option("--quantiles", metavar="LIST", help="Quantiles of the rows, such as 0.01,0.5,0.99."),
    option("--confidence", type=float, metavar="C", help="Level of the confidence intervals.  [default: 0.95]"),
)

format_option = option("--format", "form", type=click.Choice(FORMATS), help="[default: terminal, or json for -o X.json]")
output_option = option("--output", "-o", metavar="FILE", help="Write the report there, whole or not at all.")

output = options("Output", format_option, output_option)

report_output = options(
    "Output",
    option(
        "--format",
        "form",
        type=click.Choice(REPORT_FORMATS),
        help="[default: terminal, or what -o X.json and -o X.html say]",
    ),
    output_option,
    option("--plots", metavar="DIR", help="Write the figures of the html report there, as SVG and PNG files."),
)


class Destination:
    """Where a report goes and in which format; what makes it impossible is found before the work begins."""

    def __init__(
        self, form: str | None, file: str | None, inputs: Iterable[str] = (), forms: tuple[str, ...] = FORMATS
    ) -> None:
        self.file = None if file == "-" else file
        meant = _ENDINGS.get(Path(self.file or "").suffix.lower(), "")
        self.form = form or (meant if meant in forms else "terminal")
        if self.file is not None:
            _check(self.file, inputs)
        if self.form == "html":  # a library that is not installed is found here, before the work begins
            from streamloss.reporting.webpage import render

            self.page = render

    def write(self, record: dict[str, Any], draw: Callable[[dict[str, Any], Console], None]) -> None:
        """Print the record, as JSON, as a web page or as `draw` does, or put it into the file and say so on standard error."""
        if self.form == "json":
            from streamloss.reporting.jsonfile import encode

            data = encode(record)
        elif self.form == "html":
            data = self.page(record)
        elif self.file is not None or not sys.stdout.isatty():
            from streamloss.reporting.tables import to_text

            data = to_text(lambda console: draw(record, console)).encode("utf-8", errors="backslashreplace")
        else:
            from rich.console import Console

            draw(record, Console())
            return
        if self.file is None:
            try:
                click.echo(data, nl=False)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise StreamlossError(f"cannot write to standard output: {error.strerror}") from error
            return
        from streamloss.reporting.files import write_atomically

        write_atomically(self.file, data)
        click.echo(f"streamloss: wrote {self.file}", err=True)


class Plots:
    """Where the figures go, if anywhere; what makes it impossible is found before the work begins."""

    def __init__(self, folder: str | None) -> None:
        self.folder = folder
        if folder is not None:
            from streamloss.reporting import plots
            from streamloss.reporting.files import check_folder

            check_folder(folder)
            self.write = plots.write


def deliver(report: Report, destination: Destination, plots: Plots, draw: Callable[[dict[str, Any], Console], None]) -> None:
    """Write a report and its figures, with the command line that made them."""
    run = {"run": report.run | {"command_line": shlex.join(("streamloss", *sys.argv[1:]))}}
    destination.write(report.to_dict(histograms=destination.form == "html") | run, draw)
    if plots.folder is not None:
        written = plots.write(report.to_dict(histograms=True) | run, plots.folder)
        what = f"wrote {len(written)} files into {plots.folder}" if written else "there is nothing to draw"
        click.echo(f"streamloss: {what}", err=True)


def check_state(file: str | None, report: str | None, inputs: Iterable[str]) -> None:
    """Raise `UsageError` when a state could not be saved at `file`."""
    if file is None:
        return
    if report is not None and Path(file).resolve() == Path(report).resolve():
        raise UsageError(f"--save-state and --output are the same file, {file}")
    _check(file, inputs)


def _check(file: str, inputs: Iterable[str]) -> None:
    from streamloss.reporting.files import check_target

    check_target(file, inputs)
