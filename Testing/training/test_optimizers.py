"""Optimizers and schedules: the rates on paper, against torch and nnU-Net, and a resumed run that is the same."""

from __future__ import annotations

import io
import math

import pytest
import torch

from thoraxseg.errors import OptionError
from thoraxseg.training.optimizers import OPTIMIZER_NAMES, SCHEDULE_NAMES, build_optimizer, build_schedule

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCHS, STEPS = 12, 3
SCHEDULES = {
    "constant": {},
    "cosine": {"warm_up_epochs": 2, "minimum": 0.01},
    "cosine-restarts": {"first_epochs": 3, "multiplier": 2},
    "poly": {},
    "plateau": {"patience": 1, "factor": 0.5},
}


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1))


def schedule_of(name, epochs=EPOCHS, steps=STEPS, lr=0.1, **options):
    optimizer = build_optimizer(network(), {"name": "sgd", "lr": lr})
    return build_schedule(optimizer, {"name": name, **options}, epochs, steps)


def rates(schedule, count, scores=None):
    found = []
    for i in range(count):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.step(None if scores is None else scores[i])
    return found


class Run:
    """A small training; its scores are the losses."""

    def __init__(self, optimizer, schedule):
        self.network = network()
        self.optimizer = build_optimizer(self.network, {"name": optimizer, "lr": 0.05, "weight_decay": 0.01})
        self.schedule = build_schedule(
            self.optimizer, {"name": schedule, **SCHEDULES[schedule]}, EPOCHS, STEPS
        )
        self.rates = []

    def epoch(self, number):
        for step in range(STEPS):
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(number * STEPS + step))
            loss = (self.network(x) - x.sum(dim=1, keepdim=True)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self.schedule.step_after == "step":
                self.schedule.step()
        if self.schedule.step_after == "epoch":
            self.schedule.step(score=loss.item())
        self.rates.append(self.optimizer.param_groups[0]["lr"])

    def saved(self):
        file = io.BytesIO()
        torch.save([one.state_dict() for one in (self.network, self.optimizer, self.schedule)], file)
        return file.getvalue()

    def resume(self, data, order):
        states = torch.load(io.BytesIO(data), weights_only=True)
        for i in order:
            (self.network, self.optimizer, self.schedule)[i].load_state_dict(states[i])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)], ids=["optimizer first", "schedule first"])
@pytest.mark.parametrize("schedule", SCHEDULE_NAMES)
@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
def test_a_resumed_run_is_the_uninterrupted_one(optimizer, schedule, order):
    whole = Run(optimizer, schedule)
    for number in range(EPOCHS):
        whole.epoch(number)
    first = Run(optimizer, schedule)
    for number in range(5):
        first.epoch(number)
    second = Run(optimizer, schedule)
    second.resume(first.saved(), order)
    for number in range(5, EPOCHS):
        second.epoch(number)
    assert first.rates + second.rates == whole.rates
    for key, tensor in whole.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[key], tensor)
    assert schedule == "constant" or len(set(whole.rates)) > 2


def test_poly_is_that_of_nnunet():
    schedulers = pytest.importorskip(
        "nnunetv2.training.lr_scheduler.polylr", reason="nnunetv2 is not installed"
    )
    optimizer = torch.optim.SGD(network().parameters(), lr=0.01)
    theirs, expected = schedulers.PolyLRScheduler(optimizer, 0.01, 20), []
    for epoch in range(20):
        theirs.step(epoch)
        expected.append(optimizer.param_groups[0]["lr"])
    assert rates(schedule_of("poly", epochs=20, lr=0.01), 20) == pytest.approx(expected, rel=1e-12)


def test_poly_is_known_on_paper():
    found = rates(schedule_of("poly", epochs=10, lr=1.0), 12)
    assert found[:2] == pytest.approx([1, 0.9**0.9])
    assert found[9:] == pytest.approx([0.1**0.9, 0, 0])


@pytest.mark.parametrize("multiplier", [1, 2])
def test_cosine_restarts_are_those_of_torch(multiplier):
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=5, T_mult=multiplier, eta_min=0.001
    )
    expected = []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    schedule = schedule_of("cosine-restarts", epochs=40, multiplier=multiplier, minimum=0.01)
    assert schedule.step_after == "epoch"
    assert rates(schedule, 40) == pytest.approx(expected, rel=1e-9)


def test_cosine_restarts_begin_again_after_five_epochs():
    found = rates(schedule_of("cosine-restarts", lr=1.0), 11)
    assert found[0] == found[5] == found[10] == 1
    assert found[4] == pytest.approx((1 + math.cos(0.8 * math.pi)) / 2)


def test_cosine_rises_in_a_line_and_falls_to_the_minimum():
    schedule = schedule_of("cosine", epochs=10, steps=4, lr=1.0, warm_up_epochs=1, minimum=0.1)
    assert schedule.step_after == "step"
    found = rates(schedule, 42)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[4 + 18] == pytest.approx(0.55)
    assert found[40] == found[41] == pytest.approx(0.1)
    assert found[4:41] == sorted(found[4:41], reverse=True)


def test_plateau_waits_for_its_patience():
    # The second score is the best; more than two epochs without a better one follow, then again.
    scores = [1.0, 0.5, 0.6, 0.5, 0.7, 0.6, 0.6, 0.6, 0.6]
    found = rates(schedule_of("plateau", patience=2, factor=0.1, lr=1.0), 9, scores)
    assert found == pytest.approx([1] * 5 + [0.1] * 3 + [0.01])
    higher_is_better = [2 - score for score in scores]
    assert rates(
        schedule_of("plateau", patience=2, factor=0.1, lr=1.0, mode="max"), 9, higher_is_better
    ) == pytest.approx(found)
    floor = rates(schedule_of("plateau", patience=0, minimum=0.05, lr=1.0), 6, [1.0] * 6)
    assert floor == pytest.approx([1, 1, 0.1, 0.05, 0.05, 0.05])


def test_plateau_does_not_count_epochs_without_a_validation():
    scores = [1.0, None, None, None, 1.0, None, 1.0]
    found = rates(schedule_of("plateau", patience=1, factor=0.1, lr=1.0), 7, scores)
    assert found == pytest.approx([1] * 7)


def test_a_constant_rate_stays():
    assert set(rates(schedule_of("constant"), 20)) == {0.1}


def test_sgd_is_that_of_nnunet_unless_told():
    group = build_optimizer(network(), {"name": "sgd", "lr": 0.01}).param_groups[0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.99, True, 0)


def test_adam_takes_the_options_of_the_papers():
    optimizer = build_optimizer(
        network(), {"name": "adam", "lr": 3e-4, "weight_decay": 1e-4, "betas": [0.8, 0.9]}
    )
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, torch.optim.Adam) and not isinstance(optimizer, torch.optim.AdamW)
    assert (group["lr"], group["weight_decay"], group["betas"]) == (3e-4, 1e-4, (0.8, 0.9))
    assert isinstance(build_optimizer(network(), {"name": "adamw", "lr": 3e-4}), torch.optim.AdamW)


def test_frozen_parameters_are_left_alone():
    half_frozen = network()
    half_frozen[0].requires_grad_(False)
    groups = build_optimizer(half_frozen, {"name": "adam", "lr": 0.1}).param_groups
    assert [len(group["params"]) for group in groups] == [2]
    with pytest.raises(OptionError, match="no parameters that learn"):
        build_optimizer(half_frozen.requires_grad_(False), {"name": "adam", "lr": 0.1})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lr": 0.1}, "adam, adamw, sgd"),
        ({"name": "lion", "lr": 0.1}, "lion"),
        ({"name": "adam"}, "'lr' is missing"),
        ({"name": "adam", "lr": 0}, "lr"),
        ({"name": "adam", "lr": float("inf")}, "lr.*inf"),
        ({"name": "adam", "lr": 0.1, "momentum": 0.9}, "momentum.*lr, betas"),
        ({"name": "adam", "lr": 0.1, "betas": 0.9}, "betas"),
        ({"name": "adam", "lr": 0.1, "betas": [0.9, 1]}, "betas"),
        ({"name": "sgd", "lr": 0.1, "momentum": 0}, "nesterov"),
        ({"name": "sgd", "lr": 0.1, "parameters": []}, "unknown parameter 'parameters'"),
    ],
)
def test_an_optimizer_that_cannot_be_built_is_refused(options, says):
    with pytest.raises(OptionError, match=says):
        build_optimizer(network(), options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "constant, cosine, cosine-restarts, poly, plateau"),
        ({"name": "linear"}, "linear"),
        ({"name": "poly", "power": 2}, "power.*exponent"),
        ({"name": "constant", "minimum": 2}, "knows none"),
        ({"name": "cosine", "warm_up_epochs": 99}, "warm_up_epochs"),
        ({"name": "cosine-restarts", "first_epochs": 0}, "first_epochs"),
        ({"name": "cosine-restarts", "multiplier": 1.5}, "multiplier"),
        ({"name": "plateau", "patience": -1}, "patience"),
        ({"name": "plateau", "factor": 1}, "factor"),
        ({"name": "plateau", "mode": "up"}, "min, max"),
    ],
)
def test_a_schedule_that_cannot_be_built_is_refused(options, says):
    optimizer = build_optimizer(network(), {"name": "adam", "lr": 0.1})
    with pytest.raises(OptionError, match=says):
        build_schedule(optimizer, options, EPOCHS, STEPS)
