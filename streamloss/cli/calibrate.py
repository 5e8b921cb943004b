"""`streamloss calibrate`: the temperature that logits should be divided by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from streamloss.cli import config, shared
from streamloss.options import Options

if TYPE_CHECKING:
    from streamloss.reporting.report import Report


@click.command(cls=config.Command, short_help="Find the temperature of least loss.")
@shared.paths
@config.option
@shared.columns
@shared.loss
@shared.grid
@shared.checks
@shared.slices
@shared.display
@shared.running
@shared.gates
@shared.output
@shared.plots
def calibrate(
    paths: tuple[str, ...],
    form: str | None,
    output: tuple[str, ...],
    plots: str | None,
    threads: int | None,
    batch_rows: int | None,
    reader: Literal["auto", "pages", "arrow"],
    progress: bool | None,
    fail_if: tuple[str, ...],
    junit: str | None,
    **options: Any,
) -> None:
    """Find the temperature T that makes the loss of softmax(z / T) least, for all rows and for every slice.

    The rows are read once for the curve of loss and calibration error by T, and two or three times more until T is exact. The
    report is that of --temperature, with the best T, its error and the loss that it would remove; as JSON it goes in where a
    temperature does. Fit T on rows that the final numbers are not taken from.

    \b
    Examples:
      streamloss calibrate data/digits.parquet --logits logits --label label
      streamloss calibrate data/digits.parquet --logits logits --label label --by group -o temperature.json
      streamloss evaluate data/digits.parquet --logits logits --label label --temperature temperature.json
    """
    asked = Options.of(**{"temperature_sweep": True} | {name: value for name, value in options.items() if value})

    def make() -> Report:
        from streamloss import api

        with shared.watching(progress, asked.unit) as watcher:
            return api.calibrate(
                list(paths),
                threads=threads,
                batch_rows=batch_rows,
                reader=reader,
                progress=watcher,
                fail_if=fail_if,
                **options | {"temperature_sweep": True},
            )

    shared.job(paths, make, form=form, output=output, plots=plots, fail_if=fail_if, junit=junit).finish()
