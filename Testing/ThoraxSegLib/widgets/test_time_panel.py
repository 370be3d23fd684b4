"""Contouring time panel: whose time is counted and when, what it comes to, where it is kept."""

from __future__ import annotations

import csv
import json

import pytest
import slicer

from Testing import qt_app
from Testing.qt_stand_ins import panels
from Testing.qt_stand_ins.panels import choose, shown
from thoraxseg.study import PAPER_MANUAL_MIN, Clock

TIMINGS = {"read": 1.0, "preprocess": 2.0, "inference": 90.0, "write_volumes": 3.0, "total": 96.0}


@pytest.fixture
def result(mouse, paintedThorax):
    return panels.result_with_doubt(mouse, paintedThorax, "mouse-thorax", record={"timings_s": TIMINGS})


@pytest.fixture
def seconds(module):
    """A clock of the ledger that stands until a test moves it: `seconds[0] += 60`."""
    now = [1000.0]
    module.logic.time.clock = Clock(seconds=lambda: now[0])
    return now


@pytest.fixture
def panel(module, seconds):
    return module.panels["Time"]


@pytest.fixture
def started(panel, result):
    """The panel while Ann's clock runs."""
    choose(panel, result)
    type_name(panel, "Ann")
    return panel


def type_name(panel, name: str, line="operatorLineEdit") -> None:
    """Type a name letter by letter and leave the line, as a person does."""
    lineEdit = getattr(panel.ui, line)
    for n in range(len(name) + 1):
        lineEdit.text = name[:n]
        lineEdit.textEdited.emit(name[:n])
        qt_app.processEvents()
    lineEdit.editingFinished.emit()
    qt_app.processEvents()


def count(panel, seconds, spent: float) -> None:
    """Let time go by in steps too short to count as idle."""
    while spent > 0:
        step = min(spent, 20.0)
        seconds[0] += step
        spent -= step
        panel.logic.time.touch()
    sum_up(panel)


def sum_up(panel) -> None:
    """Let the panel sum up as it does after some seconds."""
    panel._summedAt = 0.0
    panel.refresh()


# The panel as such


def test_every_widget_that_is_used_exists_and_every_button_is_wired(panel):
    assert panels.missing_widgets(panel) == []
    assert panels.unwired_buttons(panel) == []


def test_without_an_operator_the_clock_does_not_run_and_the_panel_says_why(panel, result):
    choose(panel, result)
    assert not panel.logic.time.isOpen
    assert "Say who you are" in shown(panel.ui.clockLabel)
    assert not panel.ui.startClockButton.enabled and "Say who you are" in panel.ui.startClockButton.toolTip
    assert panels.off_without_reason(panel) == []


def test_names_bind_both_ways(panel):
    panel.ui.operatorLineEdit.text, panel.ui.animalLineEdit.text = "Ann", "M 7"
    assert (panel.parameters.operatorName, panel.parameters.animalName) == ("Ann", "M 7")
    panel.parameters.operatorName, panel.parameters.animalName = "Bo", "M 8"
    qt_app.processEvents()
    assert (panel.ui.operatorLineEdit.text, panel.ui.animalLineEdit.text) == ("Bo", "M 8")


# Whose time


def test_a_typed_name_starts_the_clock_once_it_is_complete(panel, result):
    choose(panel, result)
    type_name(panel, "Ann")
    assert panel.logic.time.who.operator == "Ann" and panel.logic.time.activity[0] == "look"
    assert {row["operator"] for row in panel.logic.time.rows()} == {"Ann"}  # no session of "A" and "An"
    assert shown(panel.ui.clockLabel) == "Ann, mouse: looking."


def test_a_name_that_came_with_the_scene_does_not_start_the_clock_by_itself(panel, result):
    panel.parameters.operatorName = "Ann"
    choose(panel, result)
    assert not panel.logic.time.isOpen
    assert "press Start" in shown(panel.ui.clockLabel)
    panel.ui.startClockButton.click()
    assert panel.logic.time.who.operator == "Ann"


def test_the_clock_goes_on_with_the_next_scan_of_the_same_operator(started, toNode, paintedThorax):
    second = panels.result_with_doubt(toNode(paintedThorax.volume, "mouse 2"), paintedThorax, "mouse-thorax")
    choose(started, second)
    assert started.logic.time.who.scan == "mouse 2" and started.logic.time.activity[0] == "look"


def test_another_animal_is_another_session(started):
    type_name(started, "M 7", "animalLineEdit")
    assert started.logic.time.who.animal == "M 7"
    assert {row["animal"] for row in started.logic.time.rows()} == {"mouse", "M 7"}  # none of "M"
    assert shown(started.ui.clockLabel) == "Ann, M 7 (mouse): looking."


def test_a_paused_clock_stays_paused_until_somebody_goes_on(started, module):
    started.ui.pauseClockButton.click()
    assert started.logic.time.activity[0] == "idle" and "paused" in shown(started.ui.clockLabel)
    assert not started.ui.pauseClockButton.enabled and "does not run" in started.ui.pauseClockButton.toolTip
    module.refresh()
    assert started.logic.time.activity[0] == "idle"
    started.ui.startClockButton.click()
    assert started.logic.time.activity[0] == "look"
    assert "runs already" in started.ui.startClockButton.toolTip


def test_a_name_that_cannot_be_used_is_told(started, dialogs, monkeypatch):
    from thoraxseg.errors import OptionError

    def fail(*args):
        raise OptionError("Expected a name. Give one.")

    monkeypatch.setattr(started.logic.time, "open", fail)
    started.ui.pauseClockButton.click()
    started.ui.startClockButton.click()
    assert "The clock could not be started." in dialogs.errors[0] and "Give one." in dialogs.errors[0]


# What it comes to


def test_looking_editing_idle_and_automatic_times_are_shown_apart(started, seconds):
    time = started.logic.time
    count(started, seconds, 90)
    time.edit("Heart")
    count(started, seconds, 200)
    time.look()
    seconds[0] += 600  # away: the first minute counts
    time.touch()
    sum_up(started)
    ui = started.ui
    assert shown(ui.automaticValueLabel) == "1 min 36 s"
    assert shown(ui.lookingValueLabel) == "2 min 30 s"
    assert shown(ui.editingValueLabel).splitlines() == ["3 min 20 s", "Heart: 3 min 20 s"]
    assert shown(ui.idleValueLabel) == "9 min 00 s"
    assert shown(ui.totalValueLabel) == "7 min 26 s"


def test_the_clock_line_says_what_is_edited(started, seconds):
    started.logic.time.edit("Left lung")
    started._toldAt = 0.0
    started.tick()
    assert (
        "editing" in shown(started.ui.clockLabel).lower() and "left" in shown(started.ui.clockLabel).lower()
    )


def test_ticks_count_on_and_sum_up_once_in_a_while(started, seconds, monkeypatch):
    seconds[0] += 30
    started._toldAt = started._summedAt = 0.0
    started.tick()
    assert shown(started.ui.lookingValueLabel) == "30 s"
    sums = []
    monkeypatch.setattr(started.logic.time, "rows", lambda: sums.append(1) or [])
    for _ in range(10):
        started.tick()
        started.refresh()
    assert sums == []


def test_nothing_is_compared_until_a_reference_is_set(started):
    assert started.ui.manualReferenceSpinBox.value == 0
    assert started.ui.manualReferenceSpinBox.specialValueText == "not set"
    assert "No manual reference is set" in shown(started.ui.ratioValueLabel)
    assert started.logic.time.manualReferenceMinutes is None


def test_the_paper_button_sets_forty_minutes_and_the_share_is_shown(started, seconds):
    started.ui.paperReferenceButton.click()
    qt_app.processEvents()
    assert started.ui.manualReferenceSpinBox.value == PAPER_MANUAL_MIN == 40
    assert str(round(PAPER_MANUAL_MIN)) in started.ui.paperReferenceButton.text
    assert started.logic.time.manualReferenceMinutes == 40
    count(started, seconds, 144)
    assert shown(started.ui.ratioValueLabel) == "10.0 % of the 40 min by hand"  # (96 + 144) / 2400


def test_a_reference_is_taken_back_with_zero(started):
    started.ui.manualReferenceSpinBox.value = 25
    qt_app.processEvents()
    assert started.logic.time.manualReferenceMinutes == 25
    started.ui.manualReferenceSpinBox.value = 0
    qt_app.processEvents()
    assert started.logic.time.manualReferenceMinutes is None
    assert "No manual reference is set" in shown(started.ui.ratioValueLabel)


def test_a_reference_that_a_scene_brings_is_shown(panel, result):
    panel.logic.time.manualReferenceMinutes = 32.0
    choose(panel, result)
    type_name(panel, "Ann")
    assert panel.ui.manualReferenceSpinBox.value == 32


def test_the_table_has_a_row_for_scan_and_operator(started):
    assert started.ui.timeTableView.isHidden()
    started.ui.updateTimeTableButton.click()
    table = started.ui.timeTableView.mrmlTableNode()
    assert table.GetNumberOfRows() == 1 and not started.ui.timeTableView.isHidden()


# Where it is kept


@pytest.mark.parametrize("ending", [".csv", ".json"])
def test_times_are_exported_where_the_user_says(started, dialogs, tmp_path, ending):
    path = tmp_path / f"times{ending}"
    path.write_text("older")  # the dialog has asked
    dialogs.paths = [str(path)]
    started.ui.exportTimeButton.click()
    assert dialogs.errors == []
    text = path.read_text()
    assert "Ann" in text
    assert json.loads(text) if ending == ".json" else list(csv.DictReader(text.splitlines()))


def test_without_times_there_is_nothing_to_export(panel):
    assert (
        not panel.ui.exportTimeButton.enabled and "No time was counted" in panel.ui.exportTimeButton.toolTip
    )


def test_a_study_file_is_made_kept_and_left(started, tmp_path, monkeypatch):
    path = tmp_path / "study.sqlite"
    answer(monkeypatch, path)
    started.ui.chooseStudyButton.click()
    assert path.exists() and started.ui.studyPathLineEdit.text == str(path)
    started.ui.forgetStudyButton.click()
    assert started.logic.time.studyPath is None and started.ui.studyPathLineEdit.text == ""
    started.ui.chooseStudyButton.click()  # what is there is opened
    assert started.logic.time.studyPath == path


def test_a_study_file_that_is_none_is_told(started, tmp_path, monkeypatch, dialogs):
    path = tmp_path / "holiday.sqlite"
    path.write_text("not a database")
    answer(monkeypatch, path)
    started.ui.chooseStudyButton.click()
    assert "The study file cannot be used." in dialogs.errors[0]
    assert path.read_text() == "not a database" and started.ui.studyPathLineEdit.text == ""


def answer(monkeypatch, path) -> None:
    """Choose a path in the next file dialogs."""
    import qt

    monkeypatch.setattr(qt.QFileDialog, "exec_", lambda dialog: 1)
    monkeypatch.setattr(qt.QFileDialog, "selectedFiles", lambda dialog: [str(path)])


def test_what_cannot_be_written_is_said_in_the_panel(started, monkeypatch):
    started.logic.time.problems["study"] = "study.sqlite cannot be written. Free some space."
    started.refresh()
    assert "Free some space." in shown(started.ui.timeReasonLabel)


def test_a_closed_scene_ends_the_session_and_a_new_one_begins(started, toNode, paintedThorax):
    slicer.mrmlScene.Clear(False)
    qt_app.processEvents()
    assert not started.logic.time.isOpen
    assert "Nothing is chosen" in shown(started.ui.clockLabel)
    volume = toNode(paintedThorax.volume, "next mouse")
    choose(started, panels.result_with_doubt(volume, paintedThorax, "mouse-thorax"))
    type_name(started, "Ann")
    assert started.logic.time.who.scan == "next mouse"


@pytest.mark.parametrize(
    ("seconds_", "words"),
    [
        (None, "not counted"),
        (0, "0 s"),
        (2.34, "2.3 s"),
        (59.4, "59 s"),
        (61, "1 min 01 s"),
        (3660, "1 h 01 min"),
    ],
)
def test_durations_are_said_in_words(panel, seconds_, words):
    from ThoraxSegLib.Panels.TimePanel import _seconds

    assert _seconds(seconds_) == words


def test_pictures_of_the_panel_show_all_texts_whole(panel, result, seconds, tmp_path):
    panels.picture(panel, tmp_path / "time_empty.png")
    choose(panel, result)
    type_name(panel, "Ann")
    panel.ui.paperReferenceButton.click()
    count(panel, seconds, 75)
    panel.logic.time.edit("Right lung")
    count(panel, seconds, 130)
    panel.ui.updateTimeTableButton.click()
    panels.picture(panel, tmp_path / "time.png")


def test_the_table_of_a_loaded_scene_is_shown_again(started, tmp_path):
    started.ui.updateTimeTableButton.click()
    path = tmp_path / "timed.mrb"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear(False)
    qt_app.processEvents()
    assert started.ui.timeTableView.isHidden()
    slicer.util.loadScene(str(path))
    qt_app.processEvents()
    assert not started.ui.timeTableView.isHidden()
    assert started.ui.timeTableView.mrmlTableNode().GetNumberOfRows() == 1
