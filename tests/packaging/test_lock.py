"""requirements.lock holds exactly what the project needs: nothing is resolved at set-up, so nothing may be missing."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cli", "pipeline", "stages", "store")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Left out on purpose; the head of requirements.lock says why. `pip check` names these three, and nothing else.
LEFT_OUT = {"chumpy", "xtcocotools", "opencv-python"}

# Distributions whose import name is not their own name.
IMPORT_NAMES = {
    "mmcv-lite": "mmcv",
    "open-clip-torch": "open_clip",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
}


def pins() -> dict[str, Requirement]:
    lines = (line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#")
    return {canonicalize_name(req.name): req for req in map(Requirement, lines)}


def applies(req: Requirement, extras: frozenset[str] = frozenset()) -> bool:
    """Whether a requirement counts on this machine, for a package installed with these extras."""
    return req.marker is None or any(req.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def requirements_of_project() -> list[Requirement]:
    """What the project asks for, with every extra but ``gpu``, which would overwrite onnxruntime."""
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(line for name in extras if name != "gpu" for line in extras[name])]
    return [Requirement(line) for line in wanted]


def test_every_line_is_one_exact_pin_in_order() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line[0] != "#"]
    for line in lines:
        assert re.fullmatch(r"[\w.-]+==[\w.]+( ; [\w\"'=() ]+)?", line), line
    names = [canonicalize_name(Requirement(line).name) for line in lines]
    assert names == sorted(set(names))


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml", "Makefile", ".ci/run", "CITATION.cff"])
def test_set_up_names_no_network_address(name: str) -> None:
    assert not re.search(r"\w+://|--index|--find-links", (ROOT / name).read_text())


def test_packages_without_wheels_elsewhere_are_marked_for_x86_linux() -> None:
    for name, req in pins().items():
        if name.startswith(("nvidia-", "cuda-")) or name in ("triton", "decord"):
            assert req.marker is not None, name
            assert req.marker.evaluate({"sys_platform": "linux", "platform_machine": "x86_64"})
            assert not req.marker.evaluate({"sys_platform": "linux", "platform_machine": "aarch64"})
            assert not req.marker.evaluate({"sys_platform": "darwin", "platform_machine": "x86_64"})
        else:
            assert req.marker is None, name


@pytest.mark.skipif(
    not Marker("sys_platform == 'linux' and platform_machine == 'x86_64'").evaluate(), reason="nothing installed here"
)
def test_lock_is_the_closure_of_what_the_project_asks_for() -> None:
    """Every need of every package is pinned at a version that meets it, and no pin is there without a need."""
    locked, problems = pins(), []
    queue = [("vilp-pipe", req) for req in requirements_of_project() if applies(req)]
    seen: dict[str, frozenset[str]] = {}
    while queue:
        parent, req = queue.pop()
        name = canonicalize_name(req.name)
        if name in LEFT_OUT:
            continue
        if name not in locked:
            problems.append(f"{parent} needs {req}, which is not pinned")
            continue
        pinned = str(locked[name].specifier)[2:]
        if not req.specifier.contains(pinned, prereleases=True):
            problems.append(f"{parent} needs {req}, but {pinned} is pinned")
        extras = seen.get(name, frozenset()) | req.extras
        if name in seen and extras == seen[name]:
            continue
        seen[name] = extras
        if metadata.version(name) != pinned:
            problems.append(f"{name} {metadata.version(name)} is installed, but {pinned} is pinned: make setup")
        needs = (Requirement(line) for line in metadata.requires(name) or ())
        queue += [(name, need) for need in needs if applies(need, extras)]
    problems += [f"{name} is pinned, but nothing needs it" for name in sorted(set(locked) - set(seen))]
    assert not problems, "\n".join(problems)


def test_every_import_of_a_package_is_declared() -> None:
    """The wheel promises what the code imports: mmpose's stack in its extra, everything else always."""
    everywhere = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    extra = {canonicalize_name(req.name) for req in requirements_of_project()} - everywhere
    declared = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in everywhere}
    optional = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in extra}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for top in {name.partition(".")[0] for name in names}:
                if top in PACKAGES or top in sys.stdlib_module_names or top in declared:
                    continue
                place = f"{path.relative_to(ROOT)}:{node.lineno} imports {top}"
                assert top in optional, f"{place}, which pyproject.toml does not declare"
                assert node not in tree.body, f"{place} at its top, but it comes with an extra only"
