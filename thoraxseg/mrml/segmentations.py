"""Segmentation -> segmentation node, and corrected contours back onto the grid of the volume."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.mrml.grids import (
    GRID_TOLERANCE_VOXELS,
    Grid,
    class_name,
    grid_of,
    image_to_local,
    largest_corner_shift,
    local_to_world,
    new_node,
    node_name,
    parent_id,
    require_same_grid,
    scene_of,
    to_vtk,
)
from thoraxseg.mrml.structures import SegmentFacts, structures_of
from thoraxseg.mrml.volumes import array_of, fill_image
from thoraxseg.segmentation import Segmentation, Structure, Terminology

logger = logging.getLogger(__name__)

LABEL_TAG = "ThoraxSeg.Label"
"""Segment tag with the label a segment came from; saved in `.seg.nrrd` and scene files."""
MAX_LABEL = 2**31 - 1


def segmentation_to_node(
    segmentation: Segmentation,
    volume_node,
    scene=None,
    name: str | None = None,
    algorithm_name: str | None = None,
):
    """Return a new vtkMRMLSegmentationNode that overlays the volume voxel for voxel.

    One segment per structure, in the order of the structures: ID = key, with name, color and codes;
    an absent structure is an empty segment. All share one layer, the label map itself, in which each
    segment is told its label: no list of IDs that labels are counted against, so a missing label
    cannot shift the organs. The volume becomes the reference geometry, and its parent transform the
    segmentation's; the volume node is not altered. `algorithm_name` marks contours that a program
    drew (DICOM: AUTOMATIC); leave it out for contours drawn by hand.

    Raises InputError when the segmentation is not on the grid of the volume (0.001 voxel), when the
    volume is in another scene, or for labels below 1 or keys used twice.
    """
    grid = grid_of(volume_node)
    require_same_grid(grid, segmentation.labels.shape, segmentation.name, segmentation.ijk_to_ras)
    _check_structures(segmentation)
    scene = scene_of(volume_node, scene)

    with new_node(scene, "vtkMRMLSegmentationNode", name or segmentation.name) as node:
        node.SetAndObserveTransformNodeID(parent_id(volume_node))
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
        node.CreateDefaultDisplayNodes()
        layer = _layer_image(segmentation, grid)
        for label, structure in segmentation.structures.items():
            segment = _segment(layer, label, structure, algorithm_name)
            if not node.GetSegmentation().AddSegment(segment, structure.key):
                raise InputError(f"{segmentation.name}: Slicer refused the segment {structure.key!r}.")
        _put_beside(node, volume_node, scene)
    return node


def segmentation_from_node(segmentation_node, volume_node) -> Segmentation:
    """Return the contours of a node, corrected by whomever, as labels on the grid of the volume.

    Each segment is one structure (see `structures_of`); one that came from `segmentation_to_node`
    keeps its label, any other keeps the label Slicer stores it with if that is free, else gets the next
    free number in the order of the segments. Segments on voxels of the volume are copied exactly;
    those on another grid (edited finer, other parent transform) are brought over by nearest neighbor,
    which the log says. Neither node is altered. `ijk_to_ras` is that of `volume_from_node`.

    Raises InputError when segments overlap (a label map holds one structure per voxel), when contours
    reach outside the volume, when a segment has no binary labelmap, or under non-linear transforms.
    """
    grid = grid_of(volume_node)
    name = node_name(segmentation_node)
    if not (hasattr(segmentation_node, "IsA") and segmentation_node.IsA("vtkMRMLSegmentationNode")):
        raise InputError(
            f"{name}: expected a segmentation, got {class_name(segmentation_node)}. Choose a segmentation."
        )
    segments = _segments(segmentation_node)
    facts = [_facts(key, segment) for key, segment in segments.items()]
    values = _values(facts, list(segments.values()))
    labels = np.zeros(grid.shape, dtype=_smallest_type(max(values, default=1)))
    node_to_world = local_to_world(segmentation_node)
    overlaps = []
    layer, placed = None, None
    for fact, segment, value in zip(facts, segments.values(), values, strict=True):
        image = _binary_labelmap(segment, fact.name, name)
        if image.GetPointData().GetScalars() is None or image.GetNumberOfPoints() == 0:
            continue
        if image is not layer:  # segments of a shared layer follow one another
            layer, placed = image, _place(image, node_to_world, grid, name)
        outside = placed.count_outside(segment.GetLabelValue())
        if outside:
            moved = parent_id(segmentation_node) != parent_id(volume_node)
            raise InputError(
                f"{name}: expected contours inside {node_name(volume_node)!r}, got {outside} voxels of "
                f"{fact.name!r} outside it. Choose the volume that was contoured, "
                f"{'put both under the same transform, ' if moved else ''}or erase them."
            )
        inside = placed.array == segment.GetLabelValue()
        target = labels[placed.region]
        covered = target[inside & (target != 0)]
        for other, count in zip(*np.unique(covered, return_counts=True), strict=True):
            before = facts[values.index(int(other))].name
            overlaps.append(f"{before!r} and {fact.name!r} in {count} voxels")
        target[inside] = value
    if overlaps:
        raise InputError(
            f"{name}: expected one structure per voxel, got overlapping segments: {'; '.join(overlaps)}. "
            "Take one from the other in the Segment Editor: Logical operators, Subtract."
        )
    structures = dict(zip(values, structures_of(facts), strict=True))
    return Segmentation(labels, grid.world, structures, name=name)


def _check_structures(segmentation: Segmentation) -> None:
    wrong = [label for label in segmentation.structures if not 1 <= label <= MAX_LABEL]
    if wrong:
        raise InputError(
            f"{segmentation.name}: expected labels 1 to {MAX_LABEL}, got {wrong}. Renumber them."
        )
    keys = Counter(structure.key for structure in segmentation.structures.values())
    twice = [key for key, count in keys.items() if count > 1]
    if twice:
        raise InputError(
            f"{segmentation.name}: expected every structure once, got {twice} for several labels. Merge them."
        )


def _smallest_type(largest: int) -> type:
    return np.uint8 if largest <= 255 else np.int16 if largest <= 32767 else np.int32


def _layer_image(segmentation: Segmentation, grid: Grid):
    import slicer

    image = slicer.vtkOrientedImageData()
    largest = max(segmentation.structures, default=1)
    fill_image(image, segmentation.labels.astype(_smallest_type(largest), copy=False))
    image.SetImageToWorldMatrix(to_vtk(grid.local))
    return image


def _segment(layer, label: int, structure: Structure, algorithm_name: str | None):
    import slicer

    segment = slicer.vtkSegment()
    segment.SetName(structure.name)
    segment.SetNameAutoGenerated(False)
    segment.SetColor(*structure.color)
    segment.SetColorAutoGenerated(False)
    segment.SetTag(segment.GetTerminologyEntryTagName(), structure.terminology.to_slicer())
    segment.SetTag(LABEL_TAG, str(label))
    if algorithm_name:  # DICOM wants both: a type that is not manual needs a name
        segment.SetTag("DICOM.SegmentAlgorithmType", "AUTOMATIC")
        segment.SetTag("DICOM.SegmentAlgorithmName", algorithm_name)
    segment.SetLabelValue(label)  # before the voxels: afterwards the segment would read back empty
    segment.AddRepresentation(_labelmap_name(), layer)
    return segment


def _labelmap_name() -> str:
    import slicer

    return slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


def _put_beside(node, volume_node, scene) -> None:
    """File the segmentation in the subject-hierarchy study of the volume, where the scene has one."""
    hierarchy = scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
    if hierarchy is None:
        return
    item, volume_item = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(volume_node)
    if item and volume_item:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(volume_item))


def _segments(node) -> dict:
    segmentation = node.GetSegmentation()
    keys = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    return {key: segmentation.GetSegment(key) for key in keys}


def _facts(key: str, segment) -> SegmentFacts:
    label = _tag(segment, LABEL_TAG)
    return SegmentFacts(
        id=key,
        name=segment.GetName() or key,
        color=tuple(segment.GetColor()),
        terminology=Terminology.from_slicer(_tag(segment, segment.GetTerminologyEntryTagName())),
        label=int(label) if label.isdecimal() and 1 <= int(label) <= MAX_LABEL else None,
    )


def _tag(segment, tag: str) -> str:
    import vtk

    value = vtk.reference("")
    return str(value) if segment.GetTag(tag, value) else ""


def _values(facts: list[SegmentFacts], segments: list) -> list[int]:
    """Return a label of its own for every segment: the one noted on it, else Slicer's, else a free one."""
    values: dict[int, int] = {}
    for wishes in ([fact.label for fact in facts], [segment.GetLabelValue() for segment in segments]):
        for index, wish in enumerate(wishes):
            if index not in values and wish not in values.values() and wish is not None and wish > 0:
                values[index] = int(wish)
    for index in range(len(facts)):
        if index not in values:
            values[index] = max(values.values(), default=0) + 1
    return [values[index] for index in range(len(facts))]


def _binary_labelmap(segment, segment_name: str, name: str):
    layer = segment.GetRepresentation(_labelmap_name())
    if layer is None:
        raise InputError(
            f"{name}: expected voxels for {segment_name!r}, got a segment without a binary labelmap. Create "
            "it in the Segmentations module: Representations, Binary labelmap, Create."
        )
    return layer


@dataclass(frozen=True)
class _Placed:
    """A layer brought onto the grid of the volume."""

    region: tuple[slice, slice, slice]
    """The part of the grid, (k, j, i), that the layer covers."""
    array: np.ndarray
    """Its values there."""
    count_outside: Callable[[int], int]
    """How many voxels of the layer with a value lie outside the grid."""


def _place(layer, node_to_world: np.ndarray, grid: Grid, name: str) -> _Placed:
    """Return a layer on the grid: its own voxels where both share a lattice, else the nearest ones."""
    array = array_of(layer)
    layer_to_local = image_to_local(layer)
    layer_to_local[:3, 3] += layer_to_local[:3, :3] @ layer.GetExtent()[::2]
    layer_to_world = node_to_world @ layer_to_local
    grid_to_layer = np.linalg.solve(layer_to_world, grid.world)
    offset = np.rint(grid_to_layer[:3, 3]).astype(int)
    if largest_corner_shift(grid.shape, grid_to_layer, offset) < GRID_TOLERANCE_VOXELS:
        start = np.maximum(-offset, 0)
        stop = np.maximum(np.minimum(array.shape[::-1] - offset, grid.shape[::-1]), start)
        common = array[_box(start + offset, stop + offset)] if (stop > start).all() else array[:0, :0, :0]
        region = _box(start, stop) if common.size else _box((0, 0, 0), (0, 0, 0))

        def count_cropped(value: int) -> int:
            if common.size == array.size:
                return 0
            return int(np.count_nonzero(array == value) - np.count_nonzero(common == value))

        return _Placed(region, common, count_cropped)

    logger.info("%s: contours brought onto the grid of the volume by nearest neighbor", name)
    resampled = _resample(layer, np.linalg.solve(node_to_world, grid.world), grid.shape)
    layer_to_grid = np.linalg.inv(grid_to_layer)
    return _Placed(
        _box((0, 0, 0), grid.shape[::-1]),
        resampled,
        lambda value: _count_beyond(array, value, layer_to_grid, grid.shape),
    )


def _box(start, stop) -> tuple[slice, slice, slice]:
    """Return the slices along (k, j, i) from `start` to before `stop`, both (i, j, k)."""
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))[::-1]


def _count_beyond(array: np.ndarray, value: int, to_grid: np.ndarray, shape: tuple[int, int, int]) -> int:
    """Return how many voxels with a value have their center outside a grid of `shape`."""
    last = np.array(shape[::-1])[:, None] - 0.5
    beyond = 0
    for k, plane in enumerate(array):
        j, i = np.nonzero(plane == value)
        ijk = to_grid[:3] @ np.stack([i, j, np.full_like(i, k), np.ones_like(i)])
        outside = (ijk < -0.5 - GRID_TOLERANCE_VOXELS) | (ijk > last + GRID_TOLERANCE_VOXELS)
        beyond += int(outside.any(axis=0).sum())
    return beyond


def _resample(layer, grid_to_local: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    import slicer

    reference, result = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData()
    fill_image(reference, np.zeros(shape, dtype=np.uint8))
    reference.SetImageToWorldMatrix(to_vtk(grid_to_local))
    resample = slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage
    if not resample(layer, reference, result, False):
        raise InputError("the segmentation could not be brought onto the grid of the volume by Slicer.")
    return array_of(result)
