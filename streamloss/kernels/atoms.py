"""Additions to places that several threads of a CUDA device may add to at once; on the CPU each has sums of its own."""

from __future__ import annotations

from typing import Any

from streamloss import jit

if jit.DISABLED:

    def add_at(array: Any, i: Any, value: Any) -> None:
        """array[i] += value, for an array of one axis."""
        array[i] += value

else:
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    from streamloss.ieee.vectors import on_device

    @intrinsic
    def add_at(_context: Any, array: Any, _i: Any, _value: Any) -> Any:
        """array[i] += value, for an array of one axis."""
        if not isinstance(array, types.Array) or array.ndim != 1 or not isinstance(array.dtype, types.Integer):
            return None

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = sig.args[0]
            made = context.make_array(kind)(context, builder, args[0])
            place = cgutils.get_item_pointer(context, builder, kind, made, [args[1]])
            if on_device(context):
                builder.atomic_rmw("add", place, args[2], "monotonic")
            else:
                builder.store(builder.add(builder.load(place), args[2]), place)
            return context.get_dummy_value()

        return types.void(array, types.int64, array.dtype), lower
