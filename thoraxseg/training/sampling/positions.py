"""Seed and number of the batch -> cases and corners of its patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.sampling.error_sampling import draw_by_error
from thoraxseg.training.sampling.options import SamplingOptions

_ORDER, _DRAW, _PLACES = 1, 2, 3
"""What a random stream of a run is for; `source` has number 0 for augmentation."""
_KEPT = 10_000
"""Voxels of a class in a case that patches are centered on: more would cost memory and show nothing new."""


class Labeled(Protocol):
    """The part of a prepared case that positions depend on."""

    id: str
    labels: np.ndarray


class Position(NamedTuple):
    """A patch in the making."""

    case: int
    """Index of the case."""
    corner: tuple[int, int, int]
    """First voxel (k, j, i) of what is answered for; negative where the image is smaller."""


class Positions:
    """Where the patches of each batch are; depends on seed and step alone, and on the error maps of isample."""

    def __init__(
        self,
        cases: Sequence[Labeled],
        options: SamplingOptions,
        seed: int,
        error_map: Callable[[int], np.ndarray | None] = lambda case: None,
    ) -> None:
        """Prepare; `error_map(case)` is `(K, J, I)` or None for constant. Raises InputError when nothing is there."""
        self.options, self.seed, self._error_map = options, seed, error_map
        # Not the labels: they may be memory maps, opened as they are asked for, and each is an open file while held.
        self._cases, self._shapes = tuple(cases), [case.labels.shape for case in cases]
        if not cases:
            raise InputError("training: expected at least one case to train on, got none.")
        self._slices = self._choose_slices() if options.sampler == "slices" else []
        self.count = len(self._slices) or len(cases)
        """Of what is shown once before anything is shown again: cases, or slices."""
        self.classes = tuple(self._present()) if options.sampler == "balanced" else ()
        # As an attribute, since the cache then lives and dies with its owner.
        self._places = cache(self._find_places)
        self._order = lru_cache(4)(self._shuffled)

    def at(self, step: int) -> list[Position]:
        """Return the positions of the batch `step`, those of one case together."""
        size, positions = self.options.batch_size, []
        for number in range(step * size, (step + 1) * size):
            one = int(self._order(number // self.count)[number % self.count])
            rng = np.random.default_rng([self.seed, _DRAW, number])
            if self._slices:
                case, k = self._slices[one]
                first = self._anywhere(case, rng)
                positions.append(Position(case, (k, *first[1:])))
            else:
                positions += [Position(one, corner) for corner in self._corners(one, number, rng)]
        return positions

    def _corners(self, case: int, number: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
        options, many = self.options, self.options.patches_per_case
        if options.sampler == "whole":
            return [(0, 0, 0)]
        if options.sampler == "isample":
            return self._where_wrong(case, rng)
        corners = []
        for patch in range(number * many, (number + 1) * many):
            place = None
            if options.sampler == "balanced":
                place = self._in_class(case, patch, rng)
            corners.append(self._anywhere(case, rng) if place is None else self._around(case, place))
        return corners

    def _anywhere(self, case: int, rng: np.random.Generator) -> tuple[int, ...]:
        ranges = corner_ranges(self._shapes[case], self.options.box)
        return tuple(first + int(rng.integers(count)) for first, count in ranges)

    def _around(self, case: int, place: Sequence[int]) -> tuple[int, ...]:
        """Return the corner of the patch with `place` in its center, or as near as it fits."""
        shape, box = self._shapes[case], self.options.box
        return tuple(
            min(max(p - b // 2, first), first + count - 1)
            for p, b, (first, count) in zip(place, box, corner_ranges(shape, box), strict=True)
        )

    def _in_class(self, case: int, patch: int, rng: np.random.Generator) -> tuple[int, ...] | None:
        """Return a voxel of the class whose turn it is, or of the next that the case has; None: no turn, no class."""
        share = self.options.foreground_share
        turn = int(np.floor(patch * share))
        if not self.classes or np.floor((patch + 1) * share) == turn:  # no whole number is passed
            return None
        first = turn % len(self.classes)
        for value in self.classes[first:] + self.classes[:first]:
            places = self._places(case, value)
            if len(places):
                place = np.unravel_index(places[rng.integers(len(places))], self._shapes[case])
                return tuple(int(one) for one in place)
        return None

    def _where_wrong(self, case: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
        options, shape = self.options, self._shapes[case]
        ranges = corner_ranges(shape, options.box)
        counts = tuple(count for _, count in ranges)
        errors = self._error_map(case)
        if errors is None:
            chosen = draw_by_error(np.zeros(counts, dtype=np.float32), options.patches_per_case, rng)
        else:
            valid = []
            for n, b, (first, count) in zip(shape, options.box, ranges, strict=True):
                start = min(first + b // 2, n - 1)  # a patch larger than the image has one center
                valid.append(slice(start, start + count))
            chosen = draw_by_error(errors[tuple(valid)], options.patches_per_case, rng, options.floor)
        found = np.stack(np.unravel_index(chosen, counts), axis=1) + [first for first, _ in ranges]
        return [tuple(int(one) for one in corner) for corner in found]

    def _find_places(self, case: int, value: int) -> np.ndarray:
        """Return flat indices of voxels of a class, at most `_KEPT`."""
        places = np.flatnonzero(self._cases[case].labels == value)
        if len(places) > _KEPT:
            rng = np.random.default_rng([self.seed, _PLACES, case, value])
            places = np.sort(rng.choice(places, _KEPT, replace=False))
        return places.astype(np.int32)

    def _shuffled(self, turn: int) -> np.ndarray:
        return np.random.default_rng([self.seed, _ORDER, turn]).permutation(self.count).astype(np.int32)

    def _present(self) -> list[int]:
        """Return the classes, without background, that any case has."""
        there = set()
        for case in self._cases:
            for plane in case.labels:  # bincount takes 8 bytes a voxel
                there |= set(np.flatnonzero(np.bincount(plane.ravel())).tolist())
        return sorted(there - {0, IGNORE})

    def _choose_slices(self) -> list[tuple[int, int]]:
        chosen = []
        for number, case in enumerate(self._cases):
            if self.options.slices == "all":
                chosen += [(number, k) for k in range(self._shapes[number][0])]
            else:
                planes = enumerate(case.labels)
                chosen += [(number, k) for k, plane in planes if ((plane > 0) & (plane != IGNORE)).any()]
        if not chosen:
            raise InputError(
                f"training: expected slices with a structure, and none of the {len(self._cases)} case(s) has one. "
                'Check the labels, or set sampling.slices to "all".'
            )
        return chosen


def corner_ranges(shape: Sequence[int], box: Sequence[int]) -> list[tuple[int, int]]:
    """Return (first corner, how many) along each axis for a box in an image; one in the middle if it is larger."""
    return [(0, n - b + 1) if n >= b else (-((b - n) // 2), 1) for n, b in zip(shape, box, strict=True)]
