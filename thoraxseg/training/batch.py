"""What a network is shown at once, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

IGNORE = 255
"""Voxels with this label count in no loss and no score."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Images, labels and, where the loss takes them, weights of voxels."""

    images: torch.Tensor
    """`(N, C, *S)` float32."""
    labels: torch.Tensor
    """`(N, *S)` int64; `IGNORE` where nothing is known."""
    weights: torch.Tensor | None = None
    """`(N, *S)` float32."""
    cases: tuple[str, ...] = ()
    """Which case each image is from."""
    corners: tuple[tuple[int, ...], ...] = ()
    """First voxel (k, j, i) of each image in its case."""


class Source(Protocol):
    """Where batches come from.

    A batch depends on the source's seed and the number of the step alone, and on what `start_epoch` did: nothing
    needs to be saved, and a resumed run sees what an uninterrupted one would have seen.
    """

    def batch(self, step: int) -> Batch:
        """Return the batch of a forward pass, counted from 0 over the whole run."""
        ...

    def start_epoch(self, epoch: int, network: torch.nn.Module) -> None:
        """Do what an epoch begins with, such as new error maps; also called for an epoch that is resumed."""
        ...
