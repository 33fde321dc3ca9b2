"""A world of small blocks: where the block lies is content, its two colours are style; the latents are the pixels."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.color import rgb2lab

from sketchae import figures, load_vae
from sketchae.basis import OrthogonalBasis
from sketchae.errors import BadInputError
from sketchae.metrics import pair_indices
from sketchae.metrics.agreement import proxy_agreement
from sketchae.metrics.proxies import (
    COMBINED,
    SIDES,
    ProxyBench,
    colour_distance,
    colour_gaussians,
    edge_maps,
)
from sketchae.scenes import counterfactual, render, split_scenes

SIZE, N = 24, 12
RANDOM = np.random.default_rng(0)
PLACES = np.stack([RANDOM.permutation(4)[:2] for _ in range(N)])  # (pairs, 2): the quarter in a, another in b
COLOURS = RANDOM.random((N, 2, 2, 3)).astype(np.float32)  # (pairs, a or b, ground or block, rgb)


def draw(places: np.ndarray, colours: np.ndarray) -> torch.Tensor:
    """Pictures (n, 3, SIZE, SIZE) of one block on a ground."""
    images = torch.from_numpy(colours[:, 0])[:, :, None, None].repeat(1, 1, SIZE, SIZE)
    for i, place in enumerate(places):
        top, left = (3 + 12 * (place // 2), 3 + 12 * (place % 2))
        images[i, :, top : top + 6, left : left + 6] = torch.from_numpy(colours[i, 1])[:, None, None]
    return images


A, B = (draw(PLACES[:, i], COLOURS[:, i]) for i in (0, 1))
TRUE, WRONG = draw(PLACES[:, 0], COLOURS[:, 1]), draw(PLACES[:, 1], COLOURS[:, 0])
CAPTIONS_A, CAPTIONS_B = ([[f"quarter {p}", f"a block in quarter {p}"] for p in PLACES[:, i]] for i in (0, 1))


class PixelCodec:
    def encode(self, images):
        return images.clone()

    def decode(self, z):
        return z.clamp(0, 1)


class BlockClip:
    """Four dimensions say in which quarter the edges lie, three the mean colour; captions know the quarter only."""

    def embed_images(self, images):
        edges = (images.diff(dim=2)[..., :-1].abs() + images.diff(dim=3)[..., :-1, :].abs()).mean(1)
        edges = F.pad(edges, (0, 1, 0, 1))
        where = F.normalize(F.avg_pool2d(edges[:, None], SIZE // 2).flatten(1), dim=-1)
        return F.normalize(torch.cat([where, images.mean((2, 3)) - 0.5], 1), dim=-1)

    def embed_texts(self, texts):
        return torch.eye(7)[[int(text[-1]) for text in texts]]


@pytest.fixture(scope="module")
def bench():
    return ProxyBench(PixelCodec(), BlockClip(), A, B, CAPTIONS_A, CAPTIONS_B, n_boot=200)


def test_the_true_counterfactual_wins_on_every_proxy_and_the_wrong_way_round_loses(bench):
    true, wrong = bench.score(lambda a, b: TRUE), bench.score(lambda a, b: WRONG)
    assert bench.names == tuple(SIDES) == bench.usable
    assert true["combined_of"] == list(COMBINED)
    for name, side in SIDES.items():
        assert true[name] > 0 > wrong[name], name
        low, high = true[f"{name}_ci95"]
        assert 0 < low < true[name] < high, name
        trivial = "a" if side == "content" else "b"  # the unswapped picture that does well on this proxy
        other = "b" if side == "content" else "a"
        assert true[f"{name}_{trivial}"] > 0 > true[f"{name}_{other}"], name
        if name == "clip_style":  # b shows content that its residue subtracts; the counterfactual does not
            assert true[f"{name}_rescaled"] > 1
        else:
            assert 0.5 < true[f"{name}_rescaled"] < 1.1, name
    assert true["combined"] > 0.7
    assert wrong["combined"] < -0.7
    assert true["combined_content"] > 0.7 and true["combined_style"] > 0.5
    assert all(isinstance(value, float | int | list) for value in true.values())


def test_a_and_b_unchanged_are_the_ends_of_each_scale_and_cancel_in_the_combination(bench):
    a, b = bench.score(lambda a, b: a), bench.score(lambda a, b: b)
    for name, side in SIDES.items():
        for score, end in ((a, 1), (b, -1)):
            expected = end if side == "content" else -end
            assert score[f"{name}_rescaled"] == pytest.approx(expected, abs=1e-9)
            assert score[f"{name}_rescaled_ci95"] == pytest.approx([expected, expected], abs=1e-9)
        assert a[name] == a[f"{name}_a"] and b[name] == b[f"{name}_b"]
    assert a["combined"] == pytest.approx(0, abs=1e-9)
    assert b["combined"] == pytest.approx(0, abs=1e-9)
    assert (a["colour"], b["colour"]) == pytest.approx((-1, 1), abs=1e-5)


def test_exchanging_a_and_b_changes_every_sign(bench):
    exchanged = ProxyBench(PixelCodec(), BlockClip(), B, A, CAPTIONS_B, CAPTIONS_A, n_boot=20)
    blend = lambda a, b: 0.7 * TRUE + 0.3 * A  # noqa: E731
    there, back = bench.per_pair(blend), exchanged.per_pair(blend)
    for name in SIDES:
        np.testing.assert_allclose(back[name], -there[name], atol=1e-3)
        assert np.abs(there[name]).max() > 0.1
    assert exchanged.score(blend)["combined"] == pytest.approx(-bench.score(blend)["combined"], abs=1e-3)


def test_a_grey_picture_has_no_edges_and_prefers_neither_content(bench):
    score = bench.score_pictures(torch.full_like(A, 0.5))
    assert score["edges"] == 0
    assert abs(score["edges_rescaled"]) < 1e-6
    assert abs(score["clip_caption"]) < 1e-6
    # Grey may lie nearer to the colours of a or of b, by the triangle inequality never by more than they lie apart.
    assert np.abs(bench.per_pair(lambda a, b: torch.full_like(a, 0.5))["colour"]).max() <= 1


def test_a_basis_and_the_function_that_swaps_by_it_agree(bench):
    basis = OrthogonalBasis.from_matrix(np.eye(3)[[1, 0, 2]], 1)
    score = bench.score(basis)
    assert score == bench.score(lambda a, b: torch.stack([b[:, 0], a[:, 1], b[:, 2]], 1))
    assert score == bench.score_pictures(torch.stack([B[:, 0], A[:, 1], B[:, 2]], 1))


def test_neither_batch_size_nor_the_form_of_latents_and_embeddings_matters(bench):
    clip = BlockClip()
    ready = ProxyBench(
        PixelCodec(), clip, z_a=A, z_b=B, captions_a=torch.eye(7)[PLACES[:, 0]],
        captions_b=torch.eye(7)[PLACES[:, 1]][:, None].repeat(1, 3, 1), image_embeds_a=clip.embed_images(A),
        image_embeds_b=clip.embed_images(B), batch_size=5, n_boot=200,
    )  # fmt: skip
    expected = bench.score_pictures(TRUE)
    for key, value in ready.score_pictures(TRUE).items():
        assert value == expected[key] if key == "combined_of" else value == pytest.approx(expected[key], abs=1e-5), key


def test_the_first_pairs_alone(bench):
    part, whole = bench.score_pictures(TRUE[:7]), bench.per_pair(lambda a, b: TRUE)
    assert part["n_pairs"] == 7
    assert part["edges"] == pytest.approx(whole["edges"][:7].mean())
    assert bench.score(lambda a, b: TRUE[: len(a)], n_pairs=7) == part


def test_without_clip_or_captions_its_proxies_are_absent():
    for clip, captions in ((None, (None, None)), (BlockClip(), (None, None)), (None, (CAPTIONS_A, CAPTIONS_B))):
        bench = ProxyBench(PixelCodec(), clip, A, B, *captions, n_boot=20)
        score = bench.score_pictures(TRUE)
        assert bench.names == ("colour", "edges")
        assert not any(key.startswith("clip") for key in score)
        assert score["combined_of"] == ["edges", "colour"]
        assert score["combined"] > 0.5


def test_a_proxy_that_cannot_tell_a_from_b_takes_no_part():
    class BlindClip(BlockClip):
        def embed_images(self, images):
            return F.normalize(torch.ones(len(images), 7), dim=-1)

    with pytest.warns(UserWarning, match="clip_caption.*cannot tell unswapped a from unswapped b"):
        bench = ProxyBench(PixelCodec(), BlindClip(), A, B, CAPTIONS_A, CAPTIONS_B, n_boot=50)
    score = bench.score_pictures(TRUE)
    assert "clip_caption" in bench.names and "clip_caption" not in bench.usable
    assert "clip_caption" in score and "clip_caption_rescaled" not in score
    assert "clip_caption" not in score["combined_of"]

    with pytest.warns(UserWarning, match="colour, edges cannot tell"):
        bench = ProxyBench(PixelCodec(), None, A, A, n_boot=50)
    assert "combined" not in bench.score_pictures(A)
    assert bench.score_pictures(TRUE)["colour"] == 0, "equal colours of a and b: no preference"


def test_on_scenes_the_true_counterfactual_s_latents_beat_both_trivial_answers():
    scenes, (a, b) = split_scenes("val", 24), pair_indices(24, 12, "test_proxies")
    vae = load_vae("embedded")
    with torch.inference_mode():
        z_true = vae.encode(render(counterfactual(scenes[a], scenes[b])).images)
        z_a, z_b = (vae.encode(render(scenes[rows]).images) for rows in (a, b))
    bench = ProxyBench(vae, z_a=z_a, z_b=z_b, n_boot=200)
    score = bench.score(lambda z_a, z_b: z_true)
    assert score["combined"] > 0.1, "both trivial answers score 0"
    assert score["edges"] > 0 and score["colour"] > 0


def test_colour_distance_is_the_frechet_distance_of_the_pixels_in_cielab():
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(3, 3, 16, 16, generator=generator)
    second = 0.5 * torch.rand(3, 3, 16, 16, generator=generator)
    found = colour_distance(colour_gaussians(first), colour_gaussians(second))
    for i in range(3):
        x, y = (rgb2lab(np.moveaxis(p[i].double().numpy(), 0, -1)).reshape(-1, 3) for p in (first, second))
        s, t = (np.cov(p.T, bias=True) for p in (x, y))
        square = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real)
        assert found[i] == pytest.approx(square**0.5, rel=1e-6)
    gaussians = colour_gaussians(first)
    assert colour_distance(gaussians, gaussians) == pytest.approx(np.zeros(3), abs=1e-4)
    # One flat colour against another: the distance of their CIELAB coordinates (black to white is 100).
    black, white = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    assert colour_distance(colour_gaussians(black), colour_gaussians(white))[0] == pytest.approx(100, abs=0.02)


def test_edge_maps_see_where_edges_are_and_not_which_colours_they_part():
    maps, recoloured, moved = edge_maps(A), edge_maps(0.9 - 0.5 * A), edge_maps(B)
    torch.testing.assert_close(maps.square().sum(1), torch.ones(N))
    torch.testing.assert_close(maps.mean(1), torch.zeros(N), atol=1e-6, rtol=0)
    torch.testing.assert_close((maps * recoloured).sum(1), torch.ones(N))
    assert ((maps * moved).sum(1) < 0.1).all()
    assert (edge_maps(torch.full((1, 3, 16, 16), 0.3)) == 0).all()


def test_agreement_is_spearman_with_an_interval_over_bases():
    x = RANDOM.normal(size=40)
    noisy = x + RANDOM.normal(size=40)
    found = proxy_agreement(x, {"monotone": np.exp(x), "reverse": -(x**3), "noisy": noisy})
    assert found["monotone"]["spearman"] == pytest.approx(1)
    assert found["monotone"]["ci95"] == pytest.approx([1, 1])
    assert found["reverse"]["spearman"] == pytest.approx(-1)
    assert found["noisy"]["spearman"] == pytest.approx(scipy.stats.spearmanr(x, noisy).statistic)
    low, high = found["noisy"]["ci95"]
    assert low < found["noisy"]["spearman"] < high and high - low > 0.1
    assert found["noisy"]["n"] == 40
    ties = proxy_agreement([0, 0, 1, 2, 2, 3], {"p": [1, 0, 1, 1, 2, 2]})["p"]["spearman"]
    assert ties == pytest.approx(scipy.stats.spearmanr([0, 0, 1, 2, 2, 3], [1, 0, 1, 1, 2, 2]).statistic)
    assert found == proxy_agreement(x, {"monotone": np.exp(x), "reverse": -(x**3), "noisy": noisy})


def make(**changes):
    options = {"images_a": A, "images_b": B, "captions_a": CAPTIONS_A, "captions_b": CAPTIONS_B, "n_boot": 20}
    return ProxyBench(PixelCodec(), BlockClip(), **(options | changes))


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: make(images_a=A[:0], images_b=B[:0], captions_a=[], captions_b=[]), "at least one pair"),
        (lambda: ProxyBench(PixelCodec()), "at least one pair"),
        (lambda: make(images_b=B[:5]), "one for each pair"),
        (lambda: make(captions_b=None), "one of a and b only"),
        (lambda: make(captions_a=[*CAPTIONS_A[:-1], []]), "Picture 11 has no caption"),
        (lambda: make(images_a=None), "pass images_a and images_b, or z_a and z_b"),
        (lambda: make(images_a=None, z_a=A), "pass images or image_embeds"),
        (lambda: make(image_embeds_a=torch.ones(N, 9)), "one CLIP for both"),
        (lambda: make().score(lambda a, b: a, n_pairs=N + 1), "has 1 to 12"),
        (lambda: make().score(lambda a, b: a * float("nan")), "not finite"),
        (lambda: edge_maps(torch.rand(1, 3, 4, 9)), "at least 8×8 pixels, got 4×9"),
        (lambda: proxy_agreement([1, 2, 3], {"p": [1, 2, 3]}), "at least 4 bases"),
        (lambda: proxy_agreement([1, 2, 3, 4], {"p": [1, 2, 3, float("nan")]}), "finite values"),
        (lambda: proxy_agreement([1, 2, 3, 4], {"p": [1, 2, 3, 4, 5]}), "one for each basis"),
        (lambda: proxy_agreement([1, 2, 3, 4], {"p": [1, 1, 1, 1]}), "p is the same for every basis"),
        (lambda: figures.proxy_scatter([1.0, 2.0], {}), "at least one proxy"),
        (lambda: figures.proxy_scatter([1.0, 2.0], {"p": [1.0]}), "1 values for 2 bases"),
        (lambda: figures.proxy_scatter([1.0, 2.0], {"p": [1.0, 2.0]}, groups=["x"]), "1 basis group labels"),
    ],
)
def test_bad_input_is_one_clear_sentence(attempt, message):
    with pytest.raises(BadInputError, match=message):
        attempt()


def test_the_figure_has_one_panel_a_proxy_with_its_correlation_in_the_title(tmp_path):
    x = RANDOM.normal(size=20)
    proxies = {name: x + RANDOM.normal(size=20) for name in SIDES}
    agreement = proxy_agreement(x, proxies, n_boot=50)
    figure = figures.proxy_scatter(x, proxies, agreement=agreement, groups=["random basis"] * 14 + ["channel pair"] * 6)
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert len(panels) == len(SIDES)
    for ax, name in zip(panels, SIDES, strict=True):
        drawn = np.sort(np.concatenate([line.get_ydata() for line in ax.lines[2:]]))
        np.testing.assert_allclose(drawn, np.sort(proxies[name]))
        assert f"{abs(agreement[name]['spearman']):.2f}" in ax.get_title()
    path = tmp_path / "figure.png"
    path.write_bytes(figures.render_png(figure))
    assert Image.open(path).width <= 7.3 * 200
