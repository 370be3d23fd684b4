"""Scores on the network's grid in, labels, probabilities and doubt on the image's grid out.

Scores are resampled a slab at a time and never held on the fine grid, unless probabilities are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from thoraxseg.checkpoints.nnunet_plan import NnunetPlan, Origin
from thoraxseg.inference.nnunet_preprocess import Grid, label_values
from thoraxseg.inference.nnunet_resample import Where, coarse_axis, resampled_slabs
from thoraxseg.progress import Progress, silent


@dataclass(frozen=True, eq=False)
class Answer:
    """What the networks said, and how to bring it back onto the grid and axis order of the input."""

    scores: np.ndarray
    """`(L, z, y, x)` float32 on the prepared grid: v1 probabilities, v2 logits, unless said otherwise."""
    grid: Grid
    plan: NnunetPlan
    are_probabilities: bool | None = None
    """Whether `scores` are probabilities (or else logits); None: as the plan's nnU-Net averages them."""

    def labels(self, progress: Progress = silent) -> np.ndarray:
        """Return labels `(z, y, x)` of the file, uint8 (uint16 above 255); 0 outside the crop.

        The output with the largest score wins, the first of equals. Regions: each above probability 0.5
        writes its label, in the plan's order.
        """
        return self._labels(progress, entropy=None)

    def labels_and_entropy(self, progress: Progress = silent) -> tuple[np.ndarray, np.ndarray]:
        """Return `labels` and the entropy in nats `(z, y, x)` float32 from one pass over the scores.

        Entropy: 0 to ln L. Regions overlap, so theirs is the largest entropy of one of them, inside or
        outside, 0 to ln 2. 0 outside the crop. Source: Shannon 1948.
        """
        entropy = np.zeros(self.grid.source_shape, dtype=np.float32)
        return self._labels(progress, entropy), entropy

    def probabilities(self, progress: Progress = silent) -> np.ndarray:
        """Return `(L, z, y, x)` float32 in the file's axis order; outside the crop it is surely background.

        One for each of `label_values` (they sum to 1), or for each region (they do not).
        """
        out = np.zeros((len(self.scores), *self.grid.source_shape), dtype=np.float32)
        if self.plan.regions_class_order is None:
            out[0] = 1
        for where, block in self._slabs(progress):
            for target, values in zip(out, self._probabilities(block), strict=True):
                self._inside(target)[where] = values
        return out

    def _labels(self, progress: Progress, entropy: np.ndarray | None) -> np.ndarray:
        """Return the labels; fill `entropy` on the way where there is one."""
        outputs = self._outputs()
        values = np.array(outputs, dtype=np.uint8 if max(outputs) < 256 else np.uint16)
        labels = np.zeros(self.grid.source_shape, dtype=values.dtype)
        for where, block in self._slabs(progress):
            self._inside(labels)[where] = self._decide(block, values)
            if entropy is not None:
                self._inside(entropy)[where] = self._doubt(self._probabilities(block))
        return labels

    def _outputs(self) -> tuple[int, ...]:
        """Return the label of each output."""
        return tuple(self.plan.regions_class_order or label_values(self.plan))

    def _slabs(self, progress: Progress) -> Iterator[tuple[Where, np.ndarray]]:
        """Yield resampled scores with their place in the crop."""
        rule, grid = self.plan.resample_probabilities, self.grid
        done, total = 0, len(self.scores) * int(np.prod(grid.cropped_shape))
        for where, block in resampled_slabs(self.scores, grid.cropped_shape, rule, self._coarse_axis()):
            progress(done / total, "Bringing the answer onto the image")
            done += block.size
            yield where, block
        progress(1.0, "Brought the answer onto the image")

    def _coarse_axis(self) -> int | None:
        grid, force = self.grid, self.plan.resample_probabilities.force_separate_z
        if self.plan.origin is Origin.V2:
            return coarse_axis(grid.target_spacing_mm, grid.spacing_mm, force)
        # v1 asks the image first, and takes the model's spacing without turning it back: an axis of the
        # file's order is read off the transposed one.
        axis = coarse_axis(grid.source_spacing_mm, grid.target_spacing_mm, force)
        return axis if axis is None else list(self.plan.transpose_forward).index(axis)

    def _inside(self, array: np.ndarray) -> np.ndarray:
        """Return the crop of `array` (z, y, x of the file) in the plan's axis order; writing goes through."""
        return array.transpose(self.plan.transpose_forward)[self.grid.crop]

    def _hold_probabilities(self) -> bool:
        return self.plan.origin is Origin.V1 if self.are_probabilities is None else self.are_probabilities

    def _decide(self, block: np.ndarray, values: np.ndarray) -> np.ndarray:
        if self.plan.regions_class_order is None:
            return values[block.argmax(axis=0)]
        labels = np.zeros(block.shape[1:], dtype=values.dtype)
        threshold = 0.5 if self._hold_probabilities() else 0.0  # the logit of 0.5
        for scores, value in zip(block, values, strict=True):
            labels[scores > threshold] = value
        return labels

    def _probabilities(self, block: np.ndarray) -> np.ndarray:
        return block if self._hold_probabilities() else _from_logits(block, self.plan)

    def _doubt(self, probabilities: np.ndarray) -> np.ndarray:
        surprise = probabilities * -np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
        if self.plan.regions_class_order is None:
            return np.clip(surprise.sum(axis=0), 0, np.log(len(probabilities)))
        other = 1 - probabilities
        surprise += other * -np.log(np.maximum(other, np.finfo(np.float32).tiny))
        return np.clip(surprise.max(axis=0), 0, np.log(2))


def as_probabilities(scores: np.ndarray, plan: NnunetPlan) -> np.ndarray:
    """Return scores `(L, z, y, x)` as the plan's nnU-Net averages them as probabilities float32."""
    return scores if plan.origin is Origin.V1 else _from_logits(scores, plan)


def _from_logits(logits: np.ndarray, plan: NnunetPlan) -> np.ndarray:
    if plan.regions_class_order is None:
        shifted = np.exp(logits - logits.max(axis=0))
        return shifted / shifted.sum(axis=0)
    return np.exp(-np.logaddexp(0, -logits))  # the sigmoid, without overflow
