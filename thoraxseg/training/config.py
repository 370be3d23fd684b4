"""All that decides a training run, as JSON: a preset, what is changed of it, the data set, folds and seed.

A file may hold a preset and a few values; what is written into the folder of a run is whole, so that it can be read
and run again when presets have changed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from thoraxseg.checkpoints import Card
from thoraxseg.checkpoints import fields as checked
from thoraxseg.checkpoints.card import card_text
from thoraxseg.checkpoints.fields import FieldError
from thoraxseg.errors import CheckpointError, InputError, OptionError
from thoraxseg.training.presets import Preset, preset_for, preset_named

SCHEMA = 1
MAX_BYTES = 1 << 20
ALL = "all"
DEVICES = ("auto", "cpu", "cuda")
_MERGED = ("network", "input", "inference", "sampling", "settings")
"""Sections of which a file may hold a part; any other value is replaced as a whole."""
_BY_OPTION = {"preset": "--system", "fast": "--fast", "from": "--from"}
"""What decides which recipe there is to change, and so cannot be changed in it."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Values are plain data; `Preset` says what those of its sections mean.

    Raises OptionError for a value that cannot be used, naming it.
    """

    preset: str
    """The system's name, `checkpoint` for a network of no paper's that a checkpoint brings."""
    data: str
    """Folder, table or study file of the data set."""
    name: str
    """Of the checkpoint that the run ends with."""
    fast: bool = False
    """Whether the preset's short training was asked for."""
    animals: str | None = None
    """Which animal each case is of, see `read_data_set`; so are the next ones."""
    labels: Mapping[str, str] | None = None
    label_map: Mapping[str, Sequence[str]] | None = None
    operator: str | None = None
    species: str | None = None
    modality: str | None = None
    stack_spacing_mm: Sequence[float] | None = None
    """Of files that state no geometry, along (k, j, i) of the file."""
    skip_broken: bool = False
    folds: int = 5
    fold: int | str = 0
    """Which one is trained, counted from 0; `all`: one after the other."""
    seed: int = 0
    device: str = "auto"
    start_from: str | None = None
    """Name or path of a checkpoint whose weights are gone on with."""
    reset_head: bool = False
    half: bool = False
    """Whether the weights of the checkpoint are kept in 16 bits."""
    license: str = "as the data"
    network: Mapping[str, Any] | None = None
    initialization: str = "torch"
    sigmoid: bool = False
    lung_map: bool = False
    resample_mm: str | Sequence[float] | None = None
    """`median` of the data set, a spacing (k, j, i) in the network's orientation, or as the steps say."""
    input: Mapping[str, Any] | None = None
    preprocess: Sequence[Mapping[str, Any]] = ()
    inference: Mapping[str, Any] | None = None
    postprocess: Mapping[str, Any] | None = None
    tumors: Mapping[str, Any] | None = None
    sampling: Mapping[str, Any] | None = None
    augmentation: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] | None = None
    search: Mapping[str, Any] | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        parsers = {
            "preset": checked.text,
            "name": checked.name,
            "data": checked.text,
            "folds": checked.size,
            "fold": checked.one_of(ALL) if isinstance(self.fold, str) else checked.count,
            "seed": checked.count,
            "device": checked.one_of(*DEVICES),
            "initialization": checked.one_of("torch", "he-normal"),
            "schema": checked.one_of(SCHEMA),
            "license": checked.text,
            **dict.fromkeys(
                ("fast", "skip_broken", "reset_head", "half", "sigmoid", "lung_map"), checked.flag
            ),
            **dict.fromkeys(
                ("animals", "start_from", "operator", "species", "modality"), checked.maybe(checked.text)
            ),
            "stack_spacing_mm": checked.maybe(checked.list_of(checked.positive, 3)),
        }
        try:
            for key, parse in parsers.items():
                parse(getattr(self, key), key)
            if self.resample_mm not in (None, "median"):
                checked.list_of(checked.positive, 3)(self.resample_mm, "resample_mm")
        except FieldError as problem:
            raise OptionError(f"{problem}.") from None
        if self.folds < 2:
            raise OptionError(
                "folds: expected 2 or more: the best weights are chosen on animals that are held out."
            )
        if isinstance(self.fold, int) and self.fold >= self.folds:
            raise OptionError(f"fold: expected one of 0 to {self.folds - 1}, or all, got {self.fold}.")
        for key in (*_MERGED, "augmentation", "postprocess", "search", "labels", "label_map"):
            value = getattr(self, key)
            if value is not None and not isinstance(value, Mapping):
                raise OptionError(f"{key}: expected an object, got {value!r:.80}.")
        for key in ("loss", "optimizer", "schedule"):
            value = (self.settings or {}).get(key, {})
            if not isinstance(value, Mapping):
                raise OptionError(f"settings.{key}: expected a name and parameters, got {value!r:.80}.")

    @property
    def chosen_folds(self) -> range:
        """The folds that are trained."""
        return range(self.folds) if self.fold == ALL else range(self.fold, self.fold + 1)

    def to_record(self) -> dict[str, Any]:
        """Return all values as plain data for JSON; `from` stands for `start_from`."""
        record = {"schema": self.schema} | _plain(asdict(self))
        record["from"] = record.pop("start_from")
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TrainConfig:
        """Return the config in whole plain data; raises OptionError naming a key that is not known or missing."""
        data = {("start_from" if key == "from" else key): value for key, value in record.items()}
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(data) - known):
            names = ", ".join(sorted((known - {"start_from"}) | {"from"}))
            raise OptionError(
                f"unknown key {', '.join(unknown)[:200]} in the training config; known are {names}."
            )
        try:
            return cls(**data)
        except TypeError as error:
            raise OptionError(f"training config: {error}.") from error


def make_config(
    system: str | None,
    given: Mapping[str, Any],
    overrides: Sequence[str] = (),
    card: Card | None = None,
    fast: bool = False,
) -> TrainConfig:
    """Return the config of a system (None: of the checkpoint whose `card` it goes on from), with values over it.

    `given` are values of a file or of flags, `overrides` are words such as `settings.optimizer.lr=1e-4`; the latter
    win. Raises OptionError naming what cannot be used.
    """
    given = dict(given)
    fast = bool(given.pop("fast", False)) or fast
    preset = preset_named(system) if system is not None else None
    record = _record_of(preset) if preset is not None else _record_of_card(card)
    if fast:
        short = preset_named(record["preset"]).fast if record["preset"] != CHECKPOINT else {}
        if card is not None:  # its network stays as it is
            short = {
                k: v for k, v in short.items() if not k.startswith(("network.", "preprocess.", "inference."))
            }
            short = {k: v for k, v in short.items() if k != "sampling.patch_size"}
        for key, value in short.items():
            _set(record, key, value)
        record["fast"] = True
    for key, value in given.items():
        record[key] = _merged(record.get(key), value) if key in _MERGED else value
    for text in overrides:
        key, value = _parsed(text)
        if (option := _BY_OPTION.get(key)) is not None:
            raise OptionError(f"--set {key}: is not a value of the recipe. Give {option} instead.")
        if key.split(".")[0] not in record:
            raise OptionError(f"--set {key}: unknown; known are {', '.join(sorted(record))}.")
        _set(record, key, value)
    _check_sections(record, preset is not None and preset.nnunet is not None)
    if not record["lung_map"]:
        record["preprocess"] = [step for step in record["preprocess"] if step.get("name") != "crop_to_lungs"]
    if not record.get("name"):
        record["name"] = _default_name(record)
    return TrainConfig.from_record(record)


def read_config(path: Path) -> dict[str, Any]:
    """Return the values in a config file; raises InputError for a file that is none, OptionError for a wrong key."""
    try:
        raw = Path(path).read_bytes()
        if len(raw) > MAX_BYTES:
            raise InputError(f"{path}: expected a training config of at most 1 MiB.")
        hooks = {"object_pairs_hook": checked.unique, "parse_constant": checked.not_finite}
        data = json.loads(raw.decode("utf-8-sig"), **hooks)
    except OSError as error:
        raise InputError(f"{path}: the training config cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError, FieldError) as error:
        raise InputError(f"{path}: expected a training config in JSON, got: {error}.") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a training config (an object in JSON), got {data!r:.80}.")
    if isinstance(data.get("data"), str) and data["data"] and not Path(data["data"]).is_absolute():
        data["data"] = str(Path(path).parent / data["data"])
    return data


def config_text(config: TrainConfig) -> str:
    """Return the whole config as JSON."""
    return json.dumps(config.to_record(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the values that two records do not share, by dotted key; None where one has no such key."""
    flat, others = _flat(one), _flat(other)
    return {
        key: (flat.get(key), others.get(key))
        for key in sorted(flat.keys() | others.keys())
        if flat.get(key) != others.get(key)
    }


def changes(config: TrainConfig) -> dict[str, Any]:
    """Return what differs from the preset, by dotted key: sections of the recipe, not data, folds or device."""
    if config.preset == CHECKPOINT:
        return {}
    preset, mine = _record_of(preset_named(config.preset)), config.to_record()
    recipe = [
        *_MERGED, "augmentation", "preprocess", "postprocess", "tumors", "initialization", "sigmoid", "lung_map",
        "resample_mm",
    ]  # fmt: skip
    found = differences({key: mine[key] for key in recipe}, {key: preset[key] for key in recipe})
    return {key: pair[0] for key, pair in found.items()}


def with_values(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Return a config with other values by dotted key; raises OptionError for a key that is not there."""
    record = config.to_record()
    for key, value in values.items():
        _set(record, key, value)
    return TrainConfig.from_record(record)


CHECKPOINT = "checkpoint"
"""The preset of a network that no paper of ours trains, and that a checkpoint brings."""


def _record_of(preset: Preset) -> dict[str, Any]:
    """Return the whole plain data of a preset, but for data and name."""
    record: dict[str, Any] = TrainConfig(preset.name, "", "a").to_record() | {"data": "", "name": ""}
    if preset.nnunet is not None:
        return record | {"settings": _plain(preset.settings), "network": {}, "preprocess": []}
    recipe = preset.recipe
    inference = {
        "patch_size": None,
        "step": 1,
        "blending": "gaussian",
        "averaging": "probabilities",
        **recipe.inference,
    }
    return record | _plain(
        {
            "network": dict(preset.network),
            "initialization": preset.initialization,
            "sigmoid": preset.sigmoid,
            "lung_map": preset.lung_map,
            "resample_mm": "median" if preset.resample else None,
            "input": {
                "orientation": recipe.orientation,
                "spacing_tolerance": 2.0 if preset.resample else 0.5,
            },
            "preprocess": list(recipe.preprocess),
            "inference": inference,
            "postprocess": recipe.postprocess,
            "tumors": recipe.tumors,
            "sampling": dict(preset.sampling),
            "augmentation": dict(preset.augmentation),
            "settings": dict(preset.settings),
            "search": dict(preset.search),
        }
    )


def _record_of_card(card: Card | None) -> dict[str, Any]:
    """Return the whole plain data for going on from a checkpoint as it is: its network, its way to prepare images."""
    if card is None:
        raise OptionError(
            "expected --system NAME, a CONFIG with a preset, or --from CHECKPOINT; got none of them."
        )
    if card.nnunet is not None:
        raise CheckpointError(
            f"checkpoint {card.name}: is a model of nnU-Net, whose plan trains it. Give --system nnunet-... instead."
        )
    plain = json.loads(card_text(card))
    network = dict(plain["architecture"])
    for key in ("classes", "in_channels"):
        network.pop(key, None)
    preset = preset_for(card.architecture.name, card.architecture.parameters)
    record = _record_of(preset) if preset is not None else _generic(plain)
    record |= {
        "network": network,
        "initialization": "torch",
        "sigmoid": card.architecture.parameters.get("classes", 2) == 1,
        "lung_map": any(channel.source == "lungs" for channel in card.channels),
        "resample_mm": None,
        "input": {key: plain["input"][key] for key in ("orientation", "spacing_mm", "spacing_tolerance")},
        "preprocess": plain["preprocess"],
        "inference": {k: v for k, v in plain["inference"].items() if not k.startswith("temperature")},
        "postprocess": plain["postprocess"],
        "tumors": plain["tumors"],
    }
    # What is learned already would be lost with the steps that a start from nothing takes.
    record["settings"]["optimizer"]["lr"] /= 10
    size = shown_size(plain)
    if size is not None:
        record["sampling"]["patch_size"] = size
    return record


def _generic(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain data of a training for a network of no paper's: patches on structures, entropy and Dice."""
    mode = card["inference"]["mode"]
    sampling = {
        "slices": {"sampler": "slices", "slices": "all", "batch_size": 16},
        "whole": {"sampler": "whole", "batch_size": 1},
        "sliding-window": {"sampler": "balanced", "batch_size": 2},
    }[mode]
    record = TrainConfig(CHECKPOINT, "", "a").to_record() | {"data": "", "name": ""}
    record["settings"] = {
        "epochs": 100,
        "steps_per_epoch": None if mode == "slices" else 100,
        "loss": {"name": "cross-entropy-dice"},
        "optimizer": {"name": "adam", "lr": 1e-3},
        "schedule": {"name": "poly"},
    }
    record["sampling"] = sampling
    record["augmentation"] = {"flips": {"probability": 0.5}, "noise": {"probability": 0.2, "sd": 0.1}}
    return record


def shown_size(card: Mapping[str, Any]) -> list[int] | None:
    """Return the voxels that the network of a card is shown at once; None where that is the size of the image."""
    size = card["inference"]["patch_size"]
    for step in card["preprocess"]:
        if step["name"].startswith("resize_slices"):
            size = [1, *step["size_px"]]
        elif step["name"] == "resize":
            size = step["shape"]
    return None if size is None else list(size)


def _check_sections(record: Mapping[str, Any], by_nnunet: bool) -> None:
    """Raise OptionError for a section that is no object; nnU-Net plans most of them itself."""
    for key in ("settings",) if by_nnunet else (*_MERGED, "augmentation"):
        if not isinstance(record[key], Mapping):
            raise OptionError(f"{key}: expected an object, got {record[key]!r:.80}.")
    steps = record["preprocess"]
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        raise OptionError(f"preprocess: expected a list of objects, got {steps!r:.80}.")


def _default_name(record: Mapping[str, Any]) -> str:
    from thoraxseg.checkpoints.describe import plain_name

    return plain_name(f"{record['preset']}-{Path(record['data']).resolve().stem}")


def _merged(base: Any, value: Any) -> Any:
    """Return `value` over `base`: objects key by key, but one with another `name` is another thing altogether."""
    if not isinstance(base, Mapping) or not isinstance(value, Mapping):
        return copy.deepcopy(value)
    if "name" in value and value["name"] != base.get("name"):
        return copy.deepcopy(dict(value))
    return {**base, **{key: _merged(base.get(key), item) for key, item in value.items()}}


def _parsed(text: str) -> tuple[str, Any]:
    """Return key and value of `key=value`; the value is JSON, or a word as it stands."""
    key, equals, value = text.partition("=")
    key = key.strip().replace("start_from", "from")
    if not equals or not key:
        raise OptionError(f"--set: expected KEY=VALUE such as settings.epochs=50, got {text!r:.120}.")
    try:
        return key, json.loads(value, object_pairs_hook=checked.unique, parse_constant=checked.not_finite)
    except FieldError as error:
        raise OptionError(f"--set {key}: {error}.") from None
    except (ValueError, RecursionError):
        return key, value.strip()


def _set(record: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key, in which numbers count the items of lists; None takes an augmentation away."""
    *path, last = key.split(".")
    place: Any = record
    for index, step in enumerate(path):
        place = _inside(place, step, ".".join(path[: index + 1]))
    if isinstance(place, list):
        _inside(place, last, key)
        place[int(last)] = value
    elif not isinstance(place, dict):
        raise OptionError(f"{key}: {'.'.join(path)} is {place!r:.60} and holds no values by name.")
    elif path == ["augmentation"] and value is None:
        place.pop(last, None)
    elif last == "name" and path and place.get("name") != value:
        place.clear()  # parameters of another loss or optimizer mean nothing here
        place["name"] = value
    else:
        place[last] = _merged(place.get(last), value) if path or last in _MERGED else value


def _inside(place: Any, step: str, where: str) -> Any:
    if isinstance(place, list):
        if not step.isdigit() or int(step) >= len(place):
            raise OptionError(f"{where}: expected a number from 0 to {len(place) - 1}, got {step!r:.40}.")
        return place[int(step)]
    if not isinstance(place, dict) or step not in place:
        known = f"; known are {', '.join(map(str, place))}" if isinstance(place, dict) else ""
        raise OptionError(f"{where}: there is no {step!r:.40}{known}.")
    if place[step] is None:
        place[step] = {}
    return place[step]


def _flat(value: Any, where: str = "") -> dict[str, Any]:
    """Return values by dotted key; lists are values, for a changed list is one change."""
    if not isinstance(value, Mapping) or not value:
        return {where: value}
    return {
        key: item
        for name, part in value.items()
        for key, item in _flat(part, f"{where}.{name}" if where else str(name)).items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


__all__ = [
    "ALL",
    "CHECKPOINT",
    "TrainConfig",
    "changes",
    "config_text",
    "differences",
    "make_config",
    "read_config",
    "shown_size",
    "with_values",
]
