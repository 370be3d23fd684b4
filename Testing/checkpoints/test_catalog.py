"""A name, a folder, a card or a weights file finds the checkpoint; its files have the digests of the card."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

import thoraxseg.checkpoints
from thoraxseg.checkpoints import home, is_installed, list_cards, open_checkpoint, read_card, sample_path
from thoraxseg.errors import CheckpointError

BUNDLED = Path(thoraxseg.checkpoints.__file__).parent
STAND_IN = BUNDLED / "weights_bundled" / "phantom-threshold.safetensors"
pytestmark = pytest.mark.usefixtures("empty_home")


@pytest.fixture
def lab(card_json, tmp_path):
    """Make a user's checkpoint `lab-model` in a folder: card and weights."""

    def make(folder=tmp_path / "lab-model", **changes):
        card_json.update(
            {"name": "lab-model", "source": {"kind": "local", "requirement": "", "archive_sha256": ""}}
            | changes
        )
        folder.mkdir(parents=True)
        shutil.copy(STAND_IN, folder)
        (folder / "card.json").write_text(json.dumps(card_json), encoding="utf-8")
        return folder

    return make


def test_the_catalog_lists_the_cards_that_come_with_thoraxseg():
    assert {"deepmeta-mouse-mri", "phantom-threshold"} <= set(list_cards())


@pytest.mark.parametrize("path", sorted((BUNDLED / "cards").glob("*.json")), ids=lambda path: path.stem)
def test_a_card_of_ours_says_where_it_comes_from_and_what_it_was_validated_on(path):
    card = read_card(path)
    assert card.license and card.citation and card.validation and card.description


def test_the_home_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("THORAXSEG_HOME", str(tmp_path / "elsewhere"))
    assert home() == tmp_path / "elsewhere"
    monkeypatch.delenv("THORAXSEG_HOME")
    assert home().is_absolute() and "thoraxseg" in str(home())


def test_a_name_opens_the_bundled_checkpoint():
    checkpoint = open_checkpoint("phantom-threshold")
    assert checkpoint.card.name == "phantom-threshold"
    assert [path.name for path in checkpoint.weights] == ["phantom-threshold.safetensors"]


@pytest.mark.parametrize("way", ["folder", "card", "text"])
def test_a_folder_or_its_card_opens_the_checkpoint_in_it(lab, way):
    folder = lab()
    given = {"folder": folder, "card": folder / "card.json", "text": str(folder)}[way]
    checkpoint = open_checkpoint(given)
    assert checkpoint.card.name == "lab-model"
    assert checkpoint.weights == (folder / STAND_IN.name,)


def test_a_checkpoint_in_the_users_folder_opens_by_name(lab, empty_home):
    folder = lab(empty_home / "checkpoints" / "lab-model")
    assert open_checkpoint("lab-model").weights[0].parent == folder
    assert is_installed(open_checkpoint("lab-model").card)


def test_a_weights_file_is_recognized_by_its_content(tmp_path):
    path = tmp_path / "renamed.bin"
    shutil.copy(STAND_IN, path)
    checkpoint = open_checkpoint(path)
    assert (checkpoint.card.name, checkpoint.weights) == ("phantom-threshold", (path,))


def test_a_file_that_holds_no_weights_is_refused_by_name_and_kind(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"abc")
    with pytest.raises(CheckpointError, match=r"model\.pth: expected a weights file .*got a text file"):
        open_checkpoint(path)


def test_an_unknown_name_lists_the_known_ones_and_hints_at_the_closest():
    with pytest.raises(CheckpointError, match=r"phantom-threshold.*Did you mean deepmeta-mouse-mri\?"):
        open_checkpoint("deepmeta-mouse")


def test_a_name_unlike_any_other_gets_no_hint():
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint("zzz")
    assert "Did you mean" not in str(caught.value)


def test_weights_that_are_another_file_are_refused_with_both_digests(lab):
    folder = lab()
    (folder / STAND_IN.name).write_bytes(b"other")
    expected, got = (hashlib.sha256(c).hexdigest()[:12] for c in (STAND_IN.read_bytes(), b"other"))
    with pytest.raises(CheckpointError, match=rf"expected SHA-256 {expected}.*got {got}"):
        open_checkpoint(folder)


def test_missing_weights_say_how_to_get_them(lab):
    folder = lab()
    (folder / STAND_IN.name).unlink()
    with pytest.raises(CheckpointError, match=r"not on this machine\. Put it beside its card"):
        open_checkpoint(folder)
    with pytest.raises(CheckpointError, match="Run 'thoraxseg checkpoints install deepmeta-mouse-mri'"):
        open_checkpoint("deepmeta-mouse-mri")


def test_a_folder_without_a_card_or_a_model_is_refused_with_a_list_of_what_is_known(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"found no card\.json, no plans\.json.*and no MONAI bundle"
    ) as told:
        open_checkpoint(tmp_path)
    assert str(tmp_path) in str(told.value)
    assert all(word in str(told.value) for word in ("unet3plus", "rrc_unet_3d", "nnU-Net", "a catalog name"))


def test_a_card_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "card.json").mkdir()
    with pytest.raises(CheckpointError, match="found no card"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"gone\.json'?: neither a name"):
        open_checkpoint(tmp_path / "gone.json")


def test_a_folder_that_is_still_being_made_is_no_checkpoint(lab, empty_home):
    lab(empty_home / "checkpoints" / ".thoraxseg-partial-x-1-y")
    assert "lab-model" not in list_cards()
    assert open_checkpoint("phantom-threshold")


def test_a_users_card_cannot_take_the_name_of_another(lab, empty_home):
    lab(empty_home / "checkpoints" / "phantom-threshold", name="phantom-threshold")
    with pytest.raises(CheckpointError, match="'phantom-threshold' belongs to another checkpoint"):
        open_checkpoint("phantom-threshold")


def test_a_users_card_in_a_folder_of_another_name_is_refused_with_the_name_it_needs(lab, empty_home):
    lab(empty_home / "checkpoints" / "other")
    with pytest.raises(CheckpointError, match="in a folder named 'lab-model'"):
        open_checkpoint("lab-model")


def test_a_users_card_cannot_claim_to_be_bundled(lab, empty_home):
    source = {"kind": "bundled", "requirement": "", "archive_sha256": ""}
    lab(empty_home / "checkpoints" / "lab-model", source=source)
    with pytest.raises(CheckpointError, match="source kind 'local'"):
        open_checkpoint("lab-model")


@pytest.fixture
def damaged(lab, empty_home):
    """A damaged card called `damaged` in the user's folder, beside the checkpoint `lab-model`, which is whole."""
    lab(empty_home / "checkpoints" / "lab-model")
    folder = empty_home / "checkpoints" / "damaged"
    folder.mkdir()
    (folder / "card.json").write_text("{")
    return folder


def test_a_damaged_card_is_named_when_it_is_opened_and_is_no_card_of_the_catalog(damaged):
    words = r"damaged.card\.json: expected a checkpoint card.*'thoraxseg checkpoints remove damaged'"
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint("damaged")
    assert "damaged" not in list_cards() and "lab-model" in list_cards()


def test_the_list_names_a_damaged_card_beside_those_that_can_be_used(damaged, capsys):
    from thoraxseg.cli import main

    assert main(["checkpoints", "list"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "lab-model" in told and "Please check: " in told and "checkpoints remove damaged" in told
    assert main(["checkpoints", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert str(damaged / "card.json") in rows["damaged"]["problem"] and rows["lab-model"]["installed"]


@pytest.mark.parametrize("names", [[], ["damaged"]])
def test_verifying_tells_that_a_card_is_damaged(damaged, names, capsys):
    from thoraxseg.cli import main

    assert main(["checkpoints", "verify", *names]) == 4
    told = capsys.readouterr()
    assert "damaged: WRONG" in told.out and str(damaged / "card.json") in told.err
    assert ("lab-model: " in told.out) == (not names)


def test_a_damaged_card_keeps_no_other_checkpoint_from_being_opened(damaged, tmp_path):
    shutil.copy(STAND_IN, tmp_path / "renamed.bin")
    for given in ("phantom-threshold", "lab-model"):
        assert open_checkpoint(given).card.name == given
    assert open_checkpoint(damaged.parent / "lab-model").card.name == "lab-model"
    assert open_checkpoint(tmp_path / "renamed.bin").card.name == "phantom-threshold"
    with pytest.raises(CheckpointError, match=r"unknown checkpoint 'zzz'.*lab-model"):
        open_checkpoint("zzz")


def test_a_checkpoint_whose_lung_map_would_be_made_by_a_damaged_one_says_so(damaged, lab, empty_home):
    channels = [{"name": "MRI", "source": "image"}, {"name": "lung map", "source": "lungs"}]
    folder = empty_home / "checkpoints" / "taker"
    lab(folder, name="taker", channels=channels, lungs_from="damaged")
    with pytest.raises(CheckpointError, match=r"damaged.card\.json: expected a checkpoint card"):
        open_checkpoint("taker")
    assert open_checkpoint("taker", lungs=open_checkpoint("lab-model")).lungs.card.name == "lab-model"
    (folder / "card.json").write_text((folder / "card.json").read_text().replace('"damaged"', '"nobody"'))
    assert open_checkpoint("taker").lungs is None


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("phantom-threshold", "phantom-threshold"),
        ("mine", "phantom-threshold"),
        ("copy", "lab-model"),
        ("old", "lab-model"),
    ],
)
def test_a_name_that_two_cards_claim_is_not_opened_and_others_are(lab, empty_home, folder, name):
    """`copy` sorts before `lab-model` and `old` behind: it does not matter which is read first."""
    place = empty_home / "checkpoints"
    lab(place / "lab-model")
    lab(place / folder, name=name)
    for claimed in {folder, name}:
        with pytest.raises(CheckpointError, match=rf"{folder}.card\.json: .*rename"):
            open_checkpoint(claimed)
    (other,) = {"phantom-threshold", "lab-model"} - {name}
    assert open_checkpoint(other).card.name == other


def test_a_damaged_sample_is_not_given_out(card_json, a_card, empty_home):
    digest = hashlib.sha256(b"mouse").hexdigest()
    sample = {"name": "mouse.tif", "member": "", "sha256": digest, "size_bytes": 5}
    source = {"kind": "local", "requirement": "", "archive_sha256": ""}
    card = a_card({"samples": [sample], "source": source})
    folder = empty_home / "checkpoints" / card.name
    folder.mkdir(parents=True)
    (folder / "mouse.tif").write_bytes(b"mouse")
    assert sample_path(card, "mouse.tif") == folder / "mouse.tif"
    (folder / "mouse.tif").write_bytes(b"house")
    for name in ("mouse.tif", "other.tif"):
        with pytest.raises(CheckpointError, match=name):
            sample_path(card, name)
