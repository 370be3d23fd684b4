"""The files of one case in, its images and labels on one grid out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from thoraxseg.checkpoints.structures import key_of
from thoraxseg.errors import InputError
from thoraxseg.io import read_label_map, read_volume
from thoraxseg.roads import check_same_grid
from thoraxseg.segmentation import Segmentation, check_grid, labels_on_grid, present_labels
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.data.data_set import Case, DataSet
from thoraxseg.training.data.words import some
from thoraxseg.volume import Volume


@dataclass(frozen=True, eq=False)
class Content:
    """What the files of a case hold."""

    volumes: tuple[Volume, ...]
    """One a channel, all on one grid."""
    labels: np.ndarray | None
    """`(K, J, I)` uint8 on the same grid: the data set's labels, `IGNORE` where nothing is known."""
    lungs: np.ndarray | None
    """`(K, J, I)` bool: what the labels say lies in the lungs, tumors too; None where they name no lungs."""
    counts: dict[int, int]
    """Voxels of each label of the data set."""


def read_case(case: Case, data: DataSet) -> Content:
    """Return the images and labels of a case.

    Raises InputError naming the file: it cannot be read exactly, a channel is missing, grids differ, or label values
    are not in the data set's table.
    """
    if len(case.images) != len(data.channels):
        raise InputError(
            f"case {case.id}: expected {len(data.channels)} image(s) ({', '.join(data.channels)}), got "
            f"{len(case.images)}."
        )
    volumes = [
        # A further channel may be a map of lungs, and a map may be empty.
        read_volume(path, data.stack, allow_constant=channel > 0)
        for channel, path in enumerate(case.images)
    ]
    check_same_grid(volumes)
    if case.label is None:
        return Content(tuple(volumes), None, None, {})
    found = read_label_map(case.label, data.stack)
    raw = found.labels if isinstance(found, Segmentation) else found.array
    where = str(case.label)
    if isinstance(found, Segmentation):
        raw = labels_on_grid(where, raw, found.ijk_to_ras, volumes[0])
    else:
        check_grid(where, raw.shape, found.ijk_to_ras, volumes[0])
    keys = case.structures
    if keys is None and isinstance(found, Segmentation):
        keys = {value: key_of(structure) for value, structure in found.structures.items()}
    if keys is None:
        values, lung_values = data.table.values, data.table.lung_values
        known = ", ".join(map(str, sorted(values)))
    else:
        values = {value: data.table.keys[key] for value, key in keys.items() if key in data.table.keys}
        lung_values = {value for value, key in keys.items() if key in data.table.lung_keys}
        known = ", ".join(data.table.keys)
        _check_complete(where, set(values.values()), keys, data)
    if unknown := [value for value in present_labels(raw) if value not in values]:
        told = [value if keys is None or value not in keys else keys[value] for value in unknown]
        raise InputError(
            f"{where}: expected the labels of the data set ({known}), got also {some(told)}. Is this an image, or "
            "are its labels numbered otherwise? Correct the file or the data set's table of labels."
        )
    labels = _looked_up(raw, values).astype(np.uint8)
    # Plane by plane: a count of a whole volume takes 8 bytes a voxel.
    counts = sum(np.bincount(plane.ravel(), minlength=IGNORE + 1) for plane in labels)
    lungs = (
        _looked_up(raw, dict.fromkeys(lung_values, 1)).astype(bool)
        if data.table.lung_keys - {"tumors"}
        else None
    )
    return Content(tuple(volumes), labels, lungs, {label: int(counts[label]) for label in data.labels})


def _check_complete(where: str, contoured: set[int], keys: Mapping[int, str], data: DataSet) -> None:
    """Raise InputError where a case says nothing of a structure: it would count as background, which nobody said."""
    if missing := [structure.name for label, structure in data.labels.items() if label not in contoured]:
        raise InputError(
            f"{where}: expected contours of all that the data set contours, it names {', '.join(keys.values())} and "
            f"not {', '.join(missing)}. Add an empty segment where there is none in this scan, else leave the case out."
        )


def _looked_up(raw: np.ndarray, values: Mapping[int, int]) -> np.ndarray:
    """Return `values[v]` for every voxel v, 0 where it has none."""
    table = np.zeros(int(raw.max()) + 1, dtype=np.int16)
    for value, label in values.items():
        if value < len(table):
            table[value] = label
    return table[raw]
