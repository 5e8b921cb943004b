"""What a warp of a CUDA device is to the kernels: 32 lanes, each a thread's. The simulator's is one thread with all lanes."""

from __future__ import annotations

from streamloss.ieee.bits import LANES
from streamloss.jit import SIMULATED

WIDTH = 1 if SIMULATED else LANES  # threads of a warp
BESIDE = LANES + 1  # columns of a table in shared memory: neither its rows nor its columns make threads wait for one another
