"""Implicit shapes, the painter and the random fields against answers known on paper."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thoraxseg.errors import OptionError
from thoraxseg.phantoms.canvas import Canvas, Grid, spacing_along_ras
from thoraxseg.phantoms.noise import correlated_noise, smooth_field
from thoraxseg.phantoms.shapes import Ellipsoid, Sleeve, Tube, Union, axes_along, distance
from thoraxseg.phantoms.thorax import cord_volume_mm3
from thoraxseg.phantoms.trees import grow_tree


def cube(half: float, spacing: float) -> Grid:
    return Grid.over([-half] * 3, [half] * 3, [spacing] * 3)


def painted_mm3(shape, grid: Grid) -> float:
    _, d = grid.distance(shape)
    return float(grid.cover(d).sum()) * grid.voxel_mm3


@pytest.mark.parametrize("taper", [0.0, 0.3], ids=["ellipsoid", "egg"])
def test_an_ellipsoid_or_egg_covers_its_exact_volume(taper):
    egg = Ellipsoid((0.1, -0.2, 0.3), (2.0, 1.5, 3.0), axes_along((0.4, -0.3, 0.8)), taper)
    assert painted_mm3(egg, cube(5, 0.1)) == pytest.approx(egg.volume_mm3, rel=0.005)


def test_a_ball_has_the_volume_of_a_ball():
    assert Ellipsoid((0, 0, 0), (2, 2, 2)).volume_mm3 == pytest.approx(4 / 3 * math.pi * 8)


def test_the_distance_to_a_ball_is_exact():
    x = np.array([0.5, 1.0, 3.0])
    d = distance(Ellipsoid((0, 0, 0), (1, 1, 1)), x, 0 * x, 0 * x)
    assert d == pytest.approx([-0.5, 0.0, 2.0], abs=1e-4)


def test_a_tube_of_two_pieces_covers_a_capsule():
    capsule = Tube.along([(0, 0, -2), (0, 0, 0), (0, 0, 2)], 1.0)
    expected = math.pi * 4 + 4 / 3 * math.pi
    assert painted_mm3(capsule, cube(4, 0.1)) == pytest.approx(expected, rel=0.005)


def test_a_sleeve_of_constant_section_is_an_elliptic_cylinder():
    sleeve = Sleeve(np.array([(-2.0, 2, 1, 0), (0, 2, 1, 0), (2, 2, 1, 0)]))
    assert painted_mm3(sleeve, cube(3, 0.1)) == pytest.approx(math.pi * 2 * 4, rel=0.01)


def test_a_cord_is_cut_flat_at_the_field_of_view():
    cord = Tube.along([(0, 0, -10), (0, 0, 10)], 0.5)
    assert cord_volume_mm3(cord, -2.0, 3.0) == pytest.approx(math.pi * 0.25 * 5)


def test_painting_half_a_voxel_gives_half_the_intensity():
    grid = cube(2, 1.0)
    canvas = Canvas(grid, {"air": 0.0, "wall": 100.0}, "air")
    canvas.paint(Sleeve(np.array([(-9.0, 50, 50, 0), (0.5, 50, 50, 0)])), "wall")
    assert canvas.array[:, 0, 0] == pytest.approx([100, 100, 50, 0])


def test_spacing_follows_the_stored_axes():
    # i to right, j to inferior, k to anterior: (k, j, i) is (anterior, superior, right).
    assert spacing_along_ras((1.0, 2.0, 3.0), "RIA", (0.1, 10)).tolist() == [3.0, 1.0, 2.0]


def test_a_field_of_view_of_too_many_voxels_is_refused():
    with pytest.raises(OptionError, match="coarser spacing"):
        Grid.over([0, 0, 0], [1000, 1000, 1000], [0.1, 0.1, 0.1])


def test_noise_has_unit_variance_and_the_asked_correlations():
    noise = correlated_noise((60, 60, 60), (0.79, 0.47, 0.2), np.random.default_rng(0))
    assert noise.std() == pytest.approx(1, abs=0.03)
    for axis, rho in enumerate((0.79, 0.47, 0.2)):
        a = np.moveaxis(noise, axis, 0)
        assert np.corrcoef(a[1:].ravel(), a[:-1].ravel())[0, 1] == pytest.approx(rho, abs=0.02)


def test_a_texture_is_fixed_in_the_body_whatever_the_grid():
    coarse, fine = cube(3, 1.0), cube(3, 0.2)
    a, b = (smooth_field(g, 1.5, 5.0, np.random.default_rng(7)) for g in (coarse, fine))
    middle = [int(np.argmin(np.abs(fine.x - x))) for x in coarse.x]
    assert b[np.ix_(middle, middle, middle)] == pytest.approx(a, abs=1e-4)


def test_a_tree_reaches_every_tip_and_narrows_on_the_way():
    rng = np.random.default_rng(1)
    tips = rng.uniform(2, 8, (20, 3))
    tree = grow_tree((0, 0, 0), tips, 0.1, 1.0, rng)
    gaps = np.linalg.norm(tree.ends[None] - tips[:, None], axis=2).min(axis=1)
    assert gaps.max() < 1e-9
    at_root = np.linalg.norm(tree.starts, axis=1) < 1e-9
    assert (tree.radii[at_root] ** 3).sum() == pytest.approx(20 * 0.1**3)
    assert tree.radii.min() == pytest.approx(0.1)


def test_a_union_is_as_near_as_its_nearest_part():
    balls = Union([Ellipsoid((-3, 0, 0), (1, 1, 1)), Ellipsoid((3, 0, 0), (1, 1, 1))])
    x = np.array([-3.0, 0.0, 2.0])
    assert distance(balls, x, 0 * x, 0 * x)[1:] == pytest.approx([2.0, 0.0], abs=1e-4)
