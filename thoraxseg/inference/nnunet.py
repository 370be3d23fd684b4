"""An image and an nnU-Net plan in, the networks' answer out: preparing, looking, and the way back.

The steps stand in `nnunet_preprocess`, `nnunet_windows` and `nnunet_answer`; clean-up in `nnunet_cleanup`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from thoraxseg.checkpoints.nnunet_plan import NnunetPlan
from thoraxseg.inference.nnunet_answer import Answer, as_probabilities
from thoraxseg.inference.nnunet_cleanup import clean_up
from thoraxseg.inference.nnunet_preprocess import Grid, label_values, preprocess
from thoraxseg.inference.nnunet_windows import STEP, Network, check_folds, predict_scores
from thoraxseg.progress import Progress, part, silent

__all__ = [
    "Answer",
    "Grid",
    "as_probabilities",
    "clean_up",
    "label_values",
    "predict",
    "predict_scores",
    "preprocess",
]

logger = logging.getLogger(__name__)


def predict(
    image: np.ndarray,
    spacing_mm: Sequence[float],
    plan: NnunetPlan,
    networks: Sequence[Network],
    previous_labels: np.ndarray | None = None,
    device: str = "cpu",
    sums_on: str | None = None,
    mirror_axes: Sequence[int] | None = None,
    step: float = STEP,
    progress: Progress = silent,
) -> Answer:
    """Return the answer of the folds in `networks` to `image` `(C, z, y, x)` of `spacing_mm` (z, y, x).

    Axis order is that of the plan's reader. Everything else as in `preprocess` and `predict_scores`.
    """
    check_folds(plan, networks)
    prepared, grid = preprocess(image, spacing_mm, plan, previous_labels, part(progress, 0.0, 0.1))
    logger.info("%s: %s voxels become %s for the network", plan.name, grid.source_shape, grid.shape)
    looking = part(progress, 0.1, 1.0)
    scores = predict_scores(prepared, plan, networks, device, sums_on, mirror_axes, step, looking)
    return Answer(scores, grid, plan)
