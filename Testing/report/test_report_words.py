"""Numbers and outside text in words."""

from __future__ import annotations

import pytest

from thoraxseg.report import format_volume, printable


@pytest.mark.parametrize(
    ("volume_mm3", "words"),
    [
        (0, "0 mm³"),
        (0.000027, "0.00002700 mm³"),
        (0.001, "0.001000 mm³"),
        (0.3996, "0.3996 mm³"),
        (0.4, "0.4000 mm³"),
        (5, "5.000 mm³"),
        (491.04, "491.0 mm³"),
        (9999, "9,999 mm³"),
        (10_000, "10.00 cm³"),
        (123_456, "123.5 cm³"),
        (5_500_000, "5,500 cm³"),
        (12_345_678, "12,346 cm³"),
    ],
)
def test_a_volume_has_four_digits_and_a_unit(volume_mm3, words):
    assert format_volume(volume_mm3) == words


def test_no_volume_looks_like_nothing_and_none_is_shown_as_a_power():
    for exponent in range(-9, 9):
        words = format_volume(3.0 * 10.0**exponent)
        assert "3" in words
        assert "e" not in words.split()[0]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("mouse 7 µ ☃ é", "mouse 7 µ ☃ é"),
        ("日本語\u3000mouse", "日本語\u3000mouse"),
        ("a\x1b[31mb\nc\x07", r"a\x1b[31mb\nc\x07"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("m\udcc3\udca4use", "mäuse"),  # UTF-8 read by a program in an ASCII locale
        ("bad\udcff", r"bad\udcff"),
        ("<b>&'\"", "<b>&'\""),  # escaping is the page's work
        ("", ""),
    ],
    ids=ascii,
)
def test_outside_text_is_shown_and_can_steer_nothing(raw, shown):
    assert printable(raw) == shown
    printable(raw).encode("utf-8")
