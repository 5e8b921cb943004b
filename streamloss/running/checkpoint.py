"""A checkpoint: the state of a run and which rows are in it, written while it runs; the same command goes on from there.

It is a state file in which an input that is not done yet says which of its rows are in it ("done", see `extents`), so
`streamloss report` reads it too. It is replaced as a whole: after a power cut, or whatever ends a process at once, there is
either the old one or the new one, and rows that are in neither are read again. Nothing is counted twice for that rows and
sums stand in one file.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamloss import __version__, jit
from streamloss.errors import DataError, UsageError
from streamloss.extents import Extents
from streamloss.files import Lock, replacing, unwritable
from streamloss.options import Options
from streamloss.reading.source import Input
from streamloss.state import State, merge, rows_done


class NotKept(UserWarning):
    """A checkpoint, or the state of a part, could not be written."""


EVERY = 5.0  # seconds from one to the next
_SHARE = 20  # times as long as it took to write one, at least, until the next


def maker() -> str:
    """Whose row values a state has: other kernels may round otherwise, and their rows do not add up to ours."""
    return f"{__version__} {jit.sources()[:16]}"


class Checkpoint:
    """The file of one run, its own until `release`. `resumed` is what it had when the run began, `done` the rows in that."""

    def __init__(self, path: str | Path, source: Input, options: Options, every: float = EVERY) -> None:
        """Raises `UsageError` for an input that cannot be read again, `DataError` for a file that is no checkpoint of this
        run, `StreamlossError` when another run has it.
        """
        if source.is_stream:
            raise UsageError("--checkpoint needs files: standard input and data from memory cannot be read again")
        self.path = Path(path)
        self.resumed: State | None = None
        self.done = [Extents() for _ in source.files]
        self._source, self._options, self._every = source, options, every
        self._asked = time.monotonic()
        self._next = self._asked + every
        self._lock = Lock(path)
        try:
            if self.path.exists():
                self._load()
        except BaseException:
            self.release()
            raise

    @property
    def rows(self) -> int:
        """How many rows were done when the run began."""
        return sum(done.rows for done in self.done)

    def release(self) -> None:
        """Lets other runs have the file."""
        self._lock.release()

    def due(self) -> bool:
        """Whether it is time to write it."""
        self._asked = time.monotonic()
        return self._asked >= self._next

    def together(self, state: State) -> State:
        """A state of rows that were read in this run, with those that were done when it began."""
        return state if self.resumed is None else merge([state, self.resumed])

    def conclude(self, state: State) -> State:
        """The state of all rows, from the one of those that were read in this run."""
        whole = self.together(state)
        self.write(whole, [Extents([(0, entry["rows"])] if entry["rows"] else []) for entry in self._source.files])
        return whole

    def write(self, state: State, done: list[Extents]) -> None:
        """Replaces the file by one of this state, in which the rows `done` are. `NotKept` warns where it cannot be."""
        state.made = maker()
        state.inputs = [
            entry if done_of.rows == entry["rows"] else entry | {"done": [list(run) for run in done_of]}
            for entry, done_of in zip(self._source.files, done, strict=True)
        ]
        try:
            with replacing(self.path, alone=True) as file:
                file.write(state.to_bytes())
        except OSError as error:
            warnings.warn(f"{unwritable(self.path, error)}; the run goes on", NotKept, stacklevel=2)
        now = time.monotonic()
        self._next = now + max(self._every, _SHARE * (now - self._asked))  # it took as long since it was due

    def _load(self) -> None:
        state = State.read(self.path)
        asked = State.empty(self._source.task, self._options)
        asked.columns = dict(self._source.roles)
        for name, then, now in state.differences(asked):
            was, is_now = ("its default" if value is None else repr(value) for value in (then, now))
            raise self._refused(f"{name} was {was} and is {is_now}")
        if state.made != maker():
            raise self._refused("it was written by another version of streamloss, whose last bits may differ")
        self._compare(state)
        state.columns = asked.columns
        self.resumed = state

    def _compare(self, state: State) -> None:
        """Raises `DataError` for the first input that is not what it was; takes over which of its rows are done."""
        then = {entry["path"]: entry for entry in state.inputs}
        now = {entry["path"]: entry for entry in self._source.files}
        if len(then) != len(state.inputs) or None in then:
            raise DataError(f"{self.path}: the checkpoint names an input twice, or one without a path")
        for path in sorted({*then, *now}):
            if path not in now:
                raise self._refused(f"{path} was an input and is none now")
            if path not in then:
                raise self._refused(f"{path} is an input and was none")
            for name in ("identity", "footer", "rows"):
                if then[path].get(name) != now[path].get(name):
                    raise self._refused(f"{path} has changed: it was {then[path].get(name)} and is {now[path].get(name)}")
        self.done = [rows_done(then[path]) for path in now]
        if state.rows_read != self.rows:
            raise DataError(f"{self.path}: the checkpoint has {state.rows_read} rows and says that it has {self.rows}")

    def _refused(self, why: str) -> DataError:
        why = " ".join(why.splitlines())  # names and identities are what the file says
        return DataError(f"{self.path} is of another run: {why}; give another file to begin anew, or remove this one")


@contextmanager
def opened(path: str | Path | None, source: Input, options: Options, every: float = EVERY) -> Iterator[Checkpoint | None]:
    """The checkpoint of a run, if it is to have one."""
    if path is None:
        yield None
        return
    checkpoint = Checkpoint(path, source, options, every)
    try:
        yield checkpoint
    finally:
        checkpoint.release()
