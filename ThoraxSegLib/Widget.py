"""The widget of both modules: makes the panels, keeps the parameter node, looks at what runs, tells errors."""

from __future__ import annotations

import importlib
import logging
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import slicer
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from thoraxseg import RESEARCH_USE
from thoraxseg.errors import ThoraxSegError
from ThoraxSegLib import Panels
from ThoraxSegLib.Logic import ThoraxSegLogic

if TYPE_CHECKING:
    from ThoraxSegLib.Parameters import ThoraxSegParameterNode
    from ThoraxSegLib.Tasks import Task

logger = logging.getLogger(__name__)

LOOK_EVERY_MS = 200
"""How often the run and the ledger of times are looked at."""


class ThoraxSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Everything the user sees, for the task that a module's subclass names."""

    task: Task
    """What is contoured; set by the module's subclass."""

    def __init__(self, parent=None) -> None:
        self.logic: ThoraxSegLogic | None = None
        self.parameters: ThoraxSegParameterNode | None = None
        """What is chosen; None while the scene is being closed."""
        self.panels: dict[str, Any] = {}
        """The panels by name, in order; see `Panels.ORDER`."""
        self._guiTags: list[int] = []
        VTKObservationMixin.__init__(self)
        ScriptedLoadableModuleWidget.__init__(self, parent)

    # What Slicer calls

    def setup(self) -> None:
        """Make everything; called when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = self.createLogic()
        self.root = Panels.loadUi("ThoraxSeg")
        self.layout.addWidget(self.root)
        self.ui = slicer.util.childWidgetVariables(self.root)
        self.ui.statusLabel.text = self.task.summary
        self.ui.researchUseLabel.text = RESEARCH_USE

        self._refreshTimer = self._timer(0, self.refresh, isOnce=True)
        self._lookTimer = self._timer(LOOK_EVERY_MS, self.look)
        for name in Panels.ORDER:
            module = importlib.import_module(f"ThoraxSegLib.Panels.{name}Panel")
            panel = self.panels[name] = getattr(module, f"{name}Panel")(self)
            getattr(self.ui, f"{name[0].lower()}{name[1:]}Place").layout().addWidget(panel.root)
            panel.root.setMRMLScene(slicer.mrmlScene)
        self.root.setMRMLScene(slicer.mrmlScene)
        for panel in self.panels.values():
            panel.setup()

        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent):
            self.addObserver(scene, event, self.scheduleRefresh)
        self.initializeParameterNode()
        self.refresh()

    def cleanup(self) -> None:
        """End everything: timers, observers, the child process; called when the module or Slicer is closed."""
        for name in ("_refreshTimer", "_lookTimer"):
            if hasattr(self, name):
                getattr(self, name).stop()
        self.setParameterNode(None)
        for panel in self.panels.values():
            panel.cleanup()
        self.removeObservers()
        if self.logic is not None:
            self.logic.close()

    def enter(self) -> None:
        """Begin to look; called each time the module is opened."""
        self.initializeParameterNode()
        for panel in self.panels.values():
            panel.enter()
        self.refresh()
        self._lookTimer.start()

    def exit(self) -> None:
        """Stop reacting to parameters; called each time another module is opened. What goes on is followed."""
        for panel in self.panels.values():
            panel.exit()
        self._disconnectGui()
        if not self.isBusy:
            self._lookTimer.stop()

    def onSceneStartClose(self, caller=None, event=None) -> None:
        """Let go of all nodes."""
        self.setParameterNode(None)
        for panel in self.panels.values():
            panel.onSceneClosing()
        self.ui.statusLabel.text = self.task.summary  # what was said last was of nodes that are gone

    def onSceneEndClose(self, caller=None, event=None) -> None:
        """Begin anew, at once where the module is shown."""
        if self.isShown:
            self.initializeParameterNode()
        self.scheduleRefresh()

    def onSceneEndImport(self, caller=None, event=None) -> None:
        """Show the parameters that came with a loaded scene."""
        if self.isShown:
            self.initializeParameterNode()
        self.scheduleRefresh()

    @property
    def isShown(self) -> bool:
        """Whether the module is the one that is open; one that was made without a module panel always is."""
        return getattr(self.parent, "isEntered", True)

    # Parameters

    def createLogic(self) -> ThoraxSegLogic:
        """Return the logic that the widget works with; a module's subclass returns its own."""
        return ThoraxSegLogic(self.task)

    def initializeParameterNode(self) -> None:
        """See to it that parameters are there and observed, and a volume is chosen if the scene has one."""
        from ThoraxSegLib.Parameters import ThoraxSegParameterNode

        self.setParameterNode(ThoraxSegParameterNode(self.logic.getParameterNode()))
        if self.parameters.inputVolume is None:
            volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            from ThoraxSegLib.Nodes import KIND_ATTRIBUTE

            images = [
                node
                for node in volumes
                if node.GetAttribute(KIND_ATTRIBUTE) is None and not node.IsA("vtkMRMLLabelMapVolumeNode")
            ]
            if images:
                self.parameters.inputVolume = images[0]

    def setParameterNode(self, parameters: ThoraxSegParameterNode | None) -> None:
        """Bind the widgets to these parameters and to no others; None binds them to nothing."""
        self._disconnectGui()
        self.parameters = parameters
        if parameters is None:
            return
        for panel in self.panels.values():
            self._guiTags.append(parameters.connectGui(panel.ui))
        self.addObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.scheduleRefresh)

    def _disconnectGui(self) -> None:
        if self.parameters is not None:
            for tag in self._guiTags:
                self.parameters.disconnectGui(tag)
            node = self.parameters.parameterNode
            if self.hasObserver(node, vtk.vtkCommand.ModifiedEvent, self.scheduleRefresh):
                self.removeObserver(node, vtk.vtkCommand.ModifiedEvent, self.scheduleRefresh)
        self._guiTags = []

    # What goes on

    def isRunning(self) -> bool:
        """Tell whether a run goes on."""
        from thoraxseg.job import State

        run = self.logic.runs.current if self.logic is not None else None
        return run is not None and run.state in (State.STARTING, State.RUNNING)

    @property
    def isBusy(self) -> bool:
        """Whether something goes on that must be followed even while another module is shown."""
        return any(panel.isBusy for panel in self.panels.values())

    def look(self) -> None:
        """Let every panel see what has changed by itself; the timer calls it."""
        for panel in self.panels.values():
            panel.tick()
        if not self.isBusy and not self.isShown:
            self._lookTimer.stop()

    def scheduleRefresh(self, caller=None, event=None) -> None:
        """Refresh the panels as soon as Qt has time: many changes at once are one refresh."""
        self._refreshTimer.start()

    def refresh(self) -> None:
        """Let every panel show what is the case now."""
        self._refreshTimer.stop()
        for panel in self.panels.values():
            panel.refresh()

    # What the user is told

    def say(self, sentence: str) -> None:
        """Show a sentence in the status line of the module and of Slicer."""
        from ThoraxSegLib.Panels.Parts import tell

        tell(self.ui.statusLabel, sentence)
        slicer.util.showStatusMessage(sentence, 10000)

    def showError(self, sentence: str, details: str = "") -> None:
        """Show a message with a sentence; the details fold out and can be copied."""
        self.say(sentence.splitlines()[0])
        more = {"detailedText": details} if details else {}
        slicer.util.errorDisplay(sentence, windowTitle=self.task.title, textFormat=_plainText(), **more)

    def run(self, work: Callable[[], Any], doing: str) -> Any:
        """Return what `work()` returns; when it fails, tell the user that `doing` failed and why, and return None.

        An error that is none of ours is a defect: it is raised again after the user was told, so that it is logged and
        fails a test.
        """
        try:
            with slicer.util.tryWithErrorDisplay(show=False, waitCursor=True):
                return work()
        except ThoraxSegError as error:
            self.showError(f"{doing}\n\n{error}")
        except Exception as error:
            self.showError(f"{doing}\n\n{type(error).__name__}: {error}", traceback.format_exc())
            raise
        return None

    def confirm(self, question: str) -> bool:
        """Ask the user a question; True for yes. While Slicer runs tests nobody is asked, and the answer is yes."""
        return slicer.util.confirmYesNoDisplay(question, windowTitle=self.task.title, textFormat=_plainText())

    def _timer(self, interval: int, function: Callable[[], None], isOnce: bool = False):
        import qt

        timer = qt.QTimer(self.root)
        timer.interval = interval
        timer.setSingleShot(isOnce)
        timer.connect("timeout()", function)
        return timer


def _plainText():
    """Return the text format in which a message box takes nothing for markup: names come from files and people.

    Qt is imported where it is used: a module file, and with it this one, can so be read where there is no Qt.
    """
    import qt

    return qt.Qt.PlainText
