"""Volume -> a new scalar volume node, shown like the volume it was made from."""

from __future__ import annotations

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.mrml.grids import local_to_world, new_node, parent_id, scene_of, to_vtk
from thoraxseg.mrml.volumes import fill_image, keep_origin
from thoraxseg.volume import Volume, check_geometry


def volume_to_node(volume: Volume, like=None, scene=None, name: str | None = None):
    """Return a new vtkMRMLScalarVolumeNode with the voxels of `volume` where `volume.ijk_to_ras` has them.

    `like` is the volume node that it was made from, which is not altered: the new one gets its parent transform (so
    that both follow when that is edited), its window, threshold and colors, and the unit of its voxels. `ijk_to_ras`
    is that of the patient in any case, as `volume_from_node` gives it: under a parent the node holds the geometry with
    the parent's transform taken out. Where that would shear the axes (a parent that stretches, and axes declared
    anew), the new node has no parent, and the geometry of the patient. Notes of the volume, and that its geometry was
    assumed, stay with the node, in the scene file too, and come back with `volume_from_node`.

    Raises InputError when neither `like` nor `scene` is given, or `like` is in no scene or another one, or under a
    transform that is not linear.
    """
    if like is not None:
        scene = scene_of(like, scene)
    if scene is None:
        raise InputError(f"{volume.name}: expected a scene for the new volume, got none.")
    local, parent = volume.ijk_to_ras, None
    if like is not None and like.GetParentTransformNode() is not None:
        local = np.linalg.solve(local_to_world(like), volume.ijk_to_ras)
        parent = parent_id(like)
        try:
            check_geometry(local, volume.name)
        except InputError:
            local, parent = volume.ijk_to_ras, None
    image = _image(volume.array)
    with new_node(scene, "vtkMRMLScalarVolumeNode", name or volume.name) as node:
        node.SetAndObserveTransformNodeID(parent)
        node.SetIJKToRASMatrix(to_vtk(local))
        node.SetAndObserveImageData(image)
        keep_origin(node, volume)
        node.CreateDefaultDisplayNodes()
        if like is not None:
            node.SetVoxelValueQuantity(like.GetVoxelValueQuantity())
            node.SetVoxelValueUnits(like.GetVoxelValueUnits())
            _show_like(node, like)
    return node


def _image(array: np.ndarray):
    import vtk

    if array.dtype == np.float16:  # VTK has no such type
        array = array.astype(np.float32)
    image = vtk.vtkImageData()
    fill_image(image, array.astype(array.dtype.newbyteorder("="), copy=False))
    return image


def _show_like(node, like) -> None:
    theirs, ours = like.GetDisplayNode(), node.GetDisplayNode()
    if theirs is None or not theirs.IsA("vtkMRMLScalarVolumeDisplayNode"):
        return
    if theirs.GetColorNodeID():
        ours.SetAndObserveColorNodeID(theirs.GetColorNodeID())
    ours.SetInterpolate(theirs.GetInterpolate())
    if not theirs.GetAutoWindowLevel():
        ours.AutoWindowLevelOff()
        ours.SetWindowLevel(theirs.GetWindow(), theirs.GetLevel())
    ours.SetAutoThreshold(theirs.GetAutoThreshold())
    ours.SetThreshold(theirs.GetLowerThreshold(), theirs.GetUpperThreshold())
    ours.SetApplyThreshold(theirs.GetApplyThreshold())
