"""Run panel: begin, watch, cancel; what the user is told; and one real run in the child process."""

from __future__ import annotations

import numpy as np
import pytest
import slicer

from Testing import painted, qt_app
from Testing.qt_stand_ins.panels import shown
from thoraxseg.errors import DeviceMemoryError
from thoraxseg.job import State
from thoraxseg.options import Device
from thoraxseg.precheck import Level, Light
from ThoraxSegLib import Dependencies
from ThoraxSegLib.SelfTest import PlayedEngine, outcomeOf


@pytest.fixture
def panel(module):
    return module.panels["Run"]


@pytest.fixture
def engine(panel):
    """A child process that does nothing; its jobs end as they are told."""
    engine = panel.logic.runs._engine = PlayedEngine()
    return engine


@pytest.fixture
def started(panel, engine):
    """The panel with a run that goes on."""
    panel.ui.runButton.click()
    panel.widget.look()
    return panel


def finish(panel, engine, phantom) -> None:
    labels = phantom.truth.labels
    doubt = np.zeros(labels.shape, np.float32)
    doubt[painted.doubtful_slice(phantom)] = 0.5
    engine.job.answer(outcomeOf(phantom.truth, engine.job.request.volume, doubt))
    panel.widget.look()
    qt_app.processEvents()


def lightsAre(panel, monkeypatch, *lights) -> None:
    monkeypatch.setattr(panel.logic.preflight, "lights", lambda *args: list(lights))
    panel.widget.panels["Preflight"].check()
    qt_app.processEvents()


# Beginning


def test_with_volume_and_checkpoint_a_run_can_begin(panel):
    assert panel.ui.runButton.enabled
    assert "background" in panel.ui.runButton.toolTip
    assert not panel.ui.cancelButton.enabled
    assert not panel.ui.progressBar.isVisibleTo(panel.root)
    assert shown(panel.ui.runReasonLabel) == ""


@pytest.mark.parametrize(
    ("parameter", "value", "reason"),
    [("inputVolume", None, "No volume is chosen"), ("checkpoint", "nothing-like-it", "no checkpoint")],
    ids=["no volume", "unknown checkpoint"],
)
def test_what_is_missing_is_said_beside_the_button_that_is_off(panel, parameter, value, reason):
    setattr(panel.parameters, parameter, value)
    qt_app.processEvents()
    assert not panel.ui.runButton.enabled
    assert reason in panel.ui.runButton.toolTip
    assert reason in shown(panel.ui.runReasonLabel)


def test_a_checkpoint_of_the_other_task_is_refused(panel):
    panel.parameters.checkpoint = "painted-lung-tumor"
    qt_app.processEvents()
    assert not panel.ui.runButton.enabled
    assert "not for" in panel.ui.runButton.toolTip


def test_run_hands_over_what_is_chosen(panel, engine, mouse):
    panel.parameters.options.device = Device.CPU
    panel.widget.panels["Inputs"].ui.newRegionButton.click()
    panel.ui.runButton.click()
    request = engine.job.request
    assert (request.volume.name, request.checkpoint) == ("mouse", "painted-thorax")
    assert request.options.device is Device.CPU
    assert request.box == tuple((0, size) for size in slicer.util.arrayFromVolume(mouse).shape)


def test_another_scale_stops_a_run_before_it_begins(panel, engine, mouse, dialogs):
    mouse.SetSpacing(15, 15, 15)
    panel.ui.runButton.click()
    qt_app.processEvents()
    assert engine.job is None
    assert dialogs.questions == []
    assert not panel.ui.runButton.enabled
    assert "Correct the spacing" in panel.ui.runButton.toolTip


@pytest.mark.parametrize("answer", [True, False], ids=["yes", "no"])
def test_other_red_lights_ask_once(panel, engine, dialogs, monkeypatch, answer):
    red = [
        Light("intensity", "Intensities", Level.RED, "All voxels are dark."),
        Light("memory", "Memory", Level.RED, "There is too little memory."),
        Light("sides", "Right and left", Level.YELLOW, "Sides are a guess."),
    ]
    lightsAre(panel, monkeypatch, *red)
    dialogs.answers = [answer]
    panel.ui.runButton.click()
    assert len(dialogs.questions) == 1
    assert "All voxels are dark." in dialogs.questions[0]
    assert "There is too little memory." in dialogs.questions[0]
    assert "guess" not in dialogs.questions[0]
    assert (engine.job is not None) == answer


def test_missing_packages_are_asked_for_before_a_run(panel, engine, dialogs, monkeypatch):
    monkeypatch.setattr(Dependencies, "missing", lambda: ["safetensors>=0.4.3"])
    dialogs.answers = [False]
    panel.ui.runButton.click()
    assert "safetensors" in dialogs.questions[0]
    assert "were not installed" in dialogs.errors[0]
    assert engine.job is None
    assert panel.ui.runButton.enabled


# Going on


def test_progress_is_shown_in_words_percent_and_time(started):
    ui = started.ui
    assert ui.progressBar.isVisibleTo(started.root)
    assert ui.progressBar.value == 40
    assert shown(ui.progressLabel) == "Window 4 of 10"
    assert shown(ui.timeLabel) == "0:02 of about 0:05."
    assert "Loading the checkpoint" in ui.logText.toPlainText()
    assert not ui.runButton.enabled
    assert "going on" in ui.runButton.toolTip
    assert ui.cancelButton.enabled


def test_a_time_that_nobody_knows_is_not_made_up(started, engine):
    engine.job.expected_s = None
    started.widget.look()
    assert shown(started.ui.timeLabel) == "0:02 so far."


def test_a_run_that_takes_longer_than_expected_does_not_count_back(started, engine):
    engine.job.elapsed_s = 75.0
    started.widget.look()
    assert shown(started.ui.timeLabel) == "1:15 of about 1:15."


def test_the_timer_looks_by_itself_and_nothing_waits(started, engine):
    engine.job.fraction = 0.9
    assert qt_app.waitFor(lambda: started.ui.progressBar.value == 90, 5)


def test_a_run_goes_on_while_another_module_is_shown(started, engine, paintedThorax):
    started.widget.exit()
    started.widget.parent.isEntered = False
    started.widget.look()
    assert started.widget._lookTimer.active
    finish(started, engine, paintedThorax)
    assert started._run.segmentationNode is not None
    assert not started.widget._lookTimer.active


# Ending


def test_the_result_is_chosen_and_shown(started, engine, paintedThorax, sliceViews):
    finish(started, engine, paintedThorax)
    node = started.parameters.segmentation
    assert node is started._run.segmentationNode
    assert node.GetName() == "mouse segmentation"
    composite = sliceViews["Red"].GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == started.parameters.inputVolume.GetID()
    assert "mouse segmentation is ready" in started.widget.ui.statusLabel.text
    assert started.ui.progressBar.value == 100
    assert shown(started.ui.timeLabel) == "It took 0:02."
    assert "a warning of the child" in shown(started.ui.warningsLabel)
    assert started.ui.runButton.enabled
    assert not started.ui.cancelButton.enabled


def test_a_failed_run_is_told_once_with_the_log_as_details(started, engine, dialogs):
    engine.job.fail(DeviceMemoryError("The graphics card has too little memory. Choose the processor."))
    for _ in range(3):
        started.widget.look()
    assert dialogs.errors == ["The graphics card has too little memory. Choose the processor."]
    assert "Checkpoint: painted-thorax" in dialogs.details[0]
    assert "too little memory" in shown(started.ui.progressLabel)
    qt_app.processEvents()
    assert started.ui.runButton.enabled


def test_cancel_ends_the_run_without_a_message_box(started, engine, dialogs, scene):
    started.ui.cancelButton.click()
    qt_app.processEvents()
    assert engine.job.was_cancelled
    assert dialogs.errors == []
    assert "Nothing was changed" in shown(started.ui.progressLabel)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    assert started.ui.runButton.enabled
    assert "cancelled" in started.ui.logText.toPlainText()


def test_a_volume_that_is_removed_while_it_runs_is_told(started, engine, dialogs, scene, mouse):
    scene.RemoveNode(mouse)
    started.widget.look()
    assert "was removed while the run went on" in dialogs.errors[0]
    assert engine.job.was_cancelled


def test_a_scene_that_is_closed_while_it_runs_is_told(started, engine, dialogs):
    slicer.mrmlScene.Clear(False)
    started.widget.look()
    assert "scene was closed" in dialogs.errors[0]
    assert engine.job.was_cancelled


def test_a_module_that_is_closed_while_it_runs_ends_the_run(openModule, mouse):
    module = openModule()
    engine = module.logic.runs._engine = PlayedEngine()
    module.panels["Run"].ui.runButton.click()
    module.cleanup()
    assert engine.job.was_cancelled
    assert engine.is_stopped


def test_the_log_can_be_copied(started, engine, qtApp):
    assert started.ui.copyLogButton.enabled
    started.ui.copyLogButton.click()
    assert qtApp.clipboard().text() == started.ui.logText.toPlainText()
    assert "Checkpoint: painted-thorax" in qtApp.clipboard().text()


def test_the_second_animal_begins_with_the_first_ones_result_in_place(started, engine, paintedThorax, toNode):
    finish(started, engine, paintedThorax)
    first = started.parameters.segmentation
    started.parameters.inputVolume = toNode(paintedThorax.volume, "mouse 2")
    qt_app.processEvents()
    started.ui.runButton.click()
    finish(started, engine, paintedThorax)
    assert started.parameters.segmentation.GetName() == "mouse 2 segmentation"
    assert first.GetScene() is not None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0:00"), (59.6, "1:00"), (65, "1:05"), (3725, "1:02:05")], ids=str
)
def test_times_are_written_as_people_read_them(seconds, words, qtApp):
    from ThoraxSegLib.Panels.RunPanel import clock

    assert clock(seconds) == words


def test_a_real_run_finds_what_was_painted_while_slicer_stays_responsive(panel, paintedThorax, dialogs):
    import qt

    ticks = []
    timer = qt.QTimer()
    timer.interval = 20
    timer.connect("timeout()", lambda: ticks.append(1))
    timer.start()
    panel.parameters.options.device = Device.CPU
    panel.ui.runButton.click()
    assert qt_app.waitFor(lambda: panel._run.state not in (State.STARTING, State.RUNNING), 120)
    qt_app.processEvents()
    timer.stop()
    assert dialogs.errors == []
    assert len(ticks) > 10
    node = panel.parameters.segmentation
    volume = panel.parameters.inputVolume
    for label, key in ((1, "heart"), (4, "left_lung")):
        found = slicer.util.arrayFromSegmentBinaryLabelmap(node, key, volume)
        np.testing.assert_array_equal(found > 0, paintedThorax.truth.labels == label)


# Several animals


def test_a_result_does_not_take_another_animal_from_under_the_hand(
    started, engine, paintedThorax, toNode, scene
):
    finish(started, engine, paintedThorax)
    first = started.parameters.segmentation
    started.parameters.inputVolume = toNode(paintedThorax.volume, "mouse 2")
    qt_app.processEvents()
    started.ui.runButton.click()
    started.parameters.segmentation = first  # looked at again while the second one runs
    qt_app.processEvents()
    finish(started, engine, paintedThorax)
    assert started.parameters.segmentation is first
    assert scene.GetFirstNodeByName("mouse 2 segmentation") is not None
    assert "choose it under Review" in started.widget.ui.statusLabel.text


def test_what_is_shown_of_a_run_names_its_volume_when_another_one_is_chosen(
    started, engine, paintedThorax, toNode
):
    started.parameters.inputVolume = toNode(paintedThorax.volume, "mouse 2")
    qt_app.processEvents()
    assert shown(started.ui.progressLabel).startswith("mouse: ")
    finish(started, engine, paintedThorax)
    assert shown(started.ui.progressLabel) == "mouse: Contours are in the scene."


def test_removed_contours_are_not_said_to_be_in_the_scene(started, engine, paintedThorax, scene):
    finish(started, engine, paintedThorax)
    scene.RemoveNode(started.parameters.segmentation)
    qt_app.processEvents()
    assert shown(started.ui.progressLabel) == "The contours of this run were removed from the scene."


def test_a_run_that_has_ended_is_forgotten_with_its_scene(started, engine, paintedThorax, scene):
    finish(started, engine, paintedThorax)
    scene.Clear(False)
    qt_app.processEvents()
    assert not started.ui.progressBar.isVisibleTo(started.root)
    assert shown(started.ui.progressLabel) == ""


def test_contours_that_were_set_aside_are_told_in_sight(started, engine, paintedThorax):
    from ThoraxSegLib.Review import Verdict

    finish(started, engine, paintedThorax)
    started.logic.review.setVerdict(started.parameters.segmentation, Verdict.ACCEPTED)
    started.ui.runButton.click()
    finish(started, engine, paintedThorax)
    assert "(edited, earlier)" in shown(started.ui.warningsLabel)


def test_a_map_that_a_run_made_is_not_taken_for_a_scan(started, engine, paintedThorax, scene):
    finish(started, engine, paintedThorax)
    started.parameters.inputVolume = scene.GetFirstNodeByName("mouse uncertainty")
    qt_app.processEvents()
    assert not started.ui.runButton.enabled
    assert "no scan" in shown(started.ui.runReasonLabel)
