import numpy as np
import pytest
import torch
from skimage import data, metrics

from sketchae.errors import BadInputError
from sketchae.metrics import gradient_distance, mse, psnr, ssim
from sketchae.metrics.distances import luminance


def photographs() -> tuple[torch.Tensor, torch.Tensor]:
    crops = [data.astronaut()[:96, 200:300], data.chelsea()[100:196, 150:250], data.coffee()[50:146, 100:200]]
    a = torch.from_numpy(np.stack(crops)).movedim(-1, 1).float() / 255
    noise = torch.rand(a.shape, generator=torch.Generator().manual_seed(0))
    return a, (0.8 * a + 0.2 * noise).clamp(0, 1)


def test_distances_agree_with_scikit_image():
    a, b = photographs()
    for i in range(3):
        x, y = a[i].numpy().astype(np.float64), b[i].numpy().astype(np.float64)
        assert mse(a, b)[i].item() == pytest.approx(metrics.mean_squared_error(x, y), rel=1e-5)
        assert psnr(a, b)[i].item() == pytest.approx(metrics.peak_signal_noise_ratio(x, y, data_range=1), rel=1e-5)
        grey = [luminance(images)[i].numpy().astype(np.float64) for images in (a, b)]
        expected = metrics.structural_similarity(
            *grey, data_range=1, gaussian_weights=True, use_sample_covariance=False
        )
        assert ssim(a, b)[i].item() == pytest.approx(expected, abs=2e-5)


def test_equal_pictures_have_no_distance():
    a, _ = photographs()
    assert mse(a, a).max() == gradient_distance(a, a).max() == 0
    assert torch.isinf(psnr(a, a)).all()
    torch.testing.assert_close(ssim(a, a), torch.ones(3))


def test_structure_aware_distances_care_little_for_colour():
    a, _ = photographs()
    tinted = (a + torch.tensor([0.1, -0.05, 0.0])[:, None, None]).clamp(0, 1)
    shifted = a.roll(4, dims=3)
    assert (gradient_distance(a, tinted) < 0.02 * gradient_distance(a, shifted)).all()
    assert (1 - ssim(a, tinted) < 0.1 * (1 - ssim(a, shifted))).all()


def test_gradient_distance_by_hand():
    a, b = torch.zeros(1, 1, 11, 11), torch.zeros(1, 1, 11, 11)
    b[..., 5:] = 1.0  # one vertical edge: ten differences in each row, one of them 1
    assert gradient_distance(a, b).item() == pytest.approx(1 / 10)


def test_a_picture_does_not_depend_on_its_batch():
    a, b = photographs()
    for distance in (mse, psnr, ssim, gradient_distance):
        torch.testing.assert_close(distance(a[1:2], b[1:2])[0], distance(a, b)[1])


def test_ssim_trains_even_if_it_was_first_used_in_inference_mode():
    size = 23  # no other test uses it, so its window is made here
    with torch.inference_mode():
        ssim(torch.rand(1, 1, size, size), torch.rand(1, 1, size, size))
    picture = torch.rand(1, 1, size, size, requires_grad=True)
    ssim(picture, torch.rand(1, 1, size, size)).sum().backward()
    assert picture.grad.abs().max() > 0


def test_bad_input_is_one_clear_sentence():
    a, b = photographs()
    with pytest.raises(BadInputError, match="cannot be compared"):
        mse(a, b[:, :, :50])
    with pytest.raises(BadInputError, match="empty batch"):
        ssim(a[:0], b[:0])
    with pytest.raises(BadInputError, match="11×11"):
        ssim(a[..., :8], b[..., :8])
    with pytest.raises(BadInputError, match="drop alpha"):
        gradient_distance(torch.rand(1, 4, 9, 9), torch.rand(1, 4, 9, 9))
