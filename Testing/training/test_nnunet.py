"""What surrounds a training of nnU-Net: what is asked of it, its files, its process, its end; nothing learns here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import SimpleITK

from Testing.training import tiny_data
from Testing.training.nnunet_mice import fast, mice, mouse
from thoraxseg.errors import CheckpointError, DependencyError, InputError, OptionError, ThoraxSegError
from thoraxseg.io import read_volume
from thoraxseg.progress import silent
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.data import Fold
from thoraxseg.training.nnunet import (
    CONFIGURATIONS,
    RECIPES,
    NnunetOptions,
    Recipe,
    child,
    plans,
    run,
    train_nnunet,
)
from thoraxseg.training.nnunet.finish import _measured, read_validation
from thoraxseg.training.nnunet.process import run_child
from thoraxseg.training.nnunet.raw import side_axis, write_raw
from thoraxseg.training.nnunet.steps import Step, marker, shares, steps_for

needs_nnunet = pytest.mark.skipif(
    not run.importlib.util.find_spec("nnunetv2"), reason="nnU-Net is not installed"
)


class Reached(Exception):
    """The work came to where nnU-Net would begin."""


@pytest.fixture
def asked(monkeypatch):
    """Train up to the point where nnU-Net's process would start; returns its task and its environment."""
    pytest.importorskip("nnunetv2")
    seen = []

    def stand_in(task, folder, log, variables, hear):
        seen[:] = [task, variables]
        raise Reached

    monkeypatch.setattr(run, "run_child", stand_in)

    def ask(*arguments, **words):
        with pytest.raises(Reached):
            train_nnunet(*arguments, **{"options": fast(), "device": "cpu"} | words)
        return seen

    return ask


def names(task) -> list[str]:
    return [Step(one["do"], one["configuration"], tuple(one["folds"])).name for one in task["steps"]]


# What is asked for


def test_the_recipes_have_the_numbers_of_the_papers():
    flat, deep = (RECIPES["kaniewski"][name] for name in ("2d", "3d_fullres"))
    assert (flat.initial_lr, flat.epochs, flat.batch_size, flat.patch_size) == (0.01, 250, 199, (128, 128))
    assert (deep.initial_lr, deep.epochs, deep.batch_size, deep.patch_size) == (0.001, 500, 2, (128,) * 3)
    assert {recipe.epochs for recipe in RECIPES["malimban"].values()} == {1000}
    assert RECIPES["malimban"]["2d"].max_features == 480


def test_epochs_go_before_changes_and_changes_before_the_recipe():
    options = NnunetOptions(recipe="kaniewski", changes={"epochs": 7, "initial_lr": 0.5})
    assert options.recipe_for("2d").epochs == 7
    found = options.recipe_for("2d", epochs=3)
    assert (found.epochs, found.initial_lr, found.batch_size) == (3, 0.5, 199)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"recipe": "nobody"}, "known are nnunet, malimban, kaniewski"),
        ({"planner": "best"}, "known are standard"),
        ({"changes": {"lr": 1}}, "unknown lr; known are epochs"),
        ({"lowres_factor": 0.5}, "lowres_factor: expected 1.1 to 8"),
        ({"seed": -1}, "seed"),
        ({"processes": 0}, "processes: expected 1 or more"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_that_cannot_be_used_is_refused_by_name(words, said):
    with pytest.raises(OptionError, match=said):
        NnunetOptions(**words)


@pytest.mark.parametrize(
    "words", [{"epochs": 0}, {"initial_lr": -1.0}, {"batch_size": 2.0}, {"patch_size": (8,)}]
)
def test_a_number_of_a_recipe_that_cannot_be_used_is_refused_by_name(words):
    with pytest.raises(OptionError, match=next(iter(words))):
        Recipe(**words)


def test_a_patch_of_two_numbers_is_refused_in_3d():
    with pytest.raises(OptionError, match="3d_fullres takes 3"):
        NnunetOptions(changes={"patch_size": [64, 64]}).recipe_for("3d_fullres")


def test_a_configuration_that_the_paper_did_not_train_is_refused_with_those_it_did():
    with pytest.raises(OptionError, match="is for 2d and 3d_fullres"):
        NnunetOptions(recipe="kaniewski").recipe_for("3d_lowres")


def test_nnunet_1_is_for_reading_only_and_a_request_to_train_it_says_so(tmp_path):
    with pytest.raises(OptionError, match="version 1, whose models ThoraxSeg runs but cannot train"):
        train_nnunet(mice(tmp_path / "mice"), tmp_path / "out", ["nnunet-v1"])


def test_without_nnunetv2_the_error_says_how_to_install_it_and_keeps_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r'pip install "thoraxseg\[nnunet\]" "torch=='):
        train_nnunet(mice(tmp_path / "mice"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Steps


def test_a_cascade_trains_its_first_stage_on_all_folds_before_and_prepares_fine_images_first():
    found = [step.name for step in steps_for(["3d_cascade_fullres"], ["0"], ["0", "1", "2"], False)]
    assert found == [
        "plan",
        "adapt_3d_lowres",
        "adapt_3d_cascade_fullres",
        "preprocess_3d_lowres",
        "preprocess_3d_fullres",
        *(f"train_3d_lowres_{fold}" for fold in range(3)),
        "train_3d_cascade_fullres_0",
    ]


def test_a_cascade_of_fold_all_needs_that_fold_of_its_first_stage_only():
    found = [step.name for step in steps_for(["3d_cascade_fullres"], ["all"], [], True)]
    assert found[-2:] == ["train_3d_lowres_all", "train_3d_cascade_fullres_all"]


def test_the_clean_up_is_looked_for_after_the_folds_it_is_of():
    assert [step.name for step in steps_for(["2d"], ["0", "1"], ["0", "1"], True)][-2:] == [
        "train_2d_1",
        "clean-up_2d_0_1",
    ]


def test_the_shares_of_the_time_are_those_of_the_epochs_and_sum_to_one():
    steps = steps_for(["2d", "3d_fullres"], ["0"], ["0"], False)
    found = shares(steps, {"2d": Recipe(epochs=10), "3d_fullres": Recipe(epochs=30)})
    assert sum(found) == pytest.approx(1)
    assert found[-1] == pytest.approx(3 * found[-2])


# Folds


@needs_nnunet
@pytest.mark.parametrize("training", [("m0", "m2", "m3"), ("m0", "m3")])
def test_an_animal_on_both_sides_of_a_fold_is_refused_by_name(training, tmp_path):
    data = mice(tmp_path / "mice")  # m0 and m1 are scans of one animal
    with pytest.raises(InputError, match=r"animal\(s\) both to train and to validate on: a "):
        train_nnunet(data, tmp_path / "out", splits=[Fold(training, ("m1",))])
    assert not (tmp_path / "out").exists()


def test_folds_are_by_animal_and_written_where_nnunet_reads_them(tmp_path, asked):
    task, _ = asked(mice(tmp_path / "mice"), tmp_path / "out", ["2d"])
    found = tmp_path / "out" / "nnunet" / "preprocessed" / "Dataset001_Tiny_mice" / "splits_final.json"
    sides = [{frozenset(one["train"]), frozenset(one["val"])} for one in json.loads(found.read_text("utf-8"))]
    assert sides == [{frozenset({"m0", "m1"}), frozenset({"m2", "m3"})}] * 2
    assert names(task)[-2:] == ["train_2d_0", "train_2d_1"]


def test_there_are_no_more_folds_than_animals(tmp_path, asked):
    task, _ = asked(mice(tmp_path / "mice", "abc"), tmp_path / "out", ["2d"], options=fast(number_of_folds=5))
    assert names(task)[-1] == "train_2d_2"


@needs_nnunet
def test_a_fold_that_the_split_does_not_have_is_refused(tmp_path):
    # nnU-Net itself would draw a random split then, in which an animal can be on both sides.
    with pytest.raises(OptionError, match="fold 4 does not exist: the split has 2 folds"):
        train_nnunet(mice(tmp_path / "mice"), tmp_path / "out", folds=[0, 4], options=fast())


@needs_nnunet
def test_one_animal_can_only_be_trained_on_whole(tmp_path):
    with pytest.raises(OptionError, match="one animal only"):
        train_nnunet(mice(tmp_path / "mice", "aa"), tmp_path / "out")


def test_fold_all_needs_no_split(tmp_path, asked):
    task, _ = asked(mice(tmp_path / "mice", "aa"), tmp_path / "out", ["2d"], folds="all")
    assert names(task)[-1] == "train_2d_all"


@needs_nnunet
@pytest.mark.parametrize("folds", [[0, "all"], ["first"], [0, 0], []], ids=str)
def test_folds_that_are_none_are_refused(folds, tmp_path):
    with pytest.raises(OptionError, match="folds: expected different numbers"):
        train_nnunet(mice(tmp_path / "mice"), tmp_path / "out", folds=folds)


@needs_nnunet
def test_a_cascade_is_refused_where_a_case_is_left_out_by_no_fold(tmp_path):
    data = mice(tmp_path / "mice")
    data = replace(data, cases=tuple(replace(c, fold="0" if c.animal == "a" else None) for c in data.cases))
    with pytest.raises(InputError, match=r"2 case\(s\) are left out by no fold"):
        train_nnunet(data, tmp_path / "out", ["3d_cascade_fullres"], options=fast())


def test_cases_without_contours_are_left_out(tmp_path, asked):
    data = mice(tmp_path / "mice")
    data = replace(data, cases=tuple(replace(c, label=None) if c.id == "m3" else c for c in data.cases))
    asked(data, tmp_path / "out", ["2d"])
    there = sorted(path.name for path in (tmp_path / "out").rglob("labelsTr/*"))
    assert there == ["m0.nii.gz", "m1.nii.gz", "m2.nii.gz"]


# The raw folder


def test_all_cases_have_the_axes_of_the_first_and_stay_where_they_are(tmp_path):
    folder = tmp_path / "raw"
    assert write_raw(mice(tmp_path / "mice"), folder, silent) == "LPS"
    for number in range(2):  # the second is stored along RAS
        image, labels = mouse(number)
        stored = SimpleITK.ReadImage(str(folder / "imagesTr" / f"m{number}_0000.nii.gz"))
        assert np.array_equal(SimpleITK.GetArrayFromImage(stored), image)
        assert np.allclose(stored.GetSpacing(), 0.5) and np.allclose(stored.GetDirection(), np.eye(3).ravel())
        contours = SimpleITK.ReadImage(str(folder / "labelsTr" / f"m{number}.nii.gz"))
        assert np.array_equal(SimpleITK.GetArrayFromImage(contours), labels)


def test_nnunet_is_told_channels_labels_and_the_label_that_counts_nowhere(tmp_path):
    data = mice(tmp_path / "mice")
    _, labels = mouse(0)
    labels[0] = IGNORE
    tiny_data.write(data.cases[0].label, labels, read_volume(data.cases[0].images[0]).ijk_to_ras)
    data = replace(data, source=replace(data.table, values={**data.table.values, IGNORE: IGNORE}))
    write_raw(data, tmp_path / "raw", silent)
    about = json.loads((tmp_path / "raw" / "dataset.json").read_text("utf-8"))
    assert about["labels"] == {"background": 0, "right_lung": 1, "left_lung": 2, "ignore": 3}
    assert (about["channel_names"], about["numTraining"], about["file_ending"]) == ({"0": "CT"}, 4, ".nii.gz")
    stored = SimpleITK.ReadImage(str(tmp_path / "raw" / "labelsTr" / "m0.nii.gz"))
    assert set(np.unique(SimpleITK.GetArrayFromImage(stored)[0])) == {3}


def test_what_is_written_whole_is_not_written_again(tmp_path):
    data, folder = mice(tmp_path / "mice"), tmp_path / "raw"
    write_raw(data, folder, silent)
    data.cases[0].images[0].unlink()
    assert write_raw(data, folder, silent) == "LPS"
    (folder / "dataset.json").unlink()  # it comes last: without it the folder is not whole
    with pytest.raises(InputError, match="m0"):
        write_raw(data, folder, silent)


def test_names_that_differ_in_capitals_only_are_refused(tmp_path):
    data = mice(tmp_path / "mice")
    data = replace(data, cases=(*data.cases, replace(data.cases[0], id="M0")))
    with pytest.raises(InputError, match="m0, M0"):
        write_raw(data, tmp_path / "raw", silent)


@pytest.mark.parametrize(("axes", "axis"), [("LPS", 2), ("PRS", 1), ("SAR", 0)])
def test_the_axis_from_side_to_side_is_known(axes, axis):
    assert side_axis(axes) == axis


# Plans


def a_plan(patch=(32, 32, 32), spacing=(0.5, 0.5, 0.5)) -> dict:
    kwargs = {
        "n_stages": 3,
        "features_per_stage": [32, 64, 128],
        "kernel_sizes": [[3] * len(patch)] * 3,
        "strides": [[1] * len(patch), [2] * len(patch), [2] * len(patch)],
        "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
    }
    return {
        "batch_size": 2,
        "patch_size": list(patch),
        "spacing": list(spacing),
        "architecture": {"arch_kwargs": kwargs},
        "batch_dice": False,
    }


def test_nothing_of_a_plan_is_changed_that_the_recipe_does_not_name():
    before = {"configurations": {"2d": a_plan((32, 32), (0.5, 0.5)), "3d_fullres": a_plan()}}
    assert plans.adapted(before, "3d_fullres", Recipe(epochs=5, initial_lr=0.1)) == before
    after = plans.adapted(before, "3d_fullres", Recipe(batch_size=5))
    assert after["configurations"]["3d_fullres"] == a_plan() | {"batch_size": 5}
    assert after["configurations"]["2d"] == before["configurations"]["2d"]


@needs_nnunet
def test_a_network_gets_the_levels_of_its_patch():
    changed = plans.adapted(
        {"configurations": {"3d_fullres": a_plan()}}, "3d_fullres", Recipe(patch_size=(128,) * 3)
    )
    config = changed["configurations"]["3d_fullres"]
    kwargs = config["architecture"]["arch_kwargs"]
    assert config["patch_size"] == [128, 128, 128]
    assert kwargs["n_stages"] == 6 and kwargs["strides"] == [[1] * 3] + [[2] * 3] * 5  # down to 4 voxels
    assert kwargs["features_per_stage"] == [32, 64, 128, 256, 320, 320]
    assert [len(kwargs[key]) for key in ("kernel_sizes", "n_conv_per_stage", "n_conv_per_stage_decoder")] == [
        6,
        6,
        5,
    ]


@needs_nnunet
def test_a_patch_that_cannot_be_halved_is_refused_with_the_next_that_can():
    with pytest.raises(OptionError, match=r"patch_size \[100, 100, 100\].* \[112, 112, 112\]"):
        plans.adapted(
            {"configurations": {"3d_fullres": a_plan()}}, "3d_fullres", Recipe(patch_size=(100,) * 3)
        )


def test_features_are_doubled_up_to_the_limit():
    before = {"configurations": {"2d": a_plan((32, 32), (0.5, 0.5))}}
    found = plans.adapted(before, "2d", Recipe(base_features=8, max_features=20))["configurations"]["2d"]
    assert found["architecture"]["arch_kwargs"]["features_per_stage"] == [8, 16, 20]


def test_a_first_stage_that_nnunet_does_not_plan_is_explained_and_can_be_had():
    before = {"configurations": {"2d": a_plan((32, 32), (0.5, 0.5)), "3d_fullres": a_plan()}}
    with pytest.raises(OptionError, match=r"planned 2d, 3d_fullres .*lowres_factor such as 1.36"):
        plans.adapted(before, "3d_lowres", Recipe())
    forced = plans.with_lowres(before, a_plan(spacing=(0.7, 0.7, 0.7)))
    low = plans.adapted(forced, "3d_lowres", Recipe())["configurations"]["3d_lowres"]
    assert low["spacing"] == [0.7] * 3 and low["next_stage"] == "3d_cascade_fullres"
    cascade = plans.adapted(forced, "3d_cascade_fullres", Recipe())["configurations"]["3d_cascade_fullres"]
    assert cascade["previous_stage"] == "3d_lowres" and cascade["batch_dice"]
    assert cascade["spacing"] == [0.5] * 3 and cascade["patch_size"] == [32] * 3


# The run's folder


def test_only_the_child_gets_nnunets_variables_and_they_point_into_the_run(tmp_path, asked, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "elsewhere")
    _, variables = asked(mice(tmp_path / "mice"), tmp_path / "out", ["2d"])
    for name in ("raw", "preprocessed", "results"):
        assert variables[f"nnUNet_{name}"] == str(tmp_path / "out" / "nnunet" / name)
    assert (variables["nnUNet_compile"], variables["nnUNet_wandb_enabled"]) == ("f", "0")
    assert os.environ["nnUNet_raw"] == "elsewhere"  # noqa: SIM112 - nnU-Net's own name
    assert "nnUNet_results" not in os.environ


def test_on_a_cpu_batches_are_made_in_the_one_process_so_that_a_resumed_run_is_the_same(tmp_path, asked):
    task, variables = asked(mice(tmp_path / "mice"), tmp_path / "out", ["2d"], options=fast(processes=None))
    assert task["augmenters"] == 0 and variables["nnUNet_n_proc_DA"] == "0"
    assert 1 <= task["processes"] <= 4


def test_steps_that_are_done_are_not_done_again(tmp_path, asked):
    data, out = mice(tmp_path / "mice"), tmp_path / "out"
    task, _ = asked(data, out, ["2d"])
    for name in names(task)[:-1]:
        marker(out / "nnunet", Step(name)).parent.mkdir(exist_ok=True)
        marker(out / "nnunet", Step(name)).touch()
    task, _ = asked(data, out, ["2d"])
    assert names(task) == ["train_2d_1"]


def test_further_folds_and_configurations_go_into_the_same_folder(tmp_path, asked):
    data, out = mice(tmp_path / "mice"), tmp_path / "out"
    asked(data, out, ["2d"], folds=[0])
    task, _ = asked(data, out, ["3d_fullres"], folds=[1], epochs=3)
    assert names(task)[-1] == "train_3d_fullres_1"
    asked(data, out, ["2d"], folds="all")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"epochs": 5}, "recipe of 2d"),
        ({"options": fast(seed=1)}, "seed"),
        ({"options": fast(planner="residual-m")}, "planner"),
        ({"splits": [Fold(("m0", "m1"), ("m2", "m3"))]}, "folds"),
    ],
    ids=["epochs", "seed", "planner", "folds"],
)
def test_another_run_in_the_same_folder_is_refused_by_what_differs(words, said, tmp_path, asked):
    data, out = mice(tmp_path / "mice"), tmp_path / "out"
    asked(data, out, ["2d"], epochs=4)
    with pytest.raises(OptionError, match=f"started with another .*{said}"):
        train_nnunet(data, out, ["2d"], **{"epochs": 4, "options": fast(), "device": "cpu"} | words)


def test_changed_images_in_the_same_folder_are_refused(tmp_path, asked):
    data, out = mice(tmp_path / "mice"), tmp_path / "out"
    asked(data, out, ["2d"])
    os.utime(data.cases[2].label, (0, 0))
    with pytest.raises(OptionError, match="another cases"):
        train_nnunet(data, out, ["2d"], options=fast(), device="cpu")


# The child process


def a_task(folder: Path, *steps: Step, **words) -> dict:
    folder.mkdir(exist_ok=True)
    return {
        "output": str(folder),
        "folder": str(folder),
        "log": str(folder / "log.txt"),
        "dataset": "Dataset001_Mice",
        "steps": [step.to_record() for step in steps],
        "recipes": {name: Recipe().to_record() for name in CONFIGURATIONS},
        "processes": 1,
        "augmenters": 0,
        "lowres_factor": None,
    } | words


def start(folder: Path, *steps: Step, hear=lambda message: None) -> None:
    run_child(a_task(folder, *steps), folder, folder / "log.txt", {}, hear)


def test_a_step_that_fails_ends_with_one_sentence_and_the_place_of_the_log(tmp_path):
    heard = []
    with pytest.raises(ThoraxSegError) as caught:
        start(tmp_path, Step("adapt", "2d"), hear=heard.append)
    said = str(caught.value)
    assert (
        "changing the plan of 2d" in said
        and "FileNotFoundError" in said
        and str(tmp_path / "log.txt") in said
    )
    assert "\n" not in said
    assert "Traceback" in (tmp_path / "log.txt").read_text("utf-8")
    assert {"say": "step", "name": "adapt_2d"} in heard


def test_our_own_errors_come_back_as_what_they_are(tmp_path):
    place = tmp_path / "preprocessed" / "Dataset001_Mice"
    place.mkdir(parents=True)
    (place / "nnUNetPlans.json").write_text(json.dumps({"configurations": {"2d": a_plan((32, 32))}}), "utf-8")
    with pytest.raises(OptionError, match="planned 2d for this data set, not 3d_fullres"):
        start(tmp_path, Step("adapt", "3d_fullres"))
    assert not marker(tmp_path, Step("adapt", "3d_fullres")).exists()


def test_a_step_that_is_done_leaves_its_marker_and_its_plan(tmp_path):
    place = tmp_path / "preprocessed" / "Dataset001_Mice"
    place.mkdir(parents=True)
    (place / "nnUNetPlans.json").write_text(json.dumps({"configurations": {"2d": a_plan((32, 32))}}), "utf-8")
    recipes = {"2d": Recipe(batch_size=7).to_record()}
    task = a_task(tmp_path, Step("adapt", "2d"), recipes=recipes)
    run_child(task, tmp_path, tmp_path / "log.txt", {}, lambda message: None)
    assert marker(tmp_path, Step("adapt", "2d")).exists()
    assert (
        json.loads((place / "nnUNetPlans.json").read_text("utf-8"))["configurations"]["2d"]["batch_size"] == 7
    )


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
def test_a_process_that_is_killed_is_one_sentence_with_the_place_of_the_log(tmp_path):
    def kill(message):
        for one in psutil.Process().children():
            if one.status() != psutil.STATUS_ZOMBIE and "thoraxseg.training.nnunet.child" in one.cmdline():
                one.send_signal(signal.SIGKILL)

    with pytest.raises(ThoraxSegError, match=r"ended by signal 9 \(SIGKILL\).*memory.*log.txt"):
        start(tmp_path, Step("plan"), hear=kill)


class Stop(Exception):
    pass


class _Runs:
    """What a pickle of somebody else's may do."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


@needs_nnunet
def test_a_checkpoint_that_would_run_code_is_refused_before_nnunet_loads_it(tmp_path):
    torch = pytest.importorskip("torch")
    bad, touched = tmp_path / "checkpoint_latest.pth", tmp_path / "touched"
    torch.save({"network_weights": {"a": torch.zeros(1)}, "init_args": {}, "logging": _Runs(touched)}, bad)
    work = SimpleNamespace(task={"output": str(tmp_path)})
    kind = child._trainer_class(work, "2d_fold_0", [])
    trainer = kind.__new__(kind)
    trainer.was_initialized, trainer.device = True, torch.device("cpu")
    with pytest.raises(CheckpointError, match=r"checkpoint_latest\.pth: .*Nothing was run"):
        trainer.load_checkpoint(str(bad))
    assert not touched.exists()


@needs_nnunet
def test_cancelling_ends_the_process_and_all_that_it_started(tmp_path):
    seen, others = [], psutil.Process().children(recursive=True)  # of tests before this one

    def cancel(message):
        if message is not None:
            seen.extend(one for one in psutil.Process().children(recursive=True) if one not in others)
            raise Stop

    with pytest.raises(Stop):
        start(tmp_path, Step("plan"), hear=cancel)
    assert seen and not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in seen)


@needs_nnunet
@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
def test_the_process_ends_when_the_one_that_started_it_is_killed(tmp_path):
    (tmp_path / "task").write_text(json.dumps(a_task(tmp_path, Step("preprocess", "2d"))), "utf-8")
    code = (
        "import json, sys; from pathlib import Path; from thoraxseg.training.nnunet.process import run_child\n"
        "import psutil\n"
        "def hear(message):\n"
        "    if message: print(psutil.Process().children()[0].pid, flush=True)\n"
        "folder = Path(sys.argv[1])\n"
        "run_child(json.loads((folder / 'task').read_text()), folder, folder / 'log.txt', {}, hear)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        assert worker.is_running()
        parent.kill()
        parent.wait()
    psutil.wait_procs([worker], timeout=10)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


# Progress and log


def test_progress_never_falls_names_the_step_and_tells_the_time_that_is_left(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    steps = steps_for(["2d"], ["0", "1"], ["0", "1"], False)
    told = []
    follow = run._Follow(
        steps, steps[3:], {"2d": Recipe()}, lambda fraction, message: told.append((fraction, message))
    )
    for message in (
        None,
        {"say": "step", "name": "train_2d_0"},
        {"say": "progress", "fraction": 0.25, "message": "epoch 250 of 1000"},
        {"say": "progress", "fraction": 0.5, "message": "epoch 500 of 1000"},
        {"say": "step", "name": "train_2d_1"},
        None,
    ):
        follow(message)
        clock[0] += 3600
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions) and 0 < fractions[0] < 0.1 and fractions[-1] < 1
    assert told[0][1] == "Starting nnU-Net"
    assert told[2][1] == "2d, fold 0: epoch 250 of 1000"
    # A quarter of a fold takes an hour; a half and another fold are left.
    assert re.fullmatch(r"2d, fold 0: epoch 500 of 1000, 6 h 0\d min left", told[3][1])


def test_the_log_has_a_row_an_epoch_and_empty_cells_for_what_is_no_number():
    logged = {
        "lrs": [0.01, 0.005],
        "train_losses": [np.float32(0.5), 0.4],
        "val_losses": [0.6, 0.5],
        "dice_per_class_or_region": [[np.float64(0.1), float("nan")], [0.2, 0.3]],
        "epoch_start_timestamps": [100.0, 110.0],
        "epoch_end_timestamps": [109.5, 120.0],
    }
    first, second = child._rows(logged, ["right_lung", "left_lung", "ignore"])
    assert [*first] == [
        "epoch",
        "lr",
        "train_loss",
        "val_loss",
        "val_dice_right_lung",
        "val_dice_left_lung",
        "seconds",
    ]
    assert first["val_dice_right_lung"] == 0.1 and first["val_dice_left_lung"] is None
    assert (second["epoch"], second["train_loss"], second["seconds"]) == (1, 0.4, 10.0)


# The end


def summaries(model: Path, *folds: list[tuple[float, float]]) -> None:
    for number, cases in enumerate(folds):
        place = model / f"fold_{number}" / "validation"
        place.mkdir(parents=True)
        per_case = [{"metrics": {"1": {"Dice": one}, "2": {"Dice": other}}} for one, other in cases]
        (place / "summary.json").write_text(json.dumps({"metric_per_case": per_case}), encoding="utf-8")


def test_dice_is_the_mean_of_all_cases_not_of_the_folds_and_missing_ones_are_left_out(tmp_path):
    summaries(tmp_path, [(0.9, 0.8)], [(0.6, 0.5), (0.6, float("nan")), (0.5, 0.5)])
    found = read_validation(tmp_path, ("0", "1"), mice(tmp_path / "mice"))
    assert found.dice == pytest.approx({"right_lung": 0.65, "left_lung": 0.6})
    assert (found.cases, found.mean) == (4, pytest.approx(0.625))


def test_the_card_says_what_was_measured_on_what(tmp_path):
    data = mice(tmp_path / "mice")
    summaries(tmp_path, [(0.9, float("nan"))])
    said = _measured(data, ("0",), read_validation(tmp_path, ("0",), data))
    assert "Cross-validation" in said and "right lung 0.900" in said and "left lung not measured" in said
    assert "Not measured on images from anywhere else" in said and "animal of its own" not in said
    each = replace(data, cases=tuple(replace(case, animal=case.id) for case in data.cases))
    assert "Every case counted as an animal of its own" in _measured(
        each, ("0",), read_validation(tmp_path, ("0",), each)
    )


def test_a_network_that_learned_from_every_case_is_not_called_validated(tmp_path):
    data = mice(tmp_path / "mice")
    summaries(tmp_path, [(0.9, 0.8)])
    (tmp_path / "fold_0").rename(tmp_path / "fold_all")
    assert _measured(data, ("all",), read_validation(tmp_path, ("all",), data)).startswith("None. ")
