"""The sweep over weights of two checkpoints: its ends are the checkpoints themselves, its best the table's."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from Testing import tiny_models as tiny
from thoraxseg import sweep as sweeping
from thoraxseg import tables
from thoraxseg.checkpoints import open_checkpoint
from thoraxseg.cli import main
from thoraxseg.errors import CheckpointError, InputError, OutputError
from thoraxseg.files import sha256_file
from thoraxseg.io import write_scalar_nrrd, write_segmentation
from thoraxseg.options import SegmentOptions
from thoraxseg.progress import Cancelled
from thoraxseg.segmentation import STRUCTURES, Segmentation
from thoraxseg.sweep import LabeledCase, read_cases, sweep, write_sweep

pytestmark = pytest.mark.usefixtures("empty_home", "one_thread")
CPU = SegmentOptions(device="cpu", mirroring="none")
BARE = SegmentOptions(device="cpu", mirroring="none", postprocess="none", uncertainty="none")
LABELS = {1: "lungs", 2: "tumors"}


def lively(model):
    """Make the network of a model tell one voxel from another, which random ones hardly do."""
    path = model / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    for name, values in content["network_weights"].items():
        if "seg_layers" in name and name.endswith("weight"):
            values.mul_(20)
    torch.save(content, path)
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of nnU-Net that find lungs and tumors."""
    folder = tmp_path_factory.mktemp("models")
    return [lively(tiny.v2_model(folder / name, seed=seed)) for name, seed in (("a", 3), ("b", 4))]


@pytest.fixture(scope="module")
def pair(models):
    return [open_checkpoint(model) for model in models]


@pytest.fixture(scope="module")
def truth(pair):
    """References between what the two say: noise that leans to the one here and to the other there."""
    found = []
    for seed in (0, 1):
        image = tiny.volume(seed=seed)
        one, other = (tiny.seen(checkpoint, image, BARE).segmentation.labels for checkpoint in pair)
        chance = np.random.default_rng(seed).random(one.shape)
        found.append(np.where(chance < 0.5, one, np.where(chance < 0.9, other, 0)).astype(np.uint8))
    return found


def labeled(folder, truth):
    """Write two labeled phantoms: a label map, and a segmentation that numbers its segments otherwise."""
    for number, labels in enumerate(truth):
        image = tiny.volume(seed=number)
        write_scalar_nrrd(folder / f"image{number}.nrrd", image.array, image.ijk_to_ras, {})
        if number == 0:
            write_scalar_nrrd(folder / "truth0.nrrd", labels, image.ijk_to_ras, {})
        else:
            turned = np.array([0, 5, 3], dtype=np.uint8)[labels]
            structures = {3: STRUCTURES["tumors"], 5: STRUCTURES["lungs"]}
            write_segmentation(
                folder / "truth1.seg.nrrd", Segmentation(turned, image.ijk_to_ras, structures, "t")
            )
    rows = "case,image,reference\nm0,image0.nrrd,truth0.nrrd\nm1,image1.nrrd,truth1.seg.nrrd\n"
    (folder / "cases.csv").write_text(rows, encoding="utf-8")
    return folder / "cases.csv"


@pytest.fixture
def cases(tmp_path, truth):
    """The table of two labeled phantoms."""
    return labeled(tmp_path, truth)


@pytest.fixture(scope="module")
def found(pair, truth, tmp_path_factory):
    """The sweep of the pair over the labeled phantoms."""
    return sweep(read_cases(labeled(tmp_path_factory.mktemp("sweep"), truth)), pair, "probabilities", CPU)


def dice(truth, labels, label):
    """2 TP / (2 TP + FP + FN), written out."""
    both = np.sum((truth == label) & (labels == label))
    alone = np.sum((truth == label) != (labels == label))
    return 2 * both / (2 * both + alone)


def scores(found, w, case):
    return {row["structure"]: row["dice"] for row in found["rows"] if (row["w"], row["case"]) == (w, case)}


# What it finds


def test_the_ends_of_the_sweep_are_the_checkpoints_by_themselves(found, pair, truth):
    for w, checkpoint in ((1.0, pair[0]), (0.0, pair[1])):
        for number, labels in enumerate(truth):
            answer = tiny.seen(checkpoint, tiny.volume(seed=number), BARE).segmentation.labels
            expected = {name: dice(labels, answer, label) for label, name in LABELS.items()}
            assert scores(found, w, f"m{number}") == expected
            assert min(expected.values()) > 0 and max(expected.values()) < 1, "else the test says little"


@pytest.mark.parametrize("space", ["probabilities", "logits"])
def test_between_the_ends_it_is_the_weighted_average(space, pair, truth, cases):
    found = sweep(read_cases(cases), pair, space, CPU)
    assert found["space"] == space
    image = tiny.volume(seed=1)
    one, other = (tiny.seen(checkpoint, image, BARE).probabilities().astype(float) for checkpoint in pair)
    for w in (0.3, 0.6):
        if space == "logits":
            mixed = w * np.log(one) + (1 - w) * np.log(other)
        else:
            mixed = w * one + (1 - w) * other
        expected = {name: dice(truth[1], mixed.argmax(axis=0), label) for label, name in LABELS.items()}
        assert scores(found, w, "m1") == pytest.approx(
            expected, abs=0.01
        )  # one or two voxels that are on the edge


def test_the_table_has_eleven_weights_and_means_of_its_rows(found):
    assert [row["w"] for row in found["table"]] == [k / 10 for k in range(11)]
    assert Counter((row["case"], row["structure"]) for row in found["rows"]) == {
        (case, name): 11 for case in ("m0", "m1") for name in LABELS.values()
    }
    for row in found["table"]:
        each = {
            name: [scores(found, row["w"], case)[name] for case in ("m0", "m1")] for name in LABELS.values()
        }
        assert row["dice"] == pytest.approx({name: np.mean(values) for name, values in each.items()})
        assert row["mean_dice"] == pytest.approx(np.mean(list(each.values())))


def test_the_best_weight_has_the_largest_mean_of_the_table(found):
    best = max(found["table"], key=lambda row: row["mean_dice"])
    assert (found["best_w"], found["best_mean_dice"]) == (best["w"], best["mean_dice"])
    ends = [row["mean_dice"] for row in found["table"] if row["w"] in (0, 1)]
    assert found["best_mean_dice"] >= max(ends)


def test_of_equal_weights_the_smallest_is_the_best(pair, cases):
    found = sweep(read_cases(cases)[:1], [pair[0], pair[0]], "probabilities", CPU)
    assert len({row["mean_dice"] for row in found["table"]}) == 1
    assert found["best_w"] == 0.0


def test_a_reference_under_other_numbers_is_matched_by_its_names(pair, truth, cases, tmp_path):
    image = tiny.volume(seed=1)
    write_scalar_nrrd(tmp_path / "plain.nrrd", truth[1], image.ijk_to_ras, {})
    plain = LabeledCase("m1", tmp_path / "image1.nrrd", tmp_path / "plain.nrrd")
    named = read_cases(cases)[1]
    one, other = (sweep([case], pair, "probabilities", CPU)["rows"] for case in (plain, named))
    assert one == other


def test_the_record_says_what_was_compared_and_with_what(found, pair, truth):
    assert [one["name"] for one in found["checkpoints"]] == [tiny.V2_NAME] * 2
    assert [one["weights_sha256"] for one in found["checkpoints"]] == [
        [sha256_file(path) for path in checkpoint.weights] for checkpoint in pair
    ]
    assert [case["case"] for case in found["cases"]] == ["m0", "m1"]
    assert all(len(case["image_sha256"]) == len(case["reference_sha256"]) == 64 for case in found["cases"])
    assert (found["options"]["postprocess"], found["options"]["uncertainty"]) == ("none", "none")
    assert "validation data only" in found["notice"]
    assert any("sees the file's own axes" in note for note in found["notes"])
    assert len(found["notes"]) == len(set(found["notes"]))


def test_progress_rises_to_the_end_and_a_cancel_stops_it(pair, cases):
    told = []
    sweep(read_cases(cases), pair, "probabilities", CPU, lambda fraction, message: told.append(fraction))
    assert told == sorted(told) and told[-1] > 0.9

    def cancel(fraction, message):
        if fraction > 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        sweep(read_cases(cases), pair, "probabilities", CPU, cancel)


def test_checkpoints_that_find_other_things_are_refused_before_any_work(pair, cases):
    with pytest.raises(CheckpointError, match="find different structures"):
        sweep(
            read_cases(cases), [pair[0], open_checkpoint_of_aimos(cases.parent)], "probabilities", CPU, unused
        )


def open_checkpoint_of_aimos(folder):
    torch.save(tiny.state_of("aimos", {"features": [4, 8]}), folder / "aimos.pth")
    return open_checkpoint(folder / "aimos.pth")


def unused(fraction, message):
    raise AssertionError("the work began")


# References


def reference(tmp_path, labels, image, name="other.nrrd", matrix=None):
    write_scalar_nrrd(tmp_path / name, labels, image.ijk_to_ras if matrix is None else matrix, {})
    write_scalar_nrrd(tmp_path / "image.nrrd", image.array, image.ijk_to_ras, {})
    return [LabeledCase("m", tmp_path / "image.nrrd", tmp_path / name)]


@pytest.mark.parametrize("kind", ["shape", "origin", "spacing", "axes"])
def test_a_reference_on_another_grid_is_refused_by_name(kind, pair, truth, tmp_path):
    image = tiny.volume()
    matrix, labels = image.ijk_to_ras.copy(), truth[0]
    if kind == "shape":
        labels = labels[:-1]
    elif kind == "origin":
        matrix[0, 3] += 0.05
    elif kind == "spacing":
        matrix[2, 2] *= 1.01
    else:
        matrix[0, :] *= -1
    with pytest.raises(InputError, match=r"other\.nrrd: .*image\.nrrd"):
        sweep(reference(tmp_path, labels, image, matrix=matrix), pair, "probabilities", CPU)


def test_a_segmentation_on_another_grid_is_refused_by_name(pair, truth, tmp_path):
    cases = reference(tmp_path, truth[0], tiny.volume())
    matrix = tiny.volume().ijk_to_ras.copy()
    matrix[1, 3] += 1
    structures = {1: STRUCTURES["lungs"], 2: STRUCTURES["tumors"]}
    write_segmentation(tmp_path / "other.seg.nrrd", Segmentation(truth[0], matrix, structures, "t"))
    with pytest.raises(InputError, match=r"other\.seg\.nrrd: lies elsewhere than image\.nrrd"):
        sweep([LabeledCase("m", cases[0].image, tmp_path / "other.seg.nrrd")], pair, "probabilities", CPU)


@pytest.mark.parametrize("value", [3, 200])
def test_labels_that_the_checkpoints_do_not_know_are_refused_with_those_they_do(value, pair, truth, tmp_path):
    labels = truth[0].copy()
    labels[0, 0, 0] = value
    with pytest.raises(InputError, match=rf"has the labels \[{value}\].*\[1, 2\]: 1 Lungs, 2 Tumors"):
        sweep(reference(tmp_path, labels, tiny.volume()), pair, "probabilities", CPU)


def test_labels_between_two_numbers_are_refused(pair, truth, tmp_path):
    labels = truth[0].astype(np.float32)
    labels[0, 0, 0] = 1.5
    with pytest.raises(InputError, match="got values between them"):
        sweep(reference(tmp_path, labels, tiny.volume()), pair, "probabilities", CPU)


def test_segments_that_the_checkpoints_do_not_find_are_refused(pair, truth, tmp_path):
    cases = reference(tmp_path, truth[0], tiny.volume())
    structures = {1: STRUCTURES["lungs"], 2: STRUCTURES["heart"]}
    path = tmp_path / "other.seg.nrrd"
    write_segmentation(path, Segmentation(truth[0], tiny.volume().ijk_to_ras, structures, "t"))
    with pytest.raises(InputError, match="has the segments Heart, the checkpoints find Lungs, Tumors"):
        sweep([LabeledCase("m", cases[0].image, path)], pair, "probabilities", CPU)


def test_segments_are_known_by_their_names_and_not_by_the_ids_that_slicer_gives(pair, truth, tmp_path):
    cases = reference(tmp_path, truth[0], tiny.volume())
    path = tmp_path / "drawn.seg.nrrd"
    drawn = {
        1: replace(STRUCTURES["lungs"], key="Segment_2"),
        2: replace(STRUCTURES["tumors"], key="Segment_1"),
    }
    write_segmentation(path, Segmentation(truth[0], tiny.volume().ijk_to_ras, drawn, "t"))
    found = sweep([LabeledCase("m", cases[0].image, path)], pair, "probabilities", CPU)
    assert found["table"] == sweep(cases[:1], pair, "probabilities", CPU)["table"]


def test_a_segmentation_without_one_of_the_segments_counts_as_empty_there(pair, truth, tmp_path):
    cases = reference(tmp_path, truth[0], tiny.volume())
    path = tmp_path / "other.seg.nrrd"
    lungs = (truth[0] == 1).astype(np.uint8)
    write_segmentation(path, Segmentation(lungs, tiny.volume().ijk_to_ras, {1: STRUCTURES["lungs"]}, "t"))
    found = sweep([LabeledCase("m", cases[0].image, path)], pair, "probabilities", CPU)
    assert {row["dice"] for row in found["rows"] if row["structure"] == "tumors"} <= {0.0, 1.0}
    assert scores(found, 1.0, "m")["lungs"] > 0


# The table of cases


def table(tmp_path, text, encoding="utf-8"):
    for name in ("a.nrrd", "b.nrrd"):
        (tmp_path / name).write_bytes(b"")
    path = tmp_path / "cases.csv"
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def test_paths_are_relative_to_the_table_and_absolute_ones_stay(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    path = table(tmp_path / "sub", f"case,image,reference\nm,a.nrrd,{tmp_path / 'sub' / 'b.nrrd'}\n")
    monkeypatch.chdir(tmp_path)
    (case,) = read_cases(path)
    assert case == LabeledCase("m", tmp_path / "sub" / "a.nrrd", tmp_path / "sub" / "b.nrrd")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_of_every_system_are_read(encoding, end, tmp_path):
    text = end.join(
        ["reference,case,image,remark", "b.nrrd, Mäuschen 1 ,a.nrrd,x", "", "b.nrrd,m2,a.nrrd,y", ""]
    )
    assert [case.name for case in read_cases(table(tmp_path, text, encoding))] == ["Mäuschen 1", "m2"]


BAD_ROWS = {
    "a missing image": ("m0,a.nrrd,b.nrrd\nm1,gone.nrrd,b.nrrd", 3, "gone.nrrd is not there"),
    "a missing reference": ("m0,a.nrrd,gone.seg.nrrd", 2, "gone.seg.nrrd is not there"),
    "an address": ("m0,https://example.org/a.nrrd,b.nrrd", 2, "is not there"),
    "a path that is too long": (f"m0,{'x' * 5000},b.nrrd", 2, "is not there"),
    "no value": ("m0,a.nrrd,b.nrrd\nm1,,b.nrrd", 3, "image is empty"),
    "spaces for a value": ("m0,a.nrrd,  ", 2, "reference is empty"),
    "too few values": ("m0,a.nrrd", 2, "expected 3 cells as in the first line, got 2"),
    "too many values": ("m0,a.nrrd,b.nrrd,more", 2, "expected 3 cells as in the first line, got 4"),
    "a case twice": ("m0,a.nrrd,b.nrrd\nm0,a.nrrd,b.nrrd", 3, "the case 'm0' is in the table twice"),
    "a row after empty lines": ("m0,a.nrrd,b.nrrd\n\n\nm1,gone.nrrd,b.nrrd", 5, "gone.nrrd"),
    "a row after one of two lines": ('"m\n0",a.nrrd,b.nrrd\nm1,gone.nrrd,b.nrrd', 4, "gone.nrrd"),
}


@pytest.mark.parametrize(("rows", "line", "words"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_named_by_its_line(rows, line, words, tmp_path):
    path = table(tmp_path, f"case,image,reference\n{rows}\n")
    with pytest.raises(InputError) as caught:
        read_cases(path)
    assert f"cases.csv, line {line}: " in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "got an empty file"),
        (b"case,image,reference\n", "one row or more below the first line"),
        (b"case|image|reference\nm|a.nrrd|b.nrrd\n", "case, image, reference is missing"),
        (b"case,picture,reference\nm,a.nrrd,b.nrrd\n", "image is missing"),
        (b"case,image,reference\nm\0,a.nrrd,b.nrrd\n", "expected a table"),
        (b"case,image,reference\n\xff\xfe,a.nrrd,b.nrrd\n", "expected a table (CSV in UTF-8)"),
        (b'case,image,reference\n"m,a.nrrd,b.nrrd\n', "expected a table (CSV in UTF-8)"),
    ],
    ids=["empty", "no case", "bars", "no column", "NUL", "no UTF-8", "an open quote"],
)
def test_a_file_that_is_no_table_of_cases_is_refused_by_name(content, words, tmp_path):
    with pytest.raises(InputError) as caught:
        read_cases(table(tmp_path, content))
    assert "cases.csv" in str(caught.value) and words in str(caught.value)


def test_a_table_that_is_too_large_or_not_there_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"gone\.csv: the table cannot be read: No such file"):
        read_cases(tmp_path / "gone.csv")
    monkeypatch.setattr(tables, "MAX_BYTES", 1 << 20)
    with pytest.raises(InputError, match="at most 1 MiB"):
        read_cases(table(tmp_path, "case,image,reference\n" + "m,a.nrrd,b.nrrd\n" * 100_000))


# What is written


def test_both_files_hold_all_scores(found, tmp_path):
    paths = write_sweep(found, tmp_path / "new" / "out")
    assert [path.name for path in paths] == ["sweep.csv", "sweep.json"]
    assert json.loads(paths[1].read_text("utf-8")) == json.loads(json.dumps(found))
    with paths[0].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], float(row["w"]), row["structure"], float(row["dice"])) for row in rows] == [
        (row["case"], row["w"], row["structure"], row["dice"]) for row in found["rows"]
    ]
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == ["sweep.csv", "sweep.json"]


@pytest.mark.parametrize("name", ["=1+1", "+a", "-a", "@a", "\ta"])
def test_a_case_that_looks_like_a_formula_is_none_in_a_spreadsheet(name, found, tmp_path):
    rows = [{**row, "case": name} for row in found["rows"]]
    write_sweep({**found, "rows": rows}, tmp_path)
    with (tmp_path / "sweep.csv").open(encoding="utf-8", newline="") as file:
        assert {row["case"] for row in csv.DictReader(file)} == {f"'{name}"}
    assert json.loads((tmp_path / "sweep.json").read_text("utf-8"))["rows"][0]["case"] == name


@pytest.mark.parametrize("name", ["sweep.csv", "sweep.json"])
def test_an_earlier_sweep_is_never_overwritten(name, found, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=rf"has {name} already"):
        write_sweep(found, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


# The command


def run(cases, models, tmp_path, *more):
    words = [
        "sweep",
        cases,
        "-c",
        models[0],
        "-c",
        models[1],
        "-o",
        tmp_path / "out",
        "--device",
        "cpu",
        *more,
    ]
    return main([str(word) for word in words])


def test_the_command_tells_the_table_the_best_and_the_files(cases, models, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(cases, models, tmp_path) == 0
    out, err = capsys.readouterr()
    found = json.loads((tmp_path / "out" / "sweep.json").read_text("utf-8"))
    assert err == ""
    best = f"{found['best_w']:.1f} best"
    assert out.count("best") == 1 and best in out and f"{found['best_mean_dice']:.4f}" in out
    assert all(str(tmp_path / "out" / name) in out for name in ("sweep.csv", "sweep.json"))
    assert "validation data only" in out and "2 case(s)" in out


def test_json_of_the_command_is_the_record_and_nothing_else(cases, models, tmp_path, capsys):
    assert run(cases, models, tmp_path, "--json", "--ensemble-on", "logits") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == "" and found == json.loads((tmp_path / "out" / "sweep.json").read_text("utf-8"))
    assert found["space"] == "logits"


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_checkpoints_is_wrong_usage(count, cases, models, tmp_path, capsys):
    words = ["sweep", str(cases), *["-c", str(models[0])] * count, "-o", str(tmp_path / "out")]
    assert main(words) == 2
    assert f"expected two checkpoints (--checkpoint A --checkpoint B), got {count}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "status", "words"),
    [
        (lambda cases, out: cases.unlink(), 3, "cases.csv"),
        (lambda cases, out: (cases.parent / "truth0.nrrd").unlink(), 3, "cases.csv, line 2"),
        (lambda cases, out: shutil.copy(cases, out.with_name("out")), 5, "out"),
        (lambda cases, out: (out.mkdir(), (out / "sweep.csv").touch()), 5, "has sweep.csv already"),
    ],
    ids=["no table", "no reference", "a file as output", "an earlier sweep"],
)
def test_what_is_wrong_is_said_before_the_networks_are_loaded(
    spoil, status, words, cases, models, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sweeping, "sweep", unused)
    spoil(cases, tmp_path / "out")
    assert run(cases, models, tmp_path) == status
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
    assert not list(tmp_path.rglob(".thoraxseg*"))


def test_a_sweep_that_fails_leaves_no_folder(cases, models, tmp_path, capsys):
    image = tiny.volume()
    write_scalar_nrrd(tmp_path / "truth0.nrrd", (image.array > 100) * np.uint8(7), image.ijk_to_ras, {})
    assert run(cases, models, tmp_path) == 3
    assert "truth0.nrrd: has the labels [7]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_case_without_any_label_counts_and_is_said(pair, truth, tmp_path):
    image = tiny.volume()
    nothing = np.zeros_like(truth[0])
    found = sweep(reference(tmp_path, nothing, image), pair, "probabilities", CPU)
    for row in found["rows"]:
        assert row["dice"] == (1.0 if row["both_empty"] else 0.0)
    told = any("both empty" in note for note in found["notes"])
    assert told == any(row["both_empty"] for row in found["rows"] if row["w"] == 1)


def test_weights_that_do_not_differ_are_said(pair, truth, cases):
    found = sweep(read_cases(cases), [pair[0], pair[0]], "probabilities", CPU)
    assert any("do not tell which is best" in note for note in found["notes"])


def test_a_table_with_semicolons_is_read_as_one_with_commas(truth, cases):
    text = cases.read_text("utf-8")
    other = cases.with_name("european.csv")
    other.write_text(text.replace(",", ";"), encoding="utf-8")
    assert read_cases(other) == read_cases(cases)
