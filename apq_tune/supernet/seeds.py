"""Seed words: what keeps the random numbers of one training apart from those of every other."""

from __future__ import annotations

from enum import IntEnum


class SeedWord(IntEnum):
    """Second word of the seed ``(seed, word, ...)`` of everything that trains; the first one is the user's.

    With one word for two trainings, networks that the same seed trains would see the same shuffles twice, and what one
    of them has learned by luck the other would confirm. Further words count within a training: pairs, lengths in epochs
    or steps, repeats, and in the end epochs. A value is never changed or used again: results would not repeat.

    Candidates of a stage of ``run`` are drawn with ``(seed, *name of the stage in bytes)``, and the random parts of a
    method with ``Question.rng``.
    """

    SUPERNET = 1
    """Training of the supernet in full precision."""
    QUANTIZED_SUPERNET = 2
    """Further training with random bits, and the candidates that its first clip values are calibrated on."""
    PAIRS = 3
    """Brief QAT of pairs; a third word for each, so that equal networks tell how much luck is in a training."""
    FINALISTS = 4
    """QAT of finalists: the same for all, which are compared on equal terms."""
    QAT_LOSS = 5
    """Trainings of ``QATLoss``."""
    REFINE = 6
    """QAT in the rounds and rungs of a refinement; the third word is its length in epochs."""
    COMPARISON = 7
    """QAT of a comparison of methods; the third word is its length in steps, the fourth its repeat."""


AUGMENT = 1
"""Last word of the seed of an epoch's augmentation; its shuffles have none."""
