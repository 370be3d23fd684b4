"""What the values of label maps stand for, and what of it is learned: merged, renumbered, left out, ignored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thoraxseg.checkpoints import structures
from thoraxseg.checkpoints.fields import FieldError
from thoraxseg.errors import InputError, OptionError
from thoraxseg.roads import LUNG_KEYS
from thoraxseg.segmentation import STRUCTURES, Structure
from thoraxseg.training.batch import IGNORE

BACKGROUND, IGNORED = "background", "ignore"
MAX_VALUE = 65535
"""Label maps have 8 or 16 bits."""
MAP_FORM = "lungs = right_lung + left_lung"


@dataclass(frozen=True)
class LabelTable:
    """How files become what is learned. Labels learned are 1, 2 ...; 0 is background, `IGNORE` counts nowhere."""

    labels: Mapping[int, Structure]
    """What is learned."""
    values: Mapping[int, int]
    """Value in a label map -> label."""
    keys: Mapping[str, int]
    """Structure key in a .seg.nrrd -> label."""
    lung_values: frozenset[int] = frozenset()
    """Values that are inside of the lungs, whether they are learned or not."""
    lung_keys: frozenset[str] = frozenset()


def key_named(name: str) -> str:
    """Return the structure key that a name means: itself where it is one of ours, else by its words."""
    return name if name in STRUCTURES else structures.named(name, 0).key


def structure_named(name: str, label: int) -> Structure:
    """Return the structure that a key or a name means."""
    return STRUCTURES[name] if name in STRUCTURES else structures.named(name, label)


def same_table(labels: Mapping[int, Structure]) -> LabelTable:
    """Return the table of files that have just the labels that are learned."""
    lungs = {label: structure.key for label, structure in labels.items() if structure.key in LUNG_KEYS}
    return LabelTable(
        labels,
        {label: label for label in labels},
        {structure.key: label for label, structure in labels.items()},
        frozenset(lungs),
        frozenset(lungs.values()),
    )


def merged_table(
    source: Mapping[int, Structure],
    label_map: Mapping[str, Sequence[str]],
    ignored: int | None = None,
    names: Mapping[int, str] | None = None,
) -> LabelTable:
    """Return how the values in files (`source`) become labels when some are merged.

    `label_map` says what new structures are made of, by key, name or value; `background` and `ignore` may stand for a
    new structure. What it does not name stays as it is. `ignored` is a value that counts nowhere, `names` what the
    data set itself calls its values. Raises OptionError for a map that does not fit.
    """
    target: dict[int, str] = {}
    for new, parts in label_map.items():
        goal = new if new in (BACKGROUND, IGNORED) else key_named(new)
        for part in parts:
            value = _value_of(part, source, names or {})
            if target.setdefault(value, goal) != goal:
                raise OptionError(
                    f"--label-map: {part!r:.80} becomes two things. Every label can become one."
                )
    made = {key_named(new): structure_named(new, 0) for new in label_map if new not in (BACKGROUND, IGNORED)}
    for value, structure in source.items():
        if value not in target and structure.key in made:
            raise OptionError(
                f"--label-map: {structure.key} is a label of the data set already. Name it among its parts, as in "
                f"'{structure.key} = {structure.key} + ...', or give the new structure another name."
            )
    labels: dict[int, Structure] = {}
    numbers = {BACKGROUND: 0, IGNORED: IGNORE}
    values: dict[int, int] = {}
    for value, structure in sorted(source.items()):
        key = target.get(value, structure.key)
        if key not in numbers:
            numbers[key] = len(labels) + 1
            labels[numbers[key]] = made.get(key, structure)
        values[value] = numbers[key]
    if not labels:
        raise OptionError("--label-map: expected one structure or more to be learned, all became background.")
    if max(labels) >= IGNORE:
        raise InputError(f"expected at most {IGNORE - 1} labels to learn, got {len(labels)}.")
    keys = {source[value].key: label for value, label in values.items()}
    if ignored is not None:
        values[ignored] = IGNORE
    return LabelTable(
        labels,
        values,
        keys,
        frozenset(value for value, structure in source.items() if structure.key in LUNG_KEYS),
        frozenset(structure.key for structure in source.values() if structure.key in LUNG_KEYS),
    )


def _value_of(part: str, source: Mapping[int, Structure], names: Mapping[int, str]) -> int:
    """Return the value that a part of a label map means: a number, a key, or a name."""
    word = part.strip().casefold()
    found = [
        value
        for value, structure in source.items()
        if word in (str(value), structure.key, structure.name.casefold(), names.get(value, "").casefold())
    ]
    found = found or [value for value, structure in source.items() if structure.key == key_named(part)]
    if len(found) != 1:
        known = ", ".join(f"{value}={structure.key}" for value, structure in sorted(source.items()))
        raise OptionError(f"--label-map: expected one of the data set's labels ({known}), got {part!r:.80}.")
    return found[0]


def parse_label_map(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return a label map from texts such as `lungs = right_lung + left_lung`; raises OptionError."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        new, equals, rest = text.partition("=")
        parts = tuple(part.strip() for part in rest.split("+"))
        if not equals or not new.strip() or not all(parts) or new.strip() in found:
            raise OptionError(
                f"--label-map: expected each new structure once, as in '{MAP_FORM}', got {text!r:.100}."
            )
        found[new.strip()] = parts
    return found


@dataclass(frozen=True)
class Named:
    """The labels that a data set names, before anything is merged."""

    structures: dict[int, Structure]
    names: dict[int, str]
    ignored: int | None = None


def named_values(names: Mapping[int, Any], where: object) -> Named:
    """Return what the values of label maps stand for: names or keys, or structures as a card has them.

    0 must be background; `ignore` is a value that counts nowhere. Raises InputError for anything else.
    """
    found: dict[int, Structure] = {}
    own: dict[int, str] = {}
    ignored = None
    for value, item in sorted(names.items()):
        try:
            name = item if isinstance(item, str) else structures.from_json(item, f"labels.{value}").name
            structure = (
                structure_named(item, value)
                if isinstance(item, str)
                else structures.from_json(item, "labels")
            )
        except FieldError as problem:
            raise InputError(f"{where}: {problem}.") from None
        if value == 0:
            if name.strip().lower() not in ("background", "clear label"):
                raise InputError(
                    f"{where}: expected label 0 to be background, got {name!r:.80}. Number labels from 1."
                )
        elif not 0 < value <= MAX_VALUE or not name.strip():
            raise InputError(
                f"{where}: expected labels from 1 to {MAX_VALUE} with a name each, got {value}: {name!r:.80}."
            )
        elif name.strip().lower() == IGNORED:
            ignored = value
        else:
            found[value], own[value] = structure, name
    if not found:
        raise InputError(
            f'{where}: expected one label or more beside background, such as {{"1": "heart"}}, got none.'
        )
    return Named(structures.all_different(found), own, ignored)


def labels_in_json(data: Any, where: Path) -> Named:
    """Return the labels of a JSON object, written as `{"1": "heart"}` or, as nnU-Net 2 does, `{"heart": 1}`."""
    form = f'{where}: expected labels such as {{"1": "heart", "2": "lungs"}} or {{"heart": 1}}, got {data!r:.120}.'
    if not isinstance(data, dict) or not data:
        raise InputError(form)
    found: dict[int, Any] = {}
    for key, item in data.items():
        if isinstance(item, list):
            raise InputError(
                f"{where}: {key!r:.80} is a region, made of several labels {item!r:.80}. Regions overlap, and this "
                "reads one label a voxel: write the labels with one value each, and say with --label-map what is one."
            )
        value, name = (item, key) if isinstance(item, int) and not isinstance(item, bool) else (key, item)
        if not re.fullmatch(r"\d{1,5}", str(value), re.ASCII) or int(value) in found:
            raise InputError(form)
        found[int(value)] = name
    return named_values(found, where)
