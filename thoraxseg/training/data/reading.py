"""A folder, a table or a study file in, a data set out: the layout is told by what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from thoraxseg.checkpoints.card import MODALITIES, SPECIES
from thoraxseg.errors import InputError, OptionError
from thoraxseg.io import StackGeometry
from thoraxseg.training.data import from_study, manifest, nnunet_raw
from thoraxseg.training.data.animals import BESIDE, assign_animals, check_spelling
from thoraxseg.training.data.data_set import Case, DataSet
from thoraxseg.training.data.label_table import merged_table
from thoraxseg.training.data.layout import Found

_LAYOUTS = (
    "Give a folder of nnU-Net (dataset.json, imagesTr, labelsTr), a table (.csv) with the columns case, image and "
    "label, or a study file (.sqlite)."
)


def read_data_set(
    path: Path | str,
    *,
    animals: Path | str | None = None,
    labels: Mapping[int, str] | None = None,
    label_map: Mapping[str, Sequence[str]] | None = None,
    operator: str | None = None,
    species: str | None = None,
    modality: str | None = None,
    stack: StackGeometry | None = None,
) -> DataSet:
    """Return the data set in a folder of nnU-Net's raw layout, a table (CSV), or a study file.

    Images are not decoded: `check_data_set` does that.
    `animals` says which animal each case is of: a table (case, animal), a pattern whose first group it is, or `case`;
    without it, `animals.csv` beside the data set. `labels` are names of label values and go before the data set's own.
    `label_map` merges labels (`lungs`: `right_lung`, `left_lung`), drops (`background`) or ignores (`ignore`) them.
    `operator` chooses whose verdicts of a study count. `stack` is for files that state no geometry.
    Raises InputError for other layouts and as `assign_animals`, OptionError for arguments that do not fit.
    """
    path = Path(path)
    for what, value, known in (("species", species, SPECIES), ("modality", modality, MODALITIES)):
        if value is not None and value not in known:
            raise OptionError(f"--{what}: expected one of {', '.join(known)}, got {value!r:.80}.")
    found = _found(path, labels, operator)
    _check_ids(path, found)
    named = found.labels
    table = merged_table(named.structures, label_map or {}, named.ignored, named.names)
    animal_of, said = _animals(found, animals)
    cases = tuple(
        Case(one.id, animal_of[one.id], one.images, one.label, one.fold, one.structures)
        for one in found.cases
    )
    _check_fold_column(cases, path)
    dropped = [structure.name for value, structure in named.structures.items() if table.values[value] == 0]
    notes = [*found.notes, *said]
    if dropped:
        notes.append(f"Counts as background, as --label-map says: {', '.join(dropped)}.")
    return DataSet(
        found.name,
        path,
        cases,
        dict(table.labels),
        found.channels,
        species or (found.species if found.species in SPECIES else "not stated"),
        modality or (found.modality if found.modality in MODALITIES else _modality(found.channels)),
        tuple(notes),
        stack,
        table,
    )


def _found(path: Path, labels: Mapping[int, str] | None, operator: str | None) -> Found:
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}.") from error
    if not is_folder and not is_file:
        raise InputError(f"{path}: expected a data set, but there is nothing of this name. {_LAYOUTS}")
    if operator is not None and is_folder:
        raise OptionError("--operator is for study files: leave it away.")
    if is_folder:
        if nnunet_raw.is_nnunet_raw(path):
            return nnunet_raw.read_nnunet_raw(path, labels)
        raise InputError(f"{path}: expected a data set, the folder has no dataset.json. {_LAYOUTS}")
    try:
        if from_study.is_study(path):
            if labels is not None:
                raise OptionError(
                    "--labels: a study says itself what its labels stand for. Leave the option away."
                )
            return from_study.read_study(path, operator)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if operator is not None:
        raise OptionError("--operator is for study files: leave it away.")
    if path.suffix.lower() != ".csv":
        raise InputError(f"{path}: expected a data set, got another kind of file. {_LAYOUTS}")
    return manifest.read_manifest(path, labels)


def _check_ids(path: Path, found: Found) -> None:
    seen: set[str] = set()
    for case in found.cases:
        if case.id.casefold() in seen:
            raise InputError(
                f"{path}: the case {case.id!r:.80} is there twice (upper and lower case count as one)."
            )
        seen.add(case.id.casefold())


def _animals(found: Found, given: Path | str | None) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return case -> animal: what the layout itself says, unless somebody says otherwise."""
    own = {case.id: case.animal for case in found.cases if case.animal is not None}
    if given is None and len(own) == len(found.cases):
        check_spelling(own.values())
        return own, (f"{len(own)} cases are of {len({*own.values()})} animals, as the data set says.",)
    return assign_animals([case.id for case in found.cases], given, found.folder / BESIDE)


def _check_fold_column(cases: Sequence[Case], path: Path) -> None:
    folds: dict[str, Case] = {}
    for case in cases:
        other = folds.setdefault(case.animal, case)
        if other.fold != case.fold:
            raise InputError(
                f"{path}: the animal {case.animal!r:.80} is in two folds: {other.id} in {other.fold}, {case.id} in "
                f"{case.fold}. Scores on an animal that was trained on mean nothing: put all its scans in one fold."
            )


def _modality(channels: Sequence[str]) -> str:
    """Return MRI where the first channel says so; one called CT may be micro-CT, so nothing else."""
    words = channels[0].lower().replace("_", " ").replace("-", " ").split()
    return "MRI" if {"mri", "mr", "t1", "t2", "flair"} & {*words} else "not stated"
