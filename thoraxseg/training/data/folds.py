"""Folds by animal: scans of one animal are never on both sides, in the form of nnU-Net's `splits_final.json`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thoraxseg.errors import InputError, OptionError
from thoraxseg.files import publish_together
from thoraxseg.training.data.data_set import DataSet
from thoraxseg.training.data.words import read_json, some


@dataclass(frozen=True)
class Fold:
    """Which cases a network is trained on and which it is validated on."""

    training: tuple[str, ...]
    validation: tuple[str, ...]


def split_by_animal(data: DataSet, folds: int, seed: int) -> list[Fold]:
    """Return so many folds; every animal validates in one of them.

    The same data set and seed give the same folds, whatever the order of its cases. Animals with many scans are dealt
    first, each to the fold with the fewest scans so far, so that folds are as large as one another as animals allow.
    Raises OptionError for less than 2 folds or more folds than animals.
    """
    by_animal: dict[str, list[str]] = defaultdict(list)
    for case in data.cases:
        by_animal[case.animal].append(case.id)
    if folds < 2:
        raise OptionError(
            f"folds: expected 2 or more, got {folds}: one fold would validate on what it is trained on."
        )
    if len(by_animal) < folds:
        advice = (
            f"Choose at most {len(by_animal)} folds"
            if len(by_animal) > 1
            else "Scans of one animal cannot validate one another: add animals, or train without validation"
        )
        raise OptionError(
            f"folds: expected {folds} animals or more, since all scans of one are in one fold; {data.name} has "
            f"{len(by_animal)}: {some(sorted(by_animal))}. {advice}."
        )
    order = sorted(by_animal)
    np.random.default_rng(seed).shuffle(order)
    order.sort(key=lambda animal: -len(by_animal[animal]))  # stable: chance decides among equals
    held: list[list[str]] = [[] for _ in range(folds)]
    animals = [0] * folds
    for animal in order:
        fold = min(range(folds), key=lambda n: (len(held[n]), animals[n], n))
        held[fold] += by_animal[animal]
        animals[fold] += 1
    return [_fold(data, validation) for validation in held]


def given_folds(data: DataSet) -> list[Fold] | None:
    """Return the folds that the data set itself gives (the column fold), in the order of their names; None without.

    Cases without a fold are always trained on. Raises InputError as `check_folds`.
    """
    held: dict[str, list[str]] = defaultdict(list)
    for case in data.cases:
        if case.fold is not None:
            held[case.fold].append(case.id)
    if not held:
        return None
    names = sorted(held, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    folds = [_fold(data, held[name]) for name in names]
    check_folds(data, folds)
    return folds


def _fold(data: DataSet, validation: Collection[str]) -> Fold:
    held = {*validation}
    names = sorted(case.id for case in data.cases)
    return Fold(tuple(n for n in names if n not in held), tuple(n for n in names if n in held))


def check_folds(data: DataSet, folds: Sequence[Fold]) -> None:
    """Raise InputError, naming them, for cases that are not there, and for a case or an animal on both sides."""
    animals = data.animals
    if not folds:
        raise InputError(f"{data.name}: expected one fold or more, got none.")
    for number, fold in enumerate(folds):
        where = f"{data.name}, fold {number}"
        if unknown := [name for name in (*fold.training, *fold.validation) if name not in animals]:
            raise InputError(
                f"{where}: {some(unknown)} is not in the data set. Are the folds of another one, or were cases left "
                "out?"
            )
        for side, names in (("train", fold.training), ("validate", fold.validation)):
            if not names:
                raise InputError(f"{where}: expected cases to {side} on, got none.")
            if len({*names}) < len(names):
                raise InputError(f"{where}: a case is among those to {side} on twice.")
        if both := sorted(
            {animals[name] for name in fold.training} & {animals[name] for name in fold.validation}
        ):
            cases = [name for name in (*fold.training, *fold.validation) if animals[name] == both[0]]
            raise InputError(
                f"{where}: {len(both)} animal(s) both to train and to validate on: {some(both)} (cases {some(cases)}). "
                "The score would say how well they are remembered. Put all scans of an animal on one side."
            )


def without_cases(folds: Sequence[Fold], names: Collection[str]) -> list[Fold]:
    """Return the folds without some cases, such as broken ones."""
    return [
        Fold(
            tuple(name for name in fold.training if name not in names),
            tuple(name for name in fold.validation if name not in names),
        )
        for fold in folds
    ]


def read_folds(path: Path) -> list[Fold]:
    """Return the folds in a `splits_final.json` of nnU-Net; raises InputError for another file."""
    data = read_json(Path(path))
    found = []
    for item in data if isinstance(data, list) else ():
        sides = [item.get("train"), item.get("val")] if isinstance(item, dict) else []
        if not sides or not all(
            isinstance(side, list) and all(isinstance(n, str) for n in side) for side in sides
        ):
            break
        found.append(Fold(tuple(sides[0]), tuple(sides[1])))
    if not isinstance(data, list) or len(found) < len(data) or not found:
        raise InputError(
            f'{path}: expected folds as nnU-Net writes them, [{{"train": ["case", ...], "val": [...]}}, ...], got '
            f"{data!r:.120}."
        )
    return found


def write_folds(path: Path, folds: Sequence[Fold]) -> None:
    """Write folds as `splits_final.json` of nnU-Net; raises OutputError when it cannot be written whole."""
    path = Path(path)
    plain = [{"train": list(fold.training), "val": list(fold.validation)} for fold in folds]
    with publish_together(path.parent) as scratch:
        (scratch / path.name).write_text(
            json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
