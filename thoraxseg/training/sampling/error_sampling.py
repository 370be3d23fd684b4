"""Map of errors -> voxels drawn in proportion to it (isample: Berger et al. 2017, as NiftyNet does it)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_DROPPED_BITS = 16
"""Of a float32: what is left are exponent and 7 bits, so that errors in one range differ by less than 1 %."""
_RANGES = 32 * 128
"""The last one holds the largest error, the first all below 2e-10 of it, whose share of the draws is nothing."""


def draw_by_error(errors: np.ndarray, count: int, rng: np.random.Generator, floor: float = 0.0) -> np.ndarray:
    """Return `count` flat indices into `errors` (any shape), P = (1 - floor) · e / Σe + floor / V.

    The minimum is subtracted if it is negative; an all-zero map is drawn from uniformly. Voxels are ordered by error,
    those that differ by less than 1 % by place, and the k-th draw is at u = (k + U(0, 1)) / count of their cumulative
    sum, so that a batch holds both easy and hard places.
    """
    where = (np.arange(count) + rng.random(count)) / count
    # Plane by plane: a map lies on the disk, and sorting it would take seconds and gigabytes for a dozen draws.
    planes = errors if errors.ndim > 1 else errors[None]
    lowest = min(0.0, *(float(plane.min()) for plane in planes))
    highest = max(float(plane.max()) for plane in planes) - lowest
    if highest == 0:
        return (where * errors.size).astype(np.int64)
    sums, counts = np.zeros(_RANGES), np.zeros(_RANGES)
    for values, ranges in _ranged(planes, lowest, highest):
        sums += np.bincount(ranges, weights=values, minlength=_RANGES)
        counts += np.bincount(ranges, minlength=_RANGES)
    per_error, alike = (1 - floor) / sums.sum(), floor / errors.size
    ends = np.cumsum(sums * per_error + counts * alike)
    where = where * ends[-1]
    of_draw = np.minimum(np.searchsorted(ends, where, side="right"), _RANGES - 1)
    wanted = np.zeros(_RANGES, dtype=bool)
    wanted[of_draw] = True
    passed = np.concatenate([[0.0], ends])  # of each range, how much lies before the plane that is looked at
    chosen = np.full(count, -1, dtype=np.int64)
    first = 0
    for values, ranges in _ranged(planes, lowest, highest):
        candidates = np.flatnonzero(wanted[ranges])
        its_ranges = ranges[candidates]
        for one in np.unique(its_ranges):
            members = candidates[its_ranges == one]
            inside = passed[one] + np.cumsum(values[members].astype(np.float64) * per_error + alike)
            draws = np.flatnonzero((of_draw == one) & (where >= passed[one]))
            found = np.searchsorted(inside, where[draws], side="right")
            # Rounding may put the last draw of a range behind its end: a later plane with this range overrules.
            chosen[draws] = first + members[np.minimum(found, len(members) - 1)]
            passed[one] = inside[-1]
        first += values.size
    return chosen


def _ranged(planes: np.ndarray, lowest: float, highest: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the errors of each plane from 0 up, float32 `(V,)`, and the range of each, ordered as the errors are."""
    first = int(_digits(np.float32([highest]))[0]) - (_RANGES - 1)
    for plane in planes:
        values = np.ascontiguousarray(plane, dtype=np.float32).ravel() - np.float32(lowest)
        yield values, np.clip(_digits(values) - first, 0, _RANGES - 1)


def _digits(values: np.ndarray) -> np.ndarray:
    """Return the leading bits of floats that are not negative, which are ordered as the floats are."""
    # 0 + makes 0 of -0, whose bits are those of a large number.
    return ((np.float32(0) + values).view(np.uint32) >> _DROPPED_BITS).astype(np.intp)
