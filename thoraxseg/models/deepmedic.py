"""DeepMedic: two pathways of un-padded 3-D convolutions at two scales, for lung tumors in human CT.

Kamnitsas et al. 2017 in the form of NiftyNet (Apache-2.0, read for facts), which the coursework on ensembles
uses. The normal pathway sees the patch less 16 voxels on each side, the context pathway the whole patch
sub-sampled by 3 (the center voxel of each 3 x 3 x 3 block). Each has eight blocks of 3 x 3 x 3 convolution,
batch normalization and PReLU (one slope a channel, 0 at the start) with 30, 30, 40, 40, 40, 40, 50, 50
channels; context features are repeated 3 times along each axis and joined behind the normal ones; two
1 x 1 x 1 blocks of 150 and the output convolution follow.

**Sizes.** Nothing is padded: an input of S voxels along an axis, S odd, divisible by 3 and above 48, gives the
central (S / 3 - 16) * 3 voxels: 57 -> 9, 105 -> 57. `output_size` says so, `forward` returns the smaller map.
Where the sources disagree: NiftyNet also normalizes and rectifies the last convolution; here it is linear
with bias, because logits must take any sign. Convolutions before a normalization have no bias, as there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from thoraxseg.errors import InputError
from thoraxseg.models.unet import confirmed, widths, without_prefix

FACTOR = 3
"""Sub-sampling of the context pathway; odd, so that a block has a center voxel."""
FEATURES = (30, 30, 40, 40, 40, 40, 50, 50)
DENSE = (150, 150)


def build(
    in_channels: int = 1, classes: int = 2, features: Sequence[int] = FEATURES, dense: Sequence[int] = DENSE
) -> DeepMedic:
    """Return the network: `(N, in_channels, K, J, I)` -> logits `(N, classes, ...)` of `output_size((K, J, I))`.

    `features` are the channels along each pathway, `dense` those of the 1 x 1 x 1 blocks after the join.
    The network raises InputError for a patch of a size that does not fit. Raises TypeError without features.
    """
    if not features:
        raise TypeError("features must name at least one convolution")
    return DeepMedic(in_channels, classes, list(features), list(dense))


def output_size(input_size: Sequence[int], convolutions: int = len(FEATURES)) -> tuple[int, ...]:
    """Return how many central voxels along each axis a patch of `input_size` voxels gets logits for.

    Raises InputError when a size is even, not divisible by 3 or not larger than the field of view needs.
    """
    lost = 2 * convolutions
    for size in input_size:
        if size % 2 == 0 or size % FACTOR or size <= FACTOR * lost:
            raise InputError(
                f"DeepMedic needs patches with odd sizes divisible by {FACTOR} and above {FACTOR * lost}, "
                f"got {' x '.join(map(str, input_size))}; for example 57 or 105 voxels along each axis."
            )
    return tuple((size // FACTOR - lost) * FACTOR for size in input_size)


class ConvNormPReLU(nn.Module):
    """An un-padded convolution without bias, batch normalization, and a PReLU with one slope a channel."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, bias=False)
        self.norm = nn.BatchNorm3d(channels_out)
        self.activation = nn.PReLU(channels_out, init=0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.norm(self.conv(x)))


class DeepMedic(nn.Module):
    """A normal and a context pathway, joined and classified voxel by voxel."""

    def __init__(self, in_channels: int, classes: int, features: list[int], dense: list[int]) -> None:
        super().__init__()

        def row(kernel: int, *channels: int) -> nn.Sequential:
            return nn.Sequential(*(ConvNormPReLU(a, b, kernel) for a, b in pairwise(channels)))

        self.normal = row(3, in_channels, *features)
        self.context = row(3, in_channels, *features)
        self.dense = row(1, 2 * features[-1], *dense)
        self.output = nn.Conv3d([2 * features[-1], *dense][-1], classes, 1)

    def output_size(self, input_size: Sequence[int]) -> tuple[int, ...]:
        """Return the size of the logits for patches of `input_size`; raises InputError as the function does."""
        return output_size(input_size, len(self.normal))

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        self.output_size(patch.shape[2:])
        border = len(self.normal) * (FACTOR - 1)
        middle = slice(border, -border)
        center = slice(FACTOR // 2, None, FACTOR)
        normal = self.normal(patch[..., middle, middle, middle])
        context = self.context(patch[..., center, center, center])
        context = nn.functional.interpolate(context, scale_factor=FACTOR, mode="nearest")
        return self.output(self.dense(torch.cat([normal, context], dim=1)))


def recognize(state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """Return the arguments of `build` whose network has exactly these tensors, or None if there are none."""
    return confirmed(build, _arguments, without_prefix(state))


def _arguments(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {
        "in_channels": state["normal.0.conv.weight"].shape[1],
        "classes": state["output.weight"].shape[0],
        "features": widths(state, "normal.{}.conv.weight"),
        "dense": widths(state, "dense.{}.conv.weight"),
    }
