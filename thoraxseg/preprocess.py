"""Volumes and a card's steps in, the array the network sees out, with the way back to the input grid.

The images are turned to the card's orientation, then the card's steps run in order. Steps only change
intensities, crop, or resize along the axes, so labels and maps find the way back by the same axes. A lung map
is cropped and resized along, by nearest neighbor; its values never change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from thoraxseg.checkpoints import fields
from thoraxseg.checkpoints.card import Card, Step, step_parameters
from thoraxseg.contrast import clahe_slices
from thoraxseg.errors import CheckpointError, InputError, OptionError
from thoraxseg.options import Contrast
from thoraxseg.progress import Progress, part, silent
from thoraxseg.volume import Volume, reorient
from thoraxseg.volume import spacing_mm as spacing_of

logger = logging.getLogger(__name__)
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the network sees, and how to bring its answer back onto the grid of the input."""

    channels: np.ndarray
    """`(C, K, J, I)` float32 in the card's orientation, after all steps."""
    ijk_to_ras: np.ndarray
    """Geometry of `channels`."""
    source: Volume
    orientation: str
    """Axis letters of `channels`, such as `RIA`."""
    oriented_shape: tuple[int, int, int]
    """Shape of the source in the card's orientation, before cropping and resizing."""
    oriented_ijk_to_ras: np.ndarray
    box: Box
    """What was kept of the oriented source by cropping."""
    notes: tuple[str, ...] = ()
    smooth: bool = False
    """Whether labels go back by way of the probabilities, with smooth surfaces, rather than voxel by voxel."""

    @property
    def image(self) -> np.ndarray:
        """The first channel `(K, J, I)`, which is always an image."""
        return self.channels[0]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing of `channels` in mm along (k, j, i)."""
        return spacing_of(self.ijk_to_ras)

    def labels_on_source(self, labels: np.ndarray) -> np.ndarray:
        """Return labels of the prepared grid on the input grid, by nearest neighbor where sizes differ.

        Outside of what cropping kept they are 0.
        """
        return self._on_source(_resize_nearest(labels, self._kept_shape()), 0)

    def answer_on_source(self, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Return labels `(K, J, I)`, cleaned up, of class probabilities `(L, K, J, I)` on the input grid, uint8.

        Where `smooth` says so, each probability is interpolated and the largest wins, so that surfaces do not show
        the network's larger voxels; what the clean-up changed counts as sure. One class is looked at a time.
        """
        shape = self._kept_shape()
        if not self.smooth or labels.shape == shape:
            return self.labels_on_source(labels)
        changed = labels != probabilities.argmax(axis=0)
        best = np.zeros(shape, np.float32)
        winner = np.zeros(shape, np.uint8)
        for label, probability in enumerate(probabilities):
            sure = np.where(changed, labels == label, probability).astype(np.float32)
            here = _resize_triangular(sure, shape)
            if label:
                ahead = here > best
                winner[ahead] = label
                np.maximum(best, here, out=best)
            else:
                best = here
        return self._on_source(winner, 0)

    def map_on_source(self, values: np.ndarray, outside: Sequence[float] | float = 0.0) -> np.ndarray:
        """Return a continuous map `(..., K, J, I)` of the prepared grid on the input grid, linearly.

        Outside of what cropping kept it is `outside`, one number for all or for each of the leading axis.
        """
        resize = _resize_triangular if self.smooth else _resize_linear
        lead = values.shape[:-3]
        flat = values.reshape(-1, *values.shape[-3:])
        fill = np.broadcast_to(np.asarray(outside, dtype=values.dtype), (len(flat),))
        back = [
            self._on_source(resize(one, self._kept_shape()).astype(values.dtype, copy=False), blank)
            for one, blank in zip(flat, fill, strict=True)
        ]
        return back[0] if not lead else np.stack(back).reshape(*lead, *self.source.shape)

    def probabilities_on_source(self, values: np.ndarray) -> np.ndarray:
        """Return class probabilities `(L, K, J, I)` on the input grid; surely background where cropped off."""
        return self.map_on_source(values, [1.0] + [0.0] * (len(values) - 1))

    def _kept_shape(self) -> tuple[int, ...]:
        return tuple(side.stop - side.start for side in self.box)

    def _on_source(self, array: np.ndarray, blank: float) -> np.ndarray:
        if array.shape != self.oriented_shape:
            whole = np.full(self.oriented_shape, blank, dtype=array.dtype)
            whole[self.box] = array
            array = whole
        turned, _ = reorient(array, self.oriented_ijk_to_ras, self.source.axis_codes, self.orientation)
        return np.ascontiguousarray(turned)


def prepare(
    volumes: Sequence[Volume], card: Card, contrast: Contrast, progress: Progress = silent
) -> Prepared:
    """Return what the card's network should see of `volumes`, one a channel of the card, all on one grid.

    Raises InputError when an image cannot go through the steps, OptionError when contrast enhancement
    is asked of a card that has none, CheckpointError for a step or a parameter this version does not know.
    """
    steps = [_bound(step, card) for step in card.preprocess]
    if contrast is Contrast.ON and all(step.name != "enhance_contrast" for step in card.preprocess):
        raise OptionError(
            f"--contrast on: checkpoint {card.name} was not trained with contrast enhancement; use auto or off."
        )
    for volume in volumes:
        check_finite(volume)
    first = volumes[0]
    codes = card.input.codes_for(first.axis_codes)
    # By the letters of the first: halfway between two axes, rounding alone may give another channel other letters.
    oriented = [reorient(volume.array, first.ijk_to_ras, codes) for volume in volumes]
    shape, ijk_to_ras = oriented[0][0].shape, oriented[0][1]
    state = _State(
        [array for array, _ in oriented],
        [channel.source == "image" for channel in card.channels],
        ijk_to_ras,
        first.name,
        contrast,
        [],
        tuple(slice(0, n) for n in shape),
    )
    for index, step in enumerate(steps):
        step(state, part(progress, index / len(steps), (index + 1) / len(steps)))
    for note in state.notes:
        logger.info("%s: %s", first.name, note)
    return Prepared(
        np.stack([np.asarray(channel, dtype=np.float32) for channel in state.channels]),
        state.ijk_to_ras,
        first,
        codes,
        shape,
        ijk_to_ras,
        state.box,
        tuple(state.notes),
        any(step.name == "resample_triangle" for step in card.preprocess),
    )


def check_finite(volume: Volume) -> None:
    """Raise InputError, with a count, unless every voxel is a number."""
    if not np.isfinite(volume.array).all():
        bad = int(np.size(volume.array) - np.isfinite(volume.array).sum())
        raise InputError(
            f"{volume.name}: expected numbers in every voxel, got NaN or infinity in {bad} of them."
        )


@dataclass
class _State:
    """The channels on their way through the steps."""

    channels: list[np.ndarray]
    is_image: list[bool]
    ijk_to_ras: np.ndarray
    name: str
    contrast: Contrast
    notes: list[str]
    box: Box

    @property
    def shape(self) -> tuple[int, ...]:
        return self.channels[0].shape

    def resize(
        self, shape: tuple[int, ...], smooth: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    ) -> None:
        if shape != self.shape:
            self.ijk_to_ras = _resized_geometry(self.ijk_to_ras, self.shape, shape)
            self.channels = [
                (smooth if image else _resize_nearest)(channel, shape)
                for channel, image in zip(self.channels, self.is_image, strict=True)
            ]

    def on_images(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        """Replace every channel that is an image; lung maps stay as they are."""
        for index, image in enumerate(self.is_image):
            if image:
                self.channels[index] = function(self.channels[index])


def _resize_slices(state: _State, progress: Progress, size_px: tuple[int, int]) -> None:
    _to_slices_of(state, size_px, _resize_linear)


def _resize_slices_triangle(state: _State, progress: Progress, size_px: tuple[int, int]) -> None:
    """Resize as Pillow's bilinear filter does: a triangle that widens when the picture shrinks (AIMOS)."""
    _to_slices_of(state, size_px, _resize_triangle)


def _to_slices_of(state: _State, size_px: tuple[int, int], smooth: Callable[..., np.ndarray]) -> None:
    before = state.shape
    state.resize((before[0], *size_px), smooth)
    if state.shape != before:
        state.notes.append(
            f"Slices of {before[1]} x {before[2]} pixels were resized to {size_px[0]} x {size_px[1]}."
        )


def _resize(state: _State, progress: Progress, shape: tuple[int, int, int]) -> None:
    before = state.shape
    state.resize(shape, _resize_linear)
    if state.shape != before:
        was, now = (" x ".join(map(str, sizes)) for sizes in (before, shape))
        state.notes.append(f"{was} voxels were resized to {now} for the network.")


def _resample(state: _State, progress: Progress, spacing_mm: tuple[float, float, float]) -> None:
    _to_spacing(state, spacing_mm, _resize_linear)


def _resample_triangle(state: _State, progress: Progress, spacing_mm: tuple[float, float, float]) -> None:
    """Resample with a triangle that widens when the image shrinks; labels come back with smooth surfaces."""
    _to_spacing(state, spacing_mm, _resize_triangular)


def _to_spacing(
    state: _State, spacing_mm: tuple[float, float, float], smooth: Callable[..., np.ndarray]
) -> None:
    before = state.shape
    sizes = zip(before, spacing_of(state.ijk_to_ras), spacing_mm, strict=True)
    state.resize(tuple(max(1, round(n * have / want)) for n, have, want in sizes), smooth)
    if state.shape != before:
        state.notes.append(
            f"The image was resampled to {' x '.join(f'{g:g}' for g in spacing_mm)} mm for the network."
        )


def _crop_to_lungs(state: _State, progress: Progress, margin_voxels: int) -> None:
    """Keep the box around the lung map, with a margin; before anything is resized."""
    if all(state.is_image) or state.shape != tuple(side.stop - side.start for side in state.box):
        raise CheckpointError(
            "preprocessing step 'crop_to_lungs' needs a channel of source 'lungs' and comes before resizing: "
            "correct the card."
        )
    lungs = state.channels[state.is_image.index(False)] > 0
    if not lungs.any():
        raise InputError(
            f"{state.name}: expected lungs in the lung map, found none. Look at the map (run its checkpoint by "
            "itself), or give one with --channel."
        )
    box = []
    for axis, size in enumerate(lungs.shape):
        hit = np.flatnonzero(lungs.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(hit[0]) - margin_voxels), min(size, int(hit[-1]) + 1 + margin_voxels)))
    state.box = tuple(
        slice(kept.start + side.start, kept.start + side.stop)
        for kept, side in zip(state.box, box, strict=True)
    )
    state.channels = [channel[tuple(box)] for channel in state.channels]
    first = np.array([side.start for side in box][::-1], dtype=float)
    state.ijk_to_ras = state.ijk_to_ras.copy()
    state.ijk_to_ras[:3, 3] += state.ijk_to_ras[:3, :3] @ first
    state.notes.append(
        f"The image was cropped to the lungs: {' x '.join(map(str, state.shape))} of "
        f"{' x '.join(map(str, lungs.shape))} voxels."
    )


def _clip(state: _State, progress: Progress, low: float, high: float) -> None:
    if low >= high:
        raise CheckpointError(f"preprocessing step 'clip': low {low:g} must be below high {high:g}.")
    state.on_images(lambda image: np.clip(image.astype(np.float32), low, high))


def _rescale(
    state: _State, progress: Progress, low: float, high: float, to_low: float, to_high: float, clip: bool
) -> None:
    """Map [low, high] linearly to [to_low, to_high], clipped to it if asked (MONAI's ScaleIntensityRange)."""
    if low >= high or to_low >= to_high:
        raise CheckpointError("preprocessing step 'rescale': both ranges must be ascending.")

    def scaled(image: np.ndarray) -> np.ndarray:
        values = (image.astype(np.float32) - low) / (high - low) * (to_high - to_low) + to_low
        return np.clip(values, to_low, to_high) if clip else values

    state.on_images(scaled)


def _scale_to_range(state: _State, progress: Progress, to_low: float, to_high: float) -> None:
    """Map the image's own minimum and maximum to a range."""

    def scaled(image: np.ndarray) -> np.ndarray:
        image = image.astype(np.float32)
        low, high = float(image.min()), float(image.max())
        if low == high:
            raise InputError(f"{state.name}: expected an image with contrast, all voxels are {low:g}.")
        return (image - low) / (high - low) * (to_high - to_low) + to_low

    state.on_images(scaled)


def _z_score(state: _State, progress: Progress) -> None:
    """Subtract the image's mean, divide by its standard deviation."""

    def scaled(image: np.ndarray) -> np.ndarray:
        mean, sd = float(image.mean(dtype=np.float64)), float(image.std(dtype=np.float64))
        if sd == 0:
            raise InputError(f"{state.name}: expected an image with contrast, all voxels are {mean:g}.")
        return ((image - mean) / sd).astype(np.float32)

    state.on_images(scaled)


def _z_score_slices(state: _State, progress: Progress) -> None:
    """Normalize each slice by its own mean and standard deviation; a constant slice becomes 0 (AIMOS)."""

    def scaled(image: np.ndarray) -> np.ndarray:
        image = image.astype(np.float64)
        mean, sd = image.mean(axis=(1, 2), keepdims=True), image.std(axis=(1, 2), keepdims=True)
        return ((image - mean) / np.where(sd > 0, sd, 1)).astype(np.float32)

    state.on_images(scaled)


def _round_to_levels(state: _State, progress: Progress, levels: int) -> None:
    """Scale the whole volume from minimum to maximum onto whole numbers from 0 to levels (uint16 of AIMOS)."""
    _scale_to_range(state, progress, 0, levels)
    state.on_images(np.floor)


def _divide_by_maximum(state: _State, progress: Progress) -> None:
    def scaled(image: np.ndarray) -> np.ndarray:
        low, high = float(image.min()), float(image.max())
        if low < 0 or high <= 0:
            raise InputError(
                f"{state.name}: expected MRI intensities of 0 and more, got {low:g} to {high:g}. "
                "Is this a CT in Hounsfield units? Choose a checkpoint for its modality."
            )
        return image / high

    state.on_images(scaled)


def _enhance_contrast(state: _State, progress: Progress, clip_limit: float, when_mean_below: float) -> None:
    mean = float(state.channels[0].mean())
    dark = mean < when_mean_below
    if state.contrast is Contrast.OFF or (state.contrast is Contrast.AUTO and not dark):
        return
    why = "as asked" if state.contrast is Contrast.ON else "because the stack is dark"
    state.notes.append(
        f"Slices were contrast-enhanced (CLAHE) {why}: mean intensity {mean:.3f} of the maximum, "
        f"dark below {when_mean_below:g}."
    )
    state.on_images(lambda image: clahe_slices(image, clip_limit, progress))


STEPS: dict[str, tuple[Callable[..., None], dict[str, fields.Parser]]] = {
    "resize_slices": (_resize_slices, {"size_px": fields.list_of(fields.size, 2)}),
    "resize_slices_triangle": (_resize_slices_triangle, {"size_px": fields.list_of(fields.size, 2)}),
    "resize": (_resize, {"shape": fields.list_of(fields.size, 3)}),
    "resample": (_resample, {"spacing_mm": fields.list_of(fields.positive, 3)}),
    "resample_triangle": (_resample_triangle, {"spacing_mm": fields.list_of(fields.positive, 3)}),
    "crop_to_lungs": (_crop_to_lungs, {"margin_voxels": fields.count}),
    "clip": (_clip, {"low": fields.number, "high": fields.number}),
    "rescale": (
        _rescale,
        dict.fromkeys(("low", "high", "to_low", "to_high"), fields.number) | {"clip": fields.flag},
    ),
    "scale_to_range": (_scale_to_range, {"to_low": fields.number, "to_high": fields.number}),
    "z_score": (_z_score, {}),
    "z_score_slices": (_z_score_slices, {}),
    "round_to_levels": (_round_to_levels, {"levels": fields.size}),
    "divide_by_maximum": (_divide_by_maximum, {}),
    "enhance_contrast": (
        _enhance_contrast,
        {"clip_limit": fields.fraction, "when_mean_below": fields.positive},
    ),
}
"""What a card's `preprocess` may name, and the parameters each step must have."""


def _bound(step: Step, card: Card) -> Callable[[_State, Progress], None]:
    """Return the function of a step with its checked parameters."""
    if step.name not in STEPS:
        raise CheckpointError(
            f"checkpoint {card.name}: unknown preprocessing step {step.name!r}; known are {', '.join(STEPS)}."
        )
    function, parsers = STEPS[step.name]
    return partial(function, **step_parameters(step, parsers))


def _resize_linear(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.shape == tuple(shape):
        return array
    from skimage.transform import resize

    kind = np.float64 if array.dtype.kind in "iu" else array.dtype
    return resize(array.astype(kind, copy=False), shape, order=1, anti_aliasing=True, preserve_range=True)


def _resize_triangle(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    size = (shape[2], shape[1])  # Pillow says width first
    pictures = [Image.fromarray(plane) for plane in np.ascontiguousarray(array, dtype=np.float32)]
    return np.stack([np.asarray(picture.resize(size, Image.Resampling.BILINEAR)) for picture in pictures])


def _resize_triangular(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return `(K, J, I)` float32 resized along each axis, linearly, averaged over what a larger voxel holds.

    One product with a matrix an axis: several times as fast as a spline and exact at the borders.
    """
    array = np.asarray(array, dtype=np.float32)
    for axis in sorted(range(3), key=lambda a: shape[a] / array.shape[a]):
        have, want = array.shape[axis], shape[axis]
        if have == want:
            continue
        weights = _triangles(have, want)
        if axis == 0:
            array = (weights @ array.reshape(have, -1)).reshape(want, *array.shape[1:])
        else:
            array = weights @ array if axis == 1 else array @ weights.T
    return np.ascontiguousarray(array)


def _triangles(have: int, want: int) -> np.ndarray:
    """Return weights `(want, have)` float32 of rows that sum to 1; both grids span the same edges."""
    ratio = have / want
    centers = (np.arange(want) + 0.5) * ratio - 0.5
    weights = np.maximum(1 - np.abs(centers[:, None] - np.arange(have)) / max(ratio, 1.0), 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _resize_nearest(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    for axis, (have, want) in enumerate(zip(array.shape, shape, strict=True)):
        if have != want:
            centers = np.floor((np.arange(want) + 0.5) * have / want).astype(int)
            array = array.take(centers, axis=axis)
    return array


def _resized_geometry(ijk_to_ras: np.ndarray, old: tuple[int, ...], new: tuple[int, ...]) -> np.ndarray:
    """Return the geometry of the same box with other voxel counts (k, j, i): edges stay, centers move."""
    factor = np.array(old, dtype=float)[::-1] / np.array(new, dtype=float)[::-1]
    matrix = ijk_to_ras.copy()
    matrix[:3, :3] *= factor
    matrix[:3, 3] += ijk_to_ras[:3, :3] @ ((factor - 1) / 2)
    return matrix
