"""`streamloss report`: saved states, merged into one report."""

from __future__ import annotations

from typing import Any

import click

from streamloss.cli import shared
from streamloss.options import Options


@click.command(cls=shared.Command, short_help="Merge saved states and report them.")
@click.argument("states", nargs=-1, required=True, metavar="STATE...")
@shared.display
@shared.gates
@shared.output
@shared.plots
def report(
    states: tuple[str, ...],
    form: str | None,
    output: str | None,
    plots: str | None,
    fail_if: tuple[str, ...],
    junit: str | None,
    **display: Any,
) -> None:
    """Merge the states that evaluate saved into one report, as if one run had read all the rows.

    The order of the states changes nothing, down to the last bit. States of different options are refused, and so are
    states that hold the same rows.

    \b
    Examples:
      streamloss evaluate data/digits.parquet --logits logits --label label --save-state digits.state
      streamloss report digits.state --unit bit -o digits.md
    """
    Options.of(**display)  # wrong options are found before anything is read
    destination = shared.Destination(form, output, states)
    shared.check_files(states, output=destination.file, junit=junit)
    shared.check_gates(fail_if, junit)
    figures = shared.Plots(plots)

    from streamloss import api
    from streamloss.reporting.terminal import render

    shared.deliver(api.merge(list(states), fail_if=fail_if, **display), destination, figures, junit, render)
