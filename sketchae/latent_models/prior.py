"""The DALL-E prior (Ramesh et al. 2021, "DALL-E, part II"): caption and image tokens as one sequence for a causal transformer.

    caption tokens · <image> · t_1 … t_n          p(t_i | caption, t_1 … t_(i-1)),  n = grid², row by row

The transformer is transformers' GPT-2, small, with a head for words and one for image tokens; the loss is 1/8 of that of the words and 7/8 of
that of the image tokens, as in the paper. Ours has full attention instead of sparse. One caption in ten is left out in training, so that
the prior also draws unconditional pictures, and guidance is possible (Ho & Salimans 2022), which DALL-E did not have.

Sampling is by the Gumbel-max trick (`dvae.gumbel_max`) with noise that belongs to a picture's seed: a picture depends on no other.
*Reranking*: draw many, let CLIP choose (`rerank`).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import GPT2Config, GPT2Model

from sketchae.atomic import atomic_path
from sketchae.backbone_training.loop import LoopConfig, fit
from sketchae.backbone_training.pool import ImagePool, batch_rows
from sketchae.backbones import ClipEmbedder
from sketchae.backbones.identity import backbone_id
from sketchae.errors import BadInputError
from sketchae.latent_models.dvae import DiscreteVAE, gumbel_max, gumbel_noise
from sketchae.progress import hide_if

TEXT_SHARE = 1 / 8  # of the loss


class TokenPrior(ModelMixin, ConfigMixin):
    """GPT-2 over caption tokens and the tokens of a grid x grid picture.

    Args:
        text_vocab_size, max_text: of the captions' tokenizer.
        codebook_size, grid: of the discrete autoencoder.
        width, n_layers, n_heads: of the transformer.
        codec_id: of the autoencoder whose tokens it knows (`backbone_id`), so that others are refused.
    """

    @register_to_config
    def __init__(
        self,
        text_vocab_size: int,
        codebook_size: int = 1024,
        grid: int = 8,
        max_text: int = 48,
        width: int = 192,
        n_layers: int = 6,
        n_heads: int = 6,
        codec_id: str = "",
    ):
        super().__init__()
        self.n_text, self.n_codes, self.n_tokens, self.max_text = text_vocab_size, codebook_size, grid**2, max_text
        config = GPT2Config(
            vocab_size=text_vocab_size + codebook_size + 1,  # words, image tokens, <image>
            n_positions=max_text + grid**2,
            n_embd=width,
            n_layer=n_layers,
            n_head=n_heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
        )
        self.transformer = GPT2Model(config)
        self.text_head, self.image_head = nn.Linear(width, text_vocab_size), nn.Linear(width, codebook_size)

    def losses(
        self, text: Int[Tensor, "n words"], mask: Int[Tensor, "n words"], tokens: Int[Tensor, "n tokens"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Cross-entropies in nats a token: of the captions' next words, and of the image tokens."""
        states = self._states(*self._sequence(text, mask, tokens[:, :-1])).last_hidden_state
        n_words = text.shape[1]
        words = F.cross_entropy(self.text_head(states[:, : n_words - 1]).flatten(0, 1), text[:, 1:].flatten(), reduction="none")
        named = mask[:, 1:].flatten()
        image = F.cross_entropy(self.image_head(states[:, n_words:]).flatten(0, 1), tokens.flatten())
        return (words * named).sum() / named.sum(), image

    def _sequence(self, text: Tensor, mask: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, mask and positions: image positions begin after `max_text`, however long the captions are."""
        if text.shape[1] > self.max_text:
            raise BadInputError(f"Captions of {text.shape[1]} tokens do not fit into {self.max_text}: cut them.")
        n, n_image = len(text), tokens.shape[1] + 1
        start = torch.full((n, 1), self.n_text + self.n_codes)
        positions = torch.cat([torch.arange(text.shape[1]), self.max_text - 1 + torch.arange(1, n_image + 1)])
        whole = torch.cat([mask, torch.ones(n, n_image, dtype=mask.dtype)], 1)
        return torch.cat([text, start, tokens + self.n_text], 1), whole, positions.expand(n, -1)

    def _states(self, ids: Tensor, mask: Tensor, positions: Tensor, past: Any = None, use_cache: bool = False) -> Any:
        return self.transformer(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=use_cache)

    @torch.no_grad()
    def draw(
        self,
        text: Int[Tensor, "n words"],
        mask: Int[Tensor, "n words"],
        seeds: Sequence[int],
        *,
        temperature: float | int = 1.0,
        top_k: int | None = None,
        guidance: float | int = 1.0,
        empty: Int[Tensor, "1 empty_words"] | None = None,
    ) -> Int[Tensor, "n h w"]:
        """Image tokens, one picture for each caption and seed.

        Args:
            temperature: logits are divided by it; 0 takes the most likely token.
            top_k: draw among the k most likely only.
            guidance: l = l_empty + guidance (l_caption - l_empty); 1 leaves it out and costs half as much.
            empty: the empty caption's tokens, for guidance.

        Raises:
            BadInputError: a number of seeds other than that of captions, a negative temperature, a top_k of no tokens, or guidance without `empty`.
        """
        n = len(text)
        if len(seeds) != n:
            raise BadInputError(f"{n} captions and {len(seeds)} seeds: give one seed for each picture.")
        if temperature < 0 or (top_k is not None and not 1 <= top_k <= self.n_codes):
            raise BadInputError(f"temperature {temperature} and top_k {top_k}: give one of at least 0, and between 1 and {self.n_codes} tokens.")
        if guidance != 1:
            if empty is None:
                raise BadInputError("Guidance needs the tokens of the empty caption: give `empty`.")
            missing = empty.shape[1] - text.shape[1]  # the empty caption is nearly always the shorter one
            text, mask = F.pad(text, (0, max(0, missing))), F.pad(mask, (0, max(0, missing)))
            padded = F.pad(empty, (0, max(0, -missing)))
            blank = (torch.arange(padded.shape[1]) < empty.shape[1]).to(mask.dtype)
            text, mask = torch.cat([text, padded.expand(n, -1)]), torch.cat([mask, blank.expand(n, -1)])
        noise = torch.stack([gumbel_noise((self.n_tokens, self.n_codes), np.random.default_rng([seed, 7])) for seed in seeds])
        ids, whole, positions = self._sequence(text, mask, text.new_empty(len(text), 0))
        past, drawn = None, []
        for place in range(self.n_tokens):
            found = self._states(ids, whole, positions, past, use_cache=True)
            past = found.past_key_values
            logits = self.image_head(found.last_hidden_state[:, -1])
            if guidance != 1:
                with_caption, without = logits.chunk(2)
                logits = without + guidance * (with_caption - without)
            if top_k is not None:
                logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
            chosen = gumbel_max(logits / temperature, noise[:, place]) if temperature else logits.argmax(1)
            drawn.append(chosen)
            ids = (chosen + self.n_text).repeat(len(text) // n)[:, None]
            whole = F.pad(whole, (0, 1), value=1)
            positions = positions[:, -1:] + 1
        side = int(self.n_tokens**0.5)
        return torch.stack(drawn, 1).unflatten(1, (side, side))


def tokenize(clip: ClipEmbedder, prompts: Sequence[str], max_text: int = 48) -> tuple[Int[Tensor, "n words"], Int[Tensor, "n words"]]:
    """Captions as CLIP's own tokens and their mask, padded to the longest."""
    found = clip.tokenizer(list(prompts), padding="longest", padding_side="right", truncation=True, max_length=max_text, return_tensors="pt")
    return found["input_ids"], found["attention_mask"]


def paint_prompts(
    prior: TokenPrior,
    codec: DiscreteVAE,
    clip: ClipEmbedder,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    batch_size: int = 128,
    progress: bool = True,
    **options: Any,
) -> Float[Tensor, "n 3 height width"]:
    """Pictures in [0, 1] for prompts; "" draws unconditionally. `options` are those of `TokenPrior.draw`.

    Raises:
        BadInputError: a prior that was trained on another autoencoder's tokens, or another number of seeds than of captions.
    """
    check_codec(prior, codec)
    if isinstance(prompts, str) or len(prompts) != len(seeds):
        raise BadInputError(f"{len(prompts)} captions and {len(seeds)} seeds: give a list of captions, and one seed for each picture.")
    empty = tokenize(clip, [""])[0]
    pictures = []
    with tqdm(total=len(prompts), desc="drawing", mininterval=5, **hide_if(not progress)) as bar:
        for start in range(0, len(prompts), batch_size):
            rows = slice(start, start + batch_size)
            tokens = prior.draw(*tokenize(clip, prompts[rows], prior.max_text), list(seeds[rows]), empty=empty, **options)
            with torch.no_grad():
                pictures.append(codec.decode(tokens))
            bar.update(len(tokens))
    return torch.cat(pictures)


def rerank(scores: Float[Tensor, "n_prompts n_candidates"], n: int) -> Int[Tensor, "n_prompts n"]:
    """Which `n` candidates of every prompt score best, the best first.

    Raises:
        BadInputError: fewer candidates than that.
    """
    if not 1 <= n <= scores.shape[1]:
        raise BadInputError(f"The best {n} of {scores.shape[1]} candidates: give at least one and at most all.")
    return scores.topk(n, dim=1).indices


def check_codec(prior: TokenPrior, codec: DiscreteVAE) -> None:
    """Raise BadInputError if the prior was trained on another autoencoder's tokens."""
    own, given = prior.config.codec_id, backbone_id(codec)
    if own and own != given:
        raise BadInputError(f"This prior knows the tokens of the autoencoder {own}, not of {given}: load the one that it was trained with.")


def encode_tokens(codec: DiscreteVAE, pool: ImagePool, n: int, folder: Path | None = None) -> Int[np.ndarray, "n tokens"]:
    """Hard codes of the first `n` pictures of a pool, row by row; with `folder`, kept there under the autoencoder's id.

    Raises:
        BadInputError: fewer pictures in the pool.
    """
    if not 1 <= n <= len(pool):
        raise BadInputError(f"Codes of {n} pictures, and the pool holds {len(pool)}: ask for at least one and at most all.")
    scenes = pool.file.stem.rsplit("-", 1)[0] if pool.vary is None else pool.file.stem  # the first n are the same, however many there are
    file = None if folder is None else Path(folder) / f"tokens-{backbone_id(codec)}-{scenes}-{n}.npy"
    if file is not None and file.exists():
        return np.load(file, allow_pickle=False)
    parts = []
    with torch.no_grad():
        for start in tqdm(range(0, n, 64), desc="tokens", mininterval=5):
            parts.append(codec.encode(pool.images(np.arange(start, min(start + 64, n)))).flatten(1).numpy().astype(np.int32))
    tokens = np.concatenate(parts)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as path:
            np.save(path, tokens)
    return tokens


def train_prior(
    tokens: Int[np.ndarray, "n tokens"],
    prompts: Sequence[Sequence[str]],
    clip: ClipEmbedder,
    out_dir: Path,
    config: LoopConfig,
    *,
    codec: DiscreteVAE | None = None,
    batch_size: int = 32,
    drop_prompt: float | int = 0.1,
    **options: Any,
) -> tuple[TokenPrior, dict]:
    """Train on image tokens, each with one or more prompts of which every visit draws one; resumes from `out_dir`.

    Args:
        codec: whose tokens they are; recorded and later checked.
        drop_prompt: share of examples that see the empty caption.
        options: of `TokenPrior`.

    Raises:
        BadInputError: tokens and prompts that do not go together, fewer than a batch, or tokens that make no square.
    """
    if any(isinstance(row, str) for row in prompts) or not all(prompts):
        raise BadInputError("Every picture has a list of at least one prompt: put a single one into a list.")
    if len(tokens) != len(prompts) or len(tokens) < batch_size:
        raise BadInputError(f"Tokens of {len(tokens)} pictures, prompts of {len(prompts)}, batches of {batch_size}: give as many, a batch at least.")
    grid = math.isqrt(tokens.shape[1])
    if grid**2 != tokens.shape[1]:
        raise BadInputError(f"{tokens.shape[1]} tokens a picture are no square grid: give side x side of them, row by row.")
    torch.manual_seed(config.seed)
    sizes = {"codebook_size": len(codec.codebook), "codec_id": backbone_id(codec)} if codec else {}
    model = TokenPrior(len(clip.tokenizer), grid=grid, max_text=clip.max_tokens, **sizes, **options)

    def step_loss(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([config.seed, step])
        rows = batch_rows(len(tokens), batch_size, step, config.seed)
        chosen = [prompts[row][int(u * len(prompts[row]))] for row, u in zip(rows, rng.random(len(rows)), strict=True)]
        dropped = rng.random(len(rows)) < drop_prompt
        text, mask = tokenize(clip, ["" if drop else prompt for prompt, drop in zip(chosen, dropped, strict=True)], clip.max_tokens)
        words, image = model.losses(text, mask, torch.from_numpy(tokens[rows].astype(np.int64)))
        return {"loss": TEXT_SHARE * words + (1 - TEXT_SHARE) * image, "words": words, "image": image}

    record = fit(model, step_loss, config, out_dir, "prior")
    return model, record
