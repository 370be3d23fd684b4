"""Presets: one for every system, what the papers say in them, and networks that learn by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from Testing.training.tiny_runs import TINY, image_and_labels
from thoraxseg.checkpoints.recipes import recipe_for
from thoraxseg.errors import OptionError
from thoraxseg.models import build_network
from thoraxseg.segmentation import STRUCTURES
from thoraxseg.training.batch import Batch
from thoraxseg.training.config import make_config
from thoraxseg.training.data import DataSet
from thoraxseg.training.finish import new_card
from thoraxseg.training.losses import build_loss
from thoraxseg.training.optimizers import build_optimizer, build_schedule
from thoraxseg.training.presets import PRESETS, preset_for, preset_named
from thoraxseg.training.settings import Settings
from thoraxseg.training.starting import new_network
from thoraxseg.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

OURS = [name for name, preset in PRESETS.items() if preset.nnunet is None]
PARAMETERS = {
    "unet": 31.04,
    "unet3plus": 11.18,
    "deepmeta": 0.933,
    "aimos": 35.41,
    "rrc-unet": 24.00,
    "rrc-unet-concat": 11.77,
}
"""Millions, as DEFINITIONS has them, with the classes that they are for."""


class OneBatch:
    """A source that shows one batch again and again."""

    def __init__(self, batch):
        self.shown = batch

    def batch(self, step):
        return self.shown

    def start_epoch(self, epoch, network):
        pass


def data_set(names=("lungs", "tumors"), tmp=None):
    labels = {label: STRUCTURES[name] for label, name in enumerate(names, 1)}
    return DataSet("tiny", tmp, (), labels, ("MRI",), "mouse", "MRI")


def shown_batch(config, card, slices):
    """Two patches of what the network of a card is shown, as its source would."""
    outputs = card.architecture.parameters["classes"]
    shape = {"deepmedic": (33, 33, 33)}.get(card.architecture.name, (1, 32, 32) if slices else (16, 32, 32))
    pairs = [image_and_labels(seed, shape if not slices else (8, 32, 32)) for seed in range(2)]
    images = np.stack([image for image, _ in pairs]).astype(np.float32) / 100 - 1
    labels = np.minimum(np.stack([label for _, label in pairs]).astype(np.int64), max(1, outputs - 1))
    if slices:
        images, labels = images[:, 4], labels[:, 4]
    images = images[:, None]
    if len(card.channels) == 2:
        images = np.concatenate([images, (labels[:, None] > 0).astype(np.float32)], axis=1)
    if card.architecture.name == "deepmedic":  # it answers for the central 9 = (33 / 3 - 8) * 3 voxels
        labels = labels[:, 12:21, 12:21, 12:21]
    return Batch(torch.from_numpy(images), torch.from_numpy(labels))


@pytest.mark.parametrize("system", OURS)
def test_every_system_learns_a_fixed_batch_by_its_own_loss_and_optimizer(system, tmp_path):
    config = make_config(system, {"data": "x"}, TINY[system])
    card = new_card(config, data_set(), (0.5, 0.5, 0.5))
    options = dict(config.settings["loss"])
    loss = build_loss(options.pop("name"), options, card.architecture.parameters["classes"])
    optimizer = {**config.settings["optimizer"], "lr": 3e-3}
    settings = Settings(
        epochs=2, steps_per_epoch=5, loss=config.settings["loss"], optimizer=optimizer, device="cpu"
    )
    batch = shown_batch(config, card, config.inference["mode"] == "slices")
    trainer = Trainer(new_network(card, config.initialization, 0), loss, OneBatch(batch), settings, tmp_path)
    trainer.run()
    first, second = (row["train_loss"] for row in trainer.rows)
    assert second < first


@pytest.mark.parametrize("system", OURS)
def test_images_are_prepared_as_inference_prepares_those_of_the_same_network(system):
    preset, config = PRESETS[system], make_config(system, {"data": "x"})
    arguments = {key: value for key, value in preset.network.items() if key != "name"}
    recipe = recipe_for(preset.network["name"], arguments | ({"in_channels": 2} if preset.lung_map else {}))
    assert list(config.preprocess) == [dict(step) for step in recipe.preprocess]
    assert config.input["orientation"] == recipe.orientation
    assert config.inference.items() >= recipe.inference.items()


@pytest.mark.parametrize("system", PARAMETERS)
def test_networks_have_as_many_parameters_as_the_papers_say(system):
    preset = PRESETS[system]
    arguments = {key: value for key, value in preset.network.items() if key != "name"}
    with torch.device("meta"):
        network = build_network(
            preset.network["name"],
            {**arguments, "classes": 5 if system == "aimos" else 3, "in_channels": 1 + preset.lung_map},
        )
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(PARAMETERS[system], abs=0.02)


@pytest.mark.parametrize("system", OURS)
def test_settings_of_every_preset_can_be_used(system):
    preset = PRESETS[system]
    values = {
        "steps_per_epoch": 3,
        **{k: v for k, v in preset.settings.items() if v not in (None, "cases", "auto")},
    }
    settings = Settings.from_record(values)
    network = torch.nn.Conv2d(1, 1, 1)
    optimizer = build_optimizer(network, settings.optimizer)
    build_schedule(optimizer, settings.schedule, settings.epochs, settings.steps_per_epoch)
    assert preset.notes and preset.source


def test_the_papers_numbers_are_in_the_presets():
    assert PRESETS["unet"].settings["epochs"] == 100 and PRESETS["unet"].sampling["batch_size"] == 64
    assert PRESETS["unet3plus"].settings["loss"]["name"] == "focal-ms-ssim-iou"
    assert PRESETS["deepmeta"].settings["loss"]["name"] == "fusion"
    assert PRESETS["deepmeta"].settings["schedule"]["first_epochs"] == 5
    assert PRESETS["aimos"].settings["schedule"] == {"name": "plateau", "patience": 8}
    assert PRESETS["monai-unet"].settings["stop_at"] == 0.65
    assert PRESETS["monai-unet"].sampling["patches_per_case"] == 12
    assert PRESETS["rrc-unet"].settings["accumulate"] == "cases"
    assert PRESETS["rrc-unet"].settings["optimizer"] == {"name": "adam", "lr": 3e-4, "weight_decay": 1e-4}


def test_an_unknown_system_is_refused_with_the_known_ones():
    with pytest.raises(OptionError, match=r"monai-unet.*Did you mean unet"):
        preset_named("u-net")


def test_a_network_finds_the_preset_that_trains_it():
    assert preset_for("rrc_unet_3d", {"block": "residual"}).name == "unet-residual"
    assert preset_for("unet", {"filters": 8}).name == "unet"
    assert preset_for("plain_conv_unet", {}) is None


def test_he_normal_weights_are_drawn_as_defined():
    config = make_config("unet", {"data": "x"}, ("network.filters=16",))
    network = new_network(new_card(config, data_set(), (1, 1, 1)), config.initialization, 3)
    convolution = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)][-2]
    norm = next(layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    fan_in = convolution.weight[0].numel()
    assert float(convolution.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
    assert not convolution.bias.detach().any() and not norm.bias.detach().any()
    assert 0 < float(norm.weight.detach().std()) < 0.04
