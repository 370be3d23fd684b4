"""Post-processing: previewed, applied to a copy, in words; the original stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import slicer

from Testing.made_results import edit, put_result
from Testing.painted import painted_lung_tumor
from thoraxseg.errors import CheckpointError, InputError, OptionError
from thoraxseg.mrml import segmentation_from_node, volume_from_node
from thoraxseg.postprocess import Cleaning, clean
from ThoraxSegLib import Nodes
from ThoraxSegLib.Review import Verdict
from ThoraxSegLib.Runs import isWorkedOn

SMALL = Cleaning(min_size=2)
RECORD = {"provenance": {"checkpoint": {"name": "of the record"}}}


@pytest.fixture(scope="module")
def phantom():
    """A mouse with tumors in voxels that are different along each axis."""
    return painted_lung_tumor(spacing_mm=(1.0, 0.5, 0.75), axis_codes="ASR", tumors=(5.0, 4.0))


@pytest.fixture(scope="module")
def whole(phantom):
    """Its labels in pieces of two voxels or more."""
    return clean(phantom.truth, phantom.volume, SMALL)[0].labels


@pytest.fixture
def speckled(whole):
    """The whole labels with two single voxels more, one of lungs and one of tumors."""
    labels = whole.copy()
    labels[0, 0, 0], labels[-1, -1, -1] = 1, 2
    return labels


@pytest.fixture
def resultOf(phantom, speckled):
    """Put the speckled contours with doubt and record over a volume."""

    def make(node, labels=speckled, **more):
        doubt = np.full(phantom.volume.shape, 0.1, np.float32)
        structures = phantom.truth.structures
        return put_result(node, labels, structures, "lung-tumor", doubt, RECORD, **more)

    return make


@pytest.fixture
def result(plain, resultOf):
    return resultOf(plain)


def labels_of(node, volumeNode) -> np.ndarray:
    return segmentation_from_node(node, volumeNode).labels


def segmentations() -> list:
    return list(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"))


def state(node) -> tuple:
    """Return all that must not change of a segmentation, but for whether it is shown."""
    segments = node.GetSegmentation()
    tags = [(key, segments.GetSegment(key).GetName(), segments.GetSegment(key).GetColor(),
             segments.GetSegment(key).GetTerminology()) for key in segments.GetSegmentIDs()]  # fmt: skip
    attributes = {name: node.GetAttribute(name) for name in node.GetAttributeNames()}
    return Nodes.digestOfSegmentation(node), node.GetName(), tags, attributes


def test_cleaning_is_applied_to_a_copy_and_says_what_it_changed(tumorLogic, volumeNode, resultOf, whole):
    node = resultOf(volumeNode)
    before = state(node), Nodes.digestOf(volumeNode)
    copy = tumorLogic.cleaning.apply(node, SMALL)
    assert copy is not node and copy.GetName() == "mouse ø 7 segmentation (cleaned)"
    np.testing.assert_array_equal(labels_of(copy, volumeNode), whole)
    assert (state(node), Nodes.digestOf(volumeNode)) == before
    voxel = "1 voxel (0.375 mm3) removed."
    assert tumorLogic.cleaning.changes == [
        f"Lungs: 1 piece below 2 voxels: {voxel}",
        f"Tumors: 1 piece below 2 voxels: {voxel}",
    ]
    assert tumorLogic.cleaning.changesOf(copy) == tumorLogic.cleaning.changes
    assert tumorLogic.cleaning.changesOf(node) == []


def test_the_copy_is_what_the_engine_makes_of_the_contours_as_they_are_now(tumorLogic, plain, result):
    edit(result, "lungs", lambda mask: mask.__setitem__((slice(0, 8), 0, 0), 1), plain)
    rules = Cleaning(min_size=3, fill_holes=True, closing_mm=1.5, slice_filter=True, largest_only=True)
    expected, said = clean(segmentation_from_node(result, plain), volume_from_node(plain), rules)
    copy = tumorLogic.cleaning.apply(result, rules)
    np.testing.assert_array_equal(labels_of(copy, plain), expected.labels)
    assert tumorLogic.cleaning.changes == said and len(said) > 2


def test_the_copy_belongs_to_the_same_volume_doubt_and_record_but_has_no_verdict(
    tumorLogic, scene, volumeNode, resultOf
):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "day 3")
    hierarchy.CreateItem(study, volumeNode)
    node = resultOf(volumeNode)
    tumorLogic.review.setVerdict(node, Verdict.ACCEPTED)
    copy = tumorLogic.cleaning.apply(node, SMALL)
    for role in (Nodes.VOLUME_ROLE, Nodes.UNCERTAINTY_ROLE, Nodes.RECORD_ROLE):
        assert copy.GetNodeReference(role) is node.GetNodeReference(role) is not None
    assert copy.GetNodeReference(Nodes.SOURCE_ROLE) is node
    assert copy.GetNodeReference(copy.GetReferenceImageGeometryReferenceRole()) is volumeNode
    assert copy.GetParentTransformNode() is volumeNode.GetParentTransformNode()
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(copy)) == study
    assert copy.GetAttribute(Nodes.TASK_ATTRIBUTE) == "lung-tumor"
    assert tumorLogic.cleaning.checkpointOf(copy) == "painted"
    assert tumorLogic.review.verdict(copy) is Verdict.NONE
    assert tumorLogic.review.staleness(copy) == ""
    assert [copy.GetSegmentation().GetSegment(key).GetColor() for key in ("lungs", "tumors")] == [
        node.GetSegmentation().GetSegment(key).GetColor() for key in ("lungs", "tumors")
    ]


def test_a_copy_is_a_persons_work_that_a_new_run_does_not_replace(tumorLogic, plain, result):
    copy = tumorLogic.cleaning.apply(result, SMALL)
    assert Nodes.resultsOf(slicer.mrmlScene, plain, "lung-tumor") == [result]
    assert not isWorkedOn(result)
    assert copy.GetAttribute(Nodes.KIND_ATTRIBUTE) not in (None, Nodes.RESULT)


def test_two_copies_have_different_names(tumorLogic, result):
    names = [tumorLogic.cleaning.apply(result, SMALL).GetName() for _ in range(2)]
    assert len(set(names)) == 2 and names[0] == "mouse 7 segmentation (cleaned)"


def test_the_name_of_a_copy_that_is_gone_is_free_again(tumorLogic, result):
    Nodes.removeNode(tumorLogic.cleaning.apply(result, SMALL))
    assert tumorLogic.cleaning.apply(result, SMALL).GetName() == "mouse 7 segmentation (cleaned)"


def test_a_copy_can_be_measured_and_cleaned_again(tumorLogic, result):
    copy = tumorLogic.cleaning.apply(result, SMALL)
    assert tumorLogic.measurements.measure(copy).tumors["count"] == 2
    assert tumorLogic.measurements.measure(result).tumors["count"] == 3
    again = tumorLogic.cleaning.apply(copy, Cleaning(largest_only=True, structures=("tumors",)))
    assert tumorLogic.measurements.measure(again).tumors["count"] == 1


def test_a_preview_stands_in_for_the_segmentation_and_goes_without_a_trace(tumorLogic, plain, result, whole):
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(
        slicer.mrmlScene
    )  # or it would count as made here
    before, nodes = state(result), slicer.mrmlScene.GetNumberOfNodes()
    node = tumorLogic.cleaning.preview(result, SMALL)
    assert node is not result and node.GetName() == "mouse 7 segmentation (preview)"
    np.testing.assert_array_equal(labels_of(node, plain), whole)
    assert node.GetDisplayNode().GetVisibility() and not result.GetDisplayNode().GetVisibility()
    assert node.GetHideFromEditors(), "nobody chooses a preview in a list of segmentations"
    assert tumorLogic.cleaning.previewNode() is node and len(tumorLogic.cleaning.changes) == 2
    tumorLogic.cleaning.discardPreview()
    assert tumorLogic.cleaning.previewNode() is None and result.GetDisplayNode().GetVisibility()
    assert state(result) == before and slicer.mrmlScene.GetNumberOfNodes() == nodes
    tumorLogic.cleaning.discardPreview()


def test_each_preview_replaces_the_one_before_also_of_another_segmentation(
    tumorLogic, plain, result, resultOf
):
    other = resultOf(plain)
    tumorLogic.cleaning.preview(other, SMALL)
    tumorLogic.cleaning.preview(result, SMALL)
    node = tumorLogic.cleaning.preview(result, Cleaning(min_size=1000))
    assert [one for one in segmentations() if "preview" in one.GetName()] == [node]
    assert other.GetDisplayNode().GetVisibility() and not result.GetDisplayNode().GetVisibility()
    assert not (labels_of(node, plain) == 2).any()


def test_applying_ends_the_preview(tumorLogic, result):
    tumorLogic.cleaning.preview(result, SMALL)
    copy = tumorLogic.cleaning.apply(result, SMALL)
    assert segmentations() == [result, copy] and result.GetDisplayNode().GetVisibility()


def test_a_segmentation_that_was_hidden_stays_hidden(tumorLogic, result):
    result.GetDisplayNode().SetVisibility(False)
    tumorLogic.cleaning.preview(result, SMALL)
    tumorLogic.cleaning.discardPreview()
    assert not result.GetDisplayNode().GetVisibility()


def test_a_preview_that_was_saved_with_the_scene_can_still_be_discarded(tumorLogic, result, tmp_path):
    tumorLogic.cleaning.preview(result, SMALL)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    back = slicer.util.getNode("mouse 7 segmentation")
    assert tumorLogic.cleaning.previewNode() is not None and not back.GetDisplayNode().GetVisibility()
    tumorLogic.cleaning.discardPreview()
    assert segmentations() == [back] and back.GetDisplayNode().GetVisibility()


def test_a_preview_may_be_removed_by_hand(tumorLogic, scene, result):
    scene.RemoveNode(tumorLogic.cleaning.preview(result, SMALL))
    tumorLogic.cleaning.discardPreview()
    assert result.GetDisplayNode().GetVisibility()


def test_what_cannot_be_cleaned_leaves_neither_copy_nor_preview(tumorLogic, scene, plain, result):
    wrong = Cleaning(min_size=2, structures=("heart",))
    for use in (tumorLogic.cleaning.preview, tumorLogic.cleaning.apply):
        with pytest.raises(OptionError, match="has no heart"):
            use(result, wrong)
        with pytest.raises(InputError, match="Choose a segmentation"):
            use(None, SMALL)
    assert segmentations() == [result] and result.GetDisplayNode().GetVisibility()
    scene.RemoveNode(plain)
    with pytest.raises(InputError, match="the volume it was made from is not in the scene"):
        tumorLogic.cleaning.apply(result, SMALL)


def test_an_empty_segmentation_can_be_cleaned(tumorLogic, plain, resultOf, speckled):
    node = resultOf(plain, labels=np.zeros_like(speckled))
    copy = tumorLogic.cleaning.apply(
        node, Cleaning(min_size=2, fill_holes=True, largest_only=True, closing_mm=1)
    )
    assert tumorLogic.cleaning.changes == ["Nothing changed."]
    assert not labels_of(copy, plain).any()
    assert list(copy.GetSegmentation().GetSegmentIDs()) == ["lungs", "tumors"]


def test_contours_drawn_by_hand_can_be_cleaned(tumorLogic, scene, plain):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "by hand")
    node.SetReferenceImageGeometryParameterFromVolumeNode(plain)
    node.GetSegmentation().AddEmptySegment("Segment_1", "Tumors", [0.1, 0.9, 0.2])
    mask = np.zeros(slicer.util.arrayFromVolume(plain).shape, np.uint8)
    mask[3, 3, 3:6] = mask[6, 6, 6] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, "Segment_1", plain)
    copy = tumorLogic.cleaning.apply(node, Cleaning(min_size=2, structures=("tumors",)))
    assert np.count_nonzero(labels_of(copy, plain)) == 3
    segment = copy.GetSegmentation().GetNthSegment(0)
    assert segment.GetName() == "Tumors" and segment.GetColor() == pytest.approx((0.1, 0.9, 0.2))
    assert tumorLogic.cleaning.checkpointOf(copy) == ""


def test_the_rules_of_a_checkpoint_are_told_in_words(tumorLogic, result):
    assert tumorLogic.cleaning.defaultsInWords("painted-lung-tumor") == ["The checkpoint brings no clean-up."]
    words = tumorLogic.cleaning.defaultsInWords("phantom-threshold")
    assert "Lungs: pieces below 60 mm3 are removed (6 neighbors)." in words
    assert "Laplacian of Gaussian" in tumorLogic.cleaning.defaultsInWords("deepmeta-mouse-mri")[0]
    with pytest.raises(CheckpointError):
        tumorLogic.cleaning.defaultsInWords("nobody's")


def test_which_checkpoint_made_contours_stands_on_them_or_in_their_record(tumorLogic, result):
    assert tumorLogic.cleaning.checkpointOf(result) == "painted"
    result.RemoveAttribute(Nodes.CHECKPOINT_ATTRIBUTE)
    assert tumorLogic.cleaning.checkpointOf(result) == "of the record"
