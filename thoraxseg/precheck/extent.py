"""Field of view and voxel size: can this be the chest of a mouse, or of a human?

Sources. Mouse: lungs measured in two real label maps (the project's definitions, section 11.1) are 14.0 to 17.6 mm
wide, 11.2 to 13.4 deep and 13.2 to 14.0 high; scanners for mice have bores up to 10 cm, and a mouse with its tail is
less than 20 cm long. Human: adult lungs are at least 22 cm wide, 13 deep and 18 high (smallest of ordinary chest CTs,
a round lower limit); scanners take up to 80 cm across, and people are less than 2.2 m long. Voxels: the chest of a
mouse (17 mm) must be at least eight voxels across, which 2 mm just allows, and 5 micrometers is the finest of
scanners for dead tissue; in people, slices of up to 12 mm occur, and below 0.1 mm no clinical scanner goes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thoraxseg.checkpoints.card import Card
from thoraxseg.precheck.findings import Finding, Level, words
from thoraxseg.volume import Volume


@dataclass(frozen=True)
class _Body:
    """Limits for one species, in mm, along right-left, front-back and head-tail."""

    who: str
    lungs_mm: tuple[float, float, float]
    largest_mm: tuple[float, float, float]
    spacing_mm: tuple[float, float]


BODIES = {
    "mouse": _Body("a mouse", (14.0, 11.2, 13.2), (100.0, 100.0, 200.0), (0.005, 2.0)),
    "human": _Body("a person", (220.0, 130.0, 180.0), (800.0, 800.0, 2200.0), (0.1, 12.0)),
}
NAMES = ("right to left", "front to back", "head to tail")
HOPELESS = 0.5
"""An image that is smaller than this part of the lungs does not show them: its scale is wrong, or its species."""


def extent_mm(volume: Volume) -> tuple[float, float, float]:
    """Return how far the voxels reach along right-left, front-back and head-tail of the array's own axes, in mm.

    Of oblique axes each counts for the patient axis it is named after: length and not shadow.
    """
    lengths = np.multiply(volume.shape, volume.spacing_mm)[::-1]  # along i, j, k
    rows = [
        next(row for row, ends in enumerate(("LR", "PA", "IS")) if letter in ends)
        for letter in volume.axis_codes
    ]
    return tuple(float(lengths[rows.index(row)]) for row in range(3))


def field_of_view(volume: Volume, card: Card, is_region: bool) -> Finding:
    """Return whether the image can hold a thorax of the card's species; unknown where it names none.

    Yellow where it is smaller than the lungs, red where it is less than half of them along an axis (for a region that
    the user has chosen it stays yellow), or larger than any scanner for the species.
    """
    extent = extent_mm(volume)
    told = f"{extent[0]:.3g} x {extent[1]:.3g} x {extent[2]:.3g} mm (right-left, front-back, head-tail)"
    body = BODIES.get(card.species)
    if body is None:
        return Finding(
            Level.UNKNOWN,
            f"{card.name} does not state its species, so nobody can tell whether {told} hold the thorax.",
        )
    large = [name for name, e, most in zip(NAMES, extent, body.largest_mm, strict=True) if e > most]
    if large:
        return Finding(
            Level.RED,
            f"{told} is larger than any scan of {body.who} ({' and '.join(large)}): is the scale wrong, or the "
            "species? Set the spacing, or choose another checkpoint.",
            ("set_spacing",),
        )
    pairs = list(zip(NAMES, extent, body.lungs_mm, strict=True))
    small = [name for name, e, least in pairs if e < least]
    if not small:
        return Finding(Level.GREEN, f"{told}: room for the thorax of {body.who}.")
    lungs = words(body.lungs_mm)
    if is_region:
        return Finding(
            Level.YELLOW,
            f"The region of interest, {told}, is smaller than the lungs of {body.who} (at least {lungs} mm): contours "
            f"may be cut ({' and '.join(small)}). Make it larger if the whole is meant.",
        )
    if any(e < HOPELESS * least for _, e, least in pairs):
        return Finding(
            Level.RED,
            f"{told} is far smaller than the lungs of {body.who} (at least {lungs} mm): is the scale wrong, or the "
            "species? Set the spacing, or choose another checkpoint.",
            ("set_spacing",),
        )
    return Finding(
        Level.YELLOW,
        f"{told} is smaller than the lungs of {body.who} (at least {lungs} mm): contours may be cut "
        f"({' and '.join(small)}), and volumes too small.",
        ("set_spacing",),
    )


def plausible_spacing(volume: Volume, card: Card) -> Finding | None:
    """Return a red finding where no scan of the card's species has voxels of this size, else None."""
    body = BODIES.get(card.species)
    spacing = volume.spacing_mm
    if body is None or (body.spacing_mm[0] <= min(spacing) and max(spacing) <= body.spacing_mm[1]):
        return None
    low, high = body.spacing_mm
    return Finding(
        Level.RED,
        f"Voxels of {words(spacing)} mm (slice x row x column) are implausible for {body.who}: expected {low:g} to "
        f"{high:g} mm. Is the unit wrong, or the species? Set the spacing, or choose another checkpoint.",
        ("set_spacing",),
    )
