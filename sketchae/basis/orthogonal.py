"""The change of basis itself: an orthogonal matrix Q over latent channels, applied at every pixel.

    x = Q z          encode; the first k rows of Q give the semantic channels, the others the style channels
    z = Q^T x        decode, exact because Q is orthogonal

Because Q is orthogonal it keeps lengths, and a standard normal prior on z stays one on x.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from jaxtyping import Float
from torch import Tensor, nn

from sketchae import __version__
from sketchae.atomic import TEMPORARY_MARK, atomic_write_bytes
from sketchae.basis import model_card
from sketchae.basis.planes import OtherMatrix, as_float64, check_n_semantic
from sketchae.errors import BadInputError, MissingFileError, NoNetworkError

WEIGHTS = "model.safetensors"
ORTHOGONAL_WITHIN = 1e-4  # largest |Q^T Q - I| that a saved matrix may have; float32 rounding leaves about 1e-7


class OrthogonalBasis(
    nn.Module,
    PyTorchModelHubMixin,
    library_name=model_card.LIBRARY,
    license=model_card.LICENSE,
    tags=model_card.TAGS,
    paper_url=model_card.PAPER,
    model_card_template=model_card.TEMPLATE,
):
    """Splits latents of `channels` channels into a semantic and a style block, and puts them together again.

    Made by `from_matrix`, `sketchae.basis.finalize(weight).basis()` or `load`; `OrthogonalBasis(channels, k)` alone is
    the identity. Saved and shared by `save` or `save_pretrained`, `from_pretrained` and `push_to_hub`.

    Args:
        channels: C, of the VAE's latents.
        n_semantic: k, the first so many rows of Q are semantic.
        vae: which VAE's latents it splits (hub id, folder or "embedded").
        vae_id: that VAE's `id`, a hash of its weights; `check_vae` compares it.
        facts: what was measured, for the model card: names to numbers or short texts.

    Raises:
        BadInputError: `n_semantic` leaves a block empty.
    """

    Q: Tensor

    def __init__(
        self,
        channels: int = 4,
        n_semantic: int = 2,
        vae: str | None = None,
        vae_id: str | None = None,
        facts: dict | None = None,
    ):
        super().__init__()
        check_n_semantic(n_semantic, channels)
        self.channels, self.n_semantic, self.vae, self.vae_id, self.facts = channels, n_semantic, vae, vae_id, facts
        self.register_buffer("Q", torch.eye(channels))

    @classmethod
    def from_matrix(cls, matrix: OtherMatrix, n_semantic: int = 2, **meta: Any) -> "OrthogonalBasis":
        """A basis from an orthogonal matrix; `meta` as in the class (vae, vae_id, facts).

        Raises:
            BadInputError: the matrix is not finite or not orthogonal, or `n_semantic` is out of range.
        """
        q = as_float64(matrix)
        _check_orthogonal(q, "The matrix")
        basis = cls(channels=len(q), n_semantic=n_semantic, **meta)
        basis.Q.copy_(torch.from_numpy(q))
        return basis

    def encode(self, z: Float[Tensor, "*batch channels height width"]) -> Float[Tensor, "*batch channels height width"]:
        """x = Q z at every pixel, in z's number format and on its device."""
        self._check_channels(z, self.channels, "latents")
        return torch.einsum("ij,...jhw->...ihw", self.Q.to(z), z)

    def decode(self, x: Float[Tensor, "*batch channels height width"]) -> Float[Tensor, "*batch channels height width"]:
        """z = Q^T x at every pixel: the inverse of `encode`."""
        self._check_channels(x, self.channels, "rotated latents")
        return torch.einsum("ji,...jhw->...ihw", self.Q.to(x), x)

    forward = encode

    def to_semantic_style(
        self, z: Float[Tensor, "*batch channels height width"]
    ) -> tuple[Float[Tensor, "*batch k height width"], Float[Tensor, "*batch rest height width"]]:
        """The two blocks of x = Q z: `(z_semantic, z_style)` of k and C - k channels."""
        x = self.encode(z)
        return x[..., : self.n_semantic, :, :], x[..., self.n_semantic :, :, :]

    def from_semantic_style(
        self, z_semantic: Float[Tensor, "*batch k height width"], z_style: Float[Tensor, "*batch rest height width"]
    ) -> Float[Tensor, "*batch channels height width"]:
        """Latents from the two blocks, of one picture or of two."""
        self._check_channels(z_semantic, self.n_semantic, "a semantic block")
        self._check_channels(z_style, self.channels - self.n_semantic, "a style block")
        return self.decode(torch.cat([z_semantic, z_style], dim=-3))

    def encode_images(
        self, images: Float[Tensor, "batch 3 height width"], codec: Any
    ) -> tuple[Float[Tensor, "batch k h w"], Float[Tensor, "batch rest h w"]]:
        """`(z_semantic, z_style)` of pictures in [0, 1] through a codec with `encode` (see `sketchae.backbones.load_vae`)."""
        return self.to_semantic_style(codec.encode(images))

    def decode_images(
        self, z_semantic: Float[Tensor, "batch k h w"], z_style: Float[Tensor, "batch rest h w"], codec: Any
    ) -> Float[Tensor, "batch 3 height width"]:
        """Pictures in [0, 1] from the two blocks, of one picture or of two, through a codec with `decode`."""
        return codec.decode(self.from_semantic_style(z_semantic, z_style))

    @property
    def orthogonality_error(self) -> float:
        """||Q^T Q - I||_F of the matrix as stored, computed in float64."""
        q = as_float64(self.Q)
        return float(np.linalg.norm(q.T @ q - np.eye(len(q))))

    def check_vae(self, codec: Any) -> None:
        """Raise BadInputError if the codec's latents are not those that this basis was made for.

        Compared are `latent_channels` and `id` (a hash of the weights, see `sketchae.backbones`), where both sides know them.
        """
        channels, codec_id = getattr(codec, "latent_channels", self.channels), getattr(codec, "id", None)
        if channels != self.channels:
            raise BadInputError(_other_vae(f"has {channels} latent channels", self))
        if self.vae_id and codec_id and codec_id != self.vae_id:
            raise BadInputError(_other_vae(f"has other weights ({codec_id}, not {self.vae_id})", self))

    def save(self, folder: str | os.PathLike, facts: Mapping[str, Any] | None = None) -> Path:
        """`save_pretrained` with a fresh model card; `facts` are added to those the basis already has."""
        if facts:
            self.facts = {**(self.facts or {}), **facts}
            self._hub_mixin_config = {**(self._hub_mixin_config or {}), "facts": self.facts}
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Elsewhere first: a basis that stands in the folder is whole at any moment, and save_pretrained would keep its card.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}{TEMPORARY_MARK}") as temporary:
            self.save_pretrained(temporary)
            for file in Path(temporary).iterdir():
                os.replace(file, folder / file.name)
        return folder

    def push_to_hub(self, repo_id: str, *, model_card_kwargs: dict | None = None, **options: Any) -> str:
        """Upload it; see `huggingface_hub.PyTorchModelHubMixin.push_to_hub` for the options."""
        return super().push_to_hub(
            repo_id, model_card_kwargs={"repo_id": repo_id, **(model_card_kwargs or {})}, **options
        )

    @classmethod
    def load(
        cls, source: str | os.PathLike = "embedded", revision: str | None = None, **hub_options: Any
    ) -> "OrthogonalBasis":
        """A saved basis: "embedded" (the one that ships with the package), a folder, or a hub id.

        Raises:
            MissingFileError: a folder without a basis. BadInputError: no such hub id; a matrix of another size than its
            configuration, not finite, or not orthogonal. NoNetworkError: not downloaded yet, and the hub is out of reach.
        """
        if str(source) == "embedded":
            source = Path(__file__).parents[1] / "assets" / "basis"
        return cls.from_pretrained(source, revision=revision, **hub_options)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card of this basis; `name` and `repo_id` may be passed as model_card_kwargs."""
        rows = ["  ".join(f"{value:+.6f}" for value in row) for row in self.Q.tolist()]
        filled = {
            "name": f"sketchae basis, {self.channels} channels",
            "repo_id": "the-folder-or-hub-id-of-this-card",
            "channels": self.channels,
            "n_semantic": self.n_semantic,
            "vae": self.vae,
            "library_name": model_card.LIBRARY,
            "version": __version__,
            "matrix": "\n".join(rows),
            "measured": model_card.measured_table(self.facts),
        }
        info = self._hub_mixin_info
        return ModelCard.from_template(
            card_data=info.model_card_data,
            template_str=info.model_card_template,
            paper_url=info.paper_url,
            repo_url=model_card.repository_url(),
            **{**filled, **kwargs},
        )

    def extra_repr(self) -> str:
        return f"channels={self.channels}, n_semantic={self.n_semantic}, vae={self.vae!r}"

    def _save_pretrained(self, save_directory: Path) -> None:
        atomic_write_bytes(save_directory / WEIGHTS, safetensors.torch.save({"Q": self.Q.detach().cpu().contiguous()}))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **options: Any) -> "OrthogonalBasis":
        """A basis from a folder or the hub, as the mixin does it; raises as `load`."""
        source = str(pretrained_model_name_or_path)
        looks_local = os.path.isabs(source) or source.startswith(".") or source.count("/") > 1
        if not os.path.isdir(source) and looks_local:
            raise MissingFileError(
                f"There is no folder {source}: run notebook 03_qr_finalize, or name a folder or hub id."
            )
        if os.path.isdir(source) and not (Path(source) / "config.json").is_file():
            raise MissingFileError(
                f"{source} holds no config.json: save the basis there again with `basis.save(folder)`."
            )
        try:
            return super().from_pretrained(source, **options)
        except json.JSONDecodeError as error:
            raise BadInputError(
                f"The config.json of {source} is not JSON ({error}): save the basis again with `basis.save(folder)`."
            ) from error
        except (HFValidationError, RepositoryNotFoundError) as error:
            raise BadInputError(
                f"{source!r} is neither a folder nor a hub id that can be read: correct the name."
            ) from error
        except LocalEntryNotFoundError as error:
            raise NoNetworkError(
                f"{source} is not on this machine, and the hub could not be reached: connect once, or name a folder."
            ) from error
        except (HfHubHTTPError, ConnectionError) as error:
            raise NoNetworkError(f"The hub did not give {source} ({error}): try again, or name a folder.") from error

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, map_location: str = "cpu", strict: bool = True, **options: Any
    ) -> "OrthogonalBasis":
        hub = {
            name: options.pop(name) for name in ("revision", "cache_dir", "force_download", "local_files_only", "token")
        }
        path = Path(model_id) / WEIGHTS if os.path.isdir(model_id) else Path(hf_hub_download(model_id, WEIGHTS, **hub))
        if not path.is_file():
            raise MissingFileError(
                f"{model_id} holds no {WEIGHTS}: save the basis there again with `basis.save(folder)`."
            )
        try:
            q = safetensors.torch.load_file(path)["Q"]
        except (safetensors.SafetensorError, KeyError) as error:
            raise BadInputError(
                f"{path} is damaged or not a basis ({error}): save it again or take another copy."
            ) from error
        channels = options.setdefault("channels", q.shape[-1])
        if q.shape != (channels, channels):
            raise BadInputError(
                f"{path} holds a matrix of {'x'.join(map(str, q.shape))}, but its configuration says {channels} channels: "
                "take model.safetensors and config.json from the same basis."
            )
        _check_orthogonal(as_float64(q), str(path))
        basis = cls(**options)
        basis.Q.copy_(q)
        return basis.to(map_location).eval()

    def _check_channels(self, z: Tensor, channels: int, what: str) -> None:
        if z.shape[-3] != channels:
            raise BadInputError(
                f"This basis expects {what} of {channels} channels, but got {z.shape[-3]}: "
                f"use the VAE that it was made for ({self.vae or 'not recorded'}), or train a basis for yours."
            )


def _check_orthogonal(q: Float[np.ndarray, "_ _"], what: str) -> None:
    if q.shape[0] != q.shape[1]:
        raise BadInputError(f"{what} is {q.shape[0]}x{q.shape[1]}, not square: a basis has as many rows as channels.")
    if not np.isfinite(q).all():
        raise BadInputError(f"{what} holds values that are not finite: take another copy, or train again.")
    error = float(np.abs(q.T @ q - np.eye(len(q))).max())
    if error > ORTHOGONAL_WITHIN:
        raise BadInputError(
            f"{what} is not orthogonal (an entry of Q^T Q - I is {error:.1e}): make it so with "
            "`sketchae.basis.finalize(weight).basis()`."
        )


def _other_vae(difference: str, basis: OrthogonalBasis) -> str:
    return (
        f"This basis splits {basis.channels} channels of {basis.vae or 'a VAE that was not recorded'}, and the VAE given "
        f"{difference}: load the one it was made for, or train a basis for this one."
    )
