"""Several checkpoints, each by its own road, averaged with weights on the grid of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from thoraxseg import inference
from thoraxseg.errors import CheckpointError
from thoraxseg.inference.uncertainty import entropy_of
from thoraxseg.roads.answer import Answer


def together(answers: Sequence[Answer], shares: Sequence[float], space: str, entropy: bool = False) -> Answer:
    """Return the weighted average of answers of different checkpoints to one image.

    `probabilities`: sum of w p. `logits`: softmax of the sum of w log p, which is that of the weighted logits. A
    share of 1 gives that checkpoint's own answer, bit for bit, doubt and all; a share of 0 leaves one out. `shares`
    sum to 1. `entropy` asks for the doubt of an average, to which that of the answers says nothing. Raises
    CheckpointError when the answers have other classes.
    """
    counted = [(answer, share) for answer, share in zip(answers, shares, strict=True) if share > 0]
    notes = [note for answer in answers for note in answer.notes]
    warnings = [warning for answer in answers for warning in answer.warnings]
    if len(counted) == 1:
        return replace(counted[0][0], notes=notes, warnings=warnings)
    mixed = mix([(answer.probabilities(), share) for answer, share in counted], space)
    return Answer(
        mixed.argmax(axis=0).astype(np.uint8),
        inference.predictive_entropy(mixed) if entropy else None,
        entropy_of(f"the averaged {space}", len(mixed)) if entropy else None,
        lambda: mixed,
        answers[0].predictor,
        warnings,
        notes,
    )


def mix(parts: Sequence[tuple[np.ndarray, float]], space: str) -> np.ndarray:
    """Return probabilities `(L, K, J, I)` float32: the average of probabilities with weights that sum to 1."""
    shapes = {values.shape for values, _ in parts}
    if len(shapes) > 1:
        raise CheckpointError(
            f"expected checkpoints with the same classes in an ensemble, got answers of shapes {sorted(shapes)}."
        )
    tiny = np.finfo(np.float32).tiny
    total = np.zeros(next(iter(shapes)), dtype=np.float32)
    for values, share in parts:
        total += np.float32(share) * (np.log(np.maximum(values, tiny)) if space == "logits" else values)
    if space == "logits":
        total = np.exp(total - total.max(axis=0))
    return total / total.sum(axis=0)
