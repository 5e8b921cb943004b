"""How the threads of a kernel share out the rows: each takes the next few when it is done with its last.

A core that also decodes, or that the machine lends to somebody else, then does less, and nobody waits for it. Who takes
which rows changes nothing: what they are added to are integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamloss import jit

if jit.DISABLED:

    def take(cursor: Any, step: int) -> Any:
        """The first of the next `step` rows; cursor (1,) of int64 moves on by as many, at once for all threads."""
        first = np.int64(cursor[0])
        cursor[0] += step
        return first

else:
    from numba import types
    from numba.extending import intrinsic

    @intrinsic
    def take(_context: Any, cursor: Any, _step: Any) -> Any:
        """The first of the next `step` rows; cursor (1,) of int64 moves on by as many, at once for all threads."""

        def add(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, args[0])
            return builder.atomic_rmw("add", array.data, args[1], "monotonic")

        return types.int64(cursor, types.int64), add
