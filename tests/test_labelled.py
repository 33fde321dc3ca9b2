"""The label objective, through a codec whose planted channels are the factors and a judge that reads channel means."""

import numpy as np
import pytest
import torch
from toys import gradient_is_right

from sketchae.basis import OrthogonalBasis, plane_angle, random_basis
from sketchae.errors import BadInputError
from sketchae.scenes import FACTORS
from sketchae.scenes.judges import make_judge
from sketchae.training.effect import Objective, Rotated
from sketchae.training.labelled import LabelObjective, fit_labelled

N_VALUES = 4
A, B = torch.arange(0, 32), torch.arange(32, 64)


class PlantedCodec:
    """The channels of the picture are those of x = Q z."""

    def __init__(self, channels: int, k: int, seed: int = 3):
        self.basis = random_basis(channels, k, seed)

    def decode(self, z):
        return self.basis.encode(z)


class MeanJudge:
    """Reads factor c from the mean of channel c: the logit of a value falls with the squared distance from its level."""

    def __init__(self, sharpness: float):
        self.sharpness = sharpness

    def __call__(self, images):
        levels = torch.arange(N_VALUES).to(images) - (N_VALUES - 1) / 2
        return {f"f{c}": -self.sharpness * (mean[:, None] - levels).square() for c, mean in enumerate(images.mean((2, 3)).T)}


class BlindJudge:
    """Ignores the picture: `logits` for every factor and picture."""

    def __init__(self, logits: torch.Tensor):
        self.logits = logits

    def __call__(self, images):
        return {f"f{c}": self.logits.expand(len(images), -1) for c in range(images.shape[1])}


def planted(channels: int = 4, k: int = 2, n: int = 64, judge=None) -> dict:
    values = torch.randint(N_VALUES, (n, channels), generator=torch.Generator().manual_seed(1))
    codec = PlantedCodec(channels, k)
    x = (values - (N_VALUES - 1) / 2)[..., None, None].expand(-1, -1, 2, 2)
    return {
        "codec": codec,
        "judge": judge or MeanJudge(1.0),
        "z": codec.basis.decode(x.contiguous()),
        "factors": {f"f{c}": values[:, c].numpy() for c in range(channels)},
        "kinds": {f"f{c}": "semantic" if c < k else "style" for c in range(channels)},
    }


def exchanged(basis: OrthogonalBasis) -> OrthogonalBasis:
    return OrthogonalBasis.from_matrix(basis.Q.roll(-basis.n_semantic, 0), basis.channels - basis.n_semantic)


def test_each_half_lies_between_0_and_1_and_value_is_the_mean():
    objective = LabelObjective(**planted())
    assert isinstance(objective, Objective)
    for seed in range(5):
        halves = objective(random_basis(4, 2, seed), A, B)
        assert halves.shape == (32, 2) and halves.min() > 0 and halves.max() < 1
        assert objective.value(random_basis(4, 2, seed), A, B, batch_size=5) == pytest.approx(halves.mean(0).tolist())


def test_a_judge_that_ignores_the_picture_gives_a_half_of_each():
    basis = random_basis(4, 2, 0)
    assert torch.equal(LabelObjective(**planted(judge=BlindJudge(torch.zeros(N_VALUES))))(basis, A, B), torch.full((32, 2), 0.5))
    fond_of_one_value = LabelObjective(**planted(judge=BlindJudge(torch.tensor([3.0, 0, 0, 0]))))
    assert torch.allclose(fond_of_one_value(basis, A, B) + fond_of_one_value(basis, B, A), torch.ones(32, 2))


def test_the_planted_split_wins_both_halves_and_exchanging_its_blocks_loses_both():
    objective = LabelObjective(**planted(judge=MeanJudge(8.0)))
    planes = objective.codec.basis
    differs = torch.stack([objective.factors[name][A] != objective.factors[name][B] for name in objective.kinds], 1)
    both = differs[:, :2].any(1) & differs[:, 2:].any(1)
    assert both.sum() > 20
    assert objective(planes, A, B)[both].min() > 0.99
    assert objective(exchanged(planes), A, B)[both].max() < 0.01
    anything = random_basis(4, 2, 9)
    assert torch.allclose(objective(exchanged(anything), A, B), 1 - objective(anything, B, A), atol=1e-5)


def test_only_factors_that_differ_count_and_a_half_without_any_is_a_half():
    toy = planted(n=4)
    toy["factors"] = {"f0": np.array([0, 1, 0, 0]), "f1": np.array([2, 2, 2, 2]), "f2": np.array([1, 1, 1, 3]), "f3": np.array([0, 0, 0, 1])}
    toy["z"] = toy["codec"].basis.decode(torch.tensor(np.stack(list(toy["factors"].values()), 1) - 1.5).float()[..., None, None])
    halves = LabelObjective(**toy)(toy["codec"].basis, torch.tensor([0, 0, 0]), torch.tensor([1, 2, 3]))
    # Margins by hand: ((x - level of the other)^2 - (x - own level)^2) = (difference of values)^2.
    f0, f2, f3 = torch.sigmoid(torch.tensor([1.0, 4.0, 1.0]))
    assert torch.allclose(halves, torch.tensor([[f0, 0.5], [0.5, 0.5], [0.5, (f2 + f3) / 2]]), atol=1e-5)


def test_tau_divides_the_margins():
    soft, hard = LabelObjective(**planted(), tau=4), LabelObjective(**planted())
    basis = random_basis(4, 2, 0)
    assert torch.allclose(soft(basis, A, A.flip(0)), torch.full((32, 2), 0.5), atol=0.49)
    one_factor = {"f0": "semantic", "f2": "style"}  # with one factor a half, logits can be compared
    soft, hard = (LabelObjective(**planted() | {"kinds": one_factor}, tau=tau) for tau in (4, 1.0))
    assert torch.allclose(soft(basis, A, B).logit() * 4, hard(basis, A, B).logit(), atol=1e-3)


def test_the_gradient_agrees_with_finite_differences():
    objective = LabelObjective(**planted(n=16))
    objective.z = objective.z.double()
    turned = Rotated(random_basis(4, 2, 5)).double()
    a, b = torch.arange(0, 8), torch.arange(8, 16)

    assert gradient_is_right(objective, turned, a, b)


@pytest.mark.parametrize(("channels", "k"), [(4, 2), (8, 3)])
def test_it_finds_the_planted_plane_from_a_wrong_start(channels, k):
    toy = planted(channels, k, n=96)
    start = random_basis(channels, k, 10)
    truth = toy["codec"].basis
    assert plane_angle(start.Q, truth.Q, k).max() > 60
    found = fit_labelled(**toy, starts=[start], tau=2, n_steps=70, batch_size=16, n_choice=32, lr=0.1, progress=False)
    assert plane_angle(found.basis.Q, truth.Q, k).max() < 5
    assert found.objective[0] > found.before[0] + 0.3
    assert found.basis.orthogonality_error < 1e-5


def test_a_fit_can_be_repeated_and_its_name_seeds_the_batches():
    options = {"starts": [random_basis(4, 2, 10)], "n_steps": 3, "batch_size": 4, "n_choice": 4, "progress": False}
    first, again, other = (fit_labelled(**planted(), name=name, **options).basis.Q for name in ("one", "one", "two"))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_network_is_frozen_and_still_passes_gradients_to_the_picture():
    judge = make_judge("a").train()
    random = np.random.default_rng(0)
    factors = {name: random.integers(len(f.values), size=4) for name, f in FACTORS.items()}

    class Enlarged:
        def decode(self, z):
            return torch.nn.functional.interpolate(z[:, :3].sigmoid(), 128)

    objective = LabelObjective(Enlarged(), judge, torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0)), factors)
    turned = Rotated(random_basis(4, 2, 0))
    before = {name: value.clone() for name, value in judge.state_dict().items()}
    halves = objective(turned, torch.tensor([0, 1]), torch.tensor([2, 3]))
    halves.sum().backward()
    assert halves.shape == (2, 2) and turned.A.grad.abs().max() > 0
    assert not judge.training and all(p.grad is None and not p.requires_grad for p in judge.parameters())
    assert all(torch.equal(before[name], value) for name, value in judge.state_dict().items())  # running means of the batch norms too


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kinds": {"f0": "semantic"}}, "at least one"),
        ({"kinds": {"f0": "semantic", "f1": "colour"}}, "at least one"),
        ({"kinds": {}}, "at least one"),
        ({"kinds": {"f0": "semantic", "mood": "style"}}, "mood missing"),
        ({"kinds": None}, "terrain.* missing"),
        ({"tau": 0}, "positive"),
        ({"tau": float("nan")}, "positive"),
        ({"z": torch.zeros(3, 4, 2, 2)}, "at least four"),
        ({"factors": {f"f{c}": np.zeros(63, dtype=np.int64) for c in range(4)}}, "63 values of f0 for 64"),
        ({"factors": {f"f{c}": np.full(64, N_VALUES) for c in range(4)}}, "reads 4 values of f0.*4 to 4"),
        ({"factors": {f"f{c}": torch.full((64,), -1) for c in range(4)}}, "-1 to -1"),
        ({"judge": lambda images: {"f0": torch.zeros(len(images), N_VALUES)}}, "reads 0 values of f1"),
    ],
)
def test_bad_input_is_told(change, message):
    with pytest.raises(BadInputError, match=message):
        LabelObjective(**planted() | change)


def test_a_fit_without_a_start_is_refused():
    with pytest.raises(BadInputError, match="start"):
        fit_labelled(**planted(), starts=[])
