"""Soft Dice losses: nnU-Net's, the generalized one of Sudre, and that of AIMOS."""

from __future__ import annotations

import torch

from thoraxseg.training.losses.common import Compared, Loss
from thoraxseg.training.losses.values import flag, number


class SoftDice(Loss):
    """1 - mean of (2 Σpy + smooth) / (Σp + Σy + smooth) over classes, and over images unless `batch_dice`.

    The background is left out unless `background`. This is nnU-Net's soft Dice plus 1; MONAI's with the smoothing in
    numerator and denominator, but MONAI's leaves no voxels out.
    """

    def __init__(
        self, classes: int, batch_dice: bool = False, smooth: float = 1e-5, background: bool = False
    ) -> None:
        super().__init__(classes)
        self.batch_dice = flag("batch_dice", batch_dice)
        self.smooth = number("smooth", smooth, low=1e-8)  # a class in neither mask would be 0 / 0
        self.background = flag("background", background)

    def value(self, compared: Compared) -> torch.Tensor:
        """Return the loss; a class that is nowhere and that nobody predicts has a Dice of 1."""
        both, predicted, true = compared.sums(over_batch=self.batch_dice)
        dice = (2 * both + self.smooth) / (predicted + true + self.smooth)
        return 1 - (dice if self.background else dice[..., 1:]).mean()


class GeneralizedDice(Loss):
    """1 - 2 Σ_c w_c Σpy / Σ_c w_c Σ(p + y), w_c = 1 / (Σy_c)², over the batch, background included.

    Classes that no voxel of the batch has are left out (MONAI gives them the largest weight there is).
    Source: Sudre 2017.
    """

    def value(self, compared: Compared) -> torch.Tensor:
        """Return the loss; the background alone is still compared."""
        both, predicted, true = compared.sums(over_batch=True)
        present = true > 0
        # Relative to the rarest class, since 1 / (10^7 voxels)² is small for 32-bit floats.
        weights = (true[present].min() / true[present]) ** 2
        overlap = (weights * both[present]).sum()
        return 1 - 2 * overlap / (weights * (predicted + true)[present]).sum()


class AimosDice(Loss):
    """1 - mean over all classes, background included, of 2 Σpy / (Σp + Σy + 1e-7) over the batch."""

    def value(self, compared: Compared) -> torch.Tensor:
        """Return the loss; a class that is nowhere counts as missed, as in AIMOS."""
        both, predicted, true = compared.sums(over_batch=True)
        return 1 - (2 * both / (predicted + true + 1e-7)).mean()
