"""Models against references over a cohort: every scan measured, every failure listed, one table at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from thoraxseg.agreement.cohort import (
    FAILED,
    HEADLINE,
    MEASURES,
    MISSING,
    OK,
    ModelTable,
    Scored,
    model_table,
)
from thoraxseg.agreement.evaluate_page import evaluate_facts, evaluate_sections
from thoraxseg.agreement.manifest import Manifest, Scan, read_manifest
from thoraxseg.agreement.masks import Masks, Reading, read_masks
from thoraxseg.agreement.matching import Matched, alike, match, said_swapped
from thoraxseg.agreement.measuring import Measuring, csv_columns, flat, measure
from thoraxseg.agreement.scan import Absent
from thoraxseg.agreement.words import some
from thoraxseg.agreement.writing import Csv, Report, collapsed, finished
from thoraxseg.errors import InputError, OptionError
from thoraxseg.metrics import DEFINITIONS
from thoraxseg.progress import Progress, part, silent
from thoraxseg.report import printable
from thoraxseg.segmentation import STRUCTURES, Structure

UNCONTOURED = "not contoured in the reference"
SUMMARY_DEFINITIONS = {
    "n_cases": "Scans of the table; n, n_undefined, n_failed and n_missing make n_cases.",
    "n": "Scans with a score.",
    "n_undefined": "Scans whose score is undefined, such as the distance of an empty mask.",
    "n_failed": "Scans in which the model gave no answer; 0 in the overlap of mean_with_failed, sd_with_failed, "
    "median_with_failed and p_with_failed.",
    "n_missing": "Scans in which a file could not be read or compared, or the reference's observer did not contour it.",
    "mean, sd, median": "Over the n scans, SD with ddof 1.",
    "scans, animals": "The test against the base model, a = model, b = base, over scans and over animals (a measure is "
    "averaged over an animal's scans first): two-sided Wilcoxon signed-rank test, exact; effect: Hodges-Lehmann "
    "estimate of a - b with its interval. Distances count to 1e-6 mm, so that the noise of 32-bit headers makes no "
    "ranks.",
    "p": "Of the test over scans, without correction; p_holm and p_bh: corrected for all tests of the table by Holm "
    "and by Benjamini and Hochberg.",
    "significant, significant_holm": "Whether p and p_holm are below alpha.",
    "below_quarter_voxel": "Whether a difference in mm is smaller than a quarter of the smallest voxel spacing.",
}
_SUMMARY = (
    *("structure", "model", "measure", "n_cases", "n", "n_undefined", "n_failed", "n_missing"),
    *("mean", "sd", "median", "mean_with_failed", "sd_with_failed", "median_with_failed"),
    *("p", "p_with_failed", "p_holm", "p_bh", "significant", "significant_holm", "below_quarter_voxel"),
    *("effect", "effect_low", "effect_high", "rank_biserial", "p_pratt"),
    *(
        "scans_n",
        "scans_n_used",
        "scans_n_zero",
        "scans_n_missing",
        "animals_n",
        "animals_p",
        "animals_smallest_possible_p",
    ),
)


def evaluate(
    manifest: Path,
    base: str | None = None,
    measures: Sequence[str] = HEADLINE,
    alpha: float = 0.05,
    reading: Reading | None = None,
    how: Measuring | None = None,
    absent: Absent = Absent.AUTO,
    progress: Progress = silent,
) -> Report:
    """Return the scores of every model over the scans of a table: case, animal, reference, and one column per model.

    `base` is the model that the others are tested against. A cell that is empty or says failed is a case in which the
    model gave no answer: counted, listed, and 0 in the overlap that includes failed cases. A file that is not there
    or cannot be compared is listed under `failures`, and its scores are missing: that says nothing of the model. Nor
    does a structure that the reference's observer did not contour, as `absent` decides.
    Raises InputError for a bad table and when nothing could be measured; OptionError for an unknown base model or
    measure.
    """
    cohort = read_manifest(manifest, ("reference",))
    _check(cohort, base, measures)
    measures = _with_context(measures)
    reading, how = reading or Reading(), how or Measuring()
    reading.check_roles(("reference", *cohort.readers))
    found = _Evaluation(cohort, reading, how, absent)
    for index, scan in enumerate(cohort.scans):
        span = part(progress, 0.9 * index / len(cohort.scans), 0.9 * (index + 1) / len(cohort.scans))
        found.add(scan, span)
    progress(0.9, "Drawing")
    table = model_table(found.scored(), base, measures, alpha)
    unknown = how.said_unknown(found.names.values(), {row["label"] for row in found.rows})
    asked = {"base": base, "measures": list(measures), "alpha": alpha}
    record = finished(
        {**DEFINITIONS, **SUMMARY_DEFINITIONS},
        {**how.to_record(), **reading.to_record(), "absent": absent.value, **asked},
        [*collapsed(found.notes), *found.said_absent(), *_said_untested(cohort, base)],
        [
            *found.said_failed(),
            *found.said_one_sided(),
            *_said_too_few(table),
            *collapsed(found.warnings),
            *unknown,
        ],
        summary=table.cells,
        models=[printable(name) for name in cohort.readers],
        cases=len(cohort.scans),
        animals=len({scan.animal for scan in cohort.scans}),
        excluded=[{key: printable(value) for key, value in one.items()} for one in table.excluded],
        failures=[{key: printable(value) for key, value in one.items()} for one in found.failures],
        scores=[
            {**row, "case": printable(row["case"]), "animal": printable(row["animal"])} for row in found.rows
        ],
        inputs=[cohort.to_record()],
        files=found.files,
    )
    about = ("case", "animal", "model", "structure")
    return Report(
        "evaluate",
        record,
        "Models against the reference",
        f"{len(cohort.scans)} scans of {record['animals']} animals, {len(cohort.readers)} model(s)",
        evaluate_facts(table),
        partial(evaluate_sections, table, found.rows, found.failures),
        {
            "": Csv(
                list(dict.fromkeys([*about, *csv_columns(found.rows)])), [flat(row) for row in found.rows]
            ),
            "_summary": Csv(_SUMMARY, [_summary_row(cell) for cell in table.cells]),
            "_excluded": Csv(["case", "model", "structure", "measure", "reason"], table.excluded),
        },
    )


def _check(cohort: Manifest, base: str | None, measures: Sequence[str]) -> None:
    """Refuse a table without models, and a base model or a measure that is not there."""
    if not cohort.readers:
        raise InputError(
            f"{cohort.path}: expected a column for one model or more beside case, animal and reference."
        )
    if base is not None and base not in cohort.readers:
        raise OptionError(
            f"--base: {base!r:.80} is no model of {cohort.path}; it has {', '.join(cohort.readers)}."
        )
    if unknown := [key for key in measures if key not in MEASURES]:
        raise OptionError(f"--measure: unknown {', '.join(unknown)}; known are {', '.join(MEASURES)}.")


def _with_context(measures: Sequence[str]) -> list[str]:
    """Return the measures, each once, those over slices with what must be read beside them.

    Most slices hold no tumor, so a network that finds nothing scores well: see DEFINITIONS of the slice means.
    """
    found = list(dict.fromkeys(measures))
    for score in ("f1", "iou"):
        if f"{score}_slice_mean" in found:
            found += [f"{score}_slice_positive_mean", "slice_share_without_reference"]
    return list(dict.fromkeys(found))


@dataclass
class _Evaluation:
    """What is known of the scans measured so far."""

    cohort: Manifest
    reading: Reading
    how: Measuring
    absent: Absent
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `compare_labels` with case, animal, model and the key of the structure."""
    names: dict[str, str] = field(default_factory=dict)
    """The structures' names by key, as the first scan that has them writes them."""
    voxels: dict[str, float] = field(default_factory=dict)
    """Smallest voxel spacing by case."""
    uncontoured: list[tuple[Scan, str, str, str]] = field(default_factory=list)
    """Scan, model, key and name of every structure that the reference's observer did not contour."""
    failures: list[dict[str, str]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    """Where, and what."""
    warnings: list[tuple[str, str]] = field(default_factory=list)

    def add(self, scan: Scan, progress: Progress) -> None:
        """Measure every model in a scan; a file that cannot be read or compared becomes a failure."""
        try:
            reference = read_masks(scan.file("reference"), "reference", self.reading)
        except InputError as error:
            self.failures.append({"case": scan.case, "reason": str(error)})
            return
        self._keep(scan, reference)
        answers: dict[str, Matched] = {}
        ways = {reference.is_named} if not reference.is_empty else set()
        models = [model for model in self.cohort.readers if scan.files[model] is not None]
        for n, model in enumerate(models):
            progress(0.3 * n / len(models), f"Reading {printable(scan.case)}, {printable(model)}")
            try:
                prediction = read_masks(scan.file(model), model, self.reading)
                answers[model] = match([reference, prediction], self.reading)
            except InputError as error:
                self.failures.append({"case": scan.case, "model": model, "reason": str(error)})
                continue
            self._keep(scan, prediction)
            ways |= set() if prediction.is_empty else {prediction.is_named}
        if len(ways) == 1:
            answers = _with_all_structures(answers)
        for n, (model, matched) in enumerate(answers.items()):
            progress(0.3 + 0.7 * n / len(answers), f"Measuring {printable(scan.case)}, {printable(model)}")
            self._measure(scan, model, matched, reference)

    def _keep(self, scan: Scan, masks: Masks) -> None:
        self.files.append({"case": printable(scan.case), **masks.to_record()})

    def _measure(self, scan: Scan, model: str, matched: Matched, reference: Masks) -> None:
        self.voxels[scan.case] = min(matched.spacing_mm)
        judged = []
        for label, structure in matched.structures.items():
            if self._is_contoured(label, structure, matched, reference):
                judged.append(label)
                continue
            key, name = alike(structure.name), printable(structure.name)
            self.uncontoured.append((scan, model, key, self.names.setdefault(key, name)))
            said = f"{name}: the reference has none, taken as not contoured: no score (--absent empty makes it 0)."
            self.warnings.append((scan.case, said))
        for row in measure(matched, 0, 1, self.how, judged):
            key = alike(row["name"])
            about = {"case": scan.case, "animal": scan.animal, "model": model, "structure": key}
            self.rows.append({**about, **row, "name": self.names.setdefault(key, row["name"])})
        self.warnings += [(scan.case, text) for text in said_swapped(matched, 0, 1)]
        self.notes += [(f"{scan.case}, {model}", note) for note in matched.notes]
        self.warnings += [(f"{scan.case}, {model}", warning) for warning in matched.warnings]

    def _is_contoured(self, label: int, structure: Structure, matched: Matched, reference: Masks) -> bool:
        """Return whether a structure counts as contoured in the reference, with or without a voxel.

        Every animal has a heart, a cord and lungs, so a reference with other structures alone left them out; a
        segmentation lists what was contoured. Tumors may be none.
        """
        if label in matched.drawn[0] or self.absent is Absent.EMPTY:
            return True
        if self.absent is Absent.LEFT_OUT:
            return False
        nothing = reference.is_empty and not reference.declares
        may_be_none = structure.key == "tumors" or not (structure.key in STRUCTURES or reference.declares)
        return nothing or may_be_none

    def scored(self) -> list[Scored]:
        """Return the scores of all models in all scans, also of those that gave no answer or could not be read.

        Raises InputError when nothing could be measured.
        """
        if not self.rows:
            reasons = "; ".join(f"{one['case']}: {one['reason']}" for one in self.failures)
            raise InputError(
                f"{self.cohort.path}: nothing could be measured. {reasons or 'No model gave an answer.'}"
            )
        found = []
        for row in self.rows:
            animal = row["animal"] if self.cohort.has_animals else ""
            about = (row["case"], animal, row["model"], row["structure"], row["name"])
            scores = {name: row[name] for name in MEASURES}
            found.append(Scored(*about, OK, "", scores, row["undefined"], self.voxels[row["case"]]))
        for scan, model, key, name in self.uncontoured:
            animal = scan.animal if self.cohort.has_animals else ""
            found.append(Scored(scan.case, animal, model, key, name, MISSING, UNCONTOURED))
        lacking = {(scan.case, key) for scan, _, key, _ in self.uncontoured}
        for scan, model, status, reason in self._unanswered():
            animal = scan.animal if self.cohort.has_animals else ""
            for key, name in self.names.items():
                said = (MISSING, UNCONTOURED) if (scan.case, key) in lacking else (status, reason)
                found.append(Scored(scan.case, animal, model, key, name, *said))
        return found

    def _unanswered(self) -> list[tuple[Scan, str, str, str]]:
        """Return what has no scores: scan, model, whether it failed or is missing, and why."""
        why = {(one["case"], one.get("model")): one["reason"] for one in self.failures}
        found = []
        for scan in self.cohort.scans:
            for model in self.cohort.readers:
                unread = why.get((scan.case, None)) or why.get((scan.case, model))
                if unread is not None:
                    found.append((scan, model, MISSING, unread))
                elif scan.files[model] is None:
                    found.append((scan, model, FAILED, "the model gave no answer"))
        return found

    def said_failed(self) -> list[str]:
        """Return a sentence with the number of answers that every model owes."""
        failed = Counter(model for _, model, status, _ in self._unanswered() if status == FAILED)
        return [
            f"{model}: no answer in {count} of {len(self.cohort.scans)} scans (cell empty, or failed); counted as "
            "failed cases and listed."
            for model, count in failed.items()
        ]

    def said_one_sided(self) -> list[str]:
        """Return a sentence for every structure that one side has in no scan at all: names may not match."""
        found = []
        for key, name in self.names.items():
            for model in self.cohort.readers:
                own = [row for row in self.rows if row["structure"] == key and row["model"] == model]
                for side, other in (("reference", "prediction"), ("prediction", "reference")):
                    voxels = sum(row[f"voxels_{side}"] for row in own)
                    if not voxels and any(row[f"voxels_{other}"] for row in own):
                        found.append(
                            f"{name}, {model}: the {side} has it in none of {len(own)} scans, so overlap is 0 where "
                            f"the {other} has it. If it is only called otherwise, use --merge or --labels."
                        )
        return found

    def said_absent(self) -> list[str]:
        """Return a sentence for every structure that no file of some scans has: these have no score of it."""
        measured = list(dict.fromkeys(row["case"] for row in self.rows))
        found = []
        for key, name in self.names.items():
            having = {row["case"] for row in self.rows if row["structure"] == key}
            having |= {scan.case for scan, _, other, _ in self.uncontoured if other == key}
            if lacking := [case for case in measured if case not in having]:
                found.append(
                    f"{name}: no file has it in {len(lacking)} of {len(measured)} scans ({some(lacking)}); they have "
                    "no score of it. With --labels, or segments in the files, they count as empty."
                )
        return found


def _with_all_structures(answers: Mapping[str, Matched]) -> dict[str, Matched]:
    """Return the answers of all models to one scan, each with the structures of all.

    What only another model found, the reference and this model agree not to have: without a row for that, right
    answers were left out of the comparison with wrong ones.
    """
    every = {alike(one.name): one for matched in answers.values() for one in matched.structures.values()}
    found = {}
    for model, matched in answers.items():
        own = {alike(one.name) for one in matched.structures.values()}
        more = [one for key, one in every.items() if key not in own]
        labels = dict(enumerate(more, max(matched.structures) + 1))
        found[model] = replace(matched, structures={**matched.structures, **labels})
    return found


def _said_untested(cohort: Manifest, base: str | None) -> list[str]:
    if base is None:
        return ["Without --base no model is tested against another."] if len(cohort.readers) > 1 else []
    if cohort.has_animals:
        return []
    return [
        "The table has no column animal: nothing is tested over animals, and scans are taken as independent."
    ]


def _said_too_few(table: ModelTable) -> list[str]:
    few = [cell for cell in table.cells if cell["animals"] and not cell["animals"]["can_be_significant"]]
    if not few:
        return []
    most = max(cell["animals"]["n_used"] for cell in few)
    return [
        f"{len(few)} test(s) over animals cannot reach p < {table.alpha:g}: at most {most} animal(s) differ there."
    ]


def _summary_row(cell: Mapping[str, Any]) -> dict[str, Any]:
    scans, animals = cell["scans"] or {}, cell["animals"] or {}
    return {
        **cell,
        **{
            key: scans.get(key) for key in ("effect", "effect_low", "effect_high", "rank_biserial", "p_pratt")
        },
        **{f"scans_{key}": scans.get(key) for key in ("n", "n_used", "n_zero", "n_missing")},
        **{f"animals_{key}": animals.get(key) for key in ("n", "p", "smallest_possible_p")},
    }
