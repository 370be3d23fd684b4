"""First bytes of a file -> which kind of image it is, or what else it is."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

from thoraxseg.errors import InputError


class Kind(Enum):
    """An image format that can be read; the value is its name for people."""

    NRRD = "NRRD"
    NIFTI = "NIfTI"
    METAIMAGE = "MetaImage"
    TIFF = "TIFF"
    DICOM = "DICOM"


KNOWN = (
    "Known are NRRD (.nrrd, .nhdr), NIfTI (.nii, .nii.gz), MetaImage (.mha, .mhd), TIFF stacks (.tif, .tiff, "
    "or a folder of them) and folders with one DICOM series."
)

SUFFIXES = {
    ".nrrd": Kind.NRRD,
    ".nhdr": Kind.NRRD,
    ".nii": Kind.NIFTI,
    ".nii.gz": Kind.NIFTI,
    ".mha": Kind.METAIMAGE,
    ".mhd": Kind.METAIMAGE,
    ".tif": Kind.TIFF,
    ".tiff": Kind.TIFF,
    ".dcm": Kind.DICOM,
    ".ima": Kind.DICOM,
}

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_METAIMAGE = re.compile(rb"^\s*(ObjectType|NDims)\s*=", re.MULTILINE)
_NIFTI_SIZES = tuple(size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big"))
_OTHERS = (
    (
        b"version https://git-lfs.github.com/spec",
        "a git-LFS pointer, not the file it stands for (run: git lfs pull)",
    ),
    (b"PK\x03\x04", "a ZIP archive (unpack it first)"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF document"),
    (b"\x89HDF", "an HDF5 or MINC file"),
    (b"BZh", "a bzip2 archive (unpack it first)"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)


def head(path: Path, count: int = 4096) -> bytes:
    """Return the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(count)


def suffix_kind(path: Path) -> Kind | None:
    """Return the kind that the file's name promises, or None."""
    name = path.name.lower()
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def content_kind(start: bytes) -> Kind | None:
    """Return the kind that the first bytes show, or None. Gzip counts as NIfTI: no other kind is gzipped."""
    if start.startswith(b"NRRD"):
        return Kind.NRRD
    if start[128:132] == b"DICM":
        return Kind.DICOM
    if start[:4] in _TIFF:
        return Kind.TIFF
    if start[:4] in _NIFTI_SIZES or start.startswith(b"\x1f\x8b"):
        return Kind.NIFTI
    if _is_text(start[:256]) and _METAIMAGE.search(start):
        return Kind.METAIMAGE
    return None


def recognize(path: Path) -> Kind:
    """Return the kind of an image file by its content.

    Raises InputError that says what the file is instead, or that name and content disagree.
    """
    start = head(path)
    kind, promised = content_kind(start), suffix_kind(path)
    if kind is None:
        wanted = f"{promised.value}, as its name says" if promised else "an image"
        raise InputError(f"{path}: expected {wanted}, got {describe(start)}. {KNOWN}")
    if promised is not None and promised is not kind:
        raise InputError(
            f"{path}: its name promises {promised.value}, its content is {kind.value}. Rename it, or look "
            "for "
            f"the right file. {KNOWN}"
        )
    return kind


def describe(start: bytes) -> str:
    """Return in words what a file with these first bytes is."""
    if not start:
        return "an empty file (0 bytes)"
    for magic, what in _OTHERS:
        if start.startswith(magic):
            return what
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html)", start, re.IGNORECASE):
        return "an HTML page (often the error page of a failed download)"
    if re.match(rb"(\xef\xbb\xbf)?\s*<\?xml", start):
        return "an XML file"
    if _is_text(start):
        return "a text file"
    return f"unknown bytes ({start[:8].hex(' ')} ...)"


def _is_text(start: bytes) -> bool:
    return bool(start) and all(byte >= 32 or byte in b"\t\n\r\f" for byte in start)
