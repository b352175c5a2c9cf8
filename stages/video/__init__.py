"""The video stage: clips of successive frames in, one embedding a clip out, by torchvision's video models.

This package imports nothing heavy by itself; ``stages.video.encoder`` needs torch and torchvision.
"""

from stages.video.config import RECIPES, Recipe, VideoConfig

__all__ = ["RECIPES", "Recipe", "VideoConfig"]
