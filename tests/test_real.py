"""Real predictions with published numbers: every digit that was published comes out.

The files lie beside the checkout in `../shared/real`, or where `STREAMLOSS_REAL_DATA` says; none is part of the
project.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import oracle
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import streamloss

REAL = Path(os.environ.get("STREAMLOSS_REAL_DATA") or Path(__file__).parents[2] / "shared" / "real")
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real predictions in {REAL} (STREAMLOSS_REAL_DATA)")


def path(name: str) -> str:
    return str(REAL / f"{name}.parquet")


def mean(report, key):
    return report.metrics[key].mean


def shows(value: float, published: str) -> bool:
    """The value, rounded to as many places as were published, reads as published."""
    places = len(published.partition(".")[2])
    return f"{value:.{places}f}" == published


# rows, normalized cross-entropy, ECE in per cent, cross-entropy, ECE
LUFERRER = {
    "lf_cifar10_resnet20": (10_000, "0.122", "3.9", "0.281522136959", "0.0389590"),
    "lf_sst2_gpt2": (1_821, "0.917", "20.0", "0.635729529488", "0.199953"),
    "lf_agnews_gpt2": (7_600, "0.814", "18.4", "1.128189707827", "0.184389"),
}


@pytest.mark.parametrize("name", LUFERRER)
def test_expected_cost(name):
    rows, normalized, ece_percent, cross_entropy, ece = LUFERRER[name]
    report = streamloss.evaluate(path(name), logits="logits", label="label", bins=15)
    assert report.to_dict()["rows"]["used"] == rows
    assert shows(mean(report, "normalized_cross_entropy"), normalized)
    assert shows(100 * mean(report, "ece"), ece_percent)
    assert shows(mean(report, "cross_entropy"), cross_entropy)
    assert shows(mean(report, "ece"), ece)


def test_three_forms_of_one_binary_model():
    """Two logits, their difference, and its sigmoid cost the same."""
    losses = [
        mean(streamloss.evaluate(path("lf_sst2_gpt2"), **{form: form}, label="label"), "cross_entropy")
        for form in ("logits", "logit", "prob")
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-12)
    assert all(shows(loss, "0.635729529488") for loss in losses)


def test_niamey_brier_of_emos():
    report = streamloss.evaluate(path("niamey_precip_2016"), prob="emos_prob", label="label")
    assert report.to_dict()["rows"]["used"] == 92
    assert shows(mean(report, "brier"), "0.232")
    assert shows(mean(report, "brier"), "0.232025")


def test_niamey_ensemble_is_infinite_six_times():
    report = streamloss.evaluate(path("niamey_precip_2016"), prob="ens_prob", label="label")
    loss = report.metrics["cross_entropy"]
    assert (loss.mean, loss.infinite) == (math.inf, 6)
    table = pq.read_table(path("niamey_precip_2016")).select(["ens_prob", "label"]).rename_columns(["prob", "label"])
    truth = oracle.evaluate(table.to_pylist())["cross_entropy"]
    assert truth.infinite == 6 and oracle.close(loss.finite_mean, truth.finite_mean)


def test_nfl_brier_with_playoffs_weighted_twice():
    """The forecasting game's rules: probabilities in per cent, ties left out, playoffs count double."""
    table = pq.read_table(path("f538_nfl_elo_1920_2020"))
    tie = pc.equal(table["label"], 0.5)
    weight = pc.cast(pc.add(table["playoff"], 1), pa.float64())
    game = pa.table({"prob": pc.round(table["prob"], 2), "label": table["label"], "mask": pc.invert(tie), "weight": weight})
    report = streamloss.evaluate(game, prob="prob", label="label", mask="mask", weight="weight")
    rows = report.to_dict()["rows"]
    assert (rows["read"], rows["used"], rows["ignored"]) == (16_810, 16_494, 316)
    assert shows(mean(report, "brier"), "0.211726235074")


def test_teacher_and_student():
    """Float32 probabilities as they stand: renormalised rows would differ in the eighth digit."""
    columns = {"probs": "student_probs", "target_probs": "teacher_probs"}
    report = streamloss.evaluate(path("netcal_cifar10_teacher_student"), **columns)
    assert shows(mean(report, "kl_divergence"), "1.29681559179")
    assert shows(mean(report, "reverse_kl_divergence"), "6.61703952486")
    assert shows(mean(report, "cross_entropy"), "1.3919837948")
    floor = mean(report, "cross_entropy") - mean(report, "kl_divergence")
    assert mean(report, "target_entropy") == pytest.approx(floor, rel=1e-12)
    renormalised = streamloss.evaluate(path("netcal_cifar10_teacher_student"), **columns, normalize=True)
    assert shows(mean(renormalised, "kl_divergence"), "1.29681558135")


SMALL = {
    "sst2, logits": ("lf_sst2_gpt2", {"logits": "logits"}),
    "sst2, logit": ("lf_sst2_gpt2", {"logit": "logit"}),
    "niamey, logistic": ("niamey_precip_2016", {"prob": "logistic_prob"}),
    "niamey, emos": ("niamey_precip_2016", {"prob": "emos_prob"}),
    "niamey, ensemble": ("niamey_precip_2016", {"prob": "ens_prob"}),
    "niamey, climatology": ("niamey_precip_2016", {"prob": "epc_prob"}),
    "nfl": ("f538_nfl_elo_1920_2020", {"prob": "prob"}),
}


@pytest.mark.parametrize("which", SMALL)
def test_whole_report_against_the_oracle(which):
    """Everything in the report of the first 1,000 rows."""
    name, columns = SMALL[which]
    ((role, column),) = columns.items()
    table = pq.read_table(path(name)).slice(0, 1000).select([column, "label"]).rename_columns([role, "label"])
    assert oracle.differences(streamloss.evaluate(table), oracle.evaluate(table.to_pylist())) == []


@pytest.mark.parametrize("name", LUFERRER)
def test_the_best_temperature(name):
    """Where the derivative of the loss by 1/T, the mean of E_p[z] − z_y, is 0, and its error by the delta method."""
    table = pq.read_table(path(name), columns=["logits", "label"])
    z, y = np.array(table["logits"].to_pylist()), table["label"].to_numpy()
    best = streamloss.calibrate(path(name), logits="logits", label="label").metrics["best_temperature"]
    p = np.exp(z / best.mean - np.logaddexp.reduce(z / best.mean, axis=1)[:, None])
    mean = (p * z).sum(axis=1)
    slope = mean - z[np.arange(len(y)), y]
    curvature = ((p * z**2).sum(axis=1) - mean**2).mean()
    assert abs(slope.mean()) < 1e-8 * np.abs(slope).mean()
    error = slope.std(ddof=1) / math.sqrt(len(y)) / curvature  # of 1/T
    assert best.stderr == pytest.approx(best.mean**2 * error, rel=0.01)


def test_two_logits_and_their_difference_have_one_best_temperature():
    sst2 = path("lf_sst2_gpt2")
    two, one = (
        streamloss.calibrate(sst2, label="label", **{key: key}).metrics["best_temperature"] for key in ("logits", "logit")
    )
    assert two.mean == pytest.approx(one.mean, rel=1e-8)
    assert two.stderr == pytest.approx(one.stderr, rel=1e-6)
