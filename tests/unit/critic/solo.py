"""The reference: one request alone through transformers' own `generate`."""

from __future__ import annotations

from typing import Any

import torch

from services.critic import prompts
from services.critic.model import Prompt, VisionLanguageModel
from tests.fakes.critic import photograph

SHAPES = [(64, 48), (48, 64), (64, 48), (120, 40)]
INSTRUCTIONS = ["", "Look at the light.", "Say what to try next, and why it would help the picture."]


def prompt_of(model: VisionLanguageModel, picture: int, instruction: int) -> Prompt:
    """Returns the prompt of one of a few photographs and instructions."""
    width, height = SHAPES[picture]
    inputs = model.vision_inputs(photograph(width, height, picture), f"picture-{picture}")
    return model.prompt(inputs, lambda n: prompts.prompt_text(INSTRUCTIONS[instruction], image_tokens=n))


def generate(
    model: VisionLanguageModel, prompt: Prompt, max_tokens: int, network: Any = None, **options: object
) -> list[int]:
    """Returns the tokens that `generate` writes greedily after `prompt`, the ending one included."""
    ids = torch.tensor([prompt.token_ids])
    with torch.inference_mode():
        out = (network or model.network).generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == model.image_token_id).int(),
            pixel_values=prompt.image.pixels,
            image_grid_thw=torch.tensor([prompt.image.grid]),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=sorted(model.end_ids),
            pad_token_id=model.tokenizer.pad_token_id,
            **options,
        )
    return out[0, len(prompt.token_ids) :].tolist()  # type: ignore[no-any-return]
