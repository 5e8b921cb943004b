"""Thrift's compact protocol, as far as Parquet uses it: structs are scanned one level deep, without building anything.

`fields` walks one struct and notes, by field id, the integers and booleans themselves and the *position* of everything
else, which is skipped; a nested struct is scanned in turn from its position. So a footer of thousands of columns costs a
walk over its bytes. `page_header` is the one struct that is read for every page. Sources: thrift-compact-protocol.md,
parquet.thrift (PageHeader, DataPageHeader, DataPageHeaderV2, DictionaryPageHeader).

The bytes may be hostile: no position is trusted, every element takes a byte or more (a list that claims 2^31 elements
ends with its bytes), nesting is bounded, and -1 comes back for whatever is cut short or wrong. Integers of more than 63
bits count as wrong: Parquet's sizes and counts have none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.jit import decoder, loop, parser

MISSING = int(np.iinfo(np.int64).min)
DEPTH = 64  # containers in one another; Parquet's own structs go 8 deep

_BYTE, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 3, 6, 7, 8, 9, 10, 12

# What `page_header` gives, by position.
PAGE_TYPE, UNCOMPRESSED, COMPRESSED, CRC, VALUES, ENCODING, DEFINITION, REPETITION, NULLS, IS_COMPRESSED = range(10)
DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = range(4)
HEADER_FIELDS = 10
ROOM = 16  # field ids that are noted


def workspace() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What a scan writes to besides its result: (stack, fields). One for each thread."""
    return np.zeros(DEPTH, dtype=np.int64), np.zeros(ROOM, dtype=np.int64)


@decoder
def varint(data: Any, at: Any, end: Any) -> Any:
    """An unsigned integer and the position after it, -1 when it is cut short or has more than 63 bits."""
    value = np.int64(0)
    shift = np.int64(0)
    while at < end and shift < 63:
        byte = np.int64(data[at])
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    return np.int64(0), -1


@decoder
def items(data: Any, at: Any, end: Any) -> Any:
    """The head of a list: how many elements, their type, and where they begin (-1 when there is no such list)."""
    if at < 0 or at >= end or end > len(data):
        return 0, 0, -1
    head = np.int64(data[at])
    count = head >> 4
    at += 1
    if count == 15:
        count, at = varint(data, at, end)
    if at < 0 or count > end - at:
        return 0, 0, -1
    kind = head & 15
    return count, _BYTE if kind <= 2 else kind, at  # booleans in a list take a byte each


@loop
def skip(data: Any, at: Any, end: Any, kind: Any, stack: Any) -> Any:
    """The position after one value. `stack` holds for every open container -1 (struct) or elements left · 16 + type."""
    depth = 0
    while True:
        if kind <= 2:
            pass
        elif kind == _BYTE:
            at += 1
        elif kind <= _I64:
            _, at = varint(data, at, end)
        elif kind == _DOUBLE:
            at += 8
        elif kind == _BINARY:
            size, at = varint(data, at, end)
            if at < 0 or size > end - at:
                return -1
            at += size
        elif depth == DEPTH:
            return -1
        elif kind in (_LIST, _SET):
            count, of, at = items(data, at, end)
            stack[depth] = count * 16 + of
            depth += 1
        elif kind == _STRUCT:
            stack[depth] = -1
            depth += 1
        else:  # maps are not Parquet's
            return -1
        if at < 0 or at > end:
            return -1
        kind = 0
        while kind == 0:
            if depth == 0:
                return at
            top = stack[depth - 1]
            if top >= 0:
                if top < 16:
                    depth -= 1
                else:
                    stack[depth - 1] = top - 16
                    kind = top & 15
                    if kind == 0:
                        return -1
            else:
                if at >= end:
                    return -1
                head = np.int64(data[at])
                at += 1
                kind = head & 15
                if kind == 0:
                    depth -= 1
                elif head < 16:  # the field id stands apart
                    _, at = varint(data, at, end)
                    if at < 0:
                        return -1


@decoder
def fields(data: Any, at: Any, end: Any, found: Any, stack: Any) -> Any:
    """Scans the struct at `at`; `found[id]` becomes the value, the position of a value, or MISSING. The end, or -1."""
    found[:] = MISSING
    if at < 0 or end > len(data):
        return -1
    field = np.int64(0)
    while at < end:
        head = np.int64(data[at])
        at += 1
        kind = head & 15
        if kind == 0:  # whatever the other four bits are
            return at
        if head >= 16:
            field += head >> 4
        else:
            number, at = varint(data, at, end)
            if at < 0:
                return -1
            field = (number >> 1) ^ -(number & 1)
        if kind == 1 or kind == 2:
            value = 2 - kind
        elif kind == _BYTE:
            if at >= end:
                return -1
            value = np.int64(data[at])
            at += 1
        elif kind <= _I64:
            number, at = varint(data, at, end)
            if at < 0:
                return -1
            value = (number >> 1) ^ -(number & 1)
        else:
            value = np.int64(at)
            at = skip(data, at, end, kind, stack)
            if at < 0:
                return -1
        if 0 <= field < len(found):
            found[field] = value
    return -1


@parser
def page_header(data: Any, at: Any, end: Any, header: Any, found: Any, stack: Any) -> Any:
    """Reads a page's header into `header` (HEADER_FIELDS numbers, MISSING where it says nothing). The end, or -1.

    DEFINITION and REPETITION are the encodings of the levels on a data page v1, their sizes in bytes on v2.
    """
    header[:] = MISSING
    after = fields(data, at, end, found, stack)
    if after < 0:
        return -1
    kind = found[1]
    header[PAGE_TYPE], header[UNCOMPRESSED], header[COMPRESSED], header[CRC] = kind, found[2], found[3], found[4]
    if kind == DATA_PAGE:
        inner = found[5]
    elif kind == DICTIONARY_PAGE:
        inner = found[7]
    elif kind == DATA_PAGE_V2:
        inner = found[8]
    else:
        return after
    if fields(data, inner, after, found, stack) < 0:
        return -1
    header[VALUES] = found[1]
    if kind == DATA_PAGE_V2:
        header[NULLS], header[ENCODING] = found[2], found[4]
        header[DEFINITION], header[REPETITION], header[IS_COMPRESSED] = found[5], found[6], found[7]
    else:
        header[ENCODING], header[DEFINITION], header[REPETITION] = found[2], found[3], found[4]
    return after
