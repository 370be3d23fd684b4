"""What the protocols share: what goes in, what comes out, and means over scans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thoraxseg.metrics import summary
from thoraxseg.options import SegmentOptions
from thoraxseg.progress import Progress, silent
from thoraxseg.report import DataTable, Picture
from thoraxseg.reproduce.cells import Key, Ours
from thoraxseg.reproduce.cohort import Cohort
from thoraxseg.reproduce.running import Failure, Log, Model


@dataclass(frozen=True)
class Work:
    """What a protocol is run on."""

    cohort: Cohort
    models: Sequence[Model]
    options: SegmentOptions
    replicate: bool = False
    """Do what the published code did where it departs from the paper."""
    progress: Progress = silent
    log: Log = field(default_factory=Log)

    def why(self, cases: Iterable[str], model: str, *more: str) -> str:
        """Return why numbers of a model over these cases cannot be compared; empty: nothing is known against it."""
        failed = {one.case for one in self.log.failures if one.model == model} & {*cases}
        said = [*self.cohort.incomparable, *(reason for reason in more if reason)]
        if failed:
            said.append(f"{len(failed)} of {len({*cases})} scans failed and are not in it")
        return "; ".join(said)


@dataclass
class Found:
    """What a protocol gives."""

    cells: dict[Key, Ours] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The scores of each scan: plain data."""
    tables: list[DataTable] = field(default_factory=list)
    """What belongs beside the paper's tables."""
    pictures: list[Callable[[], Picture]] = field(default_factory=list)
    """Drawn when a page is written, and not before."""
    differences: list[str] = field(default_factory=list)
    """How the protocol differs from the paper's, or had to choose."""
    definitions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)
    """More for the record."""


def mean_cell(values: Sequence[float | None], why: str = "", **details: Any) -> Ours:
    """Return mean and SD (ddof 1) over the scans with a defined value; the details count the others."""
    found = summary(values)
    undefined = found["n_undefined"]
    if undefined:
        why = "; ".join(filter(None, [why, f"undefined in {undefined} of {len(values)} scans"]))
    if not found["n"]:
        why = why or "no scan was scored"
    details |= {key: found[key] for key in ("median", "minimum", "maximum", "n_undefined")}
    return Ours(found["mean"], found["sd"], found["n"], None, why, details)


def failures_table(failures: Sequence[Failure]) -> DataTable:
    """Return the scans that are in no number, with their reasons."""
    rows = [[one.case, one.model, one.reason] for one in failures]
    return DataTable("Scans that are in no number", ["Case", "Model", "Why"], rows)


def scores_of(row: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return some numbers of a row of `compare_labels` with the reasons for those that are undefined."""
    return {key: row[key] for key in keys} | {
        "undefined": {key: why for key, why in row["undefined"].items() if key in keys}
    }
