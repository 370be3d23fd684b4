"""Scores of many scans -> the table that a paper prints: mean, SD, median, and which differences count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thoraxseg.agreement.animals import compare_animals
from thoraxseg.agreement.words import DASH, MM3, PLUS_MINUS, fixed, mean_and_sd, p_value
from thoraxseg.errors import InputError, OptionError
from thoraxseg.metrics import benjamini_hochberg, compare_paired, holm, summary
from thoraxseg.report import DataTable

OK, FAILED, MISSING = "ok", "failed", "missing"
"""What became of a model in a scan: answered, gave no answer, or its answer or the reference could not be read."""


@dataclass(frozen=True)
class Measure:
    """A column of scores: how it is printed, and what a failed case counts."""

    title: str
    unit: str = ""
    decimals: int = 2
    median_decimals: int = 3
    is_overlap: bool = False
    """Whether a case without an answer counts as 0 where failed cases are included; a distance has no such value."""


MEASURES = {
    "dsc": Measure("DSC", is_overlap=True),
    "iou": Measure("IoU", is_overlap=True),
    "precision": Measure("Precision", is_overlap=True),
    "recall": Measure("Recall", is_overlap=True),
    "nsd": Measure("Surface Dice", is_overlap=True),
    "msd_mm": Measure("MSD", "mm"),
    "hd95_mm": Measure("HD95", "mm", median_decimals=2),
    "hd_mm": Measure("HD", "mm", median_decimals=2),
    "assd_pooled_mm": Measure("ASSD (pooled)", "mm"),
    "hd95_pooled_mm": Measure("HD95 (pooled)", "mm", median_decimals=2),
    "volume_difference_mm3": Measure("Volume difference", MM3, 1, 1),
    "volume_difference_percent": Measure("Volume difference", "%", 1, 1),
    "slice_share_without_reference": Measure("Slices without it"),
    "f1_slice_mean": Measure("F1 (slices)", is_overlap=True),
    "iou_slice_mean": Measure("IoU (slices)", is_overlap=True),
    "f1_slice_positive_mean": Measure("F1 (positive slices)", is_overlap=True),
    "iou_slice_positive_mean": Measure("IoU (positive slices)", is_overlap=True),
}
"""Decimals as in the tables of the mouse CT paper."""
MM_DECIMALS = 6
"""Distances are rounded so before they are tested: to a nanometer, which no scan resolves."""
HEADLINE = ("dsc", "msd_mm", "hd95_mm")


@dataclass(frozen=True)
class Scored:
    """The scores of one structure in one scan by one model."""

    case: str
    animal: str
    """Empty where animals are not told apart; then nothing is tested over them."""
    model: str
    structure: str
    """Key of the structure."""
    name: str
    """Its name for people."""
    status: str
    """`ok`, `failed` where the model gave no answer, `missing` where a file could not be read or compared."""
    reason: str
    """Why it failed or is missing; empty where it is not."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)
    voxel_mm: float | None = None
    """Smallest voxel spacing of the scan, that differences are held against."""


@dataclass(frozen=True)
class ModelTable:
    """What is known of every structure, model and measure; see `model_table`."""

    base: str | None
    measures: tuple[str, ...]
    alpha: float
    cells: list[dict[str, Any]]
    excluded: list[dict[str, str]]
    """Every score that no mean holds: case, model, structure, measure, reason."""

    def as_data_table(self, title: str = "Scores of the models") -> DataTable:
        """Return rows structure x model; per measure mean and SD, and the median with its marks."""
        columns = ["Structure", "Model", "n"]
        for key in self.measures:
            measure = MEASURES[key]
            unit = f" ({measure.unit})" if measure.unit else ""
            columns += [f"{measure.title}{unit} mean {PLUS_MINUS} SD", "median"]
        rows: dict[tuple[str, str], list[str]] = {}
        for cell in self.cells:
            place = cell["structure"], cell["model"]
            row = rows.setdefault(place, [cell["name"], cell["model"], self._scored(*place)])
            row += [_mean_and_sd(cell), _median(cell)]
        return DataTable(title, columns, list(rows.values()), self.footnotes())

    def _scored(self, structure: str, model: str) -> str:
        """Return how many scans a row's means are over, from the least to the most of its measures."""
        own = [cell["n"] for cell in self.cells if (cell["structure"], cell["model"]) == (structure, model)]
        return str(own[0]) if len(set(own)) == 1 else f"{min(own)} to {max(own)}"

    def footnotes(self) -> list[str]:
        """Return what a reader must know to read the table."""
        scans = [cell["n_cases"] for cell in self.cells]
        among = f"{min(scans)}" if min(scans) == max(scans) else f"{min(scans)} to {max(scans)}"
        found = [f"n of {among} scan(s) have a score. SD over scans, ddof 1. {DASH}: undefined."]
        for word, key in (
            ("failed", "n_failed"),
            ("not measured", "n_missing"),
            ("undefined", "n_undefined"),
        ):
            told = self._counted(key)
            if told:
                found.append(f"Left out because {word} (listed by case below): {told}.")
        if self.base is not None:
            tests = sum(cell["p"] is not None for cell in self.cells)
            found.append(
                f"* on a median: p < {self.alpha:g} against {self.base}, two-sided Wilcoxon signed-rank test over "
                f"scans, paired by case, without correction; \N{DAGGER}: still so after Holm's correction for the "
                f"{tests} tests of this table. Scans of one animal are not independent: see the test over animals."
            )
        return found

    def _counted(self, key: str) -> str:
        """Return how many scores are left out: by model where it is the same for all, else one by one."""
        told = []
        for model in dict.fromkeys(cell["model"] for cell in self.cells):
            own = [cell for cell in self.cells if cell["model"] == model]
            if len({(cell[key], cell["n_cases"]) for cell in own}) == 1 and own[0][key]:
                told.append(f"{model}: {own[0][key]} of {own[0]['n_cases']} scans")
                continue
            told += [
                f"{model}, {cell['name']}, {MEASURES[cell['measure']].title}: {cell[key]} of {cell['n_cases']}"
                for cell in own
                if cell[key]
            ]
        return "; ".join(told)

    def tests_table(self) -> DataTable:
        """Return the tests against the base model: over scans and over animals, raw and corrected."""
        columns = [
            *(
                "Structure",
                "Model",
                "Measure",
                "Scans: n, used, zero, missing",
                "Difference [95 % CI]",
                "Rank-biserial",
                "p",
                "p Pratt",
                "p Holm",
            ),
            *("p BH", "Animals", "p over animals"),
        ]
        rows = []
        for cell in self.cells:
            scans, animals = cell["scans"], cell["animals"]
            if scans is None:
                continue
            rows.append(
                [
                    *(cell["name"], cell["model"], MEASURES[cell["measure"]].title),
                    f"{scans['n']}, {scans['n_used']}, {scans['n_zero']}, {scans['n_missing']}",
                    _effect(scans) + (" \N{DOUBLE DAGGER}" if cell["below_quarter_voxel"] else ""),
                    fixed(scans["rank_biserial"], 2),
                    *map(p_value, (cell["p"], scans["p_pratt"], cell["p_holm"], cell["p_bh"])),
                    *((str(animals["n"]), _over_animals(animals)) if animals else (DASH, DASH)),
                ]
            )
        notes = [
            f"Difference: Hodges-Lehmann estimate of model minus {self.base}. Holm and Benjamini-Hochberg over all "
            "tests of this table. Over animals: a measure is averaged over an animal's scans first. Scans: with both "
            "scores, differing, alike (left out of the ranks; Pratt ranks them along), without one of the two. "
            "Distances count to 1e-6 mm.",
        ]
        if any(cell["animals"] and not cell["animals"]["can_be_significant"] for cell in self.cells):
            notes.append("(too few): so few animals differ that no result could be significant.")
        if any(cell["below_quarter_voxel"] for cell in self.cells):
            notes.append(
                "\N{DOUBLE DAGGER} a difference of less than a quarter of the smallest voxel spacing: real or not, it "
                "is smaller than what a scan resolves."
            )
        return DataTable(f"Tests against {self.base}", columns, rows, notes)

    def excluded_table(self) -> DataTable:
        """Return every score that was left out, by case and reason."""
        rows = [
            [one["case"], one["model"], one["name"], one["measure"], one["reason"]] for one in self.excluded
        ]
        return DataTable("Left out", ["Case", "Model", "Structure", "Measure", "Why"], rows)


def model_table(
    rows: Sequence[Scored],
    base: str | None = None,
    measures: Sequence[str] = HEADLINE,
    alpha: float = 0.05,
) -> ModelTable:
    """Return a cell for every structure, model and measure, each model tested against `base`.

    A cell: `n_cases`, `n` (defined scores), `n_undefined`, `n_failed`, `n_missing` (the four make `n_cases`), `mean`,
    `sd` (ddof 1), `median`; with failed cases as 0 (overlap measures only) `mean_with_failed`, `sd_with_failed`,
    `median_with_failed`; against the base model `scans` and `animals` (see `compare_paired`; a = model, b = base), the
    raw `p` over scans, `p_with_failed`, `p_holm` and `p_bh` over all tests of the table, `significant` (raw
    p < alpha), `significant_holm`, and `below_quarter_voxel`.
    Over animals means over an animal's complete pairs first. Raises OptionError for an unknown base or measure,
    InputError for two rows of one case, model and structure.
    """
    models = list(dict.fromkeys(row.model for row in rows))
    measures = tuple(dict.fromkeys(measures))
    if len({(row.case, row.model, row.structure) for row in rows}) < len(rows):
        raise InputError("scores: expected one for every case, model and structure, got two for one of them.")
    if base is not None and base not in models:
        raise OptionError(f"base model: expected one of {', '.join(models)}, got {base!r:.80}.")
    if unknown := [key for key in measures if key not in MEASURES]:
        raise OptionError(f"measure: expected some of {', '.join(MEASURES)}, got {', '.join(unknown)}.")
    structures = {row.structure: row.name for row in rows}
    cells: list[dict[str, Any]] = []
    excluded: list[dict[str, str]] = []
    for structure, name in structures.items():
        by_model = {
            model: {row.case: row for row in rows if row.structure == structure and row.model == model}
            for model in models
        }
        for model, own in by_model.items():
            for key in measures:
                cell = {"structure": structure, "name": name, "model": model, "measure": key}
                cell |= _summarized(own, key)
                cell |= _tested(own, by_model[base], key, alpha) if base not in (None, model) else _UNTESTED
                cells.append(cell)
                excluded += _left_out(own, key)
    for column, correct in (("p_holm", holm), ("p_bh", benjamini_hochberg)):
        _correct(cells, column, correct)
    for cell in cells:
        cell["significant"] = cell["p"] is not None and cell["p"] < alpha
        cell["significant_holm"] = cell["p_holm"] is not None and cell["p_holm"] < alpha
    return ModelTable(base, measures, alpha, cells, excluded)


_UNTESTED: dict[str, Any] = {
    "scans": None,
    "animals": None,
    "p": None,
    "p_with_failed": None,
    "below_quarter_voxel": False,
}


def _summarized(own: Mapping[str, Scored], key: str) -> dict[str, Any]:
    answered = [row.scores.get(key) for row in own.values() if row.status == OK]
    failed = sum(row.status == FAILED for row in own.values())
    found = summary(answered)
    result = {
        "n_cases": len(own),
        "n": found["n"],
        "n_undefined": found["n_undefined"],
        "n_failed": failed,
        "n_missing": len(own) - len(answered) - failed,
        **{word: found[word] for word in ("mean", "sd", "median")},
    }
    with_failed = summary([*answered, *[0.0] * failed]) if MEASURES[key].is_overlap else {}
    return result | {f"{word}_with_failed": with_failed.get(word) for word in ("mean", "sd", "median")}


def _tested(own: Mapping[str, Scored], base: Mapping[str, Scored], key: str, alpha: float) -> dict[str, Any]:
    cases = list(dict.fromkeys([*base, *own]))
    a, b = ([_for_test(_score(rows, case, key), key) for case in cases] for rows in (own, base))
    scans = compare_paired(a, b, alpha)
    animals = [(base.get(case) or own[case]).animal for case in cases]
    voxels = [row.voxel_mm for row in own.values() if row.voxel_mm is not None]
    tiny = (
        MEASURES[key].unit == "mm"
        and bool(voxels)
        and scans["effect"] is not None
        and abs(scans["effect"]) < min(voxels) / 4
    )
    with_failed = None
    if MEASURES[key].is_overlap:
        filled = ([_for_test(_score(rows, case, key, 0.0), key) for case in cases] for rows in (own, base))
        with_failed = compare_paired(*filled, alpha)["p"]
    return {
        "scans": scans,
        "animals": compare_animals(a, b, animals, alpha) if all(animals) else None,
        "p": scans["p"],
        "p_with_failed": with_failed,
        "below_quarter_voxel": tiny,
    }


def _for_test(score: float | None, key: str) -> float | None:
    """Return a score; in mm without the noise of 32-bit spacing, which would make ranks of ties between scans."""
    return score if score is None or MEASURES[key].unit != "mm" else round(score, MM_DECIMALS)


def _score(rows: Mapping[str, Scored], case: str, key: str, failed_as: float | None = None) -> float | None:
    row = rows.get(case)
    if row is None or row.status == MISSING:
        return None
    return failed_as if row.status == FAILED else row.scores.get(key)


def _left_out(own: Mapping[str, Scored], key: str) -> list[dict[str, str]]:
    found = []
    for row in own.values():
        if row.status != OK or row.scores.get(key) is None:
            reason = row.reason if row.status != OK else row.undefined.get(key, "not measured")
            about = {"case": row.case, "model": row.model, "structure": row.structure, "name": row.name}
            found.append({**about, "measure": key, "reason": reason})
    return found


def _correct(cells: Sequence[dict[str, Any]], column: str, correct: Callable) -> None:
    tested = [cell for cell in cells if cell["p"] is not None]
    for cell in cells:
        cell[column] = None
    for cell, p in zip(tested, correct([cell["p"] for cell in tested]), strict=True):
        cell[column] = float(p)


def _mean_and_sd(cell: Mapping[str, Any]) -> str:
    return mean_and_sd(cell["mean"], cell["sd"], MEASURES[cell["measure"]].decimals)


def _median(cell: Mapping[str, Any]) -> str:
    mark = "*" * cell["significant"] + "\N{DAGGER}" * cell["significant_holm"]
    return fixed(cell["median"], MEASURES[cell["measure"]].median_decimals) + mark


def _over_animals(test: Mapping[str, Any]) -> str:
    return p_value(test["p"]) + ("" if test["can_be_significant"] else " (too few)")


def _effect(test: Mapping[str, Any]) -> str:
    if test["effect"] is None:
        return DASH
    return f"{test['effect']:+.4f} [{fixed(test['effect_low'], 4)}, {fixed(test['effect_high'], 4)}]"
