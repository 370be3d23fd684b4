"""Volume node -> Volume: exact voxels and geometry, the node untouched, refusals that say what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from thoraxseg.errors import InputError
from thoraxseg.mrml import volume_from_node

slicer = pytest.importorskip("slicer", reason="needs slicer-core or 3D Slicer")
import vtk  # noqa: E402


def test_importing_the_folder_loads_neither_slicer_nor_vtk():
    code = (
        "import sys, thoraxseg.mrml; "
        "print([m for m in sys.modules if m.split('.')[0] in ('slicer', 'slicer_core', 'vtk', 'vtkmodules')])"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_voxels_and_geometry_arrive_exactly(make_volume, ramp, ijk_to_ras):
    volume = volume_from_node(make_volume(ijk_to_ras))
    assert volume.array.dtype == ramp.dtype
    assert np.array_equal(volume.array, ramp)
    assert np.abs(volume.ijk_to_ras - ijk_to_ras).max() < 1e-9
    assert volume.name == "mouse 7"
    assert volume.notes == ()


def test_the_geometry_is_that_of_the_node_bit_for_bit(make_volume, ijk_to_ras):
    node = make_volume(ijk_to_ras)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    expected = [[matrix.GetElement(r, c) for c in range(4)] for r in range(4)]
    assert volume_from_node(node).ijk_to_ras.tolist() == expected


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int32, np.float32, np.float64])
def test_the_voxel_type_is_kept(make_volume, kind):
    array = np.arange(60).reshape(3, 4, 5).astype(kind)
    assert volume_from_node(make_volume(array=array)).array.dtype == kind


def test_a_parent_transform_is_part_of_the_geometry(make_volume, ijk_to_ras, parent):
    volume = volume_from_node(make_volume(ijk_to_ras, parent))
    expected = ijk_to_ras if parent is None else parent @ ijk_to_ras
    assert np.abs(volume.ijk_to_ras - expected).max() < 1e-9
    assert bool(volume.notes) == (parent is not None)


def test_a_mirrored_scan_gets_its_sides_from_what_is_shown(make_volume):
    node = make_volume(np.diag([1.0, 1, 1, 1]), parent=np.diag([-1.0, 1, 1, 1]))
    assert volume_from_node(node).axis_codes == "LAS"


def test_nested_transforms_are_all_applied(scene, make_volume, to_vtk):
    node = make_volume(parent=np.diag([2.0, 2, 2, 1]))
    outer = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "outer")
    shift = np.eye(4)
    shift[:3, 3] = 10, 20, 30
    outer.SetMatrixTransformToParent(to_vtk(shift))
    node.GetParentTransformNode().SetAndObserveTransformNodeID(outer.GetID())
    volume = volume_from_node(node)
    assert volume.spacing_mm == pytest.approx((2.2, 1.4, 1.0))
    assert volume.ijk_to_ras[:3, 3] == pytest.approx([34.5, -61.0, 44.25])


def test_an_extent_that_does_not_begin_at_zero_keeps_its_place(
    scene, make_volume, image_of, ramp, ijk_to_ras
):
    node = make_volume(ijk_to_ras)
    node.SetAndObserveImageData(image_of(ramp, first=(2, 3, -4)))
    volume = volume_from_node(node)
    assert volume.ijk_to_ras[:, 3] == pytest.approx(ijk_to_ras @ [2, 3, -4, 1], abs=1e-9)


def test_the_copy_is_not_reached_by_edits_of_the_node(make_volume, ramp):
    node = make_volume()
    volume = volume_from_node(node)
    node.GetImageData().GetPointData().GetScalars().Fill(0)
    assert np.array_equal(volume.array, ramp)


def test_the_node_is_not_altered(make_volume, ijk_to_ras, parent):
    node = make_volume(ijk_to_ras, parent)
    before = (node.GetMTime(), node.GetImageData().GetMTime(), node.GetSpacing(), node.GetOrigin())
    volume_from_node(node)
    assert before == (node.GetMTime(), node.GetImageData().GetMTime(), node.GetSpacing(), node.GetOrigin())


def test_nothing_chosen_is_refused():
    with pytest.raises(InputError, match="Choose a volume"):
        volume_from_node(None)


def test_a_node_that_is_no_volume_is_refused(scene):
    node = scene.AddNewNodeByClass("vtkMRMLModelNode", "skin")
    with pytest.raises(InputError, match="skin: expected a scalar volume, got vtkMRMLModelNode"):
        volume_from_node(node)


def test_a_volume_without_voxels_is_refused(scene):
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    with pytest.raises(InputError, match="expected a volume with voxels"):
        volume_from_node(node)


def test_a_color_image_is_refused(make_volume):
    node = make_volume(array=np.zeros((3, 4, 5, 3), np.uint8), kind="vtkMRMLVectorVolumeNode")
    with pytest.raises(InputError, match=r"one value per voxel, got 3 .*Vector to Scalar"):
        volume_from_node(node)


def test_a_warping_transform_is_refused(make_volume, warp):
    node = make_volume()
    node.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(InputError, match=r"non-linear 'warp'\. Harden"):
        volume_from_node(node)


def test_a_shearing_transform_is_refused_by_its_name(make_volume):
    shear = np.eye(4)
    shear[0, 1] = 0.2
    with pytest.raises(InputError, match="parent transform 'table position'"):
        volume_from_node(make_volume(parent=shear))
