"""Warnings for the log, the result and the report: how an image departs from what the checkpoint expects.

An image that differs is not refused here, unless its scale is plainly another one.
"""

from __future__ import annotations

import numpy as np

from thoraxseg.checkpoints.card import Card
from thoraxseg.errors import InputError
from thoraxseg.precheck.findings import Level, compare_spacing, sides, turned_axes
from thoraxseg.precheck.intensity import expectations, plausible_intensities
from thoraxseg.volume import Volume


def check_input(volume: Volume, card: Card) -> list[str]:
    """Return a warning for each way in which the image as read departs from the card: space, sides, intensities.

    Raises InputError when the voxels are more than `MAX_SCALE` times larger or smaller than in training.
    """
    spacing = compare_spacing(volume, card)
    if spacing.level is Level.RED:
        raise InputError(spacing.sentence)
    found = [spacing, turned_axes(volume), sides(volume, card), *expectations(volume.array, card, "input")]
    found += plausible_intensities(volume, card)
    return [finding.sentence for finding in found if finding.level in (Level.YELLOW, Level.RED)]


def check_prepared(image: np.ndarray, card: Card) -> list[str]:
    """Return a warning for each statistic of `image`, what the network sees, that lies outside the card's range."""
    return [finding.sentence for finding in expectations(image, card, "prepared")]
