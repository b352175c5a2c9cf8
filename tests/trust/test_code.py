"""No code from data: files that strangers made are read as data, and none of them is run."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import stores
import torch
from extractions import small_config
from safetensors import SafetensorError

from pipeline.config import ExtractConfig, resolve
from pipeline.repair import repair
from store import StoreError, UsageError, VilpError
from store.local import LocalObjects
from store.plan import read_plan
from store.verify import Problem, verify_store
from store.writer import add_modality, write_text_set

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("cli", "pipeline", "stages", "store")

UNPICKLERS = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "pandas")
# By module: what runs what it reads, or hands it to a shell.
FORBIDDEN = {
    **dict.fromkeys(UNPICKLERS, ("load", "loads", "open", "Unpickler", "read_pickle")),
    "yaml": ("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"),
    "os": ("system", "popen"),
    "subprocess": ("getoutput", "getstatusoutput"),
    "shutil": ("unpack_archive",),
    "jit": ("load",),
    "hub": ("load",),
    "builtins": ("eval", "exec", "compile", "__import__"),
}
ALIASES = {"np": "numpy", "pd": "pandas"}


def dangers(tree: ast.AST) -> Iterator[str]:
    """What in a module could run data."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = FORBIDDEN.get(node.module.rpartition(".")[2], ())
            yield from (f"from {node.module} import {a.name}" for a in node.names if a.name in names)
        elif isinstance(node, ast.ClassDef):
            methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            if any("Unpickler" in ast.unparse(base) for base in node.bases) and "find_class" not in methods:
                yield f"class {node.name} unpickles whatever a file names"
        elif isinstance(node, ast.Call):
            yield from _dangers_of_call(node)


def _dangers_of_call(node: ast.Call) -> Iterator[str]:
    words = ast.unparse(node.func).split(".")
    module, name = ("builtins", words[0]) if len(words) == 1 else (ALIASES.get(words[-2], words[-2]), words[-1])
    values = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name in FORBIDDEN.get(module, ()):
        yield ast.unparse(node.func)
    if (module, name) in (("torch", "load"), ("builtins", "load_checkpoint")) and values.get("weights_only") != "True":
        yield f"{name} without weights_only=True"
    if (module, name) == ("numpy", "load") and values.get("allow_pickle", "False") != "False":
        yield "numpy.load with allow_pickle"
    if values.get("shell", "False") != "False":
        yield f"{name} with shell"
    if name == "extractall" and values.get("filter") not in ("'data'", "'tar'"):
        yield "extractall without a filter"


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_in_the_package_runs_data(package: str) -> None:
    files = sorted((PROJECT / package).rglob("*.py"))
    found = [f"{file.relative_to(PROJECT)}: {what}" for file in files for what in dangers(ast.parse(file.read_text()))]
    assert len(files) > 3
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        *(
            "pickle.load(f)",
            "pickle.loads(b)",
            "pickle.Unpickler(f).load()",
            "from pickle import loads",
            "dill.load(f)",
        ),
        *("marshal.loads(b)", "shelve.open(p)", "joblib.load(p)", "pd.read_pickle(p)", "eval(t)", "exec(t)"),
        *("torch.load(f)", "torch.load(f, weights_only=False)", "torch.jit.load(f)", "load_checkpoint(m, f)"),
        *("np.load(f, allow_pickle=True)", "yaml.load(t)", "yaml.unsafe_load(t)", "os.system(t)", "os.popen(t)"),
        *("subprocess.run(t, shell=True)", "subprocess.getoutput(t)", "shutil.unpack_archive(f)"),
        *("archive.extractall(p)", "class A(pickle.Unpickler):\n    pass", "__import__(t)"),
    ],
)
def test_the_check_sees_what_it_is_for(code: str) -> None:
    assert list(dangers(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        *("torch.load(f, weights_only=True)", "np.load(f)", "yaml.safe_load(t)", "head.eval()", "re.compile(t)"),
        *("subprocess.run(words)", "json.load(f)", "archive.extractall(p, filter='data')", "import pickle"),
        "class A(pickle.Unpickler):\n    def find_class(self, module, name):\n        raise ValueError",
    ],
)
def test_the_check_lets_the_rest_pass(code: str) -> None:
    assert list(dangers(ast.parse(code))) == []


class Payload:
    """Makes a folder when it is unpickled freely."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self._mark),))


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """Where a payload would leave its mark; it never does."""
    mark = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.is_dir()  # the payload works
    mark.rmdir()
    yield mark
    assert not mark.exists()


def malicious(path: Path, mark: Path) -> Path:
    """A pickle as a file, or a torch checkpoint with it, by the file's extension."""
    if path.suffix == ".pt":
        torch.save({"state_dict": {"weight": torch.zeros(1)}, "meta": Payload(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": Payload(mark)}))
    return path


# torch warns of the protocol of a pickle that it refuses.
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")
NAMES = ["weights.pt", "weights.pth", "weights.bin", "weights.safetensors", "weights.onnx"]


@pytest.mark.parametrize("name", NAMES)
def test_clip_weights(tmp_path: Path, mark: Path, name: str) -> None:
    from stages.clip.models import build_model, resolve_model

    file = malicious(tmp_path / name, mark)
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        build_model(resolve_model("tiny", str(file)), file, 0)


@pytest.mark.parametrize("name", NAMES[:-1])
def test_pose_weights(tmp_path: Path, mark: Path, name: str) -> None:
    from stages.weights import read_checkpoint

    with pytest.raises(UsageError, match="cannot be read as weights alone"):
        read_checkpoint(malicious(tmp_path / name, mark), flag="--pose-weights")


@pytest.mark.parametrize("backend", ["onnx", "precomputed"])
def test_models_and_poses(tmp_path: Path, mark: Path, backend: str) -> None:
    from stages.pose.base import PoseConfig
    from stages.pose.stage import PoseStage

    file = str(malicious(tmp_path / ("poses.parquet" if backend == "precomputed" else "model.onnx"), mark))
    with pytest.raises(VilpError):
        PoseStage(PoseConfig(backend=backend, det_weights=file, pose_weights=file, config=file)).setup()


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.parquet"])
def test_manifests(tmp_path: Path, mark: Path, name: str) -> None:
    from pipeline.datasets import load_dataset

    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        load_dataset("manifest", str(malicious(tmp_path / name, mark)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run."""
    from pipeline.head import train_head

    root = tmp_path_factory.mktemp("trained")
    clip = dataclasses.replace(stores.CLIP, record={**stores.CLIP.record, "weights": "made-up"})
    text = dataclasses.replace(stores.TEXT, parent=clip.path)
    objects = stores.build(root / "s", modalities=(clip,))
    add_modality(objects, read_plan(objects), text, {}, {})
    write_text_set(objects, text, {name: array[0] for name, array in stores.values(text, [0]).items()})
    train_head(str(root / "s"), head="vcs", epochs=1, frames=4, out=str(root / "run"))
    return root / "run"


@pytest.mark.parametrize(
    ("name", "error"),
    [("split1-seed0.safetensors", SafetensorError), ("predictions.parquet", pa.ArrowInvalid), ("run.json", StoreError)],
)
def test_run_directories(trained: Path, tmp_path: Path, mark: Path, name: str, error: type[Exception]) -> None:
    """A checkpoint of a head with a pickle in it, whose record even has the right hash."""
    from pipeline.head.checkpoint import load_head, load_predictions, read_run

    run = tmp_path / "run"
    shutil.copytree(trained, run)
    malicious(run / name, mark)
    record = run / "run.json"
    if name != record.name:
        facts = json.loads(record.read_text())
        facts["files"][name] = hashlib.sha256((run / name).read_bytes()).hexdigest()
        record.write_text(json.dumps(facts))

    def read() -> None:
        result = read_run(run)
        load_predictions(result)
        load_head(result, 1, 0)

    with pytest.raises(error):
        read()


@pytest.mark.parametrize("key", ["_tables/store.json", "_tables/videos.parquet"])
def test_stores(tmp_path: Path, mark: Path, key: str) -> None:
    objects = stores.build(tmp_path / "s")
    for name in (key, key.replace(".", ".copy.")):
        malicious(objects.path(name), mark)
    with pytest.raises(StoreError) as error:
        verify_store(objects)
    assert error.value.kind == "store-corrupt"


def recipe(tmp_path: Path, **settings: object) -> LocalObjects:
    """A store whose recipe has these settings, with one damaged shard."""
    config = small_config(tmp_path, tmp_path / "s", **settings)
    plan = dataclasses.replace(stores.plan(), source=config.recipe())
    return stores.build(tmp_path / "s", the_plan=plan)


@pytest.mark.parametrize(
    ("option", "settings"),
    [
        ("--decoder", {"decoder": "os:system"}),
        ("--pose", {"pose": "subprocess:Popen"}),
        ("--pose-config", {"pose": "mmpose", "pose_config": "stores/s/evil.py"}),
        ("--pose-config", {"pose": "mmpose", "pose_config": "rtmdet_m,evil.py"}),
    ],
)
def test_code_that_a_store_names_is_not_run(tmp_path: Path, option: str, settings: dict[str, str]) -> None:
    """Whoever publishes a store writes its recipe: a decoder ``os:system`` would be called with names of files."""
    url = recipe(tmp_path, **settings).url
    with pytest.raises(UsageError, match=f"names code of its own, {option} .*; where you trust it") as error:
        resolve(url, {})
    assert error.value.kind == "usage"
    value = settings[option[2:].replace("-", "_")]
    assert isinstance(resolve(url, {option[2:].replace("-", "_"): value}), ExtractConfig)


def test_an_estimator_that_names_no_class_is_refused() -> None:
    with pytest.raises(UsageError, match="pose is 'antigravity'; allowed: mmpose, "):
        ExtractConfig.from_recipe({**ExtractConfig().recipe(), "pose": "antigravity"})


def test_a_recipe_of_a_newer_version_is_refused_in_one_line(tmp_path: Path) -> None:
    plan = dataclasses.replace(stores.plan(), source={**ExtractConfig().recipe(), "warp": 9})
    stores.build(tmp_path / "s", the_plan=plan)
    with pytest.raises(StoreError, match="with the setting 'warp', which this vilp-pipe does not know") as error:
        resolve(str(tmp_path / "s"), {})
    assert error.value.kind == "store-version"


def test_a_repair_runs_no_code_that_a_store_names(tmp_path: Path) -> None:
    from pipeline.progress import Progress
    from store.groups import add_group

    objects = stores.build(tmp_path / "s", modalities=())
    modality = dataclasses.replace(stores.POSE, name="mine")
    settings = small_config(tmp_path, tmp_path / "s", pose="no_such_module:Class", modalities=("pose",)).recipe()
    add_group(objects, read_plan(objects), modality, settings, {})
    problem = Problem("key", "is damaged", modality.path, 0, (0,))
    report = dataclasses.replace(verify_store(objects), problems=(problem,))
    with pytest.raises(UsageError, match="--repair --code no_such_module:Class"):
        repair(objects, report, progress=Progress())
    with pytest.raises(VilpError) as error:  # what naming it leads to
        repair(objects, report, progress=Progress(), code=("no_such_module:Class",))
    assert "--code" not in str(error.value)
