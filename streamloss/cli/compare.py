"""`streamloss compare`: two models on the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streamloss.cli import config, jobs, shared
from streamloss.options import PREDICTIONS

if TYPE_CHECKING:
    from streamloss.reporting.report import Report


@click.command(cls=config.Command, short_help="Compare two models on the same rows.")
@shared.paths
@config.option
@shared.columns
@shared.options(
    "The old model",
    shared.option(
        "--baseline", multiple=True, metavar="PATH", help="Its rows, in the same order; repeatable.  [default: PATH...]"
    ),
    shared.option("--key", metavar="COL", help="A column that must be equal in both, row by row."),
    *(shared.option(f"--baseline-{role}", metavar="COL", help=f"Its prediction, as --{role}.") for role in PREDICTIONS),
    shared.option("--baseline-temperature", metavar="T|FILE", help="Its temperature.  [default: that of --temperature]"),
)
@shared.loss
@shared.bins
@shared.slices
@shared.checks
@shared.display
@shared.running
@shared.gates
@shared.output
@shared.plots
def compare(**given: Any) -> None:
    """Compare the predictions of a new model in PATH... with those of an old one, row by row.

    Both are judged by the same truth, weights and slices. The report has the new model's numbers, the old one's, their
    difference and ratio with errors that know how the models go together, and the divergence between their predictions.

    \b
    Examples:
      streamloss compare data/digits.parquet --probs mlp_probs \\
          --baseline-logits logits --label label
      streamloss compare data/digits.parquet --baseline data/digits.parquet \\
          --key id --probs mlp_probs --baseline-logits logits
      streamloss compare data/digits.parquet --probs mlp_probs \\
          --baseline-logits logits --by group -o digits-compared.html
      streamloss compare data/digits.parquet --probs mlp_probs \\
          --baseline-logits logits --fail-if 'ratio(perplexity) > 1.02'
    """
    prepare(**given).finish()


def prepare(
    paths: tuple[str, ...],
    baseline: tuple[str, ...],
    key: str | None,
    progress: bool | None,
    fail_if: tuple[str, ...],
    **given: Any,
) -> jobs.Job:
    """The comparison that was asked for, checked but for what only the files can tell. Raises `UsageError`."""
    from streamloss import api

    run, written = (shared.taken(given, names) for names in (shared.RUN, shared.WRITTEN))
    asked, _ = api.compared_options(given, same=not baseline)
    old = list(baseline) or None

    def make() -> Report:
        with jobs.watching(progress, asked.unit) as watcher:
            return api.compare(list(paths), baseline=old, key=key, progress=watcher, fail_if=fail_if, **run, **given)

    return jobs.job((*paths, *baseline), make, fail_if=fail_if, **written)
