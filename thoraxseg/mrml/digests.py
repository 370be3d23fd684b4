"""Digests of nodes: whether voxels, or their place in the patient, are still the same.

A digest is written into a scene beside a result, so it must come out the same after saving and loading.
"""

from __future__ import annotations

import hashlib

import numpy as np

from thoraxseg.mrml.grids import grid_of, image_to_local
from thoraxseg.mrml.volumes import array_of

STEPS_PER_VOXEL = 1024
"""Geometry is told apart in a digest by this part of a voxel: less is the rounding of files."""


def digest_of_volume(volume_node) -> str:
    """Return the SHA-256 of the voxels of a volume node and their place in the patient, parent transform included.

    Saving and loading do not change it, nor do display and name. Raises InputError for what `volume_from_node`
    refuses.
    """
    grid = grid_of(volume_node)
    digest = hashlib.sha256()
    _add_array(digest, array_of(volume_node.GetImageData()))
    digest.update(_steps(grid.world))
    return digest.hexdigest()


def digest_of_segmentation(segmentation_node) -> str:
    """Return the SHA-256 of the voxels and names of all segments, in the coordinates of the node.

    It does not change with saving and loading, the order and colors of segments, or how Slicer stores them (layers,
    label values, extents); it changes with one voxel of one segment.
    """
    import slicer

    segmentation = segmentation_node.GetSegmentation()
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    digest = hashlib.sha256()
    for key in sorted(segmentation.GetSegmentIDs()):
        segment = segmentation.GetSegment(key)
        layer = segment.GetRepresentation(representation)
        digest.update(f"{key}\0{segment.GetName()}\0".encode())
        if layer is None or layer.GetPointData().GetScalars() is None or layer.GetNumberOfPoints() == 0:
            continue
        mask = array_of(layer) == segment.GetLabelValue()
        box = _box_around(mask)
        if box is None:
            continue
        first = np.array([part.start for part in box[::-1]]) + layer.GetExtent()[::2]
        place = image_to_local(layer)
        place[:3, 3] += place[:3, :3] @ first
        _add_array(digest, np.packbits(mask[box]), mask[box].shape)
        digest.update(_steps(place))
    return digest.hexdigest()


def _add_array(digest, array: np.ndarray, shape: tuple[int, ...] | None = None) -> None:
    digest.update(f"{array.dtype.str}{shape or array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)


def _steps(index_to_mm: np.ndarray) -> bytes:
    """Return a `(4, 4)` geometry in whole steps of about a thousandth of its smallest voxel edge."""
    edge = np.linalg.norm(index_to_mm[:3, :3], axis=0).min()
    step = (
        2.0 ** np.rint(np.log2(edge)) / STEPS_PER_VOXEL
    )  # a power of two: rounding does not change the step
    return np.rint(index_to_mm[:3] / step).astype("<i8").tobytes()


def _box_around(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    """Return the smallest box, along (k, j, i), that holds all of a mask; None for an empty one."""
    box = []
    for axis in range(3):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not filled.size:
            return None
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)
