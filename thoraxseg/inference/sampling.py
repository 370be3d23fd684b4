"""Many looks at one image, changed, with dropout or by other folds: how much does the answer vary?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from math import pi
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from thoraxseg.errors import InputError, OptionError
from thoraxseg.inference.spatial import Augmentation, Transform, drawn
from thoraxseg.progress import Progress, part, silent

if TYPE_CHECKING:
    import torch

Predict = Callable[[np.ndarray, Progress], np.ndarray]
"""A prepared image `(C, z, y, x)` float32 -> probabilities `(L, z, y, x)` float32."""

MOST_SAMPLES = int(np.iinfo(np.uint16).max)


class Form(Enum):
    """How augmented samples are put together.

    WANG counts hard labels (Wang et al. 2018); MEAN_PROB averages probabilities, and so mixes in how sure
    the model is of each (the coursework on ensembles of 3-D U-Nets).
    """

    WANG = "wang"
    MEAN_PROB = "mean-prob"


RANGES = {
    Form.WANG: Augmentation(
        flip_probability=0.5, scale=(0.8, 1.2), rotation_rad=(0.0, 2 * pi), noise_sd=0.05
    ),
    Form.MEAN_PROB: Augmentation(
        flip_probability=0.5,
        scale=(0.9, 1.1),
        rotation_rad=(-pi / 18, pi / 18),
        translation_fraction=(-0.05, 0.05),
    ),
}
"""The ranges of each form. Wang's noise of 0.05 is for images of unit SD, so here it is 0.05 of each continuous
channel's own SD. The coursework names its changes but not their ranges: those of MEAN_PROB are ours, mild ones."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """What the samples of one image say together.

    `probabilities` `(L, z, y, x)` float32: frequencies of the label (wang) or mean probabilities.
    `valid` `(z, y, x)` uint16: the samples that count at each voxel, at least 1.
    `parameters`: everything that made them, as plain words and numbers for the record of the case.
    """

    probabilities: np.ndarray
    valid: np.ndarray
    parameters: dict[str, Any]


def augmented(
    predict: Predict,
    image: np.ndarray,
    spacing_mm: Sequence[float],
    form: Form,
    samples: int,
    seed: int,
    flip_axes: Sequence[int],
    continuous: Sequence[bool],
    regions: bool,
    progress: Progress = silent,
    ranges: Augmentation | None = None,
) -> Sampled:
    """Return what `predict` says of `image` `(C, z, y, x)` changed at random, every change undone again.

    Sample 0 is the image as it is, so that every voxel has an answer; samples count from it. Others are
    flipped along some of `flip_axes` (0 is z), changed as `ranges` say (default: `RANGES[form]`), in
    millimeters by `spacing_mm` (z, y, x), then get noise. `continuous` says of each channel whether it is
    an image (interpolated, noisy) or a map. A voxel that a change moves out of the field of view is not
    counted there. With `regions` each of the L outputs stands by itself, and is on above 0.5. Sample n
    depends on the seed and n only; the same seed gives the same bits. Source: Wang et al. 2018.
    Raises OptionError for fewer than 2 samples (mean-prob: 1), a negative seed or an unknown axis.
    """
    _check(samples, 2 if form is Form.WANG else 1, seed)
    flip_axes = sorted({*map(int, flip_axes)})
    if not {*flip_axes} <= {0, 1, 2}:
        raise OptionError(f"flip_axes: expected some of 0 (slices), 1 (rows), 2 (columns), got {flip_axes}.")
    ranges = RANGES[form] if ranges is None else ranges
    shape = image.shape[1:]
    noise_sd = [
        ranges.noise_sd * float(channel.std(dtype=np.float64)) if smooth else 0.0
        for channel, smooth in zip(image, continuous, strict=True)
    ]
    total: np.ndarray | None = None
    valid = np.zeros(shape, np.uint16)
    for index, span in _counted(samples, progress):
        rng = np.random.default_rng([seed, index])
        change = drawn(ranges, rng, shape, spacing_mm, flip_axes) if index else Transform()
        changed = change.apply(image, continuous)
        if index:
            changed = _noisy(changed, noise_sd, rng)
        answer = predict(changed, span)
        if total is None:
            total = np.zeros((len(answer), *shape), np.float32)
        seen = change.seen(shape)
        valid += seen
        add = _vote if form is Form.WANG else _add_probabilities
        add(total, answer, change, seen, regions)
    total /= valid
    parameters = {"form": form.value, "samples": int(samples), "seed": int(seed), "regions": regions}
    parameters |= {"includes_identity": True, "flip_axes": flip_axes, **ranges.to_record()}
    parameters |= {"noise_unit": "SD of each continuous channel", "outside": "minimum of each channel"}
    return Sampled(total, valid, parameters)


def dropped_out(
    predict: Predict,
    networks: Iterable[torch.nn.Module],
    image: np.ndarray,
    samples: int,
    seed: int,
    regions: bool,
    progress: Progress = silent,
) -> Sampled:
    """Return the mean of what `predict` says of `image` `(C, z, y, x)` with the dropout of `networks` at work.

    `predict` must use these networks, in one thread, else the draws have no order. Only layers of the kinds
    torch.nn.Dropout, 1d, 2d and 3d are known. Modes and torch's random state are as before afterwards, also
    after an error. Every sample counts everywhere; the same seed gives the same bits on the same device.
    Source: Gal and Ghahramani 2016. Raises OptionError for fewer than 2 samples, a negative seed, or
    networks without dropout.
    """
    import torch

    _check(samples, 2, seed)
    kinds = (torch.nn.Dropout, torch.nn.Dropout1d, torch.nn.Dropout2d, torch.nn.Dropout3d)
    modules = {module: None for network in networks for module in network.modules()}  # in order, each once
    layers = [module for module in modules if isinstance(module, kinds) and module.p > 0]
    if not layers:
        raise OptionError(
            "expected networks with dropout, but this checkpoint has no dropout layers, or its files do not state "
            "them (a card can): every sample would be the same. Use another form of uncertainty, such as entropy, "
            "wang or mean-prob."
        )
    # Seeding torch reaches every GPU; one that was never used has no state worth keeping.
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    total: np.ndarray | None = None
    with torch.random.fork_rng(devices=gpus), _training(layers):
        for index, span in _counted(samples, progress):
            torch.manual_seed(int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]))
            answer = predict(image, span)
            total = answer.astype(np.float32) if total is None else np.add(total, answer, out=total)
    total /= np.float32(samples)
    parameters = {"form": "dropout", "samples": int(samples), "seed": int(seed), "regions": regions}
    parameters |= {"includes_identity": False, "layers": len(layers)}
    parameters["rates"] = sorted({float(layer.p) for layer in layers})
    return Sampled(total, np.full(total.shape[1:], samples, np.uint16), parameters)


class FoldSpread:
    """Mean and standard deviation of the folds' probabilities, one fold at a time (Welford 1962).

    Holds two arrays of the size of one answer. With `regions` every output stands by itself.
    """

    def __init__(self, regions: bool = False) -> None:
        self.regions, self.folds = regions, 0

    def add(self, probabilities: np.ndarray) -> None:
        """Take in one fold's `(L, z, y, x)`; raises InputError when its shape is not that of the first."""
        if not self.folds:
            self._mean = np.zeros(probabilities.shape, np.float32)
            self._squares = np.zeros(probabilities.shape, np.float32)
        if probabilities.shape != self._mean.shape:
            raise InputError(
                f"expected every fold to answer with shape {self._mean.shape}, got {probabilities.shape}."
            )
        self.folds += 1
        for p, mean, squares in zip(probabilities, self._mean, self._squares, strict=True):
            difference = p - mean
            mean += difference / np.float32(self.folds)
            squares += difference * (p - mean)

    def mean(self) -> np.ndarray:
        """Return the mean `(L, z, y, x)` float32: a read-only view that the next fold changes.

        Raises OptionError for fewer than two folds.
        """
        check_fold_count(self.folds)
        view = self._mean.view()
        view.flags.writeable = False
        return view

    def spread(self, labels_index: np.ndarray | None = None) -> np.ndarray:
        """Return the SD over folds (ddof 0), `(z, y, x)` float32, 0 to 0.5, of the class that wins the mean.

        `labels_index` `(z, y, x)` names other classes to look at, as indices into L. With regions it is the
        largest SD of any output, and `labels_index` is not used. Raises OptionError for fewer than two folds.
        """
        check_fold_count(self.folds)
        if self.regions:
            squares = self._squares.max(axis=0)
        else:
            index = self._mean.argmax(axis=0) if labels_index is None else labels_index
            squares = np.take_along_axis(self._squares, index[None], axis=0)[0]
        return np.clip(np.sqrt(np.maximum(squares, 0) / np.float32(self.folds)), 0, np.float32(0.5))


def check_fold_count(folds: int) -> None:
    """Raise OptionError for fewer than two folds."""
    if folds < 2:
        raise OptionError(
            f"the spread of folds needs two or more, got {folds}. A fold is one of the networks of a "
            "checkpoint, each trained without another part of the cases. Use another map of uncertainty, "
            "such as entropy, wang or mean-prob."
        )


def _check(samples: int, least: int, seed: int) -> None:
    if not isinstance(samples, Integral) or not least <= samples <= MOST_SAMPLES:
        raise OptionError(
            f"samples: expected a whole number from {least} to {MOST_SAMPLES}, got {samples!r}. 20 to 40 are usual."
        )
    if not isinstance(seed, Integral) or seed < 0:
        raise OptionError(f"seed: expected a whole number, 0 or more, got {seed!r}. Any will do, such as 0.")


def _counted(samples: int, progress: Progress) -> Iterator[tuple[int, Progress]]:
    """Yield each sample's number and its own span of the bar, reporting before and after."""
    for index in range(samples):
        span = part(progress, index / samples, (index + 1) / samples)
        span(0.0, f"Looking at sample {index + 1} of {samples}")
        yield index, span
    progress(1.0, f"Looked at {samples} samples")


def _noisy(image: np.ndarray, noise_sd: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Return the image with normal noise of each channel's SD; channels without draw none."""
    out = image.copy()
    for channel, sd in zip(out, noise_sd, strict=True):
        if sd:
            channel += np.float32(sd) * rng.standard_normal(channel.shape, np.float32)
    return out


def _vote(total: np.ndarray, answer: np.ndarray, change: Transform, seen: np.ndarray, regions: bool) -> None:
    """Add one to the label of each voxel (ties go to the lower), or to each output that is on."""
    if regions:
        for count, p in zip(total, answer, strict=True):
            count += change.undo((p > 0.5)[None].astype(np.uint8), 0)[0] & seen
        return
    label = change.undo(answer.argmax(axis=0)[None].astype(np.uint16), 0)[0]
    for value, count in enumerate(total):
        count += (label == value) & seen


def _add_probabilities(
    total: np.ndarray, answer: np.ndarray, change: Transform, seen: np.ndarray, regions: bool
) -> None:
    """Add the probabilities; what interpolation rounded sums to 1 again, what was only moved is untouched."""
    back = change.undo(answer, 1)
    if change.matrix is not None and not regions:
        back /= back.sum(axis=0)
    np.add(total, back, out=total, where=seen)


@contextmanager
def _training(layers: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Switch these layers, and no others, to training, and back whatever happens."""
    before = [layer.training for layer in layers]
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        for layer, mode in zip(layers, before, strict=True):
            layer.training = mode
