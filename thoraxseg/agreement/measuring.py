"""How masks are compared: the choices, the scores of two matched masks, and their rows for a spreadsheet."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thoraxseg.agreement.matching import Matched, alike
from thoraxseg.agreement.words import whys
from thoraxseg.errors import OptionError
from thoraxseg.metrics import compare_labels
from thoraxseg.report import printable

DEFAULT_LESIONS = ("tumors",)
AXES = {"k": 0, "j": 1, "i": 2}


@dataclass(frozen=True)
class Measuring:
    """How masks are compared."""

    tolerance_mm: float | None = None
    """Of the surface Dice; None: the largest voxel spacing."""
    slice_axis: str = "k"
    """Axis of the file whose slices are scored one by one: k, j or i."""
    lesions: Sequence[str] = DEFAULT_LESIONS
    """Names or labels of the structures whose parts are matched one by one."""
    empty_both: str = "one"
    """What two empty masks score: one (1) or undefined."""

    def __post_init__(self) -> None:
        if self.tolerance_mm is not None and not 0 < self.tolerance_mm < math.inf:
            raise OptionError(f"--tolerance: expected a number of mm above 0, got {self.tolerance_mm}.")

    def said_unknown(self, names: Iterable[str], labels: Iterable[int]) -> list[str]:
        """Return a sentence for every structure asked for with --lesions that is not among those compared."""
        known = {alike(name) for name in names} | set(map(str, labels))
        return [
            f"--lesions {name}: no structure of this name was compared."
            for name in self.lesions
            if name != DEFAULT_LESIONS[0] and name not in known and alike(name) not in known
        ]

    def to_record(self) -> dict[str, Any]:
        """Return the options as they go into a record."""
        return {
            "tolerance_mm": self.tolerance_mm,
            "slice_axis": self.slice_axis,
            "lesions": [printable(name) for name in self.lesions],
            "empty_both": self.empty_both,
        }


def measure(
    matched: Matched, reference: int, prediction: int, how: Measuring, labels: Collection[int] | None = None
) -> list[dict[str, Any]]:
    """Return the rows of `compare_labels` for two of the matched masks; see there for keys and definitions."""
    wanted = matched.structures if labels is None else labels
    wanted_lesions = {alike(name) for name in how.lesions}
    lesions = [
        label
        for label, one in matched.structures.items()
        if label in wanted and (alike(one.name) in wanted_lesions or str(label) in how.lesions)
    ]
    rows = compare_labels(
        matched.maps[reference],
        matched.maps[prediction],
        {label: one.name for label, one in matched.structures.items() if label in wanted},
        matched.spacing_mm,
        tolerance_mm=how.tolerance_mm,
        slice_axis=AXES[how.slice_axis],
        lesions=lesions,
        empty_both=how.empty_both,
        voxel_mm3=matched.voxel_mm3,
    )
    return [{**row, "name": printable(row["name"])} for row in rows.values()]


def csv_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of a table of rows of `compare_labels`."""
    return list(dict.fromkeys(key for row in rows for key in flat(row)))


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of `compare_labels` for a table: words for lists, lesions as columns of their own."""
    found = {key: value for key, value in row.items() if key not in ("undefined", "flags", "lesions")}
    for key, value in (row["lesions"] or {}).items():
        if not isinstance(value, (list, dict)):
            found[key if "lesions" in key else f"lesions_{key}"] = value
    found["remarks"] = "; ".join([*row["flags"], *whys(row["undefined"])])
    return found
