"""Σ w·p_k over the rows, class by class: what mutual information needs beyond the row values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from streamloss.errors import USED
from streamloss.ieee.bits import widen
from streamloss.ieee.elementary import exp_nonpositive
from streamloss.jit import kernel
from streamloss.kernels.fold import add_fixed
from streamloss.kernels.panel import LANES, PEAK, SHIFT, SIDE, SMALL, cost, finish_side, large_side


@kernel
def add_probabilities(
    x: Any, code: Any, weight: Any, form: int, scale: float, normalize: bool, sums: Any, threads: int
) -> None:
    """Adds every USED row's probabilities to sums (threads, K, 3), Fixed digits; x is (n, K)."""
    n, k = x.shape
    weighted = weight.shape[0] > 0
    for t in prange(threads):
        panel = np.zeros((SMALL, LANES))
        side = np.zeros((SIDE, LANES))
        for i in range(n * t // threads, n * (t + 1) // threads):
            if code[i] != USED:
                continue
            large_side(form, x, i, scale, panel, side)
            finish_side(form, normalize, side)
            w = weight[i] if weighted else 1.0
            for j in range(k):
                p = exp_nonpositive(-cost(form, widen(x[i, j]), side[PEAK, 0], scale, side[SHIFT, 0]))
                add_fixed(sums[t, j], 0, w * p)
