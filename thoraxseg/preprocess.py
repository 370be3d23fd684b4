"""A volume and a card's steps in, the array the network sees out, with the way back to the input grid.

The image is turned to the card's orientation, then the card's steps run in order. Steps only change
intensities or resize along the axes, so labels and maps find the way back by the same axes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from thoraxseg.checkpoints import fields
from thoraxseg.checkpoints.card import Card, Step, step_parameters
from thoraxseg.errors import CheckpointError, InputError, OptionError
from thoraxseg.options import Contrast
from thoraxseg.progress import Progress, each, part, silent
from thoraxseg.volume import Volume, reorient
from thoraxseg.volume import spacing_mm as spacing_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the network sees, and how to bring its answer back onto the grid of the input."""

    image: np.ndarray
    """`(K, J, I)` float32 in the card's orientation, after all steps."""
    ijk_to_ras: np.ndarray
    """Geometry of `image`."""
    source: Volume
    orientation: str
    """Axis letters of `image`."""
    oriented_shape: tuple[int, int, int]
    """Shape of the source in the card's orientation, before resizing."""
    oriented_ijk_to_ras: np.ndarray
    notes: tuple[str, ...] = ()

    def labels_on_source(self, labels: np.ndarray) -> np.ndarray:
        """Return labels of the prepared grid on the input grid, by nearest neighbor where sizes differ."""
        return self._on_source(_resize_nearest(labels, self.oriented_shape))

    def map_on_source(self, values: np.ndarray) -> np.ndarray:
        """Return a continuous map `(..., K, J, I)` of the prepared grid on the input grid, linearly."""
        lead = values.shape[:-3]
        flat = values.reshape(-1, *values.shape[-3:])
        resized = np.stack([_resize_linear(one, self.oriented_shape) for one in flat])
        return self._on_source(resized.reshape(*lead, *self.oriented_shape).astype(values.dtype, copy=False))

    def _on_source(self, array: np.ndarray) -> np.ndarray:
        turned, _ = reorient(array, self.oriented_ijk_to_ras, self.source.axis_codes, self.orientation)
        return np.ascontiguousarray(turned)


def prepare(volume: Volume, card: Card, contrast: Contrast, progress: Progress = silent) -> Prepared:
    """Return what the card's network should see of `volume`.

    Raises InputError when the image cannot go through the steps, OptionError when contrast enhancement
    is asked of a card that has none, CheckpointError for a step or a parameter this version does not know.
    """
    steps = [_bound(step, card) for step in card.preprocess]
    if contrast is Contrast.ON and all(step.name != "enhance_contrast" for step in card.preprocess):
        raise OptionError(
            f"--contrast on: checkpoint {card.name} was not trained with contrast enhancement; use auto or off."
        )
    if not np.isfinite(volume.array).all():
        bad = int(np.size(volume.array) - np.isfinite(volume.array).sum())
        raise InputError(
            f"{volume.name}: expected numbers in every voxel, got NaN or infinity in {bad} of them."
        )
    oriented = volume.reoriented(card.input.orientation)
    state = _State(oriented.array, oriented.ijk_to_ras, volume.name, contrast, [])
    for index, step in enumerate(steps):
        step(state, part(progress, index / len(steps), (index + 1) / len(steps)))
    for note in state.notes:
        logger.info("%s: %s", volume.name, note)
    return Prepared(
        np.ascontiguousarray(state.image, dtype=np.float32),
        state.ijk_to_ras,
        volume,
        card.input.orientation,
        oriented.shape,
        oriented.ijk_to_ras,
        tuple(state.notes),
    )


@dataclass
class _State:
    """The image on its way through the steps."""

    image: np.ndarray
    ijk_to_ras: np.ndarray
    name: str
    contrast: Contrast
    notes: list[str]

    def resize(self, shape: tuple[int, int, int]) -> None:
        if shape != self.image.shape:
            self.ijk_to_ras = _resized_geometry(self.ijk_to_ras, self.image.shape, shape)
            self.image = _resize_linear(self.image, shape)


def _resize_slices(state: _State, progress: Progress, size_px: tuple[int, int]) -> None:
    rows, columns = size_px
    before = state.image.shape
    state.resize((before[0], rows, columns))
    if state.image.shape != before:
        state.notes.append(f"Slices of {before[1]} x {before[2]} pixels were resized to {rows} x {columns}.")


def _resample(state: _State, progress: Progress, spacing_mm: tuple[float, float, float]) -> None:
    before = state.image.shape
    sizes = zip(before, spacing_of(state.ijk_to_ras), spacing_mm, strict=True)
    state.resize(tuple(max(1, round(n * have / want)) for n, have, want in sizes))
    if state.image.shape != before:
        state.notes.append(
            f"The image was resampled to {' x '.join(f'{g:g}' for g in spacing_mm)} mm for the network."
        )


def _divide_by_maximum(state: _State, progress: Progress) -> None:
    low, high = float(state.image.min()), float(state.image.max())
    if low < 0 or high <= 0:
        raise InputError(
            f"{state.name}: expected MRI intensities of 0 and more, got {low:g} to {high:g}. "
            "Is this a CT in Hounsfield units? Choose a checkpoint for its modality."
        )
    state.image = state.image / high


def _enhance_contrast(state: _State, progress: Progress, clip_limit: float, when_mean_below: float) -> None:
    mean = float(state.image.mean())
    dark = mean < when_mean_below
    if state.contrast is Contrast.OFF or (state.contrast is Contrast.AUTO and not dark):
        return
    why = "as asked" if state.contrast is Contrast.ON else "because the stack is dark"
    state.notes.append(
        f"Slices were contrast-enhanced (CLAHE) {why}: mean intensity {mean:.3f} of the maximum, "
        f"dark below {when_mean_below:g}."
    )
    state.image = clahe_slices(state.image, clip_limit, progress)


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


STEPS: dict[str, tuple[Callable[..., None], dict[str, fields.Parser]]] = {
    "resize_slices": (_resize_slices, {"size_px": fields.list_of(fields.size, 2)}),
    "resample": (_resample, {"spacing_mm": fields.list_of(fields.positive, 3)}),
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
