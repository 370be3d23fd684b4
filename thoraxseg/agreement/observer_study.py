"""Several observers of many scans: how well they agree over the scans, and models against their consensus."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from thoraxseg.agreement.consensus import make_consensus, rules_of, write_consensus
from thoraxseg.agreement.manifest import Manifest, Scan, read_manifest
from thoraxseg.agreement.masks import Reading
from thoraxseg.agreement.matching import alike
from thoraxseg.agreement.measuring import Measuring
from thoraxseg.agreement.observer_pages import ALONE_COLUMNS, CIGEN_COLUMNS, alone_rows, cigen_row, pair_rows
from thoraxseg.agreement.scan import Absent, Drawn, read_drawn
from thoraxseg.agreement.scan_scores import OBSERVER_DEFINITIONS, PAIR_KEYS, add_models, scan_scores
from thoraxseg.agreement.study_page import study_sections
from thoraxseg.agreement.words import percent, some, whys
from thoraxseg.agreement.writing import Csv, Report, collapsed, finished
from thoraxseg.errors import InputError, OptionError
from thoraxseg.files import safe_name
from thoraxseg.metrics import summary
from thoraxseg.progress import Progress, part, silent
from thoraxseg.report import printable


@dataclass(frozen=True)
class Study:
    """How every scan of a study is measured."""

    people: tuple[str, ...]
    models: tuple[str, ...] = ()
    reading: Reading = Reading()
    how: Measuring = Measuring()
    absent: Absent = Absent.AUTO
    staple: bool = False
    """Write the consensus by STAPLE, too."""
    masks: bool = False
    """Write the consensus and the disagreement of every scan."""

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules by which a consensus is made of every scan."""
        return rules_of(self.staple) if self.masks else ("majority",) if self.models else ()

    def read(self, scan: Scan, progress: Progress = silent, without: Collection[str] = ()) -> Drawn:
        """Return the masks of a scan but those of some models.

        Raises InputError where a file is missing or does not fit the others.
        """
        every = [name for name in (*self.people, *self.models) if name not in without]
        files = {name: scan.file(name) for name in every if scan.files[name] is not None}
        there = [name for name in self.people if name in files]
        if len(there) < 2:
            raise InputError(f"{scan.where}: expected masks of two observers or more, got {len(there)}.")
        return read_drawn(scan.case, files, self.reading, self.absent, self.models, progress)

    def unfit(self, scan: Scan) -> dict[str, str]:
        """Return the models whose file is missing or does not fit the observers', and why."""
        found = {}
        for model in self.models:
            try:
                self.read(scan, without=[name for name in self.models if name != model])
            except InputError as error:
                found[model] = str(error)
        return found

    def write(self, scan: Scan, folder: Path) -> None:
        """Write the consensus and the disagreement of a scan."""
        drawn = self.read(scan, without=self.models)
        consensus = {rule: make_consensus(drawn, rule)[0] for rule in self.rules}
        write_consensus(drawn, consensus, folder, f"{safe_name(scan.case)}_")

    def to_record(self) -> dict[str, Any]:
        """Return the options as they go into a record."""
        return {
            **self.how.to_record(),
            **self.reading.to_record(),
            "absent": self.absent.value,
            "staple": self.staple,
        }


@dataclass(frozen=True, eq=False)
class Measured:
    """One scan and its scores, without the voxels."""

    scan: Scan
    drawn: Drawn
    rows: list[dict[str, Any]]
    notes: list[str]
    warnings: list[str]
    unfit: dict[str, str]
    """Models that could not be judged here, and why."""

    @property
    def lowest(self) -> float:
        """The CIgen of the structure that the observers agree on least; 1 where none is defined."""
        return min((row["cigen"] for row in self.rows if row["cigen"] is not None), default=1.0)


def observer_study(
    manifest: Path,
    models: Sequence[str] = (),
    reading: Reading | None = None,
    how: Measuring | None = None,
    absent: Absent = Absent.AUTO,
    staple: bool = False,
    masks: bool = False,
    progress: Progress = silent,
) -> Report:
    """Return the agreement of observers over the scans of a table with the columns case, animal and one per observer.

    `models` names the columns that hold a model's masks: they are judged against the observers' consensus. A scan
    that cannot be read is listed under `failures`; the others are measured. With `masks` the consensus and the
    disagreement of every scan are written too. Raises InputError for a bad table, and when no scan could be measured.
    """
    cohort = read_manifest(manifest)
    models = tuple(dict.fromkeys(models))
    people = _people(cohort, models)
    reading, how = reading or Reading(), how or Measuring()
    reading.check_roles(cohort.readers)
    study = Study(people, tuple(models), reading, how, absent, staple, masks)
    found, failures = _all_scans(study, cohort, part(progress, 0, 0.9))
    progress(0.9, "Drawing")
    rows = _over_scans(found, models)
    record = finished(
        {**OBSERVER_DEFINITIONS, "cigen_mean": "Mean of the CIgen over scans, with SD (ddof 1) and median."},
        study.to_record(),
        [
            *(
                []
                if models
                else ["Every column but case and animal counts as an observer; --model takes models out."]
            ),
            *collapsed((one.scan.case, note) for one in found for note in one.notes),
        ],
        collapsed((one.scan.case, text) for one in found for text in one.warnings),
        structures=rows,
        observer_names=[printable(name) for name in people],
        models=[printable(name) for name in models],
        cases=[
            {
                "case": printable(one.scan.case),
                "animal": printable(one.scan.animal),
                "structures": one.rows,
                "inputs": list(one.drawn.inputs),
            }
            for one in found
        ],
        failures=failures,
        inputs=[cohort.to_record()],
    )
    worst = min(found, key=lambda one: one.lowest)
    about = [({"case": one.scan.case, "animal": one.scan.animal}, one.rows) for one in found]
    return Report(
        "observers",
        record,
        "Agreement between observers",
        f"{len(people)} observers ({some(list(map(printable, people)))}), {len(found)} scans of "
        f"{len({one.scan.animal for one in found})} animals",
        [(percent(row["cigen_mean"]), f"mean CIgen, {row['name']}") for row in rows[:6]],
        lambda: study_sections(record, study.read(worst.scan, without=models)),
        {
            "": Csv(
                ["case", "animal", *CIGEN_COLUMNS],
                [{**case, **cigen_row(row)} for case, own in about for row in own],
            ),
            "_pairs": Csv(
                ["case", "animal", "structure", "a", "b", *PAIR_KEYS, "remarks"],
                [{**case, **row} for case, own in about for row in pair_rows(own)],
            ),
            "_without_each": Csv(
                ["case", "animal", "structure", *ALONE_COLUMNS],
                [{**case, **row} for case, own in about for row in alone_rows(own)],
            ),
            **({"_models": _models_csv(about)} if models else {}),
        },
        _writers(study, found) if masks else (),
    )


def _models_csv(about: Sequence[tuple[dict[str, str], list[dict[str, Any]]]]) -> Csv:
    """Return the scores of every model against the consensus, a row for every scan and structure."""
    rows = [
        {**case, "structure": row["name"], **entry, "remarks": "; ".join(whys(entry["undefined"]))}
        for case, own in about
        for row in own
        for entry in row.get("models", ())
    ]
    return Csv(["case", "animal", "structure", "model", "cigen", "dsc", "msd_mm", "hd95_mm", "remarks"], rows)


def _people(cohort: Manifest, models: Sequence[str]) -> tuple[str, ...]:
    if unknown := [name for name in models if name not in cohort.readers]:
        raise OptionError(
            f"--model: {', '.join(unknown)} is no column of {cohort.path}; it has {', '.join(cohort.readers)}."
        )
    people = tuple(name for name in cohort.readers if name not in models)
    if len(people) < 2:
        raise InputError(
            f"{cohort.path}: expected columns of two observers or more beside case, animal and the models, got "
            f"{', '.join(people) or 'none'}."
        )
    return people


def _all_scans(
    study: Study, cohort: Manifest, progress: Progress
) -> tuple[list[Measured], list[dict[str, str]]]:
    """Return every scan that can be measured, and why others cannot; raises InputError when none can."""
    found, failures = [], []
    for index, scan in enumerate(cohort.scans):
        span = part(progress, index / len(cohort.scans), (index + 1) / len(cohort.scans))
        try:
            found.append(_measured(study, scan, span))
            failures += [
                {"case": printable(scan.case), "model": printable(model), "reason": printable(reason)}
                for model, reason in found[-1].unfit.items()
            ]
        except InputError as error:
            failures.append({"case": printable(scan.case), "reason": printable(str(error))})
    if not found:
        reasons = collapsed((one["case"], one["reason"]) for one in failures)
        raise InputError(f"{cohort.path}: no scan could be measured. {' '.join(reasons)}")
    # One structure has one name in all scans, whatever capitals they write it with.
    names: dict[str, str] = {}
    for one in found:
        for row in one.rows:
            row["name"] = names.setdefault(alike(row["name"]), row["name"])
    return found, failures


def _measured(study: Study, scan: Scan, progress: Progress) -> Measured:
    unfit: dict[str, str] = {}
    try:
        drawn = study.read(scan, part(progress, 0, 0.2))
    except InputError:
        unfit = study.unfit(scan)
        if len(unfit) in (0, len(study.models)):  # maybe an observer's fault: this raises if so
            study.read(scan, without=study.models)
        drawn = study.read(scan, part(progress, 0, 0.2), unfit)
    rows = scan_scores(drawn, study.how, part(progress, 0.2, 1))
    notes = list(drawn.matched.notes)
    for rule in study.rules:
        consensus, decided = make_consensus(drawn, rule)
        notes += decided
        if study.models and rule == "majority":
            add_models(rows, drawn, consensus, study.how)
    if without := [name for name in (*study.people, *study.models) if scan.files[name] is None]:
        notes.append(f"No masks of {', '.join(without)}; left out there.")
    warnings = [*drawn.matched.warnings, *drawn.decided]
    return Measured(
        scan,
        drawn.without_maps(),
        rows,
        notes,
        warnings,
        unfit,
    )


def _writers(study: Study, found: Sequence[Measured]) -> list[Callable[[Path], None]]:
    return [partial(study.write, one.scan) for one in found]


def _over_scans(found: Sequence[Measured], models: Sequence[str]) -> list[dict[str, Any]]:
    """Return per structure the CIgen over scans, of the observers and of each model against their consensus."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        for row in one.rows:
            by_name.setdefault(row["name"], []).append(row)
    rows = []
    for name, own in by_name.items():
        of_observers = summary([row["cigen"] for row in own])
        scores = {}
        for model in map(printable, models):
            values = [
                entry["cigen"] for row in own for entry in row.get("models", ()) if entry["model"] == model
            ]
            scores[model] = {f"cigen_{key}": value for key, value in summary(values).items()}
        rows.append(
            {
                "name": name,
                "label": own[0]["label"],
                "observers": max(row["observers"] for row in own),
                "scans": len(own),
                **{f"cigen_{key}": value for key, value in of_observers.items()},
                "models": scores,
            }
        )
    return rows
