"""Where the voxels of a volume node lie: in the node's own coordinates and in the patient.

Slicer shows a node through its parent transform, so the patient geometry (world) is
`transform x ijk_to_ras`. Everything the engine decides from geometry (left and right, spacing, mm3)
must be true of what the user sees, hence the world geometry; result nodes hold the local geometry
and get the same parent, so that they overlay the volume and follow it when the transform is edited.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.volume import check_geometry

GRID_TOLERANCE_VOXELS = 1e-3
"""Grids whose corners differ by less than this are the same grid."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxel grid of a volume node; indices count from 0 along i, j, k of the array."""

    shape: tuple[int, int, int]
    """Number of voxels along (k, j, i)."""
    local: np.ndarray
    """`(4, 4)`: index (i, j, k, 1) to millimeters in the coordinates of the node."""
    world: np.ndarray
    """`(4, 4)`: index (i, j, k, 1) to patient millimeters (RAS), the parent transform included."""
    transform_name: str = ""
    """Name of the parent transform; empty without one."""


def grid_of(volume_node) -> Grid:
    """Return the grid of a scalar volume node, which is not altered.

    Raises InputError, saying what to do, when it is no volume, has no voxels, has several values per
    voxel (color, vector, 4-D), or lies under a transform that is not linear or shears it.
    """
    name = node_name(volume_node)
    if volume_node is None:
        raise InputError("expected a volume, got nothing. Choose a volume first.")
    if not (hasattr(volume_node, "IsA") and volume_node.IsA("vtkMRMLScalarVolumeNode")):
        raise InputError(
            f"{name}: expected a scalar volume, got {class_name(volume_node)}. "
            "Choose a volume; of a sequence choose the volume that shows one time point."
        )
    image = volume_node.GetImageData()
    scalars = image.GetPointData().GetScalars() if image is not None else None
    if scalars is None or scalars.GetNumberOfTuples() == 0:
        raise InputError(f"{name}: expected a volume with voxels, got none. Load the image again.")
    if scalars.GetNumberOfComponents() != 1:
        raise InputError(
            f"{name}: expected one value per voxel, got {scalars.GetNumberOfComponents()} (color, vector or "
            "4-D). Make a scalar volume of it first: module Vector to Scalar Volume, or one time point."
        )
    local = ijk_to_local(volume_node)
    first = image.GetExtent()[::2]
    local[:3, 3] += local[:3, :3] @ first  # array index 0 is where the extent begins
    dimensions = image.GetDimensions()
    transform = volume_node.GetParentTransformNode()
    return Grid(
        shape=dimensions[::-1],
        local=local,
        world=_check(local_to_world(volume_node) @ local, name, transform),
        transform_name=node_name(transform) if transform is not None else "",
    )


def _check(world: np.ndarray, name: str, transform) -> np.ndarray:
    if transform is None:
        return check_geometry(world, name)
    try:
        return check_geometry(world, name)
    except InputError as error:
        raise InputError(
            f"{error} This geometry includes the parent transform {node_name(transform)!r}: take the volume "
            "out of it, or harden it and resample."
        ) from error


def local_to_world(node) -> np.ndarray:
    """Return the `(4, 4)` matrix from the coordinates of a node to the patient; identity without a parent.

    Raises InputError when a parent transform is not linear: no matrix can say where the voxels lie.
    """
    import vtk

    matrix = vtk.vtkMatrix4x4()
    transform = node.GetParentTransformNode()
    if transform is not None:
        if not transform.IsTransformToWorldLinear():
            raise InputError(
                f"{node_name(node)}: expected a linear parent transform, got the non-linear "
                f"{node_name(transform)!r}. Harden the transform (Transforms module) first."
            )
        transform.GetMatrixTransformToWorld(matrix)
    return from_vtk(matrix)


def ijk_to_local(volume_node) -> np.ndarray:
    """Return what `GetIJKToRASMatrix` says, as a `(4, 4)` array; it ignores the parent transform."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    return from_vtk(matrix)


def image_to_local(image) -> np.ndarray:
    """Return the `(4, 4)` matrix from an index of a vtkOrientedImageData to millimeters."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return from_vtk(matrix)


def require_same_grid(grid: Grid, shape: tuple[int, ...], name: str, world: np.ndarray | None = None) -> None:
    """Do nothing if an array of `shape`, placed by `world` if given, lies voxel for voxel on the grid.

    Raises InputError when the shapes differ or a corner is off by 0.001 voxel or more.
    """
    if tuple(shape) != tuple(grid.shape):
        raise InputError(
            f"{name}: expected the grid of the volume, {grid.shape} voxels along (k, j, i), got "
            f"{tuple(shape)}. Choose the volume it was made from."
        )
    if world is None:
        return
    off = largest_corner_shift(grid.shape, np.linalg.solve(grid.world, world))
    if not off < GRID_TOLERANCE_VOXELS:
        raise InputError(
            f"{name}: expected voxels exactly on those of the volume, got them up to {off:.3g} voxels away. "
            "Choose the volume it was made from, with the parent transform it had then."
        )


def largest_corner_shift(shape: tuple[int, int, int], index_to_index: np.ndarray, offset=(0, 0, 0)) -> float:
    """Return how far, in voxels, a `(4, 4)` index map is from adding `offset` (i, j, k) over the grid.

    The map is affine, so no voxel is further off than the worst of the eight corners.
    """
    corners = np.array([(*c, 1) for c in product(*((0, n - 1) for n in shape[::-1]))], dtype=float)
    return float(np.abs(corners @ index_to_index[:3].T - corners[:, :3] - np.asarray(offset)).max())


def scene_of(volume_node, scene):
    """Return the scene that a result goes into: the one the volume is in.

    Raises InputError when it is in none, or `scene` is another one: nodes refer to each other by ID.
    """
    own = volume_node.GetScene()
    if own is None or (scene is not None and scene is not own):
        raise InputError(
            f"{node_name(volume_node)}: expected a volume in the scene of its result, got one in "
            f"{'another' if own is not None else 'no'} scene. Add the volume to the scene first."
        )
    return own


def parent_id(node) -> str | None:
    """Return the ID of a node's parent transform, None without one; `GetTransformNodeID` would modify the node."""
    transform = node.GetParentTransformNode()
    return transform.GetID() if transform is not None else None


@contextmanager
def new_node(scene, kind: str, name: str) -> Iterator:
    """Give a new node of the scene; when the block raises, the node and its display node go again."""
    node = scene.AddNewNodeByClass(kind, name)
    try:
        yield node
    except BaseException:
        if node.GetDisplayNode() is not None:
            scene.RemoveNode(node.GetDisplayNode())
        scene.RemoveNode(node)
        raise


def to_vtk(matrix: np.ndarray):
    """Return a `(4, 4)` array as a vtkMatrix4x4."""
    import vtk

    result = vtk.vtkMatrix4x4()
    result.DeepCopy(np.asarray(matrix, dtype=float).ravel().tolist())
    return result


def from_vtk(matrix) -> np.ndarray:
    """Return a vtkMatrix4x4 as a `(4, 4)` float64 array."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def node_name(node) -> str:
    """Return a name for messages, for nodes without one too."""
    return (node.GetName() if hasattr(node, "GetName") else None) or "unnamed"


def class_name(node) -> str:
    """Return the class of a node, or of whatever came instead."""
    return node.GetClassName() if hasattr(node, "GetClassName") else type(node).__name__
