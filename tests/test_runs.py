"""Runs of small pages: what they read is what the pages read one by one hold, and damage ends a run before it does harm."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage_parquet import damaged, outcome
from hypothesis import given, settings
from hypothesis import strategies as st

import streamloss
from streamloss.jit import DISABLED
from streamloss.reading import chunks, runs
from streamloss.reading.chunks import Column

SNAPPY = pa.Codec("snappy")
SLOW = 10 if DISABLED else 1
# Integers wrap as they do when compiled; plain Python warns of it.
pytestmark = [pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")] if DISABLED else []


def locked(data: bytes) -> np.ndarray:
    array = np.frombuffer(data, dtype=np.uint8)
    array.flags.writeable = False
    return array


def unsnap(data: bytes, room: int) -> bytes | None:
    """What snappy's bytes become; around the room for it nothing may be written."""
    around = np.full(room + 16, 7, dtype=np.uint8)
    size = runs.unsnap(locked(data), around[8 : 8 + room])
    assert (around[:8] == 7).all() and (around[8 + room :] == 7).all()
    return None if size < 0 else around[8 : 8 + size].tobytes()


@st.composite
def repetitive(draw: Any) -> bytes:
    """Bytes that snappy copies from near and far, in short and long pieces, and such that it takes as they are."""
    pieces: list[bytes] = [draw(st.binary(max_size=40))]
    for _ in range(draw(st.integers(0, 12))):
        how = draw(st.sampled_from(["same", "again", "random", "long"]))
        size = draw(st.integers(0, 3000))
        seed = draw(st.integers(0, 1 << 16))
        if how == "same":
            pieces.append(bytes([seed & 255]) * size)
        elif how == "again":
            whole = b"".join(pieces)
            pieces.append(whole[seed % (len(whole) + 1) :][:size])
        elif how == "random":
            pieces.append(random.Random(seed).randbytes(size))
        else:
            pieces.append(random.Random(seed).randbytes(size * 40 // SLOW))
    return b"".join(pieces)


@given(repetitive())
@settings(deadline=None, max_examples=200 // SLOW)
def test_snappy_becomes_what_it_was(data: bytes) -> None:
    packed = SNAPPY.compress(data).to_pybytes()
    assert unsnap(packed, len(data)) == data
    assert unsnap(packed, len(data) + 5) == data
    if data:
        assert unsnap(packed, len(data) - 1) is None
        assert unsnap(packed[:-1], len(data)) is None


@pytest.mark.parametrize(
    ("packed", "data"),
    [
        (b"\x00", b""),
        (b"\x05\x10hello", b"hello"),
        (b"\x05\xf0\x04hello", b"hello"),  # the length of the literal in one byte, …
        (b"\x05\xf4\x04\x00hello", b"hello"),
        (b"\x05\xf8\x04\x00\x00hello", b"hello"),
        (b"\x05\xfc\x04\x00\x00\x00hello", b"hello"),  # … in four
        (b"\x09\x04ab\x0d\x02", b"ababababa"),  # copies that overlap themselves; offsets of one byte, …
        (b"\x09\x04ab\x1a\x02\x00", b"ababababa"),
        (b"\x09\x04ab\x1b\x02\x00\x00\x00", b"ababababa"),  # … and of four
        (b"\x05\x00x\x0e\x01\x00", b"xxxxx"),
    ],
)
def test_snappys_own_bytes(packed: bytes, data: bytes) -> None:
    assert unsnap(packed, len(data)) == data
    assert SNAPPY.decompress(packed, len(data)).to_pybytes() == data


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\x80",
        b"\x05",
        b"\x05\x10hell",
        b"\x04\x10hello",  # more than it says
        b"\x06\x10hello",  # less
        b"\x05\xfc\xff\xff\xff\xffhello",  # a literal of 4 GiB
        b"\x05\xf0",
        b"\x09\x04ab\x0d\x03",  # from before the beginning
        b"\x09\x04ab\x0d\x00",  # from nowhere
        b"\x09\x04ab\x0d",
        b"\x09\x04ab\x1b\x02\x00\x00",
        b"\x09\x04ab\x1b\x02\x00\x00\x80",  # 2^31 back
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x10hello",
    ],
)
def test_damaged_snappy(packed: bytes) -> None:
    assert unsnap(packed, 9) is None


@given(repetitive(), st.integers(0, 1 << 32))
@settings(deadline=None, max_examples=200 // SLOW)
def test_snappy_with_a_wrong_byte(data: bytes, seed: int) -> None:
    """As pyarrow says it: the same bytes or none."""
    rng, packed = random.Random(seed), bytearray(SNAPPY.compress(data).to_pybytes())
    for _ in range(rng.choice([1, 3])):
        packed[rng.randrange(len(packed))] = rng.getrandbits(8)
    ours = unsnap(bytes(packed), len(data))
    if ours is not None and len(ours) == len(data):
        assert SNAPPY.decompress(bytes(packed), len(data)).to_pybytes() == ours


# ---- pages


def table(n: int, *, few: bool, seed: int = 0) -> pa.Table:
    """Binary predictions; `few`: of few values, which dictionaries hold."""
    rng = np.random.default_rng(seed)
    p = rng.random(n, dtype=np.float32)
    label = (rng.random(n) < p).astype(np.int64)
    weight = rng.integers(1, 9, n) / 4
    return pa.table({"prob": np.round(p, 2) if few else p, "label": label, "weight": weight})


def write(path: Path, rows: pa.Table, **more: Any) -> str:
    """Pages of a few hundred rows."""
    pq.write_table(rows, path, **({"data_page_size": 800, "write_batch_size": 100} | more))
    return str(path)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pages that were opened one by one."""
    found: list[int] = []
    open_page = Column._open_page

    def seen(self: Column) -> None:
        found.append(self._at)
        open_page(self)

    monkeypatch.setattr(Column, "_open_page", seen)
    return found


LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {"use_dictionary": False},
    "dictionary": {},
    "dictionary, then plain": {"dictionary_pagesize_limit": 2000},
    "row groups": {"row_group_size": 1700},
    "v2": {"data_page_version": "2.0"},
    "checksums": {"write_page_checksum": True},
    "split": {"use_dictionary": False, "column_encoding": {"prob": "BYTE_STREAM_SPLIT"}},
    "delta": {"use_dictionary": ["prob", "weight"], "column_encoding": {"label": "DELTA_BINARY_PACKED"}},
}


@pytest.mark.parametrize("codec", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_runs_and_pyarrow_read_alike(
    layout: str, few: bool, codec: str, tmp_path: Path, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.parquet", table(6000 // SLOW, few=few), compression=codec, **LAYOUTS[layout])
    for rows in (None, 250, 7000):
        ours = streamloss.evaluate(path, reader="pages", batch_rows=rows)
        assert ours.digest == streamloss.evaluate(path, reader="arrow", batch_rows=rows).digest
    opened.clear()
    streamloss.evaluate(path, reader="pages")
    with_runs = len(opened)
    opened.clear()
    monkeypatch.setattr(chunks, "IN_VAIN", 0)  # no run is tried
    streamloss.evaluate(path, reader="pages")
    if codec == "zstd" or layout in ("v2", "checksums"):
        assert with_runs == len(opened)
    else:
        assert with_runs < len(opened) * (0.5 if layout in ("plain", "dictionary") else 0.9)


def test_what_may_be_null_but_is_not(tmp_path: Path, opened: list[int]) -> None:
    rows = table(6000 // SLOW, few=False)
    required = pa.schema([pa.field(field.name, field.type, nullable=False) for field in rows.schema])
    digests = set()
    for name, each in (("nullable", rows), ("required", rows.cast(required))):
        path = write(tmp_path / f"{name}.parquet", each)
        opened.clear()
        digests.add(streamloss.evaluate(path, reader="pages").digest)
        assert len(opened) < 30
    assert len(digests) == 1


def test_a_null_ends_the_run(tmp_path: Path) -> None:
    rows = table(4000, few=False)
    p = rows["prob"].to_pylist()
    p[3210] = None
    path = write(tmp_path / "null.parquet", rows.set_column(0, "prob", pa.array(p, pa.float32())))
    for reader in ("auto", "arrow"):
        with pytest.raises(streamloss.DataError, match="null") as caught:
            streamloss.evaluate(path, reader=reader)
        assert caught.value.place is not None and caught.value.place.row == 3210


def test_a_label_beyond_the_classes_is_found(tmp_path: Path) -> None:
    """Whether labels come from a dictionary, from plain pages, or from first one and then the other."""
    for name, more in (("looked up", {}), ("plain", {"use_dictionary": False}), ("both", {"dictionary_pagesize_limit": 100})):
        rows = table(4000, few=False)
        label = np.arange(4000) % 2
        label[3210] = 2
        path = write(tmp_path / f"{name}.parquet", rows.set_column(1, "label", pa.array(label)), **more)
        with pytest.raises(streamloss.DataError, match="label") as caught:
            streamloss.evaluate(path, reader="pages")
        assert caught.value.place is not None and caught.value.place.row == 3210


@pytest.mark.parametrize("codec", ["none", "snappy"])
@pytest.mark.parametrize("few", [False, True])
def test_damage_ends_alike_with_and_without_runs(
    few: bool, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "whole.parquet"
    write(path, table(1500, few=few), compression=codec)
    data, rng = path.read_bytes(), random.Random(2 * few + (codec == "none"))
    ends = set()
    for i in range(150 // SLOW):
        file = tmp_path / f"{i}.parquet"
        file.write_bytes(damaged(rng, data))
        monkeypatch.setattr(chunks, "IN_VAIN", 3)
        ours = outcome(file, batch_rows=700)
        monkeypatch.setattr(chunks, "IN_VAIN", 0)  # no run is tried
        assert outcome(file, batch_rows=700) == ours
        ends.add(ours.replace(str(file), ""))
    assert len(ends) > 3


def test_without_the_compiler() -> None:
    """The same tests where Numba only passes the source on."""
    names = ["test_snappy_becomes_what_it_was", "test_snappys_own_bytes", "test_damaged_snappy"]
    words = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *(f"{__file__}::{name}" for name in names)]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *words], env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout[-3000:]
