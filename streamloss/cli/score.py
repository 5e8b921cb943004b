"""`streamloss score`: a row out for every row in, or the costliest of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from streamloss.cli import jobs, shared
from streamloss.errors import UsageError
from streamloss.options import Options

_SHOWN = 100  # rows of a table in the terminal


@click.command(cls=shared.Command, short_help="Write the losses row by row, or show the worst rows.")
@shared.paths
@shared.columns
@shared.loss
@shared.options(
    "Rows",
    shared.option("--keep", metavar="COL", multiple=True, help="A column that goes through as it is; repeatable."),
    shared.option("--worst", type=click.IntRange(min=1), metavar="N", help="Only the N costliest rows, the worst first."),
    shared.option("--worst-by", metavar="KEY", help="What they cost, a key as in --metrics.  [default: cross_entropy]"),
    shared.option("--by", metavar="COL[,COL]", multiple=True, help="The N worst of every slice too; repeatable."),
    shared.option(
        "--max-slices", type=int, metavar="N", help="The first N slices of each --by, the rest as one.  [default: 10000]"
    ),
    shared.option("--unit", type=click.Choice(("nat", "bit", "ban")), help="Unit of information.  [default: nat]"),
)
@shared.checks
@shared.running
@shared.options(
    "Output",
    shared.option(
        "--output", "-o", metavar="FILE", help="The Parquet file to write, whole or not at all; - for an Arrow stream."
    ),
    shared.option("--compression", type=click.Choice(("zstd", "none")), default="zstd", help="[default: zstd]"),
)
def score(
    paths: tuple[str, ...],
    output: str | None,
    keep: tuple[str, ...],
    worst: int | None,
    worst_by: str | None,
    compression: Literal["zstd", "none"],
    progress: bool | None,
    **given: Any,
) -> None:
    """Write what every row of PATH... costs: one row out for every row in, in their order.

    A row has its file and its number there (from 0), its status (used, ignored, or the rule that it broke), label and
    predicted class, the columns of --keep and --by, and a number for each quantity of --metrics (default: all that a
    single row has), without its weight; nulls where it is not used. --worst keeps only the costliest rows, of all and of
    every slice, infinite ones first, then by their place in the input; without -o they are shown.

    \b
    Examples:
      streamloss score data/digits.parquet --keep id -o rows.parquet
      streamloss score data/digits.parquet --metrics cross_entropy,entropy \\
          --unit bit -o rows.parquet
      streamloss score data/digits.parquet --worst 5 --keep label_name
      streamloss score data/digits.parquet --worst 20 --worst-by brier \\
          --by group -o worst.parquet
    """
    run = shared.taken(given, shared.RUN)
    asked = Options.of(**given)
    if output is None and worst is None:
        raise UsageError("-o says where the rows go ('-': an Arrow stream on standard output); --worst N shows a few")
    if output is not None and (form := _other_format(output)):
        raise UsageError(f"cannot write {output}: scores are Parquet, not {form}")

    from streamloss.writing import scores

    with jobs.watching(progress, asked.unit) as watcher:
        table = scores.score(
            list(paths),
            output,
            keep=keep,
            worst=worst,
            worst_by=worst_by,
            compression=compression,
            progress=watcher,
            **run,
            **given,
        )
    if table is None:
        if output != "-":
            shared.note(f"wrote {output}")
        return

    from streamloss.reporting.costliest import render

    jobs.Destination(None, None, formats=()).write(scores.described(table, _SHOWN), render)


def _other_format(output: str) -> str | None:
    """The format of reports that the file's ending would choose."""
    ending = Path(output).suffix.lower()
    return next((name for name, form in shared.FORMATS.items() if ending in form.endings), None)
