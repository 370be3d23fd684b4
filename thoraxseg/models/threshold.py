"""A stand-in for a trained network: one intensity band per class. For tests and the offline demo.

It knows no anatomy. The logit of class l at a voxel is -((x - center_l) / width_l)^2 of the image
averaged over `window` voxels along each axis.
"""

from __future__ import annotations

import torch
from torch import nn


def build(
    centers: list[float], widths: list[float], window: int = 1, dimensions: int = 3, in_channels: int = 1
) -> Threshold:
    """Return the network: `(N, 1, ...)` with 2 or 3 spatial axes -> logits `(N, len(centers), ...)`."""
    return Threshold(centers, widths, window, dimensions, in_channels)


class Threshold(nn.Module):
    """Bands around `centers` with `widths`, in the units of the preprocessed image; its state is just these."""

    def __init__(
        self, centers: list[float], widths: list[float], window: int, dimensions: int, in_channels: int
    ) -> None:
        super().__init__()
        if len(centers) != len(widths) or window % 2 != 1 or dimensions not in (2, 3) or in_channels != 1:
            raise ValueError("as many widths as centers, an odd window, 2 or 3 dimensions and 1 channel")
        self.register_buffer("centers", torch.tensor(centers, dtype=torch.float32))
        self.register_buffer("widths", torch.tensor(widths, dtype=torch.float32))
        pool = (nn.AvgPool2d, nn.AvgPool3d)[dimensions - 2]
        self.smooth = pool(window, stride=1, padding=window // 2, count_include_pad=False)
        self.spatial = (1,) * dimensions

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        bands = (1, -1, *self.spatial)
        return -(((self.smooth(image) - self.centers.view(bands)) / self.widths.view(bands)) ** 2)
