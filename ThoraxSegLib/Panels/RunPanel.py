"""Run panel: begin, watch and cancel a run; its log."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

from thoraxseg.job import State
from thoraxseg.options import SegmentOptions
from thoraxseg.precheck import Level
from ThoraxSegLib import Dependencies
from ThoraxSegLib.Nodes import referenceVolume
from ThoraxSegLib.Panels import Panel
from ThoraxSegLib.Panels.Parts import enableUnless, tell
from ThoraxSegLib.Panels.PreflightPanel import isRefused
from ThoraxSegLib.Parameters import fromPack

ENDED = (State.DONE, State.FAILED, State.CANCELLED)


class RunPanel(Panel):
    """Starts `logic.runs` and shows what it says; nothing here waits."""

    def __init__(self, widget) -> None:
        super().__init__(widget)
        self._run = None
        self._isTold = True
        """Whether the user was told how the run ended."""

    def setup(self) -> None:
        """Wire the widgets."""
        self.ui.runButton.connect("clicked(bool)", self.onRun)
        self.ui.cancelButton.connect("clicked(bool)", self.onCancel)
        self.ui.copyLogButton.connect("clicked(bool)", self.onCopyLog)

    def onSceneClosing(self) -> None:
        """Forget a run that has ended; how one ends that goes on is still told."""
        if self._isTold:
            self._run = None

    def cleanup(self) -> None:
        """Let go of the run; the logic ends it."""
        self._run, self._isTold = None, True

    # What the user does

    def onRun(self) -> None:
        """Begin, unless something speaks against it that the user does not want."""
        self.widget.run(self._begin, _("The run could not be started."))
        self.widget.refresh()

    def onCancel(self) -> None:
        """End the run and all its processes."""
        if self._run is not None:
            self.widget.run(self._run.cancel, _("The run could not be cancelled."))
            self.tick()

    def onCopyLog(self) -> None:
        """Put the log on the clipboard."""
        slicer.app.clipboard().setText(self.ui.logText.toPlainText())
        self.widget.say(_("The log is on the clipboard."))

    def _begin(self) -> None:
        parameters = self.parameters
        lights = self.widget.panels["Preflight"].current()
        if any(isRefused(light) for light in lights):
            return  # the panel says why, and the button is off from now on
        red = [light.sentence for light in lights if light.level is Level.RED]
        if red:
            question = _("The pre-flight check found a problem:\n\n{problems}\n\nRun all the same?")
            if not self.widget.confirm(question.format(problems="\n\n".join(red))):
                return
        Dependencies.ensure(lambda title, text: self.widget.confirm(text))
        self._run = self.logic.runs.start(
            parameters.inputVolume,
            parameters.checkpoint,
            fromPack(SegmentOptions, parameters.options),
            parameters.regionOfInterest,
        )
        self._isTold = False
        self.widget.say(_("{volume} is being contoured.").format(volume=parameters.inputVolume.GetName()))

    # What goes on

    @property
    def isBusy(self) -> bool:
        """Whether a run goes on whose end has not been told."""
        return not self._isTold

    def tick(self) -> None:
        """Take in what the run says; when it has ended, show the result or the error, once."""
        if self._run is None or self._isTold:
            return
        state = self._run.poll()
        self._showRun()
        if state in ENDED:
            self._isTold = True
            self._finish(state)

    def _finish(self, state: State) -> None:
        run = self._run
        if state is State.FAILED:
            self.widget.showError(run.error, run.logText)
        elif state is State.CANCELLED:
            self.widget.say(run.message)
        elif run.segmentationNode is not None:
            if self._isAwaited():
                self.parameters.segmentation = run.segmentationNode  # the review panel shows what is chosen
                sentence = _("{name} is ready: look where the model doubts, then accept or correct.")
            else:
                sentence = _("{name} is ready: choose it under Review when you are done here.")
            self.widget.say(sentence.format(name=run.segmentationNode.GetName()))
        self.widget.refresh()

    def _isAwaited(self) -> bool:
        """Tell whether nobody looks at another animal, which the result of the run would take from under the hand."""
        if self.parameters is None:
            return False
        looksAt = self.parameters.inputVolume
        if self.parameters.segmentation is not None:
            looksAt = referenceVolume(self.parameters.segmentation)
        return looksAt is self._run.volumeNode

    # What is shown

    def refresh(self) -> None:
        """Show the run, and whether another one can be started."""
        whyNot = self._whyNotRun()
        enableUnless(whyNot, self.ui.runButton)
        isRunning = self.widget.isRunning()
        enableUnless("" if isRunning else _("Nothing is running."), self.ui.cancelButton)
        tell(self.ui.runReasonLabel, "" if isRunning else whyNot)
        self._showRun()

    def _whyNotRun(self) -> str:
        parameters = self.parameters
        if parameters is None:
            return _("The scene is being closed.")
        reason = self.logic.runs.canRun(
            parameters.inputVolume, parameters.checkpoint, parameters.regionOfInterest
        )
        return reason or self.widget.panels["Preflight"].refusal()

    def _showRun(self) -> None:
        ui, run = self.ui, self._run
        for widget in (ui.progressLabel, ui.timeLabel):
            widget.visible = run is not None
        ui.progressBar.visible = run is not None and run.state not in (State.FAILED, State.CANCELLED)
        enableUnless("" if run is not None else _("Nothing has run yet."), ui.copyLogButton)
        if run is None:
            tell(ui.warningsLabel, "")
            return
        ui.progressBar.value = round(100 * run.fraction)
        tell(ui.progressLabel, self._message())
        tell(ui.timeLabel, timesOf(run))
        warnings = [_("Warning: {text}").format(text=text) for text in run.warnings]
        # A note may say that contours which a person corrected were hidden: that must not be in the log alone.
        notes = [_("Note: {text}").format(text=text) for text in run.notes]
        tell(ui.warningsLabel, warnings + notes)
        log = run.logText
        if ui.logText.toPlainText() != log:
            ui.logText.setPlainText(log)
            ui.logText.moveCursor(qt.QTextCursor.End)

    def _message(self) -> str:
        """Return what goes on or how it ended, and with which volume where that is not the chosen one."""
        run = self._run
        text = run.message
        if run.state is State.DONE and run.segmentationNode is None:
            text = _("The contours of this run were removed from the scene.")
        isOfChosen = self.parameters is None or self.parameters.inputVolume is run.volumeNode
        if isOfChosen or run.error:  # an error names its volume itself
            return text
        return _("{volume}: {text}").format(volume=run.volumeNode.GetName(), text=text)


def timesOf(run) -> str:
    """Return how long a run took, or has taken so far and is expected to take."""
    soFar = clock(run.elapsedSeconds)
    if run.state in ENDED:
        return _("It took {time}.").format(time=soFar)
    if run.expectedSeconds is None:
        return _("{time} so far.").format(time=soFar)
    return _("{time} of about {expected}.").format(
        time=soFar, expected=clock(max(run.expectedSeconds, run.elapsedSeconds))
    )


def clock(seconds: float) -> str:
    """Return seconds as minutes:seconds, such as 1:05, or hours:minutes:seconds."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
