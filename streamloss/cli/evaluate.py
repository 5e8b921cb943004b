"""`streamloss evaluate`: the report of one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streamloss.cli import config, shared
from streamloss.options import Options

if TYPE_CHECKING:
    from streamloss.reporting.report import Report


@click.command(cls=config.Command, short_help="Report losses, accuracy and calibration of a model.")
@shared.paths
@config.option
@shared.columns
@shared.loss
@shared.bins
@shared.conventions
@shared.sweep
@shared.slices
@shared.checks
@shared.display
@shared.running
@shared.gates
@shared.output
@shared.plots
@shared.options("Output", shared.option("--save-state", metavar="FILE", help="Keep the state for `streamloss report`."))
def evaluate(**given: Any) -> None:
    """Report the losses, the accuracy and the calibration of the predictions in PATH...

    PATH is a Parquet file, a folder, a glob, a URI, or - for an Arrow stream on standard input. The result is exact,
    whatever the threads, the batch size or the order of the rows: runs over the same rows print the same digest.

    \b
    Examples:
      streamloss evaluate data/digits.parquet --logits logits --label label
      streamloss evaluate data/cancer.parquet --prob prob --label label \\
          --weight weight --unit bit
      streamloss evaluate data/digits.parquet --probs mlp_probs --label label \\
          --zero clip:1e-7 -o digits.json
      streamloss evaluate data/digits.parquet --by group --by label_name,group
      streamloss evaluate data/digits.parquet -o digits.html --plots digits-plots
      streamloss evaluate data/digits.parquet \\
          --fail-if 'upper(cross_entropy) > 0.35' --fail-if 'accuracy < 90%'
    """
    prepare(**given).finish()


def prepare(
    paths: tuple[str, ...], progress: bool | None, save_state: str | None, fail_if: tuple[str, ...], **given: Any
) -> shared.Job:
    """The evaluation that was asked for, checked but for what only the files can tell. Raises `UsageError`."""
    run, written = (shared.taken(given, names) for names in (shared.RUN, shared.WRITTEN))
    asked = Options.of(**given)

    def make() -> Report:
        from streamloss import api

        with shared.watching(progress, asked.unit) as watcher:
            return api.evaluate(list(paths), progress=watcher, save_state=save_state, fail_if=fail_if, **run, **given)

    return shared.job(paths, make, fail_if=fail_if, save_state=save_state, **written)
