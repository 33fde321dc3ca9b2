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
# # 07 · How latents come to be: from VQ-VAE to DALL-E
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sketchae/sketchae/blob/main/notebooks/07_discrete_latents.ipynb)
#
# **Question.** What becomes of latents when they are whole numbers, which a language model can write? A picture becomes a grid of codes (VQ-VAE,
# dVAE), a transformer learns captions and codes as one sequence (DALL-E), and CLIP chooses among what it draws. Then one table measures everything
# from GLO on.
#
# **In:** nothing (networks ship with the package). **Out:** pictures and numbers `discrete_latents.*`.
# **Cost:** about two minutes on two CPU cores. `RETRAIN = True` trains every model of the table anew, up to three quarters of an hour each.

# %%
import importlib.util

if importlib.util.find_spec("sketchae") is None:  # on Colab, say
    # %pip install --quiet "sketchae[lab] @ git+https://github.com/sketchae/sketchae"
    pass

# %% tags=["parameters"]
PROFILE: str = "scenes"
RETRAIN: bool = False  # train the models anew (resumes where it stopped)
N_LATENT_PICTURES: int | None = None  # test scenes that are reconstructed
N_PRIOR_PROMPTS: int | None = None  # captions of test scenes that are painted
N_CANDIDATES: int | None = None  # pictures drawn for each of them, of which CLIP chooses

# %%
from functools import partial

import numpy as np
import torch
from IPython.display import display

from sketchae import figures, load_profile
from sketchae.backbones import load_clip, load_vae
from sketchae.diffusion.evaluation import obedience, prompt_set
from sketchae.diffusion.picture_sets import plain
from sketchae.latent_models import bench, channel_split, dvae, glo_fitting, prior, reranking, vae_models
from sketchae.latent_models.ship import open_model, provenance, train_for
from sketchae.record import Recorder
from sketchae.scenes import render, split_scenes
from sketchae.scenes.judges import load_judge

profile = load_profile(PROFILE, n_latent_pictures=N_LATENT_PICTURES, n_prior_prompts=N_PRIOR_PROMPTS, n_candidates=N_CANDIDATES)
record = Recorder("07_discrete_latents", profile)
NAMES = ["glo", "autoencoder_l2", "autoencoder_perceptual", "vae", "vqvae", "dvae", "prior"]
folder = train_for(NAMES, profile) if RETRAIN or profile.n_latent_steps else None
models = {name: open_model(name, folder) for name in NAMES}
clip, judge = load_clip(device="cpu"), load_judge("b")
scenes = split_scenes("test", profile.n_latent_pictures, seed=profile.test_seed)
pictures = render(scenes).images
n = min(8, len(pictures))

# %% [markdown]
# ## VQ-VAE: a picture as a grid of codes
#
# [van den Oord et al. 2017](https://arxiv.org/abs/1711.00937): the encoder's vector at each place of a 32×32 grid is replaced by the nearest of 512
# codes, so that a picture of 128×128×24 bits becomes 32×32 codes of 9 bits. The decoder's gradient passes straight through the choice; the codes
# follow the vectors that chose them:
#
# $$L = -\log p(x | z_q(x)) + \| \mathrm{sg}[z_e(x)] - e \|^2 + \beta \| z_e(x) - \mathrm{sg}[e] \|^2$$
#
# with the second term in its form as a moving average. Codes that nothing uses are moved to where vectors are.

# %%
rows, codes = {}, {}
for name in ("vqvae", "dvae"):
    model = models[name]
    with torch.no_grad():
        codes[name] = torch.cat([model.encode(batch) for batch in pictures.split(32)])
    rows[name] = bench.reconstruction_row(lambda x, model=model: model.decode(model.encode(x)), scenes, judge, images=pictures)
    use = bench.code_use(codes[name], model.config.codebook_size)
    r = rows[name]
    fewer = 128 * 128 * 24 / use.bits_nominal
    print(f"{name:6} {use.bits_nominal:6.0f} bits a picture, {fewer:.0f} times fewer than pixels   {r.psnr:.2f} dB", end="   ")
    print(f"κ read in it: content {r.semantic_kappa:.2f}, style {r.style_kappa:.2f}")
    share, perplexity = f"{use.share_used:.1%} of codes used", f"perplexity {use.perplexity:.0f} of {use.codebook_size}"
    print(f"       {share}, {perplexity}, {use.bits_entropy:.0f} bits by entropy")

# %%
chart = figures.code_maps(pictures[:n], codes["vqvae"][:n], models["vqvae"].decode(codes["vqvae"][:n]), models["vqvae"].config.codebook_size)
record.figure(chart, "vqvae", alt="Scenes, their 32 by 32 codes as shades, and the pictures that the codes decode to.")

# %% [markdown]
# ## dVAE: codes drawn at random
#
# DALL-E's autoencoder predicts a *distribution* over codes at every place and draws from it, differentiably. First the trick: the largest of log π
# + Gumbel noise is a draw from π; and with a softmax of temperature τ in place of the largest, gradients pass.

# %%
pi, rng = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03]), np.random.default_rng(0)
noise = dvae.gumbel_noise((20000, 5), rng)
drawn_shares = torch.bincount(dvae.gumbel_max(pi.log(), noise), minlength=5) / len(noise)
print("π                ", "  ".join(f"{p:.3f}" for p in pi))
print("drawn, of 20,000 ", "  ".join(f"{p:.3f}" for p in drawn_shares))
for tau in (4.0, 1.0, 0.25, 1 / 16):
    print(f"one draw, τ = {tau:<6g}", "  ".join(f"{y:.3f}" for y in dvae.gumbel_softmax(pi.log(), noise[0], tau)))

# %% [markdown]
# In training τ fell from 1 to 1/16. The grid is 8×8 and the codes are 1,024, 640 bits a picture, so that a small transformer can learn to write it.
# *Hard* codes are what the transformer sees; *relaxed* ones are what the decoder was trained on.

# %%
model, rng = models["dvae"], np.random.default_rng(0)
with torch.no_grad():
    ways = {"hard codes": model.decode(codes["dvae"][:n])}
    ways |= {f"relaxed,\nτ = {label}": model.decode_relaxed(pictures[:n], tau, rng) for label, tau in (("1/16", 1 / 16), ("1/4", 0.25), ("1", 1.0))}
for name, images in ways.items():
    error = float((images - pictures[:n]).square().flatten(1).mean(1).log10().mul(-10).mean())
    print(f"{' '.join(name.split()):20} {error:5.2f} dB")
alt = "Scenes reconstructed by the dVAE through hard codes, and through relaxed codes at three temperatures."
record.figure(figures.image_grid([pictures[:n], *ways.values()], row_labels=["pictures", *ways]), "dvae", alt=alt)

# %% [markdown]
# ## The DALL-E prior: captions and codes as one sequence
#
# [Ramesh et al. 2021](https://arxiv.org/abs/2102.12092): a causal transformer, here transformers' GPT-2 with six layers of width 192, learns
# p(code | caption, codes before it), row by row. One caption in ten was empty in training, so it draws without a caption, too.

# %%
draw = models["prior"], models["dvae"], clip
prompts = ["two large sailboats on the left by the sea under the sun, a watercolour in autumn colours"]
prompts += ["a small house on the right in front of hills, an ink drawing in ocean colours"]
prompts += ["three small pines in the centre before mountains under the moon, a pointillist painting in midnight colours"]
shown = [prior.paint_prompts(*draw, [p] * 8, range(8), progress=False) for p in prompts]
shown += [prior.paint_prompts(*draw, [""] * 8, range(8), progress=False)]
labels = ["two large sailboats,\nleft, sea, sun,\nwatercolour, autumn", "a small house, right,\nhills, ink, ocean"]
labels += ["three small pines,\nmountains, moon,\ndots, midnight", "(no caption)"]
record.figure(figures.image_grid(shown, row_labels=labels), "prior", alt="Pictures that the prior draws for three captions, and without a caption.")

# %% [markdown]
# Does it obey? κ between what captions of test scenes ask for and what judge *b* reads, averaged over the factors that they name: 0 is chance, 1
# always. Temperature and top-k as DALL-E has them; guidance, which it had not, pushes away from what the prior would draw without a caption.

# %%
asked = prompt_set(split_scenes("test", profile.n_prior_prompts, seed=profile.test_seed), seed=7)
settings = {"temperature 1": {}, "temperature 0.7": {"temperature": 0.7}, "top-k 50": {"top_k": 50}, "guidance 2": {"guidance": 2.0}}
settings |= {"guidance 3": {"guidance": 3.0}}
obeyed = {}
for name, options in settings.items():
    images = prior.paint_prompts(*draw, asked.prompts, range(len(asked)), progress=False, **options)
    obeyed[name] = found = obedience(judge.predict(images), asked)
    low, high = found.mean_ci95
    print(f"{name:18} {found.mean:+.2f} [{low:.2f}, {high:.2f}]   content {found.semantic:+.2f}   style {found.style:+.2f}")
with torch.no_grad():
    real = render(split_scenes("test", len(asked), seed=profile.test_seed)).images.split(32)
    own = torch.cat([models["dvae"].decode(models["dvae"].encode(batch)) for batch in real])
perfect = obedience(judge.predict(own), asked)
print(f"{'real scenes, dVAE':18} {perfect.mean:+.2f}   content {perfect.semantic:+.2f}   style {perfect.style:+.2f}")

# %%
metrics = {"mean": "all factors named, κ", "semantic": "content, κ", "style": "style, κ"}
ceiling = {key: getattr(perfect, key) for key in metrics}
dots = figures.score_dots({name: plain(o.values()) for name, o in obeyed.items()}, metrics=metrics, ceiling=ceiling)
alt = "How far the prior obeys captions, by temperature, top-k and guidance; dashed: real scenes through the dVAE."
display(record.figure(dots, "obedience", alt=alt))

# %% [markdown]
# ## CLIP reranks
#
# DALL-E drew 512 candidates and let CLIP choose. Here: the share of a caption's factors that judge *b* reads as asked, chance subtracted (0 chance,
# 1 always), in the candidate that CLIP likes best, against the number of candidates (subsets of one pool, so gains are paired). CLIP knows neither
# the factors nor the judge.

# %%
pool = reranking.draw_candidates(*draw, asked, profile.n_candidates, judge)
curve = reranking.reranking(pool, asked)
for p in curve:
    low, high = p.gain_ci95
    print(f"best of {p.n:2}   {p.mean:+.3f}   content {p.semantic:+.2f}   style {p.style:+.2f}", end="   ")
    print(f"gain over one {p.gain:+.3f} [{low:+.3f}, {high:+.3f}]")
lines = {"all factors": "mean", "content": "semantic", "style": "style"}
lines = {label: [{"x": p.n, "y": getattr(p, key), "y_ci95": getattr(p, f"{key}_ci95")} for p in curve] for label, key in lines.items()}
chart = figures.cost_curves(lines, x_label="candidates, of which CLIP chooses one", y_label="caption obeyed", logx=True)
display(record.figure(chart, "reranking", alt="How far captions are obeyed against the number of candidates among which CLIP chooses."))

# %% [markdown]
# Four captions and all their candidates, from the one that CLIP likes best to the one that it likes least.

# %%
order = prior.rerank(pool.scores, profile.n_candidates)
ranked = [[pool.pictures[i, j] / 255 for j in order[i]] for i in range(len(pool.pictures))]
texts, ranks = [f"caption {i + 1}" for i in range(len(ranked))], [str(i + 1) for i in range(profile.n_candidates)]
alt = "Four captions, and candidates for each in the order in which CLIP ranks them."
display(record.figure(figures.image_grid(ranked, row_labels=texts, column_labels=ranks), "candidates", alt=alt))
print(*(f"caption {i + 1}: {text}" for i, text in enumerate(asked.prompts[: len(ranked)])), sep="\n")

# %% [markdown]
# ## One table
#
# Every system of the two notebooks and the VAE of the main paper, by one bench. **Reconstruction:** PSNR, and what judge *b* reads in it (κ).
# **Stored:** bits a picture, as codes or as 32-bit numbers. **Samples:** Fréchet distance to real scenes in judge *b*'s features, at equal n,
# smaller is better: of GLO and the autoencoder from a Gaussian fitted to their vectors, of the VAE from N(0, I), of the dVAE from uniform codes, of
# the prior without a caption. **Swap:** swap score of the augmentation eigenproblem's split of the channels into halves, where there are channels,
# and its ceiling. GLO has no encoder, and fits an eighth of the pictures only.

# %%
embedded = load_vae(device="cpu")
few = pictures[: max(8, len(pictures) // 8)]
vectors = {name: models[name] for name in ("autoencoder_l2", "autoencoder_perceptual")}
codecs = {name: (m.encode, m.decode) for name, m in vectors.items()}
codecs["vae"] = (lambda x: models["vae"].encode(x)[0], models["vae"].decode)
codecs["main paper's VAE"] = (embedded.encode, embedded.decode)

fitted = partial(glo_fitting.refit, models["glo"], n_steps=profile.n_glo_steps)
table = {"glo": bench.reconstruction_row(fitted, scenes[: len(few)], judge, images=few, needs_grad=True)}
table |= {name: bench.reconstruction_row(lambda x, e=e, d=d: d(e(x)), scenes, judge, images=pictures) for name, (e, d) in codecs.items()}
table |= rows

# %%
n_samples = profile.n_prior_samples
truth = bench.judge_features(judge, render(split_scenes("val", 2 * n_samples)).images)
rng = np.random.default_rng(0)
with torch.no_grad():
    z = torch.cat([models["autoencoder_l2"].encode(batch) for batch in pictures.split(32)])
    uniform = torch.from_numpy(rng.integers(0, models["dvae"].config.codebook_size, (n_samples, *codes["dvae"].shape[1:])))
    drawn = {
        "glo": models["glo"].decode(glo_fitting.fit_gaussian(models["glo"].latents).sample(n_samples)),
        "autoencoder_l2": models["autoencoder_l2"].decode(glo_fitting.fit_gaussian(z, radius=float(z.norm(dim=1).max())).sample(n_samples)),
        "vae": vae_models.sample(models["vae"], n_samples),
        "dvae": models["dvae"].decode(uniform),
        "prior": prior.paint_prompts(*draw, [""] * n_samples, range(n_samples), progress=False),
    }
samples = {name: bench.sample_row(images, truth, judge) for name, images in drawn.items()}
print(f"real against other real pictures, {n_samples} each: {next(iter(samples.values())).floor:.0f}")

# %%
n_pairs = profile.n_latent_pictures // 2
fitting = render(split_scenes("train", n_pairs)).images
a, b = scenes[:n_pairs], scenes[n_pairs : 2 * n_pairs]
shapes = {"autoencoder_l2": (64, 128), "autoencoder_perceptual": (64, 128), "vae": (64, 128), "vqvae": (16, 4), "dvae": (16, 16)}
codecs["vqvae"] = (models["vqvae"].encoder, lambda z: models["vqvae"].decode(models["vqvae"].quantizer.nearest(z)))
codecs["dvae"] = (models["dvae"].encoder, lambda z: models["dvae"].decode(models["dvae"].nearest(z)))
splits = {}
for name, (channels, downsampling) in shapes.items():
    if 2 * len(fitting) >= channels:
        splits[name] = channel_split.split_row(channel_split.as_codec(*codecs[name], channels, downsampling, fitting), fitting, a, b, judge)
splits["main paper's VAE"] = channel_split.split_row(embedded, fitting, a, b, judge)

# %%
labels = {"glo": "GLO", "autoencoder_l2": "autoencoder, L2", "autoencoder_perceptual": "autoencoder, perceptual", "vae": "VAE", "vqvae": "VQ-VAE"}
labels |= {"dvae": "dVAE", "prior": "DALL-E prior", "main paper's VAE": "main paper's VAE"}
lines, made = {}, {name: provenance(name, folder) for name in NAMES}
stored = {"vqvae": models["vqvae"].bits(), "dvae": models["dvae"].bits(), "prior": models["dvae"].bits(), "main paper's VAE": 4 * 16 * 16 * 32}
for name, label in labels.items():
    line = {"stored, bits": stored.get(name, 64 * 32)}
    if name in table:
        line |= {"dB": table[name].psnr, "content κ": table[name].semantic_kappa, "style κ": table[name].style_kappa}
    if name in samples:
        line["Fréchet"] = samples[name].frechet
    if name in splits:
        line |= {"swap": splits[name].score, "of": splits[name].ceiling}
    if name in made:
        line |= {"weights": made[name]["n_parameters"] / 1e6, "minutes": made[name]["duration_s"] / 60}
    lines[label] = line
lines["DALL-E prior"]["obeyed"] = obeyed["temperature 1"].mean
forms = dict.fromkeys(["content κ", "style κ", "obeyed", "of"], ".2f") | dict.fromkeys(["stored, bits", "Fréchet"], ",.0f")
print(bench.table(lines, {**forms, "dB": ".1f", "swap": "+.2f", "weights": ".1f", "minutes": ".0f"}))

# %% [markdown]
# ## What the lecture says, and what was seen
#
# | the lecture | here |
# |---|---|
# | GLO "requires optimization to fit new images" | it does, and a fit costs a hundred passes and more; see `07_continuous_latents` |
# | "a lot depends on the loss" | at equal size and steps the perceptual loss keeps what a judge reads and loses decibels |
# | a VQ-VAE turns 128×128 pictures of 24 bits into 32×32 codes of 9 bits | it does, with every code in use |
# | a softmax with Gumbel noise draws from a categorical distribution | it does; a decoder trained down to τ = 1/16 takes hard codes as well |
# | "sampled images can be reranked using CLIP" | see the curve above |
#
# **What the evidence does not show.** One training each, on one synthetic world, minutes long. The dVAE was started as a plain autoencoder whose
# features k-means turned into codes, and its loss looks through judge *a*, trained on labels; DALL-E's did neither. Judge *b* was trained on
# renderings. PSNR of systems that store unlike numbers of bits compare what they are, not how good they could be.

# %% tags=["checks"]
assert all(int(c.min()) >= 0 and int(c.max()) < models[name].config.codebook_size for name, c in codes.items())
assert np.isfinite([o.mean for o in obeyed.values()]).all() and abs(curve[0].gain) < 1e-9
if profile.name == "scenes" and not profile.overridden:
    assert rows["vqvae"].psnr >= 26 and bench.code_use(codes["vqvae"], 512).share_used >= 0.9
    assert torch.allclose(drawn_shares, pi, atol=0.02)
    assert curve[-1].gain_ci95[0] > 0, "reranking should help by more than its interval"
used = {name: bench.code_use(c, models[name].config.codebook_size) for name, c in codes.items()}
record.value("codes", {name: {**plain(use.values()), "psnr": rows[name].psnr} for name, use in used.items()})
record.value("obedience", {name.replace(" ", "_"): plain(o.values()) for name, o in obeyed.items()})
record.value("perfect", plain(perfect.values()))
record.value("reranking", {str(p.n): plain(p.values()) for p in curve})
record.value("reconstruction", {name.replace("main paper's VAE", "embedded"): plain(r.values()) for name, r in table.items()})
record.value("frechet", {name: plain(r.values()) for name, r in samples.items()})
record.value("swap", {name.replace("main paper's VAE", "embedded"): plain(r.values()) for name, r in splits.items()})
record.value("n_pictures", len(scenes))
record.value("n_prompts", len(asked))
record.value("n_pairs", n_pairs)
record.close()
