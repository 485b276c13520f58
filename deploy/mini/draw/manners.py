"""How a scene becomes a photograph: exposure, grading, tone curve, vignette, grain."""

import numpy as np
from numpy.typing import NDArray

from deploy.mini.draw.canvas import Canvas, encoded, linear, rgb, soften
from deploy.mini.draw.noise import FloatImage

MANNERS = ("ansel", "okeefe")
"""Manners beside plain colour photography (None)."""


def photograph(canvas: Canvas, manner: str | None, exposure: float) -> NDArray[np.uint8]:
    """Exposes, tones and encodes the picture: sRGB uint8 [H, W, 3].

    `exposure` is the mean of the linear luminance aimed at (0.18 is middle grey). "ansel" is monochrome through
    a red filter and spread over all zones from black to white; "okeefe" smooth, clear and warm; None varies.
    """
    light = np.maximum(canvas.light, 0.0)
    if manner == "ansel":
        return _monochrome(canvas, light, exposure)
    light = light * np.float32(exposure / max(float(light.mean()), 1e-4))
    gen = canvas.choose
    toned = light * (1 + light / 9.0) / (1 + light)  # Reinhard's curve, white at 3
    toned = toned * 1.25
    display = encoded(toned)
    if manner == "okeefe":
        saturation, contrast, grain = 1.35, 1.05, 0.006
        display *= rgb(1.03, 1.0, 0.95)
    else:
        saturation, contrast = gen.uniform(0.55, 1.35), gen.uniform(0.85, 1.25)
        grain = gen.choice((0.003, 0.008, 0.016))
        display *= gen.uniform(0.95, 1.05, 3).astype(np.float32)
    grey = display.mean(axis=2, keepdims=True)
    display = grey + (display - grey) * np.float32(saturation)
    display = 0.45 + (display - 0.45) * np.float32(contrast)
    return _finish(canvas, display, grain)


def _monochrome(canvas: Canvas, light: FloatImage, exposure: float) -> NDArray[np.uint8]:
    red_filter = rgb(0.85, 0.2, -0.05)
    grey = np.maximum(light @ red_filter, 0.0)
    grey = encoded(grey * np.float32(0.20 / max(float(grey.mean()), 1e-4)) / (1 + 0.3 * grey))
    low, high = np.quantile(grey[::2, ::2], (0.004, 0.995))
    zones = np.clip((grey - low) / max(float(high - low), 0.05), 0, 1.02)
    middle = float(np.clip(zones.mean(), 0.05, 0.95))
    aim = 0.30 + 0.55 * exposure
    zones = np.maximum(zones, 0) ** np.float32(np.clip(np.log(aim) / np.log(middle), 0.6, 1.7))
    zones = zones + np.float32(0.10) * np.sin((zones - 0.5) * 2 * np.pi) / np.pi  # more separation in the middle
    local = zones - soften(zones, canvas.height * 0.03)
    zones = zones + 0.25 * local  # dodging and burning
    return _finish(canvas, np.repeat(zones[..., None], 3, axis=2), 0.010)


def _finish(canvas: Canvas, display: FloatImage, grain: float) -> NDArray[np.uint8]:
    centre = (canvas.x / canvas.aspect - 0.5) ** 2 + (canvas.y - 0.5) ** 2
    vignette = 1 - 0.22 * centre[..., None]
    noise = canvas.grain.standard_normal(canvas.light.shape[:2], dtype=np.float32) * np.float32(grain)
    return np.clip((display * vignette + noise[..., None]) * 255 + 0.5, 0, 255).astype(np.uint8)


def luminance(pixels: NDArray[np.uint8]) -> FloatImage:
    """Linear luminance (Rec. 709) of sRGB pixels [H, W, 3]: float32 [H, W], 0..1."""
    return (linear(pixels.astype(np.float32) / 255) @ rgb(0.2126, 0.7152, 0.0722)).astype(np.float32)
