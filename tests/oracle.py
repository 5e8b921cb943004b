"""The slow second implementation: every quantity of SPEC §1 in plain Python, from its formula, in 50 decimal digits.

Nothing here is shared with `streamloss`, and nothing is clever: a row is a dict of Python values as `Table.to_pylist()`
gives them (`logits`, `probs`, `logprobs`, `logit`, `prob` or `logprob`; `label`; `target_logits`, `target_probs` or
`target_logprobs`; `weight`, `mask`, `bytes`), options carry the names of `streamloss.options.Options`.

    quantities(row, **options)   one row's values, nats, as 50-digit numbers
    evaluate(rows, **options)    the report's numbers: {key: Summary}
    exact_sum, exact_mean        rational sums of given floats, rounded once
    bits(value)                  a number's float64, correctly rounded

What is taken as meant where SPEC §1 leaves room:

- Probabilities are used as they stand; `normalize` divides a row by its sum first, and shifts log-probabilities alike.
- A hard label's target entropy is 0 and its KL is the cross-entropy. Smoothing makes q' = (1−E)q + E/K of any target,
  y' = (1−E)y + E/2 of a binary one; losses, target entropy and Brier see q'; accuracy and calibration the label itself.
- In a pair with a label the losses use the target; accuracy, top-k, calibration and label entropy use the label.
- `zero` = EPS > 0 caps every −ln p (and −ln q in reverse KL) of cross-entropy, KL, reverse KL and focal at −ln EPS.
- `pos_weight` touches binary cross-entropy alone.
- A row's weight is weight × class_weights[label]; rows of weight 0, masked or with the ignored label do not exist.
- Calibration bins are (i/B, (i+1)/B], the first closed at 0. Equal-mass groups are the rows ordered by confidence and
  cut B−1 times, each time where the weight so far is nearest to i W/B (of two as near, the later place); rows of one
  fine bin, of which there are at least 10,000, stay together.
- The standard error of a weighted mean is √(n/(n−1) Σ w²(x−x̄)²) / Σ w, None for one row. Infinite rows make the mean
  infinite, without error or interval; the finite rows' mean and error stand beside it. Perplexity's interval is that of the
  mean, exponentiated.
- The quantile at level a is the smallest value whose cumulative weight reaches a Σ w.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import mpmath

mp = mpmath.mp.clone()
mp.dps = 50

ZERO, ONE, INF = mp.mpf(0), mp.mpf(1), mp.inf
LN = {"nat": ONE, "bit": mp.log(2), "ban": mp.log(10)}
NATS = (
    "cross_entropy",
    "target_entropy",
    "kl_divergence",
    "reverse_kl_divergence",
    "js_divergence",
    "entropy",
    "entropy_gap",
    "focal",
    "label_entropy",
    "mutual_information",
)
VECTORS = ("logits", "probs", "logprobs")
DEFAULTS: dict[str, Any] = {
    "temperature": 1.0,
    "target_temperature": 1.0,
    "ignore_index": None,
    "label_smoothing": 0.0,
    "class_weights": None,
    "pos_weight": 1.0,
    "focal_gamma": None,
    "focal_alpha": None,
    "zero": 0.0,
    "top_k": (),
    "bins": 15,
    "normalize": False,
    "classes": None,
    "unit": "nat",
    "quantiles": (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99),
    "confidence": 0.95,
}


# ---- numbers


def bits(value: Any) -> float:
    """The float64 nearest to a 50-digit number."""
    return float(value)


def exact_sum(values: Iterable[float], weights: Iterable[float] | None = None) -> Fraction:
    """Σ w x over finite floats, as a rational."""
    xs = [Fraction(x) for x in values]
    ws = [Fraction(1)] * len(xs) if weights is None else [Fraction(w) for w in weights]
    return sum((w * x for w, x in zip(ws, xs, strict=True)), Fraction(0))


def exact_mean(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """Σ w x / Σ w over finite floats, rounded once (division of integers rounds correctly in Python)."""
    total = Fraction(len(values)) if weights is None else exact_sum(weights)
    return float(exact_sum(values, weights) / total)


def exact_stderr(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """√(n/(n−1) Σ w²(x−x̄)²) / Σ w over finite floats; every step but the root is rational."""
    xs = [Fraction(x) for x in values]
    ws = [Fraction(1)] * len(xs) if weights is None else [Fraction(w) for w in weights]
    n, total = len(xs), sum(ws)
    mean = sum(w * x for w, x in zip(ws, xs, strict=True)) / total
    square = Fraction(n, n - 1) * sum((w * (x - mean)) ** 2 for w, x in zip(ws, xs, strict=True)) / total**2
    return float(mp.sqrt(mp.mpf(square.numerator) / square.denominator))


def _times(a: Any, b: Any) -> Any:
    """a·b with 0·∞ = 0: an impossible event costs nothing."""
    return ZERO if a == 0 or b == 0 else a * b


def _dot(a: Iterable[Any], b: Iterable[Any]) -> Any:
    return mp.fsum(_times(x, y) for x, y in zip(a, b, strict=True))


def _log(p: Any) -> Any:
    return mp.log(p) if p > 0 else -INF


def _exp(x: Any) -> Any:
    return ZERO if x == -INF else mp.exp(x)


# ---- distributions


@dataclass(frozen=True)
class Distribution:
    """p, ln p and 1−p of every class, each computed so that it keeps its digits; `order` ranks the classes as given."""

    p: list[Any]
    log: list[Any]
    rest: list[Any]
    order: list[Any]

    @property
    def entropy(self) -> Any:
        return _dot(self.p, (-x for x in self.log))

    @property
    def top(self) -> int:
        """The argmax; of equal classes the lowest index."""
        return max(range(len(self.order)), key=lambda j: (self.order[j], -j))

    def rank(self, y: int) -> int:
        """How many classes stand before y: those strictly above it and equal ones of lower index."""
        own = self.order[y]
        return sum(v > own for v in self.order) + sum(v == own for v in self.order[:y])


def logsumexp(values: Sequence[Any]) -> Any:
    top = max(values)
    return top + mp.log(mp.fsum(_exp(v - top) for v in values))


def distribution(form: str, values: Sequence[float], temperature: float = 1.0, normalize: bool = False) -> Distribution:
    """K classes from logits (softmax of z/T), probabilities or log-probabilities."""
    given = [mp.mpf(v) for v in values]
    if form == "logits" or (form == "logprobs" and normalize):
        z = [v / mp.mpf(temperature) for v in given]
        log = [v - logsumexp(z) for v in z]
        p = [_exp(v) for v in log]
        rest = [mp.fsum(p[:j] + p[j + 1 :]) for j in range(len(p))]
        return Distribution(p, log, rest, given)
    if form == "logprobs":
        return Distribution([_exp(v) for v in given], given, [-mp.expm1(v) if v > -INF else ONE for v in given], given)
    p = [v / mp.fsum(given) for v in given] if normalize else given
    return Distribution(p, [_log(v) for v in p], [ONE - v for v in p], given)


def sigmoid(form: str, value: float, temperature: float = 1.0) -> Distribution:
    """Two classes, (negative, positive), from the positive class's logit or probability."""
    if form == "prob":
        p = mp.mpf(value)
        return Distribution([1 - p, p], [mp.log1p(-p) if p < 1 else -INF, _log(p)], [p, 1 - p], [1 - p, p])
    z = mp.mpf(value) / mp.mpf(temperature)
    minus, plus = _softplus(z), _softplus(-z)  # −ln(1−p), −ln p
    p, q = _exp(-plus), _exp(-minus)
    return Distribution([q, p], [-minus, -plus], [p, q], [-z, z])


def _softplus(z: Any) -> Any:
    """ln(1 + e^z)."""
    if mp.isinf(z):
        return ZERO if z < 0 else INF
    return max(z, ZERO) + mp.log1p(mp.exp(-abs(z)))


def softmax(values: Sequence[float], temperature: float = 1.0) -> list[Any]:
    return distribution("logits", values, temperature).p


def entropy(p: Sequence[float]) -> Any:
    """H(p) = Σ p ln(1/p)."""
    return distribution("probs", p).entropy


def cross_entropy(q: Sequence[float], p: Sequence[float]) -> Any:
    """H(q,p) = Σ q ln(1/p)."""
    return _dot([mp.mpf(v) for v in q], [-x for x in distribution("probs", p).log])


def kl_divergence(q: Sequence[float], p: Sequence[float]) -> Any:
    """KL(q‖p) = Σ q ln(q/p)."""
    a, b = distribution("probs", q), distribution("probs", p)
    return _kl(a, b, ZERO)


def _kl(q: Distribution, p: Distribution, zero: Any) -> Any:
    """Σ q (ln q − ln max(p, zero)), term by term so that ∞ − ∞ never meets."""
    terms = zip(q.p, q.log, _capped(p, zero), strict=True)
    return mp.fsum(a * (log - capped) for a, log, capped in terms if a > 0)


def _capped(p: Distribution, zero: Any) -> list[Any]:
    floor = mp.log(zero) if zero > 0 else -INF
    return [max(v, floor) for v in p.log]


# ---- one row


def prediction_form(row: Mapping[str, Any]) -> str:
    (form,) = [name for name in (*VECTORS, "logit", "prob", "logprob") if name in row]
    return form


def label_of(row: Mapping[str, Any], classes: Sequence[str] | None = None) -> Any:
    """The label as a class number, or as it is when binary and soft; None when there is none."""
    label = row.get("label")
    if isinstance(label, str):
        assert classes is not None, "a label in words needs classes"
        return list(classes).index(label)
    return int(label) if isinstance(label, bool) else label


def weight_of(row: Mapping[str, Any], **options: Any) -> Fraction:
    """What the row weighs; 0 when it is ignored."""
    o = {**DEFAULTS, **options}
    label = label_of(row, o["classes"])
    if row.get("mask") is False or (o["ignore_index"] is not None and label == o["ignore_index"]):
        return Fraction(0)
    weight = Fraction(row.get("weight", 1))
    return weight * Fraction(o["class_weights"][int(label)]) if o["class_weights"] else weight


def quantities(row: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Every row quantity that the row's columns allow, in nats.

    Besides the report's keys: `score` and `outcome` (what calibration compares) and `probabilities`.
    """
    o = {**DEFAULTS, **options}
    form, label, zero = prediction_form(row), label_of(row, o["classes"]), mp.mpf(o["zero"])
    if form == "logprob":
        cost = -mp.mpf(row["logprob"])
        return {"cross_entropy": min(cost, -mp.log(zero)) if zero > 0 else cost}
    out = _vector(row, form, label, zero, o) if form in VECTORS else _binary(row, form, label, zero, o)
    if "cross_entropy" in out:
        out["entropy_gap"] = out["cross_entropy"] - out["entropy"]
    return out


def _binary(row: Mapping[str, Any], form: str, label: Any, zero: Any, o: Mapping[str, Any]) -> dict[str, Any]:
    p = sigmoid(form, row[form], o["temperature"])
    out: dict[str, Any] = {"entropy": p.entropy, "mean_confidence": max(p.p), "probabilities": p.p, "score": p.p[1]}
    if label is None:
        return out
    smooth = mp.mpf(o["label_smoothing"])
    y = mp.mpf(label) * (1 - smooth) + smooth / 2
    q = Distribution([1 - y, y], [_log(1 - y), _log(y)], [y, 1 - y], [1 - y, y])
    log = _capped(p, zero)
    out["cross_entropy"] = _times(mp.mpf(o["pos_weight"]) * y, -log[1]) + _times(1 - y, -log[0])
    out["target_entropy"] = q.entropy
    out["kl_divergence"] = _kl(q, p, zero)
    out["brier"] = (p.p[1] - y) ** 2
    positive = p.order[1] > p.order[0]
    out["accuracy"] = ONE if positive == (label > 0.5) else ZERO
    out["overconfidence"] = out["mean_confidence"] - out["accuracy"]
    out["outcome"] = mp.mpf(label)
    if o["focal_gamma"] is not None:
        alpha = (ONE, ONE) if o["focal_alpha"] is None else (1 - mp.mpf(o["focal_alpha"]), mp.mpf(o["focal_alpha"]))
        out["focal"] = _focal(q.p, p, log, alpha, o["focal_gamma"])
    return out


def _vector(row: Mapping[str, Any], form: str, label: Any, zero: Any, o: Mapping[str, Any]) -> dict[str, Any]:
    p = distribution(form, row[form], o["temperature"], o["normalize"])
    k = len(p.p)
    out: dict[str, Any] = {"entropy": p.entropy, "mean_confidence": max(p.p), "probabilities": p.p, "score": p.p[p.top]}
    targets = [name for name in VECTORS if f"target_{name}" in row]
    if label is not None:
        rank = p.rank(label)
        out["accuracy"] = out["outcome"] = ONE if rank == 0 else ZERO
        out["overconfidence"] = out["mean_confidence"] - out["accuracy"]
        for top in {5, *([o["top_k"]] if isinstance(o["top_k"], int) else o["top_k"])}:
            out[f"top{top}_accuracy"] = ONE if rank < top else ZERO
    if not targets and label is None:
        return out
    smooth = mp.mpf(o["label_smoothing"])
    if targets:
        given = distribution(targets[0], row[f"target_{targets[0]}"], o["target_temperature"], o["normalize"])
        out["same_top"] = ONE if given.top == p.top else ZERO
        if label is not None:
            out["delta_p"] = p.p[label] - given.p[label]
    else:
        hot = [ONE if j == label else ZERO for j in range(k)]
        given = Distribution(hot, [_log(v) for v in hot], [1 - v for v in hot], hot)
    q = given
    if smooth > 0:
        mass = [v * (1 - smooth) + smooth / k for v in given.p]
        q = Distribution(mass, [_log(v) for v in mass], [1 - v for v in mass], mass)
    log = _capped(p, zero)
    out["cross_entropy"] = _dot(q.p, [-x for x in log])
    out["target_entropy"] = q.entropy
    out["kl_divergence"] = _kl(q, p, zero)
    out["brier"] = mp.fsum((a - b) ** 2 for a, b in zip(p.p, q.p, strict=True))
    if targets:
        out["reverse_kl_divergence"] = _kl(p, q, zero)
        middle = [(a + b) / 2 for a, b in zip(p.p, q.p, strict=True)]
        m = Distribution(middle, [_log(v) for v in middle], [], middle)
        out["js_divergence"] = (_kl(q, m, ZERO) + _kl(p, m, ZERO)) / 2
    if o["focal_gamma"] is not None:
        alpha = [ONE if o["focal_alpha"] is None else mp.mpf(o["focal_alpha"])] * k
        out["focal"] = _focal(q.p, p, log, alpha, o["focal_gamma"])
    return out


def _focal(q: Sequence[Any], p: Distribution, log: Sequence[Any], alpha: Sequence[Any], gamma: float) -> Any:
    """Σ q α (1−p)^γ (−ln p)."""
    return mp.fsum(
        _times(a * b, _times(rest ** mp.mpf(gamma), -lp)) for a, b, rest, lp in zip(q, alpha, p.rest, log, strict=True)
    )


# ---- many rows


@dataclass
class Summary:
    """One line of the report; numbers have 50 digits, `quantiles` go by level; derived ones have a mean alone."""

    mean: Any
    stderr: Any = None
    low: Any = None
    high: Any = None
    min: Any = None
    max: Any = None
    infinite: int = 0
    finite_mean: Any = None
    finite_stderr: Any = None
    quantiles: dict[float, Any] = field(default_factory=dict)


NOT_A_MEAN = ("probabilities", "score", "outcome")


def evaluate(rows: Iterable[Mapping[str, Any]], **options: Any) -> dict[str, Summary]:
    """Every number of the report over the rows that count, in the unit asked for."""
    o = {**DEFAULTS, **options}
    kept = [(row, mp.mpf(w.numerator) / w.denominator) for row in rows if (w := weight_of(row, **options)) > 0]
    values = [quantities(row, **options) for row, _ in kept]
    weights = [w for _, w in kept]
    report = {
        key: summarize([v[key] for v in values], weights, o["quantiles"], o["confidence"])
        for key in values[0]
        if key not in NOT_A_MEAN
    }
    for key, s in report.items():
        if key.endswith("accuracy") or key == "same_top":
            s.low, s.high = wilson(s.mean, weights, o["confidence"])
    if "cross_entropy" in report:
        report["perplexity"] = perplexity(report["cross_entropy"])
        if "bytes" in kept[0][0]:
            report["bits_per_byte"] = bits_per_byte(
                [v["cross_entropy"] for v in values], [mp.mpf(row["bytes"]) for row, _ in kept], weights
            )
    if "label" in kept[0][0]:
        binary = "logit" in kept[0][0] or "prob" in kept[0][0]
        labels = [label_of(row, o["classes"]) for row, _ in kept]
        floor = label_entropy(labels, weights, binary)
        report["label_entropy"] = Summary(floor)
        if not any(name.startswith("target_") for name in kept[0][0]) and floor > 0:
            ratio = report["cross_entropy"].mean / floor
            report["normalized_cross_entropy"], report["d2"] = Summary(ratio), Summary(1 - ratio)
    if "probabilities" in values[0]:
        columns = zip(*(v["probabilities"] for v in values), strict=True)
        average = [mean(column, weights) for column in columns]
        h = mp.fsum(_times(p, -_log(p)) for p in average)
        report["mutual_information"] = Summary(h - report["entropy"].mean)
    if "outcome" in values[0]:
        scores, outcomes = [v["score"] for v in values], [v["outcome"] for v in values]
        report |= calibration(scores, outcomes, weights, o["bins"])
    for key in NATS:
        if key in report:
            report[key] = _scaled(report[key], LN[o["unit"]])
    return report


def _scaled(s: Summary, unit: Any) -> Summary:
    scaled = {
        name: None if (v := getattr(s, name)) is None else v / unit
        for name in ("mean", "stderr", "low", "high", "min", "max", "finite_mean", "finite_stderr")
    }
    return Summary(**scaled, infinite=s.infinite, quantiles={a: v / unit for a, v in s.quantiles.items()})


def mean(values: Sequence[Any], weights: Sequence[Any]) -> Any:
    return mp.fsum(w * x for w, x in zip(weights, values, strict=True)) / mp.fsum(weights)


def stderr(values: Sequence[Any], weights: Sequence[Any]) -> Any:
    """√(n/(n−1) Σ w²(x−x̄)²) / Σ w; None for a single row."""
    n = len(values)
    if n < 2:
        return None
    centre = mean(values, weights)
    square = mp.fsum((w * (x - centre)) ** 2 for w, x in zip(weights, values, strict=True))
    return mp.sqrt(mp.mpf(n) / (n - 1) * square) / mp.fsum(weights)


def quantile(values: Sequence[Any], weights: Sequence[Any], level: float) -> Any:
    """The smallest value whose cumulative weight reaches level · Σ w."""
    goal, running = mp.mpf(repr(level)) * mp.fsum(weights), ZERO
    ordered = sorted(zip(values, weights, strict=True), key=lambda pair: pair[0])
    for value, weight in ordered:
        running += weight
        if running >= goal:
            return value
    return ordered[-1][0]


def wilson(share: Any, weights: Sequence[Any], confidence: float) -> tuple[Any, Any]:
    """The interval of a share: the values p with |share − p| ≤ z·√(p(1 − p)/n), n = (Σw)²/Σw², solved for p."""
    z = mp.sqrt(2) * mp.erfinv(mp.mpf(confidence))
    n = mp.fsum(weights) ** 2 / mp.fsum(w * w for w in weights)
    a, b, c = 1 + z * z / n, -(2 * share + z * z / n), share * share
    root = mp.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def summarize(values: Sequence[Any], weights: Sequence[Any], levels: Sequence[float] = (), confidence: float = 0.95) -> Summary:
    """Mean, standard error, normal interval, extremes, infinite rows and quantiles of one row quantity."""
    finite = [(x, w) for x, w in zip(values, weights, strict=True) if x < INF]
    infinite = len(values) - len(finite)
    s = Summary(INF, min=min(values), max=max(values), infinite=infinite)
    s.quantiles = {a: quantile(values, weights, a) for a in levels}
    if not finite:
        return s
    xs, ws = [x for x, _ in finite], [w for _, w in finite]
    s.finite_mean, error = mean(xs, ws), stderr(xs, ws)
    if infinite:
        s.finite_stderr = error
        return s
    s.mean, s.stderr = s.finite_mean, error
    if s.stderr is not None:
        half = mp.sqrt(2) * mp.erfinv(mp.mpf(confidence)) * s.stderr
        s.low, s.high = s.finite_mean - half, s.finite_mean + half
    return s


def perplexity(loss: Summary) -> Summary:
    """exp of the mean cross-entropy in nats; its error by the delta method, its interval the mean's, exponentiated."""
    s = Summary(mp.exp(loss.mean) if loss.mean < INF else INF, infinite=loss.infinite)
    if loss.finite_mean is not None:
        s.finite_mean = mp.exp(loss.finite_mean)
    if loss.finite_stderr is not None:
        s.finite_stderr = s.finite_mean * loss.finite_stderr
    if loss.stderr is not None:
        s.stderr = s.finite_mean * loss.stderr
        s.low, s.high = mp.exp(loss.low), mp.exp(loss.high)
    return s


def bits_per_byte(losses: Sequence[Any], sizes: Sequence[Any], weights: Sequence[Any]) -> Summary:
    """Σ w CE / ln 2 / Σ w bytes; the error is that of a ratio, by the delta method."""
    ratio = mean(losses, weights) / mean(sizes, weights)
    n, error = len(losses), None
    if n > 1 and ratio < INF:
        square = mp.fsum((w * (x - ratio * b)) ** 2 for x, b, w in zip(losses, sizes, weights, strict=True))
        total = mp.fsum(w * b for b, w in zip(sizes, weights, strict=True))
        error = mp.sqrt(mp.mpf(n) / (n - 1) * square) / total / LN["bit"]
    return Summary(ratio / LN["bit"], error)


def label_entropy(labels: Sequence[Any], weights: Sequence[Any], binary: bool = False) -> Any:
    """Entropy of the weighted label frequencies; of the mean label when binary (labels may be soft)."""
    if binary:
        positive = mean([mp.mpf(y) for y in labels], weights)
        shares = [positive, 1 - positive]
    else:
        total = mp.fsum(weights)
        shares = [mp.fsum(w for y, w in zip(labels, weights, strict=True) if y == c) / total for c in sorted(set(labels))]
    return mp.fsum(_times(p, -_log(p)) for p in shares)


def bin_of(confidence: Any, bins: int) -> int:
    """The i with i/B < confidence ≤ (i+1)/B; 0 for a confidence of 0."""
    return min(max(int(mp.ceil(mp.mpf(confidence) * bins)) - 1, 0), bins - 1)


def reliability(
    scores: Sequence[Any], outcomes: Sequence[Any], weights: Sequence[Any], bins: int
) -> list[tuple[int, Any, Any, Any]]:
    """(rows, weight, mean confidence, mean outcome) of every bin; the means are None where the bin is empty."""
    groups: list[list[int]] = [[] for _ in range(bins)]
    for i, score in enumerate(scores):
        groups[bin_of(score, bins)].append(i)
    return [_bin(group, scores, outcomes, weights) for group in groups]


def equal_mass(
    scores: Sequence[Any], outcomes: Sequence[Any], weights: Sequence[Any], bins: int
) -> list[tuple[int, Any, Any, Any]]:
    """`reliability` over groups of nearly equal weight in the order of their confidence."""
    fine = bins * math.ceil(10_000 / bins)
    together: dict[int, list[int]] = {}
    for i, score in enumerate(scores):
        together.setdefault(bin_of(score, fine), []).append(i)
    lots = [together[b] for b in sorted(together)]
    reached = list(itertools.accumulate(mp.fsum(weights[i] for i in lot) for lot in lots))
    cuts = {len(lots)}
    for b in range(1, bins):
        goal = reached[-1] * b / bins
        cuts.add(1 + min(range(len(lots)), key=lambda at: (abs(reached[at] - goal), -at)))
    groups = [itertools.chain(*lots[start:stop]) for start, stop in itertools.pairwise(sorted({0} | cuts))]
    return [_bin(list(group), scores, outcomes, weights) for group in groups]


def _bin(
    group: Sequence[int], scores: Sequence[Any], outcomes: Sequence[Any], weights: Sequence[Any]
) -> tuple[int, Any, Any, Any]:
    if not group:
        return 0, ZERO, None, None
    w = [weights[i] for i in group]
    return len(group), mp.fsum(w), mean([scores[i] for i in group], w), mean([outcomes[i] for i in group], w)


def calibration(scores: Sequence[Any], outcomes: Sequence[Any], weights: Sequence[Any], bins: int) -> dict[str, Summary]:
    """ECE = Σ_b W_b |conf − acc| / W, MCE = max_b, RMSCE = √(Σ_b W_b (conf − acc)² / W); ECE over equal-mass bins."""
    total = mp.fsum(weights)

    def gaps(groups: list[tuple[int, Any, Any, Any]]) -> list[tuple[Any, Any]]:
        return [(w / total, abs(conf - acc)) for n, w, conf, acc in groups if n]

    fixed = gaps(reliability(scores, outcomes, weights, bins))
    adaptive = gaps(equal_mass(scores, outcomes, weights, bins))
    return {
        "ece": Summary(mp.fsum(w * gap for w, gap in fixed)),
        "mce": Summary(max(gap for _, gap in fixed)),
        "rmsce": Summary(mp.sqrt(mp.fsum(w * gap**2 for w, gap in fixed))),
        "adaptive_ece": Summary(mp.fsum(w * gap for w, gap in adaptive)),
    }


def close(ours: float | None, truth: Any, relative: float = 1e-12, absolute: float = 1e-14) -> bool:
    """SPEC §5: within 1e−12 relative or 1e−14 absolute, infinities alike."""
    if ours is None or truth is None:
        return ours is None and truth is None
    if math.isinf(ours) or mp.isinf(truth):  # beyond the largest float64 is infinite, too
        return ours == float(truth)
    return bool(abs(mp.mpf(ours) - truth) <= max(absolute, relative * abs(truth)))


def differences(report: Any, truth: Mapping[str, Summary]) -> list[str]:
    """Where a `streamloss.Report` and `evaluate` part by more than SPEC allows, one line each; empty when all is well.

    Every field that both sides have is compared: means and extremes as in SPEC §5, errors and intervals within 1e−9 (or
    1e−12 of the mean, which is what rounded rows leave of a spread of zero), quantiles within 0.4 %.
    """
    bounds = {
        "mean": 1e-12,
        "finite_mean": 1e-12,
        "min": 1e-12,
        "max": 1e-12,
        "stderr": 1e-9,
        "finite_stderr": 1e-9,
        "low": 1e-9,
        "high": 1e-9,
    }
    wrong = []
    for key, got in report.metrics.items():
        if got.mean is None:
            if key in truth:
                wrong.append(f"{key}: null ({got.reason}) is not {float(truth[key].mean)!r}")
            continue
        want = truth[key]
        size = min(abs(float(want.mean if want.finite_mean is None else want.finite_mean)), 1e300)
        for name, bound in bounds.items():
            ours, theirs = getattr(got, name), getattr(want, name)
            slack = 1e-14 if bound == 1e-12 else max(1e-14, 1e-12 * size)
            if ours is not None and theirs is not None and not close(ours, theirs, bound, slack):
                wrong.append(f"{key}.{name}: {ours!r} is not {float(theirs)!r}")
        if got.infinite is not None and got.infinite != want.infinite:
            wrong.append(f"{key}.infinite: {got.infinite} is not {want.infinite}")
        for level, theirs in want.quantiles.items() if got.quantiles else ():
            ours = got.quantiles[f"{level:g}"]
            if not close(ours, theirs, 4e-3, 1e-12):
                wrong.append(f"{key} at {level:g}: {ours!r} is not {float(theirs)!r}")
    return wrong
