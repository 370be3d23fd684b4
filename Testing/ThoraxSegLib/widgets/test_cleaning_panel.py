"""Post-processing panel: rules, their live preview, what they change in sentences, the copy they are applied to."""

from __future__ import annotations

import numpy as np
import pytest
import slicer

from Testing import made_results, qt_app
from Testing.qt_stand_ins import panels
from Testing.qt_stand_ins.panels import choose, shown
from thoraxseg.postprocess.cleaning import Cleaning, Unit
from ThoraxSegLib.Tasks import LUNG_TUMOR


@pytest.fixture
def result(tumorMouse, paintedLungTumor):
    """Three tumors: 40, 32 and 2 voxels of 0.125 mm3."""
    return panels.result_with_doubt(
        tumorMouse, paintedLungTumor, "lung-tumor", checkpoint="painted-lung-tumor"
    )


@pytest.fixture
def panel(openModule, tumorMouse):
    return openModule(LUNG_TUMOR).panels["Cleaning"]


@pytest.fixture
def chosen(panel, result):
    choose(panel, result)
    return panel


def voxels(node, key: str) -> int:
    return int(np.count_nonzero(slicer.util.arrayFromSegmentBinaryLabelmap(node, key)))


def cleaningOf(panel) -> Cleaning:
    from ThoraxSegLib.Parameters import fromPack  # needs Qt to be there

    return fromPack(Cleaning, panel.parameters.cleaning)


def test_every_widget_that_is_used_exists_and_every_button_is_wired(panel):
    assert panels.missing_widgets(panel) == []
    assert panels.unwired_buttons(panel) == []


def test_every_rule_of_the_engine_can_be_set_in_the_panel(panel):
    from dataclasses import fields

    bound = {widget.property("SlicerParameterName") for widget in vars(panel.ui).values()}
    byHand = {"structures", "connectivity"}
    assert {f"cleaning.{one.name}" for one in fields(Cleaning) if one.name not in byHand} <= bound


def test_without_contours_all_is_off_and_says_why(panel):
    assert "No contours are chosen" in shown(panel.ui.cleaningReasonLabel)
    assert not panel.ui.applyCleaningButton.enabled and not panel.ui.livePreviewCheckBox.enabled
    assert panels.off_without_reason(panel) == []


def test_apply_is_off_until_a_rule_is_on(chosen):
    assert not chosen.ui.applyCleaningButton.enabled
    assert "Nothing is switched on" in chosen.ui.applyCleaningButton.toolTip
    chosen.ui.fillHolesCheckBox.checked = True
    qt_app.processEvents()
    assert chosen.ui.applyCleaningButton.enabled
    assert shown(chosen.ui.cleaningReasonLabel) == ""


def test_all_rules_bind_both_ways(chosen):
    ui, parameters = chosen.ui, chosen.parameters
    ui.minSizeSpinBox.value, ui.minSizeUnitComboBox.currentIndex = 0.3, 1
    ui.largestOnlyCheckBox.checked = ui.fillHolesCheckBox.checked = ui.sliceFilterCheckBox.checked = True
    ui.closingSpinBox.value, ui.sliceFilterSigmaSpinBox.value, ui.sliceFilterMeanSpinBox.value = 1.5, 5.0, 0.5
    ui.connectivityComboBox.setCurrentIndex(2)
    panels.check(ui.structuresListWidget, 0, False)
    qt_app.processEvents()
    assert cleaningOf(chosen) == Cleaning(
        slice_filter=True,
        slice_filter_sigma_px=5.0,
        slice_filter_min_mean=0.5,
        min_size=0.3,
        min_size_unit=Unit.MM3,
        largest_only=True,
        fill_holes=True,
        closing_mm=1.5,
        connectivity=26,
        structures=("tumors",),
    )
    parameters.cleaning.min_size, parameters.cleaning.min_size_unit = 7.0, Unit.VOXELS
    parameters.cleaning.connectivity, parameters.cleaning.structures = 6, ["lungs"]
    qt_app.processEvents()
    assert (ui.minSizeSpinBox.value, ui.minSizeUnitComboBox.currentIndex) == (7.0, 0)
    assert ui.connectivityComboBox.currentIndex == 0
    assert panels.names_of(ui.structuresListWidget) == {"Lungs": True, "Tumors": False}


def test_units_are_named(panel):
    assert [panel.ui.minSizeUnitComboBox.itemText(n) for n in range(2)] == ["voxels", "mm3"]
    assert panel.ui.closingSpinBox.suffix == " mm" and panel.ui.sliceFilterSigmaSpinBox.suffix == " pixels"


def test_at_least_one_structure_stays_checked(chosen):
    panels.check(chosen.ui.structuresListWidget, 0, False)
    panels.check(chosen.ui.structuresListWidget, 1, False)
    qt_app.processEvents()
    assert sum(panels.names_of(chosen.ui.structuresListWidget).values()) == 1
    assert len(cleaningOf(chosen).structures) == 1
    assert "stays checked" in chosen.widget.ui.statusLabel.text


def test_numbers_of_the_slice_filter_are_off_without_it(chosen):
    spinBox = chosen.ui.sliceFilterSigmaSpinBox
    assert not spinBox.enabled and "Switch the slice filter on" in spinBox.toolTip
    chosen.ui.sliceFilterCheckBox.checked = True
    qt_app.processEvents()
    assert spinBox.enabled and "DeepMeta has 7" in spinBox.toolTip


def test_a_preview_follows_what_is_turned_and_leaves_the_contours_alone(chosen, result):
    before = voxels(result, "tumors")
    chosen.ui.livePreviewCheckBox.checked = True
    chosen.ui.minSizeSpinBox.value = 10
    qt_app.processEvents()
    assert chosen._later.active  # a moment later, not at once
    assert qt_app.waitFor(lambda: "removed" in shown(chosen.ui.changesLabel), 5)
    preview = chosen.logic.cleaning.previewNode()
    assert voxels(preview, "tumors") == 72 and voxels(result, "tumors") == before == 74
    assert "Tumors: 1 piece below 10 voxels: 2 voxels (0.25 mm3) removed." in shown(chosen.ui.changesLabel)
    chosen.ui.minSizeSpinBox.value = 35
    assert qt_app.waitFor(lambda: "2 pieces below 35" in shown(chosen.ui.changesLabel), 5)
    assert voxels(chosen.logic.cleaning.previewNode(), "tumors") == 40


def test_a_preview_follows_an_edit_of_the_contours(chosen, result, tumorMouse):
    chosen.ui.minSizeSpinBox.value = 10
    chosen.ui.livePreviewCheckBox.checked = True
    made_results.edit(result, "lungs", lambda mask: mask.__setitem__(mask > 0, 0), tumorMouse)
    preview = chosen.logic.cleaning.previewNode
    assert qt_app.waitFor(lambda: preview() is not None and voxels(preview(), "lungs") == 0, 5)
    assert voxels(preview(), "tumors") == 72


def test_without_a_change_no_new_preview_is_made(chosen):
    chosen.ui.fillHolesCheckBox.checked = True
    chosen.ui.livePreviewCheckBox.checked = True
    first = chosen.logic.cleaning.previewNode()
    qt_app.processEvents()
    chosen.widget.refresh()
    assert not chosen._later.active
    assert chosen.logic.cleaning.previewNode() is first


def test_switching_the_preview_off_shows_the_contours_again(chosen, result):
    chosen.ui.livePreviewCheckBox.checked = True
    assert chosen.logic.cleaning.previewNode() is not None and not result.GetDisplayNode().GetVisibility()
    chosen.ui.livePreviewCheckBox.checked = False
    assert chosen.logic.cleaning.previewNode() is None and result.GetDisplayNode().GetVisibility()
    assert shown(chosen.ui.changesLabel) == ""


@pytest.mark.parametrize("leave", ["exit", "cleanup"])
def test_no_preview_stays_behind_in_another_module(chosen, result, leave):
    chosen.ui.livePreviewCheckBox.checked = True
    getattr(chosen, leave)()
    assert chosen.logic.cleaning.previewNode() is None and result.GetDisplayNode().GetVisibility()


def test_what_a_preview_cannot_do_is_said_in_the_panel_without_a_message_box(chosen, tumorMouse, dialogs):
    array = slicer.util.arrayFromVolume(tumorMouse).astype(np.float32)
    array[0, 0, 0] = np.nan
    slicer.util.updateVolumeFromArray(tumorMouse, array)
    chosen.ui.sliceFilterCheckBox.checked = True
    chosen.ui.livePreviewCheckBox.checked = True
    assert "NaN or infinity" in shown(chosen.ui.cleaningReasonLabel)
    assert dialogs.errors == []
    chosen.ui.applyCleaningButton.click()
    assert "NaN or infinity" in dialogs.errors[0]


def test_apply_makes_a_copy_goes_on_with_it_and_says_what_changed(chosen, result):
    chosen.ui.minSizeSpinBox.value = 10
    chosen.ui.livePreviewCheckBox.checked = True
    qt_app.processEvents()
    chosen.ui.applyCleaningButton.click()
    cleaned = chosen.parameters.segmentation
    assert cleaned is not result and cleaned.GetName().endswith("(cleaned)")
    assert voxels(cleaned, "tumors") == 72 and voxels(result, "tumors") == 74
    assert "These contours were cleaned:" in shown(chosen.ui.changesLabel)
    assert "2 voxels (0.25 mm3) removed" in shown(chosen.ui.changesLabel)
    assert chosen.logic.cleaning.previewNode() is None and not chosen.ui.livePreviewCheckBox.checked


def test_what_the_checkpoint_does_itself_is_said_in_words(chosen):
    assert shown(chosen.ui.checkpointRulesLabel).splitlines() == [
        "painted-lung-tumor cleans up by itself:",
        "The checkpoint brings no clean-up.",
    ]


def test_a_run_without_the_clean_up_of_the_checkpoint_says_so(panel, tumorMouse, paintedLungTumor):
    record = {"provenance": {"options": {"postprocess": "none"}}}
    node = panels.result_with_doubt(
        tumorMouse, paintedLungTumor, "lung-tumor", record=record, checkpoint="painted-lung-tumor"
    )
    choose(panel, node)
    assert "was switched off in the run" in shown(panel.ui.checkpointRulesLabel)


def test_contours_of_no_or_an_unknown_checkpoint_say_so(panel, tumorMouse, paintedLungTumor):
    truth = paintedLungTumor.truth
    node = made_results.put_result(
        tumorMouse, truth.labels, truth.structures, "lung-tumor", checkpoint="lost one"
    )
    choose(panel, node)
    assert "lost one" in shown(panel.ui.checkpointRulesLabel)
    node = panels.result_with_doubt(tumorMouse, paintedLungTumor, "lung-tumor", checkpoint="")
    choose(panel, node)
    assert "No checkpoint made these contours" in shown(panel.ui.checkpointRulesLabel)


def test_reset_switches_everything_off(chosen):
    ui = chosen.ui
    assert not ui.resetCleaningButton.enabled and "nothing to reset" in ui.resetCleaningButton.toolTip
    ui.minSizeSpinBox.value, ui.closingSpinBox.value = 10, 2
    ui.largestOnlyCheckBox.checked = True
    panels.check(ui.structuresListWidget, 0, False)
    qt_app.processEvents()
    ui.resetCleaningButton.click()
    qt_app.processEvents()
    assert cleaningOf(chosen) == Cleaning()
    assert ui.minSizeSpinBox.value == 0 and not ui.largestOnlyCheckBox.checked
    assert all(panels.names_of(ui.structuresListWidget).values())


def test_contours_without_a_rule_named_structure_can_still_be_cleaned(chosen, mouse, paintedThorax):
    chosen.parameters.cleaning.structures = ["tumors"]
    choose(chosen, panels.result_with_doubt(mouse, paintedThorax, "mouse-thorax"))
    chosen.ui.fillHolesCheckBox.checked = True
    qt_app.processEvents()
    assert any(panels.names_of(chosen.ui.structuresListWidget).values())
    chosen.ui.applyCleaningButton.click()
    assert chosen.parameters.segmentation.GetName().endswith("(cleaned)")


def test_a_closed_scene_leaves_no_preview(chosen, module):
    chosen.ui.livePreviewCheckBox.checked = True
    slicer.mrmlScene.Clear(False)
    qt_app.processEvents()
    assert not chosen.ui.livePreviewCheckBox.checked and not chosen._later.active
    assert chosen.ui.structuresListWidget.count == 0


def test_pictures_of_the_panel_show_all_texts_whole(panel, result, tmp_path):
    choose(panel, result)
    panels.picture(panel, tmp_path / "cleaning.png")
    panel.ui.minSizeSpinBox.value = 10
    panel.ui.largestOnlyCheckBox.checked = True
    panel.ui.livePreviewCheckBox.checked = True
    qt_app.processEvents()
    panels.picture(panel, tmp_path / "cleaning_preview.png")
