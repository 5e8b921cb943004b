"""`calc`: the worked examples of the specification, their identities, and the edges at 0 and ∞."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from click.testing import CliRunner

from streamloss import terms
from streamloss.cli.main import cli
from streamloss.errors import UsageError

TRUTH, GUESS = [0.8, 0.1, 0.1], [0.2, 0.2, 0.6]


def calc(*words: str) -> dict[str, Any]:
    result = CliRunner().invoke(cli, ["calc", *words, "--format", "json"])
    assert result.exit_code == 0, result.output
    record: dict[str, Any] = json.loads(result.stdout)
    assert list(record) == ["value", "unit", "terms"]
    return record


def text(*words: str) -> str:
    result = CliRunner().invoke(cli, ["calc", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*words: str) -> str:
    result = CliRunner().invoke(cli, ["calc", *words])
    assert result.exit_code == 2
    return result.stderr


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (("entropy", ".5,.5"), 0.693147),
        (("entropy", ".5,.5", "--unit", "bit"), 1.0),
        (("entropy", "1/6,1/6,1/6,1/6,1/6,1/6"), 1.791759),
        (("entropy", "1/6,1/6,1/6,1/6,1/6,1/6", "--unit", "bit"), 2.584963),
        (("entropy", "--counts", "1,1,1,1,1,1", "--unit", "ban"), 0.778151),
        (("entropy", ".8,.1,.1"), 0.639032),
        (("entropy", ".8", ".1", ".1"), 0.639032),
        (("cross-entropy", "--target", ".8,.1,.1", "--prediction", ".2,.2,.6"), 1.499577),
        (("kl", "--target", ".8,.1,.1", "--prediction", ".2,.2,.6"), 0.860545),
        (("kl", "--target", "8,1,1", "--prediction", "1 1 3", "--counts"), 0.860545),
        (("js", "--target", "1,0", "--prediction", "0,1"), 0.693147),
        (("js", "--target", "1,0", "--prediction", "0,1", "--unit", "bit"), 1.0),
        (("bce", "--label", "1", "--prob", ".9"), 0.105361),
        (("bce", "--label", "0", "--prob", ".9"), 2.302585),
        (("bce", "--label", "0", "--prob", ".9", "--unit", "ban"), 1.0),
        (("bce", "--label", "1", "--logit", "-2"), 2.126928),
        (("bce", "--label", ".25", "--prob", ".5"), 0.693147),
    ],
)
def test_worked_examples(words: tuple[str, ...], value: float) -> None:
    assert calc(*words)["value"] == pytest.approx(value, abs=5e-7)


def test_softmax_of_the_counts() -> None:
    assert calc("softmax", "1,1,3")["value"] == pytest.approx([0.106507, 0.106507, 0.786986], abs=5e-7)
    shares = [term["p"] for term in calc("entropy", "--counts", "1,1,3")["terms"]]
    assert shares == pytest.approx([0.2, 0.2, 0.6], abs=1e-16)


@pytest.mark.parametrize(("a", "b"), [(1.0, 3.0), (-1.0, 2.0), (0.0, 0.0), (700.0, -700.0)])
def test_two_class_softmax_is_the_sigmoid_of_the_difference(a: float, b: float) -> None:
    first = calc("softmax", f"{a},{b}")["value"][0]
    assert first == pytest.approx(1 / (1 + math.exp(b - a)) if b - a < 700 else 0.0, rel=1e-14)


@pytest.mark.parametrize("unit", ["nat", "bit", "ban"])
def test_cross_entropy_is_entropy_plus_kl(unit: str) -> None:
    pair = ("--target", ".8,.1,.1", "--prediction", ".2,.2,.6", "--unit", unit)
    total = calc("cross-entropy", *pair)["value"]
    assert total == pytest.approx(calc("entropy", ".8,.1,.1", "--unit", unit)["value"] + calc("kl", *pair)["value"], rel=1e-15)
    shown = text("cross-entropy", *pair)
    assert "= H(q) + KL(q‖p) = " in shown
    assert f"{total:.6f} {unit}" in shown


def test_value_is_the_sum_of_the_terms() -> None:
    for words in (("cross-entropy",), ("kl",), ("js",)):
        record = calc(*words, "--target", ".8,.1,.1", "--prediction", ".2,.2,.6")
        assert record["value"] == math.fsum(term["product"] for term in record["terms"])


def test_the_terms_are_shown_one_by_one() -> None:
    shown = text("entropy", ".8,.1,.1")
    for number in ("0.223144", "2.302585", "0.178515", "0.230259", "0.639032 nat"):
        assert number in shown
    assert "the expectation of the information ln(1/p)" in shown


def test_a_class_that_never_happens_costs_nothing() -> None:
    assert calc("entropy", "1,0")["value"] == 0
    assert math.copysign(1, calc("entropy", "1,0")["value"]) == 1
    assert calc("cross-entropy", "--target", "1,0", "--prediction", "1,0")["value"] == 0


def test_a_class_that_happens_at_probability_0_costs_infinity() -> None:
    record = calc("cross-entropy", "--target", ".5,.5", "--prediction", "1,0")
    assert record["value"] == "inf"
    assert record["terms"][1] == {"q": 0.5, "p": 0.0, "information": "inf", "product": "inf"}
    assert "∞ nat" in text("kl", "--target", ".5,.5", "--prediction", "1,0")
    assert calc("bce", "--label", "1", "--prob", "0")["value"] == "inf"


def test_small_divergences_keep_their_digits() -> None:
    q, p = [0.5 + 1e-9, 0.5 - 1e-9], [0.5, 0.5]
    assert terms.kl_divergence(q, p).value == pytest.approx(2e-18, rel=1e-6)


def test_sure_logits_keep_their_digits() -> None:
    assert calc("bce", "--label", "1", "--logit", "50")["value"] == pytest.approx(math.exp(-50), rel=1e-14)
    assert calc("bce", "--label", "1", "--logit", "-800")["value"] == 800


def test_negative_numbers_are_numbers_and_not_options() -> None:
    assert calc("softmax", "-1,2")["value"] == pytest.approx([0.0474259, 0.9525741], abs=1e-7)
    assert calc("softmax", "-1", "-2", "-inf")["value"][2] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("entropy", ".5,.4"), "--normalize"),
        (("entropy", "1.5,-.5"), "-0.5 is not a probability"),
        (("entropy", "--counts", "0,0"), "no shares"),
        (("entropy", "half"), "'half' is not a number"),
        (("entropy", "nan,1"), "'nan'"),
        (("entropy", "1/0"), "'1/0' is not a number"),
        (("entropy", ","), "no numbers"),
        (("kl", "--target", ".5,.5", "--prediction", ".2,.2,.6"), "2 classes and the prediction 3"),
        (("kl", "--target", ".5,.5", "--prediction", ".2,.2"), "--prediction"),
        (("softmax", "inf,1"), "must be finite"),
        (("softmax", "-inf"), "must be finite"),
        (("bce", "--label", "1"), "one of --prob and --logit"),
        (("bce", "--label", "1", "--prob", ".5", "--logit", "0"), "one of --prob and --logit"),
        (("bce", "--label", "2", "--prob", ".5"), "between 0 and 1"),
        (("bce", "--label", "1", "--prob", "3"), "a logit goes in --logit"),
        (("bce", "--label", "1,0", "--prob", ".5"), "one number"),
        (("entropy", "--unti", "bit", ".5,.5"), "'--unti' is not a number"),
    ],
)
def test_refusals_say_what_is_wrong(words: tuple[str, ...], message: str) -> None:
    complaint = refused(*words)
    assert complaint.startswith("streamloss: error: ")
    assert complaint.count("\n") == 1
    assert message in complaint


def test_distribution_allows_the_rounding_of_typed_numbers() -> None:
    assert terms.distribution([0.3333333, 0.3333333, 0.3333333], "p") == [0.3333333] * 3
    with pytest.raises(UsageError):
        terms.distribution([0.3333, 0.3333, 0.3333], "p")
