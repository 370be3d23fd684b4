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
