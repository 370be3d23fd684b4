"""`observers` on masks with known CIgen: who counts, what they agree on, and the masks that come of it."""

from __future__ import annotations

import numpy as np
import pytest

from Testing.agreement.making import (
    SHAPE,
    box,
    points,
    read_csv,
    record_of,
    refused,
    write_map,
    write_segments,
)
from thoraxseg.cli import main
from thoraxseg.io import read_segmentation, read_volume

THREE = [box((2, 5, 4 + shift), (10, 10, 10)) for shift in (0, 2, 4)]
"""Boxes of 1,000 voxels, shifted by 0, 2 and 4."""
EMPTY = np.zeros(SHAPE, np.uint8)


@pytest.fixture
def observed(tmp_path, capsys):
    """Run `observers` on label maps, named anna, ben, chris and dora, and return the record."""

    def run(maps, *words):
        names = ("anna", "ben", "chris", "dora")
        paths = [write_map(tmp_path / f"{name}.nrrd", one) for name, one in zip(names, maps, strict=False)]
        return record_of(capsys, "observers", *paths, *words)

    return run


def test_the_record_has_the_names_that_other_programs_read(observed):
    (row,) = observed(THREE)["structures"]
    assert {"name", "label", "observers", "cigen", "pairs", "consensus_voxels"} <= set(row)
    assert set(row["consensus_voxels"]) == {"majority", "all"}
    for pair in row["pairs"]:
        assert {"a", "b", "dsc", "iou", "msd_mm", "hd95_mm", "undefined"} <= set(pair)


def test_three_boxes_shifted_by_0_2_and_4_have_a_cigen_of_11_19ths(observed):
    record = observed(THREE)
    (row,) = record["structures"]
    assert row["cigen"] == 11 / 19
    assert row["consensus_voxels"] == {"majority": 1000, "all": 600}
    assert row["consensus_mm3"] == {"majority": 1000, "all": 600}
    assert row["volumes_mm3"] == [1000] * 3
    assert record["observer_names"] == row["observer_names"] == ["anna", "ben", "chris"]
    pairs = {(one["a"], one["b"]): one["dsc"] for one in row["pairs"]}
    assert pairs == {("anna", "ben"): 0.8, ("anna", "chris"): 0.6, ("ben", "chris"): 0.8}


def test_nested_masks_of_400_800_and_1600_voxels_have_a_cigen_of_four_tenths(observed):
    sizes = ((4, 10, 10), (8, 10, 10), (8, 10, 20))
    (row,) = observed([box((2, 5, 0), size) for size in sizes])["structures"]
    assert row["cigen"] == 0.4
    assert row["consensus_voxels"]["majority"] == 800


def test_two_observers_have_their_jaccard_and_both_must_agree(observed):
    (row,) = observed(THREE[:2])["structures"]
    assert row["cigen"] == 2 / 3 == row["pairs"][0]["iou"]
    assert row["consensus_voxels"] == {"majority": 800, "all": 800}


def test_each_observer_is_held_against_the_others(observed):
    (row,) = observed(THREE)["structures"]
    alone = {one["observer"]: one for one in row["leave_one_out"]}
    # The others' majority of two is their intersection: 800 voxels, 600 and 800.
    assert [alone[name]["voxels_others_consensus"] for name in ("anna", "ben", "chris")] == [800, 600, 800]
    assert alone["ben"]["dsc"] == 2 * 600 / 1600
    assert alone["ben"]["cigen_without"] == 600 / 1400


def test_volume_b_is_that_of_the_second(observed):
    (pair,) = observed([box((2, 5, 0), (4, 10, 10)), box((2, 5, 0), (8, 10, 10))])["structures"][0]["pairs"]
    assert (pair["volume_a_mm3"], pair["volume_b_mm3"], pair["volume_difference_mm3"]) == (400, 800, 400)


# Who counts


def test_an_observer_whose_file_is_empty_counts(observed):
    record = observed([*THREE[:2], EMPTY])
    (row,) = record["structures"]
    assert row["observers"] == 3
    assert row["cigen"] == 800 / (1200 + 1000 + 1000)
    assert record["warnings"] == ["label 1: chris drew nothing; it counts as an empty mask."]


def test_an_observer_who_drew_only_what_is_not_asked_for_drew_nothing(observed):
    record = observed([*THREE[:2], box((2, 5, 4), (10, 10, 10), 2)], "--labels", "1=lungs")
    (row,) = record["structures"]
    assert (row["observers"], row["cigen"]) == (3, 800 / 3200)
    assert "1,000 voxels were left out" in record["notes"][0]


def test_an_observer_whose_segment_is_empty_counts(tmp_path, capsys):
    paths = [
        write_segments(tmp_path / f"{n}.seg.nrrd", labels, {1: "Heart", 2: "Liver"})
        for n, labels in enumerate((THREE[0], THREE[1], points((0, 0, 0), label=2)))
    ]
    heart, _ = record_of(capsys, "observers", *paths)["structures"]
    assert heart["observers"] == 3


def test_an_observer_without_an_organ_is_left_out_of_it(observed):
    cord = points((1, 1, 1), (1, 1, 2), label=2)
    record = observed([one + cord for one in THREE[:2]] + [THREE[2]])
    lungs, cord = record["structures"]
    assert (lungs["observers"], cord["observers"]) == (3, 2)
    assert cord["cigen"] == 1
    assert cord["observer_names"] == ["anna", "ben"]
    assert "label 2: chris has none; taken as not contoured" in record["warnings"][0]


def test_tumors_that_a_label_map_has_not_were_not_found(observed):
    tumor = points((1, 1, 1), (1, 1, 2), label=2)
    maps = [one + tumor for one in THREE[:2]] + [THREE[2]]
    _, tumors = observed(maps, "--labels", "1=lungs,2=tumors")["structures"]
    assert (tumors["observers"], tumors["cigen"]) == (3, 2 / (2 + 2 + 2))


@pytest.mark.parametrize(("absent", "observers"), [("auto", 2), ("empty", 3), ("left-out", 2)])
def test_what_an_absent_structure_means_can_be_said(absent, observers, observed):
    cord = points((1, 1, 1), label=2)
    maps = [one + cord for one in THREE[:2]] + [THREE[2]]
    assert observed(maps, "--absent", absent)["structures"][1]["observers"] == observers


def test_even_an_empty_file_can_be_left_out(observed):
    (row,) = observed([*THREE[:2], EMPTY], "--absent", "left-out")["structures"]
    assert (row["observers"], row["cigen"]) == (2, 2 / 3)


def test_a_structure_of_one_observer_has_no_cigen_and_says_why(observed):
    record = observed([THREE[0] + points((1, 1, 1), label=2), THREE[1]])
    row = record["structures"][1]
    assert (row["cigen"], row["pairs"]) == (None, [])
    assert row["consensus_voxels"] == {"majority": None, "all": None}
    assert row["undefined"] == {
        "cigen": "1 observer(s) contoured it: two are needed",
        "consensus": "1 observer(s) contoured it: there is nothing to agree on",
    }


def test_nobody_drew_anything(observed):
    (row,) = observed([EMPTY, EMPTY, EMPTY])["structures"]
    assert (row["observers"], row["cigen"]) == (3, None)
    assert row["undefined"]["cigen"] == "no observer drew it"
    assert row["pairs"][0]["dsc"] == 1


def test_one_observer_only_is_refused(tmp_path, capsys):
    path = write_map(tmp_path / "anna.nrrd", THREE[0])
    assert "two observers or more, got one" in refused(capsys, "observers", path)


def test_observers_whose_files_have_one_name_are_told_apart_by_their_folders(tmp_path, capsys):
    paths = []
    for name, labels in zip(("anna", "ben"), THREE, strict=False):
        (tmp_path / name).mkdir()
        paths.append(write_map(tmp_path / name / "mask.nrrd", labels))
    assert record_of(capsys, "observers", *paths)["observer_names"] == ["anna/mask", "ben/mask"]
    record = record_of(capsys, "observers", paths[0], paths[0])
    assert record["observer_names"] == ["anna/mask (1)", "anna/mask (2)"]
    assert "have the same content" in record["warnings"][0]


def test_labels_are_named_for_one_observer_by_name(tmp_path, capsys):
    anna = write_map(tmp_path / "anna.nii.nrrd", THREE[0])
    ben = write_map(tmp_path / "ben.nrrd", THREE[1] * np.uint8(5))
    words = ("--labels", "1=heart", "--labels", "ben:5=Heart")
    (row,) = record_of(capsys, "observers", anna, ben, *words)["structures"]
    assert (row["name"], row["observers"]) == ("Heart", 2)
    assert "no benn here" in refused(capsys, "observers", anna, ben, "--labels", "benn:5=a", status=2)


# What is written


def test_consensus_and_disagreement_are_what_the_masks_say(tmp_path, capsys):
    cord = points((1, 1, 1), label=2)
    maps = [THREE[0] + cord, THREE[1] + cord, THREE[2]]
    paths = [
        write_segments(tmp_path / f"{n}.seg.nrrd", one, {1: "Lungs", 2: "Spinal cord"})
        for n, one in enumerate(maps)
    ]
    out = tmp_path / "out"
    assert main(["observers", *map(str, paths), "--staple", "-o", str(out)]) == 0
    count = sum(one == 1 for one in maps)
    cords = sum(one == 2 for one in maps)
    majority = read_segmentation(out / "consensus_majority.seg.nrrd")
    assert np.array_equal(majority.labels, np.where(count >= 2, 1, np.where(cords >= 2, 2, 0)))
    assert {value: one.name for value, one in majority.structures.items()} == {1: "Lungs", 2: "Spinal cord"}
    everyone = read_segmentation(out / "consensus_all.seg.nrrd")
    assert np.array_equal(everyone.labels == 1, count == 3)
    assert np.count_nonzero(read_segmentation(out / "consensus_staple.seg.nrrd").labels == 1) >= 600
    share = read_volume(out / "disagreement.nrrd").array
    want = np.where((count == 0) | (count == 3), 0, np.float32(2 / 3)) + (cords == 2) * np.float32(2 / 3)
    np.testing.assert_allclose(share, want, atol=1e-6)
    assert [row["cigen"] for row in read_csv(out / "observers.csv")] == [str(11 / 19), str(1 / 3)]
    assert len(read_csv(out / "observers_pairs.csv")) == 6


def test_a_voxel_that_two_structures_claim_is_counted(tmp_path, capsys):
    one = box((2, 2, 2), (2, 2, 2), 1)
    other = box((2, 2, 2), (2, 2, 2), 2)
    plain = {1: "Heart"}, {1: "Heart"}, {2: "Liver"}, {2: "Liver"}
    far = points((9, 9, 9), label=3)
    maps = [labels + far for labels in (one, one, other, other)]
    paths = [
        write_segments(tmp_path / f"{n}.seg.nrrd", labels, {**names, 3: "Cord"})
        for n, (labels, names) in enumerate(zip(maps, plain, strict=True))
    ]
    notes = record_of(capsys, "observers", *paths)["notes"]
    assert any(note.startswith("Consensus (majority): 8 voxels were claimed") for note in notes)
