"""A prepared image through the networks of an nnU-Net model: windows, mirrorings and folds, summed in float32.

Sources: `nnUNetPredictor` of nnunetv2 2.8.1 and `SegmentationNetwork` of nnunet 1.7.1. Theirs sums in half
precision on a GPU, v2 on a CPU too; ours in float32 everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from thoraxseg.checkpoints.nnunet_plan import NnunetPlan, Origin
from thoraxseg.errors import CheckpointError
from thoraxseg.inference.mirroring import mirrored_mean, mirrorings
from thoraxseg.inference.nnunet_preprocess import label_values
from thoraxseg.inference.sparing import Sparing
from thoraxseg.progress import Progress, silent

if TYPE_CHECKING:
    import torch

Network = Callable[["torch.Tensor"], "torch.Tensor"]
"""A batch `(N, C, ...)` float32 on the chosen device -> logits `(N, L, ...)` there."""

STEP = 0.5
"""How far windows advance, as a fraction of the patch."""
SLICES_PER_CALL = {"cpu": 1, "cuda": 16}
"""How many slices a 2-D network sees at once, elsewhere 1; fixed, because the last bits of the answer depend
on it."""


def predict_scores(
    image: np.ndarray,
    plan: NnunetPlan,
    networks: Sequence[Network],
    device: str = "cpu",
    sums_on: str | None = None,
    mirror_axes: Sequence[int] | None = None,
    step: float = STEP,
    progress: Progress = silent,
    sparing: Sparing | None = None,
) -> np.ndarray:
    """Return `(L, z, y, x)` float32 of a prepared `image` `(C, z, y, x)`: the mean over windows, mirrors, folds.

    v1: probabilities (softmax, or sigmoid for regions), averaged as such; v2: logits. `networks` are the
    folds. A 2-D plan looks at slices along the first axis. Images smaller than the patch are padded with
    0. `mirror_axes` defaults to the plan's; `()` mirrors nothing. The sums live on `sums_on`, by default
    the `device` of the networks. `sparing` lets a 2-D network look at fewer slices at a time where the GPU's memory
    is short; 3-D networks of nnU-Net normalize over the whole window, so theirs are never cut. A progress that
    raises stops before the network's next look.
    Raises CheckpointError when answers are not finite or not `(N, L, ...)`, or no fold is given.
    """
    import torch

    check_folds(plan, networks)
    patch = tuple(plan.patch_size)
    axes = tuple(plan.mirror_axes if mirror_axes is None else mirror_axes)
    padded, inside = _padded(image, patch)
    spans = zip(padded.shape[-len(patch) :], patch, strict=True)
    starts = list(product(*(window_starts(length, size, step) for length, size in spans)))
    slices_per_call = SLICES_PER_CALL.get(torch.device(device).type, 1)
    looks = len(networks) * len(mirrorings(axes))
    looks *= sum(1 for start in starts for _ in _windows(padded, start, patch, slices_per_call))
    place = torch.device(sums_on or device)
    # One window needs no weights; without them its answer comes back without rounding, as v1 has it.
    weights = gaussian_weights(patch) if len(starts) > 1 else np.ones(patch, dtype=np.float32)
    weights = torch.from_numpy(weights).to(place)
    outputs = len(plan.regions_class_order or label_values(plan))
    total = torch.zeros((outputs, *padded.shape[1:]), dtype=torch.float32, device=place)
    norm = torch.zeros(padded.shape[-len(patch) :], dtype=torch.float32, device=place)
    done = 0

    def before_each() -> None:
        nonlocal done
        progress(min(done / looks, 1.0), "Looking at windows")  # fewer slices at a time are more looks
        done += 1

    with torch.inference_mode():
        for network in networks:
            scores = _scores(network, plan, outputs)

            def look(batch: torch.Tensor, scores: Network = scores) -> torch.Tensor:
                return mirrored_mean(scores, batch.to(device), axes, before_each).to(place)

            for start in starts:
                for where in _windows(padded, start, patch, slices_per_call):
                    batch = torch.from_numpy(_batch(padded[where], len(patch)))
                    if sparing is None or len(patch) == 3:
                        answer = look(batch)
                    else:
                        answer = sparing.few_at_a_time(look, batch, torch.cat, torch.OutOfMemoryError)
                    answer = answer[0] if len(patch) == 3 else answer.movedim(0, 1)
                    total[where].addcmul_(answer, weights)
        for start in starts:
            norm[tuple(slice(s, s + n) for s, n in zip(start, patch, strict=True))] += weights
        total /= norm * len(networks)
        if not all(bool(torch.isfinite(one).all()) for one in total):
            raise CheckpointError(
                f"{plan.name}: expected finite answers, got NaN or infinity: the network overflows on this image. "
                "Check its intensities, and that plans and weights belong together."
            )
    progress(1.0, "Looked at all windows")
    return total.cpu().numpy()[inside]


def check_folds(plan: NnunetPlan, networks: Sequence[Network]) -> None:
    """Raise CheckpointError when there is no network to ask."""
    if not networks:
        raise CheckpointError(
            f"{plan.name}, {plan.configuration}: expected the network of at least one fold, no fold was given. "
            "Choose one of the model's folds."
        )


def window_starts(length: int, size: int, step: float) -> list[int]:
    """Return where windows of `size` begin: evenly, at most `step * size` apart, rounded half to even.

    `length` is at least `size`, `step` above 0 and at most 1.
    """
    last = length - size
    count = int(np.ceil(last / (size * step))) + 1
    return [round(last / max(count - 1, 1) * n) for n in range(count)]


def gaussian_weights(patch_size: Sequence[int]) -> np.ndarray:
    """Return positive float32 weights of the patch's shape, 1 at the voxel `size // 2`.

    A Gaussian of SD size / 8, as `scipy.ndimage.gaussian_filter` spreads a single voxel. The corners of a
    3-D patch weigh e^-24, which float32 holds; nnU-Net's half precision needs a floor there.
    """
    from scipy.ndimage import gaussian_filter1d

    weights = np.ones((), dtype=np.float64)
    for size in patch_size:
        line = np.zeros(size)
        line[size // 2] = 1
        weights = weights[..., None] * gaussian_filter1d(line, size / 8, mode="constant")
    return (weights / weights.max()).astype(np.float32)


def _padded(image: np.ndarray, patch: tuple[int, ...]) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Return the image with zeros around it where it is smaller than the patch, and where it lies in it."""
    short = [0] * (image.ndim - len(patch))
    short += [max(0, size - have) for size, have in zip(patch, image.shape[-len(patch) :], strict=True)]
    inside = (
        slice(None),
        *(slice(s // 2, s // 2 + n) for s, n in zip(short[1:], image.shape[1:], strict=True)),
    )
    if not any(short):
        return image, inside
    return np.pad(image, [(s // 2, s - s // 2) for s in short]), inside


def _windows(
    image: np.ndarray, start: tuple[int, ...], patch: tuple[int, ...], slices_per_call: int
) -> Iterator[tuple[slice, ...]]:
    """Yield where in `(C, z, y, x)` the network looks: once in 3-D, for every few slices in 2-D."""
    window = tuple(slice(s, s + n) for s, n in zip(start, patch, strict=True))
    if len(patch) == 3:
        yield (slice(None), *window)
        return
    for first in range(0, image.shape[1], slices_per_call):
        yield (slice(None), slice(first, min(first + slices_per_call, image.shape[1])), *window)


def _batch(window: np.ndarray, dimensions: int) -> np.ndarray:
    """Return a copy of `(C, n, y, x)` as the batch `(1, C, n, y, x)` in 3-D or `(n, C, y, x)` in 2-D."""
    return np.array(window[None] if dimensions == 3 else window.swapaxes(0, 1), dtype=np.float32, order="C")


def _scores(network: Network, plan: NnunetPlan, outputs: int) -> Network:
    """Return a function from a batch to what is averaged: v1 probabilities, v2 logits, float32."""
    import torch

    def scores(batch: torch.Tensor) -> torch.Tensor:
        answer = network(batch)
        if answer.shape != (len(batch), outputs, *batch.shape[2:]):
            raise CheckpointError(
                f"{plan.name}: expected {outputs} outputs for each of {tuple(batch.shape[2:])} voxels, got an answer "
                f"of shape {tuple(answer.shape)}: plans and weights do not belong together."
            )
        answer = answer.float()
        if plan.origin is Origin.V2:
            return answer
        return torch.softmax(answer, dim=1) if plan.regions_class_order is None else torch.sigmoid(answer)

    return scores
