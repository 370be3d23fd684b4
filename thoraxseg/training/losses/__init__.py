"""Name and parameters -> loss, for every loss of the papers; labels -> map of weights at borders.

A loss takes logits `(N, L, *S)`, labels `(N, *S)` and, where its `takes_weights` says so, weights `(N, *S)`; it returns
one number. Voxels labeled `IGNORE` count in none. Two and three dimensions go the same way. One logit (L = 1) means
two classes: the sigmoid is the softmax of the logits (0, z), so the loss is the same as with two logits.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from thoraxseg.errors import OptionError
from thoraxseg.training.losses.border import border_weights
from thoraxseg.training.losses.values import balanced_weights, call_with, whole

if TYPE_CHECKING:
    from thoraxseg.training.losses.common import Loss

_CLASSES = {
    "cross-entropy": ("ce", "CrossEntropy"),
    "weighted-cross-entropy": ("ce", "WeightedCrossEntropy"),
    "focal": ("focal", "Focal"),
    "dice": ("dice", "SoftDice"),
    "iou": ("iou", "SoftIoU"),
    "ms-ssim": ("ms_ssim", "MultiScaleSSIM"),
    "lovasz": ("lovasz", "Lovasz"),
    "cross-entropy-dice": ("combined", "CrossEntropyDice"),
    "top-k": ("topk", "OnlineBootstrapping"),
    "bootstrapped": ("topk", "NormalizedBootstrapping"),
    "top-k-dice": ("combined", "TopKDice"),
    "focal-ms-ssim-iou": ("combined", "FocalMultiScaleSSIMIoU"),
    "fusion": ("combined", "Fusion"),
    "focal-generalized-dice": ("combined", "FocalGeneralizedDice"),
    "aimos-dice": ("dice", "AimosDice"),
}
LOSS_NAMES = tuple(_CLASSES)
"""Every name that `build_loss` knows."""

__all__ = ["LOSS_NAMES", "balanced_weights", "border_weights", "build_loss"]


def build_loss(name: str, parameters: Mapping[str, Any], classes: int) -> Loss:
    """Return the loss called `name` for a network with `classes` logits (1: sigmoid).

    Its `forward(logits, labels, weights=None)` computes in 32-bit floats also under autocast (64-bit logits stay).
    A batch in which every voxel is `IGNORE` gives 0, with a gradient of 0. What it remembers between batches is in
    buffers. Raises OptionError for an unknown name or parameter, or a value that cannot be used.
    """
    if name not in _CLASSES:
        raise OptionError(f"loss: expected one of {', '.join(LOSS_NAMES)}, got {name!r}.")
    whole("classes", classes, low=1)
    module, kind = _CLASSES[name]
    build = getattr(importlib.import_module(f"{__name__}.{module}"), kind)
    return call_with(build, f"loss {name}", parameters, classes=classes)
