"""The two probes that `sketchae.metrics.probes` reads factors with.

- "linear": ridge regression of one-hot values on the flattened, standardised block; the largest output names the value.
  Closed form. Values whose features lie on one line are its blind spot: the middle ones are masked
  (Hastie, Tibshirani & Friedman 2009, section 4.2).
- "conv": a small convolutional network with one head a factor, trained on all factors at once.

Both are trained on a block of training rows, where `codes` numbers each factor's values 0, 1, … and `sizes` counts them,
and name the codes of the test rows. What goes in is not checked here: `sketchae.metrics.probes.read_factors` does that.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sketchae.metrics.bootstrap import generator

HELD_OUT = 0.2  # share of the training rows on which the ridge strength is chosen
STRENGTHS = np.logspace(-4, 2, 13)  # ridge strengths tried, in units of the number of rows
N_EPOCHS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 12, 64, 2e-3, 1e-2  # of the convolutional probe


def ridge_predictions(
    x_train: Float[Tensor, "n channels height width"],
    codes: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
    x_test: Float[Tensor, "m channels height width"],
    name: str,
) -> dict[str, Int[np.ndarray, " m"]]:
    """Codes read from the test rows; each factor has its own strength, the best on held-out training rows.

    Among equally good strengths the strongest is taken; the probe is then fitted to all training rows.
    """
    x_train, x_test = _flat(x_train), _flat(x_test)
    y = np.concatenate([np.eye(sizes[factor])[codes[factor]] for factor in codes], 1)
    ends = np.cumsum([sizes[factor] for factor in codes])
    columns = {factor: slice(end - sizes[factor], end) for factor, end in zip(codes, ends)}
    order = generator(f"{name}/held out").permutation(len(x_train))
    n_held_out = max(1, round(HELD_OUT * len(x_train)))
    held_out, fit = order[:n_held_out], order[n_held_out:]

    tried = _ridge_path(x_train[fit], y[fit], x_train[held_out], STRENGTHS)
    chosen = {}
    for factor, column in columns.items():
        accuracies = (tried[..., column].argmax(-1) == codes[factor][held_out]).mean(1)
        chosen[factor] = len(STRENGTHS) - 1 - int(accuracies[::-1].argmax())
    final = _ridge_path(x_train, y, x_test, STRENGTHS[sorted(set(chosen.values()))])
    position = {index: row for row, index in enumerate(sorted(set(chosen.values())))}
    return {factor: final[position[chosen[factor]], :, column].argmax(-1) for factor, column in columns.items()}


class ConvProbe(nn.Module):
    """Three 3×3 convolutions (two of stride 2), pooled to at most 4×4, one hidden layer, one linear head a factor."""

    def __init__(self, channels: int, sizes: Mapping[str, int]):
        super().__init__()
        layers: list[nn.Module] = []
        for before, width, stride in ((channels, 32, 2), (32, 64, 2), (64, 64, 1)):
            convolution = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        self.trunk = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64 * 16, 128), nn.ReLU()
        )
        self.heads = nn.ModuleList(nn.Linear(128, size) for size in sizes.values())  # a factor may have any name
        self.names = list(sizes)

    def forward(self, x: Float[Tensor, "n channels height width"]) -> dict[str, Float[Tensor, "n values"]]:
        """Logits of every factor."""
        features = self.trunk(x)
        return {name: head(features) for name, head in zip(self.names, self.heads)}


def conv_predictions(
    x_train: Float[Tensor, "n channels height width"],
    codes: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
    x_test: Float[Tensor, "m channels height width"],
    name: str,
) -> dict[str, Int[np.ndarray, " m"]]:
    """Codes read by a `ConvProbe` after `N_EPOCHS` of AdamW with a one-cycle learning rate; nothing is selected.

    Every channel is standardised with its training mean and standard deviation. Weights and dropout are drawn from the
    probe's own seed, and the caller's random state is left as it was.
    """
    x_train, x_test = x_train.detach().cpu().float(), x_test.detach().cpu().float()
    mean, std = x_train.mean((0, 2, 3), keepdim=True), x_train.std((0, 2, 3), keepdim=True)
    scale = torch.where(std > 1e-6 * (mean.abs() + 1e-6), std, torch.inf)
    x_train, x_test = (x_train - mean) / scale, (x_test - mean) / scale
    labels = {factor: torch.from_numpy(np.ascontiguousarray(code)) for factor, code in codes.items()}
    random = generator(f"{name}/conv/batches")
    n_batches = -(-len(x_train) // BATCH_SIZE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(f"{name}/conv/weights").integers(2**63)))
        probe = ConvProbe(x_train.shape[1], sizes)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=N_EPOCHS * n_batches)
        for _ in range(N_EPOCHS):
            # Batches of nearly equal size: none is too small for batch normalisation.
            for rows in torch.from_numpy(random.permutation(len(x_train))).tensor_split(n_batches):
                logits = probe(x_train[rows])
                loss = sum(nn.functional.cross_entropy(logits[factor], labels[factor][rows]) for factor in labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    probe.eval()
    with torch.no_grad():
        parts = [probe(batch) for batch in x_test.split(256)]
    return {factor: torch.cat([part[factor].argmax(1) for part in parts]).numpy() for factor in labels}


def _ridge_path(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n m"], x_new: Float[np.ndarray, "r d"], strengths: np.ndarray
) -> Float[np.ndarray, "strengths r m"]:
    """Ridge predictions x_new (XᵀX + λI)⁻¹ Xᵀ Y + mean(Y) for each λ = strength · n, from one eigenproblem.

    The smaller of XᵀX and XXᵀ is decomposed; the predictions are the same.
    """
    x, x_new = _standardised(x, x_new)
    mean = y.mean(0)
    if len(x) >= x.shape[1]:
        eigenvalues, vectors = np.linalg.eigh(x.T @ x)
        left, right = x_new @ vectors, vectors.T @ (x.T @ (y - mean))
    else:
        eigenvalues, vectors = np.linalg.eigh(x @ x.T)
        left, right = (x_new @ x.T) @ vectors, vectors.T @ (y - mean)
    eigenvalues = eigenvalues.clip(min=0)[:, None]
    return np.stack([left @ (right / (eigenvalues + strength * len(x))) for strength in strengths]) + mean


def _standardised(
    train: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
    """Both, minus the training mean, over the training standard deviation; a constant feature becomes 0."""
    mean, std = train.mean(0), train.std(0)
    scale = np.where(std > 1e-9 * (np.abs(mean) + 1e-12), std, np.inf)
    return (train - mean) / scale, (test - mean) / scale


def _flat(x: Tensor) -> Float[np.ndarray, "n d"]:
    return x.detach().flatten(1).cpu().double().numpy()
