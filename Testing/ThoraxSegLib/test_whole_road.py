"""From a scan to accepted contours through Logic calls alone, with right numbers at each step; the self tests too."""

from __future__ import annotations

import os
import unittest

import numpy as np
import pytest
import slicer

from Testing.painted import doubtful_slice
from thoraxseg.job import State
from thoraxseg.mrml import segmentation_from_node, segmentation_to_node, volume_from_node
from thoraxseg.options import SegmentOptions
from thoraxseg.postprocess.cleaning import Cleaning
from thoraxseg.precheck import Level
from ThoraxSegLib import Nodes, SelfTest
from ThoraxSegLib.Review import Verdict
from ThoraxSegLib.Runs import isWorkedOn
from ThoraxSegLib.Tasks import TASKS

ENOUGH_SECONDS = 300
VOXEL_MM3 = 0.5**3
CPU = SegmentOptions(device="cpu")


def labels_of(node, volumeNode=None) -> np.ndarray:
    """Return the contours of a node on the grid of its volume."""
    return segmentation_from_node(node, volumeNode or Nodes.volumeOf(node)).labels


def counts_of(labels: np.ndarray, number: int) -> list[int]:
    return np.bincount(labels.ravel(), minlength=number + 1)[1 : number + 1].tolist()


def volumes(measured) -> dict[str, float]:
    return {one["key"]: one["volume_mm3"] for one in measured.structures}


def cells(table) -> list[list[str]]:
    rows, columns = range(table.GetNumberOfRows()), range(table.GetNumberOfColumns())
    return [[table.GetCellText(row, column) for column in columns] for row in rows]


@pytest.fixture
def draw():
    """Add voxels to a segment, as the Segment Editor does with its neighbors locked: only where nothing else is."""

    def add(node, key, voxels):
        volumeNode = Nodes.volumeOf(node)
        array = slicer.util.arrayFromSegmentBinaryLabelmap(node, key, volumeNode)
        free = voxels & (labels_of(node) == 0)
        slicer.util.updateSegmentBinaryLabelmapFromArray(array | free, node, key, volumeNode)
        return int(free.sum())

    return add


class Hand:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(thoraxLogic):
    """A clock for the ledger of times; `clock.now` is set in seconds."""
    from thoraxseg.study import Clock
    from ThoraxSegLib.ContouringTime import ContouringTime

    hand = Hand()
    thoraxLogic.__dict__["time"] = ContouringTime(thoraxLogic, Clock(seconds=hand))
    return hand


def test_the_whole_road_from_a_scan_to_accepted_contours(
    thoraxLogic, scene, mouse, paintedThorax, sliceViews, draw, clock, tmp_path
):
    logic, truth = thoraxLogic, paintedThorax.truth.labels
    counts = counts_of(truth, 4)
    untouched = Nodes.digestOf(mouse)

    # Choose a checkpoint for the volume; the lights say that they fit
    assert "painted-thorax" in [entry.name for entry in logic.catalog.entries() if entry.isReady]
    lights = {light.key: light for light in logic.preflight.lights(mouse, "painted-thorax")}
    assert [key for key, light in lights.items() if light.level is Level.RED] == []
    assert lights["spacing"].level is lights["orientation"].level is lights["sides"].level is Level.GREEN
    assert lights["intensity"].level is Level.GREEN

    # Run
    logic.time.manualReferenceMinutes = 40
    logic.time.open(mouse, "Ada")
    assert logic.runs.canRun(mouse, "painted-thorax") == ""
    run = logic.runs.start(mouse, "painted-thorax", CPU)
    assert run.wait(ENOUGH_SECONDS) is State.DONE, run.logText
    result = run.segmentationNode
    assert np.array_equal(labels_of(result), truth)
    assert logic.catalog.lastUsed() == "painted-thorax"

    # Review: the painted doubt is where Next goes first
    logic.time.look()
    logic.review.show(result)
    doubtful = logic.review.nextDoubtfulSlice(result)
    k = doubtful_slice(paintedThorax)
    assert doubtful.k == k == logic.review.profile(result).values.argmax()
    place = np.linalg.solve(paintedThorax.volume.ijk_to_ras, [*doubtful.positionRas, 1])
    assert place[2] == pytest.approx(k)
    assert sliceViews["Red"].GetSliceOffset() == pytest.approx(doubtful.positionRas[2])
    clock.now = 30

    # Correct the heart: a block of 27 voxels far from it, and one voxel elsewhere
    logic.time.edit("Heart")
    block = np.zeros(truth.shape, bool)
    block[:3, :3, :3] = True
    assert draw(result, "heart", block) == 27
    crumb = np.zeros(truth.shape, bool)
    crumb[-1, -1, -1] = True
    assert draw(result, "heart", crumb) == 1
    corrected = np.where(block | crumb, 1, truth)
    assert np.array_equal(labels_of(result), corrected)
    clock.now = 50
    logic.time.tick()
    assert isWorkedOn(result)

    # Measure what is there now
    measured = logic.measurements.measure(result)
    expected = [(counts[0] + 28) * VOXEL_MM3, *(count * VOXEL_MM3 for count in counts[1:])]
    assert list(volumes(measured).values()) == pytest.approx(expected)
    assert measured.tumors is None

    # Clean a copy: the voxel and the block are no heart, whoever drew them
    cleaned = logic.cleaning.apply(result, Cleaning(min_size=10))
    assert np.array_equal(labels_of(cleaned), np.where(crumb, 0, corrected))
    cleaned = logic.cleaning.apply(result, Cleaning(largest_only=True, structures=("heart",)))
    assert np.array_equal(labels_of(cleaned), truth)
    assert np.array_equal(labels_of(result), corrected)

    # Compare with a second observer, who drew the heart as it is
    other = segmentation_to_node(paintedThorax.truth, mouse, name="Grace")
    agreement = logic.observers.compare([result, other], names=["Ada", "Grace"])
    cigen = {row["name"]: row["cigen"] for row in agreement.rows}
    assert cigen == pytest.approx(
        {"Heart": counts[0] / (counts[0] + 28), "Spinal cord": 1, "Right lung": 1, "Left lung": 1}
    )
    dice = next(row for row in agreement.rows if row["name"] == "Heart")["pairs"][0]["dsc"]
    assert dice == pytest.approx(2 * counts[0] / (2 * counts[0] + 28))
    consensus = logic.observers.consensus(agreement, "majority")
    assert np.array_equal(labels_of(consensus), truth)  # of two, the majority is both
    disagreement = logic.observers.disagreementVolume(agreement)
    assert slicer.util.arrayFromVolume(disagreement).sum() == 28

    # The time it took
    clock.now = 60
    logic.review.setVerdict(result, Verdict.ACCEPTED)
    logic.time.verdict(Verdict.ACCEPTED)
    (row,) = logic.time.rows()
    assert (row["looking_s"], row["editing_s"]) == pytest.approx((30, 30))
    assert row["compute_s"] == pytest.approx(sum(_stages(result)), rel=1e-3)
    assert row["spent_share_of_manual"] == pytest.approx((60 + row["runtime_s"]) / 2400, rel=1e-3)
    assert row["verdict"] == "accepted"

    # Save, clear, load: everything is there
    record, structuresTable = Nodes.recordOf(result), cells(measured.structuresTable)
    cigenTable, contours = cells(agreement.cigenTable), Nodes.digestOfSegmentation(result)
    doubt = volume_from_node(run.uncertaintyNode).array
    logic.time.close()
    timeTable = cells(logic.time.table())
    names = {"consensus": consensus.GetName(), "cigen": agreement.cigenTable.GetName()}
    names |= {"cleaned": cleaned.GetName(), "disagreement": disagreement.GetName()}
    assert slicer.util.saveScene(str(tmp_path / "mouse.mrb"))
    scene.Clear(False)
    slicer.util.loadScene(str(tmp_path / "mouse.mrb"))

    result, mouse = slicer.util.getNode("mouse segmentation"), slicer.util.getNode("mouse")
    assert Nodes.volumeOf(result) is mouse
    assert Nodes.digestOf(mouse) == untouched
    assert np.array_equal(labels_of(result), corrected)
    assert Nodes.digestOfSegmentation(result) == contours
    assert np.array_equal(volume_from_node(Nodes.uncertaintyOf(result)).array, doubt)
    assert Nodes.recordOf(result) == record
    assert logic.review.verdict(result) is Verdict.ACCEPTED
    assert logic.review.staleness(result) == ""
    assert cells(logic.measurements.tables(result)[0]) == structuresTable
    assert volumes(logic.measurements.measure(result)) == pytest.approx(volumes(measured))
    assert np.array_equal(labels_of(slicer.util.getNode(names["cleaned"])), truth)
    assert np.array_equal(labels_of(slicer.util.getNode(names["consensus"])), truth)
    assert slicer.util.arrayFromVolume(slicer.util.getNode(names["disagreement"])).sum() == 28
    assert cells(slicer.util.getNode(names["cigen"])) == cigenTable
    assert logic.time.manualReferenceMinutes == 40
    assert cells(logic.time.table()) == timeTable
    assert logic.review.nextDoubtfulSlice(result).k == k

    # Run again: what was accepted is kept beside the new result
    run = logic.runs.start(mouse, "painted-thorax", CPU)
    assert run.wait(ENOUGH_SECONDS) is State.DONE, run.logText
    assert np.array_equal(labels_of(run.segmentationNode), truth)
    assert result.GetName() == "mouse segmentation (edited, earlier)"
    assert np.array_equal(labels_of(result), corrected)


def _stages(result) -> list[float]:
    timings = Nodes.recordOf(result)["timings_s"]
    return [seconds for stage, seconds in timings.items() if stage != "total"]


def test_tumors_are_counted_measured_and_found_again_in_the_views(
    tumorLogic, tumorMouse, paintedLungTumor, sliceViews, draw
):
    logic, truth = tumorLogic, paintedLungTumor.truth.labels
    run = logic.runs.start(tumorMouse, "painted-lung-tumor", CPU)
    assert run.wait(ENOUGH_SECONDS) is State.DONE, run.logText
    result = run.segmentationNode
    assert np.array_equal(labels_of(result), truth)
    measured = logic.measurements.measure(result)
    lungs, tumors = counts_of(truth, 2)
    assert volumes(measured) == pytest.approx({"lungs": lungs * VOXEL_MM3, "tumors": tumors * VOXEL_MM3})
    told = measured.tumors
    assert (told["count"], told["large_count"], told["small_count"]) == (3, 2, 1)
    assert sum(one["volume_mm3"] for one in told["nodules"]) == pytest.approx(tumors * VOXEL_MM3)
    assert told == {
        **told,
        **{key: Nodes.recordOf(result)["measurements"]["tumors"][key] for key in ("count",)},
    }

    # A click on the third row centers the views on the small tumor
    logic.measurements.sort(measured.tumorsTable, "volume_mm3", True)
    logic.measurements.centerOn(measured.tumorsTable, 2)
    places = [one["center_ras_mm"] for one in paintedLungTumor.facts["tumors"]]
    assert sliceViews["Red"].GetSliceOffset() == pytest.approx(places[2][2], abs=0.5)

    # A missed tumor, drawn by hand: 8 voxels, 1 mm3
    free = np.argwhere(truth == 0)
    k, j, i = next(
        place for place in free.tolist() if not truth[tuple(slice(max(n - 2, 0), n + 4) for n in place)].any()
    )
    block = np.zeros(truth.shape, bool)
    block[k : k + 2, j : j + 2, i : i + 2] = True
    assert draw(result, "tumors", block) == 8
    told = logic.measurements.measure(result).tumors
    assert (told["count"], told["large_count"], told["small_count"]) == (4, 3, 1)
    assert told["total_volume_mm3"] == pytest.approx((tumors + 8) * VOXEL_MM3)
    assert 1.0 in [pytest.approx(one["volume_mm3"]) for one in told["nodules"]]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_self_tests_of_a_module_pass_as_its_test_driver_runs_them(app, task):
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(type("Test", (SelfTest.SelfTest,), {"task": task})).run(
        result
    )
    assert result.testsRun > 10
    assert [told for _, told in result.failures + result.errors] == []
    assert len(result.skipped) == (task.key == "mouse-thorax")


def test_reload_and_test_runs_every_self_test_and_restores_the_settings(app, monkeypatch):
    ran = []

    class Test(SelfTest.SelfTest):
        task = TASKS["mouse-thorax"]

        def setUp(self) -> None:
            super().setUp()
            ran.append("setUp")

    names = unittest.defaultTestLoader.getTestCaseNames(Test)
    for name in names:
        monkeypatch.setattr(Test, name, lambda self, name=name: ran.append(name))
    monkeypatch.setenv("THORAXSEG_HOME", "as it was")
    Test().runTest()
    assert ran == [part for name in names for part in ("setUp", name)]
    assert os.environ["THORAXSEG_HOME"] == "as it was"


def test_the_self_test_without_a_task_is_skipped(app):
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(SelfTest.SelfTest).run(result)
    assert result.testsRun == len(result.skipped) > 10
