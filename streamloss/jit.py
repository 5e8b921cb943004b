"""The only place that chooses Numba options, and where the compiled cache lives.

Numba's own cache looks at one file at a time and misses edits in the others, so ours stands in a folder named by a hash of
every source that a kernel is made of. Numba's is also an index beside its data, which two processes that save at once can
make point at other code; ours is a file for every signature and CPU, with a checksum. What is missing, damaged or cannot be
written is compiled anew, by one process while the others wait for it. No fast-math anywhere: the rounding of every operation
is ours.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, cast

# An idle OpenMP worker must sleep, not spin: its core belongs to the threads that decode. Read when the pool starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numba
from numba.core import caching, codegen, compiler, config, event, serialize

try:
    import fcntl
except ImportError:  # no system of ours: nobody waits there
    fcntl = None  # type: ignore[assignment]

F = TypeVar("F", bound=Callable[..., Any])

DISABLED = bool(config.DISABLE_JIT)
SIMULATED = bool(config.ENABLE_CUDASIM)  # Numba's simulator stands in the place of a CUDA device


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
    "jit.py", "errors.py", "quantities.py", "digits.py", "slices.py", "slicing.py",
    "ieee/*.py", "kernels/*.py", "kernels/cuda/*.py",
    *(f"reading/{name}.py" for name in ("thrift", "footer", "encodings", "levels", "specs", "runs")),
)  # fmt: skip


# Numba's own switches that make other code of the same sources.
_SWITCHES = ("BOUNDSCHECK", "DEBUGINFO_DEFAULT", "LOOP_VECTORIZE", "OPT", "SLP_VECTORIZE")


def _is_ours(root: Path, others: int) -> bool:
    """Whether a folder can be made or is there, is ours and can be written, and not by those of the mode bits `others`: what
    lies in it is run.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = root.lstat()
    except OSError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & others and os.access(root, os.W_OK | os.X_OK)


def _root() -> Path | None:
    """Where compiled code may be kept: STREAMLOSS_CACHE_DIR, else the user's cache folder, else a temporary one that nobody
    else could have made; None when there is none.
    """
    given = os.environ.get("STREAMLOSS_CACHE_DIR") or config.CACHE_DIR
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        home = ((Path(base) if base else Path.home() / ".cache") / "streamloss").resolve()
        if _is_ours(home, 0o002):
            return home
    except (OSError, RuntimeError):  # RuntimeError: nobody's home, or links in a circle
        pass
    temporary = Path(tempfile.gettempdir()) / f"streamloss-{os.getuid()}"
    return temporary if _is_ours(temporary, 0o022) else None


@cache
def sources() -> str:
    """A hash of all that kernels are made of, in hexadecimal: rows have the same values to the bit where it is the same."""
    digest = hashlib.sha256()
    for pattern in _SOURCES:
        for path in sorted(_PACKAGE.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def cache_dir() -> str | None:
    """The folder of the compiled kernels of exactly these sources and this Numba; None when they cannot be kept."""
    root = _root()
    if root is None:
        return None
    switches = [str(getattr(config, name)) for name in _SWITCHES]
    return str(root / hashlib.sha256(f"{numba.__version__} {switches} {sources()}".encode()).hexdigest()[:16])


_PATIENCE = 120.0  # seconds to wait for a kernel that another process compiles; that one may have been stopped
_not_kept: list[str] = []


def not_kept() -> str | None:
    """Why a kernel compiled by this process could not be kept for the next one; None when all were."""
    return _not_kept[0] if _not_kept else None


def _claim(path: Path) -> ExitStack:
    """The right to compile what belongs into a file, waited for while another process has it; its end gives the right back,
    as the end of the process does. Nothing where there are no locks: then everybody compiles.
    """
    with ExitStack() as claim, ExitStack() as waiting:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = claim.enter_context(path.with_suffix(".lock").open("ab"))
        except OSError:
            return ExitStack()
        until = None
        while fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if until is None:
                    waiting.enter_context(event.trigger_event("streamloss:wait"))
                    until = time.monotonic() + _PATIENCE
                elif time.monotonic() > until:
                    break
                time.sleep(0.02)
            except OSError:  # a file system without locks
                break
            else:
                claim.callback(fcntl.flock, lock, fcntl.LOCK_UN)  # a child of ours may hold a copy of the file
                return claim.pop_all()
    return ExitStack()


def _write(path: Path, content: bytes) -> None:
    """Put the content with its checksum into a file, whole or not at all."""
    unfinished = path.with_suffix(".tmp")
    try:
        unfinished.write_bytes(hashlib.sha256(content).digest() + content)
        unfinished.replace(path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


_before: list[Callable[[], None]] = []


class _NotKept(Exception):
    """Compiled code cannot be kept on disk."""


class _Kept(caching.NullCache):
    """The compiled code of a kernel on disk: a file for every signature and CPU, SHA-256 and pickle.

    Numba asks it, with its compiler lock held, before it compiles and after it has.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._claimed = ExitStack()

    @property
    def cache_path(self) -> str | None:
        return cache_dir()

    def _compiler(self) -> tuple[str, ...]:
        """What made the code, besides Numba."""
        return ()

    def _reduced(self, data: Any) -> Any:
        """What is kept of compiled code. Raises `_NotKept` where it cannot be."""
        if data.library.has_dynamic_globals:
            raise _NotKept(f"{self._function.__qualname__} holds addresses")
        return data._reduce()

    def _rebuilt(self, target_context: Any, reduced: Any) -> Any:
        """The compiled code again."""
        return compiler.CompileResult._rebuild(target_context, *reduced)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The code for a signature; None when it has to be compiled, by us."""
        target_context.refresh()
        key, path = self._place(sig, target_context.codegen())
        found = self._read(path, key, target_context)
        if found is None:
            for asked in _before:
                asked()
        if found is None and path is not None:
            self.release()
            self._claimed = _claim(path)
            found = self._read(path, key, target_context)  # whoever we waited for has kept it
            if found is not None:
                self.release()
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, if that can be."""
        key, path = self._place(sig, data.codegen)
        try:
            if path is None:
                raise _NotKept("no folder is ours alone")
            _write(path, serialize.dumps((key, self._reduced(data))))
        except _NotKept as error:
            _not_kept.append(str(error))
        except OSError as error:
            _not_kept.append(f"{cache_dir()}: {error.strerror or error}")
        finally:
            self.release()

    def release(self) -> None:
        """Let other processes compile what this one has not."""
        self._claimed.close()

    def _place(self, sig: Any, target: Any) -> tuple[tuple[Any, ...], Path | None]:
        """What the code is for, and its file."""
        function = self._function
        python = (sys.implementation.cache_tag, function.__module__, function.__qualname__, function.__code__.co_code)
        key = (*python, *self._compiler(), sig, target.magic_tuple())
        folder = cache_dir()
        name = f"{function.__qualname__}.{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.nbc"
        return key, Path(folder) / name if folder else None

    def _read(self, path: Path | None, key: tuple[Any, ...], target_context: Any) -> Any:
        """The code in a file; None when it is not there, not whole, or for something else."""
        if path is None:
            return None
        try:
            data = memoryview(path.read_bytes())
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                return None
            kept, reduced = pickle.loads(data[32:])
            return self._rebuilt(target_context, reduced) if kept == key else None
        except Exception:  # of another release of something that it is made of: it is compiled anew
            return None


class _KeptOnDevice(_Kept):
    """The same of a kernel of a CUDA device, for every compute capability."""

    def _compiler(self) -> tuple[str, ...]:
        return (version("numba-cuda"),)

    def _reduced(self, data: Any) -> Any:
        from numba.cuda import serialize as on_device

        try:
            return on_device.dumps(data._reduce_states())
        except Exception as error:  # pickle's, or of the driver
            raise _NotKept(f"{self._function.__qualname__}: {error}") from error

    def _rebuilt(self, target_context: Any, reduced: Any) -> Any:
        from numba.cuda.dispatcher import _Kernel

        return _Kernel._rebuild(**pickle.loads(reduced))


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


def device_kernel(function: F) -> F:
    """An entry point on a CUDA device: its blocks are launched, and what it calls is compiled for the device too."""
    from numba import cuda

    made = cuda.jit(function)
    if not SIMULATED:
        made._cache = _KeptOnDevice(function)
    return cast(F, made)


def _kept(function: F, parallel: bool, nogil: bool = True) -> F:
    made = numba.njit(parallel=parallel, nogil=nogil, error_model="numpy")(function)
    if not DISABLED:
        made._cache = _Kept(function)
    return cast(F, made)


class _Failure(event.Listener):
    """Gives back the right to compile what could not be compiled."""

    def on_start(self, _event: object) -> None:
        pass

    def on_end(self, ended: Any) -> None:
        dispatcher = ended.data["dispatcher"]
        kept = getattr(dispatcher, "_cache", None)
        if isinstance(kept, _Kept) and tuple(ended.data["args"]) not in dispatcher.overloads:
            kept.release()


class _Once(event.Listener):
    """Tells `callback` about the first real compilation, or wait for one; loading from the cache is none."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def on_start(self, _event: object) -> None:
        callback, self.callback = self.callback, None
        if callback:
            callback()

    def on_end(self, _event: object) -> None:
        pass


_COMPILING = ("numba:compile", "streamloss:wait")
_timer = event.TimingListener()
for _kind in _COMPILING:
    event.register(_kind, _timer)
event.register("numba:compile", _Failure())


def compile_seconds() -> float:
    """How long this process has spent so far compiling kernels, or waiting for another one that did."""
    return float(_timer.duration) if _timer.done else 0.0


def on_compile(callback: Callable[[], None]) -> None:
    """Calls `callback` once, when this process first has to compile a kernel or to wait for another one that does."""
    once = _Once(callback)
    for kind in _COMPILING:
        event.register(kind, once)


def before_compiling(callback: Callable[[], None]) -> None:
    """Calls `callback` whenever a kernel is about to be compiled; what it raises stops that."""
    _before.append(callback)


def use_threads(threads: int) -> None:
    """How many threads the kernels that this thread enters may run on; never more than Numba has started with."""
    numba.set_num_threads(min(threads, config.NUMBA_NUM_THREADS))


def many_may_enter() -> bool:
    """Whether several threads may be in parallel kernels at once, each with threads of its own (see `use_threads`, which comes
    before): not with Numba's workqueue, which ends the process then.
    """
    return str(numba.threading_layer()) != "workqueue"
