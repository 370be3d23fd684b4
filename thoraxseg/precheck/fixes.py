"""What can be done about a light that is not green, on a copy: each fix returns a new volume and a note that says so.

The note goes with the volume into the result and its record. The image that was given is never altered; where only
the geometry changes, the copy shares its voxels, which nobody writes to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from thoraxseg.contrast import clahe_slices
from thoraxseg.errors import InputError, OptionError
from thoraxseg.precheck.findings import words
from thoraxseg.progress import Progress, silent
from thoraxseg.volume import (
    MAX_SPACING_MM,
    MIN_SPACING_MM,
    Volume,
    axis_codes,
    directions_from_codes,
)

CLIP_LIMIT = 0.03
"""Of CLAHE, as the mouse MRI paper and the card of DeepMeta have it."""


def reorient(volume: Volume, codes: str) -> Volume:
    """Return the volume with its axes i, j, k in another order or direction; every voxel stays where it is.

    For checkpoints that see the file's own axes. Nothing is resampled, and measured in the patient nothing changes.
    Raises OptionError for letters that do not name each patient axis once.
    """
    _check_codes(codes, "reorient")
    before = volume.axis_codes
    turned = volume.reoriented(codes)
    turned = replace(turned, array=np.ascontiguousarray(turned.array))
    if before == codes:
        return turned.with_notes(f"The axes run to {codes}, as they did.")
    return turned.with_notes(
        f"The axes were reordered from {before} to {codes}; every voxel stays where it is in the patient."
    )


def declare_orientation(volume: Volume, codes: str) -> Volume:
    """Return the same array with another statement of where its axes i, j, k run to: for a header that is wrong.

    No voxel moves in the array, so the patient turns around it: what was said to be the head may now be the feet. The
    axes become those of the patient, without any tilt; spacing and the center of the image stay. The geometry then
    counts as stated. Raises OptionError for letters that do not name each patient axis once.
    """
    _check_codes(codes, "declare_orientation")
    before = volume.axis_codes
    # The spacing of each array axis, i, j, k.
    scale = np.linalg.norm(volume.ijk_to_ras[:3, :3], axis=0)
    matrix = _about_the_center(volume, directions_from_codes(codes) * scale)
    said = f"The header's orientation, {before}, was replaced by hand: the axes i, j, k run to {codes}."
    return replace(volume, ijk_to_ras=matrix, geometry_assumed=False).with_notes(said)


def swap_sides(volume: Volume) -> Volume:
    """Return the same array with right and left exchanged in the geometry: for a header that has the wrong side.

    Precisely: the array is not touched; `ijk_to_ras` is mirrored at the plane of constant R through the center of the
    volume, so a voxel at (r, a, s) is from now on at (2 c - r, a, s). What was the patient's right becomes the left;
    front, back, head, spacing and the center stay, and the axis letters change R for L only. The handedness of the
    axes changes: which of the two is right no program can know, only who made the scan.
    """
    center = volume.ijk_to_ras @ [*((n - 1) / 2 for n in volume.shape[::-1]), 1.0]
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirror[0, 3] = 2 * center[0]
    matrix = mirror @ volume.ijk_to_ras
    return replace(volume, ijk_to_ras=matrix).with_notes(
        f"Right and left were exchanged by hand: the axes run to {axis_codes(matrix)} instead of {volume.axis_codes}."
    )


def set_spacing(volume: Volume, spacing_mm: Sequence[float]) -> Volume:
    """Return the same array with other voxel sizes, (k, j, i) in mm: for a header with a wrong unit or none.

    Directions and the center of the image stay. Raises OptionError unless there are three numbers from 0.0001 to
    100 mm.
    """
    try:
        spacing = tuple(float(s) for s in spacing_mm)
    except (TypeError, ValueError):
        spacing = ()
    if len(spacing) != 3 or not all(
        math.isfinite(s) and MIN_SPACING_MM <= s <= MAX_SPACING_MM for s in spacing
    ):
        raise OptionError(
            f"set_spacing: expected three numbers (slice, row, column) from {MIN_SPACING_MM} to {MAX_SPACING_MM:g} mm, "
            f"got {spacing_mm!r}."
        )
    before = volume.spacing_mm
    matrix = _about_the_center(volume, volume.ijk_to_ras[:3, :3] * (np.divide(spacing, before)[::-1]))
    return replace(volume, ijk_to_ras=matrix).with_notes(
        f"The spacing was set by hand to {words(spacing)} mm (slice x row x column) instead of {words(before)} mm."
    )


def enhance_contrast(volume: Volume, progress: Progress = silent) -> Volume:
    """Return the volume with each slice k contrast-enhanced (CLAHE), float32 within the range that it had.

    For dark MRI. The values are scaled from the volume's minimum and maximum to [0, 1], each slice goes through
    `contrast.clahe_slices` with a clip limit of 0.03 and is scaled back, so that every slice spans the whole range.
    Raises InputError for an image without contrast or with voxels that are not numbers.
    """
    if not np.isfinite(volume.array).all() or volume.array.min() == volume.array.max():
        raise InputError(
            f"{volume.name}: expected an image with contrast and with numbers in every voxel, to enhance it. Load the "
            "image again."
        )
    low, high = float(volume.array.min()), float(volume.array.max())
    enhanced = clahe_slices((volume.array.astype(np.float64) - low) / (high - low), CLIP_LIMIT, progress)
    array = (enhanced * (high - low) + low).astype(np.float32)
    return replace(volume, array=array).with_notes(
        f"The contrast of each slice was enhanced by hand (CLAHE, clip limit {CLIP_LIMIT:g}); intensities are no "
        "longer those of the scanner."
    )


@dataclass(frozen=True)
class Fix:
    """What can be done about a light, with what has to be asked first."""

    key: str
    title: str
    """For a button."""
    sentence: str
    """What it does and when it is right."""
    parameters: Mapping[str, str]
    """What the function asks for: name -> what to give, in words."""
    apply: Callable[..., Volume]
    """The function: a volume and the parameters by name -> a new volume."""
    done: str
    """What was done, in a few words for a name."""


_CODES = "where the axes i, j, k run to in the patient, three letters such as LPS"

FIXES = {
    fix.key: fix
    for fix in (
        Fix(
            "set_spacing",
            "Set spacing",
            "Says how large a voxel is, where the header has a wrong unit or none. The image keeps its voxels.",
            {"spacing_mm": "voxel size along slices, rows and columns (k, j, i) in mm"},
            set_spacing,
            "spacing set",
        ),
        Fix(
            "declare_orientation",
            "State orientation",
            "Says where the axes run to in the patient, where the header is wrong or silent. The image keeps its "
            "voxels.",
            {"codes": _CODES},
            declare_orientation,
            "orientation stated",
        ),
        Fix(
            "reorient",
            "Reorder axes",
            "Stores the voxels in another order of axes; each stays where it is in the patient. For checkpoints that "
            "see the file's own axes.",
            {"codes": _CODES},
            reorient,
            "axes reordered",
        ),
        Fix(
            "swap_sides",
            "Swap sides",
            "Exchanges right and left, where the header has the wrong side. Be sure: no program can tell.",
            {},
            swap_sides,
            "sides swapped",
        ),
        Fix(
            "enhance_contrast",
            "Enhance contrast",
            "Enhances the contrast of each slice (CLAHE), for dark MRI.",
            {},
            enhance_contrast,
            "contrast enhanced",
        ),
    )
}
"""All fixes by key. Each works on a copy."""


def _check_codes(codes: str, what: str) -> None:
    try:
        directions_from_codes(codes)
    except (InputError, TypeError) as error:
        raise OptionError(
            f"{what}: expected three axis letters, one each of L/R, P/A and I/S, got {codes!r}."
        ) from error


def _about_the_center(volume: Volume, axes: np.ndarray) -> np.ndarray:
    """Return an `ijk_to_ras` with other `axes` `(3, 3)` whose middle voxel lies where that of the volume does."""
    middle = [(n - 1) / 2 for n in volume.shape[::-1]]
    center = (volume.ijk_to_ras @ [*middle, 1.0])[:3]
    matrix = np.eye(4)
    matrix[:3, :3] = axes
    matrix[:3, 3] = center - axes @ middle
    return matrix
