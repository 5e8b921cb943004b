"""Compiled code on disk: whoever uses it at once, whatever becomes of it, what runs is right.

Small kernels in a module of their own, in real processes; the last test evaluates a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

# `gain` of six types: with the code of another type it would be another number.
KERNELS = """
import numpy as np
from streamloss import jit

TYPES = (np.int8, np.int16, np.int32, np.int64, np.float32, np.float64)


@jit.loop
def inner(x, n):
    total = 0.0
    for i in range(n):
        total += (x[i] * 3 + 1) // 2 if x[i] > i else x[i] - i
    return total


@jit.decoder
def gain(x):
    return inner(x, x.size) + x.itemsize * 1000


@jit.decoder
def broken(x):
    return x.no_such_attribute


def tried(kind):
    x = np.arange(10).astype(kind)
    return float(gain(x))
"""

# Calls `gain` with the types named, in that order; prints what came out and how it came.
CALL = """
import json, sys
import kernels
from streamloss import jit

told = []
jit.on_compile(lambda: told.append(1))
by_name = {kind.__name__: kind for kind in kernels.TYPES}
print("ready", flush=True)
sys.stdin.readline()
values = {name: kernels.tried(by_name[name]) for name in sys.argv[1:]}
compiled = sum(kernels.gain.stats.cache_misses.values())
print(json.dumps({"values": values, "compiled": compiled, "told": len(told), "not_kept": jit.not_kept(),
                  "seconds": jit.compile_seconds(), "folder": jit.cache_dir()}))
"""

NAMES = ("int8", "int16", "int32", "int64", "float32", "float64")
SIZES = dict(zip(NAMES, (1, 2, 4, 8, 4, 8), strict=True))


def value(name: str) -> float:
    """What `gain` says of 0 to 9 in a type."""
    return 1000.0 * SIZES[name]  # x[i] == i adds nothing


def right(found: dict[str, Any]) -> bool:
    return all(number == value(name) for name, number in found["values"].items())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "kernels.py").write_text(KERNELS, encoding="utf-8")
    return tmp_path


def start(place: Path, *names: str, code: str = CALL, before: tuple[str, ...] = (), **environment: object) -> Any:
    """A process that waits for a line before it begins."""
    env = {name: text for name, text in os.environ.items() if not name.startswith(("NUMBA_", "STREAMLOSS_", "PYTHON"))}
    env |= {"PYTHONPATH": f"{place}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"STREAMLOSS_CACHE_DIR": str(place / "cache")}
    env |= {name: str(text) for name, text in environment.items()}
    env = {name: text for name, text in env.items() if text}
    command = [*before, sys.executable, "-W", "error", "-c", code, *names]
    return subprocess.Popen(
        command, env=env, cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(process: Any) -> dict[str, Any]:
    """Let it begin, and take what it printed."""
    out, err = process.communicate("\n", timeout=300)
    assert process.returncode == 0 and err == "", err[-3000:]
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def call(place: Path, *names: str, **given: Any) -> dict[str, Any]:
    return end(start(place, *names, **given))


def together(processes: list[Any]) -> list[dict[str, Any]]:
    """All begin when all are ready."""
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()[-3000:]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return [end(process) for process in processes]


def entries(place: Path) -> list[Path]:
    return sorted((place / "cache").rglob("gain.*.nbc"))


# ---- several processes


def test_one_compiles_and_the_others_load(place: Path) -> None:
    found = together([start(place, "int32") for _ in range(4)])
    assert all(right(each) for each in found)
    assert sum(each["compiled"] for each in found) == 1
    # Whoever waits says so too, and counts it: the run's speed is without it.
    assert all((each["told"] == 1) is (each["seconds"] > 0) for each in found)
    again = call(place, "int32")
    assert right(again) and (again["compiled"], again["seconds"], again["told"]) == (0, 0, 0)


def test_different_signatures_at_once(place: Path) -> None:
    """What Numba's index gets wrong: two that are saved at once in one file, so that a type runs another type's code."""
    for turn in range(2):
        shutil.rmtree(place / "cache", ignore_errors=True)
        orders = [NAMES[i:] + NAMES[:i] for i in range(turn, turn + 4)]
        found = together([start(place, *names) for names in orders])
        assert all(right(each) for each in found)
        assert sum(each["compiled"] for each in found) == len(NAMES)
        again = call(place, *NAMES)
        assert right(again) and again["compiled"] == 0
        assert len(entries(place)) == len(NAMES)


def test_killed_at_any_moment(place: Path) -> None:
    """What a killed process leaves behind neither stops the next one nor is taken for code."""
    rng = random.Random(7)
    for _ in range(4):
        processes = [start(place, *rng.sample(NAMES, len(NAMES))) for _ in range(3)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            time.sleep(rng.uniform(0.0, 0.8))
            process.kill()
            process.communicate()
        if entries(place):
            rng.choice(entries(place)).unlink()
    found = together([start(place, *NAMES) for _ in range(2)])
    assert all(right(each) for each in found)
    again = call(place, *NAMES)
    assert right(again) and again["compiled"] == 0
    assert not list((place / "cache").rglob("*.tmp"))


def test_whoever_is_stopped_is_not_waited_for_forever(place: Path) -> None:
    """A process that was stopped (Ctrl-Z) while it compiled: after a while the next one compiles itself."""
    holder = "import kernels\nfrom pathlib import Path\nfrom streamloss import jit\nimport time\n"
    holder += "jit._claim = lambda path, claim=jit._claim: (claim(path), print('claimed', flush=True), time.sleep(300))[0]\n"
    holder += "kernels.tried(kernels.np.int8)"
    process = start(place, code=holder)
    try:
        assert process.stdout.readline() == "claimed\n"
        found = call(place, "int8", code="from streamloss import jit; jit._PATIENCE = 0.3\n" + CALL)
    finally:
        process.kill()
        process.communicate()
    assert right(found) and (found["compiled"], found["told"]) == (1, 1)
    assert call(place, "int8")["compiled"] == 0


def test_what_cannot_be_compiled_is_nobody_s(place: Path) -> None:
    """The right to compile is given back when compiling fails, though the process lives on."""
    code = """
import fcntl, json, os, sys
from pathlib import Path
import numba, numpy as np
import kernels
from streamloss import jit

sys.stdin.readline()
try:
    kernels.broken(np.zeros(1))
except numba.TypingError:
    pass
locks = sorted(Path(jit.cache_dir()).glob("broken.*.lock"))
for lock in locks:
    fcntl.flock(os.open(lock, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
print(json.dumps(len(locks)))
"""
    assert end(start(place, code=code)) == 1


# ---- damage


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def foreign(path: Path) -> None:
    """Whole, with the right checksum, and of nothing that is here."""
    data = b"cno_such_module\nthing\n."
    path.write_bytes(hashlib.sha256(data).digest() + data)


DAMAGES = (
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"\x80\x04garbage" * 100),
    lambda path: path.write_bytes(path.read_bytes()[:-7]),
    lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    flipped,
    foreign,
)


def test_damaged_code_is_compiled_anew(place: Path) -> None:
    """Empty, garbage, truncated, longer, one bit flipped, whole but of something else; each for a signature."""
    assert right(call(place, *NAMES))
    for path, damage in zip(entries(place), DAMAGES, strict=True):
        damage(path)
    found = call(place, *NAMES)
    assert right(found) and found["compiled"] == len(NAMES) and found["not_kept"] is None
    found = call(place, *NAMES)
    assert right(found) and found["compiled"] == 0


def test_code_of_another_signature_is_not_run(place: Path) -> None:
    """Whole files under one another's names."""
    call(place, "int8", "float64")
    one, other = entries(place)
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    found = call(place, "int8", "float64")
    assert right(found) and found["compiled"] == 2


def test_a_folder_where_a_file_should_be(place: Path) -> None:
    call(place, "int8")
    for path in entries(place):
        path.unlink()
        path.mkdir()
    found = call(place, "int8")
    assert right(found) and found["compiled"] == 1 and "directory" in found["not_kept"]


# ---- folders that cannot be written


def as_nobody_special() -> tuple[str, ...]:
    """What makes permissions hold for root too."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and there is no setpriv")
    return ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-dac_override,-dac_read_search")


@contextlib.contextmanager
def closed(folder: Path) -> Iterator[None]:
    folder.chmod(0o500)
    try:
        yield
    finally:
        folder.chmod(0o700)


def test_a_folder_that_may_only_be_read(place: Path) -> None:
    """What is there is used; what is not is compiled and not kept, and that is said."""
    first = call(place, "int8")
    with closed(place / "cache"), closed(Path(first["folder"])):
        kept = call(place, "int8", before=as_nobody_special())
        assert right(kept) and (kept["compiled"], kept["not_kept"]) == (0, None)
        found = call(place, "int8", "int16", before=as_nobody_special())
        assert right(found) and found["compiled"] == 1 and "Permission denied" in found["not_kept"]


@pytest.mark.parametrize("folder", ["/proc/no/such/place", "a file"])
def test_no_folder_at_all(place: Path, folder: str) -> None:
    (place / "a file").write_text("")
    found = call(place, "int8", STREAMLOSS_CACHE_DIR=folder)
    assert right(found) and found["compiled"] == 1 and found["not_kept"]
    assert (place / "a file").read_text() == ""
    assert not list(place.rglob("*.nbc"))


def test_a_full_disk(place: Path) -> None:
    """As a limit on the size of files says it; afterwards there is neither half a file nor a wrong one."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n" + CALL
    found = call(place, "int8", code=limited)
    assert right(found) and found["compiled"] == 1 and "File too large" in found["not_kept"]
    assert not [*(place / "cache").rglob("*.nbc"), *(place / "cache").rglob("*.tmp")]
    assert call(place, "int8")["compiled"] == 1
    assert call(place, "int8")["compiled"] == 0


def test_a_file_of_another_user(place: Path) -> None:
    call(place, "int8")
    for path in entries(place):
        path.chmod(0o000)
    found = call(place, "int8", before=as_nobody_special())
    assert right(found) and found["compiled"] == 1
    assert call(place, "int8", before=as_nobody_special())["compiled"] == 0


@pytest.mark.parametrize("state", ["fine", "writable by others", "a link", "another's"])
def test_the_temporary_folder_is_ours_alone(place: Path, state: str) -> None:
    """Everybody may write to /tmp, and what is kept is run: only a folder that nobody else could have filled is used."""
    temporary, elsewhere = place / "tmp", place / "elsewhere"
    temporary.mkdir()
    elsewhere.mkdir()
    mine = temporary / f"streamloss-{os.getuid()}"
    if state == "a link":
        mine.symlink_to(elsewhere)
    elif state != "fine":
        mine.mkdir()
        if state == "another's":
            if os.geteuid() != 0:
                pytest.skip("only root can give a folder away")
            os.chown(mine, 65534, 65534)
        else:
            mine.chmod(0o777)
    homeless = {"STREAMLOSS_CACHE_DIR": "", "XDG_CACHE_HOME": "/proc/no/such/place", "TMPDIR": temporary}
    found = call(place, "int8", **homeless)
    assert right(found) and found["compiled"] == 1
    if state == "fine":
        assert Path(found["folder"]).parent == mine and mine.stat().st_mode & 0o077 == 0
        assert call(place, "int8", **homeless)["compiled"] == 0
    else:
        assert found["folder"] is None and "ours alone" in found["not_kept"]
        assert not list(place.rglob("*.nbc"))


def test_a_cache_that_everybody_may_write_is_not_ours(place: Path) -> None:
    home, temporary = place / "home", place / "tmp"
    (home / "streamloss").mkdir(parents=True)
    temporary.mkdir()
    (home / "streamloss").chmod(0o777)
    found = call(place, "int8", STREAMLOSS_CACHE_DIR="", XDG_CACHE_HOME=home, TMPDIR=temporary)
    assert right(found) and Path(found["folder"]).is_relative_to(temporary)


def test_switches_of_numba_have_folders_of_their_own(place: Path) -> None:
    plain, checked = call(place, "int8"), call(place, "int8", NUMBA_BOUNDSCHECK=1)
    assert plain["folder"] != checked["folder"] and checked["compiled"] == 1


# ---- the command line


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    code = """
import numpy as np
from streamloss import jit
from streamloss.cli import jobs, shared


@jit.decoder
def plus(x):
    return x + 1


with jobs.watching(False, "nat"):
    plus(1)
"""
    (tmp_path / "said.py").write_text(code, encoding="utf-8")
    process = start(tmp_path, code="import said", STREAMLOSS_CACHE_DIR="/proc/no/such/place")
    _, err = process.communicate(timeout=300)
    first, second = err.splitlines()
    assert first.startswith("streamloss: compiling kernels")
    assert second.startswith("streamloss: compiled kernels could not be kept: /proc/no/such/place/")
    assert second.endswith("STREAMLOSS_CACHE_DIR chooses a folder")


def test_four_evaluations_at_once_compile_once(place: Path) -> None:
    """From nothing, with one killed on the way: one digest, and the next run compiles nothing."""
    code = """
import json, sys
import numpy as np
import streamloss
from streamloss import jit

print("ready", flush=True)
sys.stdin.readline()
report = streamloss.evaluate({"logprob": -np.arange(100.0) / 7}, threads=2)
print(json.dumps({"digest": report.digest, "seconds": jit.compile_seconds()}))
"""
    processes = [start(place, code=code) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    processes[0].stdin.write("\n")
    processes[0].stdin.flush()
    deadline = time.monotonic() + 60
    while not list((place / "cache").rglob("*.lock")) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[0].send_signal(signal.SIGKILL)
    processes[0].communicate()
    for process in processes[1:]:
        process.stdin.write("\n")
        process.stdin.flush()
    found = [end(process) for process in processes[1:]]
    assert len({each["digest"] for each in found}) == 1
    again = end(start(place, code=code))
    assert again == {"digest": found[0]["digest"], "seconds": 0}
