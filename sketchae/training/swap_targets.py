"""Where a decoded swap should be in CLIP's space: with a in content, with b in style.

    content(p) = e · (t_a - t_b)                 t: mean embedding of an image's captions, length 1
    style(p)   = s(e) · (s(i_b) - s(i_a))        i: embedding of the picture itself, e: of the swap p
    s(e)       = normalise((I - P)(e - mean i))  P: projection on what captions span (principal components of their embeddings)
    J          = mean σ(content / τ) + mean σ(style / τ) - 1

Both trivial answers (p = a, p = b) win one half and lose the other, as in the swap score; J lies in [-1, 1]. It needs CLIP
embeddings of pictures and of content captions, and no factor, style word or judge. Projecting the captions' span out takes the
place of the paper's clip_img - clip_txt, which leaves content in the style.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sketchae.errors import BadInputError


class SwapTargets:
    """The two halves of J for any embeddings of swapped pictures, from what CLIP says of the pictures and captions they come from.

    Args:
        clip_img: embeddings of the pictures, (n, D), length 1.
        clip_txt: mean embedding of each picture's captions, (n, D), any length.
        caption_embeds: embeddings of single captions, (m, D), from which P is made; `clip_txt` where not given.
        content_share: P holds as many principal components as explain this share of the captions' variance.
        tau: τ.

    Raises:
        BadInputError: numbers of rows that differ, or fewer than four pictures.
    """

    def __init__(
        self,
        clip_img: Float[Tensor, "_ dim"],
        clip_txt: Float[Tensor, "_ dim"],
        caption_embeds: Float[Tensor, "captions dim"] | None = None,
        *,
        content_share: float = 0.99,
        tau: float = 0.2,
    ):
        if len(clip_img) != len(clip_txt) or len(clip_img) < 4:
            raise BadInputError(
                f"{len(clip_img)} image and {len(clip_txt)} text embeddings: give one of each for every picture, at least four."
            )
        self.tau = tau
        self.texts = F.normalize(clip_txt.float(), dim=-1)
        self.mean = clip_img.float().mean(0)
        captions = self.texts if caption_embeds is None else caption_embeds.float()
        _, s, vt = torch.linalg.svd(captions - captions.mean(0), full_matrices=False)
        explained = (s.square() / s.square().sum()).cumsum(0)
        self.n_content = int((explained < content_share).sum()) + 1
        self.content_directions = vt[: self.n_content]
        self.styles = self.style(clip_img.float())

    def style(self, embeds: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
        """s(e): what is left of image embeddings outside the captions' span, length 1."""
        centred = embeds - self.mean
        return F.normalize(centred - centred @ self.content_directions.T @ self.content_directions, dim=-1)

    def halves(self, embeds: Float[Tensor, "pairs dim"], a: Tensor, b: Tensor) -> Float[Tensor, "pairs 2"]:
        """σ(content / τ) and σ(style / τ), each in (0, 1), of swaps with the embeddings `embeds`: content of rows `a`, style of rows `b`."""
        content = (embeds * (self.texts[a] - self.texts[b])).sum(-1)
        style = (self.style(embeds) * (self.styles[b] - self.styles[a])).sum(-1)
        return torch.sigmoid(torch.stack([content, style], dim=-1) / self.tau)
