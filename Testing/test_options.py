"""Options: words in, checked values out; spacing as people type it."""

from __future__ import annotations

import dataclasses

import pytest

from thoraxseg.errors import EXIT_STATUS, OptionError, ThoraxSegError
from thoraxseg.options import Contrast, Device, SegmentOptions, Uncertainty, parse_spacing


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


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(SegmentOptions)])
def test_an_unknown_word_is_refused_and_the_known_ones_are_listed(field):
    first = next(iter(type(getattr(SegmentOptions(), field)))).value
    with pytest.raises(OptionError, match=f"{field}.*{first}.*'maybe'"):
        SegmentOptions(**{field: "maybe"})


def test_the_record_holds_words():
    assert SegmentOptions(uncertainty=Uncertainty.NONE).to_record() == {
        "device": "auto", "uncertainty": "none", "postprocess": "checkpoint", "contrast": "auto",
    }  # fmt: skip


def test_every_option_has_help():
    assert all(f.metadata["help"].endswith(".") for f in dataclasses.fields(SegmentOptions))


def test_every_error_is_a_built_in_too_and_has_a_documented_exit_status_of_its_own():
    kinds = ThoraxSegError.__subclasses__()
    assert len({kind.exit_status for kind in kinds}) == len(kinds) >= 6
    for kind in kinds:
        assert kind.exit_status in EXIT_STATUS
        assert any(base is not ThoraxSegError and issubclass(base, Exception) for base in kind.__bases__)
