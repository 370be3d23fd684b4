"""Masks on other grids: refused with a reason, or brought over voxel by voxel on request, and counted."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.agreement.making import box, points, record_of, refused, write_map
from thoraxseg.agreement.grids import resample_nearest
from thoraxseg.volume import geometry_from_spacing

GRID = geometry_from_spacing((1.0, 1.0, 1.0), "LPS")


def moved(voxels_kji, grid=GRID):
    """Return a grid whose origin lies so many voxels further."""
    matrix = grid.copy()
    matrix[:3, 3] += grid[:3, :3] @ np.array(voxels_kji[::-1])
    return matrix


@pytest.mark.parametrize(
    ("matrix", "shape", "reason"),
    [
        (moved((0, 0, 0.5)), (14, 20, 20), "0.5 voxels away"),
        (geometry_from_spacing((1.0, 1.0, 1.01), "LPS"), (14, 20, 20), "voxels away"),
        (
            geometry_from_spacing((1.0, 1.0, 1.01), "LPS"),
            (14, 20, 21),
            "14 x 20 x 21 voxels (k, j, i), not 14 x 20 x 20",
        ),
        (GRID, (14, 20, 21), "another part of the same grid (14 x 20 x 21 voxels, not 14 x 20 x 20)"),
    ],
    ids=["half a voxel", "another spacing", "another size", "cropped"],
)
def test_another_grid_is_refused_with_the_reason_and_the_way_out(matrix, shape, reason, tmp_path, capsys):
    one = write_map(tmp_path / "r.nrrd", box((2, 4, 4), (8, 10, 10)))
    other = write_map(tmp_path / "p.nrrd", box((2, 4, 4), (8, 10, 10), shape=shape), matrix=matrix)
    text = refused(capsys, "compare", "-r", one, "-p", other)
    assert "p.nrrd" in text and "r.nrrd" in text
    assert reason in text
    assert "--resample" in text


def test_rounding_in_a_header_is_no_other_grid(tmp_path, capsys):
    one = write_map(tmp_path / "r.nrrd", box((2, 4, 4), (8, 10, 10)))
    other = write_map(tmp_path / "p.nrrd", box((2, 4, 4), (8, 10, 10)), matrix=moved((0, 0, 5e-4)))
    record = record_of(capsys, "compare", "-r", one, "-p", other)
    assert record["structures"][0]["dsc"] == 1
    assert record["notes"] == []


def test_on_request_each_voxel_takes_the_label_that_lies_there_and_it_is_counted(tmp_path, capsys):
    one = write_map(tmp_path / "r.nrrd", box((2, 4, 4), (8, 10, 10)))
    other = write_map(tmp_path / "p.nrrd", box((0, 0, 0), (8, 10, 10)), matrix=moved((2, 4, 4)))
    record = record_of(capsys, "compare", "-r", one, "-p", other, "--resample")
    assert record["structures"][0]["dsc"] == 1
    (note,) = record["notes"]
    assert "nearest neighbors, 800 labeled voxels became 800" in note
    assert f"{1 - 12 * 16 * 16 / (14 * 20 * 20):.1%} of that grid lies outside" in note
    assert record["options"]["resample"] is True


def test_finer_voxels_become_the_coarse_ones_whose_center_they_hold(tmp_path, capsys):
    one = write_map(tmp_path / "r.nrrd", box((1, 1, 1), (4, 4, 4), shape=(7, 10, 10)), (2.0, 2.0, 2.0))
    fine = np.kron(box((1, 1, 1), (4, 4, 4), shape=(7, 10, 10)), np.ones((2, 2, 2), np.uint8))
    grid = moved((-0.5, -0.5, -0.5))
    record = record_of(
        capsys, "compare", "-r", one, "-p", write_map(tmp_path / "p.nrrd", fine, matrix=grid), "--resample"
    )
    assert record["structures"][0]["dsc"] == 1


@pytest.mark.parametrize(("shift", "moved_by"), [(0.4, 0), (0.6, 1), (-0.4, 0), (-0.6, -1)])
def test_a_voxel_takes_the_label_of_the_nearest_one(shift, moved_by):
    labels = points((5, 5, 5))
    found, _ = resample_nearest(labels, GRID, labels.shape, moved((0, 0, shift)))
    assert np.array_equal(found, points((5, 5, 5 - moved_by)))


def test_half_a_voxel_goes_the_same_way_everywhere():
    labels = np.arange(1, 9, dtype=np.uint8).reshape(2, 2, 2)
    found, outside = resample_nearest(labels, GRID, (2, 2, 2), moved((0, 0, 0.5)))
    assert np.array_equal(found, labels)
    assert outside == 0


def test_masks_that_lie_elsewhere_altogether_are_warned_of(tmp_path, capsys):
    one = write_map(tmp_path / "r.nrrd", points((5, 5, 5)))
    other = write_map(tmp_path / "p.nrrd", points((5, 5, 5)), matrix=moved((500, 0, 0)))
    record = record_of(capsys, "compare", "-r", one, "-p", other, "--resample")
    assert "p.nrrd: none of its labels lies on the grid of r.nrrd." in record["warnings"]
