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
# # 03 · Make it exactly orthogonal
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sketchae/sketchae/blob/main/notebooks/03_qr_finalize.ipynb)
#
# **Question.** The trained W is nearly orthogonal. Which exactly orthogonal matrix takes its place, and does the choice matter?
#
# **Claim.** R is so near to I that the paper's Q (from W = Q R), the nearest orthogonal matrix (the polar factor) and W itself
# are the same for every purpose here.
#
# **In:** the trained weights of `02_train`. **Out:** one saved basis a seed (safetensors and a model card) under
# `build/<profile>/basis`, numbers `qr_finalize.*`. **Cost:** seconds.

# %%
import importlib.util

if importlib.util.find_spec("sketchae") is None:  # on Colab, say
    # %pip install --quiet "sketchae[lab] @ git+https://github.com/sketchae/sketchae"
    pass

# %% tags=["parameters"]
PROFILE: str = "scenes"
TRAIN_SEEDS: list | None = None  # as in 02_train
VAE: str | None = None  # as in 01_preprocess
METHOD: str = "qr"  # "qr" (the paper's), "polar" (the nearest) or "lq" (keeps the semantic plane exactly)

# %%
import torch

from sketchae import OrthogonalBasis, figures, load_profile, load_vae
from sketchae.basis import finalize
from sketchae.latents import open_latents
from sketchae.record import Recorder
from sketchae.training import TrainResult

profile = load_profile(PROFILE, train_seeds=TRAIN_SEEDS, vae=VAE)
record = Recorder("03_qr_finalize", profile)
trained = {seed: TrainResult.load(profile.training_dir / f"seed-{seed}") for seed in profile.train_seeds}
finalized = {seed: finalize(result.weight, result.config.n_semantic) for seed, result in trained.items()}

# %% [markdown]
# ## W = Q R
#
# Signs are fixed by diag(R) > 0, so that the decomposition is unique. R measures what was left to mend.

# %%
first = next(iter(finalized.values()))
alt = "Heat maps of the trained weight W, its orthogonal factor Q and the triangular factor R, which is close to the identity."
record.figure(figures.matrix_heatmap({"W": first.weight, "Q": first.Q, "R": first.R}), "qr", alt=alt)

# %%
print("seed   ‖R − I‖   ‖W − Q‖   ‖W − polar‖   nearer to W   plane tilted by Q, polar")
for seed, f in finalized.items():
    d, tilt = f.distances, f.plane_angles_deg
    print(
        f"{seed:4}   {f.r_error:7.4f}   {d['qr']:7.4f}   {d['polar']:11.4f}   {f.nearer:11}   {tilt['qr']:.2f}°, {tilt['polar']:.2f}°"
    )

# %% [markdown]
# The polar factor is the *nearest* orthogonal matrix by definition; QR treats the first column better than the last. And a
# subtlety: in x = W z the channels are *rows* of W, while QR keeps the spans of its *columns*, so the semantic plane
# tilts by about as much as R differs from I. Here that is a fraction of a degree.
#
# ## Save, load, and lose nothing

# %%
vae = load_vae(profile.vae, profile.vae_revision)
bases = {}
for seed, f in finalized.items():
    facts = {"training seed": seed, "steps": trained[seed].n_steps, "pictures": profile.source, "‖R − I‖": f"{f.r_error:.4f}"}
    basis = f.basis(METHOD, vae=profile.vae, vae_id=vae.id)
    basis.check_vae(vae)
    folder = basis.save(profile.basis_dir / f"seed-{seed}", facts=facts)
    bases[seed] = OrthogonalBasis.from_pretrained(folder)
print(bases[seed])
print(sorted(path.name for path in folder.iterdir()))

# %%
val = open_latents(profile.latents_dir, "val")
z, _ = val.gather(range(min(64, len(val))))
basis = next(iter(bases.values()))
z_semantic, z_style = basis.to_semantic_style(z)
round_trip = (basis.from_semantic_style(z_semantic, z_style) - z).abs().max()
stretch = (basis.encode(z).flatten(1).norm(dim=1) / z.flatten(1).norm(dim=1) - 1).abs().max()
print("round trip and lengths exact to 1e-5:", bool(round_trip < 1e-5 and stretch < 1e-5))
print("‖QᵀQ − I‖ of the saved matrix below 1e-6:", basis.orthogonality_error < 1e-6)

# %% [markdown]
# To share a basis: `basis.push_to_hub("your-name/your-basis")`; anyone loads it with `OrthogonalBasis.from_pretrained(...)`.

# %% tags=["checks"]
record.value("r_error", [f.r_error for f in finalized.values()], digits=4)
record.value("r_error_largest", max(f.r_error for f in finalized.values()), digits=4)
record.value("distance_qr", [f.distances["qr"] for f in finalized.values()], digits=4)
record.value("distance_polar", [f.distances["polar"] for f in finalized.values()], digits=4)
record.value("plane_tilt_deg_largest", max(f.plane_angles_deg["qr"] for f in finalized.values()), digits=2)
record.value("n_polar_nearer", sum(f.nearer == "polar" for f in finalized.values()))
record.value("round_trip_error", f"{round_trip:.0e}")
assert all(f.distances["polar"] <= f.distances["qr"] + 1e-9 for f in finalized.values())
assert round_trip < 1e-5 and stretch < 1e-5 and basis.orthogonality_error < 1e-6
assert all(torch.equal(OrthogonalBasis.from_pretrained(profile.basis_dir / f"seed-{s}").Q, b.Q) for s, b in bases.items())
record.close()
