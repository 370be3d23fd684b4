"""Options: words in, checked values out; spacing as people type it."""

from __future__ import annotations

import dataclasses
from enum import Enum

import pytest

from thoraxseg.errors import EXIT_STATUS, OptionError, ThoraxSegError
from thoraxseg.options import Contrast, Device, SegmentOptions, Uncertainty, parse_folds, parse_spacing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.14", (0.14, 0.14, 0.14)),
        ("0.15625,0.1953125,0.15625", (0.15625, 0.1953125, 0.15625)),
        ("1x2x3", (1, 2, 3)),
        (" 1 , 2, 3 ", (1, 2, 3)),
    ],
)
def test_spacing_is_one_or_three_numbers_in_the_order_of_the_axes(text, expected):
    assert parse_spacing(text) == expected


@pytest.mark.parametrize(
    "text", ["", "1,2", "1,2,3,4", "0", "-1", "nan", "inf", "1,2,zero", "1;2;3", "1e999"]
)
def test_spacing_that_is_no_length_is_refused_with_an_example(text):
    with pytest.raises(OptionError, match="Example: --spacing") as caught:
        parse_spacing(text)
    assert repr(text) in str(caught.value)


def test_a_choice_may_be_given_as_its_word():
    options = SegmentOptions(device="cpu", contrast="off")
    assert options.device is Device.CPU and options.contrast is Contrast.OFF
    assert options == SegmentOptions(device=Device.CPU, contrast=Contrast.OFF)


CHOICES = [f.name for f in dataclasses.fields(SegmentOptions) if isinstance(f.default, Enum)]
NUMBERS = [f.name for f in dataclasses.fields(SegmentOptions) if f.name not in CHOICES]


@pytest.mark.parametrize("field", CHOICES)
def test_an_unknown_word_is_refused_and_the_known_ones_are_listed(field):
    first = next(iter(type(getattr(SegmentOptions(), field)))).value
    with pytest.raises(OptionError, match=f"{field}.*{first}.*'maybe'"):
        SegmentOptions(**{field: "maybe"})


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", ["3", 3.0, True, None, -1, 2**32, float("nan")], ids=str)
def test_a_number_that_is_not_whole_or_out_of_range_is_refused(field, value):
    with pytest.raises(OptionError, match=rf"{field}: expected a whole number from \d+ to \d+, got "):
        SegmentOptions(**{field: value})


@pytest.mark.parametrize("field", NUMBERS)
def test_the_ends_of_a_range_are_in_it(field):
    limits = next(f.metadata for f in dataclasses.fields(SegmentOptions) if f.name == field)
    for value in (limits["low"], limits["high"]):
        assert getattr(SegmentOptions(**{field: value}), field) == value
    for value in (limits["low"] - 1, limits["high"] + 1):
        with pytest.raises(OptionError, match=field):
            SegmentOptions(**{field: value})


def test_the_record_holds_words_and_numbers():
    assert SegmentOptions(uncertainty=Uncertainty.NONE).to_record() == {
        "device": "auto", "uncertainty": "none", "samples": 20, "seed": 0, "mirroring": "checkpoint",
        "postprocess": "checkpoint", "contrast": "auto",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "folds"), [("0", ("0",)), (" 0, 2,fold_4", ("0", "2", "4")), ("all", ("all",)), ("10", ("10",))]
)
def test_folds_are_numbers_or_all(text, folds):
    assert parse_folds(text) == folds


@pytest.mark.parametrize(
    "text", ["", ",", "0,", "0,0", "0,fold_0", "-1", "1.0", "five", "\u0661", "0;1", "\xb2"]
)
def test_folds_that_are_none_are_refused(text):
    with pytest.raises(OptionError, match="--folds: expected"):
        parse_folds(text)


def test_every_option_has_help():
    assert all(f.metadata["help"].endswith(".") for f in dataclasses.fields(SegmentOptions))


def test_every_error_is_a_built_in_too_and_has_a_documented_exit_status_of_its_own():
    kinds = ThoraxSegError.__subclasses__()
    assert len({kind.exit_status for kind in kinds}) == len(kinds) >= 6
    for kind in kinds:
        assert kind.exit_status in EXIT_STATUS
        assert any(base is not ThoraxSegError and issubclass(base, Exception) for base in kind.__bases__)
