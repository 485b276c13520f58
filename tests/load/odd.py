"""Odd requests: messages of every rpc from the contract's descriptors, with values and photographs that test it."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import skimage.data
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from inference import open_inference_pb2
from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.gateway.v1 import gateway_pb2
from mondrian.scorer.v1 import scorer_pb2
from PIL import Image

from tests.pictures import encoded
from tests.system import ADVISOR

_FILES: Final = {
    "gateway": gateway_pb2,
    "embedder": embedder_pb2,
    "critic": critic_pb2,
    "scorer": scorer_pb2,
}
_WORDS: Final = (
    *("", ADVISOR, "okeefe", "nobody", "ANSEL", "-", "a" * 64, "a" * 65, "é", "x" * 20_000, "\u202e\u0000\ufffd"),
    *("../../etc/passwd", "ansel\0", "%s%n", "'; --", "{{7*7}}", "<|im_start|>system", "<|image_pad|>" * 8),
    *("mini-clip", "1", "image", "BYTES"),
)
_USUAL: Final = {
    "advisor": ADVISOR,
    "model_name": "mini-clip",
    "model_version": "",
    "datatype": "BYTES",
    "name": "image",
}
"""What a field holds more often than not, or nothing behind it would ever be looked at."""
_LIKELY: Final = frozenset({*_USUAL, "image", "content", "mode", "request", "inputs", "contents", "bytes_contents"})
"""Fields that are set more often than not, for the same reason."""
_NUMBERS: Final = (0, 1, -1, 2, 3, 100, 101, 2**31 - 1, -(2**31))
_REALS: Final = (0.0, -0.0, 1.0, 0.5, -1.0, 2.0, 1e-45, 3e38, -3e38, math.inf, -math.inf, math.nan)
_DEPTH: Final = 4
_UNSIGNED: Final = (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64)
_WHOLE: Final = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
_REAL: Final = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


@dataclass(frozen=True)
class Method:
    """One rpc."""

    service: str
    """The process that answers it: gateway, embedder, critic or scorer."""
    path: str
    """/package.Service/Method"""
    request: Descriptor
    many: bool
    """Whether it takes a stream of requests."""
    streams: bool
    """Whether it answers with a stream."""

    @property
    def name(self) -> str:
        """Service and method, without the package."""
        return self.path.rpartition(".")[2]


def methods() -> list[Method]:
    """Returns every rpc of the contract, the Open Inference Protocol's among them."""
    files = [*_FILES.items(), ("embedder", open_inference_pb2)]
    return [
        Method(name, f"/{service.full_name}/{rpc.name}", rpc.input_type, rpc.client_streaming, rpc.server_streaming)
        for name, module in files
        for service in module.DESCRIPTOR.services_by_name.values()
        for rpc in service.methods
    ]


def photographs() -> dict[str, bytes]:
    """Returns photographs by file name: one of each format and kind that may be sent, some that may not."""
    cup = Image.fromarray(skimage.data.coffee()).resize((300, 200))
    grey = cup.convert("L")
    deep = Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257)
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("ordinary.jpg", cup, {}),
        ("progressive.jpg", cup, {"progressive": True}),
        ("cmyk.jpg", cup.convert("CMYK"), {}),
        ("grey.jpg", grey, {}),
        ("turned.jpg", cup, {"exif": _turned()}),
        ("colour.png", cup, {}),
        ("clear.png", cup.convert("RGBA"), {}),
        ("palette.png", cup.convert("P"), {"transparency": 3}),
        ("deep.png", deep, {}),
        ("bits.png", grey.convert("1"), {}),
        ("lossy.webp", cup, {}),
        ("moving.webp", cup, {"save_all": True, "append_images": [grey.convert("RGB")]}),
        ("moving.gif", cup.convert("P"), {"save_all": True, "append_images": [grey.convert("P")]}),
        ("packed.tif", cup, {"compression": "tiff_lzw"}),
        ("real.tif", Image.fromarray(np.asarray(grey, dtype=np.float32)), {}),
        ("plain.bmp", cup, {}),
        ("one.png", cup.resize((1, 1)), {}),
        ("thin.png", cup.resize((1, 900)), {}),
        ("other.ppm", cup, {}),
    ]
    return {name: _file(image, name, options) for name, image, options in kinds}


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _file(image: Image.Image, name: str, options: Mapping[str, Any]) -> bytes:
    ending = name.rpartition(".")[2]
    return encoded(image, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper()), **options)


class Maker:
    """Makes requests from a generator of random numbers."""

    def __init__(self, rng: random.Random, corpus: Mapping[str, bytes]) -> None:
        self._rng = rng
        self._corpus = corpus
        self.garbled = False
        """Whether a request was made that is no message."""

    def request(self, method: Method) -> bytes:
        """Returns the wire form of a request, now and then of what is none."""
        message = self._message(method.request, 0)
        content: bytes = message.SerializeToString()
        if self._rng.random() < 0.03:
            self.garbled = True
            return self._damaged(content or b"\n")
        return content

    def _message(self, descriptor: Descriptor, depth: int) -> Any:
        message = message_factory.GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                continue
            likely = 0.9 if field.name in _LIKELY else 0.15
            if depth > _DEPTH or self._rng.random() > likely:
                continue
            if field.is_repeated:
                count = self._rng.choice((0, 1, 2, 40)) if field.message_type is None else self._rng.randint(0, 3)
                values = [self._value(field, depth) for _ in range(count)]
                getattr(message, field.name).extend(values)
            elif field.message_type is not None:
                getattr(message, field.name).CopyFrom(self._message(field.message_type, depth + 1))
            else:
                setattr(message, field.name, self._value(field, depth))
        return message

    def _value(self, field: FieldDescriptor, depth: int) -> Any:
        rng = self._rng
        if field.message_type is not None:
            return self._message(field.message_type, depth + 1)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self.photograph()
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return _USUAL[field.name] if field.name in _USUAL and rng.random() < 0.7 else rng.choice(_WORDS)
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
            known = field.enum_type.values if field.enum_type is not None else ()
            return rng.choice((*(value.number for value in known), 99))
        if field.cpp_type in _REAL:
            return rng.choice((*_REALS, rng.uniform(0, 2)))
        number = rng.choice(_NUMBERS)
        if field.name == "max_tokens" and rng.random() < 0.8:
            number = rng.randint(1, 24)
        return number if field.cpp_type in _WHOLE else abs(number)

    def photograph(self) -> bytes:
        """Returns a photograph as it is, spliced with another, with bytes changed, cut off, or none at all."""
        rng = self._rng
        content = self._corpus[rng.choice(sorted(self._corpus))]
        kind = rng.random()
        if kind < 0.4:
            return content
        if kind < 0.5:
            return rng.choice((b"", b"\xff\xd8\xff", b"RIFF", rng.randbytes(rng.randrange(2_000))))
        if kind < 0.6:
            other = self._corpus[rng.choice(sorted(self._corpus))]
            return content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]
        return self._damaged(content)

    def _damaged(self, content: bytes) -> bytes:
        """Returns the bytes cut off, or with some of them changed: most often those in front, where headers are."""
        rng = self._rng
        if rng.random() < 0.25:
            return content[: rng.randrange(len(content))]
        damaged = bytearray(content)
        reach = len(damaged) if rng.random() < 0.5 else min(len(damaged), 64)
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            damaged[rng.randrange(reach)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        return bytes(damaged)
