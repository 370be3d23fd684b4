"""What a protocol runs on: scans with the contours that count as true, whatever the layout they lay in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from thoraxseg.agreement.words import some
from thoraxseg.checkpoints import structures
from thoraxseg.errors import InputError, OptionError
from thoraxseg.io import StackGeometry, read_segmentation, read_volume
from thoraxseg.roads import check_same_grid
from thoraxseg.segmentation import STRUCTURES
from thoraxseg.volume import Volume

MAX_FILES = 100_000


@dataclass(frozen=True)
class Reference:
    """The contours of one observer of one scan: a label map with names, or one mask a structure."""

    path: Path | None = None
    """A label map: a file, or a folder of slices."""
    labels: Mapping[int, str] = field(default_factory=dict)
    """What its values stand for, by key or name; empty for a .seg.nrrd, which says it itself."""
    masks: Mapping[str, Path] = field(default_factory=dict)
    """Or a mask by structure key."""


@dataclass(frozen=True)
class Scan:
    """One scan of a test set."""

    case: str
    animal: str
    """Or person; scans of one animal are not independent."""
    group: str
    """Test set, where a paper has several."""
    image: Path
    references: Mapping[str, Reference]
    """By observer: `1`, `2` ..."""
    broken: str = ""
    """Why it cannot be scored, where the listing of the folder tells already."""
    dark: bool | None = None
    """Whether its slices are enhanced before a network sees them (mouse MRI)."""


@dataclass(frozen=True)
class Cohort:
    """The scans of a data set and what its reader has to say of them."""

    scans: tuple[Scan, ...]
    notes: tuple[str, ...] = ()
    incomparable: tuple[str, ...] = ()
    """Why no number of this cohort can be laid beside the paper's."""
    stack_geometry: StackGeometry | None = None
    """For files that state no geometry."""


def choose(cohort: Cohort, cases: Sequence[str] | None) -> Cohort:
    """Return the cohort with the named cases alone, in its own order; all for None.

    Raises OptionError for an unknown or repeated name.
    """
    if cases is None:
        return cohort
    known = [scan.case for scan in cohort.scans]
    unknown = [case for case in cases if case not in known]
    if unknown or len({*cases}) < len(cases):
        raise OptionError(
            f"--cases: expected different names out of {some(known)}, got {', '.join(unknown or cases)[:200]}."
        )
    note = f"{len(cases)} of {len(known)} scans, as chosen with --cases."
    scans = tuple(scan for scan in cohort.scans if scan.case in cases)
    return replace(cohort, scans=scans, notes=(*cohort.notes, note))


def check_cohort(scans: Iterable[Scan], training: Iterable[str], where: Path) -> None:
    """Raise InputError for a case that is there twice, or an animal on both sides of the split.

    `training` are the animals that the layout shows to be trained on, named as in the scans.
    """
    seen: set[str] = set()
    twice = [scan.case for scan in scans if scan.case.casefold() in seen or seen.add(scan.case.casefold())]
    if twice:
        raise InputError(
            f"{where}: the case {twice[0]!r:.80} is there twice, so no number would belong to one scan. Remove "
            "one of them or rename it."
        )
    both = sorted({scan.animal for scan in scans} & {*training})
    if both:
        raise InputError(
            f"{where}: {some(both)} is both in the training and in the test part. Scores on an animal that was "
            "trained on mean nothing: take it out of one of them, or name the test scans with --layout."
        )


def read_scan(scan: Scan, cohort: Cohort) -> Volume:
    """Return the image of a scan; raises InputError, also for a scan that its layout shows to be broken."""
    if scan.broken:
        raise InputError(scan.broken)
    return read_volume(scan.image, cohort.stack_geometry)


def read_labels(
    reference: Reference, volume: Volume, wanted: Mapping[int, str], cohort: Cohort
) -> tuple[np.ndarray, set[int]]:
    """Return the contours as a label map `(K, J, I)` uint8 on the grid of the image, and what was contoured.

    `wanted` gives a label to each structure key; other structures become background. A label counts as contoured
    when the reference names it, whether it has voxels or not. Raises InputError for values without a name,
    masks that overlap, and another grid.
    """
    if reference.masks:
        return _from_masks(reference.masks, volume, wanted, cohort)
    path = reference.path
    if path.name.lower().endswith(".seg.nrrd"):
        found = read_segmentation(path)
        grid = Volume(found.labels, found.ijk_to_ras, path.name)
        named = {label: structures.key_of(one) for label, one in found.structures.items()}
    else:
        grid = read_volume(path, cohort.stack_geometry, allow_constant=True)
        named = {label: key_of(word) for label, word in reference.labels.items()}
    check_same_grid([volume, grid])
    values = np.unique(grid.array)
    unknown = [value for value in values.tolist() if value != 0 and value not in named]
    if unknown:
        raise InputError(
            f"{path}: expected a label map with the values 0 and {sorted(named)}, got also {unknown[:10]}. Is "
            "this an image, or are its labels numbered otherwise?"
        )
    labels = np.zeros(grid.shape, dtype=np.uint8)
    by_key = {key: label for label, key in wanted.items()}
    for value, key in named.items():
        if key in by_key:
            labels[grid.array == value] = by_key[key]
    return labels, {by_key[key] for key in named.values() if key in by_key}


def _from_masks(
    masks: Mapping[str, Path], volume: Volume, wanted: Mapping[int, str], cohort: Cohort
) -> tuple[np.ndarray, set[int]]:
    labels = np.zeros(volume.shape, dtype=np.uint8)
    for label, key in wanted.items():
        if key not in masks:
            continue
        grid = read_volume(masks[key], cohort.stack_geometry, allow_constant=True)
        check_same_grid([volume, grid])
        values = np.unique(grid.array)
        if len(values) > 2 or (len(values) == 2 and values[0] != 0):
            raise InputError(
                f"{masks[key]}: expected a mask of one structure, 0 and one other value, got {len(values)} values."
            )
        inside = grid.array != 0
        taken = int(np.count_nonzero(labels[inside]))
        if taken:
            raise InputError(
                f"{masks[key]}: {taken:,} of its voxels belong to another structure too. Each voxel has one label: "
                "correct the masks."
            )
        labels[inside] = label
    return labels, {label for label, key in wanted.items() if key in masks}


def key_of(name: str) -> str:
    """Return the key of a structure for the name a data set gives it: `Lung_R` is `right_lung`."""
    return name if name in STRUCTURES else structures.named(name, 0).key


def list_files(root: Path) -> list[Path]:
    """Return all files below a folder, sorted; hidden ones and those that macOS adds to archives are left out.

    Links to folders are not followed. Raises InputError for a folder that is not there, a file, or a folder with
    more than `MAX_FILES` files: it is not a data set.
    """
    check_folder(root)
    files: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        files += [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
        if len(files) > MAX_FILES:
            raise InputError(
                f"{root}: expected the folder of one data set, got one with more than {MAX_FILES:,} files."
            )
    return files


def check_folder(root: Path) -> None:
    """Raise InputError unless there is a folder of this name."""
    if not root.exists():
        raise InputError(f"{root}: expected the folder of the data set, but there is none of this name.")
    if not root.is_dir():
        raise InputError(
            f"{root}: expected the folder of the data set, got a file. Unpack an archive first and give its folder."
        )


def found_in(root: Path, files: Sequence[Path] | None = None) -> str:
    """Return in words what lies in a folder, for the message that it is not what was expected."""
    entries = sorted(root.iterdir()) if files is None else files
    names = [f"{path.relative_to(root)}{'/' if path.is_dir() else ''}" for path in entries]
    return some(names) if names else "an empty folder"
