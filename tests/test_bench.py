"""The benchmark runs, whatever peers are installed, shows every case and every bar, and does not let a wrong result pass."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from benchmarks import gpu, measuring, table, ways  # noqa: E402
from benchmarks.cases import CASES, Bar, Case, Data, Run  # noqa: E402
from streamloss.kernels.cuda.machine import why_not  # noqa: E402

INSTALLED = {peer: importlib.util.find_spec(peer) is not None for peer in ("duckdb", "polars", "sklearn", "torch")} | {
    "numpy": True,
    "decode": True,
}
NAMES = [case.name for case in CASES]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "bench"), *arguments]
    return subprocess.run(command, text=True, capture_output=True, timeout=300, cwd=ROOT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """All cases, a few rows of each."""
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    done = bench("--scale", "0.0005", "--repeat", "1", "--json", str(file))
    assert done.returncode == 0, done.stderr
    return done, json.loads(file.read_text(encoding="utf-8"))


def test_the_table_has_every_case_and_every_bar(whole: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    done, _ = whole
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    runs = [(case, run) for case in CASES for run in case.runs]
    assert len({row[0] for row in cells}) == len(cells) == len(runs)
    for row, (case, run) in zip(cells, runs, strict=True):
        assert row[0].startswith(case.title) and row[0].endswith(run.title)
        assert len(re.findall(r"\d[\d.]*(?=,|;|$)", row[-1])) == len(run.bars), row[-1]
    bars = sum(len(run.bars) for _, run in runs)
    assert re.search(rf"^\d+ of {bars} bars met, \d+ missed, \d+ not measured\.$", done.stdout, re.MULTILINE)


def test_what_is_not_measured_says_why(whole: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    done, found = whole
    for result in found["results"]:
        measured = {way["peer"] for way in result["ways"]}
        assert {"streamloss", "numpy", "decode"} <= measured
        for peer, installed in INSTALLED.items():
            assert (peer in measured) != (peer in result["reasons"])
            if not installed:
                assert result["reasons"][peer] == ways.MISSING
    for peer, package in (("duckdb", "duckdb"), ("polars", "polars"), ("sklearn", "scikit-learn"), ("torch", "torch")):
        assert done.stderr.count(f"{package} is not installed") == (not INSTALLED[peer])
    assert re.findall(r"– \(\d+\)", done.stdout)  # scikit-learn has no pairs even where it is installed


def test_the_json_holds_every_time(whole: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    _, found = whole
    assert found["scale"] == 0.0005
    assert min(found["memory_gb_per_second"].values()) > 0
    assert [result["case"] for result in found["results"]] == NAMES
    for result in found["results"]:
        best = {}
        for way in result["ways"]:
            assert len(way["seconds"]) == 1 and way["best"] == way["median"] == way["seconds"][0] > 0
            best[way["peer"]] = min(way["best"], best.get(way["peer"], math.inf))
            if way["peer"] == "decode":
                assert way["means"] == {}
            else:
                assert set(way["means"]) <= set(result["expected"])
                assert way["error"] <= ways.TOLERANCE[way["precision"]]
        for way in result["ways"]:
            if way["peer"] == "streamloss" and way["way"] == "default report":
                assert set(way["means"]) == set(result["expected"])
        for line in result["lines"]:
            assert line["ratios"] == {peer: pytest.approx(best[peer] / line["seconds"]) for peer in line["ratios"]}
            assert line["gb_per_second"] == pytest.approx(result["decoded_bytes"] / line["seconds"] / 1e9)
            for bar in line["bars"]:
                value = line["gb_per_second"] if bar["measure"] == "GB/s" else line["ratios"].get(bar["measure"])
                assert bar["measured"] == value
                assert bar["met"] is (None if value is None else value >= bar["least"])


def test_a_wrong_mean_is_found() -> None:
    expected = {"cross_entropy": 0.5, "entropy": 0.25}
    right = {"cross_entropy": 0.5 * (1 + 1e-13), "entropy": 0.25, "accuracy": 0.1}
    assert measuring.agree("a", right, expected, "streamloss") == pytest.approx(1e-13, rel=0.01)
    for precision, error in (("streamloss", 3e-12), ("double", 3e-9), ("single", 3e-5)):
        measuring.agree("a", {"entropy": 0.25 * (1 + error / 10)}, expected, precision)
        with pytest.raises(measuring.Disagreement, match=r"entropy is .*, NumPy in float64 says 0\.25"):
            measuring.agree("a", {"cross_entropy": 0.5, "entropy": 0.25 * (1 + error)}, expected, precision)
    for found in ({"entropy": math.nan}, {"entropy": math.inf}, {}, {"accuracy": 0.25}):
        with pytest.raises(measuring.Disagreement):
            measuring.agree("a", found, expected, "single")


def test_measuring_stops_at_a_wrong_mean_and_at_the_budget(tmp_path: Path) -> None:
    calls = {"slow": 0, "quick": 0}

    def slow(_: Path) -> dict[str, float]:
        calls["slow"] += 1
        return {"entropy": 1.0}

    def quick(_: Path) -> dict[str, float]:
        calls["quick"] += 1
        return {"entropy": 1.0}

    todo = [measuring.Timed(name, ways.Way(name, work)) for name, work in (("slow", slow), ("quick", quick))]
    measuring.measure(todo, tmp_path, tmp_path, {"entropy": 1.0}, repeat=4, budget=60)
    assert calls == {"slow": 5, "quick": 5}  # the first to warm up
    measuring.measure([todo[0]], tmp_path, tmp_path, {"entropy": 1.0}, repeat=4, budget=0)
    assert calls["slow"] == 6
    with pytest.raises(measuring.Disagreement, match="quick"):
        measuring.measure([todo[1]], tmp_path, tmp_path, {"entropy": 1.1}, repeat=1, budget=60)


def test_missed_bars_are_shown() -> None:
    bars = (Bar("duckdb", 10), Bar("polars", 4), Bar("torch", 2), Bar("GB/s", 0.5))
    case = Case("few", Data(1000, 10), "list", "snappy", (Run(bars),))
    timed = [
        measuring.Timed(peer, ways.Way("", lambda _: {}), seconds)
        for peer, seconds in (("streamloss", [2e-5, 1e-5]), ("duckdb", [9e-5, 1e-4]), ("polars", [1e-3]), ("polars", [5e-5]))
    ]
    (line,) = table.lines_of(case, timed, memory=48.0)
    assert line["ratios"] == {"duckdb": pytest.approx(9), "polars": pytest.approx(5)}
    assert line["gb_per_second"] == pytest.approx(4.8) and line["of_memory"] == pytest.approx(0.1)
    assert table.verdict(line["bars"]) == "met: Polars 4, GB/s 0.5; **missed**: DuckDB 10; not measured: torch 2"


@pytest.mark.parametrize(("number", "text"), [(50e6, "50 M"), (2000, "2 k"), (999.9, "1 k"), (1234567, "1.23 M"), (8, "8")])
def test_numbers_are_short(number: float, text: str) -> None:
    assert table.short(number) == text


@pytest.mark.parametrize("name", NAMES)
def test_files_hold_the_seeded_data_as_pyarrow_writes_it(name: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == name)
    case = case.scaled(2 / case.data.rows if case.data.classes > 64 else 1000 / case.data.rows)
    path = tmp_path / "few.parquet"
    case.write(path)
    assert [p.name for p in tmp_path.iterdir()] == ["few.parquet"]
    (block,) = case.data.blocks()
    rows = pq.read_table(path)
    assert rows.equals(case.table(block))
    assert sum(values.nbytes for values in block.values()) == case.decoded
    metadata = pq.read_metadata(path)
    column = metadata.row_group(0).column(0)
    assert column.compression == case.codec.upper()
    plain = tmp_path / "plain.parquet"
    pq.write_table(rows, plain, compression="none" if case.codec == "uncompressed" else case.codec)
    assert column.encodings == pq.read_metadata(plain).row_group(0).column(0).encodings


def test_rows_fill_row_groups_as_pyarrow_s_default_does(tmp_path: Path) -> None:
    case = Case("long", Data((1 << 20) * 2 + 5), "flat", "snappy", (Run(),))
    case.write(tmp_path / "long.parquet")
    metadata = pq.read_metadata(tmp_path / "long.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [1 << 20, 1 << 20, 5]
    found = pq.read_table(tmp_path / "long.parquet", columns=["prob"]).column("prob").to_numpy()
    assert np.array_equal(found, np.concatenate([block["prob"] for block in case.data.blocks()]))


def test_a_case_is_named_by_a_pattern() -> None:
    done = bench("--list", "--cases", "k10-wide-*,pairs-snappy")
    assert done.stdout.split() == [*(name for name in NAMES if name.startswith("k10-wide-")), "pairs-snappy"]
    done = bench("--cases", "k11*")
    assert done.returncode == 2 and "no case 'k11*'" in done.stderr


def test_what_slices_cost_is_told(tmp_path: Path) -> None:
    """Every case a line, with the ratio of its medians; files that are kept are used again."""
    file = tmp_path / "found.json"
    command = [sys.executable, str(ROOT / "scripts" / "bench_slices"), "--scale", "0.0005", "--repeat", "3", "--groups", "7"]
    command += ["--folder", str(tmp_path), "--json", str(file)]
    done = subprocess.run(command, text=True, capture_output=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")][2:]
    found = json.loads(file.read_text(encoding="utf-8"))
    assert [each["case"] for each in found] == ["binary", "k10", "k1000"] and len(lines) == 3
    for line, each in zip(lines, found, strict=True):
        whole, sliced = (statistics.median(each["seconds"][name]) for name in ("whole", "sliced"))
        assert len(each["seconds"]["sliced"]) == 3 and each["slices"] == 7 and each["ratio"] == sliced / whole
        assert f"| {sliced / whole:.2f} |" in line and ("missed" in line) == (sliced / whole > 2)
    path = next(tmp_path.glob("by-7-*10-*.parquet"))
    short = pq.read_table(path).filter(pa.array(np.arange(2000) < 1000))
    pq.write_table(short, path)
    again = subprocess.run([*command, "--cases", "k10"], text=True, capture_output=True, timeout=300, cwd=ROOT)
    assert again.returncode == 0 and len(pq.read_table(path)) == 1000, again.stderr


# ---- devices

MEASURED = {
    "device": "Some GPU",
    "copy_bytes_per_second": 2e12,
    "parity": [{"equal": True}, {"equal": False}],
    "speed": [
        {"kind": "logit", "classes": 0, "dtype": "float32", "bytes": 4e9, "bytes_per_second": 5e11, "torch_seconds": None},
        {"kind": "pair", "classes": 32_000, "dtype": "float16", "bytes": 4e9, "bytes_per_second": 1e12, "torch_seconds": 0.01},
    ],
}


def test_what_a_device_takes_is_a_table():
    said = gpu.gpu_table(MEASURED)
    assert said.startswith("Some GPU: digests equal the CPU's in 1 of 2 cases; a copy")
    assert "reads and writes 2,000 GB/s." in said
    assert "| binary logits, float32 | 500 | 25% | – |" in said
    assert "| teacher and student logits, K = 32,000, float16 | 1,000 | 50% | 400 |" in said


def test_the_readme_has_what_devices_took():
    """Or says that none was asked."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    measured = sorted((ROOT / "data" / "benchmarks").glob("gpu-*.json"))
    assert ("**not yet measured**" in text) == (not measured)
    for path in measured:
        assert gpu.gpu_table(json.loads(path.read_text(encoding="utf-8"))) in text


def test_where_there_is_no_device_it_is_said():
    if why_not() is None:
        pytest.skip("there is one")
    done = subprocess.run([sys.executable, "scripts/gpu_check"], text=True, capture_output=True, timeout=300, cwd=ROOT)
    assert done.returncode == 1 and done.stderr == f"gpu_check: no CUDA device: {why_not()}\n"
