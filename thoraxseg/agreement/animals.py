"""Scans of one animal are not independent: the comparison over animals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thoraxseg.metrics import compare_paired


def compare_animals(
    a: Sequence[float | None], b: Sequence[float | None], animals: Sequence[str], alpha: float
) -> dict[str, Any]:
    """Return `compare_paired` of the means of a and of b over each animal's complete pairs.

    The three sequences hold one entry a scan; an animal without a complete pair counts as missing.
    """
    groups: dict[str, list[tuple[float, float]]] = {animal: [] for animal in animals}
    for animal, x, y in zip(animals, a, b, strict=True):
        if x is not None and y is not None:
            groups[animal].append((x, y))
    means = [np.mean(pairs, axis=0).tolist() if pairs else (None, None) for pairs in groups.values()]
    return compare_paired([x for x, _ in means], [y for _, y in means], alpha)
