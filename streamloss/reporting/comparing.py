"""From Comparison to Report: both models' means, their differences and ratios with errors, and what there is between them.

The difference d = x_new − x_old of every row has sums of its own, so its mean, error, interval and quantiles are those of any
row quantity. With D = Σw²(x − x̄)², the covariance of the two models is ½(D_new + D_old − D_d), exact as these sums are; from it
follow the correlation and, by the delta method, the errors of ratios and of perplexities: for r = x̄_new / x̄_old the variance is
(D_new + r² D_old − 2 r C) · n/(n − 1) / (W x̄_old)². Perplexities are compared by the logarithm: their ratio is e^d̄ with the
error of d̄ times itself. Source: the estimates that llama.cpp's `--kl-divergence` prints; Cochran, Sampling Techniques, §6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from streamloss.comparison import Comparison, Sides
from streamloss.options import Options
from streamloss.quantities import Quantity
from streamloss.reporting.clusters import Clusters, clusters_of, jackknife, no_clusters, shifted, spread
from streamloss.reporting.figures import Slice
from streamloss.reporting.metrics import Measures, ratio, root, saturating_exp
from streamloss.reporting.names import OTHER
from streamloss.reporting.report import Metric, Report, SliceReport, plain
from streamloss.reporting.summary import ledger_of, metrics_of, rows_of, slicing_of
from streamloss.slices import CLUSTER, Key

# What a comparison says of the models to one another, not of either to the truth.
OF_THE_TRUTH = ("target_entropy", "kl_divergence", "reverse_kl_divergence", "js_divergence", "same_top")


class Two:
    """The measures of two models, and those between them, over the same rows."""

    def __init__(self, sides: Sides, group: int, shown: Options, clusters: Sequence[Clusters | None]) -> None:
        new, old, between = (
            Measures(Slice(settled, group), shown, clusters=each) for settled, each in zip(sides.all(), clusters, strict=True)
        )
        self.new, self.old, self.between, self.shown = new, old, between, shown

    def metrics(self) -> dict[str, Metric]:
        """The new model's, and what there is between the models."""
        return _of_a_model(self.new) | self.of_both()

    def baseline(self) -> dict[str, Metric]:
        """The old model's."""
        return _of_a_model(self.old)

    def of_both(self) -> dict[str, Metric]:
        """The divergences, the agreement on the top class, and what the label's probability gains."""
        found: dict[str, Metric] = {}
        for key in ("kl_divergence", "reverse_kl_divergence", "js_divergence", "same_top", "delta_p"):
            if (quantity := self.between.plan.table.get(key)) is not None:
                found[key] = self._between(quantity)
        if (quantity := self.between.plan.table.get("delta_p_squared")) is not None:
            found["delta_p_rms"] = _root_mean_square(self._between(quantity))
        return found

    def _between(self, quantity: Quantity) -> Metric:
        if self.between.used == 0 or self.between.total == 0:
            return self.between.metric(quantity)
        unit = self.shown.unit if quantity.unit == "nat" else ""
        found = self.between.row_metric(quantity.key, self.between.scale if unit else 1.0)
        return Metric(quantity.key, quantity.title, unit, **found)

    def comparison(self) -> dict[str, Any]:
        """Every quantity that both models have, new beside old, JSON's own values."""
        mine, theirs = self.metrics(), self.baseline()
        found: dict[str, Any] = {}
        for key, old in theirs.items():
            new = mine[key]
            entry: dict[str, Any] = {"title": new.title, "unit": new.unit, "new": new.mean, "old": old.mean}
            if new.mean is not None and old.mean is not None:
                entry |= self._compared(key, new.mean, old.mean)
            found[key] = plain(entry)
        return found

    def _compared(self, key: str, new: float, old: float) -> dict[str, Any]:
        """Difference and ratio, with errors where the rows give them."""
        if math.isinf(new) and math.isinf(old):
            return {"difference": None, "reason": "both are infinite"}
        found: dict[str, Any] = {"difference": new - old, "ratio": new / old if old and math.isfinite(old) else None}
        if key == "perplexity":
            return found | self._perplexities(new, old)
        if key in self.between.plan.table:
            return found | self._rows(key, old)
        return found

    def _rows(self, key: str, old: float) -> dict[str, Any]:
        """Difference, ratio and correlation of a row quantity."""
        quantity = self.between.plan.table[key]
        if self.new.sums(key).infinite or self.old.sums(key).infinite:
            return {}
        metric = self._between(quantity)
        found: dict[str, Any] = {"difference": metric.mean, "stderr": metric.stderr, "low": metric.low, "high": metric.high}
        found |= {"min": metric.min, "max": metric.max, "quantiles": metric.quantiles}
        a, b, c = self._deviations(key)
        found |= _correlation(a, b, c)
        sums = self.old.sums(key)
        if sums.n > 1 and sums.x:
            r = Fraction(self.new.sums(key).x << sums.unit, sums.x << self.new.sums(key).unit)
            squares = (a + r * r * b - 2 * r * c) * sums.n / (sums.n - 1) / Fraction(sums.x, 1 << sums.unit) ** 2
            error: float | None = root(squares.numerator, squares.denominator)
            if self.new.clusters is not None and self.old.clusters is not None:
                parts = zip(self.new.clusters.parts(key), self.old.clusters.parts(key), strict=True)
                error = jackknife([(x, y) for (x, _), (y, _) in parts])
            if error is not None:
                found |= _ratio(ratio(r.numerator, r.denominator), error, self.new.z)
        return found

    def _deviations(self, key: str) -> tuple[Fraction, Fraction, Fraction]:
        """D of the new, of the old model, and their product's."""
        a, b, d = (Fraction(*measures.sums(key).deviations()) for measures in (self.new, self.old, self.between))
        return a, b, (a + b - d) / 2

    def _perplexities(self, new: float, old: float) -> dict[str, Any]:
        """Of e^a and e^b: the ratio is e^(a − b)."""
        key = "cross_entropy"
        difference, error = self.between.sums(key), self.between.error(key)
        if error is None or not math.isfinite(new) or not math.isfinite(old):
            return {}
        a, b, c = self._deviations(key)
        mean, z = difference.mean, self.new.z
        n, w = difference.n, Fraction(difference.w, 1 << difference.unit)
        variances = (float(value * n / (n - 1) / (w * w)) for value in (a, b, c))
        va, vb, vc = variances
        larger = max(new, old)
        u, v = new / larger, old / larger  # the square of a perplexity may be too large
        stderr = larger * math.sqrt(max(u * u * va + v * v * vb - 2 * u * v * vc, 0.0))
        if self.new.clusters is not None and self.old.clusters is not None:
            moves = [shifted(each.clusters.parts(key)) or [] for each in (self.new, self.old) if each.clusters is not None]
            stderr = spread(
                [new * saturating_exp(one) - old * saturating_exp(other) for one, other in zip(*moves, strict=True)]
            )
        found = {"stderr": stderr} | self.new.interval(new - old, stderr) | _correlation(a, b, c)
        ends = {"ratio_low": saturating_exp(mean - z * error), "ratio_high": saturating_exp(mean + z * error)}
        return found | {"ratio": saturating_exp(mean), "ratio_stderr": saturating_exp(mean) * error} | ends


def _clusters(sides: Sides | None) -> Callable[[Key], list[Clusters | None]]:
    """The clusters of the three sides by the key of a slice, looked up once for all slices."""
    if sides is None:
        return lambda key: [None, None, None]
    found = [(clusters_of(settled), no_clusters(settled)) for settled in sides.all()]
    return lambda key: [known.get(key, none) for known, none in found]


def _correlation(a: Fraction, b: Fraction, c: Fraction) -> dict[str, float]:
    """c / √(a b), where neither model's rows are all alike."""
    if not (a > 0 and b > 0):
        return {}
    above = c.numerator**2 * a.denominator * b.denominator
    size = min(root(above, c.denominator**2 * a.numerator * b.numerator), 1.0)
    return {"correlation": -size if c < 0 else size}


def _ratio(value: float, error: float, z: float) -> dict[str, float]:
    """A ratio with its error, and its interval where both are finite."""
    found = {"ratio": value, "ratio_stderr": error}
    if not (math.isfinite(value) and math.isfinite(error)):
        return found
    return found | {"ratio_low": value - z * error, "ratio_high": value + z * error}


def _root_mean_square(square: Metric) -> Metric:
    """√ of a mean, its error by the delta method."""
    if square.mean is None:
        return Metric("delta_p_rms", "RMS Δp of the label", "", None, reason=square.reason)
    mean = math.sqrt(square.mean)
    error = None if square.stderr is None or not mean else square.stderr / (2 * mean)
    low, high = (None if end is None else math.sqrt(max(end, 0.0)) for end in (square.low, square.high))
    return Metric("delta_p_rms", "RMS Δp of the label", "", mean, stderr=error, low=low, high=high)


def _of_a_model(measures: Measures) -> dict[str, Metric]:
    return {key: metric for key, metric in metrics_of(measures).items() if key not in OF_THE_TRUTH}


def summarize_comparison(found: Comparison, shown: Options, **run: Any) -> Report:
    """The report of a comparison; `shown` may differ from its options in unit, quantiles, confidence, min_slice_rows."""
    by_columns = {sides.new.by: sides for sides in found.groupings[1:]}
    whole = Two(found.whole, 0, shown, _clusters(by_columns.get((CLUSTER,)))(()))
    sliced = [by_columns[by] for by in found.options.groupings]
    slices = [_slices(sides, shown, by_columns.get((*sides.new.by, CLUSTER))) for sides in sliced]
    new = whole.new
    body = {
        "unit": shown.unit,
        "classes": found.task.classes or None,
        "weight": plain(new.weight),
        "ledger": ledger_of(new.ledger),
        "conventions": {},
        "reliability": plain(new.reliability()),
        "per_class": [],
        "histograms": {},
        "baseline": {"metrics": {key: metric.to_dict() for key, metric in whole.baseline().items()}},
        "comparison": whole.comparison(),
        "slicing": [slicing_of(sides.new, each, shown) for sides, each in zip(sliced, slices, strict=True)],
        "inputs": [{name: entry.get(name) for name in ("path", "bytes", "rows")} for entry in found.inputs],
        "options": {**shown.to_dict(), **found.columns},
    }
    listed = [each for group in slices for each in group if each.rows["used"] >= shown.min_slice_rows]
    return Report(whole.metrics(), found.digest, rows_of(new.ledger), found, "compare", dict(run), body, listed)


def _slices(sides: Sides, shown: Options, clusters: Sides | None) -> list[SliceReport]:
    found, of_key = [], _clusters(clusters)
    for number, key in enumerate(sides.new.keys):
        two = Two(sides, number, shown, of_key(key))
        other = sides.new.has_other and number == 0
        values: Mapping[str, Any] = dict(zip(sides.new.by, (OTHER,) * len(sides.new.by) if other else key, strict=True))
        more = {
            "baseline": {"metrics": {name: metric.to_dict() for name, metric in two.baseline().items()}},
            "comparison": two.comparison(),
        }
        found.append(SliceReport(dict(values), rows_of(two.new.ledger), two.new.weight, two.metrics(), other, more))
    return found
