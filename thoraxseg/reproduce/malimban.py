"""Mouse micro-CT (Malimban et al. 2022): heart, cord and lungs against observer 1, and against all observers.

Metrics, conformity and statistics: the project's definitions, sections 8 to 10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from thoraxseg.agreement.cohort import FAILED, OK, ModelTable, Scored, model_table
from thoraxseg.errors import OptionError
from thoraxseg.inference import Predictor
from thoraxseg.metrics import cigen, compare_labels, majority
from thoraxseg.options import Postprocess
from thoraxseg.progress import Progress, part
from thoraxseg.report import Picture
from thoraxseg.reproduce.cells import Ours
from thoraxseg.reproduce.cohort import Scan, read_labels, read_scan
from thoraxseg.reproduce.micro_ct_layout import SETS
from thoraxseg.reproduce.protocol import Found, Work, mean_cell, scores_of
from thoraxseg.reproduce.published import read_paper
from thoraxseg.reproduce.running import Model, check_names, look_at, over_scans
from thoraxseg.segmentation import neighborhood
from thoraxseg.volume import Volume, nominal_spacing_mm

BASE = "3d_fullres"
OBSERVERS = "Interobserver variability"
QUOTED = "AIMOS trained on contrast-enhanced CT (quoted)"
"""A row that the paper takes from another one."""
STRUCTURES = {1: "heart", 2: "spinal_cord", 3: "right_lung", 4: "left_lung", 5: "lungs"}
"""Labels that contours are read under; observer 3 has lungs without sides."""
ORGANS = {1: "Heart", 2: "Spinal cord", 3: "Right lung", 4: "Left lung"}
MERGED = {1: "Heart", 3: "Total lungs", 2: "Spinal cord"}
"""Both lungs as one, in the order of Table 3."""
TABLES = dict(zip(SETS, ("Table 1", "Table 2"), strict=True))
MEASURES = {"dsc": "DSC", "msd_mm": "MSD (mm)", "hd95_mm": "95p HD (mm)"}
KEYS = (*MEASURES, "iou", "assd_pooled_mm", "hd95_pooled_mm", "voxels_reference", "voxels_prediction")
DIFFERENCES = (
    "HD95 is the larger of the two directed 95th percentiles; whether the paper pooled both directions is not known "
    "(the pooled value is in the JSON). Its lung values of 0.42 ± 0.00 and 0.56 ± 0.00 mm over 35 scans cannot "
    "come from ordinary model error: compare distances with a tolerance of one voxel (0.14 mm).",
    "A model's clean-up of its own, where its files name one, is applied, as nnU-Net does; whether the paper's "
    "values had it is not stated. The columns for the largest component keep the largest 6-connected component of "
    "each organ.",
    "Asterisks: exact two-sided Wilcoxon signed-rank test over scans against 3d_fullres, p < 0.05, not "
    "corrected, as in the paper. Scans of one animal are not independent: p over animals, Holm and "
    "Benjamini-Hochberg stand beside.",
    "Table 2 leaves out, for all models, scans in which a model found nothing of an organ, as the paper does "
    "(1 of its 35); they are counted, and their Dice of 0 is in the means of the JSON.",
    "Table 3: a model against the consensus cannot be held against observers among themselves: the consensus has no "
    "observer's variance, and of two observers (spinal cord) it is the overlap, which is too small.",
)


@dataclass
class _Scores:
    """What one model got in one scan."""

    organs: dict[int, dict[str, Any]]
    """Rows of `compare_labels` against observer 1, by label."""
    largest: dict[int, dict[str, Any]]
    """The same for the largest component of each organ."""
    lungs: dict[str, Any] | None
    """Both lungs as one against observer 1; in test set 2 only."""
    conformity: dict[int, float | None]
    """CIgen with the consensus, by merged label."""
    seconds: dict[str, float]
    spacing_mm: tuple[float, float, float]


def run(work: Work) -> Found:
    """Return Tables 1 to 4 and the medians of the text; the models are the rows, base of the tests is 3d_fullres.

    Raises OptionError for a model that finds none of the four organs, and two for one row.
    """
    known = list(dict.fromkeys(row[1] for row in read_paper("malimban").tables["Table 1"].rows))
    found = Found(differences=list(DIFFERENCES), notes=check_names(work.models, known))
    found.definitions = {
        "DSC": "2 TP / (2 TP + FP + FN) of voxels against observer 1",
        "MSD": "mean of the two directed mean distances between surface voxels, mm",
        "95p HD": "larger of the two directed 95th percentiles of those distances, mm",
        "CIgen": "sum of the overlaps over sum of the unions of all pairs; both lungs as one; with the "
        "consensus of a strict majority of observers for a model",
        "±": "SD over scans, ddof 1",
    }
    for model in work.models:
        if not model.keys & {*STRUCTURES.values()}:
            raise OptionError(
                f"--checkpoint {model.name}: expected one that finds heart, spinal cord, right lung or left "
                f"lung, it finds {', '.join(sorted(model.keys))}. If its labels have no names, install it with them: "
                "'thoraxseg checkpoints "
                'install PATH --labels "1=heart,2=spinal cord,3=right lung,4=left lung"\'.'
            )
    if BASE not in [model.name for model in work.models]:
        found.notes.append(f"No asterisks: the base model {BASE} is not among the checkpoints.")
    scores: dict[str, dict[str, _Scores]] = {}
    count = len(work.models) + 1
    for index, model in enumerate(work.models):
        span = part(work.progress, index / count, (index + 1) / count)

        def score(
            scan: Scan, volume: Volume, predictor: Predictor, inner: Progress, model: Model = model
        ) -> _Scores:
            return _scored(scan, volume, model, predictor, work, inner)

        scores[model.name] = over_scans(
            model, work.cohort.scans, work.cohort, work.options, score, work.log, span
        )
    for group in SETS:
        scans = [scan for scan in work.cohort.scans if scan.group == group]
        if scans:
            _add_accuracy(group, scans, scores, work, found)
    _add_conformity(scores, work, found, part(work.progress, (count - 1) / count, 1.0))
    _add_seconds(scores, work, found)
    _add_text(scores, work, found)
    return found


def _scored(
    scan: Scan, volume: Volume, model: Model, predictor: Predictor, work: Work, progress: Progress
) -> _Scores:
    contours = _contours(scan, volume, work)
    options = replace(work.options, postprocess=Postprocess.CHECKPOINT)
    look = look_at(volume, model, predictor, options, STRUCTURES, progress)
    work.log.add(model, scan, look)
    truth, contoured = contours["1"]
    spacing = nominal_spacing_mm(volume.ijk_to_ras)
    names = {
        label: name
        for label, name in ORGANS.items()
        if label in contoured and STRUCTURES[label] in model.keys
    }
    organs = compare_labels(truth, look.labels, names, spacing)
    kept = largest_components(look.labels, names)
    changed = {
        label: name for label, name in names.items() if np.any((kept == label) != (look.labels == label))
    }
    again = compare_labels(truth, kept, changed, spacing) if changed else {}
    merged = {observer: merge(*one) for observer, one in contours.items()}
    mine, finds = merge(look.labels, {label for label, key in STRUCTURES.items() if key in model.keys})
    lungs = None
    if scan.group == SETS[1] and 3 in merged["1"][1] and 3 in finds:
        lungs = compare_labels(merged["1"][0], mine, {3: MERGED[3]}, spacing)[3]
    conformity = {}
    for label in finds & {*MERGED}:
        masks = [labels == label for labels, has in merged.values() if label in has]
        if len(masks) > 1:
            conformity[label] = _defined(cigen([mine == label, majority(masks)]))
    return _Scores(organs, organs | again, lungs, conformity, look.seconds, spacing)


def _contours(scan: Scan, volume: Volume, work: Work) -> dict[str, tuple[np.ndarray, set[int]]]:
    """Return labels and what was contoured by observer."""
    return {
        observer: read_labels(reference, volume, STRUCTURES, work.cohort)
        for observer, reference in scan.references.items()
    }


def merge(labels: np.ndarray, contoured: set[int]) -> tuple[np.ndarray, set[int]]:
    """Return the labels with both lungs as 3, and what of heart 1, cord 2 and lungs 3 was contoured.

    Of one lung alone no total can be made: then the lungs do not count as contoured.
    """
    lungs = np.where(labels > 3, 3, labels).astype(np.uint8)
    whole = {3} if 5 in contoured or {3, 4} <= contoured else set()
    return lungs, (contoured & {1, 2}) | whole


def largest_components(labels: np.ndarray, wanted: Mapping[int, str]) -> np.ndarray:
    """Return the label map `(K, J, I)` with only the largest 6-connected component of each wanted label.

    Components as large as the largest stay; other labels stay as they are.
    """
    from scipy.ndimage import label as components_of

    kept = labels.copy()
    for value in wanted:
        components, count = components_of(labels == value, neighborhood(6))
        if count > 1:
            sizes = np.bincount(components.ravel())
            sizes[0] = 0
            kept[(components > 0) & (sizes[components] < sizes.max())] = 0
    return kept


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _add_accuracy(
    group: str,
    scans: Sequence[Scan],
    scores: Mapping[str, Mapping[str, _Scores]],
    work: Work,
    found: Found,
) -> None:
    """Add Table 1 or 2: each model and organ, and once more for the largest components in Table 1."""
    table = TABLES[group]
    plain = _rows(scans, scores, work, "organs")
    found.rows += [_row_record(row, group) for row in plain]
    empty = {row.case for row in plain if _found_nothing(row)} if table == "Table 2" else set()
    if empty:
        found.notes.append(
            f"{table}: {len(empty)} of {len(scans)} scans are left out for all models, because a model found "
            f"nothing of an organ in them: {', '.join(sorted(empty))}."
        )
    kept = [row for row in plain if row.case not in empty]
    if not kept:
        return
    base = BASE if BASE in scores else None
    measured = model_table(kept, base)
    whole = {(c["structure"], c["model"], c["measure"]): c for c in model_table(plain, None).cells}
    more = f"{len(empty)} scans are left out" if len(empty) > 1 else ""
    for cell in measured.cells:
        row = (cell["name"], cell["model"])
        why = work.why([scan.case for scan in scans], cell["model"], more)
        details = _details(cell) | {
            "mean_of_all_scans": whole[cell["structure"], cell["model"], cell["measure"]]["mean"]
        }
        title = MEASURES[cell["measure"]]
        n, empty_why = cell["n"], "no scan was scored" if not cell["n"] else ""
        reason = "; ".join(filter(None, [why, empty_why]))
        found.cells[(table, row, f"{title} mean ± SD")] = Ours(
            cell["mean"], cell["sd"], n, None, reason, details
        )
        star = cell["significant"] if base and cell["model"] != base else None
        found.cells[(table, row, f"{title} median")] = Ours(cell["median"], None, n, star, reason, details)
    if table == "Table 1":
        for cell in model_table(_rows(scans, scores, work, "largest"), None).cells:
            column = f"{MEASURES[cell['measure']]} mean ± SD, largest component"
            why = work.why([scan.case for scan in scans], cell["model"])
            found.cells[(table, (cell["name"], cell["model"]), column)] = Ours(
                cell["mean"], cell["sd"], cell["n"], None, why
            )
    if base:
        found.tables.append(replace(measured.tests_table(), title=f"{table}: tests against {base}"))
    if measured.excluded:
        found.tables.append(replace(measured.excluded_table(), title=f"{table}: what no mean holds"))
    found.pictures += [partial(_boxes, measured, kept, table, key) for key in ("dsc", "hd95_mm")]


def _rows(
    scans: Sequence[Scan], scores: Mapping[str, Mapping[str, _Scores]], work: Work, which: str
) -> list[Scored]:
    reasons = {(one.case, one.model): one.reason for one in work.log.failures}
    rows = []
    for model in work.models:
        for scan in scans:
            got = scores[model.name].get(scan.case)
            # What observer 1 contoured is known from any model that was scored there.
            others = [one[scan.case] for one in scores.values() if scan.case in one]
            contoured = set().union(*(getattr(one, which) for one in others)) if others else set(ORGANS)
            for label, name in ORGANS.items():
                about = (scan.case, scan.animal, model.name, STRUCTURES[label], name)
                if got is None:
                    if STRUCTURES[label] in model.keys and label in contoured:
                        rows.append(Scored(*about, FAILED, reasons[scan.case, model.name]))
                elif label in getattr(got, which):
                    row = scores_of(getattr(got, which)[label], KEYS)
                    undefined = row.pop("undefined")
                    rows.append(Scored(*about, OK, "", row, undefined, min(got.spacing_mm)))
    return rows


def _found_nothing(row: Scored) -> bool:
    return row.status == OK and row.scores["voxels_reference"] > 0 and row.scores["voxels_prediction"] == 0


def _row_record(row: Scored, group: str) -> dict[str, Any]:
    about = {"case": row.case, "animal": row.animal, "model": row.model, "table": TABLES[group]}
    about |= {"structure": row.name, "status": row.status, "reason": row.reason}
    return about | dict(row.scores) | {"undefined": dict(row.undefined)}


def _details(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a cell besides its number: counts, tests over scans and animals."""
    keys = (
        "n_cases",
        "n_undefined",
        "n_failed",
        "mean_with_failed",
        "p",
        "p_holm",
        "p_bh",
        "significant_holm",
    )
    details = {key: cell[key] for key in keys}
    if cell["scans"] is not None:
        animals = cell["animals"]
        details |= {key: cell["scans"][key] for key in ("n_used", "n_zero", "n_missing", "method", "effect")}
        details |= {f"animals_{key}": animals[key] for key in ("n", "p", "can_be_significant")}
    return details


def _boxes(measured: ModelTable, rows: Sequence[Scored], table: str, key: str) -> Picture:
    """Draw one measure of all models and organs, with the asterisks."""
    from thoraxseg.report import plots

    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        value = row.scores.get(key)
        own = values.setdefault(row.name, {}).setdefault(row.model, [])
        if value is not None:
            own.append(value)
    marks = {
        (cell["name"], cell["model"]): "*"
        for cell in measured.cells
        if cell["measure"] == key and cell["significant"]
    }
    drawn = plots.box_plots(
        values, MEASURES[key].partition(" (")[0], "mm" if key.endswith("_mm") else "", marks
    )
    return replace(drawn, name=f"{table.lower().replace(' ', '-')}-{key}", title=f"{table}, {MEASURES[key]}")


def _add_conformity(
    scores: Mapping[str, Mapping[str, _Scores]], work: Work, found: Found, progress: Progress
) -> None:
    """Add Table 3: each model with the consensus, and the observers among themselves."""
    observed = _between_observers(work, progress)
    rows = {model: {case: got.conformity for case, got in own.items()} for model, own in scores.items()}
    for group in SETS:
        cases = [scan.case for scan in work.cohort.scans if scan.group == group]
        for name, own in (*rows.items(), (OBSERVERS, observed)):
            for label, organ in MERGED.items():
                values = [own[case][label] for case in cases if label in own.get(case, {})]
                if not cases or not (values or name in rows or name == OBSERVERS):
                    continue
                why = work.why(cases, name)
                missing = sum(case in own and label not in own[case] for case in cases)
                if missing:
                    told = "there are no two observers or the model does not find it"
                    why = "; ".join(filter(None, [why, f"in {missing} of {len(cases)} scans {told}"]))
                found.cells[("Table 3", (name,), f"{organ}, {group}")] = mean_cell(values, why)
    found.extras["conformity"] = {**rows, OBSERVERS: observed}


def _between_observers(work: Work, progress: Progress) -> dict[str, dict[int, float | None]]:
    """Return CIgen over the observers by case and merged label, where two or more contoured it."""
    found: dict[str, dict[int, float | None]] = {}
    for index, scan in enumerate(work.cohort.scans):
        progress(index / len(work.cohort.scans), f"Observers: {scan.case}")
        with work.log.attempt(scan.case, OBSERVERS):
            contours = _contours(scan, read_scan(scan, work.cohort), work)
            merged = [merge(*one) for one in contours.values()]
            masks = {label: [labels == label for labels, has in merged if label in has] for label in MERGED}
            found[scan.case] = {label: _defined(cigen(own)) for label, own in masks.items() if len(own) > 1}
    return found


def _add_seconds(scores: Mapping[str, Mapping[str, _Scores]], work: Work, found: Found) -> None:
    """Add Table 4: mean seconds of all scans."""
    import platform

    machine = (
        f"{platform.system()} {platform.machine()}, {', '.join(sorted(work.log.devices)) or 'no device'}"
    )
    columns = {"Preprocessing (s)": "preprocess", "Inference (s)": "inference", "Runtime (s)": "total"}
    for model, own in scores.items():
        for column, stage in columns.items():
            values = [got.seconds.get(stage) for got in own.values()]
            why = f"measured on {machine}, the paper on an NVIDIA Quadro RTX 6000; without reading and writing files"
            cell = mean_cell(values, "; ".join([why, *work.cohort.incomparable]))
            found.cells[("Table 4", (model,), column)] = cell


def _add_text(scores: Mapping[str, Mapping[str, _Scores]], work: Work, found: Found) -> None:
    """Add the medians on test set 2 that stand in the paper's text."""
    cases = [scan.case for scan in work.cohort.scans if scan.group == SETS[1]]
    for model, own in scores.items():
        got = [own[case] for case in cases if case in own]
        organs = {
            "heart": [one.organs[1] for one in got if 1 in one.organs],
            "total lungs": [one.lungs for one in got if one.lungs is not None],
        }
        for organ, rows in organs.items():
            for title, key in (("DSC", "dsc"), ("95p HD (mm)", "hd95_mm")):
                if rows:
                    cell = mean_cell([row[key] for row in rows], work.why(cases, model))
                    median = replace(cell, value=cell.details["median"], sd=None)
                    found.cells[("Text", (model,), f"{title} median, {organ}")] = median
