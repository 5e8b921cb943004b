"""What rows are computed on, the CPU or a CUDA device: another speed, and never another result."""

from __future__ import annotations

import importlib.util
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from streamloss.errors import UsageError
from streamloss.options import Options, Task
from streamloss.running.measure import Accumulator

if TYPE_CHECKING:
    from streamloss.running.device import OnDevice

_NUMBA = (0, 68)  # with an older one the CPU's kernels may not compile once a device's have

Device = Literal["auto", "cpu", "cuda"]
Chosen = Literal["cpu", "cuda"]


class NoDevice(UserWarning):
    """There is no CUDA device here."""


def chosen(device: Device) -> Chosen:
    """What there is of what was asked for; `NoDevice` warns where a CUDA device was, and is not there.

    Raises `UsageError` for another name.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device is one of auto, cpu, cuda, not {device!r}")
    if device == "cpu":
        return "cpu"
    why = _why_not()
    if why is None:
        return "cuda"
    if device == "cuda":
        warnings.warn(f"no CUDA device: {why}; the CPU computes the same", NoDevice, stacklevel=2)
    return "cpu"


def _why_not() -> str | None:
    if importlib.util.find_spec("numba_cuda") is None:
        return "it needs the extra, pip install 'streamloss[cuda]'"
    if tuple(map(int, (found := version("numba")).split(".")[:2])) < _NUMBA:
        return f"it needs numba {'.'.join(map(str, _NUMBA))} or newer, and this is {found}"
    from streamloss.kernels.cuda.machine import why_not

    return why_not()


def accumulator(device: Chosen, task: Task, options: Options, threads: int) -> Accumulator:
    """What batches are added to."""
    if device == "cpu":
        return Accumulator(task, options, threads)
    return _on_device(task, options, threads)


def moved(known: Accumulator | None, task: Task, options: Options, threads: int) -> OnDevice:
    """What batches of arrays on a device are added to, with all that was added to another before.

    Raises `UsageError` where no device can be used.
    """
    if (why := _why_not()) is not None:
        raise UsageError(f"arrays on a CUDA device, and it cannot be used: {why}")
    found = _on_device(task, options, threads)
    if known is not None:
        found.absorb(known)
    return found


def _on_device(task: Task, options: Options, threads: int) -> OnDevice:
    from streamloss.kernels.cuda.machine import Cuda
    from streamloss.running.device import OnDevice

    return OnDevice(task, options, threads, machine=Cuda)
