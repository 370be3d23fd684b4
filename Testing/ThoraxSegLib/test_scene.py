"""A result is saved with the scene and knows after loading all that it knew before."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk

from Testing.made_results import put_under
from Testing.painted import painted_thorax
from Testing.played_engine import PlayedEngine, outcome_of
from thoraxseg.job import State
from thoraxseg.mrml import segmentation_from_node, volume_from_node
from ThoraxSegLib import Nodes
from ThoraxSegLib.Runs import isWorkedOn

PAINTED = "painted-thorax"
ENDINGS = {
    "vtkMRMLScalarVolumeNode": ".nrrd",
    "vtkMRMLSegmentationNode": ".seg.nrrd",
    "vtkMRMLTransformNode": ".h5",
    "vtkMRMLColorTableNode": ".ctbl",
}
TURNED = np.array([[0.8, -0.6, 0, 3], [0.6, 0.8, 0, -5], [0, 0, 1, 7], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def phantom():
    """A painted thorax in voxels that are different along each axis, the left lung missing."""
    return painted_thorax(spacing_mm=(1.0, 0.5, 0.75), axis_codes="ASR")


@pytest.fixture
def labels(phantom):
    return np.where(phantom.truth.labels == 4, 0, phantom.truth.labels)


@pytest.fixture
def oblique(scene, toNode, phantom):
    """The phantom, oblique and under a parent transform, in a study of the subject hierarchy."""
    node = toNode(phantom.volume, "mouse ø 7")
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(TURNED @ phantom.volume.ijk_to_ras))
    put_under(TURNED, node)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    subject = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "animal 7")
    hierarchy.CreateItem(hierarchy.CreateStudyItem(subject, "day 3"), node)
    return node


@pytest.fixture
def contour(thoraxLogic, labels):
    """Contour a volume with a played engine and return the result."""
    thoraxLogic.runs._engine = PlayedEngine()

    def run(volumeNode):
        made = thoraxLogic.runs.start(volumeNode, PAINTED)
        job = thoraxLogic.runs.engine.job
        job.answer(outcome_of(job.request.volume, labels, notes=("größer als 3 µm",)))
        assert made.poll() is State.DONE, made.error
        return made.segmentationNode

    return run


def save(scene, folder, name: str):
    """Save the scene, and for a `.mrml` all data beside it, as the Save dialog of Slicer does; texts are in it."""
    if name.endswith(".mrml"):
        for n in range(scene.GetNumberOfNodes()):
            node = scene.GetNthNode(n)
            ending = next((ENDINGS[kind] for kind in ENDINGS if node.IsA(kind)), None)
            if ending and node.GetSaveWithScene() and node.IsA("vtkMRMLStorableNode"):
                assert slicer.util.saveNode(node, str(folder / f"{node.GetID()}{ending}"))
    assert slicer.util.saveScene(str(folder / name))
    return folder / name


def segments(node) -> dict:
    found, value = {}, vtk.reference("")
    for key in node.GetSegmentation().GetSegmentIDs():
        segment = node.GetSegmentation().GetSegment(key)
        algorithm = str(value) if segment.GetTag("DICOM.SegmentAlgorithmName", value) else ""
        color = tuple(round(channel, 4) for channel in segment.GetColor())
        found[key] = (segment.GetName(), color, segment.GetTerminology(), algorithm)
    return found


def facts(node) -> dict:
    """Return all that a result tells of itself."""
    volumeNode = Nodes.volumeOf(node)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    study = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
    found = segmentation_from_node(node, volumeNode)
    doubt = volume_from_node(Nodes.uncertaintyOf(node))
    window = Nodes.uncertaintyOf(node).GetDisplayNode()
    record = node.GetNodeReference(Nodes.RECORD_ROLE)
    return {
        "names": [one.GetName() for one in (node, volumeNode, Nodes.uncertaintyOf(node), record)],
        "attributes": {name: node.GetAttribute(name) for name in sorted(node.GetAttributeNames())},
        "description": node.GetDescription(),
        "segments": segments(node),
        "labels": {s.key: int((found.labels == n).sum()) for n, s in found.structures.items()},
        "reference": Nodes.referenceVolume(node).GetName(),
        "geometry": node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()).GetName(),
        "transforms": [one.GetParentTransformNode().GetName() for one in (node, volumeNode)],
        "study": hierarchy.GetItemName(study),
        "animal": hierarchy.GetItemName(hierarchy.GetItemParent(study)),
        "record": Nodes.recordOf(node),
        "doubt": float(doubt.array.sum()),
        "colors": (window.GetColorNode().GetName(), round(window.GetWindow(), 4), window.GetApplyThreshold()),
        "volume": Nodes.digestOf(volumeNode),
        "contours": Nodes.digestOfSegmentation(node),
        "worked on": isWorkedOn(node),
    }


@pytest.mark.parametrize("name", ["scene.mrb", "scene.mrml"])
def test_a_result_knows_after_loading_all_that_it_knew_before(
    scene, contour, oblique, labels, tmp_path, name
):
    node = contour(oblique)
    before, place = facts(node), volume_from_node(oblique)
    assert before["labels"]["left_lung"] == 0 < before["labels"]["heart"]
    assert not before["worked on"]
    path = save(scene, tmp_path, name)
    scene.Clear(False)
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []
    slicer.util.loadScene(str(path))

    (back,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert facts(back) == before
    volumeNode = Nodes.volumeOf(back)
    assert np.array_equal(segmentation_from_node(back, volumeNode).labels, labels)
    assert np.allclose(volume_from_node(volumeNode).ijk_to_ras, place.ijk_to_ras)
    assert np.array_equal(volume_from_node(volumeNode).array, place.array)
    assert back.GetAttribute(Nodes.VOLUME_DIGEST_ATTRIBUTE) == Nodes.digestOf(volumeNode)


@pytest.mark.parametrize("name", ["scene.mrb", "scene.mrml"])
def test_a_loaded_result_is_replaced_like_one_made_now(scene, contour, oblique, tmp_path, name):
    contour(oblique)
    path = save(scene, tmp_path, name)
    scene.Clear(False)
    slicer.util.loadScene(str(path))
    (back,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    names = sorted(node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"))
    new = contour(Nodes.volumeOf(back))
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == [new]
    assert sorted(node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLStorableNode")) == names


def test_an_edit_is_known_as_one_after_loading(scene, contour, oblique, tmp_path):
    node = contour(oblique)
    node.GetSegmentation().GetSegment("heart").SetName("Heart and vessels")
    path = save(scene, tmp_path, "scene.mrb")
    scene.Clear(False)
    slicer.util.loadScene(str(path))
    (back,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert isWorkedOn(back)
    new = contour(Nodes.volumeOf(back))
    assert {one.GetName() for one in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")} == {
        "mouse ø 7 segmentation",
        "mouse ø 7 segmentation (edited, earlier)",
    }
    assert new.GetName() == "mouse ø 7 segmentation"


def test_two_copies_of_a_scene_in_one_keep_their_results_apart(scene, contour, oblique, tmp_path):
    first = contour(oblique)
    path = save(scene, tmp_path, "scene.mrb")
    slicer.util.loadScene(str(path), {"clear": False})
    (second,) = [one for one in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if one is not first]
    assert Nodes.volumeOf(second) is not Nodes.volumeOf(first) is oblique
    assert Nodes.uncertaintyOf(second) is not Nodes.uncertaintyOf(first)
    assert Nodes.recordOf(second) == Nodes.recordOf(first)
    other = Nodes.volumeOf(second)
    new = contour(other)
    assert set(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == {first, new}
    assert Nodes.uncertaintyOf(first) is not None
    assert Nodes.volumeOf(new) is other


def test_an_ampersand_in_a_name_is_told_and_is_in_no_name_of_ours(
    scene, thoraxLogic, contour, oblique, tmp_path, vtkMessages
):
    oblique.SetName("M & M")
    node = contour(oblique)
    (said,) = [note for note in thoraxLogic.runs.current.notes if "load it again" in note]
    assert "M & M" in said and "M + M" in said and said in Nodes.recordOf(node)["notes"]
    assert Nodes.uncertaintyOf(node).GetName() == "M + M uncertainty"
    fixed = thoraxLogic.preflight.fix(oblique, "swap_sides")
    assert "&" not in fixed.GetName()

    vtkMessages.expect("Syntax error in scene file")
    path = save(scene, tmp_path, "lost.mrb")
    with pytest.raises(RuntimeError):
        slicer.util.loadScene(str(path), {"clear": False})
    oblique.SetName("M + M")  # what the sentence says to do
    before = facts(node)
    path = save(scene, tmp_path, "scene.mrb")
    scene.Clear(False)
    slicer.util.loadScene(str(path))
    (back,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert facts(back) == before


@pytest.mark.parametrize("name", ['a "b" <c>', "d'e % # f", "g/h: i"])
def test_other_signs_in_a_name_do_no_harm(scene, thoraxLogic, contour, oblique, tmp_path, name):
    oblique.SetName(name)
    before = facts(contour(oblique))
    assert not [note for note in thoraxLogic.runs.current.notes if "load it again" in note]
    path = save(scene, tmp_path, "scene.mrb")
    scene.Clear(False)
    slicer.util.loadScene(str(path))
    (back,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert facts(back) == before


def test_a_result_without_its_volume_still_tells_what_it_is(scene, contour, oblique):
    node = contour(oblique)
    record = Nodes.recordOf(node)
    scene.RemoveNode(oblique)
    assert Nodes.volumeOf(node) is None is Nodes.referenceVolume(node)
    assert Nodes.recordOf(node) == record
    assert node.GetAttribute(Nodes.CHECKPOINT_ATTRIBUTE) == PAINTED
