"""U-Net3+: both variants layer by layer, published sizes, names of the benchmark's code."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate, max_pool2d

from thoraxseg.errors import CheckpointError
from thoraxseg.models import build_network, load_weights, unet3plus

VARIANTS = ["huang", "kaniewski-code"]
# Decoder node: lower nodes, nearest first, with the factor of their upsampling.
LOWER = [
    [("b", 2)],
    [("u0", 2), ("b", 4)],
    [("u1", 2), ("u0", 4), ("b", 8)],
    [("u2", 2), ("u1", 4), ("u0", 8), ("b", 16)],
]


@pytest.fixture(scope="module", params=VARIANTS)
def traced(request):
    """A network, and what went into and came out of its layers in one run on a random image."""
    torch.manual_seed(0)
    network = build_network("unet3plus", {"filters": 2, "variant": request.param})
    inputs, outputs, hooks = {}, {}, []

    def record(name):
        def hook(module, args, output):
            inputs[name], outputs[name] = args[0], output

        return hook

    for name, module in network.named_modules():
        hooks.append(module.register_forward_hook(record(name)))
    with torch.inference_mode():
        network(torch.rand(1, 1, 16, 32))
    for hook in hooks:
        hook.remove()
    named = {f"u{n}": outputs[f"decoder.{n}"] for n in range(4)} | {"b": outputs["bridge"]}
    return request.param, network, inputs, outputs, named


@pytest.mark.parametrize(
    ("variant", "filters", "millions"),
    [
        ("huang", 64, 26.98),
        ("huang", 32, 11.18),
        ("kaniewski-code", 64, 30.02),
        ("kaniewski-code", 32, 14.39),
    ],
)
def test_the_number_of_parameters_is_the_published_one(variant, filters, millions):
    with torch.device("meta"):
        network = unet3plus.build(filters=filters, variant=variant)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions


def test_the_default_is_the_form_of_huang_with_32_filters():
    with torch.device("meta"):
        network = unet3plus.build()
    assert sum(p.numel() for p in network.parameters()) == 11_183_139
    assert network.decoder[0].nearest is None


@pytest.mark.parametrize("n", range(4))
def test_a_node_sees_the_encoder_levels_at_and_above_it_max_pooled(traced, n):
    _, network, inputs, outputs, _ = traced
    assert len(network.decoder[n].above) == 4 - n
    for level in range(4 - n):
        factor = 2 ** (3 - n - level)
        expected = outputs[f"encoder.{level}"]
        expected = max_pool2d(expected, factor) if factor > 1 else expected
        torch.testing.assert_close(inputs[f"decoder.{n}.above.{level}"], expected, rtol=0, atol=0)


@pytest.mark.parametrize("n", range(4))
def test_a_node_sees_all_lower_nodes_and_the_bridge_upsampled(traced, n):
    variant, network, inputs, _, named = traced
    lower = LOWER[n]
    if variant == "kaniewski-code":
        torch.testing.assert_close(inputs[f"decoder.{n}.nearest"], named[lower[0][0]], rtol=0, atol=0)
        lower = lower[1:]
    assert len(network.decoder[n].below) == len(lower)
    for place, (name, factor) in enumerate(lower):
        aligned = variant == "kaniewski-code"
        expected = interpolate(named[name], scale_factor=factor, mode="bilinear", align_corners=aligned)
        torch.testing.assert_close(inputs[f"decoder.{n}.below.{place}"], expected, rtol=0, atol=0)


@pytest.mark.parametrize("n", range(4))
def test_a_node_joins_five_branches_of_64_from_above_then_below_then_nearest(traced, n):
    variant, network, inputs, outputs, _ = traced
    branches = [outputs[f"decoder.{n}.above.{i}"] for i in range(len(network.decoder[n].above))]
    branches += [outputs[f"decoder.{n}.below.{i}"] for i in range(len(network.decoder[n].below))]
    branches += [outputs[f"decoder.{n}.nearest"]] if variant == "kaniewski-code" else []
    assert [branch.shape[1] for branch in branches] == [64] * 5
    torch.testing.assert_close(inputs[f"decoder.{n}.fuse"], torch.cat(branches, dim=1), rtol=0, atol=0)


def kinds(module):
    return [
        type(layer).__name__ for layer in (module if isinstance(module, torch.nn.Sequential) else [module])
    ]


def test_branches_fusion_and_output_are_those_of_the_variant(traced):
    variant, network, *_ = traced
    row = ["Conv2d", "BatchNorm2d", "ReLU"]
    node = network.decoder[1]
    if variant == "huang":
        assert kinds(node.above[0]) == kinds(node.below[0]) == kinds(node.fuse) == row
        assert kinds(network.encoder[0]) == row * 2
        assert network.output.kernel_size == (3, 3)
    else:
        assert kinds(node.above[0]) == kinds(node.below[0]) == ["Conv2d"]
        assert kinds(node.fuse) == kinds(network.encoder[0]) == [*row, "Dropout2d"] * 2
        assert (kinds(node.nearest), network.output.kernel_size) == (["ConvTranspose2d"], (1, 1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_three_dimensional_form_answers_every_voxel(variant):
    network = build_network("unet3plus", {"filters": 2, "dimensions": 3, "classes": 2, "variant": variant})
    with torch.inference_mode():
        assert network(torch.rand(1, 1, 16, 16, 16)).shape == (1, 2, 16, 16, 16)
    assert not network.decoder[0].align_corners
    assert unet3plus.recognize(network.state_dict())["dimensions"] == 3


def published(state):
    """The tensors under the names of the benchmark's code."""
    names = {}
    for key, tensor in state.items():
        part, place, *rest = key.split(".")
        if part == "encoder":
            key = f"down{int(place) + 1}.conv.double_conv.{'.'.join(rest)}"
        elif part == "bridge":
            key = f"bridge.conv.double_conv.{place}.{'.'.join(rest)}"
        elif part == "decoder":
            number = int(place) + 1
            start = {
                "nearest": f"up{number}.up",
                "fuse": f"up{number}.conv.double_conv",
                "above": f"concat{number}.norm_down.{rest[1]}.norm",
                "below": f"concat{number}.norm_up.{rest[1]}.norm",
            }[rest[0]]
            key = f"{start}.{'.'.join(rest[1:] if rest[0] in ('nearest', 'fuse') else rest[2:])}"
        else:
            key = f"outc.conv.{place}"
        names[key] = tensor
    return names


def test_files_of_the_benchmark_load_and_are_recognized():
    network = build_network("unet3plus", {"filters": 2, "variant": "kaniewski-code", "in_channels": 2})
    state = published(network.state_dict())
    assert {"concat3.norm_up.1.norm.weight", "up4.up.bias", "concat1.norm_down.3.norm.bias"} <= state.keys()
    found = unet3plus.recognize(state)
    expected = {"in_channels": 2, "classes": 3, "filters": 2, "variant": "kaniewski-code", "dimensions": 2}
    assert found == expected
    other = build_network("unet3plus", found)
    load_weights(other, "unet3plus", state)
    image = torch.rand(1, 2, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(other(image), network(image), rtol=0, atol=0)


def test_an_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(CheckpointError, match="variant must be one of huang, kaniewski-code, not 'coded'"):
        build_network("unet3plus", {"variant": "coded"})
