"""How other tools compute cross-entropy, as data: what they clip, what they weigh rows by, what they divide by.

A convention is one loss of one tool, for the predictions it takes. It is read in two steps. A *view* says how rows are looked
at: as they are or divided by their sums, and between which costs −ln p may lie (`Clip`). The *line* is Σ factor·cost over the
rows that are used, and Σ factor; `divisors` says what is divided by, for every key that the tool has a number for. Costs are
in nats. What cannot be said for some columns is a reason, never an error.

Sources: the tools' own code, run or read: PyTorch 2.13 (`nn.CrossEntropyLoss`, `nn.NLLLoss`, `nn.BCELoss`,
`nn.BCEWithLogitsLoss`), Keras 3.15 (`backend/*/nn.py`, `losses/loss.py`; its backend of TensorFlow clips sparse labels before
it renormalises and is not followed), TensorFlow (`tf.compat.v1.losses`, SUM_BY_NONZERO_WEIGHTS), Caffe
(`softmax_loss_layer.cpp`), scikit-learn 1.9 (`metrics.log_loss`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from streamloss.options import Family, Form, Options, Task
from streamloss.quantities import plan

Factor = Literal["none", "weight", "class"]
Divisor = Literal["factors", "rows", "kept", "all"]

CUT_BY: tuple[str, ...] = ("float16", "float32", "float64")  # the types that clipped rows are counted by


@dataclass(frozen=True)
class Clip:
    """The costs −ln p between which a tool keeps them; of binary predictions −ln(1 − p) has bounds of its own."""

    words: str
    least: float
    most: float
    other_least: float
    other_most: float


def _clip(words: str, eps: float) -> Clip:
    """p and 1 − p both kept in [eps, 1 − eps]."""
    least, most = -math.log1p(-eps), -math.log(eps)
    return Clip(words, least, most, least, most)


# 1e-7 as float32 has it; 1 − 1e-7 is the nearest float32 to it, 1 − 2^-23, and 1 − p is again rounded to it.
_KERAS = Clip("1e-07", -math.log1p(-(2.0**-23)), -math.log(1.0000000116860974e-07), -math.log1p(-(2.0**-23)), 23 * math.log(2))
_LOG_100 = Clip("e^-100", -math.inf, 100.0, -math.inf, 100.0)
_FLT_MIN = Clip("1.18e-38 (FLT_MIN)", -math.inf, 126 * math.log(2), -math.inf, 126 * math.log(2))
_EPS: Mapping[str, Clip] = {
    "float16": _clip("9.77e-04 (eps of float16)", 2.0**-10),
    "float32": _clip("1.19e-07 (eps of float32)", 2.0**-23),
    "float64": _clip("2.22e-16 (eps of float64)", 2.0**-52),
}


def _always(clip: Clip) -> Mapping[str, Clip]:
    return dict.fromkeys(CUT_BY, clip)


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One loss of a tool.

    clips: by the type of the prediction's numbers; none when nothing is clipped. normalize: rows of probabilities are divided
    by their sums. factor: what a row's cost is multiplied by. divisors: by the report's key, 'factors' Σ factor, 'rows' the
    rows used, 'kept' those and the ones of weight 0, 'all' Σ factor or, of rows without weights, also those of the ignored
    label. empty: why there is no number when nothing is left to divide by; '' when the tool says 0.
    """

    loss: str
    families: tuple[Family, ...]
    forms: tuple[Form, ...]
    divisors: Mapping[str, Divisor]
    factor: Factor = "weight"
    clips: Mapping[str, Clip] = field(default_factory=dict)
    normalize: bool = False
    soft: bool = True
    smoothing: bool = False
    pos_weight: bool = False
    empty: str = ""

    def clip(self, dtype: str) -> Clip | None:
        """What is clipped of numbers of a type; bfloat16, which NumPy does not have, is taken for float32."""
        return self.clips.get("float32" if dtype == "bfloat16" else dtype)


_NAN = "torch gives NaN: no row is left"
_ANY: tuple[Form, ...] = ("logits", "probs", "logprobs")
_SCALES: tuple[Form, ...] = ("logits", "logprobs")  # log-probabilities are logits
_KERAS_KEYS: Mapping[str, Divisor] = {"cross_entropy": "kept", "cross_entropy_metric": "all"}

CONVENTIONS: Mapping[str, tuple[Convention, ...]] = {
    "torch": (
        Convention(
            loss="CrossEntropyLoss", families=("categorical",), forms=("logits",), divisors={"cross_entropy": "factors"},
            factor="class", smoothing=True, empty=_NAN,
        ),
        Convention(
            loss="CrossEntropyLoss", families=("pair",), forms=_SCALES, divisors={"cross_entropy": "rows"},
            factor="none", normalize=True, smoothing=True, empty=_NAN,
        ),
        Convention(
            loss="NLLLoss", families=("categorical",), forms=("logprobs", "probs"), divisors={"cross_entropy": "factors"},
            factor="class", empty=_NAN,
        ),
        Convention(
            loss="NLLLoss", families=("score",), forms=("logprobs",), divisors={"cross_entropy": "rows"},
            factor="none", empty=_NAN,
        ),
        Convention(
            loss="BCEWithLogitsLoss", families=("binary",), forms=("logits",), divisors={"cross_entropy": "kept"},
            pos_weight=True, empty=_NAN,
        ),
        Convention(
            loss="BCELoss", families=("binary",), forms=("probs",), divisors={"cross_entropy": "kept"},
            clips=_always(_LOG_100), empty=_NAN,
        ),
    ),
    "keras": (
        Convention(
            loss="CategoricalCrossentropy(from_logits=True)", families=("categorical", "pair"), forms=_SCALES,
            divisors=_KERAS_KEYS, normalize=True, smoothing=True,
        ),
        Convention(
            loss="CategoricalCrossentropy", families=("categorical", "pair"), forms=("probs",), divisors=_KERAS_KEYS,
            clips=_always(_KERAS), normalize=True, smoothing=True,
        ),
        Convention(
            loss="BinaryCrossentropy(from_logits=True)", families=("binary",), forms=("logits",), divisors=_KERAS_KEYS,
            smoothing=True,
        ),
        Convention(
            loss="BinaryCrossentropy", families=("binary",), forms=("probs",), divisors=_KERAS_KEYS,
            clips=_always(_KERAS), smoothing=True,
        ),
    ),
    "tensorflow": (
        Convention(
            loss="softmax_cross_entropy", families=("categorical", "pair"), forms=_SCALES,
            divisors={"cross_entropy": "rows"}, normalize=True, smoothing=True,
        ),
        Convention(
            loss="sigmoid_cross_entropy", families=("binary",), forms=("logits",), divisors={"cross_entropy": "rows"},
            smoothing=True,
        ),
    ),
    "caffe": (
        Convention(
            loss="SoftmaxWithLoss", families=("categorical",), forms=("logits",), divisors={"cross_entropy": "rows"},
            factor="none", clips=_always(_FLT_MIN),
        ),
    ),
    "sklearn": (
        Convention(
            loss="log_loss", families=("categorical", "binary"), forms=_ANY, divisors={"cross_entropy": "factors"},
            clips=_EPS, soft=False, empty="scikit-learn refuses: no row is left, or no weight",
        ),
    ),
}  # fmt: skip

_TAKES = {
    "torch": "PyTorch takes soft targets of K classes with logits",
    "keras": "Keras takes the prediction of every class, as logits or probabilities",
    "tensorflow": "tf.compat.v1.losses takes logits of every class",
    "caffe": "SoftmaxWithLoss takes K logits and a hard label",
    "sklearn": "log_loss takes hard labels and the prediction of every class",
}


def find(tool: str, task: Task, options: Options) -> Convention | str:
    """The tool's convention for these columns, or why there is none."""
    if "truth" not in task.facts(options):
        return "there is neither a label nor a target"
    if "cross_entropy" not in [quantity.key for quantity in plan(task, options).moments]:
        return "cross_entropy is not among --metrics"
    found = next((c for c in CONVENTIONS[tool] if task.family in c.families and task.form in c.forms), None)
    if found is None or (task.label == "soft" and not found.soft):
        return _TAKES[tool]
    if options.label_smoothing > 0 and not found.smoothing:
        return f"{found.loss} has no label smoothing"
    if options.pos_weight != 1 and task.family == "binary" and not found.pos_weight:
        return f"{found.loss} has no weight of the positive class"
    if options.label_smoothing > 0 and found.factor == "class" and options.class_weights is not None:
        return f"{found.loss} weighs every class of a smoothed label by its own class weight"
    return found


def lines(task: Task, options: Options) -> tuple[Convention, ...]:
    """The conventions that were asked for and have a number, in the order of the state's arrays."""
    found = (find(tool, task, options) for tool in options.convention)
    return tuple(each for each in found if isinstance(each, Convention))


@dataclass(frozen=True)
class View:
    """How a convention looks at rows: whether they are divided by their sums, and between which costs −ln p is kept."""

    normalize: bool
    least: float = -math.inf
    most: float = math.inf

    def is_plain(self, task: Task, options: Options) -> bool:
        """Whether the report's own pass looks at rows the same way."""
        sums_alike = task.form == "logits" or self.normalize == options.normalize
        target_alike = task.target_form in (None, "logits") or not options.normalize
        return (
            math.isinf(self.most) and options.zero == 0 and (task.family in ("binary", "score") or sums_alike) and target_alike
        )
