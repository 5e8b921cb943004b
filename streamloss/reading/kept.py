"""Columns that go through as they are: the id of a row, its text, whatever stands beside the predictions, in any Arrow type.

They are found as the columns of --by are, in the file or in its path, and travel with a `Batch` as one Arrow batch.
Dictionaries become what they stand for, since every file has its own; whoever writes them makes dictionaries again. Views of
text and bytes become text and bytes, for pyarrow cannot pick rows of views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from streamloss.errors import DataError, Place
from streamloss.reading.batch import Batch
from streamloss.reading.paths import first_line, told
from streamloss.reading.roles import PathKey, Plan, one_field

Kept = tuple[tuple[pa.Field, PathKey | None], ...]

_FILE = "file"  # what a path always tells; it is no column to keep, for every row says it anyway
_FIELD_ID = b"PARQUET:field_id"  # a number that belongs to the file it came from


def find_kept(schema: pa.Schema, names: Sequence[str], partitions: Mapping[str, PathKey], path: str | None) -> Kept:
    """The fields of the columns to keep. Raises `DataError` for one that neither the file nor its path has."""
    found: list[tuple[pa.Field, PathKey | None]] = []
    for name in dict.fromkeys(names):
        if name in partitions and name not in schema.names:
            found.append((pa.field(name, pa.int64() if partitions[name] == "number" else pa.string()), partitions[name]))
        elif name in schema.names or name != _FILE:
            found.append((_plain(one_field(schema, name, path, [*partitions])), None))
    return tuple(found)


def check_kept(plan: Plan, schema: pa.Schema, path: str) -> None:
    """Raises `DataError` unless the columns that are kept are in another file too, of the same type."""
    for kept, from_path in plan.kept:
        if from_path is None:
            field = one_field(schema, kept.name, path)
            if _plain(field).type != kept.type:
                raise DataError(
                    f"the schemas of the files differ: column {kept.name!r} is {field.type} here and {kept.type} "
                    f"in {plan.path}",
                    place=Place(path),
                )


def keep(batch: Batch, data: pa.RecordBatch | None, plan: Plan) -> Batch:
    """The batch with the kept columns of the Arrow data that it was made of."""
    if not plan.kept:
        return batch
    columns = []
    for field, from_path in plan.kept:
        if from_path is None:
            assert data is not None
            columns.append(_values(data.column(field.name), field, batch.path))
        else:
            value = pa.scalar(told(batch.path, field.name, from_path), field.type)
            columns.append(pa.repeat(value, len(batch)))
    batch.kept = pa.RecordBatch.from_arrays(columns, schema=pa.schema([field for field, _ in plan.kept]))
    return batch


def _plain(field: pa.Field) -> pa.Field:
    """The field as it is kept."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    kind = pa.large_string() if pa.types.is_string_view(kind) else pa.large_binary() if pa.types.is_binary_view(kind) else kind
    metadata = {key: value for key, value in (field.metadata or {}).items() if key != _FIELD_ID}
    return pa.field(field.name, kind, metadata=metadata or None)


def _values(column: pa.Array, field: pa.Field, path: str | None) -> pa.Array:
    try:
        if pa.types.is_dictionary(column.type):
            if column.dictionary.type != field.type:
                column = pa.DictionaryArray.from_arrays(column.indices, column.dictionary.cast(field.type))
            column = column.dictionary_decode()
        return column if column.type == field.type else column.cast(field.type)
    except pa.ArrowException as error:
        raise DataError(f"cannot be kept: {first_line(error)}", place=Place(path, column=field.name)) from error
