"""The compiled kernels are their source: the same digests from plain Python, in the CUDA simulator, with bounds checks.

Also where compiled code is kept: the folder changes with the sources, is used by the next process, and need not be at home.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamloss import jit

PACKAGE = Path(__file__).parents[1] / "streamloss"

# A small evaluation of every family, layout and option that has its own code; prints {name: digest}.
BATTERY = """
import json, os, warnings
import numpy as np
import streamloss

device = os.environ.get("DEVICE", "cpu")
if device == "cuda":
    from streamloss.kernels.cuda import long

    long.TOGETHER = 0  # the few classes of a long row here are shared by four warps
rng = np.random.default_rng(31)


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def logits(n, k):
    z = rng.integers(-40, 41, (n, k)) / 8.0
    z[0] = 0.0
    z[1, 1:] = -np.inf
    z[2] *= 1000.0
    return z


def classes(n, k):
    return {"logits": logits(n, k), "label": rng.integers(0, k, n)}


def bfloat(z):
    return (z.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


n = 5
z3, z129 = classes(n, 3), classes(n, 129)
p3 = {"probs": softmax(z3["logits"]), "label": z3["label"]}
lp3 = {"logprobs": np.log(softmax(rng.normal(size=(n, 3)))), "label": z3["label"]}
p129 = {"probs": softmax(z129["logits"]), "label": z129["label"]}
y = rng.integers(0, 2, n)
x = np.array([0.0, -3.5, 40.0, -800.0, 1.25])
chance = np.array([0.0, 0.25, 0.5, 1.0, 1e-300])
every = {"label_smoothing": 0.1, "focal_gamma": 2.0, "focal_alpha": 0.3, "zero": 1e-7}
runs = {
    "logits": (z3, {}),
    "logits, 129": (z129, {}),
    "float32": ({**z3, "logits": z3["logits"].astype(np.float32)}, {"temperature": 2.0}),
    "float16": ({**z3, "logits": np.clip(z3["logits"], -6e4, None).astype(np.float16)}, {}),
    "bfloat16": ({**z129, "logits": bfloat(z129["logits"])}, {"dtype": "bfloat16"}),
    "probs": (p3, every),
    "probs, 129": (p129, every),
    "normalize": ({**p3, "probs": p3["probs"] * 1.7}, {"normalize": True}),
    "logprobs": (lp3, {"metrics": "entropy,mutual_information,cross_entropy"}),
    "no label": ({"logits": z3["logits"]}, {}),
    "weights": ({**z3, "weight": rng.random(n)}, {}),
    "bytes": ({**z3, "bytes": rng.integers(1, 9, n)}, {}),
    "pair": ({"probs": softmax(rng.normal(size=(n, 3))), "target_logits": z3["logits"]}, every),
    "pair, labelled": ({"logits": rng.normal(size=(n, 3)), "target_probs": p3["probs"], "label": z3["label"]}, {}),
    "pair, 129": ({"logits": logits(3, 129), "target_logits": logits(3, 129), "label": z129["label"][:3]}, {}),
    "logit": ({"logit": x, "label": y}, {"pos_weight": 2.0}),
    "logit, soft": ({"logit": x, "label": rng.random(n)}, every),
    "prob": ({"prob": chance, "label": y}, {"metrics": "cross_entropy,mutual_information,ece"}),
    "logprob": ({"logprob": -np.abs(x)}, {}),
    "skip": ({**z3, "logits": np.where(rng.random((n, 3)) < 0.3, np.nan, z3["logits"])}, {"on_invalid": "skip"}),
    "ignored": (z3, {"ignore_index": int(z3["label"][0])}),
    "slices": ({**z3, "g": np.arange(n) % 2}, {"by": "g"}),
    "slices, weights": ({**classes(n, 90), "g": np.arange(n) % 2, "weight": rng.random(n)}, {"by": "g"}),
}
names = json.loads(os.environ.get("RUNS", "null")) or list(runs)
runs = {name: runs[name] for name in names}
warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's of infinities, in any thread, when Numba is switched off
found = {name: streamloss.evaluate(data, threads=2, device=device, **options) for name, (data, options) in runs.items()}
assert {report.run["device"] for report in found.values()} == {device}
print(json.dumps({name: report.digest for name, report in found.items()}))
"""

CHECKED = ["logits", "logits, 129", "probs", "probs, 129", "normalize", "weights", "bytes", "pair, labelled", "pair, 129"]
CHECKED += ["logit", "logit, soft", "logprob", "skip", "ignored", "slices", "slices, weights"]

# The smallest thing that needs compiled code; prints {calls, value, folder}.
PROBE = """
import json
import numpy as np
from streamloss import jit

calls = []
jit.on_compile(lambda: calls.append(1))
from streamloss.kernels.between import write_differences

out = np.zeros((1, 1))
for _ in range(2):
    write_differences(np.array([[3.0]]), np.array([[2.0]]), out)
print(json.dumps({"calls": len(calls), "value": float(out[0, 0]), "folder": jit.cache_dir()}))
"""


def python(code, root=PACKAGE.parent, **environment):
    """What a fresh process prints as JSON; warnings that are the product's own are errors."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "STREAMLOSS_", "PYTHON"))}
    env |= {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {name: str(value) for name, value in environment.items()}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=env, cwd=root, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def compiled():
    """The digests as users get them."""
    return python(BATTERY, **{k: v for k, v in os.environ.items() if k == "STREAMLOSS_CACHE_DIR"})


def differing(ours, theirs):
    return [name for name in ours if ours[name] != theirs[name]]


def test_every_run_is_another(compiled):
    assert len(set(compiled.values())) == len(compiled)


def test_plain_python_gives_the_same_digests(compiled):
    assert differing(python(BATTERY, NUMBA_DISABLE_JIT=1), compiled) == []


def test_the_cuda_simulator_gives_the_same_digests(compiled):
    """Kernels of a device, step by step: what they read, where they add, what comes back."""
    assert differing(python(BATTERY, NUMBA_DISABLE_JIT=1, NUMBA_ENABLE_CUDASIM=1, DEVICE="cuda"), compiled) == []


def test_lanes_are_numbers_in_plain_python_too():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_lanes.py"]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        command, env=environment, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_no_index_is_out_of_bounds(compiled, tmp_path):
    """Numba's own checks of every index, in a cache of its own; compiling them takes long, so one type of each family, and
    LLVM is not asked to make them fast.
    """
    checked = python(BATTERY, NUMBA_BOUNDSCHECK=1, NUMBA_OPT=0, STREAMLOSS_CACHE_DIR=tmp_path, RUNS=json.dumps(CHECKED))
    assert list(checked) == CHECKED and differing(checked, compiled) == []


# ---- where compiled code is kept


def test_compiles_once(tmp_path):
    """The first process compiles and says so once; the next one loads."""
    first = python(PROBE, STREAMLOSS_CACHE_DIR=tmp_path)
    second = python(PROBE, STREAMLOSS_CACHE_DIR=tmp_path)
    assert (first["calls"], second["calls"]) == (1, 0)
    assert first["value"] == second["value"] == 1.0
    assert first["folder"] == second["folder"] and Path(first["folder"]).parent == tmp_path
    assert list(Path(first["folder"]).rglob("*.nbc"))


def test_first_use_by_several_processes_at_once(tmp_path):
    """They keep one code, whole: the next process loads it (tests/test_kept.py has what can go wrong)."""
    with ThreadPoolExecutor(4) as pool:
        probed = list(pool.map(lambda _: python(PROBE, STREAMLOSS_CACHE_DIR=tmp_path), range(4)))
    assert {found["value"] for found in probed} == {1.0} and {found["calls"] for found in probed} <= {0, 1}
    assert python(PROBE, STREAMLOSS_CACHE_DIR=tmp_path)["calls"] == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".nbc", ".lock")]


def test_an_install_that_cannot_be_written(tmp_path):
    """Nothing is kept beside the sources, where another user may have installed them."""
    package = tmp_path / "site" / "streamloss"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = sorted(package.rglob("*"))
    for path in (*before, package, package.parent):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        first = python(PROBE, package.parent, STREAMLOSS_CACHE_DIR=tmp_path / "cache")
        second = python(PROBE, package.parent, STREAMLOSS_CACHE_DIR=tmp_path / "cache")
        assert (first["calls"], second["calls"], second["value"]) == (1, 0, 1.0)
        assert sorted(package.rglob("*")) == before
    finally:
        for path in (package.parent, package, *before):
            path.chmod(0o755)


def test_plain_python_compiles_nothing(tmp_path):
    probed = python(PROBE, STREAMLOSS_CACHE_DIR=tmp_path, NUMBA_DISABLE_JIT=1)
    assert (probed["calls"], probed["value"]) == (0, 1.0)
    assert not list(tmp_path.rglob("*.nbc"))


FOLDER = "import json; from streamloss import jit; print(json.dumps(jit.cache_dir()))"


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("ieee/elementary.py", True),
        ("ieee/bits.py", True),
        ("ieee/vectors.py", True),
        ("kernels/divergence.py", True),
        ("kernels/panel.py", True),
        ("kernels/categorical.py", True),
        ("quantities.py", True),
        ("errors.py", True),
        ("digits.py", True),
        ("jit.py", True),
        ("cli/main.py", False),
        ("reporting/terminal.py", False),
    ],
)
def test_the_folder_follows_the_sources(source, changes, tmp_path):
    """Numba looks at one file at a time and would run stale code after an edit in another."""
    shutil.copytree(PACKAGE, tmp_path / "streamloss", ignore=shutil.ignore_patterns("__pycache__"))
    before = python(FOLDER, tmp_path, STREAMLOSS_CACHE_DIR=tmp_path / "cache")
    assert python(FOLDER, tmp_path, STREAMLOSS_CACHE_DIR=tmp_path / "cache") == before
    with (tmp_path / "streamloss" / source).open("a", encoding="utf-8") as file:
        file.write("\n# edited\n")
    assert (python(FOLDER, tmp_path, STREAMLOSS_CACHE_DIR=tmp_path / "cache") != before) is changes


def test_every_module_with_compiled_code_is_a_source():
    """So is whatever is compiled into a kernel."""
    sources = {path for pattern in jit._SOURCES for path in PACKAGE.glob(pattern)}
    taken = re.compile(
        r"^from streamloss\.jit import|^@jit\.|\bjit\.(scalar|loop|part|allocating|kernel|decoder|parser)\b", re.M
    )
    compiled = {path for path in PACKAGE.rglob("*.py") if taken.search(path.read_text(encoding="utf-8"))}
    assert compiled and compiled <= sources


def test_an_edit_takes_effect(tmp_path):
    """Not only the name of the folder: the edited arithmetic is what runs."""
    shutil.copytree(PACKAGE, tmp_path / "streamloss", ignore=shutil.ignore_patterns("__pycache__"))
    code = """
import json
import numpy as np
from streamloss.kernels.between import write_gains
gain, squared = np.zeros(1), np.zeros(1)
write_gains(np.array([1.5]), np.array([np.inf]), gain, squared)
print(json.dumps(gain[0]))
"""
    before = python(code, tmp_path, STREAMLOSS_CACHE_DIR=tmp_path / "cache")
    path = tmp_path / "streamloss" / "ieee" / "elementary.py"
    text = path.read_text(encoding="utf-8")
    assert text.count("LN2_HI = 6.93147180369123816490e-01") == 1
    path.write_text(text.replace("LN2_HI = 6.93147180369123816490e-01", "LN2_HI = 7.0e-01"), encoding="utf-8")
    after = python(code, tmp_path, STREAMLOSS_CACHE_DIR=tmp_path / "cache")
    assert before == pytest.approx(math.exp(-1.5)) and abs(after - before) > 1e-3


@pytest.mark.parametrize("home", ["a file", "read-only", "missing"])
def test_a_home_that_cannot_be_written(home, tmp_path):
    """Compiled code then goes to the folder for temporary files."""
    place, temporary = tmp_path / "home", tmp_path / "tmp"
    temporary.mkdir()
    if home == "a file":
        place.write_text("")
    elif home == "read-only":
        place.mkdir()
        place.chmod(0o500)
        if os.access(place, os.W_OK):
            pytest.skip("root may write everywhere")
    else:
        place = Path("/proc/no/such/home")
    probed = python(PROBE, HOME=place, XDG_CACHE_HOME="", TMPDIR=temporary)
    assert probed["value"] == 1.0 and Path(probed["folder"]).is_relative_to(temporary)
    assert python(PROBE, HOME=place, XDG_CACHE_HOME="", TMPDIR=temporary)["calls"] == 0


def test_xdg_cache_home(tmp_path):
    probed = python(PROBE, XDG_CACHE_HOME=tmp_path)
    assert Path(probed["folder"]).parent == tmp_path / "streamloss"


def test_a_folder_given_in_words_of_numba(tmp_path):
    """NUMBA_CACHE_DIR is respected, in a folder of our own within it."""
    probed = python(PROBE, NUMBA_CACHE_DIR=tmp_path)
    assert Path(probed["folder"]).is_relative_to(tmp_path)


@pytest.mark.parametrize("name", ["digits", "cancer", "distill"])
def test_the_second_run_compiles_nothing(name):
    """Readers and kernels alike come from the cache: only a first run may say that it compiles."""
    command = [sys.executable, "-m", "streamloss", "evaluate", str(PACKAGE.parent / "data" / f"{name}.parquet")]
    for _ in range(2):
        done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""
