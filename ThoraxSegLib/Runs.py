"""Runs: contouring a volume in a child process, and its result as nodes of the scene.

The user's volume is only read. A result gets into the scene once and whole, or not at all; an earlier result of ours
goes only after the new one is there, and never when a person has worked on it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import slicer
import vtk
from slicer.i18n import tr as _

from thoraxseg import RESEARCH_USE, __version__
from thoraxseg.errors import InputError, OptionError, ThoraxSegError
from thoraxseg.job import Engine, Job, Outcome, Request, State
from thoraxseg.mrml import segmentation_to_node, uncertainty_to_node, volume_from_node
from thoraxseg.mrml.grids import grid_of, node_name
from thoraxseg.options import SegmentOptions
from ThoraxSegLib import Nodes

if TYPE_CHECKING:
    from ThoraxSegLib.Logic import ThoraxSegLogic

logger = logging.getLogger(__name__)

EDITED_EARLIER = "(edited, earlier)"
"""What the name of a result ends with that a person had worked on before a newer one was made."""
FOREIGN_ROLES = (Nodes.VOLUME_ROLE, Nodes.SOURCE_ROLE)
"""References of a result to what was there before it."""
LOOK_EVERY_SECONDS = 0.05


class Runs:
    """Starts runs, one at a time, in one child process that keeps its model loaded for the next animal."""

    def __init__(self, logic: ThoraxSegLogic) -> None:
        self.logic = logic
        self.current: Run | None = None
        """The latest run, also when it has ended."""
        self._engine: Engine | None = None
        self._warmUp: Job | None = None

    @property
    def engine(self) -> Engine:
        """The child process; made, but not yet started, on first use."""
        if self._engine is None:
            self._engine = Engine()
        return self._engine

    def canRun(self, volumeNode, checkpointName: str, roiNode=None) -> str:
        """Return "" when `start` would begin a run with these, else why not and what to do, as a sentence."""
        try:
            self._check(volumeNode, checkpointName, roiNode)
        except ThoraxSegError as error:
            return str(error)
        return ""

    def start(
        self,
        volumeNode,
        checkpointName: str,
        options: SegmentOptions | None = None,
        roiNode=None,
        channelNodes: Sequence = (),
    ) -> Run:
        """Begin to contour a volume and return the run at once; `poll` or `wait` for it.

        With `roiNode` only that part is looked at. `channelNodes` are further input channels on the same grid, in the
        checkpoint's order. Raises OptionError, InputError or CheckpointError with the sentence of `canRun`.
        """
        self._check(volumeNode, checkpointName, roiNode)
        request = Request(
            volume=volume_from_node(volumeNode),
            checkpoint=checkpointName,
            options=options or SegmentOptions(),
            channels=tuple(volume_from_node(node) for node in channelNodes),
            box=self.logic.preflight.boxOf(roiNode, volumeNode) if roiNode is not None else None,
        )
        self.current = Run(self, request, volumeNode, roiNode)
        self.current.tellTime(lambda ledger: ledger.runBegan(volumeNode))
        self.logic.catalog.remember(checkpointName)
        return self.current

    def warm(self, checkpointName: str) -> None:
        """Have a model loaded before it is needed; a run may begin meanwhile. Without effect while a job goes on.

        Raises CheckpointError for a checkpoint that cannot be used.
        """
        if not self._isBusy():
            self.logic.catalog.check(checkpointName)
            self._warmUp = self.engine.warm(checkpointName)

    def close(self) -> None:
        """Cancel the run that goes on and end the child process; may be called twice."""
        if self.current is not None:
            self.current.cancel()
        if self._engine is not None:
            self._engine.stop()
        self._engine = self._warmUp = None

    def _check(self, volumeNode, checkpointName: str, roiNode) -> None:
        if self.current is not None and not self.current.state.is_final:
            raise OptionError(_("A run is going on. Wait for it, or cancel it."))
        if self._isBusy():
            raise OptionError(_("A checkpoint is being installed. Wait until it is there."))
        _checkVolume(volumeNode, self.logic.scene)
        if not checkpointName:
            raise OptionError(
                _("No checkpoint is chosen. Choose one, or install one from a file or an address.")
            )
        self.logic.catalog.check(checkpointName)
        if roiNode is not None:
            self.logic.preflight.boxOf(roiNode, volumeNode)

    def _isBusy(self) -> bool:
        """Tell whether the child process does something that nothing may be added to; loading a model is not."""
        job = self._engine.job if self._engine is not None else None
        return job is not None and job is not self._warmUp and not job.poll().is_final


def _checkVolume(volumeNode, scene) -> None:
    """Raise InputError or OptionError, with a sentence, unless the node is an image that can be contoured."""
    if volumeNode is None:
        raise OptionError(_("No volume is chosen. Choose a volume."))
    if not (hasattr(volumeNode, "GetScene") and volumeNode.GetScene() is scene):
        raise InputError(
            _("{name} is not in the scene any more. Choose a volume.").format(name=node_name(volumeNode))
        )
    if volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(
            _("{name} is a label map, not an image. Choose the image.").format(name=volumeNode.GetName())
        )
    if volumeNode.GetAttribute(Nodes.KIND_ATTRIBUTE):
        raise InputError(
            _("{name} was made by ThoraxSeg, it is no scan. Choose the scan.").format(
                name=volumeNode.GetName()
            )
        )
    shape = grid_of(volumeNode).shape
    if 1 in shape:
        raise InputError(
            _(
                "{name}: expected a 3-D image, got a single slice ({shape} voxels). Load the whole stack."
            ).format(name=volumeNode.GetName(), shape=" x ".join(map(str, shape[::-1])))
        )


class Run:
    """One run: polled while it goes on, then its nodes.

    `state` is a `thoraxseg.job.State`. DONE means that the result is in the scene. When a run has failed or was
    cancelled, the scene is as it was.
    """

    def __init__(self, runs: Runs, request: Request, volumeNode, roiNode=None) -> None:
        self.volumeNode = volumeNode
        self.checkpointName = request.checkpoint
        self.state = State.STARTING
        self.error = ""
        """Why the run failed and what to do, as a sentence; empty otherwise."""
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self._runs = runs
        self._roiNode = roiNode
        self._segmentationNode = None
        self._uncertaintyNode = None
        self._digest = Nodes.digestOf(volumeNode)
        self._stateBefore = Nodes.stateOf(volumeNode)
        # Of request and answer only words are kept: their arrays are as large as the image.
        self._volumeName = request.volume.name
        self._beginning = _beginningOfLog(request)
        self._record: dict[str, Any] = {}
        self._timings: dict[str, float] = {}
        self._scene = runs.logic.scene
        self._job = runs.engine.segment(request)
        self._observation = self._scene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, self._onSceneClosing)

    # What is shown while it goes on

    @property
    def fraction(self) -> float:
        """How much is done, 0 to 1."""
        return 1.0 if self.state is State.DONE else self._job.fraction

    @property
    def message(self) -> str:
        """What goes on or how it ended, in words."""
        if self.state is State.DONE:
            return _("Contours are in the scene.")
        if self.state is State.CANCELLED:
            return _("Cancelled. Nothing was changed.")
        return self.error or self._job.message

    @property
    def elapsedSeconds(self) -> float:
        """How long the run has taken so far, or took."""
        return self._job.elapsed_s

    @property
    def expectedSeconds(self) -> float | None:
        """How long the whole run is expected to take; None while nothing can be said."""
        return self._job.expected_s

    @property
    def segmentationNode(self):
        """The result; None while there is none, or when it was removed from the scene."""
        return _ifInScene(self._segmentationNode)

    @property
    def uncertaintyNode(self):
        """The map of doubt; None where none was asked for, or when it was removed from the scene."""
        return _ifInScene(self._uncertaintyNode)

    @property
    def logText(self) -> str:
        """What ran, what was said, how long it took and what went wrong: for the clipboard."""
        lines = [*self._beginning, *self._job.log]
        if self._record:
            source = self._record.get("provenance", {})
            lines.append(f"Device: {source.get('device', 'not stated')}")
            versions = source.get("versions", {})
            lines.append(f"Versions: {', '.join(f'{name} {value}' for name, value in versions.items())}")
        lines += [f"Warning: {warning}" for warning in self.warnings]
        lines += [f"Note: {note}" for note in self.notes]
        if self._timings:
            times = (f"{stage} {seconds:.2f}" for stage, seconds in self._timings.items())
            lines.append(f"Seconds: {', '.join(times)}")
        lines.append(f"State: {self.state.name.lower()} after {self.elapsedSeconds:.1f} s")
        if self.error:
            lines.append(f"Error: {self.error}")
        return "\n".join(lines)

    # What moves it on

    def poll(self) -> State:
        """Take in what the child process said and return the state; never blocks.

        When the child is done this puts the result into the scene, once.
        """
        if self.state.is_final:
            return self.state
        name = self._volumeName
        if self.volumeNode.GetScene() is not self._scene:
            return self._abandon(
                _("{name} was removed while the run went on, so it was ended. Nothing was changed.").format(
                    name=name
                )
            )
        state = self._job.poll()
        if state is State.DONE:
            self._finish()
        elif state is State.FAILED:
            self._end(state, str(self._job.error))
        elif state is State.CANCELLED:
            self._end(state)
        else:
            self.state = state
        return self.state

    def wait(self, timeoutSeconds: float) -> State:
        """Poll until the run has ended or the time is over, and return the state."""
        end = time.monotonic() + timeoutSeconds
        while not self.poll().is_final and time.monotonic() < end:
            self._job.wait(LOOK_EVERY_SECONDS)
        return self.state

    def cancel(self) -> None:
        """End the run and its process tree; the scene stays as it is. Without effect when the run has ended."""
        if not self.state.is_final:
            self._job.cancel()
            self._end(State.CANCELLED)

    def _onSceneClosing(self, caller, event) -> None:
        if not self.state.is_final:
            self._abandon(_("The scene was closed while the run went on, so it was ended."))

    def _abandon(self, sentence: str) -> State:
        self._job.cancel()
        self._end(State.FAILED, sentence)
        return self.state

    def _end(self, state: State, error: str = "") -> None:
        self.state, self.error = state, error
        self._scene.RemoveObserver(self._observation)
        self._job.forget()  # what was found is in the scene by now, or dropped; the engine keeps its last job
        self.tellTime(lambda ledger: ledger.runEnded(self.volumeNode))

    def _finish(self) -> None:
        """Put what the child found into the scene, or say why not."""
        name = self._volumeName
        try:
            outcome = self._job.result()
            self._record, self._timings = outcome.record, outcome.timings_s
            if (
                Nodes.stateOf(self.volumeNode) != self._stateBefore
                and Nodes.digestOf(self.volumeNode) != self._digest
            ):
                raise InputError(
                    _(
                        "The voxels of {name} or their place were changed while the run went on: what was found does "
                        "not belong to them any more and was dropped. Run again."
                    ).format(name=name)
                )
            self.warnings, self.notes = list(outcome.warnings), list(outcome.notes)
            if self._roiNode is not None and self._roiNode.GetScene() is None:
                self.notes.append(
                    _(
                        "The region of interest was removed while the run went on; it counts as it was at the start."
                    )
                )
            self._place(outcome)
        except ThoraxSegError as error:
            self._end(State.FAILED, str(error))
        except Exception as error:
            logger.exception("the result could not be put into the scene")
            sentence = _(
                "The result could not be put into the scene, which is as it was ({kind}: {what}). Please report this."
            )
            self._end(State.FAILED, sentence.format(kind=type(error).__name__, what=error))
        else:
            self._end(State.DONE)
            timings = self._record.get("timings_s")
            if timings:  # a session that is opened later asks the record itself
                self.tellTime(lambda ledger: ledger.run(timings) if ledger.isFor(self.volumeNode) else None)

    def tellTime(self, tell: Callable) -> None:
        """Have the ledger of times told something, if there is one; no run should fail for its troubles."""
        ledger = self._runs.logic.__dict__.get("time")  # the part is made only when times are wanted
        if ledger is None:
            return
        try:
            tell(ledger)
        except ThoraxSegError as error:
            logger.warning("The time of the run was not counted: %s", error)

    # The nodes

    def _place(self, outcome: Outcome) -> None:
        """Put the result beside the volume, all of it or nothing, then see to earlier ones."""
        scene = self._scene
        earlier = Nodes.resultsOf(scene, self.volumeNode, self._runs.logic.task.key)
        aside = {node: f"{node.GetName()} {EDITED_EARLIER}" for node in earlier if isWorkedOn(node)}
        aside = {node: Nodes.uniqueName(scene, name) for node, name in aside.items()}
        kept = _("The earlier result was worked on by hand or judged, so it is kept, hidden, as {name!r}.")
        notes = self.notes + [kept.format(name=name) for name in aside.values()] + _unsavable(self.volumeNode)
        slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)  # or it would count as made here
        before = set(_nodesOf(scene))
        scene.StartState(slicer.vtkMRMLScene.BatchProcessState)
        try:
            try:
                made = self._makeNodes(outcome, notes)
            except BaseException:
                for node in reversed([node for node in _nodesOf(scene) if node not in before]):
                    Nodes.removeNode(node)
                raise
            for node in earlier:
                if node in aside:
                    self._setAside(node, aside[node])
                else:
                    self._remove(node)
            self._nameAll(made)
        finally:
            scene.EndState(slicer.vtkMRMLScene.BatchProcessState)
        self._segmentationNode, self._uncertaintyNode = made[:2]
        self.notes = notes

    def _makeNodes(self, outcome: Outcome, notes: list[str]) -> tuple:
        """Return new nodes with contours, doubt (None where none was asked for) and record, all in their places."""
        volumeNode, task = self.volumeNode, self._runs.logic.task.key
        segmentationNode = segmentation_to_node(
            outcome.segmentation, volumeNode, self._scene, algorithm_name=f"ThoraxSeg {self.checkpointName}"
        )
        uncertaintyNode = None
        if outcome.uncertainty is not None:
            maximum = outcome.quantity["maximum"]
            uncertaintyNode = uncertainty_to_node(outcome.uncertainty, volumeNode, maximum, self._scene)
        recordNode = self._scene.AddNewNodeByClass("vtkMRMLTextNode")
        recordNode.SetEncoding(vtk.VTK_ENCODING_UTF_8)
        record = outcome.record | {"warnings": self.warnings, "notes": notes}
        recordNode.SetText(json.dumps(record, indent=2, ensure_ascii=False))

        kinds = {Nodes.RESULT: segmentationNode, Nodes.UNCERTAINTY: uncertaintyNode, Nodes.RECORD: recordNode}
        about = _("{notice} Made by ThoraxSeg {version} with {checkpoint}.").format(
            notice=RESEARCH_USE, version=__version__, checkpoint=self.checkpointName
        )
        for kind, node in kinds.items():
            if node is None:
                continue
            node.SetAttribute(Nodes.TASK_ATTRIBUTE, task)
            node.SetAttribute(Nodes.KIND_ATTRIBUTE, kind)
            node.SetNodeReferenceID(Nodes.VOLUME_ROLE, volumeNode.GetID())
            node.SetDescription(about)
            Nodes.placeBeside(node, volumeNode)
        if uncertaintyNode is not None:
            segmentationNode.SetNodeReferenceID(Nodes.UNCERTAINTY_ROLE, uncertaintyNode.GetID())
        segmentationNode.SetNodeReferenceID(Nodes.RECORD_ROLE, recordNode.GetID())
        segmentationNode.SetAttribute(Nodes.CHECKPOINT_ATTRIBUTE, self.checkpointName)
        segmentationNode.SetAttribute(Nodes.VOLUME_DIGEST_ATTRIBUTE, self._digest)
        segmentationNode.SetAttribute(Nodes.DIGEST_ATTRIBUTE, Nodes.digestOfSegmentation(segmentationNode))
        return segmentationNode, uncertaintyNode, recordNode

    def _setAside(self, node, name: str) -> None:
        """Keep an earlier result that a person has worked on, hidden, under a name that says so."""
        node.SetAttribute(Nodes.EARLIER_ATTRIBUTE, node.GetName())
        node.SetName(name)
        node.SetDisplayVisibility(False)  # contours over contours tell nobody anything
        for one in (Nodes.uncertaintyOf(node), node.GetNodeReference(Nodes.RECORD_ROLE)):
            if one is not None:
                one.SetName(Nodes.uniqueName(self._scene, f"{one.GetName()} {EDITED_EARLIER}"))

    def _remove(self, node) -> None:
        """Remove an earlier result with what was made for it alone: doubt, record, tables, a preview of cleaning."""
        cleaning, mine = self._runs.logic.cleaning, _companionsOf(node)
        preview = cleaning.previewNode()
        if preview is not None and preview.GetNodeReference(Nodes.SOURCE_ROLE) is node:
            cleaning.discardPreview()
        Nodes.removeNode(node)
        others = [one for one in _nodesOf(self._scene) if one.IsA("vtkMRMLSegmentationNode")]
        for one in mine - {companion for other in others for companion in _companionsOf(other)}:
            Nodes.removeNode(one)

    def _nameAll(self, made: tuple) -> None:
        """Name the nodes after the volume, each name once in the scene."""
        volume = self.volumeNode.GetName()
        names = (
            _("{volume} segmentation").format(volume=volume),
            _("{volume} uncertainty").format(volume=volume),
            _("{volume} record").format(volume=volume),
        )
        for node, name in zip(made, names, strict=True):
            if node is not None:
                node.SetName("")
                node.SetName(Nodes.uniqueName(self._scene, name))


def _beginningOfLog(request: Request) -> list[str]:
    """Return what is run on what, and since when, as lines."""
    volume, options = request.volume, request.options.to_record()
    lines = [
        f"ThoraxSeg {__version__}. {RESEARCH_USE}",
        f"Begun: {datetime.now().astimezone().isoformat(timespec='seconds')}",
        f"Volume: {volume.name}, {' x '.join(map(str, volume.shape[::-1]))} voxels of "
        f"{' x '.join(f'{s:.4g}' for s in volume.spacing_mm[::-1])} mm (i, j, k), axes {volume.axis_codes}",
        f"Checkpoint: {request.checkpoint}",
        f"Options: {', '.join(f'{name} {value}' for name, value in options.items())}",
    ]
    if request.box is not None:
        spans = (f"{name} {low} to {high - 1}" for name, (low, high) in zip("kji", request.box, strict=True))
        lines.append(f"Region of interest, voxels: {', '.join(spans)}")
    return lines


def _unsavable(volumeNode) -> list[str]:
    """Return a sentence where the name of a volume makes a saved scene one that cannot be loaded again."""
    name = volumeNode.GetName() or ""
    if Nodes.savableName(name) == name:
        return []
    sentence = _(
        "The name of the volume, {name}, has a {sign} in it: Slicer saves a scene with such a name, but cannot load it "
        "again. Rename the volume before you save the scene, for example to {other}."
    )
    return [sentence.format(name=name, sign="&", other=Nodes.savableName(name))]


def isWorkedOn(segmentationNode) -> bool:
    """Tell whether a person has changed a result since it was made, or has given a verdict on it."""
    verdict = segmentationNode.GetAttribute(Nodes.VERDICT_ATTRIBUTE)
    made = segmentationNode.GetAttribute(Nodes.DIGEST_ATTRIBUTE)
    return verdict not in (None, "", "NONE") or made != Nodes.digestOfSegmentation(segmentationNode)


def _companionsOf(segmentationNode) -> set:
    """Return the nodes of ours that a segmentation refers to, its volume and its source apart."""
    roles: list[str] = []
    segmentationNode.GetNodeReferenceRoles(roles)
    own = [role for role in roles if role.startswith("ThoraxSeg.") and role not in FOREIGN_ROLES]
    nodes = [
        segmentationNode.GetNthNodeReference(role, n)
        for role in own
        for n in range(segmentationNode.GetNumberOfNodeReferences(role))
    ]
    return {
        node for node in nodes if node is not None and node.GetAttribute(Nodes.KIND_ATTRIBUTE) is not None
    }


def _nodesOf(scene) -> list:
    return [scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())]


def _ifInScene(node):
    return node if node is not None and node.GetScene() is not None else None
