# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Train the change of basis
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sketchae/sketchae/blob/main/notebooks/02_train.ipynb)
#
# **Question.** Can a matrix W be learned so that the first two channels of x = W z tell CLIP what is in a picture, and the
# other two how it looks?
#
# **Claim.** Training drives WᵀW to I, and turns the plane of the semantic channels away from where it started.
#
# **In:** the latents of `01_preprocess`. **Out:** one trained W a seed under `build/<profile>/training`, figures and numbers
# `train.*`. **Cost:** about 2½ minutes on two CPU cores for three seeds side by side. Interrupted, it continues to the same result.

# %%
import importlib.util

if importlib.util.find_spec("sketchae") is None:  # on Colab, say
    # %pip install --quiet "sketchae[lab] @ git+https://github.com/sketchae/sketchae"
    pass

# %% tags=["parameters"]
PROFILE: str = "scenes"
TRAIN_SEEDS: list | None = None  # the training seeds, e.g. [0, 1, 2]
N_STEPS: int | None = None
BATCH_SIZE: int | None = None
LR: float | None = None
N_SEMANTIC: int | None = None  # k, of the C latent channels
LOSS: str | None = None  # "mse" (the paper's text) or "l1" (its author's code)
ORTHOGONALITY_WEIGHT: float | None = None  # of MSE(WᵀW, I)
PARAMETRIZATION: str | None = None  # "penalty" (the paper's) or "orthogonal" (exact at every step)
PLATEAU_PATIENCE: int | None = None  # stop a seed after so many validations without gain; None: all steps

# %%
import numpy as np

from sketchae import figures, load_profile
from sketchae.basis import plane_angle
from sketchae.latents import open_latents
from sketchae.record import Recorder
from sketchae.training import TrainConfig, train_seeds, train_without_data

choices = dict(n_steps=N_STEPS, batch_size=BATCH_SIZE, lr=LR, n_semantic=N_SEMANTIC, loss=LOSS, train_seeds=TRAIN_SEEDS)
profile = load_profile(PROFILE, **choices, orthogonality_weight=ORTHOGONALITY_WEIGHT, parametrization=PARAMETRIZATION)
record = Recorder("02_train", profile)

# %% [markdown]
# ## The recipe
#
# $$\mathcal L = \mathrm{MSE}(W^\top W, I) + \mathrm{MSE}\big(\text{clip}_{txt},\, e_{sem}(x_{1:k})\big)
#   + \mathrm{MSE}\big(\text{clip}_{img} - \text{clip}_{txt},\, e_{style}(x_{k+1:C})\big), \qquad x = W z$$
#
# The two image embedders *e* are small ConvNeXt-style networks, needed only to teach W. One of a picture's captions is drawn at
# random at each step. W starts as a linear layer does, far from orthogonal.

# %%
alt = "A picture is encoded to mixed channels z; Q turns them into semantic and style blocks, edited apart, and back by its transpose."
record.figure(figures.change_of_basis(4, min(profile.n_semantic, 3)), "change_of_basis", alt=alt)

# %%
train, val = (open_latents(profile.latents_dir, split) for split in ("train", "val"))
config = TrainConfig.from_profile(profile, plateau_patience=PLATEAU_PATIENCE)
print(f"{len(train):,} pictures, {profile.n_steps:,} steps of {profile.batch_size}, learning rate {profile.lr:g}, k = {profile.n_semantic}")
results = train_seeds(train, val, config, profile.training_dir, profile.train_seeds)

# %% [markdown]
# The author's five epochs over MS-COCO are some 9,000 steps. Five epochs over Scenes would be 640, after which W has hardly
# moved; so steps are counted, not epochs.

# %%
histories = {f"seed {seed}": result.history for seed, result in results.items()}
panels = {
    "semantic loss": {"train_semantic": "training", "val_semantic": "validation"},
    "style loss": {"train_style": "training", "val_style": "validation"},
    "‖WᵀW − I‖": ["orthogonality_error"],
    "angle of the plane from its start (°)": ["angle_from_start_deg"],
}
curves = figures.training_curves(histories, panels, log_panels=list(panels)[:3], columns=2)
alt = "Training curves of all seeds: both embedding losses fall, W becomes orthogonal, and the semantic plane turns from its start."
record.figure(curves, "curves", alt=alt)

# %%
for seed, result in results.items():
    last = result.history[-1]
    print(
        f"seed {seed}: validation loss {last['val_loss']:.4f}  ‖WᵀW − I‖ {last['orthogonality_error']:.3f}  "
        f"turned by {last['angle_from_start_deg']:.0f}°"
    )

# %% [markdown]
# ## Do the seeds agree?
#
# Rotating channels inside a block changes nothing, so what is learned is a *plane*: the span of the first k rows. The largest
# principal angle between the planes of two seeds says how far they disagree; two random planes in four dimensions
# are typically some 60 to 80° apart.

# %%
weights = {seed: result.weight.numpy() for seed, result in results.items()}
k = profile.n_semantic
angles = np.array([[plane_angle(a, b, k).max() for b in weights.values()] for a in weights.values()])
names = [f"seed {seed}" for seed in weights]
alt = "Largest principal angle in degrees between the semantic planes that different training seeds found."
record.figure(figures.heat_grid(angles, names, names, label="angle (°)", digits=0), "plane_angles", alt=alt)

# %% [markdown]
# ## How much of the plane did CLIP choose?
#
# A control: the same optimiser, from the same start, for as many steps, on the orthogonality term *alone*. No picture and no caption is
# seen. If this ends where the training ended, the plane was settled by the random start.

# %%
alone = {seed: train_without_data(result).numpy() for seed, result in results.items()} if config.parametrization == "penalty" else {}
blind = {seed: plane_angle(weight, weights[seed], k).max() for seed, weight in alone.items()}
for seed, angle in blind.items():
    print(f"seed {seed}: {angle:.1f}° between the plane with and without data")

# %% tags=["checks"]
pairs = angles[np.triu_indices(len(angles), 1)]
final = [result.history[-1] for result in results.values()]
first = [result.history[0] for result in results.values()]
record.value("n_seeds", len(results))
record.value("n_semantic", profile.n_semantic)
record.value("n_steps", [result.n_steps for result in results.values()])
record.value("val_semantic", [row["val_semantic"] for row in final], digits=5)
record.value("val_style", [row["val_style"] for row in final], digits=5)
record.value("val_loss_start", [row["val_loss"] for row in first], digits=4)
record.value("orthogonality_error", [row["orthogonality_error"] for row in final], digits=4)
record.value("orthogonality_error_max", max(row["orthogonality_error"] for row in final), digits=4)
record.value("angle_from_start_deg", [row["angle_from_start_deg"] for row in final], digits=1)
record.value("median_angle_from_start_deg", np.median([row["angle_from_start_deg"] for row in final]), digits=1)
record.value("median_plane_angle_deg", np.median(pairs) if len(pairs) else None, digits=1)
record.value("max_plane_angle_deg", pairs.max() if len(pairs) else None, digits=1)
record.value("angle_to_no_data_deg", list(blind.values()), digits=1)
record.value("max_angle_to_no_data_deg", max(blind.values(), default=None), digits=1)
assert all(after["val_loss"] < before["val_loss"] for before, after in zip(first, final))
if PROFILE == "scenes" and not profile.overridden:
    assert max(row["orthogonality_error"] for row in final) < 0.1
record.close()
