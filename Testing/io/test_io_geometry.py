"""The same anatomy from every kind of file lies in the same place (SAFETY R22)."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.io import read_volume

ORIENTATIONS = [
    ("RAS", (0, 0, 0)),
    ("LPS", (0, 0, 0)),
    ("RIA", (0, 0, 0)),
    ("ASL", (0, 0, 0)),
    ("LAS", (0, 0, 0)),
    ("PIR", (12, -8, 5)),
    ("SRA", (3, 20, -9)),
]
FORMATS = ["nrrd", "nrrd gzip", "nrrd ascii", "nrrd big endian", "nrrd ras", "nrrd las", "nrrd detached"]
FORMATS += ["nifti", "nifti gz", "nifti 2", "nifti big endian", "nifti sform", "nifti qform"]
FORMATS += ["mha", "mha compressed", "mha big endian", "mhd", "dicom"]


def write(tools, kind, folder, array, matrix):
    """Write the phantom as `kind`; return the path and the precision in mm that the format has."""
    family, _, variant = kind.partition(" ")
    if family == "nrrd":
        if variant == "detached":
            return tools.nrrd(folder / "a.nhdr", array, matrix, extra={"data file": "a.raw"}), 1e-12
        options = {
            "gzip": {"encoding": "gzip"},
            "ascii": {"encoding": "ascii"},
            "big endian": {"endian": "big"},
            "ras": {"space": "ras"},
            "las": {"space": "las"},
        }.get(variant, {})
        return tools.nrrd(folder / "a.nrrd", array, matrix, **options), 1e-12
    if family == "nifti":
        options = {
            "2": {"version": 2},
            "big endian": {"endian": ">"},
            "sform": {"forms": "s"},
            "qform": {"forms": "q"},
        }.get(variant, {})
        name = "a.nii.gz" if variant == "gz" else "a.nii"
        return tools.nifti(folder / name, array, matrix, **options), 1e-5
    if family == "dicom":
        return tools.dicom(folder / "series", array, matrix), 1e-8
    if family == "mhd":
        return tools.mha(folder / "a.mhd", array, matrix, extra={"ElementDataFile": "a.raw"}), 1e-12
    options = {"compressed": {"compressed": True}, "big endian": {"msb": True}}.get(variant, {})
    return tools.mha(folder / "a.mha", array, matrix, **options), 1e-12


@pytest.mark.parametrize(("codes", "degrees"), ORIENTATIONS, ids=[f"{c}{d}" for c, d in ORIENTATIONS])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_voxel_keeps_its_place_in_the_patient(kind, codes, degrees, tools, phantom, tmp_path):
    matrix = tools.matrix(codes, degrees)
    path, precision = write(tools, kind, tmp_path, phantom, matrix)
    volume = read_volume(path)
    expected = tools.voxels_by_place(type(volume)(phantom, matrix))
    assert np.abs(tools.voxels_by_place(volume) - expected).max() < precision
    assert volume.array.dtype == np.int16
    assert not volume.geometry_assumed
    if kind != "dicom":  # there the order of slices is by position, not as stored
        assert np.array_equal(volume.array, phantom)
        assert volume.axis_codes == codes


@pytest.mark.parametrize("kind", FORMATS)
def test_turning_every_format_to_one_orientation_gives_the_same_array(kind, tools, phantom, tmp_path):
    matrix = tools.matrix("PIL", (10, -7, 5))
    path, _ = write(tools, kind, tmp_path, phantom, matrix)
    reference = read_volume(tools.nrrd(tmp_path / "reference.nrrd", phantom, matrix)).reoriented("RIA")
    turned = read_volume(path).reoriented("RIA")
    assert np.array_equal(turned.array, reference.array)
    assert np.allclose(turned.ijk_to_ras, reference.ijk_to_ras, atol=1e-5)


@pytest.mark.parametrize("kind", [k for k in FORMATS if k not in ("nifti 2", "dicom")])
def test_simpleitk_reads_the_same_voxels_and_geometry(kind, tools, phantom, oblique, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    path, precision = write(tools, kind, tmp_path, phantom, oblique)
    image, volume = sitk.ReadImage(str(path)), read_volume(path)
    assert np.array_equal(sitk.GetArrayFromImage(image), volume.array)
    direction = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    flip = np.diag([-1, -1, 1])
    assert np.abs(flip @ direction - volume.ijk_to_ras[:3, :3]).max() < max(precision, 1e-9)
    assert np.abs(flip @ image.GetOrigin() - volume.ijk_to_ras[:3, 3]).max() < max(precision, 1e-9)


@pytest.mark.parametrize("suffix", ["nrrd", "nii.gz", "mha", "mhd"])
@pytest.mark.parametrize(
    "kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"]
)
@pytest.mark.parametrize("compressed", [False, True])
def test_files_that_simpleitk_writes_read_back_with_type_and_values(
    kind, suffix, compressed, phantom, tmp_path
):
    sitk = pytest.importorskip("SimpleITK")
    array = (phantom % 100 + (0.25 if kind.startswith("float") else 0)).astype(kind)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.15, 0.2, 0.3))
    image.SetOrigin((1.5, -2.5, 3.5))
    image.SetDirection((0, 0, 1, 1, 0, 0, 0, -1, 0))
    path = tmp_path / f"a.{suffix}"
    sitk.WriteImage(image, str(path), useCompression=compressed)
    volume = read_volume(path)
    assert volume.array.dtype == array.dtype
    assert np.array_equal(volume.array, array)
    assert np.allclose(volume.spacing_mm, (0.3, 0.2, 0.15))
    assert np.allclose(volume.ijk_to_ras[:3, 3], (-1.5, 2.5, 3.5))


@pytest.mark.parametrize("version", [1, 2])
def test_nibabel_reads_the_same_affine_and_scaled_values(version, tools, phantom, oblique, tmp_path):
    nib = pytest.importorskip("nibabel")
    for forms in ("sq", "s", "q"):
        path = tools.nifti(tmp_path / "a.nii.gz", phantom, oblique, version=version, forms=forms)
        image, volume = nib.load(path), read_volume(path)
        assert np.abs(image.affine - volume.ijk_to_ras).max() < 1e-6
        assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), volume.array)


def test_a_dicom_series_reads_as_simpleitk_reads_it(tools, phantom, oblique, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    folder = tools.dicom(tmp_path / "series", phantom, oblique)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image, volume = reader.Execute(), read_volume(folder)
    assert np.array_equal(sitk.GetArrayFromImage(image), volume.array)
    direction = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    assert np.abs(np.diag([-1, -1, 1]) @ direction - volume.ijk_to_ras[:3, :3]).max() < 1e-8
    assert np.abs(np.diag([-1, -1, 1]) @ image.GetOrigin() - volume.ijk_to_ras[:3, 3]).max() < 1e-8


FAULTS = [(k, f) for k in ("nrrd", "nifti", "mha") for f in ("zero", "nan", "huge", "tiny", "shear")]


@pytest.mark.parametrize(("kind", "fault"), [f for f in FAULTS if f != ("mha", "shear")])  # that one is below
def test_a_geometry_no_scanner_makes_is_refused(kind, fault, tools, phantom, tmp_path):
    from thoraxseg.errors import InputError

    matrix = tools.matrix("RAS")
    if fault == "shear":
        matrix[:3, 1] += 0.1 * matrix[:3, 0]
    else:
        matrix[:3, 0] *= {"zero": 0, "nan": np.nan, "huge": 1e6, "tiny": 1e-6}[fault]
    with np.errstate(all="ignore"):
        if kind == "nifti":
            path = tools.nifti(tmp_path / "a.nii", phantom, tools.matrix("RAS"), forms="s")
            tools.patch(path, 280, "<12f", *matrix[:3].ravel())
        else:
            path = getattr(tools, kind)(tmp_path / f"a.{kind}", phantom, matrix)
    with pytest.raises(InputError, match=r"a\.(nrrd|nii|mha)"):
        read_volume(path)


def test_a_sheared_metaimage_is_refused(tools, phantom, tmp_path):
    from thoraxseg.errors import InputError

    directions = "1 0 0 0.7071067811865476 0.7071067811865476 0 0 0 1"
    path = tools.mha(tmp_path / "a.mha", phantom, tools.matrix("RAS"), extra={"TransformMatrix": directions})
    with pytest.raises(InputError, match="right angles"):
        read_volume(path)
