"""A file in an object store: what will be needed of it is fetched ahead by many requests at once, in bounded memory.

A request takes as long as its answer's first byte, 10 to 100 ms, and then its bytes at the speed of one connection. So a reader
says beforehand what it is going to need (`expect`); neighbouring ranges become one, long ones are cut into blocks, and the
blocks are fetched in the order of need, at most `BUDGET` bytes of them asked for or held at a time. A block that fails for a
moment is tried again on its own. Whatever nobody expected is asked for as it comes.

The content must stay the same: a file that is opened with a stamp has to have it then, and again after the last request.
"""

from __future__ import annotations

import io
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np

from streamloss import memory
from streamloss.errors import DataError, Place
from streamloss.reading.footer import Declined, Piece, tail_length
from streamloss.reading.paths import Stamp
from streamloss.reading.pool import empty
from streamloss.reading.storage import Found, find, tried
from streamloss.reading.window import Bytes

BUDGET = 64 << 20  # bytes of a part that are asked for or held
BLOCK = 4 << 20  # bytes of a request
LEAST_BLOCK = 16 << 10  # two of them of every column are held at least
GAP = 64 << 10  # bytes between two ranges that are fetched with them rather than left out
TAIL = 64 << 10  # of a file's end: most footers are in it
BEHIND = 4  # blocks that are kept though they have been read: readers go back a little
FETCHERS = 16  # requests at a time
REMEMBERED = 32 << 20  # bytes of footers


class _Memory:
    """The handles and footers of files that were looked at, so that their parts need not ask for them again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, tuple[Found, Bytes]] = {}
        self._bytes = 0

    def get(self, path: str) -> tuple[Found, Bytes] | None:
        return self._files.get(path)

    def put(self, path: str, found: Found, tail: Bytes) -> None:
        """Remembers a file; where there is too much, those that were looked at first are forgotten."""
        with self._lock:
            old = self._files.pop(path, None)
            self._bytes -= 0 if old is None else _KEPT + len(old[1])
            self._files[path] = found, tail
            self._bytes += _KEPT + len(tail)
            while self._bytes > REMEMBERED:
                _, forgotten = self._files.pop(next(iter(self._files)))
                self._bytes -= _KEPT + len(forgotten)


_MARK = 0xA5
_KEPT = 1 << 10  # bytes that a handle takes, about
_NONE: Bytes = np.zeros(0, dtype=np.uint8)
_memory = _Memory()


@cache
def fetchers() -> ThreadPoolExecutor:
    """The threads that requests are made by, whoever wants them."""
    return ThreadPoolExecutor(FETCHERS, thread_name_prefix="streamloss-fetch")


def _look(path: str) -> tuple[Found, Bytes]:
    found, known = find(path), _memory.get(path)
    tail = known[1] if known is not None and known[0].stamp == found.stamp else _NONE
    _memory.put(path, found, tail)
    return found, tail


class _Block:
    """Bytes of a file that are fetched together; `pieces` are the ranges of it that have not been read to their end."""

    def __init__(self, pieces: list[Piece]) -> None:
        self.start, self.stop = pieces[0].start, max(piece.stop for piece in pieces)
        self.pieces = pieces
        self.work: Future[Bytes] | None = None  # None before it is asked for, and when it was let go of
        self.asked = False


class RemoteFile:
    """A file's bytes, as readers take them (see `footer.File`)."""

    reach = 4 << 20

    def __init__(self, path: str, expected: Stamp | None = None, anew: bool = False) -> None:
        """Opens it; when a stamp is expected, and the file has it no more, that is a `DataError`.

        anew: it is looked at again even where it is remembered as it is expected to be.
        """
        known = _memory.get(path)
        if known is None or anew or expected not in (None, known[0].stamp):
            known = _look(path)
        self._found, self._tail = known
        self._path, self._expected = path, expected
        self.stamp = self._found.stamp
        self.size = self.stamp.size
        self._lock = threading.Lock()
        self._last: Future[Found] | None = None  # what it is after the last request
        self._blocks: list[_Block] = []  # in the order of need
        self._places: list[tuple[int, _Block]] = []  # in the order of the file
        self._next = self._held = self._flying = 0
        self._room = BUDGET
        self._passed: deque[_Block] = deque()  # what has been read to its end
        self._touched: dict[_Block, None] = {}  # what has been read in, the longest ago first
        self._closed = False
        if expected not in (None, self._found.stamp):
            raise _changed(path)

    def __enter__(self) -> RemoteFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Fetches no more, and lets go of everything."""
        with self._lock:
            self._closed = True
            self._forget()

    def check(self) -> None:
        """Raises `DataError` unless the content is still what was expected, now that the last request has been answered."""
        if self._expected is None:
            return
        with self._lock:
            if self._last is None:
                self._last = fetchers().submit(find, self._path)
            last = self._last
        if last.result().stamp != self._expected:
            raise _changed(self._path)

    def native(self) -> io.RawIOBase:
        """A file object that pyarrow reads through; closing it does not close this."""
        return _Reader(self)

    def tail(self) -> Bytes:
        """The end of the file with its whole footer, as far as there is one; one request mostly, none when it is remembered."""
        if not len(self._tail):
            tail = self._fetched(max(0, self.size - TAIL), self.size)
            wanted = tail_length(tail)
            if len(tail) < wanted <= self.size:
                tail = self._fetched(self.size - wanted, self.size)
            self._tail = tail[max(0, len(tail) - wanted) :].copy()
            self._tail.flags.writeable = False
            _memory.put(self._path, self._found, self._tail)
        return self._tail

    def fill(self, out: Any, at: int) -> None:
        """Fills `out`, an array of bytes. Raises `Declined` when the file ends before, and `DataError` when a request fails."""
        if at + len(out) > self.size:
            raise Declined("the file ends before its pages do")
        done = 0
        while done < len(out):
            done += self._fill(out[done:], at + done)

    # ---- what is fetched ahead

    def expect(self, pieces: Callable[[], Sequence[Piece]]) -> None:
        """From now on these ranges will be needed, group by group, those of a group side by side."""
        blocks: list[_Block] = []
        room = budget = BUDGET if (allotted := memory.allotted()) is None else min(BUDGET, allotted.remote)
        wanted = sorted((piece for piece in pieces() if piece.start < piece.stop <= self.size), key=lambda piece: piece.group)
        for _, group in groupby(wanted, key=lambda piece: piece.group):
            ranges = sorted(group, key=lambda piece: piece.start)
            if sum(piece.stop - piece.start for piece in ranges) <= budget:
                blocks += _one_after_another(ranges)
            else:
                blocks += _side_by_side(ranges, budget)
                room = max(room, 2 * len(ranges) * LEAST_BLOCK)
        with self._lock:
            self._forget()
            self._blocks = blocks
            self._places = sorted(((block.start, block) for block in blocks), key=lambda place: place[0])
            self._room = room
            self._go_on()

    def _forget(self) -> None:
        for block in self._blocks:
            if block.work is not None:
                block.work.cancel()
                block.work = None
        self._blocks, self._places = [], []
        self._passed.clear()
        self._touched.clear()
        self._held = self._next = 0

    def _go_on(self) -> None:
        """Asks for the next blocks, as many as there is room for."""
        while self._next < len(self._blocks) and not self._closed:
            block = self._blocks[self._next]
            if not block.asked:
                if self._held and self._held + block.stop - block.start > self._room:
                    return
                self._ask(block)
            self._next += 1

    def _ask(self, block: _Block) -> None:
        block.asked = True
        self._held += block.stop - block.start
        block.work = fetchers().submit(self._fetched, block.start, block.stop)

    def _fill(self, out: Any, at: int) -> int:
        """Some bytes of `out`, from one block or from none; how many they were."""
        with self._lock:
            i = bisect_right(self._places, at, key=lambda place: place[0]) - 1
            block = self._places[i][1] if i >= 0 and at < self._places[i][1].stop else None
            limit = self._places[i + 1][0] if i + 1 < len(self._places) else self.size
            if block is not None and not block.asked:
                # Before its turn: what was read of others, and may never be to its end, gives way.
                while self._touched and self._held + block.stop - block.start > self._room:
                    self._drop(next(iter(self._touched)))
                self._ask(block)
            work = None if block is None else block.work
            if block is not None and work is not None:
                self._touched.pop(block, None)
                self._touched[block] = None  # the last one now
        if block is None or work is None:
            n = min(len(out), (limit if block is None else block.stop) - at)
            begin = self.size - len(self._tail)
            if at >= begin:
                out[:n] = self._tail[at - begin : at - begin + n]
            else:
                self._request(out[:n], at)
            return int(n)
        data = work.result()
        n = min(len(out), block.stop - at)
        out[:n] = data[at - block.start : at - block.start + n]
        self._pass(block, at, at + n)
        return int(n)

    def _pass(self, block: _Block, start: int, stop: int) -> None:
        """What has been read to its end makes room for what comes."""
        if not block.pieces:
            return
        block.pieces = [piece for piece in block.pieces if not start < piece.stop <= stop]
        if block.pieces:
            return
        with self._lock:
            self._passed.append(block)
            while len(self._passed) > BEHIND:
                self._drop(self._passed.popleft())
            self._go_on()

    def _drop(self, block: _Block) -> None:
        if block.work is not None:
            block.work = None
            self._touched.pop(block, None)
            self._held -= block.stop - block.start

    # ---- requests

    def _fetched(self, start: int, stop: int) -> Bytes:
        out: Bytes = empty((stop - start,), np.dtype(np.uint8))
        if stop > start:
            self._request(out, start)
        return out

    def _request(self, out: Any, at: int) -> None:
        """Fills `out` from the store, trying again from where it stopped."""
        view, done = memoryview(out).cast("B"), 0

        def ask() -> None:
            nonlocal done
            marks = [_MARK]
            while done < len(view) and not self._closed:
                # Arrow takes an answer that is too short for a whole one (S3, 26.0). So a byte is written where the last one
                # belongs, and another one where it is found there again: what was read cannot be both.
                view[-1] = marks[-1]
                with self._found.handle.get_stream(at + done, len(view) - done) as stream:
                    got = stream.readinto(view[done:])
                if not got or (done + got == len(view) and view[-1] == marks[-1] and len(marks) == 2):
                    raise OSError("an answer ends before all bytes have come")
                if done + got == len(view) and view[-1] == marks[-1]:
                    marks.append(marks[-1] ^ 0xFF)
                else:
                    done += got

        with self._lock:
            self._flying += 1
            self._last = None
        try:
            tried(self._path, ask, lambda: self._closed)
        finally:
            with self._lock:
                self._flying -= 1
                # The last of what was expected is here: it is asked now whether it is still the same, while others decode.
                over = not self._flying and self._next == len(self._blocks) > 0 and not self._closed
                if over and self._expected is not None:
                    self._last = fetchers().submit(find, self._path)


def _changed(path: str) -> DataError:
    return DataError("the file changed while it was read", place=Place(path))


def _one_after_another(pieces: list[Piece]) -> list[_Block]:
    """Blocks in the order of the file: what lies close together becomes one stretch, and that is cut evenly."""
    blocks: list[_Block] = []
    for stretch in _stretches(pieces):
        start, stop = stretch[0].start, max(piece.stop for piece in stretch)
        size = -(-(stop - start) // -(-(stop - start) // BLOCK))
        parts: dict[int, list[Piece]] = {}
        for piece in stretch:
            for i in range((piece.start - start) // size, (piece.stop - start - 1) // size + 1):
                at = start + i * size
                parts.setdefault(i, []).append(Piece(piece.group, max(piece.start, at), min(piece.stop, at + size)))
        blocks += [_Block(part) for part in parts.values()]
    return blocks


def _stretches(pieces: list[Piece]) -> list[list[Piece]]:
    found: list[list[Piece]] = []
    end = 0
    for piece in pieces:
        if found and piece.start - end <= GAP:
            found[-1].append(piece)
        else:
            found.append([piece])
        end = max(end, piece.stop)
    return found


def _side_by_side(pieces: list[Piece], budget: int) -> list[_Block]:
    """Blocks of ranges that are too long to be held together, in the order in which rows need them."""
    size = max(LEAST_BLOCK, min(BLOCK, budget // (2 * len(pieces))))
    placed: list[tuple[float, _Block]] = []
    for piece in pieces:
        for start in range(piece.start, piece.stop, size):
            part = Piece(piece.group, start, min(start + size, piece.stop))
            placed.append(((start - piece.start) / (piece.stop - piece.start), _Block([part])))
    return [block for _, block in sorted(placed, key=lambda place: place[0])]


class _Reader(io.RawIOBase):
    """A position in a file: what pyarrow reads through."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def read(self, size: int = -1) -> Any:  # any buffer will do for pyarrow, and is copied once less than bytes
        left = max(0, self._file.size - self._at)
        out = np.empty(left if size < 0 else min(size, left), dtype=np.uint8)
        self._file.fill(out, self._at)
        self._at += len(out)
        return out
