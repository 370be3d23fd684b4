"""People: a chest CT in deep inspiration with lungs and tumors.

Sizes are those of an adult (lungs 4 to 6 liters); intensities are ordinary Hounsfield units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thoraxseg.phantoms.canvas import Canvas
from thoraxseg.phantoms.human_anatomy import TREES, human_thorax, table
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
from thoraxseg.phantoms.thorax import Individual, paint_thorax
from thoraxseg.phantoms.tumors import TumorSizes, place_tumors, tumor_volumes, tumor_voxels

TUMOR_SIZES = TumorSizes(smallest_mm3=65.0, largest_mm3=33_600.0, small_below_mm3=1_767.0)
"""Balls of 5 to 40 mm; small is below 15 mm."""

_LIMITS = Limits(spacing_mm=(0.5, 10.0), margin_mm=(0.0, 200.0))
_REACH_MM = 220.0
BOX = ((-190.0, -150.0, -165.0), (190.0, 140.0, 165.0))

VALUES = {
    "air": -1000,
    "skin": 0,
    "fat": -105,
    "fascia": -70,
    "muscle": 50,
    "bone": 620,
    "marrow": 220,
    "cartilage": 110,
    "canal": 15,
    "cord": 35,
    "mediastinum": -40,
    "lung": -865,
    "airway": -960,
    "airway wall": -400,
    "lung vessel": 40,
    "vessel": 45,
    "blood": 42,
    "heart": 45,
    "esophagus": 35,
    "liver": 60,
    "spleen": 50,
    "stomach": 15,
    "gas": -950,
    "tumor": 35,
    "table": -350,
}
"""Hounsfield units without contrast agent."""


def human_chest_ct(
    seed: int = 0,
    spacing_mm: float | Sequence[float] = 3.5,
    axis_codes: str = "LPS",
    tumors: int | Sequence[float] = 2,
    noise_seed: int | None = None,
    margin_mm: float = 0.0,
) -> Phantom:
    """Return a chest CT of an adult, HU as int16, with lungs 1 and tumors 2.

    `spacing_mm` is one number or (k, j, i), 0.5 to 10 mm. `tumors` is their number (volumes drawn
    log-uniformly from 65 to 33,600 mm3, diameters of 5 to 40 mm; two or more hold one below and one above
    15 mm) or their volumes in mm3; 0 is a healthy chest. The field of view is 380 x 290 x 330 mm (right,
    anterior, superior) plus `margin_mm` on every side. The rest is as in `mouse_mri`.
    Raises OptionError for numbers that cannot be used, InputError for wrong axis letters.
    """
    seed, noise_seed = check_seeds(seed, noise_seed)
    grid = field_of_view(BOX, spacing_mm, axis_codes, margin_mm, _LIMITS)
    anatomy, trees, places, texture = random_streams(seed)
    person = Individual.drawn(anatomy, size=0.025, shape=0.015, shift_mm=4.0)
    thorax = human_thorax(anatomy)
    body = grid.in_body(person.scale, person.shift)
    volumes = tumor_volumes(tumors, TUMOR_SIZES, places)
    gap = max(6.0, 2.5 * float(body.spacing.max()))
    found = place_tumors([v / person.volume for v in volumes], thorax.lungs, thorax.lung_box, gap, places)
    canvas = Canvas(body, VALUES, "air")
    canvas.paint(table(), "table")
    lungs = paint_thorax(canvas, thorax, TREES.grow(thorax, trees), [tumor for tumor, _ in found])
    image = canvas.array
    share = body.cover(lungs)
    image += share * (14 * smooth_field(body, 8.0, _REACH_MM, texture))
    # Lying on the back, the lungs are denser below.
    image += share * np.where(image < -700, -0.25 * body.y[None, :, None], 0)
    image += np.where(image > -300, 6 * smooth_field(body, 12.0, _REACH_MM, texture), 0)
    # 20 HU at 1 mm3, falling more slowly than photons would: kernels differ with slice thickness.
    sd = 20 * grid.voxel_mm3**-0.25
    noise = correlated_noise(grid.shape, (0.2, 0.35, 0.35), np.random.default_rng([noise_seed, 3]))
    image += np.float32(min(sd, 60)) * noise
    image = np.clip(np.rint(image), -1024, 3071).astype(np.int16)

    labels = (lungs < 0).astype(np.uint8)
    for tumor, _ in found:
        where, owned = tumor_voxels(tumor, body)
        labels[where][owned] = 2
    facts = {
        "modality": "CT",
        "species": "human",
        "seed": seed,
        "noise_seed": noise_seed,
        **tumor_facts(found, volumes, thorax, person),
    }
    return finished(grid, axis_codes, image, labels, ("lungs", "tumors"), facts)
