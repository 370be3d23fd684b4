"""Does this image look like what the checkpoint was trained on? Findings in words, before the result.

An image that differs is not refused here, unless its scale is plainly another one: the user is told, in
the log, the result and the report.
"""

from __future__ import annotations

import numpy as np

from thoraxseg.checkpoints import structures
from thoraxseg.checkpoints.card import Card, Expectation
from thoraxseg.errors import InputError
from thoraxseg.volume import Volume, obliqueness_degrees

MAX_SCALE = 10.0
"""Voxels this many times larger or smaller than in training are another unit or another species."""
OBLIQUE_DEGREES = 30.0
"""Above this angle it is no longer plain which patient axis an array axis stands for."""


def check_input(volume: Volume, card: Card) -> list[str]:
    """Return a warning for each way in which the image as read departs from the card: space and sides.

    Raises InputError when the voxels are more than `MAX_SCALE` times larger or smaller than in training.
    """
    warnings = []
    have, want = _compared_spacing(volume, card)
    if want is not None:
        ratio = float(np.prod(np.divide(have, want))) ** (1 / len(want))
        if max(ratio, 1 / ratio) > MAX_SCALE:
            raise InputError(
                f"{volume.name}: expected voxels of about {words(want)} mm, as {card.name} was trained "
                f"on, got {words(have)} mm, {max(ratio, 1 / ratio):.0f} times off. Is the unit wrong, "
                "or the species? Correct the spacing or choose another checkpoint."
            )
        worst = max(max(h / w, w / h) - 1 for h, w in zip(have, want, strict=True))
        if worst > card.input.spacing_tolerance:
            order = "slice x row x column" if len(have) == 3 else "in the plane of the network"
            warnings.append(
                f"Spacing {words(have)} mm ({order}) is not what {card.name} was trained on, "
                f"{words(want)} mm: "
                "check the scale of the image and treat the contours with caution."
            )
    angle = obliqueness_degrees(volume.ijk_to_ras)
    if angle > OBLIQUE_DEGREES:
        warnings.append(
            f"The axes are turned {angle:.0f} degrees away from the patient's axes: check orientation and sides."
        )
    sided = any(structures.has_side(structure) for structure in card.labels.values())
    if volume.geometry_assumed:
        guess = (
            f" Left and right are a guess: on which side the stacks of {card.name} begin is not published."
        )
        warnings.append(
            f"The image states no orientation, so it was assumed (spacing used: {words(volume.spacing_mm)} mm): check "
            f"the scale and the sides.{'' if card.input.side_known else guess}"
        )
    elif sided and card.input.orientation.islower():
        warnings.append(
            f"{card.name} does not state the orientation of its training images; it sees the file's own axes "
            f"({volume.axis_codes}): check that right and left are not swapped. If you know it, install the checkpoint "
            "with --orientation."
        )
    elif sided and not card.input.side_known:
        warnings.append(f"{card.name} cannot tell left from right: do not trust the side of a structure.")
    for expectation in card.input.intensity:
        if expectation.stage == "input":
            warnings += _outside(volume.array, expectation, "The image")
    return warnings


def _compared_spacing(volume: Volume, card: Card) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """Return the image's spacing as the card's array has it and the card's own; in the plane for a flat model."""
    have = volume.reoriented(card.input.codes_for(volume.axis_codes)).spacing_mm
    if card.nnunet is None:
        return have, card.input.spacing_mm
    if card.nnunet.reader == "NaturalImage2DIO":
        return have, None  # trained on pictures without a scale
    plan = card.nnunet
    if len(plan.spacing_mm) == 3:
        return have, tuple(plan.spacing_mm[axis] for axis in plan.transpose_backward)
    return tuple(have[axis] for axis in plan.transpose_forward[1:]), plan.spacing_mm


def check_prepared(image: np.ndarray, card: Card) -> list[str]:
    """Return a warning for each statistic of `image`, what the network sees, that lies outside the card's range."""
    warnings = []
    for expectation in card.input.intensity:
        if expectation.stage == "prepared":
            warnings += _outside(image, expectation, "What the network sees")
    return warnings


def words(spacing_mm: tuple[float, ...]) -> str:
    """Return a spacing for people, as `0.1562 x 0.1953 x 0.1562`."""
    return " x ".join(f"{s:.4g}" for s in spacing_mm)


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
