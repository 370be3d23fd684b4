"""A checkpoint in, a predictor out that keeps its networks loaded: image -> class probabilities."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thoraxseg.checkpoints import Checkpoint
from thoraxseg.checkpoints.weights import read_weights
from thoraxseg.errors import CheckpointError, DependencyError
from thoraxseg.inference.slices import predict_slices
from thoraxseg.inference.sliding_window import predict_windows
from thoraxseg.models import build_network, load_weights
from thoraxseg.options import Device
from thoraxseg.progress import Progress, part, silent

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

SLICES_PER_CALL = {"cpu": 1, "cuda": 16}
"""On a CPU one slice fits the caches and is fastest. The numbers are fixed, because the sums inside a
convolution, and so the last bits of the answer, depend on them."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """Loaded networks (one a fold) of one checkpoint on one device."""

    checkpoint: Checkpoint
    networks: tuple[torch.nn.Module, ...]
    device: str

    def probabilities(self, image: np.ndarray, progress: Progress = silent) -> np.ndarray:
        """Return class probabilities `(L, K, J, I)` float32 of a prepared image `(K, J, I)` float32.

        Folds and windows are averaged as probabilities or logits, as the card says. A cancelling
        progress stops within one window or a few slices. Raises CheckpointError when the network's
        answer does not have the card's number of classes or is not finite.
        """
        import torch

        plan = self.checkpoint.card.inference
        average_logits = plan.averaging == "logits"
        total: np.ndarray | None = None
        for index, network in enumerate(self.networks):
            span = part(progress, index / len(self.networks), (index + 1) / len(self.networks))
            scores = self._scores(network, average_logits, plan.temperature)
            if plan.mode == "slices":
                cores = torch.get_num_threads() if self.device == "cpu" else 1
                answer = predict_slices(scores, image, SLICES_PER_CALL[self.device], cores, span)
            else:
                answer = predict_windows(scores, image, plan.patch_size, plan.step, span)
            total = answer if total is None else np.add(total, answer, out=total)
        total /= np.float32(len(self.networks))
        probabilities = _softmax(total) if average_logits else total
        if not np.isfinite(probabilities).all():
            raise CheckpointError(
                f"checkpoint {self.checkpoint.card.name}: expected finite probabilities, got NaN: the network "
                "overflows on this image. Check its intensities, and that card and weights belong together."
            )
        return probabilities

    def _scores(
        self, network: torch.nn.Module, logits: bool, temperature: float
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function from a batch `(N, 1, ...)` to `(N, L, ...)` logits or probabilities, float32."""
        import torch

        card = self.checkpoint.card
        classes = max(card.labels) + 1

        def scores(batch: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                answer = network(torch.from_numpy(batch).to(self.device)).float() / temperature
                answer = (answer if logits else torch.softmax(answer, dim=1)).cpu().numpy()
            if answer.shape != (len(batch), classes, *batch.shape[2:]):
                raise CheckpointError(
                    f"checkpoint {card.name}: expected {classes} classes for each of {batch.shape[2:]} voxels, got "
                    f"an answer of shape {answer.shape[1:]}: the card and its weights do not belong together."
                )
            return answer

        def explained(batch: np.ndarray) -> np.ndarray:
            try:
                return scores(batch)
            except torch.OutOfMemoryError as error:
                raise DependencyError(
                    "the GPU has too little free memory for this checkpoint. Close other programs on it, or "
                    "use --device cpu."
                ) from error
            except RuntimeError as error:
                raise CheckpointError(
                    f"checkpoint {card.name}: its network failed on an image part of shape {batch.shape[2:]}: "
                    f"{str(error)[:300]}"
                ) from error

        return explained


def load_predictor(checkpoint: Checkpoint, device: Device) -> Predictor:
    """Read the checkpoint's weights into its networks on the chosen device.

    Raises CheckpointError for weights that do not fit, DependencyError when CUDA is asked for and absent.
    """
    import torch

    if device is Device.CUDA and not torch.cuda.is_available():
        raise DependencyError(
            "--device cuda: torch sees no CUDA GPU here. Use --device cpu, or install a CUDA build of torch "
            "and the GPU's driver."
        )
    use_gpu = device is Device.CUDA or (device is Device.AUTO and torch.cuda.is_available())
    place = "cuda" if use_gpu else "cpu"
    architecture = checkpoint.card.architecture
    networks = []
    for path in checkpoint.weights:
        network = build_network(architecture.name, architecture.parameters)
        state = read_weights(path)
        try:
            load_weights(network, architecture.name, state)
        except CheckpointError as error:
            raise CheckpointError(f"checkpoint {checkpoint.card.name}, {path.name}: {error}") from error
        if checkpoint.card.inference.mode == "slices":
            # Channels last halves the time of separable 2-D convolutions on a CPU.
            network = network.to(memory_format=torch.channels_last)
        networks.append(network.to(place))
    logger.info("%s: %d network(s) on %s", checkpoint.card.name, len(networks), place)
    return Predictor(checkpoint, tuple(networks), place)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=0, keepdims=True))
    return shifted / shifted.sum(axis=0, keepdims=True)
