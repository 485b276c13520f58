"""A picture in linear light that is painted from far to near."""

import cv2
import numpy as np

from deploy.mini.draw.noise import FloatImage, fractal

Colour = FloatImage


def colour(code: str) -> Colour:
    """Turns an sRGB code such as "c8643c" into linear light: float32 [3], 0..1."""
    encoded = np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    return linear(encoded)


def linear(encoded: FloatImage) -> FloatImage:
    """Decodes sRGB (0..1) to linear light (0..1), IEC 61966-2-1."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).astype(np.float32)


def encoded(light: FloatImage) -> FloatImage:
    """Encodes linear light (clipped to 0..1) as sRGB (0..1), IEC 61966-2-1."""
    light = np.clip(light, 0.0, 1.0)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)


def smoothstep(low: float, high: float, value: FloatImage) -> FloatImage:
    """Rises smoothly from 0 at `low` to 1 at `high`."""
    part = np.clip((value - low) / (high - low), 0.0, 1.0)
    risen: FloatImage = (part * part * (3 - 2 * part)).astype(np.float32)
    return risen


def rgb(red: float, green: float, blue: float) -> Colour:
    """Makes a colour in linear light: float32 [3]."""
    return np.array((red, green, blue), np.float32)


def soften(picture: FloatImage, sigma: float) -> FloatImage:
    """Blurs by a Gaussian of `sigma` pixels: float32 of the same shape."""
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma))


def relief(surface: FloatImage, direction: tuple[float, float, float], strength: float = 1.0) -> FloatImage:
    """Light a height map: Lambert's cosine, float32 [H, W], 0..1.

    `surface` is in arbitrary units, its gradient is taken over one frame height times `strength`; `direction`
    points to the light (x to the right, y down, z to the viewer) and need not be of unit length.
    """
    surface = np.ascontiguousarray(surface, np.float32)
    scale = strength * surface.shape[0] / 8.0
    across = cv2.Sobel(surface, cv2.CV_32F, 1, 0, ksize=3) * scale
    down = cv2.Sobel(surface, cv2.CV_32F, 0, 1, ksize=3) * scale
    x, y, z = np.asarray(direction, np.float32) / np.float32(np.linalg.norm(direction))
    cosine = (z - across * x - down * y) / np.sqrt(1 + across**2 + down**2)
    clipped: FloatImage = np.clip(cosine, 0.0, 1.0).astype(np.float32)
    return clipped


def inflate(mask: FloatImage, softness: float) -> FloatImage:
    """Makes a rounded height map from a silhouette: 0 outside, rising to 1 at `softness` frame heights inside."""
    height = mask.shape[0]
    distance = cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 3) / (height * softness)
    part = np.clip(distance, 0.0, 1.0)
    rounded = np.sqrt(np.maximum(1 - (1 - part) ** 2, 0.0)).astype(np.float32)
    return soften(rounded, max(0.6, height * softness * 0.08))


class Canvas:
    """Linear-light pixels, coordinates, and the two generators of a picture.

    `choose` decides what is drawn (the same at every size), `grain` the fine texture. Coordinates: `x` [1, W]
    runs 0..aspect and `y` [H, 1] 0..1 downwards, so that a circle is round.
    """

    def __init__(self, seed: int, height: int, width: int) -> None:
        """Starts a black picture of `height` x `width` pixels."""
        first, second = np.random.SeedSequence(seed).spawn(2)
        self.choose = np.random.default_rng(first)
        self.grain = np.random.default_rng(second)
        self.height, self.width = height, width
        self.aspect = width / height
        self.x = ((np.arange(width, dtype=np.float32) + 0.5) / height)[None, :]
        self.y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]
        self.light: FloatImage = np.zeros((height, width, 3), np.float32)

    def noise(self, cells: float = 3.0, gain: float = 0.55, stretch: float = 1.0, finest: float = 1.0) -> FloatImage:
        """Draws fractal noise of the picture's size (see `noise.fractal`)."""
        return fractal(self.grain, self.height, self.width, cells, gain, stretch, finest)

    def ground(self, horizon: float, cells: float = 10.0, gain: float = 0.7, across: float = 1.0) -> FloatImage:
        """Noise on a plane that recedes to `horizon` (0 top..1 bottom), fading where it is too fine to see.

        Returns float32 [H, W], mean about 0; `across` > 1 draws features out to the sides.
        """
        side = 256 if self.height < 300 else 768
        tile = fractal(self.grain, side, side, cells, gain)
        far = 1.0 / (np.maximum(self.y - horizon, 0.0) + 0.035)
        u = (self.x - self.aspect / 2) * far * np.float32(0.22 * side / across) + 0.37 * side
        v = far * np.float32(0.30 * side) + 0 * self.x
        seen = cv2.remap(
            tile, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        return seen * smoothstep(24.0, 3.0, far)

    def paint(self, mask: FloatImage, paint: FloatImage) -> None:
        """Lays `paint` ([3] or [H, W, 3], linear light) over the picture where `mask` ([H, W], 0..1) says."""
        self.light += mask[..., None] * (paint - self.light)

    def below(self, line: FloatImage) -> FloatImage:
        """Mask what lies below a line [W] of heights (0 top..1 bottom), softened over about one pixel."""
        return np.clip((self.y - line[None, :]) * self.height + 0.5, 0.0, 1.0).astype(np.float32)

    def disc(self, x: float, y: float, radius: float, soft: float = 0.0) -> FloatImage:
        """Mask a disc at (`x`, `y`) of `radius`, all in frame heights; `soft` widens its edge."""
        edge = max(soft, 1.0 / self.height)
        distance = np.sqrt((self.x - x) ** 2 + (self.y - y) ** 2)
        return smoothstep(radius + edge, radius - edge, distance)

    def shape(self, *outlines: FloatImage) -> FloatImage:
        """Mask the union of closed outlines, each [N, 2] of (x, y) in frame heights, with smooth edges."""
        mask = np.zeros((self.height, self.width), np.uint8)
        for outline in outlines:
            points = np.round(outline * self.height * 16 - 8).astype(np.int32)
            cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, 4)
        return mask.astype(np.float32) / np.float32(255)

    def blur(self, radius: float) -> None:
        """Throws what was painted so far out of focus, by a Gaussian of `radius` frame heights."""
        if radius * self.height > 0.3:
            self.light = soften(self.light, radius * self.height)
