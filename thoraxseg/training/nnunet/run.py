"""A data set in, trained nnU-Nets out: the steps that are not done yet, in a child process, and what they leave."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from thoraxseg.checkpoints import About
from thoraxseg.errors import DependencyError, InputError, OptionError
from thoraxseg.files import check_writable, publish_together, safe_name
from thoraxseg.progress import Progress, in_words, part, silent
from thoraxseg.training.data import (
    DataSet,
    Fold,
    check_folds,
    given_folds,
    split_by_animal,
    without_cases,
    write_folds,
)
from thoraxseg.training.nnunet.finish import Validation, read_validation, write_native
from thoraxseg.training.nnunet.process import run_child
from thoraxseg.training.nnunet.raw import dataset_name, side_axis, write_raw
from thoraxseg.training.nnunet.recipe import (
    CASCADE,
    LOWRES,
    PLANNERS,
    NnunetOptions,
    Recipe,
    check_configurations,
)
from thoraxseg.training.nnunet.steps import ALL, TRAIN, Step, marker, shares, steps_for

RUN, LOG = "run.json", "log.txt"
_RAW_END, _STEPS_END = 0.02, 0.97


@dataclass(frozen=True)
class Trained:
    """One configuration that is trained."""

    configuration: str
    folds: tuple[str, ...]
    model: Path
    """nnU-Net's own model folder, which nnU-Net's programs take as well."""
    checkpoint: Path
    """Folder of the native checkpoint: card and weights."""
    validation: Validation
    """Of fold `all`: on the very cases it learned from."""


def train_nnunet(
    data: DataSet,
    output: Path,
    configurations: Sequence[str] = ("3d_fullres",),
    folds: Sequence[int | str] | str | None = None,
    epochs: int | None = None,
    device: str = "auto",
    options: NnunetOptions | None = None,
    splits: Sequence[Fold] | None = None,
    about: About | None = None,
    progress: Progress = silent,
) -> tuple[Trained, ...]:
    """Train nnU-Net 2 through its own package and return what was trained, in the order of training.

    `folds` are numbers, or `all` for one network that learns from every case; None: all folds of the split. The split
    is `splits`, or what the data set gives, or made by animal. `epochs` goes before those of the recipe. `device` is
    `auto`, `cpu` or `cuda`. The same call goes on where a killed one was left; further folds and configurations may
    be trained into the same `output`, which gets `nnunet` (nnU-Net's folders and log), `logs`, `tensorboard` and
    `checkpoints`. Cases without contours are left out.

    Raises DependencyError without nnunetv2 or the GPU asked for, OptionError for what cannot be trained or differs
    from the run in `output`, InputError for cases that cannot be read and for an animal on both sides of a fold,
    OutputError when the disk is full, ThoraxSegError naming the log when nnU-Net stops, and what `progress` raises
    to cancel, after everything that was started has ended.
    """
    options = options or NnunetOptions()
    wanted = check_configurations(tuple(configurations))
    _require_nnunet()
    without_contours = {case.id for case in data.cases if case.label is None}
    data = data.without(without_contours)
    if not data.cases:
        raise InputError(f"{data.name}: expected cases with contours, there are none.")
    names = _chosen(folds)
    splits = splits and without_cases(splits, without_contours)
    split = _split(data, splits, options) if names != (ALL,) else []
    names = names or tuple(map(str, range(len(split))))
    _check_chosen(names, split, data, CASCADE in wanted)
    trained = (LOWRES, *wanted) if CASCADE in wanted and LOWRES not in wanted else wanted
    recipes = {name: options.recipe_for(name, epochs) for name in trained}
    where = _device(device)

    output = Path(output).absolute()
    folder = output / "nnunet"
    check_writable(folder)
    _remember(folder / RUN, data, split, options, recipes)
    environment = _environment(folder, where, options)
    dataset = dataset_name(data)
    axes = write_raw(data, folder / "raw" / dataset, part(progress, 0.0, _RAW_END))
    if split:
        safe = [
            Fold(*(tuple(map(safe_name, side)) for side in (one.training, one.validation))) for one in split
        ]
        write_folds(folder / "preprocessed" / dataset / "splits_final.json", safe)
    steps = steps_for(wanted, names, tuple(map(str, range(len(split)))), options.clean_up)
    left = tuple(step for step in steps if not marker(folder, step).exists())
    if left:
        task = {
            "output": str(output),
            "folder": str(folder),
            "log": str(folder / LOG),
            "dataset": dataset,
            "steps": [step.to_record() for step in left],
            "recipes": {name: recipe.to_record() for name, recipe in recipes.items()},
            "planner": PLANNERS[options.planner],
            "gpu_memory_gb": options.gpu_memory_gb,
            "lowres_factor": options.lowres_factor,
            "device": where,
            "seed": options.seed,
            "side_axis": None if options.mirror_sides else side_axis(axes),
            "processes": int(environment["nnUNet_def_n_proc"]),
            "augmenters": int(environment["nnUNet_n_proc_DA"]),
            "save_seconds": options.save_seconds,
        }
        follow = _Follow(steps, left, recipes, part(progress, _RAW_END, _STEPS_END))
        run_child(task, folder, folder / LOG, environment, follow)
    return _finished(
        data, output, dataset, wanted, names, recipes, axes, about, part(progress, _STEPS_END, 1.0)
    )


def _require_nnunet() -> None:
    if importlib.util.find_spec("nnunetv2") is None:
        raise DependencyError(
            "training nnU-Net takes the Python package nnunetv2, which is not installed. Install it so that pip leaves "
            f'torch as it is: pip install "thoraxseg[nnunet]" "torch=={version("torch")}".'
        )


def _chosen(folds: Sequence[int | str] | str | None) -> tuple[str, ...]:
    """Return the names of the folds that are wanted, empty for all of the split."""
    if folds is None:
        return ()
    names = tuple(str(one) for one in ([folds] if isinstance(folds, (str, int)) else folds))
    good = names == (ALL,) or (names and all(one.isdecimal() and str(int(one)) == one for one in names))
    if not good or len(set(names)) < len(names):
        raise OptionError(
            f"nnU-Net: folds: expected different numbers from 0, or 'all' alone, got {folds!r:.80}."
        )
    return names


def _split(data: DataSet, splits: Sequence[Fold] | None, options: NnunetOptions) -> list[Fold]:
    if splits is None:
        splits = given_folds(data)
    if splits is None:
        animals = len({*data.animals.values()})
        if animals < 2:
            raise OptionError(
                f"nnU-Net: {data.name} has scans of one animal only, which cannot validate one another. Train with the "
                "fold 'all', which learns from every case, or add animals."
            )
        return split_by_animal(data, min(options.number_of_folds, animals), options.seed)
    splits = without_cases(
        splits, {name for one in splits for name in one.training + one.validation} - {*data.animals}
    )
    check_folds(data, splits)
    return list(splits)


def _check_chosen(names: tuple[str, ...], split: Sequence[Fold], data: DataSet, is_cascade: bool) -> None:
    if names == (ALL,):
        return
    if too_many := [name for name in names if int(name) >= len(split)]:
        raise OptionError(
            f"nnU-Net: fold {', '.join(too_many)} does not exist: the split has {len(split)} folds, 0 to "
            f"{len(split) - 1} (of {len({*data.animals.values()})} animals)."
        )
    never = {case.id for case in data.cases} - {name for fold in split for name in fold.validation}
    if is_cascade and never:
        raise InputError(
            f"{data.name}: a cascade learns from its first stage's contours of every case, made in the fold that left "
            f"the case out; {len(never)} case(s) are left out by no fold. Give every case a fold, or train fold 'all'."
        )


def _device(device: str) -> str:
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise OptionError(f"--device: expected auto, cpu or cuda, got {device!r:.40}.")
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise DependencyError("--device cuda: no GPU was found that torch can use. Use --device auto or cpu.")
    return "cuda" if there and device != "cpu" else "cpu"


def _environment(folder: Path, device: str, options: NnunetOptions) -> dict[str, str]:
    """Return the variables that nnU-Net's process gets; those of this process stay as they are."""
    cores = os.cpu_count() or 1
    processes = options.processes or max(1, min(4, cores // 4))
    helpers = 0 if device == "cpu" else max(1, min(12, cores - 1))
    if options.augmenters is not None:
        helpers = options.augmenters
    return {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "results"),
        "nnUNet_def_n_proc": str(processes),
        "nnUNet_n_proc_DA": str(helpers),
        "nnUNet_compile": "t" if options.compile_network and device == "cuda" else "f",
        "nnUNet_wandb_enabled": "0",  # nothing goes out
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }


def _remember(
    path: Path, data: DataSet, split: Sequence[Fold], options: NnunetOptions, recipes: Mapping[str, Recipe]
) -> None:
    """Note what this run is, or refuse to go on with another one in its folder."""
    now = {
        "data": data.name,
        "labels": {str(label): structure.key for label, structure in sorted(data.labels.items())},
        "channels": list(data.channels),
        "cases": {case.id: _stamp(case.animal, *case.images, case.label) for case in data.cases},
        "planner": options.planner,
        "gpu_memory_gb": options.gpu_memory_gb,
        "lowres_factor": options.lowres_factor,
        "mirror_sides": options.mirror_sides,
        "seed": options.seed,
    }
    plain_split = [[list(fold.training), list(fold.validation)] for fold in split]
    plain_recipes: dict[str, Any] = {name: recipe.to_record() for name, recipe in recipes.items()}
    if path.is_file():
        before = json.loads(path.read_text("utf-8"))
        changed = [key for key, value in now.items() if before.get(key) != value]
        if plain_split and before["split"] and before["split"] != plain_split:
            changed.append("folds")
        old = before["recipes"]
        changed += [f"recipe of {name}" for name, one in plain_recipes.items() if old.get(name, one) != one]
        if changed:
            raise OptionError(
                f"{path.parent.parent}: holds an nnU-Net run that was started with another {', '.join(changed)}. "
                "Give the same, or another output folder."
            )
        plain_split, plain_recipes = plain_split or before["split"], old | plain_recipes
    with publish_together(path.parent) as scratch:
        text = json.dumps(now | {"split": plain_split, "recipes": plain_recipes}, indent=2)
        (scratch / path.name).write_text(text, encoding="utf-8")


def _stamp(animal: str, *paths: Path) -> list[Any]:
    """Return what tells whether files are the same as before, without reading them."""
    found: list[Any] = [animal]
    for path in paths:
        try:
            about = path.stat()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
        found.append([str(path), about.st_size, about.st_mtime_ns])
    return found


class _Follow:
    """Turns what the child says into progress of the whole, with the time that is left."""

    def __init__(
        self, steps: Sequence[Step], left: Sequence[Step], recipes: Mapping[str, Recipe], progress: Progress
    ) -> None:
        self._progress, self._steps = progress, {step.name: step for step in steps}
        self._shares = dict(zip(self._steps, shares(steps, recipes), strict=True))
        names = {step.name for step in left}
        self._done = sum(share for name, share in self._shares.items() if name not in names)
        self._step: Step | None = None
        self._within, self._message = 0.0, "Starting nnU-Net"
        self._trained = self._trained_since = None

    def __call__(self, message: Mapping[str, Any] | None) -> None:
        """Take in a message, if there is one, and report."""
        if message is not None and message["say"] == "step":
            if self._step is not None:
                self._done += self._shares[self._step.name]
            self._step, self._within = self._steps[message["name"]], 0.0
            self._message = self._step.words
        elif message is not None:
            self._within = message["fraction"]
            self._message = f"{self._step.words}: {message['message']}"
        now = min(self._done + self._within * self._share, 1.0)
        self._progress(now, self._message + self._left(now))

    @property
    def _share(self) -> float:
        return 0.0 if self._step is None else self._shares[self._step.name]

    def _left(self, now: float) -> str:
        """Return the words for the time that is left, as fast as training went on since it began."""
        if self._step is None or self._step.do != TRAIN:
            return ""
        if self._trained is None:
            if self._within > 0:  # the first message of a resumed fold says where it goes on
                self._trained, self._trained_since = now, time.monotonic()
            return ""
        if now <= self._trained:
            return ""
        seconds = (time.monotonic() - self._trained_since) / (now - self._trained) * (1 - now)
        return f", {in_words(seconds)} left"


def _finished(
    data: DataSet,
    output: Path,
    dataset: str,
    wanted: Sequence[str],
    folds: tuple[str, ...],
    recipes: Mapping[str, Recipe],
    axes: str,
    about: About | None,
    progress: Progress,
) -> tuple[Trained, ...]:
    """Write the native checkpoint of every configuration and return what there is."""
    found = []
    for index, name in enumerate(wanted):
        model = output / "nnunet" / "results" / dataset / f"nnUNetTrainer__nnUNetPlans__{name}"
        validation = read_validation(model, folds, data)
        target = output / "checkpoints" / name
        stage = part(progress, index / len(wanted), (index + 1) / len(wanted))
        write_native(
            model, target, data, name, folds, recipes[name], validation, axes, about or About(), stage
        )
        found.append(Trained(name, folds, model, target, validation))
    return tuple(found)
