"""Closing, opening and filling of masks. What lies beyond the image never takes anything away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thoraxseg.volume import ROUNDING


def close_slices(mask: np.ndarray) -> np.ndarray:
    """Return the bool mask `(K, J, I)` closed in each slice with a 3 x 3 square: dilation, then erosion."""
    from scipy.ndimage import binary_dilation, binary_erosion

    square = np.ones((1, 3, 3), dtype=bool)
    # scipy's binary_closing erodes at the image border; the published rule does not.
    return binary_erosion(binary_dilation(mask, square), square, border_value=1)


def close_ball(mask: np.ndarray, radius_voxels: float) -> np.ndarray:
    """Return the bool mask `(K, J, I)` closed with a ball: gaps and holes up to `radius_voxels` are filled."""
    return close_ball_mm(mask, radius_voxels, (1.0, 1.0, 1.0))


def close_ball_mm(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the bool mask `(K, J, I)` closed with a ball of `radius_mm`, round in the patient.

    `spacing_mm` is along (k, j, i). A radius below half of the smallest spacing closes nothing.
    """
    from scipy.ndimage import distance_transform_edt, find_objects

    closed = mask.copy()
    if not mask.any():
        return closed
    (box,) = find_objects(mask.astype(np.uint8))
    # Beyond this margin nothing is grown, so that the way back takes nothing from the mask itself.
    pad = [(int(radius_mm // step) + 2,) * 2 for step in spacing_mm]
    radius = radius_mm * (1 + ROUNDING)  # three voxels of 0.1 mm are 0.3 mm
    grown = distance_transform_edt(~np.pad(mask[box], pad), spacing_mm) <= radius
    filled = distance_transform_edt(grown, spacing_mm) > radius
    inner = tuple(slice(before, -after) for before, after in pad)
    closed[box] |= filled[inner]
    return closed


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Return the bool mask `(K, J, I)` with its cavities filled: background that no path through faces leads out of.

    In 3-D only. In single slices the space between two lungs that meet, or a bronchus, would count as a hole.
    A cavity that opens at the border of the image is none.
    """
    from scipy.ndimage import binary_fill_holes

    return binary_fill_holes(mask)


def open_ball(mask: np.ndarray, radius_voxels: float) -> np.ndarray:
    """Return the bool mask `(K, J, I)` opened with a ball: what is thinner than the ball, as vessels are, goes."""
    from scipy.ndimage import distance_transform_edt

    if mask.all():  # the distance to nothing is not defined
        return mask.copy()
    core = distance_transform_edt(mask) > radius_voxels
    if not core.any():
        return core
    return (distance_transform_edt(~core) <= radius_voxels) & mask
