"""What every phantom is: an image, its true labels, and what is known about it on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thoraxseg.errors import OptionError
from thoraxseg.phantoms.canvas import Grid, spacing_along_ras
from thoraxseg.phantoms.shapes import Ellipsoid
from thoraxseg.phantoms.thorax import Individual, Thorax
from thoraxseg.segmentation import STRUCTURES, Segmentation
from thoraxseg.volume import Volume


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic image of a thorax with its true labels; no animal or person was imaged.

    Image and truth share one grid. `facts` are plain words and numbers (they survive JSON):

    - `is_phantom` (True), `modality`, `species`, `seed`, `noise_seed`, `spacing_mm` (k, j, i), `axis_codes`
    - `volumes_mm3`: true volume by structure key. Exact for heart and spinal cord (inside the field of
      view); lungs by numerical integration of their surface, within 1 %, and without the tumors in them
    - `tumors`: one entry for each with `center_ras_mm`, `volume_mm3` (exact), `radius_mm` (of the ball of
      that volume) and `touches_pleura`; largest first. Absent where the phantom cannot have tumors
    """

    volume: Volume
    truth: Segmentation
    facts: dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """Smallest and largest spacing and margin of a phantom, in mm."""

    spacing_mm: tuple[float, float]
    margin_mm: tuple[float, float]


def check_seeds(seed: int, noise_seed: int | None) -> tuple[int, int]:
    """Return both seeds as ints, the noise's being `seed` where it is None.

    Raises OptionError unless they are whole numbers, 0 or more.
    """
    return _seed(seed, "seed"), _seed(seed if noise_seed is None else noise_seed, "noise_seed")


def _seed(value: int, name: str) -> int:
    try:
        number = int(value)
        fits = number == value and number >= 0 and not isinstance(value, bool)
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise OptionError(f"{name}: expected a whole number, 0 or more, got {value!r}.")
    return number


def random_streams(seed: int) -> tuple[np.random.Generator, ...]:
    """Return independent random numbers for anatomy, vessels, tumors and texture."""
    return tuple(np.random.default_rng([seed, 100 + n]) for n in range(4))


def field_of_view(
    box: Sequence[Sequence[float]],
    spacing_mm: float | Sequence[float],
    codes: str,
    margin_mm: float,
    limits: Limits,
) -> Grid:
    """Return the grid over a box, its lowest and highest RAS corner, and a margin on every side.

    Raises OptionError for a spacing or margin outside the limits, InputError for wrong axis letters.
    """
    try:
        margin = float(margin_mm)
    except (TypeError, ValueError):
        margin = float("nan")
    low, high = limits.margin_mm
    if not low <= margin <= high:
        raise OptionError(f"margin_mm: expected a number from {low:g} to {high:g} mm, got {margin_mm!r}.")
    spacing = spacing_along_ras(spacing_mm, codes, limits.spacing_mm)
    return Grid.over(np.array(box[0]) - margin, np.array(box[1]) + margin, spacing)


def tumor_facts(
    found: Sequence[tuple[Ellipsoid, bool]], volumes: Sequence[float], thorax: Thorax, who: Individual
) -> dict:
    """Return what is known about lungs and tumors: `volumes_mm3` and `tumors` of a phantom's facts."""
    lungs = sum(thorax.lung_volumes_mm3()) * who.volume - sum(volumes)
    return {
        "volumes_mm3": {"lungs": lungs, "tumors": float(sum(volumes))},
        "tumors": [
            {
                "center_ras_mm": who.place(tumor.center),
                "volume_mm3": volume,
                "radius_mm": (3 * volume / (4 * np.pi)) ** (1 / 3),
                "touches_pleura": at_wall,
            }
            for (tumor, at_wall), volume in zip(found, volumes, strict=True)
        ],
    }


def finished(
    grid: Grid, codes: str, image: np.ndarray, labels: np.ndarray, keys: Sequence[str], facts: dict[str, Any]
) -> Phantom:
    """Return a phantom from image and labels `(z, y, x)`; label n + 1 is the structure `keys[n]`."""
    array, matrix = grid.stored(image, codes)
    name = f"{facts['species']}-{facts['modality'].lower()}-phantom-{facts['seed']}"
    volume = Volume(array, matrix, name=name, notes=("This is a phantom: no animal or person was imaged.",))
    structures = {n + 1: STRUCTURES[key] for n, key in enumerate(keys)}
    truth = Segmentation(grid.stored(labels, codes)[0], matrix, structures, name=f"{name}-truth")
    facts = {"is_phantom": True, **facts, "spacing_mm": list(volume.spacing_mm), "axis_codes": codes}
    return Phantom(volume, truth, facts)
