"""Labels with names, colors and codes on the grid of an image, and the structures we know by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from thoraxseg.errors import InputError, OptionError
from thoraxseg.volume import MAX_GRIDS_APART, Volume, check_geometry, grids_apart, reorient

ANATOMY_CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
REGION_CONTEXT = "Anatomic codes - DICOM master list"


_CONNECTIVITY = {6: 1, 18: 2, 26: 3}


def neighborhood(connectivity: int, in_slices: bool = False) -> np.ndarray:
    """Return the `(3, 3, 3)` bool structure of 6, 18 or 26 neighbors, cut to its own slice if asked.

    In a slice, 6 means 4 neighbors and 18 or 26 mean 8. Raises OptionError for other numbers.
    """
    from scipy.ndimage import generate_binary_structure

    if connectivity not in _CONNECTIVITY:
        raise OptionError(f"connectivity: expected 6, 18 or 26 neighbors, got {connectivity!r}.")
    structure = generate_binary_structure(3, _CONNECTIVITY[connectivity])
    if in_slices:
        structure[[0, 2]] = False
    return structure


@dataclass(frozen=True)
class Code:
    """One coded concept, such as SCT 80891009 Heart."""

    scheme: str = ""
    value: str = ""
    meaning: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}^{self.value}^{self.meaning}"


NO_CODE = Code()
ANATOMICAL = Code("SCT", "123037004", "Anatomical Structure")
MORPHOLOGICALLY_ALTERED = Code("SCT", "49755003", "Morphologically Altered Structure")
LUNG = Code("SCT", "39607008", "Lung")


@dataclass(frozen=True)
class Terminology:
    """What a segment is, in the codes that 3D Slicer and DICOM use (SNOMED CT)."""

    category: Code
    type: Code
    type_modifier: Code = NO_CODE
    region: Code = NO_CODE
    region_modifier: Code = NO_CODE

    def to_slicer(self) -> str:
        """Return the entry as 3D Slicer's `TerminologyEntry` string."""
        codes = (self.category, self.type, self.type_modifier)
        region = (self.region, self.region_modifier)
        return "~".join([ANATOMY_CONTEXT, *map(str, codes), REGION_CONTEXT, *map(str, region)])

    @classmethod
    def from_slicer(cls, entry: str) -> Terminology | None:
        """Return the codes of a `TerminologyEntry` string, or None when it is empty or not of that form."""
        parts = [part.split("^") for part in entry.split("~")]
        if len(parts) != 7 or any(len(parts[n]) != 3 for n in (1, 2, 3, 5, 6)):
            return None
        return cls(*(Code(*parts[n]) for n in (1, 2, 3, 5, 6)))


@dataclass(frozen=True)
class Structure:
    """An organ or lesion that a label stands for."""

    key: str
    """Stable name for programs: segment ID, JSON key, file suffix."""
    name: str
    """Name for people."""
    color: tuple[float, float, float]
    """RGB, 0 to 1."""
    terminology: Terminology


STRUCTURES = {
    s.key: s
    for s in (
        Structure(
            "heart",
            "Heart",
            (0.86, 0.15, 0.15),
            Terminology(ANATOMICAL, Code("SCT", "80891009", "Heart")),
        ),
        Structure(
            "spinal_cord",
            "Spinal cord",
            (0.13, 0.65, 0.25),
            Terminology(ANATOMICAL, Code("SCT", "2748008", "Spinal cord")),
        ),
        Structure(
            "right_lung",
            "Right lung",
            (0.16, 0.40, 0.90),
            Terminology(ANATOMICAL, LUNG, Code("SCT", "24028007", "Right")),
        ),
        Structure(
            "left_lung",
            "Left lung",
            (0.95, 0.80, 0.10),
            Terminology(ANATOMICAL, LUNG, Code("SCT", "7771000", "Left")),
        ),
        Structure("lungs", "Lungs", (0.25, 0.62, 0.95), Terminology(ANATOMICAL, LUNG)),
        Structure(
            "tumors",
            "Tumors",
            (0.95, 0.30, 0.15),
            Terminology(MORPHOLOGICALLY_ALTERED, Code("SCT", "4147007", "Mass"), region=LUNG),
        ),
    )
}
"""The structures of the two modules by key; heart red, cord green, right lung blue, left lung yellow as
in the mouse CT paper. Codes: SNOMED CT as 3D Slicer's General Anatomy list has them."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A label map `(K, J, I)` on an image grid; label value -> structure. 0 is background.

    A structure may be absent from the voxels: it keeps its value and never shifts the others.
    Raises InputError for labels without a structure or a geometry no scanner makes.
    """

    labels: np.ndarray
    ijk_to_ras: np.ndarray
    structures: dict[int, Structure] = field(default_factory=dict)
    name: str = "segmentation"

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.ndim != 3 or labels.dtype.kind not in "iu":
            raise InputError(
                f"{self.name}: expected an integer label map (K, J, I), got shape {labels.shape} of type "
                f"{labels.dtype}."
            )
        unknown = sorted(set(np.unique(labels).tolist()) - set(self.structures) - {0})
        if unknown:
            raise InputError(
                f"{self.name}: labels {unknown} stand for no structure; known are {sorted(self.structures)}. "
                "Map the labels with an explicit table first."
            )
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "ijk_to_ras", check_geometry(self.ijk_to_ras, self.name))

    def voxel_counts(self) -> dict[int, int]:
        """Return how many voxels each label of `structures` has, 0 for an absent one."""
        values, counts = np.unique(self.labels, return_counts=True)
        found = dict(zip(values.tolist(), counts.tolist(), strict=True))
        return {value: int(found.get(value, 0)) for value in self.structures}

    def mask(self, *keys: str) -> np.ndarray:
        """Return a bool array `(K, J, I)`, True where the label is one of the structures named.

        Raises InputError for a key that this segmentation does not have.
        """
        by_key = {structure.key: value for value, structure in self.structures.items()}
        unknown = [key for key in keys if key not in by_key]
        if unknown:
            raise InputError(f"{self.name}: no structure {unknown}; known are {sorted(by_key)}.")
        return np.isin(self.labels, [by_key[key] for key in keys])


def check_grid(where: str, shape: tuple[int, ...], ijk_to_ras: np.ndarray, image: Volume) -> None:
    """Raise InputError unless labels have the shape and the geometry of their image."""
    if shape != image.shape:
        raise InputError(
            f"{where}: expected labels on the grid of {image.name}, {image.shape} voxels (k, j, i), got {shape}. "
            "Labels belong to their image voxel by voxel: was one of them resampled or cropped?"
        )
    _check_place(where, shape, ijk_to_ras, image)


def labels_on_grid(where: str, labels: np.ndarray, ijk_to_ras: np.ndarray, image: Volume) -> np.ndarray:
    """Return labels `(K, J, I)` on the grid of the image: on its voxels, but perhaps a part of them or turned.

    3D Slicer saves the part of a segmentation that has contours. Raises InputError for labels between the voxels of the
    image, or outside of it.
    """
    labels, matrix = reorient(labels, ijk_to_ras, image.axis_codes)
    first = np.rint(np.linalg.solve(image.ijk_to_ras, matrix)[:3, 3]).astype(int)
    moved = image.ijk_to_ras.copy()
    moved[:3, 3] += moved[:3, :3] @ first
    _check_place(where, labels.shape, matrix, replace(image, ijk_to_ras=moved))
    whole = np.zeros(image.shape, dtype=labels.dtype)
    ours, theirs = [], []
    for low, size, own in zip(first[::-1], image.shape, labels.shape, strict=True):
        start = min(max(0, low), size)
        stop = max(start, min(size, low + own))
        ours.append(slice(start, stop))
        theirs.append(slice(start - low, stop - low))
    if whole[tuple(ours)].size:
        whole[tuple(ours)] = labels[tuple(theirs)]
    if lost := int(np.count_nonzero(labels) - np.count_nonzero(whole)):
        raise InputError(
            f"{where}: {lost:,} voxels of its contours lie outside of {image.name}. Is it another scan?"
        )
    return whole


def _check_place(where: str, shape: tuple[int, ...], ijk_to_ras: np.ndarray, image: Volume) -> None:
    apart = grids_apart(shape, image.ijk_to_ras, ijk_to_ras)
    if apart > MAX_GRIDS_APART:
        raise InputError(
            f"{where}: expected labels on the voxels of {image.name}, they lie up to {apart:.3g} voxels beside them "
            "(spacing, origin or direction differ). Correct the header, or export the labels on the image again."
        )


def present_labels(labels: np.ndarray) -> list[int]:
    """Return the values in a label map but 0, in order; slice by slice, since sorting a whole volume is slow."""
    seen: set[int] = set()
    for plane in labels:
        if plane.dtype.itemsize == 1:
            seen.update(np.flatnonzero(np.bincount(plane.ravel())).tolist())
        else:
            seen.update(np.unique(plane).tolist())
    return sorted(int(value) for value in seen - {0})
