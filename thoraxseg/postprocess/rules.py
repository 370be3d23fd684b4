"""A card's clean-up plan run over a label map: regions as masks, rules in order, masks written back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from thoraxseg.checkpoints.card import Cleanup
from thoraxseg.errors import CheckpointError
from thoraxseg.postprocess.components import drop_border_components, drop_small_components
from thoraxseg.postprocess.morphology import close_ball, close_slices, open_ball
from thoraxseg.postprocess.slice_filter import keep_between_flat_ends
from thoraxseg.postprocess.slice_sanity import drop_isolated_slices
from thoraxseg.progress import Progress, each, silent
from thoraxseg.volume import voxel_volume_mm3

logger = logging.getLogger(__name__)


@dataclass
class Work:
    """Masks by region name, the image they were found in, and what to tell the user."""

    masks: dict[str, np.ndarray]
    image: np.ndarray
    ijk_to_ras: np.ndarray
    warnings: list[str] = field(default_factory=list)


Rule = Callable[[Work, Mapping[str, Any]], None]


def clean_up(
    labels: np.ndarray, image: np.ndarray, ijk_to_ras: np.ndarray, plan: Cleanup, progress: Progress = silent
) -> tuple[np.ndarray, list[str]]:
    """Return the cleaned labels `(K, J, I)` and warnings.

    `image` is what the network saw, on the same grid. Regions are written back in the plan's order, so
    that a later region wins. A plan without rules returns the labels as they are. Raises
    CheckpointError for a rule or region the plan names and nobody knows.
    """
    if not plan.rules:
        return labels, []
    masks = {region.name: np.isin(labels, region.labels) for region in plan.regions}
    work = Work(masks, image, ijk_to_ras)
    for rule in each(plan.rules, progress, "Cleaning up"):
        if rule.name not in RULES:
            raise CheckpointError(f"unknown clean-up rule {rule.name!r}; known are {', '.join(RULES)}.")
        named = [rule.parameters[key] for key in ("region", "inside") if key in rule.parameters]
        if any(name not in masks for name in named):
            raise CheckpointError(f"clean-up rule {rule.name!r} names {named}, regions are {sorted(masks)}.")
        before = {name: int(mask.sum()) for name, mask in work.masks.items()}
        RULES[rule.name](work, rule.parameters)
        after = {name: int(mask.sum()) for name, mask in work.masks.items()}
        logger.info("%s: voxels %s -> %s", rule.name, before, after)
    cleaned = np.zeros_like(labels)
    for region in plan.regions:
        cleaned[work.masks[region.name]] = region.write
    if labels.any() and not cleaned.any():
        work.warnings.append(
            f"Clean-up removed all {int((labels > 0).sum())} voxels that the network had marked: look at the "
            "result without it (--postprocess none)."
        )
    return cleaned, work.warnings


def _trim_flat_end_slices(work: Work, parameters: Mapping[str, Any]) -> None:
    keep = keep_between_flat_ends(work.image, parameters["sigma_px"], parameters["min_mean"])
    if not keep.any():
        work.warnings.append(
            "The slice filter (Laplacian of Gaussian) found no slice with an edge and trimmed the whole stack: "
            "the image is too dark or too smooth for this checkpoint."
        )
    for mask in work.masks.values():
        mask[~keep] = False


def _on_region(function: Callable[..., np.ndarray]) -> Rule:
    """Make a rule of a function mask -> mask; the rule's other parameters are the function's keywords."""

    def rule(work: Work, parameters: Mapping[str, Any]) -> None:
        keywords = {key: value for key, value in parameters.items() if key != "region"}
        work.masks[parameters["region"]] = function(work.masks[parameters["region"]], **keywords)

    return rule


def _drop_small_components_mm3(work: Work, parameters: Mapping[str, Any]) -> None:
    voxels = int(np.ceil(parameters["min_volume_mm3"] / voxel_volume_mm3(work.ijk_to_ras)))
    region = parameters["region"]
    work.masks[region] = drop_small_components(work.masks[region], voxels, parameters["connectivity"])


def _keep_inside_closed(work: Work, parameters: Mapping[str, Any]) -> None:
    """Keep of a region what lies inside another region after its holes up to a radius are closed."""
    host = close_ball(work.masks[parameters["inside"]], parameters["radius_voxels"])
    work.masks[parameters["region"]] = work.masks[parameters["region"]] & host


RULES: dict[str, Rule] = {
    "trim_flat_end_slices": _trim_flat_end_slices,
    "drop_isolated_slices": _on_region(drop_isolated_slices),
    "drop_small_blobs_in_slices": _on_region(partial(drop_small_components, in_slices=True, connectivity=26)),
    "drop_small_components": _drop_small_components_mm3,
    "drop_border_components": _on_region(drop_border_components),
    "close_slices": _on_region(close_slices),
    "keep_inside_closed": _keep_inside_closed,
    "open_ball": _on_region(open_ball),
}
"""What a card's clean-up may name."""
