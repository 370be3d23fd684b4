"""A card's clean-up plan run over a label map: regions as masks, rules in order, masks written back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from thoraxseg.checkpoints import fields
from thoraxseg.checkpoints.card import Cleanup, Step, step_parameters
from thoraxseg.errors import CheckpointError
from thoraxseg.postprocess.components import drop_border_components, drop_small_components, keep_largest
from thoraxseg.postprocess.morphology import close_ball, close_slices, fill_holes, open_ball
from thoraxseg.postprocess.slice_filter import keep_between_flat_ends
from thoraxseg.postprocess.slice_sanity import drop_isolated_slices
from thoraxseg.progress import Progress, each, silent
from thoraxseg.volume import ROUNDING, voxel_volume_mm3

logger = logging.getLogger(__name__)


@dataclass
class Work:
    """Masks by region name, the image they were found in, and what to tell the user."""

    masks: dict[str, np.ndarray]
    image: np.ndarray
    ijk_to_ras: np.ndarray
    warnings: list[str] = field(default_factory=list)


Rule = Callable[..., None]
"""Takes the work and its own parameters by keyword; changes the masks."""


def clean_up(
    labels: np.ndarray, image: np.ndarray, ijk_to_ras: np.ndarray, plan: Cleanup, progress: Progress = silent
) -> tuple[np.ndarray, list[str]]:
    """Return the cleaned labels `(K, J, I)` and warnings.

    `image` is what the network saw, on the same grid. Regions are written back in the plan's order, so
    that a later region wins. A plan without rules returns the labels as they are. Raises
    CheckpointError as `check_plan` does.
    """
    if not plan.rules:
        return labels, []
    rules = check_plan(plan)
    masks = {region.name: np.isin(labels, region.labels) for region in plan.regions}
    work = Work(masks, image, ijk_to_ras)
    before = _sizes(work)
    for rule, step in zip(rules, each(plan.rules, progress, "Cleaning up"), strict=True):
        rule(work)
        after = _sizes(work)
        logger.info("%s: voxels %s -> %s", step.name, before, after)
        before = after
    cleaned = np.zeros_like(labels)
    for region in plan.regions:
        cleaned[work.masks[region.name]] = region.write
    if labels.any() and not cleaned.any():
        work.warnings.append(
            f"Clean-up removed all {int((labels > 0).sum())} voxels that the network had marked: look at the "
            "result without it (--postprocess none)."
        )
    return cleaned, work.warnings


def check_plan(plan: Cleanup) -> list[Callable[[Work], None]]:
    """Return the rules of a plan, ready to run.

    Raises CheckpointError for a rule, region or parameter that the plan names and nobody knows, so that
    a wrong card can be refused before long work starts.
    """
    return [_bound(step, plan) for step in plan.rules]


def _bound(step: Step, plan: Cleanup) -> Callable[[Work], None]:
    if step.name not in RULES:
        raise CheckpointError(f"unknown clean-up rule {step.name!r}; known are {', '.join(RULES)}.")
    rule, parsers = RULES[step.name]
    region = fields.one_of(*(region.name for region in plan.regions))
    return partial(
        rule, **step_parameters(step, {k: region if p is _REGION else p for k, p in parsers.items()})
    )


def _sizes(work: Work) -> dict[str, int]:
    return {name: int(np.count_nonzero(mask)) for name, mask in work.masks.items()}


def _trim_flat_end_slices(work: Work, sigma_px: float, min_mean: float) -> None:
    if work.image.min() < -ROUNDING or work.image.max() > 1 + 1e-6:
        raise CheckpointError(
            f"clean-up rule 'trim_flat_end_slices' expects an image in 0 to 1, got {work.image.min():g} to "
            f"{work.image.max():g}: the card must scale it before."
        )
    keep = keep_between_flat_ends(work.image, sigma_px, min_mean)
    if not keep.any():
        work.warnings.append(
            "The slice filter (Laplacian of Gaussian) found no slice with an edge and trimmed the whole stack: "
            "the image is too dark or too smooth for this checkpoint."
        )
    for mask in work.masks.values():
        mask[~keep] = False


def _on_region(function: Callable[..., np.ndarray]) -> Rule:
    """Make a rule of a function mask -> mask; the rule's other parameters are the function's keywords."""

    def rule(work: Work, region: str, **parameters: float) -> None:
        work.masks[region] = function(work.masks[region], **parameters)

    return rule


def _drop_small_components_mm3(work: Work, region: str, min_volume_mm3: float, connectivity: int) -> None:
    voxels = voxels_of(min_volume_mm3, work.ijk_to_ras)
    work.masks[region] = drop_small_components(work.masks[region], voxels, connectivity)


def voxels_of(min_volume_mm3: float, ijk_to_ras: np.ndarray) -> int:
    """Return the fewest voxels that make up a volume; one of exactly the limit does, whatever the last bit says."""
    return int(np.ceil(min_volume_mm3 / voxel_volume_mm3(ijk_to_ras) * (1 - ROUNDING)))


def _keep_inside_closed(work: Work, region: str, inside: str, radius_voxels: float) -> None:
    """Keep of a region what lies inside another region after its holes up to a radius are closed."""
    work.masks[region] = work.masks[region] & close_ball(work.masks[inside], radius_voxels)


_REGION = fields.name
"""Stands for the name of one of the plan's regions."""

RULES: dict[str, tuple[Rule, dict[str, fields.Parser]]] = {
    "trim_flat_end_slices": (
        _trim_flat_end_slices,
        {"sigma_px": fields.positive, "min_mean": fields.positive},
    ),
    "drop_isolated_slices": (
        _on_region(drop_isolated_slices),
        {"region": _REGION, "min_area_px": fields.size},
    ),
    "drop_small_blobs_in_slices": (
        _on_region(partial(drop_small_components, in_slices=True, connectivity=26)),
        {"region": _REGION, "min_size_px": fields.size},
    ),
    "drop_small_components": (
        _drop_small_components_mm3,
        {"region": _REGION, "min_volume_mm3": fields.positive, "connectivity": fields.one_of(6, 18, 26)},
    ),
    "keep_largest": (
        _on_region(keep_largest),
        {"region": _REGION, "connectivity": fields.one_of(6, 18, 26)},
    ),
    "drop_border_components": (_on_region(drop_border_components), {"region": _REGION}),
    "close_slices": (_on_region(close_slices), {"region": _REGION}),
    "fill_holes": (_on_region(fill_holes), {"region": _REGION}),
    "keep_inside_closed": (
        _keep_inside_closed,
        {"region": _REGION, "inside": _REGION, "radius_voxels": fields.positive},
    ),
    "open_ball": (_on_region(open_ball), {"region": _REGION, "radius_voxels": fields.positive}),
}
"""What a card's clean-up may name, and the parameters each rule must have."""
