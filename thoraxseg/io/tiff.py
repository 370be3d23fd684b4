"""TIFF stack, one multi-page file or a folder of pages -> voxels; a TIFF states no orientation.

tifffile decodes the pages. It ends quietly at a page it cannot find, so we follow the chain of
pages ourselves first.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from thoraxseg.errors import DependencyError, InputError
from thoraxseg.io import decode
from thoraxseg.io.geometry import MM_PER_UNIT, RawImage, usable_spacing

logger = logging.getLogger(__name__)

_MAX_PAGES = 100_000
_UNCOMPRESSED = 1
_BLACK_IS_ZERO = 1
_TYPE_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}


def read_file(path: Path, limit: int) -> RawImage:
    """Return voxels `(K, J, I)` = (page, row, column) of a multi-page TIFF, and spacing if stated.

    Raises InputError for color, pages that differ, missing bytes, or a single page.
    """
    count = _count_pages(path)
    with _open(path) as tif:
        if len(tif.pages) != count:
            raise InputError(
                f"{path}: expected {count} pages, could read {len(tif.pages)}. Copy the file again."
            )
        slices = _stated_slices(tif, path)
        if count == 1 and slices > 1:
            array = _read_contiguous(path, tif.pages[0], slices)
        else:
            if slices not in (0, count):
                raise InputError(
                    f"{path}: its text promises {slices} pages, got {count}. Copy the file again."
                )
            array = _read_pages(path, tif, count, limit)
        spacing = _stated_spacing(tif)
    if len(array) == 1:
        raise InputError(
            f"{path}: expected a stack of pages, got a single image of {array.shape[1:]}. Save the stack."
        )
    return RawImage(array, spacing_mm=spacing)


def read_folder(paths: list[Path], limit: int) -> RawImage:
    """Return voxels `(K, J, I)` of single-page TIFF files, in the order given; errors as `read_file`."""
    if len(paths) < 2:
        raise InputError(f"{paths[0].parent}: expected a stack of TIFF files, got one. Give the file itself.")
    array = None
    for k, path in enumerate(paths):
        if _count_pages(path) != 1:
            raise InputError(
                f"{path}: expected one page per file in a folder of TIFFs, got more. Give one file."
            )
        with _open(path) as tif:
            page = _read_pages(path, tif, 1, limit)[0]
        if array is None:
            array = np.empty((len(paths), *page.shape), page.dtype)
        if page.shape != array.shape[1:] or page.dtype != array.dtype:
            raise InputError(
                f"{path}: expected a page of {array.shape[1:]} {array.dtype} as in {paths[0].name}, got "
                f"{page.shape} {page.dtype}. Keep one stack in a folder."
            )
        array[k] = page
    return RawImage(array)


def natural_order(paths: list[Path]) -> list[Path]:
    """Return TIFF files by the numbers in their names: 2 before 10.

    Raises InputError when names that differ in one number only skip a number: a slice is missing.
    """
    parts = {path: re.split(r"(\d+)", path.name) for path in paths}

    def key(path: Path) -> tuple[list[tuple[int, str]], str]:
        return [(int(p), "") if p.isdigit() else (-1, p.lower()) for p in parts[path]], path.name

    ordered = sorted(paths, key=key)
    if len({len(p) for p in parts.values()}) == 1:
        columns = list(zip(*(parts[path] for path in ordered), strict=True))
        varying = [column for column in columns if len(set(column)) > 1]
        if len(varying) == 1 and all(part.isdigit() for part in varying[0]):
            _check_numbers([int(part) for part in varying[0]], ordered)
    return ordered


def _check_numbers(numbers: list[int], ordered: list[Path]) -> None:
    steps = np.diff(numbers)
    step = int(np.median(steps))
    for k in np.flatnonzero(steps != step):
        raise InputError(
            f"{ordered[k].parent}: expected file numbers in steps of {step}, got {ordered[k].name} followed "
            "by "
            f"{ordered[k + 1].name}: slices are missing or double. Complete the stack."
        )


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Yield a `tifffile.TiffFile`; what goes wrong inside on a damaged file becomes InputError."""
    try:
        import tifffile
    except ImportError as error:
        raise DependencyError(
            f"{path}: reading TIFF needs tifffile. Install it: pip install tifffile"
        ) from error
    library = logging.getLogger("tifffile")
    if not library.handlers:  # else Python prints its complaints, which we raise ourselves, on stderr
        library.addHandler(logging.NullHandler())
    try:
        with tifffile.TiffFile(path) as tif:
            yield tif
    except (InputError, OSError):
        raise
    except Exception as error:  # tifffile raises a dozen classes on damaged bytes
        raise InputError(
            f"{path}: this TIFF cannot be decoded ({type(error).__name__}: {decode.short(error)}). Save the "
            "stack again "
            "uncompressed, for example with ImageJ."
        ) from error


def _count_pages(path: Path) -> int:
    """Return the number of pages after following the chain of them to its stated end."""
    with path.open("rb") as file:
        start = file.read(16)
        order = "little" if start[:2] == b"II" else "big"
        big = int.from_bytes(start[2:4], order) == 43
        position = int.from_bytes(start[8:16] if big else start[4:8], order)
        seen: set[int] = set()
        while position:
            if position in seen or len(seen) > _MAX_PAGES:
                raise InputError(f"{path}: its list of pages runs in a circle. The file is damaged.")
            seen.add(position)
            position = _next_page(file, position, order, big, path)
    if not seen:
        raise InputError(f"{path}: expected TIFF pages, got none. The file is truncated or damaged.")
    return len(seen)


def _next_page(file: BinaryIO, position: int, order: str, big: bool, path: Path) -> int:
    count_size, entry_size, offset_size = (8, 20, 8) if big else (2, 12, 4)
    size = os.fstat(file.fileno()).st_size
    entries = 0
    if position + count_size <= size:
        file.seek(position)
        entries = int.from_bytes(file.read(count_size), order)
    end = position + count_size + entries * entry_size
    whole = entries > 0 and end + offset_size <= size
    if whole:
        listed = file.read(entries * entry_size)
        # tifffile drops an entry whose value lies behind the end, and with it spacing or channels.
        for start in range(0, len(listed), entry_size):
            entry = listed[start : start + entry_size]
            kind = int.from_bytes(entry[2:4], order)
            length = _TYPE_BYTES.get(kind, 0) * int.from_bytes(entry[4:-offset_size], order)
            place = int.from_bytes(entry[-offset_size:], order)
            whole = whole and (length <= offset_size or place + length <= size)
    if not whole:
        raise InputError(
            f"{path}: expected a whole TIFF page at byte {position:,}, the file has {size:,}. It is "
            "truncated."
        )
    file.seek(end)
    return int.from_bytes(file.read(offset_size), order)


def _read_pages(path: Path, tif: Any, count: int, limit: int) -> np.ndarray:
    size = path.stat().st_size
    first = tif.pages[0]
    promised = 0
    for number, page in enumerate(tif.pages, 1):
        _check_page(path, page, number, size)
        if (page.shape, page.dtype) != (first.shape, first.dtype):
            raise InputError(
                f"{path}: expected pages of one shape and type, page 1 has {first.shape} {first.dtype}, page "
                f"{number} "
                f"{page.shape} {page.dtype}. Save one stack per file."
            )
        promised += decode.promised_bytes(page.shape, page.dtype, str(path))
        if promised > limit and page.compression != _UNCOMPRESSED:
            raise InputError(
                f"{path}: its pages promise more than {limit:,} bytes, the limit for compressed data. Crop "
                "the "
                "stack, save it uncompressed, or raise the limit."
            )
    array = np.empty((count, *first.shape), first.dtype.newbyteorder("="))
    for k, page in enumerate(tif.pages):
        array[k] = page.asarray()
    return array


def _check_page(path: Path, page: Any, number: int, size: int) -> None:
    """Refuse color, and a page whose bytes are not all in the file."""
    if page.samplesperpixel != 1 or page.photometric != _BLACK_IS_ZERO or len(page.shape) != 2:
        raise InputError(
            f"{path}: expected gray pages, page {number} has shape {page.shape} of type {page.dtype}, "
            "photometric "
            f"{getattr(page.photometric, 'name', page.photometric)}. Convert the stack to 8 or 16 bit gray "
            "values first."
        )
    if page.dtype is None or page.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: expected whole or real numbers, page {number} has {page.dtype}. Convert the stack."
        )
    spans = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    end = max((offset + count for offset, count in spans), default=0)
    present = sum(count for _, count in spans)
    promised = decode.promised_bytes(page.shape, page.dtype, str(path))
    short = page.compression == _UNCOMPRESSED and not page.is_tiled and present < promised
    if not spans or end > size or short or min(count for _, count in spans) < 1:
        raise InputError(
            f"{path}: page {number} promises {promised:,} bytes up to byte {end:,}, the file has {size:,} "
            "and lists "
            f"{present:,}. It is truncated or damaged; copy it again."
        )


def _stated_slices(tif: Any, path: Path) -> int:
    """Return the number of pages that ImageJ or OME text promises, 0 without.

    Raises InputError for channels and time points.
    """
    if tif.is_imagej:
        about = tif.imagej_metadata or {}
        wrong = {word: about[word] for word in ("channels", "frames") if int(about.get(word, 1)) > 1}
        count = int(about.get("images", 1))
    elif tif.is_ome:
        text = tif.pages[0].description
        sizes = {w: max(map(int, re.findall(rf'\bSize{w}="(\d{{1,9}})"', text)), default=1) for w in "CTZ"}
        wrong = {word: sizes[word] for word in "CT" if sizes[word] > 1}
        count = sizes["Z"]
    else:
        return 0
    if wrong:
        raise InputError(
            f"{path}: expected a stack of slices, its text states {wrong}. Extract one channel and time "
            "point; in ImageJ, "
            "Image > Properties turns frames into slices."
        )
    return count


def _read_contiguous(path: Path, page: Any, slices: int) -> np.ndarray:
    """Read ImageJ's way around the 4 GB limit: one page entry, all slices behind it without a gap."""
    size = path.stat().st_size
    _check_page(path, page, 1, size)
    shape = (slices, *page.shape)
    dtype = page.dtype.newbyteorder(page.parent.byteorder)
    promised = decode.promised_bytes(shape, dtype, str(path))
    offset = page.dataoffsets[0]
    if page.compression != _UNCOMPRESSED or offset + promised > size:
        raise InputError(
            f"{path}: its text promises {slices} slices of {page.shape}, {promised:,} bytes; "
            f"{size - offset:,} follow. "
            "The file is truncated; copy it again."
        )
    return decode.native(np.fromfile(path, dtype, promised // dtype.itemsize, offset=offset).reshape(shape))


def _stated_spacing(tif: Any) -> tuple[float, float, float] | None:
    """Return (k, j, i) in mm when ImageJ or OME text states all three with a unit, else None."""
    if tif.is_imagej:
        about = tif.imagej_metadata or {}
        factor = MM_PER_UNIT.get(str(about.get("unit", "")).strip().lower())
        tags = [tif.pages[0].tags.get(name) for name in ("YResolution", "XResolution")]
        if factor is None or "spacing" not in about or None in tags:
            return None
        per_pixel = [tag.value[1] / tag.value[0] if tag.value[0] else 0.0 for tag in tags]
        return usable_spacing([abs(float(about["spacing"])) * factor, *(p * factor for p in per_pixel)])
    if tif.is_ome:
        text = tif.pages[0].description
        sizes = [re.search(rf'\bPhysicalSize{axis}="([^"]+)"', text) for axis in "ZYX"]
        units = [re.search(rf'\bPhysicalSize{axis}Unit="([^"]+)"', text) for axis in "ZYX"]
        factors = [MM_PER_UNIT.get(unit[1].lower()) if unit else 1e-3 for unit in units]  # OME's default: um
        if None not in sizes and None not in factors:
            return usable_spacing([float(s[1]) * f for s, f in zip(sizes, factors, strict=True)])
    return None
