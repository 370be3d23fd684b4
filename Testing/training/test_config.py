"""Configs: a preset and what is changed of it, through files and words, whole and strict."""

from __future__ import annotations

import json

import pytest

from thoraxseg.errors import InputError, OptionError
from thoraxseg.training.config import (
    TrainConfig,
    changes,
    config_text,
    differences,
    make_config,
    read_config,
    with_values,
)
from thoraxseg.training.presets import PRESETS


def made(system="unet", *words, **given):
    return make_config(system, {"data": "mice.csv", **given}, words)


@pytest.mark.parametrize("system", PRESETS)
def test_a_config_comes_back_from_its_text(system):
    config = made(system)
    assert TrainConfig.from_record(json.loads(config_text(config))) == TrainConfig.from_record(
        config.to_record()
    )
    assert changes(config) == {}


@pytest.mark.parametrize("system", [name for name, preset in PRESETS.items() if preset.fast])
def test_the_short_variant_is_taken_only_when_asked_for_and_says_what_it_changes(system):
    assert not made(system).fast
    short = make_config(system, {"data": "mice.csv"}, fast=True)
    assert short.fast and changes(short)


def test_words_change_single_values_and_are_told_as_changes():
    config = made(
        "unet", "settings.optimizer.lr=1e-4", "sampling.batch_size=8", "preprocess.0.size_px=[64, 64]"
    )
    assert config.settings["optimizer"] == {"name": "adam", "lr": 1e-4}
    assert {"settings.optimizer.lr", "sampling.batch_size", "preprocess"} == set(changes(config))


def test_another_loss_leaves_the_parameters_of_the_former_one_behind():
    config = made("monai-unet", "settings.loss.name=cross-entropy-dice")
    assert config.settings["loss"] == {"name": "cross-entropy-dice"}


def test_an_augmentation_can_be_taken_away():
    assert "elastic" not in made("unet", "augmentation.elastic=null").augmentation


def test_a_file_changes_a_part_of_a_section_and_replaces_lists_and_augmentation(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({"preset": "unet", "data": "m.csv", "settings": {"epochs": 3}, "augmentation": {}})
    )
    values = read_config(path)
    config = make_config(values.pop("preset"), values)
    assert config.settings["epochs"] == 3 and config.settings["optimizer"]["lr"] == 1e-3
    assert config.augmentation == {}
    assert config.data == str(tmp_path / "m.csv")  # beside the file, wherever the command is given


def test_without_a_lung_map_nothing_is_cropped_to_lungs():
    steps = [step["name"] for step in made("rrc-unet", "lung_map=false").preprocess]
    assert steps == ["clip", "z_score", "resize"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("epochs", "KEY=VALUE"),
        ("nonsense=1", "unknown; known are"),
        ("settings.optimizer.lr.x=1", "holds no values by name|no 'x'"),
        ("preprocess.9.name=clip", "number from 0 to"),
        ("folds=1", "2 or more"),
        ("fold=7", "0 to 4"),
        ("seed=-1", "seed"),
        ("device=tpu", "device"),
        ("settings=3", "settings: expected an object"),
        ("network=null", "network: expected an object"),
        ("augmentation=null", "augmentation: expected an object"),
        ("preprocess=null", "preprocess: expected a list"),
        ("settings.loss=null", "settings.loss: expected a name and parameters"),
        ("preset=deepmeta", "Give --system instead"),
        ("fast=true", "Give --fast instead"),
        ("resample_mm=coarse", "resample_mm"),
        ('network={"a": 1, "a": 2}', "given twice"),
    ],
)
def test_wrong_words_are_refused_by_name(words, told):
    with pytest.raises(OptionError, match=told):
        made("unet", words)


def test_an_unknown_key_of_a_file_is_refused(tmp_path):
    with pytest.raises(OptionError, match="unknown key learning_rate"):
        made("unet", learning_rate=3)


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": NaN}', '{"a": 1, "a": 2}'])
def test_a_file_that_is_no_config_is_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match="training config"):
        read_config(path)


def test_a_value_by_dotted_key_makes_another_config():
    config = with_values(made(), {"settings.optimizer.lr": 0.5})
    assert config.settings["optimizer"]["lr"] == 0.5 and made().settings["optimizer"]["lr"] == 1e-3


def test_differences_are_told_by_dotted_key():
    one, other = made().to_record(), made("unet", "settings.epochs=7", seed=3).to_record()
    assert differences(one, other) == {"seed": (0, 3), "settings.epochs": (100, 7)}


def test_nothing_to_train_is_said():
    with pytest.raises(OptionError, match="--system NAME"):
        make_config(None, {"data": "x"})
