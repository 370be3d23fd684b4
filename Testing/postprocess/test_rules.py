"""A card's clean-up over a label map: regions, rules in order, write-back, and what is said."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from thoraxseg.checkpoints.card import Cleanup, Region, Step
from thoraxseg.errors import CheckpointError
from thoraxseg.postprocess import RULES, check_plan, clean_up
from thoraxseg.progress import Cancelled

LUNGS, TUMORS = Region("lungs", (1, 2), 1), Region("tumors", (2,), 2)


def plan(*rules, regions=(LUNGS, TUMORS)):
    return Cleanup(regions, tuple(Step(name, parameters) for name, parameters in rules))


def run(labels, the_plan, image=None, ijk_to_ras=None):
    labels = np.asarray(labels, np.uint8)
    image = np.zeros(labels.shape, np.float32) if image is None else image
    return clean_up(labels, image, np.eye(4) if ijk_to_ras is None else ijk_to_ras, the_plan)


CLOSE_LUNGS = ("close_slices", {"region": "lungs"})
CLOSE_TUMORS = ("close_slices", {"region": "tumors"})


def test_without_rules_the_labels_stay_as_they_are():
    labels = np.array([[[0, 1, 2, 1]]], np.uint8)
    found, warnings = clean_up(labels, labels, np.eye(4), plan(regions=()))
    assert found is labels and warnings == []


def test_a_later_region_wins_where_two_are_written():
    labels = [[[0, 1, 2, 1, 0]]]
    nothing = ("drop_small_blobs_in_slices", {"region": "lungs", "min_size_px": 1})
    assert run(labels, plan(nothing))[0].tolist() == labels
    swapped, _ = run(labels, plan(nothing, regions=(TUMORS, LUNGS)))
    assert swapped.tolist() == [[[0, 1, 1, 1, 0]]]


def test_a_region_holds_all_its_labels():
    small = ("drop_small_blobs_in_slices", {"region": "lungs", "min_size_px": 3})
    assert run([[[0, 1, 2, 1, 0]]], plan(small))[0].any(), "lungs with their tumor are three pixels"
    alone = plan(small, regions=(Region("lungs", (1,), 1), TUMORS))
    assert run([[[0, 1, 2, 1, 0]]], alone)[0].tolist() == [[[0, 0, 2, 0, 0]]]


def test_a_tumor_may_stay_where_the_lungs_around_it_went():
    labels = np.zeros((3, 8, 8), np.uint8)
    labels[1, 2:4, 2:4] = 2
    found, warnings = run(labels, plan(("drop_isolated_slices", {"region": "lungs", "min_area_px": 15})))
    np.testing.assert_array_equal(found, labels)
    assert warnings == []


def test_rules_run_in_the_order_of_the_card():
    labels = np.zeros((1, 5, 9), np.uint8)
    labels[0, 2, [2, 4, 6]] = 1  # closed they are one piece of five, before they are three of one
    small = ("drop_small_blobs_in_slices", {"region": "lungs", "min_size_px": 2})
    assert run(labels, plan(CLOSE_LUNGS, small))[0].sum() == 5
    assert run(labels, plan(small, CLOSE_LUNGS))[0].sum() == 0


def test_a_rule_touches_its_own_region_only():
    labels = np.zeros((1, 9, 9), np.uint8)
    labels[0, 2, [2, 4]], labels[0, 6, [2, 4]] = 1, 2
    found, _ = run(labels, plan(CLOSE_TUMORS))
    assert found[0, 2].tolist() == labels[0, 2].tolist()
    assert found[0, 6, 2:5].tolist() == [2, 2, 2]


def test_blobs_in_slices_hold_together_by_corners():
    labels = np.zeros((1, 4, 4), np.uint8)
    labels[0, 0, 0] = labels[0, 1, 1] = labels[0, 2, 2] = 2
    rule = "drop_small_blobs_in_slices"
    assert run(labels, plan((rule, {"region": "tumors", "min_size_px": 3})))[0].sum() == 6


@pytest.mark.parametrize(("limit", "stays"), [(0.39, True), (0.4, True), (0.41, False)])
@pytest.mark.parametrize("scale", [(0.2, 0.1, 0.2), (0.08, 0.2, 0.25), (0.16, 0.5, 0.05)], ids=str)
def test_a_component_of_exactly_the_smallest_volume_stays_whatever_the_last_bit_says(limit, stays, scale):
    labels = np.zeros((10, 12, 12), np.uint8)
    labels[:10, 1:11, 1] = 2  # 100 voxels of 0.004 mm3
    parameters = {"region": "tumors", "min_volume_mm3": limit, "connectivity": 18}
    found, _ = run(labels, plan(("drop_small_components", parameters)), ijk_to_ras=np.diag([*scale, 1]))
    assert (found == 2).any() == stays


def test_what_lies_inside_the_closed_lungs_stays_and_what_lies_outside_goes():
    labels = np.zeros((15, 15, 15), np.uint8)
    labels[3:12, 3:12, 3:12] = 1
    labels[6:9, 6:9, 6:9] = 0
    labels[7, 7, 7] = labels[1, 1, 1] = 2
    regions = (Region("lungs", (1,), 1), TUMORS)
    rule = ("keep_inside_closed", {"region": "tumors", "inside": "lungs", "radius_voxels": 3})
    found, _ = run(labels, plan(rule, regions=regions))
    assert found[7, 7, 7] == 2 and found[1, 1, 1] == 0
    assert (found == 1).sum() == (labels == 1).sum()


def with_edges(*slices, count=6):
    image = np.zeros((count, 64, 64), np.float32)
    for k in slices:
        image[k, 20:44, 20:44] = 1
    return image


TRIM = ("trim_flat_end_slices", {"sigma_px": 7, "min_mean": 1})


def test_flat_slices_at_the_ends_lose_all_their_labels():
    labels = np.ones((6, 64, 64), np.uint8)
    labels[:, 10, 10] = 2
    found, warnings = run(labels, plan(TRIM), with_edges(2, 4))
    assert found.any(axis=(1, 2)).tolist() == [False, False, True, True, True, False]
    np.testing.assert_array_equal(found[2:5], labels[2:5])
    assert warnings == []


def test_trimming_the_whole_stack_is_a_warning():
    labels = np.ones((6, 64, 64), np.uint8)
    found, warnings = run(labels, plan(TRIM), with_edges())
    assert not found.any()
    assert "trimmed the whole stack" in warnings[0]
    assert f"removed all {6 * 64 * 64} voxels" in warnings[1] and "--postprocess none" in warnings[1]


def test_an_empty_answer_is_nothing_that_clean_up_removed():
    _, warnings = run(np.zeros((6, 64, 64)), plan(TRIM), with_edges(2))
    assert warnings == []


@pytest.mark.parametrize("value", [-0.01, 1.01, 255])
def test_trimming_refuses_an_image_that_is_not_scaled_to_0_to_1(value):
    image = with_edges(2)
    image[0, 0, 0] = value
    with pytest.raises(CheckpointError, match=r"trim_flat_end_slices.* expects an image in 0 to 1"):
        run(np.ones((6, 64, 64)), plan(TRIM), image)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (("polish", {}), "unknown clean-up rule 'polish'; known are trim_flat_end_slices"),
        (("close_slices", {}), "key 'region' is missing in close_slices"),
        (
            ("close_slices", {"region": "heart"}),
            "close_slices.region must be one of lungs, tumors, got 'heart'",
        ),
        (("close_slices", {"region": "lungs", "size": 3}), "unknown key 'size' in close_slices"),
        (
            ("open_ball", {"region": "lungs", "radius_voxels": "1"}),
            "open_ball.radius_voxels must be a finite number",
        ),
        (
            ("keep_inside_closed", {"region": "tumors", "inside": "heart", "radius_voxels": 1}),
            "keep_inside_closed.inside must be one of",
        ),
        (
            ("drop_small_components", {"region": "lungs", "min_volume_mm3": 1, "connectivity": 8}),
            "drop_small_components.connectivity must be one of 6, 18, 26, got 8",
        ),
    ],
)
def test_a_rule_the_card_gets_wrong_is_refused_before_any_rule_runs(rule, words):
    labels = np.ones((1, 4, 4), np.uint8)
    for use in (lambda: run(labels, plan(CLOSE_LUNGS, rule)), lambda: check_plan(plan(CLOSE_LUNGS, rule))):
        with pytest.raises(CheckpointError) as caught:
            use()
        assert words in str(caught.value)


def test_neither_labels_nor_image_are_altered():
    labels = np.ones((6, 64, 64), np.uint8)
    image = with_edges(2)
    copies = labels.copy(), image.copy()
    run(labels, plan(TRIM, CLOSE_LUNGS), image)
    np.testing.assert_array_equal(labels, copies[0])
    np.testing.assert_array_equal(image, copies[1])


def test_each_rule_logs_what_it_did(caplog):
    with caplog.at_level(logging.INFO, logger="thoraxseg"):
        run([[[0, 1, 0, 1, 0]]], plan(CLOSE_LUNGS))
    assert "close_slices: voxels {'lungs': 2, 'tumors': 0} -> {'lungs': " in caplog.text


def test_clean_up_can_be_cancelled_between_two_rules():
    def cancel(fraction, message):
        if fraction >= 0.5:
            raise Cancelled

    labels = np.ones((1, 4, 4), np.uint8)
    with pytest.raises(Cancelled):
        clean_up(labels, labels, np.eye(4), plan(CLOSE_LUNGS, CLOSE_TUMORS), cancel)


def test_every_rule_of_the_published_order_is_known():
    order = ["trim_flat_end_slices", "drop_isolated_slices", "drop_small_blobs_in_slices", "close_slices"]
    assert set(order) <= set(RULES)
