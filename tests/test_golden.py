"""The sample's reports stay what they are: digests to the bit, numbers to the last digits that a system's libm may move."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import oracle
import pyarrow.parquet as pq
import pytest

import streamloss

ROOT = Path(__file__).resolve().parent.parent


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("make_golden", ROOT / "scripts" / "make_golden.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


golden = _load()


def assert_same(ours: Any, theirs: Any, place: str) -> None:
    """Equal in structure and in text; floats to 1e-12, for the summary takes its last logarithms from libm."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), place
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{place}.{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), place
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{place}[{i}]")
    elif isinstance(theirs, float):
        assert math.isclose(ours, theirs, rel_tol=1e-12, abs_tol=1e-15), place
    else:
        assert ours == theirs, place


@pytest.mark.parametrize("name", golden.CASES)
def test_the_samples_report_is_the_golden_one(name: str) -> None:
    kept = json.loads((golden.GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert_same(json.loads(json.dumps(golden.report(name))), kept, name)


def test_every_golden_file_has_its_case() -> None:
    assert {path.stem for path in golden.GOLDEN.glob("*.json")} == set(golden.CASES)


def test_names_and_numbers_of_the_labels_give_one_digest() -> None:
    assert golden.report("digits")["digest"] == golden.report("digits_names")["digest"]


@pytest.mark.parametrize("file", ["digits.parquet", "cancer.parquet", "distill.parquet"])
def test_the_sample_agrees_with_the_oracle(file: str) -> None:
    path = ROOT / "data" / file
    truth = oracle.evaluate(pq.read_table(path).to_pylist())
    assert oracle.differences(streamloss.evaluate(path), truth) == []
