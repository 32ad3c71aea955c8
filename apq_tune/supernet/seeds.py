"""Seed words, which make the random numbers of different trainings independent."""

from __future__ import annotations

from enum import IntEnum


class SeedWord(IntEnum):
    """Second word of the seeds ``(seed, word, ...)`` of trainings, the first of which is the user's seed.

    Without it, different trainings with the same seed would use the same orders of batches, and their errors would be
    correlated. Further words are numbers of pairs, lengths in epochs or steps, repetitions and epochs. Values are never
    changed or reused, so that results remain reproducible.

    Stages of ``run`` draw candidates with ``(seed, *name of the stage in bytes)``, and methods use ``Question.rng``.
    """

    SUPERNET = 1
    """Training of the supernet in full precision."""
    QUANTIZED_SUPERNET = 2
    """Further training with random bits, and the candidates for the calibration of its initial clip values."""
    PAIRS = 3
    """Short QAT of pairs; the third word is the number of the pair."""
    FINALISTS = 4
    """QAT of finalists, the same for all of them."""
    QAT_LOSS = 5
    """Trainings of ``QATLoss``."""
    REFINE = 6
    """QAT in the rounds and rungs of a refinement; the third word is its length in epochs."""
    COMPARISON = 7
    """QAT of a comparison of methods; the third word is its length in steps, the fourth its repetition."""
    GATES = 8
    """Order of the search images in a differentiable search; the third word is the number of the epoch."""


AUGMENT = 1
"""Last word of the seed of the augmentation of an epoch; the seed of its order of batches has none."""
