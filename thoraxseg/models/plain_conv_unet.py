"""nnU-Net's plain network: v2 `PlainConvUNet` and, with the same tensors, v1 `Generic_UNet`; 2-D and 3-D.

Own modules under the tensor names of nnunetv2 and dynamic-network-architectures 0.4 (Apache-2.0, read for
facts), without their duplicates. A stage is a row of convolution, instance normalization, LeakyReLU; the first
convolution of a stage is strided. Up is a transposed convolution as wide as its stride, joined before
the skip. `forward` computes the full-resolution head only; the heads of deep supervision exist for their weights.

**Decoder kernels.** v2 gives a decoder stage the kernel of its skip, v1 the kernel of the level *below*, which
differs where plans are anisotropic: v1 networks need `decoder_kernel_sizes`, deepest stage first, which
for v1 plans is `conv_kernel_sizes[:0:-1]`. v1 has no bias in transposed convolutions nor, as a rule, in
heads: `from_published` puts zeros. Where plans say something else than nnU-Net's own planners do (other
normalization or activation, dropout, a strided first stage), `build` refuses and names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from thoraxseg.errors import CheckpointError
from thoraxseg.models.unet import CONV, CONV_TRANSPOSE, checked_dimensions, confirmed, widths, without_prefix

INSTANCE_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
SLOPE = 0.01

PerStage = int | Sequence[int]
PerAxis = int | Sequence[int | Sequence[int]]


def build(
    *,
    in_channels: int,
    classes: int,
    n_stages: int,
    features_per_stage: PerStage,
    kernel_sizes: PerAxis,
    strides: PerAxis,
    n_conv_per_stage: PerStage,
    n_conv_per_stage_decoder: PerStage,
    conv_bias: bool,
    dimensions: int | None = None,
    decoder_kernel_sizes: PerAxis | None = None,
    **plan: Any,
) -> PlainConvUNet:
    """Return the network: `(N, in_channels, ...)` -> logits `(N, classes, ...)` of the same size.

    Words are those of `arch_kwargs` in v2 plans, which can be passed as they are (`layers_of_plan` lists the
    rest); numbers may stand for all stages or axes. Every size has to be a multiple of the product of the
    strides along its axis. `dimensions` may be left out where the plan has `conv_op`. Raises TypeError naming
    what a plan asks for that is not built here.
    """
    shape = topology(n_stages, features_per_stage, kernel_sizes, strides, dimensions, plan.get("conv_op"))
    layers = layers_of_plan(shape.dimensions, conv_bias, **plan)
    counts = per_stage("n_conv_per_stage", n_conv_per_stage, n_stages)
    decoder = decoder_of(shape, layers, classes, n_conv_per_stage_decoder, decoder_kernel_sizes)
    return PlainConvUNet(in_channels, shape, layers, counts, decoder)


@dataclass(frozen=True)
class Topology:
    """Channels, kernel and stride of every stage, from the full resolution down."""

    dimensions: int
    features: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Layers:
    """What all layers of one network share."""

    dimensions: int
    bias: bool
    epsilon: float
    affine: bool
    slope: float

    def conv(self, channels: tuple[int, int], kernel: Sequence[int], stride: Any = 1) -> nn.Module:
        """Return a convolution that keeps the size but for its stride."""
        padding = [(size - 1) // 2 for size in kernel]
        return CONV[self.dimensions](*channels, tuple(kernel), stride, padding, bias=self.bias)

    def norm(self, channels: int) -> nn.Module:
        """Return an instance normalization."""
        return INSTANCE_NORM[self.dimensions](channels, eps=self.epsilon, affine=self.affine)

    def activation(self) -> nn.Module:
        """Return a LeakyReLU, in place to save memory."""
        return nn.LeakyReLU(self.slope, inplace=True)


def per_stage(name: str, value: PerStage, stages: int) -> tuple[int, ...]:
    """Return one positive number a stage; raises TypeError naming the word when there are more or fewer."""
    values = (value,) * stages if isinstance(value, int) else tuple(value)
    if len(values) != stages or not all(isinstance(v, int) and v > 0 for v in values):
        raise TypeError(f"{name} needs {stages} positive numbers, not {value!r}")
    return values


def per_axis(name: str, value: PerAxis, stages: int, dimensions: int) -> tuple[tuple[int, ...], ...]:
    """Return one positive number a stage and axis; raises TypeError naming the word when they do not fit."""
    rows = (value,) * stages if isinstance(value, int) else tuple(value)
    if len(rows) != stages:
        raise TypeError(f"{name} needs {stages} entries, not {value!r}")
    return tuple(per_stage(f"every entry of {name}", row, dimensions) for row in rows)


def topology(
    n_stages: int,
    features_per_stage: PerStage,
    kernel_sizes: PerAxis,
    strides: PerAxis,
    dimensions: int | None,
    conv_op: str | None,
) -> Topology:
    """Return the stages that a plan describes; raises TypeError naming the word that does not fit."""
    known = {f"{path}.Conv{n}d": n for path in ("torch.nn", "torch.nn.modules.conv") for n in CONV}
    if conv_op is not None:
        if conv_op not in known or dimensions not in (None, known[conv_op]):
            raise TypeError(f"conv_op must be one of {', '.join(known)} and fit dimensions, not {conv_op!r}")
        dimensions = known[conv_op]
    checked_dimensions(dimensions)
    if not isinstance(n_stages, int) or n_stages < 2:
        raise TypeError(f"n_stages must be at least 2, not {n_stages!r}")
    stages = Topology(
        dimensions,
        per_stage("features_per_stage", features_per_stage, n_stages),
        per_axis("kernel_sizes", kernel_sizes, n_stages, dimensions),
        per_axis("strides", strides, n_stages, dimensions),
    )
    if max(stages.strides[0]) != 1:
        raise TypeError(f"the first of strides must be 1: logits have the size of the image, not {strides!r}")
    if not all(size % 2 for kernel in stages.kernels for size in kernel):
        raise TypeError(f"kernel_sizes must be odd, not {kernel_sizes!r}")
    return stages


def layers_of_plan(
    dimensions: int,
    conv_bias: bool,
    *,
    conv_op: str | None = None,
    norm_op: str | None = "InstanceNorm",
    norm_op_kwargs: Mapping[str, Any] | None = None,
    dropout_op: str | None = None,
    dropout_op_kwargs: Mapping[str, Any] | None = None,
    nonlin: str | None = "LeakyReLU",
    nonlin_kwargs: Mapping[str, Any] | None = None,
    deep_supervision: bool = False,
    nonlin_first: bool = False,
) -> Layers:
    """Return the layers that a plan describes; raises TypeError naming what is not built here.

    Built are InstanceNorm (any `eps`; `affine`) and LeakyReLU (any `negative_slope`); left out, they are
    nnU-Net's: eps 1e-5 and affine, slope 0.01. `inplace`, `deep_supervision`, the arguments of an absent
    dropout and `momentum` do not matter to a prediction. Class names are compared, never imported.
    """
    norms = {f"{path}InstanceNorm{dimensions}d" for path in ("torch.nn.", "torch.nn.modules.instancenorm.")}
    if norm_op not in {"InstanceNorm", *norms}:
        raise TypeError(f"norm_op must be InstanceNorm{dimensions}d, not {norm_op!r}")
    if nonlin not in {"LeakyReLU", "torch.nn.LeakyReLU", "torch.nn.modules.activation.LeakyReLU"}:
        raise TypeError(f"nonlin must be LeakyReLU, not {nonlin!r}")
    if dropout_op is not None:
        raise TypeError(f"dropout_op must be None, not {dropout_op!r}")
    if nonlin_first:
        raise TypeError("nonlin_first must be false: the normalization comes before the activation")
    # A plan that names its normalization but not `affine` means what torch means by that: without weights.
    norm = {"eps": 1e-5, "affine": norm_op == "InstanceNorm"} | dict(norm_op_kwargs or {})
    slope = dict(nonlin_kwargs or {})
    unknown = (norm.keys() - {"eps", "affine", "momentum"}) | (slope.keys() - {"negative_slope", "inplace"})
    if unknown:
        raise TypeError(
            f"norm_op_kwargs or nonlin_kwargs have {', '.join(sorted(unknown))}, which is not built"
        )
    return Layers(
        dimensions, bool(conv_bias), norm["eps"], bool(norm["affine"]), slope.get("negative_slope", SLOPE)
    )


class ConvNorm(nn.Module):
    """A convolution, instance normalization and, unless it is `linear`, LeakyReLU."""

    def __init__(
        self,
        layers: Layers,
        channels: tuple[int, int],
        kernel: Sequence[int],
        stride: Any = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = layers.conv(channels, kernel, stride)
        self.norm = layers.norm(channels[1])
        self.nonlin = nn.Identity() if linear else layers.activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.nonlin(self.norm(self.conv(x)))


class Row(nn.Module):
    """`count` convolutions with their normalization and activation, the first one strided."""

    def __init__(
        self, layers: Layers, channels: tuple[int, int], kernel: Sequence[int], stride: Any, count: int
    ) -> None:
        super().__init__()
        before, after = channels
        self.convs = nn.Sequential(
            ConvNorm(layers, (before, after), kernel, stride),
            *(ConvNorm(layers, (after, after), kernel) for _ in range(count - 1)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x)


class Encoder(nn.Module):
    """Stages from the full resolution down, behind a stem if there is one."""

    def __init__(self, stages: list[nn.Module], stem: nn.Module | None = None) -> None:
        super().__init__()
        if stem is not None:
            self.stem = stem
        self.stages = nn.Sequential(*stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return what comes out of every stage, full resolution first."""
        x = self.stem(x) if hasattr(self, "stem") else x
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class Decoder(nn.Module):
    """Stages from the deepest up; `kernels` and `counts` are in this order."""

    def __init__(
        self,
        shape: Topology,
        layers: Layers,
        classes: int,
        kernels: Sequence[Sequence[int]],
        counts: Sequence[int],
    ) -> None:
        super().__init__()
        self.stages, self.transpconvs, self.seg_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stage, (kernel, count) in enumerate(zip(kernels, counts, strict=True)):
            below, skip = shape.features[-1 - stage], shape.features[-2 - stage]
            stride = shape.strides[-1 - stage]
            up = CONV_TRANSPOSE[shape.dimensions](below, skip, stride, stride, bias=layers.bias)
            self.transpconvs.append(up)
            self.stages.append(Row(layers, (2 * skip, skip), kernel, 1, count))
            self.seg_layers.append(CONV[shape.dimensions](skip, classes, 1))

    def forward(self, skips: list[torch.Tensor]) -> torch.Tensor:
        """Return the logits at full resolution; the tensors of `skips` are let go on the way."""
        x = skips.pop()
        for up, stage in zip(self.transpconvs, self.stages, strict=True):
            x = stage(torch.cat([up(x), skips.pop()], dim=1))
        return self.seg_layers[-1](x)


def decoder_of(
    shape: Topology, layers: Layers, classes: int, counts: PerStage, kernels: PerAxis | None
) -> Decoder:
    """Return the decoder of the stages in `shape`, with the kernels of their skips unless `kernels` are given."""
    stages = len(shape.features) - 1
    numbers = per_stage("n_conv_per_stage_decoder", counts, stages)
    if kernels is None:
        sizes = shape.kernels[-2::-1]
    else:
        sizes = per_axis("decoder_kernel_sizes", kernels, stages, shape.dimensions)
    return Decoder(shape, layers, classes, sizes, numbers)


class PlainConvUNet(nn.Module):
    """An encoder of plain stages and the decoder."""

    def __init__(
        self, in_channels: int, shape: Topology, layers: Layers, counts: Sequence[int], decoder: Decoder
    ) -> None:
        super().__init__()
        sources = (in_channels, *shape.features)
        rows = zip(sources[:-1], shape.features, shape.kernels, shape.strides, counts, strict=True)
        self.encoder = Encoder([nn.Sequential(Row(layers, (a, b), k, s, n)) for a, b, k, s, n in rows])
        self.decoder = decoder

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(image))


def from_published(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of nnU-Net v2 `network_weights` or v1 `state_dict` under the names of this network.

    v2 files name every convolution two to four times (`all_modules`, `decoder.encoder`): once here. Missing biases
    of v1 become zeros. Names that fit nothing are kept, so that loading refuses them. Raises CheckpointError
    when duplicates differ, since then nobody can say which one was trained.
    """
    names: dict[str, torch.Tensor] = {}
    for name, tensor in published_names(state):
        if name in names and not same(names[name], tensor):
            raise CheckpointError(
                f"the weights hold two different tensors for {name}, which nnU-Net stores as duplicates: "
                "the file is damaged or was edited. Get it again from its source."
            )
        names[name] = tensor
    return names


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors have equal shapes, types and values; NaN equals NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return one is other or bool(((one == other) | ((one != one) & (other != other))).all())


_STORED_TWICE = re.compile(r"\.all_modules\.([01])\.(?=weight$|bias$)")
_V1_ROW = re.compile(
    r"^conv_blocks_(context|localization)\.(\d+)\.(?:([01])\.)?blocks\.(\d+)\.(conv|instnorm)\.(weight|bias)$"
)


def published_names(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of a published file under the name it has here, duplicates included.

    The second half of a split v1 stage (`.1.blocks`) goes on counting where the first one ends.
    """
    for key, tensor in state.items():
        row = _V1_ROW.match(key)
        if row is not None:
            side, stage, half, block, part, what = row.groups()
            start = f"conv_blocks_{side}.{stage}.0.blocks."
            number = int(block)
            if half == "1":
                number += sum(f"{start}{i}.conv.weight" in state for i in range(len(state)))
            place = f"encoder.stages.{stage}.0" if side == "context" else f"decoder.stages.{stage}"
            yield f"{place}.convs.{number}.{'conv' if part == 'conv' else 'norm'}.{what}", tensor
        elif up := re.match(r"^tu\.(\d+)\.(weight|bias)$", key):
            yield f"decoder.transpconvs.{up[1]}.{up[2]}", tensor
            if f"tu.{up[1]}.bias" not in state and tensor.ndim > 1:  # (in, out, ...)
                yield f"decoder.transpconvs.{up[1]}.bias", tensor.new_zeros(tensor.shape[1])
        elif head := re.match(r"^seg_outputs\.(\d+)\.(weight|bias)$", key):
            yield f"decoder.seg_layers.{head[1]}.{head[2]}", tensor
            if f"seg_outputs.{head[1]}.bias" not in state and tensor.ndim > 1:
                yield f"decoder.seg_layers.{head[1]}.bias", tensor.new_zeros(tensor.shape[0])
        else:
            key = re.sub(r"^decoder\.encoder\.", "encoder.", key)
            yield _STORED_TWICE.sub(lambda m: (".conv.", ".norm.")[int(m[1])], key), tensor


def recognize(state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """Return the arguments of `build` whose network has exactly these tensors, or None if there are none.

    v1 and v2 files are told with and without duplicates; strides are read from the transposed convolutions. No
    tensor tells eps, the slope of LeakyReLU, or a group from an instance normalization: they are taken to be
    nnU-Net's. Values are not looked at.
    """
    return confirmed(build, _arguments, dict(published_names(without_prefix(state))))


def _arguments(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    found = recognized_decoder(state, "encoder.stages.{}.0.convs.0.conv.weight")
    rows = [f"encoder.stages.{s}.0.convs.{{}}.conv.weight" for s in range(found["n_stages"])]
    found["in_channels"] = state[rows[0].format(0)].shape[1]
    found["n_conv_per_stage"] = [len(widths(state, row)) for row in rows]
    return found


def recognized_decoder(state: Mapping[str, torch.Tensor], stage: str) -> dict[str, Any]:
    """Return what both nnU-Net networks tell: stages, features, kernels, strides, decoder, classes, bias.

    `stage` names the first convolution of a stage, which has its kernel. Raises LookupError when there is none.
    """
    features = widths(state, stage)
    stages = len(features)
    weights = [state[stage.format(s)].shape for s in range(stages)]
    ups = [state[f"decoder.transpconvs.{u}.weight"].shape for u in range(stages - 1)]
    rows = [state[f"decoder.stages.{u}.convs.0.conv.weight"].shape for u in range(stages - 1)]
    kernels = [list(shape[2:]) for shape in weights]
    decoder = [list(shape[2:]) for shape in rows]
    dimensions = len(weights[0]) - 2
    found = {
        "classes": state[f"decoder.seg_layers.{stages - 2}.weight"].shape[0],
        "n_stages": stages,
        "features_per_stage": features,
        "kernel_sizes": kernels,
        "strides": [[1] * dimensions, *(list(shape[2:]) for shape in reversed(ups))],
        "n_conv_per_stage_decoder": [
            len(widths(state, f"decoder.stages.{u}.convs.{{}}.conv.weight")) for u in range(stages - 1)
        ],
        "conv_bias": stage.format(0).removesuffix("weight") + "bias" in state,
        "dimensions": dimensions,
    }
    if decoder != kernels[-2::-1]:
        found["decoder_kernel_sizes"] = decoder
    return found
