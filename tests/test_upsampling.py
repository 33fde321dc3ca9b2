"""A decoder whose upsampling is fused with the convolution after it paints the same pictures, and the model it came from stays as it was."""

import pytest
import torch
from diffusers import AutoencoderTiny
from torch import nn

from sketchae.backbones import load_vae
from sketchae.backbones.upsampling import fused_upsampling
from sketchae.backbones.vae import DiffusersVAE

SMALL = dict(encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1))


def tiny(**changes) -> AutoencoderTiny:
    torch.manual_seed(1)
    return AutoencoderTiny(**SMALL | changes).eval().requires_grad_(False)


def count(vae: AutoencoderTiny, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in vae.modules())


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (8, 8)])
def test_pictures_and_gradients_are_the_same(size):
    vae = tiny()
    fused = fused_upsampling(vae)
    assert (count(vae, nn.Upsample), count(fused, nn.Upsample), count(fused, nn.ConvTranspose2d)) == (2, 0, 2)
    z = torch.randn(3, 4, *size, requires_grad=True)
    pictures, again = vae.decode(z).sample, fused.decode(z).sample
    torch.testing.assert_close(again, pictures, atol=1e-5, rtol=1e-5)
    look = torch.randn_like(pictures)
    gradients = [torch.autograd.grad((p * look).sum(), z)[0] for p in (pictures, again)]
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-4)


def test_a_bias_is_kept():
    vae = tiny()
    conv = next(b for a, b in zip(vae.decoder.layers, vae.decoder.layers[1:]) if isinstance(a, nn.Upsample))
    conv.bias = nn.Parameter(torch.randn(8), requires_grad=False)
    z = torch.randn(2, 4, 4, 4)
    torch.testing.assert_close(fused_upsampling(vae).decode(z).sample, vae.decode(z).sample, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [{"upsample_fn": "bilinear"}, {"upsampling_scaling_factor": 3}])
def test_what_is_no_doubling_by_repetition_is_left_alone(changes):
    vae = tiny(**changes)
    fused, z = fused_upsampling(vae), torch.randn(1, 4, 4, 4)
    assert count(fused, nn.Upsample) == 2 and torch.equal(fused.decode(z).sample, vae.decode(z).sample)


def test_the_model_itself_stays_as_it_was_and_shares_its_other_weights():
    vae = tiny()
    keys, encoder = list(vae.state_dict()), vae.encoder
    codec = DiffusersVAE(vae, device="cpu")
    assert codec.vae is vae and list(vae.state_dict()) == keys and codec._decoding.encoder is encoder
    assert codec._decoding.decoder.layers[0] is vae.decoder.layers[0]


def test_the_embedded_vae_decodes_as_diffusers_does():
    codec = load_vae(device="cpu")
    z = torch.randn(2, 4, 16, 16)
    plain = (codec.vae.decode(codec.unscale(z)).sample + 1).div(2).clamp(0, 1)
    torch.testing.assert_close(codec.decode(z), plain, atol=1e-5, rtol=0)
