"""Lung tumors: how large they are, where they lie, and which voxels they own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from thoraxseg.errors import OptionError
from thoraxseg.phantoms.canvas import Grid
from thoraxseg.phantoms.shapes import Box, Ellipsoid, axes_along

MAX_TUMORS = 40
_TRIES = 600

Distance = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class TumorSizes:
    """Which tumor volumes a phantom may have, in mm3."""

    smallest_mm3: float
    largest_mm3: float
    small_below_mm3: float
    """Border between the classes small and large; drawn sizes hold both when there are two or more."""


def tumor_volumes(tumors: int | Sequence[float], sizes: TumorSizes, rng: np.random.Generator) -> list[float]:
    """Return tumor volumes in mm3, largest first: as given, or so many drawn log-uniformly over the range.

    Raises OptionError for more than 40 tumors or a volume outside the range.
    """
    low, high = sizes.smallest_mm3, sizes.largest_mm3
    wanted = (
        f"tumors: expected a number of tumors from 0 to {MAX_TUMORS}, or their volumes, each from {low:g} to "
        f"{high:g} mm3, got {tumors!r}."
    )
    if isinstance(tumors, (bool, str)):
        raise OptionError(wanted)
    if np.ndim(tumors) == 0:
        if not (isinstance(tumors, (int, np.integer)) and 0 <= tumors <= MAX_TUMORS):
            raise OptionError(wanted + " One tumor of a given volume is a list of one number.")
        while True:
            volumes = np.exp(rng.uniform(math.log(low), math.log(high), int(tumors)))
            if tumors < 2 or volumes.min() < sizes.small_below_mm3 < volumes.max():
                return sorted(volumes.tolist(), reverse=True)
    try:
        volumes = [float(v) for v in tumors]
    except (TypeError, ValueError):
        raise OptionError(wanted) from None
    if len(volumes) > MAX_TUMORS or not all(low <= v <= high for v in volumes):
        raise OptionError(wanted)
    return sorted(volumes, reverse=True)


def place_tumors(
    volumes_mm3: Sequence[float], lungs: Distance, box: Box, gap_mm: float, rng: np.random.Generator
) -> list[tuple[Ellipsoid, bool]]:
    """Return an ellipsoid inside the lungs for each volume, and whether it touches the pleura.

    `lungs` is the signed distance in mm to the lungs, which lie in `box`. Every other tumor is pushed to
    the nearest wall, and no two come closer than `gap_mm`.
    Raises OptionError when there is no room.
    """
    placed: list[tuple[Ellipsoid, bool]] = []
    for n, volume in enumerate(volumes_mm3):
        radii = np.exp(rng.normal(0, 0.08, 3))
        radii *= (3 * volume / (4 * np.pi)) ** (1 / 3) / np.cbrt(radii.prod())
        axes = axes_along(rng.normal(size=3))
        others = [tumor for tumor, _ in placed]
        at_wall = n % 2 == 1
        centers = rng.uniform(box[0], box[1], (40 * _TRIES, 3))
        centers = centers[lungs(*centers.T) < -0.5 * radii.min()][:_TRIES]
        for center in centers:
            tumor = Ellipsoid(center, radii, axes)
            if not _fits(tumor, lungs, others, gap_mm):
                continue
            if at_wall:
                tumor = _pushed_to_wall(tumor, lungs)
                if tumor is None or not _fits(tumor, lungs, others, gap_mm):
                    continue
            placed.append((tumor, at_wall))
            break
        else:
            raise OptionError(
                f"tumors: found no room in the lungs for tumor {n + 1} of {len(volumes_mm3)} "
                f"({volume:.3g} mm3) with {gap_mm:.2g} mm between tumors. "
                "Choose fewer or smaller tumors, or a finer spacing."
            )
    return placed


def tumor_voxels(tumor: Ellipsoid, grid: Grid) -> tuple[tuple[slice, slice, slice], np.ndarray]:
    """Return a part of the grid and which of its voxels a tumor owns, so that their volume is the tumor's.

    These are the N voxels that lie deepest in it, N being its volume in voxels, rounded, at least 1.
    """
    where, d = grid.distance(tumor)
    if d.size == 0:
        return where, np.zeros(d.shape, bool)
    count = min(max(round(tumor.volume_mm3 / grid.voxel_mm3), 1), d.size)
    owned = np.zeros(d.size, bool)
    owned[np.argsort(d, axis=None, kind="stable")[:count]] = True
    return where, owned.reshape(d.shape)


def _sphere_points(count: int) -> np.ndarray:
    """Return points `(N, 3)` spread evenly over the unit sphere (Fibonacci lattice)."""
    n = np.arange(count) + 0.5
    w = 1 - 2 * n / count
    turn = np.pi * (1 + 5**0.5) * n
    r = np.sqrt(1 - w * w)
    return np.stack([r * np.cos(turn), r * np.sin(turn), w], axis=1)


_SPHERE = _sphere_points(300)


def _surface(tumor: Ellipsoid) -> np.ndarray:
    return (_SPHERE * np.asarray(tumor.radii)) @ tumor.axes + np.asarray(tumor.center)


def _fits(tumor: Ellipsoid, lungs: Distance, others: Sequence[Ellipsoid], gap_mm: float) -> bool:
    points = _surface(tumor).T
    return bool((lungs(*points) < 0).all()) and all((o.distance(*points) > gap_mm).all() for o in others)


def _pushed_to_wall(tumor: Ellipsoid, lungs: Distance) -> Ellipsoid | None:
    """Return the tumor moved toward the nearest wall until it touches, or None when it meets no wall."""
    center = np.asarray(tumor.center)
    step = 0.1 * min(tumor.radii)
    shifts = np.concatenate([np.eye(3), -np.eye(3)]) * step
    around = lungs(*(center + shifts).T)
    outward = around[:3] - around[3:]
    if not np.linalg.norm(outward) > 0:
        return None
    outward = outward / np.linalg.norm(outward)

    def moved(way: float) -> Ellipsoid:
        return Ellipsoid(center + way * outward, tumor.radii, tumor.axes)

    free, blocked = 0.0, 0.5 * min(tumor.radii)
    for _ in range(12):
        if not _fits(moved(blocked), lungs, (), 0):
            break
        free, blocked = blocked, 2 * blocked
    else:
        return None
    for _ in range(10):
        middle = (free + blocked) / 2
        free, blocked = (middle, blocked) if _fits(moved(middle), lungs, (), 0) else (free, middle)
    return moved(free)
