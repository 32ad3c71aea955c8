"""Default settings by the number and the size of the images of a data set."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from apq_tune.data import Data
from apq_tune.errors import RunError
from apq_tune.pipeline.settings import RunSettings
from apq_tune.space.network_space import NetworkSpace

FEW = 2_000
"""Maximum number of training images for which the settings of the digits are used."""

SEEN = 700_000
"""Number of images that each supernet training processes: 14 epochs of Fashion-MNIST, where more gain little."""

PAIR_IMAGES = 2_560
"""Number of images of a short QAT: 40 steps with batches of 64 rank candidates as well as 400 steps do."""

PHOTOS: dict[str, Any] = {
    "supernet.epochs": 40,
    "quantized.epochs": 30,
    "pair.epochs": 2,
    "final.epochs": 12,
}
"""Settings for few colour images; with the epochs of the digits, predictors ranked photos no better than chance."""

TRAINED_SHARE = 1 / 2
"""Share of the epochs of other supernets, for those that begin with a trained model.

A ResNet-14 that has learned the digits: with 7 and 6 epochs at .2, .5 and 1 of the usual rate, random quantized
networks have losses of .39, .24 and .17, with 10 and 9 epochs .14, with 20 and 18 epochs .10. Its whole network loses
at most half a point, and nothing from 10 epochs on.
"""

LARGE_RATE = 1e-3
"""Learning rate of these supernets on large images, whose models have often learned from more images than are here."""

OF_NAMED: dict[str, dict[str, Any]] = {
    "cifar10": {"supernet.epochs": 50, "quantized.epochs": 30, "final.epochs": 20},
    "cifar100": {"supernet.epochs": 50, "quantized.epochs": 30, "final.epochs": 20},
    "imagenet": {"supernet.epochs": 50, "quantized.epochs": 20, "final.epochs": 10, "pair.images": 64_000},
}
"""Settings of named data sets that differ from the general rule; they assume a GPU."""


def check_data(settings: RunSettings, data: Data, given: Collection[str]) -> None:
    """Check that there are enough images for the settings that the user gave.

    Args:
        settings: Settings of the run.
        data: Images of the run.
        given: Names of the settings that the user gave; only these are checked.

    Raises:
        RunError: If a setting exceeds the number of images; the message names the setting, its value and the range.
    """
    for training in ("supernet", "quantized", "pair", "final"):
        size, there = getattr(settings, training).batch_size, len(data.train.labels)
        if f"{training}.batch_size" in given and size > there:
            raise RunError(
                f"setting {training}.batch_size: {size} images in a step, of {there} to train on; give 1 to {there}"
            )
    n, classes = len(data.search.labels), len(np.unique(data.search.labels))
    wanted, least = settings.n_search, max(2, classes)
    if "n_search" in given and wanted is not None and not least <= wanted <= n:
        raise RunError(
            f"setting n_search: {wanted} images to compare candidates on; there are {n} of {classes} classes: give "
            f"{least} to {n}, or null for all"
        )


def default_settings(space: NetworkSpace, data: Data, *, trained: bool | None = None) -> RunSettings:
    """Default settings of a run.

    Args:
        space: Search space.
        data: Images of the run.
        trained: Of the space of a user's model, whether that is trained already; ``None`` for all other spaces.

    Small data sets get the settings of the digits, with longer trainings for colour images. For larger ones the number
    of epochs decreases with the number of images, the batch size is 64, short QAT is a fraction of an epoch, and
    candidates are compared on 2,000 images. Colour images are augmented by cropping and mirroring.
    """
    n, size = len(data.train.labels), space.resolutions[-1]
    changes: dict[str, Any] = {}
    if n > FEW:
        epochs = min(40, max(5, round(SEEN / n)))
        changes = {
            "supernet.epochs": epochs,
            "quantized.epochs": epochs,
            "final.epochs": max(3, epochs // 3),
            "pair.images": PAIR_IMAGES,
            "n_search": 2_000,
        }
        changes |= {f"{name}.batch_size": 64 for name in ("supernet", "quantized", "pair", "final")}
    elif space.input.channels == 3:  # photos are harder than digits, and few of them are seen in no time
        changes = dict(PHOTOS)
    if size > 32:  # longer networks diverge at the rates of the small ones
        changes |= {"supernet.learning_rate": 3e-3, "quantized.learning_rate": 3e-3, "final.learning_rate": 2e-3}
    if space.input.channels == 3:
        changes |= {f"{name}.augment": "crop_flip" for name in ("supernet", "quantized", "final")}
    changes |= OF_NAMED.get(str(space.data), {})
    if trained is not None:
        changes |= _of_model(RunSettings().updated(changes), size) if trained else {"distillation": 0.0}
    return RunSettings().updated(changes)


def _of_model(general: RunSettings, size: int) -> dict[str, Any]:
    """Changes for a trained model, whose supernet has most of what it needs to know."""
    changes: dict[str, Any] = {}
    for name, training in (("supernet", general.supernet), ("quantized", general.quantized)):
        changes[f"{name}.epochs"] = max(2, round(training.epochs * TRAINED_SHARE))
        if size > 32:
            changes[f"{name}.learning_rate"] = min(LARGE_RATE, training.learning_rate)
    return changes
