"""The language model of a Qwen3-VL over a pool of slots: the same arithmetic as transformers', for rows that come
and go.

The weights are those of the loaded network (the Linears that read the same input become views of one matrix, so that
no memory is added); positions, masks and cache are explicit, and nothing depends on state of the network's modules.
That the tokens are those of `generate` is held by tests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional

from services.critic.graphs import Record, StepGraphs
from services.critic.kv import KvPool
from services.critic.lora import GROUPS, Route, StackedLora
from services.critic.model import Prompt, VisionFeatures
from services.critic.spans import Span, spans

log = logging.getLogger("mondrian.critic")

Attend = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]
"""Returns attention's output [rows, heads, tokens, head_dim] for a layer, its queries of that shape, and the new keys
and values [rows, tokens, 2 * kv_heads, head_dim], which it keeps."""

_Rope = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class _Fused:
    """Linears that read the same input, as one: weight [all outputs, inputs]."""

    weight: torch.Tensor
    bias: torch.Tensor | None


def _fuse(linears: Sequence[Any]) -> _Fused:
    """Returns the Linears as one matrix, and makes each a view of its part."""
    if len(linears) == 1:
        return _Fused(linears[0].weight, linears[0].bias)
    weight = torch.cat([linear.weight for linear in linears])
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    start = 0
    for linear in linears:
        stop = start + linear.weight.shape[0]
        linear.weight.data = weight[start:stop]
        start = stop
    return _Fused(weight, bias)


@dataclass(frozen=True)
class _Layer:
    fused: dict[str, _Fused]
    input_norm: torch.Tensor
    mlp_norm: torch.Tensor
    # Norms of query and key heads, [query heads + key heads, head_dim]: one norm for both.
    head_norm: torch.Tensor
    activation: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Image:
    """Where image tokens stand in the flattened pass, and what DeepStack adds to them after each of the first
    layers."""

    places: torch.Tensor
    deepstack: list[torch.Tensor]


class SlotDecoder:
    """Reads prompts into slots and writes one token a row and step. All tensors on the model's device."""

    def __init__(self, network: Any, pool: KvPool) -> None:
        config = network.config.text_config
        self.pool = pool
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self._head_dim: int = config.head_dim
        self._eps: float = config.rms_norm_eps
        self._embed: torch.Tensor = network.model.language_model.embed_tokens.weight
        self._rotary: Any = network.model.language_model.rotary_emb
        self._final_norm: torch.Tensor = network.model.language_model.norm.weight
        self._head: torch.Tensor = network.lm_head.weight
        self._layers = [self._layer(layer) for layer in network.model.language_model.layers]
        self._device = self._embed.device
        self._on_cpu = self._device.type == "cpu"
        self._place_bytes = 2 * self._kv_heads * self._head_dim * self._embed.itemsize
        # torch has no kernel of its own for this norm on a CPU, and composes it of more operations than it takes.
        self._by_norm = self._on_cpu and self._embed.dtype is torch.float32
        self._eps_alone = torch.tensor(self._eps)
        # Tokens of text have one number for all three axes, and never a higher one than their place in the slot.
        every = torch.arange(pool.max_tokens, device=self._device).expand(3, 1, -1)
        cos, sin = self._rope(self._embed[:1, None], every)
        self._text_rope = (cos[0, :, 0], sin[0, :, 0])
        self._graphs: StepGraphs | None = None
        self.lora = StackedLora(widths(network), self._device, self._embed.dtype)

    def _layer(self, layer: Any) -> _Layer:
        attention = layer.self_attn
        fused = {group: _fuse([layer.get_submodule(name) for name in names]) for group, names in GROUPS.items()}
        heads = [attention.q_norm.weight.expand(self._heads, -1), attention.k_norm.weight.expand(self._kv_heads, -1)]
        return _Layer(
            fused, layer.input_layernorm.weight, layer.post_attention_layernorm.weight, torch.cat(heads),
            layer.mlp.act_fn,
        )  # fmt: skip

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

        def attend(layer: int, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
            self.pool.both[layer][slots, :, :width] = kv.transpose(1, 2)
            k, v = kv.transpose(1, 2).chunk(2, 1)
            alone = q.shape[2] == 1  # the last token of each prompt
            return functional.scaled_dot_product_attention(
                q, k, v, attn_mask=unseen if alone else None, is_causal=not alone, enable_gqa=True
            )

        rope = self._rope(x, positions.to(self._device))
        return self._logits(
            self._run(x, rope, attend, self.lora.route(adapters, width), _Image(places, deepstack), last)
        )

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
        ends = [length + 1 for length in lengths]
        # A GPU has reads enough under way to do all in one call.
        parts = spans(ends, self._place_bytes) if self._on_cpu else [Span(0, len(ends), max(ends))]
        return self._step(torch.tensor(numbers, device=self._device), parts, self.lora.route(adapters, 1))

    def record_steps(self, record: Record) -> None:
        """Runs decode steps by recorded graphs from now on."""
        pool = self.pool
        self._graphs = StepGraphs(self._step, self.lora, record, slots=pool.slots, max_tokens=pool.max_tokens)

    def _step(self, numbers: torch.Tensor, parts: Sequence[Span], route: Route | None) -> torch.Tensor:
        """Returns the logits of one decode step; nothing in it waits for the device or comes from the host.

        `numbers`: [3, rows] tokens, lengths and positions; `parts` of the rows attend together.
        """
        rows = numbers.shape[1]
        x = functional.embedding(numbers[0], self._embed)[:, None]
        ends = numbers[1]
        row_index = torch.arange(rows, device=self._device)
        unseen = self._hidden_from(ends, max(part.length for part in parts))
        cut = [(part, unseen[part.start : part.stop, ..., : part.length]) for part in parts]

        def attend(layer: int, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
            self.pool.both[layer][row_index, :, ends] = kv[:, 0]
            keys, values = self.pool.keys[layer], self.pool.values[layer]
            # The query heads of one key head stand in the place of several queries: no key is copied.
            grouped = q.reshape(rows, self._kv_heads, -1, self._head_dim)
            out = [
                functional.scaled_dot_product_attention(
                    grouped[part.start : part.stop], keys[part.start : part.stop, :, : part.length],
                    values[part.start : part.stop, :, : part.length], attn_mask=mask,
                )
                for part, mask in cut
            ]  # fmt: skip
            whole = out[0] if len(out) == 1 else torch.cat(out)
            return whole.reshape(rows, self._heads, 1, self._head_dim)

        cos, sin = self._text_rope
        rope = (cos[numbers[2]][:, None, None], sin[numbers[2]][:, None, None])
        return self._logits(self._run(x, rope, attend, route))

    def _hidden_from(self, last: torch.Tensor, width: int) -> torch.Tensor:
        """Returns what is added to attention's scores [rows, 1, 1, width]: -inf after the place `last` of each row."""
        after = torch.arange(width, device=self._device) > last[:, None]
        mask = torch.zeros(after.shape, device=self._device, dtype=self._embed.dtype)
        return mask.masked_fill_(after, -torch.inf)[:, None, None]

    def _rope(self, x: torch.Tensor, positions: torch.Tensor) -> _Rope:
        """Returns cosine and sine [rows, tokens, 1, head_dim] of the positions [3, rows, tokens], the first half of
        the sine negative: x * cos + (x with its halves exchanged) * sin turns x."""
        cos, sin = (table[:, :, None] for table in self._rotary(x, positions))
        first, second = sin.chunk(2, -1)
        return cos, torch.cat((-first, second), -1)

    def _run(
        self,
        x: torch.Tensor,
        rope: _Rope,
        attend: Attend,
        route: Route | None,
        image: _Image | None = None,
        last: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the last layer's output [rows, hidden] of the token at the place `last` of each row (None: the only
        one). Writes into `x`."""
        deepstack = image.deepstack if image is not None else []
        for index, layer in enumerate(self._layers):
            normed = self._normed(x).mul_(layer.input_norm)
            q, kv = self._attention_inputs(normed, index, layer, rope, route)
            if last is not None and index == len(self._layers) - 1 and index >= len(deepstack):
                # Keys and values are wanted of all tokens, but what the layer writes of the last one alone.
                rows = torch.arange(len(x), device=self._device)
                q, x, last = q[rows, :, last][:, :, None], x[rows, last][:, None], None
            out = attend(index, q, kv).transpose(1, 2)
            self._add(x, out.reshape(*x.shape[:2], -1), index, layer, "o", route)
            normed = self._normed(x).mul_(layer.mlp_norm)
            gate, up = self._linear(normed, index, layer, "gate_up", route).chunk(2, -1)
            self._add(x, layer.activation(gate).mul_(up), index, layer, "down", route)
            if image is not None and index < len(deepstack):
                x.view(-1, x.shape[-1])[image.places] += deepstack[index].to(x.dtype)
        return x[:, 0] if last is None else x[torch.arange(len(x), device=self._device), last]

    def _attention_inputs(
        self, x: torch.Tensor, index: int, layer: _Layer, rope: _Rope, route: Route | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns queries [rows, heads, tokens, head_dim], and keys and values [rows, tokens, 2 * kv_heads, head_dim];
        queries and keys are turned to their positions."""
        rows, tokens, _ = x.shape
        qkv = self._linear(x, index, layer, "qkv", route).view(rows, tokens, -1, self._head_dim)
        turning = qkv[:, :, : self._heads + self._kv_heads]
        normed = self._normed(turning).mul_(layer.head_norm)
        torch.addcmul(normed * rope[0], normed.roll(self._head_dim // 2, -1), rope[1], out=turning)
        return qkv[:, :, : self._heads].transpose(1, 2), qkv[:, :, self._heads :]

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        """Returns x divided by its root mean square over the last axis (Zhang and Sennrich 2019, arXiv 1910.07467)."""
        if not self._by_norm:
            return functional.rms_norm(x, x.shape[-1:], None, self._eps)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * torch.addcmul(self._eps_alone, norm, norm, value=1 / x.shape[-1]).rsqrt_()

    def _linear(self, x: torch.Tensor, index: int, layer: _Layer, group: str, route: Route | None) -> torch.Tensor:
        fused = layer.fused[group]
        out = functional.linear(x, fused.weight, fused.bias)
        self.lora.add(out, x, index, group, route)
        return out

    def _add(
        self, out: torch.Tensor, x: torch.Tensor, index: int, layer: _Layer, group: str, route: Route | None
    ) -> None:
        """Adds what a Linear makes of `x` to `out`: product and sum in one operation."""
        fused = layer.fused[group]
        out.view(-1, out.shape[-1]).addmm_(x.view(-1, x.shape[-1]), fused.weight.t())
        if fused.bias is not None:
            out += fused.bias
        self.lora.add(out, x, index, group, route)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.linear(self._normed(hidden).mul_(self._final_norm), self._head)


def widths(network: Any) -> dict[str, list[int]]:
    """Returns the number of outputs of each Linear of each group, the same in every layer."""
    layer = network.model.language_model.layers[0]
    return {group: [layer.get_submodule(name).out_features for name in names] for group, names in GROUPS.items()}
