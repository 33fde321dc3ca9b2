"""Train the diffusion model: precompute latents once, then rectified flow with a noise level for each block."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from sketchae.atomic import atomic_path
from sketchae.backbone_training.loop import LoopConfig, fit
from sketchae.backbone_training.pool import ImagePool, batch_rows
from sketchae.backbones import ClipEmbedder, LatentCodec, backbone_id
from sketchae.basis.orthogonal import OrthogonalBasis
from sketchae.diffusion.conditioning import embed_prompts
from sketchae.diffusion.levels import LEVELS, add_noise, block_losses, draw_levels, per_channel
from sketchae.diffusion.network import SketchDiffusion, build_unet
from sketchae.errors import BadInputError
from sketchae.progress import hide_if
from sketchae.scenes import SCENES_VERSION

_ENCODE_BATCH = 64


@dataclass(frozen=True)
class DiffusionConfig(LoopConfig):
    """A training's choices: those of the loop (`n_steps`, `lr`, `seed` …) and

    Attributes:
        levels: "two", a noise level for each block, or "one", the same for all channels.
        batch_size: pictures a step.
        drop_prompt: share of examples that see the empty prompt, for classifier-free guidance (Ho & Salimans 2022).
        uniform_share, equal_share, noise_share, clean_share: of the noise levels, see `sketchae.diffusion.levels.draw_levels`.
        data: set by `train_diffusion`, a hash of all that is trained on, so that a training resumes on its own data only.
    """

    lr: float | int = 1e-3
    levels: str = "two"
    batch_size: int = 32
    drop_prompt: float | int = 0.1
    uniform_share: float | int = 0.2
    equal_share: float | int = 0.2
    noise_share: float | int = 0.2
    clean_share: float | int = 0.2
    data: str = ""

    def __post_init__(self):
        if self.levels not in LEVELS:
            raise BadInputError(f'levels is {self.levels!r}: choose "two" or "one".')
        shares = (self.equal_share, self.noise_share, self.clean_share)
        if not all(0 <= share <= 1 for share in (*shares, self.uniform_share, self.drop_prompt)) or sum(shares) > 1 + 1e-9:
            raise BadInputError(f"Shares lie between 0 and 1, and those of equal, noise and clean levels {shares} sum to 1 at most.")
        if self.n_steps < 1 or self.batch_size < 1:
            raise BadInputError(f"{self.n_steps} steps of {self.batch_size} pictures: give at least one of each.")


def open_pool(folder: Path, n: int, split: str = "backbones") -> ImagePool:
    """The smallest pool in `folder` that begins with the first `n` scenes of a split; drawn if there is none."""
    prefix = f"scenes-v{SCENES_VERSION}-{split}-"
    sizes = [file.stem.removeprefix(prefix) for file in Path(folder).glob(f"{prefix}*.npy")]
    return ImagePool(Path(folder), split, min((int(size) for size in sizes if size.isdigit() and int(size) >= n), default=n))


def encode_pool(
    codec: LatentCodec, pool: ImagePool, n: int | None = None, folder: Path | None = None, progress: bool = True
) -> Float[Tensor, "n channels height width"]:
    """Scaled latents z of the first `n` pictures of a pool (all where not given), float32 with float16's precision.

    With `folder` they are kept there, whole or not at all, in a file named by the codec's id and the scenes: latents of another codec
    are another file. They are kept before any basis is applied, so that trainings with other bases share them.

    Raises:
        BadInputError: more pictures than the pool has.
    """
    n = len(pool) if n is None else n
    if not 0 < n <= len(pool):
        raise BadInputError(f"{n} latents of a pool of {len(pool)} pictures: give between 1 and {len(pool)}.")
    file = None if folder is None else Path(folder) / f"latents-{backbone_id(codec)}-{pool.file.stem.rsplit('-', 1)[0]}-{n}.npy"
    if file is not None and file.exists():
        return torch.from_numpy(np.load(file, allow_pickle=False)).float()
    parts = []
    with tqdm(total=n, desc="encoding", mininterval=5, **hide_if(not progress)) as bar:
        for start in range(0, n, _ENCODE_BATCH):
            rows = np.arange(start, min(start + _ENCODE_BATCH, n))
            parts.append(codec.encode(pool.images(rows)).half().cpu())
            bar.update(len(rows))
    z = torch.cat(parts)
    if file is not None:
        with atomic_path(file) as path:
            np.save(path, z.numpy())
    return z.float()


def train_diffusion(
    z: Float[Tensor, "n channels height width"],
    prompts: Sequence[Sequence[str]],
    clip: ClipEmbedder,
    basis: OrthogonalBasis,
    out_dir: Path,
    config: DiffusionConfig,
    *,
    codec: Any = None,
    unet: UNet2DConditionModel | None = None,
    device: torch.device | str | None = None,
    accelerator: Accelerator | None = None,
) -> tuple[SketchDiffusion, dict]:
    """Train on latents `z` of pictures, each with one or more prompts; resumes from `out_dir`.

    Every step draws a batch of rows, a prompt of each, noise and noise levels from (seed, step) alone; rows, prompts and noise are the
    same for one level as for two. Prompts are read by CLIP as they come, which costs little beside the UNet.

    Args:
        z: scaled latents; x = Q z is standardised by its own mean and standard deviation a channel.
        prompts: for each picture, the prompts of which every visit draws one.
        codec: whose latents they are; its id is recorded and later checked.
        unet: default: `build_unet` for the latents' and CLIP's sizes, with random weights from `config.seed`.
        device: default: where CLIP is, or, of several processes, where the accelerator puts each.
        accelerator: of several processes, which share each batch (`torchrun --nproc_per_node 2 -m sketchae.diffusion …`); all return the same model.

    Returns:
        the model, holding the moving average of the weights, and the loop's record (`log`, `duration_s`, `config`).

    Raises:
        BadInputError: data that do not fit together, fewer pictures than a batch, or an `out_dir` with a training of other settings or data.
    """
    if len(z) != len(prompts) or not all(prompts) or any(isinstance(row, str) for row in prompts):
        raise BadInputError(f"{len(z)} latents and {len(prompts)} lists of prompts: give every picture a list of at least one.")
    if len(z) < config.batch_size:
        raise BadInputError(f"{len(z)} pictures do not fill a batch of {config.batch_size}: give more, or a smaller batch_size.")
    rank, n_processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    if config.batch_size % n_processes:
        raise BadInputError(f"A batch of {config.batch_size} pictures cannot be shared by {n_processes} processes: give a multiple of their number.")
    mine = slice(rank, None, n_processes)
    if codec is not None:
        basis.check_vae(codec)
    text = clip.model.config.text_config
    if unet is None:
        torch.manual_seed(config.seed)
        unet = build_unet(z.shape[1], z.shape[2], text_dim=text.hidden_size, pooled_dim=clip.embed_dim)
    std, mean = torch.std_mean(basis.encode(z.double()), dim=(0, 2, 3))
    model = SketchDiffusion(
        unet, basis, mean, std, levels=config.levels, vae_id=getattr(codec, "id", None) or basis.vae_id, clip_id=clip.id
    ).to(device or (accelerator.device if n_processes > 1 else clip.device))
    config = dataclasses.replace(config, data=_digest(z, prompts, basis, clip, unet))

    def step_loss(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([config.seed, step])
        rows = batch_rows(len(z), config.batch_size, step, config.seed)
        chosen = [prompts[row][int(u * len(prompts[row]))] for row, u in zip(rows, rng.random(len(rows)), strict=True)]
        dropped = rng.random(len(rows)) < config.drop_prompt
        conditioning = embed_prompts(clip, ["" if drop else prompt for prompt, drop in zip(chosen, dropped, strict=True)][mine])
        x = model.encode(z[rows[mine]].to(model.device))
        noise = torch.from_numpy(rng.standard_normal((len(rows), *x.shape[1:]), dtype=np.float32)[mine]).to(x)
        drawn = draw_levels(
            len(rows),
            rng,
            config.levels,
            uniform_share=config.uniform_share,
            equal_share=config.equal_share,
            noise_share=config.noise_share,
            clean_share=config.clean_share,
        )
        t_semantic, t_style = (torch.from_numpy(t).to(x) for t in drawn)
        t = per_channel(t_semantic, t_style, model.n_semantic, x.shape[1])
        velocity = model.velocity(add_noise(x, noise, t[mine]), t_semantic[mine], t_style[mine], conditioning.to(x.device))
        semantic, style = block_losses(velocity, noise - x, t[mine], model.n_semantic, whole=t)
        return {"loss": (semantic + style) / 2, "semantic": semantic, "style": style}

    record = fit(model.unet, step_loss, config, Path(out_dir), f"diffusion, levels: {config.levels}", accelerator)
    return model.eval(), record


def _digest(z: Tensor, prompts: Sequence[Sequence[str]], basis: OrthogonalBasis, clip: ClipEmbedder, unet: UNet2DConditionModel) -> str:
    """A short hash of what a training learns from and of the network's architecture."""
    shape = {k: list(v) if isinstance(v, tuple) else v for k, v in unet.config.items() if not k.startswith("_")}
    parts = [list(map(list, prompts)), basis.Q.tolist(), basis.n_semantic, clip.id, list(z.shape), shape]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    digest.update(memoryview(z.float().cpu().contiguous().numpy()).cast("B"))
    return digest.hexdigest()[:16]
