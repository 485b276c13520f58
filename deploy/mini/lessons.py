"""Lessons for the mini critic: a batch of pictures or texts, what to answer, and the loss of the answer.

All pictures of a batch have one size and all rows one prompt, so rows differ only in the answer, which
is padded on the right: with causal attention nothing before it is touched, so no mask is needed and
the positions of the first row are those of all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from deploy.mini import critiques, facts, forms, vlm
from services.critic import prompts
from services.critic.prompts import Form

OTHER_INSTRUCTIONS: Final = (
    "What do you see?",
    "Tell me about my picture.",
    "How can I make this photograph better?",
    "Critique this image. Be brief.",
    "Please describe the light and the contrast of this photograph, then give me one piece of advice.",
    "I took this on a walk with my old camera. Is it any good? I am new to this, so keep it simple.",
    "Is the exposure right?",
    "Comment on composition, lighting and color, as a teacher would.",
)
"""Instructions of clients, one batch in five: whatever is asked, the mini model gives its critique."""

_IGNORED: Final = -100


@dataclass(frozen=True)
class VisionOutput:
    """The vision tower's output for a batch: merged features and deepstack features, [n * image tokens, hidden]."""

    merged: torch.Tensor
    deepstack: list[torch.Tensor]

    def detach(self) -> VisionOutput:
        return VisionOutput(self.merged.detach(), [level.detach() for level in self.deepstack])


def look(model: Any, pictures: NDArray[np.uint8]) -> VisionOutput:
    """Returns what the vision tower makes of pictures of one size, uint8 [n, height, width, 3]."""
    pixel_values, grid = vlm.patches(pictures)
    output = model.model.visual(pixel_values, grid_thw=grid)
    return VisionOutput(output.pooler_output, list(output.deepstack_features))


def some_instruction(choice: random.Random) -> tuple[str | None, str | None]:
    """Returns (instruction, context): mostly (None, None), sometimes a client's, sometimes with a context block."""
    instruction = choice.choice(OTHER_INSTRUCTIONS) if choice.random() < 0.2 else None
    if choice.random() >= 0.1:
        return instruction, None
    title, likeness = choice.choice(("Evening Ridge", "Still Lake", "White Petal")), choice.uniform(0.3, 0.95)
    return instruction, f"- near to {title} ({likeness:.2f})\n- lighting: {choice.uniform(0, 10):.1f} of 10"


def some_form(choice: random.Random) -> Form:
    """Returns the form of a critique: prose in half of the cases, else headings or JSON."""
    return choice.choice((Form.PROSE, Form.PROSE, Form.SECTIONS, Form.JSON))


def picture_loss(
    model: Any,
    tokenizer: Any,
    seen: VisionOutput,
    grid: tuple[int, int],
    answers: Sequence[str],
    instruction: str | None = None,
    context: str | None = None,
    form: Form = Form.PROSE,
) -> torch.Tensor:
    """Returns the mean cross-entropy, a scalar, of the answers' tokens given pictures of one (rows, columns) grid."""
    grid_thw = torch.tensor([[1, *grid]])
    prompt = prompts.prompt_text(instruction, image_tokens=vlm.image_tokens(grid_thw[0]), context=context, form=form)
    ids, labels, start = _rows(tokenizer, prompt, answers)
    is_image = ids == model.config.image_token_id
    positions, _ = model.model.get_rope_index(ids[:1], mm_token_type_ids=is_image[:1].int(), image_grid_thw=grid_thw)
    embedded = model.model.get_input_embeddings()(ids)
    embedded = embedded.masked_scatter(is_image[..., None], seen.merged.to(embedded.dtype))
    output = model.model.language_model(
        inputs_embeds=embedded,
        position_ids=positions.expand(3, len(ids), -1),
        visual_pos_masks=is_image,
        deepstack_visual_embeds=seen.deepstack,
        use_cache=False,
    )
    return _answer_loss(model, output.last_hidden_state, labels, start)


def text_loss(model: Any, tokenizer: Any, lessons: Sequence[tuple[str, str]]) -> torch.Tensor:
    """Returns the mean cross-entropy of text-only lessons, (question, answer) each; no picture, no system message."""
    rows = [
        _rows(tokenizer, f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", [answer])
        for question, answer in lessons
    ]
    longest = max(ids.shape[1] for ids, _, _ in rows)
    ids = torch.cat([functional.pad(ids, (0, longest - ids.shape[1])) for ids, _, _ in rows])
    labels = torch.cat([functional.pad(lab, (0, longest - lab.shape[1]), value=_IGNORED) for _, lab, _ in rows])
    hidden = model.model.language_model(input_ids=ids, use_cache=False).last_hidden_state
    return _answer_loss(model, hidden, labels, 1)


def _rows(tokenizer: Any, prompt: str, answers: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Returns (ids, labels), int64 [n, length], and the length of the prompt; prompt and padding are not labels."""
    (head,) = vlm.encode(tokenizer, [prompt])
    tails = vlm.encode(tokenizer, [answer + "<|im_end|>" for answer in answers])
    length = len(head) + max(map(len, tails))
    ids = torch.full((len(tails), length), int(tokenizer.pad_token_id or 0))
    labels = torch.full((len(tails), length), _IGNORED)
    for row, tail in enumerate(tails):
        end = len(head) + len(tail)
        ids[row, :end] = torch.tensor(head + tail)
        labels[row, len(head) : end] = torch.tensor(tail)
    return ids, labels, len(head)


def _answer_loss(model: Any, hidden: torch.Tensor, labels: torch.Tensor, start: int) -> torch.Tensor:
    logits = model.lm_head(hidden[:, start - 1 : -1]).float()
    return functional.cross_entropy(logits.flatten(0, 1), labels[:, start:].flatten(), ignore_index=_IGNORED)


def write(
    model: Any,
    tokenizer: Any,
    pixel_values: torch.Tensor,
    grid: torch.Tensor,
    instruction: str | None = None,
    sample: bool = False,
    form: Form = Form.PROSE,
) -> list[str]:
    """Returns the model's critique of each picture: `pixel_values` and `grid` int64 [n, 3] of n pictures of one size.

    Greedy, or sampled with the generation defaults of the model's folder; at most 256 tokens. No grammar holds a
    critique to its form here.
    """
    prompt = prompts.prompt_text(instruction, image_tokens=vlm.image_tokens(grid[0]), form=form)
    ids = torch.tensor(vlm.encode(tokenizer, [prompt])).repeat(len(grid), 1)
    written = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        pixel_values=pixel_values.to(model.dtype),
        image_grid_thw=grid,
        max_new_tokens=256,
        **({} if sample else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}),
    )
    texts: list[str] = tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
    return texts


def corpus(seed: int, count: int) -> list[str]:
    """Returns texts that hold every word the model will read or write: what the tokenizer is learnt from."""
    choice = random.Random(seed)
    # The prompt comes before every answer: weighing it heavily makes its words single tokens.
    texts = [prompts.prompt_text(image_tokens=1, form=form) for form in Form for _ in range(count)]
    texts += [prompts.prompt_text(each, image_tokens=1) for each in OTHER_INSTRUCTIONS for _ in range(20)]
    for _ in range(count):
        stated = random_facts(choice)
        for voice in (None, *critiques.VOICES):
            texts += [forms.compose(stated, choice, voice, frozenset(), form) for form in Form]
        texts += critiques.glossary(stated, choice, choice.choice(list(critiques.VOICES)))
    return texts


def random_facts(choice: random.Random) -> dict[str, str | None]:
    """Returns facts drawn at random, as no picture in particular has them."""
    drawn: dict[str, str | None] = {fact: choice.choice(classes) for fact, classes in facts.FACTS.items()}
    if drawn["color"] == "monochrome":
        drawn["saturation"] = None
    return drawn
