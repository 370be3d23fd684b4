"""The process in which nnU-Net works: `python -m thoraxseg.training.nnunet.child TASK.json`.

It does the steps of its task one after another, says on standard output how far it is, one JSON object a line, and
ends with the process that started it. What nnU-Net prints goes to standard error, its log.
"""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
import zlib
from contextlib import suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from thoraxseg.checkpoints.weights import read_checkpoint_header
from thoraxseg.errors import OptionError, OutputError, ThoraxSegError
from thoraxseg.files import publish_together
from thoraxseg.tables import write_csv
from thoraxseg.training.nnunet import plans as planning
from thoraxseg.training.nnunet.recipe import LOWRES, Recipe
from thoraxseg.training.nnunet.steps import ADAPT, ALL, CLEAN_UP, PLAN, PREPROCESS, TRAIN, Step, marker

PLANS = "nnUNetPlans"
_NEXT_TO_NOTHING = 64 << 20
"""Bytes: with less on the disk, whatever went wrong did so for want of space."""
_TALK_SECONDS = 0.5


class Work:
    """The steps of one task."""

    def __init__(self, task: dict[str, Any], say: Any) -> None:
        self.task, self.say = task, say
        self.dataset, self.folder = task["dataset"], Path(task["folder"])
        self.log = Path(task["log"])
        self.preprocessed = self.folder / "preprocessed" / self.dataset
        self.recipes = {name: Recipe(**record) for name, record in task["recipes"].items()}
        self._spoken = -math.inf

    def do(self, step: Step) -> None:
        """Do a step and note that it is done."""
        doing = {
            PLAN: self.plan,
            ADAPT: self.adapt,
            PREPROCESS: self.preprocess,
            TRAIN: self.train,
            CLEAN_UP: self.clean_up,
        }
        # The planner counts on one process for augmentation at least.
        helpers = self.task["augmenters"] if step.do == TRAIN else max(1, self.task["augmenters"])
        os.environ["nnUNet_n_proc_DA"] = str(helpers)  # noqa: SIM112 - nnU-Net's own name
        doing[step.do](step)
        done = marker(self.folder, step)
        done.parent.mkdir(exist_ok=True)
        done.touch()

    def tell(self, fraction: float, message: str) -> None:
        """Say how far a step is, twice a second at most."""
        if time.monotonic() - self._spoken >= _TALK_SECONDS:
            self._spoken = time.monotonic()
            self.say({"say": "progress", "fraction": fraction, "message": message})

    def plan(self, step: Step) -> None:
        """Measure the data set and plan networks for it."""
        from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet

        nnunet.extract_fingerprints([1], num_processes=self.task["processes"], show_progress_bar=False)
        self._planner().plan_experiment()

    def adapt(self, step: Step) -> None:
        """Change the plan of a configuration as its recipe says."""
        plans = json.loads(self._plans_path.read_text("utf-8"))
        if (
            step.configuration == LOWRES
            and LOWRES not in plans["configurations"]
            and self.task["lowres_factor"]
        ):
            plans = planning.with_lowres(plans, self._lowres(plans))
        plans = planning.adapted(plans, step.configuration, self.recipes[step.configuration])
        _write_json(self._plans_path, plans)

    def preprocess(self, step: Step) -> None:
        """Crop, normalize and resample all cases."""
        from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet

        number = [self.task["processes"]]
        nnunet.preprocess([1], PLANS, [step.configuration], num_processes=number, show_progress_bar=False)

    def train(self, step: Step) -> None:
        """Train a fold, from where it was left, and let nnU-Net contour its validation cases."""
        import torch
        from nnunetv2.run.run_training import maybe_load_checkpoint

        on_gpu = self.task["device"] == "cuda"
        if on_gpu:
            torch.set_num_threads(1)
            torch.backends.cudnn.benchmark = True
        configuration, fold = step.configuration, step.folds[0]
        trainer = self._trainer(configuration, fold)
        folder = Path(trainer.output_folder)
        is_trained = (folder / "checkpoint_final.pth").is_file()
        maybe_load_checkpoint(trainer, not is_trained, is_trained)
        if not is_trained:
            trainer.run_training()
        self.say({"say": "progress", "fraction": 0.95, "message": "contouring the validation cases"})
        trainer.perform_actual_validation()

    def clean_up(self, step: Step) -> None:
        """Let nnU-Net find in the validation which components are better left out."""
        from nnunetv2.evaluation.accumulate_cv_results import accumulate_cv_results
        from nnunetv2.postprocessing.remove_connected_components import determine_postprocessing

        name = f"nnUNetTrainer__{PLANS}__{step.configuration}"
        model = self.folder / "results" / self.dataset / name
        folds = tuple(map(int, step.folds))
        merged = str(model / f"crossval_results_folds_{'_'.join(step.folds)}")
        processes = self.task["processes"]
        accumulate_cv_results(str(model), merged, folds, processes)
        truth = str(self.preprocessed / "gt_segmentations")
        determine_postprocessing(merged, truth, None, None, processes, keep_postprocessed_files=False)

    @property
    def _plans_path(self) -> Path:
        return self.preprocessed / f"{PLANS}.json"

    def _planner(self) -> Any:
        import nnunetv2
        from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

        folder = str(Path(nnunetv2.__path__[0]) / "experiment_planning")
        found = recursive_find_python_class(folder, self.task["planner"], "nnunetv2.experiment_planning")
        memory = self.task["gpu_memory_gb"]
        # One name whatever the planner: it becomes a part of the names of models and folders.
        return found(1, plans_name=PLANS, **({} if memory is None else {"gpu_memory_target_in_gb": memory}))

    def _lowres(self, plans: dict[str, Any]) -> dict[str, Any]:
        """Return nnU-Net's own plan of networks for images with voxels larger by the factor that was asked for."""
        import numpy as np
        from batchgenerators.utilities.file_and_folder_operations import load_json
        from nnunetv2.utilities.json_export import recursive_fix_for_json_export

        planner, factor = self._planner(), self.task["lowres_factor"]
        full = planning.resolved(plans, "3d_fullres")
        shape = tuple(round(size / factor) for size in full["median_image_size_in_voxels"])
        cases = load_json(str(self.preprocessed / "dataset.json"))["numTraining"]
        found = planner.get_plans_for_configuration(
            np.array(full["spacing"]) * factor,
            shape,
            f"{PLANS}_{LOWRES}",
            float(math.prod(shape)) * cases,
            {},
        )
        recursive_fix_for_json_export(found)
        return found

    def _trainer(self, configuration: str, fold: str) -> Any:
        """Return nnU-Net's trainer with the numbers of the recipe."""
        import torch

        recipe = self.recipes[configuration]
        plans = json.loads(self._plans_path.read_text("utf-8")) | {"continue_training": True}
        dataset = json.loads((self.preprocessed / "dataset.json").read_text("utf-8"))
        kind = _trainer_class(self, f"{configuration}_fold_{fold}", [*dataset["labels"]][1:])
        _seed(self.task["seed"], fold, -1)  # the first weights
        device = torch.device(self.task["device"])
        trainer = kind(plans, configuration, ALL if fold == ALL else int(fold), dataset, device)
        trainer.num_epochs, trainer.num_iterations_per_epoch = recipe.epochs, recipe.iterations
        trainer.num_val_iterations_per_epoch = recipe.validation_iterations
        trainer.initial_lr, trainer.weight_decay = recipe.initial_lr, recipe.weight_decay
        return trainer


def _trainer_class(work: Work, name: str, labels: list[str]) -> type:
    """Return nnU-Net's trainer, with saving that survives a kill, seeds, and words on how far it is.

    It keeps the name of nnU-Net's own: that stands in folders and checkpoints, and nnU-Net looks the class up by it to
    predict. A name of ours, found through `nnUNet_extTrainer`, would make models that run only where this file is.
    """
    import numpy as np
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as Base

    task = work.task
    output = Path(task["output"])

    class nnUNetTrainer(Base):  # noqa: N801
        _saved = -math.inf
        _steps = 0
        _events = None

        def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
            """Load to go on, once the safe reader has found nothing in the file that would run: nnU-Net's loads all."""
            if isinstance(filename_or_checkpoint, str):
                read_checkpoint_header(Path(filename_or_checkpoint))
            super().load_checkpoint(filename_or_checkpoint)

        def save_checkpoint(self, filename: str) -> None:
            """Save so that after a kill or on a full disk the former checkpoint is still whole."""
            super().save_checkpoint(f"{filename}.new")
            Path(f"{filename}.new").replace(filename)

        def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:  # noqa: N802
            """Mirror along all of nnU-Net's axes but, where that is asked for, from side to side."""
            rotation, flat, initial, axes = (
                super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
            )
            if task["side_axis"] is not None:
                order = self.plans_manager.transpose_forward[3 - len(self.configuration_manager.patch_size) :]
                axes = tuple(axis for axis in axes if order[axis] != task["side_axis"])
                self.inference_allowed_mirroring_axes = axes
            return rotation, flat, initial, axes

        def on_train_start(self) -> None:
            super().on_train_start()
            self._saved = time.monotonic()
            with suppress(ImportError):
                from torch.utils.tensorboard import SummaryWriter

                folder = output / "tensorboard" / name
                self._events = SummaryWriter(str(folder), purge_step=self.current_epoch)

        def on_epoch_start(self) -> None:
            # So that an epoch after a kill sees what it would have seen; batches made in other processes differ.
            _seed(task["seed"], self.fold, self.current_epoch)
            self._steps = 0
            super().on_epoch_start()

        def train_step(self, batch: dict) -> dict:
            self._tell()
            return super().train_step(batch)

        def validation_step(self, batch: dict) -> dict:
            self._tell()
            return super().validation_step(batch)

        def _tell(self) -> None:
            steps = self.num_iterations_per_epoch + self.num_val_iterations_per_epoch
            done = (self.current_epoch + self._steps / steps) / self.num_epochs
            self._steps += 1
            losses = self.logger.get_value("train_losses", None)
            loss = f", loss {losses[-1]:.4f}" if losses else ""
            message = (
                f"epoch {self.current_epoch + 1} of {self.num_epochs}, step {self._steps} of {steps}{loss}"
            )
            work.tell(0.95 * done, message)

        def on_epoch_end(self) -> None:
            losses = [self.logger.get_value(key, -1) for key in ("train_losses", "val_losses")]
            if not np.isfinite(losses).any():  # one of them alone may be one bad batch
                raise OptionError(
                    f"nnU-Net: learning diverged in epoch {self.current_epoch + 1} of {name}: the loss is no number. "
                    f"What was saved before is whole ({self.output_folder}). Start again in another folder with a "
                    f"smaller initial_lr than {self.initial_lr:g}."
                )
            is_due = time.monotonic() - self._saved >= task["save_seconds"]
            self.save_every = 1 if is_due else self.num_epochs + 1
            super().on_epoch_end()
            if is_due:
                self._saved = time.monotonic()
            self._log()

        def _log(self) -> None:
            """Write nnU-Net's numbers of all epochs as a table, and the last ones for TensorBoard."""
            rows = _rows({key: self.logger.get_value(key, None) for key in _LOGGED}, labels)
            folder = output / "logs"
            folder.mkdir(exist_ok=True)
            with publish_together(folder) as scratch:
                write_csv(scratch / f"{name}.csv", [*rows[-1]], rows)
            if self._events is not None:
                for key, value in rows[-1].items():
                    if key != "epoch" and value is not None:
                        self._events.add_scalar(key, value, rows[-1]["epoch"])
                self._events.flush()

        def plot_network_architecture(self) -> None:
            """Draw nothing: it takes a package that no longer works."""

    return nnUNetTrainer


_LOGGED = (
    "lrs",
    "train_losses",
    "val_losses",
    "dice_per_class_or_region",
    "epoch_start_timestamps",
    "epoch_end_timestamps",
)


def _rows(logged: dict[str, list[Any]], labels: list[str]) -> list[dict[str, Any]]:
    """Return the rows of our log for nnU-Net's lists of one value an epoch; what is no number becomes None.

    Dice is nnU-Net's estimate of an epoch, from patches, not that of whole cases.
    """
    rows = []
    for epoch, (lr, train, val, dice, start, end) in enumerate(
        zip(*(logged[key] for key in _LOGGED), strict=True)
    ):
        numbers = {"lr": lr, "train_loss": train, "val_loss": val}
        numbers |= {f"val_dice_{label}": one for label, one in zip(labels, dice, strict=False)}
        numbers["seconds"] = round(end - start, 3)
        rows.append(
            {"epoch": epoch}
            | {key: float(one) if math.isfinite(one) else None for key, one in numbers.items()}
        )
    return rows


def _seed(*parts: object) -> None:
    """Set all that nnU-Net draws from, the same for the same parts."""
    import numpy as np
    import torch

    number = zlib.crc32(repr(parts).encode())
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - the generator that nnU-Net draws its patches with
    torch.manual_seed(number)


def _write_json(path: Path, data: Any) -> None:
    with publish_together(path.parent) as scratch:
        (scratch / path.name).write_text(json.dumps(data, indent=2), encoding="utf-8")


def _in_words(error: BaseException, step: Step, output: str, log: Path) -> tuple[str, str]:
    """Return the kind of our error that another one is, and a sentence."""
    if isinstance(error, ThoraxSegError):
        return type(error).__name__, str(error)
    name = type(error).__name__
    is_full = isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        getattr(errno, "EDQUOT", errno.ENOSPC),
    )
    if is_full or shutil.disk_usage(output).free < _NEXT_TO_NOTHING:
        return OutputError.__name__, (
            f"{output}: no space is left on the disk ({step.words}). What was saved before is whole: free some space "
            "and run the same command again."
        )
    if name == "OutOfMemoryError" or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "DeviceMemoryError", (
            f"nnU-Net: the memory does not suffice ({step.words}). Start again in another folder with a smaller "
            "gpu_memory_gb, batch_size or patch_size, or close other programs and run the same command again."
        )
    return ThoraxSegError.__name__, (
        f"nnU-Net stopped ({step.words}): {name}: {' '.join(str(error).split())[:300].rstrip('.')}. Its log is {log}. "
        "The same command goes on where it was left."
    )


def _end_with_parent() -> NoReturn:
    """Wait until the parent is gone, then end this process and all it started."""
    with suppress(OSError):
        while os.read(0, 1024):
            pass
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    os._exit(1)


def main() -> None:
    """Do all steps of the task; the status is 0 when they are done."""
    task = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    # What libraries print must not touch the conversation.
    voice = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if task["processes"] == 1:
        # A process that imports torch to do one thing after another costs seconds and hundreds of MB each time.
        multiprocessing.get_context = lambda method=None: SimpleNamespace(Pool=ThreadPool)

    def say(message: dict[str, Any]) -> None:
        voice.write(json.dumps(message) + "\n")

    work = Work(task, say)
    for record in task["steps"]:
        step = Step(record["do"], record["configuration"], tuple(record["folds"]))
        say({"say": "step", "name": step.name})
        try:
            work.do(step)
        except Exception as error:
            traceback.print_exc()
            kind, text = _in_words(error, step, task["output"], work.log)
            say({"say": "failed", "kind": kind, "text": text})
            sys.exit(1)


if __name__ == "__main__":
    main()
