"""Models that others have published and that are not on this machine: what they are and how to get them.

An entry is JSON and says only what was read somewhere, and where. It becomes a card when its files are installed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from thoraxseg.checkpoints import fields
from thoraxseg.checkpoints.card import MODALITIES, SPECIES, TASKS
from thoraxseg.checkpoints.describe import About
from thoraxseg.checkpoints.fields import FieldError, list_of, maybe, one_of, record
from thoraxseg.errors import CheckpointError

_ENTRIES = Path(__file__).parent / "published_entries"


@dataclass(frozen=True)
class Published:
    """A published model."""

    name: str
    title: str
    description: str
    task: str
    species: str
    modality: str
    structures: tuple[str, ...]
    """What it segments, in words; label numbers are known from the files only, unless `labels` gives them."""
    labels: dict[int, str] | None
    format: str
    """What the files are, in words."""
    page: str
    """DOI or address of the page that has the files."""
    url: str
    """Address of the file itself, where it is known; else empty: fetch it from the page by hand."""
    size_bytes: int | None
    sha256: str
    """Empty where nobody has published one."""
    license: str
    citation: str
    facts: str
    """Where the facts above were read, and what was not found."""

    def about(self) -> About:
        """Return what the entry says of the model once its files are here."""
        return About(
            name=self.name,
            title=self.title,
            description=self.description,
            task=self.task,
            species=self.species,
            modality=self.modality,
            labels=self.labels,
            license=self.license,
            citation=f"{self.citation}; {self.page}",
        )


@cache
def list_published() -> dict[str, Published]:
    """Return the entries that come with ThoraxSeg, by name; raises CheckpointError for a damaged one."""
    found = [_read(path) for path in sorted(_ENTRIES.glob("*.json"))]
    return {entry.name: entry for entry in found}


def how_to_get(entry: Published) -> str:
    """Return what a user has to do to get the files of an entry, in sentences."""
    if entry.url:
        size = f" ({entry.size_bytes / 1e9:.1f} GB)" if entry.size_bytes else ""
        return f"Fetch it{size} with 'thoraxseg checkpoints install {entry.name}'."
    return (
        f"Download its files from {entry.page} with a browser, then run 'thoraxseg checkpoints install FILE --name "
        f"{entry.name}'."
    )


def _labels(value: Any, where: str) -> dict[int, str]:
    number = fields.matching(r"[1-9]\d{0,2}", "a label value from 1 to 255")
    if not isinstance(value, dict) or not value:
        raise FieldError(f"{where} must map labels to names, got {value!r:.80}")
    return {int(number(key, where)): fields.text(name, f"{where}.{key}") for key, name in value.items()}


def _read(path: Path) -> Published:
    parsers = {
        "name": fields.name,
        "task": one_of(*TASKS),
        "species": one_of(*SPECIES),
        "modality": one_of(*MODALITIES),
        "structures": list_of(fields.text),
        "labels": maybe(_labels),
        "url": fields.matching(r"(https://\S+)?", "an https address or empty"),
        "size_bytes": maybe(fields.size),
        "sha256": fields.matching(r"([0-9a-f]{64})?", "a SHA-256 or empty"),
    }
    try:
        data = json.loads(path.read_text("utf-8"), object_pairs_hook=fields.unique)
        return record(Published, data, "entry", parsers)
    except (OSError, ValueError, FieldError) as error:
        raise CheckpointError(f"{path}: expected an entry of a published model, got: {error}.") from error
