"""Post-processing on request: previewed beside the contours, applied to a copy; the original is never altered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from slicer.i18n import tr as _

from thoraxseg.mrml import segmentation_from_node, segmentation_to_node, volume_from_node
from thoraxseg.mrml.views import nodes_of
from thoraxseg.postprocess import Cleaning, clean, words_of_card
from ThoraxSegLib import Nodes
from ThoraxSegLib.Measurements import volumeToMeasureOn

if TYPE_CHECKING:
    from ThoraxSegLib.Logic import ThoraxSegLogic

PREVIEW = "cleaning preview"
CLEANED = "cleaned"
CHANGES_ATTRIBUTE = "ThoraxSeg.Changes"
"""On a cleaned copy or a preview: what cleaning changed, a JSON list of sentences."""
HIDDEN_ATTRIBUTE = "ThoraxSeg.HiddenByPreview"
"""On the display of a segmentation: set while a preview is shown in its place."""
CARRIED_ROLES = (Nodes.VOLUME_ROLE, Nodes.UNCERTAINTY_ROLE, Nodes.RECORD_ROLE)
CARRIED_ATTRIBUTES = (Nodes.TASK_ATTRIBUTE, Nodes.CHECKPOINT_ATTRIBUTE, Nodes.VOLUME_DIGEST_ATTRIBUTE)
ALGORITHM_TAG = "DICOM.SegmentAlgorithmName"


class SegmentCleaning:
    """Runs `thoraxseg.postprocess.clean` on segmentations of the scene, on copies only."""

    def __init__(self, logic: ThoraxSegLogic) -> None:
        self.logic = logic
        self.changes: list[str] = []
        """What the latest preview or application changed, in sentences."""

    def checkpointOf(self, segmentationNode) -> str:
        """Return the catalog name of the checkpoint that made a segmentation; "" where none is known to have."""
        named = segmentationNode.GetAttribute(Nodes.CHECKPOINT_ATTRIBUTE)
        return named or Nodes.recordOf(segmentationNode).get("provenance", {}).get("checkpoint", {}).get(
            "name", ""
        )

    def defaultsInWords(self, checkpointName: str) -> list[str]:
        """Return the rules that a checkpoint cleans up with by itself, as sentences.

        Raises CheckpointError for an unknown checkpoint.
        """
        return words_of_card(self.logic.catalog.card(checkpointName))

    def preview(self, segmentationNode, cleaning: Cleaning):
        """Show what cleaning would leave, in the place of the segmentation, and return the preview node.

        There is one preview at a time. The segmentation itself is only hidden, until `discardPreview` or `apply`, also
        when the scene is saved and loaded in between. What changed is in `changes`. Raises InputError or OptionError,
        as `clean` and reading the contours do; then the preview shown before is gone.
        """
        self.discardPreview()
        node = self._cleaned(segmentationNode, cleaning, PREVIEW)
        node.SetName(_("{name} (preview)").format(name=segmentationNode.GetName()))
        node.SetHideFromEditors(True)
        display = segmentationNode.GetDisplayNode()
        if display is not None and display.GetVisibility():
            display.SetAttribute(HIDDEN_ATTRIBUTE, node.GetID())
            display.SetVisibility(False)
        return node

    def previewNode(self):
        """Return the preview that is shown, or None."""
        return next(iter(Nodes.nodesOfKind(self.logic.scene, "vtkMRMLSegmentationNode", PREVIEW)), None)

    def discardPreview(self) -> None:
        """Remove the preview, if there is one, and show the segmentation again that it stood for."""
        scene = self.logic.scene
        node = self.previewNode()
        if node is not None:
            Nodes.removeNode(node)
        for display in nodes_of(scene, "vtkMRMLSegmentationDisplayNode"):
            if display.GetAttribute(HIDDEN_ATTRIBUTE):
                display.RemoveAttribute(HIDDEN_ATTRIBUTE)
                display.SetVisibility(True)

    def apply(self, segmentationNode, cleaning: Cleaning):
        """Clean a copy named "<name> (cleaned)" and return it; what changed is in `changes` and in `changesOf`.

        It belongs to the same volume, map of doubt and record; a verdict is not carried over, since nobody has judged
        it. The segmentation itself stays as it is. Raises InputError or OptionError, as `clean` and reading the
        contours do; then there is no copy.
        """
        self.discardPreview()
        node = self._cleaned(segmentationNode, cleaning, CLEANED)
        name = _("{name} (cleaned)").format(name=segmentationNode.GetName())
        node.SetName("")
        node.SetName(Nodes.uniqueName(self.logic.scene, name))
        return node

    def changesOf(self, segmentationNode) -> list[str]:
        """Return what cleaning changed in a cleaned copy or a preview; nothing for other segmentations."""
        return list(map(str, Nodes.jsonOf(segmentationNode.GetAttribute(CHANGES_ATTRIBUTE), list)))

    def _cleaned(self, segmentationNode, cleaning: Cleaning, kind: str):
        self.changes = []
        volumeNode = volumeToMeasureOn(segmentationNode)
        found = segmentation_from_node(segmentationNode, volumeNode)
        cleaned, changes = clean(found, volume_from_node(volumeNode), cleaning)
        node = segmentation_to_node(
            cleaned, volumeNode, self.logic.scene, algorithm_name=_algorithmOf(segmentationNode)
        )
        for role in CARRIED_ROLES:
            if segmentationNode.GetNodeReferenceID(role):
                node.SetNodeReferenceID(role, segmentationNode.GetNodeReferenceID(role))
        for attribute in CARRIED_ATTRIBUTES:
            if segmentationNode.GetAttribute(attribute) is not None:
                node.SetAttribute(attribute, segmentationNode.GetAttribute(attribute))
        node.SetNodeReferenceID(Nodes.SOURCE_ROLE, segmentationNode.GetID())
        node.SetAttribute(Nodes.KIND_ATTRIBUTE, kind)
        node.SetAttribute(CHANGES_ATTRIBUTE, json.dumps(changes))
        Nodes.placeBeside(node, volumeNode)
        self.changes = changes
        return node


def _algorithmOf(segmentationNode) -> str | None:
    """Return the name of the program that drew the first segment, for DICOM; None for contours drawn by hand."""
    import vtk

    name = vtk.reference("")
    segment = segmentationNode.GetSegmentation().GetNthSegment(0)
    return str(name) if segment is not None and segment.GetTag(ALGORITHM_TAG, name) else None
