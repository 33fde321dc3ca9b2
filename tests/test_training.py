"""Training: that it learns, that it resumes to the same bits, that processes and companions do not change it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import accelerate
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from two_processes import run_in_two

from benchmarks.training import write_latents
from sketchae.basis import plane_angle, random_basis
from sketchae.errors import BadInputError, MissingFileError, NoSpaceError
from sketchae.latents import open_latents
from sketchae.training import (
    BatchOrder,
    Latents,
    TensorLatents,
    TrainConfig,
    TrainResult,
    train_basis,
    train_seeds,
    train_without_data,
)
from sketchae.training.__main__ import main

WIDTH = 12
FAST = TrainConfig(n_steps=24, batch_size=8, n_blocks=2, val_every=8, checkpoint_every=5, lr=1e-3)


def world(n: int, seed: int = 0, planted: torch.Tensor | None = None) -> TensorLatents:
    """Latents of 4x4x4 whose first two planted channels decide the caption and whose other two decide the rest."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, 1, 1, generator=generator) + 0.3 * torch.randn(n, 4, 4, 4, generator=generator)
    z = x if planted is None else torch.einsum("ji,bjhw->bihw", planted, x)
    read = torch.randn(2, 2, WIDTH, generator=torch.Generator().manual_seed(99))
    text = F.normalize(torch.tanh(2 * x[:, :2].mean((2, 3))) @ read[0] + 0.1, dim=-1)
    image = F.normalize(text + torch.tanh(2 * x[:, 2:].mean((2, 3))) @ read[1], dim=-1)
    captions = [text[i].expand(1 + i % 3, -1) for i in range(n)]
    return TensorLatents(z, image, captions)


@pytest.fixture(scope="module")
def tables() -> tuple[TensorLatents, TensorLatents]:
    return world(30), world(12, seed=1)


def without_time(history: list[dict]) -> list[dict]:
    return [{name: value for name, value in record.items() if name != "wall_s"} for record in history]


def assert_same(one: TrainResult, other: TrainResult) -> None:
    assert torch.equal(one.weight, other.weight) and torch.equal(one.start_weight, other.start_weight)
    assert without_time(one.history) == without_time(other.history)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_every_epoch_shows_every_picture_once_and_captions_evenly():
    counts = np.array([1, 2, 5, 3])
    order = BatchOrder(counts, seed=0)
    rows, which = order.take(0, 4 * 2000)
    for epoch in rows.reshape(-1, 4):
        assert sorted(epoch) == [0, 1, 2, 3]
    for row, count in enumerate(counts):
        seen = np.bincount(which[rows == row], minlength=count)
        assert len(seen) == count and np.abs(seen / 2000 - 1 / count).max() < 0.06
    # Any part of the stream alone is that part of the whole; another seed is another stream.
    part = order.take(1003, 1010)
    assert np.array_equal(part[0], rows[1003:1010]) and np.array_equal(part[1], which[1003:1010])
    assert not np.array_equal(BatchOrder(counts, seed=1).take(0, 40)[0], rows[:40])


def test_tensor_latents_gather_what_was_put_in(tables):
    table = tables[0]
    assert isinstance(table, Latents)
    assert table.latent_shape == (4, 4, 4) and table.embed_dim == WIDTH and len(table) == 30
    z, clip_img = table.gather(np.array([5, 2]))
    assert torch.equal(z, table.z[[5, 2]]) and torch.equal(clip_img, table.clip_img[[5, 2]])
    texts = [torch.full((i + 1, 3), float(i)) + torch.arange(i + 1)[:, None] for i in range(3)]
    ragged = TensorLatents(torch.zeros(3, 4, 2, 2), torch.zeros(3, 3), texts)
    assert ragged.gather_captions(np.array([2, 0]), which=np.array([1, 0]))[:, 0].tolist() == [3.0, 0.0]


def test_tensor_latents_refuse_what_does_not_belong_together():
    z, image, text = torch.zeros(3, 4, 2, 2), torch.zeros(3, 5), torch.zeros(3, 2, 5)
    for wrong, message in (
        ((z[:2], image, text), "do not belong together"),
        ((z[:0], image[:0], text[:0]), "at least one picture"),
        ((z, image, [torch.zeros(1, 5), torch.zeros(0, 5), torch.zeros(1, 5)]), "Picture 1 has no caption"),
        ((z, image, torch.zeros(3, 2, 6)), "same CLIP model"),
        ((z / 0, image, text), "z holds values that are not finite"),
    ):
        with pytest.raises(BadInputError, match=message):
            TensorLatents(*wrong)


# --- learning --------------------------------------------------------------------------------------------------------


def test_it_finds_a_planted_plane(tmp_path):
    planted = random_basis(4, 2, 3).Q
    train, val = world(256, planted=planted), world(64, seed=1, planted=planted)
    config = TrainConfig(n_steps=200, batch_size=32, n_blocks=1, val_every=200, lr=2e-2)
    result = train_basis(train, val, config, tmp_path, progress=False)
    first, last = result.history[0], result.history[-1]
    assert last["val_loss"] < 0.3 * first["val_loss"]
    assert last["orthogonality_error"] < 0.3 < first["orthogonality_error"]
    assert plane_angle(result.weight, planted, 2).max() < 5 < plane_angle(result.start_weight, planted, 2).max()
    assert last["angle_from_start_deg"] == pytest.approx(plane_angle(result.weight, result.start_weight, 2).max())
    # The control without data becomes orthogonal too, and knows nothing of the plane.
    alone = train_without_data(result)
    assert (alone.T @ alone - torch.eye(4)).norm() < 0.3
    assert plane_angle(alone, planted, 2).max() > 20
    assert torch.equal(alone, train_without_data(result))
    by_construction = dataclasses.replace(result, config=dataclasses.replace(config, parametrization="orthogonal"))
    with pytest.raises(BadInputError, match="by construction"):
        train_without_data(by_construction)


def test_history_says_what_happened(tables, tmp_path):
    seen = []
    result = train_basis(
        *tables, FAST, tmp_path, progress=False, on_record=lambda step, records: seen.append((step, records))
    )
    assert [record["step"] for record in result.history] == [0, 8, 16, 24] == [step for step, _ in seen]
    assert without_time(result.history) == without_time([records[0] for _, records in seen])
    start, last = result.history[0], result.history[-1]
    assert start["train_loss"] is None and start["angle_from_start_deg"] == pytest.approx(0, abs=1e-6)
    assert last["epoch"] == pytest.approx(24 * 8 / 30) and last["lr"] == FAST.lr and result.n_steps == 24
    for split in ("train", "val"):
        assert last[f"{split}_loss"] == pytest.approx(
            sum(last[f"{split}_{t}"] for t in ("orthogonality", "semantic", "style"))
        )
    eye = torch.eye(4)
    assert last["orthogonality_error"] == pytest.approx(torch.linalg.norm(result.weight.T @ result.weight - eye).item())
    walls = [record["wall_s"] for record in result.history]
    assert walls == sorted(walls) and result.wall_s >= walls[-1]
    json.dumps(result.history, allow_nan=False)


def test_same_seed_same_bits_other_seed_other_result(tables, tmp_path):
    results = [train_basis(*tables, FAST, tmp_path / name, progress=False) for name in "ab"]
    assert_same(*results)
    other = train_basis(*tables, TrainConfig(**{**vars(FAST), "seed": 1}), tmp_path / "c", progress=False)
    assert not torch.equal(other.weight, results[0].weight)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "l1", "orthogonality_reduction": "sum"},
        {"parametrization": "orthogonal"},
        {"n_semantic": 1, "n_epochs": 2.0},
        {"precision": "bf16"},
    ],
)
def test_choices_run_and_resume(tables, tmp_path, changes):
    config = TrainConfig(**{**vars(FAST), "n_steps": 8, "val_every": 4, **changes})
    whole = train_basis(*tables, config, tmp_path / "whole", progress=False)
    assert np.isfinite(whole.history[-1]["val_loss"])
    if config.parametrization == "orthogonal":
        assert whole.history[-1]["orthogonality_error"] < 1e-5 and whole.history[-1]["angle_from_start_deg"] > 0
    if config.n_epochs:
        assert whole.n_steps == round(2 * 30 / 8)
    with pytest.raises(Interruption):
        train_basis(*tables, config, tmp_path / "parts", progress=False, on_record=interrupt_at(whole.n_steps))
    assert_same(train_basis(*tables, config, tmp_path / "parts", progress=False), whole)


# --- interruptions ---------------------------------------------------------------------------------------------------


class Interruption(Exception):
    pass


def interrupt_at(step: int):
    def on_record(now, records):
        if now == step:
            raise Interruption

    return on_record


@pytest.mark.parametrize("step", [0, 8, 16, 24])
def test_interrupted_and_resumed_it_arrives_at_the_same_bits(tables, tmp_path, step):
    whole = train_basis(*tables, FAST, tmp_path / "whole", progress=False)
    with pytest.raises(Interruption):
        train_basis(*tables, FAST, tmp_path / "parts", progress=False, on_record=interrupt_at(step))
    with pytest.raises(MissingFileError, match="train first"):
        TrainResult.load(tmp_path / "parts")
    assert_same(train_basis(*tables, FAST, tmp_path / "parts", progress=False), whole)


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import accelerate, torch
from test_training import FAST, world
from sketchae.processes import new_accelerator
from sketchae.training import TrainConfig, train_basis, train_seeds

torch.set_num_threads(1)
out, kill_at, seeds = sys.argv[1], int(sys.argv[2]), [int(seed) for seed in sys.argv[3:]]

def on_record(step, records):
    if step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

assert new_accelerator().num_processes == {processes}
train_seeds(world(30), world(12, seed=1), FAST, out, seeds, progress=False, on_record=on_record)
accelerate.PartialState().destroy_process_group()
"""


def script(folder: Path, processes: int) -> Path:
    path = folder / "train_in_a_process.py"
    path.write_text(SCRIPT.format(tests=str(Path(__file__).resolve().parent), processes=processes))
    return path


def test_killed_it_resumes_to_the_same_bits(tables, tmp_path):
    command = [sys.executable, script(tmp_path, 1), tmp_path / "out", "16", "0", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "out" / "seed-0").exists()
    resumed = train_seeds(*tables, FAST, tmp_path / "out", [0, 1], progress=False)
    whole = train_seeds(*tables, FAST, tmp_path / "whole", [0, 1], progress=False)
    for seed in (0, 1):
        assert_same(resumed[seed], whole[seed])


def test_two_processes_train_the_same_q(tables, tmp_path):
    run = run_in_two(script(tmp_path, 2), tmp_path / "two", "-1", "0", "1")
    assert run.returncode == 0, run.stderr
    one = train_seeds(*tables, FAST, tmp_path / "one", [0, 1], progress=False)
    for seed in (0, 1):
        two = TrainResult.load(tmp_path / "two" / f"seed-{seed}")
        # The same batches, summed in another order: rounding is all that may differ after 24 steps.
        assert torch.allclose(two.weight, one[seed].weight, atol=1e-5)
        for a, b in zip(without_time(two.history), without_time(one[seed].history), strict=True):
            known = {name: value for name, value in b.items() if value is not None}
            assert {name: a[name] for name in known} == pytest.approx(known, rel=1e-3, abs=1e-5)


# --- several seeds ---------------------------------------------------------------------------------------------------


def test_seeds_side_by_side_equal_seeds_alone(tables, tmp_path):
    together = train_seeds(*tables, FAST, tmp_path / "together", [0, 1, 2], progress=False)
    apart = train_seeds(*tables, FAST, tmp_path / "apart", [0, 1, 2], progress=False, together=False)
    for seed in (0, 1, 2):
        assert torch.equal(together[seed].start_weight, apart[seed].start_weight)
        assert torch.allclose(together[seed].weight, apart[seed].weight, atol=1e-5)
        assert together[seed].config.seed == seed
    assert together[0].n_together == 3 and apart[0].n_together == 1


def test_finished_seeds_are_skipped_and_more_steps_continue(tables, tmp_path):
    first = train_seeds(*tables, FAST, tmp_path, [0], progress=False)
    records = []
    both = train_seeds(*tables, FAST, tmp_path, [0, 1], progress=False, on_record=lambda s, r: records.append(len(r)))
    assert_same(both[0], first[0])
    assert set(records) == {1}  # only the new seed was trained
    assert train_seeds(*tables, FAST, tmp_path, [1, 0], progress=False).keys() == {0, 1}
    longer = TrainConfig(**{**vars(FAST), "n_steps": 32})
    continued = train_basis(*tables, longer, tmp_path / "one", progress=False)
    train_basis(*tables, FAST, tmp_path / "two", progress=False)
    assert_same(train_basis(*tables, longer, tmp_path / "two", progress=False), continued)
    with pytest.raises(BadInputError, match="one or more different"):
        train_seeds(*tables, FAST, tmp_path, [0, 0])


def test_a_plateau_ends_it(tables, tmp_path):
    config = TrainConfig(**{**vars(FAST), "plateau_patience": 1, "plateau_tolerance": 0.9})
    results = train_seeds(*tables, config, tmp_path, [0, 1], progress=False)
    for result in results.values():
        assert result.stopped_early and result.n_steps == 8 and result.n_together == 1
    again = train_seeds(*tables, config, tmp_path, [0, 1], progress=False)
    assert_same(again[1], results[1])


# --- the command line and the files of preprocessing -----------------------------------------------------------------


def test_from_the_command_line_with_latents_on_disk(tmp_path, capsys):
    write_latents(tmp_path / "latents", {"train": 20, "val": 8}, (4, 8, 8), WIDTH)
    words = ["--profile", "smoke", "--latents", tmp_path / "latents", "--out", tmp_path / "out", "--quiet"]
    words += ["-p", "n_steps", "6", "-p", "batch_size", "4", "-p", "train_seeds", "(3, 4)", "-p", "val_every", "3"]
    assert main(list(map(str, words))) == 0
    result = TrainResult.load(tmp_path / "out" / "seed-4")
    assert [record["step"] for record in result.history] == [0, 3, 6]
    assert result.config.batch_size == 4 and result.data["latent_shape"] == [4, 8, 8]
    assert "seed 3: 6 steps" in capsys.readouterr().out
    # The table in memory gives the same batches, and so the same result.
    tables = []
    for split in ("train", "val"):
        table = open_latents(tmp_path / "latents", split)
        z, image = table.gather(np.arange(len(table)))
        tables.append(
            TensorLatents(z, image, torch.as_tensor(table.clip_txt[:]).float().unflatten(0, (len(table), -1)))
        )
    alone = train_seeds(*tables, result.config, tmp_path / "memory", [3, 4], progress=False)
    assert torch.equal(alone[4].weight, result.weight)
    assert main(["--latents", str(tmp_path / "nowhere"), "--quiet"]) == 1
    assert "nowhere" in capsys.readouterr().err


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_folder_of_another_run_is_refused(tables, tmp_path):
    with pytest.raises(Interruption):
        train_basis(*tables, FAST, tmp_path / "half", progress=False, on_record=interrupt_at(16))
    train_basis(*tables, FAST, tmp_path / "done", progress=False)
    other = TrainConfig(**{**vars(FAST), "lr": 5e-4})
    shorter = TrainConfig(**{**vars(FAST), "n_steps": 4})
    for folder in (tmp_path / "half", tmp_path / "done"):
        with pytest.raises(BadInputError, match=r"lr was 0.001, is 0.0005.*choose another folder"):
            train_basis(*tables, other, folder, progress=False)
        with pytest.raises(BadInputError, match="n_train was 30, is 29"):
            train_basis(world(29), tables[1], FAST, folder, progress=False)
        with pytest.raises(BadInputError, match="4 are asked for"):
            train_basis(*tables, shorter, folder, progress=False)
    (tmp_path / "half" / "checkpoint.safetensors").write_bytes(b"\x08\x00")
    with pytest.raises(BadInputError, match="damaged"):
        train_basis(*tables, FAST, tmp_path / "half", progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_semantic": 4}, "choose 1 to 3"),
        ({"n_blocks": 3}, "cannot be halved n_blocks=3 times"),
        ({"lr": 1e30}, "no longer finite at step 8: lower lr"),
    ],
)
def test_settings_that_do_not_fit_the_latents(tables, tmp_path, changes, message):
    with pytest.raises(BadInputError, match=message):
        train_basis(*tables, TrainConfig(**{**vars(FAST), **changes}), tmp_path, progress=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "huber"},
        {"parametrization": "free"},
        {"orthogonality_reduction": "none"},
        {"precision": "fp8"},
        {"n_steps": 0},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"orthogonality_weight": -1.0},
        {"n_epochs": 0.0},
        {"plateau_patience": 0},
    ],
)
def test_settings_that_no_run_could_use(changes):
    with pytest.raises(BadInputError, match=next(iter(changes))):
        TrainConfig(**changes)


def test_splits_that_do_not_match(tables, tmp_path):
    other = TensorLatents(torch.zeros(3, 4, 4, 4), torch.zeros(3, 5), torch.zeros(3, 1, 5))
    with pytest.raises(BadInputError, match="same backbones and size"):
        train_basis(tables[0], other, FAST, tmp_path, progress=False)


def test_uneven_shares_and_float16_are_refused(tables, tmp_path, monkeypatch):
    accelerator = accelerate.Accelerator(cpu=True)
    monkeypatch.setattr(type(accelerator), "num_processes", 3)
    with pytest.raises(BadInputError, match="shared evenly by 3 processes"):
        train_basis(*tables, FAST, tmp_path, progress=False, accelerator=accelerator)
    monkeypatch.undo()
    monkeypatch.setattr(type(accelerator), "mixed_precision", "fp16")
    with pytest.raises(BadInputError, match="--mixed_precision no"):
        train_basis(*tables, FAST, tmp_path, progress=False, accelerator=accelerator)


def test_a_full_disk_leaves_the_last_checkpoint(tables, tmp_path, monkeypatch):
    with pytest.raises(Interruption):
        train_basis(*tables, FAST, tmp_path, progress=False, on_record=interrupt_at(16))
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def full(self, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(NoSpaceError, match="free some space"):
            train_basis(*tables, FAST, tmp_path, progress=False)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert train_basis(*tables, FAST, tmp_path, progress=False).n_steps == 24
