"""The primitives under our arithmetic: fused multiply-add, bit views and the widening of narrow floats.

With `NUMBA_DISABLE_JIT=1` the same names are plain Python, slow and exact, so that the kernels can be stepped through.
float16 comes as uint16 and bfloat16 as int16 bits (see `reading.batch`); `widen` tells them apart by the type alone.
"""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any

import numpy as np

from streamloss import jit

if jit.DISABLED:

    def fma(a: float, b: float, c: float) -> Any:
        """a·b + c, rounded once."""
        if not (math.isfinite(a) and math.isfinite(b) and math.isfinite(c)):
            return np.float64(a) * np.float64(b) + np.float64(c)
        exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        if exact == 0:
            return np.float64(a) * np.float64(b) + np.float64(c)
        try:
            return np.float64(exact.numerator / exact.denominator)
        except OverflowError:
            return np.float64(math.inf if exact > 0 else -math.inf)

    def to_bits(x: float) -> Any:
        """The bits of a float64 as int64."""
        return np.int64(struct.unpack("<q", struct.pack("<d", x))[0])

    def from_bits(i: int) -> Any:
        """The float64 with these bits; sums of bit patterns wrap as int64 does."""
        return np.float64(struct.unpack("<d", struct.pack("<Q", int(i) & 0xFFFFFFFFFFFFFFFF))[0])

    def widen(x: Any) -> Any:
        """A stored prediction value as float64."""
        if isinstance(x, np.uint16):
            return np.float64(x.view(np.float16))
        if isinstance(x, np.int16):
            return np.float64(np.uint32((int(x) & 0xFFFF) << 16).view(np.float32))
        return np.float64(x)

else:
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    _I32, _I64, _F32, _F64 = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()

    @intrinsic
    def fma(_context: Any, _a: Any, _b: Any, _c: Any) -> Any:
        """a·b + c, rounded once."""
        signature = types.float64(types.float64, types.float64, types.float64)
        return signature, lambda _cx, builder, _sig, args: builder.fma(*args)

    @intrinsic
    def to_bits(_context: Any, _x: Any) -> Any:
        """The bits of a float64 as int64."""
        return types.int64(types.float64), lambda _cx, builder, _sig, args: builder.bitcast(args[0], _I64)

    @intrinsic
    def from_bits(_context: Any, _i: Any) -> Any:
        """The float64 with these bits; sums of bit patterns wrap as int64 does."""
        return types.float64(types.int64), lambda _cx, builder, _sig, args: builder.bitcast(args[0], _F64)

    def _half(builder: Any, i16: Any) -> Any:
        """float16 bits to float64 by integer shifts and one exact product; no half instructions, which old CPUs lack."""
        wide = builder.zext(i16, _I32)
        body = builder.shl(builder.and_(wide, _I32(0x7FFF)), _I32(13))
        scaled = builder.fmul(builder.bitcast(body, _F32), builder.bitcast(_I32(0x77800000), _F32))  # 2^112
        special = builder.icmp_unsigned(">=", body, _I32(0x0F800000))  # all-ones exponent: inf or NaN
        magnitude = builder.select(special, builder.or_(body, _I32(0x7F800000)), builder.bitcast(scaled, _I32))
        sign = builder.shl(builder.and_(wide, _I32(0x8000)), _I32(16))
        return builder.fpext(builder.bitcast(builder.or_(magnitude, sign), _F32), _F64)

    def _brain(builder: Any, i16: Any) -> Any:
        """bfloat16 bits to float64: the upper half of a float32."""
        return builder.fpext(builder.bitcast(builder.shl(builder.zext(i16, _I32), _I32(16)), _F32), _F64)

    _WIDEN: dict[Any, Any] = {
        types.uint16: _half,
        types.int16: _brain,
        types.float32: lambda builder, x: builder.fpext(x, _F64),
        types.float64: lambda _builder, x: x,
    }

    @intrinsic
    def widen(_context: Any, x: Any) -> Any:
        """A stored prediction value as float64."""
        if x not in _WIDEN:
            return None
        return types.float64(x), lambda _cx, builder, _sig, args: _WIDEN[x](builder, args[0])
