"""How work reports: slices of one bar, never falling, and a cancel that takes at most one item."""

from __future__ import annotations

import pytest

from thoraxseg.progress import Cancelled, each, in_words, part, silent


def test_a_stage_owns_its_slice_of_the_bar():
    seen = []
    stage = part(lambda fraction, message: seen.append((round(fraction, 6), message)), 0.2, 0.6)
    for fraction in (0.0, 0.5, 1.0):
        stage(fraction, "work")
    assert seen == [(0.2, "work"), (0.4, "work"), (0.6, "work")]


def test_a_stage_cannot_leave_its_slice():
    seen = []
    stage = part(lambda fraction, message: seen.append(fraction), 0.2, 0.6)
    stage(-1, "")
    stage(2, "")
    assert seen == pytest.approx([0.2, 0.6])


@pytest.mark.parametrize("make", [list, iter], ids=["a list", "an iterator"])
def test_each_item_is_reported_before_it_is_given(make):
    seen = []
    items = [seen.append(item) or item for item in each(make(["a", "b"]), lambda f, m: seen.append(f), "")]
    assert items == ["a", "b"]
    assert seen == [0.0, "a", 0.5, "b", 1.0]


def test_no_items_are_done_at_once():
    seen = []
    assert list(each([], lambda fraction, message: seen.append(fraction), "")) == []
    assert seen == [1.0]


def test_a_progress_callback_can_cancel_before_the_next_item():
    done = []

    def cancel_at_half(fraction, message):
        if fraction >= 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        [done.append(item) for item in each(range(4), cancel_at_half, "work")]
    assert done == [0, 1]


def test_the_default_progress_reports_to_nobody():
    assert silent(0.5, "work") is None


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 min"), (400, "7 min"), (7500, "2 h 05 min")])
def test_a_time_to_wait_is_said_in_words(seconds, words):
    assert in_words(seconds) == words
