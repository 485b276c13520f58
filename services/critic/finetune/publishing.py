"""Giving a trained adapter to the replicas, if it is better than what they have."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.critic import adapter_format
from services.critic.adapter_format import Adapter, AdapterLimits, Base

_FILES = (adapter_format.MANIFEST_FILE, adapter_format.WEIGHTS_FILE, adapter_format.CONFIG_FILE)


def publish(network: Any, folder: Path, base: Base, limits: AdapterLimits, evaluation: Mapping[str, object]) -> Adapter:
    """Writes the adapter of a peft network to `folder` (adapters/<advisor>), and returns it as replicas will read it.

    It is written beside, read back through every check, and then put in place file by file, the manifest first: a
    replica that looks in between finds bytes that do not fit the manifest, and keeps the revision it has. Raises
    `AdapterRefused` when a replica would refuse it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".publishing-", dir=folder.parent) as beside:
        staged = Path(beside) / folder.name
        network.save_pretrained(staged, safe_serialization=True, save_embedding_layers=False)
        path = staged / adapter_format.CONFIG_FILE
        config = json.loads(path.read_text())
        config |= {"target_modules": sorted(config["target_modules"]), "base_model_name_or_path": base.name}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        adapter_format.seal(staged, base, evaluation)
        adapter = adapter_format.read(staged, base, limits)
        folder.mkdir(exist_ok=True)
        for name in _FILES:
            (staged / name).chmod(0o644)
            os.replace(staged / name, folder / name)
        return adapter


def discard(work: Path) -> None:
    """Removes the state of a training that is published."""
    shutil.rmtree(work, ignore_errors=True)
