"""Every measure of agreement of one pair of label maps, structure by structure, with its definition beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from thoraxseg.errors import InputError, OptionError
from thoraxseg.metrics.lesions import match_label_lesions
from thoraxseg.metrics.overlap import NAN, Counts, check_label_maps, count_labels, slice_scores
from thoraxseg.metrics.regions import bounding_boxes
from thoraxseg.metrics.surface import SurfaceDistances, check_spacing, check_tolerance, label_distances

DISTANCES = (
    "msd_mm",
    "hd95_mm",
    "hd_mm",
    "assd_pooled_mm",
    "hd95_pooled_mm",
    "msd_to_prediction_mm",
    "msd_to_reference_mm",
    "hd95_to_prediction_mm",
    "hd95_to_reference_mm",
)
"""Keys of a row that are read off the surface distances; `nsd` is the other one."""

KEYS = (
    "label",
    "name",
    "dsc",
    "iou",
    "precision",
    "recall",
    "msd_mm",
    "hd95_mm",
    "hd_mm",
    "assd_pooled_mm",
    "hd95_pooled_mm",
    "volume_reference_mm3",
    "volume_prediction_mm3",
    "f1_slice_mean",
    "iou_slice_mean",
    "f1_slice_positive_mean",
    "iou_slice_positive_mean",
    "undefined",
    "f1",
    "volume_difference_mm3",
    "volume_difference_percent",
    "nsd",
    "nsd_tolerance_mm",
    "msd_to_prediction_mm",
    "msd_to_reference_mm",
    "hd95_to_prediction_mm",
    "hd95_to_reference_mm",
    "f1_slice_sd",
    "iou_slice_sd",
    "slices",
    "slices_with_reference",
    "slice_share_without_reference",
    "voxels_reference",
    "voxels_prediction",
    "voxels_both",
    "flags",
    "lesions",
)
"""Keys of a row in their order; other programs read the first eighteen."""

DEFINITIONS: dict[str, str] = {
    "label": "Value of the structure in the label maps.",
    "name": "Name of the structure.",
    "dsc": (
        "Dice: 2 TP / (2 TP + FP + FN), in voxels of the whole stack; 1 where both masks are empty (or undefined, if "
        "asked for), 0 where exactly one is."
    ),
    "iou": "Jaccard: TP / (TP + FP + FN), in voxels of the whole stack; empty masks as for dsc.",
    "precision": "TP / (TP + FP), in voxels; undefined where the prediction is empty.",
    "recall": "TP / (TP + FN), in voxels; undefined where the reference is empty.",
    "msd_mm": (
        "Mean surface distance: mean of the two directed means over surface voxels (foreground with a background face "
        "neighbor, the image's outside being background), center to center in mm; undefined where a mask is empty. "
        "MedPy (assd) and MONAI (symmetric=True) pool both lists instead: see assd_pooled_mm; MONAI's default is one "
        "direction; area-weighted tools give other values."
    ),
    "hd95_mm": (
        "95 % Hausdorff distance: larger of the two directed 95th percentiles over surface voxels, linear "
        "interpolation, in mm; undefined where a mask is empty. The same in MONAI; MedPy pools (hd95_pooled_mm); "
        "plastimatch and SlicerRT average both directions."
    ),
    "hd_mm": "Hausdorff distance: the largest distance from a surface voxel of one mask to the other surface, in mm.",
    "assd_pooled_mm": (
        "Mean over the surface distances of both directions joined, in mm, as MedPy's assd and MONAI's symmetric mean."
    ),
    "hd95_pooled_mm": (
        "95th percentile of the surface distances of both directions joined, in mm, as MedPy's hd95."
    ),
    "volume_reference_mm3": "Voxels of the reference times the voxel volume.",
    "volume_prediction_mm3": "Voxels of the prediction times the voxel volume.",
    "f1_slice_mean": (
        "Mean over all slices of the slice's F1; a slice where both masks are empty counts as 1, where exactly one is "
        "as 0. Read it beside slice_share_without_reference."
    ),
    "iou_slice_mean": "Mean over all slices of the slice's IoU; empty slices as for f1_slice_mean.",
    "f1_slice_positive_mean": (
        "Mean of F1 over the slices whose reference holds the structure; undefined where none does."
    ),
    "iou_slice_positive_mean": (
        "Mean of IoU over the slices whose reference holds the structure; undefined where none does."
    ),
    "undefined": "Why a number is missing, by key.",
    "f1": "The same number as dsc, under the name that the mouse MRI paper uses.",
    "volume_difference_mm3": "Prediction minus reference.",
    "volume_difference_percent": (
        "Prediction minus reference, in percent of the reference; undefined where the reference is empty."
    ),
    "nsd": (
        "Normalized surface Dice: share of the surface voxels of both masks that lie within nsd_tolerance_mm of the "
        "other surface (a distance of exactly the tolerance is within); undefined where a mask is empty. The same in "
        "MONAI by default; DeepMind's surface-distance weights by area."
    ),
    "nsd_tolerance_mm": "Tolerance of nsd; the largest voxel spacing unless chosen.",
    "msd_to_prediction_mm": (
        "Mean distance from the reference's surface voxels to the prediction's surface, in mm, as MedPy's "
        "asd(reference, prediction)."
    ),
    "msd_to_reference_mm": (
        "Mean distance from the prediction's surface voxels to the reference's surface, in mm, as MedPy's "
        "asd(prediction, reference)."
    ),
    "hd95_to_prediction_mm": "95th percentile of the distances from the reference's surface to the prediction's.",
    "hd95_to_reference_mm": "95th percentile of the distances from the prediction's surface to the reference's.",
    "f1_slice_sd": "SD of F1 over all slices, ddof 0.",
    "iou_slice_sd": "SD of IoU over all slices, ddof 0.",
    "slices": "Slices of the scan along the slice axis.",
    "slices_with_reference": "Slices whose reference holds the structure.",
    "slice_share_without_reference": (
        "Share of slices whose reference does not hold the structure: the f1_slice_mean of an empty prediction."
    ),
    "voxels_reference": "Voxels of the reference.",
    "voxels_prediction": "Voxels of the prediction.",
    "voxels_both": "Voxels of both (TP).",
    "flags": "Conventions that decided a number of this row.",
    "lesions": (
        "Connected components of both masks (18-connected) matched one to one, largest IoU first, where they share a "
        "voxel: matched, missed and false lesions, precision, recall and F1 of lesions, DSC of each and their mean "
        "(mean_dice_reference counts a missed lesion as 0); touched counts lesions that share a voxel with any other. "
        "Null where not asked for."
    ),
}
"""What each key of a row holds, in words; goes into every report."""


def compare_labels(
    reference: np.ndarray,
    prediction: np.ndarray,
    labels: Mapping[int, str],
    spacing_mm: Sequence[float],
    *,
    tolerance_mm: float | None = None,
    slice_axis: int = 0,
    lesions: Collection[int] = (),
    empty_both: str = "one",
    distances: bool = True,
    voxel_mm3: float | None = None,
) -> dict[int, dict[str, Any]]:
    """Return for each label a row with the keys of `KEYS`, as `DEFINITIONS` says them.

    Takes two integer label maps `(K, J, I)` on one grid; `labels` gives the values to compare and their names;
    `spacing_mm` is the voxel size along k, j, i and `voxel_mm3` the voxel volume where it is not their product
    (oblique grids). Undefined numbers are None with a reason under `undefined`, never nan or infinite.

    `tolerance_mm` of the surface Dice is the largest spacing by default; `slice_axis` is the axis whose slices are
    scored one by one; `lesions` are the labels whose components are matched; `empty_both` is "one" (two empty masks
    agree) or "undefined"; without `distances` those are left out, with that reason.

    Raises InputError for maps that are not integer, not three-dimensional or of different shape, and for a spacing
    or volume that is not positive; OptionError for a value outside those named here.
    """
    check_label_maps(reference, prediction)
    labels = {int(label): name for label, name in labels.items()}
    spacing = check_spacing(spacing_mm)
    volume = float(np.prod(spacing)) if voxel_mm3 is None else float(voxel_mm3)
    tolerance = float(spacing.max()) if tolerance_mm is None else float(tolerance_mm)
    check_tolerance(tolerance)
    _check_options(labels, lesions, slice_axis, empty_both, volume)
    # Arrays are walked in the order in which they lie in memory, Fortran's as well as C's.
    order = sorted(range(3), key=lambda axis: -abs(reference.strides[axis]))
    maps = (reference.transpose(order), prediction.transpose(order))
    counts = count_labels(*maps, labels, order.index(slice_axis))
    boxes = [bounding_boxes(each, labels) for each in maps] if distances else None
    rows = {}
    for label, name in labels.items():
        total = Counts(*counts[label].sum(axis=0).tolist())
        scores = _overlap(total, empty_both, volume) | _slice_wise(counts[label])
        if distances:
            pair = (boxes[0][label], boxes[1][label])
            scores |= _distances(label_distances(*maps, label, spacing[order], pair), tolerance)
        else:
            scores |= dict.fromkeys((*DISTANCES, "nsd"), NAN)
        found = match_label_lesions(*maps, label, volume).to_dict() if label in lesions else None
        rest = {"label": label, "name": name, "nsd_tolerance_mm": tolerance, "lesions": found}
        rows[label] = _row(scores | rest, total, distances)
    return rows


def _check_options(
    labels: Mapping[int, str], lesions: Collection[int], slice_axis: int, empty_both: str, voxel_mm3: float
) -> None:
    unknown = sorted(set(lesions) - set(labels))
    if unknown:
        raise OptionError(f"lesions: expected labels among {sorted(labels)}, got {unknown}.")
    if slice_axis not in (0, 1, 2):
        raise OptionError(f"slice_axis: expected 0, 1 or 2 (k, j, i), got {slice_axis!r}.")
    if empty_both not in ("one", "undefined"):
        raise OptionError(f"empty_both: expected 'one' or 'undefined', got {empty_both!r}.")
    if not (np.isfinite(voxel_mm3) and voxel_mm3 > 0):
        raise InputError(f"voxel_mm3: expected a positive volume in mm3, got {voxel_mm3!r}.")


def _overlap(total: Counts, empty_both: str, voxel_mm3: float) -> dict[str, Any]:
    same = NAN if empty_both == "undefined" and not total.union else 1.0
    difference = total.prediction - total.reference
    return {
        "dsc": total.dsc * same,
        "f1": total.f1 * same,
        "iou": total.iou * same,
        "precision": total.precision,
        "recall": total.recall,
        "volume_reference_mm3": total.reference * voxel_mm3,
        "volume_prediction_mm3": total.prediction * voxel_mm3,
        "volume_difference_mm3": difference * voxel_mm3,
        "volume_difference_percent": 100 * difference / total.reference if total.reference else NAN,
        "voxels_reference": total.reference,
        "voxels_prediction": total.prediction,
        "voxels_both": total.tp,
    }


def _slice_wise(counts: np.ndarray) -> dict[str, Any]:
    scores = slice_scores(counts)
    return {
        "f1_slice_mean": scores.f1_mean,
        "iou_slice_mean": scores.iou_mean,
        "f1_slice_positive_mean": scores.f1_positive_mean,
        "iou_slice_positive_mean": scores.iou_positive_mean,
        "f1_slice_sd": scores.f1_sd,
        "iou_slice_sd": scores.iou_sd,
        "slices": scores.slices,
        "slices_with_reference": scores.positive_slices,
        "slice_share_without_reference": scores.empty_fraction,
    }


def _distances(found: SurfaceDistances, tolerance_mm: float) -> dict[str, float]:
    return {key: getattr(found, key) for key in DISTANCES} | {"nsd": found.nsd(tolerance_mm)}


def _row(values: dict[str, Any], total: Counts, distances: bool) -> dict[str, Any]:
    """Return the row in the order of `KEYS`: nan becomes None, with the reason why."""
    empty = _which_empty(total)
    reasons = {
        "precision": "the prediction is empty",
        "recall": "the reference is empty",
        "volume_difference_percent": "the reference is empty",
        "f1_slice_positive_mean": "no slice of the reference holds the structure",
        "iou_slice_positive_mean": "no slice of the reference holds the structure",
    }
    if not distances:
        reasons |= dict.fromkeys((*DISTANCES, "nsd"), "surface distances were not asked for")
    missing = [key for key in KEYS if isinstance(values.get(key), float) and np.isnan(values[key])]
    undefined = {key: reasons.get(key, empty) for key in missing}
    flags = []
    if not total.union and "dsc" not in undefined:
        flags.append("both masks are empty: DSC, IoU and F1 count as 1")
    elif total.union and empty:
        flags.append(f"{empty} and the other mask is not: DSC, IoU and F1 count as 0")
    values = values | dict.fromkeys(missing) | {"undefined": undefined, "flags": flags}
    return {key: values[key] for key in KEYS}


def _which_empty(total: Counts) -> str:
    if not total.union:
        return "both masks are empty"
    if not total.reference:
        return "the reference is empty"
    return "" if total.prediction else "the prediction is empty"
