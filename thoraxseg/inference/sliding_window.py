"""A 3-D network over a volume in overlapping windows, blended with Gaussian weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from thoraxseg.progress import Progress, each, silent

SIGMA = 1 / 8
"""Standard deviation of the blending weights as a fraction of the patch (nnU-Net, Isensee et al. 2021)."""


def predict_windows(
    scores: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    patch_size: tuple[int, int, int],
    step: float,
    progress: Progress = silent,
) -> np.ndarray:
    """Return `(L, K, J, I)` float32 scores of `image` `(K, J, I)`, summed in float32.

    `scores` maps `(1, 1, *patch_size)` to `(1, L, *patch_size)`. Windows advance by at most
    `step * patch_size`; an image smaller than a window is padded with its edge values.
    """
    short = [max(0, size - have) for size, have in zip(patch_size, image.shape, strict=True)]
    inside = tuple(slice(s // 2, s // 2 + n) for s, n in zip(short, image.shape, strict=True))
    padded = np.pad(image, [(s // 2, s - s // 2) for s in short], mode="edge") if any(short) else image
    weights = gaussian_weights(patch_size)
    total: np.ndarray | None = None
    norm = np.zeros(padded.shape, dtype=np.float32)
    starts = list(product(*map(window_starts, padded.shape, patch_size, (step,) * 3)))
    for start in each(starts, progress, "Looking at windows"):
        window = tuple(slice(s, s + size) for s, size in zip(start, patch_size, strict=True))
        answer = scores(np.ascontiguousarray(padded[window])[None, None])[0]
        if total is None:
            total = np.zeros((len(answer), *padded.shape), dtype=np.float32)
        total[(slice(None), *window)] += answer * weights
        norm[window] += weights
    total /= norm
    return np.ascontiguousarray(total[(slice(None), *inside)])


def window_starts(length: int, size: int, step: float) -> list[int]:
    """Return where windows of `size` begin so that they cover `length`, evenly, `step * size` or less apart.

    Rounding to whole voxels may add less than one to a distance. `step` is at most 1.
    """
    last = length - size
    count = int(np.ceil(last / max(1.0, size * step))) + 1
    return [round(last * n / max(count - 1, 1)) for n in range(count)]


def gaussian_weights(patch_size: tuple[int, int, int]) -> np.ndarray:
    """Return positive float32 weights of the patch's shape, 1 at the center."""
    weights = np.ones((), dtype=np.float64)
    for size in patch_size:
        distance = (np.arange(size) - (size - 1) / 2) / (size * SIGMA)
        weights = weights[..., None] * np.exp(-0.5 * distance**2)
    return (weights / weights.max()).astype(np.float32)
