"""The manifest of a data set: a table with a row a case, and what its labels stand for beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thoraxseg.checkpoints.structures import to_json
from thoraxseg.errors import OptionError
from thoraxseg.segmentation import Structure
from thoraxseg.tables import write_csv

LABELS = "labels.json"
"""Beside the manifest: label -> structure."""


@dataclass(frozen=True)
class Line:
    """One case of a manifest; files are relative to it, with `/` on every system."""

    case: str
    animal: str
    images: Sequence[str]
    label: str
    fold: str | None = None


@dataclass(frozen=True)
class About:
    """What goes for all cases: stands beside the table in `labels.json`."""

    name: str
    labels: Mapping[int, Structure]
    channels: Sequence[str]
    species: str = "not stated"
    modality: str = "not stated"


def write_manifest(path: Path, lines: Sequence[Line], about: About) -> None:
    """Write the table (case, animal, image or image_1, image_2 ..., label, fold where one is known) and `labels.json`.

    Raises OptionError where a case has not one image a channel.
    """
    if wrong := [line.case for line in lines if len(line.images) != len(about.channels)]:
        raise OptionError(f"expected {len(about.channels)} image(s) for each case, {wrong[0]} has others.")
    several = len(about.channels) > 1
    images = [f"image_{n}" for n in range(1, len(about.channels) + 1)] if several else ["image"]
    columns = ["case", "animal", *images, "label", *(["fold"] if any(line.fold for line in lines) else [])]
    rows = [
        {"case": line.case, "animal": line.animal, "label": line.label, "fold": line.fold}
        | dict(zip(images, line.images, strict=True))
        for line in lines
    ]
    write_csv(path, columns, rows)
    labels = {str(label): to_json(structure) for label, structure in sorted(about.labels.items())}
    told = {
        "name": about.name,
        "species": about.species,
        "modality": about.modality,
        "channels": list(about.channels),
        "labels": labels,
    }
    text = json.dumps(told, indent=2, ensure_ascii=False)
    path.with_name(LABELS).write_text(text + "\n", encoding="utf-8")
