"""Pictures and captions to latents on disk, once: `z`, `clip_img` and `clip_txt` (section 1 of the paper, "data").

`preprocess` does it for any source and networks, `preprocess_profile` for a profile, and
`python -m sketchae.preprocess --profile scenes` from a terminal, alone or under torchrun.
"""

from sketchae.preprocess.from_profile import preprocess_profile
from sketchae.preprocess.report import PreprocessReport
from sketchae.preprocess.run import preprocess

__all__ = ["PreprocessReport", "preprocess", "preprocess_profile"]
