"""DeepMeta layer by layer, as the project's definitions (section 2.3) have it."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate, max_pool2d

from thoraxseg.errors import CheckpointError
from thoraxseg.models import build_network, deepmeta
from thoraxseg.models.deepmeta import from_published, recognize

# Decoder node: encoder levels with their max-pool factor, then lower nodes with their upsampling factor.
TABLE = [
    ([("e1", 8), ("e2", 4), ("e3", 2), ("e4", 1)], [], "b"),
    ([("e1", 4), ("e2", 2), ("e3", 1)], [("b", 4)], "u1"),
    ([("e1", 2), ("e2", 1)], [("u1", 4), ("b", 8)], "u2"),
    ([("e1", 1)], [("u2", 4), ("u1", 8), ("b", 16)], "u3"),
]
NODES = [pytest.param(n, id=f"u{n + 1}") for n in range(4)]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network("deepmeta", {"classes": 3})


@pytest.fixture(scope="module")
def traced(network):
    """What went into and came out of every layer in one run on a random image."""
    inputs, outputs, hooks = {}, {}, []

    def record(name):
        def hook(module, args, output):
            inputs[name], outputs[name] = args[0], output

        return hook

    for name, module in network.named_modules():
        hooks.append(module.register_forward_hook(record(name)))
    with torch.inference_mode():
        network(torch.rand(2, 1, 32, 48))
    for hook in hooks:
        hook.remove()
    named = {f"e{n + 1}": outputs[f"encoder.{n}"] for n in range(4)}
    named |= {f"u{n + 1}": outputs[f"decoder.{n}"] for n in range(4)} | {"b": outputs["bridge"]}
    return inputs, outputs, named


@pytest.mark.parametrize(("classes", "expected"), [(3, 933_049), (2, 932_889)])
def test_the_number_of_parameters_is_the_published_one(classes, expected):
    network = build_network("deepmeta", {"classes": classes})
    assert sum(p.numel() for p in network.parameters()) == expected


def test_there_are_as_many_tensors_as_in_the_published_file(network):
    assert len(network.state_dict()) == 168


def test_the_answer_has_one_map_a_class_of_the_size_of_the_image(network):
    with torch.inference_mode():
        assert network(torch.zeros(2, 1, 32, 48)).shape == (2, 3, 32, 48)


def test_the_encoder_doubles_its_channels_and_halves_its_size(traced):
    named = traced[2]
    for n, name in enumerate(["e1", "e2", "e3", "e4", "b"]):
        assert named[name].shape == (2, 16 * 2**n, 32 // 2**n, 48 // 2**n)
    for n in (1, 2, 3):
        torch.testing.assert_close(traced[0][f"encoder.{n}"], max_pool2d(named[f"e{n}"], 2))
    torch.testing.assert_close(traced[0]["bridge"], max_pool2d(named["e4"], 2))


@pytest.mark.parametrize("n", NODES)
def test_a_decoder_node_sees_the_encoder_levels_of_the_table_max_pooled(traced, network, n):
    inputs, _, named = traced
    above = TABLE[n][0]
    assert len(network.decoder[n].above) == len(above)
    for place, (name, factor) in enumerate(above):
        expected = max_pool2d(named[name], factor) if factor > 1 else named[name]
        torch.testing.assert_close(inputs[f"decoder.{n}.above.{place}"], expected, rtol=0, atol=0)


@pytest.mark.parametrize("n", NODES)
def test_a_decoder_node_sees_the_lower_nodes_of_the_table_upsampled_with_aligned_corners(traced, network, n):
    inputs, _, named = traced
    below = TABLE[n][1]
    assert len(network.decoder[n].below) == len(below)
    for place, (name, factor) in enumerate(below):
        seen = inputs[f"decoder.{n}.below.{place}"]
        aligned = interpolate(named[name], scale_factor=factor, mode="bilinear", align_corners=True)
        torch.testing.assert_close(seen, aligned, rtol=0, atol=0)
        torch.testing.assert_close(seen[..., -1, -1], named[name][..., -1, -1])  # corners stay as they were


@pytest.mark.parametrize("n", NODES)
def test_a_decoder_node_joins_above_below_and_nearest_in_this_order(traced, n):
    inputs, outputs, named = traced
    above, below, nearest = TABLE[n]
    branches = [outputs[f"decoder.{n}.above.{place}"] for place in range(len(above))]
    branches += [outputs[f"decoder.{n}.below.{place}"] for place in range(len(below))]
    branches.append(outputs[f"decoder.{n}.nearest"])
    assert [branch.shape[1] for branch in branches] == [32] * 5
    torch.testing.assert_close(inputs[f"decoder.{n}.nearest"], named[nearest], rtol=0, atol=0)
    torch.testing.assert_close(inputs[f"decoder.{n}.fuse"], torch.cat(branches, dim=1), rtol=0, atol=0)
    torch.testing.assert_close(named[f"u{n + 1}"], outputs[f"decoder.{n}.fuse"], rtol=0, atol=0)


@pytest.mark.parametrize("n", NODES)
def test_a_branch_ends_in_a_plain_convolution_with_bias_and_nothing_after_it(network, n):
    node = network.decoder[n]
    for conv in (*node.above, *node.below):
        assert type(conv) is torch.nn.Conv2d and conv.bias is not None
        assert (conv.kernel_size, conv.padding, conv.groups, conv.out_channels) == ((3, 3), (1, 1), 1, 32)
    up = node.nearest
    assert type(up) is torch.nn.ConvTranspose2d and up.bias is not None
    assert (up.kernel_size, up.stride, up.out_channels) == ((2, 2), (2, 2), 32)


def test_a_double_convolution_is_twice_separable_normalized_rectified_and_dropped(network):
    kinds = [type(layer).__name__ for layer in network.encoder[1]]
    assert kinds == ["SeparableConv", "BatchNorm2d", "ReLU", "Dropout2d"] * 2
    assert [layer.p for layer in network.encoder[1] if isinstance(layer, torch.nn.Dropout2d)] == [0.1, 0.1]


def test_a_separable_convolution_is_depthwise_then_pointwise_without_bias(network):
    first = network.encoder[1][0]
    assert [name for name, _ in first.named_children()] == ["depthwise", "pointwise"]
    assert (first.depthwise.groups, first.depthwise.in_channels, first.depthwise.kernel_size) == (
        16,
        16,
        (3, 3),
    )
    assert (first.pointwise.in_channels, first.pointwise.out_channels) == (16, 32)
    assert first.pointwise.kernel_size == (1, 1)
    assert first.depthwise.bias is None and first.pointwise.bias is None


def test_the_output_is_a_separable_1_x_1_convolution(network):
    assert network.output.depthwise.kernel_size == (1, 1) and network.output.depthwise.groups == 160
    assert network.output.pointwise.out_channels == 3 and network.output.pointwise.bias is None


def test_published_names_are_mapped_to_this_network_one_to_one(network):
    import re

    back = (
        (r"^encoder\.(\d)\.", lambda m: f"down{int(m[1]) + 1}.conv.double_conv."),
        (r"^bridge\.", lambda m: "bridge.conv.double_conv."),
        (r"^decoder\.(\d)\.nearest\.", lambda m: f"up{int(m[1]) + 1}.up."),
        (r"^decoder\.(\d)\.fuse\.", lambda m: f"up{int(m[1]) + 1}.conv.double_conv."),
        (r"^decoder\.(\d)\.above\.(\d)\.", lambda m: f"concat{int(m[1]) + 1}.norm_down.{m[2]}.norm."),
        (r"^decoder\.(\d)\.below\.(\d)\.", lambda m: f"concat{int(m[1]) + 1}.norm_up.{m[2]}.norm."),
        (r"^output\.", lambda m: "outc.conv."),
    )
    published = {}
    for key, tensor in network.state_dict().items():
        name = key
        for pattern, put in back:
            name = re.sub(pattern, put, name)
        assert name != key
        published[name] = tensor
    renamed = deepmeta.from_published(published)
    assert renamed.keys() == network.state_dict().keys()
    assert all(
        renamed[key] is published_tensor
        for key, published_tensor in zip(renamed, published.values(), strict=True)
    )


@pytest.mark.network
def test_the_published_weights_fit_strictly(deepmeta_home, monkeypatch):
    from thoraxseg.checkpoints import open_checkpoint
    from thoraxseg.checkpoints.weights import read_weights
    from thoraxseg.models import load_weights

    monkeypatch.setenv("THORAXSEG_HOME", str(deepmeta_home))
    state = read_weights(open_checkpoint("deepmeta-mouse-mri").weights[0])
    assert len(state) == 168
    load_weights(build_network("deepmeta", {"classes": 3}), "deepmeta", state)


def test_two_tensors_with_one_name_are_refused():
    state = build_network("deepmeta", {}).state_dict()
    state["bridge.conv.double_conv.0.depthwise.weight"] = state["bridge.0.depthwise.weight"]
    with pytest.raises(CheckpointError, match=r"two tensors for bridge\.0\.depthwise\.weight"):
        from_published(state)
    assert recognize(state) is None


@pytest.mark.parametrize("arguments", [{}, {"classes": 2}, {"in_channels": 2, "filters": 4}], ids=str)
def test_its_arguments_are_read_from_the_tensors(arguments):
    state = build_network("deepmeta", arguments).state_dict()
    assert recognize(state) == {"in_channels": 1, "classes": 3, "filters": 16} | arguments
