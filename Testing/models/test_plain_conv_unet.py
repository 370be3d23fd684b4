"""nnU-Net's plain network: the same numbers as nnU-Net v2 and v1, and a refusal of what is not built."""

from __future__ import annotations

import pytest
import torch

from thoraxseg.errors import CheckpointError
from thoraxseg.models import build_network, load_weights, plain_conv_unet

V1 = "nnunet 1.7.1 is not installed: pip install --no-deps nnunet==1.7.1, then pandas and scikit-image"
V2 = "nnunetv2 is not installed: pip install nnunetv2"
PLANS = {
    "3d": {
        "n_stages": 4,
        "features_per_stage": [4, 8, 16, 16],
        "kernel_sizes": [[3, 3, 3]] * 4,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 1, 2]],
        "size": (16, 8, 16),
    },
    "3d-anisotropic": {
        "n_stages": 4,
        "features_per_stage": [4, 8, 16, 16],
        "kernel_sizes": [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
        "size": (8, 16, 24),
    },
    "2d": {
        "n_stages": 5,
        "features_per_stage": [4, 8, 16, 16, 16],
        "kernel_sizes": [[3, 3]] * 5,
        "strides": [[1, 1], [2, 2], [2, 2], [2, 2], [2, 1]],
        "size": (32, 24),
    },
}
CASES = [pytest.param(plan, id=name) for name, plan in PLANS.items()]


def arch_kwargs(plan, **changes):
    """What the planner of nnU-Net v2 writes under this name."""
    axes = len(plan["size"])
    count = plan["n_stages"]
    written = {key: plan[key] for key in plan if key != "size"}
    return (
        written
        | {
            "n_conv_per_stage": [2] * count,
            "n_conv_per_stage_decoder": [2] * (count - 1),
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
        | changes
    )


def randomize(network):
    """Give every tensor of a network its own random values, also those that start as zeros or ones."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3 + 0.1)
    return network.eval()


def v2_reference(plan, words=None):
    get_network = pytest.importorskip(
        "nnunetv2.utilities.get_network_from_plans", reason=V2
    ).get_network_from_plans
    requires = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    name = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    words = words or arch_kwargs(plan)
    return randomize(get_network(name, words, requires, 2, 3, deep_supervision=False))


def v1_reference(plan):
    generic = pytest.importorskip("nnunet.network_architecture.generic_UNet", reason=V1)
    axes = len(plan["size"])
    network = generic.Generic_UNet(
        2, plan["features_per_stage"][0], 3, plan["n_stages"] - 1, 2, 2,
        (torch.nn.Conv2d, torch.nn.Conv3d)[axes - 2], (torch.nn.InstanceNorm2d, torch.nn.InstanceNorm3d)[axes - 2],
        {"eps": 1e-5, "affine": True}, (torch.nn.Dropout2d, torch.nn.Dropout3d)[axes - 2], {"p": 0, "inplace": True},
        torch.nn.LeakyReLU, {"negative_slope": 1e-2, "inplace": True}, True, False, lambda x: x,
        generic.InitWeights_He(1e-2), plan["strides"][1:], plan["kernel_sizes"], False, True, True,
        max_num_features=plan["features_per_stage"][-1],
    )  # fmt: skip
    network.do_ds = False
    return randomize(network)


def image_of(plan):
    return torch.randn(2, 2, *plan["size"], generator=torch.Generator().manual_seed(3))


def largest_difference(network, reference, image):
    """The largest difference of two answers, as a fraction of the largest value of the second one."""
    with torch.inference_mode():
        ours, theirs = network(image), reference(image.clone())
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 0.1
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture
def network():
    """A small 2-D network with random weights."""
    return randomize(
        build_network("plain_conv_unet", {"in_channels": 2, "classes": 3} | arch_kwargs(PLANS["2d"]))
    )


@pytest.mark.parametrize("plan", CASES)
def test_the_answers_are_those_of_nnunet_v2(plan):
    reference = v2_reference(plan)
    ours = build_network("plain_conv_unet", {"in_channels": 2, "classes": 3} | arch_kwargs(plan))
    load_weights(ours, "plain_conv_unet", reference.state_dict())
    assert largest_difference(ours, reference, image_of(plan)) == 0


def test_the_answers_are_those_of_nnunet_v2_without_bias_and_with_uneven_stages():
    plan = PLANS["3d"]
    words = arch_kwargs(
        plan, conv_bias=False, n_conv_per_stage=[1, 2, 3, 1], n_conv_per_stage_decoder=[3, 1, 2]
    )
    words |= {"norm_op_kwargs": {"eps": 1e-2, "affine": True}, "nonlin_kwargs": {"negative_slope": 0.2}}
    reference = v2_reference(plan, words)
    ours = build_network("plain_conv_unet", {"in_channels": 2, "classes": 3} | words)
    load_weights(ours, "plain_conv_unet", reference.state_dict())
    assert largest_difference(ours, reference, image_of(plan)) == 0


@pytest.mark.parametrize("plan", CASES)
def test_the_topology_of_nnunet_v2_is_read_from_its_tensors(plan):
    state = v2_reference(plan).state_dict()
    found = plain_conv_unet.recognize({f"module.{key}": tensor for key, tensor in state.items()})
    for word in ("n_stages", "features_per_stage", "kernel_sizes", "strides"):
        assert found[word] == plan[word]
    assert (found["in_channels"], found["classes"], found["conv_bias"]) == (2, 3, True)
    assert "decoder_kernel_sizes" not in found


@pytest.mark.parametrize("plan", CASES)
def test_the_answers_are_those_of_nnunet_v1(plan):
    reference = v1_reference(plan)
    words = arch_kwargs(plan, decoder_kernel_sizes=plan["kernel_sizes"][:0:-1])
    ours = build_network("plain_conv_unet", {"in_channels": 2, "classes": 3} | words)
    load_weights(ours, "plain_conv_unet", {f"module.{k}": v for k, v in reference.state_dict().items()})
    assert largest_difference(ours, reference, image_of(plan)) == 0


@pytest.mark.parametrize("plan", CASES)
def test_the_topology_of_nnunet_v1_is_read_from_its_tensors(plan):
    reference = v1_reference(plan)
    found = plain_conv_unet.recognize(reference.state_dict())
    ours = build_network("plain_conv_unet", found)
    load_weights(ours, "plain_conv_unet", reference.state_dict())
    assert largest_difference(ours, reference, image_of(plan)) == 0


def test_decoder_kernels_of_an_anisotropic_nnunet_v1_are_those_of_the_level_below():
    found = plain_conv_unet.recognize(v1_reference(PLANS["3d-anisotropic"]).state_dict())
    assert found["decoder_kernel_sizes"] == [[3, 3, 3], [3, 3, 3], [1, 3, 3]]
    del found["decoder_kernel_sizes"]
    ours = build_network("plain_conv_unet", found)
    with pytest.raises(CheckpointError, match=r"decoder\.stages\.1\.convs\.0\.conv\.weight is .*expected"):
        load_weights(ours, "plain_conv_unet", v1_reference(PLANS["3d-anisotropic"]).state_dict())


def v1_names(state):
    """The tensors of a network under the names of nnU-Net v1, without the biases that v1 does not have."""
    deepest = max(int(key.split(".")[2]) for key in state if key.startswith("encoder."))
    names = {}
    for key, tensor in state.items():
        part = key.replace(".norm.", ".instnorm.").split(".")
        if part[0] == "encoder":
            stage, number = int(part[2]), int(part[5])
            half = f"{number // 1}.blocks.0" if stage == deepest else f"blocks.{number}"
            names[".".join(["conv_blocks_context", part[2], half, *part[6:]])] = tensor
        elif part[1] == "stages":
            names[".".join(["conv_blocks_localization", part[2], part[4], "blocks.0", *part[5:]])] = tensor
        elif part[-1] == "weight":
            names[f"{ {'transpconvs': 'tu', 'seg_layers': 'seg_outputs'}[part[1]] }.{part[2]}.weight"] = (
                tensor
            )
    return names


def test_names_of_nnunet_v1_are_mapped_and_missing_biases_are_zero(network):
    state = network.state_dict()
    mapped = plain_conv_unet.from_published(v1_names(state))
    assert mapped.keys() == state.keys()
    for key, tensor in mapped.items():
        without = key.startswith(("decoder.transpconvs", "decoder.seg_layers")) and key.endswith("bias")
        torch.testing.assert_close(tensor, torch.zeros_like(state[key]) if without else state[key])


def test_biases_that_a_v1_file_has_are_kept(network):
    bias = torch.tensor([1.0, 2.0, 3.0])
    mapped = plain_conv_unet.from_published(v1_names(network.state_dict()) | {"seg_outputs.3.bias": bias})
    torch.testing.assert_close(mapped["decoder.seg_layers.3.bias"], bias)


def stored_like_v2(state):
    """Every tensor under all the names that nnU-Net v2 stores it under."""
    named = {}
    for key, tensor in state.items():
        twice = key.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")
        for name in {key, twice if ".convs." in key else key}:
            named[name] = tensor
            if name.startswith("encoder."):
                named[f"decoder.{name}"] = tensor.clone()
    return named


def test_tensors_that_nnunet_v2_stores_several_times_are_taken_once(network):
    stored = stored_like_v2(network.state_dict())
    assert len(stored) > 2 * len(network.state_dict())
    assert plain_conv_unet.from_published(stored).keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    "name",
    [
        "encoder.stages.0.0.convs.0.all_modules.0.weight",
        "decoder.encoder.stages.1.0.convs.1.norm.bias",
        "decoder.stages.0.convs.1.all_modules.1.weight",
    ],
)
def test_duplicates_that_differ_are_refused(network, name):
    stored = stored_like_v2(network.state_dict())
    stored[name] = stored[name] + 1
    with pytest.raises(CheckpointError, match="two different tensors for"):
        plain_conv_unet.from_published(stored)


def test_what_a_file_stores_beyond_the_network_is_refused(network):
    stored = stored_like_v2(network.state_dict())
    stored["encoder.stages.0.0.convs.0.all_modules.2.weight"] = torch.ones(4)  # dropout or nonlin_first
    assert plain_conv_unet.recognize(stored) is None
    with pytest.raises(CheckpointError, match=r"unexpected .*all_modules\.2\.weight"):
        load_weights(network, "plain_conv_unet", stored)


def test_a_batch_normalization_is_not_recognized(network):
    state = network.state_dict() | {"encoder.stages.0.0.convs.0.norm.running_mean": torch.zeros(4)}
    assert plain_conv_unet.recognize(state) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_op": "torch.nn.modules.batchnorm.BatchNorm2d"}, "norm_op must be InstanceNorm2d"),
        ({"norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d"}, "norm_op must be InstanceNorm2d"),
        ({"norm_op": None}, "norm_op must be InstanceNorm2d, not None"),
        ({"norm_op_kwargs": {"track_running_stats": True}}, "track_running_stats"),
        ({"nonlin": "torch.nn.ReLU"}, "nonlin must be LeakyReLU"),
        ({"nonlin_kwargs": {"num_parameters": 2}}, "num_parameters"),
        ({"dropout_op": "torch.nn.Dropout2d"}, "dropout_op must be None"),
        ({"nonlin_first": True}, "nonlin_first"),
        ({"conv_op": "os.system"}, "conv_op must be one of"),
        ({"dimensions": 3}, "conv_op must be one of .* fit dimensions"),
        ({"conv_op": None}, "dimensions must be 2 or 3"),
        ({"strides": [[2, 2]] * 5}, "the first of strides must be 1"),
        ({"kernel_sizes": [[2, 2]] * 5}, "kernel_sizes must be odd"),
        ({"kernel_sizes": [[3, 3, 3]] * 5}, "kernel_sizes needs 2 positive numbers"),
        ({"kernel_sizes": [[3, 3]] * 4}, "kernel_sizes needs 5 entries"),
        ({"decoder_kernel_sizes": [[3, 3]] * 5}, "decoder_kernel_sizes needs 4 entries"),
        ({"features_per_stage": [4, 8]}, "features_per_stage needs 5 positive"),
        ({"n_conv_per_stage": [0] * 5}, "n_conv_per_stage needs 5 positive"),
        ({"n_conv_per_stage_decoder": [2] * 5}, "n_conv_per_stage_decoder needs 4"),
        ({"n_stages": 1}, "n_stages must be at least 2"),
        ({"squeeze_excitation": True}, "squeeze_excitation"),
    ],
)
def test_a_plan_with_something_else_is_refused_and_it_is_named(changes, message):
    with pytest.raises(CheckpointError, match=message):
        build_network(
            "plain_conv_unet", {"in_channels": 1, "classes": 2} | arch_kwargs(PLANS["2d"], **changes)
        )


def test_one_number_stands_for_all_stages_and_axes():
    short = {"in_channels": 1, "classes": 2, "dimensions": 2, "conv_bias": True, "n_stages": 2}
    short |= {"features_per_stage": 4, "kernel_sizes": 3, "strides": [1, 2]}
    short |= {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 1}
    long = short | {"features_per_stage": [4, 4], "kernel_sizes": [[3, 3]] * 2, "strides": [[1, 1], [2, 2]]}
    long |= {"n_conv_per_stage": [2, 2], "n_conv_per_stage_decoder": [1]}
    assert plain_conv_unet.recognize(build_network("plain_conv_unet", short).state_dict()) == long


def test_a_normalization_named_without_affine_has_no_weights_as_in_torch():
    words = arch_kwargs(PLANS["2d"], norm_op_kwargs=None)
    network = build_network("plain_conv_unet", {"in_channels": 1, "classes": 2} | words)
    assert not any(".norm." in key for key in network.state_dict())


def test_the_plan_of_a_mouse_model_has_the_published_number_of_parameters():
    features = [32, 64, 128, 256, 320, 320]
    strides = [[1, 1, 1], *[[2, 2, 2]] * 4, [2, 1, 2]]
    with torch.device("meta"):
        network = plain_conv_unet.build(
            in_channels=1, classes=5, dimensions=3, n_stages=6, features_per_stage=features, kernel_sizes=3,
            strides=strides, n_conv_per_stage=2, n_conv_per_stage_decoder=2, conv_bias=True,
        )  # fmt: skip
    assert sum(p.numel() for p in network.parameters()) == 30_788_409
    v1 = v1_names(network.state_dict())
    assert (len(v1), sum(tensor.numel() for tensor in v1.values())) == (98, 30_787_584)
    assert len(stored_like_v2(network.state_dict())) == 292
