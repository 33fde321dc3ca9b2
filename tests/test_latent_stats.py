import numpy as np
import pytest
import scipy.stats
import torch

from sketchae.errors import BadInputError
from sketchae.metrics import channel_statistics


def latents(n: int = 40, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, 4, 6, 6, generator=generator)
    mix = torch.tensor([[1.0, 0, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1.5, 0], [0, 0, 0.2, 0.3]])
    z = torch.einsum("ij,bjhw->bihw", mix, z) + torch.tensor([0.0, 1.0, -20.0, 0.5])[:, None, None]
    return (z + 0.2 * z**2 * (torch.arange(4) == 3)[:, None, None]).to(dtype)


def haar(seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)))[0]


def test_statistics_agree_with_numpy_and_scipy():
    z = latents()
    pixels = z.movedim(1, -1).reshape(-1, 4).double().numpy()
    found = channel_statistics([z])
    np.testing.assert_allclose(found.mean, pixels.mean(0), atol=1e-10)
    np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-9)
    np.testing.assert_allclose(found.covariance, np.cov(pixels.T, bias=True), atol=1e-9)
    np.testing.assert_allclose(found.correlation, np.corrcoef(pixels.T), atol=1e-9)
    np.testing.assert_allclose(found.kurtosis, scipy.stats.kurtosis(pixels), atol=1e-8)
    np.testing.assert_allclose(found.maximum, pixels.max(0))
    assert found.n_pixels == 40 * 36
    assert (np.diff(found.eigenvalues) <= 0).all()


def test_shards_and_their_sizes_do_not_matter():
    whole, parts = channel_statistics([latents()]), channel_statistics(iter(latents().split([1, 0, 17, 22])))
    np.testing.assert_allclose(parts.covariance, whole.covariance, atol=1e-9)
    np.testing.assert_allclose(parts.kurtosis, whole.kurtosis, atol=1e-7)


def test_half_precision_is_accumulated_in_double():
    z = latents(dtype=torch.float16)
    np.testing.assert_allclose(channel_statistics([z]).mean, channel_statistics([z.double()]).mean, atol=1e-12)


def test_orthogonal_q_keeps_the_eigenvalues_and_changes_the_kurtosis():
    z, q = latents(), haar()
    plain, rotated = channel_statistics([z]), channel_statistics([z], q)
    np.testing.assert_allclose(rotated.eigenvalues, plain.eigenvalues, rtol=1e-6)
    assert rotated.anisotropy == pytest.approx(plain.anisotropy, rel=1e-6)
    np.testing.assert_allclose(rotated.covariance, q.numpy() @ plain.covariance @ q.numpy().T, atol=1e-5)
    x = torch.einsum("ij,bjhw->bihw", q.double(), z.double())
    np.testing.assert_allclose(rotated.kurtosis, channel_statistics([x]).kurtosis, atol=1e-6)


def test_gaussian_noise_is_isotropic():
    z = torch.randn(64, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    found = channel_statistics(z.split(16))
    assert found.anisotropy < 0.02
    assert np.abs(found.kurtosis).max() < 0.1


def test_bad_input_is_one_clear_sentence():
    with pytest.raises(BadInputError, match="no latents"):
        channel_statistics([])
    spoilt = latents()
    spoilt[3, 1, 0, 0] = float("nan")
    with pytest.raises(BadInputError, match="batch 1 holds NaN"):
        channel_statistics([latents(), spoilt])
    with pytest.raises(BadInputError, match="belongs to this VAE"):
        channel_statistics([latents()], torch.eye(3))
