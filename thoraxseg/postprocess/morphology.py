"""Closing of masks. What lies beyond the image never takes anything away."""

from __future__ import annotations

import numpy as np


def close_slices(mask: np.ndarray) -> np.ndarray:
    """Return the bool mask `(K, J, I)` closed in each slice with a 3 x 3 square: dilation, then erosion."""
    from scipy.ndimage import binary_dilation, binary_erosion

    square = np.ones((1, 3, 3), dtype=bool)
    # scipy's binary_closing erodes at the image border; the published rule does not.
    return binary_erosion(binary_dilation(mask, square), square, border_value=1)


def close_ball(mask: np.ndarray, radius_voxels: float) -> np.ndarray:
    """Return the bool mask `(K, J, I)` closed with a ball: gaps and holes up to `radius_voxels` are filled."""
    from scipy.ndimage import distance_transform_edt

    if not mask.any():
        return mask.copy()
    pad = int(np.ceil(radius_voxels)) + 1
    grown = distance_transform_edt(~np.pad(mask, pad)) <= radius_voxels
    closed = distance_transform_edt(grown) > radius_voxels
    return closed[pad:-pad, pad:-pad, pad:-pad] | mask


def open_ball(mask: np.ndarray, radius_voxels: float) -> np.ndarray:
    """Return the bool mask `(K, J, I)` opened with a ball: what is thinner than the ball, as vessels are, goes."""
    from scipy.ndimage import distance_transform_edt

    if mask.all():  # the distance to nothing is not defined
        return mask.copy()
    core = distance_transform_edt(mask) > radius_voxels
    if not core.any():
        return core
    return (distance_transform_edt(~core) <= radius_voxels) & mask
