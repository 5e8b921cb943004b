"""Binary predictions and bare scores: one number a row.

From a logit z, CE = pos_weight·y·softplus(−z) + (1 − y)·softplus(z); from a probability, −y ln p − (1 − y) ln(1 − p) with
ln(1 − p) = log1p(−p). KL(y‖p) of soft labels is summed as brackets a·ln(a/b) − a + b, as in `pair`. Units: nats.
"""

from __future__ import annotations

from typing import Any

from numba import prange

from streamloss.errors import LABEL, NAN, NEGATIVE_PROBABILITY, POSITIVE_INFINITY, PROBABILITY_ABOVE_ONE, USED
from streamloss.ieee.bits import widen
from streamloss.ieee.elementary import INF, log, log1p, sigmoid, softplus
from streamloss.jit import kernel, loop, scalar
from streamloss.kernels.pair import bracket
from streamloss.kernels.panel import CLIPPED, LOGITS, power
from streamloss.quantities import (
    ACCURACY,
    BRIER,
    CONFIDENCE,
    CROSS_ENTROPY,
    ENTROPY,
    FOCAL,
    KL,
    OUTCOME,
    OVERCONFIDENCE,
    SCORE,
    TARGET_ENTROPY,
)


@scalar
def binary_rule(form: int, v: float) -> int:
    """The rule that a stored logit or probability breaks, or USED."""
    if v != v:
        return NAN
    if form == LOGITS:
        return POSITIVE_INFINITY if v == INF else USED
    if v < 0.0:
        return NEGATIVE_PROBABILITY
    return PROBABILITY_ABOVE_ONE if v > 1.0 else USED


@scalar
def times(weight: float, cost: float) -> Any:
    """weight·cost with 0·inf = 0."""
    return weight * cost if weight > 0.0 else 0.0


@loop
def write_binary(
    i: int,
    form: int,
    v: float,
    scale: float,
    labelled: bool,
    y: float,
    soft: bool,
    cap: float,
    pos_weight: float,
    gamma: float,
    alpha: float,
    flags: Any,
    out: Any,
) -> None:
    """One row's values into their slots; alpha < 0 means no class balance in the focal loss."""
    if form == LOGITS:
        z = v * scale
        p, rest = sigmoid(z), sigmoid(-z)
        cost_1, cost_0 = softplus(-z), softplus(z)
        right_side = z > 0.0
    else:
        p, rest = v, 1.0 - v
        cost_1, cost_0 = -log(v), -log1p(-v)
        right_side = v > 0.5
    top = max(p, rest)
    out[ENTROPY, i] = times(p, cost_1) + times(rest, cost_0)
    out[CONFIDENCE, i] = top
    if not labelled:
        return
    if (y > 0.0 and cost_1 > cap) or (y < 1.0 and cost_0 > cap):
        flags[i] |= CLIPPED
    paid_1, paid_0 = min(cost_1, cap), min(cost_0, cap)
    other = 1.0 - y
    out[CROSS_ENTROPY, i] = times(pos_weight * y, paid_1) + times(other, paid_0)
    if y > 0.5:
        out[BRIER, i] = (rest - other) * (rest - other)
    else:
        out[BRIER, i] = (p - y) * (p - y)
    right = 1.0 if right_side == (y > 0.5) else 0.0
    out[ACCURACY, i] = right
    out[OVERCONFIDENCE, i] = top - right
    out[SCORE, i] = p
    out[OUTCOME, i] = y
    if soft:
        log_y, log_other = log(y), log1p(-y)
        out[TARGET_ENTROPY, i] = times(y, -log_y) + times(other, -log_other)
        capped_1, capped_0 = cost_1 > cap, cost_0 > cap
        floor_1 = 1.0 - rest if not capped_1 else 0.0
        if capped_1 or capped_0:
            out[KL, i] = times(y, paid_1 + log_y) + times(other, paid_0 + log_other)
        else:
            floor_1 = p
            term_1, _ = bracket(y, floor_1, log_y + cost_1)
            term_0, _ = bracket(other, rest, log_other + cost_0)
            out[KL, i] = term_1 + term_0
    if gamma >= 0.0:
        on_1 = alpha if alpha >= 0.0 else 1.0
        on_0 = 1.0 - alpha if alpha >= 0.0 else 1.0
        out[FOCAL, i] = times(on_1 * y * power(rest, gamma), paid_1) + times(on_0 * other * power(p, gamma), paid_0)


@kernel
def binary(
    x: Any,
    label: Any,
    code: Any,
    flags: Any,
    out: Any,
    form: int,
    scale: float,
    soft: bool,
    smoothing: float,
    cap: float,
    pos_weight: float,
    gamma: float,
    alpha: float,
    threads: int,
) -> None:
    """Row values of the logits or probabilities x (n,) into out (SLOTS, n); breaks of rules into code (n,).

    label is (n,) int64 or float64, or (0,) without labels; `soft` asks for the target entropy and KL of every row.
    """
    n = x.shape[0]
    labelled = label.shape[0] > 0
    for t in prange(threads):
        for i in range(n * t // threads, n * (t + 1) // threads):
            if code[i] != USED:
                continue
            v = widen(x[i])
            code[i] = binary_rule(form, v)
            y = 0.0
            if labelled:
                y = label[i] * 1.0
                if not 0.0 <= y <= 1.0:
                    code[i] = LABEL
                y = y * (1.0 - smoothing) + 0.5 * smoothing
            if code[i] == USED:
                write_binary(
                    i, form, v, scale, labelled, y, soft, cap, pos_weight, gamma, alpha, flags, out
                )  # fmt: skip


@kernel
def score(x: Any, code: Any, flags: Any, out: Any, tolerance: float, cap: float, threads: int) -> None:
    """Cross-entropy −x of the log-probability x (n,) that was given to what happened; above 0 only within tolerance."""
    n = x.shape[0]
    for t in prange(threads):
        for i in range(n * t // threads, n * (t + 1) // threads):
            if code[i] != USED:
                continue
            v = widen(x[i])
            if v != v:
                code[i] = NAN
            elif v > tolerance:
                code[i] = PROBABILITY_ABOVE_ONE
            else:
                if -v > cap:
                    flags[i] |= CLIPPED
                out[CROSS_ENTROPY, i] = min(-v, cap)
