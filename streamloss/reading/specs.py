"""How a leaf of a Parquet file is read in its role, and why it cannot be."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.reading.batch import ARRAY_DTYPES
from streamloss.reading.codecs import CODEC_NAMES, CODECS
from streamloss.reading.columns import dtype_of
from streamloss.reading.footer import (
    BOOLEAN,
    DOUBLE,
    FIXED,
    FLOAT,
    FLOAT16,
    INT32,
    INT64,
    NO_LOGICAL,
    Chunk,
    Declined,
    Leaf,
)
from streamloss.reading.roles import CLASS_ROLES, Plan

PLAIN, PLAIN_DICTIONARY, RLE, BIT_PACKED, DELTA, RLE_DICTIONARY, SPLIT = 0, 2, 3, 4, 5, 8, 9  # Encoding
READABLE = {
    PLAIN,
    PLAIN_DICTIONARY,
    RLE,
    BIT_PACKED,
    DELTA,
    RLE_DICTIONARY,
    SPLIT,
}  # BIT_PACKED: only of levels there are none of
ENCODING_NAMES = {6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY"}


@dataclass(frozen=True)
class Spec:
    """How a leaf's values stand in the file and are wanted.

    `stored` is their dtype in PLAIN (booleans: uint8, one each), `narrow` what a stored integer is cut to, `wanted` what
    is delivered. `k` is the number of values in a row of a list, 0 for one value a row.
    """

    physical: int
    definition: int
    stored: np.dtype[Any]
    narrow: np.dtype[Any] | None
    wanted: np.dtype[Any]
    k: int

    def convert(self, values: NDArray[Any]) -> NDArray[Any]:
        """Stored values as they are wanted."""
        if self.narrow is not None:
            values = values.astype(self.narrow)
        return values.astype(self.wanted, copy=False)

    @property
    def as_stored(self) -> bool:
        """Whether the bytes of a plain value are delivered as they are."""
        return self.narrow is None and self.stored == self.wanted and self.physical != BOOLEAN


def problem_of(spec: Spec, chunk: Chunk) -> str | None:
    """Why a column chunk cannot be read here."""
    if chunk.codec not in CODECS:
        return f"its compression {CODEC_NAMES.get(chunk.codec, chunk.codec)} is not read here"
    for encoding in range(63):
        if chunk.encodings >> encoding & 1 and encoding not in READABLE:
            return f"its encoding {ENCODING_NAMES.get(encoding, encoding)} is not read here"
    if chunk.type != spec.physical:
        return "its type differs from the schema's"
    if chunk.nulls > 0:
        return "there are nulls"
    if chunk.values != chunk.rows * max(1, spec.k):
        return "there are nulls or rows of another length"
    return None


def spec_of(plan: Plan, role: str, name: str, leaf: Leaf) -> Spec:
    """How a leaf is read in its role. Raises `Declined` when it cannot be."""
    one_column = role in CLASS_ROLES and len(plan.columns[role]) == 1
    if plan.kinds[name] == "name":
        raise Declined("it holds text")
    if one_column and leaf.physical == FIXED and leaf.repetition == 0:
        size = plan.task.classes * ARRAY_DTYPES[dtype_of(plan, role)].itemsize
        if leaf.width != size or leaf.logical != NO_LOGICAL or leaf.converted != -1:
            raise Declined("its bytes are something else")
        item = np.dtype((np.void, size))
        return Spec(FIXED, leaf.definition, item, None, item, 0)
    if leaf.repetition != one_column or leaf.definition > 7:
        raise Declined("it is nested in an unusual way")
    stored, narrow = _stored(leaf)
    wanted: np.dtype[Any] = np.dtype(np.float64)
    if role in ("label", "by"):
        if leaf.integer == (64, False):
            raise Declined(f"{'labels' if role == 'label' else 'keys'} of uint64 may be beyond int64")
        if leaf.physical in (BOOLEAN, INT32, INT64):
            wanted = np.dtype(np.int64)
    else:
        dtype = dtype_of(plan, role)
        if dtype == "float16" and leaf.physical == FIXED:
            stored = wanted = ARRAY_DTYPES[dtype]
        elif dtype in ("float16", "bfloat16"):
            if leaf.integer != (16, False):
                raise Declined("it holds no 16-bit floats")
            wanted = ARRAY_DTYPES[dtype]
        elif dtype == "float32":
            if leaf.physical != FLOAT:
                raise Declined("it holds no float32")
            wanted = ARRAY_DTYPES[dtype]
    return Spec(leaf.physical, leaf.definition, stored, narrow, wanted, plan.task.classes if one_column else 0)


def _stored(leaf: Leaf) -> tuple[np.dtype[Any], np.dtype[Any] | None]:
    """The dtype of a leaf's plain values, and the one that its integers are cut to."""
    plain = leaf.logical == NO_LOGICAL and leaf.converted == -1
    with suppress(KeyError):
        if plain or leaf.logical == FLOAT16:
            # float16 stands in two bytes.
            by_type = {FLOAT: "<f4", DOUBLE: "<f8", BOOLEAN: "u1"} if plain else {FIXED: "<f2"}
            if leaf.physical != FIXED or leaf.width == 2:
                return np.dtype(by_type[leaf.physical]), None
    if leaf.integer is not None and leaf.physical in (INT32, INT64):
        bits, signed = leaf.integer
        sign = "i" if signed else "u"
        if leaf.physical == INT64 and bits == 64:
            return np.dtype(f"<{sign}8"), None
        if leaf.physical == INT32 and bits <= 32:
            return np.dtype("<i4" if bits < 32 else f"<{sign}4"), np.dtype(f"<{sign}{bits // 8}") if bits < 32 else None
    raise Declined("its type is none of plain numbers")
