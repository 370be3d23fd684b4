"""A `.seg.nrrd` written by `thoraxseg.io` opens in Slicer's own reader with nothing lost or shifted."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.segmentation import STRUCTURES, Segmentation

slicer = pytest.importorskip("slicer", reason="needs slicer-core or 3D Slicer")
io = pytest.importorskip("thoraxseg.io", reason="needs thoraxseg.io", exc_type=ImportError)
import vtk  # noqa: E402

SHAPE = (5, 6, 7)
CASES = {
    "all present": {1: "heart", 2: "spinal_cord", 3: "right_lung", 4: "left_lung"},
    "1, 3 and 7": {1: "right_lung", 3: "left_lung", 7: "tumors"},
}
ABSENT = {"none absent": None, "first absent": 0, "middle absent": 1, "last absent": -1}


def make_segmentation(ijk_to_ras, keys, absent=None) -> Segmentation:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    values = list(keys)
    for n, value in enumerate(values):
        labels[n, n + 1, 1 : 3 + n] = value
        labels[4, n, 0] = value
    if absent is not None:
        labels[labels == values[absent]] = 0
    structures = {value: STRUCTURES[key] for value, key in keys.items()}
    return Segmentation(labels, ijk_to_ras, structures, name="mouse 7")


@pytest.fixture
def load(scene, tmp_path):
    """Write a segmentation with ThoraxSeg and read it with Slicer's storage node."""

    def write_and_read(segmentation):
        path = tmp_path / "mouse 7.seg.nrrd"
        io.write_segmentation(path, segmentation)
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "loaded")
        storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
        storage.SetFileName(str(path))
        assert storage.ReadData(node) == 1
        return node

    return write_and_read


@pytest.mark.parametrize("absent", ABSENT.values(), ids=ABSENT)
@pytest.mark.parametrize("keys", CASES.values(), ids=CASES)
def test_every_segment_holds_the_voxels_of_its_structure(load, voxels, keys, absent):
    segmentation = make_segmentation(np.diag([0.5, 0.6, 0.7, 1.0]), keys, absent)
    node = load(segmentation)
    contained = [
        node.GetSegmentation().GetNthSegmentID(n) for n in range(node.GetSegmentation().GetNumberOfSegments())
    ]
    assert sorted(contained) == sorted(keys.values())
    for value, key in keys.items():
        mask, _ = voxels(node, key)
        assert np.array_equal(mask, segmentation.labels == value), key
        assert mask.sum() == segmentation.voxel_counts()[value]


@pytest.mark.parametrize("keys", CASES.values(), ids=CASES)
def test_segments_carry_name_color_and_codes(load, keys):
    node = load(make_segmentation(np.eye(4), keys, absent=1))
    for key in keys.values():
        segment = node.GetSegmentation().GetSegment(key)
        assert segment.GetName() == STRUCTURES[key].name
        assert segment.GetColor() == pytest.approx(STRUCTURES[key].color, abs=1e-5)
        codes = vtk.reference("")
        assert segment.GetTag("TerminologyEntry", codes)
        assert codes == STRUCTURES[key].terminology.to_slicer()


def test_the_grid_is_where_it_was(load, voxels, ijk_to_ras):
    segmentation = make_segmentation(ijk_to_ras, CASES["1, 3 and 7"])
    _, matrix = voxels(load(segmentation), "left_lung")
    assert np.abs(matrix - ijk_to_ras).max() < 1e-6


def test_all_segments_share_one_layer(load):
    node = load(make_segmentation(np.eye(4), CASES["all present"]))
    assert node.GetSegmentation().GetNumberOfLayers() == 1


def test_it_comes_back_onto_the_volume_it_was_made_from(load, make_volume, ijk_to_ras):
    from thoraxseg.mrml import segmentation_from_node

    before = make_segmentation(ijk_to_ras, CASES["1, 3 and 7"], absent=0)
    after = segmentation_from_node(load(before), make_volume(ijk_to_ras))
    by_key = {structure.key: value for value, structure in after.structures.items()}
    for structure in before.structures.values():
        assert structure.key in by_key
        assert np.array_equal(after.mask(structure.key), before.mask(structure.key))
