"""What latents look like, channel by channel, accumulated over shards: the isotropy that Q relies on.

An orthogonal Q turns N(0, I) into N(0, I); for any other latents it keeps only the eigenvalues of the covariance.
`channel_statistics` measures mean, covariance and kurtosis of z and, given Q, of x = Qz.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sketchae.errors import BadInputError


@dataclasses.dataclass(frozen=True)
class ChannelStatistics:
    """Moments of each channel over all pictures and pixels, population (not sample) moments."""

    mean: Float[np.ndarray, " channels"]
    std: Float[np.ndarray, " channels"]
    covariance: Float[np.ndarray, "channels channels"]
    kurtosis: Float[np.ndarray, " channels"]  # excess kurtosis: 0 for a Gaussian
    minimum: Float[np.ndarray, " channels"]
    maximum: Float[np.ndarray, " channels"]
    n_pixels: int

    @property
    def eigenvalues(self) -> Float[np.ndarray, " channels"]:
        """Eigenvalues of the covariance, largest first; all 1 for isotropic latents of unit variance."""
        return np.linalg.eigvalsh(self.covariance)[::-1]

    @property
    def correlation(self) -> Float[np.ndarray, "channels channels"]:
        """Correlation between channels; NaN where a channel is constant."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.covariance / np.outer(self.std, self.std)

    @property
    def anisotropy(self) -> float:
        """Frobenius distance of the covariance from I, for each channel: ‖Σ − I‖_F / √C; 0 is isotropic.

        The same in z and in x = Qz for every orthogonal Q.
        """
        return float(np.linalg.norm(self.covariance - np.eye(len(self.mean))) / len(self.mean) ** 0.5)


def channel_statistics(
    batches: Iterable[Tensor],
    matrix: Float[Tensor, "k k"] | None = None,
) -> ChannelStatistics:
    """Stream latents (batch, channels, height, width) and return the statistics of z, or of x = `matrix` z if given.

    Holds one batch at a time. Raises BadInputError without latents, or at the first NaN or infinity (naming its batch).
    """
    sums = None
    for number, batch in enumerate(batches):
        pixels = batch.movedim(1, -1).reshape(-1, batch.shape[1]).double()
        if not torch.isfinite(pixels).all():
            raise BadInputError(
                f"Latents batch {number} holds NaN or infinite values: "
                "delete the dataset folder and run 01_preprocess again."
            )
        if len(pixels) == 0:
            continue
        if matrix is not None:
            if matrix.shape[1] != pixels.shape[1]:
                raise BadInputError(
                    f"A matrix for {matrix.shape[1]} channels cannot be applied to latents of {pixels.shape[1]}: "
                    "use the basis that belongs to this VAE."
                )
            pixels = pixels @ matrix.double().to(pixels.device).T
        if sums is None:
            # Moments about the first batch's mean: raw fourth moments about 0 would cancel badly for a shifted channel.
            sums = _Sums(pixels.mean(0))
        sums.add(pixels)
    if sums is None:
        raise BadInputError("There are no latents to measure: the dataset is empty.")
    return sums.finish()


class _Sums:
    def __init__(self, shift: Tensor) -> None:
        self.shift, self.n = shift, 0
        self.powers = torch.zeros(4, len(shift), dtype=torch.float64, device=shift.device)
        self.products = torch.zeros(len(shift), len(shift), dtype=torch.float64, device=shift.device)
        self.minimum, self.maximum = torch.full_like(shift, torch.inf), torch.full_like(shift, -torch.inf)

    def add(self, pixels: Tensor) -> None:
        self.n += len(pixels)
        self.minimum = torch.minimum(self.minimum, pixels.amin(0))
        self.maximum = torch.maximum(self.maximum, pixels.amax(0))
        centred = pixels - self.shift
        squares = centred.square()
        powers = (centred, squares, squares * centred, squares * squares)
        self.powers += torch.stack([power.sum(0) for power in powers])
        self.products += centred.T @ centred

    def finish(self) -> ChannelStatistics:
        m1, m2, m3, m4 = (self.powers / self.n).cpu().numpy()
        covariance = (self.products / self.n).cpu().numpy() - np.outer(m1, m1)
        variance = np.diag(covariance).clip(min=0)
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        with np.errstate(invalid="ignore", divide="ignore"):
            kurtosis = fourth / variance**2 - 3
        return ChannelStatistics(
            mean=m1 + self.shift.cpu().numpy(),
            std=variance**0.5,
            covariance=covariance,
            kurtosis=kurtosis,
            minimum=self.minimum.cpu().numpy(),
            maximum=self.maximum.cpu().numpy(),
            n_pixels=self.n,
        )
