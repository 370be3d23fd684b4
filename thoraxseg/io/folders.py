"""A folder, or a header that names another file -> the files that make up one image."""

from __future__ import annotations

import re
from pathlib import Path

from thoraxseg.errors import InputError
from thoraxseg.io import kinds
from thoraxseg.io.kinds import Kind

_CLUTTER = {"thumbs.db", "desktop.ini"}


def image_files(folder: Path) -> tuple[Kind, list[Path], list[str]]:
    """Return DICOM or TIFF, the files of that kind in their order, and a note on files ignored.

    Subfolders are not followed; a link out of the folder is refused, so that nothing outside is
    read. Raises InputError when there are no images, or a file has an image's name but not its content.
    """
    found: dict[Kind | None, list[Path]] = {}
    subfolders = 0
    home = folder.resolve()
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in _CLUTTER:
            continue
        if path.is_symlink() and path.resolve().parent != home:
            raise InputError(
                f"{path}: this link leaves the folder, which is not followed. Copy the file instead."
            )
        if path.is_dir():
            subfolders += 1
        elif path.is_file():
            kind = kinds.content_kind(kinds.head(path))
            found.setdefault(kind if kind in (Kind.DICOM, Kind.TIFF) else None, []).append(path)
    kind = next((k for k in (Kind.DICOM, Kind.TIFF) if k in found), None)
    if kind is None:
        raise InputError(_no_images(folder, found.get(None, []), subfolders))
    ignored = [path for other, paths in found.items() if other is not kind for path in paths]
    for path in ignored:
        if kinds.suffix_kind(path) is kind:
            what = kinds.describe(kinds.head(path))
            raise InputError(
                f"{path}: expected {kind.value} as its name says, got {what}. Copy the series again."
            )
    notes = []
    if ignored:
        some = ", ".join(path.name for path in ignored[:3]) + (" ..." if len(ignored) > 3 else "")
        notes.append(f"{len(ignored)} file(s) in the folder that are not {kind.value} were ignored: {some}.")
    paths = found[kind]
    if kind is Kind.TIFF:
        from thoraxseg.io import tiff

        paths = tiff.natural_order(paths)
    return kind, paths, notes


def _no_images(folder: Path, others: list[Path], subfolders: int) -> str:
    images = [path.name for path in others if kinds.suffix_kind(path)]
    found = (
        f"{len(others)} other file(s) and {subfolders} folder(s)"
        if others or subfolders
        else "an empty folder"
    )
    if images:
        return (
            f"{folder}: expected a DICOM series or TIFF slices, got {found}. Give one file, such as "
            f"{images[0]}."
        )
    where = " Give the subfolder that holds one series." if subfolders else ""
    return f"{folder}: expected a DICOM series or TIFF slices, got {found}.{where} {kinds.KNOWN}"


def detached_files(path: Path) -> list[Path]:
    """Return the data file beside a detached NRRD or MetaImage header, as a list; empty for other files."""
    start = kinds.head(path, 1 << 20) if kinds.suffix_kind(path) in (Kind.NRRD, Kind.METAIMAGE) else b""
    match = re.search(
        rb"^(?:ElementDataFile *=|data ?file:) *([^\r\n]+?) *\r?$", start, re.MULTILINE | re.IGNORECASE
    )
    name = match[1].decode("utf-8", "replace") if match else "LOCAL"
    if "/" in name or "\\" in name or ":" in name or not (path.parent / name).is_file():
        return []  # LOCAL, or something that `read_volume` refuses
    return [path.parent / name]
