"""The widget of both modules: panels, .ui files, parameters, what is told, what is left behind."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path

import pytest
import slicer

from Testing import qt_app
from Testing.qt_stand_ins import panels as of_panels
from Testing.qt_stand_ins import ui_files
from thoraxseg.errors import InputError
from ThoraxSegLib import Panels
from ThoraxSegLib.Panels import ORDER
from ThoraxSegLib.Tasks import LUNG_TUMOR, MOUSE_THORAX, TASKS

UI_FILES = sorted(Panels.UI_FOLDER.glob("*.ui"))
SOURCES = Path(Panels.__file__).parent
CONTAINERS = {
    "QWidget",
    "QGroupBox",
    "ctkCollapsibleButton",
    "ctkCollapsibleGroupBox",
    "qMRMLWidget",
    "QFrame",
}
BUTTONS = {"QPushButton", "QToolButton"}


def ids(path: Path) -> str:
    return path.stem


def sourceOf(path: Path) -> str:
    name = "../Widget.py" if path.stem == "ThoraxSeg" else f"{path.stem}.py"
    return (SOURCES / name).read_text(encoding="utf-8")


def test_there_is_a_ui_file_and_a_class_for_every_panel():
    assert {path.stem for path in UI_FILES} == {f"{name}Panel" for name in ORDER} | {"ThoraxSeg"}
    assert {path.stem for path in SOURCES.glob("*Panel.py")} == {f"{name}Panel" for name in ORDER}


@pytest.mark.parametrize("path", UI_FILES, ids=ids)
def test_a_ui_file_uses_only_what_the_real_classes_have(path, qtApp):
    assert ui_files.problems(ui_files.read(path)) == []


@pytest.mark.parametrize("path", UI_FILES, ids=ids)
def test_every_widget_that_the_code_names_is_in_the_ui_file(path):
    used = set(re.findall(r"\bui\.([a-z]\w*)", sourceOf(path)))
    layouts = {one.get("name") for one in ui_files.read(path).root.iter("layout")}
    assert sorted(used - set(ui_files.read(path).widgets) - layouts) == []


@pytest.mark.parametrize("path", UI_FILES, ids=ids)
def test_every_widget_of_the_ui_file_is_used(path):
    ui = ui_files.read(path)
    used = set(re.findall(r"\bui\.([a-z]\w*)", sourceOf(path))) | set(ui.parameterNames)
    if path.stem == "ThoraxSeg":
        used |= {f"{name[0].lower()}{name[1:]}Place" for name in ORDER}
    idle = {name for name, kind in ui.widgets.items() if kind not in CONTAINERS | {"QLabel"}} - used
    assert sorted(idle) == []
    places = [name for name in ui.widgets if name.endswith("Place")]
    assert path.stem != "ThoraxSeg" or len(places) == len(ORDER)


@pytest.mark.parametrize("path", UI_FILES, ids=ids)
def test_sentences_that_are_filled_in_later_are_not_taken_for_markup(path):
    for widget in ui_files.read(path).root.iter("widget"):
        isSentence = widget.findtext("property[@name='wordWrap']/bool") == "true"
        if widget.get("class") == "QLabel" and isSentence:
            assert widget.findtext("property[@name='textFormat']/enum") == "Qt::PlainText", widget.get("name")


def test_only_our_own_words_are_translated():
    """`_()` gets a text that stands in the source, never one that was put together."""
    for path in [*SOURCES.glob("*.py"), SOURCES.parent / "Widget.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
                assert all(isinstance(one, ast.Constant) for one in node.args), f"{path.name}:{node.lineno}"


def test_a_module_opens_with_all_panels_in_order_in_under_a_second(openModule, mouse):
    openModule()  # imports
    start = time.perf_counter()
    widget = openModule()
    assert time.perf_counter() - start < 1.0
    places = [getattr(widget.ui, f"{name[0].lower()}{name[1:]}Place") for name in ORDER]
    rows = [widget.root.layout().indexOf(place) for place in places]
    assert rows == sorted(rows)
    for name, place in zip(ORDER, places, strict=True):
        assert widget.panels[name].root.parent() is place
    headers = [titleOf(widget.panels[name]) for name in ORDER]
    assert headers == [
        *("Inputs", "Pre-flight check", "Run", "Review and correct", "Measurements", "Post-processing"),
        *("Contouring time", "Observers"),
    ]


def titleOf(panel) -> str:
    return next(one.text for name, one in vars(panel.ui).items() if name.endswith("CollapsibleButton"))


@pytest.mark.parametrize("task", list(TASKS.values()), ids=list(TASKS))
def test_every_button_is_wired_and_those_that_are_off_say_why(openModule, task):
    for panel in openModule(task).panels.values():
        assert of_panels.missing_widgets(panel) == []
        assert of_panels.unwired_buttons(panel) == []
        assert of_panels.off_without_reason(panel) == []


def test_each_module_shows_its_own_task(openModule, mouse, tumorMouse):
    thorax, tumor = openModule(), openModule(LUNG_TUMOR)
    assert thorax.ui.statusLabel.text != tumor.ui.statusLabel.text
    assert thorax.parameters.checkpoint == "painted-thorax"
    assert tumor.parameters.checkpoint != thorax.parameters.checkpoint
    assert thorax.parameters.parameterNode is not tumor.parameters.parameterNode


# Parameters


def change(widget) -> None:
    """Give a bound widget another value."""
    kind = type(widget).__name__
    if kind == "QCheckBox":
        widget.setChecked(not widget.checked)
    elif kind == "QComboBox":
        widget.setCurrentIndex((widget.currentIndex + 1) % widget.count)
    elif kind == "QLineEdit":
        widget.setText("Ada")
    elif kind == "qMRMLNodeComboBox":
        widget.setCurrentNodeIndex(0 if widget.currentNode() is None else -1)
    else:
        middle = (widget.minimum + widget.maximum) / 2
        widget.setValue(type(widget.value)(middle))


def valueOf(widget):
    kind = type(widget).__name__
    names = {"QCheckBox": "checked", "QComboBox": "currentIndex", "QLineEdit": "text"}
    if kind == "qMRMLNodeComboBox":
        return widget.currentNodeID
    return getattr(widget, names.get(kind, "value"))


def boundWidgets():
    return [(path.stem, name) for path in UI_FILES for name in ui_files.read(path).parameterNames]


@pytest.mark.parametrize(("ui", "name"), boundWidgets(), ids=lambda one: one)
def test_parameters_bind_both_ways(ui, name, module, scene, mouse):
    scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "contours")
    parameter = ui_files.read(Panels.UI_FOLDER / f"{ui}.ui").parameterNames[name]
    widget = getattr(module.panels[ui.removesuffix("Panel")].ui, name)
    before, shownBefore = module.parameters.getValue(parameter), valueOf(widget)
    change(widget)
    after, shownAfter = module.parameters.getValue(parameter), valueOf(widget)
    assert after != before
    assert shownAfter != shownBefore
    module.parameters.setValue(parameter, before)
    assert valueOf(widget) == shownBefore
    module.parameters.setValue(parameter, after)
    assert valueOf(widget) == shownAfter


def test_every_option_of_the_engine_is_a_parameter_and_goes_back_to_it(module):
    from dataclasses import fields

    from thoraxseg.options import SegmentOptions
    from thoraxseg.postprocess.cleaning import Cleaning
    from ThoraxSegLib.Parameters import fromPack

    assert fromPack(SegmentOptions, module.parameters.options) == SegmentOptions()
    assert fromPack(Cleaning, module.parameters.cleaning) == Cleaning()
    module.parameters.options.samples = 7
    module.parameters.cleaning.structures = ["heart"]
    assert fromPack(SegmentOptions, module.parameters.options).samples == 7
    assert fromPack(Cleaning, module.parameters.cleaning).structures == ("heart",)
    assert {field.name for field in fields(SegmentOptions)} == set(
        type(module.parameters.options).allParameters
    )
    with pytest.raises(ValueError):
        module.parameters.options.samples = 1


def test_parameters_are_saved_with_the_scene_and_come_back(module, mouse, tmp_path):
    module.parameters.options.samples = 9
    module.parameters.operatorName = "Ada"
    module.parameters.uncertaintyOpacity = 0.3
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    qt_app.processEvents()
    assert module.parameters.operatorName == ""
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    qt_app.processEvents()
    parameters = module.parameters
    assert parameters.inputVolume is slicer.util.getNode("mouse")
    assert (parameters.options.samples, parameters.operatorName) == (9, "Ada")
    assert parameters.uncertaintyOpacity == pytest.approx(0.3)
    assert module.panels["Inputs"].ui.volumeSelector.currentNode() is parameters.inputVolume
    assert module.panels["Inputs"].ui.samplesSpinBox.value == 9


# What the user is told


def test_an_error_of_ours_is_told_as_a_sentence(module, dialogs):
    def fail():
        raise InputError("The scan has no slices. Load it again.")

    assert module.run(fail, "It could not be done.") is None
    assert dialogs.errors == ["It could not be done.\n\nThe scan has no slices. Load it again."]
    assert dialogs.details == [""]
    assert module.ui.statusLabel.text == "It could not be done."
    assert module.run(lambda: 7, "It could not be done.") == 7
    assert len(dialogs.errors) == 1


def test_a_defect_is_told_with_its_traceback_and_raised(module, dialogs):
    def fail():
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        module.run(fail, "It could not be done.")
    assert "ZeroDivisionError" in dialogs.errors[0]
    assert "test_widget.py" in dialogs.details[0]


def test_the_wait_cursor_goes_whatever_happens(module, qtApp, dialogs):
    def fail():
        assert qtApp.overrideCursor() is not None
        raise InputError("no")

    module.run(fail, "It could not be done.")
    assert qtApp.overrideCursor() is None


def test_names_are_not_taken_for_markup(openModule, mouse, dialogs, monkeypatch):
    import qt

    formats = []
    mouse.SetName("<b>mouse</b>")
    module = openModule()
    monkeypatch.setattr(dialogs, "answer", lambda box: formats.append(box.textFormat) or qt.QMessageBox.Ok)
    dialogs.install()
    module.showError("<b>mouse</b>")
    module.confirm("<b>mouse</b>?")
    assert formats == [qt.Qt.PlainText, qt.Qt.PlainText]
    assert module.ui.statusLabel.textFormat == qt.Qt.PlainText


# What is left behind


def test_closing_the_scene_lets_go_of_all_nodes_and_begins_anew(module, mouse):
    module.panels["Preflight"].check()
    slicer.mrmlScene.Clear(False)
    qt_app.processEvents()
    assert module.parameters is not None
    assert module.parameters.inputVolume is None
    assert not module.panels["Run"].ui.runButton.enabled
    assert "volume" in module.panels["Run"].ui.runButton.toolTip


def test_a_scene_that_is_closed_while_another_module_is_shown_is_met_on_return(
    module, mouse, toNode, paintedThorax
):
    module.exit()
    module.parent.isEntered = False
    slicer.mrmlScene.Clear(False)
    qt_app.processEvents()
    assert module.parameters is None
    assert not module.panels["Run"].ui.runButton.enabled
    node = toNode(paintedThorax.volume, "another")
    module.parent.isEntered = True
    module.enter()
    assert module.parameters.inputVolume is node


def test_while_another_module_is_shown_widgets_do_not_follow(module, mouse):
    module.exit()
    shownBefore = module.panels["Inputs"].ui.samplesSpinBox.value
    module.parameters.options.samples = shownBefore + 1
    assert module.panels["Inputs"].ui.samplesSpinBox.value == shownBefore
    assert not module._lookTimer.active
    module.enter()
    assert module.panels["Inputs"].ui.samplesSpinBox.value == shownBefore + 1
    assert module._lookTimer.active


def test_cleanup_leaves_no_timer_no_observer_and_no_child(openModule, mouse):
    module = openModule()
    engine = module.logic.runs.engine
    engine.warm("painted-thorax", module.parameters.options.device)
    assert qt_app.waitFor(lambda: engine.is_alive)
    qt_app.processEvents()
    module.cleanup()
    assert qt_app.runningTimers(module.parent) == []
    assert module.Observations == []
    for panel in module.panels.values():
        assert getattr(panel, "Observations", []) == [], type(panel).__name__
    assert qt_app.waitFor(lambda: not engine.is_alive)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "later")
    qt_app.processEvents()
    assert qt_app.runningTimers(module.parent) == []
    module.cleanup()  # twice is once


def test_many_changes_are_one_refresh(module, monkeypatch):
    count = []
    panel = module.panels["Run"]
    monkeypatch.setattr(panel, "refresh", lambda: count.append(1))
    qt_app.processEvents()
    count.clear()
    for n in range(20):
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", f"text {n}")
    module.parameters.operatorName = "Ada"
    qt_app.processEvents()
    assert len(count) == 1


def test_new_volumes_are_chosen_only_where_none_is(openModule, mouse, toNode, paintedThorax):
    first = openModule()
    assert first.parameters.inputVolume is mouse
    toNode(paintedThorax.volume, "later")
    qt_app.processEvents()
    assert first.parameters.inputVolume is mouse


@pytest.mark.slow
@pytest.mark.parametrize("task", list(TASKS.values()), ids=list(TASKS))
def test_the_whole_module_can_be_looked_at(openModule, mouse, tmp_path, task):
    module = openModule(task)
    assert qt_app.waitFor(lambda: module.panels["Preflight"].ui.lightsArea.isVisibleTo(module.root))
    path = qt_app.grab(module.parent, tmp_path / f"{task.moduleName}.png")
    assert path.stat().st_size > 20000


def test_a_long_name_does_not_make_the_module_wide(openModule, toNode, paintedThorax, tmp_path):
    name = "2026-11-21_mouse_" + 20 * "with_protocol_and_kernel_" + 80 * "x"
    volume = toNode(paintedThorax.volume, name)
    module = openModule()
    module.parameters.inputVolume = volume
    module.say(f"{name} is being contoured.")
    module.panels["Preflight"].onFix("set_spacing")
    qt_app.processEvents()
    widths = {key: panel.root.minimumSizeHint().width() for key, panel in module.panels.items()}
    assert max(widths.values()) <= 420, widths
    assert module.ui.statusLabel.minimumSizeHint().width() <= 420


def test_a_path_in_a_sentence_can_be_copied_as_it_is(module):
    path = "/data/" + 10 * "some_long_folder_of_scans_" + "/scan.nii.gz"
    module.say(f"Saved {path}.")
    assert path in module.ui.statusLabel.text


def test_the_status_line_forgets_a_closed_scene(module, mouse):
    module.say("mouse is being contoured.")
    slicer.mrmlScene.Clear(False)
    assert module.ui.statusLabel.text == MOUSE_THORAX.summary


def test_a_reason_goes_with_its_cause_where_a_widget_has_no_tooltip_of_its_own(qtApp):
    import qt

    from ThoraxSegLib.Panels.Parts import enableUnless

    button = qt.QPushButton("Go")
    for reason in ("Nothing is chosen.", "Nothing is chosen.", ""):
        enableUnless(reason, button)
        assert (button.toolTip, button.enabled) == (reason, not reason)
