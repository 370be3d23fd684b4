"""Masks on one grid: axes put in one order, and nearest neighbors where other grids are allowed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thoraxseg.agreement.masks import Masks, Reading
from thoraxseg.errors import InputError
from thoraxseg.volume import MAX_GRIDS_APART, axis_codes, grids_apart, reorient


@dataclass(frozen=True, eq=False)
class Onto:
    """The grid that masks are compared on."""

    name: str
    """Whose grid it is, for messages."""
    shape: tuple[int, int, int]
    """Number of voxels along (k, j, i)."""
    ijk_to_ras: np.ndarray

    @classmethod
    def of(cls, masks: Masks) -> Onto:
        """Return the grid of a file."""
        return cls(masks.name, masks.labels.shape, masks.ijk_to_ras)


def on_grid(labels: np.ndarray, one: Masks, onto: Onto, reading: Reading) -> tuple[np.ndarray, list[str]]:
    """Return the labels `(k, j, i)` of a file in the order and on the grid that is wanted, and what was done.

    Raises InputError for masks on another grid, unless `reading.resample`.
    """
    codes = axis_codes(onto.ijk_to_ras)
    turned, matrix = reorient(labels, one.ijk_to_ras, codes)
    shape = onto.shape
    if turned.shape == shape:
        apart = grids_apart(shape, onto.ijk_to_ras, matrix)
        if apart <= MAX_GRIDS_APART:
            said = f"{one.name}: its axes were put in the order of {onto.name}; no voxel changed."
            return np.ascontiguousarray(turned), [] if turned is labels else [said]
        reason = f"lies up to {apart:.3g} voxels away from it (spacing, origin or direction differ)"
    else:
        reason = f"has {_sizes(turned.shape)} voxels (k, j, i), not {_sizes(shape)}"
    if not reading.resample and _is_one_lattice(onto.ijk_to_ras, matrix, shape):
        raise InputError(
            f"{one.where}: expected the grid of {onto.name}, but it covers another part of the same grid "
            f"({_sizes(turned.shape)} voxels, not {_sizes(shape)}), as a cropped segmentation does. "
            f"{reading.remedies.place}."
        )
    if not reading.resample:
        raise InputError(
            f"{one.where}: expected the grid of {onto.name}, but it {reason}. Take masks that were drawn on one "
            f"image, or {reading.remedies.resample}."
        )
    resampled, outside = resample_nearest(turned, matrix, shape, onto.ijk_to_ras)
    return resampled, [
        f"{one.name}: {reason}; resampled onto the grid of {onto.name} with nearest neighbors, "
        f"{np.count_nonzero(labels):,} labeled voxels became {np.count_nonzero(resampled):,}; {outside:.1%} of that "
        "grid lies outside and counts as background."
    ]


def resample_nearest(
    labels: np.ndarray, matrix: np.ndarray, shape: tuple[int, int, int], onto: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return labels on another grid, each voxel with the label of the nearest one, and the share outside.

    `matrix` and `onto` are the `ijk_to_ras` of the labels and of the grid wanted, which has `shape` (k, j, i). What
    lies outside the labels' voxels is 0. One slice at a time, so that memory stays small.
    """
    to_old = np.linalg.solve(matrix, onto)  # (i, j, k, 1) -> (i, j, k, 1)
    columns, rows = np.meshgrid(np.arange(shape[2]), np.arange(shape[1]))
    plane = np.stack([columns, rows])  # (i, j) of every pixel of a slice
    result = np.zeros(shape, labels.dtype)
    sizes = np.array(labels.shape[::-1])[:, None, None]
    outside = 0
    for k in range(shape[0]):
        place = np.tensordot(to_old[:3, :2], plane, 1) + (to_old[:3, 2] * k + to_old[:3, 3])[:, None, None]
        # Exactly between two voxels rounding decides; a hair toward the lower one makes it the same everywhere.
        index = np.floor(place + 0.5 - 1e-6).astype(np.int64)
        inside = ((index >= 0) & (index < sizes)).all(axis=0)
        i, j, old_k = index[:, inside]
        result[k][inside] = labels[old_k, j, i]
        outside += int(inside.size - np.count_nonzero(inside))
    return result, outside / result.size


def _is_one_lattice(one: np.ndarray, other: np.ndarray, shape: tuple[int, int, int]) -> bool:
    """Return whether the voxels of another grid lie exactly on those of the first, but for its extent."""
    moved = np.linalg.solve(one, other)
    shift = moved[:3, 3] - np.round(moved[:3, 3])
    turned = np.abs(moved[:3, :3] - np.eye(3)).max() * max(shape)
    return bool(np.abs(shift).max() <= MAX_GRIDS_APART and turned <= MAX_GRIDS_APART)


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
