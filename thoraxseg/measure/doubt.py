"""How much the model doubts each structure, and where to look first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.segmentation import Segmentation


@dataclass(frozen=True)
class Doubt:
    """Doubt in and around one structure, in the unit of the map; None where the structure is absent."""

    key: str
    mean: float | None
    most_doubtful_slice_k: int | None
    """Array index k of the slice with the largest sum of doubt over the structure and its rim."""


def structure_doubt(segmentation: Segmentation, doubt: np.ndarray) -> list[Doubt]:
    """Return the doubt of each structure from a map of doubt `(K, J, I)` on the same grid.

    Counted over the structure and a rim of one voxel, because contours are doubted at their edge.
    Raises InputError when the map has another shape.
    """
    from scipy.ndimage import binary_dilation, find_objects

    if doubt.shape != segmentation.labels.shape:
        raise InputError(f"expected a map of doubt of shape {segmentation.labels.shape}, got {doubt.shape}.")
    boxes = find_objects(segmentation.labels.astype(np.int32), max_label=max(segmentation.structures))
    found = []
    for label, structure in sorted(segmentation.structures.items()):
        box = boxes[label - 1]
        if box is None:
            found.append(Doubt(structure.key, None, None))
            continue
        wide = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
        zone = binary_dilation(segmentation.labels[wide] == label)
        values = np.where(zone, doubt[wide], 0)
        worst = wide[0].start + int(values.sum(axis=(1, 2)).argmax())
        found.append(Doubt(structure.key, float(values.sum() / zone.sum()), worst))
    return found
