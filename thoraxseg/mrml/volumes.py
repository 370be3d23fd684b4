"""Volume node -> Volume, and voxel arrays <-> VTK image data."""

from __future__ import annotations

import json

import numpy as np

from thoraxseg.mrml.grids import grid_of, node_name
from thoraxseg.volume import Volume

NOTES_ATTRIBUTE = "ThoraxSeg.Notes"
"""Of a volume that was made of another one: what was changed, as a JSON list of sentences."""
ASSUMED_ATTRIBUTE = "ThoraxSeg.GeometryAssumed"
"""Of a volume whose file states no geometry: "1"; spacing and orientation were supplied from outside."""
_UNDER_A_TRANSFORM = "geometry includes the parent transform"


def volume_from_node(volume_node) -> Volume:
    """Return a copy of the voxels of a scalar volume node with their place in the patient.

    `ijk_to_ras` is what `GetIJKToRASMatrix` says, bit for bit; under a linear parent transform it is
    transform x that, because left and right, spacing and mm3 must be true of what the user sees (a
    scan corrected by a turned or mirrored transform would otherwise get its lungs swapped). A note says
    so; further notes, and that the geometry was assumed, are what `volume_to_node` has left. The node is not altered,
    and later edits of the node do not reach the copy.

    Raises InputError when the node is missing, not scalar, without voxels, or under a transform that is
    not linear or that shears it.
    """
    grid = grid_of(volume_node)
    under = (f"{_UNDER_A_TRANSFORM} {grid.transform_name!r}",) if grid.transform_name else ()
    array = array_of(volume_node.GetImageData()).copy()
    assumed = volume_node.GetAttribute(ASSUMED_ATTRIBUTE) == "1"
    notes = (*_kept_notes(volume_node), *under)
    return Volume(array, grid.world, node_name(volume_node), notes, geometry_assumed=assumed)


def keep_origin(volume_node, volume: Volume) -> None:
    """Have a node remember what was changed in its volume, and whether its geometry was assumed.

    A parent transform is not remembered: the node itself tells it.
    """
    kept = [note for note in volume.notes if not note.startswith(_UNDER_A_TRANSFORM)]
    if kept:
        volume_node.SetAttribute(NOTES_ATTRIBUTE, json.dumps(kept))
    if volume.geometry_assumed:
        volume_node.SetAttribute(ASSUMED_ATTRIBUTE, "1")


def _kept_notes(volume_node) -> tuple[str, ...]:
    try:
        notes = json.loads(volume_node.GetAttribute(NOTES_ATTRIBUTE) or "[]")
    except (ValueError, RecursionError):  # edited by hand
        return ()
    return tuple(map(str, notes)) if isinstance(notes, list) else ()


def array_of(image) -> np.ndarray:
    """Return the voxels of a vtkImageData with one component as a view `(K, J, I)`."""
    from vtk.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def fill_image(image, array: np.ndarray) -> None:
    """Put a copy of an array `(K, J, I)` into a vtkImageData, its extent beginning at 0."""
    from vtk.util.numpy_support import numpy_to_vtk

    depth, height, width = array.shape
    image.SetExtent(0, width - 1, 0, height - 1, 0, depth - 1)
    scalars = numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True)
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
