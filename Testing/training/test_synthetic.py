"""Patches of random phantoms: the same for the same number, right labels in every pose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from thoraxseg.errors import OptionError
from thoraxseg.training import defaults, synthetic
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.defaults import DEFAULTS, train_default
from thoraxseg.training.synthetic import SyntheticOptions, SyntheticSource, scanned, seen_from
from thoraxseg.training.trainer import Reason, kept_weights, read_state

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = SyntheticOptions(
    "mouse-ct", 0.9, patch_size=(24, 24, 24), batch_size=2, patches_per_phantom=2, swap={3: 4}
)
STILL = replace(
    SMALL,
    any_pose=0.0,
    tilt_degrees=0.0,
    scale=0.0,
    elastic_voxels=0.0,
    mirrored=0.0,
    patch_size=(20, 20, 20),
)


def test_a_batch_depends_on_its_number_alone():
    one, other = SyntheticSource(SMALL, 4), SyntheticSource(SMALL, 4)
    batches = [one.batch(n) for n in range(6)]
    for n in (5, 0, 3):
        again = other.batch(n)
        torch.testing.assert_close(again.images, batches[n].images, rtol=0, atol=0)
        assert torch.equal(again.labels, batches[n].labels)
    assert not torch.equal(SyntheticSource(SMALL, 5).batch(0).labels, batches[0].labels)
    assert batches[0].images.shape == (2, 1, 24, 24, 24) and batches[0].labels.dtype == torch.int64


def test_images_are_finite_and_labels_those_of_the_table():
    source = SyntheticSource(SMALL, 1)
    for n in range(10):
        batch = source.batch(n)
        assert torch.isfinite(batch.images).all()
        assert set(batch.labels.unique().tolist()) <= {0, 1, 2, 3, 4, IGNORE}


def markers():
    """An image that is its own label map: a landmark of another value on each side of a body."""
    labels = torch.zeros(40, 40, 40, dtype=torch.int64)
    labels[8:32, 8:32, 22:32] = 3  # the right lung lies at higher x
    labels[8:32, 8:32, 8:18] = 4
    labels[10:30, 26:34, 18:22] = 1  # before them
    labels[10:30, 4:8, 18:22] = 2  # behind them
    return labels.float() * 10, labels


@pytest.mark.parametrize("seed", range(8))
def test_image_and_labels_stay_together_in_every_pose(seed):
    image, labels = markers()
    options = replace(SMALL, mirrored=0.0, elastic_voxels=1.0, patch_size=(48, 48, 48))
    seen, found = seen_from(image, labels, options, np.random.default_rng(seed))
    inside = found != IGNORE
    # Away from borders, where the image is interpolated and labels are not, both say the same.
    agree = (seen[inside] / 10).round().long() == found[inside]
    assert agree.float().mean() > 0.85
    for label in found[inside].unique().tolist():
        core = (found == label) & (
            torch.nn.functional.avg_pool3d((found == label).float()[None, None], 3, 1, 1)[0, 0] == 1
        )
        if core.any():
            torch.testing.assert_close(
                seen[core], torch.full_like(seen[core], 10.0 * label), atol=1e-3, rtol=0
            )


def handed(labels):
    """Return whether right, front and head of a body are as in life: +1, or mirrored: -1."""
    at = {n: (labels == n).nonzero().float().mean(0) for n in (1, 2, 3, 4)}
    right, front = at[3] - at[4], at[1] - at[2]
    return right, front


@pytest.mark.parametrize("mirrored", [0.0, 1.0])
def test_a_mirrored_body_has_its_sides_renamed(mirrored, monkeypatch):
    image, labels = markers()
    image[32:36] = 77  # above everything: the head
    options = replace(STILL, mirrored=mirrored, patch_size=(40, 40, 40))
    monkeypatch.setattr(synthetic, "_center", lambda labels, rng: np.array([19.5, 19.5, 19.5]))
    seen, found = seen_from(image, labels, options, np.random.default_rng(0))
    right, _ = handed(found)
    assert right[2] > 10  # right is still where a body's right is
    image, labels = (image.flip(2), labels.flip(2)) if mirrored else (image, labels)
    if mirrored:
        labels = torch.tensor([0, 1, 2, 4, 3])[labels]
    assert (found == labels).float().mean() > 0.97  # a little shear is left
    assert ((seen - image).abs() < 5).float().mean() > 0.93


def test_turned_bodies_keep_their_sides_and_are_never_mirror_images():
    image, labels = markers()
    image[33:37, 18:22, 18:22] = 500  # the head
    for seed in range(12):
        options = replace(SMALL, any_pose=1.0, elastic_voxels=0.0, mirrored=0.5, patch_size=(64, 64, 64))
        generator = np.random.default_rng(seed)
        seen, found = seen_from(image, labels, options, generator)
        found = torch.where(found == IGNORE, 0, found)
        if any((found == n).sum() < 200 for n in (1, 2, 3, 4)) or (seen > 400).sum() < 10:
            continue
        right, front = handed(found)
        head = (seen > 400).nonzero().float().mean(0) - (found > 0).nonzero().float().mean(0)
        # (z, y, x): in life, right x front = head.
        assert torch.linalg.cross(right.flip(0), front.flip(0)) @ head.flip(0) > 0


def test_beyond_the_field_of_view_nothing_is_known():
    image, labels = markers()
    options = replace(STILL, patch_size=(60, 60, 60))
    seen, found = seen_from(image, labels, options, np.random.default_rng(3))
    assert (found == IGNORE).any() and (found != IGNORE).any()
    assert torch.isfinite(seen).all()


def test_scanning_changes_intensities_and_never_labels():
    image, labels = markers()
    image = (image - image.mean()) / image.std()
    for seed in range(10):
        options = replace(SMALL, rician=bool(seed % 2), bias=0.4, patch_size=(40, 40, 40))
        seen, found = scanned(image, labels, options, np.random.default_rng(seed))
        assert found is labels and torch.isfinite(seen).all() and not torch.equal(seen, image)
        # What is bright stays brighter than what is dark.
        assert seen[labels == 4].mean() > seen[labels == 1].mean()


def test_the_defaults_find_what_their_names_say():
    assert list(DEFAULTS) == ["mouse-ct-thorax-mini", "mouse-mri-lung-tumor-mini", "human-ct-lung-tumor-mini"]
    ct = DEFAULTS["mouse-ct-thorax-mini"]
    assert ct.structures == ("heart", "spinal_cord", "right_lung", "left_lung") and ct.options.swap == {3: 4}
    for default in DEFAULTS.values():
        network = defaults.build(default)
        assert sum(p.numel() for p in network.parameters()) * 2 < 8_000_000


def test_a_default_trains_in_a_few_steps_and_goes_on(tmp_path, monkeypatch):
    tiny = replace(
        DEFAULTS["mouse-ct-thorax-mini"],
        options=replace(SMALL, patch_size=(16, 16, 16)),
        features=(4, 8),
    )
    monkeypatch.setitem(DEFAULTS, tiny.name, tiny)
    words = {"epochs": 2, "steps_per_epoch": 3, "validate_every": 1}
    ended = train_default(tiny.name, tmp_path, **words)
    assert ended.reason is Reason.FINISHED and 0 <= ended.best_score <= 1
    state = read_state(tmp_path / "last.pt")
    assert kept_weights(state).keys() == state["network"].keys()
    assert {"val_dice_heart", "val_dice_left_lung"} <= set(state["rows"][-1])
    assert train_default(tiny.name, tmp_path, **words) == ended


def test_a_default_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(OptionError, match="mouse-ct-thorax-mini"):
        train_default("rat-ct", tmp_path)
