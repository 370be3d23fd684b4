"""Weights and nothing else, of every architecture of the papers: `thoraxseg segment` runs them on a phantom."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from thoraxseg.cli import main
from thoraxseg.io import read_segmentation, read_volume, write_scalar_nrrd
from thoraxseg.models import build_network
from thoraxseg.phantoms import human_chest_ct, mouse_micro_ct, mouse_mri

pytestmark = pytest.mark.usefixtures("empty_home", "no_pictures")

MOUSE_MRI = [
    ("deepmeta", {"filters": 4}, {"lungs", "tumors"}),
    ("unet", {"filters": 4}, {"lungs", "tumors"}),
    ("unet", {"filters": 2, "dimensions": 3}, {"lungs", "tumors"}),
    ("unet3plus", {"filters": 2}, {"lungs", "tumors"}),
    ("unet3plus", {"filters": 2, "variant": "kaniewski-code", "classes": 2}, {"tumors"}),
]
HUMAN_CT = [
    (
        "monai_unet",
        {"channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 2, "classes": 1},
        {"tumors"},
    ),
    ("monai_unet", {"channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 1, "classes": 2}, {"tumors"}),
    ("deepmedic", {"features": [4, 4, 4, 4], "dense": [8]}, {"tumors"}),
    ("coordinate_unet_3d", {"filters": 16}, {"lungs"}),
    ("rrc_unet_3d", {"filters": 16, "in_channels": 1, "block": "cgpd"}, {"lungs", "tumors"}),
]
BLOCKS = [
    {},
    {"combine": "concat"},
    {"block": "cgpd"},
    {"block": "residual"},
    {"block": "recurrent"},
]


@pytest.fixture(scope="module")
def mouse(tmp_path_factory):
    """Twelve coronal slices of a mouse MRI phantom: the networks are slow, the slices alike."""
    volume = mouse_mri(seed=1, spacing_mm=0.5).volume.reoriented("RIA")
    path = tmp_path_factory.mktemp("mouse") / "mouse.nrrd"
    write_scalar_nrrd(path, volume.array[20:32], volume.ijk_to_ras, {})
    return path


@pytest.fixture(scope="module")
def human(tmp_path_factory):
    """A coarse human chest CT phantom, and its lungs as a mask."""
    phantom = human_chest_ct(seed=2, spacing_mm=8.0)
    folder = tmp_path_factory.mktemp("human")
    write_scalar_nrrd(folder / "ct.nrrd", phantom.volume.array, phantom.volume.ijk_to_ras, {})
    mask = np.isin(
        phantom.truth.labels,
        [v for v, s in phantom.truth.structures.items() if "lung" in s.key or s.key == "tumors"],
    )
    write_scalar_nrrd(folder / "lungs.nrrd", mask.astype(np.uint8), phantom.volume.ijk_to_ras, {})
    return folder


def state_of(name: str, arguments: dict) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return build_network(name, arguments).state_dict()


def contour(image, output, *words) -> dict:
    status = main(["segment", str(image), "-o", str(output), "--json", *map(str, words)])
    assert status == 0
    (record,) = output.glob("*.json")
    return json.loads(record.read_text("utf-8"))


def check(record: dict, output, image_shape: tuple[int, ...], structures: set[str], name: str) -> None:
    (path,) = output.glob("*.seg.nrrd")
    found = read_segmentation(path)
    assert found.labels.shape == image_shape
    assert {structure.key for structure in found.structures.values()} == structures
    about = record["provenance"]["checkpoint"]
    assert about["architecture"] == name
    assert any("holds weights and nothing else" in warning for warning in record["warnings"])
    assert record["uncertainty"]["maximum_found"] > 0


@pytest.mark.parametrize(("name", "arguments", "structures"), MOUSE_MRI)
def test_networks_for_mouse_mri_run_from_their_weights(name, arguments, structures, mouse, tmp_path):
    torch.save(state_of(name, arguments), tmp_path / "weights.pth")
    record = contour(mouse, tmp_path / "out", "-c", tmp_path / "weights.pth", "--postprocess", "none")
    check(record, tmp_path / "out", tuple(record["input"]["shape_kji"]), structures, name)


@pytest.mark.parametrize(("name", "arguments", "structures"), HUMAN_CT)
def test_networks_for_human_ct_run_from_their_weights(name, arguments, structures, human, tmp_path):
    save_file(state_of(name, arguments), tmp_path / "weights.safetensors")
    record = contour(human / "ct.nrrd", tmp_path / "out", "-c", tmp_path / "weights.safetensors")
    check(record, tmp_path / "out", tuple(record["input"]["shape_kji"]), structures, name)


def test_aimos_runs_from_its_weights_and_names_no_side(tmp_path):
    volume = mouse_micro_ct(seed=3, spacing_mm=0.8).volume
    write_scalar_nrrd(tmp_path / "mouse.nrrd", volume.array, volume.ijk_to_ras, {})
    state = state_of("aimos", {"features": [4, 8, 8]})
    torch.save({"model_state_dict": state, "epoch": 3}, tmp_path / "NACTmodel.pt")
    record = contour(tmp_path / "mouse.nrrd", tmp_path / "out", "-c", tmp_path / "NACTmodel.pt")
    check(record, tmp_path / "out", volume.shape, {f"label_{n}" for n in range(1, 5)}, "aimos")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", BLOCKS, ids=lambda words: "-".join(map(str, words.values())) or "rrc")
def test_every_block_of_rrc_unet_runs_with_a_lung_map_made_first(arguments, human, tmp_path):
    torch.save(
        state_of("rrc_unet_3d", {"filters": 16 if arguments else 8, **arguments}),
        tmp_path / "rrc.pth",
    )
    torch.save(state_of("coordinate_unet_3d", {"filters": 16}), tmp_path / "lungs.pth")
    record = contour(
        human / "ct.nrrd", tmp_path / "out", "-c", tmp_path / "rrc.pth", "--lungs", tmp_path / "lungs.pth"
    )
    check(record, tmp_path / "out", tuple(record["input"]["shape_kji"]), {"lungs", "tumors"}, "rrc_unet_3d")
    assert record["provenance"]["checkpoint"]["lung_map_from"]["architecture"] == "coordinate_unet_3d"
    assert "lung_map" in record["timings_s"]


def test_rrc_unet_takes_a_lung_map_from_a_file_and_finds_nothing_outside_its_box(human, tmp_path):
    torch.save(state_of("rrc_unet_3d", {"filters": 16, "block": "cgpd"}), tmp_path / "rrc.pth")
    words = ["-c", tmp_path / "rrc.pth", "--channel", human / "lungs.nrrd"]
    contour(human / "ct.nrrd", tmp_path / "out", *words)
    (path,) = (tmp_path / "out").glob("*.seg.nrrd")
    lungs = read_volume(human / "lungs.nrrd").array > 0
    box = tuple(
        slice(hit.min(), hit.max() + 1)
        for hit in (np.flatnonzero(lungs.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    )
    outside = np.ones(lungs.shape, dtype=bool)
    outside[box] = False
    labels = read_segmentation(path).labels
    assert labels[box].any() and not labels[outside].any()


def test_a_network_that_takes_a_lung_map_says_how_to_give_one(human, tmp_path, capsys):
    torch.save(state_of("rrc_unet_3d", {"filters": 8}), tmp_path / "rrc.pth")
    status = main(
        ["segment", str(human / "ct.nrrd"), "-c", str(tmp_path / "rrc.pth"), "-o", str(tmp_path / "out")]
    )
    message = capsys.readouterr().err
    assert status == 3 and "--lungs CHECKPOINT" in message and "--channel FILE" in message
    assert not (tmp_path / "out").exists()


def test_weights_of_nothing_known_are_refused_with_a_list_of_what_is(human, tmp_path, capsys):
    torch.save({"layer.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    status = main(
        ["segment", str(human / "ct.nrrd"), "-c", str(tmp_path / "other.pth"), "-o", str(tmp_path / "out")]
    )
    message = capsys.readouterr().err
    assert status == 4 and "other.pth" in message
    assert all(word in message for word in ("unet3plus", "rrc_unet_3d", "nnU-Net", "MONAI bundle"))


def test_a_bare_network_of_nnunet_is_refused_without_its_plans(human, tmp_path, capsys):
    arguments = {
        "in_channels": 1,
        "classes": 3,
        "conv_bias": True,
        "n_stages": 2,
        "features_per_stage": [4, 8],
    }
    arguments |= {"dimensions": 3, "kernel_sizes": 3, "strides": [1, 2], "n_conv_per_stage": 2}
    arguments |= {"n_conv_per_stage_decoder": 2}
    torch.save(state_of("plain_conv_unet", arguments), tmp_path / "bare.pth")
    status = main(
        ["segment", str(human / "ct.nrrd"), "-c", str(tmp_path / "bare.pth"), "-o", str(tmp_path / "out")]
    )
    assert status == 4 and "plans.json" in capsys.readouterr().err


def test_a_segmentation_with_lungs_is_a_lung_map_and_the_record_says_which_file(human, tmp_path):
    torch.save(state_of("rrc_unet_3d", {"filters": 16, "block": "cgpd"}), tmp_path / "rrc.pth")
    torch.save(state_of("coordinate_unet_3d", {"filters": 16}), tmp_path / "lungs.pth")
    contour(human / "ct.nrrd", tmp_path / "map", "-c", tmp_path / "lungs.pth", "--uncertainty", "none")
    words = ["-c", tmp_path / "rrc.pth", "--uncertainty", "none"]
    record = contour(human / "ct.nrrd", tmp_path / "a", *words, "--channel", tmp_path / "map" / "ct.seg.nrrd")
    contour(human / "ct.nrrd", tmp_path / "b", *words, "--lungs", tmp_path / "lungs.pth")
    given, made = (read_segmentation(tmp_path / name / "ct.seg.nrrd").labels for name in "ab")
    np.testing.assert_array_equal(given, made)
    image, lungs = record["provenance"]["channels"]
    assert (image["file"], lungs["file"], lungs["channel"]) == ("ct.nrrd", "ct.seg.nrrd", "lung map")
    assert len({image["sha256"], lungs["sha256"]}) == 2


def test_a_lung_map_and_a_checkpoint_that_makes_one_exclude_one_another(human, tmp_path, capsys):
    torch.save(state_of("rrc_unet_3d", {"filters": 16, "block": "cgpd"}), tmp_path / "rrc.pth")
    torch.save(state_of("coordinate_unet_3d", {"filters": 16}), tmp_path / "lungs.pth")
    words = ["segment", human / "ct.nrrd", "-c", tmp_path / "rrc.pth", "-o", tmp_path / "out"]
    words += ["--lungs", tmp_path / "lungs.pth", "--channel", human / "lungs.nrrd"]
    assert main([str(word) for word in words]) == 2
    assert "leave one of them away" in capsys.readouterr().err
