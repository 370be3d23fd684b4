"""What the reader of a layout finds, before animals are assigned and labels merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from thoraxseg.training.data.label_table import Named


@dataclass(frozen=True)
class FoundCase:
    """One case as its layout has it; `animal` is None where the layout does not tell."""

    id: str
    images: tuple[Path, ...]
    label: Path | None
    animal: str | None = None
    fold: str | None = None
    structures: Mapping[int, str] | None = None


@dataclass(frozen=True)
class Found:
    """A data set as its layout has it."""

    name: str
    cases: tuple[FoundCase, ...]
    labels: Named
    channels: tuple[str, ...]
    notes: tuple[str, ...]
    species: str | None
    modality: str | None
    folder: Path
    """Where a table of animals may lie."""
