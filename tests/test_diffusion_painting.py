"""Sketches, paintings and their explorer, with a tiny network and a codec that only clamps."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_clip

from sketchae.backbones import load_clip
from sketchae.basis import random_basis
from sketchae.diffusion import SketchDiffusion, build_unet, embed_prompts, sample
from sketchae.diffusion.explorer import sketch_explorer
from sketchae.diffusion.painting import draw_sketches, paint
from sketchae.errors import BadInputError

PROMPT, SEEDS = "a red house on a green hill", [3, 8]
ROW = {"n_sketches": 2, "n_paintings": 3, "n_semantic_steps": 1, "n_style_steps": 1}


class Codec:
    """Latents are pictures: three channels, a pixel each."""

    latent_channels, downsampling, id = 3, 1, "toy"
    broken = False

    def encode(self, images):
        return images * 4 - 2

    def decode(self, z):
        if self.broken:
            raise RuntimeError("out of <memory>")
        return ((z + 2) / 4).clamp(0, 1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(tiny_clip(tmp_path_factory.mktemp("clip")), device="cpu")


def tiny_model(levels: str = "two", vae_id: str | None = None) -> SketchDiffusion:
    torch.manual_seed(0)
    unet = build_unet(3, 8, text_dim=16, pooled_dim=16, block_out_channels=(8, 16), norm_num_groups=4, n_heads=2)
    with torch.no_grad():
        unet.conv_out.weight.mul_(20)  # an untrained network says little: what it is told must be seen in pictures
    mean, std = torch.tensor([0.5, -0.4, 0.0]), torch.tensor([0.7, 0.5, 1.0])
    return SketchDiffusion(unet, random_basis(3, 2, 1), mean, std, levels=levels, vae_id=vae_id).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model():
    return tiny_model(vae_id="toy")


def whole(model, clip, guidance, **options):
    conditioning, empty = embed_prompts(clip, [PROMPT]), embed_prompts(clip, [""])
    return sample(model, conditioning, seeds=SEEDS, offset=1, guidance=guidance, unconditional=empty, **options)


# --- sketches and paintings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("guidance", "n_semantic"), [(1.0, 3), (3.0, 3), ((2.0, 1), 1)])
def test_a_sketch_is_the_semantic_half_of_a_path_and_its_preview(model, clip, guidance, n_semantic):
    sketches = draw_sketches(model, Codec(), clip, PROMPT, seeds=SEEDS, n_semantic_steps=n_semantic, guidance=guidance)
    path = whole(model, clip, guidance, n_steps=n_semantic + 4, n_semantic_steps=n_semantic, return_trajectory=True)
    k = model.n_semantic
    assert len(sketches) == 2 and sketches.seeds == SEEDS
    assert torch.allclose(sketches.x_semantic, path.x[:, :k], atol=1e-5)
    assert (path.t_semantic[n_semantic], path.t_style[n_semantic]) == (0, 1)
    assert torch.allclose(sketches.images, Codec().decode(model.decode(path.previews[n_semantic])), atol=1e-5)
    assert not torch.allclose(sketches.images, Codec().decode(model.decode(path.x)), atol=1e-3)


@pytest.mark.parametrize(("guidance", "passes"), [(1.0, 1), (3.0, 2)])
def test_a_sketch_costs_its_steps_and_one(clip, guidance, passes):
    model, levels = tiny_model(), []
    model.unet.register_forward_pre_hook(
        lambda module, args, kwargs: levels.append((float(kwargs["added_cond_kwargs"]["time_ids"][0, 0]), float(args[1][0]))), with_kwargs=True
    )
    draw_sketches(model, Codec(), clip, PROMPT, seeds=SEEDS, n_semantic_steps=4, guidance=guidance)
    assert levels == [(t, 1000) for t in (1000, 750, 500, 250, 0) for _ in range(passes)]
    levels.clear()
    paint(model, Codec(), clip, PROMPT, torch.zeros(1, 2, 8, 8), seeds=SEEDS, n_steps=2, guidance=guidance)
    assert levels == [(0, t) for t in (1000, 500) for _ in range(passes)]


def test_painting_a_sketch_goes_where_the_whole_path_goes(model, clip):
    sketches = draw_sketches(model, Codec(), clip, PROMPT, seeds=SEEDS, n_semantic_steps=3)
    painted = paint(model, Codec(), clip, PROMPT, sketches.x_semantic, seeds=SEEDS, n_steps=4)
    x = whole(model, clip, 3.0, n_steps=7, n_semantic_steps=3)
    assert torch.allclose(painted, Codec().decode(model.decode(x)), atol=1e-4)


def test_paintings_of_one_sketch_share_its_semantic_block_only(model, clip):
    block = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.1

    class Kept(Codec):
        def decode(self, z):
            self.x = model.encode(z)
            return super().decode(z)

    codec = Kept()
    painted = paint(model, codec, clip, PROMPT, block, seeds=[0, 1, 2], n_steps=2)
    assert painted.shape == (3, 3, 8, 8) and painted.min() >= 0 and painted.max() <= 1
    assert torch.allclose(codec.x[:, :2], block.expand(3, -1, -1, -1), atol=1e-5)
    assert not torch.allclose(codec.x[0, 2:], codec.x[1, 2:], atol=0.1)
    alone = paint(model, codec, clip, PROMPT, block, seeds=[1], n_steps=2)
    assert torch.allclose(alone[0], painted[1], atol=1e-4)
    other = paint(model, codec, clip, "two small boats on the sea at night", block, seeds=[1], n_steps=2)
    assert not torch.allclose(other, alone, atol=1e-3)


def test_a_model_with_one_level_paints_but_does_not_sketch(clip):
    one = tiny_model("one")
    with pytest.raises(BadInputError, match="two noise levels"):
        draw_sketches(one, Codec(), clip, PROMPT, seeds=[0])
    assert paint(one, Codec(), clip, PROMPT, torch.zeros(1, 2, 8, 8), seeds=[0], n_steps=2).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        (lambda model, clip: draw_sketches(model, Codec(), clip, PROMPT, seeds=[0], n_semantic_steps=0), "at least one step"),
        (lambda model, clip: draw_sketches(model, Codec(), clip, PROMPT, seeds=[]), "at least one"),
        (lambda model, clip: draw_sketches(tiny_model(vae_id="other"), Codec(), clip, PROMPT, seeds=[0]), "trained with the VAE other"),
        (lambda model, clip: paint(tiny_model(vae_id="other"), Codec(), clip, PROMPT, torch.zeros(1, 2, 8, 8), seeds=[0]), "the VAE other"),
        (lambda model, clip: paint(model, Codec(), clip, PROMPT, torch.zeros(1, 1, 8, 8), seeds=[0]), "hold_semantic has shape"),
        (lambda model, clip: paint(model, Codec(), clip, PROMPT, torch.zeros(2, 2, 8, 8), seeds=[0, 1, 2]), "hold_semantic has shape"),
        (lambda model, clip: paint(model, Codec(), clip, PROMPT, torch.zeros(1, 2, 8, 8), seeds=[0], n_steps=0), "at least one step"),
        (lambda model, clip: sketch_explorer(model, Codec(), clip, n_sketches=0), "at least one of each"),
        (lambda model, clip: sketch_explorer(model, Codec(), clip, n_style_steps=0), "at least one of each"),
        (lambda model, clip: sketch_explorer(tiny_model("one"), Codec(), clip, **ROW), "two noise levels"),
    ],
)
def test_bad_input_is_one_clear_sentence(model, clip, call, remedy):
    with pytest.raises(BadInputError, match=remedy):
        call(model, clip)


# --- the explorer -----------------------------------------------------------------------------------------------------


def shown(widgets) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(widget.value))) for widget in widgets])


def as_bytes(images) -> np.ndarray:
    return (images * 255).round().byte().movedim(1, -1).numpy()


def sketches_of(model, clip, prompt, first_seed):
    return draw_sketches(model, Codec(), clip, prompt, seeds=range(first_seed, first_seed + 2), n_semantic_steps=1)


def paintings_of(model, clip, prompt, block, first_seed):
    return as_bytes(paint(model, Codec(), clip, prompt, block, seeds=range(first_seed, first_seed + 3), n_steps=1))


def chosen(box) -> list[int]:
    return [i for i, button in enumerate(box.paint_buttons) if button.button_style]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """But for the last bit of a byte: a batch of another size adds up in another order."""
    return a.shape == b.shape and np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_the_explorer_sketches_and_paints_at_once(model, clip):
    box = sketch_explorer(model, Codec(), clip, prompt=PROMPT, seed=5, width_px=90, **ROW)
    sketches = sketches_of(model, clip, PROMPT, 5)
    assert same(shown(box.sketches), as_bytes(sketches.images))
    assert same(shown(box.paintings), paintings_of(model, clip, PROMPT, sketches.x_semantic[:1], 5))
    assert box.prompt.value == PROMPT and box.style_words.value == "" and chosen(box) == [0]
    assert box.status.value.startswith("two sketches at 2 evaluations each; three paintings at 1") and "twice" in box.status.value
    assert len(box.paint_buttons) == 2 and {picture.width for picture in (*box.sketches, *box.paintings)} == {"90"}
    assert all("wrap" in row.layout.flex_flow for row in box.children[:4])


def test_a_click_paints_another_sketch_with_style_words_and_more_seeds(model, clip):
    box = sketch_explorer(model, Codec(), clip, prompt=PROMPT, **ROW)
    sketches, first = sketches_of(model, clip, PROMPT, 0), shown(box.sketches)
    seen = []
    box.status.observe(lambda change: seen.append(change.new), names="value")
    box.paint_buttons[1].click()
    assert seen[0] == "drawing three paintings of sketch 2…" and len(seen) == 2
    assert same(shown(box.paintings), paintings_of(model, clip, PROMPT, sketches.x_semantic[1:], 0)) and chosen(box) == [1]
    box.prompt.value = "three birds"  # what is painted is the sketch's own prompt
    box.style_words.value = " at night "
    box.paint_buttons[0].click()
    at_night = paintings_of(model, clip, f"{PROMPT}, at night", sketches.x_semantic[:1], 0)
    assert same(shown(box.paintings), at_night)
    assert not same(at_night, paintings_of(model, clip, PROMPT, sketches.x_semantic[:1], 0))
    box.more_paintings.click()
    box.more_paintings.click()
    assert same(shown(box.paintings), paintings_of(model, clip, f"{PROMPT}, at night", sketches.x_semantic[:1], 6))
    assert np.array_equal(shown(box.sketches), first)


def test_a_click_sketches_another_prompt_and_more_seeds(model, clip):
    box = sketch_explorer(model, Codec(), clip, prompt=PROMPT, **ROW)
    box.paint_buttons[1].click()
    box.prompt.value = "two small boats on the sea"
    box.sketch_button.click()
    boats = sketches_of(model, clip, "two small boats on the sea", 0)
    assert same(shown(box.sketches), as_bytes(boats.images)) and chosen(box) == [0]
    assert not same(as_bytes(boats.images), as_bytes(sketches_of(model, clip, PROMPT, 0).images))
    box.more_sketches.click()
    box.more_sketches.click()
    more = sketches_of(model, clip, "two small boats on the sea", 4)
    assert same(shown(box.sketches), as_bytes(more.images))
    assert same(shown(box.paintings), paintings_of(model, clip, "two small boats on the sea", more.x_semantic[:1], 0))
    box.sketch_button.click()
    assert same(shown(box.sketches), as_bytes(boats.images))


def test_what_goes_wrong_after_a_click_is_said_in_the_line(model, clip):
    codec = Codec()
    box = sketch_explorer(model, codec, clip, prompt=PROMPT, **ROW)
    before = shown(box.sketches), shown(box.paintings)
    codec.broken = True
    for button in (box.sketch_button, box.paint_buttons[1], box.more_paintings):
        box.status.value = ""
        button.click()
        assert box.status.value == "RuntimeError: out of &lt;memory&gt;"
    assert np.array_equal(shown(box.sketches), before[0]) and np.array_equal(shown(box.paintings), before[1]) and chosen(box) == [0]
    assert not any(button.disabled for button in (box.sketch_button, box.more_sketches, box.more_paintings, *box.paint_buttons))
    with pytest.raises(RuntimeError):  # a cell that cannot draw must fail
        sketch_explorer(model, codec, clip, **ROW)
    codec.broken, codec.id = False, "another"
    box.more_paintings.click()
    assert box.status.value.startswith("This model was trained with the VAE toy, and another was given")
    codec.id = "toy"
    box.more_paintings.click()
    assert same(shown(box.paintings), paintings_of(model, clip, PROMPT, sketches_of(model, clip, PROMPT, 0).x_semantic[:1], 3))
