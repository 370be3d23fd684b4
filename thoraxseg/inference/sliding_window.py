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
    answer_size: tuple[int, int, int] | None = None,
    gaussian: bool = True,
) -> np.ndarray:
    """Return `(L, K, J, I)` float32 scores of `image` `(C, K, J, I)`, summed in float32.

    `scores` maps `(1, C, *patch_size)` to `(1, L, *answer_size)`: the center of the patch, for networks that do
    not pad (by default all of it). Windows advance by at most `step * answer_size`; where a patch reaches beyond the
    image, edge values are repeated. Without `gaussian` all voxels of a window count the same. Raises ValueError
    when the margin is not the same on both sides.
    """
    size = answer_size or patch_size
    if any((have - want) % 2 for have, want in zip(patch_size, size, strict=True)):
        raise ValueError(f"the answer of {size} voxels is not the center of a patch of {patch_size}")
    margins = [(have - want) // 2 for have, want in zip(patch_size, size, strict=True)]
    shape = image.shape[1:]
    short = [max(0, want - have) for want, have in zip(size, shape, strict=True)]
    inside = tuple(slice(s // 2, s // 2 + n) for s, n in zip(short, shape, strict=True))
    around = [(m + s // 2, m + s - s // 2) for m, s in zip(margins, short, strict=True)]
    padded = np.pad(image, [(0, 0), *around], mode="edge") if np.any(around) else image
    covered = tuple(s + n for s, n in zip(short, shape, strict=True))
    weights = gaussian_weights(size) if gaussian else np.ones(size, dtype=np.float32)
    total: np.ndarray | None = None
    norm = np.zeros(covered, dtype=np.float32)
    starts = list(product(*map(window_starts, covered, size, (step,) * 3)))
    for start in each(starts, progress, "Looking at windows"):
        seen = tuple(slice(s, s + n) for s, n in zip(start, patch_size, strict=True))
        window = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
        answer = scores(np.ascontiguousarray(padded[(slice(None), *seen)])[None])[0]
        if total is None:
            total = np.zeros((len(answer), *covered), dtype=np.float32)
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
