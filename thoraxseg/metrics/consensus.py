"""What several observers agree on: majority, all, STAPLE; each against the others; where they differ."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from thoraxseg.errors import InputError, OptionError
from thoraxseg.metrics.conformity import (
    Conformity,
    check_shapes,
    foreground_slabs,
    marked_count,
    marked_slabs,
    observers_of,
)

STAPLE_THRESHOLD = 0.5
"""STAPLE's consensus holds the voxels that are more likely than this to be foreground."""

_STAPLE_ITERATIONS = 1000


@dataclass(frozen=True)
class Staple:
    """Result of STAPLE for one structure."""

    probability: np.ndarray
    """float32, the shape of the masks: how likely each voxel is foreground, 0 outside the box of the masks."""
    sensitivity: tuple[float, ...]
    """Share of the true voxels that each observer marked; nan when all masks are empty."""
    specificity: tuple[float, ...]
    """Share of the domain's other voxels that each observer left out; nan when all masks are empty."""


def majority(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return a bool mask of the voxels marked by a strict majority of n bool masks, k >= n // 2 + 1.

    2 of 3, both of 2, 3 of 4; empty where no such voxel is. Source: Malimban et al. 2022. Raises InputError for no
    mask or different shapes.
    """
    return _count(masks) >= len(masks) // 2 + 1


def unanimous(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return a bool mask of the voxels that all n bool masks mark; empty where one of them is.

    Source: Malimban et al. 2022 (spinal cord, two observers). Raises InputError as `majority` does.
    """
    return _count(masks) == len(masks)


def staple(masks: Sequence[np.ndarray]) -> Staple:
    """Return the probability of foreground and each observer's performance, from n bool masks (K, J, I).

    Computed by SimpleITK's STAPLEImageFilter with its defaults (equal confidence, the prior is the mean share
    of foreground), on the smallest box that holds every mask with one voxel of background on each side, also
    where the image ends. Specificity and prior depend on that domain: on the whole image they would depend on
    how much air the field of view holds, and STAPLE would draw near to the union. Take `probability >
    STAPLE_THRESHOLD` (0.5) as the consensus. With two observers the result rests on the starting values alone;
    prefer three or more. All masks empty: probability 0, performance nan.
    Source: Warfield, Zou and Wells 2004. Raises InputError for no mask, different shapes or masks that are
    not (K, J, I).
    """
    union = _count(masks) > 0
    if union.ndim != 3:
        raise InputError(f"expected masks (K, J, I), got shape {union.shape}.")
    probability = np.zeros(union.shape, dtype=np.float32)
    if not union.any():
        unknown = (float("nan"),) * len(masks)
        return Staple(probability, unknown, unknown)
    box = _box(union)
    found, sensitivity, specificity = _staple_in_box([np.asarray(mask)[box] for mask in masks])
    probability[box] = found
    return Staple(probability, sensitivity, specificity)


def consensus_labels(
    label_maps: Sequence[np.ndarray],
    labels: Collection[int],
    contoured: Sequence[Collection[int]] | None = None,
    rule: str = "majority",
) -> tuple[np.ndarray, list[str]]:
    """Return the consensus of n integer label maps (K, J, I) and notes on what had to be decided.

    `rule`: "majority" (k >= n // 2 + 1 of the label's observers), "all", or "staple" (probability above 0.5,
    each label on its own). `contoured[n]` holds the labels that observer n contoured (None: all did); the
    others are left out of the label's n. A voxel claimed by two structures, possible where their observers are
    not the same or with "staple", goes to the one with the larger share (with "staple": probability) and at equal
    shares to the lower label; a note counts such voxels. Labels that nobody contoured stay empty, with a
    note. The map has the smallest unsigned type that holds the labels.
    Raises OptionError for an unknown rule and InputError as `conformity_of_labels` does.
    """
    if rule not in ("majority", "all", "staple"):
        raise OptionError(f'rule: expected "majority", "all" or "staple", got {rule!r}.')
    present = dict(sorted(observers_of(label_maps, labels, contoured).items()))
    consensus = np.zeros(label_maps[0].shape, dtype=np.min_scalar_type(max(present, default=0)))
    voters = {label: observers for label, observers in present.items() if observers}
    if rule == "staple":
        claims = _Claims.over(consensus)
        for label, observers in voters.items():
            box, probability = _staple_claim(label, [label_maps[n] for n in observers])
            claims.add(label, probability, box)
        contested, tied = claims.counts()
    else:
        contested = tied = 0
        for slab, where, values in foreground_slabs(label_maps):
            claims = _Claims.over(np.zeros(where.shape, dtype=consensus.dtype))
            for label, observers in voters.items():
                claims.add(label, _vote(label, [values[n] for n in observers], rule))
            consensus[slab].reshape(-1)[where] = claims.labels
            more = claims.counts()
            contested, tied = contested + more[0], tied + more[1]
    return consensus, _notes(present, contested, tied, rule)


def leave_one_out(
    label_maps: Sequence[np.ndarray],
    labels: Collection[int],
    contoured: Sequence[Collection[int]] | None = None,
) -> list[dict]:
    """Return a row for each label and each observer of it: the observer against the majority of the others.

    Keys: `label`, `observer` (position in `label_maps`), `others` (how many), `dsc` and `iou` against the
    others' strict majority, `voxels_observer`, `voxels_others_consensus`, `voxels_both`, `cigen` of all
    observers, `cigen_without` this one, and `undefined` {key: why} for numbers that are None. Both masks empty:
    dsc and iou are 1; one empty: 0. The consensus of two others is their intersection and is biased small.
    One pass over slabs. Raises InputError as `conformity_of_labels` does.
    """
    present = observers_of(label_maps, labels, contoured)
    # marked[r, k]: voxels marked by observer r and by k observers in all; V_k and every consensus follow from it.
    marked = {label: np.zeros((len(who), len(who) + 1), dtype=np.int64) for label, who in present.items()}
    for label, masks in marked_slabs(label_maps, present):
        count = marked_count(masks)
        for row, mask in zip(marked[label], masks, strict=True):
            row += np.bincount(count[mask], minlength=len(row))
    return [
        _row(label, observers, place, marked[label])
        for label, observers in present.items()
        for place in range(len(observers))
    ]


def disagreement(
    label_maps: Sequence[np.ndarray], contoured: Sequence[Collection[int]] | None = None
) -> np.ndarray:
    """Return the share of observer pairs whose labels differ, float32 of the maps' shape, 0 to 1.

    `contoured[n]` holds the labels that observer n contoured (None: all did). At a voxel where one of a pair
    drew a label that the other did not contour, the pair says nothing and does not count; where no pair
    counts, the share is 0. Raises InputError for fewer than two maps and as `conformity_of_labels` does.
    """
    if len(label_maps) < 2:
        raise InputError(f"expected at least two observers, got {len(label_maps)}.")
    observers_of(label_maps, (), contoured)
    share = np.zeros(label_maps[0].shape, dtype=np.float32)
    pairs = list(combinations(range(len(label_maps)), 2))
    for slab, where, values in foreground_slabs(label_maps):
        differing, counted = np.zeros((2, where.size), dtype=np.float32)
        for i, j in pairs:
            differ = values[i] != values[j]
            if contoured is not None:
                comparable = _drawn_by(values[i], contoured[j]) & _drawn_by(values[j], contoured[i])
                counted += comparable
                differ &= comparable
            differing += differ
        share[slab].reshape(-1)[where] = differing / (
            len(pairs) if contoured is None else np.maximum(counted, 1)
        )
    return share


@dataclass(frozen=True)
class _Claims:
    """Labels of some voxels while structures claim them one after the other, in ascending order of label."""

    labels: np.ndarray
    share: np.ndarray
    contested: np.ndarray
    tied: np.ndarray

    @classmethod
    def over(cls, labels: np.ndarray) -> _Claims:
        """Return claims on the voxels of an array of zeros, which they will fill."""
        share = np.zeros(labels.shape, dtype=np.float32)
        return cls(labels, share, np.zeros(labels.shape, dtype=bool), np.zeros(labels.shape, dtype=bool))

    def add(self, label: int, claimed: np.ndarray, part: tuple[slice, ...] = ()) -> None:
        """Give the label the voxels of a part that it claims with a larger share than those before."""
        share = self.share[part]
        clash = (claimed > 0) & (share > 0)
        wins = claimed > share
        self.contested[part] |= clash
        self.tied[part] |= clash & (claimed == share)
        self.tied[part] &= ~wins
        self.labels[part][wins] = label
        share[wins] = claimed[wins]

    def counts(self) -> tuple[int, int]:
        """Return how many voxels were claimed more than once, and how many of them at equal shares."""
        return int(np.count_nonzero(self.contested)), int(np.count_nonzero(self.tied))


def _count(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return how many masks mark each voxel. Raises InputError for no mask or different shapes."""
    if not len(masks):
        raise InputError("expected the mask of at least one observer, got none.")
    check_shapes(masks)
    return marked_count(masks)


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the slices of the smallest box around the True voxels of a mask that has some."""
    axes = range(mask.ndim)
    found = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(int(hit[0]), int(hit[-1]) + 1) for hit in found)


def _staple_in_box(masks: Sequence[np.ndarray]) -> tuple[np.ndarray, tuple[float, ...], tuple[float, ...]]:
    """Return probability, sensitivity and specificity on the box of the masks plus a voxel of background."""
    import SimpleITK

    images = [SimpleITK.GetImageFromArray(np.pad(mask.astype(np.uint8), 1)) for mask in masks]
    em = SimpleITK.STAPLEImageFilter()
    em.SetForegroundValue(1)
    em.SetMaximumIterations(_STAPLE_ITERATIONS)
    weights = em.Execute(images)  # a name, since a view does not keep its image alive
    probability = SimpleITK.GetArrayViewFromImage(weights)[1:-1, 1:-1, 1:-1].astype(np.float32)
    return probability, em.GetSensitivity(), em.GetSpecificity()


def _vote(label: int, values: Sequence[np.ndarray], rule: str) -> np.ndarray:
    """Return the share of the observers who gave each voxel the label, float32, 0 where the rule is not met."""
    count = marked_count([item == label for item in values])
    needed = len(values) if rule == "all" else len(values) // 2 + 1
    return np.where(count >= needed, count / np.float32(len(values)), np.float32(0))


def _staple_claim(label: int, label_maps: Sequence[np.ndarray]) -> tuple[tuple[slice, ...], np.ndarray]:
    """Return (box, probability in it, 0 where it is not above the threshold) of one label."""
    union = np.zeros(label_maps[0].shape, dtype=bool)
    for item in label_maps:
        union |= item == label
    if not union.any():
        return (slice(0, 0),) * union.ndim, np.zeros((0,) * union.ndim, dtype=np.float32)
    box = _box(union)
    probability, _, _ = _staple_in_box([item[box] == label for item in label_maps])
    return box, np.where(probability > STAPLE_THRESHOLD, probability, np.float32(0))


def _notes(present: dict[int, list[int]], contested: int, tied: int, rule: str) -> list[str]:
    """Return sentences on labels without or with few observers and on voxels claimed twice."""
    notes = [
        f"label {label}: no observer contoured it; left empty" for label in present if not present[label]
    ]
    notes += [
        f"label {label}: one observer contoured it; the consensus is that contour"
        for label in present
        if len(present[label]) == 1
    ]
    if contested:
        measure = "probability" if rule == "staple" else "share of its observers"
        notes.append(
            f"{contested} voxels were claimed by more than one structure; each went to the one with the larger "
            + measure
            + (f", {tied} at equal values to the lower label" if tied else "")
        )
    return notes


def _row(label: int, observers: list[int], place: int, marked: np.ndarray) -> dict:
    """Return one row of `leave_one_out`; `marked` is `(observers, k)` as described there."""
    n = len(observers)
    # Every voxel marked by k observers stands in k rows.
    by_count = marked.sum(axis=0) // np.maximum(np.arange(n + 1), 1)
    own = marked[place]
    without = by_count - own
    without[:-1] += own[1:]
    others = Conformity(n - 1, tuple(map(int, without[:n])))
    both = int(own[(n - 1) // 2 + 2 :].sum()) if n > 1 else 0
    voxels, consensus = int(own.sum()), others.majority_voxels if n > 1 else 0
    row = {
        "label": label,
        "observer": observers[place],
        "others": n - 1,
        "dsc": 2 * both / (voxels + consensus) if voxels + consensus else 1.0,
        "iou": both / (voxels + consensus - both) if voxels + consensus else 1.0,
        "voxels_observer": voxels,
        "voxels_others_consensus": consensus,
        "voxels_both": both,
        "cigen": Conformity(n, tuple(map(int, by_count))).cigen,
        "cigen_without": others.cigen,
    }
    undefined = {}
    if n == 1:
        keys = ("dsc", "iou", "voxels_others_consensus", "voxels_both", "cigen", "cigen_without")
        undefined = dict.fromkeys(keys, "nobody else contoured the structure")
    elif n == 2:
        undefined["cigen_without"] = "only one observer is left"
    for key in ("cigen", "cigen_without"):
        if key not in undefined and row[key] != row[key]:
            undefined[key] = "all masks are empty"
    return {**row, **dict.fromkeys(undefined), "undefined": undefined}


def _drawn_by(values: np.ndarray, contoured: Collection[int]) -> np.ndarray:
    """Return a bool array: whether each label is background or one that was contoured."""
    return np.isin(values, [0, *contoured])
