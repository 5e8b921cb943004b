"""Gates: what the rules of `--fail-if` (see `rules`) find in a report.

A rule that holds fails the run. A rule whose number the report does not have, as null or not at all, is undecided and
says why: it never passes. Numbers are in the report's unit, and infinity compares as a number.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from streamloss.reporting import units
from streamloss.reporting.names import as_text, slice_name
from streamloss.reporting.report import plain
from streamloss.reporting.rules import WEIGHT, Gate, Value, nearest, parse

Record = dict[str, Any]

FAILED, UNDECIDED = 1, 4  # exit codes

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
# With these one slice that breaks the rule is enough, whatever the others are.
_ONE_IS_ENOUGH = {("max", ">"), ("max", ">="), ("min", "<"), ("min", "<=")}


class _Unknown(Exception):
    """Why a number cannot be had from the report."""


def parse_all(rules: str | Iterable[str] | None) -> tuple[Gate, ...]:
    """The gates of rules, one or many. Raises `UsageError` for a rule that makes no sense."""
    if rules is None:
        return ()
    return tuple(map(parse, [rules] if isinstance(rules, str) else rules))


def judge(gates: Sequence[Gate], report: Record) -> list[Record]:
    """What becomes of every gate: the `gates` of the JSON report (SPEC §8).

    `outcome` is pass, fail or undecided; `value` the number that was compared with `limit`, null when undecided, and
    `reason` then says what is missing; `slice` the one that a max or min was found in (with `other`, what is beyond the limit).
    """
    return [_judged(gate, report) for gate in gates]


def exit_code(outcomes: Iterable[Record]) -> int:
    """1 when a gate failed, 4 when none failed but one is undecided, and 0 when all passed."""
    found = {record["outcome"] for record in outcomes}
    return FAILED if "fail" in found else UNDECIDED if "undecided" in found else 0


def told(record: Record) -> str:
    """A gate in a line: `cross_entropy > 0.35 (0.41)`, with its slice, or the reason why it is undecided."""
    value = record.get("value")
    if value is None:
        return f"{record['rule']}: {record.get('reason', 'not known')}"
    where, limit = record.get("slice"), record.get("limit")
    found = units.beside(value, value if limit is None else limit)
    name = f", {slice_name(where.items(), bool(record.get('other')))}" if where else ""
    return f"{record['rule']} ({found}{name})"


def _judged(gate: Gate, report: Record) -> Record:
    where: Record = {}
    try:
        if gate.fold == "mean":
            value = _macro(gate, report)
        elif gate.fold:
            value, where = _extreme(gate, report)
        else:
            value = _number(gate.value, report)
    except _Unknown as unknown:
        return {"rule": gate.rule, "value": None, "outcome": "undecided", "reason": str(unknown), "limit": plain(gate.limit)}
    outcome = "fail" if _HOLDS[gate.operator](value, gate.limit) else "pass"
    record = {"rule": gate.rule, "value": plain(value), "outcome": outcome, "limit": plain(gate.limit)}
    return record | where


def _extreme(gate: Gate, report: Record) -> tuple[float, Record]:
    """The largest or smallest value over the slices, and what the record says of its slice."""
    known: list[tuple[float, Record]] = []
    unknown: list[str] = []
    for entry in _slices(report, gate.over):
        try:
            where = {"slice": entry["by"]} | ({"other": True} if entry.get("other") else {})
            known.append((_of(gate.value, entry, report), where))
        except _Unknown as reason:
            name = slice_name(entry["by"].items(), bool(entry.get("other")))
            unknown.append(f"in the slice {name} {reason}")
    best = (max if gate.fold == "max" else min)(known, key=lambda pair: pair[0], default=None)
    enough = (gate.fold, gate.operator) in _ONE_IS_ENOUGH
    if best is not None and (not unknown or (enough and _HOLDS[gate.operator](best[0], gate.limit))):
        return best
    more = len(unknown) - 1
    raise _Unknown(unknown[0] + (f", and so in {units.counted(more, 'other slice')}" if more else ""))


def _macro(gate: Gate, report: Record) -> float:
    """The mean over the slices that the report gives."""
    sliced = [entry for entry in report.get("slicing") or [] if not gate.over or set(entry["by"]) == set(gate.over)]
    if not sliced:
        raise _Unknown(_no_slices(report, gate.over))
    if len(sliced) > 1:
        names = " and ".join(", ".join(entry["by"]) for entry in sliced)
        raise _Unknown(f"the report is sliced by {names}: say over which to take the mean")
    means = sliced[0].get("macro") or {}
    if gate.value.key not in means:
        raise _Unknown(f"there is no mean of {gate.value.key} over slices{nearest(gate.value.key, means)}")
    return _read(means[gate.value.key], "mean", f"the mean of {gate.value} over slices")


def _slices(report: Record, columns: Sequence[str]) -> list[Record]:
    """The slices by these columns, or all of them; never none."""
    found = [entry for entry in report.get("slices") or [] if not columns or set(entry["by"]) == set(columns)]
    if not found:
        raise _Unknown(_no_slices(report, columns))
    return found


def _no_slices(report: Record, columns: Sequence[str]) -> str:
    ways = list(dict.fromkeys(", ".join(entry["by"]) for entry in report.get("slices") or []))
    if not ways:
        return "the report has no slices"
    wanted, there = ", ".join(columns), " and by ".join(ways)
    return f"the report is not sliced by {wanted}{nearest(wanted, ways) or f'; it is by {there}'}"


def _number(value: Value, report: Record) -> float:
    """A value of all rows or of the slice that it names."""
    if value.where is None:
        return _of(value, report, report)
    wanted = dict(value.where)
    entries = _slices(report, list(wanted))
    # A slice that is really called (other) comes before the one that holds the rest.
    for entry in sorted(entries, key=lambda entry: bool(entry.get("other"))):
        if {column: as_text(v) for column, v in entry["by"].items()} == wanted:
            return _of(value, entry, report)
    names = [slice_name((column, entry["by"][column]) for column in wanted) for entry in entries]
    name = slice_name(value.where)
    raise _Unknown(f"there is no slice {name}{nearest(name, names)}")


def _of(value: Value, scope: Record, report: Record) -> float:
    """A value of a scope: the report or one of its slices."""
    family, _, part = value.key.partition(".")
    if value.key == WEIGHT:
        return _read(scope, WEIGHT, WEIGHT)
    if part:
        return _read(scope.get(family) or {}, part, value.key)
    held, place = _side(value, scope, report)
    if value.key not in held:
        raise _Unknown(f"there is no {value.key} in {place}{nearest(value.key, held)}")
    record = held[value.key]
    if value.field.startswith("q"):
        return _quantile(value, record)
    return _read(record, value.field, str(value))


def _side(value: Value, scope: Record, report: Record) -> tuple[Record, str]:
    """What one side holds, by key, and what to call it."""
    if value.side == "convention":
        conventions = report.get("conventions") or {}
        if value.convention not in conventions:
            raise _Unknown(f"the report has no convention {value.convention!r}{nearest(value.convention, conventions)}")
        return conventions[value.convention], f"convention {value.convention}"
    if not value.side:
        return scope.get("metrics") or {}, "the metrics"
    held = (scope.get("baseline") or {}).get("metrics") if value.side == "baseline" else scope.get("comparison")
    if held is None:
        raise _Unknown("the report compares nothing: that is what `streamloss compare` does")
    return held, "the baseline" if value.side == "baseline" else "the comparison"


def _quantile(value: Value, record: Record) -> float:
    level = float(value.field[1:])
    quantiles = record.get("quantiles") or {}
    found = next((text for text in quantiles if float(text) == level), None)
    if found is None and quantiles:
        there = ", ".join(quantiles)
        raise _Unknown(f"{value.key} has no quantile {level:g}; there are {there} (--quantiles {level:g} asks for it)")
    return _read(quantiles if found else record, found or value.field, str(value))


def _read(record: Record, field: str, name: str) -> float:
    """A number of the JSON report, infinity among them; what is absent, null or NaN is not known."""
    number = record.get(field)
    if number is None:
        infinite = " (the mean is infinite, and so has no error and no interval)" if _is_infinite(record) else ""
        raise _Unknown(f"{name}: {record['reason']}" if record.get("reason") else f"{name} is not known{infinite}")
    number = float(number) if isinstance(number, str) else number
    if math.isnan(number):
        raise _Unknown(f"{name} is not a number")
    return number


def _is_infinite(record: Record) -> bool:
    return record.get("mean") in ("inf", "-inf", math.inf, -math.inf)
