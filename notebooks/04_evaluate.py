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
# # 04 · What does the split do to pictures?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sketchae/sketchae/blob/main/notebooks/04_evaluate.ipynb)
#
# **Question.** Replace the semantic channels of one picture by another's: does the content follow, and the style stay?
#
# **In:** the bases of `03_qr_finalize`, the test latents of `01_preprocess`. **Out:** the paper's pictures, the swap score and the
# counterfactual score of Q, of raw channel pairs and of random bases; figures and numbers `evaluate.*`.
# **Cost:** about 1½ minutes on two CPU cores.

# %%
import importlib.util

if importlib.util.find_spec("sketchae") is None:  # on Colab, say
    # %pip install --quiet "sketchae[lab] @ git+https://github.com/sketchae/sketchae"
    pass

# %% [markdown]
# `ORIGINAL` and `TARGET` may name two picture files of yours; they come first in the figures. `BASIS` may name any saved basis (a
# folder or a hub id) to look at in place of the trained ones' median. A VAE that brings a basis of its own (`PROFILE = "sketch"`: the
# sketch autoencoder of `06_sketch_autoencoder`) is shown with that one.

# %% tags=["parameters"]
PROFILE: str = "scenes"
ORIGINAL: str | None = None  # a picture file
TARGET: str | None = None  # another one
BASIS: str | None = None  # a saved basis to draw pictures with; None: the training seed with the median swap score
TRAIN_SEEDS: list | None = None  # as in 02_train
SOURCE: str | None = None  # this and the next four as in 01_preprocess
DATASET: str | None = None
VAE: str | None = None
TEST_SEED: int | None = None
DEPENDENCE: float | None = None
N_PAIRS: int | None = None
N_RANDOM_BASES: int | None = None
ALPHA: float | None = None

# %%
import numpy as np
import torch
from IPython.display import display

from sketchae import OrthogonalBasis, edits, figures, load_profile, load_vae
from sketchae.backbones import own_basis
from sketchae.data import picture_pairs
from sketchae.latents import open_latents
from sketchae.metrics import channel_statistics
from sketchae.metrics.comparison import METRICS, RECIPE, compare_splits
from sketchae.record import Recorder
from sketchae.widgets import explorer

data = dict(source=SOURCE, dataset=DATASET, vae=VAE, test_seed=TEST_SEED, dependence=DEPENDENCE)
choices = dict(train_seeds=TRAIN_SEEDS, n_pairs=N_PAIRS, n_random_bases=N_RANDOM_BASES, alpha=ALPHA)
profile = load_profile(PROFILE, **data, **choices)
record = Recorder("04_evaluate", profile)
vae = load_vae(profile.vae, profile.vae_revision)
trained = {seed: OrthogonalBasis.load(profile.basis_dir / f"seed-{seed}") for seed in profile.train_seeds}
own = own_basis(profile.vae)
test = open_latents(profile.latents_dir, "test")

# %% [markdown]
# ## Two numbers
#
# *Swap score.* Over pairs (a, b) of test scenes, decode a's semantic with b's style channels and let a judge read the picture.
# For each factor, over the pairs in which it differs: the share that shows what it should minus the share that shows
# the other scene's value. Semantic factors should follow a, style factors b. 1 is perfect, 0 no preference. The
# *ceiling* is the same figure for unswapped reconstructions.
#
# *Counterfactual score.* Scenes can draw what the swap should have been. 0 is no nearer to that picture than the better of a and b
# left alone, 1 is as near as the codec allows.
#
# Both need known factors, so they are measured on Scenes only. Judge *b* reads the headline; *a* stands beside it.

# %%
comparison = compare_splits(profile, vae, trained, test, own)
print(comparison or "No factor of these pictures is known, so there is nothing to score: look at the pictures below.")

# %% [markdown]
# The headline is the training seed with the median swap score, never the best one; here are all of them.

# %%
if comparison:
    for seed, s in comparison.seeds.items():
        mark = "  <- median" if seed == comparison.median_seed else ""
        pixels, structure = s["counterfactual_mse"], s["counterfactual_ssim"]
        print(f"seed {seed}: swap {s['score']:+.2f}   counterfactual {pixels:+.2f} in pixels, {structure:+.2f} in SSIM{mark}")

# %%
if comparison:
    points = {RECIPE: {key: [s[key] for s in comparison.seeds.values()] for key in METRICS}}
    ceiling = {"score": comparison.ceiling["score"]}
    dots = figures.score_dots(comparison.table, metrics=METRICS, null=comparison.null_values, points=points, ceiling=ceiling)
    alt = "Swap and counterfactual scores with 95 % intervals: the learned Q, six raw channel pairs, doing nothing, random bases."
    display(record.figure(dots, "scores", alt=alt))

# %% [markdown]
# ### Factor by factor

# %%
if comparison:
    ceiling = {name: factor["follows"] for name, factor in comparison.ceiling["per_factor"].items()}
    bars = figures.per_factor_scores(comparison.recipe["per_factor"], ceiling=ceiling)
    alt = "For each factor, the share of swapped pictures that followed the right scene, neither, or the wrong one."
    display(record.figure(bars, "per_factor", alt=alt))

# %% [markdown]
# ## The paper's pictures
#
# Each column replaces one block of channels by 90 % of the target's: the two blocks of x = Q z, then the six pairs of raw
# channels. If the split were perfect, the third column would show the target's content painted as the original, the fourth
# the original's content painted as the target.

# %%
headline_seed = comparison.median_seed if comparison else profile.train_seeds[0]
basis = OrthogonalBasis.load(BASIS) if BASIS else own or trained[headline_seed]
basis.check_vae(vae)
pictures = picture_pairs(profile, ORIGINAL, TARGET, n_pairs=4)
z_o, z_t = vae.encode(pictures.originals.to(vae.device)), vae.encode(pictures.targets.to(vae.device))
alpha = profile.alpha
semantic = vae.decode(edits.lerp_blocks(basis, z_o, z_t, semantic=alpha))
style = vae.decode(edits.lerp_blocks(basis, z_o, z_t, style=alpha))
raw = {f"{i}-{j}": vae.decode(edits.lerp_channels(z_o, z_t, (i, j), alpha)) for i, j in figures.CHANNEL_PAIRS}
alt = "The paper's figure: original, target, semantic lerp, style lerp, and lerps of the six raw channel pairs, one row a pair."
record.figure(figures.lerp_pictures(pictures.originals, pictures.targets, semantic, style, raw, alpha=alpha), "lerp", alt=alt)

# %% [markdown]
# ### Along the way from the original to the target

# %%
alphas = np.linspace(0, 1, 6)
one_o, one_t = z_o[:1].expand(6, -1, -1, -1), z_t[:1].expand(6, -1, -1, -1)
steps = torch.tensor(alphas, dtype=torch.float32, device=z_o.device)
strips = {
    "semantic": vae.decode(edits.lerp_blocks(basis, one_o, one_t, semantic=steps)),
    "style": vae.decode(edits.lerp_blocks(basis, one_o, one_t, style=steps)),
    "both": vae.decode(edits.lerp_blocks(basis, one_o, one_t, semantic=steps, style=steps)),
}
alt = "Strips from the original to the target over alpha, moving the semantic block, the style block, or both."
record.figure(figures.lerp_strips(strips, [round(float(a), 1) for a in alphas]), "strips", alt=alt)

# %% [markdown]
# ### What each block, and each single channel, shows
#
# The other channels are set to 0, about their mean. For z these are the VAE's own channels; for x the rotated ones.

# %%
blocks = [pictures.originals, *(vae.decode(edits.keep_block(basis, z_o, name)) for name in ("semantic", "style"))]
alt = "Originals, then decodings of the semantic block alone and of the style block alone."
labels = ["original", "semantic only", "style only"]
record.figure(figures.image_grid(blocks, row_labels=labels, width_in=4.5), "blocks", alt=alt)

# %%
x_o = basis.encode(z_o)
rows = []
for picture in range(2):
    single_z = torch.cat([edits.solo_channel(z_o[[picture]], i) for i in range(vae.latent_channels)])
    single_x = torch.cat([basis.decode(edits.solo_channel(x_o[[picture]], i)) for i in range(vae.latent_channels)])
    rows += [[pictures.originals[picture], *vae.decode(single_z)], [pictures.originals[picture], *vae.decode(single_x)]]
labels = [f"{space}, pair {picture + 1}" for picture in range(2) for space in ("z", "x = Qz")]
alt = "Each latent channel decoded alone, for the VAE's own channels z and the rotated channels x."
columns = ["original", *map(str, range(vae.latent_channels))]
record.figure(figures.image_grid(rows, row_labels=labels, column_labels=columns, width_in=5.5), "channels", alt=alt)

# %% [markdown]
# ## Is Q allowed to assume N(0, I)?
#
# The paper wants an orthogonal Q because it turns N(0, I) into N(0, I). Of latents that are not isotropic, an orthogonal Q keeps
# only the eigenvalues of the covariance; the variances of single channels change.

# %%
batches = [test.gather(range(i, min(i + 256, len(test))))[0] for i in range(0, len(test), 256)]
spaces = {"z": channel_statistics(batches), "x = Qz": channel_statistics(batches, matrix=basis.Q.cpu())}
facts = {name: dict(eigenvalues=s.eigenvalues, std=s.std, kurtosis=s.kurtosis) for name, s in spaces.items()}
alt = "Covariance eigenvalues, standard deviations and kurtosis of z and of x = Qz, beside what N(0, I) would have."
print(f"anisotropy ‖Σ − I‖/√C: z {spaces['z'].anisotropy:.2f}, x {spaces['x = Qz'].anisotropy:.2f}")
record.figure(figures.isotropy(facts), "isotropy", alt=alt)

# %% [markdown]
# ## The explorer
#
# With a running kernel, two sliders mix the blocks of any two of the pictures. The still picture below shows the same
# mixes: content changes downwards, style to the right.

# %%
names = [f"{role} {i + 1}" for role in ("original", "target") for i in range(len(pictures.originals))]
display(explorer(vae, basis, [*pictures.originals, *pictures.targets], names=names))

# %%
mixes = (0.0, 0.25, 0.5, 0.75, 1.0)
mixed = edits.mix_blocks(basis, z_o[:1], z_t[:1], mixes, mixes)
decoded = vae.decode(mixed.flatten(0, 1)).unflatten(0, (5, 5))
alt = "Five by five mixes of two pictures: the semantic mix grows downwards, the style mix to the right."
record.figure(figures.mix_grid(decoded, mixes, mixes), "explorer", alt=alt)

# %% [markdown]
# ## What the evidence does and does not show
#
# The swap score says how a judge reads the pictures, the counterfactual score how near they are to the truth; both are averages
# over test scenes, with intervals over pairs, and the small marks show how much training seeds differ. They say nothing
# about photographs, where no factor is known: there only the pictures above speak. And they judge what a block *does*, not
# what can be read from it.

# %% tags=["checks"]
record.value("isotropy.std_z", spaces["z"].std)
record.value("isotropy.std_x", spaces["x = Qz"].std)
record.value("isotropy.eigenvalues", spaces["z"].eigenvalues)
record.value("isotropy.anisotropy", spaces["z"].anisotropy)
assert np.allclose(spaces["z"].eigenvalues, spaces["x = Qz"].eigenvalues, rtol=1e-3)
assert basis.orthogonality_error < 1e-5
if comparison:
    for name, value in comparison.values().items():
        record.value(name, value)
    unchanged = comparison.trivial["a unchanged"]
    assert unchanged["semantic"] > 0.5 and unchanged["style"] < -0.5  # the bench tells content from style
    assert comparison.ceiling["score"] > comparison.recipe["score"]
if PROFILE == "scenes":
    assert comparison.ceiling["score"] > 0.7
record.close()
