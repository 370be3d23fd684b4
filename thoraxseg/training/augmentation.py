"""Random changes of a patch that keep image and labels together: places first, then intensities.

Rotations, affine and elastic changes and crops are joined into one map of places, so that a patch is interpolated
once (images linearly, labels by the nearest voxel) and is cut out of the whole image: what turns into view is real
where the image has it. Beyond the image, its edge values are repeated, as inference does, and labels are `IGNORE`.
Own code rather than MONAI's, whose spatial transforms interpolate one after the other and see only the patch.

Options are a mapping of names to parameters, all of which can stand in JSON:

```
{"sides": {"labels": [3, 4], "swap": [[3, 4]]},      # needed by flips; {} where no label has a side
 "masks": [1],                                       # channels that hold masks: nearest voxel, same intensity
 "rotation": {"probability": 0.2, "degrees": [-15, 15]},
 "flips": {"probability": 0.5, "axes": ["i"]}}
```

Every change has its `probability`. What is drawn is given as `[low, high]`; what cannot be negative also as one number,
which is then always taken. Axes are "k", "j", "i" of the image, also for slices (j, i). `TRANSFORMS` lists all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any

import numpy as np

from thoraxseg.checkpoints.structures import has_side
from thoraxseg.errors import OptionError
from thoraxseg.segmentation import Structure
from thoraxseg.training.batch import IGNORE

AXES = ("k", "j", "i")

TRANSFORMS: dict[str, dict[str, Any]] = {
    "right-angles": {"axes": None},
    "rotation": {"degrees": [-15.0, 15.0], "axes": None},
    "affine": {
        "degrees": [0.0, 0.0],
        "scale": [0.8, 1.2],
        "isotropic": False,
        "shear": [-0.012, 0.012],
        "translation": [0.0, 0.0],
    },
    "elastic": {"magnitude": [256.0, 256.0], "sigma": [10.24, 10.24], "affine": 10.24},
    "elastic-grid": {"grid": 0.04, "sd": [0.0, 4.0]},
    "random-resized-crop": {"scale": [0.8, 1.0], "ratio": [0.75, 1.0]},
    "flips": {"axes": None},
    "blur": {"sigma": [0.5, 1.0]},
    "low-resolution": {"zoom": [0.5, 1.0]},
    "noise": {"sd": [0.0, 0.1]},
    "brightness": {"factor": [0.75, 1.25], "shift": [0.0, 0.0]},
    "gamma": {"gamma": [0.7, 1.5], "keep_statistics": False},
}
"""Parameters and defaults of each change; lengths are voxels.

- right-angles: 0, 90, 180 or 270 degrees about each of the axes, exactly.
- rotation: an angle about each of the axes (all; in slices k), around the center, in millimeters.
- affine: SynthSeg's ranges. `degrees` as in rotation, about all axes; `isotropic` draws one scale for all axes; shear
  is a tangent.
- elastic: Simard et al. 2003 as in kaniewski: noise U(-1, 1) smoothed with a Gaussian of `sigma`, times `magnitude`
  (alpha), after an affine map that moves corner points by U(-affine, affine).
- elastic-grid: as in SynthSeg (Billot et al. 2023): N(0, s), s ~ U(sd), on a grid of `grid` times the size, linearly
  interpolated; without its integration, so that large ones may fold.
- random-resized-crop: as torchvision's in (j, i): a part of the area, ratio = width / height, back to full size.
- flips: each axis with the probability. Whatever the axis, an odd number of flips makes a mirror image of the animal,
  in which right and left are exchanged: labels with sides are swapped then, and stay for an even number, a rotation.
- blur: Gaussian. low-resolution: nearest voxels of a coarser grid, linearly interpolated. noise: Gaussian, mean 0.
- brightness: times `factor` (contrast about 0), plus `shift`. gamma: between the smallest and largest value of the
  patch; `keep_statistics` restores mean and SD. These draw for each channel.
"""

_POSITIVE = ("scale", "ratio", "zoom", "gamma", "grid")
_NOT_NEGATIVE = ("sd", "sigma", "magnitude", "affine", "factor")
_AT_MOST_ONE = (("low-resolution", "zoom"), ("elastic-grid", "grid"), ("random-resized-crop", "scale"))
_PLACING = ("right-angles", "rotation", "affine", "elastic", "elastic-grid", "random-resized-crop")
_SIDES = {"r": "right", "rt": "right", "right": "right", "l": "left", "lt": "left", "left": "left"}
_MAX_CHANGE = 4.0
"""Of the area or volume by the affine map of `elastic`."""
_TRIES = 10
"""Of a crop that must fit, as in torchvision, and of an affine map."""


@dataclass(frozen=True, eq=False)
class Augmentation:
    """Checked options for patches of 2 or 3 dimensions."""

    dimensions: int
    steps: dict[str, dict[str, Any]]
    """Only those that can happen, with all parameters; axes are indices of the patch."""
    swap: np.ndarray
    """`(256,)` uint8: which label a label is in the mirror image."""
    masks: tuple[int, ...] = ()


def check_augmentation(options: Mapping[str, Any], dimensions: int) -> Augmentation:
    """Return the options, completed with defaults, for patches of 2 or 3 `dimensions`.

    Raises OptionError for names, parameters and values that are not known, for flips that would leave right and left
    exchanged, and for flips of images of which nobody said whether labels have sides.
    """
    unknown = [name for name in options if name not in (*TRANSFORMS, "sides", "masks")]
    if unknown:
        raise OptionError(
            f"augmentation: {unknown[0]!r} is not known. Known: {', '.join((*TRANSFORMS, 'sides', 'masks'))}."
        )
    steps = {name: _checked_step(name, options[name], dimensions) for name in TRANSFORMS if name in options}
    steps = {name: step for name, step in steps.items() if step["probability"] > 0}
    if "flips" in steps and "sides" not in options:
        raise OptionError(
            "augmentation: flips make mirror images, in which right and left are exchanged; expected 'sides' to say "
            'which labels have a side, such as {"labels": [3, 4], "swap": [[3, 4]]}, or {} where none has.'
        )
    swap = _swap_table(options.get("sides", {}), "flips" in steps)
    masks = options.get("masks", ())
    if isinstance(masks, str) or not isinstance(masks, Sequence) or not all(_is_count(one) for one in masks):
        raise OptionError(f"augmentation: masks: expected a list of channel numbers from 0, got {masks!r}.")
    return Augmentation(dimensions, steps, swap, tuple(masks))


def side_options(labels: Mapping[int, Structure]) -> dict[str, list]:
    """Return the `sides` option for a table of labels: those of which the key or the name says right or left.

    Partners are called alike but for the side, such as `kidney_left` and `Kidney R`. Where one is missing there is
    nothing to swap with, and flips will be refused.
    """
    sided = {value: _words_and_side(structure) for value, structure in labels.items() if has_side(structure)}
    pairs = []
    for value, (words, side) in sided.items():
        # Of two with one name nobody could say which is meant: they stay alone.
        alike = [other for other, (theirs, _) in sided.items() if theirs == words]
        if side == "right" and sorted(sided[other][1] for other in alike) == ["left", "right"]:
            pairs.append([value, next(other for other in alike if other != value)])
    return {"labels": sorted(sided), "swap": sorted(pairs)}


def _words_and_side(structure: Structure) -> tuple[tuple[str, ...], str]:
    """Return the words of a structure's name, or else its key, in order without the side, and the side."""
    for text in (structure.name, structure.key):
        words = re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower())
        sides = [_SIDES[word] for word in words if word in _SIDES]
        if len(sides) == 1:
            return tuple(word for word in words if word not in _SIDES), sides[0]
    return (structure.key,), ""  # right and left at once: no partner


def augmented(
    images: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None,
    options: Mapping[str, Any],
    rng: np.random.Generator,
    spacing_mm: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return images `(C, *S)` float32, labels `(*S)` and weights `(*S)` (or None) of one patch, changed together.

    S has 3 dimensions, or 2 for a slice. The same state of `rng` gives the same patch. Weights beyond the patch are 0.
    Raises OptionError as `check_augmentation` does.
    """
    checked = check_augmentation(options, labels.ndim)
    placed = place(checked, labels.shape, rng, spacing_mm)
    changed, labels, weights = placed.cut(images, labels, (0,) * labels.ndim, weights)
    return recolored(changed, checked, rng), labels, weights


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the voxels of a patch come from."""

    augmentation: Augmentation
    size: tuple[int, ...]
    """Of the patch before it is turned by right angles."""
    warp: np.ndarray | None = None
    """`(D, *size)` float32: where each voxel is from, in voxels from the first one of the box; None: from there."""
    turns: tuple[tuple[int, int, int], ...] = ()
    """(first axis, second axis, quarter turns), one after the other."""
    flips: tuple[int, ...] = ()
    shift: tuple[int, ...] = field(default=())
    """From the corner of the turned patch to the corner of the box that it is turned from."""

    def cut(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        corner: Sequence[int],
        weights: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return the patch whose first voxel would be at `corner` of whole images `(C, *shape)` and labels.

        The corner may lie outside.
        """
        start = np.add(corner, self.shift)
        if self.warp is None:
            parts = self._padded(images, labels, weights, start)
        else:
            parts = self._interpolated(images, labels, weights, start)
        images, labels, weights = (part if part is None else self._turned(part) for part in parts)
        if len(self.flips) % 2:
            labels = self.augmentation.swap[labels]
        return images, labels, weights

    def _padded(self, images, labels, weights, start):
        stop = start + self.size
        shape = np.array(labels.shape)
        # At least one voxel along each axis, whose value is repeated.
        low, high = np.clip(start, 0, shape - 1), np.clip(stop, 1, shape)
        box = tuple(map(slice, low, high))
        around = list(zip(np.maximum(low - start, 0), np.maximum(stop - high, 0), strict=True))
        inside = tuple(slice(a, a + n) for (a, _), n in zip(around, high - low, strict=True))
        images = np.array(images[(slice(None), *box)], dtype=np.float32)
        seen = np.full(self.size, IGNORE, dtype=labels.dtype)
        heavy = None if weights is None else np.zeros(self.size, dtype=np.float32)
        if np.any(around):
            images = np.pad(images, [(0, 0), *around], mode="edge")
        seen[inside] = labels[box]
        if heavy is not None:
            heavy[inside] = weights[box]
        return images, seen, heavy

    def _interpolated(self, images, labels, weights, start):
        from scipy.ndimage import map_coordinates

        places = self.warp + np.array(start, dtype=np.float32).reshape(-1, *[1] * len(self.size))
        shape = np.array(labels.shape)
        flat = places.reshape(len(places), -1)
        low = np.clip(np.floor(flat.min(axis=1)).astype(int), 0, shape - 1)
        high = np.clip(np.ceil(flat.max(axis=1)).astype(int) + 1, low + 1, shape)
        box = tuple(map(slice, low, high))
        places -= low.astype(np.float32).reshape(-1, *[1] * len(self.size))
        near = np.array(images[(slice(None), *box)], dtype=np.float32)
        out = np.empty((len(near), *self.size), dtype=np.float32)
        for channel, image in enumerate(near):
            order = 0 if channel in self.augmentation.masks else 1
            map_coordinates(image, places, output=out[channel], order=order, mode="nearest")
        seen = map_coordinates(np.array(labels[box]), places, order=0, mode="grid-constant", cval=IGNORE)
        heavy = None
        if weights is not None:
            heavy = map_coordinates(np.array(weights[box]), places, order=1, mode="nearest")
            heavy[seen == IGNORE] = 0
        return out, seen, heavy

    def _turned(self, part: np.ndarray) -> np.ndarray:
        extra = part.ndim - len(self.size)
        for first, second, count in self.turns:
            part = np.rot90(part, count, (first + extra, second + extra))
        if self.flips:
            part = np.flip(part, [axis + extra for axis in self.flips])
        return np.ascontiguousarray(part)


def place(
    augmentation: Augmentation,
    size: Sequence[int],
    rng: np.random.Generator,
    spacing_mm: Sequence[float] | None = None,
) -> Placement:
    """Draw where the voxels of a patch of `size` come from; spacing is (k, j, i), or (j, i) for slices."""
    steps, dimensions = augmentation.steps, len(size)
    happens = {name: rng.random() < steps[name]["probability"] for name in _PLACING if name in steps}
    turns = []
    if happens.get("right-angles"):
        for axis in steps["right-angles"]["axes"]:
            first, second = _plane(axis, dimensions)
            turns.append((first, second, int(rng.integers(4))))
    inner = list(size)
    for first, second, count in reversed(turns):
        if count % 2:
            inner[first], inner[second] = inner[second], inner[first]
    warp = _drawn_warp(steps, happens, inner, rng, np.ones(dimensions) if spacing_mm is None else spacing_mm)
    flips = ()
    if "flips" in steps:
        flips = tuple(axis for axis in steps["flips"]["axes"] if rng.random() < steps["flips"]["probability"])
    shift = tuple((have - want) // 2 for have, want in zip(size, inner, strict=True))
    return Placement(augmentation, tuple(inner), warp, tuple(turns), flips, shift)


def recolored(images: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Return `(C, *S)` float32 with changed intensities in all channels but masks; the input may be changed too."""
    for name, step in augmentation.steps.items():
        if name not in _RECOLOR or rng.random() >= step["probability"]:
            continue
        for channel in range(len(images)):
            changed = _RECOLOR[name](images[channel], step, rng)
            if channel not in augmentation.masks:
                images[channel] = changed
    return images


def _drawn_warp(
    steps: dict[str, dict[str, Any]],
    happens: dict[str, bool],
    size: Sequence[int],
    rng: np.random.Generator,
    spacing_mm: Sequence[float],
) -> np.ndarray | None:
    """Return where each voxel comes from, `(D, *size)` float32, or None when nothing moves."""
    dimensions = len(size)
    matrix, offset = np.eye(dimensions), np.zeros(dimensions)
    displaced: list[np.ndarray] = []
    if happens.get("rotation"):
        matrix = _rotation(steps["rotation"]["degrees"], steps["rotation"]["axes"], spacing_mm, rng)
    if happens.get("affine"):
        step = steps["affine"]
        matrix = matrix @ _rotation(step["degrees"], range(3 if dimensions == 3 else 1), spacing_mm, rng)
        scales = [_drawn(step["scale"], rng) for _ in range(1 if step["isotropic"] else dimensions)]
        shear = np.eye(dimensions)
        for row, column in zip(*np.nonzero(~np.eye(dimensions, dtype=bool)), strict=True):
            shear[row, column] = _drawn(step["shear"], rng)
        offset = offset + matrix @ [_drawn(step["translation"], rng) for _ in size]
        matrix = matrix @ shear / np.broadcast_to(scales, dimensions)
    if happens.get("elastic"):
        step = steps["elastic"]
        moved, by = _jittered(size, step["affine"], rng)
        offset = offset + matrix @ by
        matrix = matrix @ moved
        magnitude = np.float32(_drawn(step["magnitude"], rng))
        displaced.append(magnitude * _smooth_noise(size, _drawn(step["sigma"], rng), rng))
    if happens.get("elastic-grid"):
        step = steps["elastic-grid"]
        coarse = [max(2, int(np.ceil(step["grid"] * n))) for n in size]
        knots = rng.normal(0.0, _drawn(step["sd"], rng), (dimensions, *coarse))
        displaced.append(_resized(knots.astype(np.float32), size))
    if happens.get("random-resized-crop"):
        part, by = _drawn_crop(steps["random-resized-crop"], size, rng)
        offset = offset + matrix @ by
        matrix = matrix @ part
    if not displaced and np.array_equal(matrix, np.eye(dimensions)) and not offset.any():
        return None
    center = (np.array(size) - 1) / 2
    lines = [np.arange(n, dtype=np.float64) - c for n, c in zip(size, center, strict=True)]
    warp = np.empty((dimensions, *size), dtype=np.float32)
    for row in range(dimensions):
        # An affine map is a sum of one term an axis.
        terms = [matrix[row, axis] * line for axis, line in enumerate(lines)]
        terms[0] = terms[0] + (center + offset)[row]
        warp[row] = sum(np.ix_(*(term.astype(np.float32) for term in terms)))
    for field_ in displaced:
        warp += field_
    return warp


def _rotation(
    degrees: Sequence[float], axes: Sequence[int], spacing_mm: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Return the matrix in voxels that turns about each axis by a drawn angle in millimeters."""
    spacing = np.asarray(spacing_mm, dtype=float)
    matrix = np.eye(len(spacing))
    for axis in axes:
        angle = np.deg2rad(_drawn(degrees, rng))
        first, second = _plane(axis, len(spacing))
        turn = np.eye(len(spacing))
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix * spacing / spacing[:, None]


def _jittered(size: Sequence[int], by: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the affine map (about the center) that undoes moving D + 1 corner points by U(-by, by) voxels.

    In small patches such a move can make a mirror image or flatten the patch: then it is drawn again, at last left out.
    """
    dimensions = len(size)
    corners = (
        [(1, 1), (1, -1), (-1, -1)] if dimensions == 2 else [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]
    )
    points = np.array(corners) * (min(size) / 3)
    for _ in range(_TRIES):
        goals = points + rng.uniform(-by, by, points.shape)
        # Rows [goal, 1] @ solution = point.
        solution = np.linalg.lstsq(np.c_[goals, np.ones(len(goals))], points, rcond=None)[0]
        if 1 / _MAX_CHANGE < np.linalg.det(solution[:-1]) < _MAX_CHANGE:
            return solution[:-1].T, solution[-1]
    return np.eye(dimensions), np.zeros(dimensions)


def _smooth_noise(size: Sequence[int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return `(D, *size)` float32 of U(-1, 1) noise after a Gaussian of `sigma` voxels.

    Smoothed on a grid of a quarter of sigma, with the variance that the fine grid has, and interpolated: the same
    random field but for 2 % of its standard deviation, in a fraction of the time.
    """
    from scipy.ndimage import gaussian_filter

    step = max(1, int(sigma / 4))
    coarse = [-(-n // step) + 1 for n in size]
    noise = rng.uniform(-1.0, 1.0, (len(size), *coarse)).astype(np.float32)
    sigmas = (0.0, *[sigma / step] * len(size))
    smooth = gaussian_filter(noise, sigmas) * np.float32(step ** (-len(size) / 2))
    return _resized(smooth, size)


def _drawn_crop(
    step: dict[str, Any], size: Sequence[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the affine map about the center onto a part of the (j, i) plane; all of it when none fitted."""
    height, width = size[-2:]
    matrix, offset = np.eye(len(size)), np.zeros(len(size))
    for _ in range(_TRIES):
        area = height * width * _drawn(step["scale"], rng)
        ratio = np.exp(_drawn([log(one) for one in step["ratio"]], rng))
        part = round(np.sqrt(area / ratio)), round(np.sqrt(area * ratio))
        if 0 < part[0] <= height and 0 < part[1] <= width:
            for axis, have, want in ((-2, height, part[0]), (-1, width, part[1])):
                first = int(rng.integers(have - want + 1))
                matrix[axis, axis] = want / have
                offset[axis] = first + (want - have) / 2
            break
    return matrix, offset


def _resized(fields: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return `(D, *size)` float32, linearly interpolated between the corners of `(D, ...)`."""
    import torch

    mode = "bilinear" if len(size) == 2 else "trilinear"
    return torch.nn.functional.interpolate(
        torch.from_numpy(fields)[None], size=tuple(size), mode=mode, align_corners=True
    )[0].numpy()


def _blur(image: np.ndarray, step: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, _drawn(step["sigma"], rng), mode="nearest")


def _lower_resolution(image: np.ndarray, step: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    import torch

    zoom = _drawn(step["zoom"], rng)
    coarse = [max(1, round(n * zoom)) for n in image.shape]
    mode = "bilinear" if image.ndim == 2 else "trilinear"
    few = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None, None], size=coarse, mode="nearest-exact"
    )
    return torch.nn.functional.interpolate(few, size=image.shape, mode=mode, align_corners=False)[
        0, 0
    ].numpy()


def _noise(image: np.ndarray, step: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    sd = np.float32(_drawn(step["sd"], rng))
    return image + sd * rng.standard_normal(image.shape, dtype=np.float32)


def _brightness(image: np.ndarray, step: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    factor = np.float32(_drawn(step["factor"], rng))
    return image * factor + np.float32(_drawn(step["shift"], rng))


def _gamma(image: np.ndarray, step: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
    exponent = np.float32(_drawn(step["gamma"], rng))
    low, high = image.min(), image.max()
    if low == high:
        return image
    curved = ((image - low) / (high - low)) ** exponent
    if step["keep_statistics"]:
        return (curved - curved.mean()) / curved.std() * image.std() + image.mean()
    return curved * (high - low) + low


_RECOLOR = {
    "blur": _blur,
    "low-resolution": _lower_resolution,
    "noise": _noise,
    "brightness": _brightness,
    "gamma": _gamma,
}


def _drawn(span: Sequence[float], rng: np.random.Generator) -> float:
    return float(rng.uniform(span[0], span[1]))


def _plane(axis: int, dimensions: int) -> tuple[int, int]:
    """Return the two axes that a rotation about `axis` (of k, j, i) turns."""
    return (0, 1) if dimensions == 2 else tuple(one for one in range(3) if one != axis)


def _checked_step(name: str, given: Any, dimensions: int) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise OptionError(f"augmentation: {name}: expected a mapping of its parameters, got {given!r}.")
    known = TRANSFORMS[name]
    for key in given:
        if key != "probability" and key not in known:
            raise OptionError(
                f"augmentation: {name}: parameter {key!r} is not known. Known: {', '.join(('probability', *known))}."
            )
    if "probability" not in given:
        raise OptionError(f"augmentation: {name}: expected its probability, from 0 to 1.")
    step = {"probability": given["probability"], **known, **given}
    if not _is_number(step["probability"]) or not 0 <= step["probability"] <= 1:
        raise OptionError(
            f"augmentation: {name}: expected a probability from 0 to 1, got {step['probability']!r}."
        )
    for key, value in step.items():
        if key == "axes":
            step[key] = _checked_axes(name, value, dimensions)
        elif key in ("isotropic", "keep_statistics"):
            if not isinstance(value, bool):
                raise OptionError(f"augmentation: {name}: {key}: expected true or false, got {value!r}.")
        elif key != "probability":
            step[key] = _checked_numbers(name, key, value, isinstance(known[key], list))
    return step


def _checked_numbers(name: str, key: str, value: Any, is_range: bool) -> Any:
    signed = key not in (*_POSITIVE, *_NOT_NEGATIVE)  # whose one number might be meant as plus or minus
    span = [value, value] if _is_number(value) and not signed else value
    fits = isinstance(span, Sequence) and len(span) == 2 and all(map(_is_number, span)) and span[0] <= span[1]
    if not fits or (not is_range and not _is_number(value)):
        wanted = "a number" if not is_range else "[low, high]" if signed else "[low, high] or one number"
        raise OptionError(f"augmentation: {name}: {key}: expected {wanted}, got {value!r}.")
    if key in _POSITIVE and span[0] <= 0:
        raise OptionError(f"augmentation: {name}: {key}: expected above 0, got {value!r}.")
    if key in _NOT_NEGATIVE and span[0] < 0:
        raise OptionError(f"augmentation: {name}: {key}: expected 0 or more, got {value!r}.")
    if key == "shear" and max(map(abs, span)) >= 0.5:
        raise OptionError(
            f"augmentation: {name}: shear: expected tangents between -0.5 and 0.5, got {value!r}: beyond, shears along "
            "all axes can make a mirror image, in which right is left."
        )
    if (name, key) in _AT_MOST_ONE and span[1] > 1:
        raise OptionError(f"augmentation: {name}: {key}: expected at most 1, got {value!r}.")
    return [float(one) for one in span] if is_range else float(value)


def _checked_axes(name: str, value: Any, dimensions: int) -> list[int]:
    """Return axes as indices: of k, j, i for turns (what is turned about), of the patch for flips."""
    usable = AXES if dimensions == 3 else ("k",) if name != "flips" else ("j", "i")
    chosen = usable if value is None else value
    is_list = isinstance(chosen, Sequence) and not isinstance(chosen, str)
    if not is_list or not all(one in usable for one in chosen) or len(set(chosen)) != len(chosen):
        raise OptionError(
            f"augmentation: {name}: axes: expected some of {', '.join(usable)} for patches of {dimensions} dimensions, "
            f"got {value!r}."
        )
    first = AXES.index(usable[0])
    return [AXES.index(one) - first for one in chosen]


def _swap_table(sides: Any, flipped: bool) -> np.ndarray:
    if not isinstance(sides, Mapping) or not set(sides) <= {"labels", "swap"}:
        raise OptionError(
            f'augmentation: sides: expected {{"labels": [3, 4], "swap": [[3, 4]]}} or {{}}, got {sides!r}.'
        )
    table = np.arange(256, dtype=np.uint8)
    sided, pairs = sides.get("labels", []), sides.get("swap", [])
    try:
        values = [one for pair in pairs for one in pair]
        fits = all(len(pair) == 2 for pair in pairs) and len(set(values)) == len(values)
        fits = fits and all(_is_count(one) and 0 < one < IGNORE for one in (*values, *sided))
    except TypeError:
        fits = False
    if not fits:
        raise OptionError(
            f"augmentation: sides: expected label values from 1 to {IGNORE - 1} and pairs of them, each label in one "
            f"pair at most, got {sides!r}."
        )
    if flipped and (alone := sorted(set(sided) - set(values))):
        raise OptionError(
            f"augmentation: flips would exchange right and left silently: label(s) {', '.join(map(str, alone))} have a "
            "side and no partner in sides.swap. Name the partner, or leave flips out."
        )
    for right, left in pairs:
        table[[right, left]] = left, right
    return table


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
