"""Accepted cases -> one folder that nnU-Net reads as its raw data set, and we by its manifest or as what it is.

    Dataset101_Mice/
        imagesTr/CASE_0000.nii.gz      the voxels of the image as they are, never resampled
        labelsTr/CASE.nii.gz           one numbering for all cases, whatever each mask file had
        dataset.json                   nnU-Net version 2
        animals.csv                    case, animal: folds must not part an animal
        manifest.csv, labels.json      the same files once more, for `thoraxseg train`
        export.json                    who accepted what, structure by structure, and what was left out

What was not drawn must not be learned as background. So every case of the data set has all structures of it, and a case
in which one was not reviewed is refused, or left out where this is asked for. A structure that was reviewed and has no
voxel was looked for and is not there: that is learned.

Source of the layout: nnU-Net's documentation/dataset_format.md.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thoraxseg import RESEARCH_USE, __version__
from thoraxseg.errors import InputError, OptionError, OutputError
from thoraxseg.export.manifest import About, Line, write_manifest
from thoraxseg.export.reading import key_of_name, read_accepted, structure_of
from thoraxseg.files import new_folder
from thoraxseg.io import read_volume
from thoraxseg.progress import Progress, each, silent
from thoraxseg.segmentation import STRUCTURES, Structure
from thoraxseg.study import Acceptance, AcceptedCase, LeftOut
from thoraxseg.tables import write_csv
from thoraxseg.volume import MAX_GRIDS_APART, RAS_FROM_LPS, Volume, grids_apart

MAX_LABEL = 254
"""255 is kept for voxels that count in no loss."""


@dataclass(frozen=True)
class ExportOptions:
    """How a data set is called and what goes into it; raises OptionError for what nnU-Net could not use."""

    number: int
    """nnU-Net's number of the data set, 1 to 999; below 11 lie the Decathlon's."""
    name: str
    channel: str
    """What the image is. nnU-Net treats `CT` by its own rule: as absolute values, not by each image's mean."""
    species: str = "not stated"
    modality: str = "not stated"
    structures: tuple[str, ...] = ()
    """Names of what is wanted; empty: all that was reviewed in any case."""
    anonymous: bool = False
    """Codes for animals and scans, and no dates, operators or paths."""
    skip_incomplete: bool = False
    """Leave out cases in which a structure was not reviewed, instead of refusing the export."""
    skip_broken: bool = False
    """Leave out cases whose files cannot be used, instead of refusing the export."""

    def __post_init__(self) -> None:
        if not 1 <= self.number <= 999:
            raise OptionError(f"--id: expected a number from 1 to 999, got {self.number}.")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}", self.name):
            raise OptionError(
                f"--name: expected letters (A to Z), digits, '-' and '_', at most 60, got {self.name!r:.80}."
            )
        if not self.channel.strip():
            raise OptionError("--channel: expected what the images are, such as CT or MRI.")

    @property
    def folder_name(self) -> str:
        """What nnU-Net looks for."""
        return f"Dataset{self.number:03d}_{self.name}"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    cases: tuple[str, ...]
    animals: int
    labels: dict[int, Structure]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Named:
    """A case under the names that it has in the data set."""

    case: str
    animal: str
    of: AcceptedCase


def export_dataset(
    accepted: Acceptance, output: Path, options: ExportOptions, progress: Progress = silent
) -> Exported:
    """Write the accepted cases as a new folder `output/DatasetNNN_NAME`, whole or not at all.

    Raises InputError where there is no accepted case, one lacks a structure or cannot be read (unless those are to be
    left out), one image is there twice; OptionError for a structure that no case has; OutputError where the folder is
    there already or there is no space.
    """
    if not accepted.cases:
        reasons = "; ".join(f"{one.case}: {one.reason}" for one in accepted.left_out[:3])
        raise InputError(
            "expected one accepted case or more, got none. "
            + (reasons or "Nobody has accepted a scan in this study.")
        )
    keys = _keys(accepted.cases, options.structures)
    labels = {label: structure_of(key, label) for label, key in enumerate(keys, start=1)}
    cases, left_out = _complete(accepted.cases, keys, options.skip_incomplete)
    left_out = [*accepted.left_out, *left_out]
    _refuse_twins(cases)
    goal = Path(output) / options.folder_name
    table = dict(enumerate(keys, start=1))
    written, told, dropped = [], [], Counter()
    with new_folder(goal, "writing the data set") as scratch:
        (scratch / "imagesTr").mkdir()
        (scratch / "labelsTr").mkdir()
        for case in each(cases, progress, "Writing the data set"):
            try:
                image, array, background = read_accepted(case, table)
            except InputError as error:
                if not options.skip_broken:
                    raise InputError(
                        f"case {case.case}: {error} Nothing was written; --skip-broken leaves such cases out."
                    ) from error
                left_out.append(LeftOut(case.case, case.animal, str(error)))
                continue
            one = (
                _Named(case.code, case.animal_code, case)
                if options.anonymous
                else _Named(case.case, case.animal, case)
            )
            _write_nifti(scratch / _image(one), image.array, image.ijk_to_ras)
            _write_nifti(scratch / _label(one), array, image.ijk_to_ras)
            dropped.update(background)
            written.append(one)
            told.append(_told(one, image, array, table, options.anonymous))
        if not written:
            raise InputError(f"none of {len(cases)} accepted case(s) can be used: {left_out[-1].reason}")
        notes = _notes(told, dropped, keys)
        counted = _Written(written, told, labels, left_out, notes)
        _write_tables(scratch, counted, options)
    names = tuple(one.case for one in written)
    return Exported(goal, names, len({one.animal for one in written}), labels, tuple(left_out), tuple(notes))


def _keys(cases: Sequence[AcceptedCase], wanted: Sequence[str]) -> list[str]:
    """Return the keys of the structures of the data set: as asked for, else ours first, then the others by name."""
    known = {key for case in cases for key in case.structures.values()}
    if not wanted:
        keys = [key for key in STRUCTURES if key in known] + sorted(known - {*STRUCTURES})
    else:
        keys = list(dict.fromkeys(key_of_name(name) for name in wanted))
        if unknown := [key for key in keys if key not in known]:
            raise OptionError(
                f"--structures: expected some of {', '.join(sorted(known))}, got {', '.join(unknown)}."
            )
    if len(keys) > MAX_LABEL:
        raise InputError(f"expected at most {MAX_LABEL} structures, got {len(keys)}.")
    return keys


def _complete(
    cases: Sequence[AcceptedCase], keys: Sequence[str], skip: bool
) -> tuple[list[AcceptedCase], list[LeftOut]]:
    """Return the cases in which every structure was reviewed, and the others; InputError unless they may be skipped."""
    whole, short = [], []
    for case in cases:
        lacking = [key for key in keys if key not in case.structures.values()]
        if not lacking:
            whole.append(case)
            continue
        reason = f"{', '.join(lacking)} was not reviewed in it, and would be learned as background."
        short.append(LeftOut(case.case, case.animal, reason))
    if short and (not skip or not whole):
        raise InputError(
            f"{len(short)} of {len(cases)} accepted case(s) lack structures that others have, such as {short[0].case}: "
            f"{short[0].reason} Draw and accept it there (an empty segment says that there is none), choose "
            "--structures that all cases have, or leave such cases out with --skip-incomplete."
        )
    return whole, short


def _refuse_twins(cases: Sequence[AcceptedCase]) -> None:
    """Refuse one image under two names: it could be trained on under the one and validated on under the other."""
    by_image: dict[str, list[AcceptedCase]] = defaultdict(list)
    for case in cases:
        by_image[case.image_sha256 or str(case.image.resolve())].append(case)
    for twins in by_image.values():
        if len(twins) > 1:
            raise InputError(
                f"{' and '.join(case.case for case in twins)} are one image ({twins[0].image.name}). Take back the "
                "verdict on one of them."
            )


def _image(one: _Named) -> str:
    return f"imagesTr/{one.case}_0000.nii.gz"


def _label(one: _Named) -> str:
    return f"labelsTr/{one.case}.nii.gz"


def _write_nifti(path: Path, array: np.ndarray, ijk_to_ras: np.ndarray) -> None:
    """Write voxels as NIfTI and read them back: ITK writes less than the whole on a full disk without a word."""
    import SimpleITK

    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    image = SimpleITK.GetImageFromArray(array)
    lps = RAS_FROM_LPS @ ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    try:
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        SimpleITK.WriteImage(image, str(path), useCompression=True)
        back = read_volume(path, allow_constant=True)
    except (RuntimeError, InputError) as error:
        raise OutputError(
            f"{path.name} could not be written whole. Is there space on the disk? ({' '.join(str(error).split()):.200})"
        ) from error
    if (
        not np.array_equal(back.array, array)
        or grids_apart(array.shape, ijk_to_ras, back.ijk_to_ras) > MAX_GRIDS_APART
    ):
        raise OutputError(
            f"{path.name}: NIfTI does not keep this image as it is ({array.dtype}, its voxels or place)."
        )


def _told(
    one: _Named, image: Volume, array: np.ndarray, table: dict[int, str], anonymous: bool
) -> dict[str, Any]:
    """Return what the record says of a case; without names, dates and digests where it is to be anonymous."""
    counts = np.bincount(array.ravel(), minlength=len(table) + 1)
    told = {
        "case": one.case,
        "animal": one.animal,
        "corrected": one.of.corrected,
        "shape_kji": list(image.shape),
        "spacing_mm_kji": list(image.spacing_mm),
        "voxels": {key: int(counts[label]) for label, key in table.items()},
    }
    if anonymous:
        return told
    source = {"image": one.of.image.name, "mask": one.of.mask.name}
    digests = {"image_sha256": one.of.image_sha256 or None, "mask_sha256": one.of.mask_sha256}
    return told | source | digests | {"operator": one.of.operator, "accepted_utc": one.of.verdict_time}


def _notes(told: Sequence[dict[str, Any]], dropped: Counter[str], keys: Sequence[str]) -> list[str]:
    notes = [
        f"{key} became background ({voxels:,} voxels): it is no structure of this data set."
        for key, voxels in sorted(dropped.items())
    ]
    for key in keys:
        empty = [one["case"] for one in told if not one["voxels"][key]]
        if len(empty) == len(told):
            notes.append(f"{key} has no voxel in any case: it cannot be learned from this data set.")
        elif empty:
            more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
            notes.append(
                f"{key} was reviewed and is not there in {len(empty)} case(s): {', '.join(empty[:5])}{more}."
            )
    if as_found := sum(not one["corrected"] for one in told):
        notes.append(
            f"{as_found} of {len(told)} case(s) were accepted without an edit that the study knows of. Where a model "
            "made them, they repeat what it knew."
        )
    return notes


@dataclass(frozen=True)
class _Written:
    cases: Sequence[_Named]
    told: Sequence[dict[str, Any]]
    labels: dict[int, Structure]
    left_out: Sequence[LeftOut]
    notes: Sequence[str]


def _write_tables(folder: Path, done: _Written, options: ExportOptions) -> None:
    data = {
        "channel_names": {"0": options.channel},
        "labels": {"background": 0} | {structure.key: label for label, structure in done.labels.items()},
        "numTraining": len(done.cases),
        "file_ending": ".nii.gz",
        "name": options.name,
        "species": options.species,
        "modality": options.modality,
        "description": f"Accepted contours, exported by thoraxseg {__version__}. {RESEARCH_USE}",
    }
    _write_json(folder / "dataset.json", data)
    write_csv(
        folder / "animals.csv",
        ["case", "animal"],
        [{"case": one.case, "animal": one.animal} for one in done.cases],
    )
    lines = [Line(one.case, one.animal, [_image(one)], _label(one)) for one in done.cases]
    about = About(options.name, done.labels, [options.channel], options.species, options.modality)
    write_manifest(folder / "manifest.csv", lines, about)
    left_out: Any = [{"case": one.case, "animal": one.animal, "reason": one.reason} for one in done.left_out]
    record = {
        "notice": RESEARCH_USE,
        "made_with": f"thoraxseg {__version__}",
        "reviewed": [structure.key for structure in done.labels.values()],
        "cases": done.told,
        "left_out": len(left_out) if options.anonymous else left_out,
        "notes": done.notes,
    }
    _write_json(folder / "export.json", record)


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
