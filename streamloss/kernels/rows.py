"""A batch of arrays through the kernel of its task, the options handed over as numbers; folded, or kept row by row."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss.conventions import View
from streamloss.digits import LEDGER
from streamloss.ieee.bits import LANES
from streamloss.kernels.binary import binary, score
from streamloss.kernels.categorical import categorical
from streamloss.kernels.fold import TILE, Rows, Sums
from streamloss.kernels.pair import pair
from streamloss.kernels.panel import FORMS, Loss, Stored
from streamloss.options import SUM_TOLERANCE, Options, Task
from streamloss.quantities import ENTROPY_GAP, SLOTS, Plan, top_ks


def _nothing(dtype: type[np.generic]) -> NDArray[Any]:
    """No rows' values, read-only as the reader's arrays are: one compiled kernel for both."""
    empty = np.zeros(0, dtype=dtype)
    empty.flags.writeable = False
    return empty


NO_LABEL, NO_NUMBER = _nothing(np.int64), _nothing(np.float64)
ALL_SLOTS = np.arange(SLOTS)
_FOLDED = np.empty((0, 0))


def tolerance(options: Options, dtype: str) -> float:
    """How far from 1 the probabilities of a row may sum, by the type that they are stored in."""
    return SUM_TOLERANCE[dtype] if options.sum_tolerance is None else float(options.sum_tolerance)


def sums_of(task: Task, plan: Plan, arrays: dict[str, NDArray[np.int64]]) -> Sums:
    """The accumulators as the kernels take them; arrays are those of `state.layout` with a leading axis of threads."""
    threads, spreads, buckets, _ = arrays["histogram"].shape
    bins = arrays["reliability"].shape[1] if task.label == "hard" and not task.weighted else 0
    spread = {key: i for i, key in enumerate(plan.spread)}
    by_class = {key: i for i, key in enumerate(plan.per_class)}
    keys = [q.key for q in plan.moments]
    return Sums(
        hard=task.label == "hard",
        slots=np.array([q.slot for q in plan.moments], dtype=np.int64),
        indicator=np.array([q.indicator for q in plan.moments], dtype=np.bool_),
        spread=np.array([spread.get(key, -1) for key in keys], dtype=np.int64),
        by_class=np.array([by_class.get(key, -1) for key in keys], dtype=np.int64),
        counts=np.zeros((threads, 0 if task.weighted else spreads, buckets), dtype=np.int32),
        tally=np.zeros((threads, 2 * bins, 2), dtype=np.int64),
        **{name: arrays[name] for name in Sums._fields if name in arrays},
    )


def _no_sums(threads: int) -> Sums:
    """Accumulators of nothing, for rows that are only kept."""
    none = np.zeros(0, dtype=np.int64)
    sizes = {"ledger": (LEDGER,), "infinite": (0,), "weight": (0, 0), "extremes": (0, 0), "cross": (0, 0), "moments": (0, 0, 0)}
    sizes |= {"infinite_weight": (0, 0, 0), "histogram": (0, 0, 0)} | dict.fromkeys(("reliability", "tally", "classes"), (0, 0))
    arrays = {name: np.zeros((threads, *size), dtype=np.int64) for name, size in sizes.items()}
    counts = np.zeros((threads, 0, 0), dtype=np.int32)
    return Sums(hard=False, slots=none, indicator=none.astype(np.bool_), spread=none, by_class=none, counts=counts, **arrays)


def add_rows(
    task: Task,
    options: Options,
    prediction: NDArray[Any],
    code: NDArray[np.int8],
    *,
    dtype: str = "float64",
    target: NDArray[Any] | None = None,
    target_dtype: str = "float64",
    label: NDArray[Any] | None = None,
    weight: NDArray[np.float64] | None = None,
    bytes_: NDArray[np.float64] | None = None,
    flags: NDArray[np.uint8],
    at_target: NDArray[np.uint8],
    kept: NDArray[np.int64] = ALL_SLOTS,
    out: NDArray[np.float64] | None = None,
    sums: Sums | None = None,
    view: View | None = None,
    threads: int,
) -> None:
    """Adds rows whose code is USED to the sums, and keeps their values of the slots `kept` (S,) in out (S, n), in nats, as far
    as both are given.

    prediction is (n, K) or (n,), of a dtype that `ieee.bits.widen` knows. Rows that break a rule get its number in code;
    `at_target` is 1 where the rule is the target's. With a view, rows are looked at as another tool does it: of what the kernel
    finds out only cross-entropy then means anything.
    """
    into = _no_sums(threads) if sums is None else sums
    wanted = ALL_SLOTS[:0] if out is None else kept
    rows = Rows(
        cursor=np.zeros(1, dtype=np.int64),
        step=_step(len(code), threads),
        code=code,
        flags=flags,
        at_target=at_target,
        label=NO_LABEL if label is None else label,
        weight=NO_NUMBER if weight is None or sums is None else weight,
        bytes=NO_NUMBER if bytes_ is None else bytes_,
        gap=bool((wanted == ENTROPY_GAP).any() or (into.slots == ENTROPY_GAP).any()),
        kept=wanted,
        out=_FOLDED if out is None else out,
    )
    stored_q, stored, loss = settings(task, options, dtype, target_dtype, view)
    if task.family == "score":
        score(prediction, rows, into, stored, loss, threads)
    elif task.family == "binary":
        binary(prediction, rows, into, stored, loss, threads)
    elif task.family == "pair":
        assert target is not None and stored_q is not None
        pair(target, prediction, rows, into, stored_q, stored, loss, threads)
    else:
        categorical(prediction, rows, into, stored, loss, threads)


class Settings(NamedTuple):
    """The options as the kernels take them: how the target's and the prediction's numbers are read, and the loss."""

    stored_q: Stored | None
    stored: Stored
    loss: Loss


def settings(task: Task, options: Options, dtype: str, target_dtype: str, view: View | None = None) -> Settings:
    """The options of a task whose numbers are stored in these types."""
    normalize = options.normalize if view is None else view.normalize
    # Rows that are only looked at keep every rule, but that a sum to divide by is not 0.
    allowed = tolerance(options, dtype) if view is None else 0.0 if normalize else math.inf
    stored = Stored(FORMS[task.form], 1.0 / options.temperature, allowed, normalize)
    loss = _loss(task, options) if view is None else _loss(task, options)._replace(cap=view.most, least=view.least)
    if task.family != "pair":
        return Settings(None, stored, loss)
    assert task.target_form is not None
    allowed = tolerance(options, target_dtype) if view is None else math.inf
    form, scale = FORMS[task.target_form], 1.0 / options.target_temperature
    return Settings(Stored(form, scale, allowed, options.normalize and view is None), stored, loss)


def _loss(task: Task, options: Options) -> Loss:
    """The options of the loss as numbers; float even where whole ones were given, for every type is a kernel of its own."""
    plain = -1.0 if task.family == "binary" else 1.0  # of two classes, alpha balances them
    return Loss(
        smoothing=float(options.label_smoothing),
        cap=-math.log(options.zero) if options.zero > 0 else math.inf,
        least=-math.inf,
        pos_weight=float(options.pos_weight),
        gamma=-1.0 if options.focal_gamma is None else float(options.focal_gamma),
        alpha=plain if options.focal_alpha is None else float(options.focal_alpha),
        soft="soft" in task.facts(options),
        top_k=np.array(top_ks(task, options), dtype=np.int64),
    )


def _step(n: int, threads: int) -> int:
    """How many rows a thread takes at a time: a tile; where it is one of several, of few rows a sixteenth of its share."""
    if threads == 1:
        return TILE
    share = n // (16 * threads)
    return min(TILE, share - share % LANES if share >= LANES else max(share, 1))


def row_buffer(rows: int, slots: int = SLOTS) -> NDArray[np.float64]:
    """Room for the row values of so many rows."""
    return np.empty((slots, rows))
