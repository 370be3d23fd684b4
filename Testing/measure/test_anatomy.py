"""What is said of contours that lie where no organ lies, and silence about those that lie right."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from thoraxseg.measure import check_anatomy
from thoraxseg.phantoms import human_chest_ct, mouse_micro_ct, mouse_mri
from thoraxseg.segmentation import STRUCTURES, Segmentation
from thoraxseg.volume import geometry_from_spacing, reorient

SWAPPED = "right and left look swapped"
FRONT = "front and back look swapped"
HEAD = "head and tail look swapped"
MIRRORED = "The heart lies on the right"
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@cache
def a_mouse(seed):
    """True contours of a mouse on coarse voxels."""
    return mouse_micro_ct(seed=seed, spacing_mm=1.0).truth


@pytest.fixture(scope="module")
def mouse():
    """True contours of a mouse: heart 1, spinal cord 2, right lung 3, left lung 4."""
    return mouse_micro_ct(seed=1, spacing_mm=0.6).truth


@pytest.fixture(scope="module")
def person():
    """True contours of a person: lungs 1, tumors 2."""
    return human_chest_ct(seed=1, spacing_mm=8).truth


def moved(segmentation, matrix):
    whole = np.eye(4)
    whole[:3, :3] = matrix
    return replace(segmentation, ijk_to_ras=whole @ segmentation.ijk_to_ras)


def without(segmentation, *keys):
    kept = {label: s for label, s in segmentation.structures.items() if s.key not in keys}
    labels = np.where(np.isin(segmentation.labels, list(kept)), segmentation.labels, 0)
    return replace(segmentation, labels=labels)


def exchanged(segmentation, one=3, other=4):
    labels = segmentation.labels.copy()
    labels[segmentation.labels == one], labels[segmentation.labels == other] = other, one
    return replace(segmentation, labels=labels)


def rotation(degrees, axis):
    angle = np.radians(degrees)
    a, b = [n for n in range(3) if n != axis]
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def has(said, *parts):
    """Each sentence is about one of the parts, and each part is in one of the sentences."""
    return all(any(part in one for part in parts) for one in said) and all(
        any(part in one for one in said) for part in parts
    )


@pytest.mark.parametrize("seed", range(2))
def test_true_contours_are_passed_in_silence(seed):
    assert check_anatomy(a_mouse(seed)) == []
    assert check_anatomy(human_chest_ct(seed=seed, spacing_mm=10).truth) == []
    assert check_anatomy(mouse_mri(seed=seed, spacing_mm=1.0).truth) == []


@pytest.mark.slow
def test_fifty_mice_and_twenty_people_are_passed_in_silence():
    for seed in range(50):
        assert check_anatomy(mouse_micro_ct(seed=seed, spacing_mm=0.8).truth) == [], seed
    for seed in range(20):
        assert check_anatomy(human_chest_ct(seed=seed, spacing_mm=10).truth) == [], seed


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SRA", "IPL", "AIR", "PLS"])
def test_the_order_of_the_array_does_not_matter(mouse, person, codes):
    for truth in (mouse, person):
        labels, geometry = reorient(truth.labels, truth.ijk_to_ras, codes)
        turned = replace(truth, labels=labels, ijk_to_ras=geometry)
        assert check_anatomy(turned) == []
        for axis, wanted in enumerate((SWAPPED, FRONT, HEAD)):
            mirror = np.eye(3)
            mirror[axis, axis] = -1
            said = check_anatomy(moved(turned, mirror))
            if truth is mouse:
                assert has(said, wanted)
            elif axis == 2:
                assert has(said, HEAD)


@pytest.mark.parametrize("degrees", [-30, -15, 15, 30])
@pytest.mark.parametrize("axis", range(3))
def test_tilted_animals_are_passed_and_their_mirror_images_are_not(mouse, axis, degrees):
    tilt = rotation(degrees, axis)
    assert check_anatomy(moved(mouse, tilt)) == []
    assert any(SWAPPED in one for one in check_anatomy(moved(mouse, tilt @ np.diag([-1, 1, 1]))))
    assert any(FRONT in one for one in check_anatomy(moved(mouse, tilt @ np.diag([1, -1, 1]))))


@pytest.mark.parametrize("seed", range(2))
def test_lungs_under_each_others_names_are_said(seed):
    truth = a_mouse(seed)
    assert has(check_anatomy(exchanged(truth)), SWAPPED)


@pytest.mark.parametrize("seed", range(2))
def test_a_scan_that_is_mirrored_and_named_to_match_is_found_by_its_heart(seed):
    truth = a_mouse(seed)
    mirrored = moved(exchanged(truth), np.diag([-1, 1, 1]))
    assert has(check_anatomy(mirrored), MIRRORED)


def test_an_animal_said_to_lie_on_its_back_that_lay_on_its_belly_is_said(mouse):
    assert has(check_anatomy(moved(mouse, np.diag([-1, -1, 1]))), SWAPPED, FRONT)


def test_an_animal_that_lies_across_is_said(mouse):
    said = check_anatomy(moved(mouse, rotation(80, 2)))
    assert any("do not lie beside each other" in one for one in said)


@pytest.mark.parametrize(
    "keys",
    [
        ("heart",),
        ("spinal_cord",),
        ("right_lung",),
        ("left_lung",),
        ("right_lung", "left_lung"),
        ("heart", "spinal_cord", "right_lung", "left_lung"),
        ("heart", "right_lung", "left_lung"),
    ],
)
def test_absent_structures_are_skipped(mouse, keys):
    assert check_anatomy(without(mouse, *keys)) == []
    assert check_anatomy(moved(without(mouse, *keys), np.diag([-1, 1, 1]))) == (
        [] if {"right_lung", "left_lung"} & {*keys} else check_anatomy(moved(mouse, np.diag([-1, 1, 1])))
    )


def test_an_empty_segmentation_and_one_voxel_of_each_are_no_error():
    structures = {
        n: STRUCTURES[key] for n, key in enumerate(("heart", "spinal_cord", "right_lung", "left_lung"), 1)
    }
    geometry = geometry_from_spacing((1, 1, 1), "RAS")
    labels = np.zeros((5, 5, 5), np.uint8)
    assert check_anatomy(Segmentation(labels, geometry, structures)) == []
    labels[2, 3, 2], labels[2, 1, 2], labels[2, 2, 4], labels[2, 2, 0] = 1, 2, 3, 4
    check_anatomy(Segmentation(labels, geometry, structures))


def test_a_lung_that_is_many_times_the_other_is_said(mouse):
    labels = mouse.labels.copy()
    left = np.argwhere(labels == 4)
    keep = left[: len(left) // 10]
    labels[labels == 4] = 0
    labels[tuple(keep.T)] = 4
    said = check_anatomy(replace(mouse, labels=labels))
    (sentence,) = [one for one in said if "times the volume" in one]
    assert (
        "right lung has" in sentence and "more than 4" in sentence and "left lung was found whole" in sentence
    )


@pytest.mark.parametrize(("shift_mm", "words"), [(9, "to the right of both"), (-9, "to the left of both")])
def test_a_heart_that_is_not_between_the_lungs_is_said(mouse, shift_mm, words):
    assert has(check_anatomy(with_heart_moved(mouse, (shift_mm, 0, 0))), words)


@pytest.mark.parametrize(("shift_mm", "words"), [(11, "toward the head"), (-11, "toward the tail or feet")])
def test_a_heart_above_or_below_the_lungs_is_said(mouse, shift_mm, words):
    assert any(words in one for one in check_anatomy(with_heart_moved(mouse, (0, 0, shift_mm))))


def with_heart_moved(truth, shift_mm):
    """The heart elsewhere, on a grid with room for it."""
    pad = 24
    labels = np.pad(np.where(truth.labels == 1, 0, truth.labels), pad)
    geometry = truth.ijk_to_ras.copy()
    geometry[:3, 3] -= geometry[:3, :3] @ np.full(3, pad)
    steps = np.rint(np.linalg.solve(geometry[:3, :3], shift_mm)).astype(int)[::-1]
    heart = np.argwhere(truth.labels == 1) + pad + steps
    labels[tuple(heart.T)] = 1
    return replace(truth, labels=labels, ijk_to_ras=geometry)


def test_structures_drawn_by_hand_are_known_by_their_names(mouse):
    renamed = {
        label: replace(structure, key=f"Segment_{label}") for label, structure in mouse.structures.items()
    }
    by_hand = replace(mouse, structures=renamed)
    assert check_anatomy(by_hand) == []
    assert has(check_anatomy(exchanged(by_hand)), SWAPPED)


def test_a_large_structure_is_judged_by_a_part_of_its_voxels(mouse, monkeypatch):
    from thoraxseg.measure import anatomy

    monkeypatch.setattr(anatomy, "MAX_POINTS", 600)
    assert check_anatomy(mouse) == []
    assert has(check_anatomy(exchanged(mouse)), SWAPPED)


def test_a_field_of_view_that_cuts_the_lungs_is_passed(mouse):
    for part in (slice(0, 24), slice(12, None)):
        labels = np.zeros_like(mouse.labels)
        labels[part] = mouse.labels[part]
        said = check_anatomy(replace(mouse, labels=labels))
        assert not any(SWAPPED in one or FRONT in one or HEAD in one for one in said)


def test_a_real_mouse_is_passed_and_the_same_upside_down_is_not():
    """Labels of one real mouse (Rosenhain et al. 2018); its axes run to head, front and across, as its spine shows."""
    path = DATA / "mouse-ct280-organs.nii.gz"
    if not path.exists():
        pytest.skip("the real label maps are not at hand")
    import SimpleITK as sitk

    organs = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    labels = np.where(organs == 1, 1, np.where(organs == 4, 2, 0)).astype(np.uint8)
    structures = {1: STRUCTURES["heart"], 2: STRUCTURES["lungs"]}
    for codes in ("SAR", "SAL"):
        real = Segmentation(labels, geometry_from_spacing((0.28,) * 3, codes), structures)
        assert check_anatomy(real) == []
        assert has(check_anatomy(moved(real, np.diag([1, 1, -1]))), HEAD)
