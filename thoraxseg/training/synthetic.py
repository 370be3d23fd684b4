"""Batches of random phantoms: an endless stream of patches that nobody has to draw by hand.

Each phantom (`phantoms.randomized`) is a new body with a new contrast. Patches of it are turned, stretched, bent and
mirrored, then blurred, shaded and made noisy as scanners do (SynthSeg's ranges as the project's definitions, 11.3,
adapt them). A batch depends on the seed and its number alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from thoraxseg.phantoms.randomized import randomized
from thoraxseg.training.batch import IGNORE, Batch

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SyntheticOptions:
    """What is drawn, and from which ranges; lengths in voxels."""

    kind: str
    spacing_mm: float
    patch_size: tuple[int, int, int] = (48, 48, 48)
    batch_size: int = 4
    patches_per_phantom: int = 6
    """How often a phantom is looked at, each time from elsewhere."""
    any_pose: float = 0.5
    """Share of the patches that are rolled about the body's axis by any angle, and turned head to tail at times."""
    tilt_degrees: float = 15.0
    scale: float = 0.2
    """Largest relative change of size, and a quarter of it along each axis."""
    elastic_voxels: float = 3.0
    """Largest SD of the displacement on a coarse lattice."""
    mirrored: float = 0.5
    """Share of the patches that are mirrored, with `swap` exchanged. Where bodies lie in any pose and sides matter it
    is 0: in a mirrored body the heart no longer tells which lung is the left one, and little else does."""
    swap: Mapping[int, int] = field(default_factory=dict)
    """Labels that change places in a mirror: right and left lung."""
    noise: float = 0.2
    """Largest SD of noise, in SDs of the image."""
    rician: bool = False
    bias: float = 0.0
    """Largest SD of the logarithm of the shading."""
    gamma: float = 0.25
    blur_voxels: float = 1.0
    coarse: float = 4.0
    """Largest ratio of a coarse spacing to that of the network, along one axis or all."""


class SyntheticSource:
    """Patches of random phantoms; a `Source`."""

    def __init__(self, options: SyntheticOptions, seed: int = 0) -> None:
        self.options, self.seed = options, seed
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def start_epoch(self, epoch: int, network: torch.nn.Module) -> None:
        """Nothing changes from one epoch to the next."""

    def batch(self, step: int) -> Batch:
        """Return the batch with this number."""
        import torch

        size = self.options.batch_size
        pairs = [self._patch(step * size + n) for n in range(size)]
        images, labels = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        return Batch(images[:, None], labels)

    def _patch(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        # Neighbors in a batch are of different phantoms; each phantom serves in consecutive batches.
        options = self.options
        group = options.batch_size * options.patches_per_phantom
        phantom = number // group * options.batch_size + number % options.batch_size
        image, labels = self._phantom(phantom)
        rng = np.random.default_rng([self.seed, 1, number])
        return scanned(*seen_from(image, labels, options, rng), options, rng)

    def _phantom(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        if number not in self._kept:
            if len(self._kept) >= self.options.batch_size:
                self._kept.clear()
            found = randomized(self.options.kind, self.seed * 10_000_019 + number, self.options.spacing_mm)
            image = torch.from_numpy(np.asarray(found.volume.array, dtype=np.float32))
            self._kept[number] = (
                (image - image.mean()) / image.std(),
                torch.from_numpy(found.truth.labels.astype(np.int64)),
            )
        return self._kept[number]


def seen_from(
    image: torch.Tensor, labels: torch.Tensor, options: SyntheticOptions, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a patch of a phantom `(z, y, x)` in a random pose, `options.patch_size`, and its labels.

    Beyond the field of view the image repeats its border, as inference does, and labels are `IGNORE`.
    """
    import torch

    matrix, mirrored = _pose(options, rng)
    points = _bent(options, rng) @ torch.from_numpy(matrix.T.astype(np.float32))
    points += torch.from_numpy(_center(labels, rng).astype(np.float32))
    last = torch.tensor(image.shape, dtype=torch.float32) - 1
    outside = ((points < -0.5) | (points > last + 0.5)).any(-1)
    grid = (points / last.clamp(min=1) * 2 - 1).flip(-1)[None]  # (x, y, z) in -1 to 1

    def sampled(values: torch.Tensor, mode: str) -> torch.Tensor:
        return torch.nn.functional.grid_sample(
            values[None, None].float(), grid, mode=mode, padding_mode="border", align_corners=True
        )[0, 0]

    found = sampled(labels, "nearest").round().long()
    if mirrored and options.swap:
        table = torch.arange(IGNORE + 1)
        for one, other in options.swap.items():
            table[one], table[other] = other, one
        found = table[found]
    return sampled(image, "bilinear"), found.masked_fill(outside, IGNORE)


def _pose(options: SyntheticOptions, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Return the matrix `(3, 3)`, over (z, y, x), from the patch to the phantom, and whether it mirrors."""
    tilt = np.radians(rng.uniform(-options.tilt_degrees, options.tilt_degrees, 3))
    if rng.random() < options.any_pose:
        tilt[0] = rng.uniform(-np.pi, np.pi)
        tilt[1] += np.pi * (rng.random() < 0.3)
    turn = _turn(0, tilt[0]) @ _turn(1, tilt[1]) @ _turn(2, tilt[2])
    scale = (1 + rng.uniform(-options.scale, options.scale)) * (
        1 + rng.uniform(-options.scale, options.scale, 3) / 4
    )
    shear = np.eye(3) + rng.uniform(-0.012, 0.012, (3, 3)) * (1 - np.eye(3))
    mirrored = bool(rng.random() < options.mirrored)
    mirror = np.diag([1.0, 1.0, -1.0 if mirrored else 1.0])
    return mirror @ turn @ shear @ np.diag(scale), mirrored


def _turn(axis: int, angle: float) -> np.ndarray:
    a, b = (n for n in range(3) if n != axis)
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def _bent(options: SyntheticOptions, rng: np.random.Generator) -> torch.Tensor:
    """Return where the voxels of a patch lie about its center, `(*patch_size, 3)`, bent smoothly."""
    import torch

    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in options.patch_size]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    sd = rng.uniform(0, options.elastic_voxels)
    count = int(rng.integers(3, 7))
    lattice = torch.from_numpy(rng.normal(0, sd, (1, 3, count, count, count)).astype(np.float32))
    field = torch.nn.functional.interpolate(lattice, options.patch_size, mode="trilinear", align_corners=True)
    return points + field[0].permute(1, 2, 3, 0)


def _center(labels: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    """Return the voxel that a patch looks at: mostly near a structure, each as often as another, else anywhere."""
    shape = np.array(labels.shape)
    present = np.unique(labels[labels > 0].numpy())
    if rng.random() < 0.15 or not len(present):
        return rng.uniform(0, shape - 1)
    of = (labels == int(rng.choice(present))).nonzero().numpy()
    return of[rng.integers(len(of))] + rng.uniform(-10, 10, 3)


def scanned(
    image: torch.Tensor, labels: torch.Tensor, options: SyntheticOptions, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a patch as a scanner would show it, in arbitrary units of about SD 1, and its labels."""
    import torch

    if rng.random() < 0.5:
        low, high = image.min(), image.max()
        share = (image - low) / (high - low).clamp(min=1e-6)
        image = low + (high - low) * share ** float(np.exp(rng.normal(0, options.gamma)))
    if options.bias and rng.random() < 0.7:
        lattice = rng.normal(0, rng.uniform(0, options.bias), (1, 1, 4, 4, 4)).astype(np.float32)
        shade = torch.nn.functional.interpolate(
            torch.from_numpy(lattice), image.shape, mode="trilinear", align_corners=True
        )
        low = image.min()
        image = low + (image - low) * shade[0, 0].exp()
    if rng.random() < 0.5:
        image = _blurred(image, rng.uniform(0, options.blur_voxels, 3))
    if rng.random() < 0.35:
        image = _coarse(image, options, rng)
    image = _noisy(image, options, rng)
    return image * float(rng.uniform(0.7, 1.4)) + float(rng.uniform(-0.4, 0.4)), labels


def _blurred(image: torch.Tensor, sigmas: np.ndarray) -> torch.Tensor:
    import torch

    image = image[None, None]
    for axis, sigma in enumerate(sigmas):
        if sigma < 0.2:
            continue
        reach = int(np.ceil(2.5 * sigma))
        taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / float(sigma)) ** 2)
        shape, pad = [1] * 5, [0] * 6
        shape[2 + axis] = len(taps)
        pad[4 - 2 * axis] = pad[5 - 2 * axis] = reach
        padded = torch.nn.functional.pad(image, pad, mode="replicate")
        image = torch.nn.functional.conv3d(padded, (taps / taps.sum()).reshape(shape))
    return image[0, 0]


def _coarse(image: torch.Tensor, options: SyntheticOptions, rng: np.random.Generator) -> torch.Tensor:
    """Return the image as it is after a scan with larger voxels, or thicker slices."""
    import torch

    ratios = np.ones(3)
    if rng.random() < 0.5:
        ratios[:] = rng.uniform(1, 1 + (options.coarse - 1) / 2)
    else:
        ratios[rng.integers(3)] = rng.uniform(1, options.coarse)
    small = [max(2, round(n / ratio)) for n, ratio in zip(image.shape, ratios, strict=True)]
    image = torch.nn.functional.interpolate(image[None, None], small, mode="area")
    image = _noisy(image[0, 0], options, rng)[None, None]
    return torch.nn.functional.interpolate(image, options.patch_size, mode="trilinear", align_corners=False)[
        0, 0
    ]


def _noisy(image: torch.Tensor, options: SyntheticOptions, rng: np.random.Generator) -> torch.Tensor:
    import torch

    sd = options.noise * float(rng.random()) ** 2  # little, more often than much

    def noise() -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))

    if options.rician and rng.random() < 0.6:
        low = image.min()
        return low + torch.hypot(image - low + sd * noise(), sd * noise())
    grain = noise()
    if rng.random() < 0.5:
        grain = _blurred(grain, rng.uniform(0, 1.0, 3))
        grain = grain / grain.std()
    return image + sd * grain
