"""The card of a checkpoint: JSON text in, one checked, frozen `Card` out.

Adding a checkpoint is adding a card. Unknown or duplicate keys, wrong types and numbers that are not
finite are errors that name the key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from thoraxseg.checkpoints import fields, plan_json, structures
from thoraxseg.checkpoints.fields import FieldError, list_of, maybe, one_of, record
from thoraxseg.checkpoints.nnunet_plan import NnunetPlan
from thoraxseg.errors import CheckpointError, InputError
from thoraxseg.segmentation import Structure
from thoraxseg.volume import directions_from_codes

SCHEMA = 1
MAX_BYTES = 1 << 20
SPECIES = ("mouse", "human", "not stated")
MODALITIES = ("MRI", "CT", "micro-CT", "not stated")
TASKS = ("mouse-thorax", "lung-tumor", "other")


@dataclass(frozen=True)
class Step:
    """One named step of preprocessing or one rule of post-processing, with its parameters."""

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class InputChannel:
    """One input channel of the network."""

    name: str
    source: str
    """`image`: a file of the user's; `lungs`: a lung map, from a file or from the checkpoint `lungs_from`."""


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
    """Where the axes i, j, k of the network's array run to, as in `RIA`; or an order of the file's own axes:
    `ijk` as they are, `jik` with rows and columns exchanged."""
    spacing_mm: tuple[float, float, float] | None
    """Training spacing along (k, j, i) in the orientation above; None where it is not known."""
    spacing_tolerance: float
    """Relative deviation from `spacing_mm` above which the user is warned."""
    side_known: bool
    """False when the training data do not tell left from right."""
    stack_spacing_mm: tuple[float, float, float] | None
    """Spacing to assume, with a warning, for stacks that state none; None: the user must say."""
    stack_shape: tuple[int, int, int] | None
    """The only shape (k, j, i) for which `stack_spacing_mm` may be assumed; None: any shape."""
    intensity: tuple[Expectation, ...]

    def codes_for(self, file_codes: str) -> str:
        """Return where i, j, k of the network's array run to, as in `RIA`, for a file with these axis letters."""
        if self.orientation.islower():
            return "".join(file_codes["ijk".index(axis)] for axis in self.orientation)
        return self.orientation


@dataclass(frozen=True)
class Inference:
    """How the network walks over the image."""

    mode: str
    """`slices` (2-D, along k), `sliding-window` (3-D), `whole` (3-D, all at once), or `nnunet` as the plan says."""
    patch_size: tuple[int, int, int] | None
    step: float
    """Window step as a fraction of the patch, at most 1."""
    blending: str
    """How overlapping windows are weighted: `gaussian` (SD of 1/8 of the patch) or `constant`."""
    averaging: str
    """What is averaged over windows and folds: `probabilities` or `logits`, as in the model's origin."""
    temperature: float
    """Logits are divided by it before the softmax, so that doubt can be seen. The labels of one network on
    slices do not depend on it; averaged probabilities of several windows or folds do."""
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
    """Where the files come from: `bundled` with ThoraxSeg, a `python-package` fetched by name, or `local`, put there
    by the user from a folder, an archive, a file or a URL.
    """

    kind: str
    requirement: str
    """`name==version` of a package, else empty: never options, links or paths, which pip would follow."""
    archive_sha256: str
    """Of the archive or file that the weights came in; empty where it is not known."""


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
    channels: tuple[InputChannel, ...]
    architecture: Step
    input: ExpectedInput
    preprocess: tuple[Step, ...]
    inference: Inference
    nnunet: NnunetPlan | None
    """Everything else about a model of nnU-Net; `preprocess` and `postprocess` are empty then."""
    previous: str | None
    """Name of the folder, in this card's own, with the card of a cascade's first stage."""
    lungs_from: str | None
    """Name of the checkpoint that makes the lung map where the network takes one and the user gives none."""
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
    assumed: tuple[str, ...]
    """What was assumed when the card was made of files that do not tell it. Every result says so; a person who has
    checked the card empties the list."""
    sha256: str = ""
    """Digest of the card's text."""


def read_card(path: Path) -> Card:
    """Return the checked card in a JSON file.

    Raises CheckpointError naming the file and the key when anything is missing, unknown or wrong.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise FieldError("a card has at most 1 MiB")
        hooks = {"object_pairs_hook": fields.unique, "parse_constant": fields.not_finite}
        card = parse_card(json.loads(raw.decode("utf-8-sig"), **hooks))
    except OSError as error:
        raise CheckpointError(f"{path}: the card cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a checkpoint card in JSON, got: {error}.") from error
    except FieldError as problem:
        raise CheckpointError(f"{path}: {problem}. Correct the card.") from None
    return replace(card, sha256=hashlib.sha256(raw).hexdigest())


def card_text(card: Card) -> str:
    """Return the card as the JSON text that `read_card` reads."""
    data = {
        key: _plain(value) for key, value in asdict(replace(card, nnunet=None)).items() if key != "sha256"
    }
    data["labels"] = {str(label): structures.to_json(item) for label, item in card.labels.items()}
    data["nnunet"] = None if card.nnunet is None else plan_json.to_json(card.nnunet)
    data["architecture"] = _step_json(card.architecture)
    data["preprocess"] = [_step_json(step) for step in card.preprocess]
    data["postprocess"]["rules"] = [_step_json(step) for step in card.postprocess.rules]
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    # Lists of numbers in one line each, or a person could not read a plan.
    return re.sub(r"\[\n\s*([-+.\deE,\s]+?)\n\s*\]", lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"


def _step_json(step: Step) -> dict[str, Any]:
    return {"name": step.name, **_plain(step.parameters)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def step_parameters(step: Step, parsers: Mapping[str, fields.Parser]) -> dict[str, Any]:
    """Return the parameters of a step, checked: exactly the keys of `parsers`, each through its parser.

    Raises CheckpointError naming the step and the key.
    """
    try:
        return fields.members(step.parameters, step.name, parsers)
    except FieldError as problem:
        raise CheckpointError(f"{problem}. Correct the checkpoint's card.") from None


def _step(value: Any, where: str) -> Step:
    if not isinstance(value, dict):
        raise FieldError(f"{where} must be an object with a name, got {value!r:.80}")
    parameters = {key: item for key, item in value.items() if key != "name"}
    return Step(fields.name(value.get("name"), f"{where}.name"), parameters)


def _orientation(value: Any, where: str) -> str:
    text = fields.text(value, where)
    if text.islower() and sorted(text) == ["i", "j", "k"]:
        return text
    try:
        directions_from_codes(text)
    except InputError as error:
        raise FieldError(f"{where}: {error}") from error
    return value


def _labels(value: Any, where: str) -> dict[int, Structure]:
    if not isinstance(value, dict) or not value:
        raise FieldError(f"{where} must map label values to structures, got {value!r:.80}")
    labels: dict[int, Structure] = {}
    for key, item in value.items():
        # Label maps are uint8.
        label = int(fields.matching(r"[1-9]\d{0,2}", "a label value from 1 to 255")(key, where))
        if label > 255:
            raise FieldError(f"{where} must be a label value from 1 to 255, got {key!r}")
        structure = structures.from_json(item, f"{where}.{key}")
        if structure.key in [other.key for other in labels.values()]:
            raise FieldError(f"{where}.{key}: structure {structure.key!r} has another label already")
        labels[label] = structure
    return labels


def _channel(value: Any, where: str) -> InputChannel:
    channel = record(InputChannel, value, where, {"source": one_of("image", "lungs")})
    if not 0 < len(channel.name) <= 80:
        raise FieldError(f"{where}.name must have 1 to 80 characters")
    return channel


def _expectation(value: Any, where: str) -> Expectation:
    parsers = {
        "stage": one_of("input", "prepared"),
        "statistic": fields.matching(r"mean|p\d{1,2}(\.\d+)?|p100", "mean or a percentile such as p50"),
        "low": fields.number,
        "high": fields.number,
    }
    return record(Expectation, value, where, parsers)


def _input(value: Any, where: str) -> ExpectedInput:
    parsers = {
        "orientation": _orientation,
        "spacing_mm": maybe(list_of(fields.positive, 3)),
        "spacing_tolerance": fields.positive,
        "side_known": fields.flag,
        "stack_spacing_mm": maybe(list_of(fields.positive, 3)),
        "stack_shape": maybe(list_of(fields.count, 3)),
        "intensity": list_of(_expectation),
    }
    return record(ExpectedInput, value, where, parsers)


def _inference(value: Any, where: str) -> Inference:
    parsers = {
        "mode": one_of("slices", "sliding-window", "whole", "nnunet"),
        "patch_size": maybe(list_of(fields.size, 3)),
        "step": fields.fraction,
        "blending": one_of("gaussian", "constant"),
        "averaging": one_of("probabilities", "logits"),
        "temperature": fields.positive,
    }
    plan = record(Inference, value, where, parsers)
    if plan.mode == "sliding-window" and plan.patch_size is None:
        raise FieldError(f"{where}.patch_size must give three sizes for a sliding window")
    return plan


def _cleanup(value: Any, where: str) -> Cleanup:
    def region(item: Any, place: str) -> Region:
        parsers = {"name": fields.name, "labels": list_of(fields.size), "write": fields.size}
        return record(Region, item, place, parsers)

    return record(Cleanup, value, where, {"regions": list_of(region), "rules": list_of(_step)})


def _tumors(value: Any, where: str) -> TumorRule:
    parsers = {
        "label": fields.size,
        "connectivity": one_of(6, 18, 26),
        "small_below_mm3": fields.positive,
        "host_label": fields.size,
    }
    return record(TumorRule, value, where, parsers)


def _file(value: Any, where: str) -> CardFile:
    parsers = {"name": fields.name, "sha256": fields.digest, "size_bytes": fields.count}
    return record(CardFile, value, where, parsers)


def _source(value: Any, where: str) -> Source:
    source = record(Source, value, where, {"kind": one_of("bundled", "python-package", "local")})
    if source.kind == "python-package":
        pinned = fields.matching(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*", "name==version")
        pinned(source.requirement, f"{where}.requirement")
        fields.digest(source.archive_sha256, f"{where}.archive_sha256")
    return source


def parse_card(data: Any) -> Card:
    """Return the checked card in plain data; raises FieldError naming the key."""
    parsers = {
        "schema": one_of(SCHEMA),
        "name": fields.name,
        "species": one_of(*SPECIES),
        "modality": one_of(*MODALITIES),
        "task": one_of(*TASKS),
        "labels": _labels,
        "channels": list_of(_channel),
        "architecture": _step,
        "input": _input,
        "preprocess": list_of(_step),
        "inference": _inference,
        "nnunet": maybe(plan_json.parse),
        "previous": maybe(fields.name),
        "lungs_from": maybe(fields.name),
        "postprocess": _cleanup,
        "tumors": maybe(_tumors),
        "weights": list_of(_file),
        "samples": list_of(_file),
        "source": _source,
        "assumed": list_of(fields.text),
    }
    card = record(Card, data, "card", parsers)
    _check_labels(card)
    _check_channels(card)
    if not card.weights:
        raise FieldError("card.weights must list at least one file")
    _all_different([file.name for file in (*card.weights, *card.samples)], "card.weights and card.samples")
    _all_different([region.name for region in card.postprocess.regions], "card.postprocess.regions")
    return card


def _check_labels(card: Card) -> None:
    """Refuse labels that are used but not listed, and listed ones that the clean-up would lose."""
    regions = card.postprocess.regions
    used = {label for region in regions for label in (*region.labels, region.write)}
    if card.tumors is not None:
        used |= {card.tumors.label, card.tumors.host_label}
    if unknown := sorted(used - set(card.labels)):
        raise FieldError(f"labels {unknown} are used but not listed in card.labels")
    lost = sorted(set(card.labels) - {label for region in regions for label in region.labels})
    if card.postprocess.rules and lost:
        raise FieldError(f"labels {lost} are in no region of card.postprocess.regions and would be lost")


def _check_channels(card: Card) -> None:
    sources = [channel.source for channel in card.channels]
    if not sources or sources[0] != "image" or sources.count("lungs") > 1:
        raise FieldError("card.channels must begin with an image and have at most one lung map")
    if (card.nnunet is not None) != (card.inference.mode == "nnunet"):
        raise FieldError("card.inference.mode must be 'nnunet' where card.nnunet is given, and only there")
    if card.nnunet is not None:
        if len(card.nnunet.channels) != len(sources):
            raise FieldError("card.channels must be as many as card.nnunet.channels")
        if (card.previous is not None) != (card.nnunet.previous_stage is not None):
            raise FieldError(
                "card.previous must name the first stage where card.nnunet has one, and only there"
            )
    elif card.previous is not None:
        raise FieldError("card.previous is for cascades of nnU-Net")


def _all_different(names: list[str], where: str) -> None:
    folded = [name.casefold() for name in names]  # as file systems on Windows and macOS compare
    for name in names:
        if folded.count(name.casefold()) > 1:
            raise FieldError(f"{where}: the name {name!r} is used twice")
