"""The language model of a Qwen3-VL over a pool of slots: the same arithmetic as transformers', for rows that come
and go.

The weights are those of the loaded network (the Linears that read the same input become views of one matrix, so that
no memory is added); positions, masks and cache are explicit, and nothing depends on state of the network's modules.
That the tokens are those of `generate` is held by tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional

from services.critic.kv import KvPool
from services.critic.lora import GROUPS, StackedLora
from services.critic.model import Prompt, VisionFeatures

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


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
        slots = slice(first, first + rows)

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self.pool.keys[layer][slots, :, :width] = k
            self.pool.values[layer][slots, :, :width] = v
            return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        hidden = self._run(x, positions.to(self._device), attend, self.lora.route(adapters, width), places, deepstack)
        last = torch.tensor([len(prompt.token_ids) - 1 for prompt in prompts], device=self._device)
        return self._logits(hidden[torch.arange(rows, device=self._device), last])

    def decode(
        self, tokens: Sequence[int], lengths: Sequence[int], positions: Sequence[int], adapters: Sequence[int | None]
    ) -> torch.Tensor:
        """Adds one token to each of the rows in slots 0, 1, ..., and returns the logits [rows, vocabulary] after it.

        `lengths`: tokens that each slot holds already; `positions`: the new token's position.
        """
        rows, span = len(tokens), max(lengths) + 1
        numbers = torch.tensor([tokens, lengths, positions], device=self._device)
        x = functional.embedding(numbers[0], self._embed)[:, None]
        ends = numbers[1]
        row_index = torch.arange(rows, device=self._device)
        mask = (torch.arange(span, device=self._device) <= ends[:, None])[:, None, None]
        groups = self._heads // self._kv_heads

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = self.pool.keys[layer], self.pool.values[layer]
            keys[row_index, :, ends] = k[:, :, 0]
            values[row_index, :, ends] = v[:, :, 0]
            # The query heads of one key head stand in the place of several queries: no key is copied.
            grouped = q.view(rows, self._kv_heads, groups, self._head_dim)
            out = functional.scaled_dot_product_attention(
                grouped, keys[:rows, :, :span], values[:rows, :, :span], attn_mask=mask
            )
            return out.reshape(rows, self._heads, 1, self._head_dim)

        hidden = self._run(x, numbers[2].expand(3, -1)[..., None], attend, self.lora.route(adapters, 1), None, [])
        return self._logits(hidden[:, 0])

    def _run(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        route: torch.Tensor | None,
        places: torch.Tensor | None,
        deepstack: list[torch.Tensor],
    ) -> torch.Tensor:
        """Returns the last layer's output [rows, tokens, hidden]; `positions` [3, rows, tokens]."""
        cos, sin = (table[:, :, None] for table in self._rotary(x, positions))
        for index, layer in enumerate(self._layers):
            normed = functional.rms_norm(x, x.shape[-1:], layer.input_norm, self._eps)
            x = x + self._attention(normed, index, layer, cos, sin, attend, route)
            normed = functional.rms_norm(x, x.shape[-1:], layer.mlp_norm, self._eps)
            gate, up = self._linear(normed, index, layer, "gate_up", route).chunk(2, -1)
            x = x + self._linear(layer.activation(gate) * up, index, layer, "down", route)
            if places is not None and index < len(deepstack):
                x.view(-1, x.shape[-1])[places] += deepstack[index].to(x.dtype)
        return x

    def _attention(
        self,
        x: torch.Tensor,
        index: int,
        layer: _Layer,
        cos: torch.Tensor,
        sin: torch.Tensor,
        attend: Attend,
        route: torch.Tensor | None,
    ) -> torch.Tensor:
        rows, tokens, _ = x.shape
        qkv = self._linear(x, index, layer, "qkv", route).view(rows, tokens, -1, self._head_dim)
        turned = self._heads + self._kv_heads
        qk = functional.rms_norm(qkv[:, :, :turned], (self._head_dim,), None, self._eps) * layer.head_norm
        half = self._head_dim // 2
        qk = qk * cos + torch.cat((-qk[..., half:], qk[..., :half]), -1) * sin
        q, k = qk.transpose(1, 2).split([self._heads, self._kv_heads], 1)
        out = attend(index, q, k, qkv[:, :, turned:].transpose(1, 2))
        return self._linear(out.transpose(1, 2).reshape(rows, tokens, -1), index, layer, "o", route)

    def _linear(
        self, x: torch.Tensor, index: int, layer: _Layer, group: str, route: torch.Tensor | None
    ) -> torch.Tensor:
        fused = layer.fused[group]
        out = functional.linear(x, fused.weight, fused.bias)
        self.lora.add(out, x, index, group, route)
        return out

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        normed = functional.rms_norm(hidden, hidden.shape[-1:], self._final_norm, self._eps)
        return functional.linear(normed, self._head)


def widths(network: Any) -> dict[str, list[int]]:
    """Returns the number of outputs of each Linear of each group, the same in every layer."""
    layer = network.model.language_model.layers[0]
    return {group: [layer.get_submodule(name).out_features for name in names] for group, names in GROUPS.items()}
