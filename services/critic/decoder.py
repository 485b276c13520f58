"""The language model of a Qwen3-VL over a pool of slots: the same arithmetic as transformers', for rows that come
and go.

The weights are those of the loaded network; positions, masks and cache are explicit, and nothing depends on state of
the network's modules. That the tokens are those of `generate` is held by tests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional

from services.critic.attention import Attention
from services.critic.graphs import Record, StepGraphs
from services.critic.kv import KvPool
from services.critic.language import LanguageWeights, Layer
from services.critic.lora import Route, StackedLora
from services.critic.model import Prompt, VisionFeatures

log = logging.getLogger("mondrian.critic")

Attend = Callable[[int, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Returns attention's output [rows, tokens, heads, head_dim] for a layer and its queries, keys and values [rows,
tokens, heads + 2 * kv_heads, head_dim], neither normed nor turned to their positions yet; keys and values are kept.
With a place in each row as third argument, the output is of the tokens there alone, [rows, 1, heads, head_dim]."""

_Rope = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class _Image:
    """Where image tokens stand in the flattened pass, and what DeepStack adds to them after each of the first
    layers."""

    places: torch.Tensor
    deepstack: list[torch.Tensor]


class SlotDecoder:
    """Reads prompts into slots and writes one token a row and step. All tensors on the model's device."""

    def __init__(self, language: LanguageWeights, pool: KvPool) -> None:
        self.pool = pool
        self._language = language
        self._heads, self._kv_heads, self._head_dim = language.heads, language.kv_heads, language.head_dim
        self._embed, self._eps = language.embed, language.eps
        self._device = self._embed.device
        # torch has no kernel of its own for this norm on a CPU, and composes it of more operations than it takes.
        self._by_norm = self._device.type == "cpu" and self._embed.dtype is torch.float32
        self._eps_alone = torch.tensor(self._eps)
        # Tokens of text have one number for all three axes, and never a higher one than their place in the slot.
        every = torch.arange(pool.max_tokens, device=self._device).expand(3, 1, -1)
        cos, sin = self._rope(self._embed[:1, None], every)
        self._text_rope = (cos[0, :, 0], sin[0, :, 0])
        self._attention = Attention.on(language, pool)
        self._graphs: StepGraphs | None = None
        self.lora = StackedLora(language.widths, self._device, self._embed.dtype)

    def prefill(
        self, prompts: Sequence[Prompt], features: Sequence[VisionFeatures], adapters: Sequence[int | None], first: int
    ) -> torch.Tensor:
        """Reads prompts into slots `first`, `first` + 1, ..., and returns the logits [prompts, vocabulary] after each.

        Prompts may differ in length: shorter ones are padded on the right, where causal attention cannot see, and
        what the padding leaves in a slot is overwritten before it can be read.
        """
        rows, width = len(prompts), max(len(prompt.token_ids) for prompt in prompts)
        ids = torch.zeros(rows, width, dtype=torch.long)
        positions = torch.zeros(3, rows, width, dtype=torch.long)
        visual: list[torch.Tensor] = []
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt.token_ids)] = torch.tensor(prompt.token_ids)
            positions[:, row, : len(prompt.token_ids)] = prompt.positions
            visual.append(torch.arange(prompt.image.tokens) + row * width + prompt.image_start)
        places = torch.cat(visual).to(self._device)
        x = functional.embedding(ids.to(self._device), self._embed)
        x.view(rows * width, -1)[places] = torch.cat([feature.embeds for feature in features]).to(x.dtype)
        deepstack = [torch.cat(layer) for layer in zip(*(f.deepstack for f in features), strict=True)]
        last = torch.tensor([len(prompt.token_ids) - 1 for prompt in prompts], device=self._device)
        unseen = self._hidden_from(last, width)
        slots = slice(first, first + rows)
        rope = self._rope(x, positions.to(self._device))

        def attend(layer: int, qkv: torch.Tensor, only: torch.Tensor | None) -> torch.Tensor:
            q, kv = self._turned(qkv, layer, rope)
            if only is not None:
                q = q[torch.arange(rows, device=self._device), :, only][:, :, None]
            self.pool.both[layer][slots, :, :width] = kv.transpose(1, 2)
            k, v = kv.transpose(1, 2).chunk(2, 1)
            return functional.scaled_dot_product_attention(
                q, k, v, attn_mask=None if only is None else unseen, is_causal=only is None, enable_gqa=True
            ).transpose(1, 2)

        return self._logits(self._run(x, attend, self.lora.route(adapters, width), _Image(places, deepstack), last))

    def decode(
        self, tokens: Sequence[int], lengths: Sequence[int], positions: Sequence[int], adapters: Sequence[int | None]
    ) -> torch.Tensor:
        """Adds one token to each of the rows in slots 0, 1, ..., and returns the logits [rows, vocabulary] after it.

        `lengths`: tokens that each slot holds already; `positions`: the new token's position.
        """
        numbers = (tokens, lengths, positions)
        if self._graphs is not None:
            try:
                return self._graphs.run(numbers, adapters)
            except RuntimeError as error:
                if isinstance(error, torch.AcceleratorError):
                    raise
                log.warning("the step cannot be recorded, and runs kernel by kernel from now on: %s", error)
                self._graphs = None
        route = self.lora.route(adapters, 1)
        if self._attention is None:
            return self._step(torch.tensor(numbers, device=self._device), max(lengths) + 1, route)
        attend = self._attention.step(np.array(lengths), np.array(positions))
        x = functional.embedding(torch.tensor(tokens), self._embed)[:, None]
        return self._logits(self._run(x, attend, route))

    def record_steps(self, record: Record) -> None:
        """Runs decode steps by recorded graphs from now on."""
        pool = self.pool
        self._graphs = StepGraphs(self._step, self.lora, record, slots=pool.slots, max_tokens=pool.max_tokens)

    def _step(self, numbers: torch.Tensor, span: int, route: Route | None) -> torch.Tensor:
        """Returns the logits of one decode step; nothing in it waits for the device or comes from the host.

        `numbers`: [3, rows] tokens, lengths and positions; `span`: places of the slots that are looked at.
        """
        rows = numbers.shape[1]
        x = functional.embedding(numbers[0], self._embed)[:, None]
        ends = numbers[1]
        row_index = torch.arange(rows, device=self._device)
        unseen = self._hidden_from(ends, span)
        cos, sin = self._text_rope
        rope = (cos[numbers[2]][:, None, None], sin[numbers[2]][:, None, None])

        def attend(layer: int, qkv: torch.Tensor, only: torch.Tensor | None) -> torch.Tensor:
            q, kv = self._turned(qkv, layer, rope)
            self.pool.both[layer][row_index, :, ends] = kv[:, 0]
            keys, values = self.pool.keys[layer][:rows, :, :span], self.pool.values[layer][:rows, :, :span]
            # The query heads of one key head stand in the place of several queries: no key is copied.
            grouped = q.reshape(rows, self._kv_heads, -1, self._head_dim)
            return functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=unseen)

        return self._logits(self._run(x, attend, route))

    def _hidden_from(self, last: torch.Tensor, width: int) -> torch.Tensor:
        """Returns what is added to attention's scores [rows, 1, 1, width]: -inf after the place `last` of each row."""
        after = torch.arange(width, device=self._device) > last[:, None]
        mask = torch.zeros(after.shape, device=self._device, dtype=self._embed.dtype)
        return mask.masked_fill_(after, -torch.inf)[:, None, None]

    def _rope(self, x: torch.Tensor, positions: torch.Tensor) -> _Rope:
        """Returns cosine and sine [rows, tokens, 1, head_dim] of the positions [3, rows, tokens], the first half of
        the sine negative: x * cos + (x with its halves exchanged) * sin turns x."""
        cos, sin = (table[:, :, None] for table in self._language.rotary(x, positions))
        first, second = sin.chunk(2, -1)
        return cos, torch.cat((-first, second), -1)

    def _run(
        self,
        x: torch.Tensor,
        attend: Attend,
        route: Route | None,
        image: _Image | None = None,
        last: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the last layer's output [rows, hidden] of the token at the place `last` of each row (None: the only
        one). Writes into `x`."""
        deepstack = image.deepstack if image is not None else []
        for index, layer in enumerate(self._language.layers):
            normed = self._normed(x).mul_(layer.input_norm)
            qkv = self._linear(normed, index, layer, "qkv", route).view(*x.shape[:2], -1, self._head_dim)
            only = None
            if last is not None and index == len(self._language.layers) - 1 and index >= len(deepstack):
                # Keys and values are wanted of all tokens, but what the layer writes of the last one alone.
                only, x, last = last, x[torch.arange(len(x), device=self._device), last][:, None], None
            out = attend(index, qkv, only)
            self._add(x, out.reshape(*x.shape[:2], -1), index, layer, "o", route)
            normed = self._normed(x).mul_(layer.mlp_norm)
            gate, up = self._linear(normed, index, layer, "gate_up", route).chunk(2, -1)
            self._add(x, layer.activation(gate).mul_(up), index, layer, "down", route)
            if image is not None and index < len(deepstack):
                x.view(-1, x.shape[-1])[image.places] += deepstack[index].to(x.dtype)
        return x[:, 0] if last is None else x[torch.arange(len(x), device=self._device), last]

    def _turned(self, qkv: torch.Tensor, index: int, rope: _Rope) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns queries [rows, heads, tokens, head_dim], and keys and values [rows, tokens, 2 * kv_heads, head_dim];
        queries and keys are normed and turned to their positions. Writes into `qkv`."""
        turning = qkv[:, :, : self._heads + self._kv_heads]
        normed = self._normed(turning).mul_(self._language.layers[index].head_norm)
        torch.addcmul(normed * rope[0], normed.roll(self._head_dim // 2, -1), rope[1], out=turning)
        return qkv[:, :, : self._heads].transpose(1, 2), qkv[:, :, self._heads :]

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        """Returns x divided by its root mean square over the last axis (Zhang and Sennrich 2019, arXiv 1910.07467)."""
        if not self._by_norm:
            return functional.rms_norm(x, x.shape[-1:], None, self._eps)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * torch.addcmul(self._eps_alone, norm, norm, value=1 / x.shape[-1]).rsqrt_()

    def _linear(self, x: torch.Tensor, index: int, layer: Layer, group: str, route: Route | None) -> torch.Tensor:
        out = layer.linears[group](x)
        self.lora.add(out, x, index, group, route)
        return out

    def _add(
        self, out: torch.Tensor, x: torch.Tensor, index: int, layer: Layer, group: str, route: Route | None
    ) -> None:
        """Adds what a Linear makes of `x` to `out`."""
        layer.linears[group].add(out, x)
        self.lora.add(out, x, index, group, route)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.linear(self._normed(hidden).mul_(self._language.final_norm), self._language.head)
