"""sketchae: where does meaning live in a latent image model, and how cleanly can it be moved?

One orthogonal matrix Q splits the channels of a frozen VAE's latents into semantic and style channels.
`import sketchae` is light: the names below are imported from their modules at first use, so that neither torch nor
matplotlib loads before it is needed.
"""

import importlib

__version__ = "0.1.0"

# public name -> the module that defines it
_PUBLIC = {
    "OrthogonalBasis": "sketchae.basis",
    "Profile": "sketchae.profiles",
    "SketchLock": "sketchae.sketch_lock",
    "SketchaeError": "sketchae.errors",
    "lerp_blocks": "sketchae.edits",
    "load_clip": "sketchae.backbones",
    "load_profile": "sketchae.profiles",
    "load_vae": "sketchae.backbones",
    "swap": "sketchae.edits",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sketchae' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
