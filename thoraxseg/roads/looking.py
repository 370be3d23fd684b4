"""The networks' scores together with the map of doubt that was asked for, the same for every road."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thoraxseg.inference import Predictor
from thoraxseg.inference.sampling import FoldSpread, Form, augmented, check_fold_count, dropped_out
from thoraxseg.inference.uncertainty import FOLD_SPREAD, Quantity, entropy_of
from thoraxseg.options import SegmentOptions, Uncertainty
from thoraxseg.progress import Progress, part

Scores = Callable[[np.ndarray, Sequence[int], bool, Progress], np.ndarray]
"""Prepared channels, folds (indices of networks), whether to mirror, progress -> scores `(L, z, y, x)`."""


@dataclass(frozen=True, eq=False)
class Looked:
    """What was seen on the prepared grid."""

    scores: np.ndarray
    """`(L, z, y, x)` float32."""
    are_probabilities: bool | None
    """True: probabilities whatever the road averages; None: what the road averages."""
    spread: np.ndarray | None
    """`(z, y, x)`, where the spread of the folds was asked for."""
    quantity: Quantity | None
    sampling: dict[str, Any] | None


@dataclass(frozen=True, eq=False)
class Eye:
    """How a road looks at prepared channels."""

    predictor: Predictor
    scores: Scores
    as_probabilities: Callable[[np.ndarray], np.ndarray]
    spacing_mm: Sequence[float]
    flip_axes: Sequence[int]
    """Along which a flipped image is as good as the image: 0 is z."""
    continuous: Sequence[bool]
    """Of each channel, whether it is an image or a map of labels."""
    regions: bool
    """Whether outputs overlap."""


def look(eye: Eye, channels: np.ndarray, options: SegmentOptions, progress: Progress) -> Looked:
    """Return scores and doubt as `options.uncertainty` asks for.

    Raises OptionError where the checkpoint cannot give that kind of doubt: one fold only, or no dropout.
    """
    everything = range(len(eye.predictor.networks))
    kind = options.uncertainty

    def one_look(image: np.ndarray, span: Progress) -> np.ndarray:
        return eye.as_probabilities(eye.scores(image, everything, False, span))

    if kind is Uncertainty.FOLDS:
        return _each_fold(eye, channels, progress)
    if kind in (Uncertainty.WANG, Uncertainty.MEAN_PROB):
        form = Form(kind.value)
        sampled = augmented(
            one_look,
            channels,
            eye.spacing_mm,
            form,
            options.samples,
            options.seed,
            eye.flip_axes,
            eye.continuous,
            eye.regions,
            progress,
        )
        of = {
            Form.WANG: f"the labels of {options.samples} augmented copies (wang)",
            Form.MEAN_PROB: f"the mean probability of {options.samples} augmented copies (mean-prob)",
        }[form]
    elif kind is Uncertainty.DROPOUT:
        sampled = dropped_out(
            one_look,
            eye.predictor.networks,
            channels,
            options.samples,
            options.seed,
            eye.regions,
            progress,
        )
        of = f"the mean probability of {options.samples} looks with dropout"
    else:
        scores = eye.scores(channels, everything, True, progress)
        quantity = entropy_of("the class probabilities", _classes(eye, scores))
        return Looked(scores, None, None, quantity if kind is Uncertainty.ENTROPY else None, None)
    about = {**sampled.parameters, "fewest_valid_samples": int(sampled.valid.min())}
    quantity = entropy_of(of, _classes(eye, sampled.probabilities))
    return Looked(sampled.probabilities, True, None, quantity, about)


def sampled_warning(looked: Looked, options: SegmentOptions) -> list[str]:
    """Return a warning where samples, and not the image alone, decided the contours."""
    if looked.sampling is None:
        return []
    return [
        f"The contours are those of {options.samples} samples together (--uncertainty {options.uncertainty.value}), "
        "not of the image alone: small structures fade or appear. For the checkpoint's own contours use --uncertainty "
        "entropy."
    ]


def _each_fold(eye: Eye, channels: np.ndarray, progress: Progress) -> Looked:
    folds = len(eye.predictor.networks)
    check_fold_count(folds)  # before minutes of work
    spread = FoldSpread(eye.regions)
    total: np.ndarray | None = None
    for fold in range(folds):
        scores = eye.scores(channels, [fold], True, part(progress, fold / folds, (fold + 1) / folds))
        spread.add(eye.as_probabilities(scores))
        total = scores if total is None else np.add(total, scores, out=total)
    total /= np.float32(folds)
    return Looked(total, None, spread.spread(), FOLD_SPREAD, None)


def _classes(eye: Eye, scores: np.ndarray) -> int:
    return 2 if eye.regions else len(scores)  # in or out of a region
