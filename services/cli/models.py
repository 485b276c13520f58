"""`mondrian models`: which weights a profile needs, whether they are there, and how to get them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from services.cli.console import listing, out, plain
from services.cli.failures import CommandFailed
from services.cli.roster import CRITIC, EMBEDDER, Service, endpoint_of, model_folder
from services.core.errors import ConfigurationError
from services.core.settings import CommonSettings, Profile

PROFILES: Final[tuple[Profile, ...]] = ("mini", "full")


@dataclass(frozen=True)
class Weights:
    """A published model of profile full."""

    service: Service
    repository: str
    """Its name on the hub."""
    required: tuple[str, ...]
    """Files without which it does not load."""
    wanted: tuple[str, ...]
    """Patterns of what is fetched: safetensors, configuration, tokenizer; never a pickle."""
    gigabytes: float
    """About how much there is to fetch."""


PUBLISHED: Final = (
    Weights(
        EMBEDDER,
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        ("open_clip_config.json", "open_clip_model.safetensors"),
        ("open_clip_config.json", "open_clip_model.safetensors", "README.md"),
        0.6,
    ),
    Weights(
        CRITIC,
        "Qwen/Qwen3-VL-4B-Instruct",
        ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"),
        ("*.json", "*.safetensors", "*.txt", "*.jinja", "README.md", "LICENSE"),
        8.9,
    ),
)

models = typer.Typer(help="List the models, and fetch those of profile full.", no_args_is_help=True)


@models.command("list")
def list_models() -> None:
    """List the models, where each lies, and whether it is complete."""
    table = listing("Profile", "Service", "Folder", "State")
    for profile in PROFILES:
        settings = CommonSettings.load(profile=profile)
        for service in (EMBEDDER, CRITIC):
            path = endpoint_of(service).model_path if profile == CommonSettings.load().profile else None
            folder = model_folder(service, settings, path)
            assert folder is not None
            fault = fault_of(folder, required_of(service) if profile == "full" else ())
            state = Text(fault, style="yellow") if fault else Text(f"{size_of(folder)}", style="green")
            table.add_row(profile, service.name, Text(plain(str(folder))), state)
    out().print(table)
    out().print("Profile mini comes with the repository; fetch the models of profile full with `mondrian models pull`.")


@models.command()
def pull(
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="The folder of the models; else MONDRIAN_MODELS_DIR.")
    ] = None,
    clip_revision: Annotated[
        str | None,
        typer.Option("--clip-revision", metavar="COMMIT", help="A commit of the CLIP repository; else the newest."),
    ] = None,
    vlm_revision: Annotated[
        str | None,
        typer.Option("--vlm-revision", metavar="COMMIT", help="A commit of the Qwen repository; else the newest."),
    ] = None,
) -> None:
    """Fetch the models of profile full from a hub into a folder.

    Only safetensors; what is there already stays, and an interrupted pull goes on where it was. Serving processes never
    fetch anything.
    """
    settings = CommonSettings.load(profile="full", **({"models_dir": to} if to else {}))
    revisions = {EMBEDDER: clip_revision, CRITIC: vlm_revision}
    for weights in PUBLISHED:
        folder = model_folder(weights.service, settings)
        assert folder is not None
        out().print(f"{weights.repository} (about {weights.gigabytes:g} GB) to {folder}", style="bold", soft_wrap=True)
        fetch(weights, folder, revisions[weights.service])
        fault = fault_of(folder, weights.required)
        if fault:
            raise CommandFailed(f"The model in {folder} is not complete ({fault}); {by_hand(weights, folder)}.")
        out().print(f"Complete: {size_of(folder)}.", style="green")
    out().print(
        "Serve them with MONDRIAN_PROFILE=full"
        + (f" MONDRIAN_MODELS_DIR={settings.models_dir}" if to else "")
        + "; pre-compute your advisors with the same settings.",
        soft_wrap=True,
    )


def fetch(weights: Weights, folder: Path, revision: str | None) -> None:
    """Downloads a model into a folder.

    Raises:
        ConfigurationError: the hub's client is not installed, or the disk is too small.
        CommandFailed: no hub can be reached, or it refuses.
    """
    free = shutil.disk_usage(existing(folder)).free
    if free < weights.gigabytes * 1e9 and fault_of(folder, weights.required):
        raise ConfigurationError(
            f"{existing(folder)} has {free / 1e9:.1f} GB free, and {weights.repository} needs about"
            f" {weights.gigabytes:g} GB; name a folder on another disk with --to."
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ConfigurationError(
            f"The hub's client is not installed: pip install huggingface-hub; or {by_hand(weights, folder)}."
        ) from error
    try:
        huggingface_hub.snapshot_download(
            weights.repository,
            revision=revision,
            local_dir=folder,
            allow_patterns=list(weights.wanted),
            etag_timeout=10,
        )
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise CommandFailed(f"No hub can be reached from here; {by_hand(weights, folder)}.") from error
    except Exception as error:  # the client raises its own errors, its transport's and the operating system's
        reason = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
        raise CommandFailed(
            f"{weights.repository} could not be fetched ({reason}); try again, it goes on where it was, or"
            f" {by_hand(weights, folder)}."
        ) from error


def by_hand(weights: Weights, folder: Path) -> str:
    """Returns what to do where no hub can be reached, to be set into a sentence."""
    files = ", ".join(weights.required)
    shards = "" if any(name.endswith(".safetensors") for name in weights.required) else " and every *.safetensors file"
    return f"copy {files}{shards} of {weights.repository} from a machine that reaches a hub into {folder}"


def fault_of(folder: Path, required: tuple[str, ...]) -> str:
    """Returns what a model's folder lacks, in a few words; empty where it is complete."""
    if not folder.is_dir():
        return "missing"
    lacking = [name for name in required if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")) and not any(name.endswith(".safetensors") for name in lacking):
        lacking.append("*.safetensors")
    return f"lacks {', '.join(lacking)}" if lacking else ""


def size_of(folder: Path) -> str:
    """Returns how much a folder's safetensors files hold."""
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def required_of(service: Service) -> tuple[str, ...]:
    """Returns the files without which a service's published model does not load; none where it has no model."""
    return next((weights.required for weights in PUBLISHED if weights.service is service), ())


def existing(folder: Path) -> Path:
    """Returns the folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
