"""Heatmaps as pictures, and their CLIP embeddings, against brute force, Pillow and open_clip itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from stages.clip import ClipConfig
from stages.clip.models import build_model, resolve_model
from stages.clip.preprocess import Preprocess
from stages.geometry import VIEWS, crop_of, share_inside
from stages.pose import COCO_LIMBS, Persons, PoseConfig
from stages.pose.heatmap_clip import SIGMA, HeatmapConfig, HeatmapEncoder
from stages.pose.stage import PoseStage
from stages.types import Clip, DecodedVideo, VideoFailure, VideoRef
from store.errors import UsageError

TINY = ClipConfig(
    model="tiny", pretrained="none", num_frames=2, tokens=(), batch_size=4, device="cpu", precision="fp32"
)
WIDTH, HEIGHT, SIZE = 320, 240, 224


def encoder(**changes: object) -> HeatmapEncoder:
    settings = {"clip": TINY, **changes}
    return HeatmapEncoder(HeatmapConfig(**settings))  # type: ignore[arg-type]


def people(frames: int, persons: int, seed: int = 0) -> np.ndarray:
    """Keypoints [T, P, 17, 3]; some outside the frame, a third not seen."""
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(-0.2, 1.2, (frames, persons, 17, 3)).astype(np.float32)
    keypoints[..., 2] = (rng.random((frames, persons, 17)) - 0.33).clip(0)
    return keypoints


def brute_force(persons: np.ndarray, view: str, row: int, column: int, limbs: bool) -> float:
    """One pixel of the picture of one frame's persons [P, 17, 3]: where the resized frame's pixels lie, by hand."""
    crop = crop_of(view, WIDTH, HEIGHT, SIZE)
    column = SIZE - 1 - column if crop.mirrored else column
    here = np.array([crop.left + column + 0.5, crop.top + row + 0.5])
    best = 0.0
    for person in persons.astype(np.float64):
        places = person[:, :2] * (crop.width, crop.height)
        for a, b in COCO_LIMBS if limbs else [(joint, joint) for joint in range(17)]:
            along = places[b] - places[a]
            length = float(along @ along)
            share = min(max(float((here - places[a]) @ along) / length, 0.0), 1.0) if length else 0.0
            distance = here - places[a] - share * along
            confidence = min(person[a, 2], person[b, 2])
            best = max(best, confidence * math.exp(-float(distance @ distance) / (2 * (SIGMA * SIZE) ** 2)))
    return best


@pytest.mark.parametrize("drawing", ["joints", "limbs"])
def test_pictures_equal_brute_force_in_every_view(drawing: str) -> None:
    views = VIEWS
    made = encoder(clip=ClipConfig(**{**vars(TINY), "views": views}), drawing=drawing)
    keypoints = people(2, 3)
    pictures = made.render(keypoints, WIDTH, HEIGHT)
    assert pictures.shape == (len(views), 2, SIZE, SIZE)
    assert pictures.dtype == np.uint8
    rng = np.random.default_rng(1)
    for number, view in enumerate(views):
        lit = np.argwhere(pictures[number, 1] > 20)
        for row, column in [*rng.choice(lit, 25), *rng.integers(0, SIZE, (15, 2))]:
            want = brute_force(keypoints[1], view, int(row), int(column), drawing == "limbs")
            assert pictures[number, 1, row, column] == pytest.approx(want * 255 - 0.5, abs=0.55)


@pytest.mark.parametrize("view", VIEWS)
def test_a_joint_is_drawn_where_the_model_sees_it(view: str) -> None:
    """A bright spot in the frame goes the way of the frame; the joint on it is drawn where the spot comes out."""
    frame = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
    frame[0, 150:155, 180:185] = 255
    keypoints = np.zeros((1, 1, 17, 3), np.float32)
    keypoints[0, 0, 9] = 182.5 / WIDTH, 152.5 / HEIGHT, 1
    seen = next(Preprocess(SIZE, (0, 0, 0), (1, 1, 1), "bilinear")(torch.from_numpy(frame), [view]))[0, 0]
    made = encoder(clip=ClipConfig(**{**vars(TINY), "num_frames": 1, "views": (view,)}))
    picture = torch.from_numpy(made.render(keypoints, WIDTH, HEIGHT)[0, 0]).float()
    for axis in (0, 1):
        centres = [float((i.sum(1 - axis) * torch.arange(SIZE)).sum() / i.sum()) for i in (seen, picture)]
        assert centres[0] == pytest.approx(centres[1], abs=0.3)


@pytest.mark.parametrize("view", VIEWS)
def test_imported_maps_are_cut_like_the_frame(view: str) -> None:
    """Against Pillow: stretched to the resized frame, whatever their own aspect, and cut as the frame is."""
    rng = np.random.default_rng(0)
    maps = [np.asarray(Image.fromarray(rng.random((12, 14), np.float32)).resize((216, 184), 2)).clip(0, 1)]
    made = encoder(clip=ClipConfig(**{**vars(TINY), "views": (view,)}))
    (picture,) = made.cut(maps, WIDTH, HEIGHT)[0]
    crop = crop_of(view, WIDTH, HEIGHT, SIZE)
    resized = Image.fromarray(maps[0]).resize((crop.width, crop.height), Image.Resampling.BILINEAR)
    want = np.asarray(resized)[crop.top : crop.top + SIZE, crop.left : crop.left + SIZE]
    want = want[:, ::-1] if crop.mirrored else want
    assert np.abs(picture.astype(int) - (want * 255).astype(int)).max() <= 1


def test_embeddings_are_open_clips_own() -> None:
    made = encoder(clip=ClipConfig(**{**vars(TINY), "views": ("center", "flip")}))
    made.setup()
    pictures = [made.render(people(2, 2, seed), WIDTH, HEIGHT) for seed in range(3)]
    found = made.encode(pictures)
    assert found.shape == (3, 2, 2, 64)
    assert found.dtype == np.float16
    model = build_model(resolve_model("tiny", "none"), None, 0).eval()
    preprocess = resolve_model("tiny", "none").preprocess
    transform = open_clip.image_transform(SIZE, is_train=False, mean=preprocess["mean"], std=preprocess["std"])
    with torch.no_grad():
        for clip, view, frame in np.ndindex(3, 2, 2):
            image = transform(Image.fromarray(pictures[clip][view, frame]).convert("RGB"))
            want = model.encode_image(image[None])[0].numpy()
            np.testing.assert_allclose(found[clip, view, frame], want, atol=2e-3 * np.abs(want).max())
    assert np.abs(found[0, 0] - found[1, 0]).max() > 1e-3


# The stage


class Walker:
    """One person, further right in every frame; nobody in clips called ``empty``; no answer for ``lost``."""

    name = "walker"

    def __init__(self, config: PoseConfig) -> None:
        pass

    def record(self) -> dict[str, str]:
        return {"backend": "walker"}

    def setup(self) -> None:
        pass

    def __call__(self, clips: list[Clip]) -> list[list[Persons] | VideoFailure]:
        return [self._clip(clip) for clip in clips]

    def _clip(self, clip: Clip) -> list[Persons] | VideoFailure:
        if clip.ref.video_id == "lost":
            return VideoFailure("pose-unmatched", "lost: why")
        if clip.ref.video_id == "empty":
            return [Persons.nobody() for _ in clip.video.frames]
        return [self._person(10 * time) for time in range(len(clip.video.frames))]

    def _person(self, x: int) -> Persons:
        keypoints = np.full((1, 17, 3), (x, 60, 0.9), np.float32)
        return Persons(keypoints, np.array([[x, 50, x + 20, 80, 0.9]], np.float32))


def clip(slot: int, video_id: str, frames: int = 6) -> Clip:
    places = np.arange(frames, dtype=np.int32)
    pictures = np.zeros((frames, HEIGHT // 2, WIDTH // 2, 3), np.uint8)
    return Clip(
        VideoRef(slot, video_id, ""), DecodedVideo(pictures, places, places / 25, frames, frames, 25, WIDTH, HEIGHT)
    )


def stage(**config: object) -> PoseStage:
    settings = {"backend": f"{__name__}:Walker", "num_frames": 6, "heatmap": HeatmapConfig(TINY), **config}
    made = PoseStage(PoseConfig(**settings))  # type: ignore[arg-type]
    made.setup()
    return made


def test_the_stage_embeds_the_frames_of_clip() -> None:
    made = stage()
    output = made([clip(0, "a"), clip(1, "lost"), clip(2, "empty")])
    spec = made.modality().arrays["heatmap_clip"]
    assert (spec.shape, spec.dtype, spec.dims) == ((1, 2, 64), "float16", ("view", "frame", "embed"))
    values = output.arrays["heatmap_clip"]
    assert values.shape == (3, 1, 2, 64)
    assert list(output.failures) == [1]
    assert np.isnan(values[1]).all()
    # Frames 0 and 3 of the six: the same picture drawn from what is stored.
    direct = HeatmapEncoder(HeatmapConfig(TINY))
    direct.setup()
    drawn = direct.render(output.arrays["keypoints"][0, ::3], WIDTH, HEIGHT)
    np.testing.assert_array_equal(values[0], direct.encode([drawn])[0])
    # Nobody is a black picture, not nothing.
    np.testing.assert_array_equal(values[2], direct.encode([np.zeros((1, 2, SIZE, SIZE), np.uint8)])[0])
    alone = made([clip(0, "a")]).arrays["heatmap_clip"]
    np.testing.assert_array_equal(alone[0], values[0])


def test_the_id_follows_how_heatmaps_are_drawn() -> None:
    plain = stage(heatmap=None).modality()
    assert "heatmap_clip" not in plain.arrays
    drawings = (
        HeatmapConfig(TINY),
        HeatmapConfig(TINY, drawing="limbs"),
        HeatmapConfig(TINY, sigma=0.05),
        HeatmapConfig(ClipConfig(**{**vars(TINY), "views": ("squash",)})),
        HeatmapConfig(ClipConfig(**{**vars(TINY), "seed": 1})),
    )
    ids = {plain.id, *(stage(heatmap=drawing).modality().id for drawing in drawings)}
    assert len(ids) == len(drawings) + 1
    assert stage(threads=1).modality().id == stage().modality().id


def test_heatmap_files_as_published(tmp_path: Path) -> None:
    """One array a frame, every tenth frame, counted from 1, in the estimator's aspect and not the frame's."""
    rng = np.random.default_rng(0)
    maps = {number: rng.random((46, 54), np.float32) for number in (1, 11, 21)}
    for video in ("Class/v", "Class/short"):
        (tmp_path / "maps" / video).mkdir(parents=True)
        for number, values in maps.items():
            np.save(tmp_path / "maps" / video / f"img_{number:05d}.npy", values)
    np.save(tmp_path / "maps/Class/short/img_00021.npy", np.zeros((2, 3, 4)))
    places = (np.arange(6) * 28 // 6).astype(np.int32)
    pictures = np.zeros((6, 60, 80, 3), np.uint8)
    video = DecodedVideo(pictures, places, places / 25, 28, 28, 25, WIDTH, HEIGHT)
    settings = {"backend": "precomputed", "config": str(tmp_path / "maps"), "num_frames": 6}
    with pytest.raises(UsageError, match="heatmaps in which no joint can be told; add --heatmap joints"):
        PoseStage(PoseConfig(**settings))  # type: ignore[arg-type]
    made = PoseStage(PoseConfig(**settings, heatmap=HeatmapConfig(TINY)))  # type: ignore[arg-type]
    made.setup()
    assert list(made.modality().arrays) == ["heatmap_clip"]
    assert made.modality().record["heatmap"]["drawing"] == "imported"
    ids = ("Class/v", "Class/short", "Class/none")
    output = made([Clip(VideoRef(slot, name, ""), video) for slot, name in enumerate(ids)])
    # Frames 0 and 14 of 28; the nearest maps are those of frames 0 and 10.
    direct = HeatmapEncoder(HeatmapConfig(TINY))
    direct.setup()
    want = direct.encode([direct.cut([maps[1], maps[11]], WIDTH, HEIGHT)])
    np.testing.assert_array_equal(output.arrays["heatmap_clip"][0], want[0])
    assert {slot: failure.kind for slot, failure in output.failures.items()} == {2: "pose-unmatched"}
    np.save(tmp_path / "maps/Class/short/img_00011.npy", np.zeros((2, 3, 4)))
    assert "allowed: numbers [height, width]" in made([Clip(VideoRef(1, "Class/short", ""), video)]).failures[1].message


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"drawing": "bones"}, "heatmap is 'bones'; allowed: joints, limbs"), ({"sigma": 0.0}, "sigma is 0.0")],
)
def test_drawings_are_checked(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        HeatmapConfig(TINY, **changes)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="num_frames is 5; allowed: a multiple"):
        PoseConfig(num_frames=5, heatmap=HeatmapConfig(TINY))


# What a view cuts off


def test_share_inside_counts_joints_that_are_seen() -> None:
    keypoints = np.zeros((1, 1, 1, 17, 3), np.float32)
    keypoints[..., :4, 2] = 0.5
    keypoints[..., 0, :2] = 0.5, 0.5
    keypoints[..., 1, :2] = 0.01, 0.5  # cut off by ``center`` in a wide frame
    keypoints[..., 2, :2] = 0.5, 0.01  # cut off by ``center256`` alone
    keypoints[..., 3, :2] = -0.1, 0.5  # outside the frame itself: no view has it
    sizes = np.array([[WIDTH, HEIGHT]])
    shares = {view: share_inside(keypoints, view, sizes, SIZE) for view in VIEWS}
    assert shares == {"center": 0.5, "center256": 0.25, "squash": 0.75, "flip": 0.5}
    assert share_inside(keypoints, "center", np.array([[240, 240]]), SIZE) == 0.75
    assert math.isnan(share_inside(keypoints * 0, "center", sizes, SIZE))
