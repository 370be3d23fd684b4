"""Rows <-> table nodes, plots over them, and what the views show: on a bare scene, without application."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thoraxseg.errors import InputError, OptionError
from thoraxseg.mrml.plots import Bars, Line, fill_chart
from thoraxseg.mrml.tables import Column, fill_table, sort_table, table_columns, table_csv, table_rows
from thoraxseg.mrml.views import jump_slices, nodes_of, point_cameras, set_opacity, show_in_slices

COLUMNS = (
    Column("name", str, "Structure"),
    Column("voxels", int, "Voxels"),
    Column("volume_mm3", float, "Volume", "mm3", 'Voxels times "voxel volume"'),
)
ROWS = [
    {"name": "Tumor, left", "voxels": 2, "volume_mm3": 0.3},
    {"name": '=1+1 "quoted"', "voxels": 2_000_000_000, "volume_mm3": 1234.567890123456},
    {"name": "absent", "voxels": 0, "volume_mm3": None},
    {"name": "third", "voxels": 7, "volume_mm3": 1 / 3},
]


@pytest.fixture
def table(scene):
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", "volumes")
    fill_table(node, COLUMNS, ROWS)
    return node


@pytest.fixture
def saved_and_loaded(scene, tmp_path):
    """Save a scene with its table as Slicer does and load it into another one; return the table there."""
    slicer = pytest.importorskip("slicer")

    def again(node):
        storage = node.CreateDefaultStorageNode()
        scene.AddNode(storage)
        storage.UnRegister(None)
        storage.SetFileName(str(tmp_path / "table.tsv"))
        node.SetAndObserveStorageNodeID(storage.GetID())
        assert storage.WriteData(node)
        scene.SetURL(str(tmp_path / "scene.mrml"))
        assert scene.Commit()
        other = slicer.vtkMRMLScene()
        other.SetURL(str(tmp_path / "scene.mrml"))
        assert other.Connect()
        again.scene = other  # keeps it alive
        return other.GetFirstNodeByClass("vtkMRMLTableNode")

    return again


def test_columns_have_types_that_sort_as_numbers_titles_and_units(table):
    kinds = [table.GetTable().GetColumn(n).GetClassName() for n in range(3)]
    assert (
        kinds[0] == "vtkStringArray" and "Int" in kinds[1] and ("Float64" in kinds[2] or "Double" in kinds[2])
    )
    assert table_columns(table) == list(COLUMNS)
    assert table.GetColumnUnitLabel("volume_mm3") == "mm3"
    assert table.GetUseColumnTitleAsColumnHeader()


def test_rows_come_back_as_they_were_put_in(table):
    assert table_rows(table) == ROWS
    assert math.isnan(table.GetTable().GetColumn(2).GetValue(2)), "a number that is not defined is not 0"


def test_filling_again_replaces_columns_and_rows_in_the_same_node(table):
    fill_table(table, COLUMNS[:2], ROWS[:1])
    assert (table.GetNumberOfColumns(), table.GetNumberOfRows()) == (2, 1)
    fill_table(table, COLUMNS, [])
    assert (table.GetNumberOfColumns(), table.GetNumberOfRows()) == (3, 0)
    assert table_rows(table) == [] and table_columns(table) == list(COLUMNS)


def test_saving_and_loading_a_scene_loses_no_digit_no_word_and_no_row(table, saved_and_loaded):
    back = saved_and_loaded(table)
    assert back.GetTable().GetColumn(2).GetValue(1) == 1234.57, "Slicer's file itself has six digits"
    assert table_rows(back) == ROWS
    assert [column.unit for column in table_columns(back)] == ["", "", "mm3"]
    assert [column.title for column in table_columns(back)] == ["Structure", "Voxels", "Volume"]


def test_a_cell_that_somebody_changed_counts_as_it_is_now(table):
    table.GetTable().GetColumn(1).SetValue(0, 99)
    table.GetTable().Modified()
    assert [row["voxels"] for row in table_rows(table)] == [99, 2_000_000_000, 0, 7]
    table.RemoveRow(1)
    assert [row["voxels"] for row in table_rows(table)] == [99, 0, 7]


def test_a_table_made_elsewhere_is_read_by_its_columns(scene):
    util = pytest.importorskip("slicer.util")
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", "elsewhere")
    util.updateTableFromArray(node, np.array([[1.5, 2.0], [2.5, np.nan]]), ["a", "b"])
    assert table_rows(node) == [{"a": 1.5, "b": 2.0}, {"a": 2.5, "b": None}]


@pytest.mark.parametrize(
    ("key", "descending", "order"),
    [("volume_mm3", False, [0, 3, 1, 2]), ("volume_mm3", True, [1, 3, 0, 2]), ("name", False, [1, 2, 3, 0]),
     ("voxels", True, [1, 3, 0, 2])],
)  # fmt: skip
def test_rows_are_sorted_in_place_and_undefined_numbers_come_last(table, key, descending, order):
    sort_table(table, key, descending)
    assert table_rows(table) == [ROWS[n] for n in order]
    assert table_columns(table) == list(COLUMNS)
    assert [table.GetTable().GetColumn(1).GetValue(n) for n in range(4)] == [ROWS[n]["voxels"] for n in order]


def test_an_unknown_column_is_refused_with_those_known(table):
    with pytest.raises(OptionError, match="no column 'mm3'; it has name, voxels, volume_mm3"):
        sort_table(table, "mm3")


@pytest.mark.parametrize(
    "make", [lambda scene: None, lambda scene: scene.AddNewNodeByClass("vtkMRMLTextNode", "x")]
)
def test_what_is_no_table_is_refused(scene, make):
    with pytest.raises(InputError, match="expected a table"):
        table_rows(make(scene))


def test_csv_has_all_digits_and_no_formula(table):
    lines = table_csv(table).splitlines()
    assert lines == [
        "name,voxels,volume_mm3",
        '"Tumor, left",2,0.3',
        '"\'=1+1 ""quoted""",2000000000,1234.567890123456',
        "absent,0,",
        "third,7,0.3333333333333333",
    ]


def test_a_chart_shows_columns_and_is_filled_again_with_the_same_nodes(scene, table):
    chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", "chart")
    bars = Bars("volume_mm3", "name", "Volume", (1, 0.5, 0))
    (first,) = fill_chart(chart, table, [bars], "Volumes", "", "mm3")
    assert (first.GetPlotType(), first.GetYColumnName(), first.GetLabelColumnName()) == (
        first.PlotTypeBar,
        "volume_mm3",
        "name",
    )
    assert first.GetTableNode() is table and first.GetColor() == (1, 0.5, 0)
    assert (chart.GetTitle(), chart.GetYAxisTitle(), chart.GetLegendVisibility()) == ("Volumes", "mm3", False)
    lines = [Line("voxels", "volume_mm3", name, (0, 0, 1)) for name in "ab"]
    two = fill_chart(chart, table, lines, "Curves", "voxels", "mm3")
    assert two[0] is first and len(two) == chart.GetNumberOfPlotSeriesNodes() == 2
    assert (first.GetPlotType(), first.GetXColumnName(), first.GetLabelColumnName()) == (
        first.PlotTypeScatter,
        "voxels",
        "",
    )
    assert chart.GetLegendVisibility()
    fill_chart(chart, table, lines[:1], "Curves", "voxels", "mm3")
    assert len(nodes_of(scene, "vtkMRMLPlotSeriesNode")) == chart.GetNumberOfPlotSeriesNodes() == 1


@pytest.fixture
def slice_nodes(scene):
    """Three slice nodes with their composites, and what only desktop Slicer's layout adds left away."""
    nodes = []
    for name, orientation in (("Red", "Axial"), ("Green", "Coronal"), ("Yellow", "Sagittal")):
        node = scene.AddNewNodeByClass("vtkMRMLSliceNode", name)
        node.SetLayoutName(name)
        getattr(node, f"SetOrientationTo{orientation}")()
        scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode", f"{name} composite").SetLayoutName(name)
        nodes.append(node)
    return nodes


def vtk_matrix(matrix):
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def test_volumes_are_shown_in_all_slice_views(scene, slice_nodes, make_volume):
    image, doubt, other = make_volume(), make_volume(), make_volume()
    show_in_slices(scene, image, doubt, 0.5)
    for composite in nodes_of(scene, "vtkMRMLSliceCompositeNode"):
        assert composite.GetBackgroundVolumeID() == image.GetID()
        assert composite.GetForegroundVolumeID() == doubt.GetID()
        assert composite.GetForegroundOpacity() == 0.5
    set_opacity(scene, other, 0.9)
    assert {c.GetForegroundOpacity() for c in nodes_of(scene, "vtkMRMLSliceCompositeNode")} == {0.5}
    set_opacity(scene, doubt, 0.1)
    assert {c.GetForegroundOpacity() for c in nodes_of(scene, "vtkMRMLSliceCompositeNode")} == {0.1}
    show_in_slices(scene, image)
    assert {c.GetForegroundVolumeID() for c in nodes_of(scene, "vtkMRMLSliceCompositeNode")} == {None}


@pytest.mark.parametrize("centered", [False, True])
def test_slice_views_go_through_a_point(scene, slice_nodes, centered):
    point = (12.5, -3.25, 40.125)
    jump_slices(scene, point, centered)
    for node in slice_nodes:
        to_slice = vtk_matrix(node.GetSliceToRAS())
        assert np.linalg.solve(to_slice, [*point, 1])[2] == pytest.approx(0)
        if centered:
            assert to_slice[:3, 3] == pytest.approx(point)
    assert slice_nodes[0].GetSliceOffset() == pytest.approx(40.125)


def test_cameras_look_at_a_point_from_where_they_looked_before(scene):
    camera = scene.AddNewNodeByClass("vtkMRMLCameraNode", "camera")
    camera.SetFocalPoint(1, 2, 3)
    camera.SetPosition(1, 502, 3)
    point_cameras(scene, (10, 20, 30))
    assert camera.GetFocalPoint() == pytest.approx((10, 20, 30))
    assert camera.GetPosition() == pytest.approx((10, 520, 30))
