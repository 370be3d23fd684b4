"""All numbers of one animal from its contours, whoever drew them."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.painted import painted_lung_tumor
from thoraxseg.measure import measure_contours
from thoraxseg.segmentation import STRUCTURES, Segmentation, Structure

VOXEL_MM3 = 0.125


@pytest.fixture(scope="module")
def truth():
    return painted_lung_tumor().truth


def test_structures_tumors_and_both_together_are_measured(truth):
    found = measure_contours(truth)
    assert [one["key"] for one in found["structures"]] == ["lungs", "tumors"]
    voxels = [one["voxels"] for one in found["structures"]]
    assert voxels == [int((truth.labels == label).sum()) for label in (1, 2)]
    assert [one["volume_mm3"] for one in found["structures"]] == pytest.approx(
        [n * VOXEL_MM3 for n in voxels]
    )
    tumors = found["tumors"]
    assert (tumors["count"], tumors["small_count"], tumors["large_count"]) == (3, 1, 2)
    assert tumors["total_volume_mm3"] == pytest.approx(sum(one["volume_mm3"] for one in tumors["nodules"]))
    assert found["lungs_with_tumors"]["voxels"] == sum(voxels)
    assert found["lungs_with_tumors"]["volume_mm3"] == pytest.approx(sum(voxels) * VOXEL_MM3)


def test_the_rule_for_tumors_is_the_callers(truth):
    assert measure_contours(truth, 26, 100.0)["tumors"]["small_count"] == 3
    assert measure_contours(truth, 26)["tumors"]["connectivity"] == 26


def test_contours_without_tumors_have_none_rather_than_0(truth):
    thorax = Segmentation(
        truth.labels, truth.ijk_to_ras, {1: STRUCTURES["right_lung"], 2: STRUCTURES["heart"]}
    )
    found = measure_contours(thorax)
    assert found["tumors"] is None and found["lungs_with_tumors"] is None


def test_absent_tumors_are_0_and_absent_lungs_no_reason_to_fail(truth):
    found = measure_contours(Segmentation(np.zeros_like(truth.labels), truth.ijk_to_ras, truth.structures))
    assert [one["volume_mm3"] for one in found["structures"]] == [0, 0]
    assert (found["tumors"]["count"], found["lungs_with_tumors"]["volume_mm3"]) == (0, 0)
    alone = Segmentation(np.zeros((2, 2, 2), int), np.eye(4), {2: STRUCTURES["tumors"]})
    assert measure_contours(alone)["lungs_with_tumors"] is None


def test_several_segments_that_mean_tumors_are_counted_as_one(truth):
    labels = truth.labels.copy()
    k = int(np.flatnonzero((labels == 2).any(axis=(1, 2))).mean())
    labels[k:][labels[k:] == 2] = 3  # cut through a tumor perhaps; the count must not rise
    more = Structure("Segment_2", "Metastases", (1, 0, 0), STRUCTURES["tumors"].terminology)
    found = measure_contours(Segmentation(labels, truth.ijk_to_ras, {**truth.structures, 3: more}))
    assert found["tumors"] == measure_contours(truth)["tumors"]
    assert found["lungs_with_tumors"] == measure_contours(truth)["lungs_with_tumors"]


def test_right_and_left_lung_with_tumors_are_lungs_with_tumors(truth):
    labels = truth.labels.copy()
    labels[..., :20][labels[..., :20] == 1] = 3
    sides = {1: STRUCTURES["right_lung"], 2: STRUCTURES["tumors"], 3: STRUCTURES["left_lung"]}
    found = measure_contours(Segmentation(labels, truth.ijk_to_ras, sides))
    assert found["lungs_with_tumors"] == measure_contours(truth)["lungs_with_tumors"]
