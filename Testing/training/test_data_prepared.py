"""A prepared case is what inference will see, with its labels on the same voxels, kept whole on the disk."""

import errno
import shutil
from dataclasses import replace

import numpy as np
import pytest

from Testing.training import tiny_data as tiny
from thoraxseg.errors import CheckpointError, InputError, OutputError
from thoraxseg.io import read_volume
from thoraxseg.options import Contrast
from thoraxseg.preprocess import prepare
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.data import prepare_case, prepare_cases, prepared, read_data_set
from thoraxseg.volume import to_ras

MAP = {"name": "lungs", "source": "lungs"}
IMAGE = {"name": "CT", "source": "image"}


@pytest.fixture
def a_heart_card(a_card):
    """Make a card for heart 1 and spinal cord 2, with these steps and changes."""

    def make(*steps, **changes):
        given = {key.replace("__", "."): value for key, value in changes.items()}
        bare = {"tumors": None, "postprocess": {"regions": [], "rules": []}, "channels": [IMAGE]}
        labels = {"labels": {"1": "heart", "2": "spinal_cord"}}
        return a_card({**labels, **bare, "preprocess": list(steps), **given})

    return make


@pytest.fixture
def a_set(tmp_path):
    """Make a data set with heart 1 and spinal cord 2."""
    return lambda **changes: read_data_set(tiny.nnunet(tmp_path / "set", **changes), animals="case")


def test_the_network_is_trained_on_just_what_it_will_be_shown(a_set, a_heart_card, tmp_path):
    data = a_set()
    steps = ({"name": "resample", "spacing_mm": [0.3, 0.2, 0.25]}, {"name": "z_score"})
    card = a_heart_card(*steps)
    found = prepare_case(data.cases[0], data, card, tmp_path / "kept")
    seen = prepare([read_volume(data.cases[0].images[0])], card, Contrast.AUTO)
    assert np.array_equal(found.channels, seen.channels) and found.channels.dtype == np.float32
    assert found.labels.shape == seen.image.shape and found.labels.dtype == np.uint8
    assert found.spacing_mm == seen.spacing_mm and (found.id, found.animal) == ("a", "a")


@pytest.mark.parametrize("codes", ["LPS", "RIA", "ASL", "SRP", "jik"])
def test_labels_stay_on_their_voxels_whichever_way_the_card_turns_them(a_set, a_heart_card, tmp_path, codes):
    data = a_set()
    card = a_heart_card(input__orientation=codes)
    # As labels, so that image and labels must be turned alike.
    mask = np.random.default_rng(3).integers(0, 3, tiny.SHAPE).astype(np.uint8)
    tiny.write(data.cases[0].label, mask)
    tiny.write(data.cases[0].images[0], mask.astype(np.int16))
    found = prepare_case(data.cases[0], data, card, tmp_path / "kept")
    assert np.array_equal(found.channels[0], found.labels)
    seen = prepare([read_volume(data.cases[0].images[0])], card, Contrast.AUTO)
    assert np.array_equal(seen.labels_on_source(found.labels), mask)


@pytest.mark.parametrize("factor", [2, 3, 0.5])
def test_labels_stay_at_their_place_when_the_image_is_resized(a_set, a_heart_card, tmp_path, factor):
    data = a_set()
    mask = np.zeros((12, 10, 8), dtype=np.uint8)
    mask[2:6, 4:8, 2:6], mask[8:, :2, :2] = 1, 2
    tiny.write(data.cases[0].label, mask)
    tiny.write(data.cases[0].images[0], tiny.image(0, mask.shape))
    shape = [int(n * factor) for n in mask.shape]
    card = a_heart_card({"name": "resize", "shape": shape}, input__orientation="LPS")
    found = prepare_case(data.cases[0], data, card, tmp_path / "kept")
    seen = prepare([read_volume(data.cases[0].images[0])], card, Contrast.AUTO)
    for label in (1, 2):
        there = to_ras(seen.ijk_to_ras, np.argwhere(found.labels == label)).mean(axis=0)
        before = to_ras(tiny.GRID, np.argwhere(mask == label)).mean(axis=0)
        assert np.allclose(there, before)
        assert (found.labels == label).sum() == round((mask == label).sum() * factor**3)
    if factor > 1:
        assert np.array_equal(seen.labels_on_source(found.labels), mask)


def test_the_lung_map_comes_from_the_labels_also_where_lungs_are_not_learned(a_card, tmp_path):
    names = {"right lung": 1, "left lung": 2, "tumor": 3, "heart": 4}
    root = tiny.nnunet(tmp_path / "set", ("a",), names=names, values=(4, 1, 2, 3))
    dropped = {"background": ["right lung", "left lung", "heart"]}
    data = read_data_set(root, animals="case", label_map=dropped)
    steps = [{"name": "crop_to_lungs", "margin_voxels": 1}]
    card = a_card(
        {
            "labels": {"1": "tumors"},
            "tumors": None,
            "postprocess": {"regions": [], "rules": []},
            "channels": [IMAGE, MAP],
            "preprocess": steps,
            "input.orientation": "LPS",
        }
    )
    found = prepare_case(data.cases[0], data, card, tmp_path / "kept")
    # Rows 1 to 3 of slice 1 are lungs with the tumor, and a margin of 1 around them.
    assert found.labels.shape == (3, 5, 7)
    assert found.channels[1, 1].any(axis=1).tolist() == [False, True, True, True, False]
    assert np.argwhere(found.labels)[:, :2].tolist() == [[1, 3]] * 7
    assert np.array_equal(found.channels[0], tiny.image(0)[0:3, 0:5])


def test_the_lung_map_may_be_a_channel_of_the_data_set(a_set, a_heart_card, tmp_path):
    data = a_set(channels=2)
    tiny.write(data.cases[0].images[1], tiny.labels(5))
    card = a_heart_card(channels=[IMAGE, MAP], input__orientation="LPS")
    found = prepare_case(data.cases[0], data, card, tmp_path / "kept")
    assert np.array_equal(found.channels[1], tiny.labels(1))
    with pytest.raises(InputError, match="expected a lung map"):
        prepare_case(data.cases[1], data, card, tmp_path / "kept")


def test_a_card_that_needs_lungs_where_there_are_none_says_so(a_set, a_heart_card, tmp_path):
    data = a_set()
    with pytest.raises(InputError, match="neither a channel nor a label for the lungs"):
        prepare_case(data.cases[0], data, a_heart_card(channels=[IMAGE, MAP]), tmp_path / "kept")
    with pytest.raises(InputError, match=r"takes 2 channel\(s\)"):
        prepare_case(data.cases[0], data, a_heart_card(channels=[IMAGE, IMAGE]), tmp_path / "kept")


def test_labels_are_numbered_as_the_card_does_and_ignored_voxels_stay_so(tmp_path, a_heart_card):
    names = {"cord": 1, "heart": 2, "ignore": 3}
    root = tiny.nnunet(tmp_path / "set", ("a",), names=names, values=(1, 2, 3))
    data = read_data_set(root, animals="case")
    found = prepare_case(data.cases[0], data, a_heart_card(input__orientation="LPS"), tmp_path / "kept")
    assert found.labels[1, :4, 0].tolist() == [2, 1, IGNORE, 0]


def test_a_card_of_other_structures_is_refused(a_set, a_card, a_plan, a_plans_card, tmp_path):
    data = a_set()
    with pytest.raises(CheckpointError, match="finds lungs, tumors; the data set set has heart, spinal_cord"):
        prepare_case(data.cases[0], data, a_card(), tmp_path / "kept")
    with pytest.raises(CheckpointError, match="one of nnU-Net"):
        prepare_case(data.cases[0], data, a_plans_card(a_plan()), tmp_path / "kept")


def test_a_structure_that_is_lost_on_the_way_is_told(a_set, a_heart_card, tmp_path):
    data = a_set()
    mask = np.zeros(tiny.SHAPE, dtype=np.uint8)
    mask[0, 0, 0], mask[1:] = 2, 1
    tiny.write(data.cases[0].label, mask)
    card = a_heart_card({"name": "resize", "shape": [2, 2, 2]}, input__orientation="LPS")
    found = prepare_case(data.cases[0], data, card, tmp_path / "kept")
    assert any("Spinal cord (1 voxels)" in note for note in found.notes)


def test_what_was_prepared_is_found_again_and_not_made_anew(a_set, a_heart_card, tmp_path, monkeypatch):
    data, card, folder = a_set(), a_heart_card(), tmp_path / "kept"
    first = prepare_cases(data, card, folder)
    assert len(first) == 2 and all(isinstance(one.channels, np.memmap) for one in first)
    monkeypatch.setattr(prepared, "read_case", None)
    again = prepare_cases(data, card, folder)
    assert [np.array_equal(a.labels, b.labels) for a, b in zip(first, again, strict=True)] == [True, True]
    assert [one.notes for one in first] == [one.notes for one in again]


def test_nothing_old_is_used_when_anything_has_changed(a_set, a_heart_card, tmp_path):
    data, card, folder = a_set(), a_heart_card(), tmp_path / "kept"
    case = data.cases[0]

    def count(changed_data=data, changed_card=card, contrast=Contrast.AUTO):
        prepare_case(changed_data.cases[0], changed_data, changed_card, folder, contrast)
        return len([*folder.glob("*.json")])

    assert count() == count() == 1
    tiny.write(case.images[0], tiny.image(77))
    assert count() == 2
    tiny.write(case.label, tiny.labels(2, 1))
    assert count() == 3
    assert count(changed_card=replace(card, preprocess=a_heart_card({"name": "z_score"}).preprocess)) == 4
    assert count(contrast=Contrast.OFF) == 5
    swapped = read_data_set(data.root, animals="case", labels={2: "heart", 1: "spinal_cord"})
    assert count(changed_data=swapped) == 6
    names = {1: "heart", 2: "spinal_cord", 3: "unsure"}
    for number, part in enumerate(("background", "ignore")):
        told = read_data_set(data.root, animals="case", labels=names, label_map={part: ["unsure"]})
        assert count(changed_data=told) == 7 + number
    for number, value in enumerate((3, 4)):
        told = read_data_set(
            data.root, animals="case", labels={1: "heart", 2: "spinal_cord", value: "ignore"}
        )
        assert count(changed_data=told) == 9 + number


@pytest.mark.parametrize("ending", ["channels.npy", "labels.npy", "json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_file_is_made_again(a_set, a_heart_card, tmp_path, ending, damage):
    data, card, folder = a_set(), a_heart_card(), tmp_path / "kept"
    before = np.array(prepare_case(data.cases[0], data, card, folder).channels)
    (path,) = folder.glob(f"*.{ending}")
    path.write_bytes(path.read_bytes()[:-5]) if damage == "cut" else path.unlink()
    found = prepare_case(data.cases[0], data, card, folder)
    assert np.array_equal(found.channels, before) and found.labels.any()


def test_a_full_disk_leaves_nothing_half(a_set, a_heart_card, tmp_path, monkeypatch):
    data, folder = a_set(), tmp_path / "kept"

    def full(path, array):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match="No space left on device"):
        prepare_case(data.cases[0], data, a_heart_card(), folder)
    assert [*folder.iterdir()] == []


def test_cases_whose_names_are_alike_do_not_share_files(a_heart_card, tmp_path):
    root = tiny.nnunet(tmp_path / "set", ("a b", "a+b"))
    shutil.copy(root / "imagesTr" / "a b_0000.nrrd", root / "imagesTr" / "a+b_0000.nrrd")
    data = read_data_set(root, animals="case")
    prepare_cases(data, a_heart_card(), tmp_path / "kept")
    assert len([*(tmp_path / "kept").glob("*.json")]) == 2


def test_a_case_without_contours_is_refused(a_set, a_heart_card, tmp_path):
    data = a_set()
    with pytest.raises(InputError, match="expected contours to learn from"):
        prepare_case(replace(data.cases[0], label=None), data, a_heart_card(), tmp_path / "kept")


def test_hundreds_of_prepared_cases_hold_no_files_open(a_set, a_heart_card, tmp_path):
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    if not hasattr(process, "num_fds"):
        pytest.skip("this system does not count open files so")
    data, card = a_set(), a_heart_card()
    before = process.num_fds()
    cases = [prepare_case(data.cases[0], data, card, tmp_path / "kept") for _ in range(40)]
    sums = [float(case.channels.sum()) + int(case.labels.sum()) for case in cases]
    assert len(set(sums)) == 1
    assert process.num_fds() < before + 10
