"""The paired comparison of scores -> tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thoraxseg.agreement.words import DASH, PLUS_MINUS, decimals_of, fixed, mean_and_sd, p_value, whys
from thoraxseg.metrics import bland_altman
from thoraxseg.report import DataTable, Picture, Section
from thoraxseg.report.plots import bland_altman_plot, paired_plot

_WORDS = dict.fromkeys(("effect_low", "effect_high", "effect_confidence"), "interval")


def stats_sections(
    found: Sequence[Mapping[str, Any]], values: Mapping[str, Sequence[float | None]], scans: Sequence[str]
) -> list[Section]:
    """Return the page of comparisons; `values` are the numbers of every column, by scan."""
    return [
        Section("Comparison", tables=[_scores_table(found), _tests_table(found)]),
        Section("Pair by pair", pictures=[one for each in found for one in _pictures(each, values, scans)]),
        *([Section("Left out", tables=[_left_out(found)])] if any(one["left_out"] for one in found) else []),
    ]


def _scores_table(found: Sequence[Mapping[str, Any]]) -> DataTable:
    columns = ["", "n", f"Mean {PLUS_MINUS} SD", "Median", "Against", f"Mean {PLUS_MINUS} SD", "Median"]
    cells = [
        [
            *(
                one["name_a"],
                str(one["n"]),
                _mean(one, "a"),
                fixed(one["median_a"], _decimals(one)) + "*" * one["significant"],
            ),
            *(one["name_b"], _mean(one, "b"), fixed(one["median_b"], _decimals(one))),
        ]
        for one in found
    ]
    foot = f"* p < {found[0]['alpha']:g}, two-sided Wilcoxon signed-rank test over scans, without correction."
    return DataTable("Scores", columns, cells, [f"{foot} SD with ddof 1."])


def _tests_table(found: Sequence[Mapping[str, Any]]) -> DataTable:
    columns = [
        *("", "Over", "n, used, zero, missing", "p", "p Pratt", "p Holm", "p BH"),
        *("Difference [interval]", "Rank-biserial", "Method"),
    ]
    cells, notes = [], []
    for one in found:
        levels = [(one, "scans"), (one["per_animal"], "animals")]
        if one["with_failed"]:
            levels += [(one["with_failed"], "scans, failed counted")]
            levels += [(one["with_failed"]["per_animal"], "animals, failed counted")]
        for level, words in levels:
            if level:
                cells.append([one["name_a"], words, *_test_cells(level)])
                undefined = {_WORDS.get(key, key): why for key, why in level["undefined"].items()}
                notes += [f"{one['name_a']}, {words}: {why}." for why in whys(undefined)]
    return DataTable("Tests", columns, cells, notes)


def _left_out(found: Sequence[Mapping[str, Any]]) -> DataTable:
    cells = [
        [one["name_a"], one["name_b"], entry["scan"], entry["reason"]]
        for one in found
        for entry in one["left_out"]
    ]
    return DataTable("Scans left out", ["", "Against", "Scan", "Why"], cells)


def _pictures(
    one: Mapping[str, Any], values: Mapping[str, Sequence[float | None]], scans: Sequence[str]
) -> list[Picture]:
    effect = one["effect"], one["effect_low"], one["effect_high"]
    words = f"Wilcoxon signed-rank, {one['method']}, p = {p_value(one['p'])}, n = {one['n']}"
    a, b = values[one["name_a"]], values[one["name_b"]]
    return [
        paired_plot(a, b, list(scans), one["name_a"], one["name_b"], "Score", "", words, effect),
        bland_altman_plot(
            b,
            a,
            "",
            bland_altman(b, a),
            f"{one['name_a']} minus {one['name_b']}",
            sides=(one["name_b"], one["name_a"]),
        ),
    ]


def _test_cells(level: Mapping[str, Any]) -> list[str]:
    ps = [p_value(level.get(key)) for key in ("p", "p_pratt", "p_holm", "p_bh")]
    effect = [_effect(level), fixed(level["rank_biserial"], 2)]
    counts = ", ".join(str(level[key]) for key in ("n", "n_used", "n_zero", "n_missing"))
    return [counts, *ps, *effect, level["method"]]


def _mean(one: Mapping[str, Any], side: str) -> str:
    return mean_and_sd(one[f"mean_{side}"], one[f"sd_{side}"], _decimals(one))


def _decimals(one: Mapping[str, Any]) -> int:
    return decimals_of(one["mean_a"], one["mean_b"])


def _effect(level: Mapping[str, Any]) -> str:
    if level["effect"] is None:
        return DASH
    decimals = max(_decimals(level), decimals_of(level["effect"]) - 1)
    effect, low, high = (fixed(level[key], decimals) for key in ("effect", "effect_low", "effect_high"))
    return f"{effect} [{low}, {high}]"
