"""What the commands share: options in sections, the column and loss options, and where a report goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args

import click

from streamloss.cli import candidates, endings
from streamloss.errors import StreamlossError
from streamloss.options import EXACT, TOOLS, DType, Unit

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


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
