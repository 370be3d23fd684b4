"""`thoraxseg study`: making a study, entering times, and reading them, as a person and as a script meet it."""

from __future__ import annotations

import json

import pytest

from thoraxseg import cli
from thoraxseg.cli.study import duration, study
from thoraxseg.study import open_study, times


@pytest.fixture
def main(capsys, monkeypatch):
    """Run the command line; give its status and what it printed."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setitem(cli.app.commands, "study", study)

    def run(*words):
        status = cli.main(["study", *map(str, words)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def a_file(main, tmp_path):
    path = tmp_path / "mice.sqlite"
    assert main("new", path, "--manual-minutes", 40)[0] == 0
    return path


@pytest.fixture
def a_review(main, a_file):
    """M7 as in the mouse CT paper, then looked at for a minute and edited for 100 s."""
    for words in (
        ("run", "--operator", "batch", "--preprocessing", 5, "--inference", 27, "--seconds", 40),
        ("look", "--operator", "Ann", "--seconds", 60),
        ("edit", "--operator", "Ann", "--structure", "heart", "--seconds", 100),
        ("accept", "--operator", "Ann"),
    ):
        status, _, errors = main("log", a_file, words[0], "--animal", "M7", *words[1:])
        assert (status, errors) == (0, "")
    return a_file


def one_error(result, status):
    assert (result[0], result[1]) == (status, "")
    assert len(result[2].splitlines()) == 1 and result[2].startswith("Error: ")
    return result[2]


def test_times_are_told_with_both_figures_and_what_they_mean(main, a_review):
    status, text, errors = main("time", a_review)
    assert (status, errors) == (0, "")
    row = next(line for line in text.splitlines() if "Ann" in line)
    assert row.split() == [
        "M7,",
        "1",
        "Ann",
        "accepted",
        "0:40",
        "1:00",
        "1:40",
        "-",
        "98.3",
        "%",
        "91.7",
        "%",
    ]
    assert "40 min by hand" in text and "98 %" in text
    assert "Research use only" in text


def test_the_json_is_json_and_nothing_else(main, a_review):
    status, text, _ = main("time", a_review, "--json")
    told = json.loads(text, parse_constant=pytest.fail)
    (ann,) = [row for row in told["reviews"] if row["operator"] == "Ann"]
    assert status == 0
    assert ann["saved_percent_paper"] == pytest.approx(98.3333, abs=1e-4)
    assert ann["saved_percent_with_review"] == pytest.approx(91.6667, abs=1e-4)
    assert ann["editing_by_structure_s"] == {"heart": 100}


def test_another_reference_counts_for_one_look_only(main, a_review):
    told = json.loads(main("time", a_review, "--manual-minutes", "20", "--json")[1])
    assert told["manual_reference_min"] == 20
    assert open_study(a_review).manual_reference_min() == 40


def test_a_measured_reference_is_the_mean_of_what_was_contoured_by_hand(main, a_review):
    assert "by hand" in one_error(main("time", a_review, "--manual-minutes", "measured"), 2)
    main("log", a_review, "manual", "--animal", "M8", "--operator", "Ann", "--seconds", "1800")
    told = json.loads(main("time", a_review, "--manual-minutes", "measured", "--json")[1])
    assert told["manual_reference_min"] == 30


def test_without_a_reference_the_paper_s_is_offered_and_not_assumed(main, a_review):
    assert main("set", a_review, "--manual-minutes", "none")[0] == 0
    _, text, _ = main("time", a_review)
    assert "Saved: undefined" in text and "40 min" in text and "98.3" not in text


def test_a_table_is_written_once_and_never_over_another(main, a_review, tmp_path):
    path = tmp_path / "times.csv"
    assert main("time", a_review, "-o", path)[0] == 0
    before = path.read_bytes()
    assert "exists and was not changed" in one_error(main("time", a_review, "-o", path), 5)
    assert path.read_bytes() == before
    assert ".csv or .json" in one_error(main("time", a_review, "-o", tmp_path / "t.txt"), 2)


def test_anonymous_tells_no_name(main, a_review, tmp_path):
    for words in ((), ("--json",)):
        _, text, errors = main("time", a_review, "--anonymous", *words)
        assert "M7" not in text + errors and "Ann" not in text + errors
        assert "A001" in text and "O002" in text


def test_the_record_of_a_case_is_the_time_of_its_run(main, a_file, tmp_path):
    record = tmp_path / "M7.json"
    record.write_text(
        json.dumps({"timings_s": {"read": 2.0, "inference": 10.0, "figures": 1.0, "total": 15.0}})
    )
    assert main("log", a_file, "run", "--animal", "M7", "--operator", "batch", "--record", record)[0] == 0
    (row,) = times(open_study(a_file))
    parts = ("preprocessing_s", "inference_s", "export_s", "other_s", "runtime_s")
    assert [row[key] for key in parts] == [2, 10, 1, 2, 15]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"timings_s": {"read": "x"}}', '{"timings_s": 3}'])
def test_a_record_without_times_is_refused(main, a_file, tmp_path, text):
    record = tmp_path / "M7.json"
    record.write_text(text)
    result = main("log", a_file, "run", "--animal", "M7", "--operator", "batch", "--record", record)
    assert "timings_s" in one_error(result, 3)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("look",), 2, "seconds it took"),
        (("accept", "--seconds", "5"), 2, "takes no seconds"),
        (("look", "--seconds", "nan"), 2, "0 or more"),
        (("manual", "--seconds", "2400000"), 2, "24 hours"),
        (("look", "--seconds", "5", "--structure", "heart"), 2, "edit or manual only"),
        (("look", "--seconds", "5", "--inference", "5"), 2, "only a run"),
        (("run", "--record", "none.json"), 3, "cannot be read"),
        (("run", "--record", "none.json", "--seconds", "3"), 2, "leave the other times away"),
    ],
)
def test_an_entry_that_makes_no_sense_is_one_sentence(main, a_file, words, status, said):
    result = main("log", a_file, words[0], "--animal", "M7", "--operator", "Ann", *words[1:])
    assert said in one_error(result, status)
    assert times(open_study(a_file)) == []


def test_a_rejected_scan_that_was_then_contoured_by_hand_stays_rejected_in_the_table(main, a_review):
    for words in (
        ("run", "--seconds", 40),
        ("look", "--seconds", 60),
        ("reject",),
        ("manual", "--seconds", 2400),
    ):
        assert main("log", a_review, words[0], "--animal", "B", "--operator", "Ann", *words[1:])[0] == 0
    text = main("time", a_review)[1]
    row = next(line for line in text.splitlines() if line.startswith(" B,"))
    assert " ".join(row.split()) == "B, 1 Ann rejected 0:40 1:00 - 40:00 - 98.3 % -4.2 %"
    assert "1 accepted, 1 rejected, 0 unfinished." in text
    assert "Please check" not in text
    spent = next(line for line in text.splitlines() if line.startswith(" Spent"))
    assert spent.split()[-1] == "45:00"


def test_work_on_what_is_not_finished_is_told_with_all_its_parts(main, a_file):
    for words in (("look",), ("edit", "--structure", "heart"), ("manual",)):
        main("log", a_file, *words, "--animal", "B", "--operator", "Ann", "--seconds", 20)
    assert "1 unfinished (1:00 of work, in no mean)" in " ".join(main("time", a_file)[1].split())


def test_undo_says_what_it_took_back(main, a_review):
    told = main("undo", a_review, "--animal", "M7", "--operator", "Ann")
    assert told == (0, "Took back for M7, scan 1, Ann: accept.\n", "")
    told = main("undo", a_review, "--animal", "M7", "--operator", "Ann", "--scan", "1")
    assert told[1] == "Took back for M7, scan 1, Ann: edit heart 1:40.\n"
    (ann,) = [row for row in times(open_study(a_review)) if row["operator"] == "Ann"]
    assert (ann["editing_s"], ann["verdict"], ann["withdrawn"]) == (0, "none", 2)


def test_undo_without_an_entry_is_one_sentence(main, a_review):
    for words in (("--animal", "M8"), ("--animal", "M7", "--scan", "2")):
        result = main("undo", a_review, "--operator", "Ann", *words)
        assert "nothing that can be taken back" in one_error(result, 2)


def test_verdicts_are_entered_with_a_dash_for_the_shell(main, a_file):
    main("log", a_file, "needs-work", "--animal", "M7", "--operator", "Ann")
    assert times(open_study(a_file))[0]["verdict"] == "needs work"


def test_a_wrong_path_makes_no_study(main, tmp_path):
    path = tmp_path / "typo.sqlite"
    for words in (
        ("time", path),
        ("set", path, "--manual-minutes", "40"),
        ("log", path, "open", "--animal", "M", "--operator", "A"),
        ("undo", path, "--animal", "M", "--operator", "A"),
    ):
        assert "thoraxseg study new" in one_error(main(*words), 3)
    assert not path.exists()


def test_a_wrong_reference_makes_no_study(main, tmp_path):
    for wrong in ("0", "-3", "x", "nan", "measured"):
        assert "above 0" in one_error(main("new", tmp_path / "s.sqlite", f"--manual-minutes={wrong}"), 2)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_study_says_so(main, a_file):
    status, text, _ = main("time", a_file)
    assert status == 0 and "No times are logged" in text


def test_names_cannot_steer_the_terminal(main, a_file):
    main("log", a_file, "edit", "--animal", "[red]M7", "--operator", "\u202eAnn", "--structure", "h\u200bart",
         "--seconds", "1")  # fmt: skip
    _, text, _ = main("time", a_file)
    assert "[red]M7" in text and "\u202e" not in text and "\u200b" not in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (0, "0 s"),
        (9.94, "9.9 s"),
        (9.96, "0:10"),
        (59.6, "1:00"),
        (3599.6, "1:00:00"),
        (3723, "1:02:03"),
        (-75, "-1:15"),
    ],
)
def test_seconds_are_told_for_people(seconds, words):
    assert duration(seconds) == words


# What was accepted, what is next, and data sets


@pytest.fixture
def a_scan(tmp_path):
    """An image and its contours in files."""
    import numpy as np

    from thoraxseg.io import write_scalar_nrrd, write_segmentation
    from thoraxseg.segmentation import STRUCTURES, Segmentation
    from thoraxseg.volume import geometry_from_spacing

    def make(name):
        grid = geometry_from_spacing((0.5, 0.5, 0.5), "LPS")
        labels = np.zeros((6, 7, 8), np.uint8)
        labels[2:4] = 1
        image, mask = tmp_path / f"{name}.nrrd", tmp_path / f"{name}.seg.nrrd"
        gray = np.random.default_rng(len(name)).normal(0, 50, labels.shape).astype(np.int16)
        write_scalar_nrrd(image, gray + int(name[1:]), grid, {})
        write_segmentation(mask, Segmentation(labels, grid, {1: STRUCTURES["heart"]}))
        return image, mask

    return make


EXPORT = ("--id", 101, "--name", "Mice", "--channel", "CT")


def test_a_verdict_with_its_files_becomes_a_data_set(main, a_file, a_scan, tmp_path):
    image, mask = a_scan("M7")
    names = "--animal", "M7", "--operator", "Ann"
    assert main("log", a_file, "accept", *names, "--image", image, "--mask", mask)[0] == 0
    status, text, errors = main("export-dataset", a_file, "-o", tmp_path / "data", *EXPORT)
    assert (status, errors) == (0, "")
    assert "1 case(s) of 1 animal(s): 1 Heart." in text
    assert "accepted without an edit" in text
    assert (tmp_path / "data" / "Dataset101_Mice" / "labelsTr" / "M7_1.nii.gz").exists()
    assert "new or empty folder" in one_error(
        main("export-dataset", a_file, "-o", tmp_path / "data", *EXPORT), 5
    )
    again = ("--id", 102, *EXPORT[2:], "--anonymous", "--json")
    told = json.loads(main("export-dataset", a_file, "-o", tmp_path / "data", *again)[1])
    assert told["cases"][0]["case"] == "S001"


def test_files_go_with_accept_alone_and_as_a_pair(main, a_file, a_scan):
    image, mask = a_scan("M7")
    names = "--animal", "M7", "--operator", "Ann"
    for words in (
        ("accept", *names, "--image", image),
        ("reject", *names, "--image", image, "--mask", mask),
        ("accept", *names, "--labels", "1=heart"),
    ):
        assert "--image and --mask go together" in one_error(main("log", a_file, *words), 2)
    assert "M8" in one_error(
        main("log", a_file, "accept", *names, "--image", image, "--mask", "M8.seg.nrrd"), 3
    )
    assert times(open_study(a_file)) == []  # no verdict without the files that it is about


def test_a_table_names_the_files_of_many_scans_or_of_none(main, a_file, a_scan, tmp_path):
    table = tmp_path / "files.csv"
    for animal in ("M7", "M8"):
        a_scan(animal)
        main("log", a_file, "accept", "--animal", animal, "--operator", "Ann")
    table.write_text("animal,image,mask\nM7,M7.nrrd,M7.seg.nrrd\nM8,M8.nrrd,M9.seg.nrrd\n")
    said = one_error(main("files", a_file, table), 3)
    assert "line 3" in said and "M9.seg.nrrd" in said
    assert "no files were named" in one_error(
        main("export-dataset", a_file, "-o", tmp_path / "d", *EXPORT), 3
    )
    table.write_text(table.read_text().replace("M9.seg", "M8.seg"))
    status, text, _ = main("files", a_file, table)
    assert (status, text) == (0, "Named the files of 2 scan(s).\n")
    assert "2 case(s) of 2 animal(s)" in main("export-dataset", a_file, "-o", tmp_path / "d", *EXPORT)[1]
    main("log", a_file, "accept", "--animal", "M8", "--operator", "Ben")
    assert "scan 1 by Ann, scan 1 by Ben" in one_error(main("files", a_file, table), 3)
    table.write_text("animal,image,mask\nM9,M7.nrrd,M7.seg.nrrd\n")
    assert "one accepted scan of 'M9', got none" in one_error(main("files", a_file, table), 3)


@pytest.fixture
def results(tmp_path):
    from Testing.training.test_ranking import made

    for n, name in enumerate("abcd"):
        made(tmp_path / "results", f"mouse-{name}", 0.1 + n / 10)
    return tmp_path / "results"


def test_the_order_is_shown_written_and_printed_as_json(main, results, tmp_path):
    status, text, errors = main("rank", results, "-o", tmp_path / "next", "--top", 2)
    assert (status, errors) == (0, "")
    assert text.index("mouse-d") < text.index("mouse-") + 10
    assert "4 to correct, 2 of them not shown; 0 left out; 0 that cannot be read." in text
    assert sorted(path.name for path in (tmp_path / "next").iterdir()) == ["ranking.csv", "ranking.json"]
    assert "overwritten" in one_error(main("rank", results, "-o", tmp_path / "next"), 5)
    told = json.loads(main("rank", results, "--json")[1])
    assert told["ranked"][0]["case"] == "mouse-d"
    assert told == json.loads((tmp_path / "next" / "ranking.json").read_text())


def test_results_that_cannot_be_read_end_in_an_error_after_all_others_were_ranked(main, results, tmp_path):
    (results / "mouse-b.json").write_text("{")
    status, text, errors = main("rank", results, "-o", tmp_path / "next")
    assert status == 3
    assert "3 to correct; 0 left out; 1 that cannot be read." in text
    assert "1 result(s) could not be read, all others were ranked" in errors and "mouse-b.json" in errors
    assert json.loads((tmp_path / "next" / "ranking.json").read_text())["broken"][0]["result"].endswith(
        "mouse-b.json"
    )


def test_a_run_that_was_logged_with_its_record_is_ranked_by_the_study(main, a_file, results):
    for name in "ab":
        path = results / f"mouse-{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "timings_s": {"inference": 2.0}}))
        names = "--animal", f"M{name}", "--operator", "batch"
        assert main("log", a_file, "run", *names, "--record", path)[0] == 0
    told = json.loads(main("rank", "--study", a_file, "--json")[1])
    assert {one["animal"] for one in told["ranked"]} == {"Ma", "Mb"}
    assert "expected folders with results" in one_error(main("rank"), 2)
