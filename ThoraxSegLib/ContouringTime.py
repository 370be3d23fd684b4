"""Contouring time: what the machine took, what a person took to look and to edit, and what that is of the time by hand.

The times are counted by `thoraxseg.study.Ledger`, idle time apart. The truth lies in the scene, as the text of one
vtkMRMLTextNode that never gets a file of its own: so it is written into the scene file itself, is there in .mrml and
.mrb alike, and cannot be left behind; the cells of a table could be edited by a double click. The SQLite file that the
ledger writes to lies in a private temporary folder and is made anew from the scene; the study file of the user, where
one is given, gets the same sessions.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from thoraxseg.errors import InputError, OptionError, ThoraxSegError
from thoraxseg.export import check_pair, reviewed_structures
from thoraxseg.files import new_scratch, safe_name
from thoraxseg.io import hash_input, read_segmentation, write_scalar_nrrd, write_segmentation
from thoraxseg.mrml import segmentation_from_node, volume_from_node
from thoraxseg.mrml.grids import class_name, node_name
from thoraxseg.mrml.tables import Column, fill_table
from thoraxseg.report import printable
from thoraxseg.study import (
    DEFINITIONS,
    HEARTBEAT_S,
    IDLE_AFTER_S,
    Clock,
    Ledger,
    Session,
    Store,
    Who,
    checked_minutes,
    create_study,
    flat_rows,
    name_contours,
    open_study,
    put_sessions,
    reviews,
    run_from_timings,
    sessions_from_text,
    sessions_of,
    sessions_to_text,
    write_times,
)
from thoraxseg.study.events import MAX_NAME, RUN_PARTS, checked_run
from thoraxseg.volume import volume_sha256
from ThoraxSegLib.Nodes import KIND_ATTRIBUTE, digestOfSegmentation, nodesOfKind, recordOf, referenceVolume

if TYPE_CHECKING:
    from ThoraxSegLib.Logic import ThoraxSegLogic

logger = logging.getLogger(__name__)

LOG = "contouring-time"
"""Kind of the text node with the sessions."""
TABLE = "contouring-time-table"
"""Kind of the table node with the summary."""
STUDY_BUSY_S = 0.25
"""How long a heartbeat waits for another program that writes the study file: the user has the mouse in hand."""


class ContouringTime:
    """The time that one operator after another spends on the scans of the scene; one session is open at a time.

    Nothing is counted before `open`. A timer calls `tick`, mouse and keys call `touch`. A scene that is saved meanwhile
    lacks no more than the last `heartbeatSeconds`, since no event comes before a scene is saved. What cannot be written
    does not stop the clock: the sentence stands in `problem`, and the next write brings all that is missing.
    """

    def __init__(
        self,
        logic: ThoraxSegLogic,
        clock: Clock | None = None,
        idleAfterSeconds: float = IDLE_AFTER_S,
        heartbeatSeconds: float = HEARTBEAT_S,
    ) -> None:
        self.logic = logic
        self.clock = clock or Clock()
        self.idleAfterSeconds = idleAfterSeconds
        self.heartbeatSeconds = heartbeatSeconds
        self.problems: dict[str, str] = {}
        """What could not be read or written, by what it is about; see `problem`."""
        self._ledger: Ledger | None = None
        self._volumeID = ""
        self._folder: Path | None = None
        self._removeFolder: weakref.finalize | None = None
        self._store: Store | None = None
        self._minutes: float | None = None
        self._study: Store | None = None
        self._studyMinutes: float | None = None
        self._text: str | None = None
        self._savedAt = 0.0
        self._scene, self._observerTags = None, []

    @property
    def isOpen(self) -> bool:
        """Whether a session is open."""
        return self._ledger is not None

    @property
    def who(self) -> Who | None:
        """Animal, scan and operator of the open session; None without one."""
        return self._ledger.who if self._ledger is not None else None

    @property
    def activity(self) -> tuple[str, str]:
        """What is counted now (look, edit, wait, idle), and the segment or an empty text; idle without a session."""
        return self._ledger.activity if self._ledger is not None else ("idle", "")

    @property
    def problem(self) -> str:
        """What could not be read or written, in sentences; empty where all is well."""
        return " ".join(self.problems.values())

    @property
    def manualReferenceMinutes(self) -> float | None:
        """Minutes that contouring one scan by hand takes, saved with the scene; else what the study file said.

        None until somebody says so: `thoraxseg.study.PAPER_MANUAL_MIN` is what the mouse CT paper took, to be offered.
        """
        self._prepare()
        self._sync()
        return self._minutes if self._minutes is not None else self._studyMinutes

    @manualReferenceMinutes.setter
    def manualReferenceMinutes(self, minutes: float | None) -> None:
        checked = None if minutes is None else checked_minutes(minutes)
        self._prepare()
        self._sync()
        if checked != self._minutes:
            self._minutes = checked
            self._saveToScene()

    @property
    def studyPath(self) -> Path | None:
        """The study file that gets the sessions of the scene, too; None without one."""
        return self._study.path if self._study is not None else None

    @studyPath.setter
    def studyPath(self, path: Path | str | None) -> None:
        """Write to this study file from now on, new if it is not there; raises InputError or OutputError."""
        self.problems.pop("study", None)
        if path is None:
            self._study = self._studyMinutes = None
            return
        path = Path(path).absolute()
        study = open_study(path) if path.exists() else create_study(path)
        self._prepare()
        self._sync()
        put_sessions(study, sessions_of(self._store))
        self._study, self._studyMinutes = study, study.manual_reference_min()

    def open(self, node, operator: str, animal: str | None = None, scan: str | None = None) -> None:
        """Open a session for the scan of a segmentation or volume node; the one that is open for another is closed.

        `animal` and `scan` are the name of the volume where they are not given. For the same three names the session
        goes on. The run that made the segmentation is counted, if it was not yet. Raises OptionError for no node or a
        name without text, InputError for a node of another kind. A record whose times are damaged is told in `problem`.
        """
        name = self._scanName(node)
        self._volumeID = _volumeOf(node).GetID()
        who = Who(animal or name, scan or name, operator)
        if self._ledger is None or self._ledger.who != who:
            self._end()
            self._prepare()
            self._sync()
            self._ledger = Ledger(
                self._store,
                *(who.animal, who.scan, who.operator),
                idle_after_s=self.idleAfterSeconds,
                heartbeat_s=self.heartbeatSeconds,
                clock=self.clock,
            )
            self._save()
        self.problems.pop("run", None)
        if node.IsA("vtkMRMLSegmentationNode"):
            timings = recordOf(node).get("timings_s")
            if isinstance(timings, dict) and timings:
                try:
                    times = _timesOf(timings)
                except (InputError, OptionError) as error:  # scene files come from anywhere
                    logger.warning("%s: the times of its run cannot be read: %s", node_name(node), error)
                    self.problems["run"] = _(
                        "{name}: the times that its record states are damaged, so the run that made it is not counted."
                    ).format(name=node_name(node))
                else:
                    self._count(times)

    def isFor(self, volumeNode) -> bool:
        """Tell whether the session that is open was opened for this volume, or for contours of it."""
        return self.isOpen and volumeNode is not None and volumeNode.GetID() == self._volumeID

    def look(self) -> None:
        """From now on the operator looks at the contours. This and what follows raise OptionError without a session.

        While the scan is contoured by a run there is nothing to review yet: then the operator waits, until it ends. The
        time of the run is counted by itself, and looking would count it twice.
        """
        kind = "wait" if self._isBeingRun() else "look"
        if self.activity == (kind, ""):
            self.touch()
        else:
            self._begin(kind)

    def runBegan(self, volumeNode) -> None:
        """A run of a volume began: whoever has the session of this scan open waits. Editing ends the waiting."""
        if self.isFor(volumeNode):
            self._begin("wait")

    def runEnded(self, volumeNode) -> None:
        """The run is over, however it ended: who waited for it looks from now on; who edits or paused goes on."""
        if self.isFor(volumeNode) and self.activity[0] == "wait":
            self._begin("look")

    def edit(self, segmentName: str) -> None:
        """From now on the operator edits a segment; characters that no line of text can hold are written as escapes."""
        self._begin("edit", printable(segmentName).strip()[:MAX_NAME].strip() or _("unnamed segment"))

    def wait(self) -> None:
        """From now on the operator waits for the computer."""
        self._begin("wait")

    def pause(self) -> None:
        """From now on the operator does something else."""
        self._opened().pause()
        self._save()

    def touch(self) -> None:
        """The operator moved the mouse, painted, scrolled; says nothing without a session."""
        if self._ledger is not None:
            self._ledger.touch()
            self._heartbeat()

    def tick(self) -> None:
        """Count up to now, from a timer; says nothing without a session."""
        if self._ledger is not None:
            self._ledger.tick()
            self._heartbeat()

    def run(self, timings: Mapping[str, float]) -> None:
        """Count an automatic run of the scan, by the `timings_s` of its record; the same run is counted once."""
        self._opened()
        self._count(_timesOf(timings))

    def _count(self, times: Mapping[str, float]) -> None:
        """Count a run with these arguments of `Ledger.run` unless it was counted."""
        ledger = self._opened()
        ledger.flush()
        if not _isCounted(sessions_of(self._store), ledger.who, times):
            ledger.run(**times)
        self._save()

    def verdict(self, verdict, segmentationNode=None) -> None:
        """Write down what the operator said of the contours: a member of `Review.Verdict`; NONE takes it back.

        With the segmentation and a study file, contours that are accepted are kept beside it: they can become training
        data (`thoraxseg study export-dataset`). Where that fails, the verdict stands and `problem` says why.
        """
        ledger = self._opened()
        judge = {
            "ACCEPTED": ledger.accept,
            "NEEDS_WORK": ledger.needs_work,
            "REJECTED": ledger.reject,
            "NONE": ledger.take_back,
        }
        name = getattr(verdict, "name", str(verdict))
        if name not in judge:
            raise OptionError(
                _("Expected a verdict among {known}, got {name}.").format(
                    known=", ".join(judge), name=repr(name)
                )
            )
        judge[name]()
        self._save()
        self.problems.pop("accepted", None)
        if name == "ACCEPTED" and segmentationNode is not None and self._study is not None:
            try:
                self._keepAccepted(segmentationNode)
            except ThoraxSegError as error:
                self.problems["accepted"] = _("The accepted contours were not kept: {reason}").format(
                    reason=error
                )

    def _keepAccepted(self, segmentationNode) -> None:
        """Save the contours as they are now in a folder beside the study file, and name them there with their image.

        What a file holds is part of its name, so that none is ever written over. The image is the file that the volume
        was read from; a volume that is not (any more) what one file holds is saved, too.
        """
        who, volumeNode = self._opened().who, _volumeOf(segmentationNode)
        volume = volume_from_node(volumeNode)
        folder = self._study.path.with_name(f"{self._study.path.stem}-accepted")
        stem = safe_name(f"{who.animal}_{who.scan}_{who.operator}")
        mask = folder / f"{stem}-{digestOfSegmentation(segmentationNode)[:8]}.seg.nrrd"
        segmentation = segmentation_from_node(segmentationNode, volumeNode)
        if not mask.exists():
            write_segmentation(mask, segmentation)
        elif not np.array_equal(read_segmentation(mask).labels, segmentation.labels):
            raise InputError(
                _(
                    "{file} was changed after it was kept. Move it away, then judge the contours again."
                ).format(file=mask)
            )
        image = _fileOf(volumeNode, mask)
        if image is None:
            image = folder / f"{stem}-{volume_sha256(volume)[:8]}_image.nrrd"
            if not image.exists():
                write_scalar_nrrd(image, volume.array, volume.ijk_to_ras, {})
        name_contours(self._study, who, image, mask, reviewed_structures(mask), hash_input(image))

    def soFar(self) -> dict[str, Any]:
        """Return the seconds of the open session, keys as `Ledger.so_far`; empty without one."""
        return self._ledger.so_far() if self._ledger is not None else {}

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each scan and operator over all sessions, keys as in the file that `export` writes."""
        return flat_rows(self._reviews())[1]

    def table(self):
        """Return the summary as a table node, the same one each time: a row for each scan and operator."""
        columns, rows = flat_rows(self._reviews())
        scene = self.logic.scene
        node = next(iter(nodesOfKind(scene, "vtkMRMLTableNode", TABLE)), None)
        if node is None:
            node = scene.AddNewNodeByClass("vtkMRMLTableNode", _("Contouring time"))
            node.SetAttribute(KIND_ATTRIBUTE, TABLE)
        for row in rows:
            for key in ("total_active_s", "spent_s"):
                row[_inMinutes(key)] = None if row[key] is None else row[key] / 60
        fill_table(node, _columns(columns), rows)
        return node

    def export(self, path: Path | str, overwrite: bool = False) -> None:
        """Write all times to a .csv or .json file; one that is there stays unless `overwrite`.

        Raises OptionError for another ending, OutputError when the file is there or cannot be written.
        """
        write_times(Path(path), self._reviews(), overwrite)

    def close(self) -> None:
        """Close the session and let go of the scene; may be called twice. `open` begins anew."""
        try:
            self._end()
        finally:
            self._forget()
            self._unobserve()

    def _begin(self, kind: str, segmentName: str | None = None) -> None:
        self._opened().begin(kind, segmentName)
        self._save()

    def _isBeingRun(self) -> bool:
        """Tell whether the scan of the open session is contoured just now."""
        runs = self.logic.__dict__.get("runs")  # not made for this alone
        run = runs.current if runs is not None else None
        return run is not None and not run.state.is_final and self.isFor(run.volumeNode)

    def _opened(self) -> Ledger:
        if self._ledger is None:
            raise OptionError(_("No session is open. Say who works on which scan, and begin."))
        return self._ledger

    def _scanName(self, node) -> str:
        if node is None:
            raise OptionError(_("Expected a segmentation or a volume to time, got nothing. Choose one."))
        known = ("vtkMRMLSegmentationNode", "vtkMRMLVolumeNode")
        if not (hasattr(node, "IsA") and any(map(node.IsA, known))):
            raise InputError(
                _("{name}: expected a segmentation or a volume to time, got {kind}. Choose one.").format(
                    name=node_name(node), kind=class_name(node)
                )
            )
        return printable(node_name(_volumeOf(node))).strip()[:MAX_NAME].strip() or _("unnamed")

    def _end(self) -> None:
        """Close the open session, if there is one."""
        if self._ledger is not None:
            ledger, self._ledger = self._ledger, None
            ledger.close()
            self._saveToScene()
            self._saveToStudy(ledger.uid)

    def _reviews(self) -> list:
        """Return the reviews of the scene up to now."""
        if self._ledger is not None:
            self._save()
        reference = self.manualReferenceMinutes
        return reviews(self._store, reference)

    def _prepare(self) -> None:
        """Have a working file with all sessions that the scene holds."""
        if self._store is None:
            self._observe()
            # For its owner alone; what a killed process left goes.
            self._folder = new_scratch(Path(tempfile.gettempdir()))
            self._removeFolder = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            self._store = create_study(self._folder / "times.sqlite")

    def _forget(self) -> None:
        """Let go of the working file."""
        if self._folder is not None:
            self._removeFolder()
        self._folder = self._store = self._minutes = self._text = None
        self.problems.clear()

    def _sync(self):
        """Take in what the scene's text nodes say and we do not know; return the node to write to, or None.

        It may come from a loaded scene, or from the other module. A text that cannot be read stays as it is and says
        so; times are then written to another node.
        """
        nodes = nodesOfKind(self.logic.scene, "vtkMRMLTextNode", LOG)
        known = next((node for node in nodes if node.GetText() == self._text), None)
        if known is not None and self._text:
            return known
        writable = None
        self.problems.pop("scene", None)
        for node in nodes:
            text = node.GetText() or ""
            try:
                sessions, minutes = sessions_from_text(text, node_name(node)) if text else ([], None)
                put_sessions(self._store, sessions)
            except InputError as error:
                logger.warning("%s", error)
                self.problems["scene"] = str(error)
                continue
            if writable is None:
                writable, self._text = node, text
            self._minutes = minutes if minutes is not None else self._minutes
        return writable

    def _heartbeat(self) -> None:
        if self.clock.seconds() - self._savedAt >= self.heartbeatSeconds:
            self._save(STUDY_BUSY_S)

    def _save(self, busySeconds: float | None = None) -> None:
        """Bring scene and study file up to date with the open session."""
        ledger = self._opened()
        self._savedAt = self.clock.seconds()
        self.problems.pop("ledger", None)
        try:
            ledger.flush()
            self._saveToScene()
        except ThoraxSegError as error:
            self.problems["ledger"] = str(error)
            return
        self._saveToStudy(ledger.uid, busySeconds)

    def _saveToScene(self) -> None:
        """Write all sessions into the scene's text node, with what another module wrote there meanwhile."""
        node = self._sync()
        if node is None:
            node = self.logic.scene.AddNewNodeByClass("vtkMRMLTextNode", _("Contouring time log"))
            node.SetAttribute(KIND_ATTRIBUTE, LOG)
            node.SetForceCreateStorageNode(node.CreateStorageNodeNever)
        self._text = sessions_to_text(sessions_of(self._store), self._minutes)
        if node.GetText() != self._text:
            node.SetText(self._text)

    def _saveToStudy(self, uid: str, busySeconds: float | None = None) -> None:
        if self._study is None:
            return
        self.problems.pop("study", None)
        try:
            put_sessions(self._study, sessions_of(self._store, uid), busySeconds)
        except ThoraxSegError as error:
            self.problems["study"] = str(error)

    def _observe(self) -> None:
        scene = self.logic.scene
        if self._scene is scene:
            return
        self._unobserve()
        events = slicer.vtkMRMLScene
        self._scene = scene
        self._observerTags = [
            scene.AddObserver(event, handler)
            for event, handler in (
                (events.StartCloseEvent, self._onSceneStartClose),
                (events.EndImportEvent, self._onSceneEndImport),
            )
        ]

    def _unobserve(self) -> None:
        for tag in self._observerTags:
            self._scene.RemoveObserver(tag)
        self._scene, self._observerTags = None, []

    def _onSceneStartClose(self, caller, event) -> None:
        """The nodes are about to go: end the session, so that a study file has all of it."""
        try:
            self._end()
        except ThoraxSegError as error:
            logger.warning("The contouring time could not be closed: %s", error)
        self._forget()

    def _onSceneEndImport(self, caller, event) -> None:
        """Nodes came in: their sessions count from now on."""
        if self._store is not None:
            self._text = None
            self._sync()


def _volumeOf(node):
    """Return the volume of a scan: the node itself, or what its contours were drawn on; without one, the contours."""
    return (referenceVolume(node) if node.IsA("vtkMRMLSegmentationNode") else None) or node


def _fileOf(volumeNode, mask: Path) -> Path | None:
    """Return the file of a volume; None where it has none, was changed since, or we read it in another place."""
    storage = volumeNode.GetStorageNode() if volumeNode.IsA("vtkMRMLStorableNode") else None
    path = Path(storage.GetFileName()) if storage is not None and storage.GetFileName() else None
    if path is None or volumeNode.GetModifiedSinceRead():
        return None
    try:
        check_pair(path, mask)
    except InputError:  # one slice of a DICOM series, a stack without geometry, a volume that was moved
        return None
    return path


def _timesOf(timings: Mapping[str, float]) -> dict[str, float]:
    """Return the arguments of `Ledger.run` for the `timings_s` of a record; raises InputError or OptionError."""
    try:
        times = run_from_timings({str(stage): float(seconds) for stage, seconds in timings.items()})
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(_("Expected the seconds of each stage of the run, got something else.")) from error
    checked_run({key: times[key] for key in RUN_PARTS}, times["total_s"])
    return times


def _isCounted(sessions: list[Session], who: Who, times: Mapping[str, float]) -> bool:
    """Tell whether a run of exactly these seconds, as measured to the microsecond, was counted for the scan."""
    run = checked_run({key: times[key] for key in RUN_PARTS}, times["total_s"])
    return any(
        event.kind == "run" and all(getattr(event, key) == value for key, value in run.items())
        for session in sessions
        if (session.who.animal, session.who.scan) == (who.animal, who.scan)
        for event in session.events
    )


TITLES = {
    "animal": _("Animal"),
    "scan": _("Scan"),
    "operator": _("Operator"),
    "verdict": _("Verdict"),
    "compute_s": _("Automatic, all runs"),
    "runtime_s": _("Automatic, last run"),
    "preprocessing_s": _("Preprocessing"),
    "inference_s": _("Inference"),
    "export_s": _("Export"),
    "looking_s": _("Looking"),
    "editing_s": _("Editing"),
    "waiting_s": _("Waiting"),
    "idle_s": _("Idle, not counted"),
    "total_active_s": _("Looking and editing"),
    "total_active_min": _("Looking and editing"),
    "spent_s": _("Total"),
    "spent_min": _("Total"),
    "manual_reference_min": _("By hand"),
    "spent_share_of_manual": _("Total / by hand"),
    "saved_percent_paper": _("Saved without review"),
    "saved_percent_with_review": _("Saved with review"),
    "sessions": _("Sessions"),
    "notes": _("Notes"),
    "undefined": _("Why a number is missing"),
}
"""Columns of the table in their order; those of the structures stand behind `editing_s`."""


def _columns(keys: list[str]) -> list[Column]:
    """Return the columns of the summary: those of `TITLES`, and one for each structure that was edited."""
    edited = sorted(key for key in keys if key.startswith("editing_") and key not in TITLES)
    columns = []
    for key, title in TITLES.items():
        kind = str if key in _WORDS else int if key == "sessions" else float
        columns.append(Column(key, kind, title, _unit(key), DEFINITIONS.get(key, "")))
        if key == "editing_s":
            columns += [
                Column(
                    one,
                    float,
                    _("Editing {name}").format(name=one.removeprefix("editing_").removesuffix("_s")),
                    "s",
                )
                for one in edited
            ]
    return columns


_WORDS = ("animal", "scan", "operator", "verdict", "notes", "undefined")


def _unit(key: str) -> str:
    if "percent" in key:
        return "%"
    return next((unit for unit in ("s", "min") if key.endswith(f"_{unit}")), "")


def _inMinutes(key: str) -> str:
    return key.removesuffix("_s") + "_min"
