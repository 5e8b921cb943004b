"""`streamloss evaluate`: the report of one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

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
      streamloss evaluate data/cancer.parquet --prob prob --label label --weight weight --unit bit
      streamloss evaluate data/digits.parquet --probs mlp_probs --label label --zero clip:1e-7 -o digits.json
      streamloss evaluate data/digits.parquet --by group --by label_name,group
      streamloss evaluate data/digits.parquet -o digits.html --plots digits-plots
      streamloss evaluate data/digits.parquet --fail-if 'upper(cross_entropy) > 0.35' --fail-if 'accuracy < 90%'
    """
    prepare(**given).finish()


def prepare(
    paths: tuple[str, ...],
    form: str | None,
    output: tuple[str, ...],
    plots: str | None,
    save_state: str | None,
    threads: int | None,
    batch_rows: int | None,
    reader: Literal["auto", "pages", "arrow"],
    progress: bool | None,
    fail_if: tuple[str, ...],
    junit: str | None,
    **options: Any,
) -> shared.Job:
    """The evaluation that was asked for, checked but for what only the files can tell. Raises `UsageError`."""
    asked = Options.of(**options)

    def make() -> Report:
        from streamloss import api

        with shared.watching(progress, asked.unit) as watcher:
            return api.evaluate(
                list(paths),
                threads=threads,
                batch_rows=batch_rows,
                reader=reader,
                progress=watcher,
                save_state=save_state,
                fail_if=fail_if,
                **options,
            )

    return shared.job(paths, make, form=form, output=output, plots=plots, fail_if=fail_if, junit=junit, save_state=save_state)
