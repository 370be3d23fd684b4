"""How an architecture's authors prepared images, for weights that come without a word: one recipe a network.

A file of weights tells the network, not what it was shown. For each architecture of the papers the road of its
paper is known, wholly or in part (`DEFINITIONS`, sections 2 to 7); what is ours is named in `unknown`. Names of
labels are only given where the paper fixes their numbers: no side is ever guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from thoraxseg.checkpoints import structures
from thoraxseg.errors import CheckpointError

_LUNGS_AND_TUMORS = {1: "lungs", 2: "tumors"}


@dataclass(frozen=True)
class Recipe:
    """What is known of images for a network, in the words of a card."""

    source: str
    """Whose road it is."""
    unknown: str
    """What that source leaves open, and what is taken instead."""
    species: str
    modality: str
    task: str
    labels: Mapping[int, str]
    orientation: str
    spacing_mm: list[float] | None
    preprocess: list[dict[str, Any]]
    inference: dict[str, Any]
    channels: list[dict[str, str]] = field(default_factory=list)
    postprocess: dict[str, Any] = field(default_factory=lambda: {"regions": [], "rules": []})
    tumors: dict[str, Any] | None = None


def recipe_for(architecture: str, arguments: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a network; raises CheckpointError for one that cannot be run without its own plans."""
    if architecture not in _RECIPES:
        raise CheckpointError(
            f"weights of the architecture {architecture!r} do not say how images are prepared, and no paper fixes it. "
            "Give the whole nnU-Net model folder (with plans.json or plans.pkl), or a folder with a card.json."
        )
    return _RECIPES[architecture](arguments)


def card_data(name: str, architecture: str, arguments: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return a card, as plain data without weights, for recognized weights and a recipe."""
    classes = int(arguments.get("classes", 1))
    outputs = max(2, classes)  # one output is a sigmoid: in or out
    named = recipe.labels if max(recipe.labels, default=0) == outputs - 1 else {}
    labels = {label: named.get(label, f"label {label}") for label in range(1, outputs)}
    inputs = int(arguments.get("in_channels", 1))
    channels = recipe.channels[:inputs]
    channels += [{"name": f"channel {n}", "source": "image"} for n in range(len(channels), inputs)]
    return {
        "schema": 1,
        "name": name,
        "title": f"{architecture}: weights without a card",
        "description": f"Recognized by its tensors. Prepared as: {recipe.source}. Not known: {recipe.unknown}.",
        "task": recipe.task,
        "species": recipe.species,
        "modality": recipe.modality,
        "labels": {str(label): structures.to_json(_structure(word, label)) for label, word in labels.items()},
        "channels": channels,
        "architecture": {"name": architecture, **_plain(arguments)},
        "input": {
            "orientation": recipe.orientation,
            "spacing_mm": recipe.spacing_mm,
            "spacing_tolerance": 0.5,
            "side_known": False,
            "stack_spacing_mm": None,
            "stack_shape": None,
            "intensity": [],
        },
        "preprocess": recipe.preprocess,
        "inference": {
            "averaging": "probabilities",
            "temperature": 1,
            "temperature_reason": "none",
            "patch_size": None,
            "step": 1,
            "blending": "gaussian",
            **recipe.inference,
        },
        "nnunet": None,
        "previous": None,
        "lungs_from": None,
        "postprocess": recipe.postprocess if named else {"regions": [], "rules": []},
        "tumors": recipe.tumors if named else None,
        "weights": [],
        "samples": [],
        "source": {"kind": "local", "requirement": "", "archive_sha256": ""},
        "license": "not stated",
        "citation": "not stated",
        "validation": "None by ThoraxSeg: the file does not say what it was trained on.",
        "assumed": [],
    }


def _structure(word: str, label: int) -> Any:
    return structures.STRUCTURES.get(word) or structures.other(word, label)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _mouse_mri(source: str, unknown: str, arguments: Mapping[str, Any]) -> Recipe:
    three = arguments.get("dimensions", 2) == 3
    inference = {"mode": "slices"}
    if three:
        inference = {"mode": "sliding-window", "patch_size": [64, 64, 64], "step": 0.5}
        unknown += "; windows of 64 x 64 x 64 voxels"
    labels = {3: _LUNGS_AND_TUMORS, 2: {1: "tumors"}}.get(arguments.get("classes", 3), {})
    both = labels == _LUNGS_AND_TUMORS
    rules = [
        {"name": "trim_flat_end_slices", "sigma_px": 7, "min_mean": 1},
        {"name": "drop_isolated_slices", "region": "lungs", "min_area_px": 15},
        {"name": "drop_small_blobs_in_slices", "region": "lungs", "min_size_px": 10},
        {"name": "drop_small_blobs_in_slices", "region": "tumors", "min_size_px": 3},
        {"name": "close_slices", "region": "lungs"},
        {"name": "close_slices", "region": "tumors"},
    ]
    regions = [
        {"name": "lungs", "labels": [1, 2], "write": 1},
        {"name": "tumors", "labels": [2], "write": 2},
    ]
    return Recipe(
        source=source,
        unknown=f"{unknown}, and to which of the two batches (dark or not) a stack belongs",
        species="mouse",
        modality="MRI",
        task="lung-tumor",
        labels=labels,
        orientation="RIA",
        spacing_mm=[0.15625, 0.1953125, 0.15625],
        preprocess=[
            {"name": "resize_slices", "size_px": [128, 128]},
            {"name": "divide_by_maximum"},
            {"name": "enhance_contrast", "clip_limit": 0.03, "when_mean_below": 0.15},
        ],
        inference=inference,
        channels=[{"name": "MRI", "source": "image"}],
        postprocess={"regions": regions, "rules": rules} if both else {"regions": [], "rules": []},
        tumors={"label": 2, "connectivity": 18, "small_below_mm3": 0.4, "host_label": 1} if both else None,
    )


def _deepmeta(arguments: Mapping[str, Any]) -> Recipe:
    return _mouse_mri("DeepMeta (mouse MRI)", "whether the labels are those of the paper", arguments)


def _kaniewski(arguments: Mapping[str, Any]) -> Recipe:
    return _mouse_mri(
        "the mouse MRI benchmark of Kaniewski et al. 2024",
        "whether the labels are those of the paper",
        arguments,
    )


def _aimos(arguments: Mapping[str, Any]) -> Recipe:
    return Recipe(
        source="AIMOS (Schoppe et al. 2020): coronal slices along the file's last axis",
        unknown="which label is which organ, and whether slices of this file are coronal",
        species="mouse",
        modality="micro-CT",
        task="mouse-thorax",
        labels={},
        orientation="jik",  # rows of its pictures are the first axis of the NIfTI array
        spacing_mm=None,
        preprocess=[
            {"name": "round_to_levels", "levels": 65535},
            {"name": "resize_slices_triangle", "size_px": [256, 256]},
            {"name": "z_score_slices"},
        ],
        inference={"mode": "slices"},
        channels=[{"name": "CT", "source": "image"}],
    )


def _human_ct(**words: Any) -> Recipe:
    return Recipe(
        species="human",
        modality="CT",
        task="lung-tumor",
        spacing_mm=None,
        **{"channels": [{"name": "CT", "source": "image"}], **words},
    )


def _monai(arguments: Mapping[str, Any]) -> Recipe:
    if arguments.get("dimensions", 3) != 3:
        raise CheckpointError(
            "weights of a 2-D MONAI U-Net do not say how images are prepared. Give the whole MONAI bundle, or a folder "
            "with a card.json."
        )
    return _human_ct(
        source="the coursework on ensembles of 3-D U-Nets (lung tumors in human CT)",
        unknown="the strides of the network (2 where the tensors leave it open), its dropout, how intensities were "
        "scaled (z-score here), spacing and windows (96 x 96 x 96 voxels here)",
        labels={1: "tumors"},
        orientation="SAR",  # MONAI's arrays are (x, y, z)
        preprocess=[{"name": "z_score"}],
        inference={"mode": "sliding-window", "patch_size": [96, 96, 96], "step": 0.5},
    )


def _deepmedic(arguments: Mapping[str, Any]) -> Recipe:
    lost = 6 * len(arguments.get("features", [0] * 8))
    return _human_ct(
        source="DeepMedic as in NiftyNet and the coursework on ensembles (lung tumors in human CT)",
        unknown="how intensities were scaled (z-score here), spacing and orientation",
        labels={1: "tumors"},
        orientation="LPS",
        preprocess=[{"name": "z_score"}],
        # An odd multiple of 3 that answers for 57 voxels along each axis.
        inference={"mode": "sliding-window", "patch_size": [lost + 57] * 3, "step": 1},
    )


def _le_saut(arguments: Mapping[str, Any]) -> Recipe:
    lungs = arguments.get("in_channels", 2) > 1
    crop = [{"name": "crop_to_lungs", "margin_voxels": 0}] if lungs else []
    return _human_ct(
        source="RRc-UNet 3D (Le and Saut): lungs and lung tumors in human CT",
        unknown="groups, dropout and repeats of the network, and how the axes of its arrays lay (axial slices here)",
        labels=_LUNGS_AND_TUMORS,
        orientation="LPS",
        preprocess=[
            {"name": "clip", "low": -1200, "high": 600},
            {"name": "z_score"},
            *crop,
            {"name": "resize", "shape": [48, 256, 256]},
        ],
        inference={"mode": "whole"},
        channels=[{"name": "CT", "source": "image"}, {"name": "lung map", "source": "lungs"}],
    )


def _coordinate(arguments: Mapping[str, Any]) -> Recipe:
    return _human_ct(
        source="RRc-UNet 3D (Le and Saut), whose lung maps come from such a network",
        unknown="groups and dropout of the network, how it was trained, and how the axes of its arrays lay",
        labels={1: "lungs"},
        orientation="LPS",
        preprocess=[
            {"name": "clip", "low": -1200, "high": 600},
            {"name": "z_score"},
            {"name": "resize", "shape": [48, 256, 256]},
        ],
        inference={"mode": "whole"},
    )


_RECIPES: dict[str, Callable[[Mapping[str, Any]], Recipe]] = {
    "deepmeta": _deepmeta,
    "unet": _kaniewski,
    "unet3plus": _kaniewski,
    "aimos": _aimos,
    "monai_unet": _monai,
    "deepmedic": _deepmedic,
    "rrc_unet_3d": _le_saut,
    "coordinate_unet_3d": _coordinate,
}
