"""Small Parquet files of every kind, ways to damage them, how the reading of one ends."""

from __future__ import annotations

import hashlib
from functools import partial

import commands
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamloss.errors import USED, DataError, UsageError
from streamloss.options import Options
from streamloss.reading.source import open_input, read_part

CODECS = ["none", "snappy", "gzip", "brotli", "zstd", "lz4"]


def column(layout, flat, n, k, nullable):
    """A K-class column of one of the layouts: (type, array)."""
    values = pa.array(flat)
    child = pa.field("anything", values.type, nullable=nullable)
    offsets = np.arange(0, n * k + 1, k)
    if layout == "list":
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values, type=pa.list_(child))
    if layout == "large_list":
        return pa.LargeListArray.from_arrays(pa.array(offsets), values, type=pa.large_list(child))
    if layout == "fixed_size_list":
        return pa.FixedSizeListArray.from_arrays(values, type=pa.list_(child, k))
    if layout == "tensor":
        kind = pa.fixed_shape_tensor(values.type, [k])
        return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(values, k))
    kind = pa.binary(k * flat.itemsize)
    return pa.FixedSizeBinaryArray.from_buffers(kind, n, [None, pa.py_buffer(np.ascontiguousarray(flat))])


def damaged(rng, data):
    """The bytes of a file with something wrong: flipped, cut, moved, or numbers made large."""
    data = bytearray(data)
    length = int.from_bytes(data[-8:-4], "little")
    for _ in range(rng.choice([1, 1, 2, 5])):
        how = rng.random()
        low, high = rng.choice([(4, len(data) - 8 - length), (len(data) - 8 - length, len(data) - 8), (0, len(data))])
        at = rng.randrange(low, max(low + 1, high)) % len(data)
        if how < 0.35:
            data[at] ^= 1 << rng.randrange(8)
        elif how < 0.6:
            data[at] = rng.choice([0, 1, 127, 128, 255, rng.getrandbits(8)])
        elif how < 0.75:
            size = rng.randint(1, 9)
            data[at : at + size] = bytes([255] * (size - 1) + [rng.choice([1, 15, 127])])[: len(data) - at]
        elif how < 0.85:
            size = rng.randint(1, 40)
            data[at : at + size] = rng.randbytes(len(data[at : at + size]))
        elif how < 0.93:
            del data[at : at + rng.randint(1, 50)]
        else:
            data[at:at] = rng.randbytes(rng.randint(1, 20))
        if len(data) < 20:
            break
    return bytes(data)


def seeds(folder):
    """Small files of every kind, and how they are read."""
    rng = np.random.default_rng(0)
    n, k = 60, 6
    files = []
    for i, codec in enumerate(CODECS):
        for version in ("1.0", "2.0"):
            z = np.round(rng.normal(size=n * k), i % 3).astype(np.float32)
            y = rng.integers(0, k, n)
            columns = {"logits": column(("list", "fixed_size_list")[i % 2], z, n, k, True), "label": y, "weight": rng.random(n)}
            columns["mask"] = rng.random(n) < 0.9
            written = {"compression": codec, "data_page_version": version, "row_group_size": 25, "data_page_size": 100}
            path = folder / f"list-{codec}-{version[0]}.parquet"
            pq.write_table(pa.table(columns), path, write_batch_size=16, write_page_checksum=i == 4, **written)
            files.append((path, {}))
            encoded = {"prob": "BYTE_STREAM_SPLIT", "label": "DELTA_BINARY_PACKED"}
            path = folder / f"flat-{codec}-{version[0]}.parquet"
            flat = pa.table({"prob": rng.random(n), "label": rng.integers(0, 2, n), "weight": rng.integers(0, 9, n)})
            pq.write_table(flat, path, use_dictionary=["weight"], column_encoding=encoded, **written)
            files.append((path, {}))
    for codec in ("none", "snappy"):  # small pages of what stands as it is wanted, which are read many at a time
        p = rng.random(n).round(1) if codec == "none" else rng.random(n)
        path = folder / f"runs-{codec}.parquet"
        runs = pa.table({"prob": p.astype(np.float32), "label": rng.integers(0, 2, n), "weight": rng.random(n)})
        pq.write_table(runs, path, compression=codec, row_group_size=45, data_page_size=40, write_batch_size=8)
        files.append((path, {"batch_rows": 64}))
    binary = column("fixed_size_binary", rng.normal(size=n * k), n, k, True)
    schema = pa.schema([pa.field("logits", binary.type, metadata={"dtype": "float64"})])
    pq.write_table(pa.table([binary], schema=schema), folder / "binary.parquet", row_group_size=40)
    files.append((folder / "binary.parquet", {}))
    return files


def outcome(path, reader="auto", batch_rows=16, **options):
    """How the reading of a file ends: 'read' and a hash of what was read, or its error's line."""
    seen = [hashlib.sha256() for _ in range(4)]  # however the rows are cut into batches
    try:
        source = open_input(str(path), Options(on_invalid="skip", **options), batch_rows, reader)
        rows = 0
        for part in source.parts():
            for batch in read_part(part, source.plan):
                rows += len(batch)
                used = batch.code == USED
                for array, hashed in zip((batch.code, batch.prediction, batch.label, batch.weight), seen, strict=True):
                    if array is not None:
                        hashed.update((array if array is batch.code else array[used]).tobytes())
    except (DataError, UsageError) as error:
        line = str(error)
        assert "\n" not in line
        return line
    assert rows == source.rows
    return " ".join(["read", *(hashed.hexdigest() for hashed in seen)])


def all_seeds(folder):
    """The same as bytes."""
    return [(path.read_bytes(), options) for path, options in seeds(folder)]


def any_damage(rng, files):
    """One of the files, damaged, and how it is read."""
    data, options = files[rng.randrange(len(files))]
    return damaged(rng, data), options


def words(path, options):
    """The command line that evaluates it."""
    return ["evaluate", str(path), "--on-invalid", "skip", "--format", "json"], None


def _read(reader, path, options):
    return outcome(path, reader=reader, **options)


WAYS = {
    **{reader: partial(_read, reader) for reader in ("pages", "auto", "arrow")},
    "inspect": lambda path, options: commands.end("inspect", str(path)),
}


def judge(ends):
    """Where both read it, they must have read the same."""
    both = [ends[reader] for reader in ("auto", "arrow") if ends[reader].startswith("read")]
    return ["read differently by pages and by pyarrow"] if len(set(both)) > 1 else []
