"""The agreement of observers over many scans -> tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thoraxseg.agreement.observer_pages import matrices, montage
from thoraxseg.agreement.scan import Drawn
from thoraxseg.agreement.words import DASH, fixed, mean_and_sd
from thoraxseg.metrics import summary
from thoraxseg.report import DataTable, Picture, Section, printable
from thoraxseg.report.plots import box_plots

MODELS_CAUTION = (
    "Scores of models against the consensus and the agreement between observers are not of one kind: a consensus has "
    "no observer's variance."
)


def study_sections(record: Mapping[str, Any], worst: Drawn) -> list[Section]:
    """Return the page of a study's record; `worst` is the scan with the least agreement."""
    scans = [one["structures"] for one in record["cases"]]
    sections = [
        Section("Agreement", tables=[_overview(record)], pictures=[_boxes(scans)]),
        Section(
            "Pair by pair",
            ["Mean Dice over scans."],
            [_mean_pairs(scans)],
            matrices(scans, record["observer_names"]),
        ),
        Section("Scan by scan", tables=[_scans_table(record)]),
        Section("Where they disagree", [f"Scan {printable(worst.case)}."], pictures=[montage(worst)]),
    ]
    if failures := record["failures"]:
        cells = [[one["case"], one.get("model", "the scan"), one["reason"]] for one in failures]
        table = DataTable("What failed", ["Case", "What", "Why"], cells)
        sections.append(Section("Not measured", tables=[table]))
    return sections


def _overview(record: Mapping[str, Any]) -> DataTable:
    rows, models = record["structures"], record["models"]
    columns = ["Structure", "Scans", "n", "Observers, %", *(f"{name}, %" for name in models)]
    cells = [
        [
            row["name"],
            str(row["cigen_n"]),
            str(row["observers"]),
            *(_percent(one) for one in (row, *row["models"].values())),
        ]
        for row in rows
    ]
    notes = [
        "CIgen, mean \N{PLUS-MINUS SIGN} SD over scans (ddof 1). n: observers who contoured it, at most."
    ]
    notes += [MODELS_CAUTION] if models else []
    two = [row["name"] for row in rows if row["observers"] == 2]
    if models and two:
        notes.append(
            f"{', '.join(two)}: the consensus of two observers is what both marked, and so small; models that mark "
            "more are judged low by it."
        )
    notes += [
        f"{row['name']}: {row['cigen_n_undefined']} of {row['scans']} scans have no CIgen; left out (see the CSV)."
        for row in rows
        if row["cigen_n_undefined"]
    ]
    notes += [text for name in models for text in _judged_less(name, rows)]
    return DataTable("Generalized conformity index", columns, cells, notes)


def _judged_less(model: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how many scans a model was judged in, where these are not all: once if all structures say the same."""
    found = {row["name"]: f"{row['models'][model]['cigen_n']} of {row['scans']} scans" for row in rows}
    if all(row["models"][model]["cigen_n"] == row["scans"] for row in rows):
        return []
    if len(set(found.values())) == 1:
        return [f"{model}: judged in {next(iter(found.values()))}."]
    return [f"{model}, {name}: judged in {count}." for name, count in found.items()]


def _percent(found: Mapping[str, Any]) -> str:
    mean, sd = (None if found[key] is None else 100 * found[key] for key in ("cigen_mean", "cigen_sd"))
    return mean_and_sd(mean, sd, 0)


def _boxes(scans: Sequence[Sequence[Mapping[str, Any]]]) -> Picture:
    scores: dict[str, dict[str, list[float | None]]] = {}
    for row in (row for rows in scans for row in rows):
        own = scores.setdefault(row["name"], {})
        own.setdefault("observers", []).append(row["cigen"])
        for entry in row.get("models", ()):
            own.setdefault(entry["model"], []).append(entry["cigen"])
    return box_plots(scores, "CIgen", "")


def _scans_table(record: Mapping[str, Any]) -> DataTable:
    names = [row["name"] for row in record["structures"]]
    cells = []
    for one in record["cases"]:
        own = {row["name"]: row["cigen"] for row in one["structures"]}
        cells.append([one["case"], one["animal"], *(fixed(own.get(name), 3) for name in names)])
    return DataTable(f"CIgen of every scan ({DASH}: undefined)", ["Case", "Animal", *names], cells)


def _mean_pairs(scans: Sequence[Sequence[Mapping[str, Any]]]) -> DataTable:
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in (row for rows in scans for row in rows):
        for pair in row["pairs"]:
            groups.setdefault((row["name"], pair["a"], pair["b"]), []).append(pair)
    columns = ["Structure", "a", "b", "Scans", "DSC", "MSD mm", "HD95 mm", "Volume b - a, %"]
    cells = []
    for (name, a, b), pairs in groups.items():
        means = []
        for key, digits in (("dsc", 3), ("msd_mm", 3), ("hd95_mm", 2), ("volume_difference_percent", 1)):
            found = summary([pair[key] for pair in pairs])
            missing = f" ({found['n']})" if found["n_undefined"] else ""
            means.append(fixed(found["mean"], digits) + missing)
        cells.append([name, a, b, str(len(pairs)), *means])
    return DataTable(
        "Pairs of observers", columns, cells, ["Means over scans; (n) where not all are defined."]
    )
