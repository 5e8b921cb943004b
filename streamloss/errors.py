"""The few ways streamloss says no, and the rules that a row of predictions must keep.

A `DataError` knows its place (file, row group, row, column), the offending value and what was expected, so that one line
tells a person where to look. `RULES` is the ledger: every row that was read is used, ignored, or left out under one rule.
"""

from __future__ import annotations

from dataclasses import dataclass

USED = 0
IGNORED = 1

# A row's code is USED, IGNORED (mask, ignore index, weight 0) or the number of the rule it broke.
NULL, NAN, POSITIVE_INFINITY, ALL_NEGATIVE_INFINITY, NEGATIVE_PROBABILITY, PROBABILITY_ABOVE_ONE = range(2, 8)
ROW_SUM, LABEL, WEIGHT, RAGGED, CLASS_COUNT, BYTES = range(8, 14)

RULES: dict[int, tuple[str, str]] = {
    NULL: ("null", "a value in every place"),
    NAN: ("nan", "a number, not NaN"),
    POSITIVE_INFINITY: ("positive_infinity", "logits below +inf"),
    ALL_NEGATIVE_INFINITY: ("all_negative_infinity", "at least one class of the row above -inf"),
    NEGATIVE_PROBABILITY: ("negative_probability", "probabilities of 0 or more"),
    PROBABILITY_ABOVE_ONE: ("probability_above_one", "probabilities of 1 or less"),
    ROW_SUM: ("row_sum", "probabilities that sum to 1"),
    LABEL: ("label_out_of_range", "a label among the classes"),
    WEIGHT: ("bad_weight", "a finite weight of 0 or more"),
    RAGGED: ("ragged_row", "the same number of classes in every row"),
    CLASS_COUNT: ("class_count", "as many values as there are classes"),
    BYTES: ("bad_bytes", "a byte count of 0 or more"),
}
RULE_KEYS = tuple(key for key, _ in RULES.values())


class StreamlossError(Exception):
    """Anything streamloss refuses to do; `exit_code` is what the command line ends with."""

    exit_code = 3


class UsageError(StreamlossError):
    """The options contradict one another or the question makes no sense (exit code 2)."""

    exit_code = 2


@dataclass(frozen=True)
class Place:
    """Where in the input something stands; rows and row groups count from 0, rows from the start of the file."""

    path: str | None = None
    row_group: int | None = None
    row: int | None = None
    column: str | None = None

    def __str__(self) -> str:
        parts = [self.path or "input"]
        if self.row_group is not None:
            parts.append(f"row group {self.row_group}")
        if self.row is not None:
            parts.append(f"row {self.row}")
        if self.column is not None:
            parts.append(f"column {self.column!r}")
        return ", ".join(parts)


class DataError(StreamlossError):
    """The input is missing, unreadable or breaks a rule (exit code 3).

    `place` says where, `rule` is the key of the ledger's rule when one was broken, `value` what was found there.
    """

    def __init__(self, message: str, *, place: Place | None = None, rule: str | None = None, value: object = None) -> None:
        super().__init__(f"{place}: {message}" if place else message)
        self.place = place
        self.rule = rule
        self.value = value

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (str(self), self.place, self.rule, self.value))


def _rebuild(text: str, place: Place | None, rule: str | None, value: object) -> DataError:
    error = DataError(text, rule=rule, value=value)
    error.place = place
    return error
