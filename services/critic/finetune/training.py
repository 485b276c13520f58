"""The training itself: LoRA by peft on a frozen base, in steps that can be interrupted and resumed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from services.critic.finetune.examples import Example, Examples, batches
from services.critic.lora import TARGETS
from services.critic.model import VisionLanguageModel

STATE_FILE: Final = "state.safetensors"


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained.

    `alpha` / `rank` is the scaling; `batch_size` examples make a step, read `rows` at a time; `learning_rate` rises
    over the first twentieth of the steps and falls as a cosine; `save_every`: steps between two saved states.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: tuple[str, ...] = tuple(sorted(TARGETS))
    epochs: int = 3
    batch_size: int = 8
    rows: int = 8
    learning_rate: float = 1e-4
    seed: int = 0
    gradient_checkpointing: bool = True
    save_every: int = 50


def loss_of(network: Any, model: VisionLanguageModel, examples: Sequence[Example], rows: int) -> float:
    """Returns the mean cross entropy in nats of a critique's token; `network` reads `rows` examples at a time."""
    network.eval()
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for part, inputs in batches(_parts(examples, rows), model):
            count = sum(len(example.answer) for example in part)
            total += float(network(**inputs, use_cache=False).loss) * count
            tokens += count
    return total / tokens


def _parts(examples: Sequence[Example], rows: int) -> Iterator[Sequence[Example]]:
    return (examples[start : start + rows] for start in range(0, len(examples), rows))


class Training:
    """An adapter on its way. `folder` keeps the state of an interrupted run; another recipe or data begin anew."""

    def __init__(self, model: VisionLanguageModel, examples: Examples, recipe: Recipe, folder: Path) -> None:
        self._model = model
        self._examples = examples
        self._recipe = recipe
        self._folder = folder
        plan = {key: value for key, value in asdict(recipe).items() if key not in ("rows", "save_every")}
        identity = json.dumps([plan, examples.digest, model.fingerprint, len(examples.taught)])
        self._identity = hashlib.sha256(identity.encode()).hexdigest()
        torch.manual_seed(recipe.seed)
        if recipe.gradient_checkpointing:
            model.network.gradient_checkpointing_enable({"use_reentrant": False})
            model.network.enable_input_require_grads()
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=list(recipe.targets),
            bias="none",
            task_type="CAUSAL_LM",
        )
        self.network: Any = get_peft_model(model.network, config)
        self._learning = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(self._learning.values(), lr=recipe.learning_rate, weight_decay=0.0)
        self.step = 0
        self._batches: Iterator[tuple[Sequence[Example], dict[str, Any]]] = iter(())
        # As it was between two steps: what interrupts one comes when it has drawn some numbers already.
        self._generator = torch.get_rng_state()

    @property
    def steps(self) -> int:
        """Returns the number of steps of the whole training."""
        return self._recipe.epochs * math.ceil(len(self._examples.taught) / self._recipe.batch_size)

    @property
    def learning(self) -> int:
        """Returns the number of parameters that learn."""
        return sum(parameter.numel() for parameter in self._learning.values())

    def loss(self) -> float:
        """Returns the loss of the held-out examples with the adapter as it is now; see `loss_of`."""
        return loss_of(self.network, self._model, self._examples.held_out, self._recipe.rows)

    def run(self, advance: Callable[[], None]) -> None:
        """Does all steps that are left, calling `advance` after each; the state is saved now and then, and whenever
        something interrupts. Raises `ConfigurationError` when a photograph is not what it was."""
        left = (part for step in range(self.step, self.steps) for part in _parts(self._order(step), self._recipe.rows))
        with contextlib.closing(batches(left, self._model)) as self._batches:
            try:
                while self.step < self.steps:
                    self._do_step()
                    self.step += 1
                    self._generator = torch.get_rng_state()
                    advance()
                    if self.step % self._recipe.save_every == 0:
                        self.save()
            finally:
                self.save()

    def _do_step(self) -> None:
        self.network.train()
        examples = self._order(self.step)
        tokens = sum(len(example.answer) for example in examples)
        for _ in _parts(examples, self._recipe.rows):
            part, inputs = next(self._batches)
            # The mean over the whole step's tokens, however it is divided into passes.
            share = sum(len(example.answer) for example in part) / tokens
            (self.network(**inputs, use_cache=False).loss * share).backward()
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        torch.nn.utils.clip_grad_norm_(self._learning.values(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _order(self, step: int) -> list[Example]:
        """Returns the examples of a step: each epoch goes through all in an order of its own."""
        size, taught = self._recipe.batch_size, self._examples.taught
        epoch, place = divmod(step, math.ceil(len(taught) / size))
        order = list(range(len(taught)))
        random.Random(f"{self._recipe.seed}-{epoch}").shuffle(order)
        return [taught[i] for i in order[place * size : (place + 1) * size]]

    def _rate(self) -> float:
        rising = max(1, self.steps // 20)
        if self.step < rising:
            return self._recipe.learning_rate * (self.step + 1) / rising
        done = (self.step - rising) / max(1, self.steps - rising)
        return self._recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def save(self) -> None:
        """Writes the state: parameters, moments and the generator; whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"parameter.{name}": parameter.detach() for name, parameter in self._learning.items()}
        for name, parameter in self._learning.items():
            for key, moment in self._optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = torch.as_tensor(moment)
        tensors["generator"] = self._generator
        written = self._folder / f".{STATE_FILE}.{self.step}"
        save_file(
            {name: tensor.contiguous().cpu() for name, tensor in tensors.items()},
            written,
            {"identity": self._identity},
        )
        os.replace(written, self._folder / STATE_FILE)

    def resume(self) -> bool:
        """Goes on from a saved state of the same training, and returns whether there was one."""
        try:
            with safe_open(self._folder / STATE_FILE, framework="pt") as file:
                if (file.metadata() or {}).get("identity") != self._identity:
                    return False
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return False
        step = int(tensors.get(f"step.{next(iter(self._learning))}", 0))
        with torch.no_grad():
            for name, parameter in self._learning.items():
                parameter.copy_(tensors[f"parameter.{name}"])
                if step:
                    self._optimizer.state[parameter] = {
                        "step": tensors[f"step.{name}"],
                        "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
                        "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
                    }
        self._generator = tensors["generator"]
        torch.set_rng_state(self._generator)
        self.step = step
        return True
