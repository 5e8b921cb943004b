"""The temperature curve of a report: loss and calibration error by T, the best T with its error, and what it would save.

From the sweep alone the best T is read off the curve, to about 1e-4 of itself; looks at the rows at chosen temperatures make it
exact (see `temperature.Search`). Its error is that of the mean gap divided by how steeply the gap falls with ln T there, the
delta method for the root of a mean. T is positive, so its interval is normal in ln T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from streamloss.options import Options
from streamloss.reporting.clusters import Clusters, clusters_of, no_clusters
from streamloss.reporting.figures import Slice
from streamloss.reporting.metrics import Measures
from streamloss.reporting.report import Metric, plain
from streamloss.slices import CLUSTER, Key, Settled
from streamloss.state import State
from streamloss.temperature import BEST, GAIN, Search

By = tuple[str, ...]
_TITLES = {BEST: "best temperature T", GAIN: "loss that T removes"}
_CLOSE = 1e-9  # of ln T: what is left of the loss to gain is below the last digit of a float64
_LEAST, _MOST = 2.0**-10, 2.0**10  # between which a best temperature is looked for
_LOOKS = 30  # passes at most


@dataclass
class _Rows:
    """Some rows: their search, the curve, and the measures at the temperature that was looked at last."""

    search: Search = field(default_factory=Search)
    curve: dict[float, Measures] = field(default_factory=dict)
    last: tuple[float, Measures] | None = None

    def learn(self, t: float, measures: Measures) -> None:
        """Makes known what the rows are at a temperature."""
        loss, gap = (measures.sums(key) for key in ("cross_entropy", "entropy_gap"))
        if loss.n:
            self.search.add(t, loss.mean, gap.mean)

    @property
    def wanted(self) -> float | None:
        """The temperature to look at next; None where the best one has been looked at, or there is none."""
        if not self.search.points or not _LEAST <= (best := self.search.best()) <= _MOST:
            return None
        if self.last is not None and abs(math.log(best / self.last[0])) <= _CLOSE:
            return None
        return best


class Temperatures:
    """What is known of a state's rows, and of every slice, at the temperatures of its sweep and of the looks at them since."""

    def __init__(self, state: State, shown: Options) -> None:
        self.state, self.shown, self.looks = state, shown, 0
        self._rows: dict[tuple[By, Key], _Rows] = {}
        self._like: dict[By, Measures] = {}
        for t, point in zip(state.options.sweep, state.curve, strict=True):
            for by, settled in point.items():
                for group, key in enumerate(settled.keys):
                    measures = self._measures(by, settled, group, None)
                    rows = self._rows.setdefault((by, key), _Rows())
                    rows.curve[t] = measures
                    rows.learn(t, measures)

    def _measures(self, by: By, settled: Settled, group: int, clusters: Clusters | None) -> Measures:
        found = Measures(Slice(settled, group), self.shown, self._like.get(by), clusters)
        self._like.setdefault(by, found)
        return found

    def wanted(self) -> dict[By, dict[Key, float]] | None:
        """The temperatures at which to look at the rows next, by columns and key; None when there is no more to find out."""
        wanted = {place: rows.wanted for place, rows in self._rows.items()}
        if self.looks == _LOOKS or not any(wanted.values()):
            return None
        found: dict[By, dict[Key, float]] = {by: {} for by in ((), *self.state.options.groupings)}
        for (by, key), t in wanted.items():
            last = self._rows[by, key].last
            found[by][key] = t or (last[0] if last else self.state.options.temperature)
        found[()].setdefault((), self.state.options.temperature)
        return found

    def learn(self, temperatures: Mapping[By, Mapping[Key, float]], found: Mapping[By, Settled]) -> None:
        """Takes in a look at the rows at these temperatures."""
        self.looks += 1
        for by, each in temperatures.items():
            clustered = found.get((*by, CLUSTER))
            clusters = clusters_of(clustered)
            for group, key in enumerate(found[by].keys):
                own = None if clustered is None else clusters.get(key) or no_clusters(clustered)
                measures, rows = self._measures(by, found[by], group, own), self._rows[by, key]
                rows.last = each[key], measures
                rows.learn(each[key], measures)

    def found(self, by: By, key: Key) -> tuple[dict[str, Metric], dict[str, Any]]:
        """Of some rows the best temperature and the loss that it would remove, as quantities among the others; and these with
        the curve, JSON's own values.
        """
        rows = self._rows.get((by, key), _Rows())
        best, curve = self._best(rows), [self._point(t, measures) for t, measures in rows.curve.items()]
        return self._metrics(best), plain({"best": best, "curve": curve})

    def _metrics(self, found: dict[str, Any]) -> dict[str, Metric]:
        unit, reason = self.shown.unit, found.get("reason")
        if reason is not None:
            units = {BEST: "", GAIN: unit}
            return {name: Metric(name, title, units[name], None, reason=reason) for name, title in _TITLES.items()}
        ends = {name: found[name] for name in ("stderr", "low", "high")}
        return {
            BEST: Metric(BEST, _TITLES[BEST], "", found["temperature"], **ends),
            GAIN: Metric(GAIN, _TITLES[GAIN], unit, found["removed"]),
        }

    def _point(self, t: float, measures: Measures) -> dict[str, Any]:
        """Loss, gap and calibration error at a temperature of the sweep, which has no clusters."""
        point: dict[str, Any] = {"temperature": t}
        if measures.used == 0 or measures.total == 0:
            return point | dict.fromkeys(measures.plan.table)
        for key in ("cross_entropy", "entropy_gap"):
            point[key] = measures.row_mean(key) * measures.scale
        loss = measures.sums("cross_entropy")
        if loss.infinite:
            point["finite_mean"] = loss.mean * measures.scale if loss.n else None
        error = None if loss.infinite or self.state.options.cluster else measures.error("cross_entropy")
        point["stderr"] = None if error is None else error * measures.scale
        if (quantity := measures.plan.table.get("ece")) is not None:
            point["ece"] = measures.metric(quantity).mean
        return point

    def _best(self, rows: _Rows) -> dict[str, Any]:
        """The best temperature of some rows with its error, the loss there, and the loss that it removes."""
        if not rows.search.points:
            return {"temperature": None, "reason": "there are no rows with a finite loss"}
        search = rows.search
        if search.open:
            return {"temperature": None, "reason": _beyond(search, looked=rows.last is not None)}
        scale, t = rows.curve[self.state.options.temperature].scale, search.best()
        exact = rows.last is not None and rows.wanted is None
        error: float | None = None
        if rows.last is not None and exact:
            t, measures = rows.last
            loss, error = measures.sums("cross_entropy").mean, measures.error("entropy_gap")
        else:
            measures = rows.curve[min(rows.curve, key=lambda each: abs(math.log(each / t)))]
            loss = search.loss(t)
            error = None if self.state.options.cluster else measures.error("entropy_gap")
        before = search.points[self.state.options.temperature][0]
        found: dict[str, Any] = {"temperature": t} | self._ends(t, error, search.steepness())
        found |= {"cross_entropy": loss * scale, "removed": max(before - loss, 0.0) * scale}
        found["share"] = max(before - loss, 0.0) / before if before > 0 else 0.0
        if exact and (quantity := measures.plan.table.get("ece")) is not None:
            found["ece"] = measures.metric(quantity).mean
        return found | {"exact": exact}

    def _ends(self, t: float, error: float | None, steepness: float) -> dict[str, float | None]:
        """Standard error and interval of the best temperature."""
        if error is None or not steepness > 0:
            return dict.fromkeys(("stderr", "low", "high"))
        of_log = error / steepness
        spread = math.exp(min(NormalDist().inv_cdf(0.5 + self.shown.confidence / 2) * of_log, 700.0))
        return {"stderr": t * of_log, "low": t / spread, "high": t * spread}


def _beyond(search: Search, looked: bool) -> str:
    """Why there is no best temperature among those that are known."""
    falls = search.best() < min(search.points)
    if not looked:
        end = min(search.points) if falls else max(search.points)
        return f"the loss still falls at T = {end:g}, where the sweep ends"
    if falls:
        return "the loss falls on as T goes to 0: the likeliest class is always right"
    return "the loss falls on as T grows: the logits are no better than none"
