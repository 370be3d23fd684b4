"""Every kind of doubt, on both roads: in its range, the same for the same seed, said in the record, or refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from thoraxseg.errors import OptionError
from thoraxseg.inference import predictive_entropy
from thoraxseg.options import SegmentOptions
from thoraxseg.pipeline import segment, write_case

SAMPLES = 4


class Blobs(torch.nn.Module):
    """Looks at a neighborhood of each voxel; what it finds depends on its seed."""

    def __init__(self, seed, dropout=0.0, dimensions=3, classes=3):
        super().__init__()
        conv = torch.nn.Conv2d if dimensions == 2 else torch.nn.Conv3d
        torch.manual_seed(seed)
        self.first, self.last = conv(1, 6, 3, padding=1), conv(6, classes, 1)
        torch.nn.init.normal_(self.first.weight, std=0.4)
        torch.nn.init.normal_(self.last.weight, std=2.0)
        self.drop = torch.nn.Dropout(dropout) if dropout else torch.nn.Identity()
        self.eval()

    def forward(self, image):
        return self.last(self.drop(torch.relu(self.first(image))))


Z = [{"name": "z_score"}]


@pytest.fixture
def loaded(a_predictor, nnunet_checkpoint, a_plan):
    """Make a checkpoint and its predictor (None: read from its files) of one of the two roads, with two folds."""

    def make(road, folds=2, dropout=0.5, **changes):
        if road == "card":
            words = {"preprocess": Z, "inference.averaging": "probabilities"} | changes
            slices = words.get("inference.mode") == "slices"
            networks = [Blobs(fold, dropout, 2 if slices else 3) for fold in range(folds)]
            predictor = a_predictor(*networks, changes=words)
            return predictor.checkpoint, predictor
        plan = a_plan(mirror_axes=(0, 1, 2), **changes)
        return nnunet_checkpoint(plan, folds), None

    return make


def run(loaded, volume, **options):
    checkpoint, predictor = loaded
    return segment(volume, checkpoint, SegmentOptions(samples=SAMPLES, **options), predictor=predictor)


KINDS = ["entropy", "folds", "wang", "mean-prob", "dropout"]
ROADS = ["card", "nnunet"]
BOTH = [(road, kind) for road in ROADS for kind in KINDS if (road, kind) != ("nnunet", "dropout")]


@pytest.mark.parametrize(("road", "kind"), BOTH)
def test_every_kind_gives_a_map_in_its_range_and_contours_to_match(loaded, phantom, road, kind):
    found = run(loaded(road), phantom(), uncertainty=kind)
    assert found.uncertainty.shape == found.volume.shape and found.uncertainty.dtype == np.float32
    assert 0 <= found.uncertainty.min() < found.uncertainty.max() <= found.quantity.maximum + 1e-6
    assert found.quantity.maximum == pytest.approx(0.5 if kind == "folds" else np.log(3))
    probabilities = found.probabilities()
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-4)
    np.testing.assert_array_equal(probabilities.argmax(axis=0), found.segmentation.labels)
    if kind != "folds":
        np.testing.assert_allclose(found.uncertainty, predictive_entropy(probabilities), atol=1e-5)


@pytest.mark.parametrize(("road", "kind"), BOTH)
def test_the_same_seed_gives_the_same_bits_and_another_seed_another_map(loaded, phantom, road, kind):
    made, volume = loaded(road), phantom()
    maps = [run(made, volume, uncertainty=kind, seed=seed).uncertainty for seed in (7, 7, 8)]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert np.array_equal(maps[0], maps[2]) == (kind in ("entropy", "folds"))


@pytest.mark.parametrize("mode", ["slices", "sliding-window", "whole"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_mode_of_a_card_gives_every_kind(loaded, phantom, mode, kind):
    made = loaded("card", **{"inference.mode": mode, "inference.patch_size": [8, 8, 8]})
    torch.set_num_threads(2 if mode == "slices" else 1)  # slices go to several cores, each to one
    found = [run(made, phantom(), uncertainty=kind) for _ in range(2)]
    assert found[0].uncertainty.max() > 0
    np.testing.assert_array_equal(found[0].uncertainty, found[1].uncertainty)


@pytest.mark.parametrize("road", ROADS)
def test_wang_gives_how_often_each_label_was_seen(loaded, phantom, road):
    """Where logits are averaged else, a frequency must not be taken for a logit."""
    made = loaded("card", **{"inference.averaging": "logits"}) if road == "card" else loaded(road)
    probabilities = run(made, phantom(border=0), uncertainty="wang").probabilities()
    fractions = np.unique([part / of for of in range(1, SAMPLES + 1) for part in range(of + 1)])
    assert np.abs(probabilities[..., None] - fractions).min(axis=-1).max() < 1e-6
    assert len(np.unique(probabilities)) > 3


@pytest.mark.parametrize("averaging", ["probabilities", "logits"])
def test_mean_prob_averages_probabilities_whatever_the_card_averages(loaded, phantom, averaging):
    """Without changes every sample is the image itself, so that the mean is its own answer."""
    checkpoint, predictor = loaded("card", **{"inference.averaging": averaging})
    volume = replace(phantom(), array=np.ones((1, 1, 1), np.float32))
    card = replace(checkpoint.card, preprocess=())
    predictor = replace(predictor, checkpoint=replace(checkpoint, card=card))
    plain, mean = (
        run((predictor.checkpoint, predictor), volume, uncertainty=kind).probabilities()
        for kind in ("entropy", "mean-prob")
    )
    np.testing.assert_allclose(plain, mean, atol=1e-5)


@pytest.mark.parametrize("kind", ["wang", "mean-prob", "dropout"])
def test_the_record_says_how_samples_were_drawn(loaded, phantom, kind, tmp_path, no_pictures):
    found = run(loaded("card"), phantom(), uncertainty=kind, seed=5)
    record = write_case(found, tmp_path, "m", "0" * 64)
    about = record["provenance"]["sampling"]
    assert (about["form"], about["samples"], about["seed"]) == (kind, SAMPLES, 5)
    assert 1 <= about["fewest_valid_samples"] <= SAMPLES
    if kind == "dropout":
        assert (about["layers"], about["rates"], about["fewest_valid_samples"]) == (2, [0.5], SAMPLES)
    assert str(SAMPLES) in record["uncertainty"]["kind"]
    assert record["provenance"]["options"]["uncertainty"] == kind


@pytest.mark.parametrize("kind", ["entropy", "folds", "none"])
def test_where_nothing_was_drawn_the_record_says_nothing_of_samples(loaded, phantom, kind):
    assert run(loaded("card"), phantom(), uncertainty=kind).provenance["sampling"] is None


def test_the_record_of_a_spread_says_spread_and_its_unit(loaded, phantom, tmp_path, no_pictures):
    import nrrd

    found = run(loaded("card"), phantom(), uncertainty="folds")
    record = write_case(found, tmp_path, "m", "0" * 64)
    assert record["uncertainty"]["range"] == [0, 0.5] and record["uncertainty"]["unit"] == "1"
    assert all("mean_fold_spread" in row for row in record["measurements"]["structures"])
    values, header = nrrd.read(str(tmp_path / "m_uncertainty.nrrd"))
    assert header["thoraxseg_quantity"].startswith("standard deviation, over the folds")
    assert header["thoraxseg_range"] == "0 to 0.500000" and values.max() <= 0.5


def test_the_spread_of_a_card_is_that_of_the_winner_over_the_folds(loaded, phantom):
    checkpoint, predictor = loaded("card", folds=3)
    found = segment(phantom(), checkpoint, SegmentOptions(uncertainty="folds"), predictor=predictor)
    image = phantom().array
    image = ((image - image.mean()) / image.std())[None]
    each = [predictor.scores(image, folds=[fold]) for fold in range(3)]
    winner = np.mean(each, axis=0).argmax(axis=0)
    expected = np.take_along_axis(np.std(each, axis=0), winner[None], 0)[0]
    np.testing.assert_allclose(found.uncertainty, expected, atol=1e-3)
    plain = segment(phantom(), checkpoint, predictor=predictor)
    np.testing.assert_array_equal(found.segmentation.labels, plain.segmentation.labels)


def test_without_dropout_at_work_the_networks_stay_as_they_were(loaded, phantom):
    checkpoint, predictor = loaded("card")
    before = segment(phantom(), checkpoint, predictor=predictor).probabilities()
    segment(phantom(), checkpoint, SegmentOptions(uncertainty="dropout", samples=2), predictor=predictor)
    assert not any(layer.training for network in predictor.networks for layer in network.modules())
    np.testing.assert_array_equal(before, segment(phantom(), checkpoint, predictor=predictor).probabilities())


# What cannot be


@pytest.mark.parametrize("road", ROADS)
def test_the_spread_of_one_fold_is_refused_and_a_fold_explained(loaded, phantom, road):
    with pytest.raises(OptionError, match=r"the spread of folds needs two or more, got 1\. A fold is one of"):
        run(loaded(road, folds=1), phantom(), uncertainty="folds")


@pytest.mark.parametrize("road", ROADS)
def test_dropout_without_dropout_layers_is_refused_with_other_choices(loaded, phantom, road):
    with pytest.raises(
        OptionError, match=r"this checkpoint has no dropout layers.*entropy, wang or mean-prob"
    ):
        run(loaded(road, dropout=0.0) if road == "card" else loaded(road), phantom(), uncertainty="dropout")


# Regions of nnU-Net


REGIONS = {"labels": {"thorax": (1, 2, 3), "lungs": (2, 3), "tumor": (3,)}, "regions_class_order": (1, 2, 3)}


@pytest.mark.parametrize("kind", ["entropy", "folds", "wang", "mean-prob"])
def test_regions_have_the_doubt_of_in_or_out(loaded, phantom, kind):
    found = run(loaded("nnunet", **REGIONS), phantom(), uncertainty=kind)
    assert found.quantity.maximum == pytest.approx(0.5 if kind == "folds" else np.log(2))
    assert 0 <= found.uncertainty.min() < found.uncertainty.max() <= found.quantity.maximum + 1e-6
    probabilities, labels = found.probabilities(), np.zeros(found.volume.shape, np.uint8)
    for region, label in zip(probabilities, (1, 2, 3), strict=True):
        labels[region > 0.5] = label
    np.testing.assert_array_equal(found.segmentation.labels, labels)


# Sides

SIDED = {"labels": {"1": "left_lung", "2": "right_lung"}}
OTHER = {"color": [0.5, 0.5, 0.5], "terminology": "a~A^1^A~T^2^T~^^~r~^^~^^"}
KIDNEY = {"labels": {"1": "lungs", "2": {"key": "kidney_l", "name": "Kidney", **OTHER}}}


@pytest.mark.parametrize("kind", ["wang", "mean-prob"])
@pytest.mark.parametrize("labels", [SIDED, KIDNEY], ids=["lungs", "kidney"])
@pytest.mark.parametrize(
    ("orientation", "codes", "allowed"),
    [
        ("RAS", "LPS", [0, 1]),
        ("RIA", "LPS", [0, 1]),
        ("SAR", "LPS", [1, 2]),
        ("ALS", "LPS", [0, 2]),
        ("ijk", "PLI", [0, 2]),
        ("kji", "PLI", [0, 2]),
        ("jik", "PLI", [0, 1]),
    ],
)
def test_left_and_right_are_never_exchanged_where_they_have_names(
    loaded, phantom, kind, labels, orientation, codes, allowed
):
    made = loaded("card", folds=1, **{"input.orientation": orientation, **labels})
    found = run(made, phantom(codes, shape=(6, 8, 7)), uncertainty=kind)
    assert found.provenance["sampling"]["flip_axes"] == allowed


@pytest.mark.parametrize("kind", ["wang", "mean-prob"])
@pytest.mark.parametrize(("mode", "allowed"), [("whole", [0, 1, 2]), ("slices", [1, 2])])
def test_without_sides_everything_the_network_sees_may_be_flipped(loaded, phantom, kind, mode, allowed):
    made = loaded("card", folds=1, **{"inference.mode": mode})
    found = run(made, phantom(shape=(6, 8, 7)), uncertainty=kind)
    assert found.provenance["sampling"]["flip_axes"] == allowed


@pytest.mark.parametrize("kind", ["wang", "mean-prob"])
def test_a_network_that_only_sees_left_and_right_is_never_shown_them_exchanged(a_predictor, phantom, kind):
    """The columns grow from right to left; in a flipped image they would fall."""
    seen = []

    class Watch(torch.nn.Module):
        def forward(self, image):
            columns = image[0, 0].mean(dim=(0, 1))
            seen.append(float(columns[-3:].mean() - columns[:3].mean()))
            return torch.cat([image, 0 * image, 0 * image], dim=1)

    predictor = a_predictor(Watch(), changes={"input.orientation": "LPS", **SIDED})
    volume = phantom("LPS", border=0)
    volume.array[:] = np.arange(volume.shape[2])
    mild = SegmentOptions(uncertainty=kind, samples=20)
    segment(volume, predictor.checkpoint, mild, predictor=predictor)
    if kind == "mean-prob":  # wang also turns the slices all the way around
        assert len(seen) == 20 and min(seen) > 0
    sampling = segment(volume, predictor.checkpoint, mild, predictor=predictor).provenance["sampling"]
    assert sampling["flip_axes"] == [0, 1]


@pytest.mark.parametrize(("axes", "dimensions"), [((0, 2), 3), ((), 3), ((0,), 2), ((0, 1), 2)])
def test_an_nnunet_model_is_flipped_as_it_was_in_training(
    loaded, phantom, axes, dimensions, nnunet_checkpoint, a_plan
):
    plan = a_plan(patch_size=(8,) * dimensions, mirror_axes=axes)
    found = run((nnunet_checkpoint(plan), None), phantom(), uncertainty="mean-prob")
    assert found.provenance["sampling"]["flip_axes"] == [axis + 3 - dimensions for axis in axes]


@pytest.mark.parametrize("kind", KINDS)
def test_progress_never_falls_for_any_kind(loaded, phantom, kind):
    checkpoint, predictor = loaded("card")
    told = []
    options = SegmentOptions(uncertainty=kind, samples=3)
    segment(phantom(), checkpoint, options, lambda fraction, message: told.append(fraction), predictor)
    assert told == sorted(told) and told[-1] == 1
