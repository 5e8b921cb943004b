"""From State to Report: the only place where integers become means and intervals.

Means are exact ratios rounded once. With x̄ = Σwx / Σw over the n finite rows, the standard error is
√(n/(n−1) · Σw²(x − x̄)²) / Σw (for equal weights s/√n; Cochran, Sampling Techniques, §6), its sums exact. Perplexity and
ratios take theirs by the delta method; intervals are normal. A row of infinite loss makes the mean infinite; the mean and
error of the finite rows stand beside it. Quantiles come from the log-histogram: the smallest value with at least that share
of the weight at or below it, to 0.4 %.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from statistics import NormalDist
from typing import Any

import numpy as np

from streamloss.errors import IGNORED, RULES, USED
from streamloss.options import Options
from streamloss.quantities import SOURCES, Plan, Quantity, constant_key, plan
from streamloss.reporting.histograms import bucket_value, histograms
from streamloss.reporting.report import Metric, Report, plain
from streamloss.state import (
    CLASS_INFINITE,
    CLASS_SUMS,
    CLASS_WEIGHT,
    FIXED_DIGITS,
    FIXED_UNIT,
    LEDGER_BEYOND,
    LEDGER_CLIPPED,
    LEDGER_NORMALIZED,
    RELIABILITY_OUTCOME,
    RELIABILITY_SCORE,
    RELIABILITY_WEIGHT,
    Array,
    State,
    fixed_units,
    fixed_value,
    limbs_value,
)

LN2 = math.log(2)
UNITS = {"nat": 1.0, "bit": 1 / math.log(2), "ban": 1 / math.log(10)}
NO_ROWS = "no rows were used"
BEYOND = "a weight beyond 2^-60 … 2^53 is summed exactly but not kept by bin or class: scale the weights"


@dataclass(frozen=True)
class Sums:
    """The exact sums of one row quantity over its n finite rows: Σw, Σw², Σwx, Σw²x, Σw²x²."""

    n: int
    infinite: int
    w: Fraction
    ww: Fraction
    x: Fraction
    wx: Fraction
    xx: Fraction

    @property
    def mean(self) -> Fraction:
        return self.x / self.w

    def stderr(self) -> float | None:
        """Standard error of the mean; None for a single row."""
        if self.n < 2:
            return None
        m = self.mean
        squares = self.xx - 2 * m * self.wx + m * m * self.ww
        return root(squares * self.n / (self.n - 1) / (self.w * self.w))


def ratio(value: Fraction) -> float:
    """A fraction as float64, rounded once; infinite where it is too large."""
    try:
        return value.numerator / value.denominator
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def root(value: Fraction) -> float:
    """The square root of a fraction ≥ 0, scaled so that neither side under- or overflows."""
    if value <= 0:
        return 0.0
    shift = (value.numerator.bit_length() - value.denominator.bit_length()) // 2
    scaled = value / Fraction(4) ** shift
    try:
        return math.ldexp(math.sqrt(ratio(scaled)), shift)
    except OverflowError:
        return math.inf


class _Summary:
    """Everything that is read off one state."""

    def __init__(self, state: State, options: Options) -> None:
        self.state, self.options = state, options
        self.task = state.task
        self.plan: Plan = plan(state.task, state.options)
        self.used = int(state.arrays["ledger"][USED])
        self.scale = UNITS[options.unit]
        self.z = NormalDist().inv_cdf(0.5 + options.confidence / 2)
        self.total = limbs_value(state.arrays["weight"][0]) if self.task.weighted else Fraction(self.used)
        self.beyond = bool(state.arrays["ledger"][LEDGER_BEYOND])
        self._sums: dict[str, Sums] = {}

    def sums(self, key: str) -> Sums:
        """The sums of a row quantity."""
        if key not in self._sums:
            a, at = self.state.arrays, self.plan.index(key)
            moments = [limbs_value(limbs) for limbs in a["moments"][at]]
            infinite = int(a["infinite"][at])
            n = self.used - infinite
            if self.task.weighted:
                lost = [limbs_value(limbs) for limbs in a["infinite_weight"][at]]
                w, ww = (limbs_value(a["weight"][i]) - lost[i] for i in range(2))
                self._sums[key] = Sums(n, infinite, w, ww, *moments)
            else:
                x, xx = moments
                self._sums[key] = Sums(n, infinite, Fraction(n), Fraction(n), x, x, xx)
        return self._sums[key]

    def interval(self, mean: float, stderr: float | None) -> dict[str, Any]:
        """The normal confidence interval, where there is an error."""
        if stderr is None or not math.isfinite(mean) or not math.isfinite(stderr):
            return {}
        return {"low": mean - self.z * stderr, "high": mean + self.z * stderr}

    def metric(self, quantity: Quantity) -> Metric:
        """Any quantity of the table."""
        unit = self.options.unit if quantity.unit == "nat" else ""
        blank = Metric(quantity.key, quantity.title, unit, None)
        if self.used == 0 or self.total == 0:
            return replace(blank, reason=NO_ROWS)
        if self.beyond and not {"reliability", "labels", "mean_probabilities"}.isdisjoint(SOURCES.get(quantity.key, ())):
            return replace(blank, reason=BEYOND)
        if quantity.slot is None:
            return replace(blank, **_DERIVED[quantity.key](self))
        stand_in = constant_key(quantity.key, self.task, self.state.options)
        if stand_in == "":
            zeros: dict[str, Any] = dict.fromkeys(("mean", "stderr", "low", "high", "min", "max", "finite_mean"), 0.0)
            return replace(blank, **zeros, infinite=0, quantiles={_name(q): 0.0 for q in self.options.quantiles})
        return self.row_metric(blank, stand_in or quantity.key, self.scale if unit else 1.0)

    def row_metric(self, blank: Metric, key: str, scale: float) -> Metric:
        """A quantity with sums of its own."""
        sums = self.sums(key)
        low, high = (_from_key(k) * scale for k in self.state.arrays["extremes"][self.plan.index(key)].tolist())
        kept = key in self.plan.spread and not self.beyond
        quantiles = self.quantiles(key, low, high, scale) if kept else None
        shape: dict[str, Any] = {"min": low, "max": high, "infinite": sums.infinite, "quantiles": quantiles}
        if sums.n == 0:
            return replace(blank, mean=math.inf, **shape)
        finite = ratio(sums.mean) * scale
        error = sums.stderr()
        stderr = None if error is None else error * scale
        if sums.infinite:
            return replace(blank, mean=math.inf, finite_mean=finite, finite_stderr=stderr, **shape)
        ends = self.interval(finite, stderr)
        if self.plan.moments[self.plan.index(key)].indicator:
            ends = {name: min(max(end, 0.0), 1.0) for name, end in ends.items()}
        return replace(blank, mean=finite, stderr=stderr, finite_mean=finite, **ends, **shape)

    def quantiles(self, key: str, low: float, high: float, scale: float) -> dict[str, float]:
        """The quantiles of a row quantity, within its exact extremes."""
        buckets = self.state.arrays["histogram"][self.plan.spread.index(key)]
        filled = np.flatnonzero(buckets.any(axis=1))
        counts = buckets[filled]
        below = list(accumulate(fixed_units(counts) if self.task.weighted else counts[:, 0].tolist()))
        found: dict[str, float] = {}
        for q in self.options.quantiles:
            wanted = math.ceil(Fraction(repr(q)) * below[-1])
            value = bucket_value(int(filled[bisect_left(below, wanted)])) * scale
            found[_name(q)] = low if q == 0 else high if q == 1 else min(max(value, low), high)
        return found

    def row_error(self, key: str) -> tuple[float, float | None]:
        """Mean and error of a row quantity's finite rows, in nats; an infinite row makes the mean infinite."""
        sums = self.sums(key)
        if sums.n == 0:
            return math.inf, None
        return (math.inf if sums.infinite else ratio(sums.mean)), sums.stderr()

    def perplexity(self) -> dict[str, Any]:
        sums = self.sums("cross_entropy")
        if sums.n == 0:
            return {"mean": math.inf, "infinite": sums.infinite}
        log, error = ratio(sums.mean), sums.stderr()
        finite = _exp(log)
        stderr = None if error is None or not math.isfinite(finite) else finite * error
        if sums.infinite:
            return {"mean": math.inf, "infinite": sums.infinite, "finite_mean": finite, "finite_stderr": stderr}
        ends = {} if error is None else {"low": _exp(log - self.z * error), "high": _exp(log + self.z * error)}
        return {"mean": finite, "stderr": stderr, "infinite": 0, "finite_mean": finite, **ends}

    def bits_per_byte(self) -> dict[str, Any]:
        ce, size = self.sums("cross_entropy"), self.sums("bytes")
        if size.x == 0:
            return {"reason": "the byte counts sum to 0"}
        if ce.infinite or ce.n == 0:
            return {"mean": math.inf, "infinite": ce.infinite}
        both = limbs_value(self.state.arrays["cross"][0])
        r = ce.x / size.x
        mean = ratio(r) / LN2
        stderr = None
        if ce.n > 1:
            squares = ce.xx - 2 * r * both + r * r * size.xx
            stderr = root(squares * ce.n / (ce.n - 1) / (size.x * size.x)) / LN2
        return {"mean": mean, "stderr": stderr, **self.interval(mean, stderr)}

    @cached_property
    def label_weights(self) -> dict[int, int]:
        """The weight of every label that occurs, in one unit."""
        return label_weights(self.state)

    @cached_property
    def base_entropy(self) -> float:
        """The label entropy in nats."""
        return entropy_of(list(self.label_weights.values()))

    def label_entropy(self) -> dict[str, Any]:
        return {"mean": self.base_entropy * self.scale}

    def normalized(self, sign: float = 1.0, offset: float = 0.0) -> dict[str, Any]:
        base = self.base_entropy
        if base == 0:
            return {"reason": "all labels are the same: the label entropy is 0"}
        mean, _ = self.row_error("cross_entropy")
        if not math.isfinite(mean):
            return {"mean": offset + sign * mean}
        value, stderr = mean / base, self.normalized_error
        centre = offset + sign * value
        return {"mean": centre, "stderr": stderr, **self.interval(centre, stderr)}

    @cached_property
    def normalized_error(self) -> float | None:
        """Delta method for mean CE / H(labels): row i contributes CE_i − x̄ − r·(−ln f_y − H), with r the ratio."""
        if self.task.weighted or "cross_entropy" not in self.plan.per_class or self.used < 2:
            return None
        base = self.base_entropy
        mean, _ = self.row_error("cross_entropy")
        sums, r = self.sums("cross_entropy"), mean / base
        at = CLASS_SUMS + FIXED_DIGITS * self.plan.per_class.index("cross_entropy")
        squares = ratio(sums.xx - sums.mean * sums.mean * sums.n)
        records = self.state.arrays["classes"][list(self.label_weights)]
        costs = fixed_units(records[:, at : at + FIXED_DIGITS])
        total = sum(self.label_weights.values())
        for rows, weight, cost in zip(records[:, 0].tolist(), self.label_weights.values(), costs, strict=True):
            surprise, deviation = information(weight, total) - base, cost / (1 << FIXED_UNIT) - rows * mean
            squares += r * r * rows * surprise * surprise - 2 * r * surprise * deviation
        return math.sqrt(max(squares, 0.0) / (self.used - 1) / self.used) / base

    def mutual_information(self) -> dict[str, Any]:
        digits = self.state.arrays["mean_probabilities"]
        mean, _ = self.row_error("entropy")
        value = max(entropy_of(fixed_units(digits)) - mean, 0.0)
        return {"mean": value * self.scale}

    @cached_property
    def bins(self) -> list[tuple[int, Fraction, Fraction, Fraction]]:
        """(rows, weight, Σ confidence, Σ outcome) of the bins that were asked for."""
        fine = self.state.arrays["reliability"]
        return [self.bin_sums(part) for part in np.split(fine, self.state.options.bins)]

    def bin_sums(self, records: Array) -> tuple[int, Fraction, Fraction, Fraction]:
        """The same of some fine bins."""
        total = records.sum(axis=0)
        at = (RELIABILITY_WEIGHT, RELIABILITY_SCORE, RELIABILITY_OUTCOME)
        w, score, outcome = (fixed_value(total[i : i + FIXED_DIGITS]) for i in at)
        return int(total[0]), (w if self.task.weighted else Fraction(int(total[0]))), score, outcome

    def calibration(self, fold: Callable[[list[tuple[float, float]]], float]) -> dict[str, Any]:
        """`fold` over the (share of weight, |confidence − accuracy|) of every bin with rows."""
        total = sum((w for _, w, _, _ in self.bins), Fraction(0))
        gaps = [(ratio(w / total), ratio(abs(score - outcome) / w)) for rows, w, score, outcome in self.bins if rows]
        return {"mean": fold(gaps)}

    def adaptive_ece(self) -> dict[str, Any]:
        """Σ share·gap over bins of equal weight, cut along the fine confidence bins."""
        fine = self.state.arrays["reliability"]
        fine, groups = fine[fine[:, 0] > 0], self.state.options.bins
        weights = fixed_units(fine[:, RELIABILITY_WEIGHT:RELIABILITY_SCORE]) if self.task.weighted else fine[:, 0].tolist()
        sums = list(accumulate(weights))
        cuts = {len(fine)}
        for i in range(1, groups):
            edge = sums[-1] * i  # in units of 1/groups
            after = bisect_left(sums, edge, key=lambda s: s * groups)
            # the edge moves to the nearer end of the fine bin that it falls into
            nearer = after > 0 and edge - sums[after - 1] * groups < sums[after] * groups - edge
            cuts.add(after if nearer else after + 1)
        starts = sorted({0, *cuts} - {len(fine)})
        error = Fraction(0)
        for part in np.split(fine, starts[1:]):
            _, _, score, outcome = self.bin_sums(part)
            error += abs(score - outcome)
        return {"mean": ratio(error / self.total)}

    def reliability(self) -> list[dict[str, Any]]:
        if not self.plan.reliability or self.beyond:
            return []
        bins = self.state.options.bins
        return [
            {
                "low": i / bins,
                "high": (i + 1) / bins,
                "rows": rows,
                "confidence": ratio(score / w) if w else None,
                "accuracy": ratio(outcome / w) if w else None,
            }
            for i, (rows, w, score, outcome) in enumerate(self.bins)
        ]

    def per_class(self) -> list[dict[str, Any]]:
        """Rows and means of every class, JSON's own values."""
        found: list[dict[str, Any]] = []
        if not self.plan.per_class or self.beyond:
            return found
        records = self.state.arrays["classes"]
        rows, infinite = records[:, 0].tolist(), records[:, CLASS_INFINITE].tolist()
        weights = fixed_units(records[:, CLASS_WEIGHT:CLASS_SUMS]) if self.task.weighted else [n << FIXED_UNIT for n in rows]
        for k, n in enumerate(rows):
            found.append({"class": self.class_name(k), "rows": n})
        for i, key in enumerate(self.plan.per_class):
            at = CLASS_SUMS + FIXED_DIGITS * i
            scale = self.scale if self.plan.moments[self.plan.index(key)].unit == "nat" else 1.0
            sums = fixed_units(records[:, at : at + FIXED_DIGITS])
            for line, total, weight, lost in zip(found, sums, weights, infinite, strict=True):
                value = total / weight * scale if weight else None  # of whole numbers, rounded once
                line[key] = "inf" if lost and key == "cross_entropy" else value
        return found

    def class_name(self, k: int) -> str | int:
        return self.state.options.classes[k] if self.state.options.classes else k


_DERIVED: dict[str, Callable[[_Summary], dict[str, Any]]] = {
    "perplexity": _Summary.perplexity,
    "bits_per_byte": _Summary.bits_per_byte,
    "label_entropy": _Summary.label_entropy,
    "normalized_cross_entropy": _Summary.normalized,
    "d2": lambda s: s.normalized(sign=-1.0, offset=1.0),
    "mutual_information": _Summary.mutual_information,
    "ece": lambda s: s.calibration(lambda gaps: math.fsum(share * gap for share, gap in gaps)),
    "mce": lambda s: s.calibration(lambda gaps: max(gap for _, gap in gaps)),
    "rmsce": lambda s: s.calibration(lambda gaps: math.sqrt(math.fsum(share * gap * gap for share, gap in gaps))),
    "adaptive_ece": _Summary.adaptive_ece,
}


def _exp(x: float) -> float:
    """e^x, saturating to inf."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _name(q: float) -> str:
    return f"{q:g}"


def _from_key(key: int) -> float:
    """The float64 whose order-preserving integer is `key` (see `kernels.moments.value_range`)."""
    bits = key if key >= 0 else key ^ 0x7FFFFFFFFFFFFFFF
    return float(np.int64(bits).view(np.float64))


def label_weights(state: State) -> dict[int, int]:
    """The weight of every class that occurs among the labels, in one unit."""
    records = state.arrays["classes"]
    if state.task.weighted or state.task.label == "soft":
        digits = records[:, CLASS_WEIGHT:CLASS_SUMS]
        present = np.flatnonzero(digits.any(axis=1))
        return dict(zip(present.tolist(), fixed_units(digits[present]), strict=True))
    present = np.flatnonzero(records[:, 0])
    return dict(zip(present.tolist(), records[present, 0].tolist(), strict=True))


def information(part: int, whole: int) -> float:
    """ln(whole/part) in nats, accurate also where they are nearly the same."""
    return -math.log(part / whole) if 2 * part < whole else -math.log1p(-((whole - part) / whole))


def entropy_of(parts: list[int]) -> float:
    """Σ p ln(1/p) of the shares that the parts have in their sum, in nats."""
    whole = sum(parts)
    return math.fsum(part / whole * information(part, whole) for part in parts if part > 0)


def summarize(state: State, options: Options | None = None, command: str = "evaluate", **run: Any) -> Report:
    """The report of a state; `options` may differ from the state's in how it is shown (unit, quantiles, confidence)."""
    shown = options or state.options
    summary = _Summary(state, shown)
    metrics = {key: summary.metric(quantity) for key, quantity in summary.plan.table.items()}
    counts = [int(c) for c in state.arrays["ledger"]]
    invalid = sum(counts[code] for code in RULES)
    rows = {
        "read": counts[USED] + counts[IGNORED] + invalid,
        "used": counts[USED],
        "ignored": counts[IGNORED],
        "invalid": invalid,
    }
    if rows["used"] == 0:
        reason = _why_none(rows)
        metrics = {key: replace(metric, reason=reason) for key, metric in metrics.items()}
    ledger = {key: counts[code] for code, (key, _) in RULES.items()}
    ledger |= {"normalized": counts[LEDGER_NORMALIZED], "clipped": counts[LEDGER_CLIPPED]}
    body = {
        "unit": shown.unit,
        "classes": state.task.classes or None,
        "weight": plain(ratio(summary.total)),
        "ledger": ledger,
        "reliability": plain(summary.reliability()),
        "per_class": summary.per_class(),
        "histograms": histograms(state, summary.scale),
        "inputs": [{name: entry.get(name) for name in ("path", "bytes", "rows")} for entry in state.inputs],
        "options": {**shown.to_dict(), **state.columns},
    }
    return Report(metrics, state.digest, rows, state, command, dict(run), body)


def _why_none(rows: dict[str, int]) -> str:
    if rows["read"] == 0:
        return "there were no rows"
    if rows["invalid"] == rows["read"]:
        return "every row was invalid"
    if rows["ignored"] == rows["read"]:
        return "the total weight is 0: every row was ignored (mask, ignore index or weight 0)"
    return "every row was ignored or invalid"
