"""What draws pictures for the studies and reads them: models, VAE, CLIP and judges, in batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sketchae.backbones import ClipEmbedder, LatentCodec
from sketchae.diffusion.conditioning import embed_prompts
from sketchae.diffusion.network import SketchDiffusion
from sketchae.diffusion.sampling import VelocityModel, sample
from sketchae.errors import BadInputError
from sketchae.scenes import FACTORS, load_judge

JUDGES = ("a", "b")


class Turned:
    """A model with one noise level in other coordinates u = M x, M orthogonal: its velocity is M v(Mᵀ u), and noise stays noise.

    With the rows of Qᵀ for M, u are channels of the VAE (up to their means, and scales near 1): so raw channels can be held.

    Raises:
        BadInputError: a model with a noise level for each block, whose channels cannot be mixed.
    """

    def __init__(self, model: SketchDiffusion, M: Float[Tensor, "c c"], n_held: int):
        if model.levels != "one":
            raise BadInputError("Channels can be mixed where they share a noise level: give the model that has one.")
        self.model, self.M, self.n_semantic = model, M.float().to(model.device), n_held
        self.latent_shape, self.levels, self.device = model.latent_shape, model.levels, model.device

    def turn(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """u = M x at every pixel."""
        return torch.einsum("ij,njhw->nihw", self.M, x)

    def turn_back(self, u: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """x = Mᵀ u at every pixel."""
        return torch.einsum("ji,njhw->nihw", self.M, u)

    def velocity(self, x_t: Tensor, t_semantic: Any, t_style: Any, conditioning: Any) -> Tensor:
        return self.turn(self.model.velocity(self.turn_back(x_t), t_semantic, t_style, conditioning))


@dataclass(frozen=True)
class Studio:
    """
    Attributes:
        models: "two" and "one", by their noise levels, as `load_diffusion` gives them.
        guidance: of everything that is drawn, for both blocks.
    """

    models: Mapping[str, SketchDiffusion]
    codec: LatentCodec
    clip: ClipEmbedder
    guidance: float | int = 3.0
    batch_size: int = 50

    def draw(self, model: VelocityModel, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> Float[Tensor, "n c h w"]:
        """x for every prompt and its seed. Of options that are tensors each prompt has a row; `options` are those of `sample`."""
        return self._draw(model, prompts, seeds, options)[0]

    def draw_sketched(
        self, prompts: Sequence[str], seeds: Sequence[int], n_steps: int, n_semantic_steps: int
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """(x, preview), one block after the other; the preview of a sketch is the clean x that the first step of painting implies."""
        options = {"n_steps": n_steps, "offset": 1, "n_semantic_steps": n_semantic_steps, "return_trajectory": True}
        x, previews = self._draw(self.models["two"], prompts, seeds, options, n_semantic_steps)
        return x, previews

    def pictures(self, model: SketchDiffusion, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 128 128"]:
        """Decoded, in [0, 1], on the CPU."""
        return torch.cat([self.codec.decode(model.decode(x[rows])).cpu() for rows in batches(len(x), self.batch_size)])

    def _draw(
        self, model: VelocityModel, prompts: Sequence[str], seeds: Sequence[int], options: dict[str, Any], preview_of: int | None = None
    ) -> tuple[Tensor, Tensor]:
        guided = {"guidance": self.guidance}
        if self.guidance != 1:
            guided["unconditional"] = embed_prompts(self.clip, [""])
        ends, previews = [], []
        for rows in batches(len(prompts), self.batch_size):
            some = {key: value[rows] if isinstance(value, Tensor) else value for key, value in options.items()}
            found = sample(model, embed_prompts(self.clip, prompts[rows]), seeds=seeds[rows], **guided, **some)
            ends.append(found if preview_of is None else found.x)
            if preview_of is not None:
                previews.append(found.previews[preview_of])
        return torch.cat(ends), torch.cat(previews or ends)


def read(images: Float[Tensor, "n 3 128 128"], suffix: str = "") -> dict[str, UInt8[Tensor, "n factors"]]:
    """What both judges read in pictures, one column a factor in the order of `FACTORS`, as "a" and "b", with `suffix`."""
    found = {which: load_judge(which).predict(images) for which in JUDGES}
    return {which + suffix: torch.stack([values[factor] for factor in FACTORS], 1).byte() for which, values in found.items()}


@torch.no_grad()
def clip_scores(clip: ClipEmbedder, images: Float[Tensor, "n 3 128 128"], prompts: Sequence[str]) -> Float[Tensor, " n"]:
    """Cosine of CLIP's embeddings of each picture and of its prompt: what a user who has no judge can choose by."""
    parts = [
        (clip.embed_images(images[rows]).cpu() * clip.embed_texts(list(prompts[rows])).cpu()).sum(1) for rows in batches(len(images), 64)
    ]
    return torch.cat(parts).float()


def batches(n: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `n` rows."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
