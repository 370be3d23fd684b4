"""Files -> volumes, and segmentations -> files: nothing is resampled, guessed or repaired silently."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.files import sha256_file
from thoraxseg.io import decode, folders, kinds
from thoraxseg.io.geometry import ASSUMED_KEY, RawImage, StackGeometry, place
from thoraxseg.io.kinds import Kind
from thoraxseg.io.write import write_scalar_nrrd, write_segmentation
from thoraxseg.segmentation import Segmentation
from thoraxseg.volume import Volume

logger = logging.getLogger(__name__)

MAX_LABEL = 2**31 - 1
"""The largest label that a file may hold."""
_FIRST_SEGMENT = "Segment0_ID"
"""The key in an NRRD header that makes it a segmentation (.seg.nrrd)."""

__all__ = [
    "ASSUMED_KEY",
    "StackGeometry",
    "hash_input",
    "read_label_map",
    "read_segmentation",
    "read_volume",
    "write_scalar_nrrd",
    "write_segmentation",
]


def read_volume(
    path: Path | str,
    stack_geometry: StackGeometry | None = None,
    spacing_given: bool = False,
    *,
    max_decoded_bytes: int = decode.MAX_DECODED_BYTES,
    allow_detached: bool = True,
    allow_constant: bool = False,
) -> Volume:
    """Return the image in a file or folder as a Volume, voxels in the file's order, never resampled.

    Reads NRRD, NIfTI, MetaImage, TIFF stacks and DICOM folders; the content decides which it is.
    `stack_geometry` is used only when the file states no orientation, and the notes say so;
    `spacing_given` tells that a person asked for it, so that a file with its own geometry is an
    error. `allow_constant` takes an image of one value only, such as the label map of a case without a tumor.
    `max_decoded_bytes` bounds compressed data; `allow_detached=False` refuses headers that
    name another file (for uploads).
    Raises InputError for everything that cannot be read exactly: see SAFETY R15-R22, R26-R30.
    """
    path = Path(path)
    with np.errstate(all="ignore"):  # what is not finite is refused, so numpy need not warn of it too
        try:
            image = _read(path, max_decoded_bytes, allow_detached)
        except OSError as error:
            raise _unreadable(path, error) from error
        _check_values(image.array, path, allow_constant)
        matrix, notes, assumed = place(image, stack_geometry, spacing_given, str(path))
        volume = Volume(image.array, matrix, path.name, (*image.notes, *notes), assumed)
    logger.info(
        "read a volume: shape %s, spacing %s mm, axes %s, %s",  # no name: it may be a patient's
        volume.shape,
        tuple(round(s, 6) for s in volume.spacing_mm),
        volume.axis_codes,
        volume.array.dtype,
    )
    for note in volume.notes:
        logger.info("%s", note)
    return volume


def read_segmentation(path: Path | str, *, max_decoded_bytes: int = decode.MAX_DECODED_BYTES) -> Segmentation:
    """Return the segmentation in a .seg.nrrd file: segment IDs become keys; one layer.

    Raises InputError when it is no such file, is damaged, or its segments overlap.
    """
    from thoraxseg.io import seg_nrrd

    path = Path(path)
    try:
        if kinds.recognize(_existing(path)) is not Kind.NRRD:
            raise InputError(
                f"{path}: expected a segmentation in NRRD (.seg.nrrd), got another kind of image."
            )
        return seg_nrrd.read(path, max_decoded_bytes)
    except OSError as error:
        raise _unreadable(path, error) from error


def read_label_map(
    path: Path | str,
    stack_geometry: StackGeometry | None = None,
    *,
    max_decoded_bytes: int = decode.MAX_DECODED_BYTES,
) -> Segmentation | Volume:
    """Return the labels in a file or folder: a Segmentation where it names its segments, else a Volume of integers.

    Takes what `read_volume` takes, also a single slice and a map without any label; the content decides which it is.
    Floats that are whole numbers become integers. `stack_geometry` is for stacks that state none.
    Raises InputError for everything that cannot be read exactly, and for values that are no whole numbers from 0 up.
    """
    from thoraxseg.io import nrrd, seg_nrrd

    path = Path(path)
    try:
        if not _existing(path).is_dir() and kinds.recognize(path) is Kind.NRRD:
            image = nrrd.read(path, max_decoded_bytes, allow_detached=True)
            if _FIRST_SEGMENT in image.keys:
                return seg_nrrd.to_segmentation(image, path)
        else:
            image = _read(path, max_decoded_bytes, allow_detached=True)
    except OSError as error:
        raise _unreadable(path, error) from error
    array = _whole_numbers(image.array, path)
    matrix, notes, assumed = place(image, stack_geometry, stack_geometry is not None, str(path))
    return Volume(array, matrix, path.name, (*image.notes, *notes), assumed)


def _whole_numbers(array: np.ndarray, path: Path) -> np.ndarray:
    low, high = array.min(), array.max()
    if array.dtype.kind not in "biuf" or not (low >= 0 and high <= MAX_LABEL):
        raise InputError(
            f"{path}: expected labels from 0 to {MAX_LABEL:,}, got {array.dtype} values from {low} to {high}."
        )
    if array.dtype.kind != "f":
        return array
    whole = array.astype(np.int32)
    if not np.array_equal(whole, array):
        raise InputError(
            f"{path}: expected labels (whole numbers), got values between them. Give a label map, not probabilities "
            "or an image."
        )
    return whole


def hash_input(path: Path | str) -> str:
    """Return the SHA-256, 64 hexadecimal digits, of what `read_volume` reads from `path`.

    A file: of its content; a detached header: of its and its data file's hash. A DICOM folder: of
    the sorted hashes of the series' files, so that names do not matter; a TIFF folder: of the
    hashes in the order of the slices. Raises InputError as `read_volume` does for folders.
    """
    path = Path(path)
    try:
        if _existing(path).is_dir():
            kind, paths, _ = folders.image_files(path)
            if kind is Kind.DICOM:
                from thoraxseg.io import dicom

                paths = [found.path for found in dicom.series(path, paths)[0]]
            hashes = [sha256_file(file) for file in paths]
            return _hash_of(sorted(hashes) if kind is Kind.DICOM else hashes)
        files = [path, *folders.detached_files(path)]
        return sha256_file(path) if len(files) == 1 else _hash_of([sha256_file(file) for file in files])
    except OSError as error:
        raise _unreadable(path, error) from error


def _hash_of(hashes: list[str]) -> str:
    return hashlib.sha256("\n".join(hashes).encode("ascii")).hexdigest()


def _existing(path: Path) -> Path:
    """Return the path; InputError unless it is a file or a folder. Pipes and devices could block forever."""
    if not path.exists():
        raise InputError(
            f"{path}: expected an image file or folder, but there is none of this name. {kinds.KNOWN}"
        )
    if not path.is_file() and not path.is_dir():
        raise InputError(f"{path}: expected an image file or folder, got a device or pipe.")
    return path


def _unreadable(path: Path, error: OSError) -> InputError:
    where = f" ({error.filename})" if error.filename and str(error.filename) != str(path) else ""
    return InputError(
        f"{path}: cannot be read: {error.strerror or error}{where}. Check its permissions and the disk."
    )


def _read(path: Path, limit: int, allow_detached: bool) -> RawImage:
    if _existing(path).is_dir():
        kind, paths, notes = folders.image_files(path)
        if kind is Kind.DICOM:
            from thoraxseg.io import dicom

            image = dicom.read(path, paths)
        else:
            from thoraxseg.io import tiff

            image = tiff.read_folder(paths, limit)
        image.notes += notes
        return image
    kind = kinds.recognize(path)
    if kind is Kind.DICOM:
        raise InputError(
            f"{path}: this is one file of a DICOM series. Give the folder that holds the whole series."
        )
    if kind is Kind.TIFF:
        from thoraxseg.io import tiff

        return tiff.read_file(path, limit)
    if kind is Kind.NIFTI:
        from thoraxseg.io import nifti

        return nifti.read(path, limit)
    if kind is Kind.METAIMAGE:
        from thoraxseg.io import metaimage

        return metaimage.read(path, limit, allow_detached)
    from thoraxseg.io import nrrd

    image = nrrd.read(path, limit, allow_detached)
    if _FIRST_SEGMENT in image.keys:
        raise InputError(
            f"{path}: expected an image, got a segmentation (.seg.nrrd). Give the image it was made on."
        )
    return image


def _check_values(array: np.ndarray, path: Path, allow_constant: bool) -> None:
    """Refuse single slices, NaN, infinity and, unless allowed, constant images."""
    if min(array.shape) < 2:
        raise InputError(
            f"{path}: expected a stack of at least 2 slices, rows and columns, got shape {array.shape}. Give "
            "the volume."
        )
    if array.dtype.kind == "f":
        bad = sum(int(plane.size - np.count_nonzero(np.isfinite(plane))) for plane in array)
        if bad:
            raise InputError(
                f"{path}: expected finite values, {bad:,} of {array.size:,} voxels are NaN or infinite. "
                "Replace them first."
            )
    low, high = array.min(), array.max()
    if low == high and not allow_constant:
        raise InputError(
            f"{path}: expected an image, all {array.size:,} voxels have the value {low}. Choose another file."
        )
