"""Profiles: what ships is valid, overrides are checked, and only one profile may write what git tracks."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sketchae.errors import BadInputError, MissingFileError
from sketchae.profiles import Profile, find_root, load_profile, profile_names


def test_the_three_profiles_ship_and_are_valid():
    assert profile_names() == ("coco", "scenes", "sketch", "smoke")
    for name in profile_names():
        profile = load_profile(name)
        assert profile.name == name and profile.description and not profile.overridden


def test_scenes_is_the_papers_length_and_coco_the_papers_setting():
    scenes, coco = load_profile("scenes"), load_profile("coco")
    assert scenes.n_train >= 8000 and scenes.n_steps == coco.n_steps == 9000 and len(scenes.train_seeds) == 3
    assert (coco.source, coco.dataset, coco.image_size) == ("hub", "romrawinjp/mscoco", 256)
    assert (coco.vae, coco.clip) == ("madebyollin/taesdxl", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    assert coco.n_train is None and coco.batch_size == 64 and coco.lr == 1e-4 and coco.latent_clip == 3.0


def test_a_profile_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_profile("smoke").n_steps = 1


def test_none_means_as_the_profile_says():
    assert load_profile("smoke", n_steps=None, test_seed=None) == load_profile("smoke")


def test_overrides_replace_and_are_remembered():
    profile = load_profile("smoke", n_steps=7, lr=1, train_seeds=[3, 4], vae=Path("folder"), n_pairs=32)
    assert (profile.n_steps, profile.lr, profile.train_seeds, profile.vae) == (7, 1.0, (3, 4), "folder")
    # n_pairs is what the file says already
    assert profile.overridden == ("lr", "n_steps", "train_seeds", "vae")


@given(n_steps=st.integers(1, 10**6), alpha=st.floats(0, 1), seeds=st.lists(st.integers(), min_size=1, unique=True))
def test_any_sensible_override_survives(n_steps, alpha, seeds):
    profile = load_profile("scenes", n_steps=n_steps, alpha=alpha, train_seeds=seeds)
    assert (profile.n_steps, profile.alpha, profile.train_seeds) == (n_steps, alpha, tuple(seeds))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"nsteps": 3}, "did you mean 'n_steps'"),
        ({"zzz": 3}, "the fields are"),
        ({"n_steps": "3"}, "n_steps .* must be int"),
        ({"n_steps": True}, "n_steps .* must be int"),
        ({"n_steps": 2.5}, "n_steps .* must be int"),
        ({"n_steps": 0}, "at least 1"),
        ({"vae_revision": 3}, "must be str"),
        ({"train_seeds": "0"}, "train_seeds"),
        ({"train_seeds": [0.5]}, "train_seeds"),
        ({"train_seeds": [1, 1]}, "different seeds"),
        ({"train_seeds": []}, "one or more"),
        ({"alpha": 1.5}, "between 0 and 1"),
        ({"alpha": float("nan")}, "between 0 and 1"),
        ({"lr": 0.0}, "more than 0"),
        ({"orthogonality_weight": -1.0}, "0 or more"),
        ({"image_size": 100}, "multiple of 8"),
        ({"loss": "l2"}, "mse, l1"),
        ({"source": "web"}, "scenes, hub, folder"),
        ({"source": "hub"}, "hub id"),
        ({"source": "folder"}, "folder of the pictures"),
    ],
)
def test_a_bad_override_is_refused_with_the_remedy(overrides, message):
    with pytest.raises(BadInputError, match=message):
        load_profile("scenes", **overrides)


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(BadInputError, match="coco, scenes, sketch, smoke"):
        load_profile("sceens")


def test_a_profile_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('source = "folder"\ndataset = "pictures"\nimage_size = 64\nn_steps = 10\n')
    profile = load_profile(str(path), n_steps=20)
    assert profile.name == "mine" and profile.n_steps == 20 and profile.n_train is None


@pytest.mark.parametrize(
    ("file", "content", "error", "message"),
    [
        ("mine.toml", None, MissingFileError, "no profile file"),
        ("mine.toml", "n_steps = [", BadInputError, "not valid TOML"),
        ("mine.toml", 'source = "scenes"\nn_steps = 3', BadInputError, "does not say image_size"),
        ("mine.toml", 'source = "scenes"\nn_steps = 3\nimage_size = 64', BadInputError, "n_train, n_val and n_test"),
        ("scenes.toml", "", BadInputError, "rename it"),
    ],
)
def test_a_bad_profile_file_is_refused(tmp_path, file, content, error, message):
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(error, match=message):
        load_profile(str(tmp_path / file))


def test_root_is_the_clone_wherever_one_stands_in_it(tmp_path, monkeypatch, repository):
    monkeypatch.chdir(repository / "sketchae")
    assert find_root() == (repository if (repository / "notebooks").is_dir() else Path.cwd())
    (tmp_path / "notebooks" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks" / "deep")
    assert find_root() == Path.cwd()
    (tmp_path / "pyproject.toml").touch()
    assert find_root() == tmp_path
    monkeypatch.setenv("SKETCHAE_ROOT", str(tmp_path / "elsewhere"))
    assert find_root() == tmp_path / "elsewhere"


def test_only_the_unchanged_scenes_profile_writes_what_git_tracks(tmp_path, monkeypatch):
    monkeypatch.setenv("SKETCHAE_ROOT", str(tmp_path))
    scenes = load_profile("scenes")
    assert (scenes.figures_dir, scenes.results_dir) == (tmp_path / "figures", tmp_path / "results")
    assert scenes.latents_dir == tmp_path / "build" / "scenes" / "latents"
    for other in (load_profile("smoke"), load_profile("coco"), load_profile("scenes", n_steps=5)):
        assert other.results_dir == tmp_path / "build" / other.name / "results"


def test_output_can_be_redirected(tmp_path, monkeypatch):
    monkeypatch.setenv("SKETCHAE_OUTPUT", str(tmp_path / "out"))
    assert load_profile("scenes").figures_dir == tmp_path / "out" / "figures"
    assert load_profile("scenes", n_steps=5).results_dir == tmp_path / "out" / "results"
    assert load_profile("smoke").results_dir == load_profile("smoke").work_dir / "results"


def test_every_field_is_annotated_with_a_type_that_is_checked():
    for field in dataclasses.fields(Profile):
        assert not isinstance(field.type, str)
