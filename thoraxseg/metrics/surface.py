"""Distances in millimeters between the surfaces of two masks.

1. Surface voxels are the foreground voxels with at least one background voxel among their six face neighbors.
   What lies beyond the image is background, and the walls of cavities are surface.
2. Every surface voxel of one mask looks for the nearest surface voxel of the other, center to center. A tree over
   the surface voxels answers this, so that cost and memory follow the surface and not the volume. Where many are
   far from the other surface, the plane distances of one slice after another answer it sooner; both are exact.
3. Mean, percentile, maximum and the share within a tolerance are read off the two lists.

Sources: mean and 95 % Hausdorff distance as Malimban et al. 2022 name them, in the reading of DEFINITIONS in `pair`;
Maier-Hein et al. 2024 ("Metrics reloaded") for the variants of other tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thoraxseg.errors import InputError, OptionError
from thoraxseg.metrics.overlap import NAN
from thoraxseg.metrics.regions import Box, bounding_boxes

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

CHUNK = 1 << 16
"""Surface voxels that look for their nearest neighbor at a time."""
NEAR = 16
"""Distance in voxels up to which the tree is quick wherever the voxels lie."""
VOXELS_PER_FAR_POINT = 5000
"""A point farther than that costs the tree 0.05 to 2 ms, a voxel of a transformed slice about 100 ns: in between."""

SPACING_NOISE = 1e-6
"""Relative error of a spacing that a file holds in 32 bits, with room."""


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Two lists of distances in mm, float64; both are empty, and every number is nan, where a mask is empty.

    P95 is the 95th percentile with linear interpolation between order statistics.
    """

    to_prediction: np.ndarray
    """From every surface voxel of the reference to the nearest surface voxel of the prediction."""
    to_reference: np.ndarray
    """From every surface voxel of the prediction to the nearest surface voxel of the reference."""

    @property
    def msd_to_prediction_mm(self) -> float:
        """Mean over the reference's surface."""
        return _mean(self.to_prediction)

    @property
    def msd_to_reference_mm(self) -> float:
        """Mean over the prediction's surface."""
        return _mean(self.to_reference)

    @property
    def msd_mm(self) -> float:
        """Mean of the two directed means: both surfaces weigh the same, however many voxels each has."""
        return (self.msd_to_prediction_mm + self.msd_to_reference_mm) / 2

    @property
    def hd95_to_prediction_mm(self) -> float:
        """P95 over the reference's surface."""
        return _percentile_95(self.to_prediction)

    @property
    def hd95_to_reference_mm(self) -> float:
        """P95 over the prediction's surface."""
        return _percentile_95(self.to_reference)

    @property
    def hd95_mm(self) -> float:
        """Larger of the two directed P95."""
        return max(self.hd95_to_prediction_mm, self.hd95_to_reference_mm)

    @property
    def hd_mm(self) -> float:
        """Largest distance of all. Source: Hausdorff 1914."""
        if self._undefined:
            return NAN
        return float(max(self.to_prediction.max(), self.to_reference.max()))

    @property
    def assd_pooled_mm(self) -> float:
        """Mean over both lists joined: the larger surface weighs more."""
        return _mean(self._pooled)

    @property
    def hd95_pooled_mm(self) -> float:
        """P95 over both lists joined."""
        return _percentile_95(self._pooled)

    def nsd(self, tolerance_mm: float) -> float:
        """Return the share of both surfaces' voxels that lie within `tolerance_mm` of the other surface, 0 to 1.

        A distance of exactly the tolerance is within it, also where the last digits of spacing say otherwise (a
        relative 1e-6: files may hold spacing in 32 bits). Source: normalized surface Dice, Nikolov et al. 2021,
        counted in surface voxels as MONAI does. Raises OptionError for a tolerance that is negative or not a number.
        """
        check_tolerance(tolerance_mm)
        if self._undefined:
            return NAN
        limit = tolerance_mm * (1 + SPACING_NOISE)
        within = sum(
            int(np.count_nonzero(found <= limit)) for found in (self.to_prediction, self.to_reference)
        )
        return within / (self.to_prediction.size + self.to_reference.size)

    @property
    def _undefined(self) -> bool:
        return self.to_prediction.size == 0

    @property
    def _pooled(self) -> np.ndarray:
        return np.concatenate([self.to_prediction, self.to_reference])


def surface_distances(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """Return the distances between the surfaces of two bool masks `(K, J, I)` of one shape.

    `spacing_mm` is the voxel size along k, j, i. Both lists are empty where a mask is empty. Raises InputError for
    masks of different shape, other than three axes or another type than bool, and for a spacing that is not three
    positive numbers.
    """
    for name, mask in (("reference", reference), ("prediction", prediction)):
        if mask.ndim != 3 or mask.dtype != bool:
            raise InputError(
                f"{name}: expected a bool mask (K, J, I), got shape {mask.shape} of type {mask.dtype}."
            )
    return label_distances(reference, prediction, True, spacing_mm)


def label_distances(
    reference: np.ndarray,
    prediction: np.ndarray,
    label: int,
    spacing_mm: Sequence[float],
    boxes: tuple[Box | None, Box | None] | None = None,
) -> SurfaceDistances:
    """Return the distances between the surfaces of one label in two label maps `(K, J, I)`.

    As `surface_distances`, without making masks of the volume's size. `boxes` are the bounding boxes of the label
    in the reference and in the prediction (None where it is absent) when they are known already.
    """
    if reference.shape != prediction.shape:
        raise InputError(
            f"expected masks of one shape, got {reference.shape} and {prediction.shape}. Resample one of them first."
        )
    spacing = check_spacing(spacing_mm)
    if boxes is None:
        boxes = tuple(bounding_boxes(labels, [label])[int(label)] for labels in (reference, prediction))
    if None in boxes:
        return SurfaceDistances(np.empty(0), np.empty(0))
    one, other = (
        surface_voxels(labels, label, box) for labels, box in zip((reference, prediction), boxes, strict=True)
    )
    return SurfaceDistances(_nearest_mm(one, other, spacing), _nearest_mm(other, one, spacing))


def surface_voxels(label_map: np.ndarray, label: int = True, box: Box | None = None) -> np.ndarray:
    """Return the int32 places `(N, 3)` along k, j, i of the surface voxels of a label, in the array's order.

    A mask will do as well as a label map `(K, J, I)`. `box` is a box that holds all voxels of the label.
    """
    start = [s.start for s in box] if box else [0, 0, 0]
    inside = label_map[box] if box else label_map
    found = [np.empty((0, 3), np.int32)]
    nothing = np.zeros(inside.shape[1:], bool)
    below, here = nothing, inside[0] == label
    for k in range(len(inside)):
        above = inside[k + 1] == label if k + 1 < len(inside) else nothing
        deep = here & below & above
        deep[1:] &= here[:-1]
        deep[:-1] &= here[1:]
        deep[:, 1:] &= here[:, :-1]
        deep[:, :-1] &= here[:, 1:]
        # Beyond the box, hence at its faces, there is background.
        deep[[0, -1]] = False
        deep[:, [0, -1]] = False
        rows, columns = np.nonzero(here & ~deep)
        places = np.empty((len(rows), 3), np.int32)
        places[:, 0] = k + start[0]
        places[:, 1] = rows + start[1]
        places[:, 2] = columns + start[2]
        found.append(places)
        below, here = here, above
    return np.concatenate(found)


def check_spacing(spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the spacing as a float64 array `(3,)`; raise InputError unless it is three positive finite numbers."""
    spacing = np.asarray(spacing_mm, dtype=float)
    if spacing.shape != (3,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise InputError(
            f"expected a spacing of three positive numbers in mm along k, j, i, got {spacing_mm}."
        )
    return spacing


def check_tolerance(tolerance_mm: float) -> None:
    """Raise OptionError unless the tolerance is a finite number of at least 0."""
    if not (np.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise OptionError(f"tolerance_mm: expected a finite number of at least 0, got {tolerance_mm!r}.")


def _nearest_mm(points: np.ndarray, others: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the distance `(N,)` in mm of each of `points` `(N, 3)` to the nearest of `others` `(M, 3)`."""
    from scipy.spatial import cKDTree

    # Splitting at the middle is faster than at the median for points on a grid, where many coordinates are equal.
    tree = cKDTree(others * spacing, balanced_tree=False)
    squares = _squares_by_tree(points, others, tree, spacing, NEAR * spacing.min())
    far = np.flatnonzero(np.isinf(squares))
    if len(far):
        squares[far] = _far_squares(points[far], others, tree, spacing)
    return np.sqrt(squares)


def _squares_by_tree(
    points: np.ndarray, others: np.ndarray, tree: cKDTree, spacing: np.ndarray, reach_mm: float
) -> np.ndarray:
    """Return squared distances in mm2; infinite where nothing is nearer than `reach_mm`."""
    squares = np.full(len(points), np.inf)
    for start in range(0, len(points), CHUNK):
        chunk = points[start : start + CHUNK]
        found, nearest = tree.query(chunk * spacing, distance_upper_bound=reach_mm)
        near = np.flatnonzero(np.isfinite(found))
        # From whole steps, the distance does not depend on where in the image the voxels lie.
        steps = (chunk[near] - others[nearest[near]]) * spacing
        squares[start + near] = np.einsum("na,na->n", steps, steps)
    return squares


def _far_squares(points: np.ndarray, others: np.ndarray, tree: cKDTree, spacing: np.ndarray) -> np.ndarray:
    """Return squared distances in mm2 where the nearest may be far.

    Far from a smooth surface, much of it is nearly as far as the nearest voxel and a tree has to look at all of
    that. For many points it is quicker to transform each slice that holds `others` into distances in its plane and to
    add the way to that slice; this needs the memory of a slice only.
    """
    low = np.minimum(points.min(axis=0), others.min(axis=0))
    plane = tuple(np.maximum(points.max(axis=0), others.max(axis=0))[1:] - low[1:] + 1)
    slices, first = np.unique(others[:, 0], return_index=True)  # in order, as `surface_voxels` gives them
    if len(points) * VOXELS_PER_FAR_POINT < len(slices) * plane[0] * plane[1]:
        return _squares_by_tree(points, others, tree, spacing, np.inf)
    squares = np.full(len(points), np.inf)
    places = np.ravel_multi_index(tuple((points - low)[:, 1:].T), plane)
    for k, inside in zip(slices, np.split(others - low, first[1:]), strict=True):
        in_plane = _squares_in_plane(inside[:, 1], inside[:, 2], plane, spacing[1:])
        np.minimum(squares, in_plane.ravel()[places] + ((points[:, 0] - k) * spacing[0]) ** 2, out=squares)
    return squares


def _squares_in_plane(
    rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int], spacing: np.ndarray
) -> np.ndarray:
    """Return for each pixel of a plane the squared distance in mm2 to the nearest of some of its pixels."""
    from scipy.ndimage import distance_transform_edt

    background = np.ones(shape, bool)
    background[rows, columns] = False
    nearest = distance_transform_edt(background, spacing, return_distances=False, return_indices=True)
    down = (nearest[0] - np.arange(shape[0])[:, None]) * spacing[0]
    across = (nearest[1] - np.arange(shape[1])) * spacing[1]
    return down**2 + across**2


def _mean(distances: np.ndarray) -> float:
    return float(distances.mean()) if distances.size else NAN


def _percentile_95(distances: np.ndarray) -> float:
    return float(np.percentile(distances, 95)) if distances.size else NAN
