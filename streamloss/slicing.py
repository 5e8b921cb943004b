"""Adding rows to the groups of `slices`, and the groups of one run to those of another.

The groups kept are the `cap` first in the order of their keys (null, false, true, numbers, text), whatever was seen first; the
rows of all others are in group 0, `OTHER`. Whoever drops a key drops all above it, and no key above the last one kept comes
back: parts that were cut apart merge to what they are together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss import memory
from streamloss.digits import (
    BIAS,
    BUCKETS,
    FIXED_BITS,
    FIXED_DIGITS,
    HIGHEST,
    LIMB_BITS,
    LIMBS,
    LOWEST,
    Array,
    carry,
    carry_fixed,
    carry_limbs,
    fits_window,
    limbs_int,
    put_limbs,
)
from streamloss.errors import StreamlossError
from streamloss.growing import add_at, cuts, extended, gathered, listed, more_rows, moved_up, pieces, sum_up
from streamloss.memory import Claim
from streamloss.options import Options, Task
from streamloss.quantities import Plan, plan
from streamloss.slices import (
    BINS,
    CLUSTER,
    EXTREMES,
    FIXED,
    FIXED_FROM,
    OTHER,
    PAGE,
    SUMS,
    WINDOW,
    WINDOWS,
    Key,
    Settled,
    blocks,
    bytes_reported,
    kinds,
    layout,
    most_groups,
    order,
    pages_width,
)

_SLACK = 1.25  # so many times the cap there may be before groups are dropped
_HELD = "slices"  # the kind of our claims
_PAGES = 2  # of a histogram of a slice, where it is not known yet
_SURELY = 1.5  # so many times fewer slices than seem to fit


class Slices:
    """The groups of the columns `by`, or all rows where there are none; `p` says what is added up, if it is not what
    an evaluation does.

    Their arrays are public, for the kernels to add to; `make_room` and `carry` go before.
    """

    def __init__(self, task: Task, options: Options, by: tuple[str, ...], p: Plan | None = None) -> None:
        self.task, self.options, self.by, self.cap = task, options, by, most_groups(options, by)
        self.plan = plan(task, options) if p is None else p
        self.shapes = layout(task, options, self.plan, by)
        self.table_width = pages_width(task, self.plan)
        self.keys: list[Key] = [()]  # of the groups by number; OTHER has none
        self._numbers: dict[Key, int] = {}
        self._asked: Sequence[Key] = ()  # keys that were all known, and their numbers
        self._given = np.zeros(0, dtype=np.int32)
        self._last: tuple[tuple[int, Any], ...] | None = None  # no key after it has a group of its own
        self.arrays = {name: np.zeros((1, *shape), dtype=np.int64) for name, (_, shape) in self.shapes.items()}
        self._reset(0)
        self.far = np.zeros((1, blocks(self.plan)), dtype=np.int32)
        self.table = np.zeros((1, self.table_width), dtype=np.int32)
        self.wide = np.zeros((1, SUMS, LIMBS), dtype=np.int64)
        self.pages: NDArray[Any] = np.zeros((1, PAGE, *self._counter), dtype=np.int64 if task.weighted else np.int32)
        self.taken = np.zeros(2, dtype=np.int64)  # rows of wide and of pages in use; row 0 is not to be used
        self._rows = 0  # counted since the pages had room for 2^31
        self._claim = Claim(_HELD)

    @property
    def _counter(self) -> tuple[int, ...]:
        return (FIXED_DIGITS,) if self.task.weighted else ()

    def __len__(self) -> int:
        """The groups, OTHER among them."""
        return len(self.keys)

    # ---- keys

    def numbers(self, keys: Sequence[Key]) -> NDArray[np.int32]:
        """The number of each key's group; new keys get a group, as long as they are not beyond the cap.

        Numbers given out before are no longer right when groups had to be dropped: ask for all that are needed at once.
        """
        if keys == self._asked:  # most batches have the same keys
            return self._given
        known = [self._numbers.get(key, -1) for key in keys]
        if -1 not in known:
            self._asked, self._given = keys, np.array(known, dtype=np.int32)
            return self._given
        new = {key for key in keys if key not in self._numbers and not self._beyond(key)}
        if len(self._numbers) + len(new) > self.cap * _SLACK:
            self._drop(new)
            new = {key for key in new if not self._beyond(key)}
        self._admit(key for key in dict.fromkeys(keys) if key in new)
        return np.array([self._numbers.get(key, OTHER) for key in keys], dtype=np.int32)

    def _beyond(self, key: Key) -> bool:
        return self._last is not None and order(key) > self._last

    def _admit(self, keys: Iterable[Key]) -> None:
        new = list(keys)
        self._grow(len(self.keys) + len(new))  # before anything counts on it
        self._numbers.update(zip(new, range(len(self.keys), len(self.keys) + len(new)), strict=True))
        self.keys += new

    def _grow(self, groups: int) -> None:
        """Makes the arrays hold so many groups."""
        room = len(self.far)
        if groups <= room:
            return
        more = more_rows(groups, room)
        own: list[NDArray[Any]] = [*self.arrays.values(), self.far, self.table]
        self._hold((more - room) * sum(array[:1].nbytes for array in own), groups)
        self.arrays = {name: extended(array, more) for name, array in self.arrays.items()}
        self._reset(room)
        self.far, self.table = extended(self.far, more), extended(self.table, more)

    def _reset(self, first: int) -> None:
        """Has groups from `first` on, of zeros, hold nothing."""
        self.arrays["extremes"][first:] = HIGHEST, LOWEST

    def _hold(self, more: int, groups: int) -> None:
        """Claims so many bytes more, for so many groups. Raises `Exceeded`."""
        n, by, size = groups - 1, [name for name in self.by if name != CLUSTER], self._claim.size + more
        shares = 1 if (allotted := memory.allotted()) is None else allotted.threads
        reported = bytes_reported(self.options, self.plan) if by == [*self.by] else 0
        # When the report is made, there is one of the shares left.
        expected = max(0, n * reported - (shares - 1) * size)
        memory.expect((self.by, self.task, self.options, *self.plan.table), expected)

        def advice(missing: int) -> str:
            pages = _PAGES * PAGE * 4 * len(self.plan.spread)
            own = shares * (size / n + pages) + max(0, reported - (shares - 1) * size / n)
            ours = more + memory.held(_HELD) + expected
            fit = int(min((ours - missing) / own, n * (1 - missing / ours)) / _SLACK / _SURELY)
            return (f"--max-slices {fit} would fit, " if fit > 0 else "") + "fewer slices or --threads take less"

        what = f"{n} slices by {','.join(by)!r} do not fit" if by else "the sums of all rows do not fit"
        self._claim.to(size, lambda: what, advice if by and n else None)

    def _drop(self, new: Iterable[Key] = ()) -> None:
        """Moves the groups beyond the cap into OTHER, `new` keys being counted among those that there are."""
        kept = sorted({*self._numbers, *new}, key=order)[: self.cap]
        if len(kept) == self.cap:
            self._last = order(kept[-1])
        beyond = np.array([number for key, number in self._numbers.items() if self._beyond(key)], dtype=np.int64)
        if not len(beyond):
            return
        n, pick = len(self), np.setdiff1d(np.arange(len(self)), beyond)
        for name, (kind, _) in self.shapes.items():
            array = self.arrays[name]
            if kind == EXTREMES:
                ends = array[OTHER]
                np.minimum(ends[..., 0], array[beyond][..., 0].min(axis=0), out=ends[..., 0])
                np.maximum(ends[..., 1], array[beyond][..., 1].max(axis=0), out=ends[..., 1])
            else:
                sum_up(array, beyond, array[OTHER])
            moved_up(array[:n], pick)
        self._reset(len(pick))
        self._drop_rows(0, self.far[:n], self.wide, beyond, pick)
        self._drop_rows(1, self.table[:n], self.pages, beyond, pick)
        self.keys = [self.keys[i] for i in pick.tolist()]
        self._numbers = {key: i for i, key in enumerate(self.keys) if i}
        self._asked = ()

    def _drop_rows(self, at: int, table: NDArray[np.int32], rows: NDArray[Any], beyond: Array, pick: Array) -> None:
        """Gives OTHER the rows of wide or of pages of the groups beyond the cap, and moves up what is left."""
        _, place, lines = listed(table[beyond])
        found, first = np.unique(place, return_index=True)
        new = table[OTHER, found] == 0
        table[OTHER, found[new]] = lines[first[new]]  # OTHER takes over the first one
        rest = np.delete(np.arange(len(place)), first[new])
        add_at(rows, table[OTHER, place[rest]], rows, lines[rest])
        moved_up(table, pick)
        live = np.sort(table[table != 0])
        count = int(self.taken[at])
        numbers = np.zeros(count + 1, dtype=np.int32)
        numbers[live] = 1 + np.arange(len(live))
        for cut in cuts(len(table)):
            table[cut] = numbers[table[cut]]
        moved_up(rows[1 : count + 1], live - 1)
        self.taken[at] = len(live)

    # ---- adding

    def make_room(self, rows: int = 0, wide: int = 0, pages: int = 0) -> None:
        """Before so many rows are counted, and where there is no room for so many more whole limbs or pages."""
        self._rows += rows
        if self._rows >= 1 << 31 and self.pages.dtype == np.int32:
            self.pages = self.pages.astype(np.int64)
        for name, more, at in (("wide", wide, 0), ("pages", pages, 1)):
            array = getattr(self, name)
            if (wanted := int(self.taken[at]) + more + 1) > len(array):
                rows = more_rows(wanted, len(array))
                self._hold((rows - len(array)) * array[:1].nbytes, len(self))
                setattr(self, name, extended(array, rows))

    def carry(self) -> None:
        """Makes the digits canonical, so that the next rows cannot overflow them."""
        for name, (kind, _) in self.shapes.items():
            for array in pieces(self.arrays[name][: len(self)]):
                if kind == WINDOW:
                    for i in range(array.shape[-1] - 1):
                        carry(array, i, i + 1, LIMB_BITS)
                elif kind == BINS:
                    carry(array, 3, 2, FIXED_BITS)
                elif kind == FIXED:
                    carry_fixed(array, FIXED_FROM[name])
        for array in pieces(self.wide[: self.taken[0] + 1]):
            carry_limbs(array)
        for array in pieces(self.pages[: self.taken[1] + 1]):
            if self.task.weighted:
                carry_fixed(array)

    def absorb(self, other: Slices) -> None:
        """Adds what another one of the same task, options and columns has; it is left as it was but for its digits."""
        self._absorb(other, last=False)

    def take_over(self, other: Slices) -> None:
        """The same with one that nobody needs any more: its memory is given back on the way, and where there is nothing to
        add it to, nothing is copied.
        """
        if len(self) == 1 and self._last is None and not self.taken.any() and not self.arrays["ledger"].any():
            vars(self).update(vars(other))
        else:
            self._absorb(other, last=True)

    def absorb_settled(self, other: Settled) -> None:
        """The same of a canonical form. Raises `StreamlossError` where a column has values of two kinds."""
        for name, mine, theirs in zip(self.by, kinds(self.by, self.keys), kinds(other.by, other.keys), strict=True):
            if len(both := sorted({_KINDS[kind] for kind in mine | theirs})) > 1:
                raise StreamlossError(f"the slices by {name!r} do not merge: there are {' and '.join(both)} in it")
        self.take_over(Slices.of(other))

    def _absorb(self, other: Slices, last: bool) -> None:
        other.carry()
        self.carry()
        if other._last is not None and (self._last is None or other._last < self._last):
            self._last = other._last
        self._admit(key for key in other.keys[1:] if key not in self._numbers and not self._beyond(key))
        to = np.array([OTHER, *(self._numbers.get(key, OTHER) for key in other.keys[1:])])
        if self._last is not None:
            to[[i for i, key in enumerate(other.keys) if i and self._beyond(key)]] = OTHER
        n, own, beyond = len(other), np.flatnonzero(to != OTHER), np.flatnonzero(to == OTHER)
        for name, (kind, _) in self.shapes.items():
            mine, theirs = self.arrays[name], other.arrays[name][:n]
            if kind == EXTREMES:
                np.minimum.at(mine[..., 0], to, theirs[..., 0])
                np.maximum.at(mine[..., 1], to, theirs[..., 1])
            else:
                for cut in cuts(len(own)):
                    mine[to[own[cut]]] += theirs[own[cut]]  # of these no two go to the same place
                sum_up(theirs, beyond, mine[OTHER])
            if last:
                other.arrays[name] = np.zeros((0, *theirs.shape[1:]), dtype=np.int64)
        self._rows += other._rows
        self._absorb_rows("wide", 0, self.far, other.far[:n], other.wide, to)
        self.make_room()
        self._absorb_rows("pages", 1, self.table, other.table[:n], other.pages, to)
        if last:
            vars(other).update(vars(Slices(other.task, other.options, other.by, other.plan)))
        self._drop()
        self.carry()

    def _absorb_rows(
        self, name: str, at: int, table: NDArray[np.int32], other_table: NDArray[np.int32], theirs: NDArray[Any], to: Array
    ) -> None:
        """Adds the rows of whole limbs or pages that another's table points to."""
        group, place, lines = listed(other_table)
        if not len(group):
            return
        flat = table.reshape(-1)
        target = to[group] * table.shape[1] + place
        missing = np.unique(target[flat[target] == 0])
        self.make_room(**{name: len(missing)})
        flat[missing] = int(self.taken[at]) + 1 + np.arange(len(missing))
        self.taken[at] += len(missing)
        rows, own = getattr(self, name), to[group] != OTHER
        into, source = flat[target[own]], lines[own]
        for cut in cuts(len(into)):
            rows[into[cut]] += theirs[source[cut]]  # of these no two go to the same place
        add_at(rows, flat[target[~own]], theirs, lines[~own])

    def add_moments(self, arrays: dict[str, Array]) -> None:
        """Adds up the groups' sums into the moments and the infinite rows of a state's arrays."""
        n, m = len(self), len(self.plan.moments)
        low, width = WINDOWS[self.task.weighted]
        offset = (low + BIAS) // LIMB_BITS
        arrays["moments"][..., offset : offset + width] += self.arrays["moments"][:n].sum(axis=0)
        for group, block in np.argwhere(self.far[:n, :m]):
            arrays["moments"][block] += self.wide[self.far[group, block], : arrays["moments"].shape[1]]
        arrays["infinite"] += self.arrays["infinite"][:n].sum(axis=0)

    def add_whole(self, arrays: dict[str, Array]) -> None:
        """Adds up the groups, where that `makes_whole`, into a state's arrays."""
        self.carry()
        self.add_moments(arrays)
        n = len(self)
        for row in self.far[:n, -1][self.far[:n, -1] > 0]:
            arrays["cross"][0] += self.wide[row, 0]
        arrays["classes"] += self.arrays["classes"][:n].sum(axis=0)
        ends = self.arrays["extremes"][:n]
        np.minimum(arrays["extremes"][..., 0], ends[..., 0].min(axis=0), out=arrays["extremes"][..., 0])
        np.maximum(arrays["extremes"][..., 1], ends[..., 1].max(axis=0), out=arrays["extremes"][..., 1])
        group, page = np.nonzero(self.table[:n])
        if len(page):
            rows = self.table[group, page][np.argsort(page, kind="stable")]
            found, lines = np.unique(page, return_counts=True)
            counts = np.zeros((self.table_width, PAGE), dtype=np.int64)
            for number, own in zip(found, np.split(rows, np.cumsum(lines)[:-1]), strict=True):
                counts[number] = self.pages[own].sum(axis=0, dtype=np.int64)  # quicker than one reduceat over all of them
            arrays["histogram"][..., 0] += counts.reshape(len(self.plan.spread), -1)[:, :BUCKETS]

    # ---- the canonical form

    def settled(self, last: bool = False) -> Settled:
        """The canonical form: what equal rows give, to the bit, whatever way they were added. With `last` it takes over their
        memory, and they are of no more use.
        """
        self._drop()
        self.carry()
        self._settle_limbs()
        n = len(self)
        numbers = sorted(range(1, n), key=lambda i: order(self.keys[i]))
        if self.arrays["ledger"][OTHER].any():
            numbers = [OTHER, *numbers]
        pick = np.array(numbers, dtype=np.int64)
        rank = np.full(n, -1, dtype=np.int64)
        rank[pick] = np.arange(len(pick))
        copied = Claim(_HELD)
        copied.to(0 if last else self._claim.size, lambda: f"a copy of {n - 1} slices does not fit")
        arrays = {name: gathered(array, pick, last) for name, array in self.arrays.items()}
        for name, table in (("wide", self.far), ("pages", self.table)):
            group, place, lines = listed(table[:n])
            known = np.argsort(rank[group], kind="stable")
            known = known[rank[group[known]] >= 0]
            arrays[f"{name}_at"] = np.stack([rank[group[known]], place[known]], axis=1)
            arrays[name] = gathered(getattr(self, name), lines[known], last)  # pages in int32 too: there are a great many
        settled = Settled(self.task, self.options, self.plan, self.by, [self.keys[i] for i in numbers], arrays)
        settled.claim = self._claim if last else copied
        return settled

    def _settle_limbs(self) -> None:
        """Gathers window and whole limbs of every block in the window where they fit, else in the whole limbs."""
        low, width = WINDOWS[self.task.weighted]
        offset = (low + BIAS) // LIMB_BITS
        m = len(self.plan.moments)
        for group, block in np.argwhere(self.far):
            row = self.far[group, block]
            whole = self.wide[row]
            window: Array | None = None
            if block < m:
                window = self.arrays["moments"][group, block]
            elif block < 2 * m and self.task.weighted:
                window = self.arrays["infinite_weight"][group, block - m]
            elif block == 2 * m and self.task.weighted:
                window = self.arrays["weight"][group]
            if window is None:
                continue
            totals = [limbs_int(whole[s]) + (limbs_int(window[s]) << LIMB_BITS * offset) for s in range(len(window))]
            inside = all(fits_window(total, offset, width) for total in totals)
            window[...] = 0
            whole[...] = 0
            for s, total in enumerate(totals):
                if inside:
                    put_limbs(total >> LIMB_BITS * offset, window[s])
                else:
                    put_limbs(total, whole[s])
            if inside:
                self.far[group, block] = 0

    @classmethod
    def of(cls, settled: Settled) -> Slices:
        """What goes on from a canonical form."""
        slices = cls(settled.task, settled.options, settled.by, settled.plan)
        own = np.arange(len(settled.keys)) + (not settled.has_other)
        slices._admit(key for key in settled.keys if key)
        if settled.has_other and len(slices) > 1:
            slices._last = order(settled.keys[-1])
        for name in slices.shapes:
            slices.arrays[name][own] = settled.arrays[name]
        slices.make_room(rows=int(settled.arrays["ledger"].sum()))  # before the pages are filled: they may hold 2^31
        for name, at, table in (("wide", 0, slices.far), ("pages", 1, slices.table)):
            rows = settled.arrays[name]
            slices.make_room(**{name: len(rows)})
            getattr(slices, name)[1 : len(rows) + 1] = rows
            group, place = settled.arrays[f"{name}_at"].T
            table[own[group], place] = 1 + np.arange(len(rows))
            slices.taken[at] = len(rows)
        return slices


def merged(one: Settled, other: Settled) -> Settled:
    """The groups of the rows of both; neither changes. Raises `StreamlossError` where a column has values of two kinds."""
    whole = Slices.of(one)
    whole.absorb_settled(other)
    return whole.settled()


def read(task: Task, options: Options, p: Plan, header: dict[str, Any], arrays: dict[str, Array]) -> Settled:
    """What a header (see `Settled.header`) and its arrays describe. Raises `ValueError` for what no rows can give."""
    keys = [tuple(key) for key in header["keys"]]
    by = tuple(header["by"])
    if any(len(key) != len(by) and (key or i) for i, key in enumerate(keys)):
        raise ValueError("slices whose keys are not those of their columns")
    if not all(v is None or type(v) in (bool, int, str) for key in keys for v in key):
        raise ValueError("slices whose keys are no values")
    settled = Settled(task, options, p, by, keys, arrays)
    if any(len(found) > 1 for found in kinds(by, keys)):
        raise ValueError("slices whose keys are of several kinds")
    if len(set(keys)) < len(keys):
        raise ValueError("two slices of one key")
    "".join(v for key in keys for v in key if isinstance(v, str)).encode()  # raises where it is no text that can be written
    if by and settled.has_other and len(keys) <= options.max_slices:
        raise ValueError("slices beyond a cap that is not reached")
    for at, width in ((arrays["wide_at"], blocks(p)), (arrays["pages_at"], pages_width(task, p))):
        if (at < 0).any() or (at >= [len(keys), width]).any() or len(np.unique(at, axis=0)) != len(at):
            raise ValueError("slices whose limbs or pages cannot be")
    again = Slices.of(settled).settled()
    if again.keys != keys or any(not np.array_equal(array, again.arrays[name]) for name, array in arrays.items()):
        raise ValueError("slices that are not canonical")
    return settled


_KINDS = {bool: "booleans", int: "numbers", str: "text"}
