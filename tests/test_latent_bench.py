"""The bench of latent models, where every number is known: perfect, constant and shuffled pictures, planted channels, counted codes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from torch import Tensor
from toys import KINDS, SIZE, ToyCodec, ToyJudge, toy_images, toy_scenes

from sketchae.backbones.vae import LatentCodec
from sketchae.diffusion.picture_sets import judge_features
from sketchae.errors import BadInputError
from sketchae.latent_models.bench import (
    code_use,
    reconstruction_row,
    sample_row,
    storage_bits,
    table,
)
from sketchae.latent_models.channel_split import as_codec, split_row
from sketchae.latent_models.vqvae import VQVAE
from sketchae.scenes import FACTORS, render, split_scenes

# --- reconstruction ---------------------------------------------------------------------------------------------------


def toy_row(reconstruct, n: int = 400, **options):
    scenes = toy_scenes(n, 0)
    return reconstruction_row(reconstruct, scenes, ToyJudge(), images=toy_images(**scenes.factors), kinds=KINDS, **options)


def test_a_perfect_reconstruction_keeps_everything():
    row = toy_row(lambda images: images)
    assert (row.semantic_accuracy, row.style_accuracy, row.semantic_kappa, row.style_kappa) == pytest.approx((1, 1, 1, 1))
    assert row.semantic_accuracy_ci95 == row.style_kappa_ci95 == pytest.approx((1, 1))
    assert row.psnr == math.inf
    assert row.values()["psnr"] is None
    assert row.values()["psnr_ci95"] == [None, None]
    assert row.n == 400


def test_a_constant_reconstruction_is_read_as_one_value_and_agrees_by_chance():
    constant = toy_images(np.array([3]), np.array([5]))
    row, scenes = toy_row(lambda images: constant.expand(len(images), -1, -1, -1)), toy_scenes(400, 0)
    assert row.per_factor == {"shape": np.mean(scenes.factors["shape"] == 3), "colour": np.mean(scenes.factors["colour"] == 5)}
    assert (row.semantic_accuracy, row.style_accuracy) == (row.per_factor["shape"], row.per_factor["colour"])
    assert (row.semantic_kappa, row.style_kappa) == pytest.approx((0, 0), abs=1e-12)


def test_pictures_of_other_scenes_agree_by_chance_and_the_interval_says_so():
    row = toy_row(lambda images: images.roll(1, 0), batch_size=400)
    assert row.semantic_kappa_ci95[0] < 0 < row.semantic_kappa_ci95[1]
    assert row.style_accuracy == pytest.approx(1 / 8, abs=0.06)


def test_psnr_is_that_of_a_known_error_and_one_kind_can_be_lost_alone():
    def without_colour(images: Tensor) -> Tensor:
        out = images.clone()
        out[:, 1, :, : SIZE // 2] = 0.5 / 8
        return out

    scenes, row = toy_scenes(400, 0), toy_row(without_colour)
    errors = (scenes.factors["colour"] / 8) ** 2 / 6  # a sixth of the numbers are wrong
    decibels = -10 * np.log10(errors[errors > 0])
    assert (row.semantic_accuracy, row.style_accuracy) == (1, row.per_factor["colour"])
    assert row.style_accuracy == np.mean(scenes.factors["colour"] == 0)
    assert row.psnr == math.inf, "where the colour was that already nothing is lost"
    some = np.flatnonzero(errors)
    few = SimpleNamespace(factors={factor: values[some] for factor, values in scenes.factors.items()})
    row = reconstruction_row(without_colour, few, ToyJudge(), images=toy_images(**few.factors), kinds=KINDS)
    assert row.psnr == pytest.approx(decibels.mean(), abs=1e-4)
    assert row.psnr_ci95[0] < row.psnr < row.psnr_ci95[1]
    half_width = 1.96 * decibels.std() / math.sqrt(len(decibels))
    assert (row.psnr_ci95[1] - row.psnr_ci95[0]) / 2 == pytest.approx(half_width, rel=0.15)


def test_kappa_is_cohens_and_the_batch_size_does_not_matter():
    def confused(images: Tensor) -> Tensor:  # the first values become one another's: red and green change places, where red is dark
        seen.append(images.where(images[:, :1].amax((1, 2, 3), keepdim=True) > 0.4, images[:, [1, 0, 2]]))
        return seen[-1]

    scenes, rows, seen = toy_scenes(300, 0), [], []
    for batch_size in (64, 7):
        seen.clear()
        rows.append(toy_row(confused, n=300, batch_size=batch_size, n_boot=20))
    assert rows[0] == rows[1]
    read = ToyJudge().predict(torch.cat(seen))
    assert rows[0].semantic_kappa == pytest.approx(cohen_kappa_score(scenes.factors["shape"], read["shape"].numpy()))
    assert rows[0].style_kappa == pytest.approx(cohen_kappa_score(scenes.factors["colour"], read["colour"].numpy()))
    assert 0.1 < rows[0].style_kappa < 0.9


def test_scenes_are_drawn_where_no_pictures_are_given():
    scenes, given = split_scenes("val", 5), []

    class Knows:
        def predict(self, images: Tensor) -> dict[str, Tensor]:
            first = sum(len(batch) for batch in given[:-1])
            return {factor: torch.from_numpy(scenes.factors[factor][first : first + len(images)]) for factor in FACTORS}

    def reconstruct(images: Tensor) -> Tensor:
        given.append(images)
        return images * 0.5

    row = reconstruction_row(reconstruct, scenes, Knows(), batch_size=2, n_boot=10)
    assert torch.equal(torch.cat(given), render(scenes).images)
    assert (row.semantic_accuracy, row.style_accuracy) == (1, 1)
    errors = (render(scenes).images * 0.5).square().flatten(1).mean(1)
    assert row.psnr == pytest.approx(float((-10 * errors.log10()).mean()), abs=1e-4)


def test_gradients_are_there_only_for_who_needs_them():
    asked = []
    for needs_grad in (False, True):
        toy_row(lambda images: asked.append(torch.is_grad_enabled()) or images, n=3, needs_grad=needs_grad, n_boot=2)
    assert asked == [False, True]


@pytest.mark.parametrize(
    ("reconstruct", "n_pictures", "message"),
    [
        (lambda images: images * 2, 4, "must lie in"),
        (lambda images: images[:, :, :8], 4, "cannot be compared"),
        (lambda images: images, 3, "one picture for each"),
    ],
)
def test_what_cannot_be_compared_is_refused(reconstruct, n_pictures, message):
    scenes = SimpleNamespace(factors={"shape": np.array([7, 1, 2, 3]), "colour": np.array([7, 1, 2, 3])})
    images = toy_images(**scenes.factors)[:n_pictures]
    with pytest.raises(BadInputError, match=message):
        reconstruction_row(reconstruct, scenes, ToyJudge(), images=images, kinds=KINDS)


# --- samples ----------------------------------------------------------------------------------------------------------


class Reader:
    """Features: the means of the three colours."""

    def features(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def plain_pictures(n: int, seed: int, low: float = 0.0) -> Tensor:
    """One-coloured, with colours uniform in [low, low + 0.5]."""
    colours = low + torch.rand(n, 3, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float() / 2
    return colours.expand(-1, -1, 4, 4).clone()


def test_the_same_pictures_in_any_order_are_at_0_and_the_floor_is_above():
    real = plain_pictures(400, 0)
    row = sample_row(real[:200].flip(0), real, Reader(), n_boot=50)
    assert row.frechet == pytest.approx(0, abs=1e-9)
    assert 1e-5 < row.floor < 0.01
    assert (row.n, row.n_features) == (200, 3)
    other = sample_row(plain_pictures(200, 1), real, Reader(), n_boot=50)
    assert other.frechet == pytest.approx(row.floor, abs=0.003), "other pictures of the same kind lie at the floor"


def test_constant_samples_and_shifted_samples_are_as_far_as_the_formula_says():
    real = plain_pictures(300, 0)
    features = judge_features(Reader(), real)
    constant = sample_row(real[:1].expand(300, -1, -1, -1).clone(), real, Reader(), n_boot=0)
    expected = ((features[0] - features.mean(0)) ** 2).sum() + features.var(0, ddof=1).sum()
    assert constant.frechet == pytest.approx(expected, rel=1e-5)
    shifted = sample_row(real + 0.25, real, Reader(), n_boot=0)
    assert shifted.frechet == pytest.approx(3 * 0.25**2, rel=1e-4)
    assert shifted.values()["floor"] is None
    assert shifted.values()["frechet_ci95"] == [None, None]


def test_features_may_stand_in_for_the_real_pictures():
    real, samples = plain_pictures(200, 0), plain_pictures(100, 1, 0.2)
    row = sample_row(samples, judge_features(Reader(), real), Reader(), n_boot=20)
    assert row == sample_row(samples, real, Reader(), n_boot=20)
    assert row.frechet_ci95[0] < row.frechet < row.frechet_ci95[1]
    with pytest.raises(BadInputError, match="give as many, or twice as many"):
        sample_row(samples, real[:150], Reader())
    with pytest.raises(BadInputError, match="must lie in"):
        sample_row(samples * 3, real, Reader())


# --- what a picture costs ---------------------------------------------------------------------------------------------


def test_codes_that_are_all_used_alike_cost_what_they_nominally_do():
    codes = torch.arange(8).repeat(6).reshape(3, 4, 4)
    use = code_use(codes, 8)
    assert (use.perplexity, use.share_used) == pytest.approx((8, 1))
    assert use.bits_nominal == use.bits_entropy == pytest.approx(16 * 3)
    assert (use.codebook_size, use.n) == (8, 3)


def test_a_single_code_costs_nothing_but_its_name():
    use = code_use(np.full((5, 2, 3), 7, dtype=np.uint16), 512)
    assert (use.perplexity, use.share_used, use.bits_entropy) == pytest.approx((1, 1 / 512, 0))
    assert use.bits_nominal == 6 * 9


def test_unequal_codes_cost_their_entropy_over_the_whole_set():
    codes = torch.zeros(4, 1, 2, dtype=torch.long)  # frequencies 1/2, 1/4, 1/4, though no picture has them
    codes[2], codes[3] = 1, 3
    use = code_use(codes, 4)
    assert use.bits_entropy == pytest.approx(2 * 1.5)
    assert use.perplexity == pytest.approx(2**1.5)
    assert use.share_used == 3 / 4


@pytest.mark.parametrize("codes", [torch.tensor([[[4]]]), torch.tensor([[[-1]]]), torch.zeros(0, 2, 2, dtype=torch.long)])
def test_codes_that_no_codebook_has_are_refused(codes):
    with pytest.raises(BadInputError, match="give"):
        code_use(codes, 4)


def test_what_is_stored_is_counted_and_called_so():
    storage = storage_bits(torch.zeros(7, 4, 16, 16).shape[1:])
    assert (storage.n_numbers, storage.bits_stored, storage.stored_as) == (1024, 32768, "1,024 float32 numbers")
    assert storage_bits([64]).bits_stored == 2048
    for shape in ([], [4, 0]):
        with pytest.raises(BadInputError, match="holds no number"):
            storage_bits(shape)


# --- splits -----------------------------------------------------------------------------------------------------------

N_PLACES = 4  # where the stripe is
PLACES = {"place": "semantic", "colour": "style"}
TURN = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])


def stripes(place: np.ndarray, colour: np.ndarray) -> Tensor:
    """Grey pictures with a stripe a little lighter, tinted by their mean red: no default change runs into black or white."""
    images = torch.full((len(place), 3, SIZE, SIZE), 0.5)
    for image, quarter, value in zip(images, place, colour, strict=True):
        image[:, :, 4 * quarter : 4 * quarter + 4] += 0.04
        image[0] += 0.05 * (value - 1.5)
    return images


def read_place(images: Tensor) -> Tensor:
    """Centre of the differences from the mean colour, in columns: a colour change leaves it, a shift moves it."""
    energy = (images - images.mean((2, 3), keepdim=True)).square().sum((1, 2))
    return 1.5 * (energy * (torch.arange(SIZE) - 7.5)).sum(1) / energy.sum(1)  # 1.5: an ideal stripe's energy is not all in it


def red(images: Tensor) -> Tensor:
    return (images[:, 0].mean((1, 2)) - 0.51) / 0.05


def encode_stripes(images: Tensor) -> Tensor:
    return torch.stack([read_place(images), red(images)], 1) @ TURN.T * 10 + 3


def decode_stripes(z: Tensor) -> Tensor:
    place, colour = (((z - 3) / 10) @ TURN).T
    quarters = ((place + 6) / 4).round().long().clamp(0, N_PLACES - 1)
    return stripes(quarters.numpy(), (colour + 1.5).numpy())


class StripeJudge:
    def predict(self, images: Tensor) -> dict[str, Tensor]:
        return {"place": ((read_place(images) + 6) / 4).round().long(), "colour": (red(images) + 1.5).round().long()}


def stripe_scenes(n: int, seed: int) -> SimpleNamespace:
    random = np.random.default_rng(seed)
    return SimpleNamespace(factors={"place": random.integers(N_PLACES, size=n), "colour": random.integers(4, size=n)})


def stripe_row(codec, n_fit: int = 32, **options):
    a, b = stripe_scenes(60, 0), stripe_scenes(60, 1)
    given = {
        "z_a": codec.encode(stripes(**a.factors)),
        "z_b": codec.encode(stripes(**b.factors)),
        "counterfactual_images": stripes(a.factors["place"], b.factors["colour"]),
        "kinds": PLACES,
    }
    return split_row(codec, stripes(**stripe_scenes(n_fit, 2).factors), a, b, StripeJudge(), n_boot=50, **(given | options))


def stripe_codec(encode=encode_stripes, decode=decode_stripes):
    return as_codec(encode, decode, 2, SIZE, stripes(**stripe_scenes(32, 2).factors))


def test_a_vector_latent_of_which_the_right_split_is_known_is_split_so():
    row = stripe_row(stripe_codec())
    assert (row.score, row.semantic, row.style, row.neither, row.ceiling) == pytest.approx((1, 1, 1, 0, 1))
    assert row.counterfactual_mse == pytest.approx(1, abs=0.01)
    assert (row.n_semantic, row.channels, row.n_pairs, row.n_pictures) == (1, 2, 60, 32)
    assert row.score_ci95 == row.ceiling_ci95 == pytest.approx((1, 1))


def test_what_moves_with_the_wrong_block_scores_minus_1_under_a_ceiling_of_1():
    row = stripe_row(stripe_codec(), kinds={"place": "style", "colour": "semantic"})
    assert (row.score, row.semantic, row.style, row.ceiling) == pytest.approx((-1, -1, -1, 1))


def test_a_decoder_that_shows_one_picture_scores_0_under_a_ceiling_below_1():
    row = stripe_row(stripe_codec(decode=lambda z: stripes(np.zeros(len(z), int), np.zeros(len(z), int))))
    assert row.ceiling < 0.5
    assert abs(row.score) < 0.3


def test_neither_scale_nor_mean_of_the_latents_matters():
    scaled = stripe_codec(lambda images: encode_stripes(images) * 100 - 7, lambda z: decode_stripes((z + 7) / 100))
    plain, other = stripe_row(stripe_codec()).values(), stripe_row(scaled).values()
    for key, value in plain.items():
        assert other[key] == pytest.approx(value, abs=1e-3), key


def test_a_convolutional_latent_goes_in_as_it_is_and_other_block_sizes_can_be_had():
    a, b = toy_scenes(40, 0), toy_scenes(40, 1)
    codec = ToyCodec()
    given = {
        "z_a": codec.encode(toy_images(**a.factors)),
        "z_b": codec.encode(toy_images(**b.factors)),
        "counterfactual_images": toy_images(a.factors["shape"], b.factors["colour"]),
        "kinds": KINDS,
    }
    images = 0.3 + 0.3 * torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    row = split_row(codec, images, a, b, ToyJudge(), n_semantic=1, n_boot=10, **given)
    assert (row.n_semantic, row.channels, row.ceiling) == (1, 2, 1)
    with pytest.raises(BadInputError, match="n_semantic=2"):
        split_row(codec, images, a, b, ToyJudge(), n_semantic=2, n_boot=10, **given)


def test_as_codec_goes_there_and_back_and_scales_by_one_number():
    images = stripes(**stripe_scenes(32, 2).factors)
    codec = stripe_codec()
    assert isinstance(codec, LatentCodec)
    z = codec.encode(images)
    assert z.shape == (32, 2, 1, 1)
    assert float(z.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(z.flatten(1) * codec.std, encode_stripes(images), atol=1e-4), "one number for both channels"
    assert torch.allclose(codec.decode(z), images, atol=1e-3)


def test_as_codec_of_a_vqvae_decodes_to_what_its_codes_do():
    torch.manual_seed(0)
    model = VQVAE(codebook_size=16, code_dim=4, widths=(8, 8), n_blocks=(0, 1)).eval()
    images = render(split_scenes("val", 3)).images
    codec = as_codec(model.encoder, lambda z: model.decode(model.quantizer.nearest(z)), 4, 4, images)
    z = codec.encode(images)
    assert z.shape == (3, 4, 32, 32)
    assert not z.requires_grad
    with torch.no_grad():
        assert torch.allclose(codec.decode(z), model.decode(model.encode(images)), atol=1e-5)


def test_an_encoder_may_descend_a_gradient_even_where_a_bench_forbids_it():
    def optimise(images: Tensor) -> Tensor:
        z = torch.zeros(len(images), 2, requires_grad=True)
        (gradient,) = torch.autograd.grad((z - encode_stripes(images)).square().sum() / 2, z)
        return z - gradient

    images = stripes(**stripe_scenes(5, 0).factors)
    codec = as_codec(optimise, decode_stripes, 2, SIZE, images, needs_grad=True)
    with torch.inference_mode():
        z = codec.encode(images.clone())  # an inference tensor, as a bench draws
    assert torch.allclose(z.flatten(1) * codec.std, encode_stripes(images), atol=1e-4)
    assert not z.requires_grad


def test_codecs_that_cannot_be_split_are_refused():
    images = stripes(**stripe_scenes(8, 2).factors)
    with pytest.raises(BadInputError, match="one and the same"):
        as_codec(lambda x: torch.ones(len(x), 2), decode_stripes, 2, SIZE, images)
    with pytest.raises(BadInputError, match="NaN"):
        as_codec(lambda x: torch.full((len(x), 2), math.nan), decode_stripes, 2, SIZE, images)
    for channels, downsampling in ((3, SIZE), (2, SIZE // 2)):
        with pytest.raises(BadInputError, match="downsampling"):
            as_codec(encode_stripes, decode_stripes, channels, downsampling, images)
    with pytest.raises(BadInputError, match="do not fit"):
        stripe_codec().decode(torch.zeros(1, 3, 1, 1))
    scenes = stripe_scenes(4, 0)
    with pytest.raises(BadInputError, match="one channel"):
        split_row(as_codec(lambda x: encode_stripes(x)[:, :1], decode_stripes, 1, SIZE, images), images, scenes, scenes, StripeJudge())
    many = as_codec(lambda x: x.flatten(1), lambda z: z.reshape(-1, 3, SIZE, SIZE), 3 * SIZE**2, SIZE, images)
    with pytest.raises(BadInputError, match="16 content changes for 768 channels"):
        split_row(many, images, scenes, scenes, StripeJudge())


# --- the table --------------------------------------------------------------------------------------------------------


def test_a_table_is_aligned_and_says_what_does_not_apply():
    rows = {"GLO": {"PSNR, dB": 21.456, "bits": None}, "VQ-VAE": {"bits": 9216, "κ": 0.5}, "none": {"PSNR, dB": math.nan, "κ": math.inf}}
    expected = [
        "        PSNR, dB   bits      κ",
        "GLO        21.46      –      –",
        "VQ-VAE         –  9,216  0.500",
        "none           –      –      ∞",
    ]
    assert table(rows, {"κ": ".3f"}).split("\n") == expected
    assert table({"a": {"x": "1 [0, 2]"}}).split("\n") == ["          x", "a  1 [0, 2]"]
    with pytest.raises(BadInputError, match="at least one row"):
        table({})
