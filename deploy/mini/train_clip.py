"""Train the small CLIP on drawn pictures: one folder that open_clip loads, image and text tower.

python -m deploy.mini.train_clip --out deploy/mini/models/clip --seed 0
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from deploy.mini import evaluate_clip, views
from deploy.mini.pool import Pool, draw_pool, held_out
from services.core.models import torchvision_shim

CACHE = Path(__file__).resolve().parents[2] / ".mondrian" / "mini-cache"
CONTEXT = 56
"""Most tokens of a text; captions of scenes have fewer than 50."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights. Sizes in pixels and pictures, times in optimiser steps."""

    seed: int = 0
    scenes: int = 10000
    textures: int = 6000
    side: int = 64
    width: int = 16
    steps: int = 1000
    batch: int = 256
    scene_share: float = 0.5
    rate: float = 3e-3
    warmup: int = 100
    decay: float = 0.05
    temperature: float = 0.07
    text_weight: float = 1.0
    text_width: int = 64
    text_layers: int = 2
    words_steps: int = 600
    words_rate: float = 1e-3


def configuration(recipe: Recipe) -> dict[str, Any]:
    """The open_clip configuration file of a recipe: a ModifiedResNet and a text transformer, 512 numbers out."""
    return {
        "model_cfg": {
            "embed_dim": 512,
            "vision_cfg": {
                "image_size": recipe.side,
                "layers": [1, 1, 1, 1],
                "width": recipe.width,
                "head_width": recipe.width,
            },
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": 49408,
                "width": recipe.text_width,
                "heads": 4,
                "layers": recipe.text_layers,
            },
        },
        "preprocess_cfg": {
            "mean": [0.45, 0.45, 0.45],
            "std": [0.25, 0.25, 0.25],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def build(config: dict[str, Any]) -> Any:
    """Builds the untrained model from its configuration, by open_clip's own class."""
    torchvision_shim.install()
    from open_clip.model import CLIP

    model = CLIP(**config["model_cfg"])
    model.visual.to(memory_format=torch.channels_last)
    return model


def tokenizer() -> Any:
    """The BPE tokenizer of CLIP, whose vocabulary comes with open_clip."""
    torchvision_shim.install()
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=CONTEXT)


def pictures_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent (Chen et al. 2020) of two views, unit-length [B, D] each: every other view is a negative."""
    both = torch.cat([first, second])
    logits = both @ both.T / temperature
    logits.fill_diagonal_(-1e4)
    count = len(first)
    wanted = torch.cat([torch.arange(count, 2 * count), torch.arange(count)])
    return functional.cross_entropy(logits, wanted)


def words_loss(pictures: Tensor, words: Tensor, tokens: Tensor, scale: Tensor) -> Tensor:
    """Symmetric CLIP loss; a picture whose caption is the same as another's is no negative for it."""
    logits = scale * pictures @ words.T
    same = (tokens[:, None] == tokens[None]).all(-1) & ~torch.eye(len(tokens), dtype=torch.bool)
    logits = logits.masked_fill(same, -1e4)
    wanted = torch.arange(len(tokens))
    return (functional.cross_entropy(logits, wanted) + functional.cross_entropy(logits.T, wanted)) / 2


class Trainer:
    """One model, its optimiser and the pictures; `step` does one step of the recipe."""

    def __init__(self, recipe: Recipe, pool: Pool) -> None:
        """Builds the model from the recipe's seed."""
        torch.manual_seed(recipe.seed)
        self.recipe, self.pool = recipe, pool
        self.config = configuration(recipe)
        self.model = build(self.config)
        self.tokens = tokenizer()(pool.captions)
        preprocess = self.config["preprocess_cfg"]
        self.mean = torch.tensor(preprocess["mean"])[None, :, None, None]
        self.std = torch.tensor(preprocess["std"])[None, :, None, None]
        self.generator = torch.Generator().manual_seed(recipe.seed + 1)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))

    def rate(self, step: int) -> float:
        """Learning rate at `step`: linear warm-up, then a cosine down to zero."""
        recipe = self.recipe
        if step < recipe.warmup:
            return recipe.rate * (step + 1) / recipe.warmup
        part = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
        return recipe.rate * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))

    def _take(self, stored: np.ndarray, count: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randperm(len(stored), generator=self.generator)[:count]
        pixels = torch.from_numpy(stored[np.sort(chosen.numpy())])
        return pixels.permute(0, 3, 1, 2).float() / 255, chosen.sort().values

    def embed(self, pictures: Tensor) -> Tensor:
        """Embeds pictures [B, 3, side, side], 0..1, with the image tower in bfloat16: [B, 512], unit length."""
        pictures = ((pictures - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            embedding = self.model.encode_image(pictures)
        return functional.normalize(embedding.float(), dim=-1)

    def step(self, number: int) -> tuple[float, float]:
        """Does step `number`; returns the losses of (pictures, words)."""
        recipe, generator = self.recipe, self.generator
        scenes, chosen = self._take(self.pool.scenes, round(recipe.batch * recipe.scene_share))
        textures, _ = self._take(self.pool.textures, recipe.batch - len(scenes))
        pictures = torch.cat([scenes, views.vary_pictures(textures, generator)])
        pictures = views.greyscale_some(pictures, 0.15, generator)
        pair = torch.cat([views.view(pictures, recipe.side, generator) for _ in range(2)])
        first, second = self.embed(pair).chunk(2)
        seen = pictures_loss(first, second, recipe.temperature)
        tokens = self.tokens[chosen]
        words = self.model.encode_text(tokens, normalize=True)
        scale = self.model.logit_scale.exp().clamp(max=100)
        count = len(scenes)
        said = (words_loss(first[:count], words, tokens, scale) + words_loss(second[:count], words, tokens, scale)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(number)
        self.optimizer.zero_grad(set_to_none=True)
        (seen + recipe.text_weight * said).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(seen.detach()), float(said.detach())


def shortened(caption: str, generator: random.Random) -> str:
    """Says less of a picture: some clauses of the caption, and of those sometimes only some words."""
    head, *rest = caption.rstrip(".").split(", ")
    clauses = [head] if generator.random() < 0.85 else []
    clauses += [clause for clause in rest if generator.random() < 0.3]
    words = " ".join(clauses or [head]).split()
    if generator.random() < 0.6:
        missing = generator.uniform(0.0, 0.7)
        words = [word for word in words if generator.random() > missing] or words[-1:]
    return " ".join(words)


def teach_words(trainer: Trainer) -> Iterator[tuple[int, float]]:
    """Teaches the text tower short texts too, the image tower standing still (as in Zhai et al. 2022, "LiT").

    Trained on whole captions alone, a text tower is lost when a person asks for "a red flower". Yields (step, loss).
    """
    recipe, model = trainer.recipe, trainer.model
    generator = torch.Generator().manual_seed(recipe.seed + 2)
    words_of = random.Random(recipe.seed + 2)
    tokenize = tokenizer()
    model.eval()
    seen = []
    with torch.inference_mode():
        for start in range(0, len(trainer.pool.scenes), recipe.batch):
            stored = torch.from_numpy(np.array(trainer.pool.scenes[start : start + recipe.batch]))
            pictures = stored.permute(0, 3, 1, 2).float() / 255
            plain = functional.interpolate(pictures, (recipe.side, recipe.side), mode="bilinear", antialias=True)
            changed = views.view(pictures, recipe.side, generator)
            seen.append(torch.stack([trainer.embed(plain), trainer.embed(changed)]))
    pictures = torch.cat(seen, dim=1).clone()  # [2, scenes, 512]
    weights = [value for name, value in model.named_parameters() if not name.startswith("visual.")]
    optimizer = torch.optim.AdamW(weights, lr=recipe.words_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.words_steps)
    for number in range(recipe.words_steps):
        chosen = torch.randperm(pictures.shape[1], generator=generator)[: recipe.batch]
        captions = [trainer.pool.captions[index] for index in chosen.tolist()]
        captions = [text if words_of.random() < 0.4 else shortened(text, words_of) for text in captions]
        tokens = tokenize(captions)
        which = int(torch.randint(2, (1,), generator=generator))
        scale = model.logit_scale.exp().clamp(max=100)
        loss = words_loss(pictures[which, chosen], model.encode_text(tokens, normalize=True), tokens, scale)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        yield number + 1, float(loss.detach())


def save(trainer: Trainer, folder: Path) -> None:
    """Writes the model as open_clip reads it: matrices in float16, words that no caption uses as zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    used = torch.zeros(trainer.model.token_embedding.num_embeddings, dtype=torch.bool)
    used[trainer.tokens.unique()] = True
    weights = {}
    for name, value in trainer.model.state_dict().items():
        kept = value.detach().clone().contiguous()
        if name == "token_embedding.weight":
            kept[~used] = 0
        weights[name] = kept.half() if kept.ndim > 1 else kept
    part = folder / "open_clip_model.safetensors.part"
    save_file(weights, part)
    part.chmod(0o644)  # safetensors writes for the owner alone; services run as another user
    part.replace(folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(trainer.config, indent=2) + "\n")


def progress(trainer: Trainer, unseen: list[Any], other: list[Any]) -> str:
    """Measures the model as it is: share found first of unseen pictures and other kinds, and recall from text."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    size = trainer.recipe.side
    preprocess = image_transform_v2(PreprocessCfg(size=size, **trainer.config["preprocess_cfg"]), is_train=False)
    trainer.model.eval()
    embed = evaluate_clip.image_embedder(trainer.model, preprocess)
    change = evaluate_clip.CHANGES["all four"]
    shares = [evaluate_clip.found_first(embed, pictures, change) for pictures in (unseen, other)]
    text = evaluate_clip.text_finds(embed, trainer.model, tokenizer())
    trainer.model.train()
    return f"unseen {shares[0]:.3f}  other kinds {shares[1]:.3f}  text R@5 {text['R@5']:.3f}"


def train(recipe: Recipe, out: Path, cache: Path = CACHE, report_every: int = 250) -> None:
    """Draws, trains, and writes the model to `out` (also at every report, so that a stop loses little)."""
    start = time.process_time()

    def drawn(count: int) -> None:
        print(f"drawn {count} pictures, {time.process_time() - start:.0f} CPU s", flush=True)

    pool = draw_pool(recipe.scenes, recipe.textures, recipe.seed, cache, drawn)
    trainer = Trainer(recipe, pool)
    unseen, other = held_out("mixed", 300, 160)[0], held_out("other", 300, 160)[0]
    weights = sum(p.numel() for p in trainer.model.parameters())
    print(f"{weights / 1e6:.2f} M weights; {json.dumps(asdict(recipe))}", flush=True)
    for number in range(recipe.steps):
        seen, said = trainer.step(number)
        if number % 50 == 49:
            spent = time.process_time() - start
            print(f"step {number + 1:5d}  pictures {seen:.3f}  words {said:.3f}  {spent:.0f} CPU s", flush=True)
        if number % report_every == report_every - 1 or number == recipe.steps - 1:
            print(f"step {number + 1:5d}  {progress(trainer, unseen, other)}", flush=True)
            save(trainer, out)
    for number, said in teach_words(trainer):
        if number % 50 == 0:
            print(f"words step {number:5d}  {said:.3f}  {time.process_time() - start:.0f} CPU s", flush=True)
    print(f"in the end  {progress(trainer, unseen, other)}", flush=True)
    save(trainer, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the recipe from the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=evaluate_clip.MODEL, help="folder to write the model to")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder that keeps the drawn pictures")
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    chosen = vars(parser.parse_args(arguments))
    out, cache = chosen.pop("out"), chosen.pop("cache")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    train(Recipe(**chosen), out, cache)


if __name__ == "__main__":
    main()
