"""Map of errors -> voxels drawn in proportion to it (isample: Berger et al. 2017, as NiftyNet does it)."""

from __future__ import annotations

import numpy as np

_BINS = 4096


def draw_by_error(errors: np.ndarray, count: int, rng: np.random.Generator, floor: float = 0.0) -> np.ndarray:
    """Return `count` flat indices into `errors` (any shape), P = (1 - floor) · e / Σe + floor / V.

    The minimum is subtracted if it is negative; an all-zero map is drawn from uniformly. Voxels are sorted by error
    and the k-th draw is at u = (k + U(0, 1)) / count of their cumulative sum, so that a batch holds both easy and
    hard places.
    """
    flat = np.asarray(errors, dtype=np.float32).ravel()
    lowest = flat.min()
    if lowest < 0:
        flat = flat - lowest
    where = (np.arange(count) + rng.random(count)) / count
    highest, total = flat.max(), flat.sum(dtype=np.float64)
    if total == 0:
        return (where * flat.size).astype(np.int64)
    # Sorting millions of voxels for a dozen draws would take a second: sums of 4096 ranges of error say in which
    # range a draw falls, and only those are sorted.
    bins = (flat / highest * np.float32(_BINS - 1)).astype(np.uint16)
    per_error, alike = (1 - floor) / total, floor / flat.size
    sums = np.bincount(bins, weights=flat, minlength=_BINS)
    ends = np.cumsum(sums * per_error + np.bincount(bins, minlength=_BINS) * alike)
    where = where * ends[-1]
    of_draw = np.minimum(np.searchsorted(ends, where, side="right"), _BINS - 1)
    chosen = np.empty(count, dtype=np.int64)
    for one in np.unique(of_draw):
        members = np.flatnonzero(bins == one)
        members = members[np.argsort(flat[members], kind="stable")]
        inside = np.cumsum(flat[members].astype(np.float64) * per_error + alike) + (
            ends[one - 1] if one else 0.0
        )
        draws = of_draw == one
        found = np.searchsorted(inside, where[draws], side="right")
        chosen[draws] = members[np.minimum(found, len(members) - 1)]
    return chosen
