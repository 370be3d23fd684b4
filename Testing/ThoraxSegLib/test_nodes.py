"""Roles and attributes of our nodes, and the digests that tell whether voxels or contours were changed."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk

from Testing.made_results import put_under
from thoraxseg.errors import InputError
from thoraxseg.mrml import segmentation_to_node
from ThoraxSegLib import Nodes

TASK = "mouse-thorax"
OBLIQUE = np.array(
    [
        [0.3419, -0.0812, 0.0911, 12.25],
        [0.1013, 0.4702, -0.1533, -40.5],
        [-0.0712, 0.1201, 0.6207, 7.125],
        [0, 0, 0, 1],
    ]
)


def orthogonal(matrix: np.ndarray, spacing=(0.3, 0.5, 0.7)) -> np.ndarray:
    """Return a geometry with right angles that is near a matrix."""
    u, _, v = np.linalg.svd(matrix[:3, :3])
    result = matrix.copy()
    result[:3, :3] = (u @ v) * np.array(spacing)
    return result


@pytest.fixture
def contours(scene, mouse, paintedThorax):
    """The true contours of the mouse as a result of ours."""
    node = segmentation_to_node(paintedThorax.truth, mouse, scene, "mouse segmentation")
    node.SetAttribute(Nodes.KIND_ATTRIBUTE, Nodes.RESULT)
    node.SetAttribute(Nodes.TASK_ATTRIBUTE, TASK)
    node.SetNodeReferenceID(Nodes.VOLUME_ROLE, mouse.GetID())
    return node


@pytest.fixture
def draw(contours):
    """Give a segment of the contours other voxels: `draw(key, change)`, which leaves it in a layer of its own."""

    def do(key, change):
        array = slicer.util.arrayFromSegmentBinaryLabelmap(contours, key, Nodes.volumeOf(contours))
        slicer.util.updateSegmentBinaryLabelmapFromArray(
            change(array), contours, key, Nodes.volumeOf(contours)
        )

    return do


# Where a node belongs


def test_a_segmentation_knows_its_volume_doubt_and_record(scene, mouse, contours):
    doubt = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "doubt")
    record = scene.AddNewNodeByClass("vtkMRMLTextNode", "record")
    record.SetText('{"measurements": {"größe_mm3": 3}}')
    contours.SetNodeReferenceID(Nodes.UNCERTAINTY_ROLE, doubt.GetID())
    contours.SetNodeReferenceID(Nodes.RECORD_ROLE, record.GetID())
    assert Nodes.volumeOf(contours) is mouse
    assert Nodes.uncertaintyOf(contours) is doubt
    assert Nodes.recordOf(contours) == {"measurements": {"größe_mm3": 3}}


@pytest.mark.parametrize("text", [None, "", "no JSON {", "[1, 2]"])
def test_a_record_that_is_none_reads_as_empty(scene, contours, text):
    if text is not None:
        record = scene.AddNewNodeByClass("vtkMRMLTextNode", "record")
        record.SetText(text)
        contours.SetNodeReferenceID(Nodes.RECORD_ROLE, record.GetID())
    assert Nodes.recordOf(contours) == {}


def test_contours_drawn_by_hand_lie_on_their_reference_geometry(scene, mouse, contours):
    drawn = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    assert Nodes.referenceVolume(drawn) is None
    drawn.SetReferenceImageGeometryParameterFromVolumeNode(mouse)
    assert Nodes.referenceVolume(drawn) is mouse
    other = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "other")
    contours.SetReferenceImageGeometryParameterFromVolumeNode(mouse)
    contours.SetNodeReferenceID(Nodes.VOLUME_ROLE, other.GetID())
    assert Nodes.referenceVolume(contours) is other


def test_the_results_of_a_volume_are_those_of_its_task_that_were_not_set_aside(scene, mouse, contours):
    other = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "other")
    assert Nodes.resultsOf(scene, mouse, TASK) == [contours]
    assert Nodes.resultsOf(scene, mouse, "lung-tumor") == []
    assert Nodes.resultsOf(scene, other, TASK) == []
    contours.SetAttribute(Nodes.EARLIER_ATTRIBUTE, "mouse segmentation")
    assert Nodes.resultsOf(scene, mouse, TASK) == []
    contours.RemoveAttribute(Nodes.EARLIER_ATTRIBUTE)
    contours.SetAttribute(Nodes.KIND_ATTRIBUTE, "preview")
    assert Nodes.resultsOf(scene, mouse, TASK) == []


@pytest.mark.parametrize("is_known", [True, False], ids=["known to the hierarchy", "new to it"])
def test_a_node_is_filed_in_the_study_of_its_volume(scene, mouse, contours, is_known):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    subject = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "animal 7")
    study = hierarchy.CreateStudyItem(subject, "day 3")
    hierarchy.CreateItem(study, mouse)
    if is_known:
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), contours)
    Nodes.placeBeside(contours, mouse)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(contours)) == study
    assert hierarchy.GetNumberOfItems() == 4


def test_a_removed_node_leaves_nothing_behind(scene, mouse):
    before = {scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())}
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "gone")
    node.CreateDefaultDisplayNodes()
    node.AddDefaultStorageNode()
    Nodes.placeBeside(node, mouse)
    Nodes.removeNode(node)
    Nodes.removeNode(node)  # no harm
    after = {scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())}
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    assert after - before <= {hierarchy.GetID()}
    assert hierarchy.GetNumberOfItems() == 0


# The digest of a volume


def test_the_digest_of_a_volume_is_that_of_its_voxels_and_place(mouse):
    digest = Nodes.digestOf(mouse)
    assert len(digest) == 64
    mouse.SetName("another name")
    mouse.GetDisplayNode().SetAutoWindowLevel(False)
    mouse.Modified()
    assert Nodes.digestOf(mouse) == digest

    array = slicer.util.arrayFromVolume(mouse)
    array[3, 4, 5] += 1
    assert Nodes.digestOf(mouse) != digest
    array[3, 4, 5] -= 1
    assert Nodes.digestOf(mouse) == digest


def test_a_moved_stretched_or_mirrored_volume_has_another_digest(mouse):
    digests = {Nodes.digestOf(mouse)}
    origin = mouse.GetOrigin()
    mouse.SetOrigin(origin[0] + 0.01, *origin[1:])
    digests.add(Nodes.digestOf(mouse))
    mouse.SetOrigin(origin)
    mouse.SetSpacing(0.5, 0.51, 0.5)
    digests.add(Nodes.digestOf(mouse))
    mouse.SetSpacing(0.5, 0.5, 0.5)
    transform = put_under(np.diag([-1.0, 1, 1, 1]), mouse)
    digests.add(Nodes.digestOf(mouse))
    assert len(digests) == 4
    transform.SetMatrixTransformToParent(vtk.vtkMatrix4x4())
    assert Nodes.digestOf(mouse) in digests


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_the_type_of_the_voxels_counts(scene, dtype):
    nodes = []
    for kind in (dtype, np.int32):
        nodes.append(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "image"))
        slicer.util.updateVolumeFromArray(nodes[-1], np.arange(24).reshape(2, 3, 4).astype(kind))
    assert Nodes.digestOf(nodes[0]) != Nodes.digestOf(nodes[1])


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".mha"])
def test_the_digest_of_an_oblique_volume_survives_saving(scene, mouse, tmp_path, ending):
    mouse.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(orthogonal(OBLIQUE)))
    path = tmp_path / f"oblique{ending}"
    assert slicer.util.exportNode(mouse, str(path))
    assert Nodes.digestOf(slicer.util.loadVolume(str(path))) == Nodes.digestOf(mouse)


def test_rounding_of_a_product_with_its_inverse_is_no_change(mouse):
    digest = Nodes.digestOf(mouse)
    turn = orthogonal(OBLIQUE, (1, 1, 1))
    transform = put_under(turn @ np.linalg.inv(turn) + 1e-15, mouse)
    assert transform is not None
    assert Nodes.digestOf(mouse) == digest


def test_what_is_no_volume_has_no_digest(scene):
    with pytest.raises(InputError, match="expected a scalar volume"):
        Nodes.digestOf(scene.AddNewNodeByClass("vtkMRMLTextNode", "words"))
    with pytest.raises(InputError, match="voxels"):
        Nodes.digestOf(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))


# The digest of contours


def test_the_digest_of_contours_is_that_of_voxels_and_names(contours):
    digest = Nodes.digestOfSegmentation(contours)
    segmentation = contours.GetSegmentation()
    segmentation.GetSegment("heart").SetColor(0, 0, 0)
    segmentation.SetSegmentIndex("heart", 2)
    contours.SetName("another name")
    segmentation.CreateRepresentation("Closed surface")
    assert Nodes.digestOfSegmentation(contours) == digest
    segmentation.GetSegment("right_lung").SetName("Left lung")
    assert Nodes.digestOfSegmentation(contours) != digest


def test_one_voxel_of_one_segment_changes_the_digest(contours, draw, paintedThorax):
    digest = Nodes.digestOfSegmentation(contours)
    first = np.zeros(paintedThorax.truth.labels.shape, np.uint8)
    first[tuple(np.argwhere(paintedThorax.truth.labels == 1)[0])] = 1
    draw("heart", lambda array: array - first)
    assert Nodes.digestOfSegmentation(contours) != digest
    draw("heart", lambda array: array + first)
    assert Nodes.digestOfSegmentation(contours) == digest


def test_a_segment_that_moves_changes_the_digest(contours, draw):
    digest = Nodes.digestOfSegmentation(contours)
    draw("heart", lambda array: np.roll(array, 1, axis=2))
    assert Nodes.digestOfSegmentation(contours) != digest


def test_emptied_added_and_swapped_segments_change_the_digest(contours):
    digests = {Nodes.digestOfSegmentation(contours)}
    segmentation = contours.GetSegmentation()
    segmentation.AddEmptySegment("more", "More")
    digests.add(Nodes.digestOfSegmentation(contours))
    segmentation.RemoveSegment("more")
    assert Nodes.digestOfSegmentation(contours) in digests
    names = [segmentation.GetSegment(key).GetName() for key in ("left_lung", "right_lung")]
    for key, name in zip(("right_lung", "left_lung"), names, strict=True):
        segmentation.GetSegment(key).SetName(name)
    digests.add(Nodes.digestOfSegmentation(contours))
    segmentation.RemoveSegment("heart")
    digests.add(Nodes.digestOfSegmentation(contours))
    assert len(digests) == 4


def test_the_digest_of_contours_survives_saving_and_the_loss_of_their_layers(contours, tmp_path):
    digest = Nodes.digestOfSegmentation(contours)
    path = tmp_path / "contours.seg.nrrd"
    assert slicer.util.saveNode(contours, str(path))
    back = slicer.util.loadSegmentation(str(path))
    assert Nodes.digestOfSegmentation(back) == digest
    contours.GetSegmentation().SeparateSegmentLabelmap("left_lung")
    contours.GetSegmentation().CollapseBinaryLabelmaps(True)
    assert Nodes.digestOfSegmentation(contours) == digest


def test_a_parent_transform_does_not_change_the_digest_of_contours(contours):
    digest = Nodes.digestOfSegmentation(contours)
    put_under(orthogonal(OBLIQUE, (1, 1, 1)), contours)
    assert Nodes.digestOfSegmentation(contours) == digest


def test_contours_without_voxels_have_a_digest_too(scene):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "nothing")
    digest = Nodes.digestOfSegmentation(node)
    node.GetSegmentation().AddEmptySegment("heart", "Heart")
    assert Nodes.digestOfSegmentation(node) != digest
