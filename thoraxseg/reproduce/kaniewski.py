"""Mouse MRI (Kaniewski et al. 2024): slice-wise IoU and F1 of lungs and tumors in four test mice.

Score and SD: the project's definitions, 8.3; paper against code: 3.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from thoraxseg import postprocess, preprocess
from thoraxseg.checkpoints import list_cards
from thoraxseg.checkpoints.card import Card
from thoraxseg.errors import OptionError
from thoraxseg.inference import Predictor
from thoraxseg.metrics import compare_labels
from thoraxseg.options import Contrast, Postprocess, SegmentOptions
from thoraxseg.progress import Progress, part
from thoraxseg.report import DataTable
from thoraxseg.reproduce.cells import Ours
from thoraxseg.reproduce.cohort import Scan, read_labels
from thoraxseg.reproduce.protocol import Found, Work, mean_cell, scores_of
from thoraxseg.reproduce.published import read_paper
from thoraxseg.reproduce.running import Model, check_names, look_at, over_scans
from thoraxseg.volume import Volume, reorient

STRUCTURES = {1: "lungs", 2: "tumors"}
CLASSES = {1: "Lungs", 2: "Tumors"}
RAW, POST = "raw", "post-processed"
PAPERS_CLEANUP = "deepmeta-mouse-mri"
"""The card with the post-processing of the paper, which it also gives to networks that have none of their own."""
KEYS = (
    *("f1_slice_mean", "iou_slice_mean", "f1_slice_sd", "iou_slice_sd", "slices"),
    *("f1_slice_positive_mean", "iou_slice_positive_mean", "slice_share_without_reference", "dsc", "iou"),
)
DIFFERENCES = (
    "The meaning of the paper's ± is not stated. Ours is the SD over scans of the means over their slices, "
    "ddof 1; the SD over all slices (ddof 0) and the SD of the scans' SDs are in the JSON.",
    "The paper's networks were trained on slices split at random after augmentation, so that copies of one "
    "mouse lay on "
    "both sides, and its U-Net3+, its losses and its weights differ from its text. What your checkpoints were "
    "trained on is not known here.",
    "Slices without the structure count as 1 where nothing was found. The share of such slices (the score of a "
    "network that finds nothing) and the mean over the other slices stand beside the tables.",
)
REPLICATED = (
    "--replicate: the reference was post-processed like the prediction for the post-processed columns, and "
    "nnU-Net saw the slices of the dark batch as they are, both as in the published code.",
    "--replicate does not: replace DeepMeta by the U-Net3+ of the published code, enhance stacks in three "
    "dimensions for tumor-3D, or divide by 255; the checkpoint's own preparation of images counts.",
)
NOT_REPLICATED = (
    "The published code also post-processed the reference before scoring; here it is left as it is "
    "(--replicate does both).",
    "The published code gave nnU-Net the slices of the dark batch as they are, its paper enhanced ones; here "
    "they are enhanced (--replicate leaves them).",
)


def run(work: Work) -> Found:
    """Return Tables 1 to 3 for the checkpoints: one that finds lungs and tumors is for Table 1, one that finds tumors
    for Table 3 where its name is a row of that, else for Table 2.

    Raises OptionError for a checkpoint that finds no tumors, and two for one row.
    """
    found = Found(differences=[*DIFFERENCES, *(REPLICATED if work.replicate else NOT_REPLICATED)])
    found.definitions = {
        "IoU, F1": "per slice along the first axis, both empty = 1, one empty = 0; mean over slices, then over "
        "scans",
        "±": "SD over scans of the means over slices, ddof 1",
    }
    models = [replace(model, table=table_of(model)) for model in work.models]
    for name, table in read_paper("kaniewski").tables.items():
        rows = list(dict.fromkeys(row[0] for row in table.rows))
        found.notes += check_names([model for model in models if model.table == name], rows)
    for index, model in enumerate(models):
        span = part(work.progress, index / len(models), (index + 1) / len(models))
        _add(model, model.table, work, found, span)
    found.tables.append(_beside(found))
    return found


def table_of(model: Model) -> str:
    """Return the table that a model belongs to, by what it finds; raises OptionError where it finds no tumors."""
    if "tumors" not in model.keys:
        raise OptionError(
            f"--checkpoint {model.name}: expected one that finds tumors (and lungs, for Table 1), it finds "
            f"{', '.join(sorted(model.keys))}."
        )
    if "lungs" in model.keys:
        return "Table 1"
    return "Table 3" if (model.name,) in read_paper("kaniewski").tables["Table 3"].rows else "Table 2"


def _add(model: Model, table: str, work: Work, found: Found, progress: Progress) -> None:
    """Score one model on all scans and add its rows and cells."""
    scans = work.cohort.scans
    variants = (RAW, POST) if table == "Table 1" else (RAW,)
    labels = [label for label, key in STRUCTURES.items() if key in model.keys]

    def score(scan: Scan, volume: Volume, predictor: Predictor, span: Progress) -> dict[str, dict[int, dict]]:
        return _scored(scan, volume, model, predictor, variants, labels, work, span)

    by_case = over_scans(model, scans, work.cohort, work.options, score, work.log, progress)
    for scan in scans:
        for variant in variants:
            for label in labels:
                row = by_case.get(scan.case, {}).get(variant, {}).get(label)
                about = {"case": scan.case, "animal": scan.animal, "model": model.name, "table": table}
                about |= {
                    "structure": CLASSES[label],
                    "variant": variant,
                    "status": "ok" if row else "failed",
                }
                found.rows.append(about | (scores_of(row, KEYS) if row else {}))
    for label in labels:
        for variant in variants:
            rows = [one[variant][label] for one in by_case.values()]
            for column, key in (("IoU", "iou"), ("F1", "f1")):
                name = f"{column} {variant}" if table == "Table 1" else column
                row = (model.name,) if table == "Table 3" else (model.name, CLASSES[label])
                why = work.why(
                    [scan.case for scan in scans], model.label, _reason(model, table, variant, work)
                )
                found.cells[(table, row, name)] = _cell(rows, key, why)


def _scored(
    scan: Scan,
    volume: Volume,
    model: Model,
    predictor: Predictor,
    variants: Sequence[str],
    labels: Sequence[int],
    work: Work,
    progress: Progress,
) -> dict[str, dict[int, dict]]:
    """Return the rows of `compare_labels` by variant and label."""
    reference, _ = read_labels(scan.references["1"], volume, STRUCTURES, work.cohort)
    own = bool(model.checkpoint.card.postprocess.rules)
    enhance = scan.dark and model.checkpoint.card.nnunet is not None and not work.replicate
    shown = enhanced(volume) if enhance else volume
    rows: dict[str, dict[int, dict]] = {}
    raw = None
    for variant in variants:
        if variant == RAW or own:
            wanted = Postprocess.NONE if variant == RAW else Postprocess.CHECKPOINT
            options = _options(work.options, wanted, scan.dark, model.checkpoint.card)
            look = look_at(shown, model, predictor, options, STRUCTURES, progress)
            work.log.add(model, scan, look)
            labeled = look.labels
            raw = labeled if variant == RAW else raw
        else:
            labeled = cleaned(raw, volume, scan.dark)
        truth = cleaned(reference, volume, scan.dark) if variant == POST and work.replicate else reference
        names = {label: CLASSES[label] for label in labels}
        rows[variant] = compare_labels(truth, labeled, names, volume.spacing_mm, distances=False)
    return rows


def _options(options: SegmentOptions, wanted: Postprocess, dark: bool | None, card: Card) -> SegmentOptions:
    """Return the options with the contrast rule of the scan, where the checkpoint has one."""
    if dark is None or all(step.name != "enhance_contrast" for step in card.preprocess):
        return replace(options, postprocess=wanted)
    return replace(options, postprocess=wanted, contrast=Contrast.ON if dark else Contrast.OFF)


def _prepared(volume: Volume, dark: bool | None) -> tuple[preprocess.Prepared, Card]:
    """Return the image as DeepMeta prepares it, on its own grid."""
    card = list_cards()[PAPERS_CLEANUP]
    card = replace(card, preprocess=tuple(step for step in card.preprocess if step.name != "resize_slices"))
    contrast = {None: Contrast.AUTO, True: Contrast.ON, False: Contrast.OFF}[dark]
    return preprocess.prepare([volume], card, contrast), card


def cleaned(labels: np.ndarray, volume: Volume, dark: bool | None) -> np.ndarray:
    """Return labels `(K, J, I)` after the post-processing of the paper, which is DeepMeta's."""
    prepared, card = _prepared(volume, dark)
    turned, _ = reorient(labels, volume.ijk_to_ras, prepared.orientation)
    done, _ = postprocess.clean_up(turned, prepared.image, prepared.ijk_to_ras, card.postprocess)
    return prepared.labels_on_source(done)


def enhanced(volume: Volume) -> Volume:
    """Return a dark stack with each slice contrast-enhanced (CLAHE), 0 to 255 as the training slices were stored."""
    prepared, _ = _prepared(volume, True)
    array = np.rint(255 * prepared.map_on_source(prepared.image)).astype(np.uint8)
    return replace(volume, array=array)


def _cell(rows: Sequence[Mapping[str, Any]], key: str, why: str) -> Ours:
    """Return the mean over scans with the other readings of its ± in the details."""
    means, sds = ([row[f"{key}_slice_{what}"] for row in rows] for what in ("mean", "sd"))
    positive = [row[f"{key}_slice_positive_mean"] for row in rows]
    stack = [row["dsc" if key == "f1" else "iou"] for row in rows]
    details: dict[str, Any] = {"sd_is": f"SD over {len(rows)} scans, ddof 1"}
    if rows:
        weights = np.array([row["slices"] for row in rows], dtype=float)
        squares = np.array(sds) ** 2 + np.array(means) ** 2
        overall = np.average(means, weights=weights)
        details |= {
            "mean_over_all_slices": float(overall),
            "sd_over_all_slices_ddof0": float(
                np.sqrt(max(np.average(squares, weights=weights) - overall**2, 0))
            ),
            "sd_of_scan_sds_ddof0": float(np.std(sds)),
            "slices": int(weights.sum()),
            "share_of_slices_without_reference": float(
                np.average([row["slice_share_without_reference"] for row in rows], weights=weights)
            ),
            "positive_slices_mean": mean_cell(positive).value,
            "stack_wise_mean": mean_cell(stack).value,
            "stack_wise_sd": mean_cell(stack).sd,
        }
    return mean_cell(means, why, **details)


def _reason(model: Model, table: str, variant: str, work: Work) -> str:
    """Return what sets a cell apart from the printed one."""
    reasons = []
    if table == "Table 1" and variant == POST and not work.replicate:
        reasons.append("the published code also post-processed the reference (--replicate)")
    if "nnU-Net" in model.name and not work.replicate:
        reasons.append("the published code gave nnU-Net dark slices as they are (--replicate)")
    if model.name == "DeepMeta" and model.checkpoint.card.architecture.name == "deepmeta":
        reasons.append(
            "the published code ran a U-Net3+ with 64 filters under this name, this is the true DeepMeta"
        )
    if table == "Table 3":
        reasons.append("whether the paper scored slices or stacks is not stated; ours are slices")
    return "; ".join(reasons)


def _beside(found: Found) -> DataTable:
    """Return what must be read beside the tables: empty slices, tumor-positive slices, stacks."""
    columns = [
        "Table",
        "Row",
        "Column",
        "Slices without it",
        "Positive slices",
        "Whole stacks",
        "SD over slices",
    ]
    rows = []
    for (table, row, column), ours in found.cells.items():
        if "slices" in ours.details:
            keys = (
                "share_of_slices_without_reference",
                "positive_slices_mean",
                "stack_wise_mean",
                "sd_over_all_slices_ddof0",
            )
            texts = ["–" if ours.details[key] is None else f"{ours.details[key]:.3f}" for key in keys]
            rows.append([table, " / ".join(row), column, *texts])
    note = "A network that finds nothing scores the share of slices without the structure."
    return DataTable("To be read beside the tables", columns, rows, [note])
