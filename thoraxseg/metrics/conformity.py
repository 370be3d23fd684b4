"""The generalized conformity index: how well any number of observers agree on one structure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from thoraxseg.errors import InputError

SLAB_VOXELS = 1 << 18
"""Voxels looked at in one go: the temporary arrays stay in the processor's cache."""


@dataclass(frozen=True)
class Conformity:
    """How many voxels of a grid were marked by how many observers, for one structure."""

    observers: int
    """n: the observers who contoured the structure; one who drew nothing counts, with an empty mask."""
    marked_by: tuple[int, ...]
    """V_0 ... V_n: the voxels marked by exactly k of the n observers."""

    @property
    def cigen(self) -> float:
        """Sum of k(k-1)/2 V_k over sum of [k(k-1)/2 + k(n-k)] V_k, 0 to 1; the order does not matter.

        The ratio of the summed intersections to the summed unions of all pairs, from integer counts; the
        Jaccard index for two observers. nan for fewer than two observers or when all masks are empty.
        Source: Kouwenhoven et al. 2009.
        """
        n = self.observers
        common = sum(k * (k - 1) // 2 * voxels for k, voxels in enumerate(self.marked_by))
        apart = sum(k * (n - k) * voxels for k, voxels in enumerate(self.marked_by))
        return common / (common + apart) if common + apart else float("nan")

    @property
    def union_voxels(self) -> int:
        """Voxels marked by at least one observer."""
        return sum(self.marked_by[1:])

    @property
    def majority_voxels(self) -> int:
        """Voxels marked by a strict majority, k >= n // 2 + 1: 2 of 3, both of 2, 3 of 4."""
        return sum(self.marked_by[self.observers // 2 + 1 :])

    @property
    def all_voxels(self) -> int:
        """Voxels marked by every observer; 0 when nobody contoured the structure."""
        return self.marked_by[-1] if self.observers else 0


def cigen(masks: Sequence[np.ndarray]) -> float:
    """Return the generalized conformity index of n bool masks of one shape, by the count map.

    Sum of k(k-1)/2 V_k over sum of [k(k-1)/2 + k(n-k)] V_k, where V_k voxels are marked by exactly k
    observers; equal to `cigen_from_pairs` to the last bit. nan for fewer than two masks or when all are
    empty. Source: Kouwenhoven et al. 2009. Raises InputError for masks of different shape.
    """
    check_shapes(masks)
    count = marked_count(masks)
    marked_by = tuple(int(np.count_nonzero(count == k)) for k in range(len(masks) + 1))
    return Conformity(len(masks), marked_by).cigen


def cigen_from_pairs(masks: Sequence[np.ndarray]) -> float:
    """Return the generalized conformity index of n bool masks of one shape, by its definition in pairs.

    Sum over all pairs of the common voxels over the sum over all pairs of the voxels of either. nan for fewer
    than two masks or when all are empty. Source: Kouwenhoven et al. 2009. Raises InputError for masks of
    different shape.
    """
    check_shapes(masks)
    pairs = list(combinations([np.asarray(mask, dtype=bool) for mask in masks], 2))
    common = sum(int(np.count_nonzero(one & other)) for one, other in pairs)
    either = sum(int(np.count_nonzero(one | other)) for one, other in pairs)
    return common / either if either else float("nan")


def conformity_of_labels(
    label_maps: Sequence[np.ndarray],
    labels: Collection[int],
    contoured: Sequence[Collection[int]] | None = None,
) -> dict[int, Conformity]:
    """Return label -> Conformity of n integer label maps of one shape, in one pass over slabs.

    `contoured[n]` holds the labels that observer n contoured (None: all did); for the others he or she is
    left out and n decreases, while a contoured label without voxels is an empty mask. Labels may be any
    positive integers and the maps of any integer types; label 0 is background. Needs little memory beside the
    maps. Raises InputError for maps of different shapes, no map, label 0, maps that are not of integers or
    another number of sets in `contoured`.
    """
    present = observers_of(label_maps, labels, contoured)
    found = {label: np.zeros(len(observers) + 1, dtype=np.int64) for label, observers in present.items()}
    for label, masks in marked_slabs(label_maps, present):
        count = marked_count(masks)
        found[label][1:] += [np.count_nonzero(count == k) for k in range(1, len(masks) + 1)]
    voxels = int(label_maps[0].size)
    return {
        label: Conformity(len(present[label]), (voxels - int(counts.sum()), *map(int, counts[1:])))
        for label, counts in found.items()
    }


def marked_count(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return how many of the bool masks are True at each place, in the smallest unsigned type that holds n."""
    count = np.zeros(np.shape(masks[0]) if len(masks) else (), dtype=np.min_scalar_type(len(masks)))
    for mask in masks:
        count += np.asarray(mask, dtype=bool)
    return count


def check_shapes(arrays: Sequence[np.ndarray]) -> None:
    """Raise InputError unless all arrays have one shape."""
    shapes = sorted({np.shape(array) for array in arrays})
    if len(shapes) > 1:
        raise InputError(
            f"expected masks of one shape, got {' and '.join(map(str, shapes))}. Resample them to one grid first."
        )


def observers_of(
    label_maps: Sequence[np.ndarray], labels: Collection[int], contoured: Sequence[Collection[int]] | None
) -> dict[int, list[int]]:
    """Return label -> the positions of the observers who contoured it, after checking the three arguments.

    Raises InputError as `conformity_of_labels` does.
    """
    if not len(label_maps):
        raise InputError("expected the label map of at least one observer, got none.")
    check_shapes(label_maps)
    kinds = [str(item.dtype) for item in label_maps if item.dtype.kind not in "iub"]
    if kinds:
        raise InputError(
            f"expected label maps of integers, got type {kinds[0]}. Convert it without rounding."
        )
    wrong = [label for label in labels if label <= 0]
    if wrong:
        raise InputError(f"expected labels above 0 (0 is background), got {wrong}.")
    if contoured is not None and len(contoured) != len(label_maps):
        raise InputError(
            f"expected one set of contoured labels for each of {len(label_maps)} observers, got {len(contoured)}."
        )
    everyone = range(len(label_maps))
    return {
        label: [n for n in everyone if contoured is None or label in contoured[n]]
        for label in dict.fromkeys(map(int, labels))
    }


def slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices of axis 0 that together cover the shape, each of about SLAB_VOXELS voxels."""
    thickness = max(1, SLAB_VOXELS // max(1, int(np.prod(shape[1:], dtype=np.int64))))
    for start in range(0, shape[0], thickness):
        yield slice(start, min(start + thickness, shape[0]))


def foreground_slabs(
    label_maps: Sequence[np.ndarray],
) -> Iterator[tuple[slice, np.ndarray, list[np.ndarray]]]:
    """Yield (slab, flat places in the slab that are not background for everyone, each map's labels there)."""
    for slab in slabs(label_maps[0].shape):
        parts = [item[slab].reshape(-1) for item in label_maps]
        anyone = parts[0] != 0
        for part in parts[1:]:
            anyone |= part != 0
        where = np.flatnonzero(anyone)
        if where.size:
            yield slab, where, [part[where] for part in parts]


def marked_slabs(
    label_maps: Sequence[np.ndarray], present: dict[int, list[int]]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (label, bool masks `(observers of the label, voxels)`) slab by slab, for labels somebody marked there.

    Voxels that are background for everyone are left out; the order of the voxels means nothing.
    """
    for _, _, values in foreground_slabs(label_maps):
        for label, observers in present.items():
            masks = np.empty((len(observers), values[0].size), dtype=bool)
            for row, n in enumerate(observers):
                np.equal(values[n], label, out=masks[row])
            if masks.any():
                yield label, masks
