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
# # 00 · The embedded backbones
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sketchae/sketchae/blob/main/notebooks/00_backbones.ipynb)
#
# **Question.** Can the world and the frozen networks that everything else stands on be trusted?
#
# **Claim.** *Scenes* are pictures whose every factor is known and readable; a small VAE carries them through four latent
# channels, and a small CLIP has learned from captions what is in them and how they are painted.
#
# **In:** nothing (pictures are drawn, networks ship with the package). **Out:** the figures and numbers `backbones.*`.
# **Cost:** about half a minute on two CPU cores. `RETRAIN = True` trains all four networks anew, about two hours on two cores.

# %%
import importlib.util

if importlib.util.find_spec("sketchae") is None:  # on Colab, say
    # %pip install --quiet "sketchae[lab] @ git+https://github.com/sketchae/sketchae"
    pass

# %% tags=["parameters"]
PROFILE: str = "scenes"
RETRAIN: bool = False  # train the four networks from scratch (resumes where it stopped)
N_IMAGES: int | None = None  # held-out scenes to measure on; None: as the profile's validation split, or 1,024

# %%
import torch

from sketchae import figures, load_clip, load_profile, load_vae
from sketchae.backbone_training.ship import train_backbones
from sketchae.metrics import backbones as measure
from sketchae.metrics.latent_stats import channel_statistics
from sketchae.record import Recorder
from sketchae.scenes import FACTORS, SEMANTIC_FACTORS, STYLE_FACTORS, captions, counterfactual, render, split_scenes
from sketchae.scenes.judges import ASSETS, load_judge

profile = load_profile(PROFILE)
record = Recorder("00_backbones", profile)
folder = train_backbones(profile.work_dir / "backbones") if RETRAIN else ASSETS
vae, clip = load_vae(folder / "vae"), load_clip(folder / "clip")
judges = {name: load_judge(name, folder / f"judge_{name}") for name in ("a", "b")}

# %% [markdown]
# ## A world with known factors
#
# A scene is a handful of discrete choices. *Semantic* factors say what is where, *style* factors say how it is painted;
# what varies without a name is jitter. Factors are independent, and an object's colour comes from the palette alone.

# %%
for kind, names in (("semantic", SEMANTIC_FACTORS), ("style", STYLE_FACTORS)):
    for name in names:
        print(f"{kind:8}  {name:9}  {', '.join(FACTORS[name].values)}")

# %%
scenes = split_scenes("val", N_IMAGES or profile.n_val or 1024)
drawn = render(scenes)
shown = [[drawn.images[8 * row + column] for column in range(8)] for row in range(3)]
alt = "Twenty-four small pictures: trees, houses, balloons and boats in fields, at sea and before hills, in many media."
record.figure(figures.image_grid(shown), "scenes", alt=alt)

# %% [markdown]
# Each scene comes with captions that a person might write: of its content only (as MS-COCO's are), of its style only, of both.

# %%
for kind in ("content", "style", "both"):
    print(f"{kind:8} {captions(scenes[:1], kind, 2)[0]}")

# %% [markdown]
# And the question that no photograph can answer: what *should* the picture show, had the content of one scene been
# painted in the style of another? Content jitter and style jitter have seeds of their own, so it can be drawn exactly.

# %%
content, style = scenes[[0, 9, 18, 27]], scenes[[3, 12, 21, 30]]
rows = [render(content).images, render(style).images, render(counterfactual(content, style)).images]
alt = "Three rows of pictures: content, style, and the exact counterfactual with the first row's content and the second's style."
record.figure(figures.image_grid(rows, row_labels=["content of", "style of", "counterfactual"], width_in=4.5), "counterfactual", alt=alt)

# %% [markdown]
# ## The judges read every factor
#
# Two networks of different architecture, trained apart on scenes of their own. *b* reports headlines and is never used to
# train or to choose anything.

# %%
z, reconstructed = measure.reconstruct(vae, drawn.images)
accuracy = {
    f"judge {name}, {what}": measure.reading_accuracy(judge, images, scenes)
    for name, judge in judges.items()
    for what, images in (("originals", drawn.images), ("reconstructions", reconstructed))
}
for label, values in accuracy.items():
    mean = sum(values.values()) / len(values)
    print(f"{label:25} mean {mean:.2f}   " + "  ".join(f"{name} {value:.2f}" for name, value in values.items()))

# %%
heat = figures.heat_grid(
    [[values[name] for name in FACTORS] for values in accuracy.values()], list(accuracy), list(FACTORS), label="accuracy"
)
record.figure(heat, "judges", alt="Accuracy of both judges for every factor, on original pictures and on the VAE's reconstructions.")

# %% [markdown]
# ## The codec
#
# diffusers' `AutoencoderTiny`: 128×128 pictures become 4×16×16 latents, a 48-fold reduction. What it loses bounds
# everything that follows, so the later scores are always shown beside this ceiling.

# %%
psnr = measure.psnr_db(drawn.images, reconstructed)
print(f"PSNR {psnr.mean():.1f} dB (mean over {len(psnr)} scenes; worst {psnr.min():.1f}, best {psnr.max():.1f})")
pick = torch.cat([psnr.argsort()[:2], psnr.argsort()[len(psnr) // 2 - 2 : len(psnr) // 2 + 2], psnr.argsort()[-2:]])
alt = "Original scenes above their reconstructions; the two worst, four typical and the two best, from left to right."
labels = ["original", "reconstruction"]
record.figure(figures.image_grid([drawn.images[pick], reconstructed[pick]], row_labels=labels), "reconstructions", alt=alt)

# %% [markdown]
# Are the latents N(0, I), as the paper's argument for an *orthogonal* basis assumes? Their scale was trained to be one;
# nothing asked the channels to be uncorrelated.

# %%
statistics = channel_statistics(z.split(64))
print("mean       ", " ".join(f"{x:+.2f}" for x in statistics.mean))
print("std        ", " ".join(f"{x:.2f}" for x in statistics.std))
print("eigenvalues", " ".join(f"{x:.2f}" for x in statistics.eigenvalues), " (all 1 for N(0, I))")
record.figure(
    figures.matrix_heatmap({"covariance": statistics.covariance, "correlation": statistics.correlation}, limit=1.0),
    "covariance",
    alt="Covariance and correlation of the four latent channels.",
)

# %% [markdown]
# ## CLIP
#
# transformers' `CLIPModel`, from scratch. Recall: a caption naming at least four semantic factors must find, among 256
# scenes, one that it fits. Zero-shot: the nearest of the prompts for a factor's values.

# %%
image_embeds = torch.cat([clip.embed_images(batch) for batch in drawn.images.split(64)])
recall = measure.caption_recall(clip, image_embeds, scenes, n_gallery=min(256, len(scenes)))
print("recall@1 {recall_at_1:.2f}   recall@5 {recall_at_5:.2f}   chance@1 {chance:.3f}".format(**recall))
zero_shot = measure.zero_shot_accuracy(clip, image_embeds, scenes)
chance = {name: 1 / len(factor.values) for name, factor in FACTORS.items()}
known = {name: (value - chance[name]) / (1 - chance[name]) for name, value in zero_shot.items()}
least = min(known, key=known.get)
for name, value in zero_shot.items():
    print(f"zero-shot {name:9} {value:.2f}   chance {chance[name]:.2f}")
print(f"least known, from 0 (chance) to 1 (perfect): {least}, {known[least]:.2f}")

# %%
rows = {name: {"accuracy": value} for name, value in zero_shot.items()}
record.figure(
    figures.score_dots(rows, metrics={"accuracy": "zero-shot accuracy"}, points={n: {"accuracy": [chance[n]]} for n in rows}, emphasis=False),
    "zero_shot",
    alt="Zero-shot accuracy of CLIP for each factor, with chance as a small mark.",
)

# %% [markdown]
# ## What must hold
#
# The frozen pair is fit for use where the judges read the originals almost perfectly, the codec lets them read most of it,
# and CLIP knows content and not style alone.

# %% tags=["checks"]
originals = [accuracy[f"judge {name}, originals"] for name in judges]
recon_mean = {n: sum(accuracy[f"judge {n}, reconstructions"].values()) / len(FACTORS) for n in judges}
for name in judges:
    record.value(f"judge_{name}.originals", accuracy[f"judge {name}, originals"])
    record.value(f"judge_{name}.reconstructions", accuracy[f"judge {name}, reconstructions"])
    record.value(f"judge_{name}.reconstructions_mean", recon_mean[name])
record.value("least_judge_accuracy", min(min(values.values()) for values in originals))
record.value("n_images", len(scenes))
record.value("psnr_db", psnr.mean(), digits=2)
record.value("latent_std", statistics.std)
record.value("latent_eigenvalues", statistics.eigenvalues)
record.value("clip", recall)
record.value("zero_shot", zero_shot)
record.value("least_known", {"factor": least, "zero_shot": zero_shot[least], "chance": chance[least]})
assert z.shape[1:] == (4, 16, 16) and torch.isfinite(z).all()
if PROFILE == "scenes":
    assert min(min(values.values()) for values in originals) >= 0.97
    assert psnr.mean() >= 24 and min(recon_mean.values()) >= 0.85
    assert recall["recall_at_1"] >= 0.4 and min(known.values()) > 0.3  # every factor well above chance
record.close()
