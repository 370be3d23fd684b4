"""A scene file comes from anywhere: what was changed in it by hand or by bad will is left out, and nothing breaks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer

from Testing.played_engine import PlayedEngine, outcome_of
from thoraxseg.mrml import volume_from_node
from ThoraxSegLib import Cleaning, Measurements, Nodes, Review

DEEP = "[" * 100_000
TEXTS = ["", "null", "[]", "3", '{"a":', "__import__('os')", DEEP, "NaN", "-1", "1e999"]


@pytest.fixture
def result(tumorLogic, tumorMouse, paintedLungTumor):
    """A result with its tables, of a rule of its own: tumors below 1 mm3 are small."""
    tumorLogic.runs._engine = engine = PlayedEngine()
    run = tumorLogic.runs.start(tumorMouse, "painted-lung-tumor")
    volume, labels = engine.job.request.volume, paintedLungTumor.truth.labels
    record = {"measurements": {"tumors": {"connectivity": 6, "small_below_mm3": 1.0}}}
    engine.job.answer(outcome_of(volume, labels, keys=("lungs", "tumors"), record=record))
    run.poll()
    tumorLogic.measurements.measure(run.segmentationNode)
    return run.segmentationNode


def set_record(result, content) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    result.GetNodeReference(Nodes.RECORD_ROLE).SetText(text)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:12])
def test_a_record_that_is_no_object_counts_as_none(text, tumorLogic, result):
    set_record(result, text)
    assert Nodes.recordOf(result) == {}
    tumors = tumorLogic.measurements.measure(result).tumors
    assert (tumors["connectivity"], tumors["small_below_mm3"]) == (18, 0.4)


@pytest.mark.parametrize("wrong", [None, [], 3, "x", [{"a": 1}]], ids=repr)
def test_members_of_a_record_of_another_kind_are_left_out_and_the_rest_stays(wrong, tumorLogic, result):
    places = ("measurements", "uncertainty", "provenance", "timings_s", "warnings")
    set_record(result, {"case": "mouse", **dict.fromkeys(places, wrong)})
    record = Nodes.recordOf(result)
    assert record["case"] == "mouse"
    assert not record.get("measurements") and not record.get("provenance") and not record.get("timings_s")
    tumorLogic.review.show(result)
    tumorLogic.review.plotProfile(result)
    tumorLogic.measurements.measure(result)
    tumorLogic.time.open(result, "Ada")
    set_record(
        result, {"uncertainty": {"unit": wrong}, "provenance": {"checkpoint": wrong, "options": wrong}}
    )
    tumorLogic.review.plotProfile(result)
    assert tumorLogic.cleaning.checkpointOf(result) == "painted-lung-tumor"


@pytest.mark.parametrize(
    "rule",
    [{"connectivity": "a"}, {"connectivity": 7}, {"small_below_mm3": "b"}, {"small_below_mm3": float("nan")}],
    ids=str,
)
def test_a_rule_that_counts_nothing_gives_way_to_the_usual_one(rule, tumorLogic, result):
    good = {"connectivity": 6, "small_below_mm3": 1.0}
    tumors = tumorLogic.measurements.measure(result).tumors
    assert (tumors["connectivity"], tumors["small_below_mm3"]) == (6, 1.0)
    set_record(result, {"measurements": {"tumors": {**good, **rule}}})
    measured = tumorLogic.measurements.measure(result)
    assert (measured.tumors["connectivity"], measured.tumors["small_below_mm3"]) == (18, 0.4)
    assert "no checkpoint says otherwise" in measured.notes[0]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:12])
def test_attributes_that_say_nothing_count_as_not_there(text, scene, tumorLogic, result, tumorMouse):
    uncertainty, review = Nodes.uncertaintyOf(result), tumorLogic.review
    uncertainty.SetAttribute(Review.OPACITY_ATTRIBUTE, text)
    assert review.uncertaintyOpacity(result) == Review.DEFAULT_OPACITY
    review.show(result)

    editor = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    review.lockNeighbors(editor)
    editor.SetAttribute(Review.MASK_BEFORE_ATTRIBUTE, text)
    editor.SetAttribute(Review.OVERWRITE_BEFORE_ATTRIBUTE, text)
    review.lockNeighbors(editor, False)
    if text != "3":  # the only one that is a mode
        assert editor.GetMaskMode() == slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere
    assert editor.GetOverwriteMode() == editor.OverwriteAllSegments

    result.SetAttribute(Cleaning.CHANGES_ATTRIBUTE, text)
    assert tumorLogic.cleaning.changesOf(result) == []
    tumorMouse.SetAttribute("ThoraxSeg.Notes", text)
    assert volume_from_node(tumorMouse).notes == ()
    for table in tumorLogic.measurements.tables(result):
        table.SetAttribute(Measurements.MEASURED_ATTRIBUTE, text)
    assert "measure again" in tumorLogic.review.staleness(result)


@pytest.mark.parametrize("then", ["x", [[0]], np.zeros((4, 4)).tolist(), {}, [["a"] * 4] * 4], ids=str)
def test_a_tumor_is_shown_where_it_was_measured_when_the_place_of_then_is_not_known(then, tumorLogic, result):
    table = tumorLogic.measurements.tables(result)[1]
    place = tumorLogic.measurements.centerOn(table, 0)
    table.SetAttribute(Measurements.MEASURED_ATTRIBUTE, json.dumps({"ijk_to_ras": then}))
    assert tumorLogic.measurements.centerOn(table, 0) == pytest.approx(place)
