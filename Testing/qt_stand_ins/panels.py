"""What tests ask of every panel: that its widgets exist and are wired, that what is off says why, that nothing is cut.

`result_with_doubt` puts contours with a map of doubt into the scene, as a run leaves them.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np

from Testing import made_results, qt_app


def choose(panel, node) -> None:
    """Choose contours as in the selector of the panel, and let the panels show them."""
    panel.parameters.segmentation = node
    qt_app.processEvents()


def missing_widgets(panel) -> list[str]:
    """Return the names that the panel's source uses and its .ui file does not have."""
    used = set(re.findall(r"\bui\.([a-zA-Z]\w*)", inspect.getsource(type(panel))))
    return sorted(name for name in used if not hasattr(panel.ui, name))


def unwired_buttons(panel) -> list[str]:
    """Return the names of the buttons of the .ui file that nothing listens to."""
    import qt

    buttons = [one for one in panel.root.findChildren(qt.QPushButton) if hasattr(panel.ui, one.objectName)]
    return sorted(one.objectName for one in buttons if not qt_app.isConnected(one, "clicked(bool)"))


def off_without_reason(panel) -> list[str]:
    """Return the names of the buttons that are off and whose tooltip does not say why."""
    import qt

    from ThoraxSegLib.Panels.Parts import OWN_TIP

    buttons = [one for one in panel.root.findChildren(qt.QPushButton) if hasattr(panel.ui, one.objectName)]
    return sorted(
        one.objectName for one in buttons if not one.enabled and one.toolTip in ("", one.property(OWN_TIP))
    )


def shown(label) -> str:
    """Return the text of a label, "" where it is hidden."""
    return "" if label.isHidden() else label.text


def cut_texts(panel) -> list[str]:
    """Return the names of visible widgets with text that are narrower or lower than it needs."""
    import qt

    widgets = [
        one
        for kind in (qt.QPushButton, qt.QCheckBox, qt.QLabel, qt.QComboBox, qt.QLineEdit, qt.QAbstractSpinBox)
        for one in panel.root.findChildren(kind)
        if one.visible and getattr(one, "text", True) and not one.objectName.startswith("qt_")
    ]
    found = []
    for one in widgets:
        wraps = getattr(one, "wordWrap", False)
        needed = one.heightForWidth(one.width) if wraps else one.sizeHint().height()
        if one.height < needed or (not wraps and one.width < one.sizeHint().width()):
            found.append(f"{one.objectName} ({one.width} x {one.height})")
    return sorted(found)


def picture(panel, path: Path) -> Path:
    """Open a panel, draw it as wide as Slicer's module panel, and check that no text is cut."""
    opener = next(one for name, one in vars(panel.ui).items() if name.endswith("CollapsibleButton"))
    opener.collapsed = False
    panel.root.setParent(None)  # the layout around it would have a say in its size
    qt_app.processEvents()
    for _ in range(4):  # wrapped texts tell their height only once they have their width
        qt_app.grab(panel.root, path)
    assert not cut_texts(panel), cut_texts(panel)
    return path


def chart_shown():
    """Return the chart that was last shown in a plot view."""
    import slicer

    return slicer.mrmlScene.GetNodeByID(
        slicer.app.applicationLogic().GetSelectionNode().GetActivePlotChartID()
    )


def click_title(view, section: int) -> None:
    """Click on a column title of a table."""
    view.horizontalHeader().sectionClicked.emit(section)


def click_row(view, row: int) -> None:
    """Click on a row of a table."""
    view.clicked.emit(view.model().index(row, 0))


def check(listWidget, row: int, isChecked: bool = True) -> None:
    """Set the check box of a row of a list, as a click does."""
    import qt

    listWidget.item(row).setCheckState(qt.Qt.Checked if isChecked else qt.Qt.Unchecked)


def names_of(listWidget) -> dict[str, bool]:
    """Return the names in a list and whether they are checked."""
    import qt

    items = [listWidget.item(row) for row in range(listWidget.count)]
    return {one.text(): one.checkState() == qt.Qt.Checked for one in items}


def result_with_doubt(
    volumeNode, phantom, task: str, slices=(0.5, 0.25), record=None, checkpoint="painted-thorax"
):
    """Return the true contours of a phantom as a result, doubted most in the slices at these shares of the stack.

    The first slice is doubted most.
    """
    labels = phantom.truth.labels
    doubt = np.zeros(labels.shape, np.float32)
    filled = np.flatnonzero((labels > 0).any(axis=(1, 2)))
    for n, share in enumerate(slices):
        k = filled[int(share * (len(filled) - 1))]
        doubt[k][labels[k] > 0] = 0.9 / (n + 1)
    record = {"uncertainty": {"kind": "entropy", "unit": "nat", "range": [0.0, 1.0]}} | (record or {})
    return made_results.put_result(
        volumeNode, labels, phantom.truth.structures, task, doubt, record, checkpoint
    )
