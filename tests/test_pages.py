"""The page reader gives what pyarrow gives, bit for bit, whatever the file; damage gives an error and nothing else.

Files of every encoding, codec, page version, page size, nullability, dtype and layout are read by both. The decoders are
held to plain Python, and files with flipped, cut and inflated bytes end in a result or a `DataError`.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import subprocess
import sys
import threading
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from damage_parquet import CODECS, column, damaged, outcome, seeds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamloss
from streamloss import jit
from streamloss.cli.main import cli
from streamloss.errors import NULL, USED, DataError, UsageError
from streamloss.options import Options
from streamloss.reading import codecs, encodings, footer, levels, pages, pool, thrift
from streamloss.reading.files import open_file
from streamloss.reading.source import describe, open_input, read_part

BITS = {"float16": np.float16, "bfloat16": np.uint16, "float32": np.float32, "float64": np.float64}


@pytest.fixture(autouse=True)
def wrapping():
    """Integers wrap as they do when compiled; plain Python warns of it."""
    with np.errstate(over="ignore") if jit.DISABLED else nullcontext():
        yield


def read(path, reader="auto", batch_rows=None, target_bytes=1 << 26, **options):
    """All of a file in one: every array of its batches joined, and what was found in bad rows."""
    source = open_input(path, Options(**options), batch_rows, reader)
    batches = [batch for part in source.parts(target_bytes) for batch in read_part(part, source.plan)]
    whole = {}
    for name in ("prediction", "code", "target", "label", "weight", "bytes"):
        arrays = [getattr(batch, name) for batch in batches]
        if arrays[0] is not None:
            for array in arrays:
                assert (array.flags.c_contiguous or array.flags.f_contiguous) and array.flags.aligned
                assert name == "code" or not array.flags.writeable
            whole[name] = np.concatenate(arrays)
    found = {batch.first_row + row: what for batch in batches for row, what in batch.found.items()}
    places = [str(batch.place(row)) for batch in batches for row in range(len(batch))]
    return whole, found, places


def assert_same(ours, theirs):
    (a, found, places), (b, other_found, other_places) = ours, theirs
    assert a.keys() == b.keys()
    for name in a:
        good = b["code"] == USED if name != "code" else slice(None)
        assert a[name].dtype == b[name].dtype
        assert a[name][good].tobytes() == b[name][good].tobytes(), name
    assert found == other_found
    assert places == other_places


def both(path, must=True, **more):
    """Reads by pages (alone, when it must be able to) and by pyarrow, and compares."""
    theirs = read(path, "arrow", **more)
    assert_same(read(path, "pages" if must else "auto", **more), theirs)
    return theirs


def values_of(rng, dtype, size, few):
    z = rng.integers(-4, 5, size) / 2.0 if few else rng.normal(size=size)
    if dtype == "bfloat16":
        return (z.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return z.astype(BITS[dtype])


LABELS = [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.bool_()]
SLOW = 20 if jit.DISABLED else 1
SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def zoo(draw):
    """A table and how it is written and read."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(1, 300))
    k = draw(st.sampled_from([2, 3, 5, 8, 9, 16, 17, 64, 100]))
    layout = draw(
        st.sampled_from(["list", "large_list", "fixed_size_list", "tensor", "fixed_size_binary", "wide", "prob", "logit"])
    )
    dtype = draw(st.sampled_from(list(BITS)))
    few, nullable = draw(st.booleans()), draw(st.booleans())
    fields, columns, options, encoding = [], [], {}, {}

    def add(name, array, metadata=None):
        fields.append(pa.field(name, array.type, nullable=nullable, metadata=metadata))
        columns.append(array)

    declared = {"dtype": dtype}
    if layout in ("prob", "logit"):
        classes = 2
        z = values_of(rng, dtype, n, few)
        add(layout, pa.array(z), declared)
    else:
        classes = k
        flat = values_of(rng, dtype, n * k, few)
        if layout == "wide":
            k = classes = min(k, 9)
            options["logits"] = "z_*"
            for j in range(k):
                add(f"z_{j}", pa.array(flat[: n * k].reshape(n, k)[:, j].copy()), declared)
        else:
            add("logits", column(layout, flat, n, k, nullable), declared)
    label = draw(st.sampled_from(LABELS))
    y = rng.integers(0, 2 if pa.types.is_boolean(label) else classes, n)
    add("label", pa.array(y.astype(bool) if pa.types.is_boolean(label) else y).cast(label))
    if draw(st.booleans()):
        add("weight", pa.array(rng.integers(0, 3, n)).cast(draw(st.sampled_from([pa.int32(), pa.float32(), pa.float64()]))))
    if draw(st.booleans()):
        add("mask", pa.array(rng.random(n) < 0.8))
    table = pa.table(columns, schema=pa.schema(fields))
    dictionary = draw(st.sampled_from([True, False, ["label"]]))
    if dictionary is not True:
        if layout in ("list", "large_list", "prob", "logit", "fixed_size_list", "wide") and draw(st.booleans()):
            wide = [f"z_{j}" for j in range(k)]
            leaf = {"prob": ["prob"], "logit": ["logit"], "wide": wide}.get(layout, ["logits.list.element"])
            encoding = dict.fromkeys(leaf, "BYTE_STREAM_SPLIT")
        if dictionary is False and not pa.types.is_boolean(label) and draw(st.booleans()):
            encoding["label"] = draw(st.sampled_from(["DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"]))
    written = {
        "compression": draw(st.sampled_from(CODECS)),
        "version": draw(st.sampled_from(["1.0", "2.4", "2.6"])),
        "data_page_version": draw(st.sampled_from(["1.0", "2.0"])),
        "data_page_size": draw(st.sampled_from([40, 100, 1000, 1 << 20])),
        "write_batch_size": draw(st.sampled_from([1, 7, 64, 1024])),
        "row_group_size": draw(st.sampled_from([1, 7, 64, 1000])) if n < 50 else draw(st.sampled_from([64, 100, 1000])),
        "use_dictionary": dictionary,
        "dictionary_pagesize_limit": draw(st.sampled_from([64, 1 << 20])),
        "write_page_checksum": draw(st.booleans()),
        "write_page_index": draw(st.booleans()),
        "store_schema": draw(st.booleans()) if layout in ("list", "prob", "logit", "wide") else True,
        "column_encoding": encoding or None,
    }
    if not written["store_schema"]:
        options["dtype"] = dtype  # the metadata goes with the schema
        written["store_schema"] = True
    return table, written, options, draw(st.sampled_from([None, 1, 7, 1000])), draw(st.sampled_from([1, 1 << 26]))


@given(zoo())
@settings(SETTINGS, max_examples=300 // SLOW)
def test_pages_and_arrow_read_alike(tmp_path_factory, drawn):
    table, written, options, batch_rows, target_bytes = drawn
    path = str(tmp_path_factory.getbasetemp() / "zoo.parquet")
    pq.write_table(table, path, **written)
    both(path, batch_rows=batch_rows, target_bytes=target_bytes, **options)


@given(zoo(), st.integers(0, 2**32), st.sampled_from(["null", "short", "long", "null inside"]))
@settings(SETTINGS, max_examples=100 // SLOW)
def test_what_pages_leaves_to_arrow_comes_out_alike(tmp_path_factory, drawn, seed, how):
    """Nulls in some column from some row on, or rows of another length."""
    table, written, options, batch_rows, target_bytes = drawn
    rng = random.Random(seed)
    name = rng.choice(table.column_names)
    at = table.schema.names.index(name)
    rows = table.column(name).to_pylist() if not isinstance(table.schema.field(name).type, pa.BaseExtensionType) else None
    if rows is None or isinstance(rows[0], bytes) or table.schema.field(name).name == "label":
        name, at = "label", table.schema.names.index("label")
        rows = table.column("label").to_pylist()
    kind = table.schema.field(name).type
    metadata = table.schema.field(name).metadata
    for row in rng.sample(range(1, len(rows)), min(len(rows) - 1, rng.choice([1, 3]))):
        if how != "null" and isinstance(rows[row], list):
            values = list(rows[row])
            if how == "null inside":
                values[rng.randrange(len(values))] = None
            elif not pa.types.is_fixed_size_list(kind):
                values = values[:-1] if how == "short" else [*values, values[0]]
            rows[row] = values
        else:
            rows[row] = None
    if pa.types.is_nested(kind):  # so that nulls may stand inside
        inner = kind.value_type
        kind = pa.list_(inner, kind.list_size) if pa.types.is_fixed_size_list(kind) else pa.list_(inner)
        written["column_encoding"] = None
    if isinstance(rows[0], list) and pa.types.is_float16(kind.value_type):
        rows = [None if row is None else [None if v is None else np.float16(v) for v in row] for row in rows]
    array = pa.array(rows, kind)
    table = table.set_column(at, pa.field(name, kind, metadata=metadata), array)
    path = str(tmp_path_factory.getbasetemp() / "left.parquet")
    pq.write_table(table, path, **written)
    both(path, must=False, batch_rows=batch_rows, target_bytes=target_bytes, **options)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_large_pages(tmp_path, codec, version):
    """Pages as writers make them, beyond the window and straddled by rows; the same digest."""
    rng = np.random.default_rng(5)
    n, k = 3000, 100
    z = rng.normal(size=(n, k)).astype(np.float32)
    z[:, :50] = np.round(z[:, :50])
    table = pa.table({"logits": column("list", z.ravel(), n, k, True), "label": rng.integers(0, k, n)})
    pq.write_table(table, tmp_path / "z.parquet", compression=codec, data_page_version=version)
    both(str(tmp_path / "z.parquet"))
    digests = {streamloss.evaluate(tmp_path / "z.parquet", reader=reader).digest for reader in ("auto", "pages", "arrow")}
    assert len(digests) == 1


def test_many_flat_rows(tmp_path):
    """Dictionaries that give way to plain pages, and indices of 18 bits."""
    rng = np.random.default_rng(6)
    n = 400_000
    table = pa.table({"prob": rng.random(n, dtype=np.float32), "label": rng.integers(0, 2, n), "weight": rng.random(n)})
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=n // 2 + 1)
    both(str(tmp_path / "p.parquet"))


def test_uncompressed_values_are_read_where_they_stand(tmp_path):
    rng = np.random.default_rng(7)
    n, k = 2000, 300
    z = rng.normal(size=(n, k))
    for name, layout in (("list", "list"), ("binary", "fixed_size_binary")):
        array = column(layout, z.ravel(), n, k, True)
        schema = pa.schema([pa.field("logits", array.type, metadata={"dtype": "float64"})])
        for version in ("1.0", "2.0"):
            pq.write_table(
                pa.table([array], schema=schema), tmp_path / f"{name}.parquet", compression="none", use_dictionary=False,
                data_page_version=version,
            )  # fmt: skip
            both(str(tmp_path / f"{name}.parquet"))


def test_nothing_depends_on_threads_or_batches(tmp_path):
    rng = np.random.default_rng(8)
    n = 20_000
    table = pa.table({"logits": column("list", rng.normal(size=n * 3), n, 3, True), "label": rng.integers(0, 3, n)})
    pq.write_table(table, tmp_path / "z.parquet", row_group_size=999)
    digests = {
        streamloss.evaluate(tmp_path / "z.parquet", reader=reader, threads=threads, batch_rows=rows).digest
        for reader in ("pages", "arrow")
        for threads, rows in ((1, None), (4, 77))
    }
    assert len(digests) == 1


@pytest.mark.parametrize("k", [5, 130])  # handed to the kernels column by column, and put together row by row
@pytest.mark.parametrize("options", [{}, {"metrics": "mutual_information", "label_smoothing": 0.1, "zero": 1e-7}])
def test_flat_columns_are_rows(tmp_path, k, options):
    rng = np.random.default_rng(9)
    z, y = rng.normal(size=(500, k)).astype(np.float32), rng.integers(0, k, 500)
    path = tmp_path / "wide.parquet"
    pq.write_table(pa.table({f"z_{j}": z[:, j].copy() for j in range(k)} | {"label": y}), path, row_group_size=333)
    digests = {streamloss.evaluate(path, reader=reader, logits="z_*", **options).digest for reader in ("pages", "arrow")}
    assert digests == {streamloss.evaluate({"logits": z, "label": y}, **options).digest}


# ---------------------------------------------------------------------------------------------- what is left, and errors


def write(path, table, **more):
    pq.write_table(pa.table(table), path, **more)
    return str(path)


def test_nulls_from_the_middle_on(tmp_path):
    """Rows that were given out stay, the rest comes from pyarrow, and only the column that has to."""
    n, k = 5000, 4
    rng = np.random.default_rng(9)
    rows = rng.normal(size=(n, k)).tolist()
    rows[3210] = None
    rows[4321][2] = None
    path = write(tmp_path / "z.parquet", {"logits": rows, "label": [0] * n}, data_page_size=1000, row_group_size=4000)
    whole, _, _ = both(path, must=False, batch_rows=100)
    assert np.flatnonzero(whole["code"] == NULL).tolist() == [3210, 4321]
    with pytest.raises(DataError, match=r"z.parquet, row group 0, column 'logits': the page reader cannot read it: there are"):
        read(path, "pages")


def test_columns_that_are_left_one_after_another(tmp_path):
    n = 1000
    rng = np.random.default_rng(10)
    columns = {f"z_{j}": rng.normal(size=n).tolist() for j in range(4)} | {"label": [0] * n, "weight": [1.0] * n}
    for j, name in enumerate(columns):
        columns[name][150 * j + 3] = None
    path = write(tmp_path / "z.parquet", columns, data_page_size=64, write_batch_size=32, row_group_size=400)
    for batch_rows in (10, 90, 5000):
        _, found, _ = both(path, must=False, batch_rows=batch_rows, logits="z_*")
        assert [found[150 * j + 3][0] for j in range(6)] == list(columns)


@pytest.mark.parametrize(
    ("columns", "options", "why"),
    [
        ({"prob": [0.5, 0.5], "label": ["a", "b"]}, {"classes": ("a", "b")}, "it holds text"),
        ({"prob": [0.5, None], "label": [0, 1]}, {}, "there are nulls"),
        ({"prob": [0.5, 0.5], "label": pa.array([0, 1], pa.uint64())}, {}, "labels of uint64 may be beyond int64"),
        ({"logits": [[1.0, 2.0], [1.0]], "label": [0, 1]}, {}, "there are nulls or rows of another length"),
        ({"logits": [[1.0, 2.0], [1.0], [1.0, 2.0, 3.0]], "label": [0, 1, 1]}, {}, "there are nulls or rows of another length"),
    ],
)
def test_reader_pages_says_why_not(tmp_path, columns, options, why):
    path = write(tmp_path / "p.parquet", columns)
    with pytest.raises(DataError, match=re.escape(f"the page reader cannot read it: {why}")):
        read(path, "pages", **options)
    both(path, must=False, **options)
    left = describe(path, Options(**options))
    if len(columns["label"]) != 3:  # where two lengths make up for one another, the footer does not tell
        assert left["reader"] == "both"
        assert [column["reader_reason"] for column in left["columns"] if column["reader"] == "arrow"] == [why]


def test_inspect_says_who_reads(tmp_path):
    path = write(tmp_path / "p.parquet", {"prob": [0.5, 0.5], "label": ["a", "b"], "more": [1, 2]})
    told = CliRunner().invoke(cli, ["inspect", path, "--classes", "a,b"]).stdout
    assert "pages, arrow for 'label' (it holds text)" in " ".join(told.split())
    found = json.loads(CliRunner().invoke(cli, ["inspect", path, "--classes", "a,b", "--format", "json"]).stdout)
    assert [column["reader"] for column in found["columns"]] == ["pages", "arrow", None]
    alone = describe(path, Options(label=""))
    assert alone["reader"] == "pages"
    assert describe(pa.table({"prob": [0.5]}), Options())["reader"] == "arrow"


def test_who_may_ask_for_what(tmp_path):
    path = write(tmp_path / "p.parquet", {"prob": [0.5, 0.25], "label": [0, 1]})
    with pytest.raises(UsageError, match="--reader is one of auto, pages, arrow"):
        read(path, "parrot")
    with pytest.raises(UsageError, match="this is none"):
        open_input(pa.table({"prob": [0.5]}), Options(), reader="pages")
    by_address, local = read(f"file://{path}", "pages"), read(path, "arrow")
    assert_same((*by_address[:2], []), (*local[:2], []))
    plan = open_input(path, Options(), reader="pages").plan
    assert pickle.loads(pickle.dumps(plan)) == plan
    result = CliRunner().invoke(cli, ["evaluate", path, "--reader", "pages", "--format", "json"])
    assert result.exit_code == 0, result.output


def test_messages_are_the_same(tmp_path):
    """What stands in a bad row is said alike, to the type of the number."""
    cases = [
        {"prob": [0.5, 0.5], "label": [0, 7]},
        {"prob": [0.5, 0.5], "label": pa.array([0, -1], pa.int8())},
        {"prob": [0.5, 0.5], "label": [0.0, 1.5]},
        {"prob": [0.5, 0.5], "label": pa.array([0.0, float("nan")], pa.float32())},
        {"prob": [0.5, 0.5], "label": [0, 1], "weight": [1, -2]},
        {"prob": [0.5, 0.5], "label": [0, 1], "weight": pa.array([1, -2.5], pa.float32())},
        {"logprob": [-0.5, -0.5], "bytes": [1, -3]},
        {"prob": [0.5, 0.5], "label": [0, 1], "mask": [1, 2]},
        {"prob": [0.5, 1.5], "label": [False, True]},
    ]
    for columns in cases:
        path = write(tmp_path / "p.parquet", columns)
        said = set()
        for reader in ("pages", "arrow"):
            with pytest.raises(DataError) as error:
                streamloss.evaluate(path, reader=reader)
            said.add(str(error.value))
        assert len(said) == 1, said


def test_a_checksum_that_does_not_match(tmp_path):
    path = tmp_path / "p.parquet"
    pq.write_table(
        pa.table({"prob": np.linspace(0, 1, 999)}), path, write_page_checksum=True, compression="none", use_dictionary=False,
        row_group_size=500,
    )  # fmt: skip
    both(str(path))
    data = bytearray(path.read_bytes())
    at = bytes(data).index(np.linspace(0, 1, 999)[600:602].tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    for reader in ("auto", "pages", "arrow"):
        with pytest.raises(DataError, match=r"row group 1.*(checksum|CRC)"):
            read(str(path), reader)


@pytest.mark.parametrize("layout", ["list", "flat"])
@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff\x0f", b"\xfe\xff\xff\x7f"])  # -2^31 and a gigabyte, in zigzag
def test_a_page_that_asks_for_gigabytes(tmp_path, layout, size):
    """Refused by its header: neither is the memory taken, nor is pyarrow asked, which would take it."""
    path = tmp_path / "p.parquet"
    columns = {"prob": [0.5] * 9} if layout == "flat" else {"logits": [[0.5, 1.0]] * 9}
    pq.write_table(pa.table(columns), path, compression="snappy", use_dictionary=False, write_statistics=False)
    data = bytearray(path.read_bytes())
    assert data[4:7] == b"\x15\x00\x15"  # a data page; its uncompressed size comes next
    at = 7
    while data[at] & 128:
        at += 1
    data[7 : at + 1] = size
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"row group 0.*(the size of a page is wrong|the header of a page is none)"):
        read(str(path))


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    """A short read, not the end of the process that a memory map would be."""
    n, k = 40_000, 10
    array = column("list", np.random.default_rng(0).normal(size=n * k), n, k, True)
    path = write(tmp_path / "z.parquet", {"logits": array}, compression="none", use_dictionary=False)
    source = open_input(path, Options(), 1000)
    batches = read_part(source.parts()[0], source.plan)
    next(batches)
    os.truncate(path, 100_000)
    with pytest.raises(DataError, match="the file changed while it was read"):
        for _ in batches:
            pass


def test_threads_read_at_once(tmp_path):
    rng = np.random.default_rng(11)
    n = 30_000
    path = write(tmp_path / "z.parquet", {"logits": column("list", rng.normal(size=n * 5), n, 5, True)}, row_group_size=2000)
    source = open_input(path, Options(), 500, "pages")
    parts = source.parts(1)
    found = {}

    def work(i):
        found[i] = np.concatenate([batch.prediction for batch in read_part(parts[i], source.plan)])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    joined = np.concatenate([found[i] for i in range(len(parts))])
    assert joined.tobytes() == read(path, "arrow")[0]["prediction"].tobytes()


def test_columns_by_the_thousand(tmp_path):
    rng = np.random.default_rng(12)
    columns = {f"z_{j}": rng.normal(size=30).astype(np.float32) for j in range(1500)}
    path = write(tmp_path / "wide.parquet", columns | {"label": rng.integers(0, 1500, 30)}, row_group_size=10)
    both(path, logits="z_*")


def test_memory_is_used_again(monkeypatch):
    monkeypatch.setattr(pool, "_free", [])  # what earlier tests gave back
    first = pool.empty((1000, 100), np.dtype(np.float64))
    place, part = first.ctypes.data, first[5:7]
    first[:] = 3
    del first
    other = pool.empty((1000, 100), np.dtype(np.float64))
    assert other.ctypes.data != place  # somebody looks at it still
    assert (part == 3).all()
    del part
    assert pool.empty((99_000,), np.dtype(np.float64)).ctypes.data == place


# ---------------------------------------------------------------------------------------------- decoders


def locked(data):
    array = np.frombuffer(bytes(data), np.uint8)
    assert not array.flags.writeable
    return array


def leb(value):
    out = bytearray()
    while True:
        out.append(value & 127 | (128 if value > 127 else 0))
        value >>= 7
        if not value:
            return bytes(out)


def pack(values, width):
    whole = sum(int(value) << (i * width) for i, value in enumerate(values))
    return whole.to_bytes((len(values) * width + 7) // 8, "little")


@st.composite
def runs(draw, width):
    """The hybrid encoding of some values, as a list of runs: (values, bytes)."""
    data, values = b"", []
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            count = draw(st.integers(1, 200))
            value = draw(st.integers(0, 2**width - 1))
            data += leb(count << 1) + value.to_bytes((width + 7) // 8, "little")
            values += [value] * count
        else:
            rng = random.Random(draw(st.integers(0, 2**32)))
            piece = [rng.getrandbits(width) if width else 0 for _ in range(8 * draw(st.integers(1, 20)))]
            data += leb(len(piece) // 8 << 1 | 1) + pack(piece, width)
            values += piece
    return values, data


@given(st.integers(0, 32).flatmap(lambda width: st.tuples(st.just(width), runs(width))), st.integers(1, 90), st.integers(0, 9))
@settings(SETTINGS, max_examples=300 // SLOW)
def test_unpack(drawn, piece, more):
    width, (values, data) = drawn
    raw, state, got = locked(b"\xaa" + data + bytes(more)), encodings.hybrid(1), []
    while len(got) < len(values):
        out = np.zeros(min(piece, len(values) - len(got)), np.uint32)
        assert encodings.unpack(raw, width, state, out) == len(out)
        got += out.tolist()
    assert got == values


@given(st.integers(0, 32).flatmap(lambda width: st.tuples(st.just(width), runs(width))), st.data())
@settings(SETTINGS, max_examples=100 // SLOW)
def test_unpack_of_too_few_bytes(drawn, data):
    width, (values, encoded) = drawn
    short = locked(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    out = np.zeros(len(values) + 8, np.uint32)
    count = encodings.unpack(short, width, encodings.hybrid(0), out)
    assert 0 <= count <= len(values) - (width > 0)
    assert out[:count].tolist() == values[:count]


@given(runs(1), st.integers(1, 300), st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64]))
@settings(SETTINGS, max_examples=100 // SLOW)
def test_choose(drawn, piece, kind):
    values, data = drawn
    raw, state, got = locked(b"\xaa" + data), encodings.hybrid(1), []
    dictionary = np.array([200, 7, 9], kind)
    dictionary.flags.writeable = False
    while len(got) < len(values):
        out = np.zeros(min(piece, len(values) - len(got)), kind)
        assert encodings.choose(raw, state, dictionary, out) == len(out)
        got += out.tolist()
    assert got == [(200, 7)[value] for value in values]
    assert encodings.choose(raw, state, dictionary, np.zeros(8, kind)) == 0
    assert encodings.choose(locked(b"\x10\x02"), encodings.hybrid(0), dictionary, np.zeros(8, kind)) == 0  # a run of twos


@pytest.mark.parametrize("width", range(33))
def test_unpack_every_width(width):
    rng = random.Random(width)
    values = [rng.getrandbits(width) if width else 0 for _ in range(203)]
    out = np.zeros(203, np.uint32)
    assert encodings.unpack(locked(pack(values, width)), width, encodings.packed(0, 203), out) == 203
    assert out.tolist() == values


def delta_encoded(values, bits, per_block=128, minis=4):
    """DELTA_BINARY_PACKED as the format's page describes it, differences modulo 2^bits."""

    def zigzag(value):
        return leb((value << 1) ^ (value >> 63) if value >= 0 else ((-value - 1) << 1) | 1)

    def wrapped(value):
        return (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))

    out = leb(per_block) + leb(minis) + leb(len(values)) + zigzag(values[0])
    steps = [wrapped(b - a) for a, b in pairwise(values)]
    per_mini = per_block // minis
    for start in range(0, len(steps), per_block):
        block = steps[start : start + per_block]
        least = min(block)
        offsets = [step - least for step in block]
        groups = [offsets[i : i + per_mini] for i in range(0, per_block, per_mini)]
        widths = [max((o.bit_length() for o in group), default=0) for group in groups]
        out += zigzag(least) + bytes(widths)
        for group, width in zip(groups, widths, strict=True):
            if group:
                out += pack(group + [0] * (per_mini - len(group)), width)
    return out


INTEGERS = st.one_of(st.integers(-5, 5), st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1))


@given(
    st.lists(INTEGERS, min_size=1, max_size=400), st.integers(1, 300), st.sampled_from([(128, 4), (256, 8), (128, 1), (384, 3)])
)
@settings(SETTINGS, max_examples=200 // SLOW)
def test_delta(values, piece, blocks):
    raw = locked(b"\xff" + delta_encoded(values, 64, *blocks))
    state = np.zeros(encodings.DELTA_STATE, np.uint64)
    assert encodings.open_delta(raw, 1, state) == len(values)
    got = []
    while len(got) < len(values):
        out = np.zeros(min(piece, len(values) - len(got)), np.uint64)
        assert encodings.delta(raw, state, out) == len(out)
        got += out.view(np.int64).tolist()
    assert got == values
    assert encodings.delta(raw, state, np.zeros(1, np.uint64)) == 0


@given(st.lists(INTEGERS, min_size=2, max_size=200), st.data())
@settings(SETTINGS, max_examples=100 // SLOW)
def test_delta_of_too_few_bytes(values, data):
    whole = delta_encoded(values, 64)
    short = locked(whole[: data.draw(st.integers(0, len(whole) - 1))])
    state = np.zeros(encodings.DELTA_STATE, np.uint64)
    out = np.zeros(len(values), np.uint64)
    if encodings.open_delta(short, 0, state) >= 0:
        count = encodings.delta(short, state, out)
        assert out[:count].view(np.int64).tolist() == values[:count]


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64])
def test_byte_stream_split(kind):
    values = np.frombuffer(random.Random(1).randbytes(5000 * kind().itemsize), kind)
    apart = b"xyz" + b"".join(
        values.view(np.uint8).reshape(-1, values.itemsize)[:, j].tobytes() for j in range(values.itemsize)
    )
    for first, count in ((0, 5000), (0, 1), (4999, 1), (17, 3000)):
        out = np.zeros(count, kind)
        encodings.join(locked(apart), 3, 5000, first, out)
        assert (out == values[first : first + count]).all()


def test_gather_looks_at_indices_first():
    dictionary = np.array([5, 6, 7], np.uint32)
    out = np.zeros(4, np.uint32)
    assert not encodings.gather(np.array([0, 1, 3, 2], np.uint32), dictionary, out)
    assert not encodings.gather(np.array([0, 1, 2**32 - 1, 2], np.uint32), dictionary, out)
    assert out.tolist() == [0] * 4
    assert encodings.gather(np.array([0, 1, 2, 2], np.uint32), dictionary, out)
    assert out.tolist() == [5, 6, 7, 7]
    assert not encodings.gather(np.zeros(4, np.uint32), dictionary[:0], out)


def hybrid_encoded(values, width, rng):
    """Levels as a writer might: packed groups and runs in turn."""
    data, i = b"", 0
    while i < len(values):
        run = 1
        while i + run < len(values) and values[i + run] == values[i]:
            run += 1
        if run >= 8 or rng.random() < 0.3:
            data += leb(run << 1) + values[i].to_bytes(1, "little")
            i += run
        else:
            piece = values[i : i + 8 * rng.randint(1, 4)]
            data += leb((len(piece) + 7) // 8 << 1 | 1) + pack(piece + [0] * (-len(piece) % 8), width)
            i += len(piece)
    return data


@given(st.integers(1, 70), st.integers(1, 300), st.integers(0, 100), st.integers(1, 7), st.integers(0, 2**32), st.booleans())
@settings(SETTINGS, max_examples=300 // SLOW)
def test_levels(k, n, phase, deepest, seed, v2):
    """Regular ones are, with the phase that comes of them; one level changed and they are not."""
    rng = random.Random(seed)
    phase %= k
    width = deepest.bit_length()
    repetition = [int((phase + i) % k > 0) for i in range(n)]
    definition = [deepest] * n

    def check(repetition, definition):
        parts = [hybrid_encoded(repetition, 1, rng), hybrid_encoded(definition, width, rng)]
        sizes = np.array([len(part) for part in parts] if v2 else [-1, -1])
        raw = b"".join(part if v2 else len(part).to_bytes(4, "little") + part for part in parts)
        state = np.array([phase])
        begin = levels.check_levels(locked(raw + b"values"), sizes, deepest, k, n, state)
        assert begin in (len(raw), levels.IRREGULAR)
        return begin == len(raw), int(state[0])

    assert check(repetition, definition) == (True, (phase + n) % k)
    at = rng.randrange(n)
    wrong = list(repetition)
    wrong[at] ^= 1
    assert not check(wrong, definition)[0]
    wrong = list(definition)
    wrong[at] = rng.randrange(deepest)
    assert not check(repetition, wrong)[0]


def test_levels_that_are_cut_short():
    raw = b"\x03\x00\x00\x00\x10\x01"  # three bytes are promised
    for size in range(len(raw)):
        found = levels.check_levels(locked(raw[:size]), np.array([-1, -1]), 1, 0, 8, np.array([0]))
        assert found == levels.IRREGULAR
    assert levels.check_levels(locked(b"\x02\x00\x00\x00\x10\x01"), np.array([-1, -1]), 1, 0, 8, np.array([0])) == 6


def test_lz4_lengths():
    rng = random.Random(3)
    for size in (1, 5, 300, 70_000 // SLOW):
        for data in (bytes(size), rng.randbytes(size), (rng.randbytes(30) * (size // 30 + 1))[:size]):
            packed = pa.Codec("lz4_raw").compress(data).to_pybytes()
            assert encodings.lz4_length(locked(packed)) == size
    assert encodings.lz4_length(locked(b"\xff\xff")) == -1


def test_thrift_of_any_bytes():
    """Nothing but positions within the bytes, and -1."""
    rng = random.Random(4)
    stack, found = thrift.workspace()
    header = np.zeros(thrift.HEADER_FIELDS, np.int64)
    for _ in range(3000 // SLOW):
        data = bytes(rng.choice([rng.getrandbits(8), 0x15, 0x19, 0x1C, 0x2C, 0, 0xF9]) for _ in range(rng.randint(0, 60)))
        assert -1 <= thrift.fields(locked(data), 0, len(data), found, stack) <= len(data)
        assert -1 <= thrift.page_header(locked(data), 0, len(data), header, found, stack) <= len(data)
    assert thrift.fields(locked(b"\x1c" * 500), 0, 500, found, stack) == -1  # structs in structs


def test_footers_are_understood():
    """Ours and pyarrow's of every sample file."""
    for path in sorted((Path(__file__).parents[1] / "data").glob("*.parquet")):
        metadata = pq.read_metadata(path)
        with open_file(str(path)) as file:
            ours = footer.Footer(file)
        leaves = {name: ours.leaf(name) for name in ours._columns}
        rows, chunks = ours.chunks([leaf.index for leaf in leaves.values()], 0, ours.row_groups)
        assert rows.tolist() == [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        for leaf in leaves.values():
            schema = metadata.schema.column(leaf.index)
            assert (leaf.definition, leaf.repetition) == (schema.max_definition_level, schema.max_repetition_level)
            for group, chunk in enumerate(chunks[leaf.index]):
                theirs = metadata.row_group(group).column(leaf.index)
                assert (chunk.values, chunk.uncompressed) == (theirs.num_values, theirs.total_uncompressed_size)
                assert chunk.end - chunk.start == theirs.total_compressed_size


# ---------------------------------------------------------------------------------------------- damage


def test_damaged_files_end_in_a_result_or_an_error(tmp_path):
    """A few hundred here; `scripts/fuzz` does many thousands, in processes whose end would be seen."""
    files = [(path.read_bytes(), options) for path, options in seeds(tmp_path)]
    target = tmp_path / "damaged.parquet"
    ends = set()
    for seed in range(400):
        rng = random.Random(seed)
        data, options = files[seed % len(files)]
        target.write_bytes(damaged(rng, data))
        end = outcome(target, **options)
        assert end.startswith("read ") or str(target) in end, (seed, end)
        ends.add(end.startswith("read "))
    assert ends == {True, False}


def test_pages_cut_anywhere(tmp_path):
    """Every page of every file says that it is larger than it is, or holds more values."""
    for path, options in seeds(tmp_path)[:4]:
        data = path.read_bytes()
        for at in range(4, len(data) - 8, 37):
            changed = bytearray(data)
            changed[at : at + 3] = b"\xff\xff\x7f"
            path.write_bytes(changed)
            outcome(path, **options)


@pytest.mark.skipif(np.__version__.startswith("1."), reason="NumPy 1 makes floats of uint64 and int, which Numba does not")
def test_decoders_without_the_compiler():
    """The same tests where Numba only passes the source on."""
    names = ["test_unpack", "test_choose", "test_delta", "test_byte_stream_split", "test_gather_looks_at_indices_first"]
    names += [
        "test_levels",
        "test_lz4_lengths",
        "test_thrift_of_any_bytes",
        "test_levels_that_are_cut_short",
        "test_footers_are_understood",
        "test_nulls_from_the_middle_on",
    ]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    words = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *(f"{__file__}::{name}" for name in names)]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *words], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:]


def test_what_the_footer_claims_is_no_memory(tmp_path):
    """A page that says gigabytes of itself in a chunk that says so too is refused before they are asked for."""
    path = write(tmp_path / "p.parquet", {"prob": [0.5] * 100}, compression="snappy", use_dictionary=False)
    assert pages.why_not(path, open_input(path, Options()).plan) == {}
    data = np.frombuffer(b"\xff\xff\xff\xff\x07" + bytes(20), np.uint8)
    assert not codecs.fits("snappy", data, 100)
    assert codecs.fits("snappy", data, 2**31 - 1)
