"""Checkpoints of runs: whole, read back, in 32 or 16 bits; cards that say what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from Testing.training.test_presets import data_set
from thoraxseg.checkpoints import open_checkpoint
from thoraxseg.checkpoints.weights import read_weights
from thoraxseg.errors import CheckpointError, OptionError, OutputError
from thoraxseg.training.config import make_config
from thoraxseg.training.data import Case, Fold
from thoraxseg.training.finish import filled_card, new_card, write_checkpoint
from thoraxseg.training.starting import new_network

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDS = (Fold(("a1", "b1"), ("c1",)), Fold(("a1", "c1"), ("b1",)))
RESULT = {
    "reason": "FINISHED",
    "epochs": 3,
    "best_epoch": 1,
    "began_with": None,
    "validation": {"structures": {"lungs": 0.912, "tumors": None}},
}


@pytest.fixture
def config():
    return make_config("deepmeta", {"data": "x", "name": "tiny"}, ("network.filters=4",))


@pytest.fixture
def card(config):
    return new_card(config, data_set(), (0.2, 0.3, 0.4))


def state_of(card, seed=1):
    return new_network(card, "torch", seed).state_dict()


def test_what_was_written_is_opened_and_has_every_bit(card, tmp_path):
    state = state_of(card)
    opened = open_checkpoint(write_checkpoint(card, state, tmp_path / "c"))
    back = read_weights(opened.weights[0])
    assert all(torch.equal(back[key], state[key]) for key in state) and back.keys() == state.keys()
    assert opened.card.input.spacing_mm == (0.2, 0.3, 0.4)


def test_sixteen_bits_halve_the_file_and_keep_norms(card, tmp_path):
    state = state_of(card)
    half = write_checkpoint(card, state, tmp_path / "h", half=True)
    back = read_weights(half / "weights.safetensors")
    assert {tensor.dtype for tensor in back.values() if tensor.ndim > 1} == {torch.float16}
    assert all(tensor.dtype != torch.float16 for tensor in back.values() if tensor.ndim < 2)
    whole = write_checkpoint(card, state, tmp_path / "w") / "weights.safetensors"
    assert (half / "weights.safetensors").stat().st_size < 0.75 * whole.stat().st_size


def test_numbers_that_sixteen_bits_cannot_hold_are_refused_by_name(card, tmp_path):
    state = state_of(card)
    key = next(key for key, tensor in state.items() if tensor.ndim > 1)
    state[key] = state[key] + 70000
    with pytest.raises(CheckpointError, match=f"{key}.*16 bits"):
        write_checkpoint(card, state, tmp_path / "h", half=True)
    assert not (tmp_path / "h" / "card.json").exists()


def test_weights_that_do_not_fit_or_are_no_numbers_never_get_a_card(card, tmp_path):
    state = state_of(card)
    broken = {
        key: tensor * float("nan") if tensor.is_floating_point() else tensor for key, tensor in state.items()
    }
    for wrong, told in ((dict(list(state.items())[1:]), "missing"), (broken, "NaN")):
        with pytest.raises(CheckpointError, match=told):
            write_checkpoint(card, wrong, tmp_path / "c")
        assert not (tmp_path / "c" / "card.json").exists()


def test_several_folds_become_one_checkpoint_and_fewer_replace_it(card, tmp_path):
    states = {f"fold_{number}": state_of(card, number) for number in range(2)}
    assert len(open_checkpoint(write_checkpoint(card, states, tmp_path)).weights) == 2
    again = open_checkpoint(write_checkpoint(card, {"fold_1": states["fold_1"]}, tmp_path))
    assert [path.name for path in again.weights] == ["fold_1.safetensors"]
    assert not (tmp_path / "fold_0.safetensors").exists()


def test_whoever_may_read_the_card_may_read_the_weights(card, tmp_path):
    write_checkpoint(card, state_of(card), tmp_path)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_a_full_disk_leaves_the_former_checkpoint(card, tmp_path, monkeypatch):
    first = open_checkpoint(write_checkpoint(card, state_of(card), tmp_path)).card.sha256

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="Free space"):
        write_checkpoint(card, state_of(card, 2), tmp_path)
    assert open_checkpoint(tmp_path).card.sha256 == first


def test_the_card_says_what_was_trained_on_what_and_how_it_did(config, card):
    cases = tuple(Case(name, f"mouse {name[0]}", (), None) for name in ("a1", "b1", "c1"))
    data = data_set().__class__("tiny", None, cases, data_set().labels, ("MRI",), "mouse", "MRI")
    filled = filled_card(card, config, data, FOLDS, {0: RESULT})
    assert "2 cases of 2 animals of the data set tiny" in filled.description
    assert "network.filters = 4" in filled.description and "Kaniewski" in filled.description
    assert "1 held-out case of 1 animal" in filled.validation and "Lungs 0.912" in filled.validation
    assert "somewhat too good" in filled.validation and "Tumors in no case" in filled.validation
    both = filled_card(card, config, data, FOLDS, {0: RESULT, 1: {**RESULT, "reason": "DIVERGED"}})
    assert "3 cases of 3 animals" in both.description and "2 folds" in both.description
    assert "diverged" in both.validation and card.license == "as the data"


def test_cleanup_and_tumors_are_those_of_the_recipe_where_the_structures_are(config):
    assert new_card(config, data_set(), (1, 1, 1)).postprocess.rules
    other = new_card(config, data_set(("heart", "spinal_cord")), (1, 1, 1))
    assert not other.postprocess.rules and other.tumors is None and other.task == "mouse-thorax"


def test_one_structure_is_a_sigmoid_where_the_source_has_one(tmp_path):
    monai = make_config("monai-unet", {"data": "x"})
    assert new_card(monai, data_set(("tumors",)), (1, 1, 1)).architecture.parameters["classes"] == 1
    assert new_card(monai, data_set(), (1, 1, 1)).architecture.parameters["classes"] == 3


def test_spacing_is_resampled_to_the_median_where_the_source_fixes_none():
    monai = make_config("monai-unet", {"data": "x"})
    assert dict(new_card(monai, data_set(), (1, 2, 3)).preprocess[0].parameters) == {"spacing_mm": [1, 2, 3]}
    own = make_config("monai-unet", {"data": "x"}, ("resample_mm=[2,2,2]",))
    assert new_card(own, data_set(), (1, 2, 3)).preprocess[0].parameters["spacing_mm"] == [2, 2, 2]


def test_a_config_that_no_card_can_hold_is_refused():
    config = make_config("monai-unet", {"data": "x"}, ("inference.step=3",))
    with pytest.raises(OptionError, match=r"inference\.step"):
        new_card(config, data_set(), (1, 1, 1))
