"""The agreement of observers on one scan -> tables and figures; and what a study's page shares with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thoraxseg.agreement.scan import Drawn
from thoraxseg.agreement.words import MM3, fixed, whys
from thoraxseg.metrics import disagreement
from thoraxseg.report import DataTable, Picture, Section, printable
from thoraxseg.report.montage import disagreement_montage
from thoraxseg.report.plots import agreement_matrix

CIGEN_COLUMNS = (
    *("structure", "label", "observers", "cigen"),
    *("majority_voxels", "all_voxels", "majority_mm3", "all_mm3", "remarks"),
)


def cigen_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a structure for a spreadsheet: one column a number."""
    return {
        "structure": row["name"],
        **{key: row[key] for key in ("label", "observers", "cigen")},
        **{f"{rule}_voxels": value for rule, value in row["consensus_voxels"].items()},
        **{f"{rule}_mm3": value for rule, value in row["consensus_mm3"].items()},
        "remarks": "; ".join(whys(row["undefined"])),
    }


def pair_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for every structure and pair of observers, for a spreadsheet."""
    return [
        {"structure": row["name"], **pair, "remarks": "; ".join(whys(pair["undefined"]))}
        for row in rows
        for pair in row["pairs"]
    ]


def scan_sections(drawn: Drawn, rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return the page of one scan: conformity, pairs, and the agreement without each observer."""
    columns = ["Structure", "Observers", "CIgen", f"Majority {MM3}", f"All {MM3}"]
    cells = [
        [
            row["name"],
            str(row["observers"]),
            *(fixed(value, 3) for value in (row["cigen"], *row["consensus_mm3"].values())),
        ]
        for row in rows
    ]
    notes = [f"{row['name']}: {why}" for row in rows for why in whys(row["undefined"])]
    overview = DataTable("Conformity and consensus", columns, cells, notes)
    return [
        Section("Agreement", tables=[overview, _pairs_table(rows)]),
        Section("Pair by pair", pictures=matrices([rows], drawn.names)),
        Section("Without each observer", tables=[_alone_table(rows)]),
        Section("Where they disagree", pictures=[montage(drawn)]),
    ]


ALONE_COLUMNS = ("observer", "others", "dsc", "iou", "cigen", "cigen_without", "remarks")


def alone_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the scores of each observer against the others for a spreadsheet."""
    return [
        {"structure": row["name"], **entry, "remarks": "; ".join(whys(entry["undefined"]))}
        for row in rows
        for entry in row["leave_one_out"]
    ]


def montage(drawn: Drawn) -> Picture:
    """Return the slices of a scan on which its observers differ most."""
    return disagreement_montage(
        drawn.maps,
        [printable(name) for name in drawn.names],
        drawn.matched.structures,
        drawn.matched.ijk_to_ras,
        disagreement=disagreement(drawn.maps, drawn.contoured),
        sides_assumed=drawn.matched.is_assumed,
    )


def matrices(scans: Sequence[Sequence[Mapping[str, Any]]], names: Sequence[str]) -> list[Picture]:
    """Return for every structure a matrix of the observers' Dice, the mean over scans; each scan is its rows."""
    shown = [printable(name) for name in names]
    values: dict[str, dict[tuple[str, str], list[float]]] = {}
    for row in (row for rows in scans for row in rows):
        own = values.setdefault(row["name"], {})
        for pair in row["pairs"]:
            if pair["dsc"] is not None:
                own.setdefault((pair["a"], pair["b"]), []).append(pair["dsc"])
    pictures = []
    for name, pairs in values.items():
        matrix = np.full((len(shown), len(shown)), np.nan)
        for (a, b), scores in pairs.items():
            i, j = shown.index(a), shown.index(b)
            matrix[i, j] = matrix[j, i] = np.mean(scores)
        if pairs:
            pictures.append(agreement_matrix(shown, matrix, "Dice", name))
    return pictures


def _pairs_table(rows: Sequence[Mapping[str, Any]]) -> DataTable:
    columns = ["Structure", "a", "b", "DSC", "MSD mm", "HD95 mm", f"Volume b - a, {MM3}"]
    cells, notes = [], []
    for row in rows:
        for pair in row["pairs"]:
            digits = (("dsc", 3), ("msd_mm", 3), ("hd95_mm", 2), ("volume_difference_mm3", 3))
            cells.append([row["name"], pair["a"], pair["b"], *(fixed(pair[key], n) for key, n in digits)])
            notes += [f"{row['name']}, {pair['a']} and {pair['b']}: {why}" for why in whys(pair["undefined"])]
    return DataTable("Pairs of observers", columns, cells, notes)


def _alone_table(rows: Sequence[Mapping[str, Any]]) -> DataTable:
    columns = ["Structure", "Observer", "DSC with the others' majority", "CIgen of all", "CIgen without"]
    cells = [
        [
            row["name"],
            entry["observer"],
            fixed(entry["dsc"], 3),
            fixed(entry["cigen"], 3),
            fixed(entry["cigen_without"], 3),
        ]
        for row in rows
        for entry in row["leave_one_out"]
    ]
    notes = ["With two observers the majority of the others is the other one."]
    shown = ("dsc", "cigen", "cigen_without")
    notes += [
        f"{row['name']}, {entry['observer']}: {why}"
        for row in rows
        for entry in row["leave_one_out"]
        for why in whys(entry["undefined"], shown)
    ]
    return DataTable("Each observer against the others", columns, cells, notes)
