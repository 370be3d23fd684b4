"""Segmentations and maps written for 3D Slicer: whole, exact, the same bytes each time."""

from __future__ import annotations

import errno
import zlib
from pathlib import Path

import numpy as np
import pytest

from thoraxseg.errors import InputError, OutputError
from thoraxseg.io import read_segmentation, read_volume, write_scalar_nrrd, write_segmentation
from thoraxseg.segmentation import STRUCTURES, Code, Segmentation, Structure, Terminology

PRESENT = {
    "all": {1: "heart", 2: "spinal_cord", 3: "right_lung"},
    "values skipped": {1: "heart", 3: "right_lung", 7: "left_lung"},
    "16 bit": {1: "heart", 300: "tumors"},
    "32 bit": {1: "heart", 70000: "tumors"},
}
ABSENT = {"none": (), "first": (0,), "middle": (1,), "last": (-1,), "all": (0, 1, -1)}


def segmentation(tools, labels=None, absent=(), codes="PIL", degrees=(10, -7, 5)):
    """Blocks of different size, one per label; `absent` names positions in the list of labels."""
    labels = labels or PRESENT["all"]
    values = list(labels)
    array = np.zeros((5, 6, 7), np.int32)
    gone = {values[n % len(values)] for n in absent}
    for n, value in enumerate(values):
        if value not in gone:
            array[n : n + 2, n + 1 : 4, n : n + 3] = value
    structures = {value: STRUCTURES[key] for value, key in labels.items()}
    return Segmentation(array, tools.matrix(codes, degrees), structures)


@pytest.mark.parametrize("absent", ABSENT)
@pytest.mark.parametrize("labels", PRESENT)
def test_a_segmentation_reads_back_as_written(labels, absent, tools, tmp_path):
    made = segmentation(tools, PRESENT[labels], ABSENT[absent])
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, made)
    back = read_segmentation(path)
    assert np.array_equal(back.labels, made.labels)
    assert back.structures == made.structures and list(back.structures) == list(made.structures)
    assert np.array_equal(back.ijk_to_ras, made.ijk_to_ras)  # bit for bit
    top = max(made.structures)
    assert back.labels.dtype == (np.uint8 if top < 256 else np.uint16 if top < 65536 else np.int32)


def test_the_same_segmentation_gives_the_same_bytes_however_it_lies_in_memory(tools, tmp_path):
    made = segmentation(tools)
    turned = Segmentation(np.asfortranarray(made.labels).astype(np.int64), made.ijk_to_ras, made.structures)
    write_segmentation(tmp_path / "a.seg.nrrd", made)
    write_segmentation(tmp_path / "b.seg.nrrd", turned)
    assert (tmp_path / "a.seg.nrrd").read_bytes() == (tmp_path / "b.seg.nrrd").read_bytes()


def test_slicerio_and_simpleitk_read_what_was_written(tools, tmp_path):
    slicerio = pytest.importorskip("slicerio")
    sitk = pytest.importorskip("SimpleITK")
    made = segmentation(tools, PRESENT["values skipped"], absent=(1,))
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, made)
    found = slicerio.read_segmentation(str(path))
    assert [s["id"] for s in found["segments"]] == ["heart", "right_lung", "left_lung"]
    assert [s["labelValue"] for s in found["segments"]] == [1, 3, 7]
    assert found["segments"][1]["extent"] == [0, -1, 0, -1, 0, -1]
    assert found["segments"][0]["extent"] == [0, 2, 1, 3, 0, 1]
    assert found["segments"][2]["terminology"]["typeModifier"] == ["SCT", "7771000", "Left"]
    assert np.array_equal(found["voxels"].transpose(2, 1, 0), made.labels)
    assert np.abs(np.diag([-1, -1, 1, 1]) @ found["ijkToLPS"] - made.ijk_to_ras).max() < 1e-12
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), made.labels)


def test_names_with_any_letters_survive(tools, tmp_path):
    made = segmentation(tools)
    names = ["C\u0153ur \u5fc3\u81d3", "a\\n b\nsecond line", "x:=y | ; ~ ^"]
    structures = {
        v: Structure(s.key, name, s.color, s.terminology)
        for (v, s), name in zip(made.structures.items(), names, strict=True)
    }
    write_segmentation(tmp_path / "a.seg.nrrd", Segmentation(made.labels, made.ijk_to_ras, structures))
    back = read_segmentation(tmp_path / "a.seg.nrrd")
    assert [s.name for s in back.structures.values()] == names


def test_codes_that_the_format_cannot_hold_are_refused(tools, tmp_path):
    made = segmentation(tools, {1: "heart"})
    odd = Structure("odd", "Odd", (1, 0, 0), Terminology(Code("SCT", "1", "a|b"), Code("SCT", "2", "c")))
    with pytest.raises(InputError, match="without"):
        write_segmentation(tmp_path / "a.seg.nrrd", Segmentation(made.labels, made.ijk_to_ras, {1: odd}))
    assert list(tmp_path.iterdir()) == []


def test_an_uncertainty_map_keeps_values_type_and_header_text(tools, phantom, oblique, tmp_path):
    array = np.random.default_rng(0).random(phantom.shape, np.float32)[::-1, :, ::-1]
    path = tmp_path / "u.nrrd"
    write_scalar_nrrd(path, array, oblique, {"ThoraxSeg.unit": "nat", "ThoraxSeg.note": "two\nlines"})
    volume = read_volume(path)
    assert np.array_equal(volume.array, array) and volume.array.dtype == np.float32
    assert np.array_equal(volume.ijk_to_ras, oblique)
    nrrd = pytest.importorskip("nrrd")
    header = nrrd.read_header(str(path))
    assert header["ThoraxSeg.unit"] == "nat"
    before = path.read_bytes()
    write_scalar_nrrd(path, array.copy(), oblique, {"ThoraxSeg.unit": "nat", "ThoraxSeg.note": "two\nlines"})
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["bool", "int8", "uint16", "int32", "int64", "float32", "float64", ">i2"])
def test_every_number_type_is_written(kind, tools, phantom, oblique, tmp_path):
    array = (phantom % 2 if kind == "bool" else phantom % 100).astype(kind)
    write_scalar_nrrd(tmp_path / "a.nrrd", array, oblique, {})
    assert np.array_equal(read_volume(tmp_path / "a.nrrd").array, array)


def test_what_is_no_scalar_volume_is_not_written(tools, phantom, oblique, tmp_path):
    for array in (phantom[0], phantom.astype(complex), phantom[:0]):
        with pytest.raises(InputError, match="3-D array"):
            write_scalar_nrrd(tmp_path / "a.nrrd", array, oblique, {})
    for key in ("", "a:b", "#a", "a\nb", " a"):
        with pytest.raises(InputError, match="header key"):
            write_scalar_nrrd(tmp_path / "a.nrrd", phantom, oblique, {key: "x"})
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_no_file_and_keeps_the_old_one(
    tools, phantom, oblique, tmp_path, monkeypatch
):
    from thoraxseg.io import write

    path = tmp_path / "a.seg.nrrd"
    made = segmentation(tools)
    write_segmentation(path, made)
    before = path.read_bytes()

    def full(file, array):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write, "_compress", full)
    with pytest.raises(OutputError, match="No space left"):
        write_segmentation(path, made)
    with pytest.raises(OSError):
        write_scalar_nrrd(tmp_path / "b.nrrd", phantom, oblique, {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.seg.nrrd"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_device_raises(phantom):
    from thoraxseg.io.write import _compress

    with pytest.raises(OSError), Path("/dev/full").open("wb") as file:
        _compress(file, phantom)


def test_writing_takes_no_time_stamp(tools, tmp_path):
    write_segmentation(tmp_path / "a.seg.nrrd", segmentation(tools))
    header, data = (tmp_path / "a.seg.nrrd").read_bytes().split(b"\n\n", 1)
    assert data[:2] == b"\x1f\x8b" and data[4:8] == bytes(4)
    assert zlib.decompress(data, 31)
    assert b"20" + b"2" not in header.split(b"space directions")[0]


def test_reading_a_segmentation_refuses_what_is_none(tools, phantom, oblique, tmp_path):
    def refused(path, *words):
        with pytest.raises(InputError) as caught:
            read_segmentation(path)
        for word in words:
            assert word in str(caught.value), str(caught.value)

    refused(tmp_path / "missing.seg.nrrd", "there is none")
    write_scalar_nrrd(tmp_path / "plain.nrrd", phantom, oblique, {})
    refused(tmp_path / "plain.nrrd", "got an image without")
    refused(tools.nifti(tmp_path / "a.nii", phantom, oblique), "another kind")
    good = tmp_path / "a.seg.nrrd"
    write_segmentation(good, segmentation(tools))
    whole = good.read_bytes()
    for old, new, word in (
        (b"Segment1_Layer:=0", b"Segment1_Layer:=1", "Collapse the layers"),
        (b"Segment1_LabelValue:=2", b"Segment1_LabelValue:=1", "Collapse the layers"),
        (b"Segment1_LabelValue:=2", b"Segment1_LabelValue:=x", "Segment1_LabelValue"),
        (b"Segment1_LabelValue:=2", b"Segment1_LabelValue:=9", "stand for no structure"),
        (b"Segment1_Color:=0.13", b"Segment1_Color:=blue", "color"),
    ):
        assert old in whole
        good.write_bytes(whole.replace(old, new))
        refused(good, word)
    good.write_bytes(whole[:-9])
    refused(good, "truncated")


def test_a_segment_of_slicer_without_codes_reads_with_empty_ones(tools, tmp_path):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, segmentation(tools, {1: "heart"}))
    header, data = path.read_bytes().split(b"\n\n", 1)
    lines = [line for line in header.split(b"\n") if b"_Tags" not in line and b"_Color:" not in line]
    path.write_bytes(b"\n".join(lines) + b"\n\n" + data)
    heart = read_segmentation(path).structures[1]
    assert heart.terminology.type == Code() and heart.color == (0.5, 0.5, 0.5)


# In 3D Slicer's own reader


@pytest.mark.parametrize("absent", ABSENT)
@pytest.mark.parametrize("labels", [k for k in PRESENT if k != "32 bit"])
def test_slicer_shows_every_segment_as_written(labels, absent, tools, tmp_path):
    slicer = pytest.importorskip("slicer")
    made = segmentation(tools, PRESENT[labels], ABSENT[absent])
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, made)
    node, scene = load_in_slicer(slicer, path)
    found = node.GetSegmentation()
    assert [found.GetNthSegmentID(n) for n in range(found.GetNumberOfSegments())] == [
        s.key for s in made.structures.values()
    ]
    counts = made.voxel_counts()
    for value, structure in made.structures.items():
        segment = found.GetSegment(structure.key)
        assert segment.GetName() == structure.name
        assert np.allclose(segment.GetColor(), structure.color, atol=1e-6)
        assert tag(slicer, segment, "TerminologyEntry") == structure.terminology.to_slicer()
        positions = positions_in_slicer(slicer, node, structure.key)
        assert len(positions) == counts[value]
        if counts[value]:
            kji = np.argwhere(made.labels == value)
            expected = kji[:, ::-1] @ made.ijk_to_ras[:3, :3].T + made.ijk_to_ras[:3, 3]
            order, other = np.lexsort(np.round(expected, 4).T), np.lexsort(np.round(positions, 4).T)
            assert np.abs(expected[order] - positions[other]).max() < 1e-6
    geometry = found.GetConversionParameter("Reference image geometry")
    numbers = [float(n) for n in geometry.strip(";").split(";")]
    assert np.allclose(np.reshape(numbers[:16], (4, 4)), made.ijk_to_ras, atol=1e-12)
    assert numbers[16:] == [0, 6, 0, 5, 0, 4]
    # And Slicer's own writer gives it back to us.
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetCropToMinimumExtent(False)
    storage.SetFileName(str(tmp_path / "b.seg.nrrd"))
    if storage.WriteData(node) and any(counts.values()):
        back = read_segmentation(tmp_path / "b.seg.nrrd")
        names = {s.key: v for v, s in back.structures.items()}
        for value, structure in made.structures.items():
            if counts[value]:
                assert (back.labels == names[structure.key]).sum() == counts[value]


def load_in_slicer(slicer, path):
    scene = slicer.vtkMRMLScene()
    node = slicer.vtkMRMLSegmentationNode()
    scene.AddNode(node)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node, scene


def tag(slicer, segment, name):
    import vtk

    value = vtk.reference("")
    assert segment.GetTag(name, value)
    return str(value)


def positions_in_slicer(slicer, node, key):
    """Return RAS positions of a segment's voxels as Slicer sees them."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    image = slicer.vtkOrientedImageData()
    if not node.GetBinaryLabelmapRepresentation(key, image):
        return np.zeros((0, 3))
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    matrix = np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])
    extent = image.GetExtent()
    scalars = image.GetPointData().GetScalars()
    if scalars is None or extent[1] < extent[0]:
        return np.zeros((0, 3))
    array = vtk_to_numpy(scalars).reshape([extent[2 * a + 1] - extent[2 * a] + 1 for a in (2, 1, 0)])
    ijk = np.argwhere(array)[:, ::-1] + [extent[0], extent[2], extent[4]]
    return ijk @ matrix[:3, :3].T + matrix[:3, 3]
