"""Kernels of a CUDA device compiled to PTX where there is none, and run by `ptx`."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
import types
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numba_cuda
import numpy as np
import ptx
from cuda.pathfinder import find_nvidia_binary_utility

from streamloss import jit
from streamloss.kernels.cuda.machine import Cuda

if not jit.SIMULATED:
    import numba.cuda.dispatcher
    from numba.cuda.cudadrv import nvvm

CAPABILITY = (9, 0)


def compiled(kernel: Any, arguments: tuple[Any, ...], capability: tuple[int, int] = CAPABILITY) -> str:
    """The PTX of a kernel for arguments of these types."""
    return _compiled(kernel, tuple(numba.typeof(argument) for argument in arguments), capability)


@cache
def _compiled(kernel: Any, kinds: tuple[Any, ...], capability: tuple[int, int]) -> str:
    """From disk where the same sources were compiled before, as the CPU's kernels are."""
    folder = jit.cache_dir() if kernel.__module__.startswith("streamloss.") else None
    if folder is None:
        return _made(kernel, kinds, capability)
    what = f"{kernel.__qualname__} {kinds} {capability} {numba_cuda.__version__} {jit.sources()}"
    path = Path(folder) / f"{kernel.__name__}.{hashlib.sha256(what.encode()).hexdigest()[:24]}.ptx"
    if not path.exists():
        text = _made(kernel, kinds, capability)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(text)
        unfinished.replace(path)
    return path.read_text()


def _made(kernel: Any, kinds: tuple[Any, ...], capability: tuple[int, int]) -> str:
    # What a kernel calls is compiled for the device of this machine: say that there is one.
    current = numba.cuda.dispatcher.get_current_device
    numba.cuda.dispatcher.get_current_device = lambda: types.SimpleNamespace(compute_capability=capability)
    written: list[str] = []
    compile_ir = nvvm.compile_ir

    def noted(llvmir: Any, **options: Any) -> Any:
        written.extend([llvmir] if isinstance(llvmir, str) else llvmir)
        return compile_ir(llvmir, **options)

    nvvm.compile_ir = noted
    try:
        text, _ = numba.cuda.compile_ptx(kernel, kinds, cc=capability)
    finally:
        nvvm.compile_ir = compile_ir
        numba.cuda.dispatcher.get_current_device = current
    # The compiler of the device makes one instruction of such a product and a sum, whatever the sum's rounding was to be.
    if products := [line for ir in written for line in ir.splitlines() if " fmul " in line]:
        raise ValueError(f"may be fused: {products[0].strip()}")
    return str(text)


def run(kernel: Any, arguments: tuple[Any, ...], blocks: int | tuple[int, int], threads: int = ptx.WARP) -> ptx.Grid:
    """Runs a kernel; the arrays among its arguments hold its results."""
    grid = ptx.Grid(ptx.parse(compiled(kernel, arguments)), blocks, threads)
    grid.run(arguments)
    return grid


class There(np.ndarray[Any, Any]):
    """An array of the emulated device: nobody computes with it but kernels."""

    def __array_ufunc__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the host looks into the memory of the device")

    __array_function__ = __array_ufunc__


def here(value: Any) -> Any:
    """Arguments whose arrays are NumPy's; they have to be the device's, or every launch would copy them there and back."""
    if isinstance(value, tuple):
        return type(value)(*map(here, value)) if hasattr(value, "_fields") else tuple(map(here, value))
    assert isinstance(value, There) or not isinstance(value, np.ndarray)
    return value.view(np.ndarray) if isinstance(value, There) else value


class Emulated:
    """A device that `streamloss.kernels.cuda.device` launches on, whose memory is NumPy's."""

    fetched = 0  # bytes that came to the host

    def to_device(self, array: Any) -> Any:
        return array if isinstance(array, There) else np.array(array, order="C").view(There)

    def send(self, name: str, array: Any) -> Any:
        return self.to_device(array)

    def to_host(self, array: Any) -> Any:
        Emulated.fetched += array.nbytes
        return np.array(array.view(np.ndarray))

    def adopt(self, array: Any) -> Any:
        told = array.__cuda_array_interface__ | {"version": 3}
        return np.asarray(types.SimpleNamespace(__array_interface__=told, owner=array)).view(There)

    def room(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.full(shape, 77, dtype=dtype).view(There)

    def launch(self, kernel: Any, blocks: tuple[int, int], arguments: tuple[Any, ...], warps: int = 1) -> None:
        run(kernel, here(arguments), blocks, warps * ptx.WARP)


# `scripts/gpu_check` has the tests run on the device of this machine; Numba's simulator stands in the place of one.
REAL = jit.SIMULATED or bool(os.environ.get("STREAMLOSS_TEST_CUDA"))
Machine: Any = Cuda if REAL else Emulated


def spilled(text: str, capability: tuple[int, int]) -> tuple[int, int]:
    """Bytes of registers that the assembler of the device stores to memory and loads again."""
    program = find_nvidia_binary_utility("ptxas")
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(text)
        command = [program, f"-arch=sm_{capability[0]}{capability[1]}", "-v", str(path), "-o", str(path.with_suffix(".cubin"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert found is not None
    return int(found[1]), int(found[2])
