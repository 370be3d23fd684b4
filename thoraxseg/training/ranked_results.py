"""Result folders of `thoraxseg segment` in: what was found in each scan, and how much of it the model doubted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thoraxseg.checkpoints.structures import key_of
from thoraxseg.errors import InputError, ThoraxSegError
from thoraxseg.files import sha256_file
from thoraxseg.io import read_segmentation, read_volume
from thoraxseg.measure import check_anatomy, structure_doubt, structure_volumes
from thoraxseg.progress import Progress, each
from thoraxseg.segmentation import Segmentation
from thoraxseg.volume import spacing_mm

_CONTOURS, _DOUBT, _IMAGE = ".seg.nrrd", "_uncertainty.nrrd", "_image.nrrd"
_PARTIAL = ".thoraxseg-partial-"
MAX_RECORD = 16 << 20


@dataclass(frozen=True)
class FoundStructure:
    """One structure of a result; volume and doubt are None where it was not found, doubt also where none was asked."""

    key: str
    name: str
    volume_mm3: float | None
    doubt: float | None
    """Mean over the structure and a rim of one voxel, as a share of the largest possible, 0 to 1."""


@dataclass(frozen=True)
class Measure:
    """What the map of doubt of a result holds."""

    key: str
    """`entropy_nat`, or `fold_spread` where folds of one model were compared."""
    unit: str
    maximum: float


@dataclass(frozen=True)
class Contoured:
    """One scan as a model contoured it."""

    case: str
    record: Path
    image_sha256: str
    checkpoint: str
    species: str
    finished_utc: str
    spacing_mm: tuple[float, float, float]
    measure: Measure | None
    structures: tuple[FoundStructure, ...]
    implausible: tuple[str, ...]
    """What `measure.check_anatomy` says of the contours as they are now."""
    is_edited: bool
    """Whether the contours were changed since the run: then all numbers are of the changed ones."""
    gray: tuple[float, ...] | None = None
    """Gray values of the image: 1, 50 and 99 % of all, median and SD inside of the contours; None without an image."""


def find_results(places: Iterable[Path]) -> list[Path]:
    """Return the records (CASE.json) of all results in folders and below, sorted; also of those that lack files.

    A result is known by its contours or its map of doubt, so a record that is missing or damaged is in the list too;
    a .json that nothing else belongs to only if it is a record. Raises InputError for a place that is no folder.
    """
    found: set[Path] = set()
    for place in places:
        place = Path(place)
        if not place.is_dir():
            raise InputError(
                f"{place}: expected a folder with results of 'thoraxseg segment', or with such folders."
            )
        for path in place.rglob("*"):
            if any(part.startswith(_PARTIAL) for part in path.relative_to(place).parts):
                continue
            for ending in (_CONTOURS, _DOUBT):
                if path.name.endswith(ending) and path.name != ending:
                    found.add(path.with_name(path.name.removesuffix(ending) + ".json"))
            if path.suffix == ".json" and _is_record(path):
                found.add(path)
    return sorted(found)


def read_result(record: Path, image: Path | None = None) -> Contoured:
    """Return what a result says. Contours are read, the map of doubt only where contours were changed since the run.

    `image` is where the image lies; without it that of the result folder, if it has one. Raises InputError that names
    what is missing or damaged.
    """
    told = _read_record(record)
    stem = record.name.removesuffix(".json")
    path = record.with_name(stem + _CONTOURS)
    segmentation = read_segmentation(path)
    measure = _measure(told, record)
    outputs = told.get("outputs_sha256")
    is_edited = not isinstance(outputs, dict) or outputs.get(path.name) != sha256_file(path)
    doubt = _doubt(told, record, measure) if not is_edited else _doubt_anew(segmentation, record, measure)
    structures = tuple(
        FoundStructure(
            key_of(segmentation.structures[volume.label]),
            volume.name,
            volume.volume_mm3 if volume.voxels else None,
            doubt.get(volume.key) if volume.voxels else None,
        )
        for volume in structure_volumes(segmentation)
    )
    if not structures:
        raise InputError(f"{path}: expected contours of one structure or more, got none.")
    checkpoint = _part(_part(told, "provenance", record), "checkpoint", record)
    image = image or next((one for one in [record.with_name(stem + _IMAGE)] if one.exists()), None)
    return Contoured(
        case=_text(told, "case", record),
        record=record,
        image_sha256=_text(_part(told, "input", record), "sha256", record),
        checkpoint=_text(checkpoint, "name", record),
        species=_text(checkpoint, "species", record),
        finished_utc=_text(told["provenance"], "finished_utc", record),
        spacing_mm=spacing_mm(segmentation.ijk_to_ras),
        measure=measure,
        structures=structures,
        implausible=tuple(check_anatomy(segmentation)),
        is_edited=is_edited,
        gray=None if image is None else _gray(image, segmentation),
    )


def _is_record(path: Path) -> bool:
    try:
        told = _read_json(path)
    except InputError:
        return False
    return isinstance(told, dict) and {"schema", "case", "measurements", "provenance"} <= {*told}


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_RECORD:
            raise InputError(f"{path}: expected the record of a case, got more than {MAX_RECORD >> 20} MiB.")
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: the record of this result is missing: it was moved, or its run was ended."
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: expected the record of a case (JSON), got a damaged one: {error}."
        ) from error


def _read_record(path: Path) -> dict[str, Any]:
    told = _read_json(path)
    if not isinstance(told, dict) or told.get("schema") != 1:
        raise InputError(f"{path}: expected the record of a case (schema 1) that 'thoraxseg segment' wrote.")
    return told


def _part(told: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    part = told.get(key)
    if not isinstance(part, dict):
        raise InputError(f"{path}: expected {key} in the record of a case, got {part!r:.80}.")
    return part


def _text(told: dict[str, Any], key: str, path: Path) -> str:
    value = told.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"{path}: expected text for {key} in the record of a case, got {value!r:.80}.")
    return value


def _number(value: Any, key: str, path: Path) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value < 0
    ):
        raise InputError(
            f"{path}: expected a number, 0 or more, for {key} in the record of a case, got {value!r:.80}."
        )
    return float(value)


def _measure(told: dict[str, Any], path: Path) -> Measure | None:
    if told.get("uncertainty") is None:
        return None
    part = _part(told, "uncertainty", path)
    ends = part.get("range")
    if not isinstance(ends, list) or len(ends) != 2 or not _number(ends[1], "range", path) > 0:
        raise InputError(
            f"{path}: expected the range of the doubt in the record of a case, got {ends!r:.80}."
        )
    unit = part.get("unit")
    return Measure(_text(part, "key", path), unit if isinstance(unit, str) else "", float(ends[1]))


def _doubt(told: dict[str, Any], path: Path, measure: Measure | None) -> dict[str, float | None]:
    """Return the doubt of each structure as the run measured it, as a share of the largest possible."""
    if measure is None:
        return {}
    rows = _part(told, "measurements", path).get("structures")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: expected the structures in the record of a case, got {rows!r:.80}.")
    key = f"mean_{measure.key}"
    values = {_text(row, "key", path): row.get(key) for row in rows}
    return {
        name: None if value is None else min(_number(value, key, path) / measure.maximum, 1.0)
        for name, value in values.items()
    }


def _doubt_anew(segmentation: Segmentation, record: Path, measure: Measure | None) -> dict[str, float | None]:
    """Return the doubt of contours that were changed, from the map of doubt, which was not."""
    path = record.with_name(record.name.removesuffix(".json") + _DOUBT)
    if measure is None:
        return {}
    found = structure_doubt(segmentation, read_volume(path, allow_constant=True).array)
    return {one.key: None if one.mean is None else min(one.mean / measure.maximum, 1.0) for one in found}


def _gray(path: Path, segmentation: Segmentation) -> tuple[float, ...]:
    image = read_volume(path)
    if image.shape != segmentation.labels.shape:
        raise InputError(
            f"{path}: expected the image that was contoured, {segmentation.labels.shape}, got {image.shape}."
        )
    inside = image.array[segmentation.labels > 0]
    middle = (float(np.median(inside)), float(inside.std())) if inside.size else (0.0, 0.0)
    low, center, high = np.percentile(image.array, (1, 50, 99)).tolist()
    return (low, center, high, *middle)


def read_results(
    records: Sequence[Path], images: dict[str, Path], progress: Progress
) -> tuple[list[Contoured], list[tuple[Path, str]]]:
    """Return what can be read of results, and of the others the record with the sentence that says why not."""
    found, broken = [], []
    for path in each(records, progress, "Reading results"):
        try:
            found.append(read_result(path, images.get(path.name.removesuffix(".json"))))
        except (ThoraxSegError, OSError) as error:
            broken.append((path, str(error)))
    return found, broken
