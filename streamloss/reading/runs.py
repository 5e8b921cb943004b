"""Small pages of flat columns, many in one call, as long as there is nothing unusual about them.

pyarrow ends a page after 20,000 rows, and for a page of a binary prediction Python would take as long as for its values. What
`chunks` does page by page is done here for data pages v1 without checksum, PLAIN or by dictionary, uncompressed or under
snappy. A run ends before the page that is anything else, or does not fit, or is damaged: `chunks` then says what to do with it.

Every position is compared with the end before it is read, and every size before it is believed. Snappy: format_description.txt
of its repository.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamloss.jit import decoder, loop
from streamloss.reading.encodings import choose, gather, unpack
from streamloss.reading.levels import check_few
from streamloss.reading.specs import PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY
from streamloss.reading.thrift import (
    COMPRESSED,
    CRC,
    DATA_PAGE,
    DEFINITION,
    ENCODING,
    MISSING,
    PAGE_TYPE,
    UNCOMPRESSED,
    VALUES,
    page_header,
    varint,
)

CODECS = (0, 1)  # none and snappy
LARGEST = 1 << 18  # bytes that a page of a run becomes: larger ones are worth Python's time
PLAIN_SEEN, LOOKED_UP = 1, 2  # what `fill_pages` met
PLACE, UNREAD, DONE, SEEN = range(4)  # its state: the next page, values of the chunk behind it, values filled, what was met


@loop
def _little(data: Any, at: Any, count: Any) -> Any:
    """The number in `count` bytes, the lowest first."""
    value = np.int64(0)
    for j in range(count):
        value |= np.int64(data[at + j]) << np.int64(8 * j)
    return value


@loop
def _copy(data: Any, at: Any, count: Any, out: Any, done: Any) -> None:
    """out[done : done + count] = data[at : at + count]; unsigned indices spare a look for negative ones at every byte."""
    from_, to = np.uint64(at), np.uint64(done)
    for i in range(np.uint64(count)):
        out[to + np.uint64(i)] = data[from_ + np.uint64(i)]


@decoder
def unsnap(data: Any, out: Any) -> Any:
    """Decompresses snappy's bytes into out; how many they became, -1 where they are damaged or do not fit."""
    end = len(data)
    total, at = varint(data, np.int64(0), end)
    if at < 0 or total > len(out):
        return -1
    done = np.int64(0)
    while at < end:
        tag = np.int64(data[at])
        at += 1
        kind, length = tag & 3, tag >> 2
        if kind == 0:
            if length >= 60:
                extra = length - 59
                if extra > end - at:
                    return -1
                length = _little(data, at, extra)
                at += extra
            length += 1
            if length > end - at or length > total - done:
                return -1
            _copy(data, at, length, out, done)
            at += length
        else:
            count = np.int64(1) << (kind - 1)  # 1, 2 or 4 bytes of offset
            if count > end - at:
                return -1
            offset = _little(data, at, count)
            at += count
            if kind == 1:
                offset |= (tag >> 5) << 8
                length = (length & 7) + 4
            else:
                length += 1
            if offset == 0 or offset > done or length > total - done:
                return -1
            for i in range(length):  # one by one: what is copied may begin in what is written
                out[done + i] = out[done + i - offset]
        done += length
    return done if done == total else -1


@loop
def _values(
    body: Any, begin: Any, encoding: Any, dictionary: Any, state: Any, indices: Any, out: Any, done: Any, n: Any
) -> Any:
    """The n values from body[begin] on into out[done:]; what they were, or 0 where they are none of a run's."""
    if encoding == PLAIN:
        size = n * out.itemsize
        if size > len(body) - begin:
            return 0
        _copy(body, begin, size, out[done : done + n].view(np.uint8), np.int64(0))
        return PLAIN_SEEN
    if encoding not in (PLAIN_DICTIONARY, RLE_DICTIONARY) or len(dictionary) < 2 or begin >= len(body):
        return 0
    width = np.int64(body[begin])
    state[:] = 0
    state[0] = begin + 1
    if width == 1:
        return LOOKED_UP if choose(body, state, dictionary, out[done : done + n]) == n else 0
    if width > 32:
        return 0
    first = np.int64(0)
    while first < n:
        count = min(n - first, len(indices))
        if unpack(body, width, state, indices[:count]) != count:
            return 0
        if not gather(indices[:count], dictionary, out[done + first : done + first + count]):
            return 0
        first += count
    return LOOKED_UP


@decoder
def fill_pages(data: Any, snappy: bool, dictionary: Any, out: Any, state: Any, limits: Any, levels: Any, room: Any) -> None:
    """Fills out with the values of pages that are whole in data and have room in it.

    data: bytes of the chunk from the next page on. dictionary: the chunk's values, as out has them. state: see PLACE; moved on.
    limits: the most bytes that a page may become, and the definition level of a value.
    levels: what `page_header` works in (header, found, stack) and `check_few` (sizes, phase).
    room: the state of a decoder, indices, and LARGEST bytes to decompress to.
    """
    largest, deepest = limits
    header, found, stack, sizes, phase = levels
    inner, indices, scratch = room
    while state[DONE] < len(out):
        begin = page_header(data, state[PLACE], len(data), header, found, stack)
        if begin < 0 or header[PAGE_TYPE] != DATA_PAGE or header[CRC] != MISSING:
            return
        size, becomes, n = header[COMPRESSED], header[UNCOMPRESSED], header[VALUES]
        if not (0 <= size <= len(data) - begin and 0 <= becomes <= min(largest, len(scratch))):
            return
        if not 0 < n <= min(state[UNREAD], len(out) - state[DONE]) or (deepest > 0 and header[DEFINITION] != RLE):
            return
        body = data[begin : begin + size]
        if snappy:
            if unsnap(body, scratch) != becomes:
                return
            body = scratch[:becomes]
        elif size != becomes:
            return
        sizes[:] = -1
        start = check_few(body, sizes, deepest, np.int64(0), n, phase)
        if start < 0:
            return
        what = _values(body, start, header[ENCODING], dictionary, inner, indices, out, state[DONE], n)
        if what == 0:
            return
        state[PLACE] = begin + size
        state[UNREAD] -= n
        state[DONE] += n
        state[SEEN] |= what
