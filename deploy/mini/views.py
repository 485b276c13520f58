"""Two photographs of the same thing: strong, cheap augmentation of whole batches."""

import math

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_GREY = (0.2126, 0.7152, 0.0722)


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draws `count` numbers between `low` and `high`: float32 [count]."""
    return torch.rand(count, generator=generator) * (high - low) + low


def crop_and_turn(pictures: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Crops 55-100% of the area anywhere, turns by up to 7 degrees, resamples to `side`: [B, 3, side, side].

    What the turned frame lacks is filled by reflection, by the border or with black, as programs differ.
    """
    count = len(pictures)
    scale = uniform(count, 0.55, 1.0, generator).sqrt()
    shape = (torch.randn(count, generator=generator) * 0.04).exp()
    wide, high = (scale * shape).clamp(max=1.0), (scale / shape).clamp(max=1.0)
    angle = uniform(count, -7.0, 7.0, generator) * math.pi / 180
    x = uniform(count, -1.0, 1.0, generator) * (1 - wide)
    y = uniform(count, -1.0, 1.0, generator) * (1 - high)
    cosine, sine = angle.cos(), angle.sin()
    matrix = torch.stack(
        [
            torch.stack([cosine * wide, -sine * high, x], 1),
            torch.stack([sine * wide, cosine * high, y], 1),
        ],
        1,
    )
    grid = functional.affine_grid(matrix, [count, 3, side, side], align_corners=False)
    padding = ("reflection", "reflection", "border", "zeros")[int(torch.randint(4, (1,), generator=generator))]
    return functional.grid_sample(pictures, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def expose(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Changes exposure by up to 1.4 stops and white balance in linear light, then contrast and saturation."""
    count = len(pictures)
    gain = 2.0 ** uniform(count, -1.4, 1.4, generator)
    balance = (torch.randn(count, 3, generator=generator) * 0.05).exp()
    linear = pictures.clamp(0, 1).pow(2.2) * (gain[:, None] * balance)[:, :, None, None]
    shown = linear.clamp(1e-6, 1.0).pow(1 / 2.2)
    contrast = uniform(count, 0.85, 1.18, generator)[:, None, None, None]
    shown = (shown - 0.5) * contrast + 0.5
    grey = (shown * torch.tensor(_GREY)[None, :, None, None]).sum(1, keepdim=True)
    saturation = uniform(count, 0.75, 1.25, generator)[:, None, None, None]
    return (grey + (shown - grey) * saturation).clamp(0, 1)


def degrade(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Softens about a third, adds noise of up to 4%, and compresses a fifth as JPEG (quality 30-95)."""
    count = len(pictures)
    soft = functional.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
    amount = (uniform(count, -1.4, 0.7, generator).clamp(min=0))[:, None, None, None]
    pictures = pictures + amount * (soft - pictures)
    strength = uniform(count, -0.03, 0.04, generator).clamp(min=0)[:, None, None, None]
    pictures = (pictures + strength * torch.randn(count, 1, *pictures.shape[2:], generator=generator)).clamp(0, 1)
    chosen = torch.randperm(count, generator=generator)[: count // 5]
    qualities = torch.randint(30, 96, (len(chosen),), generator=generator)
    for index, quality in zip(chosen.tolist(), qualities.tolist(), strict=True):
        pixels = (pictures[index].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        back = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        pictures[index] = torch.from_numpy(np.ascontiguousarray(back)).permute(2, 0, 1) / 255
    return pictures


def vary_pictures(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Makes new pictures of textures, in place: mirrored, turned, colours exchanged, laid over one another."""
    count = len(pictures)
    for axes in ((2,), (3,)):
        half = torch.randperm(count, generator=generator)[: count // 2]
        pictures[half] = pictures[half].flip(axes)
    half = torch.randperm(count, generator=generator)[: count // 2]
    pictures[half] = pictures[half].transpose(2, 3)
    for part in torch.randperm(count, generator=generator).tensor_split(6):
        pictures[part] = pictures[part][:, torch.randperm(3, generator=generator)]
    half = torch.randperm(count, generator=generator)[: count // 2]
    border = torch.randn(len(half), 1, 4, 4, generator=generator)
    blend = (functional.interpolate(border, pictures.shape[-2:], mode="bilinear") * 4).sigmoid()
    pictures[half] = torch.lerp(pictures[half], pictures[half.flip(0)], blend)
    return pictures


def greyscale_some(pictures: Tensor, part: float, generator: torch.Generator) -> Tensor:
    """Turns about `part` (0..1) of the pictures to greyscale, so that colour is never all there is to go by."""
    grey = (pictures * torch.tensor(_GREY)[None, :, None, None]).sum(1, keepdim=True).expand_as(pictures)
    chosen = torch.rand(len(pictures), generator=generator) < part
    return torch.where(chosen[:, None, None, None], grey, pictures)


def view(pictures: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Makes one view of each picture: float32 [B, 3, side, side], 0..1, from [B, 3, S, S], 0..1."""
    return degrade(expose(crop_and_turn(pictures, side, generator), generator), generator)
