"""nnU-Net's residual encoder network: v2 `ResidualEncoderUNet` (the ResEnc presets); 2-D and 3-D.

Own modules under the tensor names of nnunetv2 and dynamic-network-architectures 0.4 (Apache-2.0, read for
facts), without their duplicates. A stem (convolution, instance normalization, LeakyReLU at full resolution), then
stages of residual blocks in the form of ResNet-D: two convolutions, the first strided; the input, average-pooled by
the stride and put through a 1-wide convolution without bias where the channels change, is added before the
last LeakyReLU. Decoder, plans and refusals are those of `plain_conv_unet`. v1 has no such network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from thoraxseg.models.plain_conv_unet import (
    ConvNorm,
    Decoder,
    Encoder,
    Layers,
    PerAxis,
    PerStage,
    Row,
    Topology,
    decoder_of,
    layers_of_plan,
    per_stage,
    published_names,
    recognized_decoder,
    topology,
)
from thoraxseg.models.plain_conv_unet import from_published as from_published
from thoraxseg.models.unet import confirmed, widths, without_prefix

AVERAGE_POOL = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
BASIC_BLOCK = "dynamic_network_architectures.building_blocks.residual.BasicBlockD"


def build(
    *,
    in_channels: int,
    classes: int,
    n_stages: int,
    features_per_stage: PerStage,
    kernel_sizes: PerAxis,
    strides: PerAxis,
    n_blocks_per_stage: PerStage,
    n_conv_per_stage_decoder: PerStage,
    conv_bias: bool,
    dimensions: int | None = None,
    decoder_kernel_sizes: PerAxis | None = None,
    stem_channels: int | None = None,
    block: str | None = None,
    bottleneck_channels: PerStage | None = None,
    **plan: Any,
) -> ResidualEncoderUNet:
    """Return the network: `(N, in_channels, ...)` -> logits `(N, classes, ...)` of the same size.

    Words are those of `arch_kwargs` in v2 plans, as for `plain_conv_unet.build`. `stem_channels` are the features of
    the first stage unless given. Raises TypeError naming what a plan asks for that is not built here; among
    the blocks, only BasicBlockD is.
    """
    if block not in (None, BASIC_BLOCK) or bottleneck_channels is not None:
        raise TypeError(f"block must be BasicBlockD without bottleneck_channels, not {block!r}")
    shape = topology(n_stages, features_per_stage, kernel_sizes, strides, dimensions, plan.get("conv_op"))
    layers = layers_of_plan(shape.dimensions, conv_bias, **plan)
    counts = per_stage("n_blocks_per_stage", n_blocks_per_stage, n_stages)
    decoder = decoder_of(shape, layers, classes, n_conv_per_stage_decoder, decoder_kernel_sizes)
    return ResidualEncoderUNet(
        in_channels, stem_channels or shape.features[0], shape, layers, counts, decoder
    )


class Residual(nn.Module):
    """Two convolutions and the pooled and projected input, added before the last activation."""

    def __init__(
        self, layers: Layers, channels: tuple[int, int], kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        before, after = channels
        self.conv1 = ConvNorm(layers, channels, kernel, tuple(stride))
        self.conv2 = ConvNorm(layers, (after, after), kernel, linear=True)
        self.skip = nn.Sequential()
        if max(stride) > 1:
            self.skip.append(AVERAGE_POOL[layers.dimensions](tuple(stride), tuple(stride)))
        if before != after:
            flat = (1,) * layers.dimensions
            self.skip.append(ConvNorm(replace(layers, bias=False), channels, flat, linear=True))
        self.nonlin2 = layers.activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.skip(x)
        return self.nonlin2(self.conv2(self.conv1(x)).add_(residual))


class Stage(nn.Module):
    """A row of residual blocks, the first one strided."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


class ResidualEncoderUNet(nn.Module):
    """A stem, an encoder of residual stages and the plain decoder."""

    def __init__(
        self,
        in_channels: int,
        stem_channels: int,
        shape: Topology,
        layers: Layers,
        counts: Sequence[int],
        decoder: Decoder,
    ) -> None:
        super().__init__()
        flat = (1,) * shape.dimensions
        stages: list[nn.Module] = []
        before = stem_channels
        for features, kernel, stride, blocks in zip(
            shape.features, shape.kernels, shape.strides, counts, strict=True
        ):
            first = Residual(layers, (before, features), kernel, stride)
            others = [Residual(layers, (features, features), kernel, flat) for _ in range(blocks - 1)]
            stages.append(Stage([first, *others]))
            before = features
        stem = Row(layers, (in_channels, stem_channels), shape.kernels[0], 1, 1)
        self.encoder = Encoder(stages, stem)
        self.decoder = decoder

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(image))


def recognize(state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """Return the arguments of `build` whose network has exactly these tensors, or None if there are none.

    What no tensor tells is taken to be nnU-Net's, as in `plain_conv_unet.recognize`.
    """
    return confirmed(build, _arguments, dict(published_names(without_prefix(state))))


def _arguments(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    found = recognized_decoder(state, "encoder.stages.{}.blocks.0.conv1.conv.weight")
    stem = state["encoder.stem.convs.0.conv.weight"].shape
    found["in_channels"] = stem[1]
    if stem[0] != found["features_per_stage"][0]:
        found["stem_channels"] = stem[0]
    found["n_blocks_per_stage"] = [
        len(widths(state, f"encoder.stages.{s}.blocks.{{}}.conv1.conv.weight"))
        for s in range(found["n_stages"])
    ]
    return found
