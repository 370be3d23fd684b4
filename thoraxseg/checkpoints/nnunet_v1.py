"""nnU-Net v1 models -> plans that can be run; pickles are read without looking anything up that they name.

A model folder is `trainer__plans` with `plans.pkl`, `fold_k` (or `all`) and `postprocessing.json`. As in nnU-Net
the plans in `model_final_checkpoint.model.pkl` count, which also says trainer and stage; those of `plans.pkl`
must agree. A `.model` file that lies outside of a model folder is read by its pickle alone. Weights keep their
names here: `plain_conv_unet` maps them. Facts: nnunet 1.7.1 (Apache-2.0).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thoraxseg.checkpoints import fields
from thoraxseg.checkpoints.fields import FieldError, list_of, maybe, one_of
from thoraxseg.checkpoints.nnunet_folder import (
    MAX_CONVS,
    MAX_FEATURES,
    MAX_LABEL,
    MAX_PATCH,
    MAX_STAGES,
    REMEDY,
    below,
    check_inverse,
    check_lone,
    check_strides,
    choose_folds,
    choose_model,
    fold_folders,
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
from thoraxseg.checkpoints.nnunet_plan import Channel, NnunetPlan, Origin, Resampling
from thoraxseg.checkpoints.restricted_pickle import load_plain
from thoraxseg.errors import CheckpointError

FINAL, BEST = "model_final_checkpoint.model", "model_best.model"
CONFIGURATIONS = ("2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres")
MAX_FEATURES_3D, MAX_FEATURES_2D = 320, 480
"""nnU-Net v1 stops doubling the features of its stages here."""
MAX_LITERAL = 10_000
_NORMALIZATIONS = {"CT": "ct", "CT2": "ct2", "nonCT": "zscore", "noNorm": "none"}
_PREPROCESSORS = {  # dimensions: order of the data, their order along a coarse axis; the same of segmentations
    2: {"PreprocessorFor2D": ((3, 0), (1, 0))},  # the only one that leaves the distance of slices as it is
    3: {
        "GenericPreprocessor": ((3, 0), (1, 0)),
        "GenericPreprocessor_linearResampling": ((1, 0), (1, 0)),
        "Preprocessor3DDifferentResampling": ((3, 3), (1, 1)),
    },
}
_CASCADE = "nnUNetTrainerV2CascadeFullRes"
_OWN_TRAINERS = re.compile(
    r"nnUNetTrainerV2(_DDP|_DP|_fp16|_fp32|_\d+epochs|_noMirroring|_noDataAugmentation|_noDeepSupervision)?"
    r"|nnUNetTrainerV2_(DA[235]|insaneDA|independentScalePerAxis|Force[BS]D|warmup|cycleAtEnd2?|copy[1-4])"
    r"|nnUNetTrainerV2_(Loss_\w+|SegLoss_Focal|Adam\w*|SGD_\w+|Ranger_\w+|momentum\w+|fullEvals)"
    r"|nnUNetTrainerV2_(softDeepSupervision|reduceMomentumDuringTraining|graduallyTransitionFromCEToDice)"
    r"|nnUNetTrainerV2_lReLU_biasInSegOutput|nnUNetTrainerV2CascadeFullRes(_\w+)?",
    re.ASCII,
)
"""Trainers of nnU-Net that build the plain network; the name of a trainer is data, no class is looked up."""
_OTHER_NETWORK = re.compile(
    r"nnUNetTrainer|nnUNetTrainer(CascadeFullRes|CE|NoDA)|nnUNetTrainerV2BraTSRegions.*|nnUNetTrainerV2_MMS"
    r"|nnUNetTrainerV2_(.*BN|GN|FRN|GeLU|Mish|ReLU.*|LReLU_slope_2en1|lReLU_conv.*|NoNormalization.*|ResencUNet.*)"
    r"|nnUNetTrainerV2_(3ConvPerStage.*|allConv3x3|resample33)",
    re.ASCII,
)
"""Trainers of nnU-Net with another network, other outputs or other resampling than the plans say."""
_NO_MIRRORING = re.compile(r"nnUNetTrainerV2_(noMirroring|noDataAugmentation)")


def is_nnunet_v1(folder: Path) -> bool:
    """Return whether a folder is an nnU-Net v1 model or has one below it."""
    return bool(find_models(folder))


def find_models(folder: Path) -> list[Path]:
    """Return the v1 model folders among a folder and those some levels below it, sorted; links are not followed."""
    return search_models(folder, lambda place: (place / "plans.pkl").is_file() and bool(fold_folders(place)))


def read_nnunet_v1(
    path: Path, configuration: str | None = None, folds: Sequence[str] | None = None, best: bool = False
) -> NnunetPlan:
    """Return the checked plan of the one model in the folder `path` that has this configuration.

    `folds` are names such as `0` or `all`, by default all that are there; `best` takes `model_best.model` instead
    of the final one. `path` may also be one `.model` file with its `.pkl` beside: in a model folder it means that
    model with this fold only, elsewhere the plans in the `.pkl` count. Raises CheckpointError naming the file and
    the key, or listing what there is.
    """
    path = Path(path)
    if path.is_file():
        return _read_file(path, configuration, folds, best)
    models = [path] if (path / "plans.pkl").is_file() else find_models(path)
    if not models:
        raise CheckpointError(
            f"{path}: expected an nnU-Net v1 model, but no folder in it holds plans.pkl and fold_0 or others. "
            "Give the model, its result folder, the unpacked zip, or one .model file with its .pkl beside."
        )
    model = path
    if models != [path]:
        model = choose_model(path, models, {m: _configuration_of(m) for m in models}, configuration)
    file_name, other_name = (BEST, FINAL) if best else (FINAL, BEST)
    chosen, notes = choose_folds(model, fold_folders(model), file_name, other_name, folds)
    plan = _read_model(model, chosen)
    _check_configuration(plan, model, configuration)
    return replace(plan, notes=(*notes, *plan.notes))


def _read_file(path: Path, configuration: str | None, folds: Sequence[str] | None, best: bool) -> NnunetPlan:
    """Return the plan of one checkpoint file, of its model folder where it lies in one."""
    if place := model_of(path, "plans.pkl"):
        model, fold = place
        plan = _read_model(model, {fold: path})
    else:
        plan = _read_alone(path)
    _check_configuration(plan, path, configuration)
    notes = check_lone(path, *plan.folds, FINAL, BEST, folds, best)
    return replace(plan, notes=(*notes, *plan.notes))


def _check_configuration(plan: NnunetPlan, given: Path, wanted: str | None) -> None:
    if wanted not in (None, plan.configuration):
        raise CheckpointError(f"{given}: is of configuration {plan.configuration}, not {wanted!r:.40}.")


def read_previous_stage(
    plan: NnunetPlan, folds: Sequence[str] | None = None, best: bool = False
) -> NnunetPlan:
    """Return the plan of the model whose labels a cascade's second stage needs: `3d_lowres` of the same task.

    It lies in the result folder as nnU-Net writes it: `3d_lowres/Task/trainer__plans`. Raises CheckpointError when
    `plan` is no second stage, or its first stage is not there or does not fit.
    """
    if plan.previous_stage is None:
        raise CheckpointError(f"{plan.name}: configuration {plan.configuration} has no previous stage.")
    checkpoint = next(iter(plan.folds.values()))
    place = model_of(checkpoint, "plans.pkl")
    if place is None:
        raise CheckpointError(
            f"{checkpoint}: is the second stage of a cascade, and a file by itself has no first stage beside it. "
            f"Give its result folder, with the model of {plan.previous_stage} in it."
        )
    model = place[0]
    task, plans = model.parent, model.name.split("__")[-1]
    place = task.parent.parent / plan.previous_stage / task.name
    named = [found for found in find_models(place) if found.name.split("__")[-1] == plans]
    if len(named) != 1:
        raise CheckpointError(
            f"{model}: is the second stage of a cascade and needs one model {plans!r:.80} of {plan.previous_stage}, "
            f"found {len(named)}. Put it into {place}."
        )
    first = read_nnunet_v1(named[0], plan.previous_stage, folds, best)
    if (first.labels, len(first.channels)) != (plan.labels, len(plan.channels)):
        raise CheckpointError(
            f"{named[0]}: has other labels or channels than {model.name}, so it cannot be its first stage. {REMEDY}"
        )
    return first


def _configuration_of(model: Path) -> str:
    """Return the configuration of a model among several: that of its first checkpoint, else of its path."""
    for place in fold_folders(model).values():
        for name in (FINAL, BEST):
            if (place / f"{name}.pkl").is_file():
                told = _read_information(place / f"{name}.pkl")
                with naming(place / f"{name}.pkl", REMEDY):
                    return _stage_of(told.plans, told.trainer, told.stage)[0]
    return next((part for part in reversed(model.parts) if part in CONFIGURATIONS), "unknown")


class _Information(NamedTuple):
    """What the pickle beside a checkpoint says; `arguments` are those of the trainer."""

    trainer: str
    arguments: Sequence[Any]
    stage: int | None
    plans: Mapping[str, Any]


def _read_information(path: Path) -> _Information:
    """Return what the pickle beside a checkpoint says."""
    data = load_plain(path)
    with naming(path, REMEDY):
        if not isinstance(data, dict):
            raise FieldError(f"it must hold a dict, got a {type(data).__name__}")
        trainer = fields.matching(r"[A-Za-z_]\w{0,199}", "the name of a class")(data.get("name"), "name")
        arguments, plans = data.get("init"), data.get("plans")
        if "_DDP" in trainer and isinstance(arguments, (list, tuple)):
            arguments = [*arguments[:2], *arguments[3:]]  # the third is the rank of the process
        if not isinstance(arguments, (list, tuple)) or len(arguments) < 6:
            raise FieldError(f"init must be the six or more arguments of a trainer, got {arguments!r:.80}")
        if not isinstance(plans, dict):
            raise FieldError("plans must be a dict")
        return _Information(trainer, arguments, maybe(_whole)(arguments[5], "init[5] (the stage)"), plans)


def _read_model(model: Path, chosen: Mapping[str, Path]) -> NnunetPlan:
    """Return the plan of a model folder with the checkpoints of some of its folds."""
    plans_path = model / "plans.pkl"
    beside = load_plain(plans_path)
    plans_by_path: dict[Path, NnunetPlan] = {}
    pickles = [_pickle_of(checkpoint) for checkpoint in chosen.values()]
    there = [path for path in pickles if path.is_file()]
    if not there:
        raise _without_pickle(pickles[0])
    for path in there:
        told = _read_information(path)
        with naming(path, REMEDY):
            plans_by_path[path] = _plan_of(told.plans, told.trainer, told.stage)
            notes = _trainer_notes(told.trainer)
    with naming(plans_path, REMEDY):
        plans_by_path[plans_path] = _plan_of(beside, told.trainer, told.stage)
    (first, plan), *others = plans_by_path.items()
    for path, other in others:
        if other != plan:
            different = [
                name for name in plan.__dataclass_fields__ if getattr(plan, name) != getattr(other, name)
            ]
            raise CheckpointError(
                f"{path}: differs from {first} in {', '.join(different)}: the files are of different models. {REMEDY}"
            )
    place = model.absolute()
    names, name_notes = _label_names(model, plan)
    cleanup = _cleanup(model / "postprocessing.json", sorted(value for (value,) in plan.labels.values()))
    return replace(
        plan,
        name=place.parent.name if re.match(r"Task\d", place.parent.name) else place.name,
        labels=names,
        folds=dict(chosen),
        cleanup=cleanup or (),
        notes=(
            *notes,
            *name_notes,
            *(["postprocessing.json is not there; none is done"] if cleanup is None else []),
        ),
    )


def _read_alone(path: Path) -> NnunetPlan:
    """Return the plan of a checkpoint outside of a model folder, by the pickle beside it."""
    beside = _pickle_of(path)
    if not beside.is_file():
        raise _without_pickle(beside)
    told = _read_information(beside)
    with naming(beside, REMEDY):
        plan = _plan_of(told.plans, told.trainer, told.stage)
        notes = _trainer_notes(told.trainer)
        fold = fold_told(told.arguments[1], "init[1] (the fold)")
    # The folders it was trained in are of another machine; the name of its task stands in them.
    places = "\n".join(place for place in told.arguments if isinstance(place, str))
    task = re.search(r"(?<![\w.-])Task\d{3}_[\w.-]{1,80}(?![\w.-])", places, re.ASCII)
    alone = (
        f"{path.name} was read without its model folder: its plans are those in {beside.name}, compared with no "
        "plans.pkl, and nnU-Net's own post-processing is not known, so none is done; labels have numbers only"
    )
    return replace(plan, name=task[0] if task else path.name, folds={fold: path}, notes=(*notes, alone))


def _pickle_of(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.pkl")


def _without_pickle(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: is missing; nnU-Net v1 keeps plans, trainer and stage there. Copy it beside the checkpoint."
    )


def _trainer_notes(trainer: str) -> list[str]:
    if _OTHER_NETWORK.fullmatch(trainer):
        raise FieldError(
            f"the trainer {trainer} uses another network, outputs or resampling, which is not supported"
        )
    if _OWN_TRAINERS.fullmatch(trainer):
        return []
    return [
        f"the trainer {trainer} is not one of nnU-Net's own: its plain network is used, and the weights must fit "
        "it; what that trainer may change besides is not known"
    ]


def _stage_of(plans: Mapping[str, Any], trainer: str, stage: int | None) -> tuple[str, Mapping[str, Any]]:
    """Return the configuration and the plans of the stage that was trained."""
    stages = plans.get("plans_per_stage")
    if isinstance(stages, list):
        stages = dict(enumerate(stages))
    if not isinstance(stages, dict) or sorted(stages, key=str) not in ([0], [0, 1]):
        raise FieldError("plans_per_stage must have the stages 0, or 0 and 1")
    if stage is None and len(stages) == 1:
        stage = 0
    if stage not in stages or not isinstance(stages[stage], dict):
        raise FieldError(
            f"plans_per_stage has the stages {sorted(stages)}, the checkpoint is of stage {stage}"
        )
    chosen = stages[stage]
    patch = _patch(chosen)
    cascade = trainer.startswith(_CASCADE)
    if cascade and (len(stages) == 1 or stage != 1 or len(patch) != 3):
        raise FieldError(f"the trainer {trainer} is of a cascade's second stage, but the plans have none")
    if len(patch) == 2:
        return "2d", chosen
    if cascade:
        return "3d_cascade_fullres", chosen
    return ("3d_fullres" if stage == max(stages) else "3d_lowres"), chosen


def _patch(stage: Mapping[str, Any]) -> tuple[int, ...]:
    patch = list_of(_whole)(_listed(stage.get("patch_size")), "patch_size")
    if len(patch) not in (2, 3) or not all(1 <= size <= MAX_PATCH for size in patch):
        raise FieldError(f"patch_size must be two or three sizes from 1 to {MAX_PATCH}, got {patch!r:.80}")
    return patch


def _plan_of(plans: Any, trainer: str, stage_number: int | None) -> NnunetPlan:
    """Return the plan of one stage, without what lies in other files."""
    if not isinstance(plans, dict):
        raise FieldError(f"it must hold the dict of plans, got a {type(plans).__name__}")
    configuration, stage = _stage_of(plans, trainer, stage_number)
    patch = _patch(stage)
    dimensions = len(patch)
    count = below(1000)(plans.get("num_modalities"), "num_modalities")
    labels = sorted(list_of(_whole)(_listed(plans.get("all_classes")), "all_classes"))
    classes = below(MAX_LABEL)(plans.get("num_classes"), "num_classes")
    if labels != list(range(1, classes + 1)):
        raise FieldError(
            f"all_classes must be numbered without gaps, 1 to {classes} (num_classes), got {labels!r:.80}; the outputs "
            "of the network cannot be told apart otherwise"
        )
    identity = (0, 1, 2)
    forward = plans.get("transpose_forward")
    backward = plans.get("transpose_backward")
    if forward is None or backward is None:  # as nnU-Net reads plans of its first releases
        forward = backward = identity
    forward = permutation(_listed(forward), "transpose_forward")
    backward = permutation(_listed(backward), "transpose_backward")
    check_inverse(forward, backward)
    preprocessors = _PREPROCESSORS[dimensions]
    usual = next(iter(preprocessors))  # as nnU-Net has it where the plans are silent
    preprocessor = one_of(*preprocessors)(
        plans.get("preprocessor_name", usual), f"preprocessor_name of a {dimensions}-D model"
    )
    data, segmentation = preprocessors[preprocessor]
    spacing = list_of(fields.positive, 3)(_listed(stage.get("current_spacing")), "current_spacing")
    second = configuration == "3d_cascade_fullres"
    return NnunetPlan(
        origin=Origin.V1,
        name="",
        configuration=configuration,
        trainer=trainer,
        channels=_channels(plans, count),
        labels={f"label {label}": (label,) for label in labels},
        regions_class_order=None,
        ignore_label=None,
        reader="SimpleITKIO",
        transpose_forward=forward,
        transpose_backward=backward,
        spacing_mm=spacing[-dimensions:],
        patch_size=patch,
        resample_data=Resampling("spline", *data, None),
        resample_segmentation=Resampling("spline", *segmentation, None),
        resample_probabilities=_export(plans.get("segmentation_export_params")),
        architecture="plain_conv_unet",
        architecture_arguments={
            "in_channels": count + (classes if second else 0),
            "classes": classes + 1,
            **_network(plans, stage, patch),
        },
        previous_stage="3d_lowres" if second else None,
        folds={},
        mirror_axes=() if _NO_MIRRORING.fullmatch(trainer) else tuple(range(dimensions)),
        cleanup=(),
    )


def _network(plans: Mapping[str, Any], stage: Mapping[str, Any], patch: tuple[int, ...]) -> dict[str, Any]:
    """Return the arguments of the plain network: v1's `Generic_UNet` as its V2 trainers build it."""
    dimensions = len(patch)
    axes = list_of(below(15), dimensions)
    if "pool_op_kernel_sizes" in stage:
        pools = list_of(axes)(_listed(stage["pool_op_kernel_sizes"]), "pool_op_kernel_sizes")
    else:  # as nnU-Net repairs plans of its first releases: pool early where an axis has fewer poolings
        numbers = list_of(fields.count, dimensions)(
            _listed(stage.get("num_pool_per_axis")), "num_pool_per_axis"
        )
        most = min(max(numbers), MAX_STAGES)
        pools = tuple(tuple(2 if most - number <= step else 1 for number in numbers) for step in range(most))
    stages = len(pools) + 1
    if not 2 <= stages <= MAX_STAGES:
        raise FieldError(f"pool_op_kernel_sizes must have 1 to {MAX_STAGES - 1} entries, got {len(pools)}")
    everywhere = [[3] * dimensions] * stages
    kernels = list_of(list_of(odd, dimensions), stages)(
        _listed(stage.get("conv_kernel_sizes", everywhere)), "conv_kernel_sizes"
    )
    if any(size not in (1, 3) for kernel in kernels for size in kernel):
        raise FieldError("conv_kernel_sizes must be 1 or 3: nnU-Net v1 pads other kernels in its own way")
    base = below(MAX_FEATURES)(plans.get("base_num_features"), "base_num_features")
    most = MAX_FEATURES_3D if dimensions == 3 else MAX_FEATURES_2D
    convs = below(MAX_CONVS)(plans.get("conv_per_stage", 2), "conv_per_stage")
    if convs < 2:
        raise FieldError("conv_per_stage must be 2 or more")
    strides = ((1,) * dimensions, *pools)
    check_strides(strides, patch, "pool_op_kernel_sizes")
    arguments: dict[str, Any] = {
        "dimensions": dimensions,
        "n_stages": stages,
        "features_per_stage": (base, *(min(base << number, most) for number in range(1, stages))),
        "kernel_sizes": kernels,
        "strides": strides,
        "n_conv_per_stage": (convs,) * stages,
        "n_conv_per_stage_decoder": (convs,) * (stages - 1),
        "conv_bias": True,
    }
    decoder = kernels[:0:-1]  # the kernel of the level below; v2 takes that of the skip
    if decoder != kernels[-2::-1]:
        arguments["decoder_kernel_sizes"] = decoder
    return arguments


def _channels(plans: Mapping[str, Any], count: int) -> tuple[Channel, ...]:
    def each(key: str) -> list[Any]:
        values = plans.get(key)
        if not isinstance(values, dict) or sorted(values, key=str) != sorted(range(count), key=str):
            raise FieldError(
                f"{key} must have one entry for each of the {count} channels, got {values!r:.80}"
            )
        return [values[number] for number in range(count)]

    properties = plans.get("dataset_properties")
    properties = properties.get("intensityproperties") if isinstance(properties, dict) else None
    channels = []
    names, schemes, masks = each("modalities"), each("normalization_schemes"), each("use_mask_for_norm")
    for number, (name, scheme, mask) in enumerate(zip(names, schemes, masks, strict=True)):
        scheme = one_of(*_NORMALIZATIONS)(scheme, f"normalization_schemes[{number}]")
        statistics = statistics_of(properties, number, spread="sd") if scheme in ("CT", "CT2") else {}
        channels.append(
            Channel(
                fields.text(name, f"modalities[{number}]"),
                _NORMALIZATIONS[scheme],
                fields.flag(mask, f"use_mask_for_norm[{number}]"),
                statistics,
            )
        )
    return tuple(channels)


def _export(given: Any) -> Resampling:
    """Return how probabilities are resampled; plans say so only where they differ from nnU-Net's own way."""
    if given is None:
        return Resampling("spline", 1, 0, None)
    orders = one_of(*range(6))
    values = fields.members(
        given,
        "segmentation_export_params",
        {
            "force_separate_z": maybe(fields.flag),
            "interpolation_order": orders,
            "interpolation_order_z": orders,
        },
    )
    return Resampling(
        "spline", values["interpolation_order"], values["interpolation_order_z"], values["force_separate_z"]
    )


def _label_names(model: Path, plan: NnunetPlan) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Return the labels under the names of a `dataset.json` of v1 in the model folder, if there is one."""
    path = model / "dataset.json"
    if not path.is_file():
        return dict(plan.labels), [
            "nnU-Net v1 keeps no names of labels; put its dataset.json into the model folder"
        ]
    data = read_json(path, strict=False)
    with naming(path, REMEDY):
        raw = data.get("labels")
        numbers = [0, *(value for (value,) in plan.labels.values())]
        if not isinstance(raw, dict) or set(raw) != {str(number) for number in numbers}:
            raise FieldError(f"labels must name the labels {numbers!r:.80} of the plans, got {raw!r:.80}")
        names = {fields.text(raw[str(number)], f"labels.{number}"): (number,) for number in numbers if number}
        if len(names) < len(numbers) - 1:
            raise FieldError("labels gives two labels the same name")
    return names, []


def _cleanup(path: Path, labels: Sequence[int]) -> tuple[Mapping[str, Any], ...] | None:
    """Return nnU-Net's own post-processing; None where its file is not there."""
    if not path.is_file():
        return None
    data = read_json(path, strict=False)
    with naming(path, REMEDY):
        classes = data.get("for_which_classes")
        entries = list(labels) if classes is None else classes
        minima = _minima(data.get("min_valid_object_sizes"))
        steps = []
        for number, entry in enumerate(list_of(lambda value, where: value)(entries, "for_which_classes")):
            where = f"for_which_classes[{number}]"
            wanted = list_of(fields.size)(entry if isinstance(entry, list) else [entry], where)
            minimum = None
            if minima is not None:
                key = wanted if isinstance(entry, list) else wanted[0]
                if key not in minima:
                    raise FieldError(f"min_valid_object_sizes has no size for {key!r:.80}")
                minimum = minima[key]
            steps.append(largest(wanted, labels, where, minimum))
    return tuple(steps)


def _minima(text: Any) -> dict[Any, float] | None:
    """Return the sizes in mm³ that stand in `postprocessing.json` as the text of a Python dict."""
    where = "min_valid_object_sizes"
    if text is None:
        return None
    if not isinstance(text, str) or len(text) > MAX_LITERAL:
        raise FieldError(f"{where} must be a text of at most {MAX_LITERAL} characters, got {text!r:.80}")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise FieldError(f"{where} must be the text of a dict of numbers, got {text!r:.80}") from None
    if value is None:
        return None
    if not isinstance(value, dict):
        raise FieldError(f"{where} must be the text of a dict of numbers, got {text!r:.80}")
    sizes = {}
    for key, size in value.items():
        list_of(fields.size)(key if isinstance(key, tuple) else (key,), f"a key of {where}")
        if fields.number(size, f"{where}[{key}]") < 0:
            raise FieldError(f"{where}[{key}] must not be negative, got {size}")
        sizes[key] = float(size)
    return sizes


def _listed(value: Any) -> Any:
    """Return arrays, and lists that hold some, as plain lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value


def _whole(value: Any, where: str) -> int:
    """A whole number, also written as 3.0, as numpy writes it at times."""
    return fields.count(int(value) if isinstance(value, float) and value.is_integer() else value, where)
