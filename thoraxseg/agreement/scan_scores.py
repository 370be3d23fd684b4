"""The observers of one scan -> scores of every structure: CIgen, pairs, each against the others, models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from thoraxseg.agreement.matching import Matched
from thoraxseg.agreement.measuring import Measuring, measure
from thoraxseg.agreement.scan import Drawn
from thoraxseg.metrics import DEFINITIONS, Conformity, conformity_of_labels, leave_one_out
from thoraxseg.progress import Progress, silent
from thoraxseg.report import printable

PAIR_KEYS = (
    *("dsc", "iou", "msd_mm", "hd95_mm", "hd_mm", "nsd"),
    *("volume_a_mm3", "volume_b_mm3", "volume_difference_mm3", "volume_difference_percent"),
)
"""What is told of a pair of observers."""
OBSERVER_DEFINITIONS = {
    "cigen": "Generalized conformity index: sum over all pairs of observers of the volume of the intersection, over "
    "the sum of the volumes of the unions, in voxels (Kouwenhoven et al. 2009); for two observers the Jaccard index; "
    "undefined where no observer drew anything, or one observer only.",
    "observers": "How many observers contoured the structure. One who drew nothing counts; one who did not contour "
    "it does not.",
    "pairs": "Every pair of observers, b against a: keys as in compare, volume_difference is b minus a.",
    "consensus_voxels.majority": "Voxels of a strict majority, at least n // 2 + 1 of n observers: 2 of 3, both of 2.",
    "consensus_voxels.all": "Voxels of every observer.",
    "leave_one_out": "Each observer against the strict majority of the others, and the CIgen of the others alone.",
    "models": "Each model against the consensus (strict majority) of the observers; cigen is then the Jaccard index. "
    "Not commensurable with the agreement between observers: a consensus has no observer's variance, and that of two "
    "observers, their intersection, is small.",
    "disagreement": "Share of the pairs of observers whose labels differ at a voxel, 0 to 1. A pair in which one "
    "drew there what the other did not contour at all does not count.",
    **{key: DEFINITIONS[key] for key in ("dsc", "iou", "msd_mm", "hd95_mm", "hd_mm", "nsd")},
}


def scan_scores(drawn: Drawn, how: Measuring, progress: Progress = silent) -> list[dict[str, Any]]:
    """Return the rows of all structures, with the keys of `OBSERVER_DEFINITIONS`; None where undefined, and why."""
    matched, maps, labels = drawn.matched, drawn.maps, list(drawn.matched.structures)
    found = conformity_of_labels(maps, labels, drawn.contoured)
    alone = leave_one_out(maps, labels, drawn.contoured)
    pairs = _pairs(drawn, how, progress)
    rows = []
    for label, structure in matched.structures.items():
        one, who = found[label], drawn.who(label)
        voxels: dict[str, int | None] = {"majority": one.majority_voxels, "all": one.all_voxels}
        if one.observers < 2:
            voxels = dict.fromkeys(voxels)
        row = {
            "name": printable(structure.name),
            "label": label,
            "observers": one.observers,
            "cigen": None if np.isnan(one.cigen) else one.cigen,
            "pairs": pairs[label],
            "consensus_voxels": voxels,
            "consensus_mm3": {
                rule: None if count is None else count * matched.voxel_mm3 for rule, count in voxels.items()
            },
            "observer_names": [printable(matched.roles[n]) for n in who],
            "volumes_mm3": [int(np.count_nonzero(matched.maps[n] == label)) * matched.voxel_mm3 for n in who],
            "leave_one_out": [
                {**entry, "observer": printable(drawn.names[entry["observer"]])}
                for entry in alone
                if entry["label"] == label
            ],
            "undefined": _undefined(one),
        }
        rows.append(row)
    return rows


def add_models(rows: list[dict[str, Any]], drawn: Drawn, consensus: np.ndarray, how: Measuring) -> None:
    """Put the scores of every model against the consensus `(K, J, I)` under `models` of each structure's row.

    A structure that fewer than two observers contoured has no consensus, so no model is judged by it.
    """
    with_consensus = replace(drawn.matched, maps=(*drawn.matched.maps, consensus))
    judged = {row["label"]: row for row in rows if row["observers"] >= 2}
    for row in rows:
        row["models"] = []
    for n, role in enumerate(drawn.matched.roles):
        if n in drawn.people:
            continue
        for found in measure(with_consensus, -1, n, replace(how, lesions=()), judged):
            kept = {key: found[key] for key in ("dsc", "msd_mm", "hd95_mm", "undefined")}
            entry = {"model": printable(role), "cigen": found["iou"], **kept}
            judged[found["label"]]["models"].append(entry)


def _pairs(drawn: Drawn, how: Measuring, progress: Progress) -> dict[int, list[dict[str, Any]]]:
    """Return by label the rows of all pairs of observers who contoured it."""
    found: dict[int, list[dict[str, Any]]] = {label: [] for label in drawn.matched.structures}
    places = list(combinations(range(len(drawn.people)), 2))
    for step, (one, other) in enumerate(places):
        progress(step / len(places), f"Measuring {printable(drawn.case)}")
        common = drawn.contoured[one] & drawn.contoured[other]
        a, b = drawn.people[one], drawn.people[other]
        for row in measure(drawn.matched, a, b, replace(how, lesions=()), common) if common else ():
            found[row["label"]].append(_pair(drawn.matched, a, b, row))
    return found


def _pair(matched: Matched, a: int, b: int, row: Mapping[str, Any]) -> dict[str, Any]:
    named = {
        **row,
        "volume_a_mm3": row["volume_reference_mm3"],
        "volume_b_mm3": row["volume_prediction_mm3"],
    }
    undefined = {key: why for key, why in row["undefined"].items() if key in PAIR_KEYS}
    roles = {"a": printable(matched.roles[a]), "b": printable(matched.roles[b])}
    return {**roles, **{key: named[key] for key in PAIR_KEYS}, "undefined": undefined}


def _undefined(one: Conformity) -> dict[str, str]:
    """Return why numbers of a structure are missing, by key."""
    found = {"cigen": _why_no_cigen(one)} if np.isnan(one.cigen) else {}
    if one.observers < 2:
        found["consensus"] = f"{one.observers} observer(s) contoured it: there is nothing to agree on"
    return found


def _why_no_cigen(one: Conformity) -> str:
    if one.observers < 2:
        return f"{one.observers} observer(s) contoured it: two are needed"
    return "no observer drew it"
