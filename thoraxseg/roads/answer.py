"""What every road gives: labels, doubt and probabilities on the grid of the input."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thoraxseg.inference import Predictor
from thoraxseg.inference.uncertainty import Quantity

Clock = Callable[[str], AbstractContextManager[None]]
"""Times a block under the name of a stage: `with clock("inference"): ...`."""


@dataclass(eq=False)
class Answer:
    """What a checkpoint says about one image, on the grid of the image."""

    labels: np.ndarray
    """`(K, J, I)` uint8."""
    doubt: np.ndarray | None
    """`(K, J, I)` float32, what `quantity` says; None when not asked for."""
    quantity: Quantity | None
    probabilities: Callable[[], np.ndarray]
    """Call it for the class probabilities `(L, K, J, I)` float32, or one for each region of nnU-Net."""
    predictor: Predictor
    """The predictor that was used: another one than given when the GPU was too small."""
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sampling: dict[str, Any] | None = None
    """How samples were drawn, for the record; None where none were."""
