"""Contours of several nodes brought together: which lie on one lattice, and a grid where no volume gives one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thoraxseg.mrml.grids import (
    GRID_TOLERANCE_VOXELS,
    Grid,
    image_to_local,
    largest_corner_shift,
    local_to_world,
    parent_id,
    to_vtk,
)
from thoraxseg.mrml.segmentations import segmentation_from_node
from thoraxseg.mrml.volumes import fill_image
from thoraxseg.segmentation import Segmentation


def lies_on(segmentation_node, grid: Grid) -> bool:
    """Return whether all voxels of a segmentation lie on those of a grid, whatever part of space they cover.

    Where Slicer stores a part of the grid only, as after every stroke, that is the same lattice. A node without
    contours lies everywhere. Raises InputError for a parent transform that is not linear.
    """
    return all(_offset(layer, grid) is not None for layer in _layers(segmentation_node))


def own_grid(segmentation_node) -> Grid | None:
    """Return the grid, in the patient, that a segmentation brings along; None for one without contours.

    It is the lattice of its first contours, wide enough for all others on it and for the reference geometry that the
    node noted. Contours of the same node on other lattices do not count. Raises InputError as `lies_on`.
    """
    layers = _layers(segmentation_node)
    return _union(layers[0], [*layers[1:], *_noted(segmentation_node)]) if layers else None


def common_grid(segmentation_nodes: Sequence) -> Grid | None:
    """Return a grid for all nodes on the lattice of the first one that has contours; None where none has any.

    It is wide enough for every node on that lattice. Raises InputError as `lies_on`.
    """
    grids = [grid for grid in map(own_grid, segmentation_nodes) if grid is not None]
    return _union(grids[0], grids[1:]) if grids else None


def contours_on(segmentation_node, grid: Grid, name: str) -> Segmentation:
    """Return the contours of a node on a grid that needs no volume node; `name` is what messages call the grid.

    Otherwise as `segmentation_from_node`, its errors too: overlapping segments, contours beyond the grid.
    """
    import slicer

    volume = slicer.vtkMRMLScalarVolumeNode()
    volume.SetName(name)
    _give_grid(volume, grid.shape, grid.world)
    return segmentation_from_node(segmentation_node, volume)


def volume_of_grid(scene, grid: Grid, name: str, beside=None):
    """Return a new volume node of zeros with a grid, under the parent transform of the node `beside`.

    Stands in for the volume that results refer to, where nobody has one; whoever made it removes it.
    """
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    local = grid.world
    if beside is not None:
        node.SetAndObserveTransformNodeID(parent_id(beside))
        local = np.linalg.solve(local_to_world(beside), grid.world)
    _give_grid(node, grid.shape, local)
    return node


def _give_grid(volume_node, shape: tuple[int, int, int], ijk_to_local: np.ndarray) -> None:
    import vtk

    image = vtk.vtkImageData()
    fill_image(image, np.zeros(shape, np.uint8))
    volume_node.SetAndObserveImageData(image)
    volume_node.SetIJKToRASMatrix(to_vtk(ijk_to_local))


def _layers(node) -> list[Grid]:
    """Return the grids, in the patient, of the stored voxels of a node; segments of a shared layer have one."""
    import slicer

    labelmap = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segmentation, to_world, images = node.GetSegmentation(), local_to_world(node), []
    for n in range(segmentation.GetNumberOfSegments()):
        image = segmentation.GetNthSegment(n).GetRepresentation(labelmap)
        if image is not None and image.GetNumberOfPoints() and not any(image is one for one in images):
            images.append(image)
    return [_grid(image, to_world) for image in images]


def _noted(node) -> list[Grid]:
    """Return the reference geometry that a node noted, if it did: it survives the volume, and a file without one."""
    import slicer

    converter = slicer.vtkSegmentationConverter
    text = node.GetSegmentation().GetConversionParameter(converter.GetReferenceImageGeometryParameterName())
    image = slicer.vtkOrientedImageData()
    if (
        not text
        or not converter.DeserializeImageGeometry(text, image, False)
        or not image.GetNumberOfPoints()
    ):
        return []
    return [_grid(image, local_to_world(node))]


def _grid(image, to_world: np.ndarray) -> Grid:
    local = image_to_local(image)
    local[:3, 3] += local[:3, :3] @ image.GetExtent()[::2]  # array index 0 is where the extent begins
    return Grid(image.GetDimensions()[::-1], local, to_world @ local)


def _offset(one: Grid, other: Grid) -> np.ndarray | None:
    """Return where, in voxels (i, j, k) of another grid, a grid on the same lattice begins; None on another one."""
    moved = np.linalg.solve(other.world, one.world)
    offset = np.rint(moved[:3, 3]).astype(int)
    apart = largest_corner_shift(one.shape, moved, offset)
    return offset if apart < GRID_TOLERANCE_VOXELS else None


def _union(first: Grid, others: Sequence[Grid]) -> Grid:
    """Return the smallest grid on the lattice of the first one that covers it and every other one on it."""
    start, stop = np.zeros(3, int), np.array(first.shape[::-1])
    for other in others:
        offset = _offset(other, first)
        if offset is not None:
            start, stop = np.minimum(start, offset), np.maximum(stop, offset + other.shape[::-1])
    world = first.world.copy()
    world[:3, 3] += world[:3, :3] @ start
    return Grid(tuple(int(n) for n in (stop - start)[::-1]), world, world)
