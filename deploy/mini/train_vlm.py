"""Train the mini vision-language model from a seed: `python -m deploy.mini.train_vlm [--seed 0]`.

Four stages, on drawn pictures only:
1. the tokenizer is learnt from critiques of random facts;
2. the vision tower learns to read: a linear readout of its mean output predicts the measured numbers
   and the classes of the facts (the readout is thrown away afterwards);
3. the language model, and the layers that merge patches into image tokens, learn to write true
   critiques, half of them as prose, a quarter under headings and a quarter as JSON, whichever the
   prompt asks for; one batch in six is a text-only lesson in the advisors' words. The rest of the
   tower is frozen by then;
4. it learns discretion: to leave out what is too close to call, where there is a choice.
The folder that it writes is what `AutoModelForImageTextToText.from_pretrained` loads.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_model, save_model
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from deploy.mini import critiques, facts, forms, graded, lessons, vlm

log = logging.getLogger(__name__)

FOLDER: Final = Path(__file__).parent / "models" / "vlm"
CACHE: Final = Path(".mondrian") / "mini-cache"
POOL: Final = 3_000
ROWS: Final = 32
READING_STEPS: Final = 1_800
WRITING_STEPS: Final = 900
DISCRETION_STEPS: Final = 580
READING_RATE: Final = 1.5e-3
WRITING_RATE: Final = 2e-3

# Typical mean and spread of each number on graded pictures, after `_even_scale`: the readout's targets.
_TYPICAL: Final = np.array(
    [[50, 17, 20, 4, 0, 3, 1.6, 0.2, 0.25, 0], [20, 7, 16, 14, 12, 14, 0.6, 0.25, 0.25, 0.9]], dtype=np.float32
)


class Readout(nn.Module):
    """Reads numbers and facts from the mean of a picture's image tokens; used in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [len(classes) for classes in facts.FACTS.values()]
        self.norm = nn.LayerNorm(vlm.HIDDEN)
        self.linear = nn.Linear(vlm.HIDDEN, len(facts.NUMBERS) + sum(self.sizes))

    def forward(self, merged: torch.Tensor, count: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Returns (numbers [count, 10] in typical units, logits [count, classes] of each fact)."""
        out = self.linear(self.norm(merged.float().view(count, -1, vlm.HIDDEN).mean(1)))
        numbers = len(facts.NUMBERS)
        return out[:, :numbers], out[:, numbers:].split(self.sizes, dim=1)

    def loss(self, merged: torch.Tensor, pictures: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the loss, a scalar, against what is measured of the pictures, uint8 [n, height, width, 3].

        And the share of the pictures of which each fact was read rightly, [9].
        """
        values = facts.measure(pictures)
        numbers, logits = self(merged, len(pictures))
        wanted = torch.from_numpy((_even_scale(values) - _TYPICAL[0]) / _TYPICAL[1])
        classes = torch.tensor([class_ids(dict(zip(facts.NUMBERS, row, strict=True))) for row in values.tolist()])
        named = [functional.cross_entropy(each, classes[:, i], ignore_index=-1) for i, each in enumerate(logits)]
        loss = torch.stack(named).mean() + 3.0 * functional.smooth_l1_loss(numbers, wanted, beta=0.1)
        right = [(each.argmax(1) == classes[:, i])[classes[:, i] >= 0] for i, each in enumerate(logits)]
        return loss, torch.stack([each.float().mean() for each in right])


def class_ids(numbers: dict[str, float]) -> list[int]:
    """Returns the index of the class of each fact, in the order of `facts.FACTS`; -1 where it does not apply."""
    stated = facts.classify(numbers)
    return [classes.index(stated[fact] or "") if stated[fact] else -1 for fact, classes in facts.FACTS.items()]


def _even_scale(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the numbers with the skewed ones straightened: shares by root, detail by log, level clipped."""
    scaled = values.copy()
    scaled[:, 6] = np.log1p(scaled[:, 6])
    scaled[:, 7:9] = np.sqrt(scaled[:, 7:9])
    scaled[:, 9] = np.clip(scaled[:, 9], -3, 3)
    return scaled


def flatten_patch_embedding(model: Any) -> None:
    """Computes the patch embedding as the matrix product that it is: on CPU its Conv3d is many times slower."""
    embedding = model.model.visual.patch_embed

    def forward(patches: torch.Tensor) -> torch.Tensor:
        weight = embedding.proj.weight
        return functional.linear(patches.to(weight.dtype), weight.flatten(1), embedding.proj.bias)

    embedding.forward = forward


def whiten_patch_embedding(model: Any, pictures: NDArray[np.uint8]) -> None:
    """Starts the patch embedding as a whitened cosine transform, instead of at random.

    64 of its outputs are the 8 x 8 luma cosines (2-D DCT-II) and 32 the 16 lowest of two opponent
    colors, each scaled to unit variance on the given pictures, uint8 [n, height, width, 3]; the rest
    stays random. Fine detail, whose energy in pictures falls with its frequency, is learnt much sooner.
    """
    size = vlm.PATCH
    order = np.arange(size)
    cosines = np.cos(np.pi * (order[None, :] + 0.5) * order[:, None] / size)
    planes = np.einsum("uy,vx->uvyx", cosines, cosines)
    luma, red_green, blue_yellow = np.array([0.3, 0.6, 0.1]), np.array([0.7, -0.7, 0.0]), np.array([0.4, 0.4, -0.8])
    low = planes[:4, :4].reshape(16, size, size)
    bank = np.concatenate(
        [
            np.einsum("c,kyx->kcyx", color, kernels)
            for color, kernels in ((luma, planes.reshape(-1, size, size)), (red_green, low), (blue_yellow, low))
        ]
    )
    filters = torch.from_numpy(np.repeat(bank[:, :, None], vlm.TEMPORAL, axis=2)).float()
    pixel_values, _ = vlm.patches(pictures)
    spread = (pixel_values @ filters.flatten(1).T).std(0)
    with torch.no_grad():
        weight = model.model.visual.patch_embed.proj.weight
        weight[: len(filters)] = filters / spread[:, None, None, None, None]


def rate(step: int, steps: int, peak: float) -> float:
    """Returns the learning rate of a step: 100 steps of warm-up, then half a cosine down to 2% of the peak."""
    return peak * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Takes one step of the optimizer down the gradient of the loss, its norm clipped to 1."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def learn_to_read(model: Any, pictures: NDArray[np.uint8], steps: int, rng: np.random.Generator) -> None:
    """Trains the vision tower with a readout on top, which is thrown away."""
    readout = Readout()
    parameters = [*model.model.visual.parameters(), *readout.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=READING_RATE, weight_decay=0.02)
    progress = Progress("reading", steps)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate(step, steps, READING_RATE)
        shown = graded.batch(pictures, ROWS, rng, graded.SHAPES[step % len(graded.SHAPES)])
        with torch.autocast("cpu", torch.bfloat16):
            merged = lessons.look(model, shown).merged
        loss, right = readout.loss(merged, shown)
        descend(loss, optimizer, parameters)
        progress.step(step, loss, right)


def learn_to_write(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    pictures: NDArray[np.uint8],
    steps: int,
    rng: np.random.Generator,
    discreet: bool = False,
) -> None:
    """Trains the language model, and the mergers of the frozen vision tower, to write critiques.

    `discreet` critiques leave out what is too close to call, where there is a choice. They come last:
    a model that may be silent of a fact before it can read it would learn to be silent of it always.
    """
    choice = random.Random(int(rng.integers(2**31)))
    tower = model.model.visual
    tower.requires_grad_(False)
    tower.merger.requires_grad_(True)
    tower.deepstack_merger_list.requires_grad_(True)
    merging = list(tower.merger.parameters())
    language = [*model.model.language_model.parameters(), *tower.deepstack_merger_list.parameters()]
    # The merger has learnt already, and must not lose what it knows to a language model that has not.
    peak = WRITING_RATE / 2 if discreet else WRITING_RATE
    groups = [{"params": merging}, {"params": language}]
    optimizer = torch.optim.AdamW(groups, lr=peak, weight_decay=0.02, betas=(0.9, 0.98))
    progress = Progress("discretion" if discreet else "writing", steps)
    for step in range(steps):
        now = rate(step, steps, peak)
        optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = now / 10, now
        with torch.autocast("cpu", torch.bfloat16):
            if step % 6 == 5:
                loss = lessons.text_loss(model, tokenizer, glossaries(choice, ROWS))
            else:
                shape = graded.SHAPES[step % len(graded.SHAPES)]
                shown = graded.batch(pictures, ROWS, rng, shape)
                form = lessons.some_form(choice)
                answers = [
                    forms.compose(each.facts, choice, None, each.unsure if discreet else frozenset(), form)
                    for each in facts.read_batch(shown)
                ]
                grid = (shape[0] // vlm.PATCH, shape[1] // vlm.PATCH)
                seen = lessons.look(model, shown)
                asked = lessons.some_instruction(choice)
                loss = lessons.picture_loss(model, tokenizer, seen, grid, answers, *asked, form)
        descend(loss, optimizer, [*merging, *language])
        progress.step(step, loss)


def glossaries(choice: random.Random, count: int) -> list[tuple[str, str]]:
    """Returns text-only lessons in the advisors' words, about facts drawn at random."""
    voices = list(critiques.VOICES)
    return [critiques.glossary(lessons.random_facts(choice), choice, choice.choice(voices)) for _ in range(count)]


class Progress:
    """Logs, every hundred steps, the mean loss, how often each fact was read rightly, and the processor time."""

    def __init__(self, stage: str, steps: int) -> None:
        self.stage, self.steps = stage, steps
        self.losses: list[float] = []
        self.rights: list[torch.Tensor] = []
        self.started = time.process_time()

    def step(self, step: int, loss: torch.Tensor, right: torch.Tensor | None = None) -> None:
        """Takes note of one step: its loss, and the share of pictures of which each fact was read rightly."""
        self.losses.append(float(loss.detach()))
        if right is not None:
            self.rights.append(right)
        if (step + 1) % 100 == 0:
            spent = time.process_time() - self.started
            mean = sum(self.losses) / len(self.losses)
            log.info("%s: step %d of %d, loss %.3f, %.0f CPU-s", self.stage, step + 1, self.steps, mean, spent)
            if self.rights:
                shares = zip(facts.FACTS, torch.stack(self.rights).nanmean(0).tolist(), strict=True)
                log.info("  %s", ", ".join(f"{fact} {share:.2f}" for fact, share in shares))
            self.losses.clear()
            self.rights.clear()


def train(seed: int, folder: Path, steps: Mapping[str, int], resume: bool = False) -> None:
    """Trains the model and writes its folder.

    `steps` are those of the stages "reading", "writing" and "discretion". The state after each stage
    is kept in the cache; `resume` takes up stages of as many steps that an earlier run finished.
    """
    torch.manual_seed(seed)
    critiques.check_wording()
    tokenizer = vlm.make_tokenizer(lessons.corpus(seed, 3_000))
    model = vlm.make_model(tokenizer)
    flatten_patch_embedding(model)
    count = sum(parameter.numel() for parameter in model.parameters())
    log.info("model: %d parameters, tokenizer: %d entries", count, len(tokenizer))
    pictures = graded.pool(graded.TRAIN_SEED + 100_000 * seed, POOL, CACHE)
    model.train()
    for number, stage in enumerate(("reading", "writing", "discretion")):
        finished = CACHE / f"vlm-{seed}-{stage}-{steps[stage]}.safetensors"
        if resume and finished.exists():
            load_model(model, finished)
            log.info("%s: taken up from %s", stage, finished)
            continue
        # A generator for each stage: a run that is taken up is the run that did not stop.
        rng = np.random.default_rng([seed, number])
        if stage == "reading":
            whiten_patch_embedding(model, graded.batch(pictures, 256, rng, graded.SHAPES[0]))
            learn_to_read(model, pictures, steps[stage], rng)
        else:
            learn_to_write(model, tokenizer, pictures, steps[stage], rng, discreet=stage == "discretion")
        save_model(model, str(finished))
    vlm.save(model.eval(), tokenizer, folder)
    log.info("written: %s", folder)


def main() -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--reading-steps", type=int, default=READING_STEPS)
    parser.add_argument("--writing-steps", type=int, default=WRITING_STEPS)
    parser.add_argument("--discretion-steps", type=int, default=DISCRETION_STEPS)
    parser.add_argument("--resume", action="store_true", help="take up the stages that an earlier run finished")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    torch.set_num_threads(1)
    steps = {stage: getattr(arguments, f"{stage}_steps") for stage in ("reading", "writing", "discretion")}
    train(arguments.seed, arguments.folder, steps, arguments.resume)


if __name__ == "__main__":
    main()
