"""A budget of memory that is kept: whoever is about to take much of it claims it here, and is refused before it is taken.

What counts is the resident memory of the whole process, imports and compiled code and all. There are books: what was resident
when the run began, what is set aside for what comes (compiled code, batches), and every claim. And there is what the system
says is resident, which has the last word. A claim fits when both have room for it. Without a budget nothing is asked or kept.

The budget is the process's own, as its memory is: of runs that go on at the same time the smallest one holds for all.
"""

from __future__ import annotations

import ctypes
import functools
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from streamloss.errors import StreamlossError, UsageError

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"": 1, "b": 1} | {
    prefix + end: base**power
    for power, prefix in enumerate("kmgt", 1)
    for end, base in (("", 1000), ("b", 1000), ("i", 1024), ("ib", 1024))
}
_CODE, _BATCHES, _COMPILING = "code", "batches", "compiling"
MARGIN = 24 << 20  # of a budget: what was given back and is still resident, and what is too small to be claimed
CODE = 112 << 20  # compiled kernels and what Numba needs to load them: measured 85 to 105 MB, by kind of prediction
COMPILING = 400 << 20  # what compiling them takes besides: measured 280 to 370 MB
SMALL = 1 << 18  # claims of so many bytes more are not worth a look at what is resident
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # mallopt's names of them


class Exceeded(StreamlossError):
    """What is wanted does not fit into --max-memory (exit code 3)."""


def parse(given: int | str) -> int:
    """Bytes of a size such as 800MB, 2GiB, 1.5G or a plain number. Raises `UsageError` for what is none."""
    text = str(given).strip().lower()
    number = text.rstrip("bikmgt")
    try:
        size = float(number) * _UNITS[text[len(number) :].strip()]
    except (ValueError, KeyError):
        size = 0.0
    if isinstance(given, bool) or not 1 <= size < float(1 << 62):
        raise UsageError(f"--max-memory is a size such as 800MB, 2GiB or 1.5G, not {given!r}")
    return int(size)


def told(size: float) -> str:
    """Bytes for people: 1.23 GB, 45.6 MB, 789 B."""
    scale, unit = next((pair for pair in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= pair[0]), (1, "B"))
    return f"{size / scale:.3g} {unit}"


def resident() -> int:
    """Bytes of this process that are in memory now; at its peak, where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@dataclass(frozen=True)
class Allotment:
    """What a run makes of its budget of `most` bytes: the threads that add up, the bytes for all batches and sums of fixed
    size, and those of a part that is being read, for stretches of its columns and for what is fetched ahead of it.
    """

    most: int
    threads: int
    batches: int
    windows: int
    remote: int


class _Books:
    """What is taken of the budgets that hold now."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.limits: list[int] = []
        self.base = resident()
        self.claims: dict[str, int] = {}  # by their kind
        self.expected: dict[object, int] = {_CODE: CODE}
        self.allotment: Allotment | None = None

    @property
    def limit(self) -> int:
        return min(self.limits) - MARGIN

    @property
    def taken(self) -> int:
        return self.base + sum(self.claims.values()) + sum(self.expected.values())

    def fits(self, size: int) -> bool:
        if self.taken + size > self.limit:
            return False
        if size < SMALL or resident() + size <= self.limit:
            return True
        give_back()
        return resident() + size <= self.limit

    def missing(self, size: int) -> int:
        """Bytes that the budget would have to have more."""
        return max(self.taken, resident()) + size - self.limit


_books: _Books | None = None
_opening = threading.Lock()
_givers: list[Callable[[], None]] = []


def _opened(most: int) -> _Books:
    books = _Books()
    books.limits.append(most)
    if books.taken > books.limit:
        wanted = enough(books.missing(0), most)
        raise Exceeded(
            f"--max-memory {told(most)} is less than streamloss takes before the first row: at least {wanted} is needed"
        )
    books.limits.clear()
    _tame()
    return books


@contextmanager
def limited(most: int | None) -> Iterator[None]:
    """While the block runs, this process is to hold `most` bytes at most; None: it may have what it wants."""
    global _books
    if most is None:
        yield
        return
    with _opening:
        if _books is None:
            _books = _opened(most)
        books = _books
        books.limits.append(most)
    try:
        yield
    finally:
        with _opening:
            books.limits.remove(most)
            if not books.limits:
                _books = None


def budgeted(function: F) -> F:
    """Has a function's `max_memory`, a size or None, hold while it runs."""

    @functools.wraps(function)
    def within(*args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("max_memory")
        if given is not None:
            kwargs["max_memory"] = given = parse(given)
        with limited(given):
            return function(*args, **kwargs)

    return cast(F, within)


def limit() -> int | None:
    """The budget that holds now, in bytes; None without one."""
    books = _books
    return None if books is None or not books.limits else min(books.limits)


def left() -> int | None:
    """Bytes of the budget that nobody has claimed; None without a budget."""
    books = _books
    if books is None:
        return None
    with books.lock:
        return max(0, books.limit - books.taken)


def enough(missing: int, most: int | None = None) -> str:
    """The budget that would have so many bytes more than it has, rounded up."""
    wanted = (most or limit() or 0) + missing
    unit = 10 ** max(0, len(str(wanted)) - 3)
    return told(-(-wanted // unit) * unit)


class Claim:
    """Memory that somebody holds, until it is let go or nobody knows of it any more."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.size = 0
        self._books: _Books | None = None

    def to(self, size: int, what: Callable[[], str], advice: Callable[[int], str] | None = None) -> None:
        """Has it hold so many bytes, all in all. Raises `Exceeded` where there is no room for so many more.

        what: says that what takes them does not fit. advice: what else to do, told how many bytes are missing.
        """
        books = _books
        if books is not self._books:  # the budget that it stood in is over
            self.size, self._books = 0, books
        if books is None:
            return
        with books.lock:
            more = size - self.size
            if more > 0 and not books.fits(more):
                missing = books.missing(more)
                hint = "" if advice is None else f"; {advice(missing)}"
                raise Exceeded(
                    f"{what()} in --max-memory {told(min(books.limits))}: at least {enough(missing)} is needed{hint}"
                )
            self._set(size)

    def tried(self, size: int) -> bool:
        """The same, but False where there is no room."""
        try:
            self.to(size, str)
        except Exceeded:
            return False
        return True

    def _set(self, size: int) -> None:
        assert self._books is not None
        self._books.claims[self.kind] = self._books.claims.get(self.kind, 0) + size - self.size
        self.size = size

    def let_go(self) -> None:
        """Has it hold nothing."""
        books = self._books
        if books is not None:
            with books.lock:
                self._set(0)

    def __del__(self) -> None:
        with suppress(Exception):  # at the end of the interpreter
            self.let_go()

    def __getstate__(self) -> dict[str, Any]:
        return {"kind": self.kind, "size": 0, "_books": None}  # another process has other books


def expect(key: object, size: int) -> None:
    """Sets so many bytes aside, under a key, for what will be made later, instead of those before."""
    books = _books
    if books is not None:
        with books.lock:
            books.expected[key] = size


def allot(allotment: Allotment) -> None:
    """Sets aside what a run will take."""
    if _books is not None:
        _books.allotment = allotment
        expect(_BATCHES, allotment.batches)


@contextmanager
def holding(allotment: Allotment | None) -> Iterator[None]:
    """What a run has made of its budget, in a process of its workers."""
    with limited(None if allotment is None else allotment.most):
        if allotment is not None:
            allot(allotment)
        yield


def allotted() -> Allotment | None:
    """What the run makes of its budget; None without one."""
    return None if _books is None else _books.allotment


def before_compiling() -> None:
    """Claims what it takes to compile kernels. Raises `Exceeded`."""
    books = _books
    if books is not None and _COMPILING not in books.expected:
        Claim(_COMPILING).to(COMPILING, lambda: "compiling the kernels for this machine, once, does not fit")
        expect(_COMPILING, COMPILING)


def held(kind: str) -> int:
    """Bytes that claims of a kind hold."""
    return 0 if _books is None else _books.claims.get(kind, 0)


def on_need(giver: Callable[[], None]) -> None:
    """Calls `giver` when memory is short: it gives back what it keeps for later use."""
    _givers.append(giver)


def give_back() -> None:
    """Gives what is free back to the system."""
    for giver in _givers:
        giver()
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(0)


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None)


def _tame() -> None:
    """Has glibc give large arrays back as soon as they are freed: by itself it begins to keep them."""
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 20)
        mallopt(_TRIM_THRESHOLD, 1 << 20)
