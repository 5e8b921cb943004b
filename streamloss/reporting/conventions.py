"""What other tools would print beside the exact mean, and what rows of infinite loss would cost under somebody's eps.

A tool's number is Σ factor·cost / divisor, exact and rounded once, as the report's own; the tool itself rounds as it goes, in
float32 mostly, so its last digits may differ. `cause` says what makes the difference: what was clipped, what is divided by.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from streamloss.conventions import CUT_BY, Convention, find
from streamloss.digits import BIAS, CUT, IDLE, INDEXED, INFINITE, LEDGER_CLIPPED, UNDEFINED, limbs_int
from streamloss.reporting import units
from streamloss.reporting.metrics import Measures, ratio, saturating_exp
from streamloss.reporting.report import Metric, plain
from streamloss.state import State

Entry = dict[str, Any]

# The probabilities that others put in the place of 0.
EDGES: dict[str, float] = {
    "1e-07": 1e-7,
    "1e-15": 1e-15,
    "eps (float32)": 2.0**-23,
    "eps (float64)": 2.0**-52,
}


def conventions(state: State, measures: Measures, metrics: dict[str, Metric]) -> dict[str, dict[str, Entry]]:
    """The tools that were asked for, with their numbers by key, JSON's own values."""
    found: dict[str, dict[str, Entry]] = {}
    at = 0
    for tool in measures.options.convention:
        convention = find(tool, state.task, state.options)
        if isinstance(convention, str):
            found[tool] = {"cross_entropy": {"value": None, "reason": convention}}
            continue
        line = _Line(convention, state, at, measures)
        at += 1
        found[tool] = {key: line.entry(key, metrics["cross_entropy"]) for key in convention.divisors}
        if "perplexity" in metrics and state.task.family != "binary":
            found[tool]["perplexity"] = _perplexity(line, metrics["perplexity"])
    return found


class _Line:
    """The sums of one convention."""

    def __init__(self, convention: Convention, state: State, at: int, measures: Measures) -> None:
        self.convention, self.options, self.measures = convention, state.options, measures
        self.task = state.task
        self.total, self.factors = (limbs_int(limbs) for limbs in state.arrays["conventions"][at])
        self.counts = state.arrays["convention_rows"][at].tolist()

    def divisor(self, key: str) -> int:
        """What the tool divides by, in units of 2^-BIAS."""
        kind = self.convention.divisors[key]
        if kind == "factors":
            return self.factors
        if kind == "all":
            return self.factors if self.task.weighted else self.factors + (self.counts[INDEXED] << BIAS)
        return self.measures.used + (self.counts[IDLE] if kind == "kept" else 0) << BIAS

    def value(self, key: str) -> Fraction | float | str:
        """The tool's number, in nats; infinity as a float; or why there is none."""
        divisor = self.divisor(key)
        if self.counts[UNDEFINED]:
            rows = units.counted(self.counts[UNDEFINED], "row")
            return f"{self.convention.loss} gives NaN: the probabilities of {rows} sum to 0"
        if divisor == 0:
            return self.convention.empty or Fraction(0)
        return math.inf if self.counts[INFINITE] else Fraction(self.total, divisor)

    def entry(self, key: str, metric: Metric) -> Entry:
        """The number beside the exact one."""
        about = {"loss": self.convention.loss, "title": metric.title, "unit": metric.unit}
        if key != metric.key:
            about["title"] += f" ({key.removeprefix(metric.key + '_')})"
        value = self.value(key)
        if isinstance(value, str):
            return {"value": None, "reason": value, **about}
        scale = self.measures.scale
        shown = value if isinstance(value, float) else ratio(value.numerator, value.denominator) * scale
        found: Entry = {"value": plain(shown)}
        if (difference := self._difference(value)) is not None:
            found["difference"] = plain(difference * scale)
        return found | {"cause": self.cause(key), **about}

    def _difference(self, value: Fraction | float) -> float | None:
        """The number minus the exact mean, which is rounded only then; None where either says nothing about the other."""
        if self.measures.used == 0:
            return None
        sums = self.measures.sums("cross_entropy")
        if sums.infinite:
            return None if value == math.inf else -math.inf
        gap = value - Fraction(sums.x, sums.w)
        return gap if isinstance(gap, float) else ratio(gap.numerator, gap.denominator)

    def cause(self, key: str) -> str:
        """What the tool does otherwise."""
        found = [text for text in (self._normalized(), *self._clipped(), self._divided(key)) if text]
        return "; ".join(found) or "computed alike"

    def _normalized(self) -> str:
        if self.task.form == "logits" or self.task.family in ("binary", "score"):
            return ""
        if self.convention.normalize == self.options.normalize:
            return ""
        return "rows divided by their sums" if self.convention.normalize else "rows not divided by their sums"

    def _clipped(self) -> list[str]:
        found = []
        for dtype, rows in zip(CUT_BY, self.counts[CUT:], strict=True):
            clip = self.convention.clip(dtype)
            if clip is not None and rows:
                found.append(f"{units.counted(rows, 'row')} clipped at {clip.words}")
        if not found and self.convention.clips and self.options.label_smoothing > 0:
            found.append("classes clipped")
        if self.measures.ledger[LEDGER_CLIPPED]:
            found.append("not clipped by --zero")
        return found

    def _divided(self, key: str) -> str:
        """The divisor, where it is another one than that of the mean."""
        kind = self.convention.divisors[key]
        rows = units.count(self.divisor(key) >> BIAS)
        if kind == "all" and not self.task.weighted and self.counts[INDEXED]:
            return f"divided by all {rows} rows, the ignored ones too"
        if not self.task.weighted:
            return ""
        if self.convention.factor == "none":
            return f"mean over {rows} rows, the weights are not used"
        if kind in ("rows", "kept"):
            return f"divided by {rows} rows, not by the weight"
        if self.convention.factor == "class" and self._weighted_rows():
            return "the weights of rows are not used"
        return ""

    def _weighted_rows(self) -> bool:
        """Whether rows have other weights than those of their classes."""
        return self.options.class_weights is None or self.factors != self.measures.total


def _perplexity(line: _Line, metric: Metric) -> Entry:
    """exp of the tool's cross-entropy."""
    about = {"loss": line.convention.loss, "title": metric.title, "unit": metric.unit}
    value = line.value("cross_entropy")
    if isinstance(value, str):
        return {"value": None, "reason": value, **about}
    shown = saturating_exp(ratio(*value.as_integer_ratio()) if isinstance(value, Fraction) else value)
    found: Entry = {"value": plain(shown)}
    if metric.mean is not None and not (math.isinf(metric.mean) and math.isinf(shown)):
        found["difference"] = plain(shown - metric.mean)
    return found | {"cause": line.cause("cross_entropy"), **about}


def edge(measures: Measures) -> Entry | None:
    """The rows whose true class has probability 0: how many, their share of the weight, the mean of the others, and the mean
    if that probability had been EPS instead. None where there are none.

    For a hard label the last is (Σ finite + weight·ln(1/EPS)) / Σ weight. With a soft one it depends on how much of the
    target falls on such classes, which is not kept.
    """
    if measures.used == 0 or measures.total == 0:
        return None
    sums = measures.sums("cross_entropy")
    if not sums.infinite:
        return None
    whole = Fraction(measures.total, 1 << measures.figures.unit)
    weight, cost = Fraction(sums.w, 1 << sums.unit), Fraction(sums.x, 1 << sums.unit)
    found: Entry = {
        "rows": sums.infinite,
        "weight_share": float((whole - weight) / whole),
        "finite_mean": sums.mean * measures.scale if sums.n else None,
    }
    if "soft" in measures.task.facts(measures.figures.options):
        return found | {"at": None, "reason": "with a soft target it depends on how much of it stands on such classes"}
    costs = {name: (cost + (whole - weight) * Fraction(-math.log(eps))) / whole for name, eps in EDGES.items()}
    return found | {"at": {name: float(value) * measures.scale for name, value in costs.items()}}
