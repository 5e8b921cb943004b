"""The report as strict JSON: infinities are the strings "inf" and "-inf", and a NaN is a bug that is never written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any


def encode(value: Any) -> bytes:
    """UTF-8 JSON with the keys in the order given and a newline at the end; what stands in a list has a line of its own.

    Raises `ValueError` on a NaN: what could not be computed is a null with its reason, made where the reason is known.
    """
    # A path may hold bytes that are no UTF-8; Python keeps them as lone surrogates, and JSON can spell those: \udc80.
    return b"".join(piece.encode("utf-8", errors="backslashreplace") for piece in _pieces(value))


def _pieces(value: Any) -> Iterator[str]:
    """The text, a line or less at a time: of thousands of slices it is large, and is not put together twice."""
    if isinstance(value, dict) and value:
        for i, (key, entry) in enumerate(value.items()):
            yield f"{',' if i else '{'}\n  {json.dumps(key, ensure_ascii=False)}: "
            yield from _value(entry, f"report.{key}")
        yield "\n}"
    else:
        yield from _value(value, "report")
    yield "\n"


def _value(value: Any, where: str) -> Iterator[str]:
    """What stands behind a key of the report, its further lines four places in."""
    if isinstance(value, list | tuple) and value:
        for i, item in enumerate(value):
            yield f"{',' if i else '['}\n    {_compact(item, f'{where}[{i}]')}"
        yield "\n  ]"
    elif isinstance(value, dict) and value:
        for i, (key, entry) in enumerate(value.items()):
            yield f"{',' if i else '{'}\n    {json.dumps(key, ensure_ascii=False)}: {_compact(entry, f'{where}.{key}')}"
        yield "\n  }"
    else:
        yield _compact(value, where)


def _compact(value: Any, where: str) -> str:
    """A value in one line."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_strict(value, where), ensure_ascii=False, allow_nan=False)


def _strict(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {key: _strict(v, f"{where}.{key}") for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            raise ValueError(f"{where} is NaN, which no report may hold")
        return "inf" if value > 0 else "-inf"
    return value
