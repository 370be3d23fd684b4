import json
import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thoraxseg.errors import InputError, OptionError
from thoraxseg.metrics import statistics
from thoraxseg.metrics.statistics import (
    benjamini_hochberg,
    bland_altman,
    compare_paired,
    hodges_lehmann,
    holm,
    rank_biserial,
    summary,
    wilcoxon,
)

# Hamilton depression scale, first and second visit (Hollander and Wolfe; R's wilcox.test page).
FIRST_VISIT = (1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30)
SECOND_VISIT = (0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29)
DEPRESSION = tuple(one - other for one, other in zip(FIRST_VISIT, SECOND_VISIT, strict=True))
# Cross- minus self-fertilized maize in eighths of an inch (Darwin; SciPy's wilcoxon page).
MAIZE = (6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75)

TIED = st.lists(st.integers(-4, 4), max_size=8)
SCORES = st.none() | st.floats(-1e3, 1e3) | st.just(float("nan")) | st.integers(0, 3).map(float)


def p_by_enumeration(differences, zeros):
    """Return (W+, p) from every sign of every rank, with ranks by counting: an answer of other making."""
    kept = [value for value in differences if value or zeros == "pratt"]
    ranks = [
        Fraction(1 + sum(abs(o) < abs(v) for o in kept) + sum(abs(o) <= abs(v) for o in kept), 2)
        for v in kept
        if v
    ]
    kept = [value for value in kept if value]
    w = sum((rank for rank, value in zip(ranks, kept, strict=True) if value > 0), Fraction(0))
    mean = sum(ranks, Fraction(0)) / 2
    sums = [
        sum((rank for rank, sign in zip(ranks, signs, strict=True) if sign), Fraction(0))
        for signs in product((False, True), repeat=len(ranks))
    ]
    extreme = sum(abs(total - mean) >= abs(w - mean) for total in sums)
    return float(w), extreme / len(sums) if ranks else math.nan


def test_the_depression_data_of_r_have_v_40_and_p_0_0390625():
    found = wilcoxon(DEPRESSION)
    assert (found.w_plus, found.w_minus, found.p) == (40, 5, 0.0390625)
    assert (found.n, found.n_used, found.n_zero, found.method) == (9, 9, 0, "exact")


def test_the_depression_data_have_the_published_estimate_and_96_percent_interval():
    found = hodges_lehmann(DEPRESSION)
    assert (round(found.estimate, 9), found.low, found.high) == (0.46, 0.01, 0.786)
    assert found.confidence == 1 - 2 * 10 / 2**9


def test_darwins_maize_of_scipy_has_w_24_and_p_0_041259765625():
    found = wilcoxon(MAIZE)
    assert (min(found.w_plus, found.w_minus), found.p) == (24, 0.041259765625)


@settings(max_examples=300)
@given(TIED, st.sampled_from(["wilcox", "pratt"]))
def test_p_is_that_of_all_sign_assignments_with_ties_and_zeros(differences, zeros):
    found = wilcoxon(differences, zeros)
    w_plus, p = p_by_enumeration(differences, zeros)
    assert found.w_plus == w_plus
    assert found.p == p or (math.isnan(found.p) and math.isnan(p))
    assert found.n_zero == differences.count(0) and found.n_used == len(differences) - differences.count(0)


def test_ties_and_zeros_by_hand():
    # 0 dropped; ranks 2, 2, 2, 4: W+ = 8, W- = 2. Sums <= 2: {}, three times {2}: 4 of 16, twice that is 1/2.
    assert wilcoxon([0, 1, -1, 1, 3]).p == 8 / 16
    # Pratt: 0 takes rank 1; ranks 3, 3, 3, 5: W- = 3, sums <= 3: again 4 of 16.
    assert wilcoxon([0, 1, -1, 1, 3], zeros="pratt").w_minus == 3
    # The zero rule can decide: sums <= 3 of 1 ... 5 are {}, 1, 2, 3, 1 + 2; sums <= 4 of 2 ... 6 are {}, 2, 3, 4.
    assert wilcoxon([0, 1, 2, -3, 4, 5]).p == 10 / 32
    assert wilcoxon([0, 1, 2, -3, 4, 5], zeros="pratt").p == 8 / 32


@pytest.mark.parametrize("n", [5, 9, 14, 30, 51])
def test_p_without_ties_is_that_of_scipy(n):
    from scipy.stats import wilcoxon as scipy_wilcoxon

    differences = np.random.default_rng(n).normal(0.2, 1, n)
    expected = scipy_wilcoxon(differences, method="exact")
    found = wilcoxon(differences)
    assert min(found.w_plus, found.w_minus) == expected.statistic
    assert found.p == pytest.approx(expected.pvalue, rel=1e-12)


def test_a_thousand_differences_are_still_exact_and_one_more_says_that_it_is_not(monkeypatch):
    from scipy.stats import wilcoxon as scipy_wilcoxon

    differences = np.round(np.random.default_rng(1).normal(0.1, 1, 1001), 2)
    differences[differences == 0] = 0.5
    near, far = wilcoxon(differences[:1000]), wilcoxon(differences)
    assert near.method == "exact" and far.method == "normal approximation with tie correction"
    assert far.p == pytest.approx(scipy_wilcoxon(differences, method="asymptotic").pvalue, rel=1e-12)
    monkeypatch.setattr(statistics, "EXACT_UP_TO", 2000)
    assert far.p == pytest.approx(wilcoxon(differences).p, rel=1e-2)


def test_noise_of_the_last_bit_neither_breaks_ties_nor_makes_differences():
    a, b = [0.3, 0.8, 0.5], [0.1 + 0.2, 0.7, 0.4]
    assert wilcoxon(np.subtract(a, b)).n_zero == 1
    assert wilcoxon(np.subtract(a, b)).p == wilcoxon([1, 1]).p == 0.5


@pytest.mark.parametrize("n", [1, 2, 13, 14, 40])
def test_only_zeros_leave_p_undefined_whatever_their_number(n):
    found = wilcoxon([0.0] * n)
    assert math.isnan(found.p) and math.isnan(found.smallest_p) and found.n_zero == n
    assert math.isnan(rank_biserial([0.0] * n))


def test_one_difference_has_p_1():
    assert wilcoxon([0.3]).p == wilcoxon([-2.0, 0, 0]).p == 1


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (2, 0.5), (5, 0.0625), (8, 0.0078125), (35, 2 / 2**35)])
def test_the_smallest_possible_p_is_reached_when_all_signs_are_equal(n, expected):
    found = wilcoxon(np.arange(1, n + 1))
    assert found.smallest_p == expected == found.p


def test_numbers_that_are_none_are_refused():
    for bad in (math.nan, math.inf, -math.inf, 1e200):
        with pytest.raises(InputError):
            wilcoxon([1, bad])
    with pytest.raises(OptionError, match='"wilcox" or "pratt", got \'split\''):
        wilcoxon([1], zeros="split")


@given(TIED)
def test_the_opposite_differences_change_signs_only(differences):
    one, other = wilcoxon(differences), wilcoxon([-value for value in differences])
    assert (one.w_plus, one.w_minus) == (other.w_minus, other.w_plus)
    assert one.p == other.p or math.isnan(one.p)
    assert rank_biserial(differences) == -rank_biserial([-d for d in differences]) or math.isnan(one.p)


def test_rank_biserial_of_known_rank_sums():
    assert rank_biserial(DEPRESSION) == 35 / 45
    assert rank_biserial([1, 2, 3]) == 1 and rank_biserial([-1, 0]) == -1 and rank_biserial([2, -2]) == 0


def test_holm_of_a_worked_example():
    # m = 4: 4 x 0.01, 3 x 0.015, 2 x 0.03 and 0.04, each not below the one before.
    assert holm([0.03, 0.01, 0.04, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])
    assert holm([0.6, 0.9]) == [1, 1]


def test_benjamini_hochberg_of_their_1995_example():
    ps = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240]
    ps += [0.4262, 0.5719, 0.6528, 0.7590, 1.0000]
    # The paper rejects four hypotheses at a false discovery rate of 0.05, Bonferroni's procedure three.
    assert sum(value <= 0.05 for value in benjamini_hochberg(ps)) == 4
    assert sum(value <= 0.05 for value in holm(ps)) == 3
    assert benjamini_hochberg([0.04, 0.01, 0.03, 0.5]) == pytest.approx([0.16 / 3, 0.04, 0.16 / 3, 0.5])


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_undefined_p_values_stay_undefined_and_do_not_count(correct):
    found = correct([math.nan, 0.02, None, 0.04])
    assert [math.isnan(value) for value in found] == [True, False, True, False]
    assert [found[1], found[3]] == correct([0.02, 0.04])
    assert correct([]) == [] and correct([0.3]) == [0.3]
    with pytest.raises(InputError, match="from 0 to 1"):
        correct([1.2])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_corrections_match_their_definitions_and_scipy(ps):
    from scipy.stats import false_discovery_control

    if ps:
        np.testing.assert_allclose(benjamini_hochberg(ps), false_discovery_control(ps), atol=1e-15)
    m = len(ps)
    ordered = sorted(ps)
    for p, adjusted in zip(ps, holm(ps), strict=True):
        steps = [(m - k) * other for k, other in enumerate(ordered) if other <= p]
        assert adjusted == pytest.approx(min(1, max(steps)))


@given(st.lists(st.floats(-100, 100).map(lambda value: round(value, 3)), min_size=1, max_size=9))
def test_the_estimate_is_the_median_of_all_pairwise_means(differences):
    n = len(differences)
    walsh = sorted((differences[i] + differences[j]) / 2 for i in range(n) for j in range(i, n))
    assert hodges_lehmann(differences).estimate == pytest.approx(float(np.median(walsh)), abs=1e-9)


@pytest.mark.parametrize("n", [6, 7, 10, 12])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_interval_holds_exactly_the_shifts_that_the_test_does_not_reject(n, confidence):
    values = np.random.default_rng(n).normal(1, 2, n)
    found = hodges_lehmann(values, confidence)
    if math.isnan(found.low):
        assert wilcoxon(np.arange(1, n + 1)).p > 1 - confidence
        return
    step = 1e-6
    alpha = 1 - confidence
    assert wilcoxon(values - found.low + step).p <= alpha < wilcoxon(values - found.low - step).p
    assert wilcoxon(values - found.high - step).p <= alpha < wilcoxon(values - found.high + step).p
    assert found.confidence == pytest.approx(1 - wilcoxon(values - found.low + step).p)
    assert found.confidence >= confidence


def test_a_large_sample_has_nearly_the_same_interval_by_approximation(monkeypatch):
    values = np.random.default_rng(0).normal(0.1, 1, 400)
    exact = hodges_lehmann(values)
    monkeypatch.setattr(statistics, "EXACT_UP_TO", 10)
    found = hodges_lehmann(values)
    assert found.estimate == exact.estimate
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-3)
    assert found.confidence == pytest.approx(exact.confidence, abs=1e-3)


@pytest.mark.parametrize(("n", "defined"), [(5, False), (6, True)])
def test_five_differences_are_too_few_for_95_percent_and_six_give_the_range(n, defined):
    values = [1.0, 2, 3, 4, 5, 7][:n]
    found = hodges_lehmann(values)
    assert math.isnan(found.low) != defined
    if defined:
        assert (found.low, found.high, found.confidence) == (1, 7, 1 - 2 / 64)
    assert not math.isnan(found.estimate)


def test_zeros_count_in_the_estimate_and_no_difference_has_none():
    found = hodges_lehmann([0] * 6 + [5])
    assert (found.estimate, found.low) == (0, 0)
    assert math.isnan(hodges_lehmann([]).estimate)
    with pytest.raises(OptionError, match="confidence: expected a number between 0 and 1, got 95"):
        hodges_lehmann([1], confidence=95)


def test_bland_altman_by_hand():
    found = bland_altman([10, 20, 30, 40, None], [12, 20, 34, 42, 7])
    # Differences 2, 0, 4, 2: mean 2, variance 8 / 3; t with 3 degrees of freedom is 3.18245.
    sd = math.sqrt(8 / 3)
    assert found["n"] == 4 and found["n_missing"] == 1
    assert found["bias"] == 2 and found["sd"] == pytest.approx(sd)
    assert (found["low"], found["high"]) == pytest.approx((2 - 1.96 * sd, 2 + 1.96 * sd))
    half = 3.182446305 * sd / 2
    assert (found["bias_low"], found["bias_high"]) == pytest.approx((2 - half, 2 + half), rel=1e-9)


def test_bland_altman_of_one_pair_has_a_bias_only_and_of_none_nothing():
    one = bland_altman([1], [3])
    assert one["bias"] == 2 and {key for key in one if one[key] is None} == {
        "sd",
        "low",
        "high",
        "bias_low",
        "bias_high",
    }
    assert bland_altman([None], [3])["bias"] is None
    with pytest.raises(InputError, match="got 1 and 2 values"):
        bland_altman([1], [1, 2])


def test_summary_by_hand():
    assert summary([4, None, 1, 3, math.nan, 2]) == {
        "n": 4,
        "mean": 2.5,
        "sd": math.sqrt(5 / 3),
        "median": 2.5,
        "q1": 1.75,
        "q3": 3.25,
        "minimum": 1,
        "maximum": 4,
        "n_undefined": 2,
    }


def test_summary_of_one_value_has_no_sd_of_equal_values_a_zero_and_of_none_nothing():
    assert summary([0.7])["sd"] is None and summary([0.7])["mean"] == summary([0.7])["q1"] == 0.7
    assert summary([0.1] * 3)["sd"] == 0 and summary([0.1] * 3)["mean"] == 0.1
    empty = summary([None])
    assert empty.pop("n") == 0 and empty.pop("n_undefined") == 1 and set(empty.values()) == {None}
    with pytest.raises(InputError, match="got inf"):
        summary([1, math.inf])


KEYS = [
    *("n", "n_used", "n_zero", "n_missing", "p", "significant", "method", "statistic", "w_plus", "w_minus"),
    *("p_pratt", "smallest_possible_p", "can_be_significant", "mean_a", "sd_a", "median_a", "mean_b", "sd_b"),
    *("median_b", "effect", "effect_low", "effect_high", "effect_confidence", "rank_biserial", "alpha"),
    "undefined",
]


def test_the_comparison_of_the_depression_data_has_every_number():
    found = compare_paired(FIRST_VISIT, SECOND_VISIT)
    assert list(found) == KEYS and found["undefined"] == {}
    assert (found["p"], found["statistic"], found["w_plus"], found["significant"]) == (0.0390625, 5, 40, True)
    assert found["p_pratt"] == found["p"] and found["rank_biserial"] == 35 / 45
    assert found["effect"] == pytest.approx(0.46) and found["effect_low"] == 0.01
    assert found["mean_a"] == pytest.approx(1.7666667) and found["median_b"] == 1.06
    assert found["sd_a"] == pytest.approx(np.std(FIRST_VISIT, ddof=1))
    assert compare_paired(FIRST_VISIT, SECOND_VISIT, alpha=0.01)["significant"] is False


def test_the_comparison_gives_p_by_pratt_beside_the_headline():
    found = compare_paired([0, 1, 2, -3, 4, 5], [0] * 6)
    assert (found["p"], found["p_pratt"]) == (10 / 32, 8 / 32)


def test_alpha_sets_the_confidence_of_the_interval():
    found = compare_paired([2, 3, 4, 5, 6], [1] * 5, alpha=0.1)
    assert (found["effect_low"], found["effect_high"], found["effect_confidence"]) == (1, 5, 1 - 2 / 32)


def test_incomplete_pairs_are_left_out_of_every_number_and_counted():
    found = compare_paired([1, None, 3, 9], [2, 100, math.nan, 9])
    assert (found["n"], found["n_missing"], found["n_used"], found["n_zero"]) == (2, 2, 1, 1)
    assert (found["mean_a"], found["mean_b"], found["p"]) == (5, 5.5, 1)


def test_five_animals_can_never_be_significant_and_six_can():
    five = compare_paired([2, 3, 4, 5, 6], [1, 1, 1, 1, 1])
    assert five["p"] == five["smallest_possible_p"] == 0.0625
    assert not five["can_be_significant"] and not five["significant"]
    assert five["effect_low"] is None
    assert five["undefined"]["effect_low"] == "5 pairs are too few for a confidence of 95 %; 6 are needed"
    six = compare_paired([2, 3, 4, 5, 6, 7], [1] * 6)
    assert six["can_be_significant"] and six["significant"] and six["undefined"] == {}
    # Zeros that are dropped take the chance away.
    assert not compare_paired([2, 3, 4, 5, 6, 1], [1] * 6)["can_be_significant"]


def test_p_must_be_below_alpha_not_at_it():
    found = compare_paired([2, 3, 4, 5, 6], [1] * 5, alpha=0.0625)
    assert not found["significant"] and not found["can_be_significant"]


def test_series_without_a_difference_have_no_p_no_asterisk_and_a_reason():
    found = compare_paired([0.9] * 20, [0.9] * 20)
    assert found["p"] is None and found["significant"] is False and found["effect"] == 0
    assert found["undefined"] == dict.fromkeys(
        ("p", "p_pratt", "smallest_possible_p", "rank_biserial"), "no difference other than zero"
    )


def test_no_pair_at_all_is_said_for_every_number():
    found = compare_paired([None, 1], [1, None])
    assert found["n"] == 0 and set(found["undefined"].values()) == {"no complete pair"}
    assert found["mean_a"] is None and found["effect"] is None


def test_more_pairs_than_the_estimate_is_made_for_are_said(monkeypatch):
    monkeypatch.setattr(statistics, "WALSH_UP_TO", 7)
    found = compare_paired(range(8), [0.5] * 8)
    assert found["effect"] is None and found["undefined"]["effect_low"] == "more than 7 pairs"
    assert found["p"] is not None


@given(st.lists(st.tuples(SCORES, SCORES), max_size=12), st.sampled_from([0.01, 0.05, 0.3]))
def test_a_comparison_never_holds_nan_or_inf_and_every_none_has_its_reason(pairs, alpha):
    found = compare_paired([one for one, _ in pairs], [other for _, other in pairs], alpha)
    assert list(found) == KEYS
    json.dumps(found, allow_nan=False)
    assert {key for key, value in found.items() if value is None} == set(found["undefined"])
    assert found["n"] == found["n_used"] + found["n_zero"] == len(pairs) - found["n_missing"]


@given(st.lists(st.tuples(SCORES, SCORES), max_size=10))
def test_swapping_the_series_changes_signs_and_sides_only(pairs):
    a, b = [one for one, _ in pairs], [other for _, other in pairs]
    one, other = compare_paired(a, b), compare_paired(b, a)
    same = (
        "p",
        "p_pratt",
        "statistic",
        "significant",
        "n",
        "n_zero",
        "smallest_possible_p",
        "effect_confidence",
    )
    assert [one[key] for key in same] == [other[key] for key in same]
    for key in ("mean", "sd", "median"):
        assert one[f"{key}_a"] == other[f"{key}_b"]
    assert (one["w_plus"], one["w_minus"]) == (other["w_minus"], other["w_plus"])
    for key, opposite in (
        ("effect", "effect"),
        ("effect_low", "effect_high"),
        ("rank_biserial", "rank_biserial"),
    ):
        assert one[key] == (None if other[opposite] is None else -other[opposite])


def test_series_that_cannot_be_compared_are_refused():
    with pytest.raises(InputError, match="got 2 and 3 values"):
        compare_paired([1, 2], [1, 2, 3])
    with pytest.raises(InputError, match="got inf"):
        compare_paired([1, math.inf], [1, 2])
    with pytest.raises(OptionError, match="alpha: expected a number between 0 and 1, got 5"):
        compare_paired([1], [1], alpha=5)
