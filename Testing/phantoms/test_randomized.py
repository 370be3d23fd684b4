"""Random chests: every one another, all of them right about what they hold."""

from __future__ import annotations

import numpy as np
import pytest

from thoraxseg.errors import OptionError
from thoraxseg.phantoms.randomized import KINDS, randomized

SPACING_MM = {"mouse-ct": 0.6, "mouse-mri": 0.5, "human-ct": 7.0}
SEEDS = range(12)


@pytest.fixture(scope="module", params=KINDS)
def cohort(request):
    return request.param, [randomized(request.param, seed, SPACING_MM[request.param]) for seed in SEEDS]


def test_the_same_seed_gives_the_same_body(cohort):
    kind, phantoms = cohort
    again = randomized(kind, 3, SPACING_MM[kind])
    np.testing.assert_array_equal(again.volume.array, phantoms[3].volume.array)
    np.testing.assert_array_equal(again.truth.labels, phantoms[3].truth.labels)
    assert not np.array_equal(again.volume.array.shape, phantoms[4].volume.array.shape) or not np.array_equal(
        again.volume.array, phantoms[4].volume.array
    )


def test_images_are_finite_and_labels_lie_on_their_grid(cohort):
    for phantom in cohort[1]:
        assert phantom.volume.array.dtype == np.float32 and np.isfinite(phantom.volume.array).all()
        assert phantom.volume.axis_codes == "RAS"
        assert phantom.truth.labels.shape == phantom.volume.shape
        np.testing.assert_array_equal(phantom.truth.ijk_to_ras, phantom.volume.ijk_to_ras)


def test_every_structure_is_there_and_has_the_size_of_a_living_one(cohort):
    kind, phantoms = cohort
    lungs = {"mouse-ct": (3, 4), "mouse-mri": (1, 2), "human-ct": (1, 2)}[kind]
    low, high = (1.5e6, 1.2e7) if kind == "human-ct" else (150, 1_100)
    for phantom in phantoms:
        voxel_mm3 = SPACING_MM[kind] ** 3
        volume = np.isin(phantom.truth.labels, lungs).sum() * voxel_mm3
        assert low < volume < high, (phantom.facts["seed"], volume)
        if kind == "mouse-ct":
            assert 80 < (phantom.truth.labels == 1).sum() * voxel_mm3 < 600


def test_bodies_and_contrasts_differ_far(cohort):
    kind, phantoms = cohort
    lungs = {"mouse-ct": (3, 4), "mouse-mri": (1,), "human-ct": (1,)}[kind]
    volumes = [np.isin(p.truth.labels, lungs).sum() for p in phantoms]
    assert max(volumes) > 1.5 * min(volumes)
    lungs_dark = []
    for phantom in phantoms:
        image, inside = phantom.volume.array, np.isin(phantom.truth.labels, lungs)
        lungs_dark.append(np.median(image[inside]) < np.median(image[image > np.median(image)]))
    assert any(lungs_dark)
    assert kind == "human-ct" or not all(lungs_dark)


def test_right_and_left_lie_where_their_names_say():
    for seed in SEEDS:
        labels = randomized("mouse-ct", seed, 0.6).truth.labels
        x = np.arange(labels.shape[2])  # runs to the right
        right, left = ((labels == n).sum(axis=(0, 1)) @ x / (labels == n).sum() for n in (3, 4))
        heart = (labels == 1).sum(axis=(0, 1)) @ x / (labels == 1).sum()
        assert right > left and heart < right
        # The spine lies behind.
        cord, chest = ((labels == n).sum(axis=(0, 2)) for n in (2, 1))
        y = np.arange(labels.shape[1])
        assert cord @ y / cord.sum() < chest @ y / chest.sum()


@pytest.mark.parametrize("kind", ["mouse-mri", "human-ct"])
def test_tumors_are_in_some_and_look_unlike_lung(kind):
    found = 0
    for seed in SEEDS:
        phantom = randomized(kind, seed, SPACING_MM[kind] / 2)
        labels, image = phantom.truth.labels, phantom.volume.array
        if (labels == 2).sum() > 30:
            found += 1
            lung, tumor = image[labels == 1], image[labels == 2]
            spread = np.percentile(image, 98) - np.percentile(image, 2)
            assert abs(np.median(tumor) - np.median(lung)) > 0.03 * spread
        assert bool(phantom.facts["tumors"]) == bool((labels == 2).any())
    assert 3 < found < len(SEEDS)


def test_another_kind_is_refused():
    with pytest.raises(OptionError, match="mouse-ct, mouse-mri, human-ct"):
        randomized("rat-ct", 0, 0.5)
