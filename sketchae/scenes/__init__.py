"""Scenes: small pictures with captions whose generative factors are known. The embedded default world."""

from sketchae.scenes.captions import captions, captions_with_factors, fits
from sketchae.scenes.dataset import scenes_dataset, scenes_features
from sketchae.scenes.factors import (
    DEPENDENT_PAIR,
    FACTORS,
    IMAGE_SIZE,
    SCENES_VERSION,
    SEMANTIC_FACTORS,
    SPLITS,
    STYLE_FACTORS,
    Factor,
    Scenes,
    counterfactual,
    sample_scenes,
    split_scenes,
)
from sketchae.scenes.judges import Judge, load_judge
from sketchae.scenes.render import REGIONS, SceneImages, render, to_uint8
