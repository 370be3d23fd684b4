"""How much the model doubts, voxel by voxel."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np

from thoraxseg.errors import InputError


@dataclass(frozen=True)
class Quantity:
    """What a map of doubt holds: words for people, a key for programs, unit and largest possible value."""

    key: str
    words: str
    unit: str
    maximum: float


def entropy_of(what: str, classes: int) -> Quantity:
    """Return the quantity of an entropy of `what` over `classes` classes, in nats."""
    return Quantity("entropy_nat", f"entropy of {what}", "nat", log(classes))


FOLD_SPREAD = Quantity(
    "fold_spread", "standard deviation, over the folds, of the winning class's probability", "1", 0.5
)


def predictive_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy in nats, `(K, J, I)` float32, of `(L, K, J, I)` probabilities that sum to 1 over L.

    Range 0 to ln L; 0 where one class is certain (0 ln 0 counts as 0). Source: Shannon 1948.
    Raises InputError when a voxel's probabilities do not sum to 1 within 1e-3.
    """
    total = np.zeros(probabilities.shape[1:], dtype=np.float32)
    entropy = np.zeros(probabilities.shape[1:], dtype=np.float32)
    for p in probabilities:  # one class at a time keeps the memory at a few maps
        total += p
        entropy -= p * np.log(np.maximum(p, np.finfo(np.float32).tiny))
    worst = float(np.abs(total - 1).max())
    if not worst <= 1e-3:
        raise InputError(
            f"expected probabilities that sum to 1 in every voxel, got a deviation of {worst:.3g}."
        )
    return np.clip(entropy, 0, np.float32(np.log(len(probabilities))))
