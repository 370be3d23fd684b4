"""The papers' recipes of training, one preset a system: what is stated is taken, what is not is fixed here and said.

How images are prepared and looked at comes from `thoraxseg.checkpoints.recipes`, so that a network is trained on what
it will be shown. A preset is plain data: every value of it can be overridden in a `TrainConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from thoraxseg.checkpoints.recipes import Recipe, recipe_for
from thoraxseg.errors import OptionError

_HE = "he-normal"


@dataclass(frozen=True)
class Preset:
    """How one system is trained; what the data set decides (classes, channels, spacing) is left open."""

    name: str
    system: str
    source: str
    """Which paper, and what of it."""
    notes: tuple[str, ...]
    """What the source leaves open, and what is taken instead."""
    network: Mapping[str, Any]
    """`name` of the architecture and its arguments, without classes and channels."""
    settings: Mapping[str, Any]
    """Of the loop, see `Settings`; `steps_per_epoch` None means that an epoch shows every case (or slice) once,
    `accumulate` "cases" means as many as there are training cases, `precision` "auto" 16 bits on a GPU alone."""
    sampling: Mapping[str, Any]
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    initialization: str = "torch"
    """`torch`: its own; `he-normal`: that, with batch normalization N(1, 0.02)."""
    sigmoid: bool = False
    """Whether one structure is one output with a sigmoid, not two with a softmax."""
    resample: bool = False
    """Whether images are resampled to the median spacing of the data set, since the source fixes none."""
    lung_map: bool = False
    """Whether the network also takes a lung map."""
    fast: Mapping[str, Any] = field(default_factory=dict)
    """Values by dotted key that make a short training on a CPU of it; never taken unless asked for."""
    search: Mapping[str, Any] = field(default_factory=dict)
    """Ranges by dotted key for a random search."""
    nnunet: str | None = None
    """The configuration, for presets that hand all of it to nnU-Net."""

    @property
    def recipe(self) -> Recipe:
        """How the source prepares and looks at images."""
        arguments = {key: value for key, value in self.network.items() if key != "name"}
        if self.lung_map:
            arguments["in_channels"] = 2
        return recipe_for(self.network["name"], arguments)


_KANIEWSKI_AUGMENTATION = {
    "right-angles": {"probability": 1.0},
    "elastic": {"probability": 0.5, "magnitude": 256.0, "sigma": 10.24, "affine": 10.24},
}


def _kaniewski(name: str, system: str, network: dict[str, Any], loss: dict[str, Any], *notes: str) -> Preset:
    """A 2-D network of the mouse MRI benchmark (DEFINITIONS, section 3.3)."""
    return Preset(
        name,
        system,
        "Kaniewski et al. 2024, mouse MRI benchmark: Adam 1e-3, batches of 64 slices, 100 epochs, cosine annealing "
        "with warm restarts every 5 epochs, mixed precision on a GPU",
        (
            "folds are by animal, where the paper split slices at random after augmentation",
            "augmentation is drawn anew for every slice, where the paper stored eight versions of each: an epoch here "
            "has an eighth of its steps",
            "intensities are divided by the stack's maximum and dark stacks contrast-enhanced, as the published "
            "network of DeepMeta wants them; the paper speaks of z-scores, its code divides by 255",
            "slices without any structure are left out, as in the paper's set of lung-containing slices",
            "the best epoch is the one with the best validation Dice; the paper does not say which was kept",
            *notes,
        ),
        network,
        {
            "epochs": 100,
            "steps_per_epoch": None,
            "loss": loss,
            "optimizer": {"name": "adam", "lr": 1e-3},
            "schedule": {"name": "cosine-restarts", "first_epochs": 5, "multiplier": 1},
            "precision": "auto",
        },
        {"sampler": "slices", "slices": "foreground", "patch_size": [1, 128, 128], "batch_size": 64},
        _KANIEWSKI_AUGMENTATION,
        initialization=_HE,
        fast={
            "settings.epochs": 8,
            "settings.steps_per_epoch": 30,
            "sampling.batch_size": 8,
            "preprocess.0.size_px": [64, 64],
            "sampling.patch_size": [1, 64, 64],
            "network.filters": 8,
        },
        search={
            "settings.optimizer.lr": {"log_uniform": [1e-4, 1e-2]},
            "sampling.batch_size": {"choice": [16, 32, 64]},
        },
    )


def _le_saut(
    name: str, system: str, network: dict[str, Any], *notes: str, lung_map: bool = True, **changes: Any
) -> Preset:
    """A network of Le and Saut on whole chests (DEFINITIONS, section 6.3)."""
    crop = 3 if lung_map else 2
    words = {
        "source": "Le and Saut, RRc-UNet 3D: Adam 3e-4 with weight decay 1e-4, whole chests of 256 x 256 x 48 voxels, "
        "one step after all patients, up to 1000 epochs, early stopping on the validation loss",
        **changes,
    }
    return Preset(
        name,
        system,
        notes=(
            "groups (8) and dropout (0.1) of the network are not published",
            "early stopping waits for 50 epochs; probabilities and sizes of the augmentation are ours",
            "generalized Dice as published by Sudre et al. 2017, which the paper's Eq. 3 is not",
            *notes,
        ),
        network=network,
        settings={
            "epochs": 1000,
            "steps_per_epoch": 1,
            "accumulate": "cases",
            "loss": {"name": "focal-generalized-dice"},
            "optimizer": {"name": "adam", "lr": 3e-4, "weight_decay": 1e-4},
            "schedule": {"name": "constant"},
            "score": "loss",
            "patience": 50,
        },
        sampling={"sampler": "whole", "patch_size": [48, 256, 256], "batch_size": 1},
        augmentation={
            "flips": {"probability": 0.5},
            "elastic-grid": {"probability": 0.3, "grid": 0.04, "sd": [0.0, 3.0]},
            "affine": {"probability": 0.3, "degrees": [-10, 10], "scale": [0.9, 1.1], "translation": [-4, 4]},
        },
        lung_map=lung_map,
        fast={
            "settings.epochs": 10,
            "settings.steps_per_epoch": 16,
            "settings.accumulate": 1,
            "settings.optimizer.lr": 3e-3,
            "sampling.patch_size": [32, 48, 48],
            f"preprocess.{crop}.shape": [32, 48, 48],
            "network.filters": 8,
            "network.groups": 4,
        },
        search={
            "settings.optimizer.lr": {"log_uniform": [1e-5, 3e-3]},
            "network.dropout": {"uniform": [0.0, 0.3]},
        },
        **words,
    )


def _monai(name: str, system: str, source: str, sampling: dict[str, Any], *notes: str) -> Preset:
    """The 3-D U-Net of the coursework (DEFINITIONS, section 7)."""
    return Preset(
        name,
        system,
        source,
        (
            "channels, strides, residual units, dropout, learning rate, patch size and the weight alpha of the loss "
            "are shown in a figure of the coursework only: 16 to 256 channels, 2, 2, 0, 1e-3, 96 voxels and 0.5 here",
            "intensities are z-scored and voxels resampled to the median spacing of the data set: neither is stated",
            "the ranges of all changes are ours",
            "1000 epochs at most; it stops when the mean Dice of whole validation images is above 0.65, as there",
            *notes,
        ),
        {
            "name": "monai_unet",
            "dimensions": 3,
            "channels": [16, 32, 64, 128, 256],
            "strides": [2, 2, 2, 2],
            "num_res_units": 2,
            "act": "PRELU",
            "norm": "INSTANCE",
            "dropout": 0.0,
        },
        {
            "epochs": 1000,
            "steps_per_epoch": None,
            "loss": {"name": "bootstrapped", "alpha": 0.5},
            "optimizer": {"name": "adam", "lr": 1e-3},
            "schedule": {"name": "constant"},
            "validate_every": 5,
            "stop_at": 0.65,
        },
        {"patch_size": [96, 96, 96], "batch_size": 4, "patches_per_case": 12, **sampling},
        {
            "affine": {
                "probability": 0.2,
                "degrees": [-15, 15],
                "scale": [0.9, 1.1],
                "shear": [-0.05, 0.05],
                "translation": [-4, 4],
            },
            "elastic-grid": {"probability": 0.2, "grid": 0.04, "sd": [0.0, 2.0]},
            "noise": {"probability": 0.2, "sd": 0.1},
        },
        sigmoid=True,
        resample=True,
        fast={
            "settings.epochs": 10,
            "settings.steps_per_epoch": 30,
            "settings.validate_every": 2,
            "settings.stop_at": None,
            "network.channels": [8, 16, 32],
            "network.strides": [2, 2],
            "sampling.patch_size": [32, 32, 32],
            "sampling.batch_size": 2,
            "sampling.patches_per_case": 4,
            "inference.patch_size": [32, 32, 32],
        },
        search={
            "network.channels": {"choice": [[16, 32, 64, 128], [16, 32, 64, 128, 256], [32, 64, 128, 256]]},
            "sampling.batch_size": {"choice": [1, 2, 4]},
            "network.num_res_units": {"choice": [0, 1, 2, 3]},
            "sampling.patches_per_case": {"choice": [4, 8, 12]},
            "sampling.patch_size": {"choice": [[64, 64, 64], [96, 96, 96]]},
            "settings.optimizer.lr": {"log_uniform": [1e-5, 1e-2]},
            "network.dropout": {"uniform": [0.0, 0.4]},
            "network.act": {"choice": ["PRELU", "RELU"]},
            "settings.loss.alpha": {"uniform": [0.1, 0.9]},
        },
    )


def _nnunet(configuration: str) -> Preset:
    return Preset(
        f"nnunet-{configuration}",
        f"nnU-Net {configuration}",
        "Isensee et al. 2021 (nnU-Net), through nnunetv2 itself: it plans, augments and trains as its authors do",
        (
            "folds are by animal; the numbers of other papers are in the recipes malimban and kaniewski (--set "
            "settings.recipe=kaniewski)",
            "nnU-Net mirrors images along all axes and leaves the names of right and left as they are, so that it "
            "tells sides by anatomy alone",
        ),
        {},
        {"epochs": None, "recipe": "nnunet", "planner": "standard", "changes": {}},
        {},
        nnunet=configuration,
        fast={"settings.epochs": 5, "settings.changes": {"iterations": 20, "validation_iterations": 5}},
    )


_U_NET = {"name": "unet", "filters": 64, "dimensions": 2}
_RRC = {"name": "rrc_unet_3d", "filters": 32, "combine": "add", "groups": 8, "dropout": 0.1}

_ALL = (
    _kaniewski(
        "unet",
        "U-Net",
        _U_NET,
        {"name": "weighted-cross-entropy"},
        "the map of border weights is Ronneberger's, drawn from the labels; the published code divides the weights out",
    ),
    _kaniewski(
        "unet3plus",
        "U-Net3+ (Huang et al. 2020)",
        {"name": "unet3plus", "filters": 32, "variant": "huang", "dimensions": 2},
        {"name": "focal-ms-ssim-iou"},
        "32 filters as in the paper; its code has 64 in 2-D and keeps the focal term of the loss alone",
    ),
    _kaniewski(
        "deepmeta",
        "DeepMeta",
        {"name": "deepmeta", "filters": 16},
        {"name": "fusion"},
        "the network of the name, separable and with 16 filters; the published code of the benchmark builds a U-Net3+",
    ),
    Preset(
        "aimos",
        "AIMOS UNet-768",
        "Schoppe et al. 2020 (AIMOS) as used by Malimban et al. 2022: Adam 1e-3, batches of 32 slices, 30 epochs, the "
        "rate falls when the validation loss has not for 8 epochs, Dice over all classes",
        (
            "all slices are used, as by Malimban; the published code takes those with labels only",
            "rotations are drawn from -10 to 10 degrees; a slip in the published code makes all of them -10",
            "where a change shows what lies outside of a slice, its edge is repeated and nothing is learned there",
        ),
        {"name": "aimos", "features": [32, 64, 128, 256, 512, 768]},
        {
            "epochs": 30,
            "steps_per_epoch": None,
            "loss": {"name": "aimos-dice"},
            "optimizer": {"name": "adam", "lr": 1e-3},
            "schedule": {"name": "plateau", "patience": 8},
        },
        {"sampler": "slices", "slices": "all", "patch_size": [1, 256, 256], "batch_size": 32},
        {
            "rotation": {"probability": 0.5, "degrees": [-10, 10]},
            "random-resized-crop": {"probability": 0.5, "scale": [0.8, 1.0], "ratio": [0.75, 1.0]},
        },
        fast={
            "settings.epochs": 8,
            "settings.steps_per_epoch": 30,
            "sampling.batch_size": 8,
            "sampling.patch_size": [1, 64, 64],
            "preprocess.1.size_px": [64, 64],
            "network.features": [8, 16, 32, 48],
        },
        search={"settings.optimizer.lr": {"log_uniform": [1e-4, 1e-2]}},
    ),
    _monai(
        "monai-unet",
        "3-D U-Net of MONAI",
        "the coursework on ensembles of 3-D U-Nets: Adam, batches of 4 images with 12 random patches each, online "
        "bootstrapping with Dice, affine, elastic and noise at 0.2 each",
        {"sampler": "uniform"},
    ),
    _monai(
        "monai-unet-isample",
        "3-D U-Net of MONAI, error-driven sampling",
        "the coursework on ensembles of 3-D U-Nets, patches drawn by error maps that are renewed every three epochs "
        "(isample, Berger et al. 2017)",
        {"sampler": "isample", "refresh_epochs": 3, "floor": 0.01, "error": "absolute"},
        "the coursework goes on from a trained network (--from); from scratch it saw no gain",
    ),
    Preset(
        "deepmedic",
        "DeepMedic (NiftyNet form)",
        "DeepMedic as in NiftyNet and the coursework: two pathways, patches of 57 voxels that are answered for in "
        "their central 9; half of them on structures (Kamnitsas et al. 2017)",
        (
            "loss (cross-entropy), optimizer (Adam 1e-3, falling), flips, batches of 10 patches and 100 epochs of 100 "
            "steps are ours: the coursework states none",
            "intensities are z-scored and voxels resampled to the median spacing of the data set",
            "it is looked at with patches of 105 voxels, whose answer is the same as that of small ones",
        ),
        {
            "name": "deepmedic",
            "features": [30, 30, 40, 40, 40, 40, 50, 50],
            "dense": [150, 150],
        },
        {
            "epochs": 100,
            "steps_per_epoch": 100,
            "loss": {"name": "cross-entropy"},
            "optimizer": {"name": "adam", "lr": 1e-3},
            "schedule": {"name": "poly"},
            "validate_every": 5,
        },
        {"sampler": "balanced", "foreground_share": 0.5, "patch_size": [57, 57, 57], "batch_size": 10},
        {"flips": {"probability": 0.5}},
        resample=True,
        fast={
            "settings.epochs": 6,
            "settings.steps_per_epoch": 40,
            "settings.validate_every": 2,
            "network.features": [8, 8, 12, 12, 12, 12, 16, 16],
            "network.dense": [24],
            "sampling.batch_size": 4,
            "inference.patch_size": [81, 81, 81],
        },
        search={"settings.optimizer.lr": {"log_uniform": [1e-4, 1e-2]}},
    ),
    _le_saut("rrc-unet", "RRc-UNet 3D", _RRC, "blocks add their input, as their number of parameters tells"),
    _le_saut(
        "rrc-unet-concat",
        "RRc-UNet 3D, concatenating",
        {**_RRC, "combine": "concat"},
        "blocks concatenate their input, as the paper's text and figure say",
    ),
    *(
        _le_saut(f"unet-{block}", f"{block.capitalize()} U-Net 3D (Table 5)", {**_RRC, "block": block})
        for block in ("residual", "recurrent")
    ),
    _le_saut("unet-cgpd", "U-Net 3D with CGPD blocks (Table 5)", {**_RRC, "block": "cgpd"}),
    _le_saut(
        "coordinate-unet",
        "after Coordinate-UNet 3D",
        {"name": "coordinate_unet_3d", "filters": 32, "groups": 8, "dropout": 0.1},
        "of the Coordinate-UNet only the abstract is known: its training is that of the RRc-UNet here",
        lung_map=False,
        source="Le and Saut, RRc-UNet 3D, whose lung maps come from such a network",
    ),
    *map(_nnunet, ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}
"""Every system that can be trained, by the name that `--system` takes."""


def preset_named(name: str) -> Preset:
    """Return a preset; raises OptionError listing the names for an unknown one."""
    if name not in PRESETS:
        close = get_close_matches(name, PRESETS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise OptionError(f"unknown system {name!r:.80}; known are {', '.join(PRESETS)}.{hint}")
    return PRESETS[name]


def preset_for(architecture: str, arguments: Mapping[str, Any]) -> Preset | None:
    """Return the preset that trains a network most like this one; None where no paper's does."""
    alike = [preset for preset in PRESETS.values() if preset.network.get("name") == architecture]
    exact = [preset for preset in alike if preset.network.get("block") == arguments.get("block")]
    return next(iter([*exact, *alike]), None)
