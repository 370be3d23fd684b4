"""nnU-Net's own post-processing: of some labels or joint regions only the largest component stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thoraxseg.checkpoints.nnunet_plan import NnunetPlan, Origin
from thoraxseg.errors import CheckpointError
from thoraxseg.progress import Progress, each, silent
from thoraxseg.segmentation import neighborhood

CONNECTIVITY = {Origin.V1: 6, Origin.V2: 26}
"""v1 labels components with scipy (faces), v2 with scikit-image (faces, edges and corners)."""


def clean_up(
    labels: np.ndarray, spacing_mm: Sequence[float], plan: NnunetPlan, progress: Progress = silent
) -> np.ndarray:
    """Return `labels` `(z, y, x)` after the plan's clean-up; the input itself when there is none.

    Several labels of an entry are one region. Every component as large as the largest stays; with a
    minimum, another is removed only if its volume is strictly smaller. Removed voxels become background.
    Sources: `remove_all_but_the_largest_connected_component` (v1), `remove_all_but_largest_component` (v2).
    Raises CheckpointError for an entry that keeps anything else than the largest.
    """
    from scipy.ndimage import label

    if not plan.cleanup:
        return labels
    structure = neighborhood(CONNECTIVITY[plan.origin])
    voxel_mm3 = float(np.prod(spacing_mm, dtype=np.float64))
    labels = labels.copy()
    for entry in each(plan.cleanup, progress, "Cleaning up"):
        if entry["keep"] != "largest":
            raise CheckpointError(
                f"{plan.name}: unknown clean-up {entry['keep']!r}; known is keeping the largest component."
            )
        components, count = label(np.isin(labels, entry["labels"]), structure)
        if count > 1:
            voxels = np.bincount(components.ravel())
            drop = voxels != voxels[1:].max()
            if entry.get("min_size_mm3") is not None:
                drop &= voxels * voxel_mm3 < entry["min_size_mm3"]
            drop[0] = False
            labels[drop[components]] = 0
    return labels
