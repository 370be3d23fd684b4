"""The training loop: the same for every network of ours, resumable after a kill.

Everything random depends on the seed and the number of the step, so that a run that was killed and goes on from its
last whole epoch gives, on a CPU, bit for bit what an uninterrupted one gives.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoraxseg.errors import DependencyError, InputError, OptionError, OutputError
from thoraxseg.progress import Progress, in_words, silent
from thoraxseg.training.batch import Batch, Source
from thoraxseg.training.optimizers import build_optimizer, build_schedule
from thoraxseg.training.settings import Settings

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

LAST, BEST, LOG = "last.pt", "best.pt", "log.csv"
Validate = Callable[["torch.nn.Module", int], Mapping[str, float]]
"""Network in evaluation mode and epoch in, numbers out, at least what `Settings.score` names."""


class Reason(Enum):
    """Why a run ended."""

    FINISHED = "all epochs are done"
    EARLY = "no better score for as many epochs as asked"
    SUFFICES = "the score that was asked for is reached"
    DIVERGED = "the loss or the weights are no longer numbers"


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    reason: Reason
    epoch: int
    """Epochs that are done and saved."""
    best_score: float | None
    best_epoch: int | None


class Trainer:
    """One run in one folder.

    The folder gets `last.pt` after every epoch, `best.pt` whenever the score is better, `log.csv` with a row an epoch,
    and TensorBoard's events where that package is installed. Files are replaced whole or not at all.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        loss: torch.nn.Module,
        source: Source,
        settings: Settings,
        folder: Path,
        validate: Validate | None = None,
        progress: Progress = silent,
    ) -> None:
        self.settings, self.folder, self.progress = settings, Path(folder), progress
        self.device = _device(settings)
        if settings.precision == "float16" and self.device.type != "cuda":
            raise OptionError(
                "settings.precision: float16 needs a GPU. Use bfloat16 or float32, or --device cuda where there is one."
            )
        self.network, self.loss = network.to(self.device), loss.to(self.device)
        self.source, self._validate = source, validate
        self.averaged = copy.deepcopy(self.network) if settings.ema else None
        self.optimizer = build_optimizer(self.network, settings.optimizer)
        self.schedule = build_schedule(
            self.optimizer, settings.schedule, settings.epochs, settings.steps_per_epoch
        )
        self.epoch = 0
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self.rows: list[dict[str, float]] = []
        self._scaler = None
        if settings.precision == "float16":
            import torch

            self._scaler = torch.amp.GradScaler("cuda")

    @property
    def result(self) -> torch.nn.Module:
        """The network to validate and keep: the running average where there is one."""
        return self.network if self.averaged is None else self.averaged

    def run(self) -> Ended:
        """Train to the end, from the last whole epoch if the folder holds one, and say how it ended.

        Raises OutputError when the folder cannot be written, InputError when its files are of another run or
        damaged, and whatever `progress` raises to cancel.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be made: {error.strerror or error}.") from error
        self._resume()
        started, already = time.monotonic(), self.epoch
        with _tensorboard(self.folder, self.epoch) as write:
            while self.epoch < self.settings.epochs:
                if reason := self._enough():
                    return self._ended(reason)
                begun = time.monotonic()
                self.source.start_epoch(self.epoch, self.result)
                row = self._train(started, already)
                if row is None:
                    logger.warning("Epoch %d: the loss or the weights are not numbers; stopped.", self.epoch)
                    return self._ended(Reason.DIVERGED)
                row |= self._validated()
                row["seconds"] = round(time.monotonic() - begun, 3)
                self._keep(row)
                write(row)
        return self._ended(Reason.FINISHED)

    def _ended(self, reason: Reason) -> Ended:
        return Ended(reason, self.epoch, self.best_score, self.best_epoch)

    def _enough(self) -> Reason | None:
        settings, best = self.settings, self.best_score
        if best is None:
            return None
        if settings.stop_at is not None and not _better(settings.stop_at, best, settings.score):
            return Reason.SUFFICES
        waited = self.epoch - 1 - self.best_epoch
        return Reason.EARLY if settings.patience is not None and waited >= settings.patience else None

    def _train(self, started: float, already: int) -> dict[str, float] | None:
        """Train one epoch; returns the row of the log, or None when something is no longer a number."""
        import torch

        settings = self.settings
        self.network.train()
        total, all_steps = 0.0, settings.epochs * settings.steps_per_epoch
        lr = self.optimizer.param_groups[0]["lr"]
        for number in range(settings.steps_per_epoch):
            step = self.epoch * settings.steps_per_epoch + number
            done, fresh = step / all_steps, step - already * settings.steps_per_epoch
            left = (time.monotonic() - started) / fresh * (all_steps - step) if fresh else None
            self.progress(done, self._message(number, total / number if number else None, left))
            loss = self._step(step)
            if not math.isfinite(loss):
                return None
            total += loss
        # Statistics of batch normalization too: a checkpoint with NaN in them is as useless as one with NaN weights.
        numbers = [t for t in self.network.state_dict().values() if t.is_floating_point()]
        finite = all(torch.isfinite(t).all() for t in numbers)
        mean = total / settings.steps_per_epoch
        return {"epoch": self.epoch, "lr": lr, "train_loss": mean} if finite else None

    def _message(self, number: int, loss: float | None, left_s: float | None) -> str:
        words = [f"Epoch {self.epoch + 1} of {self.settings.epochs}"]
        words += [f"step {number + 1} of {self.settings.steps_per_epoch}"]
        words += [] if loss is None else [f"loss {loss:.4f}"]
        words += [] if self.best_score is None else [f"best {self.settings.score} {self.best_score:.4f}"]
        words += [] if left_s is None else [f"{in_words(left_s)} left"]
        return ", ".join(words)

    def _step(self, step: int) -> float:
        """Take one step of the optimizer and return the mean loss of its batches."""
        import torch

        settings, total = self.settings, 0.0
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(settings.accumulate):
            micro = step * settings.accumulate + part
            batch = self.source.batch(micro)
            torch.manual_seed(settings.seed * 1_000_003 + micro)  # dropout, the same after a resume
            loss = self._loss_of(batch) / settings.accumulate
            total += float(loss.detach())
            if not math.isfinite(total):
                return total
            (loss if self._scaler is None else self._scaler.scale(loss)).backward()
        if settings.clip_norm is not None:
            if self._scaler is not None:
                self._scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm)
        if self._scaler is None:
            self.optimizer.step()
        else:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        if self.schedule.step_after == "step":
            self.schedule.step()
        self._average(step)
        return total

    def _loss_of(self, batch: Batch) -> torch.Tensor:
        import torch

        images, labels = batch.images.to(self.device), batch.labels.to(self.device)
        weights = None if batch.weights is None else batch.weights.to(self.device)
        mixed = self.settings.precision != "float32"
        kind = torch.float16 if self._scaler is not None else torch.bfloat16
        with torch.autocast(self.device.type, kind, enabled=mixed):
            logits = self.network(images)
        return self.loss(logits.float(), labels, weights)

    def _average(self, step: int) -> None:
        import torch

        if self.averaged is None:
            return
        decay = min(self.settings.ema, (1 + step) / (10 + step))  # the first weights are forgotten sooner
        with torch.no_grad():
            mine = self.network.state_dict()
            for name, mean in self.averaged.state_dict().items():
                if mean.is_floating_point():
                    mean.lerp_(mine[name], 1 - decay)
                else:
                    mean.copy_(mine[name])

    def _validated(self) -> dict[str, float]:
        """Return the numbers of a validation, and remember whether it was the best."""
        import torch

        settings = self.settings
        last = self.epoch + 1 == settings.epochs
        if self._validate is None or not (last or (self.epoch + 1) % settings.validate_every == 0):
            return {}
        self.result.eval()
        with torch.inference_mode():
            found = {
                f"val_{key}": float(value) for key, value in self._validate(self.result, self.epoch).items()
            }
        score = found[f"val_{settings.score}"]
        if math.isfinite(score) and (
            self.best_score is None or _better(score, self.best_score, settings.score)
        ):
            self.best_score, self.best_epoch = score, self.epoch
        return found

    def _keep(self, row: dict[str, float]) -> None:
        """Save the epoch that is done: log, last, best."""
        if self.schedule.step_after == "epoch":
            # Losses of training and of validation are not compared with one another.
            self.schedule.step(row["train_loss"] if self._validate is None else row.get("val_loss"))
        self.rows.append(row)
        self.epoch += 1
        try:
            _replace(self.folder / LOG, _csv(self.rows).encode())
        except OutputError as error:  # open in a spreadsheet; its rows are in last.pt, and in the next log
            logger.warning("%s", error)
        state = self._state()
        if self.best_epoch == self.epoch - 1 or self._validate is None:
            _replace(self.folder / BEST, state)
        _replace(self.folder / LAST, state)  # last: what it says is all there

    def _state(self) -> bytes:
        import torch

        data = {
            "network": self.network.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
            "epoch": self.epoch,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "rows": self.rows,
            "settings": _lists(self.settings.to_record()),
        }
        buffer = io.BytesIO()
        torch.save(data, buffer)
        return buffer.getvalue()

    def _resume(self) -> None:
        path = self.folder / LAST
        if not path.exists():
            return
        state = read_state(path)
        missing = {"settings", "network", "averaged", "loss", "optimizer", "schedule", "epoch", "rows"} - set(
            state
        )
        if missing:
            raise InputError(
                f"{path}: expected the saved state of a training run of ThoraxSeg, it has no {min(missing)}. Give "
                "another folder."
            )
        asked, had = _lists(self.settings.to_record()), state["settings"]
        free = {"device", "patience", "stop_at"}  # may change from one session to the next
        if changed := sorted(key for key in asked if key not in free and asked[key] != had.get(key)):
            raise InputError(
                f"{path}: the run in this folder was started with other settings ({', '.join(changed)}). Give the "
                "same, or another folder."
            )
        try:
            self.network.load_state_dict(state["network"])
            if self.averaged is not None:
                self.averaged.load_state_dict(state["averaged"])
            self.loss.load_state_dict(state["loss"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            if self._scaler is not None and state["scaler"] is not None:
                self._scaler.load_state_dict(state["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{path}: is of a run with another network or optimizer ({str(error)[:300]}). Give another folder."
            ) from error
        self.epoch, self.rows = state["epoch"], state["rows"]
        self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]
        logger.info("%s: going on after epoch %d", self.folder, self.epoch)


def read_state(path: Path) -> dict[str, Any]:
    """Return what a run saved, on the CPU; raises InputError when the file is missing or damaged."""
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
        return state
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: expected the saved state of a training run, cannot read it: {str(error)[:200]}. Start the run "
            "again in another folder."
        ) from error


def kept_weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the weights of a saved state that a checkpoint is made of: the running average where there is one."""
    return state["network"] if state["averaged"] is None else state["averaged"]


def _better(one: float, other: float, score: str) -> bool:
    return one < other if score == "loss" else one > other


def _device(settings: Settings) -> torch.device:
    import torch

    there = torch.cuda.is_available()
    if settings.device == "cuda" and not there:
        raise DependencyError("--device cuda: no GPU was found that torch can use. Use --device auto or cpu.")
    return torch.device("cuda" if there and settings.device != "cpu" else "cpu")


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that after a kill or on a full disk the former one is still whole."""
    scratch = path.with_name(f".{path.name}.new")
    try:
        with scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: cannot be written: {error.strerror or error}. What was saved before is whole; free some space "
            "and run the same command again: it goes on after the last whole epoch."
        ) from error


def _csv(rows: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in rows)
    return text.getvalue()


def _lists(value: Any) -> Any:
    """Return plain data with lists in the place of tuples, as they come back from a file."""
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


@contextlib.contextmanager
def _tensorboard(folder: Path, epoch: int) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Yield what writes a row of the log for TensorBoard, or does nothing where that is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("TensorBoard is not installed; log.csv has the same numbers.")
        yield lambda row: None
        return
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epoch)

    def write(row: Mapping[str, float]) -> None:
        try:
            for key, value in row.items():
                if key != "epoch":
                    writer.add_scalar(key, value, int(row["epoch"]))
        except OSError as error:  # log.csv has the same numbers
            logger.warning("TensorBoard's events cannot be written: %s", error)

    try:
        yield write
    finally:
        with contextlib.suppress(OSError):
            writer.close()
