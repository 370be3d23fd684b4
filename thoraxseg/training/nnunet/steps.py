"""What is asked for -> the steps of nnU-Net that lead there, each done once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from thoraxseg.training.nnunet.recipe import CASCADE, CONFIGURATIONS, FULLRES, LOWRES, Recipe

PLAN, ADAPT, PREPROCESS, TRAIN, CLEAN_UP = "plan", "adapt", "preprocess", "train", "clean-up"
ALL = "all"
"""The fold that learns from every case."""
_OTHER_SHARE = 0.02
"""Part of the whole time that a step without training is shown to take; a guess."""


@dataclass(frozen=True)
class Step:
    """One thing that nnU-Net does."""

    do: str
    configuration: str = ""
    folds: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the file that says the step is done."""
        return "_".join(filter(None, (self.do, self.configuration, *self.folds)))

    @property
    def words(self) -> str:
        """The step for people."""
        folds = f", fold {', '.join(self.folds)}" if self.folds else ""
        doing = {
            PLAN: "planning networks for the data set",
            ADAPT: f"changing the plan of {self.configuration}",
            PREPROCESS: f"preparing the images for {self.configuration}",
            TRAIN: f"{self.configuration}{folds}",
            CLEAN_UP: f"looking for a clean-up of {self.configuration}",
        }
        return doing[self.do]

    def to_record(self) -> dict[str, object]:
        """Return the step as plain data for JSON."""
        return asdict(self)


def steps_for(
    configurations: Sequence[str], folds: Sequence[str], all_folds: Sequence[str], clean_up: bool
) -> tuple[Step, ...]:
    """Return the steps in order, for configurations in the order of training.

    The second stage of a cascade learns from the first stage's contours of every case, and each fold has those of
    its own validation only: so it needs all folds of the first stage, whichever are wanted of the second.
    """
    wanted: dict[str, tuple[str, ...]] = {name: tuple(folds) for name in configurations}
    if CASCADE in wanted:
        first = (ALL,) if tuple(folds) == (ALL,) else tuple(dict.fromkeys((*all_folds, *folds)))
        wanted = {**wanted, LOWRES: first}
    order = [name for name in CONFIGURATIONS if name in wanted]
    # nnU-Net contours for the second stage whenever it validates the first: fine images have to be there.
    prepared = {FULLRES if name == CASCADE else name for name in order} | (
        {FULLRES} if LOWRES in order else set()
    )
    # All plans come first: one that cannot be had is told before days of training.
    found = [Step(PLAN), *(Step(ADAPT, name) for name in order)]
    found += [Step(PREPROCESS, name) for name in CONFIGURATIONS if name in prepared]
    for name in order:
        found += [Step(TRAIN, name, (fold,)) for fold in wanted[name]]
        if clean_up and ALL not in wanted[name]:
            found.append(Step(CLEAN_UP, name, wanted[name]))
    return tuple(found)


def shares(steps: Sequence[Step], recipes: Mapping[str, Recipe]) -> list[float]:
    """Return for each step the part of the whole time that it is expected to take; they sum to 1."""
    work = [
        recipes[step.configuration].epochs * recipes[step.configuration].iterations if step.do == TRAIN else 0
        for step in steps
    ]
    training = sum(work)
    weights = [one / training if one else _OTHER_SHARE for one in work] if training else [1.0] * len(work)
    return [weight / sum(weights) for weight in weights]


def marker(folder: Path, step: Step) -> Path:
    """Return the file whose being there says that a step is done."""
    return folder / "steps" / step.name
