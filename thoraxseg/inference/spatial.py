"""Random changes of place that can be undone: flips, then one affine map about the image center.

The affine map is kept as one matrix; image and answer go through it and its inverse, so nothing drifts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from thoraxseg.errors import OptionError

EDGE = 0.5 + 1e-6
"""The field of view ends half a voxel beyond the outermost centers; the rest is room for rounding."""


@dataclass(frozen=True)
class Augmentation:
    """Ranges (low, high) from which a sample's changes are drawn evenly; the defaults change nothing.

    Scale acts on all axes, rotation in the plane of two array axes, about the image center. Translation is
    in fractions of the extent of each axis; noise in standard deviations of each continuous channel.
    Raises OptionError for a range nothing can be drawn from.
    """

    flip_probability: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    rotation_rad: tuple[float, float] = (0.0, 0.0)
    rotation_plane: tuple[int, int] = (1, 2)
    translation_fraction: tuple[float, float] = (0.0, 0.0)
    noise_sd: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "rotation_rad", "translation_fraction"):
            low, high = getattr(self, name)
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise OptionError(f"{name}: expected a range low <= high, got {low} to {high}.")
        if not self.scale[0] > 0:
            raise OptionError(f"scale: expected factors above 0, got {self.scale[0]}. 1 keeps the size.")
        if not (0 <= self.flip_probability <= 1 and 0 <= self.noise_sd < math.inf):
            raise OptionError(
                "expected a flip probability from 0 to 1 and a noise SD of 0 or more, got "
                f"{self.flip_probability} and {self.noise_sd}."
            )
        if len({*self.rotation_plane}) != 2 or not {*self.rotation_plane} <= {0, 1, 2}:
            raise OptionError(f"rotation_plane: expected two of the axes 0, 1, 2, got {self.rotation_plane}.")

    def to_record(self) -> dict[str, Any]:
        """Return the ranges as plain numbers and lists for a provenance record."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values}


@dataclass(frozen=True, eq=False)
class Transform:
    """Flips of array axes, then voxel v goes to `matrix @ (v - center) + center + shift`, in voxels.

    Without a matrix it is flips alone, which move values and never compute them, there and back.
    """

    flips: tuple[int, ...] = ()
    matrix: np.ndarray | None = None
    shift: np.ndarray | None = None

    def apply(self, image: np.ndarray, continuous: Sequence[bool]) -> np.ndarray:
        """Return `image` `(C, z, y, x)` changed, on the same grid and of the same type.

        Channels that are `continuous` are interpolated linearly, others (maps) take the nearest value.
        Places outside the field of view get the channel's minimum: air, or the background of a map.
        """
        image = _flipped(image, self.flips)
        if self.matrix is None:
            return image
        inverse = np.linalg.inv(self.matrix)
        center = _center(image.shape[1:])
        offset = center - inverse @ (center + self.shift)
        outside = ~_inside(image.shape[1:], inverse, offset)
        out = np.empty(image.shape, image.dtype)
        for channel, smooth, changed in zip(image, continuous, out, strict=True):
            changed[:] = _resampled(channel, inverse, offset, 1 if smooth else 0)
            changed[outside] = channel.min()
        return out

    def undo(self, answer: np.ndarray, order: int) -> np.ndarray:
        """Return `answer` `(L, z, y, x)`, given on the changed grid, back at the places of the image.

        `order` 1 interpolates linearly, 0 takes the nearest value (labels). Voxels that were not seen, as
        `seen` says, get the value at the edge, to be ignored. Flips alone return a view.
        """
        if self.matrix is not None:
            offset = self._offset(answer.shape[1:])
            back = np.empty_like(answer, order="C")
            for values, out in zip(answer, back, strict=True):
                out[:] = _resampled(values, self.matrix, offset, order)
            answer = back
        return np.flip(answer, [axis + 1 for axis in self.flips])

    def seen(self, shape: Sequence[int]) -> np.ndarray:
        """Return where `(z, y, x)` the image's voxels still lie in the field of view after the change."""
        if self.matrix is None:
            return np.ones(shape, bool)
        return np.flip(_inside(shape, self.matrix, self._offset(shape)), self.flips)

    def _offset(self, shape: Sequence[int]) -> np.ndarray:
        center = _center(shape)
        return center + self.shift - self.matrix @ center


def drawn(
    ranges: Augmentation,
    rng: np.random.Generator,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    flip_axes: Sequence[int],
) -> Transform:
    """Return a transform drawn from `ranges` for images of `shape` and `spacing_mm`, both (z, y, x).

    Drawn in this order, always all: a flip of every one of `flip_axes` (0 is z), scale, angle, three
    translations. Scale and rotation act in millimeters. A single slice lies in the center, so scale leaves it
    there, and it is not translated out of itself.
    """
    flips = tuple(axis for axis in flip_axes if rng.random() < ranges.flip_probability)
    scale, angle = rng.uniform(*ranges.scale), rng.uniform(*ranges.rotation_rad)
    fractions = rng.uniform(*ranges.translation_fraction, size=3)
    if scale == 1 and angle == 0 and not fractions.any():
        return Transform(flips)
    a, b = ranges.rotation_plane
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = math.cos(angle)
    turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
    spacing = np.asarray(spacing_mm, float)
    voxels = scale * turn * spacing / spacing[:, None]
    return Transform(flips, voxels, np.where(np.asarray(shape) > 1, fractions * shape, 0.0))


def _center(shape: Sequence[int]) -> np.ndarray:
    return (np.asarray(shape) - 1) / 2


def _flipped(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    return np.ascontiguousarray(np.flip(array, [axis + 1 for axis in axes]))


def _resampled(array: np.ndarray, matrix: np.ndarray, offset: np.ndarray, order: int) -> np.ndarray:
    from scipy.ndimage import affine_transform

    return affine_transform(array, matrix, offset, order=order, mode="nearest", prefilter=False)


def _inside(shape: Sequence[int], matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return where `matrix @ v + offset` lies in the field of view, for every voxel v of the same shape."""
    grid = np.ogrid[tuple(map(slice, shape))]
    inside = np.ones(shape, bool)
    for row, start, size in zip(matrix, offset, shape, strict=True):
        # Leaving out zeros keeps places as small as a plane: a rotation in the slices is one for all of them.
        place = sum((factor * axis for factor, axis in zip(row, grid, strict=True) if factor), start=start)
        inside &= (place >= -EDGE) & (place <= size - 1 + EDGE)
    return inside
