"""What the views of a scene show and where they look: slice views by their nodes, 3-D views by their cameras."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def nodes_of(scene, kind: str) -> list:
    """Return all nodes of a class in a scene, in its order."""
    return [scene.GetNthNodeByClass(n, kind) for n in range(scene.GetNumberOfNodesByClass(kind))]


def show_in_slices(scene, background, foreground=None, opacity: float = 0.0) -> None:
    """Show a volume in all slice views, another one over it where there is one."""
    for composite in nodes_of(scene, "vtkMRMLSliceCompositeNode"):
        was_modifying = composite.StartModify()
        composite.SetBackgroundVolumeID(background.GetID())
        composite.SetForegroundVolumeID(foreground.GetID() if foreground is not None else None)
        composite.SetForegroundOpacity(opacity)
        composite.EndModify(was_modifying)


def set_opacity(scene, foreground, opacity: float) -> None:
    """Set the opacity of a volume in all slice views that show it in the foreground."""
    for composite in nodes_of(scene, "vtkMRMLSliceCompositeNode"):
        if composite.GetForegroundVolumeID() == foreground.GetID():
            composite.SetForegroundOpacity(opacity)


def jump_slices(scene, position_ras_mm: Sequence[float], centered: bool = False) -> None:
    """Move all slice views through a point of the patient; `centered` puts it in their middle too."""
    point = [float(x) for x in position_ras_mm]
    for node in nodes_of(scene, "vtkMRMLSliceNode"):
        if centered:
            node.JumpSliceByCentering(*point)
        else:
            node.JumpSliceByOffsetting(*point)


def point_cameras(scene, position_ras_mm: Sequence[float]) -> None:
    """Let all 3-D views look at a point of the patient, from the same side and as far away as before."""
    for camera in nodes_of(scene, "vtkMRMLCameraNode"):
        away = np.array(camera.GetPosition()) - camera.GetFocalPoint()
        camera.SetFocalPoint(*map(float, position_ras_mm))
        camera.SetPosition(*(np.asarray(position_ras_mm, dtype=float) + away).tolist())
        camera.ResetClippingRange()
