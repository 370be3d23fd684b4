"""The cards of the default checkpoints: read by the engine, cleaned up, shipped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import thoraxseg.checkpoints
from thoraxseg.checkpoints import open_checkpoint
from thoraxseg.errors import InputError
from thoraxseg.options import SegmentOptions, Uncertainty
from thoraxseg.phantoms import mouse_micro_ct
from thoraxseg.pipeline import segment
from thoraxseg.training import default_card, defaults
from thoraxseg.training.default_card import card_of, ship, write_default
from thoraxseg.training.defaults import DEFAULTS, train_default

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", list(DEFAULTS))
def test_a_card_says_what_the_checkpoint_is_for_and_what_it_never_saw(name):
    card = card_of(DEFAULTS[name], "Nothing was measured.")
    assert card.name == name and card.title.startswith("Built in: ")
    assert "computed phantoms" in card.description and "never from an animal or a person" in card.description
    assert [structure.key for structure in card.labels.values()] == list(DEFAULTS[name].structures)
    assert card.validation == "Nothing was measured." and card.license == "Apache-2.0"
    assert (card.tumors is not None) == ("tumors" in DEFAULTS[name].structures)
    assert card.task == ("mouse-thorax" if name.startswith("mouse-ct") else "lung-tumor")


@pytest.fixture
def tiny(monkeypatch):
    """A default with a network of a few thousand weights."""
    default = DEFAULTS["mouse-ct-thorax-mini"]
    options = replace(default.options, spacing_mm=1.0, patch_size=(16, 16, 16), batch_size=1)
    default = replace(default, options=options, features=(4, 8))
    monkeypatch.setitem(DEFAULTS, default.name, default)
    return default


def test_a_run_becomes_a_checkpoint_that_contours_and_can_be_shipped(tiny, tmp_path, monkeypatch):
    train_default(tiny.name, tmp_path / "run", epochs=1, steps_per_epoch=1)
    folder = write_default(tiny.name, tmp_path / "run", tmp_path / "checkpoint", "Measured on nothing.")
    checkpoint = open_checkpoint(folder)
    state = thoraxseg.checkpoints.weights.read_weights(checkpoint.weights[0])
    assert {tensor.dtype for tensor in state.values() if tensor.ndim > 1} == {torch.float16}
    phantom = mouse_micro_ct(seed=1, spacing_mm=1.0, axis_codes="PIR")
    found = segment(phantom.volume, checkpoint, SegmentOptions(uncertainty=Uncertainty.NONE))
    assert found.segmentation.labels.shape == phantom.volume.shape
    np.testing.assert_array_equal(found.segmentation.ijk_to_ras, phantom.volume.ijk_to_ras)

    home = tmp_path / "package"
    for name in ("cards", "weights_bundled"):
        (home / name).mkdir(parents=True)
    monkeypatch.setattr(thoraxseg.checkpoints, "__file__", str(home / "__init__.py"))
    path = ship(folder)
    assert path == home / "cards" / f"{tiny.name}.json"
    card = thoraxseg.checkpoints.card.read_card(path)
    assert card.source.kind == "bundled" and card.weights[0].name == f"{tiny.name}.safetensors"
    shipped = home / "weights_bundled" / card.weights[0].name
    assert shipped.stat().st_size == card.weights[0].size_bytes
    assert thoraxseg.files.sha256_file(shipped) == card.weights[0].sha256


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"folder of a training run, it has no last\.pt"):
        write_default("mouse-ct-thorax-mini", tmp_path, tmp_path / "checkpoint", "")


def test_every_default_says_in_words_what_its_phantoms_look_like():
    assert {default.options.kind for default in DEFAULTS.values()} == set(defaults.PRIOR_IN_WORDS)
    assert set(default_card._TITLES) == set(DEFAULTS)
