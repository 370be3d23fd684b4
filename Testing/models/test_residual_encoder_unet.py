"""nnU-Net's residual encoder network: the same numbers as nnU-Net v2."""

from __future__ import annotations

import pytest
import torch

from thoraxseg.errors import CheckpointError
from thoraxseg.models import build_network, load_weights, plain_conv_unet, residual_encoder_unet

NAME = "residual_encoder_unet"
V2 = "nnunetv2 is not installed: pip install nnunetv2"
PLANS = {
    "3d": ([4, 8, 16, 16], [[3, 3, 3]] * 4, [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 1, 2]], (16, 8, 16)),
    "3d-anisotropic": (
        [4, 8, 16, 16],
        [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
        [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
        (8, 16, 24),
    ),
    "2d": ([4, 8, 8], [[3, 3]] * 3, [[1, 1], [2, 2], [2, 1]], (16, 12)),
}
CASES = [pytest.param(plan, id=name) for name, plan in PLANS.items()]


def arch_kwargs(plan, **changes):
    """What the planner of nnU-Net v2 writes for a residual encoder."""
    features, kernels, strides, size = plan
    stages, axes = len(features), len(size)
    return {
        "n_stages": stages,
        "features_per_stage": features,
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "kernel_sizes": kernels,
        "strides": strides,
        "n_blocks_per_stage": [1, 3, 2, 2][:stages],
        "n_conv_per_stage_decoder": [1, 2, 1][: stages - 1],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    } | changes


def v2_reference(words):
    get_network = pytest.importorskip(
        "nnunetv2.utilities.get_network_from_plans", reason=V2
    ).get_network_from_plans
    requires = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    name = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    network = get_network(name, words, requires, 2, 3, deep_supervision=False)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3 + 0.1)
    return network.eval()


def largest_difference(words, reference, size):
    network = build_network(NAME, words)
    load_weights(network, NAME, reference.state_dict())
    image = torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        ours, theirs = network(image), reference(image.clone())
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 0.1
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize("plan", CASES)
def test_the_answers_are_those_of_nnunet_v2(plan):
    words = arch_kwargs(plan)
    words_with_channels = {"in_channels": 2, "classes": 3} | words
    assert largest_difference(words_with_channels, v2_reference(words), plan[3]) == 0


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"stem_channels": 6}, id="stem"),
        pytest.param({"conv_bias": False}, id="no-bias"),
        pytest.param(
            {"n_conv_per_stage_decoder": [2, 2, 2], "features_per_stage": [8, 8, 8, 16]}, id="no-skip-conv"
        ),
    ],
)
def test_the_answers_are_those_of_nnunet_v2_with_unusual_plans(changes):
    words = arch_kwargs(PLANS["3d"], **changes)
    words_with_channels = {"in_channels": 2, "classes": 3} | words
    reference = v2_reference(words)
    assert largest_difference(words_with_channels, reference, (16, 8, 16)) == 0
    found = residual_encoder_unet.recognize(reference.state_dict())
    assert largest_difference(found, reference, (16, 8, 16)) == 0


@pytest.mark.parametrize("plan", CASES)
def test_the_topology_is_read_from_the_tensors(plan):
    words = arch_kwargs(plan)
    reference = v2_reference(words)
    found = residual_encoder_unet.recognize({f"module.{k}": v for k, v in reference.state_dict().items()})
    shared = found.keys() & words.keys()
    assert shared >= {"n_stages", "kernel_sizes", "strides", "n_blocks_per_stage", "n_conv_per_stage_decoder"}
    assert {word: found[word] for word in shared} == {word: words[word] for word in shared}
    assert largest_difference(found, reference, plan[3]) == 0


def test_the_two_networks_of_nnunet_are_told_apart():
    words = {"in_channels": 2, "classes": 3} | arch_kwargs(PLANS["2d"])
    state = build_network(NAME, words).state_dict()
    assert residual_encoder_unet.recognize(state) is not None
    assert plain_conv_unet.recognize(state) is None


def test_duplicates_that_differ_are_refused():
    words = {"in_channels": 2, "classes": 3} | arch_kwargs(PLANS["2d"])
    network = build_network(NAME, words)
    state = dict(network.state_dict())
    key = "encoder.stages.1.blocks.0.conv1.all_modules.0.weight"
    state[key] = state[key.replace("all_modules.0", "conv")].clone()
    load_weights(network, NAME, state)
    state[key] += 1
    with pytest.raises(
        CheckpointError, match=r"two different tensors for encoder\.stages\.1\.blocks\.0\.conv1\.conv"
    ):
        load_weights(network, NAME, state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"block": "dynamic_network_architectures.building_blocks.residual.BottleneckD"},
            "block must be BasicBlockD",
        ),
        ({"bottleneck_channels": 4}, "without bottleneck_channels"),
        ({"norm_op": "torch.nn.modules.batchnorm.BatchNorm2d"}, "norm_op must be InstanceNorm2d"),
        ({"n_blocks_per_stage": [1, 2]}, "n_blocks_per_stage needs 3"),
        ({"squeeze_excitation": True}, "squeeze_excitation"),
    ],
)
def test_a_plan_with_something_else_is_refused_and_it_is_named(changes, message):
    with pytest.raises(CheckpointError, match=message):
        build_network(NAME, {"in_channels": 1, "classes": 2} | arch_kwargs(PLANS["2d"], **changes))


def test_a_preset_of_full_size_has_as_many_parameters_as_in_nnunet_v2():
    """No number is published for it: the reference itself is counted."""
    get_network = pytest.importorskip(
        "nnunetv2.utilities.get_network_from_plans", reason=V2
    ).get_network_from_plans
    plan = ([32, 64, 128, 256, 320, 320], [[3, 3, 3]] * 6, [[1, 1, 1], *[[2, 2, 2]] * 5], (64, 64, 64))
    words = arch_kwargs(plan, n_blocks_per_stage=[1, 3, 4, 6, 6, 6], n_conv_per_stage_decoder=[1] * 5)
    requires = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    name = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    with torch.device("meta"):
        reference = get_network(name, words, requires, 1, 4, allow_init=False, deep_supervision=False)
        network = residual_encoder_unet.build(in_channels=1, classes=4, **words)
    counts = [sum(p.numel() for p in each.parameters()) for each in (network, reference)]
    assert counts[0] == counts[1] > 100_000_000
