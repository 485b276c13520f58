"""Plants: conifers, a broad tree, tree trunks, and flowers close up."""

import numpy as np

from deploy.mini.draw.canvas import Canvas, Colour, relief, smoothstep
from deploy.mini.draw.lighting import Light


def conifer(canvas: Canvas, x: float, foot: float, tall: float) -> np.ndarray:
    """Outline a spruce at `x` (frame heights) with its foot at `foot` and height `tall`: [N, 2]."""
    gen = canvas.choose
    tiers = 11
    rows = np.linspace(0, 1, tiers)
    half = (0.02 + 0.17 * rows) * tall * gen.uniform(0.8, 1.2, tiers)
    right = np.stack([x + half * (1 - 0.45 * (np.arange(tiers) % 2)), foot - tall * (1 - rows)], 1)
    half = (0.02 + 0.17 * rows) * tall * gen.uniform(0.8, 1.2, tiers)
    left = np.stack([x - half * (1 - 0.45 * (np.arange(tiers) % 2)), foot - tall * (1 - rows)], 1)
    return np.concatenate([right, left[::-1]])


def conifers(canvas: Canvas, light: Light, count: int, foot: float, tall: float, dark: Colour) -> None:
    """Paint `count` spruces along the line `foot`, each about `tall` frame heights."""
    gen = canvas.choose
    outlines = [
        conifer(canvas, gen.uniform(-0.05, canvas.aspect + 0.05), foot + gen.uniform(-0.01, 0.03), tall * s)
        for s in gen.uniform(0.55, 1.15, count)
    ]
    texture = canvas.noise(40, 0.8)
    paint = dark * (1 + 0.35 * texture[..., None])
    lit = light.shine(np.clip(paint, 0, 1).astype(np.float32), 0.35 + 0.12 * texture)
    canvas.paint(canvas.shape(*outlines), lit)


def branches(canvas: Canvas, x: float, y: float, angle: float, length: float, width: float, level: int) -> list:
    """Grow a tree: list of (outline [4, 2], level) for the trunk and its branches."""
    gen = canvas.choose
    tip_x, tip_y = x + length * np.sin(angle), y - length * np.cos(angle)
    side_x, side_y = np.cos(angle) * width / 2, np.sin(angle) * width / 2
    outline = np.array(
        [
            [x - side_x, y - side_y],
            [x + side_x, y + side_y],
            [tip_x + 0.65 * side_x, tip_y + 0.65 * side_y],
            [tip_x - 0.65 * side_x, tip_y - 0.65 * side_y],
        ]
    )
    grown = [(outline, level, (tip_x, tip_y))]
    if level > 0:
        for turn in (-1, 1, 0)[: 2 + int(gen.random() < 0.45)]:
            bend = angle + turn * gen.uniform(0.35, 0.7) + gen.uniform(-0.15, 0.15)
            grown += branches(canvas, tip_x, tip_y, bend, length * gen.uniform(0.62, 0.8), width * 0.62, level - 1)
    return grown


def tree(canvas: Canvas, light: Light, x: float, foot: float, tall: float, leaves: Colour | None) -> None:
    """Paint a broad tree at `x` (frame heights); without `leaves` it is bare."""
    grown = branches(canvas, x, foot, canvas.choose.uniform(-0.08, 0.08), tall * 0.30, tall * 0.055, 5)
    bark = np.float32([0.07, 0.05, 0.04]) * (1 + 0.3 * canvas.noise(30, 0.7)[..., None])
    wood = canvas.shape(*(outline for outline, _, _ in grown))
    canvas.paint(wood, light.shine(np.clip(bark, 0, 1).astype(np.float32), np.full_like(wood, 0.5)))
    if leaves is None:
        return
    gen = canvas.choose
    turn = np.linspace(0, 2 * np.pi, 9)[:-1]
    blobs = []
    for _, level, (tip_x, tip_y) in grown:
        if level <= 2:
            size = tall * gen.uniform(0.035, 0.075) * gen.uniform(0.8, 1.1, 8)
            blobs.append(np.stack([tip_x + size * np.cos(turn), tip_y + size * np.sin(turn)], 1))
    mask = canvas.shape(*blobs)
    texture = canvas.noise(24, 0.85)
    cosine = relief(texture + 3 * mask, light.toward, 0.10)
    paint = leaves * (1 + 0.4 * texture[..., None])
    holes = smoothstep(-1.3, -0.8, canvas.noise(22, 0.8))
    canvas.paint(mask * holes, light.shine(np.clip(paint, 0, 1).astype(np.float32), cosine))


def flower(
    canvas: Canvas, light: Light, x: float, y: float, radius: float, petals: int, hue: Colour, heart: Colour
) -> None:
    """Paint a flower seen from the front: two whorls of `petals` each, glowing from the heart outwards."""
    gen = canvas.choose
    dx, dy = canvas.x - x, (canvas.y - y) * gen.uniform(1.0, 1.25)
    distance, angle = np.sqrt(dx**2 + dy**2) / radius, np.arctan2(dy, dx)
    start = gen.uniform(0, 2 * np.pi)
    wave = 0.05 * canvas.noise(2.5, 0.4)
    for whorl, (size, dark) in enumerate(((1.0, 0.8), (0.78, 1.0))):
        turn = (angle + start + whorl * np.pi / petals) * petals / (2 * np.pi)
        place = (turn - np.floor(turn)) * 2 - 1  # -1..1 across one petal
        number = np.floor(turn).astype(int) % petals
        reach = size * gen.uniform(0.85, 1.08, petals)[number]
        edge = reach * (1 - 0.42 * np.abs(place) ** 2.6) + wave
        mask = smoothstep(0.012, -0.012, distance - edge)
        fold = np.maximum(np.cos(place * np.pi / 2), 0.0) ** 0.7
        veins = 0.06 * np.sin(place * 26 + 2 * wave * 10) * smoothstep(0.2, 0.9, distance)
        cup = np.clip(distance / np.maximum(edge, 0.05), 0, 1)
        glow = 0.25 + 0.75 * smoothstep(0.05, 0.9, cup) * fold + 0.15 * np.sin(angle + gen.uniform(0, 6))
        pale = np.clip(0.55 * cup**2 * fold, 0, 1)[..., None]
        paint = (hue * (1 - pale) + (0.5 * hue + 0.45) * pale) * (1 + veins[..., None]) * dark
        canvas.paint(mask, light.shine(np.clip(paint, 0, 1).astype(np.float32), glow.astype(np.float32)))
        shade = smoothstep(size * 0.9, 0.0, distance) * 0.35 * (1 - whorl)
        canvas.light *= 1 - (mask * shade)[..., None]
    core = smoothstep(0.2, 0.1, distance + 0.03 * canvas.noise(18, 0.8))
    dots = 0.6 + 0.5 * canvas.noise(34, 0.9)
    canvas.paint(core, light.shine((heart * np.clip(dots, 0.1, 1.6)[..., None]).astype(np.float32), core * 0.8))
