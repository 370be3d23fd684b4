"""Qt for tests: PySide6, offscreen, dressed as the `qt`, `ctk` and MRML widgets of desktop Slicer.

`start()` after `Testing.slicer_app.start()`. The stand-ins in `Testing/qt_stand_ins` prove that a .ui file parses, that
the objects a panel uses exist with the right properties and signals, wiring, enabling and disabling, two-way binding
and what users are told. They do not prove what the real widgets draw, nor layouts, ownership and overloads of
PythonQt; a stand-in has nothing that its `api` does not list of the real class. Where THORAXSEG_SLICER_SOURCE names a
checkout of Slicer, its own parameterNodeWrapper is used instead of the stand-in.
"""

from __future__ import annotations

import os
import sys
import tempfile
import types
from pathlib import Path

REQUIRED = "THORAXSEG_REQUIRE_QT"
"""Environment variable: 1 makes tests of widgets fail where Qt cannot be loaded, instead of being skipped."""
SLICER_SOURCE = "THORAXSEG_SLICER_SOURCE"
"""Environment variable: folder of a checkout of Slicer, to test against its own Python layer and headers."""
CTK_SOURCE = "THORAXSEG_CTK_SOURCE"
"""Environment variable: folder of a checkout of CTK, to compare its headers with our list."""


def whyNot() -> str:
    """Return why Qt cannot be used here, or "": PySide6 or a library of the system it needs is missing."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault("MPLBACKEND", "Agg")  # matplotlib would take the Qt it finds loaded
    try:
        from PySide6 import QtUiTools, QtWidgets  # noqa: F401
    except ImportError as error:
        return f"PySide6 cannot be loaded ({error})"
    return ""


def start():
    """Make `qt`, `ctk`, the MRML widgets and `slicer.parameterNodeWrapper` importable; return the QApplication."""
    import slicer

    if "qt" in sys.modules:
        return sys.modules["qt"].QApplication.instance()
    reason = whyNot()
    if reason:
        raise ImportError(reason)
    from PySide6 import QtCore, QtWidgets

    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["ThoraxSeg tests"])
    application.setStyle("Fusion")
    QtCore.QCoreApplication.setOrganizationName("ThoraxSeg")
    settings = tempfile.mkdtemp(prefix="thoraxseg-settings-")
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
    QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, settings)

    from Testing.qt_stand_ins import ctk, mrml, pythonqt, ui_files

    qt = pythonqt.enable()
    standIns = {}
    ctkModule = types.ModuleType("ctk")
    for module, target in ((ctk, ctkModule), (mrml, slicer)):
        for name, kind in vars(module).items():
            if getattr(kind, "isStandIn", False) and not name.startswith("_"):
                standIns[name] = kind
                ui_files.learn(kind)
                setattr(target, name, kind)
    pythonqt.UiLoader.standIns = standIns
    sys.modules.update(qt=qt, ctk=ctkModule)
    slicer.qt, slicer.ctk = qt, ctkModule
    _publishParameterNodes(slicer)
    _completeApplication(slicer.app, application)
    return application


def _publishParameterNodes(slicer) -> None:
    source = os.environ.get(SLICER_SOURCE)
    if source:
        from Testing.qt_stand_ins import slicer_python

        slicer_python.publish(Path(source))
        return
    from Testing.qt_stand_ins import parameter_nodes

    module = types.ModuleType("slicer.parameterNodeWrapper")
    for name in (
        "parameterNodeWrapper",
        "parameterPack",
        "Default",
        "WithinRange",
        "Minimum",
        "Maximum",
        "Choice",
    ):
        setattr(module, name, getattr(parameter_nodes, name))
    module.__all__ = [name for name in vars(module) if not name.startswith("_")]
    slicer.parameterNodeWrapper = sys.modules["slicer.parameterNodeWrapper"] = module


def _completeApplication(app, application) -> None:
    """Give the stand-in for slicer.app what it has in desktop Slicer because it is a QApplication."""
    from PySide6 import QtWidgets

    window = QtWidgets.QMainWindow()
    window.setObjectName("qSlicerMainWindow")
    app.topLevelWidgets = lambda: [window]
    app.processEvents = lambda *args: application.processEvents()
    app.setOverrideCursor = lambda cursor: application.setOverrideCursor(cursor)
    app.restoreOverrideCursor = application.restoreOverrideCursor
    app.clipboard = application.clipboard
    app.mainWindow = window  # kept: nobody else does


class Dialogs:
    """What users were told and asked, and the answers they give.

    `answers` are taken one by one: True for OK or Yes, False for Cancel or No; a question without one fails the test.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.details: list[str] = []
        self.infos: list[str] = []
        self.questions: list[str] = []
        self.answers: list[bool] = []
        self.paths: list[str] = []
        """What file dialogs return, one by one; "" for Cancel."""
        self.pathQuestions: list[str] = []

    def install(self) -> None:
        """Answer all dialogs from now on."""
        import ctk
        import qt

        ctk.ctkMessageBox.answer, qt.QFileDialog.answer = self.answer, self.answerPath

    def remove(self) -> None:
        """Let dialogs fail again that nobody answers."""
        import ctk
        import qt

        ctk.ctkMessageBox.answer = qt.QFileDialog.answer = None

    def answerPath(self, title: str) -> str:
        """Take the place of a person in front of a file dialog."""
        self.pathQuestions.append(title)
        if not self.paths:
            raise AssertionError(f"Nobody answers: {title}")
        return self.paths.pop(0)

    def answer(self, box):
        """Take the place of a person in front of a message box: see `ctkMessageBox.answer`."""
        import qt

        kinds = qt.QMessageBox
        buttons = box.standardButtons
        if box.icon == kinds.Critical:
            self.errors.append(box.text)
            self.details.append(box.detailedText)
            return kinds.Ok
        if not buttons & (kinds.Cancel | kinds.No):
            self.infos.append(box.text)
            return kinds.Ok
        self.questions.append(box.text)
        if not self.answers:
            raise AssertionError(f"Nobody answers: {box.text}")
        isYes = self.answers.pop(0)
        if buttons & kinds.Yes:
            return kinds.Yes if isYes else kinds.No
        return kinds.Ok if isYes else kinds.Cancel


def moduleParent():
    """Return what desktop Slicer gives a module's widget as parent: it has a layout and knows `isEntered`."""
    import qt
    import slicer

    class ModuleParent(slicer.qMRMLWidget):
        """Stand-in for qSlicerScriptedLoadableModuleWidget."""

        isEntered = False

    parent = ModuleParent()
    parent.setLayout(qt.QVBoxLayout())
    parent.setMRMLScene(slicer.mrmlScene)
    return parent


def processEvents(times: int = 3) -> None:
    """Let Qt do what waits: layouts, timers that are due, deferred deletions."""
    from PySide6 import QtCore, QtWidgets

    for _ in range(times):
        QtWidgets.QApplication.processEvents()
        QtWidgets.QApplication.sendPostedEvents(None, QtCore.QEvent.DeferredDelete)


def waitFor(condition, timeoutSeconds: float = 20.0) -> bool:
    """Let Qt run until a condition holds, or the time is over; return whether it holds."""
    import time

    end = time.monotonic() + timeoutSeconds
    while not condition():
        if time.monotonic() > end:
            return False
        processEvents(1)
        time.sleep(0.01)
    return True


def runningTimers(widget) -> list:
    """Return the timers that belong to a widget and run."""
    import qt

    return [timer for timer in widget.findChildren(qt.QTimer) if timer.active]


def escapedErrors() -> list[Exception]:
    """Return the list of what functions raised that a signal had called; a test that expects one empties it."""
    from Testing.qt_stand_ins import pythonqt

    return pythonqt.escaped


def isConnected(widget, signature: str) -> bool:
    """Tell whether anything listens to a signal, such as "clicked(bool)"."""
    from Testing.qt_stand_ins import pythonqt

    return pythonqt.isConnected(widget, signature)


def grab(widget, path, width: int = 460) -> Path:
    """Draw a widget as a picture, its window as wide as Slicer's module panel and as high as it wants to be."""
    from PySide6 import QtCore

    window = widget.window()
    window.setAttribute(QtCore.Qt.WA_DontShowOnScreen, True)
    window.resize(width, 50)
    window.show()
    for _ in range(3):  # labels that wrap want their height once they know their width
        processEvents()
        layout = window.layout()
        height = (
            layout.totalHeightForWidth(width) if layout is not None and layout.hasHeightForWidth() else -1
        )
        window.resize(width, max(height, window.sizeHint().height()))
    processEvents()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not widget.grab().save(str(path)):
        raise OSError(f"{path}: the picture could not be written.")
    return path
