"""Several checkpoints as one: what they average, that a share of 1 is that checkpoint alone, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from thoraxseg import inference
from thoraxseg.checkpoints.ensemble import ensemble_of
from thoraxseg.errors import CheckpointError, InputError, OptionError
from thoraxseg.inference import Predictor, predictive_entropy
from thoraxseg.options import Device, SegmentOptions
from thoraxseg.pipeline import segment
from thoraxseg.roads.answer import Answer
from thoraxseg.roads.ensemble import mix, together

IMAGE, MAP = {"name": "MRI", "source": "image"}, {"name": "lung map", "source": "lungs"}
SPACES = ["probabilities", "logits"]
# A clean-up that changes something: an ensemble must leave it out.
OPENED = {
    "regions": [{"name": "lungs", "labels": [1], "write": 1}, {"name": "tumors", "labels": [2], "write": 2}],
    "rules": [{"name": "open_ball", "region": "lungs", "radius_voxels": 2}],
}


class Bands(torch.nn.Module):
    """Logits of three classes by the distance of the first channel from three values."""

    def __init__(self, *centers):
        super().__init__()
        self.centers, self.seen = centers, []

    def forward(self, image):
        self.seen.append(image[0].clone().numpy())
        return torch.stack([-(((image[:, 0] - center) / 50) ** 2) for center in self.centers], dim=1)


@pytest.fixture
def part_of(a_predictor):
    """Make one member: a card by the name, on an orientation of its own, with clean-up rules."""

    def make(name, *centers, **words):
        lungs = {"lungs": words.pop("lungs")} if "lungs" in words else {}
        changes = {"name": name, "postprocess": OPENED, **words}
        return a_predictor(Bands(*centers), changes=changes, **lungs)

    return make


@pytest.fixture
def pair(part_of):
    """Two members that see the image on different axes and at different sizes, and disagree."""
    return (
        part_of("one", 900, 1000, 1100),
        part_of("two", 1050, 950, 1200, **{"input.orientation": "IPR", "preprocess": [
            {"name": "resize", "shape": [20, 18, 24]}]}),
    )  # fmt: skip


def whole(members, shares=None, space="probabilities"):
    """Return the ensemble of predictors as a predictor."""
    checkpoint = ensemble_of([member.checkpoint for member in members], shares, space)
    return Predictor(checkpoint, (), "cpu", members=tuple(members))


def by(predictor, volume, channels=(), **options):
    options = SegmentOptions(**options)
    return segment(volume, predictor.checkpoint, options, predictor=predictor, channels=channels)


# Numbers by hand


def maps(*classes):
    return np.array(classes, np.float32)[:, None, None, None]


@pytest.mark.parametrize(
    ("parts", "space", "expected"),
    [
        ([((0.8, 0.2), 0.5), ((0.2, 0.8), 0.5)], "probabilities", (0.5, 0.5)),
        ([((0.8, 0.2), 0.75), ((0.4, 0.6), 0.25)], "probabilities", (0.7, 0.3)),
        ([((0.8, 0.2), 0.5), ((0.2, 0.8), 0.5)], "logits", (0.5, 0.5)),
        # The odds 4 and 1/4 to the powers 3/4 and 1/4 make 2.
        ([((0.8, 0.2), 0.75), ((0.2, 0.8), 0.25)], "logits", (2 / 3, 1 / 3)),
        # Square roots of 0.9 x 0.1, 0.05 x 0.45, 0.05 x 0.45.
        ([((0.9, 0.05, 0.05), 0.5), ((0.1, 0.45, 0.45), 0.5)], "logits", (0.5, 0.25, 0.25)),
        ([((1.0, 0.0), 0.5), ((0.5, 0.5), 0.5)], "probabilities", (0.75, 0.25)),
        ([((0.5, 0.5), 0.2), ((0.1, 0.9), 0.3), ((0.3, 0.7), 0.5)], "probabilities", (0.28, 0.72)),
    ],
)
def test_averages_are_the_numbers_known_on_paper(parts, space, expected):
    found = mix([(maps(*values), share) for values, share in parts], space)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5)


def test_a_class_that_one_is_sure_of_having_not_found_stays_a_number():
    found = mix([(maps(1, 0, 0), 0.5), (maps(0, 1, 0), 0.5)], "logits")
    np.testing.assert_allclose(found.ravel(), [0.5, 0.5, 0], atol=1e-6)
    assert np.isfinite(found).all()


def test_the_average_of_logits_is_the_softmax_of_the_weighted_logits():
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 4, 2, 3, 5)) * 3
    shares = (0.2, 0.3, 0.5)
    probabilities = [(np.exp(one) / np.exp(one).sum(axis=0)).astype(np.float32) for one in logits]
    total = sum(share * one for share, one in zip(shares, logits, strict=True))
    expected = np.exp(total) / np.exp(total).sum(axis=0)
    found = mix(list(zip(probabilities, shares, strict=True)), "logits")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_mixing_alters_none_of_its_parts():
    one, two = maps(0.8, 0.2), maps(0.2, 0.8)
    for space in SPACES:
        mix([(one, 0.5), (two, 0.5)], space)
    assert one.ravel().tolist() == maps(0.8, 0.2).ravel().tolist()
    assert two.ravel().tolist() == maps(0.2, 0.8).ravel().tolist()


def test_other_classes_are_refused():
    with pytest.raises(CheckpointError, match="expected checkpoints with the same classes in an ensemble"):
        mix([(maps(0.5, 0.5), 0.5), (maps(0.2, 0.3, 0.5), 0.5)], "probabilities")


# On the road


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("shares", "which"), [((1, 0), 0), ((0, 3), 1)])
def test_a_share_of_1_is_that_checkpoint_bit_for_bit_without_its_clean_up(
    pair, phantom, space, shares, which
):
    volume = phantom()
    alone = by(pair[which], volume, postprocess="none")
    assert (by(pair[which], volume).segmentation.labels != alone.segmentation.labels).any()
    found = by(whole(pair, shares, space), volume)
    np.testing.assert_array_equal(found.segmentation.labels, alone.segmentation.labels)
    np.testing.assert_array_equal(found.uncertainty, alone.uncertainty)
    np.testing.assert_array_equal(found.probabilities(), alone.probabilities())
    assert found.quantity == alone.quantity


@pytest.mark.parametrize("shares", [None, (1, 3), (0.9, 0.1)])
def test_probabilities_are_averaged_on_the_grid_of_the_input(pair, phantom, shares):
    volume = phantom("LPS")
    one, two = (by(member, volume, postprocess="none").probabilities() for member in pair)
    w = 0.5 if shares is None else shares[0] / sum(shares)
    found = by(whole(pair, shares), volume)
    expected = w * one + (1 - w) * two
    np.testing.assert_allclose(found.probabilities(), expected, atol=1e-5)
    np.testing.assert_array_equal(found.segmentation.labels, found.probabilities().argmax(axis=0))
    np.testing.assert_allclose(found.uncertainty, predictive_entropy(found.probabilities()), atol=1e-6)
    assert (found.segmentation.labels != one.argmax(axis=0)).any()
    assert found.quantity.words == "entropy of the averaged probabilities"
    assert found.quantity.maximum == pytest.approx(np.log(3))


def test_logits_are_averaged_on_the_grid_of_the_input(pair, phantom):
    volume = phantom("LPS")
    one, two = (by(member, volume, postprocess="none").probabilities() for member in pair)
    found = by(whole(pair, (1, 3), "logits"), volume).probabilities()
    expected = np.maximum(one, 1e-38) ** 0.25 * np.maximum(two, 1e-38) ** 0.75
    np.testing.assert_allclose(found, expected / expected.sum(axis=0), atol=1e-4)
    assert np.abs(found - by(whole(pair, (1, 3)), volume).probabilities()).max() > 0.01


def test_an_nnunet_model_and_one_of_a_card_are_averaged(nnunet_checkpoint, a_plan, part_of, phantom):
    plan = a_plan(labels={"lungs": (1,), "tumor": (2,)}, reader="SimpleITKIOWithReorient")
    checkpoint = nnunet_checkpoint(plan, folds=2)
    members = [inference.load_predictor(checkpoint, Device.CPU), part_of("other", 900, 1000, 1100)]
    volume = phantom("PIR", (1.2, 0.9, 1.1))
    each = [by(member, volume, postprocess="none").probabilities() for member in members]
    found = by(whole(members, (0.4, 0.6)), volume)
    np.testing.assert_allclose(found.probabilities(), 0.4 * each[0] + 0.6 * each[1], atol=1e-5)


def test_the_record_names_every_part_with_its_share(pair, phantom):
    found = by(whole(pair, (1, 3), "logits"), phantom())
    about = found.provenance["checkpoint"]
    assert [(part["share"], part["name"]) for part in about["members"]] == [(0.25, "one"), (0.75, "two")]
    assert about["averaging"] == "logits" and about["name"] == "one + two"
    note = next(note for note in found.notes if note.startswith("Ensemble"))
    assert note == "Ensemble on logits: 0.25 x one + 0.75 x two; without any checkpoint's own clean-up."


def test_without_doubt_none_is_made(pair, phantom):
    for shares in ((1, 0), (1, 1)):
        found = by(whole(pair, shares), phantom(), uncertainty="none")
        assert found.uncertainty is None and found.quantity is None


@pytest.mark.parametrize("kind", ["folds", "wang", "mean-prob", "dropout"])
def test_doubt_that_an_ensemble_cannot_give_is_refused_before_it_works(pair, phantom, kind):
    with pytest.raises(
        OptionError, match=f"--uncertainty {kind}: an ensemble of checkpoints gives entropy or none"
    ):
        by(whole(pair), phantom(), uncertainty=kind)
    assert not any(member.networks[0].seen for member in pair)


@pytest.mark.parametrize(("shares", "stage", "other"), [
    ((1, 1), "ensemble", "uncertainty"), ((1, 0), "uncertainty", None)])  # fmt: skip
def test_members_map_their_doubt_only_where_it_is_used(pair, phantom, shares, stage, other):
    found = by(whole(pair, shares), phantom())
    assert found.uncertainty.max() > 0
    assert stage in found.provenance["timings_s"] and other not in found.provenance["timings_s"]


def test_what_any_part_says_is_told_once(pair, phantom):
    said = [
        replace(member.checkpoint, card=replace(member.checkpoint.card, assumed=("a guess",)))
        for member in pair
    ]
    members = [replace(member, checkpoint=checkpoint) for member, checkpoint in zip(pair, said, strict=True)]
    found = by(whole(members), phantom())
    assert found.warnings.count("a guess") == 1
    assert any("were resized" in note for note in found.notes)


def test_progress_never_falls_over_all_parts(pair, phantom):
    predictor, told = whole(pair), []
    segment(phantom(), predictor.checkpoint, None, lambda fraction, message: told.append(fraction), predictor)
    assert told == sorted(told) and told[-1] == 1


# Channels of an ensemble


class Finds(torch.nn.Module):
    """Finds lungs in one box."""

    def forward(self, image):
        found = torch.zeros(image.shape[2:])
        found[2:9] = 1
        return torch.stack([0.5 - found, found])[None]


@pytest.fixture
def mixed(part_of, a_predictor):
    """One member that sees the image alone, and one that sees a lung map too and can have one made."""
    finder = a_predictor(Finds(), changes={"name": "finder", "labels": {"1": "lungs"}})
    return part_of("one", 900, 1000, 1100), part_of(
        "two", 1050, 950, 1200, channels=[IMAGE, MAP], lungs=finder
    )


def test_every_part_gets_its_own_channels_and_a_map_is_made_where_none_is_given(mixed, phantom):
    volume = phantom()
    by(whole(mixed), volume)
    assert [member.networks[0].seen[0].shape[0] for member in mixed] == [1, 2]
    np.testing.assert_array_equal(mixed[1].networks[0].seen[0][1, :, 0, 0], [0, 0, *[1] * 7, *[0] * 5])


def test_a_lung_map_that_is_given_to_an_ensemble_is_used(mixed, phantom):
    volume = phantom()
    given = np.zeros(volume.shape, np.uint8)
    given[5:12] = 1
    by(whole(mixed), volume, [replace(volume, array=given)])
    np.testing.assert_array_equal(mixed[1].networks[0].seen[0][1], given)
    assert mixed[0].networks[0].seen[0].shape[0] == 1


def test_channels_that_no_part_takes_are_refused(pair, mixed, phantom):
    volume = phantom()
    with pytest.raises(
        InputError, match=r"no checkpoint of the ensemble takes more than 1 channel\(s\), got 2"
    ):
        by(whole(pair), volume, [volume])
    with pytest.raises(InputError, match=r"takes more than 2 channel\(s\), got 3"):
        by(whole(mixed), volume, [volume, volume])


def test_a_part_that_lacks_a_channel_says_so(part_of, phantom):
    two = part_of("two", 1, 2, 3, channels=[IMAGE, {"name": "T2", "source": "image"}])
    with pytest.raises(InputError, match=r"two takes 2 channel\(s\) \(MRI, T2\), got 1"):
        by(whole([part_of("one", 1, 2, 3), two]), phantom())


# What cannot be averaged


def test_regions_that_overlap_are_refused(nnunet_checkpoint, a_plan):
    regions = {"labels": {"lungs": (1, 2), "tumor": (2,)}, "regions_class_order": (1, 2)}
    checkpoints = [nnunet_checkpoint(a_plan(**regions)) for _ in range(2)]
    with pytest.raises(
        CheckpointError, match="its outputs are overlapping regions, which cannot be averaged"
    ):
        ensemble_of(checkpoints)


def test_other_structures_are_refused(part_of):
    one = part_of("one", 1, 2, 3).checkpoint
    two = part_of("two", 1, 2, 3, labels={"1": "tumors", "2": "lungs"}).checkpoint
    with pytest.raises(CheckpointError, match="one and two find different structures"):
        ensemble_of([one, two])


@pytest.mark.parametrize("shares", [(1, 0), (0, 1)])
def test_together_takes_the_doubt_and_the_labels_of_the_only_one_that_counts(shares):
    def told(n):
        labels, doubt = np.full((1, 1, 1), n, np.uint8), np.full((1, 1, 1), n, np.float32)
        return Answer(labels, doubt, None, lambda: maps(1, 0), None, [f"w{n}"], [f"n{n}"])

    answers = [told(0), told(1)]
    found = together(answers, shares, "probabilities")
    assert found.labels.item() == found.doubt.item() == shares.index(1)
    assert (found.warnings, found.notes) == (["w0", "w1"], ["n0", "n1"])
