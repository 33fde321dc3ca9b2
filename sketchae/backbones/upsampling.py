"""Fewer products for the same pictures: a decoder's upsampling and the convolution after it, as one transposed convolution.

`AutoencoderTiny` doubles the resolution by repeating pixels and then convolves with 3x3 weights W. A pixel of the result sees four pixels of the
small picture, not nine of the large one: with K the full convolution of W and a 2x2 box, it is the transposed convolution of the small picture with
K (4x4, stride 2), 4/9 of the products. Equal up to rounding, at all borders too.
"""

import copy

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import nn


def fused_upsampling(vae: AutoencoderTiny) -> AutoencoderTiny:
    """`vae` with such a decoder. It shares every other layer with `vae`, which stays as it is; later changes of the fused weights do not reach it."""
    fused, decoder = _shallow(vae), _shallow(vae.decoder)
    layers = list(vae.decoder.layers)
    kept: list[nn.Module] = []
    while layers:
        if len(layers) > 1 and _can_fuse(layers[0], layers[1]):
            kept.append(_transposed(layers[1]))
            del layers[:2]
        else:
            kept.append(layers.pop(0))
    decoder.layers = nn.Sequential(*kept)
    fused.decoder = decoder
    return fused.eval()


def _shallow(module: nn.Module) -> nn.Module:
    """Another module with the same submodules, each of which can be replaced in one and not in the other."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _can_fuse(first: nn.Module, second: nn.Module) -> bool:
    if not isinstance(first, nn.Upsample) or not isinstance(second, nn.Conv2d):
        return False
    doubles = first.mode == "nearest" and first.size is None and first.scale_factor in (2, (2, 2))
    plain = (second.kernel_size, second.stride, second.padding, second.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    return doubles and plain and second.groups == 1 and second.padding_mode == "zeros"


@torch.no_grad()
def _transposed(conv: nn.Conv2d) -> nn.ConvTranspose2d:
    weight = conv.weight.float()  # (out, in, 3, 3)
    box = weight.new_ones(1, 1, 2, 2)
    kernel = F.conv2d(weight.flip(2, 3).flatten(0, 1)[:, None], box, padding=1).unflatten(0, weight.shape[:2])[:, :, 0]
    fused = nn.ConvTranspose2d(conv.in_channels, conv.out_channels, 4, stride=2, padding=1, bias=conv.bias is not None)
    fused.weight.copy_(kernel.transpose(0, 1))
    if conv.bias is not None:
        fused.bias.copy_(conv.bias)
    fused.to(conv.weight.device, conv.weight.dtype, memory_format=torch.channels_last)
    return fused.requires_grad_(False)
