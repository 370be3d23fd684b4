"""nnU-Net v2 models -> plans that can be run; names of classes and functions are compared, never imported.

A model folder is `trainer__plans__configuration` with `plans.json`, `dataset.json` and `fold_*`; it may lie some
folders below the one given, as in a result folder or an unpacked export. As in nnU-Net, the checkpoint says
which configuration it is, which trainer made it and along which axes it may be mirrored; its own copy of the
plans must prepare images in the same way as `plans.json`. A checkpoint that lies outside of a model folder is
read by its own copies of both files. Facts: nnunetv2 2.8.1 (Apache-2.0).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from thoraxseg.checkpoints import fields
from thoraxseg.checkpoints.fields import FieldError, list_of, maybe, not_finite, one_of, unique
from thoraxseg.checkpoints.nnunet_folder import (
    MAX_CONVS,
    MAX_FEATURES,
    MAX_JSON,
    MAX_KERNEL,
    MAX_LABEL,
    MAX_PATCH,
    MAX_STAGES,
    REMEDY,
    below,
    check_inverse,
    check_lone,
    check_strides,
    child_folders,
    choose_folds,
    choose_model,
    fold_folders,
    fold_key,
    fold_told,
    largest,
    model_of,
    naming,
    odd,
    permutation,
    read_json,
    search_models,
    statistics_of,
)
from thoraxseg.checkpoints.nnunet_plan import READERS, Channel, NnunetPlan, Origin, Resampling
from thoraxseg.checkpoints.weights import TorchHeader, read_checkpoint_header
from thoraxseg.errors import CheckpointError

FINAL, BEST = "checkpoint_final.pth", "checkpoint_best.pth"
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
    path: Path, configuration: str | None = None, folds: Sequence[str] | None = None, best: bool = False
) -> NnunetPlan:
    """Return the checked plan of the one model in the folder `path` that has this configuration.

    `folds` are names such as `0` or `all`, by default all that are there; `best` takes `checkpoint_best.pth`
    instead of the final one. `path` may also be one checkpoint file: in a model folder it means that model with
    this fold only, elsewhere its own copies of plans and dataset count. Raises CheckpointError naming the file
    and the key, or listing what there is.
    """
    path = Path(path)
    if path.is_file():
        return _read_file(path, configuration, folds, best)
    models = [path] if (path / "plans.json").is_file() else find_models(path)
    if not models:
        raise CheckpointError(
            f"{path}: expected an nnU-Net v2 model, but no folder in it holds plans.json and fold_0 or others. "
            "Give the model, its result folder, the unpacked export, or one checkpoint file."
        )
    if models == [path]:
        model = path
    else:
        model = choose_model(path, models, {m: m.name.split("__")[-1] for m in models}, configuration)
    chosen, notes = choose_folds(
        model, fold_folders(model), BEST if best else FINAL, FINAL if best else BEST, folds
    )
    plan = _read_model(model, chosen, configuration)
    return replace(plan, notes=(*notes, *plan.notes))


def _read_file(path: Path, configuration: str | None, folds: Sequence[str] | None, best: bool) -> NnunetPlan:
    """Return the plan of one checkpoint file, of its model folder where it lies in one."""
    if place := model_of(path, "plans.json"):
        model, fold = place
        plan = _read_model(model, {fold: path}, configuration)
    else:
        plan = _read_alone(path, configuration)
    notes = check_lone(path, *plan.folds, FINAL, BEST, folds, best)
    return replace(plan, notes=(*notes, *plan.notes))


def read_previous_stage(
    plan: NnunetPlan, folds: Sequence[str] | None = None, best: bool = False
) -> NnunetPlan:
    """Return the plan of the model whose labels a cascade's second stage needs; it lies beside that one.

    Raises CheckpointError when `plan` is no second stage, or its first stage is not there or does not fit.
    """
    if plan.previous_stage is None:
        raise CheckpointError(f"{plan.name}: configuration {plan.configuration} has no previous stage.")
    checkpoint = next(iter(plan.folds.values()))
    place = model_of(checkpoint, "plans.json")
    if place is None:
        raise CheckpointError(
            f"{checkpoint}: is the second stage of a cascade, and a file by itself has no first stage beside it. "
            f"Give its result folder, with the model of {plan.previous_stage} in it."
        )
    model = place[0]
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
            f"{same[0]}: has other labels or channels than {model.name}, so it cannot be its first stage. {REMEDY}"
        )
    return first


def _read_model(model: Path, chosen: Mapping[str, Path], wanted: str | None) -> NnunetPlan:
    """Return the plan of a model folder with the checkpoints of some of its folds."""
    headers = {name: read_checkpoint_header(path) for name, path in chosen.items()}
    (first, header), *others = headers.items()
    for name, other in others:
        if (other.configuration, other.trainer, other.shapes) != (
            header.configuration,
            header.trainer,
            header.shapes,
        ):
            raise CheckpointError(
                f"{chosen[name]}: is of another model than {chosen[first]} (configuration {other.configuration!r:.40} "
                f"and {header.configuration!r:.40}, or another network). {REMEDY}"
            )
    configuration = _configuration_of(header, chosen[first], model, wanted)
    plans_path, dataset_path = model / "plans.json", model / "dataset.json"
    plans, dataset = read_json(plans_path), read_json(dataset_path)
    with naming(dataset_path, REMEDY):
        names, labels = _channel_names(dataset), _Labels(dataset)
    with naming(plans_path, REMEDY):
        plan = _plan_of(plans, configuration, names, labels)
        notes = _trainer_notes(header.trainer)
    notes += _compared(plan, header, names, labels, plans_path, chosen[first])
    plan = _with_checkpoint(plan, header, chosen[first], plans_path.name, dataset_path.name)
    cleanup, cleanup_notes = _cleanup(model, tuple(chosen), labels)
    return replace(plan, folds=dict(chosen), cleanup=cleanup, notes=(*notes, *cleanup_notes))


def _read_alone(path: Path, wanted: str | None) -> NnunetPlan:
    """Return the plan of a checkpoint by the copies of plans and dataset that it keeps."""
    header = read_checkpoint_header(path)
    configuration = _configuration_of(header, path, path, wanted)
    plans_name, dataset_name = "init_args.plans", "init_args.dataset_json"
    if header.plans is None or header.dataset is None:
        missing = plans_name if header.plans is None else dataset_name
        raise CheckpointError(
            f"{path}: lies outside of a model folder and keeps no copy of its own ({missing}). Give its whole model "
            "folder."
        )
    with naming(path, REMEDY):
        fold = fold_told(header.fold, "init_args.fold")
    with naming(f"{path}, {dataset_name}", REMEDY):
        dataset = _as_json(header.dataset)
        names, labels = _channel_names(dataset), _Labels(dataset)
    with naming(f"{path}, {plans_name}", REMEDY):
        plan = _plan_of(_as_json(header.plans), configuration, names, labels)
        notes = _trainer_notes(header.trainer)
    plan = _with_checkpoint(plan, header, path, plans_name, dataset_name)
    alone = (
        f"{path.name} was read without its model folder: plans and dataset are the copies kept in it, and nnU-Net's "
        "own post-processing is not known, so none is done"
    )
    return replace(plan, folds={fold: path}, notes=(*notes, alone))


def _configuration_of(header: TorchHeader, checkpoint: Path, given: Path, wanted: str | None) -> str:
    """Return the configuration that a checkpoint says it has, if that is the one wanted."""
    if header.configuration is None:
        raise CheckpointError(
            f"{checkpoint}: the checkpoint does not say its configuration (init_args.configuration), so it is "
            f"not of nnU-Net v2. {REMEDY}"
        )
    if wanted not in (None, header.configuration):
        raise CheckpointError(
            f"{given}: is of configuration {header.configuration!r:.40}, not {wanted!r:.40}."
        )
    return header.configuration


def _as_json(copied: Mapping[str, Any]) -> dict[str, Any]:
    """Return the copy of a JSON file that a checkpoint keeps, as strictly as if it had been read from the file."""
    try:
        text = json.dumps(copied, allow_nan=False)
        data = json.loads(text, object_pairs_hook=unique, parse_constant=not_finite)
    except (TypeError, ValueError, RecursionError) as error:
        raise FieldError(f"it is no plain JSON: {error}") from None
    if len(text) > MAX_JSON:
        raise FieldError(f"it is larger than {MAX_JSON >> 20} MiB")
    return data


def _with_checkpoint(
    plan: NnunetPlan, header: TorchHeader, checkpoint: Path, plans_name: str, dataset_name: str
) -> NnunetPlan:
    """Return the plan with what the checkpoint says, whose weights must have its shapes."""
    _check_shapes(plan, header.shapes, checkpoint, plans_name, dataset_name)
    dimensions = len(plan.patch_size)
    axes = header.mirror_axes or ()
    if any(axis >= dimensions for axis in axes):
        raise CheckpointError(f"{checkpoint}: mirrors axis {max(axes)} of a {dimensions}-D model. {REMEDY}")
    return replace(plan, trainer=header.trainer, mirror_axes=axes)


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
        reader=one_of(*READERS)(plans.get("image_reader_writer"), "image_reader_writer"),
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
                f"configuration {name!r:.80} of the checkpoint is not described; described are "
                f"{', '.join(map(str, configurations))!r:.200}: the plans are of another model"
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
            f"{checkpoint}: the plans it was trained with do not fit this model: {problem}. {REMEDY}"
        ) from None
    decisive = ("spacing_mm", "transpose_forward", "channels", "previous_stage", "architecture_arguments")
    if changed := [name for name in decisive if getattr(trained, name) != getattr(plan, name)]:
        raise CheckpointError(
            f"{path}: differs from the plans that {checkpoint.name} was trained with in {', '.join(changed)}: "
            f"the file is of another model or was edited. {REMEDY}"
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
    plan: NnunetPlan,
    shapes: Mapping[str, tuple[int, ...]],
    checkpoint: Path,
    plans_name: str,
    dataset_name: str,
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
            reason = f"takes {found[1]} input channels, {plans_name} and {dataset_name} say {shape[1]}"
        elif name == last and found is not None and len(found) == len(shape):
            reason = f"has {found[0]} outputs, the labels of {dataset_name} say {shape[0]}"
        elif found is not None and len(found) != len(shape):
            reason = f"is a {len(found) - 2}-D network, {plans_name} describes a {len(shape) - 2}-D one"
        else:
            reason = f"has {name} of shape {found}, {plans_name} says {shape}"
        raise CheckpointError(
            f"{checkpoint}: the network {reason}. Weights and plans are of different models. {REMEDY}"
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
    with naming(found[0], REMEDY):
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
