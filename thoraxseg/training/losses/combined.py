"""Sums of losses, as the papers train with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from thoraxseg.training.losses.ce import CrossEntropy
from thoraxseg.training.losses.common import Compared, Loss
from thoraxseg.training.losses.dice import GeneralizedDice, SoftDice
from thoraxseg.training.losses.focal import Focal
from thoraxseg.training.losses.iou import SoftIoU
from thoraxseg.training.losses.lovasz import Lovasz
from thoraxseg.training.losses.ms_ssim import MultiScaleSSIM
from thoraxseg.training.losses.topk import TopK
from thoraxseg.training.losses.values import number, published_weights


class WeightedSum(Loss):
    """Base of sums: `terms` are pairs of factor and loss."""

    def __init__(self, classes: int, terms: Sequence[tuple[float, Loss]]) -> None:
        super().__init__(classes)
        self.factors = [number("factor of a term", factor, low=0) for factor, _ in terms]
        self.parts = torch.nn.ModuleList(part for _, part in terms)

    def value(self, compared: Compared) -> torch.Tensor:
        """Return the sum."""
        values = (
            factor * part.value(compared) for factor, part in zip(self.factors, self.parts, strict=True)
        )
        return sum(values)


class CrossEntropyDice(WeightedSum):
    """Cross-entropy + soft Dice loss of the foreground: nnU-Net's, whose printed value is lower by 1."""

    def __init__(self, classes: int, batch_dice: bool = False, smooth: float = 1e-5) -> None:
        dice = SoftDice(classes, batch_dice=batch_dice, smooth=smooth)
        super().__init__(classes, [(1, CrossEntropy(classes)), (1, dice)])


class TopKDice(WeightedSum):
    """Mean of the 10 % largest cross-entropies + soft Dice loss of the foreground (nnU-Net's TopK10 + Dice)."""

    def __init__(
        self, classes: int, percent: float = 10.0, batch_dice: bool = False, smooth: float = 1e-5
    ) -> None:
        dice = SoftDice(classes, batch_dice=batch_dice, smooth=smooth)
        super().__init__(classes, [(1, TopK(classes, percent=percent)), (1, dice)])


class FocalMultiScaleSSIMIoU(WeightedSum):
    """Focal + MS-SSIM + IoU: the loss of U-Net3+, with the three terms of the paper."""

    def __init__(self, classes: int, gamma: float = 2.0, alpha: float = 0.5) -> None:
        focal = Focal(classes, gamma=gamma, alpha=alpha)
        super().__init__(classes, [(1, focal), (1, MultiScaleSSIM(classes)), (1, SoftIoU(classes))])


class Fusion(WeightedSum):
    """0.7 · cross-entropy + 0.4 · Lovász-softmax + 0.2 · focal: DeepMeta's fusion loss.

    Cross-entropy has class weights and label smoothing 0.1, focal the class weights as α. They default to
    Kaniewski's; `class_counts`, or "balanced" for the counts of each batch, give N / (classes x n_c), which
    Deepmeta_v2 finally used. `cross_entropy`, `lovasz` and `focal` are the factors.
    """

    def __init__(
        self,
        classes: int,
        class_weights: Sequence[float] | str | None = None,
        class_counts: Sequence[float] | None = None,
        label_smoothing: float = 0.1,
        gamma: float = 2.0,
        lovasz_on: str = "softmax",
        cross_entropy: float = 0.7,
        lovasz: float = 0.4,
        focal: float = 0.2,
    ) -> None:
        if class_weights is None and class_counts is None:
            class_weights = published_weights("loss fusion", max(classes, 2))
        terms = [
            (cross_entropy, CrossEntropy(classes, class_weights, class_counts, label_smoothing)),
            (lovasz, Lovasz(classes, on=lovasz_on)),
            (focal, Focal(classes, gamma, class_weights, class_counts)),
        ]
        super().__init__(classes, terms)


class FocalGeneralizedDice(WeightedSum):
    """Focal + generalized Dice: Le-Saut's loss."""

    def __init__(self, classes: int, gamma: float = 2.0, alpha: float | Sequence[float] = 1.0) -> None:
        super().__init__(
            classes, [(1, Focal(classes, gamma=gamma, alpha=alpha)), (1, GeneralizedDice(classes))]
        )
