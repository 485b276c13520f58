"""The key-value cache: one slot a row, in tensors that are allocated once."""

from __future__ import annotations

import torch


class KvPool:
    """Keys and values of all rows: for each layer one tensor [slots, 2 * kv_heads, max_tokens, head_dim], the heads of
    the keys first, so that one operation writes a token's both; `keys` and `values` are views of the halves.

    The rows that are being written always fill slots 0 to n-1, so that a step reads a view and gathers nothing; when
    a row ends, the last one moves into its slot.
    """

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        kv_heads: int,
        max_tokens: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (slots, 2 * kv_heads, max_tokens, head_dim)
        self.slots = slots
        self.max_tokens = max_tokens
        # Zeros, not empty: a place that the mask hides still takes part as 0 x its value, and 0 x NaN is NaN.
        self.both = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.keys = [layer[:, :kv_heads] for layer in self.both]
        self.values = [layer[:, kv_heads:] for layer in self.both]

    @property
    def nbytes(self) -> int:
        """Returns the size of the pool in bytes."""
        return sum(layer.numel() * layer.element_size() for layer in self.both)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies the first `tokens` places of slot `source` to slot `target`."""
        for layer in self.both:
            layer[target, :, :tokens] = layer[source, :, :tokens]

    def clear(self, slots: slice) -> None:
        """Writes zeros over slots whose content may not be finite."""
        for layer in self.both:
            layer[slots] = 0


def pool_bytes(*, layers: int, slots: int, kv_heads: int, max_tokens: int, head_dim: int, dtype: torch.dtype) -> int:
    """Returns the bytes that a `KvPool` of this shape takes."""
    return 2 * layers * slots * kv_heads * max_tokens * head_dim * dtype.itemsize
