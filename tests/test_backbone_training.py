"""Training what ships: every network for a few steps, interrupted and resumed."""

import json

import numpy as np
import pytest
import torch
from interruption import interrupted_at
from torch import nn

from sketchae.backbone_training.clip import contrastive_loss, make_processor
from sketchae.backbone_training.loop import LoopConfig, fit
from sketchae.backbone_training.pool import ImagePool, batch_rows, minimal_sets
from sketchae.backbone_training.ship import NETWORKS, BackboneBudget, install_backbones, train_backbones
from sketchae.errors import BadInputError, MissingFileError
from sketchae.metrics import backbones as measure
from sketchae.scenes import FACTORS, captions, render, sample_scenes, split_scenes
from sketchae.scenes.captions import naming_only


def run(out, n_steps=20):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    config = LoopConfig(n_steps=n_steps, lr=1e-2, n_warmup=3, checkpoint_every=4)

    def step_loss(step):
        x = torch.from_numpy(np.random.default_rng(step).standard_normal((8, 3), dtype=np.float32))
        return {"loss": (model(x) - x.sum(1, keepdim=True)).square().mean()}

    record = fit(model, step_loss, config, out, "line")
    return model, record


def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path):
    whole, _ = run(tmp_path / "whole")
    with interrupted_at(12, nn.Linear, "forward"):
        run(tmp_path / "parts")
    resumed, record = run(tmp_path / "parts")
    assert torch.equal(whole.weight, resumed.weight) and record["log"][-1]["step"] == 19
    assert [p.name for p in (tmp_path / "parts").glob("step-*")] == ["step-0000020.safetensors"]


def test_other_settings_do_not_continue_a_training(tmp_path):
    run(tmp_path)
    with pytest.raises(BadInputError, match="remove the folder"):
        run(tmp_path, n_steps=30)


def test_batches_are_epochs_of_permutations():
    rows = np.concatenate([batch_rows(20, 5, step, seed=1) for step in range(4)])
    assert sorted(rows) == list(range(20))
    assert np.array_equal(batch_rows(20, 5, 9, seed=1), batch_rows(20, 5, 9, seed=1))


def test_a_pool_holds_the_scenes_of_its_split(tmp_path):
    pool = ImagePool(tmp_path, "judge_a", 6)
    expected = render(split_scenes("judge_a", 6)).images[[4, 1]]
    assert (pool.images(np.array([4, 1])) - expected).abs().max() <= 0.5 / 255 + 1e-6
    assert len(ImagePool(tmp_path, "judge_a", 6)) == 6


def test_the_vocabulary_covers_every_caption():
    tokenizer = make_processor().tokenizer
    assert tokenizer.eos_token_id == 3  # 2 would switch on transformers' legacy pooling
    for kind in ("content", "style", "both"):
        texts = [row[0] for row in captions(sample_scenes(range(10_000, 10_400)), kind, 1)]
        ids = tokenizer(texts)["input_ids"]
        assert all(tokenizer.unk_token_id not in row and len(row) < 48 for row in ids)


def test_contrastive_loss_is_low_for_matching_pairs_only():
    e = torch.eye(6)[None]
    scale = torch.tensor(20.0)
    assert contrastive_loss(e, e, scale) < 1e-3 < contrastive_loss(e, e.roll(1, 1), scale)
    # Within sets: twice the same three embeddings would be ambiguous in one batch, and are not in two sets of three.
    twice = torch.eye(3)[None].repeat(2, 1, 1)
    assert contrastive_loss(twice, twice, scale) < 1e-3 < contrastive_loss(twice.reshape(1, 6, 3), twice.reshape(1, 6, 3), scale)


def test_minimal_sets_differ_in_one_factor_only(tmp_path):
    scenes = minimal_sets("backbones", 12, "celestial")
    assert scenes.value_names("celestial")[:4] == list(FACTORS["celestial"].values)
    for name in FACTORS:
        first = scenes.factors[name].reshape(3, 4)
        assert name == "celestial" or (first == first[:, :1]).all()
    assert (scenes.content_jitter_seed.reshape(3, 4) == scenes.content_jitter_seed.reshape(3, 4)[:, :1]).all()
    pool = ImagePool(tmp_path, "backbones", 8, vary="celestial")
    expected = render(minimal_sets("backbones", 8, "celestial")).images
    assert (pool.images(np.arange(8)) - expected).abs().max() <= 0.5 / 255 + 1e-6
    assert naming_only("celestial", scenes[:4], 1) == ["under a clear sky", "with the sun above", "with a crescent moon above", "with a cloud above"]


@pytest.mark.timeout(400)
def test_all_networks_train_and_are_installed(tmp_path):
    steps = dict(vae_steps=2, clip_steps=2, clip_hard_steps=2, judge_a_steps=2, judge_b_steps=2)
    budget = BackboneBudget(**steps, n_backbone_scenes=64, n_minimal_scenes=64, n_judge_scenes=64)
    folder = train_backbones(tmp_path / "work", budget)
    install_backbones(folder, tmp_path / "assets")
    for name in NETWORKS:
        about = json.loads((tmp_path / "assets" / name / "provenance.json").read_text())
        stages = about["loop"] if name == "clip" else [about["loop"]]
        assert about["network"] == name and [stage["n_steps"] for stage in stages] == [2] * len(stages)
    from sketchae.backbones import load_clip, load_vae
    from sketchae.scenes import load_judge

    scenes = sample_scenes(range(4))
    images = render(scenes).images
    z, recon = measure.reconstruct(load_vae(tmp_path / "assets" / "vae"), images)
    assert z.shape == (4, 4, 16, 16) and recon.shape == images.shape
    assert load_clip(tmp_path / "assets" / "clip").embed_images(images).shape == (4, 128)
    assert set(load_judge("b", tmp_path / "assets" / "judge_b").predict(images)) == set(FACTORS)
    further = train_backbones(tmp_path / "further", budget, only=("clip",), clip_start=folder / "clip")
    about = json.loads((further / "clip" / "provenance.json").read_text())
    assert len(about["loop"]) == 3 and about["last_losses"]["step"] == 5  # two stages before, one more now
    with pytest.raises(BadInputError, match="no network"):
        train_backbones(tmp_path / "work", budget, only=("unet",))
    with pytest.raises(MissingFileError, match="finished"):
        install_backbones(tmp_path / "nothing", tmp_path / "assets")




def test_metrics_of_the_codec_and_of_reading():
    scenes = sample_scenes(range(6))
    images = render(scenes).images
    assert torch.allclose(measure.psnr_db(images, images + 0.1), torch.full((6,), 20.0), atol=1e-2)

    class Perfect:
        def predict(self, pictures):
            return {name: torch.from_numpy(values) for name, values in scenes.factors.items()}

    assert set(measure.reading_accuracy(Perfect(), images, scenes).values()) == {1.0}


def test_recall_of_a_clip_that_knows_nothing_is_chance():
    scenes = sample_scenes(range(256))

    class Random:
        def embed_texts(self, texts):
            return torch.randn(len(texts), 64, generator=torch.Generator().manual_seed(1))

    embeds = torch.randn(256, 64, generator=torch.Generator().manual_seed(2))
    recall = measure.caption_recall(Random(), embeds, scenes)
    assert recall["recall_at_1"] < 0.05 and 1 / 256 <= recall["chance"] < 0.05


def test_recall_and_zero_shot_of_a_clip_that_knows_all():
    """Embeddings made of one-hot factor values, texts read by their words: near-perfect scores."""
    scenes = sample_scenes(range(256))
    place = {(n, i): k for k, (n, i) in enumerate((n, i) for n, f in FACTORS.items() for i in range(len(f.values)))}
    embeds = torch.zeros(256, len(place))
    for n, values in scenes.factors.items():
        for row, value in enumerate(values):
            embeds[row, place[n, int(value)]] = 1

    class Knows:
        def embed_texts(self, texts):
            out = torch.zeros(len(texts), len(place))
            for row, text in enumerate(texts):
                for i, value in enumerate(FACTORS["object"].values):
                    if value.rstrip("us") in text or (value == "cactus" and "cacti" in text):
                        out[row, place["object", i]] = 1
            return out

    accuracy = measure.zero_shot_accuracy(Knows(), embeds, scenes, n_prompts=8)
    assert accuracy["object"] == 1.0 and accuracy["light"] < 0.6
