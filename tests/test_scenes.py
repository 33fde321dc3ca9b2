"""The embedded world: repeatable, independent, without leaks, and frozen."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sketchae.errors import BadInputError, MissingFileError
from sketchae.scenes import (
    FACTORS,
    IMAGE_SIZE,
    REGIONS,
    SCENES_VERSION,
    SEMANTIC_FACTORS,
    SPLITS,
    STYLE_FACTORS,
    captions,
    captions_with_factors,
    counterfactual,
    fits,
    load_judge,
    render,
    sample_scenes,
    scenes_dataset,
    split_scenes,
    to_uint8,
)

GOLDEN = Path(__file__).parent / "golden" / f"scenes_v{SCENES_VERSION}.json"


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(range(48))


@pytest.fixture(scope="module")
def drawn(scenes):
    return render(scenes)


def fingerprint(n: int = 12) -> dict:
    """Factor values, and pixels averaged over squares of 16, of scenes spread over all splits and seeds."""
    scenes = sample_scenes(np.arange(n) * 345_679, seed=3)
    images = render(scenes).images
    return {
        "factors": {name: values.tolist() for name, values in scenes.factors.items()},
        "pixels": torch.nn.functional.avg_pool2d(images, 16).flatten(1).double().numpy().round(5).tolist(),
        "captions": captions(scenes, "both", 2),
    }


def test_the_world_is_frozen():
    """Same factors and words, same pixels within 1/255. If this fails on purpose, raise SCENES_VERSION."""
    golden, now = json.loads(GOLDEN.read_text()), fingerprint()
    assert now["factors"] == golden["factors"] and now["captions"] == golden["captions"]
    assert np.abs(np.array(now["pixels"]) - np.array(golden["pixels"])).max() <= 1 / 255


def test_enough_factors():
    assert len(SEMANTIC_FACTORS) >= 6 and len(STYLE_FACTORS) >= 4
    assert len(FACTORS["object"].values) >= 8 and len(FACTORS["palette"].values) >= 8 and len(FACTORS["medium"].values) >= 5


def test_pictures_are_pictures(drawn):
    assert drawn.images.shape == (48, 3, IMAGE_SIZE, IMAGE_SIZE) and drawn.images.dtype == torch.float32
    assert drawn.images.min() >= 0 and drawn.images.max() <= 1
    assert drawn.images.flatten(1).std(1).min() > 0.02
    assert to_uint8(drawn.images[:2]).shape == (2, IMAGE_SIZE, IMAGE_SIZE, 3)


@pytest.mark.parametrize("batch_size", [1, 7, 48])
def test_a_picture_does_not_depend_on_its_batch(scenes, drawn, batch_size):
    again = render(scenes, batch_size=batch_size)
    assert (again.images - drawn.images).abs().max() <= 1 / 255
    assert (again.segmentation != drawn.segmentation).float().mean() < 1e-4


def test_a_scene_does_not_depend_on_its_neighbours(scenes):
    alone = sample_scenes([17])
    assert all(alone.factors[n][0] == scenes.factors[n][17] for n in FACTORS)
    shuffled = sample_scenes([5, 17, 2])
    assert shuffled.content_jitter_seed[1] == scenes.content_jitter_seed[17]
    assert not np.array_equal(sample_scenes(range(48), seed=1).factors["object"], scenes.factors["object"])


def test_splits_are_disjoint():
    ranges = sorted(SPLITS.values(), key=lambda r: r.start)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges))


def test_factors_are_uniform_and_independent():
    """Chi-squared statistics of single factors and of all pairs lie where chance puts them."""
    many = sample_scenes(range(20_000))
    names = list(FACTORS)
    for i, first in enumerate(names):
        counts = np.bincount(many.factors[first], minlength=len(FACTORS[first].values))
        expected = 20_000 / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 40, first
        for second in names[:i]:
            table = np.zeros((len(FACTORS[first].values), len(FACTORS[second].values)))
            np.add.at(table, (many.factors[first], many.factors[second]), 1)
            expected = 20_000 / table.size
            statistic, freedom = ((table - expected) ** 2 / expected).sum(), table.size - 1
            assert statistic < freedom + 5 * (2 * freedom) ** 0.5, (first, second)


def test_dependence_ties_palette_to_object():
    tied = sample_scenes(range(4000), dependence=1.0)
    assert np.array_equal(tied.factors["palette"], tied.factors["object"])
    half = sample_scenes(range(4000), dependence=0.5)
    share = (half.factors["palette"] == half.factors["object"]).mean()
    assert abs(share - (0.5 + 0.5 / 8)) < 0.04
    free = sample_scenes(range(4000))
    for name in FACTORS:
        if name != "palette":
            assert np.array_equal(free.factors[name], half.factors[name])


def test_counterfactual_takes_content_from_one_and_style_from_the_other(scenes, drawn):
    a, b = scenes[:24], scenes[24:]
    swapped = counterfactual(a, b)
    assert all(np.array_equal(swapped.factors[n], (a if n in SEMANTIC_FACTORS else b).factors[n]) for n in FACTORS)
    shown = render(swapped)
    assert torch.equal(shown.segmentation, drawn.segmentation[:24])  # where things are does not depend on style
    assert torch.equal(render(counterfactual(a, a)).images, drawn.images[:24])
    with pytest.raises(BadInputError, match="row by row"):
        counterfactual(a, b[:3])


def test_no_object_betrays_a_colour():
    """Flat, bold, evenly lit: whatever the object, the region is painted with the same few colours."""
    base = sample_scenes([11]).with_factor("medium", "flat").with_factor("light", "even").with_factor("tone", "bold")
    base = base.with_factor("size", "large").with_factor("count", "one")
    extremes = []
    for kind in FACTORS["object"].values:
        one = render(base.with_factor("object", kind))
        inside = one.images[0][:, one.segmentation[0] == REGIONS.index("object")]
        extremes.append(torch.stack([inside.amax(1), inside.amin(1)]))
    spread = torch.stack(extremes)
    assert (spread.amax(0) - spread.amin(0)).max() < 0.25  # contours and edges mix; hues would differ by more


@pytest.mark.parametrize("medium", FACTORS["medium"].values)
def test_no_style_destroys_the_content(medium):
    """The object stands out from its surroundings in every medium."""
    base = sample_scenes(range(32)).with_factor("medium", medium).with_factor("size", "large")
    shown, empty = render(base), render(base.with_factor("size", "small").with_factor("count", "one"))
    changed = (shown.images - empty.images).abs().amax(1)
    region = shown.segmentation == REGIONS.index("object")
    assert (changed * region).flatten(1).amax(1).min() > 0.08


def test_every_region_is_mapped(drawn, scenes):
    for index, region in enumerate(REGIONS):
        share = (drawn.segmentation == index).flatten(1).float().mean(1)
        expected = np.ones(48, bool) if region != "celestial" else scenes.factors["celestial"] > 0
        assert np.array_equal((share > 0.002).numpy(), expected), region


def test_captions_tell_the_truth_and_only_what_they_may():
    scenes = sample_scenes(range(300))
    words = {kind: {w for row in captions(scenes, kind, 4) for c in row for w in c.replace(",", " ").split()} for kind in ("content", "style")}
    for name in STYLE_FACTORS[:2]:
        assert not words["content"] & set(FACTORS[name].values)
    assert not words["style"] & (set(FACTORS["object"].values) | {"mountains", "sea", "moon", "cloud", "horizon"})
    for i, row in enumerate(captions_with_factors(scenes, "content", 3, min_factors=4)):
        for caption, named in row:
            assert len(named) >= 4 and set(named) <= set(SEMANTIC_FACTORS) and fits(scenes, scenes[i], named)[i]
            stem = scenes.value_names("object")[i].rstrip("us").rstrip("i")
            assert stem in caption
            if "celestial" in named and scenes.value_names("celestial")[i] != "nothing":
                assert scenes.value_names("celestial")[i] in caption
    with pytest.raises(BadInputError, match="captions"):
        captions(scenes, "haiku")


def test_fits_counts_scenes_that_agree():
    scenes = sample_scenes(range(500))
    expected = (scenes.factors["object"] == scenes.factors["object"][3]) & (scenes.factors["count"] == scenes.factors["count"][3])
    assert np.array_equal(fits(scenes, scenes[3], ("object", "count")), expected)


def test_dataset_has_real_features(tmp_path):
    data = scenes_dataset("val", 70, cache_dir=str(tmp_path))
    assert len(data) == 70 and data.features["object"].names == list(FACTORS["object"].values)
    row = data[65]
    assert row["image"].size == (IMAGE_SIZE, IMAGE_SIZE) and len(row["captions"]) == 5
    scene = split_scenes("val", 70)[65]
    assert row["index"] == SPLITS["val"][65] and row["object"] == scene.factors["object"][0]
    assert np.array_equal(np.asarray(row["image"]), to_uint8(render(scene).images)[0])
    assert scenes_dataset("val", 70, cache_dir=str(tmp_path)).cache_files == data.cache_files


@pytest.mark.parametrize("bad", [{"dependence": 1.5}, {"dependence": -0.1}])
def test_bad_dependence(bad):
    with pytest.raises(BadInputError, match="probability"):
        sample_scenes([0], **bad)


def test_bad_requests(tmp_path):
    with pytest.raises(BadInputError, match="negative"):
        sample_scenes([-1])
    with pytest.raises(BadInputError, match="no split"):
        split_scenes("holdout", 3)
    with pytest.raises(BadInputError, match="were asked for"):
        split_scenes("test", 10**7)
    with pytest.raises(MissingFileError, match="RETRAIN"):
        load_judge("a", tmp_path)
    with pytest.raises(BadInputError, match="two judges"):
        from sketchae.scenes.judges import make_judge

        make_judge("c")
    assert len(render(sample_scenes([])).images) == 0
