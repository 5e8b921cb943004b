"""What runs PTX here does what a device would, and refuses what a device may do in several ways."""

from __future__ import annotations

from typing import Any

import device
import numpy as np
import pytest
from numba import cuda

from streamloss.ieee import bits, elementary
from streamloss.kernels.atoms import add_at


def copy_with_lanes(x: Any, out: Any) -> None:
    bits.store(out, 0, 32 * cuda.blockIdx.x, bits.load(x, 0, 32 * cuda.blockIdx.x))


def fused(x: Any, out: Any) -> None:
    i = cuda.grid(1)
    out[0, i] = x[0, i] * x[0, i] + 1.0


def outside(x: Any, out: Any) -> None:
    out[0, cuda.grid(1)] = x[0, cuda.grid(1) + 1]


def parted(x: Any, out: Any) -> None:
    if x[0, cuda.grid(1)] > 0.0:
        out[0, cuda.grid(1)] = bits.sum_of(bits.load(x, 0, 0))


def trees(x: Any, out: Any) -> None:
    v = bits.load(x, 0, 0)
    bits.store(out, 0, 0, bits.lanes(bits.sum_of(v)))
    bits.store(out, 1, 0, bits.lanes(bits.max_of(v)))
    bits.store(out, 2, 0, bits.lanes(np.float64(bits.count_of(v > 0.0))))
    bits.store(out, 3, 0, bits.numbered(v))


def functions(x: Any, out: Any) -> None:
    v = bits.load(x, 0, 32 * cuda.blockIdx.x)
    at = 32 * cuda.blockIdx.x
    bits.store(out, 0, at, elementary.exp(v))
    bits.store(out, 1, at, elementary.log(abs(v)))
    bits.store(out, 2, at, elementary.log1p(abs(v)))
    chance, rest, cost_1, cost_0 = elementary.logistic(v)
    bits.store(out, 3, at, chance)
    bits.store(out, 4, at, rest)
    bits.store(out, 5, at, cost_1)
    bits.store(out, 6, at, cost_0)


def counted(x: Any, counts: Any) -> None:
    add_at(counts, np.int64(x[0, cuda.grid(1)]), 1)


def test_threads_have_a_lane_each() -> None:
    x, out = np.random.default_rng(1).normal(size=(1, 96)), np.zeros((1, 96))
    device.run(copy_with_lanes, (x, out), 3)
    np.testing.assert_array_equal(out, x)


def test_what_may_be_fused_is_refused() -> None:
    with pytest.raises(ValueError, match="may be fused"):
        device.run(fused, (np.ones((1, 32)), np.ones((1, 32))), 1)


def test_what_is_outside_of_an_array_is_refused() -> None:
    with pytest.raises(AssertionError, match="outside of every array"):
        device.run(outside, (np.ones((1, 32)), np.ones((1, 32))), 1)


def test_a_warp_that_parts_does_nothing_together() -> None:
    x = np.ones((1, 32))
    x[0, 7] = -1.0
    with pytest.raises(AssertionError, match="a warp has parted"):
        device.run(parted, (x, np.zeros((1, 32))), 1)


def test_lanes_are_joined_as_on_the_cpu() -> None:
    x, out = np.random.default_rng(2).normal(size=(1, 32)) * 1e3, np.zeros((4, 32))
    device.run(trees, (x, out), 1)
    v = x[0]
    while len(v) > 1:
        v = v[: len(v) // 2] + v[len(v) // 2 :]
    assert set(out[0]) == {v[0]} and set(out[1]) == {x.max()} and set(out[2]) == {(x > 0).sum()}
    assert out[3].tolist() == list(range(32))


def test_additions_of_many_threads_to_one_place() -> None:
    x, counts = np.random.default_rng(3).integers(0, 3, (1, 128)).astype(np.float64), np.zeros(3, dtype=np.int64)
    device.run(counted, (x, counts), 4)
    assert counts.tolist() == np.bincount(x[0].astype(int), minlength=3).tolist()


def test_functions_have_the_bits_of_the_cpu() -> None:
    r = np.random.default_rng(4)
    x = np.concatenate(
        [r.normal(size=200) * 10.0 ** r.integers(-20, 3, 200), [0.0, -0.0, 745.2, -745.2, 1e300, 5e-324], r.normal(size=18)]
    )
    x = x[None, : len(x) // 32 * 32]
    out = np.zeros((7, x.shape[1]))
    device.run(functions, (x, out), x.shape[1] // 32)
    expected = np.array(
        [[elementary.exp(v), elementary.log(abs(v)), elementary.log1p(abs(v)), *elementary.logistic(v)] for v in x[0]]
    ).T
    np.testing.assert_array_equal(out.view(np.int64), expected.view(np.int64))
