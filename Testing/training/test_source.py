"""Batches: what they hold, that they can be had again, and error maps made with a network."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from thoraxseg.errors import InputError, OptionError
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.sampling import SamplingOptions
from thoraxseg.training.source import PatchSource

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")

AUGMENTATION = {
    "rotation": {"probability": 0.5},
    "elastic-grid": {"probability": 0.5},
    "flips": {"probability": 0.5},
    "noise": {"probability": 0.5},
    "sides": {},
}


def case(name="a", shape=(10, 12, 14), channels=1, seed=0):
    """Labels are what the image says: its voxels are unique numbers, and every third is labeled."""
    count = int(np.prod(shape))
    image = np.random.default_rng(seed).permutation(count).reshape(shape)
    return SimpleNamespace(
        id=name,
        channels=np.stack([image + 10_000 * n for n in range(channels)]).astype(np.float32),
        labels=(image % 3).astype(np.uint8),
        spacing_mm=(1.0, 1.0, 1.0),
    )


def source(tmp_path, cases, augmentation=None, seed=0, threads=0, **options):
    options = {"sampler": "uniform", "patch_size": (4, 6, 8), "batch_size": 2, **options}
    return PatchSource(cases, SamplingOptions(**options), augmentation or {}, seed, tmp_path, threads=threads)


def assert_same(one, two):
    torch.testing.assert_close(one.images, two.images, rtol=0, atol=0)
    torch.testing.assert_close(one.labels, two.labels, rtol=0, atol=0)
    assert (one.cases, one.corners) == (two.cases, two.corners)


def test_patches_are_what_lies_at_their_corners(tmp_path):
    cases = {name: case(name, channels=2, seed=n) for n, name in enumerate("abc")}
    batch = source(tmp_path, list(cases.values()), patches_per_case=2).batch(0)
    assert batch.images.shape == (4, 2, 4, 6, 8) and batch.images.dtype == torch.float32
    assert batch.labels.shape == (4, 4, 6, 8) and batch.labels.dtype == torch.int64 and batch.weights is None
    for image, labels, name, corner in zip(
        batch.images, batch.labels, batch.cases, batch.corners, strict=True
    ):
        box = tuple(slice(c, c + n) for c, n in zip(corner, (4, 6, 8), strict=True))
        np.testing.assert_array_equal(image, cases[name].channels[(slice(None), *box)])
        np.testing.assert_array_equal(labels, cases[name].labels[box])


@pytest.mark.parametrize("sampler", ["uniform", "balanced", "isample", "slices"])
def test_slices_are_batches_of_two_dimensions(tmp_path, sampler):
    one = case()
    batch = source(tmp_path, [one], sampler=sampler, patch_size=(1, 6, 8), batch_size=3).batch(0)
    assert batch.images.shape == (3, 1, 6, 8) and batch.labels.shape == (3, 6, 8)
    for image, labels, (k, j, i) in zip(batch.images, batch.labels, batch.corners, strict=True):
        np.testing.assert_array_equal(image, one.channels[:, k, j : j + 6, i : i + 8])
        np.testing.assert_array_equal(labels, one.labels[k, j : j + 6, i : i + 8])


@pytest.mark.parametrize("sampler", ["uniform", "balanced", "isample", "slices", "whole"])
def test_batches_depend_on_seed_and_step_alone(tmp_path, sampler):
    size = (1, 6, 8) if sampler == "slices" else (4, 6, 8)
    cases = [case(name, seed=n) for n, name in enumerate("abc")]

    def fresh(seed=0, threads=0):
        return source(tmp_path, cases, AUGMENTATION, seed, threads, sampler=sampler, patch_size=size)

    one = fresh()
    batches = [one.batch(step) for step in range(4)]
    resumed = fresh()
    for step in (3, 1):
        assert_same(resumed.batch(step), batches[step])
    ahead = fresh(threads=2)
    for step in (0, 1, 3, 2):  # also when the batch that was made ahead is not the one asked for
        assert_same(ahead.batch(step), batches[step])
    assert not torch.equal(fresh(seed=1).batch(0).images, batches[0].images)
    assert not torch.equal(batches[0].images, batches[1].images)


def test_patches_of_one_case_are_changed_each_in_its_own_way(tmp_path):
    noise = {"noise": {"probability": 1, "sd": 0.1}}
    batch = source(tmp_path, [case(shape=(4, 6, 8))], noise).batch(0)
    assert batch.corners[0] == batch.corners[1] and not torch.equal(batch.images[0], batch.images[1])


def test_images_smaller_than_the_patch_go_on_at_their_edge_and_are_ignored_there(tmp_path):
    one = case(shape=(3, 6, 5))
    batch = source(tmp_path, [one], batch_size=1).batch(0)
    assert batch.corners == ((0, 0, -1),)
    np.testing.assert_array_equal(batch.labels[0, :3, :, 1:6], one.labels)
    np.testing.assert_array_equal(batch.images[0, 0, :3, :, 1:6], one.channels[0])
    np.testing.assert_array_equal(batch.images[0, 0, 3, :, 7], one.channels[0, 2, :, 4])
    known = np.zeros((4, 6, 8), bool)
    known[:3, :, 1:6] = True
    np.testing.assert_array_equal(batch.labels[0] != IGNORE, known)


def test_networks_that_answer_for_the_center_get_labels_of_the_center(tmp_path):
    one = case()
    options = {"patch_size": (9, 9, 9), "answer_size": (3, 3, 3), "batch_size": 64}
    batch = source(tmp_path, [one], **options).batch(0)
    assert batch.images.shape == (64, 1, 9, 9, 9) and batch.labels.shape == (64, 3, 3, 3)
    wide = np.pad(one.channels[0], 9, mode="edge")
    for image, labels, corner in zip(batch.images, batch.labels, batch.corners, strict=True):
        box = tuple(slice(c + 9, c + 18) for c in corner)
        np.testing.assert_array_equal(image[0], wide[box])
        np.testing.assert_array_equal(labels, image[0, 3:6, 3:6, 3:6].long() % 3)
    assert min(corner[0] for corner in batch.corners) == -3, "the edge of the image is answered for, too"


def test_labels_of_the_center_stay_on_the_image_when_it_is_turned(tmp_path):
    one = case()
    options = {"patch_size": (9, 9, 9), "answer_size": (3, 3, 3), "batch_size": 8}
    batch = source(tmp_path, [one], {"right-angles": {"probability": 1}}, **options).batch(0)
    known = batch.labels != IGNORE
    assert known.all()
    assert torch.equal(batch.labels, batch.images[:, 0, 3:6, 3:6, 3:6].long() % 3)


def test_whole_images_come_as_they_are(tmp_path):
    one = case()
    batch = source(tmp_path, [one], sampler="whole", patch_size=None, batch_size=1).batch(0)
    np.testing.assert_array_equal(batch.images[0], one.channels)
    np.testing.assert_array_equal(batch.labels[0], one.labels)


def test_whole_images_of_two_sizes_are_no_batch(tmp_path):
    cases = [case("a"), case("b", shape=(10, 12, 15))]
    with pytest.raises(InputError, match=r"\(10, 12, 14\) in case a and \(10, 12, 15\) in case b"):
        source(tmp_path, cases, sampler="whole", batch_size=2)
    assert source(tmp_path, cases, sampler="whole", batch_size=1).batch(1).images.shape[0] == 1


def test_weights_of_borders_are_those_of_the_labels_shown(tmp_path):
    from thoraxseg.training.losses import border_weights

    options = {"class_weights": [1, 5, 15], "sigma": 2}
    one = case(shape=(3, 6, 5))
    batch = source(tmp_path, [one], patch_size=(1, 6, 8), border_weights=options).batch(0)
    assert batch.weights.shape == (2, 6, 8) and batch.weights.dtype == torch.float32
    for labels, weights in zip(batch.labels, batch.weights, strict=True):
        np.testing.assert_array_equal(weights, border_weights(labels.numpy().astype(np.uint8), **options))
        assert not weights[labels == IGNORE].any()


def test_a_round_is_as_many_batches_as_show_everything_once(tmp_path):
    cases = [case(name) for name in "abc"]
    assert source(tmp_path, cases, batch_size=2).batches_per_round == 2
    assert (
        source(tmp_path, cases, sampler="slices", patch_size=(1, 6, 8), batch_size=4).batches_per_round == 8
    )


def test_augmentation_is_checked_for_the_dimensions_of_the_patches(tmp_path):
    turned = {"rotation": {"probability": 1, "axes": ["i"]}}
    source(tmp_path, [case()], turned)
    with pytest.raises(OptionError, match="patches of 2 dimensions"):
        source(tmp_path, [case()], turned, patch_size=(1, 6, 8))


class WrongIn(torch.nn.Module):
    """Answers by looking at the image, whose values are its labels; is wrong where a value is 7, a 1."""

    def __init__(self, outputs, margin=0):
        super().__init__()
        self.outputs, self.margin = outputs, margin
        self.scale = torch.nn.Parameter(torch.tensor(20.0))
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, images):
        right = self.dropout(torch.ones(4096)).mean() if self.training else 1.0
        if self.margin:
            inside = slice(self.margin, -self.margin)
            images = images[..., inside, inside, inside]
        positive = images[:, :1] == 1
        if self.outputs == 1:
            return self.scale * right * (2.0 * positive - 1)
        return self.scale * right * torch.cat([~positive, positive], 1).float()


def half_wrong():
    one = case()
    one.labels = (one.channels[0] % 2).astype(np.uint8)
    one.channels = one.labels[None].astype(np.float32)
    one.labels[3, 7, 5] = 1
    one.channels[0, 3, 7, 5] = 7
    return one


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (WrongIn(2), {}),
        (WrongIn(1), {"error": "squared"}),
        (WrongIn(2), {"patch_size": (1, 5, 5)}),
        (WrongIn(2, margin=3), {"patch_size": (9, 9, 9), "answer_size": (3, 3, 3)}),
    ],
    ids=["softmax", "sigmoid", "slices", "center"],
)
def test_isample_goes_to_where_the_network_is_wrong(tmp_path, network, options):
    options = {"patch_size": (3, 5, 5), "sampler": "isample", "floor": 0.0, "patches_per_case": 6, **options}
    made = source(tmp_path, [half_wrong()], **options)
    made.start_epoch(0, network)
    assert len(set(made.batch(0).corners)) > 1
    network.train()
    before = torch.random.get_rng_state()
    made.start_epoch(3, network)
    assert network.training and torch.equal(torch.random.get_rng_state(), before)
    size = made.options.patch_size
    centers = {tuple(c + s // 2 for c, s in zip(p, size, strict=True)) for p in made.batch(1).corners}
    assert centers == {(3, 7, 5)}


def test_the_floor_keeps_other_places_in_view(tmp_path):
    options = {"sampler": "isample", "patch_size": (3, 5, 5), "floor": 0.5, "patches_per_case": 50}
    made = source(tmp_path, [half_wrong()], **options)
    made.start_epoch(3, WrongIn(2))
    corners = made.batch(0).corners
    assert 45 <= sum(corner == (2, 5, 3) for corner in corners) <= 55


@pytest.mark.parametrize("threads", [0, 2])
def test_a_run_with_isample_that_was_killed_sees_the_same_batches_again(tmp_path, threads):
    """The network differs in every epoch; a kill in epoch 4 goes on from a state saved around it."""
    cases = [case(name, seed=n) for n, name in enumerate("abc")]
    options = {"sampler": "isample", "patches_per_case": 4, "refresh_epochs": 2}

    def network(epoch):
        torch.manual_seed(epoch)
        return torch.nn.Conv3d(1, 3, 3, padding=1)

    def epochs(made, first, last):
        batches = []
        for epoch in range(first, last):
            made.start_epoch(epoch, network(epoch))
            batches += [made.batch(2 * epoch + n) for n in range(2)]
        return batches

    want = epochs(source(tmp_path / "a", cases, AUGMENTATION, **options), 0, 7)
    for first in (5, 4, 3):
        folder = tmp_path / str(first)
        epochs(source(folder, cases, AUGMENTATION, threads=threads, **options), 0, 5)
        got = epochs(source(folder, cases, AUGMENTATION, threads=threads, **options), first, 7)
        for one, two in zip(got, want[2 * first :], strict=True):
            assert_same(one, two)
