"""The published 8-bit Laplacian of Gaussian, and which end slices it trims."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from scipy.ndimage import correlate1d, gaussian_laplace

from thoraxseg.postprocess.slice_filter import keep_between_flat_ends, wrapped_log_means

x86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"),
    reason="C casts negative numbers to 8 bits as x86 does",
)


@pytest.fixture
def stack():
    """Six slices in [0, 1] with edges, texture, darkness and nothing."""
    random = np.random.default_rng(8)
    image = np.zeros((6, 128, 96), np.float32)
    image[0] = 0.5
    image[1, 40:90, 30:60] = 1
    image[2] = random.random((128, 96))
    image[3] = random.random((128, 96)) * 0.03
    image[4] = np.hypot(*np.meshgrid(np.linspace(-1, 1, 96), np.linspace(-1, 1, 128))) / 2
    return image


@x86
def test_the_filter_is_what_scipy_does_to_8_bit_images_on_x86(stack):
    slices = [(one * np.float32(255)).astype(np.uint8) for one in stack]
    published = [gaussian_laplace(one, sigma=7).mean() for one in slices]
    np.testing.assert_array_equal(wrapped_log_means(stack, 7), published)


def test_the_filter_wraps_after_every_1_d_pass(stack):
    """Definitions, section 2.4, written again with explicit kernels."""
    x = np.arange(-28, 29)
    smooth = np.exp(-0.5 * x**2 / 49)
    smooth /= smooth.sum()
    second = smooth * (x**2 / 7**4 - 1 / 7**2)

    def one_pass(values, axis, kernel):
        return np.fix(correlate1d(values, kernel, axis=axis, mode="reflect")).astype(np.int64) % 256

    for one, mean in zip(stack, wrapped_log_means(stack, 7), strict=True):
        levels = np.trunc(one * np.float32(255)).astype(float)
        rows = one_pass(one_pass(levels, 0, second).astype(float), 1, smooth)
        columns = one_pass(one_pass(levels, 0, smooth).astype(float), 1, second)
        # A value within rounding of a whole number may be cut either way.
        assert mean == pytest.approx(((rows + columns) % 256).mean(), abs=0.5)


def test_a_slice_without_an_edge_has_mean_0_and_one_with_an_edge_more_than_1(stack):
    means = wrapped_log_means(stack, 7)
    assert means[0] == means[3] == means[5] == 0
    assert means[1] > 1


def test_only_flat_slices_at_the_ends_are_trimmed(stack):
    flat, edge = stack[0], stack[1]
    kept = keep_between_flat_ends(np.stack([flat, flat, edge, flat, edge, flat]), 7, 1)
    assert kept.tolist() == [False, False, True, True, True, False]


def test_a_stack_of_flat_slices_is_trimmed_whole(stack):
    assert not keep_between_flat_ends(np.stack([stack[0]] * 3), 7, 1).any()


def test_a_mean_of_exactly_the_limit_is_kept(stack):
    means = wrapped_log_means(stack, 7)
    assert keep_between_flat_ends(stack[1:2], 7, means[1]).tolist() == [True]
    assert keep_between_flat_ends(stack[1:2], 7, np.nextafter(means[1], 999)).tolist() == [False]
