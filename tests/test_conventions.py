"""What other tools would print: against the tools where they are, and against their formulas written out in their own float32.

scikit-learn is always there; PyTorch and Keras are asked when they can be imported. A tool rounds as it goes, so float32 agrees
to 1e-6 and float64, in scikit-learn, to 1e-12. Numbers of `executed` were printed by the tools and are kept here.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from sklearn.metrics import log_loss

import streamloss
from streamloss.cli.main import cli
from streamloss.conventions import CONVENTIONS
from streamloss.errors import DataError, StreamlossError, UsageError
from streamloss.options import TOOLS, Options
from streamloss.reading.source import open_input
from streamloss.reporting import csvfile, markdown, tables, terminal, webpage, wording
from streamloss.running.measure import Accumulator
from streamloss.state import State

EPS = {"float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}
F32 = np.float32


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@cache
def rows(kind: str, dtype: str = "float32", n: int = 300, k: int = 5) -> dict[str, Any]:
    """Rows of a kind with probabilities of 0 and 1 and all between."""
    r = np.random.default_rng(len(kind) + n)
    if kind in ("prob", "logit"):
        z = r.normal(size=n) * 12
        y = (r.random(n) < 0.5).astype(np.int64)
        p = (1 / (1 + np.exp(-z))).astype(dtype)
        p[:6], y[:6] = [0, 0, 1, 1, 1e-9, 1 - 1e-6], [0, 1, 0, 1, 1, 0]
        return {"prob": p, "label": y} if kind == "prob" else {"logit": z.astype(dtype), "label": y}
    z = (r.normal(size=(n, k)) * 9).astype(dtype)
    y = r.integers(0, k, n)
    p = softmax(z.astype(np.float64)).astype(dtype)
    p[:3], y[:3] = np.eye(k, dtype=dtype)[:3], [0, 1, 0]
    return {"probs": p, "label": y} if kind == "probs" else {"logits": z, "label": y}


def weights(n: int, zeros: bool = True) -> Any:
    w = np.random.default_rng(5).random(n) * 3
    if zeros:
        w[::7] = 0
    return w


def evaluate(data: Any, *tools: str, **options: Any) -> Any:
    return streamloss.evaluate(data, convention=tools, threads=1, **options)


def entry(data: Any, tool: str, key: str = "cross_entropy", **options: Any) -> dict[str, Any]:
    return evaluate(data, tool, **options).to_dict()["conventions"][tool][key]


def value(data: Any, tool: str, key: str = "cross_entropy", **options: Any) -> float:
    return float(entry(data, tool, key, **options)["value"])


# ---- scikit-learn itself


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", ["prob", "probs"])
def test_scikit_learn(kind: str, dtype: str, weighted: bool) -> None:
    data = dict(rows(kind, dtype))
    if weighted:
        data["weight"] = weights(len(data["label"]))
    p = data[kind]
    labels = [0, 1] if kind == "prob" else range(p.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # float16 rows do not sum to 1
        theirs = log_loss(data["label"], p, labels=labels, sample_weight=data.get("weight"))
    ours = value(data, "sklearn")
    exact = evaluate(data, "sklearn").metrics["cross_entropy"]
    assert exact.mean == math.inf
    assert ours == pytest.approx(theirs, rel={"float16": 2e-2, "float32": 1e-6, "float64": 1e-12}[dtype])


def test_scikit_learn_does_not_renormalise() -> None:
    p = np.array([[0.5, 0.89, 0.6], [0.2, 0.2, 0.2]])
    with pytest.warns(UserWarning, match="sum to one"):
        theirs = log_loss([1, 2], p, labels=[0, 1, 2])
    data = {"probs": p, "label": np.array([1, 2])}
    assert value(data, "sklearn", sum_tolerance=math.inf) == pytest.approx(theirs, rel=1e-12)
    found = entry(data, "sklearn", normalize=True)
    assert found["value"] == pytest.approx(theirs, rel=1e-12)
    assert found["cause"] == "rows not divided by their sums"


def test_scikit_learn_with_bfloat16_is_float32s() -> None:
    bits = np.array([0x0000, 0x3F80, 0x3F00], dtype=np.uint16)  # 0, 1, ½
    column = pa.chunked_array([pa.array(bits)])
    data = pa.table({"prob": column, "label": [1, 1, 1]})
    found = entry(data, "sklearn", dtype="bfloat16")
    theirs = log_loss([1, 1, 1], np.array([0, 1, 0.5], dtype=F32), labels=[0, 1])
    assert found["value"] == pytest.approx(theirs, rel=1e-6)
    assert found["cause"] == "2 rows clipped at 1.19e-07 (eps of float32)"


# ---- formulas, in the tools' own float32


def torch_cross_entropy(z: Any, y: Any, class_weights: Any = None) -> float:
    w = np.ones(z.shape[1]) if class_weights is None else np.array(class_weights)
    return float((w[y] * -np.log(softmax(z.astype(float)))[np.arange(len(y)), y]).sum() / w[y].sum())


def bce_torch(p: Any, y: Any, w: Any = 1.0) -> float:
    with np.errstate(divide="ignore"):
        logs = [np.maximum(np.log(v.astype(F32)), F32(-100)) for v in (p, F32(1) - p.astype(F32))]
    return float((w * -(y * logs[0] + (1 - y) * logs[1])).mean())


def keras_rows(p: Any, q: Any) -> Any:
    p = p.astype(F32)
    p = np.clip(p / p.sum(axis=1, keepdims=True), F32(1e-7), F32(1 - 1e-7))
    return -(q * np.log(p)).sum(axis=1)


def keras_binary_rows(p: Any, y: Any) -> Any:
    p = np.clip(p.astype(F32), F32(1e-7), F32(1 - 1e-7))
    return -(y * np.log(p) + (1 - y) * np.log(F32(1) - p))


def one_hot(y: Any, k: int) -> Any:
    return np.eye(k)[y]


def test_torch_cross_entropy_divides_by_the_class_weights() -> None:
    data = rows("logits")
    z, y = data["logits"], data["label"]
    assert value(data, "torch") == pytest.approx(torch_cross_entropy(z, y), rel=1e-12)
    by_class = (1.0, 2.0, 0.5, 4.0, 1.0)
    expected = torch_cross_entropy(z, y, by_class)
    assert value(data, "torch", class_weights=by_class) == pytest.approx(expected, rel=1e-12)
    # Weights of rows are nothing that CrossEntropyLoss takes: they change what is ours alone.
    weighted = data | {"weight": weights(len(y), zeros=False)}
    found = entry(weighted, "torch", class_weights=by_class)
    assert found["value"] == pytest.approx(expected, rel=1e-12)
    assert found["cause"] == "the weights of rows are not used"


def test_torch_soft_targets_are_divided_by_the_rows() -> None:
    z, q = rows("logits")["logits"], softmax(np.random.default_rng(2).normal(size=(300, 5)))
    expected = (q * -np.log(softmax(z.astype(float)))).sum(axis=1).mean()
    data = {"logits": z, "target_probs": q, "weight": weights(300, zeros=False)}
    found = entry(data, "torch")
    assert found["value"] == pytest.approx(expected, rel=1e-12)
    assert found["cause"] == "mean over 300 rows, the weights are not used"


@pytest.mark.parametrize("weighted", [False, True])
def test_torch_binary(weighted: bool) -> None:
    data = dict(rows("prob"))
    w = weights(300) if weighted else 1.0
    if weighted:
        data["weight"] = w
    expected = bce_torch(data["prob"], data["label"], w)
    found = entry(data, "torch")
    assert found["loss"] == "BCELoss"
    assert found["value"] == pytest.approx(expected, rel=1e-6)
    lost = np.where(data["label"] == 1, data["prob"] == 0, data["prob"] == 1) & (np.broadcast_to(w, 300) > 0)
    assert found["cause"].startswith(f"{lost.sum()} rows clipped at e^-100")
    assert ("divided by 300 rows, not by the weight" in found["cause"]) == weighted


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["probs", "prob"])
def test_keras(kind: str, smoothing: float) -> None:
    """A loss is divided by the rows, also those of weight 0; a metric by the weight."""
    data = dict(rows(kind))
    w = data["weight"] = weights(300)
    p, y = data[kind], data["label"]
    if kind == "probs":
        costs = keras_rows(p, one_hot(y, 5) * (1 - smoothing) + smoothing / 5)
    else:
        costs = keras_binary_rows(p, y * (1 - smoothing) + smoothing / 2)
    options = {"label_smoothing": smoothing} if smoothing else {}
    assert value(data, "keras", **options) == pytest.approx((w * costs).sum() / 300, rel=1e-6)
    assert value(data, "keras", "cross_entropy_metric", **options) == pytest.approx((w * costs).sum() / w.sum(), rel=1e-6)


@pytest.mark.parametrize("k", [5, 150])
@pytest.mark.parametrize("hard", [False, True])
def test_keras_with_soft_targets(hard: bool, k: int) -> None:
    r = np.random.default_rng(4)
    y = r.integers(0, k, 300)
    p = softmax(r.normal(size=(300, k)) * 20).astype(F32)
    p[:2] = np.eye(k)[y[:2]]
    q = one_hot(y, k) if hard else softmax(r.normal(size=(300, k)))
    found = entry({"probs": p, "target_probs": q}, "keras")
    assert found["value"] == pytest.approx(keras_rows(p, q).mean(), rel=1e-6)
    assert "clipped at 1e-07" in found["cause"]
    sure = {"probs": np.eye(k, dtype=F32), "target_probs": np.eye(k)}
    assert value(sure, "keras") == pytest.approx(float(-np.log(F32(1 - 1e-7))), rel=1e-6)  # a sure hit costs something


def test_keras_renormalises() -> None:
    p = np.array([[0.5, 0.89, 0.6], [0.2, 0.2, 0.2]])
    data = {"probs": p, "label": np.array([1, 2])}
    found = entry(data, "keras", sum_tolerance=math.inf)
    assert found["value"] == pytest.approx(keras_rows(p, one_hot([1, 2], 3)).mean(), rel=1e-6)
    assert found["cause"] == "rows divided by their sums"
    assert entry(data, "keras", normalize=True)["cause"] == "computed alike"


def test_keras_takes_soft_targets_as_they_are() -> None:
    q, p = np.array([[0.2, 0.2], [0.6, 0.3]]), np.array([[0.25, 0.25], [0.5, 0.4]])
    found = entry({"probs": p, "target_probs": q}, "keras", normalize=True)
    assert found["value"] == pytest.approx(keras_rows(p, q).mean(), rel=1e-6)


def test_keras_has_no_number_for_a_row_of_zeros() -> None:
    data = {"probs": np.array([[0.0, 0.0], [0.5, 0.5]]), "label": np.array([1, 1])}
    found = entry(data, "keras", sum_tolerance=math.inf)
    assert (found["value"], found["reason"]) == (
        None,
        "CategoricalCrossentropy gives NaN: the probabilities of 1 row sum to 0",
    )
    assert value(data, "torch", sum_tolerance=math.inf) == math.inf
    assert value(data, "sklearn", sum_tolerance=math.inf) == pytest.approx((52 + 1) * math.log(2) / 2)


def test_keras_divides_a_metric_by_ignored_rows_too() -> None:
    """Executed: 1.17694 as a loss, 0.78462 as a metric."""
    data = {"probs": np.array([[0.8, 0.1, 0.1], [0.05, 0.95, 0], [0.1, 0.8, 0.1]], F32), "label": np.array([0, 1, 2])}
    found = evaluate(data, "keras", ignore_index=0).to_dict()["conventions"]["keras"]
    assert found["cross_entropy"]["value"] == pytest.approx(1.17694, abs=5e-6)
    assert found["cross_entropy_metric"]["value"] == pytest.approx(0.78462, abs=1e-5)
    assert "divided by all 3 rows, the ignored ones too" in found["cross_entropy_metric"]["cause"]
    # A row that the mask leaves out is nobody's, whatever its label.
    masked = {name: np.concatenate([v, v[:1]]) for name, v in data.items()} | {"mask": np.array([True] * 3 + [False])}
    assert value(masked, "keras", "cross_entropy_metric", ignore_index=0) == found["cross_entropy_metric"]["value"]


def test_keras_counts_rows_of_weight_0_but_for_those_masked() -> None:
    data = {
        "prob": np.full(4, 0.5), "label": np.array([1, 1, 0, 0]), "weight": np.array([1.0, 0, 2, 0]),
        "mask": np.array([True, True, True, False]),
    }  # fmt: skip
    assert value(data, "keras") == pytest.approx(3 * math.log(2) / 3)
    assert value(data, "torch") == pytest.approx(3 * math.log(2) / 3)
    assert value(data, "sklearn") == pytest.approx(math.log(2))


def test_tensorflow_divides_by_the_rows_of_some_weight() -> None:
    """tf.compat.v1.losses: Σ weight·loss over the number of weights that are not 0."""
    data = dict(rows("logits"))
    w = data["weight"] = weights(300)
    costs = -np.log(softmax(data["logits"].astype(float)))[np.arange(300), data["label"]]
    assert value(data, "tensorflow") == pytest.approx((w * costs).sum() / np.count_nonzero(w), rel=1e-12)
    smooth = -np.log(softmax(data["logits"].astype(float))).mean(axis=1)
    expected = (w * (0.8 * costs + 0.2 * smooth)).sum() / np.count_nonzero(w)
    assert value(data, "tensorflow", label_smoothing=0.2) == pytest.approx(expected, rel=1e-12)
    binary = dict(rows("logit")) | {"weight": w}
    z, y = binary["logit"].astype(float), binary["label"]
    expected = (w * (np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z))))).sum() / np.count_nonzero(w)
    assert value(binary, "tensorflow") == pytest.approx(expected, rel=1e-12)


def test_caffe_stops_at_the_smallest_float32_and_knows_no_weights() -> None:
    """softmax_loss_layer.cpp: −log(max(p, FLT_MIN)), over the labels that are not ignored (VALID)."""
    z = np.array([[0, -200.0], [0, 0], [0, 1], [3, 4]])
    data = {"logits": z, "label": np.array([1, 0, 1, -7]), "weight": np.array([5.0, 1, 1, 1])}
    p = softmax(z[:3])[[0, 1, 2], [1, 0, 1]]
    found = entry(data, "caffe", ignore_index=-7)
    assert found["value"] == pytest.approx(-np.log(np.maximum(p, np.finfo(F32).tiny)).mean(), rel=1e-12)
    assert found["cause"] == "1 row clipped at 1.18e-38 (FLT_MIN); mean over 3 rows, the weights are not used"
    assert -math.log(np.finfo(F32).tiny) == pytest.approx(87.3365, abs=1e-4)


def test_log_probabilities_are_logits_but_for_nll() -> None:
    data = rows("logits")
    logs = np.log(softmax(data["logits"].astype(float)))
    exact = evaluate(data).metrics["cross_entropy"].mean
    for tool in ("torch", "keras", "tensorflow"):
        assert value({"logprobs": logs, "label": data["label"]}, tool) == pytest.approx(exact, rel=1e-6)
    theirs = log_loss(data["label"], np.exp(logs), labels=range(5))  # clipped at eps
    assert value({"logprobs": logs, "label": data["label"]}, "sklearn") == pytest.approx(theirs, rel=1e-12)
    shifted = {"logprobs": logs - 0.25, "label": data["label"]}
    assert value(shifted, "torch", sum_tolerance=1.0) == pytest.approx(exact + 0.25)
    assert value(shifted, "keras", sum_tolerance=1.0) == pytest.approx(exact)
    assert value({"logprob": np.array([-1.0, -3.0]), "weight": np.array([3.0, 1.0])}, "torch") == 2.0


# ---- numbers that the tools printed


@pytest.mark.parametrize(
    ("tool", "expected", "tolerance"), [("keras", 3.98559, 1e-5), ("sklearn", 9.01091, 5e-6), ("torch", 25.0, 1e-12)]
)
def test_executed_binary(tool: str, expected: float, tolerance: float) -> None:
    data = {"prob": np.array([1.0, 1, 1, 0]), "label": np.array([1, 0, 1, 0])}
    assert value(data, tool) == pytest.approx(expected, abs=tolerance)
    assert entry(data, tool)["difference"] == "-inf"


@pytest.mark.parametrize(("dtype", "expected"), [("float32", 15.9424), ("float64", 36.0437)])
def test_executed_scikit_learn_goes_by_the_dtype(dtype: str, expected: float) -> None:
    data = {"prob": np.array([1.0, 0], dtype=dtype), "label": np.array([0, 1])}
    assert value(data, "sklearn") == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("tool", "expected"), [("keras", 16.1181), ("sklearn", 36.0437), ("torch", math.inf)])
def test_executed_categorical(tool: str, expected: float) -> None:
    data = {"probs": np.array([[0.0, 1, 0]]), "label": np.array([0])}
    assert value(data, tool) == pytest.approx(expected, abs=5e-5)


def test_executed_weights() -> None:
    p, w = np.array([[0.05, 0.95, 0], [0.1, 0.8, 0.1]], F32), np.array([0.3, 0.7])
    data = {"probs": p, "label": np.array([1, 2]), "weight": w}
    assert value(data, "keras") == pytest.approx(0.814, abs=5e-4)
    assert value(data, "keras", "cross_entropy_metric") == pytest.approx(1.62720, abs=5e-6)


# ---- PyTorch and Keras themselves


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture
def keras() -> Any:
    pytest.importorskip("torch")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("keras")


CLASS_WEIGHTS = (1.0, 2.0, 0.5, 4.0, 1.0)


def test_against_torch(torch: Any) -> None:
    nn = torch.nn
    data = rows("logits")
    z, y = torch.tensor(data["logits"]), torch.tensor(data["label"])
    for options, loss in (
        ({}, nn.CrossEntropyLoss()),
        ({"label_smoothing": 0.1}, nn.CrossEntropyLoss(label_smoothing=0.1)),
        ({"class_weights": CLASS_WEIGHTS}, nn.CrossEntropyLoss(weight=torch.tensor(CLASS_WEIGHTS))),
        ({"ignore_index": 2}, nn.CrossEntropyLoss(ignore_index=2)),
        (
            {"class_weights": CLASS_WEIGHTS, "ignore_index": 2},
            nn.CrossEntropyLoss(weight=torch.tensor(CLASS_WEIGHTS), ignore_index=2),
        ),
    ):
        assert value(data, "torch", **options) == pytest.approx(loss(z, y).item(), rel=1e-6), options
    q = torch.softmax(torch.randn(300, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    soft = {"logits": data["logits"], "target_probs": q.numpy()}
    for smoothing in (0.0, 0.2):
        theirs = nn.CrossEntropyLoss(label_smoothing=smoothing)(z, q).item()
        assert value(soft, "torch", label_smoothing=smoothing) == pytest.approx(theirs, rel=1e-6)
    logs = torch.log_softmax(z, dim=1)
    ours = value({"logprobs": logs.numpy(), "label": data["label"]}, "torch", class_weights=CLASS_WEIGHTS)
    assert ours == pytest.approx(nn.NLLLoss(weight=torch.tensor(CLASS_WEIGHTS))(logs, y).item(), rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_against_torch_binary(torch: Any, weighted: bool) -> None:
    nn, w = torch.nn, weights(300) if weighted else None
    weight = None if w is None else torch.tensor(w, dtype=torch.float32)
    more = {} if w is None else {"weight": w}
    hard, scores = rows("prob"), rows("logit")
    for label in (hard["label"], np.random.default_rng(3).random(300)):
        y = torch.tensor(label, dtype=torch.float32)
        theirs = nn.BCELoss(weight=weight)(torch.tensor(hard["prob"]), y).item()
        assert value({"prob": hard["prob"], "label": label, **more}, "torch") == pytest.approx(theirs, rel=1e-6)
        for factor in (1.0, 3.0):
            loss = nn.BCEWithLogitsLoss(weight=weight, pos_weight=torch.tensor(factor))
            theirs = loss(torch.tensor(scores["logit"]), y).item()
            ours = value({"logit": scores["logit"], "label": label, **more}, "torch", pos_weight=factor)
            assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("logits", [False, True])
def test_against_keras(keras: Any, logits: bool, weighted: bool) -> None:
    losses, metrics = keras.losses, keras.metrics
    w = weights(300) if weighted else None
    more = {} if w is None else {"weight": w}

    def both(loss: Any, metric: Any, y: Any, p: Any) -> list[float]:
        metric.update_state(y, p, sample_weight=w)
        return [float(loss(y, p, sample_weight=w)), float(metric.result())]

    def ours(data: dict[str, Any], **options: Any) -> list[float]:
        return [value(data | more, "keras", key, **options) for key in ("cross_entropy", "cross_entropy_metric")]

    kind = "logits" if logits else "probs"
    data = rows(kind)
    p, y = data[kind], data["label"]
    made = losses.SparseCategoricalCrossentropy(from_logits=logits), metrics.SparseCategoricalCrossentropy(from_logits=logits)
    assert ours(data) == pytest.approx(both(*made, y, p), rel=1e-6)
    for smoothing in (0.0, 0.1):
        how = {"from_logits": logits, "label_smoothing": smoothing}
        made = losses.CategoricalCrossentropy(**how), metrics.CategoricalCrossentropy(**how)
        expected = both(*made, one_hot(y, 5), p)
        assert ours(data, label_smoothing=smoothing) == pytest.approx(expected, rel=1e-6)
        assert ours({kind: p, "target_probs": one_hot(y, 5)}, label_smoothing=smoothing) == pytest.approx(expected, rel=1e-6)
    kind = "logit" if logits else "prob"
    data = rows(kind)
    for smoothing, label in itertools.product((0.0, 0.1), (data["label"], np.random.default_rng(3).random(300))):
        how = {"from_logits": logits, "label_smoothing": smoothing}
        made = losses.BinaryCrossentropy(**how), metrics.BinaryCrossentropy(**how)
        expected = both(*made, label[:, None].astype(F32), data[kind][:, None])
        found = ours({kind: data[kind], "label": label}, label_smoothing=smoothing)
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_against_keras_with_an_ignored_class(keras: Any, weighted: bool) -> None:
    data = dict(rows("probs"))
    w = weights(300, zeros=False) if weighted else None
    if weighted:
        data["weight"] = w
    p, y = data["probs"], data["label"]
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=2)
    metric = keras.metrics.MeanMetricWrapper(keras.losses.sparse_categorical_crossentropy, ignore_class=2)
    metric.update_state(y, p, sample_weight=w)
    assert value(data, "keras", ignore_index=2) == pytest.approx(float(loss(y, p, sample_weight=w)), rel=1e-6)


# ---- what does not apply is a reason


REASONS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "caffe of probabilities": ("caffe", rows("probs"), {}, "SoftmaxWithLoss takes K logits and a hard label"),
    "caffe of a logit": ("caffe", rows("logit"), {}, "SoftmaxWithLoss takes K logits and a hard label"),
    "caffe smoothed": ("caffe", rows("logits"), {"label_smoothing": 0.1}, "SoftmaxWithLoss has no label smoothing"),
    "tensorflow of probabilities": ("tensorflow", rows("prob"), {}, "tf.compat.v1.losses takes logits of every class"),
    "sklearn soft": (
        "sklearn",
        {"prob": np.array([0.5]), "label": np.array([0.5])},
        {},
        "log_loss takes hard labels and the prediction of every class",
    ),
    "sklearn smoothed": ("sklearn", rows("probs"), {"label_smoothing": 0.1}, "log_loss has no label smoothing"),
    "keras score": (
        "keras",
        {"logprob": np.array([-1.0])},
        {},
        "Keras takes the prediction of every class, as logits or probabilities",
    ),
    "torch soft probabilities": (
        "torch",
        {"probs": np.full((2, 2), 0.5), "target_probs": np.full((2, 2), 0.5)},
        {},
        "PyTorch takes soft targets of K classes with logits",
    ),
    "positive weight": ("torch", rows("prob"), {"pos_weight": 2.0}, "BCELoss has no weight of the positive class"),
    "smoothed class weights": (
        "torch",
        rows("logits"),
        {"label_smoothing": 0.1, "class_weights": CLASS_WEIGHTS},
        "CrossEntropyLoss weighs every class of a smoothed label by its own class weight",
    ),
    "no label": ("torch", {"logits": np.zeros((2, 3))}, {}, "there is neither a label nor a target"),
    "not asked for": ("torch", rows("logits"), {"metrics": "accuracy"}, "cross_entropy is not among --metrics"),
}


@pytest.mark.parametrize("name", REASONS)
def test_a_reason_where_a_tool_has_no_number(name: str) -> None:
    tool, data, options, reason = REASONS[name]
    assert evaluate(data, tool, **options).to_dict()["conventions"] == {
        tool: {"cross_entropy": {"value": None, "reason": reason}}
    }


NOTHING: dict[str, Any] = {"torch": "torch gives NaN: no row is left", "keras": 0.0, "caffe": 0.0, "tensorflow": 0.0}
NOTHING |= {"sklearn": "scikit-learn refuses: no row is left, or no weight"}


@pytest.mark.parametrize("tool", TOOLS)
def test_nothing_left(tool: str) -> None:
    data = rows("logits") | {"label": np.full(300, 3)}
    found = entry(data, tool, ignore_index=3)
    expected = NOTHING[tool]
    assert (found.get("value") if isinstance(expected, float) else found.get("reason")) == expected
    assert "difference" not in found


def test_weights_that_are_all_0() -> None:
    """Executed: Keras and BCELoss say 0, for there are rows to divide by; scikit-learn is an error."""
    data = {"prob": np.array([0.5, 0.25]), "label": np.array([1, 0]), "weight": np.zeros(2)}
    assert [value(data, tool) for tool in ("torch", "keras")] == [0.0, 0.0]
    assert entry(data, "sklearn")["value"] is None


# ---- beside the exact number


def test_the_difference_is_exact() -> None:
    """The cost of a sure hit, 2^-23 and a little, over the rows; taken of the two numbers, it would have lost its digits."""
    p = np.full(4096, 0.25)
    p[0] = 1.0
    found = entry({"prob": p, "label": np.ones(4096, dtype=np.int64)}, "keras")
    assert found["difference"] == pytest.approx(-math.log1p(-(2.0**-23)) / 4096, rel=1e-12)
    assert found["cause"] == "1 row clipped at 1e-07"


def test_zero_is_ours_alone() -> None:
    data = rows("probs", "float64")
    for tool in ("torch", "keras", "sklearn"):
        free, clipped = value(data, tool), entry(data, tool, zero="clip:1e-3")
        assert clipped["value"] == ("inf" if free == math.inf else free)
        assert clipped["cause"].endswith("not clipped by --zero")


def test_unit_and_perplexity() -> None:
    data = rows("logits")
    nats = evaluate(data, "keras", "torch").to_dict()["conventions"]
    bits = evaluate(data, "keras", unit="bit").to_dict()["conventions"]["keras"]
    assert bits["cross_entropy"]["value"] == pytest.approx(nats["keras"]["cross_entropy"]["value"] / math.log(2))
    assert bits["cross_entropy"]["unit"] == "bit"
    assert bits["perplexity"]["value"] == nats["keras"]["perplexity"]["value"]
    assert nats["torch"]["perplexity"]["value"] == pytest.approx(math.exp(nats["torch"]["cross_entropy"]["value"]))


def test_temperature_comes_before() -> None:
    data = rows("logits", "float64")
    warmer = {"logits": data["logits"] / 2, "label": data["label"]}
    assert value(data, "sklearn", temperature=2.0) == pytest.approx(value(warmer, "sklearn"), rel=1e-12)


# ---- the state keeps its laws


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "probs": (rows("probs") | {"weight": weights(300)}, {}),
    "smoothed": (rows("probs"), {"label_smoothing": 0.1}),
    "prob": (rows("prob"), {}),
    "logits": (rows("logits") | {"weight": weights(300)}, {"class_weights": CLASS_WEIGHTS, "ignore_index": 1}),
    "pair": ({"probs": rows("probs")["probs"], "target_probs": softmax(np.random.default_rng(1).normal(size=(300, 5)))}, {}),
}


def state(data: dict[str, Any], threads: int = 1, step: int = 1000, **options: Any) -> State:
    asked = Options.of(convention=TOOLS, **options)
    source = open_input(data, asked)
    accumulator = Accumulator(source.task, asked, threads)
    for batch in source.stream():
        for start in range(0, len(batch), step):
            accumulator.add(batch.rows(start, start + step))
    return accumulator.state()


def part(data: dict[str, Any], places: Any) -> dict[str, Any]:
    return {name: values[places] for name, values in data.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_threads_order_pieces_and_merging_change_nothing(kind: str) -> None:
    data, options = KINDS[kind]
    whole = state(data, **options)
    assert whole.arrays["convention_rows"].any() and whole.arrays["conventions"].any()
    order = np.random.default_rng(9).permutation(300)
    assert state(data, threads=3, step=17, **options).digest == whole.digest
    assert state(part(data, order), **options).digest == whole.digest
    halves = [state(part(data, order[cut]), **options) for cut in (slice(0, 101), slice(101, None))]
    assert halves[0].merged(halves[1]).digest == halves[1].merged(halves[0]).digest == whole.digest
    again = State.from_bytes(whole.to_bytes())
    assert again.digest == whole.digest
    assert np.array_equal(again.arrays["conventions"], whole.arrays["conventions"])
    changed = part(data, slice(1, None))
    assert state(changed, **options).digest != whole.digest


def test_threads_that_decode_and_add_change_nothing(tmp_path: Any) -> None:
    import pyarrow.parquet as pq

    data = rows("prob", n=5000)
    pq.write_table(pa.table(data), tmp_path / "rows.parquet", row_group_size=700)
    found = [
        streamloss.evaluate(tmp_path / "rows.parquet", convention=TOOLS, threads=n, batch_rows=size, reader=reader)
        for n, size, reader in ((1, None, "auto"), (3, 129, "pages"), (2, 1000, "arrow"))
    ]
    assert len({report.digest for report in found}) == 1
    assert found[0].to_dict()["conventions"] == evaluate(data, *TOOLS).to_dict()["conventions"]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_else_changes_when_they_are_asked_for(kind: str) -> None:
    data, options = KINDS[kind]
    plain, beside = evaluate(data, **options), evaluate(data, *TOOLS, **options)
    assert beside.metrics == plain.metrics
    assert set(beside.state.arrays) - set(plain.state.arrays) == {"conventions", "convention_rows"}
    for name, array in plain.state.arrays.items():
        assert np.array_equal(array, beside.state.arrays[name]), name
    assert plain.to_dict()["conventions"] == {}
    assert evaluate(data, "exact", **options).digest == plain.digest != beside.digest


@pytest.mark.parametrize("k", [5, 90])
def test_slices_beside(k: int) -> None:
    """Short rows, which are moved, and long ones."""
    data = rows("probs", n=301, k=k) | {"weight": weights(301), "mask": np.arange(301) % 5 > 0, "g": np.arange(301) % 4}
    alone = evaluate({name: v for name, v in data.items() if name != "g"}, *TOOLS).to_dict()
    sliced = evaluate(data, *TOOLS, by="g").to_dict()
    assert sliced["conventions"] == alone["conventions"]
    assert len(sliced["slices"]) == 4


def test_a_refused_batch_leaves_nothing_behind() -> None:
    evaluator = streamloss.Evaluator(convention=TOOLS, threads=1)
    evaluator.update(rows("probs"))
    before = evaluator.report().to_dict()
    bad = dict(rows("probs"))
    bad["probs"] = np.where(np.arange(300)[:, None] == 250, F32(np.nan), bad["probs"])
    with pytest.raises(DataError):
        evaluator.update(bad)
    assert evaluator.report().to_dict() == before


def test_invalid_rows_are_skipped() -> None:
    data = dict(rows("probs"))
    spoiled = {"probs": np.concatenate([data["probs"], np.full((3, 5), 0.9, F32)])}
    spoiled["label"] = np.concatenate([data["label"], [1, 2, 3]])
    expected = evaluate(data, *TOOLS).to_dict()["conventions"]
    assert evaluate(spoiled, *TOOLS, on_invalid="skip").to_dict()["conventions"] == expected


def test_states_of_other_conventions_do_not_merge(tmp_path: Any) -> None:
    data, options = KINDS["prob"]
    for name, tools in (("a", "torch"), ("b", "keras")):
        streamloss.evaluate(part(data, slice(ord(name) % 2, None, 2)), convention=tools, save_state=tmp_path / name)
    with pytest.raises(StreamlossError, match="differ in 'convention'"):
        streamloss.merge([tmp_path / "a", tmp_path / "b"])
    whole = evaluate(data, "torch", **options)
    streamloss.evaluate(part(data, slice(0, None, 2)), convention="exact,torch", save_state=tmp_path / "b")
    merged = streamloss.merge([tmp_path / "a", tmp_path / "b"])
    assert merged.digest == whole.digest
    assert merged.to_dict()["conventions"] == whole.to_dict()["conventions"]


def test_counts_that_cannot_be_are_refused() -> None:
    data, options = KINDS["prob"]
    broken = state(data, **options)
    broken.arrays["convention_rows"][0, 2] = 301
    with pytest.raises(DataError, match="counts of conventions"):
        State.from_bytes(broken.to_bytes())


# ---- options


def test_the_order_of_conventions_says_nothing() -> None:
    assert Options.of(convention=("sklearn", "exact", "torch", "torch")) == Options.of(convention="torch,sklearn")
    assert "convention" not in Options.of(convention="exact").to_dict()
    with pytest.raises(UsageError, match="--convention is one of exact, torch, keras, tensorflow, caffe, sklearn, not 'jax'"):
        Options.of(convention="jax")


def test_every_tool_has_its_conventions() -> None:
    assert set(CONVENTIONS) == set(TOOLS)
    for each in (convention for found in CONVENTIONS.values() for convention in found):
        assert "cross_entropy" in each.divisors
        assert each.clip("bfloat16") == each.clip("float32")


# ---- the edge


def test_the_edge_of_hard_labels() -> None:
    p, y, w = np.array([0.0, 1.0, 0.5, 0.25]), np.array([1, 0, 1, 1]), np.array([1.0, 2, 3, 4])
    metric = evaluate({"prob": p, "label": y, "weight": w}).to_dict()["metrics"]["cross_entropy"]
    edge = metric["edge"]
    assert (edge["rows"], edge["weight_share"]) == (2, 0.3)
    finite = 3 * math.log(2) + 4 * math.log(4)
    assert edge["finite_mean"] == metric["finite_mean"] == pytest.approx(finite / 7)
    assert list(edge["at"]) == ["1e-07", "1e-15", "eps (float32)", "eps (float64)"]
    for eps, mean in zip((1e-7, 1e-15, np.finfo(F32).eps, np.finfo(float).eps), edge["at"].values(), strict=True):
        assert mean == pytest.approx((finite - 3 * math.log(eps)) / 10, rel=1e-14)
        # No other probability is below EPS here, so clipping at it gives the same mean.
        clipped = evaluate({"prob": p, "label": y, "weight": w}, zero=f"clip:{float(eps)!r}").metrics["cross_entropy"].mean
        assert mean == pytest.approx(clipped, rel=1e-14)


def test_the_edge_of_rows_that_are_all_infinite() -> None:
    edge = evaluate({"prob": np.zeros(3), "label": np.ones(3, dtype=int)}, unit="bit").metrics["cross_entropy"].edge
    assert edge is not None
    assert (edge["rows"], edge["weight_share"], edge["finite_mean"]) == (3, 1.0, None)
    assert edge["at"]["eps (float64)"] == pytest.approx(52.0)


def test_the_edge_of_scores_and_of_many_classes() -> None:
    edge = evaluate({"logprob": np.array([-np.inf, -1.0])}).metrics["cross_entropy"].edge
    assert edge is not None and edge["at"]["1e-07"] == pytest.approx((1 - math.log(1e-7)) / 2)
    edge = evaluate(rows("probs")).metrics["cross_entropy"].edge
    assert edge is not None and edge["rows"] > 0


def test_the_edge_of_soft_targets_is_a_reason() -> None:
    data = {"probs": np.array([[0.0, 1], [0.5, 0.5]]), "target_probs": np.array([[0.5, 0.5], [1, 0]])}
    edge = evaluate(data).metrics["cross_entropy"].edge
    assert edge is not None
    assert (edge["rows"], edge["weight_share"], edge["at"]) == (1, 0.5, None)
    assert "soft target" in edge["reason"]


def test_no_edge_where_no_row_is_infinite() -> None:
    assert "edge" not in evaluate(rows("logits")).to_dict()["metrics"]["cross_entropy"]
    assert evaluate(rows("probs"), zero="clip:1e-9").metrics["cross_entropy"].edge is None


# ---- shown


def screen(report: dict[str, Any]) -> str:
    return tables.to_text(lambda console: terminal.render(report, console), width=240)


def page(report: dict[str, Any]) -> str:
    return webpage.encode(report).decode()


SHOWN: dict[str, Callable[[dict[str, Any]], str]] = {
    "terminal": screen,
    "markdown": lambda report: markdown.encode(report).decode(),
    "csv": lambda report: csvfile.encode(report).decode(),
    "html": page,
}


@pytest.mark.parametrize("form", SHOWN)
def test_every_format_shows_conventions_and_edge(form: str) -> None:
    report = evaluate(rows("probs"), *TOOLS).to_dict(histograms=True)
    text = SHOWN[form](report).replace("\\", "").replace("\N{NO-BREAK SPACE}", " ").replace("&#39;", "'")
    for words in ("clipped at 1e-07", "cross_entropy_metric" if form == "csv" else "cross-entropy (metric)"):
        assert words in text
    assert "SoftmaxWithLoss takes K logits and a hard label" in text
    edge = report["metrics"]["cross_entropy"]["edge"]
    if form == "csv":
        assert f"edge,,1e-15,cross_entropy,nat,{edge['at']['1e-15']!r}" in text
    else:
        assert "With EPS in the place of 0 the mean, in nat, would be" in text


def test_the_edge_in_words() -> None:
    report = evaluate({"prob": np.array([0.0, 0.5]), "label": np.array([1, 1])}).to_dict()
    (line,) = wording.edge(report["metrics"]["cross_entropy"])
    assert line == (
        "This row has 50.0 % of the weight. With EPS in the place of 0 the mean, in nat, would be 8.406 at 1e-07, 17.62 at "
        "1e-15, 8.318 at eps (float32), 18.37 at eps (float64)."
    )


def test_on_the_command_line(tmp_path: Any) -> None:
    import pyarrow.parquet as pq

    file = str(tmp_path / "rows.parquet")
    pq.write_table(pa.table({"prob": rows("prob")["prob"], "label": rows("prob")["label"]}), file)
    asked = ["evaluate", file, "--convention", "sklearn", "--convention", "exact", "--convention", "keras"]
    ended = CliRunner().invoke(cli, [*asked, "--format", "json", "--fail-if", "convention(sklearn, cross_entropy) > 0"])
    assert ended.exit_code == 1
    report = json.loads(ended.stdout)
    assert list(report["conventions"]) == ["keras", "sklearn"]
    assert report["options"]["convention"] == ["keras", "sklearn"]
    assert report["gates"][0]["value"] == report["conventions"]["sklearn"]["cross_entropy"]["value"]
    ended = CliRunner().invoke(cli, [*asked, "--format", "json", "--fail-if", "convention(keras, cross_entropy_metric) < 0"])
    assert (ended.exit_code, json.loads(ended.stdout)["gates"][0]["outcome"]) == (0, "pass")
    assert CliRunner().invoke(cli, ["evaluate", file, "--convention", "jax"]).exit_code == 2
