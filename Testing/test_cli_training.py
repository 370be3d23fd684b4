"""`thoraxseg train`: words in, a checkpoint out; a run that is killed goes on to the very same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from Testing.training.tiny_runs import TINY, write_data
from thoraxseg.checkpoints.weights import read_weights
from thoraxseg.cli import app, main
from thoraxseg.cli.training import train
from thoraxseg.training.trainer import read_state

pytestmark = pytest.mark.usefixtures("one_thread", "empty_home")

if "train" not in app.commands:
    app.add_command(train)

KILLED = """
import os, sys
from thoraxseg.cli import app, main
from thoraxseg.cli.training import train
from thoraxseg.training.source import PatchSource
if "train" not in app.commands:
    app.add_command(train)
real = PatchSource.batch
def batch(self, step):
    if step == 4:  # in the middle of the second epoch of three steps
        os._exit(9)
    return real(self, step)
PatchSource.batch = batch
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {kind: write_data(folder / kind, modality=kind) for kind in ("MRI", "CT")}


def words(system, data, output, *more):
    kind = "MRI" if system in ("unet", "unet3plus", "deepmeta") else "CT"
    sets = [word for text in TINY[system] for word in ("--set", text)]
    flags = [
        "--system",
        system,
        "--data",
        str(data[kind]),
        "-o",
        str(output),
        "--folds",
        "2",
        "--device",
        "cpu",
    ]
    return ["train", *flags, *sets, *more]


@pytest.mark.parametrize("system", ["deepmeta", "monai-unet-isample"])
def test_a_run_that_is_killed_in_an_epoch_goes_on_to_the_same_weights_to_the_bit(system, data, tmp_path):
    length = ("--epochs", "3", "--set", "settings.steps_per_epoch=3", "--set", "settings.validate_every=1")
    length += ("--set", "sampling.refresh_epochs=1") if "isample" in system else ()
    killed = words(system, data, tmp_path / "killed", *length)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", KILLED, *killed], env=environment, capture_output=True)
    assert ended.returncode == 9, ended.stderr.decode()
    assert read_state(tmp_path / "killed" / "fold_0" / "last.pt")["epoch"] == 1
    assert main(killed) == 0
    assert main(words(system, data, tmp_path / "whole", *length)) == 0
    for name in ("last.pt", "best.pt"):
        mine, theirs = (read_state(tmp_path / run / "fold_0" / name) for run in ("killed", "whole"))
        assert mine["network"].keys() == theirs["network"].keys()
        assert all(torch.equal(mine["network"][key], theirs["network"][key]) for key in mine["network"])
    weights = [
        read_weights(tmp_path / run / "checkpoint" / "fold_0.safetensors") for run in ("killed", "whole")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    logs = [(tmp_path / run / "fold_0" / "log.csv").read_text().splitlines() for run in ("killed", "whole")]
    without_seconds = [[line.rsplit(",", 1)[0] for line in log] for log in logs]
    assert without_seconds[0] == without_seconds[1] and len(logs[0]) == 4


def test_what_was_trained_segments_by_the_command_line(data, tmp_path, no_pictures, capsys):
    length = ("--epochs", "1", "--set", "settings.steps_per_epoch=1", "--half", "--name", "mine", "--json")
    assert main(words("deepmeta", data, tmp_path / "run", *length)) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["card"] == "mine" and summary["checkpoint"] == "checkpoint"
    image = data["MRI"] / "imagesTr" / "m0_0000.nrrd"
    arguments = [str(image), "-c", str(tmp_path / "run" / "checkpoint"), "-o", str(tmp_path / "out")]
    assert main(["segment", *arguments, "--device", "cpu"]) == 0
    assert list((tmp_path / "out").rglob("*.seg.nrrd"))


def test_the_config_of_a_run_runs_again_and_flags_go_before_it(data, tmp_path, capsys):
    length = ("--epochs", "1", "--set", "settings.steps_per_epoch=1")
    assert main(words("deepmeta", data, tmp_path / "one", *length)) == 0
    config = tmp_path / "one" / "config.json"
    assert main(["train", str(config), "-o", str(tmp_path / "one")]) == 0
    assert main(["train", str(config), "-o", str(tmp_path / "two"), "--seed", "7"]) == 0
    assert json.loads((tmp_path / "two" / "config.json").read_text())["seed"] == 7
    assert main(["train", str(config), "-o", str(tmp_path / "one"), "--seed", "7"]) == 5
    assert "seed is 0 there, 7 here" in capsys.readouterr().err


def test_the_config_of_a_run_on_relative_paths_runs_from_everywhere(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(data["MRI"].parent)
    length = ("--epochs", "1", "--set", "settings.steps_per_epoch=1", "--animals", "MRI/animals.csv")
    relative = [
        word if word != str(data["MRI"]) else "MRI" for word in words("deepmeta", data, "a run", *length)
    ]
    assert main(relative) == 0
    assert "-c 'a run/checkpoint'" in capsys.readouterr().out  # can be copied
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(data["MRI"].parent / "a run" / "config.json"), "--dry-run"]) == 0


def test_a_dry_run_tells_the_plan_and_writes_nothing(data, tmp_path, capsys):
    assert main(words("deepmeta", data, tmp_path / "run", "--dry-run")) == 0
    told = capsys.readouterr().out
    assert "4 cases of 4 animals" in told and "held out" in told and "Changed: network.filters = 4" in told
    assert not (tmp_path / "run").exists()


def test_all_systems_are_listed_with_their_papers(capsys):
    assert main(["train", "--list"]) == 0
    told = capsys.readouterr().out
    assert "nnunet-3d_cascade_fullres" in told and "Kaniewski" in told and "coordinate-unet" in told
    assert main(["train", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["aimos"]["notes"]


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--system", "deepmeta", "-o", "x"], 2, "--data"),
        (["--data", "x"], 2, "--system NAME"),
        (["--system", "deepmetta", "--data", "x", "-o", "x"], 2, "Did you mean deepmeta"),
        (["--system", "deepmeta", "--data", "nowhere", "-o", "x"], 3, "nowhere"),
        (["--system", "deepmeta", "--data", "x", "--fold", "two", "-o", "x"], 2, "--fold"),
        (["--system", "deepmeta", "--data", "x", "--spacing", "a", "-o", "x"], 2, "--spacing"),
        (["--from", "no-such-checkpoint", "--data", "x", "-o", "x"], 4, "no-such-checkpoint"),
        (["missing.json"], 3, "missing.json"),
    ],
)
def test_wrong_words_end_with_their_status_and_a_sentence(arguments, status, told, tmp_path, capsys):
    os.chdir(tmp_path)
    assert main(["train", *arguments]) == status
    assert told in capsys.readouterr().err


def test_without_an_output_nothing_is_trained(data, capsys):
    assert main(["train", "--system", "deepmeta", "--data", str(data["MRI"])]) == 2
    assert "--output" in capsys.readouterr().err


def test_training_a_checkpoint_of_a_run_on_other_data_needs_no_system(data, tmp_path):
    length = ("--epochs", "1", "--set", "settings.steps_per_epoch=1", "--set", "settings.validate_every=1")
    assert main(words("monai-unet", data, tmp_path / "run", *length)) == 0
    start = str(tmp_path / "run" / "checkpoint")
    flags = [
        "--from",
        start,
        "--data",
        str(data["CT"]),
        "--folds",
        "2",
        "--device",
        "cpu",
        "--set",
        "settings.stop_at=null",
    ]
    flags += ["--set", "sampling.patches_per_case=1", "--set", "sampling.batch_size=2"]
    assert main(["train", *flags, *length, "-o", str(tmp_path / "tuned")]) == 0
    card = json.loads((tmp_path / "tuned" / "checkpoint" / "card.json").read_text())
    assert card["architecture"]["channels"] == [4, 8] and "Began with" in card["description"]
    assert Path(start, "card.json").exists()
