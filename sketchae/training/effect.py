"""The effect objective: a split is judged by what swapping its blocks *does* to the decoded picture, as CLIP sees it.

The paper's loss asks what can be *read* from a block. Here the swap itself is decoded, and its CLIP embedding should have gone to a
in content and to b in style: J of `training/swap_targets.py`, in [-1, 1]. No factor, style word or judge is needed.

Q is exactly orthogonal throughout: Q = exp([[0, A], [-A^T, 0]]) Q_start, and A, of k (C - k) entries, is what gradient ascent moves:
rotations within a block change nothing. J has local optima, so there are several starts, of which the best on pairs of its own is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from sketchae import edits
from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.errors import BadInputError
from sketchae.metrics.bootstrap import generator
from sketchae.progress import hide_if
from sketchae.training.swap_targets import SwapTargets


@runtime_checkable
class Objective(Protocol):
    """What `fit_effect` climbs: latents z (n, C, h, w), the halves of J for pairs of rows of z, and those averaged over pairs."""

    z: Tensor

    def __call__(self, basis: edits.Split, a: Tensor, b: Tensor) -> Float[Tensor, "pairs 2"]: ...

    def value(self, basis: edits.Split, a: Tensor, b: Tensor) -> tuple[float, float]: ...


class EffectObjective:
    """J for any split of latents whose pictures and captions CLIP has embedded.

    Args:
        codec, clip: frozen; `codec.decode` and `clip.embed_images` must pass gradients.
        z: latents (n, C, h, w).
        clip_img, clip_txt, caption_embeds, content_share, tau: as in `SwapTargets`, of which `targets` is one.

    Raises:
        BadInputError: numbers of rows that differ, or fewer than four pictures.
    """

    def __init__(
        self,
        codec: Any,
        clip: Any,
        z: Float[Tensor, "n channels height width"],
        clip_img: Float[Tensor, "_ dim"],
        clip_txt: Float[Tensor, "_ dim"],
        caption_embeds: Float[Tensor, "captions dim"] | None = None,
        *,
        content_share: float = 0.99,
        tau: float = 0.2,
    ):
        if not len(z) == len(clip_img) == len(clip_txt):
            raise BadInputError(
                f"{len(z)} latents, {len(clip_img)} image and {len(clip_txt)} text embeddings: give one of each for every picture."
            )
        self.codec, self.clip, self.z = codec, clip, z.float()
        self.targets = SwapTargets(clip_img, clip_txt, caption_embeds, content_share=content_share, tau=tau)

    def __call__(self, basis: edits.Split, a: Tensor, b: Tensor) -> Float[Tensor, "pairs 2"]:
        """σ(content / τ) and σ(style / τ) of the swaps of rows `a` (content) and `b` (style), each in (0, 1)."""
        embeds = self.clip.embed_images(self.codec.decode(edits.swap(basis, self.z[a], self.z[b])))
        return self.targets.halves(embeds, a, b)

    @torch.no_grad()
    def value(self, basis: edits.Split, a: Tensor, b: Tensor, batch_size: int = 32) -> tuple[float, float]:
        """The two halves of J, averaged over the pairs: J is their sum minus 1."""
        parts = [self(basis, x, y) for x, y in zip(a.split(batch_size), b.split(batch_size), strict=True)]
        content, style = torch.cat(parts).mean(0).tolist()
        return content, style


class Rotated(torch.nn.Module):
    """exp([[0, A], [-A^T, 0]]) Q_start as a `Split`; A, of shape (k, C - k), is the parameter and starts at 0."""

    def __init__(self, start: OrthogonalBasis):
        super().__init__()
        self.k, channels = start.n_semantic, start.channels
        self.register_buffer("start", start.Q.detach().clone())
        self.A = torch.nn.Parameter(torch.zeros(self.k, channels - self.k))

    @property
    def Q(self) -> Float[Tensor, "channels channels"]:
        top = torch.cat([self.A.new_zeros(self.k, self.k), self.A], dim=1)
        bottom = torch.cat([-self.A.T, self.A.new_zeros(self.A.shape[1], self.A.shape[1])], dim=1)
        return torch.linalg.matrix_exp(torch.cat([top, bottom])) @ self.start

    def basis(self, **meta: Any) -> OrthogonalBasis:
        """Q as it stands, back to exact orthogonality in float64; signs as they are."""
        q = torch.linalg.qr(self.Q.detach().double().T)
        return OrthogonalBasis.from_matrix((q.Q * torch.sign(torch.diagonal(q.R))).T, self.k, **meta)

    def to_semantic_style(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.einsum("ij,njhw->nihw", self.Q, z)
        return x[:, : self.k], x[:, self.k :]

    def from_semantic_style(self, z_semantic: Tensor, z_style: Tensor) -> Tensor:
        return torch.einsum("ji,njhw->nihw", self.Q, torch.cat([z_semantic, z_style], dim=1))


@dataclass(frozen=True)
class EffectSplit:
    """What `fit_effect` found.

    Attributes:
        basis: the best start's end, or that start itself where the end is no better.
        objective: J of every start's end on the held-out pairs; `before`: of the starts themselves.
        ends: the basis at every start's end.
        chosen: which start.
        log: for each start, the training J of every step.
    """

    basis: OrthogonalBasis
    objective: list[float]
    before: list[float]
    ends: list[OrthogonalBasis]
    chosen: int
    log: list[list[float]]


def fit_effect(
    objective: Objective,
    starts: Sequence[OrthogonalBasis],
    *,
    n_steps: int = 60,
    batch_size: int = 16,
    lr: float = 0.05,
    n_choice: int = 128,
    name: str = "effect",
    progress: bool = True,
) -> EffectSplit:
    """Gradient ascent (Adam, cosine decay) on J from every start, and the best end by J on `n_choice` pairs that no step sees.

    The last quarter of the pictures is kept for the choice (fewer pairs where it has no more). Draws depend on `name` and the start's number
    only. `lr` is for the four angles of Gr(2, 4), in radians a step; where A has more entries each takes a smaller step, so that the
    plane's is as long.

    Raises:
        BadInputError: no start.
    """
    if not starts:
        raise BadInputError("fit_effect needs at least one basis to start from.")
    n = len(objective.z)
    n_train = n - max(2, n // 4)
    kept = torch.arange(n_train, n)
    n_choice = min(n_choice, len(kept) * (len(kept) - 1))  # there are no more pairs than that
    rows = kept[torch.from_numpy(generator(f"{name}/choice").integers(len(kept), size=n_choice))]
    shift = torch.from_numpy(generator(f"{name}/shift").integers(1, len(kept), size=n_choice))
    others = kept[(rows - n_train + shift) % len(kept)]
    ends, log, before = [], [], []
    with tqdm(total=len(starts) * n_steps, desc="effect objective", **hide_if(not progress)) as bar:
        for number, start in enumerate(starts):
            before.append(sum(objective.value(start, rows, others)) - 1)
            end, curve = _ascend(objective, start, n_train, n_steps, batch_size, lr, f"{name}/{number}", bar)
            ends.append(end)
            log.append(curve)
    values = [sum(objective.value(end, rows, others)) - 1 for end in ends]
    chosen = max(range(len(ends)), key=values.__getitem__)
    basis = ends[chosen] if values[chosen] >= before[chosen] else starts[chosen]
    return EffectSplit(basis, values, before, ends, chosen, log)


def _ascend(
    objective: Objective, start: OrthogonalBasis, n_train: int, n_steps: int, batch_size: int, lr: float, name: str, bar: tqdm
) -> tuple[OrthogonalBasis, list[float]]:
    turned = Rotated(start)
    optimizer = torch.optim.Adam(turned.parameters(), lr=2 * lr / turned.A.numel() ** 0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    random, curve = generator(name), []
    for _ in range(n_steps):
        pairs = torch.from_numpy(random.permutation(n_train)[: 2 * batch_size])
        a, b = pairs.tensor_split(2)
        loss = 1 - objective(turned, a[: len(b)], b[: len(a)]).mean(0).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        curve.append(-float(loss.detach()))
        bar.update()
        bar.set_postfix(J=f"{curve[-1]:+.2f}")
    return turned.basis(), curve
