"""What the columns are and how the loss is defined: frozen, validated once, the same from the CLI and from Python.

`Options` is what a person asks for. `Task` is what the columns turned out to be, and together they fix every number of the
report. `definition` is the part of the options that changes the numbers; states merge only when it is equal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from streamloss.errors import UsageError

Form = Literal["logits", "probs", "logprobs"]
Family = Literal["binary", "categorical", "pair", "score"]
LabelKind = Literal["none", "hard", "soft"]
Unit = Literal["nat", "bit", "ban"]
DType = Literal["float16", "bfloat16", "float32", "float64"]

PREDICTIONS = ("logits", "probs", "logprobs", "logit", "prob", "logprob")
TARGETS = ("target_logits", "target_probs", "target_logprobs")
ROLES = ("label", *PREDICTIONS, *TARGETS, "weight", "mask", "bytes")
DISPLAY = ("unit", "quantiles", "confidence", "min_slice_rows")

# Whose cross-entropy may be asked for besides ours (see `conventions`), which is called EXACT.
TOOLS = ("torch", "keras", "tensorflow", "caffe", "sklearn")
EXACT = "exact"

# The temperatures of a sweep, four to the octave.
TEMPERATURES = (0.25, 0.3, 0.35, 0.42, 0.5, 0.6, 0.7, 0.84, 1.0, 1.19, 1.41, 1.68, 2.0, 2.38, 2.83, 3.36, 4.0)

MAX_TEMPERATURES = 256
MAX_TOP_K = 8  # so many different k of --top-k at most

# A row's probabilities may miss 1 by this much before the row breaks the rule `row_sum`.
SUM_TOLERANCE: dict[str, float] = {"float16": 1e-2, "bfloat16": 1e-2, "float32": 1e-4, "float64": 1e-6}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that can be asked of an evaluation; column options name a column (or a pattern over flat columns).

    Roles that are None are found by the names of the columns (`label`, `logits`, `probs`, …).
    """

    label: str | None = None
    logits: str | None = None
    probs: str | None = None
    logprobs: str | None = None
    logit: str | None = None
    prob: str | None = None
    logprob: str | None = None
    target_logits: str | None = None
    target_probs: str | None = None
    target_logprobs: str | None = None
    weight: str | None = None
    mask: str | None = None
    bytes: str | None = None
    dtype: DType | None = None
    classes: tuple[str, ...] | None = None

    temperature: float = 1.0
    temperature_sweep: bool = False
    temperatures: tuple[float, ...] = ()
    target_temperature: float = 1.0
    ignore_index: int | None = None
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    pos_weight: float = 1.0
    focal_gamma: float | None = None
    focal_alpha: float | None = None
    zero: float = 0.0
    top_k: tuple[int, ...] = ()
    bins: int = 15
    convention: tuple[str, ...] = ()
    normalize: bool = False
    sum_tolerance: float | None = None
    on_invalid: Literal["error", "skip"] = "error"
    metrics: tuple[str, ...] | None = None
    by: tuple[str, ...] = ()
    cluster: str | None = None
    max_slices: int = 10_000

    unit: Unit = "nat"
    quantiles: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
    confidence: float = 0.95
    min_slice_rows: int = 1

    def __post_init__(self) -> None:
        given = [role for role in PREDICTIONS if getattr(self, role)]
        if len(given) > 1:
            raise UsageError(f"one prediction at a time: {_flags(given)} were given together")
        targets = [role for role in TARGETS if getattr(self, role)]
        if len(targets) > 1:
            raise UsageError(f"one target at a time: {_flags(targets)} were given together")
        if targets and given and given[0] in ("logit", "prob", "logprob"):
            raise UsageError(f"{_flags(targets)} needs a K-class prediction; a soft binary label goes in --label")
        _choice("unit", self.unit, get_args(Unit))
        _choice("on-invalid", self.on_invalid, ("error", "skip"))
        _choice("normalize", self.normalize, (True, False))
        if self.dtype is not None:
            _choice("dtype", self.dtype, get_args(DType))
        for name in ("temperature", "target_temperature"):
            _check(name, getattr(self, name), lambda v: 0 < v < math.inf, "a positive number")
        for name, form in (("temperature", "logits"), ("target_temperature", "target_logits")):
            others = {"temperature": ("probs", "logprobs", "prob", "logprob"), "target_temperature": TARGETS[1:]}[name]
            wrong = [role for role in others if getattr(self, role)]
            if getattr(self, name) != 1 and wrong:
                raise UsageError(
                    f"--{name.replace('_', '-')} divides logits; log-probabilities may be passed as --"
                    f"{form.replace('_', '-')}, for their softmax gives the probabilities back"
                )
        for t in self.temperatures:
            _check("temperatures", t, lambda v: 2**-20 <= v <= 2**20, "positive numbers (2^-20 to 2^20)")
        if len(set(self.temperatures)) != len(self.temperatures) or len(self.temperatures) > MAX_TEMPERATURES:
            raise UsageError(f"--temperatures takes up to {MAX_TEMPERATURES} different numbers")
        _check("label_smoothing", self.label_smoothing, lambda v: 0 <= v <= 1, "between 0 and 1")
        _check("pos_weight", self.pos_weight, lambda v: 0 < v < math.inf, "a positive number")
        if self.focal_gamma is not None:
            _check("focal_gamma", self.focal_gamma, lambda v: 0 <= v < math.inf, "0 or more")
        if self.focal_alpha is not None:
            _check("focal_alpha", self.focal_alpha, lambda v: 0 <= v <= 1, "between 0 and 1")
            if self.focal_gamma is None:
                raise UsageError("--focal-alpha belongs to the focal loss: give --focal-gamma too")
        _check("zero", self.zero, lambda v: 0 <= v < 1, "'inf' or 'clip:EPS' with EPS between 0 and 1")
        for name in self.convention:
            _choice("convention", name, TOOLS)
        _check("bins", self.bins, lambda v: 1 <= v <= 10_000, "between 1 and 10000")
        _check("confidence", self.confidence, lambda v: 0 < v < 1, "between 0 and 1")
        _check("max_slices", self.max_slices, lambda v: 1 <= v <= 1_000_000, "between 1 and 1000000")
        _check("min_slice_rows", self.min_slice_rows, lambda v: v >= 1, "1 or more")
        if len(set(self.groupings)) != len(self.groupings) or any(len(set(names)) != len(names) for names in self.groupings):
            raise UsageError("--by names the same column twice")
        if not all(name for names in self.groupings for name in names):
            raise UsageError("--by needs the name of a column")
        for k in self.top_k:
            _check("top_k", k, lambda v: v >= 1, "1 or more")
        if len(set(self.top_k)) > MAX_TOP_K:
            raise UsageError(f"--top-k takes {MAX_TOP_K} different values at most, not {len(set(self.top_k))}")
        for q in self.quantiles:
            _check("quantiles", q, lambda v: 0 <= v <= 1, "between 0 and 1")
        if self.sum_tolerance is not None:
            _check("sum_tolerance", self.sum_tolerance, lambda v: v >= 0, "0 or more")
        if self.classes is not None:
            if len(self.classes) < 2:
                raise UsageError("--classes needs at least two names")
            if len(set(self.classes)) != len(self.classes):
                twice = next(name for name in self.classes if self.classes.count(name) > 1)
                raise UsageError(f"--classes names {twice!r} twice")
        for w in self.class_weights or ():
            _check("class_weights", w, lambda v: 0 <= v < math.inf, "finite weights of 0 or more")
        if self.class_weights and targets:
            raise UsageError("--class-weights weighs rows by their hard label; it has no meaning with a soft target")

    @classmethod
    def of(cls, **given: Any) -> Options:
        """Options from keyword arguments as Python or the command line gives them.

        Lists may be comma-separated text; `classes` and `class_weights` may name a file with one entry a line; `zero` is
        'inf' or 'clip:EPS'. Raises `UsageError` for an unknown name or a value out of range.
        """
        names = {f.name for f in fields(cls)}
        for name in given:
            if name not in names:
                raise UsageError(f"no option {name!r}; there are {', '.join(sorted(names))}")
        value = {name: v for name, v in given.items() if v is not None and v != ()}
        for name, parse in _PARSERS.items():
            if name in value:
                value[name] = parse(name, value[name])
        return cls(**value)

    @property
    def groupings(self) -> tuple[tuple[str, ...], ...]:
        """The columns of every `--by`: rows with the same values in them make a slice."""
        return tuple(tuple(name.strip() for name in item.split(",")) for item in self.by)

    @property
    def sweep(self) -> tuple[float, ...]:
        """The temperatures of the curve, if one was asked for, ascending; the report's own is one of them."""
        asked = self.temperatures or (TEMPERATURES if self.temperature_sweep else ())
        return tuple(sorted({*asked, self.temperature})) if asked else ()

    @property
    def definition(self) -> dict[str, Any]:
        """The options that change a number, JSON-ready; the columns are part of it."""
        return {name: v for name, v in self.to_dict().items() if name not in DISPLAY}

    def to_dict(self) -> dict[str, Any]:
        """All options that differ from their default, JSON-ready."""
        plain = asdict(self)
        defaults = {f.name: f.default for f in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items() if v != defaults[k]}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the columns turned out to be: which kernel runs, over how many classes, and what the truth is.

    `label` is 'soft' for a floating binary label. A pair may have a label besides: accuracy and calibration use it, the
    losses use the target. `classes` is K (2 for binary, 0 for a bare score).
    """

    family: Family
    form: Form
    classes: int
    target_form: Form | None = None
    label: LabelKind = "none"
    weighted: bool = False
    bytes: bool = False

    def facts(self, options: Options) -> frozenset[str]:
        """What the quantities may ask for (see `quantities.Quantity.needs`).

        'soft' means that target entropy and KL have row values of their own: they are not simply 0 and the cross-entropy.
        """
        target = self.family == "pair"
        truth = target or self.label != "none" or self.family == "score"
        moved = options.label_smoothing > 0 or (self.family == "binary" and options.pos_weight != 1)
        soft = target or self.label == "soft" or (moved and self.label == "hard")
        held = {
            "distribution": self.family != "score",
            "label": self.label != "none",
            "target": target,
            "truth": truth,
            "soft": soft,
            "label_is_truth": self.label != "none" and not target,
            "many_classes": self.classes > 2,
            "gamma": options.focal_gamma is not None,
            "bytes": self.bytes,
        }
        return frozenset(fact for fact, holds in held.items() if holds)


def _flags(names: Sequence[str]) -> str:
    return " and ".join("--" + name.replace("_", "-") for name in names)


def _choice(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise UsageError(f"--{name} is one of {', '.join(map(str, allowed))}, not {value!r}")


def _check(name: str, value: Any, holds: Any, expected: str) -> None:
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or not holds(value):
        raise UsageError(f"{flag} must be {expected}, not {value!r}")


def _lines(name: str, value: Any) -> list[str]:
    """A list given as a list, as comma-separated text, or as a text file with one entry a line."""
    if not isinstance(value, str):
        return [str(v) for v in value]
    try:
        is_file = Path(value).is_file()
    except OSError:
        is_file = False
    if not is_file:
        return [part.strip() for part in value.split(",")]
    try:
        return [line.strip() for line in Path(value).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--{name.replace('_', '-')}: cannot read {value}: {error}") from error


def _numbers(kind: type[int] | type[float]) -> Any:
    def parse(name: str, value: Any) -> tuple[Any, ...]:
        if isinstance(value, int | float):
            return (value,)
        try:
            return tuple(kind(v) for v in _lines(name, value))
        except ValueError as error:
            raise UsageError(f"--{name.replace('_', '-')} must be numbers, not {value!r}") from error

    return parse


def _temperature(name: str, value: Any) -> float:
    """A temperature as a number, or as the JSON report that `calibrate` wrote."""
    if isinstance(value, int | float):
        return value
    try:
        return float(value)
    except ValueError:
        pass
    flag = "--" + name.replace("_", "-")
    try:
        found = json.loads(Path(value).read_text(encoding="utf-8"))["temperature"]["best"]
        if found["temperature"] is None:
            raise UsageError(f"{flag}: {value} has no best temperature: {found['reason']}")
        return float(found["temperature"])
    except OSError as error:
        raise UsageError(f"{flag} is a number or a report of calibrate, not {value!r}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{flag}: {value} is no JSON report of calibrate") from error


def _tools(name: str, value: Any) -> tuple[str, ...]:
    """Tools in the order of TOOLS, each once, for the order and the number of times say nothing."""
    asked = _lines(name, value)
    for tool in asked:
        _choice(name, tool, (EXACT, *TOOLS))
    return tuple(tool for tool in TOOLS if tool in asked)


def _zero(name: str, value: Any) -> float:
    if isinstance(value, int | float):
        return float(value)
    if value == "inf":
        return 0.0
    try:
        kind, eps = str(value).split(":")
        if kind != "clip" or not 0 < float(eps) < 1:
            raise ValueError
        return float(eps)
    except ValueError:
        raise UsageError(f"--{name} must be 'inf' or 'clip:EPS' with EPS between 0 and 1, not {value!r}") from None


_PARSERS: Mapping[str, Any] = {
    "by": lambda _, value: (value,) if isinstance(value, str) else tuple(str(item) for item in value),
    "classes": lambda name, value: tuple(_lines(name, value)),
    "class_weights": _numbers(float),
    "convention": _tools,
    "metrics": lambda name, value: tuple(_lines(name, value)),
    "quantiles": _numbers(float),
    "temperature": _temperature,
    "temperatures": _numbers(float),
    "top_k": _numbers(int),
    "zero": _zero,
}
