"""What a Parquet file's footer says of the few columns that are needed, read from its bytes.

pyarrow's metadata would do for whole files, but it ends the process over some damaged column chunks as soon as they are
looked at, and it builds an object for each. Here a footer is scanned once (parquet.thrift: FileMetaData, SchemaElement,
RowGroup, ColumnChunk, ColumnMetaData), so thousands of columns cost their bytes and no more. `Declined` is raised for
whatever is damaged, encrypted or elsewhere: the file is then pyarrow's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from streamloss.jit import decoder
from streamloss.reading.paths import Stamp
from streamloss.reading.thrift import MISSING, ROOM, fields, items, skip, varint, workspace

BOOLEAN, INT32, INT64, INT96, FLOAT, DOUBLE, BYTE_ARRAY, FIXED = range(8)  # Type
NO_LOGICAL, INTEGER, FLOAT16 = -1, 10, 15  # LogicalType, as the field of its union
# ConvertedType of plain integers: bits and whether signed.
INTEGERS = {11: (8, False), 12: (16, False), 13: (32, False), 14: (64, False)} | {
    15: (8, True), 16: (16, True), 17: (32, True), 18: (64, True),
}  # fmt: skip
_REPEATED = 2

# What `_scan_groups` gives of a column chunk, by position.
TYPE, CODEC, VALUES, UNCOMPRESSED, COMPRESSED, DATA, DICTIONARY, ENCODINGS, NULLS, ELSEWHERE, ENCRYPTED = range(11)
_CHUNK_FIELDS = 11
# What `_scan_schema` gives of an element: the fields up to `converted_type` by their ids, the position and kind of the rest.
_LOGICAL, _NAME, _ELEMENT_FIELDS = 10, 4, 12
MOST_GROUPS = 1 << 20


class Declined(Exception):
    """The page reader leaves something to pyarrow; the text says why, `row_group` where it noticed."""

    def __init__(self, reason: str, row_group: int | None = None) -> None:
        super().__init__(reason)
        self.row_group = row_group


class Piece(NamedTuple):
    """A range of a file that will be needed, and the row group that it is of."""

    group: int
    start: int
    stop: int


class File(Protocol):
    """A file's bytes, wherever it is."""

    stamp: Stamp  # what it was when it was opened
    size: int
    reach: int  # bytes beyond the first ones of a column that are worth looking at only to know more of it

    def __enter__(self) -> File:
        """Itself, open."""

    def __exit__(self, *_: object) -> None:
        """Closes it."""

    def check(self) -> None:
        """Raises `DataError` when it is no more what it was expected to be."""

    def expect(self, pieces: Callable[[], Sequence[Piece]]) -> None:
        """Says what will be needed from now on."""

    def fill(self, out: Any, at: int) -> None:
        """Fills `out`, an array of bytes. Raises `Declined` when the file ends before."""

    def tail(self) -> NDArray[np.uint8]:
        """The end of the file with its whole footer, as far as there is one."""

    def native(self) -> Any:
        """What pyarrow reads through; a handle of its own, to be closed before the file."""


def tail_length(tail: NDArray[np.uint8]) -> int:
    """The bytes of the footer with what stands behind it, as the last eight bytes of a file have it."""
    return int.from_bytes(tail[-8:-4].tobytes(), "little") + 8


@dataclass(frozen=True)
class Leaf:
    """The one Parquet column that a column of the file is stored in."""

    index: int
    physical: int
    width: int  # bytes of a FIXED value
    integer: tuple[int, bool] | None  # bits and signedness where it holds plain integers
    logical: int  # field of LogicalType; NO_LOGICAL without one
    converted: int  # ConvertedType, -1 without one
    definition: int  # level of a value that is there
    repetition: int


@dataclass(frozen=True)
class Chunk:
    """One column chunk: where its pages lie and what they claim."""

    row_group: int
    rows: int
    type: int
    codec: int
    values: int
    uncompressed: int
    encodings: int  # a bit for each
    nulls: int  # -1 when it does not say
    start: int
    end: int


@decoder
def _scan_schema(data: Any, at: Any, end: Any, count: Any, elements: Any, found: Any, stack: Any) -> Any:
    for i in range(count):
        start = at
        at = fields(data, start, end, found, stack)
        if at < 0:
            return -1
        for j in range(_ELEMENT_FIELDS):
            elements[i, j] = found[j]
        # Of the logical type: which it is, and for integers where their bits stand.
        if found[_LOGICAL] != MISSING:
            elements[i, _LOGICAL] = NO_LOGICAL
            elements[i, 11] = MISSING
            if fields(data, found[_LOGICAL], end, found, stack) < 0:
                return -1
            for kind in range(1, ROOM):
                if found[kind] != MISSING:
                    elements[i, _LOGICAL] = kind
                    elements[i, 11] = found[kind]
    return at


@decoder
def _scan_groups(data: Any, at: Any, end: Any, first: Any, leaves: Any, rows: Any, chunks: Any, found: Any, stack: Any) -> Any:
    """The rows of every row group, and of len(chunks) of them from `first` on the chunks of `leaves`, ascending."""
    count, _, at = items(data, at, end)
    if at < 0 or count != len(rows):
        return False
    chunks[:] = MISSING
    for group in range(count):
        at = fields(data, at, end, found, stack)
        if at < 0:
            return False
        rows[group] = found[3]
        if group < first or group >= first + len(chunks):
            continue
        of = chunks[group - first]
        total, _, column = items(data, found[1], end)
        if column < 0 or (len(leaves) and leaves[-1] >= total):
            return False
        j = 0
        for i in range(total):
            if j == len(leaves):
                break
            if leaves[j] != i:
                column = skip(data, column, end, 12, stack)
                if column < 0:
                    return False
                continue
            column = fields(data, column, end, found, stack)
            if column < 0:
                return False
            of[j, ELSEWHERE] = found[1]
            of[j, ENCRYPTED] = found[8]
            if fields(data, found[3], end, found, stack) < 0:
                return False
            of[j, TYPE], of[j, CODEC], of[j, VALUES] = found[1], found[4], found[5]
            of[j, UNCOMPRESSED], of[j, COMPRESSED] = found[6], found[7]
            of[j, DATA], of[j, DICTIONARY] = found[9], found[11]
            size, _, place = items(data, found[2], end)
            used = np.int64(0)
            for _ in range(size):
                number, place = varint(data, place, end)
                if place < 0:
                    return False
                used |= np.int64(1) << min(number >> 1, 62)
            of[j, ENCODINGS] = used
            if found[12] != MISSING and fields(data, found[12], end, found, stack) >= 0:
                of[j, NULLS] = found[3]
            j += 1
    return True


class Footer:
    """A file's footer; `leaf` and `chunks` look up what is needed."""

    def __init__(self, file: File) -> None:
        """Reads the footer. Raises `Declined` for anything but a plain Parquet file, and OSError."""
        tail = file.tail()
        length = tail_length(tail)
        if tail[-4:].tobytes() != b"PAR1" or length > file.size - 4:
            raise Declined("the footer is damaged or encrypted")
        self.end_of_data = file.size - length
        self._data = tail[-length:-8]
        self._data.flags.writeable = False
        self._stack, self._found = workspace()
        end = self._fields(0)
        found = self._found.tolist()
        if end < 0 or found[8] != MISSING:
            raise Declined("the footer is damaged or encrypted")
        self._groups_at = found[4]
        self.row_groups = self._items(found[4])[0]
        if self.row_groups > MOST_GROUPS:
            raise Declined(f"{self.row_groups} row groups")
        self._schema(found[2])

    def _fields(self, at: int) -> int:
        return int(fields(self._data, at, len(self._data), self._found, self._stack))

    def _items(self, at: int) -> tuple[int, int]:
        count, kind, first = items(self._data, at, len(self._data))
        if first < 0 or (count and kind != 12):
            raise Declined("the footer is damaged")
        return int(count), int(first)

    def _schema(self, at: int) -> None:
        """Where the elements of every top-level column stand, by name, and the index of its first leaf."""
        count, at = self._items(at)
        self._elements = np.full((count, _ELEMENT_FIELDS), MISSING, dtype=np.int64)
        data = self._data
        if not count or _scan_schema(data, at, len(data), count, self._elements, self._found, self._stack) < 0:
            raise Declined("the footer's schema is damaged")
        children = np.maximum(self._elements[:, 5], 0).tolist()
        names = self._elements[:, _NAME].tolist()
        self._columns: dict[str, tuple[int, int, int]] = {}  # name -> first element, one past its last, first leaf
        element, leaf = 1, 0
        for _ in range(children[0]):
            start, first, open_ = element, leaf, 1
            while open_ and element < count:
                open_ += children[element] - 1
                leaf += children[element] == 0
                element += 1
            if open_:
                raise Declined("the footer's schema is damaged")
            self._columns[self._text(names[start])] = (start, element, first)

    def _text(self, at: int) -> str:
        size, at = varint(self._data, at, len(self._data)) if at >= 0 else (0, -1)
        if at < 0:
            raise Declined("the footer's schema is damaged")
        return self._data[at : at + size].tobytes().decode("utf-8", "surrogateescape")

    def leaf(self, name: str) -> Leaf:
        """The leaf of a top-level column. Raises `Declined` when there is not exactly one."""
        if name not in self._columns:
            raise Declined("it is not in the footer")
        start, stop, index = self._columns[name]
        path = self._elements[start:stop].tolist()
        if any(element[5] > 1 for element in path):
            raise Declined("it is stored in several columns")
        last = path[-1]
        logical = last[_LOGICAL] if last[_LOGICAL] != MISSING else NO_LOGICAL
        converted = last[6] if last[6] != MISSING else -1
        integer = INTEGERS.get(converted) if logical == NO_LOGICAL else None
        if logical == INTEGER:
            if self._fields(last[11]) < 0 or self._found[1] not in (8, 16, 32, 64):
                raise Declined("the footer's schema is damaged")
            integer = (int(self._found[1]), bool(self._found[2] == 1))
        elif logical == NO_LOGICAL and converted == -1:
            integer = {INT32: (32, True), INT64: (64, True)}.get(last[1])
        return Leaf(
            index,
            physical=last[1],
            width=last[2] if last[2] != MISSING else 0,
            integer=integer,
            logical=logical,
            converted=converted,
            definition=sum(element[3] != 0 for element in path),
            repetition=sum(element[3] == _REPEATED for element in path),
        )

    def pieces(self, names: Iterable[str], first: int, count: int) -> list[Piece]:
        """Where some columns lie in `count` row groups from `first` on, as far as that can be told."""
        leaves: list[int] = []
        for name in names:
            start, stop, leaf = self._columns.get(name, (0, 0, 0))
            leaves += range(leaf, leaf + int((self._elements[start:stop, 5] <= 0).sum()))
        _, chunks = self.chunks(leaves, first, count)
        found = [chunk for of in chunks.values() for chunk in of if not isinstance(chunk, str)]
        return [Piece(chunk.row_group, chunk.start, chunk.end) for chunk in found]

    def chunks(self, leaves: Sequence[int], first: int, count: int) -> tuple[NDArray[np.int64], dict[int, list[Chunk | str]]]:
        """The rows of every row group, and of `count` groups from `first` on the chunks of the leaves.

        A chunk that cannot be read is a text that says why. Raises `Declined` when the row groups cannot be scanned.
        """
        order = sorted(set(leaves))
        rows = np.zeros(self.row_groups, dtype=np.int64)
        found = np.zeros((count, len(order), _CHUNK_FIELDS), dtype=np.int64)
        data, wanted = self._data, np.array(order, dtype=np.int64)
        if not _scan_groups(data, self._groups_at, len(data), first, wanted, rows, found, self._found, self._stack):
            raise Declined("the footer's row groups are damaged")
        if len(rows) and (rows.min() < 0 or float(rows.sum(dtype=np.float64)) > 2.0**62):
            raise Declined("the footer's row groups are damaged")
        chunks: dict[int, list[Chunk | str]] = {leaf: [] for leaf in order}
        for i, group in enumerate(found.tolist()):
            for leaf, chunk in zip(order, group, strict=True):
                chunks[leaf].append(self._chunk(first + i, int(rows[first + i]), chunk))
        return rows, chunks

    def _chunk(self, group: int, rows: int, of: list[int]) -> Chunk | str:
        if of[ENCRYPTED] != MISSING:
            return "it is encrypted"
        if of[ELSEWHERE] != MISSING:
            return "its pages are in another file"
        start = of[DATA]
        if 0 < of[DICTIONARY] < start:
            start = of[DICTIONARY]
        end = start + of[COMPRESSED]
        if min(of[CODEC], of[VALUES], of[UNCOMPRESSED], of[COMPRESSED]) < 0 or not 4 <= start <= end <= self.end_of_data:
            return "what the footer says of its pages is damaged"
        nulls = -1 if of[NULLS] == MISSING else of[NULLS]
        return Chunk(
            group, rows, of[TYPE], of[CODEC], of[VALUES], of[UNCOMPRESSED], of[ENCODINGS], nulls, start, end
        )  # fmt: skip
