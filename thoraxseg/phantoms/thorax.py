"""A thorax put together: which part of the chest is lung, how it is painted, and what its true volumes are.

All millimeters are those of one reference body in RAS, origin in the middle of the chest; an individual
is that body scaled along x, y, z and shifted (`Individual`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thoraxseg.phantoms.canvas import Canvas, Grid
from thoraxseg.phantoms.shapes import (
    Box,
    Ellipsoid,
    Implicit,
    Shape,
    Sleeve,
    Tube,
    Union,
    distance,
    mirrored,
)
from thoraxseg.phantoms.trees import airways_beside, grow_tree

Layers = Sequence[tuple[Shape, str]]


@dataclass(frozen=True, eq=False)
class Individual:
    """How one animal or person differs in size and place from the reference body; `(3,)` along x, y, z."""

    scale: np.ndarray
    shift: np.ndarray

    @classmethod
    def drawn(cls, rng: np.random.Generator, size: float, shape: float, shift_mm: float) -> Individual:
        """Return an individual whose length differs by at most `size` in all, each axis by `shape` more."""
        axes = rng.uniform(-shape, shape, 3)
        scale = (1 + rng.uniform(-size, size)) * np.exp(axes - axes.mean())
        return cls(scale, rng.uniform(-shift_mm, shift_mm, 3))

    @property
    def volume(self) -> float:
        """Volume of the individual over that of the reference body."""
        return float(self.scale.prod())

    def place(self, point: np.ndarray) -> list[float]:
        """Return where a point of the reference body lies in this individual, RAS mm."""
        return (np.asarray(point, dtype=float) * self.scale + self.shift).tolist()


@dataclass(frozen=True, eq=False)
class Diaphragm:
    """A sloping floor with domes: rows of (center x, center y, half width, half depth, height) in mm."""

    floor_z: float
    slope: float
    """Rise of the floor toward the front, mm per mm."""
    domes: np.ndarray

    def height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return z in mm of the diaphragm over x, y."""
        rise = np.zeros(np.broadcast_shapes(np.shape(x), np.shape(y)), np.float32)
        for cx, cy, rx, ry, height in np.asarray(self.domes).tolist():
            q = np.clip(1 - ((x - cx) / rx) ** 2 - ((y - cy) / ry) ** 2, 0, 1)
            rise = np.maximum(rise, height * q**0.6)
        return self.floor_z + self.slope * y + rise


@dataclass(frozen=True, eq=False)
class Thorax:
    """Everything in a chest that matters for its image."""

    cavity: Sleeve
    diaphragm: Diaphragm
    heart: Ellipsoid
    cord: Tube
    beside_lungs: Sequence[Shape]
    """What the lungs leave free besides the heart: mediastinum, spine, great vessels."""
    gap_mm: float
    """Half thickness of the septum between the lungs, and their distance from the heart."""
    septum_x: float
    wall: Layers
    """Painted first: skin, then fat, then what lies in the fat."""
    abdomen: Layers
    """Painted below the diaphragm."""
    bones: Layers
    organs: Layers
    """Painted last: heart, great vessels, airways, spinal cord."""
    hila: np.ndarray
    """Roots of the right and the left lung, `(2, 3)`."""

    def lungs(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the signed distance in mm to both lungs (tumors are lung here)."""
        d = np.maximum(self.cavity.distance(x, y, z), 0.8 * (self.diaphragm.height(x, y) - z))
        d = np.maximum(d, self.gap_mm - self.heart.distance(x, y, z))
        for shape in self.beside_lungs:
            d = np.maximum(d, -distance(shape, x, y, z))
        return np.maximum(d, self.gap_mm - np.abs(x - self.septum_x))

    @property
    def lung_box(self) -> Box:
        """Lowest and highest RAS corner in mm of a box that holds both lungs."""
        low, high = self.cavity.box
        low = low.copy()
        low[2] = max(low[2], float(self.diaphragm.height(0.0, low[1])) - self.gap_mm)
        low[2] = min(low[2], self.diaphragm.floor_z + self.diaphragm.slope * float(low[1]))
        return low, high

    def lungs_on(self, grid: Grid) -> np.ndarray:
        """Return the signed distance in mm to both lungs on a grid, `(z, y, x)`, float32.

        Like `lungs`, but each shape is only looked at where it lies: outside the lungs a value may be any
        positive number.
        """
        d = np.full(grid.shape, np.float32(1e6))
        where = grid.within(self.lung_box, float(grid.spacing.max()))
        x, y, z = grid.open(where)
        view = d[where]
        np.maximum(self.cavity.distance(x, y, z), 0.8 * (self.diaphragm.height(x, y) - z), out=view)
        np.maximum(view, self.gap_mm - np.abs(x - self.septum_x), out=view)
        np.maximum(view, self.gap_mm - self.heart.distance(x, y, z), out=view)
        beside, far = grid.distance(Union(self.beside_lungs))
        d[beside] = np.maximum(d[beside], -far)
        return d

    def lung_volumes_mm3(self, steps: int = 64) -> tuple[float, float]:
        """Return the volumes of right and left lung, summed over `steps`^3 cells of their box, in mm3."""
        low, high = self.lung_box
        grid = Grid.over(low, high, (high - low) / steps)
        share = grid.cover(self.lungs_on(grid)) * np.float32(grid.voxel_mm3)
        right = float(share[:, :, grid.x > self.septum_x].sum(dtype=np.float64))
        return right, float(share.sum(dtype=np.float64)) - right


@dataclass(frozen=True, eq=False)
class LungTrees:
    """How lung vessels and airways grow: numbers of tips per lung (right, left) and sizes in mm."""

    tips: tuple[int, int]
    tip_radius_mm: float
    step_mm: float

    def grow(self, thorax: Thorax, rng: np.random.Generator) -> Layers:
        """Return arteries, airways and veins of both lungs, to be painted inside the lungs in this order."""
        arteries, veins, walls, airways = [], [], [], []
        low, high = thorax.lung_box
        for side, count, hilum in zip((1, -1), self.tips, thorax.hila, strict=True):
            points = rng.uniform(low, high, (60 * count, 3))
            inside = thorax.lungs(*points.T) < -1.5 * self.tip_radius_mm
            points = points[inside & (side * (points[:, 0] - thorax.septum_x) > 0)][: 2 * count]
            artery = grow_tree(hilum, points[:count], self.tip_radius_mm, self.step_mm, rng)
            root = hilum + np.array([0, 2 * self.step_mm, -2 * self.step_mm])
            veins.append(grow_tree(root, points[count:], self.tip_radius_mm, self.step_mm, rng))
            inner, outer = airways_beside(artery, self.tip_radius_mm, (0.3 * side, -0.5, 0.8))
            arteries.append(artery)
            airways.append(inner)
            walls.append(outer)
        vessels = Union([*arteries, *veins])
        return (Union(walls), "airway wall"), (Union(airways), "airway"), (vessels, "lung vessel")


def paint_thorax(canvas: Canvas, thorax: Thorax, trees: Layers, tumors: Sequence[Ellipsoid]) -> np.ndarray:
    """Paint a whole chest and return the signed distance in mm to the lungs, `(z, y, x)`, float32."""
    grid = canvas.grid
    (skin, _), (fat, _), *_ = thorax.wall
    canvas.paint(skin, "skin")
    under_skin = np.zeros(grid.shape, np.float32)
    where, d = grid.distance(fat)
    under_skin[where] = grid.cover(d)
    for shape, material in thorax.wall[1:]:
        canvas.paint(shape, material, within=under_skin)

    where, d = grid.distance(thorax.cavity)
    x, y, z = grid.open(where)
    above = 0.8 * (thorax.diaphragm.height(x, y) - z)
    below = np.zeros(grid.shape, np.float32)
    below[where] = grid.cover(np.maximum(d, -above))
    for shape, material in thorax.abdomen:
        canvas.paint(shape, material, within=below)
    canvas.mix(where, grid.cover(np.maximum(d, above)), "mediastinum")
    muscle = np.abs(above) - 0.7 * thorax.gap_mm  # the diaphragm itself
    canvas.mix(where, grid.cover(np.maximum(d, muscle)), "muscle")

    lungs = thorax.lungs_on(grid)
    share = grid.cover(lungs)
    canvas.mix((slice(None),) * 3, share, "lung")
    for shape, material in thorax.bones:
        canvas.paint(shape, material, within=np.minimum(1 - share, under_skin))
    for shape, material in trees:
        canvas.paint(shape, material, within=share)
    for shape, material in thorax.organs:
        canvas.paint(shape, material)
    for tumor in tumors:
        canvas.paint(tumor, "tumor")
    return lungs


def cord_volume_mm3(cord: Tube, low_z: float, high_z: float) -> float:
    """Return the volume of a cord of constant radius between two heights, ends cut flat, in mm3."""
    length = 0.0
    for a, b in zip(cord.starts, cord.ends, strict=True):
        bottom, top = sorted((float(a[2]), float(b[2])))
        inside = max(min(top, high_z) - max(bottom, low_z), 0.0)
        length += inside / (top - bottom) * float(np.linalg.norm(b - a))
    return float(np.pi * cord.radii[0] ** 2 * length)


@dataclass(frozen=True, eq=False)
class Cage:
    """The rib cage: pairs of ribs that run around the cavity from the spine."""

    cavity: Sleeve
    spine: np.ndarray
    """Centers of vertebral bodies, rows (z, y), downward in z."""
    offset_mm: float
    """Distance of a rib's axis from the cavity."""
    radius_mm: float
    drop_mm: float
    """How far a rib descends on its way to the front."""
    joined: int
    """How many pairs reach the sternum with their cartilage."""

    def ribs(self) -> tuple[Union, Union]:
        """Return the bony ribs and their cartilages."""
        bony, soft = [], []
        for n, (z0, y0) in enumerate(self.spine):
            last = (
                172 if n < self.joined else 150 - 60 * (n - self.joined + 1) / (len(self.spine) - self.joined)
            )
            angle = np.radians(np.linspace(18, last, 26))
            z = z0 - self.drop_mm * (1 - np.cos(np.minimum(angle, 2.3))) / 1.67
            z = z + 0.45 * self.drop_mm * np.clip(
                (angle - 2.3) / 0.7, 0, 1
            )  # cartilage climbs to the sternum
            rx, ry, yc = self.cavity.section(z)
            # The wall leans inward toward the apex: keep the distance at right angles to it.
            lean = np.hypot(1, (self.cavity.section(z - 0.5)[0] - self.cavity.section(z + 0.5)[0]))
            offset = self.offset_mm * np.minimum(lean, 1.8)
            x = (rx + offset) * np.sin(angle)
            y = yc - (ry + offset) * np.cos(angle)
            head = np.array([[0.35 * x[0] + 2.2 * self.radius_mm, y0 - 0.5 * self.radius_mm, z0]])
            points = np.concatenate([head, np.stack([x, y, z], axis=1)])
            cut = 1 + int(np.searchsorted(angle, 2.25))
            for side in (1, -1):
                bony.append(Tube.along(mirrored(points[: cut + 1], side), self.radius_mm))
                if cut < len(points) - 1:
                    soft.append(Tube.along(mirrored(points[cut:], side), 0.9 * self.radius_mm))
        return Union(bony), Union(soft)


@dataclass(frozen=True, eq=False)
class Spine:
    """A column of vertebrae along `curve`, rows (z, y) of the bodies' centers, with the canal behind it."""

    curve: np.ndarray
    pitch_mm: float
    body_radii: tuple[float, float]
    """Half width and half depth of a vertebral body in mm."""
    canal_mm: float
    """Distance of the canal's axis behind that of the bodies."""
    canal_radius_mm: float
    cord_radius_mm: float
    process_mm: float
    """Length of the spinous process."""

    def y_at(self, z: np.ndarray) -> np.ndarray:
        """Return y in mm of the bodies' centers at heights z in mm."""
        from scipy.interpolate import PchipInterpolator

        return PchipInterpolator(self.curve[:, 0], self.curve[:, 1])(z)

    def line(self, behind: float, aside: float = 0.0) -> np.ndarray:
        """Return points `(N, 3)` along the whole column, so far behind and right of its centers."""
        count = 1 + int(np.ceil((self.curve[-1, 0] - self.curve[0, 0]) / (2 * self.pitch_mm)))
        z = np.linspace(self.curve[0, 0], self.curve[-1, 0], count)
        return np.stack([aside + 0 * z, self.y_at(z) - behind, z], axis=1)

    @property
    def cord(self) -> Tube:
        """The spinal cord."""
        return Tube.along(self.line(self.canal_mm), self.cord_radius_mm)

    @property
    def canal(self) -> Tube:
        """The spinal canal, cord included."""
        return Tube.along(self.line(self.canal_mm), self.canal_radius_mm)

    def column(self, margin_mm: float) -> Union:
        """Return bodies and arches of all vertebrae as two tubes, `margin_mm` wider than they are."""
        bodies = Tube.along(self.line(0.15 * self.body_radii[1]), self.body_radii[0] + margin_mm)
        arches = Tube.along(self.line(self.canal_mm), 1.3 * self.canal_radius_mm + margin_mm)
        return Union([bodies, arches])

    def levels(self) -> np.ndarray:
        """Return (z, y) of every vertebral body, from the top of the curve downward."""
        z = np.arange(self.curve[-1, 0] - self.pitch_mm, self.curve[0, 0] + self.pitch_mm / 2, -self.pitch_mm)
        return np.stack([z, self.y_at(z)], axis=1)

    def bones(self) -> Layers:
        """Return cortical bone, then the marrow inside the bodies."""
        bodies, marrow, arches = [], [], []
        wide, deep = self.body_radii
        thick = 0.22 * self.canal_radius_mm
        half = 0.41 * self.pitch_mm
        around = np.radians(np.linspace(40, 320, 11))  # open toward the body, which lies in front
        ring = self.canal_radius_mm + 0.6 * thick
        for z, y in self.levels():
            bodies.append(_drum((0, y, z), (wide, deep, half)))
            marrow.append(_drum((0, y, z), (0.72 * wide, 0.72 * deep, 0.72 * half)))
            canal = np.array([0, y - self.canal_mm, z - 0.15 * self.pitch_mm])
            for dz in (-0.16, 0.16):
                rim = np.stack([ring * np.sin(around), ring * np.cos(around), 0 * around], axis=1)
                arches.append(Tube.along(canal + rim + np.array([0, 0, dz * self.pitch_mm]), thick))
            process = [(0, -ring, 0), (0, -ring - self.process_mm, -0.5 * self.pitch_mm)]
            arches.append(Tube.along(canal + np.array(process), [1.2 * thick, thick]))
            for side in (1, -1):
                process = [(ring, 0, 0), (ring + 0.9 * wide, -0.2 * wide, 0)]
                arches.append(Tube.along(canal + mirrored(process, side), 1.2 * thick))
        return (Union([*bodies, *arches]), "bone"), (Union(marrow), "marrow")


def _drum(center: Sequence[float], radii: Sequence[float]) -> Implicit:
    """Return a short cylinder with rounded rims and a slight waist, like a vertebral body."""
    cx, cy, cz = center
    rx, ry, rz = radii

    def inside(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        w = (z - cz) / rz
        waist = 0.88 + 0.12 * np.minimum(w * w, 1)
        across = (np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2) - waist) * min(rx, ry)
        return np.maximum(across, (np.abs(w) - 1) * rz)

    half = np.asarray(radii, dtype=float)
    return Implicit(inside, (np.asarray(center, dtype=float) - half, np.asarray(center, dtype=float) + half))
