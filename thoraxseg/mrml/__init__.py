"""Volumes, contours and maps of doubt <-> nodes of a 3D Slicer scene.

The only engine folder that imports slicer and vtk, and it does so inside functions: importing it
loads neither. It needs no application, no module logic and no Qt, so it works the same in desktop
Slicer, in trame-slicer and on the `slicer-core` wheel with `slicer.vtkMRMLScene()`.
"""

from __future__ import annotations

from thoraxseg.mrml.segmentations import segmentation_from_node, segmentation_to_node
from thoraxseg.mrml.uncertainty import uncertainty_to_node
from thoraxseg.mrml.volume_nodes import volume_to_node
from thoraxseg.mrml.volumes import volume_from_node

__all__ = [
    "segmentation_from_node",
    "segmentation_to_node",
    "uncertainty_to_node",
    "volume_from_node",
    "volume_to_node",
]
