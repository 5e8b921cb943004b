"""What other tools would add up: Σ factor·cost and Σ factor of rows, exactly, and how many rows are infinite, without a
number, or clipped.

Costs and factors are finite float64s but for infinite costs, which are counted and not added. Units: nats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from streamloss.digits import INFINITE, UNDEFINED
from streamloss.errors import USED
from streamloss.ieee.elementary import INF
from streamloss.jit import kernel, loop
from streamloss.kernels.limbs import add_float, product


@loop
def add_lines(
    costs: Any, factors: Any, code: Any, seen: Any, cut: Any, cut_at: int, first: int, last: int, sums: Any, rows: Any
) -> None:
    """Adds rows first … last to one thread's sums (2, LIMBS) and counts (CONVENTION_COUNTS,)."""
    weighted = factors.shape[0] > 0
    for i in range(first, last):
        if code[i] != USED:
            continue
        factor = factors[i] if weighted else 1.0
        add_float(sums[1], factor, np.int64(0))
        rows[cut_at] += np.int64(cut[i])
        if seen[i] != USED:
            rows[UNDEFINED] += 1
        elif abs(costs[i]) == INF:
            rows[INFINITE] += 1
        else:
            high, low, e = product(factor, costs[i])
            add_float(sums[0], high, e)
            add_float(sums[0], low, e)


@kernel
def add_costs(
    costs: Any, factors: Any, code: Any, seen: Any, cut: Any, cut_at: int, sums: Any, rows: Any, at: int, threads: int
) -> None:
    """Adds the rows whose code is USED to sums[:, at] (threads, 2, LIMBS) and rows[:, at] (threads, CONVENTION_COUNTS).

    costs, code and cut (n,); factors (n,), or (0,) for 1; seen (n,) are the codes that another look at the rows gave them, not
    USED where they have no cost. cut is 1 where a cost was clipped, counted in column cut_at.
    """
    n = costs.shape[0]
    for t in prange(threads):
        add_lines(costs, factors, code, seen, cut, cut_at, n * t // threads, n * (t + 1) // threads, sums[t, at], rows[t, at])
