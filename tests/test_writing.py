"""What is written is what was given: the same rows and digest, by either reader, without an option; whole or not at all."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import test_readme
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import streamloss
from streamloss import DataError, PredictionWriter, StreamlossError, UsageError, write_predictions
from streamloss.cli.main import cli
from streamloss.options import Options
from streamloss.reading import source
from streamloss.writing import writer

N, K = 97, 5
rng = np.random.default_rng(11)
Z = rng.normal(size=(N, K)) * 2
Y = rng.integers(0, K, N)
BINARY = rng.normal(size=N)
FLOATS = ("float16", "bfloat16", "float32", "float64")


def listed(folder):
    return [file.name for file in folder.iterdir()]


def bfloat16_bits(values):
    """The bits of the nearest bfloat16 towards 0."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def exact(values, dtype):
    """Numbers as they are in that dtype."""
    if dtype == "bfloat16":
        return (bfloat16_bits(values).astype(np.uint32) << 16).view(np.float32)
    return np.asarray(values).astype(dtype)


# ---- a stand-in of torch: its tensors are no NumPy arrays, sit elsewhere and are part of a graph


class Dtype:
    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"torch.{self.name}"


int16 = Dtype("int16")  # where `type(tensor.dtype).__module__` leads, as torch.int16 does


class Tensor:
    """Holds bits; gives them only from the host, detached, and never as bfloat16."""

    def __init__(self, values, dtype=None, device="cuda", graph=True):
        values = np.asarray(values)
        self.dtype = Dtype(dtype or values.dtype.name)
        self._bits = bfloat16_bits(values) if dtype == "bfloat16" else values.astype(self.dtype.name)
        self._device, self._graph = device, graph

    def _like(self, **changed):
        other = object.__new__(Tensor)
        other.__dict__.update(self.__dict__ | changed)
        return other

    def detach(self):
        return self._like(_graph=False)

    def cpu(self):
        return self._like(_device="cpu")

    def view(self, dtype):
        assert dtype is int16
        return self._like(dtype=int16, _bits=self._bits.view(np.int16))

    def numpy(self):
        if self._graph:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        if self._device != "cpu":
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        if self.dtype.name == "bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self._bits

    def __array__(self, dtype=None, copy=None):
        return self.numpy()

    def __len__(self):
        return len(self._bits)

    def __getitem__(self, rows):
        return self._like(_bits=self._bits[rows])


def stand_in():
    """A module `torch` that has what the README's example uses."""

    class Linear:
        def __init__(self, inputs, outputs):
            self.weight = rng.normal(size=(inputs, outputs)).astype(np.float32)

        def eval(self):
            return self

        def __call__(self, x):
            return Tensor(x._bits @ self.weight)

    def loader(data, batch_size):
        return [tuple(t[at : at + batch_size] for t in data) for at in range(0, len(data[0]), batch_size)]

    torch = types.ModuleType("torch")
    torch.randn = lambda *shape: Tensor(rng.normal(size=shape).astype(np.float32))
    torch.randint = lambda high, shape: Tensor(rng.integers(0, high, shape))
    torch.inference_mode = contextlib.nullcontext
    torch.nn = types.SimpleNamespace(Linear=Linear)
    torch.utils = types.SimpleNamespace(data=types.SimpleNamespace(DataLoader=loader, TensorDataset=lambda *tensors: tensors))
    return torch


def test_the_loop_of_the_readme(tmp_path, monkeypatch, capsys):
    loops = [e for e in test_readme.EXAMPLES if "import torch" in e.code]
    assert loops
    monkeypatch.setitem(sys.modules, "torch", stand_in())
    monkeypatch.chdir(tmp_path)
    for loop in loops:
        exec(loop.code, {})
        assert capsys.readouterr().out == loop.output


@pytest.mark.parametrize("dtype", FLOATS)
def test_tensors(dtype, tmp_path):
    path = tmp_path / "t.parquet"
    write_predictions(path, logits=Tensor(Z, dtype), label=Tensor(Y), weight=Tensor(np.ones(N), dtype))
    assert read_back(path, "logits").tolist() == exact(Z, dtype).tolist()
    assert digests(path) == {digest(logits=exact(Z, dtype), label=Y, weight=np.ones(N))}


@pytest.mark.parametrize("dtype", FLOATS)
def test_tensors_of_torch(dtype, tmp_path):
    torch = pytest.importorskip("torch")
    z = torch.tensor(Z, dtype=getattr(torch, dtype), requires_grad=True)
    for case in (z * 1, torch.nn.Parameter(z.detach()), z.detach().T.contiguous().T):
        write_predictions(tmp_path / "t.parquet", case, torch.tensor(Y))
        assert read_back(tmp_path / "t.parquet", "logits").tolist() == z.detach().double().tolist()
    with pytest.raises(DataError, match=r"'logits': Tensor is no array of numbers"):
        write_predictions(tmp_path / "t.parquet", z.detach().to_sparse(), torch.tensor(Y))


# ---- round trips


def digest(options=None, **arrays):
    return streamloss.evaluate(arrays, **(options or {})).digest


def digests(path, **options):
    return {streamloss.evaluate(path, reader=reader, **options).digest for reader in ("pages", "arrow")}


def read_back(path, name):
    """A column's numbers as float64, (n, K) or (n,), whatever the layout."""
    table = pq.read_table(path)
    field, column = table.schema.field(name), table[name].combine_chunks()
    declared = ((field.metadata or {}).get(b"dtype") or b"").decode()
    if pa.types.is_fixed_size_binary(field.type):
        item = np.dtype({"bfloat16": "u2"}.get(declared, declared))
        bits = np.frombuffer(b"".join(column.to_pylist()), item).reshape(len(column), -1)
    elif pa.types.is_list(field.type):
        bits = column.flatten().to_numpy().reshape(len(column), -1)
    else:
        bits = column.to_numpy(zero_copy_only=False)
    if declared == "bfloat16":
        bits = (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.astype(np.float64)


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


ROLES = {
    "logits": {"logits": Z},
    "probs": {"probs": softmax(Z)},
    "logprobs": {"logprobs": np.log(softmax(Z))},
    "target_logits": {"logits": Z, "target_logits": Z[::-1]},
    "target_probs": {"probs": softmax(Z), "target_probs": softmax(Z[::-1])},
    "target_logprobs": {"logits": Z, "target_logprobs": np.log(softmax(Z[::-1]))},
    "logit": {"logit": BINARY},
    "prob": {"prob": 1 / (1 + np.exp(-BINARY))},
    "logprob": {"logprob": -np.abs(BINARY)},
}


@pytest.mark.parametrize("layout", ["list", "binary", None])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("role", ROLES)
def test_every_role_dtype_and_layout(role, dtype, layout, tmp_path):
    path = tmp_path / "r.parquet"
    scalar = role in ("logit", "prob", "logprob")
    label = (Y % 2 if scalar else Y).astype(np.int16)
    rest = {"label": label, "weight": rng.random(N) + 0.5, "mask": rng.random(N) < 0.9, "bytes": rng.integers(1, 9, N)}
    if role == "logprob":
        del rest["label"]
    given = {name: Tensor(values, dtype) for name, values in ROLES[role].items()}
    write_predictions(path, layout=layout, row_group_rows=40, **given, **rest)
    options = {"sum_tolerance": 0.05}  # bfloat16 cut off, and its numbers as float32 beside it
    direct = {name: exact(values, dtype) for name, values in ROLES[role].items()}
    assert digests(path, **options) == {digest(options, **direct, **rest)}
    for name, values in ROLES[role].items():
        assert read_back(path, name).tolist() == exact(values, dtype).astype(np.float64).tolist()
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)] == [40, 40, 17]
    assert file.metadata.metadata[b"streamloss"].decode() == streamloss.__version__
    binary = layout == "binary" or (layout is None and dtype == "bfloat16")
    for name in given:
        field = file.schema_arrow.field(name)
        assert not field.nullable
        assert scalar or pa.types.is_fixed_size_binary(field.type) == binary
        assert ((field.metadata or {}).get(b"dtype") == dtype.encode()) == (dtype == "bfloat16" or (binary and not scalar))


@pytest.mark.parametrize("kind", ["bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))])
def test_labels_keep_their_dtype(kind, tmp_path):
    path = tmp_path / "y.parquet"
    label = (Y % 2).astype(kind)
    write_predictions(path, logits=Z, label=label)
    assert str(pq.read_schema(path).field("label").type) == kind
    assert streamloss.evaluate(path).digest == digest(logits=Z, label=label)


@pytest.mark.parametrize("dtype", FLOATS)
def test_soft_binary_labels(dtype, tmp_path):
    label = Tensor(rng.random(N), dtype)
    write_predictions(tmp_path / "s.parquet", logit=BINARY, label=label)
    values = read_back(tmp_path / "s.parquet", "label")
    stored = pq.read_schema(tmp_path / "s.parquet").field("label").type
    assert str(stored) == {"float16": "halffloat", "bfloat16": "float", "float32": "float", "float64": "double"}[dtype]
    assert digests(tmp_path / "s.parquet") == {digest(logit=BINARY, label=values)}


def test_arrays_of_every_kind(tmp_path):
    """Memory orders, byte orders, strides, lists, and what has `__array__`."""

    class Holder:
        def __array__(self, dtype=None, copy=None):
            return Z

    wanted = digest(logits=Z, label=Y)
    for z in (Z, np.asfortranarray(Z), Z.astype(">f8"), np.repeat(Z, 2, axis=0)[::2], Z[::-1][::-1], Z.tolist(), Holder()):
        write_predictions(tmp_path / "a.parquet", z, Y.tolist())
        assert digests(tmp_path / "a.parquet") == {wanted}
    write_predictions(tmp_path / "a.parquet", Tensor(Z, "bfloat16"), Y)
    assert streamloss.evaluate(tmp_path / "a.parquet").digest == digest(logits=exact(Z, "bfloat16"), label=Y)


def test_bfloat16_of_numpy(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    write_predictions(tmp_path / "a.parquet", exact(Z, "bfloat16").astype(ml_dtypes.bfloat16), Y)
    assert read_back(tmp_path / "a.parquet", "logits").tolist() == exact(Z, "bfloat16").tolist()


def test_tokens_become_rows(tmp_path):
    path = tmp_path / "lm.parquet"
    z, y = rng.normal(size=(6, 7, K)).astype(np.float32), rng.integers(0, K, (6, 7))
    y[2, 3:] = -100
    mask = rng.random((6, 7)) < 0.8
    write_predictions(path, z, y, mask=mask, columns={"position": np.tile(np.arange(7), (6, 1))})
    flat = {"logits": z.reshape(-1, K), "label": y.ravel(), "mask": mask.ravel()}
    expected = streamloss.evaluate(flat, ignore_index=-100)
    assert digests(path, ignore_index=-100) == {expected.digest}
    assert pq.read_table(path)["position"].to_pylist() == list(range(7)) * 6
    write_predictions(path, logit=BINARY[:, None], label=(Y % 2))  # what a model of one output gives
    assert digests(path) == {digest(logit=BINARY, label=Y % 2)}


def test_other_columns(tmp_path):
    path = tmp_path / "o.parquet"
    others = {
        "id": np.arange(N),
        "text": [f"row {i}" if i % 3 else None for i in range(N)],
        "name": np.array([f"n{i}" for i in range(N)]),
        "objects": np.array([f"o{i}" for i in range(N)], dtype=object),
        "easy": Y > 2,
        "score": Tensor(BINARY, "bfloat16"),
        "day": np.datetime64("2026-01-01") + np.arange(N),
        "group": pa.array(["a", "b"] * N).slice(0, N).dictionary_encode(),
        "blob": pa.chunked_array([[b"x"] * N]),
        "a.b c,d": Y.astype(np.uint8),
    }
    with PredictionWriter(path, row_group_rows=30) as out:
        for at in range(0, N, 10):
            rows = slice(at, at + 10)
            out.write(Z[rows], Y[rows], columns={name: values[rows] for name, values in others.items()})
    table = pq.read_table(path)
    assert table.column_names == ["label", "logits", *others]
    for name in ("id", "name", "objects", "easy", "day", "a.b c,d"):
        assert table[name].to_pylist() == np.asarray(others[name]).tolist()
    for name in ("text", "group", "blob"):
        assert table[name].to_pylist() == (pa.array(others[name]).to_pylist() if name == "text" else others[name].to_pylist())
    assert table["score"].to_pylist() == exact(BINARY, "bfloat16").tolist()
    assert digests(path) == {digest(logits=Z, label=Y)}


def test_a_batch_of_nulls_is_what_the_first_one_was(tmp_path):
    path = tmp_path / "n.parquet"
    with PredictionWriter(path) as out:
        for text in (["a", None], [None, None], ["b", "c"]):
            out.write(Z[:2], Y[:2], columns={"text": text})
        out.write(Z[:0], Y[:0], columns={"text": []})
    assert pq.read_table(path)["text"].to_pylist() == ["a", None, None, None, "b", "c"]


# ---- batches


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_batches_give_the_same_rows(data):
    import tempfile

    n = data.draw(st.integers(1, 200))
    group = data.draw(st.integers(1, 80))
    layout = data.draw(st.sampled_from(["list", "binary"]))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=40)))
    z, y = np.arange(n * 3, dtype=np.float32).reshape(n, 3), np.arange(n) % 3
    names = [f"r{i}" for i in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "b.parquet"
        shared, shared_y = np.empty((n, 3), np.float32), np.empty(n, np.int64)  # as loops that use their memory again
        with PredictionWriter(path, row_group_rows=group, layout=layout) as out:
            for start, stop in zip([0, *cuts], [*cuts, n], strict=True):
                size = stop - start
                shared[:size], shared_y[:size] = z[start:stop], y[start:stop]
                out.write(shared[:size], shared_y[:size], columns={"name": names[start:stop] or pa.array([], pa.string())})
                shared[:] = np.nan
                shared_y[:] = -1
        assert out.rows == n
        table = pq.read_table(path)
        assert read_back(path, "logits").tolist() == z.tolist()
        assert table["label"].to_pylist() == y.tolist()
        assert table["name"].to_pylist() == names
        sizes = [pq.ParquetFile(path).metadata.row_group(g).num_rows for g in range(pq.ParquetFile(path).num_row_groups)]
        assert sizes == [group] * (n // group) + [n % group] * (n % group > 0)


def test_row_groups_hold_16_mib_by_default(tmp_path):
    z = np.zeros((2500, 4096), np.float32)
    write_predictions(tmp_path / "g.parquet", z, np.zeros(2500, np.int32))
    rows = writer.ROW_GROUP_BYTES // (4 * 4096 + 4)
    metadata = pq.ParquetFile(tmp_path / "g.parquet").metadata
    assert [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)] == [rows, rows, 2500 - 2 * rows]


def test_memory_is_one_row_group_and_a_batch(tmp_path, monkeypatch):
    """What is held never reaches a row group once a batch is taken, and full ones are in the file long before its end."""
    sizes = []
    write_table = pq.ParquetWriter.write_table
    monkeypatch.setattr(
        pq.ParquetWriter,
        "write_table",
        lambda self, table, *a, **k: (sizes.append(len(table)), write_table(self, table, *a, **k)),
    )
    z, y = np.zeros((70, K), np.float32), np.zeros(70, np.int64)
    with PredictionWriter(tmp_path / "m.parquet", row_group_rows=1000) as out:
        for i in range(1, 101):
            out.write(z, y)
            held = sum(piece.num_rows for piece in out._pieces)
            assert held == 70 * i % 1000
            assert sizes == [1000] * (70 * i // 1000)
            assert sum(piece.nbytes for piece in out._pieces) <= 1000 * (K * 4 + 8 + 4) + 8 * len(out._pieces)
        out.write(np.zeros((5000, K), np.float32), np.zeros(5000, np.int64))
        assert sizes == [1000] * 12
    assert sizes == [1000] * 12


def test_tiny_batches_are_held_together(tmp_path):
    with PredictionWriter(tmp_path / "t.parquet", row_group_rows=1 << 14) as out:
        for i in range(9000):
            out.write(prob=[0.5], label=[i % 2])
            assert len(out._pieces) < 2 * writer._PIECES + 20
    assert pq.read_table(tmp_path / "t.parquet")["label"].to_pylist() == [i % 2 for i in range(9000)]


def test_long_text_ends_a_row_group(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES", 4096)
    with PredictionWriter(tmp_path / "t.parquet") as out:
        for length in [1] + [1000] * 100:
            out.write(prob=[0.5], label=[1], columns={"text": ["x" * length]})
            assert sum(piece.nbytes for piece in out._pieces) <= 4 * 4096
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups > 3
    assert len(pq.read_table(tmp_path / "t.parquet")) == 101


def test_no_rows(tmp_path):
    path = tmp_path / "e.parquet"
    with PredictionWriter(path) as out:
        out.write(Z[:0], Y[:0])
    assert pq.read_table(path).num_rows == 0
    with PredictionWriter(path) as out:
        out.write(np.zeros((0, 3, K), np.float32), np.zeros((0, 3), int))
        out.write(np.zeros((2, 3, K), np.float32), np.zeros((2, 3), int))
        out.write(np.zeros((0, K), np.float32), np.zeros(0, int))
    assert digests(path) == {digest(logits=np.zeros((6, K), np.float32), label=np.zeros(6, int))}
    with pytest.raises(DataError, match="no batch was written"), PredictionWriter(tmp_path / "none.parquet"):
        pass
    assert listed(tmp_path) == ["e.parquet"]


# ---- layout


@pytest.mark.parametrize("layout", ["list", "binary"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("role", ROLES)
def test_the_page_reader_reads_it_and_inspect_has_no_advice(role, dtype, layout, tmp_path):
    path = tmp_path / "i.parquet"
    given = {name: Tensor(values, dtype) for name, values in ROLES[role].items()}
    more = {} if role == "logprob" else {"label": Y % 2, "mask": Y > 0}
    write_predictions(path, **given, **more, weight=np.ones(N), layout=layout, columns={"id": [str(i) for i in range(N)]})
    found = json.loads(CliRunner().invoke(cli, ["inspect", str(path), "--format", "json"]).stdout)
    assert (found["reader"], found["problem"], found["command"]) == ("pages", None, f"streamloss evaluate {path}")
    wide = [] if layout == "binary" or dtype != "bfloat16" or role in ("logit", "prob", "logprob") else list(given)
    assert sorted(each["column"] for each in found["advice"]) == sorted(wide)
    by_name = {column["name"]: column for column in found["columns"]}
    for name in given:
        assert by_name[name]["dtype"] == dtype
        assert by_name[name]["codec"] == "UNCOMPRESSED"
        assert ("RLE_DICTIONARY" in by_name[name]["encodings"]) == (
            role in ("logit", "prob", "logprob") and dtype == "bfloat16"
        )


def test_encodings_statistics_and_pages(tmp_path):
    path = tmp_path / "l.parquet"
    n = 200_000
    write_predictions(path, prob=np.linspace(0, 1, n, dtype=np.float32), label=np.arange(n) % 2, weight=np.ones(n))
    metadata = pq.ParquetFile(path).metadata.row_group(0)
    label, prob, weight = (metadata.column(i) for i in range(3))
    assert (label.path_in_schema, prob.path_in_schema, weight.path_in_schema) == ("label", "prob", "weight")
    assert "RLE_DICTIONARY" in label.encodings
    assert "RLE_DICTIONARY" not in (*prob.encodings, *weight.encodings)
    assert (label.statistics.min, label.statistics.max, weight.statistics.max) == (0, 1, 1.0)
    assert prob.statistics is None
    assert label.total_compressed_size < n // 7
    # One page of 800 kB: its header and no more stands around the values.
    assert 4 * n < prob.total_compressed_size < 4 * n + 100


@pytest.mark.parametrize("compression", writer.CODECS)
def test_compression_and_checksums(compression, tmp_path):
    path = tmp_path / "c.parquet"
    write_predictions(path, Z, Y, compression=compression, checksum=True)
    codec = pq.ParquetFile(path).metadata.row_group(0).column(1).compression
    assert codec == {"none": "UNCOMPRESSED"}.get(compression, compression.upper())
    assert digests(path) == {digest(logits=Z, label=Y)}
    pq.read_table(path, page_checksum_verification=True)
    if compression == "none":
        data = bytearray(path.read_bytes())
        at = data.index(Z[3].tobytes())
        data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises(DataError, match="CRC checksum"):
            streamloss.evaluate(path)


def test_an_older_pyarrow(tmp_path, monkeypatch):
    """Below 23 there is no limit of rows in a page, and no argument that lifts it."""
    new = pq.ParquetWriter.__init__

    def old(self, where, schema, compression="snappy", **more):
        assert "max_rows_per_page" not in more
        new(self, where, schema, compression=compression, **more)

    monkeypatch.setattr(pq.ParquetWriter, "__init__", old)
    write_predictions(tmp_path / "o.parquet", Z, Y)
    assert digests(tmp_path / "o.parquet") == {digest(logits=Z, label=Y)}


# ---- what is refused


WRONG = [
    ({}, UsageError, "one prediction of logits, .*there is none"),
    ({"label": Y}, UsageError, "one prediction of logits, .*there is none"),
    ({"logits": Z, "probs": Z}, UsageError, "logits and probs were given together"),
    ({"logits": Z, "target_probs": Z, "target_logits": Z}, UsageError, "one target at a time"),
    ({"logit": BINARY, "target_probs": Z}, UsageError, "target_probs needs a K-class prediction"),
    ({"logits": Z, "lable": Y}, UsageError, "no role 'lable'.*columns="),
    ({"logits": Z, "columns": {"weight": Y}}, UsageError, "'weight' is a role"),
    ({"logits": Z, "columns": {3: Y}}, UsageError, "called by text, not 3"),
    ({"logits": Z, "label": Y[:-1]}, DataError, r"arrays of different rows: label \(96,\), logits \(97, 5\)"),
    ({"logits": np.zeros((4, 3, 5)), "label": np.zeros((3, 4), int)}, DataError, "arrays of different rows"),
    ({"logits": Z, "columns": {"id": [1, 2]}}, DataError, r"different rows: logits \(97, 5\), id \(2,\)"),
    ({"logits": Z, "target_probs": Z[:, 1:]}, DataError, "same classes: logits has 5, target_probs has 4"),
    ({"logits": BINARY}, DataError, r"'logits': an array of shape \(97,\); expected \(…, K\)"),
    ({"logit": np.float32(1)}, DataError, r"'logit': an array of shape \(\); expected \(…\)"),
    ({"logits": BINARY[:, None]}, DataError, "'logits': 1 value a row; .*goes in logit"),
    ({"probs": np.zeros((3, 0))}, DataError, "'probs': 0 values a row; .*goes in prob"),
    ({"logits": Z.astype(int)}, DataError, "'logits': an array of int64; expected float16, bfloat16, float32, float64"),
    ({"logits": Z.astype(complex)}, DataError, "an array of complex128"),
    ({"logits": [[1.0], [1.0, 2.0]]}, DataError, "'logits': list is no array of numbers"),
    ({"logits": np.ma.masked_less(Z, 0)}, DataError, "some values are masked"),
    ({"logits": Z, "label": Y.astype(float)}, DataError, "'label': an array of float64; .*target_probs"),
    ({"logits": Z, "label": [str(y) for y in Y]}, DataError, "'label': an array of str"),
    ({"logprob": BINARY, "label": BINARY}, DataError, "'label': an array of float64"),
    ({"logits": Z, "weight": Y > 1}, DataError, "'weight': an array of bool; expected integer or float"),
    ({"logits": Z, "mask": BINARY}, DataError, "'mask': an array of float64; expected bool or integer"),
    ({"logits": Z, "bytes": BINARY}, DataError, "'bytes': an array of float64; expected integer"),
    ({"logits": Z, "columns": {"x": [[1]] * N}}, DataError, "'x': list<.*>; expected a value of one type a row"),
    ({"logits": Z, "columns": {"x": [None] * N}}, DataError, "'x': nothing but nulls"),
    ({"logits": Z, "columns": {"x": ["a", 1]}}, DataError, "'x': no array of one type"),
    ({"logits": Z, "columns": {"x": np.zeros(N, complex)}}, DataError, "'x': no array of one type"),
]


@pytest.mark.parametrize(("given", "error", "message"), WRONG)
def test_arrays_that_do_not_fit(given, error, message, tmp_path):
    with pytest.raises(error, match=message) as caught:
        write_predictions(tmp_path / "w.parquet", **given)
    assert "w.parquet" in str(caught.value)
    assert not listed(tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"layout": "tensor"}, "layout is one of list, binary, not 'tensor'"),
        ({"compression": "zip"}, "compression is one of none, snappy"),
        ({"row_group_rows": 0}, "row_group_rows must be an integer between 1"),
        ({"row_group_rows": 1.5}, "row_group_rows must be an integer between 1"),
        ({"row_group_rows": 1 << 26, "layout": "list"}, "row_group_rows must be 42949672 or less with 50 classes"),
    ],
)
def test_settings(setting, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        write_predictions(tmp_path / "s.parquet", np.zeros((2, 50)), **setting)
    assert not listed(tmp_path)


@pytest.mark.parametrize(
    ("later", "error", "message"),
    [
        ({"logits": Z.astype(np.float32), "label": Y}, DataError, "row 97, column 'logits': a batch of float32; .*float64"),
        ({"logits": Z[:, 1:], "label": Y}, DataError, "row 97, column 'logits': a batch of 4 classes; the first one had 5"),
        ({"logits": Z, "label": Y.astype(np.int32)}, DataError, "column 'label': a batch of int32; the first one was int64"),
        ({"logits": Z}, UsageError, "columns of the first one: label is missing"),
        ({"probs": Z, "label": Y}, UsageError, "probs came anew; logits is missing"),
        ({"logits": Z, "label": Y, "weight": Y}, UsageError, "weight came anew"),
    ],
)
def test_a_later_batch_is_like_the_first_or_not_written(later, error, message, tmp_path):
    path = tmp_path / "l.parquet"
    with PredictionWriter(path, row_group_rows=100) as out:
        out.write(Z, Y)
        with pytest.raises(error, match=message):
            out.write(**later)
        assert out.rows == N
        out.write(label=Y, logits=Z)
    assert digests(path) == {digest(logits=np.vstack([Z, Z]), label=np.append(Y, Y))}


# ---- whole or not at all


def test_an_exception_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"before")
    for rows in (0, 1, N):
        with pytest.raises(FileNotFoundError, match="mine"), PredictionWriter(path, row_group_rows=10) as out:
            if rows:
                out.write(Z[:rows], Y[:rows])
            raise FileNotFoundError("mine")
        assert path.read_bytes() == b"before"
        assert listed(tmp_path) == ["x.parquet"]
        with pytest.raises(UsageError, match="the writer is closed"):
            out.write(Z, Y)
        out.close()
    assert path.read_bytes() == b"before"


def test_nothing_is_there_before_the_end(tmp_path):
    path = tmp_path / "x.parquet"
    with PredictionWriter(path, row_group_rows=10) as out:
        out.write(Z, Y)
        assert not path.exists()
    assert digests(path) == {digest(logits=Z, label=Y)}
    out.close()
    out.discard()
    assert digests(path) == {digest(logits=Z, label=Y)}


def test_a_writer_that_is_forgotten_leaves_nothing(tmp_path):
    out = PredictionWriter(tmp_path / "x.parquet", row_group_rows=10)
    out.write(Z, Y)
    assert len(listed(tmp_path)) == 1
    del out
    gc.collect()
    assert not listed(tmp_path)


def test_permissions_and_links_stay(tmp_path):
    real, link = tmp_path / "real.parquet", tmp_path / "link.parquet"
    real.write_bytes(b"before")
    real.chmod(0o640)
    link.symlink_to(real)
    write_predictions(link, Z, Y)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert digests(real) == {digest(logits=Z, label=Y)}


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match="it is a folder"):
        PredictionWriter(tmp_path)
    with pytest.raises(UsageError, match="there is no folder"):
        PredictionWriter(tmp_path / "no" / "x.parquet")
    with pytest.raises(UsageError, match="local files"):
        PredictionWriter("s3://bucket/x.parquet")
    with pytest.raises(StreamlossError, match="cannot write /dev/full: No space left on device"):
        write_predictions("/dev/full", Z, Y)


FULL = """
import resource, signal, sys
import numpy as np
import streamloss
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
out = streamloss.PredictionWriter(sys.argv[1], row_group_rows=1000)
for i in range(100):
    try:
        out.write(np.zeros((100, 100)), np.zeros(100, int))
    except streamloss.StreamlossError as error:
        print(i, error)
        break
try:
    out.write(np.zeros((100, 100)), np.zeros(100, int))
except streamloss.UsageError as error:
    print(error)
"""


def test_a_full_disk(tmp_path):
    path = tmp_path / "full.parquet"
    path.write_bytes(b"before")
    ended = subprocess.run([sys.executable, "-c", FULL, str(path)], text=True, capture_output=True, check=True, timeout=120)
    first, second = ended.stdout.splitlines()
    assert re.fullmatch(rf"\d+ cannot write {re.escape(str(path))}: File too large", first)
    assert second == f"{path}: the writer is closed"
    assert not ended.stderr
    assert path.read_bytes() == b"before"
    assert listed(tmp_path) == ["full.parquet"]


def test_a_disk_that_is_full_at_the_end(tmp_path, monkeypatch):
    path = tmp_path / "end.parquet"

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StreamlossError, match=r"cannot write .*end\.parquet: No space left on device"):
        write_predictions(path, Z, Y)
    assert not listed(tmp_path)


def test_interrupted_while_writing(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    out = PredictionWriter(tmp_path / "i.parquet", row_group_rows=10)
    out.write(Z[:5], Y[:5])
    monkeypatch.setattr(pq.ParquetWriter, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        out.write(Z, Y)
    assert not listed(tmp_path)


# ---- the advice of `inspect`


def advice(path, **options):
    return [(each["column"], each["text"]) for each in source.describe(str(path), Options(**options))["advice"]]


def test_advice_on_compression(tmp_path):
    z = rng.normal(size=(2000, K)).astype(np.float32)
    y = np.arange(2000) % K
    for codec, times in (("zstd", "2"), ("snappy", "1.2"), ("gzip", "4.5"), ("brotli", "9"), ("lz4", "1.2")):
        write_predictions(tmp_path / "c.parquet", z, y, compression=codec)
        ((column, text),) = advice(tmp_path / "c.parquet")
        assert column == "logits"
        assert re.fullmatch(rf"{codec} saves (\d+ %|nothing) and takes about {times} times as long; .*", text)
        of = pq.ParquetFile(tmp_path / "c.parquet").metadata.row_group(0).column(1)
        share = round(100 * (1 - of.total_compressed_size / of.total_uncompressed_size))
        assert (f"{share} %" if share > 0 else "nothing") in text
    write_predictions(tmp_path / "c.parquet", np.round(z) * 0, y, compression="zstd")  # saves nearly all
    assert advice(tmp_path / "c.parquet") == []
    write_predictions(tmp_path / "c.parquet", prob=rng.random(2000), label=y % 2, compression="snappy")
    assert advice(tmp_path / "c.parquet") == []
    write_predictions(tmp_path / "c.parquet", prob=rng.random(2000), label=y % 2, compression="gzip")
    assert "gzip saves" in advice(tmp_path / "c.parquet")[0][1]


def test_advice_on_columns(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"p_0": [0.5], "p_1": [0.5], "label": [1]}), path, compression="none")
    assert advice(path, probs="p_*") == [("p_*", "2 columns are put together row by row; one column of lists reads faster")]
    pq.write_table(pa.table({"probs": [[0.5, 0.5], None], "label": [1, 0]}), path, compression="none")
    ((column, text),) = advice(path)
    assert (column, text.partition(" read")[0]) == ("probs", "rows without nulls and of one length")
    pq.write_table(pa.table({"prob": [0.5, 0.25], "label": ["yes", "no"]}), path, compression="none")
    assert advice(path, classes=("no", "yes")) == [("label", "pyarrow reads text; class numbers read faster")]
    bits = pa.array([[1, 2], [3, 4]], pa.list_(pa.uint16()))
    field = pa.field("logits", bits.type, metadata={"dtype": "bfloat16"})
    pq.write_table(pa.Table.from_arrays([bits], schema=pa.schema([field])), path, compression="none")
    assert advice(path) == [
        ("logits", "Parquet keeps uint16 in 4 bytes; fixed-size binary takes half the room and reads faster")
    ]


def test_advice_on_row_groups(tmp_path, monkeypatch):
    path = tmp_path / "g.parquet"
    z, y = rng.normal(size=(2000, K)).astype(np.float32), np.arange(2000) % K
    write_predictions(path, z, y, row_group_rows=10)
    assert advice(path) == [(None, "row groups of 280 B on average; of about 16 MB they read faster")]
    write_predictions(path, z, y, row_group_rows=100)  # few: nobody would notice
    assert advice(path) == []
    monkeypatch.setattr("streamloss.reading.advice.LARGE", 50_000)
    write_predictions(path, z, y)  # decoded as fast as it can be, by however many
    assert advice(path) == []
    write_predictions(path, z, y, compression="zstd")
    (codec, _), (whole, text) = advice(path)
    assert (codec, whole) == ("logits", None)
    assert text == "row groups of up to 56 kB, which one thread decodes; of 16 MB threads share them out"
    write_predictions(path, z, y, compression="zstd", row_group_rows=1000)
    assert [column for column, _ in advice(path)] == ["logits"]


def test_where_there_is_no_advice(tmp_path):
    path = tmp_path / "n.parquet"
    write_predictions(path, Z, Y, compression="zstd")
    assert source.describe(pa.table({"prob": [0.5]}), Options())["advice"] is None
    pq.write_table(pa.table({"nothing": ["a"]}), path)
    assert source.describe(str(path), Options())["advice"] is None
    shown = CliRunner().invoke(cli, ["inspect", str(path)]).stdout
    assert "  advice  " not in shown


def test_advice_is_shown(tmp_path):
    path = tmp_path / "s.parquet"
    write_predictions(path, Z, Y)
    assert "advice   nothing would read much faster" in CliRunner().invoke(cli, ["inspect", str(path)]).stdout
    write_predictions(path, Z.astype(np.float32), Y, compression="gzip")
    assert re.search(r"advice   logits: gzip saves \d+ %", CliRunner().invoke(cli, ["inspect", str(path)]).stdout)
