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
# # 05 · Is the split real?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sketchae/sketchae/blob/main/notebooks/05_is_the_split_real.ipynb)
#
# **Question.** Does the paper's recipe find a better plane than chance, than simpler ways, than the best there is? And is there a
# better way to find one?
#
# **In:** the bases of `03_qr_finalize`, the latents of `01_preprocess`, the stored sweeps (random planes, the recipe's choices). **Out:** every split
# judged alike on the test scenes; where each stands between chance and the optimum; what can be read from each block; which measures can be
# trusted where no factor is known; figures and numbers `is_the_split_real.*`.
# **Cost:** about 7½ minutes on two CPU cores.

# %%
import importlib.util

if importlib.util.find_spec("sketchae") is None:  # on Colab, say
    # %pip install --quiet "sketchae[lab] @ git+https://github.com/sketchae/sketchae"
    pass

# %% tags=["parameters"]
PROFILE: str = "scenes"
TRAIN_SEEDS: list | None = None  # as in 02_train
SOURCE: str | None = None  # this and the next five as in 01_preprocess
DATASET: str | None = None
VAE: str | None = None
CLIP: str | None = None
TEST_SEED: int | None = None
DEPENDENCE: float | None = None
N_FIT_PICTURES: int | None = None  # training pictures that the eigenproblem and the effect objective look at
N_EFFECT_STEPS: int | None = None
N_HEADLINE_PAIRS: int | None = None  # at most as many as there are test scenes
N_RIVAL_PAIRS: int | None = None  # for the raw pairs, PCA and the like
N_LERP_PAIRS: int | None = None  # for the curves over alpha, eleven pictures a pair
N_PROXY_BASES: int | None = None

# %%
import numpy as np
from IPython.display import display

from sketchae import ablation, evidence, figures, load_clip, load_profile, load_vae, other_codecs, rivals, sweeps
from sketchae.basis import OrthogonalBasis, random_basis
from sketchae.basis.grassmann import covering_radius, haar_planes
from sketchae.latents import open_latents
from sketchae.metrics.agreement import proxy_agreement
from sketchae.metrics.comparison import held_out_bench
from sketchae.metrics.lerps import lerp_curves, pair_scores, ranked_pairs
from sketchae.metrics.probes import leakage
from sketchae.record import Recorder

choices = dict(train_seeds=TRAIN_SEEDS, source=SOURCE, dataset=DATASET, vae=VAE, clip=CLIP)
counts = dict(n_fit_pictures=N_FIT_PICTURES, n_effect_steps=N_EFFECT_STEPS, n_headline_pairs=N_HEADLINE_PAIRS)
counts |= dict(n_rival_pairs=N_RIVAL_PAIRS, n_lerp_pairs=N_LERP_PAIRS, n_proxy_bases=N_PROXY_BASES, test_seed=TEST_SEED, dependence=DEPENDENCE)
profile = load_profile(PROFILE, **choices, **counts)
record = Recorder("05_is_the_split_real", profile)
vae, clip = load_vae(profile.vae, profile.vae_revision), load_clip(profile.clip, profile.clip_revision)
trained = {seed: OrthogonalBasis.load(profile.basis_dir / f"seed-{seed}") for seed in profile.train_seeds}
train, test = (open_latents(profile.latents_dir, split) for split in ("train", "test"))
k = trained[profile.train_seeds[0]].n_semantic

# %% [markdown]
# ## Rivals, given the same care
#
# None of them sees a factor, a style word or a judge.
#
# - **Augmentation eigenproblem.** Change the colours of a picture, then move its content; take the latent directions that the second
#   moves most and the first least. One small eigenproblem, no training, no captions.
# - **Effect objective.** Decode the swap and let CLIP look at it: it should have gone to one picture's captions in content and to the
#   other's embedding in what captions do not span. Gradient ascent through the decoder, from the eigenproblem's plane; three draws of
#   batches; and, to see whether the start matters, two random ones.
# - **Targets, closed form.** The paper's two targets, read linearly: one eigenproblem of what each latent direction foretells of them.
# - **PCA**, with the large or the small components as the semantic ones, and the VAE's own channels.

# %%
images = evidence.training_pictures(profile, vae, train)
found = rivals.make_rivals(vae, clip, images, train, k, n_steps=profile.n_effect_steps)
print("eigenvalues of S − C:", found.augmentation.eigenvalues.round(3))
for seed, run in found.effect.items():
    print(f"effect objective from the eigenproblem, seed {seed}: {run.before[0]:+.3f} -> {run.objective[0]:+.3f}")
for start, before, after in zip((0, 1), found.from_random.before, found.from_random.objective):
    print(f"effect objective from random basis {start}:           {before:+.3f} -> {after:+.3f}")

# %% [markdown]
# ## The scores, on test scenes
#
# As in `04_evaluate`: judge *b*, pairs of test scenes, 95 % intervals over pairs. Of the seeds of the recipe, and of the effect
# objective, the one with the median score is the headline. The best plane found is not a rival but a yardstick: it was
# searched with the factors as labels (on validation scenes, by judge *a*).

# %%
bench = held_out_bench(profile, vae, test, profile.n_headline_pairs)
scores = {}
if bench:
    ends = {seed: run.basis for seed, run in found.effect.items()}
    seeds = {rivals.RECIPE: rivals.score_all(bench, trained), rivals.EFFECT: rivals.score_all(bench, ends)}
    median, effect = (rivals.median_name(of_seed) for of_seed in seeds.values())
    haar = sweeps.find_haar(vae)
    optimum = {rivals.OPTIMUM: sweeps.optimum_basis(vae)} if haar else {}
    headline = {rivals.AUGMENTATION: found.bases[rivals.AUGMENTATION], **optimum}
    scores = {rivals.RECIPE: seeds[rivals.RECIPE][median], rivals.EFFECT: seeds[rivals.EFFECT][effect], **rivals.score_all(bench, headline)}
    others = {**{n: b for n, b in found.bases.items() if n not in scores}, **rivals.raw_pairs(vae.latent_channels, k)}
    n_rivals = min(profile.n_rival_pairs, bench.n_pairs)
    scores |= rivals.score_all(bench, others, n_pairs=n_rivals)
    scores |= {f"{which} unchanged": bench.score_unchanged(which, n_pairs=n_rivals) for which in ("a", "b")}
    print(evidence.table(scores, bench.ceiling))

# %%
if bench:
    metrics = {"score": "swap score", "counterfactual_mse": "counterfactual, pixels", "counterfactual_ssim": "counterfactual, SSIM"}
    points = {name: {key: [s[key] for s in of_seed.values()] for key in metrics} for name, of_seed in seeds.items()}
    null = {key: haar["columns"][key] for key in metrics} if haar else None
    dots = figures.score_dots(scores, metrics=metrics, null=null, points=points, ceiling={"score": bench.ceiling["score"]})
    alt = "Swap and counterfactual scores of the recipe, the eigenproblem, the effect objective, the best plane found, and simpler splits."
    display(record.figure(dots, "scores", alt=alt))

# %% [markdown]
# ### What each split does to the same pictures

# %%
first = profile.train_seeds[0]
shown = {rivals.RECIPE: trained[median if bench else first], rivals.AUGMENTATION: found.bases[rivals.AUGMENTATION]}
shown |= {rivals.EFFECT: found.effect[effect if bench else 0].basis, **(optimum if bench else {})}
grid = evidence.swap_pictures(profile, vae, shown, n_pairs=5)
alt = "Five pairs of pictures, and for each split the picture with the content of the first and the style of the second."
record.figure(figures.image_grid(grid.rows, row_labels=grid.labels, width_in=5.5), "swaps", alt=alt)

# %% [markdown]
# ### The best, a median and the worst pair
#
# Of the effect objective, pair by pair; few pictures fail in the same way.

# %%
if bench:
    best_first = ranked_pairs(pair_scores(bench, shown[rivals.EFFECT], min(profile.n_rival_pairs, bench.n_pairs)))
    print("pairs:", best_first)
    grid = evidence.pair_pictures(bench, shown, best_first)
    alt = "The best, the median and the worst pair of the effect objective: both pictures, the swap by every split, and the perfect swap."
    record.figure(figures.image_grid(grid.rows, row_labels=grid.labels, column_labels=list(best_first), width_in=4), "ranked", alt=alt)

# %% [markdown]
# ### Halfway: lerps over alpha
#
# The paper moves one block by 0.9 and shows a picture. Here a judge reads on the way what follows b: it should be the moved block's factors
# (solid) and no others (dashed). The area between the two is the edit's selectivity: 0 without preference, about 0.5 if all turn half-way.

# %%
if bench:
    n_lerps = min(profile.n_lerp_pairs, bench.n_pairs)
    lerps = {name: lerp_curves(bench, basis, n_pairs=n_lerps) for name, basis in shown.items() if name != rivals.AUGMENTATION}
    for name, curves in lerps.items():
        print(f"{name:30} selectivity {curves.selectivity:+.2f} [{curves.selectivity_ci95[0]:+.2f}, {curves.selectivity_ci95[1]:+.2f}]")
    record.value("lerps", {evidence.key(name): curves.values() for name, curves in lerps.items()})
    alt = "Share of differing factors that show b while one block moves from a to b: the moved block's own, and the other's."
    display(record.figure(figures.lerp_curves(lerps), "lerps", alt=alt))

# %% [markdown]
# ## Where they stand: chance, optimum, and what the paper's loss knows
#
# Two blocks of two channels are a point of Gr(2, 4), of which rotations inside a block change nothing. A stored sweep
# (`python -m sketchae.sweeps`) scored a thousand evenly drawn planes on one fixed set of pairs of validation scenes; the splits above are
# scored on the same pairs here. Beside it the paper's loss, its embedders replaced by the best linear readers, which costs next to nothing.

# %%
if bench and haar:
    validation = sweeps.validation_bench(vae)
    loss = rivals.paper_loss(train)
    planes = [random_basis(vae.latent_channels, k, seed) for seed in range(len(haar["rows"]))]
    losses = np.array([loss(basis.Q.double().numpy(), k) for basis in planes])
    rows = {name: (validation.score(basis)["score"], loss(basis.Q.double().numpy(), k)) for name, basis in shown.items()}
    null, best = haar["columns"]["score"], rows[rivals.OPTIMUM][0]
    stands = {name: rivals.standing(score, null, best) for name, (score, _) in rows.items()}
    for name, s in stands.items():
        print(f"{name:30} swap {rows[name][0]:+.2f}   p {s['p_value']:.3f}   {s['share_of_optimum']:4.0%} of the way to the best plane found")
    knows = proxy_agreement(null, {"loss": -losses})["loss"]
    print(f"rank correlation of the paper's loss (less is better) with the swap score: {knows['spearman']:+.2f}")
    radius = covering_radius(haar_planes(len(planes), vae.latent_channels, k), n_probes=300)
    print(f"covering radius of these planes: {radius:.0f}° in the largest principal angle")

# %%
if bench and haar:
    landscape = figures.plane_landscape(null, losses, rows)
    alt = "The distribution of the swap score over random planes, and the score against the paper's loss; the splits are marked in both."
    display(record.figure(landscape, "landscape", alt=alt))

# %% [markdown]
# ### Many channels
#
# Of 32 channels no covering is affordable, but the same ways to fit a split work, and so do the searches with labels. Here on a linear codec
# (the 32 leading principal components of patches, `sketchae.backbones.patches`), split into halves: stored rows, pairs of validation scenes.

# %%
wide = other_codecs.find_wide(clip) if bench else None
if wide:
    print(*evidence.codec_table(wide["rows"]), sep="\n")
    record.value("wide", evidence.codec_values(wide["rows"]))

# %% [markdown]
# ### Another VAE
#
# Trained as the first, but from another seed and for fewer steps. Is there a plane in its latents that swaps well, and do the ways to fit one find
# it? Stored rows again: random planes, the fitted splits, and the searches with labels, from the eigenproblem's plane and from the best random one.

# %%
second = other_codecs.find_second(clip) if bench else None
if second:
    print(*evidence.codec_table(second["rows"]), sep="\n")
    record.value("second", evidence.codec_values(second["rows"]))

# %% [markdown]
# ## Is it always the same plane?

# %%
angles = evidence.plane_angles([*trained.values()], k)
print(f"recipe, {len(trained)} seeds: planes {np.median(angles):.0f}° apart (median of the largest principal angles)")
effect_angles = evidence.plane_angles([run.basis for run in found.effect.values()], k)
print(f"effect objective, {len(found.effect)} draws of batches: {np.median(effect_angles):.0f}°")
halves = evidence.half_angle(vae, images, k)
print(f"eigenproblem, two halves of the pictures: {halves:.0f}°")

# %% [markdown]
# ## Do the recipe's choices matter?
#
# Stored rows (`python -m sketchae.ablation`): each choice trained from five starts or more, the recipe itself from ten; planes scored on
# one fixed set of pairs of validation scenes. *Apart* is the median angle between the planes of two seeds; *from the recipe*, the angle to the
# recipe's plane of the same seed, which had the same start; *from the penalty alone*, to the plane which the orthogonality term reaches without
# any data.
# Another VAE and CLIP were trained as those that ship, from another seed.

# %%
ablated = ablation.find_ablation(vae, clip, profile)
if ablated:
    print(ablated)
    record.value("ablation", ablated.values())
    for one, other in ablation.SAME_BUT_BACKBONES:
        print(f"correlation over factors of what they move, {one} / {other}: {ablated.factor_correlation(one, other):+.2f}")

# %%
if ablated:
    panels = {"score": "swap score", "apart_deg": "between seeds, degrees", "from_penalty_deg": "from the penalty alone, degrees"}
    bands = {"score": np.quantile(null, [0.025, 0.975])} if bench and haar else None
    limits = {"apart_deg": (0, 92), "from_penalty_deg": (0, 92)}
    dots = figures.choice_dots(ablated.panels(), panels, bands=bands, limits=limits, emphasis=(ablation.RECIPE,))
    alt = "Every choice of the recipe: the swap score of each seed, the angles between seeds' planes, and the angle to the penalty's own plane."
    display(record.figure(dots, "choices", alt=alt))

# %% [markdown]
# ## What can be read is not what it does
#
# A probe reads each factor from the semantic block, the style block, both, and a shuffled copy: 0 is chance, 1 perfect. If a factor can be
# read from both blocks, no reader can say in which of them it lives.

# %%
if bench:
    labels = evidence.factors(profile)
    n_train = min(4096, len(train))
    data = train.gather(range(n_train))[0], labels.train(n_train), test.gather(range(len(test)))[0], labels.test(len(test))
    read = {name: leakage(shown[name], *data) for name in (rivals.RECIPE, rivals.AUGMENTATION)}
    convolutional = leakage(shown[rivals.RECIPE], *data, probe="conv")
    panels = {f"{name}\nlinear": matrix for name, matrix in read.items()} | {f"{rivals.RECIPE}\nconvolutional": convolutional}
    alt = "How well each factor can be read from each block of channels, by a linear and by a convolutional probe."
    display(record.figure(figures.leakage_heatmap(panels), "leakage", alt=alt))

# %% [markdown]
# ### The strongest linear removal
#
# LEACE removes from the latents, by the smallest affine change, everything that a linear probe could use to tell a factor. If information
# were effect, the factor would vanish from the decoded picture.

# %%
if bench:
    removed = evidence.erase(vae, "palette", *data, n_pictures=128)
    print(removed)

# %% [markdown]
# ## Disentanglement metrics
#
# The field's own, on the spatial means of the channels (four numbers a picture), for z and for x = Qz.

# %%
if bench:
    tables = evidence.disentanglement(shown, *data)
    print(evidence.metric_table(tables))

# %% [markdown]
# ## Where no factor is known
#
# On photographs only proxies can be measured: does the swap's CLIP embedding go to the caption of a and to the style residue of b, do its
# colours go to b and its edges to a? Here is how well each follows the swap score over random planes, so that only those that
# do are quoted.

# %%
proxies = evidence.proxy_scores(profile, vae, clip, shown, n_bases=profile.n_proxy_bases)
if bench and haar:
    agreement = proxy_agreement(proxies.matched(null), proxies.columns)
    for name, a in agreement.items():
        print(f"{name:22} Spearman {a['spearman']:+.2f}  [{a['ci95'][0]:+.2f}, {a['ci95'][1]:+.2f}]")
    scatter = figures.proxy_scatter(proxies.matched(null), proxies.columns, agreement=agreement)
    alt = "Each proxy against the swap score over random planes, with their rank correlation."
    display(record.figure(scatter, "proxies", alt=alt))
print(proxies)

# %% [markdown]
# ## What the evidence does and does not show
#
# The numbers say how splits of *this* VAE's channels act on Scenes. They do not say that a larger VAE, with more channels, splits no better;
# `sketchae fit` lets you try yours. The optimum is the best plane that a search found, not a proof that there is none above it. The
# search, the null and the stored rows use validation scenes; the scores above them were taken on test scenes.

# %% tags=["checks"]
record.value("n_pictures", len(images))
record.value("augmentation.eigenvalues", found.augmentation.eigenvalues)
objectives = [run.objective[0] for run in found.effect.values()]
record.value("effect", {"objective": objectives, "objective_from_random": found.from_random.objective})
record.value("angle", dict(recipe_deg=np.median(angles), effect_deg=np.median(effect_angles), eigenproblem_deg=halves), digits=1)
if bench:
    for name, value in evidence.values(scores, seeds, bench).items():
        record.value(name, value)
    for name, matrix in {**read, "convolutional": convolutional}.items():
        record.value(f"leakage.{evidence.key(name)}", evidence.leakage_means(matrix))
    record.value("removed", removed.values())
    record.value("disentanglement", {evidence.key(name): row for name, row in tables.items()})
    assert scores["a unchanged"]["semantic"] > 0.5 and scores["a unchanged"]["style"] < -0.5
    assert max(abs(value) for value in read[rivals.RECIPE].score[:, -1]) < 0.3  # a shuffled block tells nothing
if bench and haar:
    record.value("covering_radius_deg", radius, digits=1)
    record.value("n_planes", len(planes))
    record.value("null", {"mean": null.mean(), "std": null.std(), "max": null.max()})
    record.value("standing", {evidence.key(name): {"swap_score": rows[name][0], **s} for name, s in stands.items()})
    record.value("loss_agreement", knows["spearman"])
    record.value("proxy_agreement", {name: a["spearman"] for name, a in agreement.items()})
if PROFILE == "scenes" and not profile.overridden:
    # Swapping the two blocks' roles turns the score round, so that chance is 0; and the search found something.
    assert abs(null.mean()) < 0.05 and rows[rivals.OPTIMUM][0] > np.quantile(null, 0.99)
record.close()
