"""The weights of a network's language model, arranged as the decoder multiplies by them.

Linears that read the same input become one, and the network's own become views of it, so that no memory is added. In
bfloat16 on a CPU, weights are packed in the order in which oneDNN reads them, which it would else do anew at every
product: that halves a step of few rows. The network's own Linears are emptied then, and the network itself can no
longer write. In float32 on a CPU, weights lie in memory input by input, as the products of few rows read them fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional

from services.critic.lora import GROUPS


@dataclass(frozen=True)
class Linear:
    """Linears that read the same input, as one: weight [all outputs, inputs], packed or not."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    packed: bool

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the product [..., outputs], contiguous."""
        if self.packed:
            product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return product
        return functional.linear(x, self.weight, self.bias)

    def add(self, out: torch.Tensor, x: torch.Tensor) -> None:
        """Adds the product to `out` in place; where weights are not packed, in one operation."""
        if self.packed:
            out += self(x)
            return
        out.view(-1, out.shape[-1]).addmm_(x.view(-1, x.shape[-1]), self.weight.t())
        if self.bias is not None:
            out += self.bias


@dataclass(frozen=True)
class Layer:
    """A layer; `head_norm`: the norms of query and key heads, [query heads + key heads, head_dim]."""

    linears: dict[str, Linear]
    input_norm: torch.Tensor
    mlp_norm: torch.Tensor
    head_norm: torch.Tensor
    activation: Callable[[torch.Tensor], torch.Tensor]


class LanguageWeights:
    """The language model of a Qwen3-VL, taken over from the network; `widths`: the outputs of each Linear of each
    group, the same in every layer."""

    def __init__(self, network: Any) -> None:
        config, language = network.config.text_config, network.model.language_model
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = config.head_dim
        self.eps: float = config.rms_norm_eps
        self.embed: torch.Tensor = language.embed_tokens.weight
        self.rotary: Any = language.rotary_emb
        self.final_norm: torch.Tensor = language.norm.weight
        self.head: torch.Tensor = network.lm_head.weight
        self.widths = {
            group: [language.layers[0].get_submodule(name).out_features for name in names]
            for group, names in GROUPS.items()
        }
        pack = packs(self.embed.device, self.embed.dtype)
        self.layers = [self._layer(layer, pack) for layer in language.layers]

    def _layer(self, layer: Any, pack: bool) -> Layer:
        attention = layer.self_attn
        linears = {
            group: _fused([layer.get_submodule(name) for name in names], pack) for group, names in GROUPS.items()
        }
        heads = [attention.q_norm.weight.expand(self.heads, -1), attention.k_norm.weight.expand(self.kv_heads, -1)]
        return Layer(
            linears, layer.input_layernorm.weight, layer.post_attention_layernorm.weight, torch.cat(heads),
            layer.mlp.act_fn,
        )  # fmt: skip


def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Returns whether weights are packed: only bfloat16 gains by it, and the processor must multiply it itself."""
    # A build of torch without oneDNN has none of these operations to ask.
    if device.type != "cpu" or dtype is not torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _fused(linears: Sequence[Any], pack: bool) -> Linear:
    """Returns Linears as one matrix, and makes each a view of its part; or empties it, where the matrix is packed."""
    weight, bias = linears[0].weight.data, linears[0].bias
    if len(linears) > 1:
        weight = torch.cat([linear.weight for linear in linears])
        bias = None if bias is None else torch.cat([linear.bias for linear in linears])
    if pack:
        weight = torch.ops.mkldnn._reorder_linear_weight(weight)
    elif weight.device.type == "cpu" and weight.dtype is torch.float32:
        weight = weight.t().contiguous().t()
    start = 0
    for linear in linears:
        stop = start + linear.out_features
        linear.weight.data = torch.empty(0, dtype=linear.weight.dtype) if pack else weight[start:stop]
        start = stop
    return Linear(weight, bias, pack)
