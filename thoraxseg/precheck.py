"""Does this image look like what the checkpoint was trained on? Findings in words, before the result.

An image that differs is not refused here: the user is told, in the log, the result and the report.
"""

from __future__ import annotations

import numpy as np

from thoraxseg.checkpoints.card import Card, Expectation
from thoraxseg.volume import Volume, obliqueness_degrees

OBLIQUE_DEGREES = 30.0
"""Above this angle it is no longer plain which patient axis an array axis stands for."""


def check_input(volume: Volume, card: Card) -> list[str]:
    """Return a warning for each way in which the image as read departs from the card: space and sides."""
    warnings = []
    oriented = volume.reoriented(card.input.orientation)
    pairs = list(zip(oriented.spacing_mm, card.input.spacing_mm, strict=True))
    worst = max(max(have / want, want / have) - 1 for have, want in pairs)
    if worst > card.input.spacing_tolerance:
        have, want = (" x ".join(f"{pair[n]:.4g}" for pair in pairs) for n in (0, 1))
        warnings.append(
            f"Spacing {have} mm (slice x row x column) is not what {card.name} was trained on, {want} mm: "
            "check the scale of the image and treat the contours with caution."
        )
    angle = obliqueness_degrees(volume.ijk_to_ras)
    if angle > OBLIQUE_DEGREES:
        warnings.append(
            f"The axes are turned {angle:.0f} degrees away from the patient's axes: check orientation and sides."
        )
    sided = any(s.key.startswith(("left_", "right_")) for s in card.labels.values())
    if volume.geometry_assumed and not card.input.side_known:
        warnings.append(
            "Left and right are a guess here: the stack states no orientation, and it is not published which "
            f"side the training stacks of {card.name} begin on."
        )
    elif sided and not card.input.side_known:
        warnings.append(f"{card.name} cannot tell left from right: do not trust the side of a structure.")
    for expectation in card.input.intensity:
        if expectation.stage == "input":
            warnings += _outside(volume.array, expectation, "The image")
    return warnings


def check_prepared(image: np.ndarray, card: Card) -> list[str]:
    """Return a warning for each statistic of `image`, what the network sees, that lies outside the card's range."""
    warnings = []
    for expectation in card.input.intensity:
        if expectation.stage == "prepared":
            warnings += _outside(image, expectation, "What the network sees")
    return warnings


def _outside(image: np.ndarray, expectation: Expectation, subject: str) -> list[str]:
    if expectation.statistic == "mean":
        value = float(np.mean(image, dtype=np.float64))
    else:
        value = float(np.percentile(image, float(expectation.statistic[1:])))
    if expectation.low <= value <= expectation.high:
        return []
    return [
        f"{subject} does not look like the training images: {expectation.statistic} {value:.3g}, expected "
        f"{expectation.low:g} to {expectation.high:g}. {expectation.remedy}"
    ]
