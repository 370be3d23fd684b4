"""The list of checkpoints of a module: what is in it, in which order, what may be run, what was used last."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from Testing.painted import painted_checkpoint
from thoraxseg.errors import CheckpointError
from ThoraxSegLib.Catalog import LAST_USED_FILE, Catalog
from ThoraxSegLib.Logic import ThoraxSegLogic
from ThoraxSegLib.Tasks import LUNG_TUMOR, MOUSE_THORAX


@pytest.fixture
def another(home):
    """Install one more painted checkpoint, with changes of its card."""

    def install(name, like="mouse-thorax", **changes):
        folder = painted_checkpoint(home / "scratch", like, {"name": name} | changes)
        place = home / "checkpoints" / name
        folder.rename(place)
        return place

    return install


def names(catalog):
    return [entry.name for entry in catalog.entries()]


def entryOf(catalog, name):
    return next(entry for entry in catalog.entries() if entry.name == name)


def test_each_module_lists_the_checkpoints_of_its_task(thoraxLogic, tumorLogic):
    thorax, tumors = names(thoraxLogic.catalog), names(tumorLogic.catalog)
    assert "painted-thorax" in thorax and "painted-lung-tumor" not in thorax
    assert "painted-lung-tumor" in tumors and "painted-thorax" not in tumors
    assert {"phantom-threshold", "deepmeta-mouse-mri"} <= set(tumors)
    assert not {"phantom-threshold", "deepmeta-mouse-mri"} & set(thorax)


def test_an_entry_says_what_a_list_needs_to_show(thoraxLogic):
    entry = entryOf(thoraxLogic.catalog, "painted-thorax")
    assert (entry.title, entry.species, entry.modality, entry.license) == (
        "Painted mouse-thorax phantom",
        "mouse",
        "micro-CT",
        "Apache-2.0",
    )
    assert entry.structures == ("Heart", "Spinal cord", "Right lung", "Left lung")
    assert entry.isInstalled and entry.problem == "" and entry.isReady
    for part in (
        "Painted mouse-thorax phantom",
        "Heart, Spinal cord",
        "None, and none is meant",
        "Apache-2.0",
    ):
        assert part in entry.tooltip


def test_published_models_are_listed_with_how_to_get_them(thoraxLogic, tumorLogic):
    byHand = entryOf(thoraxLogic.catalog, "malimban-mouse-ct-3d-fullres")
    assert not byHand.isInstalled and not byHand.isReady
    assert "https://doi.org/10.5281/zenodo.5786839" in byHand.problem
    fetched = entryOf(tumorLogic.catalog, "nnunet-v1-task006-lung")
    assert "5.0 GB" in fetched.problem
    # Of no task, and offered for its heart.
    assert "nnunet-v1-task055-segthor" in names(thoraxLogic.catalog)
    assert "nnunet-v1-task055-segthor" not in names(tumorLogic.catalog)


def test_a_checkpoint_of_no_task_is_listed_where_it_finds_a_structure(thoraxLogic, tumorLogic, another):
    another("of-no-task", like="lung-tumor", task="other")
    assert "of-no-task" in names(tumorLogic.catalog)
    assert "of-no-task" not in names(thoraxLogic.catalog)
    tumorLogic.catalog.check("of-no-task")
    with pytest.raises(CheckpointError, match="not for Mouse Thorax Segmentation: it finds Lungs, Tumors"):
        thoraxLogic.catalog.check("of-no-task")


def test_ready_ones_come_first_and_of_these_the_one_used_last(thoraxLogic, another):
    another("aardvark", title="Aardvark")
    another("zebra", title="Zebra")
    ready = [entry.name for entry in thoraxLogic.catalog.entries() if entry.isReady]
    assert ready == ["aardvark", "painted-thorax", "zebra"] == names(thoraxLogic.catalog)[:3]
    thoraxLogic.catalog.remember("zebra")
    assert names(thoraxLogic.catalog)[:3] == ["zebra", "aardvark", "painted-thorax"]


def test_a_checkpoint_that_lost_its_weights_is_not_ready_although_used_last(thoraxLogic, home, another):
    place = another("zebra")
    thoraxLogic.catalog.remember("zebra")
    (place / "painted-thorax.safetensors").unlink()
    assert names(thoraxLogic.catalog)[0] == "painted-thorax"
    entry = entryOf(thoraxLogic.catalog, "zebra")
    assert not entry.isInstalled and "not on this machine" in entry.problem
    with pytest.raises(CheckpointError, match="not on this machine"):
        thoraxLogic.catalog.check("zebra")


def test_a_damaged_card_is_listed_with_what_is_wrong_and_cannot_be_used(thoraxLogic, home, monkeypatch):
    place = home / "checkpoints" / "broken"
    place.mkdir()
    (place / "card.json").write_text("{", encoding="utf-8")
    entry = entryOf(thoraxLogic.catalog, "broken")
    assert not entry.isReady and "expected a checkpoint card" in entry.problem
    assert entry.species == "not stated"
    with monkeypatch.context() as patch:
        patch.setattr(f"{Catalog.__module__}._", lambda text: {"not stated": "keine Angabe"}.get(text, text))
        assert entryOf(thoraxLogic.catalog, "broken").species == "keine Angabe"
    with pytest.raises(CheckpointError, match="expected a checkpoint card"):
        thoraxLogic.catalog.check("broken")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "No checkpoint is chosen"),
        ("no-such", "There is no checkpoint 'no-such'"),
        ("malimban-mouse-ct-3d-fullres", "not on this machine yet"),
        ("painted-lung-tumor", "not for Mouse Thorax Segmentation: it finds Lungs, Tumors"),
        ("phantom-threshold", "not for Mouse Thorax Segmentation"),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_sentence(thoraxLogic, name, words):
    with pytest.raises(CheckpointError, match=words):
        thoraxLogic.catalog.check(name)


def test_what_can_be_run_is_passed(thoraxLogic, tumorLogic):
    thoraxLogic.catalog.check("painted-thorax")
    tumorLogic.catalog.check("painted-lung-tumor")
    tumorLogic.catalog.check("phantom-threshold")


def test_a_package_that_was_not_fetched_is_listed_and_refused(tumorLogic):
    entry = entryOf(tumorLogic.catalog, "deepmeta-mouse-mri")
    assert not entry.isInstalled and "Install it first" in entry.problem
    with pytest.raises(CheckpointError, match="Install it first"):
        tumorLogic.catalog.check("deepmeta-mouse-mri")


def test_a_card_is_returned_whatever_its_task(thoraxLogic):
    assert thoraxLogic.catalog.card("phantom-threshold").task == "lung-tumor"


def test_each_module_remembers_its_own_checkpoint_over_sessions(app, thoraxLogic, tumorLogic):
    assert thoraxLogic.catalog.lastUsed() == ""
    thoraxLogic.catalog.remember("painted-thorax")
    tumorLogic.catalog.remember("painted-lung-tumor")
    assert Catalog(ThoraxSegLogic(MOUSE_THORAX)).lastUsed() == "painted-thorax"
    assert Catalog(ThoraxSegLogic(LUNG_TUMOR)).lastUsed() == "painted-lung-tumor"


def test_a_checkpoint_that_is_gone_was_not_used_last(thoraxLogic, another):
    place = another("zebra")
    thoraxLogic.catalog.remember("zebra")
    for path in place.iterdir():
        path.unlink()
    assert thoraxLogic.catalog.lastUsed() == ""


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"mouse-thorax": 7}', '{"mouse-thorax": ["painted-thorax"]}']
)
def test_a_spoiled_memory_is_as_none_and_written_anew(thoraxLogic, home, text):
    (home / LAST_USED_FILE).write_text(text, encoding="utf-8")
    assert thoraxLogic.catalog.lastUsed() == ""
    thoraxLogic.catalog.remember("painted-thorax")
    assert thoraxLogic.catalog.lastUsed() == "painted-thorax"


def test_the_memory_is_written_whole_or_not_at_all(thoraxLogic, home, monkeypatch, caplog):
    thoraxLogic.catalog.remember("painted-thorax")
    before = (home / LAST_USED_FILE).read_text("utf-8")

    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    thoraxLogic.catalog.remember("painted-lung-tumor")  # told in the log: no run should fail for it
    assert "no space left" in caplog.text
    assert (home / LAST_USED_FILE).read_text("utf-8") == before
    assert {path.name for path in home.iterdir()} == {"checkpoints", LAST_USED_FILE}
    assert json.loads(before) == {"mouse-thorax": "painted-thorax"}


def test_nothing_from_a_card_is_taken_for_markup(thoraxLogic, another):
    spiteful = "<img src='http://example.org/x.png'>\n&"
    another("spiteful", description=spiteful, license=spiteful)
    tooltip = entryOf(thoraxLogic.catalog, "spiteful").tooltip
    assert "<img" not in tooltip and tooltip.count("&lt;img") == 2 and "\n" not in tooltip


def test_installing_is_a_job_of_the_child_process(thoraxLogic, monkeypatch):
    asked = []

    class Engine:
        def install(self, *arguments):
            asked.append(arguments)
            return "job"

    class Runs:
        engine = Engine()

        def close(self):
            pass

    monkeypatch.setitem(thoraxLogic.__dict__, "runs", Runs())
    assert thoraxLogic.catalog.install("https://example.org/model.zip", sha256="ab") == "job"
    assert asked == [("https://example.org/model.zip", "ab", None)]


def test_a_checkpoint_that_was_installed_is_in_the_list_at_once(thoraxLogic, another):
    before = names(thoraxLogic.catalog)
    another("new-one")
    assert set(names(thoraxLogic.catalog)) - set(before) == {"new-one"}
    assert replace(entryOf(thoraxLogic.catalog, "new-one"), problem="x").isReady is False
