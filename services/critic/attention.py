"""Attention in a decode step on a CPU: each row to as many places as its slot holds, by a compiled kernel."""

from __future__ import annotations

import concurrent.futures
import itertools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from services.critic import kernels
from services.critic.kv import KvPool
from services.critic.language import LanguageWeights

# Reading less than this takes less time than handing it to another thread.
_WORTH_A_THREAD: Final = 1024 * 1024


class Attention:
    """Attention of one new token a row to all that its slot holds, over the memory of a `KvPool`."""

    def __init__(self, language: LanguageWeights, pool: KvPool) -> None:
        self._kernel = kernels.attention(language.embed.dtype)
        self._heads, self._kv_heads, self._head_dim = language.heads, language.kv_heads, language.head_dim
        self._norms = [kernels.array(layer.head_norm) for layer in language.layers]
        self._slots = [kernels.array(layer) for layer in pool.both]
        self._eps = np.float32(language.eps)
        every = torch.arange(pool.max_tokens).expand(3, 1, -1)
        cos, sin = language.rotary(torch.zeros(1), every)  # in float32, whatever the weights are
        self._cos, self._sin = (table[0, :, : self._head_dim // 2].contiguous().numpy() for table in (cos, sin))
        self._threads = torch.get_num_threads()
        self._others = concurrent.futures.ThreadPoolExecutor(max(1, self._threads - 1), "critic-attention")

    @classmethod
    def on(cls, language: LanguageWeights, pool: KvPool) -> Attention | None:
        """Returns it where the kernels serve the model's device and dtype, None elsewhere."""
        return cls(language, pool) if kernels.serve(language.embed.device, language.embed.dtype) else None

    def step(self, lengths: Any, positions: Any) -> Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor]:
        """Returns attention for each layer in a step of rows that hold `lengths` tokens each, whose new ones stand at
        `positions`; both [rows]."""
        parts = list(itertools.pairwise(self._cuts(lengths)))

        def attend(layer: int, qkv: torch.Tensor, _: torch.Tensor | None) -> torch.Tensor:
            out = qkv.new_empty(len(qkv), 1, self._heads, self._head_dim)
            read, written = kernels.array(qkv)[:, 0], kernels.array(out)[:, 0]

            def part(start: int, stop: int) -> None:
                self._kernel(
                    read, self._norms[layer], self._cos, self._sin, self._eps, self._slots[layer], positions, lengths,
                    start, stop, written,
                )  # fmt: skip

            others = [self._others.submit(part, *ends) for ends in parts[1:]]
            part(*parts[0])
            for other in others:
                other.result()
            return out

        return attend

    def _cuts(self, lengths: Any) -> list[int]:
        """Returns where the key heads of all rows are cut, one after another, into parts that read about the same."""
        reads = np.cumsum(np.repeat(lengths + 1, self._kv_heads))
        bytes_read = int(reads[-1]) * 2 * self._head_dim * self._slots[0].itemsize
        threads = max(1, min(self._threads, bytes_read // _WORTH_A_THREAD))
        shares = np.arange(1, threads) * (reads[-1] / threads)
        return [0, *(int(cut) for cut in np.searchsorted(reads, shares)), len(reads)]
