"""Soft intersection over union."""

from __future__ import annotations

import torch

from thoraxseg.training.losses.common import Compared, Loss
from thoraxseg.training.losses.values import flag


class SoftIoU(Loss):
    """1 - mean over classes of Σpy / (Σp + Σy - Σpy), sums over the batch; `background` may be left out.

    A class that the batch lacks counts as missed; its gradient is 0.
    """

    def __init__(self, classes: int, background: bool = True) -> None:
        super().__init__(classes)
        self.background = flag("background", background)

    def value(self, compared: Compared) -> torch.Tensor:
        """Return the loss."""
        both, predicted, true = compared.sums(over_batch=True)
        # The floor matters only where both masks are empty, which would be 0 / 0.
        iou = both / (predicted + true - both).clamp_min(1e-8)
        return 1 - (iou if self.background else iou[1:]).mean()
