"""Damaged files of every kind end in an InputError or in the right voxels, never in another exception."""

from __future__ import annotations

import random
from contextlib import suppress

import numpy as np
import pytest

from thoraxseg.errors import InputError
from thoraxseg.io import StackGeometry, hash_input, read_volume

SUPPLIED = StackGeometry((0.5, 0.25, 0.125), "RIA", "for the test")
KINDS = [
    "nrrd",
    "nrrd gzip",
    "nrrd ascii",
    "nii",
    "nii 2",
    "nii.gz",
    "mha",
    "mha zlib",
    "tif",
    "tif zlib",
    "dcm",
]


@pytest.fixture(params=KINDS, ids=KINDS)
def damaged(request, tools, phantom, tmp_path):
    """Return (path to read, path of the file to damage, its whole bytes, expected voxels)."""
    kind, _, variant = request.param.partition(" ")
    matrix, path = tools.matrix("LPS"), tmp_path / f"a.{kind}"
    if kind == "nrrd":
        tools.nrrd(path, phantom, matrix, encoding=variant or "raw")
    elif kind.startswith("nii"):
        tools.nifti(path, phantom, matrix, version=2 if variant else 1)
    elif kind == "mha":
        tools.mha(path, phantom, matrix, compressed=bool(variant))
    elif kind == "tif":
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(path, phantom, metadata=None, compression="zlib" if variant else None)
    else:
        pytest.importorskip("pydicom")
        folder = tools.dicom(tmp_path / "series", phantom, matrix)
        path = sorted(folder.iterdir())[2]
        return folder, path, path.read_bytes(), phantom
    return path, path, path.read_bytes(), phantom


def read_or_refuse(path):
    """Return the volume or None when it was refused with a message; other exceptions pass through."""
    try:
        return read_volume(path, SUPPLIED)
    except InputError as error:
        message = str(error)
    assert len(message) > 20 and message.isprintable()
    return None


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_a_file_cut_anywhere_is_refused_or_whole(damaged, capfd):
    path, file, whole, expected = damaged
    step = max(len(whole) // 150, 1)
    read_whole = []
    for end in [*range(0, len(whole), step), *range(max(len(whole) - 12, 0), len(whole))]:
        file.write_bytes(whole[:end])
        volume = read_or_refuse(path)
        if volume is not None:
            assert np.array_equal(volume.array, expected), end
            read_whole.append(end)
    assert min(read_whole, default=len(whole)) >= len(whole) - 16  # unused bytes at the very end
    file.write_bytes(whole)
    assert read_or_refuse(path) is not None
    assert capfd.readouterr().err == ""


def test_flipped_header_bytes_never_end_in_a_crash(damaged, capfd):
    path, file, whole, _ = damaged
    chance = random.Random(20260901)
    header = min(len(whole), 700)
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 5))):
            data[chance.randrange(header)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        file.write_bytes(data)
        volume = read_or_refuse(path)
        if volume is not None:
            assert np.isfinite(volume.ijk_to_ras).all() and volume.array.size > 1
        with suppress(InputError):
            hash_input(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("damaged", ["nii.gz"], indirect=True)  # gzip checks everything it holds
def test_flipped_bytes_in_checked_data_are_always_noticed(damaged):
    path, file, whole, expected = damaged
    chance = random.Random(7)
    for _ in range(200):
        data = bytearray(whole)
        spot = chance.randrange(10, len(whole))  # behind the gzip header, whose time and name do not matter
        data[spot] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        volume = read_or_refuse(path)
        assert volume is None or np.array_equal(volume.array, expected)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_flipped_numbers_in_text_headers_never_shift_voxels_silently(tools, phantom, tmp_path):
    """A changed size, type or encoding must be refused: the count of bytes no longer fits."""
    matrix = tools.matrix("LPS")
    for field, value in (("sizes", "7 6 4"), ("sizes", "8 6 5"), ("type", "uchar"), ("type", "double")):
        with pytest.raises(InputError):
            read_volume(tools.nrrd(tmp_path / "a.nrrd", phantom, matrix, extra={field: value}))
    for key, value in (("DimSize", "7 6 4"), ("ElementType", "MET_UCHAR"), ("CompressedData", "True")):
        with pytest.raises(InputError):
            read_volume(tools.mha(tmp_path / "a.mha", phantom, matrix, extra={key: value}))
