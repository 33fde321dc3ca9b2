"""Training, keeping and loading the diffusion model, with networks that learn a handful of latents in seconds."""

import dataclasses
import json
from pathlib import Path

import accelerate
import numpy as np
import pytest
import torch
from interruption import interrupted_at
from tiny import CAPTIONS, tiny_clip, tiny_vae
from two_processes import run_in_two

from sketchae.backbone_training.pool import ImagePool
from sketchae.backbones import load_clip, load_vae
from sketchae.basis import random_basis
from sketchae.diffusion import (
    DiffusionConfig,
    SketchDiffusion,
    build_unet,
    embed_prompts,
    encode_pool,
    generate,
    load_diffusion,
    open_pool,
    sample,
    save_diffusion,
    train_diffusion,
)
from sketchae.diffusion import __main__ as command
from sketchae.diffusion import training as training_module
from sketchae.errors import BadInputError, MissingFileError

BASIS = random_basis(3, 2, 1)
PROMPTS = [[caption] for caption in CAPTIONS]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(tiny_clip(tmp_path_factory.mktemp("clip")), device="cpu")


def latents(n: int = 8, seed: int = 0) -> torch.Tensor:
    """Smooth latents (n, 3, 4, 4), far from mean 0 and standard deviation 1."""
    coarse = torch.randn(n, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    return 1 + 2 * torch.nn.functional.interpolate(coarse, size=(4, 4), mode="bilinear")


def tiny_unet(seed: int = 0):
    torch.manual_seed(seed)
    return build_unet(3, 4, text_dim=16, pooled_dim=16, block_out_channels=(16, 16), norm_num_groups=4, n_heads=2)


def config(**changes) -> DiffusionConfig:
    return DiffusionConfig(**{"n_steps": 6, "batch_size": 4, "n_warmup": 2, "checkpoint_every": 2, **changes})


def train(out, clip, z=None, prompts=PROMPTS, **changes):
    return train_diffusion(latents() if z is None else z, prompts, clip, BASIS, out, config(**changes), unet=tiny_unet())


def test_it_learns_a_handful_of_latents_and_their_prompts(tmp_path, clip):
    z = latents(2, seed=1)
    options = {"n_steps": 90, "lr": 8e-3, "ema_decay": 0.95, "checkpoint_every": 1000, "drop_prompt": 0.0}
    model, record = train(tmp_path, clip, z.repeat(8, 1, 1, 1), PROMPTS[:2] * 8, batch_size=16, **options)
    first, last = record["log"][0], record["log"][-1]
    # ε - x has variance 2: what a constant predictor is left with.
    assert first["loss"] > 1.6 and last["loss"] < 0.8 and last["semantic"] < 1 and last["style"] < 1
    prompts = embed_prompts(clip, [CAPTIONS[0], CAPTIONS[1]])
    for offset in (0, 1):
        drawn = model.decode(sample(model, prompts, seeds=[0, 1], n_steps=12, offset=offset))
        error = (drawn[:, None] - z[None]).square().mean((2, 3, 4))
        assert error[0, 0] < error[0, 1] / 2 and error[1, 1] < error[1, 0] / 2


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import accelerate, torch
from test_diffusion_training import BASIS, PROMPTS, config, latents, tiny_unet
from sketchae.backbones import load_clip
from sketchae.diffusion import save_diffusion, train_diffusion
from sketchae.processes import new_accelerator

torch.set_num_threads(1)
accelerator = new_accelerator()
assert accelerator.num_processes == 2
clip = load_clip({clip!r}, device="cpu")
model, _ = train_diffusion(latents(), PROMPTS, clip, BASIS, {out!r} + "/run", config(), unet=tiny_unet(), accelerator=accelerator)
save_diffusion(model, {out!r} + f"/process-{{accelerator.process_index}}")
accelerate.PartialState().destroy_process_group()
"""


def test_two_processes_train_the_same_model(tmp_path):
    tiny_clip(tmp_path / "clip")
    whole, record = train(tmp_path / "one", load_clip(tmp_path / "clip", device="cpu"))
    here = Path(__file__).resolve().parent
    script = tmp_path / "train_in_two.py"
    script.write_text(SCRIPT.format(tests=str(here), clip=str(tmp_path / "clip"), out=str(tmp_path)))
    run = run_in_two(script)
    assert run.returncode == 0, run.stderr
    for process in (0, 1):
        model = load_diffusion(tmp_path / f"process-{process}")
        for name, value in whole.unet.state_dict().items():  # the same batches, summed in another order
            assert torch.allclose(value, model.unet.state_dict()[name], atol=1e-4), name
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert [row["loss"] for row in state["log"]] == pytest.approx([row["loss"] for row in record["log"]], rel=1e-3)


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path, clip, monkeypatch):
    accelerator = accelerate.Accelerator(cpu=True)
    monkeypatch.setattr(type(accelerator), "num_processes", 3)
    with pytest.raises(BadInputError, match="4 pictures cannot be shared by 3 processes"):
        train_diffusion(latents(), PROMPTS, clip, BASIS, tmp_path, config(), unet=tiny_unet(), accelerator=accelerator)


@pytest.mark.parametrize("levels", ["two", "one"])
def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path, clip, levels):
    whole, record = train(tmp_path / "whole", clip, levels=levels)
    with interrupted_at(6, training_module, "draw_levels"):
        train(tmp_path / "parts", clip, levels=levels)
    resumed, resumed_record = train(tmp_path / "parts", clip, levels=levels)
    assert resumed_record["log"][-1] == record["log"][-1] and resumed.levels == levels
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_one_level_and_two_share_everything_but_the_levels(tmp_path, clip, monkeypatch):
    seen = []

    def watched(x, noise, t):
        seen.append((x, noise, t))
        return x

    monkeypatch.setattr(training_module, "add_noise", watched)
    for levels in ("two", "one"):
        train(tmp_path / levels, clip, n_steps=1, levels=levels)
    (x, noise, two), (other_x, other_noise, one) = seen
    assert torch.equal(x, other_x) and torch.equal(noise, other_noise)
    assert (one == one[:, :1]).all() and not (two == two[:, :1]).all()


def test_the_network_sees_standardised_latents(tmp_path, clip):
    model, _ = train(tmp_path, clip, n_steps=1)
    x = model.encode(latents())
    assert x.mean((0, 2, 3)).abs().max() < 1e-5 and (x.std((0, 2, 3)) - 1).abs().max() < 1e-5


def test_a_training_goes_on_with_its_own_data_and_settings_only(tmp_path, clip):
    train(tmp_path, clip)
    swapped = [PROMPTS[1], PROMPTS[0], *PROMPTS[2:]]
    for changes in ({"z": latents(seed=5)}, {"prompts": swapped}, {"levels": "one"}, {"clean_share": 0.1}):
        with pytest.raises(BadInputError, match="remove the folder"):
            train(tmp_path, clip, **changes)
    with pytest.raises(BadInputError, match="remove the folder"):
        train_diffusion(latents(), PROMPTS, clip, random_basis(3, 2, 2), tmp_path, config(), unet=tiny_unet())


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"prompts": PROMPTS[:3]}, "list of at least one"),
        ({"prompts": [[]] * 8}, "list of at least one"),
        ({"prompts": list(CAPTIONS)}, "list of at least one"),
        ({"batch_size": 9}, "smaller batch_size"),
        ({"levels": "three"}, '"two" or "one"'),
        ({"equal_share": 0.5, "noise_share": 0.4}, "sum to 1"),
        ({"drop_prompt": 1.5}, "between 0 and 1"),
        ({"n_steps": 0}, "at least one"),
        ({"z": latents()[:1].expand(8, -1, -1, -1) * 0}, "never varies"),
    ],
)
def test_training_refuses(tmp_path, clip, changes, remedy):
    with pytest.raises(BadInputError, match=remedy):
        train(tmp_path, clip, **changes)


def test_a_basis_of_another_vae_is_refused(tmp_path, clip):
    codec = load_vae(tiny_vae(tmp_path / "vae", channels=3), device="cpu")
    basis = random_basis(3, 2, 1)
    basis.vae_id = "another"
    with pytest.raises(BadInputError, match="other weights"):
        train_diffusion(latents(), PROMPTS, clip, basis, tmp_path / "training", config(), codec=codec, unet=tiny_unet())


# --- latents ----------------------------------------------------------------------------------------------------------


def test_a_larger_pool_serves_and_latents_are_encoded_once(tmp_path):
    large = ImagePool(tmp_path / "pool", "judge_a", 6)
    pool = open_pool(tmp_path / "pool", 4, "judge_a")
    assert len(pool) == 6 and len(open_pool(tmp_path / "elsewhere", 3, "judge_a")) == 3
    codec = load_vae(tiny_vae(tmp_path / "vae"), device="cpu")
    z = encode_pool(codec, pool, 4, tmp_path / "latents", progress=False)
    assert z.dtype == torch.float32 and torch.equal(z, codec.encode(large.images(np.arange(4))).half().float())
    n_encoded = codec.n_entries
    assert torch.equal(encode_pool(codec, pool, 4, tmp_path / "latents", progress=False), z) and codec.n_entries == n_encoded
    other = load_vae(tiny_vae(tmp_path / "other", seed=1), device="cpu")
    assert not torch.equal(encode_pool(other, pool, 4, tmp_path / "latents", progress=False), z)
    encode_pool(codec, pool, 5, tmp_path / "latents", progress=False)
    assert len(list((tmp_path / "latents").iterdir())) == 3
    with pytest.raises(BadInputError, match="between 1 and 6"):
        encode_pool(codec, pool, 7)


# --- on disk ----------------------------------------------------------------------------------------------------------


def tiny_model(levels="two"):
    mean, std = torch.tensor([0.1, -1.3, 0.7]), torch.tensor([2.1, 0.5, 1.3])
    return SketchDiffusion(tiny_unet(), BASIS, mean, std, levels=levels, vae_id="vae-1", clip_id="clip-1").eval()


class Named:
    def __init__(self, name):
        self.id = name


def test_a_saved_model_is_the_same_to_the_last_bit(tmp_path, clip):
    model = tiny_model("one")
    folder = save_diffusion(model, tmp_path / "a")
    loaded = load_diffusion(folder, codec=Named("vae-1"), device="cpu")
    assert loaded.levels == "one" and loaded.vae_id == "vae-1" and loaded.clip_id == "clip-1" and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    prompts = embed_prompts(clip, CAPTIONS[:2])
    assert torch.equal(sample(model, prompts, seeds=[0, 1], n_steps=2), sample(loaded, prompts, seeds=[0, 1], n_steps=2))
    again = save_diffusion(loaded, tmp_path / "b")
    save_diffusion(loaded, tmp_path / "b")  # over what is there
    for file in (p for p in folder.rglob("*") if p.is_file()):
        assert file.read_bytes() == (again / file.relative_to(folder)).read_bytes(), file
    assert sorted(p.name for p in again.iterdir()) == ["basis", "config.json", "unet"]
    assert str(tmp_path) not in "".join(p.read_text() for p in again.rglob("*.json"))


def test_other_networks_are_refused(tmp_path):
    folder = save_diffusion(tiny_model(), tmp_path / "a")
    with pytest.raises(BadInputError, match="trained with the VAE vae-1, and vae-2"):
        load_diffusion(folder, codec=Named("vae-2"))
    with pytest.raises(BadInputError, match="trained with the CLIP clip-1, and clip-2"):
        load_diffusion(folder).check(clip=Named("clip-2"))


def test_what_is_missing_or_damaged_is_said(tmp_path):
    with pytest.raises(MissingFileError, match="python -m sketchae.diffusion"):
        load_diffusion(tmp_path / "nothing")
    folder = save_diffusion(tiny_model(), tmp_path / "a")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"short")
    with pytest.raises(BadInputError, match="cannot be read"):
        load_diffusion(folder)
    save_diffusion(tiny_model(), folder)
    architecture = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**architecture, "layers_per_block": 2}))
    with pytest.raises(BadInputError, match="unet"):
        load_diffusion(folder)
    (folder / "config.json").write_text('{"levels": "two"}')
    with pytest.raises(BadInputError, match="damaged"):
        load_diffusion(folder)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_trains_resumes_and_says_what_it_refuses(tmp_path, capsys):
    pool, folder = tmp_path / "pool", tmp_path / "diffusion"
    common = ["--pool", str(pool), "--folder", str(folder), "--n-scenes", "4", "--widths", "16", "16", "--batch-size", "4", "--n-steps", "2"]
    for levels in ("two", "one"):
        assert command.main([*common, "--levels", levels]) == 0
        assert f"in {folder / levels}" in capsys.readouterr().out
    assert len(list(folder.glob("latents-*.npy"))) == 1 and len(list(pool.iterdir())) == 1
    about = json.loads((folder / "one" / "provenance.json").read_text())
    assert about["loop"]["levels"] == "one" and about["loop"]["n_steps"] == 2 and str(tmp_path) not in json.dumps(about)
    assert json.loads((folder / "two" / "training_log.json").read_text())[-1]["step"] == 1
    codec, clip = load_vae("sketch", device="cpu"), load_clip("embedded", device="cpu")
    model = load_diffusion(folder / "two", codec=codec, clip=clip, device="cpu")
    assert generate(model, ["a house by the sea, a watercolour"], codec, clip, n_steps=2, offset=0.5).shape == (1, 3, 128, 128)
    assert command.main([*common, "--levels", "two"]) == 0  # nothing left to do
    capsys.readouterr()
    assert command.main([*common, "--levels", "two", "--lr", "0.1"]) == 1
    assert "remove the folder" in capsys.readouterr().err
    assert command.main([*common, "--name", "other", "--vae", str(tiny_vae(tmp_path / "vae"))]) == 1
    assert "other weights" in capsys.readouterr().err


def test_settings_are_numbers_and_words_that_json_gives_back():
    settings = dataclasses.asdict(config())
    assert json.loads(json.dumps(settings)) == settings  # else no training would ever resume
