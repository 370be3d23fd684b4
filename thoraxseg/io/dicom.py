"""Folder with one DICOM series -> voxels and geometry.

pydicom reads headers and uncompressed voxels, GDCM (in SimpleITK) decodes compressed ones. Order
and spacing come from positions alone. Geometry: DICOM PS3.3 C.7.6.2.1.1.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thoraxseg.errors import DependencyError, InputError
from thoraxseg.io import decode
from thoraxseg.io.geometry import RawImage
from thoraxseg.volume import MAX_SHEAR, RAS_FROM_LPS

logger = logging.getLogger(__name__)

_NO_IMAGE = {
    "SR",
    "RTSTRUCT",
    "RTPLAN",
    "RTRECORD",
    "PR",
    "KO",
    "REG",
    "SEG",
    "DOC",
    "PLAN",
    "AU",
    "ECG",
    "FID",
}
_DEFLATED = "1.2.840.10008.1.2.1.99"
_DIRECTORY = "1.2.840.10008.1.3.10"
_UNIT_TOLERANCE = 1e-3
_SAME_ORIENTATION = 1e-4
_EVEN = 0.01
"""Largest deviation of a slice from even spacing, as a fraction of the spacing."""


@dataclass(frozen=True)
class Slice:
    """What the header of one file says."""

    path: Path
    series: str
    description: str
    rows: int
    columns: int
    position: np.ndarray
    orientation: np.ndarray
    pixel_spacing: tuple[float, float]
    """(row, column) in mm."""
    slope: float
    intercept: float
    bytes_promised: int
    compressed: bool


def read(folder: Path, paths: list[Path]) -> RawImage:
    """Return voxels `(K, J, I)` = (position, row, column) and geometry of the one series in `paths`.

    Rescale slope and intercept are applied per slice. Raises InputError for several series, and for
    anything but evenly spaced parallel slices of one size.
    """
    slices, notes = series(folder, paths)
    matrix, ordered = _geometry(folder, slices)
    array = np.stack(_common_type([_pixels(s) for s in ordered]))
    return RawImage(array, RAS_FROM_LPS @ matrix, notes=notes)


def series(folder: Path, paths: list[Path]) -> tuple[list[Slice], list[str]]:
    """Return the slices of the one image series among DICOM files, and a note on files left out.

    Raises InputError when there is none or several, listing them.
    """
    slices, others = [], []
    for path in paths:
        found = _read_header(path)
        slices.append(found) if found else others.append(path.name)
    groups: dict[str, list[Slice]] = {}
    for found in slices:
        groups.setdefault(found.series, []).append(found)
    if not groups:
        raise InputError(
            f"{folder}: expected a series of images, got {len(others)} DICOM file(s) without images."
        )
    if len(groups) > 1:
        listed = "; ".join(
            f"{g[0].description or 'no description'!r}: {len(g)} files" for g in groups.values()
        )
        raise InputError(
            f"{folder}: expected one DICOM series, got {len(groups)} ({listed}). Put the series you want "
            "into a "
            "folder of its own."
        )
    notes = [f"{len(others)} DICOM file(s) without images were ignored: {_some(others)}."] if others else []
    return slices, notes


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn whatever pydicom or GDCM raise on a damaged file into InputError that names it.

    Their warnings go to our log: what matters in them is checked here and refused.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except (InputError, DependencyError):
            raise
        except (Exception, RecursionError) as error:  # pydicom raises a dozen classes on damaged bytes
            raise InputError(
                f"{path}: this DICOM file cannot be read ({type(error).__name__}: {decode.short(error)}). It "
                "is "
                "damaged "
                "or truncated; copy it again."
            ) from error
    for warning in caught:
        logger.debug("%s: %s", path, warning.message)


def _load(path: Path, **options: Any) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise DependencyError(
            f"{path}: reading DICOM needs pydicom. Install it: pip install pydicom"
        ) from error
    meta = pydicom.filereader.read_file_meta_info(path)
    if str(meta.get("TransferSyntaxUID", "")) == _DEFLATED:
        # pydicom would decode the whole file at once, without a bound.
        raise InputError(
            f"{path}: deflated DICOM is not supported. Convert the series, for example with dcmconv."
        )
    return pydicom.dcmread(path, **options)


def _read_header(path: Path) -> Slice | None:
    """Return what the file says, None when its kind of object holds no image."""
    with _damage_named(path):
        header = _load(path, stop_before_pixels=True)
        if (
            header.get("Modality") in _NO_IMAGE
            or header.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY
        ):
            return None
        _check_kind(path, header)
        orientation = np.array(_numbers(path, header, "ImageOrientationPatient", 6))
        lengths = np.linalg.norm(orientation.reshape(2, 3), axis=1)
        crossing = abs(float(orientation[:3] @ orientation[3:]))
        if np.abs(lengths - 1).max() > _UNIT_TOLERANCE or crossing > MAX_SHEAR:
            raise InputError(
                f"{path}: expected direction cosines of length 1 at right angles, got "
                f"{orientation.tolist()}. Export "
                "the series again."
            )
        spacing = _numbers(path, header, "PixelSpacing", 2)
        if min(spacing) <= 0:
            raise InputError(
                f"{path}: expected a positive PixelSpacing, got {spacing}. Export the series again."
            )
        slope = _numbers(path, header, "RescaleSlope", 1, 1.0)[0]
        if slope == 0:
            raise InputError(f"{path}: expected a rescale slope other than 0. Export the series again.")
        rows, columns, bits = (int(header.get(word) or 0) for word in ("Rows", "Columns", "BitsAllocated"))
        if min(rows, columns) < 1 or bits not in (8, 16, 32):
            raise InputError(
                f"{path}: expected an image of 8, 16 or 32 bits, got {rows} x {columns} of {bits} bits."
            )
        return Slice(
            path,
            str(header.get("SeriesInstanceUID", "")),
            str(header.get("SeriesDescription", ""))[:64],
            rows,
            columns,
            np.array(_numbers(path, header, "ImagePositionPatient", 3)),
            orientation,
            (spacing[0], spacing[1]),
            slope,
            _numbers(path, header, "RescaleIntercept", 1, 0.0)[0],
            rows * columns * bits // 8,
            header.file_meta.TransferSyntaxUID.is_compressed,
        )


def _check_kind(path: Path, header: Any) -> None:
    frames = int(header.get("NumberOfFrames") or 1)
    if frames > 1 or "PerFrameFunctionalGroupsSequence" in header:
        raise InputError(
            f"{path}: multi-frame DICOM ({frames} frames in one file) is not supported yet. Convert it with "
            "dcm2niix, or "
            "load it in 3D Slicer and save it as NRRD."
        )
    samples, colors = (
        int(header.get("SamplesPerPixel") or 1),
        str(header.get("PhotometricInterpretation", "")),
    )
    if samples != 1 or colors != "MONOCHROME2":
        raise InputError(
            f"{path}: expected gray values (1 sample, MONOCHROME2), got {samples} sample(s), "
            f"{colors or 'none'}. Choose the "
            "original series."
        )


def _numbers(path: Path, header: Any, keyword: str, count: int, default: float | None = None) -> list[float]:
    value = header.get(keyword)
    if value is None or value == "":
        if default is not None:
            return [default]
        raise InputError(f"{path}: expected {keyword}, got none. Export the series again with its geometry.")
    found = [float(v) for v in (value if count > 1 else [value])]
    if len(found) != count or not all(math.isfinite(v) for v in found):
        raise InputError(f"{path}: expected {count} finite number(s) in {keyword}, got {value}.")
    return found


def _geometry(folder: Path, slices: list[Slice]) -> tuple[np.ndarray, list[Slice]]:
    """Return the `(4, 4)` index-to-LPS matrix in mm and the slices in the order of increasing position."""
    first = slices[0]
    if len(slices) < 2:
        raise InputError(
            f"{folder}: expected a series of slices, got a single one. Give the folder of the whole series."
        )
    for other in slices[1:]:
        _check_alike(first, other)
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    normal /= np.linalg.norm(normal)
    ordered = sorted(slices, key=lambda s: float(s.position @ normal))
    positions = np.array([s.position for s in ordered])
    _check_even(folder, ordered, positions @ normal)
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    distance = float(np.linalg.norm(step))
    cosines = first.orientation.reshape(2, 3) @ step / distance
    expected = positions[0] + np.arange(len(ordered))[:, None] * step
    if (
        np.abs(cosines).max() > MAX_SHEAR
        or np.linalg.norm(positions - expected, axis=1).max() > _EVEN * distance
    ):
        tilt = math.degrees(math.asin(min(float(np.abs(cosines).max()), 1.0)))
        raise InputError(
            f"{folder}: expected slices stacked at right angles, got a sheared stack (gantry tilt about "
            f"{tilt:.2g} "
            "degrees). Let 3D Slicer regularize the acquisition geometry and save the volume as NRRD."
        )
    matrix = np.eye(4)
    matrix[:3, 0] = first.orientation[:3] * first.pixel_spacing[1]
    matrix[:3, 1] = first.orientation[3:] * first.pixel_spacing[0]
    matrix[:3, 2] = step
    matrix[:3, 3] = positions[0]
    return matrix, ordered


def _check_alike(first: Slice, other: Slice) -> None:
    differing = ""
    if (first.rows, first.columns) != (other.rows, other.columns):
        size = f"{other.rows} x {other.columns}"
        differing = f"{first.rows} x {first.columns} pixels as in {first.path.name}, got {size}"
    elif not np.allclose(first.pixel_spacing, other.pixel_spacing, rtol=1e-4, atol=0):
        differing = f"pixels of {first.pixel_spacing} mm as in {first.path.name}, got {other.pixel_spacing}"
    elif np.abs(first.orientation - other.orientation).max() > _SAME_ORIENTATION:
        turned = other.orientation.tolist()
        differing = f"the orientation of {first.path.name}, {first.orientation.tolist()}, got {turned}"
    if differing:
        raise InputError(f"{other.path}: expected {differing}. Keep the slices of one stack in the folder.")


def _check_even(folder: Path, ordered: list[Slice], places: np.ndarray) -> None:
    """Refuse duplicate, missing and unevenly spaced slices; `places` in mm along the normal, rising."""
    gaps = np.diff(places)
    typical = float(np.median(gaps))
    double = gaps <= max(typical * _EVEN, 1e-6)
    if double.any():
        k = int(np.argmax(double))
        raise InputError(
            f"{folder}: expected one slice per position, {ordered[k].path.name} and "
            f"{ordered[k + 1].path.name} are both at "
            f"{places[k]:g} mm. Remove duplicates, or separate time points and echoes."
        )
    off = np.abs(gaps - typical) > _EVEN * typical
    if off.any():
        k = int(np.argmax(off))
        missing = round(float(gaps[k]) / typical) - 1
        guess = f" ({missing} slice(s) missing?)" if missing > 0 else ""
        raise InputError(
            f"{folder}: expected slices every {typical:g} mm, got {gaps[k]:g} mm between "
            f"{ordered[k].path.name} and "
            f"{ordered[k + 1].path.name}{guess}. Complete the series."
        )


def _pixels(found: Slice) -> np.ndarray:
    """Return the rescaled values `(J, I)` of one file."""
    path = found.path
    with _damage_named(path):
        if found.compressed:
            values = _decode_with_gdcm(path)
        else:
            data = _load(path)
            present = len(data.get("PixelData", b""))
            if not 0 <= present - found.bytes_promised <= found.bytes_promised % 2:
                raise InputError(
                    f"{path}: the header promises {found.bytes_promised:,} bytes of pixels, got {present:,}. "
                    "The file is "
                    "truncated or damaged; copy it again."
                )
            values = _rescaled(data.pixel_array, found)
    if values.shape != (found.rows, found.columns):
        raise InputError(f"{path}: expected {found.rows} x {found.columns} pixels, got {values.shape}.")
    return values


def _rescaled(values: np.ndarray, found: Slice) -> np.ndarray:
    if found.slope == 1 and found.intercept.is_integer() and values.dtype.itemsize < 4 and found.intercept:
        return values.astype(np.int32) + np.int32(found.intercept)
    return decode.rescale(values, found.slope, found.intercept)


def _decode_with_gdcm(path: Path) -> np.ndarray:
    """Return the rescaled values of a compressed file; GDCM applies slope and intercept itself."""
    from pydicom.encaps import generate_fragments

    data = _load(path).get("PixelData", b"")
    if not any(len(fragment) for fragment in list(generate_fragments(data))[1:]):
        raise InputError(
            f"{path}: expected compressed pixels, got none. The file is truncated; copy it again."
        )
    try:
        import SimpleITK
    except ImportError as error:
        raise DependencyError(
            f"{path}: compressed DICOM needs SimpleITK. Install it: pip install SimpleITK"
        ) from error
    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO"))[0]
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)
    return values.astype(np.float32) if values.dtype == np.float64 else values


def _common_type(values: list[np.ndarray]) -> list[np.ndarray]:
    """Return the slices in one type: int16 where they fit, so that CT stays the size it was."""
    common = np.result_type(*values)
    if common == np.int32 and all(v.min() >= -32768 and v.max() <= 32767 for v in values):
        common = np.dtype(np.int16)
    return [v.astype(common, copy=False) for v in values]
