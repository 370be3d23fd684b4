"""A scalar image with its place in the patient: array `(K, J, I)` and the matrix `ijk_to_ras` in mm.

Also the arithmetic of axes: which way an array runs in the patient, and turning it without
resampling. Left and right follow the patient (RAS), never the array order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np

from thoraxseg.errors import InputError, OptionError

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""A part of a grid, `((k0, k1), (j0, j1), (i0, i1))` in voxels, half open: k1, j1 and i1 are outside."""

MIN_SPACING_MM = 1e-4
MAX_SPACING_MM = 100.0
MAX_SHEAR = 1e-3
"""Largest cosine between two axes that still counts as orthogonal (0.06 degrees)."""

ROUNDING = 1e-9
"""Relative difference of two volumes that is rounding only: a tumor of exactly a limit is not below it."""

MAX_GRIDS_APART = 1e-3 + ROUNDING
"""How far two grids may lie apart, in voxels, and still be one: files round their numbers."""

_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))  # negative and positive end of each RAS axis

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Files of ITK and DICOM count to the left and to the back; we, like Slicer, to the right and front."""


def check_geometry(ijk_to_ras: np.ndarray, name: str) -> np.ndarray:
    """Return `ijk_to_ras` as a `(4, 4)` float64 array after refusing what no scanner makes.

    Raises InputError when it is not finite, singular or sheared, or when a spacing lies outside
    0.0001 to 100 mm.
    """
    matrix = np.array(ijk_to_ras, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(
            f"{name}: expected a finite 4 x 4 geometry matrix, got {matrix.tolist()}. "
            "Check the file's origin, spacing and direction."
        )
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if (spacing < MIN_SPACING_MM).any() or (spacing > MAX_SPACING_MM).any():
        raise InputError(
            f"{name}: expected voxel spacings between {MIN_SPACING_MM} and {MAX_SPACING_MM:g} mm, "
            f"got {' x '.join(f'{s:g}' for s in spacing)} mm. Correct the spacing in the file's header."
        )
    directions = matrix[:3, :3] / spacing
    shear = np.abs(directions.T @ directions - np.eye(3)).max()
    if shear > MAX_SHEAR:
        raise InputError(
            f"{name}: expected axes at right angles, got a largest cosine of {shear:.3g} between them "
            "(a sheared or singular geometry). Resample the image to a rectangular grid first."
        )
    if np.abs(matrix[3] - (0, 0, 0, 1)).max() > 1e-9:
        raise InputError(f"{name}: expected a last matrix row of 0 0 0 1, got {matrix[3].tolist()}.")
    return matrix


def axis_codes(ijk_to_ras: np.ndarray) -> str:
    """Return where the axes i, j, k run to in the patient, as three letters such as `LPS`.

    An oblique axis gets the letter of the closest patient axis; every patient axis is used once.
    """
    directions = ijk_to_ras[:3, :3] / np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    best = max(permutations(range(3)), key=lambda p: sum(abs(directions[p[a], a]) for a in range(3)))
    return "".join(_LETTERS[best[a]][int(directions[best[a], a] > 0)] for a in range(3))


def obliqueness_degrees(ijk_to_ras: np.ndarray) -> float:
    """Return the largest angle, in degrees, between an array axis and the patient axis it is named after."""
    directions = ijk_to_ras[:3, :3] / np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    named = [abs(directions[_axis_of(letter), a]) for a, letter in enumerate(axis_codes(ijk_to_ras))]
    return float(np.degrees(np.arccos(np.clip(min(named), 0.0, 1.0))))


def directions_from_codes(codes: str) -> np.ndarray:
    """Return the `(3, 3)` direction matrix (columns i, j, k in RAS) for letters such as `LPS`.

    Raises InputError when the letters do not name each patient axis exactly once.
    """
    if len(codes) != 3 or sorted(_axis_of(c) for c in codes) != [0, 1, 2]:
        raise InputError(f"expected three axis letters, one each of L/R, P/A and I/S, got {codes!r}.")
    matrix = np.zeros((3, 3))
    for axis, letter in enumerate(codes):
        row = _axis_of(letter)
        matrix[row, axis] = 1.0 if letter == _LETTERS[row][1] else -1.0
    return matrix


def geometry_from_spacing(spacing_mm: tuple[float, float, float], codes: str) -> np.ndarray:
    """Return an `ijk_to_ras` with spacing (k, j, i) in mm, axes along `codes` and its origin at 0."""
    matrix = np.eye(4)
    matrix[:3, :3] = directions_from_codes(codes) * np.array(spacing_mm, dtype=float)[::-1]
    return matrix


def reorient(
    array: np.ndarray, ijk_to_ras: np.ndarray, codes: str, current: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Turn the last three axes of `array` so that i, j, k run along `codes`, without resampling.

    Returns a view on the array and its new `ijk_to_ras`; every voxel stays where it is in the patient.
    `current` says what the axes are called now, for the way back: where axes lie 45 degrees between two
    patient axes, their letters are a matter of choice, and may be chosen differently after turning.
    """
    directions_from_codes(codes)  # refuses wrong letters
    current = current or axis_codes(ijk_to_ras)
    if current == codes:
        return array, ijk_to_ras
    lead = array.ndim - 3
    matrix = np.eye(4)
    take = [[_axis_of(c) for c in current].index(_axis_of(letter)) for letter in codes]
    matrix[:3, :3] = ijk_to_ras[:3, take]
    matrix[:3, 3] = ijk_to_ras[:3, 3]
    # Axis a of (i, j, k) is axis 2 - a of (K, J, I).
    order = [*range(lead), *(lead + 2 - take[a] for a in (2, 1, 0))]
    turned = array.transpose(order)
    for a, letter in enumerate(codes):
        if current[take[a]] != letter:
            axis = lead + 2 - a
            matrix[:3, 3] += matrix[:3, a] * (turned.shape[axis] - 1)
            matrix[:3, a] *= -1
            turned = np.flip(turned, axis)
    return turned, matrix


def _axis_of(letter: str) -> int:
    for row, ends in enumerate(_LETTERS):
        if letter in ends:
            return row
    raise InputError(f"expected an axis letter out of L, R, P, A, I, S, got {letter!r}.")


@dataclass(frozen=True, eq=False)
class Volume:
    """One scalar image and where it lies in the patient; never half valid, never altered.

    Raises InputError for arrays that are not 3-D and real, are empty, or whose geometry no scanner makes.
    """

    array: np.ndarray
    """Voxel values, `(K, J, I)`, real numbers."""
    ijk_to_ras: np.ndarray
    """`(4, 4)`: voxel index (i, j, k, 1) to patient millimeters (right, anterior, superior, 1)."""
    name: str = "volume"
    notes: tuple[str, ...] = field(default=())
    """What was changed, converted or assumed while reading; shown to the user."""
    geometry_assumed: bool = False
    """True when the file states no geometry and spacing and orientation were supplied from outside."""

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        if array.dtype == bool:
            array = array.astype(np.uint8)
        if array.ndim != 3 or array.dtype.kind not in "iuf":
            raise InputError(
                f"{self.name}: expected a 3-D scalar image of real numbers, got shape {array.shape} of "
                f"type {array.dtype}. Extract one channel or one time point first."
            )
        if 0 in array.shape:
            raise InputError(f"{self.name}: expected at least one voxel along each axis, got {array.shape}.")
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "ijk_to_ras", check_geometry(self.ijk_to_ras, self.name))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (k, j, i)."""
        return self.array.shape

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing in mm along (k, j, i)."""
        return spacing_mm(self.ijk_to_ras)

    @property
    def axis_codes(self) -> str:
        """Where i, j, k run to in the patient, as in `LPS`."""
        return axis_codes(self.ijk_to_ras)

    def reoriented(self, codes: str) -> Volume:
        """Return the same voxels with i, j, k running along `codes`, as in `RIA`; nothing is resampled."""
        array, matrix = reorient(self.array, self.ijk_to_ras, codes)
        return replace(self, array=array, ijk_to_ras=matrix)

    def cropped(self, box: Box) -> Volume:
        """Return the voxels inside `box` (half open, k, j, i), each where it is in the patient; a view.

        Raises OptionError for a box that is empty or reaches beyond the volume.
        """
        inside = box_slices(box, self.shape)
        matrix = self.ijk_to_ras.copy()
        matrix[:3, 3] += matrix[:3, :3] @ [where.start for where in inside[::-1]]
        return replace(self, array=self.array[inside], ijk_to_ras=matrix)

    def with_notes(self, *notes: str) -> Volume:
        """Return the same volume with more to tell the user."""
        return replace(self, notes=(*self.notes, *notes))


def box_slices(box: Box, shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    """Return where `box` lies in an array of `shape` (k, j, i).

    Raises OptionError unless it is three pairs of whole numbers, not empty, and inside of the array.
    """
    pairs = np.asarray(box, dtype=object)
    fits = pairs.shape == (3, 2) and all(
        isinstance(end, (int, np.integer)) and not isinstance(end, bool) for end in pairs.flat
    )
    if not fits or not all(0 <= low < high <= n for (low, high), n in zip(box, shape, strict=True)):
        limits = ", ".join(f"{axis} from 0 to {n}" for axis, n in zip("kji", shape, strict=True))
        raise OptionError(
            f"region of interest: expected ((k0, k1), (j0, j1), (i0, i1)) in voxels, each first number smaller than "
            f"its second one, within {limits}, got {box!r:.200}. Place the region over the image."
        )
    return tuple(slice(int(low), int(high)) for low, high in box)


def volume_sha256(volume: Volume) -> str:
    """Return the SHA-256 of voxels and geometry as 64 hexadecimal digits: what a result was made from.

    The layout in memory and the byte order do not matter; the type of the voxels does.
    """
    array = volume.array
    kind = array.dtype.newbyteorder("<")
    digest = hashlib.sha256(f"{kind.str} {array.shape} ".encode())
    digest.update(np.asarray(volume.ijk_to_ras, dtype="<f8").tobytes())
    for plane in array:
        digest.update(np.ascontiguousarray(plane, dtype=kind))
    return digest.hexdigest()


def spacing_mm(ijk_to_ras: np.ndarray) -> tuple[float, float, float]:
    """Return the voxel spacing in mm along (k, j, i)."""
    i, j, k = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    return float(k), float(j), float(i)


def nominal_spacing_mm(ijk_to_ras: np.ndarray) -> tuple[float, float, float]:
    """Return the voxel spacing in mm along (k, j, i) with seven significant digits, all that a float32 holds.

    NIfTI stores 0.14 as 0.14000000059604645, and as 0.1399999926 in rotated axes. Where distances are held against a
    tolerance or against one another, such noise would decide: the same masks must score alike in every format.
    """
    return tuple(float(f"{spacing:.7g}") for spacing in spacing_mm(ijk_to_ras))


def voxel_volume_mm3(ijk_to_ras: np.ndarray) -> float:
    """Return the volume of one voxel in mm3: the determinant, so exact for oblique axes too."""
    return float(abs(np.linalg.det(ijk_to_ras[:3, :3])))


def grids_apart(shape: tuple[int, ...], one: np.ndarray, other: np.ndarray) -> float:
    """Return how far two grids of one `shape` (k, j, i) lie apart at most, in voxels of the first.

    Compares where the first voxel and the last one along each axis lie. Two opposite corners are not enough: those of
    a cube stay where they are when its axes are exchanged.
    """
    ends = np.eye(4)
    ends[:3, :3] *= [max(n - 1, 1) for n in shape[::-1]]
    ends[:3, 3], ends[3] = 0, 1
    return float(np.abs(np.linalg.solve(one, other @ ends) - ends).max())


def to_ras(ijk_to_ras: np.ndarray, kji: np.ndarray) -> np.ndarray:
    """Return patient coordinates in mm, `(N, 3)` RAS, of voxel positions `(N, 3)` in (k, j, i)."""
    return np.asarray(kji, dtype=float)[:, ::-1] @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3]
