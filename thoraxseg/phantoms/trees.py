"""Branching trees of vessels and airways that fill a lung from its hilum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thoraxseg.phantoms.shapes import Tube


def grow_tree(
    root: Sequence[float],
    targets: np.ndarray,
    tip_radius_mm: float,
    step_mm: float,
    rng: np.random.Generator,
) -> Tube:
    """Return a tree of tubes from `root` to every one of `targets` `(N, 3)`, RAS mm, near ones first.

    Each target joins the node that keeps both the new branch and the whole way to the root short. A
    branch that feeds n targets has radius tip * n^(1/3) (Murray 1926). Branches bend a little at each step.
    """
    nodes = [np.asarray(root, dtype=float)]
    parents = [-1]
    way = [0.0]
    fed: list[int] = []
    for target in targets[np.argsort(np.linalg.norm(targets - nodes[0], axis=1))]:
        near = np.linalg.norm(np.asarray(nodes) - target, axis=1)
        at = int(np.argmin(near + 0.3 * np.asarray(way)))
        start, pieces = nodes[at], max(int(np.ceil(near[at] / step_mm)), 1)
        bend = rng.normal(0, 0.08 * near[at], 3)
        for n in range(1, pieces + 1):
            t = n / pieces
            point = start + (target - start) * t + bend * np.sin(np.pi * t)
            way.append(way[at] + float(np.linalg.norm(point - nodes[at])))
            nodes.append(point)
            parents.append(at)
            at = len(nodes) - 1
        fed.append(at)
    parents = np.asarray(parents)
    tips = np.zeros(len(nodes))
    np.add.at(tips, fed, 1)
    for n in range(len(nodes) - 1, 0, -1):  # children come after their parents
        tips[parents[n]] += tips[n]
    radii = tip_radius_mm * np.maximum(tips, 1) ** (1 / 3)
    points = np.asarray(nodes)
    # A branch keeps the radius of its far end: the step down lies at the fork.
    return Tube(points[parents[1:]], points[1:], radii[1:], radii[1:])


def airways_beside(vessels: Tube, tip_radius_mm: float, offset: Sequence[float]) -> tuple[Tube, Tube]:
    """Return the airways that run with the wider branches of an arterial tree, and the same with their walls.

    Kept are branches at least twice `tip_radius_mm` wide; `offset` is the side, a RAS direction, on which
    they lie.
    """
    wide = vessels.radii >= 2 * tip_radius_mm
    radii = 0.75 * vessels.radii[wide]
    shift = np.asarray(offset)[None] * (vessels.radii[wide] + 1.2 * radii)[:, None]
    starts, ends = vessels.starts[wide] + shift, vessels.ends[wide] + shift
    return Tube(starts, ends, radii, radii), Tube(starts, ends, 1.3 * radii, 1.3 * radii)
