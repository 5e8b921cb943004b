"""From exact sums to means, errors and intervals: the only place where integers become numbers of a report.

Means are exact ratios rounded once. With x̄ = Σwx / Σw over the n finite rows, the standard error is
√(n/(n−1) · Σw²(x − x̄)²) / Σw (for equal weights s/√n; Cochran, Sampling Techniques, §6), its sums exact. Perplexity and
ratios take theirs by the delta method. Intervals are normal, of shares of rows Wilson's. A row of infinite loss makes the mean
infinite; the mean and error of the finite rows stand beside it. Quantiles come from the log-histogram: the smallest value with
at least that share of the weight at or below it, to 0.4 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from statistics import NormalDist
from typing import Any, NamedTuple

from streamloss.digits import (
    BIAS,
    FIXED_UNIT,
    LEDGER_BEYOND,
)
from streamloss.errors import USED
from streamloss.options import Options
from streamloss.quantities import SOURCES, Quantity, constant_key
from streamloss.reporting.clusters import Clusters, jackknife
from streamloss.reporting.figures import Figures, Shares
from streamloss.reporting.histograms import bucket_value
from streamloss.reporting.report import Metric

LN2 = math.log(2)
UNITS = {"nat": 1.0, "bit": 1 / math.log(2), "ban": 1 / math.log(10)}
NO_ROWS = "no rows were used"
BEYOND = "a weight beyond 2^-60 … 2^53 is summed exactly but not kept by bin or class: scale the weights"


class Sums(NamedTuple):
    """The exact sums of one row quantity over its n finite rows: Σw, Σw², Σwx, Σw²x, Σw²x², whole numbers of 2^-unit."""

    n: int
    infinite: int
    unit: int
    w: int
    ww: int
    x: int
    wx: int
    xx: int

    @classmethod
    def of(cls, n: int, infinite: int, unit: int, w: int, ww: int, x: int, wx: int, xx: int) -> Sums:
        """The same in the largest unit that they are whole numbers of, for short ones are quick to calculate with."""
        every = w | ww | x | wx | xx
        spare = min((every & -every).bit_length() - 1, unit) if every else unit
        return cls(n, infinite, unit - spare, w >> spare, ww >> spare, x >> spare, wx >> spare, xx >> spare)

    @property
    def mean(self) -> float:
        """Σwx / Σw, rounded once."""
        return ratio(self.x, self.w)

    def deviations(self) -> tuple[int, int]:
        """Σw²(x − x̄)² as a fraction."""
        w, x = self.w, self.x
        return self.xx * w * w - 2 * x * w * self.wx + x * x * self.ww, w * w << self.unit

    def stderr(self) -> float | None:
        """Standard error of the mean; None for a single row."""
        if self.n < 2:
            return None
        above, below = self.deviations()
        return root((above * self.n) << 2 * self.unit, below * self.w * self.w * (self.n - 1))

    def effective(self) -> float:
        """The rows that as many of equal weight would stand for, (Σw)² / Σw² (Kish, Survey Sampling, §11.7)."""
        return ratio(self.w * self.w, self.ww << self.unit)


def ratio(above: int, below: int) -> float:
    """A quotient as float64, rounded once; infinite where it is too large."""
    try:
        return above / below
    except OverflowError:
        return math.inf if above > 0 else -math.inf


def root(above: int, below: int) -> float:
    """The square root of a quotient ≥ 0, scaled so that neither side under- or overflows."""
    if above <= 0:
        return 0.0
    shift = (above.bit_length() - below.bit_length()) // 2
    if shift > 0:
        below <<= 2 * shift
    else:
        above <<= -2 * shift
    try:
        return math.ldexp(math.sqrt(above / below), shift)
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class _Line:
    """How a quantity of the table is read: in which unit, off which row quantity's sums ('' for one that is always 0)."""

    unit: str
    scale: float
    source: str
    binned: bool  # rests on sums by bin or by class


@dataclass(frozen=True)
class _Sheet:
    """What the measures of all groups of rows of a state have in common, worked out once."""

    z: float
    scale: float
    levels: tuple[tuple[str, float], ...]  # of the quantiles: name and level
    level_shares: Shares  # the levels as ratios
    places: dict[str, int]  # of the row quantities in `Plan.moments`
    shares: frozenset[str]  # those that are 0 or 1
    lines: dict[str, _Line]
    zeros: dict[str, Any]


def _sheet(figures: Figures, shown: Options) -> _Sheet:
    p, scale = figures.plan, UNITS[shown.unit]
    lines = {}
    for key, quantity in p.table.items():
        unit, stand_in = (shown.unit if quantity.unit == "nat" else ""), constant_key(key, figures.task, figures.options)
        binned = not {"reliability", "labels", "mean_probabilities"}.isdisjoint(SOURCES.get(key, ()))
        lines[key] = _Line(unit, scale if unit else 1.0, key if stand_in is None else stand_in, binned)
    return _Sheet(
        z=NormalDist().inv_cdf(0.5 + shown.confidence / 2),
        scale=scale,
        levels=tuple((f"{q:g}", q) for q in shown.quantiles),
        level_shares=tuple(Fraction(repr(q)).as_integer_ratio() for q in shown.quantiles),
        places={q.key: i for i, q in enumerate(p.moments)},
        shares=frozenset(q.key for q in p.moments if q.indicator),
        lines=lines,
        zeros=dict.fromkeys(("mean", "stderr", "low", "high", "min", "max", "finite_mean"), 0.0) | {"infinite": 0},
    )


class Measures:
    """Everything that is read off the figures of some rows; `like` are measures of other rows of the same state, if any."""

    def __init__(
        self, figures: Figures, options: Options, like: Measures | None = None, clusters: Clusters | None = None
    ) -> None:
        self.figures, self.options, self.clusters = figures, options, clusters
        self.task, self.plan = figures.task, figures.plan
        self.ledger = figures.ledger
        self.used = self.ledger[USED]
        self._sheet: _Sheet = _sheet(figures, options) if like is None else like._sheet
        self.scale, self.z = self._sheet.scale, self._sheet.z
        self.total = figures.weights[0] if self.task.weighted else self.used << figures.unit
        self.beyond = bool(self.ledger[LEDGER_BEYOND])
        self._sums: dict[str, Sums] = {}
        self._errors: dict[str, float | None] = {}

    @property
    def weight(self) -> float:
        """The sum of the weights of the used rows."""
        return ratio(self.total, 1 << self.figures.unit)

    def sums(self, key: str) -> Sums:
        """The sums of a row quantity."""
        if key not in self._sums:
            at = self._sheet.places[key]
            moments, infinite, unit = self.figures.moments(at), self.figures.infinite(at), self.figures.unit
            n = self.used - infinite
            if self.task.weighted:
                w, ww = (whole - lost for whole, lost in zip(self.figures.weights, self.figures.lost(at), strict=True))
                self._sums[key] = Sums.of(n, infinite, unit, w, ww, *moments)
            else:
                x, xx = moments
                self._sums[key] = Sums.of(n, infinite, unit, n << unit, n << unit, x, x, xx)
        return self._sums[key]

    def error(self, key: str) -> float | None:
        """The standard error of the mean over the finite rows, in nats: from clusters where there are any, else from rows."""
        if key not in self._errors:
            self._errors[key] = self.sums(key).stderr() if self.clusters is None else jackknife(self.clusters.parts(key))
        return self._errors[key]

    def interval(self, mean: float, stderr: float | None) -> dict[str, Any]:
        """The normal confidence interval, where there is an error."""
        if stderr is None or not math.isfinite(mean) or not math.isfinite(stderr):
            return {}
        return {"low": mean - self.z * stderr, "high": mean + self.z * stderr}

    def metric(self, quantity: Quantity) -> Metric:
        """Any quantity of the table."""
        line = self._sheet.lines[quantity.key]
        found: dict[str, Any]
        if self.used == 0 or self.total == 0:
            found = {"reason": NO_ROWS}
        elif self.beyond and line.binned:
            found = {"reason": BEYOND}
        elif quantity.slot is None:
            found = _DERIVED[quantity.key](self)
        elif line.source:
            found = self.row_metric(line.source, line.scale)
        else:
            found = self._sheet.zeros | {"quantiles": {name: 0.0 for name, _ in self._sheet.levels}}
        found.setdefault("mean", None)
        return Metric(quantity.key, quantity.title, line.unit, **found)

    def row_metric(self, key: str, scale: float) -> dict[str, Any]:
        """A quantity with sums of its own."""
        sums = self.sums(key)
        least, greatest = self.figures.extremes(self._sheet.places[key])
        low, high = least * scale, greatest * scale
        kept = key in self.plan.spread and not self.beyond
        quantiles = self.quantiles(key, low, high, scale) if kept else None
        shape: dict[str, Any] = {"min": low, "max": high, "infinite": sums.infinite, "quantiles": quantiles}
        if sums.n == 0:
            return {"mean": math.inf, **shape}
        finite = sums.mean * scale
        error = self.error(key)
        stderr = None if error is None else error * scale
        if sums.infinite:
            return {"mean": math.inf, "finite_mean": finite, "finite_stderr": stderr, **shape}
        shares = key in self._sheet.shares
        ends = self.share_interval(key) if shares else self.interval(finite, stderr)
        return {"mean": finite, "stderr": stderr, "finite_mean": finite, **ends, **shape}

    def share_interval(self, key: str) -> dict[str, float]:
        """Wilson's interval of a share; of clusters, with as many rows as would give their error."""
        sums, rows = self.sums(key), self.sums(key).effective()
        error = None if self.clusters is None else self.error(key)
        if error:
            rows = sums.mean * (1 - sums.mean) / error / error  # whose square may be 0
        return wilson(sums.mean, rows, self.z)

    def quantiles(self, key: str, low: float, high: float, scale: float) -> dict[str, float]:
        """The quantiles of a row quantity, within its exact extremes."""
        sheet, found = self._sheet, {}
        for (name, q), bucket in zip(sheet.levels, self.figures.quantile_buckets(key, sheet.level_shares), strict=True):
            value = bucket_value(bucket) * scale
            if q in (0, 1):
                value = high if q else low
            found[name] = low if value < low else high if value > high else value
        return found

    def row_mean(self, key: str) -> float:
        """The mean of a row quantity in nats, infinite where a row is."""
        sums = self.sums(key)
        return math.inf if sums.infinite or sums.n == 0 else sums.mean

    def perplexity(self) -> dict[str, Any]:
        sums = self.sums("cross_entropy")
        if sums.n == 0:
            return {"mean": math.inf, "infinite": sums.infinite}
        log, error = sums.mean, self.error("cross_entropy")
        finite = saturating_exp(log)
        stderr = None if error is None or not math.isfinite(finite) else finite * error
        if sums.infinite:
            return {"mean": math.inf, "infinite": sums.infinite, "finite_mean": finite, "finite_stderr": stderr}
        ends = (
            {} if error is None else {"low": saturating_exp(log - self.z * error), "high": saturating_exp(log + self.z * error)}
        )
        return {"mean": finite, "stderr": stderr, "infinite": 0, "finite_mean": finite, **ends}

    def bits_per_byte(self) -> dict[str, Any]:
        ce, size = self.sums("cross_entropy"), self.sums("bytes")
        if size.x == 0:
            return {"reason": "the byte counts sum to 0"}
        if ce.infinite or ce.n == 0:
            return {"mean": math.inf, "infinite": ce.infinite}
        r = Fraction(ce.x << size.unit, size.x << ce.unit)
        mean = ratio(r.numerator, r.denominator) / LN2
        stderr = None
        if self.clusters is not None:
            error = jackknife(self.clusters.parts("cross_entropy", "bytes"))
            stderr = None if error is None else error / LN2
        elif ce.n > 1:
            both = Fraction(self.figures.cross, 1 << BIAS)
            squares = Fraction(ce.xx, 1 << ce.unit) - 2 * r * both + r * r * Fraction(size.xx, 1 << size.unit)
            squares = squares * ce.n / (ce.n - 1) / Fraction(size.x, 1 << size.unit) ** 2
            stderr = root(squares.numerator, squares.denominator) / LN2
        return {"mean": mean, "stderr": stderr, **self.interval(mean, stderr)}

    @cached_property
    def label_weights(self) -> dict[int, int]:
        """The weight of every label that occurs, in one unit."""
        return self.figures.labels

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
        mean = self.row_mean("cross_entropy")
        if not math.isfinite(mean):
            return {"mean": offset + sign * mean}
        value, stderr = mean / base, self.normalized_error
        centre = offset + sign * value
        return {"mean": centre, "stderr": stderr, **self.interval(centre, stderr)}

    @cached_property
    def normalized_error(self) -> float | None:
        """Delta method for mean CE / H(labels): row i contributes CE_i − x̄ − r·(−ln f_y − H), with r the ratio."""
        if self.clusters is not None:
            error = self.error("cross_entropy")
            return None if error is None else error / self.base_entropy
        costs = self.figures.costs
        if self.task.weighted or costs is None or self.used < 2:
            return None
        base = self.base_entropy
        mean = self.row_mean("cross_entropy")
        r = mean / base
        squares = ratio(*self.sums("cross_entropy").deviations())
        total = sum(self.label_weights.values())
        for label, weight in self.label_weights.items():
            rows, cost = costs[label]
            surprise, deviation = information(weight, total) - base, cost / (1 << FIXED_UNIT) - rows * mean
            squares += r * r * rows * surprise * surprise - 2 * r * surprise * deviation
        if not math.isfinite(squares):  # of losses whose squares are beyond float64
            return None
        return math.sqrt(max(squares, 0.0) / (self.used - 1) / self.used) / base

    def mutual_information(self) -> dict[str, Any]:
        if (shares := self.figures.mean_probabilities) is None:
            return {"reason": "the mean prediction is kept for all rows together, not by slice"}
        mean = self.row_mean("entropy")
        value = max(entropy_of(shares) - mean, 0.0)
        return {"mean": value * self.scale}

    @cached_property
    def bins(self) -> list[tuple[int, int, int, int]]:
        """(rows, weight, Σ confidence, Σ outcome) of the bins that were asked for, in Fixed units."""
        return self.figures.bins

    @cached_property
    def gaps(self) -> list[tuple[float, float]]:
        """(share of weight, |confidence − accuracy|) of every bin with rows."""
        total = sum(w for _, w, _, _ in self.bins)
        return [(w / total, abs(score - outcome) / w) for rows, w, score, outcome in self.bins if rows]

    def adaptive_ece(self) -> dict[str, Any]:
        """Σ share·gap over bins of equal weight, cut along the fine confidence bins."""
        return {"mean": ratio(self.figures.adaptive_error << self.figures.unit - FIXED_UNIT, self.total)}

    def reliability(self) -> list[dict[str, Any]]:
        if not self.plan.reliability or self.beyond:
            return []
        bins = self.figures.options.bins
        return [
            {
                "low": i / bins,
                "high": (i + 1) / bins,
                "rows": rows,
                "confidence": score / w if w else None,
                "accuracy": outcome / w if w else None,
            }
            for i, (rows, w, score, outcome) in enumerate(self.bins)
        ]


_DERIVED: dict[str, Callable[[Measures], dict[str, Any]]] = {
    "perplexity": Measures.perplexity,
    "bits_per_byte": Measures.bits_per_byte,
    "label_entropy": Measures.label_entropy,
    "normalized_cross_entropy": Measures.normalized,
    "d2": lambda s: s.normalized(sign=-1.0, offset=1.0),
    "mutual_information": Measures.mutual_information,
    "ece": lambda s: {"mean": math.fsum(share * gap for share, gap in s.gaps)},
    "mce": lambda s: {"mean": max(gap for _, gap in s.gaps)},
    "rmsce": lambda s: {"mean": math.sqrt(math.fsum(share * gap * gap for share, gap in s.gaps))},
    "adaptive_ece": Measures.adaptive_ece,
}


def wilson(share: float, rows: float, z: float) -> dict[str, float]:
    """The confidence interval of a share among so many rows, z standard errors wide (Wilson 1927)."""
    if not rows > 0:
        return {}
    rows = max(rows, 1e-100)  # so few tell nothing, and the square of fewer is 0
    spread = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    centre, scale = share + z * z / (2 * rows), 1 + z * z / rows
    return {"low": max((centre - spread) / scale, 0.0), "high": min((centre + spread) / scale, 1.0)}


def saturating_exp(x: float) -> float:
    """e^x, saturating to inf."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def information(part: int, whole: int) -> float:
    """ln(whole/part) in nats, accurate also where they are nearly the same."""
    return -math.log(part / whole) if 2 * part < whole else -math.log1p(-((whole - part) / whole))


def entropy_of(parts: list[int]) -> float:
    """Σ p ln(1/p) of the shares that the parts have in their sum, in nats."""
    whole = sum(parts)
    terms = {part: part / whole * information(part, whole) for part in set(parts) if part > 0}  # of few rows, many are alike
    return math.fsum(terms[part] for part in parts if part > 0)
