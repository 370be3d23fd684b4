"""Phantoms against what is known of mice and people: sizes, sides, intensities, and their own facts."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from thoraxseg.errors import InputError, OptionError
from thoraxseg.phantoms import human_chest_ct, mouse, mouse_micro_ct, mouse_mri
from thoraxseg.phantoms.canvas import Grid
from thoraxseg.phantoms.human_anatomy import human_thorax
from thoraxseg.phantoms.mouse_anatomy import mouse_thorax
from thoraxseg.phantoms.tumors import tumor_volumes
from thoraxseg.volume import to_ras, voxel_volume_mm3

MAKERS = {"mouse CT": mouse_micro_ct, "mouse MRI": mouse_mri, "human CT": human_chest_ct}
COARSE = {mouse_micro_ct: 0.5, mouse_mri: 0.5, human_chest_ct: 6.0}
EIGHTEEN = ndimage.generate_binary_structure(3, 2)

every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def volumes_mm3(phantom) -> dict[str, float]:
    counts = phantom.truth.voxel_counts()
    voxel = voxel_volume_mm3(phantom.truth.ijk_to_ras)
    return {s.key: counts[value] * voxel for value, s in phantom.truth.structures.items()}


def center_ras(phantom, value: int) -> np.ndarray:
    return to_ras(phantom.truth.ijk_to_ras, np.argwhere(phantom.truth.labels == value)).mean(axis=0)


def inner(phantom, value: int) -> np.ndarray:
    """Return the voxel values of a structure without its border."""
    return phantom.volume.array[ndimage.binary_erosion(phantom.truth.labels == value)].astype(float)


def lag1(block: np.ndarray) -> list[float]:
    block = block.astype(float)
    pairs = ((np.moveaxis(block, a, 0)[1:].ravel(), np.moveaxis(block, a, 0)[:-1].ravel()) for a in range(3))
    return [float(np.corrcoef(a, b)[0, 1]) for a, b in pairs]


@pytest.fixture(scope="module")
def mouse_ct():
    return mouse_micro_ct()


@pytest.fixture(scope="module")
def sharp_mouse_ct():
    return mouse_micro_ct(spacing_mm=0.14)


@pytest.fixture(scope="module")
def mri():
    return mouse_mri()


@pytest.fixture(scope="module")
def human():
    return human_chest_ct()


@every_maker
def test_the_same_seed_gives_the_same_bytes(make):
    a, b = (make(seed=4, spacing_mm=COARSE[make]) for _ in range(2))
    assert a.volume.array.tobytes() == b.volume.array.tobytes()
    assert a.truth.labels.tobytes() == b.truth.labels.tobytes()
    assert a.facts == b.facts


@every_maker
def test_another_seed_is_another_individual(make):
    a, b = (make(seed=s, spacing_mm=COARSE[make]) for s in (1, 2))
    assert (a.truth.labels != b.truth.labels).any()
    assert a.facts["volumes_mm3"] != b.facts["volumes_mm3"]
    for key, value in volumes_mm3(a).items():
        if key != "tumors":
            assert volumes_mm3(b)[key] == pytest.approx(value, rel=0.25)


@every_maker
def test_another_noise_seed_is_another_scan_of_the_same_individual(make):
    a, b = (make(seed=1, noise_seed=n, spacing_mm=COARSE[make]) for n in (5, 6))
    assert (a.volume.array != b.volume.array).mean() > 0.3
    assert np.array_equal(a.truth.labels, b.truth.labels)
    assert a.facts["volumes_mm3"] == b.facts["volumes_mm3"]


@every_maker
def test_image_and_truth_share_one_grid_and_say_that_they_are_a_phantom(make):
    phantom = make(spacing_mm=COARSE[make])
    assert phantom.volume.array.shape == phantom.truth.labels.shape
    assert np.array_equal(phantom.volume.ijk_to_ras, phantom.truth.ijk_to_ras)
    assert phantom.facts["is_phantom"] is True
    assert any("phantom" in note for note in phantom.volume.notes)
    assert json.loads(json.dumps(phantom.facts)) == phantom.facts


@every_maker
@pytest.mark.parametrize("codes", ["RAS", "PIR", "SLA"])
def test_another_axis_order_stores_the_same_anatomy(make, codes):
    a = make(seed=3, spacing_mm=COARSE[make])
    b = make(seed=3, spacing_mm=COARSE[make], axis_codes=codes)
    assert b.volume.axis_codes == codes
    assert np.array_equal(b.volume.reoriented(a.volume.axis_codes).array, a.volume.array)
    assert volumes_mm3(a) == pytest.approx(volumes_mm3(b))
    for value in a.truth.structures:
        assert center_ras(b, value) == pytest.approx(center_ras(a, value), abs=1e-6)


def test_an_anisotropic_spacing_follows_the_stored_axes():
    phantom = mouse_micro_ct(spacing_mm=(0.6, 0.5, 0.4), axis_codes="PIR")
    assert phantom.volume.spacing_mm == pytest.approx((0.6, 0.5, 0.4))
    assert volumes_mm3(phantom)["heart"] == pytest.approx(phantom.facts["volumes_mm3"]["heart"], rel=0.03)


@pytest.mark.parametrize("seed", range(6))
def test_mouse_organs_have_the_volumes_of_real_mice(seed):
    found = volumes_mm3(mouse_micro_ct(seed))
    lungs = found["right_lung"] + found["left_lung"]
    assert 0.9 * 417 < lungs < 1.1 * 504
    assert 0.9 * 223 < found["heart"] < 1.1 * 264
    assert 0.57 < found["right_lung"] / lungs < 0.66


def test_the_default_mouse_has_the_extents_of_real_mice(sharp_mouse_ct):
    # Stored as LPS, so (k, j, i) is head-tail, front-back, right-left.
    labels, mm = sharp_mouse_ct.truth.labels, 0.14
    lungs = np.ptp(np.argwhere(labels >= 3), axis=0) * mm
    assert 13.0 < lungs[0] < 14.4 and 11.0 < lungs[1] < 13.5 and 13.8 < lungs[2] < 17.7
    heart = np.ptp(np.argwhere(labels == 1), axis=0) * mm
    assert 8.8 < heart[0] < 10.2 and 6.0 < heart[1] < 7.2 and 7.9 < heart[2] < 9.3
    middle = labels.shape[0] // 2
    cord = (labels[middle] == 2).sum() * mm * mm
    assert 1.2 < 2 * np.sqrt(cord / np.pi) < 1.8


def test_mouse_labels_have_the_volumes_of_the_facts(sharp_mouse_ct):
    assert volumes_mm3(sharp_mouse_ct) == pytest.approx(sharp_mouse_ct.facts["volumes_mm3"], rel=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_labels_at_the_default_spacing_have_the_volumes_of_the_facts(seed):
    phantom = mouse_micro_ct(seed)
    assert volumes_mm3(phantom) == pytest.approx(phantom.facts["volumes_mm3"], rel=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_a_mouse_has_its_organs_on_the_right_sides(seed):
    phantom = mouse_micro_ct(seed, spacing_mm=0.4)
    heart, cord, right, left = (center_ras(phantom, value) for value in (1, 2, 3, 4))
    assert heart[0] < cord[0] - 0.8, "the heart lies to the left"
    assert abs(cord[0]) < 0.5, "the cord lies in the middle"
    assert cord[1] < min(heart[1], right[1], left[1]) - 3, "the cord lies at the back"
    assert heart[1] > max(right[1], left[1]), "the heart lies in front"
    assert left[0] < heart[0] < right[0]
    found = volumes_mm3(phantom)
    assert found["right_lung"] > found["left_lung"]


def test_each_mouse_organ_is_one_piece(mouse_ct):
    for value in (1, 2):
        assert ndimage.label(mouse_ct.truth.labels == value)[1] == 1
    for value in (3, 4):
        parts, count = ndimage.label(mouse_ct.truth.labels == value)
        sizes = np.bincount(parts.ravel())[1:]
        assert sizes.max() > 0.995 * sizes.sum(), f"{count} parts"


def test_the_right_and_left_lung_do_not_touch(mouse_ct):
    labels = mouse_ct.truth.labels
    assert not (ndimage.binary_dilation(labels == 3) & (labels == 4)).any()


@pytest.mark.parametrize("build", [mouse_thorax, human_thorax], ids=["mouse", "human"])
def test_lungs_on_a_grid_are_the_lungs_at_its_points(build):
    thorax = build(np.random.default_rng(0))
    low, high = thorax.lung_box
    grid = Grid.over(low - 1, high + 1, (high - low) / 40)
    points = grid.open((slice(None),) * 3)
    assert np.array_equal(thorax.lungs_on(grid) < 0, thorax.lungs(*points) < 0)
    y, z = np.random.default_rng(1).uniform(low[1:], high[1:], (500, 2)).T
    assert (thorax.lungs(np.full(500, thorax.septum_x), y, z) > 0).all(), "nothing crosses the septum"


def test_micro_ct_lungs_have_the_intensities_of_mouse_cts(mouse_ct):
    lungs = mouse_ct.volume.array[mouse_ct.truth.labels >= 3]
    assert lungs.mean() == pytest.approx(-438, abs=40)
    assert np.median(lungs) == pytest.approx(-461, abs=40)
    assert lungs.std() == pytest.approx(137, abs=35)
    assert np.percentile(lungs, 0.5) == pytest.approx(-730, abs=80)
    assert np.percentile(lungs, 99.5) == pytest.approx(-39, abs=60)


def test_micro_ct_soft_tissue_bone_and_air_have_their_hounsfield_units(sharp_mouse_ct):
    for value in (1, 2):
        tissue = inner(sharp_mouse_ct, value)
        assert 0 < tissue.mean() < 80
        assert 30 < tissue.std() < 60
    image = sharp_mouse_ct.volume.array
    assert image[:, :3, :3].mean() == pytest.approx(-1000, abs=25)
    assert 400 < np.percentile(image[image > 300], 50) < 1500
    assert image.max() < 2500


def test_micro_ct_noise_falls_with_the_size_of_voxels(mouse_ct, sharp_mouse_ct):
    # Eight times the volume: the square root of eight less noise, and tissue that stays as uneven as it is.
    coarse, sharp = (inner(p, 1).std() for p in (mouse_ct, sharp_mouse_ct))
    assert 0.3 < coarse / sharp < 0.5


def test_a_contrast_agent_brightens_blood_and_liver():
    plain, bright = (mouse_micro_ct(spacing_mm=0.4, contrast_agent=c) for c in (False, True))
    assert np.array_equal(plain.truth.labels, bright.truth.labels)
    assert inner(bright, 1).mean() > inner(plain, 1).mean() + 100
    assert 200 < np.percentile(inner(bright, 1), 90) < 500


def test_breathing_blurs_the_diaphragm_and_nothing_else(mouse_ct, monkeypatch):
    monkeypatch.setattr(mouse, "_breathing", lambda image, *_: image)
    still = mouse_micro_ct().volume.array.astype(int)
    moving, labels = mouse_ct.volume.array.astype(int), mouse_ct.truth.labels
    # Stored as LPS: the first axis runs from tail to head, so a column enters the lung through its floor.
    columns = (labels == 3).any(axis=0)
    floor = (labels == 3).argmax(axis=0)
    steps = [
        np.mean([image[floor[j, i], j, i] - image[floor[j, i] - 1, j, i] for j, i in np.argwhere(columns)])
        for image in (still, moving)
    ]
    assert steps[0] < -150 and steps[0] < 1.2 * steps[1] < 0, "the step into the lung is less steep"
    z = to_ras(
        mouse_ct.volume.ijk_to_ras, np.column_stack([np.arange(len(labels))] + [[0] * len(labels)] * 2)
    )
    assert np.array_equal(still[z[:, 2] > 3], moving[z[:, 2] > 3]), "the upper chest does not move"


@pytest.mark.parametrize("seed", range(4))
def test_tumors_are_as_many_as_the_facts_say_and_of_both_classes(seed):
    phantom = mouse_mri(seed)
    sizes = [tumor["volume_mm3"] for tumor in phantom.facts["tumors"]]
    assert ndimage.label(phantom.truth.labels == 2, EIGHTEEN)[1] == len(sizes) == 6
    assert 0.05 <= min(sizes) < 0.4 < max(sizes) <= 5.0
    assert {tumor["touches_pleura"] for tumor in phantom.facts["tumors"]} == {True, False}


@pytest.mark.parametrize("seed", range(20))
def test_two_drawn_tumors_are_a_small_and_a_large_one(seed):
    large, small = tumor_volumes(2, mouse.TUMOR_SIZES, np.random.default_rng(seed))
    assert 0.05 <= small < 0.4 < large <= 5.0


def test_every_tumor_has_the_volume_and_place_of_the_facts(mri):
    parts, _ = ndimage.label(mri.truth.labels == 2, EIGHTEEN)
    voxel = voxel_volume_mm3(mri.truth.ijk_to_ras)
    for tumor in mri.facts["tumors"]:
        kji = (np.linalg.inv(mri.truth.ijk_to_ras) @ [*tumor["center_ras_mm"], 1])[2::-1]
        part = parts[tuple(np.rint(kji).astype(int))]
        assert part > 0
        own = np.argwhere(parts == part)
        assert len(own) * voxel == pytest.approx(tumor["volume_mm3"], abs=0.51 * voxel)
        middle = to_ras(mri.truth.ijk_to_ras, own).mean(axis=0)
        assert middle == pytest.approx(tumor["center_ras_mm"], abs=0.1)
        assert tumor["volume_mm3"] == pytest.approx(4 / 3 * np.pi * tumor["radius_mm"] ** 3)


def test_tumors_at_the_pleura_touch_it_and_the_others_do_not_overlap_it(mri):
    labels = mri.truth.labels
    outside = ndimage.binary_dilation(labels == 0, iterations=2)
    parts, count = ndimage.label(labels == 2, EIGHTEEN)
    touching = sum(bool((outside & (parts == n)).any()) for n in range(1, count + 1))
    assert touching >= sum(tumor["touches_pleura"] for tumor in mri.facts["tumors"]) == 3


def test_tumors_of_given_volumes_are_made():
    phantom = mouse_mri(2, tumors=[0.3, 4.0, 1.0])
    assert [t["volume_mm3"] for t in phantom.facts["tumors"]] == [4.0, 1.0, 0.3]
    assert phantom.facts["volumes_mm3"]["tumors"] == pytest.approx(5.3)
    assert volumes_mm3(phantom)["tumors"] == pytest.approx(5.3, rel=0.01)


@pytest.mark.parametrize("make", [mouse_mri, human_chest_ct], ids=["mouse MRI", "human CT"])
def test_a_healthy_chest_has_no_tumor_and_still_knows_the_structure(make):
    phantom = make(spacing_mm=COARSE[make], tumors=0)
    assert phantom.facts["tumors"] == []
    assert volumes_mm3(phantom)["tumors"] == 0
    assert [s.key for s in phantom.truth.structures.values()] == ["lungs", "tumors"]


def test_a_tumor_smaller_than_a_voxel_owns_one_voxel():
    phantom = mouse_mri(spacing_mm=0.8, tumors=[0.05])
    assert phantom.truth.voxel_counts()[2] == 1


def test_the_default_mri_has_the_grid_of_the_deepmeta_stacks(mri):
    assert mri.volume.shape == (128, 128, 128)
    assert mri.volume.array.dtype == np.uint8
    assert mri.volume.spacing_mm == pytest.approx((0.15625, 0.1953125, 0.15625))
    assert mri.volume.axis_codes == "RIA"


@pytest.mark.parametrize("seed", range(3))
def test_mri_lungs_and_tumors_have_the_volume_of_real_lungs(seed):
    phantom = mouse_mri(seed)
    found = volumes_mm3(phantom)
    assert found == pytest.approx(phantom.facts["volumes_mm3"], rel=0.01)
    assert 0.9 * 417 < found["lungs"] + found["tumors"] < 1.1 * 504


def test_mri_intensities_are_those_of_the_dark_batch(mri):
    image, labels = mri.volume.array.astype(float), mri.truth.labels
    air = image[-8:, :, :20]
    assert air.mean() == pytest.approx(6.2, abs=0.3)
    assert air.std() == pytest.approx(1.1, abs=0.15)
    lungs = image[labels == 1]
    assert lungs.mean() == pytest.approx(8.6, abs=0.6)
    assert lungs.std() == pytest.approx(3.6, abs=0.8)
    assert np.percentile(lungs, 95) == pytest.approx(15, abs=2)
    tumors = image[labels == 2]
    assert tumors.mean() == pytest.approx(21, abs=3)
    assert tumors.std() < 7
    body = image[ndimage.binary_fill_holes(ndimage.gaussian_filter(image, 1.5) > 11)]
    assert np.median(body) == pytest.approx(24, abs=3)
    assert np.percentile(body, 75) == pytest.approx(33, abs=6)
    assert np.percentile(body, 99) == pytest.approx(117, abs=20)
    assert body.max() > 230


def test_mri_noise_is_correlated_along_the_rows(mri):
    # Slices, rows, columns of air in front of the animal.
    found = lag1(mri.volume.array[-8:, :, :20])
    assert found == pytest.approx([0.44, 0.74, 0.44], abs=0.1)


def test_mri_lung_vessels_look_like_tumors(mri):
    image, labels = mri.volume.array, mri.truth.labels
    vessels = image[ndimage.binary_erosion(labels == 1, iterations=3) & (image >= 16)]
    assert vessels.size > 500
    assert np.median(vessels) == pytest.approx(np.median(image[labels == 2]), abs=6)


@pytest.mark.parametrize("seed", range(3))
def test_a_person_has_four_to_six_liters_of_lung(seed):
    found = volumes_mm3(human_chest_ct(seed))
    assert 4e6 < found["lungs"] + found["tumors"] < 6e6


def test_human_labels_have_the_volumes_of_the_facts(human):
    assert volumes_mm3(human) == pytest.approx(human.facts["volumes_mm3"], rel=0.01)
    sizes = [2 * t["radius_mm"] for t in human.facts["tumors"]]
    assert ndimage.label(human.truth.labels == 2, EIGHTEEN)[1] == len(sizes) == 2
    assert all(5 <= d <= 40 for d in sizes) and min(sizes) < 15 < max(sizes)


def test_human_tissues_have_their_hounsfield_units(human):
    image = human.volume.array
    assert np.median(inner(human, 1)) == pytest.approx(-860, abs=30)
    biggest = human_chest_ct(0, tumors=[30_000.0])
    assert np.median(inner(biggest, 2)) == pytest.approx(35, abs=25)
    assert image[:, :2, :2].mean() == pytest.approx(-1000, abs=25)
    assert 300 < np.percentile(image, 99.9) < 1000
    fat = ((image > -130) & (image < -80)).mean()
    soft = ((image > 10) & (image < 80)).mean()
    assert 0.02 < fat < 0.2 < soft < 0.6


def test_a_margin_widens_the_field_of_view_and_keeps_the_animal():
    near, wide = (mouse_micro_ct(spacing_mm=0.5, margin_mm=m) for m in (0, 3))
    assert np.subtract(wide.volume.shape, near.volume.shape) == pytest.approx(12, abs=1)
    assert volumes_mm3(wide)["heart"] == pytest.approx(volumes_mm3(near)["heart"], rel=0.02)
    assert wide.facts["volumes_mm3"]["spinal_cord"] > near.facts["volumes_mm3"]["spinal_cord"]


@every_maker
@pytest.mark.parametrize("spacing", [0, -1, float("nan"), "wide", (0.3, 0.3), 1000, (0.3, 0.3, 0.001)])
def test_an_impossible_spacing_is_refused(make, spacing):
    with pytest.raises(OptionError, match=r"spacing_mm: expected one number or three.*got"):
        make(spacing_mm=spacing)


@every_maker
@pytest.mark.parametrize("option", ["seed", "noise_seed"])
@pytest.mark.parametrize("value", [-1, 1.5, "one", True])
def test_an_impossible_seed_is_refused(make, option, value):
    with pytest.raises(OptionError, match=f"^{option}: expected a whole number"):
        make(spacing_mm=COARSE[make], **{option: value})


@every_maker
@pytest.mark.parametrize("value", [-1, float("inf"), "big"])
def test_an_impossible_margin_is_refused(make, value):
    with pytest.raises(OptionError, match="margin_mm: expected a number from 0"):
        make(spacing_mm=COARSE[make], margin_mm=value)


@every_maker
def test_wrong_axis_letters_are_refused(make):
    with pytest.raises(InputError, match="three axis letters"):
        make(spacing_mm=COARSE[make], axis_codes="LLS")


@pytest.mark.parametrize("tumors", [-1, 41, 2.5, True, "six", [0.01], [6.0], [1.0, float("nan")], ["x"]])
def test_impossible_tumors_are_refused(tumors):
    with pytest.raises(OptionError, match=r"from 0 to 40.*from 0\.05 to 5 mm3"):
        mouse_mri(spacing_mm=0.5, tumors=tumors)


def test_tumors_without_room_are_refused():
    with pytest.raises(OptionError, match="found no room"):
        mouse_mri(spacing_mm=1.0, tumors=[5.0] * 40)


def test_importing_the_phantoms_loads_no_heavy_package():
    heavy = "('scipy', 'torch', 'skimage', 'SimpleITK')"
    code = f"import sys, thoraxseg.phantoms; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
