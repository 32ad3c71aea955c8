"""Options of commands about a model of the user."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from apq_tune.cli.values import Place

if TYPE_CHECKING:
    from apq_tune.pipeline.opened_model import OpenedModel

Command = TypeVar("Command", bound=Callable[..., Any])


class ModelChoice(NamedTuple):
    """What the user said about a model of his own.

    Attributes:
        source: Where the model comes from.
        weights: File with its weights.
        shape: Channels, height and width of its images, as text.
        keep: Globs over names of layers that stay as they are.
        choices: File with what can be chosen.
        mean: Mean of pixels by channel, as text.
        std: Their standard deviation.
    """

    source: str | None
    weights: Path | None
    shape: str | None
    keep: tuple[str, ...]
    choices: Path | None
    mean: str | None
    std: str | None

    def open(self, data: str) -> OpenedModel:
        """Load and trace the model.

        Raises:
            click.UsageError: If the shape or a normalisation is not numbers.
        """
        from apq_tune.pipeline.opened_model import open_model, read_options

        assert self.source is not None
        options = {} if self.choices is None else read_options(self.choices)
        if self.keep:
            options["keep"] = [*options.get("keep", ()), *self.keep]
        if (self.mean is None) != (self.std is None):
            raise click.UsageError("--mean and --std go together; give both, or neither")
        if self.mean is not None and self.std is not None:
            options["normalisation"] = {"mean": _numbers("--mean", self.mean), "std": _numbers("--std", self.std)}
        return open_model(
            self.source,
            data,
            weights=self.weights,
            shape=None if self.shape is None else image_shape(self.shape),
            options=options,
        )

    def check(self, space: str | None, data: str | None) -> None:
        """Refuse options that go without a model, or not together.

        Raises:
            click.UsageError: If there are such options.
        """
        if self.source is None:
            for name, value in zip(("--input", "--keep", "--choices", "--mean", "--std"), self[2:], strict=True):
                if value:
                    raise click.UsageError(f"{name} is for a model of your own; add --model, or leave it out")
            if self.weights is not None and space is None:
                raise click.UsageError("--weights is for a model of your own; add --model, or leave it out")
            return
        if space is not None:
            raise click.UsageError(f"SPACE {space!r} and --model; give one of them")
        if data is None:
            raise click.UsageError("--model needs images; add --data DIR, or the name of a data set")


INPUT = "Shape of an image of the model, such as 3,224,224; a number of images before it is passed over."

KEEP = click.option(
    "--keep",
    multiple=True,
    metavar="GLOB",
    help="Layers of the model that keep their channels, such as 'layer4.*'. Repeatable.",
)

WEIGHTS = click.option(
    "--weights",
    type=Place(),
    metavar="FILE",
    help="State dict of the model, as of torch.save.  [default: the weights that it comes with]",
)


def model_options(command: Command) -> Command:
    """``--model`` and the options that go with it."""
    for option in (
        click.option(
            "--std",
            metavar="S,S,S",
            help="Standard deviation of pixels, from 0 to 1; with --mean.  [default: ImageNet's]",
        ),
        click.option(
            "--mean",
            metavar="M,M,M",
            help="Mean of pixels, from 0 to 1, that the training of --model subtracted.  [default: that of ImageNet in "
            "colour, none in grey]",
        ),
        click.option(
            "--choices",
            type=Place(),
            metavar="FILE",
            help="YAML file of what can be chosen in --model: step, least, w_bits, a_bits, sparsity, ends, sizes, "
            "keep, genes.",
        ),
        KEEP,
        click.option("--input", "shape", metavar="C,H,W", help=f"{INPUT}  [default: that of the data]"),
        WEIGHTS,
        click.option(
            "--model",
            "source",
            metavar="SOURCE",
            help="Model of your own instead of SPACE: PACKAGE.MODULE:FACTORY, FILE.py:FACTORY, or FILE.pt2 of "
            "torch.export.",
        ),
    ):
        command = option(command)
    return command


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"{option} {text!r} is not numbers; write one for each channel: 0.5,0.5,0.5") from None


def image_shape(text: str) -> tuple[int, ...]:
    """Channels, height and width of an image.

    Args:
        text: Three positive numbers, or four with the number of images before them, which is left out.

    Raises:
        click.UsageError: If it is anything else.
    """
    parts = [part.strip() for part in text.replace("x", ",").split(",")]
    if len(parts) not in (3, 4) or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise click.UsageError(f"--input {text!r} is not a shape; write CHANNELS,HEIGHT,WIDTH such as 3,32,32")
    return tuple(map(int, parts[-3:]))
