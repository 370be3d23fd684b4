"""Mouse Thorax Segmentation: heart, spinal cord and both lungs of mice in micro-CT.

A shell: the panel, the logic and the self test are `ThoraxSegLib`, the numbers come from `thoraxseg`.
"""

import sys
from pathlib import Path

import slicer
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule

# In an installed extension the shared packages lie beside this file, whose folder Slicer puts on sys.path. In a
# checkout they lie one folder up, which nobody puts there; first, so that no older installed copy takes their place.
if (Path(__file__).resolve().parents[1] / "ThoraxSegLib").is_dir():
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Slicer finds the classes below as attributes of this file once it has run, and asks for MouseThoraxSegWidget at
# startup already (a module without it gets no panel). So their bases cannot be imported later; they are light, and
# what is heavy they import when it is used. SelfTest is not imported by name: ctest runs every test class found here.
from ThoraxSegLib import Module, SelfTest
from ThoraxSegLib.Logic import ThoraxSegLogic
from ThoraxSegLib.Tasks import MOUSE_THORAX
from ThoraxSegLib.Widget import ThoraxSegWidget


class MouseThoraxSeg(ScriptedLoadableModule):
    """What the module selector and the help panel show."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = MOUSE_THORAX.title
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = list(Module.DEPENDENCIES)
        parent.contributors = list(Module.CONTRIBUTORS)
        parent.helpText = Module.helpText(MOUSE_THORAX)
        parent.acknowledgementText = Module.acknowledgementText()
        slicer.app.connect("startupCompleted()", _registerSampleData)


def _registerSampleData():
    """Offer the sample data of ThoraxSeg in the Sample Data module."""
    from ThoraxSegLib.SampleData import registerSampleData

    registerSampleData()


class MouseThoraxSegWidget(ThoraxSegWidget):
    """The panel."""

    task = MOUSE_THORAX

    def createLogic(self):
        """Return the logic of this module."""
        return MouseThoraxSegLogic()

    def onReload(self):
        """Reload what lies beside this file too: Slicer executes the module file only."""
        Module.forgetSharedPackages()
        ThoraxSegWidget.onReload(self)


class MouseThoraxSegLogic(ThoraxSegLogic):
    """Everything the panel does, for scripts: `MouseThoraxSegLogic().runs.start(volumeNode, checkpointName)`."""

    task = MOUSE_THORAX


class MouseThoraxSegTest(SelfTest.SelfTest):
    """What *Reload and Test* and ctest run."""

    task = MOUSE_THORAX
