"""What an image and a card say about each other, rule by rule: each rule stands here once.

A rule returns a `Finding`; `checks` makes warnings and refusals of them, `lights` makes traffic lights.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from thoraxseg.checkpoints import structures
from thoraxseg.checkpoints.card import Card
from thoraxseg.volume import Volume, obliqueness_degrees

MAX_SCALE = 10.0
"""Voxels this many times larger or smaller than in training are another unit or another species."""
OBLIQUE_DEGREES = 30.0
"""Above this angle it is no longer plain which patient axis an array axis stands for."""


class Level(Enum):
    """The color of a traffic light."""

    GREEN = "green"
    """As the checkpoint expects it."""
    YELLOW = "yellow"
    """A run is possible; its result needs a second look."""
    RED = "red"
    """A run is refused, or nothing good can come of it."""
    UNKNOWN = "unknown"
    """The checkpoint does not tell what it expects, or the image cannot be read."""


WORST_FIRST = (Level.RED, Level.YELLOW, Level.UNKNOWN, Level.GREEN)
"""Of several findings the first of these counts."""


@dataclass(frozen=True)
class Finding:
    """What one rule says about one image."""

    level: Level
    sentence: str
    fixes: tuple[str, ...] = ()
    """Keys of `FIXES` that may help."""


def compare_spacing(volume: Volume, card: Card) -> Finding:
    """Return how the voxels compare with those of the training, along the axes of the network.

    Red when they are more than `MAX_SCALE` times larger or smaller (geometric mean), yellow when one axis is off by
    more than the card's tolerance, unknown where the card states no spacing.
    """
    seen = volume.reoriented(card.input.codes_for(volume.axis_codes))
    have, want = compared_spacing(seen.spacing_mm, card)
    if want is None:
        if card.nnunet is not None and card.nnunet.reader == "NaturalImage2DIO":
            return Finding(Level.GREEN, f"{card.name} was trained on pictures without a scale.")
        return Finding(
            Level.UNKNOWN,
            f"{card.name} does not state the voxel size of its training images; those of the image are {words(have)} "
            "mm (slice x row x column).",
        )
    ratio = float(np.prod(np.divide(have, want))) ** (1 / len(want))
    if max(ratio, 1 / ratio) > MAX_SCALE:
        return Finding(
            Level.RED,
            f"{volume.name}: expected voxels of about {words(want)} mm, as {card.name} was trained "
            f"on, got {words(have)} mm, {max(ratio, 1 / ratio):.0f} times off. Is the unit wrong, "
            "or the species? Correct the spacing or choose another checkpoint.",
            ("set_spacing",),
        )
    worst = max(max(h / w, w / h) - 1 for h, w in zip(have, want, strict=True))
    order = "slice x row x column" if len(have) == 3 else "in the plane of the network"
    if worst > card.input.spacing_tolerance:
        return Finding(
            Level.YELLOW,
            f"Spacing {words(have)} mm ({order}) is not what {card.name} was trained on, "
            f"{words(want)} mm: "
            "check the scale of the image and treat the contours with caution.",
            ("set_spacing",),
        )
    return Finding(
        Level.GREEN, f"Spacing {words(have)} mm ({order}); {card.name} was trained on {words(want)} mm."
    )


def turned_axes(volume: Volume) -> Finding:
    """Return how far the axes lie from those of the patient: yellow above `OBLIQUE_DEGREES`."""
    angle = obliqueness_degrees(volume.ijk_to_ras)
    if angle > OBLIQUE_DEGREES:
        return Finding(
            Level.YELLOW,
            f"The axes are turned {angle:.0f} degrees away from the patient's axes: check orientation and sides.",
            ("declare_orientation",),
        )
    turned = f", turned {angle:.0f} degrees" if angle >= 1 else ""
    return Finding(
        Level.GREEN,
        f"The file states its orientation: i, j, k run to {directions(volume.axis_codes)}{turned}.",
    )


def orientation_of_training(volume: Volume, card: Card) -> Finding:
    """Return whether the image can be turned the way the training images lay; unknown where no card says it."""
    if card.input.orientation.islower():
        return Finding(
            Level.UNKNOWN,
            f"How the training images of {card.name} lay is not known: it sees the file's own axes "
            f"({volume.axis_codes}). If it finds nothing or nonsense, try another order of the axes.",
            ("reorient",),
        )
    return Finding(Level.GREEN, f"{card.name} sees it turned to {card.input.orientation}.")


def sides(volume: Volume, card: Card) -> Finding:
    """Return whether right and left can be trusted: what the image states, and what the model can tell."""
    sided = any(structures.has_side(structure) for structure in card.labels.values())
    if volume.geometry_assumed:
        guess = (
            f" Left and right are a guess: on which side the stacks of {card.name} begin is not published."
        )
        return Finding(
            Level.YELLOW,
            f"The image states no orientation, so it was assumed (spacing used: {words(volume.spacing_mm)} mm): check "
            f"the scale and the sides.{'' if card.input.side_known else guess}",
            ("declare_orientation", "swap_sides"),
        )
    if sided and card.input.orientation.islower():
        return Finding(
            Level.YELLOW,
            f"{card.name} does not state the orientation of its training images; it sees the file's own axes "
            f"({volume.axis_codes}): check that right and left are not swapped. If you know it, install the checkpoint "
            "with --orientation.",
            ("reorient", "swap_sides"),
        )
    if sided and not card.input.side_known:
        return Finding(
            Level.YELLOW,
            f"{card.name} cannot tell left from right: do not trust the side of a structure.",
        )
    if not sided:
        return Finding(Level.GREEN, f"{card.name} finds no structure that is right or left.")
    return Finding(Level.GREEN, f"The image states its sides, and {card.name} tells them apart.")


def words(spacing_mm: tuple[float, ...]) -> str:
    """Return a spacing for people, as `0.1562 x 0.1953 x 0.1562`."""
    return " x ".join(f"{s:.4g}" for s in spacing_mm)


_ENDS = {"R": "right", "L": "left", "A": "front", "P": "back", "S": "head", "I": "tail or feet"}


def directions(codes: str) -> str:
    """Return axis letters such as `LPS` for people: `left, back and head (LPS)`."""
    first, second, third = (_ENDS[letter] for letter in codes)
    return f"{first}, {second} and {third} ({codes})"


def compared_spacing(
    have_mm: tuple[float, ...], card: Card
) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """Return an image's spacing and the card's as they compare: both whole, or both in the plane of a flat model.

    `have_mm` is along (k, j, i) of the network's orientation. The second is None where the card knows no spacing.
    """
    if card.nnunet is None:
        return have_mm, card.input.spacing_mm
    if card.nnunet.reader == "NaturalImage2DIO":
        return have_mm, None  # trained on pictures without a scale
    plan = card.nnunet
    if len(plan.spacing_mm) == 3:
        return have_mm, tuple(plan.spacing_mm[axis] for axis in plan.transpose_backward)
    return tuple(have_mm[axis] for axis in plan.transpose_forward[1:]), plan.spacing_mm
