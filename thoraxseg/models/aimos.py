"""AIMOS UNet-768: a 2-D U-Net for the organs of the mouse in micro-CT (Schoppe et al. 2020).

Layer by layer as the public code has it (no license: read for facts, nothing copied). Six levels of twice
convolution 3 x 3 without bias, batch normalization (eps 1e-4) and ReLU, 32-64-128-256-512-768, one more such
block at the bottom, and six decoder levels of three blocks; 35,413,829 parameters with 5 classes, background
included. Malimban et al. compare with this network. It takes one slice; `features` builds the
smaller and larger siblings of the same code (UNet-64 to UNet-1024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from thoraxseg.models.unet import confirmed, renamed, widths, without_prefix

EPSILON = 1e-4
FEATURES = (32, 64, 128, 256, 512, 768)


def build(in_channels: int = 1, classes: int = 5, features: Sequence[int] = FEATURES) -> Aimos:
    """Return the network: `(N, in_channels, H, W)` -> logits `(N, classes, H, W)`.

    H and W are at least 2 to the number of levels; odd sizes are rounded down by pooling and restored.
    Raises TypeError when there is no level.
    """
    if not features:
        raise TypeError("features must name at least one level")
    return Aimos(in_channels, classes, list(features))


class ConvNormReLU(nn.Module):
    """A 3 x 3 convolution without bias that keeps the size, batch normalization, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out, eps=EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(self.norm(self.conv(x)))


class Aimos(nn.Module):
    """Encoder with max-pooling, one block at the bottom, decoder with bilinear interpolation."""

    def __init__(self, in_channels: int, classes: int, features: list[int]) -> None:
        super().__init__()

        def row(*channels: int) -> nn.Sequential:
            return nn.Sequential(*map(ConvNormReLU, channels[:-1], channels[1:]))

        sources = [in_channels, *features]
        targets = [features[0], *features]  # the decoder ends as narrow as the first level
        self.encoder = nn.ModuleList(row(sources[i], width, width) for i, width in enumerate(features))
        self.center = ConvNormReLU(features[-1], features[-1])
        self.decoder = nn.ModuleList(
            row(2 * features[i], targets[i], targets[i], targets[i]) for i in reversed(range(len(features)))
        )
        self.output = nn.Conv2d(features[0], classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skips: list[torch.Tensor] = []
        x = image
        for block in self.encoder:
            skips.append(block(x))
            x = nn.functional.max_pool2d(skips[-1], 2)
        x = self.center(x)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            up = nn.functional.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=True)
            x = block(torch.cat([up, skip], dim=1))
        return self.output(x)


def from_published(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a published AIMOS file (its `model_state_dict`) under the names of this network.

    The code counts levels from 1 at the top on both sides; here the decoder counts from the bottom.
    """
    depth = sum(key.endswith(".encode.0.conv.weight") for key in state)
    part = {"conv": "conv", "bn": "norm"}
    return renamed(
        state,
        (
            (
                r"^down(\d+)\.encode\.(\d)\.(conv|bn)\.",
                lambda m: f"encoder.{int(m[1]) - 1}.{m[2]}.{part[m[3]]}.",
            ),
            (r"^center\.bn\.", lambda m: "center.norm."),
            (
                r"^up(\d+)\.decode\.(\d)\.(conv|bn)\.",
                lambda m: f"decoder.{depth - int(m[1])}.{m[2]}.{part[m[3]]}.",
            ),
            (r"^classify\.", lambda m: "output."),
        ),
    )


def recognize(state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """Return the arguments of `build` whose network has exactly these tensors, or None if there are none."""
    return confirmed(build, _arguments, from_published(without_prefix(state)))


def _arguments(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {
        "in_channels": state["encoder.0.0.conv.weight"].shape[1],
        "classes": state["output.weight"].shape[0],
        "features": widths(state, "encoder.{}.0.conv.weight"),
    }
