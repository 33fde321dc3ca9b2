"""What a preprocessing run did, for the notebook and for the terminal."""

from dataclasses import dataclass
from pathlib import Path

PARTS = {
    "reading_s": "reading",
    "vae_s": "VAE",
    "clip_image_s": "CLIP images",
    "clip_text_s": "CLIP texts",
    "writing_s": "writing",
}


@dataclass(frozen=True)
class PreprocessReport:
    """The content of `preprocess.json`, and what this call added to it.

    Attributes:
        n_rows: usable images by split.
        skipped: what was left out: {"split", "index", "id", "reason"} each.
        clipped_share: share of the latent entries at the clip, in [0, 1]; None without a clip.
        timings: seconds by part ("reading_s", "vae_s", ...), summed over all runs and processes; "n_images" likewise.
            Parts overlap, each in a thread of its own, so that their sum is more than the time that passed.
        n_computed: images that this call encoded (the others were there already).
        wall_s: how long this call took.
    """

    out_dir: Path
    n_rows: dict[str, int]
    skipped: list[dict]
    clipped_share: float | None
    timings: dict[str, float]
    configuration: dict
    n_computed: int
    wall_s: float

    @classmethod
    def from_summary(cls, out_dir: Path, summary: dict, n_computed: int, wall_s: float) -> "PreprocessReport":
        return cls(
            out_dir=out_dir,
            n_rows={split: content["n_rows"] for split, content in summary["splits"].items()},
            skipped=summary["skipped"],
            clipped_share=summary["clipped_share"],
            timings=summary["timings"],
            configuration=summary["configuration"],
            n_computed=n_computed,
            wall_s=wall_s,
        )

    @property
    def time_shares(self) -> dict[str, float]:
        """The share of each part in the time of all of them; they sum to 1."""
        seconds = {label: self.timings.get(key, 0.0) for key, label in PARTS.items()}
        total = sum(seconds.values()) or 1.0
        return {label: value / total for label, value in seconds.items()}

    def __str__(self) -> str:
        lines = [
            f"{self.out_dir}: " + ", ".join(f"{split} {n:,}" for split, n in self.n_rows.items()) + " images",
            f"encoded now: {self.n_computed:,} in {self.wall_s:.1f} s"
            + (f" ({self.n_computed / self.wall_s:.1f} images/s)" if self.n_computed else ""),
            "time: " + ", ".join(f"{label} {share:.0%}" for label, share in self.time_shares.items()),
        ]
        if self.clipped_share is not None:
            lines.append(f"latents at the clip: {self.clipped_share:.3%}")
        for entry in self.skipped[:10]:
            lines.append(f"skipped: {entry['split']} {entry['id']}: {entry['reason']}")
        if len(self.skipped) > 10:
            lines.append(f"skipped: {len(self.skipped) - 10} more, listed in {self.out_dir / 'preprocess.json'}")
        return "\n".join(lines)
