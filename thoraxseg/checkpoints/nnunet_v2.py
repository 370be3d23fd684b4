"""nnU-Net v2 model folders -> plans that can be run; names of classes and functions are compared, never imported.

A model folder is `trainer__plans__configuration` with `plans.json`, `dataset.json` and `fold_*`; it may lie some
folders below the one given, as in a result folder or an unpacked export. As in nnU-Net, the checkpoint says
which configuration it is, which trainer made it and along which axes it may be mirrored; its own copy of the
plans must prepare images in the same way as `plans.json`. Facts: nnunetv2 2.8.1 (Apache-2.0).
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from thoraxseg.checkpoints import fields
from thoraxseg.checkpoints.fields import FieldError, list_of, maybe, not_finite, one_of, unique
from thoraxseg.checkpoints.nnunet_plan import Channel, NnunetPlan, Origin, Resampling
from thoraxseg.checkpoints.restricted_pickle import TorchHeader, read_checkpoint_header
from thoraxseg.errors import CheckpointError

MAX_JSON = 16 << 20
MAX_FOLDERS = 10_000
MAX_DEPTH = 4
"""Folders between the one given and a model; `nnUNet/3d_fullres/Task/model` of v1 has the most."""
MAX_LABEL = 255
"""Label maps of ThoraxSeg have 8 bits."""
MAX_STAGES, MAX_FEATURES, MAX_CONVS, MAX_KERNEL, MAX_PATCH = 12, 2048, 32, 15, 8192

FINAL, BEST = "checkpoint_final.pth", "checkpoint_best.pth"
_REMEDY = "Get the model from its source again."
_FROM_PLANS = "dynamic_network_architectures.architectures."
_NETWORKS = {
    "PlainConvUNet": "plain_conv_unet",  # as plans of nnU-Net 2.0 to 2.2 say it
    "ResidualEncoderUNet": "residual_encoder_unet",
    f"{_FROM_PLANS}unet.PlainConvUNet": "plain_conv_unet",
    f"{_FROM_PLANS}unet.ResidualEncoderUNet": "residual_encoder_unet",
    f"{_FROM_PLANS}residual_unet.ResidualEncoderUNet": "residual_encoder_unet",
}
_BLOCKS = {"plain_conv_unet": "n_conv_per_stage", "residual_encoder_unet": "n_blocks_per_stage"}
_CONVS = {f"torch.nn.{path}Conv{n}d": n for path in ("", "modules.conv.") for n in (2, 3)}
_NORMS = {f"torch.nn.{path}InstanceNorm{n}d": n for path in ("", "modules.instancenorm.") for n in (2, 3)}
_ACTIVATIONS = ("torch.nn.LeakyReLU", "torch.nn.modules.activation.LeakyReLU")
_IMPORTED = ("conv_op", "norm_op", "dropout_op", "nonlin")
_BASIC_BLOCK = "dynamic_network_architectures.building_blocks.residual.BasicBlockD"
_NORMALIZATIONS = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale01",
    "RGBTo01Normalization": "rgb01",
}
STATISTICS = ("mean", "std", "percentile_00_5", "percentile_99_5")
_READERS = (
    *("SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"),
    *("Tiff3DIO", "NaturalImage2DIO"),
)
_CLEANUP = "remove_all_but_largest_component_from_segmentation"
_OWN_TRAINERS = re.compile(
    r"nnUNetTrainer(_\d+epochs?)?(_?NoMirroring)?"
    r"|nnUNetTrainer(VanillaAdam|Adam|Adan)(1en1|1en3|3en4|CosAnneal)?"
    r"|nnUNetTrainer(CosAnneal|DA5|DA5ord0|DA5Segord0|DA5_10epochs|NoDA|NoDeepSupervision|_warmup|_noDummy2DDA)"
    r"|nnUNetTrainer(CELoss|CELoss_5epochs|DiceLoss|DiceCELoss_noSmooth|DiceTopK10Loss|Topk10Loss|Topk10LossLS01)"
    r"|nnUNetTrainer_(DASegOrd0(_NoMirroring)?|onlyMirror01(_1500ep|_DA5|_DASegOrd0)?)"
    r"|nnUNetTrainer_probabilisticOversampling(_0\d\d)?|nnUNetTrainerBenchmark_5epochs(_noDataLoading)?"
    r"|nnUNet_Trainer_BS8",
    re.ASCII,
)
"""Trainers of nnU-Net that build the network of the plans; the name of a trainer is data, no class is looked up."""
_OTHER_NETWORK = re.compile(r"nnUNetTrainerBN|AbstractPrimus|_?(nnUNet_)?Primus.*")
"""Trainers of nnU-Net that build another network than the plans say."""


def is_nnunet_v2(folder: Path) -> bool:
    """Return whether a folder is an nnU-Net v2 model or has one below it."""
    return bool(find_models(folder))


def find_models(folder: Path) -> list[Path]:
    """Return the v2 model folders among a folder and those some levels below it, sorted; links are not followed."""
    return search_models(folder, lambda place: (place / "plans.json").is_file() and bool(fold_folders(place)))


def read_nnunet_v2(
    folder: Path, configuration: str | None = None, folds: Sequence[str] | None = None, best: bool = False
) -> NnunetPlan:
    """Return the checked plan of the one model in `folder` that has this configuration.

    `folds` are names such as `0` or `all`, by default all that are there; `best` takes `checkpoint_best.pth`
    instead of the final one. Raises CheckpointError naming the file and the key, or listing what there is.
    """
    folder = Path(folder)
    models = [folder] if (folder / "plans.json").is_file() else find_models(folder)
    if not models:
        raise CheckpointError(
            f"{folder}: expected an nnU-Net v2 model, but no folder in it holds plans.json and fold_0 or others. "
            "Give the model, its result folder, or the unpacked export."
        )
    if models == [folder]:
        model = folder
    else:
        model = choose_model(folder, models, {m: m.name.split("__")[-1] for m in models}, configuration)
    chosen, notes = choose_folds(
        model, fold_folders(model), BEST if best else FINAL, FINAL if best else BEST, folds
    )
    headers = {name: read_checkpoint_header(path) for name, path in chosen.items()}
    plan = _read_model(model, chosen, headers, configuration)
    return replace(plan, notes=(*notes, *plan.notes))


def read_previous_stage(
    plan: NnunetPlan, folds: Sequence[str] | None = None, best: bool = False
) -> NnunetPlan:
    """Return the plan of the model whose labels a cascade's second stage needs; it lies beside that one.

    Raises CheckpointError when `plan` is no second stage, or its first stage is not there or does not fit.
    """
    if plan.previous_stage is None:
        raise CheckpointError(f"{plan.name}: configuration {plan.configuration} has no previous stage.")
    model = next(iter(plan.folds.values())).parent.parent
    start = model.name.rsplit("__", 1)[0]
    named = [
        place for place in find_models(model.parent) if place.name.split("__")[-1] == plan.previous_stage
    ]
    same = [place for place in named if place.name == f"{start}__{plan.previous_stage}"] or named
    if len(same) != 1:
        raise CheckpointError(
            f"{model}: is the second stage of a cascade and needs one model of {plan.previous_stage} beside it, "
            f"found {len(same)}. Put {start}__{plan.previous_stage} into {model.parent}."
        )
    first = read_nnunet_v2(same[0], plan.previous_stage, folds, best)
    if (first.labels, len(first.channels)) != (plan.labels, len(plan.channels)) or first.previous_stage:
        raise CheckpointError(
            f"{same[0]}: has other labels or channels than {model.name}, so it cannot be its first stage. {_REMEDY}"
        )
    return first


def _read_model(
    model: Path, chosen: Mapping[str, Path], headers: Mapping[str, TorchHeader], wanted: str | None
) -> NnunetPlan:
    (first, header), *others = headers.items()
    for name, other in others:
        if (other.configuration, other.trainer, other.shapes) != (
            header.configuration,
            header.trainer,
            header.shapes,
        ):
            raise CheckpointError(
                f"{chosen[name]}: is of another model than {chosen[first]} (configuration {other.configuration!r:.40} "
                f"and {header.configuration!r:.40}, or another network). {_REMEDY}"
            )
    configuration = header.configuration
    if configuration is None:
        raise CheckpointError(
            f"{chosen[first]}: the checkpoint does not say its configuration (init_args.configuration), so it is "
            f"not of nnU-Net v2. {_REMEDY}"
        )
    if wanted not in (None, configuration):
        raise CheckpointError(f"{model}: is of configuration {configuration!r:.40}, not {wanted!r:.40}.")
    plans_path, dataset_path = model / "plans.json", model / "dataset.json"
    plans, dataset = read_json(plans_path), read_json(dataset_path)
    with naming(dataset_path, _REMEDY):
        names, labels = _channel_names(dataset), _Labels(dataset)
    with naming(plans_path, _REMEDY):
        plan = _plan_of(plans, configuration, names, labels)
        notes = _trainer_notes(header.trainer)
    notes += _compared(plan, header, names, labels, plans_path, chosen[first])
    _check_shapes(plan, header.shapes, chosen[first], plans_path)
    dimensions = len(plan.patch_size)
    axes = header.mirror_axes or ()
    if any(axis >= dimensions for axis in axes):
        raise CheckpointError(
            f"{chosen[first]}: mirrors axis {max(axes)} of a {dimensions}-D model. {_REMEDY}"
        )
    cleanup, cleanup_notes = _cleanup(model, tuple(chosen), labels)
    return replace(
        plan,
        trainer=header.trainer,
        folds=dict(chosen),
        mirror_axes=axes,
        cleanup=cleanup,
        notes=(*notes, *cleanup_notes),
    )


def _trainer_notes(trainer: str | None) -> list[str]:
    if trainer is None or not re.fullmatch(r"[A-Za-z_]\w{0,199}", trainer, re.ASCII):
        raise FieldError(f"the checkpoint's trainer_name must be the name of a class, got {trainer!r:.80}")
    if _OTHER_NETWORK.fullmatch(trainer):
        raise FieldError(
            f"the trainer {trainer} builds another network than the plans say, which is not supported"
        )
    if _OWN_TRAINERS.fullmatch(trainer):
        return []
    return [
        f"the trainer {trainer} is not one of nnU-Net's own: the network of plans.json is used, and its weights "
        "must fit it; what that trainer may change besides is not known"
    ]


def _channel_names(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    key = "modality" if "modality" in dataset else "channel_names"
    channels = dataset.get(key)
    if (
        not isinstance(channels, dict)
        or set(channels) != {str(n) for n in range(len(channels))}
        or not channels
    ):
        raise FieldError(f"{key} must name the channels '0', '1' and so on, got {channels!r:.80}")
    return tuple(fields.text(channels[str(n)], f"{key}.{n}") for n in range(len(channels)))


class _Labels:
    """The labels of `dataset.json`: plain classes, or regions that are predicted each by itself."""

    def __init__(self, dataset: Mapping[str, Any]) -> None:
        raw = dataset.get("labels")
        if not isinstance(raw, dict) or len(raw) < 2:
            raise FieldError(f"labels must map names to numbers, background and one more, got {raw!r:.80}")
        if "background" not in raw and raw.get("0") == "background":
            raise FieldError("labels map numbers to names as in nnU-Net v1; v2 maps names to numbers")
        values = {name: _label_values(value, f"labels.{name}") for name, value in raw.items()}
        if values.get("background") != (0,):
            raise FieldError(f"labels.background must be 0, got {raw.get('background')!r:.80}")
        ignore = values.pop("ignore", None)
        used = sorted({label for several in values.values() for label in several})
        if ignore is not None and ignore != (used[-1] + 1,):
            raise FieldError(
                f"labels.ignore must be {used[-1] + 1}, one above the others, got {raw['ignore']!r:.80}"
            )
        self.ignore = None if ignore is None else ignore[0]
        self.foreground = tuple(label for label in used if label)
        self.named = {name: several for name, several in values.items() if set(several) != {0}}
        self.order: tuple[int, ...] | None = None
        if any(len(several) > 1 for several in values.values()):
            order = dataset.get("regions_class_order")
            self.order = list_of(fields.size)(order, "regions_class_order")
            if len(self.order) != len(self.named) or max(self.order) > MAX_LABEL:
                raise FieldError(
                    f"regions_class_order must give one label up to {MAX_LABEL} for each of the {len(self.named)} "
                    f"regions {', '.join(self.named)}, got {order!r:.80}"
                )
        elif used != list(range(len(used))) or len(values) != len(used):
            raise FieldError(
                f"labels must be numbered without gaps or repeats, 0 to {len(values) - 1}, got {used!r:.80}; the "
                "outputs of the network cannot be told apart otherwise"
            )
        else:  # outputs are in the order of the numbers, whatever the order of the names
            self.named = dict(sorted(self.named.items(), key=lambda item: item[1]))
        self.outputs = len(self.named) if self.order is not None else len(used)


def _label_values(value: Any, where: str) -> tuple[int, ...]:
    if isinstance(value, str) and re.fullmatch(r"\d{1,3}", value, re.ASCII):
        value = int(value)
    labels = list_of(fields.count)(value if isinstance(value, list) else [value], where)
    if not labels or max(labels) > MAX_LABEL + 1:
        raise FieldError(
            f"{where} must be a label from 0 to {MAX_LABEL} or a list of them, got {value!r:.80}"
        )
    return tuple(sorted(set(labels)))


def _plan_of(
    plans: Mapping[str, Any], configuration: str, names: tuple[str, ...], labels: _Labels
) -> NnunetPlan:
    """Return the plan of one configuration, still without what the checkpoint says."""
    one_of("LabelManager")(plans.get("label_manager", "LabelManager"), "label_manager")
    config = _configuration(plans, configuration)
    where = f"configurations.{configuration}"
    one_of("DefaultPreprocessor")(config.get("preprocessor_name"), f"{where}.preprocessor_name")
    patch = list_of(fields.size)(config.get("patch_size"), f"{where}.patch_size")
    if len(patch) not in (2, 3) or max(patch) > MAX_PATCH:
        raise FieldError(
            f"{where}.patch_size must be two or three sizes up to {MAX_PATCH}, got {patch!r:.80}"
        )
    forward = permutation(plans.get("transpose_forward"), "transpose_forward")
    backward = permutation(plans.get("transpose_backward"), "transpose_backward")
    check_inverse(forward, backward)
    previous = maybe(fields.text)(config.get("previous_stage"), f"{where}.previous_stage")
    if previous is not None and previous not in plans["configurations"]:
        raise FieldError(f"{where}.previous_stage names {previous!r:.40}, which is not in configurations")
    inputs = len(names) + (len(labels.foreground) if previous is not None else 0)
    architecture, arguments = _architecture(config, where, len(patch))
    check_strides(arguments["strides"], patch, where)
    return NnunetPlan(
        origin=Origin.V2,
        name=fields.text(plans.get("dataset_name"), "dataset_name"),
        configuration=configuration,
        trainer="",
        channels=_channels(plans, config, where, names),
        labels=labels.named,
        regions_class_order=labels.order,
        ignore_label=labels.ignore,
        reader=one_of(*_READERS)(plans.get("image_reader_writer"), "image_reader_writer"),
        transpose_forward=forward,
        transpose_backward=backward,
        spacing_mm=list_of(fields.positive, len(patch))(config.get("spacing"), f"{where}.spacing"),
        patch_size=patch,
        resample_data=_resampling(config, where, "data", segmentation=False),
        resample_segmentation=_resampling(config, where, "seg", segmentation=True),
        resample_probabilities=_resampling(config, where, "probabilities", segmentation=False),
        architecture=architecture,
        architecture_arguments={"in_channels": inputs, "classes": labels.outputs, **arguments},
        previous_stage=previous,
        folds={},
        mirror_axes=(),
        cleanup=(),
    )


def _configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return one configuration together with all that it inherits."""
    configurations = plans.get("configurations")
    if not isinstance(configurations, Mapping):
        raise FieldError(f"configurations must be an object, got {configurations!r:.80}")
    line: list[str] = []
    while name is not None:
        if name in line:
            raise FieldError(
                f"configurations inherit from one another in a circle: {' -> '.join([*line, name])}"
            )
        if name not in configurations:
            raise FieldError(
                f"configuration {name!r:.80} of the checkpoint is not described; plans.json has "
                f"{', '.join(map(str, configurations))!r:.200} and is of another model"
            )
        if not isinstance(configurations[name], Mapping):
            raise FieldError(f"configurations.{name} must be an object")
        line.append(name)
        name = maybe(fields.text)(
            configurations[name].get("inherits_from"), f"configurations.{name}.inherits_from"
        )
    merged: dict[str, Any] = {}
    for ancestor in reversed(line):
        merged.update(configurations[ancestor])
    return merged


def _channels(
    plans: Mapping[str, Any], config: Mapping[str, Any], where: str, names: tuple[str, ...]
) -> tuple[Channel, ...]:
    schemes = list_of(one_of(*_NORMALIZATIONS))(
        config.get("normalization_schemes"), f"{where}.normalization_schemes"
    )
    masks = list_of(fields.flag)(config.get("use_mask_for_norm"), f"{where}.use_mask_for_norm")
    if not len(names) == len(schemes) == len(masks):
        raise FieldError(
            f"{where} normalizes {len(schemes)} channels ({len(masks)} masks), dataset.json has {len(names)}: "
            f"{', '.join(names)!r:.80}; the two files are of different models"
        )
    old = plans.get("foreground_intensity_properties_by_modality")
    properties = plans.get("foreground_intensity_properties_per_channel", old)
    return tuple(
        Channel(
            name, _NORMALIZATIONS[scheme], mask, statistics_of(properties, str(n)) if "CT" in scheme else {}
        )
        for n, (name, scheme, mask) in enumerate(zip(names, schemes, masks, strict=True))
    )


def statistics_of(properties: Any, key: Any, spread: str = "std") -> dict[str, float]:
    """Return the intensity statistics of one channel; `spread` is the key of the standard deviation."""
    found = properties.get(key) if isinstance(properties, Mapping) else None
    if not isinstance(found, Mapping):
        raise FieldError(
            f"the intensity properties of channel {key} are missing, which CT normalization needs"
        )
    where = f"intensity properties of channel {key}"
    keys = {name: spread if name == "std" else name for name in STATISTICS}
    values = {name: fields.number(found.get(key), f"{where}: {key}") for name, key in keys.items()}
    if values["std"] < 0 or values["percentile_00_5"] > values["percentile_99_5"]:
        raise FieldError(f"{where}: the standard deviation is negative or the percentiles are swapped")
    return values


def _resampling(config: Mapping[str, Any], where: str, what: str, segmentation: bool) -> Resampling:
    key = f"resampling_fn_{what}"
    functions = {"resample_data_or_seg_to_shape": "spline", "resample_torch_fornnunet": "torch"}
    function = functions[one_of(*functions)(config.get(key), f"{where}.{key}")]
    kwargs = config.get(f"{key}_kwargs")
    where = f"{where}.{key}_kwargs"
    # What nnU-Net's functions do where the plans are silent; the two differ in force_separate_z.
    known: dict[str, tuple[fields.Parser, Any]] = {
        "is_seg": (_only(segmentation), False),
        "force_separate_z": (maybe(fields.flag), False if function == "spline" else None),
        "separate_z_anisotropy_threshold": (_three, 3),
    }
    if function == "spline":
        known |= {"order": (_order, 3), "order_z": (_order, 0)}
    else:
        known |= {
            "memefficient_seg_resampling": (fields.flag, False),
            "num_threads": (fields.size, 4),
            "mode": (one_of("linear"), "linear"),
            "aniso_axis_mode": (one_of("nearest-exact"), "nearest-exact"),
        }
    given = _object(kwargs or {}, where)
    if set(given) - set(known):
        raise FieldError(f"{where} has other keys than {', '.join(known)}: {sorted(given)!r:.200}")
    values = {
        name: parse(given.get(name, left_out), f"{where}.{name}") for name, (parse, left_out) in known.items()
    }
    return Resampling(function, values.get("order", 1), values.get("order_z", 0), values["force_separate_z"])


def _only(wanted: bool) -> fields.Parser:
    """True or false, whichever nnU-Net itself writes here."""

    def parse(value: Any, where: str) -> bool:
        if fields.flag(value, where) is not wanted:
            raise FieldError(f"{where} must be {str(wanted).lower()}, got {value!r}")
        return value

    return parse


def _three(value: Any, where: str) -> float:
    if fields.number(value, where) != 3:
        raise FieldError(f"{where} must be 3, nnU-Net's own threshold, got {value!r:.80}")
    return 3.0


def _order(value: Any, where: str) -> int:
    return one_of(*range(6))(value, where)


def _architecture(config: Mapping[str, Any], where: str, dimensions: int) -> tuple[str, dict[str, Any]]:
    """Return the name of our network and its arguments, without channels and classes."""
    if "architecture" not in config:
        return _old_architecture(config, where, dimensions)
    where = f"{where}.architecture"
    given = fields.members(
        config["architecture"],
        where,
        {
            "network_class_name": one_of(*(name for name in _NETWORKS if "." in name)),
            "arch_kwargs": _object,
            "_kw_requires_import": list_of(one_of(*_IMPORTED)),
        },
    )
    architecture = _NETWORKS[given["network_class_name"]]
    where = f"{where}.arch_kwargs"
    kwargs = dict(given["arch_kwargs"])
    one_of(*(name for name, n in _CONVS.items() if n == dimensions))(
        kwargs.pop("conv_op", None), f"{where}.conv_op"
    )
    one_of(*(name for name, n in _NORMS.items() if n == dimensions))(
        kwargs.pop("norm_op", None), f"{where}.norm_op"
    )
    one_of(*_ACTIVATIONS)(kwargs.pop("nonlin", None), f"{where}.nonlin")
    if (dropout := kwargs.pop("dropout_op", None)) is not None:
        raise FieldError(f"{where}.dropout_op must be null, got {dropout!r:.80}; dropout is not supported")
    arguments = _numbers(architecture, kwargs, where, dimensions)
    kwargs.pop("dropout_op_kwargs", None)
    kwargs.pop("deep_supervision", None)
    arguments |= _layers(kwargs, where)
    _only(False)(kwargs.pop("nonlin_first", False), f"{where}.nonlin_first")
    if architecture == "residual_encoder_unet":
        maybe(one_of(_BASIC_BLOCK))(kwargs.pop("block", None), f"{where}.block")
        stem = maybe(below(MAX_FEATURES))(kwargs.pop("stem_channels", None), f"{where}.stem_channels")
        arguments |= {} if stem is None else {"stem_channels": stem}
        if (bottleneck := kwargs.pop("bottleneck_channels", None)) is not None:
            raise FieldError(f"{where}.bottleneck_channels must be null, got {bottleneck!r:.80}")
    if kwargs:
        raise FieldError(f"{where} has keys that are not supported: {', '.join(map(repr, kwargs))!s:.200}")
    return architecture, arguments


def _old_architecture(config: Mapping[str, Any], where: str, dimensions: int) -> tuple[str, dict[str, Any]]:
    """Return the network of plans before nnU-Net 2.3, which gave its numbers only."""
    name = one_of(*(name for name in _NETWORKS if "." not in name))(
        config.get("UNet_class_name"), f"{where}.UNet_class_name"
    )
    architecture = _NETWORKS[name]
    counts = list_of(below(MAX_CONVS))(
        config.get("n_conv_per_stage_encoder"), f"{where}.n_conv_per_stage_encoder"
    )
    base = below(MAX_FEATURES)(config.get("UNet_base_num_features"), f"{where}.UNet_base_num_features")
    most = below(MAX_FEATURES)(config.get("unet_max_num_features"), f"{where}.unet_max_num_features")
    kwargs = {
        "n_stages": len(counts),
        "features_per_stage": [min(base << stage, most) for stage in range(len(counts))],
        "kernel_sizes": config.get("conv_kernel_sizes"),
        "strides": config.get("pool_op_kernel_sizes"),
        _BLOCKS[architecture]: list(counts),
        "n_conv_per_stage_decoder": config.get("n_conv_per_stage_decoder"),
        "conv_bias": True,
    }
    return architecture, _numbers(architecture, kwargs, where, dimensions)


def _numbers(architecture: str, kwargs: dict[str, Any], where: str, dimensions: int) -> dict[str, Any]:
    """Take the sizes of a network out of its keyword arguments, one for each stage."""
    stages = fields.size(kwargs.pop("n_stages", None), f"{where}.n_stages")
    if not 2 <= stages <= MAX_STAGES:
        raise FieldError(f"{where}.n_stages must be from 2 to {MAX_STAGES}, got {stages}")
    blocks = _BLOCKS[architecture]

    def take(key: str, parse: fields.Parser, length: int) -> tuple:
        value = kwargs.pop(key, None)
        return list_of(parse, length)([value] * length if type(value) is int else value, f"{where}.{key}")

    def axes(parse: fields.Parser) -> fields.Parser:
        return lambda value, place: list_of(parse, dimensions)(
            [value] * dimensions if type(value) is int else value, place
        )

    return {
        "dimensions": dimensions,
        "n_stages": stages,
        "features_per_stage": take("features_per_stage", below(MAX_FEATURES), stages),
        "kernel_sizes": take("kernel_sizes", axes(odd), stages),
        "strides": take("strides", axes(below(MAX_KERNEL)), stages),
        blocks: take(blocks, below(MAX_CONVS), stages),
        "n_conv_per_stage_decoder": take("n_conv_per_stage_decoder", below(MAX_CONVS), stages - 1),
        "conv_bias": fields.flag(kwargs.pop("conv_bias", False), f"{where}.conv_bias"),
    }


def _layers(kwargs: dict[str, Any], where: str) -> dict[str, Any]:
    """Take the arguments of normalization and activation; only what differs from nnU-Net's own is returned."""
    norm = _object(kwargs.pop("norm_op_kwargs", None) or {}, f"{where}.norm_op_kwargs")
    nonlin = _object(kwargs.pop("nonlin_kwargs", None) or {}, f"{where}.nonlin_kwargs")
    if unknown := [*(set(norm) - {"eps", "affine"}), *(set(nonlin) - {"inplace", "negative_slope"})]:
        raise FieldError(
            f"{where}: norm_op_kwargs or nonlin_kwargs have unknown keys {sorted(unknown)!r:.120}"
        )
    eps = fields.positive(norm.get("eps", 1e-5), f"{where}.norm_op_kwargs.eps")
    affine = fields.flag(norm.get("affine", False), f"{where}.norm_op_kwargs.affine")
    slope = fields.number(nonlin.get("negative_slope", 0.01), f"{where}.nonlin_kwargs.negative_slope")
    arguments: dict[str, Any] = {}
    if (eps, affine) != (1e-5, True):
        arguments["norm_op_kwargs"] = {"eps": eps, "affine": affine}
    if slope != 0.01:
        arguments["nonlin_kwargs"] = {"negative_slope": slope}
    return arguments


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise FieldError(f"{where} must be an object, got {value!r:.80}")
    return dict(value)


def below(most: int) -> fields.Parser:
    """A whole number from 1 to `most`."""

    def parse(value: Any, where: str) -> int:
        if fields.size(value, where) > most:
            raise FieldError(f"{where} must be at most {most}, got {value}")
        return value

    return parse


def odd(value: Any, where: str) -> int:
    """An odd whole number that can be the size of a kernel."""
    if below(MAX_KERNEL)(value, where) % 2 == 0:
        raise FieldError(f"{where} must be odd, got {value}")
    return value


def check_strides(strides: Sequence[Sequence[int]], patch: Sequence[int], where: str) -> None:
    """Refuse a network whose output is smaller than its input, or that a patch cannot pass."""
    if any(step != 1 for step in strides[0]):
        raise FieldError(
            f"{where}: the first of the strides must be 1 along every axis, got {list(strides[0])}"
        )
    for size, steps in zip(patch, zip(*strides, strict=True), strict=True):
        if size % math.prod(steps):
            raise FieldError(
                f"{where}: patch_size {list(patch)} cannot be divided by the strides of the network"
            )


def permutation(value: Any, where: str) -> tuple[int, int, int]:
    """The order of three axes."""
    axes = list_of(fields.count, 3)(value, where)
    if sorted(axes) != [0, 1, 2]:
        raise FieldError(f"{where} must be an order of the axes 0, 1, 2, got {value!r:.80}")
    return axes


def check_inverse(forward: Sequence[int], backward: Sequence[int]) -> None:
    """Refuse two axis orders of which one does not undo the other."""
    if [forward[axis] for axis in backward] != [0, 1, 2]:
        raise FieldError(
            f"transpose_backward {list(backward)} does not undo transpose_forward {list(forward)}"
        )


def _compared(
    plan: NnunetPlan,
    header: TorchHeader,
    names: tuple[str, ...],
    labels: _Labels,
    path: Path,
    checkpoint: Path,
) -> list[str]:
    """Refuse plans that prepare images in another way than those the weights were trained with."""
    if header.plans is None:
        return [f"{checkpoint.name} keeps no copy of its plans, so plans.json could not be compared with it"]
    try:
        trained = _plan_of(header.plans, plan.configuration, names, labels)
    except FieldError as problem:
        raise CheckpointError(
            f"{checkpoint}: the plans it was trained with do not fit this model: {problem}. {_REMEDY}"
        ) from None
    decisive = ("spacing_mm", "transpose_forward", "channels", "previous_stage", "architecture_arguments")
    if changed := [name for name in decisive if getattr(trained, name) != getattr(plan, name)]:
        raise CheckpointError(
            f"{path}: differs from the plans that {checkpoint.name} was trained with in {', '.join(changed)}: "
            f"the file is of another model or was edited. {_REMEDY}"
        )
    others = (
        "patch_size",
        "reader",
        "resample_data",
        "resample_segmentation",
        "resample_probabilities",
        "name",
    )
    return [
        f"plans.json says {getattr(plan, name)} for {name}, the checkpoint was trained with {getattr(trained, name)}; "
        "plans.json is used, as in nnU-Net"
        for name in others
        if getattr(trained, name) != getattr(plan, name)
    ]


def _check_shapes(
    plan: NnunetPlan, shapes: Mapping[str, tuple[int, ...]], checkpoint: Path, plans: Path
) -> None:
    """Refuse weights whose outer shapes are not those of the plan, before anything as large is built."""
    arguments = plan.architecture_arguments
    kernels, features = arguments["kernel_sizes"], arguments["features_per_stage"]
    wanted = {}
    if plan.architecture == "plain_conv_unet":
        first, pattern = "encoder.stages.0.0.convs.0.conv.weight", "encoder.stages.{}.0.convs.0.conv.weight"
        inputs = (arguments["in_channels"], *features)
    else:
        first, pattern = "encoder.stem.convs.0.conv.weight", "encoder.stages.{}.blocks.0.conv1.conv.weight"
        inputs = (arguments.get("stem_channels", features[0]), *features)
        wanted[first] = (inputs[0], arguments["in_channels"], *kernels[0])
    for stage in range(arguments["n_stages"]):
        wanted[pattern.format(stage)] = (features[stage], inputs[stage], *kernels[stage])
    last = f"decoder.seg_layers.{arguments['n_stages'] - 2}.weight"
    wanted[last] = (arguments["classes"], features[0], *(1,) * arguments["dimensions"])
    for name, shape in wanted.items():
        found = shapes.get(name)
        if found == shape:
            continue
        if name == first and found is not None and len(found) == len(shape):
            reason = f"takes {found[1]} input channels, {plans.name} and dataset.json say {shape[1]}"
        elif name == last and found is not None and len(found) == len(shape):
            reason = f"has {found[0]} outputs, the labels of dataset.json say {shape[0]}"
        elif found is not None and len(found) != len(shape):
            reason = f"is a {len(found) - 2}-D network, {plans.name} describes a {len(shape) - 2}-D one"
        else:
            reason = f"has {name} of shape {found}, {plans.name} says {shape}"
        raise CheckpointError(
            f"{checkpoint}: the network {reason}. The files are of different models. {_REMEDY}"
        )


def _cleanup(
    model: Path, folds: tuple[str, ...], labels: _Labels
) -> tuple[tuple[Mapping[str, Any], ...], list[str]]:
    """Return nnU-Net's own post-processing for these folds, found in its cross-validation, and notes."""
    results = [place for place in child_folders(model) if place.name.startswith("crossval_results_folds_")]
    exact = model / f"crossval_results_folds_{'_'.join(sorted(folds, key=fold_key))}"
    candidates = [exact] if exact in results else [*results, model]
    found = [
        place / "postprocessing.json" for place in candidates if (place / "postprocessing.json").is_file()
    ]
    if len(found) > 1:
        return (), ["several postprocessing.json are there, none of these folds; none is used"]
    if not found:
        pickled = any((place / "postprocessing.pkl").is_file() for place in candidates)
        return (), ["postprocessing.pkl holds code and was not read"] if pickled else []
    data = read_json(found[0], strict=False)
    with naming(found[0], _REMEDY):
        functions = list_of(one_of(_CLEANUP))(data.get("postprocessing_fns"), "postprocessing_fns")
        kwargs = list_of(_object, len(functions))(data.get("postprocessing_kwargs"), "postprocessing_kwargs")
        steps = tuple(_step(one, f"postprocessing_kwargs[{n}]", labels) for n, one in enumerate(kwargs))
    exactly = found[0].parent == exact or not steps
    return steps, [] if exactly else [
        f"post-processing is that of {found[0].parent.name}, not of these folds"
    ]


def _step(kwargs: dict[str, Any], where: str, labels: _Labels) -> Mapping[str, Any]:
    if set(kwargs) - {"labels_or_regions", "background_label"}:
        raise FieldError(
            f"{where} must have labels_or_regions and background_label only, got {sorted(kwargs)!r:.120}"
        )
    one_of(0)(kwargs.get("background_label", 0), f"{where}.background_label")
    listed = kwargs.get("labels_or_regions")
    several = listed if isinstance(listed, list) else [listed]
    flat = [label for one in several for label in (one if isinstance(one, list) else [one])]
    return largest(list_of(fields.size)(flat, f"{where}.labels_or_regions"), labels.foreground, where, None)


def largest(
    wanted: Sequence[int], known: Sequence[int], where: str, minimum: float | None
) -> Mapping[str, Any]:
    """Return the step that keeps the largest component of some labels taken together."""
    if not wanted or set(wanted) - set(known):
        raise FieldError(
            f"{where} must give labels of the model ({', '.join(map(str, known))}), got {wanted!r:.80}"
        )
    return {"labels": tuple(sorted(set(wanted))), "keep": "largest", "min_size_mm3": minimum}


def fold_folders(model: Path) -> dict[str, Path]:
    """Return the folders of the folds of a model, v2 or v1, by name (`0`, `all`), in order."""
    folders = {}
    for place in child_folders(model):
        if match := re.fullmatch(r"fold_(\d{1,4})|(?:fold_)?(all)", place.name, re.ASCII):
            folders[str(int(match[1])) if match[1] else "all"] = place
    return dict(sorted(folders.items(), key=lambda item: fold_key(item[0])))


def child_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted; links are not followed, and none that cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def search_models(folder: Path, is_model: Callable[[Path], bool]) -> list[Path]:
    """Return the model folders among `folder` and the folders below it, sorted."""
    found, level, seen = [], [Path(folder)], 0
    for _ in range(MAX_DEPTH + 1):
        below = []
        for place in level:
            seen += 1
            if seen > MAX_FOLDERS:
                raise CheckpointError(
                    f"{folder}: holds more than {MAX_FOLDERS} folders; give the folder of one model."
                )
            if is_model(place):
                found.append(place)
            else:
                below += child_folders(place)
        level = below
    return sorted(found)


def choose_model(
    folder: Path, models: Sequence[Path], configurations: Mapping[Path, str], wanted: str | None
) -> Path:
    """Return the one model that is meant; raises CheckpointError listing the models when it is not clear."""
    chosen = [model for model in models if wanted in (None, configurations[model])]
    listed = ", ".join(f"{configurations[model]} ({model.relative_to(folder)})" for model in models[:20])
    if not chosen:
        raise CheckpointError(f"{folder}: has no model of configuration {wanted!r}; there are: {listed}.")
    if len(chosen) > 1:
        raise CheckpointError(
            f"{folder}: holds {len(chosen)} models that could be meant: {listed}. Give one by its configuration "
            "or by its own folder."
        )
    return chosen[0]


def choose_folds(
    model: Path, names: Mapping[str, Path], file_name: str, other_name: str, folds: Sequence[str] | None
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the checkpoint of every fold wanted, and notes on folds left out.

    `names` are the fold folders that exist. Without a wish these are all that hold the file; `all` is taken
    when there is no other. Raises CheckpointError saying which folds are there and which are not.
    """
    there = {name: place / file_name for name, place in names.items() if (place / file_name).is_file()}
    listed = ", ".join(there) or "none"
    others = [name for name, place in names.items() if name not in there and (place / other_name).is_file()]
    hint = f" Folds {', '.join(others)} have {other_name} only: ask for that one." if others else ""
    if folds is not None:
        wanted = [str(fold).strip().removeprefix("fold_") for fold in folds]
        wanted = [str(int(fold)) if re.fullmatch(r"\d{1,4}", fold, re.ASCII) else fold for fold in wanted]
        if not wanted or len(set(wanted)) < len(wanted):
            raise CheckpointError(f"{model}: expected different folds, got {list(folds)!r:.80}.")
        if missing := [fold for fold in wanted if fold not in there]:
            raise CheckpointError(
                f"{model}: {file_name} of fold {', '.join(missing)!r:.80} is missing; folds with this file: "
                f"{listed}.{hint}"
            )
        return {fold: there[fold] for fold in wanted}, ()
    chosen = {name: path for name, path in there.items() if name != "all"} or there
    if not chosen:
        raise CheckpointError(
            f"{model}: no fold has {file_name}; fold folders: {', '.join(names) or 'none'}.{hint} Give the whole "
            "model folder, with its folds."
        )
    notes = [f"fold {name} has no {file_name} and was left out" for name in names if name not in there]
    return chosen, tuple(notes)


def fold_key(name: str) -> tuple[bool, int, str]:
    """Sort folds by number, `all` last."""
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)


def read_json(path: Path, strict: bool = True) -> dict[str, Any]:
    """Return the object in a JSON file whose keys are all different.

    NaN and infinities are refused; without `strict` they are read as None, for files that hold scores besides.
    Raises CheckpointError naming the file.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: the file is missing; expected a whole nnU-Net model folder. Copy it there again."
        )
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_JSON + 1)
        if len(raw) > MAX_JSON:
            raise FieldError(f"it is larger than {MAX_JSON >> 20} MiB")
        constant = not_finite if strict else (lambda text: None)
        data = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=unique, parse_constant=constant)
        if not isinstance(data, dict):
            raise FieldError(f"it holds a {type(data).__name__} instead of an object")
    except OSError as error:
        raise CheckpointError(f"{path}: the file cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, got: {error}. Fetch the file again.") from error
    except FieldError as problem:
        raise CheckpointError(f"{path}: {problem}. Get the file from its source again.") from None
    return data


@contextmanager
def naming(path: Path, remedy: str) -> Iterator[None]:
    """Turn what a parser finds wrong into a CheckpointError that names the file and what to do."""
    try:
        yield
    except FieldError as problem:
        raise CheckpointError(f"{path}: {problem}. {remedy}") from None
