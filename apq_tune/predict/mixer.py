"""Predictor of statistics of layers with learned aggregation, after ParZC (Dong 2024).

Each layer is a token: zero-cost statistics and bits of the layer, and what is learned about its place. Blocks of an
MLP-Mixer (Tolstikhin 2021) mix layers and features in turn, and an attention over the layers that a candidate has
aggregates them. Known defects of the public code are not repeated:

- Its mixer has two perceptrons on features; here one of each block mixes layers.
- Its weights are drawn anew in evaluation, too, without any term that would train their variance, so that scores are
  random; here weights are plain numbers, and equal candidates have equal predictions.
- Missing layers are zeros that are averaged with the others; here they are left out.
- Its differentiable Kendall's tau of raw accuracies is a covariance; here values are standardised (``predict.losses``).
- Its settings were chosen on the pairs that were reported; here nothing sees pairs that are held out.

Inside one supernet one-hot features say as much about a candidate, so compare with ridge regression on the same pairs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import ProblemError
from apq_tune.predict.losses import SHARPNESS, Loss
from apq_tune.predict.pairs import Floats, Pairs, Scale
from apq_tune.predict.training import scaled, train
from apq_tune.space.encoding import Featured, Genomes

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float32]

BATCH = 256
"""Number of candidates that are predicted at once."""

LEAST = 1e-12
"""Least statistic, as a logarithm is taken; layers whose gradients are zero have it."""

MOST = 4.0
"""Standard deviations to which inputs are limited."""


class LayerStatistics(Protocol):
    """Statistics of the layers of candidates, such as ``CandidateStatistics``."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers with weights that candidates may have."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the statistics."""
        ...

    def __call__(self, genomes: Genomes, /) -> Floats:
        """Statistics, not negative; NaN for layers that a candidate lacks; shape ``(n, n_layers, n_columns)``."""
        ...


@dataclass(frozen=True)
class MixerSettings:
    """Settings of the mixer and of its training with AdamW on all pairs at once.

    Attributes:
        width: Number of features of a layer.
        blocks: Number of mixer blocks.
        steps: Number of optimizer steps.
        learning_rate: Initial learning rate, with cosine decay.
        weight_decay: Weight decay of AdamW.
        loss: What is minimised, see ``training_loss``.
        sharpness: Slope of the loss ``"diffkendall"``.
    """

    width: int = 16
    blocks: int = 2
    steps: int = 300
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    loss: Loss = "mse"
    sharpness: float = SHARPNESS


@dataclass(frozen=True)
class MixerPredictor:
    """Trained mixer.

    Attributes:
        encoding: Encoding of the search space.
        statistics: Statistics of the layers of candidates.
        centre: Mean of the logarithm of each statistic, shape ``(n_columns,)``.
        spread: Standard deviation of it, shape ``(n_columns,)``.
        weights: Weights by name, see ``mixer_shapes``.
        scale: Scale of the target.
    """

    encoding: Featured
    statistics: LayerStatistics
    centre: Floats
    spread: Floats
    weights: dict[str, Array]
    scale: Scale
    costly = True  # networks are run, so it is not evaluated for infeasible candidates

    @property
    def name(self) -> str:
        """Name of the metric."""
        return self.scale.name

    @property
    def unit(self) -> str:
        """Unit of the predictions."""
        return self.scale.unit

    def __call__(self, genomes: Genomes) -> Floats:
        """Cross-entropies in nats, or accuracies as fractions, shape ``(n,)``."""
        return self.scale.restore(self.standardised(genomes))

    def standardised(self, genomes: Genomes) -> Floats:
        """Predictions in units of the standardised target, shape ``(n,)``."""
        import torch

        w = {name: torch.from_numpy(value) for name, value in self.weights.items()}
        parts = [np.zeros(0)]
        for start in range(0, len(genomes), BATCH):
            inputs, present = _inputs(self.statistics(genomes[start : start + BATCH]), self.centre, self.spread)
            with torch.no_grad():
                parts.append(mixed(w, torch.from_numpy(inputs), torch.from_numpy(present)).double().numpy())
        return np.concatenate(parts)

    @functools.cached_property
    def probe(self) -> Floats:
        """Statistics of the largest network, by which a file knows them again, shape ``(n_layers, n_columns)``."""
        return np.asarray(np.nan_to_num(self.statistics(largest_of(self.encoding))[0], nan=-1.0), np.float64)


def largest_of(encoding: Featured) -> Genomes:
    """Genome of the largest network at the most bits, shape ``(1, n_genes)``."""
    return encoding.canonicalise((encoding.n_choices - 1).astype(np.int16)[None])


def mixer_shapes(n_layers: int, n_columns: int, width: int, blocks: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights by name.

    ``embed`` and ``bias`` make features of statistics, ``place`` adds those of the layer. A block has ``0_layers_in``
    and ``0_layers_out``, which mix layers, and ``0_features_in`` and ``0_features_out``. ``attend`` weights layers,
    ``out`` and ``out_bias`` make the output.
    """
    shapes: dict[str, tuple[int, ...]] = {"embed": (n_columns, width), "bias": (width,), "place": (n_layers, width)}
    for block in range(blocks):
        shapes |= {f"{block}_layers_in": (n_layers, width), f"{block}_layers_out": (width, n_layers)}
        shapes |= {f"{block}_features_in": (width, 2 * width), f"{block}_features_out": (2 * width, width)}
    return shapes | {"attend": (width, 1), "out": (width, 1), "out_bias": (1,)}


def mixed(w: dict[str, Tensor], inputs: Tensor, present: Tensor) -> Tensor:
    """Outputs of a mixer, shape ``(n,)``.

    Args:
        w: Weights by name.
        inputs: Standardised statistics, zero for missing layers, shape ``(n, n_layers, n_columns)``.
        present: Whether a candidate has a layer, shape ``(n, n_layers)``.
    """
    import torch
    from torch.nn.functional import gelu, layer_norm

    there = present[:, :, None].to(inputs.dtype)
    width = w["embed"].shape[1:]
    h = (inputs @ w["embed"] + w["bias"] + w["place"]) * there
    for block in range(sum(name.endswith("_layers_in") for name in w)):
        across = layer_norm(h, width).transpose(1, 2)  # zero where there is no layer
        across = gelu(across @ w[f"{block}_layers_in"]) @ w[f"{block}_layers_out"]
        h = h + across.transpose(1, 2) * there
        h = h + gelu(layer_norm(h, width) @ w[f"{block}_features_in"]) @ w[f"{block}_features_out"] * there
    h = layer_norm(h, width)
    shares = torch.softmax((h @ w["attend"])[:, :, 0].masked_fill(~present, -torch.inf), dim=1)
    return (h * shares[:, :, None]).sum(1) @ w["out"][:, 0] + w["out_bias"]


def fit_mixer(
    encoding: Featured,
    pairs: Pairs,
    seed: int = 0,
    *,
    statistics: LayerStatistics,
    log: bool = True,
    settings: MixerSettings | None = None,
) -> MixerPredictor:
    """Fit a mixer of statistics of layers to pairs.

    Args:
        encoding: Encoding of the search space.
        pairs: Training pairs.
        seed: Seed of the initial weights.
        statistics: Statistics of the layers of candidates.
        log: Whether the target is a loss, whose logarithm is predicted, or an accuracy, which is predicted itself.
        settings: Settings of the mixer and of its training.

    Raises:
        ProblemError: If a statistic is negative or infinite, or a candidate has no layer with weights.
    """
    import torch

    settings = settings or MixerSettings()
    values = statistics(pairs.genomes)
    _check(values, statistics)
    logs = np.log(np.maximum(values, LEAST))
    centre, spread = np.nanmean(logs, axis=(0, 1)), np.nanstd(logs, axis=(0, 1))
    spread = np.where(spread > 1e-9, spread, 1.0)
    inputs, present = (torch.from_numpy(array) for array in _inputs(values, centre, spread))
    scale = Scale.of(pairs.target, log=log)
    target = scale.standardise(pairs.target)
    shapes = mixer_shapes(values.shape[1], values.shape[2], settings.width, settings.blocks)
    w = _initial(shapes, np.random.default_rng(seed))
    weights = train(w, lambda: mixed(w, inputs, present), target, settings)
    fitted = MixerPredictor(encoding, statistics, centre, spread, weights, scale)
    if settings.loss == "mse":
        return fitted
    scores = fitted.standardised(pairs.genomes)
    return replace(fitted, weights=scaled(weights, ("out", "out_bias"), scores, target))


def _initial(shapes: dict[str, tuple[int, ...]], rng: np.random.Generator) -> dict[str, Tensor]:
    """Normal matrices of unit gain, of a tenth where a block begins as the identity; zero biases and attention."""
    import torch

    found = {}
    for name, shape in shapes.items():
        std = 0.0 if len(shape) == 1 or name == "attend" else shape[0] ** -0.5
        std *= 0.1 if name.endswith("_out") or name == "place" else 1.0
        found[name] = torch.tensor(rng.normal(size=shape) * std, dtype=torch.float32, requires_grad=True)
    return found


def _inputs(values: Floats, centre: Floats, spread: Floats) -> tuple[Array, NDArray[np.bool_]]:
    """Standardised logarithms, zero for missing layers, and which layers there are."""
    present: NDArray[np.bool_] = ~np.asarray(np.isnan(values).any(axis=2))
    logs = (np.log(np.maximum(values, LEAST)) - centre) / spread
    inputs = np.where(present[:, :, None], np.clip(logs, -MOST, MOST), 0.0)
    return inputs.astype(np.float32), present


def _check(values: Floats, statistics: LayerStatistics) -> None:
    wrong = np.isinf(values) | (values < 0)
    if wrong.any():
        _, layer, column = np.argwhere(wrong)[0]
        raise ProblemError(
            f"{statistics.columns[column]} of layer {statistics.layers[layer]} is {values[wrong][0]}; statistics must "
            "be finite and not negative: leave this one out"
        )
    if np.isnan(values[:, :, 0]).all(axis=1).any():
        raise ProblemError("a candidate has no layer with statistics; give those of the layers that it has")
