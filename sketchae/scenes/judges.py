"""The judges: networks that read every factor of a picture, by two architectures trained apart.

Judge *a* is a plain stack of strided convolutions; judge *b* is a residual network (He et al. 2016) as transformers builds it. Each has
one linear head a factor. They were trained on disjoint scenes (`SPLITS`); judge *b* serves to report headline numbers
and is never used to train or to choose anything.
"""

import json
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

from sketchae.errors import BadInputError, MissingFileError
from sketchae.scenes.factors import FACTORS, IMAGE_SIZE, SCENES_VERSION

ASSETS = Path(__file__).parent.parent / "assets"
_FEATURES = 192


class Judge(nn.Module):
    """A multi-head reader of factors: pictures (n, 3, 128, 128) in [0, 1] to one value a factor."""

    def __init__(self, trunk: nn.Module, n_trunk: int):
        super().__init__()
        self.trunk = trunk
        self.project = nn.Sequential(nn.Flatten(), nn.Linear(n_trunk, _FEATURES), nn.GELU())
        self.heads = nn.ModuleDict({name: nn.Linear(_FEATURES, len(f.values)) for name, f in FACTORS.items()})

    def features(self, images: Float[Tensor, "n 3 128 128"]) -> Float[Tensor, "n features"]:
        """The vector that all heads read; the space of Fréchet distances."""
        images = (images * 2 - 1).contiguous(memory_format=torch.channels_last)
        return self.project(self.trunk(images))

    def forward(self, images: Float[Tensor, "n 3 128 128"]) -> dict[str, Float[Tensor, "n values"]]:
        """Logits for every factor."""
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def predict(self, images: Float[Tensor, "n 3 128 128"], batch_size: int = 64) -> dict[str, Int[Tensor, " n"]]:
        """The most likely value of every factor, as indices into `FACTORS[name].values`."""
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, IMAGE_SIZE, IMAGE_SIZE):
            raise BadInputError(f"A judge reads pictures of shape (n, 3, {IMAGE_SIZE}, {IMAGE_SIZE}); got {tuple(images.shape)}.")
        if not len(images):
            return {name: torch.empty(0, dtype=torch.long) for name in FACTORS}
        parts = [{k: v.argmax(1) for k, v in self(batch).items()} for batch in images.split(batch_size)]
        return {name: torch.cat([p[name] for p in parts]) for name in FACTORS}


class _ConvTrunk(nn.Sequential):
    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 128, 128)):
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            before = 3 if i == 0 else widths[i - 1]
            kernel = 5 if i == 0 else 3
            layers += [nn.Conv2d(before, width, kernel, stride=2, padding=kernel // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(*layers)


class _ResNetTrunk(nn.Module):
    def __init__(self):
        super().__init__()
        config = ResNetConfig(embedding_size=32, hidden_sizes=[32, 64, 128, 160], depths=[1, 1, 1, 1], layer_type="basic")
        self.net = ResNetModel(config)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).last_hidden_state


def make_judge(which: str) -> Judge:
    """An untrained judge, "a" (plain convolutions) or "b" (ResNet)."""
    if which not in ("a", "b"):
        raise BadInputError(f"There are two judges, 'a' and 'b'; '{which}' was asked for.")
    judge = Judge(_ConvTrunk(), 128 * 4 * 4) if which == "a" else Judge(_ResNetTrunk(), 160 * 4 * 4)
    return judge.to(memory_format=torch.channels_last)


def load_judge(which: str, folder: Path | None = None) -> Judge:
    """A trained judge, from the package's assets or from `folder`.

    Raises:
        MissingFileError: where no weights lie there.
        BadInputError: where they belong to another version of Scenes.
    """
    folder = Path(folder) if folder else ASSETS / f"judge_{which}"
    weights, about = folder / "model.safetensors", folder / "config.json"
    if not (weights.exists() and about.exists()):
        raise MissingFileError(f"No judge in {folder}; run notebooks/00_backbones with RETRAIN = True, or reinstall sketchae.")
    version = json.loads(about.read_text()).get("scenes_version")
    if version != SCENES_VERSION:
        raise BadInputError(f"The judge in {folder} reads Scenes version {version}, not {SCENES_VERSION}; train it anew with RETRAIN = True.")
    judge = make_judge(which)
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(weights).items()})
    return judge.eval().requires_grad_(False)
