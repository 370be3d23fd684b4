"""Volume -> a new volume node: voxels, place, looks and notes; the volume it was made from stays as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from thoraxseg.errors import InputError
from thoraxseg.mrml import volume_from_node, volume_to_node
from thoraxseg.volume import Volume, geometry_from_spacing, to_ras

slicer = pytest.importorskip("slicer", reason="needs slicer-core or 3D Slicer")


def state(node):
    display = node.GetDisplayNode()
    return (
        node.GetMTime(),
        node.GetImageData().GetMTime(),
        display.GetMTime() if display else None,
        node.GetParentTransformNode(),
        node.GetAttribute("ThoraxSeg.Notes"),
    )


def test_voxels_and_geometry_go_there_and_back(make_volume, ijk_to_ras, parent):
    user = make_volume(ijk_to_ras, parent)
    before = state(user)
    volume = volume_from_node(user)
    copy = volume_to_node(volume, user, name="copy")
    assert copy is not user and copy.GetName() == "copy"
    back = volume_from_node(copy)
    assert np.array_equal(back.array, volume.array) and back.array.dtype == volume.array.dtype
    assert np.abs(back.ijk_to_ras - volume.ijk_to_ras).max() < 1e-9
    assert copy.GetParentTransformNode() is user.GetParentTransformNode()
    assert state(user) == before


def test_a_copy_follows_its_parent_as_the_volume_does(make_volume, ijk_to_ras, to_vtk):
    user = make_volume(ijk_to_ras, np.diag([-1.0, 1, 1, 1]))
    copy = volume_to_node(volume_from_node(user), user)
    turn = np.array([[0.0, -1, 0, 3], [1, 0, 0, 0], [0, 0, 1, -2], [0, 0, 0, 1]])
    user.GetParentTransformNode().SetMatrixTransformToParent(to_vtk(turn))
    one, other = volume_from_node(user), volume_from_node(copy)
    assert np.abs(one.ijk_to_ras - other.ijk_to_ras).max() < 1e-9


def test_a_geometry_that_a_stretching_parent_would_shear_is_held_without_parent(make_volume):
    stretched = np.diag([1.0, 1.0, 2.0, 1.0])
    user = make_volume(parent=stretched)
    volume = volume_from_node(user)
    angle = np.radians(30)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag([0.5, 0.7, 1.1])
    copy = volume_to_node(replace(volume, ijk_to_ras=matrix), user)
    assert copy.GetParentTransformNode() is None
    assert np.abs(volume_from_node(copy).ijk_to_ras - matrix).max() < 1e-9


def test_an_assumed_geometry_stays_assumed_with_the_node_and_with_the_scene(make_volume, scene):
    user = make_volume()
    stated = volume_from_node(user)
    assert not stated.geometry_assumed
    assert not volume_from_node(volume_to_node(stated, user)).geometry_assumed
    copy = volume_to_node(replace(stated, geometry_assumed=True), user, name="copy")
    assert volume_from_node(copy).geometry_assumed
    scene.SetSaveToXMLString(1)
    scene.Commit()
    loaded = slicer.vtkMRMLScene()
    loaded.SetLoadFromXMLString(1)
    loaded.SetSceneXMLString(scene.GetSceneXMLString())
    loaded.Import()
    again = loaded.GetFirstNodeByName("copy")
    again.SetAndObserveImageData(copy.GetImageData())
    assert volume_from_node(again).geometry_assumed


def test_notes_stay_with_the_node_and_with_the_scene_and_transforms_are_told_anew(make_volume, scene):
    user = make_volume(parent=np.diag([-1.0, 1, 1, 1]))
    volume = volume_from_node(user).with_notes('said "so"; 100 % <b> \N{GREEK SMALL LETTER MU}m', "and again")
    copy = volume_to_node(volume, user)
    under = "geometry includes the parent transform 'table position'"
    notes = ('said "so"; 100 % <b> \N{GREEK SMALL LETTER MU}m', "and again")
    assert volume_from_node(copy).notes == (*notes, under)
    copy.SetAndObserveTransformNodeID(None)
    assert volume_from_node(copy).notes == notes
    scene.SetSaveToXMLString(1)
    scene.Commit()
    loaded = slicer.vtkMRMLScene()
    loaded.SetLoadFromXMLString(1)
    loaded.SetSceneXMLString(scene.GetSceneXMLString())
    loaded.Import()
    found = [loaded.GetNthNodeByClass(n, "vtkMRMLScalarVolumeNode") for n in range(2)]
    assert {node.GetAttribute("ThoraxSeg.Notes") for node in found} == {
        None,
        copy.GetAttribute("ThoraxSeg.Notes"),
    }


@pytest.mark.parametrize("text", ["{", "7", '{"a": 1}', "null"])
def test_notes_that_were_spoiled_by_hand_are_left_out(make_volume, text):
    node = make_volume()
    node.SetAttribute("ThoraxSeg.Notes", text)
    assert volume_from_node(node).notes == ()


def test_a_copy_is_shown_like_the_volume(make_volume, scene):
    user = make_volume()
    user.CreateDefaultDisplayNodes()
    colors = scene.AddNewNodeByClass("vtkMRMLColorTableNode", "colors")
    display = user.GetDisplayNode()
    display.SetAndObserveColorNodeID(colors.GetID())
    display.AutoWindowLevelOff()
    display.SetWindowLevel(321, 45)
    display.SetThreshold(-7, 99)
    display.ApplyThresholdOn()
    display.InterpolateOff()
    before = state(user)
    shown = volume_to_node(volume_from_node(user), user).GetDisplayNode()
    assert shown is not display
    assert (shown.GetWindow(), shown.GetLevel(), shown.GetAutoWindowLevel()) == (321, 45, 0)
    assert (shown.GetLowerThreshold(), shown.GetUpperThreshold(), shown.GetApplyThreshold()) == (-7, 99, 1)
    assert shown.GetColorNodeID() == colors.GetID() and shown.GetInterpolate() == 0
    assert state(user) == before


def test_a_volume_that_was_made_here_only_needs_a_scene(scene):
    volume = Volume(
        np.arange(24).reshape(2, 3, 4).astype(np.int16), geometry_from_spacing((3, 2, 1), "LPS"), "made"
    )
    node = volume_to_node(volume, scene=scene)
    back = volume_from_node(node)
    assert node.GetName() == "made" and np.array_equal(back.array, volume.array)
    assert np.allclose(to_ras(back.ijk_to_ras, [[1, 2, 3]]), to_ras(volume.ijk_to_ras, [[1, 2, 3]]))


@pytest.mark.parametrize("kind", [">i2", "<f8", np.float16, np.uint64])
def test_every_type_of_voxels_gets_into_a_node(scene, kind):
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    back = volume_from_node(volume_to_node(Volume(array, np.eye(4)), scene=scene))
    assert np.array_equal(back.array, array)


def test_without_a_scene_nothing_is_made(scene, make_volume):
    volume = Volume(np.zeros((2, 2, 2)), np.eye(4), "alone")
    with pytest.raises(InputError, match="expected a scene"):
        volume_to_node(volume)
    loose = slicer.vtkMRMLScalarVolumeNode()
    with pytest.raises(InputError, match="in no scene"):
        volume_to_node(volume, loose)
    with pytest.raises(InputError, match="in another scene"):
        volume_to_node(volume, make_volume(), slicer.vtkMRMLScene())


def test_a_warped_parent_is_refused_and_leaves_nothing(scene, make_volume, warp):
    user = make_volume()
    volume = volume_from_node(user)
    user.SetAndObserveTransformNodeID(warp.GetID())
    count = scene.GetNumberOfNodes()
    with pytest.raises(InputError, match="non-linear"):
        volume_to_node(volume, user)
    assert scene.GetNumberOfNodes() == count
