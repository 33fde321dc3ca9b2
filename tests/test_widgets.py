import io

import numpy as np
import pytest
import torch
from PIL import Image
from toys import ToyCodec, ToySplit, toy_images

from sketchae import edits, widgets
from sketchae.errors import BadInputError

IMAGES = toy_images(np.array([1, 6, 3]), np.array([7, 2, 5]))


def shown(box) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(box.picture.value)))


def expected(i: int, j: int, semantic: float, style: float) -> np.ndarray:
    codec = ToyCodec()
    z = codec.encode(IMAGES)
    mixed = edits.lerp_blocks(ToySplit(), z[i : i + 1], z[j : j + 1], semantic=semantic, style=style)
    return (codec.decode(mixed)[0] * 255).round().byte().movedim(0, -1).numpy()


def test_the_picture_follows_every_control_at_once():
    box = widgets.explorer(ToyCodec(), ToySplit(), list(IMAGES))
    assert np.array_equal(shown(box), expected(0, 1, 0, 0.9))
    box.semantic.value = 0.5
    assert np.array_equal(shown(box), expected(0, 1, 0.5, 0.9))
    box.style.value = 0.0
    assert np.array_equal(shown(box), expected(0, 1, 0.5, 0))
    box.target.value = 2
    assert np.array_equal(shown(box), expected(0, 2, 0.5, 0))
    box.original.value = 1
    assert np.array_equal(shown(box), expected(1, 2, 0.5, 0))


def test_two_pictures_may_be_given_one_by_one():
    box = widgets.explorer(ToyCodec(), ToySplit(), IMAGES[0], IMAGES[1], names=["a", "b"])
    assert [label for label, _ in box.target.options] == ["a", "b"]
    assert np.array_equal(shown(box), expected(0, 1, 0, 0.9))


def test_pictures_are_encoded_once():
    codec = ToyCodec()
    box = widgets.explorer(codec, ToySplit(), IMAGES)
    box.semantic.value = 0.3
    assert (codec.n_encoded, codec.n_decoded) == (3, 2)


def test_bad_input_is_one_clear_sentence():
    with pytest.raises(BadInputError, match="at least two"):
        widgets.explorer(ToyCodec(), ToySplit(), [IMAGES[0]])
    with pytest.raises(BadInputError, match="one size"):
        widgets.explorer(ToyCodec(), ToySplit(), [IMAGES[0], torch.rand(3, 8, 8)])
    with pytest.raises(BadInputError, match="one for each"):
        widgets.explorer(ToyCodec(), ToySplit(), list(IMAGES), names=["a"])
