"""Entropy of class probabilities with values known on paper."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.errors import InputError
from thoraxseg.inference import Quantity, predictive_entropy
from thoraxseg.inference.uncertainty import FOLD_SPREAD, entropy_of


def maps(*classes, shape=(1, 1, 1)):
    return np.stack([np.full(shape, p, np.float32) for p in classes])


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_equal_probabilities_have_the_entropy_ln_l(classes):
    found = predictive_entropy(maps(*[1 / classes] * classes, shape=(2, 3, 4)))
    assert found.shape == (2, 3, 4) and found.dtype == np.float32
    np.testing.assert_allclose(found, np.log(classes), rtol=1e-6)
    assert (found <= np.float32(np.log(classes))).all()


def test_a_certain_class_has_no_entropy():
    assert predictive_entropy(maps(0, 1, 0)).item() == 0


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ((0.5, 0.5, 0), np.log(2)),
        ((0.25, 0.75), 0.25 * np.log(4) + 0.75 * np.log(4 / 3)),
        ((0.9, 0.1), 0.325082973),
    ],
)
def test_entropy_is_the_sum_of_p_ln_1_over_p(probabilities, expected):
    assert predictive_entropy(maps(*probabilities)).item() == pytest.approx(expected, rel=1e-6)


def test_rounding_in_the_sum_is_tolerated():
    assert predictive_entropy(maps(0.5, 0.5009)).item() > 0


@pytest.mark.parametrize("probabilities", [(0.5, 0.502), (0.4, 0.4), (2.0, 3.0), (np.nan, 1.0), (0.0, 0.0)])
def test_numbers_that_do_not_sum_to_1_are_refused(probabilities):
    array = maps(0.5, 0.5, shape=(1, 1, 9))
    array[:, 0, 0, 4] = probabilities
    with pytest.raises(InputError, match="sum to 1"):
        predictive_entropy(array)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_a_map_of_entropy_says_what_of_its_unit_and_its_maximum(classes):
    quantity = entropy_of("the class probabilities", classes)
    assert quantity == Quantity("entropy_nat", "entropy of the class probabilities", "nat", np.log(classes))
    found = predictive_entropy(maps(*[1 / classes] * classes))
    assert found.item() == pytest.approx(quantity.maximum, rel=1e-6)


def test_the_spread_of_two_folds_that_contradict_each_other_is_its_maximum():
    from thoraxseg.inference.sampling import FoldSpread

    folds = FoldSpread()
    folds.add(maps(0, 1))
    folds.add(maps(1, 0))
    assert folds.spread().item() == FOLD_SPREAD.maximum == 0.5
    assert FOLD_SPREAD.unit == "1" and FOLD_SPREAD.key == "fold_spread"
