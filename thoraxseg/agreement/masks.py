"""Mask files, or masks in memory -> label maps with what their labels are called, as their source or the user says."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from thoraxseg.agreement.remedies import COMMAND_LINE, Remedies
from thoraxseg.checkpoints.structures import named, other
from thoraxseg.errors import InputError, OptionError
from thoraxseg.io import MAX_LABEL, StackGeometry, hash_input, read_label_map
from thoraxseg.report import printable
from thoraxseg.segmentation import STRUCTURES, Segmentation, Structure
from thoraxseg.volume import spacing_mm

MAX_LABELS = 150
"""More different values than this make an image, not a label map."""


@dataclass(frozen=True)
class Reading:
    """How mask files are understood."""

    names: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Names of label values: of one file by its role, or of all label maps under `""`."""
    merge: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """New structure -> the structures that it is made of, as in lungs -> right lung, left lung."""
    resample: bool = False
    """Bring masks on other grids onto the first one's with nearest neighbors, instead of refusing them."""
    spacing_mm: tuple[float, float, float] | None = None
    """Spacing (k, j, i) of stacks that state none."""
    remedies: Remedies = COMMAND_LINE
    """What is advised where masks do not fit."""

    def check_roles(self, roles: Collection[str]) -> None:
        """Raise OptionError where names are given for a file that is not there: they would have no effect."""
        if unknown := [role for role in self.names if role and role not in roles]:
            raise OptionError(
                f"--labels: there is no {', '.join(unknown)} here; before the colon expected one of {', '.join(roles)}."
            )

    def to_record(self) -> dict[str, Any]:
        """Return what was asked for, as it goes into a record."""
        return {
            "labels": {
                printable(role): {str(value): printable(name) for value, name in own.items()}
                for role, own in self.names.items()
            },
            "merge": {
                printable(name): [printable(one) for one in parts] for name, parts in self.merge.items()
            },
            "resample": self.resample,
            "spacing_mm": None if self.spacing_mm is None else list(self.spacing_mm),
        }


@dataclass(frozen=True, eq=False)
class Masks:
    """The label map of one file, or of one segmentation in memory."""

    role: str
    """What the file is in the comparison: reference, prediction, the name of an observer."""
    name: str
    """What messages call it: the name of the file."""
    where: str
    """The same where an error begins with it: the path of the file."""
    labels: np.ndarray
    """`(K, J, I)`, whole numbers; 0 is background."""
    ijk_to_ras: np.ndarray
    structures: Mapping[int, Structure]
    """What each label value stands for, also of values without a voxel."""
    is_named: bool
    """Whether the file, or --labels, names its structures; else they are known by value only."""
    declares: bool
    """Whether the file itself lists its structures, so that one without a voxel was meant to be empty."""
    sha256: str
    notes: tuple[str, ...] = ()
    unnamed: tuple[int, ...] = ()
    """The values that --labels does not name; they were left out."""
    is_assumed: bool = False
    """Whether its grid, and so which side is right, was assumed and not stated by the file."""

    @property
    def is_empty(self) -> bool:
        """Whether no voxel has a label."""
        return not self.labels.any()

    def to_record(self) -> dict[str, object]:
        """Return what identifies the file and its grid."""
        return {
            "role": printable(self.role),
            "name": printable(self.name),
            "sha256": self.sha256,
            "shape_kji": list(self.labels.shape),
            "spacing_mm_kji": list(spacing_mm(self.ijk_to_ras)),
            "labels": {str(value): printable(one.name) for value, one in self.structures.items()},
        }


def read_masks(path: Path, role: str, reading: Reading) -> Masks:
    """Return the label map or segmentation in a file, with what its labels are called.

    Raises InputError for files that are no label map, and OptionError for names that contradict what the file says.
    """
    path = Path(path)
    geometry = None
    if reading.spacing_mm is not None:
        geometry = StackGeometry(reading.spacing_mm, "LPS", "from --spacing")
    found = read_label_map(path, geometry)
    own = reading.names.get(role)
    if isinstance(found, Segmentation):
        if own is not None:
            raise OptionError(
                f"--labels {role}: {path.name} names its segments itself. Leave the option out for it."
            )
        digest = hash_input(path)
        return Masks(
            role,
            path.name,
            str(path),
            found.labels,
            found.ijk_to_ras,
            found.structures,
            is_named=True,
            declares=True,
            sha256=digest,
        )
    values = present(found.array)
    if len(values) > MAX_LABELS:
        raise InputError(
            f"{path}: expected a label map, got {len(values):,} different values. Give the masks, not the image."
        )
    names = own if own is not None else reading.names.get("")
    notes = found.notes
    labels = found.array
    silent: list[int] = []
    if names is None:
        structures = {value: unnamed(value) for value in values}
    else:
        structures = {value: named(name, value) for value, name in names.items()}
        silent = [value for value in values if value not in names]
        if silent:
            voxels = int(np.isin(labels, silent).sum())
            which = ", ".join(map(str, silent))
            notes += (
                f"{path.name}: --labels does not name the label(s) {which}: {voxels:,} voxels were left out.",
            )
            labels = np.where(np.isin(labels, silent), 0, labels)
    return Masks(
        role,
        path.name,
        str(path),
        labels,
        found.ijk_to_ras,
        structures,
        is_named=names is not None,
        declares=False,
        sha256=hash_input(path),
        notes=tuple(notes),
        unnamed=tuple(silent),
        is_assumed=found.geometry_assumed,
    )


def masks_from(segmentation: Segmentation, role: str) -> Masks:
    """Return a segmentation in memory as the masks of an observer; each of its structures counts as contoured.

    What a structure is, its name says; a key of ours (recognized by codes) where the name says nothing. Notes say
    where it was the key. Raises InputError where name and key are two structures of ours.
    """
    structures, notes = {}, []
    for value, structure in segmentation.structures.items():
        by_name, by_key = STRUCTURES.get(named(structure.name, 0).key), STRUCTURES.get(structure.key)
        structures[value] = by_name or by_key or structure
        if by_key is None or by_key is by_name:
            continue
        if by_name is None:
            notes.append(f"{role}: {structure.name!r:.80} is taken as {by_key.name}, which its code says.")
        elif by_name.terminology.type != by_key.terminology.type or by_key.key != "lungs":
            raise InputError(
                f"{segmentation.name}: segment {structure.name!r:.80}: expected name and code of one structure, got "
                f"the code of {by_key.name}. Rename it, or correct what it is."
            )
    return Masks(
        role,
        segmentation.name,
        segmentation.name,
        segmentation.labels,
        segmentation.ijk_to_ras,
        structures,
        is_named=True,
        declares=True,
        sha256=_digest(segmentation, structures),
        notes=tuple(notes),
    )


def _digest(segmentation: Segmentation, structures: Mapping[int, Structure]) -> str:
    """Return the SHA-256 of voxels, grid and names."""
    labels = np.ascontiguousarray(segmentation.labels)
    names = {value: one.name for value, one in sorted(structures.items())}
    digest = hashlib.sha256(f"{labels.dtype.str} {labels.shape} {names}".encode("utf-8", "surrogateescape"))
    digest.update(np.ascontiguousarray(segmentation.ijk_to_ras, dtype="<f8").data)
    digest.update(labels.data)
    return digest.hexdigest()


def present(labels: np.ndarray) -> list[int]:
    """Return the values in a label map but 0, in order; slice by slice, since sorting a whole volume is slow."""
    seen: set[int] = set()
    for plane in labels:
        if plane.dtype.itemsize == 1:
            seen.update(np.flatnonzero(np.bincount(plane.ravel(), minlength=1)).tolist())
        else:
            seen.update(np.unique(plane).tolist())
    return sorted(int(value) for value in seen - {0})


def unnamed(value: int) -> Structure:
    """Return the structure of a label that nothing is known of but its value."""
    return replace(other(f"label {value}", value), name=f"label {value}")


def parse_names(texts: Sequence[str]) -> dict[str, dict[int, str]]:
    """Return names of label values from texts such as `1=heart,2=cord` or `prediction:4=lungs`.

    Text before a colon says whose labels are meant; without one, all label maps'. Raises OptionError.
    """
    names: dict[str, dict[int, str]] = {}
    for text in texts:
        role, colon, rest = text.rpartition(":")
        own = names.setdefault(role.strip() if colon else "", {})
        for part in rest.split(","):
            value, equals, name = (word.strip() for word in part.partition("="))
            if (
                not (equals and value.isdecimal() and 0 < int(value) <= MAX_LABEL and name)
                or int(value) in own
            ):
                raise OptionError(
                    f"--labels: expected whole numbers from 1 up with a name each, such as 1=heart,2=spinal cord, got "
                    f"{text!r:.80}."
                )
            own[int(value)] = name
    return names


def parse_merge(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return what is merged from texts such as `lungs=right lung+left lung`; raises OptionError."""
    merge: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, rest = (word.strip() for word in text.partition("="))
        parts = tuple(part.strip() for part in rest.split("+"))
        if not (equals and name and all(parts)) or len(parts) < 2 or name in merge:
            raise OptionError(
                f"--merge: expected a name and two parts or more, such as lungs=right lung+left lung, got {text!r:.80}."
            )
        merge[name] = parts
    every = Counter(part for parts in merge.values() for part in parts)
    wrong = [part for part, count in every.items() if count > 1]
    wrong += [name for name, parts in merge.items() if name in every and name not in parts]
    if wrong:
        raise OptionError(
            f"--merge: {wrong[0]!r:.80} stands in more than one. Every structure can become part of one other: name "
            "all its parts there."
        )
    return merge
