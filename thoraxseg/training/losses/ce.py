"""Cross-entropy: plain, with weights of classes, with a map of weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from thoraxseg.errors import OptionError
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.losses.common import Compared, Loss
from thoraxseg.training.losses.values import balanced_weights, class_numbers, number, published_weights

BALANCED = "balanced"
"""Word for class weights that every batch gets from its own labels."""


class ClassWeights(torch.nn.Module):
    """Weights of classes: given, N / (classes x n_c) of counts n_c that are given, or the same of every batch."""

    def __init__(
        self, classes: int, class_weights: Sequence[float] | str | None, class_counts: Sequence[float] | None
    ) -> None:
        super().__init__()
        if class_weights is not None and class_counts is not None:
            raise OptionError("class_weights and class_counts: give one of them, not both.")
        self.classes = classes
        self.from_batch = isinstance(class_weights, str) and class_weights == BALANCED
        numbers = None
        if class_counts is not None:
            numbers = balanced_weights(class_numbers("class_counts", class_counts, classes))
        elif class_weights is not None and not self.from_batch:
            numbers = class_numbers("class_weights", class_weights, classes)
        fixed = None if numbers is None else torch.tensor(numbers, dtype=torch.float64)
        # Not saved: they are parameters, and a resumed run has them from its configuration.
        self.register_buffer("fixed", fixed, persistent=False)

    def of(self, compared: Compared) -> torch.Tensor | None:
        """Return `(L,)`, or None where all classes weigh the same; a class absent from a balanced batch gets 0."""
        if self.from_batch:
            counts = compared.labels[compared.valid].bincount(minlength=self.classes).tolist()
            return torch.tensor(balanced_weights(counts)).to(compared.logits)
        return None if self.fixed is None else self.fixed.to(compared.logits)


class CrossEntropy(Loss):
    """-Σ w_y log p_y / Σ w_y over voxels.

    With label smoothing e the target is 1 - e on the true class plus e / L on every class, each class with its own
    weight in the sum, as torch has it.
    """

    def __init__(
        self,
        classes: int,
        class_weights: Sequence[float] | str | None = None,
        class_counts: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(classes)
        self.class_weights = ClassWeights(self.classes, class_weights, class_counts)
        self.label_smoothing = number("label_smoothing", label_smoothing, low=0, high=1)

    def value(self, compared: Compared) -> torch.Tensor:
        """Return the (weighted) mean over the voxels that count."""
        # As one list of voxels: on a GPU torch's form for images is not deterministic.
        return functional.cross_entropy(
            compared.logits.movedim(1, -1).flatten(0, -2),
            compared.labels.masked_fill(~compared.valid, IGNORE).flatten(),
            weight=self.class_weights.of(compared),
            ignore_index=IGNORE,
            label_smoothing=self.label_smoothing,
        )


class WeightedCrossEntropy(Loss):
    """-Σ w(x) log p_y(x) / Σ w(x): Ronneberger's loss with the map of `border_weights` as weights.

    The map holds the class weights already; without a map w is the class weight alone. Class weights default to
    Kaniewski's. Source: Ronneberger 2015, eq. 1 and 2, with the minus sign that kaniewski's eq. 3 lacks.
    """

    takes_weights = True

    def __init__(
        self,
        classes: int,
        class_weights: Sequence[float] | str | None = None,
        class_counts: Sequence[float] | None = None,
    ) -> None:
        super().__init__(classes)
        if class_weights is None and class_counts is None:
            class_weights = published_weights("loss weighted-cross-entropy", self.classes)
        self.class_weights = ClassWeights(self.classes, class_weights, class_counts)

    def value(self, compared: Compared) -> torch.Tensor:
        """Return the weighted mean over the voxels that count; 0 where all their weights are 0."""
        if compared.weights is None:
            weights = self.class_weights.of(compared)[compared.labels[compared.valid]]
        else:
            weights = compared.weights[compared.valid].to(compared.logits)
        total = weights.sum()
        return (weights * compared.cross_entropy).sum() / torch.where(total > 0, total, 1)
