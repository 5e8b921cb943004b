"""Gates: what a rule means, what it finds in a report, that nothing missing ever passes, and how a run with gates ends."""

from __future__ import annotations

import copy
import json
import math
import operator
import random
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
from commands import run
from hypothesis import given
from hypothesis import strategies as st

import streamloss
from streamloss.errors import UsageError
from streamloss.quantities import QUANTITIES
from streamloss.reporting import gates, junit, tables, terminal, units
from streamloss.reporting.rules import COUNTS, Gate, Value, parse

ROOT = Path(__file__).parent.parent
DIGITS = str(ROOT / "data" / "digits.parquet")


def metric(mean: Any, **more: Any) -> dict[str, Any]:
    return {"mean": mean, "title": "a title", "unit": "nat"} | more


def entry(by: dict[str, Any], mean: Any, rows: int = 10, **more: Any) -> dict[str, Any]:
    known = metric(mean, low=mean - 0.1, high=mean + 0.1) if isinstance(mean, float) else mean
    counts = {"read": rows, "used": rows, "ignored": 0, "invalid": 0}
    return {"by": by, "rows": counts, "weight": float(rows), "metrics": {"cross_entropy": known}} | more


REPORT: dict[str, Any] = {
    "command": "compare",
    "unit": "nat",
    "digest": "3f2a" * 16,
    "rows": {"read": 103, "used": 100, "ignored": 1, "invalid": 2},
    "weight": 200.5,
    "ledger": {"nan": 2, "null": 0, "clipped": 7},
    "metrics": {
        "cross_entropy": metric(
            0.3,
            stderr=0.02,
            low=0.26,
            high=0.34,
            min=0.001,
            max=9.5,
            infinite=0,
            finite_mean=0.3,
            quantiles={"0.5": 0.2, "0.99": 4.0, "1e-06": 0.0011},
        ),
        "perplexity": metric("inf", infinite=3, finite_mean=1.4),
        "accuracy": metric(0.9, stderr=0.03, low=0.84, high=0.96),
        "normalized_cross_entropy": metric(None, reason="one class only"),
        "ece": metric(math.nan),
        "delta_p": metric(-0.01, stderr=0.01),
        "top5_accuracy": metric(1.0),
    },
    "slices": [
        entry({"group": "a"}, 0.2, 30),
        entry({"group": "New York, NY"}, 0.6, comparison={"cross_entropy": {"difference": 0.07, "low": 0.01, "high": 0.13}}),
        entry({"group": None}, 0.4),
        entry({"group": "null"}, 0.41),
        entry({"group": 'say "]" \\'}, 0.42),
        entry({"group": "(other)"}, 0.5, other=True),
        entry({"n": 7}, 0.1),
        entry({"n": -1}, metric(None, reason="no rows were used")),
        entry({"old": True, "over": "x=y"}, 0.9, baseline={"metrics": {"cross_entropy": metric(1.1)}}),
    ],
    "slicing": [
        {"by": ["group"], "slices": 6, "shown": 5, "macro": {"cross_entropy": metric(0.43)}},
        {"by": ["n"], "slices": 2, "shown": 2, "macro": {"cross_entropy": metric(None, reason="a slice without rows")}},
    ],
    "baseline": {"metrics": {"cross_entropy": metric(0.31, max="inf")}},
    "comparison": {
        "cross_entropy": {
            "new": 0.3,
            "old": 0.31,
            "difference": -0.01,
            "stderr": 0.004,
            "low": -0.018,
            "high": -0.002,
            "ratio": 0.968,
            "ratio_stderr": 0.01,
            "ratio_low": 0.95,
            "ratio_high": 0.99,
            "correlation": 0.97,
        },
        "perplexity": {"difference": None, "ratio": None},
    },
    "conventions": {"sklearn": {"cross_entropy": {"value": 0.2999, "difference": -1e-4, "cause": "clipped"}}},
    "inputs": [{"path": "data/a.parquet", "bytes": 1, "rows": 103}],
}

# A value as a rule writes it, and the number that the report above has for it.
VALUES: list[tuple[str, float]] = [
    ("cross_entropy", 0.3),
    ("cross_entropy.mean", 0.3),
    ("cross_entropy.stderr", 0.02),
    ("cross_entropy.max", 9.5),
    ("cross_entropy.infinite", 0),
    ("cross_entropy.finite_mean", 0.3),
    ("cross_entropy.q0.99", 4.0),
    ("cross_entropy.q.5", 0.2),
    ("cross_entropy.q0.000001", 0.0011),
    ("upper(cross_entropy)", 0.34),
    ("lower(cross_entropy)", 0.26),
    ("cross_entropy.high", 0.34),
    ("perplexity", math.inf),
    ("perplexity.finite_mean", 1.4),
    ("delta_p", -0.01),
    ("top5_accuracy", 1.0),
    ("rows.used", 100),
    ("rows.invalid", 2),
    ("ledger.nan", 2),
    ("ledger.clipped", 7),
    ("weight", 200.5),
    ("cross_entropy[group=a]", 0.2),
    ("cross_entropy[group='New York, NY']", 0.6),
    ('cross_entropy["group"="New York, NY"]', 0.6),
    ("cross_entropy[group=null]", 0.4),
    ('cross_entropy[group="null"]', 0.41),
    ('cross_entropy[group="say \\"]\\" \\\\"]', 0.42),
    ("cross_entropy[group=(other)]", 0.5),
    ("cross_entropy[n=7]", 0.1),
    ("cross_entropy[n=7].high", 0.2),
    ("cross_entropy.high[n=7]", 0.2),
    ("upper(cross_entropy[n=7])", 0.2),
    ("cross_entropy[over=x=y, old=true]", 0.9),
    ("cross_entropy[old=true, over=x=y]", 0.9),
    ("rows.used[group=a]", 30),
    ("weight[n=7]", 10.0),
    ("max(cross_entropy over group)", 0.6),
    ("min(cross_entropy over group)", 0.2),
    ("max(upper(cross_entropy) over group)", 0.7),
    ("max(cross_entropy over old, over)", 0.9),
    ("max(cross_entropy over 'over' , \"old\")", 0.9),
    ("max(rows.used over slices)", 30),
    ("mean(cross_entropy over group)", 0.43),
    ("difference(cross_entropy)", -0.01),
    ("difference(cross_entropy).stderr", 0.004),
    ("upper(difference(cross_entropy))", -0.002),
    ("lower(difference(cross_entropy[group='New York, NY']))", 0.01),
    ("ratio(cross_entropy)", 0.968),
    ("upper(ratio(cross_entropy))", 0.99),
    ("lower( ratio ( cross_entropy ) )", 0.95),
    ("correlation(cross_entropy)", 0.97),
    ("baseline(cross_entropy)", 0.31),
    ("baseline(cross_entropy.max)", math.inf),
    ("baseline(cross_entropy).max", math.inf),
    ("baseline(cross_entropy[old=true,over=x=y])", 1.1),
    ("convention(sklearn, cross_entropy)", 0.2999),
    ("convention('sklearn',cross_entropy).difference", -1e-4),
]
OPERATORS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


def judged(*rules: str, report: dict[str, Any] = REPORT) -> list[dict[str, Any]]:
    return gates.judge(gates.parse_all(rules), report)


def written(number: float) -> Any:
    return {math.inf: "inf", -math.inf: "-inf"}.get(number, number)


@pytest.mark.parametrize(("value", "expected"), VALUES)
def test_a_rule_is_true_of_the_number_it_names(value: str, expected: float) -> None:
    for sign, holds in OPERATORS.items():
        for limit in (expected, expected + 1 if math.isfinite(expected) else 5.0, -math.inf, math.inf):
            rule = f" {value}{sign}{limit!r} "
            (record,) = judged(rule)
            assert record["outcome"] == ("fail" if holds(expected, limit) else "pass"), rule
            assert (record["rule"], record["value"], record["limit"]) == (rule.strip(), written(expected), written(limit))
            assert "reason" not in record


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("0.35", 0.35),
        ("-3", -3.0),
        ("+.5", 0.5),
        ("5.", 5.0),
        ("1e-3", 1e-3),
        ("2E2", 200.0),
        ("12%", 0.12),
        ("12.3 %", 0.123),  # not 12.3 / 100, which is 0.12300000000000001
        ("1e1%", 0.1),
        ("inf", math.inf),
        ("-inf", -math.inf),
        ("infinity", math.inf),
    ],
)
def test_limits(limit: str, expected: float) -> None:
    assert parse(f"accuracy < {limit}").limit == expected


UNDECIDED = [
    ("bits_per_byte > 1", "there is no bits_per_byte in the metrics"),
    ("entropy > 1", "there is no entropy in the metrics; did you mean 'cross_entropy'?"),
    ("normalized_cross_entropy > 1", "normalized_cross_entropy: one class only"),
    ("normalized_cross_entropy.max > 1", "normalized_cross_entropy.max: one class only"),
    ("ece > 1", "ece is not a number"),
    ("delta_p.max > 1", "delta_p.max is not known"),
    ("upper(perplexity) > 1", "upper(perplexity) is not known (the mean is infinite, and so has no error and no interval)"),
    ("upper(delta_p) > 1", "upper(delta_p) is not known"),
    ("cross_entropy.q0.9 > 1", "cross_entropy has no quantile 0.9; there are 0.5, 0.99, 1e-06 (--quantiles 0.9 asks for it)"),
    ("accuracy.q0.9 > 1", "accuracy.q0.9 is not known"),
    ("ledger.row_sum > 1", "ledger.row_sum is not known"),
    ("cross_entropy[group=A] > 1", "there is no slice group=A; did you mean 'group=a'?"),
    ("cross_entropy[group='New York'] > 1", "there is no slice group=New York; did you mean 'group=\"New York, NY\"'?"),
    ("cross_entropy[grup=a] > 1", "the report is not sliced by grup; did you mean 'group'?"),
    ("cross_entropy[x=a] > 1", "the report is not sliced by x; it is by group and by n and by old, over"),
    ("cross_entropy[old=true] > 1", "the report is not sliced by old; it is by group and by n and by old, over"),
    ("cross_entropy[n=-1] > 1", "cross_entropy[n=-1]: no rows were used"),
    ("upper(cross_entropy[n=-1]) > 1", "upper(cross_entropy[n=-1]): no rows were used"),
    ("max(cross_entropy over n) > 1", "in the slice n=-1 cross_entropy: no rows were used"),
    ("min(cross_entropy over n) > 0", "in the slice n=-1 cross_entropy: no rows were used"),
    ("max(cross_entropy over z) > 1", "the report is not sliced by z; it is by group and by n and by old, over"),
    ("max(accuracy over group) > 1", "in the slice group=a there is no accuracy in the metrics, and so in 5 other slices"),
    ("mean(cross_entropy over slices) > 1", "the report is sliced by group and n: say over which to take the mean"),
    ("mean(cross_entropy over n) > 1", "the mean of cross_entropy over slices: a slice without rows"),
    ("mean(accuracy over group) > 1", "there is no mean of accuracy over slices"),
    ("mean(accuracy over z) > 1", "the report is not sliced by z; it is by group and by n and by old, over"),
    ("difference(accuracy) > 1", "there is no accuracy in the comparison"),
    ("difference(perplexity) > 1", "difference(perplexity) is not known"),
    ("upper(ratio(perplexity)) > 1", "upper(ratio(perplexity)) is not known"),
    ("difference(cross_entropy[n=7]) > 1", "the report compares nothing: that is what `streamloss compare` does"),
    ("baseline(cross_entropy[n=7]) > 1", "the report compares nothing: that is what `streamloss compare` does"),
    ("baseline(accuracy) > 1", "there is no accuracy in the baseline"),
    ("convention(sklear, cross_entropy) > 1", "the report has no convention 'sklear'; did you mean 'sklearn'?"),
    ("convention(sklearn, brier) > 1", "there is no brier in convention sklearn"),
]


@pytest.mark.parametrize(("rule", "reason"), UNDECIDED)
def test_what_is_missing_never_passes_and_is_named(rule: str, reason: str) -> None:
    value, limit = rule.split(" > ")
    for turned in (rule, f"{value} < {limit}", f"{value} != {limit}"):
        (record,) = judged(turned)
        assert record == {
            "rule": turned,
            "value": None,
            "outcome": "undecided",
            "reason": reason,
            "limit": float(limit),
        }


def test_a_report_without_slices_and_comparison_decides_nothing_about_them() -> None:
    bare = {key: REPORT[key] for key in ("rows", "weight", "ledger", "metrics")}
    for empty in (bare, bare | dict.fromkeys(("slices", "slicing", "baseline", "comparison", "conventions"))):
        for rule, reason in (
            ("cross_entropy[group=a] > 1", "the report has no slices"),
            ("max(cross_entropy over slices) > 1", "the report has no slices"),
            ("mean(cross_entropy over group) > 1", "the report has no slices"),
            ("difference(cross_entropy) > 1", "the report compares nothing: that is what `streamloss compare` does"),
            ("convention(torch, cross_entropy) > 1", "the report has no convention 'torch'"),
        ):
            (record,) = judged(rule, report=empty)
            assert (record["outcome"], record["value"], record["reason"]) == ("undecided", None, reason)
        assert [record["outcome"] for record in judged("cross_entropy > 0.2", "rows.used < 5", report=empty)] == [
            "fail",
            "pass",
        ]


MISTAKES = [
    ("", "expected a quantity such as cross_entropy at character 1, found the end"),
    ("> 1", "expected a quantity such as cross_entropy at character 1, found '> 1'"),
    ("cross_entropy", "expected one of < <= > >= == != and a number at character 14, found the end"),
    ("cross_entropy = 1", "expected one of < <= > >= == != and a number at character 15, found '= 1'"),
    ("cross_entropy >> 1", "expected a number, inf, or a share such as 90% at character 16, found '> 1'"),
    ("cross_entropy > nan", "expected a number, inf, or a share such as 90% at character 17, found 'nan'"),
    ("cross_entropy > perplexity", "expected a number, inf, or a share such as 90% at character 17, found 'perplexity'"),
    ("cross_entropy > 1 or ece > 1", "expected nothing more at character 19, found 'or ece > 1'"),
    ("cross_entropy > 1e999", "a number that float64 does not hold (inf is written inf) at character 17"),
    ("cros_entropy > 1", "no quantity 'cros_entropy' at character 1; did you mean 'cross_entropy'?"),
    ("upper(acuracy) > 1", "no quantity 'acuracy' at character 7; did you mean 'accuracy'?"),
    ("top0_accuracy > 1", "no quantity 'top0_accuracy' at character 1; did you mean 'top5_accuracy'?"),
    ("qqq > 1", "no quantity 'qqq' at character 1"),
    ("uper(cross_entropy) > 1", "no function 'uper' at character 1; did you mean 'upper'?"),
    (
        "exp(entropy) > 1",
        "no function 'exp' at character 1; there are max, min, mean, upper, lower, baseline, difference, ratio, correlation, "
        "convention",
    ),
    (
        "upper(max(ece over slices)) > 1",
        "max(…) cannot stand here, inside of another, at character 7; they nest as in "
        "max(upper(difference(cross_entropy)) over slices)",
    ),
    ("rows > 1", "expected one of rows.read, rows.used, rows.ignored, rows.invalid at character 6, found '> 1'"),
    ("rows.usd > 1", "no rows.usd at character 1; did you mean 'rows.used'?"),
    ("rows.zzzzzzzz > 1", "no rows.zzzzzzzz at character 1; there are rows.read, rows.used, rows.ignored, rows.invalid"),
    ("rows.used.max > 1", "rows.used is a number, without fields at character 10"),
    ("ledger.nan[a=1] > 1", "slices have no ledger at character 1"),
    ("max(ledger.nan over a) > 1", "slices have no ledger at character 5"),
    ("upper(rows.used) > 1", "rows.used has no confidence interval at character 1"),
    ("upper(cross_entropy.max) > 1", "cross_entropy.max has no confidence interval at character 1"),
    ("lower(correlation(ece)) > 1", "correlation(ece) has no confidence interval at character 1"),
    ("upper(convention(a, ece)) > 1", "convention(a, ece) has no confidence interval at character 1"),
    ("upper(upper(ece)) > 1", "upper(…) cannot stand here, inside of another, at character 7; they nest as in"),
    ("upper(ece > 1", "expected ')' at character 11, found '> 1'"),
    ("ece.men > 1", "no field 'men' at character 5; did you mean 'mean'?"),
    (
        "ece.qqqqq > 1",
        "no field 'qqqqq' at character 5; there are mean, stderr, low, high, min, max, infinite, finite_mean, finite_stderr, "
        "q0.99",
    ),
    ("ece.q99 > 1", "a quantile lies between 0 and 1, as in q0.99 at character 5"),
    ("ece.max.min > 1", "expected one of < <= > >= == != and a number at character 8, found '.min > 1'"),
    ("difference(rows.used) > 1", "difference(…) takes a quantity, and rows.used is a count at character 1"),
    ("ratio(ece.max) > 1", "ratio(…) takes the mean of a quantity, not another field at character 1"),
    ("ratio(ece).max > 1", "no field 'max' at character 12; there are value, stderr, low, high"),
    ("baseline(ece.max).min > 1", "expected one of < <= > >= == != and a number at character 18, found '.min > 1'"),
    ("convention(ece) > 1", "expected ',' at character 15, found ') > 1'"),
    ("convention(a, ece[b=1]) > 1", "conventions have no slices at character 1"),
    ("max(ece) > 1", "expected 'over slices' or 'over COLUMN' (ece.max is that of the rows) at character 8, found ') > 1'"),
    ("max(ece over) > 1", "expected a column at character 13, found ') > 1'"),
    ("max(ece over a b > 1", "expected ',' or ')' at character 21, found the end"),
    ("max(ece[a=1] over a) > 1", "max(…) goes over slices, so its quantity cannot name one at character 5"),
    ("max(convention(a, ece) over a) > 1", "slices have no convention at character 5"),
    ("mean(upper(ece) over a) > 1", "mean(…) takes the mean of a quantity alone, as in mean(cross_entropy over slices)"),
    ("mean(rows.used over a) > 1", "mean(…) takes the mean of a quantity alone, as in mean(cross_entropy over slices)"),
    ("ece[] > 1", "expected a column, as in [group=7] at character 5, found '] > 1'"),
    ("ece[a] > 1", "expected '=' and the slice's value at character 6, found '] > 1'"),
    ("ece[a=] > 1", "expected a value at character 7, found '] > 1'"),
    ("ece[a=1 > 1", "expected ',' or ']' at character 12, found the end"),
    ("ece[a=1,a=2] > 1", "column 'a' stands in the slice twice at character 9"),
    ("ece['a=1] > 1", 'expected a column, as in [group=7] at character 5, found "\'a=1] > 1"'),
]


@pytest.mark.parametrize(("rule", "message"), MISTAKES)
def test_a_rule_that_makes_no_sense_is_refused_at_its_place(rule: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(rule)
    assert str(refused.value).startswith(f"--fail-if {rule!r}: {message}")


def test_a_rule_is_text() -> None:
    with pytest.raises(UsageError, match="a rule is text"):
        gates.parse_all([3])  # type: ignore[list-item]
    assert gates.parse_all(None) == ()
    assert gates.parse_all("ece > 1") == gates.parse_all(["ece > 1"])


@pytest.mark.parametrize(
    "key", [*QUANTITIES, "top1_accuracy", "delta_p", "weight", *(f"{k}.{v}" for k in COUNTS for v in COUNTS[k])]
)
def test_every_quantity_can_be_named(key: str) -> None:
    assert parse(f"{key} > 1").value == Value(key)


def test_every_number_of_a_real_report_can_be_named() -> None:
    report = streamloss.evaluate(DIGITS).to_dict()
    for key, found in report["metrics"].items():
        for field in found.keys() - {"title", "unit", "reason", "quantiles"}:
            assert judged(f"{key}.{field} < 0", report=report)[0]["value"] == found[field]
        for level, value in found.get("quantiles", {}).items():
            assert judged(f"{key}.q{level} < 0", report=report)[0]["value"] == value
    for part in COUNTS:
        for name in COUNTS[part]:
            assert judged(f"{part}.{name} < 0", report=report)[0]["value"] == report[part][name]


# Text of users: anything, with more of what means something in a rule than chance would bring.
texts = st.text(min_size=1, max_size=8) | st.text("\"'\\[](),=. nul\n\x00é", min_size=1, max_size=8)
slices = st.dictionaries(texts, texts | st.none(), min_size=1, max_size=3).map(lambda by: tuple(by.items()))
keys = st.sampled_from(["cross_entropy", "perplexity", "delta_p", "top12_accuracy"])
levels = st.floats(0, 1).map(lambda level: f"q{level!r}")
fields = st.sampled_from(["mean", "stderr", "low", "high", "min", "max", "infinite", "finite_mean", "finite_stderr"]) | levels
values = st.one_of(
    st.builds(Value, st.sampled_from(["rows.used", "weight", "ledger.nan"])),
    st.builds(Value, st.sampled_from(["rows.invalid", "weight"]), where=slices),
    st.builds(Value, keys, st.sampled_from(["", "baseline"]), fields, where=st.none() | slices),
    st.builds(
        Value, keys, st.just("difference"), st.sampled_from(["difference", "stderr", "low", "high"]), where=st.none() | slices
    ),
    st.builds(
        Value, keys, st.just("ratio"), st.sampled_from(["ratio", "ratio_stderr", "ratio_high"]), where=st.none() | slices
    ),
    st.builds(Value, keys, st.just("correlation"), st.just("correlation"), where=st.none() | slices),
    st.builds(Value, keys, st.just("convention"), st.sampled_from(["value", "difference"]), texts),
)
limits = st.floats(allow_nan=False)


@given(values, st.sampled_from(sorted(OPERATORS)), limits)
def test_a_value_reads_back_from_how_it_is_written(value: Value, sign: str, limit: float) -> None:
    rule = f"{value} {sign} {limit!r}"
    assert parse(rule) == Gate(rule.strip(), value, sign, limit)


@given(values, st.lists(texts, min_size=1, max_size=3), limits, st.sampled_from(["max", "min"]))
def test_a_fold_reads_back(value: Value, columns: list[str], limit: float, fold: str) -> None:
    quoted = ", ".join('"' + column.replace("\\", "\\\\").replace('"', '\\"') + '"' for column in columns)
    rule = f"{fold}({value} over {quoted}) >= {limit!r}"
    if value.where or value.side == "convention" or value.key == "ledger.nan":
        with pytest.raises(UsageError):
            parse(rule)
    else:
        assert parse(rule) == Gate(rule, value, ">=", limit, fold, tuple(columns))


@given(st.sampled_from([value for value, _ in VALUES]), st.randoms())
def test_spaces_are_free(value: str, chance: random.Random) -> None:
    pieces = re.findall(r"\"(?:\\.|[^\"])*\"|'[^']*'|q[\d.]+|[\w-]+|<=|>=|==|!=|.", value + ">=5%")
    spaced = "".join(piece + chance.choice(["", " ", "\t \n"]) for piece in pieces if piece != " ")
    # What is not quoted in a slice may have spaces inside of it, and `over` needs those around it.
    if "[" not in value and " over " not in value:
        plain, turned = parse(value + ">=5%"), parse(spaced)
        assert (plain.value, plain.limit, plain.fold) == (turned.value, turned.limit, turned.fold)


PIECES = [
    *(value for value, _ in VALUES),
    *"()[]<>=.,'\"\\% ",
    *("max(", "min(", "mean(", "upper(", "difference(", "convention(", " over ", "slices", "group", "null", "rows", "ledger"),
    *(".q0.5", ".q", "1e5", "inf", "-", "0.3", "9" * 400, "é", "\x00", "\ud800", "]]>", "\n"),
]


@given(st.text() | st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_any_text_is_a_rule_or_a_usage_error(text: str) -> None:
    try:
        gate = parse(text)
    except UsageError as error:
        assert str(error).startswith("--fail-if ")
        assert re.search(r" at character [1-9]\d*", str(error))
        return
    check_outcome(gates.judge([gate], REPORT))


def check_outcome(records: list[dict[str, Any]]) -> None:
    """Whatever comes out is whole, and every renderer takes it."""
    for record in records:
        assert (record["value"] is None) == (record["outcome"] == "undecided") == ("reason" in record)
    report = copy.deepcopy(REPORT) | {"gates": records, "metrics": {}}
    json.dumps(records, allow_nan=False)
    cases = ElementTree.fromstring(junit.encode(report)).findall("*/testcase")
    assert len(cases) == len(records)
    assert tables.to_text(lambda console: terminal.render(report, console))


@given(
    st.lists(st.none() | st.sampled_from(["inf", "-inf"]) | st.integers(-3, 3).map(float), max_size=5),
    st.sampled_from(["max", "min"]),
    st.sampled_from(sorted(OPERATORS)),
    st.integers(-3, 3).map(float),
)
def test_folds_over_slices(means: list[Any], fold: str, sign: str, limit: float) -> None:
    """A null slice leaves it open, unless one of the others breaks the rule whatever the null one is."""
    report = {"slices": [entry({"g": i}, metric(mean, reason=None)) for i, mean in enumerate(means)]}
    (record,) = judged(f"{fold}(cross_entropy over g) {sign} {limit!r}", report=report)
    known = [float(mean) for mean in means if mean is not None]
    best = (max if fold == "max" else min)(known, default=math.nan)
    # Whatever a null slice may be: would the rule hold for the least and for the largest number there is?
    could_be = [[*known, *[other] * (len(means) - len(known))] for other in (-math.inf, math.inf)]
    always = bool(known) and all(OPERATORS[sign]((max if fold == "max" else min)(c), limit) for c in could_be)
    if len(known) == len(means) and known:
        outcome = "fail" if OPERATORS[sign](best, limit) else "pass"
    else:
        outcome = "fail" if always and fold + sign[0] in ("max>", "min<") else "undecided"
    assert record["outcome"] == outcome
    assert record["value"] == (None if outcome == "undecided" else written(best))
    if outcome != "undecided":
        assert float(means[record["slice"]["g"]]) == best


def test_the_slice_that_decided_is_named() -> None:
    (record,) = judged("max(cross_entropy over group) > 0.5")
    assert record == {
        "rule": "max(cross_entropy over group) > 0.5",
        "value": 0.6,
        "outcome": "fail",
        "limit": 0.5,
        "slice": {"group": "New York, NY"},
    }
    assert gates.told(record) == 'max(cross_entropy over group) > 0.5 (0.6, group="New York, NY")'


def test_a_slice_called_other_comes_before_the_rest() -> None:
    report = {"slices": [entry({"g": "(other)"}, 0.5, other=True), entry({"g": "(other)"}, 0.25)]}
    assert judged("cross_entropy[g=(other)] > 0", report=report)[0]["value"] == 0.25


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [((), 0), (("pass",), 0), (("pass", "undecided"), 4), (("undecided", "fail", "pass"), 1), (("fail",), 1)],
)
def test_exit_codes(outcomes: tuple[str, ...], code: int) -> None:
    assert gates.exit_code({"outcome": outcome} for outcome in outcomes) == code


@given(st.floats(allow_nan=False), st.floats(allow_nan=False) | st.just(math.inf))
def test_a_number_is_shown_on_its_side_of_the_limit(value: float, limit: float) -> None:
    shown = units.beside(written(value), written(limit))
    back = float(shown.replace("∞", "inf"))
    assert (back > limit, back < limit) == (value > limit, value < limit)


def test_a_number_has_no_more_digits_than_it_takes() -> None:
    assert units.beside(0.1931752557, 0.35) == "0.193175"
    assert units.beside(0.1931752557, 0.193175) == "0.193175256"
    assert units.beside(0.35, 0.35) == "0.35"
    assert units.beside(900, 1000) == "900"


SHOWN = [
    {"rule": "cross_entropy > 0.35", "value": 0.2, "outcome": "pass", "limit": 0.35},
    {"rule": "max(ece over g) > 5%", "value": "inf", "outcome": "fail", "limit": 0.05, "slice": {"g": "a\x1b[2J\nb"}},
    {"rule": "ece[g='[red]x\x1b[2J\n\x00']>1", "value": None, "outcome": "undecided", "reason": "no\x07 slices", "limit": 1.0},
    {"rule": "brier > 1", "value": 0.5, "outcome": "pass"},
    {"rule": "accuracy < 97%", "value": 0.9, "outcome": "fail", "limit": 0.97},
]


def test_the_terminal_shows_gates_first_and_without_colour() -> None:
    report = REPORT | {"gates": SHOWN, "metrics": {"brier": metric(0.5)}, "reliability": [], "per_class": []}
    shown = tables.to_text(lambda console: terminal.render(report, console), 90)
    assert shown.splitlines()[3:9] == [
        "  the run fails if",
        "  ✓ pass       cross_entropy > 0.35 (0.2)",
        '  ✗ fail       max(ece over g) > 5% (∞, g="a\\x1b[2J\\nb")',
        "  ? undecided  ece[g='[red]x\\x1b[2J\\n\\x00']>1: no\\x07 slices",
        "  ✓ pass       brier > 1 (0.5)",
        "  ✗ fail       accuracy < 97% (0.9)",
    ]
    assert "fails if" not in tables.to_text(lambda console: terminal.render(report | {"gates": []}, console), 90)


def test_junit_reads_back() -> None:
    report = REPORT | {"gates": SHOWN, "run": {"seconds": 1.5}, "inputs": [{"path": "a\x00<b>\n&\udc80.parquet"}]}
    data = junit.encode(report)
    assert data.startswith(b"<?xml version='1.0' encoding='utf-8'?>")
    (suite,) = ElementTree.fromstring(data)
    assert suite.tag == "testsuite"
    assert suite.attrib == {
        "name": "streamloss compare",
        "tests": "5",
        "failures": "2",
        "errors": "1",
        "skipped": "0",
        "time": "1.500",
    }
    cases = suite.findall("testcase")
    assert [(case.get("name"), [part.tag for part in case]) for case in cases] == [
        ("cross_entropy > 0.35", []),
        ("max(ece over g) > 5%", ["failure"]),
        ("ece[g='[red]x[2J\n']>1", ["error"]),
        ("brier > 1", []),
        ("accuracy < 97%", ["failure"]),
    ]
    assert cases[2][0].get("message") == "ece[g='[red]x[2J\n']>1: no slices"
    assert suite.findtext("system-out") == f"digest {REPORT['digest']}\ninput a\\x00<b>\\n&\\udc80.parquet"


def fail_if(*rules: str) -> tuple[str, ...]:
    return tuple(word for rule in rules for word in ("--fail-if", rule))


PASSES, FAILS, OPEN = "upper(cross_entropy) > 0.35", "accuracy < 97%", "bits_per_byte > 1"
FAILED_LINE = "streamloss: gate failed: accuracy < 97% (0.955556)\n"
OPEN_LINE = "streamloss: gate undecided: bits_per_byte > 1: there is no bits_per_byte in the metrics\n"


@pytest.mark.parametrize(
    ("rules", "code", "lines"),
    [
        ((PASSES,), 0, ""),
        ((PASSES, FAILS), 1, FAILED_LINE),
        ((OPEN, PASSES), 4, OPEN_LINE),
        ((OPEN, FAILS, PASSES), 1, OPEN_LINE + FAILED_LINE),
    ],
)
def test_a_run_ends_as_its_gates_do(rules: tuple[str, ...], code: int, lines: str, tmp_path: Path) -> None:
    plain = json.loads(run("evaluate", DIGITS, "--format", "json").stdout)
    result = run("evaluate", DIGITS, "--format", "json", *fail_if(*rules))
    assert (result.exit_code, result.stderr) == (code, lines)
    report = json.loads(result.stdout)
    assert [gate["rule"] for gate in report["gates"]] == list(rules)
    for key in plain.keys() - {"run", "gates"}:
        assert report[key] == plain[key]
    # The same from a file, and from a saved state.
    state, target, xml = (str(tmp_path / name) for name in ("digits.state", "report.json", "gates.xml"))
    ended = run("evaluate", DIGITS, "--save-state", state, "-o", target, "--junit", xml, *fail_if(*rules))
    assert (ended.exit_code, ended.stderr) == (
        code,
        f"streamloss: wrote {target}\nstreamloss: wrote {xml}\n{lines}",
    )
    assert json.loads(Path(target).read_text())["gates"] == report["gates"]
    assert [case.get("name") for case in ElementTree.parse(xml).iter("testcase")] == list(rules)
    again = run("report", state, "--format", "json", "--junit", xml, *fail_if(*rules))
    assert again.exit_code == code
    assert json.loads(again.stdout)["gates"] == report["gates"]


def test_gates_judge_the_unit_of_the_report(tmp_path: Path) -> None:
    state = str(tmp_path / "digits.state")
    rule = fail_if("cross_entropy > 0.2")  # 0.193 nat, 0.279 bit
    assert run("evaluate", DIGITS, "--save-state", state, *rule).exit_code == 0
    assert run("evaluate", DIGITS, "--unit", "bit", *rule).exit_code == 1
    assert run("report", state, "--unit", "bit", *rule).exit_code == 1
    assert run("report", state, *rule).exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (fail_if("cros_entropy > 1"), "did you mean 'cross_entropy'?"),
        (fail_if("ece > 1", "ece >"), "expected a number, inf, or a share such as 90% at character 6, found the end"),
        (("--junit", "gates.xml"), "--junit writes the outcomes of --fail-if: give a rule too"),
        (("--junit", "/no/such/folder/x.xml", *fail_if("ece > 1")), "there is no folder"),
        (("--junit", "./x.txt", "-o", "x.txt", *fail_if("ece > 1")), "--junit and --output are the same file, ./x.txt"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_wrong_gates_are_found_before_anything_is_read(command: str, words: tuple[str, ...], message: str) -> None:
    result = run(command, "no-such-file", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_junit_may_not_overwrite_the_state_or_an_input(tmp_path: Path) -> None:
    same = str(tmp_path / "same")
    result = run("evaluate", DIGITS, "--save-state", same, "--junit", same, *fail_if("ece > 1"))
    assert (result.exit_code, "--junit and --save-state are the same file" in result.stderr) == (2, True)
    result = run("evaluate", DIGITS, "--junit", DIGITS, *fail_if("ece > 1"))
    assert (result.exit_code, "it is an input of this run" in result.stderr) == (2, True)


def test_infinite_losses_fail_and_their_bounds_are_undecided() -> None:
    rows = {"probs": [[0.0, 1.0], [0.5, 0.5]], "label": [0, 1]}
    table = pq.read_table(DIGITS).slice(0, 2).select(["id"])
    for name, column in rows.items():
        table = table.append_column(name, [column])
    report = streamloss.evaluate(table, fail_if=["cross_entropy > 5", "upper(cross_entropy) > 5", "cross_entropy.infinite > 1"])
    assert [(gate["outcome"], gate["value"]) for gate in report.gates] == [("fail", "inf"), ("undecided", None), ("pass", 1)]


def test_gates_from_python(tmp_path: Path) -> None:
    state = tmp_path / "digits.state"
    rules = [PASSES, FAILS, OPEN]
    report = streamloss.evaluate(DIGITS, fail_if=rules, save_state=state)
    assert [gate["outcome"] for gate in report.gates] == ["pass", "fail", "undecided"]
    assert report.to_dict()["gates"] == list(report.gates)
    assert report.digest == streamloss.evaluate(DIGITS).digest
    assert streamloss.merge([state], fail_if=rules).gates == report.gates
    assert streamloss.evaluate(DIGITS, fail_if=FAILS).gates == report.gates[1:2]
    evaluator = streamloss.Evaluator()
    evaluator.update(pq.read_table(DIGITS))
    assert evaluator.report(fail_if=rules).gates == report.gates
    assert evaluator.report().gates == ()
    for wrong in (
        lambda: streamloss.evaluate("no-such-file", fail_if="eec >"),
        lambda: streamloss.merge(["x"], fail_if="eec >"),
    ):
        with pytest.raises(UsageError, match="no quantity 'eec'"):
            wrong()


def test_a_rule_may_be_about_every_metric_that_a_report_has() -> None:
    asked = {"logits": "logits", "label": "label", "focal_gamma": 2.0, "top_k": (1, 3)}
    reports = [
        streamloss.evaluate(DIGITS, **asked),
        streamloss.evaluate(DIGITS, logits="logits", label="label", metrics="entropy_gap,mutual_information"),
        streamloss.calibrate(DIGITS, **asked),
        streamloss.compare(DIGITS, probs="mlp_probs", baseline_logits="logits", label="label"),
    ]
    for report in reports:
        known = {key for key, metric in report.metrics.items() if metric.mean is not None}
        outcomes = gates.judge([parse(f"{key} < -1e300") for key in known], report.to_dict())
        assert [gate["outcome"] for gate in outcomes] == ["pass"] * len(known)
