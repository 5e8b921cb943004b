"""Data that is already in memory becomes one Arrow batch, over the same memory where it can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from streamloss.errors import DataError, Place, UsageError
from streamloss.reading.paths import first_line

_ON_DEVICE = (2, 13)  # DLPack's numbers of CUDA's own memory, and of what CUDA moves between it and the host's


def one_batch(data: Any) -> pa.RecordBatch:
    """One Arrow batch of a batch, a table, anything with `__arrow_c_stream__`, or a dict of NumPy arrays."""
    if isinstance(data, pa.RecordBatch):
        return data
    if isinstance(data, Mapping):
        return from_arrays(data)
    if not hasattr(data, "__arrow_c_stream__"):
        raise UsageError(f"cannot read {type(data).__name__}: give an Arrow batch or table, or a dict of arrays")
    table = pa.table(data).combine_chunks()
    return next(iter(table.to_batches()), None) or pa.RecordBatch.from_pylist([], table.schema)


def from_arrays(arrays: Mapping[str, Any]) -> pa.RecordBatch:
    """A dict of NumPy arrays as an Arrow batch over the same memory; a 2-D array becomes a fixed-size list column."""
    fields, columns = [], []
    lengths: dict[str, int] = {}
    for name, given in arrays.items():
        place = Place(column=str(name))
        if lies_on_device(given):
            raise UsageError(f"{name}: an array on a CUDA device; Evaluator.update takes those, here it has to be the host's")
        try:
            column, metadata = _from_array(given)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(f"not an array of numbers or strings: {first_line(error)}", place=place) from error
        lengths[str(name)] = len(column)
        fields.append(pa.field(str(name), column.type, metadata=metadata))
        columns.append(column)
    if len(set(lengths.values())) > 1:
        raise DataError(f"arrays of different lengths: {', '.join(f'{name} {n}' for name, n in lengths.items())}")
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def lies_on_device(array: Any) -> bool:
    """Whether an array lies in the memory of a CUDA device, by what it says itself; one that cannot say is the host's."""
    where = getattr(array, "__dlpack_device__", None)
    try:
        return hasattr(array, "__cuda_array_interface__") if where is None else where()[0] in _ON_DEVICE
    except (TypeError, ValueError, BufferError, RuntimeError):  # Arrow's, where there are nulls or lists
        return False


def _from_array(given: Any) -> tuple[pa.Array, dict[str, str] | None]:
    if isinstance(given, pa.Array | pa.ChunkedArray):
        return given.combine_chunks() if isinstance(given, pa.ChunkedArray) else given, None
    if isinstance(given, list):  # Python's lists may hold None, and rows of different lengths
        return pa.array(given), None
    array = np.asarray(given)
    if array.ndim not in (1, 2):
        raise ValueError(f"expected one value or one row of classes a row, got {array.ndim} dimensions")
    metadata = None
    if array.dtype.name == "bfloat16":  # ml_dtypes, as JAX and others give it
        array, metadata = array.view(np.uint16), {"dtype": "bfloat16"}
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    return (flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, array.shape[1])), metadata
