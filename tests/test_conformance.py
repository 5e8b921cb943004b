"""28 other tools' published inputs and outputs: the oracle gives every one, and so does `streamloss.evaluate`.

A case holds exactly (against its 50-digit recomputation without clipping), and as published (with the other tool's
clipping and denominator, to the published digits). The few that cannot be said are listed in `conformance.py` with the
reason.
"""

from __future__ import annotations

import conformance
import oracle
import pyarrow as pa
import pytest
from conformance import NOT_EXPRESSED, OTHER_RULE, numbers, plan, run

import streamloss

CASES = {case["id"]: case for case in conformance.load()}
VALUES = [name for name, case in CASES.items() if case["expected"] != "error"]
ERRORS = [name for name, case in CASES.items() if case["expected"] == "error"]
EXPRESSED = [name for name in VALUES if name not in NOT_EXPRESSED]

pytestmark = pytest.mark.skipif(not CASES, reason=f"no cases.json in {conformance.FOLDER} (STREAMLOSS_CONFORMANCE)")


def by_oracle(rows, options, key):
    if not any(oracle.weight_of(row, **options) for row in rows):
        return None
    return oracle.evaluate(rows, **options)[key].mean


def by_streamloss(rows, options, key):
    if "zero" in options:
        options = {**options, "zero": f"clip:{options['zero']!r}"}
    report = streamloss.evaluate(pa.Table.from_pylist(rows), **options)
    return report.metrics[key].mean


def agree(values, truth, tolerance, relative=0.0):
    assert len(values) == len(truth)
    return all(oracle.close(v, t, relative, tolerance) for v, t in zip(values, truth, strict=True))


@pytest.mark.parametrize("name", EXPRESSED)
def test_oracle_gives_the_exact_value(name):
    """To a float64's last digit; below 1e−100 the recomputation's own 1 − p has cancelled (kornia-focal-stability)."""
    case = CASES[name]
    assert agree(run(plan(case), by_oracle), numbers(case["recomputed_unclipped"]), 1e-100, 1e-15)


@pytest.mark.parametrize("name", EXPRESSED)
def test_exact_value(name):
    """Within 1e−12 relative or 1e−14 absolute (SPEC §5), the 50-digit value without anyone's clipping."""
    case = CASES[name]
    assert agree(run(plan(case), by_streamloss), numbers(case["recomputed_unclipped"]), 1e-14, 1e-12)


@pytest.mark.parametrize("name", [n for n in EXPRESSED if n not in OTHER_RULE])
def test_published_value(name):
    """To the published digits (SPEC §5 promises 1e−14), under the other tool's clipping and denominator."""
    case = CASES[name]
    tolerance = max(case["tol"], 1e-14)
    assert agree(run(plan(case), by_streamloss, published=True), numbers(case["expected"]), tolerance, 1e-12)


@pytest.mark.parametrize("name", ERRORS)
def test_error(name):
    """What the other tool refuses, streamloss refuses."""
    made = plan(CASES[name])
    with pytest.raises((streamloss.DataError, streamloss.UsageError)):
        run(made, by_streamloss)


@pytest.mark.parametrize("name", NOT_EXPRESSED)
def test_not_expressed_is_refused(name):
    """Listed as beyond streamloss: refused, not answered with some other number."""
    with pytest.raises((streamloss.DataError, streamloss.UsageError)):
        run(plan(CASES[name]), by_streamloss)


@pytest.mark.parametrize("name", OTHER_RULE)
def test_other_rule_is_another_number(name):
    """Listed as published under a rule of its own: the number is indeed not ours."""
    case = CASES[name]
    assert not agree(run(plan(case), by_streamloss, published=True), numbers(case["expected"]), case["tol"], 1e-12)


def test_every_case_is_covered():
    assert len(CASES) == 158
    assert set(NOT_EXPRESSED) | set(OTHER_RULE) <= set(VALUES)
    assert not set(NOT_EXPRESSED) & set(OTHER_RULE)
