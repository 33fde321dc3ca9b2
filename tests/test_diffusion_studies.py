"""The studies: drawn and kept by networks that know nothing, and read from made-up pictures whose answer is known."""

import dataclasses

import numpy as np
import pytest
import torch
from interruption import interrupted_at

from sketchae.backbones import load_clip, load_vae, own_basis
from sketchae.basis import random_basis
from sketchae.diffusion import SketchDiffusion, arms, build_unet, report, sample, studies
from sketchae.diffusion.arms import Arm, Redraw, Sizes
from sketchae.diffusion.desk import Desk
from sketchae.diffusion.evaluation import obedience, obedience_gain
from sketchae.diffusion.ship import install_diffusion
from sketchae.diffusion.studies import Studies
from sketchae.diffusion.studio import Studio, Turned, clip_scores, read
from sketchae.errors import BadInputError, MissingFileError
from sketchae.scenes import FACTORS, SEMANTIC_FACTORS, STYLE_FACTORS, render, split_scenes

TINY = Sizes(n_steps=2, n_prompts=3, n_samples=2, n_few=2, n_control=2, n_guidance=2, n_real=2)


def tiny_model(levels: str, seed: int = 0) -> SketchDiffusion:
    """For latents of the sketch autoencoder and the embedded CLIP."""
    torch.manual_seed(seed)
    unet = build_unet(4, 16, block_out_channels=(16, 16), norm_num_groups=4, n_heads=2)
    return SketchDiffusion(unet, own_basis("sketch"), torch.zeros(4), torch.ones(4), levels=levels).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def studio():
    return Studio({"two": tiny_model("two"), "one": tiny_model("one")}, load_vae("sketch", device="cpu"), load_clip(device="cpu"), batch_size=3)


@pytest.fixture
def few_arms(monkeypatch):
    """Of each group of arms only some."""
    monkeypatch.setattr(studies, "HEADLINE", {"joint": Arm("two", few=False), "sequential": Arm("two", 1, few=False)})
    monkeypatch.setattr(studies, "OFFSETS", {"offset -1": Arm("two", -1)})
    monkeypatch.setattr(studies, "SPEED", {"sequential, 1 of 3 steps": Arm("two", 1, 3, 1)})
    monkeypatch.setattr(studies, "REDRAWS", {"hold, two, style": Redraw("two", "style", "hold"), "raw 0-2, style": arms.REDRAWS["raw 0-2, style"]})
    monkeypatch.setattr(studies, "GUIDANCE", (1.0, 2.0))


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_a_studio_draws_in_batches_what_sample_draws_at_once(studio):
    from sketchae.diffusion import embed_prompts

    prompts = ["a house", "two trees by the sea", "a cactus, an ink drawing", "a pine", "a windmill"]
    told, empty = (embed_prompts(studio.clip, words) for words in (prompts, [""]))
    model = studio.models["two"]
    whole = sample(model, told, seeds=range(5), n_steps=2, offset=0.3, guidance=3.0, unconditional=empty)
    torch.testing.assert_close(studio.draw(model, prompts, range(5), n_steps=2, offset=0.3), whole, atol=1e-4, rtol=1e-4)
    x, preview = studio.draw_sketched(prompts, range(5), 4, 2)
    path = sample(model, told, seeds=range(5), n_steps=4, offset=1, n_semantic_steps=2, guidance=3.0, unconditional=empty, return_trajectory=True)
    torch.testing.assert_close(x, path.x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(preview, path.previews[2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(preview[:, :2], x[:, :2], atol=1e-4, rtol=1e-4)  # the sketch is finished


def test_turned_coordinates_draw_the_same_pictures_and_hold_their_own_channels(studio):
    model, M = studio.models["one"], random_basis(4, 2, 3).Q
    turned = Turned(model, M, 1)
    x = torch.randn(2, 4, 16, 16)
    torch.testing.assert_close(turned.turn_back(turned.turn(x)), x, atol=1e-5, rtol=0)
    quiet = dataclasses.replace(studio, guidance=1)
    u = quiet.draw(turned, ["a pine"] * 2, range(2), n_steps=2, hold_semantic=turned.turn(x)[:, :1])
    torch.testing.assert_close(u[:, :1], turned.turn(x)[:, :1])
    with pytest.raises(BadInputError, match="the model that has one"):
        Turned(studio.models["two"], M, 1)


@pytest.mark.parametrize("how", ["hold", "raw", "sdedit", "words", "anew"])
def test_a_redraw_keeps_what_it_says(studio, how):
    prompts, model = arms.control_prompts(2), studio.models["one"]
    x0 = torch.randn(2, 4, 16, 16)
    redraw = Redraw("one", "style", how, strength=0.5, channels=(3, 1))
    x = arms.redraw_pictures(studio, redraw, x0, prompts.style, range(2), 2)
    raw = lambda x: torch.einsum("ji,njhw->nihw", model.basis.Q.float(), x)  # noqa: E731 - channels of the VAE
    assert torch.equal(x[:, :2], x0[:, :2]) == (how == "hold")
    assert torch.allclose(raw(x)[:, [3, 1]], raw(x0)[:, [3, 1]], atol=1e-5) == (how == "raw")
    plain = studio.draw(model, prompts.style.prompts, range(2), n_steps=2)
    assert torch.allclose(x, plain, atol=1e-5) == (how == "words")
    if how == "hold":
        back = arms.redraw_pictures(studio, dataclasses.replace(redraw, redrawn="content"), x0, prompts.content, range(2), 2)
        assert torch.equal(back[:, 2:], x0[:, 2:])


def test_control_prompts_change_the_words_of_one_kind_only():
    prompts, scenes = arms.control_prompts(20), split_scenes("test", 40)
    for i in range(20):
        original, style, content = (getattr(prompts, name).prompts[i].split(", ") for name in ("original", "style", "content"))
        assert original[0] == style[0] and original[-1] == content[-1]
    assert prompts.original.prompts != prompts.style.prompts != prompts.content.prompts
    for factor in FACTORS:
        new, other = ("content", "style") if factor in SEMANTIC_FACTORS else ("style", "content")
        asked = getattr(prompts, new).wanted[factor]
        assert (asked[asked >= 0] == scenes.factors[factor][20:][asked >= 0]).all() and (asked >= 0).any()
        np.testing.assert_array_equal(getattr(prompts, other).wanted[factor], prompts.original.wanted[factor])


# --- keeping ----------------------------------------------------------------------------------------------------------


def test_studies_resume_and_are_refused_for_other_networks(studio, few_arms, tmp_path, monkeypatch):
    file, folder = tmp_path / "stored.safetensors", tmp_path / "arms"
    with interrupted_at(7, Studio, "_draw"):
        studies.run_studies(studio, file, folder, TINY, progress=False)
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert finished and not file.exists()
    found = studies.run_studies(studio, file, folder, TINY, progress=False)
    assert all(path.stat().st_mtime_ns == then for path, then in finished.items())

    assert found.sizes == TINY and found.numbers["guidance"]["chosen"] in (1.0, 2.0)
    assert found.readings["joint"]["b"].shape == (6, len(FACTORS)) and found.readings["offset -1"]["a"].shape == (4, len(FACTORS))
    assert "b preview" in found.readings["sequential, 1 of 3 steps"] and "x" not in found.readings["original, two"]
    prompts = arms.prompts_of_test_scenes(3).repeated(2)
    same = dataclasses.replace(studio, guidance=found.numbers["guidance"]["chosen"])
    images = studio.pictures(studio.models["two"], same.draw(studio.models["two"], prompts, range(6), n_steps=2))
    np.testing.assert_array_equal(found.readings["joint"]["b"], read(images)["b"].numpy())
    np.testing.assert_allclose(found.readings["joint"]["clip"], clip_scores(studio.clip, images, prompts), atol=1e-5)

    monkeypatch.setattr(Studio, "_draw", None)  # nothing is drawn again
    again = studies.run_studies(studio, file, folder, TINY, progress=False)
    np.testing.assert_array_equal(again.readings["sequential"]["b"], found.readings["sequential"]["b"])
    with pytest.raises(BadInputError, match="other networks or sizes"):
        studies.run_studies(studio, file, folder, dataclasses.replace(TINY, n_few=1), progress=False)
    assert studies.load_studies(file, studio).about == found.about
    assert studies.is_current(file, studio, TINY) and not studies.is_current(file, studio) and not studies.is_current(tmp_path / "no", studio)
    others = dataclasses.replace(studio, models={"two": tiny_model("two", 1), "one": studio.models["one"]})
    with pytest.raises(BadInputError, match="another diffusion_two_id: make it again"):
        studies.load_studies(file, others)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BadInputError, match="cannot be read"):
        studies.load_studies(file)
    with pytest.raises(MissingFileError, match="python -m sketchae.diffusion.studies"):
        studies.load_studies(tmp_path / "nothing")


def test_an_arm_that_another_process_draws_is_waited_for(tmp_path):
    import threading

    desk, other = (Desk(tmp_path, {"n": 1}, False) for _ in range(2))
    started, finish, drawn = threading.Event(), threading.Event(), []

    def slow(job):
        drawn.append(job)
        started.set()
        assert finish.wait(20)
        return {"t": torch.ones(1)}, {}

    def quick(job):
        drawn.append(job)
        finish.set()
        return {"t": torch.ones(1)}, {}

    thread = threading.Thread(target=desk.all, args=({"a": "a"}, slow))
    thread.start()
    assert started.wait(20)
    found = other.all({"a": "a", "b": "b"}, quick)
    thread.join()
    assert sorted(found) == ["a", "b"] and drawn == ["a", "b"]


def test_only_finished_models_are_installed(tmp_path):
    with pytest.raises(MissingFileError, match="--levels two"):
        install_diffusion(tmp_path)


# --- what is said of them ---------------------------------------------------------------------------------------------

SIZES = Sizes(n_prompts=60, n_samples=4, n_few=40, n_control=60)


ALL = SEMANTIC_FACTORS + STYLE_FACTORS


def shown(wanted: dict[str, np.ndarray], n_samples: int, share: float, seed: int, kinds: tuple[str, ...] = ALL) -> np.ndarray:
    """A table of readings in which a named factor of `kinds` is as wanted with probability `share`, and anything else otherwise."""
    random, columns = np.random.default_rng(seed), []
    for factor, about in FACTORS.items():
        asked = np.repeat(wanted[factor], n_samples)
        anything = random.integers(len(about.values), size=len(asked))
        follows = (asked >= 0) & (random.random(len(asked)) < share) & (factor in kinds)
        columns.append(np.where(follows, asked, anything))
    return np.stack(columns, 1).astype(np.uint8)


@pytest.fixture(scope="module")
def made_up():
    """Studies of a world in which we know who obeys: "joint" always, "one level" never, all others half of the time."""
    prompts, control = arms.prompts_of_test_scenes(60), arms.control_prompts(60)
    shares = {"joint": 1.0, "one level": 0.0}
    readings, numbers = {}, {"reconstructed": {"frechet": None}, "guidance": {"chosen": 2.0}}
    readings["reconstructed"] = {"b": shown(prompts.wanted, 1, 1.0, 9)}
    for i, (name, arm) in enumerate(arms.ARMS.items()):
        n = SIZES.n_few if arm.few else SIZES.n_prompts
        wanted = {factor: values[:n] for factor, values in prompts.wanted.items()}
        table = shown(wanted, 4, shares.get(name, 0.5), i)
        right = np.mean([np.repeat(wanted[f], 4) == table[:, list(FACTORS).index(f)] for f in SEMANTIC_FACTORS], axis=0)
        readings[name] = {"b": table, "a": table, "b preview": table, "a preview": table, "clip": right, "clip preview": right}
        numbers[name] = {"frechet": None}
    for levels in ("two", "one"):
        readings[f"original, {levels}"] = {"b": shown(control.original.wanted, 1, 1.0, 1)}
    for i, (name, redraw) in enumerate(arms.REDRAWS.items()):
        words, kinds = getattr(control, redraw.redrawn).wanted, STYLE_FACTORS if redraw.redrawn == "style" else SEMANTIC_FACTORS
        table = shown(words, 1, 1.0 if redraw.how == "hold" else 0.3, 100 + i, ALL if redraw.how == "hold" else kinds)
        if redraw.how == "hold":
            kept = [list(FACTORS).index(factor) for factor in ALL if factor not in kinds]
            table[:, kept] = readings["original, two"]["b"][:, kept]
        readings[name] = {"b": table}
    return Studies(dataclasses.asdict(SIZES), {}, readings, numbers)


def test_rows_tell_who_obeys(made_up):
    rows = {name: report.sample_row(made_up, name) for name in ("joint", "one level", "sequential")}
    assert rows["joint"]["semantic"] == rows["joint"]["style"] == 1
    assert abs(rows["one level"]["mean"]) < 0.1 < rows["sequential"]["semantic_ci95"][0] < 0.55
    assert "frechet" not in rows["joint"] and rows["joint"]["judge_a"] == 1
    assert report.reference_row(made_up)["mean"] == 1
    few = report.sample_row(made_up, "sequential", few=True)
    assert few != rows["sequential"] and abs(few["mean"] - rows["sequential"]["mean"]) < 0.1


def test_gains_are_paired_differences(made_up):
    gain = report.gain(made_up, "joint", "one level")
    rows = {name: report.sample_row(made_up, name) for name in ("joint", "one level")}
    assert gain.mean == pytest.approx(rows["joint"]["mean"] - rows["one level"]["mean"])
    assert gain.mean_ci95[0] < gain.mean < gain.mean_ci95[1] and gain.semantic_ci95[0] > 0.8
    back = report.gain(made_up, "one level", "joint")
    assert back.style == -gain.style and back.style_ci95 == tuple(-x for x in reversed(gain.style_ci95))
    same = report.gain(made_up, "joint", "joint")
    assert same.mean == 0 and same.mean_ci95 == (0, 0)
    prompts = arms.prompts_of_test_scenes(60)
    first, second = made_up.read("joint"), made_up.read("sequential")
    direct = obedience_gain(first, second, prompts, n_boot=10)
    assert direct.semantic == pytest.approx(obedience(first, prompts).semantic - obedience(second, prompts).semantic)


def test_control_tells_who_holds(made_up):
    for what in ("style", "content"):
        rows = report.kept_and_obeyed(made_up, what)
        assert rows[f"hold, two, {what}"]["x"] == rows[f"hold, two, {what}"]["y"] == 1
        assert rows[f"anew, {what}"]["x"] < 0.5 and rows[f"anew, {what}"]["y"] < 0.5
        points, curves = report.control_chart(made_up, what)
        assert len(points) == (5 if what == "style" else 4) and [p["text"] for p in next(iter(curves.values()))] == ["0.4", "0.6", "0.8", "1"]


def test_sdedit_is_matched_by_what_the_held_sketch_changes_and_the_best_raw_pair_is_found():
    """Of 80 pictures, the first so many changed: SDEdit at 0.4, 0.6, 0.8 and 1 changes 20, 40, 60, 80 in style, and half as many in content."""
    before = np.zeros((80, len(FACTORS)), dtype=np.uint8)

    def changed(n_style: int, n_content: int) -> dict[str, np.ndarray]:
        after = before.copy()
        for i, factor in enumerate(FACTORS):
            after[: n_content if factor in SEMANTIC_FACTORS else n_style, i] = 1
        return {"b": after}

    readings = {f"original, {levels}": {"b": before} for levels in ("two", "one")}
    readings |= {name: changed(80, 80) for name in arms.REDRAWS}
    readings |= {f"sdedit {0.2 + 0.2 * i:g}, style": changed(20 * i, 10 * i) for i in (1, 2, 3)} | {"anew, style": changed(80, 40)}
    readings |= {"hold, two, style": changed(50, 4), "hold, one, style": changed(10, 0)}
    wanted = arms.control_prompts(80).style.wanted
    readings["raw 1-2, style"] = {"b": (shown(wanted, 1, 1.0, 0) * [f in STYLE_FACTORS for f in FACTORS]).astype(np.uint8)}
    found = Studies(dataclasses.asdict(dataclasses.replace(SIZES, n_control=80)), {}, readings, {})
    assert report.matched_sdedit(found, "style", "two") == pytest.approx({"strength": 0.7, "kept": 1 - 25 / 80, "hold_kept": 0.95})
    assert report.matched_sdedit(found, "style", "one") is None  # SDEdit never changes so little
    assert report.best_raw_pair(found) == "raw 1-2, style"


def test_labels_are_all_different():
    for what in ("style", "content"):
        names = [name for name, redraw in arms.REDRAWS.items() if redraw.redrawn == what]
        assert len({report.redraw_label(name) for name in names}) == len(names)
        assert len({report.key(name) for name in names}) == len(names)


def test_feedback_and_speed(made_up):
    row = report.preview_row(made_up, "sequential")
    assert row["semantic"] == row["style"] == 1 and row["share_of_cost"] == 7 / 12
    choice = report.choice(made_up, "sequential", "a")
    assert choice.one.expected < choice.late.expected < choice.early.expected and choice.gain_ci95[0] > 0
    assert report.choice(made_up, "sequential", "clip").early.expected > choice.one.expected
    assert report.preview_row(made_up, "sequential, 2 of 12 steps")["share_of_cost"] == 3 / 12
    lines = report.speed_lines(made_up)
    assert {name: [p["x"] for p in line] for name, line in lines.items()} == {
        "two levels, together": [4, 8, 12],
        "two levels, sketch 0.3 ahead": [4, 8, 12],
        "two levels, sketch first": [4, 8, 12],
        "one level": [4, 8, 12],
    }
    assert list(report.short_sketches(made_up)) == ["1 of 4", "2 of 4", "2 of 8", "4 of 8", "2 of 12", "4 of 12", "6 of 12"]


def test_readings_are_of_real_pictures():
    scenes = split_scenes("test", 8)
    tables = read(render(scenes).images, " preview")
    right = np.mean([tables["b preview"][:, i].numpy() == scenes.factors[factor] for i, factor in enumerate(FACTORS)])
    assert set(tables) == {"a preview", "b preview"} and right > 0.9


def test_what_ships_belongs_together_and_is_whole():
    found = studies.load_studies(studio=studies.load_studio())
    sizes = found.sizes
    assert sizes == Sizes() and found.numbers["guidance"]["chosen"] in studies.GUIDANCE
    for name, arm in arms.ARMS.items():
        assert len(found.readings[name]["b"]) == sizes.n_samples * (sizes.n_few if arm.few else sizes.n_prompts), name
        assert found.numbers[name]["frechet"]["distance"] > 0
    for name in arms.REDRAWS:
        assert len(found.readings[name]["b"]) == sizes.n_control, name
