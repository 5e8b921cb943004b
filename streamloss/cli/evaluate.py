"""`streamloss evaluate`: the report of one model."""

from __future__ import annotations

from typing import Any, Literal

import click

from streamloss.cli import shared
from streamloss.options import Options


@click.command(cls=shared.Command, short_help="Report losses, accuracy and calibration of a model.")
@shared.paths
@shared.columns
@shared.loss
@shared.slices
@shared.checks
@shared.display
@shared.running
@shared.gates
@shared.output
@shared.plots
@shared.options("Output", shared.option("--save-state", metavar="FILE", help="Keep the state for `streamloss report`."))
def evaluate(
    paths: tuple[str, ...],
    form: str | None,
    output: str | None,
    plots: str | None,
    save_state: str | None,
    threads: int | None,
    batch_rows: int | None,
    reader: Literal["auto", "pages", "arrow"],
    progress: bool | None,
    fail_if: tuple[str, ...],
    junit: str | None,
    **options: Any,
) -> None:
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
    asked = Options.of(**options)
    destination = shared.Destination(form, output, paths)
    shared.check_files(paths, output=destination.file, save_state=save_state, junit=junit)
    shared.check_gates(fail_if, junit)
    figures = shared.Plots(plots)

    from streamloss import api, jit
    from streamloss.cli.progress import Meter

    jit.on_compile(lambda: click.echo("streamloss: compiling kernels for this machine, once…", err=True))
    with Meter(progress, asked.unit) as meter:
        report = api.evaluate(
            list(paths),
            threads=threads,
            batch_rows=batch_rows,
            reader=reader,
            progress=meter.show if meter.wanted else None,
            save_state=save_state,
            fail_if=fail_if,
            **options,
        )

    from streamloss.reporting.terminal import render

    shared.deliver(report, destination, figures, junit, render)
