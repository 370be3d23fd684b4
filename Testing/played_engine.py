"""What a played child process of `thoraxseg.job` answers: the contours that a test wants it to have found."""

from __future__ import annotations

import numpy as np

from thoraxseg.job import Outcome
from thoraxseg.segmentation import STRUCTURES, Segmentation
from thoraxseg.volume import Volume
from ThoraxSegLib.SelfTest import PlayedEngine, PlayedJob, outcomeOf

__all__ = ["KEYS", "PlayedEngine", "PlayedJob", "outcome_of"]
KEYS = ("heart", "spinal_cord", "right_lung", "left_lung")


def outcome_of(volume: Volume, labels: np.ndarray, with_doubt: bool = True, keys=KEYS, **changes) -> Outcome:
    """Return the answer that these `labels` `(K, J, I)` were found, with a doubt that rises from slice to slice."""
    truth = Segmentation(labels, volume.ijk_to_ras, {n: STRUCTURES[key] for n, key in enumerate(keys, 1)})
    doubt = np.linspace(0, 1, len(labels), dtype=np.float32)[:, None, None] * np.ones(
        labels.shape, np.float32
    )
    return outcomeOf(truth, volume, doubt if with_doubt else None, **changes)
