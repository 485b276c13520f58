"""A LoRA adapter's folder in peft's format: what is accepted, decided before a tensor is loaded.

peft itself loads adapters of another base, with missing or extra tensors, of features that it then ignores, and of
any rank, and a load that fails leaves half an adapter in the model. So everything is refused here that would not do
exactly what the adapter was trained to do: first from the JSON and the safetensors header (about 2 ms, nothing
allocated), then from the bytes.

    adapters/ansel/adapter_config.json
    adapters/ansel/adapter_model.safetensors
    adapters/ansel/manifest.json               optional: base model and sha256 of both files, see `seal`
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from services.core.files.yaml_fields import plain
from services.critic.checkpoint import DamagedFileError, TensorSpec, read_header
from services.critic.lora import GROUPS, TARGETS, AdapterWeights

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
MANIFEST_FILE: Final = "manifest.json"
_MANIFEST_FORMAT: Final = 1
_JSON_LIMIT: Final = 1024 * 1024
_MAX_REASON: Final = 300
_NAME: Final = re.compile(r"[a-z0-9-]{1,64}")
_TENSOR: Final = re.compile(
    r"base_model\.model\.model\.language_model\.layers\.(\d{1,4})\.((?:self_attn|mlp)\.\w+)\.lora_([AB])\.weight"
)
_DTYPES: Final = frozenset({"F32", "BF16", "F16"})
# Settings that do not change what the matrices do once they are trained.
_NEUTRAL: Final = frozenset({
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "exclude_modules", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core",
    "peft_type", "peft_version", "qalora_group_size", "r", "revision", "runtime_config", "target_modules", "task_type",
    "use_rslora",
})  # fmt: skip
# Ways of starting the training that leave the base model as it is.
_PLAIN_STARTS: Final = (True, False, None, "gaussian", "orthogonal")
# What strange values in the files make Python run into, where no check has foreseen them.
_STUMBLES: Final = (ArithmeticError, LookupError, RecursionError, TypeError, ValueError)
_MODULES: Final = {name.rsplit(".", 1)[1]: name for names in GROUPS.values() for name in names}


class AdapterRefused(ValueError):
    """An adapter that is not used; the message is one line of at most 300 characters that says why."""

    def __init__(self, reason: str) -> None:
        # It may quote what the adapter's files say, and goes into every critique that is written without the adapter.
        super().__init__(plain(reason)[:_MAX_REASON])


@dataclass(frozen=True)
class Base:
    """The base model that adapters must fit.

    `shapes`: (outputs, inputs) of each Linear within a layer, by its name within the layer.
    """

    name: str
    fingerprint: str
    layers: int
    shapes: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class AdapterLimits:
    """The greatest rank, and the greatest size of the weights file in bytes."""

    max_rank: int = 64
    max_bytes: int = 1024 * 1024 * 1024


@dataclass(frozen=True)
class Adapter:
    """An adapter that was read whole and may be used; `revision`: 12 hex characters of the sha256 of its files."""

    name: str
    revision: str
    weights: AdapterWeights


def base_of(network: Any, *, name: str, fingerprint: str) -> Base:
    """Returns what adapters of a loaded Qwen3-VL must fit."""
    layers = network.model.language_model.layers
    shapes = {
        module: (linear.out_features, linear.in_features)
        for module in _MODULES.values()
        for linear in [layers[0].get_submodule(module)]
    }
    return Base(name, fingerprint, len(layers), shapes)


def check_name(name: str) -> None:
    """Raises `AdapterRefused` unless `name` can be an adapter's."""
    if not _NAME.fullmatch(name):
        raise AdapterRefused("its folder's name is not 1 to 64 of a-z, 0-9 and -")


def read(folder: Path, base: Base, limits: AdapterLimits) -> Adapter:
    """Returns the adapter in `folder`, after every check.

    Raises `AdapterRefused` with the reason, and OSError when a file cannot be read.
    """
    try:
        return _read(folder, base, limits)
    except AdapterRefused:
        raise
    except _STUMBLES as error:
        raise AdapterRefused(f"it cannot be read: {str(error)[:200] or type(error).__name__}") from error


def _read(folder: Path, base: Base, limits: AdapterLimits) -> Adapter:
    check_name(folder.name)
    config = _config(folder)
    rank, scaling = _check_config(config, limits)
    manifest = _manifest(folder)
    _check_base(config, manifest, base)
    pairs = _check_tensors(_header(folder, limits), config, rank, base)
    content = (folder / WEIGHTS_FILE).read_bytes()
    _check_hashes(folder, content, manifest)
    return Adapter(folder.name, _revision(folder, content), _weights(content, pairs, rank, scaling))


def seal(folder: Path, base: Base, evaluation: Mapping[str, object] | None = None) -> Path:
    """Writes the manifest of the adapter in `folder`, and returns its path.

    It names the base model (so that the adapter is refused beside another one) and the sha256 of both files (so that
    a flipped byte is found). `evaluation` is kept beside them, for people.
    """
    manifest = {
        "format": _MANIFEST_FORMAT,
        "base": {"name": base.name, "fingerprint": base.fingerprint},
        "files": {name: _sha256((folder / name).read_bytes()) for name in (CONFIG_FILE, WEIGHTS_FILE)},
        "evaluation": dict(evaluation or {}),
    }
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(manifest, indent=2) + "\n")
    return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _revision(folder: Path, weights: bytes) -> str:
    return hashlib.sha256(weights + (folder / CONFIG_FILE).read_bytes()).hexdigest()[:12]


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _JSON_LIMIT:
        raise AdapterRefused(f"its {path.name} is larger than {_JSON_LIMIT:,} bytes")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise AdapterRefused(f"its {path.name} is not JSON") from error
    if not isinstance(content, dict):
        raise AdapterRefused(f"its {path.name} is not a JSON object")
    return content


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG_FILE).is_file():
        raise AdapterRefused(f"it has no {CONFIG_FILE}")
    return _json(folder / CONFIG_FILE)


def _check_config(config: dict[str, Any], limits: AdapterLimits) -> tuple[int, float]:
    """Returns rank and scaling."""
    if config.get("peft_type") != "LORA":
        raise AdapterRefused(f"it is of type {config.get('peft_type')!r}, not LORA")
    if config.get("bias", "none") != "none":
        raise AdapterRefused("it changes biases, which is not supported")
    for key in sorted(config.keys() - _NEUTRAL - {"bias"}):
        if config[key]:
            raise AdapterRefused(f"it uses {key}, which is not supported")
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise AdapterRefused("its training began by changing the base model (init_lora_weights)")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= limits.max_rank:
        raise AdapterRefused(f"its rank is {rank!r}, not 1 to {limits.max_rank}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise AdapterRefused(f"its lora_alpha is {alpha!r}, not a number above 0")
    _check_targets(config.get("target_modules"))
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check_targets(targets: object) -> None:
    """Refuses target names outside the language model; a pattern is judged by the tensors it led to."""
    if isinstance(targets, str) and targets:
        return
    if not isinstance(targets, list) or not targets:
        raise AdapterRefused("its target_modules name nothing")
    strange = sorted(str(target) for target in targets if str(target).rsplit(".", 1)[-1] not in TARGETS)
    if strange:
        raise AdapterRefused(f"it targets {strange[0]!r}, which is no Linear of the language model's layers")


def _manifest(folder: Path) -> dict[str, Any] | None:
    if not (folder / MANIFEST_FILE).is_file():
        return None
    manifest = _json(folder / MANIFEST_FILE)
    parts = (manifest.get("base"), manifest.get("files"))
    if manifest.get("format") != _MANIFEST_FORMAT or not all(isinstance(part, dict) for part in parts):
        raise AdapterRefused(f"its {MANIFEST_FILE} is not of format {_MANIFEST_FORMAT}")
    return manifest


def _check_base(config: dict[str, Any], manifest: dict[str, Any] | None, base: Base) -> None:
    """Refuses an adapter of another base: by the fingerprint where a manifest names one, else by name."""
    if manifest is not None:
        if manifest["base"].get("fingerprint") != base.fingerprint:
            raise AdapterRefused(f"it was trained on other weights than those of {base.name} that are served")
        return
    named = str(config.get("base_model_name_or_path") or "")
    # A hub's name and a folder's path end in the same word.
    if Path(named).name.casefold() != Path(base.name).name.casefold():
        raise AdapterRefused(f"it was trained on {named[-100:] or 'an unnamed model'!r}, not on {base.name!r}")


def _header(folder: Path, limits: AdapterLimits) -> dict[str, TensorSpec]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        only = "; its weights are pickled, and only safetensors is loaded" if pickled else ""
        raise AdapterRefused(f"it has no {WEIGHTS_FILE}{only}")
    size = path.stat().st_size
    if size > limits.max_bytes:
        raise AdapterRefused(f"its weights take {size:,} bytes, more than the limit of {limits.max_bytes:,}")
    try:
        return read_header(path)
    except DamagedFileError as error:
        raise AdapterRefused(str(error)) from error


def _check_tensors(
    header: dict[str, TensorSpec], config: dict[str, Any], rank: int, base: Base
) -> dict[tuple[int, str], tuple[str, str]]:
    """Returns the names of A and B for each (layer, Linear), once all of them are there and fit."""
    found: dict[tuple[int, str], dict[str, str]] = {}
    for name, spec in header.items():
        match = _TENSOR.fullmatch(name)
        if match is None or match[2] not in base.shapes or int(match[1]) >= base.layers:
            raise AdapterRefused(f"its tensor {name[-100:]!r} belongs to no Linear of the language model")
        outputs, inputs = base.shapes[match[2]]
        shape = (rank, inputs) if match[3] == "A" else (outputs, rank)
        if spec.shape != shape or spec.dtype not in _DTYPES:
            raise AdapterRefused(f"its tensor {name!r} is {spec.dtype} {list(spec.shape)} where {list(shape)} fits")
        found.setdefault((int(match[1]), match[2]), {})[match[3]] = name
    for (layer, module), pair in found.items():
        if len(pair) < 2:
            raise AdapterRefused(f"it lacks one of the two matrices of {module} in layer {layer}")
    _check_complete(found.keys(), config, base)
    return {place: (pair["A"], pair["B"]) for place, pair in found.items()}


def _check_complete(found: Any, config: dict[str, Any], base: Base) -> None:
    targets = config["target_modules"]
    present = {module for _, module in found}
    if isinstance(targets, list):
        present |= {_MODULES[str(target).rsplit(".", 1)[-1]] for target in targets}
    chosen = config.get("layers_to_transform")
    only = [chosen] if isinstance(chosen, int) else chosen
    layers = only if isinstance(only, list) else range(base.layers)
    named = isinstance(targets, list) and any("." in str(target) for target in targets)
    missing = [] if named else [(n, m) for n in layers for m in sorted(present) if (n, m) not in found]
    if missing or not found:
        layer, module = missing[0] if missing else (0, "any Linear")
        raise AdapterRefused(f"it lacks the matrices of {module} in layer {layer}")


def _check_hashes(folder: Path, weights: bytes, manifest: dict[str, Any] | None) -> None:
    if manifest is None:
        return
    actual = {WEIGHTS_FILE: _sha256(weights), CONFIG_FILE: _sha256((folder / CONFIG_FILE).read_bytes())}
    for name, digest in actual.items():
        if manifest["files"].get(name) != digest:
            raise AdapterRefused(f"the bytes of {name} are not those that its manifest names; copy it again")


def _weights(
    content: bytes, pairs: dict[tuple[int, str], tuple[str, str]], rank: int, scaling: float
) -> AdapterWeights:
    try:
        tensors: dict[str, torch.Tensor] = load_safetensors(content)
    except SafetensorError as error:
        raise AdapterRefused(f"{WEIGHTS_FILE} cannot be read: {error}") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise AdapterRefused(f"its tensor {name!r} holds values that are not finite")
    matrices = {place: (tensors[a], tensors[b]) for place, (a, b) in pairs.items()}
    return AdapterWeights(rank, scaling, matrices)
