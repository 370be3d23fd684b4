"""The panels, one file each, in the order in which work goes; what all of them share is here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import slicer

if TYPE_CHECKING:
    from ThoraxSegLib.Widget import ThoraxSegWidget

ORDER = ("Inputs", "Preflight", "Run", "Review", "Measurements", "Cleaning", "Time", "Observers")
"""Names of the panels from top to bottom; each is the class `<name>Panel` in `ThoraxSegLib/Panels/<name>Panel.py`."""
UI_FOLDER = Path(__file__).parents[1] / "Resources" / "UI"


class Panel:
    """One section of the module: its .ui file, and what its widgets do with the logic.

    The widget makes it, calls `setup` once, `refresh` whenever parameters, the scene or a run changed (also without a
    parameter node: then `widget.parameters` is None), and `cleanup` once.
    """

    uiName = ""
    """Name of the .ui file, without ending; else that of the class."""

    def __init__(self, widget: ThoraxSegWidget) -> None:
        self.widget = widget
        self.root = loadUi(self.uiName or type(self).__name__)
        self.ui = slicer.util.childWidgetVariables(self.root)

    @property
    def logic(self):
        """The logic of the module."""
        return self.widget.logic

    @property
    def parameters(self):
        """The parameters of the module, or None while the scene is being closed."""
        return self.widget.parameters

    @property
    def isBusy(self) -> bool:
        """Whether something goes on that `tick` must follow even while another module is shown."""
        return False

    def setup(self) -> None:
        """Connect the widgets; called once."""

    def refresh(self) -> None:
        """Show what is the case now; enable and disable buttons, each with a tooltip that says why."""

    def tick(self) -> None:
        """Called several times a second while the module is shown or a panel is busy: must be quick."""

    def enter(self) -> None:
        """The module is shown from now on; `refresh` follows."""

    def exit(self) -> None:
        """Another module is shown from now on."""

    def onSceneClosing(self) -> None:
        """Forget all nodes."""

    def cleanup(self) -> None:
        """Stop timers and remove observers; called once, at the end."""


def loadUi(name: str):
    """Return the widget that `Resources/UI/<name>.ui` describes."""
    return slicer.util.loadUI(str(UI_FOLDER / f"{name}.ui"))
