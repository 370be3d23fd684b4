"""Validation: Dice by hand, losses as they are, the picture of the best epoch only."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from Testing.training.test_presets import data_set
from thoraxseg.training import validation
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.config import make_config
from thoraxseg.training.data import PreparedCase
from thoraxseg.training.finish import new_card
from thoraxseg.training.losses import build_loss
from thoraxseg.training.validation import Validation

pytestmark = pytest.mark.usefixtures("one_thread")


class Echo(torch.nn.Module):
    """Answers with the class that stands in the image, surely."""

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return (
            20.0 * torch.stack([(image[:, 0] == value).float() for value in range(3)], dim=1) + self.nothing
        )


def a_case(answer, truth, name="a"):
    shape = (2, 4, 4)
    images, labels = np.zeros((1, *shape), np.float32), np.zeros(shape, np.uint8)
    for array, ones in ((images[0], answer), (labels, truth)):
        for (k, j, i), value in ones.items():
            array[k, j, i] = value
    return PreparedCase(name, f"mouse {name}", images, labels, (1.0, 1.0, 1.0))


def validation_of(*cases, system="deepmeta", loss="cross-entropy", **more):
    card = new_card(make_config(system, {"data": "x"}), data_set(), (1, 1, 1))
    return Validation(card, cases, build_loss(loss, {}, 3), **more)


def test_dice_is_that_of_whole_images_with_structures_that_nobody_has_left_out():
    first = a_case({(0, 0, 0): 1, (0, 0, 1): 1, (1, 0, 0): 2}, {(0, 0, 0): 1, (0, 1, 0): 1, (1, 1, 1): 1})
    second = a_case({(0, 0, 0): 1}, {(0, 0, 0): 1}, "b")
    found = validation_of(first, second).of(Echo())
    assert found.cases[0].dice == {"lungs": pytest.approx(2 * 1 / 5), "tumors": 0.0}
    assert found.cases[1].dice == {"lungs": 1.0, "tumors": None}
    assert found.structures == {"lungs": pytest.approx(0.7), "tumors": 0.0}
    assert found.dice == pytest.approx(0.35)


def test_voxels_whose_truth_is_not_known_count_nowhere():
    case = a_case({(0, 0, 0): 1, (0, 0, 1): 1}, {(0, 0, 0): 1, (0, 0, 1): IGNORE})
    assert validation_of(case).of(Echo()).structures["lungs"] == 1.0


def test_the_loss_is_that_of_the_logits():
    case = a_case({(0, 0, 0): 1}, {(0, 0, 1): 1})
    found = validation_of(case).of(Echo())
    # Two voxels of 32 are sure and wrong by 20; probabilities below 1e-7 count as that.
    assert found.loss == pytest.approx(2 * -math.log(1e-7) / 32, rel=1e-3)


def test_the_loss_of_a_large_image_is_the_mean_of_its_parts(monkeypatch):
    scores = np.random.default_rng(2).normal(size=(3, 6, 4, 4)).astype(np.float32)
    labels = np.random.default_rng(3).integers(0, 3, (6, 4, 4)).astype(np.uint8)
    whole = validation_of(system="rrc-unet")._loss(scores, labels, "cpu")
    monkeypatch.setattr(validation, "LOSS_VOXELS", 2 * 4 * 4)
    assert validation_of(system="rrc-unet")._loss(scores, labels, "cpu") == pytest.approx(whole, rel=1e-5)


def test_no_structure_anywhere_is_no_score():
    found = validation_of(a_case({}, {})).of(Echo())
    assert math.isnan(found.dice) and found.to_record()["dice"] is None


def test_what_a_loss_remembers_of_training_is_not_touched():
    check = validation_of(a_case({(0, 0, 0): 1}, {(0, 0, 1): 1}), loss="bootstrapped")
    check(Echo(), 0)
    assert check.loss.b0.isnan() and check.loss.training


def test_a_picture_is_drawn_when_the_score_is_better_and_only_then(tmp_path):
    good, bad = {(1, 0, 0): 2, (1, 0, 1): 2}, {(0, 3, 3): 2}
    for answers, epochs in (((bad, good, bad, good), [2]), ((bad, bad), [])):
        folder = tmp_path / str(len(answers))
        check = validation_of(folder=folder)
        for epoch, answer in enumerate(answers):
            check.cases = [a_case(answer, {**good, (0, 0, 0): 1})]
            numbers = check(Echo(), epoch)
            assert numbers["dice_tumors"] == (1.0 if answer is good else 0.0)
        drawn = sorted(int(path.stem[-4:]) for path in folder.glob("*.png"))
        assert drawn == [1, *epochs]


def test_a_resumed_run_draws_nothing_that_is_no_better_than_its_log(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("epoch,lr,train_loss,val_dice,val_loss\n0,1,1,0.9,1\n1,1,1,0.3,1\n")
    check = validation_of(a_case({(0, 0, 0): 1}, {(0, 0, 1): 1}), folder=tmp_path / "p").go_on(log)
    check(Echo(), 2)
    assert not (tmp_path / "p").exists()


def test_the_picture_shows_the_largest_tumor_of_all_cases():
    small = a_case({}, {(0, 0, 0): 2, **{(1, j, i): 1 for j in range(4) for i in range(4)}})
    large = a_case({}, {(1, 0, 0): 2, (1, 0, 1): 2, (0, 2, 2): 2})
    assert validation_of(small, large)._pictured() == (1, 1, 2)
    healthy = a_case({}, {(1, 0, 0): 1, (1, 0, 1): 1, (0, 2, 2): 1})
    assert validation_of(healthy)._pictured() == (0, 1, 1)
