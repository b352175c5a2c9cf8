"""``verify --repair``: restore what has a copy, compute again what has none."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.config import ExtractConfig
from pipeline.extraction import extract
from pipeline.progress import Progress
from store.groups import read_groups
from store.lease import WHOLE, hold
from store.objects import LocalObjects
from store.sealed import canonical
from store.verify import Report, restore, verify_store


def repair(
    objects: LocalObjects, report: Report, *, progress: Progress, note: Callable[[str], None] = lambda line: None
) -> Report:
    """Mend all problems of a report and verify again. Damaged shards are computed from their videos with the recipe
    that their group keeps. Raises what ``extract`` raises where videos or weights are gone."""
    with hold(objects, WHOLE):
        damaged = restore(objects, report)
    groups = read_groups(objects)
    shards: dict[str, set[int]] = {}
    recipes: dict[str, ExtractConfig] = {}
    for problem in damaged:
        recipe = dict(groups[problem.group].recipe)
        key = canonical(recipe)
        recipes[key] = ExtractConfig.from_recipe({**recipe, "store": str(objects.root)})
        per_video = groups[problem.group].modality.per_video
        shards.setdefault(key, set()).update({problem.shard} if per_video and problem.shard is not None else set())
    for key, config in recipes.items():
        note(f"computing {len(shards[key])} damaged shards again")
        extract(config, progress=progress, only_shards=shards[key])
    return verify_store(objects, progress=note)
