"""An array of channels on one grid in, the same on another grid out, as nnU-Net resamples it.

nnU-Net calls scikit-image's `resize`, which evaluates a spline of 64 coefficients for every voxel. The
spline is separable, so the same values come from one axis after the other: the recursive filter of scipy
along an axis, then a few weighted sums. The difference is rounding. Work runs in slabs, in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from thoraxseg.checkpoints.nnunet_plan import Resampling
from thoraxseg.errors import CheckpointError
from thoraxseg.progress import Progress, silent

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ANISOTROPY = 3
"""Above this ratio of spacings the coarse axis is treated apart (both versions)."""
SLAB_VOXELS = 1 << 20
"""Voxels, over all channels, that are resampled at a time."""
_PAD = 12
"""How far scipy repeats the edge before it filters a spline of order 2 or more."""

Where = tuple[slice, slice, slice]


def resampled_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]
) -> tuple[int, ...]:
    """Return the voxel counts that cover the same box at the target spacing, rounded half to even."""
    return tuple(round(have / want * n) for have, want, n in zip(spacing_mm, target_mm, shape, strict=True))


def coarse_axis(
    first_mm: Sequence[float], second_mm: Sequence[float], force_separate_z: bool | None
) -> int | None:
    """Return the axis that is resampled apart from the other two, or None when all go together.

    The first spacing decides where it is anisotropic, else the second. Two equally coarse axes go together.
    """
    if force_separate_z is False:
        return None
    candidates = [first_mm] if force_separate_z else [first_mm, second_mm]
    for spacing in candidates:
        if force_separate_z or max(spacing) / min(spacing) > ANISOTROPY:
            coarse = [a for a, s in enumerate(spacing) if s == max(spacing)]
            return coarse[0] if len(coarse) == 1 else None
    return None


def resample(
    array: np.ndarray, shape: Sequence[int], rule: Resampling, axis: int | None, progress: Progress = silent
) -> np.ndarray:
    """Return `(C, *shape)` float32 of `array` `(C, z, y, x)`; `axis` is what `coarse_axis` says.

    Values stay inside the range of their channel (of their slice where an axis is treated apart), as
    scikit-image clips them. Where the shape is the same the array itself is returned. Raises
    CheckpointError for a resampling function nobody knows.
    """
    if array.shape[1:] == tuple(shape):
        return array
    out = np.empty((len(array), *shape), dtype=np.float32)
    done = 0
    for where, block in resampled_slabs(array, shape, rule, axis):
        progress(done / out.size, "Resampling the image")
        done += block.size
        out[(slice(None), *where)] = block
    return out


def resampled_slabs(
    array: np.ndarray, shape: Sequence[int], rule: Resampling, axis: int | None
) -> Iterator[tuple[Where, np.ndarray]]:
    """Yield parts of `resample` with their place in it: `(slices (z, y, x), block (C, ...))`.

    Blocks are float64, or parts of `array` itself where the shape is the same; they may be overwritten
    only in the first case. Memory beyond `array` is a few slabs, and one float32 copy for splines of
    order 2 and more.
    """
    order, _ = _orders(rule)
    same = array.shape[1:] == tuple(shape)
    front = axis if axis is not None and not same else 0
    moved = np.moveaxis(array, 1 + front, 1)
    size = [shape[front], *(n for a, n in enumerate(shape) if a != front)]
    per_slab = max(1, SLAB_VOXELS // (len(array) * max(size[1] * size[2], moved.shape[2] * moved.shape[3])))
    if same:
        take = partial(_part, moved)
    elif axis is None:
        take = _together(moved, size, order)
    else:
        take = _apart(moved, size, rule)
    for start in range(0, size[0], per_slab):
        rows = slice(start, min(start + per_slab, size[0]))
        where = [slice(None)] * 3
        where[front] = rows
        yield tuple(where), np.moveaxis(take(rows), 1, 1 + front)


def resample_labels(
    labels: np.ndarray, shape: Sequence[int], rule: Resampling, axis: int | None
) -> np.ndarray:
    """Return `labels` `(z, y, x)` on the grid of `shape`: the label whose indicator is largest after resampling.

    Ties go to the nearest voxel's label if it is one of the tied, else to the lowest (`resize_segmentation`
    of batchgenerators 0.25.5, which both versions call; `torch` rules take the lowest). Raises
    CheckpointError for a spline along a coarse axis, which no default plan has.
    """
    order, order_z = _orders(rule)
    if labels.shape == tuple(shape):
        return labels
    winner = partial(_winner, order=order, lowest=rule.function == "torch")
    if axis is None:
        return winner(labels, tuple(shape))
    if order_z != 0:
        raise CheckpointError(
            f"the plans resample labels along the coarse axis with a spline of order {order_z}; only order 0 is "
            "known here. Predict with a configuration that keeps nnU-Net's default."
        )
    moved = np.moveaxis(labels, axis, 0)
    size = [n for a, n in enumerate(shape) if a != axis]
    slices = np.stack([winner(one, tuple(size)) for one in moved])
    return np.moveaxis(slices[_nearest(len(moved), shape[axis], rule)], 0, axis)


def _orders(rule: Resampling) -> tuple[int, int]:
    """Return the spline orders in the plane and along the coarse axis."""
    if rule.function == "torch":  # bilinear and trilinear are splines of order 1, nearest-exact of order 0
        return 1, 0
    if rule.function == "spline":
        return rule.order, rule.order_z
    raise CheckpointError(f"unknown resampling function {rule.function!r}; known are spline and torch.")


def _part(array: np.ndarray, rows: slice) -> np.ndarray:
    return array[:, rows]


def _together(array: np.ndarray, size: Sequence[int], order: int):
    """Return a function rows -> block with one spline along all three axes; slabs lie along the first."""
    limits = _limits(array, order, axes=(1, 2, 3))
    along = _operator(array.shape[1], size[0], order)
    if along is not None and order > 1:
        array = _filtered(array, order, axis=1, output=np.float32)

    def take(rows: slice) -> np.ndarray:
        block = array[:, rows] if along is None else _weighted(array, along[rows])
        return _clipped(_in_plane(block, size[1:], order), limits)

    return take


def _apart(array: np.ndarray, size: Sequence[int], rule: Resampling):
    """Return a function rows -> block: each slice in its plane first, then along the coarse first axis."""
    order, order_z = _orders(rule)

    def plane(rows: np.ndarray | slice) -> np.ndarray:
        block = array[:, rows]
        return _clipped(_in_plane(block, size[1:], order), _limits(block, order, axes=(2, 3)))

    if array.shape[1] == size[0]:
        return plane
    if order_z == 0:
        nearest = _nearest(array.shape[1], size[0], rule)

        def take(rows: slice) -> np.ndarray:
            needed, back = np.unique(nearest[rows], return_inverse=True)
            return plane(needed)[:, back]

        return take

    planes = np.empty((len(array), array.shape[1], *size[1:]), dtype=np.float32)
    for row in range(array.shape[1]):
        planes[:, row] = plane(slice(row, row + 1))[:, 0]
    if order_z > 1:
        planes = _filtered(planes, order_z, axis=1, output=np.float32)
    along = _operator(array.shape[1], size[0], order_z)
    return lambda rows: _weighted(planes, along[rows])


def _in_plane(block: np.ndarray, size: Sequence[int], order: int) -> np.ndarray:
    """Return a block `(C, n, y, x)` with its planes resampled to `size`, float64, never the input itself."""
    block = block.astype(np.float64)
    for axis, want in zip((2, 3), size, strict=True):
        along = _operator(block.shape[axis], want, order)
        if along is not None:
            filtered = _filtered(block, order, axis, np.float64) if order > 1 else block
            first = np.moveaxis(filtered, axis, 0)
            flat = along @ np.ascontiguousarray(first).reshape(len(first), -1)
            block = np.moveaxis(flat.reshape(want, *first.shape[1:]), 0, axis)
    return block


def _filtered(array: np.ndarray, order: int, axis: int, output: type) -> np.ndarray:
    """Return the spline coefficients along `axis`, longer by scipy's padding, one channel at a time."""
    from scipy.ndimage import spline_filter1d

    shape = list(array.shape)
    shape[axis] += 2 * _PAD
    out = np.empty(shape, dtype=output)
    padding = [(0, 0)] * (array.ndim - 1)
    padding[axis - 1] = (_PAD, _PAD)
    for source, target in zip(array, out, strict=True):
        spline_filter1d(np.pad(source, padding, mode="edge"), order, axis - 1, output=target, mode="nearest")
    return out


def _weighted(array: np.ndarray, rows: csr_array) -> np.ndarray:
    """Return `rows` of the operator applied to axis 1 of `array` `(C, n, y, x)`, reading only what they need."""
    low, high = int(rows.indices.min()), int(rows.indices.max()) + 1
    needed = np.ascontiguousarray(np.moveaxis(array[:, low:high], 1, 0), dtype=np.float64)
    flat = rows[:, low:high] @ needed.reshape(high - low, -1)
    return np.moveaxis(flat.reshape(rows.shape[0], *needed.shape[1:]), 0, 1)


def _operator(have: int, want: int, order: int) -> csr_array | None:
    """Return the `(want, have)` weights of a spline along one axis, None where nothing changes.

    Above order 1 the columns are coefficients, `2 * _PAD` more. Positions are scipy's `grid_mode`.
    """
    from scipy.interpolate import BSpline
    from scipy.sparse import csr_array

    if have == want:
        return None
    pad = _PAD if order > 1 else 0
    position = _positions(have, want) + pad
    if order <= 1:
        position = np.clip(position, 0, have - 1)
    if order == 0:
        columns, weights = np.floor(position + 0.5)[:, None], np.ones((want, 1))
    else:
        first = np.floor(position if order % 2 else position + 0.5) - order // 2
        columns = first[:, None] + np.arange(order + 1)
        basis = BSpline.basis_element(np.arange(order + 2) - (order + 1) / 2, extrapolate=False)
        weights = np.nan_to_num(basis(position[:, None] - columns))
    length = have + 2 * pad
    columns = np.clip(columns, 0, length - 1).astype(np.int32)
    starts = np.arange(want + 1) * columns.shape[1]
    operator = csr_array((weights.ravel(), columns.ravel(), starts), shape=(want, length))
    operator.sum_duplicates()
    return operator


def _positions(have: int, want: int) -> np.ndarray:
    """Return where the centers of `want` voxels lie among `have` over the same length."""
    return (np.arange(want) + 0.5) * (have / want) - 0.5


def _nearest(have: int, want: int, rule: Resampling) -> np.ndarray:
    """Return the index of the nearest of `have` voxels for each of `want`, ties as the rule's library has them."""
    if have == want:
        return np.arange(have)
    if rule.function == "torch":
        import torch

        line = torch.arange(have, dtype=torch.float32)[None, None]  # torch computes positions in this type
        found = torch.nn.functional.interpolate(line, want, mode="nearest-exact")
        return found[0, 0].numpy().astype(int)
    return _nearest_spline(have, want)


def _nearest_spline(have: int, want: int) -> np.ndarray:
    return np.floor(np.clip(_positions(have, want), 0, have - 1) + 0.5).astype(int)


def _limits(array: np.ndarray, order: int, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    if order <= 1:
        return None  # weights of 0 to 1 cannot leave the range
    return array.min(axis=axes, keepdims=True), array.max(axis=axes, keepdims=True)


def _clipped(block: np.ndarray, limits: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    return block if limits is None else np.clip(block, *limits, out=block)


def _winner(labels: np.ndarray, shape: tuple[int, ...], order: int, lowest: bool) -> np.ndarray:
    """Return the label with the largest resampled indicator in each voxel of `shape` (2-D or 3-D).

    scikit-image itself resamples the indicators of splines: ties are decided on its last bit.
    """
    if labels.shape == shape:
        return labels
    values = np.unique(labels)
    nearest = labels[np.ix_(*(_nearest_spline(n, want) for n, want in zip(labels.shape, shape, strict=True)))]
    if order == 0:
        return nearest
    scored = _scores_half if lowest else _scores_spline
    out = np.full(shape, values[0], dtype=labels.dtype)
    best: np.ndarray | None = None
    nearest_wins = nearest == values[0]
    for value in values:
        score = scored(labels == value, shape, order)
        if best is None:
            best = score
            nearest_wins &= score > 0
            continue
        here = nearest == value
        nearest_wins |= here & (score == best) & (score > 0)
        better = score > best
        nearest_wins[better] = here[better]
        out[better] = value
        np.maximum(best, score, out=best)
    if not lowest:
        out[nearest_wins] = nearest[nearest_wins]
    return out


def _scores_spline(mask: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    from skimage.transform import resize

    return resize(mask.astype(np.float64), shape, order, mode="edge", clip=True, anti_aliasing=False)


def _scores_half(mask: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    """Return the scores in the half precision in which `resample_torch_fornnunet` compares them."""
    lead = (1,) * (4 - mask.ndim)
    block = mask.reshape(*lead, *mask.shape)
    rule = Resampling("spline", order, 0, False)
    slabs = resampled_slabs(block.astype(np.float32), ((1,) * (3 - mask.ndim)) + shape, rule, None)
    scores = np.concatenate([part for _, part in slabs], axis=1)
    return (scores * 1000).astype(np.float16).reshape(shape)
