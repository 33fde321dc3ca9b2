"""What the network is told of a picture: the frozen CLIP's reading of a prompt, token by token and as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sketchae.backbones import ClipEmbedder
from sketchae.errors import BadInputError
from sketchae.scenes import Scenes, captions

PROMPTS_PER_KIND = {"content": 2, "style": 2, "both": 4}


@dataclass(frozen=True)
class Conditioning:
    """Prompts as `embed_prompts` reads them.

    Attributes:
        states: last hidden states of CLIP's text tower, padded to the longest prompt.
        mask: 1 for a prompt's own tokens, 0 for padding.
        pooled: CLIP's text embeddings, of length 1.
    """

    states: Float[Tensor, "n tokens width"]
    mask: Int[Tensor, "n tokens"]
    pooled: Float[Tensor, "n dim"]

    def __len__(self) -> int:
        return len(self.pooled)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> "Conditioning":
        """The prompts at `rows`, in that order."""
        return Conditioning(self.states[rows], self.mask[rows], self.pooled[rows])

    def to(self, device: torch.device | str) -> "Conditioning":
        return Conditioning(self.states.to(device), self.mask.to(device), self.pooled.to(device))

    def repeated(self, n: int) -> "Conditioning":
        """`n` prompts: these, or the only one `n` times.

        Raises:
            BadInputError: several prompts, but not `n`.
        """
        if len(self) == n:
            return self
        if len(self) != 1:
            raise BadInputError(f"{len(self)} prompts for {n} pictures: give one prompt, or one for each.")
        return self[[0] * n]


@torch.no_grad()
def embed_prompts(clip: ClipEmbedder, prompts: Sequence[str]) -> Conditioning:
    """Token states and embeddings of prompts; "" is the empty prompt that guidance and dropped prompts stand on.

    Padded to the longest prompt of this call and cut at CLIP's maximum; what the padding holds is masked, so that a prompt means the
    same in any company.

    Raises:
        BadInputError: a single string, or no prompt.
    """
    if isinstance(prompts, str) or not prompts:
        raise BadInputError("embed_prompts takes a list of at least one prompt: put a single one into a list.")
    tokens = clip.tokenizer(
        list(prompts), padding="longest", padding_side="right", truncation=True, max_length=clip.max_tokens, return_tensors="pt"
    ).to(clip.device)
    read = clip.model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    return Conditioning(read.last_hidden_state.float(), tokens["attention_mask"], F.normalize(read.pooler_output.float(), dim=-1))


def scene_prompts(scenes: Scenes) -> list[list[str]]:
    """Eight prompts of every scene: two of its content, two of its style and four of both."""
    kinds = [captions(scenes, kind, n) for kind, n in PROMPTS_PER_KIND.items()]
    return [[prompt for kind in kinds for prompt in kind[row]] for row in range(len(scenes))]
