"""What is said before a result when an image does not look like the training images."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.errors import InputError
from thoraxseg.precheck import check_input, check_prepared
from thoraxseg.volume import Volume, geometry_from_spacing


def expectation(stage, statistic, low, high):
    return {
        "stage": stage, "statistic": statistic, "low": low, "high": high, "reason": "paper", "remedy": "Look twice."
    }  # fmt: skip


@pytest.fixture
def card_of(a_card):
    """Make a card trained at 1 x 2 x 3 mm in RAS with a tolerance of 25 %, and intensity expectations."""
    return lambda *intensity, side_known=True: a_card(
        {
            "input.orientation": "RAS",
            "input.spacing_mm": [1, 2, 3],
            "input.spacing_tolerance": 0.25,
            "input.side_known": side_known,
            "input.intensity": list(intensity),
        }
    )


def image(spacing_mm=(1, 2, 3), codes="RAS", values=(0.0, 10.0)):
    return Volume(np.resize(values, (2, 2, 2)), geometry_from_spacing(spacing_mm, codes))


def test_an_image_like_the_training_images_gets_no_warning(card_of):
    card = card_of(expectation("input", "mean", 5, 5), expectation("prepared", "mean", 5, 5))
    assert check_input(image(), card) == []
    assert check_prepared(image().array, card) == []


@pytest.mark.parametrize(
    ("spacing_mm", "warned"),
    [((1.24, 2, 3), False), ((1.26, 2, 3), True), ((1, 2, 3 / 1.24), False), ((1, 2, 3 / 1.26), True)],
)
def test_a_spacing_off_by_more_than_the_tolerance_either_way_is_said(card_of, spacing_mm, warned):
    warnings = check_input(image(spacing_mm), card_of())
    assert len(warnings) == warned
    if warned:
        assert f"{spacing_mm[0]:.4g} x 2 x" in warnings[0] and "1 x 2 x 3 mm" in warnings[0]


def test_spacing_is_compared_along_the_axes_of_the_card(card_of):
    assert check_input(image((3, 2, 1), "SAR"), card_of()) == []
    assert len(check_input(image((1, 2, 3), "SAR"), card_of())) == 1


@pytest.mark.parametrize(("degrees", "warned"), [(29, False), (31, True)])
def test_axes_far_from_the_patients_are_said(card_of, a_geometry, degrees, warned):
    volume = Volume(np.zeros((2, 2, 2)), a_geometry("RAS", (1, 2, 3), (0, 0, degrees)))
    warnings = check_input(volume, card_of())
    assert len(warnings) == warned
    if warned:
        assert "31 degrees" in warnings[0] and "sides" in warnings[0]


def test_a_model_that_cannot_tell_sides_says_so_where_sides_are_guessed_or_named(card_of, a_card):
    assert check_input(image(), card_of(side_known=False)) == []
    guessed = Volume(image().array, image().ijk_to_ras, geometry_assumed=True)
    (warning,) = check_input(guessed, card_of(side_known=False))
    assert "Left and right are a guess" in warning
    (warning,) = check_input(guessed, card_of(side_known=True))
    assert "1 x 2 x 3 mm" in warning and "check the scale and the sides" in warning and "guess" not in warning
    sided = {"labels": {"1": "left_lung", "2": "right_lung"}, "input.side_known": False}
    (warning,) = check_input(image(), a_card(sided))
    assert "cannot tell left from right" in warning


@pytest.mark.parametrize("factor", [0.001, 0.099, 10.1, 25])
def test_a_scale_that_is_another_unit_or_species_is_refused(card_of, factor):
    with pytest.raises(InputError, match="Is the unit wrong, or the species"):
        check_input(image(tuple(factor * s for s in (1, 2, 3))), card_of())


@pytest.mark.parametrize("factor", [0.101, 9.9])
def test_a_scale_that_could_be_meant_is_warned_of(card_of, factor):
    (warning,) = check_input(image(tuple(factor * s for s in (1, 2, 3))), card_of())
    assert "not what" in warning


@pytest.mark.parametrize(
    ("statistic", "value"), [("mean", 5), ("p0", 0), ("p100", 10), ("p50", 5), ("p99.5", 10)]
)
def test_a_statistic_outside_its_range_is_said_with_value_range_and_remedy(card_of, statistic, value):
    below, above = (
        expectation("input", statistic, value + 1, 99),
        expectation("input", statistic, -9, value - 1),
    )
    inside = expectation("input", statistic, value, value)
    warnings = check_input(image(), card_of(below, above, inside))
    assert len(warnings) == 2
    assert f"The image does not look like the training images: {statistic} {value}" in warnings[0]
    assert f"expected {value + 1} to 99. Look twice." in warnings[0]


def test_each_stage_checks_its_own_image(card_of):
    card = card_of(expectation("input", "mean", 99, 99), expectation("prepared", "mean", 77, 77))
    assert "99" in check_input(image(), card)[0]
    (warning,) = check_prepared(image().array, card)
    assert warning.startswith("What the network sees") and "77" in warning


# Sides, the file's own axes, and models of nnU-Net

OTHER = {"color": [0.5, 0.5, 0.5], "terminology": "a~A^1^A~T^2^T~^^~r~^^~^^"}


@pytest.mark.parametrize(
    ("key", "name", "sided"),
    [
        ("left_kidney", "Left kidney", True),
        ("kidney_r", "Kidney", True),
        ("lung_upper_lobe_left", "Lung upper lobe left", True),
        ("label_7", "Niere links L", True),
        ("leftovers", "Leftovers", False),
        ("liver", "Liver", False),
        ("tumor", "Tum\N{LATIN SMALL LETTER O WITH DIAERESIS}r", False),
    ],
)
def test_a_structure_that_is_none_of_ours_has_a_side_too(a_card, key, name, sided):
    labels = {"1": {"key": key, "name": name, **OTHER}, "2": "tumors"}
    card = a_card({"labels": labels, "input.side_known": False, "input.intensity": []})
    warnings = check_input(image(card.input.spacing_mm), card)
    assert [warning for warning in warnings if "cannot tell left from right" in warning] == (
        ["phantom-threshold cannot tell left from right: do not trust the side of a structure."]
        if sided
        else []
    )


@pytest.mark.parametrize("codes", ["RAS", "LPI"])
def test_a_model_that_sees_the_files_own_axes_says_so_where_structures_have_sides(a_card, codes):
    sided = {"labels": {"1": "left_lung", "2": "right_lung"}, "tumors": None, "postprocess.rules": []}
    about = {"input.orientation": "ijk", "input.intensity": [], "input.spacing_mm": None}
    (warning,) = check_input(image(codes=codes), a_card(sided | about))
    assert f"sees the file's own axes ({codes})" in warning
    assert "right and left are not swapped" in warning
    assert check_input(image(codes=codes), a_card(about | {"labels": {"1": "lungs", "2": "tumors"}})) == []


def test_a_spacing_that_is_not_known_is_not_compared(a_card):
    card = a_card({"input.spacing_mm": None, "input.intensity": []})
    for spacing_mm in ((0.001, 0.001, 0.001), (90, 90, 90)):
        assert check_input(image(spacing_mm), card) == []


@pytest.mark.parametrize("orientation", ["jik", "kji", "kij"])
def test_spacing_is_compared_along_the_files_axes_in_the_cards_order(a_card, orientation):
    place = {"k": 1, "j": 2, "i": 3}
    wanted = [place[axis] for axis in orientation[::-1]]
    card = a_card({"input.orientation": orientation, "input.spacing_mm": wanted, "input.intensity": []})
    assert check_input(image((1, 2, 3), "SAR"), card) == []
    assert len(check_input(image((3, 1, 2), "SAR"), card)) == 1


def test_the_spacing_of_an_nnunet_model_is_compared_in_its_own_order(a_plan, a_plans_card):
    plan = a_plan(transpose_forward=(2, 0, 1), spacing_mm=(3.0, 1.0, 2.0))
    card = a_plans_card(plan, {"input.spacing_tolerance": 0.25})
    assert check_input(image((1, 2, 3)), card) == []
    (warning,) = check_input(image((3, 1, 2)), card)
    assert warning.startswith(
        "Spacing 3 x 1 x 2 mm (slice x row x column) is not what nnunet was trained on, 1 x 2 x 3"
    )


@pytest.mark.parametrize("forward", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_a_flat_model_does_not_care_how_far_apart_slices_are(a_plan, a_plans_card, forward):
    plan = a_plan(patch_size=(8, 8), spacing_mm=(2.0, 3.0), transpose_forward=forward)
    card = a_plans_card(plan, {"input.spacing_tolerance": 0.25})

    def in_plane(slices, rows, columns):
        order = np.argsort(forward)
        return image(tuple((slices, rows, columns)[axis] for axis in order))

    assert check_input(in_plane(50, 2, 3), card) == []
    (warning,) = check_input(in_plane(2, 3, 2), card)
    assert warning.startswith(
        "Spacing 3 x 2 mm (in the plane of the network) is not what nnunet was trained on, 2 x 3"
    )


def test_a_model_for_pictures_takes_pixels_of_any_size(a_plan, a_plans_card):
    plan = a_plan(patch_size=(8, 8), reader="NaturalImage2DIO")
    card = a_plans_card(plan, {"input.spacing_tolerance": 0.25})
    assert check_input(image((1, 0.0065, 0.0065)), card) == []
