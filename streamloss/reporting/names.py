"""How a slice is called: alike in every report and in the rules of `--fail-if`, so that a name can be copied into a rule."""

from __future__ import annotations

import re
from collections.abc import Iterable

OTHER = "(other)"  # the name of what is beyond the limit on slices

# What must not stand in a value without quotes, for it ends one or could be read as something else.
_QUOTED = re.compile(r"""[,="'\[\]]|^\s|\s$|^$|^(null|\(other\))$""")


def slice_name(by: Iterable[tuple[str, object]], other: bool = False) -> str:
    """`group=7`, `a=1, b="New York, NY"`, `group=null`: columns with their values; `other` is what is beyond the limit."""
    return ", ".join(f"{quoted(column)}={value if other else slice_value(value)}" for column, value in by)


def slice_value(value: object) -> str:
    """A value as text: JSON's words for null, true and false; quotes where it could be read as something else."""
    text = as_text(value)
    return "null" if text is None else quoted(text) if isinstance(value, str) else text


def as_text(value: object) -> str | None:
    """A value as rules compare it: booleans as true and false, null as None."""
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def quoted(text: str, end: str = "") -> str:
    """Text as a rule reads it back, where `end` too would end it."""
    needed = _QUOTED.search(text) or (end and end in text)
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"' if needed else text
