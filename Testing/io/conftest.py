"""A small phantom without symmetry, and writers that put it into every kind of file."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from thoraxseg.volume import RAS_FROM_LPS, directions_from_codes

SHAPE = (5, 6, 7)  # (K, J, I), all different
SPACING_MM = (0.3, 0.2, 0.15)  # (k, j, i)


def _phantom() -> np.ndarray:
    """Return int16 `(5, 6, 7)` in which every voxel has a value of its own, some negative."""
    k, j, i = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    return (100 * k + 10 * j + i - 150).astype(np.int16)


def _rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    x, y, z = np.radians(degrees)
    rx = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    ry = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    rz = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return rx @ ry @ rz


def _matrix(codes: str, degrees=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Return an `ijk_to_ras` with the phantom's spacing along `codes`, then turned by `degrees`."""
    matrix = np.eye(4)
    matrix[:3, :3] = _rotation(degrees) @ directions_from_codes(codes) * SPACING_MM[::-1]
    matrix[:3, 3] = (11.5, -22.25, 33.125)
    return matrix


def _text(numbers) -> str:
    return " ".join(repr(float(n)) for n in np.ravel(numbers))


def _write_nrrd(
    path: Path, array, ijk_to_ras, *, encoding="raw", space="lps", endian="little", extra=(), drop=()
):
    """Write NRRD by hand, so that our reader and writer cannot share a mistake."""
    import gzip

    signs = {"lps": (-1, -1, 1), "ras": (1, 1, 1), "las": (-1, 1, 1)}[space]
    full = {
        "lps": "left-posterior-superior",
        "ras": "right-anterior-superior",
        "las": "left-anterior-superior",
    }[space]
    vectors = [np.array(ijk_to_ras)[:3, c] * signs for c in range(4)]
    shown = ["(" + ",".join(repr(float(n)) for n in v) + ")" for v in vectors]
    names = {
        "i2": "short",
        "u1": "uchar",
        "f4": "float",
        "f8": "double",
        "u2": "ushort",
        "i4": "int",
        "i8": "int64",
    }
    fields = {
        "type": names[array.dtype.str[1:]],
        "dimension": "3",
        "space": full,
        "sizes": " ".join(map(str, array.shape[::-1])),
        "space directions": " ".join(shown[:3]),
        "kinds": "domain domain domain",
        "endian": endian,
        "encoding": encoding,
        "space origin": shown[3],
    }
    fields |= dict(extra)
    lines = ["NRRD0004", "# comment", *(f"{k}: {v}" for k, v in fields.items() if k not in drop), "", ""]
    data = array.astype(array.dtype.newbyteorder("<" if endian == "little" else ">")).tobytes()
    if encoding == "gzip":
        data = gzip.compress(data)
    if encoding == "ascii":
        data = (" ".join(str(v) for v in array.ravel().tolist()) + "\n").encode()
    if "data file" in fields:
        (path.parent / fields["data file"]).write_bytes(data)
        data = b""
    path.write_bytes("\n".join(lines).encode() + data)
    return path


def _write_mha(path: Path, array, ijk_to_ras, *, compressed=False, msb=False, extra=(), drop=()):
    """Write MetaImage by hand."""
    import zlib

    lps = RAS_FROM_LPS @ ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    names = {"i2": "MET_SHORT", "u1": "MET_UCHAR", "f4": "MET_FLOAT", "f8": "MET_DOUBLE", "u2": "MET_USHORT"}
    data = array.astype(array.dtype.newbyteorder(">" if msb else "<")).tobytes()
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": str(msb),
        "CompressedData": str(compressed),
        "TransformMatrix": _text((lps[:3, :3] / spacing).T),
        "Offset": _text(lps[:3, 3]),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "LPI",
        "ElementSpacing": _text(spacing),
        "DimSize": " ".join(map(str, array.shape[::-1])),
        "ElementType": names[array.dtype.str[1:]],
    }
    if compressed:
        data = zlib.compress(data)
        fields["CompressedDataSize"] = str(len(data))
    fields |= dict(extra)
    target = fields.pop("ElementDataFile", "LOCAL")
    lines = [*(f"{k} = {v}" for k, v in fields.items() if k not in drop), f"ElementDataFile = {target}", ""]
    if target != "LOCAL":
        (path.parent / target).write_bytes(data)
        data = b""
    path.write_bytes("\n".join(lines).encode() + data)
    return path


def _write_nifti(path: Path, array, ijk_to_ras, *, version=1, forms="sq", units="mm", endian="<", edit=None):
    """Write NIfTI with nibabel; `forms` tells which of sform and qform are set."""
    import nibabel as nib

    kind = {1: nib.Nifti1Image, 2: nib.Nifti2Image}[version]
    header = kind.header_class(endianness=endian)
    header.set_data_dtype(array.dtype.newbyteorder(endian))
    image = kind(array.transpose(2, 1, 0), None, header)
    if "s" in forms:
        image.set_sform(ijk_to_ras, 1)
    if "q" in forms:
        image.set_qform(ijk_to_ras, 1)
    if "q" not in forms:
        image.header["pixdim"][1:4] = SPACING_MM[::-1]
    image.header.set_xyzt_units(units)
    if edit:
        edit(image.header)
    nib.save(image, path)
    return path


def _dataset(array_2d, position, orientation, spacing, number, series_uid="1.2.826.0.1.3680043.8.498.1"):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    uid = f"{series_uid}.{number + 1}"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = uid
    ds.SeriesInstanceUID, ds.StudyInstanceUID = series_uid, "1.2.826.0.1.3680043.8.498.2"
    ds.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.3"
    ds.Modality, ds.PatientID, ds.SeriesDescription = "CT", "phantom", "asymmetric"
    ds.InstanceNumber = number
    ds.ImagePositionPatient = [f"{p:.10f}"[:16] for p in position]
    ds.ImageOrientationPatient = [f"{o:.13f}"[:16] for o in orientation]
    ds.PixelSpacing = [f"{s:.10f}"[:16] for s in spacing]
    ds.Rows, ds.Columns = array_2d.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8 * array_2d.dtype.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(array_2d.dtype.kind == "i")
    ds.RescaleSlope, ds.RescaleIntercept = "1", "0"
    ds.SliceThickness = "99"  # a lie: spacing must come from the positions
    ds.PixelData = array_2d.tobytes()
    return ds


def _write_dicom(folder: Path, array, ijk_to_ras, *, edit=None, series_uid="1.2.826.0.1.3680043.8.498.1"):
    """Write one file per slice with names against their order; `edit(dataset, k)` may change each."""
    folder.mkdir(exist_ok=True)
    lps = RAS_FROM_LPS @ ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    orientation = np.concatenate([lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]])
    for k, page in enumerate(array):
        ds = _dataset(page, lps[:3, 3] + k * lps[:3, 2], orientation, spacing[1::-1], k, series_uid)
        if edit is None or edit(ds, k) is not False:
            ds.save_as(folder / f"{(k * 37 + 11) % 101:03d}.dcm", enforce_file_format=True)
    return folder


def _voxels_by_place(volume) -> np.ndarray:
    """Return `(N, 4)`: RAS position in mm and value of every voxel, in the order of the values."""
    from thoraxseg.volume import to_ras

    index = np.indices(volume.shape).reshape(3, -1).T
    rows = np.column_stack([to_ras(volume.ijk_to_ras, index), np.asarray(volume.array, float).ravel()])
    return rows[np.argsort(rows[:, 3], kind="stable")]


class _Tools:
    """The writers and the phantom under one name."""

    spacing_mm = SPACING_MM
    phantom = staticmethod(_phantom)
    matrix = staticmethod(_matrix)
    nrrd = staticmethod(_write_nrrd)
    mha = staticmethod(_write_mha)
    nifti = staticmethod(_write_nifti)
    dicom = staticmethod(_write_dicom)
    voxels_by_place = staticmethod(_voxels_by_place)

    @staticmethod
    def patch(path: Path, offset: int, layout: str, *values) -> Path:
        """Overwrite header fields of a file in place."""
        data = bytearray(path.read_bytes())
        struct.pack_into(layout, data, offset, *values)
        path.write_bytes(data)
        return path


@pytest.fixture
def tools() -> _Tools:
    return _Tools()


@pytest.fixture
def phantom() -> np.ndarray:
    return _phantom()


@pytest.fixture
def oblique() -> np.ndarray:
    """A left-handed, permuted and oblique geometry."""
    return _matrix("PIL", (10.0, -7.0, 5.0))
