"""A table of paired scores -> the test that a paper reports, over scans and over animals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from thoraxseg.agreement.animals import compare_animals
from thoraxseg.agreement.cohort import FAILED
from thoraxseg.agreement.manifest import FAILED_WORDS
from thoraxseg.agreement.stats_page import stats_sections
from thoraxseg.agreement.words import DASH, p_value, some, whys
from thoraxseg.agreement.writing import Csv, Report, finished
from thoraxseg.errors import InputError, OptionError
from thoraxseg.files import sha256_file
from thoraxseg.metrics import benjamini_hochberg, compare_paired, holm
from thoraxseg.progress import Progress, silent
from thoraxseg.report import printable
from thoraxseg.tables import Row, Table, read_table

DEFINITIONS = {
    "n": "Pairs of numbers: scans with a number in both columns.",
    "n_used": "Pairs that differ, after rounding differences to 1e-12; the others (n_zero) are dropped before ranking.",
    "n_missing": "Scans without a number in one column or both, failed ones (n_failed_a, n_failed_b) among them; left "
    "out, and listed under left_out.",
    "with_failed": "The same comparison with a number in place of every failed case, where --failed-as was given.",
    "p": "Two-sided Wilcoxon signed-rank test of a - b against symmetry around 0, by the exact conditional "
    "distribution over all assignments of signs to the mid-ranks where method says exact; undefined where no pair "
    "differs.",
    "p_pratt": "The same with zeros ranked along (Pratt).",
    "significant": "Whether p is below alpha, without correction.",
    "statistic": "The smaller of the two rank sums (SciPy's); w_plus is R's V.",
    "smallest_possible_p": "The smallest p that so many differing pairs can give, 2 / 2^n_used.",
    "mean_a, sd_a, median_a": "Over the n pairs, SD with ddof 1; the same for b.",
    "effect": "Hodges-Lehmann estimate of the shift a - b: the median of all pairwise means of differences (zeros "
    "among them), with its interval (effect_low, effect_high) at the confidence effect_confidence, that of differences "
    "without ties.",
    "rank_biserial": "Matched-pairs rank-biserial correlation, (w_plus - w_minus) / (w_plus + w_minus), -1 to 1.",
    "per_animal": "The same over animals: differences are those of an animal's means over its complete pairs. Scans of "
    "one animal are not independent, so this is the level to claim at.",
    "p_holm, p_bh": "p corrected for the comparisons of this table, by Holm and by Benjamini and Hochberg.",
}


def stats(
    path: Path,
    a: Sequence[str] = (),
    b: str | None = None,
    alpha: float = 0.05,
    failed_as: float | None = None,
    progress: Progress = silent,
) -> Report:
    """Return the paired comparison of columns of a CSV table with the columns scan, a, b and optionally animal.

    `a` and `b` name other columns; several `a` are each compared with the one `b` and corrected for one another. An
    empty cell is a missing score, the word failed a failed case: both are left out, counted and listed. With
    `failed_as`, the comparison is also made with that number for every failed case, under `with_failed`.
    Raises InputError for a bad table, text or a formula in a number column, the same scan twice; OptionError for
    columns that are not there and for a `failed_as` that is no number.
    """
    if failed_as is not None and not np.isfinite(failed_as):
        raise OptionError(f"--failed-as: expected a number such as 0, got {failed_as}.")
    table = read_table(path, ("scan",))
    names, base = _columns(table, a, b)
    scans, animals = _scans(table)
    cells = {name: [_value(table, row, name) for row in table.rows] for name in (*names, base)}
    found = [_compared(cells, name, base, scans, animals, alpha, failed_as) for name in names]
    for level in (found, [one["per_animal"] for one in found if one["per_animal"]]):
        for key, correct in (("p_holm", holm), ("p_bh", benjamini_hochberg)):
            for one, p in zip(level, correct([one["p"] for one in level]), strict=True):
                one[key] = None if np.isnan(p) else float(p)
    progress(0.5, "Drawing")
    record = finished(
        DEFINITIONS,
        {"a": list(names), "b": base, "alpha": alpha, "failed_as": failed_as},
        _notes(found, animals is not None),
        _warnings(found),
        inputs=[{"role": "table", "name": printable(table.path.name), "sha256": sha256_file(table.path)}],
        comparisons=found,
    )
    if len(found) == 1:
        record |= found[0]
    values = {printable(name): _filled(own, None) for name, own in cells.items()}
    return Report(
        "stats",
        record,
        "Paired comparison",
        f"{printable(table.path.name)}: {', '.join(map(printable, names))} against {printable(base)}",
        [
            (p_value(level["p"]), f"p over {words}, {one['name_a']} against {one['name_b']}")
            for one in found[:3]
            for level, words in ((one, "scans"), (one["per_animal"], "animals"))
            if level
        ],
        partial(stats_sections, found, values, scans),
        {"": Csv(_CSV, [row for one in found for row in _csv_rows(one)])},
    )


_CSV = (
    *(
        "a",
        "b",
        "level",
        "n",
        "n_used",
        "n_zero",
        "n_missing",
        "n_failed_a",
        "n_failed_b",
        "p",
        "p_holm",
        "p_bh",
    ),
    *("significant", "method", "statistic", "w_plus", "w_minus", "p_pratt", "smallest_possible_p"),
    *("can_be_significant", "mean_a", "sd_a", "median_a", "mean_b", "sd_b", "median_b"),
    *("effect", "effect_low", "effect_high", "effect_confidence", "rank_biserial", "alpha", "remarks"),
)


def _columns(table: Table, a: Sequence[str], b: str | None) -> tuple[tuple[str, ...], str]:
    numbers = [name for name in table.columns if name not in ("scan", "animal")]
    names, base = tuple(a or ("a",)), b or "b"
    if len(set(names)) < len(names) or base in names:
        raise OptionError(f"stats: expected different columns to compare, got {', '.join((*names, base))}.")
    if missing := [name for name in (*names, base) if name not in numbers]:
        wrong = OptionError if a or b else InputError  # what was asked for, or what the table lacks
        raise wrong(
            f"{table.path}: expected the columns scan, a, b; {', '.join(missing)} is missing. Its columns are "
            f"{', '.join(table.columns)}: choose two with --a and --b."
        )
    return names, base


def _scans(table: Table) -> tuple[list[str], list[str] | None]:
    """Return the names of scans and, where the table tells them, of animals."""
    has_animals = "animal" in table.columns
    seen: set[str] = set()
    for row in table.rows:
        if not row["scan"] or (has_animals and not row["animal"]):
            raise InputError(f"{table.where(row)}: expected a scan (and an animal), the cell is empty.")
        if row["scan"] in seen:
            raise InputError(
                f"{table.where(row)}: the scan {row['scan']!r:.80} is in the table twice. Pairs are made by scan: "
                "give each one row."
            )
        seen.add(row["scan"])
    scans = [row["scan"] for row in table.rows]
    return scans, [row["animal"] for row in table.rows] if has_animals else None


def _value(table: Table, row: Row, name: str) -> float | str | None:
    """Return the number in a cell, None for an empty one, FAILED where the cell says so."""
    text = row[name]
    if not text or text in ("-", DASH):
        return None
    if text.lower() in FAILED_WORDS:
        return FAILED
    return table.number(row, name)


def _filled(cells: Sequence[float | str | None], failed_as: float | None) -> list[float | None]:
    return [failed_as if cell == FAILED else cell for cell in cells]


def _compared(
    cells: Mapping[str, Sequence[float | str | None]],
    name: str,
    base: str,
    scans: Sequence[str],
    animals: Sequence[str] | None,
    alpha: float,
    failed_as: float | None,
) -> dict[str, Any]:
    """Return everything about one column against the base column."""
    sides = (cells[name], cells[base])
    found = _levels(*(_filled(own, None) for own in sides), animals, alpha)
    with_failed = None
    if failed_as is not None:
        with_failed = _levels(*(_filled(own, failed_as) for own in sides), animals, alpha)
    return {
        "name_a": printable(name),
        "name_b": printable(base),
        **found,
        **{f"n_failed_{side}": own.count(FAILED) for side, own in zip("ab", sides, strict=True)},
        "left_out": [
            {"scan": printable(scan), "reason": "; ".join(filter(None, (_why(name, x), _why(base, y))))}
            for scan, x, y in zip(scans, *sides, strict=True)
            if not isinstance(x, float) or not isinstance(y, float)
        ],
        "with_failed": with_failed,
    }


def _why(name: str, cell: float | str | None) -> str:
    """Return why a cell has no number; nothing where it has one."""
    if isinstance(cell, float):
        return ""
    return f"{printable(name)} {'failed' if cell == FAILED else 'has no number'}"


def _levels(
    a: Sequence[float | None], b: Sequence[float | None], animals: Sequence[str] | None, alpha: float
) -> dict[str, Any]:
    """Return the comparison over scans, and over animals under `per_animal`."""
    found: dict[str, Any] = compare_paired(a, b, alpha)
    found["per_animal"] = None if animals is None else compare_animals(a, b, animals, alpha)
    return found


def _notes(found: Sequence[Mapping[str, Any]], has_animals: bool) -> list[str]:
    notes = [
        f"{one['name_a']} against {one['name_b']}: {one['n_missing']} scan(s) left out: "
        f"{some([entry['scan'] for entry in one['left_out']])}."
        for one in found
        if one["left_out"]
    ]
    if not has_animals:
        notes.append(
            "The table has no column animal: scans are taken as independent. Scans of one animal are not: add it."
        )
    return notes


def _warnings(found: Sequence[Mapping[str, Any]]) -> list[str]:
    warnings = []
    for one in found:
        for level, words in ((one, "scans"), (one["per_animal"], "animals")):
            if (
                level
                and level["n"]
                and not level["can_be_significant"]
                and level["smallest_possible_p"] is not None
            ):
                warnings.append(
                    f"{one['name_a']} against {one['name_b']}: with {level['n_used']} differing {words} no result can "
                    f"be significant; the smallest possible p is {level['smallest_possible_p']:.3g}."
                )
    return warnings


def _csv_rows(one: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for every level of a comparison."""
    levels = {"scan": one, "animal": one["per_animal"]}
    if one["with_failed"]:
        levels |= {
            "scan, failed counted": one["with_failed"],
            "animal, failed counted": one["with_failed"]["per_animal"],
        }
    names = {"a": one["name_a"], "b": one["name_b"]}
    return [
        {**names, "level": words, **level, "remarks": "; ".join(whys(level["undefined"]))}
        for words, level in levels.items()
        if level
    ]
