"""Names, tags and weight files."""

import logging
import pickle
import socket
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

import stages.clip.models as models
from stages.clip.config import ClipConfig
from stages.clip.encoder import ClipEncoder
from stages.clip.models import build_model, find_weights, resolve_model
from stages.weights import file_digest
from store.errors import MissingError, UsageError


def tiny_weights(seed: int) -> dict[str, torch.Tensor]:
    return build_model(resolve_model("tiny", "none"), None, seed).state_dict()


@pytest.mark.parametrize(
    ("model", "tag", "activation"),
    [
        ("ViT-B-16", "openai", "quick_gelu"),
        ("ViT-B-16-quickgelu", "openai", "quick_gelu"),
        ("ViT-B/16", "openai", "quick_gelu"),
        ("ViT-B-16", "laion2b_s34b_b88k", "gelu"),
        ("ViT-B-32", "metaclip_400m", "quick_gelu"),
        ("ViT-B-16", "none", "gelu"),
        ("ViT-B-16-quickgelu", "none", "quick_gelu"),
    ],
)
def test_the_activation_follows_the_weights(model: str, tag: str, activation: str) -> None:
    assert resolve_model(model, tag).activation == activation


def test_the_activation_reaches_the_model() -> None:
    resolved = resolve_model("tiny", "none")
    for quick, kind in ((True, open_clip.transformer.QuickGELU), (False, torch.nn.GELU)):
        resolved.config["quick_gelu"] = quick
        model = build_model(resolved, None, 0)
        assert isinstance(model.visual.transformer.resblocks[0].mlp.gelu, kind)
        assert isinstance(model.transformer.resblocks[0].mlp.gelu, kind)


def test_preprocessing_is_the_model_own() -> None:
    assert resolve_model("ViT-B-16", "openai").preprocess["mean"][0] == pytest.approx(0.48145466)
    assert resolve_model("ViT-L-14", "laion2b_s32b_b82k").preprocess["mean"] == [0.5, 0.5, 0.5]
    assert resolve_model("ViT-B-16-SigLIP", "none").preprocess["mean"] == [0.5, 0.5, 0.5], "all its tags agree"
    assert resolve_model("ViT-L-14-CLIPA", "none").preprocess["interpolation"] == "bilinear"


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_weight_file_is_loaded_and_identified_by_its_bytes(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    state = tiny_weights(seed=5)
    save_file(state, file) if suffix == ".safetensors" else torch.save({"state_dict": state}, file)
    resolved = resolve_model("tiny", str(file))
    assert find_weights(resolved) == file
    loaded = build_model(resolved, file, seed=0).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    modality = ClipEncoder(ClipConfig(model="tiny", pretrained=str(file), precision="fp32")).modality()
    assert modality.record["weights"] == {"sha256": file_digest(file)}


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a checkpoint ran code",))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    files = [tmp_path / "zip.pt", tmp_path / "legacy.pt"]
    torch.save({"state_dict": Malicious()}, files[0])
    files[1].write_bytes(pickle.dumps(Malicious(), protocol=2))
    for file in files:
        with pytest.raises(UsageError, match="no checkpoint of tiny"):
            build_model(resolve_model("tiny", str(file)), file, 0)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_torchscript_archive_is_refused_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "scripted.pt"
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(file))
    with pytest.raises(UsageError, match=r"TorchScript archive.*safetensors.torch.save_file.*--clip tiny-quickgelu"):
        build_model(resolve_model("tiny", str(file)), file, 0)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({name: value for name, value in tiny_weights(0).items() if "ln_post" not in name}, file)
    with pytest.raises(UsageError, match=r"no checkpoint of tiny \(.*ln_post") as caught:
        build_model(resolve_model("tiny", str(file)), file, 0)
    assert "\n" not in str(caught.value)


def test_openai_files_need_a_name_with_quick_gelu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    repository = tmp_path / "models--timm--vit_base_patch16_clip_224.openai"
    repository.mkdir()
    for file in (repository / "open_clip_model.safetensors", tmp_path / "ViT-B-16-OpenAI.pt"):
        file.touch()
        with pytest.raises(UsageError, match=r"need QuickGELU.*use --clip ViT-B-16-quickgelu"):
            resolve_model("ViT-B-16", str(file))
        assert resolve_model("ViT-B-16-quickgelu", str(file)).activation == "quick_gelu"
    unknown = tmp_path / "mine.pt"
    unknown.touch()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert resolve_model("ViT-B-16", str(unknown)).activation == "gelu"
    assert caplog.text.count("need --clip ViT-B-16-quickgelu") == 1


@pytest.mark.parametrize(
    ("model", "pretrained", "error", "message"),
    [
        ("ViT-B-61", "openai", UsageError, "'ViT-B-61', which open_clip does not know; did you mean ViT-B-16?"),
        ("hf-hub:a/b", "none", UsageError, "does not know"),
        ("ViT-B-16", "open-ai", UsageError, "'open-ai'; allowed for ViT-B-16: openai, laion"),
        ("tiny", "openai", UsageError, "'openai'; allowed for tiny: a weight file, none"),
        ("ViT-B-16", "weights/no.pt", MissingError, "'weights/no.pt' are no file; give --clip-pretrained a file"),
        ("roberta-ViT-B-32", "none", UsageError, "text tower is a Hugging Face model"),
    ],
)
def test_what_does_not_exist_is_named(model: str, pretrained: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        resolve_model(model, pretrained)
    assert "\n" not in str(caught.value)


def test_without_a_network_missing_weights_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(models, "_cached", lambda _: None)
    monkeypatch.setattr(models.urllib.request, "getproxies", dict)
    monkeypatch.setattr(models, "download_pretrained", lambda _: pytest.fail("open_clip would retry for a minute"))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    encoder = ClipEncoder(ClipConfig(model="ViT-B-16", pretrained="openai"))
    with pytest.raises(
        MissingError, match=r"vit_base_patch16_clip_224.openai.*--clip ViT-B-16-quickgelu --clip-pret"
    ) as e:
        encoder.modality()
    assert e.value.kind == "missing-weights"


def test_cached_weights_are_taken_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "open_clip_model.safetensors"
    file.write_bytes(b"weights")

    def cached(repository: str, name: str) -> str | None:
        assert repository == "timm/vit_base_patch16_clip_224.openai"
        return str(file) if name == file.name else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    encoder = ClipEncoder(ClipConfig(model="ViT-B-16", pretrained="openai", precision="fp32"))
    modality = encoder.modality()
    assert modality.record["weights"] == {"sha256": file_digest(file)}
    assert modality.record["activation"] == "quick_gelu"
    assert modality.id.startswith("vit-b-16-openai-")
