"""Small random-weight Qwen3-VL folders in the published format, made where a test needs one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from services.core.models import torchvision_shim
from services.critic import prompts
from services.critic.adapter_format import Base
from services.critic.model import VisionLanguageModel

torchvision_shim.install()

from transformers import (  # noqa: E402 - its image code imports torchvision, which needs the shim first
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil  # noqa: E402

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
# Enough of Qwen's template for a server that renders messages by it.
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a byte-level tokenizer: 256 byte tokens, then Qwen's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_image_processor() -> Qwen2VLImageProcessorPil:
    """Returns Qwen's image processor for patches of 8 pixels and at most 64 image tokens."""
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": 16 * 16 * 4, "longest_edge": 16 * 16 * 64},
        patch_size=8, temporal_patch_size=2, merge_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip


def tiny_config(tokenizer: PreTrainedTokenizerFast, *, hidden: int = 64, layers: int = 3) -> Qwen3VLConfig:
    """Returns the configuration of a Qwen3-VL of a few hundred thousand parameters."""
    ids = tokenizer.get_vocab()
    return Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": hidden, "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]},
        },
        vision_config={
            "depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 8,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": hidden,
            "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )  # fmt: skip


def tiny_model_folder(
    folder: Path, *, seed: int = 0, hidden: int = 64, layers: int = 3, max_shard_size: str = "5GB", ends: bool = True
) -> Path:
    """Writes a random Qwen3-VL to `folder` as a hub repository holds it, and returns the folder.

    The weights are wide enough apart (standard deviation 0.2) that greedy choices are never ties. Unless it `ends`,
    the logit of the tokens that end a text is always 0, which is never the greatest.
    """
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer, hidden=hidden, layers=layers)
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.2)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    torch.random.set_rng_state(generator_state)
    ending = [tokenizer.get_vocab()["<|im_end|>"], tokenizer.pad_token_id]
    if not ends:
        model.get_input_embeddings().weight.data[ending] = 0
    model.generation_config.eos_token_id = ending
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder, max_shard_size=max_shard_size, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    tiny_image_processor().save_pretrained(folder)
    return folder


def critique_messages(instruction: str, context: str | None = None) -> list[dict[str, Any]]:
    """Returns the chat messages of a critique, from which a chat template makes the prompt."""
    words = [{"type": "image"}, {"type": "text", "text": prompts.user_text(instruction, context)}]
    return [{"role": "system", "content": prompts.SYSTEM_TEXT}, {"role": "user", "content": words}]


SIZES = {
    # hidden, MLP, layers, heads, key heads, head size, vocabulary, tower's hidden, tower's depth
    "tiny": (192, 384, 4, 4, 2, 48, 1024, 128, 3),
    "mid": (1024, 3072, 20, 16, 8, 128, 32_000, 768, 8),
}


def random_model(size: str) -> VisionLanguageModel:
    """Returns a random Qwen3-VL of 3 M ("tiny", float32) or about 400 M parameters ("mid", bfloat16) that never ends.

    It is built in memory; the vocabulary beyond the tokenizer's bytes gives no text.
    """
    hidden, mlp, layers, heads, key_heads, head, vocabulary, tower, depth = SIZES[size]
    tokenizer = tiny_tokenizer()
    config: Any = tiny_config(tokenizer, hidden=hidden, layers=layers)
    text, vision = config.text_config, config.vision_config
    text.intermediate_size, text.num_attention_heads, text.num_key_value_heads = mlp, heads, key_heads
    text.head_dim, text.vocab_size = head, vocabulary
    third = head // 6
    sections = [head // 2 - 2 * third, third, third]
    text.rope_parameters = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections}
    vision.hidden_size, vision.intermediate_size, vision.num_heads, vision.depth = tower, 3 * tower, tower // 64, depth
    config.vision_config.deepstack_visual_indexes = [1]
    torch.manual_seed(0)
    network = Qwen3VLForConditionalGeneration(config).eval().requires_grad_(False)
    if size == "mid":
        network.to(torch.bfloat16)
    model = VisionLanguageModel(
        network, tokenizer, tiny_image_processor(), name=f"random-{size}", fingerprint="0" * 64, max_image_tokens=64
    )
    model.end_ids = frozenset({-1})
    return model


def photograph(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """Returns a small RGB picture of smooth noise, the same for the same arguments."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def adapter_config(base: str, **changes: object) -> dict[str, object]:
    """Returns the JSON of a plain LoRA adapter for `base`, with `changes` made to it."""
    plain: dict[str, object] = {
        "peft_type": "LORA", "base_model_name_or_path": base, "r": 4, "lora_alpha": 8, "bias": "none",
        "target_modules": ["q_proj", "v_proj"], "use_dora": False, "use_rslora": False, "lora_dropout": 0.0,
        "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "task_type": "CAUSAL_LM",
    }  # fmt: skip
    return json.loads(json.dumps(plain | changes))  # type: ignore[no-any-return]


def random_adapter(folder: Path, base: Base, *, seed: int, rank: int = 4, **changes: object) -> Path:
    """Writes a LoRA adapter with random matrices, in peft's format, for q_proj and v_proj of every layer."""
    config = adapter_config(base.name, **({"r": rank} | changes))
    generator = torch.Generator().manual_seed(seed)
    targets = config["target_modules"]
    assert isinstance(targets, list)
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(base.layers):
        for module, (outputs, inputs) in base.shapes.items():
            if module.rsplit(".", 1)[1] in targets:
                name = f"base_model.model.model.language_model.layers.{layer}.{module}"
                tensors[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) * 0.1
                tensors[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * 0.1
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    return folder
