"""What both readers of nnU-Net share: where models and folds lie, which one is meant, and how values are checked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from thoraxseg.checkpoints import nnunet_folder
from thoraxseg.checkpoints.fields import FieldError
from thoraxseg.checkpoints.nnunet_folder import (
    MAX_DEPTH,
    below,
    check_inverse,
    check_lone,
    check_strides,
    child_folders,
    choose_folds,
    choose_model,
    fold_folders,
    fold_key,
    fold_told,
    largest,
    model_of,
    naming,
    odd,
    permutation,
    read_json,
    search_models,
    statistics_of,
)
from thoraxseg.errors import CheckpointError


def has_plans(place):
    return (place / "plans.json").is_file()


def folders(place, *names):
    for name in names:
        (place / name).mkdir(parents=True)
    return place


def with_plans(place):
    place.mkdir(parents=True)
    (place / "plans.json").write_text("{}")
    return place


# Models


def test_models_are_found_down_to_a_depth_and_not_inside_one_another(tmp_path):
    shallow, deep = with_plans(tmp_path / "b"), with_plans(tmp_path.joinpath(*"a" * MAX_DEPTH))
    with_plans(shallow / "inside")
    with_plans(tmp_path.joinpath(*"c" * (MAX_DEPTH + 1)))
    assert search_models(tmp_path, has_plans) == [deep, shallow]
    assert search_models(shallow, has_plans) == [shallow]


def test_a_search_through_too_many_folders_ends_with_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(nnunet_folder, "MAX_FOLDERS", 3)
    folders(tmp_path, "a", "b")
    assert search_models(tmp_path, has_plans) == []
    folders(tmp_path, "c")
    with pytest.raises(CheckpointError, match="holds more than 3 folders; give the folder of one model"):
        search_models(tmp_path, has_plans)


def test_a_folder_that_is_not_there_has_no_folders_in_it(tmp_path):
    assert child_folders(tmp_path / "none") == []
    (tmp_path / "file").write_text("")
    assert child_folders(folders(tmp_path, "b", "a")) == [tmp_path / "a", tmp_path / "b"]


MODELS = {Path("r/a"): "2d", Path("r/b"): "3d_fullres", Path("r/c/d"): "3d_fullres"}


def test_the_only_model_of_a_configuration_is_chosen():
    assert choose_model(Path("r"), [Path("r/a")], MODELS, None) == Path("r/a")
    assert choose_model(Path("r"), list(MODELS), MODELS, "2d") == Path("r/a")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("4d", "has no model of configuration '4d'; there are: 2d (a), 3d_fullres (b), 3d_fullres (c/d)."),
        (
            None,
            "holds 3 models that could be meant: 2d (a), 3d_fullres (b), 3d_fullres (c/d). Choose one by its "
            "configuration (--configuration NAME).",
        ),
        (
            "3d_fullres",
            "holds 2 models that could be meant: 3d_fullres (b), 3d_fullres (c/d). Give one by its own folder.",
        ),
    ],
)
def test_models_among_which_none_is_meant_are_listed_with_what_to_do(wanted, words):
    with pytest.raises(CheckpointError) as told:
        choose_model(Path("r"), list(MODELS), MODELS, wanted)
    assert str(told.value).replace("\\", "/") == f"r: {words}"


def test_the_two_stages_of_a_cascade_are_said_to_belong_together():
    stages = {Path("r/a"): "3d_lowres", Path("r/b"): "3d_cascade_fullres"}
    with pytest.raises(CheckpointError, match="a cascade has two by design: choose its second stage"):
        choose_model(Path("r"), list(stages), stages, None)


# Folds


def test_folds_are_known_by_their_folders_and_sorted_by_number(tmp_path):
    folders(tmp_path, "fold_10", "fold_2", "fold_all", "fold_x", "fold_", "fold_12345", "gold_1", "fold_1 ")
    assert list(fold_folders(tmp_path)) == ["2", "10", "all"]
    assert fold_folders(folders(tmp_path / "v1", "all"))["all"].name == "all"
    assert sorted(["all", "10", "9"], key=fold_key) == ["9", "10", "all"]


def test_a_checkpoint_knows_its_model_folder_and_fold(tmp_path, monkeypatch):
    model = with_plans(tmp_path / "model")
    folders(model, "fold_3", "all", "other")
    assert model_of(model / "fold_3" / "x.pth", "plans.json") == (model, "3")
    assert model_of(model / "all" / "x.pth", "plans.json") == (model, "all")
    monkeypatch.chdir(model / "fold_3")
    assert model_of(Path("x.pth"), "plans.json") == (model, "3")
    assert model_of(model / "other" / "x.pth", "plans.json") is None
    assert model_of(model / "x.pth", "plans.json") is None
    assert model_of(model / "fold_3" / "x.pth", "plans.pkl") is None


def test_folds_are_chosen_by_any_way_to_write_them(tmp_path):
    names = {}
    for fold in ("0", "2", "all"):
        names[fold] = tmp_path / f"fold_{fold}"
        names[fold].mkdir()
        (names[fold] / ("final" if fold != "0" else "best")).write_text("")
    assert choose_folds(tmp_path, names, "final", "best", ["fold_2"])[0] == {
        "2": tmp_path / "fold_2" / "final"
    }
    assert list(choose_folds(tmp_path, names, "final", "best", [" 02", "all"])[0]) == ["2", "all"]
    chosen, notes = choose_folds(tmp_path, names, "final", "best", None)
    assert (list(chosen), notes) == (["2"], ("fold 0 has no final and was left out",))
    with pytest.raises(
        CheckpointError, match=r"final of fold '0' is missing; folds with this file: 2, all\. Folds 0"
    ):
        choose_folds(tmp_path, names, "final", "best", ["0"])
    with pytest.raises(CheckpointError, match="expected different folds"):
        choose_folds(tmp_path, names, "final", "best", ["2", "fold_2"])


@pytest.mark.parametrize(("value", "fold"), [(0, "0"), (4, "4"), ("3", "3"), ("03", "3"), ("all", "all")])
def test_a_checkpoint_says_its_fold_as_number_or_all(value, fold):
    assert fold_told(value, "fold") == fold


@pytest.mark.parametrize("value", [None, True, -1, 1.0, 12345, "", "fold_0", "ALL", "../0", [0]], ids=str)
def test_other_things_are_not_the_name_of_a_fold(value):
    with pytest.raises(FieldError, match="fold must be the number of a fold or 'all'"):
        fold_told(value, "fold")


def test_a_single_checkpoint_must_be_the_one_that_is_wished_for():
    def check(name="final", folds=None, best=False):
        return check_lone(Path(name), "2", "final", "best", folds, best)

    assert check() == check(folds=["fold_2"]) == check("best", ["02"], best=True) == check("best") == []
    assert check("mouse.pth") == ["mouse.pth is called neither final nor best; it is taken as it is"]
    for folds in (["0"], ["2", "3"], []):
        with pytest.raises(CheckpointError, match=r"final: is of fold 2, but folds \[.* are asked for"):
            check(folds=folds)
    with pytest.raises(
        CheckpointError, match="mouse: is not called best, but the best checkpoint is asked for"
    ):
        check("mouse", best=True)


# Files


def test_scores_that_are_no_numbers_are_left_out_where_they_may_stand(tmp_path):
    (tmp_path / "a.json").write_text('{"dice": NaN, "classes": [1]}')
    assert read_json(tmp_path / "a.json", strict=False) == {"dice": None, "classes": [1]}
    with pytest.raises(CheckpointError, match=r"a\.json: NaN is not a finite number"):
        read_json(tmp_path / "a.json")


def test_a_file_as_large_as_allowed_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(nnunet_folder, "MAX_JSON", 1 << 20)
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": "x" * ((1 << 20) - 9)}))
    assert path.stat().st_size == 1 << 20 and read_json(path)
    path.write_text(json.dumps({"a": "x" * ((1 << 20) - 8)}))
    with pytest.raises(CheckpointError, match=r"a\.json: it is larger than 1 MiB"):
        read_json(path)


def test_a_folder_in_place_of_a_file_is_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="the file is missing; expected a whole nnU-Net model folder"):
        read_json(tmp_path)


def test_what_a_parser_finds_is_said_with_file_and_remedy():
    with (
        pytest.raises(CheckpointError, match=r"^a\.json: spacing must be positive\. Fetch it\.$"),
        naming(Path("a.json"), "Fetch it."),
    ):
        raise FieldError("spacing must be positive")


# Values


@pytest.mark.parametrize(
    ("parse", "good", "bad", "words"),
    [
        (below(5), [1, 5], [0, 6, 1.0, True, "1"], "x must be"),
        (odd, [1, 3, 15], [2, 17, 0, -1], "x must be"),
        (permutation, [[2, 0, 1], (0, 1, 2)], [[0, 1], [0, 0, 1], [1, 2, 3], None], "x must be"),
    ],
    ids=["below", "odd", "permutation"],
)
def test_numbers_are_taken_within_their_limits_only(parse, good, bad, words):
    for value in good:
        assert parse(value, "x") in (value, tuple(value) if isinstance(value, list) else value)
    for value in bad:
        with pytest.raises(FieldError, match=words):
            parse(value, "x")


def test_axis_orders_must_undo_one_another():
    check_inverse((1, 2, 0), (2, 0, 1))
    with pytest.raises(FieldError, match=re.escape("[1, 2, 0] does not undo transpose_forward [1, 2, 0]")):
        check_inverse((1, 2, 0), (1, 2, 0))


def test_a_patch_must_pass_the_strides_of_the_network():
    check_strides([(1, 1), (2, 2), (1, 2)], (6, 8), "x")
    with pytest.raises(FieldError, match=r"patch_size \[6, 6\] cannot be divided"):
        check_strides([(1, 1), (2, 2), (1, 2)], (6, 6), "x")
    with pytest.raises(FieldError, match="the first of the strides must be 1"):
        check_strides([(2, 1), (2, 2)], (8, 8), "x")


STATISTICS = {"mean": 1, "sd": 2, "percentile_00_5": -3, "percentile_99_5": 4.5, "mn": None}


def test_statistics_are_read_under_the_names_of_either_version():
    expected = {"mean": 1.0, "std": 2.0, "percentile_00_5": -3.0, "percentile_99_5": 4.5}
    assert statistics_of({0: STATISTICS}, 0, spread="sd") == expected
    assert statistics_of({"0": STATISTICS | {"std": 2}}, "0") == expected


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        (None, "of channel 0 are missing"),
        ({1: STATISTICS}, "of channel 0 are missing"),
        ({0: STATISTICS | {"sd": -1}}, "negative"),
        ({0: STATISTICS | {"percentile_00_5": 5}}, "swapped"),
        ({0: STATISTICS | {"mean": float("nan")}}, "mean must be a finite number"),
        ({0: {"mean": 1}}, "sd must be a finite number"),
    ],
)
def test_statistics_that_cannot_be_are_named(properties, reason):
    with pytest.raises(FieldError, match=reason):
        statistics_of(properties, 0, spread="sd")


def test_a_step_of_clean_up_names_labels_of_the_model():
    step = {"labels": (1, 2), "keep": "largest", "min_size_mm3": 3.5}
    assert largest([2, 1, 2], [1, 2, 3], "x", 3.5) == step
    for wanted in ([], [4], [0]):
        with pytest.raises(FieldError, match=r"x must give labels of the model \(1, 2, 3\)"):
            largest(wanted, [1, 2, 3], "x", None)
