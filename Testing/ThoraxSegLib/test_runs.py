"""Runs: why one cannot begin, how its result gets into the scene, and everything that may happen meanwhile."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import slicer
import vtk

from Testing.made_results import put_under
from Testing.painted import painted_thorax
from Testing.played_engine import PlayedEngine, outcome_of
from thoraxseg.errors import CheckpointError, InputError, OptionError, OutputError, ThoraxSegError
from thoraxseg.job import State
from thoraxseg.mrml import segmentation_to_node, volume_from_node
from thoraxseg.mrml.volumes import array_of
from thoraxseg.options import SegmentOptions
from thoraxseg.postprocess.cleaning import Cleaning
from thoraxseg.study import Clock
from ThoraxSegLib import Nodes, Runs
from ThoraxSegLib.ContouringTime import ContouringTime

PAINTED = "painted-thorax"
ENOUGH_SECONDS = 120


@pytest.fixture
def engine(thoraxLogic):
    """A played engine in the logic of MouseThoraxSeg, in a scene with a subject hierarchy as the application's."""
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(thoraxLogic.scene)
    thoraxLogic.runs._engine = PlayedEngine()
    return thoraxLogic.runs._engine


@pytest.fixture
def finish(thoraxLogic, engine, mouse, paintedThorax):
    """Run the mouse and have the engine find what the phantom is, with changes of the answer; return the run."""

    def run(volumeNode=mouse, labels=paintedThorax.truth.labels, roiNode=None, **changes):
        made = thoraxLogic.runs.start(volumeNode, PAINTED, roiNode=roiNode)
        engine.job.answer(outcome_of(engine.job.request.volume, labels, **changes))
        made.poll()
        return made

    return run


@pytest.fixture
def box(scene, mouse):
    """A region of interest in the middle of the mouse."""
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    bounds = [0.0] * 6
    mouse.GetRASBounds(bounds)
    node.SetCenter([(a + b) / 2 for a, b in zip(bounds[::2], bounds[1::2], strict=True)])
    node.SetSize(*[(b - a) / 2 for a, b in zip(bounds[::2], bounds[1::2], strict=True)])
    return node


@pytest.fixture
def listen(scene):
    """Have a function called on an event of the scene, during the test."""
    tags = []
    yield lambda event, function: tags.append(scene.AddObserver(getattr(scene, event), function))
    for tag in tags:
        scene.RemoveObserver(tag)


def ids(scene) -> list[str]:
    return [scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())]


def segmentations(scene) -> list:
    return list(slicer.util.getNodesByClass("vtkMRMLSegmentationNode", scene=scene))


def labels_of(node, volumeNode, keys=("heart", "spinal_cord", "right_lung", "left_lung")) -> np.ndarray:
    """Return the contours of a node as Slicer itself brings them onto the grid of the volume."""
    shape = volumeNode.GetImageData().GetDimensions()[::-1]
    grid, matrix = slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    grid.SetDimensions(shape[::-1])
    grid.SetGeometryFromImageToWorldMatrix(matrix)
    labels = np.zeros(shape, int)
    onto = slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage
    for n, key in enumerate(keys, 1):
        found, placed = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData()
        node.GetBinaryLabelmapRepresentation(key, found)
        if found.GetNumberOfPoints() and onto(found, grid, placed, False):
            labels[array_of(placed) > 0] = n
    return labels


def paint(node, key="heart") -> None:
    """Correct a segment by hand: one voxel more."""
    segment = node.GetSegmentation().GetSegment(key)
    layer = segment.GetRepresentation("Binary labelmap")
    array = array_of(layer)
    array[tuple(np.argwhere(array == 0)[0])] = segment.GetLabelValue()
    layer.GetPointData().GetScalars().Modified()


def vector_volume(scene):
    node = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colors")
    slicer.util.updateVolumeFromArray(node, np.zeros((4, 5, 6, 3), np.uint8))
    return node


def volume_of_shape(scene, *shape):
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "image")
    slicer.util.updateVolumeFromArray(node, np.zeros(shape, np.int16))
    return node


def label_map(scene):
    node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    slicer.util.updateVolumeFromArray(node, np.zeros((4, 5, 6), np.int16))
    return node


def bent_volume(scene):
    node = volume_of_shape(scene, 4, 5, 6)
    bent = scene.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
    bent.SetAndObserveTransformToParent(vtk.vtkThinPlateSplineTransform())
    node.SetAndObserveTransformNodeID(bent.GetID())
    return node


def removed_volume(scene):
    node = volume_of_shape(scene, 4, 5, 6)
    scene.RemoveNode(node)
    return node


def map_of_doubt(scene):
    node = volume_of_shape(scene, 4, 5, 6)
    node.SetAttribute(Nodes.KIND_ATTRIBUTE, Nodes.UNCERTAINTY)
    return node


# Why a run cannot begin

WRONG_VOLUMES = {
    "none chosen": (lambda scene: None, "No volume is chosen. Choose"),
    "not a volume": (lambda scene: scene.AddNewNodeByClass("vtkMRMLTextNode", "words"), "scalar volume"),
    "without voxels": (
        lambda scene: scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "v"),
        "expected a volume with voxels",
    ),
    "color": (vector_volume, "expected one value per voxel, got 3"),
    "a single slice": (lambda scene: volume_of_shape(scene, 1, 5, 6), r"single slice \(6 x 5 x 1 voxels\)"),
    "a label map": (label_map, "labels is a label map"),
    "a map of doubt": (map_of_doubt, "made by ThoraxSeg, it is no scan"),
    "under a bent transform": (bent_volume, "linear parent transform"),
    "not in the scene": (removed_volume, "not in the scene any more"),
}


@pytest.mark.parametrize(("make", "sentence"), WRONG_VOLUMES.values(), ids=WRONG_VOLUMES)
def test_a_volume_that_cannot_be_run_is_refused_with_a_sentence(thoraxLogic, engine, scene, make, sentence):
    node = make(scene)
    with pytest.raises(ThoraxSegError, match=sentence) as caught:
        thoraxLogic.runs.start(node, PAINTED)
    assert thoraxLogic.runs.canRun(node, PAINTED) == str(caught.value)
    assert str(caught.value).endswith(".")
    assert engine.job is None


WRONG_CHECKPOINTS = {
    "none chosen": ("", OptionError, "No checkpoint is chosen"),
    "unknown": ("no-such-checkpoint", CheckpointError, "no-such-checkpoint"),
    "of the other task": ("painted-lung-tumor", CheckpointError, "painted-lung-tumor"),
}


@pytest.mark.parametrize(("name", "kind", "sentence"), WRONG_CHECKPOINTS.values(), ids=WRONG_CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_used_is_refused_with_a_sentence(
    thoraxLogic, engine, mouse, name, kind, sentence
):
    with pytest.raises(kind, match=sentence) as caught:
        thoraxLogic.runs.start(mouse, name)
    assert thoraxLogic.runs.canRun(mouse, name) == str(caught.value)
    assert engine.job is None


def test_a_checkpoint_whose_weights_are_gone_is_refused_with_a_sentence(thoraxLogic, mouse, home):
    for path in (home / "checkpoints" / PAINTED).glob("*.safetensors"):
        path.unlink()
    assert PAINTED in thoraxLogic.runs.canRun(mouse, PAINTED)


def test_a_region_that_misses_the_volume_is_refused_with_a_sentence(thoraxLogic, engine, mouse, box):
    assert thoraxLogic.runs.canRun(mouse, PAINTED, box) == ""
    box.SetCenter(1000, 1000, 1000)
    assert thoraxLogic.runs.canRun(mouse, PAINTED, box) != ""
    with pytest.raises(OptionError):
        thoraxLogic.runs.start(mouse, PAINTED, roiNode=box)
    assert engine.job is None


def test_a_second_run_waits_for_the_first(thoraxLogic, engine, mouse):
    assert thoraxLogic.runs.canRun(mouse, PAINTED) == ""
    run = thoraxLogic.runs.start(mouse, PAINTED)
    assert "A run is going on" in thoraxLogic.runs.canRun(mouse, PAINTED)
    with pytest.raises(OptionError, match="A run is going on"):
        thoraxLogic.runs.start(mouse, PAINTED)
    assert thoraxLogic.runs.current is run
    run.cancel()
    assert thoraxLogic.runs.canRun(mouse, PAINTED) == ""


def test_a_run_waits_until_a_checkpoint_is_installed(thoraxLogic, engine, mouse):
    job = engine.install("https://example.org/model.zip")
    assert "being installed" in thoraxLogic.runs.canRun(mouse, PAINTED)
    thoraxLogic.runs.warm(PAINTED)
    assert engine.job is job  # a model is not loaded meanwhile
    job.cancel()
    assert thoraxLogic.runs.canRun(mouse, PAINTED) == ""


def test_a_run_may_begin_while_its_model_is_loaded(thoraxLogic, engine, mouse):
    thoraxLogic.runs.warm(PAINTED)
    assert engine.job.poll() is State.RUNNING
    assert thoraxLogic.runs.canRun(mouse, PAINTED) == ""
    run = thoraxLogic.runs.start(mouse, PAINTED)
    thoraxLogic.runs.warm(PAINTED)  # without effect: the run goes on
    assert engine.job is run._job
    run.cancel()
    with pytest.raises(CheckpointError):
        thoraxLogic.runs.warm("painted-lung-tumor")


def test_the_child_gets_voxels_place_options_and_region(thoraxLogic, engine, mouse, box, paintedThorax):
    options = SegmentOptions(device="cpu", uncertainty="none")
    thoraxLogic.runs.start(mouse, PAINTED, options, box)
    request = engine.job.request
    assert np.array_equal(request.volume.array, paintedThorax.volume.array)
    assert np.allclose(request.volume.ijk_to_ras, paintedThorax.volume.ijk_to_ras)
    assert (request.checkpoint, request.options) == (PAINTED, options)
    quarter = [(n / 4, 3 * n / 4) for n in request.volume.shape]
    assert np.allclose(request.box, quarter, atol=1.5)
    assert thoraxLogic.catalog.lastUsed() == PAINTED


# The result


def test_a_result_is_whole_and_where_it_belongs(finish, mouse, scene, paintedThorax):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "day 3")
    hierarchy.CreateItem(study, mouse)
    run = finish()
    assert (run.state, run.error, run.fraction) == (State.DONE, "", 1.0)
    node = run.segmentationNode
    assert node.GetName() == "mouse segmentation"
    assert run.uncertaintyNode.GetName() == "mouse uncertainty"
    assert np.array_equal(labels_of(node, mouse), paintedThorax.truth.labels)
    assert Nodes.volumeOf(node) is mouse
    assert Nodes.uncertaintyOf(node) is run.uncertaintyNode
    role = node.GetReferenceImageGeometryReferenceRole()
    assert node.GetNodeReference(role) is mouse
    record = node.GetNodeReference(Nodes.RECORD_ROLE)
    for one in (node, run.uncertaintyNode, record):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(one)) == study
        assert one.GetAttribute(Nodes.TASK_ATTRIBUTE) == "mouse-thorax"
        assert Nodes.volumeOf(one) is mouse
        assert "research" in one.GetDescription().lower()
    assert node.GetAttribute(Nodes.CHECKPOINT_ATTRIBUTE) == PAINTED
    assert node.GetAttribute(Nodes.VOLUME_DIGEST_ATTRIBUTE) == Nodes.digestOf(mouse)
    assert node.GetAttribute(Nodes.DIGEST_ATTRIBUTE) == Nodes.digestOfSegmentation(node)
    assert Nodes.recordOf(node)["warnings"] == ["a warning of the child"] == run.warnings
    assert Nodes.resultsOf(scene, mouse, "mouse-thorax") == [node]
    segment = node.GetSegmentation().GetSegment("heart")
    value = vtk.reference("")
    assert segment.GetTag("DICOM.SegmentAlgorithmName", value) and str(value) == f"ThoraxSeg {PAINTED}"


def test_a_result_lies_on_its_volume_however_that_is_placed(finish, scene, toNode):
    phantom = painted_thorax(spacing_mm=(1.0, 0.5, 0.75), axis_codes="ASR")
    volumeNode = toNode(phantom.volume, "mouse ø")
    turn, angle = np.eye(4), np.radians(25)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = 5, -7, 11
    volumeNode.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(turn @ phantom.volume.ijk_to_ras))
    parent = put_under(turn, volumeNode)

    run = finish(volumeNode, phantom.truth.labels)
    assert run.error == ""
    node = run.segmentationNode
    assert node.GetName() == "mouse ø segmentation"
    assert node.GetParentTransformNode() is parent
    assert run.uncertaintyNode.GetParentTransformNode() is parent
    assert np.array_equal(labels_of(node, volumeNode), phantom.truth.labels)
    doubt = volume_from_node(run.uncertaintyNode)
    assert np.allclose(doubt.ijk_to_ras, volume_from_node(volumeNode).ijk_to_ras)


@pytest.mark.parametrize("absent", [(1,), (2, 3), (4,), (1, 2, 3, 4)])
def test_an_absent_organ_is_an_empty_segment_and_shifts_no_other(finish, mouse, paintedThorax, absent):
    labels = np.where(np.isin(paintedThorax.truth.labels, absent), 0, paintedThorax.truth.labels)
    node = finish(labels=labels).segmentationNode
    assert node.GetSegmentation().GetNumberOfSegments() == 4
    assert np.array_equal(labels_of(node, mouse), labels)


def test_without_doubt_there_is_no_map_of_it(finish, scene):
    run = finish(with_doubt=False)
    assert run.state is State.DONE
    assert run.uncertaintyNode is None
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", scene=scene)) == 1


def test_the_volume_of_the_user_is_untouched(finish, mouse):
    image = mouse.GetImageData()

    def facts():
        roles: list[str] = []
        mouse.GetNodeReferenceRoles(roles)
        display = mouse.GetDisplayNode()
        return (
            image.GetMTime(),
            array_of(image).tobytes(),
            Nodes.digestOf(mouse),
            mouse.GetName(),
            mouse.GetSpacing(),
            mouse.GetOrigin(),
            roles,
            mouse.GetAttributeNames(),
            display.GetWindow(),
            display.GetLevel(),
            display.GetColorNodeID(),
            mouse.GetDescription(),
        )

    before = facts()
    finish()
    finish()
    assert mouse.GetImageData() is image
    assert facts() == before


def test_a_result_gets_into_the_scene_once_and_in_one_batch(finish, scene, listen):
    seen = []
    for event in ("NodeAddedEvent", "EndBatchProcessEvent"):
        listen(event, lambda *_, event=event: seen.append((event, scene.IsBatchProcessing())))
    run = finish()
    added = [inside for event, inside in seen if event == "NodeAddedEvent"]
    assert len(added) >= 3 and all(added)
    assert [event for event, _ in seen].count("EndBatchProcessEvent") == 1
    before = ids(scene)
    assert [run.poll() for _ in range(3)] == [State.DONE] * 3
    assert run.wait(1) is State.DONE
    assert ids(scene) == before


# Running again


def test_a_result_is_replaced_only_after_the_new_one_is_there(finish, scene, mouse, listen):
    first = finish()
    count, names = scene.GetNumberOfNodes(), sorted(node.GetName() for node in _ours(scene))
    seen = []
    listen("NodeRemovedEvent", lambda *_: seen.append(len(Nodes.resultsOf(scene, mouse, "mouse-thorax"))))
    old = first.segmentationNode
    second = finish()
    assert seen and seen[0] == 1  # the new one, when the first node of the old one had just gone
    assert old.GetScene() is None and first.segmentationNode is None
    assert Nodes.resultsOf(scene, mouse, "mouse-thorax") == [second.segmentationNode]
    assert scene.GetNumberOfNodes() == count
    assert sorted(node.GetName() for node in _ours(scene)) == names
    assert second.segmentationNode.GetName() == "mouse segmentation"


def _ours(scene) -> list:
    nodes = [scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())]
    return [node for node in nodes if node.GetAttribute(Nodes.TASK_ATTRIBUTE)]


def set_verdict(node) -> None:
    node.SetAttribute(Nodes.VERDICT_ATTRIBUTE, "ACCEPTED")


def rename_segment(node) -> None:
    node.GetSegmentation().GetSegment("heart").SetName("Heart and vessels")


@pytest.mark.parametrize("work", [paint, set_verdict, rename_segment])
def test_a_result_that_a_person_worked_on_is_never_removed(finish, scene, mouse, work):
    first = finish()
    work(first.segmentationNode)
    labels = labels_of(first.segmentationNode, mouse)
    second = finish()
    kept = first.segmentationNode
    assert kept.GetName() == "mouse segmentation (edited, earlier)"
    assert not kept.GetDisplayVisibility() and second.segmentationNode.GetDisplayVisibility()
    assert np.array_equal(labels_of(kept, mouse), labels)
    assert Nodes.uncertaintyOf(kept) is first.uncertaintyNode is not None
    assert Nodes.recordOf(kept)
    assert second.segmentationNode.GetName() == "mouse segmentation"
    assert any("mouse segmentation (edited, earlier)" in note for note in second.notes)
    assert Nodes.recordOf(second.segmentationNode)["notes"] == second.notes

    third = finish()  # replaces the second one, not the edited one
    assert set(segmentations(scene)) == {kept, third.segmentationNode}
    work(third.segmentationNode)
    fourth = finish()
    assert len({node.GetName() for node in segmentations(scene)}) == 3
    assert fourth.segmentationNode.GetName() == "mouse segmentation"


def test_an_edit_that_was_taken_back_does_not_count(finish):
    first = finish()
    set_verdict(first.segmentationNode)
    first.segmentationNode.SetAttribute(Nodes.VERDICT_ATTRIBUTE, "NONE")
    finish()
    assert first.segmentationNode is None


def test_results_of_others_stay(finish, scene, mouse, toNode, paintedThorax):
    own = segmentation_to_node(paintedThorax.truth, mouse, scene, "mouse segmentation")
    second = toNode(paintedThorax.volume, "second mouse")
    of_second = finish(second)
    tumors = finish().segmentationNode
    tumors.SetAttribute(Nodes.TASK_ATTRIBUTE, "lung-tumor")
    run = finish()
    assert set(segmentations(scene)) == {own, of_second.segmentationNode, tumors, run.segmentationNode}
    assert own.GetName() == "mouse segmentation"
    assert len({node.GetName() for node in segmentations(scene)}) == 4


def test_a_copy_keeps_the_doubt_that_it_shares_with_a_replaced_result(finish, scene, mouse, paintedThorax):
    first = finish()
    doubt = first.uncertaintyNode
    copy = segmentation_to_node(paintedThorax.truth, mouse, scene, "mouse segmentation (cleaned)")
    copy.SetAttribute(Nodes.KIND_ATTRIBUTE, "cleaned")
    copy.SetNodeReferenceID(Nodes.UNCERTAINTY_ROLE, doubt.GetID())
    copy.SetNodeReferenceID(Nodes.SOURCE_ROLE, first.segmentationNode.GetID())
    finish()
    assert copy.GetScene() is scene
    assert Nodes.uncertaintyOf(copy) is doubt


def test_a_preview_of_cleaning_goes_with_the_result_it_is_of(finish, thoraxLogic, scene):
    first = finish()
    thoraxLogic.cleaning.preview(first.segmentationNode, Cleaning(largest_only=True))
    second = finish()
    assert segmentations(scene) == [second.segmentationNode]


def test_tables_of_a_replaced_result_go_with_it_and_those_of_the_user_stay(finish, scene):
    first = finish()
    ours = scene.AddNewNodeByClass("vtkMRMLTableNode", "volumes")
    ours.SetAttribute(Nodes.KIND_ATTRIBUTE, "structures-table")
    first.segmentationNode.SetNodeReferenceID(Nodes.STRUCTURES_TABLE_ROLE, ours.GetID())
    theirs = scene.AddNewNodeByClass("vtkMRMLTableNode", "weights")
    first.segmentationNode.SetNodeReferenceID("ThoraxSeg.Own", theirs.GetID())
    finish()
    assert ours.GetScene() is None
    assert theirs.GetScene() is scene


def test_what_was_found_is_let_go_once_it_is_in_the_scene(finish, engine, thoraxLogic, mouse, paintedThorax):
    assert finish().state is State.DONE
    assert engine.job.result() is None
    failed = finish(labels=paintedThorax.truth.labels[1:])
    assert failed.state is State.FAILED and engine.job.result() is None
    cancelled = thoraxLogic.runs.start(mouse, PAINTED)
    engine.job.answer(outcome_of(engine.job.request.volume, paintedThorax.truth.labels))
    cancelled.cancel()
    assert engine.job.result() is None


def test_the_names_of_results_are_in_the_language_of_the_user(finish, monkeypatch):
    german = {
        "{volume} segmentation": "Segmentierung von {volume}",
        "{volume} record": "Protokoll von {volume}",
    }
    monkeypatch.setattr(Runs, "_", lambda text: german.get(text, text))
    node = finish().segmentationNode
    assert node.GetName() == "Segmentierung von mouse"
    assert node.GetNodeReference(Nodes.RECORD_ROLE).GetName() == "Protokoll von mouse"


# What goes wrong


@pytest.mark.parametrize("step", ["uncertainty_to_node", "Nodes.placeBeside", "Nodes.digestOfSegmentation"])
@pytest.mark.parametrize("kind", [InputError, RuntimeError])
def test_a_result_that_cannot_be_put_into_the_scene_leaves_it_as_it_was(
    finish, scene, mouse, monkeypatch, step, kind
):
    first = finish()
    before, calls = ids(scene), []
    holder, name = (Nodes, step.partition(".")[2]) if "." in step else (Runs, step)
    real = getattr(holder, name)

    def fails(*args, **kwargs):
        calls.append(name)
        # The digest is asked for once before, of the earlier result; the second node is filed, then the third.
        if len(calls) <= {"placeBeside": 2, "digestOfSegmentation": 1}.get(name, 0):
            return real(*args, **kwargs)
        raise kind("the disk of the scene is full")

    with monkeypatch.context() as patch:
        patch.setattr(holder, name, fails)
        run = finish()
    assert run.state is State.FAILED
    assert "the disk of the scene is full" in run.error
    assert ids(scene) == before
    assert first.segmentationNode.GetName() == "mouse segmentation"
    assert run.segmentationNode is None
    assert not scene.IsBatchProcessing()
    assert finish().state is State.DONE


def test_an_answer_on_another_grid_is_refused(finish, scene, mouse, paintedThorax):
    before = ids(scene)
    run = finish(labels=paintedThorax.truth.labels[1:])
    assert run.state is State.FAILED
    assert "grid of the volume" in run.error
    assert ids(scene) == before


def test_a_failure_of_the_child_is_told_in_its_words(thoraxLogic, engine, mouse, scene):
    before = ids(scene)
    run = thoraxLogic.runs.start(mouse, PAINTED)
    engine.job.fail(CheckpointError("the weights are not those of the card. Install it again."))
    assert run.poll() is State.FAILED
    assert run.error == "the weights are not those of the card. Install it again." == run.message
    assert ids(scene) == before


def test_a_volume_that_is_removed_ends_its_run(thoraxLogic, engine, mouse, scene, paintedThorax):
    run = thoraxLogic.runs.start(mouse, PAINTED)
    scene.RemoveNode(mouse)
    before = ids(scene)
    assert run.poll() is State.FAILED
    assert "mouse was removed while the run went on" in run.error
    assert engine.job.was_cancelled
    assert ids(scene) == before


def test_a_volume_that_is_removed_after_the_child_has_answered_gets_no_result(
    thoraxLogic, engine, mouse, scene, paintedThorax
):
    run = thoraxLogic.runs.start(mouse, PAINTED)
    engine.job.answer(outcome_of(engine.job.request.volume, paintedThorax.truth.labels))
    scene.RemoveNode(mouse)
    assert run.poll() is State.FAILED
    assert segmentations(scene) == []


def edit_voxels(node) -> None:
    slicer.util.arrayFromVolume(node)[3, 4, 5] += 7
    slicer.util.arrayFromVolumeModified(node)


def replace_voxels(node) -> None:
    slicer.util.updateVolumeFromArray(node, slicer.util.arrayFromVolume(node) + 1)


def crop(node) -> None:
    slicer.util.updateVolumeFromArray(node, slicer.util.arrayFromVolume(node)[1:])


def set_spacing(node) -> None:
    node.SetSpacing(1, 1, 1)


def turn_parent(node) -> None:
    put_under(np.diag([-1.0, 1, 1, 1]), node)


def empty(node) -> None:
    node.SetAndObserveImageData(None)


@pytest.mark.parametrize("change", [edit_voxels, replace_voxels, crop, set_spacing, turn_parent, empty])
def test_what_was_found_in_other_voxels_is_dropped(thoraxLogic, engine, mouse, scene, paintedThorax, change):
    run = thoraxLogic.runs.start(mouse, PAINTED)
    change(mouse)
    engine.job.answer(outcome_of(engine.job.request.volume, paintedThorax.truth.labels))
    assert run.poll() is State.FAILED
    assert "mouse" in run.error and run.error.endswith(".")
    assert segmentations(scene) == []


def test_a_volume_that_was_only_renamed_or_shown_otherwise_gets_its_result(
    thoraxLogic, engine, mouse, paintedThorax
):
    run = thoraxLogic.runs.start(mouse, PAINTED)
    mouse.SetName("mouse 8")
    mouse.GetDisplayNode().SetWindow(10)
    mouse.GetImageData().Modified()
    engine.job.answer(outcome_of(engine.job.request.volume, paintedThorax.truth.labels))
    assert run.poll() is State.DONE
    assert run.segmentationNode.GetName() == "mouse 8 segmentation"


def test_closing_the_scene_ends_the_run(thoraxLogic, engine, mouse, scene):
    run = thoraxLogic.runs.start(mouse, PAINTED)
    scene.Clear(False)
    assert run.state is State.FAILED
    assert engine.job.was_cancelled
    assert "scene was closed" in run.error
    assert run.poll() is State.FAILED
    assert segmentations(scene) == []


def test_a_run_that_has_ended_does_not_listen_to_the_scene_any_more(finish, scene, monkeypatch):
    heard = []
    monkeypatch.setattr(Runs.Run, "_onSceneClosing", lambda self, caller, event: heard.append(self))
    run = finish()
    scene.Clear(False)
    assert heard == []
    assert (run.state, run.segmentationNode, run.uncertaintyNode) == (State.DONE, None, None)


def test_a_region_that_is_removed_meanwhile_counts_as_it_was(
    thoraxLogic, engine, mouse, scene, box, paintedThorax
):
    run = thoraxLogic.runs.start(mouse, PAINTED, roiNode=box)
    scene.RemoveNode(box)
    engine.job.answer(outcome_of(engine.job.request.volume, paintedThorax.truth.labels))
    assert run.poll() is State.DONE
    assert any("region of interest was removed" in note for note in run.notes)


def test_a_cancelled_run_changes_nothing(thoraxLogic, engine, mouse, scene, paintedThorax):
    before = ids(scene)
    run = thoraxLogic.runs.start(mouse, PAINTED)
    engine.job.answer(outcome_of(engine.job.request.volume, paintedThorax.truth.labels))
    run.cancel()  # the answer is there, but nobody has polled
    assert run.poll() is State.CANCELLED
    run.cancel()
    assert (run.error, run.segmentationNode) == ("", None)
    assert "Nothing was changed" in run.message
    assert ids(scene) == before


def test_closing_the_logic_cancels_the_run_and_ends_the_child(thoraxLogic, engine, mouse):
    run = thoraxLogic.runs.start(mouse, PAINTED)
    thoraxLogic.close()
    assert run.state is State.CANCELLED
    assert engine.is_stopped
    thoraxLogic.close()
    assert thoraxLogic.runs.current is None


# What is said


def test_progress_is_told_in_words_and_numbers(thoraxLogic, engine, mouse):
    run = thoraxLogic.runs.start(mouse, PAINTED)
    assert run.poll() is State.RUNNING
    assert (run.fraction, run.message) == (0.4, "Window 4 of 10")
    assert (run.elapsedSeconds, run.expectedSeconds) == (2.0, 5.0)


def test_the_log_tells_what_ran_what_was_said_and_how_long_it_took(finish, thoraxLogic, engine, mouse):
    text = finish().logText
    for part in (
        "mouse",
        "0.5 x 0.5 x 0.5 mm",
        "axes LPS",
        f"Checkpoint: {PAINTED}",
        "device auto",
        "Device: cpu",
        "Window 4 of 10",
        "Warning: a warning of the child",
        "Note: a note of the child",
        "inference 1.50",
        "State: done",
        "esearch use",
    ):
        assert part in text
    run = thoraxLogic.runs.start(mouse, PAINTED)
    engine.job.fail(InputError("the image is all air."))
    run.poll()
    assert "Error: the image is all air." in run.logText


def test_the_times_of_a_run_are_counted_once_in_the_session_of_its_scan(finish, thoraxLogic, mouse):
    ledger = thoraxLogic.time
    ledger.open(mouse, "Ada")
    timings = {"preprocess": 0.25, "inference": 1.5, "write": 0.5}
    run = finish(record={"timings_s": timings})
    assert _automatic(ledger) == pytest.approx(2.25)
    ledger.open(run.segmentationNode, "Ada")
    assert _automatic(ledger) == pytest.approx(2.25)


def _automatic(ledger) -> float:
    return sum(row["compute_s"] or 0 for row in ledger.rows())


def test_the_times_of_a_run_of_another_scan_are_not_counted(finish, thoraxLogic, toNode, paintedThorax):
    thoraxLogic.time.open(toNode(paintedThorax.volume, "another"), "Ada")
    finish(record={"timings_s": {"inference": 1.5}})
    assert _automatic(thoraxLogic.time) == 0


@pytest.fixture
def hand(thoraxLogic):
    """The seconds of the ledger's clock; `hand.now` is set."""
    thoraxLogic.__dict__["time"] = ContouringTime(thoraxLogic, Clock(seconds=lambda: hand.now))
    hand = SimpleNamespace(now=0.0)
    return hand


@pytest.mark.parametrize("how", ["done", "failed", "cancelled", "its volume removed"])
def test_who_has_the_scan_open_waits_while_it_is_run_and_looks_afterwards(
    how, thoraxLogic, engine, mouse, paintedThorax, hand
):
    ledger = thoraxLogic.time
    ledger.open(mouse, "Ada")
    ledger.look()
    hand.now = 10
    run = thoraxLogic.runs.start(mouse, PAINTED)
    assert ledger.activity == ("wait", "")
    hand.now = 100
    ledger.look()  # as a panel says whenever it draws itself
    ledger.touch()
    hand.now = 200
    if how == "done":
        engine.job.answer(outcome_of(engine.job.request.volume, paintedThorax.truth.labels))
    elif how == "failed":
        engine.job.fail(InputError("the image is all air."))
    elif how == "cancelled":
        run.cancel()
    else:
        slicer.mrmlScene.RemoveNode(mouse)
    assert run.poll().is_final
    assert ledger.activity == ("look", "")
    hand.now = 205
    told = ledger.soFar()
    assert (told["looking_s"], told["waiting_s"], told["idle_s"]) == pytest.approx((15, 190, 0))


def test_who_edits_or_pauses_during_a_run_does_not_wait(thoraxLogic, engine, mouse, paintedThorax, hand):
    ledger = thoraxLogic.time
    ledger.open(mouse, "Ada")
    run = thoraxLogic.runs.start(mouse, PAINTED)
    hand.now = 10
    ledger.edit("Heart")
    hand.now = 30
    ledger.look()
    hand.now = 35
    ledger.pause()
    hand.now = 95
    engine.job.answer(outcome_of(engine.job.request.volume, paintedThorax.truth.labels))
    assert run.poll() is State.DONE
    assert ledger.activity == ("idle", "")
    told = ledger.soFar()
    assert (told["editing_s"], told["waiting_s"], told["looking_s"], told["idle_s"]) == pytest.approx(
        (20, 15, 0, 60)
    )


def test_who_works_on_another_scan_during_a_run_does_not_wait(
    thoraxLogic, engine, mouse, toNode, paintedThorax, hand
):
    ledger, another = thoraxLogic.time, toNode(paintedThorax.volume, "another")
    ledger.open(another, "Ada")
    ledger.look()
    run = thoraxLogic.runs.start(mouse, PAINTED)
    ledger.look()
    assert ledger.activity == ("look", "")
    hand.now = 10
    ledger.open(mouse, "Ada")
    ledger.look()
    assert ledger.activity == ("wait", "")
    hand.now = 15
    ledger.open(another, "Ada")
    ledger.look()
    hand.now = 35
    engine.job.answer(outcome_of(engine.job.request.volume, paintedThorax.truth.labels))
    assert run.poll() is State.DONE
    assert ledger.activity == ("look", "")
    times = {row["scan"]: (row["looking_s"], row["waiting_s"]) for row in ledger.rows()}
    assert times == {"another": (pytest.approx(30), 0), "mouse": (0, pytest.approx(5))}


def test_the_times_of_a_run_find_their_session_whatever_the_volume_is_called(finish, thoraxLogic, mouse):
    mouse.SetName("  " + "\N{LATIN SMALL LETTER U WITH DIAERESIS}/" * 300)
    thoraxLogic.time.open(mouse, "Ada", scan="day 7")
    mouse.SetName("renamed")
    finish(record={"timings_s": {"inference": 1.5}})
    assert _automatic(thoraxLogic.time) == 1.5


def test_a_clock_that_cannot_write_does_not_fail_a_run(finish, thoraxLogic, mouse, monkeypatch):
    ledger = thoraxLogic.time
    ledger.open(mouse, "Ada")

    def fail(*arguments, **times):
        raise OutputError("the disk is full.")

    monkeypatch.setattr(ledger._ledger, "begin", fail)
    monkeypatch.setattr(ledger._ledger, "run", fail)
    assert finish(record={"timings_s": {"inference": 1.5}}).state is State.DONE


def test_a_record_with_letters_of_all_languages_is_kept(finish, mouse):
    mouse.SetName("souris n° 7 マウス")
    node = finish(notes=("größer als 3 µm, マウス",)).segmentationNode
    assert Nodes.recordOf(node)["notes"] == ["größer als 3 µm, マウス"]
    text = node.GetNodeReference(Nodes.RECORD_ROLE)
    assert json.loads(text.GetText())
    assert text.GetEncodingAsString() == "UTF-8"


# With a real child process


def test_the_child_process_finds_the_organs_and_stays_for_the_next_animal(thoraxLogic, mouse, paintedThorax):
    run = thoraxLogic.runs.start(mouse, PAINTED, SegmentOptions(device="cpu"))
    assert run.poll() in (State.STARTING, State.RUNNING)
    assert run.wait(ENOUGH_SECONDS) is State.DONE, run.logText
    assert np.array_equal(labels_of(run.segmentationNode, mouse), paintedThorax.truth.labels)
    record = Nodes.recordOf(run.segmentationNode)
    told = {one["key"]: one["volume_mm3"] for one in record["measurements"]["structures"]}
    counts = np.bincount(paintedThorax.truth.labels.ravel())
    assert told["heart"] == pytest.approx(counts[1] * 0.125)
    assert told["left_lung"] == pytest.approx(counts[4] * 0.125)
    doubt = volume_from_node(run.uncertaintyNode).array
    assert doubt.argmax() // doubt[0].size == (paintedThorax.truth.labels > 0).sum(axis=(1, 2)).argmax()

    process = thoraxLogic.runs.engine.process_id
    again = thoraxLogic.runs.start(mouse, PAINTED, SegmentOptions(device="cpu", uncertainty="none"))
    assert again.wait(ENOUGH_SECONDS) is State.DONE
    assert thoraxLogic.runs.engine.process_id == process
    assert again.uncertaintyNode is None
    assert np.array_equal(labels_of(again.segmentationNode, mouse), paintedThorax.truth.labels)
    thoraxLogic.close()
    assert not psutil.pid_exists(process)


def test_only_the_region_of_interest_is_contoured(thoraxLogic, mouse, box, paintedThorax):
    run = thoraxLogic.runs.start(mouse, PAINTED, SegmentOptions(device="cpu"), box)
    assert run.wait(ENOUGH_SECONDS) is State.DONE, run.logText
    (k0, k1), (j0, j1), (i0, i1) = thoraxLogic.preflight.boxOf(box, mouse)
    inside = np.zeros(paintedThorax.truth.labels.shape, bool)
    inside[k0:k1, j0:j1, i0:i1] = True
    truth = paintedThorax.truth.labels
    assert np.array_equal(labels_of(run.segmentationNode, mouse), np.where(inside, truth, 0))
    doubt = volume_from_node(run.uncertaintyNode).array
    assert doubt[inside].max() > 0.1
    assert doubt[~inside].max() == 0
    assert run.warnings  # organs go on beyond the region


def test_an_image_of_another_kind_is_warned_about(thoraxLogic, toNode, paintedThorax):
    dark = replace(paintedThorax.volume, array=paintedThorax.volume.array // 50)
    run = thoraxLogic.runs.start(toNode(dark, "dark"), PAINTED, SegmentOptions(device="cpu"))
    assert run.wait(ENOUGH_SECONDS) is State.DONE, run.logText
    assert any("does not look like the training images" in warning for warning in run.warnings)


def test_a_child_process_that_is_killed_ends_the_run_with_a_sentence(
    thoraxLogic, mouse, scene, paintedThorax
):
    before = ids(scene)
    run = thoraxLogic.runs.start(mouse, PAINTED, SegmentOptions(device="cpu"))
    process = _when_started(thoraxLogic, run)
    os.kill(process, signal.SIGKILL)
    assert run.wait(ENOUGH_SECONDS) is State.FAILED
    assert run.error.endswith(".")
    assert ids(scene) == before
    again = thoraxLogic.runs.start(mouse, PAINTED, SegmentOptions(device="cpu"))
    assert again.wait(ENOUGH_SECONDS) is State.DONE, again.logText


def test_cancel_ends_the_whole_process_tree(thoraxLogic, mouse):
    run = thoraxLogic.runs.start(mouse, PAINTED, SegmentOptions(device="cpu"))
    process = psutil.Process(_when_started(thoraxLogic, run))
    tree = [process, *process.children(recursive=True)]
    run.cancel()
    assert run.state is State.CANCELLED
    _gone, alive = psutil.wait_procs(tree, timeout=10)
    assert not alive


def _when_started(logic, run) -> int:
    end = time.monotonic() + ENOUGH_SECONDS
    while logic.runs.engine.process_id is None and time.monotonic() < end:
        run.poll()
        time.sleep(0.01)
    return logic.runs.engine.process_id
