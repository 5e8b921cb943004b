"""What a loop holds becomes columns of rows: NumPy arrays, tensors of torch, arrays of JAX or TensorFlow alike.

Nothing but NumPy is imported for it. A tensor (it has `detach` and `cpu`) is taken off its graph and device; everything
else is what `numpy.asarray` makes of it. No number changes: a dtype that a role cannot hold is an error, and bfloat16, which
NumPy has not, travels as its bits in uint16. The one exception changes the dtype and no number: weights, soft labels and
extra columns of bfloat16 are widened to float32.

K-class predictions have shape (…, K) and everything else (…): the leading axes are flattened to rows in C order, so what a
language model gives, (batch, T, K) with labels (batch, T), is batch · T rows. All columns must have the same leading axes,
apart from axes of length 1: (batch, T) beside (T, batch) has the same number of rows, and the wrong ones.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamloss.errors import DataError, Place, UsageError
from streamloss.options import PREDICTIONS, ROLES, TARGETS, DType
from streamloss.reading.paths import first_line
from streamloss.reading.roles import CLASS_ROLES, SCALAR_PREDICTIONS

Layout = Literal["list", "binary"]
FLOATS = get_args(DType)
VALUES = (*PREDICTIONS, *TARGETS)  # roles that hold predictions: floats, in the dtype that they came in
MOST_VALUES = (1 << 31) - 1  # in one array of lists, whose offsets are int32


@dataclass(frozen=True)
class Column:
    """n rows of one column.

    values: (n,) or (n, K) in the caller's memory; an Arrow array for the columns that have no role.
    dtype: of one value, as people call it; bfloat16 stands in `values` as uint16.
    classes: K; None for one value a row.
    """

    name: str
    values: Any
    dtype: str
    classes: int | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row; of text the mean of these rows."""
        if isinstance(self.values, pa.Array):
            return -(-int(self.values.nbytes) // max(1, len(self.values)))
        return int(self.values.dtype.itemsize) * (self.classes or 1)

    @property
    def kind(self) -> tuple[str, str, int | None]:
        """What must be the same in every batch."""
        return self.name, self.dtype, self.classes

    def field(self, layout: Layout | None) -> pa.Field:
        """How it stands in the file. bfloat16 is binary unless lists are asked for: Parquet has no integers of 16 bits, a
        list of them takes 4 bytes a value.
        """
        if isinstance(self.values, pa.Array):
            return pa.field(self.name, self.values.type)
        declared = {"dtype": self.dtype}
        value = pa.from_numpy_dtype(self.values.dtype)
        if self.classes is None:
            return pa.field(self.name, value, nullable=False, metadata=declared if self.dtype == "bfloat16" else None)
        if layout == "binary" or (layout is None and self.dtype == "bfloat16"):
            return pa.field(self.name, pa.binary(self.row_bytes), nullable=False, metadata=declared)
        lists = pa.list_(pa.field("element", value, nullable=False))
        return pa.field(self.name, lists, nullable=False, metadata=declared if self.dtype == "bfloat16" else None)

    def rows(self, start: int, stop: int, kind: pa.DataType, copy: bool) -> pa.Array:
        """Some of the rows as an array of that type, over the caller's memory unless `copy`."""
        if isinstance(self.values, pa.Array):
            return self.values.slice(start, stop - start)
        piece = self.values[start:stop]
        flat = (piece.copy() if copy else np.ascontiguousarray(piece)).reshape(-1)
        if self.classes is None:
            return pa.array(flat, kind)
        if pa.types.is_fixed_size_binary(kind):
            return pa.FixedSizeBinaryArray.from_buffers(kind, len(piece), [None, pa.py_buffer(flat.view(np.uint8))])
        offsets = np.arange(0, flat.size + 1, self.classes, dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=kind)


def columns_of(
    given: Mapping[str, Any], others: Mapping[str, Any] | None, path: str, known: pa.Schema | None = None
) -> list[Column]:
    """The columns of a batch, in the order of the roles, then the others.

    given: role -> array or None. others: name -> one value a row; `known` says what they are when all are null. Raises
    `UsageError` for roles that do not go together, `DataError` for arrays that cannot fill their role, both naming `path`.
    """
    names = [role for role in ROLES if given.get(role) is not None]
    _check_roles(given, names, others, path)
    arrays = {name: _array(name, given[name], path) for name in names}
    binary = not {"logit", "prob"}.isdisjoint(names)
    columns, shapes = [], {}
    for name, (values, dtype) in arrays.items():
        place = Place(path, column=name)
        _check_dtype(name, dtype, binary, place)
        if not values.ndim or (name in CLASS_ROLES and values.ndim < 2):
            wanted = "(…, K), K values a row" if name in CLASS_ROLES else "(…), one value a row"
            raise DataError(f"an array of shape {values.shape}; expected {wanted}", place=place)
        shapes[name] = values.shape
        classes = values.shape[-1] if name in CLASS_ROLES else None
        if classes is not None:
            _check_classes(name, classes, place)
            values = values.reshape(-1 if values.size else _size(values.shape[:-1]), classes)
        else:
            values = values.reshape(-1)
            if dtype == "bfloat16" and name not in VALUES:
                values, dtype = _widened(values), "float32"
        columns.append(Column(name, values, dtype, classes))
    counts = {column.classes for column in columns if column.classes}
    if len(counts) > 1:
        said = ", ".join(f"{c.name} has {c.classes}" for c in columns if c.classes)
        raise DataError(f"prediction and target must have the same classes: {said}", place=Place(path))
    for name, values in (others or {}).items():
        column, shapes[name] = _other(name, values, path, known)
        columns.append(column)
    leading = {name: shape[:-1] if name in CLASS_ROLES else shape for name, shape in shapes.items()}
    if len({tuple(length for length in shape if length != 1) for shape in leading.values()}) > 1:
        said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DataError(f"arrays of different rows: {said}; but for K they must have one shape", place=Place(path))
    return columns


def _check_roles(given: Mapping[str, Any], names: list[str], others: Mapping[str, Any] | None, path: str) -> None:
    unknown = [name for name in given if name not in ROLES]
    if unknown:
        raise UsageError(f"{path}: no role {unknown[0]!r}; there are {', '.join(ROLES)}; other columns go in columns={{…}}")
    predictions = [name for name in names if name in PREDICTIONS]
    if len(predictions) != 1:
        said = f"{' and '.join(predictions)} were given together" if predictions else "there is none"
        raise UsageError(f"{path}: one prediction of {', '.join(PREDICTIONS)}; {said}")
    targets = [name for name in names if name in TARGETS]
    if len(targets) > 1:
        raise UsageError(f"{path}: one target at a time; {' and '.join(targets)} were given together")
    if targets and predictions[0] in SCALAR_PREDICTIONS:
        raise UsageError(f"{path}: {targets[0]} needs a K-class prediction; a soft binary label goes in label")
    for name in others or {}:
        if not isinstance(name, str) or not name:
            raise UsageError(f"{path}: columns are called by text, not {name!r}")
        if name in ROLES:
            raise UsageError(f"{path}: {name!r} is a role; give it as {name}=…, not in columns")


def _check_dtype(name: str, dtype: str, binary: bool, place: Place) -> None:
    """Raises `DataError` unless the role can hold that dtype."""
    kinds = {"bool": "bool"} | dict.fromkeys(FLOATS, "float")
    kinds |= {f"{sign}int{bits}": "integer" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    wanted: dict[str, tuple[str, ...]] = {
        "label": ("integer", "bool", "float") if binary else ("integer", "bool"),
        "weight": ("integer", "float"),
        "mask": ("bool", "integer"),
        "bytes": ("integer",),
    }
    allowed = wanted.get(name, ("float",))
    if kinds.get(dtype) not in allowed:
        expected = ", ".join(FLOATS) if allowed == ("float",) else " or ".join(allowed)
        hint = ""
        if name == "label" and kinds.get(dtype) == "float":
            hint = "; soft labels of K classes go in target_probs"
        raise DataError(f"an array of {dtype}; expected {expected}{hint}", place=place)


def _check_classes(name: str, classes: int, place: Place) -> None:
    if classes < 2:
        hint = "" if name in TARGETS else f"; one number a row goes in {name[:-1]}"
        raise DataError(
            f"{classes} {'value' if classes == 1 else 'values'} a row; expected two classes or more{hint}", place=place
        )
    if classes > MOST_VALUES:
        raise DataError(f"{classes} values a row; {MOST_VALUES} at most", place=place)


def _array(name: str, given: Any, path: str) -> tuple[NDArray[Any], str]:
    """As an array in this machine's memory and byte order, and the name of its dtype; bfloat16 as uint16."""
    try:
        if hasattr(given, "detach") and hasattr(given, "cpu"):
            given = given.detach().cpu()
            if str(given.dtype).rpartition(".")[2] == "bfloat16":
                library = sys.modules[type(given.dtype).__module__.partition(".")[0]]
                return given.view(library.int16).numpy().view(np.uint16), "bfloat16"
            given = given.numpy()
        if np.ma.is_masked(given):
            raise ValueError("some values are masked; give the rows that count in mask")
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError, pa.ArrowException) as error:
        place = Place(path, column=name)
        raise DataError(f"{type(given).__name__} is no array of numbers: {first_line(error)}", place=place) from error
    if array.dtype.name == "bfloat16":  # ml_dtypes, as JAX and TensorFlow give it
        return array.view(np.uint16), "bfloat16"
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array, array.dtype.name


def _other(name: str, given: Any, path: str, known: pa.Schema | None) -> tuple[Column, tuple[int, ...]]:
    """A column without a role, one value a row, and the shape it came in. It is copied: it is small."""
    place = Place(path, column=name)
    try:
        if isinstance(given, pa.ChunkedArray):
            given = given.combine_chunks()
        if isinstance(given, list | tuple):
            given = pa.array(given)
        if not isinstance(given, pa.Array):
            values, dtype = _array(name, given, path)
            shape = values.shape
            flat = _widened(values.reshape(-1)) if dtype == "bfloat16" else values.reshape(-1).copy()
            given = pa.array(flat)
        else:
            shape = (len(given),)
        if pa.types.is_dictionary(given.type):
            given = given.dictionary_decode()
        if pa.types.is_null(given.type) and known is not None and name in known.names:
            given = pa.nulls(len(given), known.field(name).type)
        kind = given.type
        # Text of more than 2 GB may come together in a row group.
        for small, large in ((pa.string(), pa.large_string()), (pa.binary(), pa.large_binary())):
            if kind == small:
                given = given.cast(large)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(f"no array of one type: {first_line(error)}", place=place) from error
    if not shape or pa.types.is_nested(kind) or pa.types.is_null(kind):
        what = "nothing but nulls" if pa.types.is_null(kind) else str(kind)
        raise DataError(f"{what if shape else 'one value alone'}; expected a value of one type a row", place=place)
    return Column(name, given, str(given.type)), shape


def _widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 as float32, the same numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _size(shape: Iterable[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
