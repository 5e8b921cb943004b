"""Arrays that lie in the memory of a CUDA device, as other libraries hand them over: what they are, and where.

torch, CuPy, JAX and Numba say so by DLPack or by `__cuda_array_interface__`. Nothing is copied, and no driver is needed here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa

from streamloss.errors import DataError, Place
from streamloss.options import Options
from streamloss.reading.batch import ARRAY_DTYPES
from streamloss.reading.memory import from_arrays, lies_on_device
from streamloss.reading.paths import first_line
from streamloss.reading.roles import Plan, check_schema, make_plan

_DEFAULT_STREAM = 1  # our streams wait for what was launched on it
_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}
_NAMES = ("bool", *ARRAY_DTYPES, *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


@dataclass(frozen=True)
class Resident:
    """An array on a device. Its `__cuda_array_interface__` gives float16 and bfloat16 as kernels take them, as integers."""

    dtype: str  # 'float32', 'bfloat16', 'int64', 'bool', …
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None  # bytes; None where values stand one behind the other
    pointer: int
    owner: Any = field(repr=False)  # what keeps the memory

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        stored = ARRAY_DTYPES.get(self.dtype) or np.dtype(self.dtype)
        shape, strides, data = self.shape, self.strides, (self.pointer, False)
        return {"shape": shape, "strides": strides, "data": data, "typestr": stored.str, "version": 2}


class _Tensor(ctypes.Structure):
    """DLPack's DLTensor, which a DLManagedTensor begins with."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def resident(array: Any) -> Resident | None:
    """The array, if it lies on a device; None for one of the host. Raises `TypeError` for a type that we do not read."""
    if not lies_on_device(array):
        return None
    if hasattr(array, "__dlpack__"):
        return _of_dlpack(array.__dlpack__(stream=_DEFAULT_STREAM))
    told = array.__cuda_array_interface__
    kind = np.dtype(told["typestr"])
    strides = told.get("strides")
    return Resident(
        _known(kind.name if kind.isnative else kind.str),
        tuple(told["shape"]),
        strides and tuple(strides),
        told["data"][0],
        array,
    )


def _of_dlpack(capsule: Any) -> Resident:
    """What a capsule holds; its memory lives as long as the capsule, which is never marked as used."""
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _Tensor.from_address(address(capsule, b"dltensor"))
    kind = _KINDS.get(tensor.code, f"type {tensor.code} of ")
    name = _known(kind if kind == "bool" else f"{kind}{tensor.bits}" if tensor.lanes == 1 else f"{tensor.lanes} {kind}")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(s * (tensor.bits // 8) for s in tensor.strides[: tensor.ndim]) if tensor.strides else None
    return Resident(name, shape, strides, (tensor.data or 0) + tensor.byte_offset, capsule)


def _known(name: str) -> str:
    if name not in _NAMES:
        raise TypeError(f"values of {name}")
    return name


@dataclass(frozen=True)
class Columns:
    """Columns of a batch of n rows of which some are on a device."""

    schema: pa.Schema
    on_device: dict[str, Resident]
    on_host: pa.RecordBatch
    n: int

    def plan(self, options: Options) -> Plan:
        """What the columns are, as of any other input."""
        return make_plan(self.schema, options, lambda _column: None)

    def check(self, plan: Plan) -> None:
        """Raises `DataError` unless these are the columns of a plan."""
        check_schema(plan, self.schema, None)


def columns(data: Any) -> Columns | None:
    """The columns of a dict of arrays of which some are on a device; None for anything else."""
    if not isinstance(data, Mapping):
        return None
    found: dict[str, Resident] = {}
    for name, array in data.items():
        try:
            known = resident(array)
        except (TypeError, ValueError, BufferError, RuntimeError) as error:
            raise DataError(f"no array that can be read: {first_line(error)}", place=Place(column=str(name))) from error
        if known is not None:
            found[str(name)] = known
    if not found:
        return None
    host = from_arrays({name: array for name, array in data.items() if str(name) not in found})
    lengths = {name: array.shape[0] if array.shape else 0 for name, array in found.items()}
    lengths |= dict.fromkeys(host.schema.names, host.num_rows)
    if len(set(lengths.values())) > 1:
        raise DataError(f"arrays of different lengths: {', '.join(f'{name} {n}' for name, n in lengths.items())}")
    fields = [_field(str(name), found[str(name)]) if str(name) in found else host.schema.field(str(name)) for name in data]
    return Columns(pa.schema(fields), found, host, next(iter(lengths.values())))


def _field(name: str, array: Resident) -> pa.Field:
    if len(array.shape) not in (1, 2) or not prod(array.shape[1:]):
        raise DataError(
            f"expected one value or one row of classes a row, got the shape {array.shape}", place=Place(column=name)
        )
    brain = array.dtype == "bfloat16"
    kind = pa.uint16() if brain else pa.from_numpy_dtype(np.dtype(array.dtype))
    whole = kind if len(array.shape) == 1 else pa.list_(kind, array.shape[1])
    return pa.field(name, whole, metadata={"dtype": "bfloat16"} if brain else None)
