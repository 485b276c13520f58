"""Trains an adapter and publishes it if it is better: `python -m services.critic.finetune`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Any

from peft import PeftModel

from services.core.commands.ending import exit_code
from services.core.commands.progress import progress
from services.core.errors import ConfigurationError
from services.core.files.sole_writer import sole_writer
from services.critic import adapter_format
from services.critic.adapter_format import AdapterLimits, AdapterRefused
from services.critic.finetune import examples as example_files
from services.critic.finetune.publishing import discard, publish
from services.critic.finetune.training import Recipe, Training, loss_of
from services.critic.loading import load_model
from services.critic.lora import TARGETS
from services.critic.model import VisionLanguageModel
from services.critic.settings import CriticSettings

NOT_BETTER = 3
"""Exit code when the trained adapter is not better than what there is."""


def arguments_of(words: list[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    recipe = Recipe()
    parser = argparse.ArgumentParser(
        prog="python -m services.critic.finetune",
        description="Trains an advisor's adapter on photographs with critiques, and publishes it where it writes those"
        " that were held out better than the base model and the adapter in use do.",
    )
    parser.add_argument("--advisor", required=True, metavar="ID", help="whose voice it is: a-z, 0-9 and -")
    parser.add_argument(
        "--data", required=True, type=Path, metavar="FILE", help="JSONL of photograph, critique, instruction"
    )
    parser.add_argument(
        "--adapters-dir", type=Path, metavar="DIR", help="where to publish; the critic's own folder unless given"
    )

    def number(name: str, default: float, words: str) -> None:
        option, kind = f"--{name.replace('_', '-')}", type(default)
        parser.add_argument(option, type=kind, default=default, metavar="N", help=f"{words} (%(default)s)")

    number("held_out", 0.1, "part of the photographs that is held out")
    number("max_tokens", 2048, "prompt and critique together, in tokens")
    number("rank", recipe.rank, "rank of the adapter's matrices")
    number("alpha", recipe.alpha, "the adapter counts alpha / rank times")
    number("dropout", recipe.dropout, "part of the adapter's inputs that a step leaves out")
    number("epochs", recipe.epochs, "how often each example is read")
    number("batch_size", recipe.batch_size, "examples that make a step")
    number("rows", recipe.rows, "examples read at once; fewer take less memory")
    number("learning_rate", recipe.learning_rate, "the greatest size of a step")
    number("seed", recipe.seed, "what chance begins with")
    number("save_every", recipe.save_every, "steps between two states that an interrupted run goes on from")
    every = " ".join(recipe.targets)
    parser.add_argument(
        "--targets", nargs="+", default=list(recipe.targets), metavar="NAME", help=f"linears that learn ({every})"
    )
    parser.add_argument("--no-gradient-checkpointing", action="store_true", help="more memory, less time")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser.parse_args(words)


def finetune(arguments: argparse.Namespace) -> int:
    """Train, compare and publish; return the exit code. Raises `ConfigurationError`."""
    settings = CriticSettings.load()
    folder = (arguments.adapters_dir or settings.adapters_folder) / arguments.advisor
    limits = AdapterLimits(settings.adapter_max_rank, int(settings.adapters_max_bytes))
    recipe = _recipe(arguments, limits)
    try:
        adapter_format.check_name(arguments.advisor)
    except AdapterRefused as error:
        raise ConfigurationError(f"The advisor {arguments.advisor!r} cannot have an adapter: {error}.") from error
    lock = folder.parent / f".finetune-{arguments.advisor}.lock"
    with sole_writer(lock, folder.parent, f"training of {arguments.advisor}"):
        return _train(arguments, settings, folder, limits, recipe)


def _train(
    arguments: argparse.Namespace, settings: CriticSettings, folder: Path, limits: AdapterLimits, recipe: Recipe
) -> int:
    model = load_model(settings)
    base = adapter_format.base_of(model.network, name=model.name, fingerprint=model.fingerprint)
    examples = example_files.read_examples(
        arguments.data, model, held_out=arguments.held_out, max_tokens=arguments.max_tokens
    )
    for reason in examples.skipped:
        print(f"skipped {reason}", file=sys.stderr)
    in_use = _loss_in_use(model, folder, examples, recipe, base, limits)
    work = folder.parent / f".finetune-{arguments.advisor}"
    training = Training(model, examples, recipe, work)
    before = training.loss()
    resumed = training.resume()
    print(
        f"{model.name}: {len(examples.taught)} examples taught, {len(examples.held_out)} held out; "
        f"{training.learning:,} parameters learn; {training.steps} steps"
        + (f", going on after {training.step}" if resumed else "")
    )
    with progress(f"training {arguments.advisor}", training.steps, quiet=arguments.quiet) as bar:
        bar.advance(training.step)
        training.run(bar.advance)
    after = training.loss()
    print(f"held-out loss: {before:.4f} with the base model, {after:.4f} with the adapter, in nats a token")
    best = before if in_use is None else min(before, in_use)
    if not after < best:
        rival = "the base model" if best == before else f"the adapter in use ({in_use:.4f})"
        print(
            f"Not published: the adapter is not better than {rival}. Train longer, change the learning rate, or add "
            f"examples; {work} keeps the training.",
            file=sys.stderr,
        )
        return NOT_BETTER
    evaluation = {
        "held_out_loss": {"base": round(before, 4), "adapter": round(after, 4)},
        "examples": {"taught": len(examples.taught), "held_out": len(examples.held_out)},
        "recipe": dataclasses.asdict(recipe),
    }
    try:
        adapter = publish(training.network, folder, base, limits, evaluation)
    except AdapterRefused as error:
        raise ConfigurationError(f"The adapter cannot be published: {error}. {work} keeps the training.") from error
    discard(work)
    print(f"published {folder} as revision {adapter.revision}; replicas take it at their next look")
    return 0


def _recipe(arguments: argparse.Namespace, limits: AdapterLimits) -> Recipe:
    names = {field.name for field in dataclasses.fields(Recipe)} - {"gradient_checkpointing", "targets"}
    values: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    for name in ("rank", "alpha", "epochs", "batch_size", "rows", "save_every", "learning_rate"):
        if not values[name] > 0:
            raise ConfigurationError(f"--{name.replace('_', '-')} is {values[name]}; it must be above 0.")
    if not 0 <= values["dropout"] < 1:
        raise ConfigurationError(f"--dropout is {values['dropout']}; it must be 0 or more, and below 1.")
    if values["rank"] > limits.max_rank:
        raise ConfigurationError(f"--rank is {values['rank']}, and the critic takes at most {limits.max_rank}.")
    strange = sorted(set(arguments.targets) - TARGETS)
    if strange:
        known = ", ".join(sorted(TARGETS))
        raise ConfigurationError(f"--targets names {strange[0]!r}; the Linears that can learn are {known}.")
    checkpointing = not arguments.no_gradient_checkpointing
    return Recipe(targets=tuple(arguments.targets), gradient_checkpointing=checkpointing, **values)


def _loss_in_use(
    model: VisionLanguageModel,
    folder: Path,
    examples: example_files.Examples,
    recipe: Recipe,
    base: adapter_format.Base,
    limits: AdapterLimits,
) -> float | None:
    """Returns the held-out loss of the adapter that is published now; None where there is none that fits."""
    try:
        adapter_format.read(folder, base, limits)
    except (AdapterRefused, OSError):
        return None
    network = PeftModel.from_pretrained(model.network, folder, autocast_adapter_dtype=False)
    loss = loss_of(network, model, examples.held_out, recipe.rows)
    network.unload()
    return loss


def main(words: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 published, 2 cannot begin, 3 not better, 130 interrupted."""
    # transformers' own deprecations, which whoever trains an adapter can do nothing about.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    return exit_code(lambda: finetune(arguments_of(words)), "Interrupted; the same command goes on from here.")


if __name__ == "__main__":
    sys.exit(main())
