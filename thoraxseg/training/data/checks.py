"""Looking through a whole data set before anything is trained: what is broken is named, skipped on request, counted."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from thoraxseg.errors import InputError, ThoraxSegError
from thoraxseg.progress import Progress, each, silent
from thoraxseg.training.data.content import read_case
from thoraxseg.training.data.data_set import DataSet
from thoraxseg.training.data.words import some
from thoraxseg.volume import volume_sha256

SKIP = "Correct them, or leave them out with --skip-broken."


@dataclass(frozen=True)
class Checked:
    """A data set that can be trained on, and what was found on the way."""

    data: DataSet
    """Without the broken cases; its notes tell of them."""
    rows: tuple[dict[str, Any], ...]
    """One a case, in order: case, animal, shape_kji, spacing_mm_kji, axis_codes, `voxels_KEY` for each structure,
    problem."""
    broken: dict[str, str]
    """Case -> why it was left out, in one sentence."""
    without: dict[str, int]
    """Structure key -> how many usable cases have no voxel of it."""


def check_data_set(data: DataSet, skip_broken: bool = False, progress: Progress = silent) -> Checked:
    """Read every case and return the data set of those that can be used.

    A case is broken when a file cannot be read exactly, channels or labels are on different grids, a label value is
    not in the table, or nobody contoured it. Raises InputError, naming them, where some are and `skip_broken` is not
    asked; where none is left; where a structure has no voxel in any case; and where one image belongs to two animals.
    """
    rows, broken = [], {}
    seen: dict[str, str] = {}
    alike: dict[str, str] = {}
    for case in each(data.cases, progress, "Looking through the data set"):
        row: dict[str, Any] = {"case": case.id, "animal": case.animal}
        try:
            if case.label is None:
                raise InputError(f"case {case.id}: expected contours, the data set names none for it.")
            content = read_case(case, data)
        except ThoraxSegError as problem:
            broken[case.id] = row["problem"] = str(problem)
        else:
            first = content.volumes[0]
            row |= {"shape_kji": list(first.shape), "spacing_mm_kji": list(first.spacing_mm)}
            row["axis_codes"] = first.axis_codes
            row |= {f"voxels_{data.labels[label].key}": count for label, count in content.counts.items()}
            row["problem"] = ""
            digest = "".join(volume_sha256(volume) for volume in content.volumes)
            if seen.setdefault(digest, case.id) != case.id:
                alike[case.id] = seen[digest]
        rows.append(row)
    if broken and not skip_broken:
        told = " | ".join(f"{name}: {problem}" for name, problem in list(broken.items())[:3])
        raise InputError(
            f"{data.name}: {len(broken)} of {len(data.cases)} cases cannot be used: {some(broken)}. {SKIP} {told}"
        )
    if len(broken) == len(data.cases):
        told = next(iter(broken.values()), "There are no cases.")
        raise InputError(f"{data.name}: expected one case or more that can be used, all are broken. {told}")
    _check_alike(alike, data)
    return _result(data, rows, broken, alike)


def _check_alike(alike: dict[str, str], data: DataSet) -> None:
    """Raise InputError where the same image stands under two animals: it could be trained on and validated on."""
    for one, other in alike.items():
        if data.animals[one] != data.animals[other]:
            raise InputError(
                f"{data.name}: the cases {other} and {one} have the same image, voxel for voxel, and count as two "
                f"animals, {data.animals[other]} and {data.animals[one]}. Take one of them out, or name one animal."
            )


def _result(
    data: DataSet, rows: list[dict[str, Any]], broken: dict[str, str], alike: dict[str, str]
) -> Checked:
    totals: dict[str, int] = defaultdict(int)
    without: dict[str, int] = defaultdict(int)
    usable = [row for row in rows if not row["problem"]]
    for structure in data.labels.values():
        counts = [row[f"voxels_{structure.key}"] for row in usable]
        totals[structure.key] = sum(counts)
        without[structure.key] = counts.count(0)
    if empty := [structure.name for structure in data.labels.values() if not totals[structure.key]]:
        raise InputError(
            f"{data.name}: expected voxels of every structure, {', '.join(empty)} has none in all {len(usable)} usable "
            "cases, so it cannot be learned. Take it out of the table of labels, or add cases that have it."
        )
    notes = [f"{structure.name}: in {len(usable) - without[structure.key]} of {len(usable)} cases."
             for structure in data.labels.values() if without[structure.key]]  # fmt: skip
    if broken:
        notes.append(
            f"{len(broken)} of {len(data.cases)} cases are broken and were left out: {some(broken)}."
        )
    if alike:
        pairs = [f"{other} and {one}" for one, other in alike.items()]
        notes.append(f"The same image is there twice, of one animal: {some(pairs)}.")
    return Checked(data.without({*broken}, *notes), tuple(rows), broken, dict(without))
