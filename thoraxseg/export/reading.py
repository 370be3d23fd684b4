"""An accepted case in: image and mask on one grid, and what the labels of the mask stand for."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np

from thoraxseg.checkpoints.structures import named, other
from thoraxseg.errors import InputError, OptionError
from thoraxseg.io import hash_input, read_label_map, read_volume
from thoraxseg.segmentation import STRUCTURES, Segmentation, Structure, labels_on_grid, present_labels
from thoraxseg.study import AcceptedCase
from thoraxseg.volume import Volume


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
        if unknown := [value for value in present_labels(found.array) if value not in keys]:
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
    placed = labels_on_grid(str(case.mask), raw, found.ijk_to_ras, image)
    new = {key: label for label, key in labels.items()}
    table = np.zeros(int(placed.max()) + 1, dtype=np.uint8)
    dropped: dict[str, int] = {}
    for value in present_labels(placed):
        key = case.structures.get(value, f"label_{value}")
        table[value] = new.get(key, 0)
        if key not in new:
            dropped[key] = int((placed == value).sum())
    return image, table[placed], dropped


def check_pair(image: Path, mask: Path) -> None:
    """Raise InputError unless both files can be read and the mask lies on voxels of the image."""
    found = read_label_map(mask)
    raw = found.labels if isinstance(found, Segmentation) else found.array
    labels_on_grid(str(mask), raw, found.ijk_to_ras, read_volume(image))
