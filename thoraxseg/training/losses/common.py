"""What all losses share: checks, 32-bit floats, ignored voxels, and the quantities they are written in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from thoraxseg.errors import InputError, OptionError
from thoraxseg.training.batch import IGNORE


@dataclass(eq=False)
class Compared:
    """A batch as the formulas see it: at least two logits, and labels that can index them."""

    logits: torch.Tensor
    """`(N, L, *S)`, L >= 2, at least 32 bits."""
    labels: torch.Tensor
    """`(N, *S)`, 0 where ignored."""
    valid: torch.Tensor
    """`(N, *S)`, false where ignored; true somewhere."""
    weights: torch.Tensor | None
    """`(N, *S)` or None."""

    @cached_property
    def log_probabilities(self) -> torch.Tensor:
        """`(N, L, *S)`."""
        return self.logits.log_softmax(dim=1)

    @cached_property
    def cross_entropy(self) -> torch.Tensor:
        """-log p of the true class, `(V,)`: a value for each voxel that counts."""
        return -self.log_probabilities.gather(1, self.labels[:, None])[:, 0][self.valid]

    @cached_property
    def probabilities(self) -> torch.Tensor:
        """`(N, L, *S)`, 0 where ignored."""
        return self.log_probabilities.exp() * self.valid[:, None]

    @cached_property
    def target(self) -> torch.Tensor:
        """One-hot labels, `(N, L, *S)`, 0 where ignored."""
        one_hot = torch.zeros_like(self.logits)
        one_hot.scatter_(1, self.labels[:, None], 1)
        return one_hot * self.valid[:, None]

    def sums(self, over_batch: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the sums of p·y, p and y over voxels that count: `(N, L)`, or `(L,)` over the whole batch."""
        axes = [*([0] if over_batch else []), *range(2, self.logits.ndim)]
        return (
            (self.probabilities * self.target).sum(axes),
            self.probabilities.sum(axes),
            self.target.sum(axes),
        )


class Loss(nn.Module):
    """Base of all losses: logits `(N, L, *S)`, labels `(N, *S)` -> one number; L is `classes`."""

    takes_weights = False
    """Whether weights of voxels can be given."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.channels = classes
        self.classes = max(classes, 2)

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss, a number with a gradient.

        Raises OptionError when the network has another number of logits, or weights are given to a loss that has no
        use for them; InputError when shapes do not match or a label has no logit.
        """
        self._check(logits, labels, weights)
        with torch.autocast(device_type=logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            valid = labels != IGNORE
            if not valid.any():
                return (logits * 0).sum()
            labels = labels.masked_fill(~valid, 0)
            if self.channels == 1:
                labels = (labels == 1).long()
                logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
            elif labels.amin() < 0 or labels.amax() >= self.classes:
                raise InputError(
                    f"labels: expected values from 0 to {self.classes - 1} (or {IGNORE} to ignore a voxel), "
                    f"got values from {labels.amin().item()} to {labels.amax().item()}."
                )
            return self.value(Compared(logits, labels, valid, weights))

    def value(self, compared: Compared) -> torch.Tensor:
        """Return the loss of a batch in which at least one voxel counts."""
        raise NotImplementedError

    def _check(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None) -> None:
        if logits.shape[1] != self.channels:
            raise OptionError(
                f"The loss was built for {self.channels} logits, but the network gives {logits.shape[1]}."
            )
        expected = (logits.shape[0], *logits.shape[2:])
        for name, tensor in (("labels", labels), ("weights", weights)):
            if tensor is not None and tuple(tensor.shape) != expected:
                raise InputError(f"{name}: expected shape {expected}, got {tuple(tensor.shape)}.")
        if weights is not None and not self.takes_weights:
            raise OptionError(
                "This loss has no use for weights of voxels: leave out the border weights, "
                "or take the loss weighted-cross-entropy."
            )
