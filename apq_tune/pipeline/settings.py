"""Everything that a run can be told, with the defaults that make ``apq-tune run digits`` take about two minutes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from apq_tune.errors import DocumentError, RunError
from apq_tune.inputs import ranges
from apq_tune.inputs.documents import load_yaml
from apq_tune.inputs.ranges import validated
from apq_tune.predict import Form
from apq_tune.supernet.train import Strategy, Training

ALWAYS_TRAINED = ("supernet", "pair", "final")
"""Trainings of at least one epoch; ``quantized`` has none in the paper's protocol."""


class RunSettings(BaseModel):
    """Settings of one run.

    Attributes:
        seed: Of everything.
        strategy: Of supernet training.
        supernet: Training in full precision.
        quantized: Further training of the same weights with random bits; no epochs only with ``--protocol paper``.
        n_fp32: Candidates whose full-precision loss is measured.
        n_proxy: Candidates whose loss is measured in the quantized supernet.
        n_pairs: Candidates that are finetuned briefly (QAT) and measured.
        pair: Training of each of them.
        pair_bits: How their bits are drawn: as ``"policies"``, each with its own probability of every width, or
            ``"alike"``, every width of every layer as likely (Wang 2020).
        folds: Of the cross-validation that compares predictors.
        predictor: The form that the search uses.
        fallback: Whether a form that ranks held-out pairs no better than chance, or than a cost, gives way to what the
            same pairs support best (``predict.trust``).
        kappa: Standard deviations that the search adds to a predicted loss, against candidates that look good because
            the predictor errs; 0 trusts the prediction.
        constraints: On cost models, such as ``bit_ops<=25%`` (of the largest network at its most bits) or
            ``weight_bytes<=20000``.
        n_evaluations: Candidates that each search scores.
        n_front: Finalists spread over the front, beside the best under the constraints.
        final: Training of the finalists and the baselines.
        n_calibration: Training images for batch norm statistics.
        n_search: Search images that candidates are compared on before the finalists; ``None`` for all.
        batch: Candidates in a trial of cheap evaluations.
        checkpoint_steps: Steps of supernet training after which it is saved, beside after each epoch.
        minutes: That a run may take: trainings are shortened or lengthened, and fewer or more candidates measured, by
            steps that are timed when it begins; ``None`` takes the settings as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: ranges.Seed = 0
    strategy: Strategy = "single_path"
    supernet: Training = Training(epochs=20, batch_size=32, learning_rate=1e-2)
    quantized: Training = Training(epochs=18, batch_size=32, learning_rate=1e-2)
    n_fp32: ranges.Measured = 120
    n_proxy: ranges.Measured = 160
    n_pairs: ranges.Measured = 32
    pair: Training = Training(epochs=1, batch_size=32, learning_rate=2e-3)
    pair_bits: Literal["policies", "alike"] = "policies"
    folds: ranges.Folds = 5
    predictor: Form = "mean"
    fallback: ranges.Flag = True
    kappa: ranges.Deviations = 0.0
    constraints: tuple[str, ...] = ("bit_ops<=25%",)
    n_evaluations: ranges.Evaluations = 10_000
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

    def updated(self, assignments: dict[str, Any]) -> RunSettings:
        """A copy with some settings changed.

        Args:
            assignments: Dotted name -> value; a text value is read as YAML.

        Raises:
            RunError: Naming the setting, the value and what is allowed.
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
