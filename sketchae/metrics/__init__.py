"""What can be measured about a split: swaps, distances, and the statistics of the latents themselves."""

from sketchae.metrics.bootstrap import bootstrap_ci, p_value
from sketchae.metrics.distances import gradient_distance, mse, psnr, ssim
from sketchae.metrics.evaluation import SwapBench, pair_indices
from sketchae.metrics.latent_stats import ChannelStatistics, channel_statistics
from sketchae.metrics.swaps import (
    CounterfactualScore,
    FactorScore,
    SwapScore,
    counterfactual_from_distances,
    counterfactual_score,
    score_swaps,
    score_unswapped,
)

__all__ = [
    "ChannelStatistics",
    "CounterfactualScore",
    "FactorScore",
    "SwapBench",
    "SwapScore",
    "bootstrap_ci",
    "channel_statistics",
    "counterfactual_from_distances",
    "counterfactual_score",
    "gradient_distance",
    "mse",
    "p_value",
    "pair_indices",
    "psnr",
    "score_swaps",
    "score_unswapped",
    "ssim",
]
