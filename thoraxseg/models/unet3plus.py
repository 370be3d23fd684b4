"""U-Net3+: a U-Net whose decoder nodes see every scale, for lungs and tumors in mouse MRI; two variants.

- `huang` (default): Huang et al. 2020. Every branch is convolution 3 x 3 to 64 channels, batch normalization,
  ReLU; five branches are joined to 320 channels and fused by one such block; the output convolution is 3 x 3.
- `kaniewski-code`: what the code of Kaniewski et al. 2024 builds under this name: the layout of DeepMeta with
  plain convolutions. A branch is a 3 x 3 convolution with bias and nothing after it, the nearest lower node
  comes through a transposed convolution, two blocks fuse, and the output convolution is 1 x 1.

Parameters with 1 channel and 3 classes in 2-D: huang 26.98 M (64 filters) and 11.18 M (32); kaniewski-code
30.02 M (64) and 14.39 M (32). Where the sources disagree: Kaniewski's paper says 32 filters and cites Huang,
its code takes 64 filters in 2-D and 32 in 3-D; the paper's form with 32 filters is the default. The paper's
"un-padded convolutions" contradict its own code and label sizes; convolutions here keep the size. Bilinear
interpolation aligns corners in the 2-D `kaniewski-code` only, as there; public copies of Huang's code and the
3-D form of Kaniewski's do not. The papers use it in 2-D; `dimensions=3` builds the 3-D form of the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from thoraxseg.models.unet import (
    BATCH_NORM,
    CONV,
    CONV_TRANSPOSE,
    MAX_POOL,
    DoubleConv,
    checked_dimensions,
    confirmed,
    initialize,
    renamed,
    without_prefix,
)

BRANCH = 64
"""Channels that every branch contributes to a decoder node; five branches meet in each."""
FUSED = 5 * BRANCH
DEPTH = 4
VARIANTS = ("huang", "kaniewski-code")
LINEAR = {2: "bilinear", 3: "trilinear"}


def build(
    in_channels: int = 1, classes: int = 3, filters: int = 32, variant: str = "huang", dimensions: int = 2
) -> UNet3Plus:
    """Return the network: `(N, in_channels, ...)` -> logits `(N, classes, ...)` of the same size.

    Every spatial size has to be a multiple of 16. Raises TypeError for an unknown variant or dimensions.
    """
    if variant not in VARIANTS:
        raise TypeError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
    return UNet3Plus(in_channels, classes, filters, variant, checked_dimensions(dimensions))


def conv_norm_relu(dimensions: int, channels_in: int, channels_out: int) -> nn.Sequential:
    """Return a 3-wide convolution with bias that keeps the size, a batch normalization and a ReLU."""
    return nn.Sequential(
        CONV[dimensions](channels_in, channels_out, 3, padding=1),
        BATCH_NORM[dimensions](channels_out),
        nn.ReLU(),
    )


def double_conv_norm_relu(dimensions: int, channels_in: int, channels_out: int) -> nn.Sequential:
    """Return two blocks of `conv_norm_relu` in one row."""
    return nn.Sequential(
        *conv_norm_relu(dimensions, channels_in, channels_out),
        *conv_norm_relu(dimensions, channels_out, channels_out),
    )


class DecoderNode(nn.Module):
    """Join higher levels (max-pooled) and lower nodes (upsampled), each through its own convolution, and fuse.

    `above` and `below` list (channels, factor) of the branches in the order in which they are joined;
    `nearest` are the channels of the lower node that comes through a transposed convolution, if there is one.
    """

    def __init__(
        self,
        dimensions: int,
        above: list[tuple[int, int]],
        below: list[tuple[int, int]],
        nearest: int | None,
    ) -> None:
        super().__init__()
        self.pool, self.mode = MAX_POOL[dimensions], LINEAR[dimensions]
        self.align_corners = nearest is not None and dimensions == 2
        self.pools = [factor for _, factor in above]
        self.ups = [factor for _, factor in below]

        def branch(channels: int) -> nn.Module:
            if nearest is None:
                return conv_norm_relu(dimensions, channels, BRANCH)
            return CONV[dimensions](channels, BRANCH, 3, padding=1)

        self.above = nn.ModuleList(branch(channels) for channels, _ in above)
        self.below = nn.ModuleList(branch(channels) for channels, _ in below)
        if nearest is None:
            self.nearest = None
            self.fuse = conv_norm_relu(dimensions, FUSED, FUSED)
        else:
            self.nearest = CONV_TRANSPOSE[dimensions](nearest, BRANCH, 2, stride=2)
            self.fuse = DoubleConv(dimensions, FUSED, FUSED)

    def forward(self, above: list[torch.Tensor], below: list[torch.Tensor]) -> torch.Tensor:
        """Fuse encoder levels, shallow first, and lower nodes, nearest first (which may have its own way)."""
        branches = [
            conv(self.pool(x, factor) if factor > 1 else x)
            for conv, x, factor in zip(self.above, above, self.pools, strict=True)
        ]
        interpolated = below if self.nearest is None else below[1:]
        for conv, x, factor in zip(self.below, interpolated, self.ups, strict=True):
            up = nn.functional.interpolate(
                x, scale_factor=factor, mode=self.mode, align_corners=self.align_corners
            )
            branches.append(conv(up))
        if self.nearest is not None:
            branches.append(self.nearest(below[0]))
        return self.fuse(torch.cat(branches, dim=1))


class UNet3Plus(nn.Module):
    """Four encoder levels, a bridge, and four decoder nodes that each see every scale."""

    def __init__(self, in_channels: int, classes: int, filters: int, variant: str, dimensions: int) -> None:
        super().__init__()
        coded = variant == "kaniewski-code"
        block = DoubleConv if coded else double_conv_norm_relu
        self.pool = MAX_POOL[dimensions]
        widths = [filters * 2**level for level in range(DEPTH + 1)]
        sources = [in_channels, *widths]
        self.encoder = nn.ModuleList(block(dimensions, sources[i], widths[i]) for i in range(DEPTH))
        self.bridge = block(dimensions, widths[DEPTH - 1], widths[DEPTH])
        self.decoder = nn.ModuleList()
        for node in range(DEPTH):  # node 0 is the deepest
            level = DEPTH - 1 - node
            above = [(widths[i], 2 ** (level - i)) for i in range(level + 1)]
            below = [(FUSED, 2 ** (node - lower)) for lower in reversed(range(node))]
            below.append((widths[DEPTH], 2 ** (node + 1)))
            nearest = below.pop(0)[0] if coded else None
            self.decoder.append(DecoderNode(dimensions, above, below, nearest))
        kernel = 1 if coded else 3
        self.output = CONV[dimensions](FUSED, classes, kernel, padding=kernel // 2)
        self.apply(initialize)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        levels: list[torch.Tensor] = []
        x = image
        for block in self.encoder:
            levels.append(block(x))
            x = self.pool(levels[-1], 2)
        lower = [self.bridge(x)]  # nearest first
        for index, node in enumerate(self.decoder):
            lower.insert(0, node(levels[: DEPTH - index], lower))
        return self.output(lower[0])


_PUBLISHED = (
    (r"^down(\d)\.conv\.double_conv\.", lambda m: f"encoder.{int(m[1]) - 1}."),
    (r"^bridge\.conv\.double_conv\.", lambda m: "bridge."),
    (r"^up(\d)\.up\.", lambda m: f"decoder.{int(m[1]) - 1}.nearest."),
    (r"^up(\d)\.conv\.double_conv\.", lambda m: f"decoder.{int(m[1]) - 1}.fuse."),
    (r"^concat(\d)\.norm_down\.(\d)\.norm\.", lambda m: f"decoder.{int(m[1]) - 1}.above.{m[2]}."),
    (r"^concat(\d)\.norm_up\.(\d)\.norm\.", lambda m: f"decoder.{int(m[1]) - 1}.below.{m[2]}."),
    (r"^outc\.conv\.", lambda m: "output."),
)


def from_published(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a file written by Kaniewski's code under the names of `kaniewski-code`.

    That code joins the lower nodes from the nearest to the deepest, then the transposed convolution, as here.
    """
    return renamed(state, _PUBLISHED)


def recognize(state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """Return the arguments of `build` whose network has exactly these tensors, or None if there are none."""
    return confirmed(build, _arguments, from_published(without_prefix(state)))


def _arguments(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    first = state["encoder.0.0.weight"].shape
    return {
        "in_channels": first[1],
        "classes": state["output.weight"].shape[0],
        "filters": first[0],
        "variant": VARIANTS["decoder.0.nearest.weight" in state],
        "dimensions": len(first) - 2,
    }
