"""Human CT (coursework on 3D U-Net and ensembles): whole-image tumor Dice, and weights of two checkpoints.

Definitions: the project's, section 7 (weighted ensemble); the weights are tried by `thoraxseg.sweep`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from thoraxseg.checkpoints.ensemble import ensemble_of
from thoraxseg.errors import OptionError
from thoraxseg.inference import Predictor
from thoraxseg.io import write_segmentation
from thoraxseg.metrics import dice
from thoraxseg.options import Postprocess
from thoraxseg.progress import Progress, part
from thoraxseg.report import DataTable
from thoraxseg.reproduce.cells import Ours
from thoraxseg.reproduce.cohort import Scan, read_labels, read_scan
from thoraxseg.reproduce.protocol import Found, Work, mean_cell
from thoraxseg.reproduce.published import read_paper
from thoraxseg.reproduce.running import Model, check_names, look_at, over_scans
from thoraxseg.segmentation import STRUCTURES, Segmentation
from thoraxseg.sweep import SHARES, LabeledCase, sweep
from thoraxseg.volume import Volume

TUMOR = {1: "tumors"}
PAIR = ("U-Net with isample", "DeepMedic")
AVERAGE = "Average of U-Net with isample and DeepMedic"
VALIDATION = "which 6 cases were the validation set is not published"
DIFFERENCES = (
    "The coursework trained on 58 and validated on 6 cases of Task06_Lung, 64 in its text; the public set has "
    "63. Which 6 is not named: all labeled cases given here are scored, or those chosen with --cases.",
    "Network widths, loss weights and other settings stand only in a figure; what your checkpoints are is not "
    "known here.",
    "The text averages logits in one place and class confidences in another; ours are probabilities "
    "(--replicate: logits).",
    "Without any clean-up. A weight chosen on the cases that it is reported for flatters the result; the "
    "coursework did so.",
)


def run(work: Work) -> Found:
    """Return the Dice of each model, and for two models that of all weights.

    The pair is the paper's two where both are given, else the first two. Raises OptionError for a model that finds no
    tumors, CheckpointError for a pair that finds different structures.
    """
    known = [row[0] for row in read_paper("ensemble").tables["Text"].rows]
    found = Found(differences=list(DIFFERENCES), notes=check_names(work.models, known))
    found.definitions = {
        "Dice": "2 TP / (2 TP + FP + FN) of the tumor's voxels in the whole image, mean over cases; both empty = 1",
        "w": "share of the first checkpoint; the second has 1 - w",
    }
    for model in work.models:
        if "tumors" not in model.keys:
            raise OptionError(
                f"--checkpoint {model.name}: expected one that finds tumors, it finds "
                f"{', '.join(sorted(model.keys))}."
            )
    pair = _pair(work.models)
    alone = [model for model in work.models if model not in pair]
    steps = len(alone) + 2 * bool(pair)
    scores: dict[str, dict[str, float]] = {}
    for index, model in enumerate(alone):
        span = part(work.progress, index / steps, (index + 1) / steps)
        scores[model.name] = _scored(model, work, span)
    if pair:
        by_share = _swept(pair, work, found, part(work.progress, len(alone) / steps, 1.0))
        scores |= {model.name: by_share[share] for model, share in zip(pair, (1.0, 0.0), strict=True)}
        name = AVERAGE if tuple(model.name for model in pair) == PAIR else " and ".join(m.name for m in pair)
        scores[name if name == AVERAGE else f"Average of {name}"] = by_share[0.5]
    for name, own in scores.items():
        _add(name, own, work, found)
    return found


def _pair(models: Sequence[Model]) -> tuple[Model, ...]:
    """Return the two models to be weighed: first the one whose share is w; none where there is one model."""
    by_name = {model.name: model for model in models}
    pair = tuple(by_name[name] for name in PAIR if name in by_name)
    pair = pair if len(pair) == 2 else tuple(models[:2])
    if len(pair) == 2:
        ensemble_of([model.checkpoint for model in pair])  # refuses what does not belong together
        return pair
    return ()


def _scored(model: Model, work: Work, progress: Progress) -> dict[str, float]:
    """Return the Dice of one model by case."""

    def score(scan: Scan, volume: Volume, predictor: Predictor, inner: Progress) -> float:
        truth, _ = read_labels(scan.references["1"], volume, TUMOR, work.cohort)
        options = replace(work.options, postprocess=Postprocess.NONE)
        look = look_at(volume, model, predictor, options, TUMOR, inner)
        work.log.add(model, scan, look)
        return dice(truth == 1, look.labels == 1)

    return over_scans(model, work.cohort.scans, work.cohort, work.options, score, work.log, progress)


def _swept(
    pair: Sequence[Model], work: Work, found: Found, progress: Progress
) -> dict[float, dict[str, float]]:
    """Return the Dice by weight and case; one case at a time, so that one that fails does not cost the others."""
    names = " and ".join(model.name for model in pair)
    space = "logits" if work.replicate else "probabilities"
    by_share: dict[float, dict[str, float]] = {share: {} for share in SHARES}
    scans = work.cohort.scans
    with tempfile.TemporaryDirectory(prefix="thoraxseg-reference-") as folder:
        reference = Path(folder) / "reference.seg.nrrd"
        for index, scan in enumerate(scans):
            span = part(progress, index / len(scans), (index + 1) / len(scans))
            span(0.0, f"Weights: {scan.case}")
            with work.log.attempt(scan.case, names):
                volume = read_scan(scan, work.cohort)
                truth, _ = read_labels(scan.references["1"], volume, TUMOR, work.cohort)
                # By name, since the checkpoints may number their labels otherwise than the data.
                named = Segmentation(truth, volume.ijk_to_ras, {1: STRUCTURES["tumors"]})
                write_segmentation(reference, named)
                case = LabeledCase(scan.case, scan.image, reference)
                swept = sweep([case], [model.checkpoint for model in pair], space, work.options, span)
                for row in swept["rows"]:
                    if row["structure"] == "tumors":
                        by_share[row["w"]][scan.case] = row["dice"]
                work.log.warn(names, scan, swept["notes"])
    found.extras["sweep"] = _sweep_table(pair, by_share, space, found)
    return by_share


def _sweep_table(
    pair: Sequence[Model], by_share: Mapping[float, Mapping[str, float]], space: str, found: Found
) -> dict[str, Any]:
    """Return the mean Dice of every weight and the best (the smallest where several are), and add their table."""
    cells = {share: mean_cell(list(own.values())) for share, own in by_share.items()}
    scored = {share: cell.value for share, cell in cells.items() if cell.value is not None}
    best = max(scored, key=lambda share: (scored[share], -share)) if scored else None
    rows = [
        [
            f"{share:.1f}",
            *("–" if value is None else f"{value:.4f}" for value in (cell.value, cell.sd)),
            str(cell.n),
        ]
        for share, cell in cells.items()
    ]
    title = f"w {pair[0].name} + (1 - w) {pair[1].name}, on {space}"
    note = "no case was scored" if best is None else f"Best w: {best:.1f}. Choose w on validation cases only."
    found.tables.append(DataTable(title, ["w", "Mean Dice", "SD", "n"], rows, [note]))
    table = [
        {"w": share, "mean_dice": cell.value, "sd": cell.sd, "n": cell.n} for share, cell in cells.items()
    ]
    return {"pair": [model.name for model in pair], "space": space, "best_w": best, "table": table}


def _add(name: str, own: Mapping[str, float], work: Work, found: Found) -> None:
    for scan in work.cohort.scans:
        about = {"case": scan.case, "animal": scan.animal, "model": name, "structure": "Tumors"}
        scored = scan.case in own
        found.rows.append(about | {"status": "ok" if scored else "failed", "dsc": own.get(scan.case)})
    cases = [scan.case for scan in work.cohort.scans]
    missing = [case for case in cases if case not in own]
    failed = f"{len(missing)} of {len(cases)} scans failed and are not in it" if missing else ""
    why = "; ".join(filter(None, [*work.cohort.incomparable, VALIDATION, failed]))
    cell = mean_cell(list(own.values()), why)
    found.cells[("Text", (name,), "Dice")] = Ours(cell.value, cell.sd, cell.n, None, cell.why, cell.details)
