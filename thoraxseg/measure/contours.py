"""All numbers of one animal from its contours, whoever drew them: structures, and tumors one by one."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from thoraxseg.checkpoints.structures import key_of
from thoraxseg.measure.nodules import count_nodules
from thoraxseg.measure.volumes import structure_volumes
from thoraxseg.segmentation import Segmentation

LUNGS = ("lungs", "right_lung", "left_lung")


def measure_contours(
    segmentation: Segmentation, connectivity: int = 18, small_below_mm3: float = 0.4
) -> dict[str, Any]:
    """Return the volumes of all structures and the tumors, in the words of a case's record.

    `structures`: one entry each, 0 for an absent one. `tumors`: count, classes, total and one entry a tumor; None
    where no structure is called tumors. `lungs_with_tumors`: voxels and volume of all lungs and tumors together; None
    where one of both is not there. Structures are known by their names, so those drawn by hand count too; several
    that mean tumors are counted as one.
    """
    volumes = structure_volumes(segmentation)
    keys = {label: key_of(structure) for label, structure in segmentation.structures.items()}
    tumors = [one for one in volumes if keys[one.label] == "tumors"]
    lungs = [one for one in volumes if keys[one.label] in LUNGS]
    result: dict[str, Any] = {
        "structures": [asdict(one) for one in volumes],
        "tumors": None,
        "lungs_with_tumors": None,
    }
    if not tumors:
        return result
    label, total = tumors[0].label, sum(one.volume_mm3 for one in tumors)
    if len(tumors) > 1:
        drawn = np.isin(segmentation.labels, [one.label for one in tumors])
        segmentation = replace(segmentation, labels=np.where(drawn, label, segmentation.labels))
    count = count_nodules(segmentation, label, connectivity, small_below_mm3)
    result["tumors"] = {
        "count": len(count.nodules),
        "small_count": count.number_of("small"),
        "large_count": count.number_of("large"),
        "total_volume_mm3": total,
        "connectivity": count.connectivity,
        "small_below_mm3": count.small_below_mm3,
        "nodules": [asdict(nodule) for nodule in count.nodules],
    }
    if lungs:
        both = lungs + tumors
        result["lungs_with_tumors"] = {
            "voxels": sum(one.voxels for one in both),
            "volume_mm3": sum(one.volume_mm3 for one in both),
        }
    return result
