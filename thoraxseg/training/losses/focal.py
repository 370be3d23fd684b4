"""Focal loss (Lin 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from thoraxseg.training.losses.ce import ClassWeights
from thoraxseg.training.losses.common import Compared, Loss
from thoraxseg.training.losses.values import number, positive


class Focal(Loss):
    """Mean over voxels of -α (1 - p_y)^γ log p_y; α is one number, or one a class.

    γ = 0 and α = 1 is cross-entropy. MONAI's focal loss is this divided by the number of classes, with
    1 - p computed so that it is exactly 0 for confident voxels; ours keeps its logarithm, so that gradients stay
    finite for every γ.
    """

    def __init__(
        self,
        classes: int,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | str = 1.0,
        class_counts: Sequence[float] | None = None,
    ) -> None:
        super().__init__(classes)
        self.gamma = number("gamma", gamma, low=0)
        if isinstance(alpha, (int, float)):
            self.alpha = positive("alpha", alpha)
            alpha = None
        else:
            self.alpha = 1.0
        self.class_weights = ClassWeights(self.classes, alpha, class_counts)

    def value(self, compared: Compared) -> torch.Tensor:
        """Return the mean over the voxels that count."""
        is_true = torch.zeros_like(compared.logits, dtype=torch.bool)
        is_true.scatter_(1, compared.labels[:, None], True)
        others = compared.logits.masked_fill(is_true, -torch.inf)
        log_doubt = (others.logsumexp(dim=1) - compared.logits.logsumexp(dim=1))[compared.valid]
        losses = (self.gamma * log_doubt).exp() * compared.cross_entropy
        weights = self.class_weights.of(compared)
        if weights is not None:
            losses = weights[compared.labels[compared.valid]] * losses
        return self.alpha * losses.mean()
