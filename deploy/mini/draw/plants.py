"""Plants: conifers, a broad tree, tree trunks, and flowers close up."""

import numpy as np

from deploy.mini.draw.canvas import Canvas, Colour, relief, rgb, smoothstep, soften
from deploy.mini.draw.lighting import Light
from deploy.mini.draw.noise import FloatImage


def conifer(canvas: Canvas, x: float, foot: float, tall: float) -> FloatImage:
    """Outline a spruce at `x` (frame heights) with its foot at `foot` and height `tall`: [N, 2]."""
    gen = canvas.choose
    tiers = 19
    rows = np.linspace(0, 1, tiers)
    half = (0.015 + 0.16 * rows) * tall * gen.uniform(0.8, 1.2, tiers)
    right = np.stack([x + half * (1 - 0.45 * (np.arange(tiers) % 2)), foot - tall * (1 - rows)], 1)
    half = (0.015 + 0.16 * rows) * tall * gen.uniform(0.8, 1.2, tiers)
    left = np.stack([x - half * (1 - 0.45 * (np.arange(tiers) % 2)), foot - tall * (1 - rows)], 1)
    return np.concatenate([right, left[::-1]])


def conifers(canvas: Canvas, light: Light, count: int, foot: float, tall: float, dark: Colour) -> None:
    """Paints `count` spruces along the line `foot`, each about `tall` frame heights."""
    gen = canvas.choose
    outlines = [
        conifer(canvas, gen.uniform(-0.05, canvas.aspect + 0.05), foot + gen.uniform(-0.01, 0.03), tall * s)
        for s in gen.uniform(0.55, 1.15, count)
    ]
    texture = canvas.noise(40, 0.8)
    paint = dark * (1 + 0.35 * texture[..., None])
    lit = light.shine(np.clip(paint, 0, 1).astype(np.float32), 0.35 + 0.12 * texture)
    canvas.paint(canvas.shape(*outlines), lit)


def trunks(canvas: Canvas, light: Light, count: int, foot: float, wide: float, bark: Colour, marked: bool) -> None:
    """Paints `count` straight trunks that leave the frame at the top, each about `wide` frame heights thick."""
    places = canvas.choose.uniform(-0.02, canvas.aspect + 0.02, count)
    surface = bark_texture(canvas, bark, marked)
    for place in places:
        trunk(canvas, light, float(place), foot, wide * canvas.choose.uniform(0.6, 1.2), surface)


def bark_texture(canvas: Canvas, bark: Colour, marked: bool) -> FloatImage:
    """Makes bark, [H, W, 3]: furrowed, or if `marked` pale with the dark scars of a birch or aspen."""
    tone = 1 + (0.10 if marked else 0.28) * canvas.noise(14, 0.7, 3.0 if marked else 0.12)
    if marked:
        tone = tone * (1 - 0.85 * smoothstep(1.15, 1.5, canvas.noise(9, 0.6, 3.5)))
    return np.clip(bark * tone[..., None], 0.01, 1).astype(np.float32)


def trunk(canvas: Canvas, light: Light, x: float, foot: float, wide: float, surface: FloatImage) -> None:
    """Paints one trunk at `x` with the bark of `surface`, round in the light."""
    gen = canvas.choose
    lean, bow = gen.normal(0, 0.035), gen.normal(0, 0.02)
    rise = foot - canvas.y
    middle = x + lean * rise + bow * np.sin(rise * 3)
    half = wide / 2 * (1 - 0.25 * np.clip(rise, 0, 1) + 0.5 * np.exp(-np.maximum(rise, 0) / 0.05))
    place = (canvas.x - middle) / half
    mask = np.clip((1 - np.abs(place)) * half * canvas.height + 0.5, 0, 1) * smoothstep(foot + 0.01, foot, canvas.y)
    rounded = np.sqrt(np.clip(1 - place**2, 0, 1))
    cosine = np.clip(0.45 + 0.55 * rounded + 0.45 * place * np.sign(light.toward[0]), 0, 1)
    canvas.paint(mask.astype(np.float32), light.shine(surface, cosine.astype(np.float32)))


def foliage(canvas: Canvas, light: Light, leaf: Colour) -> None:
    """Fills the frame with woods out of focus: patches of light and shade among leaves."""
    patches = canvas.noise(4, 0.6)
    fine = canvas.noise(18, 0.8)
    glow = np.clip(0.35 + 0.22 * patches + 0.14 * fine, 0.02, 1)
    paint = leaf * (1 + 0.25 * fine[..., None]) * np.float32(0.85)
    canvas.light[:] = light.shine(np.clip(paint, 0.01, 1).astype(np.float32), glow.astype(np.float32))
    canvas.light += (smoothstep(1.1, 2.2, canvas.noise(9, 0.6)) * 0.5)[..., None] * light.horizon


def woods(canvas: Canvas, light: Light, line: FloatImage, dark: Colour, far: float) -> None:
    """Clothes the slope below the outline `line` [W] with spruces, smaller where `far` (0..1, share of air) is high."""
    gen = canvas.choose
    shape = conifer(canvas, 0.0, 0.0, 1.0)
    size = 0.075 * (1 - 0.75 * far)
    for row in range(4):
        places = gen.uniform(-0.02, canvas.aspect + 0.02, 44)
        scales = size * (1 + 0.35 * row) * gen.uniform(0.55, 1.2, 44)
        columns = np.clip(places * canvas.height, 0, canvas.width - 1).astype(int)
        feet = line[columns] + 0.012 + row * size * 0.75 + gen.uniform(0, 0.4 * size, 44)
        outlines = [shape * scale + (x, y) for x, y, scale in zip(places, feet, scales, strict=True)]
        tone = dark * (0.7 + 0.12 * row) * (1 + 0.3 * canvas.noise(50, 0.85)[..., None])
        lit = light.shine(np.clip(tone, 0, 1).astype(np.float32), np.full_like(tone[..., 0], 0.35))
        canvas.paint(canvas.shape(*outlines), light.haze(lit, far * 0.9))


Limb = tuple[FloatImage, int, tuple[float, float]]
"""A trunk or branch: outline [4, 2], how many levels still grow from it, its tip (x, y)."""


def branches(canvas: Canvas, x: float, y: float, angle: float, length: float, width: float, level: int) -> list[Limb]:
    """Grows a tree from (`x`, `y`): the trunk and all its branches, in frame heights."""
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
    """Paints a broad tree at `x` (frame heights); without `leaves` it is bare."""
    grown = branches(canvas, x, foot, canvas.choose.uniform(-0.08, 0.08), tall * 0.30, tall * 0.055, 5)
    bark = rgb(0.07, 0.05, 0.04) * (1 + 0.3 * canvas.noise(30, 0.7)[..., None])
    wood = canvas.shape(*(outline for outline, _, _ in grown))
    shade = canvas.disc(x, foot / 0.28, tall * 0.36, 0.08)  # a disc in a flattened frame: the tree's own shadow
    rows = np.clip(np.arange(canvas.height) / 0.28, 0, canvas.height - 1).astype(int)
    ground = shade[rows] * (canvas.y >= foot - 0.02)
    canvas.light *= 1 - 0.45 * soften(ground.astype(np.float32), 1.0)[..., None]
    canvas.paint(wood, light.shine(np.clip(bark, 0, 1).astype(np.float32), np.full_like(wood, 0.5)))
    if leaves is None:
        return
    gen = canvas.choose
    turn = np.linspace(0, 2 * np.pi, 9)[:-1]
    blobs = []
    for _, level, (tip_x, tip_y) in grown:
        for _ in range(3 if level <= 2 else 0):
            size = tall * gen.uniform(0.02, 0.055) * gen.uniform(0.7, 1.2, 8)
            away = gen.normal(0, 0.028 * tall, 2)
            blobs.append(np.stack([tip_x + away[0] + size * np.cos(turn), tip_y + away[1] + size * np.sin(turn)], 1))
    mask = canvas.shape(*blobs)
    texture = canvas.noise(24, 0.85)
    crown = soften(mask, 0.05 * tall * canvas.height + 0.5)
    cosine = np.clip(relief(0.05 * texture + 0.9 * crown * tall, light.toward, 1.0) * 0.9 + 0.1, 0, 1)
    paint = leaves * (1 + 0.3 * texture[..., None])
    holes = smoothstep(-1.3, -0.8, canvas.noise(22, 0.8))
    canvas.paint(mask * holes, light.shine(np.clip(paint, 0, 1).astype(np.float32), cosine))


def flower(
    canvas: Canvas, light: Light, x: float, y: float, radius: float, petals: int, hue: Colour, heart: Colour
) -> None:
    """Paints a flower seen from the front: two whorls of `petals` each, glowing from the heart outwards."""
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
