"""Resampling beside scikit-image, which nnU-Net calls, and labels beside batchgenerators."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from skimage.transform import resize

from thoraxseg.checkpoints.nnunet_plan import Resampling
from thoraxseg.errors import CheckpointError
from thoraxseg.inference import nnunet_resample
from thoraxseg.inference.nnunet_resample import (
    coarse_axis,
    resample,
    resample_labels,
    resampled_shape,
    resampled_slabs,
)
from thoraxseg.progress import Cancelled

SHAPES = {
    "finer": ((9, 12, 10), (13, 15, 17)),
    "coarser": ((21, 17, 30), (9, 12, 11)),
    "half": ((16, 12, 20), (8, 6, 10)),
    "mixed": ((9, 30, 10), (17, 11, 10)),
    "one_slice": ((1, 12, 10), (1, 15, 7)),
    "from_one_slice": ((1, 5, 4), (3, 7, 9)),
    "to_one_slice": ((6, 5, 4), (1, 7, 9)),
}


def spline(order, order_z=0):
    return Resampling("spline", order, order_z, None)


def by_scikit_image(array, shape, order, axis, order_z):
    """nnU-Net's `resample_data_or_seg` in a few lines: its two library calls in the same places."""
    out = []
    for values in array.astype(float):
        if axis is None:
            out.append(resize(values, shape, order, mode="edge", anti_aliasing=False))
            continue
        slices = np.moveaxis(values, axis, 0)
        plane = [n for a, n in enumerate(shape) if a != axis]
        slices = [resize(one, plane, order, mode="edge", anti_aliasing=False) for one in slices]
        values = np.moveaxis(np.stack(slices), 0, axis)
        scale = np.array(values.shape) / shape
        grid = np.mgrid[tuple(slice(n) for n in shape)]
        where = scale.reshape(3, 1, 1, 1) * (grid + 0.5) - 0.5
        if values.shape != tuple(shape):
            values = map_coordinates(values, where, order=order_z, mode="nearest")
        out.append(values)
    return np.stack(out)


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("order", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("slab", [1, 1 << 20], ids=["small_slabs", "one_slab"])
def test_a_spline_is_scikit_images(shapes, order, slab, monkeypatch):
    monkeypatch.setattr(nnunet_resample, "SLAB_VOXELS", slab)
    array = np.random.default_rng(1).normal(size=(2, *shapes[0])).astype(np.float32)
    ours = resample(array, shapes[1], spline(order), None)
    assert ours.dtype == np.float32 and ours.shape == (2, *shapes[1])
    assert np.abs(ours - by_scikit_image(array, shapes[1], order, None, 0)).max() < 2e-6


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("order", "order_z"), [(3, 0), (1, 0), (1, 1), (3, 3)])
def test_a_coarse_axis_is_resampled_apart(shapes, axis, order, order_z, monkeypatch):
    monkeypatch.setattr(nnunet_resample, "SLAB_VOXELS", 300)
    array = np.random.default_rng(2).normal(size=(2, *shapes[0])).astype(np.float32)
    ours = resample(array, shapes[1], spline(order, order_z), axis)
    theirs = by_scikit_image(array, shapes[1], order, axis, order_z)
    assert np.abs(ours - theirs).max() < 3e-6


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_torch_rules_are_torchs_linear_and_nearest(axis):
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(3).normal(size=(2, 9, 14, 12)).astype(np.float32)
    shape = (14, 9, 17)
    ours = resample(array, shape, Resampling("torch", 3, 3, None), axis)
    theirs = torch.from_numpy(array)[None]
    if axis is None:
        theirs = torch.nn.functional.interpolate(theirs, shape, mode="trilinear")[0]
    else:
        flat = theirs[0].movedim(axis + 1, 0)
        plane = [n for a, n in enumerate(shape) if a != axis]
        flat = torch.nn.functional.interpolate(flat, plane, mode="bilinear").movedim(0, axis + 1)
        theirs = torch.nn.functional.interpolate(flat[None], shape, mode="nearest-exact")[0]
    assert np.abs(ours - theirs.numpy()).max() < 1e-5


@pytest.mark.parametrize(("have", "want"), [(4, 41), (2, 61), (9, 5)])
def test_torch_rules_take_the_slices_that_torch_calls_nearest(have, want):
    torch = pytest.importorskip("torch")
    array = np.arange(have, dtype=np.float32).reshape(1, have, 1, 1).repeat(2, axis=2)
    ours = resample(array, (want, 2, 1), Resampling("torch", 1, 0, None), 0)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(array)[None], (want, 2, 1), mode="nearest-exact"
    )
    assert (ours == theirs[0].numpy()).all()


def test_values_stay_in_the_range_of_their_channel():
    array = np.zeros((2, 8, 8, 8), dtype=np.float32)
    array[0, 3:5, 3:5, 3:5] = 1
    array[1] = 7
    out = resample(array, (13, 13, 13), spline(3), None)
    assert out[0].min() == 0 and out[0].max() <= 1
    assert np.abs(out[1] - 7).max() < 1e-6


def test_the_same_shape_is_not_copied():
    array = np.ones((1, 4, 5, 6), dtype=np.float32)
    assert resample(array, (4, 5, 6), spline(3), None) is array
    assert all(np.shares_memory(block, array) for _, block in resampled_slabs(array, (4, 5, 6), spline(1), 0))


def test_a_finer_grid_costs_little_more_memory_than_the_result(monkeypatch):
    monkeypatch.setattr(nnunet_resample, "SLAB_VOXELS", 1 << 14)
    array = np.random.default_rng(4).normal(size=(1, 60, 60, 60)).astype(np.float32)
    resample(array[:, :4], (5, 70, 70), spline(3), None)  # imports
    tracemalloc.start()
    out = resample(array, (80, 80, 80), spline(3), None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    padded = array.nbytes * 84 // 60
    assert peak < out.nbytes + 3 * padded + (4 << 20)


def test_progress_can_cancel_between_slabs(monkeypatch):
    monkeypatch.setattr(nnunet_resample, "SLAB_VOXELS", 100)
    seen = []

    def progress(fraction, message):
        seen.append(fraction)
        if fraction > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        resample(np.ones((1, 20, 10, 10), dtype=np.float32), (40, 10, 10), spline(1), None, progress)
    assert seen == sorted(seen) and 0.3 < seen[-1] < 0.4


@pytest.mark.parametrize(
    ("first", "second", "force", "axis"),
    [
        ((1, 1, 1), (1, 1, 1), None, None),
        ((3, 1, 1), (1, 1, 1), None, None),
        ((3.1, 1, 1), (1, 1, 1), None, 0),
        ((1, 1, 1), (1, 4, 1), None, 1),
        ((1, 1, 4), (9, 1, 1), None, 2),
        ((4, 1, 4), (9, 1, 1), None, None),
        ((4, 1, 1), (1, 1, 1), False, None),
        ((1, 1.1, 1), (9, 1, 1), True, 1),
        ((1, 1, 1), (9, 1, 1), True, None),
    ],
)
def test_the_coarse_axis_is_the_one_of_the_first_anisotropic_spacing(first, second, force, axis):
    assert coarse_axis(first, second, force) == axis


def test_shapes_are_rounded_half_to_even():
    assert resampled_shape((5, 5, 7), (1, 1.5, 1), (2, 1, 2)) == (2, 8, 4)


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_labels_are_batchgenerators(shapes):
    from_batchgenerators = pytest.importorskip(
        "batchgenerators.augmentations.utils", reason="the resizing that nnU-Net calls is not installed"
    ).resize_segmentation
    rng = np.random.default_rng(5)
    for labels in (rng.integers(-1, 4, size=shapes[0]), np.full(shapes[0], 2)):
        ours = resample_labels(labels.astype(np.int16), shapes[1], spline(1), None)
        assert ours.dtype == np.int16
        assert (ours == from_batchgenerators(labels.astype(np.int16), shapes[1], order=1)).all()


def test_tied_labels_go_to_the_nearest_or_the_lowest():
    line = np.array([5, 5, 3, 9], dtype=np.int16).reshape(1, 1, 4)
    # Halved, every sample lies between two voxels; of two that are as near, the later counts as nearest.
    assert resample_labels(line, (1, 1, 2), spline(1), None).ravel().tolist() == [5, 9]
    assert resample_labels(line, (1, 1, 2), Resampling("torch", 1, 0, None), None).ravel().tolist() == [5, 3]
    assert resample_labels(line, (1, 1, 4), spline(1), None) is line


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_labels_along_a_coarse_axis_are_the_nearest_slices(axis):
    labels = np.moveaxis(np.repeat(np.arange(4), 25).reshape(4, 5, 5), 0, axis)
    shape = [5, 5, 5]
    shape[axis] = 8
    out = np.moveaxis(resample_labels(labels, shape, spline(1), axis), axis, 0)
    assert out[:, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (out == out[:, :1, :1]).all()


def test_what_is_not_known_is_refused():
    array = np.zeros((1, 4, 4, 4), dtype=np.float32)
    with pytest.raises(CheckpointError, match="unknown resampling function 'cubic'"):
        resample(array, (5, 5, 5), Resampling("cubic", 3, 0, None), None)
    with pytest.raises(CheckpointError, match="order 1"):
        resample_labels(array[0].astype(int), (5, 5, 5), spline(1, 1), 0)
