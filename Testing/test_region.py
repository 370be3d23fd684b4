"""A region of interest: only a part is looked at, everything stays where it is, and what it cuts is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from Testing.painted import painted_checkpoint, painted_lung_tumor, painted_thorax
from thoraxseg import measure
from thoraxseg.checkpoints import open_checkpoint
from thoraxseg.errors import InputError, OptionError
from thoraxseg.pipeline import segment
from thoraxseg.volume import Volume, to_ras, volume_sha256


@pytest.fixture(scope="module")
def thorax():
    return painted_thorax()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return open_checkpoint(painted_checkpoint(tmp_path_factory.mktemp("checkpoint")))


def around(labels: np.ndarray, label: int, margin: int = 1):
    """The box around a structure."""
    found = np.argwhere(labels == label)
    low, high = found.min(axis=0) - margin, found.max(axis=0) + 1 + margin
    return tuple((max(0, int(a)), min(n, int(b))) for a, b, n in zip(low, high, labels.shape, strict=True))


def inside(box) -> tuple[slice, ...]:
    return tuple(slice(*ends) for ends in box)


def cut(result) -> list[str]:
    return [said for said in result.warnings if said.startswith("The border of the region of interest cuts")]


# A part of a volume


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRP"])
def test_every_voxel_of_a_part_stays_where_it_is_in_the_patient(a_geometry, codes):
    array = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    volume = Volume(array, a_geometry(codes, (0.3, 0.2, 0.1), (10, 20, 30), (1, 2, 3)), "mouse", ("read",))
    part = volume.cropped(((1, 4), (2, 5), (0, 6)))
    np.testing.assert_array_equal(part.array, array[1:4, 2:5, 0:6])
    kji = np.array([[0, 0, 0], [2, 1, 4]])
    np.testing.assert_allclose(
        to_ras(part.ijk_to_ras, kji), to_ras(volume.ijk_to_ras, kji + np.array([1, 2, 0]))
    )
    assert (part.name, part.notes, part.spacing_mm) == (volume.name, volume.notes, volume.spacing_mm)
    assert np.shares_memory(part.array, volume.array)


@pytest.mark.parametrize(
    "box",
    [
        ((0, 0), (0, 6), (0, 7)),
        ((3, 2), (0, 6), (0, 7)),
        ((-1, 2), (0, 6), (0, 7)),
        ((0, 5), (0, 7), (0, 7)),
        ((0, 5), (0, 6)),
        ((0, 5), (0, 6), (0, 6.5)),
        ((False, True), (0, 6), (0, 7)),
        "whole",
        None,
        ((0, 5), (0, 6), (0, None)),
    ],
)
def test_a_box_that_is_none_or_not_in_the_volume_is_refused(box):
    volume = Volume(np.zeros((5, 6, 7)), np.eye(4))
    with pytest.raises(OptionError, match=r"region of interest: expected .* k from 0 to 5, j from 0 to 6"):
        volume.cropped(box)


def test_numbers_of_numpy_are_numbers():
    volume = Volume(np.zeros((5, 6, 7)), np.eye(4))
    assert volume.cropped(np.array([[0, 1], [0, 2], [0, 3]])).shape == (1, 2, 3)


def test_the_digest_of_a_volume_depends_on_voxels_their_type_and_geometry_alone(a_geometry):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    volume = Volume(array, a_geometry())
    digest = volume_sha256(volume)
    for same in (array.astype(">i2"), np.asfortranarray(array), np.repeat(array, 2, axis=1)[:, ::2]):
        assert volume_sha256(replace(volume, array=same, name="other")) == digest
    shifted = a_geometry(origin=(0, 0, 1e-9))
    for other in (
        replace(volume, array=array + 1),
        replace(volume, array=array.astype(np.int32)),
        replace(volume, array=array.reshape(3, 2, 4)),
        replace(volume, ijk_to_ras=shifted),
    ):
        assert volume_sha256(other) != digest


# Contours of a part


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR"])
def test_contours_of_a_part_lie_on_the_whole_grid_with_background_outside(checkpoint, codes):
    phantom = painted_thorax(axis_codes=codes)
    box = around(phantom.truth.labels, 1)
    found = segment(phantom.volume, checkpoint, box=box)
    labels = found.segmentation.labels
    assert labels.shape == phantom.volume.shape == found.uncertainty.shape
    np.testing.assert_array_equal(found.segmentation.ijk_to_ras, phantom.volume.ijk_to_ras)
    np.testing.assert_array_equal(labels[inside(box)], phantom.truth.labels[inside(box)])
    outside = np.ones(labels.shape, bool)
    outside[inside(box)] = False
    assert not labels[outside].any() and not found.uncertainty[outside].any()
    assert found.uncertainty[inside(box)].any()
    probabilities = found.probabilities()
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    assert (probabilities[0][outside] == 1).all()
    np.testing.assert_array_equal(probabilities.argmax(axis=0), labels)
    (heart,) = [one for one in found.measurements["structures"] if one["key"] == "heart"]
    assert heart["volume_mm3"] == pytest.approx((phantom.truth.labels == 1).sum() * 0.125)
    assert found.provenance["box_kji"] == [list(ends) for ends in box]
    assert found.provenance["geometry"]["shape_kji"] == list(phantom.volume.shape)


def test_a_box_around_everything_changes_nothing(checkpoint, thorax):
    everything = tuple((0, n) for n in thorax.volume.shape)
    boxed = segment(thorax.volume, checkpoint, box=everything)
    plain = segment(thorax.volume, checkpoint)
    np.testing.assert_array_equal(boxed.segmentation.labels, plain.segmentation.labels)
    np.testing.assert_array_equal(boxed.uncertainty, plain.uncertainty)
    assert boxed.warnings == plain.warnings and plain.provenance["box_kji"] is None


def test_structures_that_the_border_cuts_are_named(checkpoint, thorax):
    (k0, k1), j, i = around(thorax.truth.labels, 1)
    found = segment(thorax.volume, checkpoint, box=((k0, (k0 + k1) // 2), j, i))
    (said,) = cut(found)
    assert "Heart" in said and "Make the region larger" in said


def test_a_structure_that_ends_before_the_border_is_not_named(checkpoint, thorax):
    found = segment(thorax.volume, checkpoint, box=around(thorax.truth.labels, 1))
    assert not any("Heart" in said for said in cut(found))
    assert any("lung" in said for said in cut(found))  # these lie around the heart


def test_where_the_image_ends_nothing_is_cut(checkpoint):
    array = np.full((20, 20, 20), 100, np.int16)
    array[:10] = 200  # a heart that reaches to five faces of the image
    volume = Volume(array, np.diag([0.5, 0.5, 0.5, 1.0]))
    box = ((0, 15), (0, 20), (0, 20))
    assert not cut(segment(volume, checkpoint, box=box))
    for axis in range(3):
        for ends in ((1, box[axis][1]), (0, 9)):
            smaller = (*box[:axis], ends, *box[axis + 1 :])
            assert len(cut(segment(volume, checkpoint, box=smaller))) == 1, smaller


def test_what_is_implausible_may_be_the_boxs_doing_and_that_is_said(checkpoint, thorax, monkeypatch):
    monkeypatch.setattr(measure, "check_anatomy", lambda segmentation: ["The lungs differ in size."])
    box = around(thorax.truth.labels, 1)
    said = segment(thorax.volume, checkpoint, box=box).warnings
    assert "The lungs differ in size. The region of interest cuts structures, which may be why." in said
    assert "The lungs differ in size." in segment(thorax.volume, checkpoint).warnings


def test_sides_that_are_exchanged_are_warned_of(checkpoint, thorax):
    mirrored = replace(thorax.volume, ijk_to_ras=np.diag([-1.0, 1, 1, 1]) @ thorax.volume.ijk_to_ras)
    assert not [said for said in segment(thorax.volume, checkpoint).warnings if "lung" in said]
    assert [said for said in segment(mirrored, checkpoint).warnings if "right lung" in said.lower()]


def test_what_is_not_in_the_box_is_said_of_the_box(checkpoint, thorax):
    found = segment(thorax.volume, checkpoint, box=around(thorax.truth.labels, 2, margin=0))
    assert any(said.startswith("Not found in the region of interest: Heart") for said in found.warnings)
    empty = segment(thorax.volume, checkpoint, box=((0, 2), (0, 2), (0, 2)))
    assert any("that the region is the right one" in said for said in empty.warnings)


def test_intensities_are_judged_where_the_network_looks(checkpoint, thorax):
    dark = replace(thorax.volume, array=thorax.volume.array.copy())
    box = around(thorax.truth.labels, 1)
    dark.array[inside(box)] = 1
    assert any("Paint the phantom" in said for said in segment(dark, checkpoint, box=box).warnings)


def test_a_box_is_passed_over_in_words(checkpoint, thorax):
    with pytest.raises(OptionError, match="region of interest"):
        segment(thorax.volume, checkpoint, box=((0, 1000), (0, 1), (0, 1)))


def test_channels_on_another_grid_are_refused_though_their_parts_would_fit(checkpoint, thorax):
    larger = replace(thorax.volume, array=np.pad(thorax.volume.array, ((0, 1), (0, 0), (0, 0))))
    with pytest.raises(InputError, match="expected the grid of"):
        segment(thorax.volume, checkpoint, channels=(larger,), box=((0, 20), (0, 20), (0, 20)))


def test_tumors_keep_their_numbers_and_places_in_a_box(tmp_path):
    phantom = painted_lung_tumor()
    checkpoint = open_checkpoint(painted_checkpoint(tmp_path, "lung-tumor"))
    whole = segment(phantom.volume, checkpoint).measurements["tumors"]
    boxed = segment(phantom.volume, checkpoint, box=around(phantom.truth.labels, 2)).measurements["tumors"]
    assert boxed == whole and whole["count"] == 3
