"""Pages decompressed ahead of their turn: the same values and the same errors, whoever did it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamloss
from streamloss.errors import DataError
from streamloss.memory import Claim
from streamloss.options import Options
from streamloss.reading import chunks
from streamloss.reading.ahead import PAGES, Ahead
from streamloss.reading.source import open_input, read_part

N, K = 6000, 100
PAGE = 1 << 20  # uncompressed; of random numbers more than a window is left of it


@pytest.fixture(scope="module", params=[("zstd", "1.0"), ("zstd", "2.0"), ("gzip", "1.0"), ("brotli", "2.0")], ids="-".join)
def path(request, tmp_path_factory):
    codec, version = request.param
    rng = np.random.default_rng(11)
    values = pa.array(rng.standard_normal(N * K))
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, N * K + 1, K, dtype=np.int32)), values)
    file = tmp_path_factory.mktemp("ahead") / "z.parquet"
    table = pa.table({"logits": lists, "label": rng.integers(0, K, N)})
    pq.write_table(
        table, file, compression=codec, data_page_version=version, use_dictionary=False, data_page_size=PAGE,
        write_page_checksum=version == "2.0",
    )  # fmt: skip
    return file


class Lazy(Executor):
    """Does nothing until it is told to, so that the reader meets pages that nobody has begun."""

    def submit(self, *_args, **_kwargs):
        return Future()


class Eager(Executor):
    """Does everything at once."""

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def read(path, helpers):
    source = open_input(str(path), Options(), 700, "pages")
    batches = [batch for part in source.parts() for batch in read_part(part, source.plan, helpers)]
    return np.concatenate([batch.prediction for batch in batches]), np.concatenate([batch.label for batch in batches])


@pytest.mark.parametrize(
    "helpers", [Lazy(), Eager(), ThreadPoolExecutor(1), ThreadPoolExecutor(3)], ids=lambda h: type(h).__name__
)
def test_the_values_are_the_same(path, helpers, monkeypatch):
    looked_at, most = [], [0]

    class Counting(Ahead):
        def add(self, at, *rest):
            looked_at.append(at)
            super().add(at, *rest)
            most[0] = max(most[0], len(self))

    monkeypatch.setattr(chunks, "Ahead", Counting)
    alone, together = read(path, None), read(path, helpers)
    for mine, theirs in zip(together, alone, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert len(looked_at) == len(set(looked_at)) >= 3  # or nothing was tested: pages of 1 MB, of 4.8 MB
    assert most[0] <= PAGES


def test_the_digest_is_the_same_whatever_the_threads(path):
    digests = {streamloss.evaluate(path, threads=threads).digest for threads in (1, 2, 5)}
    assert digests == {streamloss.evaluate(path, reader="arrow").digest}


def said(path, helpers):
    with pytest.raises(DataError) as caught:
        read(path, helpers)
    return str(caught.value)


@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_damage_is_met_in_its_turn(path, share, tmp_path):
    data = bytearray(path.read_bytes())
    at = int(share * len(data))
    data[at : at + 40] = os.urandom(40)
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(data)
    try:
        alone = read(damaged, None)
    except DataError as error:
        for helpers in (Lazy(), Eager(), ThreadPoolExecutor(2)):
            assert said(damaged, helpers) == str(error)
    else:  # the codec did not notice
        for helpers in (Lazy(), Eager(), ThreadPoolExecutor(2)):
            np.testing.assert_array_equal(read(damaged, helpers)[0], alone[0])


def test_who_waits_takes_the_next_page():
    """A reader whose page is being decompressed by a helper does a later one meanwhile."""
    began, go_on, done_by = threading.Event(), threading.Event(), {}

    def unpack(name, wait):
        def work():
            done_by[name] = threading.current_thread()
            if wait:
                began.set()
                assert go_on.wait(30)
            return np.frombuffer(name.encode(), dtype=np.uint8)

        return work

    with ThreadPoolExecutor(1) as helpers:
        ahead, body = Ahead(helpers), np.zeros(10, dtype=np.uint8)
        ahead.add(0, 5, [], body, unpack("first", True), Claim("pages"))
        assert began.wait(30)

        def second():
            go_on.set()
            return unpack("second", False)()

        ahead.add(15, 20, [], body, second, Claim("pages"))
        assert ahead.end == 30
        first = ahead.take(0)
        assert ahead.result(first).tobytes() == b"first"
        page = ahead.take(15)
        assert ahead.result(page).tobytes() == b"second"
        assert done_by["second"] is threading.current_thread() is not done_by["first"]
        assert ahead.take(99) is None
