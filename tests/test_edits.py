import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import ToySplit

from sketchae import edits
from sketchae.errors import BadInputError


def haar(channels: int, seed: int = 0) -> torch.Tensor:
    q, r = torch.linalg.qr(torch.randn(channels, channels, generator=torch.Generator().manual_seed(seed)))
    return q * r.diagonal().sign()


def latents(seed: int, n: int = 3, channels: int = 4) -> torch.Tensor:
    return torch.randn(n, channels, 5, 7, generator=torch.Generator().manual_seed(seed))


def basis(n_semantic: int = 2, seed: int = 0) -> ToySplit:
    return ToySplit(haar(4, seed), n_semantic)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(1, 3))
def test_lerp_at_its_ends_is_original_target_and_swap(seed, k):
    q, original, target = basis(k, seed), latents(seed), latents(seed + 1)
    torch.testing.assert_close(edits.lerp_blocks(q, original, target), original, atol=1e-5, rtol=0)
    torch.testing.assert_close(edits.lerp_blocks(q, original, target, semantic=1, style=1), target, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        edits.lerp_blocks(q, original, target, style=1), edits.swap(q, original, target), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        edits.lerp_blocks(q, original, target, semantic=1), edits.swap(q, target, original), atol=1e-5, rtol=0
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99))
def test_swapping_twice_gives_the_original_back(seed):
    q, a, b = basis(2, seed), latents(seed), latents(seed + 1)
    there, back = edits.swap(q, a, b), edits.swap(q, b, a)
    torch.testing.assert_close(edits.swap(q, there, back), a, atol=1e-5, rtol=0)


def test_rotating_inside_a_block_changes_no_swap():
    rotation = torch.block_diag(haar(2, 5), haar(2, 6))
    a, b = latents(0), latents(1)
    rotated = ToySplit(rotation @ haar(4), 2)
    torch.testing.assert_close(edits.swap(basis(), a, b), edits.swap(rotated, a, b), atol=1e-5, rtol=0)


def test_one_alpha_for_each_picture():
    q, a, b = basis(), latents(0), latents(1)
    alphas = torch.tensor([0.0, 0.5, 1.0])
    together = edits.lerp_blocks(q, a, b, semantic=alphas, style=alphas)
    for i, alpha in enumerate(alphas.tolist()):
        alone = edits.lerp_blocks(q, a[i : i + 1], b[i : i + 1], semantic=alpha, style=alpha)
        torch.testing.assert_close(together[i : i + 1], alone)


def test_lerp_channels_moves_only_the_named_channels():
    a, b = latents(0), latents(1)
    z = edits.lerp_channels(a, b, (0, 3), 0.9)
    assert torch.equal(z[:, 1:3], a[:, 1:3])
    torch.testing.assert_close(z[:, [0, 3]], 0.1 * a[:, [0, 3]] + 0.9 * b[:, [0, 3]])
    assert torch.equal(a, latents(0)), "the original must not be changed in place"


def test_axis_pair_lerp_is_a_special_case_of_the_basis():
    a, b = latents(0), latents(1)
    permutation = torch.eye(4)[[0, 2, 1, 3]]
    through_basis = edits.lerp_blocks(ToySplit(permutation, 2), a, b, semantic=0.9)
    torch.testing.assert_close(through_basis, edits.lerp_channels(a, b, (0, 2), 0.9))


def test_mix_blocks_holds_every_combination():
    q, a, b = basis(), latents(0, 1), latents(1, 1)
    mixed = edits.mix_blocks(q, a, b, [0, 0.5], [0, 0.25, 1])
    assert mixed.shape == (2, 3, 4, 5, 7)
    torch.testing.assert_close(mixed[1, 2:], edits.lerp_blocks(q, a, b, semantic=0.5, style=1))
    torch.testing.assert_close(edits.mix_blocks(q, a, b, [0.5], [1])[0], mixed[1, 2:])


def test_kept_blocks_add_up_to_the_latents():
    q, z = basis(), latents(0)
    semantic, style = edits.keep_block(q, z, "semantic"), edits.keep_block(q, z, "style")
    torch.testing.assert_close(semantic + style, z, atol=1e-5, rtol=0)
    assert q.to_semantic_style(semantic)[1].abs().max() < 1e-5
    filled = edits.keep_block(q, z, "style", fill=torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(q.to_semantic_style(filled)[0][0, :, 0, 0], torch.tensor([1.0, 2.0]))


def test_solo_channels_add_up_to_the_latents():
    z = latents(0)
    torch.testing.assert_close(sum(edits.solo_channel(z, i) for i in range(4)), z)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q, z: edits.swap(q, z, z[:, :, :2]), "one size"),
        (lambda q, z: edits.lerp_blocks(q, z, z, semantic=float("nan")), "semantic must be finite"),
        (lambda q, z: edits.lerp_blocks(q, z, z, style=torch.ones(2)), "for 3 pictures"),
        (lambda q, z: edits.lerp_channels(z, z, (0, 4), 0.5), "channels 0 to 3"),
        (lambda q, z: edits.mix_blocks(q, z, z, [0], [0]), "one pair"),
        (lambda q, z: edits.keep_block(q, z, "style", fill=torch.ones(3)), "one a channel"),
        (lambda q, z: edits.solo_channel(z, -1), "does not exist"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(BadInputError, match=message):
        call(basis(), latents(0))


def test_gradients_flow_through_a_swap():
    matrix = haar(4).requires_grad_()
    edits.swap(ToySplit(matrix, 2), latents(0), latents(1)).square().sum().backward()
    assert matrix.grad.abs().max() > 0
