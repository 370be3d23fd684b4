"""The self tests of both modules: run by Reload and Test, by Slicer's test driver, and on slicer-core alike.

Images are phantoms, made on the spot and painted from their labels: every structure has a gray value of its own, so
that a network of plain intensity bands finds exactly these labels, and every number is known. User settings are left
alone: checkpoints lie in a temporary folder that stands for the user's.
"""
# ruff: noqa: PT009, PT027 - there is no pytest in Slicer

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import struct
import tempfile
import unittest
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

from thoraxseg.checkpoints import list_cards
from thoraxseg.checkpoints.card import card_text
from thoraxseg.checkpoints.catalog import CARD_FILE, HOME_VARIABLE
from thoraxseg.errors import ThoraxSegError
from thoraxseg.job import Outcome, Request, State
from thoraxseg.mrml import segmentation_from_node, segmentation_to_node
from thoraxseg.options import SegmentOptions
from thoraxseg.phantoms import Phantom, mouse_micro_ct, mouse_mri
from thoraxseg.postprocess.cleaning import Cleaning
from thoraxseg.precheck import Level
from thoraxseg.segmentation import STRUCTURES
from thoraxseg.volume import Volume, voxel_volume_mm3
from ThoraxSegLib import Nodes

if TYPE_CHECKING:
    from ThoraxSegLib.Tasks import Task

GRAY_STEP = 100
"""Gray value of the background; each label has one step more."""
DOUBT_STEP = 42
"""How much brighter structures are in the doubtful slice: found right, but nearly taken for the next one."""
SPACING_MM = 0.5
OWN, OTHER, BUNDLED = "self-test", "self-test-other-task", "phantom-threshold"
"""Checkpoints: for the painted phantom, the same of the other task, and the one that comes with ThoraxSeg."""
LONGEST_RUN_SECONDS = 600


class PlayedJob:
    """Stands for a job of the child process: goes on until it is told how it ends."""

    def __init__(self, request: Request | None = None) -> None:
        self.id = "played"
        self.request = request
        self.state = State.RUNNING
        self.fraction, self.message = 0.4, "Window 4 of 10"
        self.log = ["Loading the checkpoint", "Window 4 of 10"]
        self.elapsed_s, self.expected_s = 2.0, 5.0
        self.error: ThoraxSegError | None = None
        self.was_cancelled = False
        self._outcome: Outcome | None = None

    def poll(self) -> State:
        """Return the state."""
        return self.state

    def wait(self, timeout_s: float) -> State:
        """Return the state at once."""
        return self.state

    def cancel(self) -> None:
        """Note that it was cancelled."""
        self.was_cancelled = True
        if not self.state.is_final:
            self.state = State.CANCELLED

    def result(self) -> Outcome | None:
        """Return what it was told."""
        return self._outcome

    def forget(self) -> None:
        """Let go of the result."""
        self._outcome = None

    def answer(self, outcome: Outcome) -> None:
        """End it with a result."""
        self._outcome, self.state = outcome, State.DONE

    def fail(self, error: ThoraxSegError) -> None:
        """End it with an error."""
        self.error, self.state = error, State.FAILED


class PlayedEngine:
    """Stands for `thoraxseg.job.Engine`: runs nothing, so that the flow is tested where torch is absent."""

    def __init__(self) -> None:
        self.job: PlayedJob | None = None
        self.is_stopped = False
        self.is_alive = False
        self.process_id = None

    def segment(self, request: Request) -> PlayedJob:
        """Begin a job that does nothing."""
        self.job = PlayedJob(request)
        return self.job

    def warm(self, checkpoint: str) -> PlayedJob:
        """Begin a job that does nothing."""
        self.job = PlayedJob()
        return self.job

    def install(self, source: str, sha256: str | None = None, about=None) -> PlayedJob:
        """Begin a job that does nothing."""
        self.job = PlayedJob()
        return self.job

    def stop(self) -> None:
        """Note that it was stopped."""
        self.is_stopped = True


def outcomeOf(truth, volume: Volume, doubt: np.ndarray | None = None, **changes) -> Outcome:
    """Return the answer of a child process that found `truth`, a Segmentation, with `doubt` in nats."""
    quantity = {"key": "entropy_nat", "name": "entropy", "unit": "nat", "maximum": 1.0}
    answer = {
        "segmentation": replace(truth, ijk_to_ras=volume.ijk_to_ras),
        "uncertainty": doubt,
        "quantity": None if doubt is None else quantity,
        "record": {
            "measurements": {},
            "provenance": {"device": "cpu", "versions": {"thoraxseg": "0"}},
            "uncertainty": None if doubt is None else {"unit": "nat"},
            "timings_s": {"inference": 1.5, "preprocess": 0.25},
        },
        "warnings": ("a warning of the child",),
        "notes": ("a note of the child",),
        "timings_s": {"inference": 1.5, "preprocess": 0.25},
    }
    return Outcome(**answer | changes)


class SelfTest(ScriptedLoadableModuleTest):
    """What a module promises, without its widget; the test class of a module says for which task.

    Example: `class LungTumorSegTest(SelfTest): task = LUNG_TUMOR`.
    """

    task: Task | None = None

    def runTest(self) -> None:
        """Run every test after setUp, as Reload and Test wants it; a skipped one says why."""
        for name in unittest.defaultTestLoader.getTestCaseNames(type(self)):
            self.setUp()
            try:
                getattr(self, name)()
            except unittest.SkipTest as reason:
                self.delayDisplay(f"{name} was skipped: {reason}")
            finally:
                self.tearDown()
        self.delayDisplay("All tests passed.")

    def setUp(self) -> None:
        """Begin with an empty scene, a painted phantom in it, and a folder of its own for checkpoints."""
        if self.task is None:
            self.skipTest("only the test class of a module has a task")
        slicer.mrmlScene.Clear()
        self.folder = Path(tempfile.mkdtemp(prefix="thoraxseg-self-test-"))
        self.homeBefore = os.environ.get(HOME_VARIABLE)
        os.environ[HOME_VARIABLE] = str(self.folder / "home")
        self.phantom = _phantom(self.task.key)
        tasks = ("mouse-thorax", "lung-tumor")
        for name, key in ((OWN, self.task.key), (OTHER, tasks[1 - tasks.index(self.task.key)])):
            _writeCheckpoint(self.folder / "home" / "checkpoints" / name, name, key, self.task.structureKeys)
        self.volumeNode = _volumeNode(self.phantom.volume, "mouse 7")
        self.logic = _logicOf(self.task)

    def tearDown(self) -> None:
        """Leave nothing behind: child process, checkpoints, settings, scene."""
        self.logic.close()
        if self.homeBefore is None:
            os.environ.pop(HOME_VARIABLE, None)
        else:
            os.environ[HOME_VARIABLE] = self.homeBefore
        shutil.rmtree(self.folder, ignore_errors=True)
        slicer.mrmlScene.Clear()

    # Before a run

    def test_WhatCannotBeRunIsRefusedWithASentence(self) -> None:
        """No volume, a label map, a single slice, no checkpoint, the other task's, an unknown one."""
        runs = self.logic.runs
        self.assertEqual(runs.canRun(self.volumeNode, OWN), "")
        slice_ = _volumeNode(replace(self.phantom.volume, array=self.phantom.volume.array[:1]), "slice")
        for volumeNode, checkpoint, words in (
            (None, OWN, "No volume"),
            (slice_, OWN, "single slice"),
            (self.volumeNode, "", "No checkpoint"),
            (self.volumeNode, OTHER, OTHER),
            (self.volumeNode, "no such checkpoint", "no such checkpoint"),
        ):
            reason = runs.canRun(volumeNode, checkpoint)
            self.assertIn(words, reason)
            with self.assertRaises(ThoraxSegError):
                runs.start(volumeNode, checkpoint)
        self.assertIsNone(runs.current)

    def test_TheCatalogShowsTheCheckpointsOfTheTask(self) -> None:
        """Those of the other task are not offered; the one used last is remembered."""
        names = [entry.name for entry in self.logic.catalog.entries()]
        self.assertIn(OWN, names)
        self.assertNotIn(OTHER, names)
        self.logic.catalog.remember(OWN)
        self.assertEqual(_logicOf(self.task).catalog.lastUsed(), OWN)

    def test_TheLightsTellAWrongScale(self) -> None:
        """The phantom itself is fine; ten times as large it is not, and the fix works on a copy."""
        lights = {light.key: light for light in self.logic.preflight.lights(self.volumeNode, OWN)}
        self.assertEqual(lights["spacing"].level, Level.GREEN)
        before = Nodes.digestOf(self.volumeNode)
        self.volumeNode.SetSpacing(*[10 * spacing for spacing in self.volumeNode.GetSpacing()])
        wrong = Nodes.digestOf(self.volumeNode)
        lights = {light.key: light for light in self.logic.preflight.lights(self.volumeNode, OWN)}
        self.assertIn(lights["spacing"].level, (Level.YELLOW, Level.RED))
        self.assertIn("set_spacing", lights["spacing"].fixes)
        copy = self.logic.preflight.fix(self.volumeNode, "set_spacing", spacing_mm=(SPACING_MM,) * 3)
        self.assertIsNot(copy, self.volumeNode)
        self.assertEqual(Nodes.digestOf(self.volumeNode), wrong)
        self.assertNotEqual(wrong, before)
        np.testing.assert_allclose(copy.GetSpacing(), (SPACING_MM,) * 3)

    # The result

    def test_AResultIsWholeAndTheVolumeUntouched(self) -> None:
        """Contours, doubt and record lie beside the volume, voxel for voxel, under its transform."""
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "turned")
        parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(_TURNED))
        self.volumeNode.SetAndObserveTransformNodeID(parent.GetID())
        before = Nodes.digestOf(self.volumeNode)
        run = self._finishedRun()
        node = run.segmentationNode
        self.assertEqual(Nodes.digestOf(self.volumeNode), before)
        self.assertEqual(node.GetName(), "mouse 7 segmentation")
        self.assertIs(Nodes.volumeOf(node), self.volumeNode)
        self.assertIs(node.GetParentTransformNode(), parent)
        role = node.GetReferenceImageGeometryReferenceRole()
        self.assertIs(node.GetNodeReference(role), self.volumeNode)
        self.assertEqual(tuple(node.GetSegmentation().GetSegmentIDs()), self.task.structureKeys)
        np.testing.assert_array_equal(self._labels(node), self.phantom.truth.labels)
        self.assertIn("a warning of the child", Nodes.recordOf(node)["warnings"])

    def test_AnAbsentStructureShiftsNoOther(self) -> None:
        """The first structure is missing: an empty segment, and the others hold their own voxels."""
        labels = np.where(self.phantom.truth.labels == 1, 0, self.phantom.truth.labels)
        node = self._finishedRun(replace(self.phantom.truth, labels=labels)).segmentationNode
        np.testing.assert_array_equal(self._labels(node), labels)

    def test_RunningAgainReplacesOnlyWhatNobodyWorkedOn(self) -> None:
        """A result is replaced by the next one; an accepted one is kept under another name."""
        from ThoraxSegLib.Review import Verdict

        first = self._finishedRun()
        second = self._finishedRun()
        self.assertIsNone(first.segmentationNode)
        self.logic.review.setVerdict(second.segmentationNode, Verdict.ACCEPTED)
        third = self._finishedRun()
        self.assertEqual(second.segmentationNode.GetName(), "mouse 7 segmentation (edited, earlier)")
        self.assertEqual(third.segmentationNode.GetName(), "mouse 7 segmentation")
        self.assertIs(self.logic.review.verdict(second.segmentationNode), Verdict.ACCEPTED)

    def test_CancelClosingAndRemovalEndARun(self) -> None:
        """The scene stays as it is, and a sentence says what happened."""
        runs = self.logic.runs
        runs._engine = PlayedEngine()
        run = runs.start(self.volumeNode, OWN)
        run.cancel()
        self.assertIs(run.poll(), State.CANCELLED)
        run = runs.start(self.volumeNode, OWN)
        slicer.mrmlScene.RemoveNode(self.volumeNode)
        self.assertIs(run.poll(), State.FAILED)
        self.assertIn("removed", run.error)
        run = runs.start(_volumeNode(self.phantom.volume, "mouse 8"), OWN)
        slicer.mrmlScene.Clear()
        self.assertIs(run.state, State.FAILED)
        self.assertIn("closed", run.error)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)

    # After a run

    def test_ReviewGoesToTheMostDoubtfulSlice(self) -> None:
        """The doubt lies in one slice; views that are there are moved to it."""
        run = self._finishedRun()
        self.logic.review.show(run.segmentationNode)
        found = self.logic.review.nextDoubtfulSlice(run.segmentationNode)
        self.assertEqual(found.k, self.doubtfulSlice)
        profile = self.logic.review.profile(run.segmentationNode)
        self.assertEqual(int(np.argmax(profile.values)), self.doubtfulSlice)

    def test_VolumesAreThoseOfTheVoxels(self) -> None:
        """In mm3, from the corrected contours, not those the model drew."""
        node = self._finishedRun().segmentationNode
        voxel = voxel_volume_mm3(self.phantom.volume.ijk_to_ras)
        counts = np.bincount(self.phantom.truth.labels.ravel(), minlength=9)
        measured = {one["key"]: one["volume_mm3"] for one in self.logic.measurements.measure(node).structures}
        for label, key in enumerate(self.task.structureKeys, 1):
            self.assertAlmostEqual(measured[key], counts[label] * voxel, places=6)
        node.GetSegmentation().RemoveSegment(self.task.structureKeys[0])
        left = self.logic.measurements.measure(node)
        self.assertNotIn(self.task.structureKeys[0], [one["key"] for one in left.structures])

    def test_CleaningWorksOnACopy(self) -> None:
        """A crumb is gone from the copy and stays in the contours themselves."""
        labels = self.phantom.truth.labels.copy()
        last = len(self.task.structureKeys)
        labels[0, 0, 0] = last
        node = self._finishedRun(replace(self.phantom.truth, labels=labels)).segmentationNode
        copy = self.logic.cleaning.apply(node, Cleaning(min_size=2))
        np.testing.assert_array_equal(self._labels(node), labels)
        self.assertEqual(self._labels(copy)[0, 0, 0], 0)
        self.assertTrue(self.logic.cleaning.changes)

    def test_TwoObserversAreCompared(self) -> None:
        """Who agrees on all voxels has a conformity of 1; who draws more has less."""
        one = self._finishedRun().segmentationNode
        labels = self.phantom.truth.labels
        more = np.where((labels == 0) & (np.roll(labels, 1, axis=2) == 1), 1, labels)
        two = segmentation_to_node(replace(self.phantom.truth, labels=more), self.volumeNode, name="by hand")
        agreement = self.logic.observers.compare([one, two], names=["model", "Ada"])
        name = STRUCTURES[self.task.structureKeys[0]].name
        first = next(row for row in agreement.rows if row["name"] == name)
        self.assertAlmostEqual(first["cigen"], (labels == 1).sum() / (more == 1).sum(), places=6)
        consensus = self.logic.observers.consensus(agreement, "all")
        self.assertEqual((self._labels(consensus) == 1).sum(), (labels == 1).sum())

    def test_ASavedSceneKnowsAllAgain(self) -> None:
        """Saved, cleared and loaded: contours, doubt, record and what belongs to what are there."""
        node = self._finishedRun().segmentationNode
        before = (Nodes.digestOfSegmentation(node), Nodes.recordOf(node), Nodes.digestOf(self.volumeNode))
        path = str(self.folder / "scene.mrb")
        self.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear()
        slicer.util.loadScene(path)
        node = slicer.util.getNode("mouse 7 segmentation")
        volumeNode = Nodes.volumeOf(node)
        after = (Nodes.digestOfSegmentation(node), Nodes.recordOf(node), Nodes.digestOf(volumeNode))
        self.assertEqual(after, before)
        self.assertEqual(self.logic.review.staleness(node), "")
        self.assertIsNotNone(Nodes.uncertaintyOf(node))

    def test_WhatBelongsToOtherVoxelsIsDropped(self) -> None:
        """The volume is edited while the run goes on."""
        runs = self.logic.runs
        runs._engine = PlayedEngine()
        run = runs.start(self.volumeNode, OWN)
        slicer.util.arrayFromVolume(self.volumeNode)[0, 0, 0] += 1
        slicer.util.arrayFromVolumeModified(self.volumeNode)
        runs.engine.job.answer(outcomeOf(self.phantom.truth, runs.engine.job.request.volume))
        self.assertIs(run.poll(), State.FAILED)
        self.assertIn("changed", run.error)

    # With a real model, in the child process

    def test_TheModelFindsWhatWasPainted(self) -> None:
        """One real run, then another one with the model still loaded."""
        self._needTorch()
        options = SegmentOptions(device="cpu")
        for _ in range(2):
            run = self.logic.runs.start(self.volumeNode, OWN, options)
            self.assertIs(run.wait(LONGEST_RUN_SECONDS), State.DONE, run.logText)
            np.testing.assert_array_equal(self._labels(run.segmentationNode), self.phantom.truth.labels)
        found = self.logic.review.nextDoubtfulSlice(run.segmentationNode)
        self.assertEqual(found.k, self.doubtfulSlice)

    def test_TheBundledCheckpointFindsLungsAndTumors(self) -> None:
        """On its own kind of phantom, within a tenth of the true volume of the lungs."""
        if self.task.key != "lung-tumor":
            self.skipTest(f"no checkpoint comes with ThoraxSeg for {self.task.title}")
        self._needTorch()
        spacing = list_cards()[BUNDLED].input.spacing_mm
        phantom = mouse_mri(seed=1, spacing_mm=spacing, tumors=(5.0, 4.0, 3.0))
        run = self.logic.runs.start(
            _volumeNode(phantom.volume, "mouse 9"), BUNDLED, SegmentOptions(device="cpu")
        )
        self.assertIs(run.wait(LONGEST_RUN_SECONDS), State.DONE, run.logText)
        measured = self.logic.measurements.measure(run.segmentationNode)
        volumes = {one["key"]: one["volume_mm3"] for one in measured.structures}
        truth = phantom.facts["volumes_mm3"]["lungs"]
        self.assertLess(abs(volumes["lungs"] - truth), 0.1 * truth)
        self.assertGreaterEqual(measured.tumors["count"], 3)

    def _needTorch(self) -> None:
        if importlib.util.find_spec("torch") is None:
            self.skipTest(
                "PyTorch is not installed: no real inference. Install it with the PyTorch extension."
            )

    def _finishedRun(self, truth=None):
        """Return a run whose child process found the truth of the phantom, or another one, at once."""
        runs = self.logic.runs
        runs._engine = PlayedEngine()
        run = runs.start(self.volumeNode, OWN)
        labels = self.phantom.truth.labels
        doubt = np.zeros(labels.shape, np.float32)
        doubt[self.doubtfulSlice] = 0.5 * (labels[self.doubtfulSlice] > 0)
        job = runs.engine.job
        job.answer(outcomeOf(truth or self.phantom.truth, job.request.volume, doubt))
        self.assertIs(run.poll(), State.DONE, run.error)
        return run

    @property
    def doubtfulSlice(self) -> int:
        """The slice, by its index k, with most of the structures: the one painted with doubt."""
        return _doubtfulSlice(self.phantom)

    def _labels(self, node) -> np.ndarray:
        """Return the contours of a node on the grid of the volume, labels in the order of the task's structures."""
        found = segmentation_from_node(node, Nodes.referenceVolume(node))
        labels = np.zeros(found.labels.shape, int)
        for value, structure in found.structures.items():
            labels[found.labels == value] = self.task.structureKeys.index(structure.key) + 1
        return labels


_TURNED = np.array([[0.8, -0.6, 0, 3], [0.6, 0.8, 0, -5], [0, 0, 1, 7], [0, 0, 0, 1.0]])


def _logicOf(task: Task):
    from ThoraxSegLib.Logic import ThoraxSegLogic

    return ThoraxSegLogic(task)


@cache
def _phantom(task: str) -> Phantom:
    """Return the painted phantom of a task; nobody changes it."""
    if task == "mouse-thorax":
        return _painted(mouse_micro_ct(seed=1, spacing_mm=SPACING_MM))
    return _painted(mouse_mri(seed=1, spacing_mm=SPACING_MM, tumors=(5.0, 4.0, 0.3)))


def _doubtfulSlice(phantom: Phantom) -> int:
    return int((phantom.truth.labels > 0).sum(axis=(1, 2)).argmax())


def _painted(phantom: Phantom) -> Phantom:
    """Return a phantom whose image shows every label in a gray value of its own, and one slice with doubt."""
    labels = phantom.truth.labels
    image = GRAY_STEP * (labels.astype(np.int16) + 1)
    k = _doubtfulSlice(phantom)
    image[k] += DOUBT_STEP * (labels[k] > 0)
    return replace(phantom, volume=replace(phantom.volume, array=image))


def _volumeNode(volume: Volume, name: str):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(volume.array))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(volume.ijk_to_ras))
    node.CreateDefaultDisplayNodes()
    return node


def _writeCheckpoint(folder: Path, name: str, task: str, keys: tuple[str, ...]) -> None:
    """Write a checkpoint of intensity bands that finds painted structures: card and weights, without torch."""
    folder.mkdir(parents=True)
    centers = [float(GRAY_STEP * (label + 1)) for label in range(len(keys) + 1)]
    bands = {"centers": centers, "widths": [GRAY_STEP / 5] * len(centers)}
    weights = _safetensors(bands)
    (folder / "bands.safetensors").write_bytes(weights)
    card = json.loads(card_text(list_cards()[BUNDLED]))
    card |= {
        "name": name,
        "title": "Self test: intensity bands",
        "description": "Finds what the self tests of ThoraxSeg paint, and nothing else.",
        "task": task,
        "labels": {str(label): key for label, key in enumerate(keys, 1)},
        "architecture": {"name": "threshold", "window": 1, "dimensions": 3, **bands},
        "preprocess": [],
        "postprocess": {"regions": [], "rules": []},
        "weights": [
            {
                "name": "bands.safetensors",
                "member": "",
                "sha256": hashlib.sha256(weights).hexdigest(),
                "size_bytes": len(weights),
            }
        ],
        "source": {"kind": "local", "requirement": "", "archive_sha256": ""},
    }
    card["input"] |= {"orientation": "LPS", "spacing_mm": [SPACING_MM] * 3, "intensity": []}
    card["inference"]["patch_size"] = [32, 32, 32]
    if "tumors" not in keys:
        card["tumors"] = None
    (folder / CARD_FILE).write_text(json.dumps(card), encoding="utf-8")


def _safetensors(tensors: dict[str, list[float]]) -> bytes:
    """Return 32-bit vectors as the content of a safetensors file: length of the header, header, numbers."""
    header, data = {}, b""
    for name, values in tensors.items():
        numbers = struct.pack(f"<{len(values)}f", *values)
        offsets = [len(data), len(data) + len(numbers)]
        header[name] = {"dtype": "F32", "shape": [len(values)], "data_offsets": offsets}
        data += numbers
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
