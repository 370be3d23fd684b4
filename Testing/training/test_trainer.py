"""The loop learns, saves, goes on after a kill as if nothing had been, and stops when it should."""

from __future__ import annotations

import csv
import errno
import math
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from thoraxseg.errors import DependencyError, InputError, OptionError, OutputError
from thoraxseg.progress import Cancelled
from thoraxseg.training import trainer as trainer_module
from thoraxseg.training.batch import Batch
from thoraxseg.training.settings import Settings
from thoraxseg.training.trainer import BEST, LAST, LOG, Reason, Trainer, kept_weights, read_state

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = Settings(
    epochs=4,
    steps_per_epoch=3,
    loss={"name": "cross-entropy"},
    optimizer={"name": "adam", "lr": 0.02},
    schedule={"name": "cosine", "warm_up_epochs": 1},
)


class Blobs:
    """Noisy pictures of squares; a batch depends on its number alone."""

    def __init__(self, size=2):
        self.size, self.asked, self.epochs = size, [], []

    def batch(self, step):
        self.asked.append(step)
        draw = torch.Generator().manual_seed(step)
        labels = torch.zeros(self.size, 8, 8, dtype=torch.int64)
        for one in labels:
            y, x = torch.randint(0, 5, (2,), generator=draw)
            one[y : y + 4, x : x + 4] = 1
        images = labels[:, None] + 0.3 * torch.randn(self.size, 1, 8, 8, generator=draw)
        return Batch(images, labels)

    def start_epoch(self, epoch, network):
        self.epochs.append(epoch)


def small(dropout=0.2):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Dropout(dropout),
        torch.nn.Conv2d(4, 2, 1),
    )


class CrossEntropy(torch.nn.Module):
    """The least that a loss is, with a memory as some have."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, logits, labels, weights=None):
        self.seen += 1
        return torch.nn.functional.cross_entropy(logits, labels)


def trained(folder, settings=SETTINGS, validate=None, source=None, network=None, **words):
    trainer = Trainer(
        network or small(), CrossEntropy(), source or Blobs(), settings, folder, validate, **words
    )
    return trainer, trainer.run()


def accuracy(network, epoch):
    batch = Blobs(16).batch(10**6)
    right = (network(batch.images).argmax(1) == batch.labels).float().mean()
    return {"dice": float(right), "loss": 1 - float(right)}


def same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_the_loss_falls_and_every_epoch_is_in_the_log(tmp_path):
    _, ended = trained(tmp_path, replace(SETTINGS, epochs=10), accuracy)
    assert ended.reason is Reason.FINISHED and ended.epoch == 10
    rows = list(csv.DictReader((tmp_path / LOG).open()))
    losses = [float(row["train_loss"]) for row in rows]
    assert [int(row["epoch"]) for row in rows] == list(range(10))
    assert losses[-1] < 0.6 * losses[0]
    assert float(rows[-1]["val_dice"]) > 0.9


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": 0.9, "accumulate": 2, "clip_norm": 1.0},
        {"precision": "bfloat16", "optimizer": {"name": "sgd", "lr": 0.01}},
        {"schedule": {"name": "plateau", "patience": 0, "factor": 0.5}},
    ],
    ids=["plain", "average", "mixed", "plateau"],
)
def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_been(tmp_path, changes):
    settings = replace(SETTINGS, **changes)
    whole, ended = trained(tmp_path / "whole", settings, accuracy)

    def stop(fraction, message):
        if message.startswith("Epoch 3") and "step 2" in message:
            raise Cancelled

    with pytest.raises(Cancelled):
        trained(tmp_path / "parts", settings, accuracy, progress=stop)
    source = Blobs()
    parts, again = trained(tmp_path / "parts", settings, accuracy, source)
    assert source.epochs == [2, 3]
    assert min(source.asked) == 2 * 3 * settings.accumulate
    assert again == ended
    same(whole.result.state_dict(), parts.result.state_dict())
    assert whole.loss.seen == parts.loss.seen
    for name in (LAST, BEST):
        one, other = (read_state(tmp_path / side / name) for side in ("whole", "parts"))
        same(kept_weights(one), kept_weights(other))
        assert one["epoch"] == other["epoch"] and one["schedule"] == other["schedule"]


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_as_if_nothing_had_been(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            import test_trainer as t

            def die(fraction, message):
                if sys.argv[2] == "die" and message.startswith("Epoch 3 of 4, step 3"):
                    os._exit(9)

            t.torch.set_num_threads(1)
            t.trained(t.Path(sys.argv[1]), validate=t.accuracy, progress=die)
            """
        )
    )

    def run(folder, how):
        return subprocess.run([sys.executable, str(script), str(folder), how], check=False).returncode

    assert run(tmp_path / "killed", "die") == 9
    assert read_state(tmp_path / "killed" / LAST)["epoch"] == 2
    assert run(tmp_path / "killed", "live") == 0
    assert run(tmp_path / "whole", "live") == 0
    one, other = (read_state(tmp_path / name / LAST) for name in ("killed", "whole"))
    same(one["network"], other["network"])


def test_gradients_of_several_batches_are_one_step_on_all_of_them(tmp_path):
    network = small(0.0)
    network[1] = torch.nn.Identity()  # each batch would be normalized by itself
    several = torch.nn.Sequential(*list(network))
    plain = {"epochs": 1, "steps_per_epoch": 1, "schedule": {"name": "constant"}}
    parts, _ = trained(tmp_path / "parts", replace(SETTINGS, accumulate=2, **plain), network=several)

    class Both(Blobs):
        def batch(self, step):
            one, other = (Blobs.batch(self, n) for n in (0, 1))
            return Batch(torch.cat([one.images, other.images]), torch.cat([one.labels, other.labels]))

    network = small(0.0)
    network[1] = torch.nn.Identity()
    once, _ = trained(tmp_path / "once", replace(SETTINGS, **plain), source=Both(), network=network)
    for one, other in zip(parts.network.parameters(), once.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_best_epoch_is_kept_beside_the_last(tmp_path):
    scores = iter([0.5, 0.9, 0.7, 0.6])
    _, ended = trained(tmp_path, validate=lambda network, epoch: {"dice": next(scores)})
    assert (ended.best_score, ended.best_epoch) == (0.9, 1)
    assert read_state(tmp_path / BEST)["epoch"] == 2 and read_state(tmp_path / LAST)["epoch"] == 4


def test_the_lowest_loss_is_the_best_where_the_loss_decides(tmp_path):
    losses = iter([0.5, 0.3, 0.7, 0.6])
    settings = replace(SETTINGS, score="loss")
    _, ended = trained(tmp_path, settings, validate=lambda network, epoch: {"loss": next(losses)})
    assert (ended.best_score, ended.best_epoch) == (0.3, 1)


def test_no_better_score_for_long_ends_the_run(tmp_path):
    scores = iter([0.5, 0.4, 0.4, 0.9])
    settings = replace(SETTINGS, patience=2)
    _, ended = trained(tmp_path, settings, validate=lambda network, epoch: {"dice": next(scores)})
    assert ended.reason is Reason.EARLY and ended.epoch == 3
    _, again = trained(tmp_path, settings, validate=lambda network, epoch: {"dice": 1.0})
    assert again == ended  # nothing is trained when the same run is started again


def test_a_score_that_suffices_ends_the_run(tmp_path):
    scores = iter([0.5, 0.66])
    settings = replace(SETTINGS, stop_at=0.65)
    _, ended = trained(tmp_path, settings, validate=lambda network, epoch: {"dice": next(scores)})
    assert ended.reason is Reason.SUFFICES and ended.epoch == 2


def test_learning_that_diverges_stops_with_the_last_good_epoch_kept(tmp_path):
    class Poisoned(Blobs):
        def batch(self, step):
            batch = super().batch(step)
            if step == 7:
                batch.images[0, 0, 0, 0] = math.nan
            return batch

    _trainer, ended = trained(tmp_path, validate=accuracy, source=Poisoned())
    assert ended.reason is Reason.DIVERGED and ended.epoch == 2
    state = read_state(tmp_path / LAST)
    assert state["epoch"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in state["network"].values())


def test_weights_that_are_no_numbers_are_never_saved(tmp_path):
    settings = replace(SETTINGS, optimizer={"name": "sgd", "lr": 1e30, "momentum": 0.0, "nesterov": False})
    _trainer, ended = trained(tmp_path, replace(settings, schedule={"name": "constant"}))
    assert ended.reason is Reason.DIVERGED
    assert (
        not (tmp_path / LAST).exists()
        or torch.isfinite(
            torch.cat(
                [
                    t.flatten()
                    for t in read_state(tmp_path / LAST)["network"].values()
                    if t.is_floating_point()
                ]
            )
        ).all()
    )


def test_a_full_disk_is_said_and_what_was_saved_stays_whole(tmp_path, monkeypatch):
    with pytest.raises(Cancelled):
        trained(tmp_path, progress=stop_at("Epoch 3"))
    before = (tmp_path / LAST).read_bytes()
    real = os.fsync

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trainer_module.os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left.*goes on after the last whole epoch"):
        trained(tmp_path)
    assert (tmp_path / LAST).read_bytes() == before
    assert not list(tmp_path.glob(".*.new"))
    monkeypatch.setattr(trainer_module.os, "fsync", real)
    _, ended = trained(tmp_path)
    assert ended.epoch == 4


def stop_at(words):
    def progress(fraction, message):
        if message.startswith(words):
            raise Cancelled

    return progress


def test_a_run_with_other_settings_is_refused_in_the_same_folder(tmp_path):
    trained(tmp_path)
    with pytest.raises(InputError, match="other settings \\(seed\\)"):
        trained(tmp_path, replace(SETTINGS, seed=5))
    with pytest.raises(InputError, match="another network"):
        trained(tmp_path, network=torch.nn.Conv2d(1, 2, 1))


def test_a_damaged_state_is_named(tmp_path):
    trained(tmp_path)
    whole = (tmp_path / LAST).read_bytes()
    (tmp_path / LAST).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"last\.pt.*cannot read it"):
        trained(tmp_path)


def test_progress_tells_epoch_loss_and_what_is_left(tmp_path):
    seen = []
    trained(tmp_path, progress=lambda fraction, message: seen.append((fraction, message)))
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions) and len(seen) == 12
    assert "Epoch 2 of 4, step 3 of 3, loss" in seen[5][1] and seen[5][1].endswith("min left")


def test_tensorboard_has_the_numbers_of_the_log(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(tmp_path, validate=accuracy)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [event.value for event in events.Scalars("train_loss")]
    rows = list(csv.DictReader((tmp_path / LOG).open()))
    assert found == pytest.approx([float(row["train_loss"]) for row in rows], rel=1e-4)
    assert len(events.Scalars("val_dice")) == 4


def test_without_a_gpu_asking_for_one_is_refused(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(DependencyError, match="no GPU"):
        trained(tmp_path, replace(SETTINGS, device="cuda"))


def test_sixteen_bit_floats_of_a_gpu_are_refused_without_one(tmp_path):
    with pytest.raises(OptionError, match=r"float16 needs a GPU\. Use bfloat16"):
        trained(tmp_path, replace(SETTINGS, precision="float16", device="cpu"))


def test_statistics_that_are_no_numbers_end_the_run_too(tmp_path):
    class Poisoned(Blobs):
        def start_epoch(self, epoch, network):
            if epoch == 2:
                network[1].running_var[0] = math.nan

    _, ended = trained(tmp_path, source=Poisoned())
    assert ended.reason is Reason.DIVERGED and ended.epoch == 2


def test_a_log_that_cannot_be_replaced_does_not_end_the_run(tmp_path, caplog):
    (tmp_path / LOG).mkdir()  # as if another program held it open
    with caplog.at_level("WARNING", logger="thoraxseg"):
        _, ended = trained(tmp_path)
    assert ended.reason is Reason.FINISHED
    assert "log.csv: cannot be written" in caplog.text
    (tmp_path / LOG).rmdir()
    trained(tmp_path)
    assert len(read_state(tmp_path / LAST)["rows"]) == 4


def test_a_file_of_weights_is_no_run(tmp_path):
    torch.save({"network": {}}, tmp_path / LAST)
    with pytest.raises(InputError, match=r"expected the saved state of a training run"):
        trained(tmp_path)
    torch.save([1], tmp_path / LAST)
    with pytest.raises(InputError, match=r"it holds a list"):
        trained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs"),
        ({"steps_per_epoch": True}, "steps_per_epoch"),
        ({"stop_at": "soon"}, "stop_at"),
        ({"precision": "float8"}, "precision"),
        ({"ema": 1.0}, "ema"),
        ({"score": "accuracy"}, "score"),
        ({"loss": {}}, "loss"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(changes, words):
    with pytest.raises(OptionError, match=words):
        replace(SETTINGS, **changes)


def test_settings_survive_their_record():
    assert Settings.from_record(SETTINGS.to_record()) == SETTINGS
    with pytest.raises(OptionError, match="unknown speed"):
        Settings.from_record(SETTINGS.to_record() | {"speed": 9})
