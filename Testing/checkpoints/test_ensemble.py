"""Ensembles: shares that sum to 1, members that belong together, and a card that speaks for all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from thoraxseg.checkpoints import Checkpoint
from thoraxseg.checkpoints.card import Cleanup, InputChannel
from thoraxseg.checkpoints.ensemble import ensemble_of
from thoraxseg.errors import CheckpointError, OptionError
from thoraxseg.segmentation import STRUCTURES


@pytest.fixture
def member(a_card, tmp_path):
    """Make a checkpoint that was not opened, with a card changed as for `a_card`."""

    def make(name, **changes):
        card = a_card({"name": name} | changes)
        return Checkpoint(card, tuple(tmp_path / file.name for file in card.weights))

    return make


def test_what_members_assume_is_said_by_them_and_not_by_the_ensemble(member):
    found = ensemble_of([member("a", assumed=["a guess"]), member("b", assumed=[])])
    assert (found.assumed, [one.assumed for one in found.members]) == ((), [("a guess",), ()])


def test_shares_are_equal_by_default_and_sum_to_one(member):
    found = ensemble_of([member("a"), member("b"), member("c")])
    assert found.shares == (1 / 3, 1 / 3, 1 / 3)
    assert found.space == "probabilities"


@pytest.mark.parametrize(
    ("given", "expected"), [((0.7, 0.3), (0.7, 0.3)), ((3, 1), (0.75, 0.25)), ((0, 5), (0, 1)), ((1e5, 0), (1, 0))]
)  # fmt: skip
def test_shares_are_divided_by_their_sum(member, given, expected):
    assert ensemble_of([member("a"), member("b")], given).shares == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ((1,), "expected 2 numbers, one for each checkpoint, got 1"),
        ((1, 1, 1), "expected 2 numbers, one for each checkpoint, got 3"),
        ((), "expected 2 numbers"),
        ((1, -1), "0 and more"),
        ((3, -1), "0 and more"),
        ((0, 0), "one of them above 0"),
        ((float("nan"), 1), "0 and more"),
        ((float("inf"), 1), "0 and more"),
    ],
)
def test_wrong_shares_are_refused_in_words_of_the_flag(member, shares, words):
    with pytest.raises(OptionError, match="--shares: ") as caught:
        ensemble_of([member("a"), member("b")], shares)
    assert words in str(caught.value)


@pytest.mark.parametrize("count", [0, 1])
def test_one_checkpoint_is_no_ensemble(member, count):
    with pytest.raises(OptionError, match="two or more checkpoints"):
        ensemble_of([member("a")] * count)


def test_an_unknown_space_is_refused(member):
    with pytest.raises(OptionError, match="--ensemble-on: expected probabilities or logits, got 'labels'"):
        ensemble_of([member("a"), member("b")], space="labels")


def test_members_that_find_other_structures_are_refused_by_name(member):
    one = member("one")
    swapped = {1: STRUCTURES["tumors"], 2: STRUCTURES["lungs"]}
    for labels in (swapped, {1: STRUCTURES["lungs"]}, {**one.card.labels, 3: STRUCTURES["heart"]}):
        other = replace(one, card=replace(one.card, name="other", labels=labels))
        with pytest.raises(CheckpointError, match="checkpoints one and other find different structures"):
            ensemble_of([one, other])


def test_members_with_right_and_left_exchanged_are_refused(member):
    one = member("one")
    sides = [STRUCTURES["right_lung"], STRUCTURES["left_lung"]]
    members = [
        replace(one, card=replace(one.card, labels=dict(enumerate(order, 1))))
        for order in (sides, sides[::-1])
    ]
    with pytest.raises(CheckpointError, match=r"right_lung.*left_lung.*cannot be averaged"):
        ensemble_of(members)


def test_the_order_in_which_labels_are_listed_does_not_matter(member):
    one = member("one")
    turned = dict(reversed(one.card.labels.items()))
    assert ensemble_of([one, replace(one, card=replace(one.card, labels=turned))]).members


def test_a_member_whose_outputs_are_regions_is_refused(member, a_plan):
    plan = a_plan(labels={"lungs": (1, 2), "tumors": (2,)}, regions_class_order=(1, 2))
    one = member("one")
    regional = replace(one, card=replace(one.card, name="regional", nnunet=plan))
    with pytest.raises(CheckpointError, match="regional: its outputs are overlapping regions"):
        ensemble_of([one, regional])


def test_the_card_of_an_ensemble_speaks_for_all_and_claims_nothing_of_one(member):
    one = member("one", license="MIT", citation="First 2020")
    two = member("two", license="CC0", citation="First 2020")
    lungs = (InputChannel("CT", "image"), InputChannel("lung map", "lungs"))
    two = replace(two, card=replace(two.card, channels=lungs))
    found = ensemble_of([one, two], (3, 1), "logits")
    card = found.card
    assert (card.name, found.space) == ("one + two", "logits")
    assert (card.license, card.citation) == ("MIT; CC0", "First 2020")
    assert card.channels == lungs, "that of the one that takes most"
    assert (card.weights, card.samples, card.postprocess) == ((), (), Cleanup((), ()))
    assert card.validation == "None by ThoraxSeg." and "2 checkpoints, on logits" in card.description
    assert (found.weights, found.members) == ((), (one, two))
