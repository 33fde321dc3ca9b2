"""Handwritten digits, on which Kingma & Welling 2014 show the VAE: scikit-learn's real ones, which come with it, or MNIST from the hub.

Scikit-learn's are the test set of the UCI "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998): 1,797 pictures of 8x8 pixels, each
pixel the number (0 to 16) of inked points in a block of 4x4. Here all pixels are grey values in [0, 1].

A Bernoulli likelihood is proper for pixels of 0 and 1 only. `binarize` draws them anew each time a picture is looked at, with the grey value as the
probability of ink (*dynamic binarisation*: Salakhutdinov & Murray 2008, Burda et al. 2016); their mean is the grey picture.
"""

import os
import re
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sketchae.errors import BadInputError
from sketchae.hub import hub_error
from sketchae.metrics.bootstrap import generator
from sketchae.profiles import Profile

N_TEST = 360  # of scikit-learn's 1,797


@dataclass(frozen=True)
class Digits:
    """Pictures in [0, 1] with ink near 1, and which digit (0 to 9) they show; `source` says where they are from."""

    train_images: Float[Tensor, "n_train 1 size size"]
    train_labels: Int[Tensor, " n_train"]
    test_images: Float[Tensor, "n_test 1 size size"]
    test_labels: Int[Tensor, " n_test"]
    source: str = ""

    @property
    def size_px(self) -> int:
        """The side of a picture."""
        return self.train_images.shape[-1]


def load_digits_split() -> Digits:
    """Scikit-learn's digits, 8x8, split once and for all into 1,437 and 360, with the same share of every digit in both."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 16
    labels = torch.from_numpy(found.target).long()
    seed = int(generator("sketchae.latent_models.digits").integers(2**32))
    train, test = train_test_split(np.arange(len(labels)), test_size=N_TEST, random_state=seed, stratify=found.target)
    about = "scikit-learn's handwritten digits, the training part of `load_digits_split`"
    return Digits(images[train], labels[train], images[test], labels[test], about)


def load_digits_of(profile: Profile) -> Digits:
    """The digits that a profile names: scikit-learn's, or a dataset in the form of MNIST. Raises as `load_mnist`."""
    return load_mnist(profile.digits, revision=profile.digits_revision) if profile.digits else load_digits_split()


def load_mnist(dataset_id: str | os.PathLike = "ylecun/mnist", *, revision: str | None) -> Digits:
    """MNIST (60,000 and 10,000 pictures of 28x28) from the hub, with its own split. Data files are read; no code of the dataset is run.

    Args:
        dataset_id: "owner/name" on the hub, or a local folder in the same form: columns `image` and `label`, splits `train` and `test`.
        revision: the full hash of a commit, so that nobody can change the data under a result; None for a folder.

    Raises:
        BadInputError: no commit, no such dataset, or other columns or splits; NoNetworkError: the hub cannot be reached.
    """
    import datasets

    dataset_id = os.fspath(dataset_id)
    is_folder = os.path.isdir(dataset_id)
    if not is_folder and not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise BadInputError(f"{dataset_id} needs the full hash of a commit, not the revision {revision}: copy it from the dataset's page on the hub.")
    try:
        found = datasets.load_dataset(dataset_id, revision=None if is_folder else revision)
    except Exception as error:
        raise hub_error(dataset_id, revision, error) from error
    parts: list[Tensor] = []
    for split in ("train", "test"):
        if split not in found or not {"image", "label"} <= set(found[split].column_names):
            raise BadInputError(f"{dataset_id} lacks a split '{split}' with the columns 'image' and 'label': give a dataset in the form of MNIST.")
        pixels = np.stack([np.asarray(image.convert("L")) for image in found[split]["image"]])
        if pixels.shape[1] != pixels.shape[2]:
            raise BadInputError(f"{dataset_id} has pictures of {pixels.shape[2]} x {pixels.shape[1]} pixels: they must be square.")
        parts += [torch.from_numpy(pixels).float()[:, None] / 255, torch.tensor(found[split]["label"][:])]
    return Digits(*parts, source=dataset_id if is_folder else f"{dataset_id}, commit {revision}")


def binarize(images: Float[Tensor, "n 1 h w"], rng: np.random.Generator) -> Float[Tensor, "n 1 h w"]:
    """Pixels of 0 and 1, each 1 with its grey value as probability."""
    return torch.from_numpy(rng.random(tuple(images.shape), dtype="float32")).lt(images).to(images)
