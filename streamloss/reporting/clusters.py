"""Errors that know that rows of a cluster go together: the delete-a-group jackknife.

Clusters are thrown to G groups by a hash of their value (1,000 of all rows, 64 of a slice), whose sums are exact. With
θ = X / W over all rows and θ₋g without those of group g, the standard error is √((G − 1)/G · Σ (θ₋g − θ̄)²) over the G groups
with rows (Kott, The Delete-a-Group Jackknife, 2001). More clusters than groups are no loss; of few clusters the groups are the
clusters, but for those that meet in one. With G below about 30 intervals are too narrow: errors are estimates of few numbers.
"""

from __future__ import annotations

import math
from itertools import groupby

from streamloss.digits import BIAS
from streamloss.errors import USED
from streamloss.slices import Key, Settled


class Clusters:
    """The groups of clusters that some rows fall into; `groups` are their places in the settled groups."""

    def __init__(self, settled: Settled, groups: range) -> None:
        self._settled, self._groups = settled, groups

    def parts(self, key: str, below: str | None = None) -> list[tuple[int, int]]:
        """(Σwx, Σw) of the finite rows of every group, or Σwx of two quantities; whole numbers of 2^-BIAS."""
        if below is not None:
            return [(x, y) for (x, _), (y, _) in zip(self.parts(key), self.parts(below), strict=True)]
        found, at = [], self._settled.plan.index(key)
        m, weighted = len(self._settled.plan.moments), self._settled.task.weighted
        for g in self._groups:
            unit = self._settled.unit(g)
            x = self._settled.sums("moments", g, at, at)[0]
            if weighted:
                lost = self._settled.sums("infinite_weight", g, m + at, at)[0]
                w = self._settled.sums("weight", g, 2 * m)[0] - lost
            else:
                ledger, infinite = self._settled.arrays["ledger"], self._settled.arrays["infinite"]
                w = (int(ledger[g, USED]) - int(infinite[g, at])) << unit
            found.append((x << BIAS - unit, w << BIAS - unit))
        return found


def clusters_of(settled: Settled | None) -> dict[Key, Clusters]:
    """The clusters of every slice by its key, of all rows by `()`; nothing where there are none."""
    if settled is None:
        return {}
    found = {}
    for key, numbers in groupby(range(len(settled.keys)), key=lambda g: settled.keys[g][:-1]):
        own = list(numbers)
        if settled.keys[own[0]]:
            found[key] = Clusters(settled, range(own[0], own[-1] + 1))
    return found


def no_clusters(settled: Settled) -> Clusters:
    """Those of the slice of what is beyond the cap, of which they are not kept: it has no error."""
    return Clusters(settled, range(0))


def _shortened(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same in the largest unit that they are whole numbers of."""
    every = 0
    for x, w in parts:
        every |= x | w
    spare = (every & -every).bit_length() - 1 if every else 0
    return [(x >> spare, w >> spare) for x, w in parts]


def jackknife(parts: list[tuple[int, int]]) -> float | None:
    """The standard error of Σx / Σw from (x, w) of every group; None where there are not two of them to tell it from."""
    shifts = shifted(parts)
    if shifts is None:
        return None
    return spread(shifts)


def shifted(parts: list[tuple[int, int]]) -> list[float] | None:
    """θ₋g − θ of every group that has rows: by how much the ratio moves without it."""
    parts = _shortened([(x, w) for x, w in parts if w])
    x, w = sum(x for x, _ in parts), sum(w for _, w in parts)
    if len(parts) < 2 or not w or any(w == own for _, own in parts):
        return None
    try:
        return [(x * own - w * part) / (w * (w - own)) for part, own in parts]
    except OverflowError:
        return [math.inf for _ in parts]


def spread(values: list[float]) -> float:
    """The standard error of a figure from its values without each group; infinite where one of them is."""
    try:
        mean = math.fsum(values) / len(values)
    except (OverflowError, ValueError):  # a sum that is too large, or infinities of both signs
        return math.inf
    if not math.isfinite(mean):
        return math.inf
    return math.sqrt((len(values) - 1) / len(values)) * math.hypot(*(value - mean for value in values))
