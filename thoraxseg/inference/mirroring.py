"""A network's answer to a batch, averaged over mirrored copies of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return every subset of `axes`, the empty one first."""
    return [subset for size in range(len(axes) + 1) for subset in combinations(axes, size)]


def mirrored_mean(
    scores: Callable[[torch.Tensor], torch.Tensor],
    batch: torch.Tensor,
    axes: Sequence[int],
    before_each: Callable[[], None],
) -> torch.Tensor:
    """Return the mean of `scores`, `(N, L, ...)`, over all mirrorings of `batch` `(N, C, ...)`, turned back.

    `axes` count from the first spatial axis. `before_each` is called before every look at the batch and
    may raise to stop.
    """
    total: torch.Tensor | None = None
    subsets = mirrorings(axes)
    for subset in subsets:
        before_each()
        flips = [axis + 2 for axis in subset]
        answer = scores(batch.flip(flips)).flip(flips) if flips else scores(batch)
        total = answer if total is None else total + answer
    return total / len(subsets)
