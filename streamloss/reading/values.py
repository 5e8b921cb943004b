"""The values of a page, decoded a piece at a time into memory that the caller owns.

Encodings: PLAIN, the dictionary, RLE booleans, DELTA_BINARY_PACKED, BYTE_STREAM_SPLIT (`encodings`); what cannot be decoded
is `Declined`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.reading import encodings, runs
from streamloss.reading.footer import BOOLEAN, Declined, File
from streamloss.reading.pool import empty
from streamloss.reading.specs import (
    DELTA,
    ENCODING_NAMES,
    PLAIN,
    PLAIN_DICTIONARY,
    RLE,
    RLE_DICTIONARY,
    SPLIT,
    Spec,
)
from streamloss.reading.window import Bytes

BLOCK = 1 << 15  # indices that are unpacked before they are looked up
_SHORT = "a page has fewer values than it says"


class Room:
    """What pages are decoded in: one for all columns of a part, since they are filled one after the other."""

    @cached_property
    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.uint32], Bytes]:
        """The state of a decoder, indices, and the bytes that a small page becomes."""
        return np.zeros(4, dtype=np.int64), np.empty(BLOCK, dtype=np.uint32), np.empty(runs.LARGEST, dtype=np.uint8)


class Values:
    """The values of the page in hand: `take(out)` writes the next len(out) of them."""

    def __init__(self, file: File, spec: Spec, room: Room) -> None:
        self._file, self._spec, self._room = file, spec, room
        self.take: Callable[[NDArray[Any]], None] = self._plain
        self._body: Any = None
        self._place = 0
        self._state: NDArray[Any] = np.zeros(0)
        self._width = 0
        unsigned = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
        self._bits = unsigned.get(spec.wanted.itemsize) if spec.wanted.kind != "V" else None
        self._booleans: NDArray[Any] | None = None
        if spec.physical == BOOLEAN:
            self._booleans = np.array([0, 1], dtype=spec.wanted)
            self._booleans.flags.writeable = False
        self.dictionary: NDArray[Any] | None = None
        self._top: int | None = None

    # ---- the chunk

    def open_chunk(self) -> None:
        """Forgets the dictionary of the chunk before."""
        self.dictionary, self._top = self._booleans, None

    def set_dictionary(self, stored: NDArray[Any], keep: bool) -> None:
        """Takes a dictionary's plain values; `keep`: their memory stays as it is."""
        if self._spec.as_stored and keep and stored.flags.aligned:
            self.dictionary = stored
        else:  # decoders want aligned values
            self.dictionary = empty((len(stored),), self._spec.wanted)
            self.dictionary[:] = self._spec.convert(stored)
        self.dictionary.flags.writeable = False
        self._top = None

    @property
    def looked_up(self) -> bool:
        """Whether the page goes by the dictionary."""
        return self.take == self._looked_up

    def top(self) -> int | None:
        """The largest number in the dictionary (negative ones count as huge); None where there is none."""
        if self._top is None and self.dictionary is not None and len(self.dictionary):
            self._top = int(self.dictionary.view(np.uint64).max())
        return self._top

    # ---- the page

    def release(self) -> None:
        """Lets go of the page's memory."""
        self._body = None

    def open_plain_in_file(self, place: int) -> None:
        """The values stand in the file from there on, as they are wanted."""
        self._place, self.take = place, self._from_file

    def open(self, body: Bytes, at: int, encoding: int, n: int) -> None:
        """The n values of the page begin at body[at]."""
        spec = self._spec
        self._body, self._place = body, at
        if encoding in (RLE_DICTIONARY, PLAIN_DICTIONARY):
            if self.dictionary is None or spec.physical == BOOLEAN:
                raise Declined("a page wants a dictionary that is not there")
            self._width = int(body[at]) if at < len(body) else 33
            if self._width > 32:
                raise Declined("the indices of a page are damaged")
            self._state, self.take = encodings.hybrid(at + 1), self._looked_up
        elif spec.physical == BOOLEAN and encoding == RLE:
            self._width, self._state, self.take = 1, encodings.hybrid(at + 4), self._looked_up
        elif spec.physical == BOOLEAN and encoding == PLAIN:
            self._width, self._state, self.take = 1, encodings.packed(at, n), self._looked_up
        elif encoding == PLAIN:
            self.take = self._plain
        elif encoding == DELTA and spec.stored.kind in "iu" and spec.stored.itemsize >= 4:
            self._state = np.zeros(encodings.DELTA_STATE, dtype=np.uint64)
            if encodings.open_delta(body, at, self._state) < n:
                raise Declined(_SHORT)
            self.take = self._delta
        elif encoding == SPLIT and spec.stored.itemsize in (2, 4, 8):
            if n * spec.stored.itemsize > len(body) - at:
                raise Declined(_SHORT)
            self._state, self.take = np.array([n, 0]), self._joined
        else:
            raise Declined(f"its encoding {ENCODING_NAMES.get(encoding, encoding)} is not read here")

    # ---- pages of a run

    @property
    def in_runs(self) -> bool:
        """Whether `runs` can fill in such values."""
        return not self._spec.k and self._spec.as_stored and self._bits is not None

    def run(
        self, data: Bytes, snappy: bool, largest: int, unread: int, out: NDArray[Any], levels: tuple[NDArray[np.int64], ...]
    ) -> tuple[int, int]:
        """Has `runs.fill_pages` fill in pages from data; how many bytes they had, and how many values."""
        assert self._bits is not None
        if self.dictionary is None or self._spec.physical == BOOLEAN:
            dictionary = np.zeros(0, dtype=self._bits)
            dictionary.flags.writeable = False
        else:
            dictionary = self.dictionary.view(self._bits)
        state, limits = np.array([0, unread, 0, 0]), (largest, self._spec.definition)
        runs.fill_pages(data, snappy, dictionary, out.view(self._bits), state, limits, levels, self._room.arrays)
        place, _, done, seen = state.tolist()
        if done:
            self._body = None
            self.take = self._looked_up if seen == runs.LOOKED_UP else self._plain
        return int(place), int(done)

    # ---- a piece

    def _from_file(self, out: NDArray[Any]) -> None:
        data = out.view(np.uint8)
        self._file.fill(data, self._place)
        self._place += len(data)

    def _plain(self, out: NDArray[Any]) -> None:
        spec = self._spec
        size = len(out) * spec.stored.itemsize
        if size > len(self._body) - self._place:
            raise Declined(_SHORT)
        raw = self._body[self._place : self._place + size]
        self._place += size
        if spec.as_stored:
            out.view(np.uint8)[:] = raw
        elif spec.narrow is None:
            out[:] = raw.view(spec.stored)
        else:
            out[:] = spec.convert(raw.view(spec.stored))

    def _looked_up(self, out: NDArray[Any]) -> None:
        dictionary = self.dictionary
        assert dictionary is not None
        if self._width == 1 and self._bits is not None and len(dictionary) > 1:
            if encodings.choose(self._body, self._state, dictionary.view(self._bits), out.view(self._bits)) != len(out):
                raise Declined(_SHORT)
            return
        for start in range(0, len(out), BLOCK):
            piece = out[start : start + BLOCK]
            indices = self._room.arrays[1][: len(piece)]
            if encodings.unpack(self._body, self._width, self._state, indices) != len(piece):
                raise Declined(_SHORT)
            if self._bits is not None:
                inside = encodings.gather(indices, dictionary.view(self._bits), piece.view(self._bits))
            else:
                inside = bool(indices.max() < len(dictionary))
                if inside:
                    piece[:] = dictionary[indices]
            if not inside:
                raise Declined("an index is beyond its dictionary")

    def _delta(self, out: NDArray[Any]) -> None:
        spec = self._spec
        straight = spec.as_stored and spec.wanted.itemsize == 8
        values = out.view(np.uint64) if straight else np.empty(len(out), dtype=np.uint64)
        if encodings.delta(self._body, self._state, values) != len(out):
            raise Declined(_SHORT)
        if not straight:
            out[:] = spec.convert(values.view(np.int64).astype(spec.stored))

    def _joined(self, out: NDArray[Any]) -> None:
        spec = self._spec
        total, first = self._state.tolist()
        self._state[1] += len(out)
        values = out if spec.as_stored else np.empty(len(out), dtype=spec.stored)
        bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[spec.stored.itemsize]
        encodings.join(self._body, self._place, total, first, values.view(bits))
        if not spec.as_stored:
            out[:] = spec.convert(values)
