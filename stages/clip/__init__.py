"""The CLIP stage: frames of clips in, frame embeddings and patch tokens out; class names in, word embeddings out.

This package imports nothing heavy by itself; ``stages.clip.encoder`` needs torch and open_clip.
"""

from stages.clip.config import PRECISIONS, TOKENS, ClipConfig

__all__ = ["PRECISIONS", "TOKENS", "ClipConfig"]
