"""`streamloss inspect`: what is in the files, what would be used, and the command to type."""

from __future__ import annotations

from typing import Any

import click

from streamloss.cli import jobs, shared
from streamloss.options import Options


@click.command(cls=shared.Command, short_help="Say what files hold and what would be used.")
@shared.paths
@shared.columns
@shared.output_as(shared.PLAIN)
def inspect(paths: tuple[str, ...], form: str | None, output: str | None, **columns: Any) -> None:
    """Say what columns PATH... has, what they would be used as, how they are stored, who reads them, and the command to
    type.

    Only metadata is read.

    \b
    Examples:
      streamloss inspect data/digits.parquet
      streamloss inspect data/cancer.parquet --prob prob --format json
    """
    options = Options.of(**columns)
    destination = jobs.Destination(form, output, paths, shared.PLAIN)

    from streamloss.reading import source
    from streamloss.reporting.schema import render_inspection

    destination.write(source.describe(list(paths), options), render_inspection)
