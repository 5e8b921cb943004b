"""Measure the largest error of our exp, log and their kin over their whole ranges, in units in the last place.

    python scripts/measure_ulp.py [--points 2000000] [--seed 1]

Prints the README's table. Every point is compared with 80-bit arithmetic where the machine has it, and the worst 2,000 of
each function with mpmath at 50 digits; where it has not, every point goes through mpmath (minutes instead of seconds).
An ulp is the distance of neighbouring float64s at the true value; 2^-1074 in the subnormal range.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numba
import numpy as np

from streamloss.ieee import elementary

mp = mpmath.mp.clone()
mp.dps = 50
WIDE = np.finfo(np.longdouble).nmant >= 63
WORST = 2000


@dataclass(frozen=True)
class Function:
    """What is measured: ours, the truth twice (longdouble arrays, mpmath numbers), the range, and points that matter."""

    ours: Callable[[Any], Any]
    wide: Callable[[Any], Any]
    true: Callable[[Any], Any]
    low: float
    high: float
    near: tuple[float, ...] = ()


def wide_tail(r: Any) -> Any:
    """e^r − 1 − r by its Taylor series."""
    total = np.zeros_like(r)
    for n in range(26, 2, -1):
        total = (total + 1) * r / n
    return (total + 1) * r * r / 2


def wide_sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def true_sigmoid(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def wide_softplus(x: Any) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))


def true_softplus(x: Any) -> Any:
    return max(x, mp.zero) + mp.log1p(mp.exp(-abs(x)))


def true_tail(r: Any) -> Any:
    if abs(r) < 1e-5:  # the next term is under 1e-40 of the first
        return mp.fsum(r**n / mp.factorial(n) for n in range(2, 10))
    return mp.expm1(r) - r


def part(i: int) -> Callable[[Any], Any]:
    """One of the four that `logistic` returns."""
    logistic = elementary.logistic

    @numba.njit(error_model="numpy")
    def chosen(x: float) -> Any:
        return logistic(x)[i]

    return chosen


def ratio_to_one() -> Callable[[Any], Any]:
    """`log1p_ratio` as a function of one number."""
    log1p_ratio = elementary.log1p_ratio

    @numba.njit(error_model="numpy")
    def chosen(low: float) -> Any:
        return log1p_ratio(low, 1.0)

    return chosen


HUGE = 1.7976931348623157e308
FUNCTIONS: dict[str, Function] = {
    "exp": Function(elementary.exp, np.exp, mp.exp, -745.14, 709.79, (0.0, -708.4, -745.0, 709.7)),
    "exp_nonpositive": Function(elementary.exp_nonpositive, np.exp, mp.exp, -708.0, 709.0, (0.0,)),
    "exp_inner": Function(elementary.exp_inner, np.exp, mp.exp, -708.0, 709.0, (0.0,)),
    "expm1_tail": Function(elementary.expm1_tail, wide_tail, true_tail, -0.3465735902799726, 0.3465735902799726, (0.0,)),
    "log": Function(elementary.log, np.log, mp.log, 5e-324, HUGE, (1.0, 0.7071, 1.4142, 2.2250738585072014e-308)),
    "log1p": Function(elementary.log1p, np.log1p, mp.log1p, -0.9999999999999999, HUGE, (0.0, -0.2929, 0.4142, 1.0, -1.0)),
    "log1p_ratio": Function(ratio_to_one(), np.log1p, mp.log1p, 0.0, 1.0, (0.0, 0.4142)),
    "sigmoid": Function(elementary.sigmoid, wide_sigmoid, true_sigmoid, -745.1, 800.0, (0.0,)),
    "softplus": Function(elementary.softplus, wide_softplus, true_softplus, -745.1, 800.0, (0.0, 37.0)),
    "logistic[0]": Function(part(0), wide_sigmoid, true_sigmoid, -745.1, 800.0, (0.0,)),
    "logistic[1]": Function(part(1), lambda x: wide_sigmoid(-x), lambda x: true_sigmoid(-x), -800.0, 745.1, (0.0,)),
    "logistic[2]": Function(part(2), lambda x: wide_softplus(-x), lambda x: true_softplus(-x), -800.0, 745.1, (0.0, -37.0)),
    "logistic[3]": Function(part(3), wide_softplus, true_softplus, -745.1, 800.0, (0.0, 37.0)),
}


def points(function: Function, count: int, rng: np.random.Generator) -> Any:
    """Float64s of the range: evenly by value, evenly by bit pattern, and close to the points that matter."""
    low, high, near = function.low, function.high, function.near
    even = low / 2 + rng.random(count // 3) * (high / 2 - low / 2)
    by_bits = rng.integers(0, 0x7FF0000000000000, count, dtype=np.int64).view(np.float64)
    by_bits = np.where(rng.random(count) < 0.5, by_bits, -by_bits)
    close = rng.choice(near or (0.0,), count) + rng.choice([-1, 1], count) * 10.0 ** rng.uniform(-17, 0.5, count)
    drawn = [2 * even]
    for lot in (by_bits, close):
        drawn.append(lot[(lot >= low) & (lot <= high)][: count // 3])
    x = np.concatenate([*drawn, [v for v in (low, high, *near) if low <= v <= high]])
    return x[np.isfinite(x)]


def values(function: Callable[[Any], Any], x: Any) -> Any:
    """Ours at every point."""

    @numba.njit(error_model="numpy")
    def loop(x: Any, y: Any) -> None:
        for i in range(x.size):
            y[i] = function(x[i])

    y = np.empty_like(x)
    with np.errstate(all="ignore"):  # of plain Python, when Numba is switched off
        loop(x, y)
    return y


def ulp(value: float) -> float:
    """The distance of neighbouring float64s at a value; of the largest ones beyond them."""
    return float(np.spacing(min(abs(value), HUGE)))


def ulps(y: float, truth: Any) -> float:
    """How far y is from the truth. A truth that rounds to infinity is met by infinity alone."""
    rounded = float(truth)
    if np.isinf(y) or np.isinf(rounded):
        return 0.0 if y == rounded else float("inf")
    return float(abs(mp.mpf(y) - truth) / ulp(rounded))


def worst(function: Function, x: Any) -> tuple[float, float]:
    """(error in ulps, where) of the worst of the points."""
    y = values(function.ours, x)
    if WIDE:
        with np.errstate(all="ignore"):
            truth = function.wide(x.astype(np.longdouble))
            unit = np.spacing(np.minimum(abs(truth), HUGE).astype(np.float64))
            error = abs(y - truth) / unit
        error[np.isinf(y) | np.isnan(error)] = np.inf  # for mpmath to judge
        suspects = np.argsort(error)[-WORST:]
    else:
        suspects = np.arange(x.size)
    return max((ulps(y[i], function.true(mp.mpf(float(x[i])))), float(x[i])) for i in suspects)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=2_000_000, help="points a function (default 2000000)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started = time.perf_counter()
    print("| function | range | largest error (ulp) | at |\n|---|---|---:|---:|")
    for name, function in FUNCTIONS.items():
        x = points(function, arguments.points, np.random.default_rng(arguments.seed))
        error, at = worst(function, x)
        print(f"| {name} | {function.low:.6g} … {function.high:.6g} | {error:.3f} | {at!r} |", flush=True)
    print(f"\n{arguments.points:,} points each, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
