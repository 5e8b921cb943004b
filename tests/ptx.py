"""Runs PTX, the text that CUDA kernels are compiled to, without a GPU: what a device would compute, to the last bit.

All threads of a grid step together, each register a NumPy array with a value for each. Where they part, those that are
furthest behind go first, so that they meet again; at what a warp does together its threads wait for one another. Only
instructions whose results are defined to the bit are known: an approximate one, or one that the device's compiler may fuse
with another, is an error. So is every access outside an array or not aligned.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from streamloss.ieee import bits

Array = np.ndarray[Any, Any]
WARP = 32
_SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}


@njit
def _fma(a, b, c, out):  # type: ignore[no-untyped-def]
    for i in range(len(a)):
        out[i] = bits.fma(a[i], b[i], c[i])


def _unordered(a: Any, b: Any) -> Any:
    return np.isnan(a) | np.isnan(b)


def _ones(a: Any) -> Any:
    """How many bits are set."""
    whole = np.ascontiguousarray(np.atleast_1d(a))
    return np.unpackbits(whole.view(np.uint8).reshape(len(whole), -1), axis=1).sum(axis=1, dtype=np.uint32)


def _dtype(kind: str) -> Any:
    """The NumPy type of a PTX type such as s64 or f32."""
    if kind == "pred":
        return np.dtype(bool)
    letter = {"f": "f", "s": "i"}.get(kind[0], "u")
    return np.dtype(f"{letter}{_SIZES[kind[1:]]}")


@dataclass
class Instruction:
    """One line: `@guard op a, b, c;`."""

    text: str
    op: list[str]
    operands: list[str]
    guard: str | None
    negated: bool


@dataclass
class Kernel:
    """An entry of a module."""

    instructions: list[Instruction]
    labels: dict[str, int]
    registers: dict[str, Any]
    shared: dict[str, tuple[int, int]]
    shared_bytes: int
    parameters: list[tuple[str, Any]]


@cache
def parse(text: str) -> Kernel:
    """The one entry of a module."""
    shared, size = {}, 0
    for align, name, count in re.findall(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d+)\]", text):
        size = -(-size // int(align)) * int(align)
        shared[name] = size, int(count)
        size += int(count)
    head, body = re.search(r"\.entry \w+\((.*?)\)\s*(?:\.\w+[^{]*)?\{(.*)\n\}", text, re.S).groups()  # type: ignore[union-attr]
    parameters = [(name, _dtype(kind)) for kind, name in re.findall(r"\.param \.(\w+) (\w+)", head)]
    registers: dict[str, Any] = {}
    for kind, name, count in re.findall(r"\.reg \.(\w+)\s+%(\w+)<(\d+)>;", body):
        registers |= {f"%{name}{i}": _dtype(kind) for i in range(int(count))}
    for kind, name in re.findall(r"\.reg \.(\w+)\s+(%?\w+);", body):
        registers[name] = _dtype(kind)
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in re.sub(r"//[^\n]*", "", body).replace("{\n", "\n").replace("\n}", "\n").split("\n"):
        line = line.strip()
        if label := re.fullmatch(r"(\$?\w+):", line):
            labels[label[1]] = len(instructions)
        elif line and not line.startswith("."):
            found = re.fullmatch(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*);", line)
            if found is None:
                raise ValueError(f"cannot read {line!r}")
            operands = [o.strip() for o in re.findall(r"\{[^}]*\}|[^,|]+", found[4])]
            instructions.append(Instruction(line, found[3].split("."), operands, found[2], bool(found[1])))
    return Kernel(instructions, labels, registers, shared, size, parameters)


_COMPARE: dict[str, Callable[..., Any]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip


class Grid:
    """A launch: blocks of threads that run a kernel to its end."""

    BASE = 1 << 20  # the address of the first byte of global memory

    def __init__(self, kernel: Kernel, blocks: int | tuple[int, int], threads: int) -> None:
        if threads % WARP:
            raise ValueError("blocks are whole warps")
        self.columns, rows = blocks if isinstance(blocks, tuple) else (blocks, 1)
        self.kernel, self.blocks, self.threads = kernel, self.columns * rows, threads
        n = self.n = self.blocks * threads
        self.thread = np.arange(n)
        self.block = self.thread // threads
        self.registers = {name: np.zeros(n, dtype=kind) for name, kind in kernel.registers.items()}
        self.shared = np.full((self.blocks, -(-kernel.shared_bytes // 8) * 8), 0xA5, dtype=np.uint8)
        self.size = 0
        self.arrays: list[tuple[Array, int]] = []
        self.copies: list[tuple[int, int, int]] = []
        self.parameters: dict[str, Any] = {}
        self.executed = 0
        self.mask: Array | None = None
        self.steps: dict[int, Callable[[], None]] = {}  # of the instructions that were reached

    # ---- launching

    def run(self, arguments: Sequence[Any]) -> None:
        """Runs it: arrays are flattened as Numba's kernels take them, and hold afterwards what was written to them."""
        flat = [one for value in arguments for one in self._flattened(value)]
        self._fill()
        if len(flat) != len(self.kernel.parameters):
            raise ValueError(f"{len(flat)} values for {len(self.kernel.parameters)} parameters")
        for (name, kind), value in zip(self.kernel.parameters, flat, strict=True):
            bits_of = np.array(value)
            self.parameters[name] = bits_of.astype(np.float64).view(kind) if bits_of.dtype.kind == "f" and kind == "f8" else (
                np.array([int(value) & ((1 << 8 * kind.itemsize) - 1)], dtype=f"u{kind.itemsize}").view(kind)[0]
                if bits_of.dtype.kind != "f" else bits_of.astype(kind)
            )  # fmt: skip
        with np.errstate(all="ignore"):
            self._go()
        for array, at in self.arrays:
            if array.flags.writeable:
                array[...] = np.ndarray(array.shape, array.dtype, self.memory, at, array.strides)

    def _flattened(self, value: Any) -> list[Any]:
        if isinstance(value, tuple):
            return [one for each in value for one in self._flattened(each)]
        if not isinstance(value, np.ndarray):
            return [value]
        low = high = value.ctypes.data
        if value.size:
            reach = [(n - 1) * stride for n, stride in zip(value.shape, value.strides, strict=True)]
            low, high = low + sum(min(r, 0) for r in reach), high + sum(max(r, 0) for r in reach) + value.itemsize
        at = self.size + 256 + value.ctypes.data - low
        self.arrays.append((value, at))
        self.copies.append((low, high - low, self.size + 256))
        self.size = -(-(self.size + 256 + high - low) // 256) * 256
        return [0, 0, value.size, value.itemsize, self.BASE + at, *value.shape, *value.strides]

    def _fill(self) -> None:
        """Copies the arrays into memory, with nothing between them that anybody may touch."""
        self.memory, self.valid = np.zeros(self.size, dtype=np.uint8), np.zeros(self.size, dtype=bool)
        for low, count, at in self.copies:
            self.memory[at : at + count] = np.frombuffer((ctypes.c_uint8 * count).from_address(low), np.uint8)
            self.valid[at : at + count] = True

    def _go(self) -> None:
        code = self.kernel.instructions
        end = len(code)
        pc, waits = np.zeros(self.n, dtype=np.int64), np.zeros(self.n, dtype=bool)
        while True:
            ready = np.where(waits, end, pc) if waits.any() else pc
            at = int(ready.min())
            if at >= end:
                if waits.any():
                    raise AssertionError(f"a warp has parted before {code[pc[waits].min()].text}")
                return
            mask = ready == at
            self.mask = None if mask.all() else mask
            while True:
                instruction = code[at]
                self.executed += 1
                name = instruction.op[0]
                if name == "bra":
                    taken = self._guard(instruction)
                    target = self.kernel.labels[instruction.operands[0]]
                    new = np.where(taken, target, at + 1)
                    pc[mask] = new[mask]
                    break
                if name == "ret":
                    taken = self._guard(instruction)
                    pc[mask] = np.where(taken, end, at + 1)[mask]
                    break
                if self._waits(instruction):
                    mask = self._met(mask, at, pc, waits)
                    if not mask.any():
                        break
                    self.mask = None if mask.all() else mask
                step = self.steps.get(at)
                if step is None:
                    step = self.steps[at] = self._compiled(instruction)
                step()
                at += 1
                if at in self._targets or at >= end:
                    pc[mask] = at
                    break

    @property
    def _targets(self) -> set[int]:
        if not hasattr(self, "_known"):
            self._known = set(self.kernel.labels.values())
        return self._known

    @staticmethod
    def _waits(instruction: Instruction) -> bool:
        return instruction.op[0] in ("bar", "shfl", "vote")

    def _met(self, mask: Array, at: int, pc: Array, waits: Array) -> Array:
        """Of threads that have come to what all of a warp, or a block, do together: those of whom all are here. Others wait."""
        pc[mask] = at
        here = mask | (waits & (pc == at))
        every = self.threads if self.kernel.instructions[at].op[:2] == ["bar", "sync"] else WARP
        go: Array = here & np.repeat(here.reshape(-1, every).all(axis=1), every)
        waits[here] = ~go[here]
        return go

    def _guard(self, instruction: Instruction) -> Array:
        if instruction.guard is None:
            return np.ones(self.n, dtype=bool)
        return self.registers[instruction.guard] ^ instruction.negated

    # ---- operands

    def _source(self, text: str, kind: Any) -> Callable[[], Any]:
        """How an operand is read, as an array or a number of this type."""
        if text in self.registers:
            register = self.registers[text]
            if "b" in (kind.kind, register.dtype.kind):
                return lambda: register
            if register.dtype.itemsize == kind.itemsize:
                view = register.view(kind)
                return lambda: view
            if register.dtype.itemsize > kind.itemsize:
                return lambda: register.astype(f"u{kind.itemsize}").view(kind)
            raise ValueError(f"{text} is too narrow")
        special = {
            "%laneid": self.thread % WARP, "%tid.x": self.thread % self.threads, "%ctaid.x": self.block % self.columns,
            "%ctaid.y": self.block // self.columns, "%ntid.x": np.full(self.n, self.threads),
            "%nctaid.x": np.full(self.n, self.columns),
        }  # fmt: skip
        if text in special:
            value = special[text].astype(kind)
            return lambda: value
        if text in self.kernel.shared:
            address = np.full(self.n, self.kernel.shared[text][0]).astype(kind)
            return lambda: address
        if text.startswith("0d"):
            number = np.array([int(text[2:], 16)], dtype=np.uint64).view(np.float64)
        elif text.startswith("0f"):
            number = np.array([int(text[2:], 16)], dtype=np.uint32).view(np.float32)
        elif kind.kind == "b":
            number = np.array([int(text) != 0])
        else:
            number = np.array([int(text, 0) & ((1 << 8 * kind.itemsize) - 1)], dtype=f"u{kind.itemsize}")
        if number.dtype.itemsize == kind.itemsize and kind.kind != "b":
            number = number.view(kind)
        number = np.broadcast_to(number, self.n)
        return lambda: number

    def _target(self, text: str) -> Callable[[Any], None]:
        """How a result is written, where threads are at work."""
        register = self.registers[text]

        def write(value: Any) -> None:
            value = np.asarray(value)
            if value.dtype != register.dtype:
                if value.dtype.itemsize == register.dtype.itemsize and register.dtype.kind != "b":
                    value = value.view(register.dtype)
                else:
                    value = value.astype(register.dtype)
            if self.mask is None:
                register[...] = value
            else:
                np.copyto(register, value, where=self.mask)

        return write

    def _place(self, text: str) -> Callable[[], Array]:
        """The addresses that [base + offset] means."""
        base, _, offset = text.strip("[]").partition("+")
        source, by = self._source(base, np.dtype(np.uint64)), np.uint64(int(offset or 0) & (2**64 - 1))
        return lambda: np.broadcast_to(source() + by, self.n)

    def _reach(self, space: str, addresses: Array, kind: Any, who: Array) -> tuple[Array, Any]:
        """The memory as an array of this type, and where in it the addresses of some threads are."""
        size = kind.itemsize
        if (addresses % np.uint64(size)).any():
            raise AssertionError("an address that is not aligned")
        if space == "shared":
            if (addresses >= np.uint64(self.kernel.shared_bytes)).any():
                raise AssertionError("outside of shared memory")
            return self.shared.view(kind), (self.block[who], (addresses // np.uint64(size)).astype(np.int64))
        at = addresses.astype(np.int64) - self.BASE
        if (at < 0).any() or (at >= len(self.valid)).any() or not self.valid[at].all() or not self.valid[at + size - 1].all():
            raise AssertionError("outside of every array")
        return self.memory.view(kind), at // size

    @staticmethod
    def _space(op: list[str]) -> str:
        """Which memory an access means; without a word it may be either, and is taken for the arrays'."""
        space = op[1] if len(op) > 2 else "global"
        if space not in ("shared", "global"):
            raise ValueError(f"not known: {'.'.join(op)}")
        return space

    # ---- instructions

    def _compiled(self, instruction: Instruction) -> Callable[[], None]:
        op, operands = instruction.op, instruction.operands
        if op[0] in ("bra", "ret", "bar"):
            return lambda: None
        if instruction.guard is not None:
            raise ValueError(f"a guard that is not known: {instruction.text}")
        handler = getattr(self, f"_do_{op[0]}", None)
        if handler is None:
            raise ValueError(f"not known: {instruction.text}")
        done: Callable[[], None] = handler(op, operands)
        return done

    def _simple(self, operands: list[str], kinds: Sequence[Any], make: Callable[..., Any]) -> Callable[[], None]:
        write = self._target(operands[0])
        sources = [self._source(text, kind) for text, kind in zip(operands[1:], kinds, strict=True)]

        def step() -> None:
            write(make(*(source() for source in sources)))

        return step

    def _rounded(self, op: list[str]) -> Any:
        """The type of an arithmetic instruction; for floats it must say how it rounds."""
        kind = _dtype(op[-1])
        if kind.kind == "f" and op[1] != "rn":
            raise ValueError(f"may be fused or approximate: {'.'.join(op)}")
        return kind

    def _do_add(self, op: list[str], o: list[str]) -> Callable[[], None]:
        kind = _dtype(op[-1])
        if kind.kind == "f" and op[1] != "rn":
            self.unpinned = True
        return self._simple(o, [kind] * 2, np.add)

    def _do_sub(self, op: list[str], o: list[str]) -> Callable[[], None]:
        return self._simple(o, [_dtype(op[-1])] * 2, np.subtract)

    def _do_mul(self, op: list[str], o: list[str]) -> Callable[[], None]:
        if op[1] == "wide":
            kind, wide = _dtype(op[2]), _dtype(op[2][0] + str(2 * int(op[2][1:])))
            return self._simple(o, [kind] * 2, lambda a, b: a.astype(wide) * b.astype(wide))
        if op[1] == "lo":
            return self._simple(o, [_dtype(op[2])] * 2, np.multiply)
        if op[1] == "hi":
            bits_of = 8 * _dtype(op[2]).itemsize
            high = np.frompyfunc(lambda a, b: (int(a) * int(b) >> bits_of) & ((1 << bits_of) - 1), 2, 1)
            return self._simple(o, [_dtype(op[2])] * 2, lambda a, b: high(a, b).astype(f"u{bits_of // 8}"))
        return self._simple(o, [self._rounded(op)] * 2, np.multiply)

    def _do_mad(self, op: list[str], o: list[str]) -> Callable[[], None]:
        kind = _dtype(op[2])
        if op[1] == "lo":
            return self._simple(o, [kind] * 3, lambda a, b, c: a * b + c)
        wide = _dtype(op[2][0] + str(2 * int(op[2][1:])))
        return self._simple(o, [kind, kind, wide], lambda a, b, c: a.astype(wide) * b.astype(wide) + c)

    def _do_div(self, op: list[str], o: list[str]) -> Callable[[], None]:
        kind = _dtype(op[-1])
        if kind.kind == "f":
            return self._simple(o, [self._rounded(op)] * 2, np.divide)

        def divide(a: Array, b: Array) -> Array:
            safe = np.where(b == 0, 1, b).astype(kind)
            quotient = a // safe
            return (quotient + ((a % safe != 0) & ((a < 0) != (safe < 0)))).astype(kind) if kind.kind == "i" else quotient

        return self._simple(o, [kind] * 2, divide)

    def _do_rem(self, op: list[str], o: list[str]) -> Callable[[], None]:
        kind = _dtype(op[-1])
        return self._simple(o, [kind] * 2, lambda a, b: np.fmod(a, np.where(b == 0, 1, b).astype(kind)))

    def _do_rcp(self, op: list[str], o: list[str]) -> Callable[[], None]:
        return self._simple(o, [self._rounded(op)], lambda a: 1 / a)

    def _do_fma(self, op: list[str], o: list[str]) -> Callable[[], None]:
        kind = self._rounded(op)
        assert kind == np.float64

        def fused(a: Array, b: Array, c: Array) -> Array:
            out = np.empty(self.n)
            _fma(a, b, c, out)
            return out

        return self._simple(o, [kind] * 3, fused)

    def _do_neg(self, op: list[str], o: list[str]) -> Callable[[], None]:
        return self._simple(o, [_dtype(op[-1])], np.negative)

    def _do_abs(self, op: list[str], o: list[str]) -> Callable[[], None]:
        return self._simple(o, [_dtype(op[-1])], np.abs)

    def _do_max(self, op: list[str], o: list[str]) -> Callable[[], None]:
        kind = _dtype(op[-1])
        return self._simple(o, [kind] * 2, np.fmax if kind.kind == "f" else np.maximum)

    def _do_min(self, op: list[str], o: list[str]) -> Callable[[], None]:
        kind = _dtype(op[-1])
        return self._simple(o, [kind] * 2, np.fmin if kind.kind == "f" else np.minimum)

    def _do_and(self, op: list[str], o: list[str]) -> Callable[[], None]:
        return self._simple(o, [_dtype(op[-1])] * 2, np.bitwise_and)

    def _do_or(self, op: list[str], o: list[str]) -> Callable[[], None]:
        return self._simple(o, [_dtype(op[-1])] * 2, np.bitwise_or)

    def _do_xor(self, op: list[str], o: list[str]) -> Callable[[], None]:
        return self._simple(o, [_dtype(op[-1])] * 2, np.bitwise_xor)

    def _do_not(self, op: list[str], o: list[str]) -> Callable[[], None]:
        return self._simple(o, [_dtype(op[-1])], np.invert)

    def _shifted(self, op: list[str], o: list[str], shift: Callable[..., Any]) -> Callable[[], None]:
        kind = _dtype(op[-1])
        width = 8 * kind.itemsize

        def make(a: Array, by: Array) -> Array:
            inside = shift(a, np.minimum(by, width - 1).astype(kind))
            beyond = (a >> kind.type(width - 1)) if kind.kind == "i" else np.zeros_like(a)
            return np.where(by < width, inside, beyond)

        return self._simple(o, [kind, np.dtype(np.uint32)], make)

    def _do_shl(self, op: list[str], o: list[str]) -> Callable[[], None]:
        return self._shifted(op, o, np.left_shift)

    def _do_shr(self, op: list[str], o: list[str]) -> Callable[[], None]:
        return self._shifted(op, o, np.right_shift)

    def _do_bfi(self, op: list[str], o: list[str]) -> Callable[[], None]:
        kind = _dtype(op[-1])

        def insert(a: Array, b: Array, start: Array, length: Array) -> Array:
            one = np.uint64(1)
            field = ((one << length.astype(np.uint64)) - one) << start.astype(np.uint64)
            return ((b.astype(np.uint64) & ~field) | ((a.astype(np.uint64) << start.astype(np.uint64)) & field)).astype(kind)

        return self._simple(o, [kind, kind, np.dtype(np.uint32), np.dtype(np.uint32)], insert)

    def _do_popc(self, op: list[str], o: list[str]) -> Callable[[], None]:
        return self._simple(o, [_dtype(op[-1])], _ones)

    def _do_setp(self, op: list[str], o: list[str]) -> Callable[[], None]:
        name, kind = op[1], _dtype(op[-1])
        if kind.kind == "f":
            if name == "num":
                return self._simple(o, [kind] * 2, lambda a, b: ~_unordered(a, b))
            if name == "nan":
                return self._simple(o, [kind] * 2, _unordered)
            if name.endswith("u") or name == "ne":
                compare, either = _COMPARE[name.removesuffix("u")], name.endswith("u")
                return self._simple(
                    o, [kind] * 2,
                    lambda a, b: (compare(a, b) & ~_unordered(a, b)) | (_unordered(a, b) if either else False),
                )  # fmt: skip
        return self._simple(o, [kind] * 2, _COMPARE[name])

    def _do_selp(self, op: list[str], o: list[str]) -> Callable[[], None]:
        kind = _dtype(op[-1])
        return self._simple(o, [kind, kind, np.dtype(bool)], lambda a, b, p: np.where(p, a, b))

    def _do_mov(self, op: list[str], o: list[str]) -> Callable[[], None]:
        kind = _dtype(op[-1])
        half = np.dtype(f"u{kind.itemsize // 2}") if kind.kind != "b" and kind.itemsize > 1 else None
        if o[1].startswith("{"):
            low, high = (self._source(text.strip(), half) for text in o[1].strip("{}").split(","))
            write, by = self._target(o[0]), kind.type(4 * kind.itemsize)
            return lambda: write(low().astype(kind) | (high().astype(kind) << by))
        if o[0].startswith("{"):
            writes = [self._target(text.strip()) if text.strip() != "_" else None for text in o[0].strip("{}").split(",")]
            source, by = self._source(o[1], kind), kind.type(4 * kind.itemsize)

            def split() -> None:
                value = source()
                for write, part in zip(writes, (value, value >> by), strict=True):
                    if write is not None:
                        write(part.astype(half))

            return split
        return self._simple(o, [kind], lambda a: a)

    def _do_cvt(self, op: list[str], o: list[str]) -> Callable[[], None]:
        to, of = _dtype(op[-2]), _dtype(op[-1])
        how = op[1] if len(op) == 4 else ""
        if to.kind == "f":
            if how not in ("rn", "") or (how == "" and to.itemsize <= of.itemsize):
                raise ValueError(f"not known: {'.'.join(op)}")
            return self._simple(o, [of], lambda a: a.astype(to))
        if of.kind == "f":
            if how != "rzi":
                raise ValueError(f"not known: {'.'.join(op)}")
            return self._simple(o, [of], lambda a: np.trunc(a).astype(to))
        return self._simple(o, [of], lambda a: a.astype(to))

    def _do_cvta(self, _op: list[str], o: list[str]) -> Callable[[], None]:
        return self._simple(o, [np.dtype(np.uint64)], lambda a: a)

    def _do_ld(self, op: list[str], o: list[str]) -> Callable[[], None]:
        write, kind = self._target(o[0]), _dtype(op[-1])
        if op[1] == "param":
            name = o[1].strip("[]")
            return lambda: write(np.full(self.n, self.parameters[name]))
        place, space = self._place(o[1]), self._space(op)

        def step() -> None:
            who = self.thread if self.mask is None else self.thread[self.mask]
            memory, at = self._reach(space, place()[who], kind, who)
            value = np.zeros(self.n, dtype=kind)
            value[who] = memory[at]
            write(value)

        return step

    def _do_st(self, op: list[str], o: list[str]) -> Callable[[], None]:
        kind = _dtype(op[-1])
        place, source, space = self._place(o[0]), self._source(o[1], kind), self._space(op)

        def step() -> None:
            who = self.thread if self.mask is None else self.thread[self.mask]
            memory, at = self._reach(space, place()[who], kind, who)
            memory[at] = np.broadcast_to(source(), self.n)[who]

        return step

    def _atomic(self, op: list[str], o: list[str], result: str | None) -> Callable[[], None]:
        space, how, kind = (op[-3] if op[-3] == "shared" else "global"), op[-2], _dtype(op[-1])
        place, source = self._place(o[0]), self._source(o[1], kind)
        swap = self._source(o[2], kind) if how == "cas" else None
        do = {"add": np.add, "min": np.minimum, "max": np.maximum, "or": np.bitwise_or, "cas": None}[how]
        write = None if result is None else self._target(result)

        def step() -> None:
            who = self.thread if self.mask is None else self.thread[self.mask]
            memory, at = self._reach(space, place()[who], kind, who)
            values = np.broadcast_to(source(), self.n)[who]
            if write is None and do is not None:
                do.at(memory, at, values)
                return
            new = None if swap is None else np.broadcast_to(swap(), self.n)[who]
            old = np.zeros(self.n, dtype=kind)
            for i, thread in enumerate(who):
                one = tuple(a[i] for a in at) if isinstance(at, tuple) else at[i]
                old[thread] = memory[one]
                if do is not None:
                    memory[one] = do(memory[one], values[i])
                elif memory[one] == values[i]:
                    memory[one] = new[i]  # type: ignore[index]
            if write is not None:
                write(old)

        return step

    def _do_red(self, op: list[str], o: list[str]) -> Callable[[], None]:
        return self._atomic(op, o, None)

    def _do_atom(self, op: list[str], o: list[str]) -> Callable[[], None]:
        return self._atomic(op, o[1:], o[0])

    def _do_shfl(self, op: list[str], o: list[str]) -> Callable[[], None]:
        write, rest = self._target(o[0]), o[-4:]
        source, which = self._source(rest[0], np.dtype(np.uint32)), self._source(rest[1], np.dtype(np.uint32))
        lane, first = self.thread % WARP, self.thread - self.thread % WARP
        if op[2] == "bfly":
            return lambda: write(source()[first + (lane ^ which().astype(np.int64))])
        if op[2] == "idx":
            return lambda: write(source()[first + which().astype(np.int64) % WARP])
        raise ValueError(f"not known: {'.'.join(op)}")

    def _do_vote(self, op: list[str], o: list[str]) -> Callable[[], None]:
        if op[2] != "ballot":
            raise ValueError(f"not known: {'.'.join(op)}")
        write, source = self._target(o[0]), self._source(o[1], np.dtype(bool))
        weights = (np.uint32(1) << np.arange(WARP, dtype=np.uint32)).astype(np.uint32)
        return lambda: write(np.repeat((source().reshape(-1, WARP) * weights).sum(axis=1, dtype=np.uint32), WARP))
