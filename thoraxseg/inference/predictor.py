"""A checkpoint in, a predictor out that keeps its networks loaded: prepared channels -> scores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from thoraxseg.checkpoints import Checkpoint
from thoraxseg.checkpoints.weights import read_weights
from thoraxseg.errors import CheckpointError, DependencyError, DeviceMemoryError
from thoraxseg.inference.slices import predict_slices
from thoraxseg.inference.sliding_window import predict_windows
from thoraxseg.inference.sparing import NO_ROOM, Look, Sparing
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
    """Loaded networks (one a fold) of one checkpoint on one device, and the predictors that it builds on."""

    checkpoint: Checkpoint
    networks: tuple[torch.nn.Module, ...]
    device: str
    previous: Predictor | None = None
    """The first stage of a cascade."""
    lungs: Predictor | None = None
    """What makes the lung map of a network that takes one."""
    members: tuple[Predictor, ...] = ()
    """The parts of an ensemble; it has no networks of its own."""
    gpu_too_small: bool = False
    """Whether this is on the CPU only because the memory of the GPU did not suffice."""
    sparing: Sparing = field(default_factory=Sparing, compare=False, repr=False)
    """How this predictor makes do with less of the GPU's memory."""

    def scores(
        self, channels: np.ndarray, progress: Progress = silent, folds: Sequence[int] | None = None
    ) -> np.ndarray:
        """Return what is averaged, `(L, K, J, I)` float32, for prepared `channels` `(C, K, J, I)` float32.

        That is probabilities or logits, as the card says, averaged over windows and over `folds` (indices of
        networks, all by default). A cancelling progress stops within one window or a few slices. Raises
        CheckpointError when the network's answer does not have the card's number of classes or is not finite.
        """
        import torch

        plan = self.checkpoint.card.inference
        chosen = [self.networks[fold] for fold in (range(len(self.networks)) if folds is None else folds)]
        size = self._answer_size(plan.patch_size) if plan.mode == "sliding-window" else None
        total: np.ndarray | None = None
        for index, network in enumerate(chosen):
            span = self.sparing.telling(part(progress, index / len(chosen), (index + 1) / len(chosen)))
            look = self._sparing_look(network, size) if self.device == "cuda" else self._look(network, size)
            if plan.mode == "slices":
                cores = torch.get_num_threads() if self.device == "cpu" else 1
                # Random numbers of dropout come in order in one thread only.
                cores = 1 if any(layer.training for layer in network.modules()) else cores
                answer = predict_slices(look, channels, SLICES_PER_CALL[self.device], cores, span)
            elif plan.mode == "whole":
                span(0.0, "Looking at the whole image")
                answer = look(np.ascontiguousarray(channels)[None])[0]
            else:
                answer = predict_windows(
                    look, channels, plan.patch_size, plan.step, span, size, plan.blending == "gaussian"
                )
            total = answer if total is None else np.add(total, answer, out=total)
        total /= np.float32(len(chosen))
        if not np.isfinite(total).all():
            raise CheckpointError(
                f"checkpoint {self.checkpoint.card.name}: expected finite probabilities, got NaN: the network "
                "overflows on this image. Check its intensities, and that card and weights belong together."
            )
        return total

    def probabilities(self, channels: np.ndarray, progress: Progress = silent) -> np.ndarray:
        """Return class probabilities `(L, K, J, I)` float32 of prepared `channels`; raises as `scores` does."""
        return self.as_probabilities(self.scores(channels, progress))

    def as_probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return scores of this predictor as probabilities, `(L, K, J, I)` float32."""
        return _softmax(scores) if self.checkpoint.card.inference.averaging == "logits" else scores

    def for_one_image(self, said: dict[tuple[int, str], str]) -> Predictor:
        """Return the same predictor with nothing spared yet; what it will spare is told in `said`."""
        return replace(
            self,
            previous=self.previous and self.previous.for_one_image(said),
            lungs=self.lungs and self.lungs.for_one_image(said),
            members=tuple(member.for_one_image(said) for member in self.members),
            sparing=Sparing(said),
        )

    def on_cpu(self) -> Predictor:
        """Return the same predictor on the CPU, for want of memory; this one stays, for images that fit there."""
        return replace(
            self,
            networks=tuple(_copied_to_cpu(network, self.device) for network in self.networks),
            device="cpu",
            previous=self.previous and self.previous.on_cpu(),
            lungs=self.lungs and self.lungs.on_cpu(),
            members=tuple(member.on_cpu() for member in self.members),
            gpu_too_small=True,
            sparing=Sparing(),
        )

    def _answer_size(self, patch_size: tuple[int, int, int]) -> tuple[int, int, int] | None:
        """Return how much of a patch the network answers for, None when it is all of it."""
        if self.checkpoint.card.architecture.name != "deepmedic":
            return None
        from thoraxseg.models.deepmedic import FEATURES, output_size

        features = self.checkpoint.card.architecture.parameters.get("features", FEATURES)
        return output_size(patch_size, len(features))

    def _sparing_look(self, network: torch.nn.Module, size: tuple[int, ...] | None) -> Look:
        """Return a look that takes less of the GPU's memory where it does not suffice, and gives the same answer."""
        look, mode = self._look(network, size), self.checkpoint.card.inference.mode
        if mode == "slices":
            return lambda batch: self.sparing.few_at_a_time(look, batch, np.concatenate)
        if mode != "sliding-window" or size is not None:
            return look

        @cache
        def on_cpu() -> Look:
            return replace(self, device="cpu")._look(_copied_to_cpu(network, self.device), size)

        return partial(self.sparing.window, look, networks=(network, on_cpu))

    def _look(self, network: torch.nn.Module, size: tuple[int, ...] | None) -> Look:
        """Return a function from a batch `(N, C, ...)` to `(N, L, ...)` logits or probabilities, float32.

        `size` is how many voxels the answer must have; None: those of the batch. Raises DeviceMemoryError where
        the GPU's memory does not suffice, MemoryError where the machine's does not, CheckpointError for all else.
        """
        import torch

        card = self.checkpoint.card
        classes = max(card.labels) + 1
        logits, temperature = card.inference.averaging == "logits", card.inference.temperature

        def scores(batch: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                answer = network(torch.from_numpy(batch).to(self.device)).float()
                if answer.shape[1] == 1 and classes == 2:  # a sigmoid: its logit against a background of 0
                    answer = torch.cat([torch.zeros_like(answer), answer], dim=1)
                answer = answer / temperature
                answer = (answer if logits else torch.softmax(answer, dim=1)).cpu().numpy()
            wanted = tuple(size or batch.shape[2:])
            if answer.shape != (len(batch), classes, *wanted):
                raise CheckpointError(
                    f"checkpoint {card.name}: expected {classes} classes for each of {wanted} voxels, got "
                    f"an answer of shape {answer.shape[1:]}: the card and its weights do not belong together."
                )
            return answer

        def explained(batch: np.ndarray) -> np.ndarray:
            try:
                answer = scores(batch)
            except torch.OutOfMemoryError as error:
                raise DeviceMemoryError(NO_ROOM) from error
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise MemoryError(str(error)) from error
                raise CheckpointError(
                    f"checkpoint {card.name}: its network failed on an image part of shape {batch.shape[2:]}: "
                    f"{str(error)[:300]}"
                ) from error
            return answer

        return explained


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether torch says with an error that the memory of the machine, not of the GPU, does not suffice."""
    return "DefaultCPUAllocator" in str(error)


def load_predictor(checkpoint: Checkpoint, device: Device) -> Predictor:
    """Read the checkpoint's weights into its networks on the chosen device, with all that it builds on.

    Raises CheckpointError for weights that do not fit, DependencyError when CUDA is asked for and absent.
    """
    import torch

    if device is Device.CUDA and not torch.cuda.is_available():
        raise DependencyError(
            "--device cuda: torch sees no CUDA GPU here. Use --device cpu, or install a CUDA build of torch "
            "and the GPU's driver."
        )
    if device is Device.CPU or not torch.cuda.is_available():
        return _load(checkpoint, "cpu")
    try:
        return _load(checkpoint, "cuda")
    except torch.OutOfMemoryError as error:
        if device is Device.CUDA:
            raise DeviceMemoryError(NO_ROOM) from error
    return replace(_load(checkpoint, "cpu"), gpu_too_small=True)


def _load(checkpoint: Checkpoint, place: str) -> Predictor:
    networks = tuple(_network(checkpoint, index, place) for index in range(len(checkpoint.weights)))
    logger.info("%s: %d network(s) on %s", checkpoint.card.name, len(networks), place)
    return Predictor(
        checkpoint,
        networks,
        place,
        previous=checkpoint.previous and _load(checkpoint.previous, place),
        lungs=checkpoint.lungs and _load(checkpoint.lungs, place),
        members=tuple(_load(member, place) for member in checkpoint.members),
    )


def _copied_to_cpu(network: torch.nn.Module, device: str) -> torch.nn.Module:
    """Return a copy on the CPU, made there, since a full GPU has no room for a second one."""
    copied = deepcopy(network.to("cpu"))
    network.to(device)
    return copied


def _network(checkpoint: Checkpoint, index: int, place: str) -> torch.nn.Module:
    import torch

    card, path = checkpoint.card, checkpoint.weights[index]
    name, arguments = card.architecture.name, card.architecture.parameters
    state = read_weights(path)
    _check_size(name, arguments, state, card.name)
    network = build_network(name, arguments)
    try:
        load_weights(network, name, state)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {card.name}, {path.name}: {error}") from error
    if card.inference.mode == "slices":
        # Channels last halves the time of separable 2-D convolutions on a CPU.
        network = network.to(memory_format=torch.channels_last)
    return network.to(place)


def _check_size(name: str, arguments: Any, state: dict[str, torch.Tensor], card_name: str) -> None:
    """Refuse a card whose network is far larger than its weights, before memory is taken for it."""
    import torch

    with torch.device("meta"):
        network = build_network(name, arguments)
    wanted = sum(tensor.numel() for tensor in network.state_dict().values())
    given = sum(tensor.numel() for tensor in state.values())
    if wanted > 4 * given + 1_000_000:
        raise CheckpointError(
            f"checkpoint {card_name}: the network of its card has {wanted:,} numbers, its weights {given:,}: they do "
            "not belong together. Choose the weights that belong to this card."
        )


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=0, keepdims=True))
    return shifted / shifted.sum(axis=0, keepdims=True)
