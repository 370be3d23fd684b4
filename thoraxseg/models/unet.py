"""U-Net with 64 filters, for lungs and tumors in mouse MRI, as the benchmark of Kaniewski et al. 2024 codes it.

Source: the benchmark's public code (Apache-2.0, read for facts) after Ronneberger et al. 2015. Five levels,
64-128-256-512 and a bridge of 1024, each level twice convolution 3 x 3 with bias, batch normalization, ReLU
and spatial dropout 0.1; 31,042,499 parameters with 1 channel and 3 classes in 2-D (the code's 31.04 M).
Where the paper contradicts itself: it speaks of un-padded convolutions, but its labels have the size of the
images and its code pads; convolutions here keep the size. The paper trains it in 2-D only; the code also has
the 3-D form, which `dimensions=3` builds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from thoraxseg.errors import CheckpointError

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOL = {2: nn.functional.max_pool2d, 3: nn.functional.max_pool3d}
DROPOUT_LAYER = {2: nn.Dropout2d, 3: nn.Dropout3d}
DROPOUT = 0.1
DEPTH = 4


def build(in_channels: int = 1, classes: int = 3, filters: int = 64, dimensions: int = 2) -> UNet:
    """Return the network: `(N, in_channels, ...)` -> logits `(N, classes, ...)` of the same size.

    Every spatial size has to be a multiple of 16. Raises TypeError for other `dimensions` than 2 or 3.
    """
    return UNet(in_channels, classes, filters, checked_dimensions(dimensions))


class DoubleConv(nn.Sequential):
    """Twice: 3-wide convolution with bias that keeps the size, batch normalization, ReLU, spatial dropout."""

    def __init__(self, dimensions: int, channels_in: int, channels_out: int) -> None:
        layers: list[nn.Module] = []
        for channels in (channels_in, channels_out):
            layers += [
                CONV[dimensions](channels, channels_out, 3, padding=1),
                BATCH_NORM[dimensions](channels_out),
                nn.ReLU(),
                DROPOUT_LAYER[dimensions](DROPOUT),
            ]
        super().__init__(*layers)


class UpNode(nn.Module):
    """Halve the channels while doubling the size, join behind the skip, and convolve twice."""

    def __init__(self, dimensions: int, channels: int) -> None:
        super().__init__()
        self.up = CONV_TRANSPOSE[dimensions](channels, channels // 2, 2, stride=2)
        self.fuse = DoubleConv(dimensions, channels, channels // 2)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.fuse(torch.cat([skip, self.up(x)], dim=1))


class UNet(nn.Module):
    """Four encoder levels, a bridge, and four decoder nodes that each see the encoder level of their size."""

    def __init__(self, in_channels: int, classes: int, filters: int, dimensions: int) -> None:
        super().__init__()
        self.pool = MAX_POOL[dimensions]
        widths = [filters * 2**level for level in range(DEPTH + 1)]
        sources = [in_channels, *widths]
        self.encoder = nn.ModuleList(DoubleConv(dimensions, sources[i], widths[i]) for i in range(DEPTH))
        self.bridge = DoubleConv(dimensions, widths[DEPTH - 1], widths[DEPTH])
        self.decoder = nn.ModuleList(UpNode(dimensions, widths[DEPTH - i]) for i in range(DEPTH))
        self.output = CONV[dimensions](filters, classes, 1)
        self.apply(initialize)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skips: list[torch.Tensor] = []
        x = image
        for block in self.encoder:
            skips.append(block(x))
            x = self.pool(skips[-1], 2)
        x = self.bridge(x)
        for node, skip in zip(self.decoder, reversed(skips), strict=True):
            x = node(x, skip)
        return self.output(x)


_PUBLISHED = (
    (r"^down(\d)\.conv\.double_conv\.", lambda m: f"encoder.{int(m[1]) - 1}."),
    (r"^bridge\.conv\.double_conv\.", lambda m: "bridge."),
    (r"^up(\d)\.up\.", lambda m: f"decoder.{int(m[1]) - 1}.up."),
    (r"^up(\d)\.conv\.double_conv\.", lambda m: f"decoder.{int(m[1]) - 1}.fuse."),
    (r"^outc\.conv\.", lambda m: "output."),
)


def from_published(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a file written by the benchmark's code under the names of this network."""
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
        "dimensions": len(first) - 2,
    }


# What the other architectures share with this one.


def initialize(layer: nn.Module) -> None:
    """Give a convolution He-normal weights (fan-in) and a batch normalization weights from N(1, 0.02)."""
    if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
        nn.init.kaiming_normal_(layer.weight, mode="fan_in")
    elif isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d)):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)


def checked_dimensions(dimensions: int) -> int:
    """Return `dimensions` if a network can have as many spatial axes; raises TypeError otherwise."""
    if dimensions not in (2, 3):
        raise TypeError(f"dimensions must be 2 or 3, not {dimensions!r}")
    return dimensions


def renamed(
    state: Mapping[str, torch.Tensor], rules: tuple[tuple[str, Callable[[re.Match[str]], str]], ...]
) -> dict[str, torch.Tensor]:
    """Return `state` under new names: for every name the first of the (pattern, new start) rules that fits.

    Raises CheckpointError when two tensors get one name, since nobody can say which one was trained.
    """
    names: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        for pattern, name in rules:
            key, hits = re.subn(pattern, name, key)
            if hits:
                break
        if key in names:
            raise CheckpointError(
                f"the weights hold two tensors for {key}: the file is damaged or was edited."
            )
        names[key] = tensor
    return names


def without_prefix(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return `state` without the `module.` that training on several devices puts before every name."""
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}


def widths(state: Mapping[str, torch.Tensor], name: str) -> list[int]:
    """Return the output channels of the convolutions `name` with 0, 1, 2 ... in its braces, while there are any."""
    found: list[int] = []
    while name.format(len(found)) in state:
        found.append(state[name.format(len(found))].shape[0])
    return found


def confirmed(
    build: Callable[..., nn.Module],
    arguments_of: Callable[[Mapping[str, torch.Tensor]], dict[str, Any]],
    state: Mapping[str, torch.Tensor],
) -> dict[str, Any] | None:
    """Return the arguments that `arguments_of` reads from `state` if they build exactly its tensors, else None.

    `arguments_of` may look for tensors that are not there: whatever it or `build` then raises means None.
    """
    try:
        arguments = arguments_of(state)
        with torch.device("meta"):  # names and shapes only, whatever the size
            expected = build(**arguments).state_dict()
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError):
        return None
    if expected.keys() != state.keys():
        return None
    return arguments if all(expected[key].shape == state[key].shape for key in expected) else None
