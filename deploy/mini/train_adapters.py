"""Train the two sample advisors' adapters: `python -m deploy.mini.train_adapters [--seed 0] [--advisor ansel]`.

A LoRA adapter (Hu et al. 2021, arXiv:2106.09685) of about 2% of the mini model's parameters, on the
language model's linear layers only, learns to write the same true facts and to close in the advisor's
voice, as prose, under headings and as JSON. The prompt is the one of the base model: the voice is in
the adapter alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.mini import critiques, facts, forms, graded, lessons, train_vlm, vlm
from services.core.models import torchvision_shim
from services.critic import adapter_format, checkpoint

torchvision_shim.install()

from peft import LoraConfig, get_peft_model  # noqa: E402 - transformers must come after the shim
from transformers import AutoModelForImageTextToText, AutoTokenizer  # noqa: E402

log = logging.getLogger(__name__)

FOLDER: Final = Path(__file__).parent / "adapters"
STEPS: Final = 800
ROWS: Final = 16
RATE: Final = 4e-3
RANK: Final = 8
TARGETS: Final = ("down_proj", "k_proj", "o_proj", "q_proj", "v_proj")
"""The language model's linear layers; the vision tower's have other names (qkv, proj, linear_fc1, linear_fc2)."""


def adapted(base: Path) -> Any:
    """Returns the base model of a folder in float32 with a fresh adapter on it; only the adapter can learn."""
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        lora_dropout=0.0,
        target_modules=list(TARGETS),
        bias="none",
        task_type="CAUSAL_LM",
    )
    wrapped: Any = get_peft_model(model, config)
    wrapped.peft_config["default"].base_model_name_or_path = vlm.MODEL_ID
    return wrapped


def learn_voice(
    peft_model: Any, tokenizer: Any, voice: str, pictures: NDArray[np.uint8], steps: int, seed: int
) -> None:
    """Trains the adapter to write critiques of drawn pictures in one voice."""
    rng = np.random.default_rng(seed)
    choice = random.Random(seed)
    model = peft_model.get_base_model()
    train_vlm.flatten_patch_embedding(model)
    parameters = [parameter for parameter in peft_model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0, betas=(0.9, 0.98))
    progress = train_vlm.Progress(voice, steps)
    peft_model.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = train_vlm.rate(step, steps, RATE)
        shape = graded.SHAPES[step % len(graded.SHAPES)]
        shown = graded.batch(pictures, ROWS, rng, shape)
        form = lessons.some_form(choice)
        answers = [forms.compose(each.facts, choice, voice, each.unsure, form) for each in facts.read_batch(shown)]
        grid = (shape[0] // vlm.PATCH, shape[1] // vlm.PATCH)
        with torch.autocast("cpu", torch.bfloat16):
            seen = lessons.look(model, shown)
            asked = lessons.some_instruction(choice)
            loss = lessons.picture_loss(model, tokenizer, seen, grid, answers, *asked, form)
        train_vlm.descend(loss, optimizer, parameters)
        progress.step(step, loss)


def save(peft_model: Any, folder: Path, base: Path) -> None:
    """Writes a standard peft folder, adapter_config.json and adapter_model.safetensors, and seals it to its base."""
    folder.mkdir(parents=True, exist_ok=True)
    peft_model.eval().save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    mark = checkpoint.fingerprint(checkpoint.model_files(base))
    network = AutoModelForImageTextToText.from_pretrained(base)
    adapter_format.seal(folder, adapter_format.base_of(network, name=vlm.MODEL_ID, fingerprint=mark))


def train(seed: int, base: Path, folder: Path, advisors: list[str], steps: int) -> None:
    """Trains and writes the adapter of each advisor."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    pictures = graded.pool(graded.TRAIN_SEED + 100_000 * seed, train_vlm.POOL, train_vlm.CACHE)
    for advisor in advisors:
        number = sorted(critiques.VOICES).index(advisor)  # an adapter trained alone is the one trained among all
        torch.manual_seed(seed + number)
        model = adapted(base)
        learning, total = model.get_nb_trainable_parameters()
        log.info("%s: %d parameters, %.1f%% of the base", advisor, learning, 100 * learning / (total - learning))
        learn_voice(model, tokenizer, advisor, pictures, steps, seed + number)
        save(model, folder / advisor, base)
        log.info("written: %s", folder / advisor)


def main() -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", type=Path, default=train_vlm.FOLDER)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--advisor", choices=sorted(critiques.VOICES), help="only this one")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    torch.set_num_threads(1)
    advisors = [arguments.advisor] if arguments.advisor else sorted(critiques.VOICES)
    train(arguments.seed, arguments.base, arguments.folder, advisors, arguments.steps)


if __name__ == "__main__":
    main()
