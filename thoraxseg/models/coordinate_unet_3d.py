"""Coordinate-UNet 3D, after Le and Saut 2023: a 3-D U-Net that sees where it is, for the lungs in human CT.

**After the paper (10.24132/csrn.3301.6), not a reproduction**: only its abstract is known to us. We take the five-level
U-Net of RRc-UNet 3D with CGPD blocks (convolution, group normalization, PReLU, dropout) and make the final
layer a CoordConv: three more channels with the coordinates i, j, k of each voxel along the three array axes,
from -1 at the first voxel to 1 at the last, before the 1 x 1 x 1 output convolution. Layer widths, group
count (8) and dropout (0.1) are ours. RRc-UNet's paper uses this model to make its lung masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from thoraxseg.models.rrc_unet_3d import DoubleCgpd, RRcUNet3D
from thoraxseg.models.unet import confirmed, without_prefix

AXES = 3


def build(
    in_channels: int = 1, classes: int = 2, filters: int = 32, groups: int = 8, dropout: float = 0.1
) -> CoordinateUNet3D:
    """Return the network: `(N, in_channels, K, J, I)` -> logits `(N, classes, K, J, I)`; sizes / 16 whole.

    Coordinates belong to the array that is passed: give it the whole (resized) volume, not patches of one.
    Raises ValueError when the groups do not divide the channels.
    """
    return CoordinateUNet3D(in_channels, classes, filters, groups, dropout)


def coordinates(features: torch.Tensor) -> torch.Tensor:
    """Return `(N, 3, K, J, I)` coordinates in [-1, 1] for `(N, C, K, J, I)` features; 0 along an axis of one."""
    sizes = features.shape[2:]
    axes = [torch.linspace(-1 if n > 1 else 0, 1, n, device=features.device) for n in sizes]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).to(features.dtype)
    return grid.expand(features.shape[0], AXES, *sizes)


class CoordinateUNet3D(RRcUNet3D):
    """The U-Net with CGPD blocks and a CoordConv as its last layer."""

    def __init__(self, in_channels: int, classes: int, filters: int, groups: int, dropout: float) -> None:
        def level(channels_in: int, channels_out: int, *, deeper: bool) -> DoubleCgpd:
            middle = channels_out // 2 if deeper else channels_out
            return DoubleCgpd(channels_in, middle, channels_out, groups, dropout)

        super().__init__(in_channels, classes, filters, level, extra=AXES)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits of the features of the last level and of the place of each voxel."""
        return self.output(torch.cat([features, coordinates(features)], dim=1))


def recognize(state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """Return the arguments of `build` whose network has exactly these tensors, or None if there are none.

    No tensor tells the number of groups or the dropout. The names are this project's own.
    """
    return confirmed(build, _arguments, without_prefix(state))


def _arguments(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    output = state["output.weight"].shape
    return {
        "in_channels": state["encoder.0.first.conv.weight"].shape[1],
        "classes": output[0],
        "filters": output[1] - AXES,
    }
