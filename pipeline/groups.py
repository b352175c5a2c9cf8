"""The groups of a run: defined in the store, and held against those that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config import ExtractConfig
from store.commits import committed_shards
from store.groups import read_groups
from store.objects import Objects
from store.plan import Plan
from store.schema import Modality
from store.writer import add_modality

# Keys of a record that are there only where an option asks for them.
CHOSEN = {"heatmap"}


def other_versions(objects: Objects, modalities: Mapping[str, Modality]) -> list[str]:
    """Says where a group that is about to be added has the settings of one that is there, and only its record says
    more or less: another version computed that one, and it cannot be gone on with."""
    groups, warnings = read_groups(objects), []
    for path, modality in modalities.items():
        for other, group in groups.items() if path not in groups else ():
            same = (group.modality.kind, group.modality.name) == (modality.kind, modality.name)
            then, now = group.modality.record, modality.record
            differing = then.keys() ^ now.keys()
            if same and not differing & CHOSEN and all(then[key] == now[key] for key in then.keys() & now.keys()):
                named = ", ".join(sorted(differing))
                warnings.append(
                    f"{other} was computed with these settings by another version of vilp-pipe ({named}); it stays "
                    f"as it is, and {path} begins with the first video; to go on with it, use that version"
                )
    return warnings


def add_groups(
    objects: Objects,
    config: ExtractConfig,
    plan: Plan,
    modalities: Mapping[str, Modality],
    environments: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Define the groups of this run, all by path; says where what is there was computed in another environment."""
    warnings = []
    for path, modality in modalities.items():
        environment = environments.get(path, {})
        group = add_modality(objects, plan, modality, config.recipe(), environment)
        differing = sorted(key for key in environment if group.environment.get(key) != environment[key])
        if differing and committed_shards(objects, path):
            was = ", ".join(f"{key} {group.environment.get(key)} then, {environment[key]} now" for key in differing)
            warnings.append(f"{path} was begun in another environment, so its last bits may differ: {was}")
    return warnings
