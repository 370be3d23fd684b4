"""Volume of every structure."""

from __future__ import annotations

from dataclasses import dataclass

from thoraxseg.segmentation import Segmentation
from thoraxseg.volume import voxel_volume_mm3


@dataclass(frozen=True)
class StructureVolume:
    """How much of one structure was found; 0 when it is absent."""

    key: str
    name: str
    label: int
    voxels: int
    volume_mm3: float


def structure_volumes(segmentation: Segmentation) -> list[StructureVolume]:
    """Return the volume of each structure: voxels times the voxel volume of the geometry, in mm3."""
    voxel_mm3 = voxel_volume_mm3(segmentation.ijk_to_ras)
    counts = segmentation.voxel_counts()
    return [
        StructureVolume(structure.key, structure.name, label, counts[label], counts[label] * voxel_mm3)
        for label, structure in sorted(segmentation.structures.items())
    ]
