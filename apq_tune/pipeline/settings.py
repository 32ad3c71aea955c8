"""Everything that a run can be told, with the defaults that make ``apq-tune run digits`` take about two minutes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from apq_tune.documents import load_yaml
from apq_tune.errors import RunError
from apq_tune.predict import Form
from apq_tune.supernet.train import Strategy, Training

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], data: dict[str, Any]) -> Model:
    """Settings from plain data.

    Raises:
        RunError: naming the setting, the value and what is allowed.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise RunError(f"setting {name}: {first['msg']}, got {first['input']!r}") from None


class Settings(BaseModel):
    """Settings of one run.

    Attributes:
        seed: of everything.
        strategy: of supernet training.
        supernet: training in full precision.
        quantized: further training of the same weights with random bits.
        n_fp32: candidates whose full-precision loss is measured.
        n_proxy: candidates whose loss is measured in the quantized supernet.
        n_pairs: candidates that are finetuned briefly (QAT) and measured.
        pair: training of each of them.
        pair_bits: how their bits are drawn: as ``"policies"``, each with its own probability of every width, or
            ``"alike"``, every width of every layer as likely (Wang 2020).
        folds: of the cross-validation that compares predictors.
        predictor: the form that the search uses.
        kappa: standard deviations that the search adds to a predicted loss, against candidates that look good because
            the predictor errs; 0 trusts the prediction.
        constraints: on cost models, such as ``bit_ops<=25%`` (of the largest network at its most bits) or
            ``weight_bytes<=20000``.
        n_evaluations: candidates that each search scores.
        n_front: finalists spread over the front, beside the best under the constraints.
        final: training of the finalists and the baselines.
        n_calibration: training images for batch norm statistics.
        n_search: search images that candidates are compared on before the finalists; ``None`` for all.
        batch: candidates in a trial of cheap evaluations.
        checkpoint_steps: steps of supernet training after which it is saved, beside after each epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Annotated[int, Field(ge=0)] = 0
    strategy: Strategy = "single_path"
    supernet: Training = Training(epochs=20, batch_size=32, learning_rate=1e-2)
    quantized: Training = Training(epochs=18, batch_size=32, learning_rate=1e-2)
    n_fp32: Annotated[int, Field(ge=10)] = 120
    n_proxy: Annotated[int, Field(ge=10)] = 160
    n_pairs: Annotated[int, Field(ge=10)] = 32
    pair: Training = Training(epochs=1, batch_size=32, learning_rate=2e-3)
    pair_bits: Literal["policies", "alike"] = "policies"
    folds: Annotated[int, Field(ge=2, le=10)] = 5
    predictor: Form = "mean"
    kappa: Annotated[float, Field(ge=0)] = 0.0
    constraints: tuple[str, ...] = ("bit_ops<=25%",)
    n_evaluations: PositiveInt = 10_000
    n_front: PositiveInt = 3
    final: Training = Training(epochs=6, batch_size=32, learning_rate=5e-3)
    n_calibration: PositiveInt = 256
    n_search: PositiveInt | None = None
    batch: PositiveInt = 20
    checkpoint_steps: PositiveInt = 500

    def updated(self, assignments: dict[str, Any]) -> Settings:
        """A copy with some settings changed.

        Args:
            assignments: dotted name -> value; a text value is read as YAML.

        Raises:
            RunError: naming the setting, the value and what is allowed.
        """
        data = self.model_dump(mode="json")
        for name, value in assignments.items():
            *parents, last = name.split(".")
            place: Any = data
            for part in parents:
                place = place.get(part) if isinstance(place, dict) else None
            if not isinstance(place, dict) or last not in place:
                raise RunError(f"unknown setting {name!r}; known: {', '.join(_names(self.model_dump(mode='json')))}")
            place[last] = load_yaml(value, f"setting {name}") if isinstance(value, str) else value
        return validated(Settings, data)


def _names(data: dict[str, Any], prefix: str = "") -> list[str]:
    names: list[str] = []
    for key, value in data.items():
        names += _names(value, f"{key}.") if isinstance(value, dict) else [prefix + key]
    return names
