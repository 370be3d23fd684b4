"""A config in, a checkpoint out: data set, checks, folds, prepared cases, training of each fold, card.

The folder of a run holds `config.json` (all that decides it), `data.json` (what was found in the data set),
`splits_final.json` (the folds, as nnU-Net writes them), `prepared/`, one folder a fold with `best.pt`, `last.pt`,
`log.csv`, pictures and `result.json`, and in the end `checkpoint/` and `summary.json`. The same command goes on where
a run was stopped.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thoraxseg.checkpoints import Card, Checkpoint, open_checkpoint
from thoraxseg.checkpoints.card import card_text
from thoraxseg.errors import InputError, OptionError, OutputError
from thoraxseg.files import check_writable, publish_together
from thoraxseg.io import StackGeometry, hash_input
from thoraxseg.progress import Progress, each, part, silent
from thoraxseg.training.config import ALL, TrainConfig, changes, config_text, differences, shown_size
from thoraxseg.training.data import (
    Checked,
    DataSet,
    Fold,
    PreparedCase,
    check_data_set,
    check_folds,
    given_folds,
    prepare_cases,
    read_data_set,
    read_folds,
    split_by_animal,
    write_folds,
)
from thoraxseg.training.finish import filled_card, new_card, write_checkpoint
from thoraxseg.training.pictures import draw_curves
from thoraxseg.training.settings import Settings
from thoraxseg.training.validation import PICTURES, Validation
from thoraxseg.volume import directions_from_codes

if TYPE_CHECKING:
    import torch

    from thoraxseg.training.nnunet import NnunetOptions
    from thoraxseg.training.sampling import SamplingOptions
    from thoraxseg.training.source import PatchSource

logger = logging.getLogger(__name__)

CONFIG, DATA, FOLDS, RESULT, SUMMARY = (
    "config.json",
    "data.json",
    "splits_final.json",
    "result.json",
    "summary.json",
)
CHECKPOINT, PREPARED, CURVES, LOCK = "checkpoint", "prepared", "learning-curves.png", ".lock"
_MAY_DIFFER = ("fold", "data", "from", "animals")
"""Of a config, between two commands for one folder: folds are trained one after the other, and files may have moved;
that they are the same files is seen by what is in them."""


@dataclass(frozen=True)
class Plan:
    """What a run will do, known before anything is trained."""

    config: TrainConfig
    data: DataSet
    folds: tuple[Fold, ...]
    notes: tuple[str, ...]
    card: Card | None = None
    """None for nnU-Net, which plans the next three itself."""
    settings: Settings | None = None
    """Of the first fold; `steps_per_epoch` is 1 where it follows from the prepared cases."""
    parameters: int | None = None

    def to_record(self) -> dict[str, Any]:
        """Return the plan as plain data for JSON and for words."""
        animals, card = self.data.animals, self.card
        own = {} if card is None else {
            "network": {"name": card.architecture.name, **card.architecture.parameters},
            "parameters": self.parameters,
            "preprocess": [{"name": step.name, **step.parameters} for step in card.preprocess],
        }  # fmt: skip
        return {
            "preset": self.config.preset,
            "changed": changes(self.config),
            "data": self.data.name,
            "cases": len(self.data.cases),
            "animals": len({*animals.values()}),
            "structures": {label: one.name for label, one in self.data.labels.items()},
            **own,
            "folds": [
                {
                    "fold": number,
                    "training": len(fold.training),
                    "validation": len(fold.validation),
                    "held_out_animals": sorted({animals[name] for name in fold.validation}),
                }
                for number, fold in enumerate(self.folds)
                if number in self.config.chosen_folds
            ],
            "settings": dict(self.config.settings) if self.settings is None else self.settings.to_record(),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Trained:
    """What a run left behind."""

    checkpoint: Path
    """Folder of the native checkpoint."""
    card: Card
    summary: dict[str, Any]


def plan_run(config: TrainConfig, progress: Progress = silent) -> Plan:
    """Return what a run would do, after looking through the data set; nothing is written.

    Raises InputError, OptionError and CheckpointError as the run would, before anything is trained.
    """
    checked, found = _looked_through(config, progress)
    return _planned(config, checked, found)


def train(config: TrainConfig, folder: Path, progress: Progress = silent) -> Trained:
    """Train what a config says in a folder, or go on there, and return the checkpoint.

    A run whose learning diverges ends with the best weights there were, and says so. Raises OutputError for a folder
    of another run or that cannot be written, InputError when learning diverged before anything was kept, and as
    `plan_run`.
    """
    folder, progress = Path(folder), Steady(progress)
    check_writable(folder)
    with _alone(folder):
        _claim(folder, config)
        checked, found = _looked_through(config, part(progress, 0.0, 0.03))
        plan = _planned(config, checked, found)
        _compare_data(folder, found, checked, plan)
        _write(folder / CONFIG, config_text(config))
        _write_json(
            folder / DATA, {"digests": found.digests, "cases": list(checked.rows), "notes": list(plan.notes)}
        )
        write_folds(folder / FOLDS, plan.folds)
        if _is_nnunet(config):
            return _by_nnunet(plan, folder, part(progress, 0.03, 1.0))
        cases = {
            case.id: case
            for case in prepare_cases(plan.data, plan.card, folder / PREPARED, part(progress, 0.03, 0.06))
        }
        chosen = config.chosen_folds
        for index, number in enumerate(chosen):
            span = part(progress, 0.06 + 0.93 * index / len(chosen), 0.06 + 0.93 * (index + 1) / len(chosen))
            named = Named(span, f"Fold {number}: " if len(chosen) > 1 else "")
            if not (fold_folder(folder, number) / RESULT).exists():
                _train_fold(plan, number, cases, fold_folder(folder, number), named)
        progress(0.99, "Writing the checkpoint")
        trained = finish(plan, folder)
    progress(1.0, "Trained")
    return trained


def fold_folder(folder: Path, number: int) -> Path:
    """Return where a fold of a run is trained."""
    return folder / f"fold_{number}"


def finish(plan: Plan, folder: Path) -> Trained:
    """Write the checkpoint and the summary of a run from the best weights of every fold that is done."""
    from thoraxseg.training.trainer import BEST, LAST, kept_weights, read_state

    results, states = {}, {}
    for number in range(len(plan.folds)):
        place = fold_folder(folder, number)
        if (place / RESULT).exists():
            results[number] = json.loads((place / RESULT).read_text("utf-8"))
            kept = place / BEST if (place / BEST).exists() else place / LAST
            states[f"fold_{number}"] = kept_weights(read_state(kept))
    card = filled_card(plan.card, plan.config, plan.data, plan.folds, results)
    checkpoint = write_checkpoint(card, states, folder / CHECKPOINT, plan.config.half)
    warnings = [
        f"Fold {number}: learning diverged in epoch {result['epochs'] + 1}; the weights are those of its best epoch, "
        f"{result['best_epoch'] + 1}."
        for number, result in results.items()
        if result["reason"] == "DIVERGED"
    ]
    summary = {
        **plan.to_record(),
        "results": results,
        "warnings": warnings,
        "checkpoint": CHECKPOINT,
        "card": card.name,
        "validation": card.validation,
    }
    _write_json(folder / SUMMARY, summary)
    return Trained(checkpoint, open_checkpoint(checkpoint).card, summary)


class Steady:
    """A progress whose fraction never falls, whatever the parts of the work report."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._fraction = progress, 0.0

    def __call__(self, fraction: float, message: str) -> None:
        """Report; may raise to cancel."""
        self._fraction = max(self._fraction, min(fraction, 1.0))
        self._progress(self._fraction, message)


class Named:
    """A progress with words before every message."""

    def __init__(self, progress: Progress, words: str) -> None:
        self._progress, self._words = progress, words

    def __call__(self, fraction: float, message: str) -> None:
        """Report; may raise to cancel."""
        self._progress(fraction, f"{self._words}{message}")


@dataclass(frozen=True)
class _Found:
    """What the files of a data set are, beyond what the checks tell."""

    digests: dict[str, list[str]]
    """Case -> SHA-256 of its images and its labels; `--from` -> of the weights that training begins with."""
    median_mm: tuple[float, float, float]
    """Median spacing of the data set along (k, j, i) in the network's orientation."""


def _looked_through(config: TrainConfig, progress: Progress) -> tuple[Checked, _Found]:
    """Return the checked data set and what its files are."""
    data = _read_data_set(config)
    checked = check_data_set(data, config.skip_broken, part(progress, 0.0, 0.9))
    digests: dict[str, list[str]] = {}
    start = _start(config)
    if start is not None:
        digests["--from"] = [file.sha256 for file in start.card.weights]
    orientation = (config.input or {}).get("orientation", "RAS")
    for case in each(checked.data.cases, part(progress, 0.9, 1.0), "Noting which files these are"):
        digests[case.id] = [hash_input(path) for path in (*case.images, case.label)]
    spacings = [_spacing_as(orientation, row) for row in checked.rows if not row["problem"]]
    median = tuple(float(f"{value:.6g}") for value in np.median(np.array(spacings), axis=0))
    return checked, _Found(digests, median)


def _spacing_as(orientation: str, row: Mapping[str, Any]) -> np.ndarray:
    """Return the spacing of a checked case along (k, j, i) of the network's axes, as `ExpectedInput.codes_for`."""
    codes = row["axis_codes"]
    if orientation.islower():
        orientation = "".join(codes["ijk".index(axis)] for axis in orientation)
    along_ras = np.abs(directions_from_codes(codes)) @ np.array(row["spacing_mm_kji"][::-1])
    return (np.abs(directions_from_codes(orientation)).T @ along_ras)[::-1]


def _read_data_set(config: TrainConfig) -> DataSet:
    stack = None
    if config.stack_spacing_mm is not None:
        codes = (config.input or {}).get("orientation", "RAS")
        # A network that takes the file's own axes, whatever they are, is fed stacks as they lie.
        codes = "RAS" if codes.islower() else codes
        stack = StackGeometry(tuple(config.stack_spacing_mm), codes, "from the training config")
    labels = None if config.labels is None else {int(value): name for value, name in config.labels.items()}
    return read_data_set(
        config.data,
        animals=config.animals,
        labels=labels,
        label_map=config.label_map,
        operator=config.operator,
        species=config.species,
        modality=config.modality,
        stack=stack,
    )


def _planned(config: TrainConfig, checked: Checked, found: _Found) -> Plan:
    from thoraxseg.training.augmentation import check_augmentation
    from thoraxseg.training.losses import build_loss
    from thoraxseg.training.optimizers import build_optimizer, build_schedule
    from thoraxseg.training.starting import check_size, check_start, new_network

    data = checked.data
    own = given_folds(data)
    folds = own or split_by_animal(data, config.folds, config.seed)
    check_folds(data, folds)
    if config.fold != ALL and config.fold >= len(folds):
        raise OptionError(f"fold: the data set has the folds 0 to {len(folds) - 1}, got {config.fold}.")
    config = replace(config, folds=len(folds))
    if _is_nnunet(config):
        nnunet_options(config)
        if config.start_from is not None:
            raise OptionError("--from: nnU-Net begins anew; leave it away, or choose another system.")
        return Plan(config, data, tuple(folds), data.notes)
    card = new_card(config, data, found.median_mm)
    start = _start(config)
    if start is not None:
        check_start(card, start.card, config.reset_head)
    network = new_network(card, config.initialization, 0)
    first = config.chosen_folds[0]
    settings = _settings(config, card, checked.rows, folds[first], first, rounds=1)
    build_loss(settings.loss["name"], _without_name(settings.loss), _classes(card))
    optimizer = build_optimizer(network, settings.optimizer)
    build_schedule(optimizer, settings.schedule, settings.epochs, settings.steps_per_epoch)
    options = _sampling(config, card, settings)
    check_augmentation(_augmentation(config, card), options.dimensions)
    for where, size in _sizes(card, options):
        check_size(network, len(card.channels), size[-options.dimensions :], where)
    notes = [*data.notes, *_remarks(config, data, card, own is not None)]
    parameters = sum(tensor.numel() for tensor in network.parameters())
    return Plan(config, data, tuple(folds), tuple(notes), card, settings, parameters)


def _remarks(config: TrainConfig, data: DataSet, card: Card, own_folds: bool) -> Iterator[str]:
    if config.fast:
        yield "This is the short variant of the recipe (--fast): fewer filters and epochs than in the source."
    if own_folds:
        yield "The folds are those of the data set's own column."
    if config.resample_mm == "median":
        spacing = " x ".join(f"{value:g}" for value in card.input.spacing_mm)
        yield f"Images are resampled to the median spacing of the data set, {spacing} mm (slice x row x column)."
    if config.lung_map and len(data.channels) < len(card.channels):
        yield (
            "The lung map of the second channel is made of the labels, as the source trains; inference needs one from "
            "a file or a checkpoint (--lungs)."
        )
    if card.postprocess.rules == () and (config.postprocess or {}).get("rules"):
        yield "The clean-up of the recipe is left out: it is for other structures than those of the data set."
    modality = preset_modality(config)
    if (
        modality
        and data.modality not in ("not stated", modality)
        and not {modality, data.modality} <= {"CT", "micro-CT"}
    ):
        yield (
            f"The recipe prepares images of {modality}, the data set is of {data.modality}: check its steps, or give "
            "others with --set preprocess=[...]."
        )


def preset_modality(config: TrainConfig) -> str | None:
    """Return what kind of images the recipe of a config was made for; None where it does not matter."""
    from thoraxseg.training.presets import PRESETS

    preset = PRESETS.get(config.preset)
    return None if preset is None or preset.nnunet is not None else preset.recipe.modality


def _settings(
    config: TrainConfig,
    card: Card,
    rows: Sequence[Mapping[str, Any]],
    fold: Fold,
    number: int,
    rounds: int,
) -> Settings:
    """Return the settings of a fold; `rounds` is how many batches show all of its cases once."""
    values = dict(config.settings)
    if values.get("accumulate") == "cases":
        values["accumulate"] = len(fold.training)
    if values.get("steps_per_epoch") is None:
        values["steps_per_epoch"] = max(1, -(-rounds // values.get("accumulate", 1)))
    if values.get("precision") == "auto":
        values["precision"] = "float16" if _on_gpu(config.device) else "float32"
    loss = dict(values.get("loss") or {})
    if (
        loss.get("name") in ("weighted-cross-entropy", "fusion")
        and not {"class_weights", "class_counts"} & loss.keys()
    ):
        classes = max(2, _classes(card))
        if classes > 3:  # the paper has weights of two and three classes
            loss["class_counts"] = _counts(card, rows, fold)
        values["loss"] = loss
    return Settings.from_record({**values, "seed": config.seed * 1000 + number, "device": config.device})


def _counts(card: Card, rows: Sequence[Mapping[str, Any]], fold: Fold) -> list[int]:
    """Return the voxels of background and of each structure in the training cases."""
    mine = [row for row in rows if row["case"] in fold.training]
    each_one = [sum(row[f"voxels_{card.labels[label].key}"] for row in mine) for label in sorted(card.labels)]
    total = sum(int(np.prod(row["shape_kji"])) for row in mine)
    return [total - sum(each_one), *each_one]


def _threads(device: str) -> int:
    """Return how many cores make patches while a GPU learns; on a CPU the network needs them all."""
    import torch

    on_gpu = device != "cpu" and torch.cuda.is_available()
    return min(8, os.cpu_count() or 1) if on_gpu else 0


def _sampling(config: TrainConfig, card: Card, settings: Settings) -> SamplingOptions:
    """Return the checked sampling options, with the map of weights that a loss takes."""
    from thoraxseg.training.losses import balanced_weights, build_loss
    from thoraxseg.training.losses.values import published_weights
    from thoraxseg.training.sampling import SamplingOptions

    values = dict(config.sampling)
    name, classes = settings.loss["name"], _classes(card)
    if (
        build_loss(name, _without_name(settings.loss), classes).takes_weights
        and "border_weights" not in values
    ):
        weights = settings.loss.get("class_weights")
        if weights is None and "class_counts" in settings.loss:
            weights = balanced_weights(settings.loss["class_counts"])
        if weights is None:
            weights = published_weights(f"loss {name}", max(2, classes))
        values["border_weights"] = {"class_weights": list(weights)}
    if card.architecture.name == "deepmedic":
        from thoraxseg.models.deepmedic import FEATURES, output_size

        features = card.architecture.parameters.get("features", FEATURES)
        values["answer_size"] = output_size(values["patch_size"], len(features))
    _check_keys("sampling", values, SamplingOptions)
    try:
        return SamplingOptions(**values)
    except TypeError as error:
        raise OptionError(f"sampling: {error}.") from error


def _check_keys(section: str, values: Mapping[str, Any], options: type) -> None:
    known = [item.name for item in fields(options)]
    if unknown := [key for key in values if key not in known]:
        raise OptionError(f"{section}: unknown {', '.join(unknown)}; known are {', '.join(known)}.")


def _sizes(card: Card, options: SamplingOptions) -> Iterator[tuple[str, Sequence[int]]]:
    """Yield the sizes that a network is shown, by what decides them: in training, and in validation and use."""
    if options.sampler != "whole":
        yield "sampling.patch_size", options.patch_size
    size = shown_size(json.loads(card_text(card)))
    if size is not None:
        yield "inference.patch_size" if card.inference.patch_size else "preprocess", size


def _augmentation(config: TrainConfig, card: Card) -> dict[str, Any]:
    from thoraxseg.training.augmentation import side_options

    masks = [index for index, channel in enumerate(card.channels) if channel.source == "lungs"]
    return {**config.augmentation, "sides": side_options(card.labels), "masks": masks}


def _train_fold(
    plan: Plan, number: int, cases: Mapping[str, PreparedCase], folder: Path, progress: Progress
) -> None:
    """Train one fold to its end, or go on, and write its result last."""
    from thoraxseg.training.losses import build_loss
    from thoraxseg.training.source import PatchSource
    from thoraxseg.training.starting import new_network, started_from
    from thoraxseg.training.trainer import BEST, LAST, LOG, Reason, Trainer, kept_weights, read_state

    config, card, fold = plan.config, plan.card, plan.folds[number]
    rows = _rows_of(folder.parent)
    sampling = _sampling(config, card, plan.settings)
    source: PatchSource = PatchSource(
        [cases[name] for name in fold.training],
        sampling,
        _augmentation(config, card),
        config.seed * 1000 + number,
        folder,
        progress,
        threads=_threads(plan.settings.device),
    )
    settings = _settings(config, card, rows, fold, number, source.batches_per_round)
    loss = build_loss(settings.loss["name"], _without_name(settings.loss), _classes(card))
    network = new_network(card, config.initialization, settings.seed)
    start = _start(config)
    anew = () if start is None else started_from(network, card, start, number, config.reset_head)
    held_out = [cases[name] for name in fold.validation]
    validation = Validation(
        card, held_out, loss, sampling.batch_size, settings.score, folder / PICTURES, progress
    ).go_on(folder / LOG)
    trainer = Trainer(network, loss, source, settings, folder, validation, progress)
    ended = trainer.run()
    kept = folder / BEST if (folder / BEST).exists() else folder / LAST
    if not kept.exists():
        raise InputError(
            f"{folder}: learning diverged in the first epoch (the loss is not a number), so there is nothing to keep. "
            "Check the intensities and lower the learning rate, as in --set settings.optimizer.lr=1e-4 with another "
            "--output."
        )
    draw_curves(folder / LOG, folder / CURVES)
    best = _network_with(card, kept_weights(read_state(kept)), trainer.device)
    scores = validation.of(best, "Validating the best weights")
    result = {
        "fold": number,
        "reason": ended.reason.name,
        "why": ended.reason.value,
        "epochs": ended.epoch,
        "best_epoch": ended.best_epoch if ended.best_epoch is not None else ended.epoch - 1,
        "best_score": ended.best_score,
        "settings": settings.to_record(),
        "training": list(fold.training),
        "validation": scores.to_record(),
        "began_with": None if start is None else start.card.name,
        "begun_anew": list(anew),
        "device": str(trainer.device),
    }
    if ended.reason is Reason.DIVERGED:
        logger.warning("Fold %d: learning diverged; the best weights are kept.", number)
    _write_json(folder / RESULT, result)


def _network_with(card: Card, state: Mapping[str, torch.Tensor], device: torch.device) -> torch.nn.Module:
    from thoraxseg.models import build_network

    network = build_network(card.architecture.name, card.architecture.parameters)
    network.load_state_dict(state)
    return network.to(device).eval()


def _start(config: TrainConfig) -> Checkpoint | None:
    return None if config.start_from is None else open_checkpoint(config.start_from)


def _rows_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / DATA).read_text("utf-8"))["cases"]


def _classes(card: Card) -> int:
    return int(card.architecture.parameters["classes"])


def _without_name(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "name"}


def _on_gpu(device: str) -> bool:
    import torch

    return device != "cpu" and torch.cuda.is_available()


def _is_nnunet(config: TrainConfig) -> bool:
    return config.preset.startswith("nnunet-")


def nnunet_options(config: TrainConfig) -> NnunetOptions:
    """Return what the settings of a config ask of nnU-Net; raises OptionError for what cannot be used."""
    from thoraxseg.training.nnunet import NnunetOptions

    values = {key: value for key, value in config.settings.items() if key != "epochs"}
    _check_keys("settings", values, NnunetOptions)
    try:
        return NnunetOptions(**values, number_of_folds=config.folds, seed=config.seed)
    except TypeError as error:
        raise OptionError(f"settings: {error}.") from error


def _by_nnunet(plan: Plan, folder: Path, progress: Progress) -> Trained:
    """Hand a run to nnU-Net and return its native checkpoint."""
    from thoraxseg.checkpoints import About
    from thoraxseg.training.nnunet import train_nnunet

    config = plan.config
    (done,) = train_nnunet(
        plan.data,
        folder,
        (config.preset.removeprefix("nnunet-"),),
        None if config.fold == ALL else [config.fold],
        config.settings["epochs"],
        config.device,
        nnunet_options(config),
        plan.folds,
        About(name=config.name),
        progress,
    )
    card, mean = open_checkpoint(done.checkpoint).card, done.validation.mean
    dice = {key: value if np.isfinite(value) else None for key, value in done.validation.dice.items()}
    summary = {
        **plan.to_record(),
        "results": {
            ",".join(done.folds): {
                "reason": "FINISHED",
                "validation": {"dice": mean if np.isfinite(mean) else None, "loss": None, "structures": dice},
            }
        },
        "warnings": [],
        "checkpoint": str(done.checkpoint.relative_to(folder.absolute())),
        "card": card.name,
        "validation": card.validation,
    }
    _write_json(folder / SUMMARY, summary)
    return Trained(done.checkpoint, card, summary)


def _claim(folder: Path, config: TrainConfig) -> None:
    """Write the config into a new folder, or compare it with the one that is there.

    Raises OutputError naming the first values that differ.
    """
    path = folder / CONFIG
    if not path.exists():
        _write(path, config_text(config))
        return
    try:
        had = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path}: expected the config of a training run, cannot read it: {error}. Choose another --output."
        ) from error
    mine = json.loads(config_text(config))
    found = {key: pair for key, pair in differences(had, mine).items() if key not in _MAY_DIFFER}
    if found:
        told = "; ".join(
            f"{key} is {was!r:.60} there, {now!r:.60} here" for key, (was, now) in list(found.items())[:4]
        )
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        raise OutputError(
            f"{folder}: holds a run with another config: {told}{more}. Give the same values to go on with it, or "
            "another --output."
        )


def _compare_data(folder: Path, found: _Found, checked: Checked, plan: Plan) -> None:
    """Raise OutputError where a run goes on and its data set is no longer the one it began with.

    Files, animals, labels and folds count: an animal that was learned from must not come to be held out.
    """
    if not (folder / DATA).exists():
        return
    had = json.loads((folder / DATA).read_text("utf-8"))
    cases, now = _by_case(had["cases"]), _by_case(json.loads(json.dumps(checked.rows)))
    parts = [("files", had["digests"], found.digests), ("animals or labels", cases, now)]
    if (folder / FOLDS).exists():
        parts.append(("folds", _sides(read_folds(folder / FOLDS)), _sides(plan.folds)))
    for what, before, after in parts:
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        if changed:
            raise OutputError(
                f"{folder}: holds a run that began with other {what}: {', '.join(changed[:5])} changed, came or went "
                f"({len(changed)} of {len(before.keys() | after.keys())}). Restore them, or give another --output."
            )


def _by_case(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the rows of a checked data set by case; why one is broken is told with its path, which may change."""
    return {row["case"]: {**row, "problem": bool(row["problem"])} for row in rows}


def _sides(folds: Sequence[Fold]) -> dict[str, list[bool]]:
    """Return case -> whether each fold learns from it."""
    names = {name for fold in folds for name in (*fold.training, *fold.validation)}
    return {name: [name in fold.training for fold in folds] for name in names}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuse a second run in a folder; the system ends the lock with the process, so none is left behind."""
    if os.name != "posix":  # there a second run is not noticed
        yield
        return
    import fcntl

    # Not the folder itself: that is locked whenever files appear in it together.
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{folder}: another training runs in this folder. Wait for it, or choose another."
            ) from None
        except OSError:  # some network disks cannot lock
            logger.info("%s: cannot be locked; do not train twice in it at once.", folder)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, text: str) -> None:
    with publish_together(path.parent) as scratch:
        (scratch / path.name).write_text(text, encoding="utf-8")


def _write_json(path: Path, data: Any) -> None:
    _write(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


__all__ = ["Plan", "Trained", "finish", "plan_run", "train"]
