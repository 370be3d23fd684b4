"""Human CT (RRc-UNet 3D): Dice, IoU and F1 of the tumor, and of background, lung and tumor together.

What is inconsistent in the printed numbers: the project's definitions, 6.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from thoraxseg.errors import OptionError
from thoraxseg.inference import Predictor
from thoraxseg.metrics import Counts, compare_labels, count
from thoraxseg.options import Postprocess
from thoraxseg.progress import Progress, part
from thoraxseg.reproduce.cells import Key, Ours
from thoraxseg.reproduce.cohort import Scan, read_labels
from thoraxseg.reproduce.protocol import Found, Work, mean_cell, scores_of
from thoraxseg.reproduce.published import read_paper
from thoraxseg.reproduce.running import Model, check_names, look_at, over_scans
from thoraxseg.volume import Volume

STRUCTURES = {1: "lungs", 2: "tumors"}
TUMOR = 2
SAME = ("RRc-UNet 3D", "RRc block")
"""The network is called so in Tables 3 and 4, and so in Table 5."""
KEYS = ("dsc", "iou", "f1", "precision", "recall", "voxels_reference", "voxels_prediction")
VALIDATION = "which 20 % of the 494 scans were the validation set is not published"
LOCAL = "the paper's 41 local scans are not public; ours are the data given"
AVERAGED = (
    "how the paper averages three labels is not stated; ours: Dice over labels, IoU and F1 over all voxels"
)
NO_LUNGS = "the references have no lungs (Task06_Lung has tumors only), or the model finds none"
DIFFERENCES = (
    "The paper trained and validated on 494 scans of three public sets, of which Task06_Lung is one (63); the "
    "validation scans are not named. All labeled cases given here are scored, or those chosen with --cases.",
    "The paper tests on 41 local scans, which are not public: that part cannot be repeated by anyone else.",
    "Its numbers do not fit together: Dice 0.863 and F1 0.9982 of the same three labels (F1 and IoU look like "
    "shares of all "
    "voxels, Dice like a mean over labels); a tumor Dice of 0.8777 implies a mean IoU of 0.78 or more, not "
    "0.7274; Dice of "
    "0.17 to 0.20 beside an IoU of 0.58 seems to include the background; the four ranges sum to 40 of 41 scans.",
    "Ours: tumor Dice, IoU and F1 of whole scans, mean over scans. Three labels: Dice is the mean over "
    "background, lung and "
    "tumor; IoU and F1 are counted over the voxels of all three together; means over labels are in the JSON.",
)


def run(work: Work) -> Found:
    """Return Tables 3 to 5 and the ranges of the text; raises OptionError for a model that finds no tumors."""
    paper = read_paper("rrc-unet")
    known = list(dict.fromkeys(row[0] for table in paper.tables.values() for row in table.rows))
    found = Found(differences=list(DIFFERENCES), notes=check_names(work.models, known))
    if {*SAME} <= {model.name for model in work.models}:
        raise OptionError(
            f"--checkpoint: {' and '.join(SAME)} are one network in the paper; give one of them."
        )
    found.definitions = {
        "Dice, F1": "2 TP / (2 TP + FP + FN) of the voxels of a scan, mean over scans; both empty = 1, one "
        "empty = 0",
        "IoU": "TP / (TP + FP + FN) likewise",
        "3 labels": "background, lung, tumor; Dice: mean over the labels; IoU, F1: counts summed over the labels",
    }
    for model in work.models:
        if "tumors" not in model.keys:
            raise OptionError(
                f"--checkpoint {model.name}: expected one that finds tumors, it finds "
                f"{', '.join(sorted(model.keys))}."
            )
    for index, model in enumerate(work.models):
        span = part(work.progress, index / len(work.models), (index + 1) / len(work.models))

        def score(
            scan: Scan, volume: Volume, predictor: Predictor, inner: Progress, model: Model = model
        ) -> dict:
            return _scored(scan, volume, model, predictor, work, inner)

        by_case = over_scans(model, work.cohort.scans, work.cohort, work.options, score, work.log, span)
        for scan in work.cohort.scans:
            row = by_case.get(scan.case)
            about = {"case": scan.case, "animal": scan.animal, "model": model.name, "structure": "Tumors"}
            found.rows.append(about | ({"status": "ok"} | row if row else {"status": "failed"}))
        found.cells |= _cells(model, list(by_case.values()), work)
    return found


def _scored(
    scan: Scan, volume: Volume, model: Model, predictor: Predictor, work: Work, progress: Progress
) -> dict[str, Any]:
    truth, contoured = read_labels(scan.references["1"], volume, STRUCTURES, work.cohort)
    options = replace(work.options, postprocess=Postprocess.CHECKPOINT)
    look = look_at(volume, model, predictor, options, STRUCTURES, progress)
    work.log.add(model, scan, look)
    row = compare_labels(truth, look.labels, {TUMOR: "Tumors"}, volume.spacing_mm, distances=False)[TUMOR]
    three = {}
    if 1 in contoured and "lungs" in model.keys:
        three = three_labels([count(truth == label, look.labels == label) for label in (0, 1, 2)])
    return scores_of(row, KEYS) | {"three_labels": three}


def three_labels(counts: Sequence[Counts]) -> dict[str, float]:
    """Return Dice as mean over labels, and IoU and F1 of the counts of all labels together, with their means beside."""
    together = Counts(*(sum(getattr(one, word) for one in counts) for word in ("tp", "fp", "fn")))
    return {
        "dice_mean_over_labels": float(np.mean([one.dsc for one in counts])),
        "iou_mean_over_labels": float(np.mean([one.iou for one in counts])),
        "iou_over_voxels": together.iou,
        "f1_over_voxels": together.f1,
    }


def _cells(model: Model, rows: Sequence[dict[str, Any]], work: Work) -> dict[Key, Ours]:
    cases = [scan.case for scan in work.cohort.scans]
    why = work.why(cases, model.name, VALIDATION)
    three = [row["three_labels"] for row in rows if row["three_labels"]]
    why_three = work.why(cases, model.name, VALIDATION, AVERAGED)

    def tumor(key: str, column: str) -> tuple[str, Ours]:
        return column, mean_cell([row[key] for row in rows], why)

    def all_three(key: str, column: str) -> tuple[str, Ours]:
        if not three:
            return column, Ours(None, why=NO_LUNGS)
        means = {f"{word}_mean": mean_cell([one[word] for one in three]).value for word in three[0]}
        return column, mean_cell([one[key] for one in three], why_three, **means)

    is_rrc = model.name in SAME
    listed = read_paper("rrc-unet").tables["Table 5"].rows
    blocks = SAME[1] if is_rrc else model.name
    found: dict[Key, Ours] = {}
    if is_rrc or (model.name,) not in listed:
        name = (SAME[0] if is_rrc else model.name,)
        table3 = [all_three("dice_mean_over_labels", "Dice"), all_three("iou_over_voxels", "IoU")]
        table3.append(all_three("f1_over_voxels", "F1"))
        table4 = [tumor("dsc", "Dice"), tumor("iou", "IoU"), tumor("f1", "F1")]
        found |= {("Table 3", name, column): ours for column, ours in table3}
        found |= {("Table 4", name, column): ours for column, ours in table4}
        found |= {("Text", name, column): ours for column, ours in _ranges(rows, work, model.name)}
    table5 = [
        all_three("iou_over_voxels", "IoU, 3 labels"),
        all_three("f1_over_voxels", "F1, 3 labels"),
        tumor("dsc", "Dice, tumor"),
        tumor("iou", "IoU, tumor"),
    ]
    return found | {("Table 5", (blocks,), column): ours for column, ours in table5}


def _ranges(rows: Sequence[dict[str, Any]], work: Work, model: str) -> list[tuple[str, Ours]]:
    """Return the mean tumor Dice and in how many scans it lies in the four ranges."""
    why = work.why([scan.case for scan in work.cohort.scans], model, LOCAL)
    dice = [row["dsc"] for row in rows]
    counts = {
        "Scans above 0.8": sum(one > 0.8 for one in dice),
        "Scans 0.75 to 0.8": sum(0.75 <= one <= 0.8 for one in dice),
        "Scans 0.5 to 0.75": sum(0.5 <= one < 0.75 for one in dice),
        "Scans below 0.5": sum(one < 0.5 for one in dice),
    }
    cells = [(column, Ours(float(number), None, len(dice), None, why)) for column, number in counts.items()]
    return [("Mean Dice", mean_cell(dice, why)), *cells]
