"""Measurements panel: volumes and tumors of the chosen contours, sorted, copied, saved, and found in the views."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import slicer

from Testing import qt_app
from Testing.made_results import edit
from Testing.qt_stand_ins import panels
from Testing.qt_stand_ins.panels import choose, shown
from thoraxseg.mrml.tables import table_rows
from ThoraxSegLib.Tasks import LUNG_TUMOR


@pytest.fixture
def result(tumorMouse, paintedLungTumor):
    return panels.result_with_doubt(
        tumorMouse, paintedLungTumor, "lung-tumor", checkpoint="painted-lung-tumor"
    )


@pytest.fixture
def panel(openModule, tumorMouse):
    return openModule(LUNG_TUMOR).panels["Measurements"]


@pytest.fixture
def chosen(panel, result):
    choose(panel, result)
    return panel


@pytest.fixture
def measured(chosen):
    chosen.ui.measureButton.click()
    return chosen


def column(tableNode, key: str) -> list:
    return [row[key] for row in table_rows(tableNode)]


def test_every_widget_that_is_used_exists_and_every_button_is_wired(panel):
    assert panels.missing_widgets(panel) == []
    assert panels.unwired_buttons(panel) == []


def test_without_contours_nothing_can_be_measured_and_the_panel_says_why(panel):
    assert "No contours are chosen" in shown(panel.ui.measuredFromLabel)
    assert not panel.ui.measureButton.enabled
    assert panels.off_without_reason(panel) == []


def test_before_measuring_only_measure_and_plot_are_on(chosen):
    assert chosen.ui.measureButton.enabled and chosen.ui.plotMeasurementsButton.enabled
    assert "press Measure" in shown(chosen.ui.measuredFromLabel)
    for button in (chosen.ui.copyStructuresButton, chosen.ui.saveTumorsButton):
        assert not button.enabled and "press Measure" in button.toolTip
    assert chosen.ui.structuresSection.isHidden() and chosen.ui.tumorsSection.isHidden()


def test_measure_fills_both_tables_with_the_right_volumes(measured, paintedLungTumor):
    rows = {row["key"]: row for row in table_rows(measured.ui.structuresTableView.mrmlTableNode())}
    labels, voxel = paintedLungTumor.truth.labels, 0.5**3
    assert rows["lungs"]["volume_mm3"] == pytest.approx((labels == 1).sum() * voxel)
    assert rows["tumors"]["volume_mm3"] == pytest.approx((labels == 2).sum() * voxel)
    tumors = measured.ui.tumorsTableView.mrmlTableNode()
    assert tumors.GetNumberOfRows() == 3
    assert sum(column(tumors, "volume_mm3")) == pytest.approx((labels == 2).sum() * voxel)
    assert not measured.ui.structuresSection.isHidden() and not measured.ui.tumorsSection.isHidden()
    assert shown(measured.ui.tumorsTitleLabel).startswith("3 tumors.")
    assert "small is below 0.4 mm3" in shown(measured.ui.tumorsTitleLabel)


def test_the_panel_says_which_contours_were_measured(measured, result):
    told = shown(measured.ui.measuredFromLabel)
    assert result.GetName() in told and "tumor mouse" in told


def test_contours_without_tumors_show_no_table_of_tumors(openModule, mouse, paintedThorax):
    panel = openModule().panels["Measurements"]
    choose(panel, panels.result_with_doubt(mouse, paintedThorax, "mouse-thorax"))
    panel.ui.measureButton.click()
    assert panel.ui.structuresTableView.mrmlTableNode().GetNumberOfRows() == 4
    assert panel.ui.tumorsSection.isHidden()


def test_an_edit_is_told_and_measuring_again_takes_it_back(measured, result, tumorMouse):
    assert shown(measured.ui.measurementsStaleLabel) == ""
    edit(result, "tumors", lambda mask: mask.__setitem__(mask > 0, 0), tumorMouse)
    assert qt_app.waitFor(lambda: shown(measured.ui.measurementsStaleLabel), 5)
    assert "measure again" in shown(measured.ui.measurementsStaleLabel)
    measured.ui.measureButton.click()
    assert shown(measured.ui.measurementsStaleLabel) == ""
    assert shown(measured.ui.tumorsTitleLabel).startswith("No tumors.")


def test_a_click_on_a_title_sorts_as_numbers_and_a_second_one_turns_it_round(measured):
    view = measured.ui.tumorsTableView
    node = view.mrmlTableNode()
    volumes = column(node, "volume_mm3")
    assert volumes == sorted(volumes, reverse=True)
    at = [node.GetColumnName(n) for n in range(node.GetNumberOfColumns())].index("volume_mm3")
    panels.click_title(view, at)
    assert column(node, "volume_mm3") == sorted(volumes)
    panels.click_title(view, at)
    assert column(node, "volume_mm3") == sorted(volumes, reverse=True)


def test_a_click_on_a_tumor_shows_it_in_the_views_also_after_sorting(sliceViews, measured, paintedLungTumor):
    view = measured.ui.tumorsTableView
    node = view.mrmlTableNode()
    panels.click_title(view, 2)
    for row, tumor in enumerate(table_rows(node)):
        panels.click_row(view, row)
        place = [tumor[f"centroid_{axis}_mm"] for axis in ("right", "anterior", "superior")]
        offsets = {
            normal: logic.GetSliceOffset()
            for logic in sliceViews.values()
            for normal in [
                int(
                    np.abs(
                        slicer.util.arrayFromVTKMatrix(logic.GetSliceNode().GetSliceToRAS())[:3, 2]
                    ).argmax()
                )
            ]
        }
        assert {axis: abs(offset) for axis, offset in offsets.items()} == pytest.approx(
            {axis: abs(value) for axis, value in enumerate(place)}, abs=0.26
        )


def test_a_table_is_copied_whole_with_tabs_and_all_digits(measured):
    measured.ui.copyTumorsButton.click()
    lines = slicer.app.clipboard().text().splitlines()
    assert len(lines) == 4
    assert "volume_mm3" in lines[0].split("\t")
    at = lines[0].split("\t").index("volume_mm3")
    expected = column(measured.ui.tumorsTableView.mrmlTableNode(), "volume_mm3")
    assert [float(line.split("\t")[at]) for line in lines[1:]] == expected


def test_a_table_is_saved_where_the_user_says(measured, dialogs, tmp_path):
    dialogs.paths = [str(tmp_path / "tumors.csv")]
    measured.ui.saveTumorsButton.click()
    with (tmp_path / "tumors.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    assert "tumors.csv" in measured.widget.ui.statusLabel.text


def test_a_name_without_ending_gets_one_and_what_is_there_is_asked_for(measured, dialogs, tmp_path):
    (tmp_path / "tumors.csv").write_text("mine")
    dialogs.paths, dialogs.answers = [str(tmp_path / "tumors")] * 2, [False, True]
    measured.ui.saveTumorsButton.click()
    assert (tmp_path / "tumors.csv").read_text() == "mine"
    assert "Replace it?" in dialogs.questions[0]
    measured.ui.saveTumorsButton.click()
    assert "volume_mm3" in (tmp_path / "tumors.csv").read_text()


def test_nothing_is_saved_when_the_user_cancels(measured, dialogs, tmp_path):
    dialogs.paths = [""]
    measured.ui.saveStructuresButton.click()
    assert list(tmp_path.glob("*.csv")) == [] and dialogs.errors == []


def test_a_folder_that_is_not_there_is_told(measured, dialogs, tmp_path):
    dialogs.paths = [str(tmp_path / "nowhere" / "here" / "t.csv")]
    (tmp_path / "nowhere").write_text("a file, no folder")
    measured.ui.saveTumorsButton.click()
    assert dialogs.errors and "The table was not saved." in dialogs.errors[0]


def test_volumes_are_plotted(measured):
    measured.ui.plotMeasurementsButton.click()
    assert panels.chart_shown().GetTitle() == "Volume of each tumor"


def test_overlapping_contours_are_refused_with_a_sentence(chosen, result, tumorMouse, dialogs):
    from Testing.made_results import edit as paint

    everything = np.s_[:]
    result.GetSegmentation().SeparateSegmentLabelmap("lungs")
    paint(result, "lungs", lambda mask: mask.__setitem__(everything, 1), tumorMouse)
    chosen.ui.measureButton.click()
    assert dialogs.errors and "The contours could not be measured." in dialogs.errors[0]


def test_tables_of_a_loaded_scene_are_shown_again(measured, result, module, tmp_path):
    tables = measured.logic.measurements.tables(result)
    choose(measured, None)
    assert measured.ui.structuresTableView.mrmlTableNode() is None
    choose(measured, result)
    assert measured.ui.structuresTableView.mrmlTableNode() is tables[0]
    assert measured.ui.tumorsTableView.mrmlTableNode() is tables[1]


def test_a_closed_scene_leaves_no_table_behind(measured):
    slicer.mrmlScene.Clear(False)
    qt_app.processEvents()
    assert measured.ui.tumorsTableView.mrmlTableNode() is None
    assert "No contours are chosen" in shown(measured.ui.measuredFromLabel)


def test_pictures_of_the_panel_show_all_texts_whole(panel, result, tumorMouse, tmp_path):
    panels.picture(panel, tmp_path / "measurements_empty.png")
    choose(panel, result)
    panel.ui.measureButton.click()
    panels.picture(panel, tmp_path / "measurements.png")
    edit(result, "tumors", lambda mask: mask.__setitem__(mask > 0, 0), tumorMouse)
    assert qt_app.waitFor(lambda: shown(panel.ui.measurementsStaleLabel), 5)
    panels.picture(panel, tmp_path / "measurements_stale.png")


def test_titles_have_units_and_names_for_programs_are_not_shown(measured):
    import qt

    view = measured.ui.structuresTableView
    shownTitles = [
        view.model().headerData(n, qt.Qt.Horizontal)
        for n in range(view.model().columnCount())
        if not view.isColumnHidden(n)
    ]
    assert shownTitles == ["Structure", "Voxels", "Volume [mm3]"]
    tumors = measured.ui.tumorsTableView
    assert [tumors.model().headerData(n, qt.Qt.Horizontal) for n in range(4)] == [
        "Tumor",
        "Voxels",
        "Volume [mm3]",
        "Size",
    ]
