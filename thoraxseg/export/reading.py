"""An accepted case in: image and mask on one grid, and what the labels of the mask stand for."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np

from thoraxseg.checkpoints.structures import named, other
from thoraxseg.errors import InputError, OptionError
from thoraxseg.io import hash_input, read_label_map, read_volume
from thoraxseg.segmentation import STRUCTURES, Segmentation, Structure
from thoraxseg.study import AcceptedCase
from thoraxseg.volume import MAX_GRIDS_APART, Volume, reorient


def reviewed_structures(mask: Path, names: Mapping[int, str] | None = None) -> dict[int, str]:
    """Return the key of the structure for each label of a mask file, also of those without a voxel.

    A segmentation (.seg.nrrd) lists its segments; of a plain label map, `names` says what its labels are. Raises
    InputError for a file that cannot be read, a label map without names, and two labels of one structure; OptionError
    for names of a file that has its own.
    """
    found = read_label_map(mask)
    if isinstance(found, Segmentation):
        if names:
            raise OptionError(f"{mask}: names its segments itself. Leave --labels away.")
        keys = {label: _key_of(structure, mask) for label, structure in found.structures.items()}
    else:
        if not names:
            raise InputError(
                f"{mask}: a label map does not say what its labels are. Give --labels, such as 1=heart,2=left lung, or "
                "save the segmentation as .seg.nrrd."
            )
        keys = {label: key_of_name(name) for label, name in names.items()}
        if unknown := [value for value in _present(found.array) if value not in keys]:
            raise InputError(
                f"{mask}: expected a name for each of its labels, {', '.join(map(str, unknown[:5]))} has none. Add it "
                "to --labels."
            )
    twice = sorted({key for key in keys.values() if [*keys.values()].count(key) > 1})
    if twice or not keys:
        what = f"{twice[0]} is in it more than once" if twice else "it has none"
        raise InputError(
            f"{mask}: expected one label for each structure, but {what}. Merge or rename the segments."
        )
    return keys


def _key_of(structure: Structure, path: Path) -> str:
    """Return the key that a segment means by its name; a segment that was made as one thing and renamed is refused.

    Lungs may be parted into right and left: then the segment that was both has become one of them.
    """
    by_name, by_id = named(structure.name, 0).key, structure.key
    if (
        by_id in STRUCTURES
        and by_name != by_id
        and not (by_id == "lungs" and by_name in ("right_lung", "left_lung"))
    ):
        raise InputError(
            f"{path}: the segment {structure.name!r:.80} was made as {STRUCTURES[by_id].name}. Which of the two is it? "
            f"Call it {STRUCTURES[by_id].name}, or copy it to a new segment with its right name and remove this one."
        )
    return key_of_name(structure.name)


def key_of_name(name: str) -> str:
    """Return the key of a structure by name; the same name gives the same key, whatever its label is."""
    key = named(name, 0).key
    # Names without a Latin letter have no key of their own.
    return f"structure_{sha256(name.encode()).hexdigest()[:8]}" if key == "label_0" else key


def structure_of(key: str, label: int) -> Structure:
    """Return the structure of a key, with a color that belongs to the label where it is none of ours."""
    return STRUCTURES.get(key) or other(key, label)


def read_accepted(case: AcceptedCase, labels: Mapping[int, str]) -> tuple[Volume, np.ndarray, dict[str, int]]:
    """Return the image of a case, its labels `(K, J, I)` uint8 on the grid of the image, and what became background.

    `labels` gives the key for each label that is wanted, 1 to 255; the values in the mask file do not matter. The last
    are the voxels of structures that are not among them, by key. Raises InputError for files that cannot be read or
    have changed, a mask on another grid, and a structure that the case has not.
    """
    if lacking := [key for key in labels.values() if key not in case.structures.values()]:
        raise InputError(f"case {case.case}: {', '.join(lacking)} was not reviewed in it.")
    if case.image_sha256 and hash_input(case.image) != case.image_sha256:
        raise InputError(
            f"{case.image}: the image was changed after its contours were accepted. Judge them again."
        )
    image = read_volume(case.image)
    found = read_label_map(case.mask)
    raw = found.labels if isinstance(found, Segmentation) else found.array
    placed = _on_grid(raw, found.ijk_to_ras, image, case.mask)
    new = {key: label for label, key in labels.items()}
    table = np.zeros(int(placed.max()) + 1, dtype=np.uint8)
    dropped: dict[str, int] = {}
    for value in _present(placed):
        key = case.structures.get(value, f"label_{value}")
        table[value] = new.get(key, 0)
        if key not in new:
            dropped[key] = int((placed == value).sum())
    return image, table[placed], dropped


def check_pair(image: Path, mask: Path) -> None:
    """Raise InputError unless both files can be read and the mask lies on voxels of the image."""
    found = read_label_map(mask)
    raw = found.labels if isinstance(found, Segmentation) else found.array
    _on_grid(raw, found.ijk_to_ras, read_volume(image), mask)


def _on_grid(labels: np.ndarray, matrix: np.ndarray, image: Volume, path: Path) -> np.ndarray:
    """Return labels on the grid of the image: the same one, or a part of it, as 3D Slicer saves cropped masks."""
    turned, matrix = reorient(labels, matrix, image.axis_codes)
    moved = np.linalg.solve(image.ijk_to_ras, matrix)
    shift = np.rint(moved[:3, 3]).astype(int)
    apart = np.abs(moved[:3, :3] - np.eye(3)).max() * max(turned.shape)
    apart = max(apart, np.abs(moved[:3, 3] - shift).max())
    if apart > MAX_GRIDS_APART:
        raise InputError(
            f"{path}: expected contours on the voxels of {image.name}, they lie up to {apart:.3g} voxels beside them "
            "(spacing, origin or direction differ). In 3D Slicer, export them with this volume as reference."
        )
    if turned.shape == image.shape and not shift.any():
        return np.ascontiguousarray(turned)
    result = np.zeros(image.shape, turned.dtype)
    ours, theirs = [], []
    for offset, size, own in zip(shift[::-1], image.shape, turned.shape, strict=True):
        low, high = max(0, offset), min(size, offset + own)
        ours.append(slice(low, max(low, high)))
        theirs.append(slice(low - offset, max(low, high) - offset))
    inside = turned[tuple(theirs)]
    if np.count_nonzero(inside) != np.count_nonzero(turned):
        raise InputError(
            f"{path}: expected contours inside of {image.name}, some lie outside of it. Is it another scan?"
        )
    result[tuple(ours)] = inside
    return result


def _present(labels: np.ndarray) -> list[int]:
    """Return the values in a label map but 0, in order; slice by slice, since sorting a whole volume is slow."""
    seen: set[int] = set()
    for plane in labels:
        seen.update(np.unique(plane).tolist())
    return sorted(int(value) for value in seen - {0})
