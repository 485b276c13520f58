"""What can be known of a model or adapter folder before any tensor is loaded.

A safetensors file opens with a JSON header (8 bytes of little-endian length, then the JSON) that
names every tensor with its dtype, shape and place. Reading it costs about a millisecond whatever
the size of the file, runs no code and allocates nothing, so that a damaged or foreign file is
refused before torch, transformers or peft see it. Format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.core.errors import ConfigurationError

SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_HEADER_LIMIT: Final = 64 * 1024 * 1024
_SAMPLE: Final = 2_048
_DTYPE_BYTES: Final = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


class DamagedFileError(ValueError):
    """A safetensors file whose header does not describe its own bytes; the message says what is wrong."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a safetensors file: dtype in the file's words, shape, and its bytes [start, stop)."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Returns the size of the tensor in bytes."""
        return self.stop - self.start


def read_header(path: Path) -> dict[str, TensorSpec]:
    """Returns the tensors that the file at `path` holds, by name, from its header alone.

    `start` and `stop` are offsets from the beginning of the file. Raises `DamagedFileError` when the
    header is cut off, is not JSON, names an unknown dtype, or does not fit the file's own length, and
    OSError when the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length < 2 or length > min(_HEADER_LIMIT, size - 8):
            raise DamagedFileError(f"{path.name} is not a safetensors file (or is cut off)")
        try:
            entries = json.loads(file.read(length))
        except ValueError as error:
            raise DamagedFileError(f"the header of {path.name} is not JSON") from error
    if not isinstance(entries, dict):
        raise DamagedFileError(f"the header of {path.name} is not a JSON object")
    entries.pop("__metadata__", None)
    tensors = {name: _tensor_spec(path.name, name, entry, 8 + length) for name, entry in entries.items()}
    _check_layout(path.name, tensors, 8 + length, size)
    return tensors


def _tensor_spec(file_name: str, name: str, entry: object, base: int) -> TensorSpec:
    try:
        dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]  # type: ignore[index]
        width = _DTYPE_BYTES[dtype]
        whole = all(isinstance(n, int) and n >= 0 for n in (*shape, start, stop))
        if not whole or stop - start != width * math.prod(shape):
            raise ValueError(name)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"the header of {file_name} describes {name!r} in a way that cannot be") from error
    return TensorSpec(dtype, shape, base + start, base + stop)


def _check_layout(file_name: str, tensors: dict[str, TensorSpec], base: int, size: int) -> None:
    """Refuses gaps, overlaps and a file shorter or longer than its header says."""
    place = base
    for spec in sorted(tensors.values(), key=lambda spec: (spec.start, spec.stop)):
        if spec.start != place:
            raise DamagedFileError(f"the tensors of {file_name} overlap or leave gaps")
        place = spec.stop
    if place != size:
        raise DamagedFileError(f"{file_name} has {size:,} bytes where its header promises {place:,}")


def model_files(folder: Path) -> list[Path]:
    """Returns the safetensors files of the model in `folder`, sorted; one, or the shards of the index.

    Raises `ConfigurationError`, with the sentence for the operator, when the folder or a file is
    missing or only pickled weights are there.
    """
    if not folder.is_dir():
        raise ConfigurationError(
            f"The model folder {folder} does not exist. Run `mondrian models pull`, "
            "or set MONDRIAN_CRITIC_MODEL_PATH to a folder that holds the model."
        )
    if not (folder / "config.json").is_file():
        raise ConfigurationError(f"The model folder {folder} has no config.json; it is not a model folder.")
    if (folder / INDEX_FILE).is_file():
        return _shards(folder)
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ConfigurationError(
            f"The model folder {folder} holds pickled weights ({pickles[0]}), which can run code when they are "
            f"loaded; only safetensors is loaded. Convert it, or get the {SINGLE_FILE} of the same model."
        )
    raise ConfigurationError(f"The model folder {folder} holds no weights: neither {SINGLE_FILE} nor {INDEX_FILE}.")


def _shards(folder: Path) -> list[Path]:
    try:
        names = set(json.loads((folder / INDEX_FILE).read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{folder / INDEX_FILE} is damaged; copy the model again.") from error
    # A shard is a file of this very folder: an index cannot point the loader elsewhere.
    missing = sorted(name for name in names if Path(name).name != name or not (folder / name).is_file())
    if missing:
        raise ConfigurationError(
            f"The model folder {folder} lacks {len(missing)} of {len(names)} shards, the first {missing[0]}; "
            "copy the model again."
        )
    return [folder / name for name in sorted(names)]


def fingerprint(files: list[Path]) -> str:
    """Returns the lower-case hex sha256 that tells one base model from another in milliseconds.

    It covers every tensor's name, dtype, shape and its first and last 2 KiB, in order of name, so
    that it is the same however the tensors are divided into files, and differs for another training
    of the same architecture. Raises `ConfigurationError` when a file is damaged.
    """
    digest = hashlib.sha256()
    for name, sample in sorted(_samples(files)):
        digest.update(name.encode() + b"\0" + sample)
    return digest.hexdigest()


def _samples(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    for path in files:
        try:
            tensors = read_header(path)
        except DamagedFileError as error:
            raise ConfigurationError(f"{path} is damaged: {error}; copy the model again.") from error
        with path.open("rb") as file:
            for name, spec in tensors.items():
                file.seek(spec.start)
                first = file.read(min(_SAMPLE, spec.nbytes))
                file.seek(max(spec.start, spec.stop - _SAMPLE))
                last = file.read(min(_SAMPLE, spec.nbytes))
                yield name, f"{spec.dtype}{spec.shape}".encode() + first + last
