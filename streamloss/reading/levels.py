"""Levels are verified, not rebuilt: that every value is there, and that every row of a list has exactly K of them.

A definition level says how much of a value's path is present, a repetition level where a list begins (Dremel; Parquet's
Encodings.md, "RLE / bit-packing hybrid": runs of one value, or groups of eight packed bit by bit). In a column without
nulls all definition levels are the highest; in lists of K values the repetition levels are 0 once and 1 for K - 1 times,
again and again. Both hold or the chunk is left to pyarrow; what rows look like is then pyarrow's to say.

Damaged or hostile bytes give IRREGULAR as well: every position is compared with the end before it is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamloss.jit import decoder, loop, parser
from streamloss.reading.thrift import varint

IRREGULAR = -1


@loop
def _all_equal(data: Any, at: Any, end: Any, width: Any, level: Any, n: Any) -> Any:
    """Whether n levels of `width` bits (at most 7) are all `level`."""
    pattern = np.uint64(0)  # eight of them, as they are packed
    for j in range(8):
        pattern |= np.uint64(level) << np.uint64(j * width)
    i = np.int64(0)
    while i < n:
        head, at = varint(data, at, end)
        count = head >> 1
        if at < 0 or count == 0 or at >= end:
            return False
        if head & 1:
            groups = min(count, (n - i + 7) >> 3)
            if groups > (end - at) // width:
                return False
            whole = min(groups, (n - i) >> 3)
            wrong = np.uint8(0)
            for j in range(width):
                byte = np.uint8((pattern >> np.uint64(8 * j)) & np.uint64(255))
                for g in range(whole):
                    wrong |= data[at + g * width + j] ^ byte
            if wrong:
                return False
            for j in range((n - i - 8 * whole) * width if groups > whole else 0):
                bit = (data[at + whole * width + (j >> 3)] >> (j & 7)) & 1
                if bit != (pattern >> np.uint64(j)) & np.uint64(1):
                    return False
            if count > (end - at) // width:
                count = (end - at) // width
            at += count * width
            i += count * 8
        else:
            if data[at] != level:
                return False
            at += 1
            i += count
    return True


@loop
def _regular(data: Any, at: Any, end: Any, k: Any, n: Any, phase: Any) -> Any:
    """The phase after n one-bit levels that are 0 where (phase + index) % k == 0 and 1 elsewhere, or IRREGULAR."""
    i = np.int64(0)
    while i < n:
        head, at = varint(data, at, end)
        count = head >> 1
        if at < 0 or count == 0 or at >= end:
            return IRREGULAR
        if head & 1:
            if count > end - at:
                count = np.int64(end - at)
            for g in range(min(count, (n - i + 7) >> 3)):
                byte = np.int64(data[at + g])
                bits = min(8, n - i)
                expected = np.int64(255)
                zero = np.int64(0) if phase == 0 else k - phase
                while zero < bits:
                    expected &= ~(1 << zero)
                    zero += k
                if (byte ^ expected) & ((1 << bits) - 1):
                    return IRREGULAR
                phase += bits
                if phase >= k:
                    phase = phase - k if phase < 2 * k else phase % k
                i += bits
            at += count
        else:
            run = min(count, n - i)
            if data[at] == 0:
                if phase != 0 or (k > 1 and run > 1):
                    return IRREGULAR
                phase = 1 if k > 1 else 0
            elif data[at] != 1 or phase == 0 or phase + run > k:
                return IRREGULAR
            else:
                phase += run
                if phase == k:
                    phase = np.int64(0)
            at += 1
            i += run
    return np.int64(phase)


@loop
def _checked(data: Any, sizes: Any, deepest: Any, k: Any, n: Any, phase: Any) -> Any:
    """Where the values begin behind the levels of a page with n of them, or IRREGULAR.

    sizes: bytes of the repetition and of the definition levels (data page v2); -1 where a four-byte size stands in front
        of them (v1). Levels that the column does not have take no room on v1 and must have size 0 on v2.
    deepest: the definition level of a present value; 0 for a required column. k: values of a row; 0 for a flat column.
    phase: one number, values of the row that the page begins in; moved on.
    """
    at = np.int64(0)
    for which in range(2):
        there = k > 0 if which == 0 else deepest > 0
        size = sizes[which]
        if not there:
            if size > 0:
                return IRREGULAR
            continue
        if size < 0:
            if at + 4 > len(data):
                return IRREGULAR
            size = np.int64(0)
            for j in range(4):
                size |= np.int64(data[at + j]) << (8 * j)
            at += 4
        if size > len(data) - at:
            return IRREGULAR
        if which == 0:
            after = _regular(data, at, at + size, k, n, phase[0])
            if after < 0:
                return IRREGULAR
            phase[0] = after
        else:
            width = np.int64(1)
            while deepest >> width:
                width += 1
            if width > 7 or not _all_equal(data, at, at + size, width, deepest, n):
                return IRREGULAR
        at += size
    return at


@decoder
def check_levels(data: Any, sizes: Any, deepest: Any, k: Any, n: Any, phase: Any) -> Any:
    """`_checked`, of lists."""
    return _checked(data, sizes, deepest, k, n, phase)


@parser
def check_few(data: Any, sizes: Any, deepest: Any, k: Any, n: Any, phase: Any) -> Any:
    """`_checked`, of flat columns, whose levels are as a rule one run."""
    return _checked(data, sizes, deepest, k, n, phase)
