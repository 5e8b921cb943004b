"""Make the sample data: real models' held-out predictions on scikit-learn's digits and breast cancer sets.

    python scripts/make_data.py [--check]

Needs scikit-learn. Seeds are fixed and one thread computes, so a rerun on the same machine writes the same bytes; with
other BLAS libraries the last digits differ, and `--check` compares what is in data/ with a fresh run approximately.

- digits.parquet, 900 rows: `logits` of a logistic regression, `mlp_probs` of a small neural network on the same images,
  `label`, `label_name`, `group` (how much ink, in quartiles), `id` (the image's number in scikit-learn's set).
- cancer.parquet, 285 rows: `prob` that a tumour is malignant, `score_logit` (its logit), `label`, `weight` (makes both
  classes count alike), `group` (size of the tumour).
- distill.parquet, 900 rows: `target_probs` of a teacher network at temperature 2 and `probs` of a small student trained
  on 200 images, with the true `label`.
- digits_classes.txt: the class names, one a line.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

DATA = Path(__file__).parents[1] / "data"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SEED = 20
TOLERANCE = 1e-2  # of a logit or a probability, between machines


def rows_of(values: np.ndarray) -> pa.Array:
    """A list<float32> column with a row per row."""
    n, k = values.shape
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
    return pa.ListArray.from_arrays(pa.array(np.arange(0, (n + 1) * k, k, dtype=np.int32)), flat)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def digits() -> pa.Table:
    images, labels = load_digits(return_X_y=True)
    ids = np.arange(len(labels))
    train, test = train_test_split(ids, test_size=900, random_state=SEED, stratify=labels)
    test = np.sort(test)
    x = images / 16
    linear = LogisticRegression(C=1.0, max_iter=2000, tol=1e-8).fit(x[train], labels[train])
    network = MLPClassifier((32,), alpha=1e-2, max_iter=120, random_state=SEED, tol=0, n_iter_no_change=1000)
    with_no_warning(network.fit, x[train], labels[train])
    ink = images.sum(axis=1)
    group = np.searchsorted(np.quantile(ink[test], [0.25, 0.5, 0.75]), ink[test])
    return pa.table(
        {
            "id": pa.array(test, pa.int64()),
            "logits": rows_of(linear.decision_function(x[test])),
            "mlp_probs": rows_of(network.predict_proba(x[test])),
            "label": pa.array(labels[test], pa.int64()),
            "label_name": pa.array([NAMES[y] for y in labels[test]]),
            "group": pa.array([("faint", "light", "dark", "heavy")[g] for g in group]),
        }
    )


def cancer() -> pa.Table:
    x, benign = load_breast_cancer(return_X_y=True)
    labels = 1 - benign
    train, test = train_test_split(np.arange(len(labels)), test_size=285, random_state=SEED, stratify=labels)
    test = np.sort(test)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, tol=1e-8))
    model.fit(x[train], labels[train])
    logit = model.decision_function(x[test])
    share = np.bincount(labels[test]) / len(test)
    radius = x[test, 0]
    return pa.table(
        {
            "prob": pa.array(1 / (1 + np.exp(-logit))),
            "score_logit": pa.array(logit),
            "label": pa.array(labels[test], pa.int64()),
            "weight": pa.array(np.round(0.5 / share[labels[test]], 4)),
            "group": pa.array(["large" if large else "small" for large in radius > np.median(radius)]),
        }
    )


def distill() -> pa.Table:
    images, labels = load_digits(return_X_y=True)
    train, test = train_test_split(np.arange(len(labels)), test_size=900, random_state=SEED, stratify=labels)
    test = np.sort(test)
    x = images / 16
    teacher = MLPClassifier((64,), alpha=1e-1, max_iter=150, random_state=SEED, tol=0, n_iter_no_change=1000)
    with_no_warning(teacher.fit, x[train], labels[train])
    few = train[:200]
    student = LogisticRegression(C=0.3, max_iter=2000, tol=1e-8).fit(x[few], labels[few])
    return pa.table(
        {
            "target_probs": rows_of(softmax(np.log(teacher.predict_proba(x[test])) / 2)),
            "probs": rows_of(student.predict_proba(x[test])),
            "label": pa.array(labels[test], pa.int64()),
        }
    )


def with_no_warning(fit, *args) -> None:
    """Train for a fixed number of rounds; that this is not convergence is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(*args)


TABLES = {"digits.parquet": digits, "cancer.parquet": cancer, "distill.parquet": distill}


def difference(old: pa.Table, new: pa.Table) -> str | None:
    """What is different between two tables beyond rounding, or None."""
    if old.schema != new.schema:
        return f"schema {old.schema} is not {new.schema}"
    if old.num_rows != new.num_rows:
        return f"{old.num_rows} rows are not {new.num_rows}"
    for name in old.column_names:
        a, b = old[name].combine_chunks(), new[name].combine_chunks()
        if pa.types.is_list(a.type):
            a, b = a.flatten(), b.flatten()
        if not pa.types.is_floating(a.type):
            if not a.equals(b):
                return f"column {name} differs"
        elif (off := np.abs(a.to_numpy() - b.to_numpy()).max()) > TOLERANCE:
            return f"column {name} is off by {off}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with data/ instead of writing it")
    check = parser.parse_args().check
    bad = 0
    with threadpool_limits(1):
        for name, make in TABLES.items():
            table = make()
            if not check:
                DATA.mkdir(exist_ok=True)
                pq.write_table(table, DATA / name, row_group_size=300, compression="snappy")
                print(f"data/{name}: {table.num_rows} rows, {(DATA / name).stat().st_size} bytes")
                continue
            wrong = difference(pq.read_table(DATA / name), table)
            bad += wrong is not None
            print(f"data/{name}: {wrong or 'as made'}")
    names = "\n".join(NAMES) + "\n"
    if not check:
        (DATA / "digits_classes.txt").write_text(names, encoding="utf-8")
    elif (DATA / "digits_classes.txt").read_text(encoding="utf-8") != names:
        bad += 1
        print("data/digits_classes.txt: differs")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
