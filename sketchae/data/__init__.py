"""Sources of (picture, captions): Scenes, a hub dataset, a folder of one's own pictures."""

from typing import Any

from sketchae.data.examples import CAPTION_COLUMNS, N_CAPTIONS, Example, Skipped, Source
from sketchae.data.folder_source import FolderSource
from sketchae.data.picture_pairs import PicturePairs, picture_pairs, read_picture
from sketchae.data.scenes_source import ScenesSource
from sketchae.errors import BadInputError

__all__ = [
    "CAPTION_COLUMNS",
    "N_CAPTIONS",
    "Example",
    "FolderSource",
    "HubSource",
    "PicturePairs",
    "ScenesSource",
    "Skipped",
    "Source",
    "open_source",
    "picture_pairs",
    "read_picture",
]


def __getattr__(name: str) -> Any:
    if name != "HubSource":  # loaded when asked for: it brings `datasets`, which takes seconds to import
        raise AttributeError(f"module 'sketchae.data' has no attribute {name!r}")
    from sketchae.data.hub_source import HubSource

    return HubSource


def open_source(profile: Any) -> Source:
    """The source that a profile names: "scenes", "hub" (profile.dataset is its id) or "folder" (its path).

    `n_train`, `n_val` and `n_test` are the numbers of scenes, or limits for a hub dataset or a folder (None: all).

    Raises:
        BadInputError: an unknown kind of source, or none named where one is needed.
    """
    limits = {"train": profile.n_train, "val": profile.n_val, "test": profile.n_test}
    if profile.source == "scenes":
        return ScenesSource(
            *limits.values(),
            test_seed=profile.test_seed,
            dependence=profile.dependence,
            n_captions=profile.n_captions,
        )
    if profile.source not in ("hub", "folder"):
        raise BadInputError(f"The source {profile.source!r} is unknown: choose scenes, hub or folder.")
    if not profile.dataset:
        raise BadInputError(f"The source {profile.source!r} needs a dataset: set DATASET to its hub id or folder.")
    if profile.source == "folder":
        return FolderSource(profile.dataset, limits, profile.n_captions)
    from sketchae.data.hub_source import HubSource

    return HubSource(profile.dataset, profile.dataset_revision, limits, profile.n_captions)
