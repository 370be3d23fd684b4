"""MONAI's `UNet`, for lung tumors in human CT: our own modules under the tensor names of MONAI 1.x (Apache-2.0).

A state dict of `monai.networks.nets.UNet` loads as it is. A level is a strided convolution or, with
`num_res_units`, a residual unit of as many convolutions, the first of them strided; up is a strided transposed
convolution, joined behind the skip, followed by a residual unit of one convolution. After a convolution come
instance normalization without affine weights, dropout and PReLU ("NDA"). The coursework on ensembles gives
channels, strides, residual units and dropout only in a figure: they are arguments without a default.

**Trap**, kept as it is: without residual units the last transposed convolution is the output. With them it is
already `classes` channels wide and normalized over each of them; only the convolution after it is linear.
With one class the network thus sees a map of mean 0 and SD 1 whatever the image holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import nn

from thoraxseg.models.unet import CONV, CONV_TRANSPOSE, checked_dimensions, confirmed, widths, without_prefix

NORMS = {
    ("INSTANCE", 2): nn.InstanceNorm2d,
    ("INSTANCE", 3): nn.InstanceNorm3d,
    ("BATCH", 2): nn.BatchNorm2d,
    ("BATCH", 3): nn.BatchNorm3d,
}
ACTIVATIONS = {"PRELU": nn.PReLU, "RELU": nn.ReLU, "LEAKYRELU": nn.LeakyReLU}


def build(
    channels: Sequence[int],
    strides: Sequence[int | Sequence[int]],
    num_res_units: int,
    in_channels: int = 1,
    classes: int = 1,
    dimensions: int = 3,
    kernel_size: int | Sequence[int] = 3,
    up_kernel_size: int | Sequence[int] = 3,
    act: str = "PRELU",
    norm: str = "INSTANCE",
    dropout: float = 0.0,
    bias: bool = True,
) -> MonaiUNet:
    """Return the network: `(N, in_channels, ...)` -> logits `(N, classes, ...)`; one class means a sigmoid.

    Words and defaults are MONAI's, but for `classes` (out_channels) and `dimensions` (spatial_dims); sizes have
    to be multiples of the product of the strides. Raises TypeError for an activation, normalization, kernel or
    number of strides that is not built here.
    """
    checked_dimensions(dimensions)
    if len(channels) < 2 or len(strides) != len(channels) - 1:
        raise TypeError(
            f"{len(channels)} channels need one stride less, and at least one, not {len(strides)}"
        )
    if str(act).upper() not in ACTIVATIONS:
        raise TypeError(f"act must be one of {', '.join(ACTIVATIONS)}, not {act!r}")
    if (str(norm).upper(), dimensions) not in NORMS:
        raise TypeError(f"norm must be INSTANCE or BATCH, not {norm!r}")
    words = _Words(dimensions, str(act).upper(), str(norm).upper(), dropout, bias)
    kernels = (_per_axis(kernel_size, dimensions), _per_axis(up_kernel_size, dimensions))
    if any(size % 2 == 0 for kernel in kernels for size in kernel):
        raise TypeError(f"kernels must be odd to keep the size, not {kernel_size!r} and {up_kernel_size!r}")
    steps = [_per_axis(stride, dimensions) for stride in strides]
    return MonaiUNet(in_channels, classes, list(channels), steps, num_res_units, *kernels, words)


def _per_axis(value: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    sizes = (value,) * dimensions if isinstance(value, int) else tuple(value)
    if len(sizes) != dimensions:
        raise TypeError(f"{value!r} needs one number for each of {dimensions} axes")
    return sizes


class _Words:
    """What all convolutions of one network share."""

    def __init__(self, dimensions: int, act: str, norm: str, dropout: float, bias: bool) -> None:
        self.dimensions, self.act, self.norm, self.dropout, self.bias = dimensions, act, norm, dropout, bias

    def after(self, channels: int) -> nn.Sequential:
        """Return normalization, dropout and activation under MONAI's names."""
        layers = nn.Sequential()
        layers.add_module("N", NORMS[self.norm, self.dimensions](channels))
        layers.add_module("D", nn.Dropout(self.dropout))
        layers.add_module("A", ACTIVATIONS[self.act]())
        return layers


class Convolution(nn.Sequential):
    """A convolution that keeps the size but for its stride, and what comes after it unless it is `linear`."""

    def __init__(
        self,
        words: _Words,
        sizes: tuple[int, int],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        linear: bool,
    ) -> None:
        super().__init__()
        padding = tuple(size // 2 for size in kernel)
        self.conv = CONV[words.dimensions](*sizes, kernel, stride, padding, bias=words.bias)
        if not linear:
            self.adn = words.after(sizes[1])


class UpConvolution(nn.Sequential):
    """A transposed convolution that multiplies the size by its stride, and what comes after unless `linear`."""

    def __init__(
        self,
        words: _Words,
        sizes: tuple[int, int],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        linear: bool,
    ) -> None:
        super().__init__()
        padding = tuple(size // 2 for size in kernel)
        extra = tuple(step - 1 for step in stride)
        self.conv = CONV_TRANSPOSE[words.dimensions](*sizes, kernel, stride, padding, extra, bias=words.bias)
        if not linear:
            self.adn = words.after(sizes[1])


class ResidualUnit(nn.Module):
    """`units` convolutions, the first strided, and the input added, through a convolution where its shape differs.

    A `linear` unit has one convolution and nothing after it.
    """

    def __init__(
        self,
        words: _Words,
        sizes: tuple[int, int],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        units: int,
        linear: bool,
    ) -> None:
        super().__init__()
        before, after = sizes
        self.conv = nn.Sequential()
        for unit in range(units):
            step = stride if unit == 0 else (1,) * len(stride)
            channels = (before if unit == 0 else after, after)
            last = Convolution(words, channels, kernel, step, linear)
            self.conv.add_module(f"unit{unit}", last)
        self.residual = nn.Identity()
        if prod(stride) != 1 or before != after:
            wide = kernel if prod(stride) != 1 else (1,) * len(kernel)
            padding = tuple(size // 2 for size in wide)
            self.residual = CONV[words.dimensions](before, after, wide, stride, padding, bias=words.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.residual(x)
        return self.conv(x) + residual


class Skip(nn.Module):
    """The input and, behind it, what the lower levels make of it."""

    def __init__(self, lower: nn.Module) -> None:
        super().__init__()
        self.submodule = lower

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.submodule(x)], dim=1)


class MonaiUNet(nn.Module):
    """Levels nested in one another: down, everything below beside its input, up."""

    def __init__(
        self,
        in_channels: int,
        classes: int,
        channels: list[int],
        strides: list[tuple[int, ...]],
        units: int,
        kernel: tuple[int, ...],
        up_kernel: tuple[int, ...],
        words: _Words,
    ) -> None:
        super().__init__()

        def down(before: int, after: int, stride: tuple[int, ...]) -> nn.Module:
            if units > 0:
                return ResidualUnit(words, (before, after), kernel, stride, units, linear=False)
            return Convolution(words, (before, after), kernel, stride, linear=False)

        def up(before: int, after: int, stride: tuple[int, ...], top: bool) -> nn.Module:
            wide = UpConvolution(words, (before, after), up_kernel, stride, linear=top and units == 0)
            if units == 0:
                return wide
            flat = (1,) * len(stride)
            return nn.Sequential(wide, ResidualUnit(words, (after, after), kernel, flat, 1, linear=top))

        # From the bottom up; the bottom itself keeps the size.
        lower = down(channels[-2], channels[-1], (1,) * words.dimensions)
        below = channels[-1]
        for level in reversed(range(len(strides))):
            top = level == 0
            before = in_channels if top else channels[level - 1]
            after = classes if top else channels[level - 1]
            lower = nn.Sequential(
                down(before, channels[level], strides[level]),
                Skip(lower),
                up(channels[level] + below, after, strides[level], top),
            )
            below = channels[level - 1]
        self.model = lower

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model(image)


def recognize(state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """Return arguments of `build` whose network has exactly these tensors, or None if there are none.

    **No tensor tells a stride.** Where the shape of a residual convolution says that a level keeps its size, its
    stride is 1; all others are assumed to be 2, as in every example of MONAI: have the user confirm them. Nor
    do tensors tell the dropout; activations without weights (ReLU) are not recognized.
    """
    return confirmed(build, _arguments, without_prefix(state))


def _arguments(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    units = len(widths(state, "model.0.conv.unit{}.conv.weight"))
    inside = "conv.unit0." if units else ""
    levels, bottom = [], "model."
    while f"{bottom}0.{inside}conv.weight" in state:
        levels.append(bottom)
        bottom += "1.submodule."
    firsts = [state[f"{level}0.{inside}conv.weight"].shape for level in levels]
    firsts.append(state[f"{bottom}{inside}conv.weight"].shape)
    up = state["model.2.0.conv.weight" if units else "model.2.conv.weight"].shape
    return {
        "channels": [shape[0] for shape in firsts],
        "strides": [_stride(state, level, units) for level in levels],
        "num_res_units": units,
        "in_channels": firsts[0][1],
        "classes": up[1],
        "dimensions": len(up) - 2,
        "kernel_size": list(firsts[0][2:]),
        "up_kernel_size": list(up[2:]),
        "norm": "BATCH" if f"model.0.{inside}adn.N.running_mean" in state else "INSTANCE",
        "bias": f"model.0.{inside}conv.bias" in state,
    }


def _stride(state: Mapping[str, torch.Tensor], level: str, units: int) -> int:
    """Return 1 if the tensors of a level show that it keeps its size, else 2."""
    residual = state.get(f"{level}0.residual.weight")
    if units == 0 or (residual is not None and prod(residual.shape[2:]) > 1):
        return 2
    return 1
