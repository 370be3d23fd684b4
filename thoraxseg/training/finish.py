"""What a run ends with: a card that says what was trained on what, and a checkpoint in the native form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoraxseg.checkpoints import Card, open_checkpoint
from thoraxseg.checkpoints import structures as naming
from thoraxseg.checkpoints.card import SCHEMA, CardFile, Source, card_text, parse_card
from thoraxseg.checkpoints.catalog import CARD_FILE
from thoraxseg.checkpoints.fields import FieldError
from thoraxseg.checkpoints.keep import check_it_fits
from thoraxseg.errors import CheckpointError, OptionError
from thoraxseg.files import publish_together, sha256_file
from thoraxseg.training.config import CHECKPOINT, TrainConfig, changes
from thoraxseg.training.data import DataSet, Fold
from thoraxseg.training.presets import preset_named

if TYPE_CHECKING:
    import torch

MAX_HALF = 65504
"""The largest number of 16 bits."""


def new_card(config: TrainConfig, data: DataSet, median_mm: Sequence[float]) -> Card:
    """Return the card of a run before anything is trained: how images are prepared and what is learned of them.

    `median_mm` is the median spacing of the data set along (k, j, i) of the network. Raises OptionError naming what in
    the config no card can hold.
    """
    resample = list(median_mm) if config.resample_mm == "median" else config.resample_mm
    steps = [] if resample is None else [{"name": "resample", "spacing_mm": list(resample)}]
    labels = {str(label): naming.to_json(one) for label, one in data.labels.items()}
    keys = {label: one.key for label, one in data.labels.items()}
    outputs = 1 if config.sigmoid and list(keys) == [1] else max(keys) + 1
    channels = [{"name": name[:80], "source": "image"} for name in data.channels]
    if config.lung_map and len(channels) == 1:
        channels.append({"name": "lung map", "source": "lungs"})
    elif config.lung_map:
        channels[-1]["source"] = "lungs"
    suits = keys == {1: "lungs", 2: "tumors"}  # what the clean-up of the papers is for
    card = {
        "schema": SCHEMA,
        "name": config.name,
        "title": f"{_system(config)}: {', '.join(one.name.lower() for one in data.labels.values())}",
        "description": "In training.",
        "task": _task(data),
        "species": data.species,
        "modality": data.modality,
        "labels": labels,
        "channels": channels,
        "architecture": {**config.network, "in_channels": len(channels), "classes": outputs},
        "input": {
            "spacing_mm": list(median_mm),
            "spacing_tolerance": 0.5,
            "side_known": data.stack is None,
            "stack_spacing_mm": None if data.stack is None else list(data.stack.spacing_mm),
            "stack_shape": None,
            "intensity": [],
            **config.input,
        },
        "preprocess": [*steps, *config.preprocess],
        "inference": {
            **config.inference,
            "temperature": 1,
            "temperature_reason": "The network's own logits; they have not been calibrated.",
        },
        "nnunet": None,
        "previous": None,
        "lungs_from": None,
        "postprocess": config.postprocess if suits else {"regions": [], "rules": []},
        "tumors": config.tumors if suits else None,
        "weights": [{"name": "weights", "sha256": "0" * 64, "size_bytes": 0, "member": ""}],
        "samples": [],
        "source": {"kind": "local", "requirement": "", "archive_sha256": ""},
        "license": config.license,
        "citation": _citation(config),
        "validation": "None yet.",
        "assumed": [],
    }
    try:
        return parse_card(card)
    except FieldError as problem:
        raise OptionError(f"the training config makes no card: {problem}.") from None


def filled_card(
    card: Card,
    config: TrainConfig,
    data: DataSet,
    folds: Sequence[Fold],
    results: Mapping[int, Mapping[str, Any]],
) -> Card:
    """Return the card of a run with what it was trained on, what was changed of the recipe, and how it did.

    `results` are those of the folds that are done, by number.
    """
    used = sorted({name for number in results for name in folds[number].training})
    changed = changes(config)
    starts = sorted({result["began_with"] for result in results.values() if result["began_with"]})
    told = [
        f"Trained on {_cases(used, data)} of the data set {data.name}"
        + (f", in {len(results)} folds whose answers are averaged." if len(results) > 1 else "."),
        f"Recipe: {_recipe(config)}.",
        f"Changed of it: {', '.join(f'{key} = {value}' for key, value in changed.items())}."
        if changed
        else "",
        "Short variant (--fast), not the recipe of the source." if config.fast else "",
        f"Began with the weights of {', '.join(starts)}." if starts else "",
        f"Seed {config.seed}; trained with ThoraxSeg {_version()}.",
        "It takes a lung map as its second channel." if config.lung_map else "",
    ]
    if config.preset != CHECKPOINT:
        told += [f"Not in the source, or not clear there: {'; '.join(preset_named(config.preset).notes)}."]
    return replace(
        card,
        description=" ".join(filter(None, told)),
        validation=_validation(card, config, data, folds, results),
        assumed=_assumed(data),
    )


def _assumed(data: DataSet) -> tuple[str, ...]:
    if data.stack is None:
        return ()
    spacing = " x ".join(f"{size:g}" for size in data.stack.spacing_mm)
    return (
        f"The images that it was trained on state no geometry: {spacing} mm along (slice, row, column) and axes "
        f"{data.stack.axis_codes} were taken, {data.stack.reason}.",
    )


def _validation(
    card: Card,
    config: TrainConfig,
    data: DataSet,
    folds: Sequence[Fold],
    results: Mapping[int, Mapping[str, Any]],
) -> str:
    names = {structure.key: structure.name for structure in card.labels.values()}
    told = []
    for number, result in results.items():
        held = folds[number].validation
        found = result["validation"]["structures"]
        scores = [
            f"{names[key]} {'in no case' if value is None else f'{value:.3f}'}"
            for key, value in found.items()
        ]
        told.append(
            f"Fold {number}: mean Dice of {_cases(held, data, 'held-out ')} on the network's grid, before clean-up: "
            f"{', '.join(scores)} (best epoch {result['best_epoch'] + 1} of {result['epochs']})."
        )
        if result["reason"] == "DIVERGED":
            told.append("Learning diverged afterwards.")
    told.append("The same cases chose the best epoch, so these numbers are somewhat too good.")
    if config.animals is None and all(case.animal == case.id for case in data.cases):
        told.append("Every case was taken for an animal of its own, since nothing says otherwise.")
    if config.start_from is not None:
        told.append("The checkpoint that training began with may have seen these animals before.")
    told.append("Not measured on any other data.")
    return " ".join(told)


def _task(data: DataSet) -> str:
    keys = {structure.key for structure in data.labels.values()}
    if "tumors" in keys:
        return "lung-tumor"
    return "mouse-thorax" if "heart" in keys and data.species == "mouse" else "other"


def _system(config: TrainConfig) -> str:
    return config.network["name"] if config.preset == CHECKPOINT else preset_named(config.preset).system


def _recipe(config: TrainConfig) -> str:
    if config.preset == CHECKPOINT:
        return "ThoraxSeg's own for networks that a checkpoint brings"
    preset = preset_named(config.preset)
    return f"preset {preset.name}, after {preset.source}"


def _citation(config: TrainConfig) -> str:
    return f"ThoraxSeg; {_recipe(config)}"


def _version() -> str:
    from thoraxseg import __version__

    return __version__


def _cases(names: Sequence[str], data: DataSet, kind: str = "") -> str:
    animals = {data.animals[name] for name in names}
    return f"{_count(len(names), f'{kind}case')} of {_count(len(animals), 'animal')}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def write_checkpoint(
    card: Card,
    network_state: Mapping[str, torch.Tensor] | Mapping[str, Mapping[str, torch.Tensor]],
    folder: Path,
    half: bool = False,
) -> Path:
    """Write `card.json` and the weights into a folder and return the folder; an earlier checkpoint in it is replaced.

    `network_state` are the tensors of one network, or those of several folds by name such as `fold_0`. `half`
    keeps tensors of two and more dimensions in 16 bits; norms and biases, which take no room, stay as they are.
    What was written is opened and loaded into its network before it appears under its name. Raises CheckpointError
    for weights that do not fit the card or 16 bits, OutputError when the folder cannot be written.
    """
    from safetensors.torch import save

    folder = Path(folder)
    several = all(isinstance(state, Mapping) for state in network_state.values())
    states = dict(network_state) if several else {"weights": network_state}
    with publish_together(folder, CARD_FILE) as scratch:
        files = []
        for name, state in states.items():
            path = scratch / f"{name}.safetensors"
            # Not save_file, whose files nobody else may read.
            path.write_bytes(save({key: _stored(key, tensor, half) for key, tensor in state.items()}))
            files.append(CardFile(path.name, sha256_file(path), path.stat().st_size, ""))
        card = replace(card, weights=tuple(files), samples=(), source=Source("local", "", ""))
        (scratch / CARD_FILE).write_text(card_text(card), encoding="utf-8")
        check_it_fits(open_checkpoint(scratch))
    _remove_others(folder, [file.name for file in files])
    return folder


def _stored(name: str, tensor: torch.Tensor, half: bool) -> torch.Tensor:
    tensor = tensor.detach().cpu().contiguous().clone()
    if not (half and tensor.is_floating_point() and tensor.ndim > 1):
        return tensor
    if (largest := float(tensor.abs().max())) > MAX_HALF:
        raise CheckpointError(
            f"the tensor {name} holds numbers up to {largest:g}, more than 16 bits can ({MAX_HALF}). Keep the weights "
            "in 32 bits."
        )
    return tensor.half()


def _remove_others(folder: Path, names: Sequence[str]) -> None:
    """Remove weights of an earlier checkpoint that the card no longer lists."""
    for path in folder.glob("*.safetensors"):
        if path.name not in names:
            path.unlink()
