"""What a data set is, whatever layout its files lay in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from thoraxseg.io import StackGeometry
from thoraxseg.segmentation import Structure
from thoraxseg.training.data.label_table import LabelTable, same_table


@dataclass(frozen=True)
class Case:
    """One scan and its contours."""

    id: str
    animal: str
    """Or person. Scans of one animal are never on both sides of a fold."""
    images: tuple[Path, ...]
    """One file or folder a channel, all on one grid."""
    label: Path | None
    """A label map or a .seg.nrrd; None where nobody contoured the scan."""
    fold: str | None = None
    """In which fold it validates, where the data set says so."""
    structures: Mapping[int, str] | None = None
    """What the values of its label map stand for, by key, and so what was contoured; None: as in the data set."""


@dataclass(frozen=True)
class DataSet:
    """The cases of a data set, and what their files hold."""

    name: str
    root: Path
    """The folder, table or study file that it was read from."""
    cases: tuple[Case, ...]
    labels: dict[int, Structure]
    """What is learned: 1, 2 ... -> structure, without background."""
    channels: tuple[str, ...]
    """Names of the images of a case, in order."""
    species: str = "not stated"
    modality: str = "not stated"
    notes: tuple[str, ...] = ()
    """What was assumed or left out; shown to the user."""
    stack: StackGeometry | None = None
    """For files that state no geometry."""
    source: LabelTable | None = None
    """How the values in the files become `labels`; None: they are the same."""

    @property
    def table(self) -> LabelTable:
        """How the values and names in the files become `labels`."""
        return self.source or same_table(self.labels)

    @property
    def animals(self) -> dict[str, str]:
        """Case -> animal."""
        return {case.id: case.animal for case in self.cases}

    def case(self, name: str) -> Case:
        """Return the case of this id, which must be there."""
        return next(case for case in self.cases if case.id == name)

    def without(self, names: set[str], *notes: str) -> DataSet:
        """Return the data set without some cases, with more to tell the user."""
        cases = tuple(case for case in self.cases if case.id not in names)
        return replace(self, cases=cases, notes=(*self.notes, *notes))
