"""The road of nnU-Net models gives what their own steps give, wherever the axes of the file run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from thoraxseg import inference
from thoraxseg.checkpoints.nnunet_plan import Channel, Origin, Resampling
from thoraxseg.errors import CheckpointError, InputError, OptionError
from thoraxseg.inference import nnunet
from thoraxseg.options import Device, SegmentOptions
from thoraxseg.pipeline import segment
from thoraxseg.progress import Cancelled
from thoraxseg.volume import Volume

REGIONS = {"labels": {"thorax": (1, 2, 3), "lungs": (2, 3), "tumor": (3,)}, "regions_class_order": (1, 2, 3)}
LARGEST = tuple({"labels": (label,), "keep": "largest", "min_size_mm3": None} for label in (1, 2))
KINDS = {
    "v2": {},
    "v1": {"origin": Origin.V1},
    "turned": {"transpose_forward": (1, 2, 0), "spacing_mm": (1.1, 0.9, 1.4)},
    "2d": {"patch_size": (8, 8), "spacing_mm": (0.8, 1.2), "transpose_forward": (2, 0, 1)},
    "mirrored": {"mirror_axes": (0, 2)},
    "2d mirrored": {"patch_size": (8, 8), "mirror_axes": (0, 1), "origin": Origin.V1},
    "regions": REGIONS,
    "v1 regions": REGIONS | {"origin": Origin.V1, "spacing_mm": (2.0, 1.0, 1.0)},
    "cleanup": {"cleanup": LARGEST},
    "coarse": {"spacing_mm": (4.0, 1.0, 1.0)},
    "two channels": {"channels": (Channel("a", "zscore", True, {}), Channel("b", "rescale01", False, {}))},
}


def direct(volumes, plan, checkpoint, **words):
    """Return nnU-Net's own answer to the file's array, as `inference.nnunet` gives it."""
    networks = inference.load_predictor(checkpoint, Device.CPU).networks
    image = np.stack([volume.array.astype(np.float32) for volume in volumes])
    return nnunet.predict(image, volumes[0].spacing_mm, plan, networks, **words)


@pytest.mark.parametrize("folds", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_road_gives_exactly_what_the_steps_of_nnunet_give(
    nnunet_checkpoint, a_plan, phantom, kind, folds
):
    plan = a_plan(**KINDS[kind])
    checkpoint = nnunet_checkpoint(plan, folds)
    volumes = [phantom("PIR", (1.2, 0.9, 1.1), seed=seed) for seed in range(len(plan.channels))]
    found = segment(volumes[0], checkpoint, SegmentOptions(), channels=volumes[1:])
    answer = direct(volumes, plan, checkpoint)
    labels, entropy = answer.labels_and_entropy()
    labels = nnunet.clean_up(labels, volumes[0].spacing_mm, plan)
    assert len(np.unique(labels)) > 1  # else this shows nothing
    np.testing.assert_array_equal(found.segmentation.labels, labels)
    np.testing.assert_array_equal(found.uncertainty, entropy)
    np.testing.assert_array_equal(found.probabilities(), answer.probabilities())
    assert found.segmentation.labels.dtype == np.uint8
    assert found.quantity.maximum == pytest.approx(np.log(2 if plan.regions_class_order else 3))
    assert 0 <= found.uncertainty.min() <= found.uncertainty.max() <= found.quantity.maximum + 1e-6


def test_clean_up_can_be_left_out(nnunet_checkpoint, a_plan, phantom):
    plan = a_plan(**KINDS["cleanup"])
    checkpoint, volume = nnunet_checkpoint(plan), phantom()
    raw = direct([volume], plan, checkpoint).labels()
    assert (raw != nnunet.clean_up(raw, volume.spacing_mm, plan)).any()
    found = segment(volume, checkpoint, SegmentOptions(postprocess="none"))
    np.testing.assert_array_equal(found.segmentation.labels, raw)


def test_mirroring_can_be_left_out(nnunet_checkpoint, a_plan, phantom):
    plan = a_plan(mirror_axes=(0, 1, 2))
    checkpoint, volume = nnunet_checkpoint(plan), phantom()
    plain = segment(volume, checkpoint, SegmentOptions(mirroring="none")).probabilities()
    np.testing.assert_array_equal(plain, direct([volume], plan, checkpoint, mirror_axes=()).probabilities())
    assert not np.array_equal(plain, segment(volume, checkpoint).probabilities())


# Axes


CODES = ["RAS", "LPS", "PIR", "SRA", "ASL", "IPL"]


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("reader", ["SimpleITKIOWithReorient", "NibabelIOWithReorient"])
@pytest.mark.parametrize("kind", ["turned", "2d", "coarse"])
def test_a_reader_that_reorients_gives_the_same_contours_in_the_patient_from_every_file(
    nnunet_checkpoint, a_plan, phantom, reader, codes, kind
):
    plan = a_plan(reader=reader, **KINDS[kind])
    checkpoint, upright = nnunet_checkpoint(plan), phantom("RAS", (1.2, 0.9, 1.1), degrees=(8, -5, 10))
    expected = direct([upright], plan, checkpoint)
    found = segment(upright.reoriented(codes), checkpoint)
    assert found.volume.axis_codes == codes
    labels = Volume(found.segmentation.labels, found.segmentation.ijk_to_ras).reoriented("RAS")
    np.testing.assert_array_equal(labels.array, expected.labels())
    np.testing.assert_allclose(labels.ijk_to_ras, upright.ijk_to_ras, atol=1e-9)
    doubt = Volume(found.uncertainty, found.segmentation.ijk_to_ras).reoriented("RAS")
    np.testing.assert_array_equal(doubt.array, expected.labels_and_entropy()[1])
    for layer, wanted in zip(found.probabilities(), expected.probabilities(), strict=True):
        turned = Volume(layer, found.segmentation.ijk_to_ras).reoriented("RAS")
        np.testing.assert_array_equal(turned.array, wanted)
    assert not [note for note in found.notes if "own axes" in note]


@pytest.mark.parametrize("degrees", [(0, 0, 45), (0, 45, 0)], ids=str)
def test_the_way_back_is_exact_halfway_between_two_axes(nnunet_checkpoint, a_plan, phantom, degrees):
    plan = a_plan(reader="SimpleITKIOWithReorient", transpose_forward=(1, 2, 0))
    checkpoint, volume = nnunet_checkpoint(plan), phantom("LPS", degrees=degrees)
    turned = volume.reoriented("RAS")
    found = segment(volume, checkpoint)
    labels = direct([turned], plan, checkpoint).labels()
    assert sorted(np.bincount(labels.ravel())) == sorted(np.bincount(found.segmentation.labels.ravel()))
    # Every voxel of the answer is at the place of the patient where it was given.
    there = {tuple(np.round(turned.ijk_to_ras @ [i, j, k, 1], 6)[:3]): labels[k, j, i]
             for k, j, i in np.ndindex(labels.shape)}  # fmt: skip
    for k, j, i in np.random.default_rng(0).integers(0, volume.shape, (200, 3)):
        place = tuple(np.round(volume.ijk_to_ras @ [i, j, k, 1], 6)[:3])
        assert found.segmentation.labels[k, j, i] == there[place]


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "Tiff3DIO"])
def test_a_reader_that_does_not_sees_the_files_own_axes_and_that_is_said(
    nnunet_checkpoint, a_plan, phantom, codes, reader
):
    plan = a_plan(reader=reader)
    checkpoint, volume = nnunet_checkpoint(plan), phantom("RAS").reoriented(codes)
    found = segment(volume, checkpoint)
    np.testing.assert_array_equal(found.segmentation.labels, direct([volume], plan, checkpoint).labels())
    assert f"nnunet sees the file's own axes ({codes})" in found.notes[0]


def test_a_model_for_pictures_takes_pixels_as_they_are_and_says_so(nnunet_checkpoint, a_plan, phantom):
    plan = a_plan(patch_size=(8, 8), spacing_mm=(1.0, 1.0), reader="NaturalImage2DIO")
    checkpoint, volume = nnunet_checkpoint(plan), phantom(spacing_mm=(0.5, 0.0065, 0.0065), border=0)
    found = segment(volume, checkpoint)
    assert not [warning for warning in found.warnings if "Spacing" in warning]
    networks = inference.load_predictor(checkpoint, Device.CPU).networks
    labels = nnunet.predict(volume.array[None], (999, 1, 1), plan, networks).labels()
    np.testing.assert_array_equal(found.segmentation.labels, labels)
    assert any("pictures without a scale" in note for note in found.notes)


def test_the_notes_of_a_plan_are_told(nnunet_checkpoint, a_plan, phantom):
    plan = a_plan(notes=("fold 3 has no checkpoint_final.pth and was left out",))
    assert plan.notes[0] in segment(phantom(), nnunet_checkpoint(plan)).notes


# Cascades


@pytest.mark.parametrize("origin", [Origin.V1, Origin.V2])
@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient"])
def test_a_second_stage_gets_the_labels_of_its_first_cleaned_up_in_version_1_only(
    nnunet_checkpoint, a_plan, phantom, origin, reader
):
    about = {"origin": origin, "reader": reader, "transpose_forward": (1, 2, 0)}
    first = a_plan(configuration="3d_lowres", spacing_mm=(2.0, 2.0, 2.0), cleanup=LARGEST, **about)
    second = a_plan(configuration="3d_cascade_fullres", previous_stage="3d_lowres", **about)
    previous = nnunet_checkpoint(first, folds=2)
    checkpoint = nnunet_checkpoint(second, folds=1, previous=previous)
    volume = phantom("PIR", (1.2, 0.9, 1.1), shape=(18, 20, 16))
    seen = volume.reoriented("RAS") if "With" in reader else volume
    raw = direct([seen], first, previous).labels()
    cleaned = nnunet.clean_up(raw, seen.spacing_mm, first)
    assert (raw != cleaned).any()  # else this shows nothing
    answers = {name: direct([seen], second, checkpoint, previous_labels=labels)
               for name, labels in (("raw", raw), ("cleaned", cleaned))}  # fmt: skip
    assert (answers["raw"].labels() != answers["cleaned"].labels()).any()
    found = segment(volume, checkpoint)
    expected = answers["cleaned" if origin is Origin.V1 else "raw"].labels()
    labels = Volume(found.segmentation.labels, found.segmentation.ijk_to_ras).reoriented(seen.axis_codes)
    np.testing.assert_array_equal(labels.array, expected)
    assert "first_stage" in found.provenance["timings_s"]
    assert found.provenance["checkpoint"]["first_stage"]["nnunet"]["configuration"] == "3d_lowres"


@pytest.mark.parametrize("kind", ["entropy", "folds", "mean-prob"])
def test_progress_of_a_cascade_never_falls_and_can_cancel(nnunet_checkpoint, a_plan, phantom, kind):
    first, second = a_plan(spacing_mm=(2.0, 2.0, 2.0)), a_plan(previous_stage="3d_lowres")
    checkpoint = nnunet_checkpoint(second, folds=2, previous=nnunet_checkpoint(first))
    told = []
    options = SegmentOptions(uncertainty=kind, samples=3)
    segment(phantom(), checkpoint, options, lambda fraction, message: told.append(fraction))
    assert told == sorted(told) and told[-1] == 1

    def cancel(fraction, message):
        if fraction > 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        segment(phantom(), checkpoint, options, cancel)


# What is refused


def test_contrast_enhancement_is_refused(nnunet_checkpoint, a_plan, phantom):
    with pytest.raises(OptionError, match="--contrast on: nnU-Net models prepare images their own way"):
        segment(phantom(), nnunet_checkpoint(a_plan()), SegmentOptions(contrast="on"))


def test_a_network_that_cannot_take_the_patch_is_refused_in_words(nnunet_checkpoint, a_plan, phantom):
    """A plan made by hand may have sizes that its strides do not divide; those of a card are checked before."""
    checkpoint = nnunet_checkpoint(a_plan())
    card = replace(checkpoint.card, nnunet=replace(checkpoint.card.nnunet, patch_size=(7, 7, 7)))
    with pytest.raises(CheckpointError, match="checkpoint nnunet: its network failed"):
        segment(phantom(), replace(checkpoint, card=card))


def test_a_hole_in_the_image_is_refused(nnunet_checkpoint, a_plan, phantom):
    volume = phantom()
    volume.array[3, 3, 3] = np.nan
    with pytest.raises(InputError, match="NaN or infinity"):
        segment(volume, nnunet_checkpoint(a_plan()))


# The spread of folds


@pytest.mark.parametrize("origin", [Origin.V1, Origin.V2])
@pytest.mark.parametrize("regions", [False, True], ids=["labels", "regions"])
def test_the_spread_is_that_of_the_probability_of_the_winner_over_the_folds(
    nnunet_checkpoint, a_plan, phantom, origin, regions
):
    plan = a_plan(origin=origin, **(REGIONS if regions else {}))
    checkpoint, volume = nnunet_checkpoint(plan, folds=3), phantom()
    found = segment(volume, checkpoint, SegmentOptions(uncertainty="folds"))
    each = []
    for path in checkpoint.weights:
        each.append(direct([volume], plan, replace(checkpoint, weights=(path,))).probabilities())
    spread = np.std(each, axis=0, dtype=np.float64)
    winner = np.mean(each, axis=0).argmax(axis=0)
    expected = spread.max(axis=0) if regions else np.take_along_axis(spread, winner[None], 0)[0]
    np.testing.assert_allclose(found.uncertainty, expected, atol=2e-5)
    assert expected.max() > 0.05
    assert (found.quantity.key, found.quantity.maximum) == ("fold_spread", 0.5)
    plain = segment(volume, checkpoint)
    assert (found.segmentation.labels == plain.segmentation.labels).mean() > 0.999
    np.testing.assert_allclose(found.probabilities(), plain.probabilities(), atol=1e-5)


def test_a_spread_that_cubic_splines_carry_beyond_its_range_is_cut_off(nnunet_checkpoint, a_plan, phantom):
    """Along a coarse axis that is treated apart nothing else keeps them in it."""
    plan = a_plan(resample_probabilities=Resampling("spline", 1, 3, True), spacing_mm=(3.0, 1.0, 1.0))
    checkpoint = nnunet_checkpoint(plan, folds=2)
    found = segment(phantom(), checkpoint, SegmentOptions(uncertainty="folds"))
    assert found.uncertainty.min() >= 0 and found.uncertainty.max() <= 0.5
