"""Kernels of a CUDA device compiled to PTX where there is none, and run by `ptx`."""

from __future__ import annotations

import types
from functools import cache
from typing import Any

import numba
import numba.cuda
import numba.cuda.dispatcher
import ptx

from streamloss.ieee import warp  # noqa: F401  (tells the compiler of the device what lanes are)

CAPABILITY = (9, 0)


def compiled(kernel: Any, arguments: tuple[Any, ...], capability: tuple[int, int] = CAPABILITY) -> str:
    """The PTX of a kernel for arguments of these types."""
    return _compiled(kernel, tuple(numba.typeof(argument) for argument in arguments), capability)


@cache
def _compiled(kernel: Any, kinds: tuple[Any, ...], capability: tuple[int, int]) -> str:
    # What a kernel calls is compiled for the device of this machine: say that there is one.
    numba.cuda.dispatcher.get_current_device = lambda: types.SimpleNamespace(compute_capability=capability)
    text, _ = numba.cuda.compile_ptx(kernel, kinds, cc=capability)
    return str(text)


def run(kernel: Any, arguments: tuple[Any, ...], blocks: int | tuple[int, int], threads: int = ptx.WARP) -> ptx.Grid:
    """Runs a kernel; the arrays among its arguments hold its results."""
    grid = ptx.Grid(ptx.parse(compiled(kernel, arguments)), blocks, threads)
    grid.run(arguments)
    return grid
