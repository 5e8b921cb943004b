"""Object stores: the same digest as from local files, whatever fails on the way; what cannot be read is one line.

Two servers on loopback: moto's, which others wrote and which is complete, and `benchmarks.store`, which fails where it is told.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from commands import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamloss
from streamloss.errors import DataError
from streamloss.options import Options
from streamloss.reading import arrow, coming, remote, retries, storage
from streamloss.reading.footer import Piece
from streamloss.reading.paths import Stamp
from streamloss.reading.source import describe, open_input, read_part

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from benchmarks.store import CLOSE, CUT, DROP, INTERNAL, KEY, RESET, SLOW_DOWN, STALL, Request, Store  # noqa: E402

ROWS = 3000
SETTINGS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}


def table(seed: int, rows: int = ROWS) -> pa.Table:
    """Lists of logits, labels, text, a column that has nulls from the middle on, and one that nobody needs."""
    rng = np.random.default_rng(seed)
    logits = pa.ListArray.from_arrays(np.arange(0, 10 * rows + 1, 10, np.int32), rng.normal(size=10 * rows).astype(np.float32))
    weight = pa.array([None if i > rows // 2 and i % 7 == 0 else 1.0 + i % 3 for i in range(rows)], pa.float64())
    group = pa.array([f"g{i % 4}" for i in range(rows)])
    spare = pa.array([bytes(rng.integers(0, 256, 400, np.uint8)) for _ in range(rows)], pa.binary(400))
    label = rng.integers(0, 10, rows)
    return pa.table({"logits": logits, "spare": spare, "label": label, "w": weight, "group": group})


def write(path: Path, data: pa.Table, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(data, path, row_group_size=1000, use_dictionary=["group"], **more)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of buckets; in the one called 'bucket' some files."""
    root = tmp_path_factory.mktemp("buckets")
    write(root / "bucket" / "one.parquet", table(1), compression="none")
    write(root / "bucket" / "shards" / "a b.parquet", table(2), compression="snappy")
    write(root / "bucket" / "shards" / "c=ü.parquet", table(3, 500), compression="zstd")
    write(root / "bucket" / "days" / "day=1" / "x.parquet", table(4, 900))
    write(root / "bucket" / "days" / "day=2" / "y.pq", table(5, 900))
    write(root / "bucket" / "days" / "_hidden" / "z.parquet", table(6, 900))
    return root


def settle(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """The store at an endpoint is the one in use."""
    for name in (*storage._SETTINGS, *storage._KEYS):
        monkeypatch.delenv(name, raising=False)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)


@pytest.fixture
def store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store of its own for every test, whose waits are short."""
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(remote, "_memory", remote._Memory())
    with Store(folder).running() as serving:
        settle(monkeypatch, serving.endpoint)
        yield serving


@pytest.fixture(scope="module")
def moto(folder: Path) -> Iterator[str]:
    """The endpoint of moto's server, with the same files."""
    pytest.importorskip("moto.server")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = next(line for line in process.stderr if "Running on" in line)
            threading.Thread(target=process.stderr.read, daemon=True).start()  # or it would wait for a reader
            found = re.search(r"127\.0\.0\.1:\d+", said)
            assert found
            options = {"scheme": "http", "endpoint_override": found[0], "region": "us-east-1"}
            there = pafs.S3FileSystem(access_key="any", secret_key="any", allow_bucket_creation=True, **options)
            there.create_dir("bucket")
            pafs.copy_files(f"{folder}/bucket", "bucket", destination_filesystem=there)
            yield f"http://{found[0]}"
        finally:
            process.terminate()


INPUTS = {
    "one object": ["one.parquet"],
    "a folder": ["shards"],
    "a pattern": ["shards/*b.parquet"],
    "patterns of folders": ["**/x.parquet", "days/day=[2]/*"],
    "partitions": ["days/"],
    "several": ["shards/a b.parquet", "one.parquet"],
}
OPTIONS: dict[str, Any] = {"logits": "logits", "label": "label"}


@pytest.mark.parametrize("reader", ["auto", "pages", "arrow"])
@pytest.mark.parametrize("name", INPUTS)
def test_the_same_digest_as_from_local_files(
    name: str, reader: Any, moto: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch, moto)
    more = {"by": "day"} if "partitions" in name else {}
    local = streamloss.evaluate([folder / "bucket" / path for path in INPUTS[name]], **OPTIONS, **more)
    there = streamloss.evaluate(
        [f"s3://bucket/{path}".replace(" ", "%20") for path in INPUTS[name]], reader=reader, **OPTIONS, **more
    )
    assert there.digest == local.digest
    assert there.to_dict()["slices"] == local.to_dict()["slices"]
    assert there.rows["read"] > 0
    theirs, ours = ([entry["bytes"] for entry in each.to_dict()["inputs"]] for each in (there, local))
    assert theirs == ours


MIXED: dict[str, Any] = OPTIONS | {"weight": "w", "by": "group", "on_invalid": "skip"}


@pytest.mark.parametrize("reader", ["auto", "arrow"])
def test_columns_that_pyarrow_reads(reader: Any, store: Store, folder: Path, small_parts: None) -> None:
    """Text from the beginning, and from the middle on a column that has nulls."""
    local = streamloss.evaluate(folder / "bucket" / "one.parquet", **MIXED)
    there = streamloss.evaluate("s3://bucket/one.parquet", reader=reader, **MIXED)
    assert there.digest == local.digest and len(there.slices) == 4 and there.to_dict()["ledger"]["null"] > 100


def test_every_command_reads_them(store: Store, folder: Path, tmp_path: Path) -> None:
    outs = []
    for where, space in ((f"{folder}/bucket", " "), ("s3://bucket", "%20")):
        pair = [f"{where}/one.parquet", "--baseline", f"{where}/shards/a{space}b.parquet"]
        compared = run("compare", *pair, "--format", "csv", "--logits", "logits", "--baseline-logits", "logits")
        out = tmp_path / f"{len(outs)}.parquet"
        scored = run("score", f"{where}/days", "-o", str(out), "--keep", "day", "--keep", "group", "--logits", "logits")
        assert (compared.exit_code, scored.exit_code) == (0, 0), (compared.output, scored.output)
        outs.append((pq.read_table(out).drop_columns([n for n in pq.read_schema(out).names if n == "file"]), compared.stdout))
    assert outs[0][0].equals(outs[1][0])
    assert outs[0][1].replace(f"{folder}/bucket", "s3://bucket") == outs[1][1].replace("%20", " ")


def test_inspect_says_who_reads(store: Store, folder: Path) -> None:
    told = describe("s3://bucket/one.parquet", Options.of(**OPTIONS, by="group"))
    readers = {column["name"]: column["reader"] for column in told["columns"]}
    assert readers == {"logits": "pages", "label": "pages", "group": "arrow", "spare": None, "w": None}
    shown = run("inspect", "s3://bucket/one.parquet").output
    assert re.search(r"reader +pages\b", shown)


def test_addresses_of_local_files_are_local(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RemoteFile", None)
    path = folder / "bucket" / "shards" / "a b.parquet"
    address = f"file://{folder}/bucket/shards/a%20b.parquet"
    assert streamloss.evaluate(address, reader="pages", **OPTIONS).digest == streamloss.evaluate(path, **OPTIONS).digest
    (theirs,), (ours,) = (open_input(each, Options.of(**OPTIONS)).files for each in (address, str(path)))
    assert theirs["identity"] == ours["identity"]


def test_other_filesystems_go_the_same_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One without ETags: size and time tell a change."""
    kept = {}
    monkeypatch.setattr(storage, "_opened", kept)
    key = ("hdfs", "host:1", "", *(os.environ.get(name) for name in (*storage._SETTINGS, *storage._KEYS)))
    kept[key] = pafs.SubTreeFileSystem(str(folder), pafs.LocalFileSystem()), ""
    local, there = f"{folder}/bucket/one.parquet", "hdfs://host:1/bucket/one.parquet"
    assert streamloss.evaluate(there, reader="pages", **OPTIONS).digest == streamloss.evaluate(local, **OPTIONS).digest
    with remote.RemoteFile(there) as file:
        assert file.stamp == Stamp(Path(local).stat().st_size, Path(local).stat().st_mtime_ns, None)


# ---------------------------------------------------------------------------------------------- requests


def gets(store: Store, key: str = "one.parquet") -> list[Request]:
    return [request for request in store.requests if request.method == "GET" and request.key == key]


def test_only_what_is_needed_is_fetched_and_once(store: Store, folder: Path) -> None:
    """The tail for the footer, a probe of the lists, and each needed range; the spare column has most of the file."""
    streamloss.evaluate("s3://bucket/one.parquet", **OPTIONS)
    size = (folder / "bucket" / "one.parquet").stat().st_size
    metadata = pq.read_metadata(folder / "bucket" / "one.parquet")
    spare = [metadata.row_group(g).column(1) for g in range(3)]
    tail, *reads = gets(store)
    assert (tail.start, tail.size) == (size - remote.TAIL, remote.TAIL)
    for request in reads:
        for chunk in spare:
            start, stop = chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size
            assert request.start + request.size <= start or request.start >= stop
    assert len(set(reads)) == 6 and len(reads) == 7  # lists and labels of three row groups; a list is looked at beforehand
    assert sum(request.size for request in reads) < size / 3
    heads = [request for request in store.requests if request.method == "HEAD"]
    assert len(heads) == 3  # what it is, its stamp, and whether it is still the same


def test_small_files_cost_few_requests(store: Store, folder: Path) -> None:
    for number in range(40):
        write(folder / "many" / f"{number:02}.parquet", table(number, 50))
    local = streamloss.evaluate(folder / "many", **OPTIONS)
    assert streamloss.evaluate("s3://many", **OPTIONS).digest == local.digest
    counts = Counter((request.key, request.method) for request in store.requests if request.key)
    assert {counts[f"{number:02}.parquet", "HEAD"] for number in range(1, 40)} == {2}
    assert {counts[f"{number:02}.parquet", "GET"] for number in range(1, 40)} == {2}


PIECES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5000), st.integers(1, 3000)), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=PIECES, budget=st.sampled_from([300, 4000, 1 << 20]), block=st.sampled_from([100, 1000]), seed=st.integers(0, 99))
def test_bytes_are_those_of_the_file(found: Any, budget: int, block: int, seed: int, store: Store, folder: Path) -> None:
    """Whatever is expected, in whatever order it is read: readers go on side by side, and a little back."""
    path = folder / "bytes" / "x"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_bytes(random.Random(0).randbytes(8000))
    raw, rng = path.read_bytes(), random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("BUDGET", budget), ("BLOCK", block), ("LEAST_BLOCK", 64), ("GAP", 50)):
            patch.setattr(remote, name, value)
        with remote.RemoteFile("s3://bytes/x") as file:
            pieces = [Piece(group, start, min(start + size, 8000)) for group, start, size in found]
            file.expect(lambda: pieces)
            for group in range(3):
                places = [[piece.start, piece.stop] for piece in pieces if piece.group == group and piece.start < piece.stop]
                while places:
                    place = rng.choice(places)
                    size = min(rng.choice([1, 40, 700]), place[1] - place[0])
                    at = max(0, place[0] - rng.choice([0, 0, 30]))
                    out = np.zeros(place[0] + size - at, np.uint8)
                    file.fill(out, at)
                    assert out.tobytes() == raw[at : at + len(out)]
                    place[0] += size
                    places = [place for place in places if place[0] < place[1]]
            out = np.zeros(8000, np.uint8)
            file.fill(out, 0)
            assert out.tobytes() == raw and file.tail().tobytes() == raw


def test_no_more_is_held_than_the_budget(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two long columns, read side by side as rows need them."""
    (folder / "bytes").mkdir(exist_ok=True)
    raw = random.Random(1).randbytes(4_000_000)
    (folder / "bytes" / "long").write_bytes(raw)
    monkeypatch.setattr(remote, "BUDGET", 400_000)
    monkeypatch.setattr(remote, "BLOCK", 50_000)
    held = []
    with remote.RemoteFile("s3://bytes/long") as file:
        file.expect(lambda: [Piece(0, 0, 2_000_000), Piece(0, 2_000_000, 4_000_000)])
        out = np.zeros(20_000, np.uint8)
        for at in range(0, 2_000_000, 20_000):
            for start in (at, 2_000_000 + at):
                file.fill(out, start)
                assert out.tobytes() == raw[start : start + 20_000]
                held.append(file._held)
    assert 300_000 < max(held) <= 400_000
    assert len(gets(store, "long")) == 80  # each block once


# ---------------------------------------------------------------------------------------------- what fails


def said(stderr: str) -> str:
    """What a command wrote to standard error; that kernels are compiled depends on who came before."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not line.startswith("streamloss: compiling"))


def first_time(fault: str) -> Callable[[Request], str | None]:
    """Every request fails the first time it is made."""
    seen: set[Request] = set()

    def of(request: Request) -> str | None:
        if request in seen:
            return None
        seen.add(request)
        return fault

    return of


@pytest.mark.parametrize("reader", ["auto", "arrow"])
@pytest.mark.parametrize("fault", [INTERNAL, SLOW_DOWN, RESET, DROP, CLOSE, CUT])
def test_what_fails_for_a_moment_is_tried_again(fault: str, reader: Any, store: Store, folder: Path) -> None:
    local = streamloss.evaluate(folder / "bucket" / "shards", **MIXED)
    store.faults = first_time(fault)
    assert streamloss.evaluate("s3://bucket/shards", reader=reader, **MIXED).digest == local.digest
    requests = Counter(store.requests)
    without = [request for request in requests if request.method == "HEAD"] if fault in (DROP, CLOSE, CUT) else []
    assert all(requests[request] >= 2 for request in requests if request not in without)  # no body, nothing to cut


def test_what_does_not_answer_is_tried_again(folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "REQUEST_SECONDS", 1.0)
    stalled: list[Request] = []

    def faults(request: Request) -> str | None:
        if stalled or request.method != "GET" or not request.key:
            return None
        stalled.append(request)
        return STALL

    store.faults = faults
    local = streamloss.evaluate(folder / "bucket" / "one.parquet", **OPTIONS)
    assert streamloss.evaluate("s3://bucket/one.parquet", **OPTIONS).digest == local.digest
    assert Counter(store.requests)[stalled[0]] == 2


FOR_EVER = {
    "a look": lambda request: INTERNAL if request.method == "HEAD" else None,
    "the footer": lambda request: SLOW_DOWN if request.size == remote.TAIL else None,
    "a range": lambda request: DROP if request.method == "GET" and request.key and request.start < 10_000 else None,
    "everything": lambda request: RESET,
}


@pytest.mark.parametrize("what", FOR_EVER)
def test_what_fails_for_ever_is_one_line(what: str, store: Store) -> None:
    store.faults = FOR_EVER[what]
    ended = run("evaluate", "s3://bucket/one.parquet")
    assert ended.exit_code == 3 and not ended.stdout
    (line,) = said(ended.stderr).splitlines()
    assert line.startswith("streamloss: error: s3://bucket/one.parquet: cannot be read: ")
    assert re.search(rf"; tried {retries.TRIES} times in \d+\.\d s$", line)
    assert max(Counter(store.requests).values()) <= 2 * retries.TRIES  # Arrow's tries and ours do not multiply


def test_an_error_ends_what_is_on_its_way(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would come next is closed, and no more of it is asked for."""
    for number in range(30):
        write(folder / "queue" / f"{number:02}.parquet", table(number, 50))
    opened: list[remote.RemoteFile] = []

    def part_file(*args: Any) -> Any:
        opened.append(arrow.part_file(*args))
        return opened[-1]

    monkeypatch.setattr(coming, "part_file", part_file)
    store.faults = lambda request: INTERNAL if request.key == "05.parquet" and request.start == 4 else None
    with pytest.raises(DataError, match=r"s3://queue/05\.parquet: cannot be read: .*tried 5 times"):
        streamloss.evaluate("s3://queue", threads=1, **OPTIONS)
    ended = time.monotonic() + 30
    while not all(file._closed for file in opened) and time.monotonic() < ended:
        time.sleep(0.01)
    assert len(opened) == 5 + coming.MOST and all(file._closed for file in opened)


def test_a_list_is_tried_again(store: Store) -> None:
    store.faults = lambda request: None if request.key or request.method == "HEAD" else SLOW_DOWN
    ended = run("evaluate", "s3://bucket/shards/*.parquet")
    assert ended.exit_code == 3 and "tried 5 times" in ended.stderr
    assert len([request for request in store.requests if request.method == "GET"]) == retries.TRIES


def test_waits_double() -> None:
    waits: list[float] = []

    class Hurry(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            waits.append(timeout)
            return False

    def fails() -> None:
        raise OSError("curlCode: 56")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries, "hurry", Hurry())
        with pytest.raises(OSError, match="curlCode"):
            retries.again(fails, lambda error: True)
    assert len(waits) == retries.TRIES - 1
    assert all(0.5 * 2**i <= wait / retries.FIRST_WAIT <= 2**i for i, wait in enumerate(waits))


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 56, Failure when receiving data", True),
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 28, Timeout was reached", True),
        ("AWS Error SLOW_DOWN during GetObject operation: Reduce your request rate", True),
        ("AWS Error UNKNOWN (HTTP status 502) during GetObject operation", True),
        ("AWS Error UNKNOWN (HTTP status 429) during GetObject operation", True),
        ("AWS Error INTERNAL_FAILURE during GetObject operation", True),
        ("AWS Error ACCESS_DENIED during HeadObject operation: No response body.", False),
        ("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation", False),
        ("AWS Error UNKNOWN (HTTP status 301) during HeadObject operation", False),
        ("AWS Error UNKNOWN (HTTP status 416) during GetObject operation", False),
        ("AWS Error SIGNATURE_DOES_NOT_MATCH during GetObject operation", False),
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 60, SSL peer certificate was not OK", False),
    ],
)
def test_what_may_pass(text: str, passes: bool) -> None:
    assert storage._passing(OSError(text)) == passes


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s3://bucket/none.parquet", "no such file or folder"),
        ("s3://bucket/none/", "no such file or folder"),
        ("s3://nobody/x.parquet", "no such bucket: 'nobody'"),
        ("s3://nobody", "no such bucket: 'nobody'"),
        ("s3://nobody/*.parquet", r"no such bucket \(.*\)"),
        ("s3://bucket/none-*.parquet", "no file matches"),
        ("s3://bucket/days/day=1/../", "no such file or folder"),
        ("s3://bucket/one.parquet?colour=blue", r"no filesystem opens this address \(the option 'colour' is unknown.*"),
        ("what://bucket/one.parquet", "no filesystem opens this address.*"),
    ],
)
def test_what_is_not_there_is_told_at_once(path: str, message: str, store: Store) -> None:
    ended = run("evaluate", path)
    assert ended.exit_code == 3
    assert re.fullmatch(f"streamloss: error: {re.escape(path)}: {message}\n", said(ended.stderr))
    assert max(Counter(store.requests).values(), default=0) <= 2


@pytest.mark.parametrize("path", ["s3://bucket/one.parquet", "s3://bucket/days", "s3://bucket/*.parquet"])
def test_wrong_credentials_are_told_at_once(path: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    ended = run("evaluate", path)
    assert ended.exit_code == 3 and len(store.requests) == 1
    assert re.fullmatch(
        rf"streamloss: error: {re.escape(path)}: access denied \(.*\); "
        r"are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY \(or AWS_PROFILE\) right\?\n",
        said(ended.stderr),
    )


def test_no_credentials_in_addresses(store: Store) -> None:
    ended = run("evaluate", "s3://user:secret@bucket/one.parquet")
    assert ended.exit_code == 3 and not store.requests
    assert "no credentials in an address" in ended.stderr and "secret@" not in ended.stderr


def test_no_parquet(store: Store, folder: Path) -> None:
    for name, content in (("zero", b""), ("text", b"label,prob\n0,1\n"), ("cut", b"PAR1" + bytes(100_000))):
        (folder / "bucket" / "not").mkdir(exist_ok=True)
        (folder / "bucket" / "not" / name).write_bytes(content)
    assert "the file is empty, not Parquet" in run("evaluate", "s3://bucket/not/zero").stderr
    assert "not a Parquet file (it starts with b'label,pr')" in run("evaluate", "s3://bucket/not/text").stderr
    assert "truncated: it starts as Parquet and ends after 100004 bytes" in run("evaluate", "s3://bucket/not/cut").stderr


# ---------------------------------------------------------------------------------------------- changes


@pytest.mark.parametrize("reader", ["auto", "arrow"])
@pytest.mark.parametrize("when", ["between", "while"])
def test_a_changed_object_is_an_error(
    when: str, reader: Any, store: Store, folder: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other content of the same size and time: only the ETag tells."""
    path = write(folder / "changing" / "x.parquet", table(1), compression="none")
    before = path.stat()
    other = write(folder / "other.parquet", table(7), compression="none")
    assert other.stat().st_size == before.st_size
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    source = open_input("s3://changing/x.parquet", Options.of(**OPTIONS), 100, reader)
    if when == "between":
        other.replace(path)
    parts = source.parts()
    assert len(parts) == 3

    def read() -> None:
        for part in parts:
            for number, _ in enumerate(read_part(part, source.plan)):
                if when == "while" and number == 3 and other.exists():
                    other.replace(path)

    with pytest.raises(DataError, match=r"s3://changing/x\.parquet: the file changed while it was read$"):
        read()


def test_a_changed_object_ends_the_command(store: Store, folder: Path) -> None:
    path = write(folder / "changing" / "y.parquet", table(1), compression="none")
    other = write(folder / "other.parquet", table(8), compression="none")

    def replacing(request: Request) -> None:
        if request.method == "GET" and 0 < request.size < remote.TAIL:
            with contextlib.suppress(FileNotFoundError):
                other.replace(path)

    store.faults = replacing
    ended = run("evaluate", "s3://changing/y.parquet")
    assert (ended.exit_code, said(ended.stderr)) == (
        3,
        "streamloss: error: s3://changing/y.parquet: the file changed while it was read\n",
    )


def test_a_removed_object_is_an_error(store: Store, folder: Path) -> None:
    path = write(folder / "changing" / "gone.parquet", table(1), compression="none")
    source = open_input("s3://changing/gone.parquet", Options.of(**OPTIONS))
    path.unlink()
    with pytest.raises(DataError, match=r"gone\.parquet: (no such file|cannot be read)"):
        list(read_part(source.parts()[0], source.plan))


# ---------------------------------------------------------------------------------------------- settings


def test_the_usual_variables_are_heeded(store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(bucket: str) -> str:
        raise AssertionError("somebody else was asked for the region")

    monkeypatch.setattr(storage.pafs, "resolve_s3_region", refuse)
    expected = streamloss.evaluate(folder / "bucket" / "one.parquet", **OPTIONS).digest

    def reached(address: str = "s3://bucket/one.parquet") -> bool:
        store.requests.clear()
        assert streamloss.evaluate(address, **OPTIONS).digest == expected
        return bool(store.requests)

    nowhere = "http://127.0.0.1:9"
    assert reached()
    monkeypatch.setenv("AWS_ENDPOINT_URL", nowhere)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.endpoint + "/")
    assert reached()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", nowhere)
    host = store.endpoint.removeprefix("http://")
    assert reached(f"s3://bucket/one.parquet?scheme=http&endpoint_override={host}")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    config = tmp_path / "config"
    config.write_text(f"[default]\nregion = eu-west-1\n[profile mine]\nregion = eu-north-1\nendpoint_url = {store.endpoint}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert reached()
    assert storage._filesystem("s3://bucket/x")[0].region == "eu-north-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-1")
    assert storage._filesystem("s3://bucket/x")[0].region == "us-west-1"
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    assert storage._filesystem("s3://bucket/x")[0].region == "us-west-2"
    assert storage._filesystem("s3://bucket/x?region=r")[0].region == "r"


def test_keys_of_a_profile(store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    credentials = tmp_path / "credentials"
    credentials.write_text(f"[mine]\naws_access_key_id = {KEY}\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    expected = streamloss.evaluate(folder / "bucket" / "one.parquet", **OPTIONS).digest
    command = [sys.executable, "-c", "import streamloss, sys; print(streamloss.evaluate(sys.argv[1]).digest)"]
    done = subprocess.run([*command, "s3://bucket/one.parquet"], text=True, capture_output=True, timeout=120, cwd=ROOT)
    assert done.stdout.strip() == expected, done.stderr


def test_one_filesystem_for_a_bucket(store: Store) -> None:
    first, inner = storage._filesystem("s3://bucket/a/b%20c.parquet")
    assert inner == "bucket/a/b c.parquet"
    assert storage._filesystem("s3://bucket/other")[0] is first
    assert storage._filesystem("s3://bucket/other?region=x")[0] is not first


# ---------------------------------------------------------------------------------------------- interrupts


@pytest.mark.parametrize("method", ["HEAD", "GET"])  # while files are looked for, and while they are read
def test_an_interrupt_ends_a_wait(method: str, store: Store, folder: Path) -> None:
    """The waits would take an hour."""
    failing = threading.Event()

    def faults(request: Request) -> str | None:
        if request.method != method or not request.key or request.size == remote.TAIL:
            return None
        failing.set()
        return SLOW_DOWN

    store.faults = faults
    code = "from streamloss.reading import retries; retries.FIRST_WAIT = 3600; from streamloss.cli.main import main; main()"
    command = [sys.executable, "-c", code, "evaluate", "s3://bucket/one.parquet"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        try:
            assert failing.wait(60)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, said(err)) == (130, "", "streamloss: error: interrupted\n")


# ---------------------------------------------------------------------------------------------- the benchmark


def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bench_storage"), "--scale", "0.002", "--repeat", "1", "--latency", "0,1"]
    done = subprocess.run([*command, "--json", str(tmp_path / "x.json")], text=True, capture_output=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2 + 2 * 4
    assert re.search(r"^\d of 8 bars met\.$", done.stdout, re.MULTILINE)
