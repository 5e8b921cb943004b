"""`streamloss compare`: two models on the same rows."""

from __future__ import annotations

from typing import Any, Literal

import click

from streamloss.cli import shared
from streamloss.options import PREDICTIONS, Options


@click.command(cls=shared.Command, short_help="Compare two models on the same rows.")
@shared.paths
@shared.columns
@shared.options(
    "The old model",
    shared.option(
        "--baseline", multiple=True, metavar="PATH", help="Its rows, in the same order; repeatable.  [default: PATH...]"
    ),
    shared.option("--key", metavar="COL", help="A column that must be equal in both, row by row."),
    *(shared.option(f"--baseline-{role}", metavar="COL", help=f"Its prediction, as --{role}.") for role in PREDICTIONS),
    shared.option("--baseline-temperature", type=float, metavar="T", help="Its temperature.  [default: that of --temperature]"),
)
@shared.loss
@shared.slices
@shared.checks
@shared.display
@shared.running
@shared.gates
@shared.output
@shared.plots
def compare(
    paths: tuple[str, ...],
    baseline: tuple[str, ...],
    form: str | None,
    output: str | None,
    plots: str | None,
    threads: int | None,
    batch_rows: int | None,
    reader: Literal["auto", "pages", "arrow"],
    progress: bool | None,
    fail_if: tuple[str, ...],
    junit: str | None,
    **options: Any,
) -> None:
    """Compare the predictions of a new model in PATH... with those of an old one, row by row.

    Both are judged by the same truth, weights and slices. The report has the new model's numbers, the old one's, their
    difference and ratio with errors that know how the models go together, and the divergence between their predictions.

    \b
    Examples:
      streamloss compare data/digits.parquet --probs mlp_probs --baseline-logits logits --label label
      streamloss compare data/digits.parquet --baseline data/digits.parquet --key id --probs mlp_probs --baseline-logits logits
      streamloss compare data/digits.parquet --probs mlp_probs --baseline-logits logits --by group -o digits-compared.html
      streamloss compare data/digits.parquet --probs mlp_probs --baseline-logits logits --fail-if 'ratio(perplexity) > 1.02'
    """
    asked = Options.of(**{name: value for name, value in options.items() if name != "key" and not name.startswith("baseline_")})
    inputs = (*paths, *baseline)
    destination = shared.Destination(form, output, inputs)
    shared.check_files(inputs, output=destination.file, junit=junit)
    shared.check_gates(fail_if, junit)
    figures = shared.Plots(plots)

    from streamloss import api

    with shared.watching(progress, asked.unit) as watcher:
        report = api.compare(
            list(paths),
            baseline=list(baseline) or None,
            threads=threads,
            batch_rows=batch_rows,
            reader=reader,
            progress=watcher,
            fail_if=fail_if,
            **options,
        )

    from streamloss.reporting.terminal import render

    shared.deliver(report, destination, figures, junit, render)
