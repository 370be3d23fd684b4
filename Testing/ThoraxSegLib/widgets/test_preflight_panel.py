"""Pre-flight panel: lights that tell by shape, word and sentence, and corrections on a copy."""

from __future__ import annotations

import numpy as np
import pytest
import slicer

from Testing import qt_app
from Testing.qt_stand_ins.panels import shown
from thoraxseg.precheck import FIXES, KEYS, Level, Light


@pytest.fixture
def code(qtApp):
    """The module under test, which needs Qt to be imported."""
    from ThoraxSegLib.Panels import PreflightPanel

    return PreflightPanel


@pytest.fixture
def panel(module):
    """The panel, once it has looked at the mouse."""
    panel = module.panels["Preflight"]
    settle(panel)
    return panel


def settle(panel) -> None:
    qt_app.processEvents()
    assert qt_app.waitFor(lambda: panel._shown == panel._asked() and not panel._timer.active, 10)
    qt_app.processEvents()


def light(panel, key: str) -> Light:
    return next(one for one in panel._lights if one.key == key)


def button(panel, key: str):
    import qt

    return next(one for one in panel.root.findChildren(qt.QPushButton) if one.objectName == f"{key}Button")


def tooLarge(mouse) -> None:
    mouse.SetSpacing(*(30 * spacing for spacing in mouse.GetSpacing()))


def test_there_is_a_row_for_every_light_and_green_ones_take_one_line(panel):
    assert list(panel._rows) == list(KEYS)
    for key, row in panel._rows.items():
        assert row.root.isVisibleTo(panel.root)
        assert row.title.text.startswith(light(panel, key).title)
        assert bool(shown(row.sentence)) == (light(panel, key).level is not Level.GREEN)
        assert row.title.toolTip == light(panel, key).sentence


def test_signs_differ_in_shape_and_not_in_color_alone(code):
    """Drawn in gray, no two of them are alike."""
    import qt

    grays = []
    for level in Level:
        image = code.iconOf(level).toImage().convertToFormat(qt.QImage.Format_ARGB32)
        alpha = [
            [image.pixelColor(x, y).alpha() for x in range(image.width())] for y in range(image.height())
        ]
        grays.append(np.array(alpha, float))
        assert grays[-1].max() > 250
    for n, one in enumerate(grays):
        for other in grays[:n]:
            assert np.abs(one - other).mean() > 5


def test_every_level_has_a_word_of_its_own(code):
    assert len({code.wordOf(level) for level in Level}) == len(Level)


def test_the_summary_counts(code):
    lights = [Light("spacing", "Spacing", level, "") for level in (Level.RED, Level.YELLOW, Level.YELLOW)]
    assert code.summaryOf(lights) == "Problems: 1, to check: 2"
    assert "as the checkpoint expects" in code.summaryOf(lights[:0])


def test_a_wrong_scale_is_red_with_its_sentence_and_a_button(panel, mouse):
    tooLarge(mouse)
    panel.widget.look()
    settle(panel)
    assert light(panel, "spacing").level is Level.RED
    row = panel._rows["spacing"]
    assert row.title.text == "Spacing: problem"
    assert "Correct the spacing" in shown(row.sentence)
    assert button(panel, "set_spacing").isVisibleTo(panel.root)
    assert "Problems" in shown(panel.ui.summaryLabel)


def test_set_spacing_asks_and_corrects_a_copy_which_is_chosen(panel, mouse, dialogs):
    right = mouse.GetSpacing()
    tooLarge(mouse)
    wrong = mouse.GetSpacing()
    panel.check()
    button(panel, "set_spacing").click()
    ui = panel.ui
    assert ui.fixGroup.isVisibleTo(panel.root)
    assert "made of mouse" in shown(ui.fixSentenceLabel)
    assert shown(ui.fixSentenceLabel).startswith(FIXES["set_spacing"].sentence)
    assert not ui.codesEdit.isVisibleTo(panel.root)
    assert (ui.spacingISpinBox.value, ui.spacingKSpinBox.value) == (wrong[0], wrong[2])
    for box, spacing in zip((ui.spacingISpinBox, ui.spacingJSpinBox, ui.spacingKSpinBox), right, strict=True):
        box.value = spacing
    ui.spacingKSpinBox.value = 2 * right[2]
    ui.fixApplyButton.click()
    copy = panel.parameters.inputVolume
    assert dialogs.errors == []
    assert copy is not mouse
    np.testing.assert_allclose(copy.GetSpacing(), (right[0], right[1], 2 * right[2]))
    assert mouse.GetSpacing() == wrong
    assert copy.GetName() == "mouse (spacing set)"
    assert not ui.fixGroup.isVisibleTo(panel.root)
    assert "mouse is as it was" in panel.widget.ui.statusLabel.text
    settle(panel)
    assert light(panel, "spacing").level is not Level.RED


def test_letters_are_asked_for_and_wrong_ones_are_told(panel, mouse, dialogs):
    panel.onFix("declare_orientation")
    ui = panel.ui
    assert ui.codesEdit.isVisibleTo(panel.root)
    assert not ui.spacingRow.isVisibleTo(panel.root)
    assert not ui.fixApplyButton.enabled
    assert "three letters" in ui.fixApplyButton.toolTip
    ui.codesEdit.text = "LLL"
    ui.fixApplyButton.click()
    assert "expected three axis letters" in dialogs.errors[0]
    assert panel.parameters.inputVolume is mouse
    ui.codesEdit.text = "rai"
    ui.fixApplyButton.click()
    assert panel.parameters.inputVolume.GetName() == "mouse (orientation stated)"


def test_swapping_sides_asks_for_nothing(panel, mouse):
    before = slicer.util.arrayFromVolume(mouse).copy()
    panel.onFix("swap_sides")
    assert panel.ui.fixApplyButton.enabled
    panel.ui.fixApplyButton.click()
    assert panel.parameters.inputVolume.GetName() == "mouse (sides swapped)"
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(mouse), before)


@pytest.mark.parametrize("key", list(FIXES))
def test_every_fix_can_be_asked_for(panel, key):
    asked = set(FIXES[key].parameters)
    assert asked <= {"codes", "spacing_mm"}, "the panel has no widget for it"
    panel.onFix(key)
    assert panel.ui.codesEdit.isVisibleTo(panel.root) == ("codes" in asked)
    assert panel.ui.spacingRow.isVisibleTo(panel.root) == ("spacing_mm" in asked)


def test_a_fix_can_be_called_off(panel, mouse):
    panel.onFix("swap_sides")
    panel.ui.fixCancelButton.click()
    assert not panel.ui.fixGroup.isVisibleTo(panel.root)
    assert panel.parameters.inputVolume is mouse


def test_changed_voxels_make_the_lights_out_of_date_until_they_are_looked_at_again(panel, mouse):
    slicer.util.arrayFromVolume(mouse)[:] = 7
    slicer.util.arrayFromVolumeModified(mouse)
    panel.widget.look()
    qt_app.processEvents()
    assert not panel.ui.lightsArea.isVisibleTo(panel.root)
    assert shown(panel.ui.summaryLabel) == "Checking ..."
    settle(panel)
    assert light(panel, "intensity").level is Level.RED


def test_a_moved_region_is_looked_at_again(panel, mouse):
    panel.widget.panels["Inputs"].ui.newRegionButton.click()
    settle(panel)
    panel.parameters.regionOfInterest.SetCenterWorld(900, 900, 900)
    panel.widget.look()
    settle(panel)
    assert light(panel, "field_of_view").level is Level.RED
    assert "outside" in light(panel, "field_of_view").sentence


def test_a_large_volume_waits_for_the_button(panel, code, mouse, monkeypatch):
    monkeypatch.setattr(code, "AUTOMATIC_VOXELS", 10)
    mouse.Modified()
    panel.widget.look()
    qt_app.processEvents()
    assert not panel._timer.active
    assert "on request" in shown(panel.ui.summaryLabel)
    assert not panel.ui.lightsArea.isVisibleTo(panel.root)
    panel.ui.checkButton.click()
    qt_app.processEvents()
    assert panel.ui.lightsArea.isVisibleTo(panel.root)


def test_dragging_does_not_look_at_every_step(panel, mouse, monkeypatch):
    looks = []
    lights = panel.logic.preflight.lights
    monkeypatch.setattr(panel.logic.preflight, "lights", lambda *args: looks.append(1) or lights(*args))
    for n in range(10):
        mouse.SetSpacing(0.5, 0.5, 0.5 + n / 100)
        panel.widget.look()
        qt_app.processEvents()
    settle(panel)
    assert len(looks) == 1


def test_without_a_volume_the_panel_says_so(openModule, scene):
    panel = openModule().panels["Preflight"]
    assert shown(panel.ui.summaryLabel) == "Choose a volume."
    assert not panel.ui.checkButton.enabled
    assert not panel.ui.lightsArea.isVisibleTo(panel.root)


def test_what_goes_wrong_in_looking_is_told(panel, dialogs, monkeypatch, mouse):
    def fail(*args):
        raise MemoryError("no room")

    monkeypatch.setattr(panel.logic.preflight, "lights", fail)
    mouse.Modified()
    with pytest.raises(MemoryError):
        panel.widget.run(panel.check, "The volume could not be checked.")
    assert "no room" in dialogs.errors[0]


def test_closing_the_scene_ends_what_was_begun(panel, mouse):
    panel.onFix("swap_sides")
    slicer.mrmlScene.Clear(False)
    qt_app.processEvents()
    assert not panel.ui.fixGroup.isVisibleTo(panel.root)
    assert not panel._timer.active
    assert not panel.ui.lightsArea.isVisibleTo(panel.root)
