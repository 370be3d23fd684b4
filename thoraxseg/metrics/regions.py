"""Where each label lies: bounding boxes, so that costly steps look at a structure and not at the whole image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Box = tuple[slice, slice, slice]


def bounding_boxes(label_map: np.ndarray, labels: Iterable[int]) -> dict[int, Box | None]:
    """Return for each label the smallest box (slices along k, j, i) that holds all its voxels; None if absent.

    Takes a label map `(K, J, I)` of any integer type or a mask (label 1). One pass, a slice of k at a time, so
    that nothing of the volume's size is made and large label values cost no more than small ones.
    """
    rows, columns = label_map.shape[1:]
    seen = {int(label): ([], np.zeros(rows, bool), np.zeros(columns, bool)) for label in labels}
    for k, plane in enumerate(label_map):
        for label, (in_slices, in_rows, in_columns) in seen.items():
            here = plane == label
            if here.any():
                in_slices.append(k)
                in_rows |= here.any(axis=1)
                in_columns |= here.any(axis=0)
    return {
        label: (slice(found[0][0], found[0][-1] + 1), _extent(found[1]), _extent(found[2]))
        if found[0]
        else None
        for label, found in seen.items()
    }


def union_box(*boxes: Box | None) -> Box | None:
    """Return the smallest box that holds all boxes given; None where all are None."""
    given = [box for box in boxes if box is not None]
    if not given:
        return None
    return tuple(
        slice(min(s.start for s in along), max(s.stop for s in along)) for along in zip(*given, strict=True)
    )


def _extent(present: np.ndarray) -> slice:
    found = np.flatnonzero(present)
    return slice(int(found[0]), int(found[-1]) + 1)
