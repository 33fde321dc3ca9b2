"""The algebra of the change of basis, its baselines and finalisation, and what is refused when one is loaded."""

import json

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sketchae.basis import (
    OrthogonalBasis,
    axis_pair_basis,
    axis_pairs,
    finalize,
    pca_basis,
    plane_angle,
    random_basis,
)
from sketchae.errors import BadInputError, MissingFileError, NoNetworkError

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def bases(draw):
    channels = draw(st.integers(2, 8))
    return random_basis(channels, draw(st.integers(1, channels - 1)), draw(seeds))


def latents(seed: int, channels: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, 3, 5, generator=torch.Generator().manual_seed(seed))


def near_orthogonal(seed: int, noise: float = 0.05, channels: int = 4) -> np.ndarray:
    return random_basis(channels, 1, seed).Q.double().numpy() + noise * np.random.default_rng(seed).normal(
        size=(channels, channels)
    )


# --- algebra ---------------------------------------------------------------------------------------------------------


@few
@given(bases(), seeds)
def test_encode_keeps_lengths_and_decode_inverts_it(basis, seed):
    z = latents(seed, basis.channels)
    x = basis.encode(z)
    assert torch.allclose(x.square().sum(1), z.square().sum(1), rtol=1e-4, atol=1e-4)  # at every pixel
    assert torch.allclose(basis.decode(x), z, atol=1e-5)
    assert basis.orthogonality_error < 1e-6
    # x = Q z with the rows of Q as output channels
    assert torch.allclose(x[0, :, 1, 2], basis.Q @ z[0, :, 1, 2], atol=1e-5)


@few
@given(bases(), seeds)
def test_the_blocks_are_the_first_rows_and_the_rest(basis, seed):
    z = latents(seed, basis.channels)
    semantic, style = basis.to_semantic_style(z)
    assert semantic.shape[1] == basis.n_semantic and style.shape[1] == basis.channels - basis.n_semantic
    assert torch.equal(torch.cat([semantic, style], 1), basis.encode(z))
    assert torch.allclose(basis.from_semantic_style(semantic, style), z, atol=1e-5)
    # What is left when the style block is zeroed is the projection onto the semantic plane.
    rows = basis.Q[: basis.n_semantic]
    kept = basis.from_semantic_style(semantic, torch.zeros_like(style))
    assert torch.allclose(kept, torch.einsum("ki,kj,bjhw->bihw", rows, rows, z), atol=1e-4)


@few
@given(bases(), seeds)
def test_rotations_inside_a_block_change_neither_plane_nor_swaps(basis, seed):
    k, channels = basis.n_semantic, basis.channels
    rotation = torch.block_diag(*(_orthogonal(size, seed + size) for size in (k, channels - k)))
    rotated = OrthogonalBasis.from_matrix(rotation @ basis.Q, k)
    assert plane_angle(basis.Q, rotated.Q, k).max() < 1e-3
    a, b = latents(seed, channels), latents(seed + 1, channels)
    swaps = [
        each.from_semantic_style(each.to_semantic_style(a)[0], each.to_semantic_style(b)[1])
        for each in (basis, rotated)
    ]
    assert torch.allclose(*swaps, atol=1e-4)


def _orthogonal(size: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed)))[0]


def test_unbatched_latents_and_other_number_formats():
    basis, z = random_basis(4, 2, 0), latents(0, 4)
    assert torch.allclose(basis.encode(z[0]), basis.encode(z)[0], atol=1e-6)
    assert basis.encode(z.to(torch.bfloat16)).dtype == torch.bfloat16
    assert basis.encode(z.double()).dtype == torch.float64


@pytest.mark.parametrize("angle", [0.0, 10.0, 90.0])
def test_plane_angle_of_a_known_rotation(angle):
    t = np.radians(angle)
    rotated = np.eye(4)
    rotated[[1, 1, 2, 2], [1, 2, 1, 2]] = [np.cos(t), np.sin(t), -np.sin(t), np.cos(t)]  # row 1 leaves the plane
    assert plane_angle(np.eye(4), rotated, 2) == pytest.approx([angle, 0.0], abs=1e-6)


# --- baselines -------------------------------------------------------------------------------------------------------


def test_random_bases_are_spread_evenly():
    matrices = np.stack([random_basis(4, 2, seed).Q.numpy() for seed in range(400)])
    # Haar: every entry has mean 0 and variance 1/C, both determinants occur alike, and no entry prefers a sign.
    assert np.abs(matrices.mean(0)).max() < 5 * 0.5 / np.sqrt(400)
    assert np.abs(matrices.var(0) - 0.25).max() < 0.05
    assert 0.4 < (np.linalg.det(matrices) > 0).mean() < 0.6
    # The fourth moment of an entry is 3 / (C (C + 2)) for Haar; QR without the sign fix would miss it on the diagonal.
    assert np.abs((matrices**4).mean(0) - 3 / 24).max() < 0.03
    assert np.array_equal(matrices[7], random_basis(4, 2, 7).Q.numpy())


def test_axis_pairs_take_channels_as_they_are():
    assert axis_pairs() == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    z = latents(0, 4)
    semantic, style = axis_pair_basis((1, 3)).to_semantic_style(z)
    assert torch.equal(semantic, z[:, [1, 3]]) and torch.equal(style, z[:, [0, 2]])
    for wrong in ((1, 1), (0, 4), (-1, 0)):
        with pytest.raises(BadInputError, match="correct the pair"):
            axis_pair_basis(wrong)


def test_pca_orders_the_components_and_reads_batches_as_the_whole():
    mixing = random_basis(4, 2, 5)
    z = mixing.decode(latents(3, 4, batch=400) * torch.tensor([3.0, 2.0, 1.0, 0.5])[:, None, None]) + 1.0
    descending, ascending = pca_basis(z), pca_basis(z, order="ascending")
    variances = descending.encode(z).movedim(1, 0).flatten(1).var(1)
    assert (variances.diff() < 0).all()
    assert torch.equal(ascending.Q, descending.Q.flip(0))
    assert plane_angle(descending.Q, mixing.Q, 2).max() < 3
    assert torch.allclose(pca_basis(z.split(64)).Q, descending.Q, atol=1e-6)
    assert torch.equal(pca_basis(z, order=[0, 3, 1, 2]).Q, descending.Q[[0, 3, 1, 2]])
    for wrong in ("sideways", [0, 1, 2], [0, 0, 1, 2]):
        with pytest.raises(BadInputError, match="order"):
            pca_basis(z, order=wrong)


# --- finalisation ----------------------------------------------------------------------------------------------------


@few
@given(seeds)
def test_finalize_factors_the_weight(seed):
    w = near_orthogonal(seed)
    final = finalize(w)
    eye = np.eye(4)
    for matrix in (final.Q, final.polar, final.lq):
        assert np.allclose(matrix.T @ matrix, eye, atol=1e-12)
    assert np.allclose(final.Q @ final.R, w, atol=1e-12) and (np.diag(final.R) > 0).all()
    assert np.allclose(np.tril(final.R, -1), 0, atol=1e-12)
    assert final.r_error == pytest.approx(np.linalg.norm(final.R - eye))
    # Frobenius norm is invariant under Q: ||W - Q|| = ||Q (R - I)|| = ||R - I||.
    assert final.distances["qr"] == pytest.approx(final.r_error)
    # The polar factor is the nearest of all orthogonal matrices.
    assert final.nearer == "polar"
    assert final.distances["polar"] <= min(final.distances.values()) + 1e-12
    assert final.distances["polar"] == pytest.approx(np.linalg.norm(np.linalg.svd(w)[1] - 1))
    # Gram-Schmidt on rows keeps the plane of the first rows; on columns it does not.
    assert final.plane_angles_deg["lq"] < 1e-5 < final.plane_angles_deg["qr"]


def test_signs_make_qr_unique():
    w = near_orthogonal(3)
    flipped = finalize(-w)
    assert np.allclose(flipped.Q, -finalize(w).Q) and np.allclose(flipped.R, finalize(w).R)
    assert np.allclose(finalize(finalize(w).Q).Q, finalize(w).Q)  # an orthogonal matrix is its own Q
    assert pytest.approx(np.eye(4)) == finalize(np.diag([1.0, -1.0, 1.0, -1.0])).R


def test_finalize_refuses_what_has_no_answer():
    with pytest.raises(BadInputError, match="not finite"):
        finalize(np.full((4, 4), np.nan))
    with pytest.raises(BadInputError, match="singular"):
        finalize(np.ones((4, 4)))
    with pytest.raises(BadInputError, match="choose one of"):
        finalize(np.eye(4)).matrix("cholesky")
    with pytest.raises(BadInputError, match="choose 1 to 3"):
        finalize(np.eye(4), n_semantic=4)


# --- saving and loading ----------------------------------------------------------------------------------------------


@pytest.fixture
def basis() -> OrthogonalBasis:
    return finalize(near_orthogonal(1)).basis(vae="some/vae", vae_id="abc", facts={"training seed": 1})


def test_saved_and_loaded_it_is_the_same(basis, tmp_path):
    basis.save(tmp_path / "basis", facts={"swap score": 0.1234567})
    assert sorted(path.name for path in (tmp_path / "basis").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    for loaded in (OrthogonalBasis.load(tmp_path / "basis"), OrthogonalBasis.from_pretrained(str(tmp_path / "basis"))):
        assert torch.equal(loaded.Q, basis.Q)
        assert (loaded.channels, loaded.n_semantic, loaded.vae, loaded.vae_id) == (4, 2, "some/vae", "abc")
        assert loaded.facts == {"training seed": 1, "swap score": 0.1234567}
    # A basis that was loaded can be saved again.
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(OrthogonalBasis.load(tmp_path / "again").Q, basis.Q)


def test_model_card_says_what_it_is(basis, tmp_path):
    basis.save(tmp_path, facts={"swap score": 0.1234567, "a|b": "x\ny"})
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "sketchae" and card.data.license == "mit"
    assert "disentanglement" in card.data.tags
    assert "some/vae" in card.text and "| swap score | 0.1235 |" in card.text and "| a\\|b | x y |" in card.text
    assert f"{float(basis.Q[0, 0]):+.6f}" in card.text
    # The card is made anew at every save.
    basis.save(tmp_path, facts={"swap score": 0.5})
    assert "| swap score | 0.5 |" in (tmp_path / "README.md").read_text()
    random_basis().save(tmp_path)
    assert "Nothing was recorded" in (tmp_path / "README.md").read_text()


def test_push_to_hub_uploads_the_three_files(basis, monkeypatch):
    uploaded = {}

    def upload_folder(self, *, repo_id, folder_path, **rest):
        uploaded.update({path.name: path.read_bytes() for path in folder_path.iterdir()}, repo_id=repo_id)
        return "url"

    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "create_repo",
        lambda self, repo_id, **rest: huggingface_hub.RepoUrl(f"https://hf.co/{repo_id}"),
    )
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    basis.push_to_hub("someone/basis")
    assert {"README.md", "config.json", "model.safetensors"} < set(uploaded)
    assert torch.equal(safetensors.torch.load(uploaded["model.safetensors"])["Q"], basis.Q)
    assert b"someone/basis" in uploaded["README.md"]


def _rewrite(folder, matrix):
    (folder / "model.safetensors").write_bytes(safetensors.torch.save({"Q": matrix}))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.eye(6), "holds a matrix of 6x6, but its configuration says 4 channels"),
        (torch.full((4, 4), torch.nan), "not finite"),
        (1.01 * torch.eye(4), "is not orthogonal"),
        (torch.eye(4)[:2], "holds a matrix of 2x4"),
    ],
)
def test_a_matrix_that_is_no_basis_is_refused(basis, tmp_path, matrix, message):
    basis.save(tmp_path)
    _rewrite(tmp_path, matrix)
    with pytest.raises(BadInputError, match=message):
        OrthogonalBasis.load(tmp_path)


def test_files_that_cannot_be_read_are_refused(basis, tmp_path):
    with pytest.raises(MissingFileError, match="03_qr_finalize"):
        OrthogonalBasis.load(tmp_path / "nowhere")
    basis.save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half a fi")
    with pytest.raises(BadInputError, match="damaged"):
        OrthogonalBasis.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"holds no model\.safetensors"):
        OrthogonalBasis.load(tmp_path)
    basis.save(tmp_path)
    (tmp_path / "config.json").write_text('{"channels": 4,')
    with pytest.raises(BadInputError, match=r"config\.json"):
        OrthogonalBasis.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"channels": 4, "n_semantic": 4}))
    with pytest.raises(BadInputError, match="choose 1 to 3"):
        OrthogonalBasis.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(MissingFileError, match=r"config\.json"):
        OrthogonalBasis.load(tmp_path)


def test_hub_ids_that_cannot_be_had(tmp_path):
    with pytest.raises(NoNetworkError, match="connect once"):
        OrthogonalBasis.load("someone/basis", cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(BadInputError, match="correct the name"):
        OrthogonalBasis.load("some one/basis?", cache_dir=tmp_path)


def test_wrong_channels_and_other_vaes(basis):
    with pytest.raises(BadInputError, match=r"latents of 4 channels, but got 16.*some/vae"):
        basis.encode(latents(0, 16))
    with pytest.raises(BadInputError, match="a style block of 2 channels, but got 3"):
        basis.from_semantic_style(latents(0, 2), latents(0, 3))
    for k in (0, 4, -1):
        with pytest.raises(BadInputError, match="choose 1 to 3"):
            OrthogonalBasis(4, k)
    with pytest.raises(BadInputError, match="is not orthogonal"):
        OrthogonalBasis.from_matrix(near_orthogonal(0), 2)
    with pytest.raises(BadInputError, match="4 and 6 channels"):
        plane_angle(np.eye(4), np.eye(6), 2)

    class Codec:
        latent_channels = 16

    with pytest.raises(BadInputError, match="16 latent channels"):
        basis.check_vae(Codec())
    Codec.latent_channels = 4
    basis.check_vae(Codec())
    Codec.id = "abc"
    basis.check_vae(Codec())
    Codec.id = "abd"
    with pytest.raises(BadInputError, match="other weights"):
        basis.check_vae(Codec())


def test_pictures_through_a_codec(basis):
    class Codec:  # any object of the user's own
        def encode(self, images):
            return images[:, [0, 1, 2, 0], ::2, ::2] * 2 - 1

        def decode(self, z):
            return (z[:, :3].repeat_interleave(2, -1).repeat_interleave(2, -2) + 1) / 2

    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = images[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2)
    blocks = basis.encode_images(images, Codec())
    assert torch.allclose(basis.decode_images(*blocks, Codec()), images, atol=1e-5)
