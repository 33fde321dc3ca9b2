"""The eight palettes: one colour, in sRGB, for every role that a part of the picture can play."""

import torch

ROLES = ("sky_top", "sky_low", "far", "near", "main", "accent", "glow")

_HEX = {
    "autumn": ("F3CF9B", "FCEBCB", "D08A3E", "9A5426", "A81F1B", "F4C452", "FF9E1B"),
    "ocean": ("74BDE6", "CDEBF8", "4596C6", "1F6796", "0A2B50", "F6E7B8", "FFFFFF"),
    "forest": ("B5D8AC", "E6F2D6", "79AE70", "3B7A45", "123A20", "E2CF63", "FBF6A8"),
    "candy": ("FFBAD8", "FFE6F1", "F487B4", "84D0CE", "CE2F7C", "FFF9D6", "FFE14D"),
    "lavender": ("B39DE4", "E5DAF8", "9277CF", "6243A6", "2A145F", "F3C7F4", "FFF0B8"),
    "lemon": ("FFEE9E", "FFFADB", "E3C034", "AE8B14", "4A3B05", "FFFFFF", "F7931E"),
    "charcoal": ("BDBDBD", "E8E8E8", "8E8E8E", "5C5C5C", "1C1C1C", "DADADA", "FFFFFF"),
    "midnight": ("0F1433", "2C3B7E", "23707F", "123F54", "F08A4B", "FFE2B0", "FFF3C4"),
}


def palette_table(names: tuple[str, ...]) -> torch.Tensor:
    """Colours in [0, 1] of shape (palettes, roles, 3), in the order of `names` and `ROLES`."""
    return torch.tensor([[[int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)] for c in _HEX[n]] for n in names])
