"""The pages of a column chunk, decoded straight into memory that the caller owns.

A `Column` follows one leaf over the row groups of a part, and `fill` writes its next values, however pages and rows lie:
so every column of a batch has the same rows, each value is written once, and what is held is one page a column.

Formats: parquet.thrift, Encodings.md, Compression.md. Data pages v1 and v2, dictionary pages; index pages are skipped; a
page's CRC, where there is one, is compared (`Corrupt`). Whatever cannot be read here is `Declined`. A page's own claims are
checked against the chunk's before memory is taken for it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamloss.memory import Claim, Exceeded, told
from streamloss.reading import runs
from streamloss.reading.ahead import LARGEST, PAGES, Ahead, Page
from streamloss.reading.codecs import AHEAD, Codec
from streamloss.reading.footer import BOOLEAN, Chunk, Declined, File, Piece
from streamloss.reading.levels import check_few, check_levels
from streamloss.reading.specs import (
    PLAIN,
    PLAIN_DICTIONARY,
    RLE,
    Spec,
)
from streamloss.reading.thrift import (
    COMPRESSED,
    CRC,
    DATA_PAGE,
    DATA_PAGE_V2,
    DEFINITION,
    DICTIONARY_PAGE,
    ENCODING,
    HEADER_FIELDS,
    INDEX_PAGE,
    IS_COMPRESSED,
    MISSING,
    NULLS,
    PAGE_TYPE,
    REPETITION,
    UNCOMPRESSED,
    VALUES,
    page_header,
    workspace,
)
from streamloss.reading.values import Room, Values
from streamloss.reading.window import Bytes, Window

DIRECT = 1 << 17  # plain uncompressed values of so many bytes in a page are read where they are to stand
STRETCH = 1 << 19  # bytes that are read at a time of many small pages
HEADER_BYTES = 64  # about
IN_VAIN = 3  # so many runs of pages that come to nothing, and no more are tried in the column chunk
LONGEST_HEADER = 1 << 24
MODEST = 1 << 26  # bytes of a page that are no cause for suspicion
_ERRORS = (pa.ArrowException, OSError, ValueError, MemoryError)


class Corrupt(Exception):
    """A page that nobody should read: its checksum does not match, or it claims what cannot be.

    pyarrow is not asked then: it takes the memory that such a page asks for, and compares no checksum unless told to.
    """

    def __init__(self, reason: str, row_group: int) -> None:
        super().__init__(f"the file is damaged: {reason}")
        self.row_group = row_group


class Column:
    """The values of one leaf over the row groups of a part."""

    def __init__(
        self,
        file: File,
        spec: Spec,
        chunks: Sequence[Chunk],
        end_of_data: int,
        window: int,
        helpers: Executor | None = None,
        room: Room | None = None,
    ) -> None:
        self._spec, self._chunks = spec, chunks
        self._window = Window(file, window)
        self._end_of_data = end_of_data
        self._ahead_pages = None if helpers is None else Ahead(helpers)
        self._page_ahead: Page | None = None  # where the page was looked at before its turn
        self._next = 0  # chunk
        self._chunk = chunks[0]
        self._behind: Bytes = np.empty(0, dtype=np.uint8)  # what is at hand behind the header of the page
        self._at = self._unread = 0  # where the next page begins, values of the chunk that no page was read for
        self._left = 0  # values of the page
        self._values = Values(file, spec, Room() if room is None else room)
        self._sizes, self._phase = np.zeros(2, dtype=np.int64), np.zeros(1, dtype=np.int64)
        self._header = np.zeros(HEADER_FIELDS, dtype=np.int64)
        self._stack, self._found = workspace()
        self._vain = IN_VAIN  # runs of pages that came to nothing, one after the other
        self._page_bytes = HEADER_BYTES  # of the last page
        self._claim, self._of_dictionary = Claim("pages"), Claim("pages")
        self._whole = False  # whether the values filled last came from one dictionary, or from none

    @property
    def row_group(self) -> int:
        """Where it is."""
        return self._chunk.row_group

    @property
    def rest(self) -> list[Piece]:
        """What it has not come to."""
        pieces = [Piece(chunk.row_group, chunk.start, chunk.end) for chunk in self._chunks[self._next :]]
        return [Piece(self._chunk.row_group, self._at, self._chunk.end), *pieces] if self._next else pieces

    def bound(self, values: NDArray[Any]) -> int:
        """What no label of `values`, filled last, is above (negative ones count as huge): often known for nothing."""
        top = self._values.top() if self._whole and self._values.looked_up else None
        return int(values.view(np.uint64).max()) if top is None else top

    def fill(self, out: NDArray[Any]) -> None:
        """Writes the next len(out) values. Raises `Declined` or `Corrupt` where it cannot."""
        done, n = 0, len(out)
        page = self._values
        dictionary = page.dictionary
        self._whole = True
        try:
            while done < n:
                if not self._left:
                    before = page.take
                    filled = self._fill_pages(out[done:])
                    if not filled:
                        self._open_page()
                    if done and (page.take != before or page.dictionary is not dictionary):
                        self._whole = False
                    dictionary = page.dictionary
                    done += filled
                    continue
                take = min(n - done, self._left)
                page.take(out[done : done + take])
                done += take
                self._left -= take
        except _ERRORS as error:  # pyarrow's codecs, and the system
            raise Declined(f"a page cannot be decoded ({error})", self.row_group) from error
        except Declined as error:
            raise Declined(str(error), self.row_group) from error

    def _fill_pages(self, out: NDArray[Any]) -> int:
        """Writes the values of pages that `runs` takes many of in a call; how many values there were."""
        largest = min(runs.LARGEST if self._codec.compresses else DIRECT - 1, self._chunk.uncompressed) if self._unread else 0
        if self._vain == IN_VAIN or self._page_bytes > largest:
            return 0
        # A page as large as the last one should be at hand, or else a stretch of the file is read.
        end = self._chunk.end
        data = self._window.view(self._at, min(self._page_bytes, end - self._at), end, STRETCH)
        levels = self._header, self._found, self._stack, self._sizes, self._phase
        size, done = self._values.run(data, self._codec.compresses, largest, self._unread, out, levels)
        self._at += size
        self._unread -= done
        self._vain = 0 if done else self._vain + 1
        return done

    def probe(self, pages: int, reach: int) -> int:
        """Looks at the headers of the first pages within `reach` bytes; what the largest takes, as it is and as it becomes.

        Raises `Corrupt` where one claims what cannot be.
        """
        self._open_chunk()
        largest = 0
        end = min(self._chunk.end, self._chunk.start + reach)
        for _ in range(pages):
            if self._at >= end:
                break
            header = self._read_header()
            self._check_size(header[COMPRESSED], header[UNCOMPRESSED])
            self._at += header[COMPRESSED]
            largest = max(largest, header[COMPRESSED] + header[UNCOMPRESSED])
        return largest

    # ---- pages

    def _open_chunk(self) -> None:
        if self._phase[0]:
            raise Declined("its rows are not all of one length")
        if self._next == len(self._chunks):
            raise Declined("it has fewer values than rows")
        self._chunk = chunk = self._chunks[self._next]
        self._next += 1
        self._at, self._unread = chunk.start, chunk.values
        self._values.open_chunk()
        self._vain = 0 if self._values.in_runs and chunk.codec in runs.CODECS else IN_VAIN
        self._codec = Codec(chunk.codec)
        self._ahead = AHEAD

    def _open_page(self) -> None:
        """Goes on to the next data page that has values."""
        self._values.release()
        self._window.trim()
        self._claim.let_go()
        while not self._left:
            if not self._unread:
                self._open_chunk()
                continue
            found = self._page_ahead = None if self._ahead_pages is None else self._ahead_pages.take(self._at)
            if found is None:
                header = self._read_header()
            else:
                header, self._at, self._behind = found.header, found.begin, found.body
            kind, size = header[PAGE_TYPE], header[COMPRESSED]
            self._check_size(size, header[UNCOMPRESSED])
            self._page_bytes = size + HEADER_BYTES
            end = self._at + size
            if header[CRC] != MISSING:
                page = self._page(size)
                if zlib.crc32(page.data) != header[CRC] & 0xFFFFFFFF:
                    raise Corrupt("the checksum of a page does not match", self.row_group)
            if kind == DICTIONARY_PAGE:
                self._read_dictionary(header, size)
            elif kind in (DATA_PAGE, DATA_PAGE_V2):
                self._open_data(header, size, kind == DATA_PAGE_V2)
            elif kind != INDEX_PAGE:
                raise Declined(f"a page of unknown type {kind}")
            self._at = end

    def _check_size(self, size: int, uncompressed: int) -> None:
        """Compares what a page says of its size with what the file has and the chunk says of all pages."""
        chunk = self._chunk
        # Some old writers counted less than there is.
        most = min(max(chunk.uncompressed, MODEST), self._codec.most * size + 1024)
        if not (0 <= size <= self._end_of_data - self._at and 0 <= uncompressed <= most):
            raise Corrupt("the size of a page is wrong", self.row_group)
        if size > chunk.end - self._at or uncompressed > chunk.uncompressed:
            raise Declined("a page is larger than its column chunk")

    def _read_header(self) -> list[int]:
        """The header of the page at `_at`, which moves to its body."""
        least = min(64, self._chunk.end - self._at)
        while True:
            data = self._window.view(self._at, least, self._chunk.end, self._ahead)
            after = page_header(data, 0, len(data), self._header, self._found, self._stack)
            if after >= 0:
                self._at += after
                self._behind = data[after:]
                found: list[int] = self._header.tolist()
                return found
            if len(data) == self._chunk.end - self._at or len(data) > LONGEST_HEADER:
                raise Corrupt("the header of a page is none", self.row_group)
            least = min(8 * len(data), self._chunk.end - self._at)

    def _look_ahead(self, header: list[int], size: int) -> None:
        """Has pages behind this data page decompressed, as long as they are as large: each is in memory of its own then."""
        ahead = self._ahead_pages
        if ahead is None or not self._codec.slow or size <= self._window.size:
            return
        here, behind = self._at, self._behind
        self._at = ahead.end or here + size
        try:
            while len(ahead) < PAGES and self._at < self._chunk.end:
                at = self._at
                header = self._read_header()
                size = header[COMPRESSED]
                self._check_size(size, header[UNCOMPRESSED])
                v2 = header[PAGE_TYPE] == DATA_PAGE_V2
                levels = header[REPETITION] + header[DEFINITION] if v2 else 0
                if header[PAGE_TYPE] not in (DATA_PAGE, DATA_PAGE_V2) or (v2 and not header[IS_COMPRESSED]):
                    break
                if not (self._window.size < size and header[UNCOMPRESSED] <= LARGEST and 0 <= levels < size):
                    break
                claim = Claim("pages")
                if not claim.tried(size + header[UNCOMPRESSED]):
                    break
                body = self._page(size)
                codec = Codec(self._chunk.codec)  # its own: pyarrow's gzip has a state
                unpack = partial(codec.decompress, body[levels:], header[UNCOMPRESSED] - levels)
                ahead.add(at, self._at, header, body, unpack, claim)
                self._at += size
        except (Declined, Corrupt, Exceeded, *_ERRORS):
            pass  # when its turn comes, it is met again
        finally:
            self._at, self._behind = here, behind

    def _unpacked(self, data: Bytes, size: int) -> Bytes:
        """What the compressed part of the page becomes."""
        if self._page_ahead is not None and self._ahead_pages is not None:
            return self._ahead_pages.result(self._page_ahead)
        self._hold(self._claim, size)
        return self._codec.decompress(data, size)

    def _hold(self, claim: Claim, size: int) -> None:
        """Claims what a page becomes. Raises `Exceeded`."""
        if self._codec.compresses:
            claim.to(size, lambda: f"a page that becomes {told(size)} does not fit")

    def _page(self, size: int) -> Bytes:
        """The body of the page whose header was read last."""
        if size > len(self._behind):
            return self._window.view(self._at, size, self._chunk.end, self._ahead)[:size]
        return self._behind[:size]

    def _read_dictionary(self, header: list[int], size: int) -> None:
        spec = self._spec
        if spec.physical == BOOLEAN or header[ENCODING] not in (PLAIN, PLAIN_DICTIONARY):
            raise Declined("its dictionary is encoded in an unknown way")
        data = self._page(size)
        self._hold(self._of_dictionary, header[UNCOMPRESSED])
        body = self._codec.decompress(data, header[UNCOMPRESSED])
        count = header[VALUES]
        if not 0 <= count * spec.stored.itemsize <= len(body):
            raise Corrupt("a dictionary has fewer values than it says", self.row_group)
        values = body[: count * spec.stored.itemsize].view(spec.stored)
        self._values.set_dictionary(values, keep=self._codec.compresses)  # or the window moves on

    def _open_data(self, header: list[int], size: int, v2: bool) -> None:
        spec, n = self._spec, header[VALUES]
        if not 0 <= n <= self._unread:
            raise Corrupt("a page says that it has more values than there are", self.row_group)
        if v2:
            if header[NULLS]:
                raise Declined("there are nulls")
            self._sizes[0], self._sizes[1] = header[REPETITION], header[DEFINITION]
            levels = header[REPETITION] + header[DEFINITION]
            if min(header[REPETITION], header[DEFINITION]) < 0 or levels > min(size, header[UNCOMPRESSED]):
                raise Declined("the levels of a page are damaged")
        else:
            self._sizes[:] = -1
            if (spec.definition and header[DEFINITION] != RLE) or (spec.k and header[REPETITION] != RLE):
                raise Declined("its levels are bit-packed, which is deprecated")
        plain = v2 and not header[IS_COMPRESSED]  # MISSING means compressed
        wanted = n * spec.stored.itemsize
        in_file = (not self._codec.compresses or plain) and size == header[UNCOMPRESSED]
        if in_file and spec.as_stored and header[ENCODING] == PLAIN and wanted >= DIRECT and header[CRC] == MISSING:
            self._open_direct(n, size, wanted)
            return
        # Large pages are read as they come, for small ones a stretch of the file at a time.
        self._ahead = AHEAD if size < DIRECT else 0
        body = self._page(size)
        self._look_ahead(header, size)
        if v2 and self._codec.compresses and not plain:
            begin = self._verify(body[:levels], n)
            values = self._unpacked(body[levels:], header[UNCOMPRESSED] - levels)
            begin = 0
        else:
            values = body if plain else self._unpacked(body, header[UNCOMPRESSED])
            begin = self._verify(values, n)
        self._values.open(values, begin, header[ENCODING], n)
        self._start(n)

    def _verify(self, data: Bytes, n: int) -> int:
        """Where the values begin behind their levels."""
        spec = self._spec
        check = check_levels if spec.k else check_few
        begin = check(data, self._sizes, spec.definition, spec.k, n, self._phase)
        if begin < 0:
            raise Declined("there are nulls or rows of another length" if spec.k else "there are nulls")
        return int(begin)

    def _open_direct(self, n: int, size: int, wanted: int) -> None:
        """Plain values that stay in the file until `fill` reads them where they are to stand; levels are read here."""
        end = self._chunk.end
        self._ahead = 1 << 13  # enough for the levels of long rows
        begin = 0
        if self._sizes[0] < 0:
            for there in (self._spec.k > 0, self._spec.definition > 0):
                if there:
                    if begin + 4 > size:
                        raise Declined("the levels of a page are damaged")
                    begin += 4 + int(self._window.view(self._at, begin + 4, end, self._ahead)[begin : begin + 4].view("<u4")[0])
        else:
            begin = int(self._sizes.sum())
        if wanted > size - begin:
            raise Declined("a page has fewer values than it says")
        if begin:
            begin = self._verify(self._window.view(self._at, begin, end, self._ahead)[:begin], n)
        self._values.open_plain_in_file(self._at + begin)
        self._start(n)

    def _start(self, n: int) -> None:
        self._unread -= n
        self._left = n
