"""Traffic lights: one for each thing, always in the same order, with why and with what helps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from Testing.painted import painted_checkpoint, painted_thorax
from thoraxseg.checkpoints import list_cards, open_checkpoint
from thoraxseg.errors import InputError, OptionError
from thoraxseg.phantoms import human_chest_ct, mouse_micro_ct, mouse_mri
from thoraxseg.precheck import FIXES, KEYS, Level, check_input, lights, lights_without
from thoraxseg.precheck import extent as extents
from thoraxseg.volume import Volume, geometry_from_spacing

SIDED = {"labels": {"1": "left_lung", "2": "right_lung"}, "tumors": None, "postprocess.rules": []}
ORDER = ["spacing", "orientation", "sides", "field_of_view", "intensity", "memory", "channels"]


@pytest.fixture(scope="module")
def painted_card(tmp_path_factory):
    return open_checkpoint(painted_checkpoint(tmp_path_factory.mktemp("painted"))).card


@pytest.fixture(scope="module")
def painted():
    return painted_thorax().volume


@pytest.fixture(scope="module")
def mri():
    return mouse_mri(seed=1, spacing_mm=0.5).volume


@pytest.fixture(scope="module")
def ct():
    return mouse_micro_ct(seed=1, spacing_mm=0.5).volume


@pytest.fixture
def ct_card(a_plan, a_plans_card):
    """An nnU-Net of a mouse's thorax in micro-CT that wants Hounsfield units."""
    from thoraxseg.checkpoints.nnunet_plan import Channel

    trained = {"mean": -400.0, "std": 200.0, "percentile_00_5": -900.0, "percentile_99_5": 200.0}

    def make(changes=None, normalization="ct", **statistics):
        channel = Channel("CT", normalization, False, trained | statistics)
        plan = a_plan(channels=(channel,), spacing_mm=(0.5, 0.5, 0.5))
        return a_plans_card(plan, {"species": "mouse", "modality": "micro-CT"} | (changes or {}))

    return make


@pytest.fixture
def mri_card(a_plan, a_plans_card):
    """An nnU-Net of a mouse's thorax in MRI, which normalizes by itself."""
    return a_plans_card(a_plan(spacing_mm=(0.5, 0.5, 0.5)), {"species": "mouse", "modality": "MRI"})


def light(key, volume, card, **more):
    found = lights(volume, card, "cpu", **more)
    assert [one.key for one in found] == ORDER
    assert {fix for one in found for fix in one.fixes} <= set(FIXES)
    assert all(one.sentence.endswith((".", "?")) and one.title for one in found)
    return next(one for one in found if one.key == key)


def with_values(volume, array):
    return replace(volume, array=array)


def test_an_image_like_the_training_images_is_green_all_over(painted, painted_card):
    found = lights(painted, painted_card, "cpu")
    assert [one.key for one in found] == ORDER == list(KEYS)
    assert {one.level for one in found} == {Level.GREEN}
    assert not any(one.fixes for one in found)


@pytest.mark.parametrize("name", ["deepmeta-mouse-mri", "phantom-threshold"])
def test_the_phantom_is_green_for_the_checkpoints_that_come_with_us(name):
    found = lights(mouse_mri(seed=2).volume, list_cards()[name], "cpu")
    assert {one.level for one in found} == {Level.GREEN}


def test_without_an_image_one_light_says_why_and_the_others_are_unknown():
    found = lights_without("Choose a volume first.", "orientation")
    assert [one.key for one in found] == ORDER
    assert [one.level for one in found] == [Level.UNKNOWN, Level.RED, *[Level.UNKNOWN] * 5]
    assert found[1].sentence == "Choose a volume first."
    with pytest.raises(KeyError, match="brightness"):
        lights_without("x", "brightness")


# Spacing


@pytest.mark.parametrize(
    ("factor", "level"),
    [
        (1.4, Level.GREEN),
        (1.6, Level.YELLOW),
        (0.6, Level.YELLOW),
        (11, Level.RED),
        (0.09, Level.RED),
    ],
)
def test_spacing_is_green_within_the_tolerance_and_red_on_another_scale(a_card, factor, level):
    card = a_card({"input.spacing_mm": [0.15] * 3, "input.spacing_tolerance": 0.5, "input.intensity": []})
    volume = Volume(np.arange(8).reshape(2, 2, 2), geometry_from_spacing((0.15 * factor,) * 3, "RIA"))
    found = light("spacing", volume, card)
    assert found.level is level
    assert found.fixes == (() if level is Level.GREEN else ("set_spacing",))


def test_what_the_run_refuses_is_what_the_light_says(a_card):
    card = a_card({"input.spacing_mm": [0.15] * 3, "input.intensity": []})
    volume = Volume(np.arange(8).reshape(2, 2, 2), geometry_from_spacing((1.7,) * 3, "RIA"))
    with pytest.raises(InputError) as refusal:
        check_input(volume, card)
    assert light("spacing", volume, card).sentence == str(refusal.value)


@pytest.mark.parametrize("spacing_mm", [0.15, 0.3])
def test_what_the_run_warns_of_is_said_by_a_yellow_light(a_card, spacing_mm):
    card = a_card(SIDED | {"input.orientation": "ijk", "input.spacing_mm": [0.15] * 3})
    volume = Volume(np.full((30,) * 3, 500.0), geometry_from_spacing((spacing_mm,) * 3, "RIA"))
    volume.array[0] = 0
    said = " ".join(one.sentence for one in lights(volume, card, "cpu") if one.level is Level.YELLOW)
    warnings = check_input(volume, card)
    assert len(warnings) == (2 if spacing_mm == 0.15 else 3)
    assert all(warning in said for warning in warnings)


@pytest.mark.parametrize(
    ("species", "spacing_mm", "plausible"),
    [("mouse", 0.004, False), ("mouse", 0.006, True), ("mouse", 1.9, True), ("mouse", 2.1, False),
     ("human", 0.09, False), ("human", 0.11, True), ("human", 12.5, False), ("not stated", 50, True)],
)  # fmt: skip
def test_voxels_that_no_scan_of_the_species_has_are_red_even_where_the_card_knows_none(
    a_card, species, spacing_mm, plausible
):
    card = a_card({"species": species, "input.spacing_mm": None, "input.intensity": []})
    volume = Volume(np.arange(8).reshape(2, 2, 2), geometry_from_spacing((spacing_mm,) * 3, "RIA"))
    found = light("spacing", volume, card)
    assert found.level is (Level.UNKNOWN if plausible else Level.RED)
    assert ("implausible" in found.sentence) is not plausible


def test_a_spacing_that_was_assumed_or_is_the_default_of_programs_is_said(painted, painted_card):
    found = light("spacing", replace(painted, geometry_assumed=True), painted_card)
    assert found.level is Level.YELLOW and "states no spacing" in found.sentence
    ones = replace(painted, ijk_to_ras=geometry_from_spacing((1, 1, 1), "LPS"))
    assert "what programs take for a file that states none" in light("spacing", ones, painted_card).sentence


# Orientation and sides


def test_the_orientation_is_green_when_stated_and_says_where_the_axes_run(painted, painted_card):
    found = light("orientation", painted, painted_card)
    assert "left, back and head (LPS)" in found.sentence and "turned to LPS" in found.sentence


@pytest.mark.parametrize(("degrees", "level"), [(29, Level.GREEN), (31, Level.YELLOW)])
def test_oblique_axes_are_yellow(painted, painted_card, a_geometry, degrees, level):
    turned = replace(painted, ijk_to_ras=a_geometry("LPS", (0.5,) * 3, (0, 0, degrees)))
    found = light("orientation", turned, painted_card)
    assert found.level is level
    assert f"{degrees} degrees" in found.sentence


def test_an_orientation_that_was_assumed_is_yellow_for_axes_and_sides(painted, painted_card):
    assumed = replace(painted, geometry_assumed=True)
    for key in ("orientation", "sides"):
        found = light(key, assumed, painted_card)
        assert found.level is Level.YELLOW and "assumed" in found.sentence
        assert "declare_orientation" in found.fixes


def test_a_card_that_knows_no_orientation_is_gray_and_offers_another_order_of_axes(a_card, mri):
    card = a_card({"input.orientation": "ijk"})
    found = light("orientation", mri, card)
    assert found.level is Level.UNKNOWN
    assert "file's own axes (RIA)" in found.sentence and found.fixes == ("reorient",)
    assert light("sides", mri, card).level is Level.GREEN  # nothing it finds has a side


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, Level.GREEN, "tells them apart"),
        ({"input.side_known": False}, Level.YELLOW, "cannot tell left from right"),
        ({"input.orientation": "ijk"}, Level.YELLOW, "right and left are not swapped"),
    ],
)
def test_sides_are_green_only_where_image_and_model_know_them(a_card, mri, changes, level, words):
    found = light("sides", mri, a_card(SIDED | changes))
    assert found.level is level and words in found.sentence


# Field of view


@pytest.mark.parametrize(
    ("extent_mm", "level"),
    [
        ((20, 20, 25), Level.GREEN),
        ((13, 20, 25), Level.YELLOW),
        ((20, 11, 25), Level.YELLOW),
        ((20, 20, 13), Level.YELLOW),
        ((6.5, 20, 25), Level.RED),
        ((20, 20, 6), Level.RED),
        ((95, 95, 195), Level.GREEN),
        ((128, 128, 128), Level.RED),
        ((20, 20, 205), Level.RED),
    ],
)
def test_the_field_of_view_must_hold_the_thorax_of_the_species(a_card, extent_mm, level):
    card = a_card({"input.spacing_mm": None, "input.intensity": []})
    spacing = tuple(e / 10 for e in extent_mm[::-1])
    volume = Volume(np.arange(1000).reshape(10, 10, 10), geometry_from_spacing(spacing, "RAS"))
    found = light("field_of_view", volume, card)
    assert found.level is level
    assert found.fixes == (() if level is Level.GREEN else ("set_spacing",))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "AIR", "SRP"])
def test_extents_follow_the_patient_and_not_the_array(a_geometry, codes):
    place = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}
    lengths = [20.0, 10.0, 30.0]
    spacing = [lengths[place[letter]] / 10 for letter in codes][::-1]
    volume = Volume(np.zeros((10, 10, 10)), a_geometry(codes, spacing, (5, 10, 15)))
    assert extents.extent_mm(volume) == pytest.approx(tuple(lengths))


def test_an_image_of_another_species_is_red_and_one_of_no_species_gray(a_card, ct):
    human = human_chest_ct(seed=1, spacing_mm=10).volume
    mouse = a_card({"input.spacing_mm": None, "input.intensity": []})
    assert light("field_of_view", human, mouse).level is Level.RED
    people = a_card({"species": "human", "input.spacing_mm": None})
    assert light("field_of_view", human, people).level is Level.GREEN
    assert light("field_of_view", ct, people).level is Level.RED
    assert light("field_of_view", ct, a_card({"species": "not stated"})).level is Level.UNKNOWN


def test_a_region_that_is_too_small_is_yellow_and_one_outside_red(painted, painted_card):
    small = light("field_of_view", painted, painted_card, box=((0, 5), (3, 9), (0, 9)))
    assert small.level is Level.YELLOW and "region of interest" in small.sentence and small.fixes == ()
    outside = light("field_of_view", painted, painted_card, box=((0, 500), (3, 9), (0, 9)))
    assert outside.level is Level.RED


# Intensities


def test_voxels_without_a_number_and_images_without_contrast_are_red(painted, painted_card):
    broken = painted.array.astype(np.float32)
    broken[3, 4, 5:7] = np.nan, np.inf
    found = light("intensity", with_values(painted, broken), painted_card)
    assert found.level is Level.RED and "in 2 of" in found.sentence
    flat = light("intensity", with_values(painted, np.full(painted.shape, 7)), painted_card)
    assert flat.level is Level.RED and "all voxels are 7" in flat.sentence
    nothing = light("intensity", with_values(painted, np.full(painted.shape, np.nan)), painted_card)
    assert nothing.level is Level.RED


def test_what_the_card_expects_of_the_image_decides(painted, painted_card):
    found = light("intensity", with_values(painted, painted.array - 300), painted_card)
    assert found.level is Level.YELLOW
    assert "expected 90 to 400. Paint the phantom." in found.sentence and found.fixes == ()


@pytest.mark.parametrize("seed", range(2))
def test_a_calibrated_ct_is_green(ct_card, seed):
    for contrast in (False, True):
        volume = mouse_micro_ct(seed=seed, spacing_mm=0.8, contrast_agent=contrast).volume
        assert light("intensity", volume, ct_card()).level is Level.GREEN
    people = human_chest_ct(seed=seed, spacing_mm=10).volume
    assert light("intensity", people, ct_card({"species": "human", "modality": "CT"})).level is Level.GREEN


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: np.interp(a, (-1000, 1500), (0, 255)).astype(np.uint8), "8 bits"),
        (lambda a: np.interp(a, (-1000, 1500), (0, 255)).astype(np.int16), "8 bits"),
        (lambda a: np.clip(a, -1000, None) + 1000, "offset of the scanner"),
        (lambda a: a * 20, "far above bone"),
        (lambda a: np.where(a > -600, -990, a), "hardly anything but air"),
    ],
    ids=["uint8", "int16 of 8 bits", "offset", "scale", "air"],
)
def test_intensities_that_are_no_hounsfield_units_are_red_for_a_model_that_needs_them(
    ct, ct_card, mri_card, change, words
):
    changed = with_values(ct, change(ct.array.astype(np.int16)))
    found = light("intensity", changed, ct_card())
    assert found.level is Level.RED and words in found.sentence
    assert any(words in warning for warning in check_input(changed, ct_card()))
    relative = light("intensity", changed, ct_card(normalization="zscore"))
    assert relative.level is Level.GREEN  # scaled by the image itself


def test_a_step_of_fixed_numbers_needs_hounsfield_units_and_one_of_the_images_own_does_not(a_card, ct):
    gray = with_values(ct, np.interp(ct.array, (-1000, 1500), (0, 255)).astype(np.uint8))
    base = {"modality": "CT", "input.intensity": [], "input.spacing_mm": None}
    clip = [{"name": "clip", "low": -1000, "high": 400}]
    assert light("intensity", gray, a_card(base | {"preprocess": clip})).level is Level.RED
    assert light("intensity", gray, a_card(base | {"preprocess": [{"name": "z_score"}]})).level is Level.GREEN


def test_an_image_outside_the_range_of_the_trained_structures_is_yellow(ct, ct_card):
    card = ct_card(percentile_00_5=1000.0, percentile_99_5=3000.0)
    bright = with_values(ct, np.where(ct.array > 900, 0, ct.array))
    found = light("intensity", bright, card)
    assert found.level is Level.YELLOW and "between 1000 and 3000" in found.sentence


def test_a_ct_is_red_for_a_model_of_mri(ct, mri_card):
    found = light("intensity", ct, mri_card)
    assert found.level is Level.RED and "looks like a CT" in found.sentence


def test_an_mri_is_red_for_a_model_that_needs_hounsfield_units(mri, ct_card):
    assert light("intensity", mri, ct_card()).level is Level.RED


def test_a_dark_mouse_mri_offers_the_enhancement_unless_the_model_does_it_itself(mri, mri_card):
    dark = light("intensity", mri, mri_card)
    assert dark.level is Level.YELLOW and dark.fixes == ("enhance_contrast",)
    enhanced = FIXES["enhance_contrast"].apply(mri)
    assert light("intensity", enhanced, mri_card).level is Level.GREEN
    own = light("intensity", mri, list_cards()["deepmeta-mouse-mri"])
    assert own.level is Level.GREEN and "by itself" in own.sentence


def test_negative_values_are_red_where_the_model_divides_by_the_maximum(mri):
    shifted = with_values(mri, mri.array.astype(np.int16) - 20)
    found = light("intensity", shifted, list_cards()["deepmeta-mouse-mri"])
    assert found.level is Level.RED and "down to -1" in found.sentence


def test_a_model_of_no_modality_is_gray(mri, a_card):
    card = a_card({"modality": "not stated", "input.intensity": []})
    assert light("intensity", mri, card).level is Level.UNKNOWN


def test_percentiles_of_a_large_image_come_from_a_part_of_it(ct_card, ct, monkeypatch):
    from thoraxseg.precheck import intensity

    monkeypatch.setattr(intensity, "MAX_LOOKED_AT", 500)
    assert light("intensity", ct, ct_card()).level is Level.GREEN


# Channels


@pytest.fixture
def two_channels(a_card):
    def make(*sources, **changes):
        channels = [{"name": f"{source} {n}", "source": source} for n, source in enumerate(sources)]
        return a_card({"channels": channels} | changes)

    return make


def test_a_model_of_several_channels_wants_as_many_images_on_one_grid(mri, two_channels):
    card = two_channels("image", "image")
    alone = light("channels", mri, card)
    assert alone.level is Level.RED and "2 channels (image 0, image 1), got 1" in alone.sentence
    assert light("channels", mri, card, channels=[mri]).level is Level.GREEN
    assert light("channels", mri, card, channels=[mri, mri]).level is Level.RED
    moved = mri.ijk_to_ras.copy()
    moved[0, 3] += 0.1
    for other in (replace(mri, ijk_to_ras=moved), replace(mri, array=mri.array[1:])):
        found = light("channels", mri, card, channels=[other])
        assert found.level is Level.RED and "not on the grid" in found.sentence


def test_a_lung_map_is_made_or_asked_for(mri, two_channels):
    asked = light("channels", mri, two_channels("image", "lungs"))
    assert asked.level is Level.RED and "lung map" in asked.sentence
    made = light("channels", mri, two_channels("image", "lungs", lungs_from="phantom-threshold"))
    assert made.level is Level.GREEN and "phantom-threshold makes the lung map" in made.sentence
    assert light("channels", mri, two_channels("image", "lungs"), channels=[mri]).level is Level.GREEN


def test_an_unknown_device_is_an_error_of_the_caller(painted, painted_card):
    with pytest.raises(OptionError, match="auto, cpu or cuda"):
        lights(painted, painted_card, "tpu")
