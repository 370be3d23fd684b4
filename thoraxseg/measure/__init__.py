"""Numbers from contours; the unit stands in every name."""

from thoraxseg.measure.anatomy import check_anatomy
from thoraxseg.measure.contours import measure_contours
from thoraxseg.measure.doubt import Doubt, structure_doubt
from thoraxseg.measure.nodules import Nodule, NoduleCount, count_nodules
from thoraxseg.measure.profile import DoubtfulSlice, doubt_profile, doubtful_slices, slice_positions
from thoraxseg.measure.volumes import StructureVolume, structure_volumes

__all__ = [
    "Doubt",
    "DoubtfulSlice",
    "Nodule",
    "NoduleCount",
    "StructureVolume",
    "check_anatomy",
    "count_nodules",
    "doubt_profile",
    "doubtful_slices",
    "measure_contours",
    "slice_positions",
    "structure_doubt",
    "structure_volumes",
]
