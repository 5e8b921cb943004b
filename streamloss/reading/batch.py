"""What reading hands to the kernels: one chunk of rows as plain NumPy arrays, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import Place

# float16 travels as uint16 and bfloat16 as int16 bits: the dtype alone tells the kernels how to widen a value.
ARRAY_DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.uint16),
    "bfloat16": np.dtype(np.int16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
NAMES = {dtype: name for name, dtype in ARRAY_DTYPES.items()}


Value = str | int | bool | None


@dataclass(frozen=True)
class Coded:
    """A column to group by: row i has values[codes[i]]; not every value need occur."""

    codes: NDArray[np.int32]
    values: list[Value]

    def rows(self, cut: slice) -> Coded:
        """Some of the rows, sharing memory."""
        return Coded(self.codes[cut], self.values)


@dataclass(kw_only=True)
class Batch:
    """n rows. `code` is USED, IGNORED or a rule of `errors.RULES` for every row; the kernels look only at USED rows and
    may give one of them a rule. Rows with another code hold anything.
    """

    path: str | None  # the file, or None for data from memory
    first_row: int  # number of the first row in its file (or stream), from 0
    row_groups: NDArray[np.int64] | None  # first row of every row group of the file, ascending; None without row groups
    columns: dict[str, str]  # role -> name of the column(s), for messages
    prediction: NDArray[Any]  # (n, K) or, for binary and score, (n,); C-contiguous (or F, of flat columns); see ARRAY_DTYPES
    code: NDArray[np.int8]  # (n,)
    target: NDArray[Any] | None = None  # (n, K), C-contiguous; a dtype of ARRAY_DTYPES
    label: NDArray[Any] | None = None  # (n,) int64, or float64 for a soft binary label
    weight: NDArray[np.float64] | None = None  # (n,)
    bytes: NDArray[np.float64] | None = None  # (n,)
    masked: NDArray[np.bool_] | None = None  # (n,) whom the mask ignores, where a convention must know
    keys: dict[str, Coded] = field(default_factory=dict)  # the columns of --by
    resident: bool = False  # the arrays, `code` among them, lie on a CUDA device
    kept: Any = None  # an Arrow batch of the columns that go through as they are, where such were asked for
    found: dict[int, tuple[str, object]] = field(default_factory=dict)  # row -> (column, value) for codes set in reading

    def __len__(self) -> int:
        return int(self.code.shape[0])

    def place(self, row: int, column: str | None = None) -> Place:
        """Where row `row` of this batch stands in the input."""
        at = self.first_row + row
        group = None if self.row_groups is None else int(np.searchsorted(self.row_groups, at, side="right")) - 1
        return Place(self.path, group, at, column)

    @property
    def row_bytes(self) -> int:
        """What the numbers of a row take."""
        arrays = (self.prediction, self.target, self.label, self.weight, self.bytes)
        return sum(array.nbytes for array in arrays if array is not None) // max(len(self), 1)

    def rows(self, start: int, stop: int) -> Batch:
        """Some of the rows, sharing memory."""
        cut = slice(start, min(stop, len(self)))

        def part(array: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if array is None else array[cut]

        return replace(
            self,
            first_row=self.first_row + start,
            prediction=self.prediction[cut],
            code=self.code[cut],
            target=part(self.target),
            label=part(self.label),
            weight=part(self.weight),
            bytes=part(self.bytes),
            masked=part(self.masked),
            keys={name: coded.rows(cut) for name, coded in self.keys.items()},
            kept=None if self.kept is None else self.kept.slice(start, min(stop, len(self)) - start),
            found={row - start: seen for row, seen in self.found.items() if start <= row < stop},
        )
