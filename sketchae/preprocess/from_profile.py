"""Preprocessing as a profile describes it, in this process or in several that were launched together."""

from pathlib import Path

from sketchae.backbones import fast_dtype, load_clip, load_vae
from sketchae.data import open_source
from sketchae.preprocess.report import PreprocessReport
from sketchae.preprocess.run import preprocess
from sketchae.processes import process_state
from sketchae.profiles import Profile


def preprocess_profile(
    profile: Profile, *, out_dir: str | Path | None = None, progress: bool = True
) -> PreprocessReport:
    """Fill `out_dir` (default: `profile.latents_dir`), or return at once what is finished there; see `preprocess`.

    Of several launched processes every one makes its own shards, on its own device, and all return when all is done.
    The networks run in `fast_dtype` of the device; CLIP is not loaded where the source brings its own embeddings.
    """
    state = process_state()
    with state.main_process_first():  # so that a download happens once
        source = open_source(profile)
        options = {"device": state.device, "dtype": fast_dtype(state.device)}
        vae = load_vae(profile.vae, profile.vae_revision, latent_clip=profile.latent_clip, **options)
        clip = None if source.has_embeddings else load_clip(profile.clip, profile.clip_revision, **options)
    state.wait_for_everyone()  # else the first one is far ahead, with small data done, before the others have loaded theirs
    return preprocess(
        source,
        vae,
        clip,
        out_dir or profile.latents_dir,
        image_size=profile.image_size,
        shard_size=profile.shard_size,
        batch_size=profile.preprocess_batch_size,
        n_captions=profile.n_captions,
        progress=progress,
        process_index=state.process_index,
        n_processes=state.num_processes,
    )
