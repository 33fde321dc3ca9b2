"""LEACE erasure: take a factor out of the latents with the least change, and see what is still read.

LEACE (Belrose et al. 2023) is the affine map r(z) = z − W⁺ P W (z − E z), with W the whitening matrix of z and P the
projection on the columns of W Σ_zy, y the one-hot factor. After it, z and y have no covariance on the rows of the fit,
so no linear probe fitted to those rows does better than a constant answer; among all such maps it moves z least
(mean square, as far as the estimated covariance is right). A non-linear probe may still read the factor, and so may a
linear one on other rows, by what the sample did not show: `remaining` measures both. The map acts on the flattened
latents, all positions together; the paper's Q acts on channels only.

The computation is `concept_erasure`'s, in float64, with its covariance shrinkage (which leaves the erasure exact) and
two settings of ours: `svd_tol` small, so that weak covariances are erased too, and `constrain_cov_trace` off, because a
map that is mixed with another projection to bound the variance no longer erases exactly. `Erasure.variance_ratio` says
what became of the variance.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.errors import BadInputError
from sketchae.metrics.probes import (
    MIN_ROWS,
    PROBES,
    Factors,
    Latents,
    OtherLatents,
    Reading,
    factor_columns,
    read_factors,
)

with warnings.catch_warnings():  # it calls torch.jit.script at import, which torch has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from concept_erasure import LeaceEraser

SINGULAR_VALUES_ABOVE = 1e-6  # of W Σ_zy: all but rounding errors are erased


@dataclasses.dataclass(frozen=True)
class Erasure:
    """A fitted eraser for latents of one shape.

    Attributes:
        factors: what it erases.
        shape: (channels, height, width) of the latents.
        variance_ratio: total variance of the erased training rows over that of the rows themselves.
        n_train: rows that it was fitted to.
    """

    factors: tuple[str, ...]
    shape: tuple[int, int, int]
    variance_ratio: float
    n_train: int
    eraser: LeaceEraser = dataclasses.field(repr=False)

    def __call__(self, z: OtherLatents) -> Float[Tensor, "n channels height width"]:
        """The latents without the factors: same shape, number format and device, ready to decode.

        Raises BadInputError for latents of another shape.
        """
        if tuple(z.shape[1:]) != self.shape:
            raise BadInputError(
                f"This eraser was fitted to latents of shape {self.shape}, not {tuple(z.shape[1:])}: fit one to yours."
            )
        return self.eraser(z.detach().flatten(1).cpu().double()).reshape(z.shape).to(z)


def fit_erasure(z_train: Latents, factors_train: Factors, erase: str | Sequence[str]) -> Erasure:
    """Fit LEACE to training rows: `erase` names one factor or several of `factors_train`, erased together.

    Costs one eigenproblem of the flattened latents (a few seconds for 1024 features).

    Raises:
        BadInputError: too few rows, latents that are not finite, an unknown factor, or one that takes only one value.
    """
    names = [erase] if isinstance(erase, str) else list(erase)
    columns = factor_columns(factors_train, len(z_train), "the training rows", names=names)
    if len(z_train) < MIN_ROWS:
        raise BadInputError(f"An eraser needs at least {MIN_ROWS} training rows, got {len(z_train)}.")
    if not torch.isfinite(z_train).all():
        raise BadInputError("The latents hold NaN or infinite values: encode the pictures again.")
    x = z_train.detach().flatten(1).cpu().double()
    y = torch.cat([torch.from_numpy(_one_hot(factor, column)) for factor, column in columns.items()], 1)
    total = float(x.var(0).sum())
    if total == 0:
        raise BadInputError("All training rows are the same latents: there is nothing to erase from them.")
    eraser = LeaceEraser.fit(x, y, svd_tol=SINGULAR_VALUES_ABOVE, constrain_cov_trace=False)
    return Erasure(
        factors=tuple(names),
        shape=tuple(z_train.shape[1:]),
        variance_ratio=float(eraser(x).var(0).sum()) / total,
        n_train=len(x),
        eraser=eraser,
    )


def remaining(
    erasure: Erasure,
    z_train: Latents,
    factors_train: Factors,
    z_test: OtherLatents,
    factors_test: Factors,
    probes: Sequence[str] = PROBES,
    *,
    n_boot: int = 1000,
    name: str = "erasure",
) -> dict[str, dict[str, dict[str, Reading]]]:
    """What fresh probes read before and after: probe -> {"before", "after"} -> factor -> `Reading` of the test rows.

    The probes are trained on `z_train` as it is, and anew on `z_train` erased. If these are the rows that the eraser was
    fitted to, a linear probe reads nothing by construction; other rows tell how well the erasure holds.

    Raises as `read_factors` and `Erasure.__call__` do.
    """
    states: Mapping[str, tuple[Tensor, Tensor]] = {
        "before": (z_train, z_test),
        "after": (erasure(z_train), erasure(z_test)),
    }
    return {
        probe: {
            state: read_factors(train, factors_train, test, factors_test, probe, n_boot=n_boot, name=name)
            for state, (train, test) in states.items()
        }
        for probe in probes
    }


def _one_hot(factor: str, column: np.ndarray) -> Float[np.ndarray, "n values"]:
    values, codes = np.unique(column, return_inverse=True)
    if len(values) < 2:
        raise BadInputError(
            f"Factor {factor!r} takes only one value among the training rows: there is nothing to erase."
        )
    return np.eye(len(values))[codes]
