"""Columns of Arrow become the plain arrays of a `Batch`, and the rows that reading can judge get their code.

Values are not copied where the layout is regular: the arrays are read-only views of the Arrow buffers, slices
respected. A row is ignored when the mask is false, else when its label is the ignore index, else when its weight is 0;
an ignored row is not checked. The others break, in this order: null (a null row, or a null anywhere in it), ragged row
or class count, NaN or label out of range, bad weight, bad bytes. What a prediction's numbers may be is judged by the
kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamloss.errors import BYTES, CLASS_COUNT, IGNORED, LABEL, NAN, NULL, RAGGED, USED, WEIGHT, DataError, Place
from streamloss.reading.batch import ARRAY_DTYPES, Batch, Coded, Value
from streamloss.reading.encodings import interleave
from streamloss.reading.layouts import is_text, key_kind_of
from streamloss.reading.memory import one_batch
from streamloss.reading.paths import first_line, told
from streamloss.reading.pool import empty
from streamloss.reading.roles import CLASS_ROLES, Plan, one_field

Bools = NDArray[np.bool_]

# Values are remembered for the first rows of each rule in a batch: enough for any message, little for a bad file.
REMEMBERED = 64
STANDING = 128  # flat columns up to which a row is gathered by the kernel, which takes 32 rows at a time anyway
_FEW = 1 << 12  # integers that may all be listed, whether they occur or not
_NOTHING = np.empty(0)
_UNKNOWN = np.iinfo(np.int64).min


@dataclass
class Column:
    """One role's values, which rows are null, and which break another rule with how to say what stood there."""

    name: str
    values: NDArray[Any]
    null: Bools | None = None
    null_column: dict[int, str] = field(default_factory=dict)  # where one of several flat columns is null
    wrong: Bools | None = None
    bound: int | None = None  # no label is above it or negative, where that is known
    show: Callable[[int], object] = lambda row: None
    stack: NDArray[Any] | None = None  # (K, n), where the values are the row of one of K flat columns
    coded: Coded | None = None  # of a column to group by, where its values are no integers


class _Codes:
    """The rows' codes as they fill up: the first rule that applies to a row stays."""

    def __init__(self, n: int) -> None:
        self.code = np.full(n, USED, dtype=np.int8)
        self.found: dict[int, tuple[str, object]] = {}

    def ignore(self, where: Bools) -> None:
        self.code[where & (self.code == USED)] = IGNORED

    def breaks(self, where: Bools | None, rule: int, column: Column, show: Callable[[int], object]) -> None:
        if where is None or not where.any():
            return
        where = where & (self.code == USED)
        self.code[where] = rule
        for row in np.flatnonzero(where)[:REMEMBERED].tolist():
            self.found[row] = (column.null_column.get(row, column.name) if rule == NULL else column.name, show(row))


def convert(
    data: Any,
    plan: Plan,
    *,
    path: str | None = None,
    first_row: int = 0,
    row_groups: NDArray[np.int64] | None = None,
) -> Batch:
    """One batch as the plan reads it, from an Arrow batch or table (or `__arrow_c_stream__`) or a dict of arrays."""
    batch = one_batch(data)
    read = partial(column_of, batch, plan, path=path)
    return batch_of(read, plan, batch.num_rows, path=path, first_row=first_row, row_groups=row_groups)


def column_of(batch: pa.RecordBatch, plan: Plan, role: str, name: str, *, path: str | None) -> Column:
    """A column of an Arrow batch in its role."""
    one_field(batch.schema, name, path)
    column = batch.column(name)
    if role == "by":
        if key_kind_of(column.type) not in (plan.kinds[name], "null"):  # of a later batch
            raise _other_type(name, column, plan.types[name], path)
        return Column(name, _NOTHING, coded=_coded(name, column, path))
    if role == "label":
        return _labels(plan, column, path)
    dtype = dtype_of(plan, role)
    if role in CLASS_ROLES and len(plan.columns[role]) == 1:
        return _matrix(name, column, plan.task.classes, dtype, path)
    return _flat(name, column, dtype, path)


def dtype_of(plan: Plan, role: str) -> str:
    """What the numbers of a role other than the label travel in."""
    if role == plan.prediction:
        return plan.prediction_dtype
    return plan.target_dtype or "float64" if role == plan.target else "float64"


def batch_of(
    read: Callable[[str, str], Column],
    plan: Plan,
    n: int,
    *,
    path: str | None,
    first_row: int,
    row_groups: NDArray[np.int64] | None,
) -> Batch:
    """The batch of n rows whose columns `read(role, name)` gives, every row judged."""
    k = plan.task.classes

    def of(role: str) -> Column:
        columns = [read(role, name) for name in plan.columns[role]]
        if len(columns) == 1:
            return columns[0]
        by_column = plan.task.family == "categorical" and len(columns) <= STANDING
        return _wide(plan.roles[role], columns, dtype_of(plan, role), by_column)

    prediction = of(plan.prediction)
    target = of(plan.target) if plan.target and plan.target_dtype else None
    label = of("label") if "label" in plan.columns else None
    weight, size, mask = (of(role) if role in plan.columns else None for role in ("weight", "bytes", "mask"))
    weights = _weights(plan, weight, label, n)

    codes = _Codes(n)
    if mask is not None:
        _check_mask(mask, path, first_row)
        codes.ignore(_present(mask, mask.values == 0))
    if label is not None and plan.options.ignore_index is not None:
        codes.ignore(_present(label, label.values == plan.options.ignore_index))
    if weights is not None and not (n and weights.min() > 0):  # no pass over a mask where there is nothing to mask
        zero = weights == 0
        codes.ignore(zero if weight is None else _present(weight, zero))
    for each in (mask, prediction, target, label, weight, size):
        if each is not None:
            codes.breaks(each.null, NULL, each, lambda row: None)
    count_rule = RAGGED if plan.options.classes is None else CLASS_COUNT
    for each in (prediction, target):
        if each is not None:
            codes.breaks(each.wrong, count_rule, each, each.show)
    if label is not None and plan.task.label != "none":
        if plan.task.label == "soft":
            # One look tells that all is well, as it nearly always is: NaN is neither.
            if not (n and label.values.min() >= 0 and label.values.max() <= 1):
                codes.breaks(np.isnan(label.values), NAN, label, label.show)
                codes.breaks(~((label.values >= 0) & (label.values <= 1)), LABEL, label, label.show)
        elif n and (label.values.view(np.uint64).max() if label.bound is None else label.bound) >= k:  # negative ones are huge
            codes.breaks((label.values < 0) | (label.values >= k), LABEL, label, label.show)
    if weight is not None and not (n and weight.values.min() >= 0 and weight.values.max() < np.inf):
        codes.breaks(~((weight.values >= 0) & (weight.values < np.inf)), WEIGHT, weight, weight.show)
    if size is not None and n and size.values.min() < 0:
        codes.breaks(size.values < 0, BYTES, size, size.show)
    return Batch(
        path=path,
        first_row=first_row,
        row_groups=row_groups,
        columns=plan.roles,
        prediction=_frozen(prediction.values),
        code=codes.code,
        target=None if target is None else _frozen(target.values),
        label=None if label is None or plan.task.label == "none" else _frozen(label.values),
        weight=None if weights is None else _frozen(weights),
        bytes=None if size is None else _frozen(size.values),
        masked=None if mask is None or not plan.options.convention else mask.values == 0,
        keys=_keys(read, plan, n, path),
        found=codes.found,
    )


def _keys(read: Callable[[str, str], Column], plan: Plan, n: int, path: str | None) -> dict[str, Coded]:
    """The columns of --by, those of the path among them."""
    keys = {}
    for name in plan.columns.get("by", ()):
        column = read("by", name)
        keys[name] = column.coded or _coded_integers(column.values, plan.kinds[name] == "bool")
    for name, kind in plan.of_path:
        keys[name] = Coded(np.zeros(n, dtype=np.int32), [told(path, name, kind)])
    return keys


def _coded(name: str, column: pa.Array, path: str | None) -> Coded:
    """Text, integers and booleans of Arrow, where null is a value of its own."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if not pa.types.is_dictionary(column.type):
        column = (column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column).dictionary_encode()
    try:
        values: list[Value] = column.dictionary.to_pylist()
    except UnicodeDecodeError as error:
        raise DataError("text that is not UTF-8", place=Place(path, column=name)) from error
    indices = column.indices
    codes = indices.fill_null(0).to_numpy().astype(np.int32)
    if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < max(len(values), 1):
        raise DataError("damaged dictionary: an index out of range", place=Place(path, column=name))
    if indices.null_count:
        codes[indices.is_null().to_numpy(zero_copy_only=False)] = len(values)
        values.append(None)
    return Coded(codes, values)


def _coded_integers(values: NDArray[Any], boolean: bool) -> Coded:
    """Integers, or booleans as 0 and 1."""
    if boolean:
        return Coded(values.astype(np.int32), [False, True])
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    if high - low < max(len(values), _FEW):
        return Coded((values - low).astype(np.int32), list(range(low, high + 1)))
    return _coded("", pa.array(values), None)


def first_length(column: pa.Array) -> int | None:
    """How many values the first row has that is not null; None when there is no such row."""
    lengths = pc.list_value_length(_plain(column)).drop_null()
    return lengths[0].as_py() if len(lengths) else None


def _plain(column: pa.Array, name: str | None = None, path: str | None = None) -> pa.Array:
    """Without extension, dictionary and view: the same values in the layouts handled below."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if pa.types.is_dictionary(kind):
        try:
            return column.dictionary_decode()
        except pa.ArrowException as error:
            raise DataError(f"damaged dictionary: {first_line(error)}", place=Place(path, column=name)) from error
    if pa.types.is_string_view(kind):
        try:
            return column.cast(pa.large_string())
        except pa.ArrowNotImplementedError:  # pyarrow 17
            return pa.array(column.to_pylist(), pa.large_string())
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        # Put in order by hand: pyarrow 26 casts views to lists with wrong offsets.
        null = _nulls(column)
        lengths = column.sizes.to_numpy()
        offsets = np.zeros(len(column) + 1, dtype=np.int64)
        np.cumsum(lengths if null is None else np.where(null, 0, lengths), out=offsets[1:])
        return pa.LargeListArray.from_arrays(offsets, column.flatten(), mask=None if null is None else pa.array(null))
    return column


def _matrix(name: str, column: pa.Array, k: int, dtype: str, path: str | None) -> Column:
    """K values a row from one column, shape (n, K)."""
    plain = _plain(column, name, path)
    kind = plain.type
    n = len(plain)
    null = _nulls(plain)
    if pa.types.is_fixed_size_binary(kind):
        if kind.byte_width != k * ARRAY_DTYPES[dtype].itemsize:
            raise _other_type(name, column, f"{k} values of {dtype}", path)
        return Column(name, _view(plain, dtype, n * k, plain.offset * k).reshape(n, k), null)
    if pa.types.is_fixed_size_list(kind):
        if kind.list_size != k:
            raise _other_type(name, column, f"{k} values of {dtype}", path)
        # `.values` is the whole child: a slice of the list is a slice of it, K times as long.
        child = plain.values.slice(plain.offset * k, n * k)
        values = _numbers(name, child, dtype, path).reshape(n, k)
        inner = _nulls(child)
        if inner is not None:
            null = _either(null, np.asarray(inner.reshape(n, k).any(axis=1)))
        return Column(name, values, null)
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise _other_type(name, column, f"lists of {dtype}", path)
    offsets = plain.offsets.to_numpy()
    start, stop = int(offsets[0]), int(offsets[-1])
    lengths = np.diff(offsets)
    child = plain.values.slice(start, stop - start)
    values = _numbers(name, child, dtype, path)
    inner = _nulls(child)
    if inner is not None:
        before = np.zeros(len(inner) + 1, dtype=np.int64)
        np.cumsum(inner, out=before[1:])
        null = _either(null, before[offsets[1:] - start] > before[offsets[:-1] - start])
    wrong = lengths != k
    if not wrong.any():
        return Column(name, values.reshape(n, k), null)
    good = ~wrong if null is None else ~(wrong | null)
    rows = np.zeros((n, k), dtype=values.dtype)
    rows[good] = values[np.repeat(good, lengths)].reshape(-1, k)
    return Column(name, rows, null, wrong=wrong, show=lambda row: f"{lengths[row]} value{'' if lengths[row] == 1 else 's'}")


def _wide(name: str, columns: list[Column], dtype: str, by_column: bool) -> Column:
    """K flat columns side by side, shape (n, K); `by_column`: as they are, if they already stand in one array."""
    n = len(columns[0].values)
    item = ARRAY_DTYPES[dtype]
    stack = columns[0].stack
    if stack is None or any(column.stack is not stack for column in columns):
        stack = empty((len(columns), n), item)
        for j, column in enumerate(columns):
            stack[j] = column.values
        by_column = False
    null: Bools | None = None
    where: dict[int, str] = {}
    for column in columns:
        if column.null is not None:
            null = _either(null, column.null)
            for row in np.flatnonzero(column.null)[:REMEMBERED].tolist():
                where.setdefault(row, column.name)
    if by_column:
        return Column(name, stack.T, null, null_column=where)
    rows = empty((n, len(columns)), item)
    bits = np.dtype(f"u{item.itemsize}")
    interleave(stack.view(bits), rows.view(bits))
    return Column(name, rows, null, null_column=where)


def _flat(name: str, column: pa.Array, dtype: str, path: str | None) -> Column:
    """One number a row, shape (n,); booleans as 0 and 1."""
    plain = _plain(column, name, path)
    if pa.types.is_boolean(plain.type):
        plain = plain.cast(pa.uint8())
    wider = dtype == "float64" and pa.types.is_floating(plain.type)
    values = _widened(plain) if wider else _numbers(name, plain, dtype, path)
    return Column(name, values, _nulls(plain), show=lambda row: _show(column, row))


def _labels(plan: Plan, column: pa.Array, path: str | None) -> Column:
    """Labels as int64 class numbers, or float64 for a soft binary label; `_UNKNOWN` is no class and no ignore index."""
    name = plan.columns["label"][0]
    plain = _plain(column, name, path)
    null = _nulls(plain)
    kind = plain.type
    if is_text(kind) and plan.options.classes is not None:
        index = pc.index_in(plain, value_set=pa.array(plan.options.classes, type=kind))
        values = index.cast(pa.int64()).fill_null(_UNKNOWN).to_numpy()
    elif pa.types.is_floating(kind):
        values = _widened(plain)
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        if pa.types.is_boolean(kind):
            plain = plain.cast(pa.uint8())
        raw = _numbers(name, plain, None, path)
        values = raw.astype(np.int64, copy=False)
        if raw.dtype == np.uint64:
            values = np.where(values < 0, _UNKNOWN, values)
    else:
        raise _other_type(name, column, "labels", path)
    return Column(name, values, null, show=lambda row: _show(column, row))


def _weights(plan: Plan, weight: Column | None, label: Column | None, n: int) -> NDArray[np.float64] | None:
    """The row's weight: the weight column times the class weight of the label."""
    values = None if weight is None else weight.values
    if plan.options.class_weights is None or label is None:
        return values
    table = np.array([*plan.options.class_weights, 1.0])
    inside = _present(label, (label.values >= 0) & (label.values < plan.task.classes))
    factor: NDArray[np.float64] = table[np.where(inside, label.values, -1)]
    with np.errstate(invalid="ignore"):  # an infinite weight is reported as what it is
        return factor if values is None else values * factor


def _check_mask(mask: Column, path: str | None, first_row: int) -> None:
    bad = np.flatnonzero(_present(mask, (mask.values != 0) & (mask.values != 1)))
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"{mask.show(row)} in a mask; expected true or false",
            place=Place(path, row=first_row + row, column=mask.name),
        )


def _present(column: Column, where: Bools) -> Bools:
    return where if column.null is None else where & ~column.null


def _either(null: Bools | None, more: Bools) -> Bools:
    return more if null is None else null | more


def _nulls(column: pa.Array) -> Bools | None:
    nulls: Bools | None = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    return nulls


def _numbers(name: str, column: pa.Array, dtype: str | None, path: str | None) -> NDArray[Any]:
    """A flat array's numbers: bits as they are for floats of `dtype`, integers widened to float64 (left when None)."""
    kind = column.type
    if pa.types.is_floating(kind):
        found = {16: "float16", 32: "float32", 64: "float64"}[kind.bit_width]
        if found != dtype:
            raise _other_type(name, column, str(dtype), path)
        return _view(column, dtype, len(column), column.offset)
    if not pa.types.is_integer(kind):
        raise _other_type(name, column, dtype or "integers", path)
    if pa.types.is_uint16(kind) and dtype in ("float16", "bfloat16"):
        return _view(column, dtype, len(column), column.offset)
    raw = _view(column, np.dtype(str(kind)), len(column), column.offset)
    if dtype is None:
        return raw
    if dtype != "float64":
        raise _other_type(name, column, dtype, path)
    return raw.astype(np.float64)


def _widened(column: pa.Array) -> NDArray[np.float64]:
    """Floats of any width as float64."""
    width = np.dtype(f"float{column.type.bit_width}")
    return _view(column, width, len(column), column.offset).astype(np.float64, copy=False)


def _view(column: pa.Array, dtype: str | np.dtype[Any], count: int, offset: int) -> NDArray[Any]:
    """`count` values of the array's data buffer from value `offset` on, in place where the memory is aligned."""
    item = ARRAY_DTYPES[dtype] if isinstance(dtype, str) else dtype
    buffer = column.buffers()[1]
    if count == 0 or buffer is None:
        return np.zeros(count, dtype=item)
    values = np.frombuffer(buffer, dtype=item, count=count, offset=offset * item.itemsize)
    return values if values.flags.aligned else values.copy()


def _frozen(values: NDArray[Any]) -> NDArray[Any]:
    """Read-only, as the views of Arrow's memory are, so that kernels see one type whether or not rows were copied."""
    values.flags.writeable = False
    return values


def _other_type(name: str, column: pa.Array, expected: str, path: str | None) -> DataError:
    return DataError(f"found {column.type}, expected {expected}", place=Place(path, column=name))


def _show(column: pa.Array, row: int) -> object:
    try:
        return column[row].as_py()
    except UnicodeDecodeError:
        return "text that is not UTF-8"
