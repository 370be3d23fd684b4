"""Chests of which anatomy, contrast and field of view are drawn anew, for networks to learn from.

After SynthSeg (Billot et al. 2023), as the project's definitions (11.3) adapt it: half of the images have the gray
values that a modality has in truth, varied; in the others every tissue has a random one. Bodies differ far more than
those of `mouse_micro_ct`, `mouse_mri` and `human_chest_ct` do, and hold things that are no part of a chest: gas,
organs and bone below and above it, a bed, tumors. What a scanner adds (noise, blur, shading, pose) is left to
augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thoraxseg.errors import OptionError
from thoraxseg.phantoms import human, mouse
from thoraxseg.phantoms.canvas import Canvas, Grid
from thoraxseg.phantoms.human_anatomy import TREES as HUMAN_TREES
from thoraxseg.phantoms.human_anatomy import human_thorax, table
from thoraxseg.phantoms.mouse_anatomy import TREES as MOUSE_TREES
from thoraxseg.phantoms.mouse_anatomy import mouse_thorax
from thoraxseg.phantoms.noise import smooth_field
from thoraxseg.phantoms.phantom import Phantom, check_seeds, finished, random_streams
from thoraxseg.phantoms.shapes import Box, Ellipsoid, Implicit, Tube, axes_along
from thoraxseg.phantoms.thorax import Individual, Layers, Thorax, paint_thorax
from thoraxseg.phantoms.tumors import place_tumors, tumor_voxels

KINDS = ("mouse-ct", "mouse-mri", "human-ct")
PRIOR_SHARE = 0.6
"""Share of the images whose contrast is that of the modality, varied."""
_SOFT = ("muscle", "heart", "blood", "vessel", "liver", "mediastinum", "esophagus", "cord", "canal")


@dataclass(frozen=True)
class _Kind:
    """What differs between the three."""

    box: Box
    """Field of view of a chest alone, RAS mm."""
    body: Box
    """The largest field of view."""
    unit: float
    """Size of a body against that of a mouse."""
    size: float
    """Largest relative deviation of the length of a body."""
    tumors_mm3: tuple[float, float]
    reach_mm: float


_KINDS = {
    "mouse-ct": _Kind(mouse.CT_BOX, ((-17, -15, -38), (17, 15, 34)), 1.0, 0.18, (0.05, 20.0), 15.0),
    "mouse-mri": _Kind(mouse.MRI_BOX, ((-15, -14, -24), (15, 14, 24)), 1.0, 0.18, (0.05, 8.0), 15.0),
    "human-ct": _Kind(human.BOX, ((-240, -190, -330), (240, 180, 260)), 19.0, 0.15, (65, 60_000), 220.0),
}


def randomized(kind: str, seed: int, spacing_mm: float) -> Phantom:
    """Return a random chest on a grid that runs to right, anterior, superior (RAS), float32, without noise.

    `kind` is `mouse-ct` (heart 1, spinal cord 2, right lung 3, left lung 4; tumors belong to their lung),
    `mouse-mri` or `human-ct` (lungs 1, tumors 2). Raises OptionError for another kind.
    """
    if kind not in _KINDS:
        raise OptionError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}.")
    seed, _ = check_seeds(seed, None)
    facts = _KINDS[kind]
    anatomy, trees, places, texture = random_streams(seed)
    rng = np.random.default_rng([seed, 200])
    who = Individual.drawn(anatomy, facts.size, 0.08, facts.unit)
    thorax = human_thorax(anatomy, 1.0) if kind == "human-ct" else mouse_thorax(anatomy, 1.0)
    grid = Grid.over(*_field_of_view(facts, rng), np.full(3, float(spacing_mm)))
    body = grid.in_body(who.scale, who.shift)
    tumors = _tumors(facts, kind, thorax, body, rng, places)
    values = _values(kind, rng)
    canvas = Canvas(body, values, "air")
    for shape, material in _around(kind, rng):
        canvas.paint(shape, material)
    grown = (HUMAN_TREES if kind == "human-ct" else MOUSE_TREES).grow(thorax, trees)
    lungs = paint_thorax(canvas, thorax, () if rng.random() < 0.1 else grown, tumors)
    covered = np.zeros(body.shape, bool)
    for shape, material in _elsewhere(facts, kind, thorax, rng):
        where, d = body.distance(shape)
        canvas.mix(where, body.cover(d) * (1 - body.cover(lungs[where] - facts.unit)), material)
        covered[where] |= d < 0
    image = _textured(canvas.array, body, body.cover(lungs), facts, rng, texture)
    labels, keys = _labels(kind, thorax, body, lungs, tumors)
    labels[covered & (labels == 2) & (kind == "mouse-ct")] = 0  # a cord that something else lies over
    about = {
        "modality": "MR" if kind == "mouse-mri" else "CT",
        "species": "human" if kind == "human-ct" else "mouse",
        "seed": seed,
        "tumors": [{"volume_mm3": tumor.volume_mm3 * who.volume} for tumor in tumors],
    }
    return finished(grid, "RAS", image.astype(np.float32), labels, keys, about)


def _field_of_view(facts: _Kind, rng: np.random.Generator) -> Box:
    """Return a chest alone, with margins, or the whole body; cut a little now and then."""
    low, high = (np.array(corner, dtype=float) for corner in facts.box)
    far_low, far_high = (np.array(corner, dtype=float) for corner in facts.body)
    kind = rng.random()
    if kind < 0.3:
        extra = rng.uniform(-0.08, 0.1, (2, 3)) * (high - low)
        return low - extra[0], high + extra[1]
    share = rng.uniform(0, 1, (2, 3)) if kind < 0.75 else rng.uniform(0.6, 1, (2, 3))
    return low + share[0] * (far_low - low), high + share[1] * (far_high - high)


def _tumors(
    facts: _Kind,
    kind: str,
    thorax: Thorax,
    body: Grid,
    rng: np.random.Generator,
    places: np.random.Generator,
) -> list[Ellipsoid]:
    """Return tumors of the lungs, none in a third of the bodies (of mouse CTs in two thirds)."""
    if rng.random() < (0.65 if kind == "mouse-ct" else 0.25):
        return []
    low, high = np.log(facts.tumors_mm3)
    count = int(rng.integers(1, 5 if kind == "human-ct" else 9))
    volumes = sorted(np.exp(rng.uniform(low, high, count)).tolist(), reverse=True)
    gap = 1.5 * float(body.spacing.max())
    while volumes:
        try:
            return [tumor for tumor, _ in place_tumors(volumes, thorax.lungs, thorax.lung_box, gap, places)]
        except OptionError:  # no room: without the largest
            volumes = volumes[1:]
    return []


def _values(kind: str, rng: np.random.Generator) -> dict[str, float]:
    """Return a gray value for every material."""
    own = {"mouse-ct": mouse.CT_VALUES, "mouse-mri": mouse.MRI_VALUES, "human-ct": human.VALUES}[kind]
    prior = {key: float(value) for key, value in own.items()}
    share = 0.8 if kind == "human-ct" else PRIOR_SHARE
    if rng.random() < share:
        return _mri_like(prior, rng) if kind == "mouse-mri" else _ct_like(prior, kind, rng)
    values = {key: float(rng.uniform(25, 225)) for key in prior}
    if rng.random() < 0.5:  # soft tissues alike, as without contrast agent
        middle = rng.uniform(50, 200)
        values |= {key: float(middle + rng.normal(0, 8)) for key in _SOFT if key in values}
    if rng.random() < 0.7:
        values["air"] = float(rng.uniform(0, 30))
        values |= {
            key: values["air"] + float(rng.uniform(0, 20)) for key in ("gas", "airway") if key in values
        }
    values["tumor"] = _apart(values["tumor"], values["lung"], 25, rng)
    if rng.random() < 0.7:  # else whatever was drawn
        values["lung vessel"] = values["vessel"]
        values["tumor"] = _apart(values["muscle"] + float(rng.normal(0, 10)), values["lung"], 25, rng)
    # Lungs look like nothing else around them, or nobody could tell them.
    values["lung"] = _apart(values["lung"], values["muscle"], 30, rng)
    return values


def _apart(value: float, other: float, distance: float, rng: np.random.Generator) -> float:
    """Return `value`, moved away from `other` where it is too near to be told from it."""
    if abs(value - other) >= distance:
        return value
    sign = 1 if rng.random() < 0.5 else -1
    return other + sign * distance * float(rng.uniform(1, 2))


def _ct_like(prior: dict[str, float], kind: str, rng: np.random.Generator) -> dict[str, float]:
    values = {key: value + float(rng.normal(0, 15)) for key, value in prior.items()}
    values["air"] = -1000.0
    bone = float(rng.uniform(0.5, 1.8))
    values |= {key: values[key] * bone for key in ("bone", "marrow", "cartilage")}
    values["lung"] = float(rng.uniform(-700, -250) if kind == "mouse-ct" else rng.uniform(-930, -650))
    if rng.random() < 0.35:
        agent = {"lung vessel": 300, "vessel": 330, "blood": 330, "heart": 150, "liver": 240}
        strength = rng.uniform(0.2, 1.2)
        values |= {key: values[key] + float(strength * more) for key, more in agent.items()}
    values["fat"] = float(rng.uniform(-150, -60))
    return values


def _mri_like(prior: dict[str, float], rng: np.random.Generator) -> dict[str, float]:
    """Vary the signal above that of the air, the dark lungs as the bright fat."""
    air = prior["air"]
    values = {key: air + (value - air) * float(np.exp(rng.normal(0, 0.2))) for key, value in prior.items()}
    values["lung"] = air + float(rng.uniform(0.2, 6))
    values["lung vessel"] = max(values["lung vessel"], values["lung"] + 4)
    values["tumor"] = max(values["tumor"], values["lung"] + 6)
    return values


def _around(kind: str, rng: np.random.Generator) -> Layers:
    """Return what the body lies on or in."""
    if kind == "human-ct":
        return ((table(), "table"),) if rng.random() < 0.8 else ()
    if kind == "mouse-mri" or rng.random() < 0.5:
        return ()
    side, at = rng.choice([-1, 1]), float(rng.uniform(8.5, 11))
    thick, bend = float(rng.uniform(0.3, 1.5)), float(rng.uniform(0, 0.04))

    def bed(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.abs(side * y - bend * x * x - -at) - thick + 0 * z

    box = (np.array([-30.0, -30.0, -60.0]), np.array([30.0, 30.0, 60.0]))
    return ((Implicit(bed, box), str(rng.choice(["fat", "skin", "cartilage", "lung"]))),)


def _elsewhere(facts: _Kind, kind: str, thorax: Thorax, rng: np.random.Generator) -> Layers:
    """Return organs, gas and bone below the diaphragm and above the chest, where the body goes on."""
    unit, layers = facts.unit, []
    low, high = facts.body
    floor = thorax.diaphragm.floor_z - 3 * unit
    organs = ["muscle", "liver", "blood", "stomach", "gas", "fat", "canal", "heart", "bone"]
    share = np.array([3, 2, 2, 2, 2, 2, 1, 1, 0.4])
    for _ in range(int(rng.integers(6, 22))):
        at = (rng.uniform(-6, 6) * unit, rng.uniform(-4.5, 5) * unit, rng.uniform(low[2] * 0.9, floor))
        radii = np.exp(rng.uniform(np.log(0.5), np.log(3.2), 3)) * unit
        layers.append(
            (Ellipsoid(at, radii.tolist(), axes_along(rng.normal(size=3))), _drawn(organs, share, rng))
        )
    for _ in range(int(rng.integers(0, 6))):
        points = np.cumsum(rng.normal(0, 2.0 * unit, (6, 3)), axis=0)
        points += [0, 0, rng.uniform(low[2] * 0.9, floor - 2 * unit)]
        points[:, 2] = np.minimum(points[:, 2], floor)
        layers.append((Tube.along(points, rng.uniform(0.4, 1.3) * unit), _drawn(organs, share, rng)))
    top = float(thorax.cavity.profile[-1][0]) + 5 * unit
    if rng.random() < 0.8 and high[2] > top:
        head = float(rng.uniform(top + 4 * unit, top + 9 * unit))
        radii = np.array([4.6, 4.2, 6.5]) * unit * rng.uniform(0.9, 1.2)
        at = (0.0, float(rng.uniform(-1, 2)) * unit, head)
        layers += [
            (Ellipsoid(at, radii.tolist()), "bone"),
            (Ellipsoid(at, (radii - 0.5 * unit).tolist()), "liver"),
        ]
    for _ in range(int(rng.integers(0, 6))):
        at = (rng.uniform(-4, 4) * unit, rng.uniform(-3, 4) * unit, rng.uniform(top, max(high[2], top + 1)))
        radii = np.exp(rng.uniform(np.log(0.4), np.log(2.0), 3)) * unit
        layers.append(
            (Ellipsoid(at, radii.tolist(), axes_along(rng.normal(size=3))), _drawn(organs, share, rng))
        )
    return layers


def _drawn(names: list[str], share: np.ndarray, rng: np.random.Generator) -> str:
    return str(rng.choice(names, p=share / share.sum()))


def _textured(
    image: np.ndarray,
    body: Grid,
    lung: np.ndarray,
    facts: _Kind,
    rng: np.random.Generator,
    texture: np.random.Generator,
) -> np.ndarray:
    """Return the image with uneven lungs and tissue, in proportion to the contrast it has."""
    low, high = np.percentile(image, (2, 98))
    contrast = float(high - low)
    reach, unit = facts.reach_mm, facts.unit
    for amount, fine, share in (
        (0.06, 0.45, lung),
        (0.05, 2.5, lung),
        (0.03, 0.7, 1 - lung),
        (0.04, 5.0, 1 - lung),
    ):
        field = smooth_field(body, fine * unit, reach, texture)
        image = image + share * field * np.float32(contrast * amount * rng.uniform(0, 1.5))
    return image


def _labels(
    kind: str, thorax: Thorax, body: Grid, lungs: np.ndarray, tumors: list[Ellipsoid]
) -> tuple[np.ndarray, tuple[str, ...]]:
    labels = np.zeros(body.shape, np.uint8)
    if kind == "mouse-ct":
        right = body.x[None, None] > thorax.septum_x
        labels[lungs < 0] = 4
        labels[(lungs < 0) & right] = 3
        mouse.own(labels, body, thorax.cord, 2)
        mouse.own(labels, body, thorax.heart, 1)
        return labels, ("heart", "spinal_cord", "right_lung", "left_lung")
    labels[lungs < 0] = 1
    for tumor in tumors:
        where, owned = tumor_voxels(tumor, body)
        labels[where][owned] = 2
    return labels, ("lungs", "tumors")
