"""The oracle is right: worked examples of SPEC §1 done by hand, identities, and what scikit-learn computes."""

from __future__ import annotations

import math

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import mp

LN2, LN5 = math.log(2), math.log(5)


def near(value, expected, relative=1e-14):
    return float(value) == pytest.approx(expected, rel=relative, abs=1e-300)


# ---- the worked examples


def test_coin_and_die():
    assert near(oracle.entropy([0.5, 0.5]), LN2)
    assert near(oracle.entropy([mp.mpf(1) / 6] * 6), math.log(6))
    assert f"{float(oracle.entropy([mp.mpf(1) / 6] * 6)):.4f}" == "1.7918"
    assert near(oracle.evaluate([{"probs": [0.5, 0.5]}], unit="bit")["entropy"].mean, 1.0)


def test_balls():
    """Red, green, yellow: H(q) = .8 ln(1/.8) + .2 ln 10, H(q,p) = .9 ln 5 + .1 ln(1/.6), and their difference."""
    row = oracle.quantities({"target_probs": [0.8, 0.1, 0.1], "probs": [0.2, 0.2, 0.6]})
    h, ce = 0.8 * math.log(1 / 0.8) + 0.2 * math.log(10), 0.9 * LN5 + 0.1 * math.log(1 / 0.6)
    assert near(row["target_entropy"], h) and f"{float(row['target_entropy']):.6f}" == "0.639032"
    assert near(row["cross_entropy"], ce) and f"{float(row['cross_entropy']):.6f}" == "1.499577"
    assert near(row["kl_divergence"], ce - h) and f"{float(row['kl_divergence']):.6f}" == "0.860545"
    assert abs(row["kl_divergence"] + row["target_entropy"] - row["cross_entropy"]) < 1e-45
    assert near(row["brier"], 0.36 + 0.01 + 0.25)
    assert row["same_top"] == 0


def test_counts():
    assert [f"{float(p):.6f}" for p in oracle.softmax([1, 1, 3])] == ["0.106507", "0.106507", "0.786986"]
    assert [float(p) for p in oracle.distribution("probs", [1, 1, 3], normalize=True).p] == [0.2, 0.2, 0.6]


def test_two_class_softmax_is_the_sigmoid_of_the_difference():
    two, one = oracle.softmax([1.25, -0.5]), oracle.sigmoid("logit", 1.75)
    assert all(abs(a - b) < 1e-45 for a, b in zip(two, reversed(one.p), strict=True))


# ---- rows by hand


def test_binary_row():
    row = oracle.quantities({"prob": 0.8, "label": 1}, focal_gamma=2, focal_alpha=0.25, pos_weight=3)
    assert near(row["cross_entropy"], -3 * math.log(0.8))
    assert near(row["kl_divergence"], -math.log(0.8))
    assert near(row["brier"], 0.04, 1e-13)
    assert near(row["focal"], 0.25 * 0.04 * -math.log(0.8), 1e-13)
    assert row["target_entropy"] == 0 and row["accuracy"] == 1
    assert near(row["overconfidence"], -0.2, 1e-13)
    row = oracle.quantities({"prob": 0.8, "label": 0}, focal_gamma=2, focal_alpha=0.25, pos_weight=3)
    assert near(row["cross_entropy"], -math.log(0.2), 1e-13)
    assert near(row["focal"], 0.75 * 0.64 * -math.log(0.2), 1e-13)
    assert row["outcome"] == row["accuracy"] == 0


def test_binary_half():
    """p = ½ is no positive call, and a label of ½ is no positive label."""
    assert oracle.quantities({"prob": 0.5, "label": 0})["accuracy"] == 1
    assert oracle.quantities({"logit": 0.0, "label": 1})["accuracy"] == 0
    assert oracle.quantities({"prob": 0.4, "label": 0.5})["accuracy"] == 1


def test_binary_soft_label():
    row = oracle.quantities({"prob": 0.25, "label": 0.5})
    assert near(row["cross_entropy"], 0.5 * (math.log(4) + math.log(4 / 3)))
    assert near(row["target_entropy"], LN2)
    assert near(row["kl_divergence"], 0.5 * math.log(4 / 3))


def test_smoothing():
    """E = 0.3, K = 3: the label's class gets 0.8, the others 0.1; binary: 0.85."""
    row = oracle.quantities({"probs": [0.2, 0.2, 0.6], "label": 0}, label_smoothing=0.3)
    soft = oracle.quantities({"probs": [0.2, 0.2, 0.6], "target_probs": [0.8, 0.1, 0.1]})
    for key in ("cross_entropy", "target_entropy", "kl_divergence", "brier"):
        assert near(row[key], float(soft[key]))
    row = oracle.quantities({"prob": 0.8, "label": 1}, label_smoothing=0.3)
    assert near(row["cross_entropy"], -0.85 * math.log(0.8) - 0.15 * math.log(0.2))
    pair = oracle.quantities({"probs": [0.5, 0.5], "target_probs": [1.0, 0.0]}, label_smoothing=0.5)
    assert near(pair["target_entropy"], -0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_zero_costs_infinity_or_the_clip():
    row = {"probs": [0.0, 1.0], "label": 0}
    assert oracle.quantities(row)["cross_entropy"] == mp.inf
    assert oracle.quantities(row)["kl_divergence"] == mp.inf
    clipped = oracle.quantities(row, zero=1e-15, focal_gamma=2)
    assert near(clipped["cross_entropy"], -math.log(1e-15))
    assert near(clipped["kl_divergence"], -math.log(1e-15))
    assert near(clipped["focal"], -math.log(1e-15))
    pair = {"probs": [0.5, 0.5, 0.0], "target_probs": [1.0, 0.0, 0.0]}
    assert near(oracle.quantities(pair)["kl_divergence"], LN2)
    assert oracle.quantities(pair)["reverse_kl_divergence"] == mp.inf
    assert near(oracle.quantities(pair, zero=1e-6)["reverse_kl_divergence"], 0.5 * (-2 * LN2 - math.log(1e-6)))
    assert near(oracle.quantities({"logprob": -1000.0}, zero=1e-6)["cross_entropy"], -math.log(1e-6))


def test_certainty_costs_nothing():
    for row in ({"prob": 1.0, "label": 1}, {"logits": [0.0, -math.inf], "label": 0}, {"logprob": 0.0}):
        assert oracle.quantities(row)["cross_entropy"] == 0
    row = oracle.quantities({"logits": [0.0, -math.inf], "label": 0}, focal_gamma=0)
    assert row["focal"] == 0 and row["entropy"] == 0


def test_disjoint_pair():
    row = oracle.quantities({"probs": [0.0, 1.0], "target_probs": [1.0, 0.0]})
    assert near(row["js_divergence"], LN2)
    assert row["kl_divergence"] == row["reverse_kl_divergence"] == mp.inf
    assert row["brier"] == 2


def test_extreme_logits_keep_their_digits():
    assert oracle.quantities({"logit": -1e9, "label": 1})["cross_entropy"] == 1e9
    tiny = oracle.quantities({"logit": -200.0, "label": 0}, focal_gamma=1)
    assert near(tiny["cross_entropy"], math.exp(-200), 1e-12)
    assert near(tiny["focal"], math.exp(-400), 1e-12)


def test_unnormalised_rows_are_used_as_they_stand():
    raw = {"probs": [0.5, 0.25], "target_probs": [0.5, 0.75]}
    assert near(oracle.quantities(raw)["kl_divergence"], 0.75 * math.log(3))
    assert near(oracle.quantities(raw, normalize=True)["kl_divergence"], _kl([0.4, 0.6], [2 / 3, 1 / 3]))


def _kl(q, p):
    return math.fsum(a * math.log(a / b) for a, b in zip(q, p, strict=True))


def test_ties():
    """Lowest index wins the argmax; rank counts classes above and equal ones before."""
    d = oracle.distribution("logits", [5, 7, 7, 0, 7])
    assert d.top == 1
    assert [d.rank(y) for y in range(5)] == [3, 0, 1, 4, 2]
    row = oracle.quantities({"logits": [5, 7, 7, 0, 7], "label": 2}, top_k=(2,))
    assert row["accuracy"] == 0 and row["top2_accuracy"] == 1
    assert oracle.quantities({"probs": [0.5, 0.5], "target_probs": [0.5, 0.5]})["same_top"] == 1


def test_pair_with_label():
    row = oracle.quantities({"probs": [0.7, 0.3], "target_probs": [0.6, 0.4], "label": 1})
    assert near(row["delta_p"], -0.1, 1e-13)
    assert row["accuracy"] == 0 and row["same_top"] == 1
    assert near(row["cross_entropy"], -0.6 * math.log(0.7) - 0.4 * math.log(0.3))


# ---- forms agree

weights = st.lists(st.integers(1, 1000), min_size=2, max_size=6)


@given(weights, weights, st.sampled_from([0.0, 0.1]), st.floats(0.25, 4))
def test_forms_agree(a, b, smoothing, temperature):
    """Logits, probabilities and log-probabilities of one distribution say the same, and KL = H(q,p) − H(q) ≥ 0."""
    k = min(len(a), len(b))
    p, q = oracle.distribution("probs", a[:k], normalize=True), oracle.distribution("probs", b[:k], normalize=True)
    label = k - 1
    rows = [
        {"probs": p.p, "target_logprobs": q.log, "label": label},
        {"logprobs": p.log, "target_logits": [v + 3 for v in q.log], "label": label},
        {"logits": [v - 2 for v in p.log], "target_probs": q.p, "label": label},
    ]
    o = {"label_smoothing": smoothing, "focal_gamma": 1.5, "focal_alpha": 0.3}
    first, *others = [oracle.quantities(row, **o) for row in rows]
    first.pop("probabilities")
    for other in others:
        assert all(abs(other[key] - first[key]) < 1e-40 for key in first)
    assert abs(first["cross_entropy"] - first["target_entropy"] - first["kl_divergence"]) < 1e-45
    assert first["kl_divergence"] >= -mp.mpf("1e-49") and first["reverse_kl_divergence"] >= -mp.mpf("1e-49")
    assert -mp.mpf("1e-49") <= first["js_divergence"] <= mp.log(2)
    hot = oracle.quantities({"logits": rows[2]["logits"], "label": label}, temperature=temperature)
    scaled = [v / mp.mpf(temperature) for v in rows[2]["logits"]]
    assert abs(hot["cross_entropy"] - oracle.quantities({"logits": scaled, "label": label})["cross_entropy"]) < 1e-40


@given(st.floats(-40, 40), st.sampled_from([0, 1, 0.25]), st.sampled_from([0.0, 0.2]))
def test_binary_is_two_classes(z, y, smoothing):
    o = {"label_smoothing": smoothing, "focal_gamma": 2.0}
    binary = oracle.quantities({"logit": z, "label": y}, **o)
    pair = oracle.quantities({"logits": [0.0, z], "target_probs": [1 - y, y]}, **o)
    for key in ("cross_entropy", "target_entropy", "kl_divergence", "entropy", "focal", "mean_confidence"):
        assert abs(binary[key] - pair[key]) < 1e-40
    assert abs(2 * binary["brier"] - pair["brier"]) < 1e-40


# ---- many rows


def test_exact_sums_round_once():
    values = [1e16, 1.0, -1e16, 2.0**-60]
    assert oracle.exact_mean(values) == (1.0 + 2.0**-60) / 4
    assert oracle.exact_mean([1.0, 4.0], [3.0, 1.0]) == 1.75
    assert oracle.exact_stderr([1.0, 2.0, 3.0]) == pytest.approx(1 / math.sqrt(3), rel=1e-15)


def test_weighted_mean_and_error():
    """Equal weights give s/√n; weights 2, 1, 1 over 1, 2, 5 give mean 9/4 and the formula's error."""
    values = [mp.mpf(v) for v in (1, 2, 5)]
    assert near(oracle.stderr(values, [mp.mpf(1)] * 3), np.std([1, 2, 5], ddof=1) / math.sqrt(3))
    assert near(oracle.stderr(values, [mp.mpf(7)] * 3), np.std([1, 2, 5], ddof=1) / math.sqrt(3))
    s = oracle.summarize(values, [mp.mpf(w) for w in (2, 1, 1)], (0.5, 0.6, 1.0))
    assert s.mean == 2.25
    assert near(s.stderr, math.sqrt(3 / 2 * (2.5**2 + 0.25**2 + 2.75**2)) / 4)
    assert s.quantiles == {0.5: 1, 0.6: 2, 1.0: 5}
    assert near(s.high - s.mean, 1.959963984540054 * float(s.stderr))


def test_infinite_rows_are_counted():
    rows = [{"prob": 0.5, "label": 1}, {"prob": 0.0, "label": 1}, {"prob": 0.25, "label": 0}]
    s = oracle.evaluate(rows)["cross_entropy"]
    assert (s.mean, s.infinite, s.max) == (mp.inf, 1, mp.inf)
    assert near(s.finite_mean, (LN2 + math.log(4 / 3)) / 2)
    assert s.stderr is None and near(s.finite_stderr, (LN2 - math.log(4 / 3)) / 2)
    assert oracle.evaluate(rows)["perplexity"].mean == mp.inf


def test_ignored_rows_do_not_exist():
    rows = [{"probs": [0.5, 0.5], "label": y, "weight": w} for y, w in ((0, 1.0), (1, 0.0), (-1, 3.0))]
    rows.append({"probs": [0.1, 0.9], "label": 0, "mask": False})
    s = oracle.evaluate(rows, ignore_index=-1)
    assert near(s["cross_entropy"].mean, LN2) and s["cross_entropy"].stderr is None
    assert s["label_entropy"].mean == 0 and "d2" not in s


def test_class_weights_divide_by_their_sum():
    rows = [{"probs": [0.5, 0.5], "label": 0}, {"probs": [0.75, 0.25], "label": 1}]
    s = oracle.evaluate(rows, class_weights=(1, 3))
    assert near(s["cross_entropy"].mean, (LN2 + 3 * math.log(4)) / 4)
    assert near(s["label_entropy"].mean, float(oracle.entropy([0.25, 0.75])))


def test_derived():
    """Two balanced labels, p_y = .5 and .25: perplexity √8, normalized CE 1.5 and what follows."""
    rows = [{"probs": [0.5, 0.5], "label": 0, "bytes": 3}, {"probs": [0.75, 0.25], "label": 1, "bytes": 5}]
    s = oracle.evaluate(rows)
    assert near(s["perplexity"].mean, math.sqrt(8))
    assert near(s["perplexity"].stderr, math.sqrt(8) * LN2 / 2)
    assert near(s["bits_per_byte"].mean, 3 / 8)
    assert near(s["label_entropy"].mean, LN2)
    assert near(s["normalized_cross_entropy"].mean, 1.5) and near(s["d2"].mean, -0.5)
    inside = (LN2 + float(oracle.entropy([0.75, 0.25]))) / 2
    assert near(s["mutual_information"].mean, float(oracle.entropy([0.625, 0.375])) - inside, 1e-12)
    assert near(oracle.evaluate(rows, unit="bit")["mutual_information"].mean * LN2, float(s["mutual_information"].mean))
    assert near(oracle.evaluate(rows, unit="bit")["perplexity"].mean, math.sqrt(8))


def test_soft_binary_label_entropy_is_of_the_mean_label():
    s = oracle.evaluate([{"prob": 0.5, "label": 0.5}, {"prob": 0.5, "label": 0.0}])
    assert near(s["label_entropy"].mean, float(oracle.entropy([0.25, 0.75])))


def test_bins_are_closed_above():
    assert [oracle.bin_of(v, 4) for v in (0.0, 0.25, math.nextafter(0.25, 1), 0.5, 0.75, 1.0)] == [0, 0, 1, 1, 2, 3]
    assert oracle.bin_of(0.6, 5) == 2  # float64's 0.6 lies below 3/5
    assert oracle.bin_of(float(np.float32(0.6)), 5) == 3  # float32's above


def test_calibration_by_hand():
    """Confidences .2, .3 | .6, .9, .9: gaps ½−¼ and ⅔−0.8; equal-mass groups .2, .3, .6 | .9, .9."""
    rows = [{"prob": p, "label": y} for p, y in ((0.9, 1), (0.2, 0), (0.6, 0), (0.3, 1), (0.9, 1))]
    s = oracle.evaluate(rows, bins=2)
    low, high = 0.25, 0.8 - 2 / 3
    assert near(s["ece"].mean, 0.4 * low + 0.6 * high)
    assert near(s["mce"].mean, low)
    assert near(s["rmsce"].mean, math.sqrt(0.4 * low**2 + 0.6 * high**2))
    assert near(s["adaptive_ece"].mean, 0.6 * abs(1.1 / 3 - 1 / 3) + 0.4 * 0.1)
    table = oracle.reliability([mp.mpf("0.9")] * 2, [mp.mpf(1), mp.mpf(0)], [mp.mpf(1), mp.mpf(3)], 2)
    assert table[0] == (0, 0, None, None)
    assert (table[1][0], table[1][1], table[1][3]) == (2, 4, mp.mpf("0.25"))


def groups_of(scores, weights, bins):
    zeros = [mp.mpf(0)] * len(scores)
    return [g[0] for g in oracle.equal_mass([mp.mpf(v) for v in scores], zeros, [mp.mpf(w) for w in weights], bins)]


def test_equal_mass_groups():
    """Like `np.array_split` but for where the longer groups stand; equal confidences stay together; weights count."""
    for n in (3, 7, 30):
        sizes = groups_of([v / 40 for v in range(n)], [1] * n, 4)
        assert sorted(sizes) == sorted(len(part) for part in np.array_split(range(n), 4) if len(part))
    assert groups_of([0.1, 0.2, 0.3, 0.4, 0.5], [1] * 5, 2) == [3, 2]
    assert groups_of([0.5] * 4 + [0.6], [1] * 5, 2) == [4, 1]
    assert groups_of([0.1, 0.2, 0.3, 0.4], [3, 1, 1, 1], 2) == [1, 3]


# ---- other implementations


def test_like_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 60)
    y, w = rng.integers(0, 4, 60), rng.uniform(0.5, 2, 60)
    rows = [{"probs": a.tolist(), "label": int(b), "weight": float(c)} for a, b, c in zip(p, y, w, strict=True)]
    s = oracle.evaluate(rows, top_k=(2,))
    assert near(s["cross_entropy"].mean, metrics.log_loss(y, p, sample_weight=w), 1e-13)
    assert near(s["accuracy"].mean, metrics.accuracy_score(y, p.argmax(1), sample_weight=w), 1e-13)
    assert near(s["top2_accuracy"].mean, metrics.top_k_accuracy_score(y, p, k=2, sample_weight=w), 1e-13)
    assert near(s["d2"].mean, metrics.d2_log_loss_score(y, p, sample_weight=w), 1e-12)
    counts = rng.multinomial(16, np.full(4, 0.25), 60)
    mi = metrics.mutual_info_score(None, None, contingency=counts)
    assert near(oracle.evaluate({"probs": (c / 16).tolist()} for c in counts)["mutual_information"].mean, mi, 1e-12)
    binary = [{"prob": float(a[0]), "label": int(b == 0), "weight": float(c)} for a, b, c in zip(p, y, w, strict=True)]
    assert near(oracle.evaluate(binary)["brier"].mean, metrics.brier_score_loss(y == 0, p[:, 0], sample_weight=w), 1e-13)
