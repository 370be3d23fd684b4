"""Folds are by animal: an animal is never on both sides, and the same seed gives the same folds."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from thoraxseg.errors import InputError, OptionError
from thoraxseg.segmentation import STRUCTURES
from thoraxseg.training.data import (
    Case,
    DataSet,
    Fold,
    check_folds,
    given_folds,
    read_folds,
    split_by_animal,
    without_cases,
    write_folds,
)


def a_set(scans, fold=None):
    """A data set with so many scans of each animal."""
    cases = tuple(
        Case(f"m{animal}s{scan}", f"m{animal}", (), None, None if fold is None else fold(animal))
        for animal, count in enumerate(scans)
        for scan in range(count)
    )
    return DataSet("mice", Path(), cases, {1: STRUCTURES["heart"]}, ("CT",))


@hypothesis.given(st.lists(st.integers(1, 6), min_size=2, max_size=20), st.integers(2, 6), st.integers(0, 99))
def test_every_animal_validates_once_and_is_never_on_both_sides(scans, folds, seed):
    hypothesis.assume(folds <= len(scans))
    data = a_set(scans)
    found = split_by_animal(data, folds, seed)
    check_folds(data, found)
    held = Counter(name for fold in found for name in fold.validation)
    assert len(found) == folds and held == Counter(data.animals.keys())
    assert all(len(fold.training) + len(fold.validation) == len(data.cases) for fold in found)
    sizes = [len(fold.validation) for fold in found]
    assert max(sizes) - min(sizes) <= max(scans)


def test_equal_animals_give_equal_folds():
    sizes = [len(fold.validation) for fold in split_by_animal(a_set([2] * 10), 5, 0)]
    assert sizes == [4] * 5


def test_an_animal_with_many_scans_weighs_as_much_as_many_with_one():
    assert [len(fold.validation) for fold in split_by_animal(a_set([1, 1, 5, 1, 1, 1]), 2, 0)] == [5, 5]


def test_folds_depend_on_the_seed_and_not_on_the_order_of_the_cases():
    data = a_set([1, 2, 3] * 5)
    turned = replace(data, cases=data.cases[::-1])
    assert split_by_animal(data, 5, 7) == split_by_animal(turned, 5, 7)
    assert split_by_animal(data, 5, 7) != split_by_animal(data, 5, 8)


@pytest.mark.parametrize(
    ("scans", "folds", "sentence"),
    [
        ([3, 3, 3], 5, "Choose at most 3 folds"),
        ([9], 2, "add animals, or train without validation"),
        ([1, 1, 1], 1, "expected 2 or more"),
    ],
    ids=["few animals", "one animal", "one fold"],
)
def test_more_folds_than_animals_are_refused(scans, folds, sentence):
    with pytest.raises(OptionError, match=sentence):
        split_by_animal(a_set(scans), folds, 0)


@pytest.mark.parametrize(
    ("fold", "sentence"),
    [
        (
            Fold(("m0s0", "m1s0"), ("m0s1",)),
            r"1 animal\(s\) both to train and to validate on: m0 \(cases m0s0, m0s1",
        ),
        (Fold(("m0s0",), ("m9s0",)), "m9s0 is not in the data set"),
        (Fold(("m0s0",), ()), "expected cases to validate on"),
        (Fold((), ("m0s0",)), "expected cases to train on"),
        (Fold(("m0s0", "m0s0"), ("m1s0",)), "twice"),
    ],
    ids=["animal on both sides", "unknown case", "nothing to validate on", "nothing to train on", "twice"],
)
def test_folds_that_leak_or_do_not_fit_are_refused_by_name(fold, sentence):
    with pytest.raises(InputError, match=sentence):
        check_folds(a_set([2, 1]), [fold])


def test_folds_are_written_and_read_as_nnunet_has_them(tmp_path):
    folds = split_by_animal(a_set([2, 2, 1]), 3, 0)
    write_folds(tmp_path / "splits_final.json", folds)
    assert read_folds(tmp_path / "splits_final.json") == folds
    plain = json.loads((tmp_path / "splits_final.json").read_text())
    assert plain[0] == {"train": [*folds[0].training], "val": [*folds[0].validation]}


@pytest.mark.parametrize("text", ["[]", "{}", '[{"train": ["a"]}]', '[{"train": "a", "val": ["b"]}]', "no"])
def test_a_file_that_has_no_folds_is_refused(tmp_path, text):
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(InputError, match=r"splits\.json"):
        read_folds(tmp_path / "splits.json")


def test_folds_of_the_data_set_itself_go_by_number():
    names = ["10", "2", "2", None]
    data = a_set([1, 2, 1, 1], fold=lambda animal: names[animal])
    assert [fold.validation for fold in given_folds(data)] == [("m1s0", "m1s1", "m2s0"), ("m0s0",)]
    assert all("m3s0" in fold.training for fold in given_folds(data))
    assert given_folds(a_set([1, 1])) is None


def test_broken_cases_can_be_taken_out_of_folds():
    assert without_cases([Fold(("a", "b"), ("c", "d"))], {"b", "d"}) == [Fold(("a",), ("c",))]
