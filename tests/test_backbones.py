"""The frozen networks: shapes, scaling, clipping, what counts as the same network, and every refusal."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import CAPTIONS, paper_clip, paper_vae, picture_array, tiny_clip, tiny_kl, tiny_vae
from transformers import CLIPModel, CLIPProcessor

from sketchae.backbones import (
    ClipEmbedder,
    DiffusersVAE,
    LatentCodec,
    UserCodec,
    backbone_id,
    check_images,
    fast_dtype,
    load_clip,
    load_vae,
)
from sketchae.errors import BadInputError, MissingFileError

VAES = {"tiny": tiny_vae, "kl": tiny_kl, "paper": paper_vae}
CLIPS = {"tiny": tiny_clip, "paper": paper_clip}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    made = {f"{name}_vae": make(root / f"{name}_vae") for name, make in VAES.items()}
    return made | {f"{name}_clip": make(root / f"{name}_clip") for name, make in CLIPS.items()}


@pytest.fixture(scope="module")
def images():
    return torch.stack([_tensor(picture_array(seed, 64, 64)) for seed in range(3)])


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("name", VAES)
def test_a_folder_gives_a_codec_with_the_right_shapes_and_ranges(folders, images, name):
    codec = load_vae(folders[f"{name}_vae"], device="cpu")
    assert isinstance(codec, LatentCodec) and (codec.latent_channels, codec.downsampling) == (4, 8)
    z = codec.encode(images)
    assert z.shape == (3, 4, 8, 8) and z.dtype == torch.float32
    back = codec.decode(z)
    assert back.shape == images.shape and back.dtype == torch.float32
    assert back.min() >= 0 and back.max() <= 1
    assert codec.revision is None and codec.source == str(folders[f"{name}_vae"])


def test_encoding_matches_the_library_and_does_not_depend_on_the_batch(folders, images):
    tiny = AutoencoderTiny.from_pretrained(folders["tiny_vae"])
    kl = AutoencoderKL.from_pretrained(folders["kl_vae"])
    with torch.no_grad():
        expected_tiny = tiny.encode(images * 2 - 1).latents
        expected_kl = (kl.encode(images * 2 - 1).latent_dist.mean - 0.1) * 0.5
    for name, expected in (("tiny", expected_tiny), ("kl", expected_kl)):
        codec = load_vae(folders[f"{name}_vae"], device="cpu")
        torch.testing.assert_close(codec.encode(images), expected, atol=1e-5, rtol=1e-5)
        one_by_one = torch.cat([codec.encode(image[None]) for image in images])
        torch.testing.assert_close(one_by_one, expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(scaling=st.floats(0.05, 20), shift=st.floats(-2, 2))
def test_scale_and_unscale_are_inverse(scaling, shift):
    codec = DiffusersVAE.__new__(DiffusersVAE)
    codec.scaling_factor, codec.shift_factor = scaling, shift
    z = torch.linspace(-3, 3, 32).view(1, 4, 2, 4)
    torch.testing.assert_close(codec.scale(codec.unscale(z)), z, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(codec.scale(torch.full((1, 1, 1, 1), shift)), torch.zeros(1, 1, 1, 1))


def test_clipping_is_counted_and_can_be_switched_off(folders, images):
    free = load_vae(folders["tiny_vae"], device="cpu", latent_clip=None)
    z = free.encode(images)
    bound = float(z.abs().quantile(0.75))
    clipped = load_vae(folders["tiny_vae"], device="cpu", latent_clip=bound)
    torch.testing.assert_close(clipped.encode(images), z.clamp(-bound, bound))
    assert clipped.clipped_share == pytest.approx(0.25, abs=0.01)
    clipped.encode(images)
    assert clipped.n_entries == 2 * z.numel() and clipped.clipped_share == pytest.approx(0.25, abs=0.01)
    assert free.clipped_share == 0
    with pytest.raises(BadInputError, match="positive bound"):
        load_vae(folders["tiny_vae"], latent_clip=0.0)


def test_gradients_reach_the_latents_through_decode_but_no_weight(folders, images):
    codec = load_vae(folders["tiny_vae"], device="cpu")
    z = codec.encode(images).requires_grad_()
    codec.decode(z).sum().backward()
    assert z.grad is not None and z.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in codec.vae.parameters())


@pytest.mark.parametrize(("n", "sizes"), [(2, [2]), (3, [3]), (4, [4]), (9, [3, 3, 3]), (11, [4, 4, 3])])
def test_on_a_cpu_a_batch_goes_through_in_pieces_that_change_nothing(folders, monkeypatch, n, sizes):
    vae = load_vae(folders["tiny_vae"], device="cpu")
    images = torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(n))
    z = vae.encode(images)
    whole = vae.decode(z)
    seen = []
    for network, half, call in ((vae.vae, "encode", vae.vae.encode), (vae._decoding, "decode", vae._decoding.decode)):
        note = lambda batch, call=call: (seen.append(len(batch)), call(batch))[1]  # noqa: E731
        monkeypatch.setattr(network, half, note)
    monkeypatch.setattr("sketchae.backbones.vae.PIXELS_PER_CALL", 4 * 32**2)
    torch.testing.assert_close(vae.encode(images), z, atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.decode(z), whole, atol=1e-5, rtol=0)
    assert seen == 2 * sizes
    seen.clear()
    vae.decode(z.requires_grad_())  # what needs a gradient goes whole
    assert seen == [n]


def test_bfloat16_stays_near_float32_and_returns_float32(folders, images):
    exact = load_vae(folders["tiny_vae"], device="cpu").encode(images)
    fast = load_vae(folders["tiny_vae"], device="cpu", dtype=torch.bfloat16)
    z = fast.encode(images)
    assert z.dtype == torch.float32 and fast.decode(z).dtype == torch.float32
    torch.testing.assert_close(z, exact, atol=0.02 * float(exact.abs().max()), rtol=0.05)
    clip = load_clip(folders["tiny_clip"], device="cpu", dtype=torch.bfloat16)
    assert clip.embed_images(images).dtype == torch.float32


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "dtype"),
    [(False, False, torch.float32), (True, False, torch.bfloat16), (False, True, torch.bfloat16), (True, True, torch.bfloat16)],
)
def test_bfloat16_is_quick_where_the_processor_multiplies_it(monkeypatch, amx, avx512_bf16, dtype):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    assert fast_dtype("cpu") == dtype


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.rand(2, 1, 64, 64), "three channels"),
        (torch.rand(1, 3, 60, 64), "multiples of 8"),
        (torch.rand(1, 3, 4, 4), "multiples of 8"),
        (torch.rand(1, 3, 64, 64) * 255, r"must lie in \[0, 1\]"),
        (torch.full((1, 3, 64, 64), float("nan")), r"must lie in \[0, 1\]"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "divide bytes by 255"),
    ],
)
def test_wrong_images_are_refused_with_the_remedy(folders, bad, message):
    with pytest.raises(BadInputError, match=message):
        load_vae(folders["tiny_vae"], device="cpu").encode(bad)


def test_a_single_image_is_told_apart_from_a_batch():
    with pytest.raises(BadInputError, match=r"shape \(3, 64, 64\): give \(batch, 3, height, width\)"):
        check_images(torch.rand(3, 64, 64))


def test_latents_of_another_vae_and_broken_latents_are_refused(folders, images):
    codec = load_vae(folders["tiny_vae"], device="cpu")
    with pytest.raises(BadInputError, match="do not fit this VAE, which has 4 channels"):
        codec.decode(torch.zeros(1, 16, 8, 8))
    with torch.no_grad():
        codec.vae.encoder.layers[-1].bias.fill_(float("inf"))
    with pytest.raises(BadInputError, match="NaN or infinite"):
        codec.encode(images)


def test_the_identity_follows_the_weights_not_the_place(folders, tmp_path):
    original = load_vae(folders["tiny_vae"], device="cpu")
    copy = shutil.copytree(folders["tiny_vae"], tmp_path / "copy")
    assert load_vae(copy, device="cpu").id == original.id
    assert load_vae(copy, device="cpu", dtype=torch.bfloat16).id == original.id
    assert load_vae(tiny_vae(tmp_path / "other", seed=1), device="cpu").id != original.id
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"scaling_factor": 2.0}))
    assert load_vae(copy, device="cpu").id != original.id
    assert load_clip(folders["tiny_clip"], device="cpu").id == load_clip(folders["tiny_clip"], device="cpu").id
    assert load_clip(tiny_clip(tmp_path / "clip", seed=1), device="cpu").id != load_clip(folders["tiny_clip"]).id
    assert backbone_id(original) == original.id


class Halves:
    """A user's codec: average pooling by 4, four channels, without declared shapes."""

    def encode(self, images):
        pooled = torch.nn.functional.avg_pool2d(images, 4) * 2 - 1
        return torch.cat([pooled, pooled.mean(1, keepdim=True)], 1)

    def decode(self, z):
        return torch.nn.functional.interpolate((z[:, :3] + 1) / 2, scale_factor=4.0)


def test_an_object_of_the_users_own(images):
    codec = load_vae(Halves(), device="cpu")
    assert isinstance(codec, UserCodec) and isinstance(codec, LatentCodec)
    assert (codec.latent_channels, codec.downsampling, codec.id[:6]) == (4, 4, "Halves")
    assert codec.encode(images).shape == (3, 4, 16, 16)
    assert codec.decode(codec.encode(images)).shape == images.shape
    assert load_vae(codec) is codec
    with pytest.raises(BadInputError, match="has no encode and decode"):
        load_vae(object())

    class Wrong(Halves):
        def decode(self, z):
            return z

    with pytest.raises(BadInputError, match=r"Wrong\.decode must return images"):
        load_vae(Wrong())


def test_a_loaded_diffusers_model_is_taken_as_it_is(folders, images):
    codec = load_vae(AutoencoderTiny.from_pretrained(folders["tiny_vae"]), device="cpu")
    assert isinstance(codec, DiffusersVAE)
    assert torch.equal(codec.encode(images), load_vae(folders["tiny_vae"], device="cpu").encode(images))


@pytest.mark.parametrize("name", CLIPS)
def test_clip_embeddings_match_the_library(folders, images, name):
    folder = folders[f"{name}_clip"]
    clip = load_clip(folder, device="cpu")
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    pictures = [Image.fromarray(picture_array(seed, 90, 150)) for seed in range(3)]
    with torch.no_grad():
        inputs = processor(text=list(CAPTIONS), images=pictures, padding=True, return_tensors="pt")
        expected = model(**inputs)
    texts = clip.embed_texts(list(CAPTIONS))
    torch.testing.assert_close(texts, expected.text_embeds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(clip.embed_images(pictures), expected.image_embeds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(len(CAPTIONS)))
    assert clip.embed_dim == texts.shape[1]


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("shape", [(64, 64), (90, 151), (300, 240), (20, 33), (224, 224)])
def test_tensors_and_pictures_take_the_same_way_into_clip(folders, name, shape):
    clip = load_clip(folders[f"{name}_clip"], device="cpu")
    array = picture_array(7, *shape)
    noisy = np.clip(array + np.random.default_rng(0).normal(0, 30, array.shape), 0, 255).astype(np.uint8)
    picture = Image.fromarray(noisy)
    through_pil = clip.processor.image_processor([picture], return_tensors="pt").pixel_values
    through_torch = clip.preprocess(_tensor(noisy)[None])
    assert through_torch.shape == through_pil.shape
    # PIL rounds to bytes after each of its two passes: within 2/255 of a pixel, before the division by std (0.26).
    assert (through_torch - through_pil).abs().max() * 0.276 <= 2.01 / 255
    cosine = (clip.embed_images(_tensor(noisy)[None]) * clip.embed_images([picture])).sum()
    assert cosine > 0.9999


@pytest.mark.parametrize("name", CLIPS)
def test_captions_are_padded_to_the_longest_and_cut_at_the_maximum(folders, name, monkeypatch):
    clip = load_clip(folders[f"{name}_clip"], device="cpu")
    seen = []
    forward = clip.model.get_text_features
    monkeypatch.setattr(
        clip.model, "get_text_features", lambda **k: seen.append(tuple(k["input_ids"].shape)) or forward(**k)
    )
    alone = clip.embed_texts(["a red house"])
    with_long = clip.embed_texts(["a red house", "a tree " * 100])
    assert seen == [(1, 5), (2, clip.max_tokens)]  # start, three words, end
    torch.testing.assert_close(with_long[:1], alone, atol=1e-5, rtol=1e-5)
    assert clip.embed_texts([]).shape == (0, clip.embed_dim) and clip.embed_images([]).shape == (0, clip.embed_dim)
    with pytest.raises(BadInputError, match="list of captions"):
        clip.embed_texts("a red house")


def test_clip_takes_what_pictures_come_in_and_passes_gradients_to_pixels(folders, images):
    clip = load_clip(folders["tiny_clip"], device="cpu")
    grey = Image.fromarray(picture_array(0)).convert("L")
    assert clip.embed_images([grey, Image.fromarray(picture_array(1, 40, 90))]).shape == (2, clip.embed_dim)
    with pytest.raises(BadInputError, match="three channels"):
        clip.embed_images(torch.rand(1, 4, 32, 32))
    pixels = images.clone().requires_grad_()
    clip.embed_images(pixels)[:, 0].sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_a_processor_of_another_model_is_refused(folders):
    model = CLIPModel.from_pretrained(folders["tiny_clip"])
    with pytest.raises(BadInputError, match="belongs to this model"):
        ClipEmbedder(model, load_clip(folders["paper_clip"]).processor)


def test_incomplete_folders_are_refused_by_name(folders, tmp_path):
    with pytest.raises(MissingFileError, match=r"There is no folder nowhere"):
        load_vae("nowhere")
    with pytest.raises(MissingFileError, match=r"config\.json, diffusion_pytorch_model\.safetensors missing"):
        load_vae(tmp_path)
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(BadInputError, match="not valid JSON"):
        load_vae(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(BadInputError, match="describes VQModel"):
        load_vae(tmp_path)
    with pytest.raises(MissingFileError, match=r"model\.safetensors missing"):
        load_clip(folders["tiny_vae"])


def test_half_written_weights_are_refused(folders, tmp_path):
    vae = shutil.copytree(folders["tiny_vae"], tmp_path / "vae")
    weights = vae / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    tensors = safetensors.torch.load(whole)  # not load_file, which maps the file that is about to be cut
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInputError, match="cannot be read"):
        load_vae(vae)
    tensors.pop("decoder.layers.0.weight")
    safetensors.torch.save_file(tensors, weights)
    with pytest.raises(BadInputError, match=r"do not fit|cannot be read"):
        load_vae(vae)

    clip = shutil.copytree(folders["tiny_clip"], tmp_path / "clip")
    tensors = safetensors.torch.load((clip / "model.safetensors").read_bytes())
    tensors.pop("visual_projection.weight")
    safetensors.torch.save_file(tensors, clip / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInputError, match=r"visual_projection\.weight first"):
        load_clip(clip)


def test_a_model_of_another_kind_is_refused(folders, tmp_path):
    other = shutil.copytree(folders["tiny_clip"], tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "siglip"}))
    with pytest.raises(BadInputError, match="type siglip"):
        load_clip(other)
    grey = AutoencoderTiny(in_channels=1, encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
    with pytest.raises(BadInputError, match="1 input and 3 output channels"):
        load_vae(grey)


def test_a_subfolder_of_a_pipeline_can_be_named(folders, tmp_path):
    shutil.copytree(folders["kl_vae"], tmp_path / "pipeline" / "vae")
    assert load_vae(tmp_path / "pipeline", subfolder="vae").latent_channels == 4
