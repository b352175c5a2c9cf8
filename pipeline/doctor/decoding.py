"""Codecs, and whether the decoders give the right frames of a video that is rendered on the spot."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.doctor.check import FAIL, OK, WARN, Check, safely
from stages.decode import DecodeConfig, DecodeWorker
from stages.decode.backends import BACKENDS
from stages.types import VideoRef
from store.errors import VilpError

# What datasets come in: UCF101 and HMDB51 are MPEG-4 Part 2.
NEEDED_CODECS = ("mpeg4", "h264")
OTHER_CODECS = ("hevc", "vp8", "vp9", "av1", "mjpeg", "mpeg2video", "wmv2")
FILES = (("avi", "mpeg4"), ("mp4", "h264"))
NUM_FRAMES, TAKEN = 41, 16
_BITS, _SIDE = 6, 16


def codecs() -> Check:
    """Whether PyAV decodes what the datasets are coded with, and what users often have."""
    import av
    from av.codec import Codec

    def there(name: str) -> bool:
        try:
            return Codec(name, "r") is not None
        except Exception:  # PyAV has an error of its own for a name that FFmpeg does not know
            return False

    missing = [name for name in (*NEEDED_CODECS, *OTHER_CODECS) if not there(name)]
    found = f"PyAV {av.__version__}, FFmpeg's libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"
    if not missing:
        return Check("codecs", OK, f"{found}: {', '.join((*NEEDED_CODECS, *OTHER_CODECS))}")
    status = FAIL if set(missing) & set(NEEDED_CODECS) else WARN
    return Check(
        "codecs",
        status,
        f"{found} lacks {', '.join(missing)}",
        "install PyAV's wheel: pip install --force-reinstall av",
    )


def decoders(wanted: str) -> Iterator[Check]:
    """A line for each decoder; only a fault of the one that is ``wanted`` is a failure."""
    for backend in dict.fromkeys((*BACKENDS, wanted)):
        yield safely(f"decoder {backend}", lambda backend=backend: _decoder(backend, wanted))  # type: ignore[misc]


def numbered(number: int) -> np.ndarray:
    """A picture that says which it is, uint8 [H, W, 3]: the bits of its number as black and white columns."""
    bits = [(number >> bit) & 1 for bit in range(_BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 255, _SIDE)
    return np.repeat(np.broadcast_to(row, (4 * _SIDE, len(row)))[..., None], 3, axis=2).copy()


def number_of(picture: np.ndarray) -> int:
    """The number that a picture of ``numbered`` says, however coarsely it was compressed."""
    columns = picture[..., 0].reshape(picture.shape[0], _BITS, -1).mean(axis=(0, 2))
    return sum(1 << bit for bit, value in enumerate(columns) if value > 127)


def _decoder(backend: str, wanted: str) -> Check:
    from pipeline.datasets.synthetic.encode import write_video

    name = f"decoder {backend}"
    wrong, status = [], FAIL if backend == wanted else WARN
    with tempfile.TemporaryDirectory(prefix="vilp-doctor-") as folder:
        for suffix, codec in FILES:
            path = Path(folder) / f"numbered.{suffix}"
            pictures = [numbered(number) for number in range(NUM_FRAMES)]
            write_video(path, pictures, pictures[0].shape[1::-1], 25, codec)
            try:
                with DecodeWorker(DecodeConfig(backend=backend, num_frames=TAKEN)) as worker:
                    (outcome,) = worker([VideoRef(0, "numbered", str(path))]).results
            except VilpError as error:
                return Check(name, status, str(error), "another one: --decoder pyav")
            if outcome.video is None:
                wrong.append(f"{codec}: {outcome.failure.message if outcome.failure else 'no frames'}")
                continue
            expected = [number * NUM_FRAMES // TAKEN for number in range(TAKEN)]
            seen = [number_of(picture) for picture in outcome.video.frames]
            if seen != expected:
                false = sum(a != b for a, b in zip(seen, expected, strict=True))
                wrong.append(f"{codec}: {false} of {TAKEN} frames are others than those that were asked for")
    if wrong:
        return Check(name, status, "; ".join(wrong), "another one: --decoder pyav; or install again with: make setup")
    return Check(name, OK, f"the right {TAKEN} of {NUM_FRAMES} frames, of {' and '.join(codec for _, codec in FILES)}")
