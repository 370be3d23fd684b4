"""How much memory a run will take, before it begins: a sum over what the pipeline holds at once.

With N voxels of the image, M on the grid of the network, L classes and C channels, all arrays being float32 unless
said otherwise, a run passes through stages of which the largest counts. The numbers of bytes are those of the code
(scores and their copy: 8 L a voxel) or, for temporaries inside scipy and scikit-image, measured:

- by card: prepare 12 N + 24 M; look (8 C + 8 L + 4) M; clean up (4 C + 4 L + 56) M where there are rules;
  bring back 24 N + 8 M
- nnU-Net: prepare and look (8 C + 8 L) M; bring back (8 C + 12) N + 4 L M

plus the image and its result, (voxel size + 5) N; the weights; the network's own layers, a factor for the
architecture times features at full resolution times voxels of a patch times 4; and 400 MB for Python and torch.

Calibrated against the peak resident size (CPU, one thread, torch 2.13, entropy) of `pipeline.segment` beyond that of
Python with torch, for images of 128 to 256 voxels a side. phantom-threshold: 528 MB measured, 554 forecast; with 8
times the voxels on the network's grid 1167, 1228; with an eighth of them 493, 513. The small nnU-Net of version 2 in
Testing/tiny_models: 235, 264; 479, 549; 158, 189. A painted checkpoint of five classes: 394, 405. A network like
DeepMeta's: 130, 248. Factors of architectures are from one forward pass of each at 64 to 256 voxels a side.
Sampled doubt, the first stage of a cascade, lung maps and ensembles take more. GPU memory is
weights and layers (nnU-Net keeps its sums on the host where they do not fit); it was not calibrated.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from thoraxseg.checkpoints.card import Card
from thoraxseg.errors import OptionError
from thoraxseg.options import Device
from thoraxseg.precheck.findings import WORST_FIRST, Finding, Level, compared_spacing
from thoraxseg.volume import Volume

PYTHON_BYTES = 400_000_000
"""What a process takes that has loaded torch, scipy and scikit-image (measured: 365 to 395 MB)."""
LAYERS = {
    **dict.fromkeys(("plain_conv_unet", "residual_encoder_unet", "monai_unet"), 8),
    **dict.fromkeys(("unet", "aimos", "coordinate_unet_3d", "rrc_unet_3d"), 13),
    **dict.fromkeys(("unet3plus", "deepmeta"), 75),
    "threshold": 3,
}
"""Peak memory of one look as a multiple of features x voxels x 4; 13 for others."""
CLOSE = 0.75
"""Above this part of what is free a forecast is yellow: it may be off by a third."""


@dataclass(frozen=True)
class Forecast:
    """How much memory a run needs, and how much is free."""

    needed_bytes: int
    available_bytes: int | None
    """None where it cannot be told."""
    sentence: str
    level: Level

    @property
    def share(self) -> float:
        """Part of what is free that is needed; 0 where it cannot be told."""
        return self.needed_bytes / max(self.available_bytes, 1) if self.available_bytes is not None else 0.0


def forecast_memory(
    shape: Sequence[int],
    card: Card,
    device: str | Device = "auto",
    spacing_mm: Sequence[float] | None = None,
    itemsize: int = 4,
) -> Forecast:
    """Return what a run on an image of `shape` (k, j, i) will need, and what is free now.

    `spacing_mm` (k, j, i) tells how the network's grid compares with that of the image; without it they count as
    alike. Both are along the axes of the network. `itemsize` is the bytes of one voxel of the image. With `cuda` the
    scarcer of GPU memory and main memory is told; `auto` counts as the CPU, which may take over. Raises OptionError
    for an unknown device.
    """
    try:
        device = Device(device)
    except ValueError as error:
        raise OptionError(f"device: expected auto, cpu or cuda, got {device!r}.") from error
    voxels = math.prod(shape)
    layers = _layers_bytes(shape, card, spacing_mm)
    weights = sum(file.size_bytes for file in card.weights)
    arrays = _arrays_bytes(shape, card, spacing_mm) + (itemsize + 5) * voxels
    on_gpu = device is Device.CUDA
    host = PYTHON_BYTES + 2 * weights + arrays + (0 if on_gpu else layers)
    found = [_forecast(host, _free_memory(), "memory", shape)]
    if on_gpu:
        found.append(_forecast(weights + layers, _free_gpu_memory(), "memory of the GPU", shape))
    return min(found, key=lambda one: (WORST_FIRST.index(one.level), -one.share))


def memory(image: Volume, card: Card, device: str | Device = "auto") -> Finding:
    """Return the forecast for an image as a finding."""
    seen = image.reoriented(card.input.codes_for(image.axis_codes))
    forecast = forecast_memory(seen.shape, card, device, seen.spacing_mm, image.array.dtype.itemsize)
    return Finding(forecast.level, forecast.sentence)


def _forecast(needed: int, available: int | None, what: str, shape: Sequence[int]) -> Forecast:
    size = " x ".join(map(str, shape))
    said = f"About {_gigabytes(needed)} of {what} are needed for {size} voxels"
    if available is None:
        return Forecast(needed, None, f"{said}; how much is free cannot be told.", Level.UNKNOWN)
    said = f"{said}, {_gigabytes(available)} are free"
    help_ = "Choose a region of interest, close other programs, or use a machine with more."
    if needed > available:
        return Forecast(needed, available, f"{said}: a run will most likely fail. {help_}", Level.RED)
    if needed > CLOSE * available:
        return Forecast(needed, available, f"{said}: it may not suffice. {help_}", Level.YELLOW)
    return Forecast(needed, available, f"{said}.", Level.GREEN)


def _arrays_bytes(shape: Sequence[int], card: Card, spacing_mm: Sequence[float] | None) -> int:
    """Return the bytes of the largest stage on the host, besides the image itself."""
    n, m = math.prod(shape), _network_voxels(shape, card, spacing_mm)
    channels, classes = len(card.channels), max(card.labels) + 1
    if card.nnunet is not None:
        return int(
            max(
                (8 * channels + 8 * classes) * m,
                (8 * channels + 12) * n + 4 * classes * m,
            )
        )
    stages = [12 * n + 24 * m, (8 * channels + 8 * classes + 4) * m, 24 * n + 8 * m]
    if card.postprocess.rules:
        stages.append((4 * channels + 4 * classes + 56) * m)
    return int(max(stages))


def _network_voxels(shape: Sequence[int], card: Card, spacing_mm: Sequence[float] | None) -> float:
    """Return how many voxels the network's grid has; cropping to the lungs is not counted."""
    voxels = float(math.prod(shape))
    if card.nnunet is not None:
        if spacing_mm is None:
            return voxels
        have, want = compared_spacing(tuple(spacing_mm), card)
        return voxels if want is None else voxels * math.prod(have) / math.prod(want)
    for step in card.preprocess:
        if step.name in ("resample", "resample_triangle") and spacing_mm is not None:
            voxels = math.prod(shape) * math.prod(spacing_mm) / math.prod(step.parameters["spacing_mm"])
        elif step.name == "resize":
            voxels = float(math.prod(step.parameters["shape"]))
        elif step.name.startswith("resize_slices"):
            voxels = float(shape[0] * math.prod(step.parameters["size_px"]))
    return voxels


def _layers_bytes(shape: Sequence[int], card: Card, spacing_mm: Sequence[float] | None) -> int:
    """Return what the layers of the network hold at the worst moment of one look."""
    parameters = card.architecture.parameters
    features = 32
    for name in ("features_per_stage", "features", "channels", "filters", "centers"):
        if name in parameters:
            value = parameters[name]
            features = len(value) if name == "centers" else value if isinstance(value, int) else value[0]
            break
    else:
        features = {"unet": 64, "deepmeta": 16}.get(card.architecture.name, features)
    if card.nnunet is not None:
        patch = math.prod(card.nnunet.patch_size)
    elif card.inference.mode == "sliding-window":
        patch = math.prod(card.inference.patch_size)
    else:
        patch = _network_voxels(shape, card, spacing_mm)
        patch = patch / shape[0] if card.inference.mode == "slices" else patch
    return int(LAYERS.get(card.architecture.name, 13) * features * patch * 4)


def _free_memory() -> int | None:
    """Return the bytes of main memory that are free, None without psutil."""
    try:
        import psutil
    except ImportError:  # in 3D Slicer before the first run
        return None
    return int(psutil.virtual_memory().available)


def _free_gpu_memory() -> int | None:
    """Return the free bytes of the current GPU, None without one or where torch is not loaded.

    It is not loaded for this: that takes seconds, and its own hold on the GPU would come off what is free.
    """
    torch = sys.modules.get("torch")
    return int(torch.cuda.mem_get_info()[0]) if torch is not None and torch.cuda.is_available() else None


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
