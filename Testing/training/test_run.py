"""Runs from a data set to a checkpoint that segments; going on; what is refused, and when."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from Testing.training.tiny_runs import TINY, write_data
from thoraxseg.checkpoints import open_checkpoint
from thoraxseg.checkpoints.weights import read_weights
from thoraxseg.errors import CheckpointError, InputError, OptionError, OutputError
from thoraxseg.io import read_volume
from thoraxseg.options import SegmentOptions
from thoraxseg.pipeline import segment
from thoraxseg.progress import Cancelled
from thoraxseg.training import run
from thoraxseg.training.config import make_config
from thoraxseg.training.source import PatchSource
from thoraxseg.training.trainer import kept_weights, read_state
from thoraxseg.training.validation import Validation
from thoraxseg.volume import Volume, geometry_from_spacing

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ("settings.epochs=2", "settings.steps_per_epoch=2", "settings.validate_every=1")
QUICK = SegmentOptions(device="cpu", uncertainty="none")


@pytest.fixture(scope="module")
def mri(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "mri")


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "ct", modality="CT")


def config_for(system, data, *words, **given):
    values = {"data": str(data), "folds": 2, "device": "cpu", **given}
    return make_config(system, values, (*TINY[system], *SHORT, *words))


@pytest.fixture(scope="module")
def trained(mri, tmp_path_factory):
    """A finished run of DeepMeta: config, folder and what it returned."""
    folder = tmp_path_factory.mktemp("run") / "deepmeta"
    config = config_for("deepmeta", mri)
    return config, folder, run.train(config, folder)


def test_a_run_leaves_a_checkpoint_with_a_filled_card_and_all_its_records(trained):
    _, folder, done = trained
    assert done.card.labels[1].key == "lungs" and done.card.labels[2].key == "tumors"
    assert "Dice" in done.card.validation and "2 cases of 2 animals" in done.card.description
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names >= {
        "config.json",
        "data.json",
        "splits_final.json",
        "summary.json",
        "checkpoint/card.json",
        "checkpoint/fold_0.safetensors",
        "fold_0/best.pt",
        "fold_0/last.pt",
        "fold_0/log.csv",
        "fold_0/result.json",
        "fold_0/learning-curves.png",
    }
    assert list((folder / "fold_0" / "pictures").glob("epoch-*.png"))
    assert json.loads((folder / "config.json").read_text())["seed"] == 0


def test_the_checkpoint_holds_the_best_weights_and_not_the_last(mri, tmp_path, monkeypatch):
    real = Validation.__call__
    falling = {0: 0.9, 1: 0.1}
    monkeypatch.setattr(
        Validation,
        "__call__",
        lambda self, network, epoch: {**real(self, network, epoch), "dice": falling[epoch]},
    )
    done = run.train(config_for("deepmeta", mri), tmp_path)
    best, last = (kept_weights(read_state(tmp_path / "fold_0" / name)) for name in ("best.pt", "last.pt"))
    kept = read_weights(done.checkpoint / "fold_0.safetensors")
    assert all(torch.equal(kept[key], best[key]) for key in best)
    assert not all(torch.equal(kept[key], last[key]) for key in last)
    assert "best epoch 1 of 2" in done.card.validation


def test_the_checkpoint_segments_and_agrees_with_the_validation_that_the_card_tells(trained, mri, tmp_path):
    _, folder, done = trained
    held = json.loads((folder / "fold_0" / "result.json").read_text())["validation"]["cases"][0]
    image = read_volume(mri / "imagesTr" / f"{held['case']}_0000.nrrd")
    options = SegmentOptions(device="cpu", uncertainty="none", postprocess="none")
    found = segment(image, open_checkpoint(done.checkpoint), options)
    truth = read_volume(mri / "labelsTr" / f"{held['case']}.nrrd").array
    mine, theirs = found.segmentation.labels == 1, truth == 1
    dice = 2 * (mine & theirs).sum() / (mine.sum() + theirs.sum())
    # One is on the grid of the file, the other on that of the network (32 x 32 pixels for 24 x 28).
    assert dice == pytest.approx(held["dice"]["lungs"], abs=0.08)


@pytest.mark.parametrize("system", ["monai-unet", "deepmedic", "rrc-unet"])
def test_three_dimensional_systems_end_in_checkpoints_that_segment(system, ct, tmp_path):
    done = run.train(config_for(system, ct, "settings.epochs=1"), tmp_path)
    image, further = read_volume(ct / "imagesTr" / "m0_0000.nrrd"), []
    if system == "rrc-unet":
        labels = read_volume(ct / "labelsTr" / "m0.nrrd")
        further = [Volume((labels.array > 0).astype(np.uint8), labels.ijk_to_ras, "lungs")]
    found = segment(image, open_checkpoint(done.checkpoint), QUICK, channels=further)
    assert found.segmentation.labels.shape == image.shape


def test_the_same_run_twice_is_the_same_to_the_bit_and_a_finished_one_is_not_trained_again(trained, tmp_path):
    config, _folder, done = trained
    other = run.train(config, tmp_path)
    assert other.checkpoint.joinpath("fold_0.safetensors").read_bytes() == (
        done.checkpoint.joinpath("fold_0.safetensors").read_bytes()
    )
    before = (tmp_path / "fold_0" / "last.pt").stat().st_mtime_ns
    assert run.train(config, tmp_path).card == other.card
    assert (tmp_path / "fold_0" / "last.pt").stat().st_mtime_ns == before


def test_a_cancelled_run_goes_on_to_the_same_weights(trained, tmp_path):
    config, _, done = trained

    def stop(fraction, message):
        if "Epoch 2" in message:
            raise Cancelled

    with pytest.raises(Cancelled):
        run.train(config, tmp_path, stop)
    assert not (tmp_path / "checkpoint").exists() and (tmp_path / "fold_0" / "last.pt").exists()
    again = run.train(config, tmp_path)
    mine, theirs = (read_weights(one.checkpoint / "fold_0.safetensors") for one in (again, done))
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_second_fold_joins_the_first_in_one_checkpoint(trained, mri, tmp_path):
    _, folder, _ = trained
    shutil.copytree(folder, tmp_path / "run")
    done = run.train(config_for("deepmeta", mri, fold=1), tmp_path / "run")
    assert [path.name for path in open_checkpoint(done.checkpoint).weights] == [
        "fold_0.safetensors",
        "fold_1.safetensors",
    ]
    assert "4 cases of 4 animals" in done.card.description


def test_progress_rises_and_tells_epochs_losses_and_validation(mri, tmp_path):
    seen = []
    run.train(
        config_for("deepmeta", mri), tmp_path, lambda fraction, message: seen.append((fraction, message))
    )
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    words = " | ".join(message for _, message in seen)
    assert "Epoch 2 of 2" in words and "loss" in words and "best dice" in words and "left" in words
    assert "Validating epoch 1, image 2 of 2" in words


def test_a_folder_of_another_config_is_refused_by_key(trained, mri):
    _, folder, _ = trained
    with pytest.raises(OutputError, match=r"settings\.optimizer\.lr is 0.001 there, 0.5 here"):
        run.train(config_for("deepmeta", mri, "settings.optimizer.lr=0.5"), folder)


def test_a_run_whose_files_changed_meanwhile_is_refused(trained, mri, tmp_path):
    data = shutil.copytree(mri, tmp_path / "data")
    config, folder = config_for("deepmeta", data), tmp_path / "run"
    run.train(config, folder)
    shutil.copy(data / "labelsTr" / "m1.nrrd", data / "labelsTr" / "m2.nrrd")
    with pytest.raises(OutputError, match="m2 changed"):
        run.train(config, folder)


def test_a_run_goes_on_when_its_data_have_moved(trained, mri, tmp_path):
    config, folder, _ = trained
    moved, here = shutil.copytree(folder, tmp_path / "run"), shutil.copytree(mri, tmp_path / "data")
    run.train(replace(config, data=str(here)), moved)
    assert json.loads((moved / "config.json").read_text("utf-8"))["data"] == str(here)


def test_an_animal_that_was_learned_from_never_comes_to_be_held_out(trained, mri, tmp_path):
    config, folder, _ = trained
    moved, here = shutil.copytree(folder, tmp_path / "run"), shutil.copytree(mri, tmp_path / "data")
    told = (here / "animals.csv").read_text("utf-8")
    (here / "animals.csv").write_text(told.replace("mouse 3", "mouse 2"), "utf-8")
    with pytest.raises(OutputError, match=r"other animals or labels: m3 changed"):
        run.train(replace(config, data=str(here)), moved)
    (here / "animals.csv").write_text(told, "utf-8")
    folds = json.loads((folder / "splits_final.json").read_text("utf-8"))
    (here / "splits_final.json").write_text(json.dumps(folds[::-1]), "utf-8")
    with pytest.raises(OutputError, match="other folds"):
        run.train(replace(config, data=str(here)), moved)


def test_two_runs_in_one_folder_are_refused(mri, tmp_path):
    config = config_for("deepmeta", mri)
    tmp_path.joinpath("r").mkdir()
    with run._alone(tmp_path / "r"), pytest.raises(OutputError, match="another training"):
        run.train(config, tmp_path / "r")


def test_learning_that_diverges_ends_with_the_best_weights_and_says_so(mri, tmp_path, monkeypatch):
    real = PatchSource.batch

    def batch(self, step):
        found = real(self, step)
        if step >= 2:
            found.images.fill_(float("inf"))
        return found

    monkeypatch.setattr(PatchSource, "batch", batch)
    done = run.train(config_for("deepmeta", mri), tmp_path)
    assert done.summary["results"][0]["reason"] == "DIVERGED" and "diverged" in done.summary["warnings"][0]
    assert "diverged" in done.card.validation
    assert open_checkpoint(done.checkpoint).card.name == done.card.name


def test_learning_that_diverges_at_once_is_an_error_that_says_what_to_do(mri, tmp_path, monkeypatch):
    real = PatchSource.batch

    def batch(self, step):
        found = real(self, step)
        found.images.fill_(float("nan"))
        return found

    monkeypatch.setattr(PatchSource, "batch", batch)
    with pytest.raises(InputError, match=r"first epoch.*learning rate"):
        run.train(config_for("deepmeta", mri), tmp_path)


def test_a_full_disk_keeps_what_was_saved(mri, tmp_path, monkeypatch):
    from thoraxseg.training import trainer

    config, real, saved = config_for("deepmeta", mri), trainer._replace, []

    def replace(path, data):
        if len(saved) > 3:
            raise OutputError(f"{path}: cannot be written: No space left on device.")
        saved.append(path)
        real(path, data)

    monkeypatch.setattr(trainer, "_replace", replace)
    with pytest.raises(OutputError, match="No space"):
        run.train(config, tmp_path)
    monkeypatch.setattr(trainer, "_replace", real)
    assert read_state(tmp_path / "fold_0" / "last.pt")["epoch"] == 1
    assert run.train(config, tmp_path).card.name == config.name


def test_training_goes_on_from_a_checkpoint_with_its_network_and_its_steps(trained, mri, tmp_path):
    _, _, done = trained
    start = str(done.checkpoint)
    words = (
        "settings.epochs=1",
        "settings.steps_per_epoch=1",
        "settings.optimizer.lr=1e-9",
        "augmentation={}",
    )
    given = {"data": str(mri), "folds": 2, "device": "cpu", "from": start, "name": "tuned"}
    config = make_config(None, given, words, open_checkpoint(start).card)
    assert config.preset == "deepmeta" and config.network["filters"] == 4
    tuned = run.train(config, tmp_path)
    mine, theirs = (read_weights(one / "fold_0.safetensors") for one in (tuned.checkpoint, done.checkpoint))
    learned = [key for key in theirs if "running" not in key and "num_batches" not in key]
    assert all(torch.allclose(mine[key], theirs[key], atol=1e-6) for key in learned)
    assert (
        f"Began with the weights of {done.card.name}" in tuned.card.description
        and "may have seen" in tuned.card.validation
    )


def test_a_checkpoint_that_does_not_fit_is_refused_by_what_differs(trained, mri, ct, tmp_path):
    _, _, done = trained
    start = {"from": str(done.checkpoint)}
    with pytest.raises(CheckpointError, match="is a deepmeta, this run trains a unet"):
        run.plan_run(config_for("unet", mri, **start))
    with pytest.raises(CheckpointError, match="filters is 4 there, 8 here"):
        run.plan_run(config_for("deepmeta", mri, "network.filters=8", **start))
    merged = {"label_map": {"lungs": ["lungs", "tumors"]}, **start}
    with pytest.raises(CheckpointError, match=r"2 = tumors.*--reset-head"):
        run.plan_run(config_for("deepmeta", mri, **merged))
    two = shutil.copytree(mri, tmp_path / "two")
    about = json.loads((two / "dataset.json").read_text())
    about["channel_names"] = {"0": "MRI", "1": "more"}
    (two / "dataset.json").write_text(json.dumps(about))
    for path in (two / "imagesTr").glob("*_0000.nrrd"):
        shutil.copy(path, str(path).replace("_0000", "_0001"))
    with pytest.raises(CheckpointError, match=r"takes 1 channel\(s\) \(MRI\), the data set gives 2"):
        run.plan_run(config_for("deepmeta", two, **start))


def test_a_new_head_learns_other_structures_and_keeps_the_rest(trained, mri, tmp_path):
    _, _, done = trained
    values = {"from": str(done.checkpoint), "reset_head": True, "label_map": {"lungs": ["lungs", "tumors"]}}
    made = run.train(config_for("deepmeta", mri, "settings.optimizer.lr=1e-9", **values), tmp_path)
    anew = json.loads((tmp_path / "fold_0" / "result.json").read_text())["begun_anew"]
    mine, theirs = (read_weights(one / "fold_0.safetensors") for one in (made.checkpoint, done.checkpoint))
    assert 0 < len(anew) < 5 and made.card.architecture.parameters["classes"] == 2
    kept = [key for key in theirs if key not in anew and "running" not in key and "num_batches" not in key]
    assert all(torch.allclose(mine[key], theirs[key], atol=1e-6) for key in kept)


def test_nnunet_is_handed_the_data_the_folds_and_its_settings(mri, tmp_path, monkeypatch, trained):
    from thoraxseg.training import nnunet
    from thoraxseg.training.nnunet.finish import Validation as Measured

    asked = {}

    def train_nnunet(data, output, configurations, folds, epochs, device, options, splits, about, progress):
        asked.update(locals())
        measured = Measured({"lungs": 0.5, "tumors": float("nan")}, 2)
        model = shutil.copytree(trained[2].checkpoint, output / "checkpoints" / "2d").absolute()
        return (nnunet.Trained("2d", ("1",), tmp_path, model, measured),)

    monkeypatch.setattr(nnunet, "train_nnunet", train_nnunet)
    words = ("settings.planner=residual-m", 'settings.changes={"iterations": 7}')
    given = {"data": str(mri), "folds": 2, "fold": 1, "device": "cpu", "seed": 5, "name": "mine"}
    config = make_config("nnunet-2d", given, (*words, "settings.epochs=3"))
    plan = run.plan_run(config).to_record()
    assert plan["settings"]["epochs"] == 3 and "network" not in plan
    done = run.train(config, tmp_path / "run")
    assert asked["configurations"] == ("2d",) and asked["folds"] == [1] and asked["epochs"] == 3
    assert asked["options"].planner == "residual-m" and asked["options"].changes == {"iterations": 7}
    assert asked["options"].seed == 5 and asked["about"].name == "mine"
    animals = asked["data"].animals
    for fold in asked["splits"]:
        assert not {animals[n] for n in fold.training} & {animals[n] for n in fold.validation}
    assert done.summary["results"]["1"]["validation"]["structures"] == {"lungs": 0.5, "tumors": None}
    assert done.summary["checkpoint"] == "checkpoints/2d"


def test_a_plan_tells_what_would_be_done_and_writes_nothing(mri, tmp_path):
    plan = run.plan_run(config_for("monai-unet", mri)).to_record()
    assert plan["cases"] == 4 and plan["animals"] == 4 and plan["parameters"] > 100
    assert plan["folds"][0]["held_out_animals"] and len(plan["folds"]) == 1
    assert any("median spacing" in note for note in plan["notes"])
    assert plan["preprocess"][0]["name"] == "resample"


def test_wrong_options_are_told_before_anything_is_trained(mri):
    for words, told in (
        ("settings.loss.name=mse", "loss"),
        ("settings.loss.beta=1", "beta"),
        ("sampling.sampler=magic", "sampler"),
        ("sampling.colour=1", "unknown colour; known are sampler"),
        ("sampling.patch_size=[1,33,33]", "sampling.patch_size: the network cannot take 33 x 33"),
        ("preprocess.0.size_px=[30,30]", "preprocess: the network cannot take 30 x 30"),
        ("settings.optimizer.lr=-1", "lr"),
        ("settings.schedule.name=slow", "slow"),
        ("augmentation.warp={}", "warp"),
        ("settings.momentum=1", "momentum"),
        ("network.layers=3", "layers"),
    ):
        with pytest.raises((OptionError, CheckpointError), match=told):
            run.plan_run(config_for("deepmeta", mri, words))


def test_one_broken_case_is_named_skipped_on_request_and_counted(mri, tmp_path):
    data = shutil.copytree(mri, tmp_path / "data")
    (data / "imagesTr" / "m3_0000.nrrd").write_bytes(b"NRRD0004\n")
    with pytest.raises(InputError, match=r"m3.*--skip-broken"):
        run.plan_run(config_for("deepmeta", data))
    plan = run.plan_run(config_for("deepmeta", data, skip_broken=True)).to_record()
    assert plan["cases"] == 3 and any("m3" in note for note in plan["notes"])


def test_an_empty_class_and_an_animal_in_two_folds_are_refused(mri, tmp_path):
    from thoraxseg.io import write_scalar_nrrd

    data = shutil.copytree(mri, tmp_path / "data")
    for path in (data / "labelsTr").iterdir():
        volume = read_volume(path)
        write_scalar_nrrd(path, np.minimum(volume.array, 1).astype(np.uint8), volume.ijk_to_ras, {})
    with pytest.raises(InputError, match="Tumors has none"):
        run.plan_run(config_for("deepmeta", data))
    rows = [f"m{n},{mri}/imagesTr/m{n}_0000.nrrd,{mri}/labelsTr/m{n}.nrrd,same,{n % 2}" for n in range(4)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["case,image,label,animal,fold", *rows]) + "\n")
    with pytest.raises(InputError, match="two folds"):
        run.plan_run(config_for("deepmeta", table, labels={"1": "lungs", "2": "tumors"}))


def test_class_weights_of_more_classes_than_the_paper_has_come_from_the_data():
    rows = [
        {"case": "a", "shape_kji": [2, 5, 10], "voxels_lungs": 30, "voxels_tumors": 10, "voxels_heart": 20}
    ]
    from Testing.training.test_presets import data_set
    from thoraxseg.training.data import Fold
    from thoraxseg.training.finish import new_card

    config = make_config("unet", {"data": "x"}, TINY["unet"])
    card = new_card(config, data_set(("lungs", "tumors", "heart")), (1, 1, 1))
    settings = run._settings(config, card, rows, Fold(("a",), ("b",)), 0, 7)
    assert settings.loss["class_counts"] == [40, 30, 10, 20]
    assert settings.steps_per_epoch == 7 and settings.precision == "float32"
    weights = run._sampling(config, card, settings).border_weights["class_weights"]
    assert weights == pytest.approx([100 / 160, 100 / 120, 100 / 40, 100 / 80])


def test_one_step_follows_all_patients_where_the_source_trains_so():
    from Testing.training.test_presets import data_set
    from thoraxseg.training.data import Fold
    from thoraxseg.training.finish import new_card

    config = make_config("rrc-unet", {"data": "x"})
    fold = Fold(tuple("abcdefg"), ("x",))
    settings = run._settings(config, new_card(config, data_set(), (1, 1, 1)), [], fold, 0, 7)
    assert (settings.accumulate, settings.steps_per_epoch) == (7, 1)


def test_patches_are_made_on_several_cores_only_where_a_gpu_learns(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(run.os, "cpu_count", lambda: 16)
    assert run._threads("auto") == run._threads("cuda") == 8
    assert run._threads("cpu") == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run._threads("auto") == 0


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("orientation", ["RAS", "RIA", "SLP", "jik", "ijk"])
def test_the_spacing_of_a_checked_case_is_that_of_its_image_on_the_networks_axes(codes, orientation, a_card):
    volume = Volume(np.zeros((2, 3, 4)), geometry_from_spacing((0.5, 0.2, 0.3), codes))
    row = {"axis_codes": volume.axis_codes, "spacing_mm_kji": list(volume.spacing_mm)}
    wanted = a_card({"input.orientation": orientation}).input.codes_for(codes)
    assert run._spacing_as(orientation, row) == pytest.approx(volume.reoriented(wanted).spacing_mm)
