"""What tests/test_hub.py runs in a process of its own: HF_ENDPOINT is read when the hub's libraries are imported.

python hub_scenario.py REPOSITORIES CACHE     prints one line of JSON
"""

import json
import os
import sys
import time
from pathlib import Path

from hub_stand_in import HubStandIn

VAE, CLIP, COCO = "madebyollin/taesdxl", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "romrawinjp/mscoco"


def main(repositories: Path, cache: Path) -> dict:
    answer: dict = {}
    hub = HubStandIn(
        models={VAE: repositories / "vae", CLIP: repositories / "clip"}, datasets={COCO: repositories / "coco"}
    )
    os.environ.update(hub.environment(cache))
    from sketchae.backbones import load_clip, load_vae
    from sketchae.data import HubSource
    from sketchae.errors import SketchaeError

    def refusals(**calls) -> dict[str, list[str]]:
        said = {}
        for name, call in calls.items():
            try:
                said[name] = ["no error", repr(call())]
            except SketchaeError as error:
                said[name] = [type(error).__name__, str(error)]
        return said

    def load() -> list[list[str]]:
        return [[b.id, b.revision] for b in (load_vae(VAE, device="cpu"), load_clip(CLIP, device="cpu"))]

    with hub:
        answer["not_yet"] = refusals(
            vae=lambda: load_vae(VAE, local_files_only=True),
            no_repository=lambda: load_vae("nobody/nothing"),
            no_revision=lambda: load_vae(VAE, revision="no-such-branch"),
            no_vae_inside=lambda: load_vae(CLIP),
            no_dataset=lambda: HubSource("nobody/nothing"),
            no_dataset_revision=lambda: HubSource(COCO, revision="no-such-branch"),
        )
        hub.requests.clear()
        answer["first"], answer["first_requests"] = load(), list(hub.requests)
        answer["commits"] = [hub.commit("models", VAE), hub.commit("models", CLIP), hub.commit("datasets", COCO)]
        hub.requests.clear()
        answer["second"], answer["second_requests"] = load(), list(hub.requests)
        source = HubSource(COCO, limits={"train": 30})
        answer["coco"] = {
            "n": [source.n_examples(split) for split in source.splits],
            "revision": source.revision,
            "fingerprint": source.fingerprint("train"),
            "last": [row.id for row in source.load("train", 27, 40)],
            "first": [type(row).__name__ for row in source.load("train", 0, 4)],
            "requests": list(hub.requests),
        }
        at_commit = HubSource(COCO, revision=source.revision)
        answer["coco"]["same_at_commit"] = at_commit.fingerprint("val") == HubSource(COCO).fingerprint("val")
    # From here on nothing answers: what is stored still loads, the rest is refused with the remedy.
    time.sleep = lambda seconds: None  # the libraries try again after 1, 2, 4, 8 and 8 seconds
    answer["third"] = load()
    answer["gone"] = refusals(
        vae=lambda: load_vae("madebyollin/taesd"),
        dataset=lambda: HubSource("nobody/else"),
        rows=lambda: at_commit.load("train", 20, 22),
    )
    return answer


if __name__ == "__main__":
    print("ANSWER" + json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
