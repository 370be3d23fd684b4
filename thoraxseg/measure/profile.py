"""Doubt slice by slice: the curve along the stack, and the slices to look at, most doubtful first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thoraxseg.checkpoints.structures import key_of
from thoraxseg.errors import InputError
from thoraxseg.segmentation import Segmentation
from thoraxseg.volume import axis_codes

APART = 10
"""Two slices to look at lie at least one part in this many of their structure's slices apart (and one slice)."""
LEAST = 0.1
"""Slices with less than this share of the doubt of a structure's worst slice are not worth a look."""
SPOT = 5
"""Edge in voxels of the square over which doubt is averaged to find where in a slice to look."""


@dataclass(frozen=True)
class DoubtfulSlice:
    """One slice where one structure is doubted."""

    k: int
    key: str
    doubt: float
    """Sum over the structure and its rim in this slice, in the unit of the map."""
    place_kji: tuple[int, int, int]
    """The voxel of structure or rim in this slice around which doubt is highest."""


def doubt_profile(segmentation: Segmentation, doubt: np.ndarray, key: str | None = None) -> np.ndarray:
    """Return the sum of doubt `(K,)` over structures and their rim in each slice k, from a map `(K, J, I)`.

    `key` names one structure; without it all are taken as one, so that no voxel counts twice. The rim is one voxel,
    across slices too, as in `structure_doubt`: contours are doubted at their edge. 0 where nothing is. Raises
    InputError for a map of another shape or a structure that the segmentation does not have.
    """
    _check_shape(segmentation, doubt)
    labels = list(_labels_of(segmentation, key).values())
    return _sums(_zone(np.isin(segmentation.labels, labels)), doubt)


def doubtful_slices(
    segmentation: Segmentation, doubt: np.ndarray, key: str | None = None
) -> list[DoubtfulSlice]:
    """Return the slices to look at, most doubtful first, of one structure or of all.

    Each structure is looked at for itself, so that a small tumor is not lost between lungs. After a slice its
    neighbors are left out, a tenth of the structure's length on both sides and one slice at least: the next look goes
    elsewhere. Slices with less than a tenth of the doubt of the structure's worst one are not listed, absent
    structures and structures without doubt neither. Raises InputError as `doubt_profile`.
    """
    _check_shape(segmentation, doubt)
    found = []
    for name, label in _labels_of(segmentation, key).items():
        zone = _zone(segmentation.labels == label)
        sums = _sums(zone, doubt)
        found += [
            DoubtfulSlice(k, name, float(sums[k]), (k, *_worst_place(zone[k], doubt[k])))
            for k in _peaks(sums, int(zone.any(axis=(1, 2)).sum()))
        ]
    return sorted(found, key=lambda one: (-one.doubt, one.key, one.k))


def slice_positions(ijk_to_ras: np.ndarray, slices: int) -> tuple[str, np.ndarray]:
    """Return where the slices k lie: the word of the patient axis they are stacked along, and `(slices,)` mm.

    Positions rise toward the right, the front or the head, whichever is closest, and are measured at right angles to
    the slices. So they fall with k where the stack runs, say, from head to foot.
    """
    normal = ijk_to_ras[:3, 2] / np.linalg.norm(ijk_to_ras[:3, 2])
    letter = axis_codes(ijk_to_ras)[2]
    if letter in "LPI":
        normal = -normal
    start, step = normal @ ijk_to_ras[:3, 3], normal @ ijk_to_ras[:3, 2]
    return _AXES[letter], start + step * np.arange(slices)


_AXES = {"R": "right", "L": "right", "A": "anterior", "P": "anterior", "S": "superior", "I": "superior"}


def _check_shape(segmentation: Segmentation, doubt: np.ndarray) -> None:
    if doubt.shape != segmentation.labels.shape:
        raise InputError(f"expected a map of doubt of shape {segmentation.labels.shape}, got {doubt.shape}.")


def _labels_of(segmentation: Segmentation, key: str | None) -> dict[str, int]:
    """Return key -> label of one structure, which may be drawn by hand and named, or of all."""
    known = {structure.key: label for label, structure in sorted(segmentation.structures.items())}
    if key is None:
        return known
    for label, structure in sorted(segmentation.structures.items()):
        if key in (structure.key, key_of(structure)):
            return {structure.key: label}
    raise InputError(f"{segmentation.name}: no structure {key!r}; known are {', '.join(known) or 'none'}.")


def _zone(mask: np.ndarray) -> np.ndarray:
    """Return a mask `(K, J, I)` with a rim of one voxel."""
    from scipy.ndimage import binary_dilation, find_objects

    zone = np.zeros_like(mask)
    boxes = find_objects(mask.astype(np.uint8))
    if boxes:
        wide = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in boxes[0])
        zone[wide] = binary_dilation(mask[wide])
    return zone


def _sums(zone: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    return np.where(zone, doubt, 0).sum(axis=(1, 2), dtype=np.float64)


def _peaks(sums: np.ndarray, length: int) -> list[int]:
    """Return the slices with the largest sums, each with its neighborhood taken out before the next is chosen."""
    left, peaks = sums.copy(), []
    least, apart = LEAST * sums.max(initial=0.0), max(1, round(length / APART))
    while left.max() > 0 and left.max() >= least:
        k = int(left.argmax())
        peaks.append(k)
        left[max(0, k - apart) : k + apart + 1] = 0
    return peaks


def _worst_place(zone: np.ndarray, doubt: np.ndarray) -> tuple[int, int]:
    """Return (j, i) of the pixel of a zone `(J, I)` around which doubt is highest."""
    from scipy.ndimage import uniform_filter

    around = uniform_filter(np.where(zone, doubt, 0).astype(np.float64), SPOT)
    j, i = np.unravel_index(np.where(zone, around, -1).argmax(), zone.shape)
    return int(j), int(i)
