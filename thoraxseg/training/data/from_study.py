"""The accepted cases of a study file: what a person corrected or approved becomes what a network learns from."""

from __future__ import annotations

from pathlib import Path

from thoraxseg.errors import InputError
from thoraxseg.io import hash_input
from thoraxseg.segmentation import Structure
from thoraxseg.study import acceptance, open_study
from thoraxseg.training.data.label_table import structure_named
from thoraxseg.training.data.layout import Found, FoundCase
from thoraxseg.training.data.manifest import named_by_keys
from thoraxseg.training.data.words import some

_MAGIC = b"SQLite format 3\0"


def is_study(path: Path) -> bool:
    """Return whether a file is an SQLite database, whatever its name."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read_study(path: Path, operator: str | None) -> Found:
    """Return the cases that were accepted (by `operator`, if given) and whose files are there and unchanged.

    Files are read for their digest. Notes say which accepted cases were left out and why. Raises InputError where
    none is left, OptionError for an operator who is not in the study.
    """
    accepted = acceptance(open_study(path), operator)
    notes = [f"{one.case} was accepted and left out: {one.reason}" for one in accepted.left_out]
    usable = []
    for case in accepted.cases:
        if case.image_sha256 and hash_input(case.image) != case.image_sha256:
            notes.append(
                f"{case.case} was accepted and left out: {case.image} was changed after that. Judge it again."
            )
        else:
            usable.append(case)
    if accepted.others:
        notes.append(f"{accepted.others} scan(s) of the study are not accepted and were left out.")
    if not usable:
        raise InputError(
            f"{path}: expected one accepted scan or more whose contours can be used, got none. {' '.join(notes)}"
        )
    structures: dict[str, Structure] = {}
    for case in usable:
        for label, key in case.structures.items():
            structures.setdefault(key, structure_named(key, label))
    untouched = [case.case for case in usable if not case.corrected]
    if untouched:
        notes.append(
            f"{len(untouched)} of {len(usable)} case(s) were accepted without an edit that the study knows of: "
            f"{some(untouched)}. Where a model made them, they repeat what it knew."
        )
    return Found(
        path.stem,
        tuple(
            FoundCase(one.case, (one.image,), one.mask, one.animal, structures=dict(one.structures))
            for one in usable
        ),
        named_by_keys(structures, path),
        ("image",),
        tuple(notes),
        None,
        None,
        path.parent,
    )
