"""Which network is this: device, quickest number format, and an identity that is recorded beside what it computed."""

import hashlib
import json
from typing import Any

import torch
from torch import nn

# Part of a configuration, but without effect on what the network computes.
_BOOKKEEPING = {"torch_dtype", "dtype", "architectures", "transformers_version", "force_upcast", "sample_size"}


def pick_device(device: torch.device | str | None = None) -> torch.device:
    """The device named, or CUDA where there is one, else the CPU."""
    return torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")


def fast_dtype(device: torch.device | str | None = None) -> torch.dtype:
    """The quickest number format that is safe for frozen networks on `device`.

    CUDA: bfloat16 where the hardware has it, else float16. CPU: bfloat16 with AMX tiles or AVX-512's own bfloat16
    products (about twice as quick as float32 there); without either it is emulated and slower than float32, which is then returned.
    """
    kind = pick_device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if kind == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return torch.bfloat16
    return torch.float32


def backbone_id(backbone: Any, extra: Any = None) -> str:
    """A short hash of a network's weights and of the settings that change what it computes.

    Two loads of the same checkpoint, from a folder or from the hub, have the same id. An object without weights is
    identified by its own `backbone_id` attribute, if it has one, else by its class's name.

    Args:
        backbone: a module, or any object.
        extra: JSON-serialisable settings that belong to the identity (a tokenizer's vocabulary, say).
    """
    own = getattr(backbone, "backbone_id", None) or getattr(backbone, "id", None)
    if isinstance(own, str):
        return own
    name = type(backbone).__name__
    digest = hashlib.sha256(json.dumps([name, _settings(backbone), extra], sort_keys=True, default=str).encode())
    if isinstance(backbone, nn.Module):
        for key, tensor in sorted(backbone.state_dict().items()):
            digest.update(f"{key}{tuple(tensor.shape)}".encode())
            digest.update(memoryview(tensor.detach().float().cpu().contiguous().numpy()).cast("B"))
    return f"{name}-{digest.hexdigest()[:16]}"


def _settings(backbone: Any) -> dict[str, Any]:
    """Of a diffusers model, its configuration; of transformers' the weights' names and `extra` say enough."""
    config = getattr(backbone, "config", None)
    if not hasattr(config, "items"):
        return {}
    return {k: v for k, v in config.items() if not k.startswith("_") and k not in _BOOKKEEPING}
