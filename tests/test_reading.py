"""Reading: every layout gives the same batch, roles are found or asked for, and what cannot be read is named."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamloss import errors
from streamloss.errors import IGNORED, USED, DataError, UsageError
from streamloss.options import Options
from streamloss.reading import remote
from streamloss.reading.arrow import survey
from streamloss.reading.batch import ARRAY_DTYPES, NAMES
from streamloss.reading.memory import from_arrays
from streamloss.reading.source import convert, describe, open_input, read_part

N, K = 23, 5
OFFSETS = np.arange(0, N * K + 1, K)
BITS = {"float16": np.float16, "bfloat16": np.uint16, "float32": np.float32, "float64": np.float64}
VALUES = np.random.default_rng(7).normal(size=(N, K))


def bits(dtype):
    """The values in a dtype, as a flat NumPy array that Arrow takes."""
    if dtype == "bfloat16":
        return (VALUES.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).ravel()
    return VALUES.astype(BITS[dtype]).ravel()


def expected(dtype):
    return bits(dtype).view(ARRAY_DTYPES[dtype]).reshape(N, K)


def field(name, kind, dtype):
    return pa.field(name, kind, metadata={"dtype": dtype})


def as_list(dtype):
    return pa.ListArray.from_arrays(OFFSETS.astype(np.int32), pa.array(bits(dtype)))


def as_large_list(dtype):
    return pa.LargeListArray.from_arrays(OFFSETS, pa.array(bits(dtype)))


def as_list_view(dtype):
    values = pa.array(bits(dtype))
    return pa.ListViewArray.from_arrays(OFFSETS[:-1].astype(np.int32), np.full(N, K, dtype=np.int32), values)


def as_fixed_size_list(dtype):
    return pa.FixedSizeListArray.from_arrays(pa.array(bits(dtype)), K)


def as_tensor(dtype):
    kind = pa.fixed_shape_tensor(pa.array(bits(dtype)).type, [K])
    return pa.ExtensionArray.from_storage(kind, as_fixed_size_list(dtype))


def as_fixed_size_binary(dtype):
    kind = pa.binary(K * BITS[dtype]().itemsize)
    return pa.FixedSizeBinaryArray.from_buffers(kind, N, [None, pa.py_buffer(bits(dtype))])


LAYOUTS = {
    "list": as_list,
    "large_list": as_large_list,
    "list_view": as_list_view,
    "fixed_size_list": as_fixed_size_list,
    "fixed_shape_tensor": as_tensor,
    "fixed_size_binary": as_fixed_size_binary,
}
IN_PARQUET = sorted(LAYOUTS.keys() - {"list_view"})


def as_table(layout, dtype):
    if layout == "wide":
        flat = bits(dtype).reshape(N, K)
        # Written in an order that only natural sorting undoes: c_10 stands for the last class.
        names = ["c_1", "c_2", "c_3", "c_9", "c_10"]
        fields = [field(name, pa.array(flat[:, 0].copy()).type, dtype) for name in names]
        columns = [pa.array(flat[:, j].copy()) for j in range(K)]
        order = [4, 0, 3, 1, 2]
        return pa.table([columns[j] for j in order], schema=pa.schema([fields[j] for j in order]))
    column = LAYOUTS[layout](dtype)
    return pa.table([column], schema=pa.schema([field("logits", column.type, dtype)]))


def options_for(layout, **more):
    return Options(logits="c_*", **more) if layout == "wide" else Options(**more)


def batches(data, options=None, batch_rows=None, target_bytes=64 << 20):
    source = open_input(data, options or Options(), batch_rows)
    if source.is_stream:
        return list(source.stream())
    return [batch for part in source.parts(target_bytes) for batch in read_part(part, source.plan)]


def one(data, options=None):
    (batch,) = batches(data, options)
    return batch


def joined(found, name="prediction"):
    return np.concatenate([getattr(batch, name) for batch in found])


def write(path, table, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, **more)
    return str(path)


def lists(rows, kind=None):
    return pa.array(rows, type=kind or pa.list_(pa.float32()))


def simple(n=6, **more):
    return {"logits": as_fixed_size_list("float32")[:n], "label": [row % K for row in range(n)], **more}


# ---------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("dtype", ARRAY_DTYPES)
@pytest.mark.parametrize("layout", [*LAYOUTS, "wide"])
class TestLayouts:
    def test_from_memory(self, layout, dtype):
        batch = one(as_table(layout, dtype), options_for(layout))
        np.testing.assert_array_equal(batch.prediction, expected(dtype))
        assert NAMES[batch.prediction.dtype] == dtype
        assert batch.prediction.flags.c_contiguous
        assert batch.prediction.flags.aligned
        assert (batch.code == USED).all()

    def test_slices_and_chunks(self, layout, dtype):
        table = as_table(layout, dtype)
        np.testing.assert_array_equal(joined(batches(table.slice(4, 11), options_for(layout))), expected(dtype)[4:15])
        np.testing.assert_array_equal(
            joined(batches(pa.concat_tables([table.slice(9), table.slice(2, 3)]), options_for(layout), 4)),
            np.concatenate([expected(dtype)[9:], expected(dtype)[2:5]]),
        )

    def test_null_rows(self, layout, dtype):
        table = as_table(layout, dtype)
        empty = [3, 8]
        take = pa.array([None if row in empty else row for row in range(N)])
        columns = [column.combine_chunks() for column in table.columns]
        if layout == "fixed_shape_tensor":
            columns = [pa.ExtensionArray.from_storage(columns[0].type, columns[0].storage.take(take))]
        elif layout == "list_view":
            starts = pa.array([None if row in empty else row * K for row in range(N)], pa.int32())
            columns = [pa.ListViewArray.from_arrays(starts, columns[0].sizes, columns[0].values)]
        else:
            columns = [column.take(take) for column in columns]
        batch = one(pa.table(columns, schema=table.schema).slice(1), options_for(layout))
        good = [row for row in range(1, N) if row not in empty]
        assert np.flatnonzero(batch.code == errors.NULL).tolist() == [row - 1 for row in empty]
        np.testing.assert_array_equal(batch.prediction[batch.code == USED], expected(dtype)[good])
        assert batch.found[2][1] is None


@pytest.mark.parametrize("dtype", ARRAY_DTYPES)
@pytest.mark.parametrize("layout", [*IN_PARQUET, "wide"])
@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
def test_parquet_in_any_batches(layout, dtype, batch_rows, tmp_path):
    path = write(tmp_path / "x.parquet", as_table(layout, dtype), row_group_size=10)
    found = batches(path, options_for(layout), batch_rows)
    np.testing.assert_array_equal(joined(found), expected(dtype))
    assert max(len(batch) for batch in found) == min(batch_rows, N)
    assert [batch.first_row for batch in found] == list(np.cumsum([0] + [len(b) for b in found[:-1]]))


@pytest.mark.parametrize("layout", ["list", "large_list", "fixed_size_list", "fixed_shape_tensor", "fixed_size_binary"])
@pytest.mark.parametrize("dtype", ARRAY_DTYPES)
def test_regular_layouts_are_not_copied(layout, dtype):
    memory = bits(dtype)
    column = LAYOUTS[layout](dtype)
    storage = column.storage if isinstance(column, pa.ExtensionArray) else column
    data = storage.buffers()[1] if layout == "fixed_size_binary" else storage.values.buffers()[1]
    table = pa.table([column], schema=pa.schema([field("logits", column.type, dtype)]))
    batch = one(table.slice(3, 7))
    assert batch.prediction.ctypes.data == data.address + 3 * K * memory.itemsize
    assert not batch.prediction.flags.writeable


def test_numpy_arrays_are_not_copied():
    logits = VALUES.astype(np.float32)
    labels = np.arange(N) % K
    batch = one({"logits": logits, "label": labels})
    assert np.shares_memory(batch.prediction, logits)
    assert np.shares_memory(batch.label, labels)
    assert logits.flags.writeable


def test_a_null_element_makes_its_row_null():
    rows = [[1.0, 2.0], [None, 1.0], [3.0, 4.0], None, [5.0, None], [6.0, 7.0]]
    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2)):
        for start in (0, 1):
            batch = one(pa.table({"logits": lists(rows, kind)}).slice(start))
            assert (np.flatnonzero(batch.code == errors.NULL) + start).tolist() == [1, 3, 4]
            used = batch.prediction[batch.code == USED].tolist()
            assert used == [row for row in rows[start:] if row is not None and None not in row]


def test_a_null_in_a_flat_column_names_that_column():
    batch = one({"a": [1.0, None], "b": [2.0, 3.0]}, Options(logits="a,b"))
    assert batch.code.tolist() == [USED, errors.NULL]
    assert batch.found == {1: ("a", None)}


def test_ragged_rows():
    batch = one({"logits": lists([None, [1, 2, 3], [1, 2], [4, 5, 6], [], [7, 8, 9]])})
    assert batch.code.tolist() == [errors.NULL, USED, errors.RAGGED, USED, errors.RAGGED, USED]
    assert batch.prediction.tolist() == [[0, 0, 0], [1, 2, 3], [0, 0, 0], [4, 5, 6], [0, 0, 0], [7, 8, 9]]
    assert batch.found[2] == ("logits", "2 values")
    assert batch.found[0] == ("logits", None)


def test_ragged_rows_of_a_list_view_out_of_order():
    values = pa.array(np.arange(6, dtype=np.float32))
    views = pa.ListViewArray.from_arrays(pa.array([3, 0, 4], pa.int32()), pa.array([3, 3, 2], pa.int32()), values)
    batch = one({"logits": views})
    assert batch.prediction.tolist() == [[3, 4, 5], [0, 1, 2], [0, 0, 0]]
    assert batch.code.tolist() == [USED, USED, errors.RAGGED]


def test_the_classes_are_those_of_the_first_row_of_all_batches(tmp_path):
    table = {"logits": lists([None] * 40 + [[1, 2, 3]] + [[1, 2]])}
    path = write(tmp_path / "x.parquet", table, row_group_size=5)
    found = batches(path, batch_rows=2)
    assert joined(found, "code").tolist() == [errors.NULL] * 40 + [USED, errors.RAGGED]
    assert open_input(path, Options()).task.classes == 3
    reader = pa.table(table).to_reader(max_chunksize=7)
    assert joined(batches(reader), "code").tolist() == [errors.NULL] * 40 + [USED, errors.RAGGED]


def test_named_classes_fix_the_count():
    options = Options(classes=("a", "b", "c"))
    batch = one({"logits": lists([[1, 2], [1, 2, 3]])}, options)
    assert batch.code.tolist() == [errors.CLASS_COUNT, USED]
    assert batch.found[0] == ("logits", "2 values")
    with pytest.raises(DataError, match=r"column 'logits': 2 values a row; --classes names 3"):
        open_input({"logits": np.zeros((4, 2))}, options)


def test_integers_are_numbers_and_uint16_must_say_what_it_is():
    batch = one({"logits": np.array([[1, 1, 3]])})
    assert batch.prediction.dtype == np.float64
    assert batch.prediction.tolist() == [[1, 1, 3]]
    half = np.array([[1, 1, 3]], dtype=np.float16)
    with pytest.raises(UsageError, match="holds uint16: give --dtype float16 or --dtype bfloat16"):
        one({"logits": half.view(np.uint16)})
    batch = one({"logits": half.view(np.uint16)}, Options(dtype="float16"))
    np.testing.assert_array_equal(batch.prediction, half.view(np.uint16))
    assert one({"logits": half.view(np.uint16)}, Options(dtype="bfloat16")).prediction.dtype == np.int16
    plain = one({"logits": np.array([[1, 1, 3]], dtype=np.uint16)}, Options(dtype="float64"))
    assert plain.prediction.tolist() == [[1, 1, 3]]


def test_bfloat16_may_be_declared_on_the_value_field():
    values = pa.array(bits("bfloat16"))
    kind = pa.list_(pa.field("item", pa.uint16(), metadata={"dtype": "bfloat16"}))
    column = pa.ListArray.from_arrays(OFFSETS.astype(np.int32), values, type=kind)
    np.testing.assert_array_equal(one({"logits": column}).prediction, expected("bfloat16"))


def test_fixed_size_binary_must_say_what_it_is_and_fit():
    column = as_fixed_size_binary("float32")
    with pytest.raises(UsageError, match="does not say what it holds: give --dtype"):
        one({"logits": column})
    assert one({"logits": column}, Options(dtype="float32")).prediction.shape == (N, K)
    with pytest.raises(DataError, match="20 bytes are no whole number of float64 values"):
        one({"logits": column}, Options(dtype="float64"))
    table = pa.table([column], schema=pa.schema([field("logits", column.type, "int8")]))
    with pytest.raises(DataError, match="metadata declares dtype 'int8'"):
        one(table)


def test_a_tensor_of_more_dimensions_is_flattened():
    kind = pa.fixed_shape_tensor(pa.float32(), [2, 3])
    storage = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(12, dtype=np.float32)), 6)
    batch = one({"logits": pa.ExtensionArray.from_storage(kind, storage)})
    assert batch.prediction.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


@pytest.mark.parametrize("rows", [[[]], [[1.0]], [None, []]])
def test_fewer_than_two_classes(rows):
    with pytest.raises(DataError, match="expected two classes or more"):
        open_input({"logits": lists(rows)}, Options())


def test_nothing_but_nulls():
    with pytest.raises(DataError, match="'logits': every row is null"):
        open_input({"logits": lists([None, None])}, Options())


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.none() | st.lists(st.none() | st.floats(-9, 9, width=32), max_size=4), min_size=1, max_size=30),
    batch_rows=st.integers(1, 9),
    start=st.integers(0, 5),
)
def test_any_lists_are_judged_row_by_row(rows, batch_rows, start):
    whole = lists([[0.0, 0.0, 0.0], *rows])
    table = pa.concat_tables([pa.table({"logits": whole[:1]}), pa.table({"logits": whole}).slice(start)])
    seen = [[0.0, 0.0, 0.0], *[[0.0, 0.0, 0.0], *rows][start:]]
    found = batches(table, batch_rows=batch_rows)
    code, values = joined(found, "code"), joined(found)
    for row, c, v in zip(seen, code, values, strict=True):
        if row is None or None in row:
            assert c == errors.NULL
        elif len(row) != 3:
            assert c == errors.RAGGED
        else:
            assert c == USED
            assert v.tolist() == row


# ---------------------------------------------------------------------------------------------- roles


@pytest.mark.parametrize(
    ("role", "column", "family", "form"),
    [
        ("logits", lists([[1, 2]]), "categorical", "logits"),
        ("probs", lists([[1, 2]]), "categorical", "probs"),
        ("logprobs", lists([[1, 2]]), "categorical", "logprobs"),
        ("logit", [1.0], "binary", "logits"),
        ("prob", [1.0], "binary", "probs"),
        ("logprob", [1.0], "score", "logprobs"),
    ],
)
def test_predictions_by_name_and_by_option(role, column, family, form):
    for name, options in ((role, Options()), ("mine", Options(**{role: "mine"}))):
        source = open_input({name: column, "label": [0]}, options)
        assert (source.task.family, source.task.form) == (family, form)
        assert source.roles[role] == name
        assert source.task.classes == (0 if family == "score" else 2)


@pytest.mark.parametrize("role", ["target_logits", "target_probs", "target_logprobs"])
def test_targets(role):
    table = {"probs": lists([[1, 2]]), "t": lists([[3, 4]]), role: lists([[5, 6]]), "label": [1]}
    named = open_input(table, Options())
    assert (named.task.family, named.task.target_form, named.task.label) == ("pair", role[7:], "hard")
    assert next(named.stream()).target.tolist() == [[5, 6]]
    given = open_input(table, Options(**{role: "t"}))
    assert next(given.stream()).target.tolist() == [[3, 4]]
    left_out = open_input(table, Options(**{role: ""}))
    assert left_out.task.family == "categorical"


def test_a_target_of_other_classes_or_dtype():
    with pytest.raises(DataError, match="same classes: 'probs' has 2, 'target_probs' has 3"):
        open_input({"probs": lists([[1, 2]]), "target_probs": lists([[1, 2, 3]])}, Options())
    source = open_input({"probs": lists([[1, 2]]), "target_probs": np.ones((1, 2), np.float16)}, Options())
    assert (source.prediction_dtype, source.target_dtype) == ("float32", "float16")
    batch = one({"probs": lists([[1, 2], [1, 2]]), "target_probs": lists([[1, 2], [1]])})
    assert batch.code.tolist() == [USED, errors.RAGGED]
    assert batch.found[1][0] == "target_probs"


def test_of_several_names_the_first_of_the_table_is_taken():
    table = {"probs": lists([[3, 4]]), "logits": lists([[1, 2]])}
    assert one(table, Options()).prediction.tolist() == [[1, 2]]
    assert one(table, Options(probs="probs")).prediction.tolist() == [[3, 4]]
    assert one(table, Options(logits="")).prediction.tolist() == [[3, 4]]
    both = {**table, "target_probs": lists([[5, 6]]), "target_logits": lists([[7, 8]])}
    assert open_input(both, Options()).roles == {"logits": "logits", "target_logits": "target_logits"}


def test_no_prediction_says_what_to_type():
    with pytest.raises(UsageError, match=r"there are 'scores', 'y'; for example --logits scores --label y"):
        open_input({"scores": lists([[1, 2]]), "y": [1]}, Options())
    with pytest.raises(UsageError, match=r"for example --prob 'my score'"):
        open_input({"my score": [0.5], "label": [1]}, Options())
    with pytest.raises(UsageError, match=r"there are 'name'$"):
        open_input({"name": ["a"]}, Options())


def test_a_missing_column_names_the_nearest():
    with pytest.raises(DataError, match=r"no column 'lable'; there are 'logits', 'label'; did you mean 'label'\?"):
        open_input(simple(), Options(label="lable"))
    with pytest.raises(DataError, match="no column matches 'q_\\*'; there are"):
        open_input(simple(), Options(logits="q_*"))
    with pytest.raises(DataError, match="no column 'b'"):
        open_input({"a": [1.0]}, Options(logits="a,b"))


def test_a_column_called_twice():
    table = pa.table([pa.array([0]), pa.array([1]), lists([[1, 2]])], names=["label", "label", "logits"])
    with pytest.raises(DataError, match="2 columns called 'label'"):
        open_input(table, Options())


def test_an_exact_name_wins_over_a_pattern():
    table = {"p_*": lists([[1, 2]]), "p_1": [1.0], "p_2": [2.0], "a,b": lists([[3, 4]])}
    assert one(table, Options(logits="p_*")).prediction.tolist() == [[1, 2]]
    assert one(table, Options(logits="p_[12]")).prediction.tolist() == [[1, 2]]
    assert one(table, Options(logits="p_2,p_1")).prediction.tolist() == [[2, 1]]
    assert one(table, Options(logits="a,b")).prediction.tolist() == [[3, 4]]


def test_flat_columns_must_agree():
    with pytest.raises(DataError, match=r"columns 'a' \(float\) and 'b' \(double\) must hold one type"):
        open_input({"a": np.ones(1, np.float32), "b": np.ones(1)}, Options(logits="a,b"))
    with pytest.raises(DataError, match="column 'b': wrong type string for logits: expected a number a row"):
        open_input({"a": [1.0], "b": ["x"]}, Options(logits="a,b"))


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ({"logits": [1.0]}, {}, "wrong type double for logits: expected a list .* for one number a row use --logit"),
        ({"prob": lists([[1, 2]])}, {}, "wrong type list<item: float> for prob: .* use --probs"),
        ({"logits": lists([["a"]], pa.list_(pa.string()))}, {}, "wrong type list<item: string> for logits"),
        ({"prob": pa.array([1], pa.decimal128(5))}, {}, r"wrong type decimal128\(5, 0\) for prob"),
        (simple(mask=["a"] * 6), {}, "wrong type string for mask: expected booleans"),
        (simple(bytes=[b"a"] * 6), {}, r"wrong type binary for bytes: .*\(it was found by its name; --bytes '' leaves"),
        (simple(w=["a"] * 6), {"weight": "w"}, "'w': wrong type string for weight: expected numbers$"),
        (simple() | {"label": [0.0] * 6}, {}, "labels of K classes are integers .*--target-probs"),
        (simple() | {"label": [[1]] * 6}, {}, "wrong type list<item: int64> for label"),
    ],
)
def test_wrong_types(table, options, message):
    with pytest.raises(DataError, match=message):
        open_input(table, Options(**options))


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ({"logits": lists([[1, 2]])}, {"ignore_index": -100}, "--ignore-index needs a label"),
        (simple() | {"label": ["a"] * 6}, {}, "labels in 'label' are strings: say which class each is with --classes"),
        (simple(), {"class_weights": (1.0, 2.0)}, "--class-weights gives 2 weights for 5 classes"),
        ({"logits": lists([[1, 2]])}, {"class_weights": (1.0, 2.0)}, "there is none to go by"),
        ({"prob": [0.5], "label": [0]}, {"classes": ("a", "b", "c")}, "two classes; --classes names 3"),
        ({"probs": lists([[1, 2]])}, {"temperature": 2.0}, "--temperature divides logits"),
        ({"logits": lists([[1, 2]])}, {"target_temperature": 2.0}, "--target-temperature divides logits"),
    ],
)
def test_options_that_the_columns_rule_out(table, options, message):
    with pytest.raises(UsageError, match=message):
        open_input(table, Options(**options))


# ---------------------------------------------------------------------------------------------- labels and weights


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]
)
def test_integer_labels(kind):
    batch = one(simple(4) | {"label": pa.array([0, 4, None, 5], kind)})
    assert batch.label.dtype == np.int64
    assert batch.code.tolist() == [USED, USED, errors.NULL, errors.LABEL]
    assert batch.label[:2].tolist() == [0, 4]
    assert batch.found == {2: ("label", None), 3: ("label", 5)}


def test_labels_out_of_range():
    batch = one(simple(3) | {"label": pa.array([2**63, 2**64 - 1, 3], pa.uint64())}, Options(ignore_index=-1))
    assert batch.code.tolist() == [errors.LABEL, errors.LABEL, USED]
    assert batch.found[0] == ("label", 2**63)
    assert one(simple(2) | {"label": [-1, 1]}).code.tolist() == [errors.LABEL, USED]
    dictionary = pa.array([1, 9, None, 1]).dictionary_encode()
    batch = one(simple(4) | {"label": dictionary})
    assert batch.code.tolist() == [USED, errors.LABEL, errors.NULL, USED]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), "dictionary"])
def test_named_labels(kind):
    names = ["dog", "cat", "fish", None, "cat"]
    column = pa.array(names).dictionary_encode() if kind == "dictionary" else pa.array(names, kind)
    logits = np.zeros((5, 3), np.float32)
    batch = one({"logits": logits, "label": column}, Options(classes=("cat", "dog", "bird")))
    assert batch.code.tolist() == [USED, USED, errors.LABEL, errors.NULL, USED]
    assert batch.label[[0, 1, 4]].tolist() == [1, 0, 0]
    assert batch.found[2] == ("label", "fish")
    binary = one({"prob": np.ones(5), "label": column}, Options(classes=("cat", "dog")))
    assert (binary.label[[0, 1]].tolist(), binary.label.dtype) == ([1, 0], np.int64)


def test_named_labels_from_parquet(tmp_path):
    column = pa.array(["b", "a", "b"] * 5).dictionary_encode()
    path = write(tmp_path / "x.parquet", {"prob": np.ones(15), "label": column}, row_group_size=4)
    found = batches(path, Options(classes=("a", "b")), batch_rows=3)
    assert joined(found, "label").tolist() == [1, 0, 1] * 5


def test_binary_labels():
    hard = one({"prob": [0.5, 0.5, 0.5], "label": [True, False, None]})
    assert (hard.label.dtype, hard.label[:2].tolist()) == (np.int64, [1, 0])
    assert hard.code.tolist() == [USED, USED, errors.NULL]
    assert hard.prediction.shape == (3,)
    source = open_input({"prob": [0.5] * 7, "label": [0.0, 0.25, 1.0, 1.5, -1.0, float("nan"), None]}, Options())
    soft = next(source.stream())
    assert source.task.label == "soft"
    assert soft.label.dtype == np.float64
    assert soft.label[:3].tolist() == [0, 0.25, 1]
    assert soft.code.tolist() == [USED] * 3 + [errors.LABEL] * 2 + [errors.NAN, errors.NULL]
    ignored = one({"prob": [0.5] * 2, "label": [-1.0, 1.0]}, Options(ignore_index=-1))
    assert ignored.code.tolist() == [IGNORED, USED]
    assert one({"prob": [0.5, 0.5], "label": [2, 1]}).code.tolist() == [errors.LABEL, USED]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32, np.uint8])
def test_binary_predictions(dtype):
    values = np.array([0, 1, 1, 0], dtype=dtype)
    batch = one({"prob": values, "label": [0, 1, 1, 0]})
    if dtype == np.float16:
        assert (batch.prediction.dtype, batch.prediction.tolist()) == (np.uint16, values.view(np.uint16).tolist())
    else:
        assert batch.prediction.dtype == (dtype if np.issubdtype(dtype, np.floating) else np.float64)
        assert batch.prediction.tolist() == [0, 1, 1, 0]


def test_a_score_takes_no_label_but_may_ignore_by_one():
    table = {"logprob": [-1.0, -2.0, None], "label": [5, -100, 3]}
    source = open_input(table, Options())
    assert (source.task.label, "label" in source.roles) == ("none", False)
    assert next(source.stream()).code.tolist() == [USED, USED, errors.NULL]
    batch = one(table, Options(ignore_index=-100))
    assert batch.label is None
    assert batch.code.tolist() == [USED, IGNORED, errors.NULL]


def test_weights():
    inf, nan = float("inf"), float("nan")
    batch = one(simple(7, weight=[1, 0.5, 0, -1, inf, nan, None]))
    assert batch.code.tolist() == [USED, USED, IGNORED, errors.WEIGHT, errors.WEIGHT, errors.WEIGHT, errors.NULL]
    assert batch.weight[:2].tolist() == [1, 0.5]
    assert batch.found[3] == ("weight", -1.0)
    assert batch.weight.dtype == np.float64
    for dtype in (np.float16, np.float32, np.int8, np.uint64):
        assert one(simple(3, weight=np.array([1, 2, 3], dtype))).weight.tolist() == [1, 2, 3]


def test_class_weights_multiply():
    options = Options(class_weights=(1.0, 2.0, 0.0, 4.0, 5.0))
    source = open_input(simple(6) | {"label": [0, 1, 2, 3, None, 9]}, options)
    assert source.task.weighted
    batch = next(source.stream())
    assert batch.weight[[0, 1, 3]].tolist() == [1, 2, 4]
    assert batch.code.tolist() == [USED, USED, IGNORED, USED, errors.NULL, errors.LABEL]
    both = one(simple(4, weight=[3.0, 3.0, float("inf"), float("inf")]), options)
    assert both.weight[:2].tolist() == [3, 6]
    assert both.code.tolist() == [USED, USED, errors.WEIGHT, errors.WEIGHT]


def test_bytes():
    batch = one(simple(3, bytes=[10, -1, None]))
    assert batch.bytes.dtype == np.float64
    assert batch.code.tolist() == [USED, errors.BYTES, errors.NULL]
    assert batch.found[1] == ("bytes", -1)


def test_masks():
    table = {"logits": lists([None, [1], [1, 2], [1, 2]]), "label": [None, 9, 1, 1], "weight": [-1.0, None, 1, 1]}
    for mask in ([False, False, True, None], pa.array([0, 0, 1, None], pa.uint8())):
        batch = one({**table, "mask": mask}, Options(classes=("a", "b")))
        assert batch.code.tolist() == [IGNORED, IGNORED, USED, errors.NULL]
        assert batch.found == {3: ("mask", None)}
    with pytest.raises(DataError, match="input, row 1, column 'mask': 2 in a mask; expected true or false"):
        one({**table, "mask": [1, 2, 0, 0]}, Options(classes=("a", "b")))


def test_which_rule_comes_first():
    rows = {
        "logits": lists([[1, 2], None, [1], [1, 2], [1, 2], [1, 2]]),
        "label": [-100, 9, 9, 9, 1, 9],
        "weight": [-1.0, -1, -1, -1, -1, 0],
        "bytes": [-1] * 6,
    }
    batch = one(rows, Options(ignore_index=-100))
    wanted = [IGNORED, errors.NULL, errors.RAGGED, errors.LABEL, errors.WEIGHT, IGNORED]
    assert batch.code.tolist() == wanted
    assert batch.found == {
        1: ("logits", None),
        2: ("logits", "1 value"),
        3: ("label", 9),
        4: ("weight", -1.0),
    }


def test_a_label_that_is_not_text():
    binary = pa.array([b"\xff\xfe"])
    column = pa.StringArray.from_buffers(1, binary.buffers()[1], binary.buffers()[2])
    batch = one({"prob": [0.5], "label": column}, Options(classes=("a", "b")))
    assert batch.code.tolist() == [errors.LABEL]
    assert batch.found[0] == ("label", "text that is not UTF-8")


def test_a_bad_file_keeps_few_values():
    batch = one({"prob": np.full(5000, 0.5), "label": np.full(5000, 7)})
    assert (batch.code == errors.LABEL).all()
    assert 1 <= len(batch.found) <= 100
    assert 0 in batch.found


# ---------------------------------------------------------------------------------------------- files


def numbered(n, start=0):
    values = np.arange(start, start + n, dtype=np.float64)
    return pa.table({"prob": values, "label": np.zeros(n, np.int64), "other": ["x" * 50] * n})


def test_the_bytes_of_a_part_are_those_of_its_decoded_values(tmp_path):
    logits, targets = np.zeros((9, 100), np.float32), np.zeros((9, 100), np.float16)
    table = pa.Table.from_batches([from_arrays({"logits": logits, "target_probs": targets, "weight": np.ones(9)})])
    source = open_input(write(tmp_path / "x.parquet", table, row_group_size=4), Options())
    assert [part.bytes for part in source.parts(1)] == [rows * (400 + 200 + 8) for rows in (4, 4, 1)]


def test_parts_cover_every_row_once(tmp_path):
    write(tmp_path / "b.parquet", numbered(100), row_group_size=7)
    write(tmp_path / "a.parquet", numbered(50, 100), row_group_size=50)
    write(tmp_path / "c.parquet", numbered(0))
    source = open_input(str(tmp_path), Options(), 6)
    assert [Path(file["path"]).name for file in source.files] == ["a.parquet", "b.parquet", "c.parquet"]
    assert [file["rows"] for file in source.files] == [50, 100, 0]
    assert source.rows == 150
    assert source.bytes == sum(Path(file["path"]).stat().st_size for file in source.files)
    values = list(range(100, 150)) + list(range(100))
    for target_bytes in (1, 300, 1 << 30):
        parts = source.parts(target_bytes)
        assert parts == source.parts(target_bytes)
        assert sum(part.rows for part in parts) == 150
        found = [batch for part in parts for batch in read_part(part, source.plan)]
        assert joined(found).tolist() == values
        for batch in found:
            assert batch.prediction[0] == batch.first_row + (100 if batch.path.endswith("a.parquet") else 0)
    assert len(source.parts(1)) == 1 + 15
    assert len(source.parts(1 << 30)) == 2


def test_a_batch_knows_where_its_rows_stand(tmp_path):
    path = write(tmp_path / "x.parquet", numbered(30), row_group_size=10)
    source = open_input(path, Options(), 4)
    last = source.parts(1)[-1]
    batch = list(read_part(last, source.plan))[-1]
    assert (batch.first_row, len(batch)) == (28, 2)
    assert str(batch.place(1, "prob")) == f"{path}, row group 2, row 29, column 'prob'"


def test_parts_travel_and_threads_read_at_once(tmp_path):
    path = write(tmp_path / "x.parquet", numbered(1000), row_group_size=50)
    source = open_input(path, Options(), 9)
    parts, plan = pickle.loads(pickle.dumps((source.parts(1), source.plan)))
    assert plan == source.plan
    sums = [0.0] * len(parts)

    def work(index):
        sums[index] = sum(batch.prediction.sum() for batch in read_part(parts[index], plan))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(sums) == 999 * 500


def test_folders_globs_lists_and_uris(tmp_path, monkeypatch):
    for name in ("day=1/a.parquet", "day=2/b.pq", "day=2/_c.parquet", ".d/e.parquet", "_f/g.parquet", "h.parquet"):
        write(tmp_path / name, numbered(3))
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / "notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)

    def names(data):
        return [file["path"].replace(f"{tmp_path}/", "") for file in open_input(data, Options()).files]

    folder = ["day=1/a.parquet", "day=2/b.pq", "h.parquet"]
    assert names(str(tmp_path)) == names(tmp_path) == folder
    assert names(".") == [f"./{name}" for name in folder]
    assert names("day=*") == folder[:2]
    assert names("day=?/*.p*q*") == folder[:2]
    assert names("**/*.parquet") == ["_f/g.parquet", "day=1/a.parquet", "h.parquet"]
    assert names(["h.parquet", tmp_path / "day=1", f"{tmp_path}/h.parquet", "day=1/a.parquet"]) == [
        folder[0],
        folder[2],
    ]
    uri = f"file://{tmp_path}"
    assert names(uri) == [f"file://{name}" for name in folder]
    assert names(f"{uri}/h.parquet") == ["file://h.parquet"]
    assert names(f"{uri}/day=[1-2]/*") == ["file://day=1/a.parquet", "file://day=2/_c.parquet", "file://day=2/b.pq"]
    assert names(f"{uri}/**/a.*") == ["file://day=1/a.parquet"]
    assert joined(batches(uri)).tolist() == [0, 1, 2] * 3


def test_odd_file_names(tmp_path):
    path = write(tmp_path / "a [1] é *.parquet", numbered(3))
    assert joined(batches(path)).tolist() == [0, 1, 2]
    assert joined(batches(f"file://{tmp_path}")).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{}/other", "other: no such file$"),
        ("{}/x.parqet", r"x.parqet: no such file; did you mean {}/x.parquet\?"),
        ("{}/empty", r"empty: no \*.parquet or \*.pq files in this folder"),
        ("{}/q*.parquet", "no file matches"),
        ("file://{}/none", "no such file or folder"),
        ("file://{}/empty", "files in this folder"),
        ("file://{}/q*", "no file matches"),
        ("what://{}", "no filesystem opens this address"),
        ("{}/x.parquet/y", "no such file"),
        ("{}/zero.parquet", "zero.parquet: the file is empty, not Parquet"),
        ("{}/text.parquet", r"not a Parquet file \(it starts with b'label,pr'\)"),
        ("{}/zip.parquet", "it is a zip archive"),
        ("{}/cut.parquet", "truncated: it starts as Parquet and ends after 300 bytes"),
        ("{}/footer.parquet", "damaged footer"),
        ("{}/norows.parquet", "norows.parquet: no rows: the input is empty"),
        ("{}/pipe", "not a regular file"),
        ("bad\0name", "cannot be read"),
    ],
)
def test_files_that_cannot_be_read(data, message, tmp_path):
    whole = (tmp_path / "x.parquet", numbered(100))
    raw = Path(write(*whole)).read_bytes()
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero.parquet").write_bytes(b"")
    (tmp_path / "text.parquet").write_bytes(b"label,prob\n0,1\n")
    (tmp_path / "zip.parquet").write_bytes(b"PK\3\4" + bytes(50))
    (tmp_path / "cut.parquet").write_bytes(raw[:300])
    length = int.from_bytes(raw[-8:-4], "little")
    (tmp_path / "footer.parquet").write_bytes(raw[: -8 - length] + bytes([255]) * length + raw[-8:])
    write(tmp_path / "norows.parquet", numbered(0))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=message.replace("{}", re.escape(str(tmp_path)))) as raised:
        open_input(data.replace("{}", str(tmp_path)), Options())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("columns", [1, 2000])  # a footer within the bytes that are read at first, and a longer one
def test_a_file_is_known_by_its_footer_too(columns, tmp_path):
    def table(start):
        return pa.table({"label": np.arange(3), **{f"p_{i}": np.full(3, start + i) for i in range(columns)}})

    path, other = write(tmp_path / "x.parquet", table(0)), write(tmp_path / "y.parquet", table(1))
    raw = Path(path).read_bytes()
    length = int.from_bytes(raw[-8:-4], "little")
    assert (length > remote.TAIL) == (columns > 1)
    footer = survey(path)
    assert footer.hash == hashlib.sha256(raw[-8 - length : -8]).hexdigest() != survey(other).hash
    assert footer.metadata.equals(pq.read_metadata(path)) and footer.schema == pq.read_schema(path)
    assert [
        entry["footer"]
        for entry in open_input(path, Options(label="label", probs="p_*") if columns > 1 else Options(prob="p_0")).files
    ] == [footer.hash]


def test_permission_denied(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", numbered(3))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("streamloss.reading.files.os.open", refuse)
    with pytest.raises(DataError, match=r"x\.parquet: permission denied$"):
        open_input(path, Options())


def test_a_damaged_page_names_file_and_row_group(tmp_path):
    path = write(tmp_path / "x.parquet", numbered(400), row_group_size=100, compression="snappy", use_dictionary=False)
    where = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    raw = bytearray(Path(path).read_bytes())
    raw[where : where + 60] = bytes([255]) * 60
    source_before = open_input(path, Options())
    Path(path).write_bytes(raw)
    with pytest.raises(DataError, match="the file changed while it was read"):
        list(read_part(source_before.parts()[0], source_before.plan))
    source = open_input(path, Options(), 50)
    with pytest.raises(DataError, match=rf"{re.escape(path)}, row group 2, column 'prob': the file is damaged: ") as raised:
        list(read_part(source.parts()[0], source.plan))
    assert raised.value.place.row_group == 2
    assert "\n" not in str(raised.value)
    source = open_input(path, Options(), 50, "arrow")
    with pytest.raises(DataError, match=rf"{re.escape(path)}, row group 2: cannot be read: ") as raised:
        list(read_part(source.parts()[0], source.plan))
    assert raised.value.place.row_group == 2
    assert "\n" not in str(raised.value)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_broken_file_is_read_or_refused(seed, tmp_path_factory):
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.getbasetemp() / "broken.parquet"
    logits = as_list("float32")
    pq.write_table(pa.table({"logits": logits, "label": np.zeros(N, np.int64)}), path)
    raw = np.frombuffer(path.read_bytes(), np.uint8).copy()
    raw[rng.integers(0, len(raw), rng.integers(1, 8))] = rng.integers(0, 256)
    path.write_bytes(raw[: rng.integers(0, len(raw) + 1)].tobytes() if seed % 3 == 0 else raw.tobytes())
    try:
        found = batches(str(path))
    except (DataError, UsageError) as error:
        assert "\n" not in str(error)
    else:
        assert sum(map(len, found)) >= 1


def test_a_file_that_changes_while_it_is_read(tmp_path):
    path = write(tmp_path / "x.parquet", numbered(100), row_group_size=50)
    source = open_input(path, Options(), 10)
    reading = read_part(source.parts(1)[0], source.plan)
    next(reading)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="the file changed while it was read"):
        list(reading)
    Path(path).unlink()
    with pytest.raises(DataError, match="no such file"):
        next(read_part(source.parts()[0], source.plan))


def test_schemas_that_differ(tmp_path):
    write(tmp_path / "a.parquet", {"logits": lists([[1, 2]]), "label": [1], "other": ["x"]})
    same = {"logits": lists([[1, 2]], pa.large_list(pa.float32())), "label": pa.array([1], pa.int8())}
    write(tmp_path / "b.parquet", same)
    assert joined(batches(str(tmp_path))).tolist() == [[1, 2], [1, 2]]
    for other, message in (
        (
            {"logits": lists([[1, 2]], pa.list_(pa.float64())), "label": [1]},
            "'logits' is list<element: double> here and",
        ),
        (
            {"logits": lists([[1, 2, 3]], pa.list_(pa.float32(), 3)), "label": [1]},
            "'logits' is fixed_size_list<.* here and",
        ),
        ({"logits": lists([[1, 2]]), "label": ["a"]}, "'label' is string here and int64 in .*a.parquet"),
        ({"logits": lists([[1, 2]])}, "c.parquet: no column 'label'; there are 'logits'"),
    ):
        write(tmp_path / "c.parquet", other)
        with pytest.raises(DataError, match=message):
            open_input(str(tmp_path), Options())


# ---------------------------------------------------------------------------------------------- streams and memory


def as_ipc(table):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue()


def pipe(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def test_standard_input(monkeypatch):
    pipe(monkeypatch, as_ipc(numbered(20)))
    source = open_input("-", Options(), 5)
    assert source.is_stream
    assert (source.rows, source.bytes, source.files[0]["path"]) == (None, None, "-")
    found = list(source.stream())
    assert joined(found).tolist() == list(range(20))
    assert (source.rows, found[-1].path) == (20, "-")
    with pytest.raises(UsageError, match="has been read"):
        next(source.stream())


@pytest.mark.parametrize("data", [b"", b"PAR1 and so on", as_ipc(numbered(20))[:40]])
def test_standard_input_that_is_no_stream(monkeypatch, data):
    pipe(monkeypatch, data)
    with pytest.raises(DataError, match=r"^-: "):
        open_input(["-"], Options())


def test_standard_input_that_breaks_off_or_holds_nothing(monkeypatch):
    whole = as_ipc(numbered(20))
    pipe(monkeypatch, whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match=r"^-: cannot be read"):
        batches("-")
    pipe(monkeypatch, as_ipc(numbered(0)))
    with pytest.raises(DataError, match=r"^-: no rows: the input is empty"):
        open_input("-", Options())


def test_standard_input_with_offsets_beyond_its_values(monkeypatch):
    table = pa.table({"logits": lists([[1, 2], [3, 4], [5, 6]])})
    offsets = np.array([0, 2, 4, 6], np.int32).tobytes()
    whole = as_ipc(table)
    assert whole.count(offsets) == 1
    pipe(monkeypatch, whole.replace(offsets, np.array([0, 2, 400, 6], np.int32).tobytes()))
    with pytest.raises(DataError, match=r"^-: cannot be read: .*[Oo]ffset"):
        batches("-")


def test_a_dictionary_with_indices_beyond_it():
    column = pa.DictionaryArray.from_arrays(pa.array([0, 5]), pa.array(["a", "b"]), safe=False)
    with pytest.raises(DataError, match="input, column 'label': damaged dictionary"):
        one({"prob": [0.5, 0.5], "label": column}, Options(classes=("a", "b")))


def test_everything_that_holds_rows():
    table = numbered(20)
    arrays = {"prob": np.arange(20.0), "label": np.zeros(20, np.int64)}
    frame = SimpleNamespace(__arrow_c_stream__=table.__arrow_c_stream__)
    for data in (table, table.to_batches()[0], table.to_reader(max_chunksize=3), arrays, frame):
        source = open_input(data, Options(), 6)
        assert source.is_stream
        assert source.parts() == []
        assert joined(list(source.stream())).tolist() == list(range(20))
        assert source.rows == 20


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (3, UsageError, "cannot read int: give paths"),
        ([], UsageError, "give one path or more"),
        ([numbered(1)], UsageError, "a list of inputs holds paths, not Table"),
        (["-", "x"], UsageError, "stands alone"),
        ("", UsageError, "an empty path"),
        (numbered(0), DataError, "input: no rows"),
        ({"prob": np.ones(3), "label": np.ones(2)}, DataError, "different lengths: prob 3, label 2"),
        ({"prob": np.ones((2, 2, 2))}, DataError, "column 'prob': .* got 3 dimensions"),
        ({"prob": np.ones(2, complex)}, DataError, "column 'prob': not an array of numbers"),
    ],
)
def test_what_holds_no_rows(data, error, message):
    with pytest.raises(error, match=message):
        open_input(data, Options())


def test_arrays_of_any_memory_order():
    values = VALUES.astype(np.float32)
    for array in (np.asfortranarray(values), values[::1], values.astype(">f4"), np.repeat(values, 2, 0)[::2]):
        np.testing.assert_array_equal(one({"logits": array}).prediction, values)
    assert one({"logits": [[1.0, None], None, [1, 2]]}).code.tolist() == [errors.NULL, errors.NULL, USED]


def test_a_later_batch_must_hold_what_the_first_one_held():
    plan = open_input({"logits": VALUES.astype(np.float32), "label": np.zeros(N, int)}, Options()).plan
    batch = convert({"logits": VALUES.astype(np.float32)[:3], "label": np.zeros(3, int)}, plan, first_row=N)
    assert batch.place(2).row == N + 2
    for logits in (VALUES, VALUES.astype(np.float32)[:, :3]):
        with pytest.raises(DataError, match="column 'logits': found "):
            convert({"logits": logits, "label": np.zeros(N, int)}, plan)
    with pytest.raises(DataError, match="no column 'label'"):
        convert({"logits": VALUES.astype(np.float32)}, plan)
    with pytest.raises(DataError, match="column 'label': found string, expected labels"):
        convert(from_arrays({"logits": VALUES.astype(np.float32), "label": ["a"] * N}), plan)


def test_one_batch_of_a_table_of_many_chunks_or_none():
    plan = open_input(as_table("list", "float32"), Options()).plan
    table = as_table("list", "float32")
    chunked = pa.concat_tables([table.slice(4), table.slice(0, 4)])
    for data in (chunked, SimpleNamespace(__arrow_c_stream__=chunked.__arrow_c_stream__)):
        rows = expected("float32")
        np.testing.assert_array_equal(convert(data, plan).prediction, np.concatenate([rows[4:], rows[:4]]))
    for data in (table.slice(0, 0), table.schema.empty_table()):
        assert convert(data, plan).prediction.shape == (0, K)
    with pytest.raises(UsageError, match="cannot read list"):
        convert([1, 2], plan)


def test_batches_are_about_8_mib():
    def rows(k, dtype, **more):
        return open_input({"logits": np.zeros((1, k), dtype), **more}, Options()).plan.batch_rows

    assert rows(1000, np.float32) == (8 << 20) // 4000
    assert rows(1000, np.float32, target_probs=np.zeros((1, 1000), np.float64)) == (8 << 20) // 12000
    assert rows(2, np.float16) == 262_144
    assert rows(8 << 20, np.float64) == 1
    with pytest.raises(UsageError, match="batch_rows"):
        open_input(numbered(1), Options(), 0)


# ---------------------------------------------------------------------------------------------- describe


def test_describe(tmp_path):
    write(tmp_path / "a.parquet", as_table("list", "float32").append_column("label", pa.array([0] * N)))
    write(tmp_path / "b.parquet", as_table("list", "float32").append_column("label", pa.array([0] * N)))
    facts = describe(str(tmp_path), Options())
    assert (facts["rows"], facts["row_groups"], facts["family"], facts["classes"]) == (2 * N, 2, "categorical", K)
    assert (facts["problem"], facts["command"]) == (None, f"streamloss evaluate {tmp_path}")
    logits, label = facts["columns"]
    assert logits["role"] == "logits"
    assert (logits["layout"], logits["dtype"], logits["classes"]) == ("list", "float32", K)
    assert logits["codec"] == "SNAPPY"
    assert "PLAIN" in logits["encodings"]
    assert logits["bytes"] > label["bytes"] > 0
    assert (label["role"], label["layout"], label["dtype"]) == ("label", "flat", None)


@pytest.mark.parametrize(
    ("table", "options", "command", "problem"),
    [
        ({"my scores": lists([[1, 2]]), "y": [0]}, {}, "--logits 'my scores' --label y", "no column is called"),
        ({"my scores": lists([[1, 2]])}, {"logits": "my scores"}, "--logits 'my scores'", None),
        ({"probs": lists([[1, 2]])}, {"probs": "probs"}, "", None),
        ({"probs": lists([[1, 2]]), "logits": lists([[1, 2]])}, {"probs": "probs"}, "--probs probs", None),
        ({"prob": [0.5], "label": ["a"]}, {"classes": ("a", "b")}, "--classes a,b", None),
        ({"prob": [0.5], "label": ["a"]}, {}, "", "are strings"),
        ({"prob": pa.array([], pa.float64())}, {}, "", "no rows"),
    ],
)
def test_describe_says_what_to_type(table, options, command, problem, tmp_path):
    path = write(tmp_path / "x.parquet", table)
    facts = describe(path, Options(**options))
    assert facts["command"] == f"streamloss evaluate {path} {command}".strip()
    assert facts["problem"] is None if problem is None else problem in facts["problem"]
    assert len(facts["columns"]) == len(table)


def test_describe_without_anything_to_use(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", {"name": ["a"], "bits": pa.array([b"ab"], pa.binary(2))})
    facts = describe(path, Options())
    assert facts["command"] is None
    assert facts["columns"][1]["type"] == "fixed_size_binary[2]"
    pipe(monkeypatch, as_ipc(numbered(3)))
    facts = describe("-", Options())
    assert (facts["family"], facts["command"], facts["rows"]) == ("binary", "streamloss evaluate -", None)
    with pytest.raises(DataError, match="no such file"):
        describe(str(tmp_path / "none"), Options())
