"""An image in its file's axis order in, what an nnU-Net network sees out, with the way back.

Sources: `DefaultPreprocessor` of nnunetv2 2.8.1, `GenericPreprocessor` and `PreprocessorFor2D` of nnunet 1.7.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from thoraxseg.checkpoints.nnunet_plan import Channel, NnunetPlan, Origin
from thoraxseg.errors import CheckpointError, InputError
from thoraxseg.inference.nnunet_resample import coarse_axis, resample, resample_labels, resampled_shape
from thoraxseg.progress import Progress, part, silent

_EPSILON = 1e-8


@dataclass(frozen=True)
class Grid:
    """Where a prepared image came from; three numbers each, in the plan's (transposed) order unless said."""

    source_shape: tuple[int, int, int]
    """Shape of the input, (z, y, x) of the file."""
    source_spacing_mm: tuple[float, float, float]
    """Spacing of the input, (z, y, x) of the file."""
    crop: tuple[slice, slice, slice]
    """The smallest box with every voxel that is not 0 in all channels."""
    cropped_shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    """Spacing before resampling."""
    shape: tuple[int, int, int]
    """Shape after resampling: what the network sees."""
    target_spacing_mm: tuple[float, float, float]
    """Spacing after resampling."""


def preprocess(
    image: np.ndarray,
    spacing_mm: Sequence[float],
    plan: NnunetPlan,
    previous_labels: np.ndarray | None = None,
    progress: Progress = silent,
) -> tuple[np.ndarray, Grid]:
    """Return the network's input `(C, z, y, x)` float32 in the plan's axis order, and the way back.

    `image` `(C, z, y, x)` and `spacing_mm` (z, y, x) are in the axis order of the plan's reader. A plan with
    a previous stage needs that stage's labels `(z, y, x)` on the grid of the image; they become one channel
    a foreground label. An image of zeros only is not cropped. Raises InputError for an image that does not
    fit the plan or cannot be normalized, CheckpointError for a plan that names what is not known.
    """
    _check(image, spacing_mm, plan, previous_labels)
    forward = plan.transpose_forward
    crop = _nonzero_box(image, forward)
    data = image.transpose(0, *(a + 1 for a in forward))[(slice(None), *crop)]
    data = np.array(data, dtype=np.float32, order="C")
    grid = _grid(image.shape[1:], spacing_mm, plan, crop)
    labels = None if previous_labels is None else previous_labels.transpose(forward)[crop].astype(np.int16)
    if plan.origin is Origin.V1:
        data = _prepare_v1(data, grid, plan, progress)
    else:
        data = _prepare_v2(data, labels, grid, plan, progress)
    if labels is not None:
        progress(0.9, "Adding the previous stage")
        labels = _previous(labels, grid, plan)
        data = np.concatenate([data, *((labels == value)[None] for value in label_values(plan)[1:])])
    progress(1.0, "The image is prepared")
    return data, grid


def label_values(plan: NnunetPlan) -> tuple[int, ...]:
    """Return background and every label of the plan, ascending: the meaning of the network's outputs."""
    values = {0} | {value for group in plan.labels.values() for value in group}
    return tuple(sorted(values - {plan.ignore_label}))


def _check(
    image: np.ndarray, spacing_mm: Sequence[float], plan: NnunetPlan, labels: np.ndarray | None
) -> None:
    if image.ndim != 4 or len(image) != len(plan.channels) or 0 in image.shape:
        names = ", ".join(channel.name for channel in plan.channels)
        raise InputError(
            f"{plan.name}: expected an image (channels, z, y, x) with {len(plan.channels)} channel(s) ({names}), "
            f"got shape {image.shape}. Give one image a channel, in this order."
        )
    if len(spacing_mm) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing_mm):
        raise InputError(f"{plan.name}: expected three spacings in mm above 0, got {tuple(spacing_mm)}.")
    if (labels is not None) != (plan.previous_stage is not None):
        raise CheckpointError(
            f"{plan.name}, {plan.configuration}: "
            + (
                f"expected the labels of its previous stage, {plan.previous_stage}, got none. Run that first."
                if labels is None
                else "got labels of a previous stage, but this configuration has none."
            )
        )
    if labels is not None and labels.shape != image.shape[1:]:
        raise InputError(
            f"{plan.name}: expected labels of the previous stage on the grid of the image, {image.shape[1:]}, "
            f"got {labels.shape}."
        )
    for channel in image:
        for plane in channel:
            if not np.isfinite(plane).all():
                raise InputError(
                    f"{plan.name}: expected numbers in every voxel, got NaN or infinity. Repair the image first."
                )


def _nonzero_box(image: np.ndarray, forward: Sequence[int]) -> tuple[slice, slice, slice]:
    """Return the box of voxels that are not 0 in every channel, transposed; all of an image of zeros."""
    hit = [np.zeros(n, dtype=bool) for n in image.shape[1:]]
    for channel in image:
        for z, plane in enumerate(channel):
            mask = plane != 0
            rows, columns = mask.any(axis=1), mask.any(axis=0)
            hit[0][z] |= rows.any()
            hit[1] |= rows
            hit[2] |= columns
    box = []
    for line in hit:
        found = np.flatnonzero(line)
        box.append(slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, len(line)))
    return tuple(box[a] for a in forward)


def _grid(shape: Sequence[int], spacing_mm: Sequence[float], plan: NnunetPlan, crop: tuple) -> Grid:
    forward = plan.transpose_forward
    spacing = tuple(float(spacing_mm[a]) for a in forward)
    target = tuple(float(s) for s in plan.spacing_mm)
    if len(target) == 2:
        target = (spacing[0], *target)  # a 2-D network leaves the distance of slices as it is
    cropped = tuple(box.stop - box.start for box in crop)
    resampled = resampled_shape(cropped, spacing, target)
    if 0 in resampled:
        raise InputError(
            f"{plan.name}: an image of {cropped} voxels of {spacing} mm vanishes at the model's spacing of "
            f"{target} mm. Check the spacing in the image's header."
        )
    source = tuple(float(s) for s in spacing_mm)
    return Grid(tuple(shape), source, crop, cropped, spacing, resampled, target)


def _prepare_v1(data: np.ndarray, grid: Grid, plan: NnunetPlan, progress: Progress) -> np.ndarray:
    """Resample, then normalize; the mask is resampled along, and a masked channel is 0 outside."""
    mask = _mask(data) if any(channel.use_mask for channel in plan.channels) else None
    data = _resampled(data, grid, plan, part(progress, 0.2, 0.7))
    if mask is not None:
        rule = plan.resample_segmentation
        axis = coarse_axis(grid.spacing_mm, grid.target_spacing_mm, rule.force_separate_z)
        mask = resample_labels(mask.astype(np.uint8), grid.shape, rule, axis).astype(bool)
    progress(0.7, "Normalizing the image")
    for values, channel in zip(data, plan.channels, strict=True):
        inside = mask if channel.use_mask else None
        _normalize(values, inside, channel, plan)
        if inside is not None and channel.normalization in ("ct", "ct2", "zscore"):
            values[~inside] = 0
    return data


def _prepare_v2(
    data: np.ndarray, labels: np.ndarray | None, grid: Grid, plan: NnunetPlan, progress: Progress
) -> np.ndarray:
    """Normalize, then resample.

    The previous stage's background outside the nonzero region becomes -1, as nnU-Net hides it: it takes
    part when labels compete for a voxel. What that stage labeled belongs to the mask.
    """
    mask = None
    if labels is not None or any(channel.use_mask for channel in plan.channels):
        mask = _mask(data)
    if labels is not None:
        labels[(labels == 0) & ~mask] = -1
        mask = labels >= 0
    progress(0.1, "Normalizing the image")
    for values, channel in zip(data, plan.channels, strict=True):
        _normalize(values, mask if channel.use_mask else None, channel, plan)
    return _resampled(data, grid, plan, part(progress, 0.3, 0.9))


def _resampled(data: np.ndarray, grid: Grid, plan: NnunetPlan, progress: Progress) -> np.ndarray:
    rule = plan.resample_data
    axis = coarse_axis(grid.spacing_mm, grid.target_spacing_mm, rule.force_separate_z)
    return resample(data, grid.shape, rule, axis, progress)


def _mask(data: np.ndarray) -> np.ndarray:
    """Return where any channel of `(C, z, y, x)` is not 0, holes filled."""
    from scipy.ndimage import binary_fill_holes

    mask = data[0] != 0
    for values in data[1:]:
        mask |= values != 0
    return binary_fill_holes(mask)


def _previous(labels: np.ndarray, grid: Grid, plan: NnunetPlan) -> np.ndarray:
    """Return the previous stage's cropped labels on the prepared grid.

    v1 resizes in one piece, whatever the spacing. (It also forgets to crop, which shifts the labels of an
    image with a border of zeros; in training it did not, and neither do we.)
    """
    rule = plan.resample_segmentation
    if plan.origin is Origin.V1:
        return resample_labels(labels, grid.shape, rule, None)
    axis = coarse_axis(grid.spacing_mm, grid.target_spacing_mm, rule.force_separate_z)
    return resample_labels(labels, grid.shape, rule, axis)


def _normalize(values: np.ndarray, mask: np.ndarray | None, channel: Channel, plan: NnunetPlan) -> None:
    """Normalize one channel `(z, y, x)` float32 in place, statistics inside `mask` where one is given."""
    if channel.normalization not in _SCHEMES:
        raise CheckpointError(
            f"{plan.name}: unknown normalization {channel.normalization!r} of channel {channel.name}; known are "
            f"{', '.join(_SCHEMES)}."
        )
    try:
        _SCHEMES[channel.normalization](values, mask, channel, plan)
    except KeyError as error:
        raise CheckpointError(
            f"{plan.name}: the plans lack {error} of channel {channel.name}, which {channel.normalization!r} needs."
        ) from error


def _ct(values: np.ndarray, mask: np.ndarray | None, channel: Channel, plan: NnunetPlan) -> None:
    told = channel.statistics
    np.clip(values, told["percentile_00_5"], told["percentile_99_5"], out=values)
    _shift_and_scale(values, told["mean"], max(told["std"], _EPSILON))


def _ct2(values: np.ndarray, mask: np.ndarray | None, channel: Channel, plan: NnunetPlan) -> None:
    """Clip to the training percentiles; mean and SD of the case's own voxels strictly between them."""
    low, high = channel.statistics["percentile_00_5"], channel.statistics["percentile_99_5"]
    inside = (values > low) & (values < high)
    np.clip(values, low, high, out=values)
    _shift_and_scale(values, *_mean_and_sd(values, inside, channel, plan))


def _zscore(values: np.ndarray, mask: np.ndarray | None, channel: Channel, plan: NnunetPlan) -> None:
    mean, sd = _mean_and_sd(values, mask, channel, plan)
    sd = sd + _EPSILON if plan.origin is Origin.V1 else max(sd, _EPSILON)
    for index, plane in enumerate(values):
        if mask is None:
            _shift_and_scale(plane, mean, sd)
        else:
            plane[mask[index]] = (plane[mask[index]] - np.float32(mean)) / np.float32(sd)


def _none(values: np.ndarray, mask: np.ndarray | None, channel: Channel, plan: NnunetPlan) -> None:
    """Leave the values as they are."""


def _rescale01(values: np.ndarray, mask: np.ndarray | None, channel: Channel, plan: NnunetPlan) -> None:
    values -= values.min()
    values /= max(float(values.max()), _EPSILON)


def _rgb01(values: np.ndarray, mask: np.ndarray | None, channel: Channel, plan: NnunetPlan) -> None:
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 255:
        raise InputError(
            f"{plan.name}, channel {channel.name}: expected 8-bit colors, 0 to 255, got {low:g} to {high:g}. "
            "Convert the picture to 8 bits a color first."
        )
    values /= np.float32(255)


_SCHEMES: dict[str, Callable[[np.ndarray, np.ndarray | None, Channel, NnunetPlan], None]] = {
    "ct": _ct,
    "ct2": _ct2,
    "zscore": _zscore,
    "none": _none,
    "rescale01": _rescale01,
    "rgb01": _rgb01,
}


def _shift_and_scale(values: np.ndarray, mean: float, sd: float) -> None:
    values -= np.float32(mean)
    values /= np.float32(sd)


def _mean_and_sd(
    values: np.ndarray, mask: np.ndarray | None, channel: Channel, plan: NnunetPlan
) -> tuple[float, float]:
    """Return mean and standard deviation in float64, slice by slice, of the voxels inside the mask."""
    count = values.size if mask is None else int(np.count_nonzero(mask))
    if count == 0:
        raise InputError(
            f"{plan.name}, channel {channel.name}: no voxel to normalize by: all lie outside the model's range of "
            "intensities or are 0. Check that image and model belong together."
        )

    def planes() -> Iterator[np.ndarray]:
        for index, plane in enumerate(values):
            yield (plane if mask is None else plane[mask[index]]).astype(np.float64)

    mean = sum(float(plane.sum()) for plane in planes()) / count
    return mean, float(np.sqrt(sum(float(np.square(plane - mean).sum()) for plane in planes()) / count))
