"""Scenes as a Hugging Face dataset: pictures, labels, captions and segmentation maps, drawn once and cached."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sketchae.scenes.captions import captions
from sketchae.scenes.factors import FACTORS, SCENES_VERSION, SPLITS, sample_scenes, split_scenes
from sketchae.scenes.render import render, to_uint8

if TYPE_CHECKING:
    import datasets  # slow to import: only where a dataset is made

_BATCH = 64


def scenes_features() -> "datasets.Features":
    """`image`, `segmentation` (values as in `render.REGIONS`), three kinds of captions, one `ClassLabel` a factor, `index`."""
    import datasets

    text = datasets.List(datasets.Value("string"))
    return datasets.Features(
        {
            "image": datasets.Image(),
            "segmentation": datasets.Image(),
            "captions": text,
            "style_captions": text,
            "both_captions": text,
            **{name: datasets.ClassLabel(names=list(f.values)) for name, f in FACTORS.items()},
            "index": datasets.Value("int64"),
        }
    )


def scenes_dataset(
    split: str, n: int, seed: int = 0, dependence: float | int = 0.0, n_captions: int = 5, cache_dir: str | None = None
) -> "datasets.Dataset":
    """The first `n` scenes of a split; `captions` are of the content only.

    Drawn with a progress bar the first time, read from the datasets cache afterwards; another `SCENES_VERSION` is
    another dataset.

    Raises:
        BadInputError: for an unknown split, or more scenes than it has.
    """
    import datasets

    split_scenes(split, 0, seed, dependence)  # raises early, with a sentence
    if n > len(SPLITS[split]):
        split_scenes(split, n, seed, dependence)
    options = {"split": split, "n": n, "seed": seed, "dependence": dependence, "n_captions": n_captions, "version": SCENES_VERSION}
    return datasets.Dataset.from_generator(_rows, features=scenes_features(), gen_kwargs=options, cache_dir=cache_dir)


def _rows(split: str, n: int, seed: int, dependence: float | int, n_captions: int, version: str) -> Iterator[dict]:
    for start in range(0, n, _BATCH):
        indices = SPLITS[split][start : min(start + _BATCH, n)]
        scenes = sample_scenes(indices, seed, dependence)
        drawn = render(scenes)
        texts = {kind: captions(scenes, kind, n_captions) for kind in ("content", "style", "both")}
        pixels, maps = to_uint8(drawn.images), drawn.segmentation.numpy()
        for i, index in enumerate(indices):
            yield {
                "image": pixels[i],
                "segmentation": maps[i],
                "captions": texts["content"][i],
                "style_captions": texts["style"][i],
                "both_captions": texts["both"][i],
                **{name: int(values[i]) for name, values in scenes.factors.items()},
                "index": index,
            }


