"""Results in a scene as a run leaves them, without the run: contours, map of doubt, record, and all that ties them."""

from __future__ import annotations

import json

import numpy as np

from thoraxseg.segmentation import Segmentation

MAXIMUM = 1.0
TURNED = np.array([[0.8, -0.6, 0, 3], [0.6, 0.8, 0, -5], [0, 0, 1, 7], [0, 0, 0, 1.0]])
"""A rotation by 37 degrees and a shift, in mm."""


def volume_node(scene, volume, name: str, turned=False, parent=None):
    """Put a volume into the scene, turned by `TURNED` if asked, under a transform with the matrix `parent`."""
    import slicer

    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(volume.array))
    matrix = TURNED @ volume.ijk_to_ras if turned else volume.ijk_to_ras
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.array(matrix)))
    node.CreateDefaultDisplayNodes()
    if parent is not None:
        put_under(parent, node)
    return node


def put_under(matrix, *nodes):
    """Put nodes of one scene under a new linear transform and return it."""
    import slicer

    transform = nodes[0].GetScene().AddNewNodeByClass("vtkMRMLLinearTransformNode", "table position")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.array(matrix, dtype=float)))
    for node in nodes:
        node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def bent_transform(scene):
    """Return a new transform node "warp" that is not linear."""
    import vtk

    spline = vtk.vtkThinPlateSplineTransform()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for n in range(8):
        corner = (n % 2 * 50.0, n // 2 % 2 * 50.0, n // 4 * 50.0)
        source.InsertNextPoint(corner)
        target.InsertNextPoint(corner[0] + n * n, *corner[1:])
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "warp")
    node.SetAndObserveTransformToParent(spline)
    return node


def put_result(volumeNode, labels, structures, task: str, doubt=None, record=None, checkpoint="painted"):
    """Return the segmentation node of a result: labels `(K, J, I)` on the grid of the volume."""
    from thoraxseg.mrml import segmentation_to_node, uncertainty_to_node, volume_from_node
    from ThoraxSegLib import Nodes

    scene, name = volumeNode.GetScene(), volumeNode.GetName()
    world = volume_from_node(volumeNode).ijk_to_ras
    node = segmentation_to_node(
        Segmentation(labels, world, dict(structures)), volumeNode, name=f"{name} segmentation",
        algorithm_name=f"ThoraxSeg {checkpoint}",
    )  # fmt: skip
    node.SetNodeReferenceID(Nodes.VOLUME_ROLE, volumeNode.GetID())
    node.SetAttribute(Nodes.TASK_ATTRIBUTE, task)
    node.SetAttribute(Nodes.KIND_ATTRIBUTE, Nodes.RESULT)
    node.SetAttribute(Nodes.CHECKPOINT_ATTRIBUTE, checkpoint)
    node.SetAttribute(Nodes.VOLUME_DIGEST_ATTRIBUTE, Nodes.digestOf(volumeNode))
    node.SetAttribute(Nodes.DIGEST_ATTRIBUTE, Nodes.digestOfSegmentation(node))
    if doubt is not None:
        uncertainty = uncertainty_to_node(doubt, volumeNode, MAXIMUM, name=f"{name} uncertainty")
        uncertainty.SetAttribute(Nodes.KIND_ATTRIBUTE, Nodes.UNCERTAINTY)
        node.SetNodeReferenceID(Nodes.UNCERTAINTY_ROLE, uncertainty.GetID())
    if record is not None:
        text = scene.AddNewNodeByClass("vtkMRMLTextNode", f"{name} record")
        text.SetText(json.dumps(record))
        text.SetAttribute(Nodes.KIND_ATTRIBUTE, Nodes.RECORD)
        node.SetNodeReferenceID(Nodes.RECORD_ROLE, text.GetID())
    return node


def edit(segmentationNode, segmentID: str, change, volumeNode) -> None:
    """Change a segment as the Segment Editor's effects do: `change` alters its mask `(K, J, I)` in place."""
    import slicer

    mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, segmentID, volumeNode)
    change(mask)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentationNode, segmentID, volumeNode)
