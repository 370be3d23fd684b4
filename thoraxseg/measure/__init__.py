"""Numbers from contours; the unit stands in every name."""

from thoraxseg.measure.doubt import Doubt, structure_doubt
from thoraxseg.measure.nodules import Nodule, NoduleCount, count_nodules
from thoraxseg.measure.volumes import StructureVolume, structure_volumes

__all__ = [
    "Doubt",
    "Nodule",
    "NoduleCount",
    "StructureVolume",
    "count_nodules",
    "structure_doubt",
    "structure_volumes",
]
