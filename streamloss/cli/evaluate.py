"""`streamloss evaluate`: the report of one model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamloss.cli import config, jobs, shared
from streamloss.options import Options

if TYPE_CHECKING:
    from streamloss.reporting.report import Report


_WAY = ("checkpoint_every", "device", "engine", "scheduler")  # how it runs, and what changes no number


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
@shared.options(
    "Going on",
    shared.option("--checkpoint", metavar="FILE", help="Keep what is done there; the same command then goes on from it."),
    shared.option("--checkpoint-every", type=click.FloatRange(min=0), metavar="SECONDS", help="[default: 5]"),
    shared.option("--cache", metavar="DIR", help="Keep the state of every part there; a new file then costs only itself."),
)
@shared.options(
    "Workers",
    shared.option(
        "--device",
        type=click.Choice(("auto", "cpu", "cuda")),
        default="cpu",
        help="What computes the rows; auto is a CUDA device where there is one.  [default: cpu]",
    ),
    shared.option(
        "--engine",
        type=click.Choice(("local", "dask")),
        default="local",
        help="Threads of this process, or Dask's workers.  [default: local]",
    ),
    shared.option(
        "--scheduler", metavar="ADDRESS", help="Workers of this scheduler, tcp://…  [default: --threads of them, here]"
    ),
)
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
      streamloss evaluate data/digits.parquet --checkpoint digits.checkpoint
      streamloss evaluate data/digits.parquet \\
          --fail-if 'upper(cross_entropy) > 0.35' --fail-if 'accuracy < 90%'
    """
    prepare(**given).finish()


def prepare(
    paths: tuple[str, ...],
    progress: bool | None,
    save_state: str | None,
    checkpoint: str | None,
    cache: str | None,
    fail_if: tuple[str, ...],
    **given: Any,
) -> jobs.Job:
    """The evaluation that was asked for, checked but for what only the files can tell. Raises `UsageError`."""
    run, written = (shared.taken(given, names) for names in ((*shared.RUN, *_WAY), shared.WRITTEN))
    asked = Options.of(**given)
    way: dict[str, Any] = {"checkpoint": checkpoint, "cache": cache, "save_state": save_state}

    def make() -> Report:
        from streamloss import api

        with jobs.watching(progress, asked.unit) as watcher:
            try:
                return api.evaluate(list(paths), progress=watcher, fail_if=fail_if, **way, **run, **given)
            except KeyboardInterrupt:
                if checkpoint is not None and Path(checkpoint).exists():
                    shared.note(f"what was counted is in {checkpoint}; the same command goes on from it")
                raise

    files = (("--save-state", save_state), ("--checkpoint", checkpoint))
    return jobs.job(paths, make, fail_if=fail_if, files=files, **written)
