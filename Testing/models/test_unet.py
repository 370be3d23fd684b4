"""The U-Net of the mouse MRI benchmark: layer by layer, published size, published names."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import max_pool2d

from thoraxseg.errors import CheckpointError
from thoraxseg.models import build_network, load_weights, unet


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network("unet", {"filters": 4, "in_channels": 2})


@pytest.fixture(scope="module")
def traced(network):
    """What went into and came out of every layer in one run on a random image."""
    inputs, outputs, hooks = {}, {}, []

    def record(name):
        def hook(module, args, output):
            inputs[name], outputs[name] = args, output

        return hook

    for name, module in network.named_modules():
        hooks.append(module.register_forward_hook(record(name)))
    with torch.inference_mode():
        network(torch.rand(1, 2, 32, 48))
    for hook in hooks:
        hook.remove()
    return inputs, outputs


@pytest.mark.parametrize(("classes", "expected"), [(3, 31_042_499), (2, 31_042_434)])
def test_the_number_of_parameters_is_the_published_one(classes, expected):
    with torch.device("meta"):
        network = unet.build(classes=classes)
    assert sum(p.numel() for p in network.parameters()) == expected
    assert round(expected / 1e6, 2) == 31.04


def test_the_encoder_halves_the_size_and_doubles_the_channels(traced):
    inputs, outputs = traced
    for level in range(4):
        assert outputs[f"encoder.{level}"].shape == (1, 4 * 2**level, 32 // 2**level, 48 // 2**level)
        below = inputs[f"encoder.{level + 1}" if level < 3 else "bridge"][0]
        torch.testing.assert_close(below, max_pool2d(outputs[f"encoder.{level}"], 2), rtol=0, atol=0)
    assert outputs["bridge"].shape == (1, 64, 2, 3)


def test_the_decoder_joins_the_skip_and_behind_it_what_comes_from_below(traced):
    inputs, outputs = traced
    for node in range(4):
        below = outputs[f"decoder.{node - 1}" if node else "bridge"]
        torch.testing.assert_close(inputs[f"decoder.{node}.up"][0], below, rtol=0, atol=0)
        joined = torch.cat([outputs[f"encoder.{3 - node}"], outputs[f"decoder.{node}.up"]], dim=1)
        torch.testing.assert_close(inputs[f"decoder.{node}.fuse"][0], joined, rtol=0, atol=0)
    torch.testing.assert_close(inputs["output"][0], outputs["decoder.3"], rtol=0, atol=0)


def test_a_level_is_twice_a_padded_convolution_with_bias_normalization_relu_and_dropout(network):
    kinds = [type(layer).__name__ for layer in network.bridge]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "Dropout2d"] * 2
    for conv in (network.bridge[0], network.bridge[4]):
        assert (conv.kernel_size, conv.padding, conv.bias is not None) == ((3, 3), (1, 1), True)
    assert network.bridge[3].p == 0.1
    assert (network.output.kernel_size, network.decoder[0].up.kernel_size) == ((1, 1), (2, 2))


def test_the_three_dimensional_form_answers_every_voxel():
    network = build_network("unet", {"filters": 2, "dimensions": 3, "classes": 2})
    with torch.inference_mode():
        assert network(torch.rand(1, 1, 16, 16, 32)).shape == (1, 2, 16, 16, 32)


def test_weights_start_he_normal_and_normalizations_near_one():
    torch.manual_seed(0)
    network = unet.build(filters=16)
    conv, norm = network.bridge[0], network.bridge[5]
    assert conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.01)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert not norm.bias.any()


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
            inner = "up" if rest[0] == "up" else "conv.double_conv"
            key = f"up{int(place) + 1}.{inner}.{'.'.join(rest[1:])}"
        else:
            key = f"outc.conv.{place}"
        names[key] = tensor
    return names


def test_files_of_the_benchmark_load_and_are_recognized(network):
    state = {f"module.{key}": tensor for key, tensor in published(network.state_dict()).items()}
    found = {"in_channels": 2, "classes": 3, "filters": 4, "dimensions": 2}
    assert unet.recognize(state) == found
    other = build_network("unet", found)
    load_weights(other, "unet", state)
    image = torch.rand(1, 2, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(other(image), network(image), rtol=0, atol=0)


def test_only_two_or_three_dimensions_are_built():
    with pytest.raises(CheckpointError, match="dimensions must be 2 or 3, not 1"):
        build_network("unet", {"dimensions": 1})


def test_damaged_states_are_not_recognized(network):
    state = dict(network.state_dict())
    assert unet.recognize(state) is not None
    for key, tensor in [
        ("encoder.0.0.weight", torch.ones(3)),
        ("output.weight", torch.ones(())),
        ("more", torch.ones(1)),
    ]:
        assert unet.recognize(state | {key: tensor}) is None
    del state["bridge.0.bias"]
    assert unet.recognize(state) is None
    assert unet.recognize({}) is None
