"""The losses as plain functions over arrays, with the arithmetic of the evaluator: float64, a fixed order, no clipping.

Arrays are float32 or float64 (other numbers become float64), the last axis the classes. Values are in nats. A class of
probability 0 that is true costs inf; 0·ln 0 is 0. Rows must sum to 1 within the tolerance of their type (float32 1e-4,
float64 1e-6) and are then used as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamloss.errors import RULES, DataError, UsageError
from streamloss.kernels.marginal import softmax_rows
from streamloss.kernels.rows import add_rows, row_buffer
from streamloss.options import Options, Task
from streamloss.quantities import CROSS_ENTROPY, ENTROPY, KL

_OPTIONS = Options()


def _array(values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    return array


def _rows(values: NDArray[Any], name: str) -> NDArray[Any]:
    """(n, K), read-only as the reader's arrays are, so that one compiled kernel serves both."""
    if values.ndim < 1 or values.shape[-1] < 2:
        raise UsageError(f"{name} needs a last axis of at least two classes, not shape {values.shape}")
    rows = np.ascontiguousarray(values.reshape(-1, values.shape[-1]))
    return _frozen(rows)


def _frozen(values: NDArray[Any]) -> NDArray[Any]:
    view = values.view()
    view.flags.writeable = False
    return view


def _refuse(code: NDArray[np.int8]) -> None:
    if code.any():
        row = int(np.flatnonzero(code)[0])
        key, expected = RULES[int(code[row])]
        raise DataError(f"row {row}: {key.replace('_', ' ')}: expected {expected}", rule=key)


def _values(task: Task, slot: int, prediction: NDArray[Any], **more: Any) -> NDArray[np.float64]:
    n = len(prediction)
    out, code = row_buffer(n, 1), np.zeros(n, dtype=np.int8)
    flags, at_target = np.zeros(n, dtype=np.uint8), np.zeros(n, dtype=np.uint8)
    add_rows(
        task, _OPTIONS, prediction, code, dtype=str(prediction.dtype), flags=flags, at_target=at_target,
        kept=np.array([slot]), out=out, threads=1, **more,
    )  # fmt: skip
    _refuse(code)
    values: NDArray[np.float64] = out[0]
    return values


def entropy(p: ArrayLike) -> NDArray[np.float64]:
    """Shannon entropy Σ p ln(1/p) of p (…, K), in nats: shape (…).

    Raises `DataError` when a row is no distribution. Source: Shannon, A Mathematical Theory of Communication, 1948.
    """
    array = _array(p)
    task = Task(family="categorical", form="probs", classes=array.shape[-1] if array.ndim else 0)
    return _values(task, ENTROPY, _rows(array, "entropy")).reshape(array.shape[:-1])


def cross_entropy(q: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """Cross-entropy Σ q ln(1/p) of the prediction p (…, K) under the truth q, in nats: shape (…).

    q is soft (…, K), or integer labels (…), for which it is −ln p_q. Raises `DataError` for rows that are no distribution
    and labels out of range, `UsageError` for shapes that do not fit.
    """
    truth, array = np.asarray(q), _array(p)
    if truth.dtype.kind in "iub" and truth.ndim == array.ndim - 1:
        _fit(truth.shape, array.shape[:-1])
        task = Task(family="categorical", form="probs", classes=array.shape[-1], label="hard")
        label = _frozen(np.ascontiguousarray(truth.reshape(-1).astype(np.int64)))
        return _values(task, CROSS_ENTROPY, _rows(array, "p"), label=label).reshape(array.shape[:-1])
    return _pair(truth, array, CROSS_ENTROPY)


def kl_divergence(q: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """Kullback-Leibler divergence Σ q ln(q/p) of the prediction p from the truth q, both (…, K), in nats: shape (…).

    Exact for nearly equal rows too (relative error about 1e-12). Raises `DataError` for rows that are no distribution.
    Source: Kullback and Leibler, On Information and Sufficiency, 1951.
    """
    return _pair(np.asarray(q), _array(p), KL)


def _fit(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    if a != b:
        raise UsageError(f"shapes do not fit: {a} and {b}")


def _pair(q: NDArray[Any], p: NDArray[Any], slot: int) -> NDArray[np.float64]:
    truth = _array(q)
    _fit(truth.shape, p.shape)
    task = Task(family="pair", form="probs", classes=p.shape[-1] if p.ndim else 0, target_form="probs")
    target = _rows(truth, "q")
    values = _values(task, slot, _rows(p, "p"), target=target, target_dtype=str(target.dtype))
    return values.reshape(p.shape[:-1])


def binary_cross_entropy(y: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """−y ln p − (1 − y) ln(1 − p) for labels y in [0, 1] and probabilities p of the positive class, in nats.

    y and p have the same shape, which is the result's. Raises `DataError` for values outside [0, 1].
    """
    label, array = np.asarray(y, dtype=np.float64), _array(p)
    _fit(label.shape, array.shape)
    task = Task(family="binary", form="probs", classes=2, label="soft")
    flat = _frozen(np.ascontiguousarray(array.reshape(-1)))
    return _values(task, CROSS_ENTROPY, flat, label=_frozen(label.reshape(-1))).reshape(array.shape)


def softmax(z: ArrayLike) -> NDArray[np.float64]:
    """e^z / Σ e^z over the last axis of z (…, K): float64 of the same shape. −inf is a probability of exactly 0.

    Raises `DataError` for NaN, +inf and rows that are all −inf.
    """
    array = _array(z)
    rows = _rows(array, "softmax")
    out, code = np.empty(rows.shape), np.zeros(len(rows), dtype=np.int8)
    softmax_rows(rows, code, out, 1.0, 1)
    _refuse(code)
    return out.reshape(array.shape)
