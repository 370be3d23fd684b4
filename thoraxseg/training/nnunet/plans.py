"""nnU-Net's plans changed in the way its guide "Modifying the nnU-Net Configurations" describes; nnunetv2 2.8.1.

A network has to fit its patch: where the patch changes, nnU-Net's own function finds the levels, strides and kernels
again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from thoraxseg.errors import OptionError
from thoraxseg.training.nnunet.recipe import CASCADE, FULLRES, LOWRES, Recipe

_SMALLEST_EDGE = 4
"""Of the coarsest feature maps, in voxels; nnU-Net's own."""
MAX_FEATURES = {2: 512, 3: 320}
"""nnU-Net's own limits; a plan shows them only where its network is deep enough."""


def resolved(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with what it inherits; raises OptionError where nnU-Net planned none of this name."""
    configurations = plans["configurations"]
    if name not in configurations:
        raise OptionError(_not_planned(name, tuple(configurations)))
    own = copy.deepcopy(configurations[name])
    parent = own.pop("inherits_from", None)
    return own if parent is None else resolved(plans, parent) | own


def _not_planned(name: str, planned: tuple[str, ...]) -> str:
    there = f"nnU-Net planned {', '.join(planned)} for this data set, not {name}"
    if name in (LOWRES, CASCADE):
        return (
            f"{there}: one patch of {FULLRES} covers a quarter of an image or more, so that coarser images would bring "
            "little. Train one of those planned, or give a lowres_factor such as 1.36 to have it anyway."
        )
    return f"{there}: its images have one slice only. Train one of those planned."


def adapted(plans: Mapping[str, Any], name: str, recipe: Recipe) -> dict[str, Any]:
    """Return plans in which a configuration has the batch, patch and feature maps of a recipe.

    Raises OptionError for a patch that no network of nnU-Net can take at this spacing, naming the next that it can.
    """
    changed = copy.deepcopy(dict(plans))
    config = resolved(plans, name)
    kwargs = config["architecture"]["arch_kwargs"]
    if recipe.batch_size is not None:
        config["batch_size"] = recipe.batch_size
    if recipe.patch_size is not None:
        _fit(config, recipe.patch_size, name)
    if recipe.plan_changes.keys() - {"batch_size"}:
        base = recipe.base_features or kwargs["features_per_stage"][0]
        most = recipe.max_features or MAX_FEATURES[len(config["patch_size"])]
        kwargs["features_per_stage"] = [min(base << level, most) for level in range(kwargs["n_stages"])]
    # Written out, so that a cascade stays what it was when 3d_fullres is changed later.
    changed["configurations"][name] = config
    return changed


def _fit(config: dict[str, Any], patch: tuple[int, ...], name: str) -> None:
    """Give a configuration a patch, and its network the levels for it."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    _, strides, kernels, fitting, _ = get_pool_and_conv_props(config["spacing"], patch, _SMALLEST_EDGE, 999)
    if tuple(map(int, fitting)) != patch:
        raise OptionError(
            f"nnU-Net: patch_size {list(patch)} cannot be halved as often as the network of {name} does at a spacing "
            f"of {[round(float(one), 4) for one in config['spacing']]} mm. The next larger that can is "
            f"{[int(one) for one in fitting]}."
        )
    stages = len(strides)
    kwargs = config["architecture"]["arch_kwargs"]
    blocks = "n_blocks_per_stage" if "n_blocks_per_stage" in kwargs else "n_conv_per_stage"
    kwargs |= {
        "n_stages": stages,
        "strides": [list(map(int, one)) for one in strides],
        "kernel_sizes": [list(map(int, one)) for one in kernels],
        blocks: _as_long(kwargs[blocks], stages),
        "n_conv_per_stage_decoder": _as_long(kwargs["n_conv_per_stage_decoder"], stages - 1),
    }
    config["patch_size"] = list(patch)


def _as_long(values: list[int], length: int) -> list[int]:
    """Return the first of some values; the last one goes on, as in nnU-Net's own lists."""
    return [*values, *[values[-1]] * length][:length]


def with_lowres(plans: Mapping[str, Any], lowres: Mapping[str, Any]) -> dict[str, Any]:
    """Return plans with a first stage that nnU-Net did not plan itself, and the cascade on top of it."""
    changed = copy.deepcopy(dict(plans))
    changed["configurations"] |= {
        LOWRES: {**lowres, "batch_dice": False, "next_stage": CASCADE},
        # As nnU-Net does where it plans a cascade itself: one Dice for the patches of a batch, which show less each.
        CASCADE: {"inherits_from": FULLRES, "previous_stage": LOWRES, "batch_dice": True},
    }
    return changed
