"""Parquet's encodings of numbers, decoded a piece at a time into memory that the caller owns.

Source: Encodings.md of the Parquet format. RLE_DICTIONARY and RLE booleans are the RLE / bit-packing hybrid, which `unpack`
turns into indices and `gather` into values (booleans have the dictionary 0, 1). `delta` is DELTA_BINARY_PACKED, `join` is
BYTE_STREAM_SPLIT. Decoders work on unsigned integers of the value's width, so that there are few of them to compile, and keep
where they are in a small state array, so that a page is never held decoded as a whole.

Damaged bytes: a decoder returns how many values there were. It compares with the end before it reads, and an index with
the dictionary before it looks there; what comes out short is the caller's to refuse.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.jit import decoder, loop
from streamloss.reading.thrift import varint

# State of `unpack`: where the next run begins, what is left of this one, its value or else (-1) its next bit.
_AT, _LEFT, _VALUE, _BIT = range(4)
# State of `delta`, all unsigned.
_D_AT, _D_LEFT, _D_LAST, _D_LEAST, _D_MINIS, _D_WIDTHS, _D_WIDTH, _D_IN_MINI, _D_BIT, _D_PER_MINI, _D_PER_BLOCK, _D_FIRST = (
    range(12)
)
MOST = 1 << 40  # values of a run: more than any page has, little enough to multiply


def hybrid(at: int) -> NDArray[np.int64]:
    """The state of `unpack` before the run that begins at byte `at`."""
    return np.array([at, 0, 0, 0], dtype=np.int64)


def packed(at: int, count: int) -> NDArray[np.int64]:
    """The state of `unpack` when `count` values are packed from byte `at` on without any head: PLAIN booleans."""
    return np.array([at, count, -1, 8 * at], dtype=np.int64)


@loop
def _load(data: Any, at: Any) -> Any:
    """Eight bytes from the unsigned index `at` on (a signed one might count from the end); LLVM makes one load of them."""
    low = np.uint64(data[at]) | np.uint64(data[at + np.uint64(1)]) << np.uint64(8)
    low |= np.uint64(data[at + np.uint64(2)]) << np.uint64(16) | np.uint64(data[at + np.uint64(3)]) << np.uint64(24)
    high = np.uint64(data[at + np.uint64(4)]) | np.uint64(data[at + np.uint64(5)]) << np.uint64(8)
    high |= np.uint64(data[at + np.uint64(6)]) << np.uint64(16) | np.uint64(data[at + np.uint64(7)]) << np.uint64(24)
    return low | high << np.uint64(32)


@loop
def _bits(data: Any, bit: Any, width: Any) -> Any:
    """`width` (0 to 64) bits from bit `bit` on; touches no byte beyond them."""
    value = np.uint64(0)
    done = np.int64(0)
    while done < width:
        byte = np.uint64(data[bit >> 3]) >> np.uint64(bit & 7)
        value |= byte << np.uint64(done)
        step = 8 - (bit & 7)
        done += step
        bit += step
    if width < 64:
        value &= (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    return value


@loop
def _unpack_run(data: Any, bit: Any, width: Any, out: Any, at: Any, n: Any) -> None:
    """n values from bit `bit` on into out[at:]; the caller has seen that the bytes are there."""
    last = len(data) - 8
    mask = np.uint64((1 << width) - 1)
    i = np.int64(0)
    # Up to a whole byte: then eight values take `width` bytes.
    while i < n and bit & 7:
        out[at + i] = np.uint32(_bits(data, bit, width))
        bit += width
        i += 1
    byte = bit >> 3
    w = np.uint64(width)
    start = np.uint64(at)
    if width <= 8:
        while i + 8 <= n and byte <= last:
            word = _load(data, np.uint64(byte))
            to = start + np.uint64(i)
            for j in range(np.uint64(8)):
                out[to + j] = np.uint32((word >> (j * w)) & mask)
            byte += width
            i += 8
    elif width <= 16:
        step = (4 * width) >> 3
        rest = np.uint64((4 * width) & 7)
        while i + 8 <= n and byte + step <= last:
            word = _load(data, np.uint64(byte))
            other = _load(data, np.uint64(byte + step)) >> rest
            to = start + np.uint64(i)
            for j in range(np.uint64(4)):
                out[to + j] = np.uint32((word >> (j * w)) & mask)
            for j in range(np.uint64(4)):
                out[to + np.uint64(4) + j] = np.uint32((other >> (j * w)) & mask)
            byte += width
            i += 8
    else:
        while i + 8 <= n and byte + width <= last:
            to = start + np.uint64(i)
            from_ = np.uint64(byte)
            for j in range(np.uint64(8)):
                place = j * w
                word = _load(data, from_ + (place >> np.uint64(3))) >> (place & np.uint64(7))
                out[to + j] = np.uint32(word & mask)
            byte += width
            i += 8
    bit = byte * 8
    while i < n:
        out[at + i] = np.uint32(_bits(data, bit, width))
        bit += width
        i += 1


@loop
def _next_run(data: Any, width: Any, state: Any) -> Any:
    """Reads the head of the next run into `state`; false when there is none."""
    end = len(data)
    head, at = varint(data, state[_AT], end)
    count = min(head >> 1, MOST)
    if at < 0 or count == 0:
        return False
    if head & 1:
        state[_VALUE] = -1
        state[_BIT] = at * 8
        state[_LEFT] = count * 8
        state[_AT] = min(at + count * width, end)
    else:
        size = (width + 7) >> 3
        if size > end - at:
            return False
        state[_VALUE] = np.int64(_bits(data, at * 8, 8 * size))
        state[_LEFT] = count
        state[_AT] = at + size
    return True


@decoder
def unpack(data: Any, width: Any, state: Any, out: Any) -> Any:
    """The next len(out) values of `width` (0 to 32) bits as uint32; how many there were."""
    n = len(out)
    done = np.int64(0)
    while done < n:
        if state[_LEFT] == 0 and not _next_run(data, width, state):
            return done
        take = min(n - done, state[_LEFT])
        if state[_VALUE] >= 0:
            value = np.uint32(state[_VALUE])
            for i in range(done, done + take):
                out[i] = value
        else:
            if take * width > len(data) * 8 - state[_BIT]:
                return done
            _unpack_run(data, state[_BIT], width, out, done, take)
            state[_BIT] += take * width
        state[_LEFT] -= take
        done += take
    return done


@decoder
def choose(data: Any, state: Any, dictionary: Any, out: Any) -> Any:
    """`unpack` and `gather` in one where indices have one bit, as labels of two classes do; how many values there were.

    dictionary: two values or more. Both are in registers, so there is nothing to look up: 0.15 ns a value for 0.6.
    """
    n = len(out)
    kind = out.dtype.type
    zero, change, nothing, one = dictionary[0], dictionary[0] ^ dictionary[1], kind(0), np.uint64(1)
    last = len(data) - 8
    done = np.int64(0)
    while done < n:
        if state[_LEFT] == 0 and not _next_run(data, 1, state):
            return done
        take = min(n - done, state[_LEFT])
        if state[_VALUE] > 1:
            return done
        if state[_VALUE] >= 0:
            value = dictionary[state[_VALUE]]
            for at in range(done, done + take):
                out[at] = value
        else:
            bit = state[_BIT]
            if take > len(data) * 8 - bit:
                return done
            i = np.int64(0)
            while i < take:
                byte = bit >> 3
                if bit & 7 == 0 and i + 64 <= take and byte <= last:
                    word = _load(data, np.uint64(byte))
                    to = np.uint64(done + i)
                    for j in range(np.uint64(64)):
                        out[to + j] = zero ^ (change & (nothing - kind((word >> j) & one)))
                    bit += 64
                    i += 64
                elif bit & 7 == 0 and i + 8 <= take:
                    word = np.uint64(data[byte])
                    to = np.uint64(done + i)
                    for j in range(np.uint64(8)):
                        out[to + j] = zero ^ (change & (nothing - kind((word >> j) & one)))
                    bit += 8
                    i += 8
                else:
                    out[done + i] = dictionary[(data[byte] >> (bit & 7)) & 1]
                    bit += 1
                    i += 1
            state[_BIT] = bit
        state[_LEFT] -= take
        done += take
    return done


@decoder
def gather(indices: Any, dictionary: Any, out: Any) -> Any:
    """out[i] = dictionary[indices[i]]; false, with nothing written, when an index is beyond the dictionary."""
    top = np.uint32(0)
    for i in range(len(out)):
        top = max(top, indices[i])
    if len(out) and top >= len(dictionary):
        return False
    for i in range(len(out)):
        out[i] = dictionary[indices[i]]
    return True


@decoder
def join(data: Any, start: Any, total: Any, first: Any, out: Any) -> None:
    """Values `first`… of `total` whose bytes stand apart, byte 0 of all values, then byte 1, and so on, from `start` on."""
    kind = out.dtype.type
    width = out.itemsize
    for block in range(0, len(out), 1024):  # small enough that the passes over it stay in the first cache
        stop = min(len(out), block + 1024)
        at = start + first
        for i in range(block, stop):
            out[i] = kind(data[at + i])
        for j in range(1, width):
            at += total
            for i in range(block, stop):
                out[i] |= kind(kind(data[at + i]) << kind(8 * j))


@decoder
def interleave(columns: Any, rows: Any) -> None:
    """rows[i, j] = columns[j, i], some rows at a time so that they stay in the cache until they are full."""
    k, n = columns.shape
    for start in range(0, n, 64):
        stop = min(n, start + 64)
        for j in range(k):
            for i in range(start, stop):
                rows[i, j] = columns[j, i]


@loop
def _unsigned(data: Any, at: Any, end: Any) -> Any:
    """A variable-length integer of up to 64 bits, and the position after it or -1."""
    value = np.uint64(0)
    for j in range(10):
        if at >= end:
            return value, -1
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(127)) << np.uint64(7 * j)
        if byte < 128:
            return value, at
    return value, -1


@loop
def _signed(value: Any) -> Any:
    """Zigzag, as the bits of a two's complement."""
    return (value >> np.uint64(1)) ^ (np.uint64(0) - (value & np.uint64(1)))


@decoder
def open_delta(data: Any, at: Any, state: Any) -> Any:
    """Reads the head at `at` into `state` (`DELTA_STATE` uint64s); the number of values, or -1 when it is damaged."""
    end = len(data)
    per_block, at = varint(data, at, end)
    if at < 0:
        return -1
    minis, at = varint(data, at, end)
    if at < 0:
        return -1
    total, at = varint(data, at, end)
    if at < 0:
        return -1
    first, at = _unsigned(data, at, end)
    if at < 0 or minis == 0 or per_block == 0 or per_block > MOST or minis > per_block or total > MOST:
        return -1
    if per_block % 128 or per_block % minis or (per_block // minis) % 32:
        return -1
    state[:] = np.uint64(0)
    state[_D_AT] = at
    state[_D_LEFT] = total
    state[_D_LAST] = _signed(first)
    state[_D_PER_MINI] = per_block // minis
    state[_D_PER_BLOCK] = minis
    state[_D_FIRST] = np.uint64(1)
    return np.int64(total)


DELTA_STATE = 12


@decoder
def delta(data: Any, state: Any, out: Any) -> Any:
    """The next len(out) values as uint64, modulo 2^64; how many there were."""
    end = np.int64(len(data))
    n = len(out)
    done = np.int64(0)
    if n and state[_D_FIRST] and state[_D_LEFT]:
        state[_D_FIRST] = np.uint64(0)
        out[0] = state[_D_LAST]
        state[_D_LEFT] -= np.uint64(1)
        done = np.int64(1)
    last, least = state[_D_LAST], state[_D_LEAST]
    while done < n and state[_D_LEFT]:
        at = np.int64(state[_D_AT])
        if state[_D_IN_MINI] == 0:
            if state[_D_MINIS] == 0:
                least, at = _unsigned(data, at, end)
                minis = np.int64(state[_D_PER_BLOCK])
                if at < 0 or minis > end - at:
                    break
                least = _signed(least)
                state[_D_LEAST] = least
                state[_D_WIDTHS] = np.uint64(at)
                state[_D_MINIS] = np.uint64(minis)
                at += minis
            width = np.int64(data[np.int64(state[_D_WIDTHS])])
            if width > 64:
                break
            state[_D_WIDTH] = np.uint64(width)
            state[_D_WIDTHS] += np.uint64(1)
            state[_D_MINIS] -= np.uint64(1)
            state[_D_IN_MINI] = state[_D_PER_MINI]
            state[_D_BIT] = np.uint64(at * 8)
            state[_D_AT] = np.uint64(min(at + (np.int64(state[_D_PER_MINI]) >> 3) * width, end))
        width = np.int64(state[_D_WIDTH])
        bit = np.int64(state[_D_BIT])
        take = min(n - done, min(np.int64(state[_D_IN_MINI]), np.int64(state[_D_LEFT])))
        if take * width > end * 8 - bit:
            break
        mask = np.uint64((1 << width) - 1) if width < 64 else ~np.uint64(0)
        for i in range(done, done + take):
            if width <= 56 and (bit >> 3) + 8 <= end:
                step = (_load(data, np.uint64(bit >> 3)) >> np.uint64(bit & 7)) & mask
            else:
                step = _bits(data, bit, width)
            last = last + least + step
            out[i] = last
            bit += width
        state[_D_BIT] = np.uint64(bit)
        state[_D_IN_MINI] -= np.uint64(take)
        state[_D_LEFT] -= np.uint64(take)
        done += take
    state[_D_LAST] = last
    return done


@decoder
def lz4_length(data: Any) -> Any:
    """How many bytes an LZ4 block (lz4_Block_format.md) decompresses to, -1 when it is cut short."""
    at = np.int64(0)
    end = len(data)
    total = np.int64(0)
    while at < end:
        token = np.int64(data[at])
        at += 1
        literals, match = token >> 4, token & 15
        more = literals == 15
        while more:
            if at >= end:
                return -1
            literals += data[at]
            more = data[at] == 255
            at += 1
        at += literals
        total += literals
        if at >= end:
            return total if at == end else -1
        at += 2
        more = match == 15
        while more:
            if at >= end:
                return -1
            match += data[at]
            more = data[at] == 255
            at += 1
        total += match + 4
    return -1
