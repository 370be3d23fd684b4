"""One pair of label maps: every key there, right where paper knows, undefined with a reason, never nan."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from thoraxseg.errors import InputError, OptionError
from thoraxseg.metrics.pair import DEFINITIONS, DISTANCES, KEYS, compare_labels

LABELS = arrays(np.uint8, (3, 4, 2), elements={"min_value": 0, "max_value": 2})
NAMES = {1: "Lung", 2: "Tumors"}


@pytest.fixture
def two_cubes():
    """A reference cube of edge 4 and a prediction shifted by one voxel along k, label 2 of 10 slices."""
    reference, prediction = np.zeros((2, 10, 8, 8), np.uint8)
    reference[2:6, 2:6, 2:6] = 2
    prediction[3:7, 2:6, 2:6] = 2
    return reference, prediction


def test_the_first_eighteen_keys_are_those_that_other_programs_read(two_cubes):
    row = compare_labels(*two_cubes, NAMES, (1, 1, 1))[2]
    assert tuple(row) == KEYS
    assert KEYS[:18] == (
        *("label", "name", "dsc", "iou", "precision", "recall", "msd_mm", "hd95_mm", "hd_mm"),
        *("assd_pooled_mm", "hd95_pooled_mm", "volume_reference_mm3", "volume_prediction_mm3"),
        *(
            "f1_slice_mean",
            "iou_slice_mean",
            "f1_slice_positive_mean",
            "iou_slice_positive_mean",
            "undefined",
        ),
    )


def test_every_key_has_a_definition():
    assert tuple(DEFINITIONS) == KEYS
    assert all(text.endswith(".") for text in DEFINITIONS.values())


def test_shifted_cubes_have_the_numbers_worked_out_on_paper(two_cubes):
    row = compare_labels(*two_cubes, NAMES, (2.0, 0.5, 0.5), lesions=[2])[2]
    assert (row["label"], row["name"], row["undefined"], row["flags"]) == (2, "Tumors", {}, [])
    assert row["dsc"] == row["f1"] == row["precision"] == row["recall"] == 48 / 64
    assert row["iou"] == 48 / 80
    assert (row["voxels_reference"], row["voxels_prediction"], row["voxels_both"]) == (64, 64, 48)
    assert row["volume_reference_mm3"] == row["volume_prediction_mm3"] == 64 * 0.5
    assert row["volume_difference_mm3"] == row["volume_difference_percent"] == 0
    # 3 slices agree, 2 have one empty mask, 5 have none
    assert row["f1_slice_mean"] == row["iou_slice_mean"] == 8 / 10
    assert row["f1_slice_positive_mean"] == row["iou_slice_positive_mean"] == 3 / 4
    assert row["f1_slice_sd"] == row["iou_slice_sd"] == pytest.approx(0.4)
    assert (row["slices"], row["slices_with_reference"], row["slice_share_without_reference"]) == (10, 4, 0.6)
    # 56 surface voxels each: the 16 of the trailing face are 2 mm off, the 4 within the leading face 0.5 mm
    # from the walls, the 36 others on the other surface
    assert row["msd_mm"] == row["assd_pooled_mm"] == pytest.approx((16 * 2 + 4 * 0.5) / 56)
    assert row["msd_to_prediction_mm"] == row["msd_to_reference_mm"] == row["msd_mm"]
    assert row["hd95_mm"] == row["hd_mm"] == row["hd95_pooled_mm"] == 2
    assert row["nsd_tolerance_mm"] == 2 and row["nsd"] == 1
    assert row["lesions"]["matched"] == 1 and row["lesions"]["reference"][0]["volume_mm3"] == 32
    json.dumps(row, allow_nan=False)


def test_volumes_use_the_voxel_volume_of_an_oblique_grid(two_cubes):
    prediction = two_cubes[1].copy()
    prediction[6, 2, :2] = 2
    row = compare_labels(two_cubes[0], prediction, NAMES, (1, 1, 1), voxel_mm3=0.25, lesions=[2])[2]
    assert row["volume_reference_mm3"] == 16 and row["volume_prediction_mm3"] == 16.5
    assert row["volume_difference_mm3"] == 0.5 and row["volume_difference_percent"] == 100 * 2 / 64
    assert row["lesions"]["reference"][0]["volume_mm3"] == 16


def test_a_tolerance_may_be_chosen(two_cubes):
    row = compare_labels(*two_cubes, NAMES, (2.0, 0.5, 0.5), tolerance_mm=0.5)[2]
    assert row["nsd_tolerance_mm"] == 0.5 and row["nsd"] == 40 / 56


@pytest.mark.parametrize(
    ("reference", "prediction", "dsc", "why", "flag"),
    [
        (False, False, 1, "both masks are empty", "both masks are empty: DSC, IoU and F1 count as 1"),
        (True, False, 0, "the prediction is empty", "the prediction is empty and the other mask is not"),
        (False, True, 0, "the reference is empty", "the reference is empty and the other mask is not"),
    ],
    ids=["both empty", "prediction empty", "reference empty"],
)
def test_of_empty_masks_overlap_is_a_convention_and_distance_undefined(
    two_cubes, reference, prediction, dsc, why, flag
):
    maps = two_cubes[0] * reference, two_cubes[1] * prediction
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = compare_labels(*maps, NAMES, (1, 1, 1), lesions=[1, 2])[2]
    assert row["dsc"] == row["iou"] == row["f1"] == dsc
    assert len(row["flags"]) == 1 and row["flags"][0].startswith(flag)
    for key in (*DISTANCES, "nsd"):
        assert row[key] is None and row["undefined"][key] == why
    assert (row["precision"] is None) == (not prediction)
    assert (row["recall"] is None) == (not reference)
    assert (row["volume_difference_percent"] is None) == (not reference)
    assert (row["f1_slice_positive_mean"] is None) == (not reference)
    assert set(row["undefined"]) == {key for key in KEYS if row[key] is None}
    json.dumps(row, allow_nan=False)


def test_two_empty_masks_may_be_called_undefined(two_cubes):
    row = compare_labels(*two_cubes, NAMES, (1, 1, 1), empty_both="undefined")[1]
    assert row["dsc"] is row["iou"] is row["f1"] is None and row["flags"] == []
    assert row["undefined"]["dsc"] == row["undefined"]["f1"] == "both masks are empty"
    assert row["f1_slice_mean"] == 1
    half = compare_labels(two_cubes[0], 0 * two_cubes[1], NAMES, (1, 1, 1), empty_both="undefined")[2]
    assert half["dsc"] == 0 and len(half["flags"]) == 1


def test_distances_that_were_not_asked_for_say_so(two_cubes):
    row = compare_labels(*two_cubes, NAMES, (1, 1, 1), distances=False)[2]
    assert row["hd95_mm"] is None and row["dsc"] == 0.75
    assert set(row["undefined"].values()) == {"surface distances were not asked for"}
    assert row["lesions"] is None


def test_labels_that_are_not_named_are_background():
    reference = np.zeros((4, 5, 6), np.int32)
    reference[1, 1, 1:4] = 70_000
    prediction = np.zeros((4, 5, 6), np.uint8)
    prediction[1, 1, 1:4] = 9
    found = compare_labels(reference, prediction, {70_000: "Heart"}, (1, 1, 1))
    assert list(found) == [70_000]
    assert found[70_000]["dsc"] == 0 and found[70_000]["undefined"]["msd_mm"] == "the prediction is empty"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_lie_along_the_axis_asked_for(two_cubes, axis):
    turned = [np.moveaxis(each, 0, axis) for each in two_cubes]
    row = compare_labels(*turned, NAMES, (1, 1, 1), slice_axis=axis)[2]
    assert row["f1_slice_mean"] == 8 / 10 and row["slices"] == 10


@given(LABELS, LABELS, st.permutations([0, 1, 2]))
def test_turning_the_array_with_its_spacing_changes_no_number(reference, prediction, order):
    spacing = (0.5, 1.0, 2.5)
    rows = compare_labels(reference, prediction, NAMES, spacing, lesions=[2])
    maps = [np.ascontiguousarray(each.transpose(order)) for each in (reference, prediction)]
    turned = compare_labels(*maps, NAMES, [spacing[n] for n in order], slice_axis=order.index(0), lesions=[2])
    fortran = [np.asfortranarray(each) for each in (reference, prediction)]
    other_memory = compare_labels(*fortran, NAMES, spacing, lesions=[2])
    for found in (turned, other_memory):
        for label, row in rows.items():
            for key in set(KEYS) - {"lesions"}:
                expected = pytest.approx(row[key]) if isinstance(row[key], float) else row[key]
                assert found[label][key] == expected


@given(LABELS, LABELS)
def test_exchanging_the_maps_exchanges_reference_and_prediction(reference, prediction):
    rows = compare_labels(reference, prediction, NAMES, (0.5, 1, 2))
    back = compare_labels(prediction, reference, NAMES, (0.5, 1, 2))
    same = ("dsc", "iou", "f1", "msd_mm", "hd95_mm", "hd_mm", "assd_pooled_mm", "hd95_pooled_mm", "nsd")
    exchanged = [
        ("precision", "recall"),
        ("volume_reference_mm3", "volume_prediction_mm3"),
        ("msd_to_prediction_mm", "msd_to_reference_mm"),
        ("hd95_to_prediction_mm", "hd95_to_reference_mm"),
    ]
    for label, row in rows.items():
        for one, other in [(key, key) for key in same] + exchanged:
            expected = row[one] if row[one] is None else pytest.approx(row[one])
            assert back[label][other] == expected


@given(LABELS, LABELS)
def test_no_row_holds_nan_or_infinity_and_every_gap_has_a_reason(reference, prediction):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = compare_labels(reference, prediction, NAMES, (1, 2, 3), lesions=NAMES)
    json.dumps(rows, allow_nan=False)
    for row in rows.values():
        assert set(row["undefined"]) == {key for key in KEYS if row[key] is None}
        assert all(row["undefined"].values())


def test_what_makes_no_sense_is_refused(two_cubes):
    with pytest.raises(InputError, match="label maps of one shape"):
        compare_labels(two_cubes[0], two_cubes[1][:5], NAMES, (1, 1, 1))
    with pytest.raises(InputError, match="integer label map"):
        compare_labels(two_cubes[0], two_cubes[1] / 2, NAMES, (1, 1, 1))
    with pytest.raises(InputError, match="spacing of three positive"):
        compare_labels(*two_cubes, NAMES, (1, 1, 0))
    for volume in (0, np.nan, np.inf):
        with pytest.raises(InputError, match="voxel_mm3: expected a positive volume"):
            compare_labels(*two_cubes, NAMES, (1, 1, 1), voxel_mm3=volume)
    with pytest.raises(OptionError, match=r"lesions: expected labels among \[1, 2\], got \[5\]"):
        compare_labels(*two_cubes, NAMES, (1, 1, 1), lesions=[5])
    with pytest.raises(OptionError, match="empty_both: expected 'one' or 'undefined'"):
        compare_labels(*two_cubes, NAMES, (1, 1, 1), empty_both="zero")
    with pytest.raises(OptionError, match="slice_axis"):
        compare_labels(*two_cubes, NAMES, (1, 1, 1), slice_axis=-1)
    with pytest.raises(OptionError, match="tolerance_mm"):
        compare_labels(*two_cubes, NAMES, (1, 1, 1), tolerance_mm=-1)
