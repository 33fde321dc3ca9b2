"""The embedded world as a source: drawn when read, so that nothing is stored or downloaded."""

from sketchae.data.examples import N_CAPTIONS, Example, Skipped, check_range
from sketchae.errors import BadInputError


class ScenesSource:
    """The splits "train", "val" and "test" of Scenes, with captions of the content only, as MS-COCO's are.

    Args:
        n_train, n_val, n_test: scenes a split; None: all that Scenes keeps for it.
        seed: of the training and validation scenes; test_seed: of the test scenes (another one gives scenes that
            nobody has seen).
        dependence: in [0, 1], see `sketchae.scenes.sample_scenes`.
        n_captions: captions a scene.
    """

    has_embeddings = False

    def __init__(
        self,
        n_train: int | None,
        n_val: int | None,
        n_test: int | None,
        seed: int = 0,
        test_seed: int = 0,
        dependence: float = 0.0,
        n_captions: int = N_CAPTIONS,
    ):
        from sketchae.scenes import SPLITS

        asked = {"train": n_train, "val": n_val, "test": n_test}
        self._n = {split: len(SPLITS[split]) if n is None else n for split, n in asked.items()}
        self._seeds = {"train": seed, "val": seed, "test": test_seed}
        self.dependence, self.n_captions = dependence, n_captions
        for split, n in self._n.items():
            if not 0 <= n <= len(SPLITS[split]):
                raise BadInputError(
                    f"n_{split} is {n}: Scenes keeps {len(SPLITS[split]):,} indices for this split; choose at most that."
                )

    @property
    def splits(self) -> list[str]:
        return [split for split, n in self._n.items() if n]

    def n_examples(self, split: str) -> int:
        return self._n[split]

    def load(self, split: str, start: int, stop: int) -> list[Example | Skipped]:
        """Draw the scenes at positions start..stop; `index` is the scene's index in Scenes."""
        from sketchae.scenes import SPLITS, captions, render, sample_scenes

        start, stop = check_range(self._n.get(split), split, self.splits, start, stop)
        if start == stop:
            return []
        indices = SPLITS[split][start:stop]
        scenes = sample_scenes(indices, seed=self._seeds[split], dependence=self.dependence)
        images = render(scenes).images
        texts = captions(scenes, kind="content", n=self.n_captions)
        return [
            Example(None, list(text), f"scene-{index}", int(index), tensor=image)
            for index, text, image in zip(indices, texts, images, strict=True)
        ]

    def fingerprint(self, split: str) -> str:
        from sketchae.scenes import SCENES_VERSION

        return (
            f"scenes-{SCENES_VERSION}/{split}/n={self._n[split]}/seed={self._seeds[split]}/dependence={self.dependence}"
            f"/captions={self.n_captions}"
        )
