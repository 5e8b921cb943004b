"""The primitives of `bits` on a CUDA device: a warp's 32 threads are the 32 lanes, and each holds one number of every vector.

A sum or product is rounded where it stands: the compiler of the device would fuse them, so they become instructions that it
may not touch. All threads of a warp run the same text together; what is stored is seen by the others at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.cuda.models import models, register_model

from streamloss.ieee.vectors import F32, F64, HALF, I1, I16, I32, I64, LANES, LOWER, Lanes, Narrow, Pinned, Vector, declared

_ALL = I32(0xFFFFFFFF)
_BUTTERFLY, _STRAIGHT = I32(3), I32(0)  # how lanes are exchanged: by exclusive or, from one lane to all
_BALLOT = I32(3)


@register_model(Vector)
class _Model(models.PrimitiveModel):
    """A vector is one number a thread."""

    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, kind.llvm.element)


def lane(builder: Any) -> Any:
    """The number of this thread in its warp."""
    return builder.zext(builder.call(declared(builder, "llvm.nvvm.read.ptx.sreg.laneid", I32, []), []), I64)


def _met(builder: Any, name: str, result: Any, operands: Any) -> Any:
    """A function that all threads of a warp call together: the compiler may not make two calls of one."""
    function = declared(builder, name, result, operands)
    function.attributes.add("convergent")
    return function


def together(builder: Any) -> None:
    """What the warp's threads have stored before is seen by all of them after."""
    builder.call(_met(builder, "llvm.nvvm.bar.warp.sync", ir.VoidType(), [I32]), [_ALL])


def _exchanged(builder: Any, value: Any, how: Any, which: Any) -> Any:
    """The value of another lane."""
    if value.type in (F64, F32):
        whole = I64 if value.type == F64 else I32
        return builder.bitcast(_exchanged(builder, builder.bitcast(value, whole), how, which), value.type)
    if value.type == I64:
        low, high = builder.trunc(value, I32), builder.trunc(builder.lshr(value, I64(32)), I32)
        low, high = (builder.zext(_exchanged(builder, half, how, which), I64) for half in (low, high))
        return builder.or_(low, builder.shl(high, I64(32)))
    pair = ir.LiteralStructType((I32, I1))
    function = _met(builder, "llvm.nvvm.shfl.sync.i32", pair, [I32] * 5)
    return builder.extract_value(builder.call(function, [_ALL, how, value, which, I32(LANES - 1)]), 0)


_STORED = {types.uint16: I16, types.int16: I16, types.float32: F32, types.float64: F64}


def _single(builder: Any, kind: Any, x: Any) -> Any:
    """A stored value of at most 32 bits as float32."""
    if kind == types.uint16:
        return builder.fpext(builder.bitcast(x, HALF), F32)
    if kind == types.int16:
        return builder.bitcast(builder.shl(builder.zext(x, I32), I32(16)), F32)
    return x


def widened(builder: Any, kind: Any, x: Any) -> Any:
    """A stored value as float64."""
    return x if kind == types.float64 else builder.fpext(_single(builder, kind, x), F64)


def _address(context: Any, builder: Any, kind: Any, array: Any, row: Any, first: Any) -> Any:
    """The address of this thread's one of 32 values of an array (rows, columns)."""
    made = context.make_array(kind)(context, builder, array)
    rows, columns = builder.extract_value(made.shape, 0), builder.extract_value(made.shape, 1)
    column = builder.add(first, lane(builder))
    at = builder.add(builder.mul(row, columns), column) if kind.layout == "C" else builder.add(row, builder.mul(rows, column))
    return builder.gep(made.data, [at])


def _loaded(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.load(_address(context, builder, sig.args[0], *args))


def _tree(join: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction that joins lane + 16, + 8, + 4, + 2, + 1, and gives the result to every lane."""

    def lower(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        value, width = args[0], LANES
        while width > 1:
            width //= 2
            value = join(builder, value, _exchanged(builder, value, _BUTTERFLY, I32(width)), width)
        return value

    return lower


def _larger(builder: Any, mine: Any, other: Any, width: int) -> Any:
    upper = builder.icmp_unsigned("!=", builder.and_(lane(builder), I64(width)), I64(0))
    a, b = builder.select(upper, other, mine), builder.select(upper, mine, other)
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)


def _load(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return widened(builder, sig.args[0].dtype, _loaded(context, builder, sig, args))


def _load_narrow(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _single(builder, sig.args[0].dtype, _loaded(context, builder, sig, args))


def _store(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    together(builder)
    builder.store(args[3], _address(context, builder, sig.args[0], *args[:3]))
    together(builder)
    return context.get_dummy_value()


def _widen(_context: Any, builder: Any, sig: Any, args: Any) -> Any:
    kind = sig.args[0]
    if kind is Lanes:
        return args[0]
    return builder.fpext(args[0], F64) if kind is Narrow else widened(builder, kind, args[0])


def _narrow(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    kind, value = sig.args[1], args[1]
    value = value if kind is Lanes else context.cast(builder, value, kind, types.float64)
    return builder.fptrunc(value, F32) if sig.return_type is Narrow else value


def _meet(context: Any, builder: Any, _sig: Any, _args: Any) -> Any:
    together(builder)
    return context.get_dummy_value()


def _count_of(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
    both = ir.LiteralStructType((I32, I1))
    vote = _met(builder, "llvm.nvvm.vote.sync", both, [I32, I32, I1])
    return builder.zext(builder.ctpop(builder.extract_value(builder.call(vote, [_ALL, _BALLOT, args[0]]), 0)), I64)


def _numbered(_context: Any, builder: Any, sig: Any, _args: Any) -> Any:
    return builder.uitofp(lane(builder), sig.return_type.llvm.element)


LOWER |= {
    "fma": lambda context, builder, sig, args: builder.fma(
        *(
            context.cast(builder, x, kind, types.float64) if not isinstance(kind, Vector) else x
            for x, kind in zip(args, sig.args, strict=True)
        )
    ),
    "mul": lambda _context, builder, _sig, args: Pinned(builder).fmul(*args),
    "to_bits": lambda _context, builder, _sig, args: builder.bitcast(args[0], I64),
    "from_bits": lambda _context, builder, _sig, args: builder.bitcast(args[0], F64),
    "widen": _widen,
    "lanes": lambda context, builder, sig, args: context.cast(builder, args[0], sig.args[0], types.float64),
    "load": _load,
    "load_narrow": _load_narrow,
    "narrow": _narrow,
    "store": _store,
    "numbered": _numbered,
    "lane_of": lambda _context, _builder, _sig, args: args[0],
    "meet": _meet,
    "count_of": _count_of,
    "sum_of": _tree(lambda builder, mine, other, _width: Pinned(builder).fadd(mine, other)),
    "max_of": _tree(_larger),
    "lane_from": lambda _context, builder, _sig, _args: lane(builder),
    "lane_to": lambda _context, builder, _sig, args: builder.select(
        builder.icmp_signed("<", lane(builder), args[0]), builder.add(lane(builder), I64(1)), lane(builder)
    ),
}
