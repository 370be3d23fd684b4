"""Tumors one by one: count, volume, size class and place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thoraxseg.segmentation import Segmentation, neighborhood
from thoraxseg.volume import ROUNDING, to_ras, voxel_volume_mm3


@dataclass(frozen=True)
class Nodule:
    """One connected tumor; number 1 is the largest."""

    number: int
    voxels: int
    volume_mm3: float
    size_class: str
    """`small` below the limit, else `large`."""
    centroid_ras_mm: tuple[float, float, float]


@dataclass(frozen=True)
class NoduleCount:
    """All tumors of one label, with the rule they were counted by."""

    label: int
    connectivity: int
    small_below_mm3: float
    nodules: tuple[Nodule, ...]

    def number_of(self, size_class: str) -> int:
        """Return how many tumors are `small` or `large`."""
        return sum(nodule.size_class == size_class for nodule in self.nodules)


def count_nodules(
    segmentation: Segmentation, label: int, connectivity: int = 18, small_below_mm3: float = 0.4
) -> NoduleCount:
    """Return the 3-D components of `label`, largest first, with volume, class and centroid.

    18-connected: voxels that share a face or an edge belong together. Small means a volume below
    `small_below_mm3`, as in the mouse MRI paper (Kaniewski et al. 2024); there are no tumors when the
    label is absent.
    """
    from scipy.ndimage import center_of_mass
    from scipy.ndimage import label as components_of

    components, count = components_of(segmentation.labels == label, neighborhood(connectivity))
    voxels = np.bincount(components.ravel(), minlength=count + 1)[1:]
    numbers = np.arange(1, count + 1)
    centers = np.array(center_of_mass(components > 0, components, numbers)).reshape(count, 3)
    ras = to_ras(segmentation.ijk_to_ras, centers)
    voxel_mm3 = voxel_volume_mm3(segmentation.ijk_to_ras)
    # Equal sizes are ordered by place in the patient, not in the array: the same animal, the same numbers.
    order = sorted(range(count), key=lambda n: (-voxels[n], *np.round(ras[n], 6)))
    nodules = []
    for number, n in enumerate(order, start=1):
        volume = float(voxels[n] * voxel_mm3)
        size = "small" if volume < small_below_mm3 * (1 - ROUNDING) else "large"
        place = tuple(float(x) for x in ras[n])
        nodules.append(Nodule(number, int(voxels[n]), volume, size, place))
    return NoduleCount(label, connectivity, small_below_mm3, tuple(nodules))
