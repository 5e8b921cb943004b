"""The temperature curve: what the loss and the calibration error would be, were every logit divided by T.

With p = softmax(z/T), or sigmoid(z/T), the mean cross-entropy is convex in 1/T, and where it is least the mean cross-entropy
equals the mean entropy of the predictions: d CE / d ln(1/T) = CE − H(p). That difference, the row quantity `entropy_gap`, is
what tells on which side of the best T a temperature is (Guo et al. 2017, On Calibration of Modern Neural Networks).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from streamloss.errors import UsageError
from streamloss.options import Options, Task
from streamloss.quantities import Plan, plan

BEST, GAIN = "best_temperature", "temperature_gain"  # what a report has of it among its metrics
POINT = ("cross_entropy", "entropy_gap", "ece")  # what is known of each temperature


def at(options: Options, t: float) -> Options:
    """The options of one point of the curve: those of the report, with another temperature and nothing beside the loss."""
    return replace(
        options, temperature=t, temperature_sweep=False, temperatures=(), metrics=POINT, convention=(), cluster=None,
        focal_gamma=None, focal_alpha=None,
    )  # fmt: skip


def point(task: Task, options: Options) -> Plan:
    """What is added up at one temperature: no histograms, and calibration by the report's own bins."""
    known = tuple(key for key in POINT if key != "ece" or task.label != "none")
    return replace(plan(task, replace(options, metrics=known)), spread=(), coarse=True)


def check(task: Task, options: Options) -> None:
    """Raises `UsageError` where a temperature has nothing to divide, or where the loss is not one that it is fitted by."""
    if task.form != "logits":
        raise UsageError(
            "a temperature divides logits; log-probabilities may be passed as --logits, for their softmax gives the "
            "probabilities back"
        )
    if "truth" not in task.facts(options):
        raise UsageError("a temperature is judged by the loss: give a label or a target")
    if options.zero:
        raise UsageError("--zero clips the loss, which is least at the best temperature only when it is exact")
    if options.pos_weight != 1:
        raise UsageError("--pos-weight makes a loss that no temperature of a probability is fitted by")


class Search:
    """Where the loss is least, from what is known of it at some temperatures.

    The gap times T falls as T grows, whatever the rows are, for the loss is convex in 1/T: two temperatures whose gaps have
    either sign have the best one between them. There it is read off the cubic in ln T through the two and their neighbours.
    """

    def __init__(self) -> None:
        self.points: dict[float, tuple[float, float]] = {}  # temperature: mean loss and mean gap, in nats
        self._best: float | None = None

    def add(self, t: float, loss: float, gap: float) -> None:
        """Makes known what the rows are at a temperature."""
        self.points[t] = loss, gap
        self._best = None

    def _bracket(self) -> tuple[float, float]:
        """The nearest temperatures below and above the best one, which it may be; 0 and inf where there are none.

        A loss of 0 is one that has fallen below the least float64 on its way to T = 0.
        """
        low = max((t for t, (loss, gap) in self.points.items() if gap >= 0 and loss > 0), default=0.0)
        high = min((t for t, (loss, gap) in self.points.items() if gap <= 0 or loss == 0), default=math.inf)
        return low, high

    @property
    def open(self) -> bool:
        """Whether the best temperature is not between those that are known."""
        low, high = self._bracket()
        return low == 0 or high == math.inf

    def best(self) -> float:
        """The best temperature as far as is known; where it is beyond those that are known, one to look at next."""
        if self._best is None:
            self._best = self._sought()
        return self._best

    def _sought(self) -> float:
        low, high = self._bracket()
        if low == 0:
            return min(self.points) / 4
        if high == math.inf:
            return max(self.points) * 4
        if low >= high:  # of logits that are all alike, every temperature is the best
            return min(max(1.0, high), low)
        cubic = self._cubic(low, high)
        a, b = math.log(low), math.log(high)
        for _ in range(60):
            middle = 0.5 * (a + b)
            a, b = (middle, b) if cubic(middle)[0] > 0 else (a, middle)
        return min(max(math.exp(0.5 * (a + b)), low), high)

    def loss(self, t: float) -> float:
        """The mean loss at a temperature between those that are known, by the cubic with the right slopes at either side."""
        low, high = max(each for each in self.points if each <= t), min(each for each in self.points if each >= t)
        if low == high:
            return self.points[t][0]
        width = math.log(high / low)
        x = math.log(t / low) / width
        (one, gap), (two, other) = self.points[low], self.points[high]
        begin, end = -gap * width, -other * width  # d loss / d ln T = −gap
        bent = (1 - x) * x * ((1 - x) * (begin - (two - one)) - x * (end - (two - one)))
        return one + x * (two - one) + bent

    def steepness(self) -> float:
        """How fast the gap falls with ln T at the best temperature: the mean variance of ln p under the predictions there."""
        t = self.best()
        return -self._cubic(t / 1.001, t * 1.001)(math.log(t))[1]

    def _cubic(self, low: float, high: float) -> Callable[[float], tuple[float, float]]:
        """Gap and slope at ln T, by the polynomial through up to two temperatures on either side, the nearest to it."""
        below, above = sorted(t for t in self.points if t <= low), sorted(t for t in self.points if t >= high)
        chosen = below[-2:] + above[:2]
        at_t, differences = [math.log(t) for t in chosen], [self.points[t][1] for t in chosen]
        for order in range(1, len(chosen)):  # Newton's divided differences
            for i in range(len(chosen) - 1, order - 1, -1):
                differences[i] = (differences[i] - differences[i - 1]) / (at_t[i] - at_t[i - order])

        def cubic(u: float) -> tuple[float, float]:
            value, slope = 0.0, 0.0
            for difference, node in zip(reversed(differences), reversed(at_t), strict=True):
                value, slope = difference + (u - node) * value, value + (u - node) * slope
            return value, slope

        return cubic
