"""The language of `--fail-if`: a rule says what fails a run, and this turns its text into what a report is asked for.

    rule      amount operator limit             cross_entropy > 0.35         operators < <= > >= == !=
    amount    value                             upper(cross_entropy)
              FOLD(value over columns)          FOLD: max, min, mean; over slices, over group, over a, b
    value     BOUND(of)   of                    BOUND: upper, lower, the ends of the confidence interval
    of        quantity    SIDE(quantity).field  SIDE: difference, ratio, correlation, baseline, of a comparison
              convention(name, quantity)
    quantity  key.field[column=text, …]         fields: mean (when none is named), stderr, max, q0.99, …
    limit     number, inf, or a share in %      90% is 0.9

Spaces are free. Text in [] and after `over` may be quoted, '…' or "…", with \\ before a quote; [column=null] is the slice of
the rows that have no value there. What no report can hold is a `UsageError` that points at the place; what a given report does
not hold is found when it is judged (`gates`).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from streamloss.errors import RULE_KEYS, UsageError
from streamloss.quantities import QUANTITIES, top_k_key
from streamloss.reporting.names import quoted, slice_name
from streamloss.temperature import BEST, GAIN

# What is counted and not averaged, and so has one number and no error: these, by the part of the report they stand in.
COUNTS: dict[str, tuple[str, ...]] = {
    "rows": ("read", "used", "ignored", "invalid"),
    "ledger": (*RULE_KEYS, "normalized", "clipped"),
}
WEIGHT = "weight"
_TOP_K = r"top[1-9][0-9]{0,8}_accuracy"
PAIR_KEYS = ("delta_p", "delta_p_rms")  # quantities that only a comparison has
TOOL_KEYS = ("cross_entropy_metric",)  # those that only a convention has
SWEEP_KEYS = (BEST, GAIN)  # those that only a sweep of temperatures has

_METRIC = {name: name for name in ("mean", "stderr", "low", "high", "min", "max", "infinite", "finite_mean", "finite_stderr")}
# The fields of what each side holds of a quantity, by what a rule calls them; the first is meant when none is named.
_FIELDS: dict[str, dict[str, str]] = {
    "": _METRIC,
    "baseline": _METRIC,
    "difference": {"value": "difference", "stderr": "stderr", "low": "low", "high": "high"},
    "ratio": {"value": "ratio", "stderr": "ratio_stderr", "low": "ratio_low", "high": "ratio_high"},
    "correlation": {"value": "correlation"},
    "convention": {"value": "value", "difference": "difference"},
}
_BOUNDS = {"upper": "high", "lower": "low"}
_FOLDS = ("max", "min", "mean")
_FUNCTIONS = (*_FOLDS, *_BOUNDS, *(side for side in _FIELDS if side))

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?"
_PLAIN = r"[^,)\s\"'][^,)]*"
_QUOTED = r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\''
_SPACES = re.compile(r"\s*")
_SHOWN = 24  # so many characters of what was found are shown

Where = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Value:
    """One number of a report: a field of what a side holds of a quantity, of all rows or of a slice.

    `field` is the name in the JSON report (`qX` for the quantile X). `where` is the slice as pairs of column and text, with
    None for null.
    """

    key: str
    side: str = ""
    field: str = "mean"
    convention: str = ""
    where: Where | None = None

    @property
    def counted(self) -> bool:
        """Whether this is a count or the weight, not a quantity."""
        return self.key == WEIGHT or self.key.partition(".")[0] in COUNTS

    def __str__(self) -> str:
        text = self.key + ("" if self.where is None else f"[{slice_name(self.where)}]")
        if self.side:
            convention = f"{quoted(self.convention, ')')}, " if self.convention else ""
            text = f"{self.side}({convention}{text})"
        called = next((name for name, field in _FIELDS[self.side].items() if field == self.field), self.field)
        bound = next((bound for bound, end in _BOUNDS.items() if end == called), None)
        if bound:
            return f"{bound}({text})"
        return text if self.counted or called in ("mean", "value") else f"{text}.{called}"


@dataclass(frozen=True)
class Gate:
    """A rule, understood: the run fails when `value operator limit` holds.

    With a `fold` the value is the largest, smallest or mean one over the slices by the columns `over`; none means all slices.
    """

    rule: str
    value: Value
    operator: str
    limit: float
    fold: str = ""
    over: tuple[str, ...] = ()


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` when one of the names is close, and nothing when none is."""
    near = difflib.get_close_matches(name[:100], list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def parse(rule: str) -> Gate:
    """The gate of a rule. Raises `UsageError` that says what was expected at which character."""
    if not isinstance(rule, str):
        raise UsageError(f"--fail-if: a rule is text such as 'cross_entropy > 0.35', not {rule!r}")
    text = _Text(rule)
    fold, over = "", tuple[str, ...]()
    if taken := text.take(rf"({'|'.join(_FOLDS)})\s*\("):
        fold = taken[1]
        value, over = _folded(text, fold)
    else:
        value = _value(text)
    operator = text.need(r"<=|>=|==|!=|<|>", "one of < <= > >= == != and a number")[0]
    limit = _limit(text)
    text.need(r"\Z", "nothing more")
    return Gate(rule.strip(), value, operator, limit, fold, over)


class _Text:
    """A rule that is read from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def take(self, pattern: str) -> re.Match[str] | None:
        """What matches here, after any spaces, and is then behind us."""
        found = re.compile(pattern, re.DOTALL).match(self.text, self.here())
        if found is not None:
            self.at = found.end()
        return found

    def need(self, pattern: str, expected: str) -> re.Match[str]:
        """The same, or the error that it is not there."""
        found = self.take(pattern)
        if found is None:
            rest = self.text[self.here() :].rstrip()
            shown = repr(rest if len(rest) <= _SHOWN else rest[:_SHOWN] + "…") if rest else "the end"
            raise self.error(f"expected {expected}", self.here(), f", found {shown}")
        return found

    def here(self) -> int:
        """Where the next word begins."""
        spaces = _SPACES.match(self.text, self.at)
        return spaces.end() if spaces else self.at

    def error(self, message: str, at: int, hint: str = "") -> UsageError:
        """The error for what stands at a place."""
        return UsageError(f"--fail-if {self.text!r}: {message} at character {at + 1}{hint}")


def _folded(text: _Text, fold: str) -> tuple[Value, tuple[str, ...]]:
    """What stands in max(…), min(…) or mean(…)."""
    at = text.here()
    value = _value(text)
    if value.where is not None:
        raise text.error(f"{fold}(…) goes over slices, so its quantity cannot name one", at)
    if value.side == "convention" or value.key.startswith("ledger."):
        raise text.error(f"slices have no {value.side or 'ledger'}", at)
    if fold == "mean" and (value.counted or value.side or value.field != "mean"):
        raise text.error("mean(…) takes the mean of a quantity alone, as in mean(cross_entropy over slices)", at)
    text.need(r"over\b", f"'over slices' or 'over COLUMN' ({value.key}.{fold} is that of the rows)")
    if text.take(r"slices\s*\)"):
        return value, ()
    columns = [_word(text, _PLAIN, "a column")]
    while text.take(","):
        columns.append(_word(text, _PLAIN, "a column"))
    text.need(r"\)", "',' or ')'")
    return value, tuple(columns)


def _value(text: _Text) -> Value:
    """A quantity, of one side or of both, at its mean, at a field, or at an end of its interval."""
    at = text.here()
    if bound := text.take(rf"({'|'.join(_BOUNDS)})\s*\("):
        value = _side(text)
        text.need(r"\)", "')'")
        ends = _FIELDS[value.side]
        if value.counted or _BOUNDS[bound[1]] not in ends or value.field != next(iter(ends.values())):
            raise text.error(f"{value} has no confidence interval", at)
        return replace(value, field=ends[_BOUNDS[bound[1]]])
    return _side(text)


def _side(text: _Text) -> Value:
    at = text.here()
    taken = text.take(rf"({'|'.join(side for side in _FIELDS if side)})\s*\(")
    if taken is None:
        return _quantity(text)
    side, convention = taken[1], ""
    if side == "convention":
        convention = _word(text, _PLAIN, "the name of a convention")
        text.need(",", "','")
    inner = _quantity(text)
    text.need(r"\)", "')'")
    if inner.counted:
        raise text.error(f"{side}(…) takes a quantity, and {inner.key} is a count", at)
    if side == "convention" and inner.where is not None:
        raise text.error("conventions have no slices", at)
    if side != "baseline" and inner.field != "mean":
        raise text.error(f"{side}(…) takes the mean of a quantity, not another field", at)
    outer = replace(inner, side=side, convention=convention)
    if inner.field != "mean":
        return outer
    return replace(outer, field=_field(text, side) or next(iter(_FIELDS[side].values())))


def _quantity(text: _Text) -> Value:
    """A key, a field of it and a slice, the latter two in any order."""
    at = text.here()
    key = text.need(_NAME, "a quantity such as cross_entropy")[0]
    if text.take(r"\("):
        if key in _FUNCTIONS:
            order = "; they nest as in max(upper(difference(cross_entropy)) over slices)"
            raise text.error(f"{key}(…) cannot stand here, inside of another,", at, order)
        raise text.error(f"no function {key!r}", at, nearest(key, _FUNCTIONS) or f"; there are {', '.join(_FUNCTIONS)}")
    if key in COUNTS:
        there = [f"{key}.{part}" for part in COUNTS[key]]
        key += "." + text.need(rf"\.\s*({_NAME})", f"one of {', '.join(there)}")[1]
        if key not in there:
            raise text.error(f"no {key}", at, nearest(key, there) or f"; there are {', '.join(there)}")
    elif not (key in QUANTITIES or key in (*PAIR_KEYS, *TOOL_KEYS, *SWEEP_KEYS, WEIGHT) or re.fullmatch(_TOP_K, key)):
        known = (
            *QUANTITIES,
            top_k_key(5),
            *PAIR_KEYS,
            *TOOL_KEYS,
            *SWEEP_KEYS,
            WEIGHT,
            *(f"{part}.{name}" for part in COUNTS for name in COUNTS[part]),
        )
        raise text.error(f"no quantity {key!r}", at, nearest(key, known))
    value, named = Value(key), False
    while True:
        if value.where is None and text.take(r"\["):
            value = replace(value, where=_where(text))
            if key.startswith("ledger."):
                raise text.error("slices have no ledger", at)
            continue
        at = text.here()
        field = None if named else _field(text, "")
        if field is None:
            return value
        if value.counted:
            raise text.error(f"{key} is a number, without fields", at)
        value, named = replace(value, field=field), True


def _field(text: _Text, side: str) -> str | None:
    """The field that is named here, as the JSON report calls it; None when none is."""
    if not text.take(r"\."):
        return None
    at = text.here()
    fields = _FIELDS[side]
    if fields is _METRIC and (quantile := text.take(r"q([0-9]*\.?[0-9]+(?:e-[0-9]{1,4})?)(?!\w)")):
        if float(quantile[1]) > 1:
            raise text.error("a quantile lies between 0 and 1, as in q0.99", at)
        return f"q{float(quantile[1])!r}"
    name = text.need(_NAME, "a field")[0]
    if name not in fields:
        there = (*fields, "q0.99") if fields is _METRIC else tuple(fields)
        raise text.error(f"no field {name!r}", at, nearest(name, fields) or f"; there are {', '.join(there)}")
    return fields[name]


def _where(text: _Text) -> Where:
    """What stands in [], after the bracket."""
    where: dict[str, str | None] = {}
    while True:
        at = text.here()
        column = _word(text, r"[^=,\]\s\"'][^=,\]]*", "a column, as in [group=7]")
        text.need(r"=", "'=' and the slice's value")
        if column in where:
            raise text.error(f"column {column!r} stands in the slice twice", at)
        null = text.take(r"null\s*(?=[,\]])")
        where[column] = None if null else _word(text, r"[^,\]\s\"'][^,\]]*", "a value")
        if not text.take(","):
            text.need(r"\]", "',' or ']'")
            return tuple(where.items())


def _word(text: _Text, plain: str, expected: str) -> str:
    """A piece of the user's text, in quotes or plain."""
    word = text.need(f"{_QUOTED}|{plain}", expected)[0]
    return re.sub(r"\\(.)", r"\1", word[1:-1], flags=re.DOTALL) if word[0] in "\"'" else word.rstrip()


def _limit(text: _Text) -> float:
    at = text.here()
    if infinity := text.take(r"([+-]?)inf(?:inity)?\b"):
        return -math.inf if infinity[1] == "-" else math.inf
    number = text.need(rf"({_NUMBER})\s*(%?)", "a number, inf, or a share such as 90%")
    digits, _, exponent = number[1].lower().partition("e")
    limit = float(f"{digits}e{int(exponent or 0) - (2 if number[2] else 0)}")
    if math.isinf(limit):
        raise text.error("a number that float64 does not hold (inf is written inf)", at)
    return limit
