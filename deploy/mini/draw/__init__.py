"""Drawn pictures: scenes with known content and textures with natural image statistics.

Everything is made from a seed by NumPy and OpenCV; no photograph is read.
"""

from deploy.mini.draw.scenes import ATTRIBUTES, Scene, scene
from deploy.mini.draw.textures import texture

__all__ = ["ATTRIBUTES", "Scene", "scene", "texture"]
