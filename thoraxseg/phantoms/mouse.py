"""Mice: micro-CT with heart, spinal cord and lungs, and chest MRI with lungs and tumors.

Sizes and intensities follow the project's definitions, section 11, which were measured on two real label
maps (Rosenhain et al. 2018, mouse CT; Lefevre et al., DeepMeta, mouse MRI) and one real MRI.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thoraxseg.phantoms.canvas import Canvas, Grid
from thoraxseg.phantoms.mouse_anatomy import TREES, mouse_thorax
from thoraxseg.phantoms.noise import correlated_noise, smooth_field
from thoraxseg.phantoms.phantom import (
    Limits,
    Phantom,
    check_seeds,
    field_of_view,
    finished,
    random_streams,
    tumor_facts,
)
from thoraxseg.phantoms.shapes import Shape
from thoraxseg.phantoms.thorax import Individual, Thorax, cord_volume_mm3, paint_thorax
from thoraxseg.phantoms.tumors import TumorSizes, place_tumors, tumor_volumes, tumor_voxels

MRI_SPACING_MM = (0.15625, 0.1953125, 0.15625)
"""Spacing of the DeepMeta stacks along (slice, row, column)."""
TUMOR_SIZES = TumorSizes(smallest_mm3=0.05, largest_mm3=5.0, small_below_mm3=0.4)

_LIMITS = Limits(spacing_mm=(0.05, 1.0), margin_mm=(0.0, 20.0))
_REACH_MM = 15.0
CT_BOX = ((-10.0, -9.4, -11.0), (10.0, 9.4, 11.0))
MRI_BOX = ((-10.0, -10.0, -12.5), (10.0, 10.0, 12.5))

CT_VALUES = {
    "air": -1000,
    "skin": 10,
    "fat": -115,
    "fascia": -70,
    "muscle": 50,
    "bone": 1150,
    "marrow": 500,
    "cartilage": 180,
    "canal": 10,
    "cord": 35,
    "mediastinum": 5,
    "lung": -490,
    "airway": -930,
    "airway wall": -150,
    "lung vessel": 40,
    "vessel": 45,
    "blood": 45,
    "heart": 45,
    "esophagus": 35,
    "liver": 60,
    "gallbladder": 15,
    "stomach": 20,
    "gas": -900,
    "tumor": 35,
}
"""Hounsfield units of a freely breathing mouse."""

_CT_CONTRAST = {"lung vessel": 300, "vessel": 330, "blood": 330, "heart": 150, "liver": 240}
"""What a blood-pool agent that the liver takes up changes."""

MRI_VALUES = {
    "air": 6.2,
    "skin": 52,
    "fat": 90,
    "fascia": 55,
    "muscle": 22,
    "bone": 8.5,
    "marrow": 24,
    "cartilage": 30,
    "canal": 62,
    "cord": 40,
    "mediastinum": 27,
    "lung": 7.2,
    "airway": 6.2,
    "airway wall": 11,
    "lung vessel": 19,
    "vessel": 24,
    "blood": 20,
    "heart": 29,
    "esophagus": 26,
    "liver": 23,
    "gallbladder": 245,
    "stomach": 20,
    "gas": 6.5,
    "tumor": 20,
}
"""Gray values of the bSSFP stacks, uint8, of the batch that needs contrast enhancement."""


def mouse_micro_ct(
    seed: int = 0,
    spacing_mm: float | Sequence[float] = 0.28,
    axis_codes: str = "LPS",
    contrast_agent: bool = False,
    noise_seed: int | None = None,
    margin_mm: float = 0.0,
) -> Phantom:
    """Return a micro-CT of a mouse's chest, HU as int16, with heart 1, spinal cord 2, right 3, left lung 4.

    `spacing_mm` is one number or (k, j, i), 0.05 to 1 mm. `axis_codes` say where i, j, k run to: the same
    anatomy is stored in that order. `noise_seed` None takes it from `seed`; another one gives another scan
    of the same animal. The field of view is 20 x 18.8 x 22 mm (right, anterior, superior) plus
    `margin_mm` on every side. Vessels and airways inside a lung belong to it.
    Raises OptionError for numbers that cannot be used, InputError for wrong axis letters.
    """
    seed, noise_seed = check_seeds(seed, noise_seed)
    grid = field_of_view(CT_BOX, spacing_mm, axis_codes, margin_mm, _LIMITS)
    anatomy, trees, _, texture = random_streams(seed)
    mouse = Individual.drawn(anatomy, size=0.02, shape=0.012, shift_mm=0.3)
    thorax = mouse_thorax(anatomy)
    body = grid.in_body(mouse.scale, mouse.shift)
    canvas = Canvas(body, {**CT_VALUES, **(_CT_CONTRAST if contrast_agent else {})}, "air")
    lungs = paint_thorax(canvas, thorax, TREES.grow(thorax, trees), ())
    image = _breathing(canvas.array, thorax, body, lungs)
    share = body.cover(lungs)
    image += share * (60 * smooth_field(body, 0.45, _REACH_MM, texture))
    image += share * (40 * smooth_field(body, 2.5, _REACH_MM, texture))
    image += np.where(image > -300, 8 * smooth_field(body, 0.6, _REACH_MM, texture), 0)
    # 45 HU at 0.14 mm, less in larger voxels, which collect more photons.
    sd = 45 * (0.14**3 / grid.voxel_mm3) ** 0.5
    noise = correlated_noise(grid.shape, (0.3, 0.3, 0.3), np.random.default_rng([noise_seed, 1]))
    image += np.float32(min(sd, 120)) * noise
    image = np.clip(np.rint(image), -1024, 3071).astype(np.int16)

    labels = np.zeros(grid.shape, np.uint8)
    right = body.x[None, None] > thorax.septum_x
    labels[lungs < 0] = 4
    labels[(lungs < 0) & right] = 3
    own(labels, body, thorax.cord, 2)
    own(labels, body, thorax.heart, 1)
    right_mm3, left_mm3 = thorax.lung_volumes_mm3()
    low, high = body.edges
    volumes = {
        "heart": thorax.heart.volume_mm3,
        "spinal_cord": cord_volume_mm3(thorax.cord, low[2], high[2]),
        "right_lung": right_mm3,
        "left_lung": left_mm3,
    }
    facts = {
        "modality": "CT",
        "species": "mouse",
        "seed": seed,
        "noise_seed": noise_seed,
        "contrast_agent": bool(contrast_agent),
        "volumes_mm3": {key: v * mouse.volume for key, v in volumes.items()},
    }
    return finished(grid, axis_codes, image, labels, tuple(volumes), facts)


def mouse_mri(
    seed: int = 0,
    spacing_mm: float | Sequence[float] = MRI_SPACING_MM,
    axis_codes: str = "RIA",
    tumors: int | Sequence[float] = 6,
    noise_seed: int | None = None,
    margin_mm: float = 0.0,
) -> Phantom:
    """Return a chest MRI of a mouse, uint8, like the dark batch of the DeepMeta stacks: lungs 1, tumors 2.

    By default 128 coronal slices from back to front, rows from head to tail, columns from left to right.
    `tumors` is their number (volumes drawn log-uniformly from 0.05 to 5 mm3; two or more hold both small,
    below 0.4 mm3, and large ones) or their volumes in mm3; 0 is a healthy mouse. Each tumor is an ellipsoid
    inside the lungs, every other one at the pleura, and no two touch. Where a voxel is larger than a
    tumor, the tumor owns one voxel. The other arguments are those of `mouse_micro_ct`; the field of view
    is 20 x 20 x 25 mm (right, anterior, superior) plus `margin_mm` on every side.
    Raises OptionError for numbers that cannot be used, InputError for wrong axis letters.
    """
    seed, noise_seed = check_seeds(seed, noise_seed)
    grid = field_of_view(MRI_BOX, spacing_mm, axis_codes, margin_mm, _LIMITS)
    anatomy, trees, places, texture = random_streams(seed)
    mouse = Individual.drawn(anatomy, size=0.02, shape=0.012, shift_mm=0.3)
    thorax = mouse_thorax(anatomy)
    body = grid.in_body(mouse.scale, mouse.shift)
    volumes = tumor_volumes(tumors, TUMOR_SIZES, places)
    gap = max(0.4, 2.5 * float(body.spacing.max()))
    found = place_tumors([v / mouse.volume for v in volumes], thorax.lungs, thorax.lung_box, gap, places)
    canvas = Canvas(body, MRI_VALUES, "air")
    lungs = paint_thorax(canvas, thorax, TREES.grow(thorax, trees), [tumor for tumor, _ in found])
    image = canvas.array
    # Tissue is uneven at two scales, and the receive coil sees the front of the body better.
    uneven = 0.10 * smooth_field(body, 0.35, _REACH_MM, texture)
    uneven += 0.13 * smooth_field(body, 4.0, _REACH_MM, texture)
    signal = (image - np.float32(MRI_VALUES["air"])) * np.exp(uneven + 0.012 * body.y[None, :, None])
    rows = (0.79, 0.47, 0.47)  # rounding to whole gray values brings them to 0.74 and 0.44
    noise = correlated_noise(grid.shape, rows, np.random.default_rng([noise_seed, 2]))
    image = signal + np.float32(MRI_VALUES["air"]) + np.float32(1.06) * noise * (1 + 0.02 * signal)
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)

    labels = (lungs < 0).astype(np.uint8)
    for tumor, _ in found:
        where, owned = tumor_voxels(tumor, body)
        labels[where][owned] = 2
    facts = {
        "modality": "MR",
        "species": "mouse",
        "seed": seed,
        "noise_seed": noise_seed,
        **tumor_facts(found, volumes, thorax, mouse),
    }
    return finished(grid, axis_codes, image, labels, ("lungs", "tumors"), facts)


def own(labels: np.ndarray, grid: Grid, shape: Shape, value: int) -> None:
    """Give a value to the voxels whose centers lie in a shape."""
    where, d = grid.distance(shape)
    labels[where][d < 0] = value


def _breathing(image: np.ndarray, thorax: Thorax, grid: Grid, lungs: np.ndarray) -> np.ndarray:
    """Blur along head-tail, SD 0.35 mm, where the diaphragm moves: within 1.5 mm of it, less up to 3 mm."""
    from scipy.ndimage import gaussian_filter1d

    where = grid.within(thorax.lung_box, 1.0)
    x, y, z = grid.open(where)
    far = np.abs(thorax.diaphragm.height(x, y) - z)
    share = np.clip(2 - far / 1.5, 0, 1) * (thorax.cavity.distance(x, y, z) < 0)
    part = image[where]
    part += share * (gaussian_filter1d(part, 0.35 / grid.spacing[2], axis=0) - part)
    return image
