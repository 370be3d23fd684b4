"""Bytes of a file -> voxels, after checking that the bytes promised are the bytes present."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from thoraxseg.errors import InputError

MAX_DECODED_BYTES = 2 << 30
"""How many bytes compressed data may become, unless the caller says otherwise."""

GZIP = 31
"""zlib window setting: gzip streams only, CRC and length verified."""
ZLIB_OR_GZIP = 47

_MAX_RATIO = 1032  # deflate cannot shrink further, so a bolder promise is refused without decoding
_BLOCK = 1 << 20


def promised_bytes(sizes: Sequence[int], dtype: np.dtype, name: str) -> int:
    """Return the bytes that `sizes` voxels of `dtype` need; InputError for a size below 1."""
    if not sizes or any(size < 1 for size in sizes):
        raise InputError(
            f"{name}: expected positive image dimensions, got {list(sizes)}. The header is damaged."
        )
    return prod(int(size) for size in sizes) * dtype.itemsize


def bytes_left(file: BinaryIO) -> int:
    """Return how many bytes lie between the file's position and its end."""
    return os.fstat(file.fileno()).st_size - file.tell()


def read_raw(file: BinaryIO, shape: Sequence[int], dtype: np.dtype, name: str) -> np.ndarray:
    """Return the rest of `file` as an array of `shape`; InputError unless it has exactly those bytes."""
    promised = promised_bytes(shape, dtype, name)
    present = bytes_left(file)
    if present != promised:
        raise _mismatch(name, promised, present)
    array = np.empty(shape, dtype)
    view = memoryview(array).cast("B")
    done = 0
    while done < promised:
        count = file.readinto(view[done:])
        if not count:
            raise _mismatch(name, promised, done)
        done += count
    return native(array)


def read_compressed(
    file: BinaryIO, shape: Sequence[int], dtype: np.dtype, limit: int, name: str, window: int = GZIP
) -> np.ndarray:
    """Return the compressed rest of `file` as an array of `shape`, CRC and length verified.

    Raises InputError for damaged, truncated, too short or too long data, and above `limit` bytes.
    """
    data = inflate(file, promised_bytes(shape, dtype, name), limit, name, window)
    return native(np.frombuffer(data, dtype).reshape(shape))


def inflate(file: BinaryIO, promised: int, limit: int, name: str, window: int = GZIP) -> bytearray:
    """Return exactly `promised` bytes decoded from the rest of `file`; errors as `read_compressed`."""
    if promised > limit:
        raise InputError(
            f"{name}: the header promises {promised:,} bytes, the limit for compressed data is {limit:,}. "
            "Crop the image, save it uncompressed, or raise the limit."
        )
    packed = bytes_left(file)
    if promised > _MAX_RATIO * packed + _BLOCK:
        raise InputError(
            f"{name}: the header promises {promised:,} bytes, which {packed:,} compressed bytes cannot "
            "hold. The file is truncated or its header damaged; copy it again."
        )
    out = bytearray()
    try:
        _inflate_into(out, file, promised, name, window)
    except zlib.error as error:
        raise InputError(f"{name}: the compressed data is damaged ({error}). Copy the file again.") from error
    if len(out) != promised:
        raise _mismatch(name, promised, len(out))
    return out


def _inflate_into(out: bytearray, file: BinaryIO, promised: int, name: str, window: int) -> None:
    engine = zlib.decompressobj(window)
    data = b""
    while data or (data := file.read(_BLOCK)):
        if engine.eof:
            # Gzip allows several members in a row; anything else behind the end is not ours.
            if window != GZIP or not data.startswith(b"\x1f"):
                raise InputError(
                    f"{name}: unknown bytes follow the end of the compressed data. The file is damaged or "
                    "two files were joined; copy it again."
                )
            engine = zlib.decompressobj(window)
        piece = engine.decompress(data, _BLOCK)
        while piece:
            out += piece
            if len(out) > promised:
                raise InputError(
                    f"{name}: the header promises {promised:,} bytes of data, but more follow. The header is "
                    "damaged; save the image again."
                )
            piece = b"" if engine.eof else engine.decompress(engine.unconsumed_tail, _BLOCK)
        data = engine.unused_data if engine.eof else b""
    if not engine.eof:
        raise InputError(
            f"{name}: the compressed data is truncated: it ends after {len(out):,} of {promised:,} bytes. "
            "Copy the file again."
        )


def read_text(file: BinaryIO, shape: Sequence[int], dtype: np.dtype, limit: int, name: str) -> np.ndarray:
    """Return numbers written as text as an array of `shape`; InputError unless there are just as many."""
    count = promised_bytes(shape, dtype, name) // dtype.itemsize
    present = bytes_left(file)
    if 2 * count - 1 > present or present > limit:
        raise _mismatch(name, 2 * count - 1, present)
    text = file.read()
    if not text[-1:].isspace():  # a number cut in the middle is still a number
        raise InputError(
            f"{name}: its numbers do not end with a line break, so some may be missing. Save it again."
        )
    numbers = text.split()
    if len(numbers) != count:
        raise InputError(f"{name}: expected {count:,} numbers, got {len(numbers):,}. The file is damaged.")
    try:
        return np.array(numbers).astype(dtype).reshape(shape)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{name}: expected numbers of type {dtype}: {error}. The file is damaged."
        ) from error


def native(array: np.ndarray) -> np.ndarray:
    """Return the array in this machine's byte order."""
    return array if array.dtype.isnative else array.byteswap().view(array.dtype.newbyteorder("="))


def rescale(array: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Return `array * slope + intercept`: the same integers when nothing changes, else float32."""
    if slope == 1 and intercept == 0:
        return array
    if array.dtype == np.float64:
        return array * slope + intercept
    out = np.empty(array.shape, np.float32)
    for k in range(len(array)):  # slice by slice: float64 arithmetic without a float64 copy of it all
        out[k] = array[k].astype(np.float64) * slope + intercept
    return out


def open_beside(header: Path, data_name: str, allow_detached: bool) -> BinaryIO:
    """Open the data file that a detached header names.

    A header must not make us read any file of the machine: only a plain name in the header's own
    folder is followed, no path, URL, link, list or pattern. Raises InputError otherwise.
    """
    if not allow_detached:
        raise InputError(
            f"{header}: expected one file with header and voxels, got a header that names {data_name!r}. "
            "Save it as .nrrd, .mha or .nii.gz."
        )
    target = header.parent / data_name
    plain = data_name not in ("", ".", "..", "LOCAL", "LIST") and not set(data_name) & set('/\\:%*?"<>|\0')
    if not plain or not data_name.isprintable() or target.is_symlink():
        raise InputError(
            f"{header}: expected the plain name of a data file in the same folder, got {data_name!r}. "
            "Save the image as one file (.nrrd, .mha or .nii.gz)."
        )
    if not target.is_file():
        raise InputError(f"{header}: its data file {data_name!r} is not beside it. Copy both files together.")
    return target.open("rb")


def short(error: BaseException) -> str:
    """Return another library's words as one short line of printable text."""
    line = " ".join(str(error).split())[:120]
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _mismatch(name: str, promised: int, present: int) -> InputError:
    missing = promised - present
    what = f"{missing:,} are missing" if missing > 0 else f"{-missing:,} are too many"
    return InputError(
        f"{name}: the header promises {promised:,} bytes of voxels, got {present:,} ({what}). The file is "
        "truncated or its header damaged; copy it again."
    )
