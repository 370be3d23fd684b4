"""Observers panel: how well the checked contours agree, consensus, disagreement; nothing dropped silently."""

from __future__ import annotations

import numpy as np
import pytest
import slicer

from Testing import made_results, qt_app
from Testing.qt_stand_ins import panels
from Testing.qt_stand_ins.panels import shown
from thoraxseg.mrml.tables import table_rows
from thoraxseg.mrml.views import nodes_of


@pytest.fixture
def contoursOf(mouse, paintedThorax):
    """Put the true contours into the scene under an observer's name, changed if asked, without some labels."""

    def make(name, change=None, without=(), volume=mouse):
        labels = paintedThorax.truth.labels.copy()
        structures = {n: one for n, one in paintedThorax.truth.structures.items() if n not in without}
        for label in without:
            labels[labels == label] = 0
        if change is not None:
            change(labels)
        node = made_results.put_result(volume, labels, structures, "mouse-thorax")
        node.SetName(name)
        return node

    return make


@pytest.fixture
def panel(module):
    return module.panels["Observers"]


@pytest.fixture
def two(panel, contoursOf):
    """Ann and Bo, of whom Bo drew only the lower half of the heart; both are checked."""
    contoursOf("Ann")
    contoursOf("Bo", half_of_the_heart)
    qt_app.processEvents()
    for row in range(2):
        panels.check(panel.ui.segmentationsListWidget, row)
    qt_app.processEvents()
    return panel


@pytest.fixture
def compared(two):
    two.ui.compareButton.click()
    return two


def half_of_the_heart(labels) -> None:
    k = np.flatnonzero((labels == 1).any(axis=(1, 2)))
    upper = labels[k[len(k) // 2] :]
    upper[upper == 1] = 0


def of_heart(view) -> dict:
    return next(row for row in table_rows(view.mrmlTableNode()) if row["structure"] == "Heart")


# The panel as such


def test_every_widget_that_is_used_exists_and_every_button_is_wired(panel):
    assert panels.missing_widgets(panel) == []
    assert panels.unwired_buttons(panel) == []


def test_with_fewer_than_two_contours_nothing_can_be_compared(panel, contoursOf):
    contoursOf("Ann")
    qt_app.processEvents()
    assert not panel.ui.compareButton.enabled
    assert "fewer than two" in panel.ui.compareButton.toolTip
    assert "fewer than two" in shown(panel.ui.observersWarningsLabel)
    assert panels.off_without_reason(panel) == []
    assert panel.ui.agreementSection.isHidden()


def test_contours_of_the_scene_are_listed_and_checked_both_ways(panel, contoursOf):
    ann, bo = contoursOf("Ann"), contoursOf("Bo")
    qt_app.processEvents()
    assert panels.names_of(panel.ui.segmentationsListWidget) == {"Ann": False, "Bo": False}
    assert "Check two or more" in panel.ui.compareButton.toolTip
    panels.check(panel.ui.segmentationsListWidget, 1)
    assert list(panel.parameters.observerSegmentations) == [bo]
    panel.parameters.observerSegmentations = [ann, bo]
    qt_app.processEvents()
    assert panels.names_of(panel.ui.segmentationsListWidget) == {"Ann": True, "Bo": True}
    assert panel.ui.compareButton.enabled


def test_previews_are_not_listed(panel, contoursOf):
    contoursOf("Ann").SetHideFromEditors(True)
    contoursOf("Bo")
    qt_app.processEvents()
    assert list(panels.names_of(panel.ui.segmentationsListWidget)) == ["Bo"]


def test_the_switches_bind_both_ways(panel):
    panel.ui.mergeLungsCheckBox.checked = panel.ui.resampleCheckBox.checked = True
    assert panel.parameters.mergeLungs and panel.parameters.resampleObservers
    panel.parameters.mergeLungs = panel.parameters.resampleObservers = False
    qt_app.processEvents()
    assert not panel.ui.mergeLungsCheckBox.checked and not panel.ui.resampleCheckBox.checked


# Comparing


def test_both_tables_hold_the_right_numbers(compared, paintedThorax):
    labels = paintedThorax.truth.labels
    changed = labels.copy()
    half_of_the_heart(changed)
    whole, half = (labels == 1).sum(), (changed == 1).sum()
    assert of_heart(compared.ui.cigenTableView)["cigen"] == pytest.approx(half / whole)
    pair = of_heart(compared.ui.pairsTableView)
    assert pair["dsc"] == pytest.approx(2 * half / (half + whole))
    assert (pair["a"], pair["b"]) == ("Ann", "Bo")
    others = [
        row for row in table_rows(compared.ui.cigenTableView.mrmlTableNode()) if row["structure"] != "Heart"
    ]
    assert [row["cigen"] for row in others] == [1.0] * 3
    assert not compared.ui.agreementSection.isHidden()


def test_a_structure_that_somebody_did_not_contour_is_listed(panel, contoursOf):
    contoursOf("Ann")
    contoursOf("Bo", without=(2,))
    panel.parameters.observerSegmentations = nodes_of(slicer.mrmlScene, "vtkMRMLSegmentationNode")
    qt_app.processEvents()
    panel.ui.compareButton.click()
    assert "Spinal cord: Bo has none" in shown(panel.ui.observersWarningsLabel)
    missing = {
        row["structure"]: row["missing"] for row in table_rows(panel.ui.cigenTableView.mrmlTableNode())
    }
    assert missing == {"Heart": "", "Spinal cord": "Bo", "Right lung": "", "Left lung": ""}


def test_lungs_are_merged_on_request(two):
    two.ui.mergeLungsCheckBox.checked = True
    qt_app.processEvents()
    two.ui.compareButton.click()
    names = {row["structure"] for row in table_rows(two.ui.cigenTableView.mrmlTableNode())}
    assert "Lungs" in names and "Right lung" not in names
    assert "merged" in shown(two.ui.observersNotesLabel)


def test_contours_on_another_grid_are_refused_unless_resampled(panel, contoursOf, toNode, dialogs):
    from Testing.painted import painted_thorax

    contoursOf("Ann")
    coarse = painted_thorax(spacing_mm=0.8)
    node = made_results.put_result(
        toNode(coarse.volume, "coarse"), coarse.truth.labels, coarse.truth.structures, "mouse-thorax"
    )
    node.SetName("Bo")
    panel.parameters.observerSegmentations = nodes_of(slicer.mrmlScene, "vtkMRMLSegmentationNode")
    qt_app.processEvents()
    panel.ui.compareButton.click()
    assert "The contours could not be compared." in dialogs.errors[0] and "resample" in dialogs.errors[0]
    assert panel.ui.agreementSection.isHidden()
    panel.ui.resampleCheckBox.checked = True
    qt_app.processEvents()
    panel.ui.compareButton.click()
    assert of_heart(panel.ui.cigenTableView)["cigen"] > 0.5
    assert "resampled" in shown(panel.ui.observersNotesLabel).lower()
    assert "different volumes" in shown(panel.ui.observersWarningsLabel)


def test_numbers_from_before_a_change_say_so(compared, mouse):
    assert "from before" not in shown(compared.ui.observersWarningsLabel)
    ann = slicer.mrmlScene.GetFirstNodeByName("Ann")
    made_results.edit(ann, "heart", lambda mask: mask.__setitem__(mask > 0, 0), mouse)
    compared.refresh()
    assert "from before. Compare again." in shown(compared.ui.observersWarningsLabel)
    compared.ui.compareButton.click()
    assert "from before" not in shown(compared.ui.observersWarningsLabel)


def test_a_failed_comparison_leaves_no_old_numbers(compared, dialogs, monkeypatch):
    from thoraxseg.errors import InputError

    def fail(*args, **kwargs):
        raise InputError("Nothing in common. Choose others.")

    monkeypatch.setattr(compared.logic.observers, "compare", fail)
    compared.ui.compareButton.click()
    assert "Nothing in common." in dialogs.errors[0]
    assert compared.ui.cigenTableView.mrmlTableNode() is None and not compared.ui.consensusButton.enabled


# What is made of it


@pytest.mark.parametrize(("index", "rule"), [(0, "majority"), (1, "all")], ids=["majority", "all"])
def test_a_consensus_is_made_by_the_chosen_rule(compared, contoursOf, index, rule, paintedThorax):
    compared.ui.consensusRuleComboBox.setCurrentIndex(index)
    compared.ui.consensusButton.click()
    node = slicer.mrmlScene.GetFirstNodeByName(f"mouse consensus ({rule})")
    half = np.count_nonzero(slicer.util.arrayFromSegmentBinaryLabelmap(node, "heart"))
    changed = paintedThorax.truth.labels.copy()
    half_of_the_heart(changed)
    assert half == (changed == 1).sum()
    assert node.GetName() in compared.widget.ui.statusLabel.text
    qt_app.processEvents()
    assert node.GetName() in panels.names_of(compared.ui.segmentationsListWidget)


def test_the_rules_in_the_box_are_those_of_the_logic(panel):
    from ThoraxSegLib.Observers import RULES

    words = [panel.ui.consensusRuleComboBox.itemText(n) for n in range(panel.ui.consensusRuleComboBox.count)]
    assert words == ["the majority", "all"] and RULES == ("majority", "all")


def test_disagreement_is_mapped(compared, paintedThorax):
    compared.ui.disagreementButton.click()
    volume = slicer.mrmlScene.GetFirstNodeByName("mouse disagreement")
    labels = paintedThorax.truth.labels
    changed = labels.copy()
    half_of_the_heart(changed)
    assert np.array_equal(slicer.util.arrayFromVolume(volume) > 0, labels != changed)


def test_conformity_and_pairs_are_plotted(compared):
    compared.ui.plotCigenButton.click()
    assert panels.chart_shown().GetTitle() == "Conformity"
    compared.ui.plotPairsButton.click()
    assert panels.chart_shown().GetTitle() == "Dice by pair"


def test_tables_are_copied_saved_and_sorted(compared, dialogs, tmp_path):
    compared.ui.copyPairsButton.click()
    assert "hd95_mm" in slicer.app.clipboard().text().splitlines()[0].split("\t")
    dialogs.paths = [str(tmp_path / "cigen.csv")]
    compared.ui.saveCigenButton.click()
    assert "cigen" in (tmp_path / "cigen.csv").read_text().splitlines()[0]
    panels.click_title(compared.ui.cigenTableView, 1)
    assert table_rows(compared.ui.cigenTableView.mrmlTableNode())[0]["structure"] == "Heart"


def test_removed_contours_end_the_comparison(compared):
    slicer.mrmlScene.RemoveNode(slicer.mrmlScene.GetFirstNodeByName("Bo"))
    qt_app.processEvents()
    assert compared.ui.agreementSection.isHidden() and not compared.ui.consensusButton.enabled
    assert "press Compare" in compared.ui.consensusButton.toolTip
    assert not compared.ui.compareButton.enabled


def test_a_closed_scene_leaves_nothing_behind(compared):
    slicer.mrmlScene.Clear(False)
    qt_app.processEvents()
    assert compared.ui.pairsTableView.mrmlTableNode() is None
    assert compared.ui.segmentationsListWidget.count == 0


def test_pictures_of_the_panel_show_all_texts_whole(panel, contoursOf, tmp_path):
    panels.picture(panel, tmp_path / "observers_empty.png")
    contoursOf("Ann")
    contoursOf("Bo", half_of_the_heart)
    contoursOf("a third observer with a long name", without=(2,))
    panel.parameters.observerSegmentations = nodes_of(slicer.mrmlScene, "vtkMRMLSegmentationNode")
    qt_app.processEvents()
    panel.ui.compareButton.click()
    panels.picture(panel, tmp_path / "observers.png")


def test_a_long_list_stays_where_it_was_scrolled_to(panel, contoursOf):
    contoursOf("Anna")
    contoursOf("Ben")
    qt_app.processEvents()
    listWidget = panel.ui.segmentationsListWidget
    item = listWidget.item(1)
    panels.check(listWidget, 1)
    qt_app.processEvents()
    assert listWidget.item(1) is item  # not filled anew
    assert panels.names_of(listWidget) == {"Anna": False, "Ben": True}
    panel.parameters.observerSegmentations = []
    qt_app.processEvents()
    assert panels.names_of(listWidget) == {"Anna": False, "Ben": False}
