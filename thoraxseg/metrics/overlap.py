"""Overlap of two masks, counted in voxels."""

from __future__ import annotations

import numpy as np

from thoraxseg.errors import InputError


def dice(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Return 2 TP / (2 TP + FP + FN) of two bool masks of one shape; the order does not matter.

    Two empty masks agree (1); one empty mask does not (0). Source: Dice 1945. Raises InputError for masks of
    different shape.
    """
    if reference.shape != prediction.shape:
        raise InputError(
            f"expected masks of one shape, got {reference.shape} and {prediction.shape}. Resample one of them first."
        )
    total = int(np.count_nonzero(reference)) + int(np.count_nonzero(prediction))
    return 1.0 if total == 0 else 2 * int(np.count_nonzero(reference & prediction)) / total
