"""Prepared cases in, batches of augmented patches out, the same for the same seed and step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.progress import Progress, silent
from thoraxseg.training.augmentation import check_augmentation, place, recolored
from thoraxseg.training.batch import Batch
from thoraxseg.training.sampling.error_maps import ErrorMaps
from thoraxseg.training.sampling.options import SamplingOptions
from thoraxseg.training.sampling.positions import Position, Positions

if TYPE_CHECKING:
    import torch

_AUGMENT = 0
"""Random stream of augmentation; `positions` has the others."""


class Prepared(Protocol):
    """What a prepared case must have; all on one grid."""

    id: str
    channels: np.ndarray
    """`(C, K, J, I)` float32."""
    labels: np.ndarray
    """`(K, J, I)` uint8."""
    spacing_mm: tuple[float, float, float]


class PatchSource:
    """Patches of prepared cases as `SamplingOptions` and the options of augmentation say.

    A batch depends on the seed and the step alone, and with isample on the error maps in `folder`, which
    `start_epoch` renews. With `threads`, patches are made on as many cores at once, those of the next batch while the
    network learns from this one; the batches are the same.
    Raises OptionError for options that cannot be used, InputError when there is nothing to show.
    """

    def __init__(
        self,
        cases: Sequence[Prepared],
        options: SamplingOptions,
        augmentation: Mapping[str, Any],
        seed: int,
        folder: Path,
        progress: Progress = silent,
        threads: int = 0,
    ) -> None:
        self.cases, self.options, self.seed = tuple(cases), options, seed
        self.augmentation = check_augmentation(augmentation, options.dimensions)
        self._progress = progress
        self._pool = ThreadPoolExecutor(threads) if threads else None
        self._ahead: tuple[int, tuple[list[Position], Iterable]] | None = None
        self._maps = None
        if options.sampler == "isample":
            self._maps = ErrorMaps(
                Path(folder) / "error-maps", self.cases, options.error, options.refresh_epochs
            )
        self._positions = Positions(
            self.cases, options, seed, self._maps.of if self._maps else lambda case: None
        )
        if options.sampler == "whole" and options.batch_size > 1:
            _check_one_size(self.cases)

    @property
    def batches_per_round(self) -> int:
        """How many batches show every case, or every slice, once."""
        return -(-self._positions.count // self.options.batch_size)

    def start_epoch(self, epoch: int, network: torch.nn.Module) -> None:
        """Renew the error maps where it is time; raises as `ErrorMaps.start_epoch` does."""
        if self._maps is not None:
            self._ahead = None  # it was made with the former maps
            self._maps.start_epoch(
                epoch, lambda channels: self._probabilities(channels, network), self._progress
            )

    def batch(self, step: int) -> Batch:
        """Return the batch of the forward pass `step`, from 0."""
        import torch

        number, ahead = self._ahead or (None, None)
        positions, patches = ahead if number == step else self._patches(step)
        images, labels, weights = zip(*patches, strict=True)
        if self._pool is not None:
            self._ahead = step + 1, self._patches(step + 1)
        return Batch(
            torch.from_numpy(np.stack(images)),
            torch.from_numpy(np.stack(labels).astype(np.int64)),
            None if weights[0] is None else torch.from_numpy(np.stack(weights)),
            tuple(self.cases[position.case].id for position in positions),
            tuple(tuple(np.subtract(p.corner, self.options.margins).tolist()) for p in positions),
        )

    def _patches(self, step: int) -> tuple[list[Position], Iterable]:
        """Return the positions of a batch and its patches, still in the making where there are threads."""
        positions = self._positions.at(step)
        doing = map if self._pool is None else self._pool.map
        return positions, doing(self._patch, positions, [step] * len(positions), range(len(positions)))

    def _patch(
        self, position: Position, step: int, number: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return images `(C, *S)`, labels of what is answered for, and their weights or None."""
        case, options = self.cases[position.case], self.options
        rng = np.random.default_rng([self.seed, _AUGMENT, step, number])
        corner = np.subtract(position.corner, options.margins)
        images, labels, spacing_mm = case.channels, case.labels, case.spacing_mm
        size = options.patch_size if options.sampler != "whole" else labels.shape
        margins = options.margins
        if options.dimensions == 2:
            images, labels = images[:, corner[0]], labels[corner[0]]
            corner, size, spacing_mm, margins = corner[1:], size[1:], spacing_mm[1:], margins[1:]
        placed = place(self.augmentation, size, rng, spacing_mm)
        images, labels, _ = placed.cut(images, labels, corner)
        images = recolored(images, self.augmentation, rng)
        labels = labels[tuple(slice(m, n - m) for m, n in zip(margins, labels.shape, strict=True))]
        return images, labels, self._weights(labels)

    def _weights(self, labels: np.ndarray) -> np.ndarray | None:
        if self.options.border_weights is None:
            return None
        from thoraxseg.training.losses import border_weights

        return border_weights(labels, **self.options.border_weights)

    def _probabilities(self, channels: np.ndarray, network: torch.nn.Module) -> np.ndarray:
        """Return `(L, K, J, I)` probabilities of a case in windows of the patch's size, as in inference."""
        import torch

        from thoraxseg.inference.sliding_window import predict_windows

        options = self.options
        device = next(network.parameters()).device
        flat = options.dimensions == 2

        def probabilities(window: np.ndarray) -> np.ndarray:
            images = torch.from_numpy(window).to(device)
            answer = network(images[:, :, 0])[:, :, None] if flat else network(images)
            answer = answer.float()
            if answer.shape[1] == 1:
                found = torch.sigmoid(answer)
                answer = torch.cat([1 - found, found], dim=1)
            else:
                answer = torch.softmax(answer, dim=1)
            return answer.cpu().numpy()

        was_training = network.training
        network.eval()
        try:
            with torch.inference_mode():
                return predict_windows(
                    probabilities,
                    np.asarray(channels, dtype=np.float32),
                    options.patch_size,
                    options.map_step,
                    answer_size=options.answer_size,
                )
        finally:
            network.train(was_training)


def _check_one_size(cases: Sequence[Prepared]) -> None:
    first = cases[0]
    for case in cases[1:]:
        if case.labels.shape != first.labels.shape:
            raise InputError(
                f"training on whole images: expected images of one size for a batch, got {first.labels.shape} in case "
                f"{first.id} and {case.labels.shape} in case {case.id}. Set sampling.batch_size to 1, or crop or "
                "resize all images alike in preprocessing."
            )
