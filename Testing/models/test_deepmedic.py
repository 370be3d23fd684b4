"""DeepMedic: which voxels its answer is about, which it sees, and what its pathways are."""

from __future__ import annotations

import pytest
import torch

from thoraxseg.errors import InputError
from thoraxseg.models import build_network, deepmedic


def network_of(**arguments):
    torch.manual_seed(0)
    network = build_network("deepmedic", {"features": [2] * 8, "dense": [3, 3]} | arguments)
    with torch.no_grad():
        for key, tensor in network.named_parameters():
            if "activation" in key:
                tensor.fill_(0.5)  # a slope of 0 would hide what is seen
    return network


@pytest.mark.parametrize(("size", "expected"), [(57, 9), (105, 57), (51, 3), (63, 15)])
def test_a_patch_gives_logits_for_its_central_voxels(size, expected):
    assert deepmedic.output_size((size, 57, size)) == (expected, 9, expected)


def test_the_answer_has_the_size_that_output_size_says():
    network = network_of(in_channels=2, classes=3)
    with torch.inference_mode():
        assert network(torch.rand(1, 2, 51, 57, 63)).shape == (1, 3, 3, 9, 15)
    assert network.output_size((51, 57, 63)) == (3, 9, 15)


@pytest.mark.parametrize("size", [48, 56, 54, 45, 58, 0])
def test_a_patch_that_does_not_fit_is_refused_with_sizes_that_do(size):
    with pytest.raises(InputError, match=r"odd sizes divisible by 3 and above 48, got .*57 or 105"):
        network_of()(torch.rand(1, 1, 57, 57, size))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_logit_sees_17_voxels_around_its_own_and_every_third_voxel_of_the_patch(place):
    patch = torch.rand(1, 1, 51, 51, 51, requires_grad=True)
    network_of()(patch)[0, 0, 0, 0, place].backward()
    seen = patch.grad[0, 0] != 0
    near, context = torch.arange(51), torch.arange(51) % 3 == 1

    def box(own):
        return (near - own).abs() <= 8

    # 51 voxels have 3 logits along each axis; the first one belongs to voxel 24.
    normal = box(24)[:, None, None] & box(24)[:, None] & box(24 + place)
    every_third = context[:, None, None] & context[:, None] & context
    assert torch.equal(seen, normal | every_third)


def test_the_context_is_repeated_for_each_block_of_three_voxels():
    network = network_of()
    seen = []
    network.dense.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    network.context.register_forward_hook(lambda module, args, output: seen.append(output))
    network.normal.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.inference_mode():
        network(torch.rand(1, 1, 57, 57, 57))
    normal, context, joined = seen
    repeated = context
    for axis in (2, 3, 4):
        repeated = repeated.repeat_interleave(3, dim=axis)
    torch.testing.assert_close(joined, torch.cat([normal, repeated], dim=1), rtol=0, atol=0)


def test_the_pathways_have_the_published_widths_and_their_own_weights():
    with torch.device("meta"):
        network = deepmedic.build()
    for pathway in (network.normal, network.context):
        assert [block.conv.out_channels for block in pathway] == [30, 30, 40, 40, 40, 40, 50, 50]
        for block in pathway:
            assert (block.conv.kernel_size, block.conv.padding, block.conv.bias) == ((3,) * 3, (0,) * 3, None)
    assert network.normal[0].conv.weight is not network.context[0].conv.weight
    dense = [(block.conv.in_channels, block.conv.out_channels) for block in network.dense]
    assert dense == [(100, 150), (150, 150)]
    assert (network.output.kernel_size, network.output.bias is not None) == ((1, 1, 1), True)


def test_a_block_normalizes_and_then_applies_one_slope_a_channel_that_starts_at_zero():
    block = build_network("deepmedic", {}).normal[0]
    assert (block.activation.num_parameters, block.activation.weight.any().item()) == (30, False)
    x = torch.randn(1, 1, 5, 5, 5)
    with torch.inference_mode():
        torch.testing.assert_close(block(x), block.norm(block.conv(x)).clamp(min=0))


def test_the_last_convolution_is_linear():
    network = network_of()
    with torch.inference_mode():
        network.output.bias.fill_(-1000)
        assert (network(torch.rand(1, 1, 51, 51, 51)) < -100).all()


def test_the_arguments_are_read_from_the_tensors():
    arguments = {"in_channels": 2, "classes": 4, "features": [3, 4, 5], "dense": [6]}
    state = build_network("deepmedic", arguments).state_dict()
    assert deepmedic.recognize({f"module.{key}": tensor for key, tensor in state.items()}) == arguments
    del state["context.1.norm.bias"]
    assert deepmedic.recognize(state) is None
