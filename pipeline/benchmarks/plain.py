"""The plain scripts that one would write otherwise: what the benchmark compares with.

Each does the straightforward thing with the usual libraries at their default settings, in fp32, and no more work than
it has to. ``python -m pipeline.benchmarks.plain LIST OUT MODEL FRAMES`` is the extraction: it reads paths from LIST,
one a line, and leaves one ``.npy`` a video in OUT.
"""

from __future__ import annotations

import math
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


# --- the head ---


def train_vcs(
    folder: Path,
    words: torch.Tensor,
    mask: torch.Tensor,
    classes: torch.Tensor,
    *,
    scale: float,
    epochs: int,
    device: str,
    seed: int = 0,
) -> float:
    """Train VCS on ``train/<label>-*.npy`` [T, D] of a folder, and return its top-1 accuracy on ``test/``.

    ``words`` [C, L, D], ``mask`` bool [C, L], ``classes`` [C, D]. A DataLoader over files; the equations of the paper
    (arXiv 2301.00182) one by one with einsum; AdamW with a cosine.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader

    torch.manual_seed(seed)
    train = DataLoader(_files(folder / "train"), batch_size=128, shuffle=True)
    head = _plain_head(words, mask, classes, scale).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(train))
    for _ in range(epochs):
        for frames, labels in train:
            loss = cross_entropy(head(frames.to(device)), labels.to(device), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    right = count = 0
    with torch.no_grad():
        for frames, labels in DataLoader(_files(folder / "test"), batch_size=128):
            right += int((head(frames.to(device)).argmax(dim=1).cpu() == labels).sum())
            count += len(labels)
    return right / count


def _files(folder: Path) -> Any:
    import torch
    from torch.utils.data import Dataset

    class Files(Dataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.paths = sorted(folder.glob("*.npy"))

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            path = self.paths[index]
            return torch.from_numpy(np.load(path)).float(), int(path.name.split("-")[0])

    return Files()


def _plain_head(words: torch.Tensor, mask: torch.Tensor, classes: torch.Tensor, scale: float) -> torch.nn.Module:
    """VCS with what our head learns: a bottleneck adapter on the frames, class offsets, the scale."""
    import torch
    from torch import nn
    from torch.nn.functional import gelu, layer_norm, normalize

    class PlainVcs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            dim = classes.shape[1]
            self.down, self.up = nn.Linear(dim, 64), nn.Linear(64, dim)
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)
            self.offsets = nn.Parameter(torch.zeros_like(classes))
            self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
            self.register_buffer("words", normalize(words, dim=-1))
            self.register_buffer("mask", mask.float())
            self.register_buffer("classes", classes)

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            v = normalize(frames, dim=-1)
            v = normalize(v + self.up(gelu(self.down(layer_norm(v, v.shape[-1:])))), dim=-1)
            similarity = torch.einsum("btd,cld->bclt", v, self.words)
            saliency = (similarity / 0.01).softmax(dim=-1)
            saliency = torch.einsum("bclt,cl->bct", saliency, self.mask) / self.mask.sum(1).view(1, -1, 1)
            video = torch.einsum("bct,btd->bcd", saliency, v)
            logits = torch.einsum("bcd,cd->bc", video, normalize(self.classes + self.offsets, dim=-1))
            return self.log_scale.exp() * logits

    return PlainVcs()


def main(arguments: Sequence[str]) -> None:
    listing, out, model, wanted = arguments
    paths = [Path(line) for line in Path(listing).read_text().splitlines()]
    extract(paths, Path(out), model, int(wanted))


if __name__ == "__main__":
    main(sys.argv[1:])
