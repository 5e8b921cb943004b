"""What someone else broke: what fuzzing found, disks that fill up, folders and files that go, streams that are closed.

All of it through real processes: one line on standard error, the exit code, what was there before as it was, and nothing left
beside it. What a report says of broken rows and files stands in `test_bad_input`; `scripts/fuzz` looks for more.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import damage
import damage_ipc
import damage_states
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import complaint
from commands import run as run_here

import streamloss
from streamloss.errors import DataError
from streamloss.reading import files, paths
from streamloss.reading.advice import stored_as
from streamloss.reading.arrow import survey
from streamloss.state import State

ROOT = Path(__file__).parent.parent
CANCER = str(ROOT / "data" / "cancer.parquet")
DIGITS = str(ROOT / "data" / "digits.parquet")
EVALUATE = ["evaluate", CANCER, "--prob", "prob", "--label", "label"]
ODD = b"\xff a\n\x1b[31m\xc3\xbc.parquet"  # no UTF-8, two lines, red
SHOWN = "\\udcff a\n\x1b[31mü.parquet"
BEGIN = [sys.executable, "-W", "error", "-m", "streamloss"]


def start(*words: str, shell: str = "", cwd: Path = ROOT, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """A process of the command line; `shell` is what stands behind it in a shell."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [*BEGIN, *words] if not shell else ["bash", "-c", f'"$@" {shell}', "-", *BEGIN, *words]
    given = {"stdout": subprocess.PIPE} | more
    return subprocess.run(command, cwd=cwd, env=environment, stderr=subprocess.PIPE, timeout=300, **given)


def line_of(ended: subprocess.CompletedProcess[bytes], code: int = 3, wrote: bool = False) -> str:
    """The one line that a command ended with; `wrote`: it may have said before what it wrote."""
    assert ended.returncode == code, ended.stderr
    said = ended.stderr.decode(errors="replace").splitlines()
    if wrote:
        said = [line for line in said if not line.startswith("streamloss: wrote ")]
    line = complaint(ended.returncode, ended.stdout or b"", "\n".join(said))
    assert line is not None
    return line


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# ---- what fuzzing found


def test_inspect_of_a_codec_that_there_is_not(tmp_path: Path) -> None:
    """pyarrow ends the process as soon as such a column chunk is looked at."""
    file = tmp_path / "codec.parquet"
    pq.write_table(pa.table({"prob": [0.5, 0.25], "label": [0, 1]}), file, compression="snappy")
    data = file.read_bytes()
    codec = b"\x04prob\x15\x02"  # the path of the column, field 4: 1, snappy
    assert data.count(codec) == 1
    file.write_bytes(data.replace(codec, b"\x04prob\x15\x28"))
    ended = start("inspect", str(file), "--format", "json")
    assert (ended.returncode, ended.stderr) == (0, b"")
    columns = {column["name"]: column for column in json.loads(ended.stdout)["columns"]}
    assert (columns["prob"]["codec"], columns["label"]["codec"]) == ("20", "SNAPPY")


def test_how_columns_are_stored_is_what_pyarrow_says(tmp_path: Path) -> None:
    """Of files that are whole, local ones and others."""
    files = [*damage.KINDS["parquet"].seeds(tmp_path)] and sorted(tmp_path.glob("*.parquet"))
    nested = pa.table({"s": [{"a": 1, "b": [1.0]}], "t": ["x"], "when": pa.array([1], pa.timestamp("us"))})
    pq.write_table(nested, tmp_path / "nested.parquet", compression="lz4")
    for file in [*files, tmp_path / "nested.parquet", Path(DIGITS)]:
        for path in (str(file), file.resolve().as_uri()):
            footer = survey(path)
            ours = stored_as([footer], footer.schema.names)
            for name, leaves in footer.leaves.items():
                groups = [footer.metadata.row_group(g) for g in range(footer.metadata.num_row_groups)]
                chunks = [group.column(leaf) for leaf in leaves for group in groups]
                assert ours[name].encodings == {encoding for chunk in chunks for encoding in chunk.encodings}
                assert ours[name].codecs == {chunk.compression for chunk in chunks}
                assert ours[name].bytes == sum(chunk.total_compressed_size for chunk in chunks)
                assert ours[name].uncompressed == sum(chunk.total_uncompressed_size for chunk in chunks)


@pytest.mark.parametrize("head", [b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\xf0\xff\xff\x7f"], ids=["now", "before 0.15"])
def test_a_stream_that_never_ends_to_say_what_it_is(head: bytes) -> None:
    """Of two gigabytes that are said to come, none is waited for."""
    read, write = os.pipe()
    os.write(write, head + bytes(1000))
    try:
        ended = start("evaluate", "-", stdin=read)  # the other end stays open
    finally:
        os.close(write)
        os.close(read)
    assert "-: no Arrow IPC stream (a message of 2047 MiB of metadata)" in line_of(ended)


@pytest.mark.parametrize("name", [b"prob", b"item"], ids=["a column", "inside of one"])
def test_a_name_in_a_stream_that_is_no_text(name: bytes) -> None:
    inner = pa.list_(pa.field("item", pa.float64()))
    table = pa.table({"prob": [0.5], "label": [1], "more": pa.array([[1.0]], inner)})
    data = damage_ipc.stream(table)
    assert data.count(name) >= 1
    assert "utf-8" in line_of(start("evaluate", "-", input=data.replace(name, b"\xff" * len(name))))


def test_an_error_whose_square_is_no_number() -> None:
    """Of a share: the error of clusters, of which all but nothing has the same weight."""
    given = {"prob": [0.9, 0.9, 0.2, 0.1], "label": [1, 1, 1, 1], "weight": [1.0, 1.0, 1e-200, 1e-200], "c": [0, 1, 2, 3]}
    found = streamloss.evaluate({name: np.array(values) for name, values in given.items()}, cluster="c", metrics="accuracy")
    accuracy = found.metrics["accuracy"]
    assert accuracy.mean == 1.0 and accuracy.stderr is not None and 0 < accuracy.stderr < 1e-190


def test_a_share_of_next_to_no_rows() -> None:
    """Of two clusters one has all but nothing of the weight: as many rows as would give the error are 1e-200."""
    given = {"prob": [0.9, 0.9], "label": [0, 1], "weight": [1.0, 1e-200], "c": [0, 1]}
    found = streamloss.evaluate({name: np.array(values) for name, values in given.items()}, cluster="c", metrics="accuracy")
    accuracy = found.metrics["accuracy"]
    assert accuracy.mean == 1e-200
    assert (accuracy.low, accuracy.high) == (pytest.approx(0, abs=1e-12), pytest.approx(1))


STATES = damage_states.states()


def edited(kind: int, **changes: Any) -> bytes:
    """A state whose header says something else, with a checksum that is right."""
    header, packed = damage_states.opened(STATES[kind][0].to_bytes())
    return damage_states.sealed(header | changes, packed)


def forged(kind: int, name: str, place: tuple[int, ...], value: int, group: int | None = None) -> bytes:
    """A state one number of which is another, with a digest and a checksum that are right."""
    state = State.from_bytes(STATES[kind][0].to_bytes())
    arrays = state.arrays if group is None else state.slices[group].arrays
    arrays[name] = arrays[name].astype(np.int64)
    assert np.any(arrays[name][place] != value)
    arrays[name][place] = value
    return state.to_bytes()


@pytest.mark.parametrize("columns", ["text", ["a"], 3, None, {"a": 1}])
def test_columns_of_a_state_that_are_none(columns: Any) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        State.from_bytes(edited(0, columns=columns))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_of_a_header_that_json_has_not(number: float) -> None:
    """Wherever they stand, the state could not be written again."""
    inputs = [entry | {"more": number} for entry in STATES[0][0].inputs]
    with pytest.raises(DataError, match="cannot be read"):
        State.from_bytes(edited(0, inputs=inputs))


BINARY, SOFT, SCORE, SLICED, CAPPED, CONVENTIONS, MEAN = 1, 2, 3, 5, 6, 9, 11
FORGED: dict[str, tuple[Any, ...]] = {
    "rows": (BINARY, "ledger", (0,), 29),
    "many rows": (BINARY, "ledger", (0,), 1 << 60),
    "ignored rows": (BINARY, "ledger", (1,), 1 << 60),
    "a weight of nothing": (0, "weight", (0, 200), 1),
    "a sum above the greatest": (BINARY, "moments", (0, 0, 140), 1),
    "a sum of squares": (BINARY, "moments", (0, 1, 140), 1),
    "infinite rows that were none": (BINARY, "infinite", (1,), 1),
    "a least value that is none": (BINARY, "extremes", (0, 0), (1 << 63) - 1),
    "a least value of infinity": (BINARY, "extremes", (1, 0), 0x7FF0000000000000),
    "a histogram with a row more": (BINARY, "histogram", (0, 5, 0), 1),
    "a weighted histogram": (SCORE, "histogram", (0, 5, 0), 1),
    "a bin with a row more": (BINARY, "reliability", (3, 0), 1),
    "more confidence than rows": (BINARY, "reliability", (10000, 6), 1 << 39),
    "a class with a row more": (BINARY, "classes", (0, 0), 29),
    "an infinite row of a class": (BINARY, "classes", (0, 1), 29),
    "shares of labels": (SOFT, "classes", (0, 0), 1),
    "no mean probabilities": (MEAN, "mean_probabilities", (0, 0), -1),
    "factors of a convention": (CONVENTIONS, "conventions", (0, 1, 267), -1),
    "rows of a convention": (CONVENTIONS, "convention_rows", (0, 2), 31),
    "a slice with a row more": (SLICED, "ledger", (0, 1), 5, 0),
    "a sum of a slice": (SLICED, "moments", (0, 0, 0, 8), 1 << 30, 0),
    "extremes of a slice": (SLICED, "extremes", (0, 0, 0), (1 << 63) - 1, 0),
    "pages of a slice": (SLICED, "pages", (0, 0), 29, 0),
    "clusters": (SLICED, "moments", (0, 0, 0, 8), 1 << 30, 2),
    "pages of a weighted slice": (CAPPED, "pages", (0, slice(None)), 0, 0),
    "weights of a slice": (CAPPED, "weight", (0, 0, 21), 1, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_numbers_that_no_rows_have(name: str) -> None:
    """They would end in a report that divides by nothing, or in one that says what cannot be."""
    says = "cannot be|other rows|no rows|not between|neither|labels are shares"
    with pytest.raises(DataError, match=rf"^here\.state: the state cannot be read: .*({says})"):
        State.from_bytes(forged(*FORGED[name]), "here.state")


@pytest.mark.parametrize("kind", [SLICED, CAPPED])
def test_two_slices_of_one_key(kind: int) -> None:
    """Merged with others one of them would be lost, and the whole have more rows than its slices."""
    state = State.from_bytes(STATES[kind][0].to_bytes())
    keys = state.slices[0].keys
    keys[-1] = keys[-2]
    with pytest.raises(DataError, match="the state cannot be read: two slices of one key"):
        State.from_bytes(state.to_bytes())


def test_states_of_every_kind_are_coherent() -> None:
    for one, two in STATES:
        for state in (one, two, one.merged(two), State.empty(one.task, one.options)):
            assert State.from_bytes(state.to_bytes()).digest == state.digest


@pytest.mark.parametrize("name", damage.KINDS)
def test_some_of_what_the_fuzzer_reads(name: str, tmp_path: Path) -> None:
    """Every whole input is read in every way, and some that are damaged end as they have to."""
    kind = damage.KINDS[name]
    files, target = kind.seeds(tmp_path), tmp_path / "damaged"
    seen = set()
    for data, options in files[::3]:
        target.write_bytes(data)
        for way, read in kind.ways.items():
            assert read(target, options).startswith("read"), (way, options)
    for number in range(40):
        data, options = kind.damaged(random.Random(number), files)
        assert (data, options) == kind.damaged(random.Random(number), files)
        target.write_bytes(data)
        ends = {way: read(target, options) for way, read in kind.ways.items()}
        assert kind.judge(ends) == []
        seen |= {end.startswith("read") for end in ends.values()}
    assert seen == {True, False}


# ---- disks that are full, folders that go


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder for what is written, with a file in it that has to stay as it is."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old").write_text("old")
    yield folder
    assert (folder / "old").read_text() == "old"


def limit(size: int) -> Any:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


WRITES: dict[str, list[str]] = {
    "-o json": [*EVALUATE, "-o", "old", "--format", "json"],
    "-o html": [*EVALUATE, "-o", "old", "--format", "html"],
    "--save-state": [*EVALUATE, "--save-state", "old"],
    "--plots": [*EVALUATE, "--plots", ".", "-o", "/dev/null"],
    "score": ["score", CANCER, "-o", "old"],
    "score --worst": ["score", CANCER, "--worst", "5", "-o", "old"],
    "inspect": ["inspect", DIGITS, "--format", "json", "-o", "old"],
}  # fmt: skip


@pytest.mark.parametrize("name", WRITES)
def test_a_file_that_becomes_too_large(name: str, out: Path) -> None:
    line = line_of(start(*WRITES[name], cwd=out, preexec_fn=limit(1500)), wrote=True)
    assert "cannot write " in line and line.endswith(": File too large")
    assert names(out) == ["old"]


def test_a_junit_file_that_becomes_too_large(out: Path) -> None:
    """The report is printed by then."""
    ended = start(*EVALUATE, "--fail-if", "accuracy < 0", "--junit", "old", cwd=out, preexec_fn=limit(100))
    assert ended.returncode == 3 and b"cannot write old: File too large" in ended.stderr
    assert names(out) == ["old"]


def in_a_small_disk(words: list[str], folder: Path, options: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a folder of a file system of its own, then what that holds; skips where none can be had."""
    script = f'mount -t tmpfs -o {options} none "$1" && cd "$1" && echo old > old && shift && mount -o remount,{options} "$PWD"'
    script += ' && { "$@"; code=$?; ls -A; cat old; exit $code; }'
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces")
    command = [unshare, "-rm", "sh", "-c", script.replace(f"mount -t tmpfs -o {options}", "mount -t tmpfs", 1), "-"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, str(folder), *BEGIN, *words], env=environment, capture_output=True, timeout=300)


@pytest.mark.parametrize("name", ["-o html", "--save-state", "score", "--plots"])
def test_a_disk_that_is_full(name: str, tmp_path: Path) -> None:
    ended = in_a_small_disk(WRITES[name], tmp_path, "size=12k")
    assert ended.returncode == 3, ended.stderr
    *there, old = ended.stdout.splitlines()
    assert old == b"old" and not [name for name in there if name.startswith(b".")]
    assert there == [b"old"] or name == "--plots"  # of which some fit
    line = line_of(subprocess.CompletedProcess([], ended.returncode, b"", ended.stderr), wrote=True)
    assert "cannot write " in line and line.endswith(": No space left on device")


@pytest.mark.parametrize("name", WRITES)
def test_a_disk_that_may_only_be_read(name: str, tmp_path: Path) -> None:
    """Found before the work begins."""
    ended = in_a_small_disk(WRITES[name], tmp_path, "ro")
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout.splitlines() == [b"old", b"old"]
    assert b"no permission to write" in ended.stderr
    assert ended.stderr.count(b"\n") == 1


# A run in which something happens each time that a batch has been read.
MEANWHILE = """
import os, shutil, sys
from streamloss.running import local, ordered
from streamloss.cli.main import main
happens = sys.argv.pop(1)
for module in (local, ordered):
    def late(*given, read=module.read_part):
        for batch in read(*given):
            yield batch
            exec(happens)
    module.read_part = late
main()
"""


def meanwhile(happens: str, words: list[str], cwd: Path) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", MEANWHILE, happens, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, timeout=300)


@pytest.mark.parametrize("words", [["evaluate", CANCER, "-o", "gone/x.json"], ["evaluate", CANCER, "--save-state", "gone/x"]])
def test_a_folder_that_goes_during_the_run(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    line = line_of(meanwhile("shutil.rmtree('gone', ignore_errors=True)", words, tmp_path))
    assert line == f"streamloss: error: cannot write {words[-1]}: No such file or directory"
    assert names(tmp_path) == []


def test_a_folder_of_scores_that_goes_during_the_run(tmp_path: Path) -> None:
    """Its rows are being written then."""
    (tmp_path / "gone").mkdir()
    line = line_of(meanwhile("shutil.rmtree('gone', ignore_errors=True)", ["score", CANCER, "-o", "gone/x"], tmp_path))
    assert line == "streamloss: error: cannot write gone/x: No such file or directory"
    assert names(tmp_path) == []


# ---- files that change, go, or are something else


CHANGES = {
    "replaced": ("os.path.exists('b') and os.replace('b', 'a')", "changed while it was read"),
    "truncated": ("os.truncate('a', 5000)", "changed while it was read"),
    "deleted": ("os.path.exists('a') and os.remove('a')", "no such file"),
    "a folder now": ("os.path.isdir('a') or os.remove('a') or os.mkdir('a')", "changed while it was read"),
}


@pytest.mark.parametrize("reader", ["auto", "arrow"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_of_many_row_groups_that_changes(change: str, reader: str, tmp_path: Path) -> None:
    happens, says = CHANGES[change]
    p = np.random.default_rng(0).random(4000)
    for words in (["evaluate", "a", "-o", "x.json"], ["score", "a", "-o", "x"]):
        for name, values in (("a", p), ("b", 1 - p)):
            pq.write_table(pa.table({"prob": values, "label": np.ones(len(p), int)}), tmp_path / name, row_group_size=100)
        line = line_of(meanwhile(happens, [*words, "--reader", reader, "--batch-rows", "50", "--threads", "2"], tmp_path))
        assert line.startswith("streamloss: error: a: ") and says in line
        assert not (tmp_path / words[-1]).exists()
        assert not [name for name in names(tmp_path) if name.startswith(".")]
        if (tmp_path / "a").is_dir():
            (tmp_path / "a").rmdir()


def test_a_file_that_goes_between_finding_and_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from streamloss.reading import source

    for name in "ab":
        shutil.copy(CANCER, tmp_path / f"{name}.parquet")

    def late(given: Any) -> list[str]:
        found = files.expand(given)
        (tmp_path / "b.parquet").unlink()
        return found

    monkeypatch.setattr(source, "expand", late)
    ended = run_here("evaluate", str(tmp_path))
    assert complaint(ended.exit_code, ended.stdout, ended.stderr) == f"streamloss: error: {tmp_path}/b.parquet: no such file"


def test_what_is_no_file(tmp_path: Path) -> None:
    """To read, and to write."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("gone.parquet")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(tmp_path / "socket"))
    read = {"loop": "Too many levels of symbolic links", "nowhere": "no such file", "socket": "not a regular file"}
    for name, says in (read | {"/dev/zero": "not a regular file"}).items():
        assert says in line_of(start("evaluate", name, cwd=tmp_path)), name
    for name in ("loop", ".", "/dev/null"):
        assert f"{name}: " in line_of(start("report", name, cwd=tmp_path)), name
    for flag in ("-o", "--save-state", "--plots", "--checkpoint"):
        line = line_of(start(*EVALUATE, flag, "loop", cwd=tmp_path), 2)
        assert line == "streamloss: error: cannot write loop: too many levels of symbolic links"
    assert "cannot write socket: " in line_of(start(*EVALUATE, "-o", "socket", cwd=tmp_path))
    assert "File name too long" in line_of(start(*EVALUATE, "-o", "x" * 300, cwd=tmp_path), 2)
    assert names(tmp_path) == ["loop", "nowhere", "socket"]
    ended = start(*EVALUATE, "-o", "nowhere", cwd=tmp_path)  # a link is followed
    assert ended.returncode == 0 and (tmp_path / "gone.parquet").exists()


@pytest.mark.parametrize(
    "given", ["tree", "tree/**/*.parquet", "tree/*", "./**/in/*.parquet", "file://{}/tree", "file://{}/tree/**/*.parquet"]
)
def test_folders_that_contain_themselves(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through two links a folder has 2^40 paths before the system refuses."""
    inside = tmp_path / "tree" / "in"
    inside.mkdir(parents=True)
    shutil.copy(CANCER, inside / "a.parquet")
    for i in range(4):
        (inside / f"up{i}").symlink_to("..")
        (tmp_path / "tree" / f"here{i}").symlink_to(".")
    monkeypatch.chdir(tmp_path)
    found = files.expand([given.format(tmp_path)])
    assert {os.path.realpath(file.removeprefix("file://")) for file in found} == {str(inside / "a.parquet")}


def test_patterns_find_what_glob_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import glob

    r = random.Random(0)
    for _ in range(60):
        folder = tmp_path.joinpath(*(r.choice(["a", "b", "_c", ".d", "e=1"]) for _ in range(r.randint(0, 3))))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / r.choice(["x.parquet", ".y.parquet", "_z.parquet", "w.pq", "v.txt"])).touch()
    (tmp_path / "a" / "link").symlink_to("../b")
    monkeypatch.chdir(tmp_path)
    patterns = ["**", "**/*", "**/*.parquet", "a/**", "a//**/*.pq", "**/b/*", "**/.d/*", "**/a/**/*.p*", "./**/*.pq"]
    patterns += ["*/**/w.pq", "**/[ab]/*", "**/?.parquet", "**/**/x.parquet", "**/e=1/**", "**/.y*", f"{tmp_path}/**/w.pq"]
    for pattern in patterns:
        expected = [file for file in glob.glob(pattern, recursive=True) if Path(file).is_file()]  # noqa: PTH207
        found = [os.path.normpath(file) for file in paths._under_any(pattern)]
        assert sorted(found) == sorted({os.path.normpath(file) for file in expected}), pattern


@pytest.mark.parametrize("form", ["terminal", "json", "markdown", "csv", "html"])
def test_names_that_are_no_text(form: str, tmp_path: Path) -> None:
    file, state = os.fsdecode(ODD), tmp_path / "state"
    shutil.copy(CANCER, tmp_path / file)
    words = ["--prob", "prob", "--label", "label", "--weight", ""]
    ended = start("evaluate", file, *words, "--by", "file", "--format", form, "--save-state", "state", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"\x1b[31m" not in ended.stdout or form == "csv"  # which is data
    assert [each["by"]["file"] for each in streamloss.merge([state]).to_dict()["slices"]] == [SHOWN]
    again = start("report", "state", "--format", form, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, b"")


def test_scores_and_messages_of_names_that_are_no_text(tmp_path: Path) -> None:
    file = os.fsdecode(ODD)
    shutil.copy(CANCER, tmp_path / file)
    ended = start("score", file, "-o", file + ".rows", cwd=tmp_path)
    shown = rb"\udcff a\n\x1b[31m" + "ü.parquet".encode()
    assert (ended.returncode, ended.stderr) == (0, b"streamloss: wrote " + shown + b".rows\n")
    (tmp_path / (file + ".rows")).rename(tmp_path / "rows")
    assert pq.read_table(tmp_path / "rows").column("file").unique().to_pylist() == [SHOWN]
    assert shown.replace(rb"\n", b" ") in start("evaluate", file, "--prob", "gone", cwd=tmp_path).stderr
    assert b"\x1b" not in start("evaluate", "gone" + file, cwd=tmp_path).stderr


# ---- standard streams that are closed, or that nobody reads


@pytest.mark.parametrize("form", ["terminal", "json", "markdown", "csv", "html"])
def test_a_reader_that_leaves_ends_any_report(form: str) -> None:
    read, write = os.pipe()
    os.close(read)
    ended = start(*EVALUATE, "--format", form, stdout=write)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_reader_of_one_line() -> None:
    """Whether it leaves before or after the report is written."""
    for words in (EVALUATE, ["score", CANCER, "-o", "-"], ["evaluate", "--help"]):
        ended = start(*words, shell="| head -c 1 | wc -c; exit ${PIPESTATUS[0]}")
        assert ended.returncode in (0, 141)
        assert (ended.stdout.strip(), ended.stderr) == (b"1", b"")


OUTPUTS = [EVALUATE, ["--help"], ["--version"], ["score", "--help"], ["calc", "entropy", "1"], ["score", CANCER, "-o", "-"]]


@pytest.mark.parametrize("words", OUTPUTS, ids=lambda words: " ".join(words[:1] + words[-1:]))
def test_a_closed_standard_output(words: list[str]) -> None:
    line = line_of(start(*words, shell=">&-", stdout=subprocess.DEVNULL))
    assert "standard output: Bad file descriptor" in line


@pytest.mark.parametrize("words", OUTPUTS[:4], ids=lambda words: " ".join(words[:1] + words[-1:]))
def test_a_standard_output_that_takes_nothing(words: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        line = line_of(start(*words, stdout=full))
    assert line == "streamloss: error: cannot write to standard output: No space left on device"


def test_closed_streams_are_no_files_of_ours(tmp_path: Path) -> None:
    """With standard error closed the next file that is opened would be it."""
    target = tmp_path / "x.json"
    ended = start(*EVALUATE, "-o", str(target), shell="<&- 2>&-")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    assert json.loads(target.read_text())["rows"]["used"] > 0
    assert start("evaluate", "gone.parquet", shell="2>&-").returncode == 3
    assert "there is no standard input" in line_of(start("evaluate", "-", shell="<&-"))
