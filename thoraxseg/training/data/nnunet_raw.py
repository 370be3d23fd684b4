"""nnU-Net's raw layout: `dataset.json`, `imagesTr` and `labelsTr`, of versions 1 and 2 and of the Decathlon.

Version 2 names the ending of its files and finds cases by name, `imagesTr/CASE_0000.nii.gz` for the first channel and
`labelsTr/CASE.nii.gz`, or lists them under `dataset`. Version 1 and the Decathlon list pairs under `training`;
version 1 leaves the channel out of the listed name. Source: nnU-Net's documentation/dataset_format.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from thoraxseg.errors import InputError
from thoraxseg.training.data.folds import read_folds
from thoraxseg.training.data.label_table import labels_in_json, named_values
from thoraxseg.training.data.layout import Found, FoundCase
from thoraxseg.training.data.words import read_json, some

_ENDINGS = (".nii.gz", ".seg.nrrd", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".tif", ".tiff")


SPLITS = "splits_final.json"
"""Folds that a raw data set may bring along; nnU-Net takes them, too."""


def is_nnunet_raw(root: Path) -> bool:
    """Return whether a folder has the layout."""
    return (root / "dataset.json").is_file()


def read_nnunet_raw(root: Path, labels: Mapping[int, str] | None) -> Found:
    """Return what lies in a raw data set of nnU-Net; `labels` go before those of `dataset.json`.

    Raises InputError where the folder is not laid out so.
    """
    where = root / "dataset.json"
    data = read_json(where)
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected an object with labels and channels, got {data!r:.80}.")
    channels = _channels(data, where)
    if isinstance(data.get("dataset"), dict):
        cases, notes = _listed_by_name(root, data["dataset"], where), []
    elif isinstance(data.get("file_ending"), str):
        cases, notes = _found_by_name(root, data["file_ending"], len(channels)), []
        if isinstance(data.get("numTraining"), int) and data["numTraining"] != len(cases):
            notes.append(
                f"{where.name} speaks of {data['numTraining']} training cases, {len(cases)} are there."
            )
    else:
        cases, notes = _listed_in_pairs(root, data.get("training"), len(channels), where)
    cases, notes = _with_folds(cases, notes, root / SPLITS)
    if not cases:
        raise InputError(f"{where}: expected cases in imagesTr and labelsTr, found none. {_FORM}")
    about = {key: data[key] for key in ("name", "species", "modality") if isinstance(data.get(key), str)}
    return Found(
        about.get("name", root.name),
        tuple(cases),
        labels_in_json(data.get("labels"), where) if labels is None else named_values(labels, "--labels"),
        channels,
        tuple(notes),
        about.get("species"),
        about.get("modality"),
        root,
    )


_FORM = (
    "A data set of nnU-Net has images such as imagesTr/CASE_0000.nii.gz, labels such as labelsTr/CASE.nii.gz, and in "
    'dataset.json "channel_names", "labels" and "file_ending" (version 1: "modality", "labels" and "training").'
)


def _channels(data: dict[str, Any], where: Path) -> tuple[str, ...]:
    names = data.get("channel_names", data.get("modality"))
    if not isinstance(names, dict) or sorted(names) != sorted(map(str, range(len(names)))) or not names:
        raise InputError(
            f'{where}: expected channels such as "channel_names": {{"0": "CT"}}, got {names!r:.120}. {_FORM}'
        )
    return tuple(str(names[str(index)]) for index in range(len(names)))


def _found_by_name(root: Path, ending: str, channels: int) -> list[FoundCase]:
    """Return the cases of which there is an image or a label; what is missing of one is found when it is read."""
    images, labels = root / "imagesTr", root / "labelsTr"
    if not images.is_dir() or not labels.is_dir():
        raise InputError(f"{root}: expected the folders imagesTr and labelsTr. {_FORM}")
    form = re.compile(rf"(.+)_\d{{4}}{re.escape(ending)}")
    names = {match[1] for path in images.iterdir() if (match := form.fullmatch(path.name))}
    names |= {path.name.removesuffix(ending) for path in labels.iterdir() if path.name.endswith(ending)}
    names = {name for name in names if name and not name.startswith(".")}
    return [
        FoundCase(
            name,
            tuple(images / f"{name}_{channel:04d}{ending}" for channel in range(channels)),
            labels / f"{name}{ending}",
        )
        for name in sorted(names)
    ]


def _listed_by_name(root: Path, listed: dict[str, Any], where: Path) -> list[FoundCase]:
    cases = []
    for name, files in sorted(listed.items()):
        images, label = (files.get("images"), files.get("label")) if isinstance(files, dict) else (None, None)
        if not isinstance(images, list) or not all(isinstance(one, str) for one in (*images, label)):
            raise InputError(
                f'{where}: expected "dataset" to give images and a label for each case, got {files!r:.120} for '
                f"{name!r:.80}."
            )
        # nnU-Net takes any path here, also of another folder; ones with variables of the shell are not followed.
        cases.append(FoundCase(name, tuple(root / image for image in images), root / label))
    return cases


def _listed_in_pairs(
    root: Path, listed: Any, channels: int, where: Path
) -> tuple[list[FoundCase], list[str]]:
    pairs = [
        (item.get("image"), item.get("label"))
        for item in (listed if isinstance(listed, list) else [])
        if isinstance(item, dict)
    ]
    if not pairs or not all(isinstance(one, str) for pair in pairs for one in pair):
        raise InputError(
            f'{where}: expected "file_ending", or "training" with pairs of image and label, got {listed!r:.120}. '
            f"{_FORM}"
        )
    cases = []
    for image, label in pairs:
        for one in (image, label):
            if root.resolve() not in (root / one).resolve().parents:
                raise InputError(
                    f"{where}: lists {one!r:.120}, which lies outside of its folder. Correct the list."
                )
        cases.append(FoundCase(_stem(image), _channel_files(root / image, channels), root / label))
    known = {label.name for case in cases if (label := case.label)}
    unlisted = [
        path.name
        for path in sorted((root / "labelsTr").glob("*"))
        if path.name.endswith(_ENDINGS) and not path.name.startswith(".") and path.name not in known
    ]
    notes = [
        f"{len(unlisted)} file(s) in labelsTr are not in {where.name} and were left out: {some(unlisted)}."
    ]
    return cases, notes if unlisted else []


def _with_folds(cases: list[FoundCase], notes: list[str], splits: Path) -> tuple[list[FoundCase], list[str]]:
    """Return the cases with the fold in which `splits_final.json` validates each, where there is such a file.

    Raises InputError for folds that train on anything but all cases that they do not validate on.
    """
    if not splits.is_file():
        return cases, notes
    names, fold_of = {case.id for case in cases}, {}
    for number, fold in enumerate(read_folds(splits)):
        rest = names - {*fold.validation}
        if {*fold.training} != rest or not {*fold.validation} <= names or {*fold.validation} & {*fold_of}:
            odd = sorted(({*fold.training} ^ rest) | ({*fold.validation} & {*fold_of}) or {*fold.validation})
            raise InputError(
                f"{splits}: expected folds that validate each case at most once and train on all others, fold {number} "
                f"does not ({some(odd)}). Correct the file, or move it away and let the folds be made by animal."
            )
        fold_of |= dict.fromkeys(fold.validation, str(number))
    return [replace(case, fold=fold_of.get(case.id)) for case in cases], [
        *notes,
        f"The folds are those of {splits.name}.",
    ]


def _channel_files(path: Path, channels: int) -> tuple[Path, ...]:
    """Return one file a channel for a listed image: the file itself, or its siblings with `_0000` ..."""
    stem, ending = _parted(path.name)
    numbered = tuple(path.with_name(f"{stem}_{channel:04d}{ending}") for channel in range(channels))
    return (path,) if channels == 1 and not numbered[0].exists() else numbered


def _stem(path: str) -> str:
    return re.sub(r"_0000$", "", _parted(Path(path).name)[0])


def _parted(name: str, endings: Sequence[str] = _ENDINGS) -> tuple[str, str]:
    ending = next((one for one in endings if name.lower().endswith(one)), Path(name).suffix)
    return name[: len(name) - len(ending)], name[len(name) - len(ending) :]
