"""The plain scripts that one would write otherwise: what the benchmark compares with.

Each does the straightforward thing with the usual libraries at their default settings, in fp32, and no more work than
it has to. ``python -m pipeline.benchmarks.plain LIST OUT MODEL FRAMES`` is the extraction: it reads paths from LIST,
one a line, and leaves one ``.npy`` a video in OUT.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def spread(num_frames: int, wanted: int) -> list[int]:
    """``wanted`` positions, evenly spread over ``num_frames``."""
    return [i * num_frames // wanted for i in range(wanted)]


# --- decoding: uint8 [T, H, W, 3] ---


def decode_every_frame(path: Path) -> list[np.ndarray]:
    """All frames of a file in RGB, with PyAV."""
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def decode_naive(path: Path, wanted: int) -> np.ndarray:
    """PyAV: convert every frame, then pick."""
    frames = decode_every_frame(path)
    return np.stack([frames[i] for i in spread(len(frames), wanted)])


def decode_batch(path: Path, wanted: int) -> np.ndarray:
    """decord: ask for the frames by number, in one call."""
    import decord

    reader = decord.VideoReader(str(path))
    return reader.get_batch(spread(len(reader), wanted)).asnumpy()


def decode_sequential(path: Path, wanted: int) -> np.ndarray:
    """decord: read one frame after the other and keep some."""
    import decord

    reader = decord.VideoReader(str(path))
    chosen = spread(len(reader), wanted)
    frames = {i: reader.next().asnumpy() for i in range(chosen[-1] + 1)}
    return np.stack([frames[i] for i in chosen])


def have_decord() -> bool:
    """decord has wheels for 64-bit x86 Linux only."""
    from importlib.util import find_spec

    return find_spec("decord") is not None


# --- CLIP ---


def load_clip(name: str) -> tuple[torch.nn.Module, Any]:
    """A CLIP model in fp32 with the random weights that the stage has too, and open_clip's own transform for it."""
    import torch
    from open_clip.transform import image_transform

    from stages.clip.models import build_model, resolve_model

    resolved = resolve_model(name, "none")
    model = build_model(resolved, None, seed=0).to("cuda" if torch.cuda.is_available() else "cpu")
    mean, std = resolved.preprocess["mean"], resolved.preprocess["std"]
    return model, image_transform(resolved.image_size, is_train=False, mean=mean, std=std)


def encode_video(model: Any, transform: Any, frames: np.ndarray) -> np.ndarray:
    """Embeddings float32 [T, D] of one video: Pillow's transform frame by frame, then one forward pass."""
    import torch
    from PIL import Image

    images = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
    with torch.no_grad():
        return model.encode_image(images.to(model.logit_scale.device)).cpu().numpy()


def extract(paths: Sequence[Path], out: Path, model_name: str, wanted: int) -> None:
    """Decode, transform and encode video by video; one ``.npy`` each."""
    model, transform = load_clip(model_name)
    decode = decode_batch if have_decord() else decode_naive
    out.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        np.save(out / f"{number:05d}-{path.stem}.npy", encode_video(model, transform, decode(path, wanted)))


def main(arguments: Sequence[str]) -> None:
    """Extract the files that a list names: ``LIST OUT MODEL FRAMES``."""
    listing, out, model, wanted = arguments
    paths = [Path(line) for line in Path(listing).read_text().splitlines()]
    extract(paths, Path(out), model, int(wanted))


if __name__ == "__main__":
    main(sys.argv[1:])
