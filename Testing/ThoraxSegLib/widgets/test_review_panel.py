"""Review panel: looking where doubt is, correcting with neighbors locked, the verdict, and what the clock is told."""

from __future__ import annotations

import numpy as np
import pytest
import slicer

from Testing import qt_app
from Testing.made_results import edit, put_result
from Testing.qt_stand_ins import panels
from Testing.qt_stand_ins.panels import choose, shown
from thoraxseg.mrml.views import nodes_of
from ThoraxSegLib import Nodes

EFFECT = "Paint"


@pytest.fixture
def result(mouse, paintedThorax):
    """Contours that are doubted in two slices."""
    return panels.result_with_doubt(mouse, paintedThorax, "mouse-thorax")


@pytest.fixture
def panel(module):
    return module.panels["Review"]


@pytest.fixture
def chosen(panel, result):
    """The panel with contours chosen."""
    choose(panel, result)
    return panel


def opacities() -> set[float]:
    return {
        round(one.GetForegroundOpacity(), 3)
        for one in nodes_of(slicer.mrmlScene, "vtkMRMLSliceCompositeNode")
    }


def start_effect(panel, segmentID, effect=EFFECT) -> None:
    editorNode = panel.ui.segmentEditorWidget.mrmlSegmentEditorNode()
    editorNode.SetSelectedSegmentID(segmentID)
    editorNode.SetActiveEffectName(effect)


# The panel as such


def test_every_widget_that_is_used_exists_and_every_button_is_wired(panel):
    assert panels.missing_widgets(panel) == []
    assert panels.unwired_buttons(panel) == []


def test_without_contours_all_is_off_and_says_why(panel):
    assert "No contours are chosen" in shown(panel.ui.reviewReasonLabel)
    for button in (panel.ui.nextDoubtfulButton, panel.ui.acceptButton, panel.ui.showButton):
        assert not button.enabled and "No contours are chosen" in button.toolTip
    assert panels.off_without_reason(panel) == []
    assert not panel.ui.segmentEditorWidget.enabled


def test_contours_without_doubt_can_be_judged_but_not_gone_through(panel, mouse, paintedThorax):
    truth = paintedThorax.truth
    choose(panel, put_result(mouse, truth.labels, truth.structures, "mouse-thorax"))
    assert panel.ui.acceptButton.enabled
    assert not panel.ui.nextDoubtfulButton.enabled
    assert "no map of doubt" in panel.ui.nextDoubtfulButton.toolTip
    assert "no map of doubt" in shown(panel.ui.reviewReasonLabel)
    assert panel.ui.profileStripLabel.isHidden() and panel.ui.legendRow.isHidden()


def test_a_reason_goes_and_the_own_tooltip_comes_back(panel, result):
    before = panel.ui.acceptButton.toolTip
    choose(panel, result)
    assert panel.ui.acceptButton.toolTip == "These contours are good enough to be used."
    choose(panel, None)
    assert panel.ui.acceptButton.toolTip == before != "These contours are good enough to be used."


# Looking


def test_chosen_contours_are_shown_with_their_volume_and_doubt(sliceViews, panel, mouse, result):
    choose(panel, result)
    for composite in nodes_of(slicer.mrmlScene, "vtkMRMLSliceCompositeNode"):
        assert composite.GetBackgroundVolumeID() == mouse.GetID()
        assert composite.GetForegroundVolumeID() == Nodes.uncertaintyOf(result).GetID()
    assert shown(panel.ui.reviewReasonLabel) == ""


def test_the_selector_and_the_parameter_follow_one_another(panel, result):
    panel.ui.segmentationSelector.setCurrentNode(result)
    assert panel.parameters.segmentation is result
    choose(panel, None)
    assert panel.ui.segmentationSelector.currentNode() is None


def test_doubt_is_hidden_and_shown_and_made_paler(sliceViews, chosen):
    ui, parameters = chosen.ui, chosen.parameters
    assert opacities() == {0.6}
    ui.uncertaintyOpacitySlider.value = 0.3
    qt_app.processEvents()
    assert opacities() == {0.3} and parameters.uncertaintyOpacity == 0.3
    ui.showUncertaintyCheckBox.checked = False
    qt_app.processEvents()
    assert opacities() == {0.0} and parameters.showUncertainty is False
    parameters.showUncertainty, parameters.uncertaintyOpacity = True, 0.5
    qt_app.processEvents()
    assert opacities() == {0.5}
    assert ui.showUncertaintyCheckBox.checked and ui.uncertaintyOpacitySlider.value == 0.5


def test_the_legend_says_unit_ends_and_what_is_meant(chosen):
    assert chosen.ui.legendRow.toolTip == "entropy"
    assert shown(chosen.ui.legendLowLabel).startswith("0")
    assert "1.00 nat" in shown(chosen.ui.legendHighLabel)
    colors = chosen.ui.legendColorsLabel.pixmap.toImage()
    first, last = (colors.pixelColor(x, 5) for x in (0, colors.width() - 1))
    assert first.lightness() < last.lightness()


def test_next_shows_slice_after_slice_and_says_which(sliceViews, chosen, result, mouse):
    doubt = slicer.util.arrayFromVolume(Nodes.uncertaintyOf(result))
    worst = int(doubt.sum(axis=(1, 2)).argmax())
    chosen.ui.doubtStructureComboBox.setCurrentIndex(chosen.ui.doubtStructureComboBox.findText("Spinal cord"))
    chosen.ui.nextDoubtfulButton.click()
    assert shown(chosen.ui.doubtfulLabel) == f"1 of 2: slice {worst}, Spinal cord."
    z = mouse.GetOrigin()[2] + worst * mouse.GetSpacing()[2]
    assert sliceViews["Red"].GetSliceOffset() == pytest.approx(z, abs=0.6 * mouse.GetSpacing()[2])
    chosen.ui.nextDoubtfulButton.click()
    assert shown(chosen.ui.doubtfulLabel).startswith("2 of 2: ")


def test_next_has_a_key_of_its_own(panel):
    assert panel.ui.nextDoubtfulButton.shortcut.toString() == "N"


def test_the_strip_is_highest_where_doubt_is(chosen, result):
    doubt = slicer.util.arrayFromVolume(Nodes.uncertaintyOf(result))
    picture = chosen.ui.profileStripLabel.pixmap.toImage()
    width, slices = picture.width(), len(doubt)
    columns = [(2 * k + 1) * width // (2 * slices) for k in range(slices)]
    tops = np.array(
        [sum(picture.pixelColor(x, y).lightness() < 128 for y in range(picture.height())) for x in columns]
    )
    assert tops.argmax() == doubt.sum(axis=(1, 2)).argmax()
    assert tops[doubt.sum(axis=(1, 2)) == 0].min() == 0


def test_the_profile_of_a_structure_is_drawn(chosen, result):
    before = chosen.ui.profileStripLabel.pixmap.toImage()
    assert chosen.ui.doubtStructureComboBox.count == 1 + result.GetSegmentation().GetNumberOfSegments()
    chosen.ui.doubtStructureComboBox.setCurrentIndex(chosen.ui.doubtStructureComboBox.findText("Heart"))
    assert chosen.ui.profileStripLabel.pixmap.toImage() != before


def test_the_profile_is_plotted_in_a_chart(chosen):
    chosen.ui.plotProfileButton.click()
    (chart,) = nodes_of(slicer.mrmlScene, "vtkMRMLPlotChartNode")
    assert panels.chart_shown() is chart


def test_no_doubt_in_the_contours_is_told(panel, mouse, paintedThorax, dialogs):
    choose(panel, panels.result_with_doubt(mouse, paintedThorax, "mouse-thorax", slices=()))
    panel.ui.nextDoubtfulButton.click()
    (told,) = dialogs.errors
    assert "no slice to look at" in told


def test_contours_whose_volume_is_gone_say_so(panel, result, mouse):
    slicer.mrmlScene.RemoveNode(mouse)
    choose(panel, result)
    assert "not in the scene" in shown(panel.ui.reviewReasonLabel)
    assert not panel.ui.acceptButton.enabled and "not in the scene" in panel.ui.acceptButton.toolTip


def test_what_the_run_warned_of_stays_in_sight(panel, mouse, paintedThorax):
    record = {"warnings": ["The side of the lungs is not known."]}
    choose(panel, panels.result_with_doubt(mouse, paintedThorax, "mouse-thorax", record=record))
    assert "The side of the lungs is not known." in shown(panel.ui.warningsLabel)


# Correcting


def test_the_editor_opens_the_contours_with_settings_of_its_own(chosen, result, mouse):
    editor = chosen.ui.segmentEditorWidget
    node = editor.mrmlSegmentEditorNode()
    assert node.GetSingletonTag() == "MouseThoraxSeg.SegmentEditor"
    assert editor.segmentationNode() is result and editor.sourceVolumeNode() is mouse
    assert editor.undoEnabled and editor.maximumNumberOfUndoStates >= 10


def test_neighbors_are_locked_unless_the_user_unlocks_them(chosen):
    node = chosen.ui.segmentEditorWidget.mrmlSegmentEditorNode()
    outside = slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments
    assert node.GetMaskMode() == outside and node.GetOverwriteMode() == node.OverwriteNone
    chosen.ui.lockNeighborsCheckBox.checked = False
    assert node.GetMaskMode() != outside
    chosen.ui.lockNeighborsCheckBox.checked = True
    assert node.GetMaskMode() == outside


def test_an_edit_makes_verdict_and_tables_out_of_date(chosen, result, mouse):
    chosen.ui.acceptButton.click()
    chosen.logic.measurements.measure(result)
    assert shown(chosen.ui.stalenessLabel) == ""
    edit(result, "heart", lambda mask: mask.__setitem__(mask > 0, 0), mouse)
    assert qt_app.waitFor(lambda: shown(chosen.ui.stalenessLabel), 5)
    assert "changed after the verdict" in shown(chosen.ui.stalenessLabel)
    assert "measure again" in shown(chosen.ui.stalenessLabel)


def test_a_changed_volume_is_told(chosen, mouse, module):
    slicer.util.arrayFromVolume(mouse)[0, 0, 0] += 1
    slicer.util.arrayFromVolumeModified(mouse)
    module.refresh()
    assert "was changed after it was contoured" in shown(chosen.ui.stalenessLabel)


def test_leaving_the_module_ends_effect_and_keys(chosen, module):
    start_effect(chosen, "heart")
    editor = chosen.ui.segmentEditorWidget
    assert editor._shortcuts
    module.exit()
    assert editor.mrmlSegmentEditorNode().GetActiveEffectName() == ""
    assert not editor._shortcuts


# Judging


@pytest.mark.parametrize(
    ("button", "verdict", "words"),
    [
        ("acceptButton", "ACCEPTED", "Accepted."),
        ("needsWorkButton", "NEEDS_WORK", "Needs work."),
        ("rejectButton", "REJECTED", "Rejected."),
    ],
)
def test_a_verdict_is_noted_shown_and_taken_back(chosen, result, button, verdict, words):
    button = getattr(chosen.ui, button)
    button.click()
    assert result.GetAttribute(Nodes.VERDICT_ATTRIBUTE) == verdict
    assert button.checked and shown(chosen.ui.verdictLabel) == words
    button.click()
    assert result.GetAttribute(Nodes.VERDICT_ATTRIBUTE) is None
    assert not button.checked and shown(chosen.ui.verdictLabel) == "Not judged."


def test_only_the_button_of_the_verdict_is_pressed(chosen, result):
    chosen.ui.acceptButton.click()
    chosen.ui.rejectButton.click()
    assert chosen.ui.rejectButton.checked and not chosen.ui.acceptButton.checked
    assert result.GetAttribute(Nodes.VERDICT_ATTRIBUTE) == "REJECTED"


def test_a_verdict_that_cannot_be_noted_is_told_and_presses_no_button(chosen, dialogs, monkeypatch):
    from thoraxseg.errors import OptionError

    def fail(*args):
        raise OptionError("The verdict cannot be noted. Try again.")

    monkeypatch.setattr(chosen.logic.review, "setVerdict", fail)
    chosen.ui.acceptButton.click()
    assert "Try again" in dialogs.errors[0]
    assert not chosen.ui.acceptButton.checked


# The clock


def test_the_clock_counts_editing_while_an_effect_is_on_a_segment_else_looking(chosen, result):
    time = chosen.logic.time
    time.open(result, "Ann")
    start_effect(chosen, "heart")
    assert time.activity[0] == "edit" and "heart" in time.activity[1].lower()
    start_effect(chosen, "left_lung")
    assert "left" in time.activity[1].lower()
    start_effect(chosen, "left_lung", "")
    assert time.activity[0] == "look"


def test_the_clock_pauses_with_the_module_and_goes_on_with_it(chosen, module, result):
    chosen.logic.time.open(result, "Ann")
    chosen.tellActivity()
    module.exit()
    assert chosen.logic.time.activity[0] == "idle"
    module.enter()
    assert chosen.logic.time.activity[0] == "look"


def test_mouse_and_scrolling_in_the_views_are_signs_of_life(
    sliceViews, openModule, mouse, result, monkeypatch
):
    module = openModule()
    choose(module.panels["Review"], result)
    module.logic.time.open(result, "Ann")
    touched = []
    monkeypatch.setattr(module.logic.time, "touch", lambda: touched.append(1))
    module.exit()
    module.enter()
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    crosshair.SetCursorPositionRAS([1.0, 2.0, 3.0])
    assert touched
    touched.clear()
    sliceViews["Red"].SetSliceOffset(sliceViews["Red"].GetSliceOffset() + 1)
    assert touched


def test_work_on_one_animal_is_not_counted_to_the_animal_whose_clock_runs(
    chosen, toNode, paintedThorax, monkeypatch
):
    time = chosen.logic.time
    time.open(toNode(paintedThorax.volume, "another mouse"), "Ann")
    before, touched = time.activity, []
    monkeypatch.setattr(time, "touch", lambda: touched.append(1))
    start_effect(chosen, "heart")
    chosen.onAttention()
    assert (time.activity, touched) == (before, [])


def test_without_a_session_nothing_is_counted_and_nothing_fails(chosen, dialogs):
    start_effect(chosen, "heart")
    chosen.ui.nextDoubtfulButton.click()
    assert not chosen.logic.time.isOpen and dialogs.errors == []


# The scene


def test_a_closed_scene_leaves_nothing_behind_and_a_new_one_works(chosen, module, toNode, paintedThorax):
    slicer.mrmlScene.Clear(False)
    qt_app.processEvents()
    assert chosen.ui.segmentEditorWidget.segmentationNode() is None
    assert "No contours are chosen" in shown(chosen.ui.reviewReasonLabel)
    volume = toNode(paintedThorax.volume, "next mouse")
    node = panels.result_with_doubt(volume, paintedThorax, "mouse-thorax")
    choose(chosen, node)
    assert chosen.ui.segmentEditorWidget.segmentationNode() is node
    chosen.ui.acceptButton.click()
    assert node.GetAttribute(Nodes.VERDICT_ATTRIBUTE) == "ACCEPTED"


def test_contours_that_are_removed_are_let_go(chosen, result):
    slicer.mrmlScene.RemoveNode(result)
    qt_app.processEvents()
    assert "No contours are chosen" in shown(chosen.ui.reviewReasonLabel)


def test_pictures_of_the_panel_show_all_texts_whole(sliceViews, panel, result, tmp_path, module):
    panels.picture(panel, tmp_path / "review_empty.png")
    choose(panel, result)
    panel.ui.nextDoubtfulButton.click()
    panel.ui.needsWorkButton.click()
    panels.picture(panel, tmp_path / "review_judged.png")


# Another animal


@pytest.fixture
def other(toNode, paintedThorax):
    """A second animal."""
    return toNode(paintedThorax.volume, "mouse 2")


def test_another_volume_takes_the_contours_of_the_first_animal_out_of_sight(
    chosen, module, result, mouse, other
):
    module.parameters.inputVolume = other
    qt_app.processEvents()
    assert module.parameters.segmentation is None
    assert "No contours are chosen" in shown(chosen.ui.reviewReasonLabel)
    module.parameters.inputVolume = mouse
    qt_app.processEvents()
    assert module.parameters.segmentation is result


def test_contours_that_are_chosen_together_with_their_volume_stay(panel, module, result, mouse, other):
    module.parameters.inputVolume = other
    qt_app.processEvents()
    module.parameters.inputVolume = mouse
    module.parameters.segmentation = result
    qt_app.processEvents()
    assert module.parameters.segmentation is result


def test_contours_of_another_animal_than_the_chosen_one_say_so(panel, module, result, other):
    module.parameters.inputVolume = other
    qt_app.processEvents()
    choose(panel, result)
    assert "These contours are of mouse; under Inputs mouse 2 is chosen." in shown(panel.ui.stalenessLabel)


def test_a_volume_that_is_removed_later_is_missed_at_once(chosen, mouse):
    assert chosen.ui.nextDoubtfulButton.enabled
    slicer.mrmlScene.RemoveNode(mouse)
    qt_app.processEvents()
    assert "is not in the scene" in shown(chosen.ui.reviewReasonLabel)
    assert not chosen.ui.nextDoubtfulButton.enabled
    assert shown(chosen.ui.profileLabel) == ""


def test_a_closed_scene_leaves_no_sentence_about_its_slices(chosen):
    chosen.ui.nextDoubtfulButton.click()
    slicer.mrmlScene.Clear(False)
    qt_app.processEvents()
    assert shown(chosen.ui.profileLabel) == ""
    assert shown(chosen.ui.doubtfulLabel) == ""
    assert chosen.ui.profileStripLabel.isHidden()
    assert chosen.ui.doubtStructureComboBox.count == 1


def test_an_editor_without_settings_is_not_asked_for_anything(panel, monkeypatch):
    asked = []
    monkeypatch.setattr(
        type(panel.ui.segmentEditorWidget), "setSegmentationNode", lambda *args: asked.append(args)
    )
    slicer.mrmlScene.Clear(False)
    assert asked == []
