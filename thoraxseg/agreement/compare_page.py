"""The comparison of two masks -> tables and figures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from thoraxseg.agreement.matching import Matched
from thoraxseg.agreement.measuring import AXES, Measuring
from thoraxseg.agreement.words import MM3, fixed, whys
from thoraxseg.metrics import count_labels
from thoraxseg.report import DataTable, Section, printable
from thoraxseg.report.montage import disagreement_montage
from thoraxseg.report.plots import box_plots


def compare_sections(rows: Sequence[Mapping[str, Any]], matched: Matched, how: Measuring) -> list[Section]:
    """Return the page of a comparison; its first section is what a terminal shows."""
    tables = [_scores_table(rows), _volumes_table(rows), _slices_table(rows, how)]
    montage = disagreement_montage(
        matched.maps,
        matched.roles,
        matched.structures,
        matched.ijk_to_ras,
        sides_assumed=matched.is_assumed,
        who="masks",
    )
    slices = box_plots(_slice_scores(matched, how), "F1 per slice", "")
    sections = [
        Section("Agreement", tables=tables[:2]),
        Section("Where they differ", pictures=[montage]),
        Section("Slice by slice", tables=tables[2:], pictures=[slices]),
    ]
    if lesions := [row for row in rows if row["lesions"]]:
        sections.insert(1, Section("Lesions", tables=_lesion_tables(lesions)))
    return sections


def _scores_table(rows: Sequence[Mapping[str, Any]]) -> DataTable:
    """Return overlap and distances of every structure, and why a number is missing."""
    columns = ["Structure", "DSC", "IoU", "Prec.", "Recall", "MSD mm", "HD95 mm", "HD mm", "Surface Dice"]
    keys = (
        ("dsc", 3),
        ("iou", 3),
        ("precision", 3),
        ("recall", 3),
        ("msd_mm", 3),
        ("hd95_mm", 2),
        ("hd_mm", 2),
        ("nsd", 3),
    )
    cells = [[row["name"], *(fixed(row[key], digits) for key, digits in keys)] for row in rows]
    notes = []
    for row in rows:
        notes += [f"{row['name']}: {flag}" for flag in row["flags"]]
        notes += _why_not([row], dict(keys))
    tolerances = {row["nsd_tolerance_mm"] for row in rows}
    notes.append(f"Surface Dice at a tolerance of {', '.join(f'{one:g}' for one in sorted(tolerances))} mm.")
    return DataTable("Overlap and surface distances", columns, cells, notes)


def _volumes_table(rows: Sequence[Mapping[str, Any]]) -> DataTable:
    """Return the volumes of every structure and their difference."""
    columns = ["Structure", f"Reference {MM3}", f"Prediction {MM3}", f"Difference {MM3}", "Difference %"]
    keys = (("volume_reference_mm3", 3), ("volume_prediction_mm3", 3), ("volume_difference_mm3", 3))
    cells = [
        [
            row["name"],
            *(fixed(row[key], digits) for key, digits in keys),
            fixed(row["volume_difference_percent"], 1),
        ]
        for row in rows
    ]
    return DataTable("Volumes", columns, cells, _why_not(rows, ("volume_difference_percent",)))


def _slices_table(rows: Sequence[Mapping[str, Any]], how: Measuring) -> DataTable:
    columns = [
        "Structure",
        "F1, all slices",
        "IoU, all slices",
        "F1, positive slices",
        "IoU, positive slices",
        "Slices",
        "Positive",
        "F1 of an empty answer",
    ]
    keys = ("f1_slice_mean", "iou_slice_mean", "f1_slice_positive_mean", "iou_slice_positive_mean")
    cells = [
        [
            row["name"],
            *(fixed(row[key], 3) for key in keys),
            str(row["slices"]),
            str(row["slices_with_reference"]),
            fixed(row["slice_share_without_reference"], 3),
        ]
        for row in rows
    ]
    notes = [
        f"Slices along {how.slice_axis} of the reference's file. Positive: the reference holds the structure."
    ]
    return DataTable("Means over slices", columns, cells, [*notes, *_why_not(rows, keys)])


def _why_not(rows: Sequence[Mapping[str, Any]], keys: Collection[str]) -> list[str]:
    """Return why some numbers of a table are missing."""
    return [f"{row['name']}: {text}" for row in rows for text in whys(row["undefined"], keys)]


def _slice_scores(matched: Matched, how: Measuring) -> dict[str, dict[str, list[float]]]:
    counts = count_labels(*matched.maps, list(matched.structures), AXES[how.slice_axis])
    found: dict[str, dict[str, list[float]]] = {}
    for label, structure in matched.structures.items():
        tp, fp, fn = counts[label].T.astype(float)
        positive = tp + fn > 0
        found[printable(structure.name)] = {"": (2 * tp / np.maximum(2 * tp + fp + fn, 1))[positive].tolist()}
    return found


def _lesion_tables(rows: Sequence[Mapping[str, Any]]) -> list[DataTable]:
    tables = []
    for row in rows:
        found = row["lesions"]
        summary = [
            [
                str(found[key]) if isinstance(found[key], int) else fixed(found[key], 3)
                for key in _LESION_COLUMNS
            ]
        ]
        title, why = f"{row['name']}: lesions found", whys(found["undefined"], _LESION_COLUMNS)
        tables.append(DataTable(title, list(_LESION_COLUMNS.values()), summary, why))
    return tables


_LESION_COLUMNS = {
    "reference_lesions": "In the reference",
    "prediction_lesions": "In the prediction",
    "matched": "Matched",
    "missed": "Missed",
    "false": "False",
    "precision": "Precision",
    "recall": "Recall",
    "mean_dice_matched": "Mean DSC, matched",
    "mean_dice_reference": "Mean DSC, all of the reference",
}
