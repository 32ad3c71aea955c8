"""Settings of a run; with the defaults, ``apq-tune run digits`` takes about two minutes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from apq_tune.errors import DocumentError, RunError
from apq_tune.inputs import ranges
from apq_tune.inputs.documents import load_yaml
from apq_tune.inputs.ranges import validated
from apq_tune.methods.draws import N_FP32, N_PROXY, PairBits
from apq_tune.methods.searches import EVALUATIONS
from apq_tune.predict import Form
from apq_tune.predict.chosen import FOLDS, FORM
from apq_tune.predict.losses import Loss
from apq_tune.supernet.graph_ranks import Importance
from apq_tune.supernet.strategies import Strategy
from apq_tune.supernet.train import Training

ALWAYS_TRAINED = ("supernet", "pair", "final")
"""Trainings of at least one epoch; the protocol of the paper leaves out ``quantized``."""


LATER = ("predictor_loss",)
"""Settings that stages of older runs do not record, which were done as if with their defaults."""


class RunSettings(BaseModel):
    """Settings of one run.

    Attributes:
        seed: Seed of all random numbers.
        strategy: Strategy of supernet training.
        distillation: Share of the loss of supernet training that compares candidates with the user's model; 0 for the
            labels alone. Only of models of users.
        importance: Which channels of the user's model small networks keep: those with the largest weights (``l1``),
            batch norm scales (``norm``), or influence on the loss (``taylor``). Only of models of users.
        supernet: Supernet training in full precision.
        quantized: Further training of the same weights with random bits; no epochs only with ``--protocol paper``.
        n_fp32: Number of candidates whose full-precision loss is measured.
        n_proxy: Number of candidates whose loss is measured in the quantized supernet.
        n_pairs: Number of candidates that are measured after short QAT.
        pair: Short QAT of these candidates.
        pair_bits: Distribution of their bits: ``"policies"``, for each policy other probabilities of the bit-widths, or
            ``"alike"``, every bit-width of every layer equally likely (Wang 2020).
        folds: Number of folds of the cross-validation that compares predictors.
        predictor: Form of predictor that the search uses.
        predictor_loss: Loss that the predictors ``scratch`` and ``transferred`` are trained with: ``"mse"``, or of the
            order of pairs alone ``"pairwise"`` (logistic) or ``"diffkendall"`` (a differentiable Kendall's tau).
        fallback: Whether a form that ranks held-out pairs no better than chance, or than a cost, is replaced by the one
            that the same pairs support best (``predict.trust``).
        kappa: Number of standard deviations that the search adds to a predicted loss, to avoid candidates whose loss
            is underestimated; 0 uses the prediction alone.
        constraints: Constraints on costs, such as ``bit_ops<=25%`` (of the largest network at its most bits) or
            ``weight_bytes<=20000``.
        n_evaluations: Number of candidates that each search scores.
        n_front: Number of finalists spread over the front, beside the best under the constraints.
        final: QAT of the finalists and the baselines.
        n_calibration: Number of training images for batch norm statistics.
        n_search: Number of search images that candidates are compared on before the finalists; ``None`` for all.
        batch: Number of candidates in one part of a measuring stage.
        checkpoint_steps: Number of steps between checkpoints of supernet training, beside those after each epoch.
        minutes: Target duration of the run in minutes, for which trainings and numbers of measurements are scaled
            after timing some steps; ``None`` uses the settings unchanged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: ranges.Seed = 0
    strategy: Strategy = "single_path"
    distillation: ranges.Share = 0.5
    importance: Importance = "l1"
    supernet: Training = Training(epochs=20, batch_size=32, learning_rate=1e-2)
    quantized: Training = Training(epochs=18, batch_size=32, learning_rate=1e-2)
    n_fp32: ranges.Measured = N_FP32
    n_proxy: ranges.Measured = N_PROXY
    n_pairs: ranges.Measured = 32
    pair: Training = Training(epochs=1, batch_size=32, learning_rate=2e-3)
    pair_bits: PairBits = "policies"
    folds: ranges.Folds = FOLDS
    predictor: Form = FORM
    predictor_loss: Loss = "mse"
    fallback: ranges.Flag = True
    kappa: ranges.Deviations = 0.0
    constraints: tuple[str, ...] = ("bit_ops<=25%",)
    n_evaluations: ranges.Evaluations = EVALUATIONS
    n_front: ranges.Finalists = 3
    final: Training = Training(epochs=6, batch_size=32, learning_rate=5e-3)
    n_calibration: ranges.Images = 256
    n_search: ranges.Images | None = None
    batch: ranges.Count = 20
    checkpoint_steps: ranges.Steps = 500
    minutes: ranges.Minutes | None = None

    @model_validator(mode="after")
    def _is_trained(self) -> RunSettings:
        for name in ALWAYS_TRAINED:
            if getattr(self, name).epochs == 0:
                raise ValueError(f"{name}.epochs: give {ranges.EPOCHS}, got 0")
        if self.quantized.epochs == 0 and self.predictor != "transferred":
            raise ValueError(f"quantized.epochs: give {ranges.EPOCHS}, got 0; only --protocol paper leaves it out")
        return self

    def of_stage(self, names: Iterable[str]) -> dict[str, Any]:
        """Settings that the record of a stage has: those of the given names, without those of ``LATER`` by default."""
        defaults = RunSettings.model_fields
        left_out = {name for name in LATER if getattr(self, name) == defaults[name].default}
        return self.model_dump(mode="json", include=set(names) - left_out)

    def updated(self, assignments: dict[str, Any]) -> RunSettings:
        """Copy with changed settings.

        Args:
            assignments: Values by dotted name; text is parsed as YAML.

        Raises:
            RunError: If a setting is unknown or invalid; the message names the setting, its value and the allowed
                values.
        """
        data = self.model_dump(mode="json")
        for name, value in assignments.items():
            *parents, last = name.split(".")
            place: Any = data
            for part in parents:
                place = place.get(part) if isinstance(place, dict) else None
            if not isinstance(place, dict) or last not in place:
                raise RunError(f"unknown setting {name!r}; known: {', '.join(_names(self.model_dump(mode='json')))}")
            place[last] = _read(name, value) if isinstance(value, str) else value
        return validated(RunSettings, data)


def _read(name: str, text: str) -> Any:
    try:
        return load_yaml(text, f"setting {name}, {ranges.shown(text)}")
    except DocumentError as error:
        raise RunError(str(error)) from None


def _names(data: dict[str, Any], prefix: str = "") -> list[str]:
    names: list[str] = []
    for key, value in data.items():
        names += _names(value, f"{key}.") if isinstance(value, dict) else [prefix + key]
    return names
