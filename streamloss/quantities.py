"""SPEC §1 as data: every quantity's key, title and unit, what it needs, where its row values stand and how it is finished.

Row quantities have a slot: the kernels write one float64 a row there, always in nats, and `fold` adds them up exactly.
Derived quantities have no slot: `reporting.summary` computes them from the state. A new row quantity is a row here and a
scalar function in the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from streamloss.errors import UsageError
from streamloss.options import MAX_TOP_K, Options, Task

# Slots of the kernels' output, one row value each.
CROSS_ENTROPY, ENTROPY, TARGET_ENTROPY, KL, REVERSE_KL, JS = range(6)
BRIER, CONFIDENCE, OVERCONFIDENCE, ACCURACY, SAME_TOP, FOCAL, BYTES = range(6, 13)
SCORE, OUTCOME = 13, 14  # the reliability histogram's two sides: the confidence that is judged, and what happened
DELTA_P, DELTA_P_SQUARED = 15, 16  # of a comparison
ENTROPY_GAP = 17  # written by the fold, where it is wanted
TOP_K = 18  # the first of the top-k slots
SLOTS = TOP_K + MAX_TOP_K

# Per-class means are kept up to this many classes; the label counts are kept for any number.
PER_CLASS_LIMIT = 1024
PER_CLASS = ("cross_entropy", "entropy", "brier", "accuracy")


@dataclass(frozen=True)
class Quantity:
    """One line of the report.

    `unit` is 'nat' (scaled by --unit) or '' for a pure number; `needs` are facts of `Task.facts`; `slot` is where the row
    values stand, None when derived; `spread` says whether quantiles are kept; `named` that it must be asked
    for; `indicator` that row values are 0 or 1.
    """

    key: str
    title: str
    unit: str
    needs: frozenset[str]
    slot: int | None = None
    spread: bool = False
    named: bool = False
    indicator: bool = False


def _q(key: str, title: str, unit: str, needs: str, slot: int | None = None, **more: bool) -> Quantity:
    return Quantity(key, title, unit, frozenset(needs.split()), slot, **more)


QUANTITIES: dict[str, Quantity] = {
    q.key: q
    for q in (
        _q("cross_entropy", "cross-entropy", "nat", "truth", CROSS_ENTROPY, spread=True),
        _q("target_entropy", "target entropy", "nat", "truth distribution", TARGET_ENTROPY, spread=True),
        _q("kl_divergence", "KL divergence", "nat", "truth distribution", KL, spread=True),
        _q("reverse_kl_divergence", "reverse KL divergence", "nat", "target", REVERSE_KL, spread=True),
        _q("js_divergence", "JS divergence", "nat", "target", JS, spread=True),
        _q("entropy", "entropy of the prediction", "nat", "distribution", ENTROPY, spread=True),
        _q("perplexity", "perplexity", "", "truth"),
        _q("bits_per_byte", "bits per byte", "", "truth bytes"),
        _q("brier", "Brier score", "", "truth distribution", BRIER, spread=True),
        _q("focal", "focal loss", "nat", "truth distribution gamma", FOCAL, spread=True),
        _q("accuracy", "accuracy", "", "label distribution", ACCURACY, indicator=True),
        _q("same_top", "same top class", "", "target", SAME_TOP, indicator=True),
        _q("label_entropy", "label entropy", "nat", "label"),
        _q("normalized_cross_entropy", "normalized cross-entropy", "", "label_is_truth"),
        _q("d2", "D² (1 − normalized)", "", "label_is_truth"),
        _q("mutual_information", "mutual information", "nat", "distribution", named=True),
        _q("ece", "expected calibration error", "", "label distribution"),
        _q("mce", "maximum calibration error", "", "label distribution"),
        _q("rmsce", "root mean square calibration error", "", "label distribution"),
        _q("adaptive_ece", "adaptive calibration error", "", "label distribution"),
        _q("entropy_gap", "cross-entropy − entropy", "nat", "truth distribution", ENTROPY_GAP, named=True),
        _q("mean_confidence", "mean confidence", "", "distribution", CONFIDENCE, spread=True),
        _q("overconfidence", "overconfidence", "", "label distribution", OVERCONFIDENCE),
    )
}

# What a derived quantity is computed from: row quantities to fold, and the histograms ("reliability", "labels", …) to keep.
SOURCES: dict[str, tuple[str, ...]] = {
    "perplexity": ("cross_entropy",),
    "bits_per_byte": ("cross_entropy",),
    "label_entropy": ("labels",),
    "normalized_cross_entropy": ("cross_entropy", "labels"),
    "d2": ("cross_entropy", "labels"),
    "mutual_information": ("entropy", "mean_probabilities"),
    "ece": ("reliability",),
    "mce": ("reliability",),
    "rmsce": ("reliability",),
    "adaptive_ece": ("reliability",),
}


def top_k_key(k: int) -> str:
    """The report's key of top-k accuracy."""
    return f"top{k}_accuracy"


def top_ks(task: Task, options: Options) -> tuple[int, ...]:
    """The k of every top-k accuracy: what was asked for, or 5 where 5 of K classes says something."""
    if task.label == "none" or task.family not in ("categorical", "pair"):
        return ()
    if options.top_k:
        return tuple(sorted(set(options.top_k)))
    return (5,) if task.classes > 5 else ()


def table(task: Task, options: Options) -> dict[str, Quantity]:
    """Every quantity that applies to the task, by key, in the order of the report.

    Raises `UsageError` when `--metrics` names one that does not exist or does not apply.
    """
    facts = task.facts(options)
    full: dict[str, Quantity] = {}
    for key, quantity in QUANTITIES.items():
        full[key] = quantity
        if key == "accuracy":
            for i, k in enumerate(top_ks(task, options)):
                full[top_k_key(k)] = Quantity(
                    top_k_key(k), f"top-{k} accuracy", "", frozenset({"label", "distribution"}), TOP_K + i, indicator=True
                )
    applies = {key: q for key, q in full.items() if q.needs <= facts}
    if options.metrics is None:
        return {key: q for key, q in applies.items() if not q.named}
    for key in options.metrics:
        if key not in full:
            raise UsageError(f"no metric {key!r}; there are {', '.join(full)}")
        if key not in applies:
            missing = ", ".join(sorted(full[key].needs - facts)).replace("_", " ")
            raise UsageError(f"metric {key!r} does not apply to these columns: it needs {missing}")
    return {key: q for key, q in applies.items() if key in options.metrics}


@dataclass(frozen=True)
class Plan:
    """What has to be folded so that the report's table can be filled: derived from the task and the options alone.

    `moments` are the row quantities whose sums are kept (in the order of the state's arrays); `spread` those with a
    histogram; `per_class` the ones with a mean for every class.
    """

    table: dict[str, Quantity]
    moments: tuple[Quantity, ...]
    spread: tuple[str, ...]
    per_class: tuple[str, ...]
    labels: bool
    reliability: bool
    mean_probabilities: bool
    coarse: bool = False  # whether calibration is kept by the report's own bins, not by finer ones

    def index(self, key: str) -> int:
        """Where a row quantity's sums stand in the state."""
        return [q.key for q in self.moments].index(key)


def constant_key(key: str, task: Task, options: Options) -> str | None:
    """For a hard label KL is the cross-entropy and the target entropy is 0: what a key is read from instead, if so."""
    if "soft" in task.facts(options):
        return None
    return {"kl_divergence": "cross_entropy", "target_entropy": ""}.get(key)


def plan(task: Task, options: Options) -> Plan:
    """The plan of an evaluation."""
    wanted = table(task, options)
    sources = {source for key in wanted for source in SOURCES.get(key, ())}
    full = {q.key: q for q in (*QUANTITIES.values(), *wanted.values())}
    rows: dict[str, Quantity] = {}
    for key in (*wanted, *sorted(sources)):
        stand_in = constant_key(key, task, options)
        key = key if stand_in is None else stand_in
        if key in full and full[key].slot is not None:
            rows[key] = full[key]
    if "bits_per_byte" in wanted:
        rows["bytes"] = Quantity("bytes", "bytes", "", frozenset({"bytes"}), BYTES)
    named = options.metrics is not None
    labels = task.label != "none" and (not named or "labels" in sources)
    keyed = labels and task.label == "hard" and task.classes <= PER_CLASS_LIMIT
    ordered = tuple(sorted(rows.values(), key=lambda q: q.slot if q.slot is not None else 0))
    return Plan(
        table=wanted,
        moments=ordered,
        spread=tuple(q.key for q in ordered if q.spread),
        per_class=tuple(key for key in PER_CLASS if key in rows) if keyed else (),
        labels=labels,
        reliability="reliability" in sources,
        mean_probabilities="mean_probabilities" in sources,
    )


# What differs between two models on the same rows only because their cross-entropy does, or is not theirs.
_NOT_COMPARED = ("bytes", "target_entropy", "kl_divergence", "reverse_kl_divergence", "js_divergence", "same_top")
_OF_TWO_MODELS = (
    _q("kl_divergence", "KL divergence, old ‖ new", "nat", "distribution", KL, spread=True),
    _q("reverse_kl_divergence", "KL divergence, new ‖ old", "nat", "distribution", REVERSE_KL, spread=True),
    _q("js_divergence", "JS divergence", "nat", "distribution", JS, spread=True),
    _q("same_top", "same top class", "", "distribution", SAME_TOP, indicator=True),
    _q("delta_p", "Δp of the label", "", "label_chance", DELTA_P, spread=True),
    _q("delta_p_squared", "Δp² of the label", "", "label_chance", DELTA_P_SQUARED),
)


def between(task: Task, options: Options) -> Plan:
    """What is folded of two models on the same rows: new − old of the row quantities by their own keys, and what there is
    between them. `task` is that of either model.
    """
    own = plan(task, options)
    facts = set(task.facts(options))
    if task.label == "hard" and task.family != "pair" and not facts & {"soft"} and options.zero == 0:
        facts.add("label_chance")  # the cross-entropy is −ln p of the label
    differences = [replace(q, spread=True, indicator=False) for q in own.moments if q.key not in _NOT_COMPARED]
    models = [q for q in _OF_TWO_MODELS if q.needs <= facts]
    moments = (*differences, *models)
    spread = tuple(q.key for q in moments if q.spread)
    table = {q.key: q for q in moments}
    return Plan(table, moments, spread, per_class=(), labels=False, reliability=False, mean_probabilities=False)
