"""RRc-UNet 3D: a five-level 3-D U-Net of recurrent residual blocks for lung tumors in human CT (Le and Saut).

Input CT and lung mask, output background, lung and tumor; max-pooling by 2 between levels, trilinear
upsampling, 32-64-128-256-512 channels. The paper has no public code. One level is one of four blocks:

- `rrc` (default): r = conv_in(x), y = RB2(RB1(r)), then r and y combined. A recurrent block RB applies
  f = convolution 3 x 3 x 3, group normalization, PReLU exactly `repeats` times: h = f(x), then h = f(x + h).
  `combine="add"`: r + y, conv_in is 1 x 1 x 1. `combine="concat"`: r beside y at half width each, conv_in
  3 x 3 x 3. `input_kernel` overrides conv_in's kernel; `shared=False` gives every repeat its own weights.
- `cgpd`: two of convolution, group normalization, PReLU, dropout. `widen="second"` (default): the second
  doubles the channels, as the paper says; `widen="first"` is the double convolution of an ordinary U-Net.
- `residual`: two blocks conv-GN-PReLU-conv-GN, add, PReLU, each followed by dropout; where the channels
  change, the input is added through a 1 x 1 x 1 convolution.
- `recurrent`: conv_in 1 x 1 x 1 and two RB, without the outer addition.

Millions of parameters (2 channels, 3 classes, 32 filters): rrc add 24.00 (the default; "the same parameters as
the U-Net", which is 23.54 as cgpd with widen="first"), rrc concat 11.77, and 17.66 unshared; rrc add
with a 3 x 3 x 3 conv_in 35.32; rrc add unshared 47.57, with a 3 x 3 x 3 conv_in 58.88.

Where the paper contradicts itself or is silent, and what we chose. The text concatenates r and y, but says that
the model has as many parameters as the U-Net; only addition, as in the R2U-Net it builds on, fits that. cgpd
doubles channels at the second convolution; of the 2 input channels we make 16, then 32. The upsampling
"halves the number of feature channels", but Table 1 joins 512 + 256 = 768: channels are kept. Table 1
prints decoder level 1 at 256 x 256 x 48: half of that; its decoder level 4 repeats the bottleneck: one. Its
output "1 x": three logits. The public R2U-Net runs f once more than t: exactly t, as the text. 8 groups,
dropout 0.1, interpolation without aligned corners, one PReLU slope a layer: not published, ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from thoraxseg.models.unet import confirmed, widths, without_prefix

DEPTH = 4
BLOCKS = ("rrc", "cgpd", "residual", "recurrent")
COMBINE = ("add", "concat")
WIDEN = ("second", "first")
_Recurrent = Callable[[int], nn.Module]


def build(
    in_channels: int = 2,
    classes: int = 3,
    filters: int = 32,
    block: str = "rrc",
    combine: str = "add",
    shared: bool = True,
    input_kernel: int | None = None,
    widen: str = "second",
    repeats: int = 2,
    groups: int = 8,
    dropout: float = 0.1,
) -> RRcUNet3D:
    """Return the network: `(N, in_channels, K, J, I)` -> logits `(N, classes, K, J, I)`; sizes / 16 whole.

    `combine`, `shared`, `input_kernel` and `repeats` matter to the recurrent blocks, `widen` to `cgpd`. Raises
    TypeError for an unknown word or kernel, ValueError when the groups do not divide the channels.
    """
    for name, value, known in (
        ("block", block, BLOCKS),
        ("combine", combine, COMBINE),
        ("widen", widen, WIDEN),
    ):
        if value not in known:
            raise TypeError(f"{name} must be one of {', '.join(known)}, not {value!r}")
    if input_kernel not in (None, 1, 3) or repeats < 1:
        raise TypeError(
            f"input_kernel must be 1 or 3 and repeats positive, not {input_kernel!r} and {repeats!r}"
        )
    kernel = input_kernel or (3 if block == "rrc" and combine == "concat" else 1)

    def level(channels_in: int, channels_out: int, *, deeper: bool) -> nn.Module:
        if block == "cgpd":
            middle = channels_out // 2 if widen == "second" and deeper else channels_out
            return DoubleCgpd(channels_in, middle, channels_out, groups, dropout)
        if block == "residual":
            return DoubleResidual(channels_in, channels_out, groups, dropout)
        kind = (
            RecurrentLevel if block == "recurrent" else {"add": AddingLevel, "concat": JoiningLevel}[combine]
        )
        recurrent = partial(Recurrent, repeats=repeats, shared=shared, groups=groups)
        return kind(channels_in, channels_out, kernel, recurrent, dropout)

    return RRcUNet3D(in_channels, classes, filters, level)


class ConvGroupPReLU(nn.Sequential):
    """A 3 x 3 x 3 convolution that keeps the size, group normalization, PReLU with one slope."""

    def __init__(self, channels_in: int, channels_out: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_out, 3, padding=1)
        self.norm = nn.GroupNorm(groups, channels_out)
        self.activation = nn.PReLU()


class DoubleCgpd(nn.Sequential):
    """Twice: convolution, group normalization, PReLU, dropout."""

    def __init__(
        self, channels_in: int, channels_middle: int, channels_out: int, groups: int, dropout: float
    ) -> None:
        super().__init__()
        self.first = ConvGroupPReLU(channels_in, channels_middle, groups)
        self.first_dropout = nn.Dropout(dropout)
        self.second = ConvGroupPReLU(channels_middle, channels_out, groups)
        self.second_dropout = nn.Dropout(dropout)


class Residual(nn.Module):
    """Convolution, normalization, PReLU, convolution, normalization; the input added; PReLU."""

    def __init__(self, channels_in: int, channels_out: int, groups: int) -> None:
        super().__init__()
        self.first = ConvGroupPReLU(channels_in, channels_out, groups)
        self.second = nn.Conv3d(channels_out, channels_out, 3, padding=1)
        self.norm = nn.GroupNorm(groups, channels_out)
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv3d(channels_in, channels_out, 1)
        self.activation = nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.norm(self.second(self.first(x))) + self.skip(x))


class DoubleResidual(nn.Sequential):
    """Two residual blocks, a dropout after each."""

    def __init__(self, channels_in: int, channels_out: int, groups: int, dropout: float) -> None:
        super().__init__(
            Residual(channels_in, channels_out, groups),
            nn.Dropout(dropout),
            Residual(channels_out, channels_out, groups),
            nn.Dropout(dropout),
        )


class Recurrent(nn.Module):
    """h = f(x), then h = f(x + h): f runs `repeats` times, each time with the same weights if `shared`."""

    def __init__(self, channels: int, repeats: int, shared: bool, groups: int) -> None:
        super().__init__()
        self.repeats = repeats
        count = 1 if shared else repeats
        self.steps = nn.ModuleList(ConvGroupPReLU(channels, channels, groups) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.steps[0](x)
        for repeat in range(1, self.repeats):
            hidden = self.steps[repeat % len(self.steps)](x + hidden)
        return hidden


class RecurrentLevel(nn.Module):
    """conv_in, two recurrent blocks, dropout."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, recurrent: _Recurrent, dropout: float
    ) -> None:
        super().__init__()
        self.widen = nn.Conv3d(channels_in, channels_out, kernel, padding=kernel // 2)
        self.recurrent = nn.Sequential(recurrent(channels_out), recurrent(channels_out))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.recurrent(self.widen(x)))


class AddingLevel(nn.Module):
    """conv_in, two recurrent blocks, what went into them added to what came out, dropout."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, recurrent: _Recurrent, dropout: float
    ) -> None:
        super().__init__()
        width = self.width(channels_out)
        self.conv_in = nn.Conv3d(channels_in, width, kernel, padding=kernel // 2)
        self.blocks = nn.Sequential(recurrent(width), recurrent(width))
        self.dropout = nn.Dropout(dropout)

    def width(self, channels_out: int) -> int:
        """Return the channels inside of a level with `channels_out`: as many."""
        return channels_out

    def combine(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Return one tensor of what went into the recurrent blocks and what came out: the sum."""
        return before + after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.conv_in(x)
        return self.dropout(self.combine(before, self.blocks(before)))


class JoiningLevel(AddingLevel):
    """The same with half as many channels inside, the two tensors put beside each other."""

    def width(self, channels_out: int) -> int:
        """Return the channels inside of a level with `channels_out`: half of them."""
        return channels_out // 2

    def combine(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Return one tensor of what went into the recurrent blocks and what came out, in this order."""
        return torch.cat([before, after], dim=1)


class RRcUNet3D(nn.Module):
    """Five levels of what `level(channels_in, channels_out, deeper=...)` makes, and a 1 x 1 x 1 output.

    `deeper` says whether a level is on the way down. `extra` are channels that `head` adds to the features.
    """

    def __init__(
        self, in_channels: int, classes: int, filters: int, level: Callable[..., nn.Module], extra: int = 0
    ) -> None:
        super().__init__()
        widths = [filters * 2**i for i in range(DEPTH + 1)]
        sources = [in_channels, *widths]
        self.encoder = nn.ModuleList(level(sources[i], widths[i], deeper=True) for i in range(DEPTH + 1))
        self.decoder = nn.ModuleList(
            level(widths[i + 1] + widths[i], widths[i], deeper=False) for i in reversed(range(DEPTH))
        )
        self.output = nn.Conv3d(filters + extra, classes, 1)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits of the features of the last level."""
        return self.output(features)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skips: list[torch.Tensor] = []
        x = image
        for block in self.encoder:
            x = block(nn.functional.max_pool3d(x, 2) if skips else x)
            skips.append(x)
        skips.pop()
        for block in self.decoder:
            up = nn.functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
            x = block(torch.cat([skips.pop(), up], dim=1))
        return self.head(x)


def recognize(state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """Return the arguments of `build` whose network has exactly these tensors, or None if there are none.

    No tensor tells the number of groups, the dropout or how often shared weights are repeated: these are left
    at their defaults. The names are this project's own, as no file was ever published.
    """
    return confirmed(build, _arguments, without_prefix(state))


def _arguments(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    classes, filters = state["output.weight"].shape[:2]
    name = next(filter(state.__contains__, _FIRST), "")
    first, block = state[name].shape, _FIRST[name]
    found = {"in_channels": first[1], "classes": classes, "filters": filters, "block": block}
    if block == "rrc":
        found["combine"] = "add" if first[0] == filters else "concat"
    if block in ("rrc", "recurrent"):
        part = "blocks" if block == "rrc" else "recurrent"
        steps = len(widths(state, f"encoder.0.{part}.0.steps.{{}}.conv.weight"))
        found |= {"input_kernel": first[-1]} | ({"shared": False, "repeats": steps} if steps > 1 else {})
    if block == "cgpd":
        found["widen"] = "first" if first[0] == filters else "second"
    return found


_FIRST = {
    "encoder.0.conv_in.weight": "rrc",
    "encoder.0.widen.weight": "recurrent",
    "encoder.0.first.conv.weight": "cgpd",
    "encoder.0.0.first.conv.weight": "residual",
}
"""The first convolution of a network tells which blocks it is made of."""
