"""The light of a scene: where it comes from and what colour it has."""

from dataclasses import dataclass

import numpy as np

from deploy.mini.draw.canvas import Canvas, Colour, colour
from deploy.mini.draw.noise import FloatImage

TIMES = ("dawn", "day", "dusk", "night")
WEATHERS = ("clear", "cloudy", "hazy")

_SKIES: dict[str, list[tuple[str, str]]] = {  # zenith, horizon
    "dawn": [("6d8fc4", "f6cdb0"), ("8a8fc0", "f7b9b4"), ("7fa6c9", "fbe3b8")],
    "day": [("2f6fc0", "b9d6ef"), ("3f86cf", "d6e6ee"), ("5b94b8", "dfe7e2")],
    "dusk": [("38447a", "f09a5c"), ("4a3c70", "e8705a"), ("2f4d78", "f2b35e")],
    "night": [("0b1433", "2c4272"), ("101020", "30364e"), ("0a1d33", "27506b")],
}
_SUNS = {
    "dawn": (1.15, 0.86, 0.62),
    "day": (1.15, 1.07, 0.95),
    "dusk": (1.15, 0.66, 0.40),
    "night": (0.16, 0.20, 0.30),
}


@dataclass(frozen=True)
class Light:
    """Colours in linear light; `side` is where the light comes from, `toward` points to it (x right, y down)."""

    time: str
    weather: str
    side: str
    toward: tuple[float, float, float]
    zenith: Colour
    horizon: Colour
    sun: Colour
    ambient: Colour

    def shine(self, albedo: Colour | FloatImage, cosine: FloatImage) -> FloatImage:
        """Light a surface: albedo times (ambient + sun * cosine), [H, W, 3]."""
        return (albedo * (self.ambient + self.sun * cosine[..., None])).astype(np.float32)

    def haze(self, albedo: FloatImage, amount: float) -> FloatImage:
        """Mixes in the colour of the air, `amount` 0 (near) to 1 (lost in haze)."""
        return (albedo * (1 - amount) + self.horizon * amount).astype(np.float32)


def choose_light(canvas: Canvas, time: str | None = None, weather: str | None = None) -> Light:
    """Chooses the light of a picture, or completes what is given."""
    gen = canvas.choose
    time = time or str(gen.choice(TIMES, p=(0.2, 0.45, 0.22, 0.13)))
    weather = weather or str(gen.choice(WEATHERS, p=(0.4, 0.38, 0.22)))
    top, low = (colour(code) for code in _SKIES[time][int(gen.integers(3))])
    tint = gen.uniform(0.85, 1.15, 3).astype(np.float32)
    side = str(gen.choice(("left", "right")))
    slope = gen.uniform(0.5, 0.95)
    toward = (-slope if side == "left" else slope, -gen.uniform(0.3, 0.6), 0.55)
    zenith, horizon = top * tint, low * tint**0.5
    soft = {"clear": 0.0, "cloudy": 0.25, "hazy": 0.4}[weather]
    grey = np.float32(zenith.mean() * 0.6 + horizon.mean() * 0.4)
    zenith = zenith * (1 - soft) + grey * soft
    sun = np.asarray(_SUNS[time], np.float32) * tint**0.5 * np.float32(1 - 0.6 * soft)
    ambient = 0.30 * zenith + 0.22 * horizon + np.float32(0.02 + 0.15 * soft * horizon.mean())
    return Light(time, weather, side, toward, zenith.astype(np.float32), horizon.astype(np.float32), sun, ambient)
