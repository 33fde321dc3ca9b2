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
# # 07 · How latents come to be: from GLO to the VAE
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sketchae/sketchae/blob/main/notebooks/07_continuous_latents.ipynb)
#
# **Question.** Where does the latent space of the main paper come from? The story runs from latents that are *optimised* (GLO) to latents that are
# *predicted* (autoencoders) and latents with a *distribution* (VAE); `07_discrete_latents` tells the rest, to DALL-E. Every system of it is trained
# here, on Scenes and on handwritten digits, and measured by the bench of the main paper.
#
# **In:** nothing (networks ship with the package). **Out:** pictures and numbers `continuous_latents.*`.
# **Cost:** about 1½ minutes on two CPU cores. `RETRAIN = True` trains every model anew, between half a minute and half an hour each.

# %%
import importlib.util

if importlib.util.find_spec("sketchae") is None:  # on Colab, say
    # %pip install --quiet "sketchae[lab] @ git+https://github.com/sketchae/sketchae"
    pass

# %% tags=["parameters"]
PROFILE: str = "scenes"
RETRAIN: bool = False  # train the models of this notebook anew (resumes where it stopped)
N_LATENT_PICTURES: int | None = None  # test scenes that are reconstructed and edited
DIGITS: str | None = None  # other digits than scikit-learn's: a hub id or folder in the form of MNIST ("ylecun/mnist")
DIGITS_REVISION: str | None = None  # its commit on the hub, in full

# %%
import numpy as np
import torch
from IPython.display import display

from sketchae import figures, load_profile
from sketchae.latent_models import attributes, bench, glo_fitting, paired, paired_swap, vae, vae_models
from sketchae.latent_models.autoencoder import LOSSES
from sketchae.latent_models.digits import binarize, load_digits_of
from sketchae.latent_models.ship import DIGIT_VAES, DIGITS_MODELS, open_model, train_for, train_on_digits
from sketchae.metrics.bootstrap import bootstrap_ci
from sketchae.metrics.distances import psnr
from sketchae.record import Recorder
from sketchae.scenes import render, split_scenes
from sketchae.scenes.judges import load_judge

profile = load_profile(PROFILE, n_latent_pictures=N_LATENT_PICTURES, digits=DIGITS, digits_revision=DIGITS_REVISION)
record = Recorder("07_continuous_latents", profile)
NAMES = ["glo", *(f"autoencoder_{loss}" for loss in LOSSES), "paired", "paired_control", "vae"]
folder = train_for([*NAMES, *DIGITS_MODELS], profile) if RETRAIN or profile.n_latent_steps else None
digits = load_digits_of(profile)
of_digits = train_on_digits(profile, digits) if profile.digits else folder
models = {**{name: open_model(name, folder) for name in NAMES}, **{name: open_model(name, of_digits) for name in DIGITS_MODELS}}
scenes = split_scenes("test", profile.n_latent_pictures, seed=profile.test_seed)
pictures, judge = render(scenes).images, load_judge("b")
print(f"{len(models)} models; {len(scenes)} test scenes, read by judge b")

# %% [markdown]
# ## GLO: latents without an encoder
#
# The simplest deep latent model ([Bojanowski et al. 2017](https://arxiv.org/abs/1707.05776)): a generator g and one latent vector for every
# training picture, learned together, with the vectors kept inside a ball:
#
# $$\min_\theta \frac{1}{N} \sum_i \Big[ \min_{z_i \in \mathcal{B}(r, d, p)} \ell(g_\theta(z_i), x_i) \Big]$$
#
# Training pictures and what their vectors decode to; new pictures, for which a vector has to be optimised; and samples from a Gaussian that is
# fitted to the training vectors.

# %%
model = models["glo"]
n = min(8, len(pictures))
trained_on = render(split_scenes("backbones", n)).images
with torch.no_grad():
    remembered = model.reconstruct(range(n))
    sampled = model.decode(glo_fitting.fit_gaussian(model.latents.detach()).sample(n))
fitted = glo_fitting.fit_latents(model, pictures[:n], n_steps=profile.n_glo_steps)
with torch.no_grad():
    found = model.decode(fitted.z)
rows = {"training\npictures": trained_on, "their\nlatents": remembered, "new\npictures": pictures[:n], "fitted": found, "samples": sampled}
alt = "GLO: training pictures, their reconstructions, new pictures, their fits, and samples."
record.figure(figures.image_grid(list(rows.values()), row_labels=list(rows)), "glo", alt=alt)

# %%
fits = {"training": float(psnr(remembered, trained_on).mean()), "new": float(psnr(found, pictures[:n]).mean())}
for what, value in fits.items():
    print(f"{what + ' pictures':20} {value:5.1f} dB")

# %% [markdown]
# **Restoration.** What is hidden takes no part in the loss; the generator fills it with what goes with the rest. Its rivals have never seen
# a picture: the mean colour of the rest, each row interpolated from its nearest seen pixels, and scikit-image's smoothest surface.

# %%
n_holes = min(32, len(pictures))
mask, whole = glo_fitting.square_mask(n_holes), pictures[:n_holes]
restored = glo_fitting.fit_latents(model, whole, mask=mask, n_steps=profile.n_glo_steps)
with torch.no_grad():
    guesses = {"glo": model.decode(restored.z), **glo_fitting.fill_from_surroundings(whole, mask)}
hole = 1 - mask
errors = {name: ((guess - whole).square() * hole).sum((1, 2, 3)) / (3 * hole.sum((1, 2, 3))) for name, guess in guesses.items()}
inside = {name: float(error.mean()) for name, error in errors.items()}
gains = {name: bootstrap_ci((error - errors["glo"]).numpy(), name="holes") for name, error in errors.items() if name != "glo"}
for name, value in inside.items():
    more = f"   GLO's is less by {gains[name][0]:+.4f} to {gains[name][1]:+.4f}" if name in gains else ""
    print(f"squared error inside the hole, {name:12} {value:.4f}{more}")
seen = whole * mask
rows = {"seen": seen + 0.5 * hole, "GLO": seen + guesses["glo"] * hole, "rows": seen + guesses["rows"] * hole, "original": whole}
alt = "Pictures with a square hole, restored by optimising a latent vector, by interpolating rows, and the originals."
record.figure(figures.image_grid([list(row[:n]) for row in rows.values()], row_labels=list(rows)), "restoration", alt=alt)

# %% [markdown]
# **What a new picture costs.** Every step of the fit is a pass through the generator, forwards and backwards. An encoder needs one pass
# forwards. That, and that the vectors of all training pictures must be stored, is why latents came to be predicted.

# %%
history = [{"step": step, "loss": float(loss)} for step, loss in enumerate(fitted.losses.mean(0))]
chart = figures.training_curves({"mean of new pictures": history}, {"loss while a new picture is fitted": ["loss"]}, columns=2)
record.figure(chart, "glo_cost", alt="The loss while latent vectors of new pictures are optimised, step by step.")
print(f"{fitted.n_steps} steps: {2 * fitted.n_steps} passes through the generator; an encoder needs 1")

# %% [markdown]
# ## Autoencoders: "a lot depends on the loss"
#
# An encoder of the generator's size predicts the vector, here 64 numbers. The same network, trained as long on the same pictures with three losses:
# squared error, absolute error, and the *perceptual* one, the error of what judge *a*'s layers see
# ([Johnson et al. 2016](https://arxiv.org/abs/1603.08155)). Judge *b* reads the reconstructions.

# %%
rows_of_losses = {}
for loss in LOSSES:
    model = models[f"autoencoder_{loss}"]
    row = bench.reconstruction_row(lambda x, model=model: model.decode(model.encode(x)), scenes, judge, images=pictures)
    rows_of_losses[loss] = row.values()
    print(f"{loss:12} {row.psnr:5.2f} dB   read by judge b, κ: content {row.semantic_kappa:+.2f}   style {row.style_kappa:+.2f}")
with torch.no_grad():
    grid = [pictures[:n], *(models[f"autoencoder_{loss}"].decode(models[f"autoencoder_{loss}"].encode(pictures[:n])) for loss in LOSSES)]
alt = "Pictures and their reconstructions by autoencoders with three losses."
display(record.figure(figures.image_grid(grid, row_labels=["pictures", *LOSSES]), "losses", alt=alt))

# %% [markdown]
# ## Attribute vectors: smart editing
#
# From pairs of pictures that differ in one factor only, the mean difference of their latents gives a direction (the lecture moves a gaze in this
# way). Added to the latents of other pictures with growing strength: in how many does judge *b* read the new value, and how many of the other
# factors stay as they are in the unedited reconstruction? Beside it, random directions of the same length.

# %%
edits = {"light": ("even", "left"), "horizon": ("low", "high"), "palette": ("autumn", "ocean"), "celestial": ("nothing", "sun")}
model, strengths, sweeps, shown = models["autoencoder_perceptual"], (0.0, 0.5, 1.0, 1.5, 2.0), {}, []
for factor, (before, after) in edits.items():
    v = attributes.attribute_vector(model.encode, *attributes.attribute_pairs(factor, before, after, profile.n_latent_pictures))
    start = scenes.with_factor(factor, before)
    sweeps[factor] = sweep = attributes.sweep_strength(model, v, start, factor, after, strengths, judge)
    with torch.no_grad():
        shown.append(model.decode(model.encode(render(start[:1]).images) + torch.tensor(strengths)[:, None] * v))
    at = sweep.strengths.index(1.0)
    moved, null = sweep.effects[at], sweep.null[at]
    print(f"{factor:10} {before:8} -> {after:8} moved {moved.moved:.2f}  kept {moved.kept:.2f}", end="   ")
    print(f"random: {null.moved:.2f}  {null.kept:.2f}   the true picture, reconstructed: {sweep.ceiling.moved:.2f}")

# %%
labels = [f"{factor}:\n{before} → {after}" for factor, (before, after) in edits.items()]
columns = [f"strength {s:g}" for s in strengths]
alt = "One picture moved along four attribute vectors with growing strength."
record.figure(figures.image_grid(shown, row_labels=labels, column_labels=columns, width_in=5), "attributes", alt=alt)

# %%
curves = {f"{factor}": sweep.points() for factor, sweep in sweeps.items()}
points = {f"{factor}, random direction": sweep.points(null=True)[-1] for factor, sweep in sweeps.items()}
chart = figures.change_plane(points, curves, x_label="pictures that show the new value", y_label="other factors as before the edit")
alt = "Share of pictures that an attribute vector moves, against the share of the other factors that it leaves alone, by strength."
display(record.figure(chart, "attribute_strengths", alt=alt))

# %% [markdown]
# ## Paired autoencoders: the DeepFake system
#
# One encoder, two decoders, two *identities*: here two painters, of whom A paints watercolours in autumn colours and B ink drawings in ocean
# colours. Both decoders learn from the same kind of vectors, and no picture of A has a counterpart by B. Inputs are warped and targets are not.
# Then the decoders change places. The control has an encoder for each painter.

# %%
few = profile.n_latent_pictures // 2
painted = {painter: paired.painter_scenes(painter, "test", few) for painter in ("a", "b")}
exchanged = {}
for name in ("paired", "paired_control"):
    found = exchanged[name] = paired_swap.measure_swap(models[name], painted["a"], painted["b"], judge)
    for direction, e in (("A by B", found.a_to_b), ("B by A", found.b_to_a)):
        print(f"{name:15} {direction}: palette {e.swapped.palette:.2f}  medium {e.swapped.medium:.2f}  content κ {e.swapped.content:+.2f}", end="   ")
        print(f"decoders in place: {e.unswapped.palette:.2f}  {e.unswapped.medium:.2f}  {e.unswapped.content:+.2f}")

# %%
drawn = {painter: render(painted[painter][:n]).images for painter in ("a", "b")}
grid = {}
with torch.no_grad():
    for source, target in (("a", "b"), ("b", "a")):
        for name in ("paired", "paired_control"):
            label = f"{source.upper()} by {target.upper()}" + (",\ncontrol" if name != "paired" else "")
            grid[f"{source.upper()}"] = drawn[source]
            grid[label] = models[name].swap(drawn[source], source, target)
alt = "Pictures of two painters, repainted by exchanging the decoders, with a shared encoder and with an encoder for each."
record.figure(figures.image_grid(list(grid.values()), row_labels=list(grid)), "painters", alt=alt)

# %% [markdown]
# ## VAE: latents with a distribution
#
# [Kingma & Welling 2014](https://arxiv.org/abs/1312.6114) bound the likelihood from below, with q(z|x) = N(μ, σ²) predicted by the encoder and
# p(z) = N(0, I):
#
# $$\log p(x) \ge \mathbb{E}_{q(z|x)} \log p(x|z) - \mathrm{KL}(q(z|x) \,\|\, p(z)), \qquad
# \mathrm{KL} = \tfrac12 \sum_i (\mu_i^2 + \sigma_i^2 - 1 - \log \sigma_i^2)$$
#
# As in the lecture, on handwritten digits (scikit-learn's, 8×8 pixels): the learned manifold of two dimensions, and samples with 2, 5, 10 and 20.
# `DIGITS = "ylecun/mnist"` with the dataset's commit as `DIGITS_REVISION` trains them on MNIST, 28×28, instead.

# %%
dims = [name for name, _, beta in DIGIT_VAES if beta == 1]
sheets = {"the digits": digits.test_images[:100], "manifold of 2-D": vae_models.manifold(models["digits_2"], 10)}
alt = "Handwritten digits, and the learned manifold of a VAE with two latent dimensions."
display(record.figure(figures.contact_sheets(sheets, 10, width_in=5), "manifold", alt=alt))
sheets = {f"{name}-D": vae_models.sample(models[f"digits_{name}"], 100) for name in dims}
alt = "Samples of VAEs of digits with 2, 5, 10 and 20 latent dimensions."
record.figure(figures.contact_sheets(sheets, 10), "digits", alt=alt)

# %% [markdown]
# **How tight is the bound?** The importance-weighted bound ([Burda et al. 2016](https://arxiv.org/abs/1509.00519)) rises from the ELBO (one sample)
# towards log p(x). On test digits, binarised; in nats a picture. β weighs the KL: below 1 it is no bound in training, and well above 1 the
# latents fall silent (*active* are dimensions whose μ varies). All rows are evaluated with β = 1.

# %%
ink = binarize(digits.test_images[:360], np.random.default_rng(0))
bounds = {}
for name, dim, beta in DIGIT_VAES:
    model = models[f"digits_{name}"]
    values = {k: float(vae.importance_weighted_bound(model, ink, k).mean()) for k in (1, 10, 100, 1000)}
    with torch.no_grad():
        active = vae.active_dims(model.encode(ink)[0])
    bounds[name] = {"elbo": values[1], "iwae": values[1000], "active": active}
    row = "   ".join(f"k = {k}: {value:6.2f}" for k, value in values.items())
    print(f"{dim:2}-D, β = {beta:<5g} {row}   active {active}")

# %% [markdown]
# **Why the reparametrisation trick?** Two unbiased estimators of the gradient of the same expectation: through the sample, z = μ + σ ⊙ ε, and
# by the score function, which knows the decoder's value only. Variance of single-sample estimates, score function over reparametrised.

# %%
few = ink[: min(64, len(ink))]
ratios = {name: vae.gradient_variances(models[f"digits_{name}"], few) for name in dims}
for name, g in ratios.items():
    low, high = g.ratio_ci95
    print(f"{name:>2}-D   score function / reparametrised {g.ratio:8.1f} [{low:.1f}, {high:.1f}]   with a baseline {g.ratio_baseline:6.1f}")

# %% [markdown]
# **On Scenes**, 64 numbers as above: pictures, reconstructions, and samples from p(z) = N(0, I), beside samples of a Gaussian fitted to the vectors
# of the plain autoencoder.

# %%
model, plain = models["vae"], models["autoencoder_l2"]
with torch.no_grad():
    mu, logvar = model.encode(pictures)
    z = plain.encode(pictures)
    fitted = glo_fitting.fit_gaussian(z, radius=float(z.norm(dim=1).max()))
    rows = {"pictures": pictures[:n], "VAE": model.decode(mu[:n]), "VAE,\nsamples": vae_models.sample(model, n)}
    rows["autoencoder,\nsamples"] = plain.decode(fitted.sample(n))
alt = "Scenes, their reconstructions by a VAE with 64 latent numbers, samples of it, and of an autoencoder with a Gaussian."
record.figure(figures.image_grid(list(rows.values()), row_labels=list(rows)), "vae", alt=alt)
row = bench.reconstruction_row(lambda x: model.decode(model.encode(x)[0]), scenes, judge, images=pictures)
kl = float(vae.kl_divergence(mu, logvar).mean())
print(f"{row.psnr:.2f} dB, KL {kl:.1f} nats = {kl / 0.6931:.0f} bits, active {vae.active_dims(mu)} of {mu.shape[1]} dimensions, σ {model.sigma:.3f}")

# %% [markdown]
# ## What the evidence does not show
#
# One training seed each, on one synthetic world, with small networks that were trained for minutes: the losses, the attribute vectors and
# the painters are compared with each other at equal cost, not with what longer training would give. The digits are 8×8 pixels (unless
# another dataset is named). Judge *a*, whose features make the perceptual loss, has learned the factors from labels, as networks
# behind perceptual losses have.

# %% tags=["checks"]
assert all(abs(torch.linalg.vector_norm(z)) <= 1 + 1e-5 for z in models["glo"].project(models["glo"].latents))
assert all(b["iwae"] >= b["elbo"] - 0.2 for b in bounds.values())  # in expectation; these are estimates
assert all(sweep.effects[sweep.strengths.index(0.0)].kept == 1 for sweep in sweeps.values())
if profile.name == "scenes" and not profile.overridden:
    assert fits["training"] > fits["new"] - 1 and gains["mean_colour"][0] > 0
    perceptual, squared = rows_of_losses["perceptual"], rows_of_losses["l2"]
    assert perceptual["semantic_kappa_ci95"][0] > squared["semantic_kappa_ci95"][1], "perceptual loss should keep more content"
    assert perceptual["psnr_ci95"][1] < squared["psnr_ci95"][0], "squared error should keep more decibels"
    assert all(g.ratio_ci95[0] > 1 for g in ratios.values()), "the reparametrised gradient should vary less"
record.value("glo", {"psnr": fits, "n_holes": n_holes})
record.value("glo.hole", inside, digits=4)
record.value("glo.hole_gain_ci95", {name: list(gain) for name, gain in gains.items()}, digits=4)
kept = ("psnr", "semantic_kappa", "style_kappa")
record.value("losses", {loss: {key: row[key] for key in kept} for loss, row in rows_of_losses.items()})
at_one = {factor: (sweep, sweep.strengths.index(1.0)) for factor, sweep in sweeps.items()}
record.value("attributes", {factor: {"edit": sweep.effects[i].values(), "null": sweep.null[i].values()} for factor, (sweep, i) in at_one.items()})
record.value("paired", {name: found.values() for name, found in exchanged.items()})
record.value("digits", bounds)
record.value("gradient", {name: {"ratio": g.ratio, "ratio_ci95": list(g.ratio_ci95), "baseline": g.ratio_baseline} for name, g in ratios.items()})
record.value("vae", {"psnr": row.psnr, "kl": kl, "active": vae.active_dims(mu)})
record.value("n_pictures", len(scenes))
record.close()
