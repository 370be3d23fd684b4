"""DeepMeta: a light 2-D U-Net3+ with separable convolutions, for lungs and metastases in mouse MRI.

Kaniewski et al. 2024; layer by layer as the published weights (PyPI napari-deepmeta 2.1) need it:
16 filters, 933,049 parameters with 3 classes and 932,889 with 2. The paper speaks of un-padded
convolutions; the published weights only make sense with padding, so convolutions here keep the size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from thoraxseg.errors import CheckpointError
from thoraxseg.models.unet import confirmed, renamed, without_prefix

BRANCH = 32
"""Channels that every branch contributes to a decoder node; five branches meet in each."""
FUSED = 5 * BRANCH
DROPOUT = 0.1
DEPTH = 4


def build(in_channels: int = 1, classes: int = 3, filters: int = 16) -> DeepMeta:
    """Return the network: `(N, in_channels, H, W)` in [0, 1] -> logits `(N, classes, H, W)`; H, W / 16 whole."""
    return DeepMeta(in_channels, classes, filters)


class SeparableConv(nn.Sequential):
    """A depthwise then a pointwise convolution, both without bias, size kept."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels_in, channels_in, kernel, padding=kernel // 2, groups=channels_in, bias=False
        )
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1, bias=False)


class DoubleConv(nn.Sequential):
    """Twice: separable 3 x 3 convolution, batch normalization, ReLU, spatial dropout."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        layers: list[nn.Module] = []
        for channels in (channels_in, channels_out):
            layers += [
                SeparableConv(channels, channels_out, 3),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(),
                nn.Dropout2d(DROPOUT),
            ]
        super().__init__(*layers)


class DecoderNode(nn.Module):
    """Fuse higher levels (max-pooled), lower nodes (upsampled) and the nearest lower node (transposed conv).

    `above` and `below` list (channels, factor) of the branches in the order in which they are joined.
    Each branch ends in a plain 3 x 3 convolution without normalization or activation.
    """

    def __init__(self, above: list[tuple[int, int]], below: list[tuple[int, int]], nearest: int) -> None:
        super().__init__()
        self.pools = [factor for _, factor in above]
        self.ups = [factor for _, factor in below]
        self.above = nn.ModuleList(nn.Conv2d(channels, BRANCH, 3, padding=1) for channels, _ in above)
        self.below = nn.ModuleList(nn.Conv2d(channels, BRANCH, 3, padding=1) for channels, _ in below)
        self.nearest = nn.ConvTranspose2d(nearest, BRANCH, 2, stride=2)
        self.fuse = DoubleConv(FUSED, FUSED)

    def forward(
        self, above: list[torch.Tensor], below: list[torch.Tensor], nearest: torch.Tensor
    ) -> torch.Tensor:
        branches = [
            conv(nn.functional.max_pool2d(x, factor) if factor > 1 else x)
            for conv, x, factor in zip(self.above, above, self.pools, strict=True)
        ]
        branches += [
            conv(nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True))
            for conv, x, factor in zip(self.below, below, self.ups, strict=True)
        ]
        return self.fuse(torch.cat([*branches, self.nearest(nearest)], dim=1))


class DeepMeta(nn.Module):
    """Four encoder levels, a bridge, and four decoder nodes that each see every scale."""

    def __init__(self, in_channels: int, classes: int, filters: int) -> None:
        super().__init__()
        widths = [filters * 2**level for level in range(DEPTH + 1)]
        sources = [in_channels, *widths[: DEPTH - 1]]
        self.encoder = nn.ModuleList(map(DoubleConv, sources, widths[:DEPTH]))
        self.bridge = DoubleConv(widths[DEPTH - 1], widths[DEPTH])
        self.decoder = nn.ModuleList()
        for node in range(DEPTH):  # node 0 is the deepest
            level = DEPTH - 1 - node
            above = [(widths[i], 2 ** (level - i)) for i in range(level + 1)]
            # Nodes two or more levels below, nearest first, then the bridge.
            below = [(FUSED, 2 ** (node - lower)) for lower in reversed(range(node - 1))]
            below += [(widths[DEPTH], 2 ** (node + 1))] if node else []
            self.decoder.append(DecoderNode(above, below, FUSED if node else widths[DEPTH]))
        self.output = SeparableConv(FUSED, classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        levels: list[torch.Tensor] = []
        x = image
        for block in self.encoder:
            levels.append(block(x))
            x = nn.functional.max_pool2d(levels[-1], 2)
        bridge = self.bridge(x)
        nodes: list[torch.Tensor] = []
        for index, node in enumerate(self.decoder):
            below = [*reversed(nodes[:-1]), bridge] if index else []
            nodes.append(node(levels[: DEPTH - index], below, nodes[-1] if nodes else bridge))
        return self.output(nodes[-1])


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
    """Return the tensors of a published DeepMeta file under the names of this network.

    Raises CheckpointError when two tensors get one name.
    """
    return renamed(state, _PUBLISHED)


def recognize(state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """Return the arguments of `build` that fit the tensors, published or own names, or None for another network."""
    try:
        own = from_published(without_prefix(state))
    except CheckpointError:
        return None
    return confirmed(build, _arguments_of, own)


def _arguments_of(own: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    first, last = own["encoder.0.0.pointwise.weight"], own["output.pointwise.weight"]
    return {"in_channels": first.shape[1], "classes": last.shape[0], "filters": first.shape[0]}
