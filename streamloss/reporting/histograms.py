"""Where the rows lie: coarse views of the state's log-histograms, for the figures of a report.

A histogram is `{"edges": […], "shares": […], "below": s}` in the report's unit: `shares[i]` of the weight has its value from
`edges[i]` to `edges[i + 1]`, and `below` of it lies under the first edge, with the values of exactly 0. Every bin spans about
the same factor (edges are those of buckets), for losses spread over decades. What is infinite, or
beyond 2^127.9, is in no bin.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import cache
from itertools import accumulate
from typing import Any

from streamloss.digits import LEDGER_BEYOND, LOWEST_EXPONENT, MIDDLE, OCTAVE
from streamloss.errors import USED
from streamloss.reporting.figures import Figures

SHOWN = ("cross_entropy", "kl_divergence", "entropy", "target_entropy")
_BINS, _FEWEST = 60, 12  # 60 from 900 rows on, of fewer rows 2√n
_BINS_AN_OCTAVE = 12  # more, and moving an edge to that of a bucket would make neighbours of unlike width
_LAST = 2 * MIDDLE - 1  # the last bucket with an upper edge
_UNDER = 0.005  # this share of the weight may lie under the first edge, or a single tiny value would stretch the picture


@cache
def bucket_value(bucket: int, part: float = 0.5) -> float:
    """The middle of a histogram bucket, or the value at another part of it; 0 for the middle bucket, ±inf for the outermost."""
    size = abs(bucket - MIDDLE)
    if size == 0:
        return 0.0
    octave, step = divmod(size - 1, OCTAVE)
    value = math.inf if size == MIDDLE else math.ldexp(1 + (step + part) / OCTAVE, LOWEST_EXPONENT + octave)
    return math.copysign(value, bucket - MIDDLE)


def histograms(figures: Figures, scale: float) -> dict[str, Any]:
    """The histograms of the losses and entropies that are kept, by key; values are nats times `scale`."""
    found: dict[str, Any] = {}
    ledger = figures.ledger
    if ledger[LEDGER_BEYOND]:
        return found
    bins = max(_FEWEST, min(_BINS, round(2 * math.sqrt(ledger[USED]))))
    for key in figures.plan.spread:
        if key in SHOWN:
            filled, counts = figures.histogram(key)
            if histogram := _binned(filled.tolist(), counts, bins, scale):
                found[key] = histogram
    return found


def _binned(filled: list[int], counts: list[int], bins: int, scale: float) -> dict[str, Any] | None:
    """The histogram of buckets and what they hold; None where no value is positive and finite."""
    finite = [(bucket, count) for bucket, count in zip(filled, counts, strict=True) if MIDDLE < bucket < _LAST]
    if not finite:
        return None
    total = sum(counts)
    below = list(accumulate(counts))
    first = max(filled[bisect_left(below, total * _UNDER)], finite[0][0])
    cuts = _cuts(first, finite[-1][0] + 1, bins)
    shares = [0] * (len(cuts) - 1)
    at = 0
    for bucket, count in finite:
        while bucket >= cuts[at + 1]:
            at += 1
        shares[at] += count if bucket >= first else 0
    return {
        "edges": [bucket_value(cut, 0.0) * scale for cut in cuts],
        "shares": [share / total for share in shares],
        "below": sum(count for bucket, count in zip(filled, counts, strict=True) if bucket < first) / total,
    }


def _cuts(first: int, last: int, bins: int) -> list[int]:
    """Buckets at which bins begin, about the same factor apart, from `first` up to `last`, which is the last edge."""
    low, high = (math.log2(bucket_value(bucket, 0.0)) for bucket in (first, last))
    bins = max(1, min(bins, round((high - low) * _BINS_AN_OCTAVE)))
    inner = (low + (high - low) * i / bins for i in range(1, bins))
    return sorted({first, last, *map(_bucket_at, inner)})


def _bucket_at(exponent: float) -> int:
    """The bucket whose lower edge is nearest to 2^exponent."""
    octave = math.floor(exponent)
    return MIDDLE + 1 + (octave - LOWEST_EXPONENT) * OCTAVE + round((math.exp2(exponent - octave) - 1) * OCTAVE)
