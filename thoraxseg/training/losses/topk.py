"""Losses over the hardest voxels: online bootstrapping (Wu 2016), the coursework's variant, nnU-Net's top k percent."""

from __future__ import annotations

import math

import torch

from thoraxseg.training.losses.common import Compared, Loss
from thoraxseg.training.losses.dice import SoftDice
from thoraxseg.training.losses.values import number, positive, whole


def hardest_mean(losses: torch.Tensor, count: int) -> torch.Tensor:
    """Return the mean of the `count` largest of `(V,)`; of all where there are fewer."""
    return losses.topk(min(count, len(losses)), sorted=False).values.mean()


class OnlineBootstrapping(Loss):
    """Mean of -log p_y over voxels of the batch with p_y < t; t is raised so that at least `pixels` stay.

    Voxels tied with the last one that stays, stay too. Source: Wu 2016, whose K is 512; t is not published (0.7 is
    what later work on hard examples takes).
    """

    def __init__(self, classes: int, threshold: float = 0.7, pixels: int = 512) -> None:
        super().__init__(classes)
        self.threshold = number("threshold", threshold, low=1e-6, high=1)
        self.pixels = whole("pixels", pixels, low=1)

    def value(self, compared: Compared) -> torch.Tensor:
        """Return the mean over the voxels that stay."""
        losses = compared.cross_entropy
        hard = losses.detach()
        kth = hard.topk(min(self.pixels, len(hard))).values[-1]
        stays = (hard > -math.log(self.threshold)) | (hard >= kth)
        return losses[stays].mean()


class TopK(Loss):
    """Mean of the `percent` % largest -log p_y of the batch, at least one: nnU-Net's top-k loss.

    The share is of the voxels that count; nnU-Net's own takes it of all voxels, ignored ones included.
    """

    def __init__(self, classes: int, percent: float = 10.0) -> None:
        super().__init__(classes)
        self.percent = positive("percent", number("percent", percent, low=0, high=100))

    def value(self, compared: Compared) -> torch.Tensor:
        """Return the mean over the hardest voxels."""
        losses = compared.cross_entropy
        return hardest_mean(losses, max(1, int(len(losses) * self.percent / 100)))


class NormalizedBootstrapping(Loss):
    """α · m · d0 / b0 + (1 - α) · Dice loss, m the mean of the hardest cross-entropies: the coursework's loss.

    As many voxels count for m as the target has foreground, at least max(512, 0.1 % of all). The first batch in
    training sets b0 = m and d0 = Dice loss: they stay for good, are part of the state, and bring both terms to one
    size. The first batch with a finite loss, that is; one in which all voxels are ignored sets nothing.
    """

    def __init__(
        self,
        classes: int,
        alpha: float = 0.5,
        pixels: int = 512,
        share: float = 0.001,
        batch_dice: bool = False,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__(classes)
        self.alpha = number("alpha", alpha, low=0, high=1)
        self.pixels = whole("pixels", pixels, low=1)
        self.share = number("share", share, low=0, high=1)
        self.dice = SoftDice(classes, batch_dice=batch_dice, smooth=smooth)
        self.register_buffer("b0", torch.tensor(math.nan))
        self.register_buffer("d0", torch.tensor(math.nan))

    def value(self, compared: Compared) -> torch.Tensor:
        """Return the loss; remember its two parts when they are the first."""
        losses = compared.cross_entropy
        foreground = int((compared.labels[compared.valid] > 0).sum())
        hardest = hardest_mean(losses, max(foreground, self.pixels, math.ceil(self.share * len(losses))))
        dice = self.dice.value(compared)
        b0, d0 = self.b0.to(losses), self.d0.to(losses)
        if b0.isnan():
            b0, d0 = hardest.detach(), dice.detach()
            if self.training and b0.isfinite() and d0.isfinite():
                self.b0.copy_(b0)
                self.d0.copy_(d0)
        # Of a first batch without any error there is nothing to scale by.
        return self.alpha * hardest * d0 / b0.clamp_min(1e-8) + (1 - self.alpha) * dice
