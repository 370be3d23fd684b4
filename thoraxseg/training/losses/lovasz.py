"""Lovász-softmax (Berman 2018)."""

from __future__ import annotations

import torch

from thoraxseg.training.losses.common import Compared, Loss
from thoraxseg.training.losses.values import one_of


class Lovasz(Loss):
    """Mean over images of the mean over classes present in the image of the Lovász extension of the Jaccard loss.

    Errors are |y - p| on softmax probabilities; with `on="logits"` |y - z| on raw logits, as Deepmeta_v2 computes it
    (for replication: this is no surrogate of the Jaccard index).
    """

    def __init__(self, classes: int, on: str = "softmax") -> None:
        super().__init__(classes)
        self.on = one_of("on", on, ("softmax", "logits"))

    def value(self, compared: Compared) -> torch.Tensor:
        """Return the loss over images in which at least one voxel counts."""
        scores = compared.probabilities if self.on == "softmax" else compared.logits
        errors = (compared.target - scores).abs().flatten(2)
        valid = compared.valid.flatten(1)[:, None].expand_as(errors)
        true = compared.target.flatten(2)
        errors, order = errors.sort(dim=2, descending=True)
        # Ignored voxels change neither intersection nor union: their weight is 0.
        weights = _jaccard_steps(true.gather(2, order) > 0, valid.gather(2, order)).to(errors)
        losses = (errors * weights).sum(dim=2)
        present = true.sum(dim=2) > 0
        seen = present.any(dim=1)
        return (losses * present).sum(dim=1)[seen].div(present.sum(dim=1)[seen]).mean()


def _jaccard_steps(true: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return by how much each more wrong voxel raises the Jaccard loss, `(N, L, V)`, errors sorted from the largest.

    In 64 bits: steps of one in a million would drown in the rounding of 32.
    """
    all_true = true.sum(dim=2, keepdim=True)
    missed = true.cumsum(dim=2)
    added = (valid & ~true).cumsum(dim=2)
    jaccard = 1 - (all_true - missed).double() / (all_true + added).clamp_min(1).double()
    return jaccard.diff(dim=2, prepend=jaccard.new_zeros((*jaccard.shape[:2], 1)))
