"""The arithmetic of `streamloss calc`: one small distribution, its sum shown term by term.

Plain Python floats, `math` and `fsum`; `q` target, `p` prediction, `z` logits. Natural logarithms, divided by ln 2 or
ln 10 for bits and bans. 0·ln 0 = 0: a class that never happens costs nothing; one that happens although p = 0 costs
infinity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from streamloss.errors import UsageError

LN_UNIT = {"nat": 1.0, "bit": math.log(2), "ban": math.log(10)}
LOG_NAME = {"nat": "ln", "bit": "log2", "ban": "log10"}
SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Working:
    """A value and how it came about.

    `columns` heads each key of the terms as people read it; `total` names the column whose sum is the value (None for
    softmax, whose value is a list); `parts` are other quantities that the value is the sum of.
    """

    title: str
    formula: str
    value: float | list[float]
    unit: str
    columns: dict[str, str]
    terms: list[dict[str, float]]
    total: str | None
    remark: str = ""
    parts: tuple[tuple[str, float], ...] = ()


def numbers(text: str, name: str) -> list[float]:
    """Numbers from text: commas or spaces between them, decimals, fractions such as 1/3, inf and -inf."""
    values = []
    for word in text.replace(",", " ").split():
        try:
            values.append(float(Fraction(word)) if "/" in word else float(word))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise UsageError(f"{name}: {word!r} is not a number") from None
        if math.isnan(values[-1]):
            raise UsageError(f"{name}: {word!r} is not a number to calculate with")
    if not values:
        raise UsageError(f"{name}: no numbers given")
    return values


def number(text: str, name: str) -> float:
    """One number from text, written as for `numbers`."""
    values = numbers(text, name)
    if len(values) != 1:
        raise UsageError(f"{name}: one number is expected, not {len(values)}")
    return values[0]


def distribution(values: Sequence[float], name: str, *, normalize: bool = False) -> list[float]:
    """The values as probabilities; with `normalize`, counts are divided by their sum.

    Raises `UsageError` for a value below 0 and for a sum that misses 1 by more than 1e-6.
    """
    for v in values:
        if not 0 <= v < math.inf:
            raise UsageError(f"{name}: {v:g} is not a {'count' if normalize else 'probability'}")
    try:
        total = math.fsum(values)
    except OverflowError:
        raise UsageError(f"{name}: the sum is beyond the largest float64") from None
    if normalize:
        if not total > 0:
            raise UsageError(f"{name}: counts that sum to {total:g} have no shares")
        return [v / total for v in values]
    if abs(total - 1) > SUM_TOLERANCE:
        raise UsageError(f"{name}: the values sum to {total:.9g}, not to 1; --normalize turns counts into shares")
    return list(values)


def entropy(p: Sequence[float], unit: str = "nat") -> Working:
    """H(p) = Σ p ln(1/p)."""
    terms = [{"p": v, "information": _information(v, unit), "product": _product(v, _information(v, unit))} for v in p]
    log = LOG_NAME[unit]
    return Working(
        title="entropy",
        formula=f"H(p) = Σ p {log}(1/p)",
        value=_sum(terms, "product"),
        unit=unit,
        columns={"p": "p", "information": f"{log}(1/p)", "product": f"p {log}(1/p)"},
        terms=terms,
        total="product",
        remark=f"the expectation of the information {log}(1/p)",
    )


def cross_entropy(q: Sequence[float], p: Sequence[float], unit: str = "nat") -> Working:
    """H(q, p) = Σ q ln(1/p) = H(q) + KL(q‖p)."""
    _same_length(q, p)
    terms = [
        {"q": a, "p": b, "information": _information(b, unit), "product": _product(a, _information(b, unit))}
        for a, b in zip(q, p, strict=True)
    ]
    log = LOG_NAME[unit]
    return Working(
        title="cross-entropy",
        formula=f"H(q, p) = Σ q {log}(1/p)",
        value=_sum(terms, "product"),
        unit=unit,
        columns={"q": "q", "p": "p", "information": f"{log}(1/p)", "product": f"q {log}(1/p)"},
        terms=terms,
        total="product",
        remark=f"the expectation, under q, of the information {log}(1/p)",
        parts=(("H(q)", _value(entropy(q, unit))), ("KL(q‖p)", _value(kl_divergence(q, p, unit)))),
    )


def kl_divergence(q: Sequence[float], p: Sequence[float], unit: str = "nat") -> Working:
    """KL(q‖p) = Σ q ln(q/p): what believing p costs beyond the entropy of q."""
    _same_length(q, p)
    terms = [
        {"q": a, "p": b, "log_ratio": _log_ratio(a, b, unit), "product": _product(a, _log_ratio(a, b, unit))}
        for a, b in zip(q, p, strict=True)
    ]
    log = LOG_NAME[unit]
    return Working(
        title="KL divergence",
        formula=f"KL(q‖p) = Σ q {log}(q/p)",
        value=_sum(terms, "product"),
        unit=unit,
        columns={"q": "q", "p": "p", "log_ratio": f"{log}(q/p)", "product": f"q {log}(q/p)"},
        terms=terms,
        total="product",
        remark="what believing p costs beyond the entropy of q",
    )


def js_divergence(q: Sequence[float], p: Sequence[float], unit: str = "nat") -> Working:
    """JS(q, p) = ½ KL(q‖m) + ½ KL(p‖m) with m = (p + q)/2; at most ln 2."""
    _same_length(q, p)
    terms = []
    for a, b in zip(q, p, strict=True):
        m = (a + b) / 2
        terms.append(
            {
                "q": a,
                "p": b,
                "m": m,
                "target_part": _product(a / 2, _log_ratio(a, m, unit)),
                "prediction_part": _product(b / 2, _log_ratio(b, m, unit)),
            }
        )
        terms[-1]["product"] = terms[-1]["target_part"] + terms[-1]["prediction_part"]
    log = LOG_NAME[unit]
    return Working(
        title="JS divergence",
        formula="JS(q, p) = ½ KL(q‖m) + ½ KL(p‖m),  m = (p + q)/2",
        value=_sum(terms, "product"),
        unit=unit,
        columns={
            "q": "q",
            "p": "p",
            "m": "m",
            "target_part": f"½ q {log}(q/m)",
            "prediction_part": f"½ p {log}(p/m)",
            "product": "sum",
        },
        terms=terms,
        total="product",
        remark=f"0 when they are equal, at most {log} 2 when they have nothing in common",
    )


def softmax(z: Sequence[float]) -> Working:
    """softmax(z)ᵢ = exp(zᵢ) / Σ exp(z); −inf is a probability of exactly 0."""
    top = max(z)
    if math.isinf(top):
        raise UsageError(f"the largest logit is {top:g}: it must be finite")
    exponentials = [math.exp(v - top) for v in z]
    total = math.fsum(exponentials)
    shares = [e / total for e in exponentials]
    return Working(
        title="softmax",
        formula="softmax(z) = exp(z) / Σ exp(z)",
        value=shares,
        unit="",
        columns={"z": "z", "exponential": "exp(z - max z)", "softmax": "softmax"},
        terms=[{"z": v, "exponential": e, "softmax": s} for v, e, s in zip(z, exponentials, shares, strict=True)],
        total=None,
        remark="the largest z is taken off first, which changes no share and keeps exp in range",
    )


def binary_cross_entropy(y: float, *, prob: float | None = None, logit: float | None = None, unit: str = "nat") -> Working:
    """−y ln p − (1 − y) ln(1 − p), from the probability or the logit of the positive class; y may be soft."""
    if not 0 <= y <= 1:
        raise UsageError(f"--label is {y:g}: it must be between 0 and 1")
    if (prob is None) == (logit is None):
        raise UsageError("give one of --prob and --logit")
    if prob is not None:
        if not 0 <= prob <= 1:
            raise UsageError(f"--prob is {prob:g}: it must be between 0 and 1; a logit goes in --logit")
        p, rest = prob, 1 - prob
        information = (_information(prob, "nat"), -math.log1p(-prob) if prob < 1 else math.inf)
    else:
        assert logit is not None
        # ln(1/p) = ln(1 + exp(-z)): from the logit both sides keep their digits however sure the prediction is.
        information = (_softplus(-logit), _softplus(logit))
        p, rest = math.exp(-information[0]), math.exp(-information[1])
    log = LOG_NAME[unit]
    terms = [
        {"q": q, "p": share, "information": (info + 0.0) / LN_UNIT[unit], "product": _product(q, info / LN_UNIT[unit])}
        for q, share, info in ((y, p, information[0]), (1 - y, rest, information[1]))
    ]
    return Working(
        title="binary cross-entropy",
        formula=f"-y {log} p - (1 - y) {log}(1 - p)",
        value=_sum(terms, "product"),
        unit=unit,
        columns={"q": "y, 1 - y", "p": "p, 1 - p", "information": f"{log}(1/p)", "product": "product"},
        terms=terms,
        total="product",
        remark="the first line is the positive class, the second the negative one",
    )


def _information(p: float, unit: str) -> float:
    """ln(1/p), ∞ at 0; adding 0.0 turns the −0.0 of −ln 1 into 0."""
    return -math.log(p) / LN_UNIT[unit] + 0.0 if p > 0 else math.inf


def _log_ratio(q: float, p: float, unit: str) -> float:
    """ln(q/p); of nearly equal numbers by log1p of their difference, which keeps the digits of a small KL."""
    if q == 0:
        return -math.inf if p > 0 else 0.0
    if p == 0:
        return math.inf
    ratio = math.log1p((q - p) / p) if abs(q - p) < p / 2 else math.log(q) - math.log(p)
    return ratio / LN_UNIT[unit]


def _softplus(z: float) -> float:
    return z + math.log1p(math.exp(-z)) if z > 0 else math.log1p(math.exp(z))


def _product(weight: float, value: float) -> float:
    return weight * value if weight else 0.0


def _sum(terms: Sequence[dict[str, float]], column: str) -> float:
    return math.fsum(term[column] for term in terms)


def _value(working: Working) -> float:
    assert isinstance(working.value, float)
    return working.value


def _same_length(q: Sequence[float], p: Sequence[float]) -> None:
    if len(q) != len(p):
        raise UsageError(f"the target has {len(q)} classes and the prediction {len(p)}: they must be the same")


# What takes a target and a prediction, by the command's name.
PAIRS: dict[str, Callable[[Sequence[float], Sequence[float], str], Working]] = {
    "cross-entropy": cross_entropy,
    "kl": kl_divergence,
    "js": js_divergence,
}
