"""Contouring time panel: who works on which animal, what is counted now, and what it comes to."""

from __future__ import annotations

import re
import time as clock
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from thoraxseg.mrml.views import nodes_of
from thoraxseg.study import PAPER_MANUAL_MIN
from ThoraxSegLib.ContouringTime import LOG, TABLE
from ThoraxSegLib.Nodes import KIND_ATTRIBUTE, nodesOfKind
from ThoraxSegLib.Panels import Panel
from ThoraxSegLib.Panels.Parts import askWhereToSave, enableUnless, tell

TELL_EVERY_SECONDS = 1.0
"""How often the line about the clock is written anew."""
SUM_EVERY_SECONDS = 5.0
"""How often the times are summed up, which writes them into the scene."""
IDLE = "idle"


class TimePanel(Panel):
    """Draws `logic.time` and opens a session for whoever said that it is them.

    The name of the operator is saved with the scene. So that nobody's time is booked on the one who saved it, the
    clock starts by itself only after the name was typed or Start was pressed here; from then on for every next scan.
    """

    def setup(self) -> None:
        """Wire the widgets that are not bound to a parameter by name."""
        ui = self.ui
        self._isTyping = False
        self._operator = ""
        self._opened = ("", "", "")
        self._toldMinutes = None
        self._toldAt = self._summedAt = 0.0
        self._summedFor = None
        for lineEdit in (ui.operatorLineEdit, ui.animalLineEdit):
            lineEdit.connect("textEdited(QString)", self.onTyping)
            lineEdit.connect("editingFinished()", self.onTyped)
        ui.startClockButton.connect("clicked(bool)", self.onStart)
        ui.pauseClockButton.connect("clicked(bool)", self.onPause)
        ui.paperReferenceButton.connect("clicked(bool)", self.onPaperReference)
        ui.updateTimeTableButton.connect("clicked(bool)", self.onUpdateTable)
        ui.exportTimeButton.connect("clicked(bool)", self.onExport)
        ui.chooseStudyButton.connect("clicked(bool)", self.onChooseStudy)
        ui.forgetStudyButton.connect("clicked(bool)", self.onForgetStudy)
        self._showTable(None)

    def refresh(self) -> None:
        """Follow the parameters: open a session for another scan or operator, tell the reference, show the times."""
        node = self._node()
        if self._shouldOpen(node):
            self._open(node)
        self._followReference()
        time, ui = self.logic.time, self.ui
        reason = self._whyNotOpen(node)
        running = time.isOpen and time.activity[0] != IDLE
        enableUnless(reason or (_("The clock runs already.") if running else ""), ui.startClockButton)
        enableUnless("" if running else _("The clock does not run."), ui.pauseClockButton)
        enableUnless(
            "" if self.parameters is not None else _("The scene is being closed."), ui.paperReferenceButton
        )
        nothing = "" if time.isOpen or self._hasTimes() else _("No time was counted in this scene yet.")
        enableUnless(nothing, ui.updateTimeTableButton, ui.exportTimeButton)
        ui.studyPathLineEdit.text = str(time.studyPath or "")
        enableUnless("" if time.studyPath else _("No study file is chosen."), ui.forgetStudyButton)
        self._followTable()
        isDue = clock.monotonic() - self._summedAt >= SUM_EVERY_SECONDS
        if isDue or self._summedFor != self._whatCounts():
            self._sumUp()
        self._tellClock(reason)

    def tick(self) -> None:
        """Let the clock run on; write it down once in a while."""
        time, now = self.logic.time, clock.monotonic()
        if not time.isOpen or now - self._toldAt < TELL_EVERY_SECONDS:
            return
        time.tick()
        if now - self._summedAt >= SUM_EVERY_SECONDS:
            self._sumUp()
        self._tellClock("")

    def onTyping(self, text: str) -> None:
        """Names are not complete while somebody types: no session is opened for half of one."""
        self._isTyping = True

    def onTyped(self) -> None:
        """The names are complete; a new operator starts the clock."""
        if not self._isTyping:
            return
        self._isTyping = False
        if self.parameters is not None:
            self._operator = self.parameters.operatorName.strip()
            self.widget.refresh()

    def onStart(self) -> None:
        """Count from now on, for the operator whose name is there."""

        def start() -> None:
            self._isTyping = False
            self._operator = self.parameters.operatorName.strip()
            self._open(self._node())
            self.refresh()

        self.widget.run(start, _("The clock could not be started."))

    def onPause(self) -> None:
        """Count no more until somebody goes on."""

        def pause() -> None:
            self.logic.time.pause()
            self.refresh()

        self.widget.run(pause, _("The clock could not be paused."))

    def onPaperReference(self) -> None:
        """Compare with the time by hand of the mouse CT paper."""
        self.parameters.manualReferenceMinutes = PAPER_MANUAL_MIN

    def onUpdateTable(self) -> None:
        """Write the times so far into the table and show it."""
        self.widget.run(
            lambda: self._showTable(self.logic.time.table()), _("The times could not be summed up.")
        )

    def onExport(self) -> None:
        """Ask for a file and save all times of the scene to it."""

        def export() -> None:
            path = askWhereToSave(
                self.widget, _("Export contouring times"), "contouring-times.csv", [".csv", ".json"]
            )
            if path is not None:
                self.logic.time.export(path, overwrite=True)  # the dialog has asked
                self.widget.say(_("Saved {path}.").format(path=path))

        self.widget.run(export, _("The times were not exported."))

    def onChooseStudy(self) -> None:
        """Ask for a study file, which is opened, or made if it is not there, and never replaced."""

        def choose() -> None:
            path = self._askForStudy()
            if path is not None:
                self.logic.time.studyPath = path
                self.widget.say(_("Times are also kept in {path}.").format(path=path))
            self.refresh()

        self.widget.run(choose, _("The study file cannot be used."))

    def onForgetStudy(self) -> None:
        """Keep times in the scene only."""

        def forget() -> None:
            self.logic.time.studyPath = None
            self.refresh()

        self.widget.run(forget, _("The study file could not be left."))

    def onSceneClosing(self) -> None:
        """Forget the scan; the session ends with the scene."""
        self._toldMinutes = None
        self._showTable(None)

    def cleanup(self) -> None:
        """Let go of the table."""
        self._showTable(None)

    def _showTable(self, tableNode) -> None:
        self.ui.timeTableView.setMRMLTableNode(tableNode)
        self.ui.timeTableView.visible = tableNode is not None

    def _followTable(self) -> None:
        """Show the table that a loaded scene brings, and none that was removed."""
        scene = self.logic.scene
        table = next(iter(nodesOfKind(scene, "vtkMRMLTableNode", TABLE)), None) if self.parameters else None
        if table is not self.ui.timeTableView.mrmlTableNode():
            self._showTable(table)

    # The session

    def _node(self):
        """Return what is timed: the chosen contours, else the chosen volume."""
        if self.parameters is None:
            return None
        return self.parameters.segmentation or self.parameters.inputVolume

    def _whyNotOpen(self, node) -> str:
        if self.parameters is None or node is None:
            return _("Nothing is chosen that could be timed: choose a volume first.")
        if not self.parameters.operatorName.strip():
            return _("Say who you are under Operator: time is counted only for somebody.")
        return ""

    def _shouldOpen(self, node) -> bool:
        """Tell whether the one who sits here goes on with another scan, animal or name."""
        if self._isTyping or self._whyNotOpen(node) or not self.widget.isShown:
            return False
        if self.parameters.operatorName.strip() != self._operator:
            return False
        wanted = (node.GetID(), self._operator, self.parameters.animalName.strip())
        return wanted != self._opened or not self.logic.time.isOpen

    def _open(self, node) -> None:
        time = self.logic.time
        time.open(node, self._operator, self.parameters.animalName.strip() or None)
        time.look()
        self._opened = (node.GetID(), self._operator, self.parameters.animalName.strip())

    def _hasTimes(self) -> bool:
        nodes = nodes_of(self.logic.scene, "vtkMRMLTextNode")
        return any(node.GetAttribute(KIND_ATTRIBUTE) == LOG for node in nodes)

    def _followReference(self) -> None:
        """Tell the logic the reference that is set here; take over one that a scene or study file brings."""
        if self.parameters is None:
            return
        time, minutes = self.logic.time, self.parameters.manualReferenceMinutes or None
        if minutes != self._toldMinutes:
            time.manualReferenceMinutes = self._toldMinutes = minutes
        elif minutes is None and time.isOpen and time.manualReferenceMinutes is not None:
            self._toldMinutes = time.manualReferenceMinutes
            self.parameters.manualReferenceMinutes = self._toldMinutes

    def _askForStudy(self) -> Path | None:
        dialog = qt.QFileDialog(slicer.util.mainWindow(), _("Choose or name a study file"))
        dialog.setNameFilter(_("Study file (*.sqlite)"))
        dialog.setDefaultSuffix("sqlite")
        dialog.setFileMode(qt.QFileDialog.AnyFile)
        dialog.setAcceptMode(
            qt.QFileDialog.AcceptOpen
        )  # a file that is there is opened: no question of replacing
        if not dialog.exec_():
            return None
        return Path(dialog.selectedFiles()[0])

    # What is shown

    def _sumUp(self) -> None:
        """Show the times of this scan and operator over all sessions."""
        time = self.logic.time
        self._summedAt, self._summedFor = clock.monotonic(), self._whatCounts()
        who = time.who
        rows = time.rows() if who is not None else []
        mine = (row for row in rows if (row["animal"], row["scan"], row["operator"]) == _names(who))
        row, ui = next(mine, {}), self.ui
        ui.automaticValueLabel.text = _seconds(row.get("compute_s"))
        ui.lookingValueLabel.text = _seconds(row.get("looking_s"))
        edited = {key: value for key, value in row.items() if _EDITING.fullmatch(key) and value}
        lines = [_seconds(row.get("editing_s"))]
        lines += [f"{_EDITING.fullmatch(key)[1]}: {_seconds(value)}" for key, value in edited.items()]
        ui.editingValueLabel.text = "\n".join(lines)
        ui.idleValueLabel.text = _seconds(row.get("idle_s"))
        ui.totalValueLabel.text = _seconds(row.get("spent_s"))
        tell(ui.ratioValueLabel, self._ratio(row))
        tell(ui.timeReasonLabel, time.problem)

    def _whatCounts(self) -> tuple:
        """Return what makes other sums at once; all else may wait, since panels are refreshed often."""
        time = self.logic.time
        minutes = self.parameters.manualReferenceMinutes if self.parameters is not None else 0
        return (time.who, time.activity, minutes, time.problem)

    def _ratio(self, row: dict) -> str:
        minutes = self.parameters.manualReferenceMinutes if self.parameters is not None else 0
        if not minutes:
            return _("No manual reference is set, so nothing is compared.")
        share = row.get("spent_share_of_manual")
        if share is None:
            return _("Nothing to compare yet: no run of this scan was counted.")
        return _("{percent:.1f} % of the {minutes:g} min by hand").format(
            percent=100 * share, minutes=minutes
        )

    def _tellClock(self, reason: str) -> None:
        """Say what is counted now, and for whom."""
        self._toldAt = clock.monotonic()
        time = self.logic.time
        kind, structure = time.activity
        if not time.isOpen:
            tell(self.ui.clockLabel, reason or _("The clock does not run: press Start."))
            return
        who = time.who
        words = {
            "look": _("looking"),
            "edit": _("editing {structure}").format(structure=structure),
            "wait": _("waiting for the computer"),
            "manual": _("contouring by hand"),
            IDLE: _("paused"),
        }
        sentence = _("{operator}, {animal}: {activity}.")
        animal = who.animal if who.animal == who.scan else f"{who.animal} ({who.scan})"
        tell(
            self.ui.clockLabel,
            sentence.format(operator=who.operator, animal=animal, activity=words.get(kind, kind)),
        )


_EDITING = re.compile(r"editing_(.+)_s")


def _names(who) -> tuple[str, str, str]:
    return (who.animal, who.scan, who.operator)


def _seconds(seconds: float | None) -> str:
    """Return a duration in words: seconds below a minute, then minutes, then hours."""
    if seconds is None:
        return _("not counted")
    whole = round(seconds)
    if whole < 60:
        return _("{seconds} s").format(seconds=whole if seconds >= 10 or not seconds else f"{seconds:.1f}")
    if whole < 3600:
        return _("{minutes} min {seconds:02d} s").format(minutes=whole // 60, seconds=whole % 60)
    return _("{hours} h {minutes:02d} min").format(hours=whole // 3600, minutes=whole % 3600 // 60)
