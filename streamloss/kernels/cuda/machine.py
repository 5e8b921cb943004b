"""The CUDA device of this machine, or the simulator in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from streamloss.jit import SIMULATED, device_kernel
from streamloss.kernels.cuda.warps import WIDTH

if not SIMULATED:
    from streamloss.ieee import warp  # noqa: F401  (tells the compiler of the device what lanes are)

_kernels: dict[Callable[..., None], Any] = {}


_BLOCK = 4 << 20  # bytes of a pinned buffer: long enough that what a copy costs besides does not count


class Cuda:
    """A stream of work on the device: what one thread launches is done in its order, beside what others launch.

    Batches go there through two pinned buffers in turn: while the device fetches one, the other is filled, and no copy waits
    for kernels of other streams.
    """

    def __init__(self) -> None:
        self._stream = cuda.stream()
        self._pinned: list[tuple[NDArray[np.uint8], Any]] = []
        self._named: dict[str, Any] = {}
        self._turn = 0

    def to_device(self, array: NDArray[Any]) -> Any:
        """The array in the device's memory; one that is there already as it is."""
        if getattr(array, "__cuda_ndarray__", False):
            return array
        return cuda.to_device(np.ascontiguousarray(array), stream=self._stream)

    def send(self, name: str, array: NDArray[Any]) -> Any:
        """`to_device` of what there is one of at a time: the next array of the same name takes its place."""
        if SIMULATED or array.nbytes == 0 or getattr(array, "__cuda_ndarray__", False):
            return self.to_device(array)
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        room = self._named.get(name)
        if room is None or room.shape[0] < len(flat):
            room = self._named[name] = cuda.device_array(len(flat), dtype=np.uint8)
        while len(self._pinned) < 2:
            self._pinned.append((cuda.pinned_array(_BLOCK, dtype=np.uint8), cuda.event(timing=False)))
        for start in range(0, len(flat), _BLOCK):
            piece = flat[start : start + _BLOCK]
            buffer, fetched = self._pinned[self._turn]
            self._turn = 1 - self._turn
            fetched.synchronize()
            buffer[: len(piece)] = piece
            room[start : start + len(piece)].copy_to_device(buffer[: len(piece)], stream=self._stream)
            fetched.record(self._stream)
        return room[: len(flat)].view(array.dtype).reshape(*array.shape)

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

    def launch(self, kernel: Callable[..., None], blocks: tuple[int, int], arguments: tuple[Any, ...], warps: int = 1) -> None:
        """Runs a kernel in blocks of some warps, after what was launched before."""
        known = _kernels.get(kernel) or _kernels.setdefault(kernel, device_kernel(kernel))
        known[blocks, WIDTH * warps, self._stream](*arguments)


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
