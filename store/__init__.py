"""The feature store: layout, commits, reading and verification. Imports nothing else of this project."""

from typing import TYPE_CHECKING

from store.errors import MissingError, RetryError, StoreError, UsageError, VideoError, VilpError
from store.features import Features, TextSet

if TYPE_CHECKING:
    from store.reader import FeatureStore

__all__ = [
    "FeatureStore",
    "Features",
    "MissingError",
    "RetryError",
    "StoreError",
    "TextSet",
    "UsageError",
    "VideoError",
    "VilpError",
]


def __getattr__(name: str) -> object:
    # Reading needs zarr and pyarrow, which take a second to import; errors and types must not.
    if name == "FeatureStore":
        from store.reader import FeatureStore

        return FeatureStore
    raise AttributeError(f"module 'store' has no attribute {name!r}")
