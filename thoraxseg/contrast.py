"""Contrast enhancement of slices: a step of preprocessing, and what a user may choose before a run."""

from __future__ import annotations

import numpy as np

from thoraxseg.progress import Progress, each, silent


def clahe_slices(image: np.ndarray, clip_limit: float, progress: Progress = silent) -> np.ndarray:
    """Return `(K, J, I)` float64 with each slice contrast-enhanced by CLAHE and stretched to [0, 1].

    Input in [0, 1]; tiles of 1/8 of the slice, 256 bins, as scikit-image's `equalize_adapthist` has them
    (Zuiderveld 1994). A constant slice becomes 0.
    """
    from skimage.exposure import equalize_adapthist

    enhanced = np.zeros(image.shape)
    for k in each(range(len(image)), progress, "Enhancing contrast"):
        if image[k].min() < image[k].max():
            enhanced[k] = equalize_adapthist(image[k].astype(np.float64), clip_limit=clip_limit)
    return enhanced
