"""Two models on the same rows: every figure against NumPy in float64, llama.cpp's formulas, and the laws of exact states."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import streamloss
from streamloss.cli.main import cli
from streamloss.errors import DataError, UsageError
from streamloss.options import Options
from streamloss.reading.source import open_input
from streamloss.running import comparing

DIGITS = "data/digits.parquet"
Z95 = 1.959963984540054


def logits(n: int, k: int, seed: int, spread: float = 2.0) -> tuple[Any, Any, Any]:
    """(new, old, label): two models that go together, the new one a little better."""
    r = np.random.default_rng(seed)
    label = r.integers(0, k, n)
    old = r.normal(0, spread, (n, k))
    old[np.arange(n), label] += 1.5
    new = old + r.normal(0, 0.4, (n, k))
    new[np.arange(n), label] += 0.2
    return new.astype(np.float32), old.astype(np.float32), label


def log_softmax(z: Any) -> Any:
    z = z.astype(np.float64)
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def naive(new: Any, old: Any, label: Any) -> dict[str, Any]:
    """Row values of a comparison."""
    p, q, n = log_softmax(new), log_softmax(old), np.arange(len(label))
    m = np.logaddexp(p, q) - math.log(2)
    return {
        "new": -p[n, label],
        "old": -q[n, label],
        "kl": (np.exp(q) * (q - p)).sum(axis=1),
        "reverse": (np.exp(p) * (p - q)).sum(axis=1),
        "js": 0.5 * (np.exp(q) * (q - m)).sum(axis=1) + 0.5 * (np.exp(p) * (p - m)).sum(axis=1),
        "same": (p.argmax(axis=1) == q.argmax(axis=1)).astype(float),
        "delta": np.exp(p[n, label]) - np.exp(q[n, label]),
    }


def stderr(x: Any) -> float:
    return float(x.std(ddof=1) / math.sqrt(len(x)))


def test_against_numpy() -> None:
    new, old, label = logits(4000, 37, 1)
    report = streamloss.compare({"a": new, "b": old, "y": label}, logits="a", baseline_logits="b", label="y")
    rows, found = naive(new, old, label), report.to_dict()
    assert found["command"] == "compare"
    metrics = {
        "kl_divergence": "kl",
        "reverse_kl_divergence": "reverse",
        "js_divergence": "js",
        "same_top": "same",
        "delta_p": "delta",
    }
    for key, name in metrics.items():
        assert report.metrics[key].mean == pytest.approx(rows[name].mean(), rel=1e-9, abs=1e-14), key
        assert report.metrics[key].stderr == pytest.approx(stderr(rows[name]), rel=1e-9), key
        assert report.metrics[key].min == pytest.approx(rows[name].min(), rel=1e-9, abs=1e-14), key
        assert report.metrics[key].max == pytest.approx(rows[name].max(), rel=1e-9), key
    assert report.metrics["delta_p_rms"].mean == pytest.approx(math.sqrt((rows["delta"] ** 2).mean()), rel=1e-9)
    entry, d = found["comparison"]["cross_entropy"], rows["new"] - rows["old"]
    assert entry["new"] == pytest.approx(rows["new"].mean(), rel=1e-12)
    assert entry["old"] == pytest.approx(rows["old"].mean(), rel=1e-12)
    assert entry["difference"] == pytest.approx(d.mean(), rel=1e-9)
    assert entry["stderr"] == pytest.approx(stderr(d), rel=1e-9)
    assert entry["low"] == pytest.approx(d.mean() - Z95 * stderr(d), rel=1e-9)
    assert entry["correlation"] == pytest.approx(np.corrcoef(rows["new"], rows["old"])[0, 1], rel=1e-9)
    for level, value in entry["quantiles"].items():
        exact = float(np.quantile(d, float(level), method="inverted_cdf"))
        assert value == pytest.approx(exact, rel=0.004, abs=1e-12), level


def test_llama_cpp_prints_the_same() -> None:
    """The lines of `llama-perplexity --kl-divergence`, by its formulas: perplexity.cpp, `kl_divergence`."""
    new, old, label = logits(3000, 50, 2)
    report = streamloss.compare({"a": new, "b": old, "y": label}, logits="a", baseline_logits="b", label="y")
    rows, found, n = naive(new, old, label), report.to_dict(), len(label)

    def mean_and_uncertainty(x: Any) -> tuple[float, float]:
        mean = x.sum() / n
        return mean, math.sqrt((x @ x / n - mean * mean) / (n - 1))

    a, b = rows["new"], rows["old"]
    (log_new, log_new_error), (log_old, log_old_error) = mean_and_uncertainty(a), mean_and_uncertainty(b)
    covariance = (a @ b / n - log_new * log_old) / (n - 1)
    perplexity = found["comparison"]["perplexity"]
    assert perplexity["new"] == pytest.approx(math.exp(log_new), rel=1e-9)
    assert perplexity["old"] == pytest.approx(math.exp(log_old), rel=1e-9)
    assert perplexity["correlation"] == pytest.approx(covariance / (log_new_error * log_old_error), rel=1e-6)
    log_ratio_error = math.sqrt(log_new_error**2 + log_old_error**2 - 2 * covariance)
    assert found["comparison"]["cross_entropy"]["difference"] == pytest.approx(log_new - log_old, rel=1e-9)
    assert found["comparison"]["cross_entropy"]["stderr"] == pytest.approx(log_ratio_error, rel=1e-6)
    ratio = math.exp(log_new - log_old)
    assert perplexity["ratio"] == pytest.approx(ratio, rel=1e-9)
    assert perplexity["ratio_stderr"] == pytest.approx(ratio * log_ratio_error, rel=1e-6)
    ppl_new, ppl_old = math.exp(log_new), math.exp(log_old)
    variance = ppl_new**2 * log_new_error**2 + ppl_old**2 * log_old_error**2 - 2 * ppl_new * ppl_old * covariance
    assert perplexity["difference"] == pytest.approx(ppl_new - ppl_old, rel=1e-9)
    assert perplexity["stderr"] == pytest.approx(math.sqrt(variance), rel=1e-6)
    kl, kl_error = mean_and_uncertainty(rows["kl"])
    assert report.metrics["kl_divergence"].mean == pytest.approx(kl, rel=1e-9)
    assert report.metrics["kl_divergence"].stderr == pytest.approx(kl_error, rel=1e-6)
    squared, squared_error = mean_and_uncertainty(rows["delta"] ** 2)
    rms = math.sqrt(squared)
    assert report.metrics["delta_p_rms"].mean == pytest.approx(rms, rel=1e-9)
    assert report.metrics["delta_p_rms"].stderr == pytest.approx(0.5 / rms * squared_error, rel=1e-6)
    same = rows["same"].mean()
    assert report.metrics["same_top"].stderr == pytest.approx(math.sqrt(same * (1 - same) / (n - 1)), rel=1e-9)
    # Percentiles by linear interpolation lie within our bound of 0.4 % and one step of the order statistics.
    for name, key in (("kl", "kl_divergence"), ("delta", "delta_p")):
        quantiles, ordered = report.metrics[key].quantiles, np.sort(rows[name])
        assert quantiles is not None
        for level, value in quantiles.items():
            at = float(level) * (n - 1)
            low, high = ordered[max(math.floor(at) - 1, 0)], ordered[min(math.ceil(at) + 1, n - 1)]
            slack = 0.004 * max(abs(low), abs(high)) + 1e-12
            assert low - slack <= value <= high + slack, (key, level)


def test_kl_is_never_negative_and_small_ones_are_exact() -> None:
    z = np.random.default_rng(3).normal(0, 3, (500, 64))
    near = z + 1e-7 * np.random.default_rng(4).normal(0, 1, z.shape)
    report = streamloss.compare({"a": near, "b": z}, logits="a", baseline_logits="b")
    p = np.exp(log_softmax(z))
    d = near - z
    second = 0.5 * ((p * d * d).sum(axis=1) - (p * d).sum(axis=1) ** 2)  # KL to second order
    assert report.metrics["kl_divergence"].mean == pytest.approx(second.mean(), rel=1e-5)
    assert report.metrics["kl_divergence"].min is not None and report.metrics["kl_divergence"].min >= 0
    same = streamloss.compare({"a": z, "b": z}, logits="a", baseline_logits="b")
    for key in ("kl_divergence", "reverse_kl_divergence", "js_divergence"):
        assert same.metrics[key].mean == 0 == same.metrics[key].max
    assert same.metrics["same_top"].mean == 1


@pytest.mark.parametrize("form", ["logit", "prob"])
def test_binary(form: str) -> None:
    r = np.random.default_rng(5)
    z, label = r.normal(0, 2, (2, 1000)), r.integers(0, 2, 1000)
    columns = z if form == "logit" else 1 / (1 + np.exp(-z))
    data = {"a": columns[0], "b": columns[1], "y": label}
    report = streamloss.compare(data, label="y", **{form: "a", f"baseline_{form}": "b"})
    p, q = 1 / (1 + np.exp(-z))
    kl = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
    assert report.metrics["kl_divergence"].mean == pytest.approx(kl.mean(), rel=1e-9)
    cost = [-np.log(np.where(label == 1, x, 1 - x)) for x in (p, q)]
    entry = report.to_dict()["comparison"]["cross_entropy"]
    assert entry["difference"] == pytest.approx((cost[0] - cost[1]).mean(), rel=1e-9)
    assert report.metrics["delta_p"].mean == pytest.approx((np.exp(-cost[0]) - np.exp(-cost[1])).mean(), rel=1e-9)


def test_scores_of_what_happened() -> None:
    r = np.random.default_rng(6)
    a, b = -r.exponential(1, (2, 800))
    report = streamloss.compare({"a": a, "b": b}, logprob="a", baseline_logprob="b")
    assert "kl_divergence" not in report.metrics and "delta_p" not in report.metrics
    entry = report.to_dict()["comparison"]
    assert entry["cross_entropy"]["difference"] == pytest.approx((b - a).mean(), rel=1e-9)
    assert entry["perplexity"]["ratio"] == pytest.approx(math.exp((b - a).mean()), rel=1e-12)


def test_weights_and_soft_targets() -> None:
    new, old, _ = logits(600, 5, 7)
    r = np.random.default_rng(8)
    truth, weight = r.dirichlet(np.ones(5), 600), r.exponential(1, 600)
    data = {"a": new, "b": old, "q": truth, "w": weight}
    report = streamloss.compare(data, logits="a", baseline_logits="b", target_probs="q", weight="w")
    a, b = (-(truth * log_softmax(z)).sum(axis=1) for z in (new, old))
    d = a - b
    mean = (weight * d).sum() / weight.sum()
    error = math.sqrt(600 / 599 * (weight**2 * (d - mean) ** 2).sum()) / weight.sum()
    entry = report.to_dict()["comparison"]["cross_entropy"]
    assert entry["difference"] == pytest.approx(mean, rel=1e-9)
    assert entry["stderr"] == pytest.approx(error, rel=1e-9)
    rows = naive(new, old, np.zeros(600, dtype=int))
    assert report.metrics["kl_divergence"].mean == pytest.approx((weight * rows["kl"]).sum() / weight.sum(), rel=1e-9)
    assert "delta_p" not in report.metrics


def test_both_sides_are_those_of_evaluate() -> None:
    new, old, label = logits(700, 12, 9)
    data = {"a": new, "b": old, "y": label, "g": label % 3}
    report = streamloss.compare(data, logits="a", baseline_logits="b", label="y", by="g")
    sides = {"metrics": "a", "baseline": "b"}
    levels = list(report.metrics["kl_divergence"].quantiles or {})
    for side, column in sides.items():
        alone = streamloss.evaluate(data, logits=column, label="y", by="g", quantiles=",".join(levels)).to_dict()
        found = report.to_dict()
        whole = found["metrics"] if side == "metrics" else found["baseline"]["metrics"]
        for key in ("cross_entropy", "entropy", "accuracy", "brier", "perplexity", "ece", "adaptive_ece", "label_entropy"):
            assert whole[key] == alone["metrics"][key], (side, key)
        for mine, theirs in zip(found["slices"], alone["slices"], strict=True):
            assert mine["by"] == theirs["by"] and mine["rows"] == theirs["rows"]
            metrics = mine["metrics"] if side == "metrics" else mine["baseline"]["metrics"]
            assert metrics["cross_entropy"] == theirs["metrics"]["cross_entropy"]


def test_a_slice_is_a_comparison_of_its_rows() -> None:
    new, old, label = logits(500, 8, 10)
    group = np.random.default_rng(11).integers(0, 4, 500)
    data = {"a": new, "b": old, "y": label, "g": group}
    report = streamloss.compare(data, logits="a", baseline_logits="b", label="y", by="g").to_dict()
    for part in report["slices"]:
        rows = group == part["by"]["g"]
        alone = streamloss.compare({k: v[rows] for k, v in data.items()}, logits="a", baseline_logits="b", label="y").to_dict()
        for key, entry in alone["comparison"].items():
            if key != "adaptive_ece":
                assert part["comparison"][key] == entry, key
        assert part["metrics"]["kl_divergence"] == alone["metrics"]["kl_divergence"]


def test_infinite_rows() -> None:
    p = np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])
    q = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    label = np.array([1, 0, 0])
    entry = streamloss.compare({"a": p, "b": q, "y": label}, probs="a", baseline_probs="b", label="y").to_dict()
    assert entry["comparison"]["cross_entropy"]["difference"] == "inf"
    assert "stderr" not in entry["comparison"]["cross_entropy"]
    assert entry["metrics"]["kl_divergence"]["mean"] == "inf"
    both = streamloss.compare({"a": p, "b": p, "y": label}, probs="a", baseline_probs="b", label="y").to_dict()
    assert both["comparison"]["cross_entropy"]["difference"] is None
    assert "infinite" in both["comparison"]["cross_entropy"]["reason"]


@pytest.mark.parametrize("clusters", [False, True], ids=["rows", "clusters"])
@pytest.mark.parametrize("big", [1e155, 1e300, 1.7e308])
def test_losses_whose_squares_are_too_large(big: float, clusters: bool) -> None:
    """They compare as the same losses on another scale do: a second logit so large is the loss."""
    r = np.random.default_rng(21)
    old = r.uniform(0.1, 1, 60)
    new = np.clip(old + r.normal(0, 0.2, 60), 0, 1)
    data = {"y": np.zeros(60, dtype=int), "g": np.arange(60) // 4}
    more = {"cluster": "g"} if clusters else {}

    def compared(scale: float) -> dict[str, Any]:
        sides = {name: np.stack([np.zeros(60), x * scale], axis=1) for name, x in (("a", new), ("b", old))}
        report = streamloss.compare(data | sides, logits="a", baseline_logits="b", label="y", **more).to_dict()
        json.dumps(report, allow_nan=False)
        return dict(report["comparison"]["cross_entropy"])

    found, usual = compared(big), compared(1e9)
    for key in ("new", "old", "difference", "stderr", "low", "high", "min", "max"):
        assert found[key] / big == pytest.approx(usual[key] / 1e9, rel=1e-6, abs=1e-9), key
    for key in ("ratio", "ratio_stderr", "ratio_low", "ratio_high", "correlation"):
        assert found[key] == pytest.approx(usual[key], rel=1e-6), key
    assert found["correlation"] == pytest.approx(np.corrcoef(new, old)[0, 1], rel=1e-9)


def test_a_ratio_that_is_too_large_is_infinite() -> None:
    old = np.array([[0.0, -40.0], [0.0, -40.0], [0.0, -41.0]])  # losses of about 1e-17
    new = np.array([[0.0, 1e300], [0.0, 1.0], [0.0, 1e299]])
    label = np.zeros(3, dtype=int)
    pair = streamloss.compare({"a": new, "b": old, "y": label}, logits="a", baseline_logits="b", label="y").to_dict()
    found = pair["comparison"]["cross_entropy"]
    assert (found["ratio"], found["ratio_stderr"]) == ("inf", "inf")
    assert "ratio_low" not in found and "ratio_high" not in found
    json.dumps(pair, allow_nan=False)


@pytest.mark.parametrize("swapped", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("clusters", [False, True], ids=["rows", "clusters"])
def test_perplexities_near_the_end_of_the_range(clusters: bool, swapped: bool) -> None:
    r = np.random.default_rng(22)
    sides = [np.stack([np.zeros(40), x], axis=1) for x in (r.permutation(np.linspace(0, 1400, 40)), r.uniform(0, 1, 40))]
    first, second = sides[::-1] if swapped else sides
    data = {"a": first, "b": second, "y": np.zeros(40, dtype=int), "g": np.arange(40) % 7}
    more = {"cluster": "g"} if clusters else {}
    report = streamloss.compare(data, logits="a", baseline_logits="b", label="y", **more).to_dict()
    json.dumps(report, allow_nan=False)
    loss, perplexity = (report["comparison"][key] for key in ("cross_entropy", "perplexity"))
    assert 690 < max(loss["new"], loss["old"]) < 709
    assert perplexity["ratio"] == pytest.approx(math.exp(loss["difference"]), rel=1e-9)
    assert float(perplexity["stderr"]) > 1e290
    high = loss["difference"] + Z95 * loss["stderr"]
    assert perplexity["ratio_high"] == ("inf" if high > 709.78 else pytest.approx(math.exp(high), rel=1e-9))


def comparison(data: Any, threads: int = 1, batch_rows: int | None = None, by: str = "g") -> Any:
    new, old = Options.of(logits="a", label="y", by=by), Options.of(logits="b", label="", by=())
    sources = [open_input(data, options, batch_rows) for options in (new, old)]
    return comparing.compare(*sources, new, old, None, threads)


def test_the_digest_depends_on_nothing_but_the_rows(tmp_path: Path) -> None:
    new, old, label = logits(3000, 6, 12)
    group = np.random.default_rng(13).integers(0, 5, 3000)
    data = {"a": new, "b": old, "y": label, "g": group}
    whole = comparison(data)
    assert comparison(data, batch_rows=77).digest == whole.digest
    order = np.random.default_rng(14).permutation(3000)
    assert comparison({k: v[order] for k, v in data.items()}).digest == whole.digest
    table = pa.table({k: (list(v) if v.ndim == 2 else v) for k, v in data.items()})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=500)
    for threads in (1, 2, 3):
        assert comparison(str(tmp_path / "rows.parquet"), threads).digest == whole.digest
    parts = [comparison({k: v[cut] for k, v in data.items()}) for cut in (slice(0, 11), slice(11, 1800), slice(1800, 3000))]
    merged = parts[2].merged(parts[0]).merged(parts[1])
    assert merged.digest == whole.digest == parts[0].merged(parts[1].merged(parts[2])).digest
    assert comparison({k: v[:2999] for k, v in data.items()}).digest != whole.digest


def write(path: Path, **columns: Any) -> str:
    pq.write_table(
        pa.table({k: (list(v) if getattr(v, "ndim", 1) == 2 else v) for k, v in columns.items()}), path, row_group_size=97
    )
    return str(path)


def test_two_files_and_a_key(tmp_path: Path) -> None:
    new, old, label = logits(400, 4, 15)
    keys = [f"row {i}" for i in range(400)]
    together = streamloss.compare({"a": new, "b": old, "y": label}, logits="a", baseline_logits="b", label="y")
    first = write(tmp_path / "new.parquet", z=new, y=label, id=keys)
    parts = [
        write(tmp_path / f"old{i}.parquet", z=old[cut], id=keys[cut]) for i, cut in enumerate((slice(0, 150), slice(150, 400)))
    ]
    apart = streamloss.compare(first, baseline=parts, key="id", logits="z", label="y")
    assert apart.to_dict()["comparison"] == together.to_dict()["comparison"]
    keys[233], keys[234] = keys[234], keys[233]
    other = write(tmp_path / "other.parquet", z=old, id=keys)
    with pytest.raises(
        DataError, match=r"other\.parquet, row group 2, row 233, column 'id'.*found the key 'row 234', expected 'row 233'"
    ):
        streamloss.compare(first, baseline=other, key="id", logits="z", label="y")
    numbers = [
        write(tmp_path / f"n{i}.parquet", z=z, y=label, id=np.arange(400) + i * (np.arange(400) == 7))
        for i, z in enumerate((new, old))
    ]
    with pytest.raises(DataError, match=r"row 7, column 'id'.*found the key 8, expected 7"):
        streamloss.compare(numbers[0], baseline=numbers[1], key="id", logits="z", label="y")


def test_rows_that_do_not_belong_together(tmp_path: Path) -> None:
    new, old, label = logits(50, 4, 16)
    first = write(tmp_path / "new.parquet", z=new, y=label)
    with pytest.raises(DataError, match="different rows: 50 of the new one, 49 of the old one"):
        streamloss.compare(first, baseline=write(tmp_path / "short.parquet", z=old[:49]), logits="z", label="y")
    with pytest.raises(DataError, match="the new model has rows beyond the end of the old one"):
        streamloss.compare(first, baseline=pa.table({"z": list(old[:49])}).to_reader(), logits="z", label="y")
    with pytest.raises(UsageError, match="different classes: 4 of the new one, 3 of the old one"):
        streamloss.compare({"a": new, "b": old[:, :3], "y": label}, logits="a", baseline_logits="b", label="y")
    with pytest.raises(UsageError, match="which column has the old model's prediction"):
        streamloss.compare({"a": new, "y": label}, logits="a", label="y")
    with pytest.raises(UsageError, match="--convention tells of one model"):
        streamloss.compare({"a": new, "b": old, "y": label}, logits="a", baseline_logits="b", label="y", convention="torch")
    with pytest.raises(UsageError, match="no option 'baseline_label'"):
        streamloss.compare({"a": new, "y": label}, logits="a", label="y", baseline_label="y")
    with pytest.raises(UsageError, match="predict different things"):
        streamloss.compare({"a": new, "b": old[:, 0], "y": label}, logits="a", baseline_logit="b", label="y")


def test_bad_rows_of_either_model() -> None:
    new, old, label = logits(300, 4, 17)
    group = label % 2
    old[200, 2] = np.nan
    new[250, 1] = np.nan
    data = {"a": new, "b": old, "y": label, "g": group}
    asked: dict[str, Any] = {"logits": "a", "baseline_logits": "b", "label": "y", "by": "g"}
    with pytest.raises(DataError, match=r"row 200, column 'b': nan"):
        streamloss.compare(data, **asked)
    with pytest.raises(DataError, match=r"row 49, column 'a': nan"):
        streamloss.compare(
            {k: v[200:][::-1] if k != "y" else v[200:] for k, v in data.items()} | {"b": np.abs(old[:100])}, **asked
        )
    found = streamloss.compare(data, **asked, on_invalid="skip")
    good = np.ones(300, dtype=bool)
    good[[200, 250]] = False
    clean = streamloss.compare({k: v[good] for k, v in data.items()}, **asked)
    assert found.rows["invalid"] == 2 and found.to_dict()["ledger"]["nan"] == 2
    assert found.to_dict()["comparison"] == clean.to_dict()["comparison"]


OLD_AND_NEW = ("compare", DIGITS, "--probs", "mlp_probs", "--baseline-logits", "logits", "--label", "label")


def test_no_convention_is_offered() -> None:
    done = CliRunner().invoke(cli, [*OLD_AND_NEW, "--convention", "torch"])
    assert done.exit_code == 2 and "No such option" in done.output and "--convention" in done.output


def test_a_comparison_keeps_no_state(tmp_path: Path) -> None:
    file, state = tmp_path / "options.toml", tmp_path / "two.state"
    file.write_text(f"save_state = {json.dumps(str(state))}\n")
    for words, said in (
        (("--save-state", str(state)), "No such option"),
        (("--config", str(file)), "there is no option 'save_state'"),
    ):
        done = CliRunner().invoke(cli, [*OLD_AND_NEW, *words])
        assert (done.exit_code, done.stdout, state.exists()) == (2, "", False)
        assert said in done.stderr
    with pytest.raises(UsageError, match="no option 'save_state'"):
        streamloss.compare(DIGITS, probs="mlp_probs", baseline_logits="logits", label="label", save_state=str(state))


def test_the_command(tmp_path: Path) -> None:
    words = [*OLD_AND_NEW, "--by", "group"]
    for ending in ("json", "md", "csv", "html"):
        done = CliRunner().invoke(cli, [*words, "-o", str(tmp_path / f"report.{ending}")])
        assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["command"] == "compare" and len(report["slices"]) == 4
    promised = {"0.001", "0.01", "0.05", "0.1", "0.5", "0.9", "0.95", "0.99", "0.999"}
    for key in ("kl_divergence", "reverse_kl_divergence", "js_divergence", "delta_p"):
        assert promised <= report["metrics"][key]["quantiles"].keys()
    assert "difference" in (tmp_path / "report.md").read_text() and "Δp" in (tmp_path / "report.html").read_text()
    gates = [
        "--fail-if",
        "upper(difference(cross_entropy)) > 0",
        "--fail-if",
        "ratio(perplexity) > 1.02",
        "--fail-if",
        "same_top < 99%",
    ]
    done = CliRunner().invoke(cli, [*words, *gates])
    assert done.exit_code == 1 and "gate failed: same_top < 99%" in done.output
    assert "new and old" in done.output
    assert CliRunner().invoke(cli, words[:4]).exit_code == 2
