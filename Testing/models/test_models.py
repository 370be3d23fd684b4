"""Building a network by name and putting weights into it: everything has to fit."""

from __future__ import annotations

import pytest
import torch

from thoraxseg.errors import CheckpointError
from thoraxseg.models import build_network, known_architectures, load_weights

THRESHOLD = {"centers": [0, 10], "widths": [1, 2], "dimensions": 2}


def test_architectures_are_listed_by_name():
    assert known_architectures() == sorted(known_architectures())
    assert {"deepmeta", "threshold"} <= set(known_architectures())


@pytest.mark.parametrize("name", ["unet9000", "os", "../threshold", "__init__", ""])
def test_an_unknown_architecture_lists_the_known_ones(name):
    with pytest.raises(CheckpointError, match=r"unknown architecture .* builds: .*deepmeta.*threshold"):
        build_network(name, {})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("deepmeta", {"depth": 9}),
        ("deepmeta", {"classes": "three"}),
        ("deepmeta", {"classes": -1}),
        ("deepmeta", {"in_channels": 0}),
        ("deepmeta", {"filters": 10**12}),
        ("threshold", {}),
        ("threshold", {"centers": [1, 2], "widths": [1]}),
        ("threshold", {"centers": [1], "widths": ["a"]}),
        ("threshold", {"centers": [1], "widths": [1], "window": 2}),
        ("threshold", {"centers": [1], "widths": [1], "dimensions": 4}),
    ],
)
def test_arguments_an_architecture_does_not_take_are_refused_with_its_name(name, arguments):
    with pytest.raises(CheckpointError, match=f"architecture '{name}' does not take"):
        build_network(name, arguments)


def test_a_network_is_built_for_prediction_not_for_training():
    assert not any(module.training for module in build_network("deepmeta", {}).modules())


def test_the_stand_in_scores_by_distance_from_the_centers_of_its_bands():
    network = build_network("threshold", THRESHOLD)
    logits = network(torch.tensor([[[[0.0, 10.0, 4.0]]]]))
    torch.testing.assert_close(logits[0, :, 0], torch.tensor([[0.0, -100.0, -16.0], [-25.0, 0.0, -9.0]]))


def test_the_stand_in_averages_over_its_window_and_only_over_the_image():
    network = build_network("threshold", {"centers": [0], "widths": [1], "window": 3, "dimensions": 3})
    image = torch.zeros(1, 1, 3, 3, 4)
    image[..., 0] = 6
    expected = torch.tensor([3.0, 2.0, 0.0, 0.0])  # 6/2 at the border, 6/3 beside it
    torch.testing.assert_close(network(image)[0, 0, 0, 0], -(expected**2))


@pytest.fixture
def layer():
    """A network with one of each kind of tensor."""
    return build_network("deepmeta", {"filters": 2})


@pytest.fixture
def state(layer):
    return {key: tensor.clone() for key, tensor in layer.state_dict().items()}


KEY = "output.pointwise.weight"
COUNTER = "bridge.1.num_batches_tracked"


def test_weights_are_put_in_whole(layer, state):
    state = {key: tensor + 1 for key, tensor in state.items()}
    load_weights(layer, "deepmeta", state)
    assert all(torch.equal(layer.state_dict()[key], state[key]) for key in state)


def test_the_prefix_of_a_parallel_training_is_stripped(layer, state):
    load_weights(layer, "deepmeta", {f"module.{key}": tensor + 1 for key, tensor in state.items()})
    assert torch.equal(layer.state_dict()[KEY], state[KEY] + 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_32_bit(layer, state, dtype):
    state[KEY] = torch.full_like(state[KEY], 0.5).to(dtype)
    load_weights(layer, "deepmeta", state)
    assert layer.state_dict()[KEY].dtype == torch.float32
    assert (layer.state_dict()[KEY] == 0.5).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda s: s.pop(KEY), f"missing {KEY}", id="missing"),
        pytest.param(lambda s: s.update(extra=torch.zeros(1)), "unexpected extra", id="extra"),
        pytest.param(
            lambda s: s.update({KEY: s[KEY][:2]}), rf"{KEY} is \(2, 160, 1, 1\), expected \(3, 160, 1, 1\)", id="shape"
        ),
        pytest.param(lambda s: s[KEY].fill_(float("nan")), f"{KEY} holds NaN or infinite", id="NaN"),
        pytest.param(lambda s: s[KEY].view(-1)[5:6].fill_(float("-inf")), f"{KEY} holds", id="infinity"),
        pytest.param(lambda s: s.update({KEY: s[KEY].double() + 1e300}), f"{KEY} holds NaN or inf", id="too large"),
        pytest.param(lambda s: s.update({KEY: s[KEY].int()}), f"{KEY} is torch.int32, expected", id="int"),
        pytest.param(lambda s: s.update({KEY: s[KEY].to(torch.cfloat)}), f"{KEY} is torch.complex64", id="complex"),
        pytest.param(
            lambda s: s.update({COUNTER: s[COUNTER].float()}), f"{COUNTER} is torch.float32", id="float counter"
        ),
        pytest.param(lambda s: s.update({f"module.{KEY}": s[KEY]}), "1 tensors share a name", id="twice"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused_and_the_tensor_is_named(layer, state, change, words):
    before = layer.state_dict()[COUNTER].clone(), layer.state_dict()[KEY].clone()
    change(state)
    with pytest.raises(CheckpointError, match=words):
        load_weights(layer, "deepmeta", state)
    assert torch.equal(layer.state_dict()[COUNTER], before[0]) and torch.equal(
        layer.state_dict()[KEY], before[1]
    )


def test_many_problems_are_counted_and_a_few_are_shown(layer):
    with pytest.raises(CheckpointError, match=r"\(168 problems\): missing .*; \.\.\."):
        load_weights(layer, "deepmeta", {})
