"""A trained nnU-Net model folder -> a native checkpoint whose card says what it learned from and was measured on."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from thoraxseg.checkpoints import About, Choice, convert, read_card
from thoraxseg.checkpoints.card import MODALITIES, SPECIES, card_text
from thoraxseg.checkpoints.catalog import CARD_FILE
from thoraxseg.checkpoints.describe import plain_name
from thoraxseg.checkpoints.nnunet_folder import read_json
from thoraxseg.files import new_folder
from thoraxseg.progress import Progress
from thoraxseg.training.data import DataSet
from thoraxseg.training.nnunet.recipe import Recipe
from thoraxseg.training.nnunet.steps import ALL

CITATION = (
    "Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep "
    "learning-based biomedical image segmentation. Nature Methods 18:203-211, 2021."
)
_THORAX = {"heart", "spinal_cord", "right_lung", "left_lung"}


@dataclass(frozen=True)
class Validation:
    """What nnU-Net measured on the cases that its folds left out."""

    dice: Mapping[str, float]
    """Structure key -> mean Dice of the cases; NaN where no case has it."""
    cases: int

    @property
    def mean(self) -> float:
        """The mean over structures; NaN where there is none."""
        found = [one for one in self.dice.values() if math.isfinite(one)]
        return float(np.mean(found)) if found else math.nan


def read_validation(model: Path, folds: Sequence[str], data: DataSet) -> Validation:
    """Return the mean Dice over all validation cases of some folds, from nnU-Net's `summary.json` files.

    nnU-Net leaves out a case that has a structure neither in truth nor contours.
    """
    found: dict[str, list[float]] = {structure.key: [] for structure in data.labels.values()}
    cases = 0
    for fold in folds:
        summary = read_json(model / f"fold_{fold}" / "validation" / "summary.json", strict=False)
        cases += len(summary["metric_per_case"])
        for case in summary["metric_per_case"]:
            for label, structure in data.labels.items():
                dice = case["metrics"][str(label)]["Dice"]
                if dice is not None:
                    found[structure.key].append(dice)
    return Validation({key: float(np.mean(all_)) if all_ else math.nan for key, all_ in found.items()}, cases)


def write_native(
    model: Path,
    folder: Path,
    data: DataSet,
    configuration: str,
    folds: Sequence[str],
    recipe: Recipe,
    validation: Validation,
    axes: str,
    about: About,
    progress: Progress,
) -> None:
    """Write the native checkpoint of a configuration; one of earlier folds that is there is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    told = about.over(_about(data, configuration, folds, recipe, axes))
    with new_folder(folder) as scratch:
        convert(model, scratch, told, Choice(configuration, tuple(folds)), progress)
        card = replace(
            read_card(scratch / CARD_FILE),
            labels=dict(sorted(data.labels.items())),
            validation=_measured(data, folds, validation),
        )
        (scratch / CARD_FILE).write_text(card_text(card), encoding="utf-8")
        read_card(scratch / CARD_FILE)


def _about(data: DataSet, configuration: str, folds: Sequence[str], recipe: Recipe, axes: str) -> About:
    names = [structure.name.lower() for structure in data.labels.values()]
    keys = {structure.key for structure in data.labels.values()}
    animals = len({*data.animals.values()})
    return About(
        name=plain_name(f"{data.name} {configuration}"),
        title=f"{data.name}: {', '.join(names)} (nnU-Net 2, {configuration})"[:200],
        description=(
            f"nnU-Net 2 ({configuration}, nnunetv2 {version('nnunetv2')}), trained with ThoraxSeg on {data.name}: "
            f"{len(data.cases)} cases of {animals} animals or persons; images: {', '.join(data.channels)}; contours: "
            f"{', '.join(names)}. {_folds(folds)} of {recipe.epochs} epochs of {recipe.iterations} batches, initial "
            f"learning rate {recipe.initial_lr:g}. Its images ran along {axes}; others are turned to that."
        )[:2000],
        task="mouse-thorax" if keys >= _THORAX else "lung-tumor" if "tumors" in keys else "other",
        species=data.species if data.species in SPECIES else "not stated",
        modality=data.modality if data.modality in MODALITIES else "not stated",
        orientation=axes,
        citation=CITATION,
    )


def _folds(folds: Sequence[str]) -> str:
    if tuple(folds) == (ALL,):
        return "One network that learned from every case"
    return f"{len(folds)} network(s), one a fold ({', '.join(folds)})"


def _measured(data: DataSet, folds: Sequence[str], validation: Validation) -> str:
    names = {structure.key: structure.name.lower() for structure in data.labels.values()}
    dice = ", ".join(
        f"{names[key]} {one:.3f}" if math.isfinite(one) else f"{names[key]} not measured (in no case)"
        for key, one in validation.dice.items()
    )
    if tuple(folds) == (ALL,):
        return (
            f"None. The network learned from every case; its mean Dice on these same {validation.cases} cases, which "
            f"says nothing of new ones: {dice}."
        )
    return (
        f"Cross-validation by nnU-Net itself within {data.name}, fold {', '.join(folds)}: mean Dice of "
        f"{validation.cases} cases, each contoured by the network that had seen no scan of its animal: {dice}. "
        f"{_kept_apart(data)}Not measured on images from anywhere else."
    )


def _kept_apart(data: DataSet) -> str:
    """Return a warning where scans of one animal could be in different folds, since none share one."""
    alone = all(animal == case for case, animal in data.animals.items())
    return "Every case counted as an animal of its own. " if alone else ""
