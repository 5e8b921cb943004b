"""Numba's view of 32 numbers in registers: the types behind `bits`, and their operators. Nothing of it runs under
NUMBA_DISABLE_JIT, where NumPy arrays of 32 stand in their place.

`Lanes` are 32 float64s, `Narrow` 32 float32s, `Whole` 32 int64s and `Mask` 32 truths. Operators work lane by lane, and a plain
number stands for 32 equal ones. They become LLVM vectors, which LLVM cuts into the machine's own. The loops over arrays that
Numba vectorises by itself keep every sum in memory from step to step, since nobody can prove that the arrays lie apart; a
sum in Lanes stays in a register.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import product
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import lower_builtin, models, register_model

LANES = 32

I1, I16, I32, I64 = (ir.IntType(width) for width in (1, 16, 32, 64))
HALF, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()


class Vector(types.Type):
    """32 numbers of one type."""

    def __init__(self, name: str, element: Any, llvm: Any) -> None:
        self.element = element
        self.llvm = ir.VectorType(llvm, LANES)
        super().__init__(name=name)


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, kind.llvm)


Lanes = Vector("Lanes", types.float64, F64)
Narrow = Vector("Narrow", types.float32, F32)
Whole = Vector("Whole", types.int64, I64)
Mask = Vector("Mask", types.boolean, I1)


def on_device(context: Any) -> bool:
    """Whether code is made for a CUDA device, where a vector is one number in each of a warp's threads (see `warp`)."""
    return bool(context.target_name == "cuda")


# How the primitives of `bits` are written for a device, by their names; `warp` says it.
LOWER: dict[str, Callable[..., Any]] = {}


def declared(builder: Any, name: str, result: Any, operands: Any) -> Any:
    """A function of the compiler's by its name."""
    found = builder.module.globals.get(name)
    return found or ir.Function(builder.module, ir.FunctionType(result, operands), name)


class Pinned:
    """A builder whose sums, products and quotients of floats are rounded each by itself."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._builder, name)

    def _call(self, name: str, a: Any, b: Any) -> Any:
        kind = "d" if a.type == F64 else "f"
        function = declared(self._builder, f"llvm.nvvm.{name}.rn.{kind}", a.type, [a.type, a.type])
        return self._builder.call(function, [a, b])

    def fadd(self, a: Any, b: Any) -> Any:
        return self._call("add", a, b)

    def fsub(self, a: Any, b: Any) -> Any:
        return self._call("add", a, self.fneg(b))

    def fmul(self, a: Any, b: Any) -> Any:
        return self._call("mul", a, b)

    def fdiv(self, a: Any, b: Any) -> Any:
        return self._call("div", a, b)

    def fneg(self, a: Any) -> Any:
        whole = I64 if a.type == F64 else I32
        sign = ir.Constant(whole, 1 << (whole.width - 1))
        return self._builder.bitcast(self._builder.xor(self._builder.bitcast(a, whole), sign), a.type)


def constant(like: Any, value: Any) -> Any:
    """The number as a constant of an LLVM type, every lane of it where that is a vector."""
    if isinstance(like, ir.VectorType):
        return ir.Constant(like, [ir.Constant(like.element, value)] * like.count)
    return ir.Constant(like, value)


def spread(context: Any, builder: Any, value: Any, kind: Any, vector: Vector) -> Any:
    """A value of `kind` as the vector: itself, or 32 times the number."""
    if isinstance(kind, Vector):
        return value
    one = context.cast(builder, value, kind, vector.element)
    if vector.element is types.boolean:
        one = builder.trunc(one, I1) if one.type != I1 else one
    if on_device(context):
        return one
    first = builder.insert_element(ir.Constant(vector.llvm, ir.Undefined), one, I32(0))
    return builder.shuffle_vector(first, ir.Constant(vector.llvm, ir.Undefined), constant(ir.VectorType(I32, LANES), 0))


def spread_all(context: Any, builder: Any, values: Any, kinds: Any, vector: Vector) -> list[Any]:
    """`spread` of every operand."""
    return [spread(context, builder, value, kind, vector) for value, kind in zip(values, kinds, strict=True)]


def vector_of(kinds: tuple[Any, ...]) -> Vector | None:
    """The one vector type among operands, the others plain numbers; None where there is none or another."""
    found = {kind for kind in kinds if isinstance(kind, Vector)}
    plain = all(isinstance(kind, Vector | types.Number | types.Boolean) for kind in kinds)
    return found.pop() if len(found) == 1 and plain else None


def _operator(
    of: Any, vectors: tuple[Vector, ...], emit: Callable[..., Any], result: Vector | None = None, arity: int = 2
) -> None:
    """Gives Numba an operator of the vectors; emit(builder, *operands) writes it."""

    @infer_global(of)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            vector = vector_of(args)
            if kws or len(args) != arity or vector not in vectors:
                return None
            return signature(result or vector, *args)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = vector_of(sig.args)
        assert vector is not None
        operands = spread_all(context, builder, args, sig.args, vector)
        return emit(Pinned(builder) if on_device(context) else builder, *operands)

    for kinds in product((*vectors, types.Number), repeat=arity):
        if any(isinstance(kind, Vector) for kind in kinds):
            lower_builtin(of, *kinds)(lower)


def _absolute(builder: Any, x: Any) -> Any:
    element = x.type.element if isinstance(x.type, ir.VectorType) else x.type
    whole = I64 if element == F64 else I32
    bits = ir.VectorType(whole, LANES) if isinstance(x.type, ir.VectorType) else whole
    return builder.bitcast(builder.and_(builder.bitcast(x, bits), constant(bits, (1 << (whole.width - 1)) - 1)), x.type)


_FLOATS = (Lanes, Narrow)
_ARITHMETIC = (
    (operator.add, "fadd"), (operator.iadd, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv"),
)  # fmt: skip
for _of, _name in _ARITHMETIC:
    _operator(_of, _FLOATS, lambda builder, a, b, name=_name: getattr(builder, name)(a, b))
for _of, _sign in ((operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">="), (operator.eq, "==")):
    _operator(_of, _FLOATS, lambda builder, a, b, sign=_sign: builder.fcmp_ordered(sign, a, b), Mask)
_operator(operator.ne, _FLOATS, lambda builder, a, b: builder.fcmp_unordered("!=", a, b), Mask)
_operator(operator.neg, _FLOATS, lambda builder, a: builder.fneg(a), arity=1)
_operator(abs, _FLOATS, _absolute, arity=1)
for _of, _name in ((operator.add, "add"), (operator.sub, "sub"), (operator.lshift, "shl"), (operator.rshift, "ashr")):
    _operator(_of, (Whole,), lambda builder, a, b, name=_name: getattr(builder, name)(a, b))
for _of, _name in ((operator.and_, "and_"), (operator.or_, "or_")):
    _operator(_of, (Whole, Mask), lambda builder, a, b, name=_name: getattr(builder, name)(a, b))
_operator(operator.eq, (Mask,), lambda builder, a, b: builder.not_(builder.xor(a, b)))
_operator(operator.invert, (Mask,), lambda builder, a: builder.not_(a), arity=1)
