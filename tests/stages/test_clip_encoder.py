"""The CLIP stage as a whole, on the tiny random model."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import stages.clip.encoder as encoder_module
from stages.clip.config import ClipConfig
from stages.clip.encoder import ClipEncoder
from stages.precision import has_fast_bf16
from stages.types import Clip, DecodedVideo, VideoRef
from store.errors import UsageError
from store.schema import Modality

TINY = ClipConfig(model="tiny", pretrained="none", num_frames=4, precision="fp32", device="cpu", threads=1)


def make_clip(seed: int, num_frames: int = 4, height: int = 120, width: int = 160) -> Clip:
    generator = np.random.default_rng(seed)
    frames = generator.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    index = np.arange(num_frames, dtype=np.int32)
    video = DecodedVideo(frames, index, index / 25, num_frames, num_frames, 25.0, width, height)
    return Clip(VideoRef(seed, f"video-{seed}", f"{seed}.avi"), video)


def ready(**changes: object) -> ClipEncoder:
    encoder = ClipEncoder(dataclasses.replace(TINY, **changes))  # type: ignore[arg-type]
    encoder.setup()
    return encoder


@pytest.mark.parametrize("changes", [{}, {"tokens": ()}, {"tokens": ("penult",), "views": ("squash", "flip")}])
def test_arrays_are_what_the_modality_says(changes: dict[str, object]) -> None:
    encoder = ready(**changes)
    arrays, specs = encoder([make_clip(1), make_clip(2, height=200, width=100)]), encoder.modality().arrays
    assert list(arrays) == list(specs)
    for name, spec in specs.items():
        assert arrays[name].shape == (2, *spec.shape)
        assert arrays[name].dtype == spec.dtype
        assert np.isfinite(arrays[name]).all()
    assert {name: a.shape[0] for name, a in encoder([]).items()} == dict.fromkeys(specs, 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_clip_gives_the_same_bytes_in_any_company(precision: str) -> None:
    encoder = ready(precision=precision, batch_size=8)
    clips = [make_clip(seed) for seed in range(5)]
    together = encoder(clips)
    for name, array in together.items():
        alone = np.concatenate([encoder([clip])[name] for clip in clips])
        assert alone.tobytes() == array.tobytes()
        parted = np.concatenate([encoder(clips[:3])[name], encoder(clips[3:])[name]])
        assert parted.tobytes() == array.tobytes()
        assert encoder(clips[::-1])[name][::-1].tobytes() == array.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_real_size_model_gives_the_same_bytes_at_any_position(precision: str) -> None:
    encoder = ready(model="ViT-B-32", num_frames=1, precision=precision, threads=2)
    clips = [make_clip(seed, 1) for seed in range(32)]
    rows = {name: array[0] for name, array in encoder(clips).items()}
    for position in (1, 17, 31):
        others = [make_clip(100 + seed, 1) for seed in range(32)]
        others[position] = clips[0]
        for name, array in encoder(others).items():
            assert array[position].tobytes() == rows[name].tobytes()


def test_more_threads_give_the_same_bytes() -> None:
    clips = [make_clip(seed) for seed in range(9)]
    single, several = ready(batch_size=4)(clips), ready(batch_size=4, threads=3)(clips)
    for name, array in single.items():
        assert several[name].tobytes() == array.tobytes()


def test_pose_frames_are_thinned_to_the_clip_frames() -> None:
    encoder, clip = ready(), make_clip(3, num_frames=12)
    thinned = dataclasses.replace(clip, video=dataclasses.replace(clip.video, frames=clip.video.frames[::3]))
    for name, array in encoder([clip]).items():
        np.testing.assert_array_equal(array, encoder([thinned])[name])
    with pytest.raises(ValueError, match="video-4 has 6 frames; allowed: multiples of 4"):
        encoder([make_clip(4, num_frames=6)])


def test_views_lie_side_by_side() -> None:
    both, clip = ready(views=("center", "flip")), make_clip(5)
    mirrored = dataclasses.replace(clip, video=dataclasses.replace(clip.video, frames=clip.video.frames[:, :, ::-1]))
    arrays, single = both([clip]), ready()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array[:, :1], single([clip])[name])
        np.testing.assert_allclose(array[:, 1:], single([mirrored])[name], atol=0.02, rtol=0.02)


def test_random_weights_come_from_the_seed() -> None:
    clip = [make_clip(6)]
    first = ready()(clip)["cls"]
    torch.manual_seed(99)
    np.testing.assert_array_equal(ready()(clip)["cls"], first)
    assert np.abs(ready(seed=1)(clip)["cls"] - first).max() > 0.01


def test_reduced_precision_stays_close() -> None:
    clips = [make_clip(7)]
    full = ready()(clips)
    for precision in ("bf16", "fp16"):
        for name, array in ready(precision=precision)(clips).items():
            one, two = (torch.from_numpy(a).float().flatten(0, -2) for a in (array, full[name]))
            assert torch.cosine_similarity(one, two).min() >= 0.999


def test_modality_builds_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "build_model", lambda *_: pytest.fail("a model was built"))
    modality = ClipEncoder(TINY).modality()
    assert modality.path.startswith("clip/tiny-random-")
    assert modality == Modality.from_dict(modality.to_dict())
    assert modality.record["activation"] == "gelu"
    assert modality.record["weights"] == {"seed": 0}
    assert modality.record["grid"] == 7


def test_the_id_follows_what_changes_the_numbers_and_nothing_else() -> None:
    def identity(**changes: object) -> str:
        return ClipEncoder(dataclasses.replace(TINY, **changes)).modality().id  # type: ignore[arg-type]

    same = [{}, {"batch_size": 8}, {"threads": 2}, {"device": "auto"}, {"tokens": ("penult", "value")}]
    assert len({identity(**changes) for changes in same}) == 1
    other = [{"seed": 1}, {"precision": "bf16"}, {"views": ("flip",)}, {"num_frames": 8}, {"tokens": ("value",)}]
    assert len({identity(), *(identity(**changes) for changes in other)}) == 6


def test_the_record_says_where_the_last_block_is_computed_for_the_class_token_alone() -> None:
    """And only there: groups whose numbers are those of earlier versions keep their ids."""
    for tokens, said in (((), "class token"), (("value", "penult"), "class token"), (("value", "last"), None)):
        record = ClipEncoder(dataclasses.replace(TINY, tokens=tokens)).modality().record
        assert record.get("last_block") == said


def test_environment_names_what_may_differ_in_the_last_bits() -> None:
    environment = ClipEncoder(TINY).environment()
    assert "threads" not in environment  # more threads give the same bytes
    assert environment["batch_size"] == 32
    assert environment["torch"] == torch.__version__


def test_auto_precision_is_resolved_before_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for precision in ("bf16", "fp32"):
        monkeypatch.setattr(encoder_module, "resolve_precision", lambda *_, precision=precision: precision)
        encoder = ClipEncoder(dataclasses.replace(TINY, precision="auto"))
        assert encoder.config.precision == encoder.modality().record["precision"] == precision
        assert pickle.loads(pickle.dumps(encoder.config)) == encoder.config


@pytest.mark.parametrize(
    ("vendor", "flags", "fast"),
    [
        ("GenuineIntel", "avx512f amx_tile amx_bf16", True),
        ("GenuineIntel", "avx512f avx512_bf16", False),
        ("AuthenticAMD", "avx512f avx512_bf16", True),
        ("AuthenticAMD", "avx2 fma", False),
        (None, None, False),
    ],
)
def test_bf16_is_taken_where_the_cpu_is_fast_in_it(tmp_path: Path, vendor: str, flags: str, fast: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if vendor:
        cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags} sse\n\n" * 2)
    assert has_fast_bf16(cpuinfo) is fast


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": ()}, "views is empty; give at least one of: center"),
        ({"views": ("center", "center")}, "views is center,center, with a value twice"),
        ({"views": ("left",)}, "views is 'left'; allowed: center, center256, squash, flip"),
        ({"tokens": ("key",)}, "tokens is 'key'; allowed: value, penult"),
        ({"precision": "int8"}, "precision is 'int8'; allowed: auto, fp32, bf16, fp16"),
        ({"device": "gpu"}, "device is 'gpu'; allowed: auto, cpu, cuda"),
        ({"batch_size": 0}, "batch_size is 0; allowed: 1 and more"),
        ({"threads": 0}, "threads is 0; allowed: 1 and more"),
    ],
)
def test_a_wrong_option_is_refused_at_once(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(TINY, **changes)  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="'cuda:3', but torch sees no GPU"):
        ClipEncoder(dataclasses.replace(TINY, device="cuda:3"))


def test_setup_comes_first() -> None:
    with pytest.raises(RuntimeError, match="setup"):
        ClipEncoder(TINY)([make_clip(0)])
