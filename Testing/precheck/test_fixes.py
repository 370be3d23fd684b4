"""What a fix changes, and what it leaves as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from thoraxseg.contrast import clahe_slices
from thoraxseg.errors import InputError, OptionError
from thoraxseg.phantoms import mouse_mri
from thoraxseg.precheck import FIXES, declare_orientation, enhance_contrast, reorient, set_spacing, swap_sides
from thoraxseg.volume import Volume, axis_codes, grids_apart, obliqueness_degrees, to_ras

POSES = {
    "straight": ("RAS", (0.0, 0.0, 0.0)),
    "as in DICOM": ("LPS", (0.0, 0.0, 0.0)),
    "permuted": ("SRP", (0.0, 0.0, 0.0)),
    "tilted": ("LPS", (4.0, -7.0, 12.0)),
    "oblique": ("AIL", (20.0, 25.0, -20.0)),
}


@pytest.fixture(params=POSES.values(), ids=POSES)
def volume(request, a_geometry):
    codes, degrees = request.param
    array = np.random.default_rng(0).integers(-500, 900, (3, 4, 5)).astype(np.int16)
    geometry = a_geometry(codes, (0.5, 0.3, 0.2), degrees, (7.0, -3.0, 11.0))
    return Volume(array, geometry, "mouse 7", ("from a file",), geometry_assumed=True)


def voxels(volume):
    """Place (RAS mm) -> value of every voxel."""
    kji = np.argwhere(np.ones(volume.shape))
    places = np.round(to_ras(volume.ijk_to_ras, kji), 6) + 0.0
    return dict(zip(map(tuple, places), volume.array[tuple(kji.T)].tolist(), strict=True))


def center(volume):
    return to_ras(volume.ijk_to_ras, [(np.array(volume.shape) - 1) / 2])[0]


ARGUMENTS = {"codes": "LPS", "spacing_mm": (1.0, 2.0, 3.0)}


@pytest.mark.parametrize("key", FIXES)
def test_every_fix_makes_a_new_volume_with_a_note_and_leaves_the_old_one_alone(volume, key):
    fix = FIXES[key]
    array, geometry = volume.array.copy(), volume.ijk_to_ras.copy()
    fixed = fix.apply(volume, **{name: ARGUMENTS[name] for name in fix.parameters})
    assert fixed is not volume and fixed.name == volume.name
    assert fixed.notes[0] == "from a file" and len(fixed.notes) == 2 and fixed.notes[1].endswith(".")
    assert np.array_equal(volume.array, array) and np.array_equal(volume.ijk_to_ras, geometry)
    assert fix.key == key and fix.title and fix.sentence.endswith(".") and fix.done


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRP", "IAL"])
def test_reordered_axes_leave_every_voxel_where_it_is(volume, codes):
    turned = reorient(volume, codes)
    assert turned.axis_codes == codes
    assert voxels(turned) == voxels(volume)
    assert turned.array.flags.c_contiguous
    assert turned.geometry_assumed  # an order of axes is no statement about the patient


def test_axes_that_are_right_already_are_said_to_be(volume):
    assert "as they did" in reorient(volume, volume.axis_codes).notes[-1]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRP", "IAL"])
def test_a_declared_orientation_keeps_array_spacing_and_center_and_nothing_else(volume, codes):
    declared = declare_orientation(volume, codes)
    assert declared.array is volume.array
    assert declared.axis_codes == codes
    assert obliqueness_degrees(declared.ijk_to_ras) == 0
    assert declared.spacing_mm == pytest.approx(volume.spacing_mm)
    assert center(declared) == pytest.approx(center(volume))
    assert not declared.geometry_assumed
    assert f"orientation, {volume.axis_codes}, was replaced by hand" in declared.notes[-1]


def test_swapped_sides_mirror_every_voxel_at_the_middle_and_keep_front_and_head(volume):
    swapped = swap_sides(volume)
    assert swapped.array is volume.array
    kji = np.argwhere(np.ones(volume.shape))
    mirrored = to_ras(volume.ijk_to_ras, kji)
    mirrored[:, 0] = 2 * center(volume)[0] - mirrored[:, 0]
    assert to_ras(swapped.ijk_to_ras, kji) == pytest.approx(mirrored)
    exchanged = volume.axis_codes.translate(str.maketrans("LR", "RL"))
    assert swapped.axis_codes == exchanged
    assert f"axes run to {exchanged} instead of {volume.axis_codes}" in swapped.notes[-1]
    assert np.linalg.det(swapped.ijk_to_ras) == pytest.approx(-np.linalg.det(volume.ijk_to_ras))


def test_swapping_twice_is_where_it_began(volume):
    again = swap_sides(swap_sides(volume))
    assert grids_apart(volume.shape, volume.ijk_to_ras, again.ijk_to_ras) < 1e-9


def test_a_set_spacing_keeps_directions_and_center(volume):
    fixed = set_spacing(volume, (0.14, 0.15, 0.16))
    assert fixed.array is volume.array
    assert fixed.spacing_mm == pytest.approx((0.14, 0.15, 0.16))
    assert axis_codes(fixed.ijk_to_ras) == volume.axis_codes
    unit = [one.ijk_to_ras[:3, :3] / np.array(one.spacing_mm)[::-1] for one in (volume, fixed)]
    assert unit[0] == pytest.approx(unit[1])
    assert center(fixed) == pytest.approx(center(volume))
    assert "set by hand to 0.14 x 0.15 x 0.16 mm" in fixed.notes[-1]
    assert "instead of 0.5 x 0.3 x 0.2 mm" in fixed.notes[-1]


def test_the_contrast_of_a_dark_mri_is_enhanced_within_its_own_range():
    dark = mouse_mri(seed=1, spacing_mm=0.5).volume
    enhanced = enhance_contrast(dark)
    low, high = float(dark.array.min()), float(dark.array.max())
    assert enhanced.array.dtype == np.float32
    assert enhanced.array.min() == low and enhanced.array.max() == pytest.approx(high)
    wanted = clahe_slices((dark.array - low) / (high - low), 0.03) * (high - low) + low
    assert np.allclose(enhanced.array, wanted, atol=1e-3)
    assert enhanced.array.mean() > 2 * dark.array.mean()
    assert np.array_equal(enhanced.ijk_to_ras, dark.ijk_to_ras)


def test_the_enhancement_of_negative_values_and_of_another_scale_is_the_same(volume):
    big = replace(volume, array=np.random.default_rng(0).normal(100, 20, (3, 16, 16)))
    one, other = enhance_contrast(big), enhance_contrast(replace(big, array=3 * big.array - 1000))
    assert np.allclose(3 * one.array - 1000, other.array, atol=0.1)


@pytest.mark.parametrize("codes", ["", "LP", "LPX", "LRS", "lps", 7, None])
@pytest.mark.parametrize("fix", [reorient, declare_orientation])
def test_wrong_axis_letters_are_an_option_error(volume, fix, codes):
    with pytest.raises(OptionError, match=f"{fix.__name__}: expected three axis letters"):
        fix(volume, codes)


@pytest.mark.parametrize(
    "spacing_mm",
    [(1, 2), (1, 2, 0), (1, 2, -3), (1, 2, np.nan), (1, 2, np.inf), (1, 2, 101), "0.14", 3, None],
)
def test_a_wrong_spacing_is_an_option_error(volume, spacing_mm):
    with pytest.raises(OptionError, match="set_spacing: expected three numbers"):
        set_spacing(volume, spacing_mm)


@pytest.mark.parametrize("value", [5.0, np.nan])
def test_an_image_without_contrast_or_numbers_cannot_be_enhanced(volume, value):
    with pytest.raises(InputError, match="with contrast and with numbers"):
        enhance_contrast(replace(volume, array=np.full(volume.shape, value)))


def test_what_was_fixed_is_told_in_the_result(tmp_path):
    from Testing.painted import painted_checkpoint, painted_thorax
    from thoraxseg.checkpoints import open_checkpoint
    from thoraxseg.options import SegmentOptions
    from thoraxseg.pipeline import segment

    phantom = painted_thorax()
    result = segment(
        reorient(swap_sides(swap_sides(phantom.volume)), "RIA"),
        open_checkpoint(painted_checkpoint(tmp_path)),
        SegmentOptions(device="cpu"),
    )
    said = [note for note in result.notes if "by hand" in note or "reordered" in note]
    assert len(said) == 3 and "from LPS to RIA" in said[2]
