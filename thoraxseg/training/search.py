"""Random search: settings drawn from declared ranges, one run each, a table of what they reached.

Each trial is a run of its own in a folder of its own, so that a search that was stopped goes on; what a trial draws
depends on the seed and its number alone.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from thoraxseg.errors import CheckpointError, InputError, OptionError
from thoraxseg.files import check_writable, publish_together
from thoraxseg.progress import Progress, part, silent
from thoraxseg.tables import write_csv
from thoraxseg.training.config import TrainConfig, with_values
from thoraxseg.training.run import Steady, train

logger = logging.getLogger(__name__)

TABLE, RECORD = "search.csv", "search.json"
KINDS = ("choice", "uniform", "log_uniform", "whole")


def draw(ranges: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Return one value for each range, drawn in the order of their keys.

    A range is `{"choice": [...]}`, `{"uniform": [low, high]}`, `{"log_uniform": [low, high]}` (low above 0) or
    `{"whole": [low, high]}` (both ends count). Raises OptionError naming the key of one that is none.
    """
    values = {}
    for key in sorted(ranges):
        kind, limits = _checked(key, ranges[key])
        if kind == "choice":
            values[key] = limits[int(rng.integers(len(limits)))]
        elif kind == "whole":
            values[key] = int(rng.integers(limits[0], limits[1] + 1))
        elif kind == "uniform":
            values[key] = float(f"{rng.uniform(*limits):.6g}")
        else:
            values[key] = float(f"{math.exp(rng.uniform(math.log(limits[0]), math.log(limits[1]))):.6g}")
    return values


def _checked(key: str, given: Any) -> tuple[str, list[Any]]:
    if not isinstance(given, Mapping) or len(given) != 1 or next(iter(given)) not in KINDS:
        raise OptionError(
            f"search.{key}: expected one of {', '.join(KINDS)} with its values, as in "
            f'{{"log_uniform": [1e-5, 1e-2]}}, got {given!r:.80}.'
        )
    kind, limits = next(iter(given.items()))
    is_list = isinstance(limits, (list, tuple)) and len(limits) > 0
    if kind == "choice":
        good, wanted = is_list, "a list of values"
    else:
        good = is_list and len(limits) == 2 and all(type(one) in (int, float) for one in limits)
        good = good and limits[0] <= limits[1] and (kind != "log_uniform" or limits[0] > 0)
        good = good and (kind != "whole" or all(type(one) is int for one in limits))
        wanted = "[low, high]" + {"log_uniform": ", low above 0", "whole": " in whole numbers"}.get(kind, "")
    if not good:
        raise OptionError(f"search.{key}.{kind}: expected {wanted}, got {limits!r:.80}.")
    return kind, list(limits)


def search_settings(
    config: TrainConfig, folder: Path, trials: int, progress: Progress = silent
) -> dict[str, Any]:
    """Train with so many random settings and return the record of the search, best trial first.

    Ranges are those of the config's `search`. All trials share folds and seed, so that they differ in what was drawn
    alone. A trial whose settings cannot be used or that diverges is listed with the reason; the others go on. Writes
    `search.csv` and `search.json` after every trial. Raises OptionError without ranges, OutputError for a folder that
    cannot be written.
    """
    if not config.search:
        raise OptionError(
            f"--search: the system {config.preset} declares no ranges; give some, as in "
            '--set search={"settings.optimizer.lr": {"log_uniform": [1e-5, 1e-2]}}.'
        )
    folder, progress = Path(folder), Steady(progress)
    check_writable(folder)
    drawn = [draw(config.search, np.random.default_rng([config.seed, number])) for number in range(trials)]
    plans = [
        with_values(config, values) for values in drawn
    ]  # a wrong key is said before anything is trained
    plans = [replace(plan, search=None, name=f"{config.name}-{n:03d}"[-80:]) for n, plan in enumerate(plans)]
    measure = config.settings.get("score", "dice")
    found: list[dict[str, Any]] = []
    for number, (plan, values) in enumerate(zip(plans, drawn, strict=True)):
        name = f"trial_{number:03d}"
        row: dict[str, Any] = {
            "trial": number,
            "folder": name,
            "score": None,
            "values": values,
            "problem": "",
        }
        try:
            span = part(progress, number / trials, (number + 1) / trials)
            done = train(plan, folder / name, span)
        except (InputError, OptionError, CheckpointError) as problem:
            logger.warning("%s: %s", name, problem)
            row["problem"] = str(problem)
        else:
            row["score"] = _score(done.summary["results"], measure)
        found.append(row)
        record = _record(found, measure)
        _write(folder, record)
    if all(row["problem"] for row in found):
        raise InputError(
            f"{folder}: every one of the {trials} trials failed. The first reason: {found[0]['problem']}"
        )
    return record


def _score(results: Mapping[Any, Any], measure: str) -> float | None:
    """Return the mean over folds of the score by which the best epoch was chosen."""
    scores = [result["validation"][measure] for result in results.values()]
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None


def _record(found: list[dict[str, Any]], measure: str) -> dict[str, Any]:
    sign = 1 if measure == "loss" else -1
    best_first = sorted(
        found, key=lambda row: (row["score"] is None, sign * (row["score"] or 0.0), row["trial"])
    )
    best = best_first[0]["folder"] if best_first[0]["score"] is not None else None
    return {"measure": measure, "best": best, "trials": best_first}


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    keys = list(record["trials"][0]["values"])
    rows = [
        {"trial": row["trial"], record["measure"]: row["score"], **row["values"], "problem": row["problem"]}
        for row in record["trials"]
    ]
    rows = [{key: str(v) if isinstance(v, (list, dict)) else v for key, v in row.items()} for row in rows]
    with publish_together(folder) as scratch:
        write_csv(scratch / TABLE, ["trial", record["measure"], *keys, "problem"], rows)
        (scratch / RECORD).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
