"""Settings that suit a data set, where the user says nothing: by how many images there are and how large they are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from apq_tune.data import Data
from apq_tune.errors import RunError
from apq_tune.pipeline.settings import RunSettings
from apq_tune.space.search_space import SearchSpace

FEW = 2_000
"""Training images up to which the settings of the digits suit, and an epoch is seconds."""

SEEN = 700_000
"""Images that each training of the supernet sees: 14 epochs of Fashion-MNIST, where more gain little."""

PAIR_IMAGES = 2_560
"""Images of a brief QAT: 40 steps of 64 from the quantized supernet rank candidates as well as 400 do."""

PHOTOS: dict[str, Any] = {
    "supernet.epochs": 40,
    "quantized.epochs": 30,
    "pair.epochs": 2,
    "final.epochs": 12,
}
"""For few colour images: after the epochs of the digits, predictors of four classes of photos ranked by chance."""

OF_NAMED: dict[str, dict[str, Any]] = {
    "cifar10": {"supernet.epochs": 50, "quantized.epochs": 30, "final.epochs": 20},
    "cifar100": {"supernet.epochs": 50, "quantized.epochs": 30, "final.epochs": 20},
    "imagenet": {"supernet.epochs": 50, "quantized.epochs": 20, "final.epochs": 10, "pair.images": 64_000},
}
"""What these need beyond the general rule; on a GPU."""


def check_data(settings: RunSettings, data: Data, given: Collection[str]) -> None:
    """What settings ask for is there.

    Args:
        settings: Of a run.
        data: Of it.
        given: Names of the settings that the user gave; the defaults take what there is.

    Raises:
        RunError: Naming the setting, its value and the range.
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


def default_settings(space: SearchSpace, data: Data) -> RunSettings:
    """The defaults of a run.

    Small sets get those of the digits, in colour longer trainings. For others epochs shrink as images become more,
    steps are of 64 images, brief QAT is a fraction of an epoch, and candidates are compared on 2,000 images. Colour
    images are cropped and mirrored.
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
    return RunSettings().updated(changes | OF_NAMED.get(str(space.data), {}))
