"""What the commands of agreement hand out: files that appear together, pages that stand alone, statuses, words."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from Testing.agreement.making import SHAPE, box, points, strict_json, write_map, write_table
from thoraxseg.agreement import writing
from thoraxseg.cli import main

NO_NUMBER = re.compile(r"(?<![\w-])(nan|inf|infinity|None)(?![\w-])")
COMMANDS = ("compare", "observers", "study", "evaluate", "stats")


@pytest.fixture
def commands(tmp_path):
    """The words of every command, on input with empty, missing and failed parts."""
    a = box((2, 5, 4), (10, 10, 10)) + points((0, 0, 0), label=2)
    for name, labels in (("a", a), ("b", box((2, 5, 6), (10, 10, 10))), ("none", np.zeros(SHAPE, np.uint8))):
        write_map(tmp_path / f"{name}.nrrd", labels)
    paths = {name: str(tmp_path / f"{name}.nrrd") for name in ("a", "b", "none")}
    study = write_table(
        tmp_path / "study.csv", "case,anna,ben,net\n s1,a.nrrd,b.nrrd,b.nrrd\n s2,none.nrrd,none.nrrd,"
    )
    cohort = write_table(
        tmp_path / "cohort.csv",
        "case,animal,reference,x,y\n s1,m1,a.nrrd,b.nrrd,a.nrrd\n s2,m2,none.nrrd,a.nrrd,failed",
    )
    scores = write_table(tmp_path / "scores.csv", "scan,animal,a,b\n s1,m1,1,1\n s2,m2,2,2\n s3,m3,failed,1")
    return {
        "compare": ["compare", "-r", paths["a"], "-p", paths["b"]],
        "observers": ["observers", *paths.values()],
        "study": ["observers", str(study), "--model", "net", "--write-masks"],
        "evaluate": ["evaluate", str(cohort), "--base", "x"],
        "stats": ["stats", str(scores), "--failed-as", "0"],
    }


class Links(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        if tag == "script":
            self.found.append(tag)
        self.found += [
            value for key, value in attrs if key in ("src", "href") and not value.startswith(("data:", "#"))
        ]


@pytest.mark.parametrize("name", COMMANDS)
def test_json_csv_page_and_figures_appear_together_and_hold_no_word_for_a_number(
    name, commands, tmp_path, capsys
):
    out = tmp_path / "out"
    assert main([*commands[name], "-o", str(out)]) == 0
    text, err = capsys.readouterr()
    assert err == ""
    stem = commands[name][0]
    names = {path.name for path in out.iterdir()}
    assert {f"{stem}.json", f"{stem}.csv", f"{stem}.html"} <= names
    figures = {one for one in names if one.endswith(".png")}
    assert figures and {one.replace(".png", ".svg") for one in figures} <= names
    assert all(str(out / one) in text for one in (f"{stem}.json", f"{stem}.html"))
    record = strict_json((out / f"{stem}.json").read_text("utf-8"))
    assert record["definitions"] and record["versions"] and "Research use only" in record["notice"]
    page = (out / f"{stem}.html").read_text("utf-8")
    links = Links()
    links.feed(page)
    assert links.found == []
    shown = re.sub(r"<[^>]*>|data:[^\"']*", " ", re.sub(r"<style.*?</style>", "", page, flags=re.S))
    for words in (text, shown, *(path.read_text("utf-8") for path in out.glob("*.csv"))):
        assert not NO_NUMBER.search(words), words


@pytest.mark.parametrize("name", COMMANDS)
def test_json_alone_writes_nothing(name, commands, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert main([*commands[name], "--json"]) == 0
    strict_json(capsys.readouterr().out)
    assert list(folder.iterdir()) == []


def test_json_with_a_folder_prints_what_the_file_holds(commands, tmp_path, capsys):
    assert main([*commands["stats"], "--json", "-o", str(tmp_path / "out")]) == 0
    printed = strict_json(capsys.readouterr().out)
    assert printed == strict_json((tmp_path / "out" / "stats.json").read_text("utf-8"))


def test_without_a_folder_each_run_gets_one_of_its_own(commands, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        assert main(commands["stats"]) == 0
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        *("thoraxseg-stats", "thoraxseg-stats-2", "thoraxseg-stats-3")
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_an_earlier_result_is_never_overwritten(name, commands, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    earlier = out / f"{commands[name][0]}.json"
    earlier.write_text("earlier", encoding="utf-8")
    assert main([*commands[name], "-o", str(out)]) == 5
    assert "nothing is overwritten. Choose another --output." in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [earlier.name]
    assert earlier.read_text("utf-8") == "earlier"


def test_a_table_called_like_the_result_is_not_overwritten_by_it(tmp_path, capsys):
    table = write_table(tmp_path / "stats.csv", "scan,a,b\n s1,1,2\n s2,2,2")
    before = table.read_bytes()
    assert main(["stats", str(table), "-o", str(tmp_path)]) == 5
    assert "has stats.csv already" in capsys.readouterr().err
    assert table.read_bytes() == before
    assert list(tmp_path.iterdir()) == [table]


def test_somebody_elses_consensus_is_not_overwritten(commands, tmp_path, capsys):
    mine = tmp_path / "disagreement.nrrd"
    mine.write_text("mine", encoding="utf-8")
    before = {path.name for path in tmp_path.iterdir()}
    assert main([*commands["observers"], "-o", str(tmp_path)]) == 5
    assert "has disagreement.nrrd already" in capsys.readouterr().err
    assert mine.read_text("utf-8") == "mine"
    assert {path.name for path in tmp_path.iterdir()} == before


def test_when_a_file_cannot_be_written_none_is_there(commands, tmp_path, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_csv", full)
    out = tmp_path / "out"
    assert main([*commands["stats"], "-o", str(out)]) == 5
    assert "No space left on device" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_refused_before_the_work(tmp_path, capsys):
    (tmp_path / "out").write_text("", encoding="utf-8")
    words = ["compare", "-r", "gone.nrrd", "-p", "gone.nrrd", "-o", str(tmp_path / "out")]
    assert main(words) == 5


def test_an_earlier_result_is_found_before_the_work(tmp_path, capsys):
    (tmp_path / "compare.html").write_text("earlier", encoding="utf-8")
    assert main(["compare", "-r", "gone.nrrd", "-p", "gone.nrrd", "-o", str(tmp_path)]) == 5
    assert "has compare.html already" in capsys.readouterr().err


def test_work_that_fails_leaves_no_folder_behind(tmp_path, capsys):
    words = ["compare", "-r", str(tmp_path / "gone.nrrd"), "-p", "gone.nrrd", "-o", str(tmp_path / "a" / "b")]
    assert main(words) == 3
    assert list(tmp_path.iterdir()) == []


def test_two_runs_give_the_same_numbers(commands, tmp_path):
    found = []
    for name in ("one", "two"):
        assert main([*commands["study"], "-o", str(tmp_path / name)]) == 0
        record = strict_json((tmp_path / name / "observers.json").read_text("utf-8"))
        del record["finished_utc"]
        files = {p.name: p.read_bytes() for p in (tmp_path / name).iterdir() if p.suffix in (".csv", ".nrrd")}
        found.append((record, files))
    assert found[0] == found[1]


def test_the_screen_shows_tables_with_units_remarks_and_the_purpose(commands, tmp_path, capsys):
    assert main([*commands["compare"], "-o", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert re.search(r"label 1 +0\.800 +0\.667", text)
    assert "MSD mm" in text and "Reference mm³" in text
    assert "label 2: precision, msd_mm, hd95_mm, hd_mm, nsd undefined: the prediction is empty" in text
    assert "Please check: label 2: the prediction has no voxel of it" in text
    assert "Research use only" in text


def test_a_cohort_of_many_remarks_does_not_flood_the_screen(tmp_path, capsys):
    write_map(tmp_path / "a.nrrd", points((0, 0, 0)))
    names = [f"net{n}" for n in range(31)]
    rows = "\n".join(f"s{n},a.nrrd,gone.nrrd{',failed' * len(names)}" for n in range(30))
    rows += f"\nlast,a.nrrd,a.nrrd{',failed' * len(names)}"
    table = write_table(tmp_path / "cohort.csv", f"case,reference,y,{','.join(names)}\n{rows}")
    assert main(["evaluate", str(table), "-o", str(tmp_path / "out")]) == 3
    out, err = capsys.readouterr()
    assert out.count("Please check: ") == 13
    assert "20 more, see the page or the JSON" in out
    assert err.count("gone.nrrd") == 5
    assert "and 25 more, see 'failures' in the JSON" in err
    record = strict_json((tmp_path / "out" / "evaluate.json").read_text("utf-8"))
    assert len(record["failures"]) == 30


def test_outside_names_cannot_steer_the_terminal_or_the_page(tmp_path, capsys):
    evil = "\x1b[31m<script>alert(1)</script>"
    write_map(tmp_path / "a.nrrd", points((0, 0, 0)))
    table = tmp_path / "study.csv"
    table.write_text(f'case,"{evil}",ben\n"{evil}",a.nrrd,a.nrrd\n', encoding="utf-8")
    words = ["observers", str(table), "-o", str(tmp_path / "out"), "--labels", f"1={evil}"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    page = (tmp_path / "out" / "observers.html").read_text("utf-8")
    assert "\x1b" not in out + err + page
    assert "<script>alert" not in page


def test_stray_bytes_in_an_option_do_not_stop_the_record(commands, tmp_path, capsys):
    odd = b"h\xe9art".decode("utf-8", "surrogateescape")
    words = [*commands["compare"], "--labels", f"1={odd},2=b", "--lesions", odd, "--merge", f"{odd}={odd}+b"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    assert strict_json((tmp_path / "out" / "compare.json").read_text("utf-8"))


def test_options_of_a_table_are_refused_without_one(commands, capsys):
    assert main([*commands["observers"], "--write-masks"]) == 2
    assert "are for a table (CSV) of scans" in capsys.readouterr().err
