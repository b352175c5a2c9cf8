"""The embedded CLIP: it comes with the package, and open_clip reads it as well as this project does."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch

from pipeline.config import ExtractConfig, resolve
from stages.clip import ClipConfig
from stages.clip.encoder import ClipEncoder
from stages.clip.models import EMBEDDED, STICK, STICK_FOLDER, build_model, resolve_model
from store.errors import UsageError

WEIGHTS = STICK_FOLDER / "open_clip_model.safetensors"


def test_open_clip_loads_the_folder_as_it_is() -> None:
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{STICK_FOLDER}")
    resolved = resolve_model(STICK, EMBEDDED)
    ours = build_model(resolved, resolved.file, seed=0)
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    ids = open_clip.get_tokenizer(f"local-dir:{STICK_FOLDER}")(["a person waving", "a red umbrella"])
    theirs.eval()
    torch.testing.assert_close(theirs.encode_image(images), ours.encode_image(images))
    torch.testing.assert_close(theirs.encode_text(ids), ours.encode_text(ids))
    normalize = transform.transforms[-1]
    assert list(normalize.mean) == pytest.approx(resolved.preprocess["mean"])
    assert list(normalize.std) == pytest.approx(resolved.preprocess["std"])
    assert (
        json.loads((STICK_FOLDER / "open_clip_config.json").read_text())["preprocess_cfg"]["interpolation"]
        == (resolved.preprocess["interpolation"])
    )


def test_it_is_small_and_says_what_it_is() -> None:
    assert WEIGHTS.stat().st_size < 10e6
    card = (STICK_FOLDER / "README.md").read_text()
    assert "It knows rendered stick people and nothing else" in card


def test_words_that_were_never_read_are_zero() -> None:
    resolved = resolve_model(STICK, EMBEDDED)
    table = build_model(resolved, resolved.file, seed=0).token_embedding.weight
    tokenizer = open_clip.SimpleTokenizer()
    known = [tokenizer.encode(word)[0] for word in ("person", "umbrella", "kitchen", "red")]
    assert (table[known].abs().amax(1) > 0).all()
    assert (table[tokenizer.encode("volleyball")] == 0).all()


def test_the_stage_stores_its_tokens_under_its_name() -> None:
    modality = ClipEncoder(ClipConfig(model=STICK, pretrained=EMBEDDED, num_frames=2)).modality()
    assert modality.id.startswith("stick-embedded-")
    assert modality.arrays["value"].shape == (1, 2, 6, 6, 96)
    assert "sha256" in modality.record["weights"]


def test_another_tag_is_refused() -> None:
    with pytest.raises(UsageError, match="allowed for stick: embedded, a weight file, none"):
        resolve_model(STICK, "openai")


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ({"dataset": "synthetic"}, ("stick", "embedded")),
        ({"dataset": "synthetic", "clip": "tiny", "clip_pretrained": "none"}, ("tiny", "none")),
        ({"dataset": "synthetic", "clip": "ViT-B-32"}, ("ViT-B-32", "openai")),
        ({"dataset": "synthetic", "clip_pretrained": "none"}, ("stick", "none")),
        ({"dataset": "hmdb51"}, ("ViT-B-16", "openai")),
        ({"dataset": "hmdb51", "clip": "stick"}, ("stick", "embedded")),
    ],
)
def test_weights_go_with_their_model(given, model, tmp_path) -> None:
    config = resolve(str(tmp_path / "store"), given)
    assert (config.clip, config.clip_pretrained) == model
    direct = ExtractConfig(**{"clip": config.clip, **given})  # from Python as on the command line
    assert (direct.clip, direct.clip_pretrained) == model
