"""What a file says about its place in the patient -> one `ijk_to_ras`, stated or openly assumed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.volume import geometry_from_spacing

MM_PER_UNIT = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "\\u00b5m", "micron", "microns"), 1e-3),
    **dict.fromkeys(("micrometer", "micrometers", "micrometre", "micrometres"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1e-6),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("in", "inch", "inches"), 25.4),
}
"""Millimeters per unit of length, by the words files use, in lower case."""


ASSUMED_KEY = "thoraxseg_geometry"
"""Header key of images that ThoraxSeg writes; the value `assumed` keeps a guess from becoming a fact."""


@dataclass(frozen=True)
class StackGeometry:
    """Geometry supplied from outside for files that state none."""

    spacing_mm: tuple[float, float, float]
    """Spacing in mm along (k, j, i) = (slice, row, column)."""
    axis_codes: str
    """Where i, j, k run to in the patient, as in `RIA`."""
    reason: str
    """Where the numbers come from, in words for the note, as in `from --spacing`."""
    shape: tuple[int, int, int] | None = None
    """The only shape (k, j, i) that the spacing holds for; None for any."""


@dataclass
class RawImage:
    """What a reader found in a file, before values and geometry are judged."""

    array: np.ndarray
    """`(K, J, I)` in the file's own order."""
    ijk_to_ras: np.ndarray | None = None
    """None when the file does not say which way its axes run."""
    spacing_mm: tuple[float, float, float] | None = None
    """(k, j, i), when the file states spacing but no orientation."""
    notes: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    """Free key/value pairs of the header (NRRD only)."""


def words(spacing_mm: tuple[float, ...]) -> str:
    """Return a spacing as `0.156 x 0.195 x 0.156 mm`."""
    return " x ".join(f"{s:.7g}" for s in spacing_mm) + " mm"


def usable_spacing(spacing_mm: tuple[float, ...]) -> tuple[float, float, float] | None:
    """Return three positive finite spacings, or None when there are none or they are a writer's default.

    Writers that know nothing put 1, 1, 1: taking that as 1 mm would make a mouse the size of a sheep.
    """
    values = tuple(float(s) for s in spacing_mm)
    if len(values) != 3 or not all(math.isfinite(s) and s > 0 for s in values) or values == (1.0, 1.0, 1.0):
        return None
    return values


def place(
    image: RawImage, stack_geometry: StackGeometry | None, spacing_given: bool, name: str
) -> tuple[np.ndarray, list[str], bool]:
    """Return `ijk_to_ras`, notes, and whether geometry had to be assumed from `stack_geometry`.

    Raises InputError when the file states no orientation and nothing was supplied, and when
    `spacing_given` contradicts what the file states.
    """
    if image.ijk_to_ras is not None:
        if spacing_given:
            spacing = np.linalg.norm(image.ijk_to_ras[:3, 2::-1], axis=0)
            raise InputError(
                f"{name}: --spacing is for stacks without geometry; this file states {words(spacing)}. "
                "Correct the file's header instead, or leave --spacing out."
            )
        if image.keys.get(ASSUMED_KEY) == "assumed":
            note = "The geometry in this file was assumed when ThoraxSeg wrote it, not stated by a scanner."
            return image.ijk_to_ras, [note], True
        return image.ijk_to_ras, [], False
    stated = image.spacing_mm
    if stack_geometry is None:
        found = f"a spacing of {words(stated)} but not which way its axes run" if stated else "no geometry"
        raise InputError(
            f"{name}: expected spacing and orientation, but the file states {found}. Pass --spacing "
            "slice,row,column in mm (to contour, a checkpoint whose card describes such stacks will do)."
        )
    supplied = tuple(float(s) for s in stack_geometry.spacing_mm)
    codes, reason = stack_geometry.axis_codes, stack_geometry.reason
    if stated is None:
        if stack_geometry.shape not in (None, image.array.shape):
            sizes, expected = (" x ".join(map(str, s)) for s in (image.array.shape, stack_geometry.shape))
            raise InputError(
                f"{name}: the stack states no spacing, and {words(supplied)} ({reason}) holds for {expected} voxels "
                f"only, not for {sizes}. Pass --spacing slice,row,column in mm."
            )
        note = (
            f"The stack states no geometry: spacing {words(supplied)} and axes {codes} were assumed "
            f"({reason})."
        )
        return geometry_from_spacing(supplied, codes), [note], True
    if spacing_given and not np.allclose(stated, supplied, rtol=1e-3, atol=0):
        raise InputError(
            f"{name}: --spacing says {words(supplied)}, the file states {words(stated)}. Correct the "
            "file's header, or leave --spacing out."
        )
    note = (
        f"The file states a spacing of {words(stated)} (slice, row, column), which was used, but no "
        f"orientation: axes {codes} were assumed ({reason})."
    )
    return geometry_from_spacing(stated, codes), [note], True
