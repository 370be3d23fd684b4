"""DICOM folders: one complete, evenly spaced series, ordered by position (SAFETY R26-R30)."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

from thoraxseg.errors import InputError
from thoraxseg.io import hash_input, read_volume

pydicom = pytest.importorskip("pydicom")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def matrix(tools):
    return tools.matrix("LPS", (4, -3, 2))


@pytest.fixture
def series(tools, phantom, matrix, tmp_path):
    """A function that writes the phantom as a series, with an edit of each dataset."""
    return lambda edit=None, array=phantom, **more: tools.dicom(
        tmp_path / "s", array, matrix, edit=edit, **more
    )


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        read_volume(path)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def changing(k_changed, **values):
    """Return an edit that sets or (None) deletes attributes of one slice, or of all when -1."""

    def edit(ds, k):
        if k_changed in (-1, k):
            for name, value in values.items():
                if value is None:
                    delattr(ds, name)
                else:
                    setattr(ds, name, value)

    return edit


def test_slices_are_ordered_by_position_and_spaced_by_it(series, phantom, matrix):
    volume = read_volume(series())
    assert np.array_equal(volume.array, phantom) and volume.array.dtype == np.int16
    assert np.allclose(volume.ijk_to_ras, matrix, atol=1e-8)  # not the SliceThickness of 99
    assert volume.notes == ()


def test_a_series_stored_against_its_normal_comes_out_along_it(tools, phantom, tmp_path):
    matrix = tools.matrix("LPI")
    volume = read_volume(tools.dicom(tmp_path / "s", phantom, matrix))
    assert volume.axis_codes == "LPS"
    assert np.array_equal(volume.array, phantom[::-1])


def test_rescale_is_applied_and_ct_stays_16_bit(series, phantom):
    stored = (phantom + 1000).astype(np.uint16)
    volume = read_volume(series(changing(-1, RescaleIntercept="-1024"), stored))
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, stored.astype(int) - 1024)


def test_rescale_slopes_that_differ_are_applied_per_slice(series, phantom):
    def edit(ds, k):
        ds.RescaleSlope, ds.RescaleIntercept = str(0.5 + k), str(k)

    volume = read_volume(series(edit))
    slopes = np.arange(len(phantom))[:, None, None]
    assert volume.array.dtype == np.float32
    assert np.allclose(volume.array, phantom * (0.5 + slopes) + slopes)


def test_a_series_without_rescale_keeps_its_numbers(series, phantom):
    volume = read_volume(series(changing(-1, RescaleSlope=None, RescaleIntercept=None)))
    assert np.array_equal(volume.array, phantom)


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32"])
def test_stored_types_are_kept(kind, series, phantom):
    array = (phantom % 200).astype(kind)
    volume = read_volume(series(array=array))
    assert np.array_equal(volume.array, array)
    assert volume.array.dtype == (np.int16 if kind == "int32" else array.dtype)


def test_twelve_bits_signed_in_sixteen_are_read(series, phantom):
    packed = (phantom.astype(np.int16) & 0x0FFF).astype(np.int16)
    volume = read_volume(series(changing(-1, BitsStored=12, HighBit=11), packed))
    assert np.array_equal(volume.array, phantom)


@pytest.mark.parametrize("syntax", ["ImplicitVRLittleEndian", "ExplicitVRBigEndian"])
def test_other_transfer_syntaxes_are_read(syntax, series, phantom, tmp_path):
    folder = series()
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        if "Big" in syntax:
            ds.PixelData = ds.pixel_array.astype(">i2").tobytes()
        ds.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
        pydicom.dcmwrite(
            path, ds, implicit_vr="Implicit" in syntax, little_endian="Big" not in syntax, force_encoding=True
        )
    assert np.array_equal(read_volume(folder).array, phantom)


def compress(folder):
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        ds.compress(pydicom.uid.RLELossless)
        ds.save_as(path, enforce_file_format=True)
    return folder


def test_compressed_slices_are_decoded_and_rescaled_once(series, phantom):
    pytest.importorskip("SimpleITK")
    folder = compress(series(changing(-1, RescaleSlope="2", RescaleIntercept="-3")))
    assert np.array_equal(read_volume(folder).array, phantom * 2 - 3)


@pytest.mark.parametrize("codec", ["JPEG2000", "JPEG"])
def test_lossless_jpeg_is_read_and_its_truncation_refused(codec, phantom, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    tags = {
        "0008|0060": "CT",
        "0020|000d": "1.2",
        "0020|000e": "1.2.3",
        "0028|1052": "-1000",
        "0028|1053": "1",
    }
    tags |= {"0008|0016": "1.2.840.10008.5.1.4.1.1.2", "0020|0037": "1\\0\\0\\0\\1\\0"}
    for k, page in enumerate(phantom):
        image = sitk.GetImageFromArray(page[None])
        image.SetSpacing((0.15, 0.2, 0.3))
        place = {"0008|0018": f"1.2.3.{k + 1}", "0020|0032": f"1\\2\\{3 + 0.3 * k:.1f}"}
        for tag, value in (tags | place).items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(tmp_path / f"{k}.dcm"))
        writer.SetUseCompression(True)
        writer.SetCompressor(codec)
        writer.Execute(image)
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, phantom) and volume.array.dtype == np.int16
    assert np.allclose(volume.spacing_mm, (0.3, 0.2, 0.15))
    path = tmp_path / "2.dcm"
    whole = path.read_bytes()
    for missing in range(5, 100, 9):  # the last 4 bytes are a length of 0
        path.write_bytes(whole[:-missing])
        refused(tmp_path, "2.dcm")


def test_a_truncated_compressed_slice_is_refused_or_whole(series, phantom):
    pytest.importorskip("SimpleITK")
    folder = compress(series())
    path = sorted(folder.iterdir())[2]
    whole = path.read_bytes()
    for end in range(len(whole) - 120, len(whole), 3):
        path.write_bytes(whole[:end])
        with suppress(InputError):
            assert np.array_equal(read_volume(folder).array, phantom), end


def test_several_series_are_refused_and_listed(series):
    series()
    folder = series(changing(-1, SeriesDescription="scout"), series_uid="1.2.826.0.1.3680043.8.498.9")
    for k, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"x{k}.dcm")
    folder = series()
    refused(folder, "got 2", "'scout': 5 files", "'asymmetric': 5 files")


def test_other_files_are_ignored_and_counted_and_subfolders_not_followed(series, phantom, tmp_path):
    folder = series()
    (folder / "notes.txt").write_text("hello")
    (folder / "sub").mkdir()
    (folder / "sub" / "stray.dcm").write_bytes(b"garbage")
    directory = pydicom.Dataset()
    directory.file_meta = pydicom.dataset.FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.save_as(folder / "DICOMDIR", enforce_file_format=True)
    report = pydicom.Dataset()
    report.update(directory)
    report.file_meta = directory.file_meta
    report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.Modality, report.SeriesInstanceUID = "SR", "1.2.4"
    report.save_as(folder / "report.dcm", enforce_file_format=True)
    volume = read_volume(folder)
    assert np.array_equal(volume.array, phantom)
    assert "1 file(s) in the folder that are not DICOM were ignored: notes.txt." in volume.notes
    assert any(note.startswith("2 DICOM file(s) without images were ignored") for note in volume.notes)


def test_one_dicom_file_is_refused_with_the_remedy(series):
    refused(sorted(series().iterdir())[0], "Give the folder")


def test_a_single_slice_is_refused(series):
    refused(series(lambda ds, k: k == 0), "a single one")


def test_a_missing_slice_is_refused_and_named(series):
    refused(series(lambda ds, k: k != 2), "expected slices every 0.3 mm, got 0.6 mm", "1 slice(s) missing?")


def test_a_missing_slice_is_refused_with_position_gaps_hidden_by_numbers(series):
    def edit(ds, k):
        ds.InstanceNumber = 1
        return k != 3

    refused(series(edit), "missing")


def test_a_duplicate_slice_is_refused(series):
    folder = series()
    first = sorted(folder.iterdir())[0]
    (folder / "copy.dcm").write_bytes(first.read_bytes())
    refused(folder, "one slice per position", "copy.dcm")


@pytest.mark.parametrize(("shift", "ok"), [(0.002, True), (0.006, False)])
def test_spacing_may_deviate_by_one_percent(shift, ok, series, matrix):
    def edit(ds, k):
        if k == 4:
            normal = np.diag([-1, -1, 1]) @ matrix[:3, 2] / 0.3
            ds.ImagePositionPatient = [
                f"{p:.10f}"[:16] for p in np.array(ds.ImagePositionPatient, float) + shift * normal
            ]

    folder = series(edit)
    if ok:
        assert read_volume(folder).spacing_mm[0] == pytest.approx(0.3 + shift / 4)
    else:
        refused(folder, "expected slices every")


def test_a_tilted_gantry_is_refused(series, matrix):
    def edit(ds, k):
        along = np.diag([-1, -1, 1]) @ matrix[:3, 1] / 0.2
        moved = np.array(ds.ImagePositionPatient, float) + 0.01 * k * along
        ds.ImagePositionPatient = [f"{p:.10f}"[:16] for p in moved]

    refused(series(edit), "gantry tilt about 1.9 degrees")


def test_one_slice_beside_the_stack_is_refused(series, matrix):
    def edit(ds, k):
        if k == 2:
            along = np.diag([-1, -1, 1]) @ matrix[:3, 0] / 0.15
            moved = np.array(ds.ImagePositionPatient, float) + 0.1 * along
            ds.ImagePositionPatient = [f"{p:.10f}"[:16] for p in moved]

    refused(series(edit), "sheared stack")


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (changing(1, ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), "orientation"),
        (changing(1, ImageOrientationPatient=[2, 0, 0, 0, 1, 0]), "length 1"),
        (changing(1, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "right angles"),
        (changing(1, ImageOrientationPatient=[1, 0, 0]), "6 finite"),
        (changing(1, ImageOrientationPatient=None), "expected ImageOrientationPatient, got none"),
        (changing(1, ImagePositionPatient=None), "expected ImagePositionPatient, got none"),
        (changing(1, PixelSpacing=None), "expected PixelSpacing, got none"),
        (changing(1, PixelSpacing=[0, 0.2]), "positive PixelSpacing"),
        (changing(1, PixelSpacing=[-0.2, 0.2]), "positive PixelSpacing"),
        (changing(1, PixelSpacing=[0.2, 0.25]), "pixels of"),
        (changing(1, RescaleSlope="0"), "slope other than 0"),
        (changing(1, SamplesPerPixel=3, PhotometricInterpretation="RGB"), "3 sample(s), RGB"),
        (changing(1, PhotometricInterpretation="MONOCHROME1"), "MONOCHROME1"),
        (changing(1, NumberOfFrames=5), "multi-frame DICOM (5 frames"),
        (changing(1, Rows=3, PixelData=bytes(42)), "6 x 7 pixels"),
        (changing(1, PixelData=bytes(40)), "promises 84 bytes of pixels, got 40"),
        (changing(1, PixelData=bytes(90)), "promises 84 bytes of pixels, got 90"),
        (changing(1, PixelData=None), "got 0"),
        (changing(1, Rows=None), "0 x 7"),
        (changing(1, BitsAllocated=12), "12 bits"),
    ],
)
def test_a_slice_that_cannot_be_trusted_is_refused(edit, word, series):
    refused(series(edit), word, "s")


def test_a_damaged_file_is_refused_and_named(series):
    folder = series()
    path = sorted(folder.iterdir())[1]
    whole = path.read_bytes()
    for end in (0, 100, 132, 140, 200, 400, 600, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:end])
        refused(folder, path.name)


def test_an_executable_preamble_changes_nothing(series, phantom):
    folder = series()
    for path in folder.iterdir():
        path.write_bytes(b"MZ" + bytes(126) + path.read_bytes()[128:])
    assert np.array_equal(read_volume(folder).array, phantom)


def test_deep_nesting_neither_crashes_nor_hangs(series):
    folder = series()
    path = sorted(folder.iterdir())[0]
    data = path.read_bytes()
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    nest = (b"\x08\x00\x15\x11SQ\x00\x00\xff\xff\xff\xff" + item) * 5000
    end = data.index(b"\x08\x00\x16\x00", 300) if b"\x08\x00\x16\x00" in data[300:] else 400
    path.write_bytes(data[:end] + nest + data[end:])
    refused(folder, path.name)


def test_an_unknown_character_set_is_no_obstacle(series, phantom):
    volume = read_volume(series(changing(-1, SpecificCharacterSet="KLINGON", SeriesDescription="x")))
    assert np.array_equal(volume.array, phantom)


def test_deflated_files_are_refused(series):
    folder = series()
    path = sorted(folder.iterdir())[0]
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    refused(folder, path.name, "deflated")


def test_links_out_of_the_folder_are_refused(series, tmp_path):
    folder = series()
    path = sorted(folder.iterdir())[0]
    outside = path.rename(tmp_path / "outside.dcm")
    try:
        path.symlink_to(outside)
    except OSError:
        pytest.skip("links are not allowed here")
    refused(folder, "leaves the folder")


def test_nothing_is_printed_about_odd_files(series, capfd):
    folder = series(changing(-1, SpecificCharacterSet="KLINGON"))
    path = sorted(folder.iterdir())[0]
    path.write_bytes(path.read_bytes()[:-50])
    refused(folder, path.name)
    assert capfd.readouterr() == ("", "")


def test_the_hash_does_not_depend_on_names_or_other_files(series, tmp_path):
    folder = series()
    before = hash_input(folder)
    for k, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"renamed{k}")
    (folder / "notes.txt").write_text("hello")
    assert hash_input(folder) == before
    path = folder / "renamed2"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    assert hash_input(folder) != before
