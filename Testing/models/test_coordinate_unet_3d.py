"""Coordinate-UNet 3D: a U-Net with CGPD blocks that sees where its voxels are."""

from __future__ import annotations

import torch

from thoraxseg.models import build_network, coordinate_unet_3d, rrc_unet_3d


def network_of(**words):
    torch.manual_seed(0)
    return build_network("coordinate_unet_3d", {"filters": 4, "groups": 2} | words)


def test_it_says_that_it_is_no_reproduction():
    assert "not a reproduction" in coordinate_unet_3d.__doc__


def test_coordinates_run_from_minus_one_to_one_along_the_array_axes_in_their_order():
    found = coordinate_unet_3d.coordinates(torch.zeros(2, 7, 3, 5, 1))
    assert found.shape == (2, 3, 3, 5, 1)
    torch.testing.assert_close(found[1, 0, :, 2, 0], torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(found[0, 1, 1, :, 0], torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))
    assert not found[:, 2].any()  # one voxel along an axis is its middle


def test_coordinates_join_the_features_before_the_last_convolution():
    network = network_of()
    seen = []
    network.output.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    network.decoder[-1].register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.inference_mode():
        answer = network(torch.rand(1, 1, 16, 16, 32))
    features, joined = seen
    assert (answer.shape, joined.shape) == ((1, 2, 16, 16, 32), (1, 7, 16, 16, 32))
    expected = torch.cat([features, coordinate_unet_3d.coordinates(features)], dim=1)
    torch.testing.assert_close(joined, expected, rtol=0, atol=0)


def test_the_rest_is_the_u_net_with_cgpd_blocks():
    with torch.device("meta"):
        ours = coordinate_unet_3d.build().state_dict()
        other = rrc_unet_3d.build(in_channels=1, classes=2, block="cgpd").state_dict()
    assert ours.keys() == other.keys()
    assert [key for key in ours if ours[key].shape != other[key].shape] == ["output.weight"]
    assert ours["output.weight"].shape == (2, 35, 1, 1, 1)


def test_it_and_the_u_net_without_coordinates_are_told_apart():
    with torch.device("meta"):
        ours = coordinate_unet_3d.build(in_channels=2, filters=16).state_dict()
        other = rrc_unet_3d.build(in_channels=2, filters=16, block="cgpd").state_dict()
    assert coordinate_unet_3d.recognize(ours) == {"in_channels": 2, "classes": 2, "filters": 16}
    assert coordinate_unet_3d.recognize(other) is None
    assert rrc_unet_3d.recognize(ours) is None
