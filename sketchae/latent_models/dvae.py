"""dVAE (Ramesh et al. 2021, "DALL-E, part I"): a discrete VAE whose codes are drawn through the Gumbel-softmax.

    k = argmax_i (g_i + log π_i),  g_i ~ Gumbel(0, 1)      draws k with probability π_k           (Gumbel 1954: the Gumbel-max trick)
    y_i = softmax_i ((g_i + log π_i) / τ)                  relaxed: τ -> 0 gives the one-hot draw   (Jang et al. 2017, Maddison et al. 2017)
    z = Σ_i y_i e_i

At every place of the grid the encoder predicts a categorical distribution π over `codebook_size` codes e_i. The density of g is exp(-g - exp(-g)).
Training minimises reconstruction + kl_weight · KL(π || uniform), while τ falls (`temperature`). *Hard* codes, argmax_i log π_i, are what the
prior learns; *relaxed* ones are what the decoder was trained on.

Ours differs from DALL-E's in how π is made: log π_i = -s |z_e(x) - e_i|² + const with a learned s, so that codes which are easily confused mean
similar things (as in SQ-VAE, Takida et al. 2022), and in its start: an autoencoder without codes, of whose features k-means makes the codebook.
In trials with a free vector of log π, as in DALL-E, some hundred steps found a few dozen codes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sketchae.backbone_training.loop import LoopConfig, fit
from sketchae.backbone_training.pool import ImagePool, batch_rows
from sketchae.errors import BadInputError
from sketchae.latent_models.networks import Decoder, Encoder, normal_like, picture_loss
from sketchae.latent_models.perceptual import perceptual_loss
from sketchae.scenes.judges import Judge


def gumbel_noise(shape: Sequence[int], rng: np.random.Generator) -> Float[Tensor, "..."]:
    """Independent Gumbel(0, 1) draws: -log(-log(u)) of uniform u in (0, 1)."""
    u = rng.random(tuple(shape), dtype=np.float32).clip(1e-20, 1 - 2**-24)
    return torch.from_numpy(-np.log(-np.log(u)))


def gumbel_max(log_probs: Float[Tensor, "..."], noise: Float[Tensor, "..."], dim: int = -1) -> Int[Tensor, "..."]:
    """argmax_i (g_i + log π_i): draws of the categorical distribution. `log_probs` may lack normalisation."""
    return (log_probs + noise).argmax(dim)


def gumbel_softmax(log_probs: Float[Tensor, "..."], noise: Float[Tensor, "..."], tau: float | int, dim: int = -1) -> Float[Tensor, "..."]:
    """softmax((g + log π) / τ): relaxed one-hot draws, which gradients pass.

    Raises:
        BadInputError: a temperature that is not positive.
    """
    if not tau > 0:
        raise BadInputError(f"tau is {tau}: a temperature is positive; draw hard codes with gumbel_max instead.")
    return ((log_probs + noise) / tau).softmax(dim)


def kl_to_uniform(log_probs: Float[Tensor, "n codes h w"]) -> Float[Tensor, "n h w"]:
    """KL(π || uniform) = log K - H(π) at every place, in nats: 0 where all codes are equally likely, log K where one is certain."""
    log_probs = log_probs.log_softmax(1)
    return float(np.log(log_probs.shape[1])) + (log_probs.exp() * log_probs).sum(1)


def temperature(step: int, n_steps: int, start: float | int = 1.0, end: float | int = 1 / 16, share: float | int = 0.5) -> float:
    """τ falls from `start` to `end` along a cosine over the first `share` of the steps, and stays there (Ramesh et al.: 1 to 1/16)."""
    done = min(1.0, step / max(1.0, share * n_steps))
    return float(end + (start - end) * 0.5 * (1 + np.cos(np.pi * done)))


class DiscreteVAE(ModelMixin, ConfigMixin):
    """128x128 pictures to a grid of 8x8 codes out of 1,024 (640 bits) and back, by default."""

    @register_to_config
    def __init__(
        self,
        codebook_size: int = 1024,
        code_dim: int = 16,
        widths: Sequence[int] = (32, 64, 128),
        n_blocks: Sequence[int] = (1, 1, 3),
        patch: int = 4,
    ):
        super().__init__()
        self.encoder = Encoder(code_dim, widths, n_blocks, patch)
        self.codebook = nn.Parameter(torch.randn(codebook_size, code_dim))
        self.log_sharpness = nn.Parameter(torch.zeros(()))
        self.decoder = Decoder(code_dim, widths, n_blocks, patch)

    def log_probs(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n codes h w"]:
        """log π at every place of the grid: -s |z_e - e_i|², normalised."""
        return (-self.log_sharpness.exp() * self._distances(self.encoder(images))).log_softmax(1)

    def encode(self, images: Float[Tensor, "n 3 height width"]) -> Int[Tensor, "n h w"]:
        """Pictures in [0, 1] to hard codes."""
        return self.nearest(self.encoder(images))

    def nearest(self, z_e: Float[Tensor, "n code_dim h w"]) -> Int[Tensor, "n h w"]:
        """argmin_i |z_e - e_i|, which is argmax_i log π_i, at every place."""
        return self._distances(z_e).argmin(1)

    def _distances(self, z_e: Float[Tensor, "n code_dim h w"]) -> Float[Tensor, "n codes h w"]:
        """|z_e - e_i|² but for |z_e|², which is the same for all codes."""
        return self.codebook.square().sum(1)[:, None, None] - 2 * torch.einsum("ndhw,kd->nkhw", z_e, self.codebook)

    @torch.no_grad()
    def start_codebook(self, images: Iterable[Float[Tensor, "n 3 height width"]]) -> None:
        """Codes by k-means of the encoder's features of `images`, batch by batch, and s so that several codes compete for each feature.

        With s = 1 / (2 σ²), σ² the variance within a cluster, features would lie around codes as Gaussians, and in 16 dimensions hardly two of
        1,024 codes would compete; s is an eighth of that.

        Raises:
            BadInputError: fewer features than codes.
        """
        from sklearn.cluster import MiniBatchKMeans

        features = torch.cat([self.encoder(batch).movedim(1, -1).flatten(0, 2) for batch in images]).numpy()
        if len(features) < len(self.codebook):
            raise BadInputError(f"{len(features)} features for {len(self.codebook)} codes: give more pictures.")
        found = MiniBatchKMeans(len(self.codebook), batch_size=4096, n_init=1, max_iter=30, random_state=0).fit(features)
        self.codebook.copy_(torch.from_numpy(found.cluster_centers_))
        variance = np.square(features - found.cluster_centers_[found.predict(features)]).mean()
        self.log_sharpness.fill_(-float(np.log(8 * 2 * max(float(variance), 1e-6))))  # as many codes as features leave no variance

    def mix(self, weights: Float[Tensor, "n codes h w"]) -> Float[Tensor, "n code_dim h w"]:
        """z = Σ_i y_i e_i."""
        return torch.einsum("nkhw,kd->ndhw", weights, self.codebook)

    def lookup(self, indices: Int[Tensor, "n h w"]) -> Float[Tensor, "n code_dim h w"]:
        """The codes at `indices`, as features for the decoder.

        Raises:
            BadInputError: an index that no code has.
        """
        if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= len(self.codebook)):
            raise BadInputError(f"Codes are numbered 0 to {len(self.codebook) - 1}; indices between {indices.min()} and {indices.max()} were given.")
        return F.embedding(indices, self.codebook).movedim(-1, 1)

    def decode(self, indices: Int[Tensor, "n h w"]) -> Float[Tensor, "n 3 height width"]:
        """Hard codes to pictures in [0, 1]."""
        return self.decoder(self.lookup(indices)).clamp(0, 1)

    def decode_relaxed(
        self, images: Float[Tensor, "n 3 height width"], tau: float | int, rng: np.random.Generator
    ) -> Float[Tensor, "n 3 height width"]:
        """Pictures reconstructed through relaxed codes at temperature τ, as in training."""
        log_probs = self.log_probs(images)
        return self.decoder(self.mix(gumbel_softmax(log_probs, gumbel_noise(log_probs.shape, rng).to(log_probs), tau, dim=1))).clamp(0, 1)

    def bits(self, size_px: int = 128) -> float:
        """What a picture of size_px x size_px costs, all codes taken as equally likely: h · w · log2(codebook_size)."""
        return (size_px // self.encoder.multiple) ** 2 * float(np.log2(len(self.codebook)))


def train_dvae(
    pool: ImagePool,
    out_dir: Path,
    config: LoopConfig,
    *,
    judge: Judge | None = None,
    batch_size: int = 16,
    kl_weight: float | int = 2e-5,
    perceptual_weight: float | int = 0.01,
    n_start: int = 512,
    **options,
) -> tuple[DiscreteVAE, dict]:
    """Train on whole pictures, first without codes (a third as many steps as `config` says for the codes); resumes from `out_dir`.

    Args:
        judge: judge a, whose features the perceptual term compares: squared error alone leaves out strokes, which 64 codes could well name.
            Without one that term is left out. What is reported is read by judge b.
        kl_weight: of KL(π || uniform), averaged over the places.
        n_start: pictures of whose features the codebook is made.
        options: of `DiscreteVAE`.
    """
    torch.manual_seed(config.seed)
    model = DiscreteVAE(**options)

    def batch(step: int, seed: int) -> tuple[Tensor, np.random.Generator]:
        rows = np.sort(batch_rows(len(pool), batch_size, step, seed))
        return pool.images(rows), np.random.default_rng([seed, step])

    def compared(out: Tensor, images: Tensor) -> dict[str, Tensor]:
        terms = {"picture": picture_loss(out, images), "mse": F.mse_loss(out, images)}
        if judge is not None:
            terms["perceptual"] = perceptual_loss(judge, out, images)
        return {"loss": terms["picture"] + perceptual_weight * terms.get("perceptual", 0.0), **terms}

    def continuous(step: int) -> dict[str, Tensor]:
        images, rng = batch(step, config.seed + 1)
        z = model.encoder(images)
        terms = compared(model.decoder(z + 0.1 * normal_like(z, rng)), images)
        std, mean = torch.std_mean(z, dim=(0, 2, 3))
        moments = (mean.square() + (std - 1).square()).mean()
        return {**terms, "loss": terms["loss"] + 0.01 * moments, "moments": moments}

    def discrete(step: int) -> dict[str, Tensor]:
        images, rng = batch(step, config.seed)
        log_probs = model.log_probs(images)
        weights = gumbel_softmax(log_probs, gumbel_noise(log_probs.shape, rng), temperature(step, config.n_steps), dim=1)
        terms = compared(model.decoder(model.mix(weights)), images)
        kl = kl_to_uniform(log_probs).mean()
        return {**terms, "loss": terms["loss"] + kl_weight * kl, "kl": kl}

    first = fit(model, continuous, replace(config, n_steps=-(-config.n_steps // 3)), out_dir / "continuous", "dVAE, without codes")
    n_start = min(n_start, len(pool))
    model.start_codebook(pool.images(np.arange(i, min(i + 64, n_start))) for i in range(0, n_start, 64))
    second = fit(model, discrete, config, out_dir, "dVAE")
    done = first["log"][-1]["step"] + 1
    log = first["log"] + [{**row, "step": row["step"] + done} for row in second["log"]]
    return model, {"log": log, "duration_s": first["duration_s"] + second["duration_s"], "config": [first["config"], second["config"]]}
