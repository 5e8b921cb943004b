"""Small Arrow IPC streams of every kind, ways to damage them, how the reading of one from standard input ends."""

from __future__ import annotations

import hashlib
import io
import sys
from types import SimpleNamespace
from unittest import mock

import commands
import numpy as np
import pyarrow as pa

from streamloss.errors import USED, DataError, UsageError
from streamloss.options import Options
from streamloss.reading.source import open_input

N, K = 40, 5
CONTINUES = b"\xff\xff\xff\xff"
_AS_USUAL = {"command": "evaluate", "batch_rows": 7}


def stream(table, rows=15, **options):
    """A table as a stream of batches of so many rows."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


def seeds(folder):
    """Streams of every layout and type that is read, and how they are read."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(N, K)).astype(np.float32)
    flat, offsets = pa.array(z.reshape(-1)), np.arange(0, N * K + 1, K)
    y = pa.array(rng.integers(0, K, N))
    few = pa.array(rng.integers(0, 2, N))
    names = pa.array([f"class {i}" for i in y.to_pylist()])
    holes = pa.array([None if i % 7 == 3 else row for i, row in enumerate(z.tolist())], pa.list_(pa.float32()))
    views = pa.ListViewArray.from_arrays(pa.array(offsets[:-1].astype(np.int32)), pa.array([K] * N, pa.int32()), flat)
    kind = pa.fixed_shape_tensor(pa.float32(), [K])
    matrix = pa.FixedSizeListArray.from_arrays(flat, K)
    raw = pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * K), N, [None, pa.py_buffer(z.tobytes())])
    whole = {
        "label": y,
        "weight": pa.array(rng.random(N)),
        "mask": pa.array(rng.random(N) < 0.9),
        "group": names.dictionary_encode(),
        "id": pa.array([f"row {i}" for i in range(N)], pa.string_view()),
    }
    lists = {"logits": pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), flat), **whole}
    by = {"by": ("group",), "cluster": "id"}
    binary = {"prob": rng.random(N), "label": few, "weight": rng.integers(0, 9, N), "bytes": rng.integers(1, 9, N)}
    classes = {"classes": tuple(f"class {i}" for i in range(K))}
    tables = [
        (pa.table(lists), {}, by),
        (pa.table(lists), {"compression": "lz4"}, by),
        (pa.table(lists), {"compression": "zstd"}, {}),
        (pa.table(lists), {"use_legacy_format": True, "metadata_version": pa.ipc.MetadataVersion.V4}, by),
        (pa.table({"logits": pa.LargeListArray.from_arrays(pa.array(offsets), flat), "label": names}), {}, classes),
        (pa.table({"logits": matrix, "label": names.dictionary_encode()}), {}, classes),
        (pa.table({"logits": matrix, "label": names.cast(pa.string_view())}), {"compression": "lz4"}, classes),
        (pa.table({"logits": views, "label": y.cast(pa.uint64())}), {}, {}),
        (pa.table({"logits": holes, "label": y.cast(pa.int8())}), {}, {}),
        (pa.table({"logits": pa.ExtensionArray.from_storage(kind, matrix), "label": y}), {}, {}),
        (pa.table({"logits": matrix.cast(pa.list_(pa.float16(), K)), "target_logits": matrix}), {}, {}),
        (pa.table({"logits": raw, "label": y}), {}, {"dtype": "float32"}),
        (pa.table(binary), {}, {"by": ("label",), "bytes": ""}),
        (pa.table(binary), {"compression": "zstd"}, {"bytes": ""}),
        (pa.table({f"p{j}": pa.array(z[:, j]) for j in range(K)} | {"label": y}), {}, {"logits": "p*"}),
        (pa.table({"logprob": -rng.random(N), "bytes": rng.integers(1, 9, N)}), {}, {}),
        (pa.table({"prob": pa.array(rng.random(N)).dictionary_encode(), "label": few}), {}, {}),
    ]
    made = [(stream(table, **written), options) for table, written, options in tables]
    return [(data, options | _AS_USUAL) for data, options in [*made, (_deltas(), {"by": ("group",)})]]


def _deltas():
    """A stream whose dictionary grows from batch to batch."""
    rng = np.random.default_rng(2)
    sink, text = io.BytesIO(), [f"group {i}" for i in range(6)]
    schema = pa.schema({"prob": pa.float64(), "label": pa.int64(), "group": pa.dictionary(pa.int32(), pa.string())})
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for known in (2, 4, 6):
            group = pa.DictionaryArray.from_arrays(
                pa.array(rng.integers(0, known, 10).astype(np.int32)), pa.array(text[:known])
            )
            writer.write_batch(
                pa.record_batch([pa.array(rng.random(10)), pa.array(rng.integers(0, 2, 10)), group], schema=schema)
            )
    return sink.getvalue()


# ---- damage


def messages(data):
    """Where every message of a whole stream begins, where its metadata begins and ends, and where its body ends."""
    found, at = [], 0
    for message in pa.ipc.MessageReader.open_stream(data):
        begin = at + (8 if data[at : at + 4] == CONTINUES else 4)
        stop = begin + int.from_bytes(data[begin - 4 : begin], "little")
        end = stop + -(-(0 if message.body is None else message.body.size) // 8) * 8
        found.append((at, begin, stop, end))
        at = end
    return found


def _odd(rng, old, width):
    """A number that somebody may have forgotten, perhaps near the one that was there."""
    bits = 8 * width
    near = (old + 1, old - 1, 2 * old, 1000 * old, old << 16, -old, 0, 1, -1)
    far = (2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63), rng.getrandbits(bits))
    return (rng.choice(near if rng.random() < 0.5 else far) % (1 << bits)).to_bytes(width, "little")


def damaged(rng, streams):
    """One of the streams with something wrong: numbers of its metadata, of its bodies, whole messages, its end."""
    whole, options = streams[rng.randrange(len(streams))]
    data, parts = bytearray(whole), messages(whole)
    for _ in range(rng.choice([1, 1, 2, 4])):
        how = rng.random()
        at, begin, stop, end = rng.choice(parts)
        low, high = (begin, stop) if rng.random() < 0.7 or stop == end else (stop, end)
        place = rng.randrange(low, high)
        width = rng.choice([1, 2, 4, 4, 8, 8])
        aligned = place // width * width
        if how < 0.4:
            old = int.from_bytes(data[aligned : aligned + width], "little", signed=True)
            data[aligned : aligned + width] = _odd(rng, old, width)
        elif how < 0.6:
            if place < len(data):
                data[place] = rng.choice([data[place] ^ 1 << rng.randrange(8), 0, 1, 127, 128, 255])
        elif how < 0.68:
            data[begin - 4 : begin] = _odd(rng, stop - begin, 4)  # the length of the metadata
        elif how < 0.76:
            size = rng.randint(1, 40)
            data[place : place + size] = rng.randbytes(size)
        elif how < 0.82:
            del data[place : place + rng.randint(1, 50)]
        elif how < 0.86:
            data[place:place] = rng.randbytes(rng.randint(1, 20))
        elif how < 0.9:
            del data[rng.randrange(len(data)) :]
        elif how < 0.97:  # messages out of place, twice, missing, or of another stream
            other = streams[rng.randrange(len(streams))][0] if rng.random() < 0.5 else whole
            theirs = rng.choice(messages(other))
            data[at : rng.choice([at, end])] = other[theirs[0] : theirs[3]] * rng.choice([0, 1, 1, 3])
        else:
            data += rng.choice([bytes(100), CONTINUES * 20, rng.randbytes(200), whole])
        if len(data) < 20:
            break
    command = rng.choice(["evaluate"] * 8 + ["inspect", "score"])
    return bytes(data), options | {"command": command, "batch_rows": rng.choice([1, 7, 100])}


# ---- how it ends


def words(path, options):
    """The command line that reads it, and the stream for its standard input."""
    more = {name: value for name, value in options.items() if name not in _AS_USUAL}
    given = [options["command"], "-"]
    if options["command"] == "inspect":
        more = {name: value for name, value in more.items() if name not in ("by", "cluster")}
    for name, value in more.items():
        given += [f"--{name}", ",".join(value) if isinstance(value, tuple) else value]
    if options["command"] != "inspect":
        given += ["--on-invalid", "skip", "--batch-rows", str(options["batch_rows"])]
    if options["command"] == "evaluate":
        given += ["--format", "json"]
    if options["command"] == "score":
        cluster = given.index("--cluster") if "--cluster" in given else len(given)
        given[cluster : cluster + 2] = ["--keep", "id"] if "id" in given else []
        given += ["-o", str(path.with_name("rows.parquet"))]
    return given, path.read_bytes()


def outcome(path, options):
    """'read', a hash of what was read and the rows, or the error's line."""
    hashed, rows = hashlib.sha256(), 0
    asked = {name: value for name, value in options.items() if name not in _AS_USUAL}
    with mock.patch.object(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(path.read_bytes()))):
        try:
            source = open_input("-", Options(on_invalid="skip", **asked), options["batch_rows"])
            for batch in source.stream():
                rows += len(batch)
                used = batch.code == USED
                for array in (batch.code, batch.prediction, batch.label, batch.weight, batch.target, batch.bytes):
                    if array is not None:
                        assert len(array) == len(batch)
                        hashed.update((array if array is batch.code else array[used]).tobytes())
                for coded in batch.keys.values():
                    hashed.update(repr([coded.values[code] for code in coded.codes.tolist()]).encode())
        except (DataError, UsageError) as error:
            line = str(error)
            assert "\n" not in line
            return line
    assert rows == source.rows
    return f"read {rows} rows {hashed.hexdigest()}"


def _commanded(path, options):
    given, data = words(path, options)
    target = path.with_name("rows.parquet")
    target.unlink(missing_ok=True)
    ended = commands.end(*given, data=data)
    assert target.exists() == (options["command"] == "score" and ended.startswith("read"))
    return ended


WAYS = {"stream": outcome, "command": _commanded}


def judge(ends):
    """Only what can be read by itself has a report; `inspect` and `score` print no digest."""
    reported = ends["command"].startswith("read ")
    return ["evaluated what cannot be read"] if reported and not ends["stream"].startswith("read") else []
