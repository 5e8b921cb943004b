"""`streamloss calc`: one small distribution, its sum shown term by term."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import click

from streamloss.cli import jobs, shared
from streamloss.options import Unit

if TYPE_CHECKING:
    from streamloss.terms import Working

# Negative numbers look like options; what is no option of ours is passed on and read as a number.
_NUMBERS: dict[str, Any] = {"ignore_unknown_options": True}
_NORMALIZE = shared.option(
    "--normalize", "--counts", "normalize", is_flag=True, help="Numbers are counts: divide by their sum."
)
_UNIT = shared.option(
    "--unit", type=click.Choice(get_args(Unit)), default="nat", show_default=True, help="Unit of information."
)
_FORMAT = shared.option("--format", "form", type=click.Choice(shared.PLAIN), help="[default: terminal]")


@click.group(cls=shared.Group, short_help="Calculate a small example, term by term.")
def calc() -> None:
    """Calculate one small example and show the sum term by term.

    Numbers are separated by commas or spaces and may be fractions: .5,.5 or 1/3,2/3.

    \b
    Examples:
      streamloss calc entropy .5,.5 --unit bit
      streamloss calc cross-entropy --target .8,.1,.1 --prediction .2,.2,.6
      streamloss calc softmax 1,1,3
      streamloss calc bce --label 1 --prob .9
    """


@calc.command(cls=shared.Command, context_settings=_NUMBERS)
@click.argument("p", nargs=-1, required=True, metavar="P...", type=click.UNPROCESSED)
@shared.options("Options", _NORMALIZE, _UNIT, _FORMAT)
def entropy(p: tuple[str, ...], normalize: bool, unit: str, form: str | None) -> None:
    """H(p), the expectation of the information ln(1/p).

    \b
    Examples:
      streamloss calc entropy .5,.5
      streamloss calc entropy --counts 1,1,3
    """
    from streamloss import terms

    shares = terms.distribution(terms.numbers(" ".join(p), "p"), "p", normalize=normalize)
    _print(terms.entropy(shares, unit), form)


def _pair(name: str, text: str) -> click.Command:
    """A command over a target and a prediction; they differ only in the sum."""

    @shared.options(
        "Options",
        shared.option("--target", required=True, metavar="Q", help="What is true: probabilities of the classes."),
        shared.option("--prediction", required=True, metavar="P", help="What was predicted."),
        _NORMALIZE,
        _UNIT,
        _FORMAT,
    )
    def command(target: str, prediction: str, normalize: bool, unit: str, form: str | None) -> None:
        from streamloss import terms

        q = terms.distribution(terms.numbers(target, "--target"), "--target", normalize=normalize)
        p = terms.distribution(terms.numbers(prediction, "--prediction"), "--prediction", normalize=normalize)
        _print(terms.PAIRS[name](q, p, unit), form)

    example = f"\n\n\b\nExample:\n  streamloss calc {name} --target .8,.1,.1 --prediction .2,.2,.6"
    return calc.command(name, cls=shared.Command, help=text + example)(command)


_pair("cross-entropy", "H(q, p) = H(q) + KL(q‖p): the mean of ln(1/p) under q.")
_pair("kl", "KL(q‖p): what believing p costs beyond the entropy of q.")
_pair("js", "JS(q, p): how far apart q and p are, at most ln 2.")


@calc.command(cls=shared.Command, context_settings=_NUMBERS)
@click.argument("z", nargs=-1, required=True, metavar="Z...", type=click.UNPROCESSED)
@shared.options("Options", _FORMAT)
def softmax(z: tuple[str, ...], form: str | None) -> None:
    """The probabilities that logits stand for.

    \b
    Examples:
      streamloss calc softmax 1,1,3
      streamloss calc softmax -1,2
    """
    from streamloss import terms

    _print(terms.softmax(terms.numbers(" ".join(z), "z")), form)


@calc.command(cls=shared.Command)
@shared.options(
    "Options",
    shared.option("--label", "y", required=True, metavar="Y", help="1 or 0, or anything between for a soft label."),
    shared.option("--prob", metavar="P", help="The predicted probability of the positive class."),
    shared.option("--logit", metavar="Z", help="Its logit instead."),
    _UNIT,
    _FORMAT,
)
def bce(y: str, prob: str | None, logit: str | None, unit: str, form: str | None) -> None:
    """Binary cross-entropy, -y ln p - (1 - y) ln(1 - p).

    \b
    Examples:
      streamloss calc bce --label 1 --prob .9
      streamloss calc bce --label 0 --logit -2
    """
    from streamloss import terms

    working = terms.binary_cross_entropy(
        terms.number(y, "--label"),
        prob=None if prob is None else terms.number(prob, "--prob"),
        logit=None if logit is None else terms.number(logit, "--logit"),
        unit=unit,
    )
    _print(working, form)


def _print(working: Working, form: str | None) -> None:
    from streamloss.reporting.terminal import render_working

    record = {"value": working.value, "unit": working.unit, "terms": working.terms}
    jobs.Destination(form, None).write(record, lambda _, console: render_working(working, console))
