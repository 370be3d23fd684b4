"""NIfTI-1 or NIfTI-2 file (.nii, .nii.gz) -> voxels and geometry.

The header is a fixed record that we read ourselves: ITK loads truncated files and repairs zero
spacing and shear without a word, nibabel does not verify gzip checksums nor convert units.
Format: https://nifti.nimh.nih.gov/nifti-1 and https://nifti.nimh.nih.gov/nifti-2
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.io import decode
from thoraxseg.io.geometry import RawImage, usable_spacing, words

# Only the fields that matter, as (name, format, byte offset).
_NIFTI1 = (
    *(("dim", "8i2", 40), ("datatype", "i2", 70), ("bitpix", "i2", 72), ("pixdim", "8f4", 76)),
    *(("vox_offset", "f4", 108), ("slope", "f4", 112), ("inter", "f4", 116), ("units", "u1", 123)),
    *(("qform", "i2", 252), ("sform", "i2", 254), ("quatern", "3f4", 256), ("offset", "3f4", 268)),
    *(("srow", "(3,4)f4", 280), ("magic", "S4", 344)),
)
_NIFTI2 = (
    *(("magic", "S8", 4), ("datatype", "i2", 12), ("bitpix", "i2", 14), ("dim", "8i8", 16)),
    *(("pixdim", "8f8", 104), ("vox_offset", "i8", 168), ("slope", "f8", 176), ("inter", "f8", 184)),
    *(("qform", "i4", 344), ("sform", "i4", 348), ("quatern", "3f8", 352), ("offset", "3f8", 376)),
    *(("srow", "(3,4)f8", 400), ("units", "i4", 500)),
)
_MAGIC = {348: b"n+1", 540: b"n+2\0\r\n\x1a\n"}
_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_REFUSED = {
    1: "1-bit",
    32: "complex",
    128: "RGB",
    1536: "128-bit float",
    1792: "complex",
    2048: "complex",
    2304: "RGBA",
}
_UNITS = {1: ("meter", 1000.0), 2: ("mm", 1.0), 3: ("micron", 1e-3)}
_DISAGREEMENT_VOXELS = 1e-3


@dataclass
class _Header:
    record: Any
    order: str
    size: int
    name: str

    def __getitem__(self, field: str) -> Any:
        return self.record[field]


def read(path: Path, limit: int) -> RawImage:
    """Return voxels `(K, J, I)` and geometry of a NIfTI file, slope and intercept applied.

    The sform is used before the qform; `ijk_to_ras` is None when neither is set. Raises InputError
    for anything that cannot be read exactly.
    """
    name = str(path)
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        header = _parse(_first_bytes(file.read(4096), packed, name), name)
        file.seek(0)
        notes: list[str] = []
        shape, dtype, offset = _layout(header, notes)
        if packed:
            promised = offset + decode.promised_bytes(shape, dtype, name)
            data = decode.inflate(file, promised, limit, name)
            array = decode.native(np.frombuffer(data, dtype, offset=offset).reshape(shape))
        else:
            file.seek(offset)
            array = decode.read_raw(file, shape, dtype, name)
    slope, inter = float(header["slope"]), float(header["inter"])
    if slope != 0 and not math.isnan(slope):  # both mean "not scaled" to every reader
        if not (math.isfinite(slope) and math.isfinite(inter)):
            raise InputError(f"{name}: expected a finite slope and intercept, got {slope} and {inter}.")
        array = decode.rescale(array, slope, inter)
    image = RawImage(array, notes=notes)
    _geometry(image, header)
    return image


def _first_bytes(start: bytes, packed: bool, name: str) -> bytes:
    if not packed:
        return start
    try:
        return zlib.decompressobj(decode.GZIP).decompress(start, 1024)
    except zlib.error as error:
        raise InputError(f"{name}: the gzip data is damaged ({error}). Copy the file again.") from error


def _parse(start: bytes, name: str) -> _Header:
    for order in "<>":
        size = int(np.frombuffer(start[:4].ljust(4, b"\0"), order + "i4")[0])
        if size in _MAGIC and len(start) >= size + 4:
            break
    else:
        raise InputError(
            f"{name}: expected a NIfTI header of 348 or 540 bytes, got {len(start[:1024])} bytes that begin "
            "with "
            f"{start[:4].hex(' ')}. The file is truncated or not NIfTI."
        )
    fields = _NIFTI1 if size == 348 else _NIFTI2
    layout = np.dtype(
        {
            "names": [field[0] for field in fields],
            "formats": [np.dtype(field[1]).newbyteorder(order) for field in fields],
            "offsets": [field[2] for field in fields],
            "itemsize": size,
        }
    )
    header = _Header(np.frombuffer(start[:size], layout)[0], order, size, name)
    magic = bytes(header["magic"])
    if magic != _MAGIC[size]:
        raise InputError(
            f"{name}: expected a single-file NIfTI with magic {_MAGIC[size]!r}, got {magic!r}. Header and "
            "image "
            "pairs (.hdr, .img) and Analyze 7.5 state no safe orientation; convert them to .nii.gz."
        )
    return header


def _layout(header: _Header, notes: list[str]) -> tuple[list[int], np.dtype, int]:
    """Return shape (K, J, I), type and byte offset of the voxels."""
    name = header.name
    code, dim = int(header["datatype"]), [int(d) for d in header["dim"]]
    if not 1 <= dim[0] <= 7:
        raise InputError(f"{name}: expected 1 to 7 dimensions, got {dim[0]}. The header is damaged.")
    sizes = dim[1 : dim[0] + 1]
    decode.promised_bytes(sizes, np.dtype("u1"), name)
    if code not in _TYPES or len(sizes) < 3 or any(size != 1 for size in sizes[3:]):
        what = _REFUSED.get(code) or _TYPES.get(code) or f"unknown type {code}"
        raise InputError(
            f"{name}: expected a 3-D image of single numbers, got shape {sizes} of type {what}. Extract one "
            "channel or time point of a volume first."
        )
    dtype = np.dtype(header.order + _TYPES[code])
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        raise InputError(
            f"{name}: expected {8 * dtype.itemsize} bits per voxel for type {_TYPES[code]}, got "
            f"{int(header['bitpix'])}. The header is damaged."
        )
    offset = float(header["vox_offset"])
    if not (math.isfinite(offset) and offset.is_integer() and header.size + 4 <= offset <= 1 << 40):
        raise InputError(
            f"{name}: expected voxels from byte {header.size + 4} on, got offset {offset:g}. The header is "
            "damaged."
        )
    if len(sizes) > 3:
        notes.append(f"The file has shape {sizes}; its axes of length 1 were dropped.")
    return sizes[2::-1], dtype, int(offset)


def _geometry(image: RawImage, header: _Header) -> None:
    """Fill in the image's geometry in mm; RAS is NIfTI's own convention."""
    notes = image.notes
    unit = int(header["units"]) & 7
    if unit and unit not in _UNITS:
        raise InputError(f"{header.name}: expected a unit of meter, mm or micron, got code {unit}.")
    unit_name, factor = _UNITS.get(unit, ("no unit", 1.0))
    if unit == 0:
        notes.append("The NIfTI header states no unit of length: mm was assumed.")
    elif factor != 1:
        notes.append(f"The NIfTI geometry is in {unit_name}; it was converted to mm (x {factor:g}).")
    scale = np.diag([factor, factor, factor, 1.0])
    sform, qform = int(header["sform"]) > 0, int(header["qform"]) > 0
    if not sform and not qform:
        image.spacing_mm = usable_spacing([float(s) * factor for s in header["pixdim"][3:0:-1]])
        return
    stated = _sform(header) if sform else _qform(header)
    image.ijk_to_ras = scale @ stated
    spacing, pixdim = np.linalg.norm(stated[:3, :3], axis=0), np.array(header["pixdim"][1:4], float)
    if sform and not np.allclose(spacing, np.abs(pixdim), rtol=1e-3, atol=0):
        notes.append(
            f"The NIfTI header's sform has a spacing of {words(spacing[::-1] * factor)}, its pixdim of "
            f"{words(pixdim[::-1] * factor)}: the sform was used."
        )
    if sform and qform:
        apart = _voxels_apart(stated, _qform(header), image.array.shape)
        if not apart <= _DISAGREEMENT_VOXELS:
            notes.append(
                f"The NIfTI header's sform and qform disagree by up to {apart:.3g} voxels: the sform was "
                "used."
            )


def _sform(header: _Header) -> np.ndarray:
    return np.vstack([np.array(header["srow"], float), (0, 0, 0, 1)])


def _qform(header: _Header) -> np.ndarray:
    """Return the matrix of the header's quaternion; the formula is in the NIfTI-1 header file."""
    b, c, d = (float(q) for q in header["quatern"])
    pixdim = np.array(header["pixdim"][:4], float)
    squares = b * b + c * c + d * d
    if not squares <= 1 + 1e-5 or not np.isfinite(pixdim).all():
        raise InputError(
            f"{header.name}: expected a unit quaternion and finite spacing in the qform, got {b:g}, {c:g}, "
            f"{d:g} "
            f"and {pixdim[1:].tolist()}. The header is damaged."
        )
    if (pixdim[1:] <= 0).any():
        raise InputError(
            f"{header.name}: expected positive spacings, got {pixdim[1:].tolist()}. Correct the file's "
            "header."
        )
    a = math.sqrt(max(1 - squares, 0.0))
    norm = math.sqrt(a * a + squares)
    a, b, c, d = a / norm, b / norm, c / norm, d / norm
    matrix = np.eye(4)
    matrix[:3, :3] = (
        (a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)),
        (2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)),
        (2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c),
    )
    matrix[:3, :3] *= pixdim[1:] * (1, 1, -1 if pixdim[0] < 0 else 1)
    matrix[:3, 3] = header["offset"]
    return matrix


def _voxels_apart(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return the largest distance, in voxels, between two places of the same grid; it is at a corner."""
    corners = np.array([(*ijk, 1) for ijk in product(*((0, size - 1) for size in reversed(shape)))], float)
    spacing = np.linalg.norm(one[:3, :3], axis=0).min()
    distance = np.linalg.norm(((one - other) @ corners.T)[:3], axis=0).max()
    return float(distance / spacing) if spacing > 0 else math.inf
