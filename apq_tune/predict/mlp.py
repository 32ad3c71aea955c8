"""The accuracy predictor of APQ (Wang 2020): a full-precision MLP on architectures, transferred to one on bits as well.

``h = relu(W0 x_arch + b0) + (Wq x_bits + bq)``, then relu layers, then a linear output. Without the second term it is
the full-precision predictor; transfer starts from that one's weights with the second term at zero. torch trains it,
NumPy evaluates it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from apq_tune.encoding import Encoding, Genomes
from apq_tune.predict.pairs import Floats, Pairs, Scale

Array = NDArray[np.float32]


@dataclass(frozen=True)
class MLPSettings:
    """How predictors are trained: AdamW on all pairs at once.

    Attributes:
        hidden: width of the three hidden layers.
        steps: of the optimizer.
        learning_rate: at the start of its cosine.
        weight_decay: of AdamW.
    """

    hidden: int = 128
    steps: int = 300
    learning_rate: float = 3e-3
    weight_decay: float = 1.0


@dataclass(frozen=True)
class MLPPredictor:
    """A trained MLP.

    Attributes:
        encoding: of its space.
        weights: ``(in, out)`` matrices and ``(out,)`` biases by name: ``W0 b0 W1 b1 W2 b2 W3 b3``, and ``Wq bq`` if it
            sees bits.
        scale: of the target.
    """

    encoding: Encoding
    weights: dict[str, Array]
    scale: Scale
    name: str = field(default="predicted_loss")
    unit: str = field(default="nats")

    @property
    def sees_bits(self) -> bool:
        """Whether bits change the prediction."""
        return "Wq" in self.weights

    def __call__(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n,)`` cross-entropy in nats."""
        w, features = self.weights, self.encoding.features(genomes)
        n_arch = self.encoding.n_arch_features
        h = np.maximum(features[:, :n_arch] @ w["W0"] + w["b0"], 0)
        if self.sees_bits:
            h = h + (features[:, n_arch:] @ w["Wq"] + w["bq"])
        for layer in "12":
            h = np.maximum(h @ w[f"W{layer}"] + w[f"b{layer}"], 0)
        return self.scale.restore((h @ w["W3"] + w["b3"])[:, 0].astype(np.float64))


def _initial(n_in: int, n_out: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Kaiming-uniform weights, zero bias (He 2015)."""
    bound = np.sqrt(6 / max(n_in, 1))
    return rng.uniform(-bound, bound, (n_in, n_out)).astype(np.float32), np.zeros(n_out, np.float32)


def fit_mlp(
    encoding: Encoding,
    pairs: Pairs,
    seed: int,
    *,
    bits: bool,
    start: MLPPredictor | None = None,
    settings: MLPSettings | None = None,
) -> MLPPredictor:
    """Train on pairs.

    Args:
        encoding: of the space.
        pairs: to learn from.
        seed: of the initial weights.
        bits: whether to see the candidates' bits.
        start: a predictor whose weights to begin with; the bits' input begins at zero if it has none.
        settings: of the training.
    """
    import torch
    from torch.nn import functional

    settings = settings or MLPSettings()
    rng = np.random.default_rng(seed)
    if start is None:
        sizes = [encoding.n_arch_features, *[settings.hidden] * 3, 1]
        weights = {}
        for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            weights[f"W{layer}"], weights[f"b{layer}"] = _initial(n_in, n_out, rng)
    else:
        weights = dict(start.weights)
    if bits and "Wq" not in weights:
        width = weights["W0"].shape[1]
        weights["Wq"], weights["bq"] = _initial(encoding.n_bit_features, width, rng)
        if start is not None:
            weights["Wq"] = np.zeros_like(weights["Wq"])
    w = {name: torch.tensor(value, requires_grad=True) for name, value in weights.items()}
    scale = Scale.of(pairs.loss)
    target = torch.tensor(scale.standardise(pairs.loss), dtype=torch.float32)
    features = torch.from_numpy(encoding.features(pairs.genomes))
    x_arch, x_bits = features[:, : encoding.n_arch_features], features[:, encoding.n_arch_features :]
    optimizer = torch.optim.AdamW(
        list(w.values()), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for _ in range(settings.steps):
        h = torch.relu(torch.addmm(w["b0"], x_arch, w["W0"]))
        if bits:
            h = h + torch.addmm(w["bq"], x_bits, w["Wq"])
        h = torch.relu(torch.addmm(w["b1"], h, w["W1"]))
        h = torch.relu(torch.addmm(w["b2"], h, w["W2"]))
        loss = functional.mse_loss(torch.addmm(w["b3"], h, w["W3"])[:, 0], target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return MLPPredictor(encoding, {name: value.detach().numpy() for name, value in w.items()}, scale)
