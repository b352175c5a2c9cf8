"""Fixtures: made-up features with a known truth."""

from made_up_heads import make_store, make_world, own_cache, world

__all__ = ["make_store", "make_world", "own_cache", "world"]
