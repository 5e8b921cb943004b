"""Temperatures: every point of the curve is an evaluation, the best one is where the loss is least, and its interval holds."""

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
from test_exactness import taken

import streamloss
from streamloss.cli.main import cli
from streamloss.errors import StreamlossError, UsageError
from streamloss.options import TEMPERATURES, Options
from streamloss.reporting import csvfile, markdown, webpage
from streamloss.state import State, merge
from streamloss.temperature import Search

Arrays = dict[str, Any]
PATH = str(Path(__file__).parents[1] / "data" / "digits.parquet")
KEYS = "cross_entropy,entropy_gap,ece"


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def drawn(n: int, k: int, temperature: float, seed: int = 0, dtype: Any = np.float64) -> Arrays:
    """Logits and labels that were drawn from softmax(z / temperature), in four groups."""
    r = np.random.default_rng(seed)
    z = r.normal(0, 3, (n, k)).astype(dtype)
    y = (softmax(z.astype(float) / temperature).cumsum(axis=1) > r.random((n, 1))).argmax(axis=1)
    return {"logits": z, "label": y, "g": r.integers(0, 4, n)}


def binary(n: int, temperature: float, seed: int = 0) -> Arrays:
    r = np.random.default_rng(seed)
    z = r.normal(0, 3, n).astype(np.float32)
    return {"logit": z, "label": (r.random(n) < 1 / (1 + np.exp(-z / temperature))).astype(int), "g": r.integers(0, 4, n)}


def cases() -> dict[str, tuple[Arrays, dict[str, Any]]]:
    r = np.random.default_rng(5)
    n, mask = 700, r.random(700) < 0.8
    bad = drawn(n, 4, 1.5)
    bad["logits"][::50] = math.nan
    lost = drawn(n, 4, 1.5)
    lost["logits"][np.arange(0, n, 70), lost["label"][::70]] = -math.inf
    soft = drawn(n, 5, 2.0)
    both = soft | {"target_logits": 2 * soft["logits"] + r.normal(0, 1, (n, 5))}
    return {
        "few classes": (drawn(n, 7, 2.0, dtype=np.float32), {}),
        "many classes": (drawn(n, 90, 0.7, dtype=np.float32), {}),
        "half precision": (drawn(n, 40, 1.3, dtype=np.float16), {}),
        "binary": (binary(n, 1.7), {}),
        "soft binary": (binary(n, 1.7) | {"label": (binary(n, 1.7)["label"] + r.random(n)) / 2}, {}),
        "weighted": (drawn(n, 7, 2.0) | {"weight": r.exponential(1, n)}, {}),
        "masked": (drawn(n, 7, 2.0) | {"mask": mask}, {"ignore_index": 3}),
        "smoothed": (drawn(n, 7, 2.0), {"label_smoothing": 0.1, "bins": 7, "unit": "bit"}),
        "bad rows": (bad, {"on_invalid": "skip"}),
        "infinite losses": (lost, {}),
        "teacher": (both, {"target_temperature": 2.0}),
        "teacher alone": ({name: array for name, array in both.items() if name != "label"}, {"temperature": 1.5}),
    }


CASES = cases()
each_case = pytest.mark.parametrize("name", CASES)


def state_of(report: streamloss.Report) -> State:
    assert isinstance(report.state, State)
    return report.state


def values(report: streamloss.Report) -> dict[str, Any]:
    """What a point of the curve has of these metrics."""
    found = {key: metric.to_dict() for key, metric in report.metrics.items()}
    return {key: metric["mean"] for key, metric in found.items()} | {"stderr": found["cross_entropy"].get("stderr")}


def point_of(point: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in point.items() if key not in ("temperature", "finite_mean")}


def metrics_for(data: Arrays) -> str:
    return KEYS if "label" in data else "cross_entropy,entropy_gap"


@each_case
def test_every_point_of_the_curve_is_an_evaluation_to_the_last_bit(name: str) -> None:
    data, options = CASES[name]
    swept = streamloss.evaluate(data, by="g", temperatures=(0.5, 1.9), **options)
    plain = streamloss.evaluate(data, by="g", **options)
    own = options.get("temperature", 1.0)
    assert {key: swept.metrics[key] for key in plain.metrics} == plain.metrics
    curve = swept.to_dict()["temperature"]["curve"]
    assert [point["temperature"] for point in curve] == sorted((0.5, 1.9, own))
    for i, point in enumerate(curve):
        at_t = options | {"temperature": point["temperature"], "metrics": metrics_for(data)}
        one = streamloss.evaluate(data, by="g", **at_t)
        assert point_of(point) == values(one)
        for mine, alone in zip(swept.slices, one.slices, strict=True):
            assert point_of(mine.more["temperature"]["curve"][i]) == values(streamloss.Report(alone.metrics, "", {}, one.state))


@each_case
def test_calibrate_finds_where_the_loss_is_least_for_all_rows_and_every_slice(name: str) -> None:
    data, options = CASES[name]
    report = streamloss.calibrate(data, by="g", **options)
    assert report.run["passes"] <= 8
    parts = [(report.to_dict()["temperature"]["best"], np.ones(len(data["g"]), dtype=bool))]
    parts += [(each.more["temperature"]["best"], data["g"] == each.by["g"]) for each in report.slices]
    for best, rows in parts:
        part, t = taken(data, rows), best["temperature"]
        at_t = streamloss.evaluate(part, **options | {"temperature": t, "metrics": metrics_for(data)}).metrics
        losses = {
            factor: streamloss.evaluate(part, **options | {"temperature": t * factor}).metrics["cross_entropy"].finite_mean
            for factor in (0.999, 1.0, 1.001)
        }
        assert best["exact"]
        assert abs(at_t["entropy_gap"].finite_mean) < 1e-8  # as steep as it may be, ln T is known to 1e-9
        assert best["cross_entropy"] == at_t["cross_entropy"].finite_mean == losses[1.0] < min(losses[0.999], losses[1.001])
        assert best.get("ece") == (at_t["ece"].mean if "label" in data else None)
        before = streamloss.evaluate(part, **options).metrics["cross_entropy"].finite_mean
        assert best["removed"] == pytest.approx(before - losses[1.0], abs=1e-13)
        assert best["share"] == pytest.approx(1 - losses[1.0] / before, abs=1e-13)


def test_the_curve_and_the_best_temperature_are_numpys() -> None:
    data = drawn(2000, 6, 1.8)
    found = streamloss.calibrate(data).to_dict()["temperature"]
    z, y = data["logits"], data["label"]

    def loss(t: float) -> float:
        return float(-np.log(softmax(z / t)[np.arange(len(y)), y]).mean())

    def error(t: float) -> float:
        p = softmax(z / t)
        top, right = p.max(axis=1), p.argmax(axis=1) == y
        at = np.ceil(top * 15) - 1
        return sum(abs(top[at == b].sum() - right[at == b].sum()) for b in range(15)) / len(y)

    assert [point["temperature"] for point in found["curve"]] == list(TEMPERATURES)
    for point in found["curve"]:
        assert point["cross_entropy"] == pytest.approx(loss(point["temperature"]), rel=1e-12)
        assert point["ece"] == pytest.approx(error(point["temperature"]), rel=1e-11)
    low, high = 0.5, 8.0
    for _ in range(200):  # a golden section
        a, b = (low + (high - low) * share for share in (0.382, 0.618))
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    best = found["best"]
    assert best["temperature"] == pytest.approx(low, rel=1e-6)  # where a minimum is told from its neighbours
    p = softmax(z / best["temperature"])
    own = -np.log(p[np.arange(len(y)), y])
    gap, entropy = own + (p * np.log(p)).sum(axis=1), -(p * np.log(p)).sum(axis=1)
    spread = (p * np.log(p) ** 2).sum(axis=1) - entropy**2
    wanted = gap.std(ddof=1) / math.sqrt(len(y)) / spread.mean()
    assert best["stderr"] / best["temperature"] == pytest.approx(wanted, rel=0.01)
    width = 1.959964 * best["stderr"] / best["temperature"]
    assert best["low"] == pytest.approx(best["temperature"] * math.exp(-width), rel=1e-6)
    assert best["high"] == pytest.approx(best["temperature"] * math.exp(width), rel=1e-6)


def test_a_sweep_alone_reads_the_best_temperature_off_its_curve() -> None:
    data = drawn(1500, 6, 1.8)
    read, exact = streamloss.evaluate(data, temperature_sweep=True, by="g"), streamloss.calibrate(data, by="g")
    pairs = [(read.metrics, exact.metrics), *((a.metrics, b.metrics) for a, b in zip(read.slices, exact.slices, strict=True))]
    for mine, theirs in pairs:
        assert mine["best_temperature"].mean == pytest.approx(theirs["best_temperature"].mean, rel=3e-4)
        assert mine["best_temperature"].stderr == pytest.approx(theirs["best_temperature"].stderr, rel=0.15)
        assert mine["temperature_gain"].mean == pytest.approx(theirs["temperature_gain"].mean, abs=1e-5)
    assert not read.to_dict()["temperature"]["best"]["exact"]
    assert "ece" not in read.to_dict()["temperature"]["best"]


def test_neither_order_nor_files_nor_threads_change_a_bit(tmp_path: Path) -> None:
    data = drawn(3000, 5, 1.6)
    order = np.random.default_rng(1).permutation(3000)
    for i, part in enumerate(np.array_split(order, 3)):
        columns = {"logits": pa.array(list(data["logits"][part])), "label": data["label"][part], "g": data["g"][part]}
        pq.write_table(pa.table(columns), tmp_path / f"{i}.parquet", row_group_size=170)
    one = streamloss.calibrate(data, by="g", threads=1)
    for threads in (1, 2):
        other = streamloss.calibrate(tmp_path, by="g", threads=threads, batch_rows=100)
        assert other.digest == one.digest
        assert other.to_dict()["temperature"] == one.to_dict()["temperature"]
        assert [each.to_dict() for each in other.slices] == [each.to_dict() for each in one.slices]


def test_states_of_a_sweep_merge_and_are_kept() -> None:
    data = drawn(900, 5, 1.6)
    options: dict[str, Any] = {"by": ("g", "label"), "cluster": "g", "temperatures": (0.5, 1.0, 2.0)}
    whole = streamloss.evaluate(data, **options)
    parts = [streamloss.evaluate(taken(data, slice(start, start + 300)), **options) for start in (600, 0, 300)]
    merged = merge([State.from_bytes(state_of(part).to_bytes()) for part in parts])
    assert merged.digest == whole.digest
    evaluator = streamloss.Evaluator(**options)
    for start in range(0, 900, 90):
        evaluator.update(taken(data, slice(start, start + 90)))
    found = streamloss.Evaluator.from_bytes(evaluator.to_bytes()).report()
    assert found.digest == whole.digest
    assert found.to_dict()["temperature"] == whole.to_dict()["temperature"]
    assert whole.digest != streamloss.evaluate(data, **options | {"temperatures": (0.5, 1.0)}).digest
    with pytest.raises(StreamlossError, match="do not merge"):
        merge([merged, state_of(streamloss.evaluate(data, by=("g", "label"), cluster="g"))])


def test_slices_beyond_the_cap_have_a_temperature_together() -> None:
    data = drawn(1200, 4, 1.8)
    report = streamloss.calibrate(data, by="g", max_slices=2)
    other = next(each for each in report.slices if each.other)
    alone = streamloss.calibrate(taken(data, data["g"] >= 2)).metrics
    assert other.metrics["best_temperature"].mean == pytest.approx(alone["best_temperature"].mean, rel=1e-9)


def test_clusters_widen_the_interval_of_the_temperature() -> None:
    r = np.random.default_rng(3)
    cluster = np.repeat(np.arange(80), 25)
    z = r.normal(0, 2, (2000, 5))
    t = np.exp(r.normal(0, 0.6, 80))[cluster]
    y = (softmax(z / t[:, None]).cumsum(axis=1) > r.random((2000, 1))).argmax(axis=1)
    data = {"logits": z, "label": y, "c": cluster, "half": cluster % 2}
    rows, clustered = streamloss.calibrate(data, by="half"), streamloss.calibrate(data, by="half", cluster="c")
    best = clustered.metrics["best_temperature"]
    gap = streamloss.evaluate(data, cluster="c", temperature=best.mean, metrics="entropy_gap").metrics["entropy_gap"]
    plain = streamloss.evaluate(data, temperature=best.mean, metrics="entropy_gap").metrics["entropy_gap"]
    assert best.mean == rows.metrics["best_temperature"].mean
    assert best.stderr is not None and rows.metrics["best_temperature"].stderr is not None
    assert gap.stderr is not None and plain.stderr is not None
    assert best.stderr / rows.metrics["best_temperature"].stderr == pytest.approx(gap.stderr / plain.stderr, rel=1e-9)
    assert gap.stderr > 1.2 * plain.stderr
    for mine, theirs in zip(clustered.slices, rows.slices, strict=True):
        assert mine.metrics["best_temperature"].stderr != theirs.metrics["best_temperature"].stderr
    swept = streamloss.evaluate(data, cluster="c", temperature_sweep=True)
    assert swept.metrics["best_temperature"].stderr is None  # the curve has no clusters
    assert swept.to_dict()["temperature"]["curve"][0]["stderr"] is None


def test_the_interval_of_the_temperature_holds_what_it_says() -> None:
    runs, held = 600, 0
    for seed in range(runs):
        best = streamloss.evaluate(drawn(300, 4, 1.5, seed=seed), temperatures=(0.7, 1.0, 1.4, 2.0, 2.8), threads=1).metrics[
            "best_temperature"
        ]
        assert best.low is not None and best.high is not None
        held += best.low <= 1.5 <= best.high
    assert 0.92 <= held / runs <= 0.97


def test_where_there_is_no_best_temperature_the_reason_is_told() -> None:
    right = {"logits": np.eye(3)[[0, 1, 2, 0]] * 2.0, "label": np.array([0, 1, 2, 0])}
    wrong = {"logits": np.eye(3)[[0, 1, 2, 0]] * 2.0, "label": np.array([1, 2, 0, 2])}
    for data, said in ((right, "always right"), (wrong, "no better than none")):
        report = streamloss.calibrate(data)
        for key in ("best_temperature", "temperature_gain"):
            assert report.metrics[key].mean is None and said in (report.metrics[key].reason or "")
    end = streamloss.evaluate(right, temperature_sweep=True).metrics["best_temperature"].reason
    assert end == "the loss still falls at T = 0.25, where the sweep ends"
    end = streamloss.evaluate(wrong, temperature_sweep=True).metrics["best_temperature"].reason
    assert end == "the loss still falls at T = 4, where the sweep ends"
    hopeless = {"logits": np.array([[0.0, -math.inf]] * 3), "label": np.array([1, 1, 1])}
    none = streamloss.calibrate(hopeless).metrics["best_temperature"]
    assert none.mean is None and none.reason == "there are no rows with a finite loss"
    empty = streamloss.calibrate(drawn(50, 3, 1.0) | {"mask": np.zeros(50, dtype=bool)})
    assert empty.metrics["best_temperature"].mean is None


def test_the_best_temperature_is_found_far_from_the_grid() -> None:
    for temperature in (0.05, 30.0):
        data = drawn(4000, 5, 1.0)
        data["logits"] *= temperature
        best = streamloss.calibrate(data).to_dict()["temperature"]["best"]
        assert best["exact"] and best["low"] < temperature < best["high"]


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ({"probs": np.full((4, 2), 0.5), "label": np.zeros(4, int)}, {}, "a temperature divides logits"),
        ({"p": np.full((4, 2), 0.5), "label": np.zeros(4, int)}, {"probs": "p"}, "a temperature divides logits"),
        ({"logits": np.zeros((4, 2))}, {}, "a label or a target"),
        (drawn(4, 3, 1.0), {"zero": "clip:1e-7"}, "--zero"),
        (binary(4, 1.0), {"pos_weight": 2.0}, "--pos-weight"),
        (drawn(4, 3, 1.0), {"temperatures": (1.0, 1.0)}, "different"),
        (drawn(4, 3, 1.0), {"temperatures": (0.0,)}, "--temperatures"),
        (drawn(4, 3, 1.0), {"temperatures": "warm"}, "--temperatures"),
        (iter([]), {}, "cannot read"),
    ],
)
def test_what_has_no_temperature_is_refused(data: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        streamloss.calibrate(data, **options)


def test_what_can_be_read_once_is_refused() -> None:
    table = pa.table({"logits": pa.array([[0.0, 1.0]]), "label": [1]})
    with pytest.raises(UsageError, match="several times"):
        streamloss.calibrate(table.to_reader())
    assert streamloss.calibrate(table).rows["used"] == 1
    with pytest.raises(UsageError, match="of one model"):
        streamloss.compare(PATH, probs="mlp_probs", baseline_logits="logits", temperature_sweep=True)


def run(*words: str) -> Any:
    return CliRunner().invoke(cli, list(words))


def test_calibrate_writes_what_temperature_reads(tmp_path: Path) -> None:
    file = str(tmp_path / "t.json")
    given = (PATH, "--logits", "logits", "--label", "label")
    assert run("calibrate", *given, "-o", file).exit_code == 0
    best = json.loads(Path(file).read_text())["temperature"]["best"]
    evaluated = json.loads(run("evaluate", *given, "--temperature", file, "--format", "json").stdout)
    assert evaluated["metrics"]["cross_entropy"]["mean"] == best["cross_entropy"]
    assert evaluated["options"]["temperature"] == best["temperature"]
    (tmp_path / "run.toml").write_text('temperature = "t.json"\nlogits = "logits"\nlabel = "label"\n')
    configured = json.loads(run("evaluate", PATH, "--config", str(tmp_path / "run.toml"), "--format", "json").stdout)
    assert configured["digest"] == evaluated["digest"]
    (tmp_path / "run.toml").write_text('temperature = 2\nlogits = "logits"\nlabel = "label"\n')
    configured = json.loads(run("evaluate", PATH, "--config", str(tmp_path / "run.toml"), "--format", "json").stdout)
    assert configured["options"]["temperature"] == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("no json", "no JSON report of calibrate"),
        ('{"metrics": {}}', "no JSON report of calibrate"),
        ('{"temperature": {"best": {"temperature": null, "reason": "none"}}}', "has no best temperature: none"),
        ('{"temperature": {"best": {"temperature": -1}}}', "must be a positive number"),
    ],
)
def test_a_file_that_has_no_temperature_is_wrong_usage(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "t.json"
    if content is not None:
        file.write_text(content)
    result = run("evaluate", PATH, "--logits", "logits", "--temperature", str(file))
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_gate_may_be_over_the_temperature() -> None:
    rules = ["lower(best_temperature) > 1", "upper(best_temperature) < 1", "temperature_gain[group=dark] > 0.05"]
    words = [word for rule in rules for word in ("--fail-if", rule)]
    given = (PATH, "--logits", "logits", "--label", "label", "--by", "group", "--format", "json")
    result = run("calibrate", *given, *words)
    assert result.exit_code == 1
    assert [gate["outcome"] for gate in json.loads(result.stdout)["gates"]] == ["pass", "fail", "fail"]


def test_every_format_tells_of_the_temperature() -> None:
    record = streamloss.calibrate(PATH, logits="logits", label="label", by="group").to_dict(histograms=True)
    best = record["temperature"]["best"]
    text = run("calibrate", PATH, "--logits", "logits", "--label", "label", "--by", "group").stdout
    told = " ".join(text.split())
    assert "At T = 0.550 ± 0.039 the loss is least" in told and "the logits divided by T" in told
    assert "At T = 0.550 ± 0.039 the loss is least" in markdown.encode(record).decode()
    page = webpage.encode(record).decode()
    assert "At T = 0.550 ± 0.039 the loss is least" in page
    assert 'id="temperature-title"' in page
    for point in record["temperature"]["curve"]:
        assert f'data-cross-entropy="{point["cross_entropy"]}"' in page
        assert f'data-ece="{point["ece"]}"' in page
    rows = [line.split(",") for line in csvfile.encode(record).decode().splitlines()]
    at = {name: rows[0].index(name) for name in ("scope", "slice", "item", "metric", "mean")}
    found = {tuple(row[at[name]] for name in ("slice", "item", "metric")): row[at["mean"]] for row in rows}
    for point in record["temperature"]["curve"]:
        assert found["", repr(point["temperature"]), "cross_entropy"] == repr(point["cross_entropy"])
    for part in record["slices"]:
        for point in part["temperature"]["curve"]:
            assert found[f"group={part['by']['group']}", repr(point["temperature"]), "ece"] == repr(point["ece"])
    assert found["", "", "best_temperature"] == repr(best["temperature"])


def test_the_grid_holds_the_reports_own_temperature() -> None:
    assert Options().sweep == ()
    assert Options(temperature_sweep=True).sweep == TEMPERATURES
    assert Options(temperature_sweep=True, temperature=1.1).sweep == tuple(sorted((*TEMPERATURES, 1.1)))
    assert Options.of(temperatures="2, 0.5").sweep == (0.5, 1.0, 2.0)


def test_the_search_ends_where_the_slope_is_nothing() -> None:
    r = np.random.default_rng(8)
    for _ in range(40):
        wanted, bend = math.exp(r.normal()), r.uniform(-0.3, 0.3)
        search = Search()

        def gap(t: float, wanted: float = wanted, bend: float = bend) -> float:
            return -(1 + bend) * math.tanh(math.log(t / wanted)) / t

        for t in TEMPERATURES:
            search.add(t, 1.0, gap(t))
        for _ in range(12):
            t = search.best()
            search.add(t, 1.0, gap(t))
        assert search.best() == pytest.approx(wanted, rel=1e-9)
        assert not search.open
