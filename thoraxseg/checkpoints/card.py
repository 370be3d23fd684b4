"""The card of a checkpoint: JSON text in, one checked, frozen `Card` out.

Adding a checkpoint is adding a card. Unknown or duplicate keys, wrong types and numbers that are not
finite are errors that name the key.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from thoraxseg.errors import CheckpointError, InputError
from thoraxseg.segmentation import STRUCTURES, Structure
from thoraxseg.volume import directions_from_codes

SCHEMA = 1
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Step:
    """One named step of preprocessing or one rule of post-processing, with its parameters."""

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Expectation:
    """A range that a statistic of the image must lie in for the model to work."""

    stage: str
    """`input` for the image as read, `prepared` for what the network sees."""
    statistic: str
    """`mean`, or a percentile such as `p50`."""
    low: float
    high: float
    reason: str
    """Where the range comes from."""
    remedy: str
    """What a user can do when the image lies outside."""


@dataclass(frozen=True)
class ExpectedInput:
    """What an image must look like for this checkpoint."""

    orientation: str
    """Where the axes i, j, k of the network's array run to, as in `RIA`."""
    spacing_mm: tuple[float, float, float]
    """Training spacing along (k, j, i) in the orientation above."""
    spacing_tolerance: float
    """Relative deviation from `spacing_mm` above which the user is warned."""
    side_known: bool
    """False when the training data do not tell left from right."""
    stack_spacing_mm: tuple[float, float, float] | None
    """Spacing to assume, with a warning, for stacks that state none; None: the user must say."""
    intensity: tuple[Expectation, ...]


@dataclass(frozen=True)
class Inference:
    """How the network walks over the image."""

    mode: str
    """`slices` (2-D, along k) or `sliding-window` (3-D)."""
    patch_size: tuple[int, int, int] | None
    step: float
    """Window step as a fraction of the patch."""
    averaging: str
    """What is averaged over windows and folds: `probabilities` or `logits`, as in the model's origin."""
    temperature: float
    """Logits are divided by it before the softmax, so that doubt can be seen; labels do not depend on it."""
    temperature_reason: str


@dataclass(frozen=True)
class Region:
    """A set of labels that post-processing treats as one mask, and the label it writes back."""

    name: str
    labels: tuple[int, ...]
    write: int


@dataclass(frozen=True)
class Cleanup:
    """Post-processing: regions, written back in order (later ones win), and rules, run in order."""

    regions: tuple[Region, ...]
    rules: tuple[Step, ...]


@dataclass(frozen=True)
class TumorRule:
    """How tumors are counted: the label, the connectivity, and what counts as small."""

    label: int
    connectivity: int
    small_below_mm3: float
    host_label: int
    """Label of the organ the tumors lie in; organ with tumors is reported as one volume too."""


@dataclass(frozen=True)
class CardFile:
    """A file that belongs to the checkpoint, with the digest it must have."""

    name: str
    sha256: str
    size_bytes: int
    member: str
    """Its name inside the source's archive."""


@dataclass(frozen=True)
class Source:
    """Where the files come from: `bundled` with ThoraxSeg, or a `python-package` fetched by name."""

    kind: str
    requirement: str
    archive_sha256: str


@dataclass(frozen=True)
class Card:
    """Everything that ThoraxSeg knows about one trained model."""

    schema: int
    name: str
    title: str
    description: str
    task: str
    species: str
    modality: str
    labels: Mapping[int, Structure]
    architecture: Step
    input: ExpectedInput
    preprocess: tuple[Step, ...]
    inference: Inference
    postprocess: Cleanup
    tumors: TumorRule | None
    weights: tuple[CardFile, ...]
    """One file a fold."""
    samples: tuple[CardFile, ...]
    source: Source
    license: str
    citation: str
    validation: str
    """What the model was measured on, in words; also what it was not."""
    sha256: str = ""
    """Digest of the card's text."""


def read_card(path: Path) -> Card:
    """Return the checked card in a JSON file.

    Raises CheckpointError naming the file and the key when anything is missing, unknown or wrong.
    """
    try:
        raw = Path(path).read_bytes()
        if len(raw) > MAX_BYTES:
            raise CheckpointError(f"{path}: expected a card of at most 1 MiB, got {len(raw)} bytes.")
        data = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_not_finite)
        card = _parse_card(data)
    except OSError as error:
        raise CheckpointError(f"{path}: the card cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: expected a checkpoint card in JSON, got: {error}.") from error
    except _CardError as problem:
        raise CheckpointError(f"{path}: {problem}. Correct the card.") from None
    object.__setattr__(card, "sha256", hashlib.sha256(raw).hexdigest())
    return card


class _CardError(Exception):
    """What is wrong with a card, before the file is known."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise _CardError(f"key {twice[0]!r} is given twice")
    return dict(pairs)


def _not_finite(text: str) -> float:
    raise _CardError(f"{text} is not a finite number")


def _take(data: Any, where: str, known: set[str], optional: frozenset[str] = frozenset()) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise _CardError(f"{where} must be an object, got {type(data).__name__}")
    for key in data:
        if key not in known:
            raise _CardError(f"unknown key {key!r} in {where}; known are {', '.join(sorted(known))}")
    for key in sorted(known - set(data) - optional):
        raise _CardError(f"key {key!r} is missing in {where}")
    return data


def _record(cls: type, data: Any, where: str, parsers: Mapping[str, Callable[[Any, str], Any]]) -> Any:
    """Build a dataclass from an object whose keys are its fields; each value goes through its parser."""
    names = {f.name for f in fields(cls)} - {"sha256"} | (set(parsers) & {"sha256"})
    taken = _take(data, where, names)
    return cls(**{name: parsers.get(name, _text)(taken[name], f"{where}.{name}") for name in sorted(names)})


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _CardError(f"{where} must be text, got {value!r}")
    return value


def _name(value: Any, where: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", _text(value, where)):
        raise _CardError(f"{where} must be a plain name of letters, digits, '.', '_' and '-', got {value!r}")
    return value


def _digest(value: Any, where: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", _text(value, where)):
        raise _CardError(f"{where} must be a SHA-256 of 64 hexadecimal digits, got {value!r}")
    return value


def _one_of(*choices: str) -> Callable[[Any, str], str]:
    def parse(value: Any, where: str) -> str:
        if value not in choices:
            raise _CardError(f"{where} must be one of {', '.join(choices)}, got {value!r}")
        return value

    return parse


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _CardError(f"{where} must be a finite number, got {value!r}")
    return float(value)


def _positive(value: Any, where: str) -> float:
    if _number(value, where) <= 0:
        raise _CardError(f"{where} must be positive, got {value!r}")
    return float(value)


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _CardError(f"{where} must be a whole number, not negative, got {value!r}")
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _CardError(f"{where} must be true or false, got {value!r}")
    return value


def _list(parse: Callable[[Any, str], Any], length: int | None = None) -> Callable[[Any, str], tuple]:
    def parse_list(value: Any, where: str) -> tuple:
        if not isinstance(value, list) or (length is not None and len(value) != length):
            wanted = "a list" if length is None else f"a list of {length}"
            raise _CardError(f"{where} must be {wanted}, got {value!r}")
        return tuple(parse(item, f"{where}[{index}]") for index, item in enumerate(value))

    return parse_list


def _maybe(parse: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    return lambda value, where: None if value is None else parse(value, where)


def _step(value: Any, where: str) -> Step:
    if not isinstance(value, dict):
        raise _CardError(f"{where} must be an object with a name, got {value!r}")
    parameters = {key: item for key, item in value.items() if key != "name"}
    return Step(_name(value.get("name"), f"{where}.name"), parameters)


def _orientation(value: Any, where: str) -> str:
    try:
        directions_from_codes(_text(value, where))
    except InputError as error:
        raise _CardError(f"{where}: {error}") from error
    return value


def _labels(value: Any, where: str) -> dict[int, Structure]:
    if not isinstance(value, dict) or not value:
        raise _CardError(f"{where} must map label values to structures, got {value!r}")
    labels = {}
    for key, structure in value.items():
        if not key.isdecimal() or int(key) < 1 or str(int(key)) != key:
            raise _CardError(f"{where}: label values are whole numbers from 1, got {key!r}")
        if structure not in STRUCTURES:
            raise _CardError(
                f"{where}.{key}: unknown structure {structure!r}; known are {', '.join(STRUCTURES)}"
            )
        labels[int(key)] = STRUCTURES[structure]
    return labels


def _expectation(value: Any, where: str) -> Expectation:
    def statistic(item: Any, place: str) -> str:
        if not re.fullmatch(r"mean|p\d{1,2}(\.\d+)?|p100", _text(item, place)):
            raise _CardError(f"{place} must be mean or a percentile such as p50, got {item!r}")
        return item

    parsers = {
        "stage": _one_of("input", "prepared"),
        "statistic": statistic,
        "low": _number,
        "high": _number,
    }
    return _record(Expectation, value, where, parsers)


def _input(value: Any, where: str) -> ExpectedInput:
    parsers = {
        "orientation": _orientation,
        "spacing_mm": _list(_positive, 3),
        "spacing_tolerance": _positive,
        "side_known": _flag,
        "stack_spacing_mm": _maybe(_list(_positive, 3)),
        "intensity": _list(_expectation),
    }
    return _record(ExpectedInput, value, where, parsers)


def _inference(value: Any, where: str) -> Inference:
    parsers = {
        "mode": _one_of("slices", "sliding-window"),
        "patch_size": _maybe(_list(_count, 3)),
        "step": _positive,
        "averaging": _one_of("probabilities", "logits"),
        "temperature": _positive,
    }
    plan = _record(Inference, value, where, parsers)
    if plan.mode == "sliding-window" and (plan.patch_size is None or min(plan.patch_size) < 1):
        raise _CardError(f"{where}.patch_size must give three sizes for a sliding window")
    return plan


def _cleanup(value: Any, where: str) -> Cleanup:
    def region(item: Any, place: str) -> Region:
        return _record(Region, item, place, {"name": _name, "labels": _list(_count), "write": _count})

    return _record(Cleanup, value, where, {"regions": _list(region), "rules": _list(_step)})


def _tumors(value: Any, where: str) -> TumorRule:
    parsers = {
        "label": _count,
        "connectivity": lambda v, w: _one_of(6, 18, 26)(v, w),
        "small_below_mm3": _positive,
        "host_label": _count,
    }
    return _record(TumorRule, value, where, parsers)


def _file(value: Any, where: str) -> CardFile:
    return _record(
        CardFile, value, where, {"name": _name, "sha256": _digest, "size_bytes": _count, "member": _text}
    )


def _source(value: Any, where: str) -> Source:
    parsers = {"kind": _one_of("bundled", "python-package", "local"), "archive_sha256": _text}
    return _record(Source, value, where, parsers)


def _schema(value: Any, where: str) -> int:
    if value != SCHEMA:
        raise _CardError(f"{where} {value!r} is not known; this version reads schema {SCHEMA}")
    return SCHEMA


def _parse_card(data: Any) -> Card:
    parsers = {
        "schema": _schema,
        "name": _name,
        "species": _one_of("mouse", "human"),
        "modality": _one_of("MRI", "CT", "micro-CT"),
        "task": _one_of("mouse-thorax", "lung-tumor"),
        "labels": _labels,
        "architecture": _step,
        "input": _input,
        "preprocess": _list(_step),
        "inference": _inference,
        "postprocess": _cleanup,
        "tumors": _maybe(_tumors),
        "weights": _list(_file),
        "samples": _list(_file),
        "source": _source,
    }
    card = _record(Card, data, "card", parsers)
    used = {label for region in card.postprocess.regions for label in (*region.labels, region.write)}
    if card.tumors is not None:
        used |= {card.tumors.label, card.tumors.host_label}
    unknown = sorted(used - set(card.labels))
    if unknown:
        raise _CardError(f"labels {unknown} are used but not listed in card.labels")
    if not card.weights:
        raise _CardError("card.weights must list at least one file")
    return card
