"""``verify --repair``: restore what has a copy, compute again what has none."""

from __future__ import annotations

from collections.abc import Collection

from pipeline.config import ExtractConfig
from pipeline.datasets import video_root
from pipeline.extraction import extract
from pipeline.graph import make_graph
from pipeline.progress import Progress
from store.errors import MissingError, StoreError, UsageError
from store.groups import read_groups
from store.lease import WHOLE, hold
from store.objects import Objects
from store.plan import read_plan
from store.printable import command
from store.reader import FeatureStore
from store.sealed import canonical
from store.verify import Report, restore, verify_store


def repair(
    objects: Objects,
    report: Report,
    *,
    progress: Progress,
    code: Collection[str] = (),
) -> Report:
    """Mend all problems of a report and verify again. Damaged shards are computed from their videos with the recipe
    that their group keeps. Raises what ``extract`` raises where videos or weights are gone, and ``UsageError`` where a
    recipe names code (see ``ExtractConfig.code``) that is not among ``code``: a store is data."""
    _check_recomputable(objects, report, code)
    with hold(objects, WHOLE) as lease:
        damaged = restore(lease.guard(objects), report)
    groups = read_groups(objects)
    shards: dict[str, set[int]] = {}
    recipes: dict[str, ExtractConfig] = {}
    for problem in damaged:
        recipe = dict(groups[problem.group].recipe)
        key = canonical(recipe)
        recipes[key] = ExtractConfig.from_recipe({**recipe, "store": objects.url})
        per_video = groups[problem.group].modality.per_video
        shards.setdefault(key, set()).update({problem.shard} if per_video and problem.shard is not None else set())
    for key, config in recipes.items():
        extract(config, progress=progress, only_shards=shards[key])
    return verify_store(objects)


def _check_recomputable(objects: Objects, report: Report, code: Collection[str]) -> None:
    """Raise before anything is removed where a damaged shard could not be computed again as it was."""
    groups, paths = read_groups(objects), read_plan(objects).lookup("slot", "path")
    for problem in report.problems:
        if problem.shard is None:
            continue
        group = groups[problem.group]
        config = ExtractConfig.from_recipe({**group.recipe, "store": objects.url})
        for value in set(config.code().values()) - set(code):
            again = command("verify", "--store", objects.url, "--repair", "--code", value)
            raise UsageError(
                f"{group.path} was computed by code that the store names; where you trust it, run: {again}"
            )
        if config.posefeat_only:  # made from poses that are in the store, or from files of scores
            from pipeline.posefeat import posefeat_sources  # needs torch

            sources = posefeat_sources(config, FeatureStore.open(objects.url))
            root, computable = None, {source.modality.path for source in sources}
        else:
            root = video_root(config.dataset, config.root or ".")
            computable = set(make_graph(config, root).modalities())
        if (group.modality.parent or group.path) not in computable:
            raise StoreError(
                f"{group.path} was computed with other weights, or by other versions of vilp-pipe or its libraries, "
                "than are here now, so it cannot be mended as it was; bring those back, or extract into a new store",
                kind="store-mismatch",
            )
        gone = [paths[slot] for slot in problem.slots if root is not None and not (root / paths[slot]).is_file()]
        if root is not None and gone:
            raise MissingError(f"{root / gone[0]} is needed to mend {problem.key}, and is gone", kind="missing-data")
