"""MONAI's UNet: the same numbers as MONAI's own, for all kinds that are built."""

from __future__ import annotations

import pytest
import torch

from thoraxseg.errors import CheckpointError
from thoraxseg.models import build_network, load_weights, monai_unet

BASE = {"channels": (4, 8, 16), "strides": (2, 2), "num_res_units": 0}
KINDS = {
    "3d": {},
    "3d-residual": {"num_res_units": 2},
    "one-unit-two-channels": {"num_res_units": 1, "in_channels": 2, "classes": 3},
    "2d-residual": {"num_res_units": 2, "dimensions": 2, "classes": 2},
    "five-levels": {"channels": (4, 4, 8, 8, 8), "strides": (2, 2, 2, 1), "num_res_units": 2},
    "no-bias": {"num_res_units": 1, "bias": False},
    "wide-kernels": {"num_res_units": 2, "kernel_size": 5, "up_kernel_size": (3, 5, 5)},
    "batch-norm": {"norm": "BATCH", "num_res_units": 1},
    "anisotropic": {"strides": ((1, 2, 2), 2), "num_res_units": 1},
    "dropout": {"dropout": 0.2, "num_res_units": 2},
    "relu": {"act": "RELU"},
    "leaky-relu": {"act": "LEAKYRELU", "num_res_units": 1},
    "stride-three": {"strides": (3, 1), "dimensions": 2},
}
CASES = [pytest.param(BASE | changes, id=name) for name, changes in KINDS.items()]
RECOGNIZED = [
    pytest.param(BASE | KINDS[name], id=name)
    for name in KINDS.keys() - {"anisotropic", "relu", "leaky-relu", "stride-three"}
]


def reference_of(words):
    nets = pytest.importorskip("monai.networks.nets", reason="monai is not installed: pip install monai")
    words = {"in_channels": 1, "classes": 1, "dimensions": 3} | words
    rename = {"classes": "out_channels", "dimensions": "spatial_dims"}
    network = nets.UNet(**{rename.get(word, word): value for word, value in words.items()})
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                random = torch.randn(tensor.shape, generator=generator) * 0.3 + 0.1
                tensor.copy_(random.abs() if key.endswith("running_var") else random)
    return network.eval()


def largest_difference(words, reference):
    network = build_network("monai_unet", words)
    load_weights(network, "monai_unet", reference.state_dict())
    size = (16, 24) if words.get("dimensions") == 2 else (8, 16, 8)
    if words["strides"][0] == 3:
        size = (9, 12)
    image = torch.randn(2, words.get("in_channels", 1), *size, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        ours, theirs = network(image), reference(image)
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 0.1
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize("words", CASES)
def test_the_answers_are_those_of_monai(words):
    assert largest_difference(words, reference_of(words)) == 0


@pytest.mark.parametrize("words", RECOGNIZED)
def test_the_arguments_are_read_from_the_tensors(words):
    reference = reference_of(words)
    found = monai_unet.recognize({f"module.{key}": tensor for key, tensor in reference.state_dict().items()})
    assert found["channels"] == list(words["channels"])
    if words["num_res_units"]:
        assert found["strides"] == list(words["strides"])
    assert largest_difference(found, reference) == 0


def test_an_activation_without_weights_is_not_recognized():
    assert monai_unet.recognize(build_network("monai_unet", BASE | {"act": "RELU"}).state_dict()) is None


def test_strides_that_no_tensor_tells_are_taken_to_be_two():
    found = monai_unet.recognize(build_network("monai_unet", BASE | {"strides": (3, 1)}).state_dict())
    assert found["strides"] == [2, 2]


@pytest.mark.parametrize(("units", "normalized"), [(0, False), (2, True)])
def test_with_residual_units_the_last_up_layer_is_normalized_at_one_channel_already(units, normalized):
    torch.manual_seed(0)
    network = build_network("monai_unet", BASE | {"num_res_units": units})
    up = network.model[2][0] if units else network.model[2]
    assert up.conv.out_channels == 1
    seen = []
    (up.adn.N if units else up).register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.inference_mode():
        network(torch.randn(1, 1, 8, 8, 8) * 5 + 3)
    mean, spread = float(seen[0].mean()), float(seen[0].std(correction=0))
    assert (abs(mean) < 1e-4 and abs(spread - 1) < 1e-2) == normalized


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act": "swish"}, "act must be one of PRELU, RELU, LEAKYRELU"),
        ({"norm": "GROUP"}, "norm must be INSTANCE or BATCH"),
        ({"strides": (2, 2, 2)}, "3 channels need one stride less"),
        ({"channels": (4,), "strides": ()}, "1 channels need one stride less"),
        ({"kernel_size": 2}, "kernels must be odd"),
        ({"up_kernel_size": (3, 3)}, "one number for each of 3 axes"),
        ({"dimensions": 1}, "dimensions must be 2 or 3"),
        ({"adn_ordering": "NA"}, "adn_ordering"),
    ],
)
def test_what_is_not_built_is_refused_and_named(changes, message):
    with pytest.raises(CheckpointError, match=message):
        build_network("monai_unet", BASE | changes)


def test_channels_strides_and_units_have_no_default():
    with pytest.raises(CheckpointError, match="missing 3 required positional arguments"):
        build_network("monai_unet", {})
