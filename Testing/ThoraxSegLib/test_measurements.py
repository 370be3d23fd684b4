"""Measurements: right numbers from the contours as they are now, in tables that stay with the scene."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
import slicer

from Testing.made_results import TURNED, edit, put_result, put_under, volume_node
from Testing.painted import painted_lung_tumor, painted_thorax
from thoraxseg.errors import InputError, OptionError, OutputError
from thoraxseg.measure import count_nodules
from thoraxseg.mrml import volume_from_node
from thoraxseg.mrml.tables import table_columns, table_rows
from thoraxseg.segmentation import Segmentation
from thoraxseg.volume import to_ras
from ThoraxSegLib import Nodes
from ThoraxSegLib.Measurements import CENTROID

SPACING = (1.0, 0.5, 0.75)
VOXEL_MM3 = 0.375


@pytest.fixture(scope="module")
def phantom():
    """A mouse with three tumors in voxels that are different along each axis."""
    return painted_lung_tumor(spacing_mm=SPACING, axis_codes="ASR", tumors=(5.0, 4.0, 0.3))


@pytest.fixture
def resultOf(phantom):
    """Put the true contours over a volume."""
    return lambda node, **more: put_result(
        node, phantom.truth.labels, phantom.truth.structures, "lung-tumor", **more
    )


def truth_on(volumeNode, phantom) -> Segmentation:
    return Segmentation(
        phantom.truth.labels, volume_from_node(volumeNode).ijk_to_ras, phantom.truth.structures
    )


def test_volumes_and_tumors_are_those_of_the_phantom(tumorLogic, volumeNode, phantom, resultOf):
    measured = tumorLogic.measurements.measure(resultOf(volumeNode))
    voxels = {key: int(phantom.truth.mask(key).sum()) for key in ("lungs", "tumors")}
    rows = {row["key"]: row for row in table_rows(measured.structuresTable)}
    assert [row["name"] for row in rows.values()] == ["Lungs", "Tumors", "Lungs with tumors"]
    for key, count in voxels.items():
        assert rows[key]["voxels"] == count
        assert rows[key]["volume_mm3"] == pytest.approx(count * VOXEL_MM3, rel=1e-12)
    assert rows["lungs_with_tumors"]["volume_mm3"] == pytest.approx(sum(voxels.values()) * VOXEL_MM3)
    expected = count_nodules(truth_on(volumeNode, phantom), 2).nodules
    found = table_rows(measured.tumorsTable)
    assert [row["number"] for row in found] == [one.number for one in expected] == [1, 2, 3]
    for row, one in zip(found, expected, strict=True):
        assert (row["voxels"], row["size_class"]) == (one.voxels, one.size_class)
        assert row["volume_mm3"] == pytest.approx(one.volume_mm3)
        assert [row[key] for key in CENTROID] == pytest.approx(one.centroid_ras_mm)
    assert measured.tumors["count"] == 3
    assert measured.tumors["small_count"] == sum(one.size_class == "small" for one in expected) == 1
    assert measured.tumors["total_volume_mm3"] == pytest.approx(voxels["tumors"] * VOXEL_MM3)


def test_a_transform_that_scales_scales_the_volumes(tumorLogic, scene, phantom, resultOf):
    node = volume_node(scene, phantom.volume, "mouse", parent=np.diag([2.0, 2, 2, 1]))
    (lungs, *_) = tumorLogic.measurements.measure(resultOf(node)).structures
    assert lungs["volume_mm3"] == pytest.approx(lungs["voxels"] * VOXEL_MM3 * 8)


def test_columns_are_typed_and_have_units(tumorLogic, plain, resultOf):
    measured = tumorLogic.measurements.measure(resultOf(plain))
    kinds = {column.key: (column.kind, column.unit) for column in table_columns(measured.tumorsTable)}
    assert kinds["number"] == (int, "") and kinds["volume_mm3"] == (float, "mm3")
    assert kinds[CENTROID[0]] == (float, "mm")
    assert measured.structuresTable.GetColumnUnitLabel("volume_mm3") == "mm3"
    assert measured.structuresTable.GetName() == "mouse 7 segmentation structures"


def test_a_correction_by_hand_counts_and_the_tables_stay_the_same_nodes(tumorLogic, plain, resultOf):
    node = resultOf(plain)
    first = tumorLogic.measurements.measure(node)
    before = dict(first.structures[0])
    cut = slice(0, 20)
    removed = slicer.util.arrayFromSegmentBinaryLabelmap(node, "lungs", plain)[cut].sum()
    assert removed > 0

    def erase(mask):
        mask[cut] = 0

    edit(node, "lungs", erase, plain)
    again = tumorLogic.measurements.measure(node)
    assert again.structuresTable is first.structuresTable and again.tumorsTable is first.tumorsTable
    assert again.structures[0]["voxels"] == before["voxels"] - removed
    assert table_rows(first.structuresTable)[0]["voxels"] == again.structures[0]["voxels"]
    assert len(slicer.util.getNodesByClass("vtkMRMLTableNode")) == 2


def test_tumors_drawn_by_hand_are_known_by_the_name_of_their_segment(tumorLogic, plain):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "by hand")
    node.SetReferenceImageGeometryParameterFromVolumeNode(plain)
    for key, name, at in (("Segment_1", "Tumors", 5), ("Segment_2", "Lungs", 20)):
        assert node.GetSegmentation().AddEmptySegment(key, name) == key
        mask = np.zeros(slicer.util.arrayFromVolume(plain).shape, np.uint8)
        mask[at : at + 2, 5:7, 5:7] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, key, plain)
    measured = tumorLogic.measurements.measure(node)
    assert measured.tumors["count"] == 1 and measured.tumors["nodules"][0]["voxels"] == 8
    assert {row["name"] for row in table_rows(measured.structuresTable)} == {
        "Tumors",
        "Lungs",
        "Lungs with tumors",
    }
    assert "no checkpoint says otherwise" in measured.notes[0]


def test_the_rule_of_the_run_is_used_and_said(tumorLogic, plain, resultOf):
    rule = {"connectivity": 26, "small_below_mm3": 100.0}
    node = resultOf(plain, record={"measurements": {"tumors": rule}})
    measured = tumorLogic.measurements.measure(node)
    assert (measured.tumors["connectivity"], measured.tumors["small_count"]) == (26, 3)
    assert (
        "26 neighbors" in measured.notes[0] and "below 100 mm3 (the checkpoint's rule)" in measured.notes[0]
    )
    assert measured.tumorsTable.GetDescription() == measured.notes[0]


@pytest.mark.parametrize("labels", [0, 1], ids=["nothing", "no tumor"])
def test_absent_structures_have_rows_with_0(tumorLogic, plain, phantom, labels):
    found = np.where(phantom.truth.labels == 1, labels, 0).astype(np.uint8)
    node = put_result(plain, found, phantom.truth.structures, "lung-tumor")
    measured = tumorLogic.measurements.measure(node)
    assert [one["voxels"] for one in measured.structures] == [int(found.sum()), 0]
    assert measured.structures[1]["volume_mm3"] == 0
    assert measured.tumors["count"] == measured.tumorsTable.GetNumberOfRows() == 0
    assert (
        tumorLogic.measurements.plot(node).GetNthPlotSeriesNode(0).GetTableNode() is measured.structuresTable
    )


def test_a_thorax_has_no_table_of_tumors(thoraxLogic, scene):
    phantom = painted_thorax()
    node = volume_node(scene, phantom.volume, "mouse")
    measured = thoraxLogic.measurements.measure(
        put_result(node, phantom.truth.labels, phantom.truth.structures, "mouse-thorax")
    )
    assert measured.tumorsTable is None and measured.tumors is None and measured.notes == []
    assert [one["key"] for one in measured.structures] == ["heart", "spinal_cord", "right_lung", "left_lung"]
    assert measured.structuresTable.GetNumberOfRows() == 4


def test_the_table_of_tumors_goes_when_no_segment_stands_for_tumors_any_more(tumorLogic, plain, resultOf):
    node = resultOf(plain)
    tumorLogic.measurements.measure(node)
    node.GetSegmentation().RemoveSegment("tumors")
    assert tumorLogic.measurements.measure(node).tumorsTable is None
    assert tumorLogic.measurements.tables(node)[1] is None
    assert len(slicer.util.getNodesByClass("vtkMRMLTableNode")) == 1


def test_a_tumor_of_less_than_half_a_cubic_millimeter_does_not_read_0(tumorLogic, scene):
    phantom = painted_lung_tumor(spacing_mm=0.3, tumors=(0.3,))
    node = volume_node(scene, phantom.volume, "mouse")
    measured = tumorLogic.measurements.measure(
        put_result(node, phantom.truth.labels, phantom.truth.structures, "lung-tumor")
    )
    text = tumorLogic.measurements.csvText(measured.tumorsTable)
    (row,) = csv.DictReader(io.StringIO(text))
    volume = float(row["volume_mm3"])
    assert volume == measured.tumors["nodules"][0]["volume_mm3"] and 0.2 < volume < 0.4
    assert row["size_class"] == "small"


def test_overlapping_segments_and_contours_outside_of_the_volume_are_refused(
    tumorLogic, scene, plain, phantom, resultOf
):
    plain_volume = phantom.volume
    node = resultOf(plain)
    node.GetSegmentation().SeparateSegmentLabelmap(
        "lungs"
    )  # a layer of its own, as painting with overlap makes
    edit(node, "lungs", lambda mask: mask.__setitem__(slice(10, 20), 1), plain)
    edit(node, "tumors", lambda mask: mask.__setitem__(slice(10, 20), 1), plain)
    with pytest.raises(InputError, match="overlapping segments"):
        tumorLogic.measurements.measure(node)
    assert slicer.util.getNodesByClass("vtkMRMLTableNode") == []
    small = volume_node(scene, replace(plain_volume, array=plain_volume.array[:5]), "cropped")
    outside = resultOf(plain)
    outside.SetNodeReferenceID(Nodes.VOLUME_ROLE, small.GetID())
    with pytest.raises(InputError, match="outside it"):
        tumorLogic.measurements.measure(outside)


@pytest.mark.parametrize("what", ["nothing", "volume"])
def test_what_is_no_segmentation_is_refused(tumorLogic, plain, what):
    with pytest.raises(InputError, match="Choose a segmentation"):
        tumorLogic.measurements.measure(None if what == "nothing" else plain)


def test_a_segmentation_whose_volume_is_gone_is_refused(tumorLogic, plain, resultOf, scene):
    node = resultOf(plain)
    scene.RemoveNode(plain)
    with pytest.raises(InputError, match="the volume it was made from is not in the scene"):
        tumorLogic.measurements.measure(node)


def test_an_empty_segmentation_has_an_empty_table(tumorLogic, plain):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    node.SetReferenceImageGeometryParameterFromVolumeNode(plain)
    measured = tumorLogic.measurements.measure(node)
    assert measured.structures == [] and measured.structuresTable.GetNumberOfRows() == 0
    tumorLogic.measurements.plot(node)


def test_tables_say_when_the_contours_were_changed_after_measuring(tumorLogic, plain, resultOf):
    node = resultOf(plain)
    assert tumorLogic.measurements.staleness(node) == ""
    tumorLogic.measurements.measure(node)
    assert tumorLogic.measurements.staleness(node) == ""
    edit(node, "tumors", lambda mask: mask.__setitem__((0, 0, 0), 1), plain)
    assert "measure again" in tumorLogic.measurements.staleness(node)
    tumorLogic.measurements.measure(node)
    assert tumorLogic.measurements.staleness(node) == ""
    node.GetSegmentation().GetSegment("tumors").SetName("Heart")
    assert "measure again" in tumorLogic.measurements.staleness(node)


def test_tables_and_chart_are_saved_with_the_scene_and_used_again(tumorLogic, volumeNode, resultOf, tmp_path):
    node = resultOf(volumeNode)
    measured = tumorLogic.measurements.measure(node)
    tumorLogic.measurements.plot(node)
    rows, text = table_rows(measured.tumorsTable), tumorLogic.measurements.csvText(measured.tumorsTable)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    back = slicer.util.getNode("mouse ø 7 segmentation")
    structuresTable, tumorsTable = tumorLogic.measurements.tables(back)
    assert table_rows(tumorsTable) == rows and tumorLogic.measurements.csvText(tumorsTable) == text
    assert tumorLogic.measurements.staleness(back) == ""
    assert tumorLogic.measurements.measure(back).structuresTable is structuresTable
    chart = tumorLogic.measurements.plot(back)
    assert len(slicer.util.getNodesByClass("vtkMRMLPlotChartNode")) == 1
    assert chart.GetNthPlotSeriesNode(0).GetTableNode() is tumorsTable
    assert len(slicer.util.getNodesByClass("vtkMRMLTableNode")) == 2


def test_the_chart_refers_to_the_tumors_and_follows_them(tumorLogic, plain, resultOf):
    node = resultOf(plain)
    chart = tumorLogic.measurements.plot(node)
    (series,) = [chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]
    assert series.GetTableNode() is tumorLogic.measurements.tables(node)[1]
    assert (series.GetYColumnName(), series.GetLabelColumnName()) == ("volume_mm3", "number")
    assert chart.GetYAxisTitle() == "Volume (mm3)"
    assert tumorLogic.measurements.plot(node) is chart


def test_a_table_is_sorted_by_numbers_and_centering_follows_the_sorted_rows(
    tumorLogic, sliceViews, plain, resultOf
):
    measured = tumorLogic.measurements.measure(resultOf(plain))
    tumorLogic.measurements.sort(measured.tumorsTable, "Volume")
    volumes = [row["volume_mm3"] for row in table_rows(measured.tumorsTable)]
    assert volumes == sorted(volumes)
    tumorLogic.measurements.sort(measured.tumorsTable, "number", descending=True)
    assert [row["number"] for row in table_rows(measured.tumorsTable)] == [3, 2, 1]
    third = measured.tumors["nodules"][2]["centroid_ras_mm"]
    assert tumorLogic.measurements.centerOn(measured.tumorsTable, 0) == pytest.approx(third)
    with pytest.raises(OptionError, match="no column 'size'"):
        tumorLogic.measurements.sort(measured.tumorsTable, "size")


def middles(sliceViews) -> list:
    found = []
    for logic in sliceViews.values():
        matrix = slicer.util.arrayFromVTKMatrix(logic.GetSliceNode().GetSliceToRAS())
        found.append(matrix[:3, 3])
    return found


def test_all_views_center_on_the_tumor_of_a_row_where_it_lies_in_the_patient(
    tumorLogic, sliceViews, volumeNode, phantom, resultOf
):
    camera = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCameraNode", "camera")
    away = np.array(camera.GetPosition()) - camera.GetFocalPoint()
    measured = tumorLogic.measurements.measure(resultOf(volumeNode))
    for row in range(3):
        one = count_nodules(truth_on(volumeNode, phantom), 2).nodules[row]
        place = tumorLogic.measurements.centerOn(measured.tumorsTable, row)
        assert place == pytest.approx(one.centroid_ras_mm)
        for middle in middles(sliceViews):
            assert middle == pytest.approx(place)
        assert camera.GetFocalPoint() == pytest.approx(place)
        assert np.array(camera.GetPosition()) - camera.GetFocalPoint() == pytest.approx(away)


def test_the_place_moves_with_a_transform_that_came_after_measuring(tumorLogic, plain, scene, resultOf):
    node = resultOf(plain)
    measured = tumorLogic.measurements.measure(node)
    before = measured.tumors["nodules"][0]["centroid_ras_mm"]
    put_under(TURNED, plain, node)
    place = tumorLogic.measurements.centerOn(measured.tumorsTable, 0)
    assert place == pytest.approx((TURNED @ [*before, 1])[:3])
    labels = slicer.util.arrayFromSegmentBinaryLabelmap(node, "tumors", plain)
    kji = np.argwhere(labels > 0)
    world = volume_from_node(plain).ijk_to_ras
    assert np.linalg.norm(to_ras(world, kji) - place, axis=1).min() < 1.0, "a voxel of the tumor is there"


@pytest.mark.parametrize("row", [-1, 3])
def test_a_row_that_is_not_there_is_refused(tumorLogic, plain, resultOf, row):
    measured = tumorLogic.measurements.measure(resultOf(plain))
    with pytest.raises(OptionError, match="expected a row from 0 to 2"):
        tumorLogic.measurements.centerOn(measured.tumorsTable, row)
    with pytest.raises(InputError, match="expected a table of tumors"):
        tumorLogic.measurements.centerOn(measured.structuresTable, 0)


def test_csv_is_written_whole_with_all_digits(tumorLogic, plain, resultOf, tmp_path, monkeypatch):
    measured = tumorLogic.measurements.measure(resultOf(plain))
    monkeypatch.chdir(tmp_path)
    path = tumorLogic.measurements.writeCsv(measured.tumorsTable, "tumors.csv")
    assert path == tmp_path / "tumors.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["volume_mm3"]) for row in rows] == [
        one["volume_mm3"] for one in measured.tumors["nodules"]
    ]
    assert (
        path.read_text("utf-8").splitlines()
        == tumorLogic.measurements.csvText(measured.tumorsTable).splitlines()
    )


def test_a_name_that_a_spreadsheet_would_run_is_guarded_in_csv(tumorLogic, plain, resultOf):
    node = resultOf(plain)
    node.GetSegmentation().GetSegment("lungs").SetName('=HYPERLINK("x")')
    measured = tumorLogic.measurements.measure(node)
    assert measured.structures[0]["name"] == '=HYPERLINK("x")'
    rows = list(csv.reader(io.StringIO(tumorLogic.measurements.csvText(measured.structuresTable))))
    assert rows[1][0] == '\'=HYPERLINK("x")'


def test_a_path_that_is_no_csv_or_cannot_be_written_is_refused(tumorLogic, plain, resultOf, tmp_path):
    measured = tumorLogic.measurements.measure(resultOf(plain))
    with pytest.raises(OptionError, match=r"ends with \.csv"):
        tumorLogic.measurements.writeCsv(measured.tumorsTable, tmp_path / "tumors.txt")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        tumorLogic.measurements.writeCsv(measured.tumorsTable, tmp_path / "file" / "tumors.csv")


def test_tables_belong_to_their_segmentation_and_volume(tumorLogic, plain, resultOf, scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "day 3")
    hierarchy.CreateItem(study, plain)
    node = resultOf(plain)
    measured = tumorLogic.measurements.measure(node)
    for table in (measured.structuresTable, measured.tumorsTable):
        assert Nodes.volumeOf(table) is plain
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(table)) == study
        assert table.GetAttribute(Nodes.TASK_ATTRIBUTE) == "lung-tumor"
        assert table.GetAttribute(Nodes.KIND_ATTRIBUTE)


def test_measuring_alters_neither_volume_nor_contours(tumorLogic, volumeNode, resultOf):
    node = resultOf(volumeNode)
    before = Nodes.digestOf(volumeNode), Nodes.digestOfSegmentation(node)
    tumorLogic.measurements.measure(node)
    tumorLogic.measurements.plot(node)
    assert (Nodes.digestOf(volumeNode), Nodes.digestOfSegmentation(node)) == before


def test_digests_are_computed_again_only_after_a_change(tumorLogic, plain, resultOf, monkeypatch):
    node, digests, counted = resultOf(plain), tumorLogic.measurements.digests, []
    for name in ("digestOf", "digestOfSegmentation"):
        real = getattr(Nodes, name)
        monkeypatch.setattr(Nodes, name, lambda one, real=real, name=name: counted.append(name) or real(one))
    for _ in range(3):
        digests.ofVolume(plain), digests.ofContours(node)
    assert counted == ["digestOf", "digestOfSegmentation"]
    edit(node, "lungs", lambda mask: mask.__setitem__((0, 0, 0), 1), plain)
    slicer.util.arrayFromVolume(plain)[0, 0, 0] += 1
    slicer.util.arrayFromVolumeModified(plain)
    assert digests.ofContours(node) == Nodes.digestOfSegmentation(node)
    assert digests.ofVolume(plain) == Nodes.digestOf(plain)
