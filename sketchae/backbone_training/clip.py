"""The embedded CLIP: transformers' `CLIPModel` with a tokenizer of its own, learned from scratch on Scenes.

It learns from pictures and captions only; no factor is ever a target. Style is easier to see than content and a short
training learns style alone, so every picture brings two content captions and one that also, or only, names its style.
Objects and terrains tell most scenes of a batch apart, so a second stage draws a quarter of its batches from scenes that
agree in these and in others (`HARD_FACTORS`), hard negatives, whose captions differ only in the rest, and half of them from
minimal sets: one scene under each sky (`MINIMAL_FACTOR`), which both towers ignore as long as anything else tells scenes
apart. In these each caption is told from those of its own set only, and every third caption names nothing but the sky.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

from sketchae.backbone_training.loop import LoopConfig, fit
from sketchae.backbone_training.pool import ImagePool, batch_rows
from sketchae.scenes import FACTORS, Scenes, captions, sample_scenes
from sketchae.scenes.captions import naming_only

SPECIAL = ("<pad>", "<start>", "<unknown>", "<end>")  # <end> is 3: id 2 would switch on a legacy pooling rule
IMAGE_SIZE = 64
MAX_TOKENS = 48
HARD_FACTORS = (
    ("object", "terrain", "horizon", "size"),
    ("object", "terrain", "count", "position"),
)
MINIMAL_FACTOR = "celestial"
SET_SIZE = len(FACTORS[MINIMAL_FACTOR].values)


def clip_config(vocab_size: int) -> CLIPConfig:
    """Vision: 64 patches of 8 pixels, 5 layers of width 128. Text: 3 layers of width 96. Joint space: 128."""
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
    text = {"vocab_size": vocab_size, "hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 5, "num_attention_heads": 4}
    return CLIPConfig(
        text_config={**text, **tokens, "max_position_embeddings": MAX_TOKENS, "projection_dim": 128},
        vision_config={**vision, "image_size": IMAGE_SIZE, "patch_size": 8, "projection_dim": 128},
        projection_dim=128,
    )


@functools.cache
def _words() -> tuple[str, ...]:
    """Every word of Scenes' captions: 48,000 of them hold all."""
    scenes = sample_scenes(range(4000))
    kinds = ("content", "style", "both")
    return tuple(sorted({w for kind in kinds for row in captions(scenes, kind, 4) for c in row for w in c.lower().replace(",", " ").split()}))


def make_processor() -> CLIPProcessor:
    """A word-level tokenizer over the captions' vocabulary, and an image processor for 64-pixel inputs."""
    from transformers import CLIPImageProcessor  # only here: without torchvision its import warns

    vocabulary = {w: i for i, w in enumerate([*SPECIAL, *_words()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(",", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 3)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<start>", unk_token="<unknown>", eos_token="<end>", model_max_length=MAX_TOKENS
    )
    half = [0.5, 0.5, 0.5]
    images = CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=IMAGE_SIZE, image_mean=half, image_std=half)
    return CLIPProcessor(image_processor=images, tokenizer=fast)


def pixel_values(images: Tensor) -> Tensor:
    """Pictures in [0, 1] as the vision tower sees them: 64 pixels, in [-1, 1]."""
    small = F.interpolate(images, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True)
    return small.clamp(0, 1) * 2 - 1


def contrastive_loss(
    image_embeds: Float[Tensor, "sets n dim"], text_embeds: Float[Tensor, "sets n dim"], logit_scale: Tensor
) -> Tensor:
    """Symmetric InfoNCE within each set (Radford et al. 2021: one set, the batch); embeddings are normalised here."""
    logits = logit_scale * F.normalize(image_embeds, dim=-1) @ F.normalize(text_embeds, dim=-1).mT
    target = torch.arange(logits.shape[-1]).expand(len(logits), -1)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.mT, target)) / 2


def train_clip(
    pool: ImagePool,
    minimal_pool: ImagePool,
    out_dir: Path,
    config: LoopConfig,
    hard_config: LoopConfig,
    batch_size: int = 64,
    start: Path | None = None,
) -> tuple[CLIPModel, CLIPProcessor, dict]:
    """Contrastive training in two stages; each picture meets three captions: two of content, one of style or of both.

    Args:
        minimal_pool: minimal sets, drawn with `vary=MINIMAL_FACTOR`.
        start: a folder with a trained CLIP of this kind, which takes the place of the first stage.
    """
    torch.manual_seed(config.seed)
    processor = make_processor()
    model = CLIPModel(clip_config(len(processor.tokenizer))) if start is None else CLIPModel.from_pretrained(start)

    def stage(config: LoopConfig, batch_of: Callable[[int], tuple[ImagePool, np.ndarray]]) -> Callable[[int], dict[str, Tensor]]:
        return lambda step: _loss(model, processor.tokenizer, *batch_of(step), step, config.seed)

    if start is None:
        first = fit(model, stage(config, lambda step: (pool, batch_rows(len(pool), batch_size, step, config.seed))), config, out_dir, "CLIP")
        first["config"] = [first["config"]]
    else:
        first = previous_training(start)
    hard = _HardBatches(pool, minimal_pool, batch_size, hard_config.seed)
    second = fit(model, stage(hard_config, hard), hard_config, out_dir / "hard", "CLIP, hard negatives")
    seconds = first["duration_s"] + second["duration_s"]
    done = first["log"][-1]["step"] + 1
    log = first["log"] + [{**row, "step": row["step"] + done} for row in second["log"]]
    return model, processor, {"log": log, "duration_s": seconds, "config": [*first["config"], second["config"]]}


def previous_training(folder: Path) -> dict:
    """Log, duration and settings (stage by stage) of the training whose result is in `folder`."""
    about = json.loads((folder / "provenance.json").read_text())
    log = json.loads((folder / "training_log.json").read_text())
    return {"log": log, "duration_s": about["duration_s"], "config": about["loop"]}


class _HardBatches:
    """A step's batch: minimal sets at even steps; else, in turn, scenes that agree in one of `HARD_FACTORS`, and any scenes."""

    def __init__(self, pool: ImagePool, minimal_pool: ImagePool, batch_size: int, seed: int):
        self.pool, self.minimal_pool, self.batch_size, self.seed = pool, minimal_pool, batch_size, seed
        self.groupings = [_groups(pool.scenes, names) for names in HARD_FACTORS]

    def __call__(self, step: int) -> tuple[ImagePool, np.ndarray]:
        if step % 2 == 0:
            sets = batch_rows(len(self.minimal_pool) // SET_SIZE, self.batch_size // SET_SIZE, step, self.seed)
            return self.minimal_pool, (sets[:, None] * SET_SIZE + np.arange(SET_SIZE)).ravel()
        if step % 4 == 3:
            return self.pool, batch_rows(len(self.pool), self.batch_size, step, self.seed)
        rng = np.random.default_rng([self.seed, step])
        groups = self.groupings[step // 4 % len(self.groupings)]
        group = groups[rng.integers(len(groups))]
        return self.pool, rng.choice(group, min(self.batch_size, len(group)), replace=False)


def _groups(scenes: Scenes, names: tuple[str, ...]) -> list[np.ndarray]:
    """Rows of the scenes that agree in all factors `names`, group by group."""
    key = np.zeros(len(scenes), dtype=np.int64)
    for name in names:
        key = key * len(FACTORS[name].values) + scenes.factors[name]
    order = np.argsort(key, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(key[order])) + 1)


def _loss(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, pool: ImagePool, rows: np.ndarray, step: int, seed: int) -> dict[str, Tensor]:
    rows = np.sort(rows)
    scenes = pool.scenes[rows]
    vary = np.random.default_rng([seed, step]).integers(0, 1000, 3)
    content = [r[0] for r in _fresh(scenes, "content", vary[0], 3)]
    detailed = [r[0] for r in _fresh(scenes, "content", vary[1], 6)]
    if pool.vary is None:
        third = [r[0] for r in _fresh(scenes, "style" if step % 3 == 0 else "both", vary[2], 3)]
    else:
        third = naming_only(pool.vary, scenes, int(vary[2]))
    images = model.get_image_features(pixel_values=pixel_values(pool.images(rows))).pooler_output
    tokens = tokenizer(content + detailed + third, padding=True, return_tensors="pt")
    texts = model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
    scale = model.logit_scale.clamp(max=np.log(100.0)).exp()
    set_size = len(rows) if pool.vary is None else SET_SIZE
    losses = [contrastive_loss(images.unflatten(0, (-1, set_size)), t.unflatten(0, (-1, set_size)), scale) for t in texts.chunk(3)]
    return {"loss": sum(losses) / 3, "content": losses[0], "detailed": losses[1], "third": losses[2]}


def _fresh(scenes: Scenes, kind: str, vary: int | np.integer, min_factors: int) -> list[list[str]]:
    """One caption of each scene, another one for another `vary`."""
    changed = type(scenes)(scenes.factors, scenes.content_jitter_seed + np.uint64(vary), scenes.style_jitter_seed)
    return captions(changed, kind, 1, min_factors)
