"""The exact state of an evaluation: named integer arrays that merge by adding, in any order, to the same bits.

Three kinds of number stand in it. *Limbs*: a sum of float64s, or of products of four of them, without any rounding: a
number in base 2^32 with int64 digits (Neal's small superaccumulator, arXiv 1505.05571), lowest bit 2^-BIAS. *Fixed*: four
digits of 40 bits, whole·2^20 + high·2^-20 + low·2^-60 + least·2^-100, for the many small sums of bins and classes; a row's
addend is rounded once, to 2^-60 or, weighted, 2^-100. They take weights from 2^-60 to 2^53; rows beyond are counted, and what
rests on Fixed sums is then not reported. *Counts*. Limbs and Fixed are canonical after `normalize`: equal sums have equal
digits, so the state has one canonical byte string and its SHA-256 is the `digest` of the report. Row values are in nats.

State files: the magic line, a JSON header (length first), the zlib-compressed arrays, a SHA-256 of all before. Version 1.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import USED, DataError, StreamlossError
from streamloss.options import DISPLAY, ROLES, Options, Task
from streamloss.quantities import Plan, plan

Array = NDArray[np.int64]

LIMB_BITS = 32
BIAS = 4320  # the lowest bit a limb can hold is 2^-4320: a product of four of the smallest float64s needs 2^-4296
LIMBS = 268  # up to 2^4256, and half of a last limb for the count
FIXED_BITS = 40
FIXED_DIGITS = 4
FIXED_UNIT = 100  # the last digit counts 2^-100, the first 2^20

# Histogram buckets of either sign: 128 in every octave from 2^-128 to 2^128, so a midpoint is within 0.4 %. The middle one
# holds 0 and what is smaller, the outermost two infinity and what is larger.
OCTAVE = 128
LOWEST_EXPONENT = -128
MIDDLE = 256 * OCTAVE + 1
BUCKETS = 2 * MIDDLE + 1

LEDGER = 17  # rows by code (see errors.py), then by flag, then those with a weight beyond the Fixed digits
LEDGER_NORMALIZED, LEDGER_CLIPPED, LEDGER_BEYOND = 14, 15, 16
FINE_BINS = 10_000

MAGIC = b"streamloss state 1\n"
SCHEMA = "streamloss.state/1"
_ADD, _LIMBS, _FIXED, _EXTREMES = "add", "limbs", "fixed", "extremes"
MAX_CLASSES = 1 << 31
LOWEST, HIGHEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max

# Columns of the reliability and class records: counts, then Fixed sums.
RELIABILITY_WEIGHT, RELIABILITY_SCORE, RELIABILITY_OUTCOME, RELIABILITY_WIDTH = 1, 5, 9, 13
CLASS_INFINITE, CLASS_WEIGHT, CLASS_SUMS = 1, 2, 6


def fine_bins(bins: int) -> int:
    """The number of confidence bins that are kept: the smallest multiple of `bins` from 10,000 on, so `bins` is a view."""
    return bins * math.ceil(FINE_BINS / bins)


def layout(task: Task, options: Options) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every array's name, kind and shape."""
    p: Plan = plan(task, options)
    m, weighted = len(p.moments), task.weighted
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "ledger": (_ADD, (LEDGER,)),
        "weight": (_LIMBS, (2 if weighted else 0, LIMBS)),
        "moments": (_LIMBS, (m, 3 if weighted else 2, LIMBS)),
        "infinite": (_ADD, (m,)),
        "infinite_weight": (_LIMBS, (m if weighted else 0, 2, LIMBS)),
        "extremes": (_EXTREMES, (m, 2)),
        "cross": (_LIMBS, (1 if "bits_per_byte" in p.table else 0, LIMBS)),
        "histogram": (_FIXED if weighted else _ADD, (len(p.spread), BUCKETS, FIXED_DIGITS if weighted else 1)),
        "reliability": (_FIXED, (fine_bins(options.bins) if p.reliability else 0, RELIABILITY_WIDTH)),
        "classes": (_FIXED, (task.classes if p.labels else 0, CLASS_SUMS + FIXED_DIGITS * len(p.per_class))),
        "mean_probabilities": (_FIXED, (task.classes if p.mean_probabilities else 0, FIXED_DIGITS)),
    }
    return shapes


# Where the Fixed digits begin in each array's last axis.
_FIXED_FROM = {"histogram": 0, "reliability": RELIABILITY_WEIGHT, "classes": CLASS_WEIGHT, "mean_probabilities": 0}


def empty_arrays(shapes: dict[str, tuple[str, tuple[int, ...]]], lead: tuple[int, ...] = ()) -> dict[str, Array]:
    """Arrays that hold nothing yet; `lead` puts axes (threads) before each shape."""
    arrays = {name: np.zeros(lead + shape, dtype=np.int64) for name, (_, shape) in shapes.items()}
    arrays["extremes"][..., 0] = HIGHEST
    arrays["extremes"][..., 1] = LOWEST
    return arrays


def _carry(array: Array, digit: int, to: int, bits: int) -> None:
    """Carries what is beyond `bits` bits, or negative, from one digit of the last axis to the next."""
    array[..., to] += array[..., digit] >> bits
    array[..., digit] &= (1 << bits) - 1


def normalize(arrays: dict[str, Array], shapes: dict[str, tuple[str, tuple[int, ...]]], above: int = 0) -> None:
    """Makes limbs and Fixed digits canonical, in place; arrays without a digit of `above` in size may stay as they are."""
    for name, (kind, _) in shapes.items():
        array = arrays[name]
        if kind not in (_LIMBS, _FIXED) or not array.size or (above and max(int(array.max()), -int(array.min())) < above):
            continue
        if kind == _LIMBS:
            filled = np.flatnonzero(array.reshape(-1, LIMBS).any(axis=0))
            for i in range(filled[0] if len(filled) else LIMBS, LIMBS - 1):
                if i > filled[-1] and not array[..., i].any():  # nothing is carried any more, and nothing stands above
                    break
                _carry(array, i, i + 1, LIMB_BITS)
        elif kind == _FIXED:
            for at in range(_FIXED_FROM[name], array.shape[-1], FIXED_DIGITS):
                for i in range(at + FIXED_DIGITS - 1, at, -1):
                    _carry(array, i, i - 1, FIXED_BITS)


def absorb(arrays: dict[str, Array], others: dict[str, Array], shapes: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Adds the others to the arrays, in place; extremes take the lesser and the greater."""
    for name, (kind, _) in shapes.items():
        mine, theirs = arrays[name], others[name]
        if kind == _EXTREMES:
            np.minimum(mine[..., 0], theirs[..., 0], out=mine[..., 0])
            np.maximum(mine[..., 1], theirs[..., 1], out=mine[..., 1])
        else:
            mine += theirs


def limbs_value(limbs: Array) -> Fraction:
    """The exact number that canonical limbs hold."""
    total = 0
    for digit in reversed(limbs.tolist()):
        total = (total << LIMB_BITS) + digit
    return Fraction(total, 1 << BIAS)


def fixed_units(digits: Array) -> list[int]:
    """Exact integers, in units of 2^-FIXED_UNIT, of Fixed numbers (n, FIXED_DIGITS)."""
    units = []
    for whole, high, low, least in digits.tolist():
        units.append((((((whole << FIXED_BITS) + high) << FIXED_BITS) + low) << FIXED_BITS) + least)
    return units


def fixed_value(digits: Array) -> Fraction:
    """The exact number of one Fixed sum."""
    return Fraction(fixed_units(digits[None])[0], 1 << FIXED_UNIT)


@dataclass
class State:
    """What has been added up so far. `columns` and `inputs` say of what; they are recorded and not part of the digest."""

    task: Task
    options: Options
    arrays: dict[str, Array]
    columns: dict[str, str] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def empty(cls, task: Task, options: Options) -> State:
        """The state of no rows: merging it changes nothing."""
        return cls(task, options, empty_arrays(layout(task, options)))

    @property
    def definition(self) -> dict[str, Any]:
        """What the numbers mean: the task and the options that change a row's value. Part of the digest."""
        p = plan(self.task, self.options)
        aside = (*DISPLAY, *ROLES, "dtype", "classes", "on_invalid", "sum_tolerance", "metrics")
        options = {k: v for k, v in self.options.to_dict().items() if k not in aside}
        return {"task": asdict(self.task), "options": options, "quantities": list(p.table)}

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes, in hexadecimal."""
        hashed = hashlib.sha256(_json(self.definition))
        for name in sorted(self.arrays):
            array = self.arrays[name]
            hashed.update(f"\n{name} {array.shape}\n".encode())
            hashed.update(np.ascontiguousarray(array, dtype="<i8").data)
        return hashed.hexdigest()

    def merged(self, other: State) -> State:
        """The state of the rows of both; neither changes. Raises `StreamlossError` when the definitions differ."""
        if self.definition != other.definition:
            raise StreamlossError("states of different tasks or options do not merge")
        shapes = layout(self.task, self.options)
        arrays = {name: array.copy() for name, array in self.arrays.items()}
        absorb(arrays, other.arrays, shapes)
        normalize(arrays, shapes)
        return State(self.task, self.options, arrays, self.columns, self.inputs + other.inputs)

    def to_bytes(self) -> bytes:
        """The state file's content."""
        header = {
            "schema": SCHEMA,
            "task": asdict(self.task),
            "options": self.options.to_dict(),
            "columns": self.columns,
            "inputs": self.inputs,
            "digest": self.digest,
        }
        text = _json(header)
        packed = zlib.compress(b"".join(self.arrays[n].astype("<i8").tobytes() for n in sorted(self.arrays)), 6)
        body = MAGIC + len(text).to_bytes(8, "little") + text + packed
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "state") -> State:
        """Reads a state back. Raises `DataError` when the bytes are not a state, are damaged or come from another version."""
        if not data.startswith(MAGIC):
            known = data.startswith(MAGIC.split(b" 1")[0])
            raise DataError(f"{source}: {'a state of another version' if known else 'not a streamloss state'}")
        body, checksum = data[:-32], data[-32:]
        if hashlib.sha256(body).digest() != checksum:
            raise DataError(f"{source}: the state is damaged: its checksum does not match (truncated or edited?)")
        try:
            start = len(MAGIC) + 8
            stop = start + int.from_bytes(body[len(MAGIC) : start], "little")
            state = cls._from_header(json.loads(body[start:stop]), body[stop:])
        except (ValueError, KeyError, TypeError, OverflowError, zlib.error, StreamlossError, RecursionError) as error:
            raise DataError(f"{source}: the state cannot be read: {error}") from error
        return state

    @classmethod
    def _from_header(cls, header: dict[str, Any], packed: bytes) -> State:
        """The state that a header and its arrays describe. Raises `ValueError` and its like for what cannot be."""
        if header["schema"] != SCHEMA:
            raise ValueError(f"schema {header['schema']!r}")
        task = Task(**header["task"])
        if type(task.classes) is not int or not 0 <= task.classes <= MAX_CLASSES:
            raise ValueError(f"{task.classes!r} classes")
        columns, inputs = header["columns"], header["inputs"]
        if not all(isinstance(text, str) for text in (*columns, *columns.values())):
            raise ValueError("columns that are not text")
        if not all(isinstance(entry, dict) and isinstance(entry["path"], str | None) for entry in inputs):
            raise ValueError("inputs without a path")
        state = cls(task, Options.of(**header["options"]), {}, dict(columns), list(inputs))
        shapes = layout(task, state.options)
        expected = 8 * sum(math.prod(shape) for _, shape in shapes.values())
        unpacked = zlib.decompressobj().decompress(packed, expected + 1)
        if len(unpacked) != expected:
            raise ValueError(f"{len(unpacked)} bytes of arrays where {expected} belong")
        at = 0
        for name in sorted(shapes):
            shape = shapes[name][1]
            flat = np.frombuffer(unpacked, dtype="<i8", count=math.prod(shape), offset=at)
            state.arrays[name] = flat.astype(np.int64).reshape(shape)
            at += flat.nbytes
        state._check()
        if header["digest"] != state.digest:
            raise ValueError("it does not have the digest that it names")
        return state

    def _check(self) -> None:
        """Raises `ValueError` for numbers that no rows can give: negative counts, digits that are not canonical."""
        canonical = {name: array.copy() for name, array in self.arrays.items()}
        normalize(canonical, layout(self.task, self.options))
        for name, array in self.arrays.items():
            if not np.array_equal(array, canonical[name]):
                raise ValueError(f"{name} that are not canonical")
        used = int(self.arrays["ledger"][USED])
        infinite, counts = self.arrays["infinite"], [self.arrays[n] for n in ("ledger", "infinite", "histogram")]
        if any((array < 0).any() for array in counts) or (infinite > used).any():
            raise ValueError("counts that cannot be")
        for name in ("reliability", "classes"):
            rows = self.arrays[name][:, 0]
            if (rows < 0).any() or int(rows.sum()) > used:
                raise ValueError(f"{name} that cannot be")


def merge(states: Sequence[State]) -> State:
    """All of them together."""
    whole = states[0]
    for state in states[1:]:
        whole = whole.merged(state)
    return whole


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
