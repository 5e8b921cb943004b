"""The exact state of an evaluation: named integer arrays that merge by adding, in any order, to the same bits.

What stands in it are limbs, Fixed digits and counts (see `digits`), of all rows and, with `--by`, of slices (see `slices`).
All are canonical after `normalize`, so a state has one byte string and its SHA-256 is the `digest` of the report. Row values
are in nats.

State files: the magic line, a JSON header (length first), the zlib-compressed arrays, a SHA-256 of all before. Version 2.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from streamloss import slicing
from streamloss.coherence import check_groups, check_whole
from streamloss.conventions import lines
from streamloss.digits import (
    BUCKETS,
    CLASS_SUMS,
    CLASS_WEIGHT,
    CONVENTION_COUNTS,
    FIXED_DIGITS,
    HIGHEST,
    LEDGER,
    LIMBS,
    LOWEST,
    RELIABILITY_WEIGHT,
    RELIABILITY_WIDTH,
    Array,
    carry_fixed,
    carry_limbs,
    limbs_value,
)
from streamloss.errors import RULES, USED, DataError, StreamlossError
from streamloss.extents import Extents
from streamloss.memory import Claim, told
from streamloss.options import DISPLAY, ROLES, Options, Task
from streamloss.quantities import Plan, plan
from streamloss.slices import FINE_BINS, Settled, beside, bins_kept, kept
from streamloss.slicing import Slices

MAGIC = b"streamloss state 2\n"
SCHEMA = "streamloss.state/2"
_ADD, _LIMBS, _FIXED, _EXTREMES = "add", "limbs", "fixed", "extremes"
MAX_CLASSES = 1 << 31
_PACKING = 1  # of zlib; 6 makes files a fifth smaller and takes three times as long
_HASHED = 512  # lines of an array that are hashed or packed at a time, for some are kept in a narrower type


def fine_bins(bins: int) -> int:
    """The number of confidence bins that are kept: the smallest multiple of `bins` from 10,000 on, so `bins` is a view."""
    return bins_kept(bins, FINE_BINS)


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
    if options.convention:
        n = len(lines(task, options))
        shapes |= {"conventions": (_LIMBS, (n, 2, LIMBS)), "convention_rows": (_ADD, (n, CONVENTION_COUNTS))}
    return shapes


# Where the Fixed digits begin in each array's last axis.
_FIXED_FROM = {"histogram": 0, "reliability": RELIABILITY_WEIGHT, "classes": CLASS_WEIGHT, "mean_probabilities": 0}


def empty_arrays(shapes: dict[str, tuple[str, tuple[int, ...]]], lead: tuple[int, ...] = ()) -> dict[str, Array]:
    """Arrays that hold nothing yet; `lead` puts axes (threads) before each shape."""
    arrays = {name: np.zeros(lead + shape, dtype=np.int64) for name, (_, shape) in shapes.items()}
    arrays["extremes"][..., 0] = HIGHEST
    arrays["extremes"][..., 1] = LOWEST
    return arrays


def normalize(arrays: dict[str, Array], shapes: dict[str, tuple[str, tuple[int, ...]]], above: int = 0) -> None:
    """Makes limbs and Fixed digits canonical, in place; arrays without a digit of `above` in size may stay as they are."""
    for name, (kind, _) in shapes.items():
        array = arrays[name]
        if kind not in (_LIMBS, _FIXED) or not array.size or (above and max(int(array.max()), -int(array.min())) < above):
            continue
        if kind == _LIMBS:
            carry_limbs(array)
        elif kind == _FIXED:
            carry_fixed(array, _FIXED_FROM[name])


def absorb(arrays: dict[str, Array], others: dict[str, Array], shapes: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Adds the others to the arrays, in place; extremes take the lesser and the greater."""
    for name, (kind, _) in shapes.items():
        mine, theirs = arrays[name], others[name]
        if kind == _EXTREMES:
            np.minimum(mine[..., 0], theirs[..., 0], out=mine[..., 0])
            np.maximum(mine[..., 1], theirs[..., 1], out=mine[..., 1])
        else:
            mine += theirs


def loss_of(task: Task, p: Plan, arrays: dict[str, Array]) -> tuple[Fraction, Fraction]:
    """The sum of the cross-entropies of the finite rows, in nats, and of their weights; 0 where there are none."""
    if "cross_entropy" not in [q.key for q in p.moments]:
        return Fraction(0), Fraction(0)
    at = p.index("cross_entropy")
    total = limbs_value(arrays["moments"][at, 0])
    if task.weighted:
        return total, limbs_value(arrays["weight"][0])
    return total, Fraction(int(arrays["ledger"][USED] - arrays["infinite"][at]))


@dataclass
class State:
    """What has been added up so far. `columns` and `inputs` say of what; they are recorded and not part of the digest, and
    neither is what `made` it: whose row values these are to the last bit.

    An input of which not all rows are in it has "done", runs of rows (see `rows_done`).
    """

    task: Task
    options: Options
    arrays: dict[str, Array]
    slices: list[Settled] = field(default_factory=list)  # one for each of `slices.kept`
    columns: dict[str, str] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    made: str = ""

    @classmethod
    def empty(cls, task: Task, options: Options) -> State:
        """The state of no rows: merging it changes nothing."""
        slices = [Slices(task, o, by, p).settled() for by, p, o in kept(task, options, plan(task, options))]
        return cls(task, options, empty_arrays(layout(task, options)), slices)

    @property
    def beside(self) -> dict[tuple[str, ...], Settled]:
        """The slices and clusters at the report's own temperature, by their columns."""
        return {settled.by: settled for settled in self.slices[: beside(self.options)]}

    @property
    def curve(self) -> list[dict[tuple[str, ...], Settled]]:
        """All rows, by no columns, and the slices at every temperature of the sweep, by their columns."""
        first, step = beside(self.options), 1 + len(self.options.groupings)
        return [{settled.by: settled for settled in self.slices[i : i + step]} for i in range(first, len(self.slices), step)]

    @property
    def rows_read(self) -> int:
        """All rows: used, ignored and left out."""
        return int(self.arrays["ledger"][: len(RULES) + 2].sum())

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
        headers = [settled.header() for settled in self.slices]
        hashed = hashlib.sha256(_json(self.definition if not headers else [self.definition, headers]))
        for name, array in self._named_arrays():
            hashed.update(f"\n{name} {array.shape}\n".encode())
            for piece in _as_written(array):
                hashed.update(piece)
        return hashed.hexdigest()

    def _named_arrays(self) -> Iterator[tuple[str, Array]]:
        """All arrays, those of slices after the others, in the order in which they are hashed and written."""
        for name in sorted(self.arrays):
            yield name, self.arrays[name]
        for i, settled in enumerate(self.slices):
            for name in sorted(settled.arrays):
                yield f"slices {i} {name}", settled.arrays[name]

    def merged(self, other: State) -> State:
        """The state of the rows of both; neither changes. Raises `StreamlossError` when the definitions differ."""
        return merge([self, other])

    @property
    def marks(self) -> list[str]:
        """What identifies the rows: the files, or the digest when they came from memory or a stream."""
        files = [entry.get("identity") for entry in self.inputs if entry.get("done") != []]
        if self.inputs and all(files):
            return [str(file) for file in files]
        return [f"the same rows (digest {self.digest[:12]})"]

    def differences(self, other: State) -> Iterator[tuple[str, Any, Any]]:
        """The name and both values of every option, column or fact of the task in which two states differ."""
        pairs = (
            (dict(vars(self.task)), dict(vars(other.task))),
            (self.options.definition, other.options.definition),
            (self.columns, other.columns),
        )
        for mine, theirs in pairs:
            for name in sorted({*mine, *theirs}):
                if mine.get(name) != theirs.get(name):
                    yield name, mine.get(name), theirs.get(name)

    def to_bytes(self) -> bytes:
        """The state file's content."""
        header = {
            "schema": SCHEMA,
            "task": asdict(self.task),
            "options": self.options.to_dict(),
            "columns": self.columns,
            "inputs": self.inputs,
            "made": self.made,
            "slices": [settled.header() for settled in self.slices],
            "digest": self.digest,
        }
        text = _json(header)
        packer = zlib.compressobj(_PACKING)
        packed = [packer.compress(piece) for _, array in self._named_arrays() for piece in _as_written(array)]
        body = b"".join([MAGIC, len(text).to_bytes(8, "little"), text, *packed, packer.flush()])
        return body + hashlib.sha256(body).digest()

    @classmethod
    def read(cls, path: str | Path) -> State:
        """The state in a file. Raises `DataError` when it cannot be read, and as `from_bytes`."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot read the state: {error.strerror or error}") from error
        return cls.from_bytes(data, str(path))

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "state") -> State:
        """Reads a state back. Raises `DataError` when the bytes are not a state, are damaged or come from another version."""
        if not data.startswith(MAGIC):
            known = data.startswith(MAGIC.split(b" 2")[0])
            raise DataError(f"{source}: {'a state of another version' if known else 'not a streamloss state'}")
        body, checksum = data[:-32], data[-32:]
        if hashlib.sha256(body).digest() != checksum:
            raise DataError(f"{source}: the state is damaged: its checksum does not match (truncated or edited?)")
        try:
            start = len(MAGIC) + 8
            stop = start + int.from_bytes(body[len(MAGIC) : start], "little")
            header = json.loads(body[start:stop])
            _json(header)  # raises where a number is none of JSON's
            state = cls._from_header(header, body[stop:])
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
        if not isinstance(columns, dict) or not all(isinstance(text, str) for text in (*columns, *columns.values())):
            raise ValueError("columns that are not text")
        for entry in inputs:
            _check_input(entry)
        if not isinstance(made := header.get("made", ""), str):
            raise ValueError("a maker that is no text")
        options = Options.of(**header["options"])
        groups = kept(task, options, plan(task, options))
        if [tuple(each["by"]) for each in header["slices"]] != [by for by, _, _ in groups]:
            raise ValueError("slices that were not asked for")
        shapes = [{name: shape for name, (_, shape) in layout(task, options).items()}]
        shapes += [Settled.expected(task, o, p, each) for (_, p, o), each in zip(groups, header["slices"], strict=True)]
        arrays = _unpacked(packed, shapes)
        found = zip(groups, header["slices"], arrays[1:], strict=True)
        slices = [slicing.read(task, o, p, each, of_it) for (_, p, o), each, of_it in found]
        state = cls(task, options, arrays[0], slices, dict(columns), list(inputs), made)
        state._check()
        if header["digest"] != state.digest:
            raise ValueError("it does not have the digest that it names")
        return state

    def _check(self) -> None:
        """Raises `ValueError` for numbers that no rows can give, and for digits that are not canonical."""
        canonical = {name: array.copy() for name, array in self.arrays.items()}
        normalize(canonical, layout(self.task, self.options))
        for name, array in self.arrays.items():
            if not np.array_equal(array, canonical[name]):
                raise ValueError(f"{name} that are not canonical")
        check_whole(self.task, self.options, plan(self.task, self.options), self.arrays)
        for settled in self.slices:
            check_groups(settled, self.arrays["ledger"])


class Total:
    """States of one definition, added up as they come."""

    def __init__(self, first: State) -> None:
        self._first = first
        self._shapes = layout(first.task, first.options)
        self._arrays = {name: array.copy() for name, array in first.arrays.items()}
        self._slices = [Slices.of(settled) for settled in first.slices]
        self._inputs = list(first.inputs)

    def add(self, state: State) -> None:
        """Adds a state, which is left as it is. Raises `StreamlossError` when its definition is another one."""
        if state.definition != self._first.definition:
            raise StreamlossError("states of different tasks or options do not merge")
        absorb(self._arrays, state.arrays, self._shapes)
        normalize(self._arrays, self._shapes, above=1 << 61)
        for mine, theirs in zip(self._slices, state.slices, strict=True):
            mine.absorb_settled(theirs)
        self._inputs += state.inputs

    def loss_so_far(self) -> tuple[Fraction, Fraction]:
        """As `loss_of`."""
        return loss_of(self._first.task, plan(self._first.task, self._first.options), self._arrays)

    def state(self, last: bool = False) -> State:
        """The state of all rows so far; more may be added afterwards, unless it is the `last`, which takes less memory."""
        normalize(self._arrays, self._shapes)
        arrays = {name: array.copy() for name, array in self._arrays.items()}
        slices = [slices.settled(last) for slices in self._slices]
        return replace(self._first, arrays=arrays, slices=slices, inputs=list(self._inputs))


def merge(states: Sequence[State]) -> State:
    """All of them together."""
    total = Total(states[0])
    for state in states[1:]:
        total.add(state)
    return total.state(last=True)


def rows_done(entry: dict[str, Any]) -> Extents:
    """Which rows of an input are in a state: all, unless it says which. Raises `ValueError` and its like for what cannot be."""
    rows = entry["rows"]
    done = Extents(entry.get("done", [(0, rows)] if rows else []))
    if "done" in entry and max((end for _, end in done), default=0) > rows:
        raise ValueError("more rows done of an input than it has")
    return done


def _check_input(entry: Any) -> None:
    """Raises `ValueError` for what is no input."""
    if not isinstance(entry, dict) or not isinstance(entry["path"], str | None):
        raise ValueError("inputs without a path")
    if not all(type(entry.get(name)) in (int, type(None)) for name in ("rows", "bytes")):
        raise ValueError("inputs without a size")
    if not all(type(entry.get(name)) in (str, type(None)) for name in ("identity", "footer")):
        raise ValueError("inputs without an identity")
    if "done" in entry:
        rows_done(entry)


def _unpacked(packed: bytes, shapes: list[dict[str, tuple[int, ...]]]) -> list[dict[str, Array]]:
    """Arrays of these shapes from their bytes. Raises `ValueError` when there are more or fewer of them."""
    expected = 8 * sum(math.prod(shape) for each in shapes for shape in each.values())
    Claim("states").to(2 * expected, lambda: f"a state of {told(expected)} does not fit")
    unpacked = zlib.decompressobj().decompress(packed, expected + 1)
    if len(unpacked) != expected:
        raise ValueError(f"{len(unpacked)} bytes of arrays where {expected} belong")
    found: list[dict[str, Array]] = []
    at = 0
    for each in shapes:
        found.append({})
        for name in sorted(each):
            flat = np.frombuffer(unpacked, dtype="<i8", count=math.prod(each[name]), offset=at)
            found[-1][name] = flat.astype(np.int64).reshape(each[name])
            at += flat.nbytes
    return found


def _as_written(array: Array) -> Iterator[memoryview]:
    """The bytes of an array, some lines at a time."""
    return (np.ascontiguousarray(array[first : first + _HASHED], dtype="<i8").data for first in range(0, len(array), _HASHED))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
