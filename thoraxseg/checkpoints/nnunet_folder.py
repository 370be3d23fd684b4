"""What the readers of both nnU-Net versions share: folders, folds, JSON files, and checks of single values.

Nothing here knows what stands in the plans of one version; see `nnunet_v1` and `nnunet_v2`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thoraxseg.checkpoints import fields
from thoraxseg.checkpoints.fields import FieldError, list_of, not_finite, unique
from thoraxseg.errors import CheckpointError

MAX_JSON = 16 << 20
MAX_FOLDERS = 10_000
MAX_DEPTH = 4
"""Folders between the one given and a model; `nnUNet/3d_fullres/Task/model` of v1 has the most."""
MAX_LABEL = 255
"""Label maps of ThoraxSeg have 8 bits."""
MAX_STAGES, MAX_FEATURES, MAX_CONVS, MAX_KERNEL, MAX_PATCH = 12, 2048, 32, 15, 8192
STATISTICS = ("mean", "std", "percentile_00_5", "percentile_99_5")
REMEDY = "Get the model from its source again."


def search_models(folder: Path, is_model: Callable[[Path], bool]) -> list[Path]:
    """Return the model folders among `folder` and the folders below it, sorted."""
    found, level, seen = [], [Path(folder)], 0
    for _ in range(MAX_DEPTH + 1):
        below = []
        for place in level:
            seen += 1
            if seen > MAX_FOLDERS:
                raise CheckpointError(
                    f"{folder}: holds more than {MAX_FOLDERS} folders; give the folder of one model."
                )
            if is_model(place):
                found.append(place)
            else:
                below += child_folders(place)
        level = below
    return sorted(found)


def child_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted; links are not followed, and none that cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def choose_model(
    folder: Path, models: Sequence[Path], configurations: Mapping[Path, str], wanted: str | None
) -> Path:
    """Return the one model that is meant; raises CheckpointError listing the models when it is not clear."""
    chosen = [model for model in models if wanted in (None, configurations[model])]
    listed = ", ".join(
        f"{configurations[model]} ({model.relative_to(folder)})" for model in (chosen or models)[:20]
    )
    if not chosen:
        raise CheckpointError(f"{folder}: has no model of configuration {wanted!r}; there are: {listed}.")
    if len(chosen) > 1:
        different = {configurations[model] for model in chosen}
        remedy = (
            "Choose one by its configuration (--configuration NAME)"
            if len(different) > 1
            else "Give one by its own folder"
        )
        if len(different) > 1 and any("cascade" in name for name in different):
            remedy += (
                "; a cascade has two by design: choose its second stage, which finds the first by itself"
            )
        raise CheckpointError(
            f"{folder}: holds {len(chosen)} models that could be meant: {listed}. {remedy}."
        )
    return chosen[0]


def fold_folders(model: Path) -> dict[str, Path]:
    """Return the folders of the folds of a model, v2 or v1, by name (`0`, `all`), in order."""
    folders = {}
    for place in child_folders(model):
        if (name := _fold_of(place.name)) is not None:
            folders[name] = place
    return dict(sorted(folders.items(), key=lambda item: fold_key(item[0])))


def _fold_of(folder_name: str) -> str | None:
    match = re.fullmatch(r"fold_(\d{1,4})|(?:fold_)?(all)", folder_name, re.ASCII)
    return None if match is None else str(int(match[1])) if match[1] else "all"


def model_of(checkpoint: Path, plans_name: str) -> tuple[Path, str] | None:
    """Return the model folder that a checkpoint lies in and the name of its fold; None where it lies elsewhere."""
    place = checkpoint.absolute().parent
    fold = _fold_of(place.name)
    if fold is None or not (place.parent / plans_name).is_file():
        return None
    return place.parent, fold


def fold_key(name: str) -> tuple[bool, int, str]:
    """Sort folds by number, `all` last."""
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)


def choose_folds(
    model: Path, names: Mapping[str, Path], file_name: str, other_name: str, folds: Sequence[str] | None
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the checkpoint of every fold wanted, and notes on folds left out.

    `names` are the fold folders that exist. Without a wish these are all that hold the file; `all` is taken
    when there is no other. Raises CheckpointError saying which folds are there and which are not.
    """
    there = {name: place / file_name for name, place in names.items() if (place / file_name).is_file()}
    listed = ", ".join(there) or "none"
    others = [name for name, place in names.items() if name not in there and (place / other_name).is_file()]
    hint = f" Folds {', '.join(others)} have {other_name} only: ask for that one." if others else ""
    if folds is not None:
        wanted = [_plain_fold(fold) for fold in folds]
        if not wanted or len(set(wanted)) < len(wanted):
            raise CheckpointError(f"{model}: expected different folds, got {list(folds)!r:.80}.")
        if missing := [fold for fold in wanted if fold not in there]:
            raise CheckpointError(
                f"{model}: {file_name} of fold {', '.join(missing)!r:.80} is missing; folds with this file: "
                f"{listed}.{hint}"
            )
        return {fold: there[fold] for fold in wanted}, ()
    chosen = {name: path for name, path in there.items() if name != "all"} or there
    if not chosen:
        raise CheckpointError(
            f"{model}: no fold has {file_name}; fold folders: {', '.join(names) or 'none'}.{hint} Give the whole "
            "model folder, with its folds."
        )
    notes = [f"fold {name} has no {file_name} and was left out" for name in names if name not in there]
    return chosen, tuple(notes)


def _plain_fold(fold: object) -> str:
    """Return the name of a fold as a user may write it (`fold_0`, `00`, `all`) as `0` or `all`."""
    name = str(fold).strip().removeprefix("fold_")
    return str(int(name)) if re.fullmatch(r"\d{1,4}", name, re.ASCII) else name


def fold_told(value: Any, where: str) -> str:
    """The fold that a checkpoint says it is of: a number from 0, or `all`."""
    if not re.fullmatch(r"\d{1,4}|all", str(value), re.ASCII) or type(value) not in (int, str):
        raise FieldError(f"{where} must be the number of a fold or 'all', got {value!r:.80}")
    return _plain_fold(value)


def check_lone(
    path: Path, fold: str, file_name: str, best_name: str, folds: Sequence[str] | None, best: bool
) -> list[str]:
    """Return notes on one checkpoint file that was given by itself; it must be what is wished for besides.

    `file_name` and `best_name` are what nnU-Net calls the final and the best one. Raises CheckpointError when
    `folds` asks for others than its `fold`, or `best` for the best one and its name says it is not.
    """
    if folds is not None and [_plain_fold(one) for one in folds] != [fold]:
        raise CheckpointError(
            f"{path}: is of fold {fold}, but folds {list(folds)!r:.80} are asked for. Give the model folder to "
            "choose among its folds."
        )
    if best and path.name != best_name:
        raise CheckpointError(
            f"{path}: is not called {best_name}, but the best checkpoint is asked for. Give that one, or the model "
            "folder."
        )
    if path.name in (file_name, best_name):
        return []
    return [f"{path.name} is called neither {file_name} nor {best_name}; it is taken as it is"]


def read_json(path: Path, strict: bool = True) -> dict[str, Any]:
    """Return the object in a JSON file whose keys are all different.

    NaN and infinities are refused; without `strict` they are read as None, for files that hold scores besides.
    Raises CheckpointError naming the file.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: the file is missing; expected a whole nnU-Net model folder. Copy it there again."
        )
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_JSON + 1)
        if len(raw) > MAX_JSON:
            raise FieldError(f"it is larger than {MAX_JSON >> 20} MiB")
        constant = not_finite if strict else (lambda text: None)
        data = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=unique, parse_constant=constant)
        if not isinstance(data, dict):
            raise FieldError(f"it holds a {type(data).__name__} instead of an object")
    except OSError as error:
        raise CheckpointError(f"{path}: the file cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, got: {error}. Fetch the file again.") from error
    except FieldError as problem:
        raise CheckpointError(f"{path}: {problem}. Get the file from its source again.") from None
    return data


@contextmanager
def naming(path: Path | str, remedy: str) -> Iterator[None]:
    """Turn what a parser finds wrong into a CheckpointError that names the file and what to do."""
    try:
        yield
    except FieldError as problem:
        raise CheckpointError(f"{path}: {problem}. {remedy}") from None


def below(most: int) -> fields.Parser:
    """A whole number from 1 to `most`."""

    def parse(value: Any, where: str) -> int:
        if fields.size(value, where) > most:
            raise FieldError(f"{where} must be at most {most}, got {value}")
        return value

    return parse


def odd(value: Any, where: str) -> int:
    """An odd whole number that can be the size of a kernel."""
    if below(MAX_KERNEL)(value, where) % 2 == 0:
        raise FieldError(f"{where} must be odd, got {value}")
    return value


def permutation(value: Any, where: str) -> tuple[int, int, int]:
    """The order of three axes."""
    axes = list_of(fields.count, 3)(value, where)
    if sorted(axes) != [0, 1, 2]:
        raise FieldError(f"{where} must be an order of the axes 0, 1, 2, got {value!r:.80}")
    return axes


def check_inverse(forward: Sequence[int], backward: Sequence[int]) -> None:
    """Refuse two axis orders of which one does not undo the other."""
    if [forward[axis] for axis in backward] != [0, 1, 2]:
        raise FieldError(
            f"transpose_backward {list(backward)} does not undo transpose_forward {list(forward)}"
        )


def check_strides(strides: Sequence[Sequence[int]], patch: Sequence[int], where: str) -> None:
    """Refuse a network whose output is smaller than its input, or that a patch cannot pass."""
    if any(step != 1 for step in strides[0]):
        raise FieldError(
            f"{where}: the first of the strides must be 1 along every axis, got {list(strides[0])}"
        )
    for size, steps in zip(patch, zip(*strides, strict=True), strict=True):
        if size % math.prod(steps):
            raise FieldError(
                f"{where}: patch_size {list(patch)} cannot be divided by the strides of the network"
            )


def statistics_of(properties: Any, key: Any, spread: str = "std") -> dict[str, float]:
    """Return the intensity statistics of one channel; `spread` is the key of the standard deviation."""
    found = properties.get(key) if isinstance(properties, Mapping) else None
    if not isinstance(found, Mapping):
        raise FieldError(
            f"the intensity properties of channel {key} are missing, which CT normalization needs"
        )
    where = f"intensity properties of channel {key}"
    keys = {name: spread if name == "std" else name for name in STATISTICS}
    values = {name: fields.number(found.get(key), f"{where}: {key}") for name, key in keys.items()}
    if values["std"] < 0 or values["percentile_00_5"] > values["percentile_99_5"]:
        raise FieldError(f"{where}: the standard deviation is negative or the percentiles are swapped")
    return values


def largest(
    wanted: Sequence[int], known: Sequence[int], where: str, minimum: float | None
) -> Mapping[str, Any]:
    """Return the step that keeps the largest component of some labels taken together."""
    if not wanted or set(wanted) - set(known):
        raise FieldError(
            f"{where} must give labels of the model ({', '.join(map(str, known))}), got {wanted!r:.80}"
        )
    return {"labels": tuple(sorted(set(wanted))), "keep": "largest", "min_size_mm3": minimum}
