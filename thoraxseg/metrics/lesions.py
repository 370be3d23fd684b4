"""Tumors found one by one: which reference lesions were found, which were missed, which were invented.

1. Lesions are connected components, 18-connected unless told otherwise (voxels that share a face or an edge), of
   the reference and of the prediction, numbered from the largest.
2. A predicted and a reference lesion can match when they share at least one voxel and their IoU is at least
   `min_iou`. Matches are one to one, best first: of all pairs left, the one with the largest IoU is matched, until
   none is left. Best first rather than the best total, because a clearly matching pair then is never given up
   for two poor ones, the rule can be checked by eye, and no table of all pairs is made. From an IoU of 0.5 on there is
   at most one partner, and all such rules agree.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from thoraxseg.errors import InputError, OptionError
from thoraxseg.metrics.overlap import NAN
from thoraxseg.metrics.regions import bounding_boxes, union_box
from thoraxseg.segmentation import neighborhood


@dataclass(frozen=True)
class Lesion:
    """One connected component; number 1 is the largest of its mask."""

    number: int
    voxels: int
    volume_mm3: float
    match: int | None
    """Number of the lesion of the other mask that it is matched with; None where there is none."""
    dice: float
    """DSC with its match; 0 without one."""
    iou: float
    """IoU with its match; 0 without one."""
    touches: bool
    """True where it shares a voxel with any lesion of the other mask, matched or not."""


@dataclass(frozen=True)
class Lesions:
    """The lesions of two masks and how they match. Ratios are nan where there is nothing to divide by."""

    connectivity: int
    min_iou: float
    reference: tuple[Lesion, ...]
    prediction: tuple[Lesion, ...]

    @property
    def matched(self) -> int:
        """Pairs of one reference and one predicted lesion."""
        return sum(lesion.match is not None for lesion in self.reference)

    @property
    def missed(self) -> int:
        """Reference lesions without a match."""
        return len(self.reference) - self.matched

    @property
    def false(self) -> int:
        """Predicted lesions without a match."""
        return len(self.prediction) - self.matched

    @property
    def precision(self) -> float:
        """Matched / predicted lesions; nan where none is predicted."""
        return self.matched / len(self.prediction) if self.prediction else NAN

    @property
    def recall(self) -> float:
        """Matched / reference lesions; nan where the reference has none."""
        return self.matched / len(self.reference) if self.reference else NAN

    @property
    def f1(self) -> float:
        """2 matched / (reference + predicted lesions); nan where there is none at all, 0 where one side has none."""
        total = len(self.reference) + len(self.prediction)
        return 2 * self.matched / total if total else NAN

    @property
    def mean_dice_matched(self) -> float:
        """Mean DSC over matched pairs; nan where nothing matches."""
        found = [lesion.dice for lesion in self.reference if lesion.match is not None]
        return float(np.mean(found)) if found else NAN

    @property
    def mean_dice_reference(self) -> float:
        """Mean DSC over all reference lesions, a missed one counting 0; nan where the reference has none."""
        return float(np.mean([lesion.dice for lesion in self.reference])) if self.reference else NAN

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON: counts, ratios (None with a reason under `undefined`) and both lists."""
        ratios = {
            "precision": (self.precision, "no lesion is predicted"),
            "recall": (self.recall, "the reference has no lesion"),
            "f1": (self.f1, "neither mask has a lesion"),
            "mean_dice_matched": (self.mean_dice_matched, "no lesion is matched"),
            "mean_dice_reference": (self.mean_dice_reference, "the reference has no lesion"),
        }
        return {
            "reference_lesions": len(self.reference),
            "prediction_lesions": len(self.prediction),
            "matched": self.matched,
            "missed": self.missed,
            "false": self.false,
            "reference_touched": sum(lesion.touches for lesion in self.reference),
            "prediction_touched": sum(lesion.touches for lesion in self.prediction),
            **{key: None if np.isnan(value) else value for key, (value, _) in ratios.items()},
            "undefined": {key: why for key, (value, why) in ratios.items() if np.isnan(value)},
            "connectivity": self.connectivity,
            "min_iou": self.min_iou,
            "reference": [asdict(lesion) for lesion in self.reference],
            "prediction": [asdict(lesion) for lesion in self.prediction],
        }


def match_lesions(
    reference: np.ndarray,
    prediction: np.ndarray,
    voxel_mm3: float,
    connectivity: int = 18,
    min_iou: float = 0.0,
) -> Lesions:
    """Return the lesions of two bool masks `(K, J, I)` of one shape, matched by the rule of this file.

    `voxel_mm3` is the volume of a voxel. An empty mask has no lesions. Raises InputError for masks of different
    shape, other than three axes or another type than bool, OptionError for a connectivity other than 6, 18 or 26
    or a `min_iou` outside 0 to 1.
    """
    for name, mask in (("reference", reference), ("prediction", prediction)):
        if mask.ndim != 3 or mask.dtype != bool or mask.shape != reference.shape:
            raise InputError(
                f"{name}: expected a bool mask (K, J, I) of the reference's shape {reference.shape}, got shape "
                f"{mask.shape} of type {mask.dtype}."
            )
    return match_label_lesions(reference, prediction, True, voxel_mm3, connectivity, min_iou)


def match_label_lesions(
    reference: np.ndarray,
    prediction: np.ndarray,
    label: int,
    voxel_mm3: float,
    connectivity: int = 18,
    min_iou: float = 0.0,
) -> Lesions:
    """Return the lesions of one label in two label maps `(K, J, I)`, as `match_lesions` does for masks."""
    from scipy.sparse import coo_array

    structure = neighborhood(connectivity)
    if not 0 <= min_iou <= 1:
        raise OptionError(f"min_iou: expected 0 to 1, got {min_iou!r}.")
    box = union_box(*(bounding_boxes(labels, [label])[int(label)] for labels in (reference, prediction)))
    if box is None:
        return Lesions(connectivity, min_iou, (), ())
    places, numbers, sizes = zip(
        *(_components(labels[box] == label, structure) for labels in (reference, prediction)), strict=True
    )
    _, first, second = np.intersect1d(*places, assume_unique=True, return_indices=True)
    both = (numbers[0][first], numbers[1][second])
    shape = (len(sizes[0]) + 1, len(sizes[1]) + 1)  # one more than needed: neither may be 0
    table = coo_array((np.ones(len(first), np.int64), both), shape).tocsr().tocoo()
    pairs, shared = np.stack([table.row, table.col]), table.data
    matches = _best_first(pairs, shared, sizes, min_iou)
    return Lesions(
        connectivity,
        min_iou,
        _lesions(sizes[0], pairs[0], {r: (p, n, sizes[1][p]) for r, p, n in matches}, voxel_mm3),
        _lesions(sizes[1], pairs[1], {p: (r, n, sizes[0][r]) for r, p, n in matches}, voxel_mm3),
    )


def _components(mask: np.ndarray, structure: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return flat places `(N,)` of the voxels of a mask, the component (0 = largest) of each, and all sizes."""
    from scipy.ndimage import label

    # The result is the largest thing in memory. There are never more components than runs of voxels along i.
    runs = sum(np.count_nonzero(k[:, 1:] > k[:, :-1]) + np.count_nonzero(k[:, 0]) for k in mask)
    components, count = label(mask, structure, output=np.uint16 if runs < 65_000 else np.int32)
    places = np.flatnonzero(mask)
    numbers = components.ravel()[places].astype(np.int64) - 1
    sizes = np.bincount(numbers, minlength=count)
    order = np.argsort(-sizes, kind="stable")  # equal ones stay in the order of the array
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    return places, rank[numbers], sizes[order]


def _best_first(
    pairs: np.ndarray, shared: np.ndarray, sizes: tuple[np.ndarray, np.ndarray], min_iou: float
) -> list[tuple[int, int, int]]:
    """Return (reference, prediction, shared voxels) of the matches: largest IoU first, then largest overlap."""
    iou = shared / (sizes[0][pairs[0]] + sizes[1][pairs[1]] - shared)
    taken: tuple[set[int], set[int]] = (set(), set())
    matches = []
    for n in np.lexsort((pairs[1], pairs[0], -shared, -iou)):
        r, p = int(pairs[0][n]), int(pairs[1][n])
        if iou[n] >= min_iou and r not in taken[0] and p not in taken[1]:
            taken[0].add(r)
            taken[1].add(p)
            matches.append((r, p, int(shared[n])))
    return matches


def _lesions(
    sizes: np.ndarray, touching: np.ndarray, matches: dict[int, tuple[int, int, int]], voxel_mm3: float
) -> tuple[Lesion, ...]:
    touched = set(touching.tolist())
    found = []
    for n, voxels in enumerate(sizes.tolist()):
        partner, shared, other = matches.get(n, (None, 0, 0))
        found.append(
            Lesion(
                number=n + 1,
                voxels=voxels,
                volume_mm3=voxels * voxel_mm3,
                match=None if partner is None else partner + 1,
                dice=float(2 * shared / (voxels + other)),
                iou=float(shared / (voxels + other - shared)),
                touches=n in touched,
            )
        )
    return tuple(found)
