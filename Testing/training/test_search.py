"""Random search: what is drawn, one run a trial, a table of all, going on."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from Testing.training.tiny_runs import TINY, write_data
from thoraxseg.errors import InputError, OptionError
from thoraxseg.progress import Cancelled
from thoraxseg.training.config import make_config
from thoraxseg.training.presets import PRESETS
from thoraxseg.training.search import draw, search_settings

pytestmark = pytest.mark.usefixtures("one_thread")

RANGES = {
    "settings.optimizer.lr": {"log_uniform": [1e-5, 1e-2]},
    "network.dropout": {"uniform": [0.1, 0.3]},
    "sampling.batch_size": {"choice": [1, 2, 4]},
    "settings.patience": {"whole": [3, 5]},
}


def test_values_are_drawn_from_their_ranges_and_rates_evenly_over_their_powers_of_ten():
    drawn = [draw(RANGES, np.random.default_rng([1, n])) for n in range(300)]
    rates = np.log10([one["settings.optimizer.lr"] for one in drawn])
    assert rates.min() >= -5 and rates.max() <= -2 and abs(rates.mean() + 3.5) < 0.2
    assert {one["sampling.batch_size"] for one in drawn} == {1, 2, 4}
    assert {one["settings.patience"] for one in drawn} == {3, 4, 5}
    assert all(0.1 <= one["network.dropout"] <= 0.3 for one in drawn)
    assert drawn[7] == draw(RANGES, np.random.default_rng([1, 7]))


@pytest.mark.parametrize(
    "wrong",
    [{"normal": [0, 1]}, {"uniform": [1]}, {"uniform": [2, 1]}, {"log_uniform": [0, 1]}, {"choice": []}, 3,
     {"whole": [0.5, 2]}],
)  # fmt: skip
def test_ranges_that_are_none_are_refused_by_key(wrong):
    with pytest.raises(OptionError, match=r"search\.a"):
        draw({"a": wrong}, np.random.default_rng(0))


@pytest.mark.parametrize("system", [name for name, preset in PRESETS.items() if preset.search])
def test_the_declared_ranges_of_every_preset_can_be_drawn_from(system):
    values = draw(PRESETS[system].search, np.random.default_rng(0))
    assert values and not any(isinstance(v, float) and not math.isfinite(v) for v in values.values())


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    data = write_data(tmp_path_factory.mktemp("data") / "ct", modality="CT")
    words = (
        *TINY["monai-unet"],
        "settings.epochs=1",
        "settings.steps_per_epoch=1",
        "settings.validate_every=1",
    )
    ranges = {
        "settings.optimizer.lr": {"log_uniform": [1e-4, 1e-2]},
        "network.act": {"choice": ["RELU", "NOTHING"]},  # the latter cannot be built
    }
    given = {"data": str(data), "folds": 2, "device": "cpu", "seed": 4, "search": ranges}
    return make_config("monai-unet", given, words)


def test_trials_are_runs_that_are_listed_best_first_with_failures_and_go_on(config, tmp_path):
    def stop(fraction, message):
        if fraction > 0.6:
            raise Cancelled

    with pytest.raises(Cancelled):
        search_settings(config, tmp_path, 4, stop)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trial_*/fold_0/result.json")}
    found = search_settings(config, tmp_path, 4)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    scores = [trial["score"] for trial in found["trials"]]
    good = [score for score in scores if score is not None]
    assert good == sorted(good, reverse=True) and scores[len(good) :] == [None] * (4 - len(good))
    failed = [trial for trial in found["trials"] if trial["problem"]]
    assert failed and len(failed) == 4 - len(good)
    assert all(
        trial["values"]["network.act"] == "NOTHING" and "NOTHING" in trial["problem"] for trial in failed
    )
    with (tmp_path / "search.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and rows[0]["settings.optimizer.lr"]
    assert json.loads((tmp_path / "search.json").read_text()) == found
    assert (tmp_path / found["best"] / "checkpoint" / "card.json").exists()


def test_a_search_in_which_all_fails_and_one_without_ranges_are_errors(config, tmp_path):
    from dataclasses import replace

    with pytest.raises(OptionError, match="declares no ranges"):
        search_settings(replace(config, search=None), tmp_path, 1)
    hopeless = replace(config, search={"network.act": {"choice": ["NOTHING"]}})
    with pytest.raises(InputError, match="every one of the 2 trials failed"):
        search_settings(hopeless, tmp_path, 2)
    wrong = replace(config, search={"nowhere.lr": {"choice": [1]}})
    with pytest.raises(OptionError, match="nowhere"):
        search_settings(wrong, tmp_path, 1)
