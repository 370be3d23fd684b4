"""The Laplacian-of-Gaussian slice filter of DeepMeta: which slices at the ends of a stack show no edge.

The published code runs the filter on 8-bit images, so every 1-D pass wraps around at 256, and the rule
only works because of it: small negative curvatures become about 255. In floating point the slice
means are near 0 and every slice would go. C leaves the cast of a negative number to 8 bits undefined
(x86 wraps, ARM saturates), so the wrap is written out here.
"""

from __future__ import annotations

import numpy as np


def wrapped_log_means(image: np.ndarray, sigma_px: float) -> np.ndarray:
    """Return the mean `(K,)` of the 8-bit Laplacian of Gaussian of each slice of `image` `(K, J, I)` in [0, 1]."""
    levels = (image.astype(np.float32) * np.float32(255)).astype(np.uint8).astype(np.float64)
    curvature = _pass(_pass(levels, 1, sigma_px, 2), 2, sigma_px, 0)
    curvature += _pass(_pass(levels, 1, sigma_px, 0), 2, sigma_px, 2)
    return (curvature % 256).mean(axis=(1, 2))


def keep_between_flat_ends(image: np.ndarray, sigma_px: float, min_mean: float) -> np.ndarray:
    """Return a bool `(K,)`: False for the leading and trailing slices whose filter mean is below `min_mean`.

    `image` `(K, J, I)` in [0, 1]. Slices between the ends are never touched. All False when no slice
    reaches `min_mean`.
    """

    def has_edge(k: int) -> bool:
        return bool(wrapped_log_means(image[k : k + 1], sigma_px)[0] >= min_mean)

    # From both ends inward: the slices between are never asked.
    keep = np.zeros(len(image), dtype=bool)
    first = next(filter(has_edge, range(len(image))), None)
    if first is not None:
        last = next(filter(has_edge, reversed(range(len(image)))))
        keep[first : last + 1] = True
    return keep


def _pass(levels: np.ndarray, axis: int, sigma: float, order: int) -> np.ndarray:
    """One 1-D Gaussian derivative pass along `axis`, cut toward zero and wrapped to 0..255."""
    from scipy.ndimage import gaussian_filter1d

    return np.trunc(gaussian_filter1d(levels, sigma, axis=axis, order=order, mode="reflect")) % 256
