"""Slices that cannot hold a lung because they stand alone or hold almost nothing."""

from __future__ import annotations

import numpy as np


def drop_isolated_slices(mask: np.ndarray, min_area_px: int) -> np.ndarray:
    """Return the bool mask `(K, J, I)` with implausible slices emptied (DeepMeta's lung sanity rule).

    The first and last slice are emptied. Then, in increasing order and seeing what was emptied before,
    a slice of at most `min_area_px` pixels is emptied, and so is one whose two neighbors both have
    fewer than `min_area_px`.
    """
    kept = mask.copy()
    area = kept.sum(axis=(1, 2))
    area[[0, -1]] = 0
    for k in range(1, len(area) - 1):
        lonely = area[k - 1] < min_area_px and area[k + 1] < min_area_px
        if area[k] <= min_area_px or lonely:
            area[k] = 0
    kept[area == 0] = False
    return kept
