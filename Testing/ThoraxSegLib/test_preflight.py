"""Lights for nodes, fixes on copies of nodes, and which voxels a region of interest means."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk

from Testing.made_results import bent_transform, put_under
from Testing.painted import painted_checkpoint
from thoraxseg.errors import InputError, OptionError
from thoraxseg.mrml import volume_from_node
from thoraxseg.precheck import FIXES, KEYS, Level
from thoraxseg.volume import to_ras

TURNED = np.array([[0.0, -1, 0, 30], [1, 0, 0, -4], [0, 0, 1, 7], [0, 0, 0, 1]])
MIRRORED = np.diag([-1.0, 1, 1, 1])
TILTED = np.eye(4)
TILTED[:2, :2] = [[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]]
PARENTS = {"no parent": None, "turned": TURNED, "mirrored": MIRRORED, "tilted": TILTED}
ARGUMENTS = {
    "set_spacing": {"spacing_mm": (0.14, 0.15, 0.16)},
    "declare_orientation": {"codes": "RAS"},
    "reorient": {"codes": "SAR"},
    "swap_sides": {},
    "enhance_contrast": {},
}


def under(node, matrix):
    """Put a node under a linear transform, or None, and return it."""
    if matrix is not None:
        put_under(matrix, node)
    return node


@pytest.fixture
def preflight(thoraxLogic):
    return thoraxLogic.preflight


@pytest.fixture
def warp(scene):
    return bent_transform(scene)


@pytest.fixture
def region(scene):
    """Make a region of interest around a center, in mm of its own coordinates."""

    def make(center, size):
        node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "chest")
        node.SetCenter(*map(float, center))
        node.SetSize(*map(float, size))
        return node

    return make


def levels(found):
    assert [light.key for light in found] == list(KEYS)
    return {light.key: light.level for light in found}


def only(found, key, words):
    """One light is red with these words, the others are unknown."""
    assert levels(found) == {k: Level.RED if k == key else Level.UNKNOWN for k in KEYS}
    assert words in next(light for light in found if light.key == key).sentence


def state(node):
    display = node.GetDisplayNode()
    return (
        node.GetName(),
        node.GetMTime(),
        node.GetImageData().GetMTime(),
        display.GetMTime() if display is not None else None,
        node.GetParentTransformNode(),
        slicer.util.arrayFromVolume(node).tobytes(),
    )


# Lights


def test_a_volume_like_the_training_images_is_green_all_over(preflight, mouse):
    assert set(levels(preflight.lights(mouse, "painted-thorax")).values()) == {Level.GREEN}


@pytest.mark.parametrize("matrix", [TURNED, TILTED], ids=["turned", "tilted"])
def test_a_volume_under_a_linear_transform_is_judged_as_it_is_shown(preflight, mouse, matrix):
    under(mouse, matrix)
    found = preflight.lights(mouse, "painted-thorax")
    assert set(levels(found).values()) == {Level.GREEN}
    codes = volume_from_node(mouse).axis_codes
    assert codes in next(light for light in found if light.key == "orientation").sentence
    scaled = under(mouse, np.diag([30.0, 30, 30, 1]))
    assert levels(preflight.lights(scaled, "painted-thorax"))["spacing"] is Level.RED


def test_no_volume_is_red_with_what_to_do(preflight):
    only(preflight.lights(None, "painted-thorax"), "channels", "Choose a volume first")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("vtkMRMLModelNode", "expected a scalar volume, got vtkMRMLModelNode"),
        ("vtkMRMLSegmentationNode", "expected a scalar volume"),
        ("vtkMRMLSequenceNode", "of a sequence choose the volume that shows one time point"),
        ("vtkMRMLScalarVolumeNode", "expected a volume with voxels"),
    ],
)
def test_a_node_that_is_no_image_is_red(preflight, scene, kind, words):
    only(preflight.lights(scene.AddNewNodeByClass(kind, "thing"), "painted-thorax"), "channels", words)


def test_a_vector_volume_is_red(preflight, scene):
    node = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "color")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 5, 6)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    node.SetAndObserveImageData(image)
    only(preflight.lights(node, "painted-thorax"), "channels", "one value per voxel, got 3")


def test_a_label_map_is_red(preflight, scene, mouse):
    node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    slicer.util.updateVolumeFromArray(node, slicer.util.arrayFromVolume(mouse))
    only(preflight.lights(node, "painted-thorax"), "intensity", "is a label map")


def test_a_warped_volume_is_red(preflight, mouse, warp):
    mouse.SetAndObserveTransformNodeID(warp.GetID())
    only(preflight.lights(mouse, "painted-thorax"), "orientation", "non-linear 'warp'")


def test_a_spacing_that_no_scanner_has_is_red(preflight, mouse):
    mouse.SetSpacing(140, 140, 140)  # micrometers taken for millimeters
    only(preflight.lights(mouse, "painted-thorax"), "spacing", "between 0.0001 and 100 mm")


@pytest.mark.parametrize(("name", "words"), [("", "No checkpoint is chosen"), ("no-such", "'no-such'")])
def test_a_checkpoint_that_is_not_there_is_said_and_the_volume_first(preflight, mouse, name, words):
    only(preflight.lights(mouse, name), "channels", words)
    only(preflight.lights(None, name), "channels", "Choose a volume first")


def test_a_region_narrows_what_is_judged_and_one_elsewhere_is_red(preflight, mouse, region):
    small = region(volume_from_node(mouse).ijk_to_ras[:3] @ (20, 19, 22, 1), (6, 6, 6))
    found = preflight.lights(mouse, "painted-thorax", small)
    light = next(light for light in found if light.key == "field_of_view")
    assert light.level is Level.YELLOW and "region of interest" in light.sentence
    only(
        preflight.lights(mouse, "painted-thorax", region((900, 0, 0), (5, 5, 5))),
        "field_of_view",
        "lies outside",
    )
    only(preflight.lights(mouse, "painted-thorax", mouse), "field_of_view", "expected a region of interest")


def test_an_unchanged_volume_is_not_looked_at_twice_and_a_changed_one_is(preflight, mouse, monkeypatch):
    looks = []
    look = preflight._look
    monkeypatch.setattr(preflight, "_look", lambda *args: looks.append(1) or look(*args))
    assert preflight.lights(mouse, "painted-thorax") == preflight.lights(mouse, "painted-thorax")
    assert len(looks) == 1
    array = slicer.util.arrayFromVolume(mouse)
    array += 1000
    mouse.GetImageData().Modified()  # as a filter does, which knows no node
    assert levels(preflight.lights(mouse, "painted-thorax"))["intensity"] is Level.YELLOW
    array[:] = 7
    slicer.util.arrayFromVolumeModified(mouse)
    assert levels(preflight.lights(mouse, "painted-thorax"))["intensity"] is Level.RED
    mouse.SetSpacing(20, 20, 20)
    assert levels(preflight.lights(mouse, "painted-thorax"))["spacing"] is Level.RED
    under(mouse, np.diag([0.025, 0.025, 0.025, 1.0]))
    assert levels(preflight.lights(mouse, "painted-thorax"))["spacing"] is Level.GREEN
    mouse.GetParentTransformNode().SetMatrixTransformToParent(vtk.vtkMatrix4x4())
    assert levels(preflight.lights(mouse, "painted-thorax"))["spacing"] is Level.RED


def test_a_region_that_moved_and_a_checkpoint_that_arrived_are_seen(preflight, mouse, region, home):
    center = volume_from_node(mouse).ijk_to_ras[:3] @ (20, 19, 22, 1)
    chest = region(center, (60, 60, 60))
    assert levels(preflight.lights(mouse, "painted-thorax", chest))["field_of_view"] is Level.GREEN
    chest.SetSize(3, 3, 3)
    assert levels(preflight.lights(mouse, "painted-thorax", chest))["field_of_view"] is Level.YELLOW
    assert levels(preflight.lights(mouse, "late"))["channels"] is Level.RED
    painted_checkpoint(home / "scratch", changes={"name": "late"}).rename(home / "checkpoints" / "late")
    assert levels(preflight.lights(mouse, "late"))["channels"] is Level.GREEN


def test_further_channels_are_judged_too(preflight, mouse, toNode, paintedThorax):
    other = toNode(paintedThorax.volume, "other")
    found = preflight.lights(mouse, "painted-thorax", channelNodes=[other])
    assert levels(found)["channels"] is Level.RED
    only(preflight.lights(mouse, "painted-thorax", channelNodes=[None]), "channels", "Choose a volume first")


# Fixes


@pytest.mark.parametrize("parent", PARENTS.values(), ids=PARENTS)
@pytest.mark.parametrize("key", FIXES)
def test_a_fix_makes_a_new_volume_that_is_right_in_the_patient(preflight, mouse, key, parent):
    under(mouse, parent)
    before, given = state(mouse), volume_from_node(mouse)
    node = preflight.fix(mouse, key, **ARGUMENTS[key])
    assert state(mouse) == before
    assert node is not mouse and node.GetScene() is mouse.GetScene()
    assert node.GetName() == f"mouse ({FIXES[key].done})"
    assert node.GetParentTransformNode() is mouse.GetParentTransformNode()
    wanted, got = FIXES[key].apply(given, **ARGUMENTS[key]), volume_from_node(node)
    assert np.array_equal(got.array, wanted.array)
    assert np.abs(got.ijk_to_ras - wanted.ijk_to_ras).max() < 1e-9
    assert got.axis_codes == wanted.axis_codes


@pytest.mark.parametrize("parent", PARENTS.values(), ids=PARENTS)
def test_swapped_sides_are_those_that_the_user_sees(preflight, mouse, parent):
    under(mouse, parent)
    before, after = volume_from_node(mouse), volume_from_node(preflight.fix(mouse, "swap_sides"))
    corner = [[0, 0, 0], [3, 2, 1]]
    one, other = to_ras(before.ijk_to_ras, corner), to_ras(after.ijk_to_ras, corner)
    assert one[:, 1:] == pytest.approx(other[:, 1:])
    middle = to_ras(before.ijk_to_ras, [(np.array(before.shape) - 1) / 2])[0, 0]
    assert one[:, 0] + other[:, 0] == pytest.approx([2 * middle] * 2)


def test_a_declared_orientation_holds_under_a_parent_that_stretches(preflight, mouse):
    under(mouse, TILTED @ np.diag([1.0, 1.0, 2.0, 1.0]))
    node = preflight.fix(mouse, "declare_orientation", codes="RAS")
    assert volume_from_node(node).axis_codes == "RAS"
    assert volume_from_node(node).spacing_mm == pytest.approx(volume_from_node(mouse).spacing_mm)


def test_what_was_done_is_kept_for_the_record_also_by_a_second_fix_and_in_the_scene_file(
    preflight, mouse, scene, tmp_path
):
    first = preflight.fix(mouse, "swap_sides")
    second = preflight.fix(first, "set_spacing", spacing_mm=(0.4, 0.4, 0.4))
    assert second.GetName() == "mouse (sides swapped) (spacing set)"
    notes = volume_from_node(second).notes
    assert len(notes) == 2 and "Right and left were exchanged" in notes[0] and "spacing was set" in notes[1]
    assert volume_from_node(mouse).notes == ()
    path = tmp_path / "saved.mrb"
    assert slicer.util.saveScene(str(path))
    scene.Clear(False)
    slicer.util.loadScene(str(path))
    loaded = scene.GetFirstNodeByName("mouse (sides swapped) (spacing set)")
    assert volume_from_node(loaded).notes == notes


def test_a_fixed_volume_lies_beside_the_users_and_is_shown_like_it(preflight, mouse, scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.CreateItem(study, mouse)
    mouse.GetDisplayNode().AutoWindowLevelOff()
    mouse.GetDisplayNode().SetWindowLevel(300, 250)
    node = preflight.fix(mouse, "swap_sides")
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    assert (node.GetDisplayNode().GetWindow(), node.GetDisplayNode().GetLevel()) == (300, 250)


def test_a_fix_turns_its_light_green(preflight, mouse):
    mouse.SetSpacing(20, 20, 20)
    found = preflight.lights(mouse, "painted-thorax")
    light = next(light for light in found if light.key == "spacing")
    assert light.level is Level.RED and light.fixes == ("set_spacing",)
    node = preflight.fix(mouse, "set_spacing", spacing_mm=(0.5, 0.5, 0.5))
    assert set(levels(preflight.lights(node, "painted-thorax")).values()) == {Level.GREEN}


@pytest.mark.parametrize(
    ("key", "arguments", "words"),
    [
        ("polish", {}, "Unknown fix 'polish'; known are set_spacing"),
        ("set_spacing", {}, "expected spacing_mm .*, got nothing"),
        ("swap_sides", {"codes": "LPS"}, "expected nothing, got codes"),
        ("set_spacing", {"spacing_mm": (0, 1, 1)}, "expected three numbers"),
        ("reorient", {"codes": "ABC"}, "expected three axis letters"),
    ],
)
def test_a_wrong_fix_is_an_option_error_and_makes_nothing(preflight, mouse, scene, key, arguments, words):
    count = scene.GetNumberOfNodes()
    with pytest.raises(OptionError, match=words):
        preflight.fix(mouse, key, **arguments)
    assert scene.GetNumberOfNodes() == count


def test_a_fix_of_no_image_is_an_input_error(preflight, scene):
    for node in (None, scene.AddNewNodeByClass("vtkMRMLModelNode", "skin")):
        with pytest.raises(InputError):
            preflight.fix(node, "swap_sides")


# The region of interest


def voxelsInside(roi, volumeNode):
    """Return the box of all voxels whose cubes the region meets, found by trying a fine grid of points in it."""
    half = np.array(roi.GetSize()) / 2
    steps = [np.linspace(-h, h, 41) for h in half * (1 - 1e-9)]
    points = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
    world = slicer.util.arrayFromVTKMatrix(roi.GetObjectToWorldMatrix())
    ras = points @ world[:3, :3].T + world[:3, 3]
    volume = volume_from_node(volumeNode)
    inverse = np.linalg.inv(volume.ijk_to_ras)
    kji = np.rint(ras @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)[:, ::-1]
    low, high = np.maximum(kji.min(axis=0), 0), np.minimum(kji.max(axis=0) + 1, volume.shape)
    return tuple(zip(low.tolist(), high.tolist(), strict=True))


def test_no_region_means_the_whole_volume(preflight, mouse):
    assert preflight.boxOf(None, mouse) is None


def test_a_region_along_the_edges_of_voxels_gives_just_these(preflight, mouse, region):
    matrix = volume_from_node(mouse).ijk_to_ras
    low, high = np.array([3, 5, 7]) - 0.5, np.array([9, 10, 20]) - 0.5  # i, j, k
    ends = np.array([matrix[:3] @ [*ijk, 1] for ijk in (low, high)])
    chest = region(ends.mean(axis=0), np.abs(ends[1] - ends[0]))
    assert preflight.boxOf(chest, mouse) == ((7, 20), (5, 10), (3, 9))


@pytest.mark.parametrize("ofVolume", PARENTS.values(), ids=[f"volume {name}" for name in PARENTS])
@pytest.mark.parametrize("ofRegion", PARENTS.values(), ids=[f"region {name}" for name in PARENTS])
def test_transforms_of_volume_and_region_count_both(preflight, mouse, region, ofVolume, ofRegion):
    under(mouse, ofVolume)
    matrix = volume_from_node(mouse).ijk_to_ras
    center = matrix @ (20, 19, 22, 1)
    if ofRegion is not None:
        center = np.linalg.solve(ofRegion, center)
    chest = under(region(center[:3], (7.3, 5.1, 9.7)), ofRegion)
    box = preflight.boxOf(chest, mouse)
    assert box == voxelsInside(chest, mouse)
    assert all(
        0 < high - low < size for (low, high), size in zip(box, volume_from_node(mouse).shape, strict=True)
    )


def test_a_region_that_was_turned_by_itself_is_boxed_with_all_its_corners(preflight, mouse, region):
    center = volume_from_node(mouse).ijk_to_ras[:3] @ (20, 19, 22, 1)
    straight, turned = region((0, 0, 0), (9, 3, 4)), region((0, 0, 0), (9, 3, 4))
    for chest, angle in ((straight, 0.0), (turned, 40.0)):
        place = vtk.vtkTransform()
        place.Translate(*center)
        place.RotateZ(angle)
        chest.SetAndObserveObjectToNodeMatrix(place.GetMatrix())
    assert preflight.boxOf(turned, mouse) == voxelsInside(turned, mouse)
    narrow, wide = preflight.boxOf(straight, mouse)[1], preflight.boxOf(turned, mouse)[1]
    assert wide[0] < narrow[0] and narrow[1] < wide[1]


def test_a_region_that_reaches_out_is_cut_and_a_thin_one_keeps_a_voxel(preflight, mouse, region):
    shape = volume_from_node(mouse).shape
    center = volume_from_node(mouse).ijk_to_ras[:3] @ (20, 19, 22, 1)
    assert preflight.boxOf(region(center, (500, 500, 500)), mouse) == tuple((0, n) for n in shape)
    assert preflight.boxOf(region(center, (0.01, 0.01, 0.01)), mouse) == ((22, 23), (19, 20), (20, 21))


def test_a_region_elsewhere_or_not_placed_or_no_region_is_refused(preflight, mouse, region, scene, warp):
    with pytest.raises(OptionError, match="chest lies outside of mouse"):
        preflight.boxOf(region((500, 0, 0), (5, 5, 5)), mouse)
    fresh = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "fresh")
    with pytest.raises(OptionError, match="fresh has not been placed"):
        preflight.boxOf(fresh, mouse)
    with pytest.raises(OptionError, match="expected a region of interest, got vtkMRMLScalarVolumeNode"):
        preflight.boxOf(mouse, mouse)
    warped = region((0, 0, 0), (5, 5, 5))
    warped.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(InputError, match="non-linear"):
        preflight.boxOf(warped, mouse)
    with pytest.raises(InputError, match="Choose a volume"):
        preflight.boxOf(region((0, 0, 0), (5, 5, 5)), None)
