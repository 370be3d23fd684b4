"""What an nnU-Net model of either version needs to be run, read from its files and checked; no code, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

ARCHITECTURES = ("plain_conv_unet", "residual_encoder_unet")
NORMALIZATIONS = ("ct", "ct2", "zscore", "none", "rescale01", "rgb01")
READERS = (
    *("SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"),
    *("Tiff3DIO", "NaturalImage2DIO"),
)


class Origin(Enum):
    """Which nnU-Net trained the model; it decides the order of steps and what is averaged."""

    V1 = "v1"
    """Crop, transpose, resample, normalize; probabilities are averaged."""
    V2 = "v2"
    """Crop, transpose, normalize, resample; logits are averaged."""


@dataclass(frozen=True)
class Channel:
    """One input channel and how its intensities are normalized."""

    name: str
    normalization: str
    """`ct`, `ct2`, `zscore`, `none`, `rescale01` or `rgb01`."""
    use_mask: bool
    """Normalize inside the nonzero mask only."""
    statistics: Mapping[str, float]
    """`mean`, `std`, `percentile_00_5`, `percentile_99_5` of the training foreground; empty where not used."""


@dataclass(frozen=True)
class Resampling:
    """How one kind of array is resampled: spline orders and when the coarse axis is treated apart."""

    function: str
    """`spline` (nnU-Net's default for both versions) or `torch` (`resample_torch_fornnunet`)."""
    order: int
    order_z: int
    force_separate_z: bool | None
    """None: apart when the anisotropy exceeds 3."""


@dataclass(frozen=True)
class NnunetPlan:
    """One configuration of one nnU-Net model, in the axis order of its files (z, y, x) unless said otherwise."""

    origin: Origin
    name: str
    """Dataset or task name, as in `Dataset601_Mouse`."""
    configuration: str
    """`2d`, `3d_fullres`, `3d_lowres` or `3d_cascade_fullres`, or the user's own name for one."""
    trainer: str
    channels: tuple[Channel, ...]
    labels: Mapping[str, tuple[int, ...]]
    """Name -> label values, background left out; several values make a region."""
    regions_class_order: tuple[int, ...] | None
    """The label written for each region output, in order; None where outputs are plain classes."""
    ignore_label: int | None
    reader: str
    """`image_reader_writer`: `SimpleITKIO`, `SimpleITKIOWithReorient`, `NibabelIO`, `NibabelIOWithReorient`,
    `Tiff3DIO`, `NaturalImage2DIO`."""
    transpose_forward: tuple[int, int, int]
    transpose_backward: tuple[int, int, int]
    spacing_mm: tuple[float, ...]
    """Target spacing after `transpose_forward`; two numbers for 2d."""
    patch_size: tuple[int, ...]
    """After `transpose_forward`; two numbers for 2d."""
    resample_data: Resampling
    resample_segmentation: Resampling
    """For the previous stage's labels of a cascade."""
    resample_probabilities: Resampling
    architecture: str
    """A name of `thoraxseg.models`: `plain_conv_unet` or `residual_encoder_unet`."""
    architecture_arguments: Mapping[str, Any]
    previous_stage: str | None
    """Configuration whose labels are the extra input channels of a cascade's second stage."""
    folds: Mapping[str, Path]
    """Fold name (`0`...`4`, `all`) -> the chosen checkpoint file (final or best)."""
    mirror_axes: tuple[int, ...]
    """Spatial axes, after `transpose_forward`, along which test-time mirroring is allowed."""
    cleanup: tuple[Mapping[str, Any], ...]
    """nnU-Net's own post-processing, in order: {"labels": (1, 2), "keep": "largest", "min_size_mm3": float | None}."""
    notes: tuple[str, ...] = ()
    """What was assumed or converted while reading; shown to the user."""
