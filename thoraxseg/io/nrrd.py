"""NRRD file (.nrrd, .nhdr) -> voxels and geometry; header text read at full precision by ourselves.

Format: http://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.io import decode
from thoraxseg.io.geometry import MM_PER_UNIT, RawImage, usable_spacing

_MAX_HEADER_BYTES = 4 << 20
_FIELDS = {
    *("content", "number", "type", "block size", "dimension", "space", "space dimension", "sizes"),
    *("spacings", "thicknesses", "axis mins", "axis maxs", "space directions", "centers", "kinds", "labels"),
    *("units", "min", "max", "old min", "old max", "endian", "encoding", "line skip", "byte skip"),
    *("sample units", "space units", "space origin", "measurement frame", "data file"),
}
_SAME_FIELD = {
    **{name.replace(" ", ""): name for name in _FIELDS if " " in name},
    "centerings": "centers",
}
_RAS_SIGNS = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
}


def _type_names() -> dict[str, str]:
    names = {"float": "f4", "double": "f8"}
    names |= dict.fromkeys(("signed char", "int8", "int8_t"), "i1")
    names |= dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1")
    words = {"short": 2, "int": 4, "longlong": 8, "long long": 8}
    for word, size in words.items():
        full = word if word == "int" else f"{word} int"
        names |= dict.fromkeys((word, full, f"signed {word}", f"signed {full}"), f"i{size}")
        names |= dict.fromkeys((f"u{word}", f"unsigned {word}", f"unsigned {full}"), f"u{size}")
        names |= dict.fromkeys((f"int{8 * size}", f"int{8 * size}_t"), f"i{size}")
        names |= dict.fromkeys((f"uint{8 * size}", f"uint{8 * size}_t"), f"u{size}")
    return names


_TYPES = _type_names()


@dataclass
class Header:
    """Fields and free key/value pairs of one NRRD header."""

    fields: dict[str, str]
    keys: dict[str, str]
    name: str

    def need(self, field: str) -> str:
        """Return a field's text; InputError when it is missing."""
        if field not in self.fields:
            raise InputError(
                f"{self.name}: expected an NRRD field {field!r}, got none. The header is damaged."
            )
        return self.fields[field]

    def integers(self, field: str) -> list[int]:
        """Return a field's whole numbers; InputError when it has other words."""
        text = self.need(field).split()
        if not all(re.fullmatch(r"[+-]?\d{1,18}", word) for word in text):
            raise InputError(f"{self.name}: expected whole numbers in {field!r}, got {' '.join(text)!r}.")
        return [int(word) for word in text]

    def vectors(self, field: str) -> list[np.ndarray | None]:
        """Return a field's vectors such as `(0,0,1) none`; None for an axis outside of space."""
        text = self.need(field)
        tokens = re.findall(r"\([^()]*\)|\S+", text)
        try:
            found = [None if t.lower() == "none" else np.array(_numbers(t), float) for t in tokens]
        except ValueError as error:
            raise InputError(f"{self.name}: expected vectors in {field!r}, got {text!r}.") from error
        if any(vector is not None and vector.shape != (3,) for vector in found):
            raise InputError(f"{self.name}: expected vectors of three numbers in {field!r}, got {text!r}.")
        return found


def _numbers(vector: str) -> list[float]:
    if not (vector.startswith("(") and vector.endswith(")")):
        raise ValueError(vector)
    return [float(number) for number in vector[1:-1].split(",")]


def read(path: Path, limit: int, allow_detached: bool) -> RawImage:
    """Return voxels `(K, J, I)`, geometry and key/value pairs of an NRRD file.

    `ijk_to_ras` is None when the file states no space. Raises InputError for anything it cannot
    read exactly.
    """
    name = str(path)
    with path.open("rb") as file:
        header, detached = _read_header(file, name)
        notes: list[str] = []
        directions, origin = _space(header, notes)
        sizes = header.integers("sizes")
        dimension = header.integers("dimension")
        if dimension != [len(sizes)] or (directions is not None and len(directions) != len(sizes)):
            raise InputError(
                f"{name}: expected dimension, sizes and space directions to agree, got dimension "
                f"{dimension}, "
                f"sizes {sizes} and {'no' if directions is None else len(directions)} directions."
            )
        if "Segment0_ID" in header.keys and len(sizes) == 4:
            raise InputError(
                f"{name}: expected segments that do not overlap, in one layer, got {sizes[0]} layers. In 3D Slicer, "
                "let no segments overlap (Segment Editor, Masking) and save again, or export each as a label map."
            )
        spatial = _spatial_axes(header, sizes, directions, notes)
        if detached is None:
            array = _read_voxels(file, header, sizes, limit)
        else:
            with decode.open_beside(path, detached, allow_detached) as data:
                array = _read_voxels(data, header, sizes, limit)
    array = array.reshape([sizes[axis] for axis in reversed(spatial)])
    image = RawImage(array, notes=notes, keys=header.keys)
    if directions is not None:
        image.ijk_to_ras = np.eye(4)
        image.ijk_to_ras[:3, :3] = np.stack([directions[axis] for axis in spatial], axis=1)
        image.ijk_to_ras[:3, 3] = origin
    else:
        image.spacing_mm = _spacing_only(header, spatial)
    return image


def _read_header(file: BinaryIO, name: str) -> tuple[Header, str | None]:
    """Return the header and the name of a detached data file, or None; `file` then stands at the data."""
    magic = file.readline(64).rstrip(b"\r\n")
    if not re.fullmatch(rb"NRRD000[1-5]", magic):
        raise InputError(f"{name}: expected NRRD0001 to NRRD0005, got {magic!r}. Save it again as NRRD.")
    header = Header({}, {}, name)
    while True:
        line = file.readline(_MAX_HEADER_BYTES)
        if file.tell() > _MAX_HEADER_BYTES:
            raise InputError(f"{name}: its NRRD header does not end within {_MAX_HEADER_BYTES:,} bytes.")
        if not line or not line.rstrip(b"\r\n"):
            break
        _read_line(header, line)
    detached = header.fields.get("data file")
    if detached is None and not line:
        raise InputError(f"{name}: the file ends inside its NRRD header. It is truncated; copy it again.")
    return header, detached


def _read_line(header: Header, line: bytes) -> None:
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{header.name}: its NRRD header is not text. The file is damaged.") from error
    if text.startswith("#"):
        return
    match = re.match(r"([^:]+):(=| )(.*)", text, re.DOTALL)
    if not match:
        raise InputError(f"{header.name}: expected an NRRD field, got {text[:80]!r}. The header is damaged.")
    key, sign, value = match.groups()
    target = header.keys
    if sign == "=":
        value = value.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\")
    else:
        target, key, value = header.fields, key.strip().lower(), value.strip()
        key = _SAME_FIELD.get(key, key)
        if key not in _FIELDS:  # a misspelled field would otherwise lose the geometry without a word
            raise InputError(f"{header.name}: unknown NRRD field {key[:80]!r}. The header is damaged.")
    if key in target:
        raise InputError(f"{header.name}: NRRD field {key[:80]!r} appears twice. The header is damaged.")
    target[key] = value


def _space(header: Header, notes: list[str]) -> tuple[list[np.ndarray | None] | None, np.ndarray]:
    """Return the axis directions in RAS mm (or None when no space is stated) and the origin."""
    space = header.fields.get("space", "").lower()
    nothing = np.zeros(3)
    if not space:
        return None, nothing
    if space not in _RAS_SIGNS:
        raise InputError(
            f"{header.name}: expected an NRRD space of {', '.join(k for k in _RAS_SIGNS if '-' in k)}, got "
            f"{space!r}. Save the image again from 3D Slicer."
        )
    if "space directions" not in header.fields:
        return None, nothing
    signs = np.array(_RAS_SIGNS[space], float) * _mm_per_unit(header, notes)
    directions = [None if v is None else v * signs for v in header.vectors("space directions")]
    if "space origin" not in header.fields:
        notes.append("The NRRD header states no origin: 0, 0, 0 was assumed.")
        return directions, nothing
    origin = header.vectors("space origin")
    if len(origin) != 1 or origin[0] is None:
        raise InputError(f"{header.name}: expected one origin, got {header.fields['space origin']!r}.")
    return directions, origin[0] * signs


def _mm_per_unit(header: Header, notes: list[str]) -> float:
    if "space units" not in header.fields:
        return 1.0  # medical NRRD files count in mm and say nothing
    units = set(re.findall(r'"([^"]*)"', header.fields["space units"]))
    factors = {MM_PER_UNIT.get(unit.strip().lower()) for unit in units}
    if len(factors) != 1 or None in factors:
        raise InputError(
            f"{header.name}: expected space units of mm, got {header.fields['space units']!r}. Save the "
            "image in mm."
        )
    factor = factors.pop()
    if factor != 1:
        notes.append(
            f"The NRRD geometry is in {'/'.join(sorted(units))}; it was converted to mm (x {factor:g})."
        )
    return factor


def _spatial_axes(
    header: Header, sizes: list[int], directions: list[np.ndarray | None] | None, notes: list[str]
) -> list[int]:
    """Return the three axes in space, fastest first; InputError unless all others have one entry."""
    decode.promised_bytes(sizes, np.dtype("u1"), header.name)
    if directions is not None:
        spatial = [axis for axis, vector in enumerate(directions) if vector is not None]
    else:
        spatial = list(range(len(sizes)))
        for axis in reversed(range(len(sizes))):
            if len(spatial) > 3 and sizes[axis] == 1:
                spatial.remove(axis)
    extra = [axis for axis in range(len(sizes)) if axis not in spatial]
    if len(spatial) != 3 or any(sizes[axis] != 1 for axis in extra):
        raise InputError(
            f"{header.name}: expected a 3-D image of single numbers, got sizes {sizes} of type "
            f"{header.fields.get('type')!r}, kinds {header.fields.get('kinds', 'not stated')!r}. Extract one "
            "channel "
            "or time point of a volume first."
        )
    if extra:
        notes.append(f"The file has sizes {sizes}; its axis of length 1 was dropped.")
    return spatial


def _spacing_only(header: Header, spatial: list[int]) -> tuple[float, float, float] | None:
    try:
        spacings = [float(word) for word in header.fields.get("spacings", "").split()]
    except ValueError as error:
        raise InputError(
            f"{header.name}: expected numbers in 'spacings', got {header.fields['spacings']!r}."
        ) from error
    if len(spacings) <= max(spatial):
        return None
    units = re.findall(r'"([^"]*)"', header.fields.get("units", ""))
    factors = [MM_PER_UNIT.get(units[a].strip().lower()) if len(units) > a else 1.0 for a in spatial]
    if None in factors:
        return None
    return usable_spacing([spacings[a] * f for a, f in zip(spatial, factors, strict=True)][::-1])


def _read_voxels(file: BinaryIO, header: Header, sizes: list[int], limit: int) -> np.ndarray:
    """Return the voxels, slowest axis first, from a file that stands where the data begins."""
    kind = _TYPES.get(header.need("type").lower())
    encoding = header.need("encoding").lower()
    if kind is None:
        raise InputError(f"{header.name}: expected voxels of a number type, got {header.fields['type']!r}.")
    endian = header.fields.get("endian", "").lower()
    text = encoding in ("txt", "text", "ascii")
    if kind[1] != "1" and not text and endian not in ("little", "big"):
        raise InputError(f"{header.name}: expected endian little or big for type {kind}, got {endian!r}.")
    dtype = np.dtype((">" if endian == "big" else "<") + kind)
    shape = sizes[::-1]
    skip = header.integers("byte skip")[0] if "byte skip" in header.fields else 0
    if header.fields.get("line skip", "0") != "0" or (skip and encoding != "raw"):
        raise InputError(
            f"{header.name}: line skip and byte skip are supported for raw data only. Save it again."
        )
    if encoding == "raw":
        if skip == -1:  # the data is what lies at the end
            skip = max(decode.bytes_left(file) - decode.promised_bytes(shape, dtype, header.name), 0)
        if skip < 0:
            raise InputError(f"{header.name}: expected a byte skip of -1 or more, got {skip}.")
        file.seek(skip, 1)
        return decode.read_raw(file, shape, dtype, header.name)
    if encoding in ("gz", "gzip"):
        return decode.read_compressed(file, shape, dtype, limit, header.name)
    if text:
        return decode.read_text(file, shape, dtype.newbyteorder("="), limit, header.name)
    raise InputError(
        f"{header.name}: expected encoding raw, gzip or ascii, got {encoding!r}. Save it again as gzip."
    )
