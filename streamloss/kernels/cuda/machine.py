"""The CUDA device of this machine, or the simulator in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from streamloss.jit import SIMULATED, device_kernel
from streamloss.kernels.cuda.rows import WIDTH

if not SIMULATED:
    from streamloss.ieee import warp  # noqa: F401  (tells the compiler of the device what lanes are)

_kernels: dict[Callable[..., None], Any] = {}


class Cuda:
    """A stream of work on the device: what one thread launches is done in its order, beside what others launch."""

    def __init__(self) -> None:
        self._stream = cuda.stream()

    def to_device(self, array: NDArray[Any]) -> Any:
        """The array in the device's memory; one that is there already as it is."""
        if getattr(array, "__cuda_ndarray__", False):
            return array
        return cuda.to_device(np.ascontiguousarray(array), stream=self._stream)

    def to_host(self, array: Any) -> NDArray[Any]:
        """An array of the device's memory, when all that was launched before is done."""
        found: NDArray[Any] = array.copy_to_host(stream=self._stream)
        self._stream.synchronize()
        return found

    def adopt(self, array: Any) -> Any:
        """An array that lies in the device's memory and says so by `__cuda_array_interface__`, where it lies."""
        return cuda.as_cuda_array(array)

    def room(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array in the device's memory; it holds anything."""
        return cuda.device_array(shape, dtype=dtype, stream=self._stream)

    def launch(self, kernel: Callable[..., None], blocks: tuple[int, int], arguments: tuple[Any, ...]) -> None:
        """Runs a kernel in blocks of one warp, after what was launched before."""
        if kernel not in _kernels:
            _kernels[kernel] = device_kernel(kernel)
        _kernels[kernel][blocks, WIDTH, self._stream](*arguments)


def why_not() -> str | None:
    """Why there is no device to compute on; None where there is one."""
    if SIMULATED or cuda.is_available():
        return None
    try:
        cuda.current_context()
    except Exception as error:  # of the driver: whatever it is, there is no device
        said = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Error at")]
        return said[0].rstrip(".") if said else type(error).__name__
    return "no CUDA device answers"
