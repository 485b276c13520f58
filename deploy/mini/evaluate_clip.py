"""Measure the small CLIP: does it find a picture from a changed copy, and from its description?

python -m deploy.mini.evaluate_clip [--photos FOLDER] [--json]
"""

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from deploy.mini.draw.canvas import encoded, linear
from deploy.mini.pool import held_out
from services.core.models import torchvision_shim

Pixels = NDArray[np.uint8]
MODEL = Path(__file__).parent / "models" / "clip"
ADVISORS = Path(__file__).parent / "advisors"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_LONGEST = 768


@dataclass(frozen=True)
class Change:
    """What is done to a copy: `crop` the part of the area kept (0..1], `stops` either way, `degrees` of rotation,
    JPEG `quality` (0 = not compressed)."""

    crop: float = 1.0
    stops: float = 0.0
    degrees: float = 0.0
    quality: int = 0


CHANGES = {
    "cropped to 80%": Change(crop=0.8),
    "one stop": Change(stops=1.0),
    "3 degrees": Change(degrees=3.0),
    "JPEG 40": Change(quality=40),
    "all four": Change(0.8, 1.0, 3.0, 40),
    "all, doubled": Change(0.6, 2.0, 6.0, 20),
}
"""What is tried: each change alone, all of them at once (the figure that counts), and all of them far stronger."""


def changed(pixels: Pixels, change: Change, gen: np.random.Generator) -> Pixels:
    """Makes the changed copy of sRGB `pixels` [H, W, 3]: place of the crop and the signs are drawn from `gen`.

    Rotated about the centre (the corners by reflection), cropped, exposed in linear light, then compressed.
    """
    height, width = pixels.shape[:2]
    if change.degrees:
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), change.degrees * gen.choice((-1, 1)), 1.0)
        pixels = np.asarray(
            cv2.warpAffine(pixels, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT),
            np.uint8,
        )
    if change.crop < 1:
        high, wide = round(height * change.crop**0.5), round(width * change.crop**0.5)
        top, left = int(gen.integers(height - high + 1)), int(gen.integers(width - wide + 1))
        pixels = pixels[top : top + high, left : left + wide]
    if change.stops:
        light = linear(pixels.astype(np.float32) / 255) * np.float32(2.0 ** (change.stops * gen.choice((-1, 1))))
        pixels = (encoded(light) * 255 + 0.5).astype(np.uint8)
    if change.quality:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=change.quality)
        pixels = np.asarray(Image.open(buffer).convert("RGB"))
    return pixels


Embed = Callable[[Sequence[Pixels]], NDArray[np.float32]]


def image_embedder(model: Any, preprocess: Any, batch: int = 64) -> Embed:
    """Returns a function that embeds pictures with the image tower: float32 [N, 512], unit length."""

    def embed(pictures: Sequence[Pixels]) -> NDArray[np.float32]:
        rows = []
        for start in range(0, len(pictures), batch):
            part = torch.stack([preprocess(Image.fromarray(p)) for p in pictures[start : start + batch]])
            with torch.inference_mode():
                rows.append(model.encode_image(part, normalize=True).float().numpy())
        return np.concatenate(rows)

    return embed


def found_first(embed: Embed, pictures: Sequence[Pixels], change: Change, seed: int = 0) -> float:
    """Share of changed copies whose original is the nearest of all `pictures`, 0..1."""
    gen = np.random.default_rng(seed)
    gallery = embed(pictures)
    queries = embed([changed(picture, change, gen) for picture in pictures])
    return float((np.argmax(queries @ gallery.T, axis=1) == np.arange(len(pictures))).mean())


def text_finds(embed: Embed, model: Any, tokenizer: Any, count: int = 200, side: int = 256) -> dict[str, float]:
    """Recall of `count` held-out colour scenes of height `side`, each asked for by its own words, 0..1.

    R@1 and R@5 by the whole caption; "first clause" by the words before its first comma, where any scene with the
    same first clause among the first five counts as found.
    """
    pictures, captions = held_out("scenes", count, side)
    gallery = embed(pictures)
    heads = np.array([caption.split(",")[0] for caption in captions])

    def order(texts: Sequence[str]) -> NDArray[np.int64]:
        with torch.inference_mode():
            words = model.encode_text(tokenizer(list(texts)), normalize=True).float().numpy()
        return np.asarray(np.argsort(-(words @ gallery.T), axis=1))

    place = np.argmax(order(captions) == np.arange(count)[:, None], axis=1)
    alike = heads[order(heads.tolist())[:, :5]] == heads[:, None]
    return {
        "R@1": float((place < 1).mean()),
        "R@5": float((place < 5).mean()),
        "first clause R@5": float(alike.any(axis=1).mean()),
    }


def photographs(folder: Path, limit: int | None = None) -> list[Pixels]:
    """Reads the photographs of a folder (JPEG, PNG, WebP), upright, the long side at most 768 pixels."""
    pictures = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)[:limit]:
        with Image.open(path) as opened:
            opened.draft("RGB", (_LONGEST, _LONGEST))
            upright = ImageOps.exif_transpose(opened).convert("RGB")
            upright.thumbnail((_LONGEST, _LONGEST))
            pictures.append(np.asarray(upright))
    return pictures


def load(folder: Path) -> tuple[Any, Any, Any]:
    """Loads the model as the services do: (model, preprocess, tokenizer)."""
    torchvision_shim.install()
    import open_clip

    name = f"local-dir:{folder}"
    model, preprocess = open_clip.create_model_from_pretrained(name)
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


def measure(folder: Path, photos: Path | None, count: int = 500) -> dict[str, dict[str, float]]:
    """Measures everything: {gallery: {change: share found first}}, and recall from text."""
    model, preprocess, tokenizer = load(folder)
    embed = image_embedder(model, preprocess)
    galleries = {
        f"{count} drawn pictures, seeds never trained on": held_out("mixed", count)[0],
        f"{count} drawn pictures of kinds never trained on": held_out("other", count)[0],
    }
    references = [p for advisor in sorted(ADVISORS.iterdir()) for p in photographs(advisor / "references")]
    galleries[f"{len(references)} references of the sample advisors"] = references
    if photos is not None:
        real = photographs(photos)
        galleries[f"{len(real)} photographs in {photos}"] = real
    figures = {}
    for name, pictures in galleries.items():
        print(f"Measuring {name} ...", file=sys.stderr, flush=True)
        figures[name] = {title: found_first(embed, pictures, change) for title, change in CHANGES.items()}
    figures["200 held-out colour scenes, from their captions"] = text_finds(embed, model, tokenizer)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the figures as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the model")
    parser.add_argument("--photos", type=Path, help="a folder of real photographs, to measure on them too")
    parser.add_argument("--count", type=int, default=500, help="drawn pictures in each gallery")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    if chosen.photos is not None and not chosen.photos.is_dir():
        parser.error(f"There is no folder {chosen.photos}. Name a folder that holds JPEG, PNG or WebP files.")
    torch.set_num_threads(1)
    figures = measure(chosen.model, chosen.photos, chosen.count)
    if chosen.json:
        print(json.dumps(figures, indent=2))
        return
    print("Share of changed copies whose original is found first among all (recall for text)")
    for gallery, shares in figures.items():
        print(f"\n{gallery}")
        for title, share in shares.items():
            print(f"  {title:<16} {share:6.3f}")


if __name__ == "__main__":
    main()
