"""The plan of an nnU-Net model as part of a card: plain JSON out, a checked plan in.

A card may come from anywhere, so that the limits are those of nnU-Net's own files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from typing import Any

from thoraxseg.checkpoints import fields
from thoraxseg.checkpoints import nnunet_folder as limits
from thoraxseg.checkpoints.fields import FieldError, list_of, maybe, one_of
from thoraxseg.checkpoints.nnunet_plan import (
    ARCHITECTURES,
    NORMALIZATIONS,
    READERS,
    Channel,
    NnunetPlan,
    Origin,
    Resampling,
)

MAX_NOTES = 100


def to_json(plan: NnunetPlan) -> dict[str, Any]:
    """Return the plan as plain data, without the paths of its folds, which a card lists as weights."""
    return {key: _plain(value) for key, value in asdict(plan).items() if key != "folds"}


def parse(value: Any, where: str) -> NnunetPlan:
    """Return the plan in plain data, with no folds; raises FieldError naming the key."""
    dimensions = len(_sizes(value.get("patch_size") if isinstance(value, Mapping) else None, where))
    parsers = {
        "origin": lambda item, place: Origin(one_of(*(o.value for o in Origin))(item, place)),
        "name": _words,
        "configuration": _words,
        "trainer": _words,
        "channels": list_of(_channel),
        "labels": _labels,
        "regions_class_order": maybe(list_of(limits.below(limits.MAX_LABEL))),
        "ignore_label": maybe(limits.below(limits.MAX_LABEL + 1)),
        "reader": one_of(*READERS),
        "transpose_forward": limits.permutation,
        "transpose_backward": limits.permutation,
        "spacing_mm": list_of(fields.positive, dimensions),
        "patch_size": _sizes,
        "resample_data": _resampling,
        "resample_segmentation": _resampling,
        "resample_probabilities": _resampling,
        "architecture": one_of(*ARCHITECTURES),
        "architecture_arguments": _arguments,
        "previous_stage": maybe(_words),
        "mirror_axes": list_of(one_of(*range(dimensions))),
        "cleanup": list_of(_cleanup),
        "notes": list_of(_words),
    }
    plan = NnunetPlan(folds={}, **fields.members(value, where, parsers))
    _check(plan, where)
    return plan


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _words(value: Any, where: str) -> str:
    if len(fields.text(value, where)) > 1000:
        raise FieldError(f"{where} must be at most 1000 characters")
    return value


def _sizes(value: Any, where: str) -> tuple[int, ...]:
    sizes = list_of(limits.below(limits.MAX_PATCH))(value, f"{where}.patch_size")
    if len(sizes) not in (2, 3):
        raise FieldError(f"{where}.patch_size must be two or three sizes, got {value!r:.80}")
    return sizes


def _channel(value: Any, where: str) -> Channel:
    def statistics(item: Any, place: str) -> dict[str, float]:
        return {} if item == {} else limits.statistics_of({"0": item}, "0")

    parsers = {
        "normalization": one_of(*NORMALIZATIONS),
        "use_mask": fields.flag,
        "statistics": statistics,
        "name": _words,
    }
    return fields.record(Channel, value, where, parsers)


def _labels(value: Any, where: str) -> dict[str, tuple[int, ...]]:
    if not isinstance(value, Mapping) or not value:
        raise FieldError(f"{where} must map names to labels, got {value!r:.80}")
    parse_values = list_of(limits.below(limits.MAX_LABEL))
    labels = {_words(name, where): parse_values(item, f"{where}.{name}") for name, item in value.items()}
    if not all(labels.values()):
        raise FieldError(f"{where} must give each name at least one label")
    return labels


def _resampling(value: Any, where: str) -> Resampling:
    parsers = {
        "function": one_of("spline", "torch"),
        "order": one_of(*range(6)),
        "order_z": one_of(*range(6)),
        "force_separate_z": maybe(fields.flag),
    }
    return fields.record(Resampling, value, where, parsers)


def _arguments(value: Any, where: str) -> dict[str, Any]:
    """Return the arguments of the network; names are the builder's own affair, sizes are bounded here."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise FieldError(f"{where} must be an object, got {value!r:.80}")

    def bounded(item: Any, place: str, depth: int = 0) -> Any:
        if isinstance(item, Mapping) and depth < 2:
            return {str(key): bounded(one, f"{place}.{key}", depth + 1) for key, one in item.items()}
        if isinstance(item, (list, tuple)) and len(item) <= limits.MAX_STAGES and depth < 3:
            return tuple(bounded(one, f"{place}[{n}]", depth + 1) for n, one in enumerate(item))
        if isinstance(item, str) or item is None or isinstance(item, bool):
            return item
        if not 0 <= fields.number(item, place) <= limits.MAX_FEATURES:
            raise FieldError(f"{place} must be from 0 to {limits.MAX_FEATURES}, got {item!r:.80}")
        return item

    return {key: bounded(item, f"{where}.{key}") for key, item in value.items()}


def _cleanup(value: Any, where: str) -> dict[str, Any]:
    parsers = {
        "labels": list_of(limits.below(limits.MAX_LABEL)),
        "keep": one_of("largest"),
        "min_size_mm3": maybe(fields.number),
    }
    return fields.members(value, where, parsers)


def _check(plan: NnunetPlan, where: str) -> None:
    """Refuse a plan whose parts do not belong together."""
    limits.check_inverse(plan.transpose_forward, plan.transpose_backward)
    if len(set(plan.mirror_axes)) < len(plan.mirror_axes):  # each more doubles the work
        raise FieldError(f"{where}.mirror_axes must be different axes, got {plan.mirror_axes!r:.80}")
    values = {label for group in plan.labels.values() for label in group} - {plan.ignore_label}
    regions = plan.regions_class_order
    if regions is not None and len(regions) != len(plan.labels):
        raise FieldError(f"{where}.regions_class_order must give one label for each region")
    if regions is None and sorted(plan.labels.values()) != [(n + 1,) for n in range(len(plan.labels))]:
        raise FieldError(f"{where}.labels must be numbered without gaps or repeats, 1 to {len(plan.labels)}")
    arguments = plan.architecture_arguments
    _check_layout(arguments, plan.patch_size, f"{where}.architecture_arguments")
    inputs = len(plan.channels) + (len(values) if plan.previous_stage is not None else 0)
    outputs = len(values) + 1 if regions is None else len(regions)
    if (arguments.get("in_channels"), arguments.get("classes")) != (inputs, outputs):
        raise FieldError(
            f"{where}.architecture_arguments must have in_channels {inputs} and classes {outputs}, as channels and "
            f"labels say, got {arguments.get('in_channels')!r:.40} and {arguments.get('classes')!r:.40}"
        )
    if len(plan.cleanup) > limits.MAX_LABEL:
        raise FieldError(f"{where}.cleanup must have at most {limits.MAX_LABEL} entries")
    if len(plan.notes) > MAX_NOTES:
        raise FieldError(f"{where}.notes must be at most {MAX_NOTES}")
    for channel in plan.channels:
        if "ct" in channel.normalization and not channel.statistics:
            raise FieldError(f"{where}.channels: {channel.name!r:.40} needs its intensity statistics")


def _check_layout(arguments: Mapping[str, Any], patch: tuple[int, ...], where: str) -> None:
    """Refuse a network of other dimensions than the patch, or one that the patch cannot pass."""
    if arguments.get("dimensions", len(patch)) != len(patch):
        raise FieldError(f"{where}.dimensions must be {len(patch)}, as patch_size has them")
    strides = list_of(list_of(fields.size, len(patch)))(arguments.get("strides"), f"{where}.strides")
    if not strides:
        raise FieldError(f"{where}.strides must name at least one stage")
    limits.check_strides(strides, patch, f"{where}.strides")
