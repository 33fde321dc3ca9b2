"""Sheets of small pictures and code maps: what is drawn where, and bad input."""

import numpy as np
import pytest
import torch

from sketchae import figures
from sketchae.errors import BadInputError


def test_a_sheet_shows_pictures_row_by_row_and_ink_dark():
    pictures = torch.zeros(4, 1, 2, 2)
    pictures[1] = 1  # all ink: the second of the first row
    figure = figures.contact_sheets({"one": pictures, "other": pictures}, 2, width_in=3)
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    assert drawn.shape == (6, 6, 3) and len(figure.axes) == 2  # a white pixel beside and below each
    assert drawn[:2, 3:5].max() == 0 and drawn[:, :3].min() == 1 and drawn[3:].min() == 1 and drawn[:, 5].min() == 1
    assert figure.axes[1].get_title() == "other"


def test_a_sheet_of_colours_stays_in_colour():
    pictures = torch.rand(6, 3, 2, 2)
    drawn = np.asarray(figures.contact_sheets({"colours": pictures}, 3).axes[0].images[0].get_array())
    assert drawn.shape == (6, 9, 3) and drawn[2].min() == drawn[:, 8].min() == 1
    assert drawn[3:5, 6:8] == pytest.approx(pictures[5].permute(1, 2, 0).numpy(), abs=1e-6)


def test_codes_stand_between_a_picture_and_what_they_decode_to():
    pictures, codes = torch.rand(3, 3, 8, 8), torch.randint(0, 16, (3, 4, 4))
    figure = figures.code_maps(pictures, codes, 1 - pictures, 16)
    shown = [np.asarray(ax.images[0].get_array()) for ax in figure.axes]
    assert len(shown) == 9
    assert shown[1] == pytest.approx(pictures[1].permute(1, 2, 0).numpy(), abs=1e-6)
    assert (shown[3 + 2] == codes[2].numpy()).all() and figure.axes[3].images[0].get_clim() == (0, 15)


def test_bad_input_is_refused():
    with pytest.raises(BadInputError, match="at least one sheet"):
        figures.contact_sheets({}, 2)
    with pytest.raises(BadInputError, match="multiple"):
        figures.contact_sheets({"one": torch.zeros(5, 1, 2, 2)}, 2)
    with pytest.raises(BadInputError, match="as many of each"):
        figures.code_maps(torch.zeros(2, 3, 4, 4), torch.zeros(1, 2, 2), torch.zeros(2, 3, 4, 4), 4)
