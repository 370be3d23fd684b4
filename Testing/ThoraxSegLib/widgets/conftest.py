"""What tests of the panels use: Qt offscreen, dialogs that are answered, and the module's widget."""

from __future__ import annotations

import os

import pytest

from Testing import qt_app

_WHY_NOT = qt_app.whyNot()


@pytest.fixture
def qtApp(app):
    """Qt beside the application with its empty scene; messages are shown as to a user, not as in a self test."""
    if _WHY_NOT:
        message = f"{_WHY_NOT}; the panels need it"
        if os.environ.get(qt_app.REQUIRED) == "1":
            pytest.fail(message)
        pytest.skip(message)
    application = qt_app.start()
    app.is_testing = False
    escaped = qt_app.escapedErrors()
    escaped.clear()
    yield application
    qt_app.processEvents()
    assert not escaped, f"raised in a function that a signal called: {escaped}"


@pytest.fixture
def dialogs(qtApp):
    """What users are told and asked; see `qt_app.Dialogs`."""
    dialogs = qt_app.Dialogs()
    dialogs.install()
    yield dialogs
    dialogs.remove()


@pytest.fixture
def openModule(dialogs, home, monkeypatch):
    """Open a module with a task as a user does, and return its widget; it is closed with the test."""
    from ThoraxSegLib import Dependencies
    from ThoraxSegLib.Tasks import MOUSE_THORAX
    from ThoraxSegLib.Widget import ThoraxSegWidget

    monkeypatch.setattr(Dependencies, "missing", list)
    opened = []

    def make(task=MOUSE_THORAX):
        kind = type(f"{task.moduleName}Widget", (ThoraxSegWidget,), {"task": task})
        parent = qt_app.moduleParent()
        widget = kind(parent)
        widget.setup()
        parent.isEntered = True
        widget.enter()
        qt_app.processEvents()
        opened.append(widget)
        return widget

    yield make
    for widget in opened:
        widget.cleanup()
        widget.parent.deleteLater()
    qt_app.processEvents()


@pytest.fixture
def module(openModule, mouse):
    """The widget of MouseThoraxSeg, opened with a painted mouse in the scene."""
    return openModule()
