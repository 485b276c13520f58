"""The key-value cache: one slot a row, in tensors that are allocated once."""

from __future__ import annotations

import torch


class KvPool:
    """Keys and values of all rows: for each layer two tensors [slots, kv_heads, max_tokens, head_dim].

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
        shape = (slots, kv_heads, max_tokens, head_dim)
        self.slots = slots
        self.max_tokens = max_tokens
        # Zeros, not empty: a place that the mask hides still takes part as 0 x its value, and 0 x NaN is NaN.
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]

    @property
    def nbytes(self) -> int:
        """Returns the size of the pool in bytes."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies the first `tokens` places of slot `source` to slot `target`."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :tokens] = tensor[source, :, :tokens]


def pool_bytes(*, layers: int, slots: int, kv_heads: int, max_tokens: int, head_dim: int, dtype: torch.dtype) -> int:
    """Returns the bytes that a `KvPool` of this shape takes."""
    return 2 * layers * slots * kv_heads * max_tokens * head_dim * dtype.itemsize
