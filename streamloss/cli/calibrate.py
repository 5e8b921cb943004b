"""`streamloss calibrate`: the temperature that logits should be divided by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streamloss.cli import config, jobs, shared
from streamloss.options import Options

if TYPE_CHECKING:
    from streamloss.reporting.report import Report


@click.command(cls=config.Command, short_help="Find the temperature of least loss.")
@shared.paths
@config.option
@shared.columns
@shared.loss
@shared.bins
@shared.conventions
@shared.grid
@shared.checks
@shared.slices
@shared.display
@shared.running
@shared.gates
@shared.output
@shared.plots
def calibrate(paths: tuple[str, ...], progress: bool | None, fail_if: tuple[str, ...], **given: Any) -> None:
    """Find the temperature T that makes the loss of softmax(z / T) least, for all rows and for every slice.

    The rows are read once for the curve of loss and calibration error by T, and two or three times more until T is exact. The
    report is that of --temperature, with the best T, its error and the loss that it would remove; as JSON it goes in where a
    temperature does. Fit T on rows that the final numbers are not taken from.

    \b
    Examples:
      streamloss calibrate data/digits.parquet --logits logits --label label
      streamloss calibrate data/digits.parquet --logits logits --label label \\
          --by group -o temperature.json
      streamloss evaluate data/digits.parquet --logits logits --label label \\
          --temperature temperature.json
    """
    run, written = (shared.taken(given, names) for names in (shared.RUN, shared.WRITTEN))
    given["temperature_sweep"] = True
    asked = Options.of(**given)

    def make() -> Report:
        from streamloss import api

        with jobs.watching(progress, asked.unit) as watcher:
            return api.calibrate(list(paths), progress=watcher, fail_if=fail_if, **run, **given)

    jobs.job(paths, make, fail_if=fail_if, **written).finish()
