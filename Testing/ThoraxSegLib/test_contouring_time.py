"""Contouring time in a scene: what is counted, that saving and loading lose nothing, and what damage does."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from enum import Enum
from functools import partial

import numpy as np
import pytest
import slicer

from Testing.study.conftest import Unflushed
from thoraxseg.errors import InputError, OptionError, OutputError
from thoraxseg.export import read_accepted
from thoraxseg.io import read_segmentation, write_scalar_nrrd, write_segmentation
from thoraxseg.mrml import segmentation_to_node
from thoraxseg.mrml.grids import grid_of
from thoraxseg.mrml.tables import table_columns, table_rows
from thoraxseg.segmentation import STRUCTURES, Segmentation
from thoraxseg.study import Clock, accepted_cases, create_study, open_study, times
from ThoraxSegLib.ContouringTime import ContouringTime
from ThoraxSegLib.Nodes import KIND_ATTRIBUTE, RECORD_ROLE, VOLUME_ROLE

TIMINGS = {"read": 1.0, "preprocess": 4.0, "load_checkpoint": 5.0, "inference": 27.0, "write_volumes": 3.0}
"""40 s in all, as the whole run of the mouse CT paper: 5 s preprocessing, 27 s inference, 3 s export, 5 s other."""


class Verdict(Enum):
    NONE, ACCEPTED, NEEDS_WORK, REJECTED = range(4)


class FakeClock(Clock):
    """Two clocks that stand still until a test moves them."""

    def __init__(self):
        now = {"seconds": 1000.0, "utc": datetime(2026, 3, 1, 12, tzinfo=timezone.utc)}
        super().__init__(lambda: now["seconds"], lambda: now["utc"])
        object.__setattr__(self, "now", now)

    def pass_(self, seconds):
        self.now["seconds"] += seconds
        self.now["utc"] += timedelta(seconds=seconds)


class LogicStandIn:
    """What ContouringTime asks of the logic."""

    def __init__(self, scene):
        self.scene = scene


@pytest.fixture(scope="module", autouse=True)
def unflushed():
    """Spare the tests, which do not look at the disk, the wait for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Unflushed))
        yield


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def time(scene, clock):
    part = ContouringTime(LogicStandIn(scene), clock=clock)
    yield part
    part.close()


@pytest.fixture
def volumeNode(scene):
    return makeVolume(scene, "mouse 7")


def makeVolume(scene, name):
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.zeros((3, 4, 5), np.int16))
    return node


def logNodes(scene):
    count = scene.GetNumberOfNodesByClass("vtkMRMLTextNode")
    nodes = [scene.GetNthNodeByClass(n, "vtkMRMLTextNode") for n in range(count)]
    return [node for node in nodes if node.GetAttribute(KIND_ATTRIBUTE) == "contouring-time"]


def rowOf(part, **names):
    (row,) = [row for row in part.rows() if all(row[key] == value for key, value in names.items())]
    return row


def review(part, node, clock, operator="Ann"):
    """Run, look for 30 s, edit the heart for 20 s and the cord for 10 s, be away for 5 min, accept."""
    part.open(node, operator)
    part.wait()
    clock.pass_(40)
    part.run(TIMINGS)
    part.look()
    clock.pass_(30)
    part.edit("Heart")
    clock.pass_(20)
    part.edit("Spinal cord")
    clock.pass_(10)
    part.touch()
    clock.pass_(300)
    part.verdict(Verdict.ACCEPTED)


# What is counted


def test_a_review_is_told_apart_by_what_was_done(time, volumeNode, clock):
    review(time, volumeNode, clock)
    row = rowOf(time)
    assert (row["animal"], row["scan"], row["operator"]) == ("mouse 7", "mouse 7", "Ann")
    assert (row["preprocessing_s"], row["inference_s"], row["export_s"]) == (5, 27, 3)
    assert row["compute_s"] == 40
    assert row["looking_s"] == 30
    assert row["editing_Heart_s"] == 20
    assert row["editing_Spinal cord_s"] == 10 + time.idleAfterSeconds  # the first minute of an absence counts
    assert row["idle_s"] == 300 - time.idleAfterSeconds
    assert row["waiting_s"] == 40
    assert row["verdict"] == "accepted"
    assert row["spent_s"] == 40 + 30 + 20 + 70


def test_without_a_manual_reference_nothing_is_saved_by_assumption(time, volumeNode, clock):
    review(time, volumeNode, clock)
    assert time.manualReferenceMinutes is None
    row = rowOf(time)
    assert row["spent_share_of_manual"] is row["saved_percent_paper"] is None
    assert "no manual reference is set" in row["undefined"]


def test_the_ratio_to_the_manual_reference_is_that_of_paper(time, volumeNode, clock):
    """40 s against 40 min saves 98.33 %, as Malimban et al. 2022 say; 160 s with the review are 1/15 of 40 min."""
    review(time, volumeNode, clock)
    time.manualReferenceMinutes = 40
    row = rowOf(time)
    assert row["saved_percent_paper"] == pytest.approx(98.3333, abs=1e-4)
    assert row["spent_share_of_manual"] == pytest.approx(160 / 2400)
    assert row["saved_percent_with_review"] == pytest.approx(100 * (1 - 160 / 2400))


def test_a_reference_must_be_above_zero(time):
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="manual reference in minutes"):
            time.manualReferenceMinutes = wrong
    assert time.manualReferenceMinutes is None


def test_the_summary_is_one_table_with_units_in_its_headers(time, volumeNode, clock):
    review(time, volumeNode, clock)
    time.manualReferenceMinutes = 40
    table = time.table()
    assert time.table() is table
    shown = [
        f"{column.title} [{column.unit}]" for column in table_columns(table)
    ]  # as Slicer's tables have it
    for header in ("Total [s]", "Total [min]", "By hand [min]", "Editing Heart [s]", "Saved with review [%]"):
        assert header in shown
    (row,) = table_rows(table)
    assert row["spent_min"] == pytest.approx(160 / 60)
    assert row["total_active_min"] == pytest.approx(2.0)
    assert row["sessions"] == 1


def test_structures_stand_in_the_order_of_their_names(time, volumeNode, clock):
    time.open(volumeNode, "Ann")
    for name in ("Spinal cord", "Heart", "Left lung"):
        time.edit(name)
        clock.pass_(1)
    keys = [column.key for column in table_columns(time.table())]
    edited = [key for key in keys if key.startswith("editing_") and key != "editing_s"]
    assert edited == ["editing_Heart_s", "editing_Left lung_s", "editing_Spinal cord_s"]


def test_so_far_tells_the_open_session(time, volumeNode, clock):
    assert time.soFar() == {}
    time.open(volumeNode, "Ann")
    time.look()
    clock.pass_(7)
    assert time.soFar()["looking_s"] == 7
    assert time.activity == ("look", "")
    assert time.who.operator == "Ann"
    time.close()
    assert time.soFar() == {}
    assert not time.isOpen


def test_a_pause_is_idle(time, volumeNode, clock):
    time.open(volumeNode, "Ann")
    time.look()
    clock.pass_(5)
    time.pause()
    clock.pass_(100)
    assert time.soFar()["total_active_s"] == 5
    assert time.soFar()["idle_s"] == 100


def test_the_same_run_is_counted_once_and_another_one_again(time, volumeNode):
    time.open(volumeNode, "Ann")
    time.run(TIMINGS)
    time.run(dict(TIMINGS))
    assert rowOf(time)["runs"] == 1
    time.run(TIMINGS | {"inference": 26.5})
    assert rowOf(time)["runs"] == 2
    assert rowOf(time)["compute_s"] == pytest.approx(79.5)


def result(scene, volumeNode, timings):
    """Return contours of a volume with a record that states these seconds of its run."""
    segmentation = Segmentation(
        np.ones((3, 4, 5), np.uint8), grid_of(volumeNode).world, {1: STRUCTURES["heart"]}, "contours"
    )
    node = segmentation_to_node(segmentation, volumeNode)
    node.SetNodeReferenceID(VOLUME_ROLE, volumeNode.GetID())
    record = scene.AddNewNodeByClass("vtkMRMLTextNode", "record")
    record.SetText(json.dumps({"timings_s": timings}))
    node.SetNodeReferenceID(RECORD_ROLE, record.GetID())
    return node


def test_opening_a_result_counts_the_run_that_made_it(time, volumeNode, scene):
    node = result(scene, volumeNode, TIMINGS)
    time.open(node, "Ann")
    time.open(node, "Ben")
    assert [(row["scan"], row["runs"], row["compute_s"]) for row in time.rows()] == [("mouse 7", 1, 40)] * 2


@pytest.mark.parametrize(
    "timings",
    [
        {"inference": "long"},
        {"inference": None},
        {"inference": -1},
        {"inference": float("nan")},
        {"inference": 10**400},
    ],
    ids=["a word", "nothing", "negative", "no number", "beyond all numbers"],
)
def test_a_record_with_damaged_times_is_said_and_the_session_goes_on(time, volumeNode, scene, clock, timings):
    time.open(result(scene, volumeNode, timings), "Ann")
    assert "contours: the times that its record states are damaged" in time.problem
    time.look()
    clock.pass_(20)
    row = rowOf(time)
    assert (row["looking_s"], row["runs"]) == (20, 0)
    time.open(volumeNode, "Ann")
    assert time.problem == ""


def test_times_of_a_run_that_are_none_are_told(time, volumeNode):
    time.open(volumeNode, "Ann")
    for wrong in ({"inference": "long"}, {"inference": None}, {"inference": -1.0}):
        with pytest.raises((InputError, OptionError)):
            time.run(wrong)


def test_a_verdict_can_be_taken_back_and_an_edit_takes_it_away(time, volumeNode, clock):
    time.open(volumeNode, "Ann")
    for verdict, word in (
        (Verdict.NEEDS_WORK, "needs work"),
        (Verdict.REJECTED, "rejected"),
        (Verdict.NONE, "none"),
    ):
        time.verdict(verdict)
        assert rowOf(time)["verdict"] == word
    time.verdict(Verdict.ACCEPTED)
    time.edit("Heart")
    clock.pass_(1)
    assert rowOf(time)["verdict"] == "none"
    with pytest.raises(OptionError, match="Expected a verdict"):
        time.verdict("splendid")


@pytest.mark.parametrize(
    "name", ["a\nb", "=1+1", 'x"y,z', "  ", "", "n" * 500, "Herz \N{GREEK SMALL LETTER BETA}", "\x00"]
)
def test_segments_may_have_odd_names(time, volumeNode, clock, name, tmp_path):
    time.open(volumeNode, "Ann")
    time.edit(name)
    clock.pass_(3)
    assert rowOf(time)["editing_s"] == 3
    time.table()
    time.export(tmp_path / "times.csv")
    time.export(tmp_path / "times.json")


def test_nothing_is_counted_before_a_session_is_open(time):
    time.touch()
    time.tick()
    for act in (time.look, time.wait, time.pause, lambda: time.edit("Heart"), lambda: time.run(TIMINGS)):
        with pytest.raises(OptionError, match="No session is open"):
            act()
    assert time.rows() == []


@pytest.mark.parametrize("operator", ["", "  ", "a\nb", "n" * 300])
def test_an_operator_needs_a_name(time, volumeNode, operator, scene):
    with pytest.raises(OptionError, match="name of the operator"):
        time.open(volumeNode, operator)
    assert not time.isOpen
    assert not logNodes(scene)


def test_only_segmentations_and_volumes_are_timed(time, scene):
    with pytest.raises(OptionError, match="got nothing"):
        time.open(None, "Ann")
    with pytest.raises(InputError, match="notes: expected a segmentation or a volume"):
        time.open(scene.AddNewNodeByClass("vtkMRMLTextNode", "notes"), "Ann")


# Several scans and people


def test_two_scans_and_two_operators_have_a_row_each(time, volumeNode, clock, scene):
    other = makeVolume(scene, "mouse 8")
    for node, operator, seconds in ((volumeNode, "Ann", 5), (other, "Ann", 7), (volumeNode, "Ben", 9)):
        time.open(node, operator)
        time.look()
        clock.pass_(seconds)
    assert [(row["scan"], row["operator"], row["looking_s"]) for row in time.rows()] == [
        ("mouse 7", "Ann", 5),
        ("mouse 8", "Ann", 7),
        ("mouse 7", "Ben", 9),
    ]
    assert ["not closed" in row["notes"] for row in time.rows()] == [False, False, True]


def test_animal_and_scan_can_be_given(time, volumeNode):
    time.open(volumeNode, "Ann", animal="M7", scan="day 14")
    assert (time.who.animal, time.who.scan) == ("M7", "day 14")


def test_opening_the_same_scan_again_goes_on(time, volumeNode, clock):
    time.open(volumeNode, "Ann")
    time.look()
    clock.pass_(5)
    time.open(volumeNode, "Ann")
    clock.pass_(5)
    assert rowOf(time)["sessions"] == 1
    assert rowOf(time)["looking_s"] == 10


# Saved with the scene


@pytest.mark.parametrize("ending", ["mrb", "mrml"])
def test_a_loaded_scene_knows_all_and_a_new_session_adds_to_it(
    time, volumeNode, clock, scene, tmp_path, ending
):
    review(time, volumeNode, clock)
    time.manualReferenceMinutes = 40
    time.close()
    saveAndLoad(scene, tmp_path / f"scene.{ending}")
    assert time.manualReferenceMinutes == 40
    assert rowOf(time)["spent_s"] == 160
    time.open(slicer.util.getNode("mouse 7"), "Ann")
    time.edit("heart")
    clock.pass_(12)
    row = rowOf(time)
    assert row["sessions"] == 2
    assert row["editing_Heart_s"] == 32
    assert row["verdict"] == "none"


def saveAndLoad(scene, path):
    if path.suffix == ".mrml":  # files of the nodes lie beside it
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            assert slicer.util.saveNode(node, str(path.parent / f"{node.GetID()}.nrrd"))
    assert slicer.util.saveScene(str(path))
    scene.Clear(False)
    slicer.util.loadScene(str(path))


def test_the_times_lie_in_the_scene_file_itself(time, volumeNode, scene, tmp_path):
    time.open(volumeNode, "\N{LATIN SMALL LETTER A WITH DIAERESIS}<&\"'> Ann")
    for name in "abcdefgh":
        time.edit(name)
    time.close()
    (node,) = logNodes(scene)
    node.AddDefaultStorageNode()  # as Slicer does for what is to be saved
    assert node.GetStorageNode() is None
    saveAndLoad(scene, tmp_path / "scene.mrml")
    (node,) = logNodes(scene)
    assert node.GetStorageNode() is None
    assert rowOf(time)["operator"] == "\N{LATIN SMALL LETTER A WITH DIAERESIS}<&\"'> Ann"


def test_a_scene_saved_in_the_middle_loses_no_more_than_the_heartbeat(
    time, volumeNode, clock, scene, tmp_path
):
    time.open(volumeNode, "Ann")
    time.look()
    for _second in range(23):
        clock.pass_(1)
        time.tick()
    saveAndLoad(scene, tmp_path / "scene.mrb")
    assert not time.isOpen
    row = rowOf(time)
    assert 23 - time.heartbeatSeconds <= row["looking_s"] <= 23
    assert "not closed" in row["notes"]


def test_a_scene_closed_while_a_session_is_open_ends_it(time, volumeNode, clock, scene, tmp_path):
    time.studyPath = tmp_path / "mice.sqlite"
    time.open(volumeNode, "Ann")
    time.look()
    clock.pass_(4)
    scene.Clear(False)
    assert not time.isOpen
    time.touch()
    time.tick()
    assert time.rows() == []
    (row,) = times(open_study(tmp_path / "mice.sqlite"))
    assert row["looking_s"] == 4
    assert row["notes"] == []
    time.open(makeVolume(scene, "mouse 9"), "Ann")
    assert [row["scan"] for row in time.rows()] == ["mouse 9"]


def test_a_second_scene_that_is_added_brings_its_sessions(time, volumeNode, clock, scene, tmp_path):
    review(time, volumeNode, clock)
    time.close()
    path = str(tmp_path / "first.mrb")
    assert slicer.util.saveScene(path)
    scene.Clear(False)
    time.open(makeVolume(scene, "mouse 8"), "Ann")
    time.look()
    clock.pass_(6)
    assert scene.ReadFromMRB(path, False)
    clock.pass_(6)
    assert {row["scan"] for row in time.rows()} == {"mouse 7", "mouse 8"}
    assert rowOf(time, scan="mouse 8")["looking_s"] == 12
    assert rowOf(time, scan="mouse 7")["spent_s"] == 160


def test_two_modules_of_one_scene_lose_nothing_of_each_other(scene, volumeNode, clock):
    parts = [ContouringTime(LogicStandIn(scene), clock=clock) for _number in range(2)]
    for part, operator in zip(parts, ("Ann", "Ben"), strict=True):
        part.open(volumeNode, operator)
        part.look()
    for _second in range(10):
        clock.pass_(1)
        for part in parts:
            part.tick()
    parts[0].manualReferenceMinutes = 30
    for part in parts:
        assert part.manualReferenceMinutes == 30
        assert {row["operator"]: row["looking_s"] for row in part.rows()} == {"Ann": 10, "Ben": 10}
    for part in parts:
        part.close()
    assert len(logNodes(scene)) == 1


def test_a_log_that_is_deleted_is_written_anew(time, volumeNode, clock, scene):
    time.open(volumeNode, "Ann")
    time.look()
    clock.pass_(5)
    scene.RemoveNode(logNodes(scene)[0])
    time.tick()
    clock.pass_(5)
    time.tick()
    assert len(logNodes(scene)) == 1
    assert rowOf(time)["looking_s"] == 10


# Damage


def _changed(change):
    def damage(text):
        record = json.loads(text)
        change(record)
        return json.dumps(record)

    return damage


def _first(record):
    return record["sessions"][0]["events"][1]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text[:-20], id="cut"),
        pytest.param(lambda text: "{}", id="another record"),
        pytest.param(lambda text: "[" * 100_000, id="nested"),
        pytest.param(lambda text: "[1]", id="a list"),
        pytest.param(_changed(lambda r: r.update(sessions=5)), id="no sessions"),
        pytest.param(_changed(lambda r: r["sessions"].append(r["sessions"][0])), id="a session twice"),
        pytest.param(_changed(lambda r: _first(r).update(seconds=-5)), id="negative"),
        pytest.param(_changed(lambda r: _first(r).update(seconds=float("nan"))), id="nan"),
        pytest.param(_changed(lambda r: _first(r).update(seconds=10**400)), id="huge"),
        pytest.param(_changed(lambda r: _first(r).update(seconds="9")), id="text for a number"),
        pytest.param(_changed(lambda r: _first(r).update(kind="sleep")), id="unknown kind"),
        pytest.param(_changed(lambda r: _first(r).update(number=True)), id="no number"),
        pytest.param(_changed(lambda r: _first(r).update(ended_utc="yesterday")), id="no moment"),
        pytest.param(_changed(lambda r: r["sessions"][0].update(operator="")), id="no operator"),
        pytest.param(_changed(lambda r: r.update(manual_reference_min=0)), id="no reference"),
    ],
)
def test_damaged_times_are_said_and_kept_and_counting_begins_anew(time, volumeNode, clock, scene, damage):
    time.open(volumeNode, "Ann")
    time.look()
    clock.pass_(5)
    time.close()
    (node,) = logNodes(scene)
    text = damage(node.GetText())
    node.SetText(text)
    time.open(volumeNode, "Ann")
    assert "Contouring time log: the contouring times are damaged" in time.problem
    time.look()
    clock.pass_(8)
    assert rowOf(time)["looking_s"] == 8
    time.close()
    assert node.GetText() == text
    assert len(logNodes(scene)) == 2


def test_times_of_a_newer_version_are_said_and_kept(time, volumeNode, scene):
    time.open(volumeNode, "Ann")
    time.close()
    (node,) = logNodes(scene)
    text = json.dumps(json.loads(node.GetText()) | {"schema": 99})
    node.SetText(text)
    time.open(volumeNode, "Ann")
    assert "newer ThoraxSeg" in time.problem
    assert node.GetText() == text


# Study file and export


def test_a_study_file_gets_the_same(time, volumeNode, clock, tmp_path):
    time.open(volumeNode, "Ben")
    time.look()
    clock.pass_(2)
    time.studyPath = tmp_path / "mice.sqlite"
    review(time, volumeNode, clock)
    time.close()
    found = times(open_study(time.studyPath), 40)
    assert [(row["operator"], row["spent_s"]) for row in found] == [
        (row["operator"], row["spent_s"]) for row in time.rows()
    ]


def test_a_study_file_that_is_there_is_added_to(time, volumeNode, clock, tmp_path):
    study = create_study(tmp_path / "mice.sqlite")
    study.set_manual_reference(35)
    time.studyPath = study.path
    assert time.manualReferenceMinutes == 35
    review(time, volumeNode, clock)
    assert times(study)[0]["runs"] == 1
    time.studyPath = study.path  # again is no harm
    assert times(study)[0]["compute_s"] == 40


def test_what_is_no_study_file_is_refused(time, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no study")
    with pytest.raises(InputError, match="expected a study file"):
        time.studyPath = path
    assert time.studyPath is None


def test_a_study_file_that_went_away_stops_no_clock(time, volumeNode, clock, tmp_path, scene):
    time.studyPath = tmp_path / "mice.sqlite"
    time.open(volumeNode, "Ann")
    time.look()
    (tmp_path / "mice.sqlite").rename(tmp_path / "away.sqlite")
    clock.pass_(6)
    time.tick()
    assert "mice.sqlite" in time.problem
    assert rowOf(time)["looking_s"] == 6
    (tmp_path / "away.sqlite").rename(tmp_path / "mice.sqlite")
    clock.pass_(6)
    time.tick()
    assert time.problem == ""
    (row,) = times(open_study(tmp_path / "mice.sqlite"))
    assert row["looking_s"] == 12


def test_times_are_exported_and_no_file_is_overwritten_unasked(time, volumeNode, clock, tmp_path):
    review(time, volumeNode, clock)
    time.manualReferenceMinutes = 40
    path = tmp_path / "times.csv"
    time.export(path)
    with path.open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["spent_s"]) == 160
    with pytest.raises(OutputError, match="exists and was not changed"):
        time.export(path)
    clock.pass_(1)
    time.edit("Heart")
    clock.pass_(9)
    time.export(path, overwrite=True)
    with path.open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["editing_Heart_s"]) == 29
    time.export(tmp_path / "times.json")
    record = json.loads((tmp_path / "times.json").read_text("utf-8"))
    assert record["manual_reference_min"] == 40
    with pytest.raises(OptionError, match=r"ends in \.csv or \.json"):
        time.export(tmp_path / "times.txt")


def test_closing_leaves_no_file_behind(scene, volumeNode, clock):
    part = ContouringTime(LogicStandIn(scene), clock=clock)
    part.open(volumeNode, "Ann")
    folder = part._folder
    assert folder.is_dir()
    part.close()
    part.close()
    assert not folder.exists()


def test_names_on_the_disk_are_for_their_owner_alone_and_go_although_the_process_was_killed(
    scene, volumeNode, clock, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    part = ContouringTime(LogicStandIn(scene), clock=clock)
    part.open(volumeNode, "Ann")
    if os.name == "posix":
        assert part._folder.stat().st_mode & 0o077 == 0
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    left = part._folder.with_name(part._folder.name.replace(f"-{os.getpid()}-", f"-{killed.pid}-"))
    shutil.copytree(part._folder, left)
    other = ContouringTime(LogicStandIn(scene), clock=clock)
    other.open(volumeNode, "Ben")
    assert sorted(tmp_path.iterdir()) == sorted([part._folder, other._folder])
    part.close()
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_the_logic_of_the_module_has_it(thoraxLogic, volumeNode):
    thoraxLogic.time.open(volumeNode, "Ann")
    thoraxLogic.time.look()
    thoraxLogic.close()
    assert [row["operator"] for row in thoraxLogic.time.rows()] == ["Ann"]


# What is kept of accepted contours


@pytest.fixture
def drawn(scene, volumeNode):
    """A heart on the volume."""
    slicer.util.arrayFromVolume(volumeNode)[1, 2, 3] = 7
    volumeNode.Modified()
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1, 1:3] = 1
    grid = grid_of(volumeNode).world
    node = segmentation_to_node(
        Segmentation(labels, grid, {1: STRUCTURES["heart"]}), volumeNode, name="heart"
    )
    node.SetNodeReferenceID(VOLUME_ROLE, volumeNode.GetID())
    return node


def test_accepted_contours_are_kept_beside_the_study_with_their_image(time, drawn, tmp_path):
    time.studyPath = tmp_path / "mice.sqlite"
    time.open(drawn, "Ann", animal="M7", scan="d3")
    for verdict in (Verdict.NEEDS_WORK, Verdict.REJECTED):
        time.verdict(verdict, drawn)
    assert not (tmp_path / "mice-accepted").exists()
    time.verdict(Verdict.ACCEPTED, drawn)
    assert time.problem == ""
    (case,) = accepted_cases(open_study(tmp_path / "mice.sqlite"))
    assert (case.animal, case.scan, case.operator, dict(case.structures)) == ("M7", "d3", "Ann", {1: "heart"})
    assert case.mask.parent == case.image.parent == tmp_path / "mice-accepted"
    image, labels, _ = read_accepted(case, {1: "heart"})
    assert np.argwhere(image.array == 7).tolist() == [[1, 2, 3]]
    assert np.count_nonzero(labels) == np.count_nonzero(labels[1, 1:3]) == 10


def test_contours_that_are_edited_after_the_verdict_are_no_training_data(time, drawn, clock, tmp_path):
    time.studyPath = tmp_path / "mice.sqlite"
    time.open(drawn, "Ann")
    time.verdict(Verdict.ACCEPTED, drawn)
    time.edit("Heart")
    clock.pass_(5)
    time.touch()
    time.look()
    assert accepted_cases(open_study(tmp_path / "mice.sqlite")) == []
    time.verdict(Verdict.ACCEPTED, drawn)
    assert len(accepted_cases(open_study(tmp_path / "mice.sqlite"))) == 1


def test_a_volume_that_is_what_its_file_holds_is_not_saved_again(time, scene, tmp_path):
    path = tmp_path / "M7.nrrd"
    write_scalar_nrrd(path, np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([0.5, 0.5, 0.5, 1]), {})
    node = slicer.util.loadVolume(str(path))
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1] = 1
    contours = segmentation_to_node(Segmentation(labels, grid_of(node).world, {1: STRUCTURES["heart"]}), node)
    time.studyPath = tmp_path / "mice.sqlite"
    time.open(contours, "Ann")
    time.verdict(Verdict.ACCEPTED, contours)
    (case,) = accepted_cases(open_study(tmp_path / "mice.sqlite"))
    assert case.image == path
    assert len(list((tmp_path / "mice-accepted").iterdir())) == 1


def test_where_contours_cannot_be_kept_the_verdict_stands_and_it_is_said(time, drawn, tmp_path):
    time.studyPath = tmp_path / "mice.sqlite"
    (tmp_path / "mice-accepted").write_text("in the way")
    time.open(drawn, "Ann")
    time.verdict(Verdict.ACCEPTED, drawn)
    assert "were not kept" in time.problem and "mice-accepted" in time.problem
    assert rowOf(time)["verdict"] == "accepted"
    (tmp_path / "mice-accepted").unlink()
    time.verdict(Verdict.ACCEPTED, drawn)
    assert time.problem == ""


def test_a_kept_file_that_somebody_changed_is_not_taken_for_what_was_accepted(time, drawn, tmp_path):
    time.studyPath = tmp_path / "mice.sqlite"
    time.open(drawn, "Ann")
    time.verdict(Verdict.ACCEPTED, drawn)
    (case,) = accepted_cases(open_study(tmp_path / "mice.sqlite"))
    grid = read_segmentation(case.mask).ijk_to_ras
    write_segmentation(case.mask, Segmentation(np.ones((3, 4, 5), np.uint8), grid, {1: STRUCTURES["heart"]}))
    time.verdict(Verdict.ACCEPTED, drawn)
    assert "was changed after it was kept" in time.problem
    assert accepted_cases(open_study(tmp_path / "mice.sqlite")) == []
