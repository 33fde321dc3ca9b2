"""A basis trained on the factors themselves, through the decoder: an upper reference, never a rival.

As in `sketchae.training.effect` the swap is decoded, p = decode(semantic block of a, style block of b), but it is judged by a network
that reads factors. For every factor in which a and b differ, with l its logits for p,

    σ((l[value to follow] - l[value of the other]) / τ)      semantic factors should follow a, style factors b
    J = mean over semantic factors + mean over style factors - 1

2σ - 1 is a differentiable stand-in for the swap score's follows - other; like the swap score, J lies in [-1, 1], and both trivial
answers (p = a, p = b) win one half and lose the other. The averages are taken pair by pair, the swap score's factor by factor. Labels
are used twice, in the judge's weights and in the values to follow, so J's maximum says how far a plane can get, not how to find it
without labels. It needs a gradient only, and so serves for any number of channels, where a search of planes by their scores does not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sketchae import edits
from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.errors import BadInputError
from sketchae.scenes.factors import FACTORS
from sketchae.training.effect import EffectObjective, EffectSplit, fit_effect

Values = Int[Tensor, " _"] | Int[np.ndarray, " _"]


class LabelObjective:
    """J for any split of latents whose factors are known, with the interface of `EffectObjective`; an upper reference, since it uses labels.

    Args:
        codec: frozen; `codec.decode` must pass gradients.
        judge: pictures to logits, {factor: (pairs, values)}, such as `sketchae.scenes.load_judge("a")`. Judge b reports and must not train.
            A module is frozen in place and set to eval mode; gradients pass through it to the picture.
        z: latents (n, C, h, w).
        factors: value indices of every picture, (n,) for each factor.
        kinds: "semantic" or "style" for each factor to use; those of Scenes where not given.
        tau: τ > 0; the larger, the smaller a margin of the judge still counts.

    Raises:
        BadInputError: fewer than four pictures, a half without factors, a τ that is not positive, and factors that are missing, of another
            length than z, or not among what the judge reads.
    """

    def __init__(
        self,
        codec: Any,
        judge: Any,
        z: Float[Tensor, "n channels height width"],
        factors: Mapping[str, Values],
        kinds: Mapping[str, str] | None = None,
        tau: float | int = 1.0,
    ):
        kinds = {name: factor.kind for name, factor in FACTORS.items()} if kinds is None else dict(kinds)
        if set(kinds.values()) != {"semantic", "style"}:
            raise BadInputError('kinds must call at least one factor "semantic" and one "style", and nothing else; correct it.')
        if not tau > 0:
            raise BadInputError(f"tau is {tau}: give a positive number.")
        if len(z) < 4:
            raise BadInputError(f"{len(z)} latents: give those of at least four pictures.")
        missing = [name for name in kinds if name not in factors]
        if missing:
            raise BadInputError(f"{', '.join(missing)} missing from the factors: give their values, or leave them out of `kinds`.")
        self.codec, self.judge, self.z, self.tau, self.kinds = codec, judge, z.float(), tau, kinds
        self.factors = {name: torch.as_tensor(factors[name]).to(z.device, torch.long) for name in kinds}
        if isinstance(judge, nn.Module):
            judge.eval().requires_grad_(False)
        self._check_factors()

    @torch.no_grad()
    def _check_factors(self) -> None:
        heads = {name: logits.shape[1] for name, logits in self.judge(self.codec.decode(self.z[:1])).items()}
        for name, values in self.factors.items():
            if len(values) != len(self.z):
                raise BadInputError(f"{len(values)} values of {name} for {len(self.z)} latents: give one for every picture.")
            if name not in heads or not 0 <= int(values.min()) <= int(values.max()) < heads[name]:
                raise BadInputError(
                    f"The judge reads {heads.get(name, 0)} values of {name}, and those given are {int(values.min())} to {int(values.max())}: "
                    "use a judge of the same factors, or leave this one out of `kinds`."
                )

    def __call__(self, basis: edits.Split, a: Tensor, b: Tensor) -> Float[Tensor, "pairs 2"]:
        """The semantic and the style half for the swaps of rows `a` (content) and `b` (style), each in (0, 1) up to rounding.

        A half in which the two pictures do not differ is 0.5.
        """
        return self.judge_logits(self.judge(self.codec.decode(edits.swap(basis, self.z[a], self.z[b]))), a, b)

    def judge_logits(self, logits: Mapping[str, Tensor], a: Tensor, b: Tensor) -> Float[Tensor, "pairs 2"]:
        """The same from what the judge reads in the swapped pictures, (pairs, values) for each factor."""
        return label_halves({name: value.to(self.z) for name, value in logits.items()}, self.factors, self.kinds, a, b, self.tau)

    value = EffectObjective.value


def label_halves(
    logits: Mapping[str, Tensor], factors: Mapping[str, Tensor], kinds: Mapping[str, str], a: Tensor, b: Tensor, tau: float | int
) -> Float[Tensor, "pairs 2"]:
    """The two halves of J (module docstring), from a judge's logits of the swaps of rows `a` and `b` of `factors`; no check of its arguments."""
    halves = [_half("semantic", logits, factors, kinds, a, b, tau), _half("style", logits, factors, kinds, b, a, tau)]
    return torch.stack(halves, dim=-1)


def _half(
    kind: str,
    logits: Mapping[str, Tensor],
    factors: Mapping[str, Tensor],
    kinds: Mapping[str, str],
    follow: Tensor,
    other: Tensor,
    tau: float | int,
) -> Float[Tensor, " pairs"]:
    margins, differs = [], []
    for name in (name for name, its_kind in kinds.items() if its_kind == kind):
        right, wrong = factors[name][follow], factors[name][other]
        read = logits[name].gather(1, torch.stack([right, wrong], 1))
        margins.append(read[:, 0] - read[:, 1])
        differs.append(right != wrong)
    counts = torch.stack(differs, 1)
    shares = torch.sigmoid(torch.stack(margins, 1) / tau) * counts
    return torch.where(counts.any(1), shares.sum(1) / counts.sum(1).clamp(min=1), 0.5)


def fit_labelled(
    codec: Any,
    judge: Any,
    z: Float[Tensor, "n channels height width"],
    factors: Mapping[str, Values],
    starts: Sequence[OrthogonalBasis],
    *,
    kinds: Mapping[str, str] | None = None,
    tau: float | int = 1.0,
    name: str = "labels",
    **options: Any,
) -> EffectSplit:
    """`fit_effect` on a `LabelObjective`; `options` are those of `fit_effect` (n_steps, batch_size, lr, n_choice, progress).

    Raises:
        BadInputError: as both.
    """
    return fit_effect(LabelObjective(codec, judge, z, factors, kinds, tau), starts, name=name, **options)
