"""The only place that chooses Numba options, and where the compiled cache lives.

Numba's own cache looks at one file at a time and misses edits in the others, so ours stands in a folder named by a hash of
every source that a kernel is made of; Numba adds the CPU. No fast-math anywhere: the rounding of every operation is ours.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

# An idle OpenMP worker must sleep, not spin: its core belongs to the threads that decode. Read when the pool starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numba
from numba.core import codegen, config, event

F = TypeVar("F", bound=Callable[..., Any])

DISABLED = bool(config.DISABLE_JIT)


def _wide_vectors() -> None:
    """Lets LLVM use 512-bit vectors on Intel's CPUs since Sapphire Rapids (known by AVX512-FP16), where they no longer slow
    the clock down; by itself it stops at 256 bits there. A third less time for sums and logarithms, the same bits. Whoever
    chooses a CPU or features by Numba's variables is obeyed.
    """
    if config.CPU_NAME is None and config.CPU_FEATURES is None:
        features = codegen.get_host_cpu_features()
        if "+avx512fp16" in features.split(","):
            config.CPU_FEATURES = f"{features},-prefer-256-bit"


_wide_vectors()


def has_feature(name: str) -> bool:
    """Whether the code is compiled for a CPU with this feature, by LLVM's name of it."""
    if config.CPU_FEATURES is not None:
        return f"+{name}" in config.CPU_FEATURES.split(",")
    return config.CPU_NAME is None and f"+{name}" in codegen.get_host_cpu_features().split(",")


_PACKAGE = Path(__file__).parent
_SOURCES = (
    "jit.py", "errors.py", "quantities.py", "digits.py", "slices.py", "slicing.py", "ieee/*.py", "kernels/*.py",
    *(f"reading/{name}.py" for name in ("thrift", "footer", "encodings", "levels", "specs", "runs")),
)  # fmt: skip


def _default_root() -> Path:
    """Where compiled code may be kept: STREAMLOSS_CACHE_DIR, else the user's cache folder, else a temporary one."""
    given = os.environ.get("STREAMLOSS_CACHE_DIR") or config.CACHE_DIR
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        root = (Path(base) if base else Path.home() / ".cache") / "streamloss"
        root.mkdir(parents=True, exist_ok=True)
        if os.access(root, os.W_OK):
            return root
    except (OSError, RuntimeError):
        pass
    return Path(tempfile.gettempdir()) / f"streamloss-{os.getuid()}"


@cache
def cache_dir() -> str:
    """The folder of the compiled kernels of exactly these sources and this Numba."""
    digest = hashlib.sha256(numba.__version__.encode())
    for pattern in _SOURCES:
        for path in sorted(_PACKAGE.glob(pattern)):
            digest.update(path.read_bytes())
    return str(_default_root() / digest.hexdigest()[:16])


def scalar(function: F) -> F:
    """A function of scalars, inlined into the loop that calls it."""
    return cast(F, numba.njit(error_model="numpy", forceinline=True)(function))


def loop(function: F) -> F:
    """A serial loop called from inside a kernel. It borrows its arrays: without Numba's reference counts a call costs nothing
    (with them 20 ns for every array and view), but it can neither allocate nor return an array. A constant is handed over as
    np.int64(constant): Numba compiles a function anew for every literal integer.
    """
    return cast(F, numba.njit(error_model="numpy", nogil=True, _nrt=False)(function))


def part(function: F) -> F:
    """A loop that becomes a part of its caller: to hand over tuples of arrays takes as long as to work on a row or two."""
    return cast(F, numba.njit(error_model="numpy", nogil=True, _nrt=False, forceinline=True)(function))


def allocating(function: F) -> F:
    """A function called from inside a kernel that makes arrays."""
    return cast(F, numba.njit(error_model="numpy", nogil=True)(function))


def kernel(function: F) -> F:
    """An entry point: a parallel loop over runs of rows, compiled once per machine and kept on disk.

    Several threads may be in parallel kernels at once only where `many_may_enter`. A kernel leaves writing to the
    functions that it calls: what it wrote itself to an array out of a tuple, Numba would take for dead and drop.
    """
    return _kept(function, parallel=True)


def decoder(function: F) -> F:
    """An entry point of reading: a serial loop over bytes, kept on disk too. Any number of threads may be in it."""
    return _kept(function, parallel=False)


def parser(function: F) -> F:
    """A decoder of a few bytes, done in a microsecond: it keeps the GIL, since to give it up and to get it back takes longer,
    tens of microseconds where another thread waits for it.
    """
    return _kept(function, parallel=False, nogil=False)


def _kept(function: F, parallel: bool, nogil: bool = True) -> F:
    before = config.CACHE_DIR
    config.CACHE_DIR = cache_dir()
    try:
        return cast(F, numba.njit(parallel=parallel, nogil=nogil, error_model="numpy", cache=True)(function))
    finally:
        config.CACHE_DIR = before


class _Once(event.Listener):
    """Tells `callback` about the first real compilation; loading from the cache is none."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def on_start(self, _event: object) -> None:
        callback, self.callback = self.callback, None
        if callback:
            callback()

    def on_end(self, _event: object) -> None:
        pass


_timer = event.TimingListener()
event.register("numba:compile", _timer)


def compile_seconds() -> float:
    """How long this process has spent compiling kernels so far."""
    return float(_timer.duration) if _timer.done else 0.0


def on_compile(callback: Callable[[], None]) -> None:
    """Calls `callback` once, when this process first has to compile a kernel."""
    event.register("numba:compile", _Once(callback))


def use_threads(threads: int) -> None:
    """How many threads the kernels that this thread enters may run on; never more than Numba has started with."""
    numba.set_num_threads(min(threads, config.NUMBA_NUM_THREADS))


def many_may_enter() -> bool:
    """Whether several threads may be in parallel kernels at once, each with threads of its own (see `use_threads`, which comes
    before): not with Numba's workqueue, which ends the process then.
    """
    return str(numba.threading_layer()) != "workqueue"
