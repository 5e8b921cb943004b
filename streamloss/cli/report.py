"""`streamloss report`: saved states, merged into one report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streamloss.cli import candidates, jobs, shared
from streamloss.options import Options

if TYPE_CHECKING:
    from streamloss.reporting.report import Report


@click.command(cls=shared.Command, short_help="Merge saved states and report them.")
@click.argument("states", nargs=-1, required=True, metavar="STATE...", shell_complete=candidates.files)
@shared.display
@shared.gates
@shared.output
@shared.plots
def report(states: tuple[str, ...], fail_if: tuple[str, ...], **given: Any) -> None:
    """Merge the states that evaluate saved into one report, as if one run had read all the rows.

    The order of the states changes nothing, down to the last bit. States of different options are refused, and so are
    states that hold the same rows.

    \b
    Examples:
      streamloss evaluate data/digits.parquet --logits logits --label label \\
          --save-state digits.state
      streamloss report digits.state --unit bit -o digits.md
    """
    written = shared.taken(given, shared.WRITTEN)
    Options.of(**given)  # wrong options are found before anything is read

    def make() -> Report:
        from streamloss import api

        return api.merge(list(states), fail_if=fail_if, **given)

    jobs.job(states, make, fail_if=fail_if, **written).finish()
