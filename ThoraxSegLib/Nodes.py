"""How the nodes of a scene tell what they are and belong to: names of roles and attributes, and their readers.

All of it is saved with the scene. A result is a segmentation node of kind `RESULT`; it refers to its volume, its map
of doubt and its record by node references, so that a scene that was loaded again knows as much as the one saved.
"""

from __future__ import annotations

import json
from typing import Any

import slicer

from thoraxseg.mrml.digests import digest_of_segmentation as digestOfSegmentation  # noqa: F401 - a name of this module
from thoraxseg.mrml.digests import digest_of_volume as digestOf  # noqa: F401 - a name of this module
from thoraxseg.mrml.views import nodes_of

VOLUME_ROLE = "ThoraxSeg.Volume"
"""Reference from a segmentation (map of doubt, record, table ...) to the volume it was made from."""
UNCERTAINTY_ROLE = "ThoraxSeg.Uncertainty"
"""Reference from a segmentation to its map of doubt, a scalar volume."""
RECORD_ROLE = "ThoraxSeg.Record"
"""Reference from a segmentation to the text node with the record of its run, JSON."""
SOURCE_ROLE = "ThoraxSeg.Source"
"""Reference from a segmentation that was made from another one (cleaned copy, preview) to that one."""
STRUCTURES_TABLE_ROLE = "ThoraxSeg.StructuresTable"
"""Reference from a segmentation to the table of its structures' volumes."""
TUMORS_TABLE_ROLE = "ThoraxSeg.TumorsTable"
"""Reference from a segmentation to the table of its tumors."""

TASK_ATTRIBUTE = "ThoraxSeg.Task"
"""Key of the task that a node was made for."""
KIND_ATTRIBUTE = "ThoraxSeg.Kind"
"""What a node is, one of the words below or a part's own."""
RESULT = "result"
UNCERTAINTY = "uncertainty"
RECORD = "record"

CHECKPOINT_ATTRIBUTE = "ThoraxSeg.Checkpoint"
"""Catalog name of the checkpoint that made a result."""
VERDICT_ATTRIBUTE = "ThoraxSeg.Verdict"
"""What a person said of a segmentation, by member name of `Review.Verdict`; none without a verdict."""
VOLUME_DIGEST_ATTRIBUTE = "ThoraxSeg.VolumeDigest"
"""`digestOf` the volume when a result was made."""
DIGEST_ATTRIBUTE = "ThoraxSeg.Digest"
"""`digestOfSegmentation` when a result was made."""
EARLIER_ATTRIBUTE = "ThoraxSeg.Earlier"
"""Set, to the name it had, on a result that a later run did not replace since a person had worked on it."""

RECORD_KINDS: dict[tuple[str, ...], tuple[type, ...]] = {
    ("measurements",): (dict,),
    ("measurements", "tumors"): (dict, type(None)),
    ("uncertainty",): (dict, type(None)),
    ("uncertainty", "unit"): (str,),
    ("uncertainty", "name"): (str,),
    ("provenance",): (dict,),
    ("provenance", "checkpoint"): (dict,),
    ("provenance", "checkpoint", "name"): (str,),
    ("provenance", "options"): (dict,),
    ("timings_s",): (dict,),
    ("warnings",): (list,),
    ("notes",): (list,),
}
"""Of the members of a record that are used here, which kinds they may be; outer ones first."""


def volumeOf(segmentationNode):
    """Return the volume node that a segmentation was made from, or None."""
    return segmentationNode.GetNodeReference(VOLUME_ROLE)


def uncertaintyOf(segmentationNode):
    """Return the volume node with the doubt of a segmentation, or None."""
    return segmentationNode.GetNodeReference(UNCERTAINTY_ROLE)


def recordOf(segmentationNode) -> dict[str, Any]:
    """Return the record of the run that made a segmentation; empty without one, or where it is no JSON object.

    Scene files come from anywhere: members of `RECORD_KINDS` that are of another kind are left out.
    """
    node = segmentationNode.GetNodeReference(RECORD_ROLE)
    record = jsonOf(node.GetText(), dict) if node is not None else {}
    for (*place, key), kinds in RECORD_KINDS.items():
        holder = record
        for name in place:
            holder = holder.get(name) or {}
        if key in holder and not isinstance(holder[key], kinds):
            del holder[key]
    return record


def jsonOf(text: str | None, kind: type) -> Any:
    """Return what a JSON text of the scene holds if that is of a kind (dict, list), else an empty one."""
    try:
        found = json.loads(text or "null")
    except (ValueError, RecursionError):  # edited by hand
        return kind()
    return found if isinstance(found, kind) else kind()


def referenceVolume(segmentationNode):
    """Return the volume whose grid a segmentation lies on: the one it was made from, else its reference geometry."""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    return volumeOf(segmentationNode) or segmentationNode.GetNodeReference(role)


def nodesOfKind(scene, className: str, kind: str) -> list:
    """Return the nodes of a class that are of a kind (`KIND_ATTRIBUTE`), in the order of the scene."""
    return [node for node in nodes_of(scene, className) if node.GetAttribute(KIND_ATTRIBUTE) == kind]


def resultsOf(scene, volumeNode, task: str) -> list:
    """Return the results of a task (its key) for a volume, oldest first; not those set aside as earlier ones."""
    return [
        node
        for node in nodesOfKind(scene, "vtkMRMLSegmentationNode", RESULT)
        if node.GetAttribute(TASK_ATTRIBUTE) == task
        and node.GetAttribute(EARLIER_ATTRIBUTE) is None
        and volumeOf(node) is volumeNode
    ]


def placeBeside(node, volumeNode) -> None:
    """File a node in the subject hierarchy where the volume is, in the same study or folder."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volumeNode.GetScene())
    if hierarchy is None:
        return
    volumeItem = hierarchy.GetItemByDataNode(volumeNode)
    parent = hierarchy.GetItemParent(volumeItem) if volumeItem else hierarchy.GetSceneItemID()
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)


def savableName(name: str) -> str:
    """Return a name for a node of ours with which a scene can be loaded again: "&" becomes "+".

    Slicer names files after nodes and writes their names into the scene file as they are (seen with 5.12): with a "&"
    in one of them the whole scene is no XML any more. Other characters do no harm.
    """
    return name.replace("&", "+")


def uniqueName(scene, name: str) -> str:
    """Return a `savableName` that no node of the scene has: the one given, else with a number at its end."""
    name = savableName(name)
    # The scene's own function also avoids names that nodes had which are gone.
    taken = {scene.GetNthNode(n).GetName() for n in range(scene.GetNumberOfNodes())}
    result, number = name, 1
    while result in taken:
        result, number = f"{name}_{number}", number + 1
    return result


def removeNode(node) -> None:
    """Remove a node from its scene with what is its alone: display and storage nodes, its place in the hierarchy."""
    scene = node.GetScene()
    if scene is None:
        return
    own = (
        [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
        if hasattr(node, "GetNthDisplayNode")
        else []
    )
    if hasattr(node, "GetStorageNode"):
        own.append(node.GetStorageNode())
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    scene.RemoveNode(node)
    for other in own:
        if other is not None and other.GetScene() is scene:
            scene.RemoveNode(other)
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    if item:  # without the application nobody else takes it away
        hierarchy.RemoveItem(item, False, False)


def stateOf(node) -> tuple:
    """Return what changes whenever the voxels of a node or its place in the patient do, () for None.

    Equal states spare reading all voxels; where they differ, the voxels may still be the same.
    """
    if node is None:
        return ()
    image = node.GetImageData() if hasattr(node, "GetImageData") else None
    transform = node.GetParentTransformNode() if hasattr(node, "GetParentTransformNode") else None
    return (
        id(node),
        node.GetMTime(),
        image.GetMTime() if image is not None else 0,
        transform.GetTransformToWorldMTime() if transform is not None else 0,
    )
