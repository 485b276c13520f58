"""Borders that were drawn around a photograph: a white mat, a black frame, the bars of a letterbox.

They are no part of the photograph; left in, they would count as burnt-out highlights, perfect symmetry and a
well-placed subject. A border is told from a plain background, the white behind a cut-out for instance, by its inner
edge: it is straight, so that nearly the whole next line is something else.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, right and bottom just outside."""

SIZE: Final = 512
"""Pixels of the long side at which borders are looked for."""
_TOLERANCE: Final = 16
"""Levels of 255 by which a border may vary: paper, grain and compression."""
_PLAIN: Final = 0.99
"""The share of a line that has the border's colour."""
_WRITTEN_ON: Final = 0.7
"""The same of a line with writing on it: a caption or a signature between plain lines."""
_EDGE: Final = 0.8
"""The share of the next lines, on average over the sides, that must have another one."""
_EDGE_LEAST: Final = 0.3
"""The same of each side: a photograph may be black at one edge of its black frame, for some way."""
_WITHIN: Final = 3
"""How many lines the inner edge may take: it is cut by writing, or not quite straight."""
_AS_MUCH: Final = 0.8
"""The share of the difference from the border, of a line of the photograph, that the next line outward must have."""
_ANOTHER: Final = 6
"""Levels by which it must differ at least, and by four times what the border itself varies."""
_LEAST_SIDE: Final = 0.4
"""The share of a side that is left: a smaller photograph in its border is not looked for."""
_LEAST: Final = 0.01
"""The share of the photograph below which a border makes no difference."""
_RINGS: Final = 3
"""A mat, the line in it, and the paper inside of it."""


def inside(image: Image.Image) -> Box:
    """Returns the part of an RGB photograph within its border; the whole where it has none.

    A border lies on two opposite sides or on all four, and has one colour; up to three lie in one another.
    """
    whole = (0, 0, *image.size)
    if not _may_have(image):
        return whole
    scale = max(1.0, max(image.size) / SIZE)
    small = image.resize([max(1, round(side / scale)) for side in image.size], Image.Resampling.BOX)
    pixels = np.asarray(small).astype(np.int16)
    height, width = pixels.shape[:2]
    left, top, right, bottom = 0, 0, width, height
    color = np.zeros(3)
    for _ in range(_RINGS):
        ring = _ring(pixels[top:bottom, left:right])
        if ring is None:
            break
        sides, color = ring
        left, top, right, bottom = left + sides[0], top + sides[1], right - sides[2], bottom - sides[3]
    if min((right - left) / width, (bottom - top) / height) < _LEAST_SIDE:
        return whole
    if (right - left) * (bottom - top) > (1 - _LEAST) * width * height:
        return whole
    x, y = image.width / width, image.height / height
    return _to_the_line(image, (round(left * x), round(top * y), round(right * x), round(bottom * y)), scale, color)


def _to_the_line(image: Image.Image, box: Box, scale: float, color: NDArray[np.float64]) -> Box:
    """Returns a box that was found `scale` times smaller, each side moved out to where the border really ends.

    What the search took for the inner edge may lie a few lines within the photograph: two lines of the copy, and those
    that writing cuts.
    """
    left, top, right, bottom = box
    pixels, reach = np.asarray(image), round((_WITHIN + 1) * scale) + 1
    # The lines along each side, from the photograph's first outwards.
    sides = (
        pixels[top:bottom, max(0, left - reach) : left + 1][:, ::-1].swapaxes(0, 1),
        pixels[max(0, top - reach) : top + 1, left:right][::-1],
        pixels[top:bottom, right - 1 : right + reach].swapaxes(0, 1),
        pixels[bottom - 1 : bottom + reach, left:right],
    )
    more = [_outwards(lines, color) for lines in sides]
    return left - more[0], top - more[1], right + more[2], bottom + more[3]


def _outwards(lines: NDArray[np.uint8], color: NDArray[np.float64]) -> int:
    """Returns how many of [n, length, 3] behind the first belong to the photograph as it does: those that differ from
    the border's colour about as much. What is half border does not, nor a plain line beside one that is not plain.
    """
    apart = np.abs(lines - color).max(-1).mean(1)
    plain = np.array([_plain(line[None].astype(np.int16)) for line in lines])
    border = (apart < _AS_MUCH * apart[0]) | (plain & ~plain[0])
    return int(np.argmax(border)) - 1 if border.any() else 0


def _may_have(image: Image.Image) -> bool:
    """Returns whether two opposite sides end in plain lines, which few photographs do: found without resizing it."""
    width, height = image.size
    if min(width, height) < 16:
        return False
    ends = [(0, 0, width, 1), (0, height - 1, width, height), (0, 0, 1, height), (width - 1, 0, width, height)]
    top, bottom, left, right = (_plain(np.asarray(image.crop(end)).reshape(1, -1, 3).astype(np.int16)) for end in ends)
    return (top and bottom) or (left and right)


def _plain(line: NDArray[np.int16]) -> bool:
    apart = np.abs(line - np.median(line, axis=(0, 1))).max(-1)
    return bool((apart <= _TOLERANCE).mean() >= _PLAIN)


def _ring(pixels: NDArray[np.int16]) -> tuple[Box, NDArray[np.float64]] | None:
    """Returns the widths in pixels of the outermost border on the left, top, right and bottom, and its colour [3]; None
    without one.
    """
    height, width = pixels.shape[:2]
    for color in (np.median(pixels[[0, -1]], axis=(0, 1)), np.median(pixels[:, [0, -1]], axis=(0, 1))):
        apart = np.abs(pixels - color).max(-1)
        like = apart <= _TOLERANCE
        rows, columns = like.mean(1), like.mean(0)
        top, bottom = _run(rows), _run(rows[::-1])
        left, right = _run(columns), _run(columns[::-1])
        # Bars at opposite sides; a plain line at one side alone is a sky or a floor.
        if not (top and bottom):
            top = bottom = 0
        if not (left and right):
            left = right = 0
        if not (top or left) or min(height - top - bottom, width - left - right) < 1:
            continue
        # Over its whole width: a gradient leaves a colour as slowly as it goes on.
        varies = float(np.median(apart[:top] if top else apart[:, :left]))
        another = apart > max(_ANOTHER, 4 * varies)
        across, down = another[top : height - bottom], another[:, left : width - right]
        edges = [
            _edge(lines, run)
            for lines, run in (
                (across.mean(0), left),
                (down.mean(1), top),
                (across.mean(0)[::-1], right),
                (down.mean(1)[::-1], bottom),
            )
        ]
        shares = [share for _, share in edges if share >= 0]
        if min(shares) >= _EDGE_LEAST and sum(shares) / len(shares) >= _EDGE:
            return (edges[0][0], edges[1][0], edges[2][0], edges[3][0]), color
    return None


def _run(lines: NDArray[np.float64]) -> int:
    """Returns how many of the first lines are the border's, by the share of each that has its colour."""
    written_on = lines >= _WRITTEN_ON
    first = len(lines) if written_on.all() else int(np.argmin(written_on))
    plain = np.flatnonzero(lines[:first] >= _PLAIN)
    return int(plain[-1]) + 1 if len(plain) else 0


def _edge(lines: NDArray[np.float64], run: int) -> tuple[int, float]:
    """Returns where the photograph begins behind `run` lines of border, and how much of that line has another colour,
    by the share of each line that has; 0 and -1 where there is no border."""
    if not run:
        return 0, -1.0
    # Not the line behind: that is half border.
    near = lines[run + 1 : run + 1 + _WITHIN]
    if not len(near):
        return run, 0.0
    return run + 1 + int(np.argmax(near >= 0.9 * near.max())), float(near.max())
