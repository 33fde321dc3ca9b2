"""What can be measured about a split: swaps, distances, and the statistics of the latents themselves."""

from sketchae.metrics.bootstrap import bootstrap_ci, p_value
from sketchae.metrics.distances import gradient_distance, mse, psnr, ssim
from sketchae.metrics.evaluation import SwapBench, pair_indices
from sketchae.metrics.latent_stats import ChannelStatistics, channel_statistics
from sketchae.metrics.lerps import LerpCurves, lerp_curves, pair_scores, ranked_pairs
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
    "LerpCurves",
    "SwapBench",
    "SwapScore",
    "bootstrap_ci",
    "channel_statistics",
    "counterfactual_from_distances",
    "counterfactual_score",
    "gradient_distance",
    "lerp_curves",
    "mse",
    "p_value",
    "pair_indices",
    "pair_scores",
    "psnr",
    "ranked_pairs",
    "score_swaps",
    "score_unswapped",
    "ssim",
]
