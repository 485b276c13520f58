"""Ground: ridges in aerial perspective, dunes, plains."""

import numpy as np

from deploy.mini.draw import plants
from deploy.mini.draw.canvas import Canvas, Colour, colour, relief, rgb, smoothstep, soften
from deploy.mini.draw.lighting import Light
from deploy.mini.draw.noise import FloatImage, profile

ROCK = ("6b6a68", "7a6a5a", "58606a", "8a7460", "6e5a52")
FOREST = ("2f4a2a", "3c5530", "27402f", "4a5a2c")
EARTH = ("a8603c", "c07a4a", "b5563e", "c99a6a", "9a4a3a")


def any_colour(canvas: Canvas, codes: tuple[str, ...]) -> Colour:
    """Chooses one of the colours, varied a little."""
    base = colour(codes[int(canvas.choose.integers(len(codes)))])
    return (base * canvas.choose.uniform(0.8, 1.25, 3)).astype(np.float32)


def ridge(
    canvas: Canvas,
    light: Light,
    base: float,
    rise: float,
    far: float,
    albedo: Colour,
    peak: float | None = None,
    snow: float = 0.0,
) -> FloatImage:
    """Paints one ridge whose outline lies about `base` (0 top..1 bottom) and rises by `rise`; returns its outline [W].

    `far` 0..1 is the share of air in its colour; `peak` (0..1 over the width) lifts a main summit there;
    `snow` 0..1 is how far down from the summits snow lies.
    """
    sharp = rise > 0.1
    line = base - 0.35 * rise * profile(canvas.choose, canvas.width, 2.5 if sharp else 1.8, 0.5, ridged=sharp)
    across = np.linspace(0, 1, canvas.width, dtype=np.float32)
    if peak is not None:
        line = line - rise * np.exp(-np.abs(across - peak) / 0.16) * 0.95
    line = line.astype(np.float32)
    mask = canvas.below(line)
    depth = (canvas.y - line[None, :]) / max(rise, 0.05)
    surface = canvas.noise(5, 0.62, 0.7)
    folds = np.abs(canvas.noise(3.5, 0.58, 0.8))
    slope = relief(0.35 * surface - folds, light.toward, 0.2 if sharp else 0.07)
    paint = albedo * (1 + 0.10 * surface[..., None])
    if snow > 0:
        cover = smoothstep(snow + 0.25, snow - 0.25, depth + 0.35 * surface)
        paint = paint * (1 - cover[..., None]) + rgb(0.82, 0.86, 0.92) * cover[..., None]
    lit = light.shine(np.clip(paint, 0.0, 1.0).astype(np.float32), slope)
    thick = np.clip(far + 0.25 * far * np.clip(depth * 0.6, 0, 1), 0, 0.97)[..., None]  # haze gathers in valleys
    canvas.paint(mask, (lit * (1 - thick) + light.horizon * thick).astype(np.float32))
    return line


def ridges(
    canvas: Canvas, light: Light, horizon: float, count: int, rise: float, peak: float | None, snow: float
) -> FloatImage:
    """Paints `count` ridges, far to near, over a horizon line; the farthest carries the summit. Returns its outline."""
    palette = ROCK if canvas.choose.random() < 0.6 else FOREST
    wooded = canvas.choose.random() < 0.75
    thick = {"clear": 0.55, "cloudy": 0.62, "hazy": 0.8}[light.weather]
    first: FloatImage | None = None
    for index in range(count):
        near = index / max(count - 1, 1)
        main = index == 0
        albedo = any_colour(canvas, palette if near < 0.7 else FOREST)
        line = ridge(
            canvas,
            light,
            base=horizon - 0.03 + near * 0.16 + (0.08 if near > 0.9 else 0.0),
            rise=rise if main else rise * (0.55 - 0.3 * near),
            far=thick * (1 - near) ** 0.8 if count > 1 else 0.15,
            albedo=albedo,
            peak=peak if main else None,
            snow=snow if main else 0.0,
        )
        if near > 0.55 and wooded:
            plants.woods(canvas, light, line, albedo, thick * (1 - near) ** 0.8)
        first = line if first is None else first
    assert first is not None
    return first


def plain(canvas: Canvas, light: Light, horizon: float, albedo: Colour, rough: float = 1.0) -> None:
    """Paints a level ground from `horizon` down, in perspective; `rough` 0..1 is the strength of its texture."""
    near = smoothstep(horizon, 1.05, canvas.y)
    clumps = canvas.ground(horizon, 6.0, 0.75, across=2.0)
    blades = canvas.noise(36, 0.85, 0.8) * near
    slope = relief(clumps + 0.25 * blades, light.toward, 0.016 * rough)
    tone = 1 + rough * (0.16 * clumps + 0.10 * blades)
    lit = light.shine(np.clip(albedo * tone[..., None], 0.005, 1).astype(np.float32), slope)
    air = (0.6 * (1 - near) ** 1.5)[..., None]
    line = (horizon - 0.004 * profile(canvas.choose, canvas.width, 5)).astype(np.float32)
    canvas.paint(canvas.below(line), (lit * (1 - air) + light.horizon * air).astype(np.float32))


def hills(canvas: Canvas, light: Light, horizon: float, count: int, summit: float, gullied: float) -> None:
    """Paints `count` smooth desert hills, far to near; the highest stands at `summit` (0..1 over the width).

    `gullied` 0..1 is how deeply rain has cut them.
    """
    gen = canvas.choose
    across = np.linspace(0, 1, canvas.width, dtype=np.float32)
    for index in range(count):
        near = index / max(count - 1, 1)
        top = summit if index == 0 else gen.uniform(0, 1)
        swell = 0.24 if index == 0 else gen.uniform(0.05, 0.16)
        rounded = np.exp(-(((across - top) / gen.uniform(0.16, 0.3)) ** 2))
        line = horizon + 0.02 + near * (0.86 - horizon) - swell * rounded
        line = (line + 0.014 * profile(gen, canvas.width, 3, 0.4)).astype(np.float32)
        depth = np.maximum(canvas.y - line[None, :], 0)
        bulge = np.sqrt(np.clip(depth / 0.35, 0, 1))
        cuts = np.abs(canvas.noise(3.0, 0.5, 0.35)) * gullied * np.minimum(depth * 9, 1)
        body = bulge + 0.9 * cuts + 0.35 * canvas.noise(1.2, 0.35, 0.7)
        cosine = relief(soften(body, 0.004 * canvas.height + 0.3), light.toward, 0.16)
        albedo = any_colour(canvas, (*EARTH, "c98a78", "b87a5a", "d8b890"))
        bands = 0.10 * np.sin(depth * gen.uniform(20, 60) + 1.5 * canvas.noise(2, 0.4)) * gen.choice((0, 1))
        paint = albedo * (1 + bands + 0.05 * canvas.noise(30, 0.8))[..., None]
        lit = light.shine(np.clip(paint, 0, 1).astype(np.float32), cosine)
        canvas.paint(canvas.below(line), light.haze(lit, 0.4 * (1 - near) ** 2))


def dunes(canvas: Canvas, light: Light, horizon: float, count: int, crest: float, albedo: Colour) -> None:
    """Paints `count` dunes from `horizon` down; the main crest peaks at `crest` (0..1 over the width).

    Each has a lit and a shadowed face that meet in a sharp line, and wind ripples.
    """
    gen = canvas.choose
    across = np.linspace(0, 1, canvas.width, dtype=np.float32)
    for index in range(count):
        near = index / max(count - 1, 1)
        main = index == count // 2
        top = crest if main else gen.uniform(0.1, 0.9)
        swell = 0.16 if main else gen.uniform(0.03, 0.09)
        base = horizon + 0.04 + near * (0.9 - horizon) * 0.75
        line = base - swell * np.exp(-(((across - top) / gen.uniform(0.22, 0.38)) ** 2))
        line = (line + 0.012 * profile(gen, canvas.width, 2)).astype(np.float32)
        mask = canvas.below(line)
        depth = np.maximum(canvas.y - line[None, :], 0)
        bend = top + gen.uniform(-0.9, 0.9) * depth + gen.uniform(0.08, 0.2) * np.sin(depth * gen.uniform(5, 11))
        sign = 1.0 if light.side == "left" else -1.0
        shadow = smoothstep(-0.004, 0.006 + 0.12 * float(near), sign * (across[None, :] - bend))
        fade = np.exp(-depth / 0.35)
        ripple = np.sin((depth * 90 + 3 * across[None, :] * 8 + 1.2 * canvas.noise(3, 0.4)) * (1.6 - near))
        cosine = np.clip(0.85 - 0.75 * shadow * fade - 0.15 * depth + 0.06 * ripple * near, 0.02, 1)
        paint = albedo * (1 + 0.05 * canvas.noise(20, 0.75)[..., None])
        lit = light.shine(paint.astype(np.float32), cosine.astype(np.float32))
        canvas.paint(mask, light.haze(lit, 0.45 * (1 - near) ** 2))
