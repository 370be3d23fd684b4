"""Whether labels lie on the voxels of their image, and labels that cover a part of it brought onto the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.volume import MAX_GRIDS_APART, Volume, grids_apart, reorient


def check_grid(where: str, shape: tuple[int, ...], ijk_to_ras: np.ndarray, image: Volume) -> None:
    """Raise InputError unless labels have the shape and the geometry of their image."""
    if shape != image.shape:
        raise InputError(
            f"{where}: expected labels on the grid of {image.name}, {image.shape} voxels (k, j, i), got {shape}. "
            "Labels belong to their image voxel by voxel: was one of them resampled or cropped?"
        )
    _check_place(where, shape, ijk_to_ras, image)


def placed(where: str, labels: np.ndarray, ijk_to_ras: np.ndarray, image: Volume) -> np.ndarray:
    """Return labels `(K, J, I)` on the grid of the image: on its voxels, but perhaps a part of them or turned.

    3D Slicer saves the part of a segmentation that has contours. Raises InputError for labels between the voxels of the
    image, or outside of it.
    """
    labels, matrix = reorient(labels, ijk_to_ras, image.axis_codes)
    first = np.rint(np.linalg.solve(image.ijk_to_ras, matrix)[:3, 3]).astype(int)
    moved = image.ijk_to_ras.copy()
    moved[:3, 3] += moved[:3, :3] @ first
    _check_place(where, labels.shape, matrix, replace(image, ijk_to_ras=moved))
    whole = np.zeros(image.shape, dtype=labels.dtype)
    ours, theirs = [], []
    for low, size, own in zip(first[::-1], image.shape, labels.shape, strict=True):
        start = min(max(0, low), size)
        stop = max(start, min(size, low + own))
        ours.append(slice(start, stop))
        theirs.append(slice(start - low, stop - low))
    if whole[tuple(ours)].size:
        whole[tuple(ours)] = labels[tuple(theirs)]
    if lost := int(np.count_nonzero(labels) - np.count_nonzero(whole)):
        raise InputError(
            f"{where}: {lost:,} voxels of its contours lie outside of {image.name}. Is it another scan?"
        )
    return whole


def _check_place(where: str, shape: tuple[int, ...], ijk_to_ras: np.ndarray, image: Volume) -> None:
    apart = grids_apart(shape, image.ijk_to_ras, ijk_to_ras)
    if apart > MAX_GRIDS_APART:
        raise InputError(
            f"{where}: expected labels on the voxels of {image.name}, they lie up to {apart:.3g} voxels beside them "
            "(spacing, origin or direction differ). Correct the header, or export the labels on the image again."
        )
