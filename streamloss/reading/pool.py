"""Memory for batches, used again: a fresh array costs a page fault every 4 kB, as much as decoding into it.

An array from `empty` is plain NumPy memory. When it and everything that looks at it has gone, whichever thread let go of
it, its memory is kept for the next of about that size; of what is kept there is a bound.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamloss import memory

LEAST = 1 << 17  # below, NumPy's own is as good
MOST_KEPT = 12
_free: list[NDArray[np.uint8]] = []  # appending and popping are atomic


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """As `np.empty`."""
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size < LEAST:
        return np.empty(shape, dtype=dtype)
    store = _taken(size)
    # A memoryview between them: views of `array` then keep `array` alive, not `store`, so that its end can be seen.
    array = np.frombuffer(store.data[:size], dtype=dtype)
    weakref.finalize(array, _keep, store).atexit = False
    return array.reshape(shape)


def _taken(size: int) -> NDArray[np.uint8]:
    for _ in range(len(_free)):
        try:
            store = _free.pop()
        except IndexError:
            break
        if size <= len(store) <= 2 * size:
            return store
        if len(_free) < MOST_KEPT:
            _free.insert(0, store)
    return np.empty(size, dtype=np.uint8)


def _keep(store: NDArray[np.uint8]) -> None:
    most = memory.limit()
    if len(_free) < MOST_KEPT and (most is None or len(store) <= most // (2 * MOST_KEPT)):
        _free.append(store)


def give_back() -> None:
    """Keeps nothing for later."""
    _free.clear()
    pa.default_memory_pool().release_unused()


memory.on_need(give_back)
