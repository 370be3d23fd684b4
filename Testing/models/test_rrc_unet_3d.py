"""RRc-UNet 3D: the blocks, the two ways to combine, and the numbers of parameters."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate, max_pool3d

from thoraxseg.errors import CheckpointError
from thoraxseg.models import build_network, load_weights, rrc_unet_3d

VARIANTS = {
    "rrc-add": {},
    "rrc-concat": {"combine": "concat"},
    "rrc-unshared": {"shared": False},
    "rrc-unshared-three-times": {"shared": False, "repeats": 3},
    "rrc-concat-unshared": {"combine": "concat", "shared": False},
    "rrc-wide-input": {"input_kernel": 3},
    "rrc-concat-narrow-input": {"combine": "concat", "input_kernel": 1},
    "cgpd": {"block": "cgpd"},
    "cgpd-first": {"block": "cgpd", "widen": "first"},
    "residual": {"block": "residual"},
    "recurrent": {"block": "recurrent"},
    "recurrent-unshared": {"block": "recurrent", "shared": False},
}
CASES = [pytest.param(words, id=name) for name, words in VARIANTS.items()]


def network_of(**words):
    torch.manual_seed(0)
    return build_network("rrc_unet_3d", {"filters": 4, "groups": 2} | words)


def calls_of(module, x):
    """The answer of a module, and the inputs of every convolution block in the order in which it ran."""
    inputs = []
    hooks = [
        part.register_forward_hook(lambda m, args, output: inputs.append(args[0]))
        for part in module.modules()
        if isinstance(part, rrc_unet_3d.ConvGroupPReLU)
    ]
    with torch.inference_mode():
        answer = module(x)
    for hook in hooks:
        hook.remove()
    return answer, inputs


@pytest.mark.parametrize(
    ("words", "millions"),
    [
        pytest.param({"block": "cgpd", "widen": "first"}, 23.54, id="u-net"),
        pytest.param({}, 24.00, id="default"),
        pytest.param({"combine": "concat"}, 11.77, id="concat"),
        pytest.param({"combine": "concat", "shared": False}, 17.66, id="concat-unshared"),
        pytest.param({"input_kernel": 3}, 35.32, id="add-3"),
        pytest.param({"shared": False}, 47.57, id="add-unshared"),
        pytest.param({"shared": False, "input_kernel": 3}, 58.88, id="add-unshared-3"),
    ],
)
def test_the_number_of_parameters_is_that_of_the_definitions(words, millions):
    with torch.device("meta"):
        network = rrc_unet_3d.build(**words)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("words", CASES)
def test_every_variant_answers_every_voxel_and_is_recognized(words):
    network = network_of(**words)
    with torch.inference_mode():
        answer = network(torch.rand(1, 2, 16, 32, 16))
    assert answer.shape == (1, 3, 16, 32, 16)
    with torch.device("meta"):
        state = rrc_unet_3d.build(filters=16, **words).state_dict()
    found = rrc_unet_3d.recognize({f"module.{key}": tensor for key, tensor in state.items()})
    assert words.items() <= found.items()
    assert (found["filters"], found["in_channels"], found["classes"]) == (16, 2, 3)


def test_levels_are_max_pooled_on_the_way_down_and_upsampled_with_all_channels_on_the_way_up():
    network = network_of()
    inputs, outputs = {}, {}

    def record(name):
        def hook(module, args, output):
            inputs[name], outputs[name] = args[0], output

        return hook

    for name, module in network.named_modules():
        module.register_forward_hook(record(name))
    with torch.inference_mode():
        network(torch.rand(1, 2, 16, 16, 32))
    assert [outputs[f"encoder.{i}"].shape[1] for i in range(5)] == [4, 8, 16, 32, 64]
    for level in range(4):
        pooled = max_pool3d(outputs[f"encoder.{level}"], 2)
        torch.testing.assert_close(inputs[f"encoder.{level + 1}"], pooled, rtol=0, atol=0)
    for node in range(4):
        below = outputs[f"decoder.{node - 1}" if node else "encoder.4"]
        up = interpolate(below, scale_factor=2, mode="trilinear")
        joined = torch.cat([outputs[f"encoder.{3 - node}"], up], dim=1)
        torch.testing.assert_close(inputs[f"decoder.{node}"], joined, rtol=0, atol=0)
    assert [inputs[f"decoder.{i}"].shape[1] for i in range(4)] == [
        96,
        48,
        24,
        12,
    ]  # 768, 384, 192, 96 at 32 filters


@pytest.mark.parametrize("repeats", [1, 2, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_a_recurrent_block_runs_exactly_t_times_and_adds_its_input_from_the_second_time_on(repeats, shared):
    torch.manual_seed(0)
    block = rrc_unet_3d.Recurrent(4, repeats, shared, 2).eval()
    x = torch.rand(1, 4, 4, 4, 4)
    answer, inputs = calls_of(block, x)
    assert len(inputs) == repeats
    assert len(block.steps) == (1 if shared else repeats)
    with torch.inference_mode():
        hidden = block.steps[0](x)
        for number in range(1, repeats):
            hidden = block.steps[0 if shared else number](x + hidden)
    torch.testing.assert_close(answer, hidden, rtol=0, atol=0)


@pytest.mark.parametrize(("combine", "width", "kernel"), [("add", 4, 1), ("concat", 2, 3)])
def test_rrc_combines_what_went_into_its_recurrent_blocks_with_what_came_out(combine, width, kernel):
    level = network_of(combine=combine).encoder[0]
    assert (level.conv_in.out_channels, level.conv_in.kernel_size) == (width, (kernel,) * 3)
    x = torch.rand(1, 2, 4, 4, 4)
    with torch.inference_mode():
        before = level.conv_in(x)
        after = level.blocks[1](level.blocks[0](before))
        expected = before + after if combine == "add" else torch.cat([before, after], dim=1)
        torch.testing.assert_close(level(x), expected, rtol=0, atol=0)


def test_the_recurrent_variant_has_no_outer_addition():
    level = network_of(block="recurrent").encoder[0]
    x = torch.rand(1, 2, 4, 4, 4)
    with torch.inference_mode():
        expected = level.recurrent[1](level.recurrent[0](level.widen(x)))
        torch.testing.assert_close(level(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("widen", "middle"), [("second", [2, 4, 8, 16, 32]), ("first", [4, 8, 16, 32, 64])])
def test_cgpd_doubles_the_channels_in_the_convolution_that_is_asked_for(widen, middle):
    network = network_of(block="cgpd", widen=widen)
    assert [level.first.conv.out_channels for level in network.encoder] == middle
    assert [level.first.conv.out_channels for level in network.decoder] == [32, 16, 8, 4]


def test_cgpd_is_twice_convolution_group_normalization_prelu_and_dropout():
    level = network_of(block="cgpd").encoder[1]
    kinds = [type(part).__name__ for part in level]
    assert kinds == ["ConvGroupPReLU", "Dropout", "ConvGroupPReLU", "Dropout"]
    assert [type(part).__name__ for part in level[0]] == ["Conv3d", "GroupNorm", "PReLU"]
    assert (level[1].p, level[0].norm.num_groups, level[0].conv.padding) == (0.1, 2, (1, 1, 1))


def test_a_residual_block_adds_its_input_before_the_last_activation():
    torch.manual_seed(0)
    level = network_of(block="residual").encoder[0]
    assert [type(part).__name__ for part in level] == ["Residual", "Dropout"] * 2
    x = torch.rand(1, 2, 4, 4, 4)
    for block in (level[0], level[2]):
        with torch.inference_mode():
            inner = block.norm(block.second(block.first(x)))
            expected = block.activation(inner + block.skip(x))
            torch.testing.assert_close(block(x), expected, rtol=0, atol=0)
        x = expected
    assert level[0].skip.kernel_size == (1, 1, 1)
    assert isinstance(level[2].skip, torch.nn.Identity)


def test_eight_groups_and_a_dropout_of_a_tenth_are_the_default():
    with torch.device("meta"):
        network = rrc_unet_3d.build()
    assert network.encoder[0].blocks[0].steps[0].norm.num_groups == 8
    assert (network.encoder[0].dropout.p, network.encoder[0].blocks[0].repeats) == (0.1, 2)
    assert (network.encoder[0].conv_in.in_channels, network.output.out_channels) == (2, 3)


def test_weights_of_one_variant_do_not_load_into_another():
    state = network_of(block="recurrent").state_dict()
    with pytest.raises(CheckpointError, match=r"216 problems\): missing decoder\.0\.blocks"):
        load_weights(network_of(), "rrc_unet_3d", state)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"block": "dense"}, "block must be one of rrc, cgpd, residual, recurrent"),
        ({"combine": "multiply"}, "combine must be one of add, concat"),
        ({"widen": "third"}, "widen must be one of second, first"),
        ({"input_kernel": 2}, "input_kernel must be 1 or 3"),
        ({"repeats": 0}, "repeats positive"),
    ],
)
def test_an_unknown_word_is_refused_with_the_known_ones(words, message):
    with pytest.raises(CheckpointError, match=message):
        build_network("rrc_unet_3d", words)
