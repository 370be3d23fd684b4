"""Inputs panel: the lists, what is said of a checkpoint, the region, the options, and installing."""

from __future__ import annotations

import shutil

import pytest
import slicer

from Testing import painted, qt_app
from Testing.qt_stand_ins.panels import shown
from thoraxseg.errors import CheckpointError
from thoraxseg.job import State
from thoraxseg.options import Device, Uncertainty
from ThoraxSegLib import Dependencies
from ThoraxSegLib.Tasks import LUNG_TUMOR


class InstallJob:
    """Stands for a job that installs a checkpoint."""

    def __init__(self, *asked) -> None:
        self.asked = asked
        self.state, self.fraction, self.message = State.RUNNING, 0.25, "Copying weights"
        self.log = ["Reading the archive"]
        self.error = None
        self.name = ""

    def poll(self) -> State:
        return self.state

    def cancel(self) -> None:
        self.state = State.CANCELLED

    def result(self) -> str:
        return self.name


@pytest.fixture
def panel(module):
    return opened(module)


def opened(module):
    """Return the panel with its sections open, as somebody who installs has them: closed ones are disabled by Qt."""
    panel = module.panels["Inputs"]
    panel.ui.installSection.collapsed = panel.ui.advancedSection.collapsed = False
    return panel


@pytest.fixture
def jobs(panel, monkeypatch):
    """The installations that were begun; none of them does anything."""
    jobs = []
    monkeypatch.setattr(
        panel.logic.catalog, "install", lambda *asked: jobs.append(InstallJob(*asked)) or jobs[-1]
    )
    return jobs


def titles(panel) -> list[str]:
    selector = panel.ui.checkpointSelector
    return [selector.itemText(row) for row in range(selector.count)]


def isOffered(selector, row: int) -> bool:
    import qt

    return bool(selector.model().index(row, 0).flags() & qt.Qt.ItemIsEnabled)


def rowOf(panel, name: str) -> int:
    selector = panel.ui.checkpointSelector
    return [selector.itemData(row) for row in range(selector.count)].index(name)


# Volume


def test_only_images_can_be_chosen_and_label_maps_cannot(panel, scene, mouse):
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colors")
    selector = panel.ui.volumeSelector
    assert [selector.nodeFromIndex(row).GetName() for row in range(selector.nodeCount())] == ["mouse"]


def test_choosing_another_volume_is_a_parameter(panel, mouse, toNode, paintedThorax):
    other = toNode(paintedThorax.volume, "other")
    panel.ui.volumeSelector.setCurrentNode(other)
    assert panel.parameters.inputVolume is other


# Checkpoints


def test_checkpoints_of_the_task_are_listed_ready_ones_first(panel):
    names = [panel.ui.checkpointSelector.itemData(row) for row in range(panel.ui.checkpointSelector.count)]
    assert names[0] == "painted-thorax"
    assert "painted-lung-tumor" not in names
    assert len(names) > 1  # published ones, that are not on this machine


def test_one_that_cannot_be_used_is_disabled_and_says_why(panel):
    selector = panel.ui.checkpointSelector
    row = rowOf(panel, "malimban-mouse-ct-3d-fullres")
    assert isOffered(selector, 0)
    assert not isOffered(selector, row)
    assert "cannot be used" in selector.itemText(row)
    import qt

    assert "Download" in selector.itemData(row, qt.Qt.ToolTipRole)


def test_what_a_checkpoint_is_for_stands_beneath_it(panel):
    about = shown(panel.ui.checkpointInfoLabel)
    for word in ("Heart", "Left lung", "mouse", "micro-CT", "Apache-2.0"):
        assert word in about


def test_the_checkpoint_used_last_is_chosen_at_first(openModule, mouse, home):
    second = painted.painted_checkpoint(home / "second", "mouse-thorax", {"name": "zebra", "title": "Zebra"})
    shutil.move(second, home / "checkpoints" / "zebra")
    weights = home / "checkpoints" / "zebra"
    assert (weights / "card.json").is_file()
    assert openModule().parameters.checkpoint == "painted-thorax"
    slicer.mrmlScene.Clear(False)
    other = openModule()
    other.logic.catalog.remember("zebra")
    other.parameters.checkpoint = ""
    other.panels["Inputs"].readCatalog()
    assert other.parameters.checkpoint == "zebra"


def test_choosing_a_checkpoint_is_a_parameter_and_the_other_way_round(panel, home):
    second = painted.painted_checkpoint(home / "second", "mouse-thorax", {"name": "zebra", "title": "Zebra"})
    shutil.move(second, home / "checkpoints" / "zebra")
    panel.enter()
    panel.ui.checkpointSelector.setCurrentIndex(rowOf(panel, "zebra"))
    assert panel.parameters.checkpoint == "zebra"
    panel.parameters.checkpoint = "painted-thorax"
    qt_app.processEvents()
    assert panel.ui.checkpointSelector.currentText == "Painted mouse-thorax phantom"


def test_a_scene_made_with_an_unknown_checkpoint_says_so(panel):
    panel.parameters.checkpoint = "from-elsewhere"
    qt_app.processEvents()
    assert panel.ui.checkpointSelector.currentIndex == -1
    assert "from-elsewhere, which is not on this machine" in shown(panel.ui.checkpointInfoLabel)
    assert not panel.widget.panels["Run"].ui.runButton.enabled


def test_without_any_checkpoint_the_user_is_sent_to_install_one(openModule, mouse, home):
    shutil.rmtree(home / "checkpoints")
    panel = openModule().panels["Inputs"]
    assert "Install one below" in shown(panel.ui.checkpointInfoLabel)
    assert panel.parameters.checkpoint == ""


# Region of interest


def test_a_new_box_lies_around_the_volume_and_is_chosen(panel, mouse):
    panel.ui.newRegionButton.click()
    region = panel.parameters.regionOfInterest
    assert region.GetName() == "mouse region"
    assert panel.ui.regionSelector.currentNode() is region
    shape = slicer.util.arrayFromVolume(mouse).shape
    assert panel.logic.preflight.boxOf(region, mouse) == tuple((0, size) for size in shape)


def test_without_a_volume_there_is_no_box_to_make(openModule, scene):
    button = openModule().panels["Inputs"].ui.newRegionButton
    assert not button.enabled
    assert "Choose a volume" in button.toolTip


# Options


def test_options_are_shown_in_words_for_people(panel):
    selector = panel.ui.deviceSelector
    texts = [selector.itemText(row) for row in range(selector.count)]
    assert texts == ["Automatic: graphics card if there is one", "Processor (CPU)", "Graphics card (CUDA)"]
    selector.setCurrentIndex(1)
    assert panel.parameters.options.device is Device.CPU
    qt_app.processEvents()
    assert selector.currentText == "Processor (CPU)"
    assert "doubt" in panel.ui.uncertaintySelector.toolTip


def test_every_choice_of_every_option_has_a_word(panel):
    from ThoraxSegLib.Panels.InputsPanel import optionWords

    for member, words in optionWords().items():
        selector = getattr(panel.ui, f"{member}Selector")
        assert [selector.itemText(row) for row in range(selector.count)] == words


def test_samples_count_only_where_there_are_many_looks(panel):
    box = panel.ui.samplesSpinBox
    assert not box.enabled
    assert "look many times" in box.toolTip
    panel.parameters.options.uncertainty = Uncertainty.WANG
    qt_app.processEvents()
    assert box.enabled
    assert (box.minimum, box.maximum) == (2, 1000)


# Installing


def test_nothing_is_installed_without_a_yes(panel, dialogs, jobs, tmp_path):
    archive = tmp_path / "model.zip"
    archive.write_bytes(b"x" * 2_000_000)
    panel.ui.installSourceSelector.setEditText(str(archive))
    dialogs.answers = [False]
    panel.ui.installButton.click()
    assert jobs == []
    assert str(archive) in dialogs.questions[0]
    assert "2.0 MB" in dialogs.questions[0]


def test_an_address_is_fetched_only_after_it_was_shown(panel, dialogs, jobs):
    panel.ui.installSourceSelector.setEditText("https://example.org/mouse.zip")
    panel.ui.installDigestEdit.setText(" AB12 ")
    panel.ui.installSpeciesSelector.setCurrentIndex(1)
    dialogs.answers = [True]
    panel.ui.installButton.click()
    assert "https://example.org/mouse.zip" in dialogs.questions[0]
    assert "license are not known" in dialogs.questions[0]
    source, sha256, about = jobs[0].asked
    assert (source, sha256, about.species, about.modality) == (
        "https://example.org/mouse.zip",
        "AB12",
        "mouse",
        None,
    )


def test_a_published_model_is_offered_with_size_and_license(openModule, mouse, dialogs, monkeypatch):
    panel, jobs = opened(openModule(LUNG_TUMOR)), []
    monkeypatch.setattr(
        panel.logic.catalog, "install", lambda *asked: jobs.append(InstallJob(*asked)) or jobs[-1]
    )
    selector = panel.ui.installSourceSelector
    names = [selector.itemData(row) for row in range(selector.count)]
    assert "nnunet-v1-task006-lung" in names
    selector.setCurrentIndex(names.index("nnunet-v1-task006-lung"))
    dialogs.answers = [True]
    panel.ui.installButton.click()
    assert "5.0 GB" in dialogs.questions[0]
    assert "zenodo.org" in dialogs.questions[0]
    assert "CC BY-NC" in dialogs.questions[0]
    assert jobs[0].asked == ("nnunet-v1-task006-lung", None, None)


def test_a_file_that_is_not_there_is_told_and_nothing_begins(panel, dialogs, jobs):
    panel.ui.installSourceSelector.setEditText("/nowhere/model.zip")
    panel.ui.installButton.click()
    assert "there is nothing there" in dialogs.errors[0]
    assert dialogs.questions == jobs == []


def test_missing_packages_are_asked_for_before_installing(panel, dialogs, jobs, monkeypatch, tmp_path):
    monkeypatch.setattr(Dependencies, "missing", lambda: ["safetensors>=0.4.3"])
    (tmp_path / "model.zip").write_bytes(b"x")
    panel.ui.installSourceSelector.setEditText(str(tmp_path / "model.zip"))
    dialogs.answers = [True, False]
    panel.ui.installButton.click()
    assert "safetensors" in dialogs.questions[1]
    assert "were not installed" in dialogs.errors[0]
    assert jobs == []


def begun(panel, dialogs, jobs, tmp_path):
    (tmp_path / "model.zip").write_bytes(b"x")
    panel.ui.installSourceSelector.setEditText(str(tmp_path / "model.zip"))
    dialogs.answers = [True]
    panel.ui.installButton.click()
    panel.widget.look()
    return jobs[0]


def test_progress_is_told_and_a_second_installation_is_not_begun(panel, dialogs, jobs, tmp_path):
    begun(panel, dialogs, jobs, tmp_path)
    assert shown(panel.ui.installProgressLabel) == "25 % Copying weights"
    assert not panel.ui.installButton.enabled
    assert "is being installed" in panel.ui.installButton.toolTip
    assert panel.ui.cancelInstallButton.enabled


def test_an_installation_is_followed_while_another_module_is_shown(panel, dialogs, jobs, tmp_path):
    job = begun(panel, dialogs, jobs, tmp_path)
    panel.widget.exit()
    panel.widget.parent.isEntered = False
    job.state = State.CANCELLED
    assert qt_app.waitFor(lambda: "Cancelled" in panel.ui.installProgressLabel.text, 5)
    panel.widget.look()
    assert not panel.widget._lookTimer.active


def test_an_installed_checkpoint_is_chosen(panel, dialogs, jobs, tmp_path, home):
    job = begun(panel, dialogs, jobs, tmp_path)
    shutil.move(
        painted.painted_checkpoint(tmp_path / "new", "mouse-thorax", {"name": "new", "title": "New one"}),
        home / "checkpoints" / "new",
    )
    job.name, job.state = "new", State.DONE
    panel.widget.look()
    assert panel.parameters.checkpoint == "new"
    assert panel.ui.checkpointSelector.currentText == "New one"
    assert "new is installed" in shown(panel.ui.installProgressLabel)
    assert not panel.ui.cancelInstallButton.enabled


def test_a_failed_installation_is_told_with_its_log(panel, dialogs, jobs, tmp_path):
    job = begun(panel, dialogs, jobs, tmp_path)
    job.error, job.state = (
        CheckpointError("model.zip: expected a model, got a recipe for soup."),
        State.FAILED,
    )
    panel.widget.look()
    assert "recipe for soup" in dialogs.errors[0]
    assert "Reading the archive" in dialogs.details[0]
    assert panel.ui.installButton.enabled


def test_an_installation_can_be_cancelled(panel, dialogs, jobs, tmp_path):
    job = begun(panel, dialogs, jobs, tmp_path)
    panel.ui.cancelInstallButton.click()
    assert job.state is State.CANCELLED
    assert "Nothing was installed" in shown(panel.ui.installProgressLabel)
    assert dialogs.errors == []


def test_files_and_folders_are_chosen_with_dialogs(panel, dialogs, jobs):
    dialogs.paths = ["/data/model.zip", "/data/model", ""]
    panel.ui.browseFileButton.click()
    assert panel.ui.installSourceSelector.currentText == "/data/model.zip"
    panel.ui.browseFolderButton.click()
    assert panel.ui.installSourceSelector.currentText == "/data/model"
    panel.ui.browseFileButton.click()  # cancelled
    assert panel.ui.installSourceSelector.currentText == "/data/model"


@pytest.mark.slow
def test_a_checkpoint_is_really_installed_by_the_child_process(panel, dialogs, home, tmp_path):
    folder = painted.painted_checkpoint(tmp_path, "mouse-thorax", {"name": "fresh", "title": "Fresh"})
    folder = folder.rename(tmp_path / "fresh")
    panel.ui.installSourceSelector.setEditText(str(folder))
    dialogs.answers = [True]
    panel.ui.installButton.click()
    assert qt_app.waitFor(lambda: "installed" in shown(panel.ui.installProgressLabel) or dialogs.errors, 120)
    assert dialogs.errors == []
    assert panel.parameters.checkpoint == "fresh"
    assert (home / "checkpoints" / "fresh" / "card.json").is_file()
