"""Checkpoints in the user's folder: what is put there answers as before, whole or not at all, and goes again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from Testing import tiny_models as tiny
from Testing.checkpoints.test_download import Web, serve
from Testing.models.test_aimos import published as aimos_names
from Testing.models.test_unet3plus import published as kaniewski_names
from thoraxseg.checkpoints import (
    About,
    Choice,
    convert,
    install,
    is_installed,
    keep,
    list_cards,
    list_published,
    open_checkpoint,
    read_card,
    remove,
    verify_installed,
)
from thoraxseg.checkpoints.keep import is_here
from thoraxseg.errors import CheckpointError, DownloadError, OptionError, OutputError
from thoraxseg.files import sha256_file
from thoraxseg.inference import load_predictor
from thoraxseg.models import build_network
from thoraxseg.options import Device
from thoraxseg.progress import Cancelled

pytestmark = pytest.mark.usefixtures("empty_home", "one_thread")
BARE = replace(tiny.QUICK, postprocess="none")
not_root = pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 1)() == 0, reason="the superuser may write anywhere"
)


@pytest.fixture
def web():
    """A server on this machine; give it content and ask for any name."""
    served = Web()
    server, thread = serve(served)
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def weights(tmp_path):
    """A file of weights that is quick to open."""
    path = tmp_path / "NACTmodel.pt"
    torch.save(tiny.state_of("aimos", {"features": [4, 8, 8]}), path)
    return path


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def address(web, name):
    return web.url.replace("weights.bin", name)


# Installing: the same answer as before


@pytest.mark.parametrize(
    "make", [tiny.v2_model, tiny.v1_model, tiny.v2_cascade, tiny.v1_cascade], ids=lambda make: make.__name__
)
def test_an_installed_model_of_nnunet_answers_as_its_folder_did_without_it(make, tmp_path, empty_home):
    model = make(tmp_path / "results")
    expected = tiny.seen(open_checkpoint(model))
    kept = install(model)
    shutil.rmtree(tmp_path / "results")
    name = kept.card.name
    assert kept.folder == empty_home / "checkpoints" / name
    found = open_checkpoint(name)
    assert (
        ("cascade" in make.__name__) == (found.previous is not None) == (kept.folder / "first-stage").is_dir()
    )
    assert tiny.same(tiny.seen(found), expected)
    assert is_installed(list_cards()[name]) and verify_installed(list_cards()[name]) > 0


@pytest.mark.parametrize("way", ["zip", "file", "address of a zip", "address of a file"])
def test_an_installed_model_answers_as_before_wherever_it_came_from(way, tmp_path, web):
    model = tiny.v2_model(tmp_path / "results")
    expected = tiny.seen(open_checkpoint(model))
    given = tiny.zipped(tmp_path / "results", tmp_path / "model.zip")
    if "file" in way:
        given = model.joinpath("fold_0", "checkpoint_final.pth").rename(tmp_path / "checkpoint_final.pth")
    if "address" in way:
        web.content = given.read_bytes()
        given = address(web, given.name)
    kept = install(given)
    shutil.rmtree(tmp_path / "results")
    assert kept.card.name == tiny.V2_NAME
    assert tiny.same(tiny.seen(open_checkpoint(tiny.V2_NAME)), expected)


def test_weights_are_copied_as_they_are(tmp_path):
    model = tiny.v2_model(tmp_path / "results", folds=(0, 1))
    kept = install(model)
    assert files_in(kept.folder) == ["card.json", "fold_0.pth", "fold_1.pth"]
    for fold in (0, 1):
        copied = kept.folder / f"fold_{fold}.pth"
        assert copied.read_bytes() == (model / f"fold_{fold}" / "checkpoint_final.pth").read_bytes()
    assert open_checkpoint(tiny.V2_NAME, Choice(folds=("1",))).weights == (kept.folder / "fold_1.pth",)


def test_a_bundle_weights_and_a_folder_with_a_card_are_installed(tmp_path, weights, quick_checkpoint):
    assert install(tiny.monai_bundle(tmp_path / "bundle")).card.name == "lung-tumors"
    kept = install(weights)
    assert (kept.card.name, files_in(kept.folder)) == ("nactmodel", ["card.json", "nactmodel.pt"])
    assert "which label is which organ" in kept.notes[0]
    assert install(quick_checkpoint).card.name == "quick"
    assert {"lung-tumors", "nactmodel", "quick"} <= set(list_cards())
    for name in ("lung-tumors", "nactmodel", "quick"):
        card = list_cards()[name]
        assert (card.source.kind, is_installed(card)) == ("local", True)
        assert open_checkpoint(name).card == card
        verify_installed(card)


def test_only_what_was_chosen_is_installed(tmp_path):
    for configuration in ("2d", "3d_fullres"):
        tiny.v2_model(tmp_path, configuration, folds=(0, 1))
    kept = install(tmp_path, choice=Choice("2d", ("1",)))
    assert (kept.card.name, kept.card.nnunet.configuration) == ("dataset601-mouse-2d", "2d")
    assert files_in(kept.folder) == ["card.json", "fold_1.pth"]


def test_samples_that_are_not_copied_are_not_on_the_card(tmp_path, quick_checkpoint):
    folder = tmp_path / "with-sample"
    shutil.copytree(quick_checkpoint, folder)
    (folder / "mouse.tif").write_bytes(b"mouse")
    card = json.loads((folder / "card.json").read_text("utf-8"))
    digest = hashlib.sha256(b"mouse").hexdigest()
    card["samples"] = [{"name": "mouse.tif", "member": "", "sha256": digest, "size_bytes": 5}]
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    kept = install(folder)
    assert list_cards()["quick"].samples == ()
    assert is_installed(list_cards()["quick"]) and verify_installed(kept.card)


@pytest.mark.parametrize(
    "name",
    [
        "My Weights (1).pt",
        "w" * 150 + ".pt",
        "weights.pt (1)",
        "weights",
        "fold_0 copy.pt",
        "größe.PT",
        ".pt",
    ],
)
def test_whatever_a_file_of_weights_is_called_it_can_be_installed(name, weights, tmp_path):
    path = weights.rename(tmp_path / name)
    kept = install(path, About(name="mine"))
    (copied,) = [one for one in files_in(kept.folder) if one != "card.json"]
    assert (kept.folder / copied).read_bytes() == path.read_bytes()
    assert is_installed(list_cards()["mine"])


# Names and words


def test_what_the_user_says_is_on_the_card(weights):
    about = About(name="organs", species="mouse", labels={1: "heart", 3: "spinal cord"}, license="MIT")
    install(weights, about)
    card = list_cards()["organs"]
    assert (card.species, card.license) == ("mouse", "MIT")
    assert [one.key for one in card.labels.values()] == ["heart", "label_2", "spinal_cord", "label_4"]


def test_a_name_that_is_taken_is_refused_and_what_has_it_stays(weights, tmp_path, empty_home):
    kept = install(weights, About(name="mine"))
    before = (kept.folder / "card.json").read_bytes()
    for about in (About(name="mine"), About(name="phantom-threshold"), About(name="deepmeta-mouse-mri")):
        with pytest.raises(
            CheckpointError, match=rf"the name '{about.name}' is taken.*Choose another --name"
        ):
            install(weights, about)
    with pytest.raises(CheckpointError, match="the name 'mine' is taken"):
        install(weights.rename(tmp_path / "Mine.pt"))
    assert (kept.folder / "card.json").read_bytes() == before
    assert [path.name for path in (empty_home / "checkpoints").iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/b", "", ".hidden", "a b"])
def test_a_name_that_is_no_plain_name_is_refused(name, weights, empty_home):
    with pytest.raises(OptionError, match="--name"):
        install(weights, About(name=name))
    assert files_in(empty_home) == []


def test_the_name_of_a_published_model_takes_over_what_is_known_of_it(weights):
    entry = list_published()["aimos-mouse-ct-native"]
    install(weights, About(name=entry.name))
    card = list_cards()[entry.name]
    assert (card.title, card.species, card.modality) == (entry.title, "mouse", "micro-CT")
    assert (card.license, card.task) == (entry.license, entry.task)
    assert entry.page in card.citation
    assert open_checkpoint(entry.name).card == card


def test_what_the_user_says_goes_over_what_was_published(weights):
    install(weights, About(name="aimos-mouse-ct-native", title="Ours", labels={1: "heart"}))
    card = list_cards()["aimos-mouse-ct-native"]
    assert (card.title, card.labels[1].key, card.species) == ("Ours", "heart", "mouse")


def test_a_published_model_without_an_address_says_how_to_get_it():
    with pytest.raises(DownloadError, match=r"with a browser, then run .* install FILE --name aimos-mouse"):
        install("aimos-mouse-ct-native")


@pytest.fixture
def made_up(web, monkeypatch):
    """Publish one model on the server of this machine."""

    def make(content, sha256=""):
        web.content = content
        entry = replace(list_published()["moose-preclin-mr-all"], name="made-up", sha256=sha256)
        entry = replace(entry, url=address(web, "model.pt"), labels=None)
        monkeypatch.setattr(keep, "list_published", lambda: {"made-up": entry})
        return entry

    return make


def test_a_published_model_is_fetched_by_its_name(weights, made_up):
    entry = made_up(weights.read_bytes())
    kept = install("made-up")
    card = list_cards()["made-up"]
    assert (card.title, card.license) == (entry.title, entry.license)
    assert any(sha256_file(weights) in note for note in kept.notes), "no digest was published: it is told"
    again = install("made-up")
    assert again.folder == kept.folder and again.notes == ("it is installed already",)


def test_a_published_digest_is_compared(weights, made_up, empty_home):
    made_up(weights.read_bytes(), sha256_file(weights))
    assert not any("SHA-256" in note for note in install("made-up").notes)
    remove("made-up")
    made_up(weights.read_bytes() + b"x", sha256_file(weights))
    with pytest.raises(CheckpointError, match="expected SHA-256"):
        install("made-up")
    assert files_in(empty_home) == []


def test_a_name_of_the_catalog_takes_no_words_that_its_card_says(weights):
    install(weights, About(name="mine"))
    for name in ("mine", "phantom-threshold", "deepmeta-mouse-mri"):
        for words in ({"about": About(title="x")}, {"choice": Choice(best=True)}, {"sha256": "0" * 64}):
            with pytest.raises(OptionError, match=f"{name} is in the catalog.*give the name alone"):
                install(name, **words)


def test_installing_again_says_so_and_notices_damage(weights):
    kept = install(weights, About(name="mine"))
    assert install("mine").notes == ("it is installed already",)
    (kept.folder / "nactmodel.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"nactmodel\.pt: expected SHA-256"):
        install("mine")


# Digests


@pytest.mark.parametrize("way", ["file", "zip", "address"])
@pytest.mark.parametrize("right", [True, False])
def test_the_digest_that_is_asked_for_is_compared(
    way, right, weights, quick_checkpoint, tmp_path, web, empty_home
):
    given = tiny.zipped(quick_checkpoint, tmp_path / "a.zip") if way == "zip" else weights
    digest = sha256_file(given)
    wanted = digest.upper() if right else "0" * 64
    if way == "address":
        web.content = given.read_bytes()
        given = address(web, given.name)
    if right:
        kept = install(given, About(name="mine"), sha256=wanted)
        assert not any("SHA-256" in note for note in kept.notes)
        assert list_cards()["mine"].source.archive_sha256 == digest
        return
    with pytest.raises(CheckpointError, match=rf"expected SHA-256 0{{12}}\.\.\., got {digest[:12]}"):
        install(given, About(name="mine"), sha256=wanted)
    assert files_in(empty_home) == []


def test_a_file_from_the_web_without_a_known_digest_tells_its_own(weights, web, empty_home):
    web.content = weights.read_bytes()
    kept = install(address(web, "NACT%20model.pt?download=1"))
    assert kept.card.name == "nact-model"
    assert any(sha256_file(weights) in note and "--sha256" in note for note in kept.notes)
    assert list_cards()["nact-model"].source.archive_sha256 == sha256_file(weights)
    assert files_in(empty_home) == [
        *("checkpoints/nact-model/card.json", "checkpoints/nact-model/nact-model.pt")
    ], "the download is gone"


def test_a_digest_is_not_for_a_folder(quick_checkpoint, empty_home):
    with pytest.raises(OptionError, match=r"--sha256: is for a file or an address, and .* is a folder"):
        install(quick_checkpoint, sha256="0" * 64)
    with pytest.raises(CheckpointError, match="unknown checkpoint"):
        install("x" * 5000, sha256="0" * 64)
    assert files_in(empty_home) == []


def test_what_was_fetched_is_kept_for_another_choice_and_not_fetched_twice(tmp_path, web, empty_home):
    for configuration in ("2d", "3d_fullres"):
        tiny.v2_model(tmp_path, configuration)
    web.content = tiny.zipped(tmp_path, tmp_path / "two.zip").read_bytes()
    url = address(web, "two.zip")
    with pytest.raises(CheckpointError, match=r"Choose one by its configuration.*was kept"):
        install(url)
    assert len(web.asked) == 1 and len(files_in(empty_home)) == 1
    assert install(url, choice=Choice("2d")).card.nnunet.configuration == "2d"
    assert len(web.asked) == 1
    assert not list((empty_home / "downloads").iterdir())


def test_two_addresses_that_end_alike_are_two_files(weights, quick_checkpoint, tmp_path, web):
    web.content = b"no model at all"
    with pytest.raises(CheckpointError):
        install(address(web, "one/model.zip"))
    web.content = tiny.zipped(quick_checkpoint, tmp_path / "quick.zip").read_bytes()
    assert install(address(web, "two/model.zip")).card.name == "quick"


@pytest.mark.parametrize("url", ["http://example.org/a.zip", "file:///etc/passwd", "ftp://example.org/a.zip"])
def test_only_safe_addresses_are_asked(url, empty_home):
    with pytest.raises(DownloadError, match="expected an address that begins with https"):
        install(url)
    assert files_in(empty_home) == []


# Whole or not at all


def test_hostile_and_broken_models_leave_nothing(tmp_path, empty_home, weights):
    torch.save({"a": tiny.Code(tmp_path / "code-has-run")}, tmp_path / "evil.pth")
    (tmp_path / "cut.pt").write_bytes(weights.read_bytes()[:-500])
    model = tiny.v1_model(tmp_path / "v1", folds=(0, 1))
    other = tiny.v1_model(tmp_path / "other", "2d", folds=(1,))
    shutil.copy(other / "fold_1" / "model_final_checkpoint.model", model / "fold_1")
    for given in (tmp_path / "evil.pth", tmp_path / "cut.pt", model):
        with pytest.raises(CheckpointError) as caught:
            install(given)
        assert given.name in str(caught.value)
    assert "fold_1" in str(caught.value), "which of the folds does not fit"
    assert files_in(empty_home) == []
    assert not (tmp_path / "code-has-run").exists()


def cancels_at(share):
    """A progress that cancels when a share of the work is done."""

    def progress(fraction, message):
        if fraction >= share:
            raise Cancelled

    return progress


@pytest.mark.parametrize("way", ["folder", "zip", "address", "convert"])
def test_a_cancel_at_any_moment_leaves_nothing_installed(way, tmp_path, web, empty_home):
    tiny.v2_model(tmp_path / "results")
    given = tmp_path / "results"
    if way in ("zip", "address"):
        given = tiny.zipped(given, tmp_path / "model.zip")
    if way == "address":
        web.content = given.read_bytes()
        given = address(web, "model.zip")

    def work(progress):
        if way == "convert":
            return convert(given, tmp_path / "converted", progress=progress)
        return install(given, progress=progress)

    for share in (0, 0.1, 0.4, 0.8, 0.9):
        with pytest.raises(Cancelled):
            work(cancels_at(share))
        left = [name for name in files_in(empty_home) if not name.startswith("downloads/")]
        assert left == [] and not (tmp_path / "converted").exists()
        assert not list(tmp_path.glob(".thoraxseg-partial-*"))
    told = []
    work(lambda fraction, message: told.append(fraction))
    assert told == sorted(told) and told[-1] == 1.0
    assert (tiny.V2_NAME in list_cards()) == (way != "convert")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_what_a_killed_install_left_is_no_checkpoint_and_goes_with_the_next(weights, empty_home):
    code = """
        import os, signal, sys
        from thoraxseg.checkpoints import install

        def die(fraction, message):
            if message == "Verifying":
                os.kill(os.getpid(), signal.SIGKILL)

        install(sys.argv[1], progress=die)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), weights], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(files_in(empty_home)) == 2, "card and weights in a scratch folder"
    assert "nactmodel" not in list_cards()
    install(weights)
    assert files_in(empty_home) == ["checkpoints/nactmodel/card.json", "checkpoints/nactmodel/nactmodel.pt"]


@pytest.mark.parametrize("failing", ["copyfile", "replace"])
def test_a_disk_that_fails_is_an_output_error_and_leaves_nothing(failing, weights, empty_home, monkeypatch):
    def full(*arguments, **kwargs):
        raise OSError(28, "No space left on device")

    if failing == "copyfile":
        monkeypatch.setattr(keep.shutil, "copyfile", full)
    else:
        monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OutputError, match=r"No space left.*Nothing was left"):
        install(weights)
    monkeypatch.undo()
    assert files_in(empty_home) == []


def test_a_copy_that_is_not_what_was_opened_is_not_installed(weights, empty_home, monkeypatch):
    def other(source, target):
        target.write_bytes(source.read_bytes())
        flip(target)

    monkeypatch.setattr(keep.shutil, "copyfile", other)
    with pytest.raises(CheckpointError, match=rf"expected SHA-256 {sha256_file(weights)[:12]}"):
        install(weights)
    assert files_in(empty_home) == []


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits")
def test_a_disk_that_is_full_while_converting_is_an_output_error(weights, tmp_path):
    import resource

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"converted: writing failed: .*Nothing was left"):
            convert(weights, tmp_path / "converted")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert not (tmp_path / "converted").exists() and not list(tmp_path.glob(".thoraxseg-partial-*"))


def test_a_home_that_cannot_be_written_is_an_output_error(weights, web, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    web.content = weights.read_bytes()
    for home in (tmp_path / "file", tmp_path / "file" / "home"):
        monkeypatch.setenv("THORAXSEG_HOME", str(home))
        for given in (weights, address(web, "model.pt")):
            with pytest.raises(OutputError, match=r"file.*: .+\.$"):
                install(given)
    assert (tmp_path / "file").read_text() == "mine"


@not_root
def test_a_home_without_the_right_to_write_is_an_output_error(weights, empty_home):
    empty_home.mkdir()
    empty_home.chmod(0o500)
    with pytest.raises(OutputError, match="can"):
        install(weights)


# Converting


CONVERTED = {
    "v1": lambda folder: tiny.v1_model(folder, folds=(0, 1)),
    "v2": lambda folder: tiny.v2_model(folder, folds=(0, 1)),
    "v2 cascade": tiny.v2_cascade,
    "v1 cascade": tiny.v1_cascade,
    "monai": tiny.monai_bundle,
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_a_converted_model_answers_as_before(kind, tmp_path):
    model = CONVERTED[kind](tmp_path / "model")
    expected = tiny.seen(open_checkpoint(model))
    kept = convert(model, tmp_path / "converted")
    files = [path for path in kept.folder.rglob("*") if path.is_file()]
    assert len({path.stat().st_mode for path in files}) == 1, "whoever may read the card may read the weights"
    shutil.rmtree(tmp_path / "model")
    found = open_checkpoint(tmp_path / "converted")
    paths = (*found.weights, *(found.previous.weights if found.previous else ()))
    assert {path.suffix for path in paths} == {".safetensors"}
    assert (found.previous is not None) == ("cascade" in kind)
    assert found.card.name == kept.card.name
    assert tiny.same(tiny.seen(found), expected)
    if kind in ("v1", "v2"):
        assert len(found.weights) == 2
        assert open_checkpoint(tmp_path / "converted", Choice(folds=("1",))).weights == found.weights[1:]


def deepmeta_names(state):
    """The names of DeepMeta's code: those of the benchmark's, but for the output, which is of two parts."""
    inner = {key: one for key, one in state.items() if not key.startswith("output.")}
    outer = {key.replace("output.", "outc.conv."): one for key, one in state.items() if key not in inner}
    return kaniewski_names(inner) | outer


PUBLISHED = {
    "aimos": ("aimos", {"features": [2] * 6}, aimos_names, 64),
    "unet3plus": ("unet3plus", {"filters": 2, "variant": "kaniewski-code"}, kaniewski_names, 32),
    "deepmeta": ("deepmeta", {"filters": 4}, deepmeta_names, 32),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_under_published_names_get_ours_and_answer_as_before(name, tmp_path):
    architecture, arguments, rename, size = PUBLISHED[name]
    own = tiny.state_of(architecture, arguments)
    published = rename(own)
    assert published.keys() != own.keys()
    torch.save({"state_dict": {f"module.{key}": one for key, one in published.items()}}, tmp_path / "w.pth")
    before = open_checkpoint(tmp_path / "w.pth")
    before, card = load_predictor(before, Device.CPU).networks[0], before.card
    convert(tmp_path / "w.pth", tmp_path / "converted")
    (tmp_path / "w.pth").unlink()
    written = load_file(tmp_path / "converted" / "w.safetensors")
    assert written.keys() == own.keys()
    assert all(torch.equal(written[key], own[key]) for key in own), "no value changes"
    after = open_checkpoint(tmp_path / "converted")
    assert replace(after.card, weights=(), sha256="", source=card.source) == replace(card, weights=())
    after, image = load_predictor(after, Device.CPU).networks[0], torch.rand(1, 1, size, size)
    with torch.inference_mode():
        assert torch.equal(before(image), after(image))


def test_converted_weights_of_slices_give_the_labels_of_their_file(weights, tmp_path):
    # Random networks hardly tell one voxel from another; larger weights do.
    state = {key: one * 3 if one.ndim > 1 else one for key, one in torch.load(weights).items()}
    torch.save(state, weights)
    convert(weights, tmp_path / "converted")
    image = tiny.volume((2, 12, 14))
    one, other = (
        tiny.seen(open_checkpoint(given), image, BARE) for given in (weights, tmp_path / "converted")
    )
    assert sum(count > 0 for count in one.segmentation.voxel_counts().values()) > 1
    assert tiny.same(one, other)


def test_a_converted_model_can_be_corrected_installed_and_converted_again(weights, tmp_path):
    convert(weights, tmp_path / "one", About(name="mine"))
    card = json.loads((tmp_path / "one" / "card.json").read_text("utf-8"))
    card["labels"]["1"] = "heart"
    (tmp_path / "one" / "card.json").write_text(json.dumps(card), encoding="utf-8")
    convert(tmp_path / "one", tmp_path / "two")
    assert read_card(tmp_path / "two" / "card.json").labels[1].key == "heart"
    install(tmp_path / "two")
    assert list_cards()["mine"].labels[1].key == "heart"
    first, second = (load_file(tmp_path / name / "nactmodel.safetensors") for name in ("one", "two"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_two_weights_of_one_name_stay_two(quick_checkpoint, tmp_path):
    folder = tmp_path / "two"
    shutil.copytree(quick_checkpoint, folder)
    path = next(folder.glob("*.safetensors"))
    card = json.loads((folder / "card.json").read_text("utf-8"))
    torch.save(load_file(path), folder / f"{path.stem}.pt")
    more = {"sha256": sha256_file(folder / f"{path.stem}.pt"), "name": f"{path.stem}.pt", "member": ""}
    card["weights"].append(more | {"size_bytes": (folder / f"{path.stem}.pt").stat().st_size})
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    convert(folder, tmp_path / "converted")
    assert len(set(open_checkpoint(tmp_path / "converted").weights)) == 2


def test_a_folder_with_something_in_it_is_not_written_into(weights, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "note.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "there", tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError):
            convert(weights, folder)
    assert files_in(tmp_path / "there") == ["note.txt"] and (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    convert(weights, tmp_path / "empty")
    assert files_in(tmp_path / "empty") == ["card.json", "nactmodel.safetensors"]


# Verifying


def flip(path, at=0.5):
    raw = bytearray(path.read_bytes())
    raw[int(len(raw) * at)] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "place", ["fold_0.pth", "first-stage/fold_0.pth", "first-stage/card.json", "card.json"]
)
def test_one_flipped_byte_is_noticed_and_its_file_named(place, tmp_path):
    kept = install(tiny.v2_cascade(tmp_path))
    card = list_cards()[kept.card.name]
    size = sum((kept.folder / name).stat().st_size for name in ("fold_0.pth", "first-stage/fold_0.pth"))
    assert verify_installed(card) == size
    flip(kept.folder / place, at=0.0 if place.endswith("json") else 0.5)
    with pytest.raises(CheckpointError) as caught:
        verify_installed(card)
    assert str(kept.folder / place) in str(caught.value)
    assert is_here(card)


def test_a_damaged_sample_is_noticed(quick_checkpoint, empty_home):
    folder = empty_home / "checkpoints" / "quick"
    shutil.copytree(quick_checkpoint, folder)
    (folder / "mouse.tif").write_bytes(b"mouse")
    card = json.loads((folder / "card.json").read_text("utf-8"))
    digest = hashlib.sha256(b"mouse").hexdigest()
    card["samples"] = [{"name": "mouse.tif", "member": "", "sha256": digest, "size_bytes": 5}]
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    verify_installed(list_cards()["quick"])
    (folder / "mouse.tif").write_bytes(b"house")
    with pytest.raises(CheckpointError, match=r"mouse\.tif: expected SHA-256"):
        verify_installed(list_cards()["quick"])


def test_a_missing_file_is_noticed(weights):
    kept = install(weights)
    (kept.folder / "nactmodel.pt").unlink()
    with pytest.raises(CheckpointError, match=r"its file nactmodel\.pt is not on this machine"):
        verify_installed(list_cards()["nactmodel"])
    assert is_here(list_cards()["nactmodel"])


def test_weights_that_do_not_fit_the_network_of_their_card_are_noticed(weights):
    kept = install(weights)
    path, card = kept.folder / "nactmodel.pt", json.loads((kept.folder / "card.json").read_text("utf-8"))
    torch.save(tiny.state_of("aimos", {"features": [4, 8]}), path)
    card["weights"][0] |= {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}
    (kept.folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"nactmodel\.pt: the weights do not fit the architecture 'aimos'"
    ):
        verify_installed(list_cards()["nactmodel"])


def test_bundled_checkpoints_are_verified_too():
    card = list_cards()["phantom-threshold"]
    assert verify_installed(card) == card.weights[0].size_bytes
    assert is_here(card) and not is_here(list_cards()["deepmeta-mouse-mri"])


# Removing


def test_removing_frees_what_it_says_first_stage_and_all(tmp_path, empty_home):
    kept = install(tiny.v2_cascade(tmp_path))
    size = sum((kept.folder / name).stat().st_size for name in files_in(kept.folder))
    assert "first-stage/fold_0.pth" in files_in(kept.folder)
    assert remove(kept.card.name) == size
    assert list((empty_home / "checkpoints").iterdir()) == []
    assert kept.card.name not in list_cards()
    with pytest.raises(CheckpointError, match="unknown checkpoint"):
        open_checkpoint(kept.card.name)
    install(tmp_path, choice=Choice("3d_cascade_fullres"))


def test_what_comes_with_thoraxseg_or_is_not_there_cannot_be_removed(empty_home):
    with pytest.raises(CheckpointError, match="comes with ThoraxSeg"):
        remove("phantom-threshold")
    assert open_checkpoint("phantom-threshold")
    for name in ("nobody", "deepmeta-mouse-mri"):
        with pytest.raises(CheckpointError, match=f"'{name}' is not installed"):
            remove(name)
    (empty_home / "mine").mkdir(parents=True)
    for name in ("../mine", "..", "", "/"):
        with pytest.raises(OptionError):
            remove(name)
    assert (empty_home / "mine").is_dir()


def test_a_checkpoint_with_a_damaged_card_can_be_removed(weights):
    one, two = install(weights, About(name="one")), install(weights, About(name="two"))
    (one.folder / "card.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"one.card\.json: expected a checkpoint card"):
        open_checkpoint("one")
    with pytest.raises(CheckpointError, match="comes with ThoraxSeg"):
        remove("phantom-threshold")
    assert remove("one") > 0
    assert list_cards()["two"] and two.folder.is_dir()


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_removing_does_not_follow_links(weights, tmp_path):
    kept = install(weights)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "data.bin").write_bytes(bytes(10_000))
    (kept.folder / "link").symlink_to(tmp_path / "precious")
    (kept.folder / "file-link").symlink_to(tmp_path / "precious" / "data.bin")
    assert remove("nactmodel") < weights.stat().st_size + 10_000
    assert (tmp_path / "precious" / "data.bin").stat().st_size == 10_000


def test_the_predictor_of_a_removed_checkpoint_still_answers(weights):
    install(weights)
    predictor = load_predictor(open_checkpoint("nactmodel"), Device.CPU)
    remove("nactmodel")
    assert predictor.networks


def test_weights_in_safetensors_are_installed_as_they_are(tmp_path):
    save_file(tiny.state_of("aimos", {"features": [4, 8, 8]}), tmp_path / "a.safetensors")
    kept = install(tmp_path / "a.safetensors")
    assert (kept.folder / "a.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_what_was_assumed_stays_on_the_card_until_a_person_empties_the_list(empty_home, tmp_path):
    torch.save(build_network("unet3plus", {"filters": 2}).state_dict(), tmp_path / "bare.pth")
    told = open_checkpoint(tmp_path / "bare.pth").assumed
    install(tmp_path / "bare.pth")
    convert(tmp_path / "bare.pth", tmp_path / "native")
    assert told and open_checkpoint("bare").assumed == open_checkpoint(tmp_path / "native").assumed == told
    path = tmp_path / "native" / "card.json"
    card = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(card | {"assumed": []}), encoding="utf-8")
    assert open_checkpoint(tmp_path / "native").assumed == ()


def test_renamed_labels_take_the_rules_that_spoke_of_them_away(empty_home, tmp_path):
    torch.save(build_network("unet", {"filters": 2}).state_dict(), tmp_path / "bare.pth")
    before = open_checkpoint(tmp_path / "bare.pth").card
    assert before.tumors is not None and before.postprocess.rules
    after = open_checkpoint(tmp_path / "bare.pth", about=About(labels={1: "heart", 2: "spinal cord"})).card
    assert after.tumors is None and not after.postprocess.rules and after.task == "other"
    same = open_checkpoint(tmp_path / "bare.pth", about=About(labels={1: "lungs"})).card
    assert same.tumors == before.tumors and same.postprocess == before.postprocess


def test_verify_checks_all_and_names_every_wrong_one(empty_home, tmp_path, capsys):
    from thoraxseg.cli import main

    for name in ("first", "second", "third"):
        torch.save(build_network("unet", {"filters": 2}).state_dict(), tmp_path / f"{name}.pth")
        install(tmp_path / f"{name}.pth")
    for name in ("first", "second"):
        path = next((empty_home / "checkpoints" / name).glob("*.pth"))
        path.write_bytes(path.read_bytes() + b"x")
    assert main(["checkpoints", "verify"]) == 4
    told = capsys.readouterr()
    assert "first: WRONG" in told.out and "second: WRONG" in told.out and "third: " in told.out
    assert "2 of 4" in told.err and "remove" in told.err
