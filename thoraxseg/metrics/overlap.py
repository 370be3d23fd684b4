"""Overlap of two segmentations, counted in voxels: of whole masks, of every label, and slice by slice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from thoraxseg.errors import InputError, OptionError

NAN = float("nan")


@dataclass(frozen=True)
class Counts:
    """Voxels of one structure in two masks: in both (tp), in the prediction only (fp), in the reference only (fn).

    The scores are ratios of whole numbers from 0 to 1. Two empty masks agree (DSC, IoU and F1 are 1), one empty
    mask does not (0); precision is nan where the prediction is empty, recall where the reference is.
    """

    tp: int
    fp: int
    fn: int

    @property
    def reference(self) -> int:
        """Voxels of the reference."""
        return self.tp + self.fn

    @property
    def prediction(self) -> int:
        """Voxels of the prediction."""
        return self.tp + self.fp

    @property
    def union(self) -> int:
        """Voxels in at least one of the two."""
        return self.tp + self.fp + self.fn

    @property
    def dsc(self) -> float:
        """2 TP / (2 TP + FP + FN). Source: Dice 1945."""
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.union else 1.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall: the same number as the DSC."""
        return self.dsc

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN). Source: Jaccard 1901."""
        return self.tp / self.union if self.union else 1.0

    @property
    def precision(self) -> float:
        """TP / (TP + FP): the share of the prediction that is right; nan where the prediction is empty."""
        return self.tp / self.prediction if self.prediction else NAN

    @property
    def recall(self) -> float:
        """TP / (TP + FN): the share of the reference that was found; nan where the reference is empty."""
        return self.tp / self.reference if self.reference else NAN


def count(reference: np.ndarray, prediction: np.ndarray) -> Counts:
    """Return the counts of two bool masks of one shape.

    Raises InputError for masks of different shape (they are never broadcast) or of another type than bool.
    """
    _check_shapes(reference, prediction, "masks")
    for name, mask in (("reference", reference), ("prediction", prediction)):
        if mask.dtype != bool:
            raise InputError(
                f"{name}: expected a mask of type bool, got {mask.dtype}. Name the label: labels == value."
            )
    both = int(np.count_nonzero(reference & prediction))
    return Counts(both, int(np.count_nonzero(prediction)) - both, int(np.count_nonzero(reference)) - both)


def dice(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Return 2 TP / (2 TP + FP + FN) of two bool masks of one shape; the order does not matter.

    Two empty masks agree (1); one empty mask does not (0). Source: Dice 1945. Raises InputError as `count` does.
    """
    return count(reference, prediction).dsc


def iou(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Return TP / (TP + FP + FN) of two bool masks of one shape; the order does not matter.

    Two empty masks agree (1); one empty mask does not (0). Source: Jaccard 1901. Raises InputError as `count` does.
    """
    return count(reference, prediction).iou


def precision(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Return TP / (TP + FP), the share of the predicted voxels that are right; nan for an empty prediction.

    Takes two bool masks of one shape. Raises InputError as `count` does.
    """
    return count(reference, prediction).precision


def recall(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Return TP / (TP + FN), the share of the reference's voxels that were found; nan for an empty reference.

    Takes two bool masks of one shape. Raises InputError as `count` does.
    """
    return count(reference, prediction).recall


def count_labels(
    reference: np.ndarray, prediction: np.ndarray, labels: Iterable[int], slice_axis: int = 0
) -> dict[int, np.ndarray]:
    """Return for each label the int64 counts `(slices, 3)`: TP, FP, FN in every slice along `slice_axis`.

    Takes two integer label maps `(K, J, I)`. The sum over slices is the count of the whole stack. Both maps are
    read once, a slice of k at a time: its masks stay in the processor's cache, nothing of the volume's size is
    made, and any label value of any integer type will do. Raises InputError for maps of different shape or of
    another kind than integer, OptionError for an axis other than 0, 1, 2.
    """
    check_label_maps(reference, prediction)
    if slice_axis not in (0, 1, 2):
        raise OptionError(f"slice_axis: expected 0, 1 or 2 (k, j, i), got {slice_axis!r}.")
    counts = {int(label): np.zeros((reference.shape[slice_axis], 3), np.int64) for label in labels}
    for k, (slice_reference, slice_prediction) in enumerate(zip(reference, prediction, strict=True)):
        for label, found in counts.items():
            in_reference = slice_reference == label
            in_prediction = slice_prediction == label
            both = in_reference & in_prediction
            if slice_axis == 0:
                tp = np.count_nonzero(both)
                fp = np.count_nonzero(in_prediction) - tp
                found[k] = tp, fp, np.count_nonzero(in_reference) - tp
            else:  # the other axis of the slice is summed
                tp = np.count_nonzero(both, axis=2 - slice_axis)
                fp = np.count_nonzero(in_prediction, axis=2 - slice_axis) - tp
                fn = np.count_nonzero(in_reference, axis=2 - slice_axis) - tp
                found += np.stack([tp, fp, fn], axis=1)
    return counts


@dataclass(frozen=True)
class SliceScores:
    """F1 and IoU of one structure over the slices of one scan, as the mouse MRI paper counts them.

    A slice where both masks are empty counts as 1, a slice where exactly one is empty as 0. Positive slices are
    those whose reference holds the structure; without any, their means are nan. SDs are over slices, ddof 0.
    """

    f1_mean: float
    iou_mean: float
    f1_sd: float
    iou_sd: float
    f1_positive_mean: float
    iou_positive_mean: float
    slices: int
    positive_slices: int
    empty_fraction: float
    """Share of slices whose reference is empty: what a prediction without any voxel would score."""


def slice_scores(counts_per_slice: np.ndarray) -> SliceScores:
    """Return the slice-wise scores of int counts `(slices, 3)` of TP, FP, FN, as `count_labels` gives them.

    Source: Kaniewski et al. 2024, published evaluation scripts. Raises InputError where there is no slice.
    """
    if len(counts_per_slice) == 0:
        raise InputError("expected counts of at least one slice, got none.")
    tp, fp, fn = np.asarray(counts_per_slice).T
    union = tp + fp + fn
    f1 = np.where(union == 0, 1.0, 2 * tp / np.maximum(union + tp, 1))
    jaccard = np.where(union == 0, 1.0, tp / np.maximum(union, 1))
    positive = tp + fn > 0
    return SliceScores(
        f1_mean=float(f1.mean()),
        iou_mean=float(jaccard.mean()),
        f1_sd=float(f1.std()),
        iou_sd=float(jaccard.std()),
        f1_positive_mean=float(f1[positive].mean()) if positive.any() else NAN,
        iou_positive_mean=float(jaccard[positive].mean()) if positive.any() else NAN,
        slices=len(union),
        positive_slices=int(positive.sum()),
        empty_fraction=float((~positive).mean()),
    )


def check_label_maps(reference: np.ndarray, prediction: np.ndarray) -> None:
    """Raise InputError unless both are integer label maps `(K, J, I)` of one shape with at least one voxel."""
    _check_shapes(reference, prediction, "label maps")
    for name, labels in (("reference", reference), ("prediction", prediction)):
        if labels.ndim != 3 or labels.dtype.kind not in "iub" or labels.size == 0:
            raise InputError(
                f"{name}: expected an integer label map (K, J, I), got shape {labels.shape} of type {labels.dtype}."
            )


def _check_shapes(reference: np.ndarray, prediction: np.ndarray, kind: str) -> None:
    if reference.shape != prediction.shape:
        raise InputError(
            f"expected {kind} of one shape, got {reference.shape} and {prediction.shape}. Resample one of them first."
        )
