"""Map of doubt -> volume node: exact overlay, its own colors, window and threshold, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.errors import InputError
from thoraxseg.mrml import uncertainty_to_node, volume_from_node
from thoraxseg.mrml.colors import doubt_colors

MAXIMUM = float(np.log(4))


@pytest.fixture
def doubt(ramp) -> np.ndarray:
    """Every value from 0 to almost the maximum once."""
    return np.linspace(0, 0.9 * MAXIMUM, ramp.size).reshape(ramp.shape)


def test_colors_get_evenly_lighter_and_differ():
    colors = doubt_colors()
    assert colors.shape == (256, 3)
    assert colors.min() >= 0
    assert colors.max() <= 1
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()
    assert luminance[0] < 0.05
    assert luminance[-1] > 0.8
    assert np.linalg.norm(np.diff(colors, axis=0), axis=1).max() < 0.02


def test_low_doubt_is_violet_and_high_doubt_is_yellow():
    low, high = doubt_colors()[[0, -1]]
    assert low[2] > low[1]
    assert high[0] > 0.9
    assert high[1] > 0.8
    assert high[2] < high[1] - 0.1


def test_the_map_overlays_the_volume_exactly(make_volume, doubt, ijk_to_ras, parent):
    volume_node = make_volume(ijk_to_ras, parent)
    node = uncertainty_to_node(doubt, volume_node, MAXIMUM)
    assert node.GetParentTransformNode() is volume_node.GetParentTransformNode()
    back, volume = volume_from_node(node), volume_from_node(volume_node)
    assert np.abs(back.ijk_to_ras - volume.ijk_to_ras).max() < 1e-9
    assert back.array.dtype == np.float32
    assert np.array_equal(back.array, doubt.astype(np.float32))


def test_window_and_threshold_are_those_of_the_maximum(make_volume, doubt):
    display = uncertainty_to_node(doubt, make_volume(), MAXIMUM).GetDisplayNode()
    assert not display.GetAutoWindowLevel()
    assert display.GetWindowLevelMin() == pytest.approx(0, abs=1e-12)
    assert display.GetWindowLevelMax() == pytest.approx(MAXIMUM)
    assert display.GetApplyThreshold()
    assert not display.GetAutoThreshold()
    assert display.GetLowerThreshold() == pytest.approx(0.05 * MAXIMUM)
    assert display.GetUpperThreshold() >= MAXIMUM


def test_a_flat_map_is_shown_the_same_way(make_volume, ramp):
    display = uncertainty_to_node(np.zeros(ramp.shape), make_volume(), 1.0).GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0.0, 1.0)
    assert display.GetLowerThreshold() == 0.05


def test_slicer_paints_low_doubt_clear_and_high_doubt_in_our_color(make_volume, ramp):
    from vtk.util.numpy_support import vtk_to_numpy

    doubt = np.zeros(ramp.shape)
    doubt[0, 0, :4] = 0.04, 0.06, 0.5, 1.0
    display = uncertainty_to_node(doubt, make_volume(), 1.0).GetDisplayNode()
    port = display.GetImageDataConnection()
    port.GetProducer().Update()
    rgba = vtk_to_numpy(port.GetProducer().GetOutputDataObject(0).GetPointData().GetScalars())[:4]
    assert rgba[:, 3].tolist() == [0, 255, 255, 255]
    assert np.abs(rgba[3, :3] - doubt_colors()[255] * 255).max() <= 1
    assert np.abs(rgba[2, :3] - doubt_colors()[[127, 128]].mean(axis=0) * 255).max() <= 3


def test_the_color_table_is_our_own_and_there_is_one(scene, make_volume, doubt):
    volume_node = make_volume()
    first = uncertainty_to_node(doubt, volume_node, 1.5, scene)
    second = uncertainty_to_node(doubt, volume_node, 1.5, scene, "again")
    colors = first.GetDisplayNode().GetColorNode()
    assert colors is second.GetDisplayNode().GetColorNode()
    assert colors.GetNumberOfColors() == 256
    assert colors.GetType() == colors.User
    rgba = [0.0] * 4
    for index in (0, 100, 255):
        assert colors.GetColor(index, rgba)
        assert rgba == pytest.approx([*doubt_colors()[index], 1.0], abs=1 / 255)  # stored in 8 bits
    assert scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode") == 1


def test_names(make_volume, doubt):
    volume_node = make_volume()
    assert uncertainty_to_node(doubt, volume_node, 1.5).GetName() == "mouse 7 uncertainty"
    assert uncertainty_to_node(doubt, volume_node, 1.5, name="doubt").GetName() == "doubt"


def test_the_volume_node_is_not_altered(make_volume, doubt, ijk_to_ras, parent):
    node = make_volume(ijk_to_ras, parent)
    image, scalars = node.GetImageData(), node.GetImageData().GetPointData().GetScalars()

    def state():
        return (
            image.GetMTime(),
            scalars.GetMTime(),
            node.GetSpacing(),
            node.GetOrigin(),
            node.GetParentTransformNode(),  # asking for its ID would modify the node
            node.GetMTime(),
        )

    before = state()
    uncertainty_to_node(doubt, node, MAXIMUM)
    assert node.GetImageData() is image
    assert state() == before


def test_a_map_of_another_grid_is_refused(make_volume, doubt):
    with pytest.raises(InputError, match="expected the grid of the volume"):
        uncertainty_to_node(doubt[1:], make_volume(), MAXIMUM)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_impossible_doubt_is_refused(scene, make_volume, doubt, value):
    volume_node = make_volume()
    doubt[1, 2, 3] = value
    before = scene.GetNumberOfNodes()
    with pytest.raises(InputError, match="expected finite doubt of 0 or more"):
        uncertainty_to_node(doubt, volume_node, MAXIMUM)
    assert scene.GetNumberOfNodes() == before


@pytest.mark.parametrize("maximum", [0, -1, float("nan"), float("inf")])
def test_an_impossible_maximum_is_refused(make_volume, doubt, maximum):
    with pytest.raises(InputError, match="expected a maximum above 0"):
        uncertainty_to_node(doubt, make_volume(), maximum)


def test_a_volume_outside_any_scene_is_refused(doubt, image_of):
    slicer = pytest.importorskip("slicer", reason="needs slicer-core or 3D Slicer")
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetAndObserveImageData(image_of(doubt))
    with pytest.raises(InputError, match="in no scene"):
        uncertainty_to_node(doubt, node, MAXIMUM)
