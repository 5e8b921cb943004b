"""The primitives under our arithmetic, on one number or on 32 at once: fused multiply-add, bit views, `select`, and the
widening of narrow floats.

Functions written with them take a float64 or Lanes, 32 float64s in registers (see `vectors`): one text, and the same bits.
With `NUMBA_DISABLE_JIT=1` the same names are plain Python and NumPy, slow and exact, so that the kernels can be stepped
through. float16 comes as uint16 and bfloat16 as int16 bits (see `reading.batch`); `widen` and `load` tell them apart by the
type alone.
"""

from __future__ import annotations

import math
from functools import wraps
from typing import Any

from streamloss import jit
from streamloss.ieee.plain import LANES as LANES
from streamloss.ieee.plain import SQUARE as SQUARE

if jit.DISABLED:
    from streamloss.ieee.plain import (
        by_column as by_column,
    )
    from streamloss.ieee.plain import (
        count_of as count_of,
    )
    from streamloss.ieee.plain import (
        fma as fma,
    )
    from streamloss.ieee.plain import (
        from_bits as from_bits,
    )
    from streamloss.ieee.plain import (
        lane_from as lane_from,
    )
    from streamloss.ieee.plain import (
        lane_of as lane_of,
    )
    from streamloss.ieee.plain import (
        lane_to as lane_to,
    )
    from streamloss.ieee.plain import (
        lanes as lanes,
    )
    from streamloss.ieee.plain import (
        load as load,
    )
    from streamloss.ieee.plain import (
        load_narrow as load_narrow,
    )
    from streamloss.ieee.plain import (
        lowest as lowest,
    )
    from streamloss.ieee.plain import (
        max_of as max_of,
    )
    from streamloss.ieee.plain import (
        meet as meet,
    )
    from streamloss.ieee.plain import (
        mul as mul,
    )
    from streamloss.ieee.plain import (
        narrow as narrow,
    )
    from streamloss.ieee.plain import (
        numbered as numbered,
    )
    from streamloss.ieee.plain import (
        select as select,
    )
    from streamloss.ieee.plain import (
        store as store,
    )
    from streamloss.ieee.plain import (
        sum_of as sum_of,
    )
    from streamloss.ieee.plain import (
        to_bits as to_bits,
    )
    from streamloss.ieee.plain import (
        turn as turn,
    )
    from streamloss.ieee.plain import (
        widen as widen,
    )
else:
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    from streamloss.ieee.vectors import (
        F32,
        F64,
        HALF,
        I1,
        I16,
        I32,
        I64,
        LOWER,
        Lanes,
        Mask,
        Narrow,
        Vector,
        Whole,
        constant,
        on_device,
        spread,
        spread_all,
        vector_of,
    )

    assert Lanes.llvm.count == LANES

    def _primitive(cpu: Any, name: str) -> Any:
        """How a primitive is written for the target that code is made for."""

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return (LOWER[name] if on_device(context) else cpu)(context, builder, sig, args)

        return lower

    def _intrinsic(typing: Any) -> Any:
        """An intrinsic with a way of its own on a CUDA device."""

        @wraps(typing)
        def both(*args: Any) -> Any:
            found = typing(*args)
            return found if found is None else (found[0], _primitive(found[1], typing.__name__))

        return intrinsic(both)

    def _shaped(llvm: Any, like: Any) -> Any:
        """The scalar LLVM type, or the vector of it where `like` is one."""
        return ir.VectorType(llvm, like.count) if isinstance(like, ir.VectorType) else llvm

    @_intrinsic
    def fma(_context: Any, a: Any, b: Any, c: Any) -> Any:
        """a·b + c, rounded once."""
        vector = vector_of((a, b, c))
        if vector is None:
            kinds = (types.float64,) * 3
            return types.float64(*kinds), lambda _cx, builder, _sig, args: builder.fma(*args)

        if vector is not Lanes:
            return None

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = ir.FunctionType(Lanes.llvm, [Lanes.llvm] * 3)
            name = f"llvm.fma.v{LANES}f64"
            function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            return builder.call(function, spread_all(context, builder, args, sig.args, Lanes))

        return vector(a, b, c), lower

    @_intrinsic
    def mul(_context: Any, a: Any, b: Any) -> Any:
        """a·b of two numbers, rounded before anything is added to it."""
        return types.float64(types.float64, types.float64), lambda _cx, builder, _sig, args: builder.fmul(*args)

    @_intrinsic
    def to_bits(_context: Any, x: Any) -> Any:
        """The bits of a float64 as int64."""
        if x is Lanes:
            return Whole(x), lambda _cx, builder, _sig, args: builder.bitcast(args[0], Whole.llvm)
        return types.int64(types.float64), lambda _cx, builder, _sig, args: builder.bitcast(args[0], I64)

    @_intrinsic
    def from_bits(_context: Any, i: Any) -> Any:
        """The float64 with these bits; sums of bit patterns wrap as int64 does."""
        if i is Whole:
            return Lanes(i), lambda _cx, builder, _sig, args: builder.bitcast(args[0], Lanes.llvm)
        return types.float64(types.int64), lambda _cx, builder, _sig, args: builder.bitcast(args[0], F64)

    @intrinsic
    def select(_context: Any, condition: Any, a: Any, b: Any) -> Any:
        """a where the condition holds, else b, in every lane; both have been computed."""
        vector = vector_of((a, b)) or (Lanes if condition is Mask else None)
        if vector is None:
            signature = types.float64(types.boolean, types.float64, types.float64)
            return signature, lambda _cx, builder, _sig, args: builder.select(*args)

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            some, other = spread_all(context, builder, args[1:], sig.args[1:], vector)
            return builder.select(args[0], some, other)  # one truth chooses whole vectors

        return vector(condition, a, b), lower

    def _half(builder: Any, bits: Any) -> Any:
        """float16 bits to float32: by the CPU's instruction, or integer shifts and one exact product where it may lack it."""
        if jit.has_feature("f16c"):
            return builder.fpext(builder.bitcast(bits, _shaped(HALF, bits.type)), _shaped(F32, bits.type))
        whole, single = _shaped(I32, bits.type), _shaped(F32, bits.type)
        wide = builder.zext(bits, whole)
        body = builder.shl(builder.and_(wide, constant(whole, 0x7FFF)), constant(whole, 13))
        scaled = builder.fmul(builder.bitcast(body, single), builder.bitcast(constant(whole, 0x77800000), single))  # 2^112
        special = builder.icmp_unsigned(">=", body, constant(whole, 0x0F800000))  # all-ones exponent: inf or NaN
        infinite = builder.or_(body, constant(whole, 0x7F800000))
        magnitude = builder.select(special, infinite, builder.bitcast(scaled, whole))
        sign = builder.shl(builder.and_(wide, constant(whole, 0x8000)), constant(whole, 16))
        return builder.bitcast(builder.or_(magnitude, sign), single)

    def _brain(builder: Any, bits: Any) -> Any:
        """bfloat16 bits to float32: its upper half."""
        whole = _shaped(I32, bits.type)
        return builder.bitcast(builder.shl(builder.zext(bits, whole), constant(whole, 16)), _shaped(F32, bits.type))

    # How stored values become float32, where they are no wider, and what they are in LLVM.
    _SINGLE: dict[Any, Any] = {types.uint16: _half, types.int16: _brain, types.float32: lambda _builder, x: x}
    _STORED = {types.uint16: I16, types.int16: I16, types.float32: F32, types.float64: F64}

    def _widened(builder: Any, kind: Any, x: Any) -> Any:
        if kind == types.float64:
            return x
        return builder.fpext(_SINGLE[kind](builder, x), _shaped(F64, x.type))

    @_intrinsic
    def widen(_context: Any, x: Any) -> Any:
        """A stored prediction value, or what `load_narrow` gave, as float64."""
        if x is Lanes:
            return Lanes(x), lambda _cx, _builder, _sig, args: args[0]
        if x is Narrow:
            return Lanes(x), lambda _cx, builder, _sig, args: builder.fpext(args[0], Lanes.llvm)
        if x not in _STORED:
            return None
        return types.float64(x), lambda _cx, builder, _sig, args: _widened(builder, x, args[0])

    @intrinsic
    def lowest(_context: Any, x: Any) -> Any:
        """−inf as the array x stores it."""
        if not isinstance(x, types.Array) or x.dtype not in _STORED:
            return None
        value = {types.uint16: 0xFC00, types.int16: -128}.get(x.dtype, -math.inf)
        return x.dtype(x), lambda _cx, _builder, _sig, _args: ir.Constant(_STORED[x.dtype], value)

    @_intrinsic
    def lanes(_context: Any, x: Any) -> Any:
        """32 times the same number."""
        return Lanes(x), lambda context, builder, sig, args: spread(context, builder, args[0], sig.args[0], Lanes)

    def _address(context: Any, builder: Any, kind: Any, array: Any, row: Any, first: Any) -> Any:
        """The address of 32 values of a C-contiguous array (rows, columns), and the bytes that it is a multiple of."""
        made = context.make_array(kind)(context, builder, array)
        columns = builder.extract_value(made.shape, 1)
        stored = _STORED[kind.dtype]
        at = builder.gep(made.data, [builder.add(builder.mul(row, columns), first)])
        return builder.bitcast(at, ir.VectorType(stored, LANES).as_pointer()), kind.dtype.bitwidth // 8

    def _matrix(x: Any) -> bool:
        return isinstance(x, types.Array) and x.ndim == 2 and x.layout in "CF" and x.dtype in _STORED

    def _loaded(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = sig.args[0]
        if kind.layout == "C":
            address, align = _address(context, builder, kind, *args)
            return builder.load(address, align=align)
        made = context.make_array(kind)(context, builder, args[0])  # column after column: one value at a time
        rows = builder.extract_value(made.shape, 0)
        found = ir.Constant(ir.VectorType(_STORED[kind.dtype], LANES), ir.Undefined)
        for lane in range(LANES):
            at = builder.add(args[1], builder.mul(rows, builder.add(args[2], I64(lane))))
            found = builder.insert_element(found, builder.load(builder.gep(made.data, [at])), I32(lane))
        return found

    @intrinsic
    def turn(_context: Any, x: Any, _row: Any, _first: Any, panel: Any, _lane: Any) -> Any:
        """panel[first + j, lane + i] = x[row + i, first + j] for i and j below 16, of two C-contiguous arrays of one dtype.
        Where rows are shorter, what follows in memory is taken for the rest: that there is so much is the caller's care.
        """
        if not (_matrix(x) and _matrix(panel) and x.dtype == panel.dtype and panel.layout == "C"):
            return None

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            square = ir.VectorType(_STORED[x.dtype], SQUARE)
            row, first, lane = args[1], args[2], args[4]

            def address(kind: Any, array: Any, row: Any, column: Any) -> Any:
                at, align = _address(context, builder, kind, array, row, column)
                return builder.bitcast(at, square.as_pointer()), align

            lines = []
            for i in range(SQUARE):
                at, align = address(sig.args[0], args[0], builder.add(row, I64(i)), first)
                lines.append(builder.load(at, align=align))
            for step in (8, 4, 2, 1):  # squares of `step` change places across the diagonal
                masks = [
                    [i if not i & step else SQUARE + (i ^ step) for i in range(SQUARE)],
                    [i | step if not i & step else SQUARE + i for i in range(SQUARE)],
                ]
                upper, lower_ = (ir.Constant(ir.VectorType(I32, SQUARE), [I32(i) for i in mask]) for mask in masks)
                for i in range(SQUARE):
                    if not i & step:
                        a, b = lines[i], lines[i | step]
                        lines[i] = builder.shuffle_vector(a, b, upper)
                        lines[i | step] = builder.shuffle_vector(a, b, lower_)
            for j in range(SQUARE):
                at, align = address(sig.args[3], args[3], builder.add(first, I64(j)), lane)
                builder.store(lines[j], at, align=align)
            return context.get_dummy_value()

        return types.void(x, types.int64, types.int64, panel, types.int64), lower

    @intrinsic
    def by_column(_context: Any, x: Any) -> Any:
        """Whether the array (rows, columns) holds column after column, not row after row."""
        if not _matrix(x):
            return None
        return types.boolean(x), lambda _cx, _builder, _sig, _args: ir.Constant(I1, int(x.layout == "F"))

    @_intrinsic
    def load(_context: Any, x: Any, _row: Any, _first: Any) -> Any:
        """x[row, first : first + 32], widened; x is (rows, columns), contiguous, and its end the caller's care."""
        if not _matrix(x):
            return None
        return Lanes(x, types.int64, types.int64), lambda context, builder, sig, args: _widened(
            builder, x.dtype, _loaded(context, builder, sig, args)
        )

    @_intrinsic
    def load_narrow(_context: Any, x: Any, _row: Any, _first: Any) -> Any:
        """`load` as float32 where the stored values are no wider: for comparisons, at half the price."""
        if not _matrix(x):
            return None

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            values = _loaded(context, builder, sig, args)
            return _SINGLE[x.dtype](builder, values) if x.dtype in _SINGLE else values

        return _narrow_of(x)(x, types.int64, types.int64), lower

    def _narrow_of(x: Any) -> Vector:
        return Narrow if x.dtype in _SINGLE else Lanes

    @_intrinsic
    def narrow(_context: Any, x: Any, v: Any) -> Any:
        """32 times the number v, or 32 values that x can hold, as wide as `load_narrow` gives the values of x."""
        vector = _narrow_of(x)
        if v is Lanes:
            same = vector is Lanes
            return vector(x, v), lambda _cx, builder, _sig, args: args[1] if same else builder.fptrunc(args[1], vector.llvm)
        signature = vector(x, types.float64)
        return signature, lambda context, builder, sig, args: spread(context, builder, args[1], sig.args[1], vector)

    @_intrinsic
    def store(_context: Any, x: Any, _row: Any, _first: Any, _v: Any) -> Any:
        """x[row, first : first + 32] = v; x is (rows, columns) of float64, C-contiguous, and its end the caller's care."""
        if not _matrix(x) or x.dtype != types.float64 or x.layout != "C":
            return None

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            address, align = _address(context, builder, sig.args[0], *args[:3])
            builder.store(args[3], address, align=align)
            return context.get_dummy_value()

        return types.void(x, types.int64, types.int64, Lanes), lower

    @_intrinsic
    def numbered(_context: Any, v: Any) -> Any:
        """0, 1, … 31, as wide as v."""
        if v not in (Lanes, Narrow):
            return None
        row = ir.Constant(v.llvm, [ir.Constant(v.llvm.element, float(lane)) for lane in range(LANES)])
        return v(v), lambda _cx, _builder, _sig, _args: row

    @_intrinsic
    def lane_from(_context: Any) -> Any:
        """The first of the lanes that are this thread's: on a device it has one."""
        return types.int64(), lambda _cx, _builder, _sig, _args: I64(0)

    @_intrinsic
    def lane_to(_context: Any, _count: Any) -> Any:
        """Behind the last of the lanes below `count` that are this thread's."""
        return types.int64(types.int64), lambda _cx, _builder, _sig, args: args[0]

    @_intrinsic
    def lane_of(_context: Any, v: Any, _lane: Any) -> Any:
        """The number in a lane, one of this thread's."""
        if v not in (Lanes, Narrow, Whole, Mask):
            return None
        signature = v.element(v, types.int64)
        return signature, lambda _cx, builder, _sig, args: builder.extract_element(args[0], args[1])

    @_intrinsic
    def meet(_context: Any) -> Any:
        """Has every thread of a warp see what the others have written."""
        return types.void(), lambda context, _builder, _sig, _args: context.get_dummy_value()

    @_intrinsic
    def count_of(_context: Any, mask: Any) -> Any:
        """In how many lanes the mask holds."""
        if mask is not Mask:
            return None

        def lower(_cx: Any, builder: Any, _sig: Any, args: Any) -> Any:
            return builder.zext(builder.ctpop(builder.bitcast(args[0], I32)), I64)

        return types.int64(mask), lower

    def _tree(v: Any, join: Any) -> Any:
        """The signature and lowering of a reduction that joins lane + 16, + 8, + 4, + 2, + 1."""

        def lower(_cx: Any, builder: Any, _sig: Any, args: Any) -> Any:
            value, width = args[0], LANES
            while width > 1:
                width //= 2
                half = ir.VectorType(I32, width)
                low, high = (
                    builder.shuffle_vector(value, value, ir.Constant(half, [I32(start + i) for i in range(width)]))
                    for start in (0, width)
                )
                value = join(builder, low, high)
            return builder.extract_element(value, I32(0))

        return v.element(v), lower

    @_intrinsic
    def sum_of(_context: Any, v: Any) -> Any:
        """Σ of the lanes by a fixed tree: lane + 16, + 8, + 4, + 2, + 1."""
        return _tree(v, lambda builder, a, b: builder.fadd(a, b))

    @_intrinsic
    def max_of(_context: Any, v: Any) -> Any:
        """The largest lane, by the same tree; a NaN in the first half of a step wins, one in the second loses."""
        return _tree(v, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", b, a), b, a))
