"""Scenes with known content: what was drawn, where, in which light."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deploy.mini.draw import adobe, bones, captions, manners, plants, sky, stone, terrain, water
from deploy.mini.draw.canvas import Canvas, colour
from deploy.mini.draw.lighting import Light, choose_light
from deploy.mini.draw.noise import profile


@dataclass(frozen=True)
class Scene:
    """A drawn picture and what is true of it.

    `pixels` are uint8 [H, W, 3] sRGB; `caption` one English sentence; `attributes` words from closed lists
    (see `ATTRIBUTES`).
    """

    pixels: NDArray[np.uint8]
    caption: str
    attributes: dict[str, str]


ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": (
        "mountains", "lake", "dunes", "hills", "forest", "tree", "waterfall", "rocks", "clouds", "adobe",
        "flower", "skull", "shell",
    ),
    "subject": (
        "peak", "moon", "sun", "dune", "hill", "trunk", "tree", "waterfall", "rock", "cloud", "doorway",
        "flower", "skull", "shell",
    ),
    "subject_side": ("left", "centre", "right"),
    "horizon": ("high", "middle", "low", "none"),
    "time": ("dawn", "day", "dusk", "night"),
    "weather": ("clear", "cloudy", "hazy"),
    "light_side": ("left", "right", "soft"),
    "focus": ("deep", "shallow"),
    "palette": ("colour", "monochrome"),
    "water": ("yes", "no"),
}  # fmt: skip
"""Every attribute of a scene and the words it can have. `horizon` high means near the upper edge of the frame;
`light_side` is where the light comes from; `focus` shallow means that the background is out of focus."""

_SIDES = {"left": (0.16, 0.33), "centre": (0.46, 0.54), "right": (0.67, 0.84)}
_HORIZONS = {"high": (0.22, 0.32), "middle": (0.45, 0.55), "low": (0.68, 0.78)}


@dataclass
class Plan:
    """The choices every scene shares; `details` are further true facts for the caption."""

    canvas: Canvas
    light: Light
    manner: str | None
    side: str
    across: float
    horizon: str
    line: float
    subject: str = ""
    water: bool = False
    shallow: bool = False
    soft: bool = False
    exposure: float = 0.22
    details: dict[str, str] = field(default_factory=dict)

    @property
    def x(self) -> float:
        """The subject's place in frame heights."""
        return self.across * self.canvas.aspect


def _plan(canvas: Canvas, manner: str | None) -> Plan:
    light = choose_light(canvas)
    side = str(canvas.choose.choice(tuple(_SIDES)))
    horizon = str(canvas.choose.choice(tuple(_HORIZONS), p=(0.3, 0.4, 0.3)))
    plan = Plan(
        canvas, light, manner, side, canvas.choose.uniform(*_SIDES[side]), horizon,
        canvas.choose.uniform(*_HORIZONS[horizon]),
    )  # fmt: skip
    plan.exposure = {"dawn": 0.26, "day": 0.28, "dusk": 0.2, "night": 0.1}[light.time]
    return plan


def _sky(plan: Plan, disc: bool) -> None:
    canvas, light = plan.canvas, plan.light
    sky.sky(canvas, light, plan.line)
    if light.weather == "cloudy":
        sky.clouds(canvas, light, plan.line, canvas.choose.uniform(0.4, 0.65))
    if disc:
        moon = plan.light.time in ("night", "dusk") or canvas.choose.random() < 0.4
        plan.subject = "moon" if moon else "sun"
        height = plan.line * canvas.choose.uniform(0.3, 0.55)
        sky.sun_or_moon(canvas, light, plan.x, height, canvas.choose.uniform(0.025, 0.055), moon)


def mountains(plan: Plan) -> None:
    """Ridges in aerial perspective under a sky; the subject is a summit, the moon or the sun."""
    gen = plan.canvas.choose
    if plan.horizon == "high":
        plan.horizon, plan.line = "middle", gen.uniform(*_HORIZONS["middle"])
    disc = bool(gen.random() < 0.45)
    _sky(plan, disc)
    count = int(gen.integers(2, 7))
    snow = float(gen.uniform(0.2, 0.7)) if gen.random() < 0.5 else 0.0
    rise = gen.uniform(0.06, 0.12) if disc else gen.uniform(0.16, 0.3)
    terrain.ridges(plan.canvas, plan.light, plan.line, count, rise, None if disc else plan.across, snow)
    plan.subject = plan.subject or "peak"
    plan.details = {"ridges": captions.NUMBERS[count], "snow": "snow" if snow else ""}


def lake(plan: Plan) -> None:
    """Mountains mirrored in a lake."""
    gen = plan.canvas.choose
    plan.horizon, plan.line = "middle", gen.uniform(*_HORIZONS["middle"])
    mountains(plan)
    calm = gen.uniform(0.2, 1.0)
    water.lake(plan.canvas, plan.light, plan.line + 0.12, calm)
    plan.water = True
    plan.details["water"] = "still" if calm > 0.6 else "rippled"
    if gen.random() < 0.5:
        plants.conifers(plan.canvas, plan.light, int(gen.integers(2, 6)), 1.05, gen.uniform(0.2, 0.4), colour("1e2a1c"))
        plan.details["shore"] = "spruces"


def dunes(plan: Plan) -> None:
    """Sand dunes with a sharp crest between light and shadow."""
    gen = plan.canvas.choose
    if plan.horizon == "low":
        plan.horizon, plan.line = "high", gen.uniform(*_HORIZONS["high"])
    _sky(plan, False)
    count = int(gen.integers(3, 6))
    terrain.dunes(
        plan.canvas, plan.light, plan.line, count, plan.across, terrain.any_colour(plan.canvas, terrain.EARTH)
    )
    plan.subject = "dune"
    plan.details = {"dunes": captions.NUMBERS[count]}


def tree(plan: Plan) -> None:
    """One broad tree on a plain."""
    gen = plan.canvas.choose
    if plan.horizon == "high":
        plan.horizon, plan.line = "low", gen.uniform(*_HORIZONS["low"])
    _sky(plan, False)
    season = str(gen.choice(("spring", "summer", "autumn", "winter")))
    leaf = {"spring": "8fb04a", "summer": "3f6b2a", "autumn": "c8781e", "winter": ""}[season]
    ground = {"spring": "6f9040", "summer": "7a8a40", "autumn": "9a7a44", "winter": "d8dde4"}[season]
    terrain.plain(plan.canvas, plan.light, plan.line, colour(ground))
    foot = plan.line + 0.08
    plants.tree(plan.canvas, plan.light, plan.x, foot, foot * gen.uniform(0.65, 0.85), colour(leaf) if leaf else None)
    plan.subject = "tree"
    plan.details = {"season": season}


_HUES = {
    "red": "c01c1c", "orange": "e0701a", "yellow": "e8c020", "pink": "e07aa0", "white": "e8e4da",
    "violet": "7a3aa8", "blue": "3a50b8",
}  # fmt: skip


def flower(plan: Plan) -> None:
    """A flower close up before a background out of focus."""
    canvas, gen = plan.canvas, plan.canvas.choose
    back = terrain.any_colour(canvas, (*terrain.FOREST, *terrain.EARTH, "8fb0c8"))
    glow = np.clip(0.5 + 0.3 * canvas.noise(2.5, 0.5), 0.12, 1.0)
    canvas.light[:] = plan.light.shine(back + 0 * canvas.light, glow)
    canvas.blur(0.02)
    hue = str(gen.choice(tuple(_HUES)))
    petals = int(gen.integers(4, 10))
    radius = gen.uniform(0.3, 0.5) if plan.side == "centre" else gen.uniform(0.22, 0.34)
    if plan.manner == "okeefe":  # the flower fills the frame
        radius *= 1.75
    heart = colour(str(gen.choice(("2a1c14", "d8b020", "5a2030"))))
    plants.flower(canvas, plan.light, plan.x, gen.uniform(0.42, 0.58), radius, petals, colour(_HUES[hue]), heart)
    plan.subject, plan.horizon, plan.shallow = "flower", "none", True
    plan.details = {"hue": hue, "petals": captions.NUMBERS[petals]}


def _backdrop(plan: Plan) -> None:
    """Opens ground under a plain sky, or a wall of one colour: a stage for a large form."""
    canvas, gen = plan.canvas, plan.canvas.choose
    if gen.random() < 0.6:
        _sky(plan, False)
        terrain.hills(
            canvas, plan.light, plan.line, int(gen.integers(1, 4)), gen.uniform(0.1, 0.9), gen.uniform(0, 0.5)
        )
        return
    plan.horizon = "none"
    tone = terrain.any_colour(canvas, ("8fa6b8", "b8a890", "7a3c30", "d8cfc0", "40506a", "a8783c"))
    shade = 0.55 + 0.12 * canvas.noise(1.2, 0.4) + 0.02 * canvas.noise(20, 0.8)
    canvas.light[:] = plan.light.shine(tone + 0 * canvas.light, shade.astype(np.float32))


def hills(plan: Plan) -> None:
    """Smooth hills of a desert, in bands of red, rose and ochre."""
    gen = plan.canvas.choose
    if plan.horizon == "low":
        plan.horizon, plan.line = "middle", gen.uniform(*_HORIZONS["middle"])
    _sky(plan, False)
    count, cut = int(gen.integers(2, 6)), gen.uniform(0, 0.8)
    terrain.hills(plan.canvas, plan.light, plan.line, count, plan.across, cut)
    plan.subject = "hill"
    plan.details = {"hills": captions.NUMBERS[count], "cut": "gullied" if cut > 0.4 else "smooth"}


def forest(plan: Plan) -> None:
    """Trunks before woods out of focus; one thick trunk is the subject."""
    canvas, gen = plan.canvas, plan.canvas.choose
    season = str(gen.choice(("spring", "summer", "autumn", "winter")))
    leaf = {"spring": "9cb84a", "summer": "3f6a2c", "autumn": "c8862a", "winter": "a8b0b4"}[season]
    plants.foliage(canvas, plan.light, colour(leaf))
    canvas.blur(0.012)
    birch = bool(gen.random() < 0.6)
    bark = colour("d8d4c8" if birch else "5a4636")
    count = int(gen.integers(2, 10))
    plants.trunks(canvas, plan.light, 8, 0.84, 0.022, bark * 0.6, birch)
    canvas.light += 0.12 * (plan.light.horizon - canvas.light)
    canvas.blur(0.005)
    ground = colour({"spring": "6a8038", "summer": "4a5a30", "autumn": "8a5a2a", "winter": "d0d4da"}[season])
    terrain.plain(canvas, plan.light, 0.80, ground)
    plants.trunks(canvas, plan.light, count, 0.90, 0.045, bark, birch)
    plants.trunk(canvas, plan.light, plan.x, 0.97, gen.uniform(0.11, 0.16), plants.bark_texture(canvas, bark, birch))
    plan.subject, plan.horizon, plan.shallow = "trunk", "none", True
    plan.details = {"season": season, "bark": "pale birch" if birch else "dark pine"}


def waterfall(plan: Plan) -> None:
    """A fall of water over a cliff into a pool."""
    canvas, gen = plan.canvas, plan.canvas.choose
    plan.horizon, plan.line = "high", 0.22
    _sky(plan, False)
    top = (gen.uniform(0.14, 0.22) - 0.03 * profile(gen, canvas.width, 4)).astype(np.float32)
    stone.cliff(canvas, plan.light, top, terrain.any_colour(canvas, terrain.ROCK))
    foot = gen.uniform(0.74, 0.8)
    wide = gen.uniform(0.05, 0.11)
    start = float(top[min(int(plan.across * canvas.width), canvas.width - 1)])
    water.lake(canvas, plan.light, foot, 0.25)
    stone.waterfall(canvas, plan.light, plan.x, start, foot, wide)
    for place in (gen.uniform(0, 0.3), gen.uniform(0.7, 1.0)):
        size, dark = gen.uniform(0.08, 0.2), terrain.any_colour(canvas, terrain.ROCK) * 0.5
        stone.boulder(canvas, plan.light, place * canvas.aspect, 0.99, size, dark)
    plan.subject, plan.water = "waterfall", True
    plan.details = {"width": "broad" if wide > 0.08 else "slender"}


def rocks(plan: Plan) -> None:
    """A boulder among pebbles or on bare ground."""
    canvas, gen = plan.canvas, plan.canvas.choose
    if plan.horizon == "low":
        plan.horizon, plan.line = "high", gen.uniform(*_HORIZONS["high"])
    _sky(plan, False)
    beach = bool(gen.random() < 0.55)
    if beach:
        stone.pebbles(canvas, plan.light, plan.line)
    else:
        terrain.plain(canvas, plan.light, plan.line, terrain.any_colour(canvas, terrain.EARTH))
    count = int(gen.integers(1, 6))
    grey = terrain.ROCK if gen.random() < 0.6 else terrain.EARTH
    for depth in np.sort(gen.uniform(0.1, 0.5, count - 1)).tolist():
        y = plan.line + (1 - plan.line) * depth
        x, size = gen.uniform(0, canvas.aspect), 0.03 + 0.12 * depth
        stone.boulder(canvas, plan.light, x, y, size, terrain.any_colour(canvas, grey))
    y = plan.line + (1 - plan.line) * gen.uniform(0.45, 0.6)
    stone.boulder(canvas, plan.light, plan.x, y, gen.uniform(0.18, 0.28), terrain.any_colour(canvas, grey))
    plan.subject = "rock"
    plan.details = {"rocks": captions.NUMBERS[count], "ground": "pebbles" if beach else "bare earth"}


def clouds(plan: Plan) -> None:
    """A great cloud over a low plain, or a floor of small clouds seen from above."""
    canvas, gen = plan.canvas, plan.canvas.choose
    if gen.random() < 0.3:
        plan.horizon, plan.line = "high", gen.uniform(*_HORIZONS["high"])
        sky.sky(canvas, plan.light, plan.line)
        moon = plan.light.time in ("night", "dusk")
        plan.subject = "moon" if moon else "sun"
        sky.sun_or_moon(canvas, plan.light, plan.x, plan.line * 0.5, 0.035, moon)
        sky.cloud_floor(canvas, plan.light, plan.line)
        plan.details = {"floor": "yes"}
        return
    plan.horizon, plan.line = "low", gen.uniform(0.76, 0.86)
    sky.sky(canvas, plan.light, plan.line)
    size = gen.uniform(0.6, 1.0)
    sky.cumulus(canvas, plan.light, plan.x, plan.line - gen.uniform(0.06, 0.18), size)
    terrain.ridges(canvas, plan.light, plan.line, int(gen.integers(1, 4)), 0.05, None, 0.0)
    plan.subject = "cloud"


def adobe_wall(plan: Plan) -> None:
    """An adobe house with a doorway under a plain sky."""
    canvas, gen = plan.canvas, plan.canvas.choose
    plan.horizon, plan.line = "low", gen.uniform(0.76, 0.82)
    _sky(plan, False)
    terrain.plain(canvas, plan.light, plan.line, terrain.any_colour(canvas, terrain.EARTH), 0.5)
    hue = str(gen.choice(("blue", "black", "turquoise", "red")))
    door = colour({"blue": "2a4a9a", "black": "14100e", "turquoise": "2a9a92", "red": "9a2a1c"}[hue])
    beams = int(gen.integers(0, 8))
    albedo = terrain.any_colour(canvas, ("c88a5a", "d8a878", "b8704a", "e0c0a0"))
    adobe.building(canvas, plan.light, plan.x, plan.line + 0.03, albedo, door, beams)
    plan.subject = "doorway"
    plan.details = {"hue": hue, "beams": captions.NUMBERS[beams]}


def skull(plan: Plan) -> None:
    """A cow's skull before hills or a plain wall."""
    canvas, gen = plan.canvas, plan.canvas.choose
    _backdrop(plan)
    canvas.blur(0.006)
    size = gen.uniform(0.5, 0.7) if plan.side == "centre" else gen.uniform(0.36, 0.48)
    y, bone = gen.uniform(0.5, 0.56), terrain.any_colour(canvas, ("d8cdb8", "e4dccb", "c8b898"))
    bones.skull(canvas, plan.light, plan.x, y, size, bone)
    plan.subject, plan.shallow = "skull", True


def shell(plan: Plan) -> None:
    """A spiral shell on sand or before a plain ground."""
    canvas, gen = plan.canvas, plan.canvas.choose
    _backdrop(plan)
    canvas.blur(0.008)
    size = gen.uniform(0.24, 0.34) if plan.side == "centre" else gen.uniform(0.17, 0.24)
    hue = str(gen.choice(("red", "brown", "violet", "grey")))
    stripe = colour({"red": "b0432e", "brown": "7a4a24", "violet": "6a4a80", "grey": "6a6a6a"}[hue])
    bones.shell(canvas, plan.light, plan.x, gen.uniform(0.46, 0.56), size, colour("e8dcc8"), stripe)
    plan.subject, plan.shallow = "shell", True
    plan.details = {"hue": hue}


_KINDS: dict[str, Callable[[Plan], None]] = {
    "mountains": mountains, "lake": lake, "dunes": dunes, "hills": hills, "forest": forest, "tree": tree,
    "waterfall": waterfall, "rocks": rocks, "clouds": clouds, "adobe": adobe_wall, "flower": flower, "skull": skull,
    "shell": shell,
}  # fmt: skip
_CHOICE: dict[str | None, dict[str, float]] = {
    None: dict.fromkeys(_KINDS, 1.0),
    "ansel": {
        "mountains": 4, "lake": 4, "dunes": 2, "forest": 2, "tree": 2, "waterfall": 2, "rocks": 2, "clouds": 1,
        "shell": 1,
    },
    "okeefe": {"flower": 4, "hills": 3, "skull": 2, "adobe": 2, "shell": 1, "clouds": 2, "dunes": 1, "mountains": 1},
}  # fmt: skip
"""Weights of the kinds for each manner."""


def scene(seed: int, height: int, width: int, manner: str | None = None, kind: str | None = None) -> Scene:
    """Draws a scene with known content, the same from the same seed.

    `seed` >= 0; `height`, `width` >= 32 pixels; `manner` is None (colour, varied), "ansel" or "okeefe"; `kind`
    is one of `ATTRIBUTES["kind"]` or None for any that suits the manner. Raises ValueError for other words.
    """
    if manner is not None and manner not in manners.MANNERS:
        raise ValueError(f"Unknown manner {manner!r}: choose one of {', '.join(manners.MANNERS)}, or None.")
    if kind is not None and kind not in _KINDS:
        raise ValueError(f"Unknown kind of scene {kind!r}: choose one of {', '.join(_KINDS)}.")
    canvas = Canvas(seed, height, width)
    weights = _CHOICE[manner]
    total = sum(weights.values())
    drawn = str(canvas.choose.choice(tuple(weights), p=[weight / total for weight in weights.values()]))
    drawn = kind or drawn
    plan = _plan(canvas, manner)
    _KINDS[drawn](plan)
    pixels = manners.photograph(canvas, manner, plan.exposure)
    attributes = {
        "kind": drawn,
        "subject": plan.subject,
        "subject_side": plan.side,
        "horizon": plan.horizon,
        "time": plan.light.time,
        "weather": plan.light.weather,
        "light_side": "soft" if plan.soft else plan.light.side,
        "focus": "shallow" if plan.shallow else "deep",
        "palette": "monochrome" if manner == "ansel" else "colour",
        "water": "yes" if plan.water else "no",
    }
    return Scene(pixels, captions.caption(attributes, plan.details), attributes)
