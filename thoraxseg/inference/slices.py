"""A 2-D network over a stack, slice by slice along k."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from thoraxseg.progress import Progress, each, silent


def predict_slices(
    scores: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    batch: int,
    progress: Progress = silent,
) -> np.ndarray:
    """Return `(L, K, J, I)` float32 scores of `image` `(K, J, I)`.

    `scores` maps `(N, 1, J, I)` to `(N, L, J, I)` for N up to `batch`.
    """
    out: np.ndarray | None = None
    for start in each(range(0, len(image), batch), progress, "Looking at slices"):
        answer = scores(image[start : start + batch, None])
        if out is None:
            out = np.empty((answer.shape[1], *image.shape), dtype=np.float32)
        out[:, start : start + batch] = answer.swapaxes(0, 1)
    return out
