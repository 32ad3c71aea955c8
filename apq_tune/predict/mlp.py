"""The accuracy predictor of APQ (Wang 2020): a full-precision MLP on architectures, transferred to one on bits as well.

``h = relu(W0 x_arch + b0) + (Wq x_bits + bq)``, then relu layers, then a linear output. Without the second term it is
the full-precision predictor; transfer starts from that one's weights with the second term at zero. torch trains
it; NumPy and SciPy evaluate it, so that a search need not load torch. The product with the architecture's one-hot input
is a sparse one, two to three times as quick as dense; with the bits, of which more are set, dense is quicker.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from apq_tune.predict.losses import SHARPNESS, Loss
from apq_tune.predict.pairs import Floats, Pairs, Scale
from apq_tune.predict.training import scaled, train
from apq_tune.space.encoding import Featured, Genomes

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float32]

BATCH = 500
"""Number of candidates per batch, such that activations fit into the processor's cache."""


@dataclass(frozen=True)
class MLPSettings:
    """Settings of training with AdamW on all pairs at once.

    Attributes:
        hidden: Width of the three hidden layers.
        steps: Number of optimizer steps.
        learning_rate: Initial learning rate, with cosine decay.
        weight_decay: Weight decay of AdamW.
        loss: What is minimised, see ``training_loss``. Outputs whose order alone was trained are scaled to the targets
            afterwards.
        sharpness: Slope of the loss ``"diffkendall"``.
    """

    hidden: int = 128
    steps: int = 300
    learning_rate: float = 3e-3
    weight_decay: float = 1.0
    loss: Loss = "mse"
    sharpness: float = SHARPNESS


@dataclass(frozen=True)
class MLPPredictor:
    """Trained MLP.

    Attributes:
        encoding: Encoding of the search space.
        weights: ``(in, out)`` matrices and ``(out,)`` biases by name: ``W0 b0 W1 b1 W2 b2 W3 b3``, and ``Wq bq`` if
            bits are an input.
        scale: Scale of the target.
    """

    encoding: Featured
    weights: dict[str, Array]
    scale: Scale

    @property
    def name(self) -> str:
        """Name of the metric."""
        return self.scale.name

    @property
    def unit(self) -> str:
        """Unit of the predictions."""
        return self.scale.unit

    @property
    def sees_bits(self) -> bool:
        """Whether bits are an input."""
        return "Wq" in self.weights

    def __call__(self, genomes: Genomes) -> Floats:
        """Cross-entropies in nats, or accuracies as fractions, shape ``(n,)``."""
        return self.scale.restore(self.standardised(genomes))

    def standardised(self, genomes: Genomes) -> Floats:
        """Predictions in units of the standardised target, shape ``(n,)``."""
        batches = [genomes[start : start + BATCH] for start in range(0, len(genomes), BATCH)]
        return np.concatenate([np.zeros(0), *map(self._standardised, batches)])

    def _standardised(self, genomes: Genomes) -> Floats:
        w = self.weights
        h = np.maximum(self.encoding.arch_matrix(genomes) @ w["W0"] + w["b0"], 0)
        if self.sees_bits:
            h += self.encoding.features(genomes)[:, self.encoding.n_arch_features :] @ w["Wq"] + w["bq"]
        for layer in "12":
            h = np.maximum(h @ w[f"W{layer}"] + w[f"b{layer}"], 0)
        return np.asarray((h @ w["W3"] + w["b3"])[:, 0], np.float64)


def mlp_shapes(encoding: Featured, hidden: int, *, bits: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of a predictor by name; those of the bits come last."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, sizes in enumerate(itertools.pairwise([encoding.n_arch_features, hidden, hidden, hidden, 1])):
        shapes |= {f"W{layer}": sizes, f"b{layer}": sizes[1:]}
    return shapes | ({"Wq": (encoding.n_bit_features, hidden), "bq": (hidden,)} if bits else {})


def _initial(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Kaiming-uniform matrices, zero biases (He 2015)."""
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    bound = np.sqrt(6 / max(shape[0], 1))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def fit_mlp(
    encoding: Featured,
    pairs: Pairs,
    seed: int,
    *,
    bits: bool,
    start: MLPPredictor | None = None,
    log: bool = True,
    settings: MLPSettings | None = None,
) -> MLPPredictor:
    """Fit an MLP to pairs.

    Args:
        encoding: Encoding of the search space.
        pairs: Training pairs.
        seed: Seed of the initial weights.
        bits: Whether bits are an input.
        start: Predictor to transfer the initial weights from; weights of the bits that it lacks start at zero.
        log: Whether the target is a loss, whose logarithm is predicted, or an accuracy, which is predicted itself.
        settings: Settings of the training.
    """
    import torch

    settings = settings or MLPSettings()
    bits = bits and encoding.n_bit_features > 0  # named choices have none
    rng = np.random.default_rng(seed)
    if start is None:
        shapes = mlp_shapes(encoding, settings.hidden, bits=bits)
        weights = {name: _initial(shape, rng) for name, shape in shapes.items()}
    else:
        shapes = mlp_shapes(encoding, start.weights["b0"].size, bits=bits)
        weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()} | start.weights
    w = {name: torch.tensor(value, requires_grad=True) for name, value in weights.items()}
    scale = Scale.of(pairs.target, log=log)
    target = scale.standardise(pairs.target)
    features = torch.from_numpy(encoding.features(pairs.genomes))
    x_arch, x_bits = features[:, : encoding.n_arch_features], features[:, encoding.n_arch_features :]

    def outputs() -> Tensor:
        h = torch.relu(torch.addmm(w["b0"], x_arch, w["W0"]))
        if bits:
            h = h + torch.addmm(w["bq"], x_bits, w["Wq"])
        h = torch.relu(torch.addmm(w["b1"], h, w["W1"]))
        h = torch.relu(torch.addmm(w["b2"], h, w["W2"]))
        return torch.addmm(w["b3"], h, w["W3"])[:, 0]

    fitted = MLPPredictor(encoding, train(w, outputs, target, settings), scale)
    if settings.loss == "mse":
        return fitted
    scores = fitted.standardised(pairs.genomes)
    return replace(fitted, weights=scaled(fitted.weights, ("W3", "b3"), scores, target))
