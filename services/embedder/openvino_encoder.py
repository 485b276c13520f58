"""The image tower on OpenVINO: on CPUs faster than torch, with the same weights and in a space of its own.

The tower is exported from the loaded model, once: the export is kept in a folder of its space, which precompute fills
and serving reads. What the folder holds is not trusted: its embeddings are compared with torch's at every
start, and an export that cannot be read or does not keep them is made again. Words stay with torch, few as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from services.core.errors import ConfigurationError
from services.core.images.reading import DEFAULT_LIMITS, ImageLimits
from services.core.models.imports import without
from services.embedder import fidelity
from services.embedder.clip import ClipEncoder
from services.embedder.encoder import Matrix, Pixels, Tokens
from services.embedder.fidelity import Fidelity
from services.embedder.metrics import FIDELITY

EXPORT_VERSION: Final = 1
"""Goes into the space id: raise it whenever the export would give other embeddings."""
_FILE: Final = "tower.xml"
_MEASURED_AT_ONCE: Final = 16
_log = logging.getLogger("mondrian.encoder")


class OpenVinoEncoder:
    """An Encoder whose image tower runs on OpenVINO; everything else is the open_clip encoder's."""

    def __init__(self, clip: ClipEncoder, tower: Any, threads: int) -> None:
        """`tower` is the exported model, or the path of its file; `threads` of the CPU run it."""
        self.name = clip.name
        self.space_id = space_of(clip)
        self.dimensions = clip.dimensions
        self._clip = clip
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if clip.dtype is torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            # The cores are shared with the threads that decode.
            "ENABLE_CPU_PINNING": False,
        }
        self._request = _openvino().Core().compile_model(tower, "CPU", options).create_infer_request()

    def photograph(self, content: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
        """See Encoder."""
        return self._clip.photograph(content, limits)

    def pixels(self, photograph: Image.Image) -> Pixels:
        """See Encoder."""
        return self._clip.pixels(photograph)

    def tokenize(self, text: str) -> Tokens:
        """See Encoder."""
        return self._clip.tokenize(text)

    def forward_images(self, batch: Sequence[Pixels]) -> Matrix:
        """See Encoder."""
        rows = np.asarray(self._request.infer({0: np.stack(batch)})[0], np.float32)
        unit: Matrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def forward_texts(self, batch: Sequence[Tokens]) -> Matrix:
        """See Encoder."""
        return self._clip.forward_texts(batch)


def space_of(clip: ClipEncoder) -> str:
    """Returns the space id of the same weights on this engine."""
    return hashlib.sha256(f"{clip.space_id} openvino {EXPORT_VERSION}".encode()).hexdigest()[:16]


def load_openvino(clip: ClipEncoder, cache: Path, threads: int) -> OpenVinoEncoder:
    """Returns `clip` with its image tower on OpenVINO, after comparing the two.

    The export is read from `cache`, or made and kept there where that can be written.

    Raises:
        ConfigurationError: the model runs on a GPU, or OpenVINO does not keep its embeddings well enough.
    """
    if clip.device.type != "cpu":
        raise ConfigurationError(
            f"The engine openvino is for CPUs, and the model is on {clip.device}; set MONDRIAN_EMBEDDER_ENGINE=torch, "
            "or MONDRIAN_EMBEDDER_DEVICE=cpu."
        )
    prepare = clip.preprocessing
    shown = fidelity.pictures(prepare.height, prepare.width)
    wanted = _embedded(clip, shown)
    kept = cache / space_of(clip) / _FILE
    if kept.is_file():
        try:
            encoder = OpenVinoEncoder(clip, str(kept), threads)
            found = fidelity.measure(wanted, _embedded(encoder, shown))
            if not found.shortfalls():
                return _accepted(encoder, found)
            _log.warning("the export in %s does not keep the embeddings (%s); it is made again", kept.parent, found)
        except RuntimeError as error:  # OpenVINO's answer to a file that it cannot read
            _log.warning("the export in %s cannot be read (%s); it is made again", kept.parent, _first_line(error))
    tower = export(clip)
    encoder = OpenVinoEncoder(clip, tower, threads)
    found = fidelity.measure(wanted, _embedded(encoder, shown))
    if found.shortfalls():
        raise ConfigurationError(
            f"OpenVINO does not keep the embeddings of {clip.name}: {'; '.join(found.shortfalls())}; "
            "set MONDRIAN_EMBEDDER_ENGINE=torch."
        )
    _keep(tower, kept.parent)
    return _accepted(encoder, found)


def export(clip: ClipEncoder) -> Any:
    """Returns the image tower as an OpenVINO model: uint8 [n, height, width, 3] to float32 [n, dimensions]."""
    openvino = _openvino()
    from openvino.preprocess import PrePostProcessor

    prepare = clip.preprocessing
    example = torch.zeros(2, 3, prepare.height, prepare.width)
    with _traceable(), torch.no_grad():
        model = openvino.convert_model(
            clip.image_tower(), example_input=example, input=[-1, 3, prepare.height, prepare.width]
        )
    steps = PrePostProcessor(model)
    given = steps.input()
    given.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    scaled = given.preprocess().convert_element_type(openvino.Type.f32)
    scaled.mean([value * 255 for value in prepare.mean]).scale([value * 255 for value in prepare.std])
    given.model().set_layout(openvino.Layout("NCHW"))
    return steps.build()


def _accepted(encoder: OpenVinoEncoder, found: Fidelity) -> OpenVinoEncoder:
    for name, value in asdict(found).items():
        FIDELITY.labels(name).set(value)
    _log.info("encoder %s@%s on OpenVINO; against torch: %s", encoder.name, encoder.space_id, found)
    return encoder


def _embedded(encoder: ClipEncoder | OpenVinoEncoder, shown: Sequence[Pixels]) -> Matrix:
    batches = (shown[start : start + _MEASURED_AT_ONCE] for start in range(0, len(shown), _MEASURED_AT_ONCE))
    return np.concatenate([encoder.forward_images(batch) for batch in batches])


def _keep(tower: Any, folder: Path) -> None:
    """Keeps an export whole or not at all; a folder that cannot be written costs a new export at the next start."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            whole = Path(made) / "whole"
            whole.mkdir()
            _openvino().save_model(tower, str(whole / _FILE), compress_to_fp16=False)
            shutil.rmtree(folder, ignore_errors=True)
            whole.rename(folder)
    except (OSError, RuntimeError) as error:
        _log.warning("the export cannot be kept in %s (%s)", folder, _first_line(error))


@contextlib.contextmanager
def _traceable() -> Iterator[None]:
    """Makes torch run attention as separate operations, which can be exported, and silences its tracing warnings."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _openvino() -> Any:
    # The converter would send telemetry to its makers; without the module for it, it does not.
    with without("openvino_telemetry"):
        import openvino
        import openvino.tools.ovc
    return openvino


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
