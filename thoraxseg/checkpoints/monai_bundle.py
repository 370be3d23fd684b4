"""A MONAI bundle read as data: its network, preparation, windows and names, with nothing imported or evaluated.

A bundle's configuration can hold Python. Here the names of classes are compared with a table, `$` expressions are
refused where a value is needed, and everything that would change the image in a way not listed here is refused by
name. Format: the MONAI bundle specification (docs/source/mb_specification.rst of MONAI 1.x).

**Axes.** MONAI's arrays are (x, y, z) and its letters say where these run to: after `Orientationd("RAS")` the
first axis runs to the right. Ours are (k, j, i) with letters for i, j, k. The array stays the same, so that k is
x, j is y and i is z: letters are reversed ("RAS" is our "SAR"), sizes and spacings are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from thoraxseg.checkpoints import fields
from thoraxseg.checkpoints.fields import FieldError, list_of, maybe, one_of
from thoraxseg.checkpoints.nnunet_folder import (
    MAX_CONVS,
    MAX_FEATURES,
    MAX_KERNEL,
    MAX_LABEL,
    MAX_PATCH,
    MAX_STAGES,
    below,
    naming,
    odd,
    read_json,
    search_models,
)
from thoraxseg.errors import CheckpointError, InputError
from thoraxseg.volume import directions_from_codes

MAX_REFERENCES = 16
"""How many `@name` may lead to one another."""
MAX_VALUES = 10_000
"""Values that references may multiply the configuration to."""
MAX_TEXT = 10_000
_REMEDY = (
    "ThoraxSeg reads bundles of MONAI's UNet with plain settings: change that setting in the file to what is "
    "expected, or use the bundle in MONAI."
)
_DTYPES = {f"{module}{name}" for module in ("", "np.", "numpy.", "torch.") for name in ("float32", "float64")}
_READERS = ("itkreader", "nibabelreader", "nrrdreader", "pydicomreader")
"""All of them give (x, y, z) arrays and RAS geometry."""
_AS_STORED = "kji"
_LETTERS = [["L", "R"], ["P", "A"], ["I", "S"]]


@dataclass(frozen=True)
class MonaiBundle:
    """What a bundle says, checked, in the words of ThoraxSeg."""

    folder: Path
    weights: Path
    """`models/model.pt`, not opened yet: `read_weights` does that safely."""
    name: str
    version: str
    description: str
    license: str
    """As the metadata say, or empty: bundles usually have a file LICENSE instead."""
    copyright: str
    citation: str
    """References of the metadata, one a line; may be empty."""
    modality: str
    """Of the input as the metadata say, such as `CT` or `MR`; may be empty."""
    labels: Mapping[int, str]
    """Output channel -> name. With softmax the channel is the label, 0 the background; with sigmoid each channel
    is a structure of its own, and they may overlap."""
    channels: tuple[str, ...]
    """Names of the input channels."""
    architecture: str
    """Name of the file in `thoraxseg.models`."""
    architecture_arguments: Mapping[str, Any]
    """Arguments of its `build`."""
    orientation: str
    """Where the axes i, j, k of the network's array run to, as in `SAR`; or `kji` where the bundle does not turn
    images: the file's own axes in MONAI's order, however they lie in the patient."""
    steps: tuple[Mapping[str, Any], ...]
    """After turning to `orientation`, in order: `resample` with `spacing_mm` (k, j, i), linearly; `clip` with `low`
    and `high`; `rescale` from `low`, `high` to `to_low`, `to_high` with `clip`; `scale_to_range` from the
    image's own extremes to `to_low`, `to_high`; `z_score`. Each channel stands by itself."""
    patch_size: tuple[int, int, int] | None
    """Window (k, j, i) in voxels; None: the whole image at once. MONAI surrounds a smaller image with 0."""
    overlap: float
    """Part of a window that the next one covers again, from 0 to below 1."""
    blending: str
    """`constant` or `gaussian` (SD of 1/8 of the window) weights of overlapping windows."""
    activation: str
    """`softmax` or `sigmoid`, of the network's output."""
    threshold: float | None
    """Of the sigmoid: a voxel of this probability or more belongs; None with softmax, where the largest wins."""
    notes: tuple[str, ...] = ()
    """What was assumed or is done otherwise here; shown to the user."""


def find_bundle(folder: Path) -> Path | None:
    """Return the folder of the one MONAI bundle in or some levels below `folder`, or None if there is none.

    Raises CheckpointError listing them when there are several; links are not followed.
    """
    folder = Path(folder)
    found = search_models(folder, _is_bundle)
    if len(found) > 1:
        names = ", ".join(str(place.relative_to(folder)) for place in found[:10])
        raise CheckpointError(f"{folder}: holds {len(found)} MONAI bundles: {names}. Give the folder of one.")
    return found[0] if found else None


def read_monai_bundle(folder: Path) -> MonaiBundle:
    """Return what the MONAI bundle in `folder`, or the one some levels below it, says.

    Read are `configs/metadata.json` and `configs/inference.json`; of `models/model.pt` only the size. Raises
    CheckpointError naming the file, the key, what was expected and what to do.
    """
    place = find_bundle(Path(folder))
    if place is None:
        raise CheckpointError(
            f"{folder}: expected a MONAI bundle, but no folder in it holds configs/metadata.json. Give the folder of "
            "the bundle, or its unpacked zip."
        )
    weights = _weights(place)
    metadata_path, metadata = _json(place, "metadata")
    inference_path, inference = _json(place, "inference")
    config = _Config(inference)
    with naming(inference_path, _REMEDY):
        arguments = _network(config)
        _check_weights(arguments, weights)
        preparation = _preparation(config, arguments["in_channels"])
        windows = _windows(config)
        answer = _answer(config, arguments["classes"])
    with naming(metadata_path, "Correct the metadata, or get the bundle from its source again."):
        about = _about(metadata, place)
        channels = _names(metadata, "inputs", "image", arguments["in_channels"])
        labels = _names(metadata, "outputs", "pred", arguments["classes"])
    return MonaiBundle(
        folder=place,
        weights=weights,
        **about,
        labels=dict(enumerate(labels)),
        channels=channels,
        architecture="monai_unet",
        architecture_arguments=arguments,
        orientation=preparation.orientation or _AS_STORED,
        steps=tuple(preparation.steps),
        **windows,
        **answer,
        notes=tuple(preparation.notes),
    )


# Files


def _is_bundle(folder: Path) -> bool:
    return any((folder / "configs" / f"metadata.{ending}").is_file() for ending in ("json", "yaml", "yml"))


def _json(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """Return a file of `configs` and the object in it."""
    path = folder / "configs" / f"{name}.json"
    if path.is_file():
        return path, read_json(path)
    for ending in ("yaml", "yml"):
        if path.with_suffix(f".{ending}").is_file():
            raise CheckpointError(
                f"{path.with_suffix(f'.{ending}')}: expected JSON, got YAML, which ThoraxSeg does not read. Save its "
                f"content as {path.name} beside it."
            )
    raise CheckpointError(
        f"{path}: the file is missing; a MONAI bundle needs it. Copy the whole bundle there."
    )


def _weights(folder: Path) -> Path:
    path = folder / "models" / "model.pt"
    if path.is_file():
        return path
    other = sorted(p.name for p in path.parent.glob("*.ts")) if path.parent.is_dir() else []
    got = f"{other[0]}, a TorchScript program, which would run code" if other else "no such file"
    raise CheckpointError(
        f"{path}: expected the weights of the bundle, got {got}. Fetch models/model.pt; some bundles name its address "
        "in large_files.yml."
    )


def _check_weights(arguments: Mapping[str, Any], weights: Path) -> None:
    """Refuse a network that could not be in the file of weights, before one as large is built."""
    widths = (arguments["in_channels"], *arguments["channels"])
    fewest = 2 * prod(arguments["kernel_size"]) * sum(a * b for a, b in pairwise(widths))  # 16 bits each
    if fewest > weights.stat().st_size:
        raise FieldError(
            f"network_def.channels {list(arguments['channels'])} make a network larger than the weights in "
            f"{weights.name}, which do not belong to it or are cut short"
        )


# Values


@dataclass
class _Config:
    """The configuration of a bundle, whose values are looked at and never run."""

    data: Mapping[str, Any]

    def plain(self, value: Any, where: str) -> Any:
        """Return a value with its references replaced, or say that it is an expression."""
        return self._plain(value, where, 0, [0])

    def _plain(self, value: Any, where: str, references: int, seen: list[int]) -> Any:
        seen[0] += 1
        if seen[0] > MAX_VALUES:
            raise FieldError(f"{where} holds more than {MAX_VALUES} values")
        if isinstance(value, Mapping):
            return {key: self._plain(v, f"{where}.{key}", references, seen) for key, v in value.items()}
        if isinstance(value, list):
            return [self._plain(v, f"{where}[{n}]", references, seen) for n, v in enumerate(value)]
        if isinstance(value, str) and value.startswith("$"):
            raise FieldError(
                f"{where} is an expression, {value!r:.80}, and expressions are not run; a plain value is expected"
            )
        if isinstance(value, str) and value.startswith("%"):
            raise FieldError(
                f"{where} takes its value from another place, {value!r:.80}; a plain value is expected"
            )
        if isinstance(value, str) and value.startswith("@"):
            if references >= MAX_REFERENCES:
                raise FieldError(f"{where}: {value!r:.80} leads to more than {MAX_REFERENCES} references")
            return self._plain(self._named(value, where), where, references + 1, seen)
        return value

    def _named(self, reference: str, where: str) -> Any:
        """Return what `@name`, `@name#key#0` or `@name::key::0` names."""
        if not re.fullmatch(r"@\w+((#|::)\w+)*", reference, re.ASCII):
            raise FieldError(
                f"{where}: expected a plain value or the name of one after '@', got {reference!r:.80}"
            )
        place: Any = self.data
        for key in re.split(r"#|::", reference[1:]):
            if isinstance(place, Mapping) and key in place:
                place = place[key]
            elif isinstance(place, list) and key.isdigit() and int(key) < len(place):
                place = place[int(key)]
            else:
                raise FieldError(f"{where}: {reference!r:.80} names nothing in this file")
        return place

    def followed(self, value: Any, where: str) -> Any:
        """Return a value, or what it refers to, without looking inside."""
        for _ in range(MAX_REFERENCES):
            if not (isinstance(value, str) and value.startswith("@")):
                return value
            value = self._named(value, where)
        raise FieldError(f"{where}: {value!r:.80} leads to more than {MAX_REFERENCES} references")

    def component(self, value: Any, where: str) -> tuple[str, dict[str, Any]]:
        """Return the name of a class of MONAI, as its configuration has it, and its arguments as they stand."""
        value = self.followed(value, where)
        if isinstance(value, str) and value.startswith("$"):
            self.plain(value, where)
        if not isinstance(value, Mapping) or "_target_" not in value:
            raise FieldError(f"{where} must be an object with a _target_, got {value!r:.80}")
        target = fields.text(self.plain(value["_target_"], f"{where}._target_"), f"{where}._target_")
        arguments = {key: item for key, item in value.items() if key not in ("_target_", "_desc_")}
        return target, arguments


def _is_disabled(config: _Config, value: Any, where: str) -> bool:
    """Tell whether MONAI skips a component."""
    value = config.followed(value, where)
    if not isinstance(value, Mapping) or "_disabled_" not in value:
        return False
    return fields.flag(config.plain(value["_disabled_"], f"{where}._disabled_"), f"{where}._disabled_")


def _arguments(
    config: _Config,
    given: Mapping[str, Any],
    where: str,
    parsers: Mapping[str, fields.Parser],
    idle: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the arguments that `parsers` know; `idle` ones do nothing to the voxels and are not looked at."""
    for key in given:
        if key not in parsers and key not in idle and key != "_disabled_":
            raise FieldError(f"{where}.{key} is not known; known are {', '.join(sorted(parsers))}")
    return {
        key: parse(
            given[key] if parse is _dtype else config.plain(given[key], f"{where}.{key}"), f"{where}.{key}"
        )
        for key, parse in parsers.items()
        if key in given
    }


def _dtype(value: Any, where: str) -> None:
    """A type of numbers that keeps the image's values, by name; also as the expression that MONAI's own files have."""
    if value is not None and (not isinstance(value, str) or value.removeprefix("$") not in _DTYPES):
        raise FieldError(f"{where} must be float32 or float64, got {value!r:.80}")


def _only(*wanted: Any) -> fields.Parser:
    """One of the few values that ThoraxSeg does the same as MONAI for."""

    def parse(value: Any, where: str) -> Any:
        if not any(type(value) is type(one) and value == one for one in wanted):
            shown = " or ".join("null" if one is None else repr(one) for one in wanted)
            raise FieldError(f"{where} must be {shown}, got {value!r:.80}")
        return value

    return parse


def _any(value: Any, where: str) -> Any:
    """Whatever comes, to be looked at later."""
    return value


# The network


def _network(config: _Config) -> dict[str, Any]:
    """Return the arguments of `monai_unet.build`."""
    where = "network_def" if "network_def" in config.data else "network"
    if where not in config.data:
        raise FieldError("key 'network_def' is missing")
    target, given = config.component(config.data[where], where)
    if target not in ("UNet", "monai.networks.nets.UNet"):
        raise FieldError(f"{where}._target_ must be UNet or monai.networks.nets.UNet, got {target!r:.80}")
    if given.get("_disabled_") not in (None, False):
        raise FieldError(f"{where}._disabled_ must be false, got {given['_disabled_']!r:.80}")
    kernel = _per_axis(odd)
    parsers = {
        "spatial_dims": _only(3),
        "in_channels": below(MAX_FEATURES),
        "out_channels": below(MAX_LABEL + 1),
        "channels": list_of(below(MAX_FEATURES)),
        "strides": list_of(_per_axis(below(MAX_KERNEL))),
        "kernel_size": kernel,
        "up_kernel_size": kernel,
        "num_res_units": _up_to(MAX_CONVS),
        "act": _activation,
        "norm": _normalization,
        "dropout": _probability,
        "bias": fields.flag,
        "adn_ordering": _only("NDA"),
    }
    said = _arguments(config, given, where, parsers)
    for key in ("spatial_dims", "in_channels", "out_channels", "channels", "strides"):
        if key not in said:
            raise FieldError(f"key {key!r} is missing in {where}")
    channels, strides = said["channels"], said["strides"]
    if not 2 <= len(channels) <= MAX_STAGES or len(strides) != len(channels) - 1:
        raise FieldError(
            f"{where} must have 2 to {MAX_STAGES} channels and one stride less, got {len(channels)} and {len(strides)}"
        )
    return {
        "channels": channels,
        "strides": strides,
        "num_res_units": said.get("num_res_units", 0),
        "in_channels": said["in_channels"],
        "classes": said["out_channels"],
        "dimensions": 3,
        "kernel_size": said.get("kernel_size", (3, 3, 3)),
        "up_kernel_size": said.get("up_kernel_size", (3, 3, 3)),
        "act": said.get("act", "PRELU"),
        "norm": said.get("norm", "INSTANCE"),
        "dropout": said.get("dropout", 0.0),
        "bias": said.get("bias", True),
    }


def _per_axis(parse: fields.Parser) -> fields.Parser:
    """One value for all three axes, or a list of three."""
    return lambda value, where: (
        list_of(parse, 3)(value, where) if isinstance(value, list) else (parse(value, where),) * 3
    )


def _up_to(most: int) -> fields.Parser:
    return lambda value, where: 0 if fields.count(value, where) == 0 else below(most)(value, where)


def _probability(value: Any, where: str) -> float:
    if not 0 <= fields.number(value, where) <= 1:
        raise FieldError(f"{where} must be from 0 to 1, got {value!r:.80}")
    return float(value)


def _layer(value: Any, where: str, known: Mapping[str, Mapping[str, fields.Parser]]) -> str:
    """Return the name of a layer, given as a name or as [name, arguments]; arguments may not change anything."""
    name, arguments = value if isinstance(value, list) and len(value) == 2 else (value, {})
    if not isinstance(name, str) or name.upper() not in known:
        raise FieldError(f"{where} must be one of {', '.join(known)}, got {value!r:.80}")
    if not isinstance(arguments, Mapping):
        raise FieldError(f"{where}[1] must be an object, got {arguments!r:.80}")
    parsers = known[name.upper()]
    for key, argument in arguments.items():
        if key not in parsers:
            raise FieldError(f"{where}[1].{key} is not known; known are {', '.join(parsers) or 'none'}")
        parsers[key](argument, f"{where}[1].{key}")
    return name.upper()


def _activation(value: Any, where: str) -> str:
    known = {
        "PRELU": {"num_parameters": _only(1), "init": fields.number},  # what was learned replaces it
        "RELU": {"inplace": fields.flag},
        "LEAKYRELU": {"negative_slope": _only(0.01), "inplace": fields.flag},
    }
    return _layer(value, where, known)


def _normalization(value: Any, where: str) -> str:
    momentum = maybe(fields.number)  # for training only
    known = {
        "INSTANCE": {
            "affine": _only(False), "track_running_stats": _only(False), "eps": _only(1e-5), "momentum": momentum,
        },
        "BATCH": {
            "affine": _only(True), "track_running_stats": _only(True), "eps": _only(1e-5), "momentum": momentum,
        },
    }  # fmt: skip
    return _layer(value, where, known)


# Preparation of the image


@dataclass
class _Preparation:
    """What the transforms do to the image, step by step."""

    channels: int
    orientation: str | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    spacing_before_orientation: bool = False

    def orientation_is(self, said: Mapping[str, Any], where: str) -> None:
        """`Orientationd`: where (x, y, z) run to becomes where i, j, k run to."""
        if self.orientation is not None:
            raise FieldError(f"{where} turns the image a second time")
        if self.spacing_before_orientation:
            raise FieldError(
                f"{where} turns the image after it was resampled to a spacing of the file's own axes"
            )
        canonical = said.get("as_closest_canonical", False)
        axes = "RAS" if canonical else fields.text(said.get("axcodes"), f"{where}.axcodes").upper()
        try:
            directions_from_codes(axes)
        except InputError as error:
            raise FieldError(f"{where}.axcodes: {error}") from error
        self.orientation = axes[::-1]

    def spacing_is(self, said: Mapping[str, Any], where: str) -> None:
        """`Spacingd`: millimeters along (x, y, z), which are our (k, j, i)."""
        given = said.get("pixdim")
        several = given if isinstance(given, list) else [given]
        spacing = [fields.positive(value, f"{where}.pixdim") for value in several[:3]]
        if not spacing:
            raise FieldError(f"{where}.pixdim must be one to three numbers, got {given!r:.80}")
        spacing += [spacing[-1]] * (3 - len(spacing))
        self.spacing_before_orientation = self.orientation is None and len(set(spacing)) > 1
        self.steps.append({"name": "resample", "spacing_mm": spacing})

    def range_is(self, said: Mapping[str, Any], where: str) -> None:
        """`ScaleIntensityRanged`: one range of intensities to another."""
        for key in ("a_min", "a_max"):
            if key not in said:
                raise FieldError(f"key {key!r} is missing in {where}")
        goal, clip = (said.get("b_min"), said.get("b_max")), said.get("clip", False)
        if goal.count(None) == 1 or (clip and None in goal):
            raise FieldError(f"{where} must have both b_min and b_max, got {goal[0]} and {goal[1]}")
        low, high = self._ascending(said["a_min"], said["a_max"], f"{where}.a_min and a_max")
        to_low, to_high = (0.0, 1.0) if None in goal else self._ascending(*goal, f"{where}.b_min and b_max")
        if clip and (low, high) == (to_low, to_high):
            self.steps.append({"name": "clip", "low": low, "high": high})
        else:
            ranges = {"low": low, "high": high, "to_low": to_low, "to_high": to_high}
            self.steps.append({"name": "rescale", **ranges, "clip": clip})

    def extremes_are(self, said: Mapping[str, Any], where: str) -> None:
        """`ScaleIntensityd`: the image's own minimum and maximum to a range."""
        self._check_channels(said, where)
        goal = self._ascending(said.get("minv", 0.0), said.get("maxv", 1.0), f"{where}.minv and maxv")
        self.steps.append({"name": "scale_to_range", "to_low": goal[0], "to_high": goal[1]})

    def normalized(self, said: Mapping[str, Any], where: str) -> None:
        """`NormalizeIntensityd`: by the image's own mean and SD (of n, not n - 1), or by given numbers."""
        self._check_channels(said, where)
        shift, scale = (
            self._one_number(said.get(key), f"{where}.{key}") for key in ("subtrahend", "divisor")
        )
        if shift is None and scale is None:
            self.steps.append({"name": "z_score"})
        elif shift is None or scale is None:
            raise FieldError(f"{where} must have both subtrahend and divisor, or neither")
        else:
            high = shift + fields.positive(scale, f"{where}.divisor")
            ranges = {"low": shift, "high": high, "to_low": 0.0, "to_high": 1.0}
            self.steps.append({"name": "rescale", **ranges, "clip": False})

    def _check_channels(self, said: Mapping[str, Any], where: str) -> None:
        if self.channels > 1 and not said.get("channel_wise", False):
            raise FieldError(f"{where}.channel_wise must be true for {self.channels} channels")

    @staticmethod
    def _ascending(low: Any, high: Any, where: str) -> tuple[float, float]:
        low, high = fields.number(low, where), fields.number(high, where)
        if low >= high:
            raise FieldError(f"{where} must be ascending, got {low:g} and {high:g}")
        return low, high

    @staticmethod
    def _one_number(value: Any, where: str) -> float | None:
        """Return a number given as such or as a list of one or more equal ones (one a channel), or None."""
        if value is None:
            return None
        several = {fields.number(one, where) for one in (value if isinstance(value, list) else [value])}
        if len(several) != 1:
            raise FieldError(f"{where} must be one number, got {value!r:.80}")
        return several.pop()


def _nothing(preparation: _Preparation, said: Mapping[str, Any], where: str) -> None:
    """What a transform does that only reads the file or changes the container of its values."""


@dataclass(frozen=True)
class _Transform:
    """How one of MONAI's transforms is read: the arguments that count, those that do not, and what it does."""

    does: Callable[[_Preparation, Mapping[str, Any], str], None]
    parsers: Mapping[str, fields.Parser]
    idle: tuple[str, ...] = ()


_KEYS = {"keys": _any}
_COMMON = ("allow_missing_keys", "lazy")
_IMAGE = {
    "LoadImaged": _Transform(
        _nothing,
        {
            **_KEYS,
            "reader": maybe(lambda value, where: one_of(*_READERS)(fields.text(value, where).lower(), where)),
            "dtype": _dtype,
            "image_only": fields.flag,
            "ensure_channel_first": fields.flag,
        },
        (
            *(*_COMMON, "meta_keys", "meta_key_postfix", "overwriting", "simple_keys"),
            *("prune_meta_pattern", "prune_meta_sep", "expanduser"),
        ),
    ),
    "EnsureChannelFirstd": _Transform(
        _nothing,
        {**_KEYS, "channel_dim": _only(None, "no_channel")},
        (*_COMMON, "strict_check", "meta_keys", "meta_key_postfix"),
    ),
    "AddChanneld": _Transform(_nothing, _KEYS, _COMMON),
    "EnsureTyped": _Transform(
        _nothing,
        {
            **_KEYS,
            "data_type": one_of("tensor", "numpy"),
            "dtype": _dtype,
            "track_meta": _only(None, True),
        },
        (*_COMMON, "device", "wrap_sequence"),
    ),
    "ToTensord": _Transform(
        _nothing,
        {**_KEYS, "dtype": _dtype, "track_meta": _only(None, True)},
        (*_COMMON, "device", "wrap_sequence"),
    ),
    "Orientationd": _Transform(
        _Preparation.orientation_is,
        {
            **_KEYS,
            "axcodes": maybe(fields.text),
            "as_closest_canonical": fields.flag,
            "labels": _only(None, _LETTERS),
        },
        _COMMON,
    ),
    "Spacingd": _Transform(
        _Preparation.spacing_is,
        {
            **_KEYS,
            "pixdim": _any,
            "mode": _only("bilinear"),
            "padding_mode": _only("border"),
            "diagonal": _only(False),
            "scale_extent": _only(False),
            "min_pixdim": _only(None),
            "max_pixdim": _only(None),
            "dtype": _dtype,
        },
        # Corners that are aligned or not give the same values, since MONAI goes through millimeters.
        (*_COMMON, "align_corners", "recompute_affine", "ensure_same_shape"),
    ),
    "ScaleIntensityRanged": _Transform(
        _Preparation.range_is,
        {
            **_KEYS,
            **dict.fromkeys(("a_min", "a_max"), fields.number),
            **dict.fromkeys(("b_min", "b_max"), maybe(fields.number)),
            "clip": fields.flag,
            "dtype": _dtype,
        },
        _COMMON,
    ),
    "ScaleIntensityd": _Transform(
        _Preparation.extremes_are,
        {
            **_KEYS,
            **dict.fromkeys(("minv", "maxv"), fields.number),
            "factor": _only(None),
            "channel_wise": fields.flag,
            "dtype": _dtype,
        },
        _COMMON,
    ),
    "NormalizeIntensityd": _Transform(
        _Preparation.normalized,
        {
            **_KEYS,
            "subtrahend": _any,
            "divisor": _any,
            "nonzero": _only(False),
            "channel_wise": fields.flag,
            "dtype": _dtype,
        },
        _COMMON,
    ),
}
"""The transforms before the network that are known; every other one is refused."""


def _preparation(config: _Config, channels: int) -> _Preparation:
    """Go through the transforms of the image in order."""
    preparation = _Preparation(channels)
    touched = False
    for name, given, where in _transforms(config, ("preprocessing", "transforms")):
        if name not in _IMAGE:
            raise FieldError(
                f"{where}._target_ is {name!r:.80}, which ThoraxSeg does not do; known are {', '.join(_IMAGE)}"
            )
        said = _for_key(config, given, where, "image")
        if said is not None:
            touched = True
            known = _IMAGE[name]
            known.does(preparation, _arguments(config, said, where, known.parsers, known.idle), where)
    if not touched:
        raise FieldError("preprocessing has no transform of the key 'image'")
    if preparation.orientation is None:
        preparation.notes.append(
            "The bundle does not turn images (no Orientationd): its network sees the axes as they lie in the file."
        )
    if any(step["name"] == "resample" for step in preparation.steps):
        preparation.notes.append(
            "MONAI resamples from the center of the first voxel on and does not smooth before it reduces."
        )
    return preparation


def _transforms(config: _Config, keys: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield name, arguments and place of each transform in the first of `keys` that is there."""
    key = next((key for key in keys if key in config.data), None)
    if key is None:
        raise FieldError(f"key {keys[0]!r} is missing")
    where, listed = key, config.followed(config.data[key], key)
    if isinstance(listed, Mapping):
        target, given = config.component(listed, where)
        if target not in ("Compose", "monai.transforms.Compose"):
            raise FieldError(f"{where}._target_ must be Compose, got {target!r:.80}")
        _arguments(
            config,
            given,
            where,
            {"map_items": _any, "unpack_items": _only(False), "overrides": _only(None)},
            ("transforms", "log_stats", "lazy"),
        )
        if _is_disabled(config, listed, where):
            raise FieldError(f"{where}._disabled_ must be false")
        where = f"{where}.transforms"
        listed = config.followed(given.get("transforms"), where)
    if isinstance(listed, str):
        config.plain(listed, where)  # an expression has a sentence of its own
    if not isinstance(listed, list):
        raise FieldError(f"{where} must be a list of transforms, got {listed!r:.80}")
    for index, item in enumerate(listed):
        place = f"{where}[{index}]"
        if not _is_disabled(config, item, place):
            target, given = config.component(item, place)
            yield target.removeprefix("monai.transforms."), given, place


def _for_key(config: _Config, given: Mapping[str, Any], where: str, wanted: str) -> dict[str, Any] | None:
    """Return the arguments of a transform for one of its keys; None if it does not touch that."""
    named = config.plain(given.get("keys"), f"{where}.keys")
    names = [fields.text(name, f"{where}.keys") for name in (named if isinstance(named, list) else [named])]
    if wanted not in names:
        return None
    each = (
        "mode",
        "padding_mode",
        "dtype",
        "argmax",
        "threshold",
        "to_onehot",
        "softmax",
        "sigmoid",
        "other",
    )
    index, said = names.index(wanted), dict(given)
    for key in each:  # may be given for each of the keys
        value = config.followed(given.get(key), f"{where}.{key}")
        if isinstance(value, list) and len(value) == len(names):
            said[key] = value[index]
    return said


# Windows and answer


def _windows(config: _Config) -> dict[str, Any]:
    """Return how the network walks over the image."""
    where = "inferer"
    if where not in config.data:
        raise FieldError("key 'inferer' is missing")
    target, given = config.component(config.data[where], where)
    target = target.removeprefix("monai.inferers.")
    if _is_disabled(config, config.data[where], where):
        raise FieldError(f"{where}._disabled_ must be false")
    if target == "SimpleInferer":
        _arguments(config, given, where, {})
        return {"patch_size": None, "overlap": 0.0, "blending": "constant"}
    if target != "SlidingWindowInferer":
        raise FieldError(
            f"{where}._target_ must be SlidingWindowInferer or SimpleInferer, got {target!r:.80}"
        )
    parsers = {
        "roi_size": _per_axis(below(MAX_PATCH)),
        "overlap": _overlap,
        "mode": lambda value, place: one_of("constant", "gaussian")(fields.text(value, place).lower(), place),
        "sigma_scale": _only(0.125),
        "padding_mode": _only("constant"),
        "cval": _any,
        "with_coord": _only(False),
    }
    idle = (
        *("sw_batch_size", "sw_device", "device", "progress", "cache_roi_weight_map", "cpu_thresh"),
        *("buffer_steps", "buffer_dim"),
    )
    said = _arguments(config, given, where, parsers, idle)
    if "roi_size" not in said:
        raise FieldError(f"key 'roi_size' is missing in {where}")
    if fields.number(said.get("cval", 0), f"{where}.cval") != 0:
        raise FieldError(f"{where}.cval must be 0, got {said['cval']!r:.80}")
    return {
        "patch_size": said["roi_size"],
        "overlap": said.get("overlap", 0.25),
        "blending": said.get("mode", "constant"),
    }


def _overlap(value: Any, where: str) -> float:
    several = {fields.number(one, where) for one in (value if isinstance(value, list) else [value])}
    if len(several) != 1 or not 0 <= min(several) < 1:
        raise FieldError(f"{where} must be one number from 0 to below 1, got {value!r:.80}")
    return several.pop()


def _answer(config: _Config, classes: int) -> dict[str, Any]:
    """Return how the network's output becomes labels."""
    activation, decided, threshold = None, None, None
    for name, given, where in _transforms(config, ("postprocessing",)):
        if name in (
            "Invertd",
            "SaveImaged",
            "EnsureTyped",
            "ToTensord",
        ):  # the way back and files are our own
            continue
        if name not in ("Activationsd", "AsDiscreted"):
            raise FieldError(
                f"{where}._target_ is {name!r:.80}, which ThoraxSeg does not do; known are Activationsd, AsDiscreted, "
                "Invertd, SaveImaged, EnsureTyped and ToTensord"
            )
        said = _for_key(config, given, where, "pred")
        if said is None:
            continue
        if decided is not None or (name == "Activationsd" and activation is not None):
            raise FieldError(f"{where} comes after the labels, or the probabilities, are decided already")
        if name == "Activationsd":
            activation = _activation_of(config, said, where)
        else:
            decided, threshold = _decision_of(config, said, where, classes)
    return _agreed(activation, decided, threshold, classes)


def _activation_of(config: _Config, given: Mapping[str, Any], where: str) -> str:
    parsers = {**_KEYS, "softmax": fields.flag, "sigmoid": fields.flag, "other": _only(None)}
    said = _arguments(config, given, where, parsers, _COMMON)
    chosen = [key for key in ("softmax", "sigmoid") if said.get(key, False)]
    if len(chosen) != 1:
        raise FieldError(f"{where} must have softmax or sigmoid true, got {chosen or 'neither'}")
    return chosen[0]


def _decision_of(
    config: _Config, given: Mapping[str, Any], where: str, classes: int
) -> tuple[str, float | None]:
    parsers = {
        **_KEYS,
        "argmax": fields.flag,
        "threshold": maybe(fields.number),
        "to_onehot": _only(None, classes),
        "rounding": _only(None),
    }
    said = _arguments(config, given, where, parsers, _COMMON)
    argmax, threshold = said.get("argmax", False), said.get("threshold")
    if argmax == (threshold is not None):
        raise FieldError(f"{where} must have argmax true or a threshold, and not both")
    return ("argmax", None) if argmax else ("threshold", threshold)


def _agreed(
    activation: str | None, decided: str | None, threshold: float | None, classes: int
) -> dict[str, Any]:
    """Refuse an activation and a decision that do not belong together."""
    where = "postprocessing"
    if decided is None:
        raise FieldError(f"{where} must have AsDiscreted with argmax or a threshold for the key 'pred'")
    if decided == "argmax" and (classes < 2 or activation == "sigmoid"):
        raise FieldError(f"{where} must have softmax and two outputs or more before argmax, or a threshold")
    if decided == "threshold" and activation != "sigmoid":
        raise FieldError(f"{where} must have Activationsd with sigmoid before a threshold, or argmax")
    if threshold is not None and not 0 < threshold < 1:
        raise FieldError(f"{where} must have a threshold between 0 and 1, got {threshold:g}")
    return {"activation": "softmax" if decided == "argmax" else "sigmoid", "threshold": threshold}


# Names


def _about(metadata: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return the words of the metadata about the bundle as a whole."""
    said = {
        key: _words(metadata.get(key, ""), key)
        for key in ("name", "version", "description", "license", "copyright", "citation")
    }
    references = list_of(_words)(metadata.get("references", []), "references")
    data = _object(
        _object(metadata.get("network_data_format"), "network_data_format").get("inputs"), "inputs"
    )
    modality = _words(_object(data.get("image"), "inputs.image").get("modality", ""), "inputs.image.modality")
    return {
        **said,
        "name": said["name"] or folder.name,
        "citation": said["citation"] or "\n".join(references),
        "modality": modality,
    }


def _names(metadata: Mapping[str, Any], side: str, key: str, count: int) -> tuple[str, ...]:
    """Return the names of the channels of the network's input or output, in order."""
    where = f"network_data_format.{side}.{key}"
    data = _object(metadata.get("network_data_format"), "network_data_format")
    data = _object(_object(data.get(side), f"network_data_format.{side}").get(key), where)
    said = data.get("num_channels", count)
    names = _object(data.get("channel_def"), f"{where}.channel_def")
    if said != count or sorted(names) != sorted(map(str, range(count))):
        raise FieldError(
            f"{where} must have num_channels {count} and a channel_def of 0 to {count - 1}, as the network in "
            f"inference.json has, got {said!r:.40} and {list(names)!r:.80}"
        )
    found = tuple(_words(names[str(n)], f"{where}.channel_def.{n}").strip() for n in range(count))
    if not all(found) or len(set(found)) < count:
        raise FieldError(
            f"{where}.channel_def must give each channel a name of its own, got {list(found)!r:.80}"
        )
    return found


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise FieldError(f"{where} must be an object, got {value!r:.80}")
    return value


def _words(value: Any, where: str) -> str:
    """Text for people; white space becomes single blanks, other control characters are refused."""
    words = " ".join(fields.text(value, where).split())
    if len(words) > MAX_TEXT or not words.isprintable():
        raise FieldError(f"{where} must be at most {MAX_TEXT} printable characters, got {words!r:.80}")
    return words
