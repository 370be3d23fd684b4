"""Random fields: voxel noise with a given correlation between neighbors, and smooth textures in mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thoraxseg.phantoms.canvas import Grid


def correlated_noise(
    shape: tuple[int, int, int], lag1: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Return Gaussian noise `(K, J, I)`, float32, mean 0 and SD 1.

    `lag1` is the correlation between next neighbors along (k, j, i), each 0 to 0.95. The noise is white
    noise filtered with a sampled Gaussian along each axis.
    """
    from scipy.ndimage import correlate1d

    noise = rng.standard_normal(shape, dtype=np.float32)
    for axis, rho in enumerate(lag1):
        if rho > 0 and shape[axis] > 1:
            noise = correlate1d(noise, _kernel(rho), axis=axis, mode="wrap")
    return noise


def _kernel(rho: float) -> np.ndarray:
    """Return the sampled Gaussian of unit energy whose autocorrelation at lag 1 is `rho`, by bisection."""
    low, high = 0.1, 6.0
    for _ in range(40):
        sigma = (low + high) / 2
        taps = np.exp(-0.5 * (np.arange(-12, 13) / sigma) ** 2)
        taps /= np.sqrt((taps**2).sum())
        if (taps[1:] * taps[:-1]).sum() < rho:
            low = sigma
        else:
            high = sigma
    return taps


def smooth_field(grid: Grid, scale_mm: float, reach_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random field on the grid, `(z, y, x)` float32, mean 0 and SD 1.

    Random numbers sit on a lattice `scale_mm` apart that reaches from -`reach_mm` to `reach_mm` in the
    body's own millimeters, with a cubic B-spline between them: the same seed gives the same texture at
    any spacing and field of view. Beyond the lattice its border values go on.
    """
    count = 2 * int(np.ceil(reach_mm / scale_mm)) + 4
    field = rng.standard_normal((count, count, count), dtype=np.float32)
    for axis, c in enumerate((grid.z, grid.y, grid.x)):
        field = np.moveaxis(np.tensordot(_spline(c / scale_mm, count), field, (1, axis)), 0, axis)
    return field


def _spline(t: np.ndarray, count: int) -> np.ndarray:
    """Return `(N, count)` cubic B-spline weights at positions t from the lattice's middle; rows of SD 1."""
    t = np.clip(t + count / 2, 1, count - 2)
    u = np.abs(t[:, None] - np.arange(count)[None])
    weights = np.where(u < 1, 2 / 3 - u**2 + u**3 / 2, np.maximum(2 - u, 0) ** 3 / 6)
    return (weights / np.sqrt((weights**2).sum(axis=1, keepdims=True))).astype(np.float32)
