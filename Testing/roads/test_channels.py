"""Channels on one grid and in the card's order; a lung map that is given counts as one that is made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from thoraxseg import inference
from thoraxseg.checkpoints import open_checkpoint
from thoraxseg.errors import CheckpointError, InputError, OutputError
from thoraxseg.io import write_scalar_nrrd
from thoraxseg.options import Device, SegmentOptions
from thoraxseg.phantoms import mouse_mri
from thoraxseg.pipeline import segment, segment_file
from thoraxseg.roads import check_same_grid
from thoraxseg.volume import Volume

IMAGE = {"name": "MRI", "source": "image"}
SECOND = {"name": "T2", "source": "image"}
MAP = {"name": "lung map", "source": "lungs"}


class Remembers(torch.nn.Module):
    """Keeps what it was shown; its logits are background 0, the first channel, and ten times the last."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image):
        self.seen.append(image[0].clone().numpy())
        return torch.stack([0 * image[:, 0], image[:, 0], 10 * image[:, -1]], dim=1)


@pytest.fixture
def taker(a_predictor):
    """Make a predictor whose network takes these channels, with the checkpoint of the lung map if one is given."""

    def make(*channels, network=None, **words):
        lungs = {"lungs": words.pop("lungs")} if "lungs" in words else {}
        changes = {"channels": list(channels), "preprocess": [], **words}
        return a_predictor(network or Remembers(), changes=changes, **lungs)

    return make


def by(predictor, volume, channels=(), **options):
    options = SegmentOptions(**options)
    return segment(volume, predictor.checkpoint, options, predictor=predictor, channels=channels)


# One grid


def volume_on(matrix, shape=(4, 4, 4), name="second"):
    return Volume(np.ones(shape, np.uint8), matrix, name)


def test_channels_on_the_grid_of_the_first_within_rounding_are_taken(a_geometry):
    matrix = a_geometry("LPS", (0.5, 0.6, 0.7), (5, 6, 7), (100, -50, 3))
    rounded = matrix.astype(np.float32).astype(np.float64)
    check_same_grid([volume_on(matrix), volume_on(matrix), volume_on(rounded)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"origin": (0.01, 0, 0)}, "lies elsewhere"),
        ({"origin": (0, 0, -5)}, "lies elsewhere"),
        ({"spacing_mm": (1, 1.01, 1)}, "lies elsewhere"),
        ({"degrees": (0, 0, 1)}, "lies elsewhere"),
        ({"codes": "LPS"}, "lies elsewhere"),
        ({"codes": "LPS", "origin": (3, 3, 0)}, "lies elsewhere"),  # the same box, other voxels
        ({"codes": "ARS"}, "lies elsewhere"),  # a cube with two axes exchanged has the same corners
        ({"codes": "SAR"}, "lies elsewhere"),
    ],
    ids=str,
)
def test_channels_that_lie_elsewhere_are_refused_by_name(a_geometry, changes, words):
    with pytest.raises(
        InputError, match=rf"second: {words} than first \(spacing, origin or direction differ\)"
    ):
        check_same_grid([volume_on(a_geometry(), name="first"), volume_on(a_geometry(**changes))])


@pytest.mark.parametrize("shape", [(1, 4, 4), (4, 4, 1)], ids=str)
def test_a_single_slice_of_another_thickness_is_refused(a_geometry, shape):
    first, second = a_geometry(), a_geometry(spacing_mm=(2, 1, 2))
    with pytest.raises(InputError, match="lies elsewhere"):
        check_same_grid([volume_on(first, shape), volume_on(second, shape)])


def test_another_number_of_voxels_is_refused_with_both(taker, phantom):
    predictor = taker(IMAGE, SECOND)
    other = phantom(shape=(14, 16, 11))
    with pytest.raises(
        InputError, match=r"expected the grid of phantom, \(14, 16, 12\) voxels.*got \(14, 16, 11\)"
    ):
        by(predictor, phantom(), [other])


def test_a_shifted_channel_is_refused_before_any_work(taker, phantom):
    predictor = taker(IMAGE, SECOND)
    volume = phantom()
    moved = volume.ijk_to_ras.copy()
    moved[0, 3] += 0.5
    with pytest.raises(InputError, match="resample or register them first"):
        by(predictor, volume, [replace(volume, ijk_to_ras=moved)])
    assert predictor.networks[0].seen == []


# How many, and in which order


def test_the_network_sees_the_channels_in_the_cards_order(taker, phantom):
    predictor = taker(IMAGE, SECOND, {"name": "third", "source": "image"})
    volumes = [phantom(seed=seed) for seed in range(3)]
    found = by(predictor, volumes[0], volumes[1:])
    for seen, volume in zip(predictor.networks[0].seen[0], volumes, strict=True):
        np.testing.assert_array_equal(seen, volume.array)
    assert [one["file"] for one in found.provenance["channels"]] == ["phantom"] * 3
    assert found.volume is volumes[0]


@pytest.mark.parametrize(
    ("channels", "given", "words"),
    [
        ([IMAGE], 2, r"takes 1 channel\(s\) \(MRI\), got 2"),
        ([IMAGE, SECOND], 1, r"takes 2 channel\(s\) \(MRI, T2\), got 1.*--channel FILE"),
        ([IMAGE, SECOND], 3, r"takes 2 channel\(s\) \(MRI, T2\), got 3"),
        ([IMAGE, MAP], 3, r"takes 2 channel\(s\) \(MRI, lung map\), got 3"),
        ([IMAGE, SECOND, MAP], 1, r"takes 3 channel\(s\) \(MRI, T2, lung map\), got 1"),
        (
            [IMAGE, MAP],
            1,
            r"also takes a lung map\. Name a checkpoint that makes it with --lungs.*--channel FILE",
        ),
        ([IMAGE, SECOND, MAP], 2, "also takes a lung map"),
    ],
    ids=lambda value: len(value) if isinstance(value, list) else str(value)[:12],
)
def test_a_wrong_number_of_channels_is_refused_with_their_names(taker, phantom, channels, given, words):
    with pytest.raises(InputError, match=f"phantom: .*{words}"):
        by(taker(*channels), phantom(), [phantom() for _ in range(given - 1)])


def test_a_wrong_number_is_refused_on_the_road_of_nnunet_too(nnunet_checkpoint, a_plan, phantom):
    with pytest.raises(InputError, match=r"nnunet takes 1 channel\(s\) \(MRI\), got 2"):
        segment(phantom(), nnunet_checkpoint(a_plan()), channels=[phantom()])


def test_files_of_several_channels_are_read_and_hashed_together(
    taker, phantom, tmp_path, monkeypatch, no_pictures
):
    predictor = taker(IMAGE, SECOND)
    monkeypatch.setattr(inference, "load_predictor", lambda *arguments: predictor)
    paths = [tmp_path / f"{name}.nrrd" for name in "ab"]
    for seed, path in enumerate(paths):
        volume = phantom(seed=seed)
        write_scalar_nrrd(path, volume.array, volume.ijk_to_ras, {})
    record = segment_file(paths[0], predictor.checkpoint, tmp_path / "out", channels=paths[1:])
    assert [one["file"] for one in record["provenance"]["channels"]] == ["a.nrrd", "b.nrrd"]
    np.testing.assert_array_equal(predictor.networks[0].seen[0][1], phantom(seed=1).array)
    digests = {record["input"]["sha256"]}
    for order in ([paths[1], paths[0]], [paths[0], paths[0]]):
        again = segment_file(order[0], predictor.checkpoint, tmp_path / str(len(digests)), channels=order[1:])
        digests.add(again["input"]["sha256"])
    assert len(digests) == 3  # the order counts, and so does every file


# Lung maps


def lungs_of(shape, value=1):
    array = np.zeros(shape, np.uint8)
    array[3:9, 4:12, 2:10] = value
    return array


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, bool])
def test_a_map_is_0_outside_and_1_inside_whatever_its_numbers(taker, phantom, kind):
    predictor, volume = taker(IMAGE, MAP), phantom()
    lungs = lungs_of(volume.shape, 1 if kind is bool else 2).astype(kind)
    if kind is not bool:
        lungs[4, 5, 3] = 5  # another lobe
    by(predictor, volume, [replace(volume, array=lungs, name="map")])
    np.testing.assert_array_equal(predictor.networks[0].seen[0][1], lungs > 0)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(lambda r: r.normal(0, 400, 2688), id="CT"),
        pytest.param(lambda r: r.integers(-1000, 400, 2688), id="Hounsfield"),
        pytest.param(lambda r: r.integers(0, 256, 2688).astype(np.uint8), id="8 bits"),
        pytest.param(lambda r: r.integers(0, 4000, 2688).astype(np.uint16), id="16 bits"),
        pytest.param(lambda r: r.integers(0, 2, 2688) * 0.5, id="halves"),
        pytest.param(lambda r: r.integers(-1, 2, 2688), id="negative"),
        pytest.param(lambda r: np.where(r.random(2688) < 0.5, np.nan, 1), id="NaN"),
    ],
)
def test_a_lung_map_that_is_an_image_is_refused(taker, phantom, values):
    volume = phantom()
    array = values(np.random.default_rng(0)).reshape(volume.shape)
    with pytest.raises(InputError, match=r"wrong file: expected a lung map, 0 outside.*got an image"):
        by(taker(IMAGE, MAP), volume, [replace(volume, array=array, name="wrong file")])


def test_a_map_between_two_images_is_put_in_its_place(taker, phantom):
    network = Remembers()
    predictor = taker(IMAGE, MAP, SECOND, network=network)
    volumes = [phantom(seed=0), replace(phantom(), array=lungs_of(phantom().shape)), phantom(seed=1)]
    by(predictor, volumes[0], volumes[1:])
    for seen, volume in zip(network.seen[0], volumes, strict=True):
        np.testing.assert_array_equal(seen, volume.array)
    # Made instead of given it is in the same place.
    finder = replace(predictor, checkpoint=replace(predictor.checkpoint), networks=(Lungs(),))
    card = replace(finder.checkpoint.card, channels=predictor.checkpoint.card.channels[:1])
    finder = replace(finder, checkpoint=replace(finder.checkpoint, card=card))
    whole = replace(
        predictor, checkpoint=replace(predictor.checkpoint, lungs=finder.checkpoint), lungs=finder
    )
    by(whole, volumes[0], volumes[2:])
    np.testing.assert_array_equal(network.seen[1], network.seen[0])


class Lungs(torch.nn.Module):
    """Finds lungs and tumors in one box, whatever it is shown."""

    def forward(self, image):
        found = torch.from_numpy(lungs_of(image.shape[2:])).float()
        tumor = found.clone()
        tumor[:, :7] = 0
        return torch.stack([0.5 - found, found - tumor, tumor])[None]


@pytest.fixture
def with_lungs(taker):
    """Make a predictor that takes a lung map together with one that makes it, with changes to the latter's card."""

    def make(finder_labels=None, network=None):
        words = {} if finder_labels is None else {"labels": finder_labels}
        finder = taker(IMAGE, network=network or Lungs(), **words)
        return taker(IMAGE, MAP, lungs=finder, labels={"1": "lungs", "2": "tumors"})

    return make


def test_a_lung_map_is_made_where_none_is_given_with_tumors_as_part_of_it(with_lungs, phantom):
    predictor, volume = with_lungs(), phantom()
    found = by(predictor, volume)
    np.testing.assert_array_equal(predictor.networks[0].seen[0][1], lungs_of(volume.shape))
    assert [one["file"] for one in found.provenance["channels"]] == ["phantom"]
    assert "lung_map_from" in found.provenance["checkpoint"]
    assert "lung_map" in found.provenance["timings_s"]
    # A map that is given counts, and none is made.
    given = np.roll(lungs_of(volume.shape), 1, axis=0)
    without = replace(predictor, checkpoint=replace(predictor.checkpoint, lungs=None), lungs=None)
    by(without, volume, [replace(volume, array=given)])
    np.testing.assert_array_equal(predictor.networks[0].seen[1][1], given)


@pytest.mark.parametrize(
    "labels",
    [
        {"1": "heart", "2": "spinal_cord"},
        {"1": "heart", "2": "tumors"},  # tumors lie in lungs, but are not all of them
    ],
    ids=["none", "tumors only"],
)
def test_a_checkpoint_that_finds_no_lungs_is_refused_before_it_works(with_lungs, phantom, labels):
    finder = Remembers()
    with pytest.raises(
        CheckpointError, match=r"expected one that finds lungs, it finds Heart.*another for --lungs"
    ):
        by(with_lungs(labels, finder), phantom())
    assert finder.seen == []


def test_both_lungs_make_one_map(with_lungs, phantom):
    predictor = with_lungs({"1": "right_lung", "2": "left_lung"})
    by(predictor, phantom())
    np.testing.assert_array_equal(predictor.networks[0].seen[0][1], lungs_of(phantom().shape))


def test_what_the_checkpoint_of_the_map_says_is_told_and_progress_never_falls(with_lungs, phantom):
    predictor = with_lungs()
    told = []
    noted = predictor.lungs.checkpoint
    noted = replace(noted, card=replace(noted.card, assumed=("the lungs are a guess",)))
    predictor = replace(
        predictor,
        checkpoint=replace(predictor.checkpoint, lungs=noted),
        lungs=replace(predictor.lungs, checkpoint=noted),
    )
    found = segment(
        phantom(), predictor.checkpoint, None, lambda fraction, message: told.append(fraction), predictor
    )
    assert "the lungs are a guess" in found.warnings
    assert told == sorted(told) and told[-1] == 1


@pytest.mark.parametrize("codes", ["RIA", "LPS"])
def test_the_map_that_is_made_is_the_one_that_the_other_checkpoint_gives_by_itself(
    taker, quick_checkpoint, codes
):
    """On a mouse, whose lungs the stand-in finds; the crop to them comes back to the same place too."""
    finder = inference.load_predictor(open_checkpoint(quick_checkpoint), Device.CPU)
    mouse = mouse_mri(seed=1, spacing_mm=0.5, tumors=(5.0, 4.0)).volume.reoriented(codes)
    steps = [{"name": "crop_to_lungs", "margin_voxels": 2}, {"name": "z_score"}]
    predictor = taker(IMAGE, MAP, lungs=finder, preprocess=steps, **{"input.orientation": "PIR"})
    made = by(predictor, mouse)
    alone = segment(mouse, finder.checkpoint, SegmentOptions(uncertainty="none"), predictor=finder)
    assert set(np.unique(alone.segmentation.labels)) == {0, 1, 2}
    without = replace(predictor, checkpoint=replace(predictor.checkpoint, lungs=None), lungs=None)
    given = by(without, mouse, [replace(mouse, array=alone.segmentation.labels, name="map")])
    np.testing.assert_array_equal(made.segmentation.labels, given.segmentation.labels)
    np.testing.assert_array_equal(made.uncertainty, given.uncertainty)
    np.testing.assert_array_equal(made.probabilities(), given.probabilities())
    seen = predictor.networks[0].seen
    np.testing.assert_array_equal(seen[0], seen[1])
    # The network says "tumors" wherever the map is, so the map comes back to where it was.
    np.testing.assert_array_equal(made.segmentation.labels == 2, alone.segmentation.labels > 0)
    assert any("cropped to the lungs" in note for note in made.notes)


def test_an_nnunet_model_makes_a_lung_map_too(nnunet_checkpoint, a_plan, taker, phantom):
    checkpoint = nnunet_checkpoint(a_plan(labels={"lung_r": (1,), "lung_l": (2,)}))
    finder, volume = inference.load_predictor(checkpoint, Device.CPU), phantom()
    predictor = taker(IMAGE, MAP, lungs=finder)
    by(predictor, volume)
    labels = segment(volume, checkpoint).segmentation.labels
    assert labels.any()
    np.testing.assert_array_equal(predictor.networks[0].seen[0][1], labels > 0)


def test_a_result_never_takes_the_place_of_a_further_channel(taker, phantom, tmp_path, monkeypatch):
    predictor = taker(IMAGE, SECOND)
    monkeypatch.setattr(inference, "load_predictor", lambda *arguments: predictor)
    paths = [tmp_path / "a.nrrd", tmp_path / "a_uncertainty.nrrd"]
    for path in paths:
        write_scalar_nrrd(path, phantom().array, phantom().ijk_to_ras, {})
    before = paths[1].read_bytes()
    with pytest.raises(OutputError, match=r"a_uncertainty\.nrrd is the input"):
        segment_file(paths[0], predictor.checkpoint, tmp_path, channels=paths[1:])
    assert paths[1].read_bytes() == before
