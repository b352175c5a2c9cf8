"""How the embedded CLIP is trained."""

from __future__ import annotations

from dataclasses import dataclass

# Of the renderer: the synthetic set has seed 0 and other subjects, none of whom is seen in training.
TRAINING_SEED = 1000


@dataclass(frozen=True)
class StickConfig:
    """``seed`` draws weights, captions and the order of frames; ``subjects`` perform every class twice, as in the
    synthetic set, and ``frames_a_clip`` random moments are taken of each clip."""

    subjects: int = 100
    frames_a_clip: int = 8
    steps: int = 4000
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: int = 150
    seed: int = 0
