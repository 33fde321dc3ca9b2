"""The README.md that goes with a saved basis: what it is, how to use it, what was measured."""

from collections.abc import Mapping
from importlib import metadata

LIBRARY = "sketchae"
TAGS = ["change-of-basis", "disentanglement", "latent-space", "vae", "clip", "image-editing"]
LICENSE = "mit"
PAPER = "https://github.com/saltyJeff/sketch-autoencoder"  # the original work

# Jinja, filled by huggingface_hub's ModelCard; `card_data` becomes the YAML on top.
TEMPLATE = """---
{{ card_data }}
---

# {{ name }}

One orthogonal {{ channels }}x{{ channels }} matrix Q that rotates the channels of a VAE's latents, pixel by pixel, so that
the first {{ n_semantic }} carry what is in the picture (semantic) and the other {{ channels - n_semantic }} how it looks
(style). Decoding is the transpose, so nothing is lost. The idea and the recipe are those of
[Disentangling EmbEdded Z-Latents]({{ paper_url }}).

- latents of: {{ vae or "not recorded" }}
- channels: {{ channels }}, of which {{ n_semantic }} semantic
- saved by: {{ library_name }} {{ version }}

## Use

```python
from sketchae import OrthogonalBasis

basis = OrthogonalBasis.from_pretrained("{{ repo_id }}")  # or a folder
z_semantic, z_style = basis.to_semantic_style(z)  # z: scaled latents (batch, {{ channels }}, height, width)
z = basis.from_semantic_style(z_semantic, z_style)  # exact up to rounding
```

The latents must be those of the VAE named above, after its own scaling: another VAE's channels mean something else.

## Q

```
{{ matrix }}
```

## Measured

{{ measured }}

## Limits

The two blocks are what one training run found; how well they separate content from style is a matter of degree that
depends on the VAE, the captions and the pictures. Rotating the rows inside a block changes nothing, so only the plane
they span has a meaning, not the single channels.
{% if repo_url %}
Code: {{ repo_url }}
{% endif %}"""


def measured_table(facts: Mapping[str, object] | None) -> str:
    """A markdown table of the facts that were passed in, or a sentence that there are none."""
    if not facts:
        return "Nothing was recorded with this basis."
    rows = [f"| {_cell(name)} | {_cell(f'{v:.4g}' if isinstance(v, float) else str(v))} |" for name, v in facts.items()]
    return "\n".join(["| fact | value |", "|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def repository_url() -> str | None:
    """The address that the installed package was published under; None where it runs from a plain checkout."""
    try:
        urls = metadata.metadata(LIBRARY).get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return None
    return next((url.split(",", 1)[1].strip() for url in urls if url.lower().startswith("repository,")), None)
