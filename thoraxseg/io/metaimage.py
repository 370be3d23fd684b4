"""MetaImage file (.mha, .mhd) -> voxels and geometry; header text read at full precision by ourselves.

Format: https://itk.org/Wiki/MetaIO/Documentation. Axes count LPS, as ITK has it, whatever
`AnatomicalOrientation` says.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.io import decode
from thoraxseg.io.geometry import RawImage, usable_spacing
from thoraxseg.volume import RAS_FROM_LPS

_MAX_HEADER_BYTES = 1 << 20
_MAX_UNIT_ERROR = 1e-4
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_SAME_KEY = {
    "Position": "Offset",
    "Origin": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}


class _Header(dict):
    """Keys and texts of a MetaImage header."""

    name = ""

    def numbers(self, key: str, count: int) -> list[float] | None:
        """Return a key's numbers, None when it is missing; InputError when there are not `count`."""
        if key not in self:
            return None
        try:
            found = [float(word) for word in self[key].split()]
        except ValueError:
            found = []
        if len(found) != count or not np.isfinite(found).all():
            raise InputError(
                f"{self.name}: expected {count} finite numbers in {key}, got {self[key][:80]!r}."
            )
        return found

    def integers(self, key: str, count: int) -> list[int] | None:
        """Return a key's whole numbers, None when it is missing; errors as `numbers`."""
        found = self.numbers(key, count)
        if found is not None and not all(n.is_integer() and abs(n) < 2**53 for n in found):
            raise InputError(f"{self.name}: expected whole numbers in {key}, got {self[key][:80]!r}.")
        return None if found is None else [int(n) for n in found]

    def flag(self, key: str) -> bool | None:
        """Return True or False, None when the key is missing."""
        value = self.get(key, "").lower()
        if value not in ("", "true", "false", "1", "0"):
            raise InputError(f"{self.name}: expected True or False in {key}, got {self[key][:80]!r}.")
        return value in ("true", "1") if value else None


def read(path: Path, limit: int, allow_detached: bool) -> RawImage:
    """Return voxels `(K, J, I)` and geometry of a MetaImage file.

    `ijk_to_ras` is None when the file states no spacing or no direction. Raises InputError for
    anything that cannot be read exactly.
    """
    with path.open("rb") as file:
        header = _read_header(file, str(path))
        notes: list[str] = []
        shape = _shape(header, notes)
        if header["ElementDataFile"].upper() == "LOCAL":
            array = _read_voxels(file, header, shape, limit)
        else:
            with decode.open_beside(path, header["ElementDataFile"], allow_detached) as data:
                array = _read_voxels(data, header, shape, limit)
    image = RawImage(array, notes=notes)
    _geometry(image, header)
    return image


def _read_header(file: BinaryIO, name: str) -> _Header:
    header = _Header()
    header.name = name
    while "ElementDataFile" not in header:
        line = file.readline(_MAX_HEADER_BYTES)
        if not line or file.tell() > _MAX_HEADER_BYTES:
            raise InputError(f"{name}: its MetaImage header has no ElementDataFile. The file is truncated.")
        text = line.decode("latin-1").strip()
        if not text:
            continue
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not re.fullmatch(r"[\w.|: \-\[\]]+", key):
            raise InputError(f"{name}: expected 'key = value', got {text[:80]!r}. The header is damaged.")
        key = _SAME_KEY.get(key, key)
        if key in header:
            raise InputError(f"{name}: {key[:80]} appears twice. The header is damaged.")
        header[key] = value
    return header


def _shape(header: _Header, notes: list[str]) -> list[int]:
    """Return the shape (K, J, I); InputError unless this is one 3-D image of single numbers."""
    name = header.name
    count = (header.integers("NDims", 1) or [0])[0]
    channels = (header.integers("ElementNumberOfChannels", 1) or [1])[0]
    kind = header.get("ElementType", "none")
    if header.get("ObjectType", "Image") != "Image" or not 1 <= count <= 10:
        raise InputError(
            f"{name}: expected an Image of 3 dimensions, got {header.get('ObjectType')!r} of {count} "
            "dimensions."
        )
    sizes = header.integers("DimSize", count) or []
    decode.promised_bytes(sizes, np.dtype("u1"), name)
    if kind not in _TYPES or channels != 1 or count < 3 or any(size != 1 for size in sizes[3:]):
        raise InputError(
            f"{name}: expected a 3-D image of single numbers, got shape {sizes} of type {kind!r} with "
            f"{channels} "
            "channel(s). Extract one channel or time point of a volume first."
        )
    if header.flag("BinaryData") is False:
        raise InputError(f"{name}: expected binary voxels, got text. Save the image again as binary.")
    for key, neutral in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if (header.numbers(key, 1) or [neutral]) != [neutral]:
            raise InputError(
                f"{name}: {key} is {header[key]!r}, which is not supported. Save the scaled image."
            )
    if count > 3:
        notes.append(f"The file has shape {sizes}; its axes of length 1 were dropped.")
    return sizes[2::-1]


def _read_voxels(file: BinaryIO, header: _Header, shape: list[int], limit: int) -> np.ndarray:
    name = header.name
    kind = _TYPES[header["ElementType"]]
    big = header.flag("BinaryDataByteOrderMSB")
    if big is None and kind[1] != "1":
        raise InputError(f"{name}: expected BinaryDataByteOrderMSB for {header['ElementType']!r}, got none.")
    dtype = np.dtype((">" if big else "<") + kind)
    skip = (header.integers("HeaderSize", 1) or [0])[0]
    if header.flag("CompressedData"):
        size = header.integers("CompressedDataSize", 1)
        present = decode.bytes_left(file)
        if skip or (size is not None and size[0] != present):
            raise InputError(
                f"{name}: expected {(size or [present])[0]:,} compressed bytes, got {present:,} (HeaderSize "
                f"{skip}). "
                "The file is truncated or its header damaged; copy it again."
            )
        return decode.read_compressed(file, shape, dtype, limit, name, decode.ZLIB_OR_GZIP)
    if skip == -1:  # the data is what lies at the end
        skip = max(decode.bytes_left(file) - decode.promised_bytes(shape, dtype, name), 0)
    if skip < 0:
        raise InputError(f"{name}: expected a HeaderSize of -1 or more, got {skip}.")
    file.seek(skip, 1)
    return decode.read_raw(file, shape, dtype, name)


def _geometry(image: RawImage, header: _Header) -> None:
    count = int(header["NDims"])
    spacing = header.numbers("ElementSpacing", count)
    if spacing is None:
        spacing = header.numbers("ElementSize", count)
    matrix = header.numbers("TransformMatrix", count * count)
    offset = header.numbers("Offset", count)
    if spacing is not None and min(spacing[:3]) <= 0:
        raise InputError(
            f"{header.name}: expected positive spacings, got {spacing}. Correct the file's header."
        )
    if spacing is None or matrix is None:
        image.spacing_mm = usable_spacing(spacing[2::-1]) if spacing else None
        return
    # The file lists axis after axis; each axis is a column of the matrix.
    directions = np.array(matrix).reshape(count, count).T
    outside = (directions - np.eye(count))[3:], (directions - np.eye(count))[:, 3:]
    if any(np.abs(part).max(initial=0) > _MAX_UNIT_ERROR for part in outside):
        raise InputError(
            f"{header.name}: its TransformMatrix turns space into time. Extract one volume first."
        )
    directions = directions[:3, :3]
    lengths = np.linalg.norm(directions, axis=0)
    if np.abs(lengths - 1).max() > _MAX_UNIT_ERROR:
        raise InputError(
            f"{header.name}: expected directions of length 1 in TransformMatrix, got {lengths.tolist()}. "
            "Correct the header."
        )
    if offset is None:
        image.notes.append("The MetaImage header states no origin: 0, 0, 0 was assumed.")
    lps = np.eye(4)
    lps[:3, :3] = directions * spacing[:3]
    lps[:3, 3] = offset[:3] if offset else 0
    image.ijk_to_ras = RAS_FROM_LPS @ lps
