"""Which weight of two checkpoints is best on labeled cases: 0, 0.1 ... 1 tried on each, as in the coursework."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from thoraxseg import inference, report, roads
from thoraxseg.checkpoints import Checkpoint
from thoraxseg.checkpoints.ensemble import ensemble_of
from thoraxseg.checkpoints.structures import key_of
from thoraxseg.errors import InputError
from thoraxseg.files import check_output, publish_together
from thoraxseg.io import hash_input, read_label_map, read_volume
from thoraxseg.metrics import dice
from thoraxseg.options import Postprocess, SegmentOptions, Uncertainty
from thoraxseg.pipeline import Stopwatch
from thoraxseg.progress import Progress, part, silent
from thoraxseg.segmentation import Segmentation, Structure
from thoraxseg.tables import is_there, read_table, write_csv
from thoraxseg.volume import Volume

SHARES = tuple(k / 10 for k in range(11))
COLUMNS = ("case", "image", "reference")
NAMES = ("sweep.csv", "sweep.json")


@dataclass(frozen=True)
class LabeledCase:
    """An image and the segmentation that counts as true."""

    name: str
    image: Path
    reference: Path


def read_cases(path: Path) -> list[LabeledCase]:
    """Return the cases of a CSV table with the columns case, image, reference.

    Paths are relative to the table. Raises InputError naming the row for missing columns or values, repeated
    cases, and files that are not there.
    """
    table = read_table(path, COLUMNS)
    cases: dict[str, LabeledCase] = {}
    for row in table.rows:
        if missing := [column for column in COLUMNS if not row[column]]:
            raise InputError(
                f"{table.where(row)}: expected values for {', '.join(COLUMNS)}; {missing[0]} is empty."
            )
        name = row["case"]
        if name in cases:
            raise InputError(f"{table.where(row)}: the case {name!r:.80} is in the table twice.")
        case = LabeledCase(name, table.path.parent / row["image"], table.path.parent / row["reference"])
        for file in (case.image, case.reference):
            if not is_there(file):
                raise InputError(f"{table.where(row)}: {file} is not there.")
        cases[name] = case
    return list(cases.values())


def sweep(
    cases: Sequence[LabeledCase],
    checkpoints: Sequence[Checkpoint],
    space: str,
    options: SegmentOptions | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Return the Dice of w A + (1 - w) B against the references for w = 0, 0.1 ... 1, and the best w.

    Every case is looked at once by each checkpoint. Without clean-up, on `space` (probabilities or logits). The best
    w has the largest mean over cases and structures, the smallest such w where several do. Choose it on
    validation data, never on the data that the result is reported for. Source: the coursework on ensembles.
    """
    first = ensemble_of(checkpoints, (1, 1), space)  # refuses checkpoints that do not belong together
    structures = dict(first.card.labels)
    options = replace(options or SegmentOptions(), uncertainty=Uncertainty.NONE, postprocess=Postprocess.NONE)
    loaded = [inference.load_predictor(checkpoint, options.device) for checkpoint in checkpoints]
    rows, notes = [], []
    for index, case in enumerate(cases):
        span = part(progress, index / len(cases), (index + 1) / len(cases))
        volume = read_volume(case.image)
        truth = _reference(case.reference, volume, structures)
        answers = [
            roads.contour([volume], predictor, options, Stopwatch(), part(span, k / 2, (k + 1) / 2))
            for k, predictor in enumerate(loaded)
        ]
        notes += [note for answer in answers for note in (*answer.notes, *answer.warnings)]
        for share in SHARES:
            labels = roads.together(answers, (share, 1 - share), space).labels
            for label, structure in structures.items():
                one, other = truth == label, labels == label
                row = {"case": case.name, "w": share, "structure": structure.key, "dice": dice(one, other)}
                rows.append({**row, "both_empty": not (one.any() or other.any())})
    table = [_row(share, rows, structures) for share in SHARES]
    scored = len(cases) * len(structures)
    empty = sum(row["both_empty"] for row in rows if row["w"] == 1)
    if empty:
        notes.append(f"{empty} of {scored} pairs of masks are both empty at w = 1 and count as 1.")
    if len({row["mean_dice"] for row in table}) == 1:
        notes.append("All weights give the same mean Dice: the cases do not tell which is best.")
    best = max(table, key=lambda row: (row["mean_dice"], -row["w"]))
    return {
        "definitions": {
            "w": f"share of the first checkpoint; the second has 1 - w; averaged on {space}, without clean-up",
            "dice": "2 TP / (2 TP + FP + FN) of voxels; 1 where both masks are empty, 0 where one is",
            "mean_dice": "mean over structures of the mean over cases",
        },
        "checkpoints": [
            {
                "name": one.card.name,
                "card_sha256": one.card.sha256,
                "weights_sha256": [file.sha256 for file in one.card.weights],
            }
            for one in checkpoints
        ],
        "space": space,
        "versions": report.versions(),
        "finished_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "options": options.to_record(),
        "cases": [
            {
                "case": case.name,
                "image_sha256": hash_input(case.image),
                "reference_sha256": hash_input(case.reference),
            }
            for case in cases
        ],
        "best_w": best["w"],
        "best_mean_dice": best["mean_dice"],
        "table": table,
        "rows": rows,
        "assumed": [said for one in checkpoints for said in one.assumed],
        "notes": list(dict.fromkeys(notes)),
        "notice": "Choose w on validation data only. Research use only.",
    }


def write_sweep(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `sweep.json` (everything) and `sweep.csv` (one row a case, w and structure); return their paths.

    Raises OutputError when the folder has a sweep already or cannot be written.
    """
    folder = Path(folder)
    check_output(folder, NAMES)
    with publish_together(folder, marker="sweep.json") as scratch:
        write_csv(scratch / "sweep.csv", ["case", "w", "structure", "dice", "both_empty"], found["rows"])
        text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)
        (scratch / "sweep.json").write_text(text + "\n", encoding="utf-8")
    return [folder / name for name in NAMES]


def _row(
    share: float, rows: Sequence[Mapping[str, Any]], structures: Mapping[int, Structure]
) -> dict[str, Any]:
    means = {
        structure.key: float(
            np.mean([row["dice"] for row in rows if row["w"] == share and row["structure"] == structure.key])
        )
        for structure in structures.values()
    }
    return {"w": share, "mean_dice": float(np.mean(list(means.values()))), "dice": means}


def _reference(path: Path, volume: Volume, structures: Mapping[int, Structure]) -> np.ndarray:
    """Return the true labels `(K, J, I)` under the checkpoint's own numbers, on the grid of the image."""
    found = read_label_map(path)
    if isinstance(found, Segmentation):
        by_key = {structure.key: label for label, structure in structures.items()}
        keys = {label: key_of(one) for label, one in found.structures.items()}
        if unknown := [found.structures[label].name for label, key in keys.items() if key not in by_key]:
            raise InputError(
                f"{path}: has the segments {', '.join(unknown)}, the checkpoints find "
                f"{', '.join(one.name for one in structures.values())}. Name the segments alike."
            )
        labels = np.zeros(found.labels.shape, dtype=np.uint8)
        for label, key in keys.items():
            labels[found.labels == label] = by_key[key]
        grid = Volume(labels, found.ijk_to_ras, path.name)
    else:
        grid, labels = found, found.array
        values = np.unique(labels)
        if unknown := [value for value in values.tolist() if value not in (0, *structures)]:
            raise InputError(
                f"{path}: has the labels {unknown[:10]}, the checkpoints know {sorted(structures)}: "
                f"{', '.join(f'{label} {s.name}' for label, s in structures.items())}. Renumber them."
            )
    roads.check_same_grid([volume, grid])
    return labels
