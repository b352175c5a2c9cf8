"""Groups: the definitions of the modalities in a store, and the Zarr metadata that follows from them.

A sealed definition (kept twice) holds a modality's record, the recipe that made it and the exact texts of its
``zarr.json`` files, so that any of those can be restored to the byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from store.arrays import group_metadata, root_metadata
from store.errors import MissingError, UsageError, nearest
from store.layout import GROUPS, ROOT_METADATA, definition_key
from store.objects import Objects
from store.plan import Plan
from store.printable import command
from store.schema import Modality
from store.sealed import canonical, get_sealed, put_twice, seal, settle

# Of the settings in which groups differ so many are told, each in so many characters.
_TOLD, _WIDTH = 3, 32


@dataclass(frozen=True)
class Group:
    """A modality as a store holds it.

    recipe       how to compute it again: the settings of its stage, with weight paths
    environment  what may change its last bits without changing its id: threads, batch shape, library versions
    metadata     text of every ``zarr.json`` by key
    """

    modality: Modality
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    metadata: Mapping[str, str]
    rows: int

    @property
    def path(self) -> str:
        return self.modality.path

    def num_shards(self, plan: Plan) -> int:
        return plan.num_shards if self.modality.per_video else 1

    def to_dict(self) -> dict[str, Any]:
        return {
            "modality": self.modality.to_dict(),
            "recipe": dict(self.recipe),
            "environment": dict(self.environment),
            "metadata": dict(self.metadata),
            "rows": self.rows,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Group:
        modality = Modality.from_dict(data["modality"])
        return cls(modality, data["recipe"], data["environment"], data["metadata"], data["rows"])


def add_group(
    objects: Objects, plan: Plan, modality: Modality, recipe: Mapping[str, Any], environment: Mapping[str, Any]
) -> Group:
    """Define a modality, or return the definition that is there (its environment may differ from the one given)."""
    existing = get_sealed(objects, definition_key(modality.path))
    if existing is not None:
        settle(objects, definition_key(modality.path), seal(existing), point="group")
        return Group.from_dict(existing)
    metadata = group_metadata(modality, rows=plan.rows, shard_rows=plan.shard_len)
    group = Group(modality, recipe, environment, metadata, plan.rows)
    put_twice(objects, definition_key(modality.path), seal(group.to_dict()), point="group")
    return group


def read_groups(objects: Objects) -> dict[str, Group]:
    """All groups of a store by path, sorted. Raises ``StoreError`` (``store-corrupt``) on a damaged definition."""
    prefix, suffix = f"{GROUPS}/", "/group.json"
    paths = (key.removeprefix(prefix).removesuffix(suffix) for key in _definitions(objects))
    found = ((path, get_sealed(objects, definition_key(path))) for path in paths)
    return {path: Group.from_dict(data) for path, data in found if data is not None}


def _definitions(objects: Objects) -> Iterator[str]:
    """Keys of all definitions, also of those of which only the copy is left."""
    names = {key.replace("/group.copy.json", "/group.json") for key in objects.list(GROUPS)}
    yield from sorted(name for name in names if name.endswith("/group.json"))


def write_metadata(objects: Objects, plan: Plan) -> None:
    """Make the Zarr metadata what plan and definitions say. Idempotent; restores whatever is missing or damaged."""
    groups = read_groups(objects)
    for path, group in groups.items():
        if group.rows != plan.rows:  # the plan has grown
            metadata = group_metadata(group.modality, rows=plan.rows, shard_rows=plan.shard_len)
            grown = Group(group.modality, group.recipe, group.environment, metadata, plan.rows)
            put_twice(objects, definition_key(path), seal(grown.to_dict()), point="group")
            groups[path] = grown
    for key, data in expected_metadata(plan, groups).items():
        if objects.get(key) != data:
            objects.put(key, data, point="metadata")


def expected_metadata(plan: Plan, groups: Mapping[str, Group]) -> dict[str, bytes]:
    """The exact bytes of every ``zarr.json`` of a store by key, the root last."""
    texts = {key: text for group in groups.values() for key, text in group.metadata.items()}
    members = {key.removesuffix("/zarr.json"): json.loads(text) for key, text in sorted(texts.items())}
    root = canonical(root_metadata(plan.attributes(), members))
    return {key: text.encode() for key, text in sorted(texts.items())} | {ROOT_METADATA: root.encode()}


def of_kind(groups: Mapping[str, Group], kind: str, *, parent: str | None = None) -> list[Group]:
    """The groups of a kind, by path; with ``parent`` those inside that group alone."""
    return [g for g in groups.values() if g.modality.kind == kind and parent in (None, g.modality.parent)]


def find_group(groups: Mapping[str, Group], kind: str, name: str | None, *, parent: str = "") -> Group:
    """The group of a kind that ``name`` (an id, or the beginning of one) picks; None where there is just one.

    Raises ``MissingError`` (``missing-modality``) where there is none, ``UsageError`` where several fit.
    """
    candidates = of_kind(groups, kind, parent=parent)
    fitting = [g for g in candidates if name is None or g.modality.id == name] or [
        g for g in candidates if name is not None and g.modality.id.startswith(name)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if not candidates:
        adding = command("extract", "--modality", kind, "--store", "STORE")
        raise MissingError(
            f"the store holds no {kind} features; add them with: {adding}",
            kind="missing-modality",
        )
    if not fitting:
        ids = [g.modality.id for g in candidates]
        raise MissingError(
            f"{kind} is {name!r}; this store has: {', '.join(ids)}{nearest(name, ids)}", kind="missing-modality"
        )
    offered = ", ".join(
        f"{group.modality.id} ({in_words(settings)})"
        for group, settings in zip(fitting, differences(fitting), strict=True)
    )
    raise UsageError(f"several {kind} groups fit; choose one with --{kind}: {offered}")


def differences(groups: Sequence[Group]) -> list[dict[str, str]]:
    """For each of several groups the settings of its record that are not the same in all, in words by dotted name: the
    outermost ones, a few of them, and ``none`` where it has no such setting. Lists of lists, which are all prompts, are
    left out, as they follow from others."""
    found = _differing([group.modality.record for group in groups])
    told = ((name, values) for name, values in found if not any(_is_nested(value) for value in values))
    differing = sorted(told, key=lambda d: (d[0].count("."), d[0]))
    return [{name: _word(values[i]) for name, values in differing[:_TOLD]} for i in range(len(groups))]


def in_words(settings: Mapping[str, str]) -> str:
    """Settings as ``differences`` gives them, on one line."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _differing(values: Sequence[Any], name: str = "") -> Iterator[tuple[str, Sequence[Any]]]:
    if all(isinstance(value, Mapping) for value in values):
        for key in sorted({key for value in values for key in value}):
            yield from _differing([value.get(key) for value in values], f"{name}.{key}".lstrip("."))
    elif any(value != values[0] for value in values):
        yield name, values


def _is_nested(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(inner, list) for inner in value)


def _word(value: Any) -> str:
    """A value of a record in a few characters; of a mapping its first word."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return next((_word(inner) for _, inner in sorted(value.items()) if isinstance(inner, str)), "some")
    text = "+".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
