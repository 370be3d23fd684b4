"""Models over a cohort -> tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thoraxseg.agreement.cohort import MEASURES, ModelTable
from thoraxseg.agreement.words import MM3, fixed, p_value
from thoraxseg.metrics import bland_altman
from thoraxseg.report import DataTable, Picture, Section, printable
from thoraxseg.report.plots import bland_altman_plot, box_plots

MOST_BLAND_ALTMAN = 12
"""More figures than this bury the others; the page then shows those of the base model only."""


def evaluate_facts(table: ModelTable) -> list[tuple[str, str]]:
    """Return the numbers for the head of the page: every structure of the base model, or of the first one."""
    first, model = table.measures[0], table.base or table.cells[0]["model"]
    cells = [
        cell
        for cell in table.cells
        if (cell["measure"], cell["model"]) == (first, model) and cell["mean"] is not None
    ]
    return [
        (
            fixed(cell["mean"], MEASURES[first].median_decimals),
            f"mean {MEASURES[first].title}, {cell['name']}, {cell['model']}",
        )
        for cell in cells
    ]


def evaluate_sections(
    table: ModelTable, full: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, str]]
) -> list[Section]:
    """Return the page of a cohort; its first section is what a terminal shows."""
    sections = [Section("Scores", tables=[table.as_data_table()], pictures=_boxes(table, full))]
    if table.base is not None:
        sections.append(Section("Which differences count", tables=[table.tests_table()]))
    if any(cell["n_failed"] for cell in table.cells):
        sections.append(Section("With failed cases", tables=[_with_failed(table)]))
    pictures = _volume_plots(table, full)
    sections.append(
        Section("Volumes", ["Prediction against reference, one point a scan."], pictures=pictures)
    )
    if table.excluded:
        sections.append(Section("Left out", tables=[table.excluded_table()]))
    if failures:
        cells = [[one["case"], one.get("model", "reference"), one["reason"]] for one in failures]
        sections.append(
            Section("Not measured", tables=[DataTable("Files that failed", ["Case", "File", "Why"], cells)])
        )
    return sections


def _boxes(table: ModelTable, full: Sequence[Mapping[str, Any]]) -> list[Picture]:
    pictures = []
    for key in table.measures:
        values: dict[str, dict[str, list[float | None]]] = {}
        for row in full:
            values.setdefault(row["name"], {}).setdefault(printable(row["model"]), []).append(row[key])
        marks = {
            (cell["name"], printable(cell["model"])): "*"
            for cell in table.cells
            if cell["measure"] == key and cell["significant"]
        }
        pictures.append(box_plots(values, MEASURES[key].title, MEASURES[key].unit, marks))
    return pictures


def _with_failed(table: ModelTable) -> DataTable:
    columns = ["Structure", "Model", "Measure", "Failed"]
    columns += [f"{word} {how}" for word in ("Mean", "Median", "p") for how in ("without", "with")]
    keys = ("mean", "mean_with_failed", "median", "median_with_failed")
    cells = [
        [
            *(cell["name"], cell["model"], MEASURES[cell["measure"]].title, str(cell["n_failed"])),
            *(fixed(cell[key], 3) for key in keys),
            *(p_value(cell[key]) for key in ("p", "p_with_failed")),
        ]
        for cell in table.cells
        if MEASURES[cell["measure"]].is_overlap
    ]
    note = "A distance has no value for a failed case; its means leave failed cases out. p: over scans, uncorrected."
    return DataTable("Failed cases left out, and counted as 0", columns, cells, [note])


def _volume_plots(table: ModelTable, full: Sequence[Mapping[str, Any]]) -> list[Picture]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in full:
        groups.setdefault((row["name"], row["model"]), []).append(row)
    if len(groups) > MOST_BLAND_ALTMAN:
        shown = table.base or next(iter(groups))[1]
        groups = {key: rows for key, rows in groups.items() if key[1] == shown}
    pictures = []
    for (name, model), rows in groups.items():
        one = [row["volume_reference_mm3"] for row in rows]
        other = [row["volume_prediction_mm3"] for row in rows]
        title = f"{name}, {printable(model)}"
        pictures.append(bland_altman_plot(one, other, MM3, bland_altman(one, other), title))
    return pictures
