"""Paired statistics of scores: exact signed-rank test, corrections, effect sizes, limits of agreement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean, stdev

import numpy as np

from thoraxseg.errors import InputError, OptionError

DECIMALS = 12
"""Differences are rounded to 1e-12 before ranking, so that noise of the last bit neither makes nor breaks ties."""

EXACT_UP_TO = 1000
"""Non-zero differences up to which p is exact; above, a normal approximation with tie correction."""

LARGEST = 1e100
"""Largest number taken: sums and squares of such numbers stay finite."""

WALSH_UP_TO = 5000
"""Pairs up to which the Hodges-Lehmann estimate is made: its n (n + 1) / 2 averages are held in memory."""


@dataclass(frozen=True)
class Wilcoxon:
    """Result of a two-sided Wilcoxon signed-rank test."""

    n: int
    """Differences given."""
    n_used: int
    """Non-zero differences, after rounding to 1e-12."""
    n_zero: int
    w_plus: float
    """Sum of the mid-ranks of the positive differences: R's V. SciPy's statistic is the smaller of the two."""
    w_minus: float
    p: float
    """nan when no difference is other than zero."""
    method: str
    smallest_p: float
    """The smallest two-sided p that so many non-zero differences can give, 2 / 2^n; nan when there is none."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; nan where undefined."""

    estimate: float
    low: float
    high: float
    confidence: float
    """The confidence that the interval really has: the smallest attainable one not below what was asked."""


def wilcoxon(differences: Sequence[float], zeros: str = "wilcox") -> Wilcoxon:
    """Return the two-sided Wilcoxon signed-rank test of paired differences against symmetry around 0.

    Differences are rounded to 1e-12, then their sizes get mid-ranks. `zeros`: "wilcox" drops zeros before
    ranking, "pratt" ranks them and drops their ranks (Pratt 1959). p = P(|W+ - mu| >= |w+ - mu|) over all
    2^n equally likely signs of the mid-ranks: exact with ties and zeros, counted by dynamic programming on
    doubled, hence integer, mid-ranks. Above EXACT_UP_TO (1,000) non-zero differences a normal approximation
    with the tie-corrected variance and no continuity correction; `method` says which. No non-zero difference:
    p is nan; one: p = 1. Source: Wilcoxon 1945; Hollander and Wolfe, section 3.1.
    Raises InputError for nan or infinite differences, OptionError for another `zeros`.
    """
    if zeros not in ("wilcox", "pratt"):
        raise OptionError(f'zeros: expected "wilcox" or "pratt", got {zeros!r}.')
    values = _rounded(differences)
    ranked = values if zeros == "pratt" else values[values != 0]
    ranks = _doubled_mid_ranks(np.abs(ranked))
    plus, minus = int(ranks[ranked > 0].sum()), int(ranks[ranked < 0].sum())
    used = int(np.count_nonzero(values))
    p, method = _two_sided_p(ranks[ranked != 0], min(plus, minus))
    return Wilcoxon(
        n=len(values),
        n_used=used,
        n_zero=len(values) - used,
        w_plus=plus / 2,
        w_minus=minus / 2,
        p=p,
        method=method,
        smallest_p=math.ldexp(2.0, -used) if used else math.nan,
    )


def holm(ps: Sequence[float | None]) -> list[float]:
    """Return the p values of one family adjusted by Holm's step-down method, in the order given.

    The k-th smallest of m becomes (m - k + 1) p, never below a smaller one's and at most 1; no claim below
    alpha errs with more than alpha over the whole family. nan and None stay nan and do not count in m.
    Source: Holm 1979. Raises InputError for values outside 0 to 1.
    """
    return _adjusted(ps, lambda p, m, k: np.maximum.accumulate((m - k + 1) * p))


def benjamini_hochberg(ps: Sequence[float | None]) -> list[float]:
    """Return the p values of one family adjusted by Benjamini and Hochberg's step-up method, in order.

    The k-th smallest of m becomes m / k p, never above a larger one's and at most 1: the expected share of
    false claims. nan and None stay nan and do not count in m. Source: Benjamini and Hochberg 1995.
    Raises InputError for values outside 0 to 1.
    """
    return _adjusted(ps, lambda p, m, k: np.minimum.accumulate((m / k * p)[::-1])[::-1])


def hodges_lehmann(differences: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the median of the Walsh averages (d_i + d_j) / 2, i <= j, with its exact interval.

    Zeros count as differences like any other here. The interval runs from the k-th smallest to the k-th
    largest average, with the largest k for which P(W+ <= k - 1) <= (1 - confidence) / 2 under the null
    distribution of n untied ranks: the inverted signed-rank test. Its real confidence is returned. Without ties
    it is exact; with ties or zeros the closed interval covers at least as often (conservative), and can hold 0
    although the test without its zeros rejects, or the other way round.

    low, high and confidence are nan when n is too small for the confidence (below 6 for 95 %), all is nan for
    no difference and above WALSH_UP_TO (5,000) differences. Above EXACT_UP_TO (1,000) k comes from the normal
    approximation. Source: Hodges and Lehmann 1963; Hollander and Wolfe, sections 3.2 and 3.3.
    Raises InputError for nan or infinite differences, OptionError for a confidence outside 0 to 1.
    """
    _check_share(confidence, "confidence")
    values = _rounded(differences)
    n = len(values)
    if not 0 < n <= WALSH_UP_TO:
        return Interval(math.nan, math.nan, math.nan, math.nan)
    first, second = np.triu_indices(n)
    averages = np.sort((values[first] + values[second]) / 2)
    estimate = float(np.median(averages))
    k, achieved = _interval_rank(n, confidence)
    if k == 0:
        return Interval(estimate, math.nan, math.nan, math.nan)
    return Interval(estimate, float(averages[k - 1]), float(averages[-k]), achieved)


def rank_biserial(differences: Sequence[float]) -> float:
    """Return (W+ - W-) / (W+ + W-) of the signed ranks without zeros, -1 to 1; nan when all are zero.

    1 when every difference is positive, 0 when the signs balance. Source: Kerby 2014.
    Raises InputError for nan or infinite differences.
    """
    test = wilcoxon(differences)
    return (test.w_plus - test.w_minus) / (test.w_plus + test.w_minus) if test.n_used else math.nan


def bland_altman(reference: Sequence[float | None], prediction: Sequence[float | None]) -> dict:
    """Return bias and limits of agreement of the differences prediction - reference, in their unit.

    Keys: `bias` (mean), `sd` (ddof 1), `low` and `high` (bias -+ 1.96 SD), `bias_low` and `bias_high` (95 %
    interval of the bias by Student's t with n - 1 degrees of freedom), `n`, `n_missing`. A pair with None or
    nan is left out and counted. None for bias without a pair, and for all the rest with fewer than two.
    Source: Bland and Altman 1986. Raises InputError for unequal lengths or infinite values.
    """
    first, second = _complete_pairs(reference, prediction)
    n = len(first)
    differences = (second - first).tolist()
    bias = mean(differences) if n else None
    found = dict.fromkeys(("bias", "sd", "low", "high", "bias_low", "bias_high"))
    found["bias"] = bias
    if n >= 2:
        from scipy.special import stdtrit

        sd = stdev(differences)
        half = float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)
        found |= {"sd": sd, "low": bias - 1.96 * sd, "high": bias + 1.96 * sd}
        found |= {"bias_low": bias - half, "bias_high": bias + half}
    return {**found, "n": n, "n_missing": len(reference) - n}


def summary(values: Sequence[float | None]) -> dict:
    """Return n, mean, sd (ddof 1), median, q1, q3, minimum, maximum and n_undefined of the values.

    None and nan are left out and counted in `n_undefined`. Quartiles interpolate linearly. Everything is None
    without a value, sd also with a single one. Raises InputError for infinite values.
    """
    numbers = _numbers(values)
    known = numbers[~np.isnan(numbers)].tolist()
    n = len(known)
    keys = ("minimum", "q1", "median", "q3", "maximum")
    quantiles = np.quantile(known, [0, 0.25, 0.5, 0.75, 1]).tolist() if n else [None] * 5
    of = dict(zip(keys, quantiles, strict=True))
    # Exact sums: equal values have an SD of exactly 0.
    return {
        "n": n,
        "mean": mean(known) if n else None,
        "sd": stdev(known) if n > 1 else None,
        **{key: of[key] for key in ("median", "q1", "q3", "minimum", "maximum")},
        "n_undefined": len(numbers) - n,
    }


def compare_paired(a: Sequence[float | None], b: Sequence[float | None], alpha: float = 0.05) -> dict:
    """Return the whole comparison of two series paired by position, a against b, differences a - b.

    Pairs with a None or nan on either side are left out and counted in `n_missing`; means, SDs (ddof 1) and
    medians are over the n complete pairs. `p`: `wilcoxon` with zeros dropped, `p_pratt`: with zeros ranked;
    `statistic`: the smaller rank sum; `effect`: `hodges_lehmann` with the interval of confidence 1 - alpha and
    the confidence it really has. `significant`: p < alpha; `can_be_significant`: whether so many non-zero
    differences can give such a p at all. Never nan or infinite: an undefined number is None and `undefined`
    maps its key to the reason. Raises InputError for unequal lengths or infinite values, OptionError for an
    alpha outside 0 to 1.
    """
    _check_share(alpha, "alpha")
    first, second = _complete_pairs(a, b)
    differences = first - second
    test, pratt = wilcoxon(differences), wilcoxon(differences, zeros="pratt")
    effect = hodges_lehmann(differences, 1 - alpha)
    of_a, of_b = summary(first), summary(second)
    found = {
        "n": test.n,
        "n_used": test.n_used,
        "n_zero": test.n_zero,
        "n_missing": len(a) - test.n,
        "p": test.p,
        "significant": test.p < alpha,
        "method": test.method,
        "statistic": min(test.w_plus, test.w_minus),
        "w_plus": test.w_plus,
        "w_minus": test.w_minus,
        "p_pratt": pratt.p,
        "smallest_possible_p": test.smallest_p,
        "can_be_significant": test.smallest_p < alpha,
        **{f"{key}_a": of_a[key] for key in ("mean", "sd", "median")},
        **{f"{key}_b": of_b[key] for key in ("mean", "sd", "median")},
        "effect": effect.estimate,
        "effect_low": effect.low,
        "effect_high": effect.high,
        "effect_confidence": effect.confidence,
        "rank_biserial": rank_biserial(differences),
        "alpha": alpha,
    }
    missing = [key for key, value in found.items() if value is None or value != value]
    found |= dict.fromkeys(missing)
    return {**found, "undefined": {key: _why(key, found) for key in missing}}


def _why(key: str, found: dict) -> str:
    """Return in plain words why a number of `compare_paired` is undefined."""
    if found["n"] == 0:
        return "no complete pair"
    if key.startswith("sd_"):
        return "one pair has no SD"
    if not key.startswith("effect"):
        return "no difference other than zero"
    if found["n"] > WALSH_UP_TO:
        return f"more than {WALSH_UP_TO} pairs"
    needed = math.ceil(1 - math.log2(found["alpha"]))
    pairs = f"{found['n']} pairs are" if found["n"] > 1 else "one pair is"
    return f"{pairs} too few for a confidence of {100 * (1 - found['alpha']):g} %; {needed} are needed"


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    """Return the values as float64, nan for None. Raises InputError for infinite or huge ones."""
    numbers = np.asarray(values, dtype=np.float64).reshape(-1)
    if (np.abs(numbers) > LARGEST).any():
        raise InputError(
            f"expected numbers no larger than {LARGEST:g}, got {numbers[np.abs(numbers) > LARGEST][0]}. "
            "Leave an undefined score empty."
        )
    return numbers


def _rounded(differences: Sequence[float]) -> np.ndarray:
    """Return the differences rounded to 1e-12. Raises InputError for nan or infinite ones."""
    values = _numbers(differences)
    if np.isnan(values).any():
        raise InputError("expected a difference for every pair, got nan. Leave incomplete pairs out first.")
    return np.round(values, DECIMALS)


def _complete_pairs(
    one: Sequence[float | None], other: Sequence[float | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of the pairs that have both. Raises InputError for unequal lengths."""
    first, second = _numbers(one), _numbers(other)
    if len(first) != len(second):
        raise InputError(
            f"expected two values for each pair, got {len(first)} and {len(second)} values. "
            "Pair them by scan and mark a missing one as None."
        )
    complete = ~(np.isnan(first) | np.isnan(second))
    return first[complete], second[complete]


def _check_share(value: float, name: str) -> None:
    """Raise OptionError unless 0 < value < 1."""
    if not 0 < value < 1:
        raise OptionError(f"{name}: expected a number between 0 and 1, got {value!r}.")


def _doubled_mid_ranks(sizes: np.ndarray) -> np.ndarray:
    """Return twice the mid-ranks, int64: equal sizes share the mean of their ranks."""
    _, group, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (2 * last - counts + 1)[group.reshape(-1)]


def _two_sided_p(ranks: np.ndarray, smaller: int) -> tuple[float, str]:
    """Return p and how it was found, from the doubled ranks of non-zero differences and the smaller sum."""
    n, total = len(ranks), int(ranks.sum())
    if n == 0:
        return math.nan, "none: no difference other than zero"
    if n > EXACT_UP_TO:
        z = (total / 2 - smaller) / math.sqrt(float((ranks.astype(np.float64) ** 2).sum()) / 4)
        return math.erfc(z / math.sqrt(2)), "normal approximation with tie correction"
    # The distribution is symmetric, so both tails are twice the lower one; a sum in the middle stands in both.
    return min(1.0, 2 * float(_null_distribution(ranks, smaller).sum())), "exact"


def _null_distribution(ranks: np.ndarray, limit: int) -> np.ndarray:
    """Return P(W = 0 ... limit) for the sum W of integer ranks, each counted with probability 1/2."""
    probability = np.zeros(limit + 1)
    probability[0] = 1
    for rank in np.sort(ranks).tolist():
        probability /= 2
        if rank <= limit:
            probability[rank:] += probability[: limit + 1 - rank].copy()
    return probability


def _interval_rank(n: int, confidence: float) -> tuple[int, float]:
    """Return the largest k with P(W+ <= k - 1) <= (1 - confidence) / 2 for n untied ranks, and 1 - 2 P.

    (0, nan) when there is none.
    """
    tail = (1 - confidence) / 2
    middle = n * (n + 1) / 4
    if n > EXACT_UP_TO:
        spread = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        k = math.floor(middle + spread * NormalDist().inv_cdf(tail) + 0.5)
        return k, 1 - 2 * NormalDist(middle, spread).cdf(k - 0.5)
    cumulative = np.cumsum(_null_distribution(np.arange(1, n + 1), math.floor(middle)))
    k = int(np.searchsorted(cumulative, tail, side="right"))
    return k, 1 - 2 * float(cumulative[k - 1]) if k else math.nan


def _adjusted(
    ps: Sequence[float | None], adjust: Callable[[np.ndarray, int, np.ndarray], np.ndarray]
) -> list[float]:
    """Return the known p values adjusted in ascending order, at most 1, put back in their places."""
    values = np.asarray(ps, dtype=np.float64).reshape(-1)
    known = np.flatnonzero(~np.isnan(values))
    if ((values[known] < 0) | (values[known] > 1)).any():
        raise InputError(f"expected p values from 0 to 1, got {list(ps)}.")
    order = known[np.argsort(values[known], kind="stable")]
    found = np.full(len(values), math.nan)
    found[order] = np.minimum(adjust(values[order], len(order), np.arange(1, len(order) + 1)), 1)
    return found.tolist()
