"""A scene, volumes with known geometry in it, and voxels as Slicer itself reads them back."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.made_results import bent_transform


def rotation(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    """Return the `(3, 3)` rotation about an axis (Rodrigues' formula)."""
    x, y, z = np.array(axis, dtype=float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def placed(directions: np.ndarray, spacing=(0.5, 0.7, 1.1), origin=(12.25, -40.5, 7.125)) -> np.ndarray:
    """Return an `ijk_to_ras` with columns `directions` times spacing (i, j, k) in mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = directions * np.array(spacing)
    matrix[:3, 3] = origin
    return matrix


PERMUTED = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
GEOMETRIES = {
    "straight": placed(np.eye(3)),
    "lps": placed(np.diag([-1.0, -1.0, 1.0])),
    "left-handed": placed(np.diag([1.0, 1.0, -1.0])),
    "permuted": placed(PERMUTED),
    "oblique": placed(rotation((1, 2, 3), 25)),
    "oblique permuted left-handed": placed(rotation((3, -1, 2), -40) @ PERMUTED @ np.diag([1.0, -1.0, 1.0])),
    "mouse micro-CT": placed(rotation((0, 1, 1), 3), spacing=(0.02, 0.02, 0.035), origin=(0.1, 0.2, 0.3)),
}
PARENTS = {
    "no parent": None,
    "moved and turned": placed(rotation((1, 0, 2), 70), spacing=(1, 1, 1), origin=(100, -3, 8)),
    "mirrored": placed(np.diag([-1.0, 1.0, 1.0]), spacing=(1, 1, 1), origin=(5, 0, 0)),
}
SHAPE = (5, 6, 7)
"""Voxels along (k, j, i): different along each axis, so that swapped axes show."""


@pytest.fixture
def scene():
    """An empty MRML scene without application and module logics."""
    slicer = pytest.importorskip("slicer", reason="needs slicer-core or 3D Slicer")
    return slicer.vtkMRMLScene()


@pytest.fixture
def to_vtk():
    """Make a vtkMatrix4x4 of an array."""
    vtk = pytest.importorskip("vtk", reason="needs slicer-core or 3D Slicer")

    def make(matrix: np.ndarray):
        result = vtk.vtkMatrix4x4()
        result.DeepCopy(matrix.ravel().tolist())
        return result

    return make


@pytest.fixture
def image_of():
    """Make a vtkImageData (or a subclass) of an array, without the code under test."""
    vtk = pytest.importorskip("vtk", reason="needs slicer-core or 3D Slicer")
    from vtk.util.numpy_support import numpy_to_vtk

    def make(array: np.ndarray, image=None, first=(0, 0, 0)):
        image = vtk.vtkImageData() if image is None else image
        last = [f + n - 1 for f, n in zip(first, array.shape[2::-1], strict=True)]
        image.SetExtent(first[0], last[0], first[1], last[1], first[2], last[2])
        flat = array.reshape(-1, array.shape[3]) if array.ndim == 4 else array.ravel()
        image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(flat), deep=True))
        return image

    return make


@pytest.fixture
def ramp() -> np.ndarray:
    """An asymmetric int16 image: every voxel has its own value."""
    return (np.arange(np.prod(SHAPE), dtype=np.int16) * 3 - 200).reshape(SHAPE)


@pytest.fixture
def make_volume(scene, to_vtk, image_of, ramp):
    """Put a volume into the scene: geometry, and the matrix of a parent transform if one is wanted."""

    def make(ijk_to_ras=GEOMETRIES["straight"], parent=None, array=None, kind="vtkMRMLScalarVolumeNode"):
        node = scene.AddNewNodeByClass(kind, "mouse 7")
        node.SetAndObserveImageData(image_of(ramp if array is None else array))
        node.SetIJKToRASMatrix(to_vtk(ijk_to_ras))
        if parent is not None:
            transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "table position")
            transform.SetMatrixTransformToParent(to_vtk(parent))
            node.SetAndObserveTransformNodeID(transform.GetID())
        return node

    return make


@pytest.fixture
def warp(scene):
    """A non-linear transform node."""
    return bent_transform(scene)


@pytest.fixture
def voxels():
    """Read one segment as Slicer reads it: `(bool array on a grid of SHAPE, (4, 4) image to world)`."""
    slicer = pytest.importorskip("slicer", reason="needs slicer-core or 3D Slicer")
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    def read(node, key: str, shape=SHAPE):
        image = slicer.vtkOrientedImageData()
        assert node.GetBinaryLabelmapRepresentation(key, image)
        mask = np.zeros(shape, dtype=bool)
        scalars = image.GetPointData().GetScalars()
        if scalars is not None and scalars.GetNumberOfTuples():
            array = vtk_to_numpy(scalars).reshape(image.GetDimensions()[::-1])
            i, _, j, _, k, _ = image.GetExtent()
            kk, jj, ii = array.shape
            mask[k : k + kk, j : j + jj, i : i + ii] = array != 0
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        return mask, np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])

    return read


def pytest_generate_tests(metafunc) -> None:
    """Run a test that names `ijk_to_ras` or `parent` for every geometry or parent transform above."""
    if "ijk_to_ras" in metafunc.fixturenames:
        metafunc.parametrize("ijk_to_ras", GEOMETRIES.values(), ids=GEOMETRIES)
    if "parent" in metafunc.fixturenames:
        metafunc.parametrize("parent", PARENTS.values(), ids=PARENTS)
