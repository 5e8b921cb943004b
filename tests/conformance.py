"""Other tools' published cases, said in streamloss's words: a case becomes tables, options, a key and plain arithmetic.

The cases (`cases.json`, numbers from the tests and documentation of 28 tools, each recomputed in 50 digits) lie beside
the checkout in `../shared/conformance`, or where `STREAMLOSS_CONFORMANCE` says. What another tool calls a reduction is
arithmetic on the mean: a sum is the mean times the count, Keras's `sum_over_batch_size` the weighted mean times Σw/n,
"no reduction" a report for every row. Several outputs in a row are so many binary rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from oracle import mp

FOLDER = Path(os.environ.get("STREAMLOSS_CONFORMANCE") or Path(__file__).parents[2] / "shared" / "conformance")

# What streamloss refuses, whatever the options: the row breaks a rule.
NOT_EXPRESSED = {"scipy-rel-entr-neg": "negative mass"}

# The exact value is given, but the number that was published follows a rule streamloss has no option for.
OTHER_RULE = {
    "keras-metric-kl-doc": "the target is clipped as well",
    "keras-metric-kl-doc-weighted": "the target is clipped as well",
    "tf-weighted-xent-1.5": "the printed number lost its digits in float32",
    "tf-weighted-xent-0.5": "the printed number lost its digits in float32",
    "sklearn-topk-ties-2": "of equal classes the highest index wins",
}

KEYS = {
    "entropy": "entropy",
    "cross_entropy": "cross_entropy",
    "cce": "cross_entropy",
    "bce": "cross_entropy",
    "kl": "kl_divergence",
    "js": "js_divergence",
    "focal": "focal",
    "brier": "brier",
    "ece": "ece",
    "mce": "mce",
    "perplexity": "perplexity",
}
FORMS = {"probs": "probs", "logits": "logits", "log_probs": "logprobs"}
BINARY = {"probs": "prob", "logits": "logit"}


@dataclass
class Plan:
    """The mean of `key` over each table; times `scale` it is the exact value, times `published` the other tool's."""

    key: str
    tables: list[list[dict[str, Any]]]
    options: dict[str, Any] = field(default_factory=dict)
    each: bool = False
    root: bool = False
    scale: Fraction = Fraction(1)
    published: Fraction = Fraction(1)
    clip: float | None = None


def load() -> list[dict[str, Any]]:
    """The cases, or none when they are absent."""
    path = FOLDER / "cases.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def number(value: Any) -> Any:
    """A number of cases.json, which writes non-finite ones as words."""
    return mp.mpf({"Infinity": "inf", "-Infinity": "-inf", "NaN": "nan"}[value] if isinstance(value, str) else value)


def numbers(value: Any) -> list[Any]:
    return [number(v) for v in (value if isinstance(value, list) else [value])]


def plan(case: Mapping[str, Any]) -> Plan:
    """How streamloss says this case."""
    inputs, params = case["inputs"], case["inputs"].get("params", {})
    (name,) = [n for n in FORMS if n in inputs]
    flat = not isinstance(inputs[name][0], list)
    outputs = flat or isinstance(inputs.get("labels", [0])[0], list)
    groups = list((_binary_rows if outputs else _rows)(inputs, name, params))
    every = [row for group in groups for row in group]
    options = _options(params, every)
    made = Plan(_key(case["metric"], params), [every], options, root=params.get("sqrt", False))
    eps = case.get("peer_eps")
    made.clip = eps if isinstance(eps, float) and not case["agrees_unclipped"] else None

    n, weights = len(groups), [Fraction(group[0].get("weight", 1)) for group in groups]
    reduction = params.get("reduction", "mean")
    if reduction.startswith("none"):
        made.tables = [[row] for row in every] if reduction == "none_elementwise" else groups
        made.each = True
    elif reduction == "sum":
        made.scale = made.published = Fraction(n)
    elif reduction == "sum_over_batch_size":
        made.scale = made.published = sum(weights) / n
    elif reduction == "keras_metric_mean_all_rows":
        made.published = Fraction(sum(row["label"] != params["ignore_index"] for row in every), n)
    if isinstance(params.get("alpha"), list) or reduction == "mean_over_rows":
        made.published = sum(Fraction(options["class_weights"][row["label"]]) for row in every) / n
    if params.get("softmax"):
        made.published /= len(inputs[name][0])
    if isinstance(params.get("alpha"), list):
        made.scale = made.published
    return made


def _key(metric: str, params: Mapping[str, Any]) -> str:
    if metric == "topk_accuracy":
        return f"top{params['k']}_accuracy"
    if params.get("normalized_by_base_rate_entropy"):
        return "normalized_cross_entropy"
    if params.get("binning") == "adaptive":
        return "adaptive_ece"
    return "rmsce" if params.get("norm") == "l2" else KEYS[metric]


def _options(params: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    said = {
        "label_smoothing": params.get("label_smoothing"),
        "pos_weight": params.get("pos_weight"),
        "ignore_index": params.get("ignore_index"),
        "class_weights": params.get("class_weights"),
        "classes": params.get("classes"),
        "bins": params.get("bins"),
        "focal_gamma": params.get("gamma"),
        "focal_alpha": params.get("alpha"),
        "top_k": params.get("k"),
        "unit": "bit" if params.get("base") == 2 else None,
    }
    if isinstance(params.get("alpha"), list):  # an alpha for every class weighs the rows by their class
        said["class_weights"], said["focal_alpha"] = params["alpha"], None
    if params.get("normalize") and "logits" not in rows[0]:
        said["normalize"] = True
    elif any(abs(sum(v) - 1) > 1e-7 for row in rows for k, v in row.items() if k in ("probs", "target_probs")) or (
        "logprobs" in rows[0]
    ):
        said["sum_tolerance"] = float("inf")
    return {k: v for k, v in said.items() if v is not None}


def _binary_rows(inputs: Mapping[str, Any], name: str, params: Mapping[str, Any]) -> Iterable[list[dict[str, Any]]]:
    """Each row's outputs as binary rows, or as two classes where the case folds or sums over both."""
    pair = params.get("scale_by_half") is False or params.get("confidence") == "top_label_binary_folded"
    for i, values in enumerate(inputs[name]):
        labels = inputs["labels"][i]
        values, labels = (values, labels) if isinstance(values, list) else ([values], [labels])
        group = []
        for value, label in zip(values, labels, strict=True):
            shown = {"probs": [1.0 - value, float(value)]} if pair else {BINARY[name]: float(value)}
            group.append({**shown, "label": label, **_weight(inputs, i)})
        yield group


def _rows(inputs: Mapping[str, Any], name: str, params: Mapping[str, Any]) -> Iterable[list[dict[str, Any]]]:
    """K classes; a single mass x becomes (x, 0), whose second class adds nothing."""
    targets = [n for n in FORMS if f"target_{n}" in inputs]
    for i, values in enumerate(inputs[name]):
        row: dict[str, Any] = {FORMS[name]: _classes(values)}
        if targets:
            target = inputs[f"target_{targets[0]}"][i]
            if params.get("normalize") and not _sums_to_one(target) and name == "probs" and params.get("base") is None:
                # The prediction alone is renormalised: so does the softmax of its logarithm.
                row = {"logits": [float(mp.log(v)) for v in values]}
            if isinstance(params.get("alpha"), list):
                row["label"] = target.index(1)
            else:
                row[f"target_{FORMS[targets[0]]}"] = _classes(target)
        if "labels" in inputs and i < len(inputs["labels"]):
            row["label"] = inputs["labels"][i]
        yield [{**row, **_weight(inputs, i)}]


def _classes(values: list[float]) -> list[float]:
    return [float(v) for v in values] + [0.0] * (len(values) == 1)


def _sums_to_one(values: list[float]) -> bool:
    return abs(sum(values) - 1) < 1e-7


def _weight(inputs: Mapping[str, Any], i: int) -> dict[str, float]:
    return {"weight": float(inputs["weights"][i])} if "weights" in inputs else {}


def run(made: Plan, mean: Callable[[list[dict[str, Any]], dict[str, Any], str], Any], published: bool = False) -> list:
    """The plan's values, where mean(rows, options, key) is the report's mean; None (no row counts) adds nothing."""
    scale = made.published if published else made.scale
    options = dict(made.options)
    if published and made.clip:
        options["zero"] = made.clip
    values = [mp.mpf(mean(table, options, made.key) or 0) for table in made.tables]
    values = [mp.sqrt(v) for v in values] if made.root else values
    return [v * scale.numerator / scale.denominator for v in values]
