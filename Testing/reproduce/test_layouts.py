"""Readers of the published layouts: what is whole is found, what is not is refused or named, never guessed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
import tifffile

from thoraxseg.errors import InputError, OptionError
from thoraxseg.io import write_segmentation
from thoraxseg.reproduce.cohort import Cohort, Reference, choose, read_labels, read_scan
from thoraxseg.reproduce.decathlon_layout import read_decathlon
from thoraxseg.reproduce.deepmeta_layout import GEOMETRY, LABELS, TEST_MICE, is_dark, read_deepmeta
from thoraxseg.reproduce.harness import PROTOCOLS
from thoraxseg.reproduce.manifest import read_manifest
from thoraxseg.reproduce.micro_ct_layout import SETS, read_micro_ct
from thoraxseg.segmentation import STRUCTURES, Segmentation
from thoraxseg.volume import Volume, geometry_from_spacing

SHAPE = (6, 8, 10)
ORGANS = {"heart": 1, "spinal cord": 2, "right lung": 3, "left lung": 4}
WANTED = {1: "heart", 2: "spinal_cord", 3: "right_lung", 4: "left_lung", 5: "lungs"}


def nifti(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((0.14, 0.14, 0.14))
    SimpleITK.WriteImage(image, str(path))


def an_image(seed=0):
    return np.random.default_rng(seed).integers(0, 200, SHAPE).astype(np.int16)


def a_label_map(*values):
    labels = np.zeros(SHAPE, np.uint8)
    for n, value in enumerate(values):
        labels[1 + n, 2:5, 2:5] = value
    return labels


# --- mouse MRI


@pytest.fixture
def mice(tmp_path):
    root = tmp_path / "deepmeta_dataset"
    for name in TEST_MICE:
        folder = root / "Test" / name / "3classes"
        folder.mkdir(parents=True)
        tifffile.imwrite(root / "Test" / f"{name}.tif", an_image().astype(np.uint8), photometric="minisblack")
        for k, plane in enumerate(a_label_map(1, 2)):
            tifffile.imwrite(folder / f"{k}.tif", plane)
    return root


def test_the_four_test_mice_are_found_and_the_dark_batch_is_known_by_id(mice):
    cohort = read_deepmeta(mice)
    assert {scan.case: scan.dark for scan in cohort.scans} == dict(
        zip(TEST_MICE, (True, True, True, False), strict=True)
    )
    assert not any(scan.broken for scan in cohort.scans)
    assert cohort.incomparable == ()
    scan = cohort.scans[0]
    labels, contoured = read_labels(scan.references["1"], read_scan(scan, cohort), LABELS, cohort)
    assert np.array_equal(labels, a_label_map(1, 2))
    assert contoured == {1, 2}


def test_the_dark_batch_ends_before_id_87():
    assert [is_dark(name) for name in ("86_a", "87_a", "m2Pc_c1_10Corr_1", "9")] == [
        True,
        False,
        False,
        False,
    ]


def test_a_folder_around_the_archive_does_not_matter(mice):
    assert len(read_deepmeta(mice.parent).scans) == 4


def test_slices_are_ordered_by_number_and_may_start_at_one(mice):
    folder = mice / "Test" / TEST_MICE[0] / "3classes"
    for k in reversed(range(6)):
        (folder / f"{k}.tif").rename(folder / f"{k + 5}.tif")
    cohort = read_deepmeta(mice)
    scan = next(scan for scan in cohort.scans if scan.case == TEST_MICE[0])
    labels, _ = read_labels(scan.references["1"], read_scan(scan, cohort), LABELS, cohort)
    assert np.array_equal(labels, a_label_map(1, 2))


def test_a_missing_label_slice_breaks_that_mouse_and_no_other(mice):
    (mice / "Test" / TEST_MICE[1] / "3classes" / "3.tif").unlink()
    broken = {scan.case: scan.broken for scan in read_deepmeta(mice).scans if scan.broken}
    assert list(broken) == [TEST_MICE[1]]
    assert "missing or double are 3" in broken[TEST_MICE[1]]


def test_a_missing_last_slice_is_found_when_the_mouse_is_read(mice):
    (mice / "Test" / TEST_MICE[1] / "3classes" / "5.tif").unlink()
    cohort = read_deepmeta(mice)
    scan = next(scan for scan in cohort.scans if scan.case == TEST_MICE[1])
    with pytest.raises(InputError, match=r"\(6, 8, 10\)"):
        read_labels(scan.references["1"], read_scan(scan, cohort), LABELS, cohort)


def test_label_values_that_mean_nothing_are_refused(mice):
    path = mice / "Test" / TEST_MICE[0] / "3classes" / "2.tif"
    tifffile.imwrite(path, np.full(SHAPE[1:], 255, np.uint8))
    cohort = read_deepmeta(mice)
    scan = next(scan for scan in cohort.scans if scan.case == TEST_MICE[0])
    with pytest.raises(InputError, match="255"):
        read_labels(scan.references["1"], read_scan(scan, cohort), LABELS, cohort)


def test_a_stack_without_labels_and_labels_without_a_stack_are_broken(mice):
    shutil.rmtree(mice / "Test" / TEST_MICE[0])
    (mice / "Test" / f"{TEST_MICE[1]}.tif").unlink()
    broken = {scan.case for scan in read_deepmeta(mice).scans if scan.broken}
    assert broken == {TEST_MICE[0], TEST_MICE[1]}


def test_a_mouse_that_is_trained_on_is_refused(mice):
    folder = mice / "3classes" / "Labels"
    folder.mkdir(parents=True)
    (folder / f"{9 * 128 + 3}.tif").touch()
    read_deepmeta(mice)
    (folder / f"{8 * 128 + 3}.tif").touch()
    with pytest.raises(InputError, match=r"mouse 8 .*training and in the test"):
        read_deepmeta(mice)


def test_other_mice_are_taken_but_not_compared(mice):
    (mice / "Test" / f"{TEST_MICE[3]}.tif").unlink()
    shutil.rmtree(mice / "Test" / TEST_MICE[3])
    cohort = read_deepmeta(mice)
    assert len(cohort.scans) == 3
    assert "not the four of the paper" in cohort.incomparable[0]


def test_a_folder_without_the_layout_is_told_what_was_looked_for_and_how_to_get_it(tmp_path):
    (tmp_path / "stack.tif").touch()
    with pytest.raises(InputError, match=r"one folder Test .* stack\.tif.*zenodo\.7014776"):
        read_deepmeta(tmp_path)
    with pytest.raises(InputError, match="none of this name"):
        read_deepmeta(tmp_path / "nowhere")
    with pytest.raises(InputError, match="Unpack"):
        read_deepmeta(tmp_path / "stack.tif")


# --- micro-CT


@pytest.fixture
def scans(tmp_path):
    """Two native scans of one animal and one with contrast agent, three observers each, in a tree of observers."""
    root = tmp_path / "mice"
    for group, name in (("native", "M01_000h"), ("native", "M01_024h"), ("contrast", "M07_000h")):
        nifti(root / "scans" / "test" / group / f"{name}.nii.gz", an_image())
        for observer in (1, 2, 3):
            values = (1, 2, 3, 4) if observer < 3 else (1, 4)
            folder = root / f"Observer{observer}"
            nifti(folder / group / f"{name}.nii.gz", a_label_map(*values))
            names = ORGANS if observer < 3 else {"heart": 1, "bone": 3, "lung": 4}
            (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, **names}}), "utf-8")
    return root


def test_scans_pair_with_the_contours_of_each_observer_by_their_words(scans):
    cohort = read_micro_ct(scans)
    found = {scan.case: (scan.group, scan.animal, sorted(scan.references)) for scan in cohort.scans}
    assert found == {
        "contrast m07_000h": (SETS[1], "contrast 7", ["1", "2", "3"]),
        "native m01_000h": (SETS[0], "native 1", ["1", "2", "3"]),
        "native m01_024h": (SETS[0], "native 1", ["1", "2", "3"]),
    }
    scan = cohort.scans[-1]
    labels, contoured = read_labels(scan.references["3"], read_scan(scan, cohort), WANTED, cohort)
    assert contoured == {1, 5}
    assert sorted(np.unique(labels)) == [0, 1, 5]


def test_the_same_scans_in_folders_of_their_own_are_found_too(scans, tmp_path):
    other = tmp_path / "other"
    for scan in read_micro_ct(scans).scans:
        home = other / "test" / scan.case.replace(" ", "/")
        nifti(home / "ct.nii.gz", an_image())
        masks = {"heart": 1, "spinal_cord": 2, "lung_right": 3, "lung_left": 4}
        for word, value in masks.items():
            nifti(home / f"observer_1_{word}.nii.gz", (a_label_map(1, 2, 3, 4) == value).astype(np.uint8))
    cohort = read_micro_ct(other)
    assert {scan.case for scan in cohort.scans} == {scan.case for scan in read_micro_ct(scans).scans}
    scan = cohort.scans[0]
    labels, contoured = read_labels(scan.references["1"], read_scan(scan, cohort), WANTED, cohort)
    assert np.array_equal(labels, a_label_map(1, 2, 3, 4))
    assert contoured == {1, 2, 3, 4}


def test_masks_that_overlap_are_refused(tmp_path):
    home = tmp_path / "test/native/M1"
    nifti(home / "ct.nii.gz", an_image())
    for word in ("heart", "cord"):
        nifti(home / f"observer1_{word}.nii.gz", a_label_map(1))
    cohort = read_micro_ct(tmp_path)
    scan = cohort.scans[0]
    with pytest.raises(InputError, match="belong to another structure"):
        read_labels(scan.references["1"], read_scan(scan, cohort), WANTED, cohort)


def test_a_scan_without_observer_1_is_broken(scans):
    (scans / "Observer1/native/M01_024h.nii.gz").unlink()
    broken = {scan.case: scan.broken for scan in read_micro_ct(scans).scans if scan.broken}
    assert list(broken) == ["native m01_024h"]
    assert "observer 1" in broken["native m01_024h"]


def test_training_scans_are_left_out_and_an_animal_on_both_sides_is_refused(scans):
    nifti(scans / "train/native/M09_000h.nii.gz", an_image())
    nifti(scans / "Observer1/native/M09_000h.nii.gz", a_label_map(1))
    assert len(read_micro_ct(scans).scans) == 3
    nifti(scans / "train/native/M01_048h.nii.gz", an_image())
    with pytest.raises(InputError, match="native 1 is both in the training and in the test"):
        read_micro_ct(scans)


def test_two_files_for_one_scan_are_refused(scans):
    nifti(scans / "test/native/M1_000h.nrrd", an_image())
    with pytest.raises(InputError, match="not clear which one counts"):
        read_micro_ct(scans)


def test_labels_without_names_are_refused_with_the_way_out(scans):
    (scans / "Observer2" / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"labels\.json"):
        read_micro_ct(scans)


def test_a_folder_whose_words_do_not_tell_is_refused_with_what_was_looked_for(tmp_path):
    nifti(tmp_path / "M1" / "ct.nii.gz", an_image())
    with pytest.raises(InputError, match=r"0 contour file.*zenodo\.5121272"):
        read_micro_ct(tmp_path)
    nifti(tmp_path / "M1" / "observer1.nii.gz", a_label_map(1))
    with pytest.raises(InputError, match="neither native nor contrast"):
        read_micro_ct(tmp_path)


def test_a_test_set_of_another_size_is_not_compared(scans):
    (reason,) = [one for one in read_micro_ct(scans).incomparable if "test set 1" in one]
    assert reason == "test set 1 has 2 scans of 1 animals, the paper's 35 of 5"


# --- human CT


@pytest.fixture
def task06(tmp_path):
    root = tmp_path / "Task06_Lung"
    pairs = []
    for n in (1, 2):
        name = f"lung_{n:03d}.nii.gz"
        nifti(root / "imagesTr" / name, an_image())
        nifti(root / "labelsTr" / name, a_label_map(1))
        pairs.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    write_list(root, pairs)
    return root


def write_list(root, pairs, **more):
    data = {"labels": {"0": "background", "1": "cancer"}, "training": pairs, "test": [], **more}
    (root / "dataset.json").write_text(json.dumps(data), "utf-8")


def pairs_of(root):
    return json.loads((root / "dataset.json").read_text("utf-8"))["training"]


def test_the_listed_cases_of_the_decathlon_are_found(task06):
    (task06 / "labelsTr" / "._lung_001.nii.gz").touch()  # as macOS puts it into archives
    cohort = read_decathlon(task06.parent)
    assert [scan.case for scan in cohort.scans] == ["lung_001", "lung_002"]
    assert cohort.scans[0].references["1"].labels == {1: "cancer"}
    labels, contoured = read_labels(
        cohort.scans[0].references["1"], read_scan(cohort.scans[0], cohort), {2: "tumors"}, cohort
    )
    assert np.array_equal(labels, a_label_map(2))
    assert contoured == {2}
    assert not [note for note in cohort.notes if "left out" in note]


def test_a_listed_case_without_files_is_broken(task06):
    (task06 / "labelsTr" / "lung_002.nii.gz").unlink()
    assert [bool(scan.broken) for scan in read_decathlon(task06).scans] == [False, True]


def test_a_case_listed_twice_or_for_training_and_test_is_refused(task06):
    pairs = pairs_of(task06)
    write_list(task06, [*pairs, pairs[0]])
    with pytest.raises(InputError, match="'lung_001' is there twice"):
        read_decathlon(task06)
    write_list(task06, pairs, test=["./imagesTs/lung_002.nii.gz"])
    with pytest.raises(InputError, match="lung_002 is both in the training and in the test"):
        read_decathlon(task06)


def test_a_list_that_leaves_its_folder_breaks_the_case(task06):
    write_list(task06, [{"image": "../secret.nii.gz", "label": "./labelsTr/lung_001.nii.gz"}])
    assert read_decathlon(task06).scans[0].broken


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"labels": {}}', '{"labels": {"1": "liver"}, "training": []}', '{"labels": {"1": "cancer"}}'],
)
def test_a_list_that_is_none_is_refused(task06, text):
    (task06 / "dataset.json").write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"dataset\.json"):
        read_decathlon(task06)


def test_another_folder_is_told_what_was_looked_for(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(InputError, match=r"labelsTr and the file dataset\.json.*imagesTr.*medicaldecathlon"):
        read_decathlon(tmp_path)


def test_a_reference_of_another_shape_is_refused(task06):
    nifti(task06 / "labelsTr" / "lung_001.nii.gz", a_label_map(1)[:-1])
    cohort = read_decathlon(task06)
    with pytest.raises(InputError, match=r"\(6, 8, 10\)"):
        read_labels(
            cohort.scans[0].references["1"], read_scan(cohort.scans[0], cohort), {1: "tumors"}, cohort
        )


# --- a table instead


def table(folder, text):
    path = folder / "layout.csv"
    path.write_text(text, "utf-8")
    return path


def test_a_table_names_scans_observers_sets_and_labels(scans):
    path = table(
        scans,
        "case,animal,set,split,image,observer1,observer3,labels,labels3\n"
        "a,M1,Test set 1,test,scans/test/native/M01_000h.nii.gz,Observer1/native/M01_000h.nii.gz,"
        "Observer3/native/M01_000h.nii.gz,1=heart;2=spinal cord;3=right lung;4=left lung,1=heart;4=lungs\n"
        "b,M9,test set 1,train,scans/test/native/M01_024h.nii.gz,x,,1=heart,\n",
    )
    cohort = PROTOCOLS["malimban"].layout(path)
    (scan,) = cohort.scans
    assert (scan.case, scan.animal, scan.group) == ("a", "M1", SETS[0])
    _, contoured = read_labels(scan.references["3"], read_scan(scan, cohort), WANTED, cohort)
    assert contoured == {1, 5}
    assert cohort.incomparable


def test_a_table_for_mouse_mri_needs_no_more_than_three_columns(mice):
    path = table(mice, f"case,image,reference\na,Test/{TEST_MICE[0]}.tif,Test/{TEST_MICE[0]}/3classes\n")
    cohort = PROTOCOLS["kaniewski"].layout(path)
    (scan,) = cohort.scans
    assert scan.dark is None
    assert cohort.stack_geometry == GEOMETRY
    labels, _ = read_labels(scan.references["1"], read_scan(scan, cohort), LABELS, cohort)
    assert np.array_equal(labels, a_label_map(1, 2))


def test_a_row_without_its_files_breaks_that_row(task06):
    path = table(
        task06,
        "case,image,reference\na,imagesTr/lung_001.nii.gz,labelsTr/lung_001.nii.gz\nb,nowhere.nii.gz,labelsTr/x.nii.gz\n",
    )
    assert [bool(scan.broken) for scan in PROTOCOLS["ensemble"].layout(path).scans] == [False, True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case,image\na,b\n", "columns case, image and reference"),
        ("case,image,reference,colour\na,b,c,d\n", "colour"),
        ("case,image,reference,split\na,b,c,dev\n", "line 2: expected split"),
        ("case,image,reference\na,b,c\nA,b,c\n", "'A' is there twice"),
        ("case,animal,split,image,reference\na,M1,,b,c\nx,M1,train,b,c\n", "M1 is both"),
        ("case,image,reference\na,http://x/b,c\n", "an address"),
        ("case,split,image,reference\na,train,b,c\n", "not for training"),
        ("case,image,reference,labels\na,b,c,tumor\n", "expected labels such as"),
    ],
)
def test_a_table_that_does_not_say_what_it_should_is_refused(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        read_manifest(table(tmp_path, text), ("labeled",), {1: "tumors"})


def test_cases_are_chosen_by_name(task06):
    cohort = read_decathlon(task06)
    assert [scan.case for scan in choose(cohort, ["lung_002"]).scans] == ["lung_002"]
    assert choose(cohort, None) is cohort
    with pytest.raises(OptionError, match="lung_003"):
        choose(cohort, ["lung_003"])


def test_contours_drawn_in_slicer_are_known_by_their_names_and_not_by_its_ids(tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 2:4, 2:5], labels[4, 5, 6] = 1, 2
    grid = geometry_from_spacing((0.14, 0.14, 0.14), "LPS")
    names = {
        1: replace(STRUCTURES["heart"], key="Segment_2"),
        2: replace(STRUCTURES["left_lung"], key="Segment_1"),
    }
    write_segmentation(tmp_path / "c.seg.nrrd", Segmentation(labels, grid, names, "c"))
    reference, volume = Reference(tmp_path / "c.seg.nrrd"), Volume(labels, grid)
    found, contoured = read_labels(reference, volume, WANTED, Cohort(()))
    assert np.array_equal(found, np.array([0, 1, 4], np.uint8)[labels])
    assert contoured == {1, 4}
