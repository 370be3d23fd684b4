"""A network in training, whole validation images in; Dice of each structure, loss and pictures out.

Images are looked at by the very road of inference (`Predictor`), on the grid that the network sees.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thoraxseg.checkpoints import Card, Checkpoint
from thoraxseg.inference import Predictor
from thoraxseg.progress import Progress, silent
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.data import PreparedCase
from thoraxseg.training.pictures import draw_validation, largest_slice, read_log

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

PICTURES = "pictures"
LOSS_VOXELS = 8_000_000
"""Voxels of a 3-D image that the loss is computed for at once."""


@dataclass(frozen=True)
class CaseScore:
    """How one validation image was answered for."""

    case: str
    animal: str
    dice: dict[str, float | None]
    """By key of the structure; None where neither truth nor answer has it."""
    loss: float | None


@dataclass(frozen=True)
class Scores:
    """How all validation images were answered for."""

    cases: tuple[CaseScore, ...]
    structures: dict[str, float | None]
    """Mean Dice of the images in which truth or answer has the structure; None where none does."""

    @property
    def dice(self) -> float:
        """Mean over structures; NaN where no image has any."""
        known = [value for value in self.structures.values() if value is not None]
        return float(np.mean(known)) if known else math.nan

    @property
    def loss(self) -> float:
        """Mean over images; NaN where it was not computed."""
        known = [case.loss for case in self.cases if case.loss is not None]
        return float(np.mean(known)) if known else math.nan

    def to_record(self) -> dict[str, Any]:
        """Return the numbers as plain data for JSON."""
        return {
            "dice": None if math.isnan(self.dice) else self.dice,
            "loss": None if math.isnan(self.loss) else self.loss,
            "structures": self.structures,
            "cases": [
                {"case": one.case, "animal": one.animal, "dice": one.dice, "loss": one.loss}
                for one in self.cases
            ],
        }


@dataclass
class Validation:
    """What the trainer calls after an epoch: network and epoch in, numbers out, a picture when they are better."""

    card: Card
    cases: Sequence[PreparedCase]
    loss: torch.nn.Module
    slices_at_once: int = 16
    """How many slices of a 2-D network the loss is computed for at once."""
    score: str = "dice"
    folder: Path | None = None
    """Where pictures go; None: none are drawn."""
    progress: Progress = silent
    _best: float | None = field(default=None, init=False)

    def go_on(self, log: Path) -> Validation:
        """Take up the best score of a log, where there is one: what was drawn before a kill is not drawn again."""
        if Path(log).exists():
            values = [row.get(f"val_{self.score}") for row in read_log(log)]
            for value in values:
                self._is_better(value)
        return self

    def __call__(self, network: torch.nn.Module, epoch: int) -> dict[str, float]:
        """Return `dice`, `loss` and `dice_<structure>`; draws the picture of the run when `score` is better."""
        shown: list[Any] = []
        found = self.of(network, f"Validating epoch {epoch + 1}", shown)
        numbers = {"dice": found.dice, "loss": found.loss}
        numbers |= {f"dice_{key}": value for key, value in found.structures.items() if value is not None}
        if self._is_better(numbers[self.score]) and self.folder is not None:
            self._draw(epoch, numbers["dice"], *shown)
        return numbers

    def of(
        self, network: torch.nn.Module, message: str = "Validating", shown: list[Any] | None = None
    ) -> Scores:
        """Return how the images are answered for; `shown` gets the slice of the picture and its probabilities."""
        device = next(network.parameters()).device.type
        predictor = Predictor(Checkpoint(self.card, ()), (network,), device)
        keys = {label: structure.key for label, structure in self.card.labels.items()}
        picture = self._pictured() if shown is not None and self.cases else None
        found = []
        self.loss.eval()  # what a loss remembers of training stays as it is
        try:
            for index, case in enumerate(self.cases):
                words = f"{message}, image {index + 1} of {len(self.cases)}"
                scores = predictor.scores(np.array(case.channels), _renamed(self.progress, words))
                answer = np.stack([some.argmax(axis=0).astype(np.uint8) for some in scores.swapaxes(0, 1)])
                truth = np.asarray(case.labels)
                dice = {key: _dice(truth, answer, label) for label, key in keys.items()}
                found.append(CaseScore(case.id, case.animal, dice, self._loss(scores, truth, device)))
                if picture is not None and picture[0] == index:
                    shown += [index, picture[1], predictor.as_probabilities(scores[:, picture[1]])]
        finally:
            self.loss.train()
        means = {}
        for key in keys.values():
            known = [one.dice[key] for one in found if one.dice[key] is not None]
            means[key] = float(np.mean(known)) if known else None
        return Scores(tuple(found), means)

    def _is_better(self, score: float | None) -> bool:
        if score is None or not math.isfinite(score):
            return False
        lower = self.score == "loss"
        better = self._best is None or (score < self._best if lower else score > self._best)
        self._best = score if better else self._best
        return better

    def _loss(self, scores: np.ndarray, labels: np.ndarray, device: str) -> float:
        """Return the loss of the whole image, in parts where it is large and of a stack for a 2-D network.

        A loss holds about a hundred bytes a voxel.
        """
        import torch

        logits = scores
        if self.card.inference.averaging == "probabilities":
            logits = np.log(np.maximum(scores, 1e-7))  # the softmax of ln p is p
        if getattr(self.loss, "channels", len(logits)) == 1:
            logits = logits[1:] - logits[:1]
        if self.card.inference.mode == "slices":
            logits, at_once = logits.swapaxes(0, 1), self.slices_at_once
        else:
            at_once = max(1, LOSS_VOXELS // labels[0].size)
        total, depth = 0.0, len(labels)
        for start in range(0, depth, at_once):
            here = slice(start, start + at_once)
            if self.card.inference.mode == "slices":
                some, truth = logits[here], labels[here]
            else:
                some, truth = logits[None, :, here], labels[None, here]
            values = torch.from_numpy(np.ascontiguousarray(some)).to(device)
            total += float(self.loss(values, torch.from_numpy(truth.astype(np.int64)).to(device))) * len(
                labels[here]
            )
        return total / depth

    def _pictured(self) -> tuple[int, int, int]:
        """Return image, slice and label of the picture: the largest tumor, else the largest foreground."""
        tumors = [label for label, structure in self.card.labels.items() if structure.key == "tumors"]
        for label in (*tumors, None):
            areas = [largest_slice(np.asarray(case.labels), label) for case in self.cases]
            index = max(range(len(areas)), key=lambda one: areas[one][1])
            k, area = areas[index]
            if area:
                break
        if label is None:
            counts = np.bincount(np.asarray(self.cases[index].labels[k]).ravel(), minlength=IGNORE + 1)
            label = max(self.card.labels, key=lambda one: counts[one])
        return index, k, label

    def _draw(self, epoch: int, dice: float, index: int, k: int, probabilities: np.ndarray) -> None:
        case, label = self.cases[index], self._pictured()[2]
        draw_validation(
            self.folder / f"epoch-{epoch + 1:04d}.png",
            np.asarray(case.channels[0, k]),
            np.asarray(case.labels[k]),
            probabilities,
            [
                self.card.labels[one].name if one in self.card.labels else ""
                for one in range(1, len(probabilities))
            ],
            label,
            case.spacing_mm[1:],
            f"{case.id}, slice {k + 1} of {case.labels.shape[0]}, epoch {epoch + 1}: mean Dice {dice:.3f}",
        )


def _dice(truth: np.ndarray, answer: np.ndarray, label: int) -> float | None:
    """Return the Dice score of a label where the truth is known; None where neither has it."""
    known = truth != IGNORE
    mine, theirs = (answer == label) & known, truth == label
    total = int(mine.sum()) + int(theirs.sum())
    return 2 * int((mine & theirs).sum()) / total if total else None


def _renamed(progress: Progress, message: str) -> Callable[[float, str], None]:
    """Return a progress with other words; validation takes none of the bar of training."""
    return lambda fraction, words: progress(0.0, message)
