"""When the memory of a GPU is short: less at a time on the GPU, as long as the contours stay the same.

Slices do not see one another, so fewer of them at a time give the same answer but for the last bits. A window of a
3-D network can be cut into smaller tiles only where a voxel's answer does not depend on the whole window: not where
layers are normalized over it (instance and group normalization), and not where the network looks farther than a tile's
margin. Which is not known in general: so one window is also answered whole, on the CPU, and tiles are used only
if both agree. Otherwise the work goes to the CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from math import ceil, gcd
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from thoraxseg.errors import CheckpointError, DeviceMemoryError
from thoraxseg.progress import Progress

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

MIN_DICE = 0.9995
"""How well tiles must agree with the window, for each structure in it: twice as close as a whole result has to."""
PARTS = (2, 4)
"""Into how many parts windows are cut along each axis; each tile also sees a margin of half a part."""
NO_ROOM = (
    "the GPU has too little free memory for this checkpoint. Close other programs on it, or use --device cpu."
)
Look = Callable[[np.ndarray], np.ndarray]
"""A batch `(N, C, ...)` -> scores `(N, L, ...)`; raises DeviceMemoryError."""
T = TypeVar("T")


@dataclass(eq=False)
class Sparing:
    """What one predictor spares on one image; starts with nothing."""

    said: dict[tuple[int, str], str] = field(default_factory=dict)
    """What to tell the user, by who says it and of what; one for all predictors of a result."""
    slices: int | None = None
    """How many slices a call, once all of them were too many."""
    parts: int = 1
    """Into how many parts windows are cut along each axis."""
    _now: str = ""

    def telling(self, progress: Progress) -> Progress:
        """Return a progress whose words also tell what is spared."""
        return lambda fraction, message: progress(fraction, message + self._now)

    def few_at_a_time(
        self,
        look: Callable[[T], T],
        batch: T,
        join: Callable[[Sequence[T]], T],
        short: type[Exception] = DeviceMemoryError,
    ) -> T:
        """Return the answer to a batch of slices, in smaller batches once `short` was raised.

        Raises `short` where the memory does not even suffice for one slice.
        """
        size = min(len(batch), self.slices or len(batch))
        answers, start = [], 0
        while start < len(batch):
            try:
                answers.append(look(batch[start : start + size]))
                start += size
                continue
            except short:
                if size == 1:
                    raise
            _free_gpu()
            size = self.slices = max(1, size // 4)
            self._say(
                "slices",
                f"The memory of the GPU was short: the network looked at {size} slice(s) at a time, which does not "
                "change the contours.",
                f"{size} at a time, since the GPU's memory is short",
            )
        return answers[0] if len(answers) == 1 else join(answers)

    def window(
        self, look: Look, batch: np.ndarray, networks: tuple[torch.nn.Module, Callable[[], Look]]
    ) -> np.ndarray:
        """Return the answer to one window `(1, C, k, j, i)`, from tiles once the whole was too much.

        `networks` are the network and what gives the same look on the CPU. Raises DeviceMemoryError where tiles are
        too large as well, or give another answer.
        """
        if self.parts == 1:
            try:
                return look(batch)
            except DeviceMemoryError:
                if not is_local(networks[0]):
                    raise
        for parts in (one for one in PARTS if one >= self.parts):
            _free_gpu()
            try:
                found = in_tiles(look, batch, parts)
            except (DeviceMemoryError, CheckpointError):  # still too large, or no size the network takes
                continue
            if parts == self.parts:
                return found
            whole = networks[1]()(batch)
            agreement = lowest_dice(found, whole)
            if agreement is None:  # nothing to compare: this answer is right in any case
                return whole
            if agreement < MIN_DICE:
                break
            self.parts = parts
            self._say(
                "tiles",
                f"The memory of the GPU was short: the network looked at smaller tiles, {parts} x {parts} x {parts} in "
                "each window. In a window that was also looked at whole, on the CPU, the contours agree (lowest Dice "
                f"{agreement:.5f}).",
                "smaller tiles, since the GPU's memory is short",
            )
            return found
        raise DeviceMemoryError(NO_ROOM)

    def _say(self, what: str, sentence: str, now: str) -> None:
        """Tell a step; a further one of the same kind takes its place."""
        self.said[(id(self), what)] = sentence
        self._now = f" ({now})"
        logger.warning(sentence)


def is_local(network: torch.nn.Module) -> bool:
    """Return whether no layer of a network takes something from the whole window: a mean, a variance."""
    from torch import nn

    whole = (
        nn.modules.instancenorm._InstanceNorm,
        nn.GroupNorm,
        nn.LayerNorm,
        nn.AdaptiveAvgPool3d,
        nn.AdaptiveMaxPool3d,
    )
    return not any(
        isinstance(layer, whole) or (hasattr(layer, "running_mean") and layer.running_mean is None)
        for layer in network.modules()
    )


def in_tiles(look: Look, batch: np.ndarray, parts: int) -> np.ndarray:
    """Return the answer to a window `(1, C, k, j, i)`, put together from `parts` along each axis."""
    out: np.ndarray | None = None
    for axes in product(*(tiles_along(size, parts) for size in batch.shape[2:])):
        seen = tuple(slice(begin, end) for begin, end, _, _ in axes)
        kept = tuple(slice(low, high) for _, _, low, high in axes)
        inside = tuple(slice(low - begin, high - begin) for begin, _, low, high in axes)
        answer = look(np.ascontiguousarray(batch[(..., *seen)]))
        if out is None:
            out = np.empty((1, answer.shape[1], *batch.shape[2:]), dtype=answer.dtype)
        out[(..., *kept)] = answer[(..., *inside)]
    return out


def tiles_along(size: int, parts: int) -> list[tuple[int, int, int, int]]:
    """Return of each tile along an axis where it begins and ends, and what part of the answer is kept."""
    # A power of 2 that divides the size, so that strides fall on the same voxels, and small enough for the margin.
    unit = gcd(size, 2 ** max(0, (size // 8).bit_length() - 1))
    edges = sorted({round(size * n / parts / unit) * unit for n in range(parts + 1)})
    margin = ceil(size / parts / 2 / unit) * unit
    return [(max(0, low - margin), min(size, high + margin), low, high) for low, high in pairwise(edges)]


def lowest_dice(one: np.ndarray, other: np.ndarray) -> float | None:
    """Return the lowest Dice of the labels of two answers `(1, L, ...)`; None where both find background only."""
    first, second = one[0].argmax(axis=0), other[0].argmax(axis=0)
    found: list[Any] = [label for label in np.union1d(first, second) if label]
    if not found:
        return None
    return min(
        2 * np.count_nonzero((first == label) & (second == label))
        / (np.count_nonzero(first == label) + np.count_nonzero(second == label))
        for label in found
    )  # fmt: skip


def _free_gpu() -> None:
    """Give back what torch keeps of the GPU's memory for later: another size may not fit into it."""
    import torch

    torch.cuda.empty_cache()
