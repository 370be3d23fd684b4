"""Implicit shapes in RAS millimeters: signed distances, negative inside, and boxes that hold the shapes.

A shape has `pieces()`, each piece with `box` (lowest and highest RAS corner, mm) and `distance(x, y, z)`,
where x, y, z are RAS coordinates in mm that broadcast together. Distances are exact to first order at
the surface, which is all that partial volume needs; far away they only keep their sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

Box = tuple[np.ndarray, np.ndarray]
_TINY = 1e-6


class Piece(Protocol):
    """A shape that is evaluated at once."""

    @property
    def box(self) -> Box:
        """Lowest and highest RAS corner in mm of a box that holds the piece."""
        ...

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the signed distance in mm to every point of the broadcast RAS coordinates x, y, z."""
        ...


class Shape(Protocol):
    """Something with an inside, made of one or more pieces; the union of them."""

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces whose union this is."""
        ...


def distance(shape: Shape, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the signed distance in mm from a shape to every point of the broadcast x, y, z."""
    result = None
    for piece in shape.pieces():
        d = piece.distance(x, y, z)
        result = d if result is None else np.minimum(result, d)
    return result


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """An ellipsoid, or an egg when `taper` is not 0: wider by 1 + taper at the end of the third axis.

    `axes` are three orthonormal rows in RAS; at height t (-1 to 1) along the third, the cross-section is an
    ellipse of half-axes radii[0], radii[1] times sqrt(1 - t^2) (1 + taper t).
    """

    center: Sequence[float]
    radii: Sequence[float]
    axes: np.ndarray = field(default_factory=lambda: np.eye(3))
    taper: float = 0.0

    @property
    def volume_mm3(self) -> float:
        """Exact volume: pi a b c times the integral of (1 - t^2)(1 + taper t)^2 over -1 to 1."""
        a, b, c = self.radii
        return float(np.pi * a * b * c * (4 / 3 + 4 / 15 * self.taper**2))

    @property
    def box(self) -> Box:
        """Lowest and highest RAS corner in mm."""
        wide = np.asarray(self.radii) * np.array([1 + abs(self.taper), 1 + abs(self.taper), 1.0])
        half = np.sqrt(((self.axes * wide[:, None]) ** 2).sum(axis=0))
        return np.asarray(self.center) - half, np.asarray(self.center) + half

    def pieces(self) -> Iterator[Piece]:
        """Yield the shape itself."""
        yield self

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the signed distance in mm at RAS x, y, z, which broadcast."""
        cx, cy, cz = (float(c) for c in self.center)
        p = (x - cx, y - cy, z - cz)
        u, v, w = (p[0] * float(a[0]) + p[1] * float(a[1]) + p[2] * float(a[2]) for a in self.axes)
        if self.taper:
            width = 1 + self.taper * np.clip(w / self.radii[2], -1, 1)
            u, v = u / width, v / width
        a, b, c = (float(r) for r in self.radii)
        q = np.sqrt((u / a) ** 2 + (v / b) ** 2 + (w / c) ** 2)
        slope = np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2 + (w / c**2) ** 2)
        return (q - 1) * (q + _TINY) / (slope + _TINY / min(a, b, c))


@dataclass(frozen=True, eq=False)
class Segment:
    """A straight tube with round ends whose radius runs linearly from its start to its end."""

    start: np.ndarray
    end: np.ndarray
    radius: float
    end_radius: float

    @property
    def box(self) -> Box:
        """Lowest and highest RAS corner in mm."""
        r = max(self.radius, self.end_radius)
        return np.minimum(self.start, self.end) - r, np.maximum(self.start, self.end) + r

    def pieces(self) -> Iterator[Piece]:
        """Yield the shape itself."""
        yield self

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the signed distance in mm at RAS x, y, z, which broadcast."""
        # Plain floats keep float32 coordinates float32.
        ax, ay, az = (float(c) for c in self.start)
        dx, dy, dz = (float(c) for c in self.end - self.start)
        px, py, pz = x - ax, y - ay, z - az
        scale = 1.0 / max(dx * dx + dy * dy + dz * dz, _TINY**2)
        t = np.clip((px * (dx * scale) + py * (dy * scale)) + pz * (dz * scale), 0, 1)
        d2 = (px - t * dx) ** 2 + (py - t * dy) ** 2 + (pz - t * dz) ** 2
        return np.sqrt(d2) - (self.radius + t * (self.end_radius - self.radius))


@dataclass(frozen=True, eq=False)
class Tube:
    """Straight segments in a row, or a tree of them: starts and ends `(N, 3)`, radii `(N,)`, all in mm."""

    starts: np.ndarray
    ends: np.ndarray
    radii: np.ndarray
    end_radii: np.ndarray

    @classmethod
    def along(cls, points: Sequence[Sequence[float]], radius: float | Sequence[float]) -> Tube:
        """Return the tube through `points` `(N, 3)` with one radius for all or one for each point."""
        p = np.asarray(points, dtype=float)
        r = np.broadcast_to(np.asarray(radius, dtype=float), len(p))
        return cls(p[:-1], p[1:], r[:-1], r[1:])

    def pieces(self) -> Iterator[Piece]:
        """Yield the straight pieces."""
        for a, b, ra, rb in zip(self.starts, self.ends, self.radii, self.end_radii, strict=True):
            yield Segment(a, b, float(ra), float(rb))


@dataclass(frozen=True, eq=False)
class Union:
    """Many shapes as one."""

    shapes: Sequence[Shape]

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces of all shapes."""
        for shape in self.shapes:
            yield from shape.pieces()


@dataclass(frozen=True, eq=False)
class Sleeve:
    """A tube along the body whose cross-section is a superellipse that changes with height.

    `profile` rows are (z, half width, half depth, center y) in mm, upward in z; between them the values
    are interpolated smoothly and without overshoot. It ends at the first and last z.
    """

    profile: np.ndarray
    exponent: float = 2.0
    inset: float = 0.0
    """Distance in mm by which the surface lies inside the profile."""

    @property
    def box(self) -> Box:
        """Lowest and highest RAS corner in mm."""
        z, rx, ry, yc = np.asarray(self.profile).T
        rx, ry = rx - self.inset, ry - self.inset
        return (
            np.array([-rx.max(), (yc - ry).min(), z[0]]),
            np.array([rx.max(), (yc + ry).max(), z[-1]]),
        )

    def pieces(self) -> Iterator[Piece]:
        """Yield the shape itself."""
        yield self

    def section(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return half width, half depth and center y in mm at heights z; the ends hold beyond the profile."""
        from scipy.interpolate import PchipInterpolator

        p = np.asarray(self.profile, dtype=float)
        values = PchipInterpolator(p[:, 0], p[:, 1:])(np.clip(z, p[0, 0], p[-1, 0]))
        rx, ry, yc = np.moveaxis(values, -1, 0).astype(np.asarray(z).dtype)
        return np.maximum(rx - self.inset, 1e-3), np.maximum(ry - self.inset, 1e-3), yc

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the signed distance in mm at RAS x, y, z, which broadcast."""
        rx, ry, yc = self.section(z)
        u, v = np.abs(x / rx), np.abs((y - yc) / ry)
        n = self.exponent
        if n == 2.0:
            q = np.sqrt(u * u + v * v)
            slope = np.sqrt((u / rx) ** 2 + (v / ry) ** 2) / (q + _TINY)
        else:
            q = (u**n + v**n) ** (1 / n)
            slope = np.sqrt((u ** (n - 1) / rx) ** 2 + (v ** (n - 1) / ry) ** 2) / (q ** (n - 1) + _TINY)
        ends = np.maximum(float(self.profile[0][0]) - z, z - float(self.profile[-1][0]))
        return np.maximum((q - 1) / (slope + _TINY), ends)


@dataclass(frozen=True, eq=False)
class Implicit:
    """Any signed distance function together with a box that holds its inside."""

    function: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    box: Box

    def pieces(self) -> Iterator[Piece]:
        """Yield the shape itself."""
        yield self

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the signed distance in mm at RAS x, y, z, which broadcast."""
        return self.function(x, y, z)


def axes_along(direction: Sequence[float]) -> np.ndarray:
    """Return three orthonormal rows whose third points along `direction`, the first near the RAS x axis."""
    w = np.asarray(direction, dtype=float)
    w = w / np.linalg.norm(w)
    u = np.array([1.0, 0.0, 0.0]) - w[0] * w
    if np.linalg.norm(u) < 0.1:
        u = np.array([0.0, 1.0, 0.0]) - w[1] * w
    u = u / np.linalg.norm(u)
    return np.stack([u, np.cross(w, u), w])


def mirrored(points: Sequence[Sequence[float]], side: int) -> np.ndarray:
    """Return points `(N, 3)` given for the right side, on side +1 (right) or -1 (left)."""
    return np.asarray(points, dtype=float) * np.array([side, 1.0, 1.0])
