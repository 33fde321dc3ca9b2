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
# # 01 · From pictures and captions to latents and embeddings
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sketchae/sketchae/blob/main/notebooks/01_preprocess.ipynb)
#
# **Question.** What does the training of Q need to see? Neither pictures nor networks: only, for every picture, the VAE's
# latents `z`, CLIP's embedding of the picture `clip_img`, and CLIP's embeddings of all its captions `clip_txt`.
#
# **In:** a source of pictures with captions and the two frozen networks, as the profile names them.
# **Out:** a `datasets` dataset in float16 under `build/<profile>/latents`, and the numbers `preprocess.*`.
# **Cost:** about a minute on two CPU cores for 10,240 scenes; MS-COCO with the paper's backbones takes hours on a CPU and
# minutes on a GPU. Interrupted at any moment, the next run continues.

# %%
import importlib.util

if importlib.util.find_spec("sketchae") is None:  # on Colab, say
    # %pip install --quiet "sketchae[lab] @ git+https://github.com/sketchae/sketchae"
    pass

# %% [markdown]
# `None` means "as the profile says". For pictures of your own: `SOURCE = "folder"` and `DATASET` a folder with a
# `metadata.jsonl` of `file_name` and captions; `VAE` and `CLIP` take a folder or a hub id. If your data already has columns
# `clip_img` and `clip_txt`, CLIP is not loaded.

# %% tags=["parameters"]
PROFILE: str = "scenes"
SOURCE: str | None = None  # "scenes", "hub" or "folder"
DATASET: str | None = None  # hub id or folder
VAE: str | None = None  # "embedded", a folder, or a hub id such as "madebyollin/taesdxl"
CLIP: str | None = None  # "embedded", a folder, or a hub id
N_TRAIN: int | None = None
N_VAL: int | None = None
N_TEST: int | None = None
TEST_SEED: int | None = None  # another seed: test scenes that nobody has seen
DEPENDENCE: float | None = None  # between an object and its palette, 0 to 1

# %%
import numpy as np
import torch

from sketchae import figures, load_profile, load_vae
from sketchae.latents import open_latents
from sketchae.preprocess import preprocess_profile
from sketchae.record import Recorder

overrides = dict(source=SOURCE, dataset=DATASET, vae=VAE, clip=CLIP, n_train=N_TRAIN, n_val=N_VAL, n_test=N_TEST)
profile = load_profile(PROFILE, **overrides, test_seed=TEST_SEED, dependence=DEPENDENCE)
record = Recorder("01_preprocess", profile)

# %% [markdown]
# ## Encode
#
# The author's recipe took one picture at a time. Here pictures go through in batches, captions are padded to the longest of
# their batch only, and what is done is written shard by shard, each whole or not at all. From a terminal the same step runs
# on several processes, GPUs or machines, each taking its own shards:
# `torchrun --nproc_per_node 2 -m sketchae.preprocess --profile coco`.

# %%
report = preprocess_profile(profile)
for split, n_rows in report.n_rows.items():
    print(f"{split:5}  {n_rows:6,} pictures")
print(f"skipped: {len(report.skipped)}")
print(f"latents beyond the clip at ±{profile.latent_clip}: {report.clipped_share or 0:.3%}")

# %% [markdown]
# ## What one row holds

# %%
tables = {split: open_latents(profile.latents_dir, split) for split in report.n_rows}
train = tables["train"]
print("z       ", tuple(train.latent_shape), train.z.dtype)
print("clip_img", (train.embed_dim,), train.clip_img.dtype)
print("captions of the first picture:")
print("\n".join(f"  {caption}" for caption in train.captions(0)))

# %%
vae = load_vae(profile.vae, profile.vae_revision)
z, clip_img = train.gather(np.arange(4))
decoded = vae.decode(z.to(vae.device)).cpu()
panels = {f"picture {i}": z[i] for i in range(3)}
alt = "Three pictures decoded from stored latents, each beside its four latent channels as 16 by 16 maps."
record.figure(figures.channel_panels(panels, pictures={f"picture {i}": decoded[i] for i in range(3)}), "latents", alt=alt)

# %% [markdown]
# ## The two targets
#
# A caption says what is in the picture, so its embedding is the *semantic* target; what the picture's embedding holds beyond
# it, `clip_img - clip_txt`, is the *style* target. If captions really name content only, a picture should be nearer to its own
# caption than to another's, but not much nearer than style leaves room for.

# %%
rows = np.arange(min(512, len(train)))
_, clip_img = train.gather(rows)
clip_txt = train.gather_captions(rows, which=0)
own = (clip_img * clip_txt).sum(1)
other = (clip_img * clip_txt.roll(1, 0)).sum(1)
residue = (clip_img - clip_txt).norm(dim=1)
print(f"cosine with the own caption {own.mean():.2f}, with another picture's {other.mean():.2f}")
print(f"length of the style target {residue.mean():.2f} (1.41 if caption and picture had nothing in common)")

# %% tags=["checks"]
record.value("n_train", len(train))
record.value("n_val", len(tables["val"]))
record.value("n_test", len(tables["test"]))
record.value("n_skipped", len(report.skipped))
record.value("clipped_share", report.clipped_share, digits=5)
record.value("cosine_own_caption", own.mean())
record.value("cosine_other_caption", other.mean())
record.value("style_target_length", residue.mean())
record.value("vae_id", report.configuration["vae"]["id"] if isinstance(report.configuration.get("vae"), dict) else None)
assert torch.isfinite(z).all() and all(len(table) for table in tables.values())
assert abs(float(clip_txt.norm(dim=1).mean()) - 1) < 1e-2
if PROFILE == "scenes":
    assert report.n_rows == {"train": profile.n_train, "val": profile.n_val, "test": profile.n_test} and not report.skipped
    assert own.mean() > other.mean() + 0.1
record.close()
