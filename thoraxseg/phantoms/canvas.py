"""A voxel grid in patient space on which shapes are painted with partial volume, far edges cut.

The grid runs to right, anterior, superior (codes RAS, array (z, y, x)); `stored` turns a painted array
into the axis order a user asked for without resampling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thoraxseg.errors import OptionError
from thoraxseg.phantoms.shapes import Box, Shape
from thoraxseg.volume import directions_from_codes, geometry_from_spacing, reorient

MAX_VOXELS = 400_000_000


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel centers in RAS mm: 1-D coordinates along right, anterior and superior, and their spacing."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    spacing: np.ndarray
    """Spacing in mm along (x, y, z)."""

    @classmethod
    def over(cls, low: Sequence[float], high: Sequence[float], spacing: Sequence[float]) -> Grid:
        """Return the grid centered on the field of view between two RAS corners in mm.

        The field of view is rounded to whole voxels. Raises OptionError when it has too many of them.
        """
        spacing = np.asarray(spacing, dtype=float)
        low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        counts = np.maximum(np.round((high - low) / spacing), 1).astype(int)
        if math.prod(counts.tolist()) > MAX_VOXELS:
            raise OptionError(
                f"spacing_mm: expected a spacing that gives at most {MAX_VOXELS:,} voxels, got "
                f"{' x '.join(map(str, counts))}. Choose a coarser spacing or a smaller margin."
            )
        first = (low + high) / 2 - (counts - 1) / 2 * spacing
        x, y, z = (
            (f + s * np.arange(n)).astype(np.float32) for f, s, n in zip(first, spacing, counts, strict=True)
        )
        return cls(x, y, z, spacing)

    def in_body(self, scale: np.ndarray, shift: np.ndarray) -> Grid:
        """Return the same voxels in the millimeters of a body that was scaled, then shifted."""
        axes = ((a - o) / s for a, o, s in zip((self.x, self.y, self.z), shift, scale, strict=True))
        return Grid(*(a.astype(np.float32) for a in axes), self.spacing / scale)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (z, y, x)."""
        return len(self.z), len(self.y), len(self.x)

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel in mm3."""
        return float(np.prod(self.spacing))

    @property
    def edges(self) -> Box:
        """Lowest and highest RAS corner of the field of view, voxel borders rather than centers, in mm."""
        low = np.array([self.x[0], self.y[0], self.z[0]], dtype=float)
        high = np.array([self.x[-1], self.y[-1], self.z[-1]], dtype=float)
        return low - self.spacing / 2, high + self.spacing / 2

    def open(self, where: tuple[slice, slice, slice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x `(1, 1, I)`, y `(1, J, 1)`, z `(K, 1, 1)` of a part of the grid, ready to broadcast."""
        k, j, i = where
        return self.x[None, None, i], self.y[None, j, None], self.z[k, None, None]

    def within(self, box: Box, margin: float) -> tuple[slice, slice, slice]:
        """Return half-open (k, j, i) slices of the voxels with centers in a box plus a margin in mm."""
        found = []
        for axis, low, high in zip((self.x, self.y, self.z), box[0] - margin, box[1] + margin, strict=True):
            found.append(slice(int(np.searchsorted(axis, low)), int(np.searchsorted(axis, high, "right"))))
        return found[2], found[1], found[0]

    def distance(self, shape: Shape) -> tuple[tuple[slice, slice, slice], np.ndarray]:
        """Return where a shape lies on the grid, and its signed distance there in mm, float32.

        Beyond one voxel from the shape the distance may be any positive number.
        """
        margin = float(self.spacing.max())
        pieces = list(shape.pieces())
        boxes = [piece.box for piece in pieces]
        whole = self.within(
            (np.min([b[0] for b in boxes], axis=0), np.max([b[1] for b in boxes], axis=0)), margin
        )
        d = np.full([s.stop - s.start for s in whole], np.float32(1e6))
        for piece, box in zip(pieces, boxes, strict=True):
            part = self.within(box, margin)
            if any(s.stop <= s.start for s in part):
                continue
            local = tuple(
                slice(s.start - w.start, s.stop - w.start) for s, w in zip(part, whole, strict=True)
            )
            view = d[local]
            np.minimum(view, piece.distance(*self.open(part)), out=view)
        return whole, d

    def cover(self, d: np.ndarray) -> np.ndarray:
        """Return the share of each voxel, 0 to 1, that lies inside a surface at signed distance `d` mm."""
        return np.clip(0.5 - d / np.float32(self.spacing.mean()), 0, 1)

    def stored(self, array: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a painted array in axis order `codes`, contiguous, and its `ijk_to_ras`."""
        matrix = geometry_from_spacing(tuple(self.spacing[::-1]), "RAS")
        matrix[:3, 3] = self.edges[0] + self.spacing / 2
        turned, matrix = reorient(array, matrix, codes)
        return np.ascontiguousarray(turned), matrix


class Canvas:
    """Intensities on a grid; later shapes cover earlier ones, mixing by volume at their edges."""

    def __init__(self, grid: Grid, values: dict[str, float], background: str) -> None:
        self.grid = grid
        self.values = values
        self.array = np.full(grid.shape, np.float32(values[background]))

    def paint(self, shape: Shape, material: str, within: np.ndarray | None = None) -> None:
        """Fill a shape with a material, only as far as `within`, `(z, y, x)` shares from 0 to 1, allows."""
        where, d = self.grid.distance(shape)
        share = self.grid.cover(d)
        self.mix(where, share if within is None else share * within[where], material)

    def mix(self, where: tuple[slice, slice, slice], share: np.ndarray, material: str) -> None:
        """Replace a share, 0 to 1, of every voxel of a part of the grid by a material."""
        view = self.array[where]
        view += share * (np.float32(self.values[material]) - view)


def spacing_along_ras(
    spacing_mm: float | Sequence[float], codes: str, limits: tuple[float, float]
) -> np.ndarray:
    """Return the spacing along (x, y, z) in mm from one number, or three along the stored (k, j, i).

    Raises OptionError for numbers outside `limits`, InputError for wrong axis letters.
    """
    try:
        numbers = [float(s) for s in (spacing_mm if np.ndim(spacing_mm) else [spacing_mm] * 3)]
    except (TypeError, ValueError):
        numbers = []
    low, high = limits
    if len(numbers) != 3 or not all(math.isfinite(s) and low <= s <= high for s in numbers):
        raise OptionError(
            f"spacing_mm: expected one number or three, (k, j, i), each from {low:g} to {high:g} mm, "
            f"got {spacing_mm!r}."
        )
    # Column a of the directions belongs to array axis i, j, k; its one non-zero row names x, y or z.
    return np.abs(directions_from_codes(codes)) @ np.array(numbers[::-1])
