"""Row values are right: every quantity of every row against 50 digits, whatever stands around the row.

SPEC §5: within 1e-12 relative or 1e-14 absolute, KL of nearly equal rows within 1e-9 relative; the same bits alone, in any
place, in any company and on any number of threads. The truth is tests/oracle.py, with `linear` in place of its distribution
of K classes, whose time grows with K².
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import oracle
import pytest
from oracle import mp

from streamloss.errors import (
    ALL_NEGATIVE_INFINITY,
    IGNORED,
    LABEL,
    NAN,
    NEGATIVE_PROBABILITY,
    POSITIVE_INFINITY,
    PROBABILITY_ABOVE_ONE,
    ROW_SUM,
    USED,
)
from streamloss.kernels.panel import CLIPPED, NORMALIZED
from streamloss.kernels.rows import add_rows, row_buffer
from streamloss.options import Options, Task
from streamloss.quantities import BYTES, KL, OUTCOME, SCORE, constant_key, table

INF, NOT = math.inf, math.nan
DTYPES = ("float16", "bfloat16", "float32", "float64")
FORMS = ("logits", "probs", "logprobs")
SMALL_K = (2, 3, 10, 127, 128, 129, 100)


# ---- helpers


def linear(form, values, temperature=1.0, normalize=False):
    """`oracle.distribution` in linear time, and right for logits of 1e308.

    As in the kernels, an exponential below e^-708 is 0: a target class of less than 1e-307 asks nothing of the prediction.
    """
    given = [mp.mpf(v) for v in values]
    if form == "logits" or (form == "logprobs" and normalize):
        top = max(given)
        z = [(v - top) / mp.mpf(temperature) for v in given]
        total = mp.log(mp.fsum(oracle._exp(v) for v in z))
        log = [v - total for v in z]
        p = [mp.exp(v) if v >= -708 else mp.zero for v in log]
    elif form == "logprobs":
        log, p = given, [mp.exp(v) if v >= -708 else mp.zero for v in given]
    else:
        total = mp.fsum(given) if normalize else 1
        p = [v / total for v in given]
        log = [oracle._log(v) for v in p]
    return oracle.Distribution(p, log, [1 - v for v in p], given)


@pytest.fixture(autouse=True)
def in_linear_time(monkeypatch):
    monkeypatch.setattr(oracle, "distribution", linear)


def store(values, dtype):
    """Values as a batch holds them, rounded to the dtype; read-only, as views of Arrow's memory are."""
    x = np.ascontiguousarray(values, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "float16":
            stored = x.astype(np.float16).view(np.uint16)
        elif dtype == "bfloat16":
            word = x.astype(np.float32).view(np.uint32).astype(np.uint64)
            rounded = (word + 0x7FFF + ((word >> 16) & 1)) >> 16
            stored = np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16).view(np.int16)
        else:
            stored = x.astype(dtype)
    stored = stored.copy()
    stored.setflags(write=False)
    return stored


def shown(stored):
    """What a stored value is, exactly, as float64."""
    if stored.dtype == np.uint16:
        return stored.view(np.float16).astype(np.float64)
    if stored.dtype == np.int16:
        return (stored.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


@dataclass
class Case:
    """Rows, and how they are to be evaluated."""

    family: str
    form: str
    x: Any
    dtype: str = "float64"
    label: Any = None
    target: Any = None
    target_form: str | None = None
    target_dtype: str = "float64"

    def __post_init__(self):
        self.x = store(self.x, self.dtype)
        if self.target is not None:
            self.target = store(self.target, self.target_dtype)
        if self.label is not None:
            self.label = np.array(self.label)
            self.label = self.label.astype(np.int64 if self.label.dtype.kind in "iub" else np.float64)
            self.label.setflags(write=False)

    def __len__(self):
        return len(self.x)

    @property
    def task(self):
        kind = "none" if self.label is None else "soft" if self.label.dtype.kind == "f" else "hard"
        classes = {"binary": 2, "score": 0}[self.family] if self.x.ndim == 1 else self.x.shape[1]
        return Task(family=self.family, form=self.form, classes=classes, target_form=self.target_form, label=kind)

    def take(self, index):
        """The same case with rows picked, repeated or put in another order."""
        picked = Case.__new__(Case)
        picked.__dict__.update(self.__dict__)
        for name in ("x", "label", "target"):
            array = getattr(self, name)
            if array is not None:
                array = np.ascontiguousarray(array[index])
                array.setflags(write=False)
                setattr(picked, name, array)
        return picked

    def rows(self):
        """The rows as the oracle takes them."""
        column = {"binary": {"logits": "logit", "probs": "prob"}, "score": {"logprobs": "logprob"}}
        name = column.get(self.family, {}).get(self.form, self.form)
        lists = {name: shown(self.x).tolist()}
        if self.target is not None:
            lists[f"target_{self.target_form}"] = shown(self.target).tolist()
        if self.label is not None:
            lists["label"] = self.label.tolist()
        return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


@dataclass
class Result:
    """The kernels' answer."""

    out: Any
    code: Any
    flags: Any
    at_target: Any
    slots: dict[str, int | None]

    def value(self, key, i):
        slot = self.slots[key]
        return 0.0 if slot is None else float(self.out[slot, i])

    def bits(self, rows=slice(None)):
        """The bits of every quantity of some rows."""
        used = sorted({slot for slot in self.slots.values() if slot is not None})
        return np.ascontiguousarray(self.out[used][:, rows]).view(np.int64)


def run(case, *, threads=1, code=None, **options):
    """The row values of a case."""
    asked, task, n = Options.of(**options), case.task, len(case)
    full = table(task, asked)
    slots = {}
    for key, quantity in full.items():
        other = constant_key(key, task, asked)
        if other == "":
            slots[key] = None
        elif other is not None:
            slots[key] = full[other].slot
        elif quantity.slot is not None:
            slots[key] = quantity.slot
    if task.label != "none" and task.family != "score":
        slots |= {"score": SCORE, "outcome": OUTCOME}
    codes = np.full(n, USED, dtype=np.int8) if code is None else np.array(code, dtype=np.int8)
    result = Result(row_buffer(n), codes, np.zeros(n, np.uint8), np.zeros(n, np.uint8), slots)
    result.out[:] = NOT
    with np.errstate(all="ignore"):
        add_rows(
            task, asked, case.x, codes, dtype=case.dtype, target=case.target, target_dtype=case.target_dtype,
            label=case.label, flags=result.flags, at_target=result.at_target, out=result.out, threads=threads,
        )  # fmt: skip
    return result


def wrong(case, result, relative=1e-12, absolute=1e-14, **options):
    """Where row values and the oracle part, one line each."""
    lines = []
    for i, row in enumerate(case.rows()):
        if result.code[i] != USED:
            lines.append(f"row {i}: code {result.code[i]}")
            continue
        truth = oracle.quantities(row, **options)
        for key in result.slots:
            ours, theirs = result.value(key, i), truth[key]
            if math.isnan(ours) or not oracle.close(ours, theirs, relative, absolute):
                lines.append(f"row {i}: {key} is {ours!r}, not {float(theirs)!r} (off by {float(abs(ours - theirs)):.3g})")
    return lines


def check(case, **options):
    """Every quantity of every row is right."""
    result = run(case, **options)
    options.pop("sum_tolerance", None)
    assert wrong(case, result, **options) == []
    return result


def softmax(z):
    """In float64: rows to start from, not a truth."""
    with np.errstate(all="ignore"):
        e = np.exp(z - z.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)


def log_softmax(z):
    with np.errstate(all="ignore"):
        d = z - z.max(axis=-1, keepdims=True)
        return d - np.log(np.exp(d).sum(axis=-1, keepdims=True))


def as_form(form, z):
    return {"logits": lambda z: z, "probs": softmax, "logprobs": log_softmax}[form](z)


def logits(k, seed=0, rows=None):
    """Rows of every temper: flat, lively, decided, tied, with impossible classes, one-hot, ±1e4, ±8e305."""
    rng = np.random.default_rng(seed)
    z = [scale * rng.normal(size=k) for scale in (0.01, 1.0, 8.0, 60.0)]
    z.append(np.zeros(k))
    z.append(np.where(np.arange(k) % 3 == 1, 4.0, 4.0 - rng.integers(0, 2, k)))  # several tops
    z.append(np.where(rng.random(k) < 0.5, -INF, rng.normal(size=k)))
    z[-1][k - 1] = 0.25
    for hot in (0, k - 1):
        z.append(np.full(k, -INF))
        z[-1][hot] = -3.0
    z.append(40.0 * (np.arange(k) == k // 2))
    z.append(1e4 * rng.choice([-1.0, 1.0], k) + rng.normal(size=k))
    z.append(np.where(np.arange(k) % 2 == 0, -1e4, 1e4 + np.arange(k)))
    z.append(rng.choice([-8e305, 0.0, 8e305], k))
    z.append(np.full(k, 3.0))
    z[-1][0] = -1e308
    return np.array(z)[:rows]


def battery(form, k, dtype, seed=0, rows=None):
    """The same as logits, probabilities or log-probabilities, within the dtype's reach."""
    z = logits(k, seed, rows)
    reach = {"float16": 65504.0, "float32": 3e38, "bfloat16": 3e38, "float64": 1e308}[dtype]
    z = np.where(np.isfinite(z), np.clip(z, -reach, reach), z)
    return as_form(form, z)


def labels(n, k, seed=0):
    return np.random.default_rng(seed + 100).integers(0, k, n)


def loose(dtype, form):
    """Rounded probabilities of narrow types miss 1 by more than the rule allows; the rule itself is tested below."""
    return {"sum_tolerance": 0.5} if dtype in ("float16", "bfloat16") or form == "logprobs" else {"sum_tolerance": 1e-3}


# ---- K classes


@pytest.mark.parametrize("k", SMALL_K)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_hard_labels(dtype, form, k):
    x = battery(form, k, dtype, seed=k)
    check(Case("categorical", form, x, dtype, labels(len(x), k, k)), **loose(dtype, form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_thousand_classes(dtype, form):
    x = battery(form, 1000, dtype, seed=1)[[1, 2, 6, 10]]
    check(Case("categorical", form, x, dtype, labels(4, 1000)), **loose(dtype, form))


@pytest.mark.parametrize("k", [2, 10, 128, 129])
@pytest.mark.parametrize("form", FORMS)
def test_without_labels(form, k):
    result = check(Case("categorical", form, battery(form, k, "float64")), **loose("float64", form))
    assert set(result.slots) == {"entropy", "mean_confidence"}


CATEGORICAL_OPTIONS: dict[str, dict[str, Any]] = {
    "smoothing": {"label_smoothing": 0.1},
    "smoothed all": {"label_smoothing": 1.0},
    "zero": {"zero": 1e-7},
    "zero and smoothing": {"zero": 1e-15, "label_smoothing": 0.05},
    "focal": {"focal_gamma": 2.0},
    "focal, shallow": {"focal_gamma": 0.5, "focal_alpha": 0.25},
    "focal 0": {"focal_gamma": 0.0},
    "focal, all": {"focal_gamma": 1.5, "focal_alpha": 0.75, "label_smoothing": 0.2, "zero": 1e-6},
    "top-k": {"top_k": (1, 2, 3)},
}


@pytest.mark.parametrize("name", CATEGORICAL_OPTIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", [3, 128, 129, 100])
def test_options(name, form, k):
    options = CATEGORICAL_OPTIONS[name]
    x = battery(form, k, "float64", seed=k + 1)
    check(Case("categorical", form, x, "float64", labels(len(x), k)), **options, **loose("float64", form))


@pytest.mark.parametrize("temperature", [0.25, 0.7, 3.0, 100.0])
@pytest.mark.parametrize("k", [2, 10, 129])
def test_temperature(temperature, k):
    x = battery("logits", k, "float32", seed=k)[:-2]
    check(Case("categorical", "logits", x, "float32", labels(len(x), k)), temperature=temperature, focal_gamma=2.0)


def test_differences_beyond_float64_are_infinite():
    """1e308 − (−1e308) is no float64: the class has probability 0 and costs inf; the others are as they were."""
    z = np.array([[1e308, -1e308, 1e308], [-1e308, 1e308, 0.0]])
    result = check(Case("categorical", "logits", z, label=[1, 0]))
    assert result.value("cross_entropy", 0) == result.value("cross_entropy", 1) == INF
    z = np.array([[8e307, -8e307, 8e307], [-8e307, 0.0, 8e307]])
    assert check(Case("categorical", "logits", z, label=[1, 0])).value("cross_entropy", 0) == 1.6e308


@pytest.mark.parametrize("temperature", [1.0, 1.5])
@pytest.mark.parametrize("k", [2, 10, 129, 1000])
def test_classes_that_are_next_to_impossible(k, temperature):
    """Beside −inf nothing is lost and nothing gained: a row of one possible class is certain, to the last bit."""
    gaps = np.array([np.inf, 200, 600, 649, 650, 651, 660, 700, 707, 708, 709, 720, 745, 1e4, 1e300])
    z = np.full((2 * len(gaps), k), -np.inf)
    z[:, 0] = 3.0
    z[:, -1] = 3.0 - np.tile(gaps, 2) * temperature
    z[len(gaps) :, k // 2] = 3.0 - 30 * temperature  # whose loss the others leave alone
    case = Case("categorical", "logits", z, label=np.zeros(len(z), dtype=np.int64))
    result = check(case, temperature=temperature)
    far = np.flatnonzero(gaps >= 700)
    for key in ("cross_entropy", "entropy", "brier"):
        assert (result.out[result.slots[key], far] == 0.0).all(), key


@pytest.mark.parametrize("form", ["probs", "logprobs"])
@pytest.mark.parametrize("k", [2, 10, 128, 129, 100])
def test_normalize(form, k):
    x = battery(form, k, "float64", seed=k)
    stretch = np.linspace(0.3, 40.0, len(x))[:, None]
    x = x * stretch if form == "probs" else x + np.log(stretch)
    x[1] = battery(form, k, "float64", seed=k)[1]
    case = Case("categorical", form, x, label=labels(len(x), k))
    for options in ({}, {"label_smoothing": 0.1, "zero": 1e-5, "focal_gamma": 2.0}):
        result = check(case, normalize=True, **options)
        assert (result.flags & NORMALIZED).tolist() == [0 if i == 1 else NORMALIZED for i in range(len(x))]


def test_exact_probabilities_and_ties():
    """Probabilities of exactly 0 and 1; equal classes go by their index."""
    p = [[1, 0, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3], [0.25, 0.5, 0.25]]
    cases = [(i, y) for i in range(len(p)) for y in range(3)]
    x, y = np.array([p[i] for i, _ in cases]), [y for _, y in cases]
    result = check(Case("categorical", "probs", x, label=y), top_k=(1, 2))
    by = {c: (result.value("cross_entropy", i), result.value("accuracy", i)) for i, c in enumerate(cases)}
    assert by[0, 0] == (0.0, 1.0) and by[0, 1] == (INF, 0.0)
    assert by[2, 0] == (math.log(2), 1.0) and by[2, 1] == (math.log(2), 0.0)
    assert by[4, 0][1] == 1.0 and by[4, 1][1] == 0.0
    assert result.value("entropy", 0) == 0.0
    clipped = check(Case("categorical", "probs", x, label=y), zero=1e-7)
    zero = [p[i][y] == 0 for i, y in cases]
    assert (clipped.flags == np.where(zero, CLIPPED, 0)).all()


def test_negative_zero_is_a_probability():
    check(Case("categorical", "probs", [[-0.0, 1.0], [1.0, -0.0]], label=[0, 0]))


@pytest.mark.parametrize("form", FORMS)
def test_ties_over_many_classes(form):
    """Rank and top class where lanes and steps meet: equal values 32 and 64 classes apart."""
    k = 200
    z = np.zeros((k, k))
    for i in range(k):
        z[i, [i, (i + 32) % k, (i + 64) % k, (i + 7) % k]] = 2.0
    y = (np.arange(k) + np.tile([0, 32, 64, 7], k // 4)) % k
    case = Case("categorical", form, as_form(form, z), label=y)
    result = run(case, top_k=(1, 2, 3, 4))
    rank = [(z[i, : y[i]] == 2.0).sum() for i in range(k)]
    assert (result.out[result.slots["accuracy"]] == (np.array(rank) == 0)).all()
    for top in (1, 2, 3, 4):
        assert (result.out[result.slots[f"top{top}_accuracy"]] == (np.array(rank) < top)).all()


def long_softmax(z):
    """(p, ln p) of a long row at the context's digits."""
    given = [mp.mpf(v) for v in z]
    top = max(given)
    total = top + mp.log(mp.fsum(mp.exp(v - top) for v in given))
    log = [v - total for v in given]
    return [mp.exp(v) for v in log], log


def test_a_vocabulary():
    """128,256 classes: as many as a language model has."""
    k = 128_256
    z = np.random.default_rng(3).normal(scale=3.0, size=(2, k))
    z[1, ::5] = -INF
    y = [77, 128_255]
    with mp.workdps(34):
        p, log = long_softmax(z[0].tolist())
        entropy, square = -mp.fsum(a * b for a, b in zip(p, log, strict=True)), mp.fsum(v * v for v in p)
        truth = {
            "cross_entropy": -log[77],
            "kl_divergence": -log[77],
            "entropy": entropy,
            "brier": square - 2 * p[77] + 1,
            "mean_confidence": max(p),
        }
        for form, x in (("logits", z), ("logprobs", [[float(v) for v in log]]), ("probs", [[float(v) for v in p]])):
            result = run(Case("categorical", form, x, label=y[: len(x)]))
            bound = 1e-12 if form == "logits" else 2e-12  # the rounding of the stored values themselves
            for key, want in truth.items():
                assert oracle.close(result.value(key, 0), want, bound, bound * 1e-2), (form, key)
    assert run(Case("categorical", "logits", z, label=y)).code.tolist() == [USED, USED]


# ---- pairs


def pair_case(form_q, form_p, k, dtype_q="float64", dtype_p="float64", label=False, seed=0):
    """Every temper against another, and against itself."""
    q, p = battery(form_q, k, dtype_q, seed), battery(form_p, k, dtype_p, seed + 1)
    n = len(q)
    shift = np.roll(np.arange(n), 3)
    own = battery(form_p, k, dtype_p, seed)
    q, p = np.concatenate([q, q[shift], q]), np.concatenate([p, p, own])
    y = labels(len(q), k, seed) if label else None
    return Case("pair", form_p, p, dtype_p, y, q, form_q, dtype_q)


@pytest.mark.parametrize("k", [2, 10, 128, 129])
@pytest.mark.parametrize("form_p", FORMS)
@pytest.mark.parametrize("form_q", FORMS)
def test_pairs(form_q, form_p, k):
    case = pair_case(form_q, form_p, k, label=True, seed=k)
    check(case, sum_tolerance=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_pairs_of_every_type(form, dtype):
    for k in (3, 100):
        case = pair_case(form, form, k, dtype, dtype, label=True)
        check(case.take(np.arange(14)), sum_tolerance=0.5)


def test_pairs_of_mixed_types():
    """Every mix is a kernel of its own that takes seconds to compile; this one is the company's below, too."""
    check(pair_case("probs", "logits", 10, "float64", "float32", label=True), sum_tolerance=1e-3)


def test_pairs_of_a_thousand_classes():
    for form in FORMS:
        case = pair_case(form, form, 1000)
        check(case.take([1, 2, 6, 16]), sum_tolerance=1e-3)


PAIR_OPTIONS: dict[str, dict[str, Any]] = {
    "smoothing": {"label_smoothing": 0.1},
    "zero": {"zero": 1e-7},
    "zero and smoothing": {"zero": 1e-15, "label_smoothing": 0.05},
    "focal": {"focal_gamma": 2.0},
    "focal, all": {"focal_gamma": 0.5, "focal_alpha": 0.75, "label_smoothing": 0.2, "zero": 1e-6},
    "normalize": {"normalize": True},
    "top-k": {"top_k": (1, 2)},
}


@pytest.mark.parametrize("name", PAIR_OPTIONS)
@pytest.mark.parametrize(("form_q", "form_p"), [("logits", "logits"), ("probs", "probs"), ("logprobs", "logits")])
@pytest.mark.parametrize("k", [3, 129])
def test_pair_options(name, form_q, form_p, k):
    check(pair_case(form_q, form_p, k, label=True, seed=k + 2), **PAIR_OPTIONS[name], sum_tolerance=1e-3)


@pytest.mark.parametrize("k", [3, 129])
def test_pairs_that_are_renormalised(k):
    case = pair_case("probs", "logprobs", k, seed=k)
    stretch = np.linspace(0.5, 3.0, len(case))[:, None]
    case.target, case.x = store(shown(case.target) * stretch, "float64"), store(shown(case.x) - np.log(stretch), "float64")
    for options in ({}, {"zero": 1e-9, "label_smoothing": 0.01}):
        check(case, normalize=True, **options)


@pytest.mark.parametrize("k", [3, 129])
def test_both_temperatures(k):
    case = pair_case("logits", "logits", k, seed=k)
    keep = np.abs(np.where(np.isfinite(shown(case.x)), shown(case.x), 0)).max(axis=1) < 1e6
    keep &= np.abs(np.where(np.isfinite(shown(case.target)), shown(case.target), 0)).max(axis=1) < 1e6
    check(case.take(np.flatnonzero(keep)), temperature=2.0, target_temperature=0.5)


@pytest.mark.parametrize("k", [2, 10, 128, 129, 1000])
@pytest.mark.parametrize("form", FORMS)
def test_identities_of_pairs(form, k):
    """KL ≥ 0 and 0 between equals, KL = H(q,p) − H(q), JS between 0 and ln 2."""
    rng = np.random.default_rng(k)
    n = 60
    zq = rng.normal(size=(n, k)) * rng.choice([0.1, 1.0, 10.0], (n, 1))
    zp = zq + rng.normal(size=(n, k)) * 10.0 ** rng.uniform(-16, 1, (n, 1))
    zp[:10] = zq[:10]
    case = Case("pair", form, as_form(form, zp), target=as_form(form, zq), target_form=form)
    result = run(case, normalize=form != "logits")
    v = {key: np.array([result.value(key, i) for i in range(n)]) for key in result.slots}
    assert (v["kl_divergence"] >= 0).all() and (v["reverse_kl_divergence"] >= 0).all()
    assert (v["js_divergence"] >= 0).all() and (v["js_divergence"] <= math.log(2) * (1 + 1e-15)).all()
    assert (v["kl_divergence"][:10] == 0).all() and (v["js_divergence"][:10] == 0).all()
    gap = v["cross_entropy"] - v["target_entropy"]
    assert (np.abs(v["kl_divergence"] - gap) <= 1e-14 + 1e-13 * v["cross_entropy"]).all()
    assert (v["same_top"][:10] == 1).all()


@pytest.mark.parametrize("k", [2, 10, 129, 1000])
@pytest.mark.parametrize("smoothing", [0.01, 0.1, 0.5])
def test_kl_of_smoothed_labels_is_not_negative(k, smoothing):
    """Not even where the prediction is the smoothed label itself, and KL is all rounding."""
    y = labels(20, k, k)
    q = np.full((20, k), smoothing / k)
    q[np.arange(20), y] += 1 - smoothing
    for form in FORMS:
        case, options = Case("categorical", form, as_form(form, np.log(q)), label=y), {"normalize": form != "logits"}
        check(case.take(np.arange(3)), label_smoothing=smoothing, **options)
        assert (run(case, label_smoothing=smoothing, **options).out[KL] >= 0).all(), form


# ---- pairs that nearly agree


def near(k, kl, form_q, form_p, seed):
    """Pairs whose KL is `kl` nat or so: half the variance, under q, by which ln p is moved."""
    rng = np.random.default_rng(seed)
    z, noise = rng.normal(scale=2.0, size=(3, k)), rng.normal(size=(3, k))
    q = softmax(z)
    noise -= (q * noise).sum(axis=1, keepdims=True)
    moved = z + noise * np.sqrt(2 * kl / (q * noise**2).sum(axis=1, keepdims=True))
    return Case("pair", form_p, as_form(form_p, moved), target=as_form(form_q, z), target_form=form_q)


DIVERGENCES = ("kl_divergence", "reverse_kl_divergence", "js_divergence")


def divergence_errors(case, **options):
    """The largest relative error of every divergence."""
    result = run(case, **options)
    errors = dict.fromkeys(DIVERGENCES, 0.0)
    for i, row in enumerate(case.rows()):
        truth = oracle.quantities(row, **options)
        for key in DIVERGENCES:
            errors[key] = max(errors[key], float(abs(result.value(key, i) / truth[key] - 1)))
    return errors


@pytest.mark.parametrize("k", [2, 10, 128, 129, 1000])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kl", [1e-6, 1e-10])
def test_nearly_equal(kl, form, k):
    for normalize in (False, True):
        errors = divergence_errors(near(k, kl, form, form, seed=k), normalize=normalize)
        assert max(errors.values()) <= 1e-9, (normalize, errors)


@pytest.mark.parametrize("k", [2, 10, 129, 1000])
@pytest.mark.parametrize("forms", [("logits", "probs"), ("probs", "logits"), ("logprobs", "logits"), ("probs", "logprobs")])
def test_nearly_equal_in_mixed_forms(forms, k):
    errors = divergence_errors(near(k, 1e-6, *forms, seed=k))
    assert max(errors.values()) <= 1e-9, errors


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", ["logits", "probs"])
def test_nearly_equal_in_narrow_types(form, dtype):
    """Rounded to 24 or 8 bits and from there a few units apart; probabilities then sum to 1 only nearly."""
    for k in (10, 1000):
        z = np.random.default_rng(k).normal(scale=2.0, size=(2, k))
        p = as_form(form, z)
        q = p * (
            1 + np.random.default_rng(k + 1).choice([-1, 0, 1, 2], p.shape) * (2.0**-21 if dtype == "float32" else 2.0**-7)
        )
        for normalize in (False, True):
            case = Case("pair", form, p, dtype, [0, 1], q, form, dtype)
            errors = divergence_errors(case, normalize=normalize, sum_tolerance=0.5)
            assert max(errors.values()) <= 1e-9, (k, normalize, errors)


@pytest.mark.parametrize("kl", [1e-6, 1e-10])
def test_nearly_equal_over_a_vocabulary(kl):
    k = 128_256
    case = near(k, kl, "logits", "logits", seed=9).take([0])
    result = run(case)
    with mp.workdps(34):
        q, log_q = long_softmax(shown(case.target)[0].tolist())
        p, log_p = long_softmax(shown(case.x)[0].tolist())
        d = [a - b for a, b in zip(log_q, log_p, strict=True)]
        forward = mp.fsum(a * b for a, b in zip(q, d, strict=True))
        backward = -mp.fsum(a * b for a, b in zip(p, d, strict=True))
        entropy = -mp.fsum(a * b for a, b in zip(q, log_q, strict=True))
        assert abs(forward / kl - 1) < 0.01
        for key, want in (("kl_divergence", forward), ("reverse_kl_divergence", backward)):
            assert oracle.close(result.value(key, 0), want, 1e-9, 0.0), key
        assert oracle.close(result.value("target_entropy", 0), entropy)
        assert oracle.close(result.value("cross_entropy", 0), entropy + forward)


# ---- binary predictions and scores


LOGITS = [0.0, -0.0, 1e-9, -1e-9, 0.3, -0.3, 1.0, -1.0, 5.0, -5.0, 17.0, 36.7, -37.0, 709.0, -709.0, 745.0, -746.0]
LOGITS += [1e4, -1e4, 1e308, -1e308, -INF]
PROBS = [
    0.0,
    -0.0,
    1.0,
    0.5,
    0.25,
    0.75,
    0.9,
    0.1,
    1e-3,
    1e-300,
    5e-324,
    1 - 2**-53,
    1 - 2**-30,
    0.5 + 2**-53,
    0.4999999,
    1 / 3,
]
HARD = [0, 1]
SOFT = [0.0, 1.0, 0.5, 0.3, 1e-10, 1 - 2**-30, 0.9, 1e-300]
BINARY_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "zero": {"zero": 1e-7},
    "pos_weight": {"pos_weight": 2.5},
    "focal": {"focal_gamma": 2.0},
    "focal, balanced": {"focal_gamma": 0.5, "focal_alpha": 0.25},
    "all": {"pos_weight": 0.3, "focal_gamma": 1.0, "focal_alpha": 0.1, "label_smoothing": 0.05, "zero": 1e-10},
}


def binary_case(form, dtype, ys):
    with np.errstate(over="ignore"):
        values = np.unique(shown(store(LOGITS if form == "logits" else PROBS, dtype)))
    values = values[values < INF]
    if form == "logits" and dtype != "float64":
        values = values[np.isfinite(values)]
    return Case("binary", form, np.repeat(values, len(ys)), dtype, None if ys is None else np.tile(ys, len(values)))


@pytest.mark.parametrize("name", BINARY_OPTIONS)
@pytest.mark.parametrize("form", ["logits", "probs"])
@pytest.mark.parametrize("ys", [HARD, SOFT], ids=["hard", "soft"])
def test_binary(ys, form, name):
    check(binary_case(form, "float64", ys), **BINARY_OPTIONS[name])


@pytest.mark.parametrize("form", ["logits", "probs"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_binary_of_every_type(dtype, form):
    check(binary_case(form, dtype, HARD))


def test_the_smallest_logit_is_a_decision():
    """Above 0 is positive, also where the probability rounds to ½."""
    check(Case("binary", "logits", [1e-300, -1e-300, 1e-17, -1e-17, 0.0], label=[1, 0, 0, 1, 0]))
    check(Case("binary", "logits", [1e-300, -1e-300, 1e-17, -1e-17, 0.0], label=[0.7, 0.2, 0.5, 1.0, 0.5]))


def test_binary_temperature():
    for temperature in (0.5, 0.7, 3.0):
        x = [v for v in LOGITS if abs(v) < 1e300]
        check(Case("binary", "logits", np.repeat(x, 2), label=np.tile(HARD, len(x))), temperature=temperature)


def test_binary_without_labels():
    for form in ("logits", "probs"):
        case = binary_case(form, "float64", HARD)
        case.label = None
        assert set(check(case).slots) == {"entropy", "mean_confidence"}


def test_binary_clipping_is_flagged():
    case = Case("binary", "probs", [0.0, 0.0, 1.0, 1.0, 0.5], label=[1, 0, 0, 1, 1])
    assert run(case, zero=1e-7).flags.tolist() == [CLIPPED, 0, CLIPPED, 0, 0]
    assert not run(case).flags.any()


@pytest.mark.parametrize("form", ["logits", "probs"])
def test_binary_nearly_equal(form):
    """Soft labels that the prediction nearly meets: KL of about 1e-6 and 1e-10 within 1e-9 relative."""
    y = np.repeat([0.5, 0.3, 0.9, 0.01], 2)
    z = np.log(y / (1 - y)) + np.tile([1e-3, 1e-5], 4) * np.sqrt(2 / (y * (1 - y)))
    case = Case("binary", form, z if form == "logits" else 1 / (1 + np.exp(-z)), label=y)
    result = run(case)
    for i, row in enumerate(case.rows()):
        truth = oracle.quantities(row)["kl_divergence"]
        assert truth < 1e-5 and oracle.close(result.value("kl_divergence", i), truth, 1e-9, 0.0), (row, float(truth))


def test_binary_kl_is_not_negative():
    y = np.random.default_rng(4).random(400)
    for form, x in (("probs", y), ("logits", np.log(y / (1 - y)))):
        kl = run(Case("binary", form, x, label=y)).out[KL]
        assert (kl >= 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores(dtype):
    x = [0.0, -0.0, -1e-20, -0.5, -1.0, -100.0, -1e4, -INF]
    for options in ({}, {"zero": 1e-7}):
        result = check(Case("score", "logprobs", x, dtype), **options)
        assert (result.flags == CLIPPED).tolist() == ([-v > 16.2 for v in x] if options else [False] * len(x))


# ---- broken rules

BROKEN = {
    "logits": {
        "nan": ({0: NOT}, NAN),
        "+inf": ({-1: INF}, POSITIVE_INFINITY),
        "nan and inf": ({0: INF, -1: NOT}, NAN),
        "inf and -inf": ({0: INF, -1: -INF}, POSITIVE_INFINITY),
        "all -inf": ({...: -INF}, ALL_NEGATIVE_INFINITY),
        "all nan": ({...: NOT}, NAN),
    },
    "probs": {
        "nan": ({-1: NOT}, NAN),
        "negative": ({0: -0.25, 1: 1.25}, NEGATIVE_PROBABILITY),
        "a little negative": ({0: -1e-300}, NEGATIVE_PROBABILITY),
        "sum": ({0: 0.001}, ROW_SUM),
        "zeros": ({...: 0.0}, ROW_SUM),
        "inf": ({0: INF}, ROW_SUM),
        "negative and nan": ({0: -1.0, -1: NOT}, NAN),
        "negative sum": ({...: -1.0}, NEGATIVE_PROBABILITY),
    },
    "logprobs": {
        "nan": ({-1: NOT}, NAN),
        "+inf": ({0: INF}, POSITIVE_INFINITY),
        "all -inf": ({...: -INF}, ALL_NEGATIVE_INFINITY),
        "sum": ({0: -9.0}, ROW_SUM),
        "above 0": ({0: 0.5}, ROW_SUM),
        "far above 0": ({0: 1e308}, ROW_SUM),
        "huge negative": ({...: -1e308}, ROW_SUM),
    },
}  # fmt: skip
BREAKS = [(form, name) for form, kinds in BROKEN.items() for name in kinds]


def good_rows(form, k, n, seed=5):
    """Rows whose first class has a share that matters."""
    z = np.random.default_rng(seed).normal(size=(n, k))
    z[:, 0] = 2.0 + math.log(k)
    return as_form(form, z)


def broken(form, name, x, places):
    """x with rows broken in that way."""
    change, code = BROKEN[form][name]
    x = x.copy()
    for row in places:
        for at, value in change.items():
            x[row, at] = value
    return x, code


PLACES = [0, 5, 31, 32, 39]


@pytest.mark.parametrize("k", [2, 3, 128, 129, 100])
@pytest.mark.parametrize(("form", "name"), BREAKS)
def test_broken_rows(form, name, k):
    """The right rule, alone and among good rows, and not a bit of the good rows changes."""
    good = good_rows(form, k, 40)
    y = labels(40, k)
    x, code = broken(form, name, good, PLACES)
    clean, mixed = (run(Case("categorical", form, a, label=y), focal_gamma=2.0, label_smoothing=0.1) for a in (good, x))
    assert not clean.code.any()
    assert mixed.code.tolist() == [code if i in PLACES else USED for i in range(40)]
    kept = [i for i in range(40) if i not in PLACES]
    assert (clean.bits(kept) == mixed.bits(kept)).all()
    assert run(Case("categorical", form, x[:1], label=y[:1])).code.tolist() == [code]
    assert run(Case("categorical", form, x[:1])).code.tolist() == [code]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("form", "name"), [b for b in BREAKS if b[1] not in ("a little negative", "far above 0", "huge negative")]
)
def test_broken_rows_of_every_type(form, name, dtype):
    for k in (3, 129):
        good = good_rows(form, k, 3)
        x, code = broken(form, name, good, [1])
        assert run(Case("categorical", form, x, dtype, [0, 1, 1]), sum_tolerance=0.5).code.tolist() == [USED, code, USED]


@pytest.mark.parametrize("k", [3, 128, 129])
@pytest.mark.parametrize("side", ["target", "prediction"])
@pytest.mark.parametrize(("form", "name"), BREAKS)
def test_broken_pairs(form, name, side, k):
    """The same for pairs; at_target tells whose rule it was."""
    q, p = good_rows(form, k, 40, seed=6), good_rows(form, k, 40, seed=7)
    y = labels(40, k)
    bad_q, bad_p, code = q, p, 0
    if side == "target":
        bad_q, code = broken(form, name, q, PLACES)
    else:
        bad_p, code = broken(form, name, p, PLACES)
    clean = run(Case("pair", form, p, label=y, target=q, target_form=form))
    mixed = run(Case("pair", form, bad_p, label=y, target=bad_q, target_form=form))
    assert not clean.code.any() and not clean.at_target.any()
    assert mixed.code.tolist() == [code if i in PLACES else USED for i in range(40)]
    assert mixed.at_target.tolist() == [int(side == "target" and i in PLACES) for i in range(40)]
    kept = [i for i in range(40) if i not in PLACES]
    assert (clean.bits(kept) == mixed.bits(kept)).all()


def test_the_target_is_looked_at_first():
    for k in (3, 129):
        q, _ = broken("probs", "negative", good_rows("probs", k, 3), [1])
        p, _ = broken("logits", "nan", good_rows("logits", k, 3), [1])
        result = run(Case("pair", "logits", p, target=q, target_form="probs"))
        assert result.code.tolist() == [USED, NEGATIVE_PROBABILITY, USED]
        assert result.at_target.tolist() == [0, 1, 0]


@pytest.mark.parametrize("family", ["categorical", "pair"])
@pytest.mark.parametrize("k", [2, 3, 128, 129, 100])
@pytest.mark.parametrize("bad", [-1, "k", -(2**63), 2**63 - 1, 2**32])
def test_labels_out_of_range(bad, k, family):
    x = good_rows("logits", k, 40)
    y = labels(40, k)
    wrong_y = y.copy()
    wrong_y[PLACES] = k if bad == "k" else bad
    more = {"target": good_rows("probs", k, 40, seed=8), "target_form": "probs"} if family == "pair" else {}
    clean, mixed = (run(Case(family, "logits", x, label=a, **more), label_smoothing=0.1) for a in (y, wrong_y))
    assert mixed.code.tolist() == [LABEL if i in PLACES else USED for i in range(40)]
    assert not mixed.at_target.any()
    kept = [i for i in range(40) if i not in PLACES]
    assert (clean.bits(kept) == mixed.bits(kept)).all()


@pytest.mark.parametrize("family", ["categorical", "pair"])
def test_two_rules_broken_give_one_code_for_every_k(family):
    """A bad label and a bad value: the same rule is named below and above 128 classes, and whatever stands around."""
    codes = set()
    for k in (3, 128, 129, 100):
        x, _ = broken("logits", "nan", good_rows("logits", k, 5), [2])
        y = np.array([0, 1, k, 0, 1])
        more = {"target": good_rows("probs", k, 5), "target_form": "probs"} if family == "pair" else {}
        codes.add(int(run(Case(family, "logits", x, label=y, **more)).code[2]))
    assert len(codes) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tolerance_of_row_sums(dtype):
    """Just inside and just outside of what SPEC §4 allows each type."""
    allowed = {"float16": 1e-2, "bfloat16": 1e-2, "float32": 1e-4, "float64": 1e-6}[dtype]
    step = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-22, "float64": 2**-40}[dtype]
    for k in (2, 129):
        x = np.zeros((40, k))
        x[:, 0] = 1.0 + np.arange(-20, 20) * step if dtype in ("float16", "bfloat16") else 1.0
        if dtype not in ("float16", "bfloat16"):
            x[:, -1] = np.linspace(0, 2 * allowed, 40)
        case = Case("categorical", "probs", x, dtype)
        off = np.abs(shown(case.x).sum(axis=1) - 1)
        keeps = off <= allowed
        assert keeps.any() and not keeps.all()
        assert (run(case).code == np.where(keeps, USED, ROW_SUM)).all()
        assert not run(case, sum_tolerance=0.5).code.any()
        assert not run(case, normalize=True).code.any()


def test_broken_binary_rows():
    cases = {
        "logits": [(NOT, NAN), (INF, POSITIVE_INFINITY)],
        "probs": [
            (NOT, NAN),
            (-1e-300, NEGATIVE_PROBABILITY),
            (-INF, NEGATIVE_PROBABILITY),
            (1 + 2**-52, PROBABILITY_ABOVE_ONE),
        ],
    }
    cases["probs"].append((INF, PROBABILITY_ABOVE_ONE))
    for form, kinds in cases.items():
        for value, code in kinds:
            good = np.random.default_rng(9).random(600)
            x, places = good.copy(), [0, 7, 511, 512, 599]
            x[places] = value
            for y in (labels(600, 2), np.linspace(0, 1, 600)):
                clean, mixed = (run(Case("binary", form, a, label=y), focal_gamma=1.0) for a in (good, x))
                assert mixed.code.tolist() == [code if i in places else USED for i in range(600)]
                kept = [i for i in range(600) if i not in places]
                assert (clean.bits(kept) == mixed.bits(kept)).all()
            assert run(Case("binary", form, [value])).code.tolist() == [code]


def test_broken_binary_labels():
    for dtype, values in ((np.int64, [-1, 2, 2**62, -(2**62)]), (np.float64, [-0.1, 1.1, NOT, INF, -INF, -5e-324])):
        y = np.zeros(2 * len(values), dtype)
        y[::2] = values
        result = run(Case("binary", "probs", np.full(len(y), 0.25), label=y))
        assert result.code.tolist() == [LABEL, USED] * len(values)
        assert {result.value("cross_entropy", i) for i in range(1, len(y), 2)} == {-math.log(0.75)}


def test_broken_scores():
    result = run(Case("score", "logprobs", [-1.0, NOT, 1e-5, INF, -INF, 1e-7]))
    assert result.code.tolist() == [USED, NAN, PROBABILITY_ABOVE_ONE, PROBABILITY_ABOVE_ONE, USED, USED]
    assert result.value("cross_entropy", 4) == INF


# ---- company


def company(family, k, form="logits", n=70):
    rng = np.random.default_rng(10 + k)
    if family in ("binary", "score"):
        x = rng.normal(scale=3.0, size=700)
        x = {"logits": x, "probs": 1 / (1 + np.exp(-x)), "logprobs": -np.abs(x)}[form]
        return Case(family, form, x, label=None if family == "score" else rng.random(700))
    z = rng.normal(size=(n, k)) * rng.choice([0.1, 3.0, 30.0], (n, 1))
    y = rng.integers(0, k, n)
    if family == "categorical":
        return Case(family, form, as_form(form, z), "float32", y)
    q = as_form("probs", z + rng.normal(size=z.shape) * rng.choice([1e-6, 1.0], (n, 1)))
    return Case(family, form, as_form(form, z), "float32", y, q, "probs", "float64")


COMPANIES = [(f, k, form) for f in ("categorical", "pair") for k in (3, 33, 128, 129, 100) for form in ("logits", "probs")]
COMPANIES += [("binary", 0, "logits"), ("binary", 0, "probs"), ("score", 0, "logprobs")]
MANY: dict[str, dict[str, Any]] = {
    "categorical": {"label_smoothing": 0.1, "focal_gamma": 2.0, "zero": 1e-9, "sum_tolerance": 1e-3},
    "pair": {"label_smoothing": 0.1, "focal_gamma": 2.0, "sum_tolerance": 1e-3},
    "binary": {"label_smoothing": 0.1, "focal_gamma": 2.0, "focal_alpha": 0.3, "pos_weight": 3.0},
    "score": {},
}


@pytest.mark.parametrize(("family", "k", "form"), COMPANIES)
def test_rows_do_not_depend_on_their_company(family, k, form):
    """Alone, backwards, shuffled, doubled, on 1 to 4 threads, among broken and among ignored rows: the same bits."""
    case = company(family, k, form)
    rng, n, options = np.random.default_rng(11), len(case), MANY[family]
    base = run(case, **options)
    assert not base.code.any()
    bits = base.bits()
    for i in (0, 1, 31, 32, n - 1):
        assert (run(case.take([i]), **options).bits()[:, 0] == bits[:, i]).all()
    for order in (np.arange(n)[::-1], rng.permutation(n), np.repeat(np.arange(n), 2), np.arange(3, n), rng.integers(0, n, 45)):
        assert (run(case.take(order), **options).bits() == bits[:, order]).all()
    for threads in (2, 3, 4):
        assert (run(case, threads=threads, **options).bits() == bits).all()
    for value, codes in ((NOT, USED), (NOT, IGNORED), (INF, IGNORED), (-INF, NAN)):
        bad = rng.random(n) < 0.3
        among = case.take(np.arange(n))
        x = shown(among.x).copy()
        x[bad] = value
        among.x = store(x, case.dtype)
        code = np.where(bad, codes, USED)
        for threads in (1, 4):
            result = run(among, threads=threads, code=code, **options)
            assert (result.bits(~bad) == bits[:, ~bad]).all()
            assert (result.code[~bad] == USED).all()
            assert (result.code[bad] == (NAN if codes == USED else codes)).all()


@pytest.mark.parametrize("k", [3, 129])
@pytest.mark.parametrize("family", ["categorical", "pair"])
def test_more_threads_than_rows(family, k):
    case = company(family, k).take([4, 8])
    assert (run(case, threads=4, sum_tolerance=1e-3).bits() == run(case, sum_tolerance=1e-3).bits()).all()


@pytest.mark.parametrize("k", [3, 129])
def test_no_rows(k):
    for family in ("categorical", "pair"):
        assert run(company(family, k).take(np.arange(0)), threads=2).code.shape == (0,)


def test_stored_types_agree():
    """The same numbers in another type are the same row: small integers are exact in all four."""
    z = np.random.default_rng(12).integers(-8, 9, (20, 129)).astype(float)
    y = labels(20, 129)
    results = [run(Case("categorical", "logits", z, dtype, y)).bits() for dtype in DTYPES]
    assert all((bits == results[0]).all() for bits in results)


def test_bytes_are_passed_through():
    out, code = row_buffer(3), np.zeros(3, np.int8)
    flags, at_target = np.zeros(3, np.uint8), np.zeros(3, np.uint8)
    add_rows(
        Task(family="score", form="logprobs", classes=0, bytes=True), Options(), store([-1.0, -2.0, -3.0], "float64"), code,
        bytes_=np.array([4.0, 0.0, 7.0]), flags=flags, at_target=at_target, out=out, threads=1,
    )  # fmt: skip
    assert out[BYTES].tolist() == [4.0, 0.0, 7.0]
