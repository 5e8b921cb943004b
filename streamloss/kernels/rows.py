"""One batch of arrays into row values: picks the kernel of the task and hands it the options as numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.kernels.binary import binary, score
from streamloss.kernels.categorical import categorical
from streamloss.kernels.pair import pair
from streamloss.kernels.panel import FORMS
from streamloss.options import SUM_TOLERANCE, Options, Task
from streamloss.quantities import BYTES, SLOTS, top_ks

_NO_LABEL = np.zeros(0, dtype=np.int64)
_NO_LABEL.flags.writeable = False  # as the reader's arrays are: one compiled kernel for both


def tolerance(options: Options, dtype: str) -> float:
    """How far from 1 the probabilities of a row may sum, by the type that they are stored in."""
    return SUM_TOLERANCE[dtype] if options.sum_tolerance is None else options.sum_tolerance


def row_values(
    task: Task,
    options: Options,
    prediction: NDArray[Any],
    code: NDArray[np.int8],
    *,
    dtype: str = "float64",
    target: NDArray[Any] | None = None,
    target_dtype: str = "float64",
    label: NDArray[Any] | None = None,
    bytes_: NDArray[np.float64] | None = None,
    flags: NDArray[np.uint8],
    at_target: NDArray[np.uint8],
    out: NDArray[np.float64],
    threads: int,
) -> None:
    """Fills out (SLOTS, n) for rows whose code is USED; gives a rule's number to the code of rows that break one.

    prediction is (n, K) or (n,), of a dtype that `ieee.bits.widen` knows; out is in nats. `at_target` is 1 where the broken
    rule is the target's.
    """
    scale = 1.0 / options.temperature
    cap = -math.log(options.zero) if options.zero > 0 else math.inf
    gamma = -1.0 if options.focal_gamma is None else options.focal_gamma
    labels = _NO_LABEL if label is None else label
    form = FORMS[task.form]
    if task.family == "score":
        score(prediction, code, flags, out, tolerance(options, dtype), cap, threads)
    elif task.family == "binary":
        alpha = -1.0 if options.focal_alpha is None else options.focal_alpha
        soft = "soft" in task.facts(options)
        binary(
            prediction, labels, code, flags, out, form, scale, soft, options.label_smoothing, cap, options.pos_weight,
            gamma, alpha, threads,
        )  # fmt: skip
    else:
        alpha = 1.0 if options.focal_alpha is None else options.focal_alpha
        ks = np.array(top_ks(task, options), dtype=np.int64)
        allowed = tolerance(options, dtype)
        if task.family == "pair":
            assert target is not None and task.target_form is not None
            pair(
                target, prediction, labels, code, at_target, flags, out, FORMS[task.target_form], form,
                1.0 / options.target_temperature, scale, tolerance(options, target_dtype), allowed, options.normalize,
                options.label_smoothing, cap, gamma, alpha, ks, threads,
            )  # fmt: skip
        else:
            categorical(
                prediction, labels, code, flags, out, form, scale, allowed, options.normalize,
                options.label_smoothing, cap, gamma, alpha, ks, threads,
            )  # fmt: skip
    if bytes_ is not None:
        out[BYTES, : len(code)] = bytes_


def row_buffer(rows: int) -> NDArray[np.float64]:
    """Room for the row values of so many rows; slots that are never written cost no memory."""
    return np.empty((SLOTS, rows))
