"""Intervals: what clusters do to errors, and how often the 95 % intervals hold what they are said to hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest

import streamloss
from streamloss.reporting.metrics import wilson
from streamloss.slices import CLUSTERS, SLICE_CLUSTERS

RUNS = 800  # the share of intervals that hold is then known to ± 1.5 points


def clustered(clusters: int, size: int, seed: int, spread: float = 1.0) -> tuple[Any, Any, Any]:
    """(loss, cluster, rng): losses whose clusters have something in common; their mean is 3."""
    r = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(clusters), size)
    return np.abs(3 + spread * r.normal(0, 1, clusters)[cluster] + r.normal(0, 0.5, clusters * size)), cluster, r


def groups(cluster: Any, most: int) -> Any:
    """The group that each cluster is thrown to."""
    names = {
        value: int.from_bytes(blake2b(repr(value).encode(), digest_size=8).digest(), "little") % most for value in set(cluster)
    }
    return np.array([names[value] for value in cluster])


def jackknife(x: Any, w: Any, group: Any) -> float:
    """Plainly: the ratio without each group."""
    present = np.unique(group)
    without = [x[group != g].sum() / w[group != g].sum() for g in present]
    return math.sqrt((len(present) - 1) / len(present) * sum((v - np.mean(without)) ** 2 for v in without))


def test_the_error_is_the_jackknifes() -> None:
    loss, cluster, r = clustered(300, 5, 1)
    weight, size = r.exponential(1, 1500), r.integers(1, 9, 1500)
    data = {"logprob": -loss, "c": cluster, "w": weight, "b": size}
    group, one = groups(cluster.tolist(), CLUSTERS), np.ones(1500)
    plain = streamloss.evaluate(data, cluster="c", bytes="b").metrics
    assert plain["cross_entropy"].stderr == pytest.approx(jackknife(loss, one, group), rel=1e-9)
    assert plain["perplexity"].stderr == pytest.approx(plain["perplexity"].mean * jackknife(loss, one, group), rel=1e-9)
    assert plain["bits_per_byte"].stderr == pytest.approx(jackknife(loss, size, group) / math.log(2), rel=1e-9)
    weighted = streamloss.evaluate(data, cluster="c", weight="w").metrics["cross_entropy"]
    assert weighted.stderr == pytest.approx(jackknife(weight * loss, weight, group), rel=1e-9)
    text = streamloss.evaluate(data | {"c": [f"user {c}" for c in cluster]}, cluster="c").metrics["cross_entropy"]
    names = groups([f"user {c}" for c in cluster.tolist()], CLUSTERS)
    assert text.stderr == pytest.approx(jackknife(loss, one, names), rel=1e-9)


def test_every_row_a_cluster_of_its_own_is_no_cluster() -> None:
    loss, _, _ = clustered(900, 1, 2)
    data = {"logprob": -loss, "c": np.arange(900)}
    alone, plain = (streamloss.evaluate(data, **more).metrics["cross_entropy"] for more in ({"cluster": "c"}, {}))
    assert alone.stderr == pytest.approx(plain.stderr, rel=0.1)  # rows that meet in a group move it a little
    assert alone.mean == plain.mean and alone.quantiles == plain.quantiles


def test_slices_have_errors_from_their_own_clusters() -> None:
    loss, cluster, r = clustered(100, 6, 3)
    part = r.integers(0, 3, 600)
    report = streamloss.evaluate({"logprob": -loss, "c": cluster, "g": part}, cluster="c", by="g", max_slices=2)
    found = {each.by["g"]: each.metrics["cross_entropy"] for each in report.slices}
    for g in (0, 1):
        rows = part == g
        group = groups(cluster[rows].tolist(), SLICE_CLUSTERS)
        assert found[g].stderr == pytest.approx(jackknife(loss[rows], np.ones(rows.sum()), group), rel=1e-9)
    assert found["(other)"].stderr is None and found["(other)"].low is None
    assert found["(other)"].mean == pytest.approx(loss[part == 2].mean(), rel=1e-12)


def test_one_cluster_gives_no_error() -> None:
    metric = streamloss.evaluate({"logprob": -np.ones(9), "c": np.zeros(9, dtype=int)}, cluster="c").metrics["cross_entropy"]
    assert metric.mean == 1 and metric.stderr is None and metric.low is None


def test_comparisons_of_clusters() -> None:
    loss, cluster, r = clustered(200, 6, 4)
    old = loss * r.uniform(0.9, 1.3, 1200) + 0.1 * (cluster % 3)
    data = {"a": -loss, "b": -old, "c": cluster}
    report = streamloss.compare(data, logprob="a", baseline_logprob="b", cluster="c").to_dict()["comparison"]
    group, one = groups(cluster.tolist(), CLUSTERS), np.ones(1200)
    assert report["cross_entropy"]["stderr"] == pytest.approx(jackknife(loss - old, one, group), rel=1e-8)
    assert report["cross_entropy"]["ratio_stderr"] == pytest.approx(jackknife(loss, old, group), rel=1e-8)
    difference = [math.exp(loss[group != g].mean()) - math.exp(old[group != g].mean()) for g in np.unique(group)]
    error = math.sqrt((len(difference) - 1) / len(difference) * sum((v - np.mean(difference)) ** 2 for v in difference))
    assert report["perplexity"]["stderr"] == pytest.approx(error, rel=1e-8)
    assert report["perplexity"]["ratio_stderr"] == pytest.approx(
        report["perplexity"]["ratio"] * jackknife(loss - old, one, group), rel=1e-8
    )


def test_states_of_clusters_merge() -> None:
    loss, cluster, r = clustered(150, 4, 5)
    part = r.integers(0, 4, 600)
    data = {"logprob": -loss, "c": cluster, "g": part}
    asked: dict[str, Any] = {"cluster": "c", "by": "g"}
    whole = streamloss.evaluate(data, **asked)
    order = r.permutation(600)
    cuts = [order[:77], order[77:]]
    halves = [streamloss.Evaluator(**asked).update({k: v[cut] for k, v in data.items()}) for cut in cuts]
    merged = streamloss.Evaluator.from_bytes(halves[1].to_bytes()).merge(streamloss.Evaluator.from_bytes(halves[0].to_bytes()))
    assert merged.report().digest == whole.digest
    assert merged.report().to_dict()["slices"] == whole.to_dict()["slices"]


@pytest.mark.parametrize(("share", "rows"), [(0.0, 10), (1.0, 10), (0.3, 25), (0.999, 4000)])
def test_wilson(share: float, rows: int) -> None:
    """The ends are the values p whose own spread reaches the share: |share − p| = z √(p(1 − p)/n)."""
    ends = wilson(share, rows, 1.96)
    for p in ends.values():
        assert abs(share - p) == pytest.approx(1.96 * math.sqrt(p * (1 - p) / rows), rel=1e-9, abs=1e-12)
    assert 0 <= ends["low"] <= share <= ends["high"] <= 1


def held(truth: float, run: Callable[[int], Any]) -> float:
    """The share of intervals that hold the truth."""
    hits = 0
    for seed in range(RUNS):
        metric = run(seed)
        low, high = (metric["low"], metric["high"]) if isinstance(metric, dict) else (metric.low, metric.high)
        hits += low <= truth <= high
    return hits / RUNS


def mean_of_rows(seed: int) -> Any:
    loss = np.random.default_rng(seed).gamma(4, 0.5, 200)
    return streamloss.evaluate({"logprob": -loss}, threads=1).metrics["cross_entropy"]


def perplexity(seed: int) -> Any:
    loss = np.random.default_rng(seed).gamma(4, 0.5, 200)
    return streamloss.evaluate({"logprob": -loss}, threads=1).metrics["perplexity"]


def bits_per_byte(seed: int) -> Any:
    r = np.random.default_rng(seed)
    size = r.integers(1, 20, 200)
    return streamloss.evaluate({"logprob": -size * r.gamma(4, 0.25, 200), "n": size}, bytes="n", threads=1).metrics[
        "bits_per_byte"
    ]


def weighted(seed: int) -> Any:
    r = np.random.default_rng(seed)
    data = {"logprob": -r.gamma(4, 0.5, 200), "w": r.exponential(1, 200)}
    return streamloss.evaluate(data, weight="w", threads=1).metrics["cross_entropy"]


def accuracy(seed: int) -> Any:
    r = np.random.default_rng(seed)
    data = {"prob": np.full(150, 0.9), "label": (r.random(150) < 0.9).astype(int)}
    return streamloss.evaluate(data, metrics="accuracy", threads=1).metrics["accuracy"]


def clusters(seed: int) -> Any:
    r = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(80), 5)
    loss = r.gamma(4, 0.5, 80)[cluster] * r.gamma(10, 0.1, 400)
    return streamloss.evaluate({"logprob": -loss, "c": cluster}, cluster="c", threads=1).metrics["cross_entropy"]


def difference(seed: int) -> Any:
    r = np.random.default_rng(seed)
    old = r.gamma(4, 0.5, 200)
    new = old + r.normal(-0.1, 0.3, 200).clip(-0.9, 0.7)
    report = streamloss.compare({"a": -np.abs(new), "b": -old}, logprob="a", baseline_logprob="b", threads=1)
    return report.to_dict()["comparison"]["cross_entropy"]


@pytest.mark.parametrize(
    ("truth", "run"),
    [
        (2.0, mean_of_rows),
        (math.exp(2), perplexity),
        (1 / math.log(2), bits_per_byte),
        (2.0, weighted),
        (0.9, accuracy),
        (2.0, clusters),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_95_percent_intervals_hold(truth: float, run: Callable[[int], Any]) -> None:
    assert 0.92 <= held(truth, run) <= 0.97


def test_95_percent_intervals_of_differences_hold() -> None:
    r = np.random.default_rng(99)
    old = r.gamma(4, 0.5, 4_000_000)
    truth = float((np.abs(old + r.normal(-0.1, 0.3, len(old)).clip(-0.9, 0.7)) - old).mean())
    assert 0.92 <= held(truth, difference) <= 0.97
