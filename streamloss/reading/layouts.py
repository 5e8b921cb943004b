"""How numbers stand in a column: the layouts, the dtype of one value, and K where the type fixes it.

Integers that stand for numbers are widened to float64; uint16 may be the bits of a 16-bit float and must be declared,
by the field's metadata `dtype` or by `--dtype` (any dtype but a 16-bit float says that they are plain numbers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pyarrow as pa

from streamloss.errors import DataError, Place, UsageError
from streamloss.reading.batch import ARRAY_DTYPES


@dataclass(frozen=True)
class Layout:
    """How values stand in a column: the kind, the dtype of one value, and K where the type fixes it."""

    kind: str
    dtype: str
    classes: int | None = None


def storage(kind: pa.DataType) -> pa.DataType:
    """The type without its extension: a fixed-shape tensor is a fixed-size list."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def layout_of(field: pa.Field, dtype: str | None, path: str | None) -> Layout | None:
    """The K-class layout of a column, None when it has none (a flat column, strings, …)."""
    kind = storage(field.type)
    if pa.types.is_fixed_size_binary(kind):
        declared = _declared(field, path) or dtype
        if declared is None:
            raise UsageError(
                f"column {field.name!r} is {field.type} and does not say what it holds: "
                f"give --dtype ({', '.join(ARRAY_DTYPES)})"
            )
        classes, rest = divmod(kind.byte_width, ARRAY_DTYPES[declared].itemsize)
        if rest:
            raise DataError(
                f"{kind.byte_width} bytes are no whole number of {declared} values",
                place=Place(path, column=field.name),
            )
        return Layout("fixed_size_binary", declared, classes)
    lists = {
        "list": pa.types.is_list,
        "large_list": pa.types.is_large_list,
        "fixed_size_list": pa.types.is_fixed_size_list,
        "list_view": pa.types.is_list_view,
        "large_list_view": pa.types.is_large_list_view,
    }
    layout = next((name for name, holds in lists.items() if holds(kind)), None)
    if layout is None:
        return None
    value = value_dtype(kind.value_field, _declared(field, path) or dtype, path, field.name)
    if value is None:
        return None
    if isinstance(field.type, pa.BaseExtensionType):
        layout = field.type.extension_name.removeprefix("arrow.")
    return Layout(layout, value, kind.list_size if pa.types.is_fixed_size_list(kind) else None)


def value_dtype(field: pa.Field, dtype: str | None, path: str | None, column: str) -> str | None:
    """The dtype that a flat column's numbers (or a list's values) travel in; None when they are no numbers."""
    kind = storage(field.type)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_uint16(kind):
        declared = _declared(field, path) or dtype
        if declared is None:
            raise UsageError(
                f"column {column!r} holds uint16: give --dtype float16 or --dtype bfloat16 if these are the bits of "
                "16-bit floats, --dtype float64 if they are plain numbers"
            )
        return declared if declared in ("float16", "bfloat16") else "float64"
    floats = {"float16": pa.types.is_float16, "float32": pa.types.is_float32, "float64": pa.types.is_float64}
    for name, holds in floats.items():
        if holds(kind):
            return name
    return "float64" if pa.types.is_integer(kind) else None


def label_kind_of(kind: pa.DataType) -> str | None:
    """'number' for integers and booleans, 'name' for strings, 'soft' for floats; None for what cannot be a label."""
    kind = storage(kind)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return "number"
    if is_text(kind):
        return "name"
    return "soft" if pa.types.is_floating(kind) else None


def key_kind_of(kind: pa.DataType) -> str | None:
    """'number', 'bool' or 'name' for what rows can be grouped by, 'null' where all are null; None for the rest."""
    kind = storage(kind)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):
        return "null"
    if pa.types.is_boolean(kind):
        return "bool"
    return "number" if pa.types.is_integer(kind) else "name" if is_text(kind) else None


def is_text(kind: pa.DataType) -> bool:
    """Whether the type is one of Arrow's strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(field: pa.Field) -> bool:
    """Whether a flat column holds numbers, whatever uint16 may mean."""
    kind = storage(field.type)
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _declared(field: pa.Field, path: str | None) -> str | None:
    """The dtype that the field's metadata declares."""
    value = (field.metadata or {}).get(b"dtype")
    if value is None:
        return None
    name = cast(bytes, value).decode("utf-8", "replace")
    if name not in ARRAY_DTYPES:
        raise DataError(
            f"metadata declares dtype {name!r}; expected {', '.join(ARRAY_DTYPES)}",
            place=Place(path, column=field.name),
        )
    return name
