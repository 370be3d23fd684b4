"""Map of doubt -> scalar volume node with colors, window and threshold set."""

from __future__ import annotations

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.mrml.colors import doubt_color_node
from thoraxseg.mrml.grids import grid_of, new_node, node_name, parent_id, require_same_grid, scene_of, to_vtk
from thoraxseg.mrml.volumes import fill_image

HIDDEN_FRACTION = 0.05
"""Doubt below this share of the maximum is not shown, so that the image stays visible."""


def uncertainty_to_node(array: np.ndarray, volume_node, maximum: float, scene=None, name: str | None = None):
    """Return a new vtkMRMLScalarVolumeNode of `(K, J, I)` doubt that overlays the volume voxel for voxel.

    `maximum` is the largest doubt possible (ln L nats for the entropy of L classes): colors span 0 to
    it whatever the values, so that maps can be compared; below 5 % of it nothing is shown. Same parent
    transform as the volume, which is not altered. The voxels are stored as float32.

    Raises InputError when the array is not on the grid of the volume or holds negative or non-finite
    values, when `maximum` is not positive, or when the volume is in another scene.
    """
    grid = grid_of(volume_node)
    name = name or f"{node_name(volume_node)} uncertainty"
    array = np.asarray(array)
    require_same_grid(grid, array.shape, name)
    if not (np.isfinite(maximum) and maximum > 0):
        raise InputError(
            f"{name}: expected a maximum above 0, got {maximum}. Give the largest possible doubt."
        )
    lowest, highest = float(array.min()), float(array.max())  # NaN comes through both
    if not (np.isfinite(highest) and lowest >= 0):
        raise InputError(
            f"{name}: expected finite doubt of 0 or more, got {lowest:g} to {highest:g}. Compute it again."
        )
    scene = scene_of(volume_node, scene)

    with new_node(scene, "vtkMRMLScalarVolumeNode", name) as node:
        node.SetAndObserveTransformNodeID(parent_id(volume_node))
        node.SetIJKToRASMatrix(to_vtk(grid.local))
        node.SetAndObserveImageData(_image(array))
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetAndObserveColorNodeID(doubt_color_node(scene).GetID())
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(0.0, maximum)
        display.SetThreshold(HIDDEN_FRACTION * maximum, max(maximum, highest))
        display.ApplyThresholdOn()
    return node


def _image(array: np.ndarray):
    import vtk

    image = vtk.vtkImageData()
    fill_image(image, array.astype(np.float32, copy=False))
    return image
