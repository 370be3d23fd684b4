"""What every road gives: labels, doubt and probabilities on the grid of the input."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from thoraxseg.inference import Predictor
from thoraxseg.inference.uncertainty import Quantity
from thoraxseg.volume import Box, box_slices

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

    def on_whole_grid(self, shape: tuple[int, ...], box: Box) -> Answer:
        """Return the answer to a part of an image, `box`, on the grid of `shape`: surely background outside."""
        inside = box_slices(box, shape)

        def whole(part: np.ndarray) -> np.ndarray:
            out = np.zeros((*part.shape[:-3], *shape), dtype=part.dtype)
            out[(..., *inside)] = part
            return out

        def probabilities() -> np.ndarray:
            part = self.probabilities()
            out = whole(part)
            regions = self.predictor.checkpoint.card.nnunet
            if regions is None or regions.regions_class_order is None:
                outside = np.ones(shape, dtype=bool)
                outside[inside] = False
                out[0][outside] = 1
            return out

        doubt = None if self.doubt is None else whole(self.doubt)
        return replace(self, labels=whole(self.labels), doubt=doubt, probabilities=probabilities)
