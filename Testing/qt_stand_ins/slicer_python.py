"""Slicer's own parameterNodeWrapper from a checkout, in place of the stand-in: to see that both say the same.

No wheel brings Slicer's Python layer and we do not copy it, so this runs where somebody has a checkout; see
`Testing.qt_app.SLICER_SOURCE`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

FURTHER_WIDGETS = {
    "ctk": (
        *("ctkCheckablePushButton", "ctkColorPickerButton", "ctkDirectoryButton", "ctkDoubleRangeSlider"),
        *("ctkDoubleSlider", "ctkRangeWidget"),
    ),
    "slicer": ("qMRMLRangeWidget", "qMRMLSpinBox"),
}
"""Classes that Slicer's connectors ask for and that we do not use."""


def publish(source: Path) -> None:
    """Make `slicer.parameterNodeWrapper` that of the checkout."""
    import qt
    import slicer

    for module, names in FURTHER_WIDGETS.items():
        for name in names:
            if not hasattr(sys.modules[module], name):
                setattr(sys.modules[module], name, type(name, (qt.QWidget,), {}))
    slicer.__path__.append(str(source / "Base" / "Python" / "slicer"))
    slicer.parameterNodeWrapper = importlib.import_module("slicer.parameterNodeWrapper")
