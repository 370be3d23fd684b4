"""Whatever a user gives is opened by its content, and what is broken or hostile is named and never run."""

from __future__ import annotations

import gc
import itertools
import pickle
import shutil
import tempfile
import zipfile
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from Testing import tiny_models as tiny
from Testing.checkpoints import test_nnunet_v2 as v2
from thoraxseg.checkpoints import About, Choice, open_checkpoint
from thoraxseg.errors import CheckpointError, OptionError
from thoraxseg.files import sha256_file
from thoraxseg.inference import load_predictor
from thoraxseg.options import Device

pytestmark = pytest.mark.usefixtures("empty_home", "one_thread")
UNET = ("unet", {"filters": 2})
AIMOS = ("aimos", {"features": [4, 8, 8]})


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """A folder for what is unpacked, so that a test sees what stays."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def marker(tmp_path):
    """A file that hostile files of these tests try to write; it must not be there at the end."""
    path = tmp_path / "code-has-run"
    yield path
    assert not path.exists()


def refused(path, *words, choice=None):
    """Check that opening is refused in a sentence with these words; return it."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, choice)
    message = str(caught.value)
    for word in words:
        assert str(word) in message, message
    assert message.endswith((".", "?")) and len(message) < 2000
    return message


def weights_of(checkpoint):
    """The tensors of all networks of a checkpoint and of its first stage, loaded as for a run."""
    predictor = load_predictor(checkpoint, Device.CPU)
    parts = [part for part in (predictor, predictor.previous) if part is not None]
    return [tensor for part in parts for network in part.networks for tensor in network.state_dict().values()]


def equal(one, other):
    return len(one) == len(other) > 0 and all(itertools.starmap(torch.equal, zip(one, other, strict=True)))


# nnU-Net

MADE = {"v2": tiny.v2_model, "v1": tiny.v1_model}


@pytest.mark.parametrize("version", MADE)
@pytest.mark.parametrize("way", ["folder", "text", "results", "zip", "zip without its ending"])
def test_a_model_of_nnunet_is_opened_as_folder_result_folder_and_archive(version, way, tmp_path):
    model = MADE[version](tmp_path / "results", folds=(0, 1))
    whole = open_checkpoint(model)
    given = {"folder": model, "text": str(model), "results": tmp_path / "results"}.get(way)
    if given is None:  # names as nnU-Net's own export writes them, relative to its result folder
        inside = tmp_path / "results" / ("nnUNet" if version == "v1" else "")
        given = tiny.zipped(inside, tmp_path / ("model.zip" if way == "zip" else "download"))
    found = open_checkpoint(given)
    assert found.card == whole.card
    assert found.card.nnunet.origin.value == version
    assert [file.name for file in found.card.weights] == [
        f"fold_{n}{found.weights[0].suffix}" for n in (0, 1)
    ]
    assert [file.sha256 for file in found.card.weights] == [sha256_file(path) for path in found.weights]
    assert equal(weights_of(found), weights_of(whole))


@pytest.mark.parametrize("version", MADE)
def test_one_checkpoint_file_of_nnunet_means_its_fold_and_says_how_it_was_read(version, tmp_path):
    model = MADE[version](tmp_path / "results", folds=(0, 1))
    whole = open_checkpoint(model)
    inside = open_checkpoint(whole.weights[1])
    assert inside.card.weights == whole.card.weights[1:]
    assert replace(inside.card, weights=()) == replace(whole.card, weights=())
    (tmp_path / "lone").mkdir()
    for path in whole.weights[1].parent.iterdir():
        shutil.copy(path, tmp_path / "lone")
    alone = open_checkpoint(tmp_path / "lone" / whole.weights[1].name)
    assert alone.card.weights == whole.card.weights[1:]
    assert any("without its model folder" in note for note in alone.card.nnunet.notes)
    assert equal(weights_of(alone), weights_of(inside))
    for path in (*inside.weights, *alone.weights):
        assert open_checkpoint(path, Choice("3d_fullres", ("1",))).weights == (path,)
        refused(path, model.name if path in inside.weights else path, "not '2d'", choice=Choice("2d"))
        refused(path, path, "is of fold 1", choice=Choice(folds=("0",)))
        refused(path, path, "is not called", choice=Choice(best=True))


@pytest.mark.parametrize("version", MADE)
def test_the_first_stage_of_a_cascade_is_opened_with_the_second(version, tmp_path):
    make = {"v2": tiny.v2_cascade, "v1": tiny.v1_cascade}[version]
    found = open_checkpoint(make(tmp_path))
    assert found.card.nnunet.previous_stage == found.previous.card.nnunet.configuration == "3d_lowres"
    assert found.card.previous == "first-stage"
    assert found.previous.weights[0].is_file() and found.previous.weights != found.weights
    assert len(weights_of(found)) > len(weights_of(found.previous))


def test_a_cascade_in_an_archive_keeps_its_first_stage(tmp_path):
    tiny.v2_cascade(tmp_path / "results")
    archive = tiny.zipped(tmp_path / "results", tmp_path / "model.zip")
    found = open_checkpoint(archive, Choice("3d_cascade_fullres"))
    assert found.previous.weights[0].is_file()
    assert len(weights_of(found)) > len(weights_of(found.previous))
    refused(archive, "3d_cascade_fullres", "3d_lowres", "Choose one by its configuration")


@pytest.mark.parametrize("version", MADE)
def test_some_folds_can_be_chosen_and_an_unknown_one_is_answered_with_those_there(version, tmp_path):
    model = MADE[version](tmp_path / "results", folds=(0, 2, 3))
    whole = open_checkpoint(model)
    some = open_checkpoint(model, Choice(folds=("2", "0")))
    assert [file.name.split(".")[0] for file in some.card.weights] == ["fold_2", "fold_0"]
    assert some.card.weights == (whole.card.weights[1], whole.card.weights[0])
    refused(model, model, "fold '7'", "0, 2, 3", choice=Choice(folds=("0", "7")))


@pytest.mark.parametrize("version", MADE)
def test_the_best_checkpoint_is_taken_on_request_and_told_where_it_is_not(version, tmp_path):
    model = MADE[version](tmp_path / "results")
    final = open_checkpoint(model)
    best = {"v2": "checkpoint_best.pth", "v1": "model_best.model"}[version]
    refused(model, model, best, choice=Choice(best=True))
    if version == "v2":
        torch.manual_seed(5)
        v2.save_fold(model, 0, v2.plans(), v2.dataset(), "3d_fullres", best)
    else:
        for path in list((model / "fold_0").iterdir()):
            shutil.copy(path, path.with_name(path.name.replace("model_final_checkpoint.model", best)))
    found = open_checkpoint(model, Choice(best=True))
    assert found.weights[0].name == best
    assert open_checkpoint(model).weights == final.weights
    assert equal(weights_of(found), weights_of(final)) == (version == "v1")


@pytest.mark.parametrize("version", MADE)
def test_a_configuration_is_chosen_by_its_name_and_never_guessed(version, tmp_path):
    for configuration in ("2d", "3d_fullres"):
        MADE[version](tmp_path, configuration)
    refused(tmp_path, "2d", "3d_fullres", "Choose one by its configuration")
    assert open_checkpoint(tmp_path, Choice("2d")).card.nnunet.configuration == "2d"
    refused(tmp_path, "no model of configuration '3d_lowres'", "2d", choice=Choice("3d_lowres"))
    model = next(path.parent for path in tmp_path.rglob("plans.*") if "3d_fullres" in str(path))
    refused(model, model, "3d_fullres", "not '2d'", choice=Choice("2d"))


def test_a_folder_with_models_of_both_versions_is_not_guessed(tmp_path):
    tiny.v1_model(tmp_path)
    tiny.v2_model(tmp_path)
    refused(tmp_path, tmp_path, "version 1 and 2", "Give the folder of one")


def test_what_is_chosen_of_something_else_than_nnunet_is_refused(tmp_path):
    torch.save(tiny.state_of(*UNET), tmp_path / "weights.pth")
    bundle = tiny.monai_bundle(tmp_path / "bundle")
    for path, choice in itertools.product(
        (tmp_path / "weights.pth", bundle), (Choice("2d"), Choice(folds=("0",)), Choice(best=True))
    ):
        refused(path, path, "--configuration, --folds and --best are for models of nnU-Net", choice=choice)
    refused("phantom-threshold", "expected configuration '2d', it has none", choice=Choice("2d"))
    refused("phantom-threshold", "has no fold 1", choice=Choice(folds=("1",)))
    refused("phantom-threshold", "--best is for folders", choice=Choice(best=True))


# MONAI bundles


@pytest.mark.parametrize("way", ["folder", "zip", "zip of the folder"])
def test_a_monai_bundle_is_opened_as_folder_and_archive(way, tmp_path):
    bundle = given = tiny.monai_bundle(tmp_path / "lung_tumors")
    if way != "folder":
        given = tiny.zipped(bundle, tmp_path / "model.zip", bundle if way == "zip" else tmp_path)
    found, whole = open_checkpoint(given), open_checkpoint(bundle)
    assert (found.card.name, found.card.license) == ("lung-tumors", "Apache-2.0")
    assert found.card == whole.card
    assert {label: one.key for label, one in found.card.labels.items()} == {1: "tumors"}
    assert [file.name for file in found.card.weights] == ["model.pt"]
    assert any("does not smooth" in said for said in found.assumed)
    assert equal(weights_of(found), weights_of(whole))


# Weights and nothing else

WRAPPERS = [None, "state_dict", "model_state_dict", "network_weights", "model", "net"]


@pytest.mark.parametrize(
    ("ending", "wrapper"),
    [
        *itertools.product(["pth", "pt"], WRAPPERS),
        *[("safetensors", None), ("bin", None), ("", "state_dict")],
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_recognized_in_every_wrapping_and_say_what_is_assumed(ending, wrapper, prefix, tmp_path):
    state = tiny.state_of(*AIMOS)
    named = {prefix + key: tensor for key, tensor in state.items()}
    path = tmp_path / f"My Weights.{ending}".rstrip(".")
    if ending == "safetensors":
        save_file(named, path)
    else:
        torch.save(named if wrapper is None else {wrapper: named, "epoch": 3}, path)
    found = open_checkpoint(path)
    assert (found.card.name, found.card.architecture.name) == ("my-weights", "aimos")
    assert found.card.architecture.parameters["features"] == [4, 8, 8]
    assert found.weights == (path,)
    assert found.card.weights[0].sha256 == sha256_file(path)
    (said,) = found.assumed
    assert all(
        word in said for word in (path.name, "aimos", "not known", "which label is which organ", "convert")
    )
    assert equal(weights_of(found), list(state.values()))


def test_weights_of_a_known_card_are_found_by_their_content(tmp_path):
    known = open_checkpoint("phantom-threshold")
    path = tmp_path / "renamed.bin"
    shutil.copy(known.weights[0], path)
    found = open_checkpoint(path)
    assert (found.card, found.weights, found.assumed) == (known.card, (path,), ())


def test_weights_of_no_known_network_are_refused_with_a_list_of_what_is_known(tmp_path):
    torch.save({"layer.weight": torch.zeros(3, 3), "layer.bias": torch.zeros(3)}, tmp_path / "other.pth")
    refused(tmp_path / "other.pth", "other.pth", "layer.weight", "unet3plus", "deepmedic", "MONAI bundle")


def test_weights_that_need_their_plans_are_refused_in_a_sentence_that_says_so(tmp_path):
    arguments = {
        "in_channels": 1,
        "classes": 3,
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_bias": True,
    }
    arguments |= {"dimensions": 3, "kernel_sizes": 3, "strides": [1, 2], "n_conv_per_stage": 2}
    torch.save(
        tiny.state_of("plain_conv_unet", {**arguments, "n_conv_per_stage_decoder": 2}), tmp_path / "bare.pth"
    )
    refused(tmp_path / "bare.pth", "plain_conv_unet", "plans.json or plans.pkl")


# Folders with a card


@pytest.fixture
def carded(tmp_path, quick_checkpoint):
    folder = tmp_path / "made" / "quick"
    shutil.copytree(quick_checkpoint, folder)
    return folder


@pytest.mark.parametrize("way", ["the folder", "its content", "macOS", "with a readme"])
def test_an_archive_of_a_folder_with_a_card_is_opened(carded, way, tmp_path):
    archive = tiny.zipped(carded, tmp_path / "quick.zip", carded if way == "its content" else carded.parent)
    with zipfile.ZipFile(archive, "a") as file:
        if way == "macOS":
            file.writestr("__MACOSX/quick/._card.json", b"\0")
        elif way == "with a readme":
            file.writestr("README.txt", "hello")
    found, whole = open_checkpoint(archive), open_checkpoint(carded)
    assert found.card == whole.card
    assert equal(weights_of(found), weights_of(whole))


def test_an_archive_of_two_folders_with_cards_is_not_guessed(carded, tmp_path):
    shutil.copytree(carded, carded.with_name("other"))
    refused(tiny.zipped(carded.parent, tmp_path / "two.zip"), "found no card.json")


def test_words_of_the_user_go_onto_the_card_and_wrong_labels_are_refused(carded):
    found = open_checkpoint(carded, about=About(species="mouse", labels={2: "my spots"}, name="mine"))
    assert (found.card.name, found.card.species, found.card.labels[2].name) == ("mine", "mouse", "My spots")
    with pytest.raises(OptionError, match="quick has the labels 1, 2, not 3"):
        open_checkpoint(carded, about=About(labels={3: "heart"}))


# Lung maps


def test_what_makes_the_lung_map_is_taken_by_networks_that_need_one_only(tmp_path):
    torch.save(tiny.state_of("coordinate_unet_3d", {"filters": 16}), tmp_path / "lungs.pth")
    torch.save(tiny.state_of("rrc_unet_3d", {"filters": 16, "block": "cgpd"}), tmp_path / "rrc.pth")
    lungs = open_checkpoint(tmp_path / "lungs.pth")
    found = open_checkpoint(tmp_path / "rrc.pth", lungs=lungs)
    assert found.lungs is lungs
    assert [channel.source for channel in found.card.channels] == ["image", "lungs"]
    assert open_checkpoint(tmp_path / "rrc.pth").lungs is None
    with pytest.raises(CheckpointError, match=r"phantom-threshold: takes no lung map\. Leave --lungs"):
        open_checkpoint("phantom-threshold", lungs=lungs)


# Names that lead nowhere


def test_a_published_model_that_is_not_here_says_how_to_get_it():
    refused(
        "moose-preclin-mr-all", "published, but not on this machine", "checkpoints show moose-preclin-mr-all"
    )


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("phantom-treshold", "phantom-threshold"),
        ("deepmeta_mouse_mri", "deepmeta-mouse-mri"),
        ("aimos-mouse-ct", "aimos-mouse-ct-native"),
    ],
)
def test_a_misspelt_name_gives_the_near_one(given, near):
    refused(given, repr(given), f"Did you mean {near}?")


@pytest.mark.parametrize(
    "given", ["x" * 5000, "a/" * 2500, "", " ", "nowhere/at/all.pth", "a\0b"], ids=lambda text: repr(text[:9])
)
def test_a_name_of_nothing_is_one_short_sentence(given):
    message = refused(given, "unknown checkpoint", "deepmeta-mouse-mri", "neither a name")
    assert len(message) < 600


@pytest.mark.parametrize("kind", ["empty", "images", "a plan without folds"])
def test_a_folder_without_a_model_says_what_was_looked_for(kind, tmp_path):
    if kind == "images":
        (tmp_path / "a.nii.gz").write_bytes(b"\x1f\x8b")
    elif kind == "a plan without folds":
        (tmp_path / "plans.json").write_text("{}")
    refused(tmp_path, tmp_path, "found no card.json", "plans.json or plans.pkl with folds", "Known are")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"<!doctype html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-LFS pointer"),
        (b"a,b\n1,2\n", "a text file"),
        (b"\x1f\x8b" + bytes(100), "something else"),
    ],
)
def test_a_file_that_is_no_model_is_called_what_it_is(content, kind, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    refused(path, path, kind)


# Hostile and broken files


def test_code_in_weights_is_named_and_not_run(marker, tmp_path):
    for number, content in enumerate(({"a": tiny.Code(marker)}, tiny.Code(marker), [tiny.Code(marker)])):
        for zipped in (True, False):
            path = tmp_path / f"evil{number}.pth"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            refused(path, path, "safe loader refused", "system", "Nothing was run")


def test_code_in_the_weights_of_an_nnunet_model_is_named_and_not_run(marker, tmp_path, scratch):
    model = tiny.v2_model(tmp_path / "v2")
    v2.save_fold(model, 0, v2.plans(), v2.dataset(), "3d_fullres", extra=tiny.Code(marker))
    refused(model, "checkpoint_final.pth", "safe loader refused", "system")
    refused(tiny.zipped(tmp_path / "v2", tmp_path / "model.zip"), "checkpoint_final.pth", "system")
    gc.collect()
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("name", ["plans.pkl", "fold_0/model_final_checkpoint.model.pkl"])
def test_code_in_the_pickles_of_nnunet_1_is_named_and_not_run(name, marker, tmp_path):
    model = tiny.v1_model(tmp_path)
    content = pickle.loads((model / name).read_bytes())
    (model / name).write_bytes(pickle.dumps({**content, "plans_per_stage": tiny.Code(marker)}))
    refused(model, name.split("/")[-1], "system", "which is code")
    (model / name).write_bytes(b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    refused(model, name.split("/")[-1], "os.system")


def test_code_in_the_model_file_of_nnunet_1_is_named_when_it_is_loaded_and_not_run(marker, tmp_path):
    model = tiny.v1_model(tmp_path)
    path = model / "fold_0" / "model_final_checkpoint.model"
    content = torch.load(path, weights_only=False)
    torch.save({**content, "plot_stuff": tiny.Code(marker)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"model_final_checkpoint\.model: torch's safe loader refused"):
        weights_of(open_checkpoint(model))


def test_code_named_in_plans_is_refused_before_any_import(marker, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    model = tiny.v2_model(tmp_path / "v2")
    v2.edit(
        model / "plans.json",
        lambda data: data["configurations"]["3d_fullres"]["architecture"].update(
            {"network_class_name": "evil_module.Network"}
        ),
    )
    refused(model, "plans.json", "network_class_name", "evil_module.Network")


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "C:\\evil.txt"])
def test_an_archive_that_would_write_elsewhere_is_refused_whole(name, tmp_path, scratch):
    archive = tmp_path / "slip.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("plans.json", "{}")
        file.writestr(name, "here I am")
    refused(archive, archive, "evil.txt", "Nothing was unpacked")
    gc.collect()
    assert not list(tmp_path.rglob("evil.txt")) and not list(scratch.iterdir())


def test_an_archive_that_unpacks_to_far_more_than_it_holds_is_refused(tmp_path, scratch):
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("fold_0/checkpoint_final.pth", bytes(64 << 20))
    refused(archive, archive, "checkpoint_final.pth", "times its size")
    gc.collect()
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"Rar!\x1a\x07", b"<html>"])
def test_an_archive_that_is_none_is_refused(content, tmp_path):
    path = tmp_path / "model.zip"
    path.write_bytes(content)
    refused(path, path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_weights_that_are_cut_short_are_named(zipped, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(tiny.state_of(*UNET), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:-2000])
    refused(path, path)


def test_one_flipped_byte_in_weights_is_noticed(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(tiny.state_of(*UNET), path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    refused(path, path, "CRC", "damaged")


@pytest.mark.parametrize("version", MADE)
def test_weights_of_nnunet_that_are_cut_short_are_named(version, tmp_path):
    model = MADE[version](tmp_path)
    path = open_checkpoint(model).weights[0]
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError) as caught:
        weights_of(open_checkpoint(model))
    assert path.name in str(caught.value)


@pytest.mark.parametrize("version", MADE)
def test_weights_of_another_network_are_refused_by_the_name_of_their_file(version, tmp_path):
    model = MADE[version](tmp_path / "a", folds=(0, 1))
    other = MADE[version](tmp_path / "b", "2d", folds=(1,))
    name = open_checkpoint(other).weights[0].name
    shutil.copy(other / "fold_1" / name, model / "fold_1" / name)
    with pytest.raises(CheckpointError) as caught:
        weights_of(open_checkpoint(model))
    assert ("fold_1" if version == "v2" else name) in str(caught.value)


def test_weights_of_another_network_beside_a_card_are_refused_by_their_digest(carded):
    path = next(carded.glob("*.safetensors"))
    save_file(tiny.state_of(*UNET), path)
    refused(carded, path.name, "expected SHA-256", "another one")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_program_of_torch_is_refused_as_one(tmp_path):
    path = tmp_path / "program.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    refused(path, path, "TorchScript", "would run code")
    bundle = tiny.monai_bundle(tmp_path / "bundle")
    shutil.copy(path, bundle / "models" / "model.pt")
    refused(bundle, "model.pt")


def test_nothing_that_is_opened_is_changed(tmp_path, carded):
    tiny.v2_model(tmp_path / "v2")
    tiny.v1_model(tmp_path / "v1")
    tiny.monai_bundle(tmp_path / "bundle")
    tiny.zipped(tmp_path / "v2", tmp_path / "v2.zip")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for given in (tmp_path / "v2", tmp_path / "v1", tmp_path / "bundle", tmp_path / "v2.zip", carded):
        open_checkpoint(given)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# The folder of an unpacked archive


def test_an_unpacked_archive_stays_as_long_as_its_checkpoint_and_no_longer(tmp_path, scratch):
    tiny.v2_model(tmp_path / "v2")
    archive = tiny.zipped(tmp_path / "v2", tmp_path / "v2.zip")
    found = open_checkpoint(archive, about=About(species="mouse"))
    predictor = load_predictor(found, Device.CPU)
    path = found.weights[0]
    del found
    gc.collect()
    assert path.is_file(), "the predictor still uses its checkpoint"
    assert len(list(scratch.iterdir())) == 1
    del predictor
    gc.collect()
    assert not list(scratch.iterdir())


def test_a_cancel_while_unpacking_leaves_nothing(tmp_path, scratch):
    from thoraxseg.progress import Cancelled

    def cancel(fraction, message):
        raise Cancelled

    tiny.v2_model(tmp_path / "v2")
    archive = tiny.zipped(tmp_path / "v2", tmp_path / "v2.zip")
    with pytest.raises(Cancelled):
        open_checkpoint(archive, progress=cancel)
    gc.collect()
    assert not list(scratch.iterdir())


def test_an_archive_gives_the_answer_of_its_folder(tmp_path):
    model = tiny.v2_model(tmp_path / "v2")
    archive = tiny.zipped(tmp_path / "v2", tmp_path / "v2.zip")
    assert tiny.same(tiny.seen(open_checkpoint(archive)), tiny.seen(open_checkpoint(model)))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("mouse.nii.gz", b"\x1f\x8b\x08", "looks like an image"),
        ("table.csv", b"case,image\n", "Known are"),
        ("notes.docx.txt", b"hello", "Known are"),
    ],
)
def test_what_is_no_model_at_all_is_told_what_could_be_given(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(tmp_path / name)
    assert name in str(caught.value) and "nnU-Net" in str(caught.value)


def test_an_address_is_told_to_be_installed_first():
    with pytest.raises(CheckpointError, match="checkpoints install ADDRESS"):
        open_checkpoint("https://example.org/model.zip")


def test_a_zip_that_holds_no_model_is_named_itself_and_not_where_it_was_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("a.png", b"none")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "pictures.zip")
    assert str(tmp_path / "pictures.zip") in str(caught.value) and "thoraxseg-model-" not in str(caught.value)
