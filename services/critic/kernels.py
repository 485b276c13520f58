"""A step's arithmetic that torch has no fast operation for on a CPU, compiled by numba for the processor at hand.

torch reads keys and values of one token a row at a third of the speed that memory allows, and needs an operation, and
rows of one length, where rows differ. Here each row is dealt with by itself, in float32 whatever the weights' type.
numba has no bfloat16: its numbers come as the 16 bits that they are, the upper half of a float32.

All tensors are contiguous, on the CPU and of one dtype, float32 or bfloat16.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import numba
import numpy as np
import torch
from numpy import float32 as f32
from numpy import int32 as i32
from numpy import uint16 as u16
from numpy import uint32 as u32

# Sums in any order, as vectors need it; not-a-number and infinity stay what they are.
_FAST: Final = {"reassoc", "contract", "nsz"}
_jit: Final = functools.partial(numba.njit, fastmath=_FAST, error_model="numpy", nogil=True)


@numba.njit(inline="always")
def _widened(bits):  # type: ignore[no-untyped-def]
    return u32(u32(bits) << u32(16)).view(f32)


@numba.njit(inline="always")
def _narrowed(x):  # type: ignore[no-untyped-def]
    bits = f32(x).view(u32)
    return u16((bits + u32(0x7FFF) + ((bits >> u32(16)) & u32(1))) >> u32(16))  # to the nearest, ties to even


@numba.njit(inline="always")
def _same(x):  # type: ignore[no-untyped-def]
    return x


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


def _product(widen: Any) -> Any:
    @numba.njit(inline="always", fastmath=_FAST)
    def product(x, y):  # type: ignore[no-untyped-def]
        """Returns the sum of the products of x, of float32, and y."""
        total = f32(0)
        for i in range(x.shape[0]):
            total += x[i] * widen(y[i])
        return total

    return product


def _attention(widen: Any, narrow: Any) -> Any:
    product = _product(widen)

    @numba.njit(inline="always", fastmath=_FAST)
    def turned(x, norm, cos, sin, eps, out):  # type: ignore[no-untyped-def]
        """Writes x by its root mean square, times `norm`, turned to its position."""
        size, half = x.shape[0], cos.shape[0]
        squares = f32(0)
        for i in range(size):
            squares += widen(x[i]) * widen(x[i])
        scale = f32(1) / np.sqrt(squares / f32(size) + eps)
        for i in range(half):
            first = widen(x[i]) * scale * widen(norm[i])
            second = widen(x[i + half]) * scale * widen(norm[i + half])
            out[i] = first * cos[i] - second * sin[i]
            out[i + half] = second * cos[i] + first * sin[i]

    @numba.njit(inline="always", fastmath=_FAST)
    def softmax(scores):  # type: ignore[no-untyped-def]
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
    def weighed(weights, values, out):  # type: ignore[no-untyped-def]
        """Writes the sum of the values, each by its weight."""
        count, size = weights.shape[0], out.shape[0]
        out[:] = 0
        for i in range(0, count - 3, 4):  # four at once, so that the sum is read and written a quarter as often
            w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
            v0, v1, v2, v3 = values[i], values[i + 1], values[i + 2], values[i + 3]
            for d in range(size):
                out[d] += w0 * widen(v0[d]) + w1 * widen(v1[d]) + w2 * widen(v2[d]) + w3 * widen(v3[d])
        for i in range(count // 4 * 4, count):
            weight, value = weights[i], values[i]
            for d in range(size):
                out[d] += weight * widen(value[d])

    @_jit
    def attend(qkv, norm, cos, sin, eps, both, positions, lengths, start, stop, out):  # type: ignore[no-untyped-def]
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
            turned(qkv[row, heads + kv], norm[heads + kv], c, s, eps, key)
            new_key, new_value, value = keys[-1], values[-1], qkv[row, heads + kv_heads + kv]
            for d in range(size):
                new_key[d] = narrow(key[d])
                new_value[d] = value[d]
            for g in range(group):
                turned(qkv[row, kv * group + g], norm[kv * group + g], c, s, eps, query[g])
                for d in range(size):
                    query[g, d] *= scale
            for i in range(keys.shape[0]):
                for g in range(group):
                    scores[g, i] = product(query[g], keys[i])
            for g in range(group):
                weights = scores[g, : keys.shape[0]]
                share = f32(1) / softmax(weights)
                weighed(weights, values, total)
                written = out[row, kv * group + g]
                for d in range(size):
                    written[d] = narrow(total[d] * share)

    return attend


def _adapters(widen: Any, narrow: Any) -> Any:
    product = _product(widen)

    @_jit
    def add(out, x, a, b, bounds, slots):  # type: ignore[no-untyped-def]
        _, members, rank, inputs = a.shape
        wide, sums = np.empty(inputs, f32), np.empty(out.shape[1], f32)
        for row in range(len(slots)):
            slot = slots[row]
            if slot < 0:
                continue
            for i in range(inputs):
                wide[i] = widen(x[row, i])
            for i in range(out.shape[1]):
                sums[i] = widen(out[row, i])
            for member in range(members):
                total = sums[bounds[member] : bounds[member + 1]]
                rows_a, rows_b = a[slot, member], b[slot, :, bounds[member] : bounds[member + 1]]
                for r in range(0, rank - 3, 4):  # four at once, see `weighed`
                    h0, h1 = product(wide, rows_a[r]), product(wide, rows_a[r + 1])
                    h2, h3 = product(wide, rows_a[r + 2]), product(wide, rows_a[r + 3])
                    b0, b1, b2, b3 = rows_b[r], rows_b[r + 1], rows_b[r + 2], rows_b[r + 3]
                    for i in range(total.shape[0]):
                        total[i] += h0 * widen(b0[i]) + h1 * widen(b1[i]) + h2 * widen(b2[i]) + h3 * widen(b3[i])
                for r in range(rank // 4 * 4, rank):
                    hidden, b0 = product(wide, rows_a[r]), rows_b[r]
                    for i in range(total.shape[0]):
                        total[i] += hidden * widen(b0[i])
            for i in range(out.shape[1]):
                out[row, i] = narrow(sums[i])

    return add


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
    kernel, empty = _attention(*_ways(dtype)), array(torch.empty(0, 1, 1, 1, dtype=dtype))
    table, numbers = np.empty((0, 1), f32), np.empty(0, np.int64)
    kernel(empty[0:, 0], empty[0:, 0, 0], table, table, f32(0), empty, numbers, numbers, 0, 0, empty[0:, 0])
    return kernel


@functools.cache
def lora(dtype: torch.dtype) -> Any:
    """Returns the kernel of a group's adapters for one token a row, compiled:

    (out, x, a, b, bounds, slots) adds B(A(x)) of each row's slot to `out` [rows, outputs]. `x`: [rows, inputs]; `a`:
    [slots, members, rank, inputs]; `b`: [slots, rank, outputs], of which a member has those between its `bounds`;
    `slots`: [rows], -1 for none.
    """
    kernel, empty = _adapters(*_ways(dtype)), array(torch.empty(0, 1, 1, 1, dtype=dtype))
    numbers = np.empty(0, np.int64)
    kernel(empty[0:, 0, 0], empty[0:, 0, 0], empty, empty[0:, 0], numbers, numbers)
    return kernel


def _ways(dtype: torch.dtype) -> tuple[Any, Any]:
    return (_widened, _narrowed) if dtype is torch.bfloat16 else (_same, _same)
