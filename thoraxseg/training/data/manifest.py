"""A table (CSV) that names the files of a data set.

Columns: `case`, `image` (or `image_1`, `image_2` ... for several channels; or several paths in one cell, parted by
`;`) and `label`; if wanted `animal`, `fold` (in which fold the case validates) and `labels` (what the values of this
label map stand for, such as `1=heart;2=spinal cord`). Paths are relative to the table.

What values stand for otherwise stands in `labels.json` beside the table, in one of three forms: `{"1": "heart"}`,
`{"heart": 1}`, or an object with `labels` in one of these forms and, if wanted, `channels` (a list of names), `name`,
`species` and `modality`. Files that name their segments (.seg.nrrd) need neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from thoraxseg.checkpoints.describe import parse_labels
from thoraxseg.checkpoints.structures import key_of
from thoraxseg.errors import InputError, OptionError, ThoraxSegError
from thoraxseg.io import read_segmentation
from thoraxseg.segmentation import STRUCTURES, Structure
from thoraxseg.tables import Row, Table, read_table
from thoraxseg.training.data.label_table import (
    Named,
    key_named,
    labels_in_json,
    named_values,
    structure_named,
)
from thoraxseg.training.data.layout import Found, FoundCase
from thoraxseg.training.data.words import read_json

LABELS = "labels.json"
COLUMNS = "case, image (or image_1, image_2 ...), label and perhaps animal, fold and labels"
_KNOWN = re.compile(r"case|animal|image|image_\d+|label|fold|labels")


def read_manifest(path: Path, labels: Mapping[int, str] | None) -> Found:
    """Return what a table names; `labels` go before those that are written beside it.

    Raises InputError naming the line for columns that mean nothing, empty names, addresses in place of files, and label
    maps of which nobody says what their values stand for.
    """
    table = read_table(path, required=("case", "label"))
    columns = _image_columns(table)
    beside = path.parent / LABELS
    about = read_json(beside) if beside.is_file() else {}
    if not isinstance(about, dict):
        raise InputError(f'{beside}: expected labels such as {{"1": "heart"}}, got {about!r:.80}.')
    cases = tuple(_case(table, row, columns) for row in table.rows)
    named = named_values(labels, "--labels") if labels is not None else None
    if named is None and about:
        named = labels_in_json(about.get("labels", about), beside)
    named = named or _named_by_files(table, cases)
    channels = about.get("channels") if "labels" in about else None
    count = max(len(case.images) for case in cases)
    if channels is not None and not (
        isinstance(channels, list) and all(isinstance(one, str) for one in channels)
    ):
        raise InputError(
            f'{beside}: expected "channels" to be a list of names such as ["CT"], got {channels!r:.80}.'
        )
    if channels is not None and len(channels) != count:
        raise InputError(
            f"{beside}: names {len(channels)} channel(s), {path.name} has {count} image(s) a case."
        )
    channels = channels or ([f"image_{index + 1}" for index in range(count)] if count > 1 else ["image"])
    return Found(
        _text(about, "name") or path.stem,
        cases,
        named,
        tuple(channels),
        (),
        _text(about, "species"),
        _text(about, "modality"),
        path.parent,
    )


def _text(about: Any, key: str) -> str | None:
    """Return a word that the long form of `labels.json` states."""
    value = about.get(key) if "labels" in about else None
    return value if isinstance(value, str) else None


def _image_columns(table: Table) -> list[str]:
    unknown = [column for column in table.columns if not _KNOWN.fullmatch(column)]
    numbered = sorted(
        (column for column in table.columns if column.startswith("image_")), key=lambda c: int(c[6:])
    )
    expected = [f"image_{index + 1}" for index in range(len(numbered))]
    if unknown or numbered != expected or bool(numbered) == ("image" in table.columns):
        raise InputError(
            f"{table.path}: expected the columns {COLUMNS}; its columns are {', '.join(table.columns)}."
        )
    return numbered or ["image"]


def _case(table: Table, row: Row, columns: list[str]) -> FoundCase:
    images = [part.strip() for column in columns for part in row[column].split(";") if part.strip()]
    case, label, animal = row["case"], row["label"], row.values.get("animal")
    if not case or animal == "" or not images:
        raise InputError(
            f"{table.where(row)}: expected a case, an image and, in a column animal, an animal; one is empty."
        )
    for given in (*images, label):
        if "://" in given:
            raise InputError(
                f"{table.where(row)}: expected a path, got an address: {given:.80}. Fetch the file first."
            )
    text = row.values.get("labels")
    try:
        structures = parse_labels(text.replace(";", ",")) if text else None
    except OptionError as error:
        raise InputError(
            f"{table.where(row)}: expected labels such as '1=heart;2=spinal cord', got {text!r:.80}."
        ) from error
    home = table.path.parent
    return FoundCase(
        case,
        tuple(home / image for image in images),
        home / label if label else None,
        animal,
        row.values.get("fold") or None,
        None if structures is None else {value: key_named(name) for value, name in structures.items()},
    )


def _named_by_files(table: Table, cases: tuple[FoundCase, ...]) -> Named:
    """Return the structures that rows or files name; the order of ours, then of the alphabet."""
    found: dict[str, Structure] = {}
    for case, row in zip(cases, table.rows, strict=True):
        if case.structures is not None:
            for name in parse_labels(row["labels"].replace(";", ",")).values():
                found.setdefault(key_named(name), structure_named(name, len(found) + 1))
        elif case.label is not None and case.label.name.lower().endswith(".seg.nrrd"):
            try:
                own = read_segmentation(case.label).structures.values()
            except ThoraxSegError:
                continue  # a damaged case is named when all are checked
            for structure in own:
                found.setdefault(key_of(structure), STRUCTURES.get(key_of(structure), structure))
        elif case.label is not None:
            raise InputError(
                f"{table.where(row)}: {case.label.name} is a label map, and what its values stand for is not written. "
                f'Put {LABELS} beside the table, such as {{"1": "heart", "2": "spinal cord"}}, or fill a column labels.'
            )
    return named_by_keys(found, table.path)


def named_by_keys(found: Mapping[str, Structure], where: Path) -> Named:
    """Return structures by key as labels 1, 2 ...: those we know in their order, then others by the alphabet."""
    if not found:
        raise InputError(f"{where}: expected one case or more with contours that can be read, got none.")
    order = [key for key in STRUCTURES if key in found] + sorted(
        key for key in found if key not in STRUCTURES
    )
    kept = {label: replace(found[key], key=key) for label, key in enumerate(order, start=1)}
    return Named(kept, {label: structure.name for label, structure in kept.items()})
