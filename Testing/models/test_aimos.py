"""AIMOS UNet-768: layer by layer, published size, published names."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate, max_pool2d

from thoraxseg.errors import CheckpointError
from thoraxseg.models import aimos, build_network, load_weights

FEATURES = [2, 3, 4, 5, 6, 7]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network("aimos", {"features": FEATURES})


@pytest.fixture(scope="module")
def traced(network):
    """What went into and came out of every layer in one run on a slice with odd sizes."""
    inputs, outputs, hooks = {}, {}, []

    def record(name):
        def hook(module, args, output):
            inputs[name], outputs[name] = args[0], output

        return hook

    for name, module in network.named_modules():
        hooks.append(module.register_forward_hook(record(name)))
    with torch.inference_mode():
        network(torch.rand(1, 1, 70, 101))
    for hook in hooks:
        hook.remove()
    return inputs, outputs


def test_the_number_of_parameters_is_the_published_one():
    with torch.device("meta"):
        network = aimos.build(classes=5)
    assert sum(p.numel() for p in network.parameters()) == 35_413_829


def test_the_published_widths_are_the_default():
    with torch.device("meta"):
        network = aimos.build()
    assert [block[1].conv.out_channels for block in network.encoder] == [32, 64, 128, 256, 512, 768]
    decoder = [(block[0].conv.in_channels, block[2].conv.out_channels) for block in network.decoder]
    assert decoder == [(1536, 512), (1024, 256), (512, 128), (256, 64), (128, 32), (64, 32)]


def test_the_encoder_keeps_what_it_pools(traced):
    inputs, outputs = traced
    for level in range(6):
        below = inputs[f"encoder.{level + 1}" if level < 5 else "center"]
        torch.testing.assert_close(below, max_pool2d(outputs[f"encoder.{level}"], 2), rtol=0, atol=0)


def test_the_decoder_interpolates_to_the_skip_with_aligned_corners_and_joins_before_it(traced):
    inputs, outputs = traced
    for node in range(6):
        skip = outputs[f"encoder.{5 - node}"]
        below = outputs[f"decoder.{node - 1}" if node else "center"]
        up = interpolate(below, size=skip.shape[2:], mode="bilinear", align_corners=True)
        torch.testing.assert_close(inputs[f"decoder.{node}"], torch.cat([up, skip], dim=1), rtol=0, atol=0)
    assert outputs[""].shape == (1, 5, 70, 101)


def test_a_block_is_a_convolution_without_bias_a_normalization_with_eps_1e_4_and_relu(network, traced):
    inputs, outputs = traced
    assert [len(block) for block in (*network.encoder, *network.decoder)] == [2] * 6 + [3] * 6
    for name, block in network.named_modules():
        if isinstance(block, aimos.ConvNormReLU):
            assert block.conv.bias is None
            assert (block.conv.kernel_size, block.conv.padding, block.norm.eps) == ((3, 3), (1, 1), 1e-4)
            with torch.inference_mode():
                expected = block.norm(block.conv(inputs[name])).clamp(min=0)
            torch.testing.assert_close(outputs[name], expected, rtol=0, atol=0)


def published(state):
    """The tensors under the names of the published code, which counts levels from the top on both sides."""
    names = {}
    for key, tensor in state.items():
        part, *rest = key.replace(".norm.", ".bn.").split(".")
        if part == "encoder":
            key = f"down{int(rest[0]) + 1}.encode.{'.'.join(rest[1:])}"
        elif part == "decoder":
            key = f"up{6 - int(rest[0])}.decode.{'.'.join(rest[1:])}"
        else:
            key = ".".join([{"center": "center", "output": "classify"}[part], *rest])
        names[key] = tensor
    return names


def test_published_files_load_and_are_recognized(network):
    state = {f"module.{key}": tensor for key, tensor in published(network.state_dict()).items()}
    assert {"module.up6.decode.0.bn.running_var", "module.classify.bias"} <= state.keys()
    found = aimos.recognize(state)
    assert found == {"in_channels": 1, "classes": 5, "features": FEATURES}
    other = build_network("aimos", found)
    load_weights(other, "aimos", state)
    image = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(other(image), network(image), rtol=0, atol=0)


@pytest.mark.parametrize("depth", [2, 5, 7])
def test_siblings_with_other_depths_are_recognized(depth):
    with torch.device("meta"):
        state = aimos.build(features=[8] * depth).state_dict()
    assert aimos.recognize(state)["features"] == [8] * depth


def test_a_network_without_levels_is_refused():
    with pytest.raises(CheckpointError, match="features must name at least one level"):
        build_network("aimos", {"features": []})
