"""A step's arithmetic that torch has no fast operation for on a CPU, compiled by numba for the processor at hand.

For one token a row, torch reads keys and values at less than half the speed that is reached here, and wants rows of one
length and one adapter. Here each row is dealt with by itself, in float32 whatever the weights' type.
numba has no bfloat16: its numbers come as the 16 bits that they are, the upper half of a float32.

All tensors are contiguous, on the CPU and of one dtype, float32 or bfloat16.
"""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
import torch
from numba.extending import overload
from numpy import float32 as f32
from numpy import int32 as i32
from numpy import uint16 as u16
from numpy import uint32 as u32

# Sums in any order, as vectors need it; not-a-number and infinity stay what they are.
_FAST: Final = {"reassoc", "contract", "nsz"}
# What was compiled is kept beside this file, where it may be written, for the next start.
_CACHE: Final = os.access(Path(__file__).parent, os.W_OK)
_jit: Final[Any] = functools.partial(numba.njit, fastmath=_FAST, error_model="numpy", nogil=True, cache=_CACHE)


@numba.njit(inline="always")
def _widened(bits):  # type: ignore[no-untyped-def]
    return u32(u32(bits) << u32(16)).view(f32)


@numba.njit(inline="always")
def _narrowed(x):  # type: ignore[no-untyped-def]
    bits = f32(x).view(u32)
    return u16((bits + u32(0x7FFF) + ((bits >> u32(16)) & u32(1))) >> u32(16))  # to the nearest, ties to even


def _read(array, i):  # type: ignore[no-untyped-def]
    """Returns number i of `array` in float32."""
    raise NotImplementedError("compiled only")


@overload(_read, inline="always")
def _reading(array, i):  # type: ignore[no-untyped-def]
    if array.dtype == numba.uint16:
        return lambda array, i: _widened(array[i])
    return lambda array, i: array[i]


def _write(array, i, x):  # type: ignore[no-untyped-def]
    """Writes x, of float32, as number i of `array`."""
    raise NotImplementedError("compiled only")


@overload(_write, inline="always")
def _writing(array, i, x):  # type: ignore[no-untyped-def]
    if array.dtype == numba.uint16:

        def write(array, i, x):  # type: ignore[no-untyped-def]
            array[i] = _narrowed(x)
    else:

        def write(array, i, x):  # type: ignore[no-untyped-def]
            array[i] = x

    return write


@numba.njit(fastmath={"contract"})
def _exp(x):  # type: ignore[no-untyped-def]
    """e to the power of x <= 0, which the library's own function computes for one number at a time.

    2^n e^z, with |z| <= log(2) / 2 and z exact though n log(2) is not (Cody and Waite 1980): log(2) in two parts, of
    which the first has so few bits that its product with n is exact.
    """
    x = f32(-87) if x < f32(-87) else x  # about the least float32 there is; what is not a number stays so
    n = np.floor(x * f32(math.log2(math.e)) + f32(0.5))
    z = (x - n * f32(0.693359375)) - n * f32(math.log(2) - 0.693359375)
    series = f32(1 / 24) + z * (f32(1 / 120) + z * f32(1 / 720))
    series = f32(1) + z * (f32(1) + z * (f32(1 / 2) + z * (f32(1 / 6) + z * series)))
    return series * i32((i32(n) + i32(127)) << i32(23)).view(f32)


@numba.njit(inline="always", fastmath=_FAST)
def _product(x, y):  # type: ignore[no-untyped-def]
    """The sum of the products of x, of float32, and y."""
    total = f32(0)
    for i in range(x.shape[0]):
        total += x[i] * _read(y, i)
    return total


@numba.njit(inline="always", fastmath=_FAST)
def _turn(x, norm, cos, sin, eps, out):  # type: ignore[no-untyped-def]
    """Writes x by its root mean square, times `norm`, turned to its position."""
    size, half = x.shape[0], cos.shape[0]
    squares = f32(0)
    for i in range(size):
        squares += _read(x, i) * _read(x, i)
    scale = f32(1) / np.sqrt(squares / f32(size) + eps)
    for i in range(half):
        first = _read(x, i) * scale * _read(norm, i)
        second = _read(x, i + half) * scale * _read(norm, i + half)
        out[i] = first * cos[i] - second * sin[i]
        out[i + half] = second * cos[i] + first * sin[i]


@numba.njit(inline="always", fastmath=_FAST)
def _softmax(scores):  # type: ignore[no-untyped-def]
    """Replaces scores by their exponentials, and returns the sum of these."""
    highest = scores[0]
    for i in range(1, scores.shape[0]):
        highest = max(highest, scores[i])
    total = f32(0)
    for i in range(scores.shape[0]):
        power = _exp(scores[i] - highest)
        scores[i] = power
        total += power
    return total


@numba.njit(inline="always", fastmath=_FAST)
def _weigh(weights, values, first, out):  # type: ignore[no-untyped-def]
    """Adds the columns of values from `first` on, each row by its weight, to `out`."""
    count, size = weights.shape[0], out.shape[0]
    last = first + size
    for i in range(0, count - 3, 4):  # four at once, so that the sum is read and written a quarter as often
        w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        v0, v1 = values[i, first:last], values[i + 1, first:last]
        v2, v3 = values[i + 2, first:last], values[i + 3, first:last]
        for d in range(size):
            out[d] += w0 * _read(v0, d) + w1 * _read(v1, d) + w2 * _read(v2, d) + w3 * _read(v3, d)
    for i in range(count // 4 * 4, count):
        weight, value = weights[i], values[i, first:last]
        for d in range(size):
            out[d] += weight * _read(value, d)


@_jit
def _attend(qkv, norm, cos, sin, eps, both, positions, lengths, start, stop, out):  # type: ignore[no-untyped-def]
    kv_heads, size = both.shape[1] // 2, both.shape[3]
    heads = qkv.shape[1] - 2 * kv_heads
    group = heads // kv_heads
    scale = f32(1) / np.sqrt(f32(size))
    query, key, total = np.empty((group, size), f32), np.empty(size, f32), np.empty(size, f32)
    scores = np.empty((group, both.shape[2]), f32)
    for part in range(start, stop):
        row, kv = part // kv_heads, part % kv_heads
        c, s = cos[positions[row]], sin[positions[row]]
        keys, values = both[row, kv, : lengths[row] + 1], both[row, kv_heads + kv, : lengths[row] + 1]
        _turn(qkv[row, heads + kv], norm[heads + kv], c, s, eps, key)
        new_key, new_value, value = keys[-1], values[-1], qkv[row, heads + kv_heads + kv]
        for d in range(size):
            _write(new_key, d, key[d])
            new_value[d] = value[d]
        for g in range(group):
            _turn(qkv[row, kv * group + g], norm[kv * group + g], c, s, eps, query[g])
            for d in range(size):
                query[g, d] *= scale
        for i in range(keys.shape[0]):
            for g in range(group):
                scores[g, i] = _product(query[g], keys[i])
        for g in range(group):
            weights = scores[g, : keys.shape[0]]
            share = f32(1) / _softmax(weights)
            total[:] = 0
            _weigh(weights, values, 0, total)
            written = out[row, kv * group + g]
            for d in range(size):
                _write(written, d, total[d] * share)


@_jit
def _add_lora(out, x, a, b, bounds, slots):  # type: ignore[no-untyped-def]
    _, members, rank, inputs = a.shape
    wide, total, hidden = np.empty(inputs, f32), np.empty(out.shape[1], f32), np.empty(rank, f32)
    for row in range(slots.shape[0]):
        slot = slots[row]
        if slot < 0:
            continue
        read, written = x[row], out[row]
        for i in range(inputs):
            wide[i] = _read(read, i)
        for i in range(total.shape[0]):
            total[i] = _read(written, i)
        for member in range(members):
            for r in range(rank):
                hidden[r] = _product(wide, a[slot, member, r])
            _weigh(hidden, b[slot], bounds[member], total[bounds[member] : bounds[member + 1]])
        for i in range(total.shape[0]):
            _write(written, i, total[i])


def serve(device: torch.device, dtype: torch.dtype) -> bool:
    """Returns whether there are kernels for tensors of this kind."""
    return device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)


def array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Returns a tensor's memory as the kernels take it: float32, or the bits of bfloat16 as uint16."""
    whole: np.ndarray[Any, Any] = (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return whole


@functools.cache
def attention(dtype: torch.dtype) -> Any:
    """Returns the kernel of a layer's attention in a step, compiled:

    (qkv, norm, cos, sin, eps, both, positions, lengths, start, stop, out), for the key heads `start` to `stop` - 1 of
    all rows' [rows, kv_heads]: queries and keys are normed and turned, keys and values kept, and `out` [rows, heads,
    head_dim] is written. `qkv`: [rows, heads + 2 * kv_heads, head_dim]; `norm`: [heads + kv_heads, head_dim]; `cos`,
    `sin`: float32 [positions, head_dim / 2]; `both`: a layer of a `KvPool`; `positions`: of the new tokens; `lengths`:
    tokens that each slot holds before.
    """
    none, table, numbers = array(torch.empty(0, 1, 1, 1, dtype=dtype)), np.empty((0, 1), f32), np.empty(0, np.int64)
    _attend(none[:, 0], none[:, 0, 0], table, table, f32(0), none, numbers, numbers, 0, 0, none[:, 0])
    return _attend


@functools.cache
def lora(dtype: torch.dtype) -> Any:
    """Returns the kernel of a group's adapters for one token a row, compiled:

    (out, x, a, b, bounds, slots) adds B(A(x)) of each row's slot to `out` [rows, outputs]. `x`: [rows, inputs]; `a`:
    [slots, members, rank, inputs]; `b`: [slots, rank, outputs], of which a member has those between its `bounds`;
    `slots`: [rows], -1 for none.
    """
    none, numbers = array(torch.empty(0, 1, 1, 1, dtype=dtype)), np.empty(0, np.int64)
    _add_lora(none[:, 0, 0], none[:, 0, 0], none, none[:, 0], numbers, numbers)
    return _add_lora
