"""The steps of nnU-Net inference with fake networks and answers known on paper; no nnU-Net needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from thoraxseg.checkpoints.nnunet_plan import Channel, NnunetPlan, Origin, Resampling
from thoraxseg.errors import CheckpointError, InputError
from thoraxseg.inference import nnunet, nnunet_windows
from thoraxseg.inference.mirroring import mirrored_mean, mirrorings
from thoraxseg.inference.nnunet_windows import gaussian_weights, window_starts
from thoraxseg.progress import Cancelled

STATISTICS = {"mean": 10.0, "std": 5.0, "percentile_00_5": 0.0, "percentile_99_5": 20.0}
LINEAR = Resampling("spline", 1, 0, None)


def plan_of(origin=Origin.V2, normalization="none", use_mask=False, **changes) -> NnunetPlan:
    plan = NnunetPlan(
        origin=origin,
        name="Phantom",
        configuration="3d_fullres",
        trainer="nnUNetTrainer",
        channels=(Channel("CT", normalization, use_mask, STATISTICS),),
        labels={"heart": (1,), "lungs": (2,)},
        regions_class_order=None,
        ignore_label=None,
        reader="SimpleITKIO",
        transpose_forward=(0, 1, 2),
        transpose_backward=(0, 1, 2),
        spacing_mm=(1.0, 1.0, 1.0),
        patch_size=(8, 8, 8),
        resample_data=replace(LINEAR, order=3),
        resample_segmentation=LINEAR,
        resample_probabilities=LINEAR,
        architecture="plain_conv_unet",
        architecture_arguments={},
        previous_stage=None,
        folds={},
        mirror_axes=(),
        cleanup=(),
    )
    return replace(plan, **changes)


def thresholds(batch):
    """A network that answers voxel by voxel: logits of background, heart and lungs from the intensity."""
    return torch.cat([torch.full_like(batch, 0.5), batch, 2 * batch - 1.5], dim=1)


UNIT = (1.0, 1.0, 1.0)


def ramp(shape=(9, 10, 11)):
    return np.linspace(0.01, 2.0, int(np.prod(shape)), dtype=np.float32).reshape(1, *shape)


@pytest.mark.parametrize("origin", Origin)
@pytest.mark.parametrize("patch", [(8, 8, 8), (16, 4, 16), (4, 6)], ids=str)
def test_a_network_that_sees_voxels_answers_the_same_through_every_window(origin, patch):
    image = ramp()
    plan = plan_of(origin, patch_size=patch, spacing_mm=UNIT[: len(patch)], mirror_axes=(0, 1))
    answer = nnunet.predict(image, UNIT, plan, [thresholds, thresholds])
    expected = thresholds(torch.from_numpy(image)[None])[0].softmax(0).numpy()
    assert np.abs(answer.probabilities() - expected).max() < 1e-6
    assert (answer.labels() == expected.argmax(0)).all()
    assert set(np.unique(answer.labels())) == {0, 1, 2}


def test_several_slices_at_once_give_the_same_answer_as_one(monkeypatch):
    shapes = []

    def network(batch):
        shapes.append(tuple(batch.shape))
        return thresholds(batch)

    image, plan = ramp(), plan_of(patch_size=(8, 8), spacing_mm=(1.0, 1.0), mirror_axes=(1,))
    one_by_one = nnunet.predict_scores(image, plan, [network])
    monkeypatch.setattr(nnunet_windows, "SLICES_PER_CALL", {"cpu": 4})
    shapes.clear()
    together = nnunet.predict_scores(image, plan, [network])
    assert shapes[:6:2] == [(4, 1, 8, 8), (4, 1, 8, 8), (1, 1, 8, 8)]
    assert np.abs(together - one_by_one).max() < 1e-6


def test_version_one_averages_probabilities_and_version_two_logits():
    def sure(batch):
        return torch.cat([batch * 0, batch * 0 + 6, batch * 0], dim=1)

    def unsure(batch):
        return torch.cat([batch * 0 + 2, batch * 0, batch * 0], dim=1)

    image = ramp((8, 8, 8))
    one = nnunet.predict(image, UNIT, plan_of(Origin.V1), [sure, unsure]).probabilities()[:, 0, 0, 0]
    two = nnunet.predict(image, UNIT, plan_of(Origin.V2), [sure, unsure]).probabilities()[:, 0, 0, 0]
    e = np.exp
    by_hand = (np.array([1, e(6), 1]) / (e(6) + 2) + np.array([e(2), 1, 1]) / (e(2) + 2)) / 2
    assert one == pytest.approx(by_hand, abs=1e-6)
    assert two == pytest.approx(np.array([e(1), e(3), 1]) / (e(1) + e(3) + 1), abs=1e-6)


def test_every_subset_of_the_axes_is_mirrored_once_and_turned_back():
    assert mirrorings((0, 2)) == [(), (0,), (2,), (0, 2)]
    seen = []

    def first_voxel_counts(batch):
        seen.append(batch.clone())
        return batch * torch.tensor([1.0, 0.0, 0.0]).reshape(1, 1, 3, 1)

    batch = torch.arange(6.0).reshape(1, 1, 3, 2)
    mean = mirrored_mean(first_voxel_counts, batch, (0,), lambda: None)
    assert len(seen) == 2 and torch.equal(seen[1], batch.flip(2))
    assert torch.equal(mean, batch * torch.tensor([0.5, 0.0, 0.5]).reshape(1, 1, 3, 1))
    assert torch.equal(batch, torch.arange(6.0).reshape(1, 1, 3, 2))


def test_windows_start_where_nnunet_lets_them():
    assert window_starts(110, 64, 0.5) == [0, 23, 46]
    assert window_starts(64, 64, 0.5) == [0]
    assert window_starts(65, 64, 0.5) == [0, 1]
    assert window_starts(10, 4, 1.0) == [0, 3, 6]
    assert window_starts(9, 4, 0.5) == [0, 2, 3, 5]  # 1.67 and 3.33 rounded


@pytest.mark.parametrize("patch", [(16, 12), (8, 9, 10), (3, 40, 5), (1, 2, 33)], ids=str)
def test_window_weights_are_a_gaussian_that_is_nowhere_zero(patch):
    from scipy.ndimage import gaussian_filter

    point = np.zeros(patch)
    point[tuple(n // 2 for n in patch)] = 1
    spread = gaussian_filter(point, [n / 8 for n in patch], mode="constant")
    weights = gaussian_weights(patch)
    assert weights.dtype == np.float32 and weights.max() == 1 and weights.min() > 0
    assert np.allclose(weights, spread / spread.max(), rtol=1e-6)


@pytest.mark.parametrize(("patch", "looks"), [((8, 8, 8), 2 * 4 * 2), ((8, 8), 2 * 4 * 2 * 8)], ids=str)
def test_cancelling_stops_before_the_next_look_of_the_network(patch, looks):
    calls = []

    def network(batch):
        calls.append(1)
        return thresholds(batch)

    fractions = []
    plan = plan_of(patch_size=patch, spacing_mm=UNIT[: len(patch)], mirror_axes=(0, 1))
    image = ramp((8, 8, 9))  # two folds, four mirrorings, two windows, in 2-D eight slices
    nnunet.predict_scores(image, plan, [network, network], progress=lambda f, _: fractions.append(f))
    assert len(calls) == looks
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    calls.clear()

    def stop(fraction, message):
        if len(calls) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        nnunet.predict(image, UNIT, plan, [network, network], progress=stop)
    assert len(calls) == 3


def test_the_way_back_undoes_crop_resampling_and_transposition():
    image = np.zeros((1, 12, 14, 16), dtype=np.float32)
    image[0, 2:10, 3:13, 4:12] = 0.3
    image[0, 4:8, 5:9, 6:8] = 1
    plan = plan_of(transpose_forward=(2, 0, 1), transpose_backward=(1, 2, 0), spacing_mm=(0.5, 1.0, 1.0))
    prepared, grid = nnunet.preprocess(image, UNIT, plan)
    assert prepared.shape == (1, 16, 8, 10)
    assert grid.crop == (slice(4, 12), slice(2, 10), slice(3, 13))
    answer = nnunet.predict(image, UNIT, plan, [thresholds])
    labels, entropy = answer.labels_and_entropy()
    expected = np.where(image[0] == 1, 1, 0)
    assert (labels == expected).all() and labels.dtype == np.uint8
    probabilities = answer.probabilities()
    assert probabilities.shape == (3, 12, 14, 16) and probabilities.dtype == np.float32
    outside = image[0] == 0
    assert (probabilities[0][outside] == 1).all() and (entropy[outside] == 0).all()
    assert np.abs(probabilities.sum(0) - 1).max() < 1e-6
    by_hand = -(probabilities * np.log(np.maximum(probabilities, 1e-30))).sum(0)
    assert np.abs(entropy - by_hand).max() < 1e-5 and entropy.max() > 0.5


def test_labels_may_skip_numbers_and_equal_scores_go_to_the_lower_label():
    plan = plan_of(labels={"b": (40,), "a": (7,), "ignored": (300,)}, ignore_label=300)
    assert nnunet.label_values(plan) == (0, 7, 40)

    def tied(batch):
        return torch.cat([batch * 0, batch * 0 + 1, batch * 0 + 1], dim=1)

    assert (nnunet.predict(ramp(), UNIT, plan, [tied]).labels() == 7).all()
    wide = replace(plan, ignore_label=None)

    def last(batch):
        return torch.cat([batch * 0, batch * 0, batch * 0, batch * 0 + 1], dim=1)

    labels = nnunet.predict(ramp(), UNIT, wide, [last]).labels()
    assert labels.dtype == np.uint16 and (labels == 300).all()


@pytest.mark.parametrize("origin", Origin)
def test_regions_write_their_labels_in_order_above_one_half(origin):
    plan = plan_of(origin, labels={"all": (1, 2), "core": (2,)}, regions_class_order=(1, 2))

    def regions(batch):
        return torch.cat([torch.where(batch > 0.5, 2.0, -2.0), torch.where(batch > 1.0, 1.0, 0.0)], dim=1)

    image = ramp()
    answer = nnunet.predict(image, UNIT, plan, [regions])
    labels, entropy = answer.labels_and_entropy()
    assert (labels == np.where(image[0] > 1, 2, np.where(image[0] > 0.5, 1, 0))).all()
    sigmoid = 1 / (1 + np.exp(-np.array([2.0, 1.0])))
    probabilities = answer.probabilities()
    assert probabilities[:, -1, -1, -1] == pytest.approx(sigmoid, abs=1e-6)
    assert probabilities[1, 0, 0, 0] == pytest.approx(0.5)  # not above one half, so not written
    assert entropy[0, 0, 0] == pytest.approx(np.log(2))


@pytest.mark.parametrize("regions", [None, (1, 2)], ids=["classes", "regions"])
def test_logits_and_their_probabilities_give_the_same_answer_when_it_is_said_which_they_are(regions):
    image, outputs = ramp(), 3 if regions is None else 2
    labels = {"all": (1, 2), "core": (2,)} if regions else {"heart": (1,), "lungs": (2,)}
    plan = plan_of(Origin.V2, labels=labels, regions_class_order=regions)
    # Logits below 0 whose probabilities are above 0, and above 0 whose probabilities are below 1.
    logits = np.stack([image[0] * slope - 1 for slope in (0.6, 1.1, 0.9)[:outputs]])
    logits[1:] *= 3
    exponents = np.exp(logits)
    probabilities = (exponents / exponents.sum(0) if regions is None else exponents / (1 + exponents)).astype(
        "f4"
    )
    grid = nnunet.preprocess(image, UNIT, plan)[1]
    usual = nnunet.Answer(logits, grid, plan)
    told = nnunet.Answer(probabilities, grid, plan, are_probabilities=True)
    assert len(np.unique(usual.labels())) > 1
    assert (told.labels() == usual.labels()).all()
    assert np.abs(told.probabilities() - usual.probabilities()).max() < 1e-6
    assert np.abs(told.labels_and_entropy()[1] - usual.labels_and_entropy()[1]).max() < 1e-5
    first = replace(plan, origin=Origin.V1)
    assert (nnunet.Answer(probabilities, grid, first).labels() == usual.labels()).all()
    turned = nnunet.Answer(logits, grid, first, are_probabilities=False)
    assert (turned.labels() == usual.labels()).all()
    assert np.abs(turned.probabilities() - usual.probabilities()).max() < 1e-6


def test_version_one_normalizes_after_resampling_and_version_two_before():
    image = np.zeros((1, 6, 6, 6), dtype=np.float32)
    image[0, :3], image[0, 3:] = 100, 1
    told = {"spacing_mm": (0.5, 1.0, 1.0), "resample_data": LINEAR}
    one, _ = nnunet.preprocess(image, UNIT, plan_of(Origin.V1, "ct", **told))
    two, _ = nnunet.preprocess(image, UNIT, plan_of(Origin.V2, "ct", **told))
    # The row between: 100 * 3/4 + 1/4 is cut at 20; or 20 * 3/4 + 1/4 is not.
    assert one[0, 5, 0, 0] == pytest.approx((20 - 10) / 5)
    assert two[0, 5, 0, 0] == pytest.approx((20 * 0.75 + 0.25 - 10) / 5)


NORMALIZED = {
    "ct": ([-5, 5, 30, 10], [-2, -1, 2, 0]),
    "ct2": (
        [-5, 0, 5, 30, 20, 11],
        [-8 / 3, -8 / 3, -1, 4, 4, 1],
    ),  # between 0 and 20 lie 5 and 11: mean 8, SD 3
    "zscore": ([1, 3, 1, 3], [-1, 1, -1, 1]),
    "none": ([1, 2, 3, 4], [1, 2, 3, 4]),
    "rescale01": ([2, 4, 3, 6], [0, 0.5, 0.25, 1]),
    "rgb01": ([0, 255, 51, 102], [0, 1, 0.2, 0.4]),
}


@pytest.mark.parametrize("scheme", NORMALIZED)
def test_intensities_are_normalized_as_the_channel_says(scheme):
    values, expected = NORMALIZED[scheme]
    image = np.array(values, dtype=np.int16).reshape(1, 1, 2, -1)
    before = image.copy()
    prepared, _ = nnunet.preprocess(image, UNIT, plan_of(Origin.V2, scheme))
    assert prepared.dtype == np.float32
    assert prepared.ravel() == pytest.approx(np.array(expected, dtype=float), abs=1e-5)
    assert (image == before).all()


@pytest.mark.parametrize("origin", Origin)
def test_a_masked_channel_is_normalized_inside_the_body_only(origin):
    image = np.zeros((1, 5, 5, 5), dtype=np.float32)
    image[0, 1:4, 1:4, 1:4] = 4
    image[0, 1, 1, 1:4] = 7
    image[0, 0, 2, 2] = image[0, 4, 2, 2] = image[0, 2, 0, 2] = image[0, 2, 4, 2] = 4
    image[0, 2, 2, 0] = image[0, 2, 2, 4] = 4  # the crop keeps corners of zeros
    image[0, 2, 2, 2] = 0  # a hole: it belongs to the body
    prepared, _ = nnunet.preprocess(image, UNIT, plan_of(origin, "zscore", True))
    body = image[0] != 0
    body[2, 2, 2] = True
    values = image[0][body].astype(float)
    assert prepared[0][body] == pytest.approx((values - values.mean()) / values.std(), abs=1e-5)
    assert (prepared[0][~body] == 0).all() and body.sum() < body.size
    unmasked, _ = nnunet.preprocess(image, UNIT, plan_of(origin, "zscore", False))
    assert (unmasked[0][~body] != 0).all()


def test_an_image_of_zeros_is_not_cropped_and_gets_an_answer():
    answer = nnunet.predict(np.zeros((1, 9, 9, 9), dtype=np.float32), UNIT, plan_of(), [thresholds])
    assert answer.grid.cropped_shape == (9, 9, 9) and (answer.labels() == 0).all()


def test_a_cascade_adds_one_channel_for_each_label():
    image = ramp((8, 8, 8))
    labels = np.zeros((8, 8, 8), dtype=np.uint8)
    labels[:4], labels[6:] = 40, 7
    plan = plan_of(labels={"a": (7,), "b": (40,)}, previous_stage="3d_lowres", spacing_mm=(2.0, 1.0, 1.0))
    prepared, _ = nnunet.preprocess(image, UNIT, plan, labels)
    assert prepared.shape == (3, 4, 8, 8) and prepared.dtype == np.float32
    assert prepared[1, :, 0, 0].tolist() == [0, 0, 0, 1]
    assert prepared[2, :, 0, 0].tolist() == [1, 1, 0, 0]


def test_a_cascade_in_a_cropped_image_keeps_its_labels_in_place():
    image = np.zeros((1, 8, 8, 8), dtype=np.float32)
    image[0, 4:] = 1
    labels = np.zeros((8, 8, 8), dtype=np.uint8)
    labels[6:] = 1
    for origin in Origin:
        plan = plan_of(origin, labels={"a": (1,)}, previous_stage="3d_lowres")
        prepared, _ = nnunet.preprocess(image, UNIT, plan, labels)
        assert prepared[1, :, 0, 0].tolist() == [0, 0, 1, 1]


TWO = (Channel("CT", "none", False, {}), Channel("MRI", "none", False, {}))
REFUSED = {
    "one channel where two are needed": (
        np.ones((1, 4, 4, 4)),
        UNIT,
        {"channels": TWO},
        r"with 2 channel\(s\) \(CT, MRI\), got shape \(1, 4, 4, 4\). Give one image a channel, in this order",
    ),
    "no voxels": (np.zeros((1, 0, 4, 4)), UNIT, {}, "got shape"),
    "a picture": (
        np.ones((1, 4, 4)),
        UNIT,
        {"patch_size": (4, 4), "spacing_mm": (1.0, 1.0)},
        "channels, z, y, x",
    ),
    "two spacings": (np.ones((1, 4, 4, 4)), (1, 1), {}, "three spacings"),
    "channels": (np.zeros((2, 4, 4, 4)), UNIT, {}, "1 channel.s. .CT., got shape"),
    "dimensions": (np.zeros((4, 4, 4)), UNIT, {}, "channels, z, y, x"),
    "numbers": (np.full((1, 4, 4, 4), np.nan), UNIT, {}, "NaN or infinity"),
    "spacing": (np.ones((1, 4, 4, 4)), (1, 0, 1), {}, "three spacings in mm above 0"),
    "vanished": (np.ones((1, 4, 4, 4)), UNIT, {"spacing_mm": (9.0, 1.0, 1.0)}, "vanishes"),
    "colors": (np.full((1, 4, 4, 4), 256), UNIT, {"normalization": "rgb01"}, "8-bit colors"),
    "statistics": (np.full((1, 4, 4, 4), 50), UNIT, {"normalization": "ct2"}, "no voxel to normalize by"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_image_that_does_not_fit_is_refused_with_a_reason(case):
    image, spacing, changes, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        nnunet.preprocess(image, spacing, plan_of(**changes))


@pytest.mark.parametrize("origin", Origin)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_model_without_folds_is_refused_before_the_image_is_prepared(monkeypatch, origin, dimensions):
    plan = plan_of(origin, patch_size=(8,) * dimensions, spacing_mm=(1.0,) * dimensions)
    with pytest.raises(CheckpointError, match=r"Phantom, 3d_fullres: .* no fold was given"):
        nnunet.predict_scores(ramp(), plan, [])
    monkeypatch.setattr(nnunet, "preprocess", None)
    with pytest.raises(CheckpointError, match="no fold was given"):
        nnunet.predict(ramp(), UNIT, plan, [])


@pytest.mark.parametrize("origin", Origin)
@pytest.mark.parametrize("slices_mm", [0.2, 1.0, 7.0])
def test_a_2d_model_leaves_the_slices_as_they_are(origin, slices_mm):
    values = np.array([3, 1, 9, 2, 7], dtype=np.float32).reshape(5, 1, 1)
    image = np.tile(values, (1, 1, 12, 12))
    plan = plan_of(origin, patch_size=(8, 8), spacing_mm=(0.5, 1.0))
    prepared, grid = nnunet.preprocess(image, (slices_mm, 1.0, 1.0), plan)
    assert prepared.shape == (1, 5, 24, 12)
    assert grid.target_spacing_mm == (slices_mm, 0.5, 1.0)
    assert np.abs(prepared[0] - values).max() < 1e-4  # no slice has anything of its neighbors


def test_plans_and_weights_that_do_not_fit_are_refused_with_a_reason():
    image = ramp((8, 8, 8))
    with pytest.raises(CheckpointError, match=r"unknown normalization 'log'.*zscore"):
        nnunet.preprocess(image, UNIT, plan_of(normalization="log"))
    bare = plan_of(channels=(Channel("CT", "ct", False, {}),))
    with pytest.raises(CheckpointError, match="lack 'percentile_00_5'"):
        nnunet.preprocess(image, UNIT, bare)
    with pytest.raises(CheckpointError, match="previous stage, 3d_lowres, got none"):
        nnunet.preprocess(image, UNIT, plan_of(previous_stage="3d_lowres"))
    with pytest.raises(CheckpointError, match="has none"):
        nnunet.preprocess(image, UNIT, plan_of(), np.zeros((8, 8, 8), dtype=int))
    with pytest.raises(InputError, match="on the grid of the image"):
        nnunet.preprocess(image, UNIT, plan_of(previous_stage="x"), np.zeros((8, 8, 7), dtype=int))
    with pytest.raises(CheckpointError, match=r"expected 3 outputs.*do not belong together"):
        nnunet.predict(image, UNIT, plan_of(), [lambda batch: batch])
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        nnunet.predict(image, UNIT, plan_of(), [lambda batch: thresholds(batch) / 0])


# Two cubes that touch at an edge (3 + 1 voxels by faces) and one apart of 2; another label far off.
LABELS = np.zeros((6, 6, 12), dtype=np.uint8)
LABELS[0, 0, 0:3], LABELS[1, 0, 3], LABELS[4, 4, 4:6] = 1, 1, 1
LABELS[0, 5, 0:2], LABELS[5, 5, 9:11] = 2, 2


def entry(labels, minimum=None):
    return {"labels": labels, "keep": "largest", "min_size_mm3": minimum}


CLEANED = {
    "by_faces": (Origin.V1, (entry((1,)),), {1: 3, 2: 4}),
    "by_corners": (Origin.V2, (entry((1,)),), {1: 4, 2: 4}),
    "as_large_as_the_largest": (Origin.V2, (entry((2,)),), {1: 6, 2: 4}),
    "a_joint_region": (Origin.V2, (entry((1, 2)),), {1: 4, 2: 0}),
    "one_after_the_other": (Origin.V2, (entry((1, 2)), entry((1,))), {1: 4, 2: 0}),
    "smaller_than_the_minimum": (Origin.V1, (entry((1,), 8.1),), {1: 3, 2: 4}),
    "not_smaller_than_the_minimum": (Origin.V1, (entry((1,), 8.0),), {1: 5, 2: 4}),
    "nothing_there": (Origin.V1, (entry((9,)),), {1: 6, 2: 4}),
    "no_rule": (Origin.V1, (), {1: 6, 2: 4}),
}


@pytest.mark.parametrize("case", CLEANED)
def test_clean_up_keeps_the_largest_component(case):
    origin, cleanup, expected = CLEANED[case]
    before = LABELS.copy()
    out = nnunet.clean_up(LABELS, (1.0, 2.0, 2.0), plan_of(origin, cleanup=cleanup))  # 4 mm3 a voxel
    assert {value: int((out == value).sum()) for value in (1, 2)} == expected
    assert (before == LABELS).all()


def test_clean_up_of_another_kind_is_refused():
    with pytest.raises(CheckpointError, match="unknown clean-up 'smallest'"):
        nnunet.clean_up(LABELS, UNIT, plan_of(cleanup=({"labels": (1,), "keep": "smallest"},)))


@pytest.mark.parametrize("minimum", [None, 30.0])
def test_clean_up_is_version_ones(minimum):
    theirs = pytest.importorskip(
        "nnunet.postprocessing.connected_components", reason="nnunet is not installed"
    )
    labels = np.random.default_rng(0).integers(0, 5, size=(20, 20, 20)).clip(0, 3).astype(np.uint8)
    cleanup = (entry((1,), minimum), entry((2, 3), minimum))
    ours = nnunet.clean_up(labels, (1.0, 2.0, 1.5), plan_of(Origin.V1, cleanup=cleanup))
    sizes = None if minimum is None else {1: minimum, (2, 3): minimum}
    expected, _, _ = theirs.remove_all_but_the_largest_connected_component(
        labels.copy(), [1, [2, 3]], 3.0, sizes
    )
    assert (ours == expected).all() and (ours != labels).any()


def test_clean_up_is_version_twos():
    theirs = pytest.importorskip(
        "nnunetv2.postprocessing.remove_connected_components", reason="nnunetv2 is not installed"
    )
    labels = (np.random.default_rng(0).integers(0, 40, size=(20, 20, 20)) - 35).clip(0, 3).astype(np.uint8)
    ours = nnunet.clean_up(labels, UNIT, plan_of(cleanup=(entry((1, 2)), entry((3,)))))
    expected = theirs.remove_all_but_largest_component_from_segmentation(labels, [1, 2])
    expected = theirs.remove_all_but_largest_component_from_segmentation(expected, 3)
    assert (ours == expected).all() and (ours != labels).any()
